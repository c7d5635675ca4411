//! Values to bytes and back: the only module that names bincode.
//!
//! bincode 2.0.1 is the last release there will be; with everything behind this module it can be replaced in one place.
//! Nothing on disk is bincode. Golden bytes in the tests make a change of format visible.

use api::{Bounded, Call, Error, Event, Op, Reply};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error as ThisError;

/// No value may be larger than this, whatever its edge says: the largest cap of any edge.
const LIMIT: usize = 32 << 20;

type Config = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<LIMIT>,
>;

const fn config() -> Config {
    bincode::config::standard().with_limit::<LIMIT>()
}

/// Why a value could not be written or read.
#[derive(Debug, ThisError)]
pub enum CodecError {
    /// The value does not fit the format or its limit.
    #[error("cannot encode a message")]
    Encode(#[source] bincode::error::EncodeError),
    /// The bytes are not such a value.
    #[error("cannot decode a message")]
    Decode(#[source] bincode::error::DecodeError),
    /// The message is longer than the other side takes.
    #[error("a message of {found} bytes is longer than the {max} that the other side takes")]
    TooLong {
        /// Its length, in bytes.
        found: usize,
        /// The longest that is taken.
        max: usize,
    },
    /// The value is followed by bytes that belong to nothing.
    #[error("{extra} bytes follow a message's end")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// No operation has this number, or it is not of the kind that this frame carries.
    #[error("no such operation: program {program:#x}, procedure {procedure}")]
    UnknownOperation {
        /// The program number.
        program: u32,
        /// The procedure number in it.
        procedure: u32,
    },
    /// A list or string is longer than the operation table allows.
    #[error("a value is over the limit of the operation table")]
    Limit(#[source] api::LimitError),
}

/// Appends a value's bytes to `out`.
///
/// # Errors
/// When the value is over the limit.
pub fn encode_into<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    bincode::serde::encode_into_std_write(value, out, config()).map(|_| ()).map_err(CodecError::Encode)
}

/// Encodes as `encode` does, unless that makes more than `max` bytes: what is longer than its receiver takes would end the
/// connection, and all that is under way on it.
///
/// # Errors
/// [`CodecError::TooLong`], or what `encode` says.
pub fn within(
    max: u32,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
) -> impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError> {
    move |out| {
        let before = out.len();
        encode(out)?;
        let (found, max) = (out.len() - before, max as usize);
        if found > max { Err(CodecError::TooLong { found, max }) } else { Ok(()) }
    }
}

/// Reads one value that fills `bytes` exactly.
///
/// # Errors
/// When the bytes are not such a value, claim more than the limit, or go on after it.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let mut rest = Reader { bytes };
    let value = rest.take()?;
    rest.finish()?;
    Ok(value)
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn take<T: DeserializeOwned>(&mut self) -> Result<T, CodecError> {
        let (value, used) = bincode::serde::decode_from_slice(self.bytes, config()).map_err(CodecError::Decode)?;
        self.bytes = self.bytes.get(used..).unwrap_or_default();
        Ok(value)
    }

    fn finish(&self) -> Result<(), CodecError> {
        match self.bytes.len() {
            0 => Ok(()),
            extra => Err(CodecError::Trailing { extra }),
        }
    }

    fn take_op(&mut self) -> Result<Op, CodecError> {
        let (program, procedure): (u32, u32) = self.take()?;
        Op::from_wire(program, procedure).ok_or(CodecError::UnknownOperation { program, procedure })
    }
}

impl api::Decoder for Reader<'_> {
    type Error = CodecError;

    fn get<T: DeserializeOwned + api::xdr::Xdr + Bounded>(&mut self) -> Result<T, CodecError> {
        let value: T = self.take()?;
        value.check().map_err(CodecError::Limit)?;
        Ok(value)
    }
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl api::Encoder for Writer<'_> {
    type Error = CodecError;

