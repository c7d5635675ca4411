//! What a supervisor waits for: a level-triggered epoll whose sources say anew before each wait what they want.
//!
//! A source is told by a key that is never used for another one. Saying anew costs nothing when nothing changed, and it
//! leaves no state to get wrong: a source that is no longer named has been closed, and the kernel forgot it then.

use std::{
    collections::BTreeMap,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::Errno,
};

/// How many events one wait takes; the others come with the next.
const BATCH: usize = 32;

/// What a source waits for. That its peer is gone is always told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// There is something to read.
    pub read: bool,
    /// There is room to write.
    pub write: bool,
}

impl Interest {
    /// Only reading.
    pub const READ: Interest = Interest { read: true, write: false };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.read);
        flags.set(EventFlags::OUT, self.write);
        flags
    }
}

/// What has become of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Which source.
    pub key: u64,
    /// Reading will not block: there are bytes, an end, or an error.
    pub read: bool,
    /// Writing will not block.
    pub write: bool,
    /// The peer is gone altogether. Bytes that it left can still be read.
    pub hangup: bool,
}

/// The sources of one process. See the module's page.
#[derive(Debug)]
pub struct Poll {
    epoll: OwnedFd,
    /// What the kernel was told for each key, and in which round the key was named last.
    known: BTreeMap<u64, (Interest, u64)>,
    round: u64,
}

impl Poll {
    /// A poll without sources.
    ///
    /// # Errors
    /// When the process has too many descriptors.
    pub fn new() -> io::Result<Poll> {
        Ok(Poll { epoll: epoll::create(CreateFlags::CLOEXEC)?, known: BTreeMap::new(), round: 0 })
    }

    /// Says what the source `key` waits for in the coming wait. A source that is open must be named before each wait.
    ///
    /// # Errors
    /// When the kernel can't watch it.
    pub fn want(&mut self, key: u64, fd: impl AsFd, interest: Interest) -> io::Result<()> {
        match self.known.get_mut(&key) {
            Some((told, round)) => {
                *round = self.round;
                if *told != interest {
                    epoll::modify(&self.epoll, fd, EventData::new_u64(key), interest.flags())?;
                    *told = interest;
                }
            }
            None => {
                epoll::add(&self.epoll, fd, EventData::new_u64(key), interest.flags())?;
                self.known.insert(key, (interest, self.round));
            }
        }
        Ok(())
    }

    /// Waits until something is ready or `until` has come, and appends what is ready to `ready`.
    ///
    /// # Errors
    /// When the kernel can't wait.
    pub fn wait(&mut self, until: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<()> {
        let round = self.round;
        self.known.retain(|_, (_, named)| *named == round);
        self.round += 1;
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        let mut space = [MaybeUninit::<Event>::uninit(); BATCH];
        let events = match epoll::wait(&self.epoll, &mut space[..], timeout.map(round_up).as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        ready.extend(events.iter().map(|event| {
            let flags = event.flags;
            Ready {
                key: event.data.u64(),
                read: flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR),
                write: flags.contains(EventFlags::OUT),
                hangup: flags.intersects(EventFlags::HUP | EventFlags::ERR),
            }
        }));
        Ok(())
    }
}

/// A timeout in whole milliseconds, rounded up: one that is a little short would wake the process for nothing.
fn round_up(timeout: Duration) -> Timespec {
    let millis = timeout.as_nanos().div_ceil(1_000_000).min(86_400_000);
    let millis = i64::try_from(millis).unwrap_or(86_400_000);
    Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, os::unix::net::UnixStream};

    fn wait(poll: &mut Poll) -> Vec<Ready> {
        let mut ready = Vec::new();
        poll.wait(Some(Instant::now()), &mut ready).unwrap();
        ready
    }

    #[test]
    fn interest_can_change_and_a_closed_source_is_forgotten() {
        let mut poll = Poll::new().unwrap();
        let (a, mut b) = UnixStream::pair().unwrap();
        b.write_all(b"x").unwrap();
        poll.want(1, &a, Interest::default()).unwrap();
        assert_eq!(wait(&mut poll), []);
        poll.want(1, &a, Interest::READ).unwrap();
        assert_eq!(wait(&mut poll), [Ready { key: 1, read: true, write: false, hangup: false }]);
        poll.want(1, &a, Interest { read: false, write: true }).unwrap();
        assert!(wait(&mut poll)[0].write);
        drop(a);
        assert_eq!(wait(&mut poll), []);
        // The same number may come again for another descriptor; a key does not.
        poll.want(2, &b, Interest::default()).unwrap();
        assert!(wait(&mut poll)[0].hangup, "told even when nothing is wanted");
        assert_eq!(poll.known.len(), 1);
    }

    #[test]
    fn a_timeout_is_rounded_up() {
        assert_eq!(round_up(Duration::from_nanos(1)).tv_nsec, 1_000_000);
        assert_eq!(round_up(Duration::ZERO).tv_nsec, 0);
        assert_eq!(round_up(Duration::from_millis(2500)).tv_sec, 2);
        assert_eq!(round_up(Duration::MAX).tv_sec, 86_400);
    }
}
