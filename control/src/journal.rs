//! The journal: every event of every guest under one sequence number, changes of its life and notices of anything else.
//!
//! It is what lets a client ask "what have I missed?". It is a file of JSON lines in the run-time directory, so it survives
//! qemud's death but not the host's reboot, like the guests it tells of. An event that came from a supervisor carries the
//! run and its number there: after a restart control knows from the journal which events of each run it has seen, and asks
//! the supervisors, or the logs of those that died, for the rest.
//!
//! A guest can cause notices without end. So they are kept apart from the changes of lives, for each guest apart from the
//! others: whoever makes much happen pushes out what happened to it before, and nothing else.
//!
//! The numbers of a journal begin with the second in which it was begun, so that one from before the host's reboot is never
//! taken for one of this journal's, however much has happened since.
//!
//! A full disk costs the file's newest lines, never a guest: the events are still in memory and still go to the clients.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use api::{consts::LifecycleEvent, notice::Parts};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Changes of lives that are kept for those who ask.
const KEPT: usize = 8192;
/// Notices that are kept, of one guest and of all: as many as a guest may cause at once ([`super::guests::NOTICES`]).
const NOTICES_KEPT: (usize, usize) = (512, 8192);
/// A journal file longer than this is written anew from what is kept.
const COMPACT_AT: u64 = 8 << 20;
/// So many numbers a second has. With it they stay below 2^53, which every reader of JSON can count to.
const NUMBERS_A_SECOND: u64 = 1_000_000;
/// No line is longer; what is, is no event.
const MAX_LINE: u64 = 64 << 10;

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts every event of this host since it was booted, from the second on in which that began.
    pub sequence: u64,
    /// The guest.
    pub uuid: Uuid,
    /// Its name then.
    pub name: String,
    /// Its run, if it was running.
    pub id: Option<u32>,
    /// The number that the run's supervisor gave to the event; none when the event is control's own.
    pub run_sequence: Option<u64>,
    /// libvirt's lifecycle event; [`NO_LIFECYCLE`] when it is something else.
    pub event: i32,
    /// libvirt's detail.
    pub detail: i32,
    /// When, in seconds since the epoch.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanos: u32,
    /// More, for people.
    pub text: Option<String>,
    /// What it is when it is no change of the guest's life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<Parts>,
}

/// The lifecycle event of an entry that is none. A daemon of an earlier release reads such an entry as an event without a
/// name, and goes on with the right number.
pub const NO_LIFECYCLE: i32 = -1;

/// The journal of one instance.
pub struct Journal {
    path: PathBuf,
    /// None once the file cannot be written; tried again at each event.
    file: Option<File>,
    length: u64,
    /// Beyond this length the file is written anew.
    compact_at: u64,
    entries: BTreeMap<u64, Entry>,
    /// The numbers of those that are changes of lives, oldest first.
    lives: VecDeque<u64>,
    /// The numbers of the others, oldest first.
    notices: HashMap<Uuid, VecDeque<u64>>,
    notices_kept: usize,
    /// The number of this journal's first event.
    first: u64,
    /// The highest number of those that are no longer here.
    gone: u64,
    next: u64,
    /// The file ends within a line: a write was cut off.
    torn: bool,
    /// The last write failed, and the log says so already.
    failing: bool,
    /// The last number that each run's supervisor gave to an event that is here.
    seen: HashMap<u32, u64>,
    /// Runs whose stop is here.
    stopped: HashSet<u32>,
}

