//! What both sides of every edge say first.
//!
//! The header's version is the framing's; the versions here are the edge's own, so a supervisor that outlived an upgrade of
//! qemud and the new qemud find the newest version that both speak.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Who somebody is and what it speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest version of this edge's messages that the sender speaks.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
    /// The sender's program and release, for logs and error messages only.
    pub software: String,
    /// Optional abilities, by name; unknown ones are ignored.
    pub features: Vec<String>,
}

/// The two sides have no version in common.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{software} speaks versions {theirs_oldest} to {theirs_newest} of this edge, this side {ours_oldest} to {ours_newest}"
)]
pub struct NoCommonVersion {
    software: String,
    theirs_oldest: u16,
    theirs_newest: u16,
    ours_oldest: u16,
    ours_newest: u16,
}

impl Hello {
    /// A hello of this build for an edge whose messages have these versions.
    #[must_use]
    pub fn new(program: &str, oldest: u16, newest: u16) -> Hello {
        Hello { oldest, newest, software: format!("{program} {}", env!("CARGO_PKG_VERSION")), features: Vec::new() }
    }

    /// The newest version that both sides speak.
    ///
    /// # Errors
    /// When there is none.
    pub fn agree(&self, theirs: &Hello) -> Result<u16, NoCommonVersion> {
        let newest = self.newest.min(theirs.newest);
        if newest >= self.oldest && newest >= theirs.oldest {
            return Ok(newest);
        }
        Err(NoCommonVersion {
            software: theirs.software.chars().filter(|c| !c.is_control()).take(80).collect(),
            theirs_oldest: theirs.oldest,
            theirs_newest: theirs.newest,
            ours_oldest: self.oldest,
            ours_newest: self.newest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_taken() {
        let at = |oldest, newest| Hello::new("x", oldest, newest);
        assert_eq!(at(1, 3).agree(&at(2, 5)), Ok(3));
        assert_eq!(at(2, 5).agree(&at(1, 2)), Ok(2));
        assert!(at(1, 1).agree(&at(2, 2)).is_err());
        assert!(at(3, 4).agree(&at(1, 2)).is_err());
    }
}
