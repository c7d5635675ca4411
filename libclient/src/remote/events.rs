//! Events over libvirt's protocol.
//!
//! Bulkhead's daemons number them, and who comes back asks for what was missed. libvirt's have no numbers: they are counted
//! here, and a reconnection is a gap.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, SystemTime},
};

use api::{
    Error, ErrorCode, ErrorDomain, Event, EventFamily, Op, bulkhead,
    notice::{KINDS, Notice, Parts},
    remote,
};
use wire::client::CallError;

use super::{AUTH_REFUSED, Dialer, FOREIGN, OPEN_PATIENCE, OURS, Session, is_final, watch::Watch};
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
    session: Option<(Session, Watch)>,
    /// The number of the last event that has arrived; what has none is counted on from here.
    last: Option<u64>,
    lost: bool,
    queue: VecDeque<Numbered>,
    first_new: Option<u64>,
    generation: u64,
    /// A connection is being made.
    redial: Option<Redial>,
    /// How long the next try waits before it begins.
    step: Duration,
    /// Why the last try failed.
    failure: Option<Error>,
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

/// Whether trying again is of no use.
fn is_refusal(error: &Error) -> bool {
    AUTH_REFUSED.contains(&error.code) || error.code == ErrorCode::INVALID_ARG
}

/// A connection that is being made by a thread of its own. Left alone, the thread ends by the patience of each of its steps.
struct Redial(mpsc::Receiver<Result<Subscribed>>);

impl Redial {
    fn begin(dialer: &Arc<Dialer>, since: Option<u64>, after: Duration) -> Result<Redial> {
        let (sender, receiver) = mpsc::channel();
        let dialer = Arc::clone(dialer);
        let work = move || {
            // A wait that fails is a short one.
            let _ = wait::pause(after);
            // Nobody may be there any more to take it.
            let _ = sender.send(dialer.redial().and_then(|session| subscribe(session, since)));
        };
        let spawned = thread::Builder::new().name("bulkhead-redial".into()).spawn(work);
        spawned.map(|_| Redial(receiver)).map_err(|source| {
            Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, "cannot connect again").with_cause(source)
        })
    }

    /// What came of it, or itself when nothing has until the deadline.
    fn wait(self, deadline: Deadline) -> std::result::Result<Result<Subscribed>, Redial> {
        let received = match deadline.left() {
            Some(left) => self.0.recv_timeout(left),
            None => self.0.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(result) => Ok(result),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(self),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Ok(Err(Error::new(ErrorCode::INTERNAL_ERROR, ErrorDomain::RPC, "the thread that connects again died")))
            }
        }
    }
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
            redial: None,
            step: Duration::ZERO,
            failure: None,
        };
        source.take_session(subscribe(dialer.dial()?, since)?)?;
        Ok(source)
    }

    /// Takes a connection on which events flow.
    fn take_session(&mut self, (session, ret): Subscribed) -> Result<()> {
        let watch = Watch::new(&session.client).map_err(|source| {
            Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, "cannot watch a connection").with_cause(source)
        })?;
        match ret {
            Some(ret) => self.resume(&ret),
            None => self.count(),
        }
        // What has come with the answer, the socket does not show any more.
        self.take(session.client.take_events());
        watch.ring(!self.queue.is_empty());
        self.session = Some((session, watch));
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

    /// Goes on where nobody gives numbers. What happened before is not to be had.
    fn count(&mut self) {
        self.lost |= self.last.is_some();
        let last = *self.last.get_or_insert(0);
        self.first_new.get_or_insert(last.saturating_add(1));
    }

    /// Subscribes again as soon as a daemon is there, as far as that is possible until the deadline. A host may take long
    /// to say nothing: the tries are made by a thread, so that who has no time is not held up.
    fn resubscribe(&mut self, deadline: Deadline) -> Result<()> {
        loop {
            let redial = match self.redial.take() {
                Some(redial) => redial,
                None => Redial::begin(&self.dialer, self.last, self.step)?,
            };
            match redial.wait(deadline) {
                Ok(Ok(subscribed)) => {
                    self.step = Duration::ZERO;
                    return self.take_session(subscribed);
                }
                Ok(Err(error)) => {
                    self.step = (self.step * 2).clamp(RETRY.0, RETRY.1);
                    // Neither a wrong password nor a wrong name gets better by itself.
                    let hopeless = is_refusal(&error);
                    self.failure = Some(error.clone());
                    if hopeless || deadline.passed() {
                        return Err(error);
                    }
                }
                Err(under_way) => {
                    self.redial = Some(under_way);
                    return Err(self.failure.clone().unwrap_or_else(|| {
                        let text = format!("the connection to {} is being made again", self.dialer.address.uri);
                        Error::new(ErrorCode::OPERATION_TIMEOUT, ErrorDomain::RPC, text)
                    }));
                }
            }
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
            if let Some(last) = self.last {
                if event.sequence() == last {
                    continue;
                }
                // A daemon of ours leaves no number out, and one that goes back is another log's.
                self.lost |= event.sequence() != last.saturating_add(1);
            }
            self.last = Some(event.sequence());
            self.queue.push_back(event);
        }
    }

    fn next_until(&mut self, timeout: Option<Duration>, deadline: Deadline) -> Result<Option<Numbered>> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            let Some((session, _)) = &self.session else {
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
        let next = self.next_until(timeout, Deadline::after(timeout));
        if let Some((_, watch)) = &self.session {
            watch.ring(!self.queue.is_empty());
        }
        next
    }

    fn lost(&self) -> bool {
        self.lost
    }

    fn first_new(&self) -> u64 {
        self.first_new.unwrap_or_default()
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.session.as_ref().map(|(_, watch)| watch.as_fd())
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}
