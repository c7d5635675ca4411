//! A console that answers with what is typed.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread::{self, JoinHandle},
};

use crate::{ConsoleStream, wait};

/// The guest's end of an open console. Dropping it ends the stream and the thread that serves it.
pub(crate) struct Echo {
    socket: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// A new console and the end that its user gets. A watched one takes nothing and, as this guest says nothing of its own
    /// accord, stays silent.
    pub(crate) fn open(read_only: bool) -> io::Result<(Echo, OwnedFd)> {
        let (socket, user) = UnixStream::pair()?;
        let thread = if read_only {
            socket.shutdown(Shutdown::Read)?;
            None
        } else {
            let served = ConsoleStream::new(socket.try_clone()?.into())?;
            Some(thread::Builder::new().name("test console".into()).spawn(move || serve(&served))?)
        };
        Ok((Echo { socket, thread }, user.into()))
    }

    /// Whether its user is still there.
    pub(crate) fn in_use(&self) -> bool {
        !wait::hung_up(&self.socket)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Fails only when the user is gone, and then the thread has ended or is about to.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // The thread has no way to fail that anybody would want to know of.
            let _ = thread.join();
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
        let (echo, user) = Echo::open(false).unwrap();
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
        let (echo, user) = Echo::open(false).unwrap();
        assert!(echo.in_use());
        drop(user);
        assert!(!echo.in_use());
    }

    #[test]
    fn a_watched_console_takes_nothing() {
        let (echo, user) = Echo::open(true).unwrap();
        assert!(echo.in_use());
        assert!(UnixStream::from(user).write_all(b"x").is_err());
    }
}
