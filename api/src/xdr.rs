//! XDR (RFC 4506) as libvirt uses it: big endian, everything a multiple of four bytes.
//!
//! Decoding believes nothing: a length is checked against the table's limit and against the bytes that are left before
//! anything is reserved for it. Where libvirt is lenient, so is this: padding may hold any bytes, and any number but 0
//! is true, as is the mark before an optional value. Small integers (char, short) take four bytes each.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::{Bounded, LimitError};

/// What makes bytes unreadable, or a value unwritable.
#[derive(Debug, thiserror::Error)]
pub enum XdrError {
    /// The bytes end within a value.
    #[error("{needed} bytes are needed, {left} are left")]
    Truncated {
        /// How many the value takes at least.
        needed: usize,
        /// How many there are.
        left: usize,
    },
    /// A length above the limit of its field.
    #[error("length {length} is above the limit of {max}")]
    TooLong {
        /// The length that was read.
        length: u32,
        /// The limit.
        max: u32,
    },
    /// A string that is no UTF-8.
    #[error("string is not UTF-8")]
    NotUtf8(#[source] std::str::Utf8Error),
    /// A small integer that holds more than its type does.
    #[error("{value} does not fit into {ty}")]
    OutOfRange {
        /// What was read.
        value: i32,
        /// The Rust type.
        ty: &'static str,
    },
    /// A union with a number that none of its arms has.
    #[error("{union} has no arm {found}")]
    UnknownArm {
        /// The type.
        union: &'static str,
        /// What was read.
        found: i32,
    },
    /// A value that may not be written.
    #[error("value breaks a limit")]
    Limit(#[from] LimitError),
    /// Bytes after the last value.
    #[error("{left} bytes follow the last value")]
    Trailing {
        /// How many.
        left: usize,
    },
}

/// A type with an XDR form.
pub trait Xdr: Sized {
    /// The fewest bytes that any value takes.
    const MIN_SIZE: usize;

    /// Appends the value. Limits are the caller's matter: [`Encoder::put`](crate::Encoder::put) checks them first.
    fn encode(&self, out: &mut Encoder);

    /// Reads a value.
    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError>;
}

/// Appends XDR to a buffer.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: Vec<u8>,
}

impl Encoder {
    /// Begins with an empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends to what the buffer holds already: a message header, say.
    pub fn over(buffer: Vec<u8>) -> Self {
        Self { buffer }
    }

    /// What has been written.
    pub fn as_slice(&self) -> &[u8] {
        &self.buffer
    }

    /// Gives the buffer back.
    pub fn into_vec(self) -> Vec<u8> {
        self.buffer
    }

    /// Bytes as they are, padded.
    pub fn fixed_opaque(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        // By the bytes' own length: what the buffer held before need not end at a multiple of four.
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.buffer.resize(self.buffer.len() + padding, 0);
    }

    /// A length and that many bytes, padded.
    pub fn opaque(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.fixed_opaque(bytes);
    }

    /// A string.
    pub fn string(&mut self, text: &str) {
        self.opaque(text.as_bytes());
    }

    /// A count and that many values.
    pub fn list<T>(&mut self, values: &[T], encode: impl Fn(&T, &mut Self)) {
        self.length(values.len());
        self.items(values, encode);
    }

    /// Values without a count.
    pub fn items<T>(&mut self, values: &[T], encode: impl Fn(&T, &mut Self)) {
        for value in values {
            encode(value, self);
        }
    }

    /// 0, or 1 and the value.
    pub fn option<T>(&mut self, value: &Option<T>, encode: impl Fn(&T, &mut Self)) {
        value.is_some().encode(self);
        if let Some(value) = value {
            encode(value, self);
        }
    }

    fn length(&mut self, length: usize) {
        // Every limit fits into 32 bits and was checked; a caller who did not check writes what no reader accepts.
        u32::try_from(length).unwrap_or(u32::MAX).encode(self);
    }
}

impl crate::codec::Encoder for Encoder {
    type Error = XdrError;

