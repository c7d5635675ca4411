//! The daemon's side: listeners and connections on a mio poll, with the limits that keep one peer from costing another.
//!
//! The server frames and counts; it never decodes a body. Its owner polls, hands each event of the server's token range to
//! [`Server::ready`], works through what has happened, answers with [`Server::send`] and calls [`Server::flush`] before
//! it polls again.
//!
//! What a peer can do to others, and what stops it:
//! * open connections without end: a limit for each uid and for all, refused with an error at once;
//! * say nothing, or half a frame, and stall: a deadline that only silence of this kind starts;
//! * send calls without reading the answers: its own socket is no longer read, and past a cap it is dropped;
//! * send nonsense: its own connection ends.

use std::{
    collections::HashMap,
    io,
    ops::Range,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use api::{Error, ErrorCode, ErrorDomain};
use mio::{Interest, Registry, Token, unix::SourceFd};

use crate::{
    client::VERSIONS,
    codec::{self, CodecError},
    conn::{Conn, ConnError, Incoming},
    edge,
    frame::{Caps, Kind},
    hello::Hello,
};

/// What a server allows its peers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of one uid. Root and the daemon's own uid get `connections`.
    pub connections_per_uid: usize,
    /// Connections of all.
    pub connections: usize,
    /// How many of them only root and the daemon's own uid may have: what all others open must not lock those out.
    pub reserved: usize,
    /// Calls of one connection that wait for their answers.
    pub calls_in_flight: usize,
    /// Bytes that may wait for a peer before its calls are no longer read.
    pub backlog_pause: usize,
    /// Bytes that may wait for a peer before it is dropped.
    pub backlog_drop: usize,
    /// How long a hello, or the rest of a frame, or a peer that does not read, may take.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_per_uid: 128,
            connections: 2048,
            reserved: 128,
            calls_in_flight: 256,
            backlog_pause: 256 << 10,
            backlog_drop: 64 << 20,
            patience: Duration::from_secs(10),
        }
    }
}

/// Which listener a peer came in by, as its owner numbers them.
pub type Door = u8;

/// Names one connection; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey {
    slot: usize,
    generation: u64,
}

/// Who is at the other end, stamped by the kernel when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The listener it came in by.
    pub door: Door,
    /// Its process when it connected; for logs only, a pid can be used again.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// What a poll has brought.
#[derive(Debug)]
pub enum Happening {
    /// A call of a peer that has said hello.
    Call {
        /// Whose.
        key: PeerKey,
        /// The frame, of kind [`Kind::Call`].
        frame: Incoming,
    },
    /// A connection is over; its key is dead.
    Closed {
        /// Which.
        key: PeerKey,
        /// Who it was.
        peer: Peer,
        /// Why: [`ConnError::Closed`] when it simply left.
        why: ConnError,
    },
}

struct Connection {
    conn: Conn,
    peer: Peer,
    generation: u64,
    greeted: bool,
    in_flight: usize,
    /// When patience with what this peer owes ends.
    deadline: Option<Instant>,
    /// The socket may have something that the poll will not tell of again.
    unread: bool,
}

/// Listeners and connections of one daemon. See the module's page.
pub struct Server {
    registry: Registry,
    tokens: Range<usize>,
    limits: Limits,
    hello: Hello,
    listeners: Vec<(UnixListener, Door)>,
    connections: Vec<Option<Connection>>,
    by_uid: HashMap<u32, usize>,
    open: usize,
    generation: u64,
    /// Connections with something to send, or to read that the poll will not tell of.
    revisit: Vec<usize>,
    /// When to try again to accept after the process ran out of descriptors.
    accept_again: Option<Instant>,
    own_uid: u32,
}

