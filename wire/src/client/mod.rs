//! The blocking client: thread-safe, pipelining, without a thread of its own.
//!
//! Whoever waits for an answer reads for everybody: the first waiting thread becomes the reader, hands each reply to the
//! thread whose serial it carries, each event and each stream's data to their queues, answers pings, and passes the reading
//! on when its own answer has come. A program with an event loop polls [`Client::as_fd`](AsFd::as_fd) and calls
//! [`Client::wait_events`] with no time.
//!
//! No queue grows for ever: of events, the oldest are dropped and counted; a stream whose data nobody takes is aborted.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use api::{Call, Event, Op, Reply, look::Look, xdr::XdrError};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd},
    io::Errno,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime},
};
use thiserror::Error;

use crate::{
    codec::{self, Answer, Meaning},
    conn::{Conn, WireError},
    frame::{Frame, Header},
    keepalive::{self, Keepalive},
    layer::Layered,
    transport::{Transport, TransportError},
};

pub mod login;
mod streams;

use streams::Slot;
pub use streams::{Piece, StreamHandle};

/// Events that nobody takes: the oldest are dropped beyond this many.
const MAX_EVENTS: usize = 64 << 10;

/// Why a call has no answer.
#[derive(Debug, Error)]
pub enum CallError {
    /// The server's answer: the call failed.
    #[error("the call failed")]
    Failed(#[source] api::Error),
    /// The connection is lost; this and every later call fail.
    #[error("the connection to the server is lost")]
    Lost(#[source] Arc<WireError>),
    /// The call cannot be sent; the connection is as good as before.
    #[error("the call cannot be sent")]
    Send(#[source] WireError),
    /// The server answered something that is no answer to this call.
    #[error("the server's answer to {} cannot be read", op.info().api)]
    Answer {
        /// The call.
        op: Op,
        /// What is wrong with it.
        #[source]
        source: XdrError,
    },
    /// The server did not answer within the time that the caller allowed.
    #[error("the server has not answered for {} seconds", .0.as_secs_f32())]
    Silent(Duration),
    /// The operation does not begin a stream.
    #[error("{} does not begin a stream", .0.info().api)]
    NoStream(Op),
    /// The stream is not open, or does not go that way.
    #[error("the stream does not take data")]
    NotWritable,
}

/// What a call that succeeded brings: the reply and its descriptors.
pub type Returned = (Reply, Vec<OwnedFd>);

/// A call that waits.
struct Waiter {
    op: Op,
    answer: Option<Frame>,
}

struct State {
    next_serial: u32,
    waiting: HashMap<u32, Waiter>,
    streams: HashMap<u32, Slot>,
    events: VecDeque<Event>,
    dropped_events: u64,
    keepalive: Option<Keepalive>,
    /// When the alarm goes off. That may be too early: it is set anew when it has gone off, not with everything that comes.
    alarm_at: Option<Instant>,
    /// A thread is reading for all.
    reading: bool,
    /// What stands behind the next reply may be protected by what that reply ends: it is not read as frames yet.
    at_login: bool,
    lost: Option<Arc<WireError>>,
}

type Link = Conn<Layered<Box<dyn Transport + Send>>>;

/// Where both are held, `conn` is taken before `state`.
struct Inner {
    conn: Mutex<Link>,
    state: Mutex<State>,
    arrived: Condvar,
    look: Look,
    /// The stream's descriptor once more, to poll without a lock.
    fd: OwnedFd,
    /// Wakes the thread that reads for all, when another one has taken what it waits for.
    bell: OwnedFd,
    /// Tells an event loop when keepalive is due.
    alarm: OwnedFd,
}

/// A connection to a server. Clones are the same connection; it ends with the last of them and of its streams.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

/// A client that does not keep its connection open.
#[derive(Clone)]
pub struct WeakClient {
    inner: Weak<Inner>,
}

impl WeakClient {
    /// The client, as long as somebody holds it.
    #[must_use]
    pub fn upgrade(&self) -> Option<Client> {
        self.inner.upgrade().map(|inner| Client { inner })
    }
}

impl fmt::Debug for WeakClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakClient").finish_non_exhaustive()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("fd", &self.inner.fd).finish_non_exhaustive()
    }
}

/// A lock whose holder panicked is taken all the same: every critical section here leaves the state whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}

/// The moment a time from now; `None` if that is too far away to express, which is never.
fn after(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

impl Client {
    /// A client over a byte stream that is connected already. Nothing is sent yet: the first thing to do is
    /// [`Client::login`](Client::login).
    ///
    /// # Errors
    /// When the stream's descriptor cannot be duplicated.
    pub fn new(transport: Box<dyn Transport + Send>) -> io::Result<Self> {
        let inner = Inner {
            fd: transport.as_fd().try_clone_to_owned()?,
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            alarm: timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?,
            conn: Mutex::new(Conn::new(Layered::new(transport))),
            state: Mutex::new(State {
                next_serial: 0,
                waiting: HashMap::new(),
                streams: HashMap::new(),
                events: VecDeque::new(),
                dropped_events: 0,
                keepalive: None,
                alarm_at: None,
                reading: false,
                at_login: false,
                lost: None,
            }),
            arrived: Condvar::new(),
            look: Look::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same connection, without keeping it open.
    #[must_use]
    pub fn downgrade(&self) -> WeakClient {
        WeakClient { inner: Arc::downgrade(&self.inner) }
    }

    /// Can calls carry descriptors?
    #[must_use]
    pub fn passes_fds(&self) -> bool {
        lock(&self.inner.conn).transport().passes_fds()
    }

    /// Is there nobody who could read along? A login may change that.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        lock(&self.inner.conn).transport().is_secure()
    }

    /// Is the connection encrypted?
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        lock(&self.inner.conn).transport().is_encrypted()
    }

    /// Why the connection is lost, if it is.
    #[must_use]
    pub fn lost(&self) -> Option<Arc<WireError>> {
        lock(&self.inner.state).lost.clone()
    }

    /// Ends the connection for everybody: all that wait fail.
    pub fn close(&self) {
        // A socket is told, so that a reader that sleeps wakes; a pipe is not, and its peer sees the end when all is dropped.
        let _ = rustix::net::shutdown(&self.inner.fd, rustix::net::Shutdown::Both);
        self.inner.lose(WireError::Closed);
    }

    /// Pings the server after `interval` of silence and gives it up after `count` pings without an answer, as long as
    /// somebody waits on this client; [`Client::tick`] does the same for an event loop. `None` ends that.
    pub fn set_keepalive(&self, watch: Option<(Duration, u32)>) {
        let mut state = lock(&self.inner.state);
        state.keepalive = watch.map(|(interval, count)| Keepalive::new(interval, count, Instant::now()));
        self.inner.set_alarm(&mut state);
    }

    /// What becomes readable when [`Client::tick`] may have something to do, for an event loop: [`Client::wait_events`] with
    /// no time does that, too.
    #[must_use]
    pub fn alarm(&self) -> BorrowedFd<'_> {
        self.inner.alarm.as_fd()
    }

    /// When [`Client::tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        lock(&self.inner.state).keepalive.as_ref().map(Keepalive::deadline)
    }

