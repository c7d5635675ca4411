//! What a confined program sees as its root directory.
//!
//! A [`Jail`] is a description, built and checked by the parent: an empty root in memory with read-only views of host
//! files and directories, symbolic links, small writable directories and a few device nodes. `spawn` turns it into a list
//! of system calls with every string ready, which the new child carries out in its own mount namespace and then
//! pivots into; nothing of the host's tree is reachable from there on.

mod plan;

pub(crate) use plan::Plan;

use std::ffi::NulError;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;

/// Why a jail can't be described.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// A path inside the jail is not absolute, is the root itself, or goes through `.` or `..`.
    #[error("{path} is no path inside a jail", path = path.display())]
    Inside {
        /// The path.
        path: PathBuf,
    },
    /// A path inside the jail was given twice, or lies beneath something that is no plain directory of the jail.
    #[error("{path} in the jail collides with {other}", path = path.display(), other = other.display())]
    Collision {
        /// The path.
        path: PathBuf,
        /// What is there already.
        other: PathBuf,
    },
    /// The host's side of a bind can't be inspected.
    #[error("cannot inspect {path} for a jail", path = path.display())]
    Source {
        /// The host's path.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The descriptor for a bind can't be inspected or copied; EPERM without CAP_SYS_ADMIN.
    #[error("cannot use the descriptor bound at {inside} in a jail", inside = inside.display())]
    SourceFd {
        /// Where it was to appear.
        inside: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A path contains a NUL byte.
    #[error("a path of the jail contains a NUL byte")]
    Nul(#[from] NulError),
}

/// A device node that a jail may have, always at the same place as on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Device {
    /// `/dev/null`
    Null,
    /// `/dev/zero`
    Zero,
    /// `/dev/full`
    Full,
    /// `/dev/random`
    Random,
    /// `/dev/urandom`
    Urandom,
    /// `/dev/kvm`
    Kvm,
}

impl Device {
    /// The node's name in /dev and its numbers.
    fn node(self) -> (&'static str, u32, u32) {
        match self {
            Device::Null => ("null", 1, 3),
            Device::Zero => ("zero", 1, 5),
            Device::Full => ("full", 1, 7),
            Device::Random => ("random", 1, 8),
            Device::Urandom => ("urandom", 1, 9),
            // A fixed number of the misc devices since KVM exists.
            Device::Kvm => ("kvm", 10, 232),
        }
    }

    /// Whether everybody may use it. A node that is not is made for its owner alone.
    fn for_everybody(self) -> bool {
        self != Device::Kvm
    }
}

/// A small directory in memory that the program may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritableDir {
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits.
    pub mode: u32,
    /// The most that it may hold, in bytes.
    pub size: u64,
}

#[derive(Clone, Debug)]
enum Source {
    Path(PathBuf),
    Fd(Arc<OwnedFd>),
}

#[derive(Clone, Debug)]
struct Bind {
    source: Source,
    inside: PathBuf,
    directory: bool,
}

/// The description of a root directory. Cheap to clone, so one can be kept for each program and completed for each guest.
#[derive(Clone, Debug)]
pub struct Jail {
    root_size: u64,
    binds: Vec<Bind>,
    symlinks: Vec<(PathBuf, PathBuf)>,
    writable: Vec<(PathBuf, WritableDir)>,
    devices: Vec<(Device, Option<(u32, u32)>)>,
}

impl Default for Jail {
    fn default() -> Self {
        Jail::new()
    }
}

impl Jail {
    /// An empty root.
    pub fn new() -> Jail {
        // The root holds directories, links and mount points only: a few pages.
        const ROOT_SIZE: u64 = 256 << 10;
        Jail { root_size: ROOT_SIZE, binds: vec![], symlinks: vec![], writable: vec![], devices: vec![] }
    }

    /// The root that a dynamically linked program needs: itself at its own path, the libraries and the loader where the
    /// host has them, the loader's cache, and those of `extra` (directories or files, at their own paths) that exist.
    /// Devices and writable directories are added by the caller.
    pub fn for_program(program: &Path, extra: &[&Path]) -> Result<Jail, JailError> {
        const LIBRARIES: [&str; 8] =
            ["/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/lib", "/lib32", "/lib64", "/libx32"];
        const LOADER_CACHE: &str = "/etc/ld.so.cache";

        let mut jail = Jail::new().bind(program, program)?;
        for path in LIBRARIES {
            jail = jail.replicate(Path::new(path))?;
        }
        jail = jail.replicate(Path::new(LOADER_CACHE))?;
        for path in extra {
            if jail.binds.iter().any(|bind| bind.directory && path.starts_with(&bind.inside)) {
                continue;
            }
            if path.try_exists().map_err(|source| JailError::Source { path: path.to_path_buf(), source })? {
                jail = jail.bind(path, path)?;
            }
        }
        Ok(jail)
    }

