//! What a process prints, collected as it comes.

use std::{
    io::Read,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Everything that a stream has brought so far.
#[derive(Clone, Debug)]
pub struct Collected {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    over: bool,
}

impl Collected {
    /// Reads a stream to its end, on a thread of its own.
    pub fn from(mut stream: impl Read + Send + 'static) -> Collected {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            loop {
                // A pseudo-terminal whose other side has closed ends with an error.
                let count = stream.read(&mut chunk).unwrap_or(0);
                let mut state = writer.lock();
                state.bytes.extend_from_slice(&chunk[..count]);
                state.over = count == 0;
                let over = state.over;
                drop(state);
                writer.changed.notify_all();
                if over {
                    return;
                }
            }
        });
        Collected { shared }
    }

    /// Waits until `look` finds something in the bytes; `None` when the time is over or the stream has ended without it.
    pub fn wait<T>(&self, time: Duration, mut look: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + time;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = look(&state.bytes) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.over || left.is_zero() {
                return None;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the end of the stream; false when the time is over.
    #[must_use]
    pub fn wait_for_end(&self, time: Duration) -> bool {
        self.wait(time, |_| None::<()>);
        self.shared.lock().over
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().bytes.len()
    }

    /// Whether nothing has come yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.shared.lock().bytes).into_owned()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
