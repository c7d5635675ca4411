//! Descriptors that come from outside: by inheritance at a fixed number, or over a socket.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::FdFlags;

use crate::sys;

/// Why an inherited descriptor can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// 0, 1 and 2 belong to the standard library.
    #[error("descriptor {fd} is a standard stream")]
    Standard {
        /// The number asked for.
        fd: RawFd,
    },
    /// It was taken before; two owners would close it twice.
    #[error("descriptor {fd} was already taken")]
    Taken {
        /// The number asked for.
        fd: RawFd,
    },
    /// It is not open.
    #[error("descriptor {fd} was not handed over")]
    NotOpen {
        /// The number asked for.
        fd: RawFd,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// The numbers that `inherited_fd` has given an owner.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Takes the descriptor that the starter of this program placed at number `fd`, once, and marks it close-on-exec.
///
/// Call it first in `main`, before anything else is opened: a number that the starter left free may otherwise belong to
/// another owner by then.
pub fn inherited_fd(fd: RawFd) -> Result<OwnedFd, InheritError> {
    if fd <= 2 {
        return Err(InheritError::Standard { fd });
    }
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if taken.contains(&fd) {
        return Err(InheritError::Taken { fd });
    }
    // SAFETY: the borrow ends with this statement; a number that is not open is refused by the kernel with EBADF.
    let result = rustix::io::fcntl_setfd(unsafe { sys::borrow(fd) }, FdFlags::CLOEXEC);
    result.map_err(|errno| InheritError::NotOpen { fd, source: errno.into() })?;
    taken.insert(fd);
    // SAFETY: the descriptor is open, is no standard stream, and the set above proves that it gets its only owner here.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes every descriptor from `first` on. Meant for the first lines of `main`: nothing may own one of them yet, so 0, 1 and 2
/// and everything that [`inherited_fd`] gave out are refused.
pub fn close_range_from(first: RawFd) -> io::Result<()> {
    close_all_but_from(first.max(0), &[])
}

/// Closes every descriptor but the standard streams, those in `keep`, and those that [`inherited_fd`] gave out.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    close_all_but_from(3, keep)
}

fn close_all_but_from(first: RawFd, keep: &[RawFd]) -> io::Result<()> {
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let kept: BTreeSet<RawFd> = (0..=2).chain(keep.iter().copied()).chain(taken.iter().copied()).collect();
    for (first, last) in gaps(first, &kept) {
        // SAFETY: everything that has an owner by the documented use (start of main) is kept.
        unsafe { sys::close_range(first, last) }?;
    }
    Ok(())
}

/// The ranges of descriptor numbers from `first` on that are not in `keep`.
pub(crate) fn gaps(first: RawFd, keep: &BTreeSet<RawFd>) -> Vec<(u32, u32)> {
    let mut gaps = Vec::new();
    let mut next = u32::try_from(first).unwrap_or(0);
    for &fd in keep {
        let Ok(fd) = u32::try_from(fd) else { continue };
        if fd < next {
            continue;
        }
        if fd > next {
            gaps.push((next, fd - 1));
        }
        next = fd + 1;
    }
    gaps.push((next, u32::MAX));
    gaps
}

/// Checks of the kind and access mode of a descriptor that a peer sent, before it is used for anything.
pub mod check {
    use std::os::fd::AsFd;

    use rustix::fs::{FileType, OFlags};

    use super::BorrowedFd;

    /// What a descriptor must be open for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Access {
        /// Reading; it may be open for writing too.
        Read,
        /// Writing; it may be open for reading too.
        Write,
        /// Both.
        ReadWrite,
    }

    impl Access {
        fn is_given_by(self, flags: OFlags) -> bool {
            // The access mode is a number of two bits, not two flags: O_RDONLY is 0.
            match flags & OFlags::ACCMODE {
                OFlags::RDONLY => self == Access::Read,
                OFlags::WRONLY => self == Access::Write,
                OFlags::RDWR => true,
                _ => false,
            }
        }
    }

    /// What a checked file is.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Kind {
        /// A regular file.
        Regular,
        /// A block device.
        Block,
    }

    /// Why a descriptor is refused.
    #[derive(Debug, thiserror::Error)]
    pub enum CheckError {
        /// It can't be asked about.
        #[error("cannot inspect the descriptor")]
        Inspect {
            /// The kernel's reason.
            #[source]
            source: std::io::Error,
        },
        /// It was opened with O_PATH and so proves no right to the content.
        #[error("the descriptor was opened with O_PATH")]
        PathOnly,
        /// It is open for something else.
        #[error("the descriptor is not open for {wanted:?}")]
        Access {
            /// What it should be open for.
            wanted: Access,
        },
        /// It is something else.
        #[error("the descriptor is of type {found:?}, which is not {wanted}")]
        Type {
            /// What is accepted.
            wanted: &'static str,
            /// What it is.
            found: FileType,
        },
    }

    fn inspect(errno: rustix::io::Errno) -> CheckError {
        CheckError::Inspect { source: errno.into() }
    }

    fn file_type(fd: BorrowedFd<'_>) -> Result<FileType, CheckError> {
        Ok(FileType::from_raw_mode(rustix::fs::fstat(fd).map_err(inspect)?.st_mode))
    }

    fn access(fd: BorrowedFd<'_>, wanted: Access) -> Result<(), CheckError> {
        let flags = rustix::fs::fcntl_getfl(fd).map_err(inspect)?;
        if flags.contains(OFlags::PATH) {
            return Err(CheckError::PathOnly);
        }
        if wanted.is_given_by(flags) { Ok(()) } else { Err(CheckError::Access { wanted }) }
    }

    /// Accepts a regular file or a block device that is open for `wanted`.
    pub fn regular_or_block(fd: impl AsFd, wanted: Access) -> Result<Kind, CheckError> {
        access(fd.as_fd(), wanted)?;
        match file_type(fd.as_fd())? {
            FileType::RegularFile => Ok(Kind::Regular),
            FileType::BlockDevice => Ok(Kind::Block),
            found => Err(CheckError::Type { wanted: "a regular file or a block device", found }),
        }
    }

    /// Accepts a regular file that is open for `wanted`.
    pub fn regular(fd: impl AsFd, wanted: Access) -> Result<(), CheckError> {
        match regular_or_block(fd, wanted)? {
            Kind::Regular => Ok(()),
            Kind::Block => Err(CheckError::Type { wanted: "a regular file", found: FileType::BlockDevice }),
        }
    }

    /// Accepts a character device that is open for `wanted`.
    pub fn character_device(fd: impl AsFd, wanted: Access) -> Result<(), CheckError> {
        access(fd.as_fd(), wanted)?;
        match file_type(fd.as_fd())? {
            FileType::CharacterDevice => Ok(()),
            found => Err(CheckError::Type { wanted: "a character device", found }),
        }
    }

    /// Accepts a socket of the Unix family and stream type.
    pub fn unix_stream(fd: impl AsFd) -> Result<(), CheckError> {
        const WANTED: &str = "a Unix stream socket";
        let fd = fd.as_fd();
        access(fd, Access::ReadWrite)?;
        let found = file_type(fd)?;
        let is_stream = found == FileType::Socket
            && rustix::net::sockopt::socket_domain(fd).map_err(inspect)? == rustix::net::AddressFamily::UNIX
            && rustix::net::sockopt::socket_type(fd).map_err(inspect)? == rustix::net::SocketType::STREAM;
        if is_stream { Ok(()) } else { Err(CheckError::Type { wanted: WANTED, found }) }
    }
}

