//! A buffered connection: frames and their file descriptors over one Unix stream socket.
//!
//! The same type serves a non-blocking daemon and a blocking worker: [`Conn::fill`] and [`Conn::flush`] do what the socket
//! lets them do, [`Conn::recv`] and [`Conn::flush_all`] wait.
//!
//! # Descriptors
//! All descriptors of a frame travel with its first byte. Each read has room for just those that may still come: none within
//! a frame, at most the edge's cap where a frame may begin, and never more than the owner allows at the moment
//! ([`Conn::fill_within`]); where that is less than the cap, the connection looks at what the next frame announces before it
//! receives anything. So a peer can put no more descriptors into this process's table than one frame may carry, and none
//! that its frame does not announce.
//!
//! When the table is full, the kernel throws descriptors away. That is this process's trouble and not the peer's: the frame
//! arrives as [`Incoming::lost_fds`], its call fails, and the connection goes on.

use std::{
    collections::VecDeque,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{io::Errno, net::RecvFlags};
use thiserror::Error;

use crate::{
    codec::{self, CodecError},
    frame::{Caps, FrameError, HEADER_LEN, Header, Kind, MAX_FDS},
    socket::{self, Received},
};

/// Room for a first read: a call or its reply fits many times over, and a connection that sends small frames holds no more.
pub const FIRST_READ: usize = 8 << 10;
/// The most that one read asks for.
const LARGEST_READ: usize = 512 << 10;
/// A drained buffer larger than this is given back, so one huge frame does not stay in memory for ever.
const KEEP: usize = 64 << 10;
/// Frames are gathered into one write up to this size. What has been sent of a write is given back when all of it has been.
const GATHER: usize = 64 << 10;

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
    /// Descriptors came that no frame announces.
    #[error("file descriptors came where none are due")]
    StrayFds,
    /// Descriptors and headers do not add up.
    #[error("a frame announces {announced} file descriptors, {came} came")]
    FdCount {
        /// What the header says.
        announced: u8,
        /// What is there.
        came: usize,
    },
    /// The peer holds more than its user may.
    #[error("the peer's user is over its budget")]
    Budget(#[from] crate::budget::OverBudget),
    /// As much waits for the peer as may: it does not read, or not fast enough. The message was not queued.
    #[error("{bytes} bytes in {messages} messages wait for the peer already")]
    Full {
        /// Bytes that wait.
        bytes: usize,
        /// Messages that wait.
        messages: usize,
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
    /// Its file descriptors, exactly as many as it announced; none if they are lost.
    pub fds: Vec<OwnedFd>,
    /// It came with descriptors for which this process's table has no room.
    pub lost_fds: bool,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Something.
    Some,
    /// Nothing: there was nothing, the turn is over, or the peer is gone ([`Conn::next_frame`] says so).
    Nothing,
    /// Nothing: the next frame has so many descriptors, and that is more than are allowed now.
    TooManyFds(usize),
}

/// What may wait for a peer before no more is queued.
#[derive(Clone, Copy, Debug)]
pub struct OutputLimit {
    /// Bytes.
    pub bytes: usize,
    /// Messages.
    pub messages: usize,
}

/// Bytes to send with the descriptors that go with the first of them.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
    frames: usize,
}

/// Descriptors that came together, for one frame.
#[derive(Debug)]
struct Batch {
    fds: Vec<OwnedFd>,
    lost: bool,
}

/// The part of the input up to which a frame's end is known, and what may be read behind it.
struct Due {
    /// Bytes until a frame may begin, or as many as there is room for.
    bytes: usize,
    /// Descriptors that may come with them.
    fds: usize,
    /// Where the frame begins that is not whole.
    at: usize,
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
    input_fds: VecDeque<Batch>,
    /// Bytes that may still be read in this turn.
    turn: usize,
    output: VecDeque<Chunk>,
    output_len: usize,
    output_frames: usize,
    output_limit: Option<OutputLimit>,
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
            turn: usize::MAX,
            output: VecDeque::new(),
            output_len: 0,
            output_frames: 0,
            output_limit: None,
            more: false,
            closed: false,
        }
    }

    /// The socket, to ask for the peer's credentials or to set options.
    #[must_use]
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Accepts frames up to `caps` from now on.
    pub fn set_caps(&mut self, caps: Caps) {
        self.caps = caps;
    }

    /// Queues no more than this for the peer: [`Conn::queue_with`] refuses what would be over it. One message is always
    /// taken when nothing waits.
    pub fn set_output_limit(&mut self, limit: OutputLimit) {
        self.output_limit = Some(limit);
    }

    /// Begins a turn in which at most `bytes` are read: a peer that sends without end gets its next turn when others have had
    /// theirs. Without turns, everything is read.
    pub fn begin_turn(&mut self, bytes: usize) {
        self.turn = bytes;
    }

    /// Bytes that wait for the peer to read.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.output_len
    }

    /// Descriptors that wait for the peer to receive them.
    #[must_use]
    pub fn waiting_fds(&self) -> usize {
        self.output.iter().map(|chunk| chunk.fds.len()).sum()
    }

    /// Descriptors that have come and whose frames have not been taken.
    #[must_use]
    pub fn held_fds(&self) -> usize {
        self.input_fds.iter().map(|batch| batch.fds.len()).sum()
    }

    /// Bytes of the input's buffer.
    #[must_use]
    pub fn input_size(&self) -> usize {
        self.input.len()
    }

    /// Bytes that the input's buffer would have after the next [`Conn::fill`].
    #[must_use]
    pub fn next_input_size(&self) -> usize {
        let held = self.end - self.start;
        self.input.len().max(held + self.want(held))
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
        self.check_output()?;
        // Descriptors go with a chunk's first byte, so a frame that has some starts a chunk of its own.
        if !fds.is_empty() || self.output.back().is_none_or(|chunk| chunk.bytes.len() >= GATHER) {
            self.output.push_back(Chunk::default());
        }
        let waiting = self.output_len;
        let Some(chunk) = self.output.back_mut() else { return Err(ConnError::Closed) };
        let at = chunk.bytes.len();
        let framed = append_frame(&mut chunk.bytes, kind, serial, count, body);
        let (added, limit) = (chunk.bytes.len() - at, self.output_limit);
        let over = waiting > 0 && limit.is_some_and(|limit| waiting + added > limit.bytes);
        let full = ConnError::Full { bytes: waiting, messages: self.output_frames };
        if let Err(error) = framed.and(if over { Err(full) } else { Ok(()) }) {
            chunk.bytes.truncate(at);
            if chunk.bytes.is_empty() {
                self.output.pop_back();
            }
            return Err(error);
        }
        self.output_len += added;
        self.output_frames += 1;
        chunk.frames += 1;
        if !fds.is_empty() {
            chunk.fds = fds;
        }
        Ok(())
    }

    fn check_output(&self) -> Result<(), ConnError> {
        let (bytes, messages) = (self.output_len, self.output_frames);
        match self.output_limit {
            Some(limit) if bytes > 0 && (bytes >= limit.bytes || messages >= limit.messages) => {
                Err(ConnError::Full { bytes, messages })
            }
            _ => Ok(()),
        }
    }

    /// Queues a client's call, unless it is longer than a daemon takes: that would end the connection, and all of the calls
    /// that are under way on it.
    ///
    /// # Errors
    /// As [`Conn::queue_with`].
    pub fn queue_call(&mut self, serial: u64, call: &api::Call, fds: Vec<OwnedFd>) -> Result<(), ConnError> {
        let body = |out: &mut Vec<u8>| codec::encode_call(call, out);
        self.queue_with(Kind::Call, serial, fds, codec::within(Caps::FROM_CLIENT.body, body))
    }

    /// Sends what the socket takes. True when nothing is left.
    ///
    /// # Errors
    /// When the socket failed or the peer is gone.
    pub fn flush(&mut self) -> Result<bool, ConnError> {
        while let Some(chunk) = self.output.front_mut() {
            let bytes = chunk.bytes.get(chunk.sent..).unwrap_or_default();
            let sent = match socket::send(&self.socket, bytes, &chunk.fds) {
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
                self.output_frames -= chunk.frames;
                self.output.pop_front();
            }
        }
        Ok(true)
    }

    /// Reads once what has arrived. False when there was nothing, or the peer is gone ([`Conn::next_frame`] says which).
    ///
    /// # Errors
    /// When the socket failed or descriptors came that no frame announces.
    pub fn fill(&mut self) -> Result<bool, ConnError> {
        Ok(self.fill_with(RecvFlags::empty(), usize::MAX)? == Filled::Some)
    }

    /// The same without waiting, whatever the socket's mode.
    ///
    /// # Errors
    /// As [`Conn::fill`].
    pub fn fill_now(&mut self) -> Result<bool, ConnError> {
        Ok(self.fill_with(RecvFlags::DONTWAIT, usize::MAX)? == Filled::Some)
    }

    /// The same, with no more than `fds` descriptors.
    ///
    /// # Errors
    /// As [`Conn::fill`].
    pub fn fill_within(&mut self, fds: usize) -> Result<Filled, ConnError> {
        self.fill_with(RecvFlags::DONTWAIT, fds)
    }

    fn fill_with(&mut self, flags: RecvFlags, allowed: usize) -> Result<Filled, ConnError> {
        self.make_room();
        // A header that is not acceptable ends the connection when the frames before it have been taken; nothing is read
        // behind it.
        let Ok(due) = self.due() else { return Ok(Filled::Some) };
        let most = due.bytes.min(self.turn);
        if most == 0 {
            self.more = true;
            return Ok(Filled::Nothing);
        }
        let received = if due.fds > allowed {
            self.receive_after_a_look(&due, most, allowed, flags)
        } else {
            self.receive(most, due.fds, flags)
        };
        match received {
            Ok(Ok(received)) => self.take_in(received, due.fds > allowed),
            Ok(Err(announced)) => Ok(Filled::TooManyFds(announced)),
            Err(ConnError::Io(Errno::AGAIN)) => {
                self.more = false;
                Ok(Filled::Nothing)
            }
            Err(ConnError::Io(Errno::CONNRESET)) => {
                self.more = false;
                self.closed = true;
                Ok(Filled::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    fn receive(&mut self, most: usize, fds: usize, flags: RecvFlags) -> Result<Result<Received, usize>, ConnError> {
        let room = self.input.get_mut(self.end..self.end + most).unwrap_or_default();
        socket::receive(&self.socket, room, fds, flags).map(Ok).map_err(ConnError::Io)
    }

    /// Fewer descriptors are allowed than a frame may carry: receives just the announced ones, or says how many they are if
    /// those are too many.
    fn receive_after_a_look(
        &mut self,
        due: &Due,
        most: usize,
        allowed: usize,
        flags: RecvFlags,
    ) -> Result<Result<Received, usize>, ConnError> {
        let room = self.input.get_mut(self.end..self.end + most).unwrap_or_default();
        let (bytes, descriptors) = socket::look(&self.socket, room, flags).map_err(ConnError::Io)?;
        let mut fds = 0;
        if descriptors {
            let seen = self.input.get(due.at..self.end + bytes).unwrap_or_default();
            fds = first_announcement(seen, self.caps)?;
            if fds > allowed {
                self.more = true;
                return Ok(Err(fds));
            }
        }
        // Nothing but what was looked at: behind it there may be more descriptors.
        self.receive(if bytes == 0 { most } else { bytes }, fds, flags)
    }

    /// Takes over what a read brought; after a look only what was seen has been read.
    fn take_in(&mut self, received: Received, looked: bool) -> Result<Filled, ConnError> {
        self.end += received.bytes;
        self.turn = if self.turn == usize::MAX { usize::MAX } else { self.turn - received.bytes };
        // The kernel ends a read behind the bytes that carried descriptors.
        self.more = received.bytes == received.asked || received.cut || !received.fds.is_empty() || looked;
        if received.foreign {
            return Err(ConnError::Ancillary);
        }
        if received.cut && received.fds.len() >= received.room {
            return Err(ConnError::StrayFds);
        }
        if received.cut {
            self.input_fds.push_back(Batch { fds: Vec::new(), lost: true });
        } else if !received.fds.is_empty() {
            self.input_fds.push_back(Batch { fds: received.fds, lost: false });
        }
        if received.bytes == 0 {
            self.closed = true;
            return Ok(Filled::Nothing);
        }
        Ok(Filled::Some)
    }

    /// What may be read now: within a frame its rest, and otherwise what there is room for.
    fn due(&self) -> Result<Due, FrameError> {
        let room = self.input.len() - self.end;
        let mut at = self.start;
        loop {
            let waiting = self.input.get(at..self.end).unwrap_or_default();
            let Some((header, body)) = waiting.split_first_chunk::<HEADER_LEN>() else {
                // A header that comes in pieces has its descriptors with the first piece.
                let begun = !waiting.is_empty() && !self.input_fds.is_empty();
                let fds = if begun { 0 } else { usize::from(self.caps.fds) };
                let bytes = if begun { room.min(HEADER_LEN - waiting.len()) } else { room };
                return Ok(Due { bytes, fds, at });
            };
            let length = Header::decode(header, self.caps)?.length as usize;
            if body.len() < length {
                return Ok(Due { bytes: room.min(length - body.len()), fds: 0, at });
            }
            at += HEADER_LEN + length;
        }
    }

    /// Makes room to read into: small at first, doubled after each read that filled it, never by what a header promises.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let size = self.next_input_size();
        if self.input.len() < size {
            self.input.reserve_exact(size - self.input.len());
            self.input.resize(size, 0);
        }
    }

    fn want(&self, held: usize) -> usize {
        if self.more { held.clamp(FIRST_READ, LARGEST_READ) } else { FIRST_READ }
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
                return Err(ConnError::FdCount { announced: 0, came: self.held_fds() });
            }
            return Ok(None);
        };
        let header = Header::decode(header, self.caps)?;
        self.check_fds(header.fds, rest.len() < header.length as usize)?;
        let Some(body) = rest.get(..header.length as usize) else {
            return if self.closed { Err(ConnError::ClosedWithinFrame) } else { Ok(None) };
        };
        let body = body.to_vec();
        let batch = if header.fds > 0 { self.input_fds.pop_front() } else { None };
        let Batch { fds, lost } = batch.unwrap_or(Batch { fds: Vec::new(), lost: false });
        self.start += HEADER_LEN + header.length as usize;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.input.len() > KEEP {
                self.input = Vec::new();
            }
        }
        Ok(Some(Incoming { kind: header.kind, serial: header.serial, body, fds, lost_fds: lost }))
    }

    /// Whether the descriptors that have come are those that the first frame announces. Judged as soon as its header is here:
    /// a frame that never ends holds nothing that it has no right to.
    fn check_fds(&self, announced: u8, last: bool) -> Result<(), ConnError> {
        let came = match self.input_fds.front() {
            Some(batch) if announced > 0 => (!batch.lost).then_some(batch.fds.len()),
            // They may belong to a frame behind this one, if there can be one.
            Some(batch) if last => Some(batch.fds.len().max(1)),
            Some(_) => None,
            None => Some(0),
        };
        match came {
            Some(came) if came != usize::from(announced) => Err(ConnError::FdCount { announced, came }),
            _ => Ok(()),
        }
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

/// How many descriptors the first frame in `bytes` that has any announces. Some are there, so one must.
fn first_announcement(bytes: &[u8], caps: Caps) -> Result<usize, ConnError> {
    let mut rest = bytes;
    while let Some((header, behind)) = rest.split_first_chunk::<HEADER_LEN>() {
        let header = Header::decode(header, caps)?;
        if header.fds > 0 {
            return Ok(header.fds.into());
        }
        rest = behind.get(header.length as usize..).unwrap_or_default();
    }
    Err(ConnError::StrayFds)
}

#[cfg(test)]
mod tests;
