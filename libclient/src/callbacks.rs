//! Events for a program with an event loop: one subscription for all callbacks of a connection.

use std::{
    fmt,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use api::{Error, ErrorCode, ErrorDomain};
use uuid::Uuid;

use crate::{
    Connection, DomainEvent, Result,
    connection::WeakConnection,
    event::{self, EventImpl, HandleEvents, HandleId, TimeoutId},
    link::EventSource,
    stream::event_of,
};

/// The first and the longest time between two tries to find a daemon again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Names a callback of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallbackId(u64);

impl fmt::Display for CallbackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

type Callback = Arc<Mutex<Box<dyn FnMut(&DomainEvent) + Send>>>;

struct Entry {
    id: CallbackId,
    /// The only domain that it is about.
    domain: Option<Uuid>,
    callback: Callback,
}

/// The callbacks of a connection and what feeds them.
pub(crate) struct Callbacks {
    connection: WeakConnection,
    events: &'static dyn EventImpl,
    feed: Mutex<Feed>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    last_id: u64,
    list: Vec<Entry>,
}

/// What the loop watches: the source's descriptor while there is a connection, a timer while there is none.
struct Feed {
    source: Box<dyn EventSource>,
    watched: Option<Watched>,
    timer: Option<(TimeoutId, Duration)>,
    /// There is no connection, and the timer's next try comes later than its last.
    lost: bool,
}

/// A descriptor that the loop watches.
struct Watched {
    generation: u64,
    handle: HandleId,
    /// Open for as long as the loop watches it, whatever becomes of the source's.
    _fd: OwnedFd,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Callbacks {
    /// Subscribes and has the event loop watch.
    pub(crate) fn begin(connection: &Connection) -> Result<Arc<Callbacks>> {
        let events = event::registered()?;
        let feed = Feed { source: connection.link().events(None)?, watched: None, timer: None, lost: false };
        let callbacks = Arc::new(Callbacks {
            connection: connection.downgrade(),
            events,
            feed: Mutex::new(feed),
            entries: Mutex::default(),
        });
        {
            let weak = Arc::downgrade(&callbacks);
            let mut feed = lock(&callbacks.feed);
            feed.watch(events, &weak)?;
            // Events may have come with the answer to the subscription, and the descriptor does not tell of those.
            feed.look_in(events, weak, Duration::ZERO);
        }
        Ok(callbacks)
    }

    pub(crate) fn add(&self, domain: Option<Uuid>, callback: Box<dyn FnMut(&DomainEvent) + Send>) -> CallbackId {
        let mut entries = lock(&self.entries);
        entries.last_id += 1;
        let id = CallbackId(entries.last_id);
        entries.list.push(Entry { id, domain, callback: Arc::new(Mutex::new(callback)) });
        id
    }

    pub(crate) fn remove(&self, id: CallbackId) -> bool {
        let mut entries = lock(&self.entries);
        let at = entries.list.iter().position(|entry| entry.id == id);
        let removed = at.map(|at| entries.list.remove(at));
        drop(entries);
        removed.is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.entries).list.is_empty()
    }

    /// Calls back for all that has arrived.
    fn dispatch(self: &Arc<Callbacks>) {
        let Some(connection) = self.connection.upgrade() else { return };
        loop {
            let next = {
                let mut feed = lock(&self.feed);
                let next = feed.source.next(Some(Duration::ZERO));
                feed.settle(self, next.is_err());
                next
            };
            // Without a connection the timer tries again; the source knows where to go on.
            let Ok(Some(event)) = next else { return };
            if let Some(event) = event_of(&connection, event) {
                self.tell(&event);
            }
        }
    }

    fn tell(&self, event: &DomainEvent) {
        let about = |entry: &&Entry| entry.domain.is_none_or(|uuid| uuid == event.domain.uuid());
        let listeners: Vec<(CallbackId, Callback)> = lock(&self.entries)
            .list
            .iter()
            .filter(about)
            .map(|entry| (entry.id, Arc::clone(&entry.callback)))
            .collect();
        for (id, callback) in listeners {
            // One of the callbacks before may have removed it.
            if lock(&self.entries).list.iter().any(|entry| entry.id == id) {
                (lock(&callback))(event);
            }
        }
    }
}

impl Feed {
    /// Has the loop watch what there is to watch now.
    fn settle(&mut self, callbacks: &Arc<Callbacks>, lost: bool) {
        let weak = Arc::downgrade(callbacks);
        // A loop that cannot watch the new connection is tried again by the timer.
        if lost || self.watch(callbacks.events, &weak).is_err() {
            self.unwatch(callbacks.events);
            let step = if self.lost { self.timer.map_or(RETRY.0, |(_, last)| last * 2) } else { RETRY.0 };
            self.lost = true;
            self.look_in(callbacks.events, weak, step.clamp(RETRY.0, RETRY.1));
        } else {
            self.lost = false;
            self.stop_looking(callbacks.events);
        }
    }

    fn watch(&mut self, events: &'static dyn EventImpl, weak: &Weak<Callbacks>) -> Result<()> {
        let generation = self.source.generation();
        if self.watched.as_ref().is_some_and(|watched| watched.generation == generation) {
            return Ok(());
        }
        self.unwatch(events);
        if let Some(fd) = self.source.poll_fd() {
            let weak = Weak::clone(weak);
            let dispatch = move |_| {
                if let Some(callbacks) = weak.upgrade() {
                    callbacks.dispatch();
                }
            };
            let fd = fd.try_clone_to_owned().map_err(|source| {
                Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::EVENT, "cannot watch a connection").with_cause(source)
            })?;
            let handle = events.add_handle(fd.as_fd(), HandleEvents::READABLE, Box::new(dispatch))?;
            self.watched = Some(Watched { generation, handle, _fd: fd });
        }
        Ok(())
    }

    fn unwatch(&mut self, events: &dyn EventImpl) {
        if let Some(watched) = self.watched.take() {
            events.remove_handle(watched.handle);
        }
    }

    /// Has the timer look what there is, every `interval`.
    fn look_in(&mut self, events: &dyn EventImpl, weak: Weak<Callbacks>, interval: Duration) {
        match &mut self.timer {
            Some((_, present)) if *present == interval => {}
            Some((timeout, present)) => {
                *present = interval;
                events.update_timeout(*timeout, Some(interval));
            }
            None => {
                let dispatch = move || {
                    if let Some(callbacks) = weak.upgrade() {
                        callbacks.dispatch();
                    }
                };
                // A loop without room for a timer leaves the callbacks silent; nobody can be told from here.
                self.timer = events.add_timeout(Some(interval), Box::new(dispatch)).ok().map(|id| (id, interval));
            }
        }
    }

    fn stop_looking(&mut self, events: &dyn EventImpl) {
        if let Some((timeout, _)) = self.timer.take() {
            events.remove_timeout(timeout);
        }
    }
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        let feed = self.feed.get_mut().unwrap_or_else(PoisonError::into_inner);
        feed.unwatch(self.events);
        feed.stop_looking(self.events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{HandleCallback, TimeoutCallback},
        link::Numbered,
    };
    use std::{
        fs,
        io::{PipeReader, pipe},
        os::fd::{AsRawFd, BorrowedFd},
        path::PathBuf,
    };

    /// A loop of a program's own, which looks after the descriptors that it was given.
    #[derive(Default)]
    struct OwnLoop {
        watched: Mutex<Option<(PathBuf, PathBuf)>>,
        removed: Mutex<usize>,
    }

    impl EventImpl for OwnLoop {
        fn add_handle(&self, fd: BorrowedFd<'_>, _: HandleEvents, _: HandleCallback) -> Result<HandleId> {
            let place = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            let what = fs::read_link(&place).unwrap();
            *lock(&self.watched) = Some((place, what));
            Ok(HandleId(1))
        }

        fn update_handle(&self, _: HandleId, _: HandleEvents) {}

        fn remove_handle(&self, _: HandleId) {
            let (place, what) = lock(&self.watched).take().unwrap();
            assert_eq!(fs::read_link(place).ok(), Some(what), "it was closed before the loop was told");
            *lock(&self.removed) += 1;
        }

        fn add_timeout(&self, _: Option<Duration>, _: TimeoutCallback) -> Result<TimeoutId> {
            Ok(TimeoutId(1))
        }

        fn update_timeout(&self, _: TimeoutId, _: Option<Duration>) {}

        fn remove_timeout(&self, _: TimeoutId) {}
    }

    /// Events of a daemon that goes away.
    struct Going(Option<PipeReader>);

    impl EventSource for Going {
        fn next(&mut self, _: Option<Duration>) -> Result<Option<Numbered>> {
            self.0 = None;
            Err(Error::new(ErrorCode::RPC, ErrorDomain::RPC, "gone"))
        }

        fn lost(&self) -> bool {
            false
        }

        fn first_new(&self) -> u64 {
            0
        }

        fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
            self.0.as_ref().map(AsFd::as_fd)
        }

        fn generation(&self) -> u64 {
            1
        }
    }

    #[test]
    fn a_descriptor_stays_open_until_the_loop_watches_it_no_longer() {
        let events: &'static OwnLoop = Box::leak(Box::default());
        let connection = Connection::open("test:///default").unwrap();
        let (reader, _writer) = pipe().unwrap();
        let feed = Feed { source: Box::new(Going(Some(reader))), watched: None, timer: None, lost: false };
        let callbacks = Arc::new(Callbacks {
            connection: connection.downgrade(),
            events,
            feed: Mutex::new(feed),
            entries: Mutex::default(),
        });
        lock(&callbacks.feed).watch(events, &Arc::downgrade(&callbacks)).unwrap();
        callbacks.dispatch();
        assert_eq!(*lock(&events.removed), 1);
    }
}
