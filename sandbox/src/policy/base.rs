//! What the leaves of the house need: [`RUNTIME`] is a static Rust program at all, [`BASE`] one with an event loop, local sockets
//! and children.

use super::rule::{Rule, bits, is, table, with, without};

const NO_EXEC: u32 = bits(libc::PROT_EXEC as i64);

/// Memory, locks, clocks and the end: what a program needs that touches nothing.
pub(super) const RUNTIME: &[Rule] = table! {
    // Memory.
    allow SYS_brk, "malloc grows its heap";
    allow SYS_mmap if [[without(2, "prot", NO_EXEC)]], "malloc and thread stacks; never executable";
    allow SYS_munmap, "malloc and thread stacks are given back";
    allow SYS_mremap, "malloc moves large blocks; it can't add permissions";
    allow SYS_mprotect if [[without(2, "prot", NO_EXEC)]], "malloc arenas and stack guards; never executable";
    allow SYS_madvise, "malloc and ended threads return pages";

    // Threads, locks, signals and the end.
    allow SYS_futex, "locks and condition variables";
    allow SYS_sched_yield, "std's spinning before a lock sleeps";
    allow SYS_sched_getaffinity, "a new thread asks for its stack's bounds; thread pools count processors";
    allow SYS_set_robust_list, "the C library at a thread's start";
    allow SYS_rseq, "the C library at a thread's start";
    allow SYS_restart_syscall, "the kernel resumes an interrupted wait";
    allow SYS_rt_sigaction, "std's stack overflow handler, and abort resets SIGABRT";
    allow SYS_rt_sigprocmask, "abort, thread start and signal descriptors";
    allow SYS_rt_sigreturn, "return from a signal handler";
    allow SYS_sigaltstack, "std's stack for its overflow handler";
    allow SYS_tgkill if [[is(2, "sig", bits(libc::SIGABRT as i64))]], "a panic that aborts raises SIGABRT, nothing else";
    allow SYS_exit, "a thread ends";
    allow SYS_exit_group, "the process ends";
    refuse SYS_clone3 with ENOSYS, "its flags lie in memory where no filter sees them; the C library falls back to clone";

    // Who and when.
    allow SYS_getpid, "log lines, abort";
    allow SYS_gettid, "log lines, abort";
    allow SYS_getuid, "harmless: own identity";
    allow SYS_geteuid, "harmless: own identity";
    allow SYS_getgid, "harmless: own identity";
    allow SYS_getegid, "harmless: own identity";
    allow SYS_getcwd, "a panic's backtrace shortens paths";
    allow SYS_clock_gettime, "clocks where the vDSO can't answer, processor time of a guest";
    allow SYS_clock_getres, "clock_getcpuclockid asks whether a guest's clock is there";
    allow SYS_gettimeofday, "clocks where the vDSO can't answer";
    allow SYS_clock_nanosleep, "std's sleep";
    allow SYS_nanosleep, "the C library's sleep";
    allow SYS_getrandom, "hash seeds and new UUIDs";
    allow SYS_prctl if [
        [is(0, "option", bits(libc::PR_SET_NAME as i64))],
        [is(0, "option", bits(libc::PR_SET_VMA as i64))],
    ], "names of threads and of malloc's mappings";
};

/// What every leaf but a gateway's needs besides.
pub(super) const BASE: &[Rule] = table! {
    // Descriptors.
    allow SYS_read, "sockets, files, signal and timer descriptors";
    allow SYS_write, "sockets, files, log; a panic's message";
    allow SYS_readv, "std reads into several buffers";
    allow SYS_writev, "std writes several buffers; a panic's message";
    allow SYS_pread64, "reads at a place";
    allow SYS_pwrite64, "writes at a place";
    allow SYS_lseek, "end of a log, size of a file";
    allow SYS_close, "gives a descriptor back";
    allow SYS_fstat, "kind of a received descriptor, size of a file";
    allow SYS_fsync, "state is durable before it is answered";
    allow SYS_fdatasync, "event log is durable";
    allow SYS_fcntl if [
        [is(1, "cmd", bits(libc::F_GETFD as i64))],
        [is(1, "cmd", bits(libc::F_SETFD as i64))],
        [is(1, "cmd", bits(libc::F_GETFL as i64))],
        [is(1, "cmd", bits(libc::F_SETFL as i64))],
        [is(1, "cmd", bits(libc::F_DUPFD_CLOEXEC as i64))],
    ], "modes of descriptors and their copies; no locks, owners or leases";
    allow SYS_ioctl if [
        [is(1, "request", bits(libc::FIONBIO as i64))],
        [is(1, "request", bits(libc::FIONREAD as i64))],
        [is(1, "request", bits(libc::FIOCLEX as i64))],
        [is(1, "request", bits(libc::TCGETS as i64))],
    ], "std's set_nonblocking and close-on-exec, bytes waiting, is it a terminal; no device is driven";

    // Waiting.
    allow SYS_ppoll, "waits for descriptors";
    allow SYS_epoll_create1, "event loop";
    allow SYS_epoll_ctl, "event loop";
    allow SYS_epoll_pwait, "event loop";
    allow SYS_eventfd2, "event loop's waker";
    allow SYS_timerfd_create, "deadlines";
    allow SYS_timerfd_settime, "deadlines";
    allow SYS_signalfd4, "signals as events";
    allow SYS_waitid, "the end of a child, by its descriptor";
    allow SYS_wait4, "orphans handed to a subreaper";

    // Sockets: those that exist already.
    allow SYS_accept4, "a new connection on an inherited listener";
    allow SYS_listen, "starts an inherited listener";
    allow SYS_recvmsg, "messages with descriptors";
    allow SYS_sendmsg, "messages with descriptors";
    allow SYS_recvfrom, "std's socket reads";
    allow SYS_sendto, "std's socket writes, without SIGPIPE";
    allow SYS_shutdown, "ends a connection";
    allow SYS_getsockopt, "who the peer is, whether a connect succeeded";
    allow SYS_getsockname, "std's accept and logs";
    allow SYS_getpeername, "std's accept and logs";
    allow SYS_socketpair if [[is(0, "domain", bits(libc::AF_UNIX as i64))]], "channels to others go through whoever holds both";
};

#[cfg(target_arch = "x86_64")]
pub(super) const BASE_ARCH: &[Rule] = table! {
    allow SYS_poll, "waits for descriptors";
    allow SYS_epoll_wait, "event loop";
};

#[cfg(not(target_arch = "x86_64"))]
pub(super) const BASE_ARCH: &[Rule] = &[];

/// The tests of a clone that makes a thread of this process and no other kind of child.
pub(super) const THREAD: super::Argument = {
    const WANTED: u32 = bits((libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as i64);
    const NAMESPACES: u32 = bits(
        (libc::CLONE_NEWNS
            | libc::CLONE_NEWCGROUP
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET) as i64,
    );
    super::rule::masked(0, "flags", WANTED | NAMESPACES, WANTED)
};

/// The test of a stat of a descriptor; the path is then the empty one, or it is a lookup from the descriptor, which a process
/// without any directory's descriptor can't use.
pub(super) const BY_DESCRIPTOR: u32 = bits(libc::AT_EMPTY_PATH as i64);

/// As [`BY_DESCRIPTOR`], for the argument `index`.
pub(super) const fn by_descriptor(index: u8) -> super::Argument {
    with(index, "flags", BY_DESCRIPTOR)
}
