//! The leaves of `gateway`. What strangers write is read by the worker alone, so its list is the shortest of the house:
//! it uses the descriptors that it is handed, and can make, open or reach nothing else. None of them can connect to a socket.

use super::rule::{Rule, bits, is, masked, table};

/// What each of them does.
pub(super) const ALL: &[Rule] = table! {
    allow SYS_read, "its poll's waker, a panic's look at itself";
    allow SYS_write, "log; a panic's message";
    allow SYS_writev, "std writes several buffers; a panic's message";
    allow SYS_close, "gives a descriptor back";
    allow SYS_fcntl if [
        [is(1, "cmd", bits(libc::F_GETFD as i64))],
        [is(1, "cmd", bits(libc::F_SETFD as i64))],
        [is(1, "cmd", bits(libc::F_GETFL as i64))],
        [is(1, "cmd", bits(libc::F_SETFL as i64))],
    ], "modes of descriptors; no copies, locks, owners or leases";
    allow SYS_ioctl if [
        [is(1, "request", bits(libc::FIONBIO as i64))],
        [is(1, "request", bits(libc::TCGETS as i64))],
    ], "std's set_nonblocking, is the log a terminal; no device is driven";
    allow SYS_ppoll, "waits for descriptors";
    allow SYS_recvmsg, "messages with descriptors";
    allow SYS_sendmsg, "messages with descriptors";
    allow SYS_recvfrom, "std's socket reads";
    allow SYS_sendto, "socket writes without SIGPIPE";
    allow SYS_shutdown, "ends a connection";
    allow SYS_getsockopt, "who a peer is, what went wrong with a socket";
};

#[cfg(target_arch = "x86_64")]
pub(super) const ALL_ARCH: &[Rule] = table! {
    allow SYS_poll, "waits for descriptors";
};

#[cfg(not(target_arch = "x86_64"))]
pub(super) const ALL_ARCH: &[Rule] = &[];

/// Acceptor, worker and mock host open no file.
pub(super) const OPENS_NOTHING: &[Rule] = table! {
    // A panic with RUST_BACKTRACE set looks for its own program and must still die of the panic, so these calls fail instead
    // of killing; the effect is the same: nothing is opened.
    refuse SYS_openat with EACCES, "opens nothing; a panic's backtrace would try";
    refuse SYS_readlinkat with EACCES, "resolves nothing; a panic's backtrace would try";
};

#[cfg(target_arch = "x86_64")]
pub(super) const OPENS_NOTHING_ARCH: &[Rule] = table! {
    refuse SYS_open with EACCES, "opens nothing; a panic's backtrace would try";
    refuse SYS_readlink with EACCES, "resolves nothing; a panic's backtrace would try";
    refuse SYS_stat with EACCES, "resolves nothing; a panic's backtrace would try";
};

#[cfg(not(target_arch = "x86_64"))]
pub(super) const OPENS_NOTHING_ARCH: &[Rule] = &[];

/// A pair of streams and of nothing else: an end of a pair of datagram sockets sends to whatever address it likes.
const STREAM_PAIR: &[super::Argument] = &[
    is(0, "domain", bits(libc::AF_UNIX as i64)),
    masked(1, "type", !bits((libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as i64), bits(libc::SOCK_STREAM as i64)),
];

/// The acceptor: strangers come in; not a byte of a stranger's is read. It has its launcher's uid, so it makes no socket and
/// connects to none: what it needs of qemud is handed to it.
pub(super) const ACCEPTOR: &[Rule] = table! {
    allow SYS_accept4, "a new client on an inherited listener";
    allow SYS_setsockopt if [
        [is(1, "level", bits(libc::IPPROTO_TCP as i64)), is(2, "name", bits(libc::TCP_NODELAY as i64))],
        [is(1, "level", bits(libc::SOL_SOCKET as i64)), is(2, "name", bits(libc::SO_KEEPALIVE as i64))],
    ], "TCP_NODELAY and keepalive of a TCP client";
    allow SYS_epoll_create1, "event loop";
    allow SYS_epoll_ctl, "event loop";
    allow SYS_epoll_pwait, "event loop";
    allow SYS_socketpair if [STREAM_PAIR], "the channel of a new worker";
};

#[cfg(target_arch = "x86_64")]
pub(super) const ACCEPTOR_ARCH: &[Rule] = table! {
    allow SYS_epoll_wait, "event loop";
};

#[cfg(not(target_arch = "x86_64"))]
pub(super) const ACCEPTOR_ARCH: &[Rule] = &[];

/// The worker: a client's socket, its streams, and a connection to its driver's daemon, all of which it is handed.
pub(super) const WORKER: &[Rule] = table! {
    allow SYS_fstat, "kind of a descriptor that a client sent";
    allow SYS_setsockopt if [
        [is(1, "level", bits(libc::IPPROTO_TCP as i64)), is(2, "name", bits(libc::TCP_NODELAY as i64))],
    ], "TCP_NODELAY of a client";
};

/// The mock host: clients' sockets, which it is handed, and the consoles of guests that are not there.
pub(super) const MOCK_HOST: &[Rule] = table! {
    allow SYS_epoll_ctl, "event loop, consoles";
    allow SYS_epoll_pwait, "event loop";
    allow SYS_epoll_pwait2, "consoles";
    allow SYS_socketpair if [STREAM_PAIR], "the two ends of a console";
    allow SYS_uname, "the name of the host";
};

#[cfg(target_arch = "x86_64")]
pub(super) const MOCK_HOST_ARCH: &[Rule] = table! {
    allow SYS_epoll_wait, "event loop";
};

#[cfg(not(target_arch = "x86_64"))]
pub(super) const MOCK_HOST_ARCH: &[Rule] = &[];

/// Flags with which files of `/proc` are read.
const READING: u32 = bits((libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE) as i64);
const CLOEXEC: u32 = bits(libc::O_CLOEXEC as i64);

/// The process that asks polkit: its bus is connected before the filter is on.
pub(super) const POLKIT: &[Rule] = table! {
    allow SYS_openat if [[masked(2, "flags", !READING | CLOEXEC, CLOEXEC)]], "start time of a client's process; Landlock leaves /proc alone";
    allow SYS_fstat, "size of a file of /proc";
    allow SYS_statx, "size of a file of /proc";
    allow SYS_lseek, "where std is in a file of /proc";
    allow SYS_epoll_ctl, "event loop";
    allow SYS_epoll_pwait, "event loop";
    allow SYS_epoll_pwait2, "event loop";
    refuse SYS_readlinkat with EACCES, "resolves nothing; a panic's backtrace would try";
};

#[cfg(target_arch = "x86_64")]
pub(super) const POLKIT_ARCH: &[Rule] = table! {
    allow SYS_epoll_wait, "event loop";
    refuse SYS_open with EACCES, "the C library opens by openat; a panic's backtrace would try";
    refuse SYS_readlink with EACCES, "resolves nothing; a panic's backtrace would try";
    refuse SYS_stat with EACCES, "resolves nothing; a panic's backtrace would try";
};

#[cfg(not(target_arch = "x86_64"))]
pub(super) const POLKIT_ARCH: &[Rule] = &[];
