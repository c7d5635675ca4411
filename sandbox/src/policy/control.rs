//! `qemud` control: besides the base its own directories. It connects to nobody: what it speaks with was handed to it.

use super::base::THREAD;
use super::rule::{Rule, bits, masked, table};

/// Flags with which control opens: reading, writing, replacing and listing files. Everything else (O_PATH, O_TMPFILE,
/// O_DIRECT, O_ASYNC ...) is refused, and so is a descriptor that an exec would inherit.
const KNOWN_OPEN_FLAGS: u32 = bits(
    (libc::O_ACCMODE
        | libc::O_CREAT
        | libc::O_EXCL
        | libc::O_TRUNC
        | libc::O_APPEND
        | libc::O_NONBLOCK
        | libc::O_NOCTTY
        | libc::O_DIRECTORY
        | libc::O_NOFOLLOW
        | libc::O_CLOEXEC
        | libc::O_LARGEFILE) as i64,
);
const CLOEXEC: u32 = bits(libc::O_CLOEXEC as i64);

pub(super) const CONTROL: &[Rule] = table! {
    allow SYS_clone if [[THREAD]], "threads of this process; no child, no namespace";

    // Files in its own directories.
    allow SYS_openat if [[masked(2, "flags", !KNOWN_OPEN_FLAGS | CLOEXEC, CLOEXEC)]], "definitions, cache, state; closed on exec";
    allow SYS_statx, "std's metadata";
    allow SYS_newfstatat, "the C library's stat";
    allow SYS_getdents64, "lists definitions at start";
    allow SYS_mkdirat, "directory of a guest's definition";
    allow SYS_unlinkat, "undefine, old files, stale sockets";
    allow SYS_renameat2, "replaces a file in one step";
    allow SYS_readlinkat, "autostart links";
    allow SYS_symlinkat, "autostart links";
    allow SYS_ftruncate, "cuts a torn record off a log";
    allow SYS_flock, "one control for an instance";
    allow SYS_fchmod, "mode of a new file";
    allow SYS_faccessat, "std's exists on older C libraries";
};

#[cfg(target_arch = "x86_64")]
pub(super) const CONTROL_ARCH: &[Rule] = table! {
    allow SYS_stat, "the C library's stat";
    allow SYS_lstat, "the C library's lstat";
    allow SYS_mkdir, "std's create_dir";
    allow SYS_rmdir, "std's remove_dir";
    allow SYS_unlink, "std's remove_file";
    allow SYS_rename, "std's rename";
    allow SYS_readlink, "std's read_link";
    allow SYS_symlink, "std's symlink";
    allow SYS_access, "std's exists on older C libraries";
};

#[cfg(target_arch = "aarch64")]
pub(super) const CONTROL_ARCH: &[Rule] = table! {
    allow SYS_renameat, "std's rename";
};
