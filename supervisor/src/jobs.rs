//! A supervisor's jobs: a small table that outlives every control.
//!
//! It keeps the running jobs and the newest ended ones, at most [`MAX_JOBS`] together. It has no clock of its own.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::protocol::{Failure, Job, JobKind, JobState, MAX_JOBS};

/// The most jobs that run at once, so that there is room for ended ones.
const RUNNING_MAX: usize = MAX_JOBS / 2;

#[derive(Debug)]
struct Entry {
    id: u64,
    kind: JobKind,
    state: JobState,
    began: Instant,
    /// When it last made progress, or ended.
    moved: Instant,
    done: u64,
    total: u64,
    cancellable: bool,
    stall_ms: u32,
    text: String,
}

/// The jobs of one guest. See the module's page.
#[derive(Debug, Default)]
pub struct JobTable {
    jobs: VecDeque<Entry>,
}

impl JobTable {
    /// Adds a job that is under way and can be cancelled.
    ///
    /// # Errors
    /// When its number is 0 or taken, or too many jobs run.
    pub fn begin(&mut self, id: u64, kind: JobKind, total: u64, stall_ms: u32, now: Instant) -> Result<(), Failure> {
        if id == 0 {
            return Err(Failure::BadRequest("a job's number is not 0".to_owned()));
        }
        if self.jobs.iter().any(|job| job.id == id) {
            return Err(Failure::JobExists(id));
        }
        let running = self.jobs.iter().filter(|job| job.state == JobState::RUNNING).count();
        if running >= RUNNING_MAX {
            return Err(Failure::Busy(u32::try_from(running).unwrap_or(u32::MAX)));
        }
        if self.jobs.len() >= MAX_JOBS
            && let Some(oldest) = self.jobs.iter().position(|job| job.state != JobState::RUNNING)
        {
            self.jobs.remove(oldest);
        }
        let (state, text) = (JobState::RUNNING, String::new());
        let entry =
            Entry { id, kind, state, began: now, moved: now, done: 0, total, cancellable: true, stall_ms, text };
        self.jobs.push_back(entry);
        Ok(())
    }

    /// Notes progress; the job can be cancelled afterwards if it says so.
    pub fn progress(&mut self, id: u64, done: u64, cancellable: bool, now: Instant) {
        if let Some(job) = self.running(id) {
            (job.done, job.cancellable, job.moved) = (done, cancellable, now);
        }
    }

    /// Ends a job that runs. A job ends once.
    pub fn end(&mut self, id: u64, state: JobState, text: String, now: Instant) {
        if let Some(job) = self.running(id) {
            (job.state, job.text, job.cancellable, job.moved) = (state, text, false, now);
            if state == JobState::DONE {
                job.done = job.total;
            }
        }
    }

    /// The kind of a job that can be cancelled now.
    ///
    /// # Errors
    /// When there is no such job, or it can't be.
    pub fn cancellable(&self, id: u64) -> Result<JobKind, Failure> {
        let job = self.jobs.iter().find(|job| job.id == id).ok_or(Failure::NoSuchJob(id))?;
        if job.cancellable { Ok(job.kind) } else { Err(Failure::NotCancellable(id)) }
    }

    /// When the next job has been without progress for too long.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.jobs.iter().filter_map(Entry::deadline).min()
    }

    /// The jobs that have been without progress for too long.
    #[must_use]
    pub fn stalled(&self, now: Instant) -> Vec<u64> {
        self.jobs.iter().filter(|job| job.deadline().is_some_and(|at| at <= now)).map(|job| job.id).collect()
    }

    /// All of them, the oldest first.
    #[must_use]
    pub fn list(&self, now: Instant) -> Vec<Job> {
        self.jobs.iter().map(|job| job.at(now)).collect()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: u64, now: Instant) -> Option<Job> {
        self.jobs.iter().find(|job| job.id == id).map(|job| job.at(now))
    }

    fn running(&mut self, id: u64) -> Option<&mut Entry> {
        self.jobs.iter_mut().find(|job| job.id == id && job.state == JobState::RUNNING)
    }
}

impl Entry {
    fn deadline(&self) -> Option<Instant> {
        let stalls = self.stall_ms > 0 && self.state == JobState::RUNNING;
        stalls.then(|| self.moved + Duration::from_millis(u64::from(self.stall_ms)))
    }

    fn at(&self, now: Instant) -> Job {
        let since = |at| u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
        Job {
            id: self.id,
            kind: self.kind,
            state: self.state,
            age_ms: since(self.began),
            quiet_ms: since(self.moved),
            done: self.done,
            total: self.total,
            cancellable: self.cancellable,
            stall_ms: self.stall_ms,
            text: self.text.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_puts_the_deadline_off_and_an_ended_job_has_none() {
        let (mut table, start) = (JobTable::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        table.begin(7, JobKind::SHUTDOWN, 2, 100, start).unwrap();
        assert_eq!(table.next_deadline(), Some(after(100)));
        table.progress(7, 1, false, after(90));
        assert!(table.stalled(after(100)).is_empty());
        assert_eq!(table.stalled(after(190)), [7]);
        assert_eq!(table.cancellable(7), Err(Failure::NotCancellable(7)));
        table.end(7, JobState::STALLED, "why".into(), after(190));
        table.end(7, JobState::DONE, String::new(), after(191));
        assert_eq!(table.next_deadline(), None);
        let job = table.get(7, after(200)).unwrap();
        assert_eq!((job.state, job.age_ms, job.quiet_ms, job.text.as_str()), (JobState::STALLED, 200, 10, "why"));
    }

    #[test]
    fn numbers_are_used_once_and_the_table_is_bounded() {
        let (mut table, now) = (JobTable::default(), Instant::now());
        assert!(matches!(table.begin(0, JobKind::BOOT, 1, 0, now), Err(Failure::BadRequest(_))));
        for id in 1..=100 {
            table.begin(id, JobKind::BOOT, 1, 0, now).unwrap();
            assert_eq!(table.begin(id, JobKind::BOOT, 1, 0, now), Err(Failure::JobExists(id)));
            table.end(id, JobState::DONE, String::new(), now);
        }
        let ids: Vec<u64> = table.list(now).iter().map(|job| job.id).collect();
        assert_eq!(ids, (85..=100).collect::<Vec<_>>());
        for id in 200..208 {
            table.begin(id, JobKind::BOOT, 1, 0, now).unwrap();
        }
        assert_eq!(table.begin(208, JobKind::BOOT, 1, 0, now), Err(Failure::Busy(8)));
        assert_eq!(table.cancellable(1), Err(Failure::NoSuchJob(1)));
    }
}
