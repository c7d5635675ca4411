//! The journal: every lifecycle event of every guest under one sequence number.
//!
//! It is what lets a client ask "what have I missed?". It is a file of JSON lines in the run-time directory, so it survives
//! qemud's death but not the host's reboot, like the guests it tells of. An event that came from a supervisor carries the
//! run and its number there: after a restart control knows from the journal which events of each run it has seen, and asks
//! the supervisors, or the logs of those that died, for the rest.
//!
//! A full disk costs the file's newest lines, never a guest: the events are still in memory and still go to the clients.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Events that are kept for those who ask.
const KEPT: usize = 8192;
/// A journal file longer than this is written anew from what is kept.
const COMPACT_AT: u64 = 8 << 20;
/// No line is longer; what is, is no event.
const MAX_LINE: u64 = 64 << 10;

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts every event of this host since it was booted.
    pub sequence: u64,
    /// The guest.
    pub uuid: Uuid,
    /// Its name then.
    pub name: String,
    /// Its run, if it was running.
    pub id: Option<u32>,
    /// The number that the run's supervisor gave to the event; none when the event is control's own.
    pub run_sequence: Option<u64>,
    /// libvirt's lifecycle event.
    pub event: i32,
    /// libvirt's detail.
    pub detail: i32,
    /// When, in seconds since the epoch.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanos: u32,
    /// More, for people.
    pub text: Option<String>,
}

/// The journal of one instance.
pub struct Journal {
    path: PathBuf,
    /// None once the file cannot be written; tried again at each event.
    file: Option<File>,
    length: u64,
    entries: VecDeque<Entry>,
    next: u64,
    /// The file ends within a line: a write was cut off.
    torn: bool,
    /// The last write failed, and the log says so already.
    failing: bool,
    /// The last number that each run's supervisor gave to an event that is here.
    seen: HashMap<u32, u64>,
    highest_run: u32,
}

impl Journal {
    /// Opens the journal and reads what is kept of it. Lines that are no event, a torn last one for example, are skipped.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn open(path: &Path) -> io::Result<Journal> {
        let mut journal = Journal {
            path: path.to_path_buf(),
            file: None,
            length: 0,
            entries: VecDeque::new(),
            next: 1,
            torn: false,
            failing: false,
            seen: HashMap::new(),
            highest_run: 0,
        };
        match File::open(path) {
            Ok(file) => journal.read(BufReader::new(file))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(journal)
    }

    fn read(&mut self, mut input: impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut input).take(MAX_LINE).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(());
            }
            self.length += u64::try_from(read).unwrap_or_default();
            self.torn = !line.ends_with(b"\n");
            match serde_json::from_slice::<Entry>(&line) {
                Ok(entry) if entry.sequence >= self.next => self.remember(entry),
                _ if line == b"\n" => {}
                _ => log::warn!("{}: a line is no event; skipped", self.path.display()),
            }
        }
    }

    fn remember(&mut self, entry: Entry) {
        self.next = entry.sequence + 1;
        if let Some(id) = entry.id {
            self.highest_run = self.highest_run.max(id);
            if let Some(sequence) = entry.run_sequence {
                self.seen.insert(id, sequence);
            }
        }
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// The number of the next event.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// The last event of a run's supervisor that is here; 0 before the first.
    #[must_use]
    pub fn seen(&self, id: u32) -> u64 {
        self.seen.get(&id).copied().unwrap_or_default()
    }

    /// The highest run that any event tells of.
    #[must_use]
    pub fn highest_run(&self) -> u32 {
        self.highest_run
    }

    /// Forgets the numbers of a run that is over and retired.
    pub fn retire(&mut self, id: u32) {
        self.seen.remove(&id);
    }

    /// The kept events after `since`, and whether some after it are no longer kept.
    pub fn after(&self, since: u64) -> (bool, impl Iterator<Item = &Entry>) {
        let oldest = self.entries.front().map_or(self.next, |entry| entry.sequence);
        // A number from before the host's reboot is ahead of this journal: everything may have been missed.
        let lost = since.saturating_add(1) < oldest || since >= self.next;
        let since = if since >= self.next { 0 } else { since };
        (lost, self.entries.iter().filter(move |entry| entry.sequence > since))
    }

    /// Numbers an event and adds it, to the file first.
    pub fn add(&mut self, mut entry: Entry) -> Entry {
        entry.sequence = self.next;
        match self.write(&entry) {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !self.failing {
                    log::error!(
                        "the journal {} cannot be written: {error}; events go on without it",
                        self.path.display()
                    );
                }
                self.failing = true;
                self.file = None;
            }
        }
        self.remember(entry.clone());
        entry
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = if self.torn { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut line, entry)?;
        line.push(b'\n');
        if self.length > COMPACT_AT {
            self.compact()?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?),
        };
        // Until the whole line is written, a failure leaves a torn one.
        self.torn = true;
        file.write_all(&line)?;
        self.torn = false;
        self.length += u64::try_from(line.len()).unwrap_or_default();
        Ok(())
    }

    fn compact(&mut self) -> io::Result<()> {
        let temporary = self.path.with_extension("new");
        let mut text = Vec::new();
        for entry in &self.entries {
            serde_json::to_writer(&mut text, entry)?;
            text.push(b'\n');
        }
        fs::write(&temporary, &text)?;
        fs::rename(&temporary, &self.path)?;
        self.file = None;
        self.torn = false;
        self.length = u64::try_from(text.len()).unwrap_or_default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u32, run_sequence: u64) -> Entry {
        Entry {
            sequence: 0,
            uuid: Uuid::nil(),
            name: "a".into(),
            id: Some(id),
            run_sequence: Some(run_sequence),
            event: 2,
            detail: 0,
            seconds: 5,
            nanos: 6,
            text: None,
        }
    }

    #[test]
    fn numbers_go_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.add(entry(3, 1)).sequence, 1);
        assert_eq!(journal.add(entry(3, 2)).sequence, 2);
        drop(journal);
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!((journal.next_sequence(), journal.seen(3), journal.seen(4), journal.highest_run()), (3, 2, 0, 3));
        assert_eq!(journal.add(entry(4, 1)).sequence, 3);
        let (lost, after) = journal.after(1);
        assert_eq!((lost, after.map(|e| e.sequence).collect::<Vec<_>>()), (false, vec![2, 3]));
    }

    #[test]
    fn a_torn_line_is_skipped_and_the_next_event_starts_a_line_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        Journal::open(&path).unwrap().add(entry(1, 1));
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"sequence\":2,\"uu").unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.next_sequence(), 2);
        journal.add(entry(1, 2));
        assert_eq!(Journal::open(&path).unwrap().seen(1), 2, "the event behind the torn line is readable");
    }

    #[test]
    fn a_number_from_another_boot_means_that_events_were_lost() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&dir.path().join("events")).unwrap();
        journal.add(entry(1, 1));
        assert!(journal.after(7).0);
        assert_eq!(journal.after(7).1.count(), 1);
        assert!(!journal.after(0).0);
    }

    #[test]
    fn a_disk_that_cannot_be_written_loses_no_event_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&dir.path().join("no/such/dir/events")).unwrap();
        assert_eq!(journal.add(entry(1, 1)).sequence, 1);
        assert_eq!(journal.after(0).1.count(), 1);
    }
}