impl Server {
    /// A server without listeners that uses the given range of the registry's tokens.
    #[must_use]
    pub fn new(registry: Registry, tokens: Range<usize>, limits: Limits, program: &str) -> Server {
        Server {
            registry,
            tokens,
            limits,
            hello: Hello::new(program, VERSIONS.0, VERSIONS.1),
            listeners: Vec::new(),
            connections: Vec::new(),
            by_uid: HashMap::new(),
            open: 0,
            generation: 0,
            revisit: Vec::new(),
            accept_again: None,
            own_uid: rustix::process::geteuid().as_raw(),
        }
    }

    /// Accepts connections from `listener` from now on.
    ///
    /// # Errors
    /// When the listener cannot be polled.
    pub fn listen(&mut self, listener: UnixListener, door: Door) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let token = Token(self.tokens.start + self.listeners.len());
        self.registry.register(&mut SourceFd(&listener.as_raw_fd()), token, Interest::READABLE)?;
        self.listeners.push((listener, door));
        Ok(())
    }

    /// Accepts nobody for now: who connects waits in the listeners' queues.
    pub fn pause_listening(&mut self) {
        for (listener, _) in &self.listeners {
            // A listener that stays registered is accepted from: the worst case is what was before.
            let _ = self.registry.deregister(&mut SourceFd(&listener.as_raw_fd()));
        }
    }

    /// Accepts again, first those that have waited.
    ///
    /// # Errors
    /// When a listener cannot be polled.
    pub fn resume_listening(&mut self) -> io::Result<()> {
        for (index, (listener, _)) in self.listeners.iter().enumerate() {
            let token = Token(self.tokens.start + index);
            self.registry.register(&mut SourceFd(&listener.as_raw_fd()), token, Interest::READABLE)?;
        }
        Ok(())
    }

    /// Whether an event of this token belongs to [`Server::ready`].
    #[must_use]
    pub fn owns(&self, token: Token) -> bool {
        self.tokens.contains(&token.0)
    }

    /// Connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open
    }

    /// Who is behind a key, while the connection is open.
    #[must_use]
    pub fn peer(&self, key: PeerKey) -> Option<Peer> {
        self.connection(key).map(|c| c.peer)
    }

    /// Works through one event of the poll.
    pub fn ready(&mut self, token: Token, happenings: &mut Vec<Happening>) {
        let index = token.0 - self.tokens.start;
        if index < self.listeners.len() {
            self.accept(index);
        } else {
            let slot = index - LISTENER_TOKENS;
            if let Some(Some(connection)) = self.connections.get_mut(slot) {
                connection.unread = true;
                self.visit(slot, happenings);
            }
        }
    }

    /// Sends what is queued, reads what was left unread, and drops who has run out of patience. Call before each poll.
    pub fn flush(&mut self, now: Instant, happenings: &mut Vec<Happening>) {
        let mut slots = std::mem::take(&mut self.revisit);
        slots.sort_unstable();
        slots.dedup();
        for slot in slots {
            self.visit(slot, happenings);
        }
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            for index in 0..self.listeners.len() {
                self.accept(index);
            }
        }
        for slot in 0..self.connections.len() {
            let late = |c: &Connection| c.deadline.is_some_and(|at| at <= now);
            if self.connections.get(slot).and_then(Option::as_ref).is_some_and(late) {
                self.close(slot, ConnError::Timeout, happenings);
            }
        }
    }

    /// How long the poll may sleep at most.
    #[must_use]
    pub fn patience_left(&self, now: Instant) -> Option<Duration> {
        if !self.revisit.is_empty() {
            return Some(Duration::ZERO);
        }
        let deadlines = self.connections.iter().flatten().filter_map(|c| c.deadline);
        deadlines.chain(self.accept_again).min().map(|at| at.saturating_duration_since(now))
    }

    /// Queues a frame for a peer. A peer that is gone, or too far behind, simply does not get it.
    ///
    /// # Errors
    /// When the body cannot be encoded: the caller owes the peer another answer then.
    pub fn send(
        &mut self,
        key: PeerKey,
        kind: Kind,
        serial: u64,
        fds: Vec<OwnedFd>,
        body: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
    ) -> Result<(), ConnError> {
        let Some(connection) = self.connection_mut(key) else { return Ok(()) };
        connection.conn.queue_with(kind, serial, fds, body)?;
        if matches!(kind, Kind::Reply | Kind::Error) {
            connection.in_flight = connection.in_flight.saturating_sub(1);
        }
        self.revisit.push(key.slot);
        Ok(())
    }

    /// Ends a connection for a reason of the owner's.
    pub fn drop_peer(&mut self, key: PeerKey, why: ConnError, happenings: &mut Vec<Happening>) {
        if self.connection(key).is_some() {
            self.close(key.slot, why, happenings);
        }
    }

    fn connection(&self, key: PeerKey) -> Option<&Connection> {
        self.connections.get(key.slot)?.as_ref().filter(|c| c.generation == key.generation)
    }

    fn connection_mut(&mut self, key: PeerKey) -> Option<&mut Connection> {
        self.connections.get_mut(key.slot)?.as_mut().filter(|c| c.generation == key.generation)
    }

    fn accept(&mut self, index: usize) {
        loop {
            let Some((listener, door)) = self.listeners.get(index) else { return };
            let door = *door;
            match listener.accept() {
                Ok((socket, _)) => self.admit(socket, door),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // Out of descriptors or memory. The poll tells only of new arrivals, so those that wait need a timer.
                    self.accept_again = Some(Instant::now() + Duration::from_millis(100));
                    return;
                }
            }
        }
    }

    fn admit(&mut self, socket: UnixStream, door: Door) {
        let Ok(cred) = rustix::net::sockopt::socket_peercred(&socket) else { return };
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        let peer = Peer { door, pid: cred.pid.as_raw_nonzero().get(), uid: cred.uid.as_raw(), gid: cred.gid.as_raw() };
        let mut conn = Conn::new(socket, Caps::FROM_CLIENT);
        if let Some(refusal) = self.refusal(peer) {
            // Best effort: an error that does not fit an empty socket buffer is not worth waiting for.
            let queued = conn.queue_with(Kind::Error, 0, Vec::new(), |out| codec::encode_error(&refusal, out));
            let _ = queued.and_then(|()| conn.flush());
            return;
        }
        let slot = self.connections.iter().position(Option::is_none).unwrap_or(self.connections.len());
        let token = Token(self.tokens.start + LISTENER_TOKENS + slot);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if !self.owns(token)
            || self.registry.register(&mut SourceFd(&conn.socket().as_raw_fd()), token, interest).is_err()
        {
            return;
        }
        self.generation += 1;
        let deadline = Some(Instant::now() + self.limits.patience);
        let connection = Connection {
            conn,
            peer,
            generation: self.generation,
            greeted: false,
            in_flight: 0,
            deadline,
            unread: true,
        };
        if slot == self.connections.len() {
            self.connections.push(Some(connection));
        } else if let Some(free) = self.connections.get_mut(slot) {
            *free = Some(connection);
        }
        *self.by_uid.entry(peer.uid).or_default() += 1;
        self.open += 1;
    }

    fn refusal(&self, peer: Peer) -> Option<Error> {
        let refuse =
            |message: String, hint: &str| Some(Error::new(ErrorCode::RPC, ErrorDomain::RPC, message).with_hint(hint));
        let privileged = peer.uid == 0 || peer.uid == self.own_uid;
        let reserved = if privileged { 0 } else { self.limits.reserved };
        let limit = self.limits.connections.saturating_sub(reserved);
        if self.open >= limit {
            return refuse(
                format!("this daemon serves its limit of {limit} connections"),
                "try again when a client has left",
            );
        }
        let own = self.by_uid.get(&peer.uid).copied().unwrap_or_default();
        if !privileged && own >= self.limits.connections_per_uid {
            return refuse(
                format!("uid {} has its limit of {} connections open", peer.uid, self.limits.connections_per_uid),
                "close connections that are no longer used, or use one for several calls at once",
            );
        }
        None
    }

    /// Does what one connection needs: read, take frames, write; in this order, so that answers go out at once.
    fn visit(&mut self, slot: usize, happenings: &mut Vec<Happening>) {
        let limits = self.limits;
        let hello = &self.hello;
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
        let key = PeerKey { slot, generation: connection.generation };
        let mut again = false;
        let result = connection.exchange(key, hello, limits, happenings, &mut again);
        if again {
            self.revisit.push(slot);
        }
        if let Err(why) = result {
            self.close(slot, why, happenings);
        }
    }

    fn close(&mut self, slot: usize, why: ConnError, happenings: &mut Vec<Happening>) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::take) else { return };
        // Closing deregisters by itself; this keeps the poll's own books right.
        let _ = self.registry.deregister(&mut SourceFd(&connection.conn.socket().as_raw_fd()));
        self.open -= 1;
        if let Some(count) = self.by_uid.get_mut(&connection.peer.uid) {
            *count -= 1;
            if *count == 0 {
                self.by_uid.remove(&connection.peer.uid);
            }
        }
        let key = PeerKey { slot, generation: connection.generation };
        happenings.push(Happening::Closed { key, peer: connection.peer, why });
    }
}

