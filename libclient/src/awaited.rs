//! A value that tests wait for.

use std::{
    sync::{Condvar, Mutex, MutexGuard},
    time::Duration,
};

/// Longer than anything that a test waits for, so that a hang fails instead of hanging.
const LONG: Duration = Duration::from_secs(30);

/// A value behind a lock. A waiter checks it again after each change.
#[derive(Default)]
pub(crate) struct Awaited<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Awaited<T> {
    /// The value, to look at.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap()
    }

    /// Changes the value.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until the value is as a test wants it.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, mut is_so: impl FnMut(&T) -> bool) {
        let (value, waited) = self.changed.wait_timeout_while(self.lock(), LONG, |value| !is_so(value)).unwrap();
        // A panic must not poison the lock for the fake's own threads.
        drop(value);
        assert!(!waited.timed_out(), "waited {LONG:?} for {what}");
    }
}
