//! Random calls, deaths and late words, compared with a model that is too simple to be wrong.
#![allow(clippy::unwrap_used)] // Helpers of tests may fail like tests.

use std::collections::{BTreeMap, BTreeSet};

use api::consts::{LifecycleEvent, ListDomains, StartedDetail, StoppedDetail};
use proptest::{collection::vec, prelude::*, sample::Index};
use registry::{Destroy, Effect, Found, Phase, Registry, Removing, Run, Ticket};
use uuid::Uuid;

mod support;
use support::{Doc, Thing, UP, doc, uuid};

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    Define(usize, u128),
    Undefine(u128),
    Rename(u128, usize),
    Start(u128),
    Create(usize, u128),
    /// With a number of its own, or one that may be in use.
    Launched(Index, Option<u32>),
    Commit(Index),
    Cancel(Index),
    Started(Index),
    Unknown(Index),
    Ending(Index),
    Stopped(Index),
    Gone(Index),
    Adopt(Option<u128>, Option<usize>),
    Identify(Index, u128, usize),
    /// Of a run that is over, or never was.
    Late(u32),
    Destroy(u128),
    Autostart(u128),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    let uuid = || 1..4u128;
    let any = any::<Index>;
    prop_oneof![
        3 => (name(), uuid()).prop_map(|(name, uuid)| Step::Define(name, uuid)),
        1 => uuid().prop_map(Step::Undefine),
        2 => (uuid(), name()).prop_map(|(uuid, name)| Step::Rename(uuid, name)),
        4 => uuid().prop_map(Step::Start),
        3 => (name(), uuid()).prop_map(|(name, uuid)| Step::Create(name, uuid)),
        6 => (any(), prop::option::weighted(0.2, 1..6u32)).prop_map(|(which, run)| Step::Launched(which, run)),
        6 => any().prop_map(Step::Commit),
        1 => any().prop_map(Step::Cancel),
        3 => any().prop_map(Step::Started),
        1 => any().prop_map(Step::Unknown),
        1 => any().prop_map(Step::Ending),
        2 => any().prop_map(Step::Stopped),
        3 => any().prop_map(Step::Gone),
        2 => (prop::option::of(uuid()), prop::option::of(name())).prop_map(|(uuid, name)| Step::Adopt(uuid, name)),
        1 => (any(), uuid(), name()).prop_map(|(which, uuid, name)| Step::Identify(which, uuid, name)),
        1 => (0..40u32).prop_map(Step::Late),
        1 => uuid().prop_map(Step::Destroy),
        1 => uuid().prop_map(Step::Autostart),
    ]
}

/// A run as the world has it, whatever the books say.
#[derive(Debug, Default)]
struct Living {
    uuid: Option<Uuid>,
    name: Option<String>,
    started: bool,
    stops: usize,
}

#[derive(Default)]
struct World {
    books: Registry<Thing>,
    defined: BTreeMap<Uuid, String>,
    living: BTreeMap<Run, Living>,
    starts: BTreeMap<Ticket, (Uuid, String)>,
    changes: BTreeMap<Ticket, Change>,
    last_run: u32,
}

#[derive(Clone, Debug)]
enum Change {
    Define(Doc),
    Undefine(Uuid),
    Rename(Doc),
}

impl World {
    fn any_run(&self, which: Index) -> Option<Run> {
        (!self.living.is_empty()).then(|| *which.get(&self.living.keys().collect::<Vec<_>>()).to_owned())
    }

    fn any_start(&self, which: Index) -> Option<Ticket> {
        (!self.starts.is_empty()).then(|| **which.get(&self.starts.keys().collect::<Vec<_>>()))
    }

    fn any_change(&self, which: Index) -> Option<Ticket> {
        (!self.changes.is_empty()).then(|| **which.get(&self.changes.keys().collect::<Vec<_>>()))
    }

    /// A start was let through: nothing that lives may be the same.
    fn began(&mut self, ticket: Ticket, uuid: Uuid, name: String) {
        for (run, living) in &self.living {
            assert!(living.uuid != Some(uuid) && living.name.as_deref() != Some(&name), "{run} is {living:?}");
        }
        assert!(self.starts.values().all(|(other, called)| *other != uuid && *called != name));
        self.starts.insert(ticket, (uuid, name));
    }

