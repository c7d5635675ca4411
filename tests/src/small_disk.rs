//! Disks without room.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use crate::wait::skip;

/// A file system of a few pages on a directory. Dropping it unmounts it, also when processes still use it.
#[derive(Debug)]
pub struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    /// Mounts one on a directory; `None`, and the test is marked as skipped, where that is not allowed.
    ///
    /// # Panics
    /// When it cannot be mounted for another reason.
    #[must_use]
    pub fn on(dir: &Path, mode: u32, kib: u32, test: &str) -> Option<SmallDisk> {
        let options = std::ffi::CString::new(format!("size={kib}k,nr_inodes={},mode={mode:o}", 40.max(kib / 4)))
            .expect("a plain text");
        match mount("bulkhead-test", dir, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, &*options) {
            Ok(()) => Some(SmallDisk { dir: dir.to_owned() }),
            Err(Errno::PERM | Errno::ACCESS) => {
                skip(test, "mounting is not allowed here");
                None
            }
            Err(error) => panic!("mount on {}: {error}", dir.display()),
        }
    }

    /// Leaves room for nothing: no byte and no file.
    ///
    /// # Panics
    /// When something else than room is missing.
    pub fn fill(&self) {
        let full = |error: &std::io::Error| error.kind() == ErrorKind::StorageFull;
        let mut filler = fs::File::options().append(true).create(true).open(self.dir.join("filler")).expect("a filler");
        while match filler.write(&[0; 4096]) {
            Ok(_) => true,
            Err(error) if full(&error) => false,
            Err(error) => panic!("{error}"),
        } {}
        for number in 0.. {
            match fs::File::create(self.dir.join(format!("filler-{number}"))) {
                Ok(_) => {}
                Err(error) if full(&error) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Gives all of it back.
    ///
    /// # Panics
    /// When a filler cannot be removed.
    pub fn make_room(&self) {
        for entry in fs::read_dir(&self.dir).expect("it").flatten() {
            if entry.file_name().to_string_lossy().starts_with("filler") {
                fs::remove_file(entry.path()).expect("a filler");
            }
        }
    }

    /// The files that are not there to fill it.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.dir).expect("it").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with("filler")).collect();
        names.sort();
        names
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.dir, UnmountFlags::DETACH) {
            eprintln!("unmount {}: {error}", self.dir.display());
        }
    }
}
