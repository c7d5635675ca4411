//! A job in libvirt's terms.

use std::time::Duration;

use api::{consts::JobType, params::Params, remote};

use super::{Job, Progress, Unit};

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It was cancelled.
    Cancelled,
    /// It failed, for this reason.
    Failed(String),
}

/// What libvirt's clients get to know of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// What there is: none, one under way, one that ended.
    pub job_type: JobType,
    /// libvirt's number of the operation.
    pub operation: i32,
    /// For how long it has been under way, or was.
    pub elapsed: Duration,
    /// How far it is, or came.
    pub progress: Progress,
    /// Why it failed.
    pub failure: Option<String>,
}

impl Info {
    pub(super) fn none() -> Info {
        Info {
            job_type: JobType::None,
            operation: 0,
            elapsed: Duration::ZERO,
            progress: Progress::default(),
            failure: None,
        }
    }

    pub(super) fn of(job: &Job, now: Duration) -> Info {
        let job_type = if job.progress.total > 0 { JobType::Bounded } else { JobType::Unbounded };
        let operation = job.kind().operation();
        Info { job_type, operation, elapsed: now.saturating_sub(job.since), progress: job.progress, failure: None }
    }

    pub(super) fn of_ended(job: &Job, outcome: Outcome, now: Duration) -> Info {
        let (job_type, failure) = match outcome {
            Outcome::Done => (JobType::Completed, None),
            Outcome::Cancelled => (JobType::Cancelled, None),
            Outcome::Failed(why) => (JobType::Failed, Some(why)),
        };
        Info { job_type, failure, ..Info::of(job, now) }
    }

    fn is_under_way(&self) -> bool {
        matches!(self.job_type, JobType::Bounded | JobType::Unbounded)
    }

    fn remaining(&self) -> u64 {
        self.progress.total.saturating_sub(self.progress.done)
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    /// If it goes on as it went so far. None while nothing is done of it, or of nobody knows how much.
    fn remaining_ms(&self) -> Option<u64> {
        let Progress { done, total, .. } = self.progress;
        if done == 0 || total == 0 || !self.is_under_way() {
            return None;
        }
        let ms = u128::from(self.elapsed_ms()) * u128::from(self.remaining()) / u128::from(done);
        Some(u64::try_from(ms).unwrap_or(u64::MAX))
    }

    /// As virDomainGetJobInfo has it.
    #[must_use]
    pub fn ret(&self) -> remote::DomainGetJobInfoRet {
        let Progress { done, total, unit } = self.progress;
        let remaining = self.remaining();
        let (mut mem, mut file) = ((0, 0, 0), (0, 0, 0));
        match unit {
            Unit::Memory => mem = (total, done, remaining),
            Unit::Disk => file = (total, done, remaining),
            Unit::Steps => {}
        }
        remote::DomainGetJobInfoRet {
            r#type: self.job_type.number(),
            time_elapsed: self.elapsed_ms(),
            time_remaining: self.remaining_ms().unwrap_or_default(),
            data_total: total,
            data_processed: done,
            data_remaining: remaining,
            mem_total: mem.0,
            mem_processed: mem.1,
            mem_remaining: mem.2,
            file_total: file.0,
            file_processed: file.1,
            file_remaining: file.2,
        }
    }

    /// As virDomainGetJobStats has it.
    #[must_use]
    pub fn stats(&self) -> remote::DomainGetJobStatsRet {
        let mut params = Params::new();
        if self.job_type != JobType::None {
            self.fill(&mut params);
        }
        remote::DomainGetJobStatsRet { r#type: self.job_type.number(), params: params.into_vec() }
    }

    fn fill(&self, params: &mut Params) {
        params.int("operation", self.operation);
        params.ullong("time_elapsed", self.elapsed_ms());
        if let Some(ms) = self.remaining_ms() {
            params.ullong("time_remaining", ms);
        }
        let Progress { done, total, unit } = self.progress;
        let groups: &[&str] = match unit {
            Unit::Steps => &["data"],
            Unit::Memory => &["data", "memory"],
            Unit::Disk => &["data", "disk"],
        };
        for group in groups {
            params.ullong(format!("{group}_total"), total);
            params.ullong(format!("{group}_processed"), done);
            params.ullong(format!("{group}_remaining"), self.remaining());
        }
        if let Some(why) = &self.failure {
            params.string("errmsg", why.as_str());
        }
    }
}
