//! Connecting again on behalf of a listener, without holding up its caller.
//!
//! A daemon that is stopped, or a host that has vanished, may take half a minute to show that it does not answer. So each
//! try is made by a thread of its own, and its end, like the time for the next one, makes the listener's [`Watch`] readable:
//! an event loop needs nothing but that one descriptor.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use api::{Error, ErrorCode, ErrorDomain};
use rustix::{
    event::{EventfdFlags, eventfd},
    io::Errno,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec},
};

use crate::{Result, wait::Deadline, watch::Watch};

/// The shortest time between two tries.
const SHORTEST: Duration = Duration::from_millis(20);

/// One try.
pub(crate) struct Attempt<T> {
    /// Connects and subscribes, in a thread of its own. Left alone, it ends by the patience of each of its steps.
    pub(crate) connect: Box<dyn FnOnce() -> Result<T> + Send>,
    /// Becomes readable when another try is worth making at once. Never blocks.
    pub(crate) news: Option<OwnedFd>,
}

/// The state of a listener's tries to connect again.
pub(crate) struct Redial<T> {
    /// Where to, for messages.
    place: String,
    /// The longest time between two tries.
    longest: Duration,
    /// Whether an error is one that trying again does not mend.
    hopeless: fn(&Error) -> bool,
    timer: OwnedFd,
    phase: Phase<T>,
    /// How long the last rest was.
    step: Duration,
    news: Option<OwnedFd>,
    /// Why the last try failed.
    failure: Option<Error>,
    /// When the last try succeeded.
    connected: Option<Instant>,
}

enum Phase<T> {
    /// There is nothing to wait for before the next try.
    Ready,
    Trying {
        outcome: mpsc::Receiver<Result<T>>,
        done: Arc<OwnedFd>,
    },
    Resting(Instant),
}

/// Makes its descriptor readable when it goes, in a panic too.
struct Ring(Arc<OwnedFd>);

impl Drop for Ring {
    fn drop(&mut self) {
        // It is the only write to this counter, which cannot be full.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl<T: Send + 'static> Redial<T> {
    /// Nothing is tried yet. `watch` is the listener's, the same one in all of its calls.
    pub(crate) fn new(
        watch: &Watch,
        place: impl Into<String>,
        longest: Duration,
        hopeless: fn(&Error) -> bool,
    ) -> io::Result<Redial<T>> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        watch.add(&timer)?;
        Ok(Redial {
            place: place.into(),
            longest,
            hopeless,
            timer,
            phase: Phase::Ready,
            step: Duration::ZERO,
            news: None,
            failure: None,
            connected: None,
        })
    }

    /// The connection was lost. Pause before the next try if the last connection was short: the daemon may accept and close
    /// each time.
    pub(crate) fn lost(&mut self) {
        if self.connected.is_some_and(|at| at.elapsed() < self.longest) {
            self.rest();
        } else {
            self.step = Duration::ZERO;
        }
    }

    /// The new connection is of no use: try again after a while.
    pub(crate) fn failed(&mut self, error: Error) -> Error {
        if (self.hopeless)(&error) {
            self.step = self.longest;
        }
        self.rest();
        self.failure = Some(error.clone());
        error
    }

