//! The part of a message that depends on the kind of guest: a JSON text that says what it is.
//!
//! Everything else on this edge is fixed in bincode, where no field can be added. A payload can grow: a reader ignores fields
//! that it does not know and takes the default for fields that are missing, so adding a field is no new version. The version is
//! raised only when a reader that ignores the new part would do something wrong; an older reader then refuses the payload.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

/// The longest name of a payload's kind, in bytes.
pub const MAX_KIND: usize = 32;
/// The longest body of a payload, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// A self-describing value. See the module's page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// What it is: [`Body::KIND`] of the type that reads it.
    pub kind: String,
    /// The version of that type that a reader must know at least.
    pub version: u16,
    /// The value, as JSON. A string, because bincode copies it in one piece.
    pub body: String,
}

/// A type that travels as a payload. Give each field a default, and add fields freely.
pub trait Body: Serialize + DeserializeOwned {
    /// Its name on the wire.
    const KIND: &'static str;
    /// The version that this build writes, and the newest that it reads.
    const VERSION: u16;
}

/// Why a payload can't be written or read.
#[derive(Debug, Error)]
pub enum PayloadError {
    /// It is something else.
    #[error("'{found}' is not '{wanted}'")]
    Kind {
        /// What it says it is.
        found: String,
        /// What was expected.
        wanted: &'static str,
    },
    /// Its writer is newer than this build.
    #[error("version {found} of '{kind}' is newer than {newest}, the newest that is known here")]
    Version {
        /// What it is.
        kind: &'static str,
        /// Its version.
        found: u16,
        /// The newest that is known.
        newest: u16,
    },
    /// It is too long.
    #[error("a body of {0} bytes is longer than {MAX_BODY}")]
    TooLong(usize),
    /// It is not JSON, or not of this type.
    #[error("'{kind}' cannot be converted")]
    Json {
        /// What it is.
        kind: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl Payload {
    /// Writes a value.
    ///
    /// # Errors
    /// When it is too long.
    pub fn new<B: Body>(value: &B) -> Result<Payload, PayloadError> {
        let body = serde_json::to_string(value).map_err(|source| PayloadError::Json { kind: B::KIND, source })?;
        if body.len() > MAX_BODY {
            return Err(PayloadError::TooLong(body.len()));
        }
        Ok(Payload { kind: B::KIND.to_owned(), version: B::VERSION, body })
    }

    /// Whether it says that it is a `B`.
    #[must_use]
    pub fn is<B: Body>(&self) -> bool {
        self.kind == B::KIND
    }

    /// Reads a value.
    ///
    /// # Errors
    /// When it is of another kind, newer than this build, too long, or no such value.
    pub fn read<B: Body>(&self) -> Result<B, PayloadError> {
        if !self.is::<B>() {
            let found = self.kind.chars().filter(|c| !c.is_control()).take(MAX_KIND).collect();
            return Err(PayloadError::Kind { found, wanted: B::KIND });
        }
        if self.version > B::VERSION {
            return Err(PayloadError::Version { kind: B::KIND, found: self.version, newest: B::VERSION });
        }
        if self.body.len() > MAX_BODY {
            return Err(PayloadError::TooLong(self.body.len()));
        }
        serde_json::from_str(&self.body).map_err(|source| PayloadError::Json { kind: B::KIND, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::qemu::{BootSpec, ProbeSpec};

    fn payload(body: &str) -> Payload {
        Payload { kind: ProbeSpec::KIND.into(), version: 1, body: body.into() }
    }

    #[test]
    fn a_field_can_be_added_on_either_side() {
        let newer = payload(r#"{"argv":["q"],"deadline_ms":7,"colour":{"r":1}}"#).read::<ProbeSpec>().unwrap();
        assert_eq!(newer, ProbeSpec { argv: vec!["q".into()], deadline_ms: 7 });
        assert_eq!(payload("{}").read::<ProbeSpec>().unwrap(), ProbeSpec::default());
    }

    #[test]
    fn another_kind_or_a_newer_version_is_refused() {
        let good = Payload::new(&ProbeSpec::default()).unwrap();
        assert_eq!(good.read::<ProbeSpec>().unwrap(), ProbeSpec::default());
        assert!(matches!(good.read::<BootSpec>(), Err(PayloadError::Kind { .. })));
        let newer = Payload { version: ProbeSpec::VERSION + 1, ..good };
        assert!(matches!(newer.read::<ProbeSpec>(), Err(PayloadError::Version { .. })));
    }

    #[test]
    fn garbage_and_excess_are_refused() {
        for body in ["", "[", "7", r#"{"argv":7}"#, &"[".repeat(100_000)] {
            assert!(matches!(payload(body).read::<ProbeSpec>(), Err(PayloadError::Json { .. })), "{body:.20}");
        }
        assert!(matches!(payload(&" ".repeat(MAX_BODY + 1)).read::<ProbeSpec>(), Err(PayloadError::TooLong(_))));
        let long = ProbeSpec { argv: vec!["x".repeat(MAX_BODY)], deadline_ms: 1 };
        assert!(matches!(Payload::new(&long), Err(PayloadError::TooLong(_))));
    }
}
