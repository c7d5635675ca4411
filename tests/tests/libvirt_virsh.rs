//! virsh, as Debian ships it, at the gateway: every verb of a guest's life, one by one and in one long session.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::Write,
    process::{Command, Stdio},
};

use bulkhead_tests::{
    Client, Gateway, Guest, Instance, LONG, PROMPT, Role, Shell, Virsh, boot_permit, run, wait_until,
};

/// The rows of a table of virsh's, as words, without its head.
fn rows(table: &str) -> Vec<Vec<String>> {
    let lines = table.lines().skip_while(|line| !line.starts_with("---")).skip(1).filter(|line| !line.is_empty());
    lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// The value of a line `Key:   value`.
#[track_caller]
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("no '{key}' in {text}")).trim()
}

/// What the host says of itself.
fn the_host_answers(virsh: &Virsh<'_>, uri: &str) {
    assert_eq!(virsh.ok(&["uri"]).trim(), uri);
    let version = virsh.ok(&["version", "--daemon"]);
    assert!(version.contains("Using API: QEMU 9.0.0"), "{version}");
    assert!(version.contains("Running hypervisor: QEMU "), "{version}");
    assert!(!virsh.ok(&["hostname"]).trim().is_empty());
    let node = virsh.ok(&["nodeinfo"]);
    assert!(value(&node, "CPU(s)").parse::<u32>().is_ok_and(|count| count > 0), "{node}");
    assert!(value(&node, "Memory size").ends_with(" KiB"), "{node}");
    let capabilities = virsh.ok(&["capabilities"]);
    assert!(capabilities.starts_with("<capabilities>") && capabilities.contains("<guest>"), "{capabilities}");
    assert!(virsh.ok(&["maxvcpus"]).trim().parse::<u32>().is_ok_and(|most| most > 0));
    assert!(virsh.ok(&["maxvcpus", "QEMU"]).trim().parse::<u32>().is_ok_and(|most| most > 0));
    for kind in ["test", "xen", "bogus"] {
        let refused = virsh.fails(&["maxvcpus", kind]);
        assert_eq!(refused.trim(), format!("error: invalid argument: unknown type '{kind}'"));
    }
    assert_eq!(rows(&virsh.ok(&["list", "--all"])), Vec::<Vec<String>>::new());
}

/// A definition says what its document says, and a run has a whole number of MiB.
fn memory_is_rounded_at_the_start(instance: &Instance, virsh: &Virsh<'_>) {
    let text = Guest::tiny("odd").xml();
    let (before, rest) = text.split_once("<memory").unwrap();
    let (_, after) = rest.split_once("</memory>").unwrap();
    let odd = format!("{before}<memory unit='KiB'>16385</memory>{after}");
    let document = instance.file("odd.xml", odd.as_bytes());
    virsh.ok(&["define", document.to_str().unwrap()]);
    assert_eq!(value(&virsh.ok(&["dominfo", "odd"]), "Max memory"), "16385 KiB");
    virsh.ok(&["start", "odd"]);
    assert_eq!(value(&virsh.ok(&["dominfo", "odd"]), "Max memory"), "17408 KiB");
    assert!(virsh.ok(&["dumpxml", "odd"]).contains("<memory unit='KiB'>17408</memory>"));
    assert!(virsh.ok(&["dumpxml", "--inactive", "odd"]).contains("<memory unit='KiB'>16385</memory>"));
    virsh.ok(&["destroy", "odd"]);
    assert_eq!(value(&virsh.ok(&["dominfo", "odd"]), "Max memory"), "16385 KiB");
    virsh.ok(&["undefine", "odd"]);
}

