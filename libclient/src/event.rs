//! The event loop that callbacks are called from: the program's own, or the built-in one.
//!
//! A program that has a loop (a toolkit's, an async runtime's) describes it by an [`EventImpl`] and registers that once; a
//! program without one runs [`DefaultLoop`]. Callbacks run in the thread that runs the loop, never in another.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use api::{Error, ErrorCode, ErrorDomain};
use bitflags::bitflags;
use mio::{Events, Interest, Poll, Registry, Token, Waker, event::Event, unix::SourceFd};

use crate::Result;

bitflags! {
    /// What a descriptor is watched for, and what it has; libvirt's bits.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct HandleEvents: u32 {
        /// There is something to read.
        const READABLE = 1;
        /// There is room to write.
        const WRITABLE = 1 << 1;
        /// It has failed. Watched for always.
        const ERROR = 1 << 2;
        /// The other side is gone. Watched for always.
        const HANGUP = 1 << 3;
    }
}

/// A watched descriptor of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

/// A timer of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimeoutId(pub u64);

/// Called when a descriptor has what it is watched for.
pub type HandleCallback = Box<dyn FnMut(HandleEvents) + Send>;
/// Called when a timer is due.
pub type TimeoutCallback = Box<dyn FnMut() + Send>;

/// An event loop, as libclient needs it: descriptors and timers come, change and go, from any thread and from within
/// callbacks.
///
/// A handle is level-triggered: its callback is called again as long as there is something. A callback may run once more
/// while it is being removed by another thread, and not at all after that.
pub trait EventImpl: Send + Sync {
    /// Watches a descriptor. It stays open until after [`EventImpl::remove_handle`].
    ///
    /// # Errors
    /// When the loop cannot watch it.
    fn add_handle(&self, fd: BorrowedFd<'_>, events: HandleEvents, callback: HandleCallback) -> Result<HandleId>;

    /// Watches for something else from now on.
    fn update_handle(&self, handle: HandleId, events: HandleEvents);

    /// Watches no longer.
    fn remove_handle(&self, handle: HandleId);

    /// Calls back every `interval`; not at all, for now, without one.
    ///
    /// # Errors
    /// When the loop cannot keep another timer.
    fn add_timeout(&self, interval: Option<Duration>, callback: TimeoutCallback) -> Result<TimeoutId>;

    /// Another interval, counted from now.
    fn update_timeout(&self, timeout: TimeoutId, interval: Option<Duration>);

    /// Calls back no longer.
    fn remove_timeout(&self, timeout: TimeoutId);
}

static REGISTERED: OnceLock<Box<dyn EventImpl>> = OnceLock::new();
static DEFAULT: OnceLock<DefaultLoop> = OnceLock::new();

/// Hands in the program's event loop, once and before the first callback is registered.
///
/// # Errors
/// [`ErrorCode::OPERATION_INVALID`] when there is one already.
pub fn register_event_impl(event_loop: Box<dyn EventImpl>) -> Result<()> {
    REGISTERED.set(event_loop).map_err(|_| {
        Error::new(ErrorCode::OPERATION_INVALID, ErrorDomain::EVENT, "an event loop is registered already")
            .with_hint("register it once, at the start of the program")
    })
}

/// Makes the built-in loop the program's, and gives it to be run. Called again, it gives the same one.
///
/// ```
/// use libclient::{Connection, event};
/// use std::{sync::mpsc, time::Duration};
///
/// let events = event::register_default()?;
/// let connection = Connection::open("test:///default")?;
/// let (sender, receiver) = mpsc::channel();
/// connection.register_domain_event(None, Box::new(move |event| {
///     let _ = sender.send(event.kind);
/// }))?;
/// connection.domain("test")?.suspend()?;
/// while receiver.try_recv().is_err() {
///     events.run_once(Some(Duration::from_secs(5)))?;
/// }
/// # Ok::<(), libclient::Error>(())
/// ```
///
/// # Errors
/// [`ErrorCode::OPERATION_INVALID`] when the program has registered a loop of its own; [`ErrorCode::SYSTEM_ERROR`] when the
/// system has no room for another one.
pub fn register_default() -> Result<DefaultLoop> {
    // One at a time: who comes second finds what the first has registered.
    static REGISTERING: Mutex<()> = Mutex::new(());
    let _alone = lock(&REGISTERING);
    if let Some(registered) = DEFAULT.get() {
        return Ok(registered.clone());
    }
    let made = DefaultLoop::new()?;
    register_event_impl(Box::new(made.clone()))?;
    Ok(DEFAULT.get_or_init(|| made).clone())
}

/// The loop that the program has registered.
pub(crate) fn registered() -> Result<&'static dyn EventImpl> {
    REGISTERED.get().map(Box::as_ref).ok_or_else(|| {
        Error::new(ErrorCode::OPERATION_INVALID, ErrorDomain::EVENT, "no event loop is registered").with_hint(
            "call event::register_default or event::register_event_impl at the start, and run the loop in some thread",
        )
    })
}

