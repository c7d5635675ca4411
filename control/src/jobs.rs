//! What is done to a guest: short operations one after the other, and what takes long. The table of the registry says what
//! may begin; here it is begun, and the supervisor keeps a mirror of what takes long, so that it outlives control.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    rc::Rc,
    time::{Duration, Instant},
};

use api::{Answer, Error, Outcome as Answered, Reply, remote};
use registry::jobs::{
    Admission, Info, JobId, JobKind, JobRefusal, JobTable, Outcome, Overdue, Progress, ShortKind, Wanted,
};
use supervisor::protocol::{self, Answer as Said, Begin, Failure, JobState, Payload, Request, qemu::ShutdownSpec};

use super::{
    Control, Then,
    driver::Asked,
    errors,
    link::{GRACE, GuestError, SupervisorReply},
};

/// The number of the job that starts a guest: the first of its table.
pub const START: JobId = JobId(1);

/// The jobs of one run.
#[derive(Default)]
pub struct Jobs {
    table: JobTable,
    /// What begins or refuses each that waits.
    waiting: HashMap<JobId, Waiting>,
    /// The short one under way.
    short: Option<JobId>,
    /// Those that only the supervisor knows of, as it said last: an earlier control began them.
    adopted: HashSet<JobId>,
    /// Every job is known: this control began the run, or its supervisor has listed them.
    known: bool,
    timer: Option<(Instant, u64)>,
}

struct Waiting {
    start: Then<()>,
    refuse: Then<GuestError>,
}

impl Jobs {
    /// Whether a job is under way or waits.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.table.is_busy()
    }

    /// What is under way and waits.
    #[cfg(test)]
    pub fn table(&self) -> &JobTable {
        &self.table
    }
}

impl Control {
    /// Time as the tables of jobs have it.
    fn job_time(&self) -> Duration {
        self.now().saturating_duration_since(self.began)
    }

    /// Asks a guest to do something that one operation at a time may do.
    pub(super) fn job(
        &mut self,
        cx: &Asked,
        dom: &remote::Domain,
        doing: &'static str,
        request: Request,
        reply: fn(()) -> Reply,
    ) -> Answer<()> {
        let id = self.running(dom)?;
        self.guest_job(cx, id, doing, request, reply, |_| {});
        Ok(Answered::Pending)
    }

    /// The same with a run, and with something to be done here when it has worked.
    pub(super) fn guest_job(
        &mut self,
        cx: &Asked,
        id: u32,
        doing: &'static str,
        request: Request,
        reply: fn(()) -> Reply,
        done: impl FnOnce(&mut Control) + 'static,
    ) {
        let asked = cx.later();
        let then = move |control: &mut Control, result: Result<(), Error>| {
            let result = result.map(|()| done(control));
            control.answer(&asked, result.map(|()| (reply(()), Vec::new())));
        };
        self.guest_job_then(id, doing, request, then);
    }

    /// The same, but `then` gets the outcome instead of the client.
    pub(super) fn guest_job_then(
        &mut self,
        id: u32,
        doing: &'static str,
        request: Request,
        then: impl FnOnce(&mut Control, Result<(), Error>) + 'static,
    ) {
        let name = self.guests.get(&id).map(|guest| guest.name.clone()).unwrap_or_default();
        let then = Rc::new(Cell::new(Some(then)));
        let end = move |control: &mut Control, result: Result<(), GuestError>| {
            if let Some(then) = then.take() {
                then(control, result.map_err(|error| errors::guest(doing, &name, &error)));
            }
        };
        let refuse = end.clone();
        let kind = match request {
            Request::Suspend | Request::Resume => ShortKind::Suspend,
            _ => ShortKind::Modify,
        };
        let job = move |control: &mut Control, ()| {
            let then = move |control: &mut Control, said: SupervisorReply| {
                end(control, said.map(drop));
                control.job_done(id);
            };
            control.ask_guest(id, &request, Vec::new(), Box::new(then));
        };
        self.run_job(id, kind, Box::new(job), Box::new(move |control, error| refuse(control, Err(error))));
    }

