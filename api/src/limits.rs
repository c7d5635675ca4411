//! The limits of the table, whatever codec brought a value in.

/// A value is longer than the table allows, or not as long as it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// A string, list or opaque above its limit.
    #[error("{field} holds {length}, at most {max} are allowed")]
    TooLong {
        /// `Type.field`.
        field: &'static str,
        /// How many it holds.
        length: usize,
        /// How many it may hold.
        max: usize,
    },
    /// A list whose length is fixed.
    #[error("{field} holds {length}, exactly {expected} are needed")]
    WrongLength {
        /// `Type.field`.
        field: &'static str,
        /// How many it holds.
        length: usize,
        /// How many it must hold.
        expected: usize,
    },
}

/// A type with limits. XDR applies them by itself; after another codec has read a value, `check` does.
pub trait Bounded {
    /// Fails at the first limit that the value breaks.
    fn check(&self) -> Result<(), LimitError> {
        Ok(())
    }
}

impl Bounded for () {}

pub(crate) fn at_most(field: &'static str, length: usize, max: usize) -> Result<(), LimitError> {
    if length <= max { Ok(()) } else { Err(LimitError::TooLong { field, length, max }) }
}

pub(crate) fn exactly(field: &'static str, length: usize, expected: usize) -> Result<(), LimitError> {
    if length == expected { Ok(()) } else { Err(LimitError::WrongLength { field, length, expected }) }
}
