//! The harness where something else is short too: room on the disk, descriptors. And the clock.

use std::{
    collections::BTreeSet,
    process::Command,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use bulkhead_tests::{Guest, Instance, LONG, Role, SmallDisk, run, skip, wait_for_no_entries};

use crate::{
    account, alone,
    harness::{self, Journal},
    random::Random,
    seed, time,
};

#[test]
fn a_host_adds_up_after_its_disks_were_full_and_any_process_was_killed() {
    let test = "a_host_adds_up_after_its_disks_were_full_and_any_process_was_killed";
    let _alone = alone();
    let Some(instance) = Instance::system(test) else { return };
    instance.ok(&["list"]);
    instance.stop_daemon();
    let places = [
        (instance.definitions_dir(), 0o700),
        (instance.guests_dir(), 0o711),
        (instance.runtime_dir().join("journal"), 0o700),
    ];
    let mut disks = Vec::new();
    for (dir, mode) in &places {
        let Some(disk) = SmallDisk::on(dir, *mode, 1024, test) else { return };
        disks.push(disk);
    }
    let seed = seed();
    let disturb = |over: &AtomicBool| fill_now_and_then(&disks, over, Random::new(seed, 100));
    harness::run_while(&instance, time(), seed, Journal::Cut, disturb);
    instance.stop_daemon();
}

/// Fills one disk after the other for a moment.
fn fill_now_and_then(disks: &[SmallDisk], over: &AtomicBool, mut random: Random) {
    let (_kept, never) = mpsc::channel::<()>();
    let mut pause = |from, to| {
        // Nobody sends: this is a pause of random length, which is what a disk that fills up looks like.
        let _ = never.recv_timeout(Duration::from_millis(random.within(from..to)));
        random.within(0..u64::try_from(disks.len()).unwrap())
    };
    while !over.load(Ordering::Relaxed) {
        let disk = &disks[usize::try_from(pause(100, 800)).unwrap()];
        disk.fill();
        pause(100, 1500);
        disk.make_room();
    }
}

/// Starts the daemon with so many descriptors, which neither it nor what it starts can raise.
fn start_with_descriptors(instance: &Instance, most: u32) {
    let mut starter = Command::new("/bin/sh");
    starter.args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\"")]);
    starter.arg(instance.program("bulkhead")).args(["-c", instance.uri(), "list"]);
    instance.prepare(&mut starter, instance.uid());
    let output = run(starter);
    assert_eq!(output.code, 0, "{output:?}");
}

#[test]
fn few_descriptors_cost_starts_and_no_guest() {
    let _alone = alone();
    let instance = Instance::session();
    let names: Vec<String> = (0..10).map(|number| format!("g{number}")).collect();
    for name in &names {
        instance.define(&Guest::tiny(name));
    }
    // A launcher at rest, what a start needs for a moment, and one for each guest.
    let rest = u32::try_from(account::descriptors(instance.launcher().pid)).unwrap();
    for guests in [4, 6, 8] {
        let most = rest + 7 + guests;
        instance.stop_daemon();
        start_with_descriptors(&instance, most);
        let mut started = BTreeSet::new();
        for name in &names {
            let output = instance.bulkhead(&["start", name]);
            assert!([0, 1].contains(&output.code), "{most}: {output:?}");
            if output.code == 0 {
                started.insert(name.clone());
            }
            let output = instance.bulkhead(&["list", "--all"]);
            assert_eq!(output.code, 0, "{most}: {output:?}");
        }
        println!("with {most} descriptors {} guests", started.len());
        assert!(!started.is_empty(), "{most} are too few for any guest");
        assert!(started.len() < names.len(), "{most} are not few: all have been started");
        let active = |instance: &Instance| -> BTreeSet<String> {
            instance.list().into_iter().filter(|domain| domain.id.is_some()).map(|domain| domain.name).collect()
        };
        assert_eq!(active(&instance), started, "{most}: a start that failed is no guest");
        assert_eq!(instance.role(Role::Qemu).len(), started.len(), "{most}");
        // Guests have no descriptor that another control needs.
        let (launcher, control) = (instance.launcher(), instance.control());
        control.kill();
        assert_eq!(active(&instance), started, "{most}: guests are lost\n{}", instance.log());
        assert!(launcher.is_alive(), "{most}: the launcher has ended\n{}", instance.log());
        // The next launcher finds all guests with as few, too.
        let control = instance.control();
        control.kill();
        launcher.kill();
        start_with_descriptors(&instance, most);
        assert_eq!(active(&instance), started, "{most}: guests are lost\n{}", instance.log());
        let documents = started.iter().map(|name| instance.bulkhead(&["dumpxml", name]));
        assert!(documents.into_iter().all(|output| output.code == 0), "{most}");
        for name in &started {
            instance.ok(&["destroy", name]);
        }
        assert!(wait_for_no_entries(&instance.guests_dir(), LONG), "{most}");
        let wrong = account::rests(&instance);
        assert!(wrong.is_empty(), "{most}: {wrong:#?}");
        // With room again there are starts again.
        instance.ok(&["start", "g0"]);
        instance.ok(&["destroy", "g0"]);
    }
}

#[test]
fn a_clock_that_jumps_changes_nothing() {
    // A time namespace has no CLOCK_REALTIME of its own, and a preloaded library would not be what a host does.
    let reason = "the clock of the whole host would have to be set, and everybody on it would see that";
    skip("a_clock_that_jumps_changes_nothing", reason);
}
