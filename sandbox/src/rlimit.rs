//! Resource limits of this process.

use std::io;

pub use rustix::process::Resource;
use rustix::process::Rlimit;

/// A limit to set: the soft and the hard value of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is limited.
    pub resource: Resource,
    /// The value in force; `None` is unlimited.
    pub soft: Option<u64>,
    /// The ceiling up to which the soft value may be raised again; `None` is unlimited.
    pub hard: Option<u64>,
}

impl Limit {
    /// The same soft and hard value, so that the process can't raise it again.
    pub fn fixed(resource: Resource, value: u64) -> Limit {
        Limit { resource, soft: Some(value), hard: Some(value) }
    }

    pub(crate) fn apply(self) -> Result<(), rustix::io::Errno> {
        rustix::process::setrlimit(self.resource, Rlimit { current: self.soft, maximum: self.hard })
    }
}

/// A limit could not be set.
#[derive(Debug, thiserror::Error)]
#[error("cannot set the limit {limit:?}")]
pub struct LimitError {
    /// What was to be set.
    pub limit: Limit,
    /// The kernel's reason; EPERM when the hard limit would rise.
    #[source]
    pub source: io::Error,
}

/// Sets a limit of this process.
pub fn set(limit: Limit) -> Result<(), LimitError> {
    limit.apply().map_err(|errno| LimitError { limit, source: errno.into() })
}

/// The limit of `resource` in force for this process.
pub fn get(resource: Resource) -> Limit {
    let limit = rustix::process::getrlimit(resource);
    Limit { resource, soft: limit.current, hard: limit.maximum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_is_set_and_read_back() {
        let before = get(Resource::Core);
        let wanted = Limit { soft: Some(0), ..before };
        set(wanted).unwrap();
        assert_eq!(get(Resource::Core), wanted);
        set(before).unwrap();
    }

    #[test]
    fn soft_above_hard_is_refused() {
        let limit = Limit { resource: Resource::Core, soft: Some(2), hard: Some(1) };
        assert_eq!(set(limit).unwrap_err().limit, limit);
    }
}
