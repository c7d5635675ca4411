//! libvirt's own clients, unchanged.

use std::{fs, process::Command, time::Instant};

use bulkhead_tests::{Guest, LONG, PROMPT, Terminal, boot_permit, run};

use crate::rig::{Rig, has};

const VIRSH: &str = "virsh";

#[test]
fn virsh_leads_a_guest_through_its_life() {
    let test = "virsh_leads_a_guest_through_its_life";
    if !has(VIRSH, test) {
        return;
    }
    let Some(rig) = Rig::system(test, "") else { return };
    let guest = Guest::tiny("life");
    let document = rig.instance.document(&guest);
    rig.virsh_ok(&["define", document.to_str().unwrap()]);
    assert!(rig.virsh_ok(&["list", "--all"]).contains("life   shut off"));
    rig.virsh_ok(&["start", "life"]);
    assert_eq!(rig.instance.state("life"), "running (booted)");
    assert!(rig.virsh_ok(&["dominfo", "life"]).contains("State:          running"));
    rig.virsh_ok(&["suspend", "life"]);
    assert!(rig.virsh_ok(&["domstate", "--reason", "life"]).starts_with("paused (user)"));
    rig.virsh_ok(&["resume", "life"]);
    assert!(rig.virsh_ok(&["dumpxml", "life"]).contains("<name>life</name>"));
    rig.virsh_ok(&["destroy", "life"]);
    rig.virsh_ok(&["undefine", "life"]);
    let output = rig.virsh(&["dominfo", "life"]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("failed to get domain 'life'"), "{}", output.stderr);
    assert!(rig.virsh_ok(&["version"]).contains("Using library: libvirt"));
}

#[test]
fn virsh_finds_the_test_driver_and_what_is_not_there() {
    let test = "virsh_finds_the_test_driver_and_what_is_not_there";
    if !has(VIRSH, test) {
        return;
    }
    let rig = Rig::session("");
    let list = run(rig.virsh_command("test:///default", &["list"]));
    assert!(list.stdout.contains("1    test   running"), "{}{}", list.stdout, list.stderr);
    let reset = run(rig.virsh_command("test:///default", &["suspend", "test"]));
    assert_eq!(reset.code, 0, "{}", reset.stderr);
    let none = run(rig.virsh_command("lxc:///system", &["list"]));
    assert_eq!(none.code, 1);
    assert!(none.stderr.contains("no connection driver available for"), "{}", none.stderr);
}

#[test]
fn a_session_s_qemud_is_started_for_its_first_client() {
    let test = "a_session_s_qemud_is_started_for_its_first_client";
    if !has(VIRSH, test) {
        return;
    }
    let rig = Rig::session("");
    assert!(!rig.instance.socket().exists());
    assert!(rig.virsh_ok(&["list", "--all"]).contains("Name"));
    assert!(rig.instance.socket().exists());
}

#[test]
fn virsh_may_only_look_through_the_read_only_socket() {
    let test = "virsh_may_only_look_through_the_read_only_socket";
    if !has(VIRSH, test) {
        return;
    }
    let Some(rig) = Rig::system(test, "") else { return };
    rig.instance.create(&Guest::tiny("seen"));
    let socket = rig.read_only_socket();
    let uri = format!("qemu+unix:///system?socket={}", socket.display());
    let virsh = |arguments: &[&str]| {
        let mut command = Command::new(VIRSH);
        command.args(["-r", "-c", &uri]).args(arguments);
        rig.instance.prepare(&mut command, crate::rig::SOMEBODY);
        run(command)
    };
    assert!(virsh(&["list"]).stdout.contains("seen   running"));
    let denied = virsh(&["destroy", "seen"]);
    assert!(denied.stderr.contains("read only access prevents virDomainDestroy"), "{}", denied.stderr);
    assert_eq!(rig.instance.state("seen"), "running (booted)");
}

#[test]
fn virsh_hears_what_happens() {
    let test = "virsh_hears_what_happens";
    if !has(VIRSH, test) {
        return;
    }
    let rig = Rig::session("");
    let arguments = ["event", "--loop", "--event", "lifecycle"];
    let mut events = Terminal::on_pty(rig.virsh_command(rig.instance.uri(), &arguments));
    // It says nothing when it listens: the definitions are repeated until one of them is heard.
    let deadline = Instant::now() + LONG;
    while !events.output.text().contains("'lifecycle' for domain 'probe': Defined") {
        assert!(Instant::now() < deadline, "virsh reports no definition of 'probe': {}", events.output.text());
        rig.instance.define(&Guest::tiny("probe"));
        rig.instance.ok(&["undefine", "probe"]);
    }
    rig.instance.create(&Guest::tiny("heard"));
    events.expect("event 'lifecycle' for domain 'heard': Started Booted");
    rig.instance.ok(&["destroy", "heard"]);
    events.expect("event 'lifecycle' for domain 'heard': Stopped Destroyed");
}

#[test]
fn virsh_types_on_a_console() {
    let test = "virsh_types_on_a_console";
    if !has(VIRSH, test) {
        return;
    }
    let rig = Rig::session("");
    let guest = rig.instance.linux("typed");
    rig.instance.define(&guest);
    let _permit = boot_permit();
    let mut console = Terminal::on_pty(rig.virsh_command(rig.instance.uri(), &["start", "--console", "typed"]));
    console.expect(PROMPT);
    console.send(b"echo gate$((3 + 4))way\n");
    console.expect("gate7way");
    // Escape.
    console.send(b"\x1d");
    assert_eq!(console.exit(), 0);
    rig.instance.ok(&["destroy", "typed"]);
}

#[test]
fn libvirt_python_works_as_it_does_with_libvirtd() {
    let test = "libvirt_python_works_as_it_does_with_libvirtd";
    if !fs::exists("/usr/lib/python3/dist-packages/libvirt.py").unwrap_or(false) {
        bulkhead_tests::skip(test, "python3-libvirt is not installed");
        return;
    }
    let rig = Rig::session("");
    let document = Guest::tiny("snake").xml();
    let script = format!(
        r#"
import libvirt, sys, threading
libvirt.registerErrorHandler(lambda _, error: None, None)
libvirt.virEventRegisterDefaultImpl()
def run():
    while True: libvirt.virEventRunDefaultImpl()
threading.Thread(target=run, daemon=True).start()
c = libvirt.open("{uri}")
seen, done = [], threading.Event()
def heard(c, d, event, detail, opaque):
    seen.append((d.name(), event))
    if event == libvirt.VIR_DOMAIN_EVENT_STOPPED: done.set()
c.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, heard, None)
c.setKeepAlive(5, 3)
d = c.defineXML("""{document}""")
d.create()
assert d.state()[0] == libvirt.VIR_DOMAIN_RUNNING, d.state()
assert [x.name() for x in c.listAllDomains()] == ["snake"]
assert c.isAlive() and c.isSecure()
d.destroy()
assert done.wait(60)
assert ("snake", libvirt.VIR_DOMAIN_EVENT_STARTED) in seen, seen
d.undefine()
try:
    c.lookupByName("snake")
except libvirt.libvirtError as e:
    assert e.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN, e
else:
    raise SystemExit("found what is gone")
c.close()
print("fine")
"#,
        uri = rig.uri(rig.instance.uri()),
    );
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", &script]);
    rig.instance.prepare(&mut command, rig.instance.uid());
    let output = run(command);
    assert_eq!((output.code, output.stdout.as_str()), (0, "fine\n"), "{}{}", output.stderr, rig.gateway.log());
}
