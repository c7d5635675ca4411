//! Starting a program with exactly what it was given.
//!
//! [`Spawn`] is filled by the caller and carried out by one `clone3`. Everything that allocates is made ready before it;
//! the new child then gives up power in one fixed order ([`Step`]) and becomes the program. `start` returns when the
//! program runs, or with the step that failed: the child reports over a pipe that closes when it execs.
//!
//! The spawning process must have one thread: a child of a process with more may find a lock held by a thread that it
//! does not have. Debug builds check.

mod child;
mod prepare;
mod step;

pub use step::{Step, StepTime};

use std::ffi::{CString, NulError, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::caps::Capability;
use crate::jail::{Jail, JailError};
use crate::landlock::Prepared;
use crate::pidfd::PidfdError;
use crate::policy::Filter;
use crate::rlimit::Limit;

/// What is run.
#[derive(Debug)]
pub enum Program {
    /// The running program itself, a fresh copy of it: a role by re-exec. Opened once and by descriptor, so that an
    /// upgrade of the file does not mix two versions.
    OwnExe,
    /// A program by descriptor (O_PATH will do). Scripts don't work this way.
    Fd(OwnedFd),
    /// A program by its path inside the jail, or on the host when there is none.
    Path(PathBuf),
}

/// A namespace that the child gets to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Process ids: the child is pid 1, and when it ends the kernel ends all others of the namespace.
    Pid,
    /// Mounts. A jail brings it by itself.
    Mount,
    /// The network: not even the loopback interface is up.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host and domain name.
    Uts,
    /// The view of the control groups.
    Cgroup,
}

impl Namespace {
    fn flag(self) -> u64 {
        let flag = match self {
            Namespace::Pid => libc::CLONE_NEWPID,
            Namespace::Mount => libc::CLONE_NEWNS,
            Namespace::Net => libc::CLONE_NEWNET,
            Namespace::Ipc => libc::CLONE_NEWIPC,
            Namespace::Uts => libc::CLONE_NEWUTS,
            Namespace::Cgroup => libc::CLONE_NEWCGROUP,
        };
        u64::from(flag.cast_unsigned())
    }
}

/// Which identity of a new user namespace stands for the spawning user: the only one that exists in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// The user id inside.
    pub uid: u32,
    /// The group id inside.
    pub gid: u32,
}

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user id: real, effective and saved.
    pub uid: u32,
    /// The group id, likewise. No other groups are kept.
    pub gid: u32,
}

