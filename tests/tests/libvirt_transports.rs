//! Our client by every way but a plain Unix socket: TLS, TCP with a password, ssh, another program; to our gateway and to
//! Debian's libvirtd. And libvirt's client by ssh to our gateway.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use bulkhead_tests::{
    Authority, Gateway, Guest, Identity, Instance, LONG, Libvirtd, Output, PROMPT, Role, Signal, Terminal, Watch,
    boot_permit, free_port, run, skip, wait_until,
};

/// A directory with what one side shows by TLS.
fn pki(instance: &Instance, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = instance.root().join(name);
    fs::create_dir(&dir).unwrap();
    for (file, text) in files {
        fs::write(dir.join(file), text).unwrap();
        fs::set_permissions(dir.join(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
    dir
}

/// What a client of an authority has.
fn client_files<'a>(authority: &'a Authority, identity: &'a Identity) -> [(&'static str, &'a str); 3] {
    [
        ("cacert.pem", &authority.certificate),
        ("clientcert.pem", &identity.certificate),
        ("clientkey.pem", &identity.key),
    ]
}

fn command(instance: &Instance, uri: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(instance.program("bulkhead"));
    command.args(["-c", uri]).args(arguments);
    instance.prepare(&mut command, instance.uid());
    command
}

fn bulkhead(instance: &Instance, uri: &str, arguments: &[&str]) -> Output {
    run(command(instance, uri, arguments))
}

#[track_caller]
fn ok(instance: &Instance, uri: &str, arguments: &[&str]) -> String {
    let output = bulkhead(instance, uri, arguments);
    assert_eq!(output.code, 0, "{uri} {arguments:?}: {}{}", output.stdout, output.stderr);
    output.stdout
}

/// An error of a connection that must not come about.
#[track_caller]
fn refused(instance: &Instance, uri: &str, text: &str) {
    let output = bulkhead(instance, uri, &["list"]);
    assert_ne!(output.code, 0, "{uri} is let in");
    assert!(output.stderr.contains(text), "{uri}: {}", output.stderr);
}

/// Whether nobody can read along, and whether it is encrypted.
fn security(uri: &str) -> (bool, bool) {
    let connection = libclient::Connection::open(uri).unwrap();
    (connection.is_secure().unwrap(), connection.is_encrypted().unwrap())
}

/// A guest's short life by a URI, and what is said of it across the death of qemud.
fn lives(instance: &Instance, uri: &str) {
    let document = instance.document(&Guest::tiny("a"));
    let mut watch = Watch::start(command(instance, uri, &["--output", "json", "event", "--loop", "--since", "0"]));
    ok(instance, uri, &["define", document.to_str().unwrap()]);
    watch.expect("a", "defined", "added");
    ok(instance, uri, &["start", "a"]);
    watch.expect("a", "started", "booted");
    let control = instance.role(Role::Control).into_iter().next().unwrap();
    control.handle().unwrap().signal(Signal::KILL);
    ok(instance, uri, &["suspend", "a"]);
    watch.expect("a", "suspended", "paused");
    assert!(ok(instance, uri, &["list"]).contains("paused"));
    ok(instance, uri, &["destroy", "a"]);
    watch.expect("a", "stopped", "destroyed");
}

struct ByTls {
    gateway: Gateway,
    instance: Instance,
    authority: Authority,
    port: u16,
}

fn by_tls(configuration: &str) -> ByTls {
    let instance = Instance::session();
    // Its directories are there once it has been asked something.
    instance.ok(&["list"]);
    let authority = Authority::new("the authority");
    let server = authority.sign("server", 1);
    let files = [("ca.pem", &*authority.certificate), ("cert.pem", &server.certificate), ("key.pem", &server.key)];
    let dir = pki(&instance, "server", &files);
    let port = free_port();
    let configuration = format!(
        "listen_tls = yes\nlisten_addresses = 127.0.0.1 127.0.0.2\ntls_port = {port}\ntls_authority = {0}/ca.pem\n\
         tls_certificate = {0}/cert.pem\ntls_key = {0}/key.pem\n{configuration}",
        dir.display()
    );
    let gateway = Gateway::start_with(&instance, &configuration);
    ByTls { gateway, instance, authority, port }
}

#[test]
fn our_client_comes_by_tls_and_knows_with_whom_it_speaks() {
    let ByTls { gateway, instance, authority, port } = by_tls("");
    let ann = authority.sign("ann", 7);
    let good = client_files(&authority, &ann);
    let by = |host: &str, dir: &Path| format!("qemu+tls://{host}:{port}/session?pkipath={}", dir.display());
    let dir = pki(&instance, "ann", &good);
    lives(&instance, &by("localhost", &dir));
    assert_eq!(security(&by("localhost", &dir)), (true, true));

    let nobody = pki(&instance, "nobody", &good[..1]);
    refused(&instance, &by("localhost", &nobody), "failed to connect");
    let stranger = Authority::new("another");
    let other = stranger.sign("ann", 7);
    let wrong =
        [("cacert.pem", &*stranger.certificate), ("clientcert.pem", &other.certificate), ("clientkey.pem", &other.key)];
    refused(&instance, &by("localhost", &pki(&instance, "stranger", &wrong)), "UnknownIssuer");
    let list = authority.revoke(1);
    let revoked = [&good[..], &[("cacrl.pem", &list)]].concat();
    refused(&instance, &by("localhost", &pki(&instance, "revoked", &revoked)), "Revoked");
    refused(&instance, &by("127.0.0.2", &dir), "not valid for name");
    let newest = by("localhost", &dir) + "&tls_priority=NORMAL:-VERS-TLS1.2";
    ok(&instance, &newest, &["list"]);
    drop(gateway);
}

/// TLS gives the bytes in other pieces than they were sent in, and some are here before the socket tells.
#[test]
fn a_console_by_tls_shows_all_of_it() {
    let ByTls { gateway, instance, authority, port } = by_tls("");
    let ann = authority.sign("ann", 7);
    let dir = pki(&instance, "ann", &client_files(&authority, &ann));
    let uri = format!("qemu+tls://localhost:{port}/session?pkipath={}", dir.display());
    let document = instance.document(&instance.linux("a"));
    let permit = boot_permit();
    let mut console = Terminal::on_pty(command(&instance, &uri, &["create", "--console", document.to_str().unwrap()]));
    console.expect(PROMPT);
    drop(permit);
    assert_eq!(console.command("echo $((6 * 7))"), "42\n");
    let many = console.command("n=0; while [ $n -lt 5000 ]; do echo line $n; n=$((n+1)); done");
    assert_eq!(many.lines().count(), 5000);
    console.send(b"\x1d");
    assert_eq!(console.exit(), 0);
    ok(&instance, &uri, &["destroy", "a"]);
    drop(gateway);
}

#[test]
fn our_client_comes_by_tcp_with_a_password() {
    let instance = Instance::session();
    instance.ok(&["list"]);
    let mut command = Command::new(instance.program("gateway"));
    command.args(["--sasl-user", "ann"]);
    let mut program = Terminal::on_pipes(command);
    program.line("secret");
    program.close_input();
    let line = program.expect("\n");
    let file = instance.file("users", line.as_bytes());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let port = free_port();
    let configuration =
        format!("listen_tcp = yes\nlisten_addresses = 127.0.0.1\ntcp_port = {port}\nsasl_users = {}\n", file.display());
    let gateway = Gateway::start_with(&instance, &configuration);
    let auth = |name: &str, password: &str| {
        let text =
            format!("[credentials-x]\nauthname={name}\npassword={password}\n[auth-libvirt-localhost]\ncredentials=x\n");
        instance.file(&format!("auth-{password}.conf"), text.as_bytes())
    };
    let by = |file: &Path| format!("qemu+tcp://localhost:{port}/session?authfile={}", file.display());
    let good = by(&auth("ann", "secret"));
    lives(&instance, &good);
    assert_eq!(security(&good), (false, false));
    refused(&instance, &by(&auth("ann", "guessed")), "authentication failed");
    drop(gateway);
}

#[test]
fn our_client_comes_by_tls_to_libvirtd() {
    const TEST: &str = "our_client_comes_by_tls_to_libvirtd";
    let authority = Authority::new("the authority");
    let server = authority.sign("server", 1);
    let files = [
        ("cacert.pem", &*authority.certificate),
        ("servercert.pem", &server.certificate),
        ("serverkey.pem", &server.key),
    ];
    let Some(libvirtd) = Libvirtd::with_certificates(TEST, &files) else { return };
    let instance = Instance::session();
    let ann = authority.sign("ann", 7);
    let dir = pki(&instance, "ann", &client_files(&authority, &ann));
    let by = |dir: &Path, arguments: &[&str]| {
        let uri = format!("qemu+tls://localhost/system?pkipath={}", dir.display());
        let mut command = libvirtd.beside(&instance.program("bulkhead"));
        command.args(["-c", &uri]).args(arguments);
        instance.prepare(&mut command, instance.uid());
        run(command)
    };
    let document = instance.document(&Guest::tiny("far"));
    for arguments in [
        &["define", document.to_str().unwrap()][..],
        &["list", "--all"],
        &["dumpxml", "far"],
        &["start", "far"],
        &["destroy", "far"],
        &["undefine", "far"],
    ] {
        let output = by(&dir, arguments);
        assert_eq!(output.code, 0, "{arguments:?}: {}{}", output.stdout, output.stderr);
    }
    let nobody = pki(&instance, "nobody", &client_files(&authority, &ann)[..1]);
    let output = by(&nobody, &["list"]);
    assert!(output.code != 0 && output.stderr.contains("failed to connect"), "{}", output.stderr);
}

/// A program in the place of ssh: what it is to run on the far side, it runs here.
fn no_ssh(instance: &Instance) -> PathBuf {
    program(instance, "no-ssh", "for last; do :; done\nexec sh -c \"$last\"\n")
}

fn program(instance: &Instance, name: &str, script: &str) -> PathBuf {
    let path = instance.file(name, format!("#!/bin/sh\n{script}").as_bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn our_client_comes_by_ssh_with_our_helper_or_netcat() {
    let instance = Instance::session();
    instance.ok(&["list"]);
    let gateway = Gateway::start(&instance);
    let ssh = no_ssh(&instance);
    let run_there = |uri: &str, arguments: &[&str]| {
        let mut command = command(&instance, uri, arguments);
        let programs = instance.program("bulkhead");
        let path = format!("{}:/usr/bin:/bin", programs.parent().unwrap().display());
        command.env("PATH", path);
        run(command)
    };
    let by_helper = format!("qemu+ssh://anywhere/session?command={}", ssh.display());
    let output = run_there(&by_helper, &["list", "--all"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    // Who only reads has no more on the far side either.
    let output = run_there(&by_helper, &["-r", "define", instance.document(&Guest::tiny("a")).to_str().unwrap()]);
    assert!(output.code != 0 && output.stderr.contains("read only"), "{}", output.stderr);
    if Path::new("/usr/bin/nc").exists() {
        let by_netcat = format!("{by_helper}&socket={}", gateway.socket().display());
        let output = run_there(&by_netcat, &["list", "--all"]);
        assert_eq!(output.code, 0, "{}", output.stderr);
    } else {
        skip("our_client_comes_by_ssh_with_our_helper_or_netcat", "netcat is not installed");
    }
    drop(gateway);
}

#[test]
fn a_reader_is_not_handed_on_to_a_helper_that_gives_him_more() {
    let instance = Instance::session();
    // Nobody listens: for one who may change things libvirt's helper is asked, and here it says so.
    let other = program(&instance, "virt-ssh-helper", "echo \"handed on: $*\"\n");
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(instance.program("bulkhead-ssh-helper"));
        command.args(arguments);
        instance.prepare(&mut command, instance.uid());
        command.env("PATH", other.parent().unwrap());
        run(command)
    };
    assert_eq!(ask(&["qemu:///session"]).stdout, "handed on: qemu:///session\n");
    let output = ask(&["-r", "qemu:///session"]);
    assert!(output.code != 0 && output.stdout.is_empty(), "{}{}", output.stdout, output.stderr);
}

#[test]
fn a_connection_by_ssh_that_is_made_again_asks_nobody() {
    const TEST: &str = "a_connection_by_ssh_that_is_made_again_asks_nobody";
    if !Path::new("/usr/bin/nc").exists() {
        return skip(TEST, "netcat is not installed");
    }
    let instance = Instance::session();
    instance.ok(&["list"]);
    let gateway = Gateway::start(&instance);
    let log = instance.root().join("calls");
    let script = format!("echo \"$@\" >>'{}'\nfor last; do :; done\nexec sh -c \"$last\"\n", log.display());
    let ssh = program(&instance, "ssh-with-log", &script);
    let socket = gateway.socket();
    let uri = format!("qemu+ssh://anywhere/session?socket={}&command={}", socket.display(), ssh.display());
    let connection = libclient::Connection::open(&uri).unwrap();
    connection.hostname().unwrap();
    gateway.end();
    let gateway = Gateway::start(&instance);
    // netcat may be there still for a call, which fails then.
    assert!(wait_until(LONG, || connection.hostname().is_ok()));
    let calls = fs::read_to_string(&log).unwrap();
    let asks_nobody: Vec<bool> = calls.lines().map(|line| line.contains("BatchMode=yes")).collect();
    assert_eq!(asks_nobody, [false, true], "{calls}");
    drop(connection);
    drop(gateway);
}

/// A real sshd on this host's loopback, for root by one key.
struct Sshd {
    /// Ended with this value.
    _daemon: Terminal,
    /// A program that calls ssh with this test's own files only.
    ssh: PathBuf,
    port: u16,
}

impl Sshd {
    fn start(instance: &Instance, test: &str) -> Option<Sshd> {
        for program in ["/usr/sbin/sshd", "/usr/bin/ssh", "/usr/bin/ssh-keygen", "/usr/bin/nc"] {
            if !Path::new(program).exists() {
                skip(test, &format!("{program} is not installed"));
                return None;
            }
        }
        if !rustix::process::getuid().is_root() {
            skip(test, "sshd lets in others only if root runs it");
            return None;
        }
        let dir = pki(instance, "ssh", &[]);
        for key in ["host", "user"] {
            let mut command = Command::new("/usr/bin/ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(key));
            assert_eq!(run(command).code, 0);
        }
        // sshd wants it, and a machine that never ran one lacks it.
        fs::create_dir_all("/run/sshd").unwrap();
        let port = free_port();
        let at = dir.display();
        let configuration = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {at}/host\nAuthorizedKeysFile {at}/user.pub\nStrictModes no\n\
             UsePAM no\nPermitRootLogin prohibit-password\nPidFile none\nPermitUserEnvironment no\n"
        );
        fs::write(dir.join("sshd_config"), configuration).unwrap();
        let options = format!(
            "IdentityFile {at}/user\nIdentitiesOnly yes\nUserKnownHostsFile {at}/known\nStrictHostKeyChecking accept-new\n\
             BatchMode yes\n"
        );
        fs::write(dir.join("ssh_config"), options).unwrap();
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(dir.join("sshd_config"));
        let daemon = Terminal::on_pipes(command);
        assert!(wait_until(LONG, || daemon.messages.text().contains("Server listening")), "{}", daemon.messages.text());
        let ssh = program(instance, "test-ssh", &format!("exec /usr/bin/ssh -F {at}/ssh_config \"$@\"\n"));
        Some(Sshd { _daemon: daemon, ssh, port })
    }
}

#[test]
fn both_clients_come_by_a_real_ssh() {
    const TEST: &str = "both_clients_come_by_a_real_ssh";
    let instance = Instance::session();
    let Some(sshd) = Sshd::start(&instance, TEST) else { return };
    instance.ok(&["list"]);
    let gateway = Gateway::start(&instance);
    let uri = format!(
        "qemu+ssh://root@127.0.0.1:{}/session?socket={}&command={}&no_tty=1",
        sshd.port,
        gateway.socket().display(),
        sshd.ssh.display()
    );
    lives(&instance, &uri);
    assert_eq!(security(&uri), (true, false));
    if Path::new("/usr/bin/virsh").exists() {
        let mut command = Command::new("/usr/bin/virsh");
        command.args(["-c", &uri, "list", "--all"]);
        instance.prepare(&mut command, instance.uid());
        command.env("XDG_RUNTIME_DIR", instance.root());
        let output = run(command);
        assert!(output.code == 0 && output.stdout.contains(" a "), "{}{}", output.stdout, output.stderr);
    } else {
        skip(TEST, "virsh is not installed");
    }
    drop(gateway);
}

#[test]
fn another_program_may_be_the_way() {
    let instance = Instance::session();
    instance.ok(&["list"]);
    let gateway = Gateway::start(&instance);
    let helper = instance.program("bulkhead-ssh-helper");
    let root = instance.root().display();
    let way = program(&instance, "way", &format!("BULKHEAD_ROOT={root} exec {} qemu:///session\n", helper.display()));
    let uri = format!("qemu+ext:///session?command={}", way.display());
    ok(&instance, &uri, &["list", "--all"]);
    // Nobody knows where that program carries the bytes.
    assert_eq!(security(&uri), (false, false));
    assert_eq!(security(&gateway.uri()), (true, false));
    drop(gateway);
}