    /// Connects again, as far as that is possible until the deadline. A try that is not over by then goes on, and makes `watch`
    /// readable when there is something to do for another call of this.
    ///
    /// # Errors
    /// When there is no connection by then, or trying on does not help.
    pub(crate) fn until(&mut self, deadline: Deadline, watch: &Watch, attempt: impl Fn() -> Attempt<T>) -> Result<T> {
        loop {
            self.hear_news(watch);
            match &self.phase {
                Phase::Resting(at) if Instant::now() < *at => {}
                Phase::Ready | Phase::Resting(_) => {
                    if let Err(source) = self.begin(watch, attempt()) {
                        let error = self.error(format!("cannot connect to {} again", self.place));
                        return Err(self.failed(error.with_cause(source)));
                    }
                }
                Phase::Trying { outcome, done } => {
                    let outcome = outcome.try_recv();
                    if !matches!(outcome, Err(mpsc::TryRecvError::Empty)) {
                        watch.remove(done);
                        let died = || Err(self.error("the thread that connects again died".into()));
                        let result = outcome.unwrap_or_else(|_| died());
                        match self.settle(result, deadline) {
                            Some(result) => {
                                if result.is_ok() {
                                    self.drop_news(watch);
                                }
                                return result;
                            }
                            None => continue,
                        }
                    }
                }
            }
            let waited = watch.wait(deadline);
            let failed = || self.error(format!("cannot wait for the connection to {}", self.place));
            if !waited.map_err(|source| failed().with_cause(source))? {
                return Err(self.failure.clone().unwrap_or_else(|| {
                    let text = format!("the connection to {} is being made again", self.place);
                    Error::new(ErrorCode::OPERATION_TIMEOUT, ErrorDomain::RPC, text)
                }));
            }
        }
    }

    /// Records the outcome of a try; none when another try is to be made.
    fn settle(&mut self, result: Result<T>, deadline: Deadline) -> Option<Result<T>> {
        match result {
            Ok(connected) => {
                self.phase = Phase::Ready;
                self.connected = Some(Instant::now());
                self.failure = None;
                Some(Ok(connected))
            }
            Err(error) => {
                let error = self.failed(error);
                ((self.hopeless)(&error) || deadline.passed()).then_some(Err(error))
            }
        }
    }

    fn begin(&mut self, watch: &Watch, attempt: Attempt<T>) -> io::Result<()> {
        self.set_timer(Duration::ZERO);
        self.drop_news(watch);
        if let Some(news) = attempt.news {
            watch.add(&news)?;
            self.news = Some(news);
        }
        let done = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (sender, outcome) = mpsc::channel();
        let (ring, connect) = (Ring(Arc::clone(&done)), attempt.connect);
        let work = move || {
            // Dropped in the reverse order: the thread that the ring wakes finds the outcome, or that there will be none.
            let _ring = ring;
            let sender = sender;
            // The listener may be gone.
            let _ = sender.send(connect());
        };
        thread::Builder::new().name("bulkhead-redial".into()).spawn(work)?;
        watch.add(&done)?;
        self.phase = Phase::Trying { outcome, done };
        Ok(())
    }

    fn rest(&mut self) {
        self.step = (self.step * 2).clamp(SHORTEST, self.longest);
        self.phase = Phase::Resting(Instant::now() + self.step);
        self.set_timer(self.step);
    }

    /// Readable after so long; none disarms it and takes back that it was.
    fn set_timer(&self, after: Duration) {
        let value = Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: after.subsec_nanos().into(),
        };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Fails only for times that are none.
        let _ = rustix::time::timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: never, it_value: value },
        );
    }

    /// Brings the next try forward. Not to this moment: a socket appears shortly before its daemon listens.
    fn hear_news(&mut self, watch: &Watch) {
        let Some(news) = &self.news else { return };
        let mut heard = false;
        let mut buffer = [0; 4096];
        let end = loop {
            match rustix::io::read(news, &mut buffer) {
                Ok(0) => break Errno::PIPE,
                Ok(_) => heard = true,
                Err(Errno::INTR) => {}
                Err(errno) => break errno,
            }
        };
        if end != Errno::AGAIN {
            self.drop_news(watch);
        }
        if heard {
            self.step = Duration::ZERO;
            if matches!(&self.phase, Phase::Resting(at) if *at > Instant::now() + SHORTEST) {
                self.rest();
            }
        }
    }

    fn drop_news(&mut self, watch: &Watch) {
        if let Some(news) = self.news.take() {
            watch.remove(&news);
        }
    }

    fn error(&self, message: String) -> Error {
        Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, message)
    }
}
