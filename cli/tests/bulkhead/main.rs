//! The real program, from its command line to its exit code, against the mock hypervisor.
//!
//! One file per group of verbs. The mock's state lives in one process, so what takes several runs of the program is tested
//! with a real daemon, in the package `bulkhead-tests`.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod completion;
mod connect;
mod console;
mod edit;
mod event;
mod figures;
mod password;
mod run;
mod table;
mod terminal;
mod usage;
mod verbs;
