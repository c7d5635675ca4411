//! Anything that clients, guests, supervisors, the launcher and the kernel may do, in any order, and what must hold all the
//! same: a guest runs once, what lives is listed, what is called destroyed is gone, every call is answered, every end is told
//! once, and when peace comes nothing is left over.

use std::{collections::BTreeMap, time::Duration};

use api::{
    Call, Event, Reply, bulkhead,
    consts::{DomainState, LifecycleEvent},
};
use proptest::prelude::*;
use supervisor::lifecycle::{Kind, State};

use super::{
    bed::{AGES, Bed, Manner},
    create, define, destroy, dump, resume, start, subscribe, suspend, undefine, uuid,
};

const GUESTS: [&str; 3] = ["a", "b", "c"];

/// What may happen; a number is that of a guest.
#[derive(Clone, Copy, Debug)]
enum Step {
    Define(usize),
    Undefine(usize),
    Start(usize),
    Create(usize),
    Destroy(usize),
    Suspend(usize),
    Resume(usize),
    Dump(usize),
    /// The kernel ends its processes.
    Dies(usize),
    /// The guest powers itself off.
    PowersOff(usize),
    /// Its supervisor is stopped, or goes on.
    Stopped(usize, bool),
    /// Its supervisor closes its connections.
    HangsUp(usize),
    Launches(Manner),
    Dials(Manner),
    Kills(Manner),
    Boots(Manner),
    /// The launcher does what it has put off, and guests boot.
    GoOn,
    /// Control is killed.
    Restart,
    Later(u64),
    Rest,
}

fn manner() -> impl Strategy<Value = Manner> {
    prop_oneof![3 => Just(Manner::Well), 1 => Just(Manner::Later), 1 => Just(Manner::Refuse)]
}

fn step() -> impl Strategy<Value = Step> {
    let guest = || 0..GUESTS.len();
    prop_oneof![
        3 => guest().prop_map(Step::Define),
        1 => guest().prop_map(Step::Undefine),
        6 => guest().prop_map(Step::Start),
        2 => guest().prop_map(Step::Create),
        4 => guest().prop_map(Step::Destroy),
        1 => guest().prop_map(Step::Suspend),
        1 => guest().prop_map(Step::Resume),
        1 => guest().prop_map(Step::Dump),
        2 => guest().prop_map(Step::Dies),
        2 => guest().prop_map(Step::PowersOff),
        2 => (guest(), any::<bool>()).prop_map(|(guest, stopped)| Step::Stopped(guest, stopped)),
        2 => guest().prop_map(Step::HangsUp),
        1 => manner().prop_map(Step::Launches),
        1 => manner().prop_map(Step::Dials),
        // A kill is not refused: it has no answer.
        1 => prop_oneof![Just(Manner::Well), Just(Manner::Later)].prop_map(Step::Kills),
        1 => manner().prop_map(Step::Boots),
        2 => Just(Step::GoOn),
        1 => Just(Step::Restart),
        3 => prop_oneof![Just(1_u64), Just(3), Just(20), Just(90)].prop_map(Step::Later),
        4 => Just(Step::Rest),
    ]
}

/// A bed in which anything happens, and what is known of it.
struct World {
    bed: Bed,
    client: usize,
    /// Calls without an answer; of a destroy, the runs that it is about.
    open: BTreeMap<u64, Vec<u32>>,
    /// Control was killed between a definition's file and its event.
    may_lose: bool,
}

impl World {
    fn new() -> World {
        let mut bed = Bed::new();
        let client = bed.client();
        World { bed, client, open: BTreeMap::new(), may_lose: false }
    }

    fn call(&mut self, call: &Call, about: Vec<u32>) {
        let serial = self.bed.call(self.client, call);
        self.open.insert(serial, about);
    }