/// A persistent guest from its definition to its end.
fn a_persistent_life(instance: &Instance, virsh: &Virsh<'_>) {
    let document = instance.document(&Guest::tiny("a"));
    let defined = virsh.ok(&["define", document.to_str().unwrap()]);
    assert_eq!(defined.trim(), format!("Domain 'a' defined from {}", document.display()));
    assert_eq!(rows(&virsh.ok(&["list", "--all"])), [["-", "a", "shut", "off"]]);
    assert_eq!(rows(&virsh.ok(&["list"])).len(), 0);
    assert_eq!(virsh.ok(&["list", "--inactive", "--persistent", "--name"]).trim(), "a");
    let uuid = virsh.ok(&["domuuid", "a"]).trim().to_owned();
    assert_eq!(virsh.ok(&["list", "--all", "--uuid"]).trim(), uuid);
    assert_eq!(virsh.ok(&["domname", &uuid]).trim(), "a");
    assert_eq!(virsh.ok(&["domid", "a"]).trim(), "-");
    let info = virsh.ok(&["dominfo", "a"]);
    for (key, expected) in [
        ("Id", "-"),
        ("Name", "a"),
        ("UUID", &uuid),
        ("OS Type", "hvm"),
        ("State", "shut off"),
        ("CPU(s)", "1"),
        ("Max memory", "16384 KiB"),
        ("Used memory", "16384 KiB"),
        ("Persistent", "yes"),
        ("Autostart", "disable"),
        ("Managed save", "no"),
    ] {
        assert_eq!(value(&info, key), expected, "{info}");
    }
    let xml = virsh.ok(&["dumpxml", "a"]);
    assert!(xml.starts_with("<domain type='qemu'>") && xml.contains(&uuid), "{xml}");

    assert_eq!(virsh.ok(&["start", "a"]).trim(), "Domain 'a' started");
    assert_eq!(virsh.fails(&["start", "a"]).trim(), "error: Domain is already active");
    let id = virsh.ok(&["domid", "a"]).trim().to_owned();
    assert_eq!(rows(&virsh.ok(&["list"])), [[id.as_str(), "a", "running"]]);
    assert_eq!(virsh.ok(&["domname", &id]).trim(), "a");
    assert_eq!(virsh.ok(&["list", "--state-running", "--name"]).trim(), "a");
    assert_eq!(virsh.ok(&["domstate", "--reason", "a"]).trim(), "running (booted)");
    let info = virsh.ok(&["dominfo", "a"]);
    assert_eq!((value(&info, "Id"), value(&info, "State")), (id.as_str(), "running"));
    assert!(value(&info, "CPU time").ends_with('s'), "{info}");
    assert!(virsh.ok(&["dumpxml", &id]).starts_with(&format!("<domain type='qemu' id='{id}'>")));
    assert!(virsh.ok(&["dumpxml", "--inactive", &id]).starts_with("<domain type='qemu'>"));

    assert_eq!(virsh.ok(&["suspend", "a"]).trim(), "Domain 'a' suspended");
    assert_eq!(virsh.ok(&["domstate", "--reason", "a"]).trim(), "paused (user)");
    assert_eq!(virsh.ok(&["resume", "a"]).trim(), "Domain 'a' resumed");
    assert_eq!(virsh.ok(&["domstate", "a"]).trim(), "running");
    assert_eq!(virsh.ok(&["reset", "a"]).trim(), "Domain 'a' was reset");
    assert_eq!(virsh.ok(&["reboot", "a"]).trim(), "Domain 'a' is being rebooted");
    assert_eq!(virsh.ok(&["shutdown", "a", "--mode", "acpi"]).trim(), "Domain 'a' is being shutdown");
    assert_eq!(virsh.ok(&["autostart", "a"]).trim(), "Domain 'a' marked as autostarted");
    assert_eq!(virsh.ok(&["list", "--all", "--autostart", "--name"]).trim(), "a");
    assert_eq!(virsh.ok(&["autostart", "a", "--disable"]).trim(), "Domain 'a' unmarked as autostarted");
    assert_eq!(virsh.ok(&["destroy", "a"]).trim(), "Domain 'a' destroyed");
    let again = virsh.fails(&["destroy", "a"]);
    assert!(again.contains("Requested operation is not valid: domain is not running"), "{again}");
    assert_eq!(virsh.ok(&["domstate", "--reason", "a"]).trim(), "shut off (destroyed)");
    assert_eq!(virsh.ok(&["undefine", "a"]).trim(), "Domain 'a' has been undefined");
    assert_eq!(virsh.fails(&["dominfo", "a"]).trim(), "error: failed to get domain 'a'");
}

