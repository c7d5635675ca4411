//! Our own client at Debian's libvirtd, and at our gateway by the same protocol: the same verbs, the same answers.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, os::unix::fs::PermissionsExt, process::Command, time::Duration};

use bulkhead_tests::{
    Gateway, Guest, Instance, LONG, Libvirtd, Output, PROMPT, Terminal, boot_permit, run, wait_until,
};

/// `bulkhead` at a URI.
struct Bulkhead<'a> {
    instance: &'a Instance,
    uri: String,
}

impl Bulkhead<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.instance.program("bulkhead"));
        command.args(["-c", &self.uri]).args(arguments);
        self.instance.prepare(&mut command, self.instance.uid());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(self.command(arguments))
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.code, 0, "bulkhead -c {} {arguments:?}: {}{}", self.uri, output.stdout, output.stderr);
        output.stdout
    }

    /// What a verb answers, without what differs between any two hosts.
    fn told(&self, arguments: &[&str]) -> (String, i32, String) {
        let Output { code, stdout, stderr } = self.run(arguments);
        let own = |line: &str| {
            let line = line.replace(&self.uri, "URI");
            let words = line.split(' ').map(|word| if is_uuid(word) { "UUID" } else { word });
            let line = words.collect::<Vec<_>>().join(" ");
            match line.split_once(':') {
                Some((key @ ("CPU time" | "Memory size" | "CPU frequency"), _)) => format!("{key}: some"),
                Some(("Id", id)) if id.trim() != "-" => "Id: some".to_owned(),
                _ => without_id(&line),
            }
        };
        // What only our hosts know.
        let more = |line: &&str| ["Machine:", "Accelerator:", "Supervisor:"].iter().any(|key| line.starts_with(key));
        let lines = stdout.lines().chain(stderr.lines()).filter(|line| !more(line)).map(own);
        (arguments.join(" "), code, lines.collect::<Vec<_>>().join("\n"))
    }
}

/// A row of the list without the number that a run has got.
fn without_id(line: &str) -> String {
    match line.trim_start().split_once(' ') {
        Some((id, rest)) if id.parse::<u32>().is_ok() => format!("N {}", rest.trim_start()),
        _ => line.to_owned(),
    }
}

