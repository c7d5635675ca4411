//! Connections to supervisors: what was asked of each and what it has said. Guests' and probes' supervisors are spoken to
//! in the same way; a connection belongs to a run and says nothing about whether that run lives.
//!
//! A supervisor may have been taken over by its guest. So what waits for it is bounded, what it says is checked before it is
//! believed, and a broken rule ends the connection and nothing else.

use std::{
    collections::{BTreeSet, HashMap},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use ipc::{Caps, ConnError, OutputLimit, edge::Channel};
use mio::{Interest, Token, unix::SourceFd};
use supervisor::{
    events::Recorded,
    protocol::{Answer, Excess, Failure, Happening, Message, News, PAYLOADS_SINCE, Request},
};

use super::{Control, FIRST_SUPERVISOR, Then};

/// Messages of one supervisor that are taken before others have their turn.
const MESSAGES_A_TURN: usize = 64;
/// Requests that may wait for one supervisor's answers, and bytes that may wait for it to read them. A boot is larger and is
/// the first request of all.
const MAX_WAITING: usize = 256;
/// And those of them that may be questions. Anybody may ask, without end, and what changes a guest has a place all the same.
const MAX_QUESTIONS: usize = 192;
const MAX_BACKLOG: usize = 256 << 10;
/// Bytes of one supervisor that are read in its turn.
const BYTES_A_TURN: usize = 512 << 10;
/// What a supervisor may send in one message. The largest that an honest one sends are a guest's record and a monitor's
/// answer, of 1 MiB each.
const CAPS: Caps = Caps { body: 2 << 20, fds: 16 };
/// What may wait for a supervisor to read it: its orders and a record, and more than [`MAX_WAITING`] messages never.
const OUTPUT: OutputLimit = OutputLimit { bytes: 8 << 20, messages: 2 * MAX_WAITING };
/// The serial of a new supervisor's orders, the first request of its first connection.
const ORDERS: u64 = 1;
/// What a supervisor has on top of its own deadline for QEMU before control gives up on the supervisor itself.
pub const GRACE: Duration = Duration::from_secs(2);

/// Why a guest's supervisor has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// The supervisor says so.
    #[error(transparent)]
    Failure(Failure),
    /// The supervisor itself is silent.
    #[error("the guest's supervisor did not answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// There is no connection to the supervisor at the moment. The guest may be well.
    #[error("there is no connection to the guest's supervisor")]
    Unreachable,
    /// There is a connection, and the supervisor has not told yet what control has to know of the guest.
    #[error("the guest's supervisor has not reported yet")]
    Unheard,
    /// The supervisor is not listened to.
    #[error("the guest is quarantined: {0}")]
    Quarantined(String),
    /// The guest is ending.
    #[error("the guest is ending")]
    Ending,
    /// The supervisor is gone.
    #[error("the guest's supervisor is gone{}", .0.as_deref().map(|how| format!(" ({how})")).unwrap_or_default())]
    Gone(Option<String>),
    /// Another job has been under way for too long.
    #[error("other jobs of this guest did not end within {} ms", .0.as_millis())]
    Waited(Duration),
    /// The guest was started by an earlier release, and its supervisor does not know what is asked.
    #[error("the guest's supervisor is of an earlier release, which does not have this")]
    Old,
    /// Too many jobs wait already.
    #[error("{} jobs wait for this guest already", registry::jobs::MAX_QUEUED)]
    Busy,
    /// Too much waits for the supervisor already.
    #[error("too many requests wait for this guest already")]
    Full,
}

impl GuestError {
    /// The supervisor answers something else than it was asked.
    pub fn another_answer() -> GuestError {
        GuestError::Failure(Failure::Qmp("the supervisor gave another answer".into()))
    }
}

/// What a supervisor answers to a request.
pub type SupervisorReply = Result<(Answer, Vec<OwnedFd>), GuestError>;

/// The connections that there are, by run.
#[derive(Default)]
pub struct Links {
    by_run: HashMap<u32, Link>,
    /// Those that have something to send.
    unsent: Vec<u32>,
    /// Those that have something to say: the poll reported them, or they said more than was taken in their turn. A set, so
    /// each has one turn in each pass of the loop.
    unheard: BTreeSet<u32>,
}

/// One connection.
pub struct Link {
    channel: Channel<Request, Message>,
    serial: u64,
    waiting: HashMap<u64, Waiting>,
    /// The connection began with a supervisor's orders, and their answer has not come.
    orders: bool,
    greeted: bool,
    /// The version of the edge that the supervisor speaks, once it has said so.
    version: Option<u16>,
}

struct Waiting {
    then: Then<SupervisorReply>,
    timer: (Instant, u64),
}

impl Links {
    /// Whether a run's supervisor has said that it speaks this version of the edge.
    #[must_use]
    pub fn speaks(&self, run: u32, version: u16) -> bool {
        self.by_run.get(&run).and_then(|link| link.version).is_some_and(|spoken| spoken >= version)
    }

    /// Supervisors that wait for their next turn.
    #[must_use]
    pub fn is_any_unheard(&self) -> bool {
        !self.unheard.is_empty()
    }

