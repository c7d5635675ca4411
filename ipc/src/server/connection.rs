//! One connection of a server: what it reads, takes and owes.

use std::{os::fd::AsRawFd, sync::Arc, time::Instant};

use api::{Error, ErrorCode, ErrorDomain};

use super::{Limits, Peer};
use crate::{
    budget::{Charge, OverBudget, Resource, UserBudget},
    codec,
    conn::{Conn, ConnError, FIRST_READ, Filled, Incoming},
    edge,
    frame::{Caps, Kind},
    hello::Hello,
    wait,
};

/// Bodies up to this size cost a user nothing but the call.
const SMALL_BODY: usize = 4 << 10;

/// What a call counts for its user until it has been answered. Its owner keeps it (or a clone) as long as anything is being
/// done for the call, also when the connection is gone: so nobody gets more by hanging up.
#[derive(Clone, Debug)]
pub struct Ticket {
    _held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    _call: Charge,
    _body: Option<Charge>,
    _fds: Option<Charge>,
}

/// Why nothing more is taken from a connection for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Nothing keeps it.
    None,
    /// It has as many calls under way, or as much unread, as one connection may.
    Own,
    /// Its user has.
    User,
    /// Its user has no room for what comes next.
    Room,
}

/// What came of one step.
pub enum Step {
    /// A call.
    Call(Incoming, Ticket),
    /// Nothing is there to be taken.
    Idle,
    /// The connection has used up its own limits; it is visited again when it has answers or has read some.
    Pause,
    /// Its user's budget of this is used up; visited again when something has been given back.
    Wait(Resource),
}

/// See the module's page.
pub struct Connection {
    pub conn: Conn,
    pub peer: Peer,
    pub generation: u64,
    pub budget: UserBudget,
    pub greeted: bool,
    pub in_flight: usize,
    /// When patience with what this peer owes ends.
    pub deadline: Option<Instant>,
    /// The socket may have something that the poll will not tell of again.
    pub unread: bool,
    /// It is in its user's queue.
    pub queued: bool,
    /// It is in the list of those with something to send.
    pub dirty: bool,
    pub pause: Pause,
    /// Its peer has shut down its writing side and has answers to come.
    pub finishing: bool,
    _place: Charge,
    input: Charge,
    output: Charge,
    fds: Charge,
}

impl Connection {
    /// A connection that has been accepted and admitted; `place` is its own place among its user's connections.
    pub fn new(conn: Conn, peer: Peer, generation: u64, budget: UserBudget, place: Charge) -> Connection {
        let none = |resource| budget.take_anyway(resource, 0);
        Connection {
            input: none(Resource::Input),
            output: none(Resource::Output),
            fds: none(Resource::Descriptors),
            conn,
            peer,
            generation,
            budget,
            greeted: false,
            in_flight: 0,
            deadline: None,
            unread: true,
            queued: false,
            dirty: false,
            pause: Pause::None,
            finishing: false,
            _place: place,
        }
    }

    /// Takes the next call, reading if there is none in the buffer.
    pub fn step(&mut self, hello: &Hello, limits: &Limits) -> Result<Step, ConnError> {
        loop {
            if self.greeted {
                if !self.may_take(limits) {
                    return Ok(self.paused(Pause::Own, Step::Pause));
                }
                if let Some(resource) = self.used_up() {
                    return Ok(self.paused(Pause::User, Step::Wait(resource)));
                }
            }
            match self.conn.next_frame()? {
                Some(frame) if !self.greeted => self.greet(&frame, hello)?,
                Some(frame) if frame.kind == Kind::Call => {
                    if let Some(step) = self.take(frame, limits)? {
                        return Ok(self.paused(Pause::None, step));
                    }
                }
                Some(frame) => return Err(ConnError::Unexpected { found: frame.kind, expected: "a call" }),
                None if !self.unread => {
                    self.count_input();
                    return Ok(self.paused(Pause::None, Step::Idle));
                }
                None => {
                    if let Some(resource) = self.read()? {
                        return Ok(self.paused(Pause::Room, Step::Wait(resource)));
                    }
                }
            }
        }
    }

    fn paused(&mut self, pause: Pause, step: Step) -> Step {
        self.pause = pause;
        step
    }

    /// Whether the limits of one connection allow another call.
    pub fn may_take(&self, limits: &Limits) -> bool {
        self.in_flight < limits.calls_in_flight && self.conn.backlog() <= limits.backlog_pause
    }

    /// Whether its peer, which has shut down its writing side, has answers to come.
    pub fn is_owed(&self) -> bool {
        self.greeted && (self.in_flight > 0 || self.conn.backlog() > 0) && !wait::hung_up(&self.conn)
    }