fn is_uuid(word: &str) -> bool {
    let word = word.trim_matches(|c: char| !c.is_ascii_hexdigit());
    word.len() == 36 && word.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// Every verb of two lives, and what refuses them.
fn lives(instance: &Instance, bulkhead: &Bulkhead<'_>) -> Vec<(String, i32, String)> {
    let persistent = instance.document(&Guest::tiny("a"));
    let transient = instance.document(&Guest::tiny("t"));
    let (persistent, transient) = (persistent.to_str().unwrap(), transient.to_str().unwrap());
    let verbs: &[&[&str]] = &[
        &["uri"],
        &["version"],
        &["hostname"],
        &["nodeinfo"],
        &["list", "--all"],
        &["-r", "define", persistent],
        &["define", persistent],
        &["list", "--all"],
        &["list", "--all", "--name"],
        &["list", "--inactive", "--persistent"],
        &["dominfo", "a"],
        &["domuuid", "a"],
        &["domid", "a"],
        &["domstate", "--reason", "a"],
        &["start", "a"],
        &["start", "a"],
        &["list"],
        &["domname", "a"],
        &["dominfo", "a"],
        &["domstate", "--reason", "a"],
        &["suspend", "a"],
        &["domstate", "--reason", "a"],
        &["-r", "resume", "a"],
        &["resume", "a"],
        &["domstate", "--reason", "a"],
        &["reset", "a"],
        &["reboot", "a"],
        &["autostart", "a"],
        &["list", "--all", "--autostart", "--name"],
        &["autostart", "--disable", "a"],
        &["shutdown", "a"],
        &["destroy", "a"],
        &["destroy", "a"],
        &["domstate", "--reason", "a"],
        &["undefine", "a"],
        &["dominfo", "a"],
        &["create", transient],
        &["create", transient],
        &["undefine", "t"],
        &["list", "--transient", "--name"],
        &["destroy", "t"],
        &["list", "--all"],
    ];
    verbs.iter().map(|arguments| bulkhead.told(arguments)).collect()
}

#[test]
fn libvirtd_and_the_gateway_answer_alike() {
    const TEST: &str = "libvirtd_and_the_gateway_answer_alike";
    let Some(libvirtd) = Libvirtd::start(TEST) else { return };
    let Some(instance) = Instance::system(TEST) else { return };
    let gateway = Gateway::start(&instance);
    let theirs = Bulkhead { instance: &instance, uri: libvirtd.uri() };
    let ours = Bulkhead { instance: &instance, uri: gateway.uri() };
    for ((verb, code, text), (_, our_code, our_text)) in
        lives(&instance, &theirs).into_iter().zip(lives(&instance, &ours))
    {
        assert_eq!((our_code, &our_text), (code, &text), "bulkhead {verb}: ours is left, libvirtd's right");
    }
    for side in [&theirs, &ours] {
        assert!(side.ok(&["capabilities"]).starts_with("<capabilities>"));
        let document = instance.document(&Guest::tiny("d"));
        side.ok(&["define", document.to_str().unwrap()]);
        let text = side.ok(&["dumpxml", "d"]);
        assert!(text.starts_with("<domain type='qemu'>\n  <name>d</name>\n  <uuid>"), "{text}");
        assert!(text.contains("<memory unit='KiB'>16384</memory>") && text.ends_with("</domain>\n"), "{text}");
        // A document that one has made the other takes.
        let other = instance.file("other.xml", text.replace("<name>d<", "<name>e<").as_bytes());
        side.ok(&["undefine", "d"]);
        side.ok(&["define", other.to_str().unwrap()]);
        side.ok(&["undefine", "e"]);
    }
}

#[test]
fn libvirtds_mock_is_managed() {
    const TEST: &str = "libvirtds_mock_is_managed";
    let Some(libvirtd) = Libvirtd::start(TEST) else { return };
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    for uri in [libvirtd.test_uri(), gateway.test_uri()] {
        let bulkhead = Bulkhead { instance: &instance, uri };
        assert_eq!(bulkhead.ok(&["list", "--name"]).trim(), "test");
        assert_eq!(bulkhead.ok(&["domstate", "test"]).trim(), "running");
        assert!(bulkhead.ok(&["dumpxml", "1"]).starts_with("<domain type='test' id='1'>"));
        // A pair, because libvirtd's mock remembers it and ours is a new one for every connection.
        assert_eq!(bulkhead.ok(&["suspend", "test"]).trim(), "Domain 'test' suspended");
        bulkhead.run(&["resume", "test"]);
        assert_eq!(bulkhead.run(&["-r", "destroy", "test"]).code, 5, "read-only");
        assert_eq!(bulkhead.run(&["dominfo", "nobody"]).code, 3, "not found");
        assert!(bulkhead.ok(&["nodeinfo"]).contains("i686"));
    }
}

#[test]
fn events_come_from_libvirtd() {
    const TEST: &str = "events_come_from_libvirtd";
    let Some(libvirtd) = Libvirtd::start(TEST) else { return };
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    for uri in [libvirtd.uri(), gateway.uri()] {
        let bulkhead = Bulkhead { instance: &instance, uri };
        for name in ["noise", "a"] {
            let document = instance.document(&Guest::tiny(name));
            bulkhead.ok(&["define", document.to_str().unwrap()]);
        }
        let mut watch = Terminal::on_pipes(bulkhead.command(&["event", "--all", "--loop", "--output", "json"]));
        // It does not say when it listens: its first event does.
        let heard = wait_until(LONG, || {
            bulkhead.ok(&["start", "noise"]);
            bulkhead.ok(&["destroy", "noise"]);
            !watch.output.is_empty()
        });
        assert!(heard, "{}", watch.messages.text());
        for verb in ["start", "suspend", "resume", "destroy", "undefine"] {
            bulkhead.ok(&[verb, "a"]);
        }
        watch.expect("\"Undefined\"");
        let text = watch.output.text();
        let kinds = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            (value["domain"]["name"] == "a").then(|| format!("{} {}", value["kind"], value["detail"]).replace('"', ""))
        };
        let seen: Vec<String> = text.lines().filter_map(kinds).collect();
        let mut rest = seen.iter();
        // libvirtd tells more: a start resumes, a destruction shuts down.
        for expected in
            ["Started Booted", "Suspended Paused", "Resumed Unpaused", "Stopped Destroyed", "Undefined Removed"]
        {
            assert!(rest.any(|event| event == expected), "no '{expected}' in its place in {seen:?}");
        }
        bulkhead.ok(&["undefine", "noise"]);
    }
}

/// Other hosts are asked for signs of life unasked: who listens must be one that answers, and not only who was told before.
#[test]
fn libvirtd_and_the_gateway_give_signs_of_life() {
    const TEST: &str = "libvirtd_and_the_gateway_give_signs_of_life";
    let Some(libvirtd) = Libvirtd::start(TEST) else { return };
    let instance = Instance::session();
    instance.ok(&["list"]);
    let gateway = Gateway::start(&instance);
    for uri in [libvirtd.uri(), gateway.uri()] {
        let connection = libclient::Connection::open(&uri).unwrap();
        let mut stream = connection.subscribe(None).unwrap();
        connection.set_keepalive(Duration::from_millis(200), 2).unwrap();
        // Three times the time after which a silent one is dead.
        let event = stream.next(Some(Duration::from_millis(1800))).unwrap();
        assert!(event.is_none() && !stream.lost(), "{uri}: it was taken for dead");
    }
}

