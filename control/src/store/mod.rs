//! Everything of control that may wait for a disk: definitions, the journal's file, the cache of emulators' abilities, the
//! files that clients hand over.
//!
//! Control's loop waits for nothing: definitions and journal have a thread each, which does one job after another, and files
//! that may be anywhere have a thread for each look, as many as its user's budget allows ([`looks`]). All answer through the
//! loop's waker. A disk that does not answer delays only the calls that need it, and each of those ends by a deadline. The
//! threads speak with no client and touch no state of the loop; Landlock and seccomp hold them as they hold the loop.

pub mod definitions;
pub mod journal;
mod lines;
mod looks;
mod turn;

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
pub use turn::Turn;

use super::{Control, Then, driver::Asked, errors};
use definitions::Definitions;
use ipc::budget::{Charge, Resource, UserBudget};
use looks::{Looks, Told};

/// How long a call waits for a disk.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Jobs for the disk up to which a user that has none gets one.
const FIRST_JOBS: usize = 8192;
/// How long a control that leaves waits for its threads to write.
const LEAVING: Duration = Duration::from_secs(5);
/// A document of the deepest nesting fits several times.
const STACK: usize = 1 << 20;

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread and what it works on. It ends when this is dropped and its work is done.
pub struct Worker<S> {
    jobs: Sender<Job<S>>,
    /// How much it has been given.
    added: Cell<u64>,
}

impl<S: Send + 'static> Worker<S> {
    fn start(name: &str, mut state: S, ended: Sender<()>) -> io::Result<Worker<S>> {
        let (jobs, queue) = channel::<Job<S>>();
        let work = move || {
            let _guard = EndsWithThread;
            for job in queue {
                job(&mut state);
            }
            // It is received only when control leaves.
            let _ = ended.send(());
        };
        thread::Builder::new().name(name.into()).stack_size(STACK).spawn(work)?;
        Ok(Worker { jobs, added: Cell::new(0) })
    }

    fn add(&self, job: Job<S>) {
        self.added.set(self.added.get() + 1);
        if self.jobs.send(job).is_err() {
            // A thread ends only with the process.
            tracing::error!("a thread of the store is gone");
        }
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

/// The threads, and the continuations that wait for them.
pub struct Store {
    definitions: Worker<Definitions>,
    lines: Worker<Lines>,
    looks: Looks,
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
        // Fails only when the loop is gone.
        let _ = self.done.send(number);
        let _ = self.waker.wake();
    }
}

/// How many threads have something to write when control leaves.
const WRITERS: usize = 2;

impl Store {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn start(definitions: Definitions, lines: Lines, waker: Waker, own: UserBudget) -> io::Result<Store> {
        let (done, finished) = channel();
        let (ending, ended) = channel();
        Ok(Store {
            definitions: Worker::start("definitions", definitions, ending.clone())?,
            lines: Worker::start("journal", lines, ending)?,
            looks: Looks::start(own)?,
            done: finished,
            back: Back { done, waker: Arc::new(waker) },
            waiting: HashMap::new(),
            number: 0,
            ended,
        })
    }

