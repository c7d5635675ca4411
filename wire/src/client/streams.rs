//! The client's streams.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{Call, ErrorCode, ErrorDomain, Reply};

use super::{CallError, Client, Link, State, after, lock};
use crate::{
    codec,
    conn::WireError,
    frame::{Frame, Kind, MAX_STREAM_DATA},
    stream::{self, ClientEnd, FromServer, Packet, StreamId},
};

/// Bytes of memory in pieces that nobody takes: a stream with more is aborted, since what else comes on the connection is
/// behind it.
const MAX_QUEUED: usize = 32 << 20;

/// What comes out of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes.
    Data(Vec<u8>),
    /// So many zero bytes.
    Hole(u64),
    /// No more will come.
    End,
}

impl Piece {
    /// Its memory. Of one without bytes, too: a server may send those without end.
    fn memory(&self) -> usize {
        let bytes = if let Piece::Data(bytes) = self { bytes.len() } else { 0 };
        size_of::<Piece>() + bytes
    }
}

/// One stream, among the client's others.
pub(super) struct Slot {
    end: ClientEnd,
    pieces: VecDeque<Piece>,
    queued: usize,
    failed: Option<api::Error>,
    /// Nobody holds its handle any more: it goes away when the server has confirmed that.
    abandoned: bool,
}

impl Slot {
    fn new(call: &Call, flow: api::Stream) -> Self {
        let id = StreamId::from(&codec::header(call.op(), Kind::Call, 0));
        let end = ClientEnd::new(id, flow, stream::is_sparse(call));
        Self { end, pieces: VecDeque::new(), queued: 0, failed: None, abandoned: false }
    }

    pub(super) fn with_serial(mut self, serial: u32) -> Self {
        self.end = self.end.with_serial(serial);
        self
    }

    fn take_piece(&mut self) -> Option<Result<Piece, api::Error>> {
        if let Some(piece) = self.pieces.pop_front() {
            self.queued -= piece.memory();
            return Some(Ok(piece));
        }
        match &self.failed {
            Some(error) => Some(Err(error.clone())),
            None => (!self.end.is_open()).then_some(Ok(Piece::End)),
        }
    }

    fn push(&mut self, conn: &mut Link, piece: Piece) -> Result<(), WireError> {
        self.queued += piece.memory();
        if self.queued <= MAX_QUEUED {
            self.pieces.push_back(piece);
            return Ok(());
        }
        self.pieces.clear();
        self.queued = 0;
        let text = format!("the stream was aborted: {MAX_QUEUED} bytes of it were not read");
        self.failed = Some(api::Error::new(ErrorCode::OPERATION_ABORTED, ErrorDomain::STREAMS, text));
        self.end.abort(conn)
    }
}

impl State {
    /// Hands a packet to its stream. One for a stream that is gone is dropped.
    pub(super) fn deliver_packet(&mut self, conn: &mut Link, frame: Frame) -> Result<(), WireError> {
        let id = StreamId::from(&frame.header);
        let Some(slot) = self.streams.get_mut(&id.serial).filter(|slot| slot.end.id() == id) else { return Ok(()) };
        let packet =
            Packet::decode(frame).map_err(|_| WireError::Protocol("a packet of a stream that cannot be read"))?;
        let taken = slot.end.take(packet).map_err(|_| WireError::Protocol("a packet that its stream does not take"))?;
        match taken {
            FromServer::Data(bytes) => slot.push(conn, Piece::Data(bytes))?,
            FromServer::Hole(length) => slot.push(conn, Piece::Hole(length))?,
            FromServer::End => slot.push(conn, Piece::End)?,
            FromServer::Failed(error) => slot.failed = Some(error),
            FromServer::Confirmed | FromServer::Nothing => {}
        }
        if slot.abandoned && slot.end.is_over() {
            self.streams.remove(&id.serial);
        }
        Ok(())
    }
}

/// A stream that a call began. Dropped while it is open, it is aborted.
#[derive(Debug)]
pub struct StreamHandle {
    client: Client,
    serial: u32,
}

impl Client {
    /// Makes a call that begins a stream.
    ///
    /// # Errors
    /// As [`Client::call`]; [`CallError::NoStream`] for a call that does not begin one.
    pub fn open_stream(&self, call: &Call, fds: Vec<OwnedFd>) -> Result<(Reply, StreamHandle), CallError> {
        let flow = stream::flow(call.op()).ok_or(CallError::NoStream(call.op()))?;
        let serial = self.inner.begin(call, fds, Some(Slot::new(call, flow)), None)?;
        match self.inner.answer(serial, call.op(), None) {
            Ok((reply, _)) => Ok((reply, StreamHandle { client: self.clone(), serial })),
            Err(error) => {
                self.inner.forget(serial);
                Err(error)
            }
        }
    }
}