#[cfg(test)]
mod tests {
    use super::check::{Access, CheckError, Kind};
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
    use std::os::unix::net::UnixStream;

    #[test]
    fn inherited_descriptor_is_taken_once_and_closes_on_exec() {
        let file = File::open("/dev/null").unwrap();
        let number = rustix::io::fcntl_dupfd_cloexec(&file, 200).unwrap().into_raw_fd();
        // SAFETY: the number was just made, and nothing closes it before the end of this test.
        rustix::io::fcntl_setfd(unsafe { sys::borrow(number) }, FdFlags::empty()).unwrap();
        let owned = inherited_fd(number).unwrap();
        assert_eq!(owned.as_raw_fd(), number);
        assert!(rustix::io::fcntl_getfd(&owned).unwrap().contains(FdFlags::CLOEXEC));
        assert!(matches!(inherited_fd(number), Err(InheritError::Taken { .. })));
        assert!(matches!(inherited_fd(1), Err(InheritError::Standard { fd: 1 })));
        assert!(matches!(inherited_fd(100_000), Err(InheritError::NotOpen { fd: 100_000, .. })));
    }

    #[test]
    fn gaps_leave_out_exactly_the_kept_numbers() {
        let keep = BTreeSet::from([0, 1, 2, 5, 6, 9]);
        assert_eq!(gaps(0, &keep), [(3, 4), (7, 8), (10, u32::MAX)]);
        assert_eq!(gaps(6, &keep), [(7, 8), (10, u32::MAX)]);
        assert_eq!(gaps(0, &BTreeSet::new()), [(0, u32::MAX)]);
    }

    #[test]
    fn file_checks_tell_access_and_kind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let write_only = File::create(&path).unwrap();
        let read_only = File::open(&path).unwrap();
        let both = File::options().read(true).write(true).open(&path).unwrap();
        let path_only = rustix::fs::open(&path, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();

        assert_eq!(check::regular_or_block(&both, Access::ReadWrite).unwrap(), Kind::Regular);
        check::regular(&read_only, Access::Read).unwrap();
        check::regular(&write_only, Access::Write).unwrap();
        let refused = check::regular_or_block(&write_only, Access::Read);
        assert!(matches!(refused, Err(CheckError::Access { wanted: Access::Read })));
        assert!(matches!(check::regular(&read_only, Access::ReadWrite), Err(CheckError::Access { .. })));
        assert!(matches!(check::regular(&path_only, Access::Read), Err(CheckError::PathOnly)));
    }

    #[test]
    fn other_kinds_are_refused() {
        let (pipe, _writer) = rustix::pipe::pipe().unwrap();
        assert!(matches!(check::regular_or_block(&pipe, Access::Read), Err(CheckError::Type { .. })));
        assert!(matches!(check::unix_stream(&pipe), Err(CheckError::Access { .. })));
        let null = File::options().read(true).write(true).open("/dev/null").unwrap();
        check::character_device(&null, Access::ReadWrite).unwrap();
        assert!(matches!(check::regular(null.as_fd(), Access::Read), Err(CheckError::Type { .. })));
        let (stream, _peer) = UnixStream::pair().unwrap();
        check::unix_stream(&stream).unwrap();
        let datagram = std::os::unix::net::UnixDatagram::unbound().unwrap();
        assert!(matches!(check::unix_stream(&datagram), Err(CheckError::Type { .. })));
    }
}
