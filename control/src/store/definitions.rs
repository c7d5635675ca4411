//! Persistent definitions: one libvirt XML file a guest, and a link in `autostart/` for those that start with the host.
//!
//! Control's loop keeps a summary of each; the document itself is read when it is asked for, here, on the store's thread. A
//! file is written under another name, synchronised, renamed, and its directory synchronised, so after a power cut there is
//! the old document or the new one. A file that cannot be read is reported and left alone, and its name is not given to
//! another guest.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

use model::{Domain, DumpOptions};
use qemud::chain;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// The longest note of a change of name in bytes: two names and some words.
const NOTE_MAX: u64 = 4096;

/// How the name ends of the file that a document is written to before it takes its place.
const TEMPORARY: &str = ".xml.new";

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
    /// Memory, in KiB.
    pub memory_kib: u64,
    /// Memory that it keeps, in KiB: the balloon's target.
    pub current_memory_kib: u64,
    /// Its disks: what the guest calls each, and the image's path. A list of statistics reads no file for them.
    pub disks: Box<[DiskPlace]>,
    /// It asks for places of its virtual CPUs, which are not read yet.
    pub tunes_cpus: bool,
    /// It asks for limits of its memory, which are not read yet.
    pub tunes_memory: bool,
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
    /// The file's name is not that of the domain in it.
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
    /// The document is longer than [`model::limits::MAX_BYTES`].
    #[error("{} has {bytes} bytes, more than a document may have ({})", path.display(), model::limits::MAX_BYTES)]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// There is no such definition; another call has removed it.
    #[error("no definition of {uuid} is stored")]
    Gone {
        /// The guest.
        uuid: Uuid,
    },
    /// The name belongs to a file that cannot be read; writing would destroy it.
    #[error("{} exists and cannot be read as a definition", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
}

/// Why a definition is not changed.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// The store could not read or write it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The change itself was refused.
    #[error("{}", .0.message)]
    Refused(api::Error),
}

/// The definitions of one instance, as the store's thread knows them: which there are, and how each is called.
pub struct Definitions {
    dir: PathBuf,
    known: HashMap<Uuid, Known>,
    broken: Vec<PathBuf>,
}

#[derive(Clone)]
struct Known {
    name: String,
    autostart: bool,
}

/// What was found in the directory of definitions.
pub struct Loaded {
    /// For the store's thread.
    pub definitions: Definitions,
    /// Each definition by name, and whether it starts with the host.
    pub summaries: Vec<(Summary, bool)>,
}

/// A change of a name that is under way. It is noted on disk before the first step and the note removed after the last, so
/// that a daemon which finds it completes what was begun.
#[derive(Debug, Serialize, Deserialize)]
struct Renaming {
    uuid: Uuid,
    from: String,
    to: String,
    autostart: bool,
}

impl Definitions {
    /// Reads every definition, on all CPUs. What cannot be read is reported and kept out.
    ///
    /// # Errors
    /// When the directory itself cannot be read.
    pub fn load(dir: &Path) -> Result<Loaded, StoreError> {
        let mut definitions = Definitions { dir: dir.to_path_buf(), known: HashMap::new(), broken: Vec::new() };
        definitions.finish_renaming();
        let mut summaries = BTreeMap::new();
        for (path, read) in read_all(&definitions.paths()?) {
            match read {
                Ok(summary) => definitions.insert_loaded(path, summary, &mut summaries),
                Err(error) => {
                    tracing::error!("definition skipped: {}", chain(&error));
                    definitions.broken.push(path);
                }
            }
        }
        definitions.load_autostart(&summaries);
        let autostart = |uuid: &Uuid| definitions.known.get(uuid).is_some_and(|known| known.autostart);
        let summaries = summaries.into_values().map(|summary| (autostart(&summary.uuid), summary));
        let summaries = summaries.map(|(autostart, summary)| (summary, autostart)).collect();
        Ok(Loaded { definitions, summaries })
    }

    fn paths(&self) -> Result<Vec<PathBuf>, StoreError> {
        let failed = |source| StoreError::Io { step: "read", path: self.dir.clone(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "xml") {
                paths.push(path);
            } else if path.to_str().is_some_and(|path| path.ends_with(TEMPORARY)) {
                // What a daemon was killed in the middle of writing.
                remove_if_there(&path).unwrap_or_else(|error| tracing::warn!("{}", chain(&error)));
            }
        }
        Ok(paths)
    }

