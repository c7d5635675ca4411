//! Where an instance keeps its files.
//!
//! | what | system | session |
//! |---|---|---|
//! | configuration, definitions | `/etc/bulkhead` | `$XDG_CONFIG_HOME/bulkhead` |
//! | sockets, live state | `/run/bulkhead` | `$XDG_RUNTIME_DIR/bulkhead` |
//! | images, saved guests | `/var/lib/bulkhead` | `$XDG_DATA_HOME/bulkhead` |
//! | caches | `/var/cache/bulkhead` | `$XDG_CACHE_HOME/bulkhead` |
//! | logs | `/var/log/bulkhead` | `$XDG_STATE_HOME/bulkhead/log` |
//!
//! `BULKHEAD_ROOT=DIR` moves all of them: a system instance to `DIR/etc/bulkhead` and so on, a session of user 1000 to
//! `DIR/user-1000/config` and so on, so any number of instances run side by side. It must be absolute: a relative one
//! would be another place for each program that reads it in another directory.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// The environment variable that relocates everything.
pub const ROOT_VARIABLE: &str = "BULKHEAD_ROOT";

/// The longest path that a Unix socket is bound and connected to: `sun_path` less its final zero.
const LONGEST_SOCKET: usize = 107;

/// Why an instance cannot be where the environment puts it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathsError {
    /// The root is another directory for everybody who reads it.
    #[error("{ROOT_VARIABLE} is the relative path '{}'; set it to an absolute one", .0.display())]
    RelativeRoot(PathBuf),
    /// A guest's socket could be bound, or not even that, and never be connected to.
    #[error(
        "sockets below '{}' would have paths of up to {length} bytes, and the system takes {LONGEST_SOCKET}; {advice}",
        directory.display()
    )]
    LongSocket {
        /// Where the sockets are.
        directory: PathBuf,
        /// The bytes of the longest path.
        length: usize,
        /// What to change.
        advice: &'static str,
    },
}

/// The root that the environment names, if any.
///
/// # Errors
/// When it is relative.
pub fn root_from(variable: Option<&OsStr>) -> Result<Option<PathBuf>, PathsError> {
    match variable.filter(|value| !value.is_empty()).map(PathBuf::from) {
        Some(root) if root.is_relative() => Err(PathsError::RelativeRoot(root)),
        root => Ok(root),
    }
}

const ROOT_ADVICE: &str = "set BULKHEAD_ROOT to a directory with a shorter path";

/// Whose guests an instance runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The host's: `qemu:///system`.
    System,
    /// One user's own: `qemu:///session`.
    Session,
}

impl Mode {
    /// The word in URIs and on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::System => "system",
            Mode::Session => "session",
        }
    }
}

/// One instance of the suite on this host and where its files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    mode: Mode,
    root: Option<PathBuf>,
    /// What to change when the runtime directory does not suit.
    advice: &'static str,
    config: PathBuf,
    runtime: PathBuf,
    state: PathBuf,
    cache: PathBuf,
    log: PathBuf,
}

impl Instance {
    /// The instance that the environment names: the given mode of the calling user, under `BULKHEAD_ROOT` when set.
    ///
    /// # Errors
    /// When `BULKHEAD_ROOT` is relative.
    pub fn from_env(mode: Mode) -> Result<Instance, PathsError> {
        Ok(Instance::at(mode, root_from(env::var_os(ROOT_VARIABLE).as_deref())?))
    }

    /// The instance under `root`, or in the standard places without one. A relative root, as on a command line, is meant
    /// from the working directory of now.
    #[must_use]
    pub fn at(mode: Mode, root: Option<PathBuf>) -> Instance {
        let root = root.map(|root| std::path::absolute(&root).unwrap_or(root));
        match (mode, &root) {
            (Mode::System, root) => Instance::system(root.as_deref().unwrap_or(Path::new("/")), root.clone()),
            (Mode::Session, Some(root)) => {
                let base = root.join(format!("user-{}", rustix::process::getuid().as_raw()));
                Instance {
                    mode,
                    root: Some(root.clone()),
                    advice: ROOT_ADVICE,
                    config: base.join("config"),
                    runtime: base.join("run"),
                    state: base.join("data"),
                    cache: base.join("cache"),
                    log: base.join("log"),
                }
            }
            (Mode::Session, None) => Instance::session(&|name| env::var_os(name)),
        }
    }