/// One that is gone when it ends.
fn a_transient_life(instance: &Instance, virsh: &Virsh<'_>) {
    let document = instance.document(&Guest::tiny("t"));
    let document = document.to_str().unwrap();
    assert_eq!(virsh.ok(&["create", document, "--paused"]).trim(), format!("Domain 't' created from {document}"));
    assert_eq!(virsh.ok(&["domstate", "t"]).trim(), "paused");
    let again = virsh.fails(&["create", document]);
    assert!(again.contains("operation failed: domain 't' already exists with uuid"), "{again}");
    let undefined = virsh.fails(&["undefine", "t"]);
    assert!(undefined.contains("cannot undefine transient domain"), "{undefined}");
    assert_eq!(virsh.ok(&["list", "--transient", "--state-paused", "--name"]).trim(), "t");
    assert_eq!(virsh.ok(&["destroy", "t"]).trim(), "Domain 't' destroyed");
    assert_eq!(virsh.ok(&["list", "--all", "--name"]).trim(), "");
}

#[test]
fn a_session_is_managed_verb_by_verb() {
    if !Client::Virsh.is_here("a_session_is_managed_verb_by_verb") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    assert_eq!(instance.role(Role::Control).len(), 0, "nobody has started qemud but the gateway");
    let virsh = Virsh::at(&instance, gateway.uri());
    the_host_answers(&virsh, &gateway.uri());
    a_persistent_life(&instance, &virsh);
    memory_is_rounded_at_the_start(&instance, &virsh);
    a_transient_life(&instance, &virsh);
}

#[test]
fn a_host_is_managed_verb_by_verb() {
    const TEST: &str = "a_host_is_managed_verb_by_verb";
    if !Client::Virsh.is_here(TEST) {
        return;
    }
    let Some(instance) = Instance::system(TEST) else { return };
    let gateway = Gateway::start(&instance);
    let virsh = Virsh::at(&instance, gateway.uri());
    the_host_answers(&virsh, &gateway.uri());
    a_persistent_life(&instance, &virsh);
    memory_is_rounded_at_the_start(&instance, &virsh);
    a_transient_life(&instance, &virsh);
    // The same by the name that the daemon of this one driver has in libvirt.
    let modular = gateway.socket_dir().join("virtqemud-sock");
    let uri = format!("qemu+unix:///system?socket={}", modular.display());
    assert_eq!(rows(&Virsh::at(&instance, uri).ok(&["list", "--all"])).len(), 0);
}

/// What virsh shows of a guest in figures.
#[test]
fn figures_are_shown() {
    if !Client::Virsh.is_here("figures_are_shown") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let virsh = Virsh::at(&instance, gateway.uri());
    let disk = instance.file("disk.img", &[0; 65_536]);
    instance.define(&Guest::tiny("a").disk(&disk, "raw"));
    instance.define(&Guest::tiny("off"));
    instance.ok(&["start", "a"]);

    let stats = virsh.ok(&["domstats"]);
    let of = |name: &str| -> String {
        let blocks = stats.split("\n\n");
        let found = blocks.into_iter().find(|block| block.trim_start().starts_with(&format!("Domain: '{name}'")));
        found.unwrap_or_else(|| panic!("nothing of '{name}' in {stats}")).to_owned()
    };
    for line in ["state.state=1", "state.reason=1", "balloon.maximum=16384", "vcpu.current=1", "vcpu.maximum=1"] {
        assert!(of("a").contains(&format!("  {line}\n")), "{line}: {stats}");
    }
    assert!(of("a").contains("  block.count=1\n  block.0.name=vda\n"), "{stats}");
    assert!(of("a").contains("  cpu.time=") && of("a").contains("  vcpu.0.time="), "{stats}");
    assert!(of("off").contains("  state.state=5\n") && !of("off").contains("  cpu.time="), "{stats}");
    let state = virsh.ok(&["domstats", "a", "--state"]);
    assert_eq!(state.trim(), "Domain: 'a'\n  state.state=1\n  state.reason=1");
    assert!(!virsh.ok(&["domstats", "--list-active", "--nowait"]).contains("'off'"));

    let vcpu = virsh.ok(&["vcpuinfo", "a"]);
    assert_eq!((value(&vcpu, "VCPU"), value(&vcpu, "State")), ("0", "running"), "{vcpu}");
    let counts = virsh.ok(&["vcpucount", "a"]);
    let counts: Vec<String> = counts.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for row in ["maximum config 1", "maximum live 1", "current config 1", "current live 1"] {
        assert!(counts.iter().any(|line| line == row), "{row}: {counts:?}");
    }
    assert!(virsh.ok(&["dommemstat", "a"]).contains("rss "));
    assert_eq!(rows(&virsh.ok(&["domblklist", "a"])), [["vda", disk.to_str().unwrap()]]);
    assert_eq!(value(&virsh.ok(&["domblkinfo", "a", "vda"]), "Capacity"), "65536");
    assert!(virsh.ok(&["domblkstat", "a", "vda"]).contains("vda rd_req "));
    assert_eq!(rows(&virsh.ok(&["domiflist", "a"])).len(), 0);

    let node = virsh.ok(&["nodecpustats"]);
    assert!(value(&node, "user").parse::<u64>().is_ok_and(|time| time > 0), "{node}");
    let memory = virsh.ok(&["nodememstats"]);
    assert!(value(&memory, "total  ").ends_with("KiB"), "{memory}");
    assert!(value(&virsh.ok(&["nodecpumap"]), "CPU map").contains('y'));
    assert!(virsh.ok(&["freecell"]).contains("Total: "));
    assert!(virsh.ok(&["domcapabilities"]).starts_with("<domainCapabilities>"));
    assert_eq!(virsh.ok(&["domcontrol", "a"]).trim(), "ok");
    for verb in ["snapshot-list", "checkpoint-list"] {
        assert_eq!(rows(&virsh.ok(&[verb, "a"])).len(), 0, "{verb}");
    }
    // There are no networks, which is an answer; what would make one, no driver knows, and says so in libvirt's words.
    assert_eq!(rows(&virsh.ok(&["net-list"])).len(), 0);
    let file = instance.file("net.xml", b"<network><name>a</name></network>");
    let unknown = virsh.fails(&["net-define", &file.to_string_lossy()]);
    assert!(unknown.contains("this function is not supported by the connection driver: virNetworkDefine"), "{unknown}");
}

