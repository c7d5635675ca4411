//! The daemon's side: listeners and connections on a mio poll, with the limits that keep one peer from costing another.
//!
//! The server frames and counts; it decodes a body only when its owner asks, by [`Server::decode_call`]. Its owner polls,
//! hands each event of the server's token range to [`Server::ready`], works through [`Server::next_happening`] until there is
//! none, answers with [`Server::answer`], and calls [`Server::flush`] before it polls again. A connection that ends for
//! whatever reason is always reported as [`Happening::Closed`].
//!
//! What a peer can do to others, and what stops it:
//! * open connections, send large frames or many calls, descriptors, or read nothing, on one connection or on many: all of it
//!   is taken from its user's [budget](crate::budget) before it is accepted, read or taken. Reading goes on when something
//!   has been given back. A reserve is kept for root and the daemon's own uid;
//! * say nothing, or half a frame, and stall: a deadline that only silence of this kind starts;
//! * send calls without reading the answers: no call of its user is taken while too much is unread, and who does not read
//!   for too long, or is sent far too much, is dropped;
//! * send more than others, or connect more often: users are served in turn, one call each, and each turn ends after so many
//!   calls and accepted connections;
//! * shut down its writing side: it gets the answers to its calls, and its connection ends then;
//! * break the protocol: its own connection ends. Before its hello a peer may send a hello and nothing else.

mod connection;
mod users;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    ops::Range,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use api::{Call, Error, ErrorCode, ErrorDomain, Op, Reply};
use mio::{Interest, Registry, Token, unix::SourceFd};

pub use self::connection::Ticket;
use self::{
    connection::{Connection, Pause, Step},
    users::User,
};
use crate::{
    budget::{Allowances, Budgets, Charge, OverBudget, Resource, UserBudget},
    client::VERSIONS,
    codec::{self, CodecError},
    conn::{Conn, ConnError, Incoming},
    frame::{Caps, Kind},
    hello::Hello,
};

/// What a server allows its peers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What one user and all of them may hold. Root and the daemon's own uid have no limit of their own.
    pub budgets: Allowances,
    /// Calls of one connection that wait for their answers.
    pub calls_in_flight: usize,
    /// Bytes that may wait for a peer before its calls are no longer read.
    pub backlog_pause: usize,
    /// Bytes that may wait for a peer before it is dropped.
    pub backlog_drop: usize,
    /// How many times its budget of output a user may have unread, by events and late answers, before connections of it are
    /// dropped.
    pub output_excess: usize,
    /// Connections that one listener accepts before others have their turn.
    pub accepts_a_turn: usize,
    /// Calls that are taken before everybody else has a turn.
    pub calls_a_turn: usize,
    /// The first descriptor number that only root and the daemon's own uid may make this process use. The kernel gives out the
    /// lowest free number, so one this high says that the table is nearly full.
    pub reserve_from: usize,
    /// How long a hello, or the rest of a frame, or a peer that does not read, may take.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            budgets: Allowances::default(),
            calls_in_flight: 256,
            backlog_pause: 256 << 10,
            backlog_drop: 64 << 20,
            output_excess: 4,
            accepts_a_turn: 64,
            calls_a_turn: 256,
            reserve_from: usize::MAX,
            patience: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// The same for a process whose table has room for `descriptors`: connections and descriptors in flight share what is
    /// left when guests, files and the process's own channels have had theirs.
    #[must_use]
    pub fn within(mut self, descriptors: usize) -> Limits {
        let others = OTHER_DESCRIPTORS.min(descriptors / 3);
        let rest = descriptors - others;
        let connections = &mut self.budgets.connections;
        connections.all = connections.all.min(rest / 2);
        connections.reserved = connections.reserved.min(connections.all / 8);
        let left = rest - connections.all;
        let in_flight = &mut self.budgets.descriptors;
        in_flight.all = in_flight.all.min(left);
        in_flight.reserved = in_flight.reserved.min(in_flight.all / 4);
        in_flight.each = in_flight.each.min(in_flight.unreserved());
        self.reserve_from = self.reserve_from.min(descriptors.saturating_sub(others));
        self
    }
}

/// Descriptors for guests, disks on their way, files, and the process's own channels.
const OTHER_DESCRIPTORS: usize = 512;

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
        /// What it counts for its user, to be kept until the call has been answered.
        ticket: Ticket,
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

