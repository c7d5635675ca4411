//! Consoles: at a terminal that belongs to the test, and with pipes.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};

use crate::common::{Bench, Run, text};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Longer than anything here takes; a test that waits for so long has failed.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// A terminal with the program at it, and the test in the place of the person.
struct Terminal {
    person: OwnedFd,
    line: OwnedFd,
    child: Child,
    found: Termios,
    seen: String,
}

impl Terminal {
    fn start(bench: &Bench, arguments: &[&str]) -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname(&person, Vec::new()).unwrap();
        let line = rustix::fs::open(
            name.as_c_str(),
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        // Not the default, so that a program that restored a default instead of what it found would be noticed.
        let mut mode = tcgetattr(&line).unwrap();
        mode.local_modes.remove(LocalModes::ECHOE);
        tcsetattr(&line, OptionalActions::Now, &mode).unwrap();
        // Before the program runs: it is quick.
        let found = tcgetattr(&line).unwrap();
        let end = || Stdio::from(line.try_clone().unwrap());
        let child = bench.command(arguments).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        Self { person, line, child, found, seen: String::new() }
    }

    fn type_(&self, bytes: &[u8]) {
        assert_eq!(rustix::io::write(&self.person, bytes).unwrap(), bytes.len());
    }

    /// Reads what the program prints until these words have come.
    fn wait_for(&mut self, words: &str) {
        while !self.seen.contains(words) {
            let mut fds = [PollFd::new(&self.person, PollFlags::IN)];
            assert_ne!(poll(&mut fds, Some(&PATIENCE)).unwrap(), 0, "no '{words}' in {:?}", self.seen);
            let mut buffer = [0; 4096];
            let length = rustix::io::read(&self.person, &mut buffer).unwrap();
            self.seen.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.line).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits for the end of the program, and checks that the terminal is as it was.
    fn end(mut self) -> (ExitStatus, String) {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).unwrap();
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        assert_ne!(poll(&mut fds, Some(&PATIENCE)).unwrap(), 0, "does not end: {:?}", self.seen);
        let status = self.child.wait().unwrap();
        let left = tcgetattr(&self.line).unwrap();
        assert_eq!(
            (left.input_modes, left.output_modes, left.control_modes, left.local_modes),
            (self.found.input_modes, self.found.output_modes, self.found.control_modes, self.found.local_modes)
        );
        (status, std::mem::take(&mut self.seen))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // After a failed assertion only; a process that has ended is not there any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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