/// The built-in event loop. Clones are the same loop.
#[derive(Clone)]
pub struct DefaultLoop {
    shared: Arc<Shared>,
}

struct Shared {
    /// Held by the thread that waits, not while callbacks run.
    poll: Mutex<Poll>,
    registry: Registry,
    waker: Waker,
    state: Mutex<LoopState>,
    stopped: AtomicBool,
}

#[derive(Default)]
struct LoopState {
    last_id: usize,
    handles: HashMap<usize, Handle>,
    timeouts: HashMap<usize, Timeout>,
}

/// Shared, so that a callback may remove itself while it runs.
type Shareable<T> = Arc<Mutex<T>>;

struct Handle {
    /// A duplicate: what epoll watches stays open whatever the owner of the original does.
    fd: OwnedFd,
    events: HandleEvents,
    callback: Shareable<HandleCallback>,
}

struct Timeout {
    interval: Option<Duration>,
    due: Option<Instant>,
    callback: Shareable<TimeoutCallback>,
}

const WAKER: Token = Token(0);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DefaultLoop {
    /// A loop of its own.
    ///
    /// # Errors
    /// [`ErrorCode::SYSTEM_ERROR`] when there are too many open descriptors.
    pub fn new() -> Result<DefaultLoop> {
        let made = || -> io::Result<Shared> {
            let poll = Poll::new()?;
            let registry = poll.registry().try_clone()?;
            let waker = Waker::new(&registry, WAKER)?;
            let state = Mutex::default();
            Ok(Shared { poll: Mutex::new(poll), registry, waker, state, stopped: AtomicBool::new(false) })
        };
        let shared = made().map_err(|source| failed("cannot make an event loop", source))?;
        Ok(DefaultLoop { shared: Arc::new(shared) })
    }

    /// Waits until something is to be done, up to `timeout` or for ever, and calls back. True when there was something.
    ///
    /// # Errors
    /// [`ErrorCode::SYSTEM_ERROR`] when the system cannot wait.
    pub fn run_once(&self, timeout: Option<Duration>) -> Result<bool> {
        let ready = self.wait(timeout)?;
        let mut called = false;
        for (id, events) in ready {
            called |= self.call_handle(id, events);
        }
        for id in self.due(Instant::now()) {
            called |= self.call_timeout(id);
        }
        Ok(called)
    }

    /// Runs until [`DefaultLoop::stop`].
    ///
    /// # Errors
    /// As [`DefaultLoop::run_once`].
    pub fn run(&self) -> Result<()> {
        while !self.shared.stopped.swap(false, Ordering::AcqRel) {
            self.run_once(None)?;
        }
        Ok(())
    }

    /// Ends [`DefaultLoop::run`], from a callback or another thread. Called before, it ends the next one at once.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // A waker fails when its counter is full: then the loop is about to wake up anyway.
        let _ = self.shared.waker.wake();
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<Vec<(usize, HandleEvents)>> {
        let mut poll = lock(&self.shared.poll);
        let next = lock(&self.shared.state).timeouts.values().filter_map(|timeout| timeout.due).min();
        let next = next.map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = [timeout, next].into_iter().flatten().min();
        let mut events = Events::with_capacity(64);
        match poll.poll(&mut events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed("cannot wait for events", error)),
        }
        Ok(events.iter().filter(|event| event.token() != WAKER).map(|event| (event.token().0, what(event))).collect())
    }

    fn call_handle(&self, id: usize, happened: HandleEvents) -> bool {
        let (wanted, callback) = match lock(&self.shared.state).handles.get(&id) {
            Some(handle) => (handle.events, Arc::clone(&handle.callback)),
            None => return false,
        };
        let happened = happened & (wanted | HandleEvents::ERROR | HandleEvents::HANGUP);
        let called = !happened.is_empty() && call(&callback, |callback| callback(happened));
        // mio tells of changes only; to be told again of what the callback has left, the watch is armed anew.
        if let Some(handle) = lock(&self.shared.state).handles.get(&id) {
            self.arm(id, handle, true);
        }
        called
    }

    fn call_timeout(&self, id: usize) -> bool {
        let callback = lock(&self.shared.state).timeouts.get(&id).map(|timeout| Arc::clone(&timeout.callback));
        callback.is_some_and(|callback| call(&callback, |callback| callback()))
    }

    /// Timers whose time has come, set to their next time.
    fn due(&self, now: Instant) -> Vec<usize> {
        let mut state = lock(&self.shared.state);
        let mut due: Vec<(Instant, usize)> = Vec::new();
        for (id, timeout) in &mut state.timeouts {
            if let Some(at) = timeout.due.filter(|at| *at <= now) {
                due.push((at, *id));
                timeout.due = timeout.interval.and_then(|interval| now.checked_add(interval));
            }
        }
        due.sort_unstable();
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// Tells epoll what a handle is watched for. Its failure cannot be told to anybody here and means a closed descriptor.
    fn arm(&self, id: usize, handle: &Handle, known: bool) {
        let raw = handle.fd.as_raw_fd();
        let _ = match interest(handle.events) {
            Some(interest) if known => self.shared.registry.reregister(&mut SourceFd(&raw), Token(id), interest),
            Some(interest) => self.shared.registry.register(&mut SourceFd(&raw), Token(id), interest),
            None if known => self.shared.registry.deregister(&mut SourceFd(&raw)),
            None => Ok(()),
        };
    }
}

