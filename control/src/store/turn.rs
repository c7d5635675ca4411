//! One control after the other: a launcher that was killed leaves a control that still writes what its threads were given.
//! What the next one has read before that, it would never know.

use std::{
    fs::File,
    io,
    path::Path,
    sync::mpsc::{SendError, channel},
    thread,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

use super::LEAVING;

/// How long an earlier control may take: what it has for itself, and a little more.
const PATIENCE: Duration = LEAVING.saturating_add(Duration::from_secs(1));

/// A lock on the journal's directory, held from before the first file is read until the process ends.
#[derive(Debug)]
pub struct Turn {
    _locked: Option<File>,
}

impl Turn {
    /// Waits until no earlier control has this directory. One whose disk is stuck is not waited for without end.
    #[must_use]
    pub fn take(dir: &Path) -> Turn {
        let locked = lock(dir, PATIENCE);
        match &locked {
            Ok(Some(_)) => {}
            Ok(None) => tracing::warn!("an earlier control may still write to its disk; going on without it"),
            Err(error) => tracing::warn!("{} is not held for this process alone: {error}", dir.display()),
        }
        Turn { _locked: locked.ok().flatten() }
    }
}

/// None when somebody else holds it for too long.
fn lock(dir: &Path, patience: Duration) -> io::Result<Option<File>> {
    let file = File::open(dir)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return Ok(Some(file));
    }
    let (locked, waited) = channel::<io::Result<File>>();
    // The kernel has no lock that waits for a time, so a thread waits, and is left to itself if it takes too long.
    thread::Builder::new().name("turn".into()).spawn(move || {
        let held = flock(&file, FlockOperation::LockExclusive).map(|()| file).map_err(io::Error::from);
        // Nobody may be waiting any more: the turn is this process's all the same, as long as it lives.
        if let Err(SendError(Ok(file))) = locked.send(held) {
            std::mem::forget(file);
        }
    })?;
    waited.recv_timeout(patience).ok().transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_waits_for_an_earlier_one_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let earlier = lock(dir.path(), PATIENCE).unwrap().unwrap();
        let next = thread::scope(|scope| {
            let next = scope.spawn(|| lock(dir.path(), PATIENCE));
            drop(earlier);
            next.join().unwrap()
        });
        let next = next.unwrap().expect("its turn");
        assert!(lock(dir.path(), Duration::from_millis(20)).unwrap().is_none());
        drop(next);
        // The one that went on without it gets it when it has woken.
        let until = std::time::Instant::now() + PATIENCE;
        while lock(dir.path(), Duration::from_millis(20)).unwrap().is_some() {
            assert!(std::time::Instant::now() < until, "its turn has come");
            thread::yield_now();
        }
    }
}
