//! Persistent definitions: one libvirt XML file a guest, and a link in `autostart/` for those that start with the host.
//!
//! In memory there is a summary of each; the document itself is read when it is asked for. A file is written under another
//! name, synchronised, renamed, and its directory synchronised, so after a power cut there is the old document or the new
//! one. A file that cannot be read is reported and left alone, and its name is not given to another guest.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

use model::{Domain, DumpOptions};
use qemud::chain;
use thiserror::Error;
use uuid::Uuid;

/// What a guest calls a disk, and where the disk's image is; a drive may be empty.
pub type DiskPlace = (String, Option<String>);

/// What control knows of a definition without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The guest's name, and its file's.
    pub name: String,
    /// The guest.
    pub uuid: Uuid,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Those that it starts with.
    pub vcpus_online: u32,
    /// Memory.
    pub memory_kib: u64,
    /// What it is to keep of it.
    pub current_memory_kib: u64,
    /// Its disks: what the guest calls each, and the image's path. A list of statistics reads no file for them.
    pub disks: Box<[DiskPlace]>,
    /// It starts with the host.
    pub autostart: bool,
}

/// Why a definition cannot be read, written or removed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A file or directory operation failed.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The document is not one.
    #[error("{} is not a domain document", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        #[source]
        source: model::XmlError,
    },
    /// The file tells of another guest than its name says.
    #[error("{} describes the domain '{found}'", path.display())]
    OtherName {
        /// The file.
        path: PathBuf,
        /// The name in it.
        found: String,
    },
    /// The document has no UUID.
    #[error("{} has no UUID", path.display())]
    NoUuid {
        /// The file.
        path: PathBuf,
    },
    /// The document is longer than any that is accepted.
    #[error("{} has {bytes} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The name belongs to a file that cannot be read; writing would destroy it.
    #[error("{} exists and cannot be read as a definition", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
}

/// The definitions of one instance.
pub struct Definitions {
    dir: PathBuf,
    by_uuid: HashMap<Uuid, Summary>,
    by_name: BTreeMap<String, Uuid>,
    broken: Vec<PathBuf>,
}

impl Definitions {
    /// Reads every definition, on all CPUs. What cannot be read is reported and kept out.
    ///
    /// # Errors
    /// When the directory itself cannot be read.
    pub fn load(dir: &Path) -> Result<Definitions, StoreError> {
        let failed = |source| StoreError::Io { step: "read", path: dir.to_path_buf(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "xml") {
                paths.push(path);
            }
        }
        let mut store = Definitions {
            dir: dir.to_path_buf(),
            by_uuid: HashMap::new(),
            by_name: BTreeMap::new(),
            broken: Vec::new(),
        };
        for (path, read) in read_all(&paths) {
            match read {
                Ok(summary) => store.insert_loaded(path, summary),
                Err(error) => {
                    tracing::error!("definition skipped: {}", chain(&error));
                    store.broken.push(path);
                }
            }
        }
        store.load_autostart();
        Ok(store)
    }

    fn insert_loaded(&mut self, path: PathBuf, summary: Summary) {
        if let Some(other) = self.by_uuid.get(&summary.uuid) {
            tracing::error!(
                "definition skipped: {} has the UUID of '{}' ({})",
                path.display(),
                other.name,
                summary.uuid
            );
            self.broken.push(path);
            return;
        }
        self.by_name.insert(summary.name.clone(), summary.uuid);
        self.by_uuid.insert(summary.uuid, summary);
    }