    /// Does what keepalive wants done now.
    ///
    /// # Errors
    /// When the connection is lost, or the server is found dead.
    pub fn tick(&self) -> Result<(), CallError> {
        self.inner.tick().map_err(|error| CallError::Lost(self.inner.lose(error)))
    }

    /// Makes one call and waits for its answer. Any number of threads may call at once.
    ///
    /// # Errors
    /// The server's own error, or that the connection is lost.
    pub fn call(&self, call: &Call, fds: Vec<OwnedFd>) -> Result<Returned, CallError> {
        self.call_until(call, fds, None)
    }

    /// Makes one call and waits for its answer, but not for ever. An answer that comes later is dropped.
    ///
    /// # Errors
    /// As [`Client::call`]; [`CallError::Silent`] when the time is over.
    pub fn call_within(&self, call: &Call, fds: Vec<OwnedFd>, timeout: Duration) -> Result<Returned, CallError> {
        self.call_until(call, fds, after(timeout)).map_err(|error| match error {
            CallError::Silent(_) => CallError::Silent(timeout),
            other => other,
        })
    }

    fn call_until(&self, call: &Call, fds: Vec<OwnedFd>, until: Option<Instant>) -> Result<Returned, CallError> {
        let serial = self.inner.begin(call, fds, None, until)?;
        self.inner.answer(serial, call.op(), until)
    }

