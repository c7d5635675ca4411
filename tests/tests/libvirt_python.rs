//! libvirt for Python at the gateway: an event loop, a console, a collector of statistics, and many at once.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bulkhead_tests::{
    Client, Gateway, Guest, Instance, LONG, Output, PROMPT, Role, Signal, Terminal, boot_permit, client_program,
    on_session_and_system, run, wait_until,
};
use serde_json::Value;

/// The program that follows events.
struct Events(Terminal);

impl Events {
    fn start(instance: &Instance, arguments: &[&str]) -> Events {
        let mut terminal = Terminal::on_pipes(client_program(instance, "events.py", arguments));
        terminal.expect("ready\n");
        Events(terminal)
    }

    /// The lines up to this one, without it.
    #[track_caller]
    fn until(&mut self, line: &str) -> Vec<String> {
        let seen = self.0.expect(&format!("{line}\n"));
        let mut lines: Vec<String> = seen.lines().map(str::to_owned).collect();
        assert_eq!(lines.pop().as_deref(), Some(line), "{seen}");
        lines
    }

    /// Every line from the beginning, once this one has come.
    #[track_caller]
    fn all_until(&mut self, line: &str) -> Vec<String> {
        let wanted = format!("{line}\n");
        let come = self
            .0
            .output
            .wait(LONG, |bytes| bytes.windows(wanted.len()).any(|window| window == wanted.as_bytes()).then_some(()));
        let text = self.0.output.text();
        assert!(come.is_some(), "'{line}' did not come: {text}{}", self.0.messages.text());
        text.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn ask(&mut self, command: &str, answer: &str) {
        self.0.line(command);
        self.until(answer);
    }

    fn leave(mut self) {
        self.0.line("quit");
        // Nothing of the connection is left: libvirt counts references.
        self.until("left 0");
        assert_eq!(self.0.exit(), 0, "{}", self.0.messages.text());
    }
}

/// Of lines, those of one voice, without its name.
fn voice(lines: &[String], name: &str) -> Vec<String> {
    lines.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned).collect()
}

on_session_and_system!(Client::Python, an_event_loop_hears_both_styles_and_its_filter);

fn an_event_loop_hears_both_styles_and_its_filter(instance: &Instance, gateway: &Gateway) {
    instance.define(&Guest::tiny("a"));
    instance.define(&Guest::tiny("b"));
    let mut events = Events::start(instance, &[&gateway.uri(), "--only", "b", "--keepalive", "5", "3"]);
    for verb in ["start", "suspend", "resume", "destroy"] {
        instance.ok(&[verb, "a"]);
        instance.ok(&[verb, "b"]);
    }
    // The last one that is heard: the three voices may speak in any order.
    instance.ok(&["undefine", "a"]);
    let mut lines = events.until("any a Undefined 0");
    lines.push("any a Undefined 0".into());
    // By libvirt's numbers: booted, paused, unpaused, destroyed.
    let life = |name: &str| {
        [("Started", 0), ("Suspended", 0), ("Resumed", 0), ("Stopped", 1)]
            .map(|(event, detail)| format!("{name} {event} {detail}"))
    };
    let of = |lines: &[String], name: &str| -> Vec<String> {
        let of_it = lines.iter().filter(|line| line.starts_with(&format!("{name} ")));
        of_it.cloned().collect()
    };
    let any = voice(&lines, "any");
    assert_eq!(of(&any, "a")[..4], life("a"), "{lines:?}");
    assert_eq!(of(&any, "b"), life("b"), "{lines:?}");
    assert_eq!(voice(&lines, "only-b"), life("b"), "{lines:?}");
    let old = voice(&lines, "old");
    assert_eq!((&of(&old, "a")[..4], of(&old, "b")), (&life("a")[..], life("b").to_vec()), "{lines:?}");

    events.ask("drop old", "dropped");
    instance.ok(&["start", "b"]);
    instance.ok(&["destroy", "b"]);
    let lines = events.until("only-b b Stopped 1");
    assert!(voice(&lines, "old").is_empty(), "{lines:?}");
    assert!(voice(&lines, "any").contains(&"b Started 0".into()), "{lines:?}");
    events.ask("list", "list b");
    events.ask("alive", "alive 1");
    events.leave();
}

