//! # opener: the process that touches file systems for the launcher
//!
//! An image may lie on a file server that does not answer, and whoever opens it waits for ever. So the launcher walks no path
//! that a client or a document chose: it asks an opener, which serves one request at a time and is killed when it takes
//! too long. An opener holds the one capability that passes over file permissions, and must never do anything but open,
//! check and hand over.

mod files;

use std::{os::unix::net::UnixStream, path::PathBuf};

use ipc::edge::Channel;
use sandbox::policy::{PolicyError, Role};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::edge::Refusal;

/// The descriptor of the channel to the launcher.
pub const CHANNEL: i32 = 3;
/// The option that makes a qemud an opener.
pub const OPTION: &str = "--opener";

/// What the launcher asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Open an image, a kernel or the like; the answer carries the descriptor.
    Open {
        /// An absolute path.
        path: String,
        /// Open it for writing too.
        writable: bool,
        /// The directories beneath which it may lie.
        roots: Vec<PathBuf>,
    },
    /// Say which file an emulator is, and that it may be run.
    Emulator {
        /// An absolute path.
        path: String,
        /// The directories beneath which it may lie.
        roots: Vec<PathBuf>,
        /// It has to belong to root alone.
        roots_own: bool,
    },
}

impl Request {
    /// The path that is walked.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Request::Open { path, .. } | Request::Emulator { path, .. } => path,
        }
    }
}

/// What an opener answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Request::Open`]; carries the descriptor.
    Opened,
    /// To [`Request::Emulator`].
    Emulator(Emulator),
    /// To either, when it failed.
    Failed(Refusal),
}

/// An emulator's file as it was when it was checked: after an upgrade it is another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulator {
    /// Where it is, without links.
    pub path: PathBuf,
    /// The device that it is on.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// When it was changed: seconds and nanoseconds of its ctime.
    pub changed: (i64, i64),
}

/// Why an opener cannot run.
#[derive(Debug, Error)]
pub enum OpenerError {
    /// The launcher did not hand over the channel.
    #[error("an opener is started by the qemud launcher, not by hand")]
    Inherited(#[source] sandbox::fd::InheritError),
    /// The filter cannot be installed.
    #[error("cannot give up system calls")]
    Sandbox(#[source] PolicyError),
}

/// Serves one request after the other until the launcher is gone.
///
/// # Errors
/// When it cannot start.
pub fn run() -> Result<(), OpenerError> {
    let socket = UnixStream::from(sandbox::fd::inherited_fd(CHANNEL).map_err(OpenerError::Inherited)?);
    Role::Opener.install().map_err(OpenerError::Sandbox)?;
    let mut channel: Channel<Answer, Request> = Channel::new(socket);
    // The channel ends with the launcher, which is the usual end of an opener.
    while let Ok(message) = channel.recv() {
        let (answer, fds) = match message.value {
            Request::Open { path, writable, roots } => match files::open_for_control(&path, writable, &roots) {
                Ok(fd) => (Answer::Opened, vec![fd]),
                Err(refusal) => (Answer::Failed(refusal), Vec::new()),
            },
            Request::Emulator { path, roots, roots_own } => {
                let checked = files::check_emulator(&path, &roots, roots_own);
                (checked.map_or_else(Answer::Failed, Answer::Emulator), Vec::new())
            }
        };
        if channel.send(message.serial, &answer, fds).is_err() {
            break;
        }
    }
    Ok(())
}
