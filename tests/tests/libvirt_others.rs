//! Further programs for libvirt at the gateway: Perl's Sys::Virt, libvirt-dbus on a bus of its own, and the exporter for
//! Prometheus.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::Command,
};

use bulkhead_tests::{
    Client, Gateway, Guest, Instance, LONG, Output, Terminal, client_program, on_session_and_system, run, skip,
    wait_for_file, wait_until,
};

/// A user whom every host has a name for, which a bus insists on.
const NOBODY: u32 = 65_534;

on_session_and_system!(Client::Perl, perl_lives_a_guests_life);

fn perl_lives_a_guests_life(instance: &Instance, gateway: &Gateway) {
    let document = instance.document(&Guest::tiny("a"));
    a_life_in_perl(instance, gateway, &gateway.uri(), &document, "QEMU", &[]);
}

/// The mock hypervisor has a guest of its own, which runs.
#[test]
fn perl_lives_a_mock_guests_life() {
    if !Client::Perl.is_here("perl_lives_a_mock_guests_life") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let document = instance.file("mock.xml", Guest::tiny("a").mock_xml().as_bytes());
    a_life_in_perl(&instance, &gateway, &gateway.test_uri(), &document, "TEST", &["test"]);
}

/// Runs the program at a hypervisor of a type, on which others run besides.
fn a_life_in_perl(instance: &Instance, gateway: &Gateway, uri: &str, document: &Path, kind: &str, others: &[&str]) {
    let output = run(client_program(instance, "sysvirt.pl", &[uri, document.to_str().unwrap(), "a"]));
    assert_eq!(output.code, 0, "{}{}\n{}", output.stdout, output.stderr, gateway.log());
    let names: Vec<&str> = ["names", "a"].iter().chain(others).copied().collect();
    let count = 1 + others.len();
    // Kinds, details, states and codes by libvirt's numbers.
    let expected = [
        &format!("type {kind}"),
        &format!("uri {uri}"),
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
        &names.join(" "),
        &format!("active {count} of {count}"),
        "error 55 Requested operation is not valid: domain is already running",
        "event a 5 1",
        "event a 1 0",
        "error 42",
        "done",
    ];
    assert_eq!(output.stdout.lines().collect::<Vec<_>>(), expected);
}