/// Listeners and connections of one daemon. See the module's page.
pub struct Server {
    registry: Registry,
    tokens: Range<usize>,
    limits: Limits,
    hello: Hello,
    listeners: Vec<(UnixListener, Door)>,
    budgets: Budgets<u32>,
    users: HashMap<u32, User>,
    connections: Vec<Option<Connection>>,
    /// Slots of `connections` that are free.
    free: Vec<usize>,
    open: usize,
    generation: u64,
    /// Users with connections that may have calls, in the order of their turns.
    turns: VecDeque<u32>,
    /// Steps that were made since the last flush.
    steps: usize,
    /// Users with connections that wait for their budget.
    waiting: BTreeSet<u32>,
    /// Connections with something to send.
    dirty: Vec<usize>,
    deadlines: BTreeSet<(Instant, usize)>,
    /// Connections that have ended and have not been reported.
    closed: VecDeque<Happening>,
    /// Listeners with more to accept.
    accept_more: Vec<usize>,
    /// When to try again to accept after the process ran out of descriptors.
    accept_again: Option<Instant>,
    /// How far its clock is ahead of the host's.
    ahead: Duration,
    /// Users that may have the reserve.
    privileged: Vec<u32>,
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
            budgets: Budgets::new(limits.budgets),
            users: HashMap::new(),
            connections: Vec::new(),
            free: Vec::new(),
            open: 0,
            generation: 0,
            turns: VecDeque::new(),
            steps: 0,
            waiting: BTreeSet::new(),
            dirty: Vec::new(),
            deadlines: BTreeSet::new(),
            closed: VecDeque::new(),
            accept_more: Vec::new(),
            accept_again: None,
            ahead: Duration::ZERO,
            privileged: vec![0, rustix::process::geteuid().as_raw()],
        }
    }

    /// Gives the reserve to these users, instead of root and the daemon's own uid.
    pub fn set_privileged(&mut self, uids: Vec<u32>) {
        self.privileged = uids;
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
        self.accept_more.clear();
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

    /// The budget of the user behind a key, for what its owner keeps for it.
    #[must_use]
    pub fn budget(&self, key: PeerKey) -> Option<&UserBudget> {
        self.connection(key).map(|c| &c.budget)
    }

    /// The budget of the daemon's own uid, for what nobody has asked for.
    pub fn own_budget(&mut self) -> UserBudget {
        self.budget_of(rustix::process::geteuid().as_raw())
    }

    /// The budget of a user, whether it has a connection or not.
    pub fn budget_of(&mut self, uid: u32) -> UserBudget {
        self.budgets.user(uid, self.privileged.contains(&uid))
    }

    /// What all users together hold of a resource.
    #[must_use]
    pub fn held(&self, resource: Resource) -> usize {
        self.budgets.held(resource)
    }

    /// Puts its clock forward, for a test that does not wait for deadlines. Give [`Server::flush`] the same clock.
    #[doc(hidden)]
    pub fn put_forward(&mut self, time: Duration) {
        self.ahead += time;
    }

    fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    /// Takes note of one event of the poll.
    pub fn ready(&mut self, token: Token) {
        let index = token.0 - self.tokens.start;
        if index < self.listeners.len() {
            self.accept(index);
        } else if let Some(slot) = index.checked_sub(LISTENER_TOKENS) {
            let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
            connection.unread = true;
            if connection.conn.backlog() > 0 {
                self.send_soon(slot);
            }
            self.queue(slot);
        }
    }

    /// The next thing that has happened, until nothing more has, or others should have a turn first.
    pub fn next_happening(&mut self) -> Option<Happening> {
        loop {
            if let Some(closed) = self.closed.pop_front() {
                return Some(closed);
            }
            if self.steps >= self.limits.calls_a_turn {
                return None;
            }
            let uid = self.turns.pop_front()?;
            self.steps += 1;
            let Some(user) = self.users.get_mut(&uid) else { continue };
            user.in_turns = false;
            let slot = user.ready.pop_front();
            if !user.ready.is_empty() {
                user.in_turns = true;
                self.turns.push_back(uid);
            }
            let called = slot.and_then(|slot| self.step(slot));
            if called.is_some() {
                return called;
            }
        }
    }

    /// Sends what is queued, lets those go on who have waited for room, and drops who has run out of patience. Call before
    /// each poll.
    pub fn flush(&mut self, now: Instant) {
        self.steps = 0;
        for index in std::mem::take(&mut self.accept_more) {
            self.accept(index);
        }
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            for index in 0..self.listeners.len() {
                self.accept(index);
            }
        }
        for slot in std::mem::take(&mut self.dirty) {
            self.write(slot);
        }
        self.wake();
        while let Some((at, slot)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.pop_first();
            self.deadline_passed(slot);
        }
    }

    /// How long the poll may sleep at most.
    #[must_use]
    pub fn patience_left(&self, now: Instant) -> Option<Duration> {
        let busy =
            !self.turns.is_empty() || !self.closed.is_empty() || !self.dirty.is_empty() || !self.accept_more.is_empty();
        if busy {
            return Some(Duration::ZERO);
        }
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        deadline.into_iter().chain(self.accept_again).min().map(|at| at.saturating_duration_since(now))
    }

    /// Decodes a call. An error is its answer, which the owner owes the peer. A body that is no call ends the connection, and
    /// nobody is owed an answer then.
    pub fn decode_call(&mut self, key: PeerKey, frame: &Incoming) -> Option<Result<Call, Error>> {
        match codec::decode_call(&frame.body) {
            Ok(call) => Some(Ok(call)),
            Err(CodecError::UnknownOperation { program, procedure }) => {
                let text = format!("unknown procedure: {procedure} of program {program:#x}");
                Some(Err(Error::new(ErrorCode::RPC, ErrorDomain::RPC, text)))
            }
            Err(error) => {
                self.drop_peer(key, ConnError::Codec(error));
                None
            }
        }
    }

    /// Answers a call. What cannot be encoded, or is longer than a client takes, becomes an error: a call has an answer.
    pub fn answer(&mut self, key: PeerKey, serial: u64, result: Result<(Reply, Vec<OwnedFd>), Error>) {
        let sent = match result {
            Ok((reply, fds)) => self.send(key, Kind::Reply, serial, fds, |out| codec::encode_reply(&reply, out)),
            Err(error) => self.send(key, Kind::Error, serial, Vec::new(), |out| codec::encode_error(&error, out)),
        };
        if let Err(cause) = sent {
            let error = Error::new(ErrorCode::RPC, ErrorDomain::RPC, "the answer cannot be sent").with_cause(cause);
            // An error of a few words always fits.
            let _ = self.send(key, Kind::Error, serial, Vec::new(), |out| codec::encode_error(&error, out));
        }
    }

    /// Queues a frame for a peer. A peer that is gone, or too far behind, simply does not get it.
    ///
    /// # Errors
    /// When the body cannot be encoded or is longer than a client takes: the caller owes the peer another answer then.
    pub fn send(
        &mut self,
        key: PeerKey,
        kind: Kind,
        serial: u64,
        fds: Vec<OwnedFd>,
        body: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
    ) -> Result<(), ConnError> {
        let limits = self.limits;
        let Some(connection) = self.connection_mut(key) else { return Ok(()) };
        let unread = connection.conn.backlog() > 0;
        connection.conn.queue_with(kind, serial, fds, codec::within(Caps::FROM_DAEMON.body, body))?;
        if matches!(kind, Kind::Reply | Kind::Error) {
            connection.in_flight = connection.in_flight.saturating_sub(1);
        }
        connection.count_output();
        let go_on = connection.pause == Pause::Own && connection.may_take(&limits);
        if unread && let Some(over) = connection.over_output(&limits) {
            self.close(key.slot, ConnError::Budget(over));
            return Ok(());
        }
        if go_on {
            self.queue(key.slot);
        }
        self.send_soon(key.slot);
        Ok(())
    }

    /// Ends a connection for a reason of the owner's. It is reported as any other end is.
    pub fn drop_peer(&mut self, key: PeerKey, why: ConnError) {
        if self.connection(key).is_some() {
            self.close(key.slot, why);
        }
    }

    fn connection(&self, key: PeerKey) -> Option<&Connection> {
        self.connections.get(key.slot)?.as_ref().filter(|c| c.generation == key.generation)
    }

    fn connection_mut(&mut self, key: PeerKey) -> Option<&mut Connection> {
        self.connections.get_mut(key.slot)?.as_mut().filter(|c| c.generation == key.generation)
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..self.limits.accepts_a_turn {
            let Some((listener, door)) = self.listeners.get(index) else { return };
            let door = *door;
            match listener.accept() {
                Ok((socket, _)) => self.admit(socket, door),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // Out of descriptors or memory. The poll tells only of new arrivals, so those that wait need a timer.
                    self.accept_again = Some(self.now() + Duration::from_millis(100));
                    return;
                }
            }
        }
        if !self.accept_more.contains(&index) {
            self.accept_more.push(index);
        }
    }

    fn admit(&mut self, socket: UnixStream, door: Door) {
        let Ok(cred) = rustix::net::sockopt::socket_peercred(&socket) else { return };
        let (pid, uid, gid) = (cred.pid.as_raw_nonzero().get(), cred.uid.as_raw(), cred.gid.as_raw());
        self.take_in(socket, Peer { door, pid, uid, gid });
    }

    /// Serves a connection that the caller has accepted or made. The caller vouches for `peer`: the kernel is not asked.
    pub fn take_in(&mut self, socket: UnixStream, peer: Peer) {
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        let mut conn = Conn::new(socket, Caps::BEFORE_HELLO);
        let budget = self.budgets.user(peer.uid, self.privileged.contains(&peer.uid));
        let place = match self.place(&conn, peer, &budget) {
            Ok(place) => place,
            Err(refusal) => {
                // Best effort: an error that does not fit an empty socket buffer is not worth waiting for.
                let queued = conn.queue_with(Kind::Error, 0, Vec::new(), |out| codec::encode_error(&refusal, out));
                let _ = queued.and_then(|()| conn.flush());
                return;
            }
        };
        let slot = self.free.last().copied().unwrap_or(self.connections.len());
        let token = Token(self.tokens.start + LISTENER_TOKENS + slot);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if !self.owns(token)
            || self.registry.register(&mut SourceFd(&conn.socket().as_raw_fd()), token, interest).is_err()
        {
            return;
        }
        self.generation += 1;
        let connection = Connection::new(conn, peer, self.generation, budget.clone(), place);
        self.free.pop();
        if let Some(free) = self.connections.get_mut(slot) {
            *free = Some(connection);
        } else {
            self.connections.push(Some(connection));
        }
        self.users.entry(peer.uid).or_insert_with(|| User::new(budget)).connections += 1;
        self.open += 1;
        self.set_deadline(slot);
    }

    /// A place for a connection among its user's, or what the peer is told when there is none.
    fn place(&self, conn: &Conn, peer: Peer, budget: &UserBudget) -> Result<Charge, Error> {
        let refuse =
            |message: String, hint: &str| Error::new(ErrorCode::RPC, ErrorDomain::RPC, message).with_hint(hint);
        let number = usize::try_from(conn.socket().as_raw_fd()).unwrap_or_default();
        if !budget.is_privileged() && number >= self.limits.reserve_from {
            return Err(refuse("this daemon has no file descriptors left".into(), "try again when a client has left"));
        }
        budget.take(Resource::Connections, 1).map_err(|over| match over {
            OverBudget::User { limit, .. } => refuse(
                format!("uid {} has its limit of {limit} connections open", peer.uid),
                "close connections that are no longer used, or use one for several calls at once",
            ),
            OverBudget::All { limit, .. } => refuse(
                format!("this daemon serves its limit of {limit} connections"),
                "try again when a client has left",
            ),
        })
    }

    /// Lets a connection have a step when its user's turn comes.
    fn queue(&mut self, slot: usize) {
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
        if std::mem::replace(&mut connection.queued, true) {
            return;
        }
        let uid = connection.peer.uid;
        let Some(user) = self.users.get_mut(&uid) else { return };
        user.ready.push_back(slot);
        if !std::mem::replace(&mut user.in_turns, true) {
            self.turns.push_back(uid);
        }
    }

    fn send_soon(&mut self, slot: usize) {
        if let Some(Some(connection)) = self.connections.get_mut(slot)
            && !std::mem::replace(&mut connection.dirty, true)
        {
            self.dirty.push(slot);
        }
    }

    /// Takes one call of a connection, or finds out what keeps it.
    fn step(&mut self, slot: usize) -> Option<Happening> {
        let connection = self.connections.get_mut(slot)?.as_mut()?;
        connection.queued = false;
        let key = PeerKey { slot, generation: connection.generation };
        let waited = connection.conn.backlog();
        let step = connection.step(&self.hello, &self.limits);
        let finishing = matches!(step, Err(ConnError::Closed)) && connection.is_owed();
        connection.finishing |= finishing;
        if connection.conn.backlog() > waited || (finishing && connection.conn.backlog() > 0) {
            // A hello, a refusal, or the last answers.
            connection.count_output();
            self.send_soon(slot);
        }
        let happening = match step {
            Ok(Step::Call(frame, ticket)) => {
                self.queue(slot);
                return Some(Happening::Call { key, frame, ticket });
            }
            Ok(Step::Idle | Step::Pause) => None,
            Ok(Step::Wait(resource)) => {
                self.wait(slot, resource);
                None
            }
            Err(ConnError::Closed) if finishing => None,
            Err(why) => {
                self.close(slot, why);
                return None;
            }
        };
        self.set_deadline(slot);
        happening
    }

    /// Sends what waits for a connection.
    fn write(&mut self, slot: usize) {
        let limits = self.limits;
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
        if !std::mem::take(&mut connection.dirty) {
            return;
        }
        let sent = connection.conn.flush();
        connection.count_output();
        let (uid, backlog) = (connection.peer.uid, connection.conn.backlog());
        let finished = connection.finishing && !connection.is_owed();
        let go_on = finished || (connection.pause == Pause::Own && connection.may_take(&limits));
        match sent {
            Err(why) => return self.close(slot, why),
            Ok(_) if backlog > limits.backlog_drop => return self.close(slot, ConnError::Timeout),
            Ok(_) => {}
        }
        if let Some(user) = self.users.get_mut(&uid) {
            user.note_backlog(slot, backlog);
        }
        if go_on {
            self.queue(slot);
        }
        self.set_deadline(slot);
    }

    /// The clock of what a peer owes starts when the debt does, and is not wound back by a byte now and then.
    fn set_deadline(&mut self, slot: usize) {
        let now = self.now();
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
        let pressed = self.users.get(&connection.peer.uid).is_some_and(|user| user.pressed);
        let owes = connection.owes(&self.limits, pressed);
        if owes == connection.deadline.is_some() {
            return;
        }
        if let Some(at) = connection.deadline.take() {
            self.deadlines.remove(&(at, slot));
        } else {
            let at = now + self.limits.patience;
            connection.deadline = Some(at);
            self.deadlines.insert((at, slot));
        }
    }

    fn deadline_passed(&mut self, slot: usize) {
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return };
        connection.deadline = None;
        let pressed = self.users.get(&connection.peer.uid).is_some_and(|user| user.pressed);
        if connection.owes(&self.limits, pressed) {
            self.close(slot, ConnError::Timeout);
        }
    }

    fn close(&mut self, slot: usize, why: ConnError) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::take) else { return };
        // Closing deregisters by itself; this keeps the poll's own books right.
        let _ = self.registry.deregister(&mut SourceFd(&connection.conn.socket().as_raw_fd()));
        self.open -= 1;
        self.free.push(slot);
        if let Some(at) = connection.deadline {
            self.deadlines.remove(&(at, slot));
        }
        let peer = connection.peer;
        if let Some(user) = self.users.get_mut(&peer.uid)
            && user.forget(slot)
        {
            self.users.remove(&peer.uid);
            self.waiting.remove(&peer.uid);
            self.turns.retain(|uid| *uid != peer.uid);
        }
        let key = PeerKey { slot, generation: connection.generation };
        self.closed.push_back(Happening::Closed { key, peer, why });
    }
}

/// Checks that a call came with as many descriptors as its operation takes.
///
/// # Errors
/// The call's answer when it did not.
pub fn check_descriptors(op: Op, fds: &[OwnedFd]) -> Result<(), Error> {
    if op.info().fds_in.allows(fds.len()) {
        return Ok(());
    }
    let text = format!("{op} came with {} file descriptors", fds.len());
    Err(Error::new(ErrorCode::RPC, ErrorDomain::RPC, text))
}

/// Tokens kept for listeners at the start of a server's range.
const LISTENER_TOKENS: usize = 8;
