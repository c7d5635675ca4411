//! Where the programs of the suite are looked for.
//!
//! Beside the running one, in the directory above it (where cargo puts what its tests start), in the installed places and
//! along `PATH`. The first two are where the program happens to be, which nobody has vouched for: what is found there is
//! taken only if nobody but root and the caller can have put it there.

use std::{
    env,
    error::Error as _,
    ffi::OsStr,
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::Access;
use thiserror::Error;

/// Installed places.
const PLACES: [&str; 2] = ["/usr/local/libexec/bulkhead", "/usr/libexec/bulkhead"];
/// The bits of a mode that let group or others write.
const OTHERS_WRITE: u32 = 0o022;
/// The bit of a directory whose entries only their owners may remove.
const STICKY: u32 = 0o1000;

/// What a search goes by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search<'a> {
    /// The running program, whose neighbour the other one may be.
    pub beside: Option<&'a Path>,
    /// The caller's `PATH`.
    pub path: Option<&'a OsStr>,
}

/// A program is nowhere.
#[derive(Debug, Error)]
#[error("there is no {name} in {}{}", List(searched), Refused(refused))]
pub struct NotFound {
    name: String,
    searched: Vec<PathBuf>,
    refused: Vec<Untrusted>,
}

/// A program that somebody else may have put where it is.
#[derive(Debug, Error)]
pub enum Untrusted {
    /// Somebody else may write there, or owns it.
    #[error("'{}' is not taken: others than its user and root can change '{}'", program.display(), place.display())]
    Others {
        /// The program.
        program: PathBuf,
        /// Itself, or one of the directories on its way.
        place: PathBuf,
    },
    /// Whose it is cannot be seen.
    #[error("'{}' is not taken: it cannot be seen whose it is", program.display())]
    Unseen {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

struct List<'a>(&'a [PathBuf]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, dir) in self.0.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { ", " }, dir.display())?;
        }
        Ok(())
    }
}

struct Refused<'a>(&'a [Untrusted]);

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|refused| {
            write!(f, "; {refused}")?;
            // There may be several, so none of them is this error's source.
            refused.source().map_or(Ok(()), |source| write!(f, ": {source}"))
        })
    }
}

impl Search<'_> {
    /// The first program of this name.
    ///
    /// # Errors
    /// When there is none, or none that can be trusted.
    pub fn find(&self, name: &str) -> Result<PathBuf, NotFound> {
        let mut failure = NotFound { name: name.to_owned(), searched: Vec::new(), refused: Vec::new() };
        let own = self.beside.and_then(Path::parent);
        for dir in [own, own.and_then(Path::parent)].into_iter().flatten() {
            failure.searched.push(dir.to_owned());
            // Without links that could lead elsewhere when it is run.
            let Ok(dir) = fs::canonicalize(dir) else { continue };
            let program = dir.join(name);
            if is_program(&program) {
                match check(&program) {
                    Ok(()) => return Ok(program),
                    Err(untrusted) => failure.refused.push(untrusted),
                }
            }
        }
        let path = self.path.map(|path| env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
        for dir in PLACES.map(PathBuf::from).into_iter().chain(path).filter(|dir| dir.is_absolute()) {
            let program = dir.join(name);
            failure.searched.push(dir);
            if is_program(&program) {
                return Ok(program);
            }
        }
        Err(failure)
    }
}

/// Whether this is a file that the caller may run.
#[must_use]
pub fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

/// Whether nobody but root and the caller can have put a program where it is, or put another one there before it is run:
/// the file, its directory, and for a link those that it leads to, are theirs and closed to others. A directory further up
/// may be open to all if its entries are safe from them, as `/tmp` is.
///
/// # Errors
/// When others can, or when that cannot be seen.
pub fn check(program: &Path) -> Result<(), Untrusted> {
    let unseen = |source| Untrusted::Unseen { program: program.to_owned(), source };
    let real = fs::canonicalize(program).map_err(unseen)?;
    let dir = program.parent().map(fs::canonicalize).transpose().map_err(unseen)?;
    let caller = rustix::process::geteuid().as_raw();
    // The directory of the name as it was given, and the way to the file that it is a name of.
    for (way, file) in [(dir.as_deref(), None), (real.parent(), Some(real.as_path()))] {
        let above = way.into_iter().flat_map(|dir| dir.ancestors().skip(1)).map(|place| (place, true));
        let near = way.into_iter().chain(file).map(|place| (place, false));
        for (place, shared) in near.chain(above) {
            let found = fs::metadata(place).map_err(unseen)?;
            if !is_closed(found.uid(), found.mode(), caller, shared) {
                return Err(Untrusted::Others { program: program.to_owned(), place: place.to_owned() });
            }
        }
    }
    Ok(())
}

