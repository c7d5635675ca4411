//! A console that answers with what is typed.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread::{self, JoinHandle},
};

use rustix::{event::epoll, io::Errno, net::SendFlags};

use crate::ConsoleStream;

/// Read this much at a time, this many times, before other consoles have their turn.
const READ: usize = 4096;
const READS: usize = 16;

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
    /// A loop that calls [`Echo::pump`]; with what could not be written yet.
    Loop(Vec<u8>),
}

impl Echo {
    /// A new console and the end that its user gets. A watched one takes nothing and, as this guest says nothing of its own
    /// accord, stays silent. With `watch`, an epoll and a number, no thread is started: the console rings there by its number
    /// and is pumped.
    pub(crate) fn open(read_only: bool, watch: Option<(&OwnedFd, u64)>) -> io::Result<(Echo, OwnedFd)> {
        let (socket, user) = UnixStream::pair()?;
        if let Some((watch, number)) = watch {
            socket.set_nonblocking(true)?;
            let edges = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP;
            epoll::add(watch, &socket, epoll::EventData::new_u64(number), edges | epoll::EventFlags::ET)?;
        }
        let served = if read_only {
            socket.shutdown(Shutdown::Read)?;
            Served::No
        } else if watch.is_some() {
            Served::Loop(Vec::new())
        } else {
            let served = ConsoleStream::new(socket.try_clone()?.into())?;
            Served::Thread(Some(thread::Builder::new().name("test console".into()).spawn(move || serve(&served))?))
        };
        Ok((Echo { socket, served }, user.into()))
    }

    /// Whether its user is still there.
    pub(crate) fn in_use(&self) -> bool {
        !ipc::wait::hung_up(&self.socket)
    }

    /// Echoes what was typed, without waiting and for one turn at most. True when there may be more that the epoll won't
    /// report.
    pub(crate) fn pump(&mut self) -> bool {
        let Served::Loop(pending) = &mut self.served else { return false };
        let mut buffer = [0; READ];
        for _ in 0..READS {
            match write_some(&self.socket, pending) {
                Ok(()) if pending.is_empty() => {}
                Ok(()) => return false,
                Err(_) => return self.end(),
            }
            match (&self.socket).read(&mut buffer) {
                Ok(count @ 1..) => pending.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Ok(0) | Err(_) => return self.end(),
            }
        }
        true
    }

    fn end(&self) -> bool {
        // Fails when the user is gone already.
        let _ = self.socket.shutdown(Shutdown::Both);
        false
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
        let (mut echo, user) = Echo::open(false, Some((&watch, 7))).unwrap();
        let mut user = UnixStream::from(user);
        user.set_nonblocking(true).unwrap();
        let mut typed = 0;
        while let Ok(count) = user.write(&[b'x'; 4096]) {
            typed += count;
        }
        let mut heard = 0;
        let mut buffer = [0; 65536];
        while heard < typed {
            let deadline = crate::wait::Deadline::after(Some(std::time::Duration::from_secs(20)));
            assert!(crate::wait::readable(std::os::fd::AsFd::as_fd(&watch), deadline).unwrap());
            let mut space = [std::mem::MaybeUninit::<epoll::Event>::uninit(); 4];
            let (rung, _) = epoll::wait(&watch, &mut space, None).unwrap();
            assert!(rung.iter().all(|event| event.data.u64() == 7));
            while echo.pump() {
                while let Ok(count @ 1..) = user.read(&mut buffer) {
                    heard += count;
                }
            }
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
    fn endless_input_gets_one_turn_at_a_time() {
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let (mut echo, user) = Echo::open(false, Some((&watch, 0))).unwrap();
        let mut user = UnixStream::from(user);
        user.write_all(&[b'x'; READ * (READS + 1)]).unwrap();
        assert!(echo.pump(), "there is more");
        assert!(!echo.pump());
        user.read_exact(&mut [0; READ * (READS + 1)]).unwrap();
    }

    #[test]
    fn a_watched_console_takes_nothing() {
        let (echo, user) = Echo::open(true, None).unwrap();
        assert!(echo.in_use());
        assert!(UnixStream::from(user).write_all(b"x").is_err());
    }
}
