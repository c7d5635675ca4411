//! Events for a program that waits for them.

use std::{fmt, os::fd::BorrowedFd, time::Duration};

use api::bulkhead;

use crate::{Connection, Domain, DomainEvent, EventDetail, EventKind, Result, link::EventSource, types::time_of};

/// What happens to domains, in order. It survives its daemon: when that is restarted, the stream connects again and goes on
/// behind the last event that it gave.
pub struct EventStream {
    connection: Connection,
    source: Box<dyn EventSource>,
}

impl EventStream {
    pub(crate) fn new(connection: Connection, source: Box<dyn EventSource>) -> EventStream {
        EventStream { connection, source }
    }

    /// Waits for the next event, up to `timeout` or for ever; `None` when the time is over. Events that have arrived come at
    /// once, so a timeout of zero asks without waiting.
    ///
    /// # Errors
    /// When the daemon is gone and does not come back within `timeout`, a minute at most. The stream is as good as before:
    /// the next call tries again, and no event is lost.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Option<DomainEvent>> {
        let event = self.source.next(timeout)?;
        Ok(event.map(|event| event_of(&self.connection, event)))
    }

    /// Whether events that the stream should have given are gone: it was asked to begin further back than the daemon's log
    /// reaches, or it was away from the daemon for longer than that. Who keeps a list of domains reads it anew then.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.source.lost()
    }

    /// The number of the first event that had not happened yet when this stream was made: what comes with a lower one is
    /// replay.
    #[must_use]
    pub fn first_new(&self) -> u64 {
        self.source.first_new()
    }

    /// What to watch for reading in an event loop of one's own; call [`EventStream::next`] with no time when it is
    /// readable. It is another one after a reconnection, and none while the daemon is gone: ask again after each
    /// [`EventStream::next`].
    #[must_use]
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.source.poll_fd()
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("lost", &self.lost()).finish_non_exhaustive()
    }
}

/// An event of the wire with a handle to its domain.
pub(crate) fn event_of(connection: &Connection, event: bulkhead::DomainEventMsg) -> DomainEvent {
    let kind = EventKind::from_number(event.event);
    DomainEvent {
        sequence: event.sequence,
        domain: Domain::new(connection.clone(), event.dom),
        kind,
        detail: EventDetail::new(kind, event.detail),
        time: time_of(event.seconds, event.nanos),
        text: event.text,
    }
}
