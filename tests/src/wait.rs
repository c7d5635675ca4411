//! Waiting for what happens, never for a length of time; and the word for a test that cannot run here.

use std::{
    fs,
    io::Write,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
    io::Errno,
};

/// How long anything may take that should be quick: far more than the slowest machine needs, so only a failure waits for it.
pub const LONG: Duration = Duration::from_secs(90);

/// Between two looks at something that the kernel tells nobody of.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// How many Linux guests boot at once: emulated ones take a processor each.
const BOOTS: usize = 2;

static FREE_BOOTS: Mutex<usize> = Mutex::new(BOOTS);
static BOOT_OVER: Condvar = Condvar::new();

/// The right to boot a Linux guest, kept until it has booted.
#[derive(Debug)]
pub struct BootPermit(());

/// Waits for the right to boot a Linux guest.
#[must_use]
pub fn boot_permit() -> BootPermit {
    let mut free = FREE_BOOTS.lock().unwrap_or_else(PoisonError::into_inner);
    while *free == 0 {
        free = BOOT_OVER.wait(free).unwrap_or_else(PoisonError::into_inner);
    }
    *free -= 1;
    BootPermit(())
}

impl Drop for BootPermit {
    fn drop(&mut self) {
        *FREE_BOOTS.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        BOOT_OVER.notify_one();
    }
}

/// Says that a test cannot run here. cargo counts it as passed; `tools/test.sh` reads the log and counts it as skipped.
pub fn skip(test: &str, reason: &str) {
    println!("skipped: {test}: {reason}");
    if let Some(path) = std::env::var_os("BULKHEAD_SKIP_LOG") {
        let log = fs::OpenOptions::new().append(true).create(true).open(&path);
        let mut log = log.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        log.write_all(format!("{test}: {reason}\n").as_bytes()).expect("the skip log");
    }
}

/// Waits until `fd` is readable; false when the time is over.
pub(crate) fn readable(fd: BorrowedFd<'_>, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left =
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// Waits for something that the kernel tells nobody of, such as a process that another one starts; false when the time is
/// over. Between two looks the processor is left to what is waited for.
#[must_use]
pub fn wait_until(time: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while !done() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    true
}

/// Waits for a change of a directory until `done`; false when the time is over.
fn wait_for_change(dir: &Path, time: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).expect("inotify");
    let changes = inotify::WatchFlags::CREATE
        | inotify::WatchFlags::DELETE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::MOVED_FROM;
    match inotify::add_watch(&watch, dir, changes) {
        Ok(_) => {}
        Err(Errno::NOENT) => return done(),
        Err(error) => panic!("{}: {error}", dir.display()),
    }
    let mut buffer = [0u8; 4096];
    while !done() {
        if !readable(watch.as_fd(), deadline) {
            return done();
        }
        // Whatever it says, the next look at the directory tells.
        let _ = rustix::io::read(&watch, &mut buffer);
    }
    true
}

/// Waits until a directory has no entry (or does not exist); false when the time is over.
#[must_use]
pub fn wait_for_no_entries(dir: &Path, time: Duration) -> bool {
    wait_for_change(dir, time, || fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none()))
}

/// Waits until a file of this path exists; false when the time is over.
#[must_use]
pub fn wait_for_file(path: &Path, time: Duration) -> bool {
    let dir = path.parent().expect("a path with a directory");
    wait_for_change(dir, time, || path.exists())
}

/// Waits until a file or directory is gone; false when the time is over.
#[must_use]
pub fn wait_for_removal(path: &Path, time: Duration) -> bool {
    let dir = path.parent().expect("a path with a directory");
    wait_for_change(dir, time, || !path.exists())
}

/// Waits until a directory has had at least one entry, then returns; at once when `time` is over.
pub fn wait_for_entry(dir: &Path, time: Duration) -> bool {
    wait_for_change(dir, time, || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()))
}
