//! Many guests at once.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeSet, thread};

use bulkhead_tests::{Guest, Instance, Role};

const GUESTS: usize = 10;

/// Runs a command for every guest, all at the same time.
fn all(instance: &Instance, names: &[String], verb: &str) {
    thread::scope(|scope| {
        for name in names {
            scope.spawn(move || instance.ok(&[verb, name]));
        }
    });
}

fn ten_guests(instance: &Instance) {
    let names: Vec<String> = (0..GUESTS).map(|number| format!("guest-{number}")).collect();
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(move || instance.create(&Guest::tiny(name)));
        }
    });
    let list = instance.list();
    assert_eq!(list.len(), GUESTS);
    assert!(list.iter().all(|domain| domain.state == "running"), "{list:#?}");
    let ids: BTreeSet<u32> = list.iter().filter_map(|domain| domain.id).collect();
    assert_eq!(ids.len(), GUESTS, "each has a number of its own");
    let supervisors: BTreeSet<u32> = list.iter().filter_map(|domain| domain.supervisor_pid).collect();
    assert_eq!(supervisors.len(), GUESTS, "each has a supervisor of its own");
    let parents: BTreeSet<u32> = instance.role(Role::Qemu).iter().map(|qemu| qemu.parent).collect();
    assert_eq!(parents, supervisors, "each supervisor has its QEMU");

    all(instance, &names, "suspend");
    assert_eq!(instance.ok(&["list", "--state-paused", "--name"]).lines().count(), GUESTS);
    all(instance, &names, "resume");
    assert_eq!(instance.ok(&["list", "--state-running", "--name"]).lines().count(), GUESTS);
    all(instance, &names, "destroy");
    assert_eq!(instance.list(), []);
}

#[test]
fn ten_guests_in_a_session() {
    ten_guests(&Instance::ordinary());
}

#[test]
fn ten_guests_on_the_host_have_uids_of_their_own() {
    let Some(instance) = Instance::system("ten_guests_on_the_host_have_uids_of_their_own") else { return };
    let first = instance.create(&Guest::tiny("first"));
    let second = instance.create(&Guest::tiny("second"));
    let uid = |name: &str| {
        let qemu = instance.qemu(name);
        instance.processes().into_iter().find(|process| process.pid == qemu.pid).unwrap().uid
    };
    assert_ne!(uid("first"), uid("second"));
    assert!(uid("first") != 0 && uid("second") != 0);
    assert_ne!(first.supervisor_pid, second.supervisor_pid);
    instance.ok(&["destroy", "first"]);
    instance.ok(&["destroy", "second"]);
    ten_guests(&instance);
}
