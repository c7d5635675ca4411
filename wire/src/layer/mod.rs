//! The security layer that a SASL mechanism may negotiate: all that follows the login is protected by it, both ways.
//!
//! The bytes travel in chunks: a length of four bytes, then so many bytes as the mechanism made them. What the mechanism
//! does with them is its own matter ([`SecurityLayer`]); here is how the chunks stand in the stream ([`Layered`]), and in
//! [`offer`] how two sides agree on a layer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use thiserror::Error;

use crate::transport::{Transport, TransportError};

pub mod offer;

/// The most of a stream that goes into one chunk: what libvirt takes.
pub const MAX_PLAIN: usize = 65_536;
/// The longest chunk that is read, without its length; libvirt's daemon is told so and keeps to it.
pub const MAX_WRAPPED: usize = 65_536;
/// The length before a chunk.
const LENGTH: usize = 4;
/// What one read asks for at least, so that small chunks that have come together are read together.
const READ: usize = 8 << 10;
/// A drained buffer larger than this is given back.
const KEEP: usize = 16 << 10;

/// What a mechanism says of a chunk.
pub type ProtectionError = Box<dyn std::error::Error + Send + Sync>;

/// What a mechanism has negotiated: it protects one chunk after the other, in the stream's order.
pub trait SecurityLayer: Send {
    /// Protects bytes, at most [`max_plain`](SecurityLayer::max_plain) of them.
    ///
    /// # Errors
    /// What the mechanism says.
    fn wrap(&mut self, plain: &[u8]) -> Result<Vec<u8>, ProtectionError>;

    /// Checks a chunk and takes the protection off. A chunk that is not the next one that the peer has made is an error.
    ///
    /// # Errors
    /// What the mechanism says.
    fn unwrap(&mut self, wrapped: &[u8]) -> Result<Vec<u8>, ProtectionError>;

    /// The most that may go into one chunk, so that the peer takes it.
    fn max_plain(&self) -> usize;

    /// The longest chunk that the peer takes, without its length.
    fn max_wrapped(&self) -> usize;

    /// Does it hide the bytes? One that does not keeps them from being changed.
    fn is_confidential(&self) -> bool;
}

/// Why a protected stream is of no use any more.
#[derive(Debug, Error)]
pub enum LayerError {
    /// A length that no chunk has.
    #[error("the peer announced a protected chunk of {0} bytes, 1 to {MAX_WRAPPED} are accepted")]
    Length(u32),
    /// A chunk was changed on its way, or is not the next one.
    #[error("a protected chunk cannot be accepted")]
    Unwrap(#[source] ProtectionError),
    /// A chunk that holds nothing.
    #[error("the peer sent a protected chunk that holds nothing")]
    Empty,
    /// The stream ended within a chunk.
    #[error("the peer closed the connection within a protected chunk")]
    Cut,
    /// The mechanism does not protect what is to be sent.
    #[error("what is to be sent cannot be protected")]
    Wrap(#[source] ProtectionError),
    /// The mechanism made a chunk that the peer does not take.
    #[error("a protected chunk of {found} bytes, the peer takes {max}")]
    TooLong {
        /// Its length.
        found: usize,
        /// The longest that it takes.
        max: usize,
    },
}

impl From<LayerError> for TransportError {
    fn from(error: LayerError) -> TransportError {
        TransportError::Layer(Box::new(error))
    }
}

/// A byte stream that may get a layer. Without one it is the stream below.
#[derive(Debug)]
pub struct Layered<T> {
    below: T,
    layer: Option<Engaged>,
}

/// A layer with what has come and what goes.
struct Engaged {
    layer: Box<dyn SecurityLayer>,
    /// Chunks as they came, from `opened` on not looked into yet.
    wrapped: Vec<u8>,
    opened: usize,
    /// What was in the last chunk, from `taken` on not given away yet.
    plain: Vec<u8>,
    taken: usize,
    /// A chunk on its way, from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
}

impl std::fmt::Debug for Engaged {
    /// The bytes are nobody's business.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engaged").field("confidential", &self.layer.is_confidential()).finish_non_exhaustive()
    }
}

impl<T: Transport> Layered<T> {
    /// Without a layer yet.
    pub fn new(below: T) -> Self {
        Self { below, layer: None }
    }

    /// From now on everything is protected both ways. `early` is what was read already and comes behind the point where the
    /// protection begins.
    pub fn engage(&mut self, layer: Box<dyn SecurityLayer>, early: &[u8]) {
        self.layer = Some(Engaged {
            layer,
            wrapped: early.to_vec(),
            opened: 0,
            plain: Vec::new(),
            taken: 0,
            unsent: Vec::new(),
            sent: 0,
        });
    }

    fn is_confidential(&self) -> bool {
        self.layer.as_ref().is_some_and(|engaged| engaged.layer.is_confidential())
    }
}

impl Engaged {
    /// The length of the chunk that comes next, checked; `None` as long as it is not here.
    fn next_length(&self) -> Result<Option<usize>, LayerError> {
        let Some((length, _)) = self.wrapped.get(self.opened..).and_then(|bytes| bytes.split_first_chunk::<LENGTH>())
        else {
            return Ok(None);
        };
        let found = u32::from_be_bytes(*length);
        let length = usize::try_from(found).ok().filter(|length| (1..=MAX_WRAPPED).contains(length));
        length.map(Some).ok_or(LayerError::Length(found))
    }

    /// The chunk that comes next, if it is here whole.
    fn next_chunk(&self) -> Result<Option<&[u8]>, LayerError> {
        let Some(length) = self.next_length()? else { return Ok(None) };
        let begin = self.opened + LENGTH;
        Ok(self.wrapped.get(begin..begin + length))
    }