    fn system(top: &Path, root: Option<PathBuf>) -> Instance {
        Instance {
            mode: Mode::System,
            root,
            advice: ROOT_ADVICE,
            config: top.join("etc/bulkhead"),
            runtime: top.join("run/bulkhead"),
            state: top.join("var/lib/bulkhead"),
            cache: top.join("var/cache/bulkhead"),
            log: top.join("var/log/bulkhead"),
        }
    }

    fn session(variable: &dyn Fn(&str) -> Option<OsString>) -> Instance {
        // The XDG rule: a relative path in one of these variables is to be ignored.
        let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = absolute("HOME").unwrap_or_else(|| PathBuf::from("/"));
        let dir = |name: &str, fallback: &str| absolute(name).unwrap_or_else(|| home.join(fallback)).join("bulkhead");
        // Without a login session there is no runtime directory; the cache is the user's own as well.
        let (advice, runtime) = match absolute("XDG_RUNTIME_DIR") {
            Some(runtime) => ("set XDG_RUNTIME_DIR to a directory with a shorter path", runtime.join("bulkhead")),
            None => (
                "set XDG_RUNTIME_DIR, as a login session does, to a directory of your own with a short path",
                dir("XDG_CACHE_HOME", ".cache").join("run"),
            ),
        };
        Instance {
            mode: Mode::Session,
            root: None,
            advice,
            config: dir("XDG_CONFIG_HOME", ".config"),
            runtime,
            state: dir("XDG_DATA_HOME", ".local/share"),
            cache: dir("XDG_CACHE_HOME", ".cache"),
            log: dir("XDG_STATE_HOME", ".local/state").join("log"),
        }
    }

    /// Whether the path of every socket that there can be is short enough to connect to: better no instance than one
    /// whose tenth guest is lost.
    ///
    /// # Errors
    /// When it is not; the text says what to change.
    pub fn check_paths(&self) -> Result<(), PathsError> {
        let sockets = [self.socket(), self.read_only_socket(), self.supervisor_socket(u32::MAX)];
        let length = sockets.iter().map(|path| path.as_os_str().as_bytes().len()).max().unwrap_or_default();
        if length <= LONGEST_SOCKET {
            return Ok(());
        }
        Err(PathsError::LongSocket { directory: self.runtime.clone(), length, advice: self.advice })
    }

