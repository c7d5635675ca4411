//! One descriptor for a program to poll, where a connection's own does not tell all.
//!
//! It is an epoll over the connection, its alarm, and a bell that rings while something is here that has left the socket
//! already.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::event::{EventfdFlags, epoll, eventfd};
use wire::client::Client;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Watch {
    epoll: OwnedFd,
    bell: OwnedFd,
    rung: AtomicBool,
}

impl Watch {
    pub(super) fn new(client: &Client) -> io::Result<Watch> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let watch = Watch { epoll, bell, rung: AtomicBool::new(false) };
        for fd in [client.as_fd(), client.alarm(), watch.bell.as_fd()] {
            epoll::add(&watch.epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        Ok(watch)
    }

    /// Has the bell ring from now on, or no longer.
    pub(super) fn ring(&self, on: bool) {
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

    /// Whether room to write on the connection is told, too: an epoll can be waited on for nothing else than reading.
    pub(super) fn tell_room(&self, client: &Client, told: bool) -> io::Result<()> {
        let room = if told { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        epoll::modify(&self.epoll, client, epoll::EventData::new_u64(0), epoll::EventFlags::IN | room)?;
        Ok(())
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
