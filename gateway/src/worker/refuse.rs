//! Telling clients why they are not served.
//!
//! A refusal is the answer to a client's first call, because that is what libvirt's clients show. One worker does it for all
//! of them: it holds nothing but their sockets; taken over, it could only lie to clients that are refused anyway.

use std::{
    os::{fd::AsFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use api::{Error, ErrorCode, ErrorDomain};
use rustix::event::{PollFd, PollFlags};
use wire::{Conn, WireError, codec::Meaning, frame::MAX_MESSAGE_BEFORE_LOGIN, transport::Unix};

use super::{Channel, WorkerError, poll_until};
use crate::edge::{FromWorker, Peer, ToWorker, Who};

/// How long a client may take to say what is answered.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients at a time, which with what else it holds stay below the descriptors of a worker, and of one user: the one that has
/// been told nothing for the longest time gives way.
const MOST: usize = 192;
const MOST_OF_ONE: usize = 64;

/// One client that is not served.
struct Refused {
    conn: Conn<Unix>,
    who: Who,
    error: Error,
    until: Instant,
    answered: bool,
}

/// All of them.
#[derive(Default)]
pub struct Refuser {
    clients: Vec<Refused>,
}

impl Refuser {
    /// One more.
    pub fn add(&mut self, socket: UnixStream, peer: Peer, code: i32, reason: String) {
        let who = peer.who();
        let own = self.clients.iter().filter(|client| client.who == who).count();
        if own >= MOST_OF_ONE
            && let Some(oldest) = self.clients.iter().position(|client| client.who == who)
        {
            self.clients.remove(oldest);
        }
        if self.clients.len() >= MOST {
            self.clients.remove(0);
        }
        let mut conn = Conn::new(Unix::new(socket));
        conn.set_max_message(MAX_MESSAGE_BEFORE_LOGIN);
        let error = Error::new(ErrorCode(code), ErrorDomain::RPC, reason);
        let until = Instant::now() + PATIENCE;
        self.clients.push(Refused { conn, who, error, until, answered: false });
    }

    /// Tells clients until the acceptor leaves.
    ///
    /// # Errors
    /// When the acceptor is gone, or has something else to do for a worker that may do nothing else.
    pub fn run(mut self, channel: &mut Channel<FromWorker, ToWorker>) -> Result<(), WorkerError> {
        loop {
            self.clients.retain_mut(|client| client.go_on().unwrap_or(false));
            let now = Instant::now();
            self.clients.retain(|client| client.until > now);
            let mut sources = vec![PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN)];
            sources.extend(self.clients.iter().map(|client| {
                let mut flags = PollFlags::IN;
                flags.set(PollFlags::OUT, client.conn.wants_write());
                PollFd::from_borrowed_fd(client.conn.as_fd(), flags)
            }));
            poll_until(&mut sources, self.clients.iter().map(|client| client.until).min())?;
            channel.fill().map_err(WorkerError::Acceptor)?;
            while let Some(message) = channel.next_message().map_err(WorkerError::Acceptor)? {
                match (message.value, super::only(message.fds)) {
                    (ToWorker::Refuse { peer, code, reason }, Some(socket)) => {
                        self.add(socket.into(), peer, code, reason)
                    }
                    _ => return Err(WorkerError::Nonsense),
                }
            }
        }
    }
}

impl Refused {
    /// False when there is nothing more to do for it.
    fn go_on(&mut self) -> Result<bool, WireError> {
        self.conn.fill()?;
        while !self.answered {
            let Some(frame) = self.conn.next_frame()? else { return Ok(true) };
            if frame.header.meaning() == Meaning::Call {
                self.conn.queue_error(&frame.header, &self.error)?;
                self.answered = true;
            }
        }
        Ok(!self.conn.flush()?)
    }
}
