//! What is under way on one object: long jobs with progress, short operations one after the other, and who may not wait.
//!
//! The table knows no clock: `now` is a time since any fixed moment, of a clock that never goes back. It sets no timer
//! either; [`JobTable::next_deadline`] says when to call [`JobTable::overdue`].
//!
//! Queries ask nobody, and `destroy` waits for no job: neither is entered here.

mod info;

use std::{collections::VecDeque, time::Duration};

use api::{Error, ErrorCode};
use bitflags::bitflags;

pub use info::{Info, Outcome};

use crate::error::Errors;

/// Jobs that may wait for one object.
pub const MAX_QUEUED: usize = 64;
/// Background jobs that one object may have.
pub const MAX_BACKGROUND: usize = 16;

/// The number of a job; no two jobs of one object share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

bitflags! {
    /// What may be done to an object: libvirt's mask of a long job.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Doing: u8 {
        /// Change it.
        const MODIFY = 1;
        /// Change it in a way that does not disturb a migration.
        const MIGRATION_SAFE = 2;
        /// Stop its virtual CPUs, or let them go on.
        const SUSPEND = 4;
    }
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobKind {
    /// Something short: one request to the guest's supervisor.
    Short(ShortKind),
    /// Start it.
    Start,
    /// Wait for the guest to shut down.
    Shutdown,
    /// Wait for the guest to reboot.
    Reboot,
    /// Save its memory to a file.
    Save,
    /// Start it from a file.
    Restore,
    /// Write its memory down.
    Dump,
    /// Make a snapshot.
    Snapshot,
    /// Go back to a snapshot.
    SnapshotRevert,
    /// Merge a snapshot away.
    SnapshotDelete,
    /// Copy, commit or pull a disk's blocks.
    Block,
    /// Move it to another host.
    MigrateOut,
    /// Take it from another host.
    MigrateIn,
    /// Back up its disks.
    Backup,
}

/// The short operations, as libvirt's masks tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShortKind {
    /// A change.
    Modify,
    /// A change that does not disturb a migration.
    ModifyMigrationSafe,
    /// Suspend, resume.
    Suspend,
}

impl JobKind {
    /// What it does to its object, to be held against the mask of a long job.
    #[must_use]
    pub fn doing(self) -> Doing {
        match self {
            JobKind::Short(ShortKind::ModifyMigrationSafe) => Doing::MIGRATION_SAFE,
            JobKind::Short(ShortKind::Suspend) => Doing::SUSPEND,
            _ => Doing::MODIFY,
        }
    }

    /// What may be done while it is under way.
    #[must_use]
    pub fn allows(self) -> Doing {
        match self {
            JobKind::Shutdown | JobKind::Reboot | JobKind::Block | JobKind::Backup => Doing::all(),
            JobKind::Save | JobKind::Dump => Doing::SUSPEND,
            JobKind::MigrateOut => Doing::SUSPEND | Doing::MIGRATION_SAFE,
            _ => Doing::empty(),
        }
    }

    /// Several such jobs can be under way at once, beside any other.
    #[must_use]
    pub fn is_background(self) -> bool {
        matches!(self, JobKind::Shutdown | JobKind::Reboot | JobKind::Block)
    }

    fn is_short(self) -> bool {
        matches!(self, JobKind::Short(_))
    }

    /// Questions about "the job" of an object mean it. Block jobs have calls of their own.
    fn is_shown(self) -> bool {
        !self.is_short() && self != JobKind::Block
    }

    /// libvirt's number of the operation.
    #[must_use]
    pub fn operation(self) -> i32 {
        match self {
            JobKind::Short(_) | JobKind::Shutdown | JobKind::Reboot | JobKind::Block => 0,
            JobKind::Start => 1,
            JobKind::Save => 2,
            JobKind::Restore => 3,
            JobKind::MigrateIn => 4,
            JobKind::MigrateOut => 5,
            JobKind::Snapshot => 6,
            JobKind::SnapshotRevert => 7,
            JobKind::Dump => 8,
            JobKind::Backup => 9,
            JobKind::SnapshotDelete => 10,
        }
    }
}

/// What progress is counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Steps of no size.
    #[default]
    Steps,
    /// Bytes of memory.
    Memory,
    /// Bytes of disks.
    Disk,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// So much is done.
    pub done: u64,
    /// Of so much; 0 while that is not known.
    pub total: u64,
    /// Of this.
    pub unit: Unit,
}

/// A job that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What it does.
    pub kind: JobKind,
    /// It can be cancelled while it is under way.
    pub cancellable: bool,
    /// It has stalled when it makes no progress for this long.
    pub stalls_after: Option<Duration>,
    /// It is given up when it has not begun by then.
    pub begins_within: Option<Duration>,
}

impl Wanted {
    /// A job without deadlines that cannot be cancelled.
    #[must_use]
    pub fn new(kind: JobKind) -> Wanted {
        Wanted { kind, cancellable: false, stalls_after: None, begins_within: None }
    }
}

