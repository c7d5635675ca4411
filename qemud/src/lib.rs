//! # qemud: the per-host daemon
//!
//! Two processes of one program. The [`launcher`] holds the privilege of the instance (root for `qemu:///system`, the user's
//! own for `qemu:///session`) and speaks with nobody but [`control`], over the small enum of [`edge`]. Control holds the
//! clients' sockets, the registry and the journal, and has no power at all. A guest runs behind a supervisor of its own,
//! which neither of the two is needed for: qemud can end and come back while guests run.
//!
//! [`qemu`] turns documents into argument vectors; [`background`] is how a client starts a daemon that is not there.
#![forbid(unsafe_code)]

pub mod background;
pub mod config;
pub mod control;
pub mod edge;
pub mod launcher;
pub mod qemu;