    fn take(&mut self, step: Step) {
        let alive = |bed: &Bed, guest: usize| bed.launcher.alive(uuid(GUESTS[guest])).first().copied();
        match step {
            Step::Define(guest) => self.call(&define(GUESTS[guest]), Vec::new()),
            Step::Undefine(guest) => self.call(&undefine(GUESTS[guest]), Vec::new()),
            Step::Start(guest) => self.call(&start(GUESTS[guest]), Vec::new()),
            Step::Create(guest) => self.call(&create(GUESTS[guest]), Vec::new()),
            Step::Destroy(guest) => {
                let about = alive(&self.bed, guest).into_iter().collect();
                self.call(&destroy(GUESTS[guest]), about);
            }
            Step::Suspend(guest) => self.call(&suspend(GUESTS[guest]), Vec::new()),
            Step::Resume(guest) => self.call(&resume(GUESTS[guest]), Vec::new()),
            Step::Dump(guest) => self.call(&dump(GUESTS[guest]), Vec::new()),
            Step::Dies(guest) => {
                if let Some(run) = alive(&self.bed, guest) {
                    self.bed.launcher.die(run);
                }
            }
            Step::PowersOff(guest) => {
                let process = alive(&self.bed, guest).and_then(|run| self.bed.launcher.runs.get_mut(&run));
                if let Some(process) = process.filter(|process| process.is_up()) {
                    process.report(Kind::STOPPED_SHUTDOWN, State::SHUTOFF_SHUTDOWN);
                }
            }
            Step::Stopped(guest, stopped) => {
                if let Some(process) = alive(&self.bed, guest).and_then(|run| self.bed.launcher.runs.get_mut(&run)) {
                    process.stopped = stopped;
                }
            }
            Step::HangsUp(guest) => {
                if let Some(process) = alive(&self.bed, guest).and_then(|run| self.bed.launcher.runs.get_mut(&run)) {
                    process.hang_up();
                }
            }
            Step::Launches(manner) => self.bed.launcher.launches = manner,
            Step::Dials(manner) => self.bed.launcher.dials = manner,
            Step::Kills(manner) => self.bed.launcher.kills = manner,
            Step::Boots(manner) => self.bed.launcher.boots = manner,
            Step::GoOn => {
                self.bed.launcher.go_on();
                for process in self.bed.launcher.runs.values_mut() {
                    process.boots = Manner::Well;
                }
            }
            Step::Restart => {
                self.may_lose |= self.bed.control.note.is_changing();
                self.bed.restart();
                self.client = self.bed.client();
                self.open.clear();
            }
            Step::Later(seconds) => {
                self.bed.disks_answer();
                self.bed.clients_are_greeted();
                self.bed.put_forward(Duration::from_secs(seconds));
                self.bed.turns(2);
            }
            Step::Rest => self.rest(),
        }
        self.bed.turns(2);
    }

    /// Waits for rest, and looks at what has been answered.
    fn rest(&mut self) {
        self.bed.rest();
        for (serial, answer) in std::mem::take(&mut self.bed.clients[self.client].answers) {
            let about = self.open.remove(&serial).expect("a call that is open");
            let lives = |run: &u32| self.bed.launcher.runs.get(run).is_some_and(|process| process.alive);
            if answer.is_ok() {
                assert_eq!(about.into_iter().find(lives), None, "a destroyed run lives");
            }
        }
        for name in GUESTS {
            if !self.bed.launcher.alive(uuid(name)).is_empty() {
                let listed = self.bed.listed(name).map(|(state, _)| state);
                assert!(listed.is_some_and(|state| state != DomainState::Shutoff), "{name} lives and is {listed:?}");
            }
        }
    }

    /// Everything goes well from now on.
    fn peace(&mut self) {
        let launcher = &mut self.bed.launcher;
        (launcher.launches, launcher.dials) = (Manner::Well, Manner::Well);
        (launcher.kills, launcher.boots) = (Manner::Well, Manner::Well);
        for process in launcher.runs.values_mut() {
            process.stopped = false;
        }
        self.take(Step::GoOn);
        for _ in 0..4 {
            self.rest();
            self.bed.put_forward(AGES);
        }
        self.rest();
    }

