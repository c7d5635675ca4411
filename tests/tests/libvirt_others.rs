//! Further programs for libvirt at the gateway: Perl's Sys::Virt, libvirt-dbus on a bus of its own, and the exporter for
//! Prometheus.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
};

use bulkhead_tests::{
    Client, Gateway, Guest, Instance, LONG, Output, Terminal, client_program, run, skip, wait_for_file, wait_until,
};

/// A user whom every host has a name for, which a bus insists on.
const NOBODY: u32 = 65_534;

#[test]
fn perl_lives_a_guests_life() {
    if !Client::Perl.is_here("perl_lives_a_guests_life") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let document = instance.document(&Guest::tiny("a"));
    let output = run(client_program(&instance, "sysvirt.pl", &[&gateway.uri(), document.to_str().unwrap(), "a"]));
    assert_eq!(output.code, 0, "{}{}\n{}", output.stdout, output.stderr, gateway.log());
    let uri = format!("uri {}", gateway.uri());
    // Kinds, details, states and codes by libvirt's numbers.
    let expected = [
        "type QEMU",
        &uri,
        "library 9000000",
        "event a 0 0",
        "state 5",
        "event a 2 0",
        "id given",
        "info 1 16384 1",
        "event a 3 0",
        "state 3",
        "event a 4 0",
        "autostart 1",
        "names a",
        "active 1 of 1",
        "error 55 Requested operation is not valid: domain is already running",
        "event a 5 1",
        "event a 1 0",
        "error 42",
        "done",
    ];
    assert_eq!(output.stdout.lines().collect::<Vec<_>>(), expected);
}

/// A bus, and libvirt-dbus on it, in the session of a user.
struct Bus<'a> {
    instance: &'a Instance,
    address: String,
    /// Ended before the bus is.
    service: Option<Terminal>,
    _daemon: Terminal,
}

