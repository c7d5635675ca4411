//! The journal: every event of every guest under one sequence number, changes of its life and notices of anything else.
//!
//! It is what lets a client ask "what have I missed?". It is a file of JSON lines in the run-time directory, so it survives
//! qemud's death but not the host's reboot, like the guests it tells of. An event that came from a supervisor carries the
//! run and its number there: after a restart control knows from the journal which events of each run it has seen, and asks
//! the supervisors, or the logs of those that died, for the rest.
//!
//! A guest can cause notices without end, and change its life again and again. So both are kept apart and capped per guest: a
//! noisy guest only evicts its own history.
//!
//! The numbers of a journal begin with the second in which it was begun, so that one from before the host's reboot is never
//! taken for one of this journal's, however much has happened since.
//!
//! The journal itself is memory of control's loop; its file is written on a thread of the store's ([`super::lines`]). An event
//! gets its number when it comes and goes to clients when its line is written, so the next daemon never gives a number that
//! a client has seen to another event. A disk that is full or does not answer costs the file's newest lines,
//! never a guest: events are sent without it then.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use api::{consts::LifecycleEvent, notice::Parts};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Changes of lives that are kept, of one guest and of all.
const LIVES_KEPT: (usize, usize) = (KEPT, KEPT);
const KEPT: usize = 8192;
/// Notices that are kept, of one guest and of all: as many as a guest may cause at once ([`super::guests::NOTICES`]).
const NOTICES_KEPT: (usize, usize) = (512, 8192);
/// The highest number that every reader of JSON can represent.
const MAX_SEQUENCE: u64 = (1 << 53) - 1;
/// Numbers that each second has. They stay below [`MAX_SEQUENCE`] until the year 2255.
const NUMBERS_A_SECOND: u64 = 1_000_000;
/// The longest line in bytes; a longer one is no event.
pub(super) const MAX_LINE: u64 = 64 << 10;

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

/// The numbers of entries that are kept, by guest.
struct Kept {
    of_one: usize,
    of_all: usize,
    count: usize,
    /// Oldest first.
    by_guest: HashMap<Uuid, VecDeque<u64>>,
    /// Which guest has how many.
    counts: BTreeSet<(usize, Uuid)>,
}

impl Kept {
    fn new((of_one, of_all): (usize, usize)) -> Kept {
        Kept { of_one, of_all, count: 0, by_guest: HashMap::new(), counts: BTreeSet::new() }
    }

    /// Adds the number of an entry. Returns one that has to go: the guest's own if it has too many, otherwise that of the guest
    /// with the most.
    fn add(&mut self, guest: Uuid, number: u64) -> Option<u64> {
        let numbers = self.by_guest.entry(guest).or_default();
        self.counts.remove(&(numbers.len(), guest));
        numbers.push_back(number);
        self.counts.insert((numbers.len(), guest));
        self.count += 1;
        if numbers.len() > self.of_one {
            return self.drop_oldest(guest);
        }
        let most = self.counts.last().filter(|_| self.count > self.of_all)?.1;
        self.drop_oldest(most)
    }

    fn drop_oldest(&mut self, guest: Uuid) -> Option<u64> {
        let numbers = self.by_guest.get_mut(&guest)?;
        self.counts.remove(&(numbers.len(), guest));
        let oldest = numbers.pop_front();
        if numbers.is_empty() {
            self.by_guest.remove(&guest);
        } else {
            self.counts.insert((numbers.len(), guest));
        }
        self.count -= usize::from(oldest.is_some());
        oldest
    }
}

/// What is known of the events of a run.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The last number that its supervisor gave to one that is here.
    sequence: u64,
    /// The line that says so: as long as the run may be found again, the file has it.
    line: Option<u64>,
}

/// The journal of one instance.
pub struct Journal {
    /// Events that were sent.
    entries: BTreeMap<u64, Entry>,
    /// Events that have a number and are not sent yet, in order.
    numbered: VecDeque<Entry>,
    /// Those entries that are changes of lives.
    lives: Kept,
    /// The others.
    notices: Kept,
    /// The number of this journal's first event.
    first: u64,
    /// The highest number of those that are no longer here.
    gone: u64,
    next: u64,
    /// What is known of the events of each run.
    seen: HashMap<u32, Seen>,
    /// Runs whose stop is here, and its number.
    stopped: HashMap<u32, u64>,
}

/// What reading a journal's file has brought.
pub struct Opened {
    /// What it holds.
    pub journal: Journal,
    /// The file's length in bytes.
    pub length: u64,
    /// The file ends within a line: a write was cut off.
    pub torn: bool,
}

