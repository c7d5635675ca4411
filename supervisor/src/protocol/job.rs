//! What takes long: a supervisor's jobs, as control sees them.
//!
//! Control gives each job its number, so it finds its own again after a restart. A job ends for one of the reasons of
//! [`JobState`]; a supervisor keeps the newest ended ones, so that a control that was away learns how its jobs ended.

use serde::{Deserialize, Serialize};

use super::Payload;

/// The most jobs that a supervisor lists, ended ones included.
pub const MAX_JOBS: usize = 16;

/// What a job does. A number, not an enum: a control must read the list of a newer supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobKind(pub u16);

impl JobKind {
    /// The guest is being started. It ends with the answer to [`super::Request::Start`]; to cancel it is to end the guest.
    pub const BOOT: JobKind = JobKind(1);
    /// The guest is being shut down by its power button. To cancel it is to wait no longer: the guest may still power off.
    pub const SHUTDOWN: JobKind = JobKind(2);
    /// The guest is being rebooted by its power button; it ends when the guest runs anew.
    pub const REBOOT: JobKind = JobKind(3);
}

/// How far a job is. As [`JobKind`], a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState(pub u16);

impl JobState {
    /// It is under way.
    pub const RUNNING: JobState = JobState(0);
    /// It is done.
    pub const DONE: JobState = JobState(1);
    /// It failed; [`Job::text`] says why.
    pub const FAILED: JobState = JobState(2);
    /// [`super::Request::JobCancel`] ended it.
    pub const CANCELLED: JobState = JobState(3);
    /// It made no progress for [`Job::stall_ms`].
    pub const STALLED: JobState = JobState(4);
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The number that control gave to it.
    pub id: u64,
    /// What it does.
    pub kind: JobKind,
    /// How far it is.
    pub state: JobState,
    /// How long ago it began, in milliseconds. No time of day: that can jump.
    pub age_ms: u64,
    /// How long ago it last made progress, or ended.
    pub quiet_ms: u64,
    /// How much of it is done; what a unit is depends on the kind.
    pub done: u64,
    /// Of how much; 0 when that is unknown.
    pub total: u64,
    /// It can be cancelled.
    pub cancellable: bool,
    /// It ends when it makes no progress for this long; 0 for never.
    pub stall_ms: u32,
    /// Why it failed.
    pub text: String,
}

/// Begins a job. The answer comes when it has begun; [`super::Message::Job`] tells of its progress and its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Its number: not 0, and not that of a job that is still listed.
    pub id: u64,
    /// End it when it makes no progress for this long; 0 for never.
    pub stall_ms: u32,
    /// What it does: [`super::qemu::ShutdownSpec`].
    pub spec: Payload,
}