/// Tokens kept for listeners at the start of a server's range.
const LISTENER_TOKENS: usize = 8;

impl Connection {
    fn exchange(
        &mut self,
        key: PeerKey,
        hello: &Hello,
        limits: Limits,
        happenings: &mut Vec<Happening>,
        again: &mut bool,
    ) -> Result<(), ConnError> {
        self.conn.flush()?;
        if self.conn.backlog() > limits.backlog_drop {
            return Err(ConnError::Timeout);
        }
        let may_read = self.conn.backlog() <= limits.backlog_pause && self.in_flight < limits.calls_in_flight;
        if may_read {
            if self.unread {
                self.conn.fill()?;
                self.unread = self.conn.may_have_more();
            }
            self.take_frames(key, hello, limits, happenings)?;
            self.conn.flush()?;
            *again = self.unread && self.in_flight < limits.calls_in_flight;
        }
        self.set_deadline(limits);
        Ok(())
    }

    fn take_frames(
        &mut self,
        key: PeerKey,
        hello: &Hello,
        limits: Limits,
        happenings: &mut Vec<Happening>,
    ) -> Result<(), ConnError> {
        while self.in_flight < limits.calls_in_flight {
            let Some(frame) = self.conn.next_frame()? else { return Ok(()) };
            if !self.greeted {
                self.greet(&frame, hello)?;
            } else if frame.kind == Kind::Call {
                self.in_flight += 1;
                happenings.push(Happening::Call { key, frame });
            } else {
                return Err(ConnError::Unexpected { found: frame.kind, expected: "a call" });
            }
        }
        Ok(())
    }

