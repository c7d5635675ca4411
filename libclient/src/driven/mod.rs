//! A connection for somebody else's event loop: nothing here waits, and no thread is started.
//!
//! The gateway's worker stands on it: one process that polls its client, its driver and its acceptor. It may not open,
//! dial or start anything, so it gets the socket to qemud from its launcher, which calls [`dial`], and does the rest with
//! what it holds.
//!
//! ```no_run
//! use ipc::paths::{Instance, Mode};
//! use libclient::{
//!     api::{Operation, Reply, remote},
//!     driven::{Driven, Start, dial},
//! };
//!
//! let socket = dial(&Instance::from_env(Mode::Session)?, false, Start::IfAbsent)?;
//! let mut driver = Driven::new(socket, false)?;
//! driver.submit(7, &remote::ConnectGetTypeArgs {}.into_call(), Vec::new())?;
//! driver.flush();
//! // Once its descriptor is readable:
//! let mut done = Vec::new();
//! driver.ready(&mut done)?;
//! assert!(done.iter().all(|done| done.token == 7));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A pass of the loop: poll what [`Driven::fd`] and [`Driven::interest`] say (level-triggered), [`Driven::ready`] when it
//! is ready, [`Driven::take_events`], then [`Driven::submit`] what came from elsewhere and [`Driven::flush`]. A call and its
//! answer cost one system call each.

use std::{
    collections::VecDeque,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
};

use api::{Call, Error, ErrorCode, ErrorDomain, Event, Op, Reply};
use ipc::{
    Caps, Conn, ConnError, Hello, Incoming, Kind,
    client::VERSIONS,
    codec, edge,
    paths::{Instance, Mode},
};
use thiserror::Error as ThisError;

use crate::{Result, Uri, dial::Dialer, error, uri};

/// A call that waits.
struct Waiting {
    serial: u64,
    token: u64,
    op: Op,
}

/// A connection to a driver's daemon, which never waits. Calls are answered in any order.
pub struct Driven {
    conn: Conn,
    read_only: bool,
    hello: Hello,
    /// The daemon's hello has come and fits.
    greeted: bool,
    last_serial: u64,
    /// Oldest first. Few enough to look through: a worker serves one client, and the oldest is mostly the next answered.
    waiting: VecDeque<Waiting>,
    events: Vec<Event>,
    lost: Option<Lost>,
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
    /// Yes, if it is this program's to start: a session's daemon, and the system's where no service manager starts it.
    IfAbsent,
    /// No.
    Never,
}

/// What a name of CONNECT_OPEN stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The guests of a host or a user: [`Driven::new`] over a socket of [`dial`].
    Qemu(Mode),
    /// The mock hypervisor with its built-in host: [`Driven::new`] over a socket to the process that has the
    /// [`MockHost`](crate::mock::MockHost).
    TestDefault,
    /// The mock hypervisor with a host from a file, which is a file of the client's.
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

/// Connects to an instance's qemud, for a process that may not: what comes back goes to [`Driven::new`]. This
/// waits for a daemon's start, and up to half a minute for one that accepts no connection.
///
/// # Errors
/// When nobody listens, the caller may not connect, or the daemon does not start.
pub fn dial(instance: &Instance, read_only: bool, start: Start) -> Result<UnixStream> {
    Dialer::to(instance.clone(), read_only, start == Start::IfAbsent).dial_socket()
}