impl Journal {
    /// Opens the journal and reads what is kept of it. Lines that are no event, a torn last one for example, are skipped.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn open(path: &Path) -> io::Result<Opened> {
        // A clock before 1970 is one that says nothing.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Journal::begin(path, now.saturating_mul(NUMBERS_A_SECOND).saturating_add(1))
    }

    /// As [`Journal::open`], with this number for the first event if there is none yet.
    fn begin(path: &Path, first: u64) -> io::Result<Opened> {
        let first = first.min(MAX_SEQUENCE);
        let journal = Journal {
            entries: BTreeMap::new(),
            numbered: VecDeque::new(),
            lives: Kept::new(LIVES_KEPT),
            notices: Kept::new(NOTICES_KEPT),
            first,
            gone: first.saturating_sub(1),
            next: first,
            seen: HashMap::new(),
            stopped: HashMap::new(),
        };
        let mut opened = Opened { journal, length: 0, torn: false };
        match File::open(path) {
            Ok(file) => opened.read(BufReader::new(file), path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(opened)
    }

    fn take_read(&mut self, entry: Entry, first_of_all: bool) {
        if first_of_all {
            self.first = entry.sequence / NUMBERS_A_SECOND * NUMBERS_A_SECOND + 1;
            self.next = self.first;
            self.gone = self.first - 1;
        }
        if entry.sequence > self.next {
            self.gone = entry.sequence - 1;
        }
        self.next = entry.sequence + 1;
        self.remember_run(&entry);
        self.remember(entry);
    }

    fn remember_run(&mut self, entry: &Entry) {
        let Some(id) = entry.id else { return };
        if entry.event == LifecycleEvent::Stopped as i32 {
            self.stopped.insert(id, entry.sequence);
        }
        if let Some(sequence) = entry.run_sequence {
            self.seen.insert(id, Seen { sequence, line: Some(entry.sequence) });
        }
    }

    fn remember(&mut self, entry: Entry) {
        let kept = if entry.notice.is_some() { &mut self.notices } else { &mut self.lives };
        let dropped = kept.add(entry.uuid, entry.sequence);
        self.forget(dropped);
        self.entries.insert(entry.sequence, entry);
    }

    fn forget(&mut self, sequence: Option<u64>) {
        if let Some(sequence) = sequence {
            self.entries.remove(&sequence);
            self.gone = self.gone.max(sequence);
        }
    }

    /// The number of the next event that is sent.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.numbered.front().map_or(self.next, |entry| entry.sequence)
    }

    /// The last event of a run's supervisor that is here; 0 before the first.
    #[must_use]
    pub fn seen(&self, id: u32) -> u64 {
        self.seen.get(&id).map(|seen| seen.sequence).unwrap_or_default()
    }

    /// The highest run that any event tells of. A probe of an earlier release counts: its number was one of a guest's.
    #[must_use]
    pub fn highest_run(&self) -> u32 {
        self.seen.keys().copied().max().unwrap_or_default()
    }

    /// Whose run this is, as far as any event tells: its guest and that one's name then.
    #[must_use]
    pub fn guest_of(&self, id: u32) -> Option<(Uuid, &str)> {
        let entry = self.entries.values().find(|entry| entry.id == Some(id))?;
        Some((entry.uuid, &entry.name))
    }

    /// Forgets the numbers of all runs but these.
    pub fn keep_runs(&mut self, runs: &HashSet<u32>) {
        self.seen.retain(|run, _| runs.contains(run));
        self.stopped.retain(|run, _| runs.contains(run));
    }

    /// Whether the stop of a run is here already: it is reported once, however often its end is found.
    #[must_use]
    pub fn has_stopped(&self, id: u32) -> bool {
        self.stopped.contains_key(&id)
    }

    /// What a run's supervisor has numbered up to this one is here, or will never be.
    pub fn pass(&mut self, id: u32, run_sequence: u64) {
        self.seen.entry(id).or_default().sequence = run_sequence;
    }

    /// Leaves a number free for what is missing, and returns it.
    pub fn leave_gap(&mut self) -> u64 {
        self.gone = self.next;
        self.next = (self.next + 1).min(MAX_SEQUENCE);
        self.gone
    }

    /// Leaves all numbers up to this one free: events have been told by them that are not here.
    pub fn leave_up_to(&mut self, told: u64) {
        if told >= self.next {
            self.gone = told.min(MAX_SEQUENCE);
            self.next = told.saturating_add(1).min(MAX_SEQUENCE);
        }
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

    /// Numbers an event. [`Journal::told`] releases it to clients.
    pub fn number(&mut self, mut entry: Entry) -> u64 {
        entry.sequence = self.next;
        self.next = (self.next + 1).min(MAX_SEQUENCE);
        self.remember_run(&entry);
        let sequence = entry.sequence;
        self.numbered.push_back(entry);
        sequence
    }

    /// The newest event that has a number and is not sent yet.
    #[must_use]
    pub fn last_numbered(&self) -> Option<&Entry> {
        self.numbered.back()
    }

    /// The next event to send, if its number is at most this one; from now on [`Journal::after`] returns it.
    pub fn told(&mut self, up_to: u64) -> Option<Entry> {
        self.numbered.front().filter(|entry| entry.sequence <= up_to)?;
        let entry = self.numbered.pop_front()?;
        self.remember(entry.clone());
        Some(entry)
    }

    /// The numbers of all events that the file must hold: those that are here, and those by which the next control knows what
    /// it has seen of each run.
    #[must_use]
    pub fn kept(&self) -> HashSet<u64> {
        let here = self.entries.keys().copied().chain(self.numbered.iter().map(|entry| entry.sequence));
        let of_runs = self.seen.values().filter_map(|seen| seen.line).chain(self.stopped.values().copied());
        here.chain(of_runs).collect()
    }
}

impl Opened {
    fn read(&mut self, mut input: impl BufRead, path: &Path) -> io::Result<()> {
        let mut line = Vec::new();
        let mut first_of_all = true;
        loop {
            line.clear();
            let read = (&mut input).take(MAX_LINE).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(());
            }
            self.length += u64::try_from(read).unwrap_or_default();
            self.torn = !line.ends_with(b"\n");
            match serde_json::from_slice::<Entry>(&line) {
                Ok(entry) if entry.sequence < MAX_SEQUENCE && (first_of_all || entry.sequence >= self.journal.next) => {
                    self.journal.take_read(entry, std::mem::take(&mut first_of_all));
                }
                _ if line == b"\n" => {}
                _ => tracing::warn!("{}: a line is no event; skipped", path.display()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, OpenOptions},
        io::Write,
    };

    use super::{super::lines::Lines, *};

    /// A journal and its file, as control and its store hold them.
    struct Both {
        journal: Journal,
        lines: Lines,
    }

    impl std::ops::Deref for Both {
        type Target = Journal;
        fn deref(&self) -> &Journal {
            &self.journal
        }
    }

    impl Both {
        fn of(path: &Path, Opened { journal, length, torn }: Opened) -> Both {
            Both { journal, lines: Lines::new(path, length, torn) }
        }

        fn add(&mut self, entry: Entry) -> Entry {
            let sequence = self.journal.number(entry);
            let line = serde_json::to_vec(self.journal.last_numbered().unwrap()).unwrap();
            self.lines.append(line);
            self.journal.told(sequence).unwrap()
        }
    }

    fn open(path: &Path) -> io::Result<Both> {
        Journal::begin(path, 1).map(|opened| Both::of(path, opened))
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
    fn an_event_is_told_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = open(&dir.path().join("events")).unwrap().journal;
        let numbers = [journal.number(entry(1, 1)), journal.number(entry(1, 2)), journal.number(entry(1, 3))];
        assert_eq!((numbers, journal.seen(1)), ([1, 2, 3], 3), "an event that comes twice is known at once");
        assert_eq!((journal.next_sequence(), journal.after(0).1.count()), (1, 0), "nothing is told yet");
        assert_eq!(journal.told(2).map(|entry| entry.sequence), Some(1));
        assert_eq!(journal.told(2).map(|entry| entry.sequence), Some(2));
        assert_eq!((journal.told(2), journal.next_sequence(), journal.after(0).1.count()), (None, 3, 2));
        assert_eq!(journal.kept(), HashSet::from([1, 2, 3]));
    }

    #[test]
    fn a_number_at_the_end_of_all_numbers_is_no_event() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        for sequence in [u64::MAX, MAX_SEQUENCE] {
            let line = serde_json::to_string(&Entry { sequence, ..entry(1, 1) }).unwrap();
            fs::write(&path, format!("{line}\n")).unwrap();
            let mut journal = open(&path).unwrap();
            assert_eq!((journal.seen(1), journal.add(entry(1, 1)).sequence), (0, 1));
        }
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
        let mut journal = Both::of(&path, Journal::open(&path).unwrap());
        for number in 1..10 {
            journal.add(entry(1, number));
        }
        let journal = Journal::open(&path).unwrap().journal;
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
        let kept = journal.kept();
        journal.lines.compact(&kept).unwrap();
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
