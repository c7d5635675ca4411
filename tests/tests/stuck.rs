//! Guests that do not answer: they delay their own calls, each up to a deadline, and nobody else's.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::Write,
    time::{Duration, Instant},
};

use bulkhead_tests::{Guest, Instance, LONG, Signal};

/// Far above what the other calls need, even on a slow machine, so that their order proves something.
const DEADLINE: &str = "guest_deadline_ms = 4000";

#[test]
fn a_stuck_qemu_delays_its_own_calls_only() {
    let instance = Instance::session_with(DEADLINE);
    instance.create(&Guest::tiny("stuck"));
    instance.create(&Guest::tiny("other"));
    let qemu = instance.qemu("stuck");
    qemu.signal(Signal::STOP);

    let begin = Instant::now();
    let mut outstanding = instance.terminal(&["suspend", "stuck"]);
    let mut queued = instance.terminal(&["reset", "stuck"]);
    assert_eq!(instance.list().len(), 2);
    assert_eq!(instance.state("stuck"), "running (booted)");
    instance.ok(&["dominfo", "stuck"]);
    instance.ok(&["dumpxml", "stuck"]);
    instance.ok(&["suspend", "other"]);
    assert_eq!(instance.state("other"), "paused (user)");
    instance.ok(&["resume", "other"]);
    instance.create(&Guest::tiny("new"));
    instance.ok(&["destroy", "new"]);
    assert!(
        outstanding.is_running(),
        "after {:?} the deadline is not over: {:?}",
        begin.elapsed(),
        outstanding.messages.text()
    );

    assert_eq!(outstanding.exit(), 6, "{}", outstanding.messages.text());
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_millis(3900), "{waited:?}");
    let text = outstanding.messages.text();
    assert!(text.contains("'stuck'") && text.contains("4000 ms") && text.contains("destroy"), "{text}");
    assert_eq!(queued.exit(), 6, "{}", queued.messages.text());
    assert!(queued.messages.text().contains("'stuck'"), "{}", queued.messages.text());

    // What was asked of it is done when it comes back; then it can be used again.
    let mut watch = instance.watch();
    qemu.signal(Signal::CONT);
    watch.expect("stuck", "Suspended", "Paused");
    instance.ok(&["resume", "stuck"]);
    assert_eq!(instance.state("stuck"), "running (unpaused)");

    qemu.signal(Signal::STOP);
    instance.ok(&["destroy", "stuck"]);
    assert!(qemu.wait_for_end(LONG));
    watch.expect("stuck", "Stopped", "Destroyed");
}

#[test]
fn a_stuck_qemu_is_found_again_by_the_next_daemon() {
    let instance = Instance::session();
    let stuck = instance.create(&Guest::tiny("stuck"));
    instance.create(&Guest::tiny("other"));
    let qemu = instance.qemu("stuck");
    qemu.signal(Signal::STOP);
    let (launcher, control) = (instance.launcher(), instance.control());
    launcher.kill();
    control.kill();
    assert_eq!(instance.domain("stuck"), stuck);
    assert_eq!(instance.fails(&["reset", "stuck"], 6).stdout, "");
    instance.ok(&["suspend", "other"]);
    instance.ok(&["destroy", "stuck"]);
    assert!(qemu.wait_for_end(LONG));
}

#[test]
fn a_stuck_supervisor_delays_its_own_calls_only() {
    let instance = Instance::session_with("guest_deadline_ms = 500");
    instance.create(&Guest::tiny("stuck"));
    instance.create(&Guest::tiny("other"));
    let supervisor = instance.supervisor("stuck");
    supervisor.signal(Signal::STOP);
    let mut outstanding = instance.terminal(&["suspend", "stuck"]);
    assert_eq!(instance.list().len(), 2);
    instance.ok(&["suspend", "other"]);
    assert!(outstanding.is_running(), "{}", outstanding.messages.text());
    assert_eq!(outstanding.exit(), 6, "{}", outstanding.messages.text());
    let text = outstanding.messages.text();
    assert!(text.contains("'stuck'") && text.contains("supervisor"), "{text}");

    // A daemon that comes now does not wait for it for ever, and has its place in the list.
    instance.launcher().kill();
    let list = instance.list();
    assert_eq!(list.len(), 2, "{list:#?}");
    assert_eq!(instance.state("other"), "paused (user)");
    let silent = instance.domain("stuck");
    assert_eq!((silent.state.as_str(), silent.supervisor_pid), ("nostate", Some(supervisor.pid)));

    supervisor.signal(Signal::CONT);
    let mut watch = instance.watch();
    // The first call was only late.
    watch.expect("stuck", "Suspended", "Paused");
    instance.ok(&["resume", "stuck"]);
    assert_eq!(instance.state("stuck"), "running (unpaused)");
}

#[test]
fn a_stuck_supervisor_can_be_ended() {
    let instance = Instance::session_with("guest_deadline_ms = 500");
    instance.create(&Guest::tiny("stuck"));
    let supervisor = instance.supervisor("stuck");
    supervisor.signal(Signal::STOP);
    let mut destroy = instance.terminal(&["destroy", "stuck"]);
    let code = destroy.exit();
    let text = destroy.messages.text();
    // Nobody but the kernel can end it; the error must say what is wrong and not hang.
    assert!(code == 0 || (code == 6 && text.contains("'stuck'")), "{code}: {text}");
    supervisor.signal(Signal::CONT);
    assert!(supervisor.wait_for_end(LONG), "what was asked of it is done when it comes back");
}

/// Has control die of a fault of its own while it has a guest's run in hand.
fn die_at(instance: &Instance, run: u32) {
    // The one before it may just have ended.
    instance.ok(&["list"]);
    let control = instance.control();
    // The note that launcher and control share: control has nothing in hand while nobody says anything.
    let mut note = std::fs::OpenOptions::new().write(true).open(format!("/proc/{}/fd/6", control.pid)).unwrap();
    note.write_all(&run.to_ne_bytes()).unwrap();
    control.signal(Signal::ABORT);
    assert!(control.wait_for_end(LONG));
}

#[test]
fn a_guest_at_which_control_dies_twice_is_not_listened_to_any_more() {
    let instance = Instance::session();
    let run = instance.create(&Guest::tiny("bad")).id.unwrap();
    instance.create(&Guest::tiny("good"));
    let qemu = instance.qemu("bad");

    die_at(&instance, run);
    assert_eq!(instance.state("bad"), "running (booted)", "once may be chance");
    die_at(&instance, run);
    assert_eq!(instance.list().len(), 2);
    assert_eq!(instance.state("bad"), "no state (unknown)");
    let output = instance.fails(&["suspend", "bad"], 1);
    assert!(output.stderr.contains("quarantined") && output.stderr.contains("2 times"), "{}", output.stderr);
    instance.ok(&["suspend", "good"]);
    instance.ok(&["resume", "good"]);
    assert!(qemu.is_alive());

    // A daemon that is restarted by hand listens again.
    instance.stop_daemon();
    assert_eq!(instance.state("bad"), "running (booted)");
    die_at(&instance, run);
    die_at(&instance, run);
    assert_eq!(instance.state("bad"), "no state (unknown)");
    instance.ok(&["destroy", "bad"]);
    assert!(!qemu.is_alive());
    assert_eq!(instance.list().len(), 1);
}
