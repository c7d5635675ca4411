//! A connection for somebody else's event loop: nothing here waits, and no thread is started.
//!
//! The gateway's worker stands on it: one process that polls its client, its driver and its acceptor. It may not open,
//! dial or start anything, so it gets the socket to qemud from who may ([`dial`]) and does the rest with what it holds.
//!
//! ```
//! use libclient::{
//!     api::{Operation, Reply, remote},
//!     driven::{Driven, Target},
//! };
//!
//! let mut driver = Driven::test(&Target::of("test:///default")?, false)?;
//! driver.submit(7, remote::ConnectGetTypeArgs {}.into_call(), Vec::new())?;
//! let mut done = Vec::new();
//! driver.ready(&mut done)?;
//! assert_eq!(done[0].token, 7);
//! assert!(matches!(&done[0].result, Ok((Reply::ConnectGetType(ret), _)) if ret.r#type == "TEST"));
//! # Ok::<(), libclient::Error>(())
//! ```
//!
//! A pass of the loop: poll what [`Driven::fd`] and [`Driven::interest`] say (level-triggered), [`Driven::ready`] when it
//! is ready or [`Driven::has_done`], [`Driven::take_events`], then [`Driven::submit`] what came from elsewhere and
//! [`Driven::flush`]. A call and its answer cost one system call each.

mod qemu;
mod test;

use std::{
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
};

use api::{Call, Error, ErrorCode, ErrorDomain, Event, Reply};
use ipc::paths::{Instance, Mode};
use thiserror::Error as ThisError;

use crate::{Result, Uri, dial::Dialer, uri};

/// A driver that is open and never waits.
pub struct Driven {
    driver: Driver,
}

enum Driver {
    Qemu(Box<qemu::QemuDriven>),
    Test(Box<test::TestDriven>),
}

/// A call that has its answer.
#[derive(Debug)]
pub struct Done {
    /// What its caller gave to [`Driven::submit`].
    pub token: u64,
    /// The answer, with its descriptors.
    pub result: Result<(Reply, Vec<OwnedFd>)>,
}

/// What to poll [`Driven::fd`] for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
}

/// The connection to the driver's daemon is over: it is of no more use, a new one is to be made.
#[derive(Clone, Debug, ThisError)]
#[error("the connection to the driver is lost")]
pub struct Lost(#[source] Error);

impl Lost {
    pub(crate) fn new(why: Error) -> Lost {
        Lost(why)
    }

    /// Why.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.0
    }
}

impl From<Lost> for Error {
    fn from(lost: Lost) -> Error {
        lost.0
    }
}

/// Whether a daemon that is not there is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// By whom it is to be started: a session's daemon, and the system's where no service manager does it.
    IfAbsent,
    /// No.
    Never,
}

/// What a name of CONNECT_OPEN stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The guests of a host or a user: [`Driven::qemu`] over a socket of [`dial`].
    Qemu(Mode),
    /// The mock hypervisor with its built-in host: [`Driven::test`].
    TestDefault,
    /// The mock hypervisor with a host from a file: [`Driven::test`], which reads it.
    TestFile(PathBuf),
}

impl Target {
    /// What a local URI names: `qemu:///system`, `test:///default`. An empty one is the caller's to choose for.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_ARG`] for a text that is no URI,
    /// [`ErrorCode::NO_CONNECT`] for one that no driver here serves.
    pub fn of(uri: &str) -> Result<Target> {
        Ok(match uri::Target::of(&Uri::parse(uri)?)? {
            uri::Target::Qemu(mode) => Target::Qemu(mode),
            uri::Target::TestDefault => Target::TestDefault,
            uri::Target::TestFile(path) => Target::TestFile(path),
            // A daemon connects to no other one on its client's behalf.
            uri::Target::Remote(_) => {
                let message = format!("no connection driver available for {uri}");
                return Err(Error::new(ErrorCode::NO_CONNECT, ErrorDomain::URI, message)
                    .with_cause_text("it leads to another daemon"));
            }
        })
    }
}

