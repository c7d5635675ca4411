//! A buffered connection: whole frames with their descriptors over a [`Transport`], never waiting.
//!
//! A descriptor follows its frame with a zero byte that no length counts. A read may return the end of a frame and that
//! byte together, and the kernel ends a read behind the byte that a descriptor came with; so each descriptor is kept with
//! its place in the stream, and one that came with any other byte than the one where it is due ends the connection.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use api::xdr::{Encoder, XdrError};
use thiserror::Error;

use crate::{
    frame::{Frame, HEADER_LEN, Header, Kind, LENGTH_LEN, MAX_FDS, MAX_MESSAGE, PREFIX_LEN},
    layer::{Layered, SecurityLayer},
    transport::{Transport, TransportError},
};

/// Room for a first read: most frames fit many times over, and an idle connection holds no more.
const FIRST_READ: usize = 8 << 10;
/// The most that one read asks for.
const LARGEST_READ: usize = 512 << 10;
/// A drained buffer larger than this is given back, so one huge frame does not stay in memory for ever.
const KEEP: usize = 64 << 10;

/// What went wrong on a connection. All but the last four end it.
#[derive(Debug, Error)]
pub enum WireError {
    /// The byte stream failed.
    #[error("the byte stream failed")]
    Transport(#[from] TransportError),
    /// The peer is gone.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer is gone in the middle of a frame.
    #[error("the peer closed the connection within a frame")]
    ClosedWithinFrame,
    /// A length that cannot be, or is not accepted.
    #[error("the peer announced a frame of {found} bytes, {} to {} are accepted", PREFIX_LEN, .max + 4)]
    Length {
        /// The length, as the peer counts.
        found: u32,
        /// The most that may follow the length field.
        max: u32,
    },
    /// More descriptors than a frame may have.
    #[error("the peer announced {0} file descriptors in one frame, at most {MAX_FDS} are accepted")]
    FdCount(u32),
    /// A frame with descriptors that ends before their number.
    #[error("a frame with file descriptors does not say how many")]
    NoFdCount,
    /// Descriptors came where none was due, or none where one was.
    #[error("file descriptors do not come where they are due")]
    StrayFd,
    /// A frame announces descriptors on a stream that has none.
    #[error("the peer announced file descriptors on a connection that cannot carry them")]
    FdsNotPassed,
    /// The peer broke the rules of the protocol.
    #[error("the peer sent {0}")]
    Protocol(&'static str),
    /// The peer does not answer keepalive.
    #[error("the peer has been silent for {0} keepalive intervals")]
    Dead(u32),
    /// A frame to send carries more descriptors than one can.
    #[error("{0} file descriptors do not fit one frame")]
    TooManyFds(usize),
    /// A frame to send is longer than one may be.
    #[error("a payload of {0} bytes does not fit one frame")]
    TooLong(usize),
    /// A hole for a stream whose call did not ask for holes: zero bytes must be sent instead.
    #[error("the stream may not have holes")]
    NotSparse,
    /// A frame to send holds a value that may not be written.
    #[error("a message cannot be encoded")]
    Encode(#[from] XdrError),
}

/// One connection. See the module's page.
#[derive(Debug)]
pub struct Conn<T> {
    transport: T,
    max_message: u32,
    /// What has been read is `input[start..end]`; the rest of it is room.
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// Where in the stream `input[start]` stands.
    taken: u64,
    /// Descriptors with the place of the byte they came with.
    input_fds: VecDeque<(u64, OwnedFd)>,
    /// The last read may have left something behind.
    more: bool,
    closed: bool,
    /// What waits to be sent is `output[sent..]`.
    output: Vec<u8>,
    sent: usize,
    /// Descriptors with the place in `output` of the byte they go with.
    output_fds: VecDeque<(usize, OwnedFd)>,
}

impl<T: Transport> Conn<T> {
    /// A connection that accepts frames up to the protocol's limit.
    pub fn new(transport: T) -> Self {
        Self {
            transport,
            max_message: MAX_MESSAGE,
            input: Vec::new(),
            start: 0,
            end: 0,
            taken: 0,
            input_fds: VecDeque::new(),
            more: false,
            closed: false,
            output: Vec::new(),
            sent: 0,
            output_fds: VecDeque::new(),
        }
    }

    /// From now on accepts frames of which at most `max` bytes follow the length field.
    pub fn set_max_message(&mut self, max: u32) {
        self.max_message = max.min(MAX_MESSAGE);
    }

    /// The byte stream below.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// Does the stream below hold bytes that its descriptor does not show?
    pub fn has_buffered(&self) -> bool {
        !self.closed && self.transport.has_buffered()
    }

    /// Bytes that wait for the peer to read.
    pub fn backlog(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Bytes of memory that its buffers hold.
    pub fn held(&self) -> usize {
        self.input.capacity() + self.output.capacity()
    }

    /// Is there something that the descriptor must become writable for?
    pub fn wants_write(&self) -> bool {
        self.backlog() > 0 || self.transport.wants_write()
    }

    /// May [`Conn::fill`] find something although the descriptor shows nothing new? After it did not, a poll will tell.
    pub fn may_have_more(&self) -> bool {
        !self.closed && (self.more || self.transport.has_buffered())
    }

    /// Has a frame begun to arrive that is not whole yet? (Ask after [`Conn::next_frame`] gave none.)
    pub fn within_frame(&self) -> bool {
        self.start < self.end
    }

    /// Reads once what is there. False when there was nothing, or the peer is gone ([`Conn::next_frame`] says which).
    ///
    /// # Errors
    /// When the stream failed, or a descriptor came that no frame can own.
    pub fn fill(&mut self) -> Result<bool, WireError> {
        if self.closed {
            return Ok(false);
        }
        self.make_room();
        let room = self.input.get_mut(self.end..).unwrap_or_default();
        let asked = room.len();
        let mut fds = Vec::new();
        self.more = false;
        let Some(count) = self.transport.recv(room, &mut fds)? else { return Ok(false) };
        if count == 0 {
            self.closed = true;
            return Ok(false);
        }
        self.end += count;
        // The kernel ends a read behind the byte that carried a descriptor.
        self.more = count == asked || !fds.is_empty();
        let last = self.taken + (self.end - self.start) as u64 - 1;
        self.input_fds.extend(fds.into_iter().map(|fd| (last, fd)));
        // Whoever takes the frames that are whole before reading on never has more than those of one frame here.
        if self.input_fds.len() > 2 * MAX_FDS as usize {
            return Err(WireError::StrayFd);
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

    /// The next frame that is here whole with its descriptors, if any.
    ///
    /// # Errors
    /// When the peer broke the protocol, or is gone and every whole frame has been taken.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let waiting = self.input.get(self.start..self.end).unwrap_or_default();
        let whole = match split_frame(waiting, self.max_message, self.transport.passes_fds())? {
            Some(whole) if whole.rest.len() >= whole.fds => whole,
            _ if self.closed && waiting.is_empty() => return Err(WireError::Closed),
            _ if self.closed => return Err(WireError::ClosedWithinFrame),
            // What has come with no byte of this frame will find no owner.
            _ if waiting.is_empty() && !self.input_fds.is_empty() => return Err(WireError::StrayFd),
            _ => return Ok(None),
        };
        let length = PREFIX_LEN + whole.body;
        let end = self.taken + length as u64;
        let mut fds = Vec::with_capacity(whole.fds);
        for due in (end..).take(whole.fds) {
            match self.input_fds.pop_front() {
                Some((place, fd)) if place == due => fds.push(fd),
                _ => return Err(WireError::StrayFd),
            }
        }
        let after = end + fds.len() as u64;
        if self.input_fds.front().is_some_and(|(place, _)| *place < after) {
            return Err(WireError::StrayFd);
        }
        let frame = Frame { header: whole.header, payload: whole.payload.to_vec(), fds };
        self.start += length + frame.fds.len();
        self.taken = after;
        Ok(Some(frame))
    }

    /// Queues one frame; `payload` writes what follows the header (and the number of descriptors, if there are any), so
    /// nothing is copied twice. A call or reply with descriptors gets the kind that says so.
    ///
    /// # Errors
    /// When the payload cannot be encoded or does not fit, or the frame cannot carry descriptors; nothing is queued then.
    pub fn queue(
        &mut self,
        header: &Header,
        fds: Vec<OwnedFd>,
        payload: impl FnOnce(&mut Encoder) -> Result<(), XdrError>,
    ) -> Result<(), WireError> {
        let count = u32::try_from(fds.len()).ok().filter(|count| *count <= MAX_FDS);
        let count = count.ok_or(WireError::TooManyFds(fds.len()))?;
        if count > 0 && !self.transport.passes_fds() {
            return Err(TransportError::NoFds.into());
        }
        let kind = match header.kind {
            kind if count == 0 => kind,
            Kind::Call | Kind::CallWithFds => Kind::CallWithFds,
            Kind::Reply | Kind::ReplyWithFds => Kind::ReplyWithFds,
            _ => return Err(WireError::TooManyFds(fds.len())),
        };
        let mut out = std::mem::take(&mut self.output);
        let at = out.len();
        out.extend_from_slice(&[0; LENGTH_LEN]);
        out.extend_from_slice(&Header { kind, ..*header }.encode());
        if kind.has_fds() {
            out.extend_from_slice(&count.to_be_bytes());
        }
        let mut encoder = Encoder::over(out);
        let written = payload(&mut encoder);
        self.output = encoder.into_vec();
        let length = self.output.len() - at;
        let framed = written.map_err(WireError::Encode).and_then(|()| {
            let length = u32::try_from(length).ok().filter(|length| *length <= MAX_MESSAGE + 4);
            length.ok_or(WireError::TooLong(self.output.len() - at - PREFIX_LEN))
        });
        match framed {
            Ok(length) => {
                if let Some(slot) = self.output.get_mut(at..at + LENGTH_LEN) {
                    slot.copy_from_slice(&length.to_be_bytes());
                }
            }
            Err(error) => {
                self.output.truncate(at);
                return Err(error);
            }
        }
        for fd in fds {
            self.output_fds.push_back((self.output.len(), fd));
            self.output.push(0);
        }
        Ok(())
    }

    /// Queues one frame without descriptors whose payload is there as it travels: stream data, or what a relay passes on.
    ///
    /// # Errors
    /// When it does not fit; nothing is queued then.
    pub fn queue_raw(&mut self, header: &Header, payload: &[u8]) -> Result<(), WireError> {
        let too_long = WireError::TooLong(payload.len());
        let length = payload.len().checked_add(PREFIX_LEN).and_then(|length| u32::try_from(length).ok());
        let length = length.filter(|length| *length <= MAX_MESSAGE + 4).ok_or(too_long)?;
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(&header.encode());
        self.output.extend_from_slice(payload);
        Ok(())
    }

    /// Sends what there is room for. True when nothing is left.
    ///
    /// # Errors
    /// When the stream failed or the peer is gone. What the peer sent before may still be read.
    pub fn flush(&mut self) -> Result<bool, WireError> {
        while self.sent < self.output.len() {
            if !self.send_some().map_err(gone)? {
                self.compact();
                return Ok(false);
            }
        }
        if self.output.capacity() > KEEP {
            self.output = Vec::new();
        }
        self.output.clear();
        self.sent = 0;
        self.transport.flush().map_err(gone)
    }

    /// Sends up to the next descriptor, or that descriptor. False if there is no room now.
    fn send_some(&mut self) -> Result<bool, TransportError> {
        let until = match self.output_fds.front() {
            Some((place, fd)) if *place == self.sent => {
                if !self.transport.send_fd(fd.as_fd())? {
                    return Ok(false);
                }
                self.output_fds.pop_front();
                self.sent += 1;
                return Ok(true);
            }
            Some((place, _)) => *place,
            None => self.output.len(),
        };
        let Some(sent) = self.transport.send(self.output.get(self.sent..until).unwrap_or_default())? else {
            return Ok(false);
        };
        self.sent += sent;
        Ok(sent > 0)
    }

    /// Gives back what has been sent of a long queue, so that a queue that is never empty does not grow for ever.
    fn compact(&mut self) {
        if self.sent >= KEEP && self.sent >= self.output.len() / 2 {
            self.output.drain(..self.sent);
            for (place, _) in &mut self.output_fds {
                *place -= self.sent;
            }
            self.sent = 0;
            self.output.shrink_to(KEEP);
        }
    }
}

impl<T: Transport> Conn<Layered<T>> {
    /// Protects all that follows, both ways. What has come already and was not taken as a frame comes behind the point
    /// where the protection begins.
    ///
    /// # Errors
    /// When something waits to be sent or a descriptor has come: neither belongs to what is protected.
    pub fn engage(&mut self, layer: Box<dyn SecurityLayer>) -> Result<(), WireError> {
        if self.wants_write() || !self.input_fds.is_empty() {
            return Err(WireError::Protocol("something beside the end of the login"));
        }
        let early = self.input.get(self.start..self.end).unwrap_or_default();
        self.transport.engage(layer, early);
        self.taken += early.len() as u64;
        self.start = self.end;
        Ok(())
    }
}

impl<T: AsFd> AsFd for Conn<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }
}

fn gone(error: TransportError) -> WireError {
    match &error {
        TransportError::Io(io) if matches!(io.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
            WireError::Closed
        }
        _ => error.into(),
    }
}

/// A frame whose bytes are here; its descriptors may not be.
struct Whole<'a> {
    header: Header,
    /// Bytes behind the header, with the number of descriptors.
    body: usize,
    payload: &'a [u8],
    fds: usize,
    rest: &'a [u8],
}

fn split_frame(bytes: &[u8], max: u32, passes_fds: bool) -> Result<Option<Whole<'_>>, WireError> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_LEN>() else { return Ok(None) };
    let found = u32::from_be_bytes(*length);
    let message = found.checked_sub(4).filter(|left| (24..=max).contains(left));
    let message = message.ok_or(WireError::Length { found, max })? as usize;
    let Some((message, rest)) = rest.split_at_checked(message) else { return Ok(None) };
    let Some((header, body)) = message.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let header = Header::decode(header);
    if !header.kind.has_fds() {
        return Ok(Some(Whole { header, body: body.len(), payload: body, fds: 0, rest }));
    }
    let (count, payload) = body.split_first_chunk::<4>().ok_or(WireError::NoFdCount)?;
    let count = u32::from_be_bytes(*count);
    if count > MAX_FDS {
        return Err(WireError::FdCount(count));
    }
    if count > 0 && !passes_fds {
        return Err(WireError::FdsNotPassed);
    }
    Ok(Some(Whole { header, body: body.len(), payload, fds: count as usize, rest }))
}