    /// Sends several calls before the first answer is waited for: one round trip for all. The answers come in the order of
    /// the calls.
    ///
    /// # Errors
    /// When one cannot be sent. Each answer has its own result.
    pub fn call_all(&self, calls: &[Call]) -> Result<Vec<Result<Returned, CallError>>, CallError> {
        let mut begun = Vec::with_capacity(calls.len());
        for call in calls {
            match self.inner.begin(call, Vec::new(), None, None) {
                Ok(serial) => begun.push((serial, call.op())),
                Err(error) => {
                    for (serial, _) in begun {
                        lock(&self.inner.state).waiting.remove(&serial);
                    }
                    return Err(error);
                }
            }
        }
        Ok(begun.into_iter().map(|(serial, op)| self.inner.answer(serial, op, None)).collect())
    }

    /// Events that have arrived, oldest first.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        lock(&self.inner.state).events.drain(..).collect()
    }

    /// How many events were dropped because nobody took them.
    #[must_use]
    pub fn dropped_events(&self) -> u64 {
        lock(&self.inner.state).dropped_events
    }

    /// Waits up to `timeout` (for ever without one) until events are here, and takes them. Empty when the time is over.
    /// With no time at all it does what there is to do and returns, which is all that an event loop needs.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn wait_events(&self, timeout: Option<Duration>) -> Result<Vec<Event>, CallError> {
        let take = |state: &mut State| (!state.events.is_empty()).then(|| state.events.drain(..).collect());
        let events = self.inner.wait_until(timeout.and_then(after), take).map_err(CallError::Lost)?;
        Ok(events.unwrap_or_default())
    }
}

impl AsFd for Client {
    /// The byte stream, for an event loop: when it is readable, [`Client::wait_events`] with no time has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }
}

impl Inner {
    /// Sends a call, until then at the latest: what is left of it goes out with what is sent next. With `slot`, the stream
    /// that it begins is there before its first packet can come.
    fn begin(
        &self,
        call: &Call,
        fds: Vec<OwnedFd>,
        slot: Option<Slot>,
        until: Option<Instant>,
    ) -> Result<u32, CallError> {
        let begin = Instant::now();
        let serial = {
            let mut state = lock(&self.state);
            if let Some(error) = &state.lost {
                return Err(CallError::Lost(Arc::clone(error)));
            }
            let serial = state.free_serial();
            state.waiting.insert(serial, Waiter { op: call.op(), answer: None });
            if let Some(slot) = slot {
                state.streams.insert(serial, slot.with_serial(serial));
            }
            serial
        };
        let queued = lock(&self.conn).queue_call(serial, call, fds);
        if let Err(error) = queued {
            self.forget(serial);
            return Err(CallError::Send(error));
        }
        let error = match self.send_all(until) {
            Ok(true) => return Ok(serial),
            Ok(false) => {
                self.forget(serial);
                return Err(CallError::Silent(begin.elapsed()));
            }
            Err(error) => error,
        };
        // A server that refuses a connection may answer before it has read anything, and hang up.
        if lock(&self.state).waiting.get(&serial).is_some_and(|waiter| waiter.answer.is_some()) {
            return Ok(serial);
        }
        self.forget(serial);
        Err(CallError::Lost(error))
    }

    fn forget(&self, serial: u32) {
        let mut state = lock(&self.state);
        state.waiting.remove(&serial);
        state.streams.remove(&serial);
    }

    /// Waits for the answer to a call that was begun.
    fn answer(&self, serial: u32, op: Op, until: Option<Instant>) -> Result<Returned, CallError> {
        let begin = Instant::now();
        let frame =
            self.wait_until(until, |state| state.waiting.get_mut(&serial).and_then(|waiter| waiter.answer.take()));
        lock(&self.state).waiting.remove(&serial);
        let frame = frame.map_err(CallError::Lost)?.ok_or_else(|| CallError::Silent(begin.elapsed()))?;
        match codec::decode_reply(op, &frame) {
            Ok(Answer::Done(reply)) => Ok((reply, frame.fds)),
            Ok(Answer::Failed(error)) => Err(CallError::Failed(error)),
            Err(source) => Err(CallError::Answer { op, source }),
        }
    }

