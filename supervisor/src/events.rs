//! The numbered events of one run of a guest: the newest in memory, all of them in a file that outlives the supervisor.
//!
//! The file has one JSON object a line, each written by one `write`. A full disk never ends a guest: what can't be written
//! stays in memory, and the next line that can be written says how many are missing before it.
//!
//! Notices are numbered with the events and stand in the same file, but a guest can cause them without end: they have a ring
//! of their own, a share of the file, and a rate beyond which they are not taken at all. So they never cost an event its
//! place. A reader of an earlier release passes their lines over.
//!
//! A guest can also change its state without end (it sleeps and wakes up in a loop), so events have a rate too. Beyond it the
//! newest one is held back until the rate allows it, and those before it are lost: whoever listens ends up with the present
//! state. The end of a run is never held back. What is lost has a number, so each loss is a gap in the numbers.
//!
//! The file belongs to the guest's uid, so a reader must not believe it: [`read`] bounds what a line and a number can be.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    lifecycle::{Kind, State},
    protocol::{Event, MAX_SEQUENCE, Notice},
};

/// How many events stay in memory, and how many [`read`] returns.
pub const KEPT: usize = 1024;
/// The longest text of an event, in bytes.
pub const TEXT_MAX: usize = 2048;
/// How many notices stay in memory, and how many [`read`] returns.
pub const NOTICES_KEPT: usize = 256;
/// The most texts of a notice, and the longest of them in bytes.
const NOTICE_TEXTS: (usize, usize) = (4, 1024);
/// How many notices a guest may cause at once.
const NOTICES_AT_ONCE: u32 = 128;
/// How many changes of its state are reported at once.
const EVENTS_AT_ONCE: u32 = 256;
/// How long it takes until it may cause another one.
const NOTICE_EVERY: Duration = Duration::from_millis(100);
/// How far notices make the file grow.
const NOTICES_FILE_MAX: usize = FILE_MAX / 4;
/// How far the file grows: a guest that falls asleep and wakes up in a loop must not fill the host's disk. The end of the run
/// is written even then.
const FILE_MAX: usize = 1 << 20;
/// How much of a file [`read`] looks at.
pub const READ_MAX: u64 = 4 << 20;
/// The longest line that [`read`] looks into: an event's longest text, or a notice's, with every byte escaped.
const LINE_MAX: usize = 32 << 10;
/// The most lines that [`read`] looks at; those of a supervisor are longer than this makes them on average.
const LINES_MAX: usize = 64 << 10;
/// The largest gap between one number and the next; more is not lost in the life of a guest.
const GAP_MAX: u64 = 1 << 40;

/// Whether `sequence` can be the number of what comes after number `previous` of the same run. Ask this of every number that a
/// supervisor says, too: it has the rights of its guest.
#[must_use]
pub fn follows(previous: u64, sequence: u64) -> bool {
    sequence > previous && sequence <= MAX_SEQUENCE && sequence - previous <= GAP_MAX
}

/// What the log has under a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Recorded {
    /// A change of the guest's life.
    Event(Event),
    /// Something else.
    Notice(Notice),
}

impl Recorded {
    /// Its number.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        match self {
            Recorded::Event(event) => event.sequence,
            Recorded::Notice(notice) => notice.sequence,
        }
    }
}

/// How many events or notices of a guest are taken: so many at once, and one more every 100 ms.
#[derive(Debug)]
pub struct Allowance {
    most: u32,
    left: u32,
    /// When the last one was added.
    since: Instant,
}

