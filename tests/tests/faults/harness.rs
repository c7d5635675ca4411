//! The harness: clients and listeners on ten guests, a tormentor, and the comparison afterwards.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use bulkhead_tests::{Gateway, Instance, LONG, Terminal};

use crate::{
    account::{self, SETTLE, Size},
    events::{self, Follower, Heard},
    load::{Definition, Load, document},
    random::Random,
    torment::Tormentor,
};

const GUESTS: usize = 10;
const CLIENTS: usize = 4;
/// How much of the journal is shown when something is wrong.
const JOURNAL_SHOWN: usize = 2000;

/// Ends the load however the harness ends, and tells the tormentor when a client has failed.
struct Ending<'a> {
    over: &'a AtomicBool,
    failed: Sender<()>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.over.store(true, Ordering::Relaxed);
            // The tormentor may have finished.
            let _ = self.failed.send(());
        }
    }
}

/// Ends the follower however the comparison ends.
struct FollowersEnd<'a>(&'a AtomicU64);

impl Drop for FollowersEnd<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(1, Ordering::Relaxed);
        }
    }
}

/// What the journal's disk is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// It takes every line.
    Kept,
    /// It is full at times. What was told without a line the next control does not know: it tells of runs again, under
    /// numbers that were given before.
    Cut,
}

/// Torments an instance for a while and compares.
pub fn run(instance: &Instance, time: Duration, seed: u64) {
    run_while(instance, time, seed, Journal::Kept, |_| {});
}

/// The same while something else is wrong too: `disturb` goes on until its flag is set, and leaves nothing wrong.
pub fn run_while(instance: &Instance, time: Duration, seed: u64, kept: Journal, disturb: impl Fn(&AtomicBool) + Sync) {
    let names: Vec<String> = (0..GUESTS).map(|number| format!("g{number}")).collect();
    let before = warm_up(instance, &names);
    let gateway = Gateway::start(instance);
    let load = Load { instance, names, gateway: gateway.uri(), over: AtomicBool::new(false), tally: Mutex::default() };
    let listener = instance.terminal(&["event", "--all", "--loop", "--since", "0", "--output", "json"]);
    let until = AtomicU64::new(0);
    let (known, events, follower) = thread::scope(|scope| {
        let follower = scope.spawn(|| Follower::run(instance, 0, &until));
        let _end = FollowersEnd(&until);
        let mut known = torment(&load, time, seed, &disturb);
        if kept == Journal::Cut {
            known.values_mut().for_each(|definition| definition.cut_off = true);
        }
        let events = compare(instance, &listener, &known);
        until.store(events.last().expect("events").sequence, Ordering::Relaxed);
        (known, events, follower.join().unwrap())
    });
    report(&load, &events);
    if kept == Journal::Kept {
        let warned = listener.messages.text().contains("are gone");
        let wrong = numbers(instance, &events, (&follower, warned), &known);
        assert!(wrong.is_empty(), "{wrong:#?}\n{}", journal(instance));
    }
    drop(listener);
    instance.ok(&["list"]);
    let output = bulkhead_tests::run({
        let mut command = std::process::Command::new(instance.program("bulkhead"));
        command.args(["-c", &gateway.uri(), "list", "--all"]);
        instance.prepare(&mut command, instance.uid());
        command
    });
    assert_eq!(output.code, 0, "the gateway serves again: {output:?}\n{}", gateway.log());
    gateway.end();
    clean_up(instance, known.keys(), before);
}

/// What is wrong with the events' numbers and their order.
fn numbers(
    instance: &Instance,
    events: &[Heard],
    (follower, warned): (&Follower, bool),
    known: &BTreeMap<String, Definition>,
) -> Vec<String> {
    // A control that was killed while a definition changed reports a loss. The listener that stays is warned only once, so
    // the places of later losses come from the one that reconnects.
    let lost: &[u64] = if warned { &follower.lost_after } else { &[] };
    let mut wrong = events::gaps("the one who stays", first(events), events, lost);
    let from = first(&follower.heard);
    wrong.extend(events::gaps("the one who comes back", from, &follower.heard, &follower.lost_after));
    wrong.extend(events::differences(events, &follower.heard));
    wrong.extend(events::lives(events, known).1);
    wrong.extend(events::repeated_runs(instance));
    wrong
}

/// The number before the first event.
fn first(events: &[Heard]) -> u64 {
    events.first().expect("events").sequence - 1
}

