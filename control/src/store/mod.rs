//! What control has on disk, and whatever else may wait for a disk: definitions, the journal's file, what is known of
//! emulators, the files that clients hand over.
//!
//! Control's loop waits for nothing, so each of these has a thread, which works off one thing after another and answers
//! through the loop's waker. A disk that does not answer delays only the calls that need it, and each of those ends by a
//! deadline. The threads speak with no client and touch nothing of the loop's; Landlock and seccomp hold them as they hold
//! the loop.

pub mod definitions;
pub mod journal;
mod lines;

use std::{
    cell::Cell,
    collections::HashMap,
    io,
    rc::Rc,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use api::{Error, Reply};
pub use lines::{Condition, Lines};
use mio::Waker;

use super::{Control, Then, driver::Asked, errors, in_the_same_name};
use definitions::Definitions;

/// How long a call waits for a disk.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long a control that leaves waits for what its threads have to write.
const LEAVING: Duration = Duration::from_secs(5);
/// A document of the deepest nesting fits several times.
const STACK: usize = 1 << 20;

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread and what it works on. It ends when this is dropped and its work is done.
pub struct Worker<S> {
    jobs: Sender<Job<S>>,
}

impl<S: Send + 'static> Worker<S> {
    fn start(name: &str, mut state: S, ended: Sender<()>) -> io::Result<Worker<S>> {
        let (jobs, queue) = channel::<Job<S>>();
        let work = move || {
            let _guard = EndsWithThread;
            for job in queue {
                job(&mut state);
            }
            // Nobody waits for it unless control leaves.
            let _ = ended.send(());
        };
        thread::Builder::new().name(name.into()).stack_size(STACK).spawn(work)?;
        Ok(Worker { jobs })
    }
}

/// A panic on a thread of the store's ends the process as one in the loop does: the launcher starts another control.
struct EndsWithThread;

impl Drop for EndsWithThread {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::exit(101);
        }
    }
}

/// The threads, and what waits for them.
pub struct Store {
    definitions: Worker<Definitions>,
    lines: Worker<Lines>,
    /// Looks at emulators, and keeps what they can do.
    lookout: Worker<()>,
    /// Looks at descriptors that clients hand over: what is behind them may be anything.
    descriptors: Worker<()>,
    done: Receiver<u64>,
    back: Back,
    waiting: HashMap<u64, Then<()>>,
    number: u64,
    ended: Receiver<()>,
}

/// The way back into the loop.
#[derive(Clone)]
struct Back {
    done: Sender<u64>,
    waker: Arc<Waker>,
}

impl Back {
    fn tell(&self, number: u64) {
        // Without the loop there is nobody to tell.
        let _ = self.done.send(number);
        let _ = self.waker.wake();
    }
}

/// How many threads there are.
const THREADS: usize = 4;

impl Store {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn start(definitions: Definitions, lines: Lines, waker: Waker) -> io::Result<Store> {
        let (done, finished) = channel();
        let (ending, ended) = channel();
        Ok(Store {
            definitions: Worker::start("definitions", definitions, ending.clone())?,
            lines: Worker::start("journal", lines, ending.clone())?,
            lookout: Worker::start("lookout", (), ending.clone())?,
            descriptors: Worker::start("descriptors", (), ending)?,
            done: finished,
            back: Back { done, waker: Arc::new(waker) },
            waiting: HashMap::new(),
            number: 0,
            ended,
        })
    }

