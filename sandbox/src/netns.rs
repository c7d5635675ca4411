//! Network namespaces made ahead: making one is the dearest step of a start, and it can be done before anybody waits.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};

/// Why there is no new network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The calling thread's own namespace can't be opened.
    #[error("cannot open the network namespace")]
    Open(#[source] io::Error),
    /// A new one can't be made.
    #[error("cannot make a network namespace")]
    Unshare(#[source] io::Error),
    /// The calling thread is in the new one and can't go back.
    #[error("cannot go back to the network namespace")]
    Return(#[source] io::Error),
}

/// A new network namespace in which nothing is up, for [`crate::spawn::Spawn::netns`]. The calling thread goes there and
/// back; it needs CAP_SYS_ADMIN.
///
/// # Errors
/// When the kernel refuses a step. After [`NetnsError::Return`] the thread has no network any more.
pub fn empty() -> Result<OwnedFd, NetnsError> {
    let present = || open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let io = |errno: Errno| io::Error::from(errno);
    let own = present().map_err(|errno| NetnsError::Open(io(errno)))?;
    // SAFETY: only CLONE_NEWNET is given: no memory, descriptor table or other thing of the C library's is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|errno| NetnsError::Unshare(io(errno)))?;
    let new = present();
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| NetnsError::Return(io(errno)))?;
    new.map_err(|errno| NetnsError::Open(io(errno)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::fstat;

    #[test]
    fn each_is_another_one_and_the_caller_stays_where_it_was() {
        if !rustix::process::geteuid().is_root() {
            crate::skip::skip("each_is_another_one_and_the_caller_stays_where_it_was", "needs root");
            return;
        }
        // A thread of its own, in case the way back fails.
        let worker = std::thread::spawn(|| {
            let here = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
            let before = here();
            let (one, other) = (empty().unwrap(), empty().unwrap());
            assert_ne!(fstat(&one).unwrap().st_ino, fstat(&other).unwrap().st_ino);
            assert_eq!(here(), before);
        });
        worker.join().unwrap();
    }
}
