//! A session's way to its driver: not there yet, on its way, there, lost.

use std::{
    mem,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use api::{Call, Error, ErrorCode, ErrorDomain, Event};
use libclient::driven::{Done, Driven};

use crate::edge::{Daemon, Dial};

/// A connection that a session leaves behind in the state in which it got it.
pub struct Kept {
    daemon: Daemon,
    driven: Driven,
    read_only: bool,
}

impl Kept {
    /// What becomes readable when it is of no more use.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.driven.fd()
    }
}

/// A call that waits for a connection.
struct Queued {
    token: u64,
    call: Call,
    fds: Vec<OwnedFd>,
}

enum State {
    /// Nothing has been opened.
    Closed,
    /// A driver, and no connection to its daemon now.
    Down,
    /// The acceptor was asked for one.
    Dialing {
        queued: Vec<Queued>,
        /// The bytes that the client has sent meanwhile.
        bytes: usize,
    },
    /// There is one.
    Up(Box<Driven>),
}

/// What has become of the link in a pass.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    None,
    /// The driver is gone. Every call under way has failed.
    Lost(Error),
}

/// See the module's page.
pub struct Link {
    state: State,
    read_only: bool,
    /// The daemon that answers, once something was opened.
    daemon: Daemon,
    /// The connection served another session before.
    second_hand: bool,
    /// The acceptor is to be asked.
    dial: Option<Dial>,
    /// Something was submitted since the last flush.
    unsent: bool,
}

impl Link {
    /// Nothing has been opened.
    pub fn new() -> Link {
        Link {
            state: State::Closed,
            read_only: true,
            daemon: Daemon::Qemud,
            second_hand: false,
            dial: None,
            unsent: false,
        }
    }

    /// Opens the way to a driver's daemon.
    pub fn open(&mut self, daemon: Daemon, read_only: bool, kept: Option<Kept>) {
        self.read_only = read_only;
        self.daemon = daemon;
        match kept.filter(|kept| kept.daemon == daemon && kept.read_only == read_only) {
            Some(kept) => {
                self.second_hand = true;
                self.state = State::Up(Box::new(kept.driven));
            }
            None => self.dial_now(false),
        }
    }

    /// Forgets what was opened.
    pub fn close(&mut self) {
        *self = Link::new();
    }

    /// Was the connection another session's, and may be dead since?
    pub fn is_second_hand(&self) -> bool {
        self.second_hand
    }

    /// The daemon that answers.
    pub fn daemon(&self) -> Daemon {
        self.daemon
    }

    /// May the calls only read?
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Asks for a connection, if none is on its way.
    pub fn dial_now(&mut self, again: bool) {
        if !matches!(self.state, State::Dialing { .. }) {
            self.state = State::Dialing { queued: Vec::new(), bytes: 0 };
            self.second_hand = false;
            self.dial = Some(Dial { daemon: self.daemon, again });
        }
    }

    /// The question for the acceptor, once.
    pub fn take_dial(&mut self) -> Option<Dial> {
        self.dial.take()
    }

    /// Submits a call, or lets it wait for the connection.
    ///
    /// # Errors
    /// What the call is answered with: it is not under way.
    pub fn submit(&mut self, token: u64, call: Call, fds: Vec<OwnedFd>) -> Result<(), Error> {
        if matches!(self.state, State::Down) {
            self.dial_now(false);
        }
        match &mut self.state {
            State::Up(driven) => {
                driven.submit(token, &call, fds)?;
                self.unsent = true;
                Ok(())
            }
            State::Dialing { queued, .. } => {
                // The same rule as the driver's, before the call is let wait.
                api::check_access(&call, self.read_only)?;
                queued.push(Queued { token, call, fds });
                Ok(())
            }
            State::Closed | State::Down => {
                Err(Error::new(ErrorCode::INTERNAL_ERROR, ErrorDomain::RPC, "internal error: nothing is open"))
            }
        }
    }

    /// Takes the acceptor's answer. What waited is submitted behind `first`, or has failed.
    pub fn dialed(&mut self, answer: Result<UnixStream, Error>, first: Option<(u64, Call)>, done: &mut Vec<Done>) {
        if !matches!(self.state, State::Dialing { .. }) {
            return;
        }
        let State::Dialing { queued, .. } = mem::replace(&mut self.state, State::Down) else { return };
        let failed = |token, error: &Error| Done { token, result: Err(error.clone()) };
        match answer.and_then(|socket| Driven::new(socket, self.read_only)) {
            Ok(driven) => {
                self.state = State::Up(Box::new(driven));
                let first = first.map(|(token, call)| Queued { token, call, fds: Vec::new() });
                for Queued { token, call, fds } in first.into_iter().chain(queued) {
                    if let Err(error) = self.submit(token, call, fds) {
                        done.push(failed(token, &error));
                    }
                }
            }
            Err(error) => {
                let first = first.map(|(token, _)| token);
                let tokens = first.into_iter().chain(queued.iter().map(|queued| queued.token));
                done.extend(tokens.map(|token| failed(token, &error)));
            }
        }
    }

    /// Notes the size of a call that may be let wait.
    pub fn weigh(&mut self, size: usize) {
        if let State::Dialing { bytes, .. } = &mut self.state {
            *bytes = bytes.saturating_add(size);
        }
    }

    /// Bytes that wait for the driver, or for a connection to it.
    pub fn backlog(&self) -> usize {
        match &self.state {
            State::Up(driven) => driven.backlog(),
            State::Dialing { bytes, .. } => *bytes,
            State::Closed | State::Down => 0,
        }
    }

    /// Does what can be done now.
    pub fn ready(&mut self, done: &mut Vec<Done>) -> News {
        let State::Up(driven) = &mut self.state else { return News::None };
        match driven.ready(done) {
            Ok(()) => News::None,
            Err(lost) => {
                self.state = State::Down;
                News::Lost(lost.into())
            }
        }
    }

    /// Events that have arrived.
    pub fn take_events(&mut self) -> Vec<Event> {
        match &mut self.state {
            State::Up(driven) => driven.take_events(),
            _ => Vec::new(),
        }
    }

    /// Sends what was submitted.
    pub fn flush(&mut self) {
        if mem::take(&mut self.unsent)
            && let State::Up(driven) = &mut self.state
        {
            driven.flush();
        }
    }

    /// What to poll, and whether for writing too.
    pub fn source(&self) -> Option<(BorrowedFd<'_>, bool)> {
        match &self.state {
            State::Up(driven) => Some((driven.fd(), driven.interest().write)),
            _ => None,
        }
    }

    /// The connection, for the next session, if it has nothing under way.
    pub fn keep(self) -> Option<Kept> {
        match self.state {
            State::Up(driven) if driven.in_flight() == 0 && driven.backlog() == 0 => {
                Some(Kept { daemon: self.daemon, driven: *driven, read_only: self.read_only })
            }
            _ => None,
        }
    }
}
