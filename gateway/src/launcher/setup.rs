//! Directories, the lock and the listening sockets of an instance's gateway.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use ipc::{
    lock::{self, LockError},
    paths::{Instance, Mode},
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use thiserror::Error;

use crate::{config::Config, edge::Door};

/// libvirt's own names.
const SOCKETS: [(&str, Door); 2] = [("libvirt-sock", Door::ReadWrite), ("libvirt-sock-ro", Door::ReadOnly)];

/// Bytes of the secret of the logins.
const SECRET: usize = 32;

/// Why an instance's gateway cannot be set up.
#[derive(Debug, Error)]
pub enum SetupError {
    /// A system instance needs root.
    #[error("gateway --system must be started by root; a user's own guests are behind gateway --session")]
    NotRoot,
    /// A directory cannot be made.
    #[error("cannot make the directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The lock cannot be taken for another reason than that it is held.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Another gateway runs for this instance.
    #[error("another gateway holds {}", path.display())]
    Running {
        /// The lock file.
        path: PathBuf,
    },
    /// Somebody else serves libvirt's clients there.
    #[error("another daemon listens on {}; stop it, or give this gateway a socket_dir of its own", path.display())]
    Live {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket is in the place of one.
    #[error("{} is there and is no socket; it is left alone", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The secret of the logins can be neither read nor made.
    #[error("cannot keep the secret {}", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
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

/// What was made, and goes at the end.
#[derive(Debug)]
pub struct Sockets {
    /// The listeners and what each is for.
    pub listeners: Vec<(UnixListener, Door)>,
    /// Every path in the file system that is ours.
    paths: Vec<PathBuf>,
}

/// Makes the directories and takes the lock, which is held as long as the returned file is open.
///
/// # Errors
/// When something cannot be made, or another gateway runs.
pub fn prepare(instance: &Instance, config: &Config) -> Result<File, SetupError> {
    if instance.mode() == Mode::System && !rustix::process::geteuid().is_root() {
        return Err(SetupError::NotRoot);
    }
    let mode = if instance.mode() == Mode::System { 0o755 } else { 0o700 };
    for path in [instance.runtime_dir(), &config.socket_dir] {
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|source| SetupError::Directory { path: path.to_path_buf(), source })?;
    }
    let path = instance.runtime_dir().join("gateway.lock");
    lock::try_lock(&path)?.ok_or(SetupError::Running { path })
}

/// The secret from which it follows what is told of users that there are not: made once, so that asking again after a
/// restart tells nobody which those are.
///
/// # Errors
/// When it can be neither read nor made.
pub fn secret(instance: &Instance) -> Result<Vec<u8>, SetupError> {
    let dir = instance.state_dir();
    let path = dir.join("gateway-secret");
    let failed = |source: io::Error| SetupError::Secret { path: path.clone(), source };
    let mode = if instance.mode() == Mode::System { 0o755 } else { 0o700 };
    DirBuilder::new().recursive(true).mode(mode).create(dir).map_err(failed)?;
    match fs::read(&path) {
        Ok(secret) if secret.len() == SECRET => return Ok(secret),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        // One that was cut short is as good as none.
        _ => {}
    }
    let mut secret = vec![0; SECRET];
    let mut made = || {
        rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())?;
        let temporary = path.with_extension("new");
        let _ = fs::remove_file(&temporary);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&secret)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    made().map_err(failed)?;
    Ok(secret)
}

/// Binds the sockets. What an ended daemon left behind is replaced; one that somebody listens on is an error.
///
/// # Errors
/// When a socket cannot be bound; those that were are removed again.
pub fn listen(instance: &Instance, config: &Config) -> Result<Sockets, SetupError> {
    let mut sockets = Sockets { listeners: Vec::new(), paths: Vec::new() };
    let made = fill(&mut sockets, instance, config);
    if let Err(error) = made {
        sockets.clear();
        return Err(error);
    }
    Ok(sockets)
}