    /// Opens the next chunk. False as long as it is not here whole.
    fn open(&mut self) -> Result<bool, LayerError> {
        let Some(chunk) = self.next_chunk()? else { return Ok(false) };
        let end = self.opened + LENGTH + chunk.len();
        // Not `next_chunk`'s borrow: the mechanism changes its own state.
        let chunk = self.wrapped.get(self.opened + LENGTH..end).unwrap_or_default();
        self.plain = self.layer.unwrap(chunk).map_err(LayerError::Unwrap)?;
        self.taken = 0;
        self.opened = end;
        if self.opened == self.wrapped.len() {
            forget(&mut self.wrapped);
            self.opened = 0;
        }
        if self.plain.is_empty() { Err(LayerError::Empty) } else { Ok(true) }
    }

    /// Gives away what was in the last chunk; 0 when nothing is left of it.
    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let waiting = self.plain.get(self.taken..).unwrap_or_default();
        let count = waiting.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), waiting.get(..count)) {
            to.copy_from_slice(from);
        }
        self.taken += count;
        if self.taken == self.plain.len() {
            self.plain = Vec::new();
            self.taken = 0;
        }
        count
    }

    /// Reads once from below: what the next chunk lacks, and a little more. `None` when there is nothing yet.
    fn read(&mut self, below: &mut impl Transport) -> Result<Option<usize>, TransportError> {
        self.wrapped.drain(..self.opened);
        self.opened = 0;
        let filled = self.wrapped.len();
        let lacking = self.next_length()?.map_or(0, |length| (LENGTH + length).saturating_sub(filled));
        self.wrapped.resize(filled + lacking.max(READ), 0);
        let mut strays = Vec::new();
        let read = below.recv(self.wrapped.get_mut(filled..).unwrap_or_default(), &mut strays);
        self.wrapped.truncate(filled + read.as_ref().ok().copied().flatten().unwrap_or_default());
        // A layer protects bytes. A descriptor that came beside them is nobody's.
        if strays.is_empty() { read } else { Err(TransportError::NoFds) }
    }

    /// Sends the chunk that is on its way. True when nothing is left of it.
    fn drain(&mut self, below: &mut impl Transport) -> Result<bool, TransportError> {
        while self.sent < self.unsent.len() {
            match below.send(self.unsent.get(self.sent..).unwrap_or_default())? {
                Some(count) if count > 0 => self.sent += count,
                _ => return Ok(false),
            }
        }
        forget(&mut self.unsent);
        self.sent = 0;
        Ok(true)
    }

    /// Makes a chunk of the first of these bytes; says of how many.
    fn protect(&mut self, bytes: &[u8]) -> Result<usize, LayerError> {
        let count = bytes.len().min(self.layer.max_plain()).min(MAX_PLAIN);
        let wrapped = self.layer.wrap(bytes.get(..count).unwrap_or_default()).map_err(LayerError::Wrap)?;
        let (found, max) = (wrapped.len(), self.layer.max_wrapped());
        let length = u32::try_from(found).ok().filter(|_| found <= max).ok_or(LayerError::TooLong { found, max })?;
        self.unsent.extend_from_slice(&length.to_be_bytes());
        self.unsent.extend_from_slice(&wrapped);
        Ok(count)
    }
}

/// Empties a buffer; a large one is given back.
fn forget(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEEP {
        *buffer = Vec::new();
    }
    buffer.clear();
}

impl<T: AsFd> AsFd for Layered<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.below.as_fd()
    }
}

impl<T: Transport> Transport for Layered<T> {
    fn recv(&mut self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<Option<usize>, TransportError> {
        let Some(engaged) = &mut self.layer else { return self.below.recv(buffer, fds) };
        // Each round takes something off a chunk that is never longer than one may be, so the rounds end.
        loop {
            let count = engaged.take(buffer);
            if count > 0 {
                return Ok(Some(count));
            }
            if engaged.open()? {
                continue;
            }
            match engaged.read(&mut self.below)? {
                None => return Ok(None),
                Some(0) if engaged.wrapped.is_empty() => return Ok(Some(0)),
                Some(0) => return Err(LayerError::Cut.into()),
                Some(_) => {}
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<Option<usize>, TransportError> {
        let Some(engaged) = &mut self.layer else { return self.below.send(bytes) };
        // One chunk at a time: what a slow peer makes this side hold does not grow.
        if bytes.is_empty() || !engaged.drain(&mut self.below)? {
            return Ok(None);
        }
        let count = engaged.protect(bytes)?;
        engaged.drain(&mut self.below)?;
        Ok(Some(count))
    }

    fn send_fd(&mut self, fd: BorrowedFd<'_>) -> Result<bool, TransportError> {
        if self.layer.is_some() { Err(TransportError::NoFds) } else { self.below.send_fd(fd) }
    }

    fn passes_fds(&self) -> bool {
        self.layer.is_none() && self.below.passes_fds()
    }

    fn is_secure(&self) -> bool {
        self.is_confidential() || self.below.is_secure()
    }

    fn is_encrypted(&self) -> bool {
        self.is_confidential() || self.below.is_encrypted()
    }

    fn flush(&mut self) -> Result<bool, TransportError> {
        if let Some(engaged) = &mut self.layer
            && !engaged.drain(&mut self.below)?
        {
            return Ok(false);
        }
        self.below.flush()
    }

    fn wants_write(&self) -> bool {
        self.layer.as_ref().is_some_and(|engaged| !engaged.unsent.is_empty()) || self.below.wants_write()
    }

    fn has_buffered(&self) -> bool {
        // A chunk that cannot be is told of when it is read.
        let waits = |engaged: &Engaged| !engaged.plain.is_empty() || engaged.next_chunk().map_or(true, |c| c.is_some());
        self.layer.as_ref().is_some_and(waits) || self.below.has_buffered()
    }
}