    /// Waits until the threads have done their work, but no longer than this: a disk may be stuck.
    fn finish(self, until: Instant) {
        let Store { definitions, lines, ended, .. } = self;
        drop((definitions, lines));
        for _ in 0..WRITERS {
            match ended.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => return tracing::error!("a disk does not answer; control leaves"),
            }
        }
    }

    /// How much is under way.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether something is under way.
    #[cfg(test)]
    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Waits until what has been given to the threads is written.
    #[cfg(test)]
    pub fn drain(&self) {
        let (done, finished) = channel();
        let tell = || {
            let done = done.clone();
            move || drop(done)
        };
        let (a, b) = (tell(), tell());
        self.definitions.add(Box::new(move |_| a()));
        self.lines.add(Box::new(move |_| b()));
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

/// A call that is answered once: with its result, or by its deadline.
#[derive(Clone)]
pub struct Due {
    asked: Rc<Cell<Option<Asked>>>,
    timer: (Instant, u64),
}

impl Control {
    /// Gives work to a thread, and does `then` in the loop with the result, however long that takes.
    pub(super) fn hand<S: Send + 'static, T: Send + 'static>(
        &mut self,
        place: Place<S>,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
        then: impl FnOnce(&mut Control, T) + 'static,
    ) {
        let done = self.when_done(then);
        place(&self.store).add(Box::new(move |state| done(work(state))));
    }

    /// Does `then` in the loop with what a thread gives to the function that this returns.
    fn when_done<T: Send + 'static>(
        &mut self,
        then: impl FnOnce(&mut Control, T) + 'static,
    ) -> impl FnOnce(T) + Send + 'static {
        let number = self.store.next_number();
        self.when_numbered(number, then)
    }

    fn when_numbered<T: Send + 'static>(
        &mut self,
        number: u64,
        then: impl FnOnce(&mut Control, T) + 'static,
    ) -> impl FnOnce(T) + Send + 'static {
        let (result, taken) = channel();
        let back = self.store.back.clone();
        let then = move |control: &mut Control, ()| {
            if let Ok(value) = taken.try_recv() {
                then(control, value);
            }
        };
        let then = self.in_the_same_name(Box::new(then));
        self.store.waiting.insert(number, then);
        move |value| {
            let _ = result.send(value);
            back.tell(number);
        }
    }

    /// The same, but `then` gets none when it takes longer than `patience`; a later result is dropped.
    pub(super) fn hand_within<S: Send + 'static, T: Send + 'static>(
        &mut self,
        place: Place<S>,
        patience: Duration,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
        then: impl FnOnce(&mut Control, Option<T>) + 'static,
    ) {
        let then = self.within(patience, then);
        self.hand(place, work, then);
    }

    /// Looks at files that may be anywhere, for so long.
    pub(super) fn look_within<T: Send + 'static>(
        &mut self,
        patience: Duration,
        look: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Control, Option<T>) + 'static,
    ) {
        let number = self.store.next_number();
        let then = self.within(patience, move |control, looked: Option<T>| {
            if looked.is_none() && control.store.looks.forget(number) {
                control.store.waiting.remove(&number);
            }
            then(control, looked);
        });
        let done = self.when_numbered(number, then);
        let look = move || {
            let found = look();
            Box::new(move || done(found)) as Told
        };
        self.store.looks.add(number, self.acting_for.clone(), Box::new(look));
    }

    /// Does `then` with what the function that this returns is given, or with none when that comes too late.
    fn within<T: 'static>(
        &mut self,
        patience: Duration,
        then: impl FnOnce(&mut Control, Option<T>) + 'static,
    ) -> impl FnOnce(&mut Control, T) + 'static {
        let then = Rc::new(Cell::new(Some(then)));
        let late = Rc::clone(&then);
        let give_up = move |control: &mut Control, ()| {
            if let Some(then) = late.take() {
                then(control, None);
            }
        };
        let timer = self.after(patience, Box::new(give_up));
        move |control, value| {
            control.cancel(timer);
            if let Some(then) = then.take() {
                then(control, Some(value));
            }
        }
    }

    /// Runs the continuations of work that is done.
    pub(super) fn hear_store(&mut self) {
        while let Ok(number) = self.store.done.try_recv() {
            self.work_done(number);
        }
        self.store.looks.go_on();
    }

    fn work_done(&mut self, number: u64) {
        if let Some(then) = self.store.waiting.remove(&number) {
            then(self, ());
        }
    }

    /// The store's part of leaving: what has been begun comes to its end, unless a disk is stuck.
    pub(super) fn leave(mut self) {
        let until = Instant::now() + LEAVING;
        self.finish_changes(until);
        self.store.finish(until);
    }

    /// Takes no more calls, and waits until nothing is left of those that the threads work for. A definition that is being
    /// changed gets its event: control's note of the change ends with the launcher, so the next control would not report it.
    pub(super) fn finish_changes(&mut self, until: Instant) {
        self.server.pause_listening();
        self.finish_thread(of_definitions, until);
        // Behind the lines that this has brought.
        self.finish_thread(of_lines, until);
        self.server.flush(self.now());
    }

    /// Runs the continuations of a thread's work until it has none left, also none that a continuation has given it.
    fn finish_thread<S: Send + 'static>(&mut self, place: Place<S>, until: Instant) {
        loop {
            let last = Rc::new(Cell::new(false));
            let reached = Rc::clone(&last);
            self.hand(place, |_| (), move |_, ()| reached.set(true));
            let added = place(&self.store).added.get();
            while !last.get() {
                match self.store.done.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(number) => self.work_done(number),
                    Err(_) => return,
                }
            }
            if place(&self.store).added.get() == added {
                return;
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

    /// A place among its user's jobs for the definitions' thread, for a call that is about to have work for it. A disk that
    /// hangs keeps the place when the call has long been answered: so nobody piles up jobs there, and a user that has none
    /// left still has every call that needs no disk. Who holds none always gets one, whatever the others hold.
    ///
    /// # Errors
    /// When the user has places and gets no more.
    pub(super) fn disk_job(&mut self, doing: &'static str, name: &str) -> Result<DiskJob, Error> {
        let budget = self.acting_for.clone().unwrap_or_else(|| self.server.own_budget());
        let place = budget.take_first(Resource::Disk, FIRST_JOBS);
        let place = place.map_err(|over| errors::disk_behind(doing, name, over))?;
        Ok(DiskJob { doing, name: name.to_owned(), place })
    }

    /// A call that changes a definition, and the event of that: when control is killed between the two, the next one reports
    /// that an event may be lost.
    pub(super) fn change_with_event<T: Send + 'static>(
        &mut self,
        cx: &Asked,
        job: DiskJob,
        work: impl FnOnce(&mut Definitions) -> T + Send + 'static,
        then: impl FnOnce(&mut Control, T) -> Result<Reply, Error> + 'static,
    ) {
        self.note.begin_change();
        self.on_definitions(cx, job, work, |control, value| {
            let result = then(control, value);
            // Behind the event's line, if there is one.
            control.hand(of_lines, |_| (), |control, ()| control.note.end_change());
            result
        });
    }

    /// A call about the definitions' files, which ends by a deadline. `then` is done whenever the work is.
    pub(super) fn on_definitions<T: Send + 'static>(
        &mut self,
        cx: &Asked,
        job: DiskJob,
        work: impl FnOnce(&mut Definitions) -> T + Send + 'static,
        then: impl FnOnce(&mut Control, T) -> Result<Reply, Error> + 'static,
    ) {
        let due = self.due(cx.later(), PATIENCE, errors::disk_silent(job.doing, &job.name, PATIENCE));
        self.hand(of_definitions, job.counting(work), move |control, value| {
            let result = then(control, value);
            control.answer_due(&due, result);
        });
    }
}

/// See [`Control::disk_job`].
pub struct DiskJob {
    doing: &'static str,
    name: String,
    place: Charge,
}

impl DiskJob {
    /// The same work, which keeps the place until it is done.
    pub fn counting<T>(
        self,
        work: impl FnOnce(&mut Definitions) -> T + Send + 'static,
    ) -> impl FnOnce(&mut Definitions) -> T + Send + 'static {
        let place = self.place;
        move |definitions| {
            let done = work(definitions);
            drop(place);
            done
        }
    }
}