    fn heard(&mut self, effects: &[Effect]) {
        for effect in effects {
            let Effect::Event(event) = effect else { continue };
            let Some(living) = event.run.and_then(|run| self.living.get_mut(&run)) else { continue };
            match event.event {
                LifecycleEvent::Started => living.started = true,
                LifecycleEvent::Stopped => living.stops += 1,
                _ => {}
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Define(name, number) => {
                if let Ok(ticket) = self.books.begin_define(NAMES[name], uuid(number)) {
                    self.changes.insert(ticket, Change::Define(doc(NAMES[name], number)));
                }
            }
            Step::Undefine(number) => {
                if let Ok(ticket) = self.books.begin_undefine(&uuid(number), Removing::default()) {
                    assert!(self.defined.contains_key(&uuid(number)));
                    self.changes.insert(ticket, Change::Undefine(uuid(number)));
                }
            }
            Step::Rename(number, name) => {
                if let Ok(ticket) = self.books.begin_rename(&uuid(number), NAMES[name]) {
                    self.changes.insert(ticket, Change::Rename(doc(NAMES[name], number)));
                }
            }
            Step::Start(number) => {
                if let Ok(ticket) = self.books.begin_start(&uuid(number), UP) {
                    let name = self.defined[&uuid(number)].clone();
                    self.began(ticket, uuid(number), name);
                }
            }
            Step::Create(name, number) => {
                if let Ok(ticket) = self.books.begin_create(NAMES[name], uuid(number), UP) {
                    self.began(ticket, uuid(number), NAMES[name].into());
                }
            }
            Step::Launched(which, number) => self.launch(which, number),
            Step::Commit(which) => self.commit(which),
            Step::Cancel(which) => {
                if let Some(ticket) = self.any_start(which).or_else(|| self.any_change(which)) {
                    let effects = self.books.cancel(ticket).unwrap();
                    self.heard(&effects);
                    self.starts.remove(&ticket);
                    self.changes.remove(&ticket);
                    assert!(self.books.cancel(ticket).is_err());
                }
            }
            Step::Adopt(number, name) => self.adopt(number.map(uuid), name.map(|name| NAMES[name].to_owned())),
            Step::Late(number) => self.late(Run(number)),
            Step::Destroy(number) => self.destroy(&uuid(number)),
            Step::Autostart(number) => {
                let result = self.books.set_autostart(&uuid(number), true);
                assert_eq!(result.is_ok(), self.defined.contains_key(&uuid(number)));
            }
            Step::Started(_)
            | Step::Unknown(_)
            | Step::Ending(_)
            | Step::Stopped(_)
            | Step::Gone(_)
            | Step::Identify(..) => self.of_a_run(step),
        }
    }

    fn of_a_run(&mut self, step: &Step) {
        let (Step::Started(which)
        | Step::Unknown(which)
        | Step::Ending(which)
        | Step::Stopped(which)
        | Step::Gone(which)
        | Step::Identify(which, ..)) = step
        else {
            return;
        };
        let Some(run) = self.any_run(*which) else { return };
        match step {
            Step::Started(_) => {
                let phase = self.books.by_run(run).unwrap().live().phase();
                let result = self.books.started(run, UP, StartedDetail::Booted);
                assert_eq!(result.is_ok(), phase != Phase::Ending);
                self.heard(&result.unwrap_or_default());
            }
            Step::Unknown(_) => self.books.unknown(run).unwrap(),
            Step::Ending(_) => self.books.ending(run).unwrap(),
            Step::Stopped(_) => {
                let effects = self.books.stopped(run, 1, StoppedDetail::Shutdown).unwrap();
                self.heard(&effects);
            }
            Step::Gone(_) => self.gone(run),
            Step::Identify(_, number, name) => {
                let stray = self.books.by_run(run).unwrap().is_stray();
                self.books.identify(run, uuid(*number), NAMES[*name]).unwrap();
                let Some(living) = self.living.get_mut(&run) else { return };
                if stray {
                    living.uuid = Some(uuid(*number));
                }
                if stray || living.name.is_none() {
                    living.name = Some(NAMES[*name].into());
                }
            }
            _ => {}
        }
    }

    fn gone(&mut self, run: Run) {
        let (_, effects) = self.books.gone(run, 1, StoppedDetail::Crashed).unwrap();
        self.heard(&effects);
        let living = self.living.remove(&run).unwrap();
        assert_eq!(living.stops, usize::from(living.started), "each start has one end");
        self.late(run);
    }

    fn launch(&mut self, which: Index, number: Option<u32>) {
        let Some(ticket) = self.any_start(which) else { return };
        self.last_run += 1;
        let run = Run(number.unwrap_or(self.last_run + 10));
        let result = self.books.launched(ticket, run);
        assert_eq!(result.is_err(), self.living.contains_key(&run));
        if result.is_ok() {
            let (uuid, name) = self.starts.remove(&ticket).unwrap();
            self.living.insert(run, Living { uuid: Some(uuid), name: Some(name), ..Living::default() });
            assert!(self.books.launched(ticket, run).is_err());
        }
    }

    fn commit(&mut self, which: Index) {
        let Some(ticket) = self.any_change(which) else { return };
        let change = self.changes.remove(&ticket).unwrap();
        let result = match &change {
            Change::Define(doc) => self.books.commit_define(ticket, doc.clone()),
            Change::Undefine(_) => self.books.commit_undefine(ticket),
            Change::Rename(doc) => self.books.commit_rename(ticket, doc.clone()),
        };
        let Ok(effects) = result else { return };
        self.heard(&effects);
        match change {
            Change::Define(doc) | Change::Rename(doc) => drop(self.defined.insert(doc.uuid, doc.name)),
            Change::Undefine(uuid) => drop(self.defined.remove(&uuid)),
        }
    }

    fn adopt(&mut self, uuid: Option<Uuid>, name: Option<String>) {
        self.last_run += 1;
        let run = Run(self.last_run + 10);
        self.books.adopt(Found { run, uuid, name: name.clone() }, Some(UP).filter(|_| run.0.is_multiple_of(2)));
        // It was started before these books were opened.
        self.living.insert(run, Living { uuid, name, started: true, stops: 0 });
    }

    fn late(&mut self, run: Run) {
        if self.living.contains_key(&run) {
            return;
        }
        assert!(self.books.started(run, UP, StartedDetail::Booted).is_err());
        assert!(self.books.unknown(run).is_err() && self.books.ending(run).is_err());
        assert!(self.books.stopped(run, 1, StoppedDetail::Shutdown).is_err());
        assert!(self.books.gone(run, 1, StoppedDetail::Crashed).is_err());
        assert!(self.books.identify(run, uuid(1), "a").is_err() && self.books.live_mut(run).is_none());
    }

    fn destroy(&mut self, uuid: &Uuid) {
        match self.books.destroy(uuid) {
            Ok(Destroy::Cancel(ticket)) => assert_eq!(self.starts[&ticket].0, *uuid),
            Ok(Destroy::Kill(run)) => {
                assert!(self.living.contains_key(&run));
                self.books.ending(run).unwrap();
            }
            Err(_) => assert!(self.books.get(uuid).is_none_or(|object| !object.is_active())),
        }
    }

    fn check(&self) {
        let books = &self.books;
        // No run is lost or made up; each can be destroyed.
        let known: Vec<Run> = books.runs().map(|(run, _)| run).collect();
        assert_eq!(known, self.living.keys().copied().collect::<Vec<_>>());
        for (run, object) in books.runs() {
            assert!(object.is_active());
            assert_eq!((object.run(), books.destroy(&object.uuid())), (Some(run), Ok(Destroy::Kill(run))));
        }
        // Each object is listed once, active ones first, under a name and a UUID that are its alone.
        let listed: Vec<_> = books.iter().collect();
        assert_eq!(listed.len(), books.count());
        let names: BTreeSet<&str> = listed.iter().map(|object| object.name()).collect();
        let uuids: BTreeSet<Uuid> = listed.iter().map(|object| object.uuid()).collect();
        assert_eq!((names.len(), uuids.len()), (listed.len(), listed.len()));
        let active = listed.iter().filter(|object| object.is_active()).count();
        assert_eq!(active, self.living.len() + self.starts.len());
        assert_eq!((active, listed.len() - active), (books.count_active(), books.count_inactive()));
        assert_eq!(books.list(ListDomains::ACTIVE).count(), active);
        assert!(listed.iter().is_sorted_by_key(|object| !object.is_active()));
        for object in &listed {
            assert_eq!(books.by_name(object.name()).map(|found| found.uuid()), Some(object.uuid()));
            assert!(object.is_active() || object.is_persistent(), "nothing is left of what is gone");
        }
        // Definitions are those that were stored.
        let defined = listed.iter().filter(|object| object.is_persistent());
        let defined: BTreeMap<Uuid, String> =
            defined.map(|o| (o.uuid(), o.definition().unwrap().name.clone())).collect();
        assert_eq!(defined, self.defined);
        assert_eq!(books.reservations().count(), self.starts.len() + self.changes.len());
    }

    /// When everything has ended, everything that is defined can be started.
    fn finish(mut self) {
        for ticket in self.starts.keys().chain(self.changes.keys()).copied().collect::<Vec<_>>() {
            let effects = self.books.cancel(ticket).unwrap();
            self.heard(&effects);
        }
        self.starts.clear();
        self.changes.clear();
        for run in self.living.keys().copied().collect::<Vec<_>>() {
            self.gone(run);
        }
        self.check();
        assert_eq!(self.books.count_active(), 0);
        for uuid in self.defined.keys() {
            self.books.begin_start(uuid, UP).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_no_run_is_lost_and_none_runs_twice(steps in vec(step(), 1..80)) {
        let mut world = World::default();
        for step in &steps {
            world.take(step);
            world.check();
        }
        world.finish();
    }
}
