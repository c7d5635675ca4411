//! How a daemon's loop waits: it looks for a moment whether the next message comes at once, and then it sleeps. And the one
//! question to the kernel that waits for nothing.

use std::{io, os::fd::AsFd, time::Duration};

use api::look::Look;
use mio::{Events, Poll};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
};

/// Waits until something is ready, `wait` at most. A signal that interrupts it brings no event.
///
/// # Errors
/// When the poll fails.
pub fn until_ready(poll: &mut Poll, events: &mut Events, look: &Look, wait: Option<Duration>) -> io::Result<()> {
    let soon = || poll.poll(events, Some(Duration::ZERO)).map(|()| (!events.is_empty()).then_some(()));
    let polled = match look.look(soon) {
        Ok(None) => poll.poll(events, wait),
        looked => looked.map(drop),
    };
    match polled {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        other => other,
    }
}

/// Whether the peer of a stream socket has closed its end, or the socket is broken: nothing that is sent now can
/// arrive. Asked of the kernel, without reading. Half a hang-up is not one.
pub fn hung_up(socket: &impl AsFd) -> bool {
    // A hang-up is told unasked.
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    loop {
        match rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Err(Errno::INTR) => {}
            polled => return polled != Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, net::Shutdown, os::unix::net::UnixStream};

    #[test]
    fn half_a_hang_up_is_none() {
        let (mut a, b) = UnixStream::pair().unwrap();
        assert!(!hung_up(&b));
        a.write_all(b"x").unwrap();
        assert!(!hung_up(&b), "bytes to read are no hang-up");
        a.shutdown(Shutdown::Write).unwrap();
        assert!(!hung_up(&b));
        drop(a);
        assert!(hung_up(&b));
    }
}
