//! # qemud: the launcher, and what it shares with control
//!
//! The per-host daemon is two programs. `qemud`, this one, is the [`launcher`]: it holds the privilege of the instance
//! (root for `qemu:///system`, the user's own for `qemu:///session`), starts everything else, and speaks with nobody but
//! control, over the small enum of [`edge`]. `qemud-control`, the crate `control`, holds the clients' sockets, the registry
//! and the journal, and has no power at all. Nothing that parses a document is among this crate's dependencies, and a test
//! keeps it so. A guest runs behind a supervisor of its own, which needs neither of the two: qemud can end and come back
//! while guests run.
//!
//! What may have to wait for a file system is done by an [`opener`], which is this program again.
//!
//! [`background`] is how a client starts a daemon that is not there.
#![forbid(unsafe_code)]

pub mod background;
pub mod config;
pub mod edge;
pub mod launcher;
pub mod opener;

/// An error and its causes in one line, for the log.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