impl StreamHandle {
    /// The connection that it belongs to.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What comes next, waiting for it up to `timeout` (for ever without one); `None` when the time is over. With no time
    /// at all it takes what is there, for an event loop.
    ///
    /// # Errors
    /// The error with which the server ended the stream, or that the connection is lost.
    pub fn read(&self, timeout: Option<Duration>) -> Result<Option<Piece>, CallError> {
        let serial = self.serial;
        let take = |state: &mut State| match state.streams.get_mut(&serial) {
            Some(slot) => slot.take_piece(),
            None => Some(Ok(Piece::End)),
        };
        let piece = self.client.inner.wait_until(timeout.and_then(after), take).map_err(CallError::Lost)?;
        piece.transpose().map_err(CallError::Failed)
    }

    /// Sends bytes, waiting until the connection has taken them.
    ///
    /// # Errors
    /// The error with which the server ended the stream; that it does not go this way; or that the connection is lost.
    pub fn write(&self, bytes: &[u8]) -> Result<(), CallError> {
        bytes.chunks(MAX_STREAM_DATA).try_for_each(|piece| self.with_end(|end, conn| end.data(conn, piece)))
    }

    /// Sends a hole instead of so many zero bytes.
    ///
    /// # Errors
    /// As [`StreamHandle::write`]; [`WireError::NotSparse`] if the call did not ask for holes.
    pub fn write_hole(&self, length: u64) -> Result<(), CallError> {
        self.with_end(|end, conn| end.hole(conn, length))
    }

    /// Ends the stream in order and waits until the server confirms that all is well.
    ///
    /// # Errors
    /// The error with which the server ended the stream, or that the connection is lost.
    pub fn finish(self, timeout: Option<Duration>) -> Result<(), CallError> {
        self.close(timeout, ClientEnd::finish)
    }

    /// Gives the stream up and waits until the server confirms that.
    ///
    /// # Errors
    /// As [`StreamHandle::finish`].
    pub fn abort(self, timeout: Option<Duration>) -> Result<(), CallError> {
        self.close(timeout, ClientEnd::abort)
    }

    fn with_end(
        &self,
        queue: impl FnOnce(&mut ClientEnd, &mut Link) -> Result<(), WireError>,
    ) -> Result<(), CallError> {
        let inner = &self.client.inner;
        {
            let mut conn = lock(&inner.conn);
            let mut state = lock(&inner.state);
            if let Some(error) = &state.lost {
                return Err(CallError::Lost(Arc::clone(error)));
            }
            let slot = state.streams.get_mut(&self.serial).ok_or(CallError::NotWritable)?;
            if let Some(error) = &slot.failed {
                return Err(CallError::Failed(error.clone()));
            }
            if !slot.end.may_send() {
                return Err(CallError::NotWritable);
            }
            queue(&mut slot.end, &mut conn).map_err(CallError::Send)?;
        }
        inner.send_all(None).map(drop).map_err(CallError::Lost)
    }

    fn close(
        self,
        timeout: Option<Duration>,
        ask: impl FnOnce(&mut ClientEnd, &mut Link) -> Result<(), WireError>,
    ) -> Result<(), CallError> {
        let inner = &self.client.inner;
        let (begin, until) = (Instant::now(), timeout.and_then(after));
        {
            let mut conn = lock(&inner.conn);
            let mut state = lock(&inner.state);
            if let Some(slot) = state.streams.get_mut(&self.serial) {
                ask(&mut slot.end, &mut conn).map_err(CallError::Send)?;
            }
        }
        if !inner.send_all(until).map_err(CallError::Lost)? {
            return Err(CallError::Silent(begin.elapsed()));
        }
        let serial = self.serial;
        let over = |state: &mut State| match state.streams.get(&serial) {
            Some(slot) if !slot.end.is_over() => None,
            Some(slot) => Some(slot.failed.clone().map_or(Ok(()), Err)),
            None => Some(Ok(())),
        };
        let over = inner.wait_until(until, over).map_err(CallError::Lost)?;
        over.ok_or_else(|| CallError::Silent(begin.elapsed()))?.map_err(CallError::Failed)
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        let inner = &self.client.inner;
        let mut conn = lock(&inner.conn);
        let mut state = lock(&inner.state);
        let lost = state.lost.is_some();
        let Some(slot) = state.streams.get_mut(&self.serial) else { return };
        if lost || slot.end.is_over() {
            state.streams.remove(&self.serial);
            return;
        }
        slot.abandoned = true;
        slot.pieces.clear();
        slot.queued = 0;
        // Whoever reads next sends what has no room now; a failure to send will be found there too.
        let _ = slot.end.abort(&mut conn);
        drop(state);
        let _ = conn.flush();
    }
}
