//! What a codec must do to carry calls, replies and events. XDR is in [`crate::xdr`]; `ipc` has the other one.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::Bounded;
use crate::xdr::Xdr;

/// Writes values one after the other.
pub trait Encoder {
    /// What can go wrong.
    type Error;

    /// Writes a value, or fails without having written any of it. A value above a limit is refused.
    fn put<T: Serialize + Xdr + Bounded>(&mut self, value: &T) -> Result<(), Self::Error>;
}

/// Reads values one after the other.
pub trait Decoder {
    /// What can go wrong.
    type Error;

    /// Reads a value. One above a limit is refused, if possible before anything is allocated for it.
    fn get<T: DeserializeOwned + Xdr + Bounded>(&mut self) -> Result<T, Self::Error>;
}
