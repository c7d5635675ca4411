//! # supervisor: what both guests' supervisors share
//!
//! A supervisor is one process per guest. It holds its guest, outlives every other daemon of the house, and is asked by
//! control over one socket. This crate has what does not depend on the kind of guest:
//!
//! | module | what it is for |
//! |---|---|
//! | [`launch`] | what the launcher tells a supervisor |
//! | [`protocol`] | what control and a supervisor say to each other |
//! | [`lifecycle`] | libvirt's numbers of states, reasons and events that a supervisor speaks of |
//! | [`events`] | the numbered events: in memory, in the log, and read back from the log of a dead supervisor |
//! | [`jobs`] | what takes long: the table that outlives control |
//! | [`console`] | the last output of a console, its readers and its one writer |
//! | [`wire`] | the supervisor's end of the control edge |
//! | [`poll`] | what a supervisor waits for |
//!
//! A supervisor must never wait for control, for a reader of a console or for a disk, never let a guest's output grow its
//! memory, and never end because of what control sent.
#![forbid(unsafe_code)]

pub mod console;
pub mod events;
pub mod jobs;
pub mod launch;
pub mod lifecycle;
pub mod poll;
pub mod protocol;
pub mod wire;
