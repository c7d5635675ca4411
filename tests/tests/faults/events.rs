//! What listeners heard, and whether it adds up.

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicU64, Ordering},
};

use bulkhead_tests::Instance;
use serde::Deserialize;

use crate::load::Definition;

/// One event of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub sequence: u64,
    pub domain: String,
    /// `Started`, `Stopped` … or nothing when it is no change of a guest's life.
    pub kind: String,
    pub detail: String,
}

#[derive(Deserialize)]
struct Line {
    sequence: u64,
    domain: Named,
    kind: Option<String>,
    detail: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// Every whole line of `bulkhead event --output json`.
pub fn parse(text: &str) -> Vec<Heard> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let read = |line: &str| {
        let line: Line = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let (kind, detail) = (line.kind.unwrap_or_default(), line.detail.unwrap_or_default());
        Heard { sequence: line.sequence, domain: line.domain.name, kind, detail }
    };
    whole.lines().map(read).collect()
}

/// A listener that comes back again and again with the last number that it has, as the manual tells programs to.
pub struct Follower {
    pub heard: Vec<Heard>,
    /// Numbers after which events may be missing: a loss was reported then.
    pub lost_after: Vec<u64>,
}

impl Follower {
    /// Follows from `since` on, until it has the event of the number in `until` (0: not known yet).
    pub fn run(instance: &Instance, since: u64, until: &AtomicU64) -> Follower {
        let mut follower = Follower { heard: Vec::new(), lost_after: Vec::new() };
        let mut last = since;
        loop {
            let end = until.load(Ordering::Relaxed);
            if end != 0 && last >= end {
                return follower;
            }
            let number = last.to_string();
            let output =
                instance.bulkhead(&["event", "--all", "--since", &number, "--timeout", "1", "--output", "json"]);
            assert!([0, 1, 4, 6].contains(&output.code), "a listener: {output:?}");
            let heard = parse(&output.stdout);
            if output.stderr.contains("are gone") {
                follower.lost_after.push(last);
                follower.lost_after.extend(heard.iter().map(|event| event.sequence));
            }
            follower.heard.extend(heard);
            last = follower.heard.last().map_or(last, |event| event.sequence);
        }
    }
}

/// Numbers must follow each other, except where a loss was reported.
pub fn gaps(who: &str, since: u64, heard: &[Heard], lost_after: &[u64]) -> Vec<String> {
    let mut last = since;
    let mut wrong = Vec::new();
    for event in heard {
        let follows = event.sequence == last + 1 || (event.sequence > last && lost_after.contains(&last));
        if !follows {
            wrong.push(format!("{who}: {} after {last}, and nothing is reported as lost", event.sequence));
        }
        last = event.sequence;
    }
    wrong
}

/// Two listeners must have heard the same under the same number.
pub fn differences(one: &[Heard], other: &[Heard]) -> Vec<String> {
    let known: BTreeMap<u64, &Heard> = one.iter().map(|event| (event.sequence, event)).collect();
    let differs = |event: &&Heard| known.get(&event.sequence).is_some_and(|first| first != event);
    other.iter().filter(differs).map(|event| format!("{event:?}, but also {:?}", known[&event.sequence])).collect()
}

/// What events say a domain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    pub defined: bool,
    pub active: bool,
    pub paused: bool,
}

/// The lives of all domains by their events, and the events that do not fit in. Of a domain in `known` whose definition was
/// being changed when control was killed, the file may tell more than the events: the two are written one after the other.
pub fn lives(events: &[Heard], known: &BTreeMap<String, Definition>) -> (BTreeMap<String, Life>, Vec<String>) {
    let mut lives: BTreeMap<String, Life> = BTreeMap::new();
    let mut wrong = Vec::new();
    for event in events {
        let life = lives.entry(event.domain.clone()).or_default();
        let before = *life;
        let fits = match event.kind.as_str() {
            "Defined" => {
                life.defined = true;
                true
            }
            "Undefined" => {
                life.defined = false;
                before.defined || known.get(&event.domain).is_some_and(|definition| definition.cut_off)
            }
            "Started" => {
                *life = Life { active: true, paused: false, ..before };
                !before.active
            }
            "Suspended" => {
                life.paused = true;
                before.active && !before.paused
            }
            "Resumed" => {
                life.paused = false;
                before.active && before.paused
            }
            "Stopped" => {
                *life = Life { active: false, paused: false, ..before };
                // A start that fails is told as a stop without a start.
                before.active || event.detail == "Failed"
            }
            _ => true,
        };
        if !fits {
            wrong.push(format!("{event:?} for {before:?}"));
        }
    }
    (lives, wrong)
}

/// How many changes of definitions were not told: they are on the disk, and control was killed before their event.
pub fn untold(events: &[Heard]) -> usize {
    let mut defined: BTreeMap<&str, bool> = BTreeMap::new();
    let changes = events.iter().filter_map(|event| match (event.kind.as_str(), event.detail.as_str()) {
        ("Defined", "Added") => Some((event, false, true)),
        ("Defined", "Updated") => Some((event, true, true)),
        ("Undefined", _) => Some((event, true, false)),
        _ => None,
    });
    let untold = changes.filter(|(event, before, after)| {
        let told = defined.insert(event.domain.as_str(), *after).unwrap_or_default();
        told != *before
    });
    untold.count()
}

#[derive(Deserialize)]
struct Entry {
    id: Option<u32>,
    name: String,
    event: i32,
}

/// Runs that the journal says were started or stopped more than once.
pub fn repeated_runs(instance: &Instance) -> Vec<String> {
    const STARTED: i32 = 2;
    const STOPPED: i32 = 5;
    let text = fs::read_to_string(instance.runtime_dir().join("journal/events")).expect("the journal");
    let mut counts: BTreeMap<(u32, i32), (usize, String)> = BTreeMap::new();
    for entry in text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok()) {
        if let (Some(run), STARTED | STOPPED) = (entry.id, entry.event) {
            let count = counts.entry((run, entry.event)).or_insert((0, entry.name));
            count.0 += 1;
        }
    }
    let told = |event: i32| if event == STARTED { "started" } else { "stopped" };
    let repeated = counts.into_iter().filter(|(_, (count, _))| *count > 1);
    repeated
        .map(|((run, event), (count, name))| format!("run {run} of {name} was {} {count} times", told(event)))
        .collect()
}
