//! The events of a session: what the driver is asked for, and what goes on to the client.

use std::{
    mem,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use api::{Call, Error, Event, Family, Reply, bulkhead, remote};
use libclient::driven::Done;
use wire::{Header, WireError};

use super::{Cursor, Fault, Over, Pending, Purpose, Session, internal};
use crate::worker::events::{Passage, sequence_of};

/// What a registration is taken back by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Registered {
    /// What it is about, and its number.
    New(Family, i32),
    /// The number of the kind of event.
    Old(i32),
}

/// The flow of events from the driver.
#[derive(Default)]
pub(super) struct Flow {
    /// What the registrations have seen; there while there are any.
    pub(super) registrations: Option<Cursor>,
    /// What the client has seen that asked for numbered events itself.
    pub(super) client: Option<Cursor>,
    /// The subscription is on its way, and these are answered when it is there.
    pub(super) waiting: Vec<(Header, Reply, Registered)>,
    pub(super) subscribing: bool,
    /// The driver has been asked for events in this session.
    pub(super) used: bool,
    /// Events are missing between those that it was sent, and it has not been told.
    skipped: bool,
    /// When it was told of that last.
    told_skipped: Option<Instant>,
}

/// A client is told of gaps no more often.
const BETWEEN_GAPS: Duration = Duration::from_secs(10);

impl Session {
    pub(super) fn wants_events(&self) -> bool {
        self.registrations.any() || self.flow.client.is_some()
    }

    /// The answer to a registration: at once when events flow already, else when they do.
    pub(super) fn registered(&mut self, header: Header, reply: Reply, what: Registered) -> Option<Reply> {
        if self.flow.registrations.is_some() && !self.flow.subscribing {
            return Some(reply);
        }
        self.flow.waiting.push((header, reply, what));
        if !self.flow.subscribing {
            self.flow.registrations.get_or_insert_default();
            let (token, call) = self.subscription();
            if let Err(error) = self.link.submit(token, call, Vec::new()) {
                self.done.push(Done { token, result: Err(error) });
            }
        }
        None
    }

    pub(super) fn deregistered(&mut self, reply: Reply) -> Reply {
        if !self.registrations.any() {
            self.flow.registrations = None;
            if self.flow.client.is_none() {
                let none = Call::BulkheadEventsUnsubscribe(bulkhead::EventsUnsubscribeArgs {});
                // A driver that is gone sends no more events either.
                let _ = self.submit(None, Purpose::Unsubscribe, none, Vec::new());
            }
        }
        reply
    }

    /// The session's own call for events, from behind the last one that everybody has seen.
    pub(super) fn subscription(&mut self) -> (u64, Call) {
        self.flow.subscribing = true;
        self.flow.used = true;
        let cursors = [self.flow.registrations, self.flow.client];
        let since = cursors.into_iter().flatten().filter_map(Cursor::last).min();
        let token = self.token();
        self.pending.push(Pending { token, header: None, purpose: Purpose::Subscribe });
        (token, Call::BulkheadEventsSubscribe(bulkhead::EventsSubscribeArgs { since }))
    }

    pub(super) fn subscribed(&mut self, result: Result<(Reply, Vec<OwnedFd>), Error>) -> Result<(), Over> {
        self.flow.subscribing = false;
        let ret = match result {
            Ok((Reply::BulkheadEventsSubscribe(ret), _)) => Ok(ret),
            Ok(_) => Err(internal("the driver gave another answer")),
            Err(error) => Err(error),
        };
        let waiting = mem::take(&mut self.flow.waiting);
        match ret {
            Ok(ret) => {
                let cursors = [&mut self.flow.registrations, &mut self.flow.client];
                let missed =
                    cursors.into_iter().flatten().fold(false, |missed, cursor| cursor.subscribed(&ret) | missed);
                for (header, reply, _) in waiting {
                    self.conn.queue_answer(&header, &Ok(reply), Vec::new())?;
                }
                if missed {
                    tracing::warn!("events are missing: the log of {} does not reach back", self.link.daemon());
                    self.report_missed()?;
                }
            }
            Err(error) if waiting.is_empty() => tracing::warn!("no events: {}", error.full_text()),
            Err(error) => {
                // Registrations that wait fail; earlier ones keep their place for when the daemon is back.
                for (header, _, what) in waiting {
                    let _ = match what {
                        Registered::New(family, id) => self.registrations.deregister(family, id),
                        Registered::Old(event) => self.registrations.deregister_old(event),
                    };
                    self.conn.queue_error(&header, &error)?;
                }
                if !self.registrations.any() {
                    self.flow.registrations = None;
                }
            }
        }
        Ok(())
    }

    pub(super) fn take_events(&mut self) -> Result<(), Over> {
        if !self.wants_events() {
            return Ok(());
        }
        for event in self.link.take_events() {
            let Some(sequence) = sequence_of(&event) else { continue };
            let pass =
                |cursor: &mut Option<Cursor>| cursor.as_mut().map_or(Passage::Repeated, |cursor| cursor.pass(sequence));
            let registrations = pass(&mut self.flow.registrations);
            let client = pass(&mut self.flow.client);
            // A client that counts sees the gap in the numbers.
            if registrations == Passage::AfterGap {
                tracing::warn!("events are missing: {} skipped some before {sequence}", self.link.daemon());
                self.flow.skipped = true;
            }
            self.tell_skipped()?;
            if registrations != Passage::Repeated {
                for message in self.registrations.messages(&event) {
                    self.conn.queue_event(&message)?;
                }
            }
            if client != Passage::Repeated {
                self.conn.queue_event(&event)?;
            }
        }
        Ok(())
    }

    /// Tells the client of gaps, but not again and again: it looks at everything anew when it is told, and a guest that causes
    /// more events than it may leaves gaps without end.
    fn tell_skipped(&mut self) -> Result<(), WireError> {
        if self.flow.skipped && self.flow.told_skipped.is_none_or(|at| at.elapsed() >= BETWEEN_GAPS) {
            self.flow.skipped = false;
            self.flow.told_skipped = Some(Instant::now());
            self.tell_closed(api::consts::CloseReason::Error)?;
        }
        Ok(())
    }

    /// Tells the client that it has missed events. libvirt's protocol has no message for that: its close callback is the
    /// nearest.
    fn report_missed(&mut self) -> Result<(), Over> {
        self.tell_closed(api::consts::CloseReason::Error)?;
        if self.flow.client.is_some() {
            // A client that counts events subscribes again from its last number, and that answer reports the loss.
            return Err(Over::Broken(Fault::Missed.into()));
        }
        Ok(())
    }

    pub(super) fn tell_closed(&mut self, reason: api::consts::CloseReason) -> Result<(), WireError> {
        if !self.close_callback {
            return Ok(());
        }
        let reason = reason as i32;
        self.conn.queue_event(&Event::ConnectEventConnectionClosed(remote::ConnectEventConnectionClosedMsg { reason }))
    }

    /// The daemon did not come back: end the session, so that a listener does not wait for events that cannot come.
    pub(super) fn end_without_events(&mut self) {
        let _ = self.tell_closed(api::consts::CloseReason::Eof).and_then(|()| self.conn.flush().map(drop));
        self.over.get_or_insert_with(|| Over::Broken(Fault::NoEvents.into()));
    }
}
