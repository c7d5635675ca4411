//! The number of a run.

use std::fmt;

/// One boot of an object; libvirt's domain id. The launcher allots it, and no two runs of one host share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run(pub u32);

impl Run {
    /// As libvirt's handles carry it.
    #[must_use]
    pub fn id(self) -> i32 {
        i32::try_from(self.0).unwrap_or(i32::MAX)
    }

    /// The run that a handle's id names, if it can name one.
    #[must_use]
    pub fn from_id(id: i32) -> Option<Run> {
        u32::try_from(id).ok().map(Run)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
