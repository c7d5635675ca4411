//! Events for a program that waits for them.

use std::{fmt, os::fd::BorrowedFd, time::Duration};

use api::notice::Notice;

use crate::{
    Connection, Domain, DomainEvent, EventDetail, EventKind, Result,
    link::{EventSource, Numbered},
    types::time_of,
    wait::Deadline,
};

/// What happens to domains, in order. It survives its daemon: when that is restarted, the stream connects again and goes on
/// behind the last event that it gave. It waits for a daemon that was stopped and does not start it; the next call does.
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
    /// the next call goes on trying, and no event is lost.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Option<DomainEvent>> {
        let deadline = Deadline::after(timeout);
        let mut left = timeout;
        while let Some(event) = self.source.next(left)? {
            if let Some(event) = event_of(&self.connection, event) {
                return Ok(Some(event));
            }
            left = timeout.and(deadline.left());
        }
        Ok(None)
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
    /// readable. That it is for events that have come already, too, when the far side is to be asked for a sign of life, and
    /// while the daemon is gone for each step towards it. It is the same one for as long as the stream lives.
    #[must_use]
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.source.poll_fd()
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("lost", &self.lost()).finish_non_exhaustive()
    }
}

/// An event of the wire with a handle to its domain; none when it is a notice of a kind that this build does not know.
pub(crate) fn event_of(connection: &Connection, event: Numbered) -> Option<DomainEvent> {
    let (kind, detail, notice, text, sequence, dom, time) = match event {
        Numbered::Life(event) => {
            let kind = EventKind::from_number(event.event);
            let time = time_of(event.seconds, event.nanos);
            (kind, event.detail, None, event.text, event.sequence, event.dom, time)
        }
        Numbered::Notice(event) => {
            let notice = Notice::of(&event)?;
            let time = time_of(event.seconds, event.nanos);
            (EventKind::Notice, 0, Some(notice), None, event.sequence, event.dom, time)
        }
    };
    let domain = Domain::new(connection.clone(), dom);
    Some(DomainEvent { sequence, domain, kind, detail: EventDetail::new(kind, detail), notice, time, text })
}
