//! Waiting for descriptors, with deadlines.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
};

/// A moment after which there is no more waiting; none is never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// The moment `timeout` from now. A time beyond the clock's range is never.
    pub(crate) fn after(timeout: Option<Duration>) -> Deadline {
        Deadline(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// The time that is left.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Whether there is none left.
    pub(crate) fn passed(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}

/// Waits until `fd` has something to read or the deadline has passed; true when it has.
pub(crate) fn readable(fd: BorrowedFd<'_>, deadline: Deadline) -> io::Result<bool> {
    ready(fd, PollFlags::IN, deadline)
}

/// Waits until `fd` is ready in one of these ways, or broken, or the deadline has passed; true unless it has.
pub(crate) fn ready(fd: BorrowedFd<'_>, how: PollFlags, deadline: Deadline) -> io::Result<bool> {
    poll(&mut [PollFd::from_borrowed_fd(fd, how)], deadline)
}

/// Like [`ipc::wait::hung_up`] where half a hang-up is one: on a stream that this side never closes half. A host says no more than that.
pub(crate) fn peer_gone(stream: &impl AsFd) -> bool {
    ready(stream.as_fd(), PollFlags::RDHUP, Deadline::after(Some(Duration::ZERO))).unwrap_or(true)
}

fn poll(fds: &mut [PollFd<'_>], deadline: Deadline) -> io::Result<bool> {
    loop {
        let left = deadline.left().map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match rustix::event::poll(fds, left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, os::unix::net::UnixStream};

    #[test]
    fn readiness_and_time_out_are_told_apart() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let soon = || Deadline::after(Some(Duration::from_millis(5)));
        assert!(!readable(b.as_fd(), soon()).unwrap());
        a.write_all(b"x").unwrap();
        assert!(readable(b.as_fd(), Deadline::after(None)).unwrap());
        assert!(Deadline::after(Some(Duration::ZERO)).passed());
        assert!(!Deadline::after(Some(Duration::MAX)).passed());
    }
}
