//! One descriptor for a program to poll, where a connection's own does not show everything.
//!
//! It is an epoll over everything there is to wait for (a connection, its alarm, a timer) and a bell, which rings while
//! something is here that has left the socket already. It stays the same one while connections come and go.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::event::{EventfdFlags, epoll, eventfd};

use crate::wait::{self, Deadline};

/// See the module's page.
#[derive(Debug)]
pub(crate) struct Watch {
    epoll: OwnedFd,
    bell: OwnedFd,
    rung: AtomicBool,
}

impl Watch {
    pub(crate) fn new() -> io::Result<Watch> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let watch = Watch { epoll, bell, rung: AtomicBool::new(false) };
        watch.add(&watch.bell)?;
        Ok(watch)
    }

    /// Watches this descriptor, too, until it is removed.
    pub(crate) fn add(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?)
    }

    /// Stops watching it. Closing it is not enough while a duplicate is open somewhere.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        // Fails only for what was never added.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Has the bell ring from now on, or no longer.
    pub(crate) fn ring(&self, on: bool) {
        if self.rung.swap(on, Ordering::Relaxed) == on {
            return;
        }
        // Neither fails: it is rung once and silenced once.
        let _ = if on {
            rustix::io::write(&self.bell, &1u64.to_ne_bytes())
        } else {
            rustix::io::read(&self.bell, &mut [0u8; 8])
        };
    }

    /// Makes the watch readable also when this descriptor has room to write: a program can poll an epoll for reading only.
    pub(crate) fn tell_room(&self, fd: impl AsFd, told: bool) -> io::Result<()> {
        let room = if told { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN | room)?;
        Ok(())
    }

    /// Waits until there is something to do; false when the deadline has passed before.
    pub(crate) fn wait(&self, deadline: Deadline) -> io::Result<bool> {
        wait::readable(self.as_fd(), deadline)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
