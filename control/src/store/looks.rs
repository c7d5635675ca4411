//! Looks at files that may be anywhere: emulators, and the files that clients hand over. A file server that does not answer
//! holds up the thread that looks, so each look has a thread. How many there are is a matter of budgets: a user whose looks
//! all hang waits for itself, and for nobody else.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use ipc::budget::{Charge, Resource, UserBudget};

use super::{EndsWithThread, STACK};

/// Looks under way, and threads, up to which a user that has none gets one.
const FIRST_LOOKS: usize = 128;

/// Looks, and returns what tells the loop of it.
pub type Look = Box<dyn FnOnce() -> Told + Send>;
/// Tells the loop what a look has found.
pub type Told = Box<dyn FnOnce() + Send>;

/// A look that has no thread yet.
struct Waiting {
    number: u64,
    budget: UserBudget,
    look: Look,
}

/// See the module's page.
pub struct Looks {
    begun: Sender<(Charge, Look)>,
    queue: Arc<Mutex<Receiver<(Charge, Look)>>>,
    waiting: VecDeque<Waiting>,
    under_way: Arc<AtomicUsize>,
    threads: usize,
    own: UserBudget,
}

impl Looks {
    /// Starts the first thread. `own` is the budget of the process.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn start(own: UserBudget) -> io::Result<Looks> {
        let (begun, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let mut started = Looks { begun, queue, waiting: VecDeque::new(), under_way: Arc::default(), threads: 0, own };
        started.add_thread()?;
        Ok(started)
    }

    /// Looks in the name of the user with this budget as soon as that allows it, which is at once unless many of its hang.
    pub fn add(&mut self, number: u64, budget: Option<UserBudget>, look: Look) {
        let budget = budget.unwrap_or_else(|| self.own.clone());
        self.waiting.push_back(Waiting { number, budget, look });
        self.go_on();
    }

    /// Forgets a look that has not begun; false when it has.
    pub fn forget(&mut self, number: u64) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.number != number);
        self.waiting.len() < before
    }

    /// Begins those looks whose users have room for one.
    pub fn go_on(&mut self) {
        for _ in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.pop_front() else { return };
            // Others can make a user wait for its second look, but not for its first.
            match waiting.budget.take_first(Resource::Looks, FIRST_LOOKS) {
                Ok(charge) => self.begin(charge, waiting.look),
                Err(_) => self.waiting.push_back(waiting),
            }
        }
    }

    fn begin(&mut self, charge: Charge, look: Look) {
        let under_way = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        if under_way > self.threads
            && let Err(error) = self.add_thread()
        {
            tracing::warn!("no further thread to look at files with: {error}");
        }
        if self.begun.send((charge, look)).is_err() {
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
                let Ok((charge, look)) = next else { return };
                // What the look tells the loop comes after its room is free.
                let told = look();
                under_way.fetch_sub(1, Ordering::Relaxed);
                drop(charge);
                told();
            }
        };
        thread::Builder::new().name("looks".into()).stack_size(STACK).spawn(work)?;
        self.threads += 1;
        Ok(())
    }
}