impl Allowance {
    /// All of it.
    #[must_use]
    pub fn new(most: u32) -> Allowance {
        Allowance { most, left: most, since: Instant::now() }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let (most, each) = (self.most, NOTICE_EVERY);
        let passed = now.saturating_duration_since(self.since);
        let more = u32::try_from(passed.as_millis() / each.as_millis()).unwrap_or(u32::MAX);
        if more > 0 {
            self.since = now;
            self.left = self.left.saturating_add(more).min(most);
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }

    /// When there is one more.
    fn next(&self) -> Instant {
        self.since + NOTICE_EVERY
    }
}

/// An event beyond the rate.
#[derive(Debug)]
struct Held {
    kind: Kind,
    state: State,
    text: Option<String>,
    at: SystemTime,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    what: Recorded,
    /// How many events before this one are missing, because they could not be written.
    #[serde(default, skip_serializing_if = "is_zero")]
    lost: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// The events of one run. See the module's page.
#[derive(Debug)]
pub struct EventLog {
    ring: VecDeque<Event>,
    notices: VecDeque<Notice>,
    allowance: Allowance,
    life: Allowance,
    held: Option<Held>,
    /// How much was lost since the last number; each has one.
    skipped: u64,
    /// The run has ended: nothing happens any more.
    over: bool,
    last: u64,
    file: Option<File>,
    written: usize,
    /// How much of that are notices.
    written_notices: usize,
    /// The file's last line has no end: the disk became full within it.
    torn: bool,
    lost: u64,
}

impl EventLog {
    /// A log without events that appends to `file`, which is open for appending.
    #[must_use]
    pub fn new(file: Option<File>) -> EventLog {
        EventLog {
            ring: VecDeque::new(),
            notices: VecDeque::new(),
            allowance: Allowance::new(NOTICES_AT_ONCE),
            life: Allowance::new(EVENTS_AT_ONCE),
            held: None,
            skipped: 0,
            over: false,
            last: 0,
            file,
            written: 0,
            written_notices: 0,
            torn: false,
            lost: 0,
        }
    }

    /// Gives what has happened a number and a time, and keeps it. None when the guest causes too many events: the newest one is
    /// held back, see [`EventLog::release`]. None also after the end of the run, which is always the last event.
    pub fn record(&mut self, kind: Kind, state: State, text: Option<String>) -> Option<Event> {
        if self.over {
            return None;
        }
        self.over = kind.is_stopped();
        if self.held.take().is_some() {
            self.skipped = self.skipped.saturating_add(1);
        }
        let event = Held { kind, state, text: text.map(shortened), at: SystemTime::now() };
        if self.life.take(Instant::now()) || self.over {
            return Some(self.keep(event));
        }
        self.held = Some(event);
        None
    }

    /// Gives the event that is held back its number when the rate allows it.
    pub fn release(&mut self, now: Instant) -> Option<Event> {
        if self.held.is_none() || !self.life.take(now) {
            return None;
        }
        let held = self.held.take()?;
        Some(self.keep(held))
    }

    /// When [`EventLog::release`] has something.
    #[must_use]
    pub fn next_release(&self) -> Option<Instant> {
        self.held.as_ref().map(|_| self.life.next())
    }

    fn keep(&mut self, held: Held) -> Event {
        let Held { kind, state, text, at } = held;
        let (seconds, nanos) = wall_clock(at);
        let event = Event {
            sequence: self.number(),
            seconds,
            nanos,
            event: kind.event,
            detail: kind.detail,
            state: state.state,
            reason: state.reason,
            text,
        };
        if self.ring.len() == KEPT {
            self.ring.pop_front();
        }
        self.ring.push_back(event.clone());
        self.write(&Recorded::Event(event.clone()), kind.is_stopped());
        event
    }

    /// The same with something that is no change of the guest's life. None when the guest causes too many of them.
    pub fn notice(&mut self, notice: api::notice::Notice) -> Option<Notice> {
        if self.over {
            return None;
        }
        if !self.allowance.take(Instant::now()) {
            self.skipped = self.skipped.saturating_add(1);
            return None;
        }
        let (seconds, nanos) = wall_clock(SystemTime::now());
        let api::notice::Parts { kind, number, texts } = notice.into_parts();
        let notice = bounded(Notice { sequence: self.number(), seconds, nanos, kind, number, texts });
        if self.notices.len() == NOTICES_KEPT {
            self.notices.pop_front();
        }
        self.notices.push_back(notice.clone());
        self.write(&Recorded::Notice(notice.clone()), false);
        Some(notice)
    }

