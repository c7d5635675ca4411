//! Lock files: who holds one is the one daemon of its kind, or has the turn.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use thiserror::Error;

/// A lock cannot be asked for.
#[derive(Debug, Error)]
#[error("cannot lock {}", path.display())]
pub struct LockError {
    /// The lock file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Takes a lock, which is held as long as the returned file is open. None when somebody holds it.
///
/// # Errors
/// When the file cannot be made or locked.
pub fn try_lock(path: &Path) -> Result<Option<File>, LockError> {
    lock_with(path, FlockOperation::NonBlockingLockExclusive)
}

/// The same, waiting for its turn.
///
/// # Errors
/// When the file cannot be made or locked.
pub fn lock(path: &Path) -> Result<File, LockError> {
    let locked = lock_with(path, FlockOperation::LockExclusive)?;
    locked.ok_or_else(|| LockError { path: path.to_path_buf(), source: io::ErrorKind::WouldBlock.into() })
}

fn lock_with(path: &Path, operation: FlockOperation) -> Result<Option<File>, LockError> {
    let failed = |source| LockError { path: path.to_path_buf(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
    match flock(&file, operation) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(failed(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_one_holders_until_it_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = try_lock(&path).unwrap().unwrap();
        assert!(try_lock(&path).unwrap().is_none());
        drop(held);
        drop(lock(&path).unwrap());
        assert!(try_lock(&path).unwrap().is_some());
        assert!(try_lock(&dir.path().join("no/lock")).is_err());
    }
}
