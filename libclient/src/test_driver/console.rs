//! A console that answers with what is typed.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread::{self, JoinHandle},
};

use rustix::{event::epoll, io::Errno, net::SendFlags};

use crate::{ConsoleStream, wait};

/// The guest's end of an open console. Dropping it ends the stream and the thread that serves it.
pub(crate) struct Echo {
    socket: UnixStream,
    served: Served,
}

/// Who says the echo.
enum Served {
    /// Nobody: the console is only watched.
    No,
    /// A thread.
    Thread(Option<JoinHandle<()>>),
    /// Whoever calls [`Echo::pump`]; with what could not be written yet.
    Loop(Vec<u8>),
}

impl Echo {
    /// A new console and the end that its user gets. A watched one takes nothing and, as this guest says nothing of its own
    /// accord, stays silent. With `watch`, an epoll, no thread is started: the console rings there and is pumped.
    pub(crate) fn open(read_only: bool, watch: Option<&OwnedFd>) -> io::Result<(Echo, OwnedFd)> {
        let (socket, user) = UnixStream::pair()?;
        let served = if read_only {
            socket.shutdown(Shutdown::Read)?;
            Served::No
        } else if let Some(watch) = watch {
            socket.set_nonblocking(true)?;
            let edges = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP;
            epoll::add(watch, &socket, epoll::EventData::new_u64(0), edges | epoll::EventFlags::ET)?;
            Served::Loop(Vec::new())
        } else {
            let served = ConsoleStream::new(socket.try_clone()?.into())?;
            Served::Thread(Some(thread::Builder::new().name("test console".into()).spawn(move || serve(&served))?))
        };
        Ok((Echo { socket, served }, user.into()))
    }

    /// Whether its user is still there.
    pub(crate) fn in_use(&self) -> bool {
        !wait::hung_up(&self.socket)
    }

    /// Says again what was typed, as far as that goes without waiting.
    pub(crate) fn pump(&mut self) {
        let Served::Loop(pending) = &mut self.served else { return };
        let mut buffer = [0; 4096];
        loop {
            match write_some(&self.socket, pending) {
                Ok(()) if pending.is_empty() => {}
                Ok(()) => return,
                Err(_) => break,
            }
            match (&self.socket).read(&mut buffer) {
                Ok(count @ 1..) => pending.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(0) | Err(_) => break,
            }
        }
        // Fails when the user is gone already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Writes what the socket takes of `pending`.
fn write_some(socket: &UnixStream, pending: &mut Vec<u8>) -> io::Result<()> {
    if pending.is_empty() {
        return Ok(());
    }
    match rustix::net::send(socket, pending, SendFlags::NOSIGNAL) {
        Ok(sent) => drop(pending.drain(..sent)),
        Err(Errno::AGAIN) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(())
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Fails only when the user is gone, and then the thread has ended or is about to.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Served::Thread(thread) = &mut self.served {
            // The thread has no way to fail that anybody would want to know of.
            let _ = thread.take().map(JoinHandle::join);
        }
    }
}

fn serve(mut socket: &ConsoleStream) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = socket.read(&mut buffer) {
        if socket.write_all(buffer.get(..count).unwrap_or_default()).is_err() {
            break;
        }
    }
    // The user's end reads the end of the stream, though the machine still holds its copy of the socket.
    let _ = socket.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_ends_with_its_guest_even_when_its_user_does_not_read() {
        let (echo, user) = Echo::open(false, None).unwrap();
        let mut user = UnixStream::from(user);
        user.set_nonblocking(true).unwrap();
        // More than both socket buffers hold: the echo is stuck in writing.
        while user.write(&[b'x'; 65536]).is_ok() {}
        drop(echo);
        user.set_nonblocking(false).unwrap();
        let mut rest = Vec::new();
        // The end, or a reset for what was never read; not a wait.
        let _ = user.read_to_end(&mut rest);
    }

    #[test]
    fn a_user_who_leaves_is_noticed_at_once() {
        let (echo, user) = Echo::open(false, None).unwrap();
        assert!(echo.in_use());
        drop(user);
        assert!(!echo.in_use());
    }

    #[test]
    fn a_console_in_a_loop_rings_and_is_pumped() {
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let (mut echo, user) = Echo::open(false, Some(&watch)).unwrap();
        let mut user = UnixStream::from(user);
        user.set_nonblocking(true).unwrap();
        let mut typed = 0;
        while let Ok(count) = user.write(&[b'x'; 4096]) {
            typed += count;
        }
        let mut heard = 0;
        let mut buffer = [0; 65536];
        while heard < typed {
            let deadline = wait::Deadline::after(Some(std::time::Duration::from_secs(20)));
            assert!(wait::readable(std::os::fd::AsFd::as_fd(&watch), deadline).unwrap());
            let mut space = [std::mem::MaybeUninit::<epoll::Event>::uninit(); 4];
            let _ = epoll::wait(&watch, &mut space, None).unwrap();
            echo.pump();
            while let Ok(count @ 1..) = user.read(&mut buffer) {
                heard += count;
            }
        }
        assert_eq!(heard, typed);
        user.shutdown(Shutdown::Write).unwrap();
        echo.pump();
        user.set_nonblocking(false).unwrap();
        assert_eq!(user.read(&mut buffer).unwrap(), 0);
    }

    #[test]
    fn a_watched_console_takes_nothing() {
        let (echo, user) = Echo::open(true, None).unwrap();
        assert!(echo.in_use());
        assert!(UnixStream::from(user).write_all(b"x").is_err());
    }
}
