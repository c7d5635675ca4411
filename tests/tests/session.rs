//! A session's daemon: it comes when it is needed, once, and leaves when it is not.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use bulkhead_tests::{Guest, Instance, LONG, Role, wait_for_removal};

#[test]
fn racing_clients_start_one_daemon() {
    for _ in 0..3 {
        let instance = Instance::ordinary();
        let done = AtomicBool::new(false);
        let launchers = thread::scope(|scope| {
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| instance.bulkhead(&["list", "--all"]))).collect();
            let count = scope.spawn(|| {
                let mut pids = BTreeSet::new();
                let mut last = false;
                // Once more after all are done, so that whoever is there in the end is counted.
                while !last {
                    last = done.load(Ordering::Relaxed);
                    pids.extend(instance.role(Role::Launcher).iter().map(|process| process.pid));
                }
                pids
            });
            let outputs: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
            // Before anything can fail: the scope waits for the count.
            done.store(true, Ordering::Relaxed);
            for output in outputs.into_iter().map(|joined| joined.unwrap()) {
                assert_eq!(output.code, 0, "{}", output.stderr);
            }
            count.join().unwrap()
        });
        assert!(launchers.contains(&instance.launcher().pid));
        assert_eq!(launchers.len(), 1, "{launchers:?}");
        assert_eq!(instance.role(Role::Control).len(), 1);
    }
}

#[test]
fn an_idle_daemon_leaves_and_comes_again() {
    let instance = Instance::session_with("idle_timeout_ms = 200");
    instance.define(&Guest::tiny("a"));
    let first = instance.launcher();
    let control = instance.control();
    assert!(first.wait_for_end(LONG));
    assert!(control.wait_for_end(LONG));
    assert!(!instance.socket().exists() && !instance.read_only_socket().exists());
    assert_eq!(instance.processes(), []);
    assert_eq!(instance.domain("a").state, "shutoff");
    assert!(instance.launcher().wait_for_end(LONG));
}

#[test]
fn a_daemon_with_a_guest_or_a_client_stays() {
    let instance = Instance::session_with("idle_timeout_ms = 100");
    instance.create(&Guest::tiny("a"));
    let launcher = instance.launcher();
    assert!(!launcher.wait_for_end(Duration::from_secs(1)), "it has a guest");
    let mut watch = instance.watch();
    watch.expect("a", "Started", "Booted");
    instance.ok(&["destroy", "a"]);
    watch.expect("a", "Stopped", "Destroyed");
    assert!(!launcher.wait_for_end(Duration::from_secs(1)), "it has a client");
    drop(watch);
    assert!(launcher.wait_for_end(LONG));
}

#[test]
fn definitions_and_autostart_outlive_the_daemon() {
    let instance = Instance::session();
    instance.define(&Guest::tiny("kept"));
    instance.create(&Guest::tiny("passing"));
    assert!(!instance.domain("kept").autostart);
    instance.ok(&["autostart", "kept"]);
    assert!(instance.domain("kept").autostart);
    let refused = instance.fails(&["autostart", "passing"], 1);
    assert!(refused.stderr.contains("transient"), "{}", refused.stderr);
    instance.ok(&["destroy", "passing"]);
    let before = instance.domain("kept");
    let document = instance.ok(&["dumpxml", "kept"]);
    let names = || instance.list().into_iter().map(|domain| domain.name).collect::<Vec<_>>();
    assert_eq!(names(), ["kept"]);

    instance.stop_daemon();
    assert_eq!(names(), ["kept"]);
    let after = instance.domain("kept");
    assert_eq!((&after.uuid, after.autostart, after.persistent), (&before.uuid, true, true));
    assert_eq!(instance.ok(&["dumpxml", "kept"]), document);
    instance.ok(&["autostart", "--disable", "kept"]);
    instance.stop_daemon();
    assert!(!instance.domain("kept").autostart);
    instance.ok(&["undefine", "kept"]);
    instance.stop_daemon();
    assert!(names().is_empty());
}

/// The host boots: run-time state is gone, definitions are not.
fn reboot_host(instance: &Instance) {
    instance.stop_daemon();
    std::fs::remove_dir_all(instance.runtime_dir()).unwrap();
}

#[test]
fn autostart_is_once_a_boot_of_the_host() {
    let instance = Instance::session();
    let disk = instance.file("disk.img", &[0; 65_536]);
    instance.define(&Guest::tiny("auto").disk(&disk, "raw"));
    instance.define(&Guest::tiny("manual"));
    instance.ok(&["autostart", "auto"]);
    instance.stop_daemon();
    assert_eq!(instance.domain("auto").state, "shutoff", "a daemon that comes again starts nothing");

    reboot_host(&instance);
    let mut watch = instance.watch();
    watch.expect("auto", "Started", "Booted");
    assert_eq!(instance.domain("auto").state, "running");
    assert_eq!(instance.domain("manual").state, "shutoff");
    instance.ok(&["destroy", "auto"]);
    drop(watch);
    instance.stop_daemon();
    assert_eq!(instance.domain("auto").state, "shutoff", "what was stopped stays off");
    instance.ok(&["undefine", "auto"]);
    reboot_host(&instance);
    assert_eq!(instance.list().len(), 1);
}

#[test]
fn a_polite_end_leaves_the_guests_running() {
    let instance = Instance::session();
    instance.create(&Guest::tiny("a"));
    let before = instance.domain("a");
    let qemu = instance.qemu("a");
    instance.stop_daemon();
    assert!(qemu.is_alive());
    assert!(!instance.socket().exists(), "who looks sees that nobody serves");
    assert_eq!(instance.domain("a"), before);
}

/// Clients come just before, while and just after the daemon leaves; none of them may notice.
#[test]
fn a_leaving_daemon_turns_nobody_away() {
    const IDLE: u64 = 20_000;
    let instance = Instance::session_with("idle_timeout_ms = 20");
    let mut left = 0;
    for turn in 0..100 {
        let output = instance.bulkhead(&["list", "--all"]);
        assert_eq!(output.code, 0, "turn {turn}: {}\n{}", output.stderr, instance.log());
        // Around the moment at which it takes its sockets away: from well before (a client needs a while to come), in
        // steps, to that very moment.
        left += u32::from(wait_for_removal(&instance.socket(), Duration::from_micros(IDLE - 8000 + 100 * turn)));
    }
    assert!((1..100).contains(&left), "both sides of the moment were met: it had left {left} times");
}

/// The same with many clients, and a daemon that leaves whenever it has none.
#[test]
fn a_daemon_without_patience_serves_everybody() {
    let instance = Instance::session_with("idle_timeout_ms = 0");
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for turn in 0..30 {
                    let output = instance.bulkhead(&["list", "--all"]);
                    assert_eq!(output.code, 0, "turn {turn}: {}\n{}", output.stderr, instance.log());
                }
            });
        }
    });
}
