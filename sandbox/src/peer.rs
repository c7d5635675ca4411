//! Who is at the other end of a local socket. The kernel answers, never the peer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// The identity that the peer had when it connected (or made the socket pair), as this process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCred {
    /// The process id; 0 when the peer lives outside this process's pid namespace.
    pub pid: i32,
    /// The effective user id; the overflow id when it has no name in this process's user namespace.
    pub uid: u32,
    /// The effective group id, likewise.
    pub gid: u32,
}

/// Asks the kernel for every group, besides the one of [`cred`], that the peer was in when it connected.
pub fn groups(socket: impl AsFd) -> Result<Vec<u32>, PeerError> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let size = groups.len() * size_of::<libc::gid_t>();
        let mut length = libc::socklen_t::try_from(size).unwrap_or(0);
        // SAFETY: groups is a valid place of `length` bytes and both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = usize::try_from(length).unwrap_or(0) / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // The kernel says how much room it wants.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error.into());
        }
        groups.resize(count, 0);
    }
}

/// The kernel did not tell the peer's identity.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the identity of the socket's peer")]
pub struct PeerError {
    /// The kernel's reason.
    #[from]
    pub source: io::Error,
}

/// Asks the kernel who is at the other end of `socket`.
pub fn cred(socket: &UnixStream) -> Result<PeerCred, PeerError> {
    let mut cred = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: cred is a valid place of `length` bytes and both outlive the call. (rustix's wrapper is not used: its process
    // id can't be 0, which is what a peer of another pid namespace has.)
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut cred).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(PeerCred { pid: cred.pid, uid: cred.uid, gid: cred.gid })
}

/// A descriptor of the process that connected, which no later process of the same number can be taken for. None when the
/// kernel is older than Linux 6.5, which does not give one.
///
/// # Errors
/// When the process is gone.
pub fn pidfd(socket: impl AsFd) -> Result<Option<OwnedFd>, PeerError> {
    let mut number: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: number is a valid place of `length` bytes and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENOPROTOOPT) { Ok(None) } else { Err(error.into()) };
    }
    // SAFETY: the kernel has just made this descriptor (close-on-exec) for this call, and nobody else knows its number.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// Not in libc yet; the same number on every architecture that this builds for.
const SO_PEERPIDFD: libc::c_int = 77;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_of_a_peer_is_of_its_process() {
        let (one, _two) = UnixStream::pair().unwrap();
        // An older kernel has none.
        let Some(pidfd) = pidfd(&one).unwrap() else { return };
        assert_eq!(crate::pidfd::pid(&pidfd).unwrap(), i32::try_from(std::process::id()).unwrap());
    }

    #[test]
    fn peer_of_a_pair_is_this_process() {
        let (one, _two) = UnixStream::pair().unwrap();
        let cred = cred(&one).unwrap();
        assert_eq!(cred.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(cred.uid, rustix::process::geteuid().as_raw());
        assert_eq!(cred.gid, rustix::process::getegid().as_raw());
        let mut own: Vec<u32> = rustix::process::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        let mut told = groups(&one).unwrap();
        own.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, own);
    }
}