impl Driven {
    /// A connection over a socket that is connected to a daemon; the hellos are exchanged along the way, and calls may be
    /// submitted at once. `read_only` refuses writing calls here, also where the daemon would allow them.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking.
    pub fn new(socket: UnixStream, read_only: bool) -> Result<Driven> {
        socket.set_nonblocking(true).map_err(|source| {
            Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, "cannot set up the connection to the driver")
                .with_cause(source)
        })?;
        let mut conn = Conn::new(socket, Caps::FROM_DAEMON);
        let hello = Hello::new("libclient", VERSIONS.0, VERSIONS.1);
        conn.queue_with(Kind::Hello, 0, Vec::new(), |out| codec::encode_into(&hello, out))
            .map_err(|failure| Error::from(error::lost_connection(failure)))?;
        Ok(Driven {
            conn,
            read_only,
            hello,
            greeted: false,
            last_serial: 0,
            waiting: VecDeque::new(),
            events: Vec::new(),
            lost: None,
        })
    }

    /// Hands a call in. `token` comes back with its answer; two calls under way must not have the same.
    ///
    /// # Errors
    /// [`ErrorCode::OPERATION_DENIED`] for a call that changes something on a
    /// read-only connection; else when it cannot be sent. It is not under way then.
    pub fn submit(&mut self, token: u64, call: &Call, fds: Vec<OwnedFd>) -> Result<()> {
        api::check_access(call, self.read_only)?;
        if let Some(lost) = &self.lost {
            return Err(lost.error().clone());
        }
        let op = call.op();
        let serial = self.last_serial + 1;
        self.conn.queue_call(serial, call, fds).map_err(|failure| error::not_sent(failure, op))?;
        self.last_serial = serial;
        self.waiting.push_back(Waiting { serial, token, op });
        Ok(())
    }

    /// Sends what was submitted, as much as the socket takes; [`Driven::interest`] asks for the rest. [`Driven::ready`]
    /// reports a daemon that is gone.
    pub fn flush(&mut self) {
        // Reading reports the failure: the daemon may have sent the reason before it closed.
        let _ = self.conn.flush();
    }

    /// Does what can be done now, and appends the calls that have got their answers.
    ///
    /// # Errors
    /// When the daemon is gone or breaks the protocol. Every call under way has been appended as failed.
    pub fn ready(&mut self, done: &mut Vec<Done>) -> Result<(), Lost> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone());
        }
        if self.conn.backlog() > 0 {
            self.flush();
        }
        self.read(done).inspect_err(|lost| {
            for waiting in self.waiting.drain(..) {
                done.push(Done { token: waiting.token, result: Err(error::lost_during(lost, waiting.op)) });
            }
            self.lost = Some(lost.clone());
        })
    }

    /// Reads once. A caller without room for more stops polling for reading, and the rest waits in the socket.
    fn read(&mut self, done: &mut Vec<Done>) -> Result<(), Lost> {
        self.conn.fill_now().map_err(error::lost_connection)?;
        while let Some(frame) = self.conn.next_frame().map_err(error::lost_connection)? {
            self.take(frame, done)?;
        }
        Ok(())
    }

    fn take(&mut self, frame: Incoming, done: &mut Vec<Done>) -> Result<(), Lost> {
        if !self.greeted {
            return self.greet(&frame);
        }
        match frame.kind {
            Kind::Reply | Kind::Error => {
                // A reply to nothing is dropped, as everywhere.
                let at = self.waiting.iter().position(|waiting| waiting.serial == frame.serial);
                if let Some(waiting) = at.and_then(|at| self.waiting.remove(at)) {
                    done.push(Done { token: waiting.token, result: answer(frame, waiting.op) });
                }
                Ok(())
            }
            Kind::Event => {
                let event =
                    codec::decode_event(&frame.body).map_err(|failure| error::lost_connection(failure.into()))?;
                self.events.push(event);
                Ok(())
            }
            found @ (Kind::Hello | Kind::Call) => {
                Err(error::lost_connection(ConnError::Unexpected { found, expected: "a reply or an event" }))
            }
        }
    }

    fn greet(&mut self, frame: &Incoming) -> Result<(), Lost> {
        if frame.kind == Kind::Error {
            let reason = codec::decode_error(&frame.body);
            return Err(reason.map_or_else(|failure| error::lost_connection(failure.into()), Lost::new));
        }
        let daemon = edge::decode_hello(frame).map_err(error::lost_connection)?;
        self.hello.agree(&daemon).map_err(error::no_common_version)?;
        self.greeted = true;
        Ok(())
    }

    /// Events that have arrived, oldest first. They come after a call `bulkhead.events_subscribe`.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Calls that have been submitted and have no answer yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes that wait for the daemon to read.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.conn.backlog()
    }

    /// What to poll; the same one as long as this lives.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.conn.as_fd()
    }

    /// What to poll it for, now.
    #[must_use]
    pub fn interest(&self) -> Interest {
        Interest { read: true, write: self.backlog() > 0 }
    }
}

fn answer(frame: Incoming, op: Op) -> Result<(Reply, Vec<OwnedFd>)> {
    if frame.kind == Kind::Error {
        return Err(codec::decode_error(&frame.body).unwrap_or_else(|failure| error::strange_bytes(failure, op)));
    }
    let reply = codec::decode_reply(&frame.body).map_err(|failure| error::strange_bytes(failure, op))?;
    if reply.op() != op {
        return Err(error::strange_answer(op, "it is of another call"));
    }
    if !op.info().fds_out.allows(frame.fds.len()) {
        return Err(error::strange_answer(op, "it has the wrong number of file descriptors"));
    }
    Ok((reply, frame.fds))
}

#[cfg(test)]
mod tests;