    fn load_autostart(&mut self) {
        let Ok(entries) = fs::read_dir(self.autostart_dir()) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            match self.by_name.get(name).and_then(|uuid| self.by_uuid.get_mut(uuid)) {
                Some(summary) => summary.autostart = true,
                None => tracing::warn!("{} belongs to no definition", path.display()),
            }
        }
    }

    /// Every definition, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Summary> {
        self.by_name.values().filter_map(|uuid| self.by_uuid.get(uuid))
    }

    /// A definition by UUID.
    #[must_use]
    pub fn by_uuid(&self, uuid: &Uuid) -> Option<&Summary> {
        self.by_uuid.get(uuid)
    }

    /// A definition by name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Summary> {
        self.by_uuid.get(self.by_name.get(name)?)
    }

    /// Reads a definition's document.
    ///
    /// # Errors
    /// When the file is gone or damaged.
    pub fn read(&self, summary: &Summary) -> Result<Domain, StoreError> {
        read(&self.path(&summary.name)).map(|(domain, _)| domain)
    }

    /// Writes a definition, new or in place of the one with the same name and UUID.
    ///
    /// # Errors
    /// When the disk does not take it; what was there before is still there then.
    pub fn write(&mut self, domain: &Domain, uuid: Uuid) -> Result<(), StoreError> {
        let path = self.path(&domain.name);
        if self.broken.contains(&path) {
            return Err(StoreError::Broken { path });
        }
        replace(&self.dir, &path, domain.to_xml(&DumpOptions::stored()).as_bytes())?;
        let mut summary = summarise(domain, uuid);
        summary.autostart = self.by_uuid.get(&uuid).is_some_and(|before| before.autostart);
        self.by_name.insert(summary.name.clone(), uuid);
        self.by_uuid.insert(uuid, summary);
        Ok(())
    }

    /// Removes a definition and its autostart link.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove(&mut self, summary: &Summary) -> Result<(), StoreError> {
        let link = self.autostart_link(&summary.name);
        remove_if_there(&link)?;
        remove_if_there(&self.path(&summary.name))?;
        sync_dir(&self.dir)?;
        self.by_name.remove(&summary.name);
        self.by_uuid.remove(&summary.uuid);
        Ok(())
    }

    /// Gives a definition another name. Between the steps there are two files of one guest, of which a later daemon takes
    /// one and reports the other; there is never none.
    ///
    /// # Errors
    /// When the disk does not take it; the definition has its old name then.
    pub fn rename(&mut self, summary: &Summary, name: &str) -> Result<(), StoreError> {
        let mut domain = self.read(summary)?;
        domain.name = name.to_owned();
        let (old, new) = (self.path(&summary.name), self.path(name));
        if self.broken.contains(&new) {
            return Err(StoreError::Broken { path: new });
        }
        replace(&self.dir, &new, domain.to_xml(&DumpOptions::stored()).as_bytes())?;
        if summary.autostart {
            self.link_autostart(name)?;
        }
        remove_if_there(&self.autostart_link(&summary.name))?;
        remove_if_there(&old)?;
        sync_dir(&self.dir)?;
        self.by_name.remove(&summary.name);
        self.by_name.insert(name.to_owned(), summary.uuid);
        if let Some(known) = self.by_uuid.get_mut(&summary.uuid) {
            known.name = name.to_owned();
        }
        Ok(())
    }

    /// Lets a guest start with the host, or no longer.
    ///
    /// # Errors
    /// When the link cannot be made or removed.
    pub fn set_autostart(&mut self, uuid: &Uuid, autostart: bool) -> Result<(), StoreError> {
        let Some(name) = self.by_uuid.get(uuid).map(|summary| summary.name.clone()) else { return Ok(()) };
        if autostart {
            self.link_autostart(&name)?;
        } else {
            remove_if_there(&self.autostart_link(&name))?;
        }
        if let Some(summary) = self.by_uuid.get_mut(uuid) {
            summary.autostart = autostart;
        }
        Ok(())
    }

    fn link_autostart(&self, name: &str) -> Result<(), StoreError> {
        let (dir, link) = (self.autostart_dir(), self.autostart_link(name));
        fs::create_dir_all(&dir).map_err(|source| StoreError::Io { step: "make", path: dir.clone(), source })?;
        match symlink(Path::new("..").join(file_name(name)), &link) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                Err(StoreError::Io { step: "make", path: link, source })
            }
            _ => sync_dir(&dir),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(file_name(name))
    }

    fn autostart_dir(&self) -> PathBuf {
        self.dir.join("autostart")
    }

    fn autostart_link(&self, name: &str) -> PathBuf {
        self.autostart_dir().join(file_name(name))
    }
}

/// The model refuses names that are no file names, so this needs no escaping.
fn file_name(name: &str) -> String {
    format!("{name}.xml")
}

fn summarise(domain: &Domain, uuid: Uuid) -> Summary {
    Summary {
        name: domain.name.clone(),
        uuid,
        vcpus: domain.vcpus.max,
        vcpus_online: domain.vcpus.online(),
        memory_kib: domain.memory_kib,
        current_memory_kib: domain.current_memory_kib,
        disks: disks(domain),
        autostart: false,
    }
}

/// What each disk of a document is called, and where its image is.
#[must_use]
pub fn disks(domain: &Domain) -> Box<[DiskPlace]> {
    let named = |disk: &model::Disk| (disk.target.dev.clone(), disk.source_path().map(str::to_owned));
    domain.devices.disks.iter().map(named).collect()
}

fn read_all(paths: &[PathBuf]) -> Vec<(PathBuf, Result<Summary, StoreError>)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = paths.len().div_ceil(threads).max(1);
    let read_share = |share: &[PathBuf]| {
        share.iter().map(|path| (path.clone(), read(path).map(|(domain, uuid)| summarise(&domain, uuid)))).collect()
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = paths.chunks(share).map(|share| scope.spawn(move || read_share(share))).collect();
        // A worker cannot panic on any file's content; if it did, its share is missing and the log says why.
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|_: Box<dyn std::any::Any + Send>| Vec::new()))
            .collect()
    })
}

fn read(path: &Path) -> Result<(Domain, Uuid), StoreError> {
    let failed = |source| StoreError::Io { step: "read", path: path.to_path_buf(), source };
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > model::limits::MAX_BYTES as u64 {
        return Err(StoreError::TooLong { path: path.to_path_buf(), bytes });
    }
    let text = io::read_to_string(file).map_err(failed)?;
    let parsed = Domain::parse(&text).map_err(|source| StoreError::Document { path: path.to_path_buf(), source })?;
    let domain = parsed.value;
    if path.file_name().is_none_or(|name| name != file_name(&domain.name).as_str()) {
        return Err(StoreError::OtherName { path: path.to_path_buf(), found: domain.name });
    }
    let Some(uuid) = domain.uuid else { return Err(StoreError::NoUuid { path: path.to_path_buf() }) };
    Ok((domain, uuid))
}