impl Journal {
    /// Opens the journal and reads what is kept of it. Lines that are no event, a torn last one for example, are skipped.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn open(path: &Path) -> io::Result<Journal> {
        // A clock before 1970 is one that says nothing.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Journal::begin(path, now.saturating_mul(NUMBERS_A_SECOND).saturating_add(1))
    }

    /// As [`Journal::open`], with this number for the first event if there is none yet.
    fn begin(path: &Path, first: u64) -> io::Result<Journal> {
        let mut journal = Journal {
            path: path.to_path_buf(),
            file: None,
            length: 0,
            compact_at: COMPACT_AT,
            entries: BTreeMap::new(),
            lives: VecDeque::new(),
            notices: HashMap::new(),
            notices_kept: 0,
            first,
            gone: first.saturating_sub(1),
            next: first,
            torn: false,
            failing: false,
            seen: HashMap::new(),
            stopped: HashSet::new(),
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
        let mut empty = true;
        loop {
            line.clear();
            let read = (&mut input).take(MAX_LINE).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(());
            }
            self.length += u64::try_from(read).unwrap_or_default();
            self.torn = !line.ends_with(b"\n");
            match serde_json::from_slice::<Entry>(&line) {
                Ok(entry) if empty || entry.sequence >= self.next => {
                    if std::mem::take(&mut empty) {
                        self.first = entry.sequence / NUMBERS_A_SECOND * NUMBERS_A_SECOND + 1;
                        self.next = self.first;
                        self.gone = self.first - 1;
                    }
                    self.remember(entry);
                }
                _ if line == b"\n" => {}
                _ => tracing::warn!("{}: a line is no event; skipped", self.path.display()),
            }
        }
    }

    fn remember(&mut self, entry: Entry) {
        if entry.sequence > self.next {
            self.gone = entry.sequence - 1;
        }
        self.next = entry.sequence.saturating_add(1);
        if let Some(id) = entry.id {
            if entry.event == LifecycleEvent::Stopped as i32 {
                self.stopped.insert(id);
            }
            if let Some(sequence) = entry.run_sequence {
                self.seen.insert(id, sequence);
            }
        }
        if entry.notice.is_some() {
            self.notices.entry(entry.uuid).or_default().push_back(entry.sequence);
            self.notices_kept += 1;
            self.drop_notice(entry.uuid);
        } else {
            self.lives.push_back(entry.sequence);
            if self.lives.len() > KEPT {
                let oldest = self.lives.pop_front();
                self.forget(oldest);
            }
        }
        self.entries.insert(entry.sequence, entry);
    }

    /// Makes room for a notice of this guest, if there is need.
    fn drop_notice(&mut self, uuid: Uuid) {
        let (of_one, of_all) = NOTICES_KEPT;
        let count = |guest: &Uuid| self.notices.get(guest).map_or(0, VecDeque::len);
        let from = if count(&uuid) > of_one {
            Some(uuid)
        } else if self.notices_kept > of_all {
            self.notices.keys().copied().max_by_key(count)
        } else {
            None
        };
        let Some(from) = from else { return };
        let Some(numbers) = self.notices.get_mut(&from) else { return };
        let oldest = numbers.pop_front();
        if numbers.is_empty() {
            self.notices.remove(&from);
        }
        self.notices_kept = self.notices_kept.saturating_sub(1);
        self.forget(oldest);
    }

    fn forget(&mut self, sequence: Option<u64>) {
        if let Some(sequence) = sequence {
            self.entries.remove(&sequence);
            self.gone = self.gone.max(sequence);
        }
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

    /// The highest run that any event tells of. A probe of an earlier release counts: its number was one of a guest's.
    #[must_use]
    pub fn highest_run(&self) -> u32 {
        self.seen.keys().copied().max().unwrap_or_default()
    }

    /// Forgets the numbers of all runs but these.
    pub fn keep_runs(&mut self, runs: &HashSet<u32>) {
        self.seen.retain(|run, _| runs.contains(run));
        self.stopped.retain(|run| runs.contains(run));
    }

    /// Whether the stop of a run is here already: it is reported once, however often its end is found.
    #[must_use]
    pub fn has_stopped(&self, id: u32) -> bool {
        self.stopped.contains(&id)
    }

    /// An event of a run is left out, because its supervisor reports more than a guest can do. Its number is left free, and
    /// by that gap a client learns that something is missing.
    pub fn lose(&mut self, id: u32, run_sequence: u64) {
        self.seen.insert(id, run_sequence);
        self.leave_gap();
    }

    /// Leaves a number free for what is missing.
    pub fn leave_gap(&mut self) {
        self.gone = self.next;
        self.next = self.next.saturating_add(1);
    }

    /// Forgets the numbers of a run that is over and retired.
    pub fn retire(&mut self, id: u32) {
        self.seen.remove(&id);
        self.stopped.remove(&id);
    }

    /// The kept events after `since`, 0 for all, and whether some after it are no longer kept.
    pub fn after(&self, since: u64) -> (bool, impl Iterator<Item = &Entry>) {
        // A number of another journal, from before the host's reboot: everything may have been missed.
        let other = since != 0 && !(self.first.saturating_sub(1)..self.next).contains(&since);
        let since = if other { 0 } else { since };
        let lost = other || since.max(self.first.saturating_sub(1)) < self.gone;
        (lost, self.entries.range(since.saturating_add(1)..).map(|(_, entry)| entry))
    }

    /// Numbers an event and adds it, to the file first.
    pub fn add(&mut self, mut entry: Entry) -> Entry {
        entry.sequence = self.next;
        match self.write(&entry) {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !self.failing {
                    tracing::error!(
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
        if self.length > self.compact_at {
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
        for entry in self.entries.values() {
            serde_json::to_writer(&mut text, entry)?;
            text.push(b'\n');
        }
        fs::write(&temporary, &text)?;
        fs::rename(&temporary, &self.path)?;
        self.file = None;
        self.torn = false;
        self.length = u64::try_from(text.len()).unwrap_or_default();
        // Where much is kept, it is not written anew with every event.
        self.compact_at = COMPACT_AT.max(self.length.saturating_mul(2));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> io::Result<Journal> {
        Journal::begin(path, 1)
    }

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
            notice: None,
        }
    }

    fn notice(guest: u128) -> Entry {
        let notice = Some(Parts { kind: 2, number: -5, texts: vec!["x".into()] });
        let uuid = Uuid::from_u128(guest);
        Entry { uuid, id: None, run_sequence: None, event: NO_LIFECYCLE, notice, ..entry(1, 1) }
    }

    #[test]
    fn numbers_go_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut journal = open(&path).unwrap();
        assert_eq!(journal.add(entry(3, 1)).sequence, 1);
        assert_eq!(journal.add(entry(3, 2)).sequence, 2);
        drop(journal);
        let mut journal = open(&path).unwrap();
        assert_eq!((journal.next_sequence(), journal.seen(3), journal.seen(4), journal.highest_run()), (3, 2, 0, 3));
        assert_eq!(journal.add(entry(4, 1)).sequence, 3);
        let (lost, after) = journal.after(1);
        assert_eq!((lost, after.map(|e| e.sequence).collect::<Vec<_>>()), (false, vec![2, 3]));
    }

    #[test]
    fn a_torn_line_is_skipped_and_the_next_event_starts_a_line_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        open(&path).unwrap().add(entry(1, 1));
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"sequence\":2,\"uu").unwrap();
        let mut journal = open(&path).unwrap();
        assert_eq!(journal.next_sequence(), 2);
        journal.add(entry(1, 2));
        assert_eq!(open(&path).unwrap().seen(1), 2, "the event behind the torn line is readable");
    }

    #[test]
    fn a_number_from_another_boot_means_that_events_were_lost() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(&dir.path().join("events")).unwrap();
        journal.add(entry(1, 1));
        assert!(journal.after(7).0);
        assert_eq!(journal.after(7).1.count(), 1);
        assert!(!journal.after(0).0);
        // Nor is one taken for this journal's that has had more events than the one before.
        let path = dir.path().join("after the reboot");
        let mut journal = Journal::open(&path).unwrap();
        for number in 1..10 {
            journal.add(entry(1, number));
        }
        let journal = Journal::open(&path).unwrap();
        let first = journal.after(0).1.next().unwrap().sequence;
        assert_eq!(first % NUMBERS_A_SECOND, 1);
        assert_eq!((journal.after(5).0, journal.after(5).1.count()), (true, 9), "five were seen of the journal before");
        assert_eq!((journal.after(first).0, journal.after(first).1.count()), (false, 8));
        assert_eq!((journal.after(first - 1).0, journal.after(0).0), (false, false));
    }

    #[test]
    fn a_disk_that_cannot_be_written_loses_no_event_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(&dir.path().join("no/such/dir/events")).unwrap();
        assert_eq!(journal.add(entry(1, 1)).sequence, 1);
        assert_eq!(journal.after(0).1.count(), 1);
    }

    #[test]
    fn lines_of_an_earlier_release_are_read_and_ours_keep_its_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let uuid = Uuid::nil();
        let line = format!(
            r#"{{"sequence":1,"uuid":"{uuid}","name":"a","id":3,"run_sequence":1,"event":2,"detail":0,"seconds":5,"nanos":6,"text":null}}"#
        );
        fs::write(&path, format!("{line}\n")).unwrap();
        let mut journal = open(&path).unwrap();
        assert_eq!((journal.next_sequence(), journal.after(0).1.next().unwrap().notice.clone()), (2, None));
        let added = journal.add(notice(7));
        assert_eq!(open(&path).unwrap().after(1).1.collect::<Vec<_>>(), [&added]);
        let text = fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        assert_eq!(serde_json::to_string(&entry(1, 1)).unwrap().matches("notice").count(), 0);
        assert_eq!(lines.next(), Some(line.as_str()));
        assert!(lines.next().unwrap().contains(r#""event":-1,"#), "{text}");
    }

    #[test]
    fn a_guest_that_makes_much_happen_pushes_out_its_own_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut journal = open(&path).unwrap();
        journal.add(entry(1, 1));
        let quiet = journal.add(notice(1)).sequence;
        for _ in 0..2 * NOTICES_KEPT.0 {
            journal.add(notice(2));
        }
        let last = journal.add(entry(1, 2)).sequence;
        let check = |journal: &Journal| {
            let kept: Vec<u64> = journal.after(0).1.map(|entry| entry.sequence).collect();
            assert_eq!((kept[0], kept[1], kept.last().copied()), (1, quiet, Some(last)));
            assert_eq!(kept.len(), 3 + NOTICES_KEPT.0);
            assert!(journal.after(quiet).0 && !journal.after(kept[2] - 1).0);
        };
        check(&journal);
        check(&open(&path).unwrap());
        // What is written anew has holes, and they are known.
        journal.compact().unwrap();
        check(&open(&path).unwrap());
    }

    #[test]
    fn many_guests_share_what_is_kept_of_notices() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(&dir.path().join("events")).unwrap();
        let quiet = journal.add(notice(0)).sequence;
        let (of_one, of_all) = NOTICES_KEPT;
        for turn in 0..of_one {
            for guest in 1..=(2 * of_all / of_one) as u128 {
                journal.add(notice(guest));
            }
            assert!(journal.after(0).1.count() <= of_all + 1, "turn {turn}");
        }
        assert_eq!(journal.after(0).1.next().map(|entry| entry.sequence), Some(quiet));
    }

    #[test]
    fn lives_are_kept_up_to_their_own_limit() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(&dir.path().join("no/such/dir/events")).unwrap();
        for number in 0..KEPT as u64 + 10 {
            journal.add(entry(1, number));
        }
        assert_eq!(journal.after(0).1.count(), KEPT);
        assert!(journal.after(9).0 && !journal.after(10).0);
    }
}