    /// Whose guests.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The relocation root, if any: what a child process must get as `BULKHEAD_ROOT`.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// The socket for calls that may change things.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("qemud.sock")
    }

    /// The socket for calls that only read; anybody may connect to a system instance's.
    #[must_use]
    pub fn read_only_socket(&self) -> PathBuf {
        self.runtime.join("qemud-ro.sock")
    }

    /// The lock that the running launcher holds.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.runtime.join("qemud.lock")
    }

    /// Sockets and live state; gone after a reboot of the host.
    #[must_use]
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime
    }

    /// One directory a running guest.
    #[must_use]
    pub fn guests_dir(&self) -> PathBuf {
        self.runtime.join("guests")
    }

    /// The directory of one run of a guest. Named by its number, because the path of a socket in it must stay short.
    #[must_use]
    pub fn guest_dir(&self, id: u32) -> PathBuf {
        self.guests_dir().join(id.to_string())
    }

    /// The socket of the supervisor of one run of a guest.
    #[must_use]
    pub fn supervisor_socket(&self, id: u32) -> PathBuf {
        self.guest_dir(id).join("supervisor.sock")
    }

    /// The event log of one run of a guest.
    #[must_use]
    pub fn guest_event_log(&self, id: u32) -> PathBuf {
        self.guest_dir(id).join("events")
    }

    /// The journal of all events, from which clients get what they missed.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.runtime.join("journal").join("events")
    }

    /// Configuration files.
    #[must_use]
    pub fn config_dir(&self) -> &Path {
        &self.config
    }

    /// Persistent definitions, one XML file a guest.
    #[must_use]
    pub fn definitions_dir(&self) -> PathBuf {
        self.config.join("qemu")
    }

    /// Images and saved guests.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// What can be found out again.
    #[must_use]
    pub fn cache_dir(&self) -> &Path {
        &self.cache
    }

    /// Logs.
    #[must_use]
    pub fn log_dir(&self) -> &Path {
        &self.log
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_moves_everything() {
        let system = Instance::at(Mode::System, Some("/tmp/x".into()));
        for dir in [
            system.config_dir(),
            system.runtime_dir(),
            system.state_dir(),
            system.cache_dir(),
            system.log_dir(),
            &system.definitions_dir(),
            &system.guests_dir(),
            &system.socket(),
            &system.read_only_socket(),
            &system.lock_file(),
        ] {
            assert!(dir.starts_with("/tmp/x"), "{}", dir.display());
        }
        let session = Instance::at(Mode::Session, Some("/tmp/x".into()));
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(session.runtime_dir(), Path::new(&format!("/tmp/x/user-{uid}/run")));
        assert_ne!(session.socket(), system.socket());
    }

    #[test]
    fn the_system_instance_is_in_the_standard_places() {
        let system = Instance::at(Mode::System, None);
        assert_eq!(system.socket(), Path::new("/run/bulkhead/qemud.sock"));
        assert_eq!(system.definitions_dir(), Path::new("/etc/bulkhead/qemu"));
        assert_eq!(system.cache_dir(), Path::new("/var/cache/bulkhead"));
    }

    #[test]
    fn a_session_follows_xdg_and_ignores_relative_paths() {
        let env = |name: &str| match name {
            "HOME" => Some(OsString::from("/home/u")),
            "XDG_RUNTIME_DIR" => Some(OsString::from("/run/user/7")),
            "XDG_CONFIG_HOME" => Some(OsString::from("relative")),
            _ => None,
        };
        let session = Instance::session(&env);
        assert_eq!(session.socket(), Path::new("/run/user/7/bulkhead/qemud.sock"));
        assert_eq!(session.definitions_dir(), Path::new("/home/u/.config/bulkhead/qemu"));
        assert_eq!(session.log_dir(), Path::new("/home/u/.local/state/bulkhead/log"));
        let bare = Instance::session(&|name| (name == "HOME").then(|| OsString::from("/home/u")));
        assert_eq!(bare.runtime_dir(), Path::new("/home/u/.cache/bulkhead/run"));
    }

    #[test]
    fn a_relative_root_is_refused_where_it_is_read() {
        for none in [None, Some("")] {
            assert_eq!(root_from(none.map(OsStr::new)), Ok(None));
        }
        assert_eq!(root_from(Some(OsStr::new("/r"))), Ok(Some("/r".into())));
        for relative in ["r", "./r", "../r", "."] {
            let refused = root_from(Some(OsStr::new(relative))).unwrap_err();
            assert_eq!(refused, PathsError::RelativeRoot(relative.into()));
            assert!(refused.to_string().contains("BULKHEAD_ROOT is the relative path"), "{refused}");
        }
    }

    /// A directory of so many bytes.
    fn directory(bytes: usize) -> OsString {
        format!("/{}", "d".repeat(bytes - 1)).into()
    }

    #[test]
    fn every_socket_of_an_instance_that_passes_can_be_connected_to() {
        for mode in [Mode::System, Mode::Session] {
            let mut passed = 0;
            for bytes in 1..=110 {
                let instance = Instance::at(mode, Some(directory(bytes).into()));
                let sockets = [instance.socket(), instance.read_only_socket(), instance.supervisor_socket(u32::MAX)];
                let fit = sockets.iter().all(|path| std::os::unix::net::SocketAddr::from_pathname(path).is_ok());
                assert_eq!(instance.check_paths().is_ok(), fit, "{bytes}");
                passed += usize::from(fit);
            }
            assert!(passed > 40, "{passed}");
        }
    }

    #[test]
    fn a_long_path_names_what_to_change() {
        let at = |set: &'static str, bytes: usize| {
            Instance::session(&|name| (name == set || name == "HOME" && set != "HOME").then(|| directory(bytes)))
        };
        assert_eq!(at("HOME", 30).check_paths(), Ok(()));
        let home = at("HOME", 62).check_paths().unwrap_err().to_string();
        assert!(home.contains("116 bytes") && home.contains("107") && home.contains("set XDG_RUNTIME_DIR,"), "{home}");
        let runtime = at("XDG_RUNTIME_DIR", 90).check_paths().unwrap_err().to_string();
        assert!(runtime.ends_with("set XDG_RUNTIME_DIR to a directory with a shorter path"), "{runtime}");
        let root = Instance::at(Mode::System, Some(directory(90).into())).check_paths().unwrap_err().to_string();
        assert!(root.ends_with("set BULKHEAD_ROOT to a directory with a shorter path"), "{root}");
        assert_eq!(Instance::at(Mode::System, None).check_paths(), Ok(()));
    }
}
