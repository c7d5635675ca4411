//! QEMU, from before its exec to its end: an allow-list made from traces of boots.
//!
//! Traced were 7.2's machines pc, q35, microvm and isapc with disks on every bus, raw and qcow2, threads and Linux AIO,
//! kernels and firmware, serial and virtio consoles, balloon, random numbers, panics, plugged memory and devices, memory by
//! memfd and by NUMA node, KVM and TCG, stop, reset and quit. Arm's virt, block devices and probes run under it in tests by
//! hand or of whole programs.
//! To the union were added calls that other releases of QEMU, of GLib and of the C library make in the same
//! places; the reasons say which. What a later kind of device needs (a vhost or tap ioctl, locked memory) is added here
//! together with that device.
//!
//! The filter is there before the program is, so the dynamic loader and one `execve` have to pass. From its own start on
//! QEMU refuses itself every exec (`-sandbox spawn=deny`), and whatever would be executed before that has this filter too.

use super::base::THREAD;
use super::rule::{Argument, Rule, bits, is, masked, table, without};

/// Calls from this number on are younger than the table (449 came with Linux 5.16): a C library that tries one is told that
/// the kernel does not know it and does without, where killing would end every guest after an upgrade of the host.
pub(super) const FIRST_NEW_CALL: u32 = 449;

/// The flags that files are opened with. O_PATH, O_TMPFILE and O_ASYNC are not among them.
const OPEN_FLAGS: u32 = bits(
    (libc::O_ACCMODE
        | libc::O_CREAT
        | libc::O_EXCL
        | libc::O_TRUNC
        | libc::O_APPEND
        | libc::O_NONBLOCK
        | libc::O_NOCTTY
        | libc::O_NOFOLLOW
        | libc::O_NOATIME
        | libc::O_DIRECTORY
        | libc::O_DIRECT
        | libc::O_SYNC
        | libc::O_CLOEXEC
        | libc::O_LARGEFILE) as i64,
);