/// Titles, descriptions and what other programs keep with a guest.
#[test]
fn a_definition_is_changed_in_place() {
    if !Client::Virsh.is_here("a_definition_is_changed_in_place") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let virsh = Virsh::at(&instance, gateway.uri());
    instance.define(&Guest::tiny("a"));
    virsh.ok(&["desc", "a", "--config", "--title", "My guest"]);
    assert_eq!(virsh.ok(&["desc", "a", "--title"]).trim(), "My guest");
    virsh.ok(&["desc", "a", "--config", "For what it is here"]);
    assert_eq!(virsh.ok(&["desc", "a"]).trim(), "For what it is here");
    assert_eq!(rows(&virsh.ok(&["list", "--all", "--title"])), [["-", "a", "shut", "off", "My", "guest"]]);
    let uri = "https://example.org/owner";
    let missing = virsh.fails(&["metadata", "a", uri]);
    assert!(missing.contains("metadata not found: Requested metadata element is not present"), "{missing}");
    virsh.ok(&["metadata", "a", uri, "--key", "own", "--set", "<who name='me'/>", "--config"]);
    assert!(virsh.ok(&["metadata", "a", uri]).contains("<who name="), "{}", virsh.ok(&["dumpxml", "a"]));
    virsh.ok(&["metadata", "a", uri, "--remove", "--config"]);
    virsh.fails(&["metadata", "a", uri]);
    virsh.ok(&["setmaxmem", "a", "32768", "--config"]);
    virsh.ok(&["setmem", "a", "24576", "--config"]);
    let info = virsh.ok(&["dominfo", "a"]);
    assert_eq!((value(&info, "Max memory"), value(&info, "Used memory")), ("32768 KiB", "24576 KiB"));
    virsh.ok(&["setvcpus", "a", "2", "--config", "--maximum"]);
    virsh.ok(&["setvcpus", "a", "2", "--config"]);
    assert_eq!(value(&virsh.ok(&["dominfo", "a"]), "CPU(s)"), "2");
    virsh.ok(&["domrename", "a", "b"]);
    assert_eq!(virsh.ok(&["list", "--all", "--name"]).trim(), "b");
    // All of it is in the definition, which outlives the daemon.
    instance.stop_daemon();
    let xml = virsh.ok(&["dumpxml", "b"]);
    for expected in ["<title>My guest</title>", "For what it is here", "<vcpu placement='static'>2</vcpu>"] {
        assert!(xml.contains(expected), "no {expected} in {xml}");
    }
    virsh.ok(&["start", "b"]);
    assert_eq!(value(&virsh.ok(&["dominfo", "b"]), "CPU(s)"), "2");
}

