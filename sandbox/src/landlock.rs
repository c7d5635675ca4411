//! Landlock: a process (or a program about to be spawned) limits itself to named directories, as far as the kernel can.
//!
//! It is the second line behind an empty root: best effort by the kernel's ABI, and the caller is told what was enforced.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};

use crate::sys;

/// The newest ABI whose rights this module handles; older kernels enforce a subset.
const NEWEST: ABI = ABI::V6;
const NEWEST_NUMBER: u32 = 6;

/// What stays allowed. Everything else about files is refused; a list names directories (with all beneath them) or files.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// May be read and listed.
    pub read: Vec<PathBuf>,
    /// May be read, written, created and removed; no devices, no execution.
    pub write: Vec<PathBuf>,
    /// May be read and executed.
    pub execute: Vec<PathBuf>,
    /// Whether TCP may be bound and connected.
    pub tcp: bool,
    /// Whether abstract Unix sockets and signals may reach processes outside this one's domain.
    pub outside: bool,
}

/// What the kernel enforces of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// All of it.
    Fully {
        /// The kernel's Landlock ABI.
        abi: u32,
    },
    /// What an older kernel knows.
    Partly {
        /// The kernel's Landlock ABI.
        abi: u32,
    },
    /// Nothing: the kernel has no Landlock.
    Not,
}

impl Enforced {
    fn by(abi: u32) -> Enforced {
        match abi {
            0 => Enforced::Not,
            abi if abi < NEWEST_NUMBER => Enforced::Partly { abi },
            abi => Enforced::Fully { abi },
        }
    }
}

/// Which step of restricting failed.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// A path of the rules can't be opened.
    #[error("cannot open {path} for a Landlock rule", path = path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why it can't be opened.
        #[source]
        source: PathFdError,
    },
    /// The ruleset was refused.
    #[error("cannot build the Landlock ruleset")]
    Ruleset {
        /// The reason.
        #[from]
        source: RulesetError,
    },
    /// no_new_privs, which Landlock needs, could not be set.
    #[error("cannot set no_new_privs for Landlock")]
    NoNewPrivs {
        /// The reason.
        #[from]
        source: crate::process::ProcessError,
    },
    /// The kernel refused to enforce the ruleset.
    #[error("cannot enforce the Landlock ruleset")]
    Enforce {
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// A ruleset that is ready to be enforced, here or in a new child.
#[derive(Debug)]
pub struct Prepared {
    ruleset: Option<OwnedFd>,
    enforced: Enforced,
}

impl Prepared {
    /// What enforcing it will enforce.
    pub fn enforced(&self) -> Enforced {
        self.enforced
    }

    /// The kernel's ruleset, `None` when it has no Landlock.
    pub(crate) fn ruleset(&self) -> Option<BorrowedFd<'_>> {
        self.ruleset.as_ref().map(AsFd::as_fd)
    }
}

/// Builds the kernel's ruleset. The paths are looked up now: a rule holds for what a path names at this moment.
pub fn prepare(rules: &Rules) -> Result<Prepared, LandlockError> {
    let enforced = Enforced::by(sys::landlock_abi());
    if enforced == Enforced::Not {
        return Ok(Prepared { ruleset: None, enforced });
    }
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let execute = read | AccessFs::Execute;
    let devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    let write = AccessFs::from_all(NEWEST) & !(devices | AccessFs::Execute);

    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(NEWEST))?;
    if !rules.tcp {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
    }
    if !rules.outside {
        ruleset = ruleset.scope(Scope::from_all(NEWEST))?;
    }
    let mut ruleset = ruleset.create()?;
    for (paths, access) in [(&rules.read, read), (&rules.write, write), (&rules.execute, execute)] {
        for path in paths {
            ruleset = ruleset.add_rule(rule(path, access)?)?;
        }
    }
    Ok(Prepared { ruleset: ruleset.into(), enforced })
}

/// A rule for one path; the rights that only directories have are left out for a file, as the kernel wants it.
fn rule(path: &Path, access: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, LandlockError> {
    let fd = PathFd::new(path).map_err(|source| LandlockError::Path { path: path.to_owned(), source })?;
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
    Ok(PathBeneath::new(fd, access))
}

/// Limits the calling thread, and every thread and process that it makes from now on, to `rules`. Sets no_new_privs.
pub fn restrict(rules: &Rules) -> Result<Enforced, LandlockError> {
    let prepared = prepare(rules)?;
    crate::process::no_new_privs()?;
    if let Some(ruleset) = prepared.ruleset() {
        sys::landlock_restrict_self(ruleset).map_err(|errno| LandlockError::Enforce { source: errno.into() })?;
    }
    Ok(prepared.enforced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_the_named_directories_stay_open() {
        let readable = tempfile::tempdir().unwrap();
        let writable = tempfile::tempdir().unwrap();
        let hidden = tempfile::tempdir().unwrap();
        fs::write(readable.path().join("file"), "text").unwrap();
        fs::write(hidden.path().join("file"), "text").unwrap();
        let rules = Rules {
            read: vec![readable.path().to_owned()],
            write: vec![writable.path().to_owned()],
            ..Rules::default()
        };
        // Landlock binds the thread that asks for it, so the other tests stay free.
        std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                if restrict(&rules).unwrap() == Enforced::Not {
                    crate::skip::skip("only_the_named_directories_stay_open", "this kernel has no Landlock");
                    return;
                }
                assert_eq!(fs::read_to_string(readable.path().join("file")).unwrap(), "text");
                assert!(fs::write(readable.path().join("new"), "x").is_err());
                fs::write(writable.path().join("new"), "x").unwrap();
                assert!(fs::read(hidden.path().join("file")).is_err());
                assert!(fs::read("/etc/passwd").is_err());
            });
            confined.join().unwrap();
        });
    }

    #[test]
    fn absent_path_is_named() {
        let absent = PathBuf::from("/nonexistent/directory");
        match prepare(&Rules { read: vec![absent.clone()], ..Rules::default() }) {
            Err(LandlockError::Path { path, .. }) => assert_eq!(path, absent),
            Ok(prepared) => assert_eq!(prepared.enforced(), Enforced::Not),
            Err(other) => panic!("{other}"),
        }
    }
}