fn fill(sockets: &mut Sockets, instance: &Instance, config: &Config) -> Result<(), SetupError> {
    // Anybody may connect to a system instance: who it is decides what it may do. A session is one user's.
    let mode = if instance.mode() == Mode::System { 0o666 } else { 0o600 };
    for (name, door) in SOCKETS {
        let path = config.socket_dir.join(name);
        let listener = in_place(&path, |temporary| {
            let listener = UnixListener::bind(temporary)?;
            fs::set_permissions(temporary, fs::Permissions::from_mode(mode))?;
            Ok(listener)
        })?;
        sockets.listeners.push((listener, door));
        sockets.paths.push(path);
    }
    for driver in &config.modular {
        for (name, _) in SOCKETS {
            let path = config.socket_dir.join(name.replace("libvirt", &format!("virt{driver}d")));
            in_place(&path, |temporary| symlink(name, temporary))?;
            sockets.paths.push(path);
        }
    }
    Ok(())
}

/// Makes something under another name and renames it, so that nobody sees it before it is whole.
fn in_place<T>(path: &Path, make: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, SetupError> {
    refuse_live(path)?;
    let made = || {
        let temporary = path.with_extension("new");
        let _ = fs::remove_file(&temporary);
        let made = make(&temporary)?;
        fs::rename(&temporary, path)?;
        Ok(made)
    };
    made().map_err(|source| SetupError::Listen { path: path.to_path_buf(), source })
}

fn refuse_live(path: &Path) -> Result<(), SetupError> {
    let listen = |source| SetupError::Listen { path: path.to_path_buf(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(listen(error)),
        Ok(data) if data.file_type().is_socket() || data.file_type().is_symlink() => {}
        Ok(_) => return Err(SetupError::NoSocket { path: path.to_path_buf() }),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let address = SocketAddrUnix::new(path);
    let connected = socket.and_then(|socket| address.and_then(|address| rustix::net::connect(&socket, &address)));
    match connected {
        // Nobody listens; a link leads nowhere.
        Err(Errno::CONNREFUSED | Errno::NOENT | Errno::LOOP) => Ok(()),
        // A link that is ours and leads to a socket that this gateway has just bound is replaced as well.
        Ok(()) if fs::read_link(path).is_ok_and(|to| SOCKETS.iter().any(|(name, _)| to == Path::new(name))) => Ok(()),
        _ => Err(SetupError::Live { path: path.to_path_buf() }),
    }
}

impl Sockets {
    /// Removes them, so that a client sees at once that nobody listens.
    pub fn clear(&self) {
        for path in &self.paths {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn instance() -> (tempfile::TempDir, Instance, Config) {
        let root = tempfile::tempdir().unwrap();
        let instance = Instance::at(Mode::Session, Some(root.path().to_path_buf()));
        let config = Config::defaults(&instance);
        (root, instance, config)
    }

    #[test]
    fn every_name_leads_to_a_listener_and_goes_at_the_end() {
        let (_root, instance, config) = instance();
        let _lock = prepare(&instance, &config).unwrap();
        assert!(matches!(prepare(&instance, &config), Err(SetupError::Running { .. })));
        let sockets = listen(&instance, &config).unwrap();
        for name in ["libvirt-sock", "libvirt-sock-ro", "virtqemud-sock", "virtqemud-sock-ro", "virtxend-sock"] {
            UnixStream::connect(config.socket_dir.join(name)).unwrap();
        }
        sockets.clear();
        assert_eq!(fs::read_dir(&config.socket_dir).unwrap().count(), 0);
    }

    #[test]
    fn the_secret_is_made_once_and_is_its_owner_s_alone() {
        let (_root, instance, _) = instance();
        let first = secret(&instance).unwrap();
        assert_eq!(secret(&instance).unwrap(), first);
        let path = instance.state_dir().join("gateway-secret");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, &first[..7]).unwrap();
        let second = secret(&instance).unwrap();
        assert_ne!(second, first);
        assert_eq!(fs::read(&path).unwrap(), second);
    }

    #[test]
    fn what_an_ended_daemon_left_is_replaced_and_a_live_one_is_not() {
        let (_root, instance, config) = instance();
        let _lock = prepare(&instance, &config).unwrap();
        drop(listen(&instance, &config).unwrap());
        let again = listen(&instance, &config).unwrap();
        drop(again);
        let path = config.socket_dir.join("virtqemud-sock");
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        assert!(matches!(listen(&instance, &config), Err(SetupError::Live { path: live }) if live == path));
        assert!(!config.socket_dir.join("libvirt-sock").exists(), "nothing is left of the attempt");
        drop(other);
        listen(&instance, &config).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "text").unwrap();
        assert!(matches!(listen(&instance, &config), Err(SetupError::NoSocket { .. })));
    }
}