/// Connects to an instance's qemud, for a process that may not: what comes back goes to [`Driven::qemu`]. This
/// waits for a daemon's start, and up to half a minute for one that accepts no connection.
///
/// # Errors
/// When nobody listens, the caller may not connect, or the daemon does not start.
pub fn dial(instance: &Instance, read_only: bool, start: Start) -> Result<UnixStream> {
    Dialer::to(instance.clone(), read_only, start == Start::IfAbsent).dial_socket()
}

impl Driven {
    /// A connection over a socket that is connected to qemud; the hellos are exchanged along the way, and calls may be
    /// submitted at once. `read_only` holds whichever of the daemon's sockets it is.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking.
    pub fn qemu(socket: UnixStream, read_only: bool) -> Result<Driven> {
        Ok(Driven { driver: Driver::Qemu(Box::new(qemu::QemuDriven::new(socket, read_only)?)) })
    }

    /// A mock hypervisor in this process. A target that is qemud's is refused.
    ///
    /// # Errors
    /// When the file cannot be read or is not understood.
    pub fn test(target: &Target, read_only: bool) -> Result<Driven> {
        Ok(Driven { driver: Driver::Test(Box::new(test::TestDriven::open(target, read_only)?)) })
    }

    /// Hands a call in. `token` comes back with its answer; two calls under way must not have the same.
    ///
    /// # Errors
    /// [`ErrorCode::OPERATION_DENIED`] for a call that changes something on a
    /// read-only connection; else when it cannot be sent. It is not under way then.
    pub fn submit(&mut self, token: u64, call: Call, fds: Vec<OwnedFd>) -> Result<()> {
        match &mut self.driver {
            Driver::Qemu(qemu) => qemu.submit(token, &call, fds),
            Driver::Test(test) => test.submit(token, call),
        }
    }

    /// Sends what was submitted, as much as the socket takes; [`Driven::interest`] tells of the rest. A daemon that is gone
    /// is told by [`Driven::ready`].
    pub fn flush(&mut self) {
        if let Driver::Qemu(qemu) = &mut self.driver {
            qemu.flush();
        }
    }

    /// Does what can be done now, and appends the calls that have got their answers.
    ///
    /// # Errors
    /// When the daemon is gone or makes no sense. Every call under way has been appended as failed.
    pub fn ready(&mut self, done: &mut Vec<Done>) -> Result<(), Lost> {
        match &mut self.driver {
            Driver::Qemu(qemu) => qemu.ready(done),
            Driver::Test(test) => {
                test.ready(done);
                Ok(())
            }
        }
    }

    /// Whether [`Driven::ready`] has answers without any readiness of [`Driven::fd`].
    #[must_use]
    pub fn has_done(&self) -> bool {
        match &self.driver {
            Driver::Qemu(_) => false,
            Driver::Test(test) => test.has_done(),
        }
    }

    /// Events that have arrived, oldest first. They come after a call `bulkhead.events_subscribe`.
    pub fn take_events(&mut self) -> Vec<Event> {
        match &mut self.driver {
            Driver::Qemu(qemu) => qemu.take_events(),
            Driver::Test(test) => test.take_events(),
        }
    }

    /// Calls that have been submitted and have no answer yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        match &self.driver {
            Driver::Qemu(qemu) => qemu.in_flight(),
            Driver::Test(test) => test.in_flight(),
        }
    }

    /// Bytes that wait for the daemon to read.
    #[must_use]
    pub fn backlog(&self) -> usize {
        match &self.driver {
            Driver::Qemu(qemu) => qemu.backlog(),
            Driver::Test(_) => 0,
        }
    }

    /// What to poll; the same one as long as this lives.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.driver {
            Driver::Qemu(qemu) => qemu.fd(),
            Driver::Test(test) => test.fd(),
        }
    }

    /// What to poll it for, now.
    #[must_use]
    pub fn interest(&self) -> Interest {
        Interest { read: true, write: self.backlog() > 0 }
    }
}

#[cfg(test)]
mod tests;
