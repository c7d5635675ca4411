//! Events over libvirt's protocol.
//!
//! Bulkhead's daemons number them, and who comes back asks for what was missed. libvirt's have no numbers: they are counted
//! here, and a reconnection is a gap.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, SystemTime},
};

use api::{
    Event, EventFamily, Op, bulkhead,
    notice::{KINDS, Notice, Parts},
    remote,
};
use wire::client::CallError;

use super::{Dialer, FOREIGN, OURS, Session, is_foreign};
use crate::{
    Result,
    link::{EventSource, Numbered},
    wait::{self, Deadline},
};

/// How long a listener waits for a daemon that is being restarted, when its caller would wait for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first and the longest time between two tries to find it again.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// One listener with a connection of its own.
pub(super) struct RemoteEvents {
    dialer: Arc<Dialer>,
    session: Option<Session>,
    /// The number of the last event that has arrived; what has none is counted on from here.
    last: Option<u64>,
    lost: bool,
    queue: VecDeque<Numbered>,
    first_new: Option<u64>,
    generation: u64,
}

impl RemoteEvents {
    pub(super) fn begin(dialer: &Arc<Dialer>, since: Option<u64>) -> Result<RemoteEvents> {
        let mut source = RemoteEvents {
            dialer: Arc::clone(dialer),
            session: None,
            last: since,
            lost: false,
            queue: VecDeque::new(),
            first_new: None,
            generation: 0,
        };
        source.subscribe()?;
        Ok(source)
    }

    fn subscribe(&mut self) -> Result<()> {
        let session = self.dialer.dial()?;
        match session.ask(bulkhead::EventsSubscribeArgs { since: self.last }) {
            Ok(ret) => {
                session.found(OURS);
                self.resume(&ret);
            }
            Err(error) if is_foreign(&error) => {
                session.found(FOREIGN);
                self.register(&session)?;
            }
            Err(error) => return Err(error),
        }
        self.session = Some(session);
        self.generation += 1;
        Ok(())
    }

    /// Goes on in a log with numbers.
    fn resume(&mut self, ret: &bulkhead::EventsSubscribeRet) {
        // A log that ends before the last event that we have seen is another log, begun anew.
        let newest = ret.next.saturating_sub(1);
        let restarted = self.last.is_some_and(|last| newest < last);
        self.lost |= ret.lost || restarted;
        if self.last.is_none() || restarted {
            self.last = Some(newest);
        }
        self.first_new.get_or_insert(ret.next);
    }

    /// Has a daemon of libvirt's tell of lifecycles, and of everything else that it has. What happened before is not to be
    /// had.
    fn register(&mut self, session: &Session) -> Result<()> {
        let args = remote::ConnectDomainEventCallbackRegisterAnyArgs { event_id: lifecycle(), dom: None };
        session.ask(args)?;
        for kind in KINDS {
            let args = remote::ConnectDomainEventCallbackRegisterAnyArgs { event_id: kind as i32, dom: None };
            // An old daemon does not have all of them.
            let _ = session.ask(args);
        }
        self.lost |= self.last.is_some();
        let last = *self.last.get_or_insert(0);
        self.first_new.get_or_insert(last.saturating_add(1));
        Ok(())
    }

    /// Subscribes again as soon as a daemon is there.
    fn resubscribe(&mut self, deadline: Deadline) -> Result<()> {
        let mut step = RETRY.0;
        loop {
            match self.subscribe() {
                Ok(()) => return Ok(()),
                Err(error) if deadline.passed() => return Err(error),
                Err(_) => {}
            }
            let time = deadline.left().map_or(step, |left| left.min(step));
            // A wait that fails is a short one: there is a deadline.
            let _ = wait::pause(time);
            step = (step * 2).min(RETRY.1);
        }
    }

    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            let event = match event {
                Event::DomainEventCallbackLifecycle(event) => Some(Numbered::Life(self.counted(event.msg))),
                event @ (Event::BulkheadDomainEvent(_) | Event::BulkheadDomainNotice(_)) => Numbered::of(event),
                event => Notice::from_event(event).map(|(dom, notice)| Numbered::Notice(self.noticed(dom, notice))),
            };
            let Some(event) = event else { continue };
            if self.last.is_none_or(|last| event.sequence() > last) {
                self.last = Some(event.sequence());
                self.queue.push_back(event);
            }
        }
    }

    /// An event without a number and a time gets both here.
    fn counted(&self, event: remote::DomainEventLifecycleMsg) -> bulkhead::DomainEventMsg {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        bulkhead::DomainEventMsg {
            sequence: self.last.unwrap_or_default().saturating_add(1),
            dom: event.dom,
            event: event.event,
            detail: event.detail,
            seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            nanos: now.subsec_nanos(),
            text: None,
        }
    }

    /// The same for a notice.
    fn noticed(&self, dom: remote::Domain, notice: Notice) -> bulkhead::DomainNoticeMsg {
        let counted = self.counted(remote::DomainEventLifecycleMsg { dom, ..Default::default() });
        let Parts { kind, number, texts } = notice.into_parts();
        bulkhead::DomainNoticeMsg {
            sequence: counted.sequence,
            dom: counted.dom,
            kind,
            number,
            texts,
            seconds: counted.seconds,
            nanos: counted.nanos,
        }
    }
}

/// libvirt's number of the lifecycle events.
fn lifecycle() -> i32 {
    let event = Op::DomainEventCallbackLifecycle.info().event;
    event.filter(|event| event.family == EventFamily::Domain).map_or(0, |event| event.id)
}

impl EventSource for RemoteEvents {
    fn next(&mut self, timeout: Option<Duration>) -> Result<Option<Numbered>> {
        let deadline = Deadline::after(timeout);
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            let Some(session) = &self.session else {
                self.resubscribe(if timeout.is_some() { deadline } else { Deadline::after(Some(PATIENCE)) })?;
                continue;
            };
            match session.client.wait_events(deadline.left()) {
                Ok(events) if events.is_empty() && deadline.passed() => return Ok(None),
                Ok(events) => self.take(events),
                Err(CallError::Lost(_)) => self.session = None,
                Err(failure) => return Err(session.no_answer(failure, Op::BulkheadEventsSubscribe)),
            }
        }
    }

    fn lost(&self) -> bool {
        self.lost
    }

    fn first_new(&self) -> u64 {
        self.first_new.unwrap_or_default()
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.session.as_ref().map(|session| session.client.as_fd())
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}
