//! What is done to a guest, one thing at a time.

use std::{collections::VecDeque, time::Instant};

use super::{
    Control, Then,
    link::{GRACE, GuestError},
};

/// Jobs that may wait for one guest.
pub const MAX_JOBS: usize = 64;

/// The jobs of one run.
#[derive(Default)]
pub struct JobQueue {
    waiting: VecDeque<Job>,
    running: bool,
}

/// Something to be done when nothing else is being done to the guest.
struct Job {
    start: Then<()>,
    refuse: Then<GuestError>,
    timer: (Instant, u64),
}

impl JobQueue {
    /// Whether a job is under way or waits.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.running
    }
}

impl Control {
    /// Does a job on a run as soon as no other is under way. The job calls [`Control::job_done`] when it is over.
    /// A job that has not begun by its deadline is refused instead: it never waits one deadline after the other of those
    /// before it.
    pub(super) fn run_job(&mut self, id: u32, start: Then<()>, refuse: Then<GuestError>) {
        let wait = self.config.guest_deadline + GRACE;
        match self.guests.get(&id).map(|guest| guest.jobs.waiting.len()) {
            None => return refuse(self, GuestError::Ending),
            Some(MAX_JOBS..) => return refuse(self, GuestError::Busy),
            Some(_) => {}
        }
        let number = self.timer_count + 1;
        let late = move |control: &mut Control, ()| {
            let jobs = control.guests.get_mut(&id).map(|guest| &mut guest.jobs.waiting);
            let job = jobs.and_then(|jobs| jobs.remove(jobs.iter().position(|job| job.timer.1 == number)?));
            if let Some(job) = job {
                (job.refuse)(control, GuestError::Waited(wait));
            }
        };
        let timer = self.after(wait, Box::new(late));
        if let Some(guest) = self.guests.get_mut(&id) {
            guest.jobs.waiting.push_back(Job { start, refuse, timer });
        }
        self.next_job(id);
    }

    /// The job under way on a run is over.
    pub(super) fn job_done(&mut self, id: u32) {
        if let Some(guest) = self.guests.get_mut(&id) {
            guest.jobs.running = false;
            self.next_job(id);
        }
    }

    fn next_job(&mut self, id: u32) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        if guest.jobs.running {
            return;
        }
        if let Some(job) = guest.jobs.waiting.pop_front() {
            guest.jobs.running = true;
            self.cancel(job.timer);
            (job.start)(self, ());
        }
    }

    /// The run is ending: no job that waits is begun any more.
    pub(super) fn refuse_jobs(&mut self, id: u32) {
        let Some(mut queue) = self.guests.get_mut(&id).map(|guest| std::mem::take(&mut guest.jobs.waiting)) else {
            return;
        };
        self.answer_each(&mut queue);
    }

    /// The run has ended with jobs waiting.
    pub(super) fn answer_jobs(&mut self, jobs: &mut JobQueue) {
        self.answer_each(&mut jobs.waiting);
    }

    fn answer_each(&mut self, waiting: &mut VecDeque<Job>) {
        for job in waiting.drain(..) {
            self.cancel(job.timer);
            (job.refuse)(self, GuestError::Ending);
        }
    }
}
