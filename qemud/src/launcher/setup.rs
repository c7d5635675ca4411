//! Directories, the lock and the listening sockets of an instance.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt, chown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use ipc::{
    lock::{self, LockError},
    paths::{Instance, Mode},
};
use thiserror::Error;

use super::record;
use crate::config::Config;

/// Why an instance cannot be set up.
#[derive(Debug, Error)]
pub enum SetupError {
    /// A system instance needs root.
    #[error("qemud --system must be started by root; a user's own guests run under qemud --session")]
    NotRoot,
    /// A directory cannot be made or handed over.
    #[error("cannot {step} {}", path.display())]
    Directory {
        /// What was being done.
        step: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The lock cannot be taken for another reason than that it is held.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Another qemud runs for this instance.
    #[error("another qemud holds {}", path.display())]
    Running {
        /// The lock file.
        path: PathBuf,
    },
    /// A socket cannot be bound.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The sockets that clients connect to.
pub struct Listeners {
    /// For calls that may change things.
    pub read_write: UnixListener,
    /// For calls that only read.
    pub read_only: UnixListener,
}

/// Control's own uid, when it has one: a session's control runs as the session's user.
#[must_use]
pub fn control_uid(instance: &Instance, config: &Config) -> Option<u32> {
    let root = rustix::process::geteuid().is_root();
    (root && instance.mode() == Mode::System).then_some(config.service_uid)
}

/// Makes every directory of the instance and takes its lock, which is held as long as the returned file is open.
///
/// # Errors
/// When something cannot be made, or another qemud runs.
pub fn prepare(instance: &Instance, config: &Config) -> Result<File, SetupError> {
    if instance.mode() == Mode::System && !rustix::process::geteuid().is_root() {
        return Err(SetupError::NotRoot);
    }
    // Others pass through a system instance's directories to the read-only socket; a session's are nobody else's.
    let mode = if instance.mode() == Mode::System { 0o755 } else { 0o700 };
    for path in [instance.runtime_dir(), instance.config_dir(), instance.cache_dir(), instance.state_dir()] {
        directory(path, mode, None)?;
    }
    let lock = take_lock(instance)?;
    forget_earlier_boot(instance)?;
    let control = control_uid(instance, config);
    let journal = instance.journal();
    let journal_dir = journal.parent().unwrap_or(instance.runtime_dir());
    for path in [&instance.definitions_dir(), &instance.cache_dir().join("capabilities"), journal_dir] {
        directory(path, 0o700, control)?;
    }
    directory(&instance.guests_dir(), 0o711, None)?;
    directory(&instance.log_dir().join("qemu"), 0o700, None)?;
    directory(&instance.state_dir().join("images"), 0o711, None)?;
    Ok(lock)
}

/// Begins a new journal where the host has provably been booted since the last one: its numbers are of another sequence.
/// Without the mark of the last boot nobody knows, and nothing is removed. Runs are looked at one by one, by their records.
fn forget_earlier_boot(instance: &Instance) -> Result<(), SetupError> {
    let Some(boot) = record::boot_id() else { return Ok(()) };
    let mark = instance.runtime_dir().join("boot_id");
    let known = fs::read_to_string(&mark).ok().map(|known| known.trim().to_owned()).filter(|known| !known.is_empty());
    if known.as_ref() == Some(&boot) {
        return Ok(());
    }
    if known.is_some() {
        let journal = instance.journal();
        let path = journal.parent().map(Path::to_path_buf).unwrap_or(journal);
        clear_directory(&path).map_err(|source| SetupError::Directory { step: "clear the directory", path, source })?;
    }
    let temporary = mark.with_extension("new");
    let write = fs::write(&temporary, boot).and_then(|()| fs::rename(&temporary, &mark));
    write.map_err(|source| SetupError::Directory { step: "write", path: mark, source })
}

/// Removes what is in a directory, and not the directory, which may be a mount point.
fn clear_directory(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn directory(path: &Path, mode: u32, owner: Option<u32>) -> Result<(), SetupError> {
    let failed = |step| {
        let path = path.to_path_buf();
        move |source| SetupError::Directory { step, path, source }
    };
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed("make the directory"))?;
    if owner.is_some() {
        chown(path, owner, owner).map_err(failed("hand to control the directory"))?;
    }
    Ok(())
}

fn take_lock(instance: &Instance) -> Result<File, SetupError> {
    let path = instance.lock_file();
    lock::try_lock(&path)?.ok_or(SetupError::Running { path })
}

/// Binds the sockets. What is left of an earlier qemud's is replaced: whoever holds the lock owns them.
///
/// # Errors
/// When a socket cannot be bound.
pub fn listen(instance: &Instance) -> Result<Listeners, SetupError> {
    let read_only_mode = if instance.mode() == Mode::System { 0o666 } else { 0o600 };
    Ok(Listeners {
        read_write: bind(&instance.socket(), 0o600)?,
        read_only: bind(&instance.read_only_socket(), read_only_mode)?,
    })
}

fn bind(path: &Path, mode: u32) -> Result<UnixListener, SetupError> {
    let bind = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Bound under another name and renamed, so that nobody connects before the mode is right.
        let temporary = path.with_extension("new");
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
        fs::rename(&temporary, path)?;
        Ok(listener)
    };
    bind().map_err(|source| SetupError::Listen { path: path.to_path_buf(), source })
}

/// Removes the sockets at the end, so that a client sees at once that nobody listens.
pub fn clear(instance: &Instance) {
    for path in [instance.socket(), instance.read_only_socket()] {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
}