    /// What the user has used up, so that no call of it is taken. Who holds nothing of a resource may always have one call:
    /// others can make it wait, but not for ever.
    fn used_up(&self) -> Option<Resource> {
        let used_up = |resource| self.budget.left(resource) == 0 && self.budget.held(resource) > 0;
        let fds_wait = self.conn.waiting_fds() > 0 && used_up(Resource::Descriptors);
        [Resource::Output, Resource::Calls]
            .into_iter()
            .find(|resource| used_up(*resource))
            .or(fds_wait.then_some(Resource::Descriptors))
    }

    /// Reads once. Returns what there is no room for, if nothing was read for that reason.
    fn read(&mut self) -> Result<Option<Resource>, ConnError> {
        // Small frames cost nothing, so they pass however much of others is under way.
        let size = self.conn.next_input_size().saturating_sub(FIRST_READ);
        if self.input.set(size).is_err() {
            return Ok(Some(Resource::Input));
        }
        let room = self.budget.left(Resource::Descriptors);
        let filled = self.conn.fill_within(room)?;
        self.unread = self.conn.may_have_more();
        self.count_fds();
        match filled {
            Filled::TooManyFds(announced) => {
                let limit = self.budget.limit(Resource::Descriptors);
                // More than there will ever be room for.
                if announced > limit {
                    return Err(OverBudget::User { resource: Resource::Descriptors, limit }.into());
                }
                Ok(Some(Resource::Descriptors))
            }
            Filled::Some | Filled::Nothing => Ok(None),
        }
    }

    fn count_input(&mut self) {
        self.input.set_anyway(self.conn.input_size().saturating_sub(FIRST_READ));
    }

    fn count_fds(&mut self) {
        self.fds.set_anyway(self.conn.held_fds() + self.conn.waiting_fds());
    }

    /// Counts what waits to be read by the peer.
    pub fn count_output(&mut self) {
        self.output.set_anyway(self.conn.backlog());
        self.count_fds();
    }

    fn take(&mut self, frame: Incoming, limits: &Limits) -> Result<Option<Step>, ConnError> {
        let reserved =
            |fd: &std::os::fd::OwnedFd| usize::try_from(fd.as_raw_fd()).is_ok_and(|n| n >= limits.reserve_from);
        let scarce = !self.budget.is_privileged() && frame.fds.iter().any(reserved);
        let descriptors = frame.fds.len();
        if frame.lost_fds || scarce {
            drop(frame.fds);
            self.count_fds();
            self.refuse(frame.serial)?;
            return Ok(None);
        }
        self.in_flight += 1;
        let call = match self.budget.take(Resource::Calls, 1) {
            Ok(call) => call,
            Err(_) => self.budget.take_anyway(Resource::Calls, 1),
        };
        // Both are here already, and are only counted in another place from now on.
        let body = (frame.body.len() > SMALL_BODY).then(|| self.budget.take_anyway(Resource::Input, frame.body.len()));
        let fds = (descriptors > 0).then(|| self.budget.take_anyway(Resource::Descriptors, descriptors));
        if descriptors > 0 {
            self.count_fds();
        }
        self.count_input();
        Ok(Some(Step::Call(frame, Ticket { _held: Arc::new(Held { _call: call, _body: body, _fds: fds }) })))
    }

    /// Answers a call for whose descriptors this process has no room.
    fn refuse(&mut self, serial: u64) -> Result<(), ConnError> {
        let text = "the daemon has no room for the file descriptors of this call";
        let error = Error::new(ErrorCode::RPC, ErrorDomain::RPC, text)
            .with_hint("too many files are open in the daemon; try again, or raise its limit of open files");
        self.conn.queue_with(Kind::Error, serial, Vec::new(), |out| codec::encode_error(&error, out))
    }

    fn greet(&mut self, frame: &Incoming, ours: &Hello) -> Result<(), ConnError> {
        let theirs = edge::decode_hello(frame)?;
        match ours.agree(&theirs) {
            Ok(_) => {
                self.greeted = true;
                self.conn.set_caps(Caps::FROM_CLIENT);
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

    /// Whether the user holds so much unread output that this connection, which has a part of it, must go.
    pub fn over_output(&self, limits: &Limits) -> Option<OverBudget> {
        let limit = self.budget.limit(Resource::Output).saturating_mul(limits.output_excess);
        (self.budget.held(Resource::Output) > limit).then_some(OverBudget::User { resource: Resource::Output, limit })
    }

    /// Whether the peer owes something: a hello, the rest of a frame, or to read what it was sent. `pressed`: its user waits
    /// for the output to be read.
    pub fn owes(&self, limits: &Limits, pressed: bool) -> bool {
        let half_a_frame = self.conn.within_frame() && matches!(self.pause, Pause::None | Pause::Room);
        let backlog = self.conn.backlog();
        !self.greeted || half_a_frame || backlog > limits.backlog_pause || (pressed && backlog > 0)
    }
}
