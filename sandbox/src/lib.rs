//! How a Bulkhead process is started, confined and gives up power.
//!
//! This room is the foundation of the house: `ipc`, `supervisor`, `qemu-supervisor` and `qemud` stand on it, and it stands
//! on none of them. It is also the only room in which `unsafe` may be written, so that every other crate can forbid it:
//! what needs a raw descriptor, a raw system call or a fork is wrapped here once, safely.
//!
//! - [`spawn`] starts a program with exactly the descriptors, the namespaces, the root and the identity that it was given;
//! - [`jail`] describes the root directory of such a program;
//! - [`policy`] holds the seccomp allow-lists of the roles, as tables with a reason beside every call;
//! - [`landlock`], [`caps`], [`rlimit`] and [`process`] narrow the process that calls them;
//! - [`fd`], [`peer`], [`pidfd`] and [`signal`] make descriptors, peers, children and signals safe to handle.
//!
//! The crate is a library and has no process of its own. What its code must never do: allocate, lock or panic between
//! `clone3` and `exec`; leave a child, a mount or a descriptor behind when a step fails; or grant a new process more than
//! its caller named.
#![cfg(target_os = "linux")]

pub mod caps;
pub mod fd;
pub mod jail;
pub mod landlock;
pub mod peer;
pub mod pidfd;
pub mod policy;
pub mod process;
pub mod rlimit;
pub mod signal;
#[cfg(test)]
mod skip;
pub mod spawn;
mod sys;

pub use process::{cpu_time, no_new_privs, process_start_time, subreaper, user_time};
pub use rustix::process::Signal;
