//! What launcher and control say to each other.
//!
//! Control asks with a serial, the launcher answers with the same; what the launcher says of its own accord has serial 0.
//! The launcher holds the power, so this is all that control, and whoever might take control over, can make it do: open a
//! file under the configured roots, build a compartment around a supervisor, connect to a supervisor, kill a run, clear
//! away what a dead run left, end.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// Fixed descriptors with which the launcher starts control.
pub mod fds {
    /// The channel to the launcher.
    pub const LAUNCHER: i32 = 3;
    /// The listener for calls that may change things.
    pub const LISTENER: i32 = 4;
    /// The listener for calls that only read.
    pub const READ_ONLY_LISTENER: i32 = 5;
    /// The note of which run control has in hand, see [`super::IN_HAND_SIZE`].
    pub const IN_HAND: i32 = 6;
}

/// The size of the note of which run control has in hand, in bytes: its number, 0 for none, as this host writes numbers.
/// Control writes it before it looks at what the run's supervisor says; the launcher reads it when control has died.
pub const IN_HAND_SIZE: usize = size_of::<u32>();
/// The size of the whole note. Behind the run's number control keeps two numbers of its own for the control that comes after
/// it: at [`CHANGING_AT`] whether a definition was being changed, at [`TOLD_AT`] the highest of those events that were told
/// although no disk had taken them.
pub const NOTE_SIZE: usize = 16;
/// See [`NOTE_SIZE`]. Four bytes, 0 for no.
pub const CHANGING_AT: u64 = 4;
/// See [`NOTE_SIZE`]. Eight bytes, 0 for none.
pub const TOLD_AT: u64 = 8;

/// What control asks of the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToLauncher {
    /// Open an image, a kernel or the like under the configured roots; the answer carries the descriptor.
    Open {
        /// An absolute path.
        path: String,
        /// Open it for writing too.
        writable: bool,
    },
    /// Make a run: a supervisor in a compartment of its own. One descriptor comes along: the supervisor's end of the
    /// connection on which control has told it what to run.
    Launch(Launch),
    /// Connect to a run's supervisor; the answer carries the connection.
    Dial {
        /// The run.
        run: u32,
    },
    /// Control has read the event log of a run that ended: its directory can go.
    Retire {
        /// The run.
        run: u32,
    },
    /// Kill a run's supervisor, and with it all of its guest. There is no answer but [`FromLauncher::Ended`], when the kernel
    /// says that it has ended.
    Kill {
        /// The run.
        run: u32,
    },
    /// The journal tells of runs up to this one: give higher numbers to new ones. An earlier release allotted the numbers in
    /// control.
    RunsUpTo {
        /// The highest.
        run: u32,
    },
    /// Nobody has used this session's daemon for a while, it has no guest, and it accepts nobody any more: end, or say
    /// [`FromLauncher::Stay`].
    Idle,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// What it is for.
    pub purpose: Purpose,
    /// The guest.
    pub uuid: Uuid,
    /// Its name; names its log file.
    pub name: String,
    /// Which QEMU the compartment holds.
    pub emulator: String,
    /// The compartment has `/dev/kvm`.
    pub kvm: bool,
    /// The disks that the guest has; the launcher keeps the list in the run's record.
    pub disks: Vec<DiskId>,
}

/// What a run is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// A guest.
    #[default]
    Guest,
    /// A question about an emulator: no client sees it, and its number is none of a guest's ([`FIRST_PROBE`]).
    Probe,
}

/// Where the numbers of probes begin. Below are guests' runs, whose numbers are libvirt's domain ids.
pub const FIRST_PROBE: u32 = 1 << 31;

/// A disk that a run has open, by the file system's own identity of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskId {
    /// The device that the file is on, or that it is.
    pub device: u64,
    /// The file's inode; 0 for a block device.
    pub inode: u64,
    /// Whether the guest writes to it.
    pub writable: bool,
    /// Several guests may have it.
    pub shareable: bool,
    /// What it is for: "disk vda".
    pub what: String,
    /// Its path, as in the document.
    pub path: String,
}

