//! Signals as something to read: blocked for delivery and taken from a descriptor that an event loop can watch.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::Signal;

/// What setting up or reading a [`SignalFd`] failed at.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The signals could not be blocked.
    #[error("cannot block signals")]
    Block {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// No descriptor could be made.
    #[error("cannot make a signal descriptor")]
    Create {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The descriptor could not be read.
    #[error("cannot read a signal")]
    Read {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Its number.
    pub number: i32,
    /// The process that sent it (for SIGCHLD: the child), 0 when it was the kernel or is in no visible namespace.
    pub pid: u32,
    /// The real user id of the sender.
    pub uid: u32,
}

impl Arrived {
    /// Whether this is `signal`.
    pub fn is(&self, signal: Signal) -> bool {
        self.number == signal.as_raw()
    }
}

/// A non-blocking descriptor from which signals are read. They stay blocked in this thread, and in every thread and child
/// made later (`spawn` unblocks them again), even after the descriptor is closed: a pending SIGTERM must not turn deadly
/// while the process shuts down.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

impl SignalFd {
    /// Blocks `signals` in the calling thread and makes the descriptor. Call it before any thread is started.
    pub fn new(signals: &[Signal]) -> Result<SignalFd, SignalError> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        for signal in signals {
            // SAFETY: the set was initialised above, and Signal only holds numbers of signals.
            unsafe { libc::sigaddset(set.as_mut_ptr(), signal.as_raw()) };
        }
        // SAFETY: the set is initialised, and no old set is asked for.
        let errno = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
        if errno != 0 {
            return Err(SignalError::Block { source: io::Error::from_raw_os_error(errno) });
        }
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(SignalError::Create { source: io::Error::last_os_error() });
        }
        // SAFETY: signalfd returned a new descriptor that nobody else owns.
        Ok(SignalFd { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// SIGTERM, SIGINT and SIGCHLD: what every long-lived process of the house waits for.
    pub fn usual() -> Result<SignalFd, SignalError> {
        SignalFd::new(&[Signal::TERM, Signal::INT, Signal::CHILD])
    }

    /// The next signal that has arrived, `None` when there is none (yet).
    pub fn read(&self) -> Result<Option<Arrived>, SignalError> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut info)) {
            Ok(length) if length == info.len() => {}
            Ok(_) => return Err(SignalError::Read { source: io::ErrorKind::UnexpectedEof.into() }),
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(SignalError::Read { source: errno.into() }),
        }
        // The structure begins with four 32-bit numbers: signal, errno, code, pid; then the uid.
        let word = |index: usize| {
            let bytes = info.get(index * 4..index * 4 + 4).and_then(|bytes| bytes.try_into().ok());
            u32::from_ne_bytes(bytes.unwrap_or_default())
        };
        Ok(Some(Arrived { number: word(0).cast_signed(), pid: word(3), uid: word(4) }))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for SignalFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocked_signal_is_read_with_its_sender() {
        let signals = SignalFd::new(&[Signal::USR1]).unwrap();
        assert_eq!(signals.read().unwrap(), None);
        // SAFETY: raise sends to the calling thread, in which the signal is blocked.
        unsafe { libc::raise(libc::SIGUSR1) };
        let arrived = signals.read().unwrap().unwrap();
        assert!(arrived.is(Signal::USR1));
        assert_eq!(arrived.pid, std::process::id());
        assert_eq!(arrived.uid, rustix::process::getuid().as_raw());
        assert_eq!(signals.read().unwrap(), None);
    }
}