impl EventImpl for DefaultLoop {
    fn add_handle(&self, fd: BorrowedFd<'_>, events: HandleEvents, callback: HandleCallback) -> Result<HandleId> {
        let watch = |source| failed("cannot watch a descriptor", source);
        let fd = fd.try_clone_to_owned().map_err(watch)?;
        let mut state = lock(&self.shared.state);
        state.last_id += 1;
        let id = state.last_id;
        if let Some(interest) = interest(events) {
            let raw = fd.as_raw_fd();
            self.shared.registry.register(&mut SourceFd(&raw), Token(id), interest).map_err(watch)?;
        }
        state.handles.insert(id, Handle { fd, events, callback: Arc::new(Mutex::new(callback)) });
        Ok(HandleId(id as u64))
    }

    fn update_handle(&self, handle: HandleId, events: HandleEvents) {
        let Ok(id) = usize::try_from(handle.0) else { return };
        if let Some(handle) = lock(&self.shared.state).handles.get_mut(&id) {
            let known = interest(handle.events).is_some();
            handle.events = events;
            self.arm(id, handle, known);
        }
    }

    fn remove_handle(&self, handle: HandleId) {
        let Ok(id) = usize::try_from(handle.0) else { return };
        let removed = lock(&self.shared.state).handles.remove(&id);
        if let Some(handle) = &removed
            && interest(handle.events).is_some()
        {
            // The duplicate shares its file with the original, so closing it would not end the watch.
            let _ = self.shared.registry.deregister(&mut SourceFd(&handle.fd.as_fd().as_raw_fd()));
        }
    }

    fn add_timeout(&self, interval: Option<Duration>, callback: TimeoutCallback) -> Result<TimeoutId> {
        let mut state = lock(&self.shared.state);
        state.last_id += 1;
        let id = state.last_id;
        let due = interval.and_then(|interval| Instant::now().checked_add(interval));
        state.timeouts.insert(id, Timeout { interval, due, callback: Arc::new(Mutex::new(callback)) });
        drop(state);
        self.wake();
        Ok(TimeoutId(id as u64))
    }

    fn update_timeout(&self, timeout: TimeoutId, interval: Option<Duration>) {
        let Ok(id) = usize::try_from(timeout.0) else { return };
        if let Some(timeout) = lock(&self.shared.state).timeouts.get_mut(&id) {
            timeout.interval = interval;
            timeout.due = interval.and_then(|interval| Instant::now().checked_add(interval));
        }
        self.wake();
    }

    fn remove_timeout(&self, timeout: TimeoutId) {
        let Ok(id) = usize::try_from(timeout.0) else { return };
        let removed = lock(&self.shared.state).timeouts.remove(&id);
        // Dropped without the lock: what a callback owns may use the loop when it goes.
        drop(removed);
    }
}

/// Calls a callback unless it runs already, further up in this thread or in another.
fn call<T: ?Sized>(callback: &Mutex<T>, with: impl FnOnce(&mut T)) -> bool {
    match callback.try_lock() {
        Ok(mut callback) => with(&mut callback),
        Err(TryLockError::Poisoned(poisoned)) => with(&mut poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => return false,
    }
    true
}

/// None when nothing is watched for: errors and hang-ups alone are watched for as "priority", since epoll always tells.
fn interest(events: HandleEvents) -> Option<Interest> {
    let mut interest = None;
    let mut add = |bit, kind: Interest| {
        if events.intersects(bit) {
            interest = Some(interest.map_or(kind, |all: Interest| all | kind));
        }
    };
    add(HandleEvents::READABLE, Interest::READABLE);
    add(HandleEvents::WRITABLE, Interest::WRITABLE);
    add(HandleEvents::ERROR | HandleEvents::HANGUP, Interest::PRIORITY);
    interest
}

fn what(event: &Event) -> HandleEvents {
    let mut what = HandleEvents::empty();
    what.set(HandleEvents::READABLE, event.is_readable());
    what.set(HandleEvents::WRITABLE, event.is_writable());
    what.set(HandleEvents::ERROR, event.is_error());
    what.set(HandleEvents::HANGUP, event.is_read_closed() || event.is_write_closed());
    what
}

fn failed(what: &str, source: io::Error) -> Error {
    Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::EVENT, what).with_cause(source)
}