impl<'a> Bus<'a> {
    fn start(instance: &'a Instance, gateway: &Gateway) -> Bus<'a> {
        let path = instance.root().join("bus");
        let address = format!("unix:path={}", path.display());
        let configuration = format!(
            "<busconfig><type>session</type><listen>{address}</listen><auth>EXTERNAL</auth><policy context='default'>\
             <allow send_destination='*'/><allow receive_sender='*'/><allow own='*'/></policy></busconfig>"
        );
        let file = instance.file("bus.conf", configuration.as_bytes());
        let mut command = Command::new("/usr/bin/dbus-daemon");
        command.arg(format!("--config-file={}", file.display())).args(["--nofork", "--nopidfile", "--print-address"]);
        instance.prepare(&mut command, instance.uid());
        let mut daemon = Terminal::on_pipes(command);
        daemon.expect(&address);
        let mut bus = Bus { instance, address, service: None, _daemon: daemon };
        let mut command = Command::new("/usr/sbin/libvirt-dbus");
        command.arg("--session");
        bus.prepare(&mut command);
        // libvirt's library looks for a session's daemon in the user's run-time directory.
        command.env("XDG_RUNTIME_DIR", gateway.socket_dir().parent().unwrap());
        bus.service = Some(Terminal::on_pipes(command));
        let owner = ["/org/freedesktop/DBus", "org.freedesktop.DBus.NameHasOwner", "string:org.libvirt"];
        assert!(wait_until(LONG, || bus.send("org.freedesktop.DBus", &owner).stdout.contains("true")));
        bus
    }

    fn prepare(&self, command: &mut Command) {
        self.instance.prepare(command, self.instance.uid());
        command.env("DBUS_SESSION_BUS_ADDRESS", &self.address);
    }

    fn send(&self, to: &str, words: &[&str]) -> Output {
        let mut command = Command::new("/usr/bin/dbus-send");
        command.arg(format!("--bus={}", self.address)).args(["--print-reply=literal", &format!("--dest={to}")]);
        command.args(words);
        self.prepare(&mut command);
        run(command)
    }

    /// Calls a method of libvirt's, and returns the answer in one line.
    #[track_caller]
    fn call(&self, path: &str, words: &[&str]) -> String {
        let output = self.send("org.libvirt", &[&[path], words].concat());
        assert_eq!(output.code, 0, "{words:?}: {}", output.stderr);
        output.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Follows libvirt's signals.
    fn monitor(&self) -> Terminal {
        let mut command = Command::new("/usr/bin/dbus-monitor");
        command.args(["--address", &self.address, "type='signal',path='/org/libvirt/QEMU'"]);
        self.prepare(&mut command);
        let mut monitor = Terminal::on_pipes(command);
        // The bus tells it when it has become one.
        monitor.expect("member=NameLost");
        monitor
    }
}

#[test]
fn a_bus_carries_calls_and_events() {
    const TEST: &str = "a_bus_carries_calls_and_events";
    const CONNECT: &str = "/org/libvirt/QEMU";
    if !Client::Dbus.is_here(TEST) {
        return;
    }
    // The library takes root's own session for the host.
    let uid = rustix::process::getuid();
    let uid = if uid.is_root() { NOBODY } else { uid.as_raw() };
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    if !users.lines().any(|line| line.split(':').nth(2) == Some(&uid.to_string())) {
        return skip(TEST, "a message bus serves only users that have a name");
    }
    let Some(instance) = Instance::session_as(uid, TEST) else { return };
    let gateway = Gateway::start(&instance);
    let bus = Bus::start(&instance, &gateway);
    assert_eq!(bus.call(CONNECT, &["org.libvirt.Connect.ListDomains", "uint32:0"]), "array [ ]");
    let mut monitor = bus.monitor();
    let signal = |monitor: &mut Terminal, event: i32, detail: i32| {
        monitor.expect("member=DomainEvent");
        let text = monitor.expect(&format!("int32 {event}\n   int32 {detail}\n"));
        assert!(text.contains("/org/libvirt/QEMU/domain/") && !text.contains("member="), "{text}");
    };
    let document = format!("string:{}", Guest::tiny("a").xml());
    let domain = bus.call(CONNECT, &["org.libvirt.Connect.DomainDefineXML", &document]);
    assert!(domain.starts_with("/org/libvirt/QEMU/domain/_"), "{domain}");
    signal(&mut monitor, 0, 0);
    assert_eq!(bus.call(CONNECT, &["org.libvirt.Connect.DomainLookupByName", "string:a"]), domain);
    bus.call(&domain, &["org.libvirt.Domain.Create", "uint32:0"]);
    signal(&mut monitor, 2, 0);
    assert_eq!(bus.call(CONNECT, &["org.libvirt.Connect.ListDomains", "uint32:0"]), format!("array [ {domain} ]"));
    // Running, because it was started.
    assert_eq!(bus.call(&domain, &["org.libvirt.Domain.GetState", "uint32:0"]), "struct { int32 1 int32 1 }");
    let all = bus.call(&domain, &["org.freedesktop.DBus.Properties.GetAll", "string:org.libvirt.Domain"]);
    // How deep a value is wrapped is libvirt-dbus's own matter.
    let all = all.replace(" variant", "");
    for expected in ["Active boolean true", "Name a", "OSType hvm", "Persistent boolean true"] {
        assert!(all.contains(&format!("( {expected} )")), "no '{expected}' in {all}");
    }
    assert!(bus.call(&domain, &["org.libvirt.Domain.GetXMLDesc", "uint32:0"]).contains("<name>a</name>"));
    bus.call(&domain, &["org.libvirt.Domain.Suspend"]);
    signal(&mut monitor, 3, 0);
    bus.call(&domain, &["org.libvirt.Domain.Resume"]);
    signal(&mut monitor, 4, 0);
    let again = bus.send("org.libvirt", &[&domain, "org.libvirt.Domain.Create", "uint32:0"]);
    assert!(again.code != 0 && again.stderr.contains("domain is already running"), "{}", again.stderr);
    bus.call(&domain, &["org.libvirt.Domain.Destroy", "uint32:0"]);
    signal(&mut monitor, 5, 1);
    bus.call(&domain, &["org.libvirt.Domain.Undefine", "uint32:0"]);
    signal(&mut monitor, 1, 0);
    assert_eq!(bus.call(CONNECT, &["org.libvirt.Connect.ListDomains", "uint32:0"]), "array [ ]");
    let host = bus.call(CONNECT, &["org.freedesktop.DBus.Properties.GetAll", "string:org.libvirt.Connect"]);
    assert!(host.contains("LibVersion") && host.contains("9000000"), "{host}");
}

/// A port that nobody has.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// One look at what an exporter exports.
fn scrape(port: u16) -> Option<String> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.0 200").then_some(answer)
}

/// The value of a sample whose labels contain a text.
#[track_caller]
fn sample(metrics: &str, name: &str, label: &str) -> f64 {
    let wanted =
        |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label));
    let found = metrics.lines().find(wanted).unwrap_or_else(|| panic!("no {name} of '{label}' in {metrics}"));
    found.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn figures_are_exported_for_prometheus() {
    if !Client::Exporter.is_here("figures_are_exported_for_prometheus") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let disk = instance.file("disk.img", &[0; 65_536]);
    instance.create(&Guest::tiny("a").disk(&disk, "raw"));
    instance.create(&Guest::tiny("b"));
    let port = free_port();
    let mut command = Command::new("/usr/bin/prometheus-libvirt-exporter");
    command.args(["--libvirt.uri", &gateway.uri(), "--web.listen-address", &format!("127.0.0.1:{port}")]);
    instance.prepare(&mut command, instance.uid());
    let exporter = Terminal::on_pipes(command);
    assert!(
        wait_until(LONG, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()),
        "{}",
        exporter.messages.text()
    );
    let metrics = scrape(port).unwrap();
    assert_eq!((sample(&metrics, "libvirt_up", ""), sample(&metrics, "libvirt_domains_number", "")), (1.0, 2.0));
    for name in ["a", "b"] {
        let label = format!("domain=\"{name}\"");
        assert_eq!(sample(&metrics, "libvirt_domain_state_code", &label), 1.0, "{metrics}");
        assert_eq!(sample(&metrics, "libvirt_domain_info_maximum_memory_bytes", &label), 16.0 * 1024.0 * 1024.0);
        assert_eq!(sample(&metrics, "libvirt_domain_info_virtual_cpus", &label), 1.0);
    }
    let (mut last, mut grown) = (0.0, 0);
    // Every scrape is a connection of its own; what they show must move on.
    for _ in 0..50 {
        let time = sample(&scrape(port).unwrap(), "libvirt_domain_info_cpu_time_seconds_total", "domain=\"a\"");
        assert!(time >= last, "{time} after {last}");
        grown += u32::from(time > last);
        last = time;
    }
    assert!(grown > 0);
    instance.ok(&["destroy", "b"]);
    assert_eq!(sample(&scrape(port).unwrap(), "libvirt_domains_number", ""), 1.0);
    assert!(wait_for_file(&gateway.socket(), LONG));
}