fn replace(dir: &Path, path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let temporary = path.with_extension("xml.new");
    let at = |step, path: &Path| {
        let path = path.to_path_buf();
        move |source| StoreError::Io { step, path, source }
    };
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()
    };
    if let Err(source) = write() {
        // Nothing of a failed write stays behind; if even that fails, the next write truncates it.
        let _ = fs::remove_file(&temporary);
        return Err(StoreError::Io { step: "write", path: temporary, source });
    }
    fs::rename(&temporary, path).map_err(at("replace", path))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| StoreError::Io {
        step: "synchronise",
        path: dir.to_path_buf(),
        source,
    })
}

fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::Io { step: "remove", path: path.to_path_buf(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str, uuid: Uuid) -> Domain {
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>\
             <vcpu>2</vcpu><os><type arch='x86_64'>hvm</type></os></domain>"
        );
        Domain::parse(&xml).unwrap().value
    }

    fn store() -> (tempfile::TempDir, Definitions) {
        let dir = tempfile::tempdir().unwrap();
        let store = Definitions::load(dir.path()).unwrap();
        (dir, store)
    }

    fn names(store: &Definitions) -> Vec<&str> {
        store.iter().map(|s| s.name.as_str()).collect()
    }

    #[test]
    fn what_is_written_is_there_after_a_restart() {
        let (dir, mut store) = store();
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        store.write(&domain("b", b), b).unwrap();
        store.write(&domain("a", a), a).unwrap();
        store.set_autostart(&a, true).unwrap();
        let store = Definitions::load(dir.path()).unwrap();
        assert_eq!(names(&store), ["a", "b"]);
        let summary = store.by_name("a").unwrap();
        assert_eq!((summary.uuid, summary.vcpus, summary.memory_kib, summary.autostart), (a, 2, 65536, true));
        assert!(!store.by_uuid(&b).unwrap().autostart);
        assert_eq!(store.read(summary).unwrap(), domain("a", a));
    }

    #[test]
    fn a_removed_definition_leaves_nothing() {
        let (dir, mut store) = store();
        let a = Uuid::from_u128(1);
        store.write(&domain("a", a), a).unwrap();
        store.set_autostart(&a, true).unwrap();
        let summary = store.by_name("a").unwrap().clone();
        store.remove(&summary).unwrap();
        assert!(store.by_uuid(&a).is_none());
        assert!(!dir.path().join("a.xml").exists());
        assert!(dir.path().join("autostart/a.xml").symlink_metadata().is_err());
    }

    #[test]
    fn a_renamed_definition_is_the_same_one() {
        let (dir, mut store) = store();
        let a = Uuid::from_u128(1);
        store.write(&domain("a", a), a).unwrap();
        store.set_autostart(&a, true).unwrap();
        let summary = store.by_name("a").unwrap().clone();
        store.rename(&summary, "b").unwrap();
        for store in [store, Definitions::load(dir.path()).unwrap()] {
            assert_eq!(names(&store), ["b"]);
            let summary = store.by_uuid(&a).unwrap();
            assert_eq!((summary.name.as_str(), summary.autostart), ("b", true));
            assert_eq!(store.read(summary).unwrap(), domain("b", a));
        }
        assert!(!dir.path().join("a.xml").exists());
        assert!(dir.path().join("autostart/a.xml").symlink_metadata().is_err());
    }

    #[test]
    fn a_broken_file_is_skipped_kept_and_not_overwritten() {
        let (dir, mut store) = store();
        let a = Uuid::from_u128(1);
        store.write(&domain("good", a), a).unwrap();
        fs::write(dir.path().join("bad.xml"), "<domain").unwrap();
        fs::write(dir.path().join("other.xml"), fs::read(dir.path().join("good.xml")).unwrap()).unwrap();
        let mut store = Definitions::load(dir.path()).unwrap();
        assert_eq!(names(&store), ["good"]);
        let b = Uuid::from_u128(2);
        assert!(matches!(store.write(&domain("bad", b), b), Err(StoreError::Broken { .. })));
        assert_eq!(fs::read(dir.path().join("bad.xml")).unwrap(), b"<domain");
    }

    #[test]
    fn a_failed_write_keeps_the_old_document() {
        let (dir, mut store) = store();
        let a = Uuid::from_u128(1);
        store.write(&domain("a", a), a).unwrap();
        // A directory where the temporary file should go makes the write fail, whoever runs the test.
        fs::create_dir(dir.path().join("a.xml.new")).unwrap();
        let mut changed = domain("a", a);
        changed.memory_kib = 1;
        assert!(matches!(store.write(&changed, a), Err(StoreError::Io { step: "write", .. })));
        assert_eq!(store.by_name("a").unwrap().memory_kib, 65536);
        assert_eq!(Definitions::load(dir.path()).unwrap().by_name("a").unwrap().memory_kib, 65536);
    }
}
