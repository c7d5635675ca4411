//! Starting a daemon in the background, once, whoever else tries to at the same time.
//!
//! Starters take turns by a lock of their own. The one whose turn it is starts the daemon unless it runs by now, and passes
//! the turn on when the daemon's sockets listen. So each starter returns when there is a daemon to connect to, and nobody
//! polls for it.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
    process::{Command, Stdio},
};

use ipc::{
    lock::{self, LockError},
    paths::Instance,
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
    #[error(transparent)]
    Lock(#[from] LockError),
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
pub fn ensure_running(instance: &Instance, arguments: &[OsString]) -> Result<(), BackgroundError> {
    let opened = |path: PathBuf| move |source| BackgroundError::Open { path, source };
    let runtime = instance.runtime_dir();
    let mode = if instance.mode() == ipc::paths::Mode::System { 0o755 } else { 0o700 };
    let make = |dir: &std::path::Path| fs::DirBuilder::new().recursive(true).mode(mode).create(dir);
    make(runtime).map_err(opened(runtime.to_path_buf()))?;
    make(instance.log_dir()).map_err(opened(instance.log_dir().to_path_buf()))?;
    let _turn = lock::lock(&runtime.join(TURN))?;
    // Whoever runs holds the lock; it is let go at once when nobody does.
    if lock::try_lock(&instance.lock_file())?.is_none() {
        return Ok(());
    }
    let log = instance.log_dir().join("qemud.log");
    let stderr = OpenOptions::new().append(true).create(true).mode(0o600).open(&log).map_err(opened(log))?;
    start(arguments, stderr)
}

/// Keeps starters waiting while a daemon leaves: they find either one that serves them, or none. `None` when a starter has
/// the turn: then this is no time to leave.
#[must_use]
pub fn hold_starters(instance: &Instance) -> Option<File> {
    lock::try_lock(&instance.runtime_dir().join(TURN)).ok().flatten()
}

fn start(arguments: &[OsString], stderr: File) -> Result<(), BackgroundError> {
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