    fn number(&mut self) -> u64 {
        let skipped = std::mem::take(&mut self.skipped).min(GAP_MAX - 1);
        self.last = self.last.saturating_add(skipped).saturating_add(1).min(MAX_SEQUENCE);
        self.last
    }

    /// The number of the newest event; 0 when there is none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// How many events could not be written since the last one that could.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// All that happened after a number, as far as it is still in memory, in order.
    #[must_use]
    pub fn after(&self, sequence: u64) -> Vec<Recorded> {
        let events = self.ring.iter().cloned().map(Recorded::Event);
        let notices = self.notices.iter().cloned().map(Recorded::Notice);
        let mut all: Vec<Recorded> = events.chain(notices).filter(|what| what.sequence() > sequence).collect();
        all.sort_by_key(Recorded::sequence);
        all
    }

    fn write(&mut self, what: &Recorded, is_last: bool) {
        let Some(file) = &mut self.file else { return };
        let mut bytes = Vec::new();
        if self.torn {
            bytes.push(b'\n');
        }
        let line = Line { what: what.clone(), lost: self.lost };
        let encoded = serde_json::to_writer(&mut bytes, &line);
        bytes.push(b'\n');
        let is_notice = matches!(what, Recorded::Notice(_));
        let room = self.written.saturating_add(bytes.len()) <= FILE_MAX
            && !(is_notice && self.written_notices.saturating_add(bytes.len()) > NOTICES_FILE_MAX);
        let allowed = is_last || room;
        if encoded.is_err() || !allowed {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        let done = file.write(&bytes);
        if is_notice {
            self.written_notices += done.as_ref().copied().unwrap_or_default();
        }
        match done {
            Ok(written) if written == bytes.len() => {
                self.written += written;
                self.torn = false;
                self.lost = 0;
            }
            Ok(written) => {
                self.written += written;
                self.torn = self.torn || written > 0;
                self.lost = self.lost.saturating_add(1);
            }
            Err(_) => self.lost = self.lost.saturating_add(1),
        }
    }
}

/// Seconds since the epoch, and nanoseconds. A clock before 1970 is shown as 1970.
fn wall_clock(at: SystemTime) -> (i64, u32) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos())
}

/// What [`read`] has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReadLog {
    /// The newest [`KEPT`] events and [`NOTICES_KEPT`] notices, oldest first. Their numbers rise, and each [`follows`] the one
    /// before it.
    pub entries: Vec<Recorded>,
    /// How many numbers up to the last one have no entry: they were lost, are not kept, or stood in a line that is invalid.
    pub lost: u64,
    /// How many lines were passed over.
    pub invalid: u64,
    /// How many of these are behind the last one with a number: nobody knows which numbers they had.
    pub invalid_end: u64,
    /// The file is longer than is read.
    pub truncated: bool,
}

/// Reads the log of a supervisor that is gone.
///
/// Lines that are torn, too long or out of order are passed over, and so is one whose number can't follow the one before: the
/// supervisor that wrote them had the rights of its guest.
///
/// # Errors
/// When the source can't be read.
pub fn read(source: impl Read) -> io::Result<ReadLog> {
    let mut bytes = Vec::new();
    let mut source = source.take(READ_MAX);
    source.read_to_end(&mut bytes)?;
    let mut log = ReadLog { truncated: source.limit() == 0, ..ReadLog::default() };
    let (mut events, mut notices): (VecDeque<Recorded>, VecDeque<Recorded>) = (VecDeque::new(), VecDeque::new());
    let mut last = 0;
    let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    for line in lines.by_ref().take(LINES_MAX) {
        let what = Some(line).filter(|line| line.len() <= LINE_MAX).and_then(|line| serde_json::from_slice(line).ok());
        let Some(Line { what, .. }) = what.filter(|line: &Line| follows(last, line.what.sequence())) else {
            log.invalid = log.invalid.saturating_add(1);
            log.invalid_end = log.invalid_end.saturating_add(1);
            continue;
        };
        log.invalid_end = 0;
        last = what.sequence();
        let (what, ring, kept) = match what {
            Recorded::Event(mut event) => {
                event.text = event.text.map(shortened);
                (Recorded::Event(event), &mut events, KEPT)
            }
            Recorded::Notice(notice) => (Recorded::Notice(bounded(notice)), &mut notices, NOTICES_KEPT),
        };
        if ring.len() == kept {
            ring.pop_front();
        }
        ring.push_back(what);
    }
    log.truncated |= lines.next().is_some();
    log.entries = events.into_iter().chain(notices).collect();
    log.entries.sort_by_key(Recorded::sequence);
    log.lost = last.saturating_sub(u64::try_from(log.entries.len()).unwrap_or(u64::MAX));
    Ok(log)
}