    /// Waits until `ready` finds something, or the time is over. Even no time at all is enough to take what is there.
    fn wait_until<R>(
        &self,
        until: Option<Instant>,
        mut ready: impl FnMut(&mut State) -> Option<R>,
    ) -> Result<Option<R>, Arc<WireError>> {
        let mut tried = false;
        let mut state = lock(&self.state);
        loop {
            if let Some(found) = ready(&mut state) {
                return Ok(Some(found));
            }
            if let Some(error) = &state.lost {
                return Err(Arc::clone(error));
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if tried && left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            tried = true;
            state = match (state.reading, left) {
                (true, Some(left)) => self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                (true, None) => self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
                (false, left) => {
                    state.reading = true;
                    drop(state);
                    let read = self.read_once(left);
                    let mut state = lock(&self.state);
                    state.reading = false;
                    if let Err(error) = read {
                        state.lose(error);
                    }
                    // For whoever's answer it was, and for who reads next.
                    self.arrived.notify_all();
                    state
                }
            };
        }
    }

    /// Reads what is there, waiting for it up to `left`, and hands it to whom it belongs.
    fn read_once(&self, left: Option<Duration>) -> Result<(), WireError> {
        if left.is_some_and(|left| left.is_zero()) {
            // Who never waits still wants to know that nobody is there any more.
            self.pump()?;
            return self.tick();
        }
        if self.look.look(|| Ok::<_, WireError>(self.pump()?.then_some(())))?.is_some() {
            return Ok(());
        }
        self.tick()?;
        let due = lock(&self.state).keepalive.as_ref().map(Keepalive::deadline);
        let due = due.map(|due| due.saturating_duration_since(Instant::now()));
        self.poll([left, due].into_iter().flatten().min())?;
        self.pump()?;
        self.tick()
    }

    /// Sleeps until the stream can be read, or written if something waits for that.
    fn poll(&self, timeout: Option<Duration>) -> Result<(), WireError> {
        let mut events = PollFlags::IN;
        {
            let conn = lock(&self.conn);
            if conn.has_buffered() {
                return Ok(());
            }
            if conn.wants_write() {
                events |= PollFlags::OUT;
            }
        }
        let timeout = timeout.map(timespec);
        let mut sources = [PollFd::new(&self.fd, events), PollFd::new(&self.bell, PollFlags::IN)];
        match rustix::event::poll(&mut sources, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {
                // Fails when it was not rung.
                let _ = rustix::io::read(&self.bell, &mut [0; 8]);
                Ok(())
            }
            Err(error) => Err(TransportError::Io(error.into()).into()),
        }
    }

    /// Sends what there is room for and takes what is there, once. True when something came.
    fn pump(&self) -> Result<bool, WireError> {
        let mut conn = lock(&self.conn);
        if conn.wants_write() {
            self.flush(&mut conn)?;
        }
        let mut came = false;
        loop {
            came |= conn.fill()?;
            came |= self.deliver_all(&mut conn)?;
            // Nobody polls for what is here already and the descriptor does not show: TLS and layers decrypt more at once
            // than one read takes.
            if !conn.has_buffered() || lock(&self.state).at_login {
                break;
            }
        }
        if conn.wants_write() {
            self.flush(&mut conn)?;
        }
        Ok(came)
    }

    /// Hands over the frames that are here whole. True when there were any.
    fn deliver_all(&self, conn: &mut Link) -> Result<bool, WireError> {
        let mut came = false;
        while let Some(frame) = conn.next_frame()? {
            came = true;
            let is_reply = frame.header.meaning() == Meaning::Reply;
            let mut state = lock(&self.state);
            state.deliver(conn, frame)?;
            if is_reply && state.at_login {
                break;
            }
        }
        Ok(came)
    }

    /// Flushes. A server that hangs up may have written why: that is delivered before the loss is told.
    fn flush(&self, conn: &mut Link) -> Result<bool, WireError> {
        let error = match conn.flush() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        while conn.fill().is_ok_and(|came| came) {
            while let Ok(Some(frame)) = conn.next_frame() {
                if lock(&self.state).deliver(conn, frame).is_err() {
                    return Err(error);
                }
            }
        }
        Err(error)
    }

    /// Sends all that is queued; false when the time is over and something is left. While the server does not read, what it
    /// sends is taken, so the two cannot wait for each other.
    fn send_all(&self, until: Option<Instant>) -> Result<bool, Arc<WireError>> {
        let sent = self.try_send_all(until).map_err(|error| self.lose(error))?;
        // Another thread may have found the end meanwhile.
        lock(&self.state).lost.clone().map_or(Ok(sent), Err)
    }

    fn try_send_all(&self, until: Option<Instant>) -> Result<bool, WireError> {
        if self.flush(&mut lock(&self.conn))? {
            return Ok(true);
        }
        while lock(&self.conn).wants_write() && lock(&self.state).lost.is_none() {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            self.tick()?;
            self.poll_to_send(left)?;
            if self.pump()? {
                self.arrived.notify_all();
                // Who reads sleeps on the stream, where nothing is left to see.
                let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
            }
        }
        Ok(true)
    }

    /// Sleeps until there is room to write, something to read, a sign of life is due, or the time is over.
    fn poll_to_send(&self, left: Option<Duration>) -> Result<(), WireError> {
        let due = lock(&self.state).keepalive.as_ref().map(Keepalive::deadline);
        let due = due.map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = [left, due].into_iter().flatten().min().map(timespec);
        let mut sources = [PollFd::new(&self.fd, PollFlags::IN | PollFlags::OUT)];
        match rustix::event::poll(&mut sources, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(TransportError::Io(error.into()).into()),
        }
    }

    fn tick(&self) -> Result<(), WireError> {
        let action = {
            let mut state = lock(&self.state);
            let now = Instant::now();
            let action = state.keepalive.as_mut().map(|watch| (watch.tick(now), watch.count()));
            if state.alarm_at.is_some_and(|at| at <= now) {
                self.set_alarm(&mut state);
            }
            action
        };
        match action {
            Some((keepalive::Action::Dead, count)) => Err(WireError::Dead(count)),
            Some((keepalive::Action::SendPing, _)) => {
                let mut conn = lock(&self.conn);
                conn.queue_empty(&keepalive::PING_HEADER)?;
                self.flush(&mut conn).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Sets the alarm to when keepalive is due.
    fn set_alarm(&self, state: &mut State) {
        state.alarm_at = state.keepalive.as_ref().map(Keepalive::deadline);
        let left = state.alarm_at.map(|at| at.saturating_duration_since(Instant::now()));
        // A time of zero turns it off.
        let it_value = timespec(left.map_or(Duration::ZERO, |left| left.max(Duration::from_nanos(1))));
        let time = Itimerspec { it_interval: timespec(Duration::ZERO), it_value };
        // Fails for times that no clock has, which never come.
        let _ = timerfd_settime(&self.alarm, TimerfdTimerFlags::empty(), &time);
    }

    fn lose(&self, error: WireError) -> Arc<WireError> {
        let lost = lock(&self.state).lose(error);
        self.arrived.notify_all();
        lost
    }
}

impl State {
    /// The next serial that nobody uses: a call or a stream may be older than four thousand million others.
    fn free_serial(&mut self) -> u32 {
        loop {
            let serial = self.next_serial;
            self.next_serial = serial.wrapping_add(1);
            if !self.waiting.contains_key(&serial) && !self.streams.contains_key(&serial) {
                return serial;
            }
        }
    }

    fn deliver(&mut self, conn: &mut Link, frame: Frame) -> Result<(), WireError> {
        if let Some(watch) = &mut self.keepalive {
            watch.on_received(Instant::now());
        }
        match frame.header.meaning() {
            Meaning::Reply => self.deliver_reply(frame),
            Meaning::Event => {
                let event =
                    codec::decode_event(&frame).map_err(|_| WireError::Protocol("an event that cannot be read"))?;
                if let Some(event) = event {
                    if self.events.len() >= MAX_EVENTS {
                        self.events.pop_front();
                        self.dropped_events += 1;
                    }
                    self.events.push_back(event);
                }
            }
            Meaning::Keepalive => {
                if let Some(pong) = keepalive::answer(&frame.header) {
                    conn.queue_empty(&pong)?;
                }
            }
            Meaning::Stream => self.deliver_packet(conn, frame)?,
            // Servers do not call; and what is not known is dropped.
            Meaning::Call | Meaning::Nothing => {}
        }
        Ok(())
    }

    /// A reply that nobody waits for, or whose numbers are not its call's, is dropped.
    fn deliver_reply(&mut self, frame: Frame) {
        if let Some(waiter) = self.waiting.get_mut(&frame.header.serial) {
            let Header { program, version, procedure, .. } = codec::header(waiter.op, frame.header.kind, 0);
            let theirs = &frame.header;
            if (theirs.program, theirs.version, theirs.procedure) == (program, version, procedure) {
                waiter.answer = Some(frame);
            }
        }
    }

    fn lose(&mut self, error: WireError) -> Arc<WireError> {
        Arc::clone(self.lost.get_or_insert_with(|| Arc::new(error)))
    }
}