    fn insert_loaded(&mut self, path: PathBuf, summary: Summary, summaries: &mut BTreeMap<String, Summary>) {
        if let Some(other) = self.known.get(&summary.uuid) {
            tracing::error!(
                "definition skipped: {} has the UUID of '{}' ({})",
                path.display(),
                other.name,
                summary.uuid
            );
            self.broken.push(path);
            return;
        }
        self.known.insert(summary.uuid, Known { name: summary.name.clone(), autostart: false });
        summaries.insert(summary.name.clone(), summary);
    }

    fn load_autostart(&mut self, summaries: &BTreeMap<String, Summary>) {
        let Ok(entries) = fs::read_dir(self.autostart_dir()) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            match summaries.get(name).and_then(|summary| self.known.get_mut(&summary.uuid)) {
                Some(known) => known.autostart = true,
                None => tracing::warn!("{} belongs to no definition", path.display()),
            }
        }
    }

    /// Reads a definition's document.
    ///
    /// # Errors
    /// When the file is gone or damaged.
    pub fn read(&self, uuid: &Uuid) -> Result<Domain, StoreError> {
        read(&self.path(&self.known(uuid)?.name)).map(|(domain, _)| domain)
    }

    /// Writes a definition, new or in place of the one with the same name and UUID.
    ///
    /// # Errors
    /// When the disk does not take it; what was there before is still there then.
    pub fn write(&mut self, domain: &Domain, uuid: Uuid) -> Result<Summary, StoreError> {
        let path = self.path(&domain.name);
        if self.broken.contains(&path) {
            return Err(StoreError::Broken { path });
        }
        replace(&self.dir, &path, domain.to_xml(&DumpOptions::stored()).as_bytes())?;
        let autostart = self.known.get(&uuid).is_some_and(|known| known.autostart);
        self.known.insert(uuid, Known { name: domain.name.clone(), autostart });
        Ok(summarise(domain, uuid))
    }

    /// Reads a definition, changes it, and writes it; no other change comes between.
    ///
    /// # Errors
    /// When it cannot be read or written, or the change is refused; the old definition is there then.
    pub fn change(
        &mut self,
        uuid: &Uuid,
        change: impl FnOnce(&mut Domain) -> Result<(), api::Error>,
    ) -> Result<Summary, ChangeError> {
        let mut domain = self.read(uuid)?;
        change(&mut domain).map_err(ChangeError::Refused)?;
        Ok(self.write(&domain, *uuid)?)
    }

    /// Removes a definition and its autostart link.
    ///
    /// # Errors
    /// When a file cannot be removed; the definition is there then.
    pub fn remove(&mut self, uuid: &Uuid) -> Result<(), StoreError> {
        let Known { name, autostart } = self.known(uuid)?.clone();
        remove_if_there(&self.autostart_link(&name))?;
        if let Err(error) = remove_if_there(&self.path(&name)) {
            if autostart && let Err(again) = self.link_autostart(&name) {
                tracing::error!("'{name}' no longer starts with the host: {}", chain(&again));
            }
            return Err(error);
        }
        self.known.remove(uuid);
        // Readers find it gone already, so the caller gets no error.
        sync_dir(&self.dir).unwrap_or_else(|error| {
            tracing::warn!("'{name}' is removed, and may be back after a power cut: {}", chain(&error));
        });
        Ok(())
    }

    /// Gives a definition another name: one step, also for a daemon that is killed within it.
    ///
    /// # Errors
    /// When the disk does not take it; the definition has its old name then.
    pub fn rename(&mut self, uuid: &Uuid, name: &str) -> Result<Summary, StoreError> {
        let Known { name: from, autostart } = self.known(uuid)?.clone();
        let mut domain = self.read(uuid)?;
        name.clone_into(&mut domain.name);
        let new = self.path(name);
        if self.broken.contains(&new) {
            return Err(StoreError::Broken { path: new });
        }
        let renaming = Renaming { uuid: *uuid, from, to: name.to_owned(), autostart };
        let note = serde_json::to_vec(&renaming).unwrap_or_default();
        replace(&self.dir, &self.renaming_note(), &note)?;
        let renamed = replace(&self.dir, &new, domain.to_xml(&DumpOptions::stored()).as_bytes())
            .and_then(|()| self.complete_renaming(&renaming));
        match renamed {
            // Its old file is gone already: there is only the new name.
            Err(error) if !matches!(self.path(&renaming.from).try_exists(), Ok(true)) => {
                tracing::warn!("'{name}' may have its old name after a power cut: {}", chain(&error));
            }
            Err(error) => {
                self.undo_renaming(&renaming);
                return Err(error);
            }
            Ok(()) => {}
        }
        self.remove_note();
        self.known.insert(*uuid, Known { name: name.to_owned(), autostart });
        Ok(summarise(&domain, *uuid))
    }

    /// The steps of a change of name that come after the new file is there. Each may be done twice.
    fn complete_renaming(&self, renaming: &Renaming) -> Result<(), StoreError> {
        if renaming.autostart {
            self.link_autostart(&renaming.to)?;
        }
        remove_if_there(&self.autostart_link(&renaming.from))?;
        remove_if_there(&self.path(&renaming.from))?;
        sync_dir(&self.dir)
    }

    /// Takes the steps of a change of name back, as far as the disk lets it.
    fn undo_renaming(&self, renaming: &Renaming) {
        let link = || if renaming.autostart { self.link_autostart(&renaming.from) } else { Ok(()) };
        let undone = remove_if_there(&self.path(&renaming.to))
            .and_then(|()| remove_if_there(&self.autostart_link(&renaming.to)))
            .and_then(|()| link());
        match undone {
            Ok(()) => self.remove_note(),
            Err(error) => tracing::error!("the new name of '{}' is not taken back: {}", renaming.from, chain(&error)),
        }
    }

    /// Completes a change of name that an earlier daemon was killed in, if its new file was written.
    fn finish_renaming(&self) {
        let Ok(note) = read_bounded(&self.renaming_note(), NOTE_MAX) else { return };
        match serde_json::from_slice::<Renaming>(&note) {
            Ok(renaming) if [&renaming.from, &renaming.to].iter().all(|name| model::check_name(name).is_ok()) => {
                let written = read(&self.path(&renaming.to)).is_ok_and(|(_, uuid)| uuid == renaming.uuid);
                let old = read(&self.path(&renaming.from)).is_ok_and(|(_, uuid)| uuid == renaming.uuid);
                if written && old {
                    if let Err(error) = self.complete_renaming(&renaming) {
                        tracing::error!("'{}' is not yet called '{}': {}", renaming.from, renaming.to, chain(&error));
                        return;
                    }
                    tracing::info!("'{}' is called '{}': its change of name is complete", renaming.from, renaming.to);
                }
            }
            _ => tracing::error!("{} is no valid note of a change of name; removed", self.renaming_note().display()),
        }
        self.remove_note();
    }

    fn remove_note(&self) {
        if let Err(error) = remove_if_there(&self.renaming_note()) {
            tracing::error!("{}", chain(&error));
        }
    }

    /// Lets a guest start with the host, or no longer.
    ///
    /// # Errors
    /// When the link cannot be made or removed.
    pub fn set_autostart(&mut self, uuid: &Uuid, autostart: bool) -> Result<(), StoreError> {
        let name = self.known(uuid)?.name.clone();
        if autostart {
            self.link_autostart(&name)?;
        } else {
            remove_if_there(&self.autostart_link(&name))?;
        }
        if let Some(known) = self.known.get_mut(uuid) {
            known.autostart = autostart;
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

    fn known(&self, uuid: &Uuid) -> Result<&Known, StoreError> {
        self.known.get(uuid).ok_or(StoreError::Gone { uuid: *uuid })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(file_name(name))
    }

    fn renaming_note(&self) -> PathBuf {
        self.dir.join("renaming")
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
        tunes_cpus: domain.vcpus.cpuset.is_some() || domain.rest.element("cputune").is_some(),
        tunes_memory: domain.rest.element("memtune").is_some(),
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

/// Puts a file in the place of another, in one step. If it fails, the other is there.
fn replace(dir: &Path, path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let temporary = path.with_extension("xml.new");
    let before = fs::read(path).ok();
    write_synced(&temporary, content)?;
    if let Err(source) = fs::rename(&temporary, path) {
        let _ = fs::remove_file(&temporary);
        return Err(StoreError::Io { step: "replace", path: path.to_path_buf(), source });
    }
    sync_dir(dir).inspect_err(|_| {
        // The new content is there but may not outlive a power cut; the caller's error says that nothing was changed.
        let undone = match before {
            Some(before) => write_synced(&temporary, &before).is_ok() && fs::rename(&temporary, path).is_ok(),
            None => fs::remove_file(path).is_ok(),
        };
        if !undone {
            tracing::error!("{} has changed although its directory cannot be synchronised", path.display());
        }
    })
}

fn write_synced(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|source| {
        // Nothing of a failed write stays behind; if even that fails, the next write truncates it.
        let _ = fs::remove_file(path);
        StoreError::Io { step: "write", path: path.to_path_buf(), source }
    })
}

fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
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
        let store = Definitions::load(dir.path()).unwrap().definitions;
        (dir, store)
    }

    /// What a later daemon finds: names, and whether each starts with the host.
    fn found(dir: &tempfile::TempDir) -> Vec<(String, bool)> {
        let loaded = Definitions::load(dir.path()).unwrap();
        loaded.summaries.into_iter().map(|(summary, autostart)| (summary.name, autostart)).collect()
    }

    fn files(dir: &tempfile::TempDir) -> Vec<String> {
        let names = |dir: &Path| -> Vec<String> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| name != "autostart").collect()
        };
        let links = names(&dir.path().join("autostart")).into_iter().map(|name| format!("autostart/{name}"));
        let mut files: Vec<String> = names(dir.path()).into_iter().chain(links).collect();
        files.sort_unstable();
        files
    }

    #[test]
    fn a_definition_is_removed_or_there_whatever_fails() {
        let (dir, mut store) = store();
        let a = Uuid::from_u128(1);
        store.write(&domain("a", a), a).unwrap();
        // Nothing is left to remove, and the directory cannot be synchronised.
        let elsewhere = dir.path().with_extension("away");
        fs::rename(dir.path(), &elsewhere).unwrap();
        let removed = store.remove(&a);
        fs::rename(&elsewhere, dir.path()).unwrap();
        assert_eq!(removed.is_ok(), matches!(store.read(&a), Err(StoreError::Gone { .. })), "{removed:?}");
    }

    #[test]
    fn what_a_daemon_was_killed_in_the_middle_of_writing_is_cleared_away() {
        let (dir, mut store) = store();
        let a = Uuid::from_u128(1);
        store.write(&domain("a", a), a).unwrap();
        fs::write(dir.path().join("b.xml.new"), "<domain").unwrap();
        fs::write(dir.path().join("renaming.xml.new"), "{").unwrap();
        assert_eq!(found(&dir), [("a".into(), false)]);
        assert_eq!(files(&dir), ["a.xml"]);
    }

    #[test]
    fn what_is_written_is_there_after_a_restart() {
        let (dir, mut store) = store();
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        store.write(&domain("b", b), b).unwrap();
        let summary = store.write(&domain("a", a), a).unwrap();
        assert_eq!((summary.uuid, summary.vcpus, summary.memory_kib), (a, 2, 65536));
        store.set_autostart(&a, true).unwrap();
        assert_eq!(found(&dir), [("a".into(), true), ("b".into(), false)]);
        let loaded = Definitions::load(dir.path()).unwrap();
        assert_eq!(loaded.summaries[0].0, summary);
        assert_eq!(loaded.definitions.read(&a).unwrap(), domain("a", a));
    }

    #[test]
    fn a_removed_definition_leaves_nothing() {
        let (dir, mut store) = store();
        let a = Uuid::from_u128(1);
        store.write(&domain("a", a), a).unwrap();
        store.set_autostart(&a, true).unwrap();
        store.remove(&a).unwrap();
        assert!(matches!(store.read(&a), Err(StoreError::Gone { .. })));
        assert_eq!(files(&dir), [""; 0]);
    }

    #[test]
    fn a_renamed_definition_is_the_same_one() {
        let (dir, mut store) = store();
        let a = Uuid::from_u128(1);
        store.write(&domain("a", a), a).unwrap();
        store.set_autostart(&a, true).unwrap();
        assert_eq!(store.rename(&a, "b").unwrap().name, "b");
        for store in [store, Definitions::load(dir.path()).unwrap().definitions] {
            assert_eq!(store.read(&a).unwrap(), domain("b", a));
        }
        assert_eq!(found(&dir), [("b".into(), true)]);
        assert_eq!(files(&dir), ["autostart/b.xml", "b.xml"]);
    }

    #[test]
    fn a_change_of_name_that_is_cut_off_at_any_step_is_one_guest() {
        let a = Uuid::from_u128(1);
        let prepared = || {
            let (dir, mut store) = store();
            store.write(&domain("a", a), a).unwrap();
            store.set_autostart(&a, true).unwrap();
            let note = Renaming { uuid: a, from: "a".into(), to: "b".into(), autostart: true };
            fs::write(store.renaming_note(), serde_json::to_vec(&note).unwrap()).unwrap();
            (dir, store)
        };
        // After the note, before the new file.
        let (dir, _) = prepared();
        assert_eq!(
            (found(&dir), files(&dir)),
            (vec![("a".into(), true)], vec!["a.xml".into(), "autostart/a.xml".into()])
        );
        // After each of the later steps.
        for steps in 1..=4 {
            let (dir, store) = prepared();
            fs::write(dir.path().join("b.xml"), domain("b", a).to_xml(&DumpOptions::stored())).unwrap();
            if steps >= 2 {
                store.link_autostart("b").unwrap();
            }
            if steps >= 3 {
                fs::remove_file(store.autostart_link("a")).unwrap();
            }
            if steps >= 4 {
                fs::remove_file(store.path("a")).unwrap();
            }
            assert_eq!(found(&dir), [("b".into(), true)], "after step {steps}");
            assert_eq!(files(&dir), ["autostart/b.xml", "b.xml"], "after step {steps}");
        }
    }

    #[test]
    fn a_change_of_name_that_fails_is_taken_back() {
        let (dir, mut store) = store();
        let a = Uuid::from_u128(1);
        store.write(&domain("a", a), a).unwrap();
        store.set_autostart(&a, true).unwrap();
        // A directory in the place of the link that is to go, so that the step after the new file fails.
        fs::remove_file(store.autostart_link("a")).unwrap();
        fs::create_dir(store.autostart_link("a")).unwrap();
        assert!(matches!(store.rename(&a, "b"), Err(StoreError::Io { step: "remove", .. })));
        assert_eq!(store.read(&a).unwrap(), domain("a", a));
        assert_eq!(files(&dir), ["a.xml", "autostart/a.xml"]);
    }

    #[test]
    fn a_note_that_tells_of_nothing_is_removed() {
        let (dir, mut store) = store();
        let a = Uuid::from_u128(1);
        store.write(&domain("a", a), a).unwrap();
        for note in [r"{", r#"{"uuid":"00000000-0000-0000-0000-000000000001","from":"../a","to":"a","autostart":true}"#]
        {
            fs::write(store.renaming_note(), note).unwrap();
            assert_eq!((found(&dir), files(&dir)), (vec![("a".into(), false)], vec!["a.xml".to_owned()]));
        }
    }

    #[test]
    fn a_broken_file_is_skipped_kept_and_not_overwritten() {
        let (dir, mut store) = store();
        let a = Uuid::from_u128(1);
        store.write(&domain("good", a), a).unwrap();
        fs::write(dir.path().join("bad.xml"), "<domain").unwrap();
        fs::write(dir.path().join("other.xml"), fs::read(dir.path().join("good.xml")).unwrap()).unwrap();
        assert_eq!(found(&dir), [("good".into(), false)]);
        let mut store = Definitions::load(dir.path()).unwrap().definitions;
        let b = Uuid::from_u128(2);
        assert!(matches!(store.write(&domain("bad", b), b), Err(StoreError::Broken { .. })));
        assert_eq!(fs::read(dir.path().join("bad.xml")).unwrap(), b"<domain");
    }

    #[test]
    fn a_failed_write_keeps_the_old_document() {
        let (dir, mut store) = store();
        let a = Uuid::from_u128(1);
        store.write(&domain("a", a), a).unwrap();
        // A directory where the temporary file should go makes the write fail, for root too.
        fs::create_dir(dir.path().join("a.xml.new")).unwrap();
        let change = |domain: &mut Domain| {
            domain.memory_kib = 1;
            Ok(())
        };
        assert!(matches!(store.change(&a, change), Err(ChangeError::Store(StoreError::Io { step: "write", .. }))));
        assert_eq!(store.read(&a).unwrap().memory_kib, 65536);
        assert_eq!(Definitions::load(dir.path()).unwrap().summaries[0].0.memory_kib, 65536);
    }
}