/// Types what a person would type, from the first look to the end of the guest.
fn a_long_session(shell: &mut Shell, instance: &Instance) {
    let document = instance.document(&Guest::tiny("long"));
    let document = document.display();
    assert!(shell.command("help").contains("Domain Management"));
    assert!(shell.command("nodeinfo").contains("CPU(s):"));
    let expected = format!("Domain 'long' defined from {document}");
    assert_eq!(shell.command(&format!("define {document}")).trim(), expected);
    assert!(shell.command("list --all").contains(" -    long   shut off"));
    for turn in 0..5 {
        assert_eq!(shell.command("start long").trim(), "Domain 'long' started", "turn {turn}");
        assert_eq!(shell.command("domstate long --reason").trim(), "running (booted)");
        assert_eq!(shell.command("suspend long").trim(), "Domain 'long' suspended");
        assert_eq!(shell.command("domstate long").trim(), "paused");
        assert_eq!(shell.command("resume long").trim(), "Domain 'long' resumed");
        assert!(shell.command("dominfo long").contains("State:          running"));
        assert!(shell.command("dumpxml long").contains("<name>long</name>"));
        assert!(shell.command("start long").contains("error: Domain is already active"));
        assert!(shell.command("dominfo nobody").contains("error: failed to get domain 'nobody'"));
        assert_eq!(shell.command("reset long").trim(), "Domain 'long' was reset");
        assert_eq!(shell.command("destroy long").trim(), "Domain 'long' destroyed");
    }
    // Several in a line, and another connection in between.
    let several = shell.command("domuuid long ; domid long ; domstate long");
    assert!(several.trim().ends_with("shut off"), "{several}");
    assert_eq!(shell.command("undefine long").trim(), "Domain 'long' has been undefined");
}

#[test]
fn one_long_interactive_session_does_it_all() {
    if !Client::Virsh.is_here("one_long_interactive_session_does_it_all") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let mut shell = Virsh::at(&instance, gateway.uri()).shell();
    a_long_session(&mut shell, &instance);

    // The same virsh at another driver, which has a guest of its own, and at another door.
    shell.connect(&gateway.test_uri(), false);
    the_mock_answers(&mut shell);
    shell.connect(&gateway.uri(), true);
    let document = instance.document(&Guest::tiny("refused"));
    let refused = shell.command(&format!("define {}", document.display()));
    assert!(refused.contains("operation forbidden: read only access prevents virDomainDefineXML"), "{refused}");
    shell.connect(&gateway.uri(), false);

    // A killed daemon is nothing that the person at the prompt has to care about.
    shell.command(&format!("create {}", document.display()));
    let (launcher, control) = (instance.launcher(), instance.control());
    launcher.kill();
    control.kill();
    let answer = shell.command("domstate refused");
    // The call that was on its way, or came first, may have been lost; the next one is served.
    if !answer.starts_with("running") {
        assert!(answer.contains("error:"), "{answer}");
        assert_eq!(shell.command("domstate refused").trim(), "running");
    }
    assert_eq!(shell.command("destroy refused").trim(), "Domain 'refused' destroyed");
    shell.quit();
}

