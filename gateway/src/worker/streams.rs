//! A client's streams: what a driver gave a descriptor for travels in packets.
//!
//! There is no flow control in the protocol but the client's socket. A source is not read while the client does not take
//! what it has been sent, and the client is not read while a sink does not take what it was given ([`Streams::full`]).

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use api::{Error, ErrorCode, ErrorDomain};
use rustix::{fs::OFlags, io::Errno};
use wire::{
    Conn, Transport, WireError,
    stream::{FromClient, Packet, ServerEnd, StreamError, StreamId},
};

/// Streams of one client at a time.
pub const MOST: usize = 64;
/// Bytes that one read takes.
const READ: usize = 64 << 10;
/// Bytes that may wait for a sink before its client is not read any more.
const FULL: usize = 1 << 20;

struct Stream {
    end: ServerEnd,
    fd: OwnedFd,
    /// What the client sent and the descriptor has not taken yet.
    waiting: VecDeque<u8>,
    /// The source has no more.
    dry: bool,
    /// The client waits for the confirmation of its finish.
    finishing: bool,
}

/// All of a client's streams.
#[derive(Default)]
pub struct Streams {
    open: Vec<Stream>,
}

fn lost(errno: Errno) -> Error {
    Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::STREAMS, "the stream's other end failed")
        .with_cause_text(errno.to_string())
}

impl Streams {
    /// Begins a stream, right after its call's reply was queued.
    ///
    /// # Errors
    /// When the descriptor cannot be used without waiting.
    pub fn begin(&mut self, id: StreamId, flow: api::Stream, fd: OwnedFd) -> Result<(), Error> {
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(lost)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(lost)?;
        let end = ServerEnd::new(id, flow, false);
        self.open.push(Stream { end, fd, waiting: VecDeque::new(), dry: false, finishing: false });
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// Does a sink have so much before it that the client must wait?
    #[must_use]
    pub fn full(&self) -> bool {
        self.open.iter().any(|stream| stream.waiting.len() > FULL)
    }

    /// Is there this one?
    #[must_use]
    pub fn has(&self, id: StreamId) -> bool {
        self.open.iter().any(|stream| stream.end.id() == id)
    }

    /// Every descriptor that is to be read or written, with its place. `room` says that the client takes what it is sent. One
    /// for which there is nothing to do is not among them: a poll would tell of its end again and again.
    pub fn interests(&self, room: bool) -> impl Iterator<Item = (usize, BorrowedFd<'_>, bool, bool)> {
        let all = self.open.iter().enumerate().map(move |(place, stream)| {
            let read = room && !stream.dry && stream.end.may_send();
            (place, stream.fd.as_fd(), read, !stream.waiting.is_empty())
        });
        all.filter(|(_, _, read, write)| *read || *write)
    }

    /// Takes a packet of the client. One of no stream is dropped.
    ///
    /// # Errors
    /// When the client is out of step: its connection ends.
    pub fn take<T: Transport>(&mut self, id: StreamId, packet: Packet, conn: &mut Conn<T>) -> Result<(), Broken> {
        let Some(stream) = self.open.iter_mut().find(|stream| stream.end.id() == id) else { return Ok(()) };
        match stream.end.take(packet) {
            Ok(FromClient::Data(bytes)) => {
                stream.waiting.extend(bytes);
                stream.write(conn)?;
            }
            Ok(FromClient::Finish) => {
                stream.finishing = true;
                stream.write(conn)?;
            }
            Ok(FromClient::Abort) => stream.end.confirm(conn)?,
            Ok(FromClient::Hole(_) | FromClient::Nothing) => {}
            Err(error @ StreamError::Direction) => {
                let error = Error::new(ErrorCode::RPC, ErrorDomain::STREAMS, error.to_string());
                stream.end.fail(conn, &error)?;
            }
            Err(error) => return Err(error.into()),
        }
        self.forget_over();
        Ok(())
    }

    /// Does what the descriptor at this place of [`Streams::interests`] has become ready for.
    ///
    /// # Errors
    /// When the client's connection takes no packet.
    pub fn ready<T: Transport>(
        &mut self,
        place: usize,
        read: bool,
        write: bool,
        conn: &mut Conn<T>,
    ) -> Result<(), WireError> {
        let Some(stream) = self.open.get_mut(place) else { return Ok(()) };
        if write {
            stream.write(conn)?;
        }
        if read && !stream.end.is_over() {
            stream.read(conn)?;
        }
        Ok(())
    }

    /// Drops those that are over. After this the places of [`Streams::interests`] are others.
    pub fn forget_over(&mut self) {
        self.open.retain(|stream| !stream.end.is_over());
    }
}

/// Why a client's connection ends.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// A packet that may not come.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The connection itself.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl Stream {
    fn read<T: Transport>(&mut self, conn: &mut Conn<T>) -> Result<(), WireError> {
        let mut buffer = [0; READ];
        match rustix::io::read(&self.fd, &mut buffer) {
            Ok(0) => {
                self.dry = true;
                self.end.end(conn)
            }
            Ok(count) => self.end.data(conn, buffer.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            // A socket whose far end went away with something unread says so; for a client that is the end.
            Err(Errno::CONNRESET) => {
                self.dry = true;
                self.end.end(conn)
            }
            Err(error) => self.end.fail(conn, &lost(error)),
        }
    }

    fn write<T: Transport>(&mut self, conn: &mut Conn<T>) -> Result<(), WireError> {
        while !self.waiting.is_empty() {
            let (front, _) = self.waiting.as_slices();
            match rustix::io::write(&self.fd, front) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => {
                    self.waiting.clear();
                    return self.end.fail(conn, &lost(error));
                }
            }
        }
        self.waiting.shrink_to(READ);
        if self.finishing { self.end.confirm(conn) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };
    use wire::{Frame, Status, transport::Unix};

    const ID: StreamId = StreamId { program: 0x2000_8086, version: 1, procedure: 201, serial: 9 };

    struct Rig {
        streams: Streams,
        conn: Conn<Unix>,
        client: Conn<Unix>,
        guest: UnixStream,
    }

    fn rig() -> Rig {
        let (a, b) = UnixStream::pair().unwrap();
        let (guest, fd) = UnixStream::pair().unwrap();
        let mut streams = Streams::default();
        streams.begin(ID, api::Stream::Both, fd.into()).unwrap();
        Rig { streams, conn: Conn::new(Unix::new(a)), client: Conn::new(Unix::new(b)), guest }
    }

    fn received(rig: &mut Rig) -> Vec<Frame> {
        rig.conn.flush().unwrap();
        let mut frames = Vec::new();
        while rig.client.fill().unwrap() {
            while let Some(frame) = rig.client.next_frame().unwrap() {
                frames.push(frame);
            }
        }
        frames
    }

    #[test]
    fn bytes_go_both_ways_and_a_finish_is_confirmed_behind_them() {
        let mut rig = rig();
        rig.guest.write_all(b"login: ").unwrap();
        rig.streams.ready(0, true, false, &mut rig.conn).unwrap();
        assert_eq!(received(&mut rig)[0].payload, b"login: ");
        rig.streams.take(ID, Packet::Data(b"root\n".to_vec()), &mut rig.conn).unwrap();
        rig.streams.take(ID, Packet::Finish, &mut rig.conn).unwrap();
        let mut typed = [0; 5];
        rig.guest.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"root\n");
        let frames = received(&mut rig);
        assert_eq!((frames.len(), frames[0].header.status), (1, Status::Ok));
        assert_eq!(rig.streams.count(), 0);
    }

