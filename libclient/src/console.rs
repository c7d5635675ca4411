//! The bytes of a guest's console.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use rustix::net::{SendFlags, SocketType};

use crate::remote::StreamConsole;

/// One end of a guest's console.
///
/// From Bulkhead's daemons on this host it is a socket whose other end the guest's supervisor holds: no daemon copies the
/// bytes, and the kernel does the flow control. From anywhere else the bytes travel over a connection of the console's own.
/// Reading gives 0 bytes when the guest has ended or somebody took the console over. `&ConsoleStream` reads and writes too,
/// so one thread may read while another writes.
///
/// A program with an event loop polls the descriptor for reading, and for writing if it has something to write; whichever
/// of the two is told, it tries both.
#[derive(Debug)]
pub struct ConsoleStream {
    way: Way,
}

#[derive(Debug)]
enum Way {
    Socket(UnixStream),
    Stream(Arc<StreamConsole>),
}

impl ConsoleStream {
    /// Takes the descriptor that a driver answered with; gives it back if it is no stream socket.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<ConsoleStream> {
        if rustix::net::sockopt::socket_type(&fd)? != SocketType::STREAM {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(ConsoleStream { way: Way::Socket(UnixStream::from(fd)) })
    }

    pub(crate) fn over_stream(console: StreamConsole) -> ConsoleStream {
        ConsoleStream { way: Way::Stream(Arc::new(console)) }
    }

    /// Another handle to the same stream.
    ///
    /// # Errors
    /// When there are too many open descriptors.
    pub fn try_clone(&self) -> io::Result<ConsoleStream> {
        let way = match &self.way {
            Way::Socket(socket) => Way::Socket(socket.try_clone()?),
            Way::Stream(console) => Way::Stream(Arc::clone(console)),
        };
        Ok(ConsoleStream { way })
    }

    /// Whether reading and writing fail with [`io::ErrorKind::WouldBlock`] instead of waiting.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match &self.way {
            Way::Socket(socket) => socket.set_nonblocking(nonblocking),
            Way::Stream(console) => console.set_nonblocking(nonblocking),
        }
    }

    /// Says that nothing more will be written (`Shutdown::Write`), read, or both. A console that is no socket has no half
    /// ends: it only takes no more.
    ///
    /// # Errors
    /// When the other end is gone already.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &self.way {
            Way::Socket(socket) => socket.shutdown(how),
            Way::Stream(console) => {
                if how != Shutdown::Read {
                    console.close_write();
                }
                Ok(())
            }
        }
    }
}

impl Read for &ConsoleStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket = match &self.way {
            Way::Socket(socket) => socket,
            Way::Stream(console) => return console.read(buffer),
        };
        match socket.read(buffer) {
            // What the guest had not read yet when it ended is no failure of ours.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            other => other,
        }
    }
}

impl Write for &ConsoleStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &self.way {
            // Not write(2): a program that has not asked for SIGPIPE shall not die of a guest that ends.
            Way::Socket(socket) => Ok(rustix::net::send(socket, buffer, SendFlags::NOSIGNAL)?),
            Way::Stream(console) => console.write(buffer),
        }
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
        match &self.way {
            Way::Socket(socket) => socket.as_fd(),
            Way::Stream(console) => console.as_fd(),
        }
    }
}

impl AsRawFd for ConsoleStream {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// The socket, if the console is one; the console otherwise.
impl TryFrom<ConsoleStream> for OwnedFd {
    type Error = ConsoleStream;

    fn try_from(stream: ConsoleStream) -> Result<OwnedFd, ConsoleStream> {
        match stream.way {
            Way::Socket(socket) => Ok(socket.into()),
            Way::Stream(_) => Err(stream),
        }
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