    fn sending(&mut self, run: u32) {
        if !self.unsent.contains(&run) {
            self.unsent.push(run);
        }
    }
}

impl Link {
    /// Takes a connected socket; the hello is queued.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn new(socket: UnixStream) -> Result<Link, ConnError> {
        socket.set_nonblocking(true).map_err(|error| io(&error))?;
        let mut channel = Channel::bounded(socket, CAPS, OUTPUT);
        let (oldest, newest) = supervisor::protocol::VERSIONS;
        channel.queue_hello(&ipc::Hello::new("qemud", oldest, newest))?;
        Ok(Link { channel, serial: 0, waiting: HashMap::new(), orders: false, greeted: false, version: None })
    }

    /// A message with no more in it than there may be. A supervisor of this release sends no other; what one of an earlier
    /// release sends is cut.
    fn believe(&self, message: Message) -> Result<Message, Excess> {
        if self.version.is_some_and(|version| version >= PAYLOADS_SINCE) {
            message.checked()
        } else {
            Ok(message.bounded())
        }
    }

    /// Sends a new supervisor its orders, before there is one: they lie in the socket when it comes. Their answer goes to
    /// [`Control::ordered`].
    ///
    /// # Errors
    /// When they cannot be sent.
    pub fn order(&mut self, orders: &Request, fds: Vec<OwnedFd>) -> Result<(), ConnError> {
        self.orders = true;
        let serial = self.next_serial();
        debug_assert_eq!(serial, ORDERS);
        self.channel.queue(serial, orders, fds)?;
        self.channel.flush().map(|_| ())
    }

    fn next(&mut self) -> Result<Option<ipc::edge::Message<Message>>, ConnError> {
        loop {
            if !self.greeted {
                if let Some(hello) = self.channel.next_hello()? {
                    let (oldest, newest) = supervisor::protocol::VERSIONS;
                    // A supervisor of a release too old to talk to keeps its guest; this control just cannot reach it.
                    let agreed =
                        ipc::Hello::new("qemud", oldest, newest).agree(&hello).map_err(|_| ConnError::Closed)?;
                    self.version = Some(agreed);
                    self.greeted = true;
                    continue;
                }
            } else if let Some(message) = self.channel.next_message()? {
                return Ok(Some(message));
            }
            if !self.channel.fill()? {
                // Tells an end from a pause.
                return if self.greeted {
                    self.channel.next_message()
                } else {
                    self.channel.next_hello().map(|_| None)
                };
            }
        }
    }
}

