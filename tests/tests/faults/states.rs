//! State files that are missing, cut off, garbage, or of another release: guests that run are not lost, nothing runs twice,
//! and what cannot be read is neither believed nor overwritten.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bulkhead_tests::{Guest, Handle, Instance, LONG, wait_for_no_entries};

use crate::account;

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Missing,
    Empty,
    Half,
    Garbage,
    OtherRelease,
}

const ALL: [Damage; 5] = [Damage::Missing, Damage::Empty, Damage::Half, Damage::Garbage, Damage::OtherRelease];

impl Damage {
    fn apply(self, path: &Path) {
        if self == Damage::Missing {
            return fs::remove_file(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        let before = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&before).into_owned();
        let after = match self {
            Damage::Half => before[..before.len() / 2].to_vec(),
            Damage::Garbage => vec![0xA5; before.len().max(64)],
            // Every key of JSON, an element more in XML, a word before anything else.
            Damage::OtherRelease if text.contains("\":") => text.replace("\":", "_of_another_release\":").into_bytes(),
            Damage::OtherRelease if text.contains("</domain>") => {
                text.replace("</domain>", "<of_another_release/></domain>").into_bytes()
            }
            Damage::OtherRelease => [b"release 99: ", before.as_slice()].concat(),
            Damage::Missing | Damage::Empty => Vec::new(),
        };
        fs::write(path, after).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// Two guests that run, one of them without a definition, and a definition that is started with the host.
struct Furnished {
    instance: Instance,
    /// The QEMUs of `runs` and `transient`.
    qemus: Vec<Handle>,
    highest: u32,
}

impl Furnished {
    fn new() -> Furnished {
        let instance = Instance::session();
        instance.define(&Guest::tiny("runs"));
        instance.define(&Guest::tiny("rests"));
        instance.ok(&["autostart", "rests"]);
        let mut furnished = Furnished { instance, qemus: Vec::new(), highest: 0 };
        furnished.start();
        furnished
    }

    fn start(&mut self) {
        self.instance.ok(&["start", "runs"]);
        self.instance.create(&Guest::tiny("transient"));
        self.qemus = ["runs", "transient"].map(|name| self.instance.qemu(name)).into();
    }

    fn run_dir(&self) -> PathBuf {
        self.instance.guests_dir().join(self.instance.domain("runs").id.unwrap().to_string())
    }

    /// Damages a file while no daemon runs, and lets the next command start one.
    fn damage(&mut self, path: &Path, how: Damage) {
        let ids = self.instance.list().into_iter().filter_map(|domain| domain.id);
        self.highest = ids.max().unwrap().max(self.highest);
        self.instance.stop_daemon();
        how.apply(path);
        self.instance.ok(&["list", "--all"]);
    }

    /// Both guests are there, run once, can be ended, are told of, and new ones get new numbers.
    fn is_whole(&mut self, what: &str) {
        let instance = &self.instance;
        let list = instance.list();
        for name in ["runs", "transient"] {
            let found = list.iter().find(|domain| domain.name == name);
            assert!(found.is_some_and(|domain| domain.id.is_some()), "{what}: {name} is not active in {list:#?}");
        }
        assert!(self.qemus.iter().all(Handle::is_alive), "{what}: a guest has been ended");
        assert_ne!(instance.bulkhead(&["start", "runs"]).code, 0, "{what}: it runs already");
        // One that is started with the host may be on its way.
        let wrong = account::rests(instance);
        assert!(wrong.is_empty(), "{what}: {wrong:#?}");
        let fresh = instance.create(&Guest::tiny("fresh")).id.unwrap();
        assert!(fresh > self.highest, "{what}: number {fresh} was used before");
        self.highest = fresh;
        for name in ["fresh", "runs", "transient"] {
            instance.ok(&["destroy", name]);
        }
        assert!(!self.qemus.iter().any(Handle::is_alive), "{what}: destroyed is what it says");
        let events = instance.events_since(0);
        assert!(events.is_sorted_by(|one, other| one.sequence < other.sequence), "{what}: {events:#?}");
        for name in ["runs", "transient"] {
            let last = events.iter().rfind(|event| event.domain == name && event.kind == "Stopped");
            assert!(last.is_some_and(|event| event.detail == "Destroyed"), "{what}: {name} in {events:#?}");
        }
        // One that is started with the host may have been.
        if instance.domain("rests").id.is_some() {
            instance.ok(&["destroy", "rests"]);
        }
        assert!(wait_for_no_entries(&instance.guests_dir(), LONG), "{what}: a run is left");
        self.start();
    }
}

/// A file of the runtime directory, in every way that it can be damaged.
fn every_damage(file: impl Fn(&Furnished) -> PathBuf, damages: &[Damage]) {
    let mut furnished = Furnished::new();
    for damage in damages {
        let path = file(&furnished);
        furnished.damage(&path, *damage);
        furnished.is_whole(&format!("{} {damage:?}", path.display()));
    }
}

#[test]
fn a_run_s_record_may_be_lost() {
    every_damage(|furnished| furnished.run_dir().join("record"), &ALL);
}

#[test]
fn a_run_s_events_may_be_lost() {
    every_damage(|furnished| furnished.run_dir().join("events"), &ALL);
}

#[test]
fn a_supervisor_s_socket_may_be_lost() {
    every_damage(|furnished| furnished.run_dir().join("supervisor.sock"), &[Damage::Missing]);
}

#[test]
fn the_last_run_s_number_may_be_lost() {
    every_damage(|furnished| furnished.instance.runtime_dir().join("last_run"), &ALL);
}

#[test]
fn the_mark_of_the_boot_may_be_lost() {
    every_damage(|furnished| furnished.instance.runtime_dir().join("boot_id"), &[Damage::Missing, Damage::Empty]);
}

#[test]
fn the_journal_may_be_lost_and_says_so() {
    let mut furnished = Furnished::new();
    for damage in ALL {
        let last = furnished.instance.events_since(0).last().unwrap().sequence;
        let path = furnished.instance.runtime_dir().join("journal/events");
        let stays = furnished.instance.terminal(&["event", "--all", "--loop", "--since", &last.to_string()]);
        furnished.damage(&path, damage);
        // A listener that has `last` either goes on behind it, or is told that something is missing.
        let since = last.to_string();
        let arguments = ["event", "--all", "--since", &since, "--timeout", "0.2", "--output", "json"];
        let told = furnished.instance.bulkhead(&arguments);
        let first = crate::events::parse(&told.stdout).first().map(|event| event.sequence);
        let lost = told.stderr.contains("are gone");
        assert!(lost || first.is_none_or(|first| first == last + 1), "{damage:?}: {told:?}");
        assert!(lost, "{damage:?}: {last} is a number that this journal has never given, and nothing is said");
        furnished.is_whole(&format!("the journal {damage:?}"));
        let warned =
            stays.messages.wait(LONG, |bytes| String::from_utf8_lossy(bytes).contains("are gone").then_some(()));
        assert!(warned.is_some(), "{damage:?}: a listener that stayed has not been told: {}", stays.messages.text());
    }
}

#[test]
fn the_list_of_those_that_were_autostarted_may_be_lost() {
    every_damage(|furnished| furnished.instance.runtime_dir().join("journal/autostarted"), &ALL);
}

#[test]
fn what_emulators_can_do_may_be_lost() {
    let cached = |furnished: &Furnished| {
        let dir = furnished.instance.root().join(format!("user-{}/cache/capabilities", furnished.instance.uid()));
        fs::read_dir(dir).unwrap().next().expect("a cached emulator").unwrap().path()
    };
    every_damage(cached, &ALL);
}

#[test]
fn a_note_of_a_renaming_may_be_anything() {
    let note = |furnished: &Furnished| {
        let path = furnished.instance.definitions_dir().join("renaming");
        // As if a renaming had been cut off before its first step.
        let text = r#"{"uuid":"00000000-0000-4000-8000-000000000001","from":"runs","to":"rests","autostart":false}"#;
        fs::write(&path, text).unwrap();
        path
    };
    every_damage(note, &ALL);
}

#[test]
fn a_mark_for_autostart_may_be_lost() {
    let mut furnished = Furnished::new();
    let path = furnished.instance.definitions_dir().join("autostart/rests.xml");
    for (damage, marked) in [(Damage::Missing, false), (Damage::Empty, true)] {
        furnished.instance.ok(&["autostart", "rests"]);
        if damage == Damage::Empty {
            // Not a link any more: what stands there is a file without content.
            fs::remove_file(&path).unwrap();
            fs::write(&path, "").unwrap();
        }
        furnished.damage(&path, damage);
        let shown = furnished.instance.domain("rests").autostart;
        println!("{damage:?}: shown as {shown}");
        assert!(!shown || marked, "{damage:?}: a mark that is not there is shown");
        furnished.instance.ok(&["autostart", "rests", "--disable"]);
        assert!(!furnished.instance.domain("rests").autostart, "{damage:?}");
        assert!(fs::symlink_metadata(&path).is_err(), "{damage:?}: disabled, and the mark is there");
        furnished.is_whole(&format!("the mark {damage:?}"));
    }
}

#[test]
fn a_definition_that_cannot_be_read_is_left_alone() {
    let mut furnished = Furnished::new();
    for name in ["rests", "runs"] {
        let path = furnished.instance.definitions_dir().join(format!("{name}.xml"));
        let whole = fs::read(&path).unwrap();
        for damage in ALL {
            furnished.damage(&path, damage);
            let left = fs::read(&path).ok();
            let instance = &furnished.instance;
            if matches!(damage, Damage::Empty | Damage::Half | Damage::Garbage) && name == "rests" {
                assert!(instance.list().iter().all(|domain| domain.name != name), "{damage:?}");
                let document = instance.document(&Guest::tiny(name));
                let output = instance.bulkhead(&["define", document.to_str().unwrap()]);
                assert_eq!(output.code, 1, "{damage:?}: its name is given away: {output:?}");
            }
            let wrong = account::rests(instance);
            assert!(wrong.is_empty(), "{name} {damage:?}: {wrong:#?}");
            assert!(furnished.qemus.iter().all(Handle::is_alive), "{name} {damage:?}");
            assert!(instance.domain("runs").id.is_some(), "{name} {damage:?}");
            assert_eq!(fs::read(&path).ok(), left, "{name} {damage:?}: the file has been touched");
            // Whoever repairs the file has the definition back with the next daemon.
            instance.stop_daemon();
            fs::write(&path, &whole).unwrap();
            instance.ok(&["list", "--all"]);
            assert!(instance.domain(name).persistent, "{name} {damage:?}");
            furnished.is_whole(&format!("{name}.xml {damage:?}"));
        }
    }
}
