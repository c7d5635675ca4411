//! What launcher and control say to each other.
//!
//! Control asks with a serial, the launcher answers with the same; what the launcher says of its own accord has serial 0.
//! The launcher holds the power, so this is all that control, and whoever might take control over, can make it do: open a
//! file under the configured roots, build a compartment around a supervisor, clear away what a dead guest left, end.

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
}

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
    /// Give a guest its supervisor, in a compartment of its own. One descriptor comes along: the supervisor's end of the
    /// connection on which control has told it what to run.
    Launch(Launch),
    /// Control has read the event log of a guest that ended: its directory can go.
    Retire {
        /// The guest's run.
        id: u32,
    },
    /// End a run's supervisor, and with it all of its guest: it does not answer.
    Kill {
        /// The guest's run.
        id: u32,
    },
    /// Nobody has used this session's daemon for a while, it has no guest, and it accepts nobody any more: end, or say
    /// [`FromLauncher::Stay`].
    Idle,
}

/// One compartment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The run's number, libvirt's domain id; names the run's directory and is never used twice while the host is up.
    pub id: u32,
    /// The guest.
    pub uuid: Uuid,
    /// Its name; names its log file.
    pub name: String,
    /// Which QEMU the compartment holds.
    pub emulator: String,
    /// The compartment has `/dev/kvm`.
    pub kvm: bool,
}

/// What the launcher answers and reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromLauncher {
    /// The first message of all: what an earlier qemud left running.
    Guests(Vec<Found>),
    /// To [`ToLauncher::Open`]; carries the descriptor.
    Opened,
    /// To [`ToLauncher::Launch`].
    Launched {
        /// The supervisor's process, as the host sees it.
        pid: u32,
        /// The uid under which supervisor and QEMU run, if it is the guest's own.
        uid: Option<u32>,
    },
    /// To either, when it failed.
    Failed(Refusal),
    /// This is no time to end: accept clients again.
    Stay,
    /// A supervisor is gone, and with it all of its guest.
    Ended {
        /// Which run.
        id: u32,
        /// How its process ended, if the launcher was its parent.
        how: Option<String>,
    },
}

/// A run that was there when the launcher started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The run's number.
    pub id: u32,
    /// The guest.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its uid, if it has one of its own.
    pub uid: Option<u32>,
    /// Its supervisor's process.
    pub pid: u32,
    /// Whether the supervisor still lives.
    pub alive: bool,
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