    /// Does a short job on a run as soon as no other is under way. The job calls [`Control::job_done`] when it is over.
    /// A job that has not begun by its deadline is refused instead: it never waits one deadline after the other of those
    /// before it.
    fn run_job(&mut self, id: u32, kind: ShortKind, start: Then<()>, refuse: Then<GuestError>) {
        let (now, wait) = (self.job_time(), self.config.guest_deadline + GRACE);
        let Some(guest) = self.guests.get_mut(&id) else { return refuse(self, GuestError::Ending) };
        let wanted = Wanted { begins_within: Some(wait), ..Wanted::new(JobKind::Short(kind)) };
        match guest.jobs.table.begin(wanted, now) {
            Ok(Admission::Begun(job)) => {
                guest.jobs.short = Some(job);
                start(self, ());
            }
            Ok(Admission::Queued(job)) => {
                guest.jobs.waiting.insert(job, Waiting { start, refuse });
                self.watch_jobs(id);
            }
            Err(JobRefusal::Full) => refuse(self, GuestError::Busy),
            Err(_) => refuse(self, GuestError::Ending),
        }
    }

    /// The short job under way on a run is over.
    fn job_done(&mut self, id: u32) {
        let job = self.guests.get_mut(&id).and_then(|guest| guest.jobs.short.take());
        if let Some(job) = job {
            self.finish_job(id, job, Outcome::Done);
        }
    }

    /// A job is over; those begin that waited for it.
    fn finish_job(&mut self, id: u32, job: JobId, outcome: Outcome) {
        let now = self.job_time();
        let Some(guest) = self.guests.get_mut(&id) else { return };
        // A job that was over already has nobody waiting for it.
        let begun = guest.jobs.table.finish(job, outcome, now).unwrap_or_default();
        self.begin_jobs(id, begun);
    }

    fn begin_jobs(&mut self, id: u32, begun: Vec<JobId>) {
        for job in begun {
            let Some(guest) = self.guests.get_mut(&id) else { return };
            if let Some(waiting) = guest.jobs.waiting.remove(&job) {
                guest.jobs.short = Some(job);
                (waiting.start)(self, ());
            }
        }
        self.watch_jobs(id);
    }