/// Why a program was not started. Nothing is left of the attempt.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A text that goes to the kernel contains a NUL byte.
    #[error("{what} contains a NUL byte")]
    Nul {
        /// Which text.
        what: &'static str,
        /// Where the NUL is.
        #[source]
        source: NulError,
    },
    /// Two parts of the request exclude each other.
    #[error("the request is contradictory: {conflict}")]
    Conflict {
        /// What contradicts what.
        conflict: &'static str,
    },
    /// This process has more than one thread (debug builds).
    #[error("a process with {count} threads must not spawn")]
    Threads {
        /// How many it has.
        count: usize,
    },
    /// Something could not be made ready in this process.
    #[error("cannot prepare {what}")]
    Prepare {
        /// What was to be made ready.
        what: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The jail's description is unusable.
    #[error("cannot prepare the jail")]
    Jail {
        /// What is wrong with it.
        #[from]
        source: JailError,
    },
    /// No process could be made; EPERM and ENOSPC are about namespaces.
    #[error("cannot create the process")]
    Clone {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The new process failed on its way to the program and has ended.
    #[error("the new process failed to {step}{}", subject.as_ref().map(|path| format!(" ({})", path.display())).unwrap_or_default())]
    Step {
        /// What it was doing.
        step: Step,
        /// The path that it was about, if one.
        subject: Option<PathBuf>,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The child's report could not be read.
    #[error("cannot read the new process's report")]
    Report {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The failed child could not be reaped.
    #[error("cannot reap the failed process")]
    Reap {
        /// The reason.
        #[source]
        source: PidfdError,
    },
}

/// A program that runs.
#[derive(Debug)]
pub struct Child {
    /// Its process id as the spawning process sees it.
    pub pid: i32,
    /// Its descriptor: it becomes readable when the process has ended, see [`crate::pidfd`].
    pub pidfd: OwnedFd,
    /// When each step was done, if [`Spawn::time_steps`] asked for it.
    pub times: Vec<StepTime>,
}

/// A program to start and what it gets. What is not named it does not get: no descriptor but `/dev/null` at 0, 1 and 2, no
/// environment, no capability, no way to gain privilege. It starts a session of its own with default signal handlers and no
/// signal blocked.
pub struct Spawn<'a> {
    program: Program,
    args: Vec<Result<CString, NulError>>,
    env: Vec<Result<CString, NulError>>,
    fds: Vec<(RawFd, BorrowedFd<'a>)>,
    namespaces: Vec<Namespace>,
    user: Option<IdMap>,
    netns: Option<BorrowedFd<'a>>,
    jail: Option<&'a Jail>,
    hostname: Option<String>,
    directory: Option<PathBuf>,
    limits: Vec<Limit>,
    identity: Option<Identity>,
    umask: u32,
    parent_death: Option<Signal>,
    kept: u64,
    landlock: Option<&'a Prepared>,
    filter: Option<&'a Filter>,
    time_steps: bool,
}

impl<'a> Spawn<'a> {
    /// Starts from `program` with `name` as its `argv[0]`.
    pub fn new(program: Program, name: impl AsRef<OsStr>) -> Spawn<'a> {
        Spawn {
            program,
            args: vec![CString::new(name.as_ref().as_bytes())],
            env: vec![],
            fds: vec![],
            namespaces: vec![],
            user: None,
            netns: None,
            jail: None,
            hostname: None,
            directory: None,
            limits: vec![],
            identity: None,
            umask: 0o077,
            parent_death: None,
            kept: 0,
            landlock: None,
            filter: None,
            time_steps: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(CString::new(arg.as_ref().as_bytes()));
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| CString::new(arg.as_ref().as_bytes())));
        self
    }

    /// Sets an environment variable; the environment is empty otherwise.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let text = [name.as_ref().as_bytes(), b"=", value.as_ref().as_bytes()].concat();
        self.env.push(CString::new(text));
        self
    }

    /// Gives the program `source` at the number `target`.
    #[must_use]
    pub fn fd(mut self, target: RawFd, source: &'a impl AsFd) -> Self {
        self.fds.push((target, source.as_fd()));
        self
    }

    /// Gives the program namespaces of its own.
    #[must_use]
    pub fn namespaces(mut self, namespaces: &[Namespace]) -> Self {
        self.namespaces.extend_from_slice(namespaces);
        self
    }

    /// Makes a user namespace, in which this user may build a compartment without root. The identity must be the map's.
    #[must_use]
    pub fn user_namespace(mut self, map: IdMap) -> Self {
        self.user = Some(map);
        self
    }

    /// Enters a network namespace that was made ahead, instead of making one (which is the dearest step of a start).
    #[must_use]
    pub fn netns(mut self, netns: &'a impl AsFd) -> Self {
        self.netns = Some(netns.as_fd());
        self
    }

    /// Gives the program a root directory of its own, and a mount namespace for it.
    #[must_use]
    pub fn jail(mut self, jail: &'a Jail) -> Self {
        self.jail = Some(jail);
        self
    }

    /// Sets the host name; it takes [`Namespace::Uts`].
    #[must_use]
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// Sets the working directory, inside the jail if there is one. It is `/` otherwise.
    #[must_use]
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Sets a resource limit.
    #[must_use]
    pub fn limit(mut self, limit: Limit) -> Self {
        self.limits.push(limit);
        self
    }

    /// Sets the user and group; no supplementary group is kept. Without root only the present identity can be named.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Sets the file mode creation mask, 0o077 otherwise.
    #[must_use]
    pub fn umask(mut self, umask: u32) -> Self {
        self.umask = umask;
        self
    }

    /// Sends `signal` to the program when this process (its thread that spawned) ends. Not the default: supervisors survive.
    #[must_use]
    pub fn parent_death_signal(mut self, signal: Signal) -> Self {
        self.parent_death = Some(signal);
        self
    }

    /// Leaves the program those of this process's capabilities. The kernel gives them over an `exec` to root only, so
    /// without an identity of its own and as root.
    #[must_use]
    pub fn keep_capabilities(mut self, kept: &[Capability]) -> Self {
        self.kept = kept.iter().fold(self.kept, |bits, capability| bits | 1 << (*capability as u32));
        self
    }

    /// Limits the program by Landlock.
    #[must_use]
    pub fn landlock(mut self, rules: &'a Prepared) -> Self {
        self.landlock = Some(rules);
        self
    }

    /// Limits the program by seccomp; the filter must allow the `exec` itself.
    #[must_use]
    pub fn filter(mut self, filter: &'a Filter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Records when each step was done, for benches and slow-start reports.
    #[must_use]
    pub fn time_steps(mut self) -> Self {
        self.time_steps = true;
        self
    }

    /// Starts the program and waits until it runs. A child that is killed on its way (by a filter that does not allow the
    /// exec, or from outside) looks like a program that ended at once: its descriptor tells.
    pub fn start(self) -> Result<Child, SpawnError> {
        let (prepared, report) = prepare::Prepared::new(self)?;
        child::start(&prepared, report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(spawn: Spawn<'_>) -> &'static str {
        match spawn.start() {
            Err(SpawnError::Conflict { conflict }) => conflict,
            other => panic!("{other:?}"),
        }
    }

    fn program() -> Spawn<'static> {
        Spawn::new(Program::Path("/bin/true".into()), "true")
    }

    #[test]
    fn contradictions_are_refused_before_anything_is_made() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(refused(program().fd(3, &null).fd(3, &null)).contains("number"));
        assert!(refused(program().fd(-1, &null)).contains("number"));
        assert!(refused(program().netns(&null).namespaces(&[Namespace::Net])).contains("network"));
        assert!(refused(program().hostname("guest")).contains("host name"));
        let mapped = program().user_namespace(IdMap { uid: 1, gid: 1 });
        assert!(refused(mapped.identity(Identity { uid: 2, gid: 1 })).contains("identity"));
    }

    #[test]
    fn nul_bytes_are_refused() {
        assert!(matches!(program().arg("a\0b").start(), Err(SpawnError::Nul { what: "an argument", .. })));
        assert!(matches!(program().env("A", "a\0b").start(), Err(SpawnError::Nul { what: "the environment", .. })));
    }
}