/// libvirt's mock hypervisor, in a session: what is changed there lasts as long as the connection.
fn the_mock_answers(shell: &mut Shell) {
    assert!(shell.command("version").contains("Running hypervisor: "));
    assert!(shell.command("hostname").trim().len() > 1);
    assert!(shell.command("nodeinfo").contains("CPU model:           i686"));
    assert!(shell.command("capabilities").contains("<capabilities>"));
    assert!(shell.command("list --all").contains(" 1    test   running"));
    assert_eq!(shell.command("domstate test").trim(), "running");
    assert_eq!(shell.command("domname 1").trim(), "test");
    assert_eq!(shell.command("domid test").trim(), "1");
    assert_eq!(shell.command("suspend test").trim(), "Domain 'test' suspended");
    assert_eq!(shell.command("domstate test --reason").trim(), "paused (user)");
    assert_eq!(shell.command("resume test").trim(), "Domain 'test' resumed");
    assert_eq!(shell.command("autostart test").trim(), "Domain 'test' marked as autostarted");
    assert_eq!(shell.command("reboot test").trim(), "Domain 'test' is being rebooted");
    assert_eq!(shell.command("shutdown test").trim(), "Domain 'test' is being shutdown");
    assert_eq!(shell.command("domstate test").trim(), "shut off");
    assert_eq!(shell.command("start test").trim(), "Domain 'test' started");
    assert!(shell.command("dumpxml test").starts_with("<domain type='test' id="));
    assert_eq!(shell.command("destroy test").trim(), "Domain 'test' destroyed");
    assert!(shell.command("destroy test").contains("error: Failed to destroy domain 'test'"));
    assert_eq!(shell.command("undefine test").trim(), "Domain 'test' has been undefined");
    assert!(!shell.command("list --all").contains("test"));
}

#[test]
fn the_mock_hypervisor_is_there_for_everybody() {
    if !Client::Virsh.is_here("the_mock_hypervisor_is_there_for_everybody") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let virsh = Virsh::at(&instance, gateway.test_uri());
    let mut shell = virsh.shell();
    the_mock_answers(&mut shell);
    // All clients share one host.
    assert!(!virsh.ok(&["list", "--all"]).contains("test"));
    shell.quit();
    assert!(!virsh.ok(&["list", "--all"]).contains("test"));
    assert_eq!(instance.role(Role::Control).len(), 0, "qemud is not needed for it");
}

#[test]
fn a_console_is_a_terminal() {
    if !Client::Virsh.is_here("a_console_is_a_terminal") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let virsh = Virsh::at(&instance, gateway.uri());
    let document = instance.document(&instance.linux("a"));
    let permit = boot_permit();
    virsh.ok(&["create", document.to_str().unwrap()]);
    let mut console = virsh.terminal(&["console", "a"]);
    console.expect("Connected to domain 'a'");
    console.expect(PROMPT);
    drop(permit);
    assert_eq!(console.command("echo $((6 * 7))"), "42\n");
    // A line as long as a terminal takes, and an answer longer than any buffer on the way.
    let filler = "0123456789".repeat(50);
    let lines: String = (0..2000).map(|number| format!("{number}\n")).collect();
    let counted =
        console.command(&format!("n=0; while [ $n -lt 2000 ]; do echo $n; n=$((n+1)); done | md5sum; : {filler}"));
    assert_eq!(counted, run_filter("md5sum", lines.as_bytes()));
    assert_eq!(
        console.command("n=0; while [ $n -lt 20000 ]; do echo line $n; n=$((n+1)); done").lines().count(),
        20_000
    );
    console.send(b"\x1d");
    assert_eq!(console.exit(), 0);

    // The guest goes on, and so does its console, for one at a time.
    let mut console = virsh.terminal(&["console", "a"]);
    console.expect("Connected to domain 'a'");
    console.line("");
    console.expect(PROMPT);
    let second = virsh.fails(&["console", "a"]);
    assert!(second.contains("error:"), "{second}");
    console.line("poweroff -f");
    console.exit();
    assert!(wait_until(LONG, || virsh.ok(&["list", "--all", "--name"]).trim().is_empty()));
}

/// What a program makes of an input.
fn run_filter(program: &str, input: &[u8]) -> String {
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn events_are_followed() {
    if !Client::Virsh.is_here("events_are_followed") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let virsh = Virsh::at(&instance, gateway.uri());
    instance.define(&Guest::tiny("a"));
    instance.create(&Guest::tiny("noise"));
    let mut all = virsh.terminal(&["event", "--all", "--loop"]);
    let mut one = virsh.terminal(&["event", "--event", "lifecycle", "--loop", "--domain", "a"]);
    // Neither says when it listens: the first event that it shows does.
    for (watch, name) in [(&mut all, "noise"), (&mut one, "a")] {
        let heard = wait_until(LONG, || {
            match name {
                "a" => virsh.ok(&["start", "a"]) + &virsh.ok(&["destroy", "a"]),
                _ => virsh.ok(&["suspend", "noise"]) + &virsh.ok(&["resume", "noise"]),
            };
            !watch.output.is_empty()
        });
        assert!(heard, "no event came");
    }
    virsh.ok(&["autostart", "a"]);
    for verb in ["start", "suspend", "resume", "destroy", "undefine"] {
        virsh.ok(&[verb, "a"]);
    }
    for watch in [&mut all, &mut one] {
        watch.expect("event 'lifecycle' for domain 'a': Undefined Removed");
        let text = watch.output.text().replace("\r\n", "\n");
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("domain 'a'")).collect();
        let tail = &lines[lines.len() - 5..];
        let expected =
            ["Started Booted", "Suspended Paused", "Resumed Unpaused", "Stopped Destroyed", "Undefined Removed"];
        assert!(tail.iter().zip(expected).all(|(line, end)| line.ends_with(end)), "{tail:?}");
        watch.send(b"\x03");
    }
    assert!(!one.output.text().contains("noise"), "{}", one.output.text());
    assert!(all.output.text().contains("noise"));
}