/// Resets, notes and what a guest's balloon does are told as lifecycles are, and are numbered and kept with them.
#[test]
fn what_else_happens_is_heard_and_is_there_after_a_restart() {
    if !Client::Python.is_here("what_else_happens_is_heard_and_is_there_after_a_restart") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    instance.define(&Guest::tiny("a"));
    instance.ok(&["start", "a"]);
    let mut events = Events::start(&instance, &[&gateway.uri()]);
    instance.ok(&["reset", "a"]);
    events.until("reboot a");
    events.ask("title a", "metadata a 1 None");
    let (launcher, control) = (instance.launcher(), instance.control());
    launcher.kill();
    control.kill();
    instance.ok(&["reset", "a"]);
    events.until("reboot a");
    events.leave();
    instance.ok(&["destroy", "a"]);
    let told = instance.ok(&["--output", "json", "event", "--all", "--since", "0"]);
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<u64> = told.iter().map(|event| event["sequence"].as_u64().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "no gaps: {told:?}");
    let names: Vec<&str> = told.iter().filter_map(|event| event["event"].as_str()).collect();
    assert!(names.iter().filter(|name| **name == "reboot").count() >= 2, "{names:?}");
    let metadata = told.iter().find(|event| event["event"] == "metadata-change").unwrap();
    assert_eq!(metadata["data"]["type"], "title");
    assert_eq!(names.last(), Some(&"lifecycle"));
}

on_session_and_system!(Client::Python, a_reader_hears_events_too);

fn a_reader_hears_events_too(instance: &Instance, gateway: &Gateway) {
    let mut events = Events::start(instance, &[&gateway.read_only_uri(), "--read-only"]);
    instance.create(&Guest::tiny("a"));
    events.until("any a Started 0");
    events.leave();
}

on_session_and_system!(Client::Python, each_filter_lets_its_own_domain_through);

fn each_filter_lets_its_own_domain_through(instance: &Instance, gateway: &Gateway) {
    for name in ["a", "b", "c"] {
        instance.create(&Guest::tiny(name));
    }
    let mut events = Events::start(instance, &[&gateway.uri(), "--only", "a", "--only", "b"]);
    for verb in ["suspend", "resume", "destroy"] {
        for name in ["c", "b", "a"] {
            events.ask(&format!("{verb} {name}"), &format!("did {verb} {name}"));
        }
    }
    let mut lines = events.all_until("only-a a Stopped 1");
    // A voice that is silent for longer may still have something to say.
    if !voice(&lines, "only-b").contains(&"b Stopped 1".into()) {
        lines = events.all_until("only-b b Stopped 1");
    }
    let life = |name: &str| ["Suspended 0", "Resumed 0", "Stopped 1"].map(|event| format!("{name} {event}"));
    assert_eq!((voice(&lines, "only-a"), voice(&lines, "only-b")), (life("a").into(), life("b").into()), "{lines:?}");
    let others = voice(&lines, "any").into_iter().filter(|line| line.starts_with("c ")).collect::<Vec<_>>();
    assert_eq!(others, life("c"), "{lines:?}");
    events.leave();
}

on_session_and_system!(Client::Python, how_a_guest_ends_is_heard);

/// A document with a UUID, which may be given again.
fn known(document: &str) -> String {
    document.replace("</name>", "</name><uuid>8b28a0a4-2a2f-4d4c-9a76-8b5d0f8a6a0e</uuid>")
}

