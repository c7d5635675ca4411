//! A disk without room: what cannot be written fails with the reason and changes nothing, guests go on, their events still
//! reach those who listen, and with room everything works again.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use bulkhead_tests::{Guest, Instance, LONG, Role, SmallDisk, wait_for_no_entries};
use hostile_support::{Health, Raw};

mod hostile_support;

/// A system instance whose directories are all there, made by a daemon that has left again.
fn furnished(test: &str) -> Option<Instance> {
    let instance = Instance::system(test)?;
    instance.ok(&["list"]);
    instance.stop_daemon();
    Some(instance)
}

#[track_caller]
fn fails_for_want_of_room(instance: &Instance, arguments: &[&str], words: &[&str]) {
    let output = instance.fails(arguments, 1);
    for words in words.iter().chain(&["No space left on device", "hint:"]) {
        assert!(output.stderr.contains(words), "{arguments:?}: \"{words}\" is missing in:\n{}", output.stderr);
    }
}

#[test]
fn definitions_without_room_fail_whole_and_guests_go_on() {
    let test = "definitions_without_room_fail_whole_and_guests_go_on";
    let Some(instance) = furnished(test) else { return };
    let Some(disk) = SmallDisk::on(&instance.definitions_dir(), 0o700, 64, test) else { return };
    for name in ["runs", "rests"] {
        instance.define(&Guest::tiny(name));
    }
    instance.ok(&["start", "runs"]);
    let before = instance.ok(&["dumpxml", "rests"]);
    let on_disk = fs::read(instance.definitions_dir().join("rests.xml")).unwrap();
    let health = Health::of(&instance);
    disk.fill();

    let document = instance.document(&Guest::tiny("new"));
    let hint = "nothing was changed; see that the disk has room";
    fails_for_want_of_room(&instance, &["define", document.to_str().unwrap()], &["cannot define domain 'new'", hint]);
    let changed = before.replace("<vcpu>1</vcpu>", "<vcpu>2</vcpu>").replace("16384", "32768");
    assert_ne!(changed, before);
    let changed = instance.file("changed.xml", changed.as_bytes());
    let changed = changed.to_str().unwrap();
    fails_for_want_of_room(&instance, &["define", changed], &["cannot define domain 'rests'", hint]);
    // The old definition is what it was, and of the new ones there is no trace.
    assert_eq!(instance.ok(&["dumpxml", "rests"]), before);
    assert_eq!(fs::read(instance.definitions_dir().join("rests.xml")).unwrap(), on_disk);
    assert_eq!(disk.files(), ["rests.xml", "runs.xml"]);
    assert_eq!(instance.list().len(), 2);
    health.unharmed("a full disk");

    // What needs no room is done.
    instance.ok(&["suspend", "runs"]);
    instance.ok(&["resume", "runs"]);
    instance.ok(&["start", "rests"]);
    instance.ok(&["destroy", "rests"]);

    // A control that starts anew finds the same.
    instance.control().kill();
    assert_eq!(instance.ok(&["dumpxml", "rests"]), before);
    assert_eq!(instance.state("runs"), "running (unpaused)");

    disk.make_room();
    instance.ok(&["define", changed]);
    assert!(fs::read_to_string(instance.definitions_dir().join("rests.xml")).unwrap().contains("32768"));
    instance.ok(&["define", document.to_str().unwrap()]);
    instance.ok(&["autostart", "new"]);
    disk.fill();
    // What frees room needs none.
    instance.ok(&["undefine", "new"]);
    instance.ok(&["undefine", "rests"]);
    assert_eq!(disk.files(), ["autostart", "runs.xml"]);
}

#[test]
fn an_autostart_that_cannot_be_kept_is_not_promised() {
    let test = "an_autostart_that_cannot_be_kept_is_not_promised";
    let Some(instance) = furnished(test) else { return };
    let Some(disk) = SmallDisk::on(&instance.definitions_dir(), 0o700, 64, test) else { return };
    instance.define(&Guest::tiny("guest"));
    disk.fill();
    fails_for_want_of_room(&instance, &["autostart", "guest"], &["cannot set autostart of domain 'guest'"]);
    assert!(!instance.domain("guest").autostart, "an autostart that is not on the disk is shown");
    disk.make_room();
    instance.ok(&["autostart", "guest"]);
    assert!(instance.domain("guest").autostart);
}