/// A notice with no more in it than one may have.
#[must_use]
pub fn bounded(mut notice: Notice) -> Notice {
    let (texts, longest) = NOTICE_TEXTS;
    notice.texts.truncate(texts);
    for text in &mut notice.texts {
        cut(text, longest);
    }
    notice
}

fn shortened(mut text: String) -> String {
    cut(&mut text, TEXT_MAX);
    text
}

fn cut(text: &mut String, longest: usize) {
    if text.len() > longest {
        let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom};

    fn log_in(path: &std::path::Path) -> EventLog {
        EventLog::new(Some(File::options().append(true).create(true).open(path).unwrap()))
    }

    fn started(log: &mut EventLog) -> Event {
        log.life.left = u32::MAX;
        log.record(Kind::STARTED_BOOTED, State::RUNNING_BOOTED, None).unwrap()
    }

    fn life(events: &[&Event]) -> Vec<Recorded> {
        events.iter().map(|event| Recorded::Event((*event).clone())).collect()
    }

    #[test]
    fn what_was_recorded_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = log_in(&path);
        let first = started(&mut log);
        let second =
            log.record(Kind::STOPPED_CRASHED, State::SHUTOFF_CRASHED, Some("killed\nby \"9\"".into())).unwrap();
        assert_eq!((first.sequence, second.sequence, log.last()), (1, 2, 2));
        assert_eq!(read(File::open(&path).unwrap()).unwrap().entries, life(&[&first, &second]));
        assert_eq!(log.after(0), life(&[&first, &second]));
        assert_eq!(log.after(1), life(&[&second]));
        assert!(log.after(2).is_empty());
    }

    #[test]
    fn a_torn_last_line_and_garbage_cost_only_themselves() {
        let mut bytes = Vec::new();
        let mut log = EventLog::new(None);
        for _ in 0..3 {
            let line = Line { what: Recorded::Event(started(&mut log)), lost: 0 };
            serde_json::to_writer(&mut bytes, &line).unwrap();
            bytes.extend(b"\n{\"sequence\": \xff}\n\n");
        }
        let whole = bytes.len();
        let last_line = bytes.iter().rposition(|byte| *byte == b'n').unwrap();
        assert_eq!(read(&bytes[..whole]).unwrap().entries.len(), 3);
        assert!(read(&bytes[..last_line]).unwrap().entries.len() <= 3);
        for end in 0..whole {
            let events = read(&bytes[..end]).unwrap().entries;
            assert!(events.iter().zip(1..).all(|(event, sequence)| event.sequence() == sequence));
        }
    }

    #[test]
    fn only_the_newest_stay_in_memory() {
        let mut log = EventLog::new(None);
        for _ in 0..KEPT + 10 {
            started(&mut log);
        }
        assert_eq!(log.after(0).len(), KEPT);
        assert_eq!(log.after(0)[0].sequence(), 11);
    }

    #[test]
    fn a_full_disk_ends_nothing_and_the_next_line_says_what_is_missing() {
        // /dev/full takes nothing.
        let mut log = EventLog::new(Some(File::options().append(true).open("/dev/full").unwrap()));
        started(&mut log);
        started(&mut log);
        assert_eq!((log.lost(), log.after(0).len()), (2, 2));
        let mut file = tempfile::tempfile().unwrap();
        log.file = Some(file.try_clone().unwrap());
        started(&mut log);
        assert_eq!(log.lost(), 0);
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("\"lost\":2}\n"), "{text}");
        assert_eq!(read(text.as_bytes()).unwrap().entries[0].sequence(), 3);
    }

    #[test]
    fn a_line_after_a_torn_one_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = log_in(&path);
        let first = started(&mut log);
        log.file.as_mut().unwrap().write_all(b"{\"sequence\":2,\"sec").unwrap();
        log.torn = true;
        log.last = 2;
        let third = started(&mut log);
        assert_eq!(read(File::open(&path).unwrap()).unwrap().entries, life(&[&first, &third]));
    }

    #[test]
    fn the_file_stops_growing_but_takes_the_end_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = log_in(&path);
        let text = "x".repeat(TEXT_MAX + 100);
        for _ in 0..2 * FILE_MAX / TEXT_MAX {
            log.life.left = u32::MAX;
            log.record(Kind::STARTED_WAKEUP, State::RUNNING_WAKEUP, Some(text.clone())).unwrap();
        }
        assert!(log.lost() > 0);
        let end = log.record(Kind::STOPPED_SHUTDOWN, State::SHUTOFF_SHUTDOWN, None).unwrap();
        assert!(path.metadata().unwrap().len() <= FILE_MAX as u64 + 1024);
        assert_eq!(read(File::open(&path).unwrap()).unwrap().entries.last(), Some(&Recorded::Event(end)));
    }

    #[test]
    fn notices_are_numbered_with_the_events_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = log_in(&path);
        let first = started(&mut log);
        let second = log.notice(api::notice::Notice::RtcChange { offset: -7 }).unwrap();
        let third = started(&mut log);
        assert_eq!((second.sequence, second.kind, second.number, third.sequence), (2, 2, -7, 3));
        let all = [Recorded::Event(first.clone()), Recorded::Notice(second), Recorded::Event(third.clone())];
        assert_eq!(read(File::open(&path).unwrap()).unwrap().entries, all);
        assert_eq!((log.after(0), log.after(2)), (all.to_vec(), life(&[&third])));
        // As a reader of an earlier release does.
        let text = std::fs::read_to_string(&path).unwrap();
        let events: Vec<Event> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(events, [first, third]);
    }

    #[test]
    fn a_flood_of_notices_costs_no_event_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = log_in(&path);
        started(&mut log);
        let device = "x".repeat(4 * NOTICE_TEXTS.1);
        let flood = |log: &mut EventLog| {
            let tray = || api::notice::Notice::TrayChange { device: device.clone(), reason: 0 };
            (0..4 * NOTICES_KEPT).filter_map(|_| log.notice(tray())).count()
        };
        let taken = flood(&mut log);
        assert!((128..2 * NOTICES_KEPT).contains(&taken), "{taken} are taken at once");
        for _ in 0..8 {
            log.allowance.left = u32::MAX;
            flood(&mut log);
        }
        let end = log.record(Kind::STOPPED_SHUTDOWN, State::SHUTOFF_SHUTDOWN, None).unwrap();
        assert_eq!(log.after(0).len(), 2 + NOTICES_KEPT);
        assert!(path.metadata().unwrap().len() <= (NOTICES_FILE_MAX + 1024) as u64);
        let back = read(File::open(&path).unwrap()).unwrap().entries;
        assert_eq!((back[0].sequence(), back.last()), (1, Some(&Recorded::Event(end))));
        assert!(back.len() > 100);
    }

    #[test]
    fn what_a_guest_causes_seldom_is_taken_for_ever() {
        let mut allowance = Allowance::new(1);
        let mut now = allowance.since;
        assert!(allowance.take(now));
        for _ in 0..1000 {
            assert!(!allowance.take(now));
            now += NOTICE_EVERY;
            assert!(allowance.take(now));
        }
    }

    fn line(sequence: u64) -> Vec<u8> {
        let event = Event { sequence, ..started(&mut EventLog::new(None)) };
        let mut bytes = serde_json::to_vec(&Line { what: Recorded::Event(event), lost: 0 }).unwrap();
        bytes.push(b'\n');
        bytes
    }

    fn sequences(log: &ReadLog) -> Vec<u64> {
        log.entries.iter().map(Recorded::sequence).collect()
    }

    #[test]
    fn numbers_that_no_honest_log_has_are_passed_over() {
        let forged =
            [line(1), line(u64::MAX), line(MAX_SEQUENCE + 1), line(2 + GAP_MAX), line(1), line(0), line(2), line(5)];
        let log = read(&*forged.concat()).unwrap();
        assert_eq!((sequences(&log), log.lost, log.invalid), (vec![1, 2, 5], 2, 5));
        assert_eq!(read(&*line(u64::MAX)).unwrap(), ReadLog { invalid: 1, invalid_end: 1, ..ReadLog::default() });
        let torn = read(&*[line(1), b"x\n".to_vec(), line(2), b"{\"seq".to_vec()].concat()).unwrap();
        assert_eq!((torn.invalid, torn.invalid_end), (2, 1));
    }

    #[test]
    fn lines_without_measure_cost_only_themselves() {
        let long = [line(1), vec![b'['; LINE_MAX + 1], b"\n".to_vec(), line(2)].concat();
        let log = read(&*long).unwrap();
        assert_eq!((sequences(&log), log.invalid, log.truncated), (vec![1, 2], 1, false));
        let many = b"x\n".repeat(usize::try_from(READ_MAX).unwrap());
        let log = read(&*many).unwrap();
        assert_eq!((log.invalid, log.truncated), (LINES_MAX as u64, true));
    }

    #[test]
    fn the_last_number_is_the_last_one_for_ever() {
        let mut log = EventLog::new(None);
        log.last = MAX_SEQUENCE - 1;
        log.skipped = u64::MAX;
        assert_eq!((started(&mut log).sequence, started(&mut log).sequence), (MAX_SEQUENCE, MAX_SEQUENCE));
    }

    #[test]
    fn a_flood_of_changes_is_a_gap_and_the_last_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = log_in(&path);
        let states = [(Kind::SUSPENDED_PAUSED, State::PAUSED_USER), (Kind::RESUMED_UNPAUSED, State::RUNNING_UNPAUSED)];
        let flood = 4 * EVENTS_AT_ONCE as usize;
        let told =
            states.iter().cycle().take(flood).filter_map(|(kind, state)| log.record(*kind, *state, None)).count();
        assert!((EVENTS_AT_ONCE as usize..flood / 2).contains(&told), "{told}");
        let now = log.next_release().unwrap();
        let last = log.release(now).unwrap();
        assert_eq!((last.sequence, last.state), (flood as u64, State::RUNNING_UNPAUSED.state));
        assert_eq!((log.next_release(), log.release(now + NOTICE_EVERY)), (None, None));
        let back = read(File::open(&path).unwrap()).unwrap();
        assert_eq!((back.entries.len(), back.lost), (told + 1, (flood - told - 1) as u64));
    }

    #[test]
    fn the_end_of_a_run_is_told_at_once_and_is_the_last_event() {
        let mut log = EventLog::new(None);
        log.life = Allowance { left: 0, ..Allowance::new(1) };
        assert_eq!(log.record(Kind::SUSPENDED_PAUSED, State::PAUSED_USER, None), None);
        let end = log.record(Kind::STOPPED_CRASHED, State::SHUTOFF_CRASHED, None).unwrap();
        assert_eq!(end.sequence, 2, "what was held back is lost");
        assert_eq!(log.record(Kind::STOPPED_CRASHED, State::SHUTOFF_CRASHED, None), None);
        assert_eq!((log.notice(api::notice::Notice::Reboot), log.next_release()), (None, None));
    }
}
