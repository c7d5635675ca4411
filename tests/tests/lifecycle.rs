//! A guest's life: states, reasons, and what its document says about its ends.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use bulkhead_tests::{Guest, Instance, LONG, PROMPT, Terminal, Watch};

const READY: &str = "bulkhead guest ready";

#[test]
fn pauses_have_their_states_and_reasons() {
    let instance = Instance::session();
    let document = instance.document(&Guest::tiny("a"));
    instance.ok(&["create", "--paused", document.to_str().unwrap()]);
    assert_eq!(instance.state("a"), "paused (user)");
    instance.ok(&["resume", "a"]);
    assert_eq!(instance.state("a"), "running (unpaused)");
    let refused = instance.fails(&["resume", "a"], 1);
    assert!(refused.stderr.contains("'a'") && refused.stderr.contains("running"), "{}", refused.stderr);
    instance.ok(&["suspend", "a"]);
    assert_eq!(instance.state("a"), "paused (user)");
    // As in libvirt, pausing what is paused is no error.
    instance.ok(&["suspend", "a"]);
    instance.ok(&["resume", "a"]);
    instance.ok(&["reset", "a"]);
    assert_eq!(instance.domain("a").state, "running");
    instance.ok(&["destroy", "--graceful", "a"]);
    instance.fails(&["domstate", "a"], 3);
}

#[test]
fn a_definition_outlives_its_runs() {
    let instance = Instance::session();
    instance.define(&Guest::tiny("a"));
    let defined = instance.domain("a");
    assert_eq!((defined.id, defined.state.as_str(), defined.persistent), (None, "shutoff", true));
    instance.ok(&["start", "a"]);
    assert_eq!(instance.state("a"), "running (booted)");
    let first = instance.domain("a");
    let refused = instance.fails(&["start", "a"], 1);
    assert!(refused.stderr.contains("already"), "{}", refused.stderr);
    instance.ok(&["destroy", "a"]);
    assert_eq!(instance.state("a"), "shut off (destroyed)");
    let refused = instance.fails(&["destroy", "a"], 1);
    assert!(refused.stderr.contains("not running"), "{}", refused.stderr);
    instance.ok(&["start", "a"]);
    let second = instance.domain("a");
    assert_eq!(second.uuid, first.uuid);
    assert!(second.id > first.id, "a number is not used twice");
    // Without its definition it goes on, and is gone when it stops.
    instance.ok(&["undefine", "a"]);
    assert!(!instance.domain("a").persistent);
    instance.ok(&["destroy", "a"]);
    assert!(instance.list().is_empty());
}

#[test]
fn shutdown_presses_the_power_button() {
    let instance = Instance::session();
    instance.define(&Guest::linux("a"));
    let mut events = instance.watch();
    let mut console = instance.start("a");
    instance.ok(&["shutdown", "a"]);
    events.expect("a", "Shutdown", "Guest request");
    events.expect("a", "Stopped", "Shutdown");
    assert_eq!(console.exit(), 0);
    assert_eq!(instance.state("a"), "shut off (shutdown)");
}

/// Boots once more at the same console, in the same run.
fn boots_again(instance: &Instance, console: &mut Terminal, how: impl FnOnce(&mut Terminal)) {
    let before = instance.domain("a");
    let qemu = instance.qemu("a");
    how(console);
    console.expect(READY);
    console.expect(PROMPT);
    let after = instance.domain("a");
    assert_eq!((after.id, after.supervisor_pid), (before.id, before.supervisor_pid));
    assert!(qemu.is_alive(), "the same QEMU");
    assert_eq!(after.state, "running");
}