#[test]
fn a_run_directory_without_room_ends_no_guest_and_loses_no_event() {
    let test = "a_run_directory_without_room_ends_no_guest_and_loses_no_event";
    let Some(instance) = furnished(test) else { return };
    let Some(journal) = SmallDisk::on(&instance.runtime_dir().join("journal"), 0o700, 64, test) else { return };
    let Some(guests) = SmallDisk::on(&instance.guests_dir(), 0o711, 64, test) else { return };
    for name in ["runs", "waits"] {
        instance.define(&Guest::tiny(name));
    }
    instance.ok(&["start", "runs"]);
    let mut watch = instance.watch();
    watch.expect("runs", "Started", "Booted");
    let health = Health::of(&instance);
    journal.fill();
    guests.fill();

    // More events than the last pages of their files still hold.
    for _ in 0..40 {
        instance.ok(&["suspend", "runs"]);
        instance.ok(&["resume", "runs"]);
    }
    for _ in 0..40 {
        watch.expect("runs", "Suspended", "Paused");
        watch.expect("runs", "Resumed", "Unpaused");
    }
    assert!(instance.log().contains("cannot be written"), "the journal was not full:\n{}", instance.log());
    let numbers: Vec<u64> = watch.seen().iter().map(|event| event.sequence).collect();
    assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "{numbers:?}");
    // Who comes later hears of them too.
    let again = instance.events_since(0);
    assert_eq!(again.iter().map(|event| event.sequence).collect::<Vec<_>>(), numbers);

    // A run needs a directory.
    let before = guests.files();
    for _ in 0..4 {
        let output = instance.fails(&["start", "waits"], 1);
        assert!(output.stderr.contains("cannot start domain 'waits'"), "{}", output.stderr);
        assert!(instance.state("waits").starts_with("shut off"));
    }
    assert_eq!(guests.files(), before, "a start that failed has left something");
    assert_eq!(instance.role(Role::Supervisor).len(), 1);
    assert_eq!(instance.state("runs"), "running (unpaused)");
    health.others_are_served();

    guests.make_room();
    journal.make_room();
    // The journal is open again after the next event.
    instance.ok(&["suspend", "runs"]);
    health.unharmed("a full run directory");
    instance.ok(&["start", "waits"]);
    watch.expect("waits", "Started", "Booted");
    instance.ok(&["destroy", "runs"]);
    watch.expect("runs", "Stopped", "Destroyed");
    instance.ok(&["start", "runs"]);
    watch.expect("runs", "Started", "Booted");
    // What came with room again is there for a control that starts anew, and numbers go on.
    let last = watch.seen().last().expect("events").sequence;
    instance.control().kill();
    let kept = instance.events_since(0);
    assert!(kept.iter().any(|event| event.short() == "waits Started Booted"), "{kept:#?}");
    assert_eq!(kept.last().map(|event| event.sequence), Some(last));
    assert!(kept.is_sorted_by(|a, b| a.sequence < b.sequence));
    for name in ["runs", "waits"] {
        instance.ok(&["destroy", name]);
    }
    assert!(wait_for_no_entries(&instance.guests_dir(), LONG), "{:?}", guests.files());
}

#[test]
fn a_start_without_room_says_what_there_is_no_room_for() {
    let test = "a_start_without_room_says_what_there_is_no_room_for";
    let Some(instance) = furnished(test) else { return };
    let Some(guests) = SmallDisk::on(&instance.guests_dir(), 0o711, 64, test) else { return };
    let Some(logs) = SmallDisk::on(&instance.log_dir().join("qemu"), 0o700, 64, test) else { return };
    instance.define(&Guest::tiny("guest"));
    // Which of two ways the news of a failed launch takes is a race: each is tried often enough to be seen.
    assert!(wait_for_no_entries(&instance.guests_dir(), LONG), "the emulator's probe has left something");
    for (small, words) in [(&guests, "make the run's directory"), (&logs, "open the guest's log")] {
        small.fill();
        for _ in 0..10 {
            fails_for_want_of_room(&instance, &["start", "guest"], &["cannot start domain 'guest'", words]);
        }
        small.make_room();
        instance.ok(&["start", "guest"]);
        instance.ok(&["destroy", "guest"]);
        assert!(wait_for_no_entries(&instance.guests_dir(), LONG), "the guest has left something");
        fs::remove_file(instance.log_dir().join("qemu/guest.log")).expect("its log");
    }
}