/// Protections of memory that exist; the last two are Arm's branch targets and memory tags.
#[cfg(not(target_arch = "aarch64"))]
const PROT: u32 = bits((libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as i64);
#[cfg(target_arch = "aarch64")]
const PROT: u32 = bits((libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC | 0x10 | 0x20) as i64);
const WRITE: u32 = bits(libc::PROT_WRITE as i64);
const EXEC: u32 = bits(libc::PROT_EXEC as i64);

/// The type of an ioctl lies in its second byte, and 0xae is KVM's.
const IOCTL_TYPE: u32 = 0xff00;
const KVM: u32 = 0xae00;

/// Block devices: what QEMU asks of a disk that is one, and what a guest's discard and write-zeroes become.
const BLKROGET: u32 = 0x125e;
const BLKSECTGET: u32 = 0x1267;
const BLKSSZGET: u32 = 0x1268;
const BLKGETSIZE64: u32 = 0x8008_1272;
const BLKDISCARD: u32 = 0x1277;
const BLKALIGNOFF: u32 = 0x127a;
const BLKPBSZGET: u32 = 0x127b;
const BLKDISCARDZEROES: u32 = 0x127c;
const BLKZEROOUT: u32 = 0x127f;
/// The alignment that XFS wants of direct I/O.
const XFS_IOC_DIOINFO: u32 = 0x800c_581e;

const fn request(number: u32) -> Argument {
    is(1, "request", number)
}

const fn option(number: i32) -> Argument {
    is(0, "option", bits(number as i64))
}

const fn command(number: i32) -> Argument {
    is(1, "cmd", bits(number as i64))
}

const fn signal(number: i32) -> Argument {
    is(2, "sig", bits(number as i64))
}

const fn operation(number: u32) -> Argument {
    is(0, "op", number)
}

/// Every QEMU: its start, memory, threads, clocks.
pub(super) const PROCESS: &[Rule] = table! {
    // The start.
    allow SYS_execve, "the start of QEMU itself; its own sandbox refuses every later one";
    allow SYS_set_tid_address, "the C library at the start";
    allow SYS_set_robust_list, "the C library at a thread's start";
    allow SYS_rseq, "the C library at a thread's start";
    allow SYS_prlimit64, "the C library asks for the stack's limit; a soft limit may be raised to the hard one";
    allow SYS_seccomp if [[operation(0)], [operation(1)], [operation(2)], [operation(3)]], "QEMU's own sandbox; a further filter can only take away";
    allow SYS_capget, "libcap-ng, which QEMU is linked to, reads the (empty) sets";

    // Memory.
    allow SYS_brk, "malloc grows its heap";
    allow SYS_munmap, "memory is given back";
    allow SYS_mremap, "malloc moves large blocks; it can't add permissions";
    allow SYS_madvise, "guest memory: huge pages, merging, balloon; malloc";
    allow SYS_msync, "memory of a file is written back";
    allow SYS_mlock, "keys of the crypto library; the limit of locked memory is small";
    allow SYS_munlock, "keys of the crypto library";
    allow SYS_memfd_create, "guest memory that others can map, and QEMU's test for it at start";
    allow SYS_mbind, "guest memory on NUMA nodes";
    allow SYS_get_mempolicy, "libnuma, which QEMU is linked to";
    allow SYS_set_mempolicy, "libnuma tries at start which policies there are";
    allow SYS_membarrier, "RCU of QEMUs that are built with it";

    // Threads, locks, signals and the end.
    allow SYS_clone if [[THREAD]], "threads of QEMU; no child, no namespace";
    refuse SYS_clone3 with ENOSYS, "its flags lie in memory where no filter sees them; the C library falls back to clone";
    allow SYS_futex, "locks and condition variables";
    allow SYS_sched_yield, "QEMU's spinning locks";
    allow SYS_sched_getaffinity, "libnuma and the C library count processors";
    allow SYS_sched_getattr, "GLib reads it for its pools of threads";
    allow SYS_sched_getscheduler, "GLib reads it for its pools of threads";
    allow SYS_sched_getparam, "GLib reads it for its pools of threads";
    allow SYS_sched_get_priority_max, "real-time bounds, which the C library asks for with attributes of threads";
    allow SYS_sched_get_priority_min, "real-time bounds, which the C library asks for with attributes of threads";
    refuse SYS_sched_setattr with EPERM, "GLib tries to set what it read for its pools of threads, and does without";
    refuse SYS_sched_setscheduler with EPERM, "what its threads weigh is decided outside";
    refuse SYS_sched_setparam with EPERM, "what its threads weigh is decided outside";
    refuse SYS_sched_setaffinity with EPERM, "where its threads run is decided outside";
    refuse SYS_setpriority with EPERM, "what its threads weigh is decided outside";
    allow SYS_getcpu, "the C library where the vDSO can't answer";
    allow SYS_restart_syscall, "the kernel resumes an interrupted wait";
    allow SYS_rt_sigaction, "handlers of QEMU's start and of its virtual processors";
    allow SYS_rt_sigprocmask, "thread start and virtual processors";
    allow SYS_rt_sigreturn, "return from a signal handler";
    allow SYS_rt_sigtimedwait, "virtual processors of older releases take their signal so";
    allow SYS_sigaltstack, "coroutines of builds without ucontext";
    allow SYS_tgkill if [[signal(libc::SIGUSR1)], [signal(libc::SIGABRT)], [signal(libc::SIGBUS)]], "virtual processors are woken by SIGUSR1, broken memory is SIGBUS, abort is SIGABRT; only QEMU is in reach of them, pid 1 ignores what it has no handler for";
    allow SYS_exit, "a thread ends";
    allow SYS_exit_group, "QEMU ends";
    allow SYS_prctl if [
        [option(libc::PR_SET_NAME)],
        [option(libc::PR_SET_VMA)],
        [option(libc::PR_SET_TIMERSLACK)],
        [option(libc::PR_MCE_KILL)],
        [option(libc::PR_SET_NO_NEW_PRIVS)],
        [option(libc::PR_GET_NO_NEW_PRIVS)],
        [option(libc::PR_SET_SECCOMP)],
        [option(libc::PR_GET_SECCOMP)],
        [option(libc::PR_CAPBSET_READ)],
        [option(libc::PR_CAP_AMBIENT)],
        [option(libc::PR_GET_SECUREBITS)],
        [option(libc::PR_GET_DUMPABLE)],
    ], "names of threads and mappings, exact timers, early word of broken memory, its own sandbox, libcap-ng's reading";

    // Who, where and when.
    allow SYS_getpid, "abort, log lines";
    allow SYS_getppid, "log lines";
    allow SYS_gettid, "names of threads, signals to them";
    allow SYS_getuid, "GLib: own identity";
    allow SYS_geteuid, "GLib: own identity";
    allow SYS_getgid, "GLib: own identity";
    allow SYS_getegid, "GLib: own identity";
    allow SYS_getresuid, "GLib: is this a set-uid program";
    allow SYS_getresgid, "GLib: is this a set-gid program";
    allow SYS_getrusage, "processor time of a thread";
    allow SYS_times, "processor time";
    allow SYS_uname, "release of the kernel";
    allow SYS_sysinfo, "the C library counts memory pages";
    allow SYS_clock_gettime, "clocks where the vDSO can't answer";
    allow SYS_clock_getres, "clocks where the vDSO can't answer";
    allow SYS_gettimeofday, "clocks where the vDSO can't answer";
    allow SYS_clock_nanosleep, "a virtual processor that is slowed down";
    allow SYS_nanosleep, "the same, of older C libraries";
    allow SYS_getrandom, "random numbers for the guest, seeds of hash tables";
};

/// Every QEMU: the files of its root, which are read-only but in /tmp, and what it was handed.
pub(super) const FILES: &[Rule] = table! {
    allow SYS_openat if [[without(2, "flags", !OPEN_FLAGS)]], "libraries, firmware, kernel, /dev/kvm; the root has nothing else";
    allow SYS_fstat, "kind and size of a file";
    allow SYS_newfstatat, "the C library's stat";
    allow SYS_statx, "alignment of direct I/O from QEMU 8 on; newer C libraries";
    allow SYS_statfs, "page size of a directory for guest memory; libselinux at start";
    allow SYS_fstatfs, "kind of file system of a disk";
    allow SYS_faccessat, "is there a library, a firmware";
    refuse SYS_faccessat2 with ENOSYS, "the C library falls back to faccessat";
    refuse SYS_openat2 with ENOSYS, "its flags lie in memory where no filter sees them";
    allow SYS_readlinkat, "where a firmware really is";
    allow SYS_getdents64, "devices and CPUs under /sys, where there is one";
    allow SYS_getcwd, "paths of firmware";
    allow SYS_chdir, "QEMU's start";
    allow SYS_fchdir, "libndctl, which QEMU is linked to, comes back from looking around";
    allow SYS_umask, "modes of what it makes in /tmp";
    allow SYS_unlinkat, "what it made in /tmp";
    allow SYS_read, "files, monitor, event descriptors";
    allow SYS_write, "files, monitor, event descriptors, standard error";
    allow SYS_readv, "the same, into several buffers";
    allow SYS_writev, "the same, from several buffers";
    allow SYS_pread64, "reads and writes of disks";
    allow SYS_pwrite64, "reads and writes of disks";
    allow SYS_preadv, "reads and writes of disks";
    allow SYS_pwritev, "reads and writes of disks";
    allow SYS_preadv2, "disks, in newer releases";
    allow SYS_pwritev2, "disks; writes that are on the medium at once, in newer releases";
    allow SYS_lseek, "size of a disk, its holes";
    allow SYS_fsync, "a guest's flush";
    allow SYS_fdatasync, "a guest's flush";
    allow SYS_sync_file_range, "a guest's flush of a part";
    allow SYS_fallocate, "a guest's discard; balloon in shared memory";
    allow SYS_ftruncate, "an image grows; shared memory gets its size";
    allow SYS_copy_file_range, "copies within images";
    allow SYS_fadvise64, "pages of a disk that are read no more";
    allow SYS_io_setup, "Linux AIO of a disk";
    allow SYS_io_submit, "Linux AIO of a disk";
    allow SYS_io_getevents, "Linux AIO of a disk";
    allow SYS_io_cancel, "Linux AIO of a disk";
    allow SYS_io_destroy, "Linux AIO of a disk";
    refuse SYS_io_uring_setup with ENOSYS, "calls that no filter sees; QEMU tries at start and does without";
    refuse SYS_io_uring_enter with ENOSYS, "calls that no filter sees";
    refuse SYS_io_uring_register with ENOSYS, "calls that no filter sees";
    allow SYS_close, "gives a descriptor back";
    allow SYS_close_range, "gives descriptors back";
    allow SYS_dup, "a copy of a descriptor";
    allow SYS_dup3, "a copy of a descriptor";
    allow SYS_fcntl if [
        [command(libc::F_GETFD)],
        [command(libc::F_SETFD)],
        [command(libc::F_GETFL)],
        [command(libc::F_SETFL)],
        [command(libc::F_DUPFD)],
        [command(libc::F_DUPFD_CLOEXEC)],
        [command(libc::F_GETLK)],
        [command(libc::F_OFD_GETLK)],
        [command(libc::F_OFD_SETLK)],
        [command(libc::F_ADD_SEALS)],
        [command(libc::F_GET_SEALS)],
    ], "modes and copies of descriptors, locks of images, seals of shared memory; no owners, signals or leases";
    allow SYS_ioctl if [
        [masked(1, "request", IOCTL_TYPE, KVM)],
        [request(bits(libc::TCGETS as i64))],
        [request(bits(libc::FIONBIO as i64))],
        [request(bits(libc::FIONREAD as i64))],
        [request(bits(libc::FIOCLEX as i64))],
        [request(BLKROGET)],
        [request(BLKSECTGET)],
        [request(BLKSSZGET)],
        [request(BLKGETSIZE64)],
        [request(BLKDISCARD)],
        [request(BLKALIGNOFF)],
        [request(BLKPBSZGET)],
        [request(BLKDISCARDZEROES)],
        [request(BLKZEROOUT)],
        [request(XFS_IOC_DIOINFO)],
    ], "KVM's own (only a KVM guest has its device, and a probe), is it a terminal, modes of descriptors, disks that are block devices";
};

/// Every QEMU: waiting, and the sockets that it was handed. It can make none and connect to nothing.
pub(super) const EVENTS: &[Rule] = table! {
    allow SYS_ppoll, "waits for descriptors";
    allow SYS_epoll_create1, "event loop with many descriptors";
    allow SYS_epoll_ctl, "event loop with many descriptors";
    allow SYS_epoll_pwait, "event loop with many descriptors";
    allow SYS_epoll_pwait2, "event loop with many descriptors, in newer releases";
    allow SYS_eventfd2, "wakers of event loops, doorbells of virtio devices";
    allow SYS_pipe2, "wakers of event loops of older GLibs";
    allow SYS_timerfd_create, "timers of event loops";
    allow SYS_timerfd_settime, "timers of event loops";
    allow SYS_timerfd_gettime, "timers of event loops";
    allow SYS_signalfd4, "signals as events";

    refuse SYS_socket with EACCES, "it has the sockets that it was handed; a library that would ask a name service does without";
    allow SYS_recvmsg, "monitor and consoles, descriptors that the monitor is sent";
    allow SYS_sendmsg, "monitor and consoles";
    allow SYS_recvfrom, "monitor and consoles";
    allow SYS_sendto, "monitor and consoles";
    allow SYS_shutdown, "monitor and consoles";
    allow SYS_getsockopt, "what kind of socket it was handed";
    allow SYS_setsockopt, "QEMU tries sends without copies; the sockets are Unix ones";
    allow SYS_getsockname, "what kind of socket it was handed";
    allow SYS_getpeername, "what kind of socket it was handed";

    // Refused where it would kill, since the answer is known in advance to QEMU's own checks.
    refuse SYS_userfaultfd with EPERM, "holds the kernel in the middle of a copy: a tool of exploits; QEMU asks whether it may";
};

#[cfg(target_arch = "x86_64")]
pub(super) const QEMU_ARCH: &[Rule] = table! {
    allow SYS_arch_prctl if [
        [is(0, "code", ARCH_SET_FS)],
        [is(0, "code", ARCH_CET_STATUS)],
        [is(0, "code", ARCH_SHSTK_STATUS)],
    ], "the C library at the start: its thread's pointer, and whether there are shadow stacks";
    allow SYS_access, "is there a library, a firmware";
    allow SYS_open if [[without(1, "flags", !OPEN_FLAGS)]], "open of older C libraries; the root has nothing of the host's";
    allow SYS_stat, "stat of older C libraries";
    allow SYS_lstat, "lstat of older C libraries";
    allow SYS_readlink, "where a firmware really is";
    allow SYS_unlink, "what it made in /tmp";
    allow SYS_dup2, "a copy of a descriptor";
    allow SYS_poll, "waits for descriptors";
    allow SYS_epoll_wait, "event loop with many descriptors";
    allow SYS_time, "clocks where the vDSO can't answer";
};

#[cfg(target_arch = "x86_64")]
const ARCH_SET_FS: u32 = 0x1002;
#[cfg(target_arch = "x86_64")]
const ARCH_CET_STATUS: u32 = 0x3001;
#[cfg(target_arch = "x86_64")]
const ARCH_SHSTK_STATUS: u32 = 0x5005;

#[cfg(not(target_arch = "x86_64"))]
pub(super) const QEMU_ARCH: &[Rule] = &[];

/// With KVM no memory is both written to and executed.
pub(super) const NEVER_BOTH: &[Rule] = table! {
    allow SYS_mmap if [[without(2, "prot", !PROT | WRITE)], [without(2, "prot", !PROT | EXEC)]], "libraries, guest memory; never written and executed";
    allow SYS_mprotect if [[without(2, "prot", !PROT | WRITE)], [without(2, "prot", !PROT | EXEC)]], "the loader's read-only pages, guards; never written and executed";
};

/// The code generator writes where it executes.
pub(super) const GENERATES_CODE: &[Rule] = table! {
    allow SYS_mmap if [[without(2, "prot", !PROT)]], "libraries, guest memory, the code generator's buffer";
    allow SYS_mprotect if [[without(2, "prot", !PROT)]], "the loader's read-only pages, guards, the code generator's buffer";
};
