//! Many definitions and many guests at once, three times over: nothing is left, and the daemon is as large as it was.
//!
//! `BULKHEAD_FAULT_GUESTS` is how many guests (20 by default; 150 before a release, if there is memory for 40 MiB each).

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use api::{Call, Reply, remote};
use bulkhead_tests::{Guest, Instance, LONG, Role, SmallDisk, wait_for_no_entries};
use ipc::client::Client;

use crate::{account, account::Size, alone, number};

const DEFINITIONS: usize = 1000;
const ROUNDS: usize = 3;
/// Clients at the same time.
const CLIENTS: usize = 4;

/// Does something for each name, by several clients.
fn each(names: &[String], work: impl Fn(&str) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(name);
                }
            });
        }
    });
}

/// Defines a guest for each name, on one connection; a process for each would take longer than the daemon does.
fn define(instance: &Instance, names: &[String]) {
    let client = Client::connect(&instance.socket(), "test").expect("a connection");
    for name in names {
        let args = remote::DomainDefineXmlFlagsArgs { xml: Guest::tiny(name).xml(), flags: 0 };
        client.call(&Call::DomainDefineXmlFlags(args), Vec::new()).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// Undefines them.
fn undefine(instance: &Instance, names: &[String]) {
    let client = Client::connect(&instance.socket(), "test").expect("a connection");
    for name in names {
        let call = Call::DomainLookupByName(remote::DomainLookupByNameArgs { name: name.clone() });
        let dom = match client.call(&call, Vec::new()) {
            Ok((Reply::DomainLookupByName(ret), _)) => ret.dom,
            other => panic!("{name}: {other:?}"),
        };
        let call = Call::DomainUndefine(remote::DomainUndefineArgs { dom });
        client.call(&call, Vec::new()).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn a_thousand_definitions_and_many_guests_leave_nothing_behind() {
    let _alone = alone();
    let test = "a_thousand_definitions_and_many_guests_leave_nothing_behind";
    // An emulated guest may wait long for one of a few processors.
    let Some(instance) = Instance::system_with("guest_deadline_ms = 60000", test) else { return };
    let guests = usize::try_from(number("BULKHEAD_FAULT_GUESTS").unwrap_or(20)).unwrap();
    let names: Vec<String> = (0..DEFINITIONS.max(guests)).map(|number| format!("guest-{number}")).collect();
    let timed = |what: &str, work: &dyn Fn()| {
        let begun = Instant::now();
        work();
        println!("{what}: {:?}, {:?}", begun.elapsed(), Size::of(&instance));
    };
    instance.ok(&["list"]);
    instance.stop_daemon();
    // In memory: a thousand files written to a disk one by one measure the disk.
    let Some(_disk) = SmallDisk::on(&instance.definitions_dir(), 0o700, 64 << 10, test) else { return };
    instance.ok(&["list"]);
    let fresh = Size::of(&instance);
    let mut full = None;
    for round in 1..=ROUNDS {
        timed("define", &|| define(&instance, &names));
        let running = &names[..guests];
        timed("start", &|| each(running, |name| drop(instance.ok(&["start", name]))));
        let list = instance.list();
        assert_eq!(list.len(), names.len());
        assert_eq!(list.iter().filter(|domain| domain.state == "running").count(), guests);
        assert_eq!(instance.role(Role::Qemu).len(), guests);
        if round == 2 {
            // The next daemon finds them all.
            instance.control().kill();
            timed("found again", &|| assert_eq!(instance.list(), list));
        }
        timed("destroy", &|| each(running, |name| drop(instance.ok(&["destroy", name]))));
        assert!(wait_for_no_entries(&instance.guests_dir(), LONG));
        // The first round fills what is kept on purpose: the journal, the cache, the supervisor that waits.
        let before = *full.get_or_insert_with(|| Size::of(&instance));
        Size::comes_back(&instance, before);
        timed("undefine", &|| undefine(&instance, &names));
        assert_eq!(instance.list(), []);
        let wrong = account::rests(&instance);
        assert!(wrong.is_empty(), "{wrong:#?}");
        let left = account::leftovers(&instance);
        assert!(left.is_empty(), "{left:#?}");
    }
    println!("fresh {fresh:?}\nafter round 1, guests gone {full:?}\nat the end {:?}", Size::of(&instance));
}
