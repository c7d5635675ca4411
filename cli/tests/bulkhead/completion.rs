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
