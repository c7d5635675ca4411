//! Runs that an earlier launcher left. A run is gone only when the kernel says so: its recorded process has ended or
//! started at another time, or the host has been booted since. Whatever else goes wrong leaves it unknown.

use std::{
    collections::HashSet,
    fs, io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
};

use ipc::paths::Instance;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use sandbox::pidfd::PidfdError;

use super::{
    record::{self, Known},
    runs,
};
use crate::edge::{Found, Life};

/// A run that was found, and the handle on its supervisor if that lives.
pub struct Survivor {
    /// What control is told.
    pub found: Found,
    /// The supervisor's process.
    pub pidfd: Option<OwnedFd>,
}

/// What the kernel says of a run's supervisor.
pub enum Verdict {
    /// It lives; this is its process.
    Alive(OwnedFd, i32),
    /// It has ended.
    Gone,
    /// Nobody can tell, for this reason.
    Unknown(String),
}

/// Looks at every run's directory. Runs of another boot of the host are cleared away.
///
/// # Errors
/// When the directory cannot be read to its end: which runs there are is unknown then, and nothing may be started.
pub fn all(instance: &Instance) -> io::Result<Vec<Survivor>> {
    let mut survivors = Vec::new();
    for entry in fs::read_dir(instance.guests_dir())? {
        let entry = entry?;
        let Some(run) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            tracing::warn!("{} is not a run's directory; left alone", entry.path().display());
            continue;
        };
        survivors.extend(survivor(instance, run));
    }
    survivors.sort_by_key(|survivor| survivor.found.run);
    Ok(survivors)
}

/// The uids that some process has, if one of the survivors may have a uid of its own and nobody knows which.
///
/// # Errors
/// When the kernel does not tell.
pub fn uids_to_avoid(survivors: &[Survivor]) -> io::Result<HashSet<u32>> {
    let unknown = |survivor: &Survivor| survivor.found.life != Life::Gone && survivor.found.uid.is_none();
    if !survivors.iter().any(unknown) {
        return Ok(HashSet::new());
    }
    let mut uids = HashSet::new();
    // Not by the owners of the directories, which is root for a process that cannot be dumped.
    each_status(|_, status| uids.extend(numbers(status, "Uid:")))?;
    Ok(uids)
}

