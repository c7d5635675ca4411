//! The directories of runs: `guests/RUN/` with the supervisor's socket, its event log and the launcher's record of it; and
//! the numbers of runs.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, chown},
    },
    path::{Path, PathBuf},
};

use ipc::paths::Instance;
use rustix::{
    fs::{FlockOperation, flock},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with},
};

use crate::edge::{FIRST_PROBE, Purpose, Refusal};

/// The highest number of a guest's run. There is room above it for a mistake.
const LAST_RUN: u32 = i32::MAX.unsigned_abs() - 1;

/// What a new run's supervisor is given.
pub struct Opened {
    /// Bound, not yet listening: the supervisor calls `listen`.
    pub listener: OwnedFd,
    /// For appending. It is locked, and the lock lasts as long as anybody has this descriptor: a launcher that finds the lock
    /// taken knows that the run lives, whatever became of the other files.
    pub event_log: OwnedFd,
}

/// Who may reach a run's directory besides its owner: control, if it is another user.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Control's uid and gid, if the launcher is root.
    pub control: Option<u32>,
}

/// Gives runs their numbers. A number is not given again while the run-time directory lasts.
pub struct Numbers {
    path: PathBuf,
    last: u32,
    last_probe: u32,
}

impl Numbers {
    /// Goes on behind the highest number that was given and behind those that are `taken`.
    #[must_use]
    pub fn load(instance: &Instance, taken: impl Iterator<Item = u32>) -> Numbers {
        let path = instance.runtime_dir().join("last_run");
        let written = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        let mut numbers = Numbers { path, last: 0, last_probe: FIRST_PROBE - 1 };
        numbers.skip(written);
        for run in taken {
            if run < FIRST_PROBE {
                numbers.skip(run);
            } else {
                numbers.last_probe = numbers.last_probe.max(run);
            }
        }
        numbers
    }

    /// Gives no number up to this one any more.
    pub fn skip(&mut self, run: u32) {
        self.last = self.last.max(run.min(LAST_RUN));
    }

    /// The next number. It is written down before it is used.
    ///
    /// # Errors
    /// When there is none left, or it cannot be written down.
    pub fn next(&mut self, purpose: Purpose) -> Result<u32, Refusal> {
        let exhausted = || Refusal::Range { what: "all numbers for runs have been used".into() };
        if purpose == Purpose::Probe {
            self.last_probe = self.last_probe.checked_add(1).ok_or_else(exhausted)?;
            return Ok(self.last_probe);
        }
        if self.last >= LAST_RUN {
            return Err(exhausted());
        }
        let next = self.last + 1;
        // Always as many digits: one write changes them as a whole, and a file system that waits for the disk when a file takes
        // another one's name has no reason to.
        let write = || {
            let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
            file.write_all_at(format!("{next:010}\n").as_bytes(), 0)
        };
        write().map_err(directory("note the run's number"))?;
        self.last = next;
        Ok(next)
    }
}

pub(super) fn directory(step: &str) -> impl FnOnce(io::Error) -> Refusal + '_ {
    move |error| Refusal::Directory { step: step.into(), cause: error.to_string() }
}

/// Makes the directory of a new run.
///
/// # Errors
/// When the run's number was used before, or a file cannot be made.
pub fn create(instance: &Instance, run: u32, access: Access) -> Result<Opened, Refusal> {
    let dir = instance.guest_dir(run);
    fs::DirBuilder::new().mode(0o710).create(&dir).map_err(directory("make the run's directory"))?;
    match fill(instance, run, access) {
        Ok(opened) => Ok(opened),
        Err(refusal) => {
            remove(instance, run);
            Err(refusal)
        }
    }
}

fn fill(instance: &Instance, run: u32, access: Access) -> Result<Opened, Refusal> {
    let dir = instance.guest_dir(run);
    let path = instance.supervisor_socket(run);
    let listener = bind_socket(&path).map_err(directory("bind the supervisor's socket"))?;
    let log_path = instance.guest_event_log(run);
    let event_log = fs::OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o640)
        .open(&log_path)
        .map_err(directory("make the run's event log"))?;
    flock(&event_log, FlockOperation::NonBlockingLockExclusive)
        .map_err(|errno| directory("lock the run's event log")(errno.into()))?;
    if let Some(control) = access.control {
        let give = |path: &Path, uid: Option<u32>| {
            chown(path, uid, Some(control)).map_err(directory("hand the run's directory to control"))
        };
        give(&dir, None)?;
        give(&log_path, None)?;
        give(&path, Some(control))?;
    }
    Ok(Opened { listener, event_log: event_log.into() })
}

fn bind_socket(path: &Path) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &address)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(socket)
}

/// Removes a run's directory and all in it.
pub fn remove(instance: &Instance, run: u32) {
    let dir = instance.guest_dir(run);
    if let Err(error) = fs::remove_dir_all(&dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("cannot remove {}: {error}", dir.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::paths::Mode;

    #[test]
    fn numbers_go_on_behind_all_that_were_given() {
        let root = tempfile::tempdir().unwrap();
        let instance = Instance::at(Mode::Session, Some(root.path().to_path_buf()));
        fs::create_dir_all(instance.runtime_dir()).unwrap();
        let mut numbers = Numbers::load(&instance, std::iter::empty());
        assert_eq!((numbers.next(Purpose::Guest).unwrap(), numbers.next(Purpose::Guest).unwrap()), (1, 2));
        assert_eq!(numbers.next(Purpose::Probe).unwrap(), FIRST_PROBE, "a probe takes no number of a guest's");
        assert_eq!(Numbers::load(&instance, std::iter::empty()).next(Purpose::Guest).unwrap(), 3);
        let mut numbers = Numbers::load(&instance, [7, FIRST_PROBE + 4].into_iter());
        assert_eq!(numbers.next(Purpose::Probe).unwrap(), FIRST_PROBE + 5);
        assert_eq!(numbers.next(Purpose::Guest).unwrap(), 8);
        numbers.skip(20);
        numbers.skip(10);
        assert_eq!(numbers.next(Purpose::Guest).unwrap(), 21);
        numbers.skip(u32::MAX);
        assert!(matches!(numbers.next(Purpose::Guest), Err(Refusal::Range { .. })));
    }
}
