//! The seam between what programs hold and the driver that answers: one call in, one answer out.
//!
//! A driver has no code per operation here. What an operation takes and gives is [`api`]'s table; the typed side
//! ([`Connection::invoke`](crate::Connection::invoke)) is generated from it.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use api::{Call, Event, Operation, Reply, bulkhead};

use crate::{ConsoleStream, Result, error};

/// A driver that is open.
pub(crate) trait Link: Send + Sync {
    /// Makes one call and waits for its answer. Any number of threads may call at once.
    fn call(&self, call: Call, fds: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>)>;

    /// Begins to listen for what happens after the event numbered `since`, or from now on.
    fn events(&self, since: Option<u64>) -> Result<Box<dyn EventSource>>;

    /// Whether a guest's files are real, so that the caller opens them and hands them over.
    fn takes_files(&self) -> bool;

    /// Opens a guest's console.
    fn console(&self, args: bulkhead::DomainOpenConsoleArgs) -> Result<ConsoleStream> {
        open_console(self, args)
    }

    /// What the way to the driver is worth.
    fn security(&self) -> Result<Security> {
        Ok(Security { secure: true, encrypted: false })
    }

    /// Asks the far side for a sign of life after each such silence, and gives it up after so many without an answer. On
    /// this host the kernel tells.
    fn set_keepalive(&self, _watch: Option<(Duration, u32)>) -> Result<()> {
        Ok(())
    }
}

/// What the way to a driver is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Security {
    /// Nobody can read along.
    pub(crate) secure: bool,
    /// It is encrypted.
    pub(crate) encrypted: bool,
}

/// Opens a console whose bytes travel over a descriptor of the answer.
pub(crate) fn open_console<L: Link + ?Sized>(link: &L, args: bulkhead::DomainOpenConsoleArgs) -> Result<ConsoleStream> {
    let op = bulkhead::DomainOpenConsoleArgs::OP;
    let (_, fds) = link.call(args.into_call(), Vec::new())?;
    let mut fds = fds.into_iter();
    let (Some(fd), None) = (fds.next(), fds.next()) else {
        return Err(error::strange_answer(op, "it has the wrong number of file descriptors"));
    };
    ConsoleStream::new(fd)
        .map_err(|source| error::strange_answer(op, "its file descriptor is no stream socket").with_cause(source))
}

/// Something that happened to a domain, by its number in the daemon's log.
#[derive(Clone, Debug)]
pub(crate) enum Numbered {
    /// A change of its life.
    Life(bulkhead::DomainEventMsg),
    /// Something else.
    Notice(bulkhead::DomainNoticeMsg),
}

impl Numbered {
    /// What a message of our own program tells; none when it is another one.
    pub(crate) fn of(event: Event) -> Option<Numbered> {
        match event {
            Event::BulkheadDomainEvent(event) => Some(Numbered::Life(event)),
            Event::BulkheadDomainNotice(notice) => Some(Numbered::Notice(notice)),
            _ => None,
        }
    }

    /// Back to the message.
    pub(crate) fn into_event(self) -> Event {
        match self {
            Numbered::Life(event) => Event::BulkheadDomainEvent(event),
            Numbered::Notice(notice) => Event::BulkheadDomainNotice(notice),
        }
    }

    /// Its number.
    pub(crate) fn sequence(&self) -> u64 {
        match self {
            Numbered::Life(event) => event.sequence,
            Numbered::Notice(notice) => notice.sequence,
        }
    }
}

/// Where a driver's events come from, one listener's share.
pub(crate) trait EventSource: Send {
    /// The next event; `None` when there was none for `timeout`. A source that has lost its daemon connects again, without
    /// ever starting it, and goes on behind the last event that it gave; it fails when that cannot be done within `timeout`,
    /// and returns by then.
    fn next(&mut self, timeout: Option<Duration>) -> Result<Option<Numbered>>;

    /// Whether events were asked for that are no longer to be had.
    fn lost(&self) -> bool;

    /// The number of the first event that had not happened yet when the source was made.
    fn first_new(&self) -> u64;

    /// Readable while [`EventSource::next`] has something to do: an event to give, or a step towards a connection.
    /// The same one for as long as the source lives.
    fn poll_fd(&self) -> BorrowedFd<'_>;
}
