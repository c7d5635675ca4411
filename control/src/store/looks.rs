//! Looks at files that may be anywhere: emulators, and the files that clients hand over. A file server that does not answer
//! holds up the thread that looks, so there are as many threads as looks under way, up to a limit, and no look waits for
//! another.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use super::{EndsWithThread, STACK};

/// Threads at most: so many file servers may be silent before others wait.
const THREADS_MAX: usize = 32;
/// Looks that are under way or wait at most.
const LOOKS_MAX: usize = 4096;

type Look = Box<dyn FnOnce() + Send>;

/// See the module's page.
pub struct Looks {
    looks: Sender<Look>,
    queue: Arc<Mutex<Receiver<Look>>>,
    under_way: Arc<AtomicUsize>,
    threads: usize,
}

impl Looks {
    /// Starts the first thread.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn start() -> io::Result<Looks> {
        let (looks, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let mut started = Looks { looks, queue, under_way: Arc::default(), threads: 0 };
        started.add_thread()?;
        Ok(started)
    }

    /// Whether no further look is taken.
    pub fn is_full(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) >= LOOKS_MAX
    }

    /// Looks as soon as a thread is free, which is at once unless many hang.
    pub fn add(&mut self, look: Look) {
        let under_way = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        if under_way > self.threads
            && self.threads < THREADS_MAX
            && let Err(error) = self.add_thread()
        {
            tracing::warn!("no further thread to look at files with: {error}");
        }
        if self.looks.send(look).is_err() {
            // A thread ends only with the process.
            tracing::error!("the threads that look at files are gone");
        }
    }

    fn add_thread(&mut self) -> io::Result<()> {
        let (queue, under_way) = (Arc::clone(&self.queue), Arc::clone(&self.under_way));
        let work = move || {
            let _guard = EndsWithThread;
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(look) = next else { return };
                look();
                under_way.fetch_sub(1, Ordering::Relaxed);
            }
        };
        thread::Builder::new().name("looks".into()).stack_size(STACK).spawn(work)?;
        self.threads += 1;
        Ok(())
    }
}
