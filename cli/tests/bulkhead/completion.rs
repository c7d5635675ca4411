//! What a shell is told, and what it gets when Tab is pressed.

use std::os::unix::fs::PermissionsExt;

use crate::common::{Bench, Run};

/// What bash would offer for the last word.
fn offered(bench: &Bench, line: &[&str]) -> Vec<String> {
    let run = Run::of(
        &bench
            .command(&[])
            .arg("--")
            .args(line)
            .env("COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", (line.len() - 1).to_string())
            .env("_CLAP_IFS", "\n")
            .output()
            .unwrap(),
    );
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    run.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_shell_is_told_to_ask_this_program() {
    let bench = Bench::new();
    for (shell, words) in [("bash", "complete -o nospace"), ("zsh", "#compdef bulkhead"), ("fish", "complete ")] {
        let run = bench.run(&["completions", shell]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
        assert!(run.stdout.contains(words), "{shell}: {}", run.stdout);
        assert!(run.stdout.contains("COMPLETE="), "{shell}: {}", run.stdout);
    }
    assert_eq!(bench.run(&["completion", "bash"]).stdout, bench.run(&["completions", "bash"]).stdout);
    assert_eq!(bench.run(&["completions", "tcsh"]).code, Some(2));
}

#[test]
fn verbs_are_completed() {
    assert_eq!(offered(&Bench::new(), &["bulkhead", "undef"]), ["undefine"]);
}

#[test]
fn names_are_completed_where_the_verb_can_do_something() {
    let bench = Bench::new();
    for (verb, names) in [
        ("dominfo", ["test"].as_slice()),
        ("suspend", &["test"]),
        ("console", &["test"]),
        ("undefine", &["test"]),
        ("start", &[]),
        ("resume", &[]),
    ] {
        assert_eq!(offered(&bench, &["bulkhead", verb, "te"]), names, "{verb}");
    }
    assert_eq!(offered(&bench, &["bulkhead", "-c", "test:///default", "domid", ""])[0], "test");
    assert_eq!(offered(&bench, &["bulkhead", "dominfo", "nope"]), [""; 0]);
}

#[test]
fn names_are_completed_behind_the_name_of_a_word_too() {
    let bench = Bench::new();
    assert_eq!(offered(&bench, &["bulkhead", "dominfo", "--domain", "te"]), ["test"]);
    assert_eq!(offered(&bench, &["bulkhead", "suspend", "test", "te"]), ["test"]);
}

#[test]
fn verbs_and_groups_are_completed_for_help() {
    let bench = Bench::new();
    assert_eq!(offered(&bench, &["bulkhead", "help", "domstat"]), ["domstate", "domstats"]);
    assert_eq!(offered(&bench, &["bulkhead", "help", "lifec"]), ["lifecycle"]);
}

#[test]
fn devices_of_the_domain_in_the_line_are_completed() {
    let bench = Bench::new();
    let node = "<node><domain type='test'><name>web</name><memory>65536</memory><os><type>hvm</type></os><devices>\
        <disk type='file'><source file='/a'/><target dev='vda'/></disk>\
        <interface type='network'><mac address='52:54:00:00:00:01'/><source network='n'/></interface>\
        <serial type='pty'/></devices></domain></node>";
    let uri = format!("test://{}", bench.file("node.xml", node));
    assert_eq!(offered(&bench, &["bulkhead", "-c", &uri, "domblkinfo", "web", "v"]), ["vda"]);
    assert_eq!(offered(&bench, &["bulkhead", "-c", &uri, "domifstat", "web", "52"]), ["52:54:00:00:00:01"]);
    assert_eq!(offered(&bench, &["bulkhead", "-c", &uri, "console", "web", "ser"]), ["serial0"]);
}

#[test]
fn kinds_of_events_are_completed() {
    assert_eq!(offered(&Bench::new(), &["bulkhead", "event", "--event", "watch"]), ["watchdog"]);
}

#[test]
fn uris_are_completed() {
    assert_eq!(offered(&Bench::new(), &["bulkhead", "-c", "test"]), ["test:///default"]);
}

#[test]
fn nothing_is_said_when_no_daemon_answers_and_none_is_started() {
    let bench = Bench::new();
    let marker = bench.path().join("started");
    let daemon = bench.file("qemud", format!("#!/bin/sh\n: > '{}'\nexit 1\n", marker.display()));
    std::fs::set_permissions(&daemon, std::fs::Permissions::from_mode(0o755)).unwrap();
    let asked = |complete: bool| {
        let mut command = bench.command(&[]);
        command.env("BULKHEAD_QEMUD", &daemon).env("BULKHEAD_URI", "qemu:///session");
        if complete {
            command.args(["--", "bulkhead", "start", "w"]).env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "2");
        } else {
            command.args(["list"]);
        }
        Run::of(&command.output().unwrap())
    };
    asked(true).gave("");
    assert!(!marker.exists(), "a completion has started a daemon");
    // The same program does start it for a verb: the test can fail.
    assert_eq!(asked(false).code, Some(4));
    assert!(marker.exists());
}

#[test]
fn an_unknown_shell_gets_silence() {
    Run::of(&Bench::new().command(&["--", "bulkhead", ""]).env("COMPLETE", "nosh").output().unwrap()).gave("");
}