/// A kernel that panics, one that powers off, and definitions that change: by libvirt's numbers.
fn how_a_guest_ends_is_heard(instance: &Instance, gateway: &Gateway) {
    let panics = Guest { devices: "<panic model='isa'/>".into(), ..instance.linux("a") };
    let document = instance.file("a.xml", known(&panics.xml()).as_bytes());
    let mut events = Events::start(instance, &[&gateway.uri()]);
    let define = format!("define {}", document.display());
    events.ask(&define, &format!("did {define}"));
    events.ask(&define, &format!("did {define}"));
    for (typed, heard) in
        [("echo c > /proc/sysrq-trigger", &["Crashed 0", "Stopped 2"]), ("poweroff -f", &["Shutdown 1", "Stopped 0"])]
    {
        let mut console = instance.start("a");
        console.line(typed);
        for event in heard {
            events.until(&format!("any a {event}"));
        }
        assert_eq!(console.exit(), 0, "{}", console.messages.text());
    }
    // A start that QEMU itself refuses.
    let image = instance.file("no.qcow2", &[0; 65_536]);
    instance.define(&Guest::tiny("f").disk(&image, "qcow2"));
    assert_ne!(instance.bulkhead(&["start", "f"]).code, 0);
    events.until("any f Stopped 5");
    events.ask("rename a z", "did rename a z");
    events.ask("undefine z", "did undefine z");
    let lines = events.all_until("any z Undefined 0");
    // A start with a console waits until that is open.
    let expected = [
        "a Defined 0",
        "a Defined 1",
        "a Started 0",
        "a Suspended 0",
        "a Resumed 0",
        "a Crashed 0",
        "a Stopped 2",
        "a Started 0",
        "a Suspended 0",
        "a Resumed 0",
        "a Shutdown 1",
        "a Stopped 0",
        "f Defined 0",
        "f Stopped 5",
        "a Undefined 1",
        "z Defined 2",
        "z Undefined 0",
    ];
    assert_eq!(voice(&lines, "any"), expected, "{lines:?}");
    assert_eq!(voice(&lines, "old"), expected, "{lines:?}");
    events.leave();
}

/// The mock hypervisor's events: each connection has a host of its own, so the program itself does what it hears of.
#[test]
fn the_mock_hypervisor_tells_of_itself() {
    if !Client::Python.is_here("the_mock_hypervisor_tells_of_itself") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let document = instance.file("mock.xml", known(&Guest::tiny("m").mock_xml()).as_bytes());
    let mut events = Events::start(&instance, &[&gateway.test_uri(), "--only", "test"]);
    let define = format!("define {}", document.display());
    for command in [
        define.as_str(),
        &define,
        "start m",
        "suspend test",
        "suspend m",
        "resume m",
        "reboot m",
        "nmi m",
        "start m",
        "destroy m",
        "rename m n",
        "undefine n",
        "resume test",
        "shutdown test",
        "undefine test",
    ] {
        events.ask(command, &format!("did {command}"));
    }
    events.ask("list", "list");
    let mut lines = events.all_until("any test Undefined 0");
    // Each voice says it for itself, and this one may come behind.
    if !voice(&lines, "only-test").contains(&"test Undefined 0".into()) {
        lines = events.all_until("only-test test Undefined 0");
    }
    let of_test = ["test Suspended 0", "test Resumed 0", "test Shutdown 1", "test Stopped 0", "test Undefined 0"];
    assert_eq!(voice(&lines, "only-test"), of_test, "{lines:?}");
    let expected = [
        "m Defined 0",
        "m Defined 1",
        "m Started 0",
        "test Suspended 0",
        "m Suspended 0",
        "m Resumed 0",
        "m Crashed 0",
        "m Stopped 2",
        "m Started 0",
        "m Stopped 1",
        "m Undefined 1",
        "n Defined 2",
        "n Undefined 0",
        "test Resumed 0",
        "test Shutdown 1",
        "test Stopped 0",
        "test Undefined 0",
    ];
    assert_eq!(voice(&lines, "any"), expected, "{lines:?}");
    assert_eq!(voice(&lines, "old"), expected, "{lines:?}");
    events.ask("start m", "error 42 Domain not found: no domain with matching name 'm'");
    events.leave();
    assert_eq!(instance.role(Role::Control).len(), 0, "qemud is not needed for it");
}

on_session_and_system!(Client::Python, a_killed_daemon_is_not_noticed);