/// A bus, and libvirt-dbus on it: in the session of a user, or the host's.
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
        let mut command = if instance.is_system() {
            // libvirt's library looks for a host's daemon in /run/libvirt, which on this host is not ours.
            let script = "mount -t tmpfs tmpfs /run && ln -s \"$0\" /run/libvirt && exec libvirt-dbus --system";
            let mut command = Command::new("/usr/bin/unshare");
            command.args(["--mount", "/bin/sh", "-c", script]).arg(gateway.socket_dir());
            command
        } else {
            let mut command = Command::new("/usr/sbin/libvirt-dbus");
            command.arg("--session");
            command
        };
        bus.prepare(&mut command);
        // And for a session's in the user's run-time directory.
        command.env("XDG_RUNTIME_DIR", gateway.socket_dir().parent().unwrap());
        bus.service = Some(Terminal::on_pipes(command));
        let owner = ["/org/freedesktop/DBus", "org.freedesktop.DBus.NameHasOwner", "string:org.libvirt"];
        assert!(wait_until(LONG, || bus.send("org.freedesktop.DBus", &owner).stdout.contains("true")));
        bus
    }

    fn prepare(&self, command: &mut Command) {
        self.instance.prepare(command, self.instance.uid());
        command.env("DBUS_SESSION_BUS_ADDRESS", &self.address).env("DBUS_SYSTEM_BUS_ADDRESS", &self.address);
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

/// Not `/org/libvirt/Test`: there libvirt's library asks its own mock, in libvirt-dbus's own process.
#[test]
fn a_users_bus_carries_calls_and_events() {
    const TEST: &str = "a_users_bus_carries_calls_and_events";
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
    a_bus_carries_calls_and_events(&instance, &gateway);
}

#[test]
fn the_hosts_bus_carries_calls_and_events() {
    const TEST: &str = "the_hosts_bus_carries_calls_and_events";
    if !Client::Dbus.is_here(TEST) {
        return;
    }
    let Some(instance) = Instance::system(TEST) else { return };
    let gateway = Gateway::start(&instance);
    a_bus_carries_calls_and_events(&instance, &gateway);
}

fn a_bus_carries_calls_and_events(instance: &Instance, gateway: &Gateway) {
    const CONNECT: &str = "/org/libvirt/QEMU";
    let bus = Bus::start(instance, gateway);
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

/// The exporter at a URI.
struct Exporter {
    port: u16,
    _program: Terminal,
}

impl Exporter {
    fn start(instance: &Instance, uri: &str) -> Exporter {
        let port = free_port();
        let mut command = Command::new("/usr/bin/prometheus-libvirt-exporter");
        command.args(["--libvirt.uri", uri, "--web.listen-address", &format!("127.0.0.1:{port}")]);
        instance.prepare(&mut command, instance.uid());
        let program = Terminal::on_pipes(command);
        let up = wait_until(LONG, || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        assert!(up, "{}", program.messages.text());
        Exporter { port, _program: program }
    }

    /// One look at what it exports.
    fn metrics(&self) -> String {
        scrape(self.port).unwrap()
    }

    /// Every scrape is a connection of its own; what they show of a guest's processor time must move on. Returns how often
    /// it did.
    fn time_goes_on(&self, name: &str) -> u32 {
        let (mut last, mut grown) = (0.0, 0);
        for _ in 0..50 {
            let label = format!("domain=\"{name}\"");
            let time = sample(&self.metrics(), "libvirt_domain_info_cpu_time_seconds_total", &label);
            assert!(time >= last, "{time} after {last}");
            grown += u32::from(time > last);
            last = time;
        }
        grown
    }
}

on_session_and_system!(Client::Exporter, figures_are_exported_for_prometheus);

fn figures_are_exported_for_prometheus(instance: &Instance, gateway: &Gateway) {
    let disk = instance.file("disk.img", &[0; 65_536]);
    instance.create(&Guest::tiny("a").disk(&disk, "raw"));
    instance.create(&Guest::tiny("b"));
    let exporter = Exporter::start(instance, &gateway.uri());
    let metrics = exporter.metrics();
    assert_eq!((sample(&metrics, "libvirt_up", ""), sample(&metrics, "libvirt_domains_number", "")), (1.0, 2.0));
    for name in ["a", "b"] {
        let label = format!("domain=\"{name}\"");
        assert_eq!(sample(&metrics, "libvirt_domain_state_code", &label), 1.0, "{metrics}");
        assert_eq!(sample(&metrics, "libvirt_domain_info_maximum_memory_bytes", &label), 16.0 * 1024.0 * 1024.0);
        assert_eq!(sample(&metrics, "libvirt_domain_info_virtual_cpus", &label), 1.0);
    }
    assert!(exporter.time_goes_on("a") > 0);
    instance.ok(&["destroy", "b"]);
    assert_eq!(sample(&exporter.metrics(), "libvirt_domains_number", ""), 1.0);
    assert!(wait_for_file(&gateway.socket(), LONG));
}

#[test]
fn figures_of_the_mock_hypervisor_are_exported() {
    if !Client::Exporter.is_here("figures_of_the_mock_hypervisor_are_exported") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let exporter = Exporter::start(&instance, &gateway.test_uri());
    let metrics = exporter.metrics();
    assert_eq!((sample(&metrics, "libvirt_up", ""), sample(&metrics, "libvirt_domains_number", "")), (1.0, 1.0));
    let label = "domain=\"test\"";
    assert_eq!(sample(&metrics, "libvirt_domain_state_code", label), 1.0, "{metrics}");
    assert_eq!(sample(&metrics, "libvirt_domain_info_maximum_memory_bytes", label), 8.0 * 1024.0 * 1024.0 * 1024.0);
    assert_eq!(sample(&metrics, "libvirt_domain_info_virtual_cpus", label), 2.0);
    // Its guest has run since the connection was opened.
    assert!(sample(&metrics, "libvirt_domain_info_cpu_time_seconds_total", label) > 0.0, "{metrics}");
}
