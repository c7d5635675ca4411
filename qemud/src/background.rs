//! Starting a daemon in the background, once, whoever else tries to at the same time.
//!
//! Starters take turns by a lock of their own. The one whose turn it is starts the daemon unless it runs by now, and passes
//! the turn on when the daemon's sockets listen. So each starter returns when there is a daemon to connect to, and nobody
//! polls for it.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
    process::{Command, Stdio},
};

use ipc::paths::Instance;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use thiserror::Error;

/// What the daemon says on its standard output once clients can connect.
pub const READY: &str = "ready";
/// The starters' own lock, in the run-time directory.
const TURN: &str = "start.lock";
/// The option that makes it say so.
pub const ANNOUNCE: &str = "--announce";

/// Why there is no daemon.
#[derive(Debug, Error)]
pub enum BackgroundError {
    /// A directory or file of the instance cannot be made.
    #[error("cannot open {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The turn cannot be taken.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("cannot start the daemon")]
    Start(#[source] io::Error),
    /// It ended instead of getting ready.
    #[error("the daemon did not start: {reason}")]
    NotReady {
        /// Its own words.
        reason: String,
    },
}

/// Returns once a daemon of this instance listens, and starts it if none does. `arguments` are passed on.
///
/// # Errors
/// When the daemon does not start; its own words are in the error.
pub fn ensure_running(instance: &Instance, arguments: &[String]) -> Result<(), BackgroundError> {
    let opened = |path: PathBuf| move |source| BackgroundError::Open { path, source };
    let runtime = instance.runtime_dir();
    let mode = if instance.mode() == ipc::paths::Mode::System { 0o755 } else { 0o700 };
    let make = |dir: &std::path::Path| fs::DirBuilder::new().recursive(true).mode(mode).create(dir);
    make(runtime).map_err(opened(runtime.to_path_buf()))?;
    make(instance.log_dir()).map_err(opened(instance.log_dir().to_path_buf()))?;
    let _turn = take_turn(runtime.join(TURN))?;
    if is_running(instance)? {
        return Ok(());
    }
    let log = instance.log_dir().join("qemud.log");
    let stderr = OpenOptions::new().append(true).create(true).mode(0o600).open(&log).map_err(opened(log))?;
    start(arguments, stderr)
}

fn lock_file(path: PathBuf) -> Result<(File, PathBuf), BackgroundError> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    match file {
        Ok(file) => Ok((file, path)),
        Err(source) => Err(BackgroundError::Open { path, source }),
    }
}

fn take_turn(path: PathBuf) -> Result<File, BackgroundError> {
    let (file, path) = lock_file(path)?;
    flock(&file, FlockOperation::LockExclusive)
        .map_err(|error| BackgroundError::Lock { path, source: error.into() })?;
    Ok(file)
}

/// Keeps starters waiting while a daemon leaves: they find either one that serves them, or none. `None` when a starter has
/// the turn: then this is no time to leave.
#[must_use]
pub fn hold_starters(instance: &Instance) -> Option<File> {
    let (file, _) = lock_file(instance.runtime_dir().join(TURN)).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| file)
}

/// Whoever runs holds the lock; it is let go at once when nobody does.
fn is_running(instance: &Instance) -> Result<bool, BackgroundError> {
    let (file, path) = lock_file(instance.lock_file())?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(BackgroundError::Lock { path, source: error.into() }),
    }
}

fn start(arguments: &[String], stderr: File) -> Result<(), BackgroundError> {
    let program = env::current_exe().map_err(BackgroundError::Start)?;
    let mut child = Command::new(program)
        .args(arguments)
        .arg(ANNOUNCE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .current_dir("/")
        .spawn()
        .map_err(BackgroundError::Start)?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        // One line: ready, or why not.
        BufReader::new(io::Read::take(stdout, 4096)).read_line(&mut said).map_err(BackgroundError::Start)?;
    }
    match said.trim() {
        READY => Ok(()),
        "" => {
            let status = child.wait().map_err(BackgroundError::Start)?;
            Err(BackgroundError::NotReady { reason: format!("it ended with {status}; see its log") })
        }
        reason => Err(BackgroundError::NotReady { reason: reason.into() }),
    }
}
