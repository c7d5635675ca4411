//! A console whose bytes travel in packets of libvirt's protocol, on a connection of its own.
//!
//! A program polls one descriptor for it, which tells of bytes that wait here, too. Nothing is read from the socket while
//! some of that is left, so a slow reader holds up its guest and nobody else, as with a socket.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::Operation;
use api::{bulkhead, consts::ConsoleFlags, remote};
use rustix::{event::PollFlags, fs::OFlags};
use wire::client::{CallError, Piece, StreamHandle};

use super::{Session, lock};
use crate::{
    ConsoleStream, Error, ErrorCode, Result,
    api::ErrorDomain,
    wait::{self, Deadline},
    watch::Watch,
};

/// The most that one write hands over: less than a socket that can be written to has room for.
const WRITE: usize = 16 << 10;

/// A console of another host, or of a daemon that gives no descriptor.
#[derive(Debug)]
pub(crate) struct StreamConsole {
    /// Dropped first: the stream is given up while its connection is there.
    stream: StreamHandle,
    /// The connection, which nobody else uses.
    _session: Session,
    watch: Watch,
    reader: Mutex<Reader>,
    /// The watch tells of room to write, too.
    wants_room: AtomicBool,
    /// Nothing may be typed.
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Reader {
    /// What came and was not taken yet, from `at` on.
    bytes: Vec<u8>,
    at: usize,
    ended: bool,
}

/// Opens a console by libvirt's call.
pub(super) fn open(session: Session, args: bulkhead::DomainOpenConsoleArgs) -> Result<ConsoleStream> {
    let flags = ConsoleFlags::from_bits_retain(args.flags);
    let read_only = flags.contains(ConsoleFlags::READ_ONLY);
    // That one is Bulkhead's.
    let flags = (flags - ConsoleFlags::READ_ONLY).bits();
    let call = remote::DomainOpenConsoleArgs { dom: args.dom, dev_name: args.dev_name, flags }.into_call();
    let opened = session.client.open_stream(&call, Vec::new());
    let (_, stream) = opened.map_err(|failure| session.no_answer(failure, call.op()))?;
    let console = StreamConsole::new(stream, session, read_only).map_err(|source| {
        Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::STREAMS, "cannot watch a console").with_cause(source)
    })?;
    Ok(ConsoleStream::over_stream(console))
}

impl StreamConsole {
    fn new(stream: StreamHandle, session: Session, read_only: bool) -> io::Result<StreamConsole> {
        let watch = Watch::new()?;
        watch.add(stream.client())?;
        watch.add(stream.client().alarm())?;
        let console = StreamConsole {
            stream,
            _session: session,
            watch,
            reader: Mutex::default(),
            wants_room: AtomicBool::new(false),
            closed: AtomicBool::new(read_only),
        };
        // The first bytes may have come with the reply.
        console.watch.ring(true);
        Ok(console)
    }

    /// Whether the program asked not to wait. It may have asked the descriptor itself.
    fn nonblocking(&self) -> io::Result<bool> {
        Ok(rustix::fs::fcntl_getfl(&self.watch)?.contains(OFlags::NONBLOCK))
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.watch, nonblocking)?)
    }

    /// Nothing more will be typed. The other direction has no end of its own in libvirt's protocol.
    pub(crate) fn close_write(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let timeout = if self.nonblocking()? { Some(Duration::ZERO) } else { None };
        let mut reader = lock(&self.reader);
        if reader.at == reader.bytes.len() && !reader.ended {
            match self.stream.read(timeout) {
                Ok(Some(Piece::Data(bytes))) => {
                    reader.bytes = bytes;
                    reader.at = 0;
                    self.watch.ring(true);
                }
                Ok(Some(Piece::Hole(_))) => {}
                Ok(Some(Piece::End)) => self.end(&mut reader),
                Ok(None) => {
                    self.watch.ring(false);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                // The guest has ended, or somebody took the console over.
                Err(CallError::Failed(_)) => self.end(&mut reader),
                Err(failure) => {
                    self.end(&mut reader);
                    return Err(io::Error::other(failure));
                }
            }
        }
        let waiting = reader.bytes.get(reader.at..).unwrap_or_default();
        let count = waiting.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), waiting.get(..count)) {
            to.copy_from_slice(from);
        }
        reader.at += count;
        Ok(count)
    }

    /// The end stays readable.
    fn end(&self, reader: &mut Reader) {
        reader.ended = true;
        self.watch.ring(true);
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if !self.has_room(Deadline::after(Some(Duration::ZERO)))? {
            if self.nonblocking()? {
                self.want_room(true)?;
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.has_room(Deadline::after(None))?;
        }
        self.want_room(false)?;
        let piece = bytes.get(..bytes.len().min(WRITE)).unwrap_or_default();
        match self.stream.write(piece) {
            Ok(()) => Ok(piece.len()),
            Err(CallError::Failed(_) | CallError::NotWritable) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(failure) => Err(io::Error::other(failure)),
        }
    }

    fn has_room(&self, deadline: Deadline) -> io::Result<bool> {
        wait::ready(self.stream.client().as_fd(), PollFlags::OUT, deadline)
    }

    /// Whether the watch becomes readable when there is room again.
    fn want_room(&self, wanted: bool) -> io::Result<()> {
        if self.wants_room.swap(wanted, Ordering::Relaxed) != wanted {
            self.watch.tell_room(self.stream.client(), wanted)?;
        }
        Ok(())
    }
}

impl AsFd for StreamConsole {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
