//! The header in front of every message.
//!
//! ```text
//! offset 0   4  magic "BLKH"
//!        4   2  protocol version, little endian
//!        6   1  kind
//!        7   1  file descriptors that come with this frame
//!        8   8  serial: a reply repeats its call's
//!       16   4  length of the body in bytes
//!       20      body
//! ```
//! The length is checked against the cap of the edge before a byte of the body is buffered.

use thiserror::Error;

/// Bytes of a header.
pub const HEADER_LEN: usize = 20;
/// What every frame starts with.
pub const MAGIC: [u8; 4] = *b"BLKH";
/// The protocol version that this build speaks.
pub const VERSION: u16 = 1;
/// The most file descriptors that one frame may carry: the kernel's own limit for one message (`SCM_MAX_FD`).
pub const MAX_FDS: u8 = 253;

/// The longest hello, in bytes.
pub const MAX_HELLO: u32 = 4 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first frame in each direction.
    Hello = 1,
    /// A request that waits for exactly one [`Kind::Reply`] or [`Kind::Error`] of the same serial.
    Call = 2,
    /// The answer to a call.
    Reply = 3,
    /// The failure of a call; the body is an error.
    Error = 4,
    /// News that nobody asked for by serial.
    Event = 5,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Hello, Kind::Call, Kind::Reply, Kind::Error, Kind::Event].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The most that one frame of an edge may carry, in each direction: what this side accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Bytes of a body.
    pub body: u32,
    /// File descriptors of a frame.
    pub fds: u8,
}

impl Caps {
    /// What a daemon takes from a client: a large document and the disks of a large guest.
    pub const FROM_CLIENT: Caps = Caps { body: 8 << 20, fds: MAX_FDS };
    /// What a daemon takes from a client that has not said hello.
    pub const BEFORE_HELLO: Caps = Caps { body: MAX_HELLO, fds: 0 };
    /// What a client takes from a daemon: the longest list that the table allows.
    pub const FROM_DAEMON: Caps = Caps { body: 32 << 20, fds: 32 };
    /// Between the processes of the house.
    pub const INTERNAL: Caps = Caps { body: 4 << 20, fds: MAX_FDS };
}

/// A header whose every field has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Which call it belongs to; 0 for hello and events.
    pub serial: u64,
    /// Bytes of the body.
    pub length: u32,
    /// File descriptors that belong to the frame.
    pub fds: u8,
}

/// Why bytes are not a header that this edge accepts.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// The peer speaks another protocol, or the two have lost step.
    #[error("a frame starts with {found:02x?} instead of the magic number")]
    Magic {
        /// The four bytes in its place.
        found: [u8; 4],
    },
    /// The peer speaks a version that this build does not.
    #[error("protocol version {found} is not spoken here (this is version {VERSION})")]
    Version {
        /// The version in the header.
        found: u16,
    },
    /// The kind byte is of no known kind.
    #[error("frame kind {found} is unknown")]
    Kind {
        /// The kind byte.
        found: u8,
    },
    /// The body is longer than the edge allows.
    #[error("a body of {found} bytes is over the {cap} that this edge accepts")]
    Length {
        /// The length in the header.
        found: u32,
        /// The edge's cap.
        cap: u32,
    },
    /// More file descriptors than the edge allows.
    #[error("{found} file descriptors are over the {cap} that this edge accepts")]
    Fds {
        /// The count in the header.
        found: u8,
        /// The edge's cap.
        cap: u8,
    },
}

impl Header {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6] = self.kind as u8;
        out[7] = self.fds;
        out[8..16].copy_from_slice(&self.serial.to_le_bytes());
        out[16..20].copy_from_slice(&self.length.to_le_bytes());
        out
    }

    /// Reads and checks a header.
    ///
    /// # Errors
    /// Whatever in the header this edge does not accept.
    pub fn decode(bytes: &[u8; HEADER_LEN], caps: Caps) -> Result<Header, FrameError> {
        let [m0, m1, m2, m3, v0, v1, kind, fds, rest @ ..] = *bytes;
        let [s0, s1, s2, s3, s4, s5, s6, s7, l0, l1, l2, l3] = rest;
        let magic = [m0, m1, m2, m3];
        if magic != MAGIC {
            return Err(FrameError::Magic { found: magic });
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(FrameError::Version { found: version });
        }
        let kind = Kind::from_byte(kind).ok_or(FrameError::Kind { found: kind })?;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length > caps.body {
            return Err(FrameError::Length { found: length, cap: caps.body });
        }
        if fds > caps.fds {
            return Err(FrameError::Fds { found: fds, cap: caps.fds });
        }
        Ok(Header { kind, serial: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]), length, fds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: Caps = Caps { body: 100, fds: 2 };

    #[test]
    fn header_bytes_are_golden() {
        let header = Header { kind: Kind::Call, serial: 0x0102_0304_0506_0708, length: 100, fds: 2 };
        let bytes = header.encode();
        assert_eq!(bytes, *b"BLKH\x01\x00\x02\x02\x08\x07\x06\x05\x04\x03\x02\x01\x64\x00\x00\x00");
        assert_eq!(Header::decode(&bytes, CAPS), Ok(header));
    }

    #[test]
    fn each_field_that_is_wrong_is_named() {
        let good = Header { kind: Kind::Event, serial: 0, length: 1, fds: 0 }.encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            Header::decode(&bytes, CAPS)
        };
        assert_eq!(with(0, b'X'), Err(FrameError::Magic { found: *b"XLKH" }));
        assert_eq!(with(4, 9), Err(FrameError::Version { found: 9 }));
        assert_eq!(with(6, 0), Err(FrameError::Kind { found: 0 }));
        assert_eq!(with(6, 6), Err(FrameError::Kind { found: 6 }));
        assert_eq!(with(7, 3), Err(FrameError::Fds { found: 3, cap: 2 }));
        assert_eq!(with(16, 101), Err(FrameError::Length { found: 101, cap: 100 }));
        assert_eq!(with(19, 0xff), Err(FrameError::Length { found: 0xff00_0001, cap: 100 }));
    }
}
