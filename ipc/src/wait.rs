//! How a daemon's loop waits: it looks for a moment whether the next message comes at once, and then it sleeps.

use std::{io, time::Duration};

use api::look::Look;
use mio::{Events, Poll};

/// Waits until something is ready, `wait` at most. A signal that interrupts it brings no event.
///
/// # Errors
/// When the poll fails.
pub fn until_ready(poll: &mut Poll, events: &mut Events, look: &Look, wait: Option<Duration>) -> io::Result<()> {
    let soon = || poll.poll(events, Some(Duration::ZERO)).map(|()| (!events.is_empty()).then_some(()));
    let polled = match look.look(soon) {
        Ok(None) => poll.poll(events, wait),
        looked => looked.map(drop),
    };
    match polled {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        other => other,
    }
}