/// libvirt's callbacks end with the daemon; ours go on, and what happened in between is heard.
fn a_killed_daemon_is_not_noticed(instance: &Instance, gateway: &Gateway) {
    for name in ["a", "b"] {
        instance.define(&Guest::tiny(name));
        instance.ok(&["start", name]);
    }
    let mut events = Events::start(instance, &[&gateway.uri(), "--only", "a", "--keepalive", "5", "3"]);
    for turn in 0..2 {
        let qemu = instance.qemu("b");
        let (launcher, control) = (instance.launcher(), instance.control());
        launcher.kill();
        control.kill();
        qemu.kill();
        if instance.is_system() {
            // A host's is started by the host, here by the command line.
            instance.ok(&["list"]);
        }
        // In a session nobody but the gateway is there to start it again: it does, because somebody listens.
        let lines = events.until("any b Stopped 2");
        assert!(!lines.iter().any(|line| line.starts_with("closed") || line.starts_with("error")), "{lines:?}");
        assert!(voice(&lines, "any").is_empty(), "turn {turn}: nothing is told twice: {lines:?}");
        events.ask("list", "list a b");
        instance.ok(&["suspend", "a"]);
        events.until("only-a a Suspended 0");
        instance.ok(&["resume", "a"]);
        events.until("only-a a Resumed 0");
        instance.ok(&["start", "b"]);
        events.until("any b Started 0");
    }
    events.ask("alive", "alive 1");
    events.leave();
}

#[test]
fn the_end_of_the_gateway_is_told() {
    if !Client::Python.is_here("the_end_of_the_gateway_is_told") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let mut events = Events::start(&instance, &[&gateway.uri()]);
    gateway.end();
    // End of file, in libvirt's numbers.
    events.until("closed 1");
    assert_eq!(events.0.exit(), 0, "{}", events.0.messages.text());
}

/// Keepalive, from both sides: who does not answer is given up, and nobody else notices.
#[test]
fn who_does_not_answer_is_given_up() {
    if !Client::Python.is_here("who_does_not_answer_is_given_up") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start_with(&instance, "keepalive_seconds = 1\nkeepalive_count = 1\n");
    let mut stuck = Events::start(&instance, &[&gateway.test_uri()]);
    let mut other = Events::start(&instance, &[&gateway.uri(), "--keepalive", "1", "1"]);
    let serving = gateway.workers();
    let client = bulkhead_tests::Handle::open(stuck.0.pid()).unwrap();
    client.signal(Signal::STOP);
    let given_up =
        wait_until(LONG, || serving.iter().any(|worker| !worker.is_alive()) || gateway.log().contains("keepalive"));
    assert!(given_up, "{}", gateway.log());
    other.ask("alive", "alive 1");
    client.signal(Signal::CONT);
    // It has been told by the end of the connection, or by the failure of its late answer.
    stuck.0.expect("closed ");

    let workers = gateway.workers();
    workers.iter().for_each(|worker| worker.signal(Signal::STOP));
    // No answer, in libvirt's numbers.
    other.until("closed 2");
    workers.iter().for_each(|worker| worker.signal(Signal::CONT));
    assert_eq!((stuck.0.exit(), other.0.exit()), (0, 0));
}

on_session_and_system!(Client::Python, a_console_is_a_stream_with_callbacks);

fn a_console_is_a_stream_with_callbacks(instance: &Instance, gateway: &Gateway) {
    let mock = run(client_program(
        instance,
        "console.py",
        &[&gateway.test_uri(), "test", "--want", "", "a line", "--want", "a line", "", "--abort"],
    ));
    assert_eq!(mock.code, 0, "{}{}", mock.stdout, mock.stderr);
    let document = instance.document(&instance.linux("a"));
    {
        let _permit = boot_permit();
        instance.ok(&["create", document.to_str().unwrap()]);
        let first = run(client_program(
            instance,
            "console.py",
            &[&gateway.uri(), "a", "--want", PROMPT, "echo $((6 * 7))", "--want", "42", ""],
        ));
        assert!(first.code == 0 && first.stdout.contains("console: done"), "{}{}", first.stdout, first.stderr);
    }
    // What one has left another takes up; the guest's end is the end of the stream.
    let second = run(client_program(
        instance,
        "console.py",
        &[&gateway.uri(), "a", "--want", "", "", "--want", PROMPT, "poweroff -f", "--want", "never", ""],
    ));
    assert!(second.code == 1 && second.stderr.contains("the console has ended"), "{}{}", second.stdout, second.stderr);
    assert!(wait_until(LONG, || instance.list().is_empty()));
}

