//! Consoles: at a terminal that belongs to the test, and with pipes.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use crate::common::{Bench, Run, text};
use crate::terminal::Terminal;
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn the_escape_detaches_and_the_terminal_is_as_it_was() {
    let bench = Bench::new();
    let mut terminal = Terminal::start(&bench, &["console", "test"]);
    terminal.wait_for("Connected to 'test'; ^] detaches\r\n");
    assert!(terminal.is_raw());
    terminal.type_(b"echo me");
    terminal.wait_for("echo me");
    terminal.type_(b"\x1d");
    terminal.wait_for("Detached from 'test'; it goes on running\r\n");
    let (status, seen) = terminal.end();
    assert_eq!(status.code(), Some(0));
    assert_eq!(seen, "Connected to 'test'; ^] detaches\r\necho me\r\nDetached from 'test'; it goes on running\r\n");
}

#[test]
fn control_keys_reach_the_guest_and_not_this_host() {
    let bench = Bench::new();
    let mut terminal = Terminal::start(&bench, &["console", "test"]);
    terminal.wait_for("detaches\r\n");
    terminal.type_(b"\x03\x1a\x04|");
    terminal.wait_for("\x03\x1a\x04|");
    terminal.type_(b"\x1d");
    terminal.wait_for("Detached");
    assert_eq!(terminal.end().0.code(), Some(0));
}

#[test]
fn another_escape_can_be_chosen() {
    let bench = Bench::new();
    let mut terminal = Terminal::start(&bench, &["console", "test", "--escape", "^A"]);
    terminal.wait_for("Connected to 'test'; ^A detaches\r\n");
    terminal.type_(b"\x1d!");
    terminal.wait_for("\x1d!");
    terminal.type_(b"\x01");
    terminal.wait_for("Detached from 'test'");
    assert_eq!(terminal.end().0.code(), Some(0));
}

#[test]
fn a_read_only_console_can_be_left() {
    let bench = Bench::new();
    let mut terminal = Terminal::start(&bench, &["console", "test", "--read-only"]);
    terminal.wait_for("detaches\r\n");
    terminal.type_(b"not heard\x1d");
    terminal.wait_for("Detached from 'test'");
    let (status, seen) = terminal.end();
    assert_eq!(status.code(), Some(0));
    assert!(!seen.contains("not heard"), "{seen:?}");
}

#[test]
fn a_signal_restores_the_terminal_and_is_the_cause_of_death() {
    let bench = Bench::new();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut terminal = Terminal::start(&bench, &["console", "test"]);
        terminal.wait_for("detaches\r\n");
        kill_process(Pid::from_child(&terminal.child), signal).unwrap();
        assert_eq!(terminal.end().0.signal(), Some(signal.as_raw()));
    }
}

#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    let bench = Bench::new();
    let script = r#"trap '' HUP TERM; exec "$0" console test"#;
    let mut terminal = Terminal::with(bench.wrapped(&["sh", "-c", script], &[]));
    terminal.wait_for("detaches\r\n");
    for signal in [Signal::HUP, Signal::TERM] {
        kill_process(Pid::from_child(&terminal.child), signal).unwrap();
    }
    terminal.type_(b"still here");
    terminal.wait_for("still here");
    terminal.type_(b"\x1d");
    terminal.wait_for("Detached");
    assert_eq!(terminal.end().0.code(), Some(0));
}

#[test]
fn a_console_that_is_stopped_gives_the_terminal_back_until_it_goes_on() {
    let bench = Bench::new();
    let script = r#"set -m; sh -c 'echo "pid $$ "; exec "$0" console test' "$0"; echo "status $?"; read x; fg; echo "status $?"; read x"#;
    let mut terminal = Terminal::controlling(&bench, script, &[]);
    terminal.wait_for("detaches\r\n");
    assert!(terminal.is_raw());
    let pid = terminal.seen.split_once("pid ").unwrap().1.split_once(' ').unwrap().0.parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TSTP).unwrap();
    terminal.wait_for("status 147\r\n");
    terminal.is_as_found();
    terminal.seen.clear();
    terminal.type_(b"\n");
    terminal.wait_for("Connected to 'test'; ^] detaches\r\n");
    assert!(terminal.is_raw());
    terminal.type_(b"\x1d");
    terminal.wait_for("status 0\r\n");
    terminal.is_as_found();
    terminal.type_(b"\n");
    terminal.gone();
}

#[test]
fn a_guest_that_was_run_is_at_the_terminal_at_once() {
    let bench = Bench::new();
    bench.file("disk", "");
    let mut terminal = Terminal::start(&bench, &["run", "--name", "web", "--disk", "disk", "--accel", "tcg"]);
    terminal.wait_for("Domain 'web' started\r\nConnected to 'web'; ^] detaches\r\n");
    terminal.type_(b"login");
    terminal.wait_for("login");
    terminal.type_(b"\x1d");
    terminal.wait_for("Detached from 'web'; it goes on running\r\n");
    assert_eq!(terminal.end().0.code(), Some(0));
}

#[test]
fn a_guest_that_was_created_is_at_the_terminal_at_once() {
    let bench = Bench::new();
    bench.file(
        "web.xml",
        "<domain type='test'><name>web</name><memory>65536</memory><os><type>hvm</type></os></domain>",
    );
    let mut terminal = Terminal::start(&bench, &["create", "--console", "web.xml"]);
    terminal.wait_for("Domain 'web' created from 'web.xml'\r\nConnected to 'web'; ^] detaches\r\n");
    terminal.type_(b"\x1d");
    terminal.wait_for("Detached from 'web'; it goes on running\r\n");
    assert_eq!(terminal.end().0.code(), Some(0));
}

#[test]
fn with_pipes_bytes_pass_untouched_past_the_end_of_the_input() {
    let bench = Bench::new();
    let mut child = bench
        .command(&["console", "test"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let all: Vec<u8> = (0..=255).collect();
    child.stdin.take().unwrap().write_all(&all).unwrap();
    let mut echo = vec![0; all.len()];
    child.stdout.as_mut().unwrap().read_exact(&mut echo).unwrap();
    assert_eq!(echo, all);
    // The guest would go on for ever; a reader that has seen enough ends the attachment.
    drop(child.stdout.take());
    let run = Run::of(&child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_console_is_refused_to_those_who_may_only_look() {
    let run = Bench::new().run(&["-r", "console", "test"]);
    run.failed(
        5,
        &text(
            "
            error: cannot open the console of domain 'test'
              caused by: operation forbidden: read only access prevents bulkheadDomainOpenConsole
            ",
        ),
    );
}

#[test]
fn an_escape_that_is_no_key_is_a_usage_error() {
    let run = Bench::new().run(&["console", "test", "--escape", "two"]);
    assert_eq!(run.code, Some(2));
    assert_eq!(
        run.stderr.lines().next().unwrap(),
        "error: invalid value 'two' for '--escape <KEY>': must be one character, or ^ and one of @A-Z[\\]^_?"
    );
}
