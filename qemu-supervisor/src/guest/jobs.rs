//! A guest's jobs: its start, and what its power button was pressed for.

use std::time::Instant;

use supervisor::{
    lifecycle::{Kind, State},
    protocol::{Answer, Begin, Failure, JobKind, JobState, qemu::ShutdownSpec},
    wire::Ticket,
};

use super::{Guest, Job, Phase, Tag};

/// A start's steps: QEMU's monitor speaks, the guest is up.
pub(super) const BOOT_STEPS: u64 = 2;
/// A shutdown's steps: the guest has powered off, and what follows from it has been done.
const POWER_STEPS: u64 = 2;

impl Guest {
    pub(super) fn begin(&mut self, ticket: Ticket, begin: &Begin) {
        let spec: ShutdownSpec = match begin.spec.read() {
            Ok(spec) => spec,
            Err(error) => {
                return self.wire.answer(ticket, Err(Failure::BadRequest(error.to_string())), Vec::new());
            }
        };
        if !self.lives() || self.machine.state() == State::SHUTTING_DOWN {
            return self.refuse(ticket);
        }
        if let Some((running, _)) = self.power_job {
            return self.wire.answer(ticket, Err(Failure::JobConflict(running)), Vec::new());
        }
        let kind = if spec.reboot { JobKind::REBOOT } else { JobKind::SHUTDOWN };
        if let Err(failure) = self.jobs.begin(begin.id, kind, POWER_STEPS, begin.stall_ms, Instant::now()) {
            return self.wire.answer(ticket, Err(failure), Vec::new());
        }
        self.power_job = Some((begin.id, kind));
        self.tell_job(begin.id);
        self.machine.button(spec.reboot);
        let job = if spec.reboot { Job::Reboot } else { Job::Shutdown };
        self.ask(job.command(), None, Tag::Begun(ticket, begin.id));
    }

    pub(super) fn cancel_job(&mut self, ticket: Ticket, id: u64) {
        let answer = match self.jobs.cancellable(id) {
            Err(failure) => Err(failure),
            Ok(JobKind::BOOT) => {
                self.give_up(Failure::Cancelled(id));
                Ok(Answer::Done)
            }
            Ok(_) => {
                self.end_power_job(JobState::CANCELLED, "");
                Ok(Answer::Done)
            }
        };
        self.wire.answer(ticket, answer, Vec::new());
    }

    /// Ends the jobs that make no progress.
    pub(super) fn end_stalled_jobs(&mut self, now: Instant) {
        for id in self.jobs.stalled(now) {
            if self.power_job.is_some_and(|(running, _)| running == id) {
                self.end_power_job(JobState::STALLED, "the guest did not heed its power button in time");
            }
        }
    }

    /// Something has become of the guest that its power job may have waited for.
    pub(super) fn power_job_hears(&mut self, kind: Kind) {
        let Some((id, job)) = self.power_job else { return };
        let off = [Kind::SHUTDOWN_GUEST, Kind::SHUTDOWN_HOST, Kind::SHUTDOWN_FINISHED].contains(&kind);
        if off && job == JobKind::SHUTDOWN && !self.machine.is_ending() {
            // The document says that it is kept, or started anew.
            self.end_power_job(JobState::DONE, "");
        } else if off {
            self.jobs.progress(id, 1, false, Instant::now());
            self.tell_job(id);
        } else if kind == Kind::RESUMED_UNPAUSED && self.machine.state() == State::RUNNING_BOOTED {
            self.end_power_job(JobState::DONE, "");
        }
    }

    /// The power job is over. The button can't be let go, but a later power-off is no reboot any more.
    pub(super) fn end_power_job(&mut self, state: JobState, text: &str) {
        let Some((id, _)) = self.power_job.take() else { return };
        if state != JobState::DONE {
            self.machine.button(false);
        }
        self.end_job(id, state, text);
    }

    /// QEMU has ended, and with it every job.
    pub(super) fn end_jobs(&mut self, before: &Phase, failure: &Failure) {
        if let Phase::Booting { failure: why, .. } = before {
            match why {
                Some(Failure::Cancelled(_)) => self.end_job(self.boot_job, JobState::CANCELLED, ""),
                Some(why) => self.end_job(self.boot_job, JobState::FAILED, &why.to_string()),
                None => self.end_job(self.boot_job, JobState::FAILED, &failure.to_string()),
            }
        }
        match self.power_job {
            Some((_, JobKind::SHUTDOWN)) => self.end_power_job(JobState::DONE, ""),
            Some(_) => self.end_power_job(JobState::FAILED, &failure.to_string()),
            None => {}
        }
    }

    pub(super) fn end_job(&mut self, id: u64, state: JobState, text: &str) {
        let text = text.chars().take(1024).collect();
        self.jobs.end(id, state, text, Instant::now());
        self.tell_job(id);
    }

    pub(super) fn tell_job(&mut self, id: u64) {
        if let Some(job) = self.jobs.get(id, Instant::now()) {
            self.wire.job(job);
        }
    }
}