on_session_and_system!(Client::Python, statistics_of_all_are_collected);

fn statistics_of_all_are_collected(instance: &Instance, gateway: &Gateway) {
    let disk = instance.file("disk.img", &[0; 65_536]);
    instance.define(&Guest::tiny("off"));
    instance.create(&Guest::tiny("on").disk(&disk, "raw"));
    let output = run(client_program(instance, "stats.py", &[&gateway.read_only_uri(), "20"]));
    assert_eq!(output.code, 0, "{}", output.stderr);
    let stats: Value = serde_json::from_str(&output.stdout).unwrap();

    // By libvirt's numbers: running, shut off.
    assert_eq!(stats["all"]["on"]["state.state"], 1, "{stats:#}");
    assert_eq!(stats["all"]["off"]["state.state"], 5, "{stats:#}");
    assert_eq!(stats["active"], serde_json::json!(["on"]));
    let on = &stats["all"]["on"];
    assert!(on["cpu.time"].as_u64().is_some_and(|time| time > 0), "{on:#}");
    assert_eq!((&on["balloon.maximum"], &on["vcpu.current"]), (&16_384.into(), &1.into()), "{on:#}");
    assert_eq!((&on["block.count"], &on["block.0.name"]), (&1.into(), &"vda".into()), "{on:#}");
    for (group, expected) in
        [("state", "state."), ("cpu", "cpu."), ("balloon", "balloon."), ("vcpu", "vcpu."), ("block", "block.")]
    {
        let names = stats["groups"][group]["on"].as_array().unwrap();
        let own = names.iter().all(|name| name.as_str().unwrap().starts_with(expected));
        assert!(own && !names.is_empty(), "only what was asked for: {group}: {names:?}");
    }
    let one = &stats["one"]["on"];
    assert_eq!(
        (&one["info"][0], &one["info"][1], &one["max_vcpus"]),
        (&1.into(), &16_384.into(), &1.into()),
        "{one:#}"
    );
    assert!(one["memory"]["rss"].as_u64().is_some_and(|rss| rss > 1024), "{one:#}");
    assert!(one["cpu"][0]["cpu_time"].as_u64() > Some(0), "{one:#}");
    assert_eq!(one["limits"]["hard_limit"], 9_007_199_254_740_991_u64, "{one:#}");
    assert!(one["emulator"].as_array().is_some_and(|cpus| !cpus.is_empty()), "{one:#}");
    assert_eq!(one["vcpus"][0][0], 0, "{one:#}");
    let host = &stats["host"];
    assert!(host["memory"]["total"].as_u64() > host["memory"]["free"].as_u64(), "{host:#}");
    assert!(host["cpu"]["user"].as_u64().is_some() && host["free"].as_u64() > Some(0), "{host:#}");
    assert!(host["map"].as_u64() > Some(0), "{host:#}");
    assert_eq!(stats["refused"][0], 29, "{stats:#}");
    assert_eq!(instance.state("on"), "running (booted)");
}

/// What a program gets that asks for everything a host can have, of a host that has guests only.
#[track_caller]
fn has_nothing_else(output: &Output) {
    assert_eq!(output.code, 0, "{}", output.stderr);
    let answers: serde_json::Map<String, Value> = serde_json::from_str(&output.stdout).unwrap();
    // By libvirt's numbers.
    let codes = [
        ("unknown flags", 8),
        ("networkLookupByName", 43),
        ("networkLookupByUUIDString", 43),
        ("storagePoolLookupByName", 49),
        ("storagePoolLookupByUUIDString", 49),
        ("storagePoolLookupByTargetPath", 49),
        ("storageVolLookupByKey", 50),
        ("storageVolLookupByPath", 50),
        ("nodeDeviceLookupByName", 53),
        ("interfaceLookupByName", 57),
        ("interfaceLookupByMACString", 57),
        ("nwfilterLookupByName", 62),
        ("secretLookupByUUIDString", 66),
        ("secretLookupByUsage", 66),
        ("snapshotCurrent", 72),
        ("snapshotLookupByName", 72),
        ("nwfilterBindingLookupByPortDev", 101),
        ("checkpointLookupByName", 103),
        ("networkDefineXML", 3),
        ("storagePoolDefineXML", 3),
    ];
    for (name, answer) in &answers {
        let code = codes.iter().find(|(of, _)| of == name).map(|(_, code)| *code);
        let expected = match code {
            Some(code) => Value::from(code),
            None if name.ends_with("events") => "registered".into(),
            None if name.starts_with("num") || name == "snapshotNum" || name == "hasCurrentSnapshot" => 0.into(),
            None => Value::Array(Vec::new()),
        };
        let no = name == "hasCurrentSnapshot" && *answer == Value::Bool(false);
        assert!(*answer == expected || no, "{name}: {answer}, not {expected}");
    }
    assert_eq!(answers.len(), 20 + codes.len() + 1 + 5 + 4, "{answers:#?}");
}