    /// Sets the timer for what runs out of time first.
    fn watch_jobs(&mut self, id: u32) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let (old, deadline) = (guest.jobs.timer.take(), guest.jobs.table.next_deadline());
        if let Some(old) = old {
            self.cancel(old);
        }
        let Some(deadline) = deadline else { return };
        let wait = deadline.saturating_sub(self.job_time());
        let timer = self.after(wait, Box::new(move |control, ()| control.jobs_overdue(id)));
        if let Some(guest) = self.guests.get_mut(&id) {
            guest.jobs.timer = Some(timer);
        }
    }

    fn jobs_overdue(&mut self, id: u32) {
        let (now, wait) = (self.job_time(), self.config.guest_deadline + GRACE);
        let Some(guest) = self.guests.get_mut(&id) else { return };
        guest.jobs.timer = None;
        let (late, begun) = guest.jobs.table.overdue(now);
        for overdue in late {
            match overdue {
                Overdue::Waited(job) => {
                    let waiting = self.guests.get_mut(&id).and_then(|guest| guest.jobs.waiting.remove(&job));
                    if let Some(waiting) = waiting {
                        (waiting.refuse)(self, GuestError::Waited(wait));
                    }
                }
                Overdue::Stalled(START) => self.boot_is_late(id),
                // The supervisor ends its own jobs by the same deadline and says so.
                Overdue::Stalled(_) => {}
            }
        }
        self.begin_jobs(id, begun);
    }

    /// The run is ending: no job that waits is begun any more.
    pub(super) fn refuse_jobs(&mut self, id: u32) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let waiting: Vec<_> = std::mem::take(&mut guest.jobs.waiting).into_iter().collect();
        let now = self.job_time();
        for (job, waiting) in waiting {
            if let Some(guest) = self.guests.get_mut(&id) {
                // Out of the table, so that nothing begins it.
                let _ = guest.jobs.table.withdraw(job, now);
            }
            (waiting.refuse)(self, GuestError::Ending);
        }
    }

    /// The run has ended: what is left of its jobs is answered.
    pub(super) fn answer_jobs(&mut self, jobs: &mut Jobs) {
        if let Some(timer) = jobs.timer.take() {
            self.cancel(timer);
        }
        for (_, waiting) in std::mem::take(&mut jobs.waiting) {
            (waiting.refuse)(self, GuestError::Ending);
        }
    }

    // What takes long.

    /// The run of a start is made: the start is its first job, until the guest is up.
    pub(super) fn begin_start_job(&mut self, id: u32, stalls_after: Duration) {
        let now = self.job_time();
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let wanted = Wanted { cancellable: true, stalls_after: Some(stalls_after), ..Wanted::new(JobKind::Start) };
        let begun = guest.jobs.table.begin(wanted, now);
        guest.jobs.known = true;
        debug_assert_eq!(begun, Ok(Admission::Begun(START)));
        self.watch_jobs(id);
    }

    /// The guest is up.
    pub(super) fn end_start_job(&mut self, id: u32) {
        self.finish_job(id, START, Outcome::Done);
    }

    /// Presses the power button. The guest takes its time; that is a job, which can be listed and cancelled.
    pub(super) fn press_power(
        &mut self,
        cx: &Asked,
        dom: &remote::Domain,
        reboot: bool,
        reply: fn(()) -> Reply,
    ) -> Answer<()> {
        let (doing, kind, old) = match reboot {
            true => ("reboot", JobKind::Reboot, Request::Reboot),
            false => ("shut down", JobKind::Shutdown, Request::Shutdown),
        };
        let id = self.running(dom)?;
        if !self.links.speaks(id, protocol::PAYLOADS_SINCE) {
            return self.job(cx, dom, doing, old, reply);
        }
        let now = self.job_time();
        let spec = Payload::new(&ShutdownSpec { reboot }).map_err(|error| errors::wrong_state(qemud::chain(&error)))?;
        let Some(guest) = self.guests.get_mut(&id) else { return Err(errors::wrong_state("domain is not running")) };
        let wanted = Wanted { cancellable: true, ..Wanted::new(kind) };
        let job = match guest.jobs.table.begin(wanted, now) {
            Ok(Admission::Begun(job)) => job,
            Ok(Admission::Queued(job)) => {
                // Only behind a start or a job that allows no change: the client tries again.
                let _ = guest.jobs.table.withdraw(job, now);
                return Err(errors::guest(doing, &dom.name, &GuestError::Busy));
            }
            Err(refusal) => return Err(errors::job(refusal)),
        };
        let (asked, again, dom) = (cx.later(), cx.later(), dom.clone());
        let then = move |control: &mut Control, said: SupervisorReply| {
            // Somebody has pressed the button already. Pressed again, it is the same job's.
            if matches!(said, Err(GuestError::Failure(Failure::JobConflict(_)))) {
                control.finish_job(id, job, Outcome::Cancelled);
                return control.guest_job(&again, id, doing, old, reply, |_| {});
            }
            let result = said.map_err(|error| errors::guest(doing, &dom.name, &error));
            if let Err(error) = &result {
                control.finish_job(id, job, Outcome::Failed(error.message.clone()));
            }
            control.answer(&asked, result.map(|_| (reply(()), Vec::new())));
        };
        let begin = Request::Begin(Begin { id: job.0, stall_ms: 0, spec });
        self.ask_guest(id, &begin, Vec::new(), Box::new(then));
        Ok(Answered::Pending)
    }

    /// A supervisor reports a job of its guest.
    pub(super) fn take_job(&mut self, id: u32, job: &protocol::Job) {
        let _within = tracing::debug_span!("job", run = id, job = job.id).entered();
        let number = JobId(job.id);
        let progress = Progress { done: job.done, total: job.total, ..Progress::default() };
        match outcome(job) {
            None => {
                let now = self.job_time();
                if let Some(guest) = self.guests.get_mut(&id) {
                    // One that is not in the table was begun by an earlier control and is asked for.
                    let _ = guest.jobs.table.progress(number, progress, now);
                }
                self.watch_jobs(id);
            }
            // A start of this control's ends only when the guest is known to be up.
            Some(_) if number == START && self.guests.get(&id).is_some_and(|guest| guest.start.is_some()) => {}
            Some(outcome) => self.finish_job(id, number, outcome),
        }
    }

    /// Asks a supervisor for the jobs that an earlier control began.
    pub(super) fn ask_for_jobs(&mut self, id: u32) {
        if !self.links.speaks(id, protocol::PAYLOADS_SINCE) {
            // A supervisor of such a release has no jobs.
            return self.jobs_are_known(id);
        }
        let then = move |control: &mut Control, said: SupervisorReply| {
            if let Ok((Said::Jobs(jobs), _)) = said {
                control.forget_adopted(id, &jobs);
                jobs.iter().for_each(|job| control.adopt_job(id, job));
                control.jobs_are_known(id);
            }
        };
        self.ask_guest(id, &Request::Jobs, Vec::new(), Box::new(then));
    }

    fn jobs_are_known(&mut self, id: u32) {
        if let Some(guest) = self.guests.get_mut(&id) {
            guest.jobs.known = true;
        }
    }

    /// The jobs of a run, when all are known.
    fn jobs_of(&mut self, id: u32, doing: &str) -> Result<&mut JobTable, Error> {
        if let Some(guest) = self.guests.get(&id).filter(|guest| !guest.jobs.known) {
            return Err(self.unheard(guest, doing));
        }
        let guest = self.guests.get_mut(&id).ok_or_else(|| errors::wrong_state("domain is not running"))?;
        Ok(&mut guest.jobs.table)
    }

    /// Ends the adopted jobs that the supervisor no longer lists.
    fn forget_adopted(&mut self, id: u32, jobs: &[protocol::Job]) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let said: HashSet<JobId> = jobs.iter().map(|job| JobId(job.id)).collect();
        let gone: Vec<JobId> = guest.jobs.adopted.difference(&said).copied().collect();
        guest.jobs.adopted.clear();
        gone.into_iter().for_each(|job| self.finish_job(id, job, Outcome::Cancelled));
    }

    fn adopt_job(&mut self, id: u32, job: &protocol::Job) {
        // The next number of the table is one more.
        if job.id > protocol::MAX_SEQUENCE {
            return;
        }
        let _within = tracing::debug_span!("job", run = id, job = job.id).entered();
        let now = self.job_time();
        let kind = match job.kind {
            protocol::JobKind::BOOT => JobKind::Start,
            protocol::JobKind::REBOOT => JobKind::Reboot,
            _ => JobKind::Shutdown,
        };
        let wanted = Wanted { cancellable: job.cancellable, ..Wanted::new(kind) };
        let progress = Progress { done: job.done, total: job.total, ..Progress::default() };
        let (age, quiet) = (Duration::from_millis(job.age_ms), Duration::from_millis(job.quiet_ms));
        let Some(guest) = self.guests.get_mut(&id) else { return };
        if guest.jobs.table.get(JobId(job.id)).is_none_or(|known| known.kind() == kind) {
            guest.jobs.adopted.insert(JobId(job.id));
        }
        guest.jobs.table.adopt(JobId(job.id), wanted, progress, age, quiet, now);
        if let Some(outcome) = outcome(job) {
            self.finish_job(id, JobId(job.id), outcome);
        }
    }

    /// The job under way on a domain, or the last one that ended, in libvirt's terms.
    pub(super) fn job_of(&mut self, id: u32, completed: bool, keep: bool) -> Result<Info, Error> {
        let now = self.job_time();
        let table = self.jobs_of(id, "read the job of")?;
        Ok(if completed { table.completed(keep) } else { table.info(now) })
    }

    /// Ends the job under way on a domain.
    pub(super) fn abort(&mut self, cx: &Asked, id: u32, name: &str, reply: fn(()) -> Reply) -> Answer<()> {
        let doing = "abort the job of";
        let job = self.jobs_of(id, doing)?.request_cancel().map_err(errors::job)?;
        if job == START {
            self.end_run(id);
            return Ok(().into());
        }
        let (asked, name) = (cx.later(), name.to_owned());
        let then = move |control: &mut Control, said: SupervisorReply| {
            let result = said.map(|_| (reply(()), Vec::new())).map_err(|e| errors::guest(doing, &name, &e));
            control.answer(&asked, result);
        };
        self.ask_guest(id, &Request::JobCancel { id: job.0 }, Vec::new(), Box::new(then));
        Ok(Answered::Pending)
    }
}

/// How a supervisor's job ended; none while it is under way.
fn outcome(job: &protocol::Job) -> Option<Outcome> {
    match job.state {
        JobState::RUNNING => None,
        JobState::DONE => Some(Outcome::Done),
        JobState::CANCELLED => Some(Outcome::Cancelled),
        _ => Some(Outcome::Failed(job.text.clone())),
    }
}