/// Shows the `status` of every process that can be seen.
fn each_status(mut show: impl FnMut(i32, &str)) -> io::Result<()> {
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match fs::read(entry.path().join("status")) {
            // A process calls itself what it likes.
            Ok(status) => show(pid, &String::from_utf8_lossy(&status)),
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_no_process(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The numbers in one line of a `status`.
fn numbers(status: &str, key: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
}

fn survivor(instance: &Instance, run: u32) -> Option<Survivor> {
    let read = record::read(&instance.guest_dir(run));
    let never_recorded = matches!(&read, Err(error) if error.kind() == io::ErrorKind::NotFound);
    if let Err(error) = &read {
        tracing::warn!(run, "its record cannot be read: {error}");
    }
    let known = read.unwrap_or_default();
    let other_boot = known.boot.is_some() && record::boot_id().is_some_and(|now| known.boot.as_ref() != Some(&now));
    let verdict = judge(instance, run, &known);
    let (life, pidfd, pid) = match verdict {
        Verdict::Alive(pidfd, pid) => (Life::Alive, Some(pidfd), Some(pid)),
        // A record is written before a run is let go: without one, and without a trace of a process, there was none.
        Verdict::Gone if other_boot || never_recorded => {
            runs::remove(instance, run);
            return None;
        }
        Verdict::Gone => (Life::Gone, None, known.pid),
        Verdict::Unknown(why) => (Life::Unknown { why }, None, known.pid),
    };
    let Known { purpose, uuid, name, uid, disks, .. } = known;
    let pid = pid.and_then(|pid| u32::try_from(pid).ok());
    Some(Survivor { found: Found { run, purpose, uuid, name, uid, pid, disks, life, quarantine: None }, pidfd })
}

/// Asks the kernel about a run's supervisor: by the record, and where that does not say enough, by the run's socket and log.
#[must_use]
pub fn judge(instance: &Instance, run: u32, known: &Known) -> Verdict {
    if known.boot.is_some() && record::boot_id().is_some_and(|now| known.boot.as_ref() != Some(&now)) {
        return Verdict::Gone;
    }
    match (known.pid, known.start_time) {
        (Some(pid), Some(start)) => by_process(pid, start),
        _ => by_traces(instance, run, known.uid),
    }
}

fn by_process(pid: i32, start: u64) -> Verdict {
    // The pidfd first: once it is held, the pid cannot be used again before the start time has been compared.
    let pidfd = match sandbox::pidfd::open(pid) {
        Ok(pidfd) => pidfd,
        Err(PidfdError::Open { source, .. }) if is_no_process(&source) => return Verdict::Gone,
        Err(error) => return Verdict::Unknown(crate::chain(&error)),
    };
    match sandbox::process_start_time(pid) {
        Ok(time) if time == start => Verdict::Alive(pidfd, pid),
        Ok(_) => Verdict::Gone,
        // Where /proc hides processes it says nothing; the pidfd does.
        Err(error) => match sandbox::pidfd::has_ended(&pidfd) {
            Ok(true) => Verdict::Gone,
            _ => Verdict::Unknown(crate::chain(&error)),
        },
    }
}

fn is_no_process(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// Without a usable record: a supervisor that takes a connection is named by the kernel, and one that has its event log
/// locked is alive; if its guest has a uid of its own, that uid identifies it.
fn by_traces(instance: &Instance, run: u32, uid: Option<u32>) -> Verdict {
    match dial(instance, run) {
        Ok(socket) => return by_peer(&socket),
        Err(Errno::AGAIN) => return Verdict::Unknown("its supervisor takes no connection at the moment".into()),
        Err(Errno::CONNREFUSED | Errno::NOENT) => {}
        Err(errno) => return Verdict::Unknown(io::Error::from(errno).to_string()),
    }
    match is_locked(&instance.guest_event_log(run)) {
        Ok(true) => match uid.and_then(by_uid) {
            Some((pidfd, pid)) => Verdict::Alive(pidfd, pid),
            None => Verdict::Unknown("its record and its socket are lost, but its supervisor lives".into()),
        },
        Ok(false) => Verdict::Gone,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Verdict::Gone,
        Err(error) => Verdict::Unknown(error.to_string()),
    }
}

fn by_peer(socket: &UnixStream) -> Verdict {
    let pid = match sandbox::peer::cred(socket) {
        Ok(cred) => cred.pid,
        Err(error) => return Verdict::Unknown(crate::chain(&error)),
    };
    match sandbox::pidfd::open(pid) {
        Ok(pidfd) => Verdict::Alive(pidfd, pid),
        Err(error) => Verdict::Unknown(crate::chain(&error)),
    }
}

/// The supervisor of the guest that has this uid for itself: the first process in a namespace of its own.
fn by_uid(uid: u32) -> Option<(OwnedFd, i32)> {
    let is_it = |status: &str| {
        let places = numbers(status, "NSpid:");
        numbers(status, "Uid:") == [uid; 4] && places.len() > 1 && places.last() == Some(&1)
    };
    let mut found = None;
    let looked = each_status(|pid, status| {
        if is_it(status) {
            found = Some(pid);
        }
    });
    let pid = looked.ok().and(found)?;
    let pidfd = sandbox::pidfd::open(pid).ok()?;
    // Once it is held, the pid is not another's.
    let again = fs::read(format!("/proc/{pid}/status"));
    again.is_ok_and(|status| is_it(&String::from_utf8_lossy(&status))).then_some((pidfd, pid))
}

fn is_locked(path: &Path) -> io::Result<bool> {
    let file = fs::File::open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// Connects to a run's supervisor without waiting.
///
/// # Errors
/// `AGAIN` when it has not taken its earlier connections, `CONNREFUSED` when nobody listens, `NOENT` when the socket is
/// gone.
pub fn dial(instance: &Instance, run: u32) -> Result<UnixStream, Errno> {
    let address = SocketAddrUnix::new(instance.supervisor_socket(run))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address)?;
    Ok(UnixStream::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::paths::Mode;
    use std::os::unix::{ffi::OsStrExt, net::UnixListener};

    fn instance() -> (tempfile::TempDir, Instance) {
        let root = tempfile::tempdir().unwrap();
        let instance = Instance::at(Mode::Session, Some(root.path().to_path_buf()));
        fs::create_dir_all(instance.guest_dir(3)).unwrap();
        (root, instance)
    }

    #[test]
    fn runs_that_cannot_be_listed_are_not_taken_for_none() {
        let (_root, instance) = instance();
        fs::remove_dir_all(instance.guests_dir()).unwrap();
        fs::write(instance.guests_dir(), "").unwrap();
        assert!(all(&instance).is_err());
    }

    #[test]
    fn uids_of_processes_are_avoided_when_a_run_may_have_any() {
        let (_root, instance) = instance();
        let _listener = UnixListener::bind(instance.supervisor_socket(3)).unwrap();
        let own = rustix::process::getuid().as_raw();
        let mut survivors = all(&instance).unwrap();
        assert!(uids_to_avoid(&survivors).unwrap().contains(&own));
        survivors[0].found.uid = Some(7);
        assert!(uids_to_avoid(&survivors).unwrap().is_empty());
    }

    #[test]
    fn a_process_whose_name_is_no_text_hides_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join(std::ffi::OsStr::from_bytes(b"na\xffme"));
        fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(program).arg("100").spawn().unwrap();
        let mut seen = HashSet::new();
        let looked = each_status(|pid, status| {
            seen.insert((pid, numbers(status, "Uid:").len()));
        });
        child.kill().unwrap();
        child.wait().unwrap();
        looked.unwrap();
        assert!(seen.contains(&(i32::try_from(child.id()).unwrap(), 4)));
    }

    fn own() -> (i32, u64) {
        let pid = i32::try_from(std::process::id()).unwrap();
        (pid, sandbox::process_start_time(pid).unwrap())
    }

    #[test]
    fn a_process_is_the_recorded_one_only_if_it_started_then() {
        let (_root, instance) = instance();
        let (pid, start) = own();
        let known = |start| Known { pid: Some(pid), start_time: Some(start), ..Known::default() };
        assert!(matches!(judge(&instance, 3, &known(start)), Verdict::Alive(_, found) if found == pid));
        assert!(matches!(judge(&instance, 3, &known(start + 1)), Verdict::Gone));
        let none = Known { pid: Some(1 << 22), start_time: Some(1), ..Known::default() };
        assert!(matches!(judge(&instance, 3, &none), Verdict::Gone));
        let other_boot = Known { boot: Some("another".into()), ..known(start) };
        assert!(matches!(judge(&instance, 3, &other_boot), Verdict::Gone));
    }

    #[test]
    fn a_supervisor_that_takes_a_connection_is_named_by_the_kernel() {
        let (_root, instance) = instance();
        let _listener = UnixListener::bind(instance.supervisor_socket(3)).unwrap();
        assert!(matches!(judge(&instance, 3, &Known::default()), Verdict::Alive(_, pid) if pid == own().0));
    }

    #[test]
    fn a_supervisor_without_record_and_socket_is_known_by_its_lock() {
        let (_root, instance) = instance();
        assert!(matches!(judge(&instance, 3, &Known::default()), Verdict::Gone), "no trace of a process");
        let log = fs::File::create(instance.guest_event_log(3)).unwrap();
        assert!(matches!(judge(&instance, 3, &Known::default()), Verdict::Gone));
        flock(&log, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(matches!(judge(&instance, 3, &Known::default()), Verdict::Unknown(_)));
        assert!(matches!(survivor(&instance, 3).unwrap().found.life, Life::Unknown { .. }));
        assert!(instance.guest_dir(3).exists(), "nothing of a run that may live is removed");
    }

    #[test]
    fn a_backlog_that_is_full_leaves_a_run_unknown() {
        let (_root, instance) = instance();
        let address = SocketAddrUnix::new(instance.supervisor_socket(3)).unwrap();
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let mut taken = Vec::new();
        let full = loop {
            match dial(&instance, 3) {
                Ok(socket) => taken.push(socket),
                Err(errno) => break errno,
            }
        };
        assert_eq!(full, Errno::AGAIN);
        assert!(matches!(judge(&instance, 3, &Known::default()), Verdict::Unknown(_)));
    }
}