/// What the launcher answers and reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromLauncher {
    /// The first messages of all: each run that has not been retired.
    Found(Box<Found>),
    /// Behind the last of them.
    AllFound,
    /// To [`ToLauncher::Open`]; carries the descriptor.
    Opened,
    /// To [`ToLauncher::Dial`]; carries the connection.
    Dialed,
    /// To [`ToLauncher::Launch`].
    Launched {
        /// The run's number: never used twice while the run-time directory lasts.
        run: u32,
        /// The supervisor's process, as the host sees it.
        pid: u32,
        /// The uid under which supervisor and QEMU run, if it is the guest's own.
        uid: Option<u32>,
    },
    /// To either, when it failed.
    Failed(Refusal),
    /// This is no time to end: accept clients again.
    Stay,
    /// To [`ToLauncher::Kill`]: the run may live, and nobody knows which process it is.
    NotKilled {
        /// Which run.
        run: u32,
        /// Why not.
        why: String,
    },
    /// The kernel says that a run's supervisor is gone, and with it all of its guest.
    Ended {
        /// Which run.
        run: u32,
        /// How its process ended, if the launcher was its parent.
        how: Option<String>,
    },
}

/// A run that was there when control started. What its record does not tell is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The run's number.
    pub run: u32,
    /// What it is for.
    pub purpose: Purpose,
    /// The guest.
    pub uuid: Option<Uuid>,
    /// Its name.
    pub name: Option<String>,
    /// Its uid, if it has one of its own.
    pub uid: Option<u32>,
    /// Its supervisor's process.
    pub pid: Option<u32>,
    /// The disks that it has.
    pub disks: Vec<DiskId>,
    /// Whether it lives.
    pub life: Life,
    /// Control has died more than once while it listened to this run's supervisor, in these words: it is not listened to
    /// any more. It may be killed.
    pub quarantine: Option<String>,
}

/// Whether a run lives. It is gone only when the kernel says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// Its supervisor does.
    Alive,
    /// The kernel says that it has ended.
    Gone,
    /// Nobody can tell: its record cannot be read, or the kernel did not answer.
    Unknown {
        /// Why.
        why: String,
    },
}

/// Why the launcher did not do what it was asked. Every check here is made again where the power is used, whatever control
/// has checked before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Refusal {
    /// The path is not absolute, or leads through `..`.
    #[error("'{path}' is not a plain absolute path")]
    Path {
        /// The path.
        path: String,
    },
    /// The file is outside every configured root.
    #[error("'{path}' is outside the directories that qemud may open files in ({roots})")]
    OutsideRoots {
        /// The path.
        path: String,
        /// The configured roots.
        roots: String,
    },
    /// A link on the path ends outside every configured root.
    #[error("the link leads outside the directories that qemud may open files in ('{path}')")]
    LinkOutside {
        /// The path.
        path: String,
    },
    /// The file cannot be opened.
    #[error("cannot open '{path}': {cause}")]
    Open {
        /// The path.
        path: String,
        /// What the system said.
        cause: String,
        /// Its number.
        errno: i32,
    },
    /// It is neither a regular file nor a block device.
    #[error("'{path}' is neither a regular file nor a block device")]
    Kind {
        /// The path.
        path: String,
    },
    /// It was not opened in time.
    #[error("'{path}' was not opened within {seconds} s: its storage does not answer")]
    Stuck {
        /// The path.
        path: String,
        /// How long was waited.
        seconds: String,
    },
    /// No opener was free in time.
    #[error("'{path}' was not opened within {seconds} s: every process that opens files is busy with others")]
    Waited {
        /// The path.
        path: String,
        /// How long was waited.
        seconds: String,
    },
    /// Earlier requests hang in the same directory.
    #[error("'{path}' is not opened: {openers} processes hang in its directory, whose storage does not answer")]
    Hung {
        /// The path.
        path: String,
        /// How many.
        openers: usize,
    },
    /// The emulator is not one that qemud may run.
    #[error("'{path}' is not an emulator that qemud may run: {why}")]
    Emulator {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A name, number or uid is out of its range.
    #[error("the request is not acceptable: {what}")]
    Range {
        /// What is out of range.
        what: String,
    },
    /// The run's directory, socket or log cannot be made.
    #[error("cannot {step}: {cause}")]
    Directory {
        /// What was being done.
        step: String,
        /// What the system said.
        cause: String,
    },
    /// A run's supervisor cannot be connected to.
    #[error("cannot connect to the supervisor of run {run}: {cause}")]
    Dial {
        /// The run.
        run: u32,
        /// What the system said.
        cause: String,
    },
    /// The launcher itself does not answer: the storage that it opens a file on is stuck, for one.
    #[error("the launcher did not answer within {seconds} s")]
    Silent {
        /// How long was waited.
        seconds: u64,
    },
    /// The compartment cannot be built or its supervisor not be started.
    #[error("cannot start the guest's supervisor: {cause}")]
    Spawn {
        /// The step and what the system said.
        cause: String,
    },
}