    fn check_peace(&mut self) {
        assert_eq!(self.open.keys().copied().collect::<Vec<_>>(), [0; 0], "calls without an answer");
        assert!(self.bed.control.starts.is_empty(), "starts are left");
        assert_eq!(self.bed.control.objects.reservations().count(), 0, "names are left reserved");
        let dead = self.bed.launcher.runs.iter().find(|(_, process)| !process.alive).map(|(run, _)| *run);
        assert_eq!(dead, None, "a dead run is not retired");
        assert_eq!(
            self.bed.control.guests.len(),
            self.bed.launcher.runs.len(),
            "guests without a run, or runs without"
        );
        for name in GUESTS {
            let alive = self.bed.launcher.alive(uuid(name));
            let listed = self.bed.listed(name);
            let up = listed.is_some_and(|(state, _)| state != DomainState::Shutoff);
            assert_eq!(up, !alive.is_empty(), "{name}: {listed:?} and {alive:?}");
            if let Some(run) = alive.first() {
                let state = self.bed.launcher.runs[run].state().state;
                assert_eq!(listed.unwrap().0 as i32, state, "{name}: its supervisor is asked, not remembered");
            }
            let stored = self.bed.instance().definitions_dir().join(format!("{name}.xml")).exists();
            assert_eq!(listed.is_some_and(|(_, persistent)| persistent), stored, "{name}: is it defined?");
        }
    }

    /// What a client is told that has missed everything.
    fn check_events(&mut self) {
        let client = self.bed.client();
        let subscribed = self.bed.ask(client, &subscribe(Some(0))).unwrap();
        let Reply::BulkheadEventsSubscribe(bulkhead::EventsSubscribeRet { lost, .. }) = subscribed else { panic!() };
        assert!(!lost || self.may_lose, "no event is lost but with a control that was killed within a change");
        let numbers: Vec<u64> = self.bed.clients[client].events.iter().filter_map(number).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        for name in GUESTS {
            let of_definition = |event: &&Event| {
                let changes = [LifecycleEvent::Defined as i32, LifecycleEvent::Undefined as i32];
                matches!(event, Event::BulkheadDomainEvent(event) if event.dom.name == name && changes.contains(&event.event))
            };
            let told = match self.bed.clients[client].events.iter().rfind(of_definition) {
                Some(Event::BulkheadDomainEvent(event)) => event.event == LifecycleEvent::Defined as i32,
                _ => false,
            };
            let stored = self.bed.instance().definitions_dir().join(format!("{name}.xml")).exists();
            assert!(told == stored || lost, "{name} is defined: {stored}, told: {told}, and nothing is called lost");
        }
        // Clients learn no run's number of its end, so each run's life is read where they are told from.
        let mut lives = BTreeMap::<u32, (bool, bool)>::new();
        let (_, entries) = self.bed.control.journal.after(0);
        for entry in entries {
            let Some(run) = entry.id else { continue };
            let (started, stopped) = lives.entry(run).or_default();
            assert!(!*stopped, "run {run} of '{}' does something after its end", entry.name);
            if entry.event == LifecycleEvent::Started as i32 {
                assert!(!std::mem::replace(started, true), "run {run} of '{}' is started twice", entry.name);
            }
            *stopped = entry.event == LifecycleEvent::Stopped as i32;
        }
        for (run, (started, stopped)) in lives {
            let alive = self.bed.launcher.runs.contains_key(&run);
            assert_eq!((alive, started && !stopped), (alive, alive), "run {run}: the events and the kernel");
        }
    }
}

fn number(event: &Event) -> Option<u64> {
    match event {
        Event::BulkheadDomainEvent(event) => Some(event.sequence),
        _ => None,
    }
}

/// As many cases as `PROPTEST_CASES` says, or so many that nobody waits for them.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(96)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_guest_is_lost(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.peace();
        world.check_peace();
        world.check_events();
        world.take(Step::Restart);
        world.peace();
        world.check_peace();
        world.check_events();
    }
}
