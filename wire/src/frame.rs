//! The header of a frame, and the limits of the protocol.
//!
//! ```text
//! offset 0   4  length of the whole frame, this field included; big endian as everything
//!        4   4  program
//!        8   4  version
//!       12   4  procedure
//!       16   4  kind
//!       20   4  serial: a reply repeats its call's
//!       24   4  status
//!       28      payload
//! ```
//! The payload of a frame with descriptors begins with their number. The descriptors themselves follow the frame, each with
//! a zero byte of its own that no length counts.

use std::os::fd::OwnedFd;

/// Bytes of the length field.
pub const LENGTH_LEN: usize = 4;
/// Bytes of the header behind the length.
pub const HEADER_LEN: usize = 24;
/// Bytes in front of the payload.
pub const PREFIX_LEN: usize = LENGTH_LEN + HEADER_LEN;
/// The most that may follow the length field.
pub const MAX_MESSAGE: u32 = 33_554_432;
/// The most bytes of a payload.
pub const MAX_PAYLOAD: u32 = MAX_MESSAGE - 24;
/// What a server allows before login: the longest message of a login that it offers fits many times over.
pub const MAX_MESSAGE_BEFORE_LOGIN: u32 = 64 << 10;
/// The most bytes of stream data in one packet.
pub const MAX_STREAM_DATA: usize = 262_120;
/// The most file descriptors of one frame.
pub const MAX_FDS: u32 = 32;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A request that gets one reply.
    Call,
    /// The answer, or with [`Status::Error`] the failure, of a call.
    Reply,
    /// Something that is never answered: an event, keepalive.
    Message,
    /// A packet of a stream.
    Stream,
    /// A call with file descriptors.
    CallWithFds,
    /// A reply with file descriptors.
    ReplyWithFds,
    /// A hole in a sparse stream.
    StreamHole,
    /// A number that is none of these.
    Other(i32),
}

impl Kind {
    /// Does the payload begin with a number of descriptors?
    #[must_use]
    pub fn has_fds(self) -> bool {
        matches!(self, Self::CallWithFds | Self::ReplyWithFds)
    }
}

impl From<i32> for Kind {
    fn from(number: i32) -> Self {
        match number {
            0 => Self::Call,
            1 => Self::Reply,
            2 => Self::Message,
            3 => Self::Stream,
            4 => Self::CallWithFds,
            5 => Self::ReplyWithFds,
            6 => Self::StreamHole,
            other => Self::Other(other),
        }
    }
}

impl From<Kind> for i32 {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Call => 0,
            Kind::Reply => 1,
            Kind::Message => 2,
            Kind::Stream => 3,
            Kind::CallWithFds => 4,
            Kind::ReplyWithFds => 5,
            Kind::StreamHole => 6,
            Kind::Other(other) => other,
        }
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// A call; a reply that succeeded; the end of a stream.
    Ok,
    /// A reply that failed; a stream that is aborted or failed.
    Error,
    /// More of a stream.
    Continue,
    /// A number that is none of these.
    Other(i32),
}

impl From<i32> for Status {
    fn from(number: i32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Error,
            2 => Self::Continue,
            other => Self::Other(other),
        }
    }
}

impl From<Status> for i32 {
    fn from(status: Status) -> Self {
        match status {
            Status::Ok => 0,
            Status::Error => 1,
            Status::Continue => 2,
            Status::Other(other) => other,
        }
    }
}

/// What stands in front of every payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The program's number.
    pub program: u32,
    /// The program's version.
    pub version: u32,
    /// The operation.
    pub procedure: i32,
    /// What the frame is.
    pub kind: Kind,
    /// Which call it belongs to.
    pub serial: u32,
    /// How it went.
    pub status: Status,
}

impl Header {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let words = [
            self.program.to_be_bytes(),
            self.version.to_be_bytes(),
            self.procedure.to_be_bytes(),
            i32::from(self.kind).to_be_bytes(),
            self.serial.to_be_bytes(),
            i32::from(self.status).to_be_bytes(),
        ];
        let mut bytes = [0; HEADER_LEN];
        for (slot, word) in bytes.chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word);
        }
        bytes
    }

    /// Reads a header. Every value of every field is one: what to make of it is the reader's matter.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        let word = |index: usize| {
            let at = index * 4;
            [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
        };
        Self {
            program: u32::from_be_bytes(word(0)),
            version: u32::from_be_bytes(word(1)),
            procedure: i32::from_be_bytes(word(2)),
            kind: i32::from_be_bytes(word(3)).into(),
            serial: u32::from_be_bytes(word(4)),
            status: i32::from_be_bytes(word(5)).into(),
        }
    }

    /// The header of an answer to this frame.
    #[must_use]
    pub fn reply(&self, status: Status) -> Self {
        Self { kind: Kind::Reply, status, ..*self }
    }
}

/// A frame that has arrived whole.
#[derive(Debug)]
pub struct Frame {
    /// What it is.
    pub header: Header,
    /// What it carries, without the number of descriptors.
    pub payload: Vec<u8>,
    /// Its file descriptors, exactly as many as it announced.
    pub fds: Vec<OwnedFd>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_bytes_are_golden() {
        let header = Header {
            program: 0x2000_8086,
            version: 1,
            procedure: 66,
            kind: Kind::CallWithFds,
            serial: 0x0102_0304,
            status: Status::Continue,
        };
        let bytes = header.encode();
        assert_eq!(bytes, *b"\x20\0\x80\x86\0\0\0\x01\0\0\0\x42\0\0\0\x04\x01\x02\x03\x04\0\0\0\x02");
        assert_eq!(Header::decode(&bytes), header);
    }

    #[test]
    fn kinds_and_statuses_keep_their_numbers() {
        for number in -2..10 {
            assert_eq!(i32::from(Kind::from(number)), number);
            assert_eq!(i32::from(Status::from(number)), number);
        }
    }
}
