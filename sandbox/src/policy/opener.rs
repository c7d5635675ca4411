//! `qemud` opener: walks paths, opens files, hands them over. It makes, removes, renames and mounts nothing, and connects to
//! nobody.

use super::rule::{Rule, bits, is, masked, table};

/// Flags with which files are opened here: none that makes or cuts a file.
const KNOWN_OPEN_FLAGS: u32 = bits(
    (libc::O_ACCMODE
        | libc::O_NONBLOCK
        | libc::O_NOCTTY
        | libc::O_DIRECTORY
        | libc::O_NOFOLLOW
        | libc::O_PATH
        | libc::O_CLOEXEC
        | libc::O_LARGEFILE) as i64,
);
const CLOEXEC: u32 = bits(libc::O_CLOEXEC as i64);

pub(super) const OPENER: &[Rule] = table! {
    allow SYS_openat if [[masked(2, "flags", !KNOWN_OPEN_FLAGS | CLOEXEC, CLOEXEC)]], "roots and emulators; nothing is made";
    allow SYS_openat2, "files beneath a root; its flags lie in memory where no filter sees them";
    allow SYS_readlinkat, "the end of a link";
    allow SYS_statx, "kind and owner of a file";
    allow SYS_newfstatat, "kind of a file";
    allow SYS_fstat, "kind of a file";
    allow SYS_faccessat, "the C library's realpath asks whether a directory is there";
    allow SYS_faccessat2, "the C library's realpath asks whether a directory is there";
    allow SYS_read, "the first bytes of an emulator, the channel, a panic's look at itself";
    allow SYS_lseek, "where std is in a file";
    allow SYS_write, "log; a panic's message";
    allow SYS_writev, "std writes several buffers; a panic's message";
    allow SYS_close, "gives a descriptor back";
    allow SYS_fcntl if [
        [is(1, "cmd", bits(libc::F_GETFD as i64))],
        [is(1, "cmd", bits(libc::F_SETFD as i64))],
        [is(1, "cmd", bits(libc::F_GETFL as i64))],
        [is(1, "cmd", bits(libc::F_SETFL as i64))],
    ], "modes of descriptors; no copies, locks, owners or leases";
    allow SYS_ioctl if [[is(1, "request", bits(libc::TCGETS as i64))]], "is the log a terminal; no device is driven";
    allow SYS_ppoll, "waits for the launcher";
    allow SYS_recvmsg, "requests";
    allow SYS_sendmsg, "answers with descriptors";
    allow SYS_recvfrom, "std's socket reads";
    allow SYS_sendto, "socket writes without SIGPIPE";
};

#[cfg(target_arch = "x86_64")]
pub(super) const OPENER_ARCH: &[Rule] = table! {
    allow SYS_poll, "waits for the launcher";
    allow SYS_readlink, "the C library's realpath";
    allow SYS_stat, "the C library's stat";
    allow SYS_lstat, "the C library's lstat";
    allow SYS_access, "the C library's realpath";
};

#[cfg(not(target_arch = "x86_64"))]
pub(super) const OPENER_ARCH: &[Rule] = &[];