#[test]
fn a_console_at_libvirtd_is_a_terminal() {
    const TEST: &str = "a_console_at_libvirtd_is_a_terminal";
    let Some(libvirtd) = Libvirtd::start(TEST) else { return };
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    for uri in [libvirtd.uri(), gateway.uri()] {
        let bulkhead = Bulkhead { instance: &instance, uri };
        let document = instance.document(&instance.linux("a"));
        let permit = boot_permit();
        // The escape is a key of a terminal's.
        let mut console = Terminal::on_pty(bulkhead.command(&["create", "--console", document.to_str().unwrap()]));
        console.expect(PROMPT);
        drop(permit);
        assert_eq!(console.command("echo $((6 * 7))"), "42\n");
        let many = console.command("n=0; while [ $n -lt 5000 ]; do echo line $n; n=$((n+1)); done");
        assert_eq!(many.lines().count(), 5000);
        console.send(b"\x1d");
        assert_eq!(console.exit(), 0);
        assert_eq!(bulkhead.ok(&["domstate", "a"]).trim(), "running");
        let mut again = Terminal::on_pipes(bulkhead.command(&["console", "a"]));
        again.line("");
        again.expect(PROMPT);
        again.line("poweroff -f");
        assert_eq!(again.exit(), 0, "{}", again.messages.text());
        assert!(wait_until(LONG, || bulkhead.ok(&["list", "--all", "--name"]).trim().is_empty()));
    }
}

/// A gateway that is restarted, and guests that do not wait for it: our client comes back and is told what it missed.
#[test]
fn our_client_comes_back_and_misses_nothing() {
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    instance.create(&Guest::tiny("a"));
    let bulkhead = Bulkhead { instance: &instance, uri: gateway.uri() };
    let following = ["event", "--all", "--loop", "--since", "0", "--output", "json"];
    let mut watch = Terminal::on_pipes(bulkhead.command(&following));
    watch.expect("\"Started\"");
    gateway.end();
    for _ in 0..2 {
        instance.ok(&["suspend", "a"]);
        let gateway = Gateway::start(&instance);
        watch.expect("\"Suspended\"");
        instance.ok(&["resume", "a"]);
        watch.expect("\"Resumed\"");
        gateway.end();
    }
    instance.ok(&["destroy", "a"]);
    let _gateway = Gateway::start(&instance);
    watch.expect("\"Stopped\"");
    let text = watch.output.text();
    let sequences: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["sequence"].as_u64().unwrap())
        .collect();
    assert!(
        sequences.len() == 6 && sequences.is_sorted_by(|a, b| a + 1 == *b),
        "each once and in order: {sequences:?}\n{text}"
    );
}

#[test]
fn a_daemon_that_is_not_there_is_named() {
    let instance = Instance::session();
    let socket = instance.root().join("nobody-sock");
    let bulkhead = Bulkhead { instance: &instance, uri: format!("qemu+unix:///system?socket={}", socket.display()) };
    let output = bulkhead.run(&["list"]);
    assert_ne!(output.code, 0);
    assert!(output.stderr.contains(socket.to_str().unwrap()), "{}", output.stderr);
}

/// What ssh starts on the far side, started here by a program of our own.
#[test]
fn the_far_end_of_ssh_reaches_this_hosts_gateway() {
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let helper = instance.program("bulkhead-ssh-helper");
    let far_end = |options: &str| {
        let (dir, helper) = (instance.root().display(), helper.display());
        let script = format!("#!/bin/sh\nPATH={dir}:$PATH exec {helper} {options} qemu:///session\n");
        let path = instance.file(if options.is_empty() { "helper" } else { "reader" }, script.as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        format!("qemu+ext:///session?command={}", path.display())
    };
    let bulkhead = Bulkhead { instance: &instance, uri: far_end("") };
    instance.define(&Guest::tiny("a"));
    bulkhead.ok(&["start", "a"]);
    assert_eq!(bulkhead.ok(&["list", "--name"]), "a\n");
    let reader = Bulkhead { instance: &instance, uri: far_end("-r") };
    assert_eq!(reader.ok(&["domstate", "a"]).trim(), "running");
    assert_eq!(reader.run(&["destroy", "a"]).code, 5, "a reader's end takes no changes");
    gateway.end();
    // libvirt's helper may start a daemon, but gives a reader of a session what takes changes.
    let theirs = instance.file("virt-ssh-helper", b"#!/bin/sh\necho libvirt is asked >&2\n");
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o755)).unwrap();
    let output = bulkhead.run(&["list"]);
    assert!(output.code != 0 && output.stderr.contains("libvirt is asked"), "{}", output.stderr);
    let output = reader.run(&["list"]);
    assert!(
        output.code != 0 && output.stderr.contains("libvirt-sock-ro"),
        "the far end's own words: {}",
        output.stderr
    );
}