/// A job that is under way, or waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    id: JobId,
    wanted: Wanted,
    /// When it was asked for, and since it is under way, when it began.
    since: Duration,
    last_progress: Duration,
    progress: Progress,
    cancel_requested: bool,
    /// It was reported as overdue.
    overdue: bool,
}

impl Job {
    fn new(id: JobId, wanted: Wanted, now: Duration) -> Job {
        let progress = Progress::default();
        Job { id, wanted, since: now, last_progress: now, progress, cancel_requested: false, overdue: false }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// What it does.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        self.wanted.kind
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Somebody wants it to end.
    #[must_use]
    pub fn cancel_requested(&self) -> bool {
        self.cancel_requested
    }

    /// When it is overdue: stalled, or waiting for too long.
    fn deadline(&self, waits: bool) -> Option<Duration> {
        let (from, within) = if waits {
            (self.since, self.wanted.begins_within)
        } else {
            (self.last_progress, self.wanted.stalls_after)
        };
        within.filter(|_| !self.overdue).map(|within| from.saturating_add(within))
    }
}

/// How a job was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is under way.
    Begun(JobId),
    /// It waits; [`JobTable::finish`] of another one says when it begins.
    Queued(JobId),
}

impl Admission {
    /// The job.
    #[must_use]
    pub fn id(self) -> JobId {
        match self {
            Admission::Begun(id) | Admission::Queued(id) => id,
        }
    }
}

/// Why a job is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobRefusal {
    /// Too many wait.
    #[error("{MAX_QUEUED} jobs wait for this guest already")]
    Full,
    /// There is none, or none any more.
    #[error("no job is active on the domain")]
    None,
    /// It cannot be ended before it is done.
    #[error("the job under way cannot be aborted")]
    NotCancellable,
}

impl JobRefusal {
    /// What a client gets.
    #[must_use]
    pub fn error(self, errors: &Errors) -> Error {
        match self {
            JobRefusal::Full => errors.told(ErrorCode::OPERATION_TIMEOUT, self.to_string()),
            JobRefusal::None | JobRefusal::NotCancellable => errors.wrong_state(self),
        }
    }
}

/// What ran out of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// A job waited for too long; it is out of the table.
    Waited(JobId),
    /// A job makes no progress; it is under way until it is finished. It is told once.
    Stalled(JobId),
}

/// What is under way on one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobTable {
    last: u64,
    short: Option<Job>,
    long: Option<Job>,
    background: Vec<Job>,
    queue: VecDeque<Job>,
    completed: Option<Info>,
}

impl JobTable {
    /// Begins a job, or lets it wait for those before it.
    pub fn begin(&mut self, wanted: Wanted, now: Duration) -> Result<Admission, JobRefusal> {
        let fits = self.admits(wanted.kind) && self.queue.iter().all(|job| self.waits_for_long(job.kind()));
        if !fits && self.queue.len() >= MAX_QUEUED {
            return Err(JobRefusal::Full);
        }
        self.last = self.last.saturating_add(1);
        let job = Job::new(JobId(self.last), wanted, now);
        let id = job.id;
        if fits {
            self.enter(job);
            return Ok(Admission::Begun(id));
        }
        self.queue.push_back(job);
        Ok(Admission::Queued(id))
    }

    /// Takes in a job that was begun by an earlier host of the object, which says so itself. `age` and `quiet`: how long ago
    /// it began and last made progress.
    pub fn adopt(
        &mut self,
        id: JobId,
        wanted: Wanted,
        progress: Progress,
        age: Duration,
        quiet: Duration,
        now: Duration,
    ) {
        self.last = self.last.max(id.0);
        if self.get(id).is_some() {
            return;
        }
        let (since, last_progress) = (now.saturating_sub(age), now.saturating_sub(quiet));
        self.enter(Job { progress, since, last_progress, ..Job::new(id, wanted, now) });
    }

    fn admits(&self, kind: JobKind) -> bool {
        !self.waits_for_long(kind)
            && if kind.is_background() { self.background.len() < MAX_BACKGROUND } else { self.short.is_none() }
    }

    /// Whether the long job under way keeps such a job from beginning.
    fn waits_for_long(&self, kind: JobKind) -> bool {
        let beside = kind.is_short() || kind.is_background();
        self.long.as_ref().is_some_and(|job| !beside || !job.kind().allows().contains(kind.doing()))
    }

    fn enter(&mut self, job: Job) {
        match job.kind() {
            kind if kind.is_short() => self.short = Some(job),
            // One that is taken over may stand beside another that is: none is lost.
            kind if kind.is_background() || self.long.is_some() => self.background.push(job),
            _ => self.long = Some(job),
        }
    }

    fn under_way(&self) -> impl Iterator<Item = &Job> {
        self.long.iter().chain(&self.background).chain(&self.short)
    }

