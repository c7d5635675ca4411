//! The command line's program as a person has it: running, with something to type on and something to read.

use std::{
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use crate::{collect::Collected, process::Handle, wait::LONG};

/// What the test guest's shell says when it waits for a command.
pub const PROMPT: &str = "guest# ";

/// A running program of the command line.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    input: Option<File>,
    /// What it prints; on a pseudo-terminal, its messages too.
    pub output: Collected,
    /// Its messages, when it has pipes.
    pub messages: Collected,
    read: usize,
}

impl Terminal {
    /// Starts a command on pipes.
    #[must_use]
    pub fn on_pipes(mut command: Command) -> Terminal {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let input = OwnedFd::from(child.stdin.take().expect("a pipe"));
        let output = Collected::from(child.stdout.take().expect("a pipe"));
        let messages = Collected::from(child.stderr.take().expect("a pipe"));
        Terminal { child, input: Some(input.into()), output, messages, read: 0 }
    }

    /// Starts a command with an empty input.
    pub(crate) fn on_pipes_without_input(command: Command) -> Terminal {
        let mut terminal = Terminal::on_pipes(command);
        terminal.close_input();
        terminal
    }

    /// Starts a command on a pseudo-terminal.
    #[must_use]
    pub fn on_pty(mut command: Command) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pseudo-terminal");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let path = ptsname(&master, Vec::new()).expect("ptsname");
        let slave = open(&*path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).expect("the slave");
        let end = || Stdio::from(slave.try_clone().expect("another descriptor"));
        command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // The command holds the slave too; without either, reading ends when the program does.
        drop(command);
        let output = Collected::from(File::from(master.try_clone().expect("another descriptor")));
        Terminal { child, input: Some(master.into()), output: output.clone(), messages: output, read: 0 }
    }

    /// The program's pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a text is printed, and returns what was printed from where the last one ended until there.
    ///
    /// # Panics
    /// When it does not come.
    pub fn expect(&mut self, text: &str) -> String {
        self.expect_within(text, LONG)
    }

    /// As [`Terminal::expect`], with a time of its own.
    ///
    /// # Panics
    /// When the text does not come.
    pub fn expect_within(&mut self, text: &str, time: Duration) -> String {
        let (from, wanted) = (self.read, text.as_bytes());
        let find = |bytes: &[u8]| {
            let rest = &bytes[from..];
            let at = rest.windows(wanted.len()).position(|window| window == wanted)?;
            let end = at + wanted.len();
            Some((String::from_utf8_lossy(&rest[..end]).into_owned(), from + end))
        };
        let Some((seen, end)) = self.output.wait(time, find) else {
            let shown = self.output.text();
            let tail = String::from_utf8_lossy(&shown.as_bytes()[shown.len().saturating_sub(4000)..]).into_owned();
            panic!("\"{text}\" did not come; printed were\n{tail}\nand the messages\n{}", self.messages.text());
        };
        self.read = end;
        seen
    }

    /// Types.
    ///
    /// # Panics
    /// When the program takes no input any more.
    pub fn send(&mut self, bytes: &[u8]) {
        self.input.as_mut().expect("an open input").write_all(bytes).expect("the input is taken");
    }

    /// Types a line.
    pub fn line(&mut self, line: &str) {
        self.send(format!("{line}\n").as_bytes());
    }

    /// Closes the input, as a shell does at the end of a pipe.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Has the guest's shell, which is at its prompt, run a command; returns what that prints, lines ending in "\n".
    pub fn command(&mut self, command: &str) -> String {
        // The quotes keep the echo of what is typed from looking like the answer.
        self.line(&format!("echo B''EGIN; {command}; echo E''ND"));
        self.expect("BEGIN\r\n");
        let seen = self.expect("END\r\n");
        self.expect(PROMPT);
        seen.trim_end_matches("END\r\n").replace("\r\n", "\n")
    }

    /// Whether the pseudo-terminal hands over every key as it is typed.
    ///
    /// # Panics
    /// When there is no pseudo-terminal.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        let settings = rustix::termios::tcgetattr(self.input.as_ref().expect("an open input")).expect("a terminal");
        !settings.local_modes.intersects(rustix::termios::LocalModes::ICANON | rustix::termios::LocalModes::ECHO)
    }

    /// Whether even the keys that make signals are handed over, as for a console; a line editor leaves those.
    ///
    /// # Panics
    /// When there is no pseudo-terminal.
    #[must_use]
    pub fn is_passing_through(&self) -> bool {
        let settings = rustix::termios::tcgetattr(self.input.as_ref().expect("an open input")).expect("a terminal");
        !settings.local_modes.contains(rustix::termios::LocalModes::ISIG)
    }

    /// Waits for the end of the program and of its output, and returns its exit code (128 and the signal, when a signal
    /// ended it).
    ///
    /// # Panics
    /// When it does not end, or somebody keeps its output open behind it.
    pub fn exit(&mut self) -> i32 {
        self.exit_within(LONG)
    }

    /// As [`Terminal::exit`], with a time of its own.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn exit_within(&mut self, time: Duration) -> i32 {
        let ended = Handle::open(self.pid()).is_none_or(|handle| handle.wait_for_end(time));
        assert!(ended, "the program does not end; printed were\n{}\n{}", self.output.text(), self.messages.text());
        let code = code_of(self.child.wait().expect("its status"));
        let time = Duration::from_secs(10);
        let closed = self.output.wait_for_end(time) && self.messages.wait_for_end(time);
        assert!(closed, "somebody holds the output of a program that has ended");
        code
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }
}

/// A shell's number for how a program ended.
pub(crate) fn code_of(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Its end may have been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