    #[test]
    fn a_guest_that_ends_is_an_end_of_data_and_the_stream_stays() {
        let mut rig = rig();
        let gone = std::mem::replace(&mut rig.guest, UnixStream::pair().unwrap().0);
        drop(gone);
        rig.streams.ready(0, true, false, &mut rig.conn).unwrap();
        let frames = received(&mut rig);
        assert_eq!((frames[0].header.status, frames[0].payload.len()), (Status::Continue, 0));
        assert_eq!(rig.streams.interests(true).count(), 0, "a poll would tell of the end for ever");
        rig.streams.take(ID, Packet::Abort, &mut rig.conn).unwrap();
        assert_eq!(received(&mut rig)[0].header.status, Status::Ok);
    }

    #[test]
    fn a_guest_that_does_not_read_fills_its_own_queue_only() {
        let mut rig = rig();
        while !rig.streams.full() {
            rig.streams.take(ID, Packet::Data(vec![0; 256 << 10]), &mut rig.conn).unwrap();
        }
        let mut drained = vec![0; 1 << 20];
        rig.guest.set_nonblocking(true).unwrap();
        while rig.streams.full() {
            let _ = rig.guest.read(&mut drained);
            rig.streams.ready(0, false, true, &mut rig.conn).unwrap();
        }
        assert!(rig.streams.interests(false).all(|(_, _, read, _)| !read));
    }

    #[test]
    fn a_packet_of_no_stream_is_dropped() {
        let mut rig = rig();
        let other = StreamId { serial: 10, ..ID };
        rig.streams.take(other, Packet::Abort, &mut rig.conn).unwrap();
        assert!(received(&mut rig).is_empty());
        assert_eq!(rig.streams.count(), 1);
    }
}
