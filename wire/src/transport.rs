//! The byte streams that carry the protocol.
//!
//! None of them waits: an operation that cannot go on says so, and the caller polls the descriptor.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags,
    },
};
use thiserror::Error;

/// Room for the one descriptor that a message of this protocol carries. More are cut off by the kernel, which tells.
const ANCILLARY: usize = rustix::cmsg_space!(ScmRights(1));

/// Why a byte stream is of no use any more.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The stream failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The kernel cut descriptors off.
    #[error("file descriptors were cut off (too many with one byte, or no room for them in this process)")]
    Truncated,
    /// Something other than descriptors came as ancillary data.
    #[error("the peer sent ancillary data that is not file descriptors")]
    Ancillary,
    /// This stream carries bytes only.
    #[error("this connection cannot carry file descriptors")]
    NoFds,
    /// What the layer above the socket (TLS) has to say.
    #[error("the connection's encryption failed")]
    Layer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A byte stream that never waits.
pub trait Transport: AsFd {
    /// Reads what is there: `None` if that is nothing yet, 0 bytes at the end. A descriptor that comes belongs to the last
    /// of the bytes.
    fn recv(&mut self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<Option<usize>, TransportError>;

    /// Writes what there is room for: `None` if that is nothing now.
    fn send(&mut self, bytes: &[u8]) -> Result<Option<usize>, TransportError>;

    /// Writes one zero byte and a descriptor with it; false if there is no room now.
    fn send_fd(&mut self, _fd: BorrowedFd<'_>) -> Result<bool, TransportError> {
        Err(TransportError::NoFds)
    }

    /// Can descriptors pass?
    fn passes_fds(&self) -> bool {
        false
    }

    /// Can an eavesdropper read nothing, or is there nowhere to eavesdrop?
    fn is_secure(&self) -> bool {
        false
    }

    /// Is it encrypted?
    fn is_encrypted(&self) -> bool {
        false
    }

    /// Writes what a layer holds back, as far as there is room. True when nothing is left.
    fn flush(&mut self) -> Result<bool, TransportError> {
        Ok(true)
    }

    /// Does a layer hold bytes back that the descriptor must become writable for?
    fn wants_write(&self) -> bool {
        false
    }

    /// Does a layer hold bytes that [`Transport::recv`] would give although the descriptor shows nothing to read?
    fn has_buffered(&self) -> bool {
        false
    }
}

impl<T: Transport + ?Sized> Transport for Box<T> {
    fn recv(&mut self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<Option<usize>, TransportError> {
        (**self).recv(buffer, fds)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<Option<usize>, TransportError> {
        (**self).send(bytes)
    }

    fn send_fd(&mut self, fd: BorrowedFd<'_>) -> Result<bool, TransportError> {
        (**self).send_fd(fd)
    }

    fn passes_fds(&self) -> bool {
        (**self).passes_fds()
    }

    fn is_secure(&self) -> bool {
        (**self).is_secure()
    }

    fn is_encrypted(&self) -> bool {
        (**self).is_encrypted()
    }

    fn flush(&mut self) -> Result<bool, TransportError> {
        (**self).flush()
    }

    fn wants_write(&self) -> bool {
        (**self).wants_write()
    }

    fn has_buffered(&self) -> bool {
        (**self).has_buffered()
    }
}

/// A Unix socket: bytes and descriptors. The socket's own mode, blocking or not, does not matter.
#[derive(Debug)]
pub struct Unix(UnixStream);

impl Unix {
    /// Over a connected socket.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        Self(socket)
    }

    /// The socket, to ask for the peer's credentials.
    #[must_use]
    pub fn socket(&self) -> &UnixStream {
        &self.0
    }
}

impl AsFd for Unix {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Transport for Unix {
    fn recv(&mut self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<Option<usize>, TransportError> {
        let mut space = [MaybeUninit::<u8>::uninit(); ANCILLARY];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut target = [IoSliceMut::new(buffer)];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match rustix::net::recvmsg(&self.0, &mut target, &mut ancillary, flags) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNRESET) => return Ok(Some(0)),
                Err(error) => return Err(TransportError::Io(error.into())),
                Ok(received) => break received,
            }
        };
        // All are taken before anything is checked, so that what came is closed when a check fails.
        let mut foreign = false;
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(came) => fds.extend(came),
                _ => foreign = true,
            }
        }
        if foreign {
            return Err(TransportError::Ancillary);
        }
        if received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
            return Err(TransportError::Truncated);
        }
        Ok(Some(received.bytes))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<Option<usize>, TransportError> {
        sent(|| rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT))
    }

    fn send_fd(&mut self, fd: BorrowedFd<'_>) -> Result<bool, TransportError> {
        let fds = [fd];
        let mut space = [MaybeUninit::<u8>::uninit(); ANCILLARY];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = sent(|| rustix::net::sendmsg(&self.0, &[IoSlice::new(&[0])], &mut ancillary, flags))?;
        Ok(sent.is_some())
    }

    fn passes_fds(&self) -> bool {
        true
    }

    fn is_secure(&self) -> bool {
        true
    }
}

fn sent(mut send: impl FnMut() -> Result<usize, Errno>) -> Result<Option<usize>, TransportError> {
    loop {
        match send() {
            Ok(sent) => return Ok(Some(sent)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(TransportError::Io(error.into())),
        }
    }
}

/// Anything that reads, writes and can be polled: a TCP socket, the socket to a helper program. It must not block.
#[derive(Debug)]
pub struct Plain<S> {
    stream: S,
    secure: bool,
}

impl<S: Read + Write + AsFd> Plain<S> {
    /// Over a byte stream that an eavesdropper may read.
    pub fn new(stream: S) -> Self {
        Self { stream, secure: false }
    }

    /// Over a byte stream that something else, such as ssh, keeps from eavesdroppers.
    pub fn secured(stream: S) -> Self {
        Self { stream, secure: true }
    }
}

impl<S: AsFd> AsFd for Plain<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl<S: Read + Write + AsFd> Transport for Plain<S> {
    fn recv(&mut self, buffer: &mut [u8], _: &mut Vec<OwnedFd>) -> Result<Option<usize>, TransportError> {
        loop {
            match self.stream.read(buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => return Ok(None),
                    ErrorKind::ConnectionReset => return Ok(Some(0)),
                    _ => return Err(TransportError::Io(error)),
                },
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<Option<usize>, TransportError> {
        loop {
            match self.stream.write(bytes) {
                Ok(count) => return Ok(Some(count)),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => return Ok(None),
                    _ => return Err(TransportError::Io(error)),
                },
            }
        }
    }

    fn is_secure(&self) -> bool {
        self.secure
    }
}
