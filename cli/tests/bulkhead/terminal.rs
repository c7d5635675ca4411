//! A terminal that belongs to the test.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::common::Bench;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Longer than anything here takes; a test that waits for so long has failed.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Signals do what they do by default, however the tests were started: in the background some are ignored.
const DEFAULTS: &[&str] = &["env", "--default-signal"];

/// A terminal with the program at it, and the test in the place of the person.
pub struct Terminal {
    person: OwnedFd,
    line: OwnedFd,
    pub child: Child,
    found: Termios,
    pub seen: String,
}

impl Terminal {
    pub fn start(bench: &Bench, arguments: &[&str]) -> Self {
        Self::with(bench.wrapped(DEFAULTS, arguments))
    }

    /// A shell script whose controlling terminal it is, with the program as `$0`. Its shell leads the session, so the terminal
    /// lives for as long as that does.
    pub fn controlling(bench: &Bench, script: &str, arguments: &[&str]) -> Self {
        Self::with(bench.wrapped(&[DEFAULTS, &["setsid", "--ctty", "sh", "-c", script]].concat(), arguments))
    }

    /// This command.
    pub fn with(mut command: Command) -> Self {
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
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        Self { person, line, child, found, seen: String::new() }
    }

    pub fn type_(&self, bytes: &[u8]) {
        assert_eq!(rustix::io::write(&self.person, bytes).unwrap(), bytes.len());
    }

    /// Reads what the program prints until these words have come.
    pub fn wait_for(&mut self, words: &str) {
        while !self.seen.contains(words) {
            let mut fds = [PollFd::new(&self.person, PollFlags::IN)];
            assert_ne!(poll(&mut fds, Some(&PATIENCE)).unwrap(), 0, "no '{words}' in {:?}", self.seen);
            let mut buffer = [0; 4096];
            let length = rustix::io::read(&self.person, &mut buffer).unwrap();
            self.seen.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
    }

    pub fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.line).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Whether what is typed is shown.
    pub fn echoes(&self) -> bool {
        tcgetattr(&self.line).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    /// Checks that the terminal is as it was before the program.
    #[track_caller]
    pub fn is_as_found(&self) {
        let left = tcgetattr(&self.line).unwrap();
        assert_eq!(
            (left.input_modes, left.output_modes, left.control_modes, left.local_modes),
            (self.found.input_modes, self.found.output_modes, self.found.control_modes, self.found.local_modes)
        );
    }

    /// Waits for the end of the program, and checks that the terminal is as it was.
    pub fn end(mut self) -> (ExitStatus, String) {
        let status = self.gone();
        self.is_as_found();
        (status, std::mem::take(&mut self.seen))
    }

    /// Waits for the end of what was started.
    pub fn gone(&mut self) -> ExitStatus {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).unwrap();
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        assert_ne!(poll(&mut fds, Some(&PATIENCE)).unwrap(), 0, "does not end: {:?}", self.seen);
        self.child.wait().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // After a failed assertion only; a process that has ended is not there any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
