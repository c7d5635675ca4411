//! The steps of a new process, in their order, and how it reports them.

use std::time::Duration;

use rustix::io::Errno;

/// Writes the enum, its names for messages and its conversion from a number out of one list.
macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// A step on the way from `clone3` to the program. The order of the variants is the order of the steps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Step {
            $($(#[$doc])* $name,)*
        }

        impl Step {
            /// Every step in order.
            pub const ALL: &[Step] = &[$(Step::$name,)*];

            fn text(self) -> &'static str {
                match self {
                    $(Step::$name => $text,)*
                }
            }
        }
    };
}

steps! {
    /// The process exists in its namespaces (this one can't fail in the child).
    Clone => "come to life",
    /// `setsid`
    Session => "start a session",
    /// Writing the maps of the user namespace.
    UserMap => "map its user",
    /// Placing the descriptors at their numbers.
    PlaceFds => "place its descriptors",
    /// Closing every other descriptor.
    CloseFds => "close other descriptors",
    /// Setting resource limits.
    Limits => "set resource limits",
    /// Entering a prepared network namespace.
    NetworkNamespace => "enter the network namespace",
    /// Cutting the mounts off from the host's.
    PrivateMounts => "make its mounts private",
    /// Mounting the new root.
    JailRoot => "mount its root",
    /// Making a directory in the root.
    JailDirectory => "make a directory of its root",
    /// Making a symbolic link in the root.
    JailSymlink => "make a link of its root",
    /// Binding a file or directory into the root.
    JailBind => "bind a path into its root",
    /// Making the root and the binds read-only.
    JailReadOnly => "make its root read-only",
    /// Mounting a writable directory.
    JailWritable => "mount a writable directory",
    /// Making or binding a device node.
    JailDevice => "make a device node",
    /// Moving into the new root.
    PivotRoot => "pivot into its root",
    /// Letting go of the host's tree.
    DetachOldRoot => "detach the old root",
    /// Setting the host name.
    Hostname => "set its host name",
    /// Emptying the capability bounding set.
    BoundingSet => "empty its bounding set",
    /// Clearing the ambient capabilities.
    AmbientSet => "clear its ambient capabilities",
    /// Giving up supplementary groups.
    Groups => "give up its groups",
    /// Changing the group.
    Gid => "change its group",
    /// Changing the user.
    Uid => "change its user",
    /// Emptying the other capability sets.
    Capabilities => "empty its capability sets",
    /// Changing the working directory.
    Directory => "change its directory",
    /// Setting no_new_privs.
    NoNewPrivs => "set no_new_privs",
    /// Asking for a signal when the parent ends.
    ParentDeath => "ask for a parent death signal",
    /// Unblocking signals.
    SignalMask => "unblock its signals",
    /// Enforcing Landlock rules.
    Landlock => "enforce its Landlock rules",
    /// Adding the seccomp filter.
    Seccomp => "add its seccomp filter",
    /// Becoming the program.
    Exec => "execute the program",
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

/// How long after the request for the process a step was done for the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepTime {
    /// The step.
    pub step: Step,
    /// Time since just before `clone3`.
    pub after: Duration,
}

/// One record of the pipe: a failure (errno is not 0) or the time of a step.
pub(super) struct Record {
    pub(super) step: Step,
    pub(super) errno: i32,
    /// For a failure the index of the jail's action, for a time nanoseconds.
    pub(super) value: u64,
}

impl Record {
    pub(super) const SIZE: usize = 16;

    pub(super) fn failure(step: Step, errno: Errno, action: u32) -> Record {
        Record { step, errno: errno.raw_os_error(), value: u64::from(action) }
    }

    pub(super) fn to_bytes(&self) -> [u8; Record::SIZE] {
        let mut bytes = [0; Record::SIZE];
        let (step, rest) = bytes.split_at_mut(4);
        let (errno, value) = rest.split_at_mut(4);
        step.copy_from_slice(&(self.step as u32).to_ne_bytes());
        errno.copy_from_slice(&self.errno.to_ne_bytes());
        value.copy_from_slice(&self.value.to_ne_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Record> {
        let step = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
        let errno = i32::from_ne_bytes(bytes.get(4..8)?.try_into().ok()?);
        let value = u64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?);
        Some(Record { step: *Step::ALL.get(usize::try_from(step).ok()?)?, errno, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_pipe() {
        for &step in Step::ALL {
            let record = Record::from_bytes(&Record::failure(step, Errno::PERM, 7).to_bytes()).unwrap();
            assert_eq!((record.step, record.errno, record.value), (step, libc::EPERM, 7));
        }
        assert!(Record::from_bytes(&[0xff; Record::SIZE]).is_none());
        assert!(Record::from_bytes(&[0; 3]).is_none());
    }
}