#[test]
fn a_guest_whose_end_cannot_be_logged_ends_all_the_same() {
    let test = "a_guest_whose_end_cannot_be_logged_ends_all_the_same";
    let Some(instance) = furnished(test) else { return };
    let Some(guests) = SmallDisk::on(&instance.guests_dir(), 0o711, 64, test) else { return };
    for name in ["destroyed", "killed"] {
        instance.define(&Guest::tiny(name));
        instance.ok(&["start", name]);
    }
    let mut watch = instance.watch();
    guests.fill();
    for name in ["destroyed", "killed"] {
        for _ in 0..30 {
            instance.ok(&["suspend", name]);
            instance.ok(&["resume", name]);
        }
    }
    instance.ok(&["destroy", "destroyed"]);
    watch.expect("destroyed", "Stopped", "Destroyed");
    instance.supervisor("killed").kill();
    watch.expect("killed", "Stopped", "Crashed");
    guests.make_room();
    assert!(wait_for_no_entries(&instance.guests_dir(), LONG), "{:?}", guests.files());
    for name in ["destroyed", "killed"] {
        instance.ok(&["start", name]);
    }
}

#[test]
fn a_log_directory_without_room_ends_nothing() {
    let test = "a_log_directory_without_room_ends_nothing";
    let Some(instance) = furnished(test) else { return };
    let Some(logs) = SmallDisk::on(&instance.log_dir(), 0o755, 64, test) else { return };
    for name in ["runs", "logged", "new"] {
        instance.define(&Guest::tiny(name));
    }
    for name in ["runs", "logged"] {
        instance.ok(&["start", name]);
    }
    instance.ok(&["destroy", "logged"]);
    let supervisor = instance.supervisor("runs");
    let health = Health::of(&instance);
    logs.fill();
    // Each of these is a line in control's log.
    for _ in 0..200 {
        let mut raw = Raw::connect(&instance.socket()).unwrap();
        raw.send(b"something to complain about, longer than a header is");
        raw.expect_dropped("nonsense");
    }
    for _ in 0..5 {
        instance.ok(&["suspend", "runs"]);
        instance.ok(&["resume", "runs"]);
    }
    health.unharmed("a full log");
    // A guest that has a log already starts and ends.
    instance.ok(&["start", "logged"]);
    instance.ok(&["destroy", "logged"]);
    let output = instance.bulkhead(&["start", "new"]);
    assert!(supervisor.is_alive());
    assert_eq!(instance.state("runs"), "running (unpaused)");
    health.unharmed("guests without a log");
    // A launcher that is asked to leave does, and another one comes, still without room.
    instance.stop_daemon();
    assert_eq!(instance.state("runs"), "running (unpaused)");
    logs.make_room();
    if output.code != 0 {
        instance.ok(&["start", "new"]);
    }
    instance.ok(&["destroy", "runs"]);
    instance.ok(&["start", "runs"]);
}

#[test]
fn a_cache_without_room_is_no_cache_and_no_more() {
    let test = "a_cache_without_room_is_no_cache_and_no_more";
    let Some(instance) = furnished(test) else { return };
    let dir = instance.root().join("var/cache/bulkhead/capabilities");
    let Some(cache) = SmallDisk::on(&dir, 0o700, 64, test) else { return };
    cache.fill();
    instance.create(&Guest::tiny("guest"));
    assert_eq!(cache.files(), [] as [&str; 0]);
    instance.ok(&["destroy", "guest"]);
    // Only a new control has to ask again.
    cache.make_room();
    instance.control().kill();
    instance.create(&Guest::tiny("guest"));
    assert_eq!(cache.files().len(), 1);
}

#[test]
fn a_guest_s_disk_without_room_stops_the_guest_and_says_why() {
    const TEST: &str = "a_guest_s_disk_without_room_stops_the_guest_and_says_why";
    let instance = Instance::session();
    let dir = instance.root().join("images");
    fs::create_dir(&dir).unwrap();
    let Some(small) = SmallDisk::on(&dir, 0o755, 64, TEST) else { return };
    let disk = dir.join("disk.img");
    fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    small.fill();
    let mut console = instance.boot(&instance.linux("a").disk(&disk, "raw"));
    let mut watch = instance.watch();
    console.line("dd if=/dev/zero of=/dev/vda bs=4k count=4 conv=fsync; echo $((6*7)) written");
    watch.expect("a", "Suspended", "I/O Error");
    assert_eq!(instance.state("a"), "paused (I/O error)");
    let told = instance.ok(&["--output", "json", "event", "--event", "io-error-reason", "--since", "0"]);
    let told: serde_json::Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    assert_eq!(told["data"]["reason"], "enospc", "{told:#}");
    assert_eq!(told["data"]["path"], disk.to_str().unwrap(), "{told:#}");
    // With room the guest goes on where it was: nothing that it wrote is lost.
    small.make_room();
    instance.ok(&["resume", "a"]);
    console.expect("42 written");
    instance.ok(&["destroy", "a"]);
}
