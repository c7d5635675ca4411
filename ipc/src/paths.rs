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
//! `DIR/user-1000/config` and so on, so any number of instances run side by side.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The environment variable that relocates everything.
pub const ROOT_VARIABLE: &str = "BULKHEAD_ROOT";

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
    config: PathBuf,
    runtime: PathBuf,
    state: PathBuf,
    cache: PathBuf,
    log: PathBuf,
}

impl Instance {
    /// The instance that the environment names: the given mode of the calling user, under `BULKHEAD_ROOT` when set.
    #[must_use]
    pub fn from_env(mode: Mode) -> Instance {
        let root = env::var_os(ROOT_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
        Instance::at(mode, root)
    }

    /// The instance under `root`, or in the standard places without one.
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
        Instance {
            mode: Mode::Session,
            root: None,
            config: dir("XDG_CONFIG_HOME", ".config"),
            // Without a login session there is no runtime directory; the cache is the user's own as well.
            runtime: absolute("XDG_RUNTIME_DIR")
                .map_or_else(|| dir("XDG_CACHE_HOME", ".cache").join("run"), |runtime| runtime.join("bulkhead")),
            state: dir("XDG_DATA_HOME", ".local/share"),
            cache: dir("XDG_CACHE_HOME", ".cache"),
            log: dir("XDG_STATE_HOME", ".local/state").join("log"),
        }
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
}