    /// Puts what the host has at `path` there in the jail: a link as a link, a file or directory as a bind, nothing as nothing.
    fn replicate(self, path: &Path) -> Result<Jail, JailError> {
        let failed = |source| JailError::Source { path: path.to_owned(), source };
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(self),
            Err(error) => Err(failed(error)),
            Ok(metadata) if metadata.is_symlink() => {
                let target = path.read_link().map_err(failed)?;
                self.symlink(&target, path)
            }
            Ok(_) => self.bind(path, path),
        }
    }

    /// Sets the most that the root itself may hold, in bytes.
    #[must_use]
    pub fn root_size(mut self, bytes: u64) -> Jail {
        self.root_size = bytes;
        self
    }

    /// Shows the host's file or directory `source`, with everything mounted beneath it, read-only at `inside`.
    pub fn bind(mut self, source: &Path, inside: &Path) -> Result<Jail, JailError> {
        let directory =
            source.metadata().map_err(|error| JailError::Source { path: source.to_owned(), source: error })?.is_dir();
        self.claim(inside)?;
        self.binds.push(Bind { source: Source::Path(source.to_owned()), inside: inside.to_owned(), directory });
        Ok(self)
    }

    /// Shows the file or directory that `source` (also an O_PATH descriptor) names read-only at `inside`.
    /// Each spawn takes CAP_SYS_ADMIN in the spawning process for it.
    pub fn bind_fd(mut self, source: OwnedFd, inside: &Path) -> Result<Jail, JailError> {
        let stat = rustix::fs::fstat(source.as_fd())
            .map_err(|errno| JailError::SourceFd { inside: inside.to_owned(), source: errno.into() })?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        self.claim(inside)?;
        self.binds.push(Bind { source: Source::Fd(Arc::new(source)), inside: inside.to_owned(), directory });
        Ok(self)
    }

    /// Makes a symbolic link at `inside`.
    pub fn symlink(mut self, target: &Path, inside: &Path) -> Result<Jail, JailError> {
        self.claim(inside)?;
        self.symlinks.push((target.to_owned(), inside.to_owned()));
        Ok(self)
    }

    /// Makes a writable directory in memory at `inside`; nothing in it can be executed or be a device.
    pub fn writable_dir(mut self, inside: &Path, dir: WritableDir) -> Result<Jail, JailError> {
        self.claim(inside)?;
        self.writable.push((inside.to_owned(), dir));
        Ok(self)
    }

    /// Adds a device node that everybody in the jail may use as on the host; [`Device::Kvm`] needs [`Jail::device_for`].
    pub fn device(mut self, device: Device) -> Result<Jail, JailError> {
        self.claim_device(device)?;
        self.devices.push((device, None));
        Ok(self)
    }

    /// Adds a device node that belongs to `uid` and `gid` and that nobody else may open. Without root the host's own node is
    /// bound, with the rights that it has there.
    pub fn device_for(mut self, device: Device, uid: u32, gid: u32) -> Result<Jail, JailError> {
        self.claim_device(device)?;
        self.devices.push((device, Some((uid, gid))));
        Ok(self)
    }

    fn claim_device(&self, device: Device) -> Result<(), JailError> {
        self.claim(&Path::new("/dev").join(device.node().0))
    }

    /// Every path that was given a meaning.
    fn claimed(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let binds = self.binds.iter().map(|bind| bind.inside.clone());
        let symlinks = self.symlinks.iter().map(|(_, inside)| inside.clone());
        let writable = self.writable.iter().map(|(inside, _)| inside.clone());
        let devices = self.devices.iter().map(|(device, _)| Path::new("/dev").join(device.node().0));
        binds.chain(symlinks).chain(writable).chain(devices)
    }

    /// Checks that `inside` is a clean path of the jail that collides with nothing there.
    fn claim(&self, inside: &Path) -> Result<(), JailError> {
        let mut components = inside.components();
        let clean = components.next() == Some(Component::RootDir)
            && inside != Path::new("/")
            && components.all(|component| matches!(component, Component::Normal(_)));
        if !clean {
            return Err(JailError::Inside { path: inside.to_owned() });
        }
        match self.claimed().find(|other| inside.starts_with(other) || other.starts_with(inside)) {
            Some(other) => Err(JailError::Collision { path: inside.to_owned(), other }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_jail_are_refused() {
        for path in ["relative", "/", "/a/../b", "/..", ""] {
            let refused = Jail::new().symlink(Path::new("x"), Path::new(path));
            assert!(matches!(refused, Err(JailError::Inside { .. })), "{path}");
        }
    }

    #[test]
    fn collisions_are_refused_both_ways() {
        let jail = Jail::new().bind(Path::new("/usr"), Path::new("/usr")).unwrap();
        let beneath = jail.clone().symlink(Path::new("x"), Path::new("/usr/share/x"));
        assert!(matches!(beneath, Err(JailError::Collision { .. })));
        let twice = jail.bind(Path::new("/etc"), Path::new("/usr"));
        assert!(matches!(twice, Err(JailError::Collision { .. })));
        let above = Jail::new().device(Device::Null).unwrap().bind(Path::new("/dev"), Path::new("/dev"));
        assert!(matches!(above, Err(JailError::Collision { .. })));
    }

    #[test]
    fn absent_source_is_named() {
        match Jail::new().bind(Path::new("/nonexistent"), Path::new("/x")) {
            Err(JailError::Source { path, source }) => {
                assert_eq!(path, Path::new("/nonexistent"));
                assert_eq!(source.kind(), io::ErrorKind::NotFound);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn program_root_has_loader_and_no_proc_sys_or_other_etc() {
        let jail =
            Jail::for_program(Path::new("/bin/sh"), &[Path::new("/nonexistent"), Path::new("/usr/lib/x")]).unwrap();
        let claimed: Vec<PathBuf> = jail.claimed().collect();
        assert!(claimed.contains(&PathBuf::from("/bin/sh")));
        assert!(claimed.contains(&PathBuf::from("/usr/lib")));
        assert!(!claimed.contains(&PathBuf::from("/nonexistent")));
        assert!(claimed.iter().all(|path| !path.starts_with("/proc") && !path.starts_with("/sys")));
        assert!(claimed.iter().all(|path| !path.starts_with("/etc") || path.ends_with("ld.so.cache")));
    }
}