/// Whether only root and `caller` decide what is there. `shared`: what matters in it is one entry that is theirs, which in a
/// sticky directory stays theirs.
fn is_closed(owner: u32, mode: u32, caller: u32, shared: bool) -> bool {
    let theirs = owner == 0 || owner == caller;
    theirs && (mode & OTHERS_WRITE == 0 || (shared && mode & STICKY != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A directory of the caller's in one that is open to all, as `/tmp/x`.
    struct World(tempfile::TempDir);

    impl World {
        fn new() -> World {
            let world = World(tempfile::tempdir().unwrap());
            fs::create_dir_all(world.path("open/own")).unwrap();
            world.mode("open", 0o1777);
            world
        }

        fn path(&self, name: &str) -> PathBuf {
            fs::canonicalize(self.0.path()).unwrap().join(name)
        }

        fn mode(&self, name: &str, mode: u32) {
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }

        fn program(&self, name: &str) -> PathBuf {
            fs::write(self.path(name), "#!/bin/sh\n").unwrap();
            self.mode(name, 0o755);
            self.path(name)
        }

        fn find(&self) -> Result<PathBuf, NotFound> {
            Search { beside: Some(&self.path("open/own/bulkhead")), path: None }.find("no-such-program")
        }
    }

    #[test]
    fn a_program_that_anybody_could_have_put_there_is_not_found() {
        let world = World::new();
        let planted = world.program("open/no-such-program");
        let error = world.find().unwrap_err().to_string();
        let refused = format!("'{}' is not taken: others than its user and root can change", planted.display());
        assert!(error.contains(&refused), "{error}");
        // Beside the running one it is found, although the directory above is open to all.
        let own = world.program("open/own/no-such-program");
        assert_eq!(world.find().unwrap(), own);
        // Not if others can write to it or its directory.
        for (name, mode) in [("open/own/no-such-program", 0o775), ("open/own", 0o1777), ("open/own", 0o770)] {
            world.mode(name, mode);
            assert!(world.find().is_err(), "{name} {mode:o}");
            world.mode(name, 0o755);
        }
        // Nor if another directory on the way is open without being sticky.
        world.mode("open", 0o777);
        assert!(world.find().is_err());
        world.mode("open", 0o755);
        assert_eq!(world.find().unwrap(), own);
    }

    #[test]
    fn a_link_is_as_good_as_where_it_is_and_where_it_leads() {
        let world = World::new();
        let planted = world.program("open/planted");
        let link = world.path("open/own/no-such-program");
        symlink(&planted, &link).unwrap();
        assert!(world.find().is_err());
        fs::create_dir(world.path("safe")).unwrap();
        let safe = world.program("safe/program");
        fs::remove_file(&link).unwrap();
        symlink(&safe, &link).unwrap();
        assert_eq!(world.find().unwrap(), link);
        // A way through a link that anybody could make another: what was looked at is what is run.
        symlink(world.path("open/own"), world.path("open/way")).unwrap();
        let through = world.path("open/way/bulkhead");
        assert_eq!(Search { beside: Some(&through), path: None }.find("no-such-program").unwrap(), link);
    }

    #[test]
    fn whose_a_place_is_decides() {
        assert!(is_closed(0, 0o755, 7, false));
        assert!(is_closed(7, 0o700, 7, false));
        assert!(!is_closed(8, 0o755, 7, false));
        assert!(!is_closed(7, 0o755, 0, false), "root trusts root alone");
        assert!(!is_closed(8, 0o1755, 7, true));
        assert!(!is_closed(0, 0o1777, 7, false));
        assert!(is_closed(0, 0o1777, 7, true));
        assert!(!is_closed(0, 0o777, 7, true));
    }

    #[test]
    fn the_caller_s_path_is_the_caller_s_word() {
        let world = World::new();
        let program = world.program("open/no-such-program");
        let path = env::join_paths([PathBuf::from("relative"), world.path("nowhere"), world.path("open")]).unwrap();
        assert_eq!(Search { beside: None, path: Some(&path) }.find("no-such-program").unwrap(), program);
        let error = Search::default().find("no-such-program").unwrap_err().to_string();
        assert_eq!(error, "there is no no-such-program in /usr/local/libexec/bulkhead, /usr/libexec/bulkhead");
    }
}
