//! The gateway where libvirt's daemons would be: started by the command line, in libvirt's own directory, and in the way of
//! many who say nothing, beside libvirtd.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bulkhead_tests::{
    Client, Gateway, Guest, Handle, Instance, LONG, Libvirtd, Role, Signal, run, wait_for_file, wait_for_removal,
};

#[test]
fn the_command_line_becomes_the_gateway() {
    const TEST: &str = "the_command_line_becomes_the_gateway";
    if !Client::Virsh.is_here(TEST) {
        return;
    }
    let instance = Instance::session();
    instance.define(&Guest::tiny("a"));
    let mut command = instance.command(&["gateway"]);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let socket = instance.runtime_dir().join("libvirt/libvirt-sock");
    assert!(wait_for_file(&instance.runtime_dir(), LONG));
    assert!(wait_for_file(&socket.with_file_name(""), LONG) && wait_for_file(&socket, LONG));
    let launcher = Handle::open(child.id()).unwrap();
    let mut virsh = Command::new("/usr/bin/virsh");
    virsh.args(["-c", &format!("qemu+unix:///session?socket={}", socket.display()), "list", "--all", "--name"]);
    instance.prepare(&mut virsh, instance.uid());
    let listed = run(virsh);
    assert_eq!((listed.code, listed.stdout.trim()), (0, "a"), "{}", listed.stderr);
    let gateways: Vec<u32> = instance.role(Role::Gateway).iter().map(|process| process.pid).collect();
    assert_eq!(gateways, [child.id()], "it became the gateway");
    launcher.signal(Signal::TERM);
    assert!(launcher.wait_for_end(LONG));
    assert!(child.wait().unwrap().success());
    assert!(wait_for_removal(&socket, LONG));
}

/// A host that has given libvirt's place to us: in a mount namespace, because this host has not.
#[test]
fn in_libvirts_own_directory_a_plain_virsh_finds_it() {
    const TEST: &str = "in_libvirts_own_directory_a_plain_virsh_finds_it";
    const SCRIPT: &str = r#"
        set -e
        mount -t tmpfs tmpfs /run
        mkdir /run/libvirt
        mkfifo /run/said
        "$1" --system --root "$0" --announce >/run/said &
        read -r said </run/said
        trap 'kill $!; wait $!; echo "left: $(ls /run/libvirt)"' EXIT
        echo "said: $said"
        virsh uri
        virsh list --name
        setpriv --reuid 23456 --regid 23456 --clear-groups virsh -r -c qemu:///system list --name
        ls /run/libvirt
    "#;
    if !Client::Virsh.is_here(TEST) {
        return;
    }
    let Some(instance) = Instance::system(TEST) else { return };
    instance.create(&Guest::tiny("a"));
    fs::write(instance.config_dir().join("gateway.conf"), "socket_dir = /run/libvirt\n").unwrap();
    // Others than root come by the root's directory to what runs in it.
    fs::set_permissions(instance.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("/usr/bin/unshare");
    command.args(["--mount", "/bin/sh", "-c", SCRIPT]).arg(instance.root()).arg(instance.program("gateway"));
    instance.prepare(&mut command, 0);
    let output = run(command);
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    let lines: Vec<&str> = output.stdout.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[..4], ["said: ready", "qemu:///system", "a", "a"], "{}{}", output.stdout, output.stderr);
    assert_eq!(lines.last(), Some(&"left: "), "{}", output.stdout);
    for (socket, there) in
        [("libvirt-sock", true), ("libvirt-sock-ro", true), ("virtqemud-sock", true), ("virtxend-sock", false)]
    {
        assert_eq!(lines.contains(&socket), there, "{socket}: {}", output.stdout);
    }
}

/// As many as libvirtd serves before they have logged in, by its own default.
const ANONYMOUS: usize = 20;

/// Is a virsh answered in this time?
fn is_served(uri: &str, instance: &Instance, seconds: &str) -> bool {
    let mut command = Command::new("/usr/bin/timeout");
    command.args([seconds, "virsh", "-c", uri, "hostname"]);
    instance.prepare(&mut command, 0);
    let output = run(command);
    assert!(matches!(output.code, 0 | 124), "{}", output.stderr);
    output.code == 0
}

fn silent(socket: &Path) -> Vec<UnixStream> {
    (0..ANONYMOUS).map(|_| UnixStream::connect(socket).unwrap()).collect()
}

#[test]
fn twenty_who_say_nothing_stop_libvirtd_and_not_the_gateway() {
    const TEST: &str = "twenty_who_say_nothing_stop_libvirtd_and_not_the_gateway";
    if !Client::Virsh.is_here(TEST) {
        return;
    }
    let Some(libvirtd) = Libvirtd::with_polkit(TEST) else { return };
    let Some(instance) = Instance::system(TEST) else { return };
    let gateway = Gateway::start(&instance);
    let sides: [(PathBuf, String, bool); 2] =
        [(libvirtd.socket(), libvirtd.uri(), false), (gateway.socket(), gateway.uri(), true)];
    for (socket, uri, serves) in sides {
        let held = silent(&socket);
        // That nobody is served shows in a few seconds; who is served may take its time on a busy machine.
        let seconds = if serves { "60" } else { "5" };
        assert_eq!(is_served(&uri, &instance, seconds), serves, "{uri} with {ANONYMOUS} silent ones");
        drop(held);
        assert!(is_served(&uri, &instance, "60"), "{uri} without them");
    }
}
