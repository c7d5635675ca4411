//! `qemu-supervisor` once its QEMU runs: nothing new is opened, connected, forked or executed.

use super::base::by_descriptor;
use super::rule::{Rule, table};

pub(super) const SUPERVISOR: &[Rule] = table! {
    allow SYS_statx if [[by_descriptor(3)]], "kind and size of a descriptor";
    allow SYS_newfstatat if [[by_descriptor(3)]], "kind and size of a descriptor";
    allow SYS_unlinkat, "removes the copies of a kernel and an initrd once QEMU has read them";
    allow SYS_ftruncate, "cuts a torn record off the event log";
    allow SYS_kill, "ends what is left of the guest; only its own pid namespace is in reach";
    allow SYS_pidfd_open, "a descriptor for a child that it was not handed one of";
    allow SYS_pidfd_send_signal, "ends its QEMU";

    // A panic with RUST_BACKTRACE set looks for its own program and must still die of the panic, so these calls fail instead
    // of killing; the effect is the same: nothing is opened.
    refuse SYS_openat with EACCES, "opens nothing; a panic's backtrace would try";
    refuse SYS_readlinkat with EACCES, "resolves nothing; a panic's backtrace would try";
};

#[cfg(target_arch = "x86_64")]
pub(super) const SUPERVISOR_ARCH: &[Rule] = table! {
    allow SYS_unlink, "removes the copies of a kernel and an initrd once QEMU has read them";
    refuse SYS_open with EACCES, "opens nothing; a panic's backtrace would try";
    refuse SYS_readlink with EACCES, "resolves nothing; a panic's backtrace would try";
    refuse SYS_stat with EACCES, "resolves nothing; a panic's backtrace would try";
};

#[cfg(not(target_arch = "x86_64"))]
pub(super) const SUPERVISOR_ARCH: &[Rule] = &[];