    fn put<T: Serialize + Xdr + Bounded>(&mut self, value: &T) -> Result<(), XdrError> {
        value.check()?;
        value.encode(self);
        Ok(())
    }
}

/// Reads XDR from bytes.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Begins at the first of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes that have not been read.
    pub fn remaining(&self) -> &'a [u8] {
        self.rest
    }

    /// Refuses bytes after the last value. libvirt ignores them after the arguments of a call.
    pub fn finish(self) -> Result<(), XdrError> {
        if self.rest.is_empty() { Ok(()) } else { Err(XdrError::Trailing { left: self.rest.len() }) }
    }

    /// Bytes as they are; their padding is skipped.
    pub fn fixed_opaque(&mut self, length: usize) -> Result<&'a [u8], XdrError> {
        let needed = length.next_multiple_of(4);
        let Some((bytes, rest)) = self.rest.split_at_checked(needed) else {
            return Err(XdrError::Truncated { needed, left: self.rest.len() });
        };
        self.rest = rest;
        Ok(bytes.get(..length).unwrap_or(bytes))
    }

    /// At most `max` bytes.
    pub fn opaque(&mut self, max: u32) -> Result<Vec<u8>, XdrError> {
        self.opaque_slice(max).map(<[u8]>::to_vec)
    }

    /// A string of at most `max` bytes.
    pub fn string(&mut self, max: u32) -> Result<String, XdrError> {
        let bytes = self.opaque_slice(max)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(XdrError::NotUtf8)
    }

    /// At most `max` values, each of at least `min_size` bytes.
    pub fn list<T>(
        &mut self,
        max: u32,
        min_size: usize,
        decode: impl Fn(&mut Self) -> Result<T, XdrError>,
    ) -> Result<Vec<T>, XdrError> {
        let count = self.length(max)?;
        self.items(count, min_size, decode)
    }

    /// Exactly `count` values, each of at least `min_size` bytes.
    pub fn items<T>(
        &mut self,
        count: usize,
        min_size: usize,
        decode: impl Fn(&mut Self) -> Result<T, XdrError>,
    ) -> Result<Vec<T>, XdrError> {
        let needed = count.saturating_mul(min_size.max(1));
        if needed > self.rest.len() {
            return Err(XdrError::Truncated { needed, left: self.rest.len() });
        }
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(decode(self)?);
        }
        Ok(values)
    }

    /// A value, if the mark before it says that there is one.
    pub fn option<T>(&mut self, decode: impl FnOnce(&mut Self) -> Result<T, XdrError>) -> Result<Option<T>, XdrError> {
        if bool::decode(self)? { decode(self).map(Some) } else { Ok(None) }
    }

    fn opaque_slice(&mut self, max: u32) -> Result<&'a [u8], XdrError> {
        let length = self.length(max)?;
        self.fixed_opaque(length)
    }

    fn length(&mut self, max: u32) -> Result<usize, XdrError> {
        let length = u32::decode(self)?;
        if length > max {
            return Err(XdrError::TooLong { length, max });
        }
        usize::try_from(length).map_err(|_| XdrError::TooLong { length, max })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], XdrError> {
        let Some((bytes, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(XdrError::Truncated { needed: N, left: self.rest.len() });
        };
        self.rest = rest;
        Ok(*bytes)
    }
}

impl crate::codec::Decoder for Decoder<'_> {
    type Error = XdrError;

    fn get<T: DeserializeOwned + Xdr + Bounded>(&mut self) -> Result<T, XdrError> {
        T::decode(self)
    }
}

impl Xdr for () {
    const MIN_SIZE: usize = 0;

    fn encode(&self, _: &mut Encoder) {}

    fn decode(_: &mut Decoder<'_>) -> Result<Self, XdrError> {
        Ok(())
    }
}

/// A 16-byte uuid.
impl Xdr for [u8; 16] {
    const MIN_SIZE: usize = 16;

    fn encode(&self, out: &mut Encoder) {
        out.fixed_opaque(self);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        input.array()
    }
}

impl Xdr for bool {
    const MIN_SIZE: usize = 4;

    fn encode(&self, out: &mut Encoder) {
        u32::from(*self).encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        u32::decode(input).map(|value| value != 0)
    }
}

/// Numbers of four and eight bytes.
macro_rules! whole {
    ($($ty:ty)*) => {$(
        impl Xdr for $ty {
            const MIN_SIZE: usize = size_of::<$ty>();

            fn encode(&self, out: &mut Encoder) {
                out.buffer.extend_from_slice(&self.to_be_bytes());
            }

            fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
                input.array().map(<$ty>::from_be_bytes)
            }
        }
    )*};
}

whole!(i32 u32 i64 u64 f64);

/// Small integers, each in a whole int.
macro_rules! small {
    ($($ty:ty)*) => {$(
        impl Xdr for $ty {
            const MIN_SIZE: usize = 4;

            fn encode(&self, out: &mut Encoder) {
                i32::from(*self).encode(out);
            }

            fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
                let value = i32::decode(input)?;
                Self::try_from(value).map_err(|_| XdrError::OutOfRange { value, ty: stringify!($ty) })
            }
        }
    )*};
}

small!(u8 i16 u16);

/// C's `char`: a peer whose char has no sign sends 128 to 255 for what is negative here.
impl Xdr for i8 {
    const MIN_SIZE: usize = 4;

    fn encode(&self, out: &mut Encoder) {
        i32::from(*self).encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        let value = i32::decode(input)?;
        let signed = Self::try_from(value).or_else(|_| u8::try_from(value).map(u8::cast_signed));
        signed.map_err(|_| XdrError::OutOfRange { value, ty: "i8" })
    }
}
