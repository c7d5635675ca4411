//! Events over libvirt's protocol.
//!
//! Bulkhead's daemons number them, and who comes back asks for what was missed. libvirt's have no numbers: they are counted
//! here, and a reconnection is a gap.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, SystemTime},
};

use api::{
    Error, ErrorCode, ErrorDomain, Event, Family, Op, bulkhead,
    notice::{KINDS, Notice, Parts},
    remote,
};
use wire::client::CallError;

use super::{AUTH_REFUSED, Dialer, FOREIGN, OPEN_PATIENCE, OURS, Session, is_final};
use crate::{
    Result,
    link::{EventSource, Numbered},
    numbers::Numbers,
    redial::{Attempt, Redial},
    wait::Deadline,
    watch::Watch,
};

/// How long a listener waits for a daemon that is being restarted, when its caller would wait for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest time between two tries to find it again.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// One listener with a connection of its own.
pub(super) struct RemoteEvents {
    dialer: Arc<Dialer>,
    watch: Watch,
    session: Option<Session>,
    redial: Redial<Subscribed>,
    /// What has no number is counted on from the last one.
    numbers: Numbers,
    queue: VecDeque<Numbered>,
}

/// A connection on which events flow, and what a daemon of ours said of its log.
type Subscribed = (Session, Option<bulkhead::EventsSubscribeRet>);

fn subscribe(session: Session, since: Option<u64>) -> Result<Subscribed> {
    match session.ask_within(bulkhead::EventsSubscribeArgs { since }, OPEN_PATIENCE) {
        Ok(ret) => {
            session.found(OURS);
            Ok((session, Some(ret)))
        }
        Err(error) if session.is_foreign(&error) => {
            if is_final(&error) {
                session.found(FOREIGN);
            }
            let args = remote::ConnectDomainEventCallbackRegisterAnyArgs { event_id: lifecycle(), dom: None };
            session.ask_within(args, OPEN_PATIENCE)?;
            for kind in KINDS {
                let args = remote::ConnectDomainEventCallbackRegisterAnyArgs { event_id: kind as i32, dom: None };
                // An old daemon does not have all of them.
                let _ = session.ask_within(args, OPEN_PATIENCE);
            }
            Ok((session, None))
        }
        Err(error) => Err(error),
    }
}

/// Whether trying again is of no use: neither a wrong password nor a wrong name gets better by itself.
fn is_refusal(error: &Error) -> bool {
    AUTH_REFUSED.contains(&error.code) || error.code == ErrorCode::INVALID_ARG
}

impl RemoteEvents {
    pub(super) fn begin(dialer: &Arc<Dialer>, since: Option<u64>) -> Result<RemoteEvents> {
        let subscribed = subscribe(dialer.dial()?, since)?;
        let watch = Watch::new().map_err(unwatched)?;
        let redial = Redial::new(&watch, dialer.address.uri.clone(), LONGEST_REST, is_refusal).map_err(unwatched)?;
        let mut source = RemoteEvents {
            dialer: Arc::clone(dialer),
            watch,
            session: None,
            redial,
            numbers: Numbers::since(since),
            queue: VecDeque::new(),
        };
        source.take_session(subscribed)?;
        source.watch.ring(!source.queue.is_empty());
        Ok(source)
    }

    /// Takes a connection on which events flow.
    fn take_session(&mut self, (session, ret): Subscribed) -> Result<()> {
        for fd in [session.client.as_fd(), session.client.alarm()] {
            self.watch.add(fd).map_err(unwatched)?;
        }
        match ret {
            Some(ret) => self.numbers.resume(&ret),
            None => self.numbers.count(),
        }
        // What has come with the answer, the socket does not show any more.
        self.take(session.client.take_events());
        self.session = Some(session);
        Ok(())
    }

    /// Subscribes again as soon as a daemon is there, as far as that is possible until the deadline.
    fn resubscribe(&mut self, deadline: Deadline) -> Result<()> {
        let (dialer, since) = (&self.dialer, self.numbers.last());
        let attempt = || {
            let dialer = Arc::clone(dialer);
            let connect = move || dialer.redial().and_then(|session| subscribe(session, since));
            Attempt { connect: Box::new(connect), news: None }
        };
        let subscribed = self.redial.until(deadline, &self.watch, attempt)?;
        self.take_session(subscribed).map_err(|error| self.redial.failed(error))
    }

    fn lose(&mut self) {
        if let Some(session) = self.session.take() {
            self.watch.remove(&session.client);
            self.watch.remove(session.client.alarm());
        }
        self.redial.lost();
    }

    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            let event = match event {
                Event::DomainEventCallbackLifecycle(event) => Some(Numbered::Life(self.counted(event.msg))),
                event @ (Event::BulkheadDomainEvent(_) | Event::BulkheadDomainNotice(_)) => Numbered::of(event),
                event => Notice::from_event(event).map(|(dom, notice)| Numbered::Notice(self.noticed(dom, notice))),
            };
            let Some(event) = event else { continue };
            if self.numbers.pass(event.sequence()) {
                self.queue.push_back(event);
            }
        }
    }

    fn next_until(&mut self, timeout: Option<Duration>, deadline: Deadline) -> Result<Option<Numbered>> {
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
                Err(CallError::Lost(_)) => self.lose(),
                Err(failure) => return Err(session.no_answer(failure, Op::BulkheadEventsSubscribe)),
            }
        }
    }

    /// An event without a number and a time gets both here.
    fn counted(&self, event: remote::DomainEventLifecycleMsg) -> bulkhead::DomainEventMsg {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        bulkhead::DomainEventMsg {
            sequence: self.numbers.next(),
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

fn unwatched(source: io::Error) -> Error {
    Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, "cannot watch a connection").with_cause(source)
}

/// libvirt's number of the lifecycle events.
fn lifecycle() -> i32 {
    let event = Op::DomainEventCallbackLifecycle.info().event;
    event.filter(|event| event.family == Family::Domain).map_or(0, |event| event.id)
}

impl EventSource for RemoteEvents {
    fn next(&mut self, timeout: Option<Duration>) -> Result<Option<Numbered>> {
        let next = self.next_until(timeout, Deadline::after(timeout));
        self.watch.ring(!self.queue.is_empty());
        next
    }

    fn lost(&self) -> bool {
        self.numbers.lost()
    }

    fn first_new(&self) -> u64 {
        self.numbers.first_new()
    }

    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