on_session_and_system!(Client::Python, a_host_with_guests_only_says_that_it_has_nothing_else);

fn a_host_with_guests_only_says_that_it_has_nothing_else(instance: &Instance, gateway: &Gateway) {
    instance.define(&Guest::tiny("a"));
    has_nothing_else(&run(client_program(instance, "nothing.py", &[&gateway.uri(), "a"])));
}

#[test]
fn the_mock_hypervisor_has_nothing_else_either() {
    if !Client::Python.is_here("the_mock_hypervisor_has_nothing_else_either") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    has_nothing_else(&run(client_program(&instance, "nothing.py", &[&gateway.test_uri(), "test"])));
}

#[test]
fn statistics_of_the_mock_hypervisor_are_collected() {
    if !Client::Python.is_here("statistics_of_the_mock_hypervisor_are_collected") {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let output = run(client_program(&instance, "stats.py", &[&gateway.read_only_test_uri(), "20"]));
    assert_eq!(output.code, 0, "{}", output.stderr);
    let stats: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(stats["active"], serde_json::json!(["test"]));
    let test = &stats["all"]["test"];
    assert_eq!(
        (&test["state.state"], &test["balloon.maximum"], &test["vcpu.current"]),
        (&1.into(), &8_388_608.into(), &2.into())
    );
    for group in ["state", "cpu", "balloon", "vcpu"] {
        assert!(stats["groups"][group]["test"].as_array().is_some_and(|names| !names.is_empty()), "{stats:#}");
    }
    let one = &stats["one"]["test"];
    assert_eq!((&one["info"][0], &one["max_vcpus"]), (&1.into(), &2.into()), "{one:#}");
    assert!(one["cpu"][0]["cpu_time"].as_u64() > Some(0), "{one:#}");
    assert_eq!(one["vcpus"].as_array().map(Vec::len), Some(2), "{one:#}");
    assert_eq!(one["emulator"], serde_json::json!(vec![true; 8]), "{one:#}");
    let host = &stats["host"];
    assert!(host["cpu"]["idle"].as_u64() > Some(0) && host["free"].as_u64() > Some(0), "{host:#}");
    assert_eq!(host["map"], 8, "{host:#}");
    assert_eq!(stats["refused"][0], 29, "{stats:#}");
}

on_session_and_system!(Client::Python, many_threads_and_many_connections_get_their_own_answers);

fn many_threads_and_many_connections_get_their_own_answers(instance: &Instance, gateway: &Gateway) {
    instance.create(&Guest::tiny("a"));
    let output = run(client_program(instance, "stress.py", &[&gateway.uri(), "a"]));
    assert_eq!(output.code, 0, "{}{}\n{}", output.stdout, output.stderr, gateway.log());
    assert_eq!(output.stdout, "threads: 8 x 200 calls\nconnections: 50\n");
    let output = run(client_program(instance, "stress.py", &[&gateway.test_uri(), "test"]));
    assert_eq!(output.code, 0, "{}{}\n{}", output.stdout, output.stderr, gateway.log());
    // The daemon has one connection less for each that was closed; nobody is served by what is left of another.
    assert_eq!(instance.role(Role::Control).len(), 1);
}
