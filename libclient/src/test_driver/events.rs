//! What happened on the mock host: a log with sequence numbers, as qemud keeps it.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, Weak},
    time::{Duration, SystemTime},
};

use api::{
    Error, ErrorCode, ErrorDomain, Op, Operation, bulkhead,
    notice::{Notice, Parts},
    remote,
};
use rustix::event::EventfdFlags;

use super::{Context, TestLink, lock, machine::Machine};
use crate::{
    Result, error,
    link::{EventSource, Numbered},
    wait::{self, Deadline},
};

/// Events that the log keeps; a listener that is further behind has lost some.
const KEPT: usize = 4096;

/// A descriptor that is readable while there may be something new.
pub(crate) struct Bell(OwnedFd);

impl Bell {
    fn new() -> io::Result<Bell> {
        Ok(Bell(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    fn ring(&self) {
        // Fails only when it has been rung 2^64 times: it is readable then.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn silence(&self) {
        // Fails when it was not rung: silent already.
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

/// The last events and who is told of new ones.
#[derive(Default)]
pub(crate) struct Log {
    last: u64,
    events: VecDeque<Numbered>,
    bells: Vec<Weak<Bell>>,
}

impl Log {
    /// An empty log whose first event has the number after this one.
    pub(crate) fn behind(last: u64) -> Log {
        Log { last, ..Log::default() }
    }

    /// The number of the next event.
    pub(crate) fn next(&self) -> u64 {
        self.last + 1
    }

    /// Whether events after `since` are gone.
    pub(crate) fn has_lost(&self, since: u64) -> bool {
        let oldest = self.events.front().map_or(self.next(), Numbered::sequence);
        since.saturating_add(1) < oldest
    }

    pub(crate) fn add(&mut self, dom: remote::Domain, event: i32, detail: i32) {
        let (seconds, nanos) = now();
        let sequence = self.next();
        let text = None;
        self.push(Numbered::Life(bulkhead::DomainEventMsg { sequence, dom, event, detail, seconds, nanos, text }));
    }

    pub(crate) fn notice(&mut self, dom: remote::Domain, notice: Notice) {
        let (seconds, nanos) = now();
        let sequence = self.next();
        let Parts { kind, number, texts } = notice.into_parts();
        self.push(Numbered::Notice(bulkhead::DomainNoticeMsg { sequence, dom, kind, number, texts, seconds, nanos }));
    }

    fn push(&mut self, event: Numbered) {
        self.last = event.sequence();
        self.events.push_back(event);
        if self.events.len() > KEPT {
            self.events.pop_front();
        }
        self.bells.retain(|bell| bell.upgrade().inspect(|bell| bell.ring()).is_some());
    }

    pub(crate) fn tell(&mut self, bell: &Arc<Bell>) {
        self.bells.push(Arc::downgrade(bell));
    }

    /// What happened after this event.
    pub(crate) fn after(&self, since: u64) -> impl Iterator<Item = &Numbered> {
        let at = self.events.partition_point(|event| event.sequence() <= since);
        self.events.range(at..)
    }
}

fn now() -> (i64, u32) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(now.as_secs()).unwrap_or(i64::MAX), now.subsec_nanos())
}

/// One listener: a place in the log, so that one who does not listen costs nothing.
pub(crate) struct TestEvents {
    machine: Arc<Mutex<Machine>>,
    bell: Arc<Bell>,
    since: u64,
    first_new: u64,
    lost: bool,
}

impl TestEvents {
    pub(crate) fn begin(link: &TestLink, since: Option<u64>) -> Result<TestEvents> {
        let op = Op::BulkheadEventsSubscribe;
        let bell = Arc::new(Bell::new().map_err(|source| failed("cannot listen for events", source))?);
        let mut context = Context { bell: Some(Arc::clone(&bell)), ..Context::default() };
        let reply = link.dispatch(bulkhead::EventsSubscribeArgs { since }.into_call(), &mut context)?;
        let ret = bulkhead::EventsSubscribeArgs::ret_of(reply)
            .ok_or_else(|| error::strange_answer(op, "it is of another call"))?;
        // What happened before is in the log and rings no bell.
        bell.ring();
        let newest = ret.next.saturating_sub(1);
        let since = since.map_or(newest, |since| since.min(newest));
        Ok(TestEvents { machine: Arc::clone(&link.machine), bell, since, first_new: ret.next, lost: ret.lost })
    }

    /// The next event that has happened; the bell is silent when there is none.
    pub(crate) fn take(&mut self) -> Option<Numbered> {
        let mut machine = lock(&self.machine);
        let log = machine.log();
        self.lost |= log.has_lost(self.since);
        let event = log.after(self.since).next().cloned();
        match &event {
            Some(event) => self.since = event.sequence(),
            None => self.bell.silence(),
        }
        event
    }
}

impl EventSource for TestEvents {
    fn next(&mut self, timeout: Option<Duration>) -> Result<Option<Numbered>> {
        let deadline = Deadline::after(timeout);
        loop {
            if let Some(event) = self.take() {
                return Ok(Some(event));
            }
            let rung = wait::readable(self.bell.0.as_fd(), deadline);
            if !rung.map_err(|source| failed("cannot wait for events", source))? {
                return Ok(None);
            }
        }
    }

    fn lost(&self) -> bool {
        self.lost
    }

    fn first_new(&self) -> u64 {
        self.first_new
    }

    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.bell.0.as_fd()
    }
}

fn failed(what: &str, source: io::Error) -> Error {
    Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::EVENT, what).with_cause(source)
}