impl Control {
    /// Makes a connection the one of a run, and listens to it.
    pub(super) fn connect(&mut self, run: u32, link: Link) -> Result<(), ConnError> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        let fd = link.channel.conn().socket().as_raw_fd();
        self.poll.register(&mut SourceFd(&fd), token(run), interest).map_err(|error| io(&error))?;
        self.links.by_run.insert(run, link);
        self.links.sending(run);
        Ok(())
    }

    /// Asks a run's supervisor, and does `then` with the answer, or with what kept it from coming.
    pub(super) fn ask_guest(&mut self, run: u32, request: &Request, fds: Vec<OwnedFd>, then: Then<SupervisorReply>) {
        let wait = self.config.guest_deadline + GRACE;
        self.ask_guest_within(run, request, fds, wait, then);
    }

    /// The same with a deadline of its own.
    pub(super) fn ask_guest_within(
        &mut self,
        run: u32,
        request: &Request,
        fds: Vec<OwnedFd>,
        wait: Duration,
        then: Then<SupervisorReply>,
    ) {
        let refused = match self.links.by_run.get(&run) {
            None => Some(self.no_link(run)),
            Some(link) if link.version.is_some_and(|version| version < request.since()) => Some(GuestError::Old),
            Some(link) if link.is_full_for(request) => Some(GuestError::Full),
            Some(_) => None,
        };
        if let Some(error) = refused {
            return then(self, Err(error));
        }
        let Some(serial) = self.links.by_run.get_mut(&run).map(Link::next_serial) else { return };
        let timer =
            self.after(wait, Box::new(move |control, ()| control.give_up_on(run, serial, GuestError::Silent(wait))));
        let then = self.in_the_same_name(then);
        let Some(link) = self.links.by_run.get_mut(&run) else { return };
        link.waiting.insert(serial, Waiting { then, timer });
        let queued = link.channel.queue(serial, request, fds);
        self.links.sending(run);
        if let Err(error) = queued {
            tracing::error!(run, "cannot send a request: {error}");
            self.give_up_on(run, serial, GuestError::Unreachable);
        }
    }

    /// Why a run's supervisor has not told something.
    pub(super) fn why_unheard(&self, run: u32) -> GuestError {
        if self.links.by_run.contains_key(&run) { GuestError::Unheard } else { self.no_link(run) }
    }

    /// Why a run has no connection.
    fn no_link(&self, run: u32) -> GuestError {
        let quarantine = self.guests.get(&run).and_then(|guest| guest.quarantine.clone());
        quarantine.map_or(GuestError::Unreachable, GuestError::Quarantined)
    }

    /// What came of a supervisor's orders.
    fn ordered(&mut self, run: u32, reply: SupervisorReply) {
        if self.probes.is_running(run) {
            self.probed(run, reply);
        } else {
            self.booted(run, reply);
        }
    }

    fn give_up_on(&mut self, run: u32, serial: u64, why: GuestError) {
        let waiting = self.links.by_run.get_mut(&run).and_then(|link| link.waiting.remove(&serial));
        if let Some(waiting) = waiting {
            self.cancel(waiting.timer);
            (waiting.then)(self, Err(why));
        }
    }

    /// Sends what is queued for supervisors; what a socket does not take is sent when it says that it takes more.
    pub(super) fn flush_supervisors(&mut self) {
        for run in std::mem::take(&mut self.links.unsent) {
            let failed = self.links.by_run.get_mut(&run).and_then(|link| link.channel.flush().err());
            if let Some(error) = failed {
                self.lose_link(run, &error);
            }
        }
    }

    /// Gives each supervisor with something to say its turn.
    pub(super) fn hear_unheard(&mut self) {
        for run in std::mem::take(&mut self.links.unheard) {
            self.hear_supervisor(run);
        }
    }

    /// The poll reports a supervisor's socket; its turn comes with [`Control::hear_unheard`].
    pub(super) fn supervisor_ready(&mut self, token: Token) {
        let Ok(run) = u32::try_from(token.0.saturating_sub(FIRST_SUPERVISOR)) else { return };
        self.links.sending(run);
        self.links.unheard.insert(run);
    }

    /// Works through what a supervisor has sent.
    pub(super) fn hear_supervisor(&mut self, run: u32) {
        if self.links.by_run.contains_key(&run) {
            self.with_in_hand(run, |control| control.hear(run));
        }
    }

    fn hear(&mut self, run: u32) {
        if let Some(link) = self.links.by_run.get_mut(&run) {
            link.channel.begin_turn(BYTES_A_TURN);
        }
        for _ in 0..MESSAGES_A_TURN {
            let Some(link) = self.links.by_run.get_mut(&run) else { return };
            match link.next() {
                Ok(Some(message)) => match link.believe(message.value) {
                    Ok(value) => self.take_message(run, message.serial, value, message.fds),
                    Err(excess) => {
                        tracing::warn!(run, "its supervisor breaks the protocol: {excess}");
                        return self.lose_link(run, &ConnError::Closed);
                    }
                },
                Ok(None) if link.channel.may_have_more() => break,
                Ok(None) => return,
                Err(error) => return self.lose_link(run, &error),
            }
        }
        // The poll does not tell again of what is here already.
        self.links.unheard.insert(run);
    }

    fn take_message(&mut self, run: u32, serial: u64, message: Message, fds: Vec<OwnedFd>) {
        match message {
            Message::Event(event) => self.take_recorded(run, Recorded::Event(event)),
            Message::Notice(notice) => self.take_recorded(run, Recorded::Notice(notice)),
            // What was lost before it shows in its number as well.
            Message::News(News { what: Happening::Event(event), .. }) => {
                self.take_recorded(run, Recorded::Event(event));
            }
            Message::News(News { what: Happening::Notice(notice), .. }) => {
                self.take_recorded(run, Recorded::Notice(notice));
            }
            Message::Job(job) => self.take_job(run, &job),
            Message::Answer(result) => {
                let Some(link) = self.links.by_run.get_mut(&run) else { return };
                let reply = result.map(|answer| (answer, fds)).map_err(GuestError::Failure);
                if serial == ORDERS && std::mem::take(&mut link.orders) {
                    return self.ordered(run, reply);
                }
                let Some(waiting) = link.waiting.remove(&serial) else { return };
                self.cancel(waiting.timer);
                (waiting.then)(self, reply);
            }
        }
    }

    /// A connection has ended, or its peer broke the protocol. That does not tell whether the run lives.
    pub(super) fn lose_link(&mut self, run: u32, error: &ConnError) {
        if self.drop_link(run) {
            self.link_lost(run, error);
        }
    }

    /// Lets go of a run's connection, if there is one; what waits for answers gets none.
    pub(super) fn drop_link(&mut self, run: u32) -> bool {
        let Some(link) = self.links.by_run.remove(&run) else { return false };
        // Closing deregisters by itself; this keeps the poll's own books right.
        let _ = self.poll.deregister(&mut SourceFd(&link.channel.conn().socket().as_raw_fd()));
        for waiting in link.waiting.into_values() {
            self.cancel(waiting.timer);
            (waiting.then)(self, Err(GuestError::Unreachable));
        }
        true
    }
}

impl Link {
    fn is_full_for(&self, request: &Request) -> bool {
        let question = matches!(request, Request::Status | Request::Measure(_));
        self.waiting.len() >= if question { MAX_QUESTIONS } else { MAX_WAITING }
            || self.channel.conn().backlog() > MAX_BACKLOG
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

fn token(run: u32) -> Token {
    Token(FIRST_SUPERVISOR + run as usize)
}

fn io(error: &std::io::Error) -> ConnError {
    ConnError::Io(rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO))
}
