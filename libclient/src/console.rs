//! The bytes of a guest's console.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{SendFlags, SocketType};

/// One end of a guest's console.
///
/// It is a socket whose other end the guest's supervisor holds: no daemon copies the bytes, and the kernel does the flow
/// control. Reading gives 0 bytes when the guest has ended or somebody took the console over. `&ConsoleStream` reads and
/// writes too, so one thread may read while another writes.
#[derive(Debug)]
pub struct ConsoleStream {
    socket: UnixStream,
}

impl ConsoleStream {
    /// Takes the descriptor that a driver answered with; gives it back if it is no stream socket.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<ConsoleStream> {
        if rustix::net::sockopt::socket_type(&fd)? != SocketType::STREAM {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(ConsoleStream { socket: UnixStream::from(fd) })
    }

    /// Another handle to the same stream.
    ///
    /// # Errors
    /// When there are too many open descriptors.
    pub fn try_clone(&self) -> io::Result<ConsoleStream> {
        self.socket.try_clone().map(|socket| ConsoleStream { socket })
    }

    /// Whether reading and writing fail with [`io::ErrorKind::WouldBlock`] instead of waiting.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking)
    }

    /// Says that nothing more will be written (`Shutdown::Write`), read, or both.
    ///
    /// # Errors
    /// When the other end is gone already.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }
}

impl Read for &ConsoleStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (&self.socket).read(buffer) {
            // What the guest had not read yet when it ended is no failure of ours.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            other => other,
        }
    }
}

impl Write for &ConsoleStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        // Not write(2): a program that has not asked for SIGPIPE shall not die of a guest that ends.
        Ok(rustix::net::send(&self.socket, buffer, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for ConsoleStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for ConsoleStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&*self).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for ConsoleStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for ConsoleStream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl From<ConsoleStream> for OwnedFd {
    fn from(stream: ConsoleStream) -> OwnedFd {
        stream.socket.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn only_a_stream_socket_is_a_console() {
        assert!(ConsoleStream::new(File::open("/dev/null").unwrap().into()).is_err());
        let (a, _b) = std::os::unix::net::UnixDatagram::pair().unwrap();
        assert!(ConsoleStream::new(a.into()).is_err());
    }

    #[test]
    fn an_end_with_unread_bytes_is_an_end() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut console = ConsoleStream::new(a.into()).unwrap();
        console.write_all(b"not read by anybody").unwrap();
        drop(b);
        assert_eq!(console.read(&mut [0; 8]).unwrap(), 0);
    }
}