/// Defines and starts all guests; returns what the daemon holds when none runs.
fn warm_up(instance: &Instance, names: &[String]) -> Size {
    let all = |verb: &str| {
        for name in names {
            instance.ok(&[verb, name]);
        }
    };
    for name in names {
        let path = instance.file(&format!("{name}.xml"), document(name, 0).as_bytes());
        instance.ok(&["define", path.to_str().unwrap()]);
    }
    all("start");
    all("destroy");
    let rest = account::rests(instance);
    assert!(rest.is_empty(), "{rest:#?}");
    let size = Size::of(instance);
    all("start");
    size
}

/// Load and torment; returns which definitions there may be.
fn torment(
    load: &Load<'_>,
    time: Duration,
    seed: u64,
    disturb: &(impl Fn(&AtomicBool) + Sync),
) -> BTreeMap<String, Definition> {
    let (failed, failures) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| disturb(&load.over));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let own: Vec<&String> = load.names.iter().skip(number).step_by(CLIENTS).collect();
                let random = Random::new(seed, 1 + number as u64);
                let ending = Ending { over: &load.over, failed: failed.clone() };
                scope.spawn(move || {
                    let _ending = ending;
                    load.client(random, &own)
                })
            })
            .collect();
        let mut tormentor = Tormentor::new(load.instance, Random::new(seed, 0));
        tormentor.run(time, &failures);
        println!("{}", tormentor.history.join("\n"));
        drop(tormentor);
        load.over.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

/// Compares until it adds up, or the time is over: what was asked of a stopped process may be done late.
fn compare(instance: &Instance, listener: &Terminal, known: &BTreeMap<String, Definition>) -> Vec<Heard> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let list = instance.list();
        let events = up_to_now(instance, listener);
        let mut wrong = account::lists(&list, &events::lives(&events, known).0, known);
        wrong.extend(account::definitions(instance, known));
        wrong.extend(account::processes(instance, &list));
        if wrong.is_empty() {
            return events;
        }
        let late = Instant::now() >= deadline;
        assert!(!late, "{}\n{wrong:#?}\n{:#?}", last(&events), instance.processes());
        let count = listener.output.len();
        // Whatever happens next may put it right.
        let _ = listener.output.wait(Duration::from_millis(500), |bytes| (bytes.len() > count).then_some(()));
    }
}

fn last(events: &[Heard]) -> String {
    let real = events.iter().filter(|event| event.domain != "marker");
    let lines: Vec<String> = real.rev().take(80).map(|event| format!("{event:?}")).collect();
    lines.join("\n")
}

/// Everything that has happened before the call: a marker of our own comes after it.
fn up_to_now(instance: &Instance, listener: &Terminal) -> Vec<Heard> {
    let path = instance.file("marker.xml", document("marker", 0).as_bytes());
    instance.ok(&["define", path.to_str().unwrap()]);
    instance.ok(&["undefine", "marker"]);
    let newest = instance.bulkhead(&["event", "--all", "--since", "0", "--timeout", "5", "--output", "json"]);
    let newest = events::parse(&newest.stdout).last().expect("the marker").sequence;
    let seen = listener.output.wait(LONG, |bytes| {
        let heard = events::parse(std::str::from_utf8(bytes).expect("text"));
        heard.last().is_some_and(|event| event.sequence >= newest).then_some(heard)
    });
    seen.unwrap_or_else(|| panic!("the listener did not hear of {newest}: {}", listener.messages.text()))
}

/// The newest lines of the journal, for those who look for the cause.
fn journal(instance: &Instance) -> String {
    let text = fs::read_to_string(instance.runtime_dir().join("journal/events")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(JOURNAL_SHOWN)..].join("\n")
}

fn report(load: &Load<'_>, events: &[Heard]) {
    for (what, count) in load.tally.lock().unwrap().iter() {
        println!("{count:6} {what}");
    }
    let started = events.iter().filter(|event| event.kind == "Started").count();
    let untold = events::untold(events);
    println!("{} events, {started} runs, {untold} changes of definitions without an event", events.len());
}

/// Ends all guests, undefines all domains; nothing may be left.
fn clean_up<'a>(instance: &Instance, names: impl Iterator<Item = &'a String>, before: Size) {
    for domain in instance.list().iter().filter(|domain| domain.id.is_some()) {
        instance.ok(&["destroy", &domain.name]);
    }
    for name in names {
        let output = instance.bulkhead(&["undefine", name]);
        assert!([0, 3].contains(&output.code), "{output:?}");
    }
    assert_eq!(instance.list(), []);
    let rest = account::rests(instance);
    assert!(rest.is_empty(), "{rest:#?}");
    let mut left = Vec::new();
    let clean = bulkhead_tests::wait_until(SETTLE, || {
        left = account::leftovers(instance);
        left.is_empty()
    });
    assert!(clean, "{left:#?}");
    let after = Size::comes_back(instance, before);
    println!("before {before:?}\nafter  {after:?}");
}