#[test]
fn who_may_only_read_is_told_so() {
    const TEST: &str = "who_may_only_read_is_told_so";
    if !Client::Virsh.is_here(TEST) {
        return;
    }
    let Some(instance) = Instance::system(TEST) else { return };
    let gateway = Gateway::start(&instance);
    instance.create(&Guest::tiny("a"));
    let stranger = 54_321;
    for virsh in
        [Virsh::at(&instance, gateway.read_only_uri()), Virsh::at(&instance, gateway.read_only_uri()).by(stranger)]
    {
        assert_eq!(virsh.ok(&["list", "--name"]).trim(), "a");
        assert_eq!(virsh.ok(&["domstate", "a"]).trim(), "running");
        let refused = virsh.fails(&["destroy", "a"]);
        assert!(refused.contains("operation forbidden: read only access prevents virDomainDestroy"), "{refused}");
        let mut console = virsh.terminal(&["console", "a"]);
        assert_eq!(console.exit(), 1);
        let refused = console.output.text();
        assert!(refused.contains("read only access prevents virDomainOpenConsole"), "{refused}");
    }
    let refused = Virsh::at(&instance, gateway.uri()).by(stranger).fails(&["list"]);
    assert!(refused.contains("failed to connect to the hypervisor") && refused.contains("authentication"), "{refused}");
    let read_only = Virsh::at(&instance, gateway.uri()).fails(&["-r", "suspend", "a"]);
    assert!(read_only.contains("read only access prevents virDomainSuspend"), "{read_only}");
    assert_eq!(instance.state("a"), "running (booted)");
}

/// Without any hint at a socket: virsh looks where libvirt's own daemons are. For root that is never a session of his own.
#[test]
fn a_users_plain_name_leads_to_the_gateway() {
    if !Client::Virsh.is_here("a_users_plain_name_leads_to_the_gateway") {
        return;
    }
    let instance = Instance::ordinary();
    let gateway = Gateway::start(&instance);
    let mut command = Command::new("/usr/bin/virsh");
    command.args(["-c", "qemu:///session", "list", "--all"]);
    instance.prepare(&mut command, instance.uid());
    command.env("XDG_RUNTIME_DIR", gateway.socket_dir().parent().unwrap());
    let listed = run(command);
    assert_eq!((listed.code, rows(&listed.stdout).len()), (0, 0), "{}", listed.stderr);
    assert_eq!(instance.role(Role::Control).len(), 1, "ours has been asked");
}

/// A host on which libvirt's place is ours: in a mount namespace, because on this host it is not.
#[test]
fn the_hosts_plain_name_leads_to_the_gateway() {
    const TEST: &str = "the_hosts_plain_name_leads_to_the_gateway";
    if !Client::Virsh.is_here(TEST) {
        return;
    }
    let Some(instance) = Instance::system(TEST) else { return };
    let gateway = Gateway::start(&instance);
    instance.create(&Guest::tiny("a"));
    let mut command = Command::new("/usr/bin/unshare");
    let script = "mount -t tmpfs tmpfs /run && ln -s \"$0\" /run/libvirt && exec virsh list --name";
    command.args(["--mount", "/bin/sh", "-c", script]).arg(gateway.socket_dir());
    instance.prepare(&mut command, 0);
    let listed = run(command);
    assert_eq!((listed.code, listed.stdout.trim()), (0, "a"), "{}", listed.stderr);
}