    fn put<T: Serialize + api::xdr::Xdr + Bounded>(&mut self, value: &T) -> Result<(), CodecError> {
        value.check().map_err(CodecError::Limit)?;
        encode_into(value, self.out)
    }
}

/// Defines the pair of functions that carry one of the operation table's enums: its number first, then its fields.
macro_rules! table_codec {
    ($type:ident, $encode:ident, $decode:ident, $what:literal) => {
        #[doc = concat!("Appends ", $what, ": the operation's number, then its fields.")]
        ///
        /// # Errors
        /// When a field is over the limits of the table.
        pub fn $encode(value: &$type, out: &mut Vec<u8>) -> Result<(), CodecError> {
            let info = value.op().info();
            encode_into(&(info.program, info.procedure), out)?;
            value.encode(&mut Writer { out })
        }

        #[doc = concat!("Reads ", $what, " that fills `bytes` exactly.")]
        ///
        /// # Errors
        /// When the operation is unknown, a field is malformed or over its limit, or bytes follow.
        pub fn $decode(bytes: &[u8]) -> Result<$type, CodecError> {
            let mut reader = Reader { bytes };
            let op = reader.take_op()?;
            let info = op.info();
            let unknown = CodecError::UnknownOperation { program: info.program, procedure: info.procedure };
            let value = $type::decode(op, &mut reader)?.ok_or(unknown)?;
            reader.finish()?;
            Ok(value)
        }
    };
}

table_codec!(Call, encode_call, decode_call, "a call");
table_codec!(Reply, encode_reply, decode_reply, "a reply");
table_codec!(Event, encode_event, decode_event, "an event");

/// Appends the error of a failed call.
///
/// # Errors
/// When it is over the limit.
pub fn encode_error(error: &Error, out: &mut Vec<u8>) -> Result<(), CodecError> {
    encode_into(error, out)
}

/// Reads the error of a failed call.
///
/// # Errors
/// When the bytes are not one.
pub fn decode_error(bytes: &[u8]) -> Result<Error, CodecError> {
    decode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::remote::{Domain, DomainCreateArgs};

    fn call() -> Call {
        Call::DomainCreate(DomainCreateArgs { dom: Domain { name: "web".into(), uuid: [7; 16], id: -1 } })
    }

    #[test]
    fn call_bytes_are_golden() {
        let mut out = Vec::new();
        encode_call(&call(), &mut out).unwrap();
        let mut expected = vec![0xfc, 0x86, 0x80, 0x00, 0x20, 9, 3, b'w', b'e', b'b'];
        expected.extend([7; 16]);
        expected.push(1); // -1 in zigzag
        assert_eq!(out, expected);
        assert_eq!(decode_call(&out).unwrap(), call());
    }

    #[test]
    fn every_truncation_and_every_extra_byte_is_refused() {
        let mut out = Vec::new();
        encode_call(&call(), &mut out).unwrap();
        for end in 0..out.len() {
            assert!(decode_call(&out[..end]).is_err(), "{end} of {} bytes", out.len());
        }
        out.push(0);
        assert!(matches!(decode_call(&out), Err(CodecError::Trailing { extra: 1 })));
    }

    #[test]
    fn a_length_that_lies_is_an_error_and_no_allocation() {
        // A string whose length claims 2^40 bytes.
        let mut bytes = vec![253];
        bytes.extend((1u64 << 40).to_le_bytes());
        assert!(matches!(decode::<String>(&bytes), Err(CodecError::Decode(_))));
        assert!(matches!(decode::<Vec<u64>>(&bytes), Err(CodecError::Decode(_))));
    }

    #[test]
    fn an_operation_of_another_kind_is_unknown_here() {
        let mut out = Vec::new();
        // connect_event_connection_closed is an event, not a call.
        let info = Op::ConnectEventConnectionClosed.info();
        encode_into(&(info.program, info.procedure, 0i32), &mut out).unwrap();
        assert!(matches!(decode_call(&out), Err(CodecError::UnknownOperation { .. })));
        assert!(decode_event(&out).is_ok());
    }
}