    /// Waits until the threads have done what they have been given, but not for ever: a disk may be stuck.
    pub fn finish(self) {
        let Store { definitions, lines, lookout, descriptors, ended, .. } = self;
        drop((definitions, lines, lookout, descriptors));
        let until = Instant::now() + LEAVING;
        for _ in 0..THREADS {
            match ended.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => return tracing::error!("a disk does not answer; control leaves"),
            }
        }
    }

    /// Whether something is under way.
    #[cfg(test)]
    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Waits until the threads have done what they have been given.
    #[cfg(test)]
    pub fn drain(&self) {
        let (done, finished) = channel();
        let tell = || {
            let done = done.clone();
            move || drop(done)
        };
        let (a, b, c, d) = (tell(), tell(), tell(), tell());
        let _ = self.definitions.jobs.send(Box::new(move |_| a()));
        let _ = self.lines.jobs.send(Box::new(move |_| b()));
        let _ = self.lookout.jobs.send(Box::new(move |()| c()));
        let _ = self.descriptors.jobs.send(Box::new(move |()| d()));
        drop(done);
        let _: Result<(), _> = finished.recv();
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

/// Which thread something is given to.
pub type Place<S> = fn(&Store) -> &Worker<S>;

/// The thread that has the definitions.
pub fn of_definitions(store: &Store) -> &Worker<Definitions> {
    &store.definitions
}

/// The thread that writes the journal.
pub fn of_lines(store: &Store) -> &Worker<Lines> {
    &store.lines
}

/// The thread that looks at emulators.
pub fn of_lookout(store: &Store) -> &Worker<()> {
    &store.lookout
}

/// The thread that looks at descriptors.
pub fn of_descriptors(store: &Store) -> &Worker<()> {
    &store.descriptors
}

/// A call that is answered once: with what comes of it, or by its deadline.
#[derive(Clone)]
pub struct Due {
    asked: Rc<Cell<Option<Asked>>>,
    timer: (Instant, u64),
}

impl Control {
    /// Gives work to a thread, and does `then` in the loop with what comes of it, however long that takes.
    pub(super) fn hand<S: Send + 'static, T: Send + 'static>(
        &mut self,
        place: Place<S>,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
        then: impl FnOnce(&mut Control, T) + 'static,
    ) {
        let number = self.store.next_number();
        let (result, taken) = channel();
        let back = self.store.back.clone();
        let job = move |state: &mut S| {
            let _ = result.send(work(state));
            back.tell(number);
        };
        let then = move |control: &mut Control, ()| {
            if let Ok(value) = taken.try_recv() {
                then(control, value);
            }
        };
        self.store.waiting.insert(number, in_the_same_name(Box::new(then)));
        if place(&self.store).jobs.send(Box::new(job)).is_err() {
            // A thread ends only with the process.
            tracing::error!("a thread of the store is gone");
        }
    }

    /// The same, but `then` is done with none when it takes longer than this; what comes of it later is dropped.
    pub(super) fn hand_within<S: Send + 'static, T: Send + 'static>(
        &mut self,
        place: Place<S>,
        patience: Duration,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
        then: impl FnOnce(&mut Control, Option<T>) + 'static,
    ) {
        let then = Rc::new(Cell::new(Some(then)));
        let late = Rc::clone(&then);
        let give_up = move |control: &mut Control, ()| {
            if let Some(then) = late.take() {
                then(control, None);
            }
        };
        let timer = self.after(patience, Box::new(give_up));
        self.hand(place, work, move |control, value| {
            control.cancel(timer);
            if let Some(then) = then.take() {
                then(control, Some(value));
            }
        });
    }

    /// Does what waits for work that is done.
    pub(super) fn hear_store(&mut self) {
        while let Ok(number) = self.store.done.try_recv() {
            if let Some(then) = self.store.waiting.remove(&number) {
                then(self, ());
            }
        }
    }

    /// A call that is answered with `late` unless something else comes first.
    pub(super) fn due(&mut self, asked: Asked, patience: Duration, late: Error) -> Due {
        let asked = Rc::new(Cell::new(Some(asked)));
        let again = Rc::clone(&asked);
        let give_up = move |control: &mut Control, ()| {
            if let Some(asked) = again.take() {
                control.answer(&asked, Err(late));
            }
        };
        Due { asked, timer: self.after(patience, Box::new(give_up)) }
    }

    /// Answers such a call, if it is not answered yet.
    pub(super) fn answer_due(&mut self, due: &Due, result: Result<Reply, Error>) {
        self.cancel(due.timer);
        if let Some(asked) = due.asked.take() {
            self.answer(&asked, result.map(|reply| (reply, Vec::new())));
        }
    }

    /// The call itself, if its deadline has not come: from now on something else sees to it that it is answered.
    pub(super) fn in_time(&mut self, due: &Due) -> Option<Asked> {
        self.cancel(due.timer);
        due.asked.take()
    }

    /// A call about the definitions' files, which ends by a deadline. `then` is done whenever the work is.
    pub(super) fn on_definitions<T: Send + 'static>(
        &mut self,
        cx: &Asked,
        (doing, name): (&'static str, &str),
        work: impl FnOnce(&mut Definitions) -> T + Send + 'static,
        then: impl FnOnce(&mut Control, T) -> Result<Reply, Error> + 'static,
    ) {
        let due = self.due(cx.later(), PATIENCE, errors::disk_silent(doing, name, PATIENCE));
        self.hand(of_definitions, work, move |control, value| {
            let result = then(control, value);
            control.answer_due(&due, result);
        });
    }
}
