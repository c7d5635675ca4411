//! The processes of an instance, as `/proc` shows them.

use std::{
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::{Duration, Instant},
};

pub use rustix::process::Signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::wait::readable;

/// Which of the house's processes one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `qemud`, the one with power.
    Launcher,
    /// `qemud-opener`, one that opens files for the launcher.
    Opener,
    /// `qemud`, the one that serves clients.
    Control,
    /// `qemud --background`: on its way to start a launcher.
    Starter,
    /// A launcher's child that is about to become something else.
    Forked,
    /// A supervisor that waits for a guest.
    Kept,
    /// A guest's supervisor.
    Supervisor,
    /// A guest's QEMU.
    Qemu,
    /// `gateway`: the one that makes its sockets and starts the others.
    Gateway,
    /// `gateway`, the one that accepts.
    Acceptor,
    /// `gateway`, one that serves a client.
    Worker,
    /// `gateway`, the mock host.
    MockHost,
    /// A client, or something that nobody knows.
    Other,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Its real uid.
    pub uid: u32,
    /// What it is.
    pub role: Role,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl Process {
    /// The process of a pid, if it lives; a zombie does not.
    #[must_use]
    pub fn of(pid: u32) -> Option<Process> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next().map(str::to_owned)
        };
        if matches!(field("State")?.as_str(), "Z" | "X") {
            return None;
        }
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = cmdline.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        let arguments: Vec<String> = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        // Its first act as a guest's supervisor is to write to that guest's log.
        let mute = || fs::read_link(format!("/proc/{pid}/fd/2")).is_ok_and(|path| path == Path::new("/dev/null"));
        let role = match role_of(&arguments) {
            Role::Supervisor if mute() => Role::Kept,
            role => role,
        };
        Some(Process { pid, parent: field("PPid")?.parse().ok()?, uid: field("Uid")?.parse().ok()?, role, arguments })
    }

    /// A handle on it, for signals and for its end; `None` when it has ended.
    #[must_use]
    pub fn handle(&self) -> Option<Handle> {
        Handle::open(self.pid)
    }
}

fn role_of(arguments: &[String]) -> Role {
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let program = arguments.first().map(String::as_str).unwrap_or_default();
    let base = program.rsplit('/').next().unwrap_or_default();
    match base {
        _ if base.starts_with("qemu-system-") => Role::Qemu,
        _ if program.starts_with("qemu-supervisor") => Role::Supervisor,
        "qemud-control" => Role::Control,
        "qemud-opener" => Role::Opener,
        "qemud" if has("--announce") => Role::Launcher,
        "qemud" if has("--background") => Role::Starter,
        "gateway" if has("--role=acceptor") => Role::Acceptor,
        "gateway" if has("--role=worker") => Role::Worker,
        "gateway" if has("--role=mock-host") => Role::MockHost,
        "gateway" => Role::Gateway,
        _ => Role::Other,
    }
}

/// A handle on a process that stays right when the pid is used again.
#[derive(Debug)]
pub struct Handle {
    /// Its pid.
    pub pid: u32,
    pidfd: OwnedFd,
}

impl Handle {
    /// Opens one; `None` when there is no such process.
    #[must_use]
    pub fn open(pid: u32) -> Option<Handle> {
        let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let pidfd = pidfd_open(number, PidfdFlags::empty()).ok()?;
        Some(Handle { pid, pidfd })
    }

    /// Sends a signal; nothing when it has ended.
    pub fn signal(&self, signal: Signal) {
        // It may have ended just now, which is what most signals are for.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// `kill -9`, and waits until it is dead.
    ///
    /// # Panics
    /// When it does not die.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        assert!(self.wait_for_end(Duration::from_secs(20)), "pid {} does not die", self.pid);
    }

    /// Waits for its end; false when the time is over.
    #[must_use]
    pub fn wait_for_end(&self, time: Duration) -> bool {
        readable(self.pidfd.as_fd(), Instant::now() + time)
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.wait_for_end(Duration::ZERO)
    }
}

/// Every living process that belongs to the instance at `root`: by its environment, by its arguments, by its log file, or
/// by its parent.
#[must_use]
pub fn processes_of(root: &Path) -> Vec<Process> {
    let all: Vec<Process> = fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Process::of)
        .collect();
    let mut found: Vec<Process> = all.iter().filter(|process| names(process, root)).cloned().collect();
    // QEMU, and a supervisor that waits, have nothing of the host's in sight; their parents have.
    for process in &all {
        let hidden = matches!(process.role, Role::Qemu | Role::Kept);
        let child = hidden && found.iter().any(|parent| parent.pid == process.parent);
        if child && !found.contains(process) {
            found.push(process.clone());
        }
    }
    let launchers: Vec<u32> = found.iter().filter(|p| p.role == Role::Launcher).map(|p| p.pid).collect();
    for process in found.iter_mut().filter(|p| p.role == Role::Launcher && launchers.contains(&p.parent)) {
        process.role = Role::Forked;
    }
    found.sort_by_key(|process| (process.role, process.pid));
    found
}

fn names(process: &Process, root: &Path) -> bool {
    let root = root.as_os_str().as_bytes();
    let holds = |bytes: &[u8]| bytes.windows(root.len()).any(|window| window == root);
    let directory = format!("/proc/{}", process.pid);
    process.arguments.iter().any(|argument| holds(argument.as_bytes()))
        || fs::read(format!("{directory}/environ")).is_ok_and(|environment| holds(&environment))
        // A supervisor has neither; its log is on descriptor 2.
        || fs::read_link(format!("{directory}/fd/2")).is_ok_and(|path| holds(path.as_os_str().as_bytes()))
}

/// The resident memory of a process, in KiB.
#[must_use]
pub fn rss_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_told_by_arguments() {
        let role = |line: &str| role_of(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(role("/x/qemud --session --root=/r --announce"), Role::Launcher);
        assert_eq!(role("qemud-control --session"), Role::Control);
        assert_eq!(role("qemud-opener --opener"), Role::Opener);
        assert_eq!(role("/x/qemud --session --background"), Role::Starter);
        assert_eq!(role("qemu-supervisor --control-uid 0"), Role::Supervisor);
        assert_eq!(role("/usr/bin/qemu-system-x86_64 -nodefaults"), Role::Qemu);
        assert_eq!(role("/x/gateway --session --root /r --announce"), Role::Gateway);
        assert_eq!(role("gateway --role=acceptor"), Role::Acceptor);
        assert_eq!(role("gateway --role=worker"), Role::Worker);
        assert_eq!(role("gateway --role=mock-host"), Role::MockHost);
        assert_eq!(role("/x/bulkhead -c qemu:///session list"), Role::Other);
    }

    #[test]
    fn an_end_is_noticed_and_the_dead_are_nobody() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let handle = Handle::open(child.id()).unwrap();
        assert!(handle.is_alive());
        assert!(Process::of(child.id()).is_some());
        handle.kill();
        assert_eq!(Process::of(child.id()), None, "a zombie");
        child.wait().unwrap();
    }
}