    fn under_way_mut(&mut self) -> impl Iterator<Item = &mut Job> {
        self.long.iter_mut().chain(&mut self.background).chain(&mut self.short)
    }

    /// A job, under way or waiting.
    #[must_use]
    pub fn get(&self, id: JobId) -> Option<&Job> {
        self.under_way().chain(&self.queue).find(|job| job.id == id)
    }

    /// Whether anything is under way or waits.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.under_way().chain(&self.queue).next().is_some()
    }

    /// The job that questions about "the job" of the object mean.
    #[must_use]
    pub fn shown(&self) -> Option<&Job> {
        self.under_way().find(|job| job.kind().is_shown())
    }

    /// A job is as far as this. Numbers that stay the same are no progress.
    pub fn progress(&mut self, id: JobId, progress: Progress, now: Duration) -> Result<(), JobRefusal> {
        let job = self.under_way_mut().find(|job| job.id == id).ok_or(JobRefusal::None)?;
        if job.progress != progress {
            job.progress = progress;
            job.last_progress = job.last_progress.max(now);
            job.overdue = false;
        }
        Ok(())
    }

    /// Wants the shown job to end. Gives its number, so that whoever does it can be told. Twice is once.
    pub fn request_cancel(&mut self) -> Result<JobId, JobRefusal> {
        let job = self.under_way_mut().find(|job| job.kind().is_shown()).ok_or(JobRefusal::None)?;
        if !job.wanted.cancellable {
            return Err(JobRefusal::NotCancellable);
        }
        job.cancel_requested = true;
        Ok(job.id)
    }

    /// A job is over. Gives the jobs that begin now in its place.
    pub fn finish(&mut self, id: JobId, outcome: Outcome, now: Duration) -> Result<Vec<JobId>, JobRefusal> {
        let job = self.take(id).ok_or(JobRefusal::None)?;
        if job.kind().is_shown() {
            self.completed = Some(Info::of_ended(&job, outcome, now));
        }
        Ok(self.next(now))
    }

    /// A job that waits is not wanted any more. Gives the jobs that begin now because it is out of their way.
    pub fn withdraw(&mut self, id: JobId, now: Duration) -> Result<Vec<JobId>, JobRefusal> {
        let at = self.queue.iter().position(|job| job.id == id).ok_or(JobRefusal::None)?;
        self.queue.remove(at);
        Ok(self.next(now))
    }

    /// The object's run is gone, and every job with it: gives all of them, to be answered.
    pub fn clear(&mut self) -> Vec<Job> {
        let under_way = self.long.take().into_iter().chain(self.background.drain(..)).chain(self.short.take());
        under_way.chain(self.queue.drain(..)).collect()
    }

    fn take(&mut self, id: JobId) -> Option<Job> {
        for place in [&mut self.long, &mut self.short] {
            if let Some(job) = place.take_if(|job| job.id == id) {
                return Some(job);
            }
        }
        let at = self.background.iter().position(|job| job.id == id)?;
        Some(self.background.remove(at))
    }

    /// Lets in what waits, in its order. Only a job that could not begin before the long one ends is overtaken.
    fn next(&mut self, now: Duration) -> Vec<JobId> {
        let mut begun = Vec::new();
        while let Some(at) = self.queue.iter().position(|job| !self.waits_for_long(job.kind())) {
            if !self.queue.get(at).is_some_and(|job| self.admits(job.kind())) {
                break;
            }
            let Some(mut job) = self.queue.remove(at) else { break };
            (job.since, job.last_progress) = (now, now);
            begun.push(job.id);
            self.enter(job);
        }
        begun
    }

    /// When something here runs out of time, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let stalls = self.under_way().filter_map(|job| job.deadline(false));
        stalls.chain(self.queue.iter().filter_map(|job| job.deadline(true))).min()
    }

    /// What has run out of time, and the jobs that begin because of it.
    pub fn overdue(&mut self, now: Duration) -> (Vec<Overdue>, Vec<JobId>) {
        let is_late = |job: &Job, waits| job.deadline(waits).is_some_and(|deadline| deadline <= now);
        let mut late = Vec::new();
        for job in self.under_way_mut().filter(|job| is_late(job, false)) {
            job.overdue = true;
            late.push(Overdue::Stalled(job.id));
        }
        self.queue.retain(|job| {
            let waited = is_late(job, true);
            if waited {
                late.push(Overdue::Waited(job.id));
            }
            !waited
        });
        let begun = self.next(now);
        (late, begun)
    }

    /// The shown job in libvirt's terms.
    #[must_use]
    pub fn info(&self, now: Duration) -> Info {
        self.shown().map_or_else(Info::none, |job| Info::of(job, now))
    }

    /// The last shown job that ended, if somebody has not fetched it already. `keep`: another one may fetch it again.
    pub fn completed(&mut self, keep: bool) -> Info {
        let info = if keep { self.completed.clone() } else { self.completed.take() };
        info.unwrap_or_else(Info::none)
    }
}
