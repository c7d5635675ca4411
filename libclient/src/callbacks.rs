//! Events for a program with an event loop: one subscription for all callbacks of a connection.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use uuid::Uuid;

use crate::{
    Connection, DomainEvent, Result,
    connection::WeakConnection,
    event::{self, EventImpl, HandleEvents, HandleId},
    link::EventSource,
    stream::event_of,
};

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
    /// Its descriptor stays the same one, and becomes readable for a lost daemon as well as for events.
    source: Mutex<Box<dyn EventSource>>,
    /// Where the loop watches that descriptor.
    watched: Mutex<Option<HandleId>>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    last_id: u64,
    list: Vec<Entry>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Callbacks {
    /// Subscribes and has the event loop watch.
    pub(crate) fn begin(connection: &Connection) -> Result<Arc<Callbacks>> {
        let events = event::registered()?;
        let callbacks = Arc::new(Callbacks {
            connection: connection.downgrade(),
            events,
            source: Mutex::new(connection.link().events(None)?),
            watched: Mutex::default(),
            entries: Mutex::default(),
        });
        callbacks.watch()?;
        Ok(callbacks)
    }

    fn watch(self: &Arc<Callbacks>) -> Result<()> {
        let weak = Arc::downgrade(self);
        let dispatch = move |_| {
            if let Some(callbacks) = weak.upgrade() {
                callbacks.dispatch();
            }
        };
        let handle =
            self.events.add_handle(lock(&self.source).poll_fd(), HandleEvents::READABLE, Box::new(dispatch))?;
        *lock(&self.watched) = Some(handle);
        Ok(())
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
            let next = lock(&self.source).next(Some(Duration::ZERO));
            // Without a connection the source becomes readable when there is something to do, and knows where to go on.
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

impl Drop for Callbacks {
    fn drop(&mut self) {
        // Before the source goes, and its descriptor with it.
        if let Some(handle) = self.watched.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            self.events.remove_handle(handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Error, ErrorCode, ErrorDomain,
        event::{HandleCallback, TimeoutCallback, TimeoutId},
        link::Numbered,
    };
    use std::{
        fs,
        io::{PipeReader, pipe},
        os::fd::{AsFd, AsRawFd, BorrowedFd},
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

    /// Events of a daemon that is gone.
    struct Gone(PipeReader);

    impl EventSource for Gone {
        fn next(&mut self, _: Option<Duration>) -> Result<Option<Numbered>> {
            Err(Error::new(ErrorCode::RPC, ErrorDomain::RPC, "gone"))
        }

        fn lost(&self) -> bool {
            false
        }

        fn first_new(&self) -> u64 {
            0
        }

        fn poll_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    #[test]
    fn a_descriptor_stays_open_until_the_loop_watches_it_no_longer() {
        let events: &'static OwnLoop = Box::leak(Box::default());
        let connection = Connection::open("test:///default").unwrap();
        let (reader, _writer) = pipe().unwrap();
        let callbacks = Arc::new(Callbacks {
            connection: connection.downgrade(),
            events,
            source: Mutex::new(Box::new(Gone(reader))),
            watched: Mutex::default(),
            entries: Mutex::default(),
        });
        callbacks.watch().unwrap();
        callbacks.dispatch();
        assert_eq!(*lock(&events.removed), 0, "a daemon that is gone is waited for");
        drop(callbacks);
        assert_eq!(*lock(&events.removed), 1);
    }
}
