//! The directories of guests' runs: `guests/ID/` with the supervisor's socket, its event log and the launcher's record of it.
//!
//! The record is what a restarted launcher goes by: a process is the supervisor of a run only if it started at the time that
//! the record says, so a pid that was used again is never mistaken for it.

use std::{
    fs,
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt, chown},
    },
    path::{Path, PathBuf},
};

use ipc::paths::Instance;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::edge::{Found, Refusal};

const RECORD: &str = "record";
/// A record is a few short fields.
const MAX_RECORD: u64 = 4096;

/// What a restarted launcher must know of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The guest.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its uid, if it has one of its own.
    pub uid: Option<u32>,
    /// The supervisor's process.
    pub pid: u32,
    /// When that process started, in the kernel's ticks since boot.
    pub start_time: u64,
}

/// What a new run's supervisor is given.
pub struct Opened {
    /// Bound, not yet listening: the supervisor calls `listen`.
    pub listener: OwnedFd,
    /// For appending.
    pub event_log: OwnedFd,
}

/// Who may reach a run's directory besides its owner: control, if it is another user.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Control's uid and gid, if the launcher is root.
    pub control: Option<u32>,
}

fn directory(step: &str) -> impl FnOnce(io::Error) -> Refusal + '_ {
    move |error| Refusal::Directory { step: step.into(), cause: error.to_string() }
}

/// Makes the directory of a new run.
///
/// # Errors
/// When the run's number was used before, or a file cannot be made.
pub fn create(instance: &Instance, id: u32, access: Access) -> Result<Opened, Refusal> {
    let dir = instance.guest_dir(id);
    fs::DirBuilder::new().mode(0o710).create(&dir).map_err(directory("make the run's directory"))?;
    match fill(instance, id, access) {
        Ok(opened) => Ok(opened),
        Err(refusal) => {
            remove(instance, id);
            Err(refusal)
        }
    }
}

fn fill(instance: &Instance, id: u32, access: Access) -> Result<Opened, Refusal> {
    let dir = instance.guest_dir(id);
    let path = instance.supervisor_socket(id);
    let listener = bind_socket(&path).map_err(directory("bind the supervisor's socket"))?;
    let log_path = instance.guest_event_log(id);
    let event_log = fs::OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o640)
        .open(&log_path)
        .map_err(directory("make the run's event log"))?;
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

/// Writes a run's record; until it is there, a restarted launcher takes the run for one that never came to life.
///
/// # Errors
/// When it cannot be written.
pub fn record(instance: &Instance, id: u32, record: &Record) -> Result<(), Refusal> {
    let dir = instance.guest_dir(id);
    let text = serde_json::to_string(record).map_err(|e| directory("write the run's record")(e.into()))?;
    let write = || {
        let temporary = dir.join("record.new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        // No fsync: the directory does not survive a reboot of the host, and neither does the guest.
        fs::rename(temporary, dir.join(RECORD))
    };
    write().map_err(directory("write the run's record"))
}

/// Removes a run's directory and all in it.
pub fn remove(instance: &Instance, id: u32) {
    let dir = instance.guest_dir(id);
    if let Err(error) = fs::remove_dir_all(&dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("cannot remove {}: {error}", dir.display());
    }
}

/// A run that an earlier launcher left, and the handle on its supervisor if that lives.
pub struct Survivor {
    /// What control is told.
    pub found: Found,
    /// The supervisor's process.
    pub pidfd: Option<OwnedFd>,
}

/// Reads every run's directory. One that has no readable record is removed: no supervisor was ever started for it.
#[must_use]
pub fn survivors(instance: &Instance) -> Vec<Survivor> {
    let Ok(entries) = fs::read_dir(instance.guests_dir()) else { return Vec::new() };
    let mut survivors = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            tracing::warn!("{} is not a run's directory; left alone", path.display());
            continue;
        };
        match read_record(&path) {
            Ok(record) => survivors.push(survivor(id, record)),
            Err(error) => {
                tracing::warn!("run {id} has no usable record ({error}); removed");
                remove(instance, id);
            }
        }
    }
    survivors.sort_by_key(|s| s.found.id);
    survivors
}

fn read_record(dir: &Path) -> io::Result<Record> {
    let path: PathBuf = dir.join(RECORD);
    if fs::metadata(&path)?.len() > MAX_RECORD {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn survivor(id: u32, record: Record) -> Survivor {
    let pid = i32::try_from(record.pid).unwrap_or_default();
    // The pidfd first: once it is held, the pid cannot be used again before the start time has been compared.
    let pidfd = sandbox::pidfd::open(pid).ok();
    let same = sandbox::process_start_time(pid).is_ok_and(|time| time == record.start_time);
    let pidfd = pidfd.filter(|_| same);
    let alive = pidfd.is_some();
    let Record { uuid, name, uid, pid, .. } = record;
    Survivor { found: Found { id, uuid, name, uid, pid, alive }, pidfd }
}
