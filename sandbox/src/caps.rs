//! Capabilities: dropping every one of them, for ever, and proving it by reading back.

use std::io;

pub use ::caps::Capability;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// The highest capability number that the kernel's 64-bit sets can hold.
const LAST: u32 = 63;

/// Without it the bounding set can't be changed.
const SETPCAP: u32 = Capability::CAP_SETPCAP as u32;

/// Which step of giving up capabilities failed.
#[derive(Debug, thiserror::Error)]
pub enum CapsError {
    /// A capability could not be removed from the bounding set.
    #[error("cannot drop capability {capability} from the bounding set")]
    Bounding {
        /// The capability's number.
        capability: u32,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The ambient set could not be cleared.
    #[error("cannot clear the ambient capabilities")]
    Ambient {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The permitted, effective and inheritable sets could not be emptied.
    #[error("cannot empty the capability sets")]
    Sets {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The sets could not be read.
    #[error("cannot read the capability sets")]
    Read {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// Everything was dropped, yet something is left.
    #[error("capabilities are left after dropping all: {left:?}")]
    Left {
        /// What is left.
        left: Caps,
    },
}

/// The capability sets of a thread, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// What the thread may do now.
    pub effective: u64,
    /// What it may make effective.
    pub permitted: u64,
    /// What a privileged file may pass on.
    pub inheritable: u64,
    /// The limit of what an exec may give.
    pub bounding: u64,
    /// What an exec of an ordinary file keeps.
    pub ambient: u64,
}

impl Caps {
    /// Reads the sets of the calling thread.
    pub fn current() -> Result<Caps, CapsError> {
        let sets = rustix::thread::capabilities(None).map_err(|errno| CapsError::Read { source: errno.into() })?;
        Ok(Caps {
            effective: sets.effective.bits(),
            permitted: sets.permitted.bits(),
            inheritable: sets.inheritable.bits(),
            bounding: bits(rustix::thread::capability_is_in_bounding_set),
            ambient: bits(rustix::thread::capability_is_in_ambient_set),
        })
    }

    /// Whether no set holds anything.
    pub fn is_empty(&self) -> bool {
        *self == Caps::default()
    }

    /// Whether the capability with this number is effective.
    pub fn has(&self, capability: u32) -> bool {
        capability <= LAST && self.effective & (1 << capability) != 0
    }
}

/// The numbers that `is_in` says yes to, up to the first that the kernel does not know.
fn bits(is_in: impl Fn(CapabilitySet) -> Result<bool, Errno>) -> u64 {
    let known = (0..=LAST).map(|number| 1u64 << number).map_while(|bit| Some((bit, is_in(one(bit)).ok()?)));
    known.filter(|(_, is_in)| *is_in).map(|(bit, _)| bit).sum()
}

/// Whether the calling thread's effective set holds the capability with this number.
pub(crate) fn is_effective(capability: u32) -> Result<bool, Errno> {
    Ok(rustix::thread::capabilities(None)?.effective.contains(one(1 << capability)))
}

fn one(bit: u64) -> CapabilitySet {
    CapabilitySet::from_bits_retain(bit)
}

/// Empties the bounding set but for the bits of `kept`. A capability that it already lacks is passed over. Returns the first that can't be dropped.
///
/// Neither this function nor the two below allocate: a new child calls them before its `exec`.
pub(crate) fn drop_bounding(kept: u64) -> Result<(), (u32, Errno)> {
    for number in 0..=LAST {
        match rustix::thread::capability_is_in_bounding_set(one(1 << number)) {
            Ok(true) if kept & (1 << number) == 0 => {}
            Ok(_) => continue,
            // The first number that this kernel has no capability for.
            Err(_) => break,
        }
        rustix::thread::remove_capability_from_bounding_set(one(1 << number)).map_err(|errno| (number, errno))?;
    }
    Ok(())
}

/// Clears the ambient set.
pub(crate) fn clear_ambient() -> Result<(), Errno> {
    rustix::thread::clear_ambient_capability_set()
}

/// Empties the permitted, effective and inheritable sets, and reads back that they are.
pub(crate) fn empty_sets() -> Result<(), Errno> {
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    let now = rustix::thread::capabilities(None)?;
    let left = now.effective | now.permitted | now.inheritable;
    if left.is_empty() { Ok(()) } else { Err(Errno::PERM) }
}

/// Leaves no more than the bits of `kept` permitted and effective, nothing inheritable, and reads back that it is so.
pub(crate) fn keep_sets(kept: u64) -> Result<(), Errno> {
    let kept = one(kept) & rustix::thread::capabilities(None)?.permitted;
    let inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?;
    let now = rustix::thread::capabilities(None)?;
    let left = now.effective | now.permitted | now.inheritable;
    if kept.contains(left) { Ok(()) } else { Err(Errno::PERM) }
}

/// Drops every capability of the calling thread for ever: bounding, ambient, permitted, effective and inheritable; then reads
/// all of them back. A process without CAP_SETPCAP can't change its bounding set: that is an error unless it is empty, or
/// the process has set no_new_privs, after which the bounding set means nothing.
pub fn drop_all() -> Result<(), CapsError> {
    let may_change_bounding = Caps::current()?.has(SETPCAP);
    if may_change_bounding {
        drop_bounding(0).map_err(|(capability, errno)| CapsError::Bounding { capability, source: errno.into() })?;
    }
    clear_ambient().map_err(|errno| CapsError::Ambient { source: errno.into() })?;
    empty_sets().map_err(|errno| CapsError::Sets { source: errno.into() })?;
    let mut left = Caps::current()?;
    if !may_change_bounding && rustix::thread::no_new_privs().unwrap_or(false) {
        left.bounding = 0;
    }
    if left.is_empty() { Ok(()) } else { Err(CapsError::Left { left }) }
}

/// Gives up for ever every capability of the calling thread but those: nothing is inheritable or ambient, and the bounding
/// set holds no more, so not even root's `exec` brings another back. A capability that the thread lacks stays lacking.
///
/// # Errors
/// As [`drop_all`].
pub fn keep_only(kept: &[Capability]) -> Result<(), CapsError> {
    let kept = kept.iter().fold(0, |bits, capability| bits | capability.bitmask());
    let now = Caps::current()?;
    for number in (0..=LAST).filter(|number| now.bounding & !kept & (1 << number) != 0) {
        rustix::thread::remove_capability_from_bounding_set(one(1 << number))
            .map_err(|errno| CapsError::Bounding { capability: number, source: errno.into() })?;
    }
    clear_ambient().map_err(|errno| CapsError::Ambient { source: errno.into() })?;
    let sets = CapabilitySets {
        effective: one(now.effective & kept),
        permitted: one(now.permitted & kept),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).map_err(|errno| CapsError::Sets { source: errno.into() })?;
    let left = Caps::current()?;
    let more = (left.effective | left.permitted | left.inheritable | left.bounding | left.ambient) & !kept;
    if more == 0 { Ok(()) } else { Err(CapsError::Left { left }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_gone_for_ever() {
        if !is_effective(SETPCAP).unwrap() {
            crate::skip::skip("what_is_not_kept_is_gone_for_ever", "needs CAP_SETPCAP");
            return;
        }
        // A thread of its own: capabilities are a thread's, and the other tests keep theirs.
        let worker = std::thread::spawn(|| {
            keep_only(&[Capability::CAP_CHOWN, Capability::CAP_SETPCAP]).unwrap();
            let caps = Caps::current().unwrap();
            let two = 1 | 1 << 8;
            assert_eq!((caps.effective, caps.permitted, caps.bounding), (two, two, two));
            assert_eq!((caps.inheritable, caps.ambient), (0, 0));
            // Asking for more than there is brings nothing back.
            keep_only(&[Capability::CAP_SYS_ADMIN]).unwrap();
            assert!(Caps::current().unwrap().is_empty());
        });
        worker.join().unwrap();
    }

    #[test]
    fn thread_without_capabilities_has_none_left() {
        // A thread of its own: capabilities are a thread's, and the other tests keep theirs.
        std::thread::spawn(|| {
            crate::process::no_new_privs().unwrap();
            drop_all().unwrap();
            let caps = Caps::current().unwrap();
            assert_eq!((caps.effective, caps.permitted, caps.inheritable, caps.ambient), (0, 0, 0, 0));
            drop_all().unwrap();
        })
        .join()
        .unwrap();
    }
}