#[test]
fn reboot_and_reset_keep_the_run() {
    let instance = Instance::session();
    let mut console = instance.boot(&Guest::linux("a"));
    boots_again(&instance, &mut console, |_| drop(instance.ok(&["reboot", "a"])));
    boots_again(&instance, &mut console, |_| drop(instance.ok(&["reset", "a"])));
    boots_again(&instance, &mut console, |console| console.line("reboot -f"));
    let stops = instance.events_since(0).into_iter().filter(|event| event.kind == "Stopped").count();
    assert_eq!(stops, 0);
    // The button of the reboot does not turn the next power-off into another one.
    instance.ok(&["shutdown", "a"]);
    assert_eq!(console.exit(), 0);
}

#[test]
fn on_poweroff_restart_and_on_reboot_destroy() {
    let instance = Instance::session();
    let guest = Guest { on_poweroff: "restart", on_reboot: "destroy", ..Guest::linux("a") };
    instance.define(&guest);
    let mut console = instance.start("a");
    boots_again(&instance, &mut console, |console| console.line("poweroff -f"));
    console.line("reboot -f");
    assert_eq!(console.exit(), 0);
    assert_eq!(instance.state("a"), "shut off (shutdown)");
}

/// The firmware resets the machine up to three more times after a reset from outside; that is no reboot of the guest.
#[test]
fn a_reset_from_outside_does_not_end_a_guest_that_must_not_reboot() {
    let instance = Instance::session();
    // How often it does so is a matter of luck, hence several guests and turns.
    let names = ["a", "b", "c"];
    let supervisors = names.map(|name| {
        instance.create(&Guest { on_reboot: "destroy", ..Guest::tiny(name) });
        instance.supervisor(name)
    });
    for turn in 0..15 {
        for name in names {
            instance.ok(&["reset", name]);
        }
        for (name, supervisor) in names.iter().zip(&supervisors) {
            let ended = supervisor.wait_for_end(Duration::from_millis(60));
            assert!(!ended, "reset {turn} has ended '{name}': {:#?}", instance.events_since(0));
        }
    }
    assert!(instance.list().iter().all(|domain| domain.state == "running"));
}

fn panic_guest(on_crash: &'static str) -> Guest {
    Guest { on_crash, devices: "<panic model='isa'/>".into(), ..Guest::linux("a") }
}

fn crash(console: &mut Terminal, events: &mut Watch) {
    console.line("echo c > /proc/sysrq-trigger");
    events.expect("a", "Crashed", "Panicked");
}

#[test]
fn on_crash_restart_and_on_poweroff_preserve() {
    let instance = Instance::session();
    let mut events = instance.watch();
    let mut console = instance.boot(&Guest { on_poweroff: "preserve", ..panic_guest("restart") });
    boots_again(&instance, &mut console, |console| crash(console, &mut events));
    console.line("poweroff -f");
    events.expect("a", "Shutdown", "Guest request");
    assert_eq!(instance.domain("a").state, "in shutdown");
    assert!(instance.qemu("a").is_alive(), "kept to be looked at");
    instance.ok(&["destroy", "a"]);
    events.expect("a", "Stopped", "Destroyed");
    assert_eq!(console.exit(), 0);
}

#[test]
fn on_crash_destroy() {
    let instance = Instance::session();
    let mut events = instance.watch();
    instance.define(&panic_guest("destroy"));
    let mut console = instance.start("a");
    crash(&mut console, &mut events);
    events.expect("a", "Stopped", "Crashed");
    assert_eq!(console.exit(), 0);
    assert!(console.messages.text().contains("'a' has crashed"), "{}", console.messages.text());
    assert_eq!(instance.state("a"), "shut off (crashed)");
}

#[test]
fn on_crash_preserve() {
    let instance = Instance::session();
    let mut events = instance.watch();
    let mut console = instance.boot(&panic_guest("preserve"));
    let qemu = instance.qemu("a");
    crash(&mut console, &mut events);
    assert_eq!(instance.state("a"), "crashed (panicked)");
    assert!(qemu.is_alive(), "kept to be looked at");
    instance.ok(&["destroy", "a"]);
    assert!(qemu.wait_for_end(LONG));
}
