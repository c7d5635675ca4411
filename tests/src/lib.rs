//! The tests' kit: private instances of the whole suite, their processes, guests, consoles and events.
//!
//! It stands outside the house: it starts the programs as people do, by the command line and with real QEMU, and looks at
//! them as an administrator would, through files and `/proc`. It runs in test processes only, and must never touch an
//! instance other than its own: every [`Instance`] has a `BULKHEAD_ROOT` of its own, which its end leaves empty and removes.
//!
//! ```no_run
//! use bulkhead_tests::{Guest, Instance};
//!
//! let instance = Instance::session();
//! let guest = Guest::tiny("demo");
//! instance.create(&guest);
//! assert_eq!(instance.state("demo"), "running (booted)");
//! ```
#![forbid(unsafe_code)]
// Test code: a kit that cannot go on has found a failure, and says so where it happened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub use client::{Client, Shell, Virsh, client_program, is_libvirt_9_0_0};
pub use collect::Collected;
pub use events::{EventLine, Watch};
pub use gateway::Gateway;
pub use guest::{Disk, Guest, test_guest};
pub use instance::{Domain, Instance, Output, run};
pub use libvirtd::Libvirtd;
pub use pki::{Authority, Identity, free_port};
pub use process::{Handle, Process, Role, Signal, processes_of, rss_kib};
pub use small_disk::SmallDisk;
pub use terminal::{PROMPT, Terminal};
pub use wait::{
    BootPermit, LONG, boot_permit, skip, wait_for_entry, wait_for_file, wait_for_no_entries, wait_for_removal,
    wait_until,
};

mod client;
mod collect;
mod events;
mod gateway;
mod guest;
mod instance;
mod libvirtd;
mod pki;
mod process;
mod small_disk;
mod terminal;
mod wait;
