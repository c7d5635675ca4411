//! A buffered connection: frames and their file descriptors over one Unix stream socket.
//!
//! The same type serves a non-blocking daemon and a blocking worker: [`Conn::fill`] and [`Conn::flush`] do what the socket
//! lets them do, [`Conn::recv`] and [`Conn::flush_all`] wait.
//!
//! Descriptors travel with the first byte of their frame. The kernel never glues bytes of one `sendmsg` to those of another
//! that carried descriptors, so what has arrived belongs to frames that have begun to arrive: a descriptor that no frame
//! announces is noticed at once and ends the connection.

use std::{
    collections::VecDeque,
    io::{IoSlice, IoSliceMut},
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

use crate::{
    codec::{self, CodecError},
    frame::{Caps, FrameError, HEADER_LEN, Header, Kind, MAX_FDS},
};

/// Room for a first read: a call or its reply fits many times over, and an idle connection holds no more.
const FIRST_READ: usize = 8 << 10;
/// The most that one read asks for.
const LARGEST_READ: usize = 512 << 10;
/// A drained buffer larger than this is given back, so one huge frame does not stay in memory for ever.
const KEEP: usize = 64 << 10;
/// Room for the ancillary data of one message with [`MAX_FDS`] descriptors.
const ANCILLARY: usize = rustix::cmsg_space!(ScmRights(MAX_FDS as usize));

/// What went wrong on a connection. Every one of these ends it.
#[derive(Debug, Error)]
pub enum ConnError {
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[source] Errno),
    /// The peer is gone.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer is gone in the middle of a frame.
    #[error("the peer closed the connection within a frame")]
    ClosedWithinFrame,
    /// A header that this edge does not accept.
    #[error("the peer sent a bad frame")]
    Frame(#[from] FrameError),
    /// A body that is not what the frame's kind carries.
    #[error("the peer sent a bad message")]
    Codec(#[from] CodecError),
    /// The kernel cut data or descriptors off.
    #[error("the kernel truncated a message (too many descriptors, or no room for them in this process)")]
    Truncated,
    /// Descriptors and headers do not add up.
    #[error("a frame announces {announced} file descriptors, {came} came")]
    FdCount {
        /// What the header says.
        announced: u8,
        /// What is there.
        came: usize,
    },
    /// Something other than descriptors came as ancillary data.
    #[error("the peer sent ancillary data that is not file descriptors")]
    Ancillary,
    /// A frame of a kind that this side does not expect now.
    #[error("the peer sent a {found:?} frame where {expected} was due")]
    Unexpected {
        /// The kind that came.
        found: Kind,
        /// What was due.
        expected: &'static str,
    },
    /// The peer answered nothing in time.
    #[error("the peer did not answer in time")]
    Timeout,
    /// A message to send carries more descriptors than a frame can.
    #[error("{0} file descriptors do not fit one frame")]
    TooManyFds(usize),
    /// A message to send is longer than a frame can say.
    #[error("a message of {0} bytes does not fit one frame")]
    TooLong(usize),
}

/// A frame that has arrived whole.
#[derive(Debug)]
pub struct Incoming {
    /// What it is.
    pub kind: Kind,
    /// Which call it belongs to.
    pub serial: u64,
    /// Its body.
    pub body: Vec<u8>,
    /// Its file descriptors, exactly as many as it announced.
    pub fds: Vec<OwnedFd>,
}

/// Bytes to send with the descriptors that go with the first of them.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// One connection. See the module's page.
#[derive(Debug)]
pub struct Conn {
    socket: UnixStream,
    caps: Caps,
    /// What has been read is `input[start..end]`; the rest of it is room.
    input: Vec<u8>,
    start: usize,
    end: usize,
    input_fds: VecDeque<OwnedFd>,
    output: VecDeque<Chunk>,
    output_len: usize,
    /// The last read may have left something behind: it was full, or ended at descriptors.
    more: bool,
    closed: bool,
}

impl Conn {
    /// A connection over `socket` that accepts frames up to `caps`.
    #[must_use]
    pub fn new(socket: UnixStream, caps: Caps) -> Conn {
        Conn {
            socket,
            caps,
            input: Vec::new(),
            start: 0,
            end: 0,
            input_fds: VecDeque::new(),
            output: VecDeque::new(),
            output_len: 0,
            more: false,
            closed: false,
        }
    }

    /// The socket, to ask for the peer's credentials or to set options.
    #[must_use]
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Bytes that wait for the peer to read.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.output_len
    }

    /// Whether the last [`Conn::fill`] may have left something to read. When it has not, an edge-triggered poll will tell.
    #[must_use]
    pub fn may_have_more(&self) -> bool {
        self.more && !self.closed
    }

    /// Whether a frame has begun to arrive and is not whole yet.
    #[must_use]
    pub fn within_frame(&self) -> bool {
        self.start < self.end
    }

    /// Queues one frame; `body` writes the body behind the header, so nothing is copied twice.
    ///
    /// # Errors
    /// When the body cannot be encoded or does not fit; nothing is queued then.
    pub fn queue_with(
        &mut self,
        kind: Kind,
        serial: u64,
        fds: Vec<OwnedFd>,
        body: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
    ) -> Result<(), ConnError> {
        let count = u8::try_from(fds.len()).ok().filter(|n| *n <= MAX_FDS).ok_or(ConnError::TooManyFds(fds.len()))?;
        // Descriptors go with a chunk's first byte, so a frame that has some starts a chunk of its own.
        if self.output.is_empty() || !fds.is_empty() {
            self.output.push_back(Chunk::default());
        }
        let Some(chunk) = self.output.back_mut() else { return Err(ConnError::Closed) };
        let at = chunk.bytes.len();
        let framed = append_frame(&mut chunk.bytes, kind, serial, count, body);
        if let Err(error) = framed {
            chunk.bytes.truncate(at);
            if chunk.bytes.is_empty() {
                self.output.pop_back();
            }
            return Err(error);
        }
        self.output_len += chunk.bytes.len() - at;
        if !fds.is_empty() {
            chunk.fds = fds;
        }
        Ok(())
    }

    /// Queues a client's call, unless it is longer than a daemon takes: that would end the connection, and all of the calls
    /// that are under way on it.
    ///
    /// # Errors
    /// As [`Conn::queue_with`].
    pub fn queue_call(&mut self, serial: u64, call: &api::Call, fds: Vec<OwnedFd>) -> Result<(), ConnError> {
        self.queue_with(Kind::Call, serial, fds, |out| {
            let before = out.len();
            codec::encode_call(call, out)?;
            let (found, max) = (out.len() - before, Caps::FROM_CLIENT.body as usize);
            if found > max { Err(CodecError::TooLong { found, max }) } else { Ok(()) }
        })
    }

    /// Sends what the socket takes. True when nothing is left.
    ///
    /// # Errors
    /// When the socket failed or the peer is gone.
    pub fn flush(&mut self) -> Result<bool, ConnError> {
        while let Some(chunk) = self.output.front_mut() {
            let sent = match send_some(&self.socket, chunk) {
                Ok(sent) => sent,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => continue,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ConnError::Closed),
                Err(error) => return Err(ConnError::Io(error)),
            };
            chunk.fds.clear();
            chunk.sent += sent;
            self.output_len -= sent;
            if chunk.sent == chunk.bytes.len() {
                self.output.pop_front();
            }
        }
        Ok(true)
    }

    /// Reads once what has arrived. False when there was nothing, or the peer is gone ([`Conn::next_frame`] says which).
    ///
    /// # Errors
    /// When the socket failed or descriptors were cut off.
    pub fn fill(&mut self) -> Result<bool, ConnError> {
        self.fill_with(RecvFlags::empty())
    }

    /// The same without waiting, whatever the socket's mode.
    ///
    /// # Errors
    /// As [`Conn::fill`].
    pub fn fill_now(&mut self) -> Result<bool, ConnError> {
        self.fill_with(RecvFlags::DONTWAIT)
    }

    fn fill_with(&mut self, flags: RecvFlags) -> Result<bool, ConnError> {
        self.make_room();
        let mut space = [MaybeUninit::<u8>::uninit(); ANCILLARY];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let room = self.input.get_mut(self.end..).unwrap_or_default();
        let asked = room.len();
        let mut target = [IoSliceMut::new(room)];
        let received = loop {
            match rustix::net::recvmsg(&self.socket, &mut target, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                other => break other,
            }
        };
        self.more = false;
        let received = match received {
            Ok(received) => received,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::CONNRESET) => {
                self.closed = true;
                return Ok(false);
            }
            Err(error) => return Err(ConnError::Io(error)),
        };
        self.end += received.bytes;
        self.more = received.bytes == asked;
        // Taken before the truncation check, so that what came is closed when the check fails.
        let mut foreign = false;
        for message in ancillary.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(fds) => {
                    self.input_fds.extend(fds);
                    // The kernel ends a read behind the bytes that carried descriptors.
                    self.more = true;
                }
                _ => foreign = true,
            }
        }
        if foreign {
            return Err(ConnError::Ancillary);
        }
        if received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
            return Err(ConnError::Truncated);
        }
        if received.bytes == 0 {
            self.closed = true;
            return Ok(false);
        }
        Ok(true)
    }

    /// Makes room to read into: small at first, doubled after each read that filled it, never by what a header promises.
    fn make_room(&mut self) {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.input.len() > KEEP {
                self.input = Vec::new();
            }
        } else if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let want = if self.more { self.end.clamp(FIRST_READ, LARGEST_READ) } else { FIRST_READ };
        if self.input.len() - self.end < want {
            self.input.resize(self.end + want, 0);
        }
    }

    /// The next frame that is here whole, if any.
    ///
    /// # Errors
    /// When the peer broke the protocol, or is gone and every whole frame has been taken.
    pub fn next_frame(&mut self) -> Result<Option<Incoming>, ConnError> {
        let waiting = self.input.get(self.start..self.end).unwrap_or_default();
        let Some((header, rest)) = waiting.split_first_chunk::<HEADER_LEN>() else {
            if self.closed {
                return Err(if waiting.is_empty() { ConnError::Closed } else { ConnError::ClosedWithinFrame });
            }
            if waiting.is_empty() && !self.input_fds.is_empty() {
                return Err(ConnError::FdCount { announced: 0, came: self.input_fds.len() });
            }
            return Ok(None);
        };
        let header = Header::decode(header, self.caps)?;
        let Some(body) = rest.get(..header.length as usize) else {
            return if self.closed { Err(ConnError::ClosedWithinFrame) } else { Ok(None) };
        };
        if usize::from(header.fds) > self.input_fds.len() {
            return Err(ConnError::FdCount { announced: header.fds, came: self.input_fds.len() });
        }
        let incoming = Incoming {
            kind: header.kind,
            serial: header.serial,
            body: body.to_vec(),
            fds: self.input_fds.drain(..usize::from(header.fds)).collect(),
        };
        self.start += HEADER_LEN + header.length as usize;
        Ok(Some(incoming))
    }

    /// Sends everything that is queued, waiting for a blocking socket.
    ///
    /// # Errors
    /// When the socket failed, the peer is gone, or a send time-out that was set on the socket passed.
    pub fn flush_all(&mut self) -> Result<(), ConnError> {
        if self.flush()? { Ok(()) } else { Err(ConnError::Timeout) }
    }

    /// The next frame, waiting for a blocking socket.
    ///
    /// # Errors
    /// As [`Conn::next_frame`]; [`ConnError::Timeout`] when a receive time-out that was set on the socket passed.
    pub fn recv(&mut self) -> Result<Incoming, ConnError> {
        loop {
            if let Some(frame) = self.next_frame()? {
                return Ok(frame);
            }
            if !self.fill()? && !self.closed {
                return Err(ConnError::Timeout);
            }
        }
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn append_frame(
    out: &mut Vec<u8>,
    kind: Kind,
    serial: u64,
    fds: u8,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
) -> Result<(), ConnError> {
    let at = out.len();
    out.resize(at + HEADER_LEN, 0);
    body(out)?;
    let length = out.len() - at - HEADER_LEN;
    let length = u32::try_from(length).map_err(|_| ConnError::TooLong(length))?;
    if let Some(header) = out.get_mut(at..at + HEADER_LEN) {
        header.copy_from_slice(&Header { kind, serial, length, fds }.encode());
    }
    Ok(())
}

fn send_some(socket: &UnixStream, chunk: &Chunk) -> Result<usize, Errno> {
    let bytes = chunk.bytes.get(chunk.sent..).unwrap_or_default();
    if chunk.fds.is_empty() {
        return rustix::net::send(socket, bytes, SendFlags::NOSIGNAL);
    }
    let borrowed: Vec<BorrowedFd<'_>> = chunk.fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::<u8>::uninit(); ANCILLARY];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::Write};

    const CAPS: Caps = Caps { body: 1 << 20, fds: 4 };

    fn pair() -> (Conn, Conn) {
        let (a, b) = UnixStream::pair().unwrap();
        (Conn::new(a, CAPS), Conn::new(b, CAPS))
    }

    fn raw() -> (UnixStream, Conn) {
        let (a, b) = UnixStream::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        (a, Conn::new(b, CAPS))
    }

    fn queue(conn: &mut Conn, serial: u64, body: &[u8], fds: Vec<OwnedFd>) {
        conn.queue_with(Kind::Call, serial, fds, |out| {
            out.extend(body);
            Ok(())
        })
        .unwrap();
    }

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn frames_and_their_descriptors_arrive_in_order() {
        let (mut a, mut b) = pair();
        queue(&mut a, 1, b"plain", vec![]);
        queue(&mut a, 2, b"two", vec![null(), null()]);
        queue(&mut a, 3, b"", vec![]);
        queue(&mut a, 4, b"one", vec![null()]);
        a.flush_all().unwrap();
        assert_eq!(a.backlog(), 0);
        for (serial, body, fds) in [(1, &b"plain"[..], 0), (2, b"two", 2), (3, b"", 0), (4, b"one", 1)] {
            let frame = b.recv().unwrap();
            assert_eq!((frame.serial, frame.body.as_slice(), frame.fds.len()), (serial, body, fds));
        }
        drop(a);
        assert!(matches!(b.recv(), Err(ConnError::Closed)));
    }

    #[test]
    fn a_call_that_a_daemon_would_not_take_is_not_sent_and_the_next_one_is() {
        let mut a = Conn::new(UnixStream::pair().unwrap().0, Caps::FROM_DAEMON);
        let named =
            |length| api::Call::DomainLookupByName(api::remote::DomainLookupByNameArgs { name: "x".repeat(length) });
        let text = "x".repeat(4 << 20);
        let notes = api::remote::DomainSetMetadataArgs {
            metadata: Some(text.clone()),
            key: Some(text.clone()),
            uri: Some(text),
            ..Default::default()
        };
        let error = a.queue_call(1, &api::Call::DomainSetMetadata(notes), vec![]).unwrap_err();
        assert!(matches!(error, ConnError::Codec(CodecError::TooLong { max: 8_388_608, .. })), "{error:?}");
        assert_eq!(a.backlog(), 0);
        a.queue_call(2, &named(10), vec![]).unwrap();
        assert!(a.backlog() > 0);
    }

    #[test]
    fn received_descriptors_close_on_exec() {
        let (mut a, mut b) = pair();
        queue(&mut a, 1, b"", vec![null()]);
        a.flush_all().unwrap();
        let frame = b.recv().unwrap();
        let flags = rustix::io::fcntl_getfd(&frame.fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn half_a_frame_waits_and_its_end_completes_it() {
        let (mut a, mut b) = raw();
        let mut bytes = Vec::new();
        append_frame(&mut bytes, Kind::Call, 9, 0, |out| {
            out.extend(b"hello");
            Ok(())
        })
        .unwrap();
        for byte in &bytes[..bytes.len() - 1] {
            a.write_all(&[*byte]).unwrap();
            b.fill().unwrap();
            assert!(b.next_frame().unwrap().is_none());
            assert!(b.within_frame());
        }
        a.write_all(&bytes[bytes.len() - 1..]).unwrap();
        b.fill().unwrap();
        assert_eq!(b.next_frame().unwrap().unwrap().body, b"hello");
        assert!(!b.within_frame());
    }

    #[test]
    fn a_peer_that_leaves_within_a_frame_is_told_apart() {
        let (mut a, mut b) = raw();
        a.write_all(b"BLKH").unwrap();
        drop(a);
        b.fill().unwrap();
        b.fill().unwrap();
        assert!(matches!(b.next_frame(), Err(ConnError::ClosedWithinFrame)));
    }

    #[test]
    fn a_length_over_the_cap_is_refused_before_its_body_comes() {
        let (mut a, mut b) = raw();
        let header = Header { kind: Kind::Call, serial: 1, length: CAPS.body + 1, fds: 0 };
        a.write_all(&header.encode()).unwrap();
        b.fill().unwrap();
        assert!(matches!(b.next_frame(), Err(ConnError::Frame(FrameError::Length { .. }))));
        assert!(b.input.len() <= KEEP);
    }

    #[test]
    fn descriptors_that_no_header_announces_end_the_connection() {
        let (a, mut b) = raw();
        let header = Header { kind: Kind::Call, serial: 1, length: 0, fds: 0 };
        let chunk = Chunk { bytes: header.encode().to_vec(), sent: 0, fds: vec![null()] };
        send_some(&a, &chunk).unwrap();
        b.fill().unwrap();
        assert!(b.next_frame().unwrap().is_some());
        assert!(matches!(b.next_frame(), Err(ConnError::FdCount { announced: 0, came: 1 })));
    }

    #[test]
    fn descriptors_that_are_announced_but_missing_end_the_connection() {
        let (mut a, mut b) = raw();
        a.write_all(&Header { kind: Kind::Call, serial: 1, length: 0, fds: 2 }.encode()).unwrap();
        b.fill().unwrap();
        assert!(matches!(b.next_frame(), Err(ConnError::FdCount { announced: 2, came: 0 })));
    }

    #[test]
    fn no_descriptor_leaks_from_a_dropped_connection() {
        let (a, mut b) = raw();
        let (probe, far) = UnixStream::pair().unwrap();
        let chunk = Chunk { bytes: b"BLKH".to_vec(), sent: 0, fds: vec![far.into()] };
        send_some(&a, &chunk).unwrap();
        drop(chunk);
        b.fill().unwrap();
        drop(b);
        // The far end is closed everywhere: reading sees the end, not EAGAIN.
        probe.set_nonblocking(true).unwrap();
        assert_eq!(rustix::net::recv(&probe, &mut [0u8; 1][..], RecvFlags::empty()).unwrap().1, 0);
    }

    #[test]
    fn a_large_frame_passes_through_a_small_socket_buffer() {
        let (mut a, mut b) = pair();
        a.socket.set_nonblocking(true).unwrap();
        b.socket.set_nonblocking(true).unwrap();
        let body = vec![5; 1 << 20];
        queue(&mut a, 1, &body, vec![]);
        let frame = loop {
            a.flush().unwrap();
            b.fill().unwrap();
            if let Some(frame) = b.next_frame().unwrap() {
                break frame;
            }
        };
        assert_eq!(frame.body, body);
        b.fill().unwrap();
        assert!(b.input.len() <= KEEP, "a drained buffer is given back");
    }
}
