//! Processes by descriptor: a pidfd names one process for as long as it is held, while a process id may be used again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};

/// What a pidfd operation failed at.
#[derive(Debug, thiserror::Error)]
pub enum PidfdError {
    /// No pidfd could be opened; ESRCH means that there is no such process.
    #[error("cannot open a descriptor of process {pid}")]
    Open {
        /// The process asked for.
        pid: i32,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The signal was not delivered; ESRCH means that the process has ended.
    #[error("cannot send signal {signal:?}")]
    Signal {
        /// The signal that was to be sent.
        signal: Signal,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The end of the process can't be waited for; ECHILD means that it is no child of this process.
    #[error("cannot wait for the end of the process")]
    Wait {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The process's id can't be found out.
    #[error("cannot find out the process's id")]
    Pid {
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The kernel reported something other than an end.
    #[error("the kernel reported neither an exit nor a signal")]
    Status,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// Whether a core dump was written.
        core_dumped: bool,
    },
}

impl Exit {
    /// Whether the process exited with code 0.
    pub fn success(self) -> bool {
        self == Exit::Code(0)
    }

    fn of(status: &WaitIdStatus) -> Result<Exit, PidfdError> {
        if let Some(code) = status.exit_status() {
            return Ok(Exit::Code(code));
        }
        let number = status.terminating_signal().ok_or(PidfdError::Status)?;
        Ok(Exit::Signal { number, core_dumped: status.dumped() })
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal { number, core_dumped: false } => write!(f, "signal {number}"),
            Exit::Signal { number, core_dumped: true } => write!(f, "signal {number} (core dumped)"),
        }
    }
}

/// Opens a descriptor of a process.
pub fn open(pid: i32) -> Result<OwnedFd, PidfdError> {
    let valid = if pid > 0 { Pid::from_raw(pid) } else { None };
    valid
        .ok_or(Errno::SRCH)
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|errno| PidfdError::Open { pid, source: errno.into() })
}

/// The process's id as this process sees it.
///
/// # Errors
/// When the kernel does not tell, or the process is gone or in no reach of this process's pid namespace.
pub fn pid(pidfd: impl AsFd) -> Result<i32, PidfdError> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(path).map_err(|source| PidfdError::Pid { source })?;
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|pid| pid.trim().parse().ok());
    // -1 and 0 are the kernel's words for gone and out of reach.
    number.filter(|pid| *pid > 0).ok_or_else(|| PidfdError::Pid { source: io::ErrorKind::NotFound.into() })
}

/// Whether a process has ended, its parent's child or not: a pidfd becomes readable then.
///
/// # Errors
/// When the kernel does not tell.
pub fn has_ended(pidfd: impl AsFd) -> io::Result<bool> {
    let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let ready = rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(ready > 0)
}

/// Sends a signal to the process.
pub fn send_signal(pidfd: impl AsFd, signal: Signal) -> Result<(), PidfdError> {
    rustix::process::pidfd_send_signal(pidfd, signal)
        .map_err(|errno| PidfdError::Signal { signal, source: errno.into() })
}

/// Waits until a child of this process has ended, and reaps it.
pub fn wait(pidfd: impl AsFd) -> Result<Exit, PidfdError> {
    match wait_with(&pidfd, WaitIdOptions::EXITED)? {
        Some(exit) => Ok(exit),
        None => Err(PidfdError::Status),
    }
}

/// Reaps a child of this process if it has ended; `None` when it still runs.
pub fn try_wait(pidfd: impl AsFd) -> Result<Option<Exit>, PidfdError> {
    wait_with(&pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

fn wait_with(pidfd: &impl AsFd, options: WaitIdOptions) -> Result<Option<Exit>, PidfdError> {
    let status = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options))
        .map_err(|errno| PidfdError::Wait { source: errno.into() })?;
    status.as_ref().map(Exit::of).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_id_of_a_living_process_can_be_read() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(pid(open(own).unwrap()).unwrap(), own);
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "the pidfd is what is waited on")]
    fn exit_code_and_signal_are_told_apart() {
        let child = Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
        let pidfd = open(i32::try_from(child.id()).unwrap()).unwrap();
        assert_eq!(wait(&pidfd).unwrap(), Exit::Code(7));

        let child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        let pidfd = open(i32::try_from(child.id()).unwrap()).unwrap();
        assert_eq!(try_wait(&pidfd).unwrap(), None);
        send_signal(&pidfd, Signal::KILL).unwrap();
        assert_eq!(wait(&pidfd).unwrap(), Exit::Signal { number: libc::SIGKILL, core_dumped: false });
        assert!(matches!(send_signal(&pidfd, Signal::KILL), Err(PidfdError::Signal { .. })));
    }

    #[test]
    fn process_that_is_no_child_cannot_be_waited_for() {
        let pidfd = open(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(matches!(try_wait(&pidfd), Err(PidfdError::Wait { .. })));
        assert!(matches!(open(-1), Err(PidfdError::Open { pid: -1, .. })));
    }
}
