//! The numbered events of one run of a guest: the newest in memory, all of them in a file that outlives the supervisor.
//!
//! The file has one JSON object a line, each written by one `write`. A full disk never ends a guest: what can't be written
//! stays in memory, and the next line that can be written says how many are missing before it.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    lifecycle::{Kind, State},
    protocol::Event,
};

/// How many events stay in memory, and how many [`read`] returns.
pub const KEPT: usize = 1024;
/// The longest text of an event, in bytes.
pub const TEXT_MAX: usize = 2048;
/// How far the file grows: a guest that falls asleep and wakes up in a loop must not fill the host's disk. The end of the run
/// is written even then.
const FILE_MAX: usize = 1 << 20;
/// How much of a file [`read`] looks at.
const READ_MAX: u64 = 4 << 20;

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    event: Event,
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
    last: u64,
    file: Option<File>,
    written: usize,
    /// The file's last line has no end: the disk became full within it.
    torn: bool,
    lost: u64,
}

impl EventLog {
    /// A log without events that appends to `file`, which is open for appending.
    #[must_use]
    pub fn new(file: Option<File>) -> EventLog {
        EventLog { ring: VecDeque::new(), last: 0, file, written: 0, torn: false, lost: 0 }
    }

    /// Gives what has happened a number and a time, and keeps it.
    pub fn record(&mut self, kind: Kind, state: State, text: Option<String>) -> Event {
        self.last += 1;
        // A clock before 1970 is shown as 1970.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let event = Event {
            sequence: self.last,
            seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            nanos: now.subsec_nanos(),
            event: kind.event,
            detail: kind.detail,
            state: state.state,
            reason: state.reason,
            text: text.map(shortened),
        };
        if self.ring.len() == KEPT {
            self.ring.pop_front();
        }
        self.ring.push_back(event.clone());
        self.write(&event, kind.is_stopped());
        event
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

    /// The events after a number, as far as they are still in memory.
    pub fn after(&self, sequence: u64) -> impl Iterator<Item = &Event> {
        self.ring.iter().filter(move |event| event.sequence > sequence)
    }

    fn write(&mut self, event: &Event, is_last: bool) {
        let Some(file) = &mut self.file else { return };
        let mut bytes = Vec::new();
        if self.torn {
            bytes.push(b'\n');
        }
        let line = Line { event: event.clone(), lost: self.lost };
        let encoded = serde_json::to_writer(&mut bytes, &line);
        bytes.push(b'\n');
        let allowed = is_last || self.written.saturating_add(bytes.len()) <= FILE_MAX;
        if encoded.is_err() || !allowed {
            self.lost += 1;
            return;
        }
        match file.write(&bytes) {
            Ok(written) if written == bytes.len() => {
                self.written += written;
                self.torn = false;
                self.lost = 0;
            }
            Ok(written) => {
                self.written += written;
                self.torn = self.torn || written > 0;
                self.lost += 1;
            }
            Err(_) => self.lost += 1,
        }
    }
}

/// Reads the log of a supervisor that is gone: the newest [`KEPT`] events, oldest first.
///
/// Lines that are torn, too long or out of order are passed over: the supervisor that wrote them had the rights of its guest.
///
/// # Errors
/// When the source can't be read.
pub fn read(source: impl Read) -> io::Result<Vec<Event>> {
    let mut bytes = Vec::new();
    source.take(READ_MAX).read_to_end(&mut bytes)?;
    let mut events: VecDeque<Event> = VecDeque::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(Line { mut event, .. }) = serde_json::from_slice(line) else { continue };
        if events.back().is_some_and(|last| last.sequence >= event.sequence) {
            continue;
        }
        event.text = event.text.map(shortened);
        if events.len() == KEPT {
            events.pop_front();
        }
        events.push_back(event);
    }
    Ok(events.into())
}

fn shortened(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom};

    fn log_in(path: &std::path::Path) -> EventLog {
        EventLog::new(Some(File::options().append(true).create(true).open(path).unwrap()))
    }

    fn started(log: &mut EventLog) -> Event {
        log.record(Kind::STARTED_BOOTED, State::RUNNING_BOOTED, None)
    }

    #[test]
    fn what_was_recorded_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = log_in(&path);
        let first = started(&mut log);
        let second = log.record(Kind::STOPPED_CRASHED, State::SHUTOFF_CRASHED, Some("killed\nby \"9\"".into()));
        assert_eq!((first.sequence, second.sequence, log.last()), (1, 2, 2));
        assert_eq!(read(File::open(&path).unwrap()).unwrap(), [first.clone(), second.clone()]);
        assert_eq!(log.after(0).collect::<Vec<_>>(), [&first, &second]);
        assert_eq!(log.after(1).collect::<Vec<_>>(), [&second]);
        assert_eq!(log.after(2).count(), 0);
    }

    #[test]
    fn a_torn_last_line_and_garbage_cost_only_themselves() {
        let mut bytes = Vec::new();
        let mut log = EventLog::new(None);
        for _ in 0..3 {
            let line = Line { event: started(&mut log), lost: 0 };
            serde_json::to_writer(&mut bytes, &line).unwrap();
            bytes.extend(b"\n{\"sequence\": \xff}\n\n");
        }
        let whole = bytes.len();
        let last_line = bytes.iter().rposition(|byte| *byte == b'n').unwrap();
        assert_eq!(read(&bytes[..whole]).unwrap().len(), 3);
        assert!(read(&bytes[..last_line]).unwrap().len() <= 3);
        for end in 0..whole {
            let events = read(&bytes[..end]).unwrap();
            assert!(events.iter().zip(1..).all(|(event, sequence)| event.sequence == sequence));
        }
    }

    #[test]
    fn only_the_newest_stay_in_memory() {
        let mut log = EventLog::new(None);
        for _ in 0..KEPT + 10 {
            started(&mut log);
        }
        assert_eq!(log.after(0).count(), KEPT);
        assert_eq!(log.after(0).next().unwrap().sequence, 11);
    }

    #[test]
    fn a_full_disk_ends_nothing_and_the_next_line_says_what_is_missing() {
        // /dev/full takes nothing.
        let mut log = EventLog::new(Some(File::options().append(true).open("/dev/full").unwrap()));
        started(&mut log);
        started(&mut log);
        assert_eq!((log.lost(), log.after(0).count()), (2, 2));
        let mut file = tempfile::tempfile().unwrap();
        log.file = Some(file.try_clone().unwrap());
        started(&mut log);
        assert_eq!(log.lost(), 0);
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("\"lost\":2}\n"), "{text}");
        assert_eq!(read(text.as_bytes()).unwrap()[0].sequence, 3);
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
        assert_eq!(read(File::open(&path).unwrap()).unwrap(), [first, third]);
    }

    #[test]
    fn the_file_stops_growing_but_takes_the_end_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = log_in(&path);
        let text = "x".repeat(TEXT_MAX + 100);
        for _ in 0..2 * FILE_MAX / TEXT_MAX {
            log.record(Kind::STARTED_WAKEUP, State::RUNNING_WAKEUP, Some(text.clone()));
        }
        assert!(log.lost() > 0);
        let end = log.record(Kind::STOPPED_SHUTDOWN, State::SHUTOFF_SHUTDOWN, None);
        assert!(path.metadata().unwrap().len() <= FILE_MAX as u64 + 1024);
        assert_eq!(read(File::open(&path).unwrap()).unwrap().last(), Some(&end));
    }
}