    fn greet(&mut self, frame: &Incoming, ours: &Hello) -> Result<(), ConnError> {
        let theirs = edge::decode_hello(frame)?;
        match ours.agree(&theirs) {
            Ok(_) => {
                self.greeted = true;
                self.conn.queue_with(Kind::Hello, 0, Vec::new(), |out| codec::encode_into(ours, out))
            }
            Err(none) => {
                let error = Error::new(ErrorCode::RPC, ErrorDomain::RPC, none.to_string())
                    .with_hint("use a client and a daemon of the same release");
                self.conn.queue_with(Kind::Error, 0, Vec::new(), |out| codec::encode_error(&error, out))?;
                self.conn.flush()?;
                Err(ConnError::Closed)
            }
        }
    }

    /// A peer owes something while it has not said hello, is within a frame, or leaves its answers
    /// unread. The clock starts when
    /// the debt does and is not wound back by a byte now and then.
    fn set_deadline(&mut self, limits: Limits) {
        let half_a_frame = self.conn.within_frame() && self.in_flight < limits.calls_in_flight;
        let owes = !self.greeted || half_a_frame || self.conn.backlog() > limits.backlog_pause;
        self.deadline = owes.then(|| self.deadline.unwrap_or_else(|| Instant::now() + limits.patience));
    }
}
