//! The raw system calls that neither rustix nor the standard library wraps. Nothing here allocates or locks, so all of it
//! may run between `clone3` and `exec`.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use seccompiler::sock_filter;

/// Turns the result of `libc::syscall` into a `Result`.
fn checked(result: c_long) -> Result<c_long, Errno> {
    if result == -1 { Err(last_errno()) } else { Ok(result) }
}

/// The calling thread's errno.
pub(crate) fn last_errno() -> Errno {
    // SAFETY: __errno_location always returns a valid pointer to the calling thread's own errno.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// The kernel's `struct clone_args`, version 2.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Default signal handlers in the child; libc's constant has a type too narrow for its value.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// What [`clone3`] returns, on either side.
pub(crate) enum Forked {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// A fork with namespaces: the child continues on a copy of the caller's memory, with default signal handlers.
///
/// # Safety
/// The caller has no other thread, or the child only does what is safe after a fork of a threaded program; the child must
/// end by `exec` or `_exit` and never return into code that the parent also runs.
pub(crate) unsafe fn clone3(namespaces: u64) -> Result<Forked, Errno> {
    let mut pidfd: c_int = -1;
    let mut args = CloneArgs {
        flags: namespaces | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // SAFETY: args is a valid clone_args of the length given and pidfd outlives the call; without CLONE_VM and a stack the
    // child runs on its own copy of this stack. What the child may do next is the caller's promise.
    let pid = checked(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: clone3 succeeded with CLONE_PIDFD, so the kernel stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent { pid: i32::try_from(pid).unwrap_or(-1), pidfd })
}

/// The kernel's `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

pub(crate) const MOUNT_RDONLY: u64 = 0x1;
pub(crate) const MOUNT_NOSUID: u64 = 0x2;
pub(crate) const MOUNT_NODEV: u64 = 0x4;
pub(crate) const MOUNT_NOEXEC: u64 = 0x8;

/// Sets attributes (and, when not 0, the propagation) of the mount at `path` as seen from the working directory.
pub(crate) fn mount_setattr(path: &CStr, recursive: bool, set: u64, propagation: u64) -> Result<(), Errno> {
    mount_setattr_at(libc::AT_FDCWD, path, if recursive { libc::AT_RECURSIVE } else { 0 }, set, propagation)
}

/// Sets attributes of the whole tree of mounts that `tree` (from open_tree) stands for.
pub(crate) fn mount_setattr_tree(tree: BorrowedFd<'_>, set: u64) -> Result<(), Errno> {
    mount_setattr_at(tree.as_raw_fd(), c"", libc::AT_RECURSIVE | libc::AT_EMPTY_PATH, set, 0)
}

fn mount_setattr_at(at: RawFd, path: &CStr, flags: c_int, set: u64, propagation: u64) -> Result<(), Errno> {
    let attr = MountAttr { set, clear: 0, propagation, userns_fd: 0 };
    // SAFETY: path is NUL-terminated and attr is a valid mount_attr of the length given; both outlive the call.
    checked(unsafe {
        libc::syscall(libc::SYS_mount_setattr, at, path.as_ptr(), flags, &raw const attr, size_of::<MountAttr>())
    })?;
    Ok(())
}

/// Closes every descriptor from `first` to `last`, both included.
///
/// # Safety
/// Nothing in this process may use a descriptor of that range afterwards.
pub(crate) unsafe fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: the call touches no memory; that no owner of these descriptors is left is the caller's promise.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0 as c_uint) })?;
    Ok(())
}

/// Makes `target` a copy of `source`, replacing what `target` was; the copy survives `exec`.
///
/// # Safety
/// Nothing in this process may still rely on what `target` was.
pub(crate) unsafe fn dup_onto(source: RawFd, target: RawFd) -> Result<(), Errno> {
    // SAFETY: the call touches no memory; that nobody owns `target` is the caller's promise.
    checked(unsafe { libc::syscall(libc::SYS_dup3, source, target, 0 as c_int) })?;
    Ok(())
}

/// Sets the disposition of every signal to the default one; the kernel keeps ignored signals ignored over `exec`.
pub(crate) fn default_signal_handlers() {
    // The kernel's own structure (handler, flags, restorer, mask; all zero is SIG_DFL), since the C library's function
    // keeps two signals to itself.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: default covers the kernel's sigaction of every architecture, which is only read; a mask has 8 bytes.
        // KILL and STOP are refused with an error, which is the answer wanted.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8usize) };
    }
}

/// Unblocks every signal of the calling thread.
pub(crate) fn empty_signal_mask() -> Result<(), Errno> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given, and sigprocmask only reads it afterwards.
    let result = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Enforces a prepared Landlock ruleset on the calling thread; no_new_privs must be set.
pub(crate) fn landlock_restrict_self(ruleset: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the call touches no memory of ours.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0 as c_uint) })?;
    Ok(())
}

/// The Landlock ABI of the running kernel, 0 when it has none.
pub(crate) fn landlock_abi() -> u32 {
    const LANDLOCK_CREATE_RULESET_VERSION: c_uint = 1;
    // SAFETY: with the VERSION flag the kernel takes a null attribute of length 0 and only returns a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// Whose filter [`seccomp_filter`] sets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    Current,
    All,
}

/// Adds a seccomp filter; no_new_privs must be set. A thread that cannot be synchronised is reported as ESRCH.
pub(crate) fn seccomp_filter(program: &[sock_filter], threads: Threads) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        // The kernel's and seccompiler's sock_filter are the same repr(C) struct, and the kernel only reads it.
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    let flags = if threads == Threads::All { libc::SECCOMP_FILTER_FLAG_TSYNC } else { 0 };
    // SAFETY: program points to `len` filter instructions that outlive the call.
    let result =
        checked(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) })?;
    // With TSYNC a positive result is the id of a thread that has another filter tree.
    if result == 0 { Ok(()) } else { Err(Errno::SRCH) }
}

/// A NULL-terminated array of C strings, as `execve` takes it.
pub(crate) struct CStrArray {
    _owned: Vec<std::ffi::CString>,
    pointers: Vec<*const c_char>,
}

impl CStrArray {
    pub(crate) fn new(owned: Vec<std::ffi::CString>) -> CStrArray {
        // A CString's bytes live on the heap, so moving the Vec of them leaves the pointers valid.
        let pointers = owned.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        CStrArray { _owned: owned, pointers }
    }
}

/// Replaces this process by `program`; returns only on failure.
pub(crate) fn execveat(program: BorrowedFd<'_>, argv: &CStrArray, envp: &CStrArray) -> Errno {
    // SAFETY: argv and envp are NULL-terminated arrays of NUL-terminated strings that live as long as their CStrArray.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.pointers.as_ptr(),
            envp.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}

/// Replaces this process by the program at `path`; returns only on failure.
pub(crate) fn execve(path: &CStr, argv: &CStrArray, envp: &CStrArray) -> Errno {
    // SAFETY: as in execveat; path is NUL-terminated.
    unsafe {
        libc::syscall(libc::SYS_execve, path.as_ptr(), argv.pointers.as_ptr(), envp.pointers.as_ptr());
    }
    last_errno()
}

/// Ends the calling process at once, without running any handler of exit.
pub(crate) fn exit_now(code: c_int) -> ! {
    // SAFETY: _exit takes no memory and never returns.
    unsafe { libc::_exit(code) }
}

/// Borrows a descriptor by its number.
///
/// # Safety
/// `fd` is open for as long as the borrow is used.
pub(crate) unsafe fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the caller's promise.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
