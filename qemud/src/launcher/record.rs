//! The launcher's record of a run: who has what. It is written before the run is let go, and removed when the run's last
//! process is gone.
//!
//! Launchers of other releases read it too. So it carries its version, a reader passes over what it does not know, and what
//! is missing or unreadable is unknown, never absent.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::edge::{DiskId, Purpose};

const FILE: &str = "record";
/// The version of what is written here. Version 1 had neither this number, nor boot, purpose and disks.
const VERSION: u32 = 2;
/// A record is a few short fields and a guest's disks.
const MAX_BYTES: u64 = 1 << 20;

/// What is written down of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    version: u32,
    /// The boot of the host in which the run was made: a run of another one is gone. Absent if the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// What it is for.
    pub purpose: Purpose,
    /// The guest.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its uid, if it has one of its own.
    pub uid: Option<u32>,
    /// The supervisor's process.
    pub pid: u32,
    /// When that process started, in the kernel's ticks since boot. Absent where `/proc` hides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<u64>,
    /// The disks that it has.
    pub disks: Vec<DiskId>,
}

impl Record {
    /// The record of a run that is made now.
    #[must_use]
    pub fn new(purpose: Purpose, uuid: Uuid, name: &str, uid: Option<u32>, pid: u32, disks: &[DiskId]) -> Record {
        let start_time = i32::try_from(pid).ok().and_then(|pid| sandbox::process_start_time(pid).ok());
        Record {
            version: VERSION,
            boot: boot_id(),
            purpose,
            uuid,
            name: name.to_owned(),
            uid,
            pid,
            start_time,
            disks: disks.to_vec(),
        }
    }

    /// Writes it into a run's directory, in one step.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let temporary = dir.join("record.new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&text)?;
        // No fsync: the directory does not survive a reboot of the host, and neither does the guest.
        fs::rename(temporary, dir.join(FILE))
    }
}

/// What can be read of a record, field by field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// See [`Record`].
    pub boot: Option<String>,
    /// See [`Record`].
    pub purpose: Purpose,
    /// See [`Record`].
    pub uuid: Option<Uuid>,
    /// See [`Record`].
    pub name: Option<String>,
    /// See [`Record`].
    pub uid: Option<u32>,
    /// See [`Record`].
    pub pid: Option<i32>,
    /// See [`Record`].
    pub start_time: Option<u64>,
    /// See [`Record`].
    pub disks: Vec<DiskId>,
}

/// Reads what there is of a record.
///
/// # Errors
/// When the file cannot be read, or is no record at all.
pub fn read(dir: &Path) -> io::Result<Known> {
    let path = dir.join(FILE);
    if fs::metadata(&path)?.len() > MAX_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let Value::Object(fields) = serde_json::from_slice(&fs::read(path)?)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    Ok(Known {
        // Once written for "unknown": nothing, and the tick in which no process started.
        boot: field(&fields, "boot").filter(|boot: &String| !boot.is_empty()),
        purpose: field(&fields, "purpose").unwrap_or_default(),
        uuid: field(&fields, "uuid"),
        name: field(&fields, "name"),
        uid: field(&fields, "uid"),
        pid: field(&fields, "pid").filter(|pid| *pid > 0),
        start_time: field(&fields, "start_time").filter(|time| *time > 0),
        disks: field(&fields, "disks").unwrap_or_default(),
    })
}

fn field<T: DeserializeOwned>(fields: &serde_json::Map<String, Value>, name: &str) -> Option<T> {
    serde_json::from_value(fields.get(name)?.clone()).ok()
}

/// Which boot of the host this is; none if the kernel does not tell.
#[must_use]
pub fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, io::Result<Known>) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), text).unwrap();
        let known = read(dir.path());
        (dir, known)
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let disk = DiskId {
            device: 1,
            inode: 2,
            writable: true,
            shareable: false,
            what: "disk vda".into(),
            path: "/d".into(),
        };
        let own = std::process::id();
        let record = Record::new(Purpose::Guest, Uuid::from_u128(7), "a", Some(9), own, std::slice::from_ref(&disk));
        record.write(dir.path()).unwrap();
        let known = read(dir.path()).unwrap();
        assert_eq!((known.uuid, known.name.as_deref()), (Some(Uuid::from_u128(7)), Some("a")));
        assert_eq!((known.uid, known.pid, known.disks), (Some(9), i32::try_from(own).ok(), vec![disk]));
        assert_eq!((known.boot, known.start_time), (boot_id(), record.start_time));
        assert!(record.start_time.is_some_and(|time| time > 0));
    }

    #[test]
    fn what_could_not_be_found_out_is_unknown() {
        let (_dir, known) = written(r#"{"version":2,"boot":"","name":"a","pid":12,"start_time":0}"#);
        let wanted = Known { name: Some("a".into()), pid: Some(12), ..Known::default() };
        assert_eq!(known.unwrap(), wanted);
        let nobody = Record::new(Purpose::Guest, Uuid::from_u128(7), "a", None, u32::MAX, &[]);
        let (_dir, known) = written(&serde_json::to_string(&nobody).unwrap());
        assert_eq!(known.unwrap().start_time, None);
    }

    #[test]
    fn a_record_of_the_first_release_is_read() {
        let uuid = Uuid::from_u128(1);
        let (_dir, known) = written(&format!(r#"{{"uuid":"{uuid}","name":"a","uid":null,"pid":12,"start_time":34}}"#));
        let wanted =
            Known { uuid: Some(uuid), name: Some("a".into()), pid: Some(12), start_time: Some(34), ..Known::default() };
        assert_eq!(known.unwrap(), wanted);
    }

    #[test]
    fn fields_of_another_release_cost_only_themselves() {
        let (_dir, known) = written(r#"{"version":9,"identity":"x","name":"a","pid":"twelve","new":[1],"uid":5}"#);
        assert_eq!(known.unwrap(), Known { name: Some("a".into()), uid: Some(5), ..Known::default() });
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        for text in ["", "[]", "{", "null", "{\"pid\":1"] {
            assert!(written(text).1.is_err(), "{text}");
        }
        assert_eq!(read(Path::new("/nowhere")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
