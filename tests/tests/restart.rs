//! The daemon's death, and the deaths of supervisors: what goes on, what ends, and what is told about it afterwards.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{thread, time::SystemTime};

use bulkhead_tests::{
    Domain, EventLine, Guest, Handle, Instance, LONG, Role, Terminal, wait_for_entry, wait_for_no_entries,
    wait_for_removal, wait_until,
};

/// `kill -9` for both processes of the daemon, at the same time as far as that is possible.
fn kill_daemon(instance: &Instance) {
    let (launcher, control) = (instance.launcher(), instance.control());
    launcher.kill();
    control.kill();
}

/// The same while the daemon may be on its way up or half gone.
fn kill_what_there_is(instance: &Instance) {
    for process in instance.processes() {
        if matches!(process.role, Role::Launcher | Role::Forked | Role::Control)
            && let Some(handle) = process.handle()
        {
            handle.kill();
        }
    }
}

fn sorted(mut list: Vec<Domain>) -> Vec<Domain> {
    list.sort_by(|one, other| one.name.cmp(&other.name));
    list
}

/// Three guests in different states, and a definition.
fn populate(instance: &Instance) -> Vec<Domain> {
    instance.define(&Guest::tiny("defined"));
    instance.define(&Guest::tiny("persistent"));
    instance.ok(&["start", "persistent"]);
    instance.create(&Guest::tiny("transient"));
    instance.create(&Guest::tiny("paused"));
    instance.ok(&["suspend", "paused"]);
    instance.create(&Guest::tiny("resumed"));
    instance.ok(&["suspend", "resumed"]);
    instance.ok(&["resume", "resumed"]);
    sorted(instance.list())
}

fn qemus(instance: &Instance) -> Vec<Handle> {
    instance.role(Role::Qemu).iter().filter_map(bulkhead_tests::Process::handle).collect()
}

/// Guests go on while `kill` hits the daemon; afterwards all is as before, and can be used.
fn survives(instance: &Instance, kill: impl Fn(&Instance)) {
    let before = populate(instance);
    let documents: Vec<String> = before.iter().map(|domain| instance.ok(&["dumpxml", &domain.name])).collect();
    let qemus = qemus(instance);
    assert_eq!(qemus.len(), 4);
    let mut watch = instance.watch();
    watch.expect("resumed", "Resumed", "Unpaused");
    for _ in 0..2 {
        kill(instance);
        assert!(qemus.iter().all(Handle::is_alive), "guests do not notice");
        assert_eq!(sorted(instance.list()), before);
    }
    let after: Vec<String> = before.iter().map(|domain| instance.ok(&["dumpxml", &domain.name])).collect();
    assert_eq!(after, documents);
    assert_eq!(instance.state("paused"), "paused (user)");
    assert_eq!(instance.state("resumed"), "running (unpaused)");
    assert_eq!(instance.state("transient"), "running (booted)");

    instance.ok(&["resume", "paused"]);
    instance.ok(&["suspend", "transient"]);
    instance.ok(&["destroy", "persistent"]);
    let newest = instance.create(&Guest::tiny("newest"));
    assert!(before.iter().all(|domain| domain.id < newest.id), "a number is not used twice");
    watch.expect("newest", "Started", "Booted");
    let sequences: Vec<u64> = watch.seen().iter().map(|event| event.sequence).collect();
    assert!(sequences.is_sorted_by(|a, b| a + 1 == *b), "no event is lost or told twice: {sequences:?}");
    assert_eq!(qemus.iter().filter(|qemu| qemu.is_alive()).count(), 3);
}

#[test]
fn guests_survive_the_daemon_in_a_session() {
    survives(&Instance::ordinary(), kill_daemon);
}

#[test]
fn guests_survive_the_daemon_on_the_host() {
    if let Some(instance) = Instance::system("guests_survive_the_daemon_on_the_host") {
        survives(&instance, kill_daemon);
    }
}

#[test]
fn guests_survive_control_alone() {
    survives(&Instance::session(), |instance| {
        let launcher = instance.launcher();
        instance.control().kill();
        instance.ok(&["list"]);
        assert_eq!(instance.launcher().pid, launcher.pid, "the launcher has started another control");
    });
}

#[test]
fn guests_survive_the_launcher_alone() {
    survives(&Instance::session(), |instance| {
        let control = instance.control();
        instance.launcher().kill();
        assert!(control.wait_for_end(LONG), "control does not stay without its launcher");
    });
}

fn the_only(events: &[EventLine], domain: &str) -> EventLine {
    let found: Vec<&EventLine> = events.iter().filter(|event| event.domain == domain).collect();
    assert_eq!(found.len(), 1, "{events:#?}");
    found[0].clone()
}

/// Three guests end in three ways while nobody serves; the next command tells when and how.
#[test]
fn what_happened_meanwhile_is_told_with_its_time() {
    let instance = Instance::session();
    for name in ["killed", "orphaned"] {
        instance.define(&Guest::tiny(name));
        instance.ok(&["start", name]);
    }
    instance.create(&Guest::tiny("other"));
    let mut console: Terminal = instance.boot(&instance.linux("off"));
    let last = instance.events_since(0).last().unwrap().sequence;
    let (qemu, supervisor) = (instance.qemu("killed"), instance.supervisor("killed"));
    let (orphan, its_supervisor) = (instance.qemu("orphaned"), instance.supervisor("orphaned"));
    let off = instance.supervisor("off");

    kill_daemon(&instance);
    let begin = SystemTime::now();
    // The console goes on: its stream comes from the supervisor.
    assert_eq!(console.command("echo still here"), "still here\n");
    console.line("poweroff -f");
    qemu.kill();
    assert!(supervisor.wait_for_end(LONG));
    assert!(off.wait_for_end(LONG));
    its_supervisor.kill();
    assert!(orphan.wait_for_end(LONG), "nothing of a guest outlives its supervisor");
    let end = SystemTime::now();
    // The console has noticed the end and may have started the daemon by itself to ask how the guest ended.
    assert_eq!(console.exit(), 0, "{}", console.messages.text());
    assert!(console.messages.text().contains("'off' has shut down"), "{}", console.messages.text());

    let events = instance.events_since(last);
    let shutdown: Vec<String> = events.iter().filter(|event| event.domain == "off").map(EventLine::short).collect();
    assert_eq!(shutdown, ["off Shutdown Guest request", "off Stopped Shutdown"]);
    let killed = the_only(&events, "killed");
    assert_eq!(killed.short(), "killed Stopped Crashed");
    assert!(killed.text.as_deref().unwrap_or_default().contains("signal 9"), "{killed:?}");
    for event in events.iter().filter(|event| event.domain != "orphaned") {
        assert!(begin <= event.time && event.time <= end, "{event:?} is not between {begin:?} and {end:?}");
    }
    let orphaned = the_only(&events, "orphaned");
    assert_eq!(orphaned.short(), "orphaned Stopped Crashed");
    assert!(begin <= orphaned.time && orphaned.time <= SystemTime::now(), "{orphaned:?}");
    assert!(orphaned.text.as_deref().unwrap_or_default().contains("supervisor"), "{orphaned:?}");

    let expected =
        [("killed", "shutoff", "crashed"), ("orphaned", "shutoff", "crashed"), ("other", "running", "booted")];
    let list = sorted(instance.list());
    let seen = list.iter().map(|d| (d.name.as_str(), d.state.as_str(), d.reason.as_str()));
    assert!(seen.eq(expected), "{list:#?}");
    // Told once, not at every restart.
    let last = instance.events_since(0).last().unwrap().sequence;
    kill_daemon(&instance);
    assert_eq!(sorted(instance.list()), list);
    assert_eq!(instance.events_since(0).last().unwrap().sequence, last);
    // Of those that ended, nothing is left.
    instance.ok(&["destroy", "other"]);
    assert!(wait_for_no_entries(&instance.guests_dir(), LONG));
}

/// The supervisor dies: its guest ends, is told of, leaves nothing behind; nobody else notices.
fn a_supervisor_killed(instance: &Instance) {
    instance.define(&Guest::tiny("a"));
    instance.ok(&["start", "a"]);
    instance.create(&Guest::tiny("b"));
    let mut watch = instance.watch();
    watch.expect("b", "Started", "Booted");
    let mut console = instance.console("a");
    let other = (instance.domain("b"), instance.qemu("b"));
    let run = instance.guests_dir().join(instance.domain("a").id.unwrap().to_string());
    assert!(run.exists());
    let qemu = instance.qemu("a");
    instance.supervisor("a").kill();
    assert!(qemu.wait_for_end(LONG), "nothing of a guest outlives its supervisor");
    let event = watch.expect("a", "Stopped", "Crashed");
    let text = event.text.unwrap_or_default();
    assert!(text.contains("supervisor") && text.contains("signal 9"), "{text}");
    assert_eq!(instance.state("a"), "shut off (crashed)");
    assert_eq!(console.exit(), 0, "{}", console.messages.text());

    assert!(wait_for_removal(&run, LONG), "its directory goes");
    assert_eq!(instance.role(Role::Supervisor).len(), 1);
    assert_eq!(instance.role(Role::Qemu).len(), 1);
    assert!(other.1.is_alive());
    assert_eq!(instance.domain("b"), other.0);
    instance.ok(&["suspend", "b"]);
    instance.ok(&["start", "a"]);
    assert_eq!(instance.state("a"), "running (booted)");
}

#[test]
fn a_supervisor_killed_takes_its_guest_only_in_a_session() {
    a_supervisor_killed(&Instance::ordinary());
}

#[test]
fn a_supervisor_killed_takes_its_guest_only_on_the_host() {
    if let Some(instance) = Instance::system("a_supervisor_killed_takes_its_guest_only_on_the_host") {
        a_supervisor_killed(&instance);
    }
}

/// Kills the daemon at moments of a start that nobody chose; whatever was begun is either there or gone afterwards.
#[test]
fn a_daemon_killed_during_starts_leaves_no_half_guest() {
    let instance = Instance::session();
    instance.ok(&["list"]);
    for round in 0..6 {
        let name = format!("guest-{round}");
        thread::scope(|scope| {
            let document = instance.document(&Guest::tiny(&name));
            let command = instance.command(&["create", document.to_str().unwrap()]);
            let start = scope.spawn(move || bulkhead_tests::run(command));
            // Even rounds hit before the daemon has read anything, odd ones while the run is being made.
            if round % 2 == 1 {
                assert!(wait_for_entry(&instance.guests_dir(), LONG));
            }
            kill_what_there_is(&instance);
            let output = start.join().unwrap();
            assert!(matches!(output.code, 0 | 1 | 4), "{output:?}");
        });
        let list = instance.list();
        let supervisors: Vec<u32> = list.iter().filter_map(|domain| domain.supervisor_pid).collect();
        for process in instance.role(Role::Supervisor) {
            let leaving =
                process.handle().is_none_or(|handle| !supervisors.contains(&handle.pid) && handle.wait_for_end(LONG));
            assert!(supervisors.contains(&process.pid) || leaving, "{process:?} belongs to no domain of {list:#?}");
        }
        for domain in &list {
            instance.ok(&["destroy", &domain.name]);
        }
        assert!(wait_for_no_entries(&instance.guests_dir(), LONG), "round {round}");
    }
}

/// What is kept ready for the next guest is used, is made again, can be killed, and leaves with the launcher.
#[test]
fn a_supervisor_that_waits_may_die_and_never_stays_behind() {
    let instance = Instance::session();
    for name in ["a", "b", "c"] {
        instance.define(&Guest::tiny(name));
    }
    let kept = |but: u32| {
        let mut kept = None;
        let there = || {
            kept = instance.role(Role::Kept).into_iter().find(|process| process.pid != but);
            kept.is_some()
        };
        assert!(wait_until(LONG, there), "no supervisor is kept ready\n{}", instance.log());
        kept.and_then(|process| process.handle())
    };
    instance.ok(&["start", "a"]);
    // The first may be one for the emulator's probe, which goes when one of the guest's kind takes its place.
    let used = loop {
        let Some(waiting) = kept(0) else { continue };
        instance.ok(&["start", "b"]);
        if instance.supervisor("b").pid == waiting.pid {
            break waiting;
        }
        instance.ok(&["destroy", "b"]);
    };
    let next = loop {
        if let Some(next) = kept(used.pid) {
            break next;
        }
    };
    next.kill();
    instance.ok(&["start", "c"]);
    assert_ne!(instance.supervisor("c").pid, next.pid);

    let last = loop {
        if let Some(last) = kept(next.pid) {
            break last;
        }
    };
    instance.launcher().kill();
    assert!(last.wait_for_end(LONG), "it waits for a launcher that is gone");
    for name in ["a", "b", "c"] {
        assert!(instance.state(name).starts_with("running"), "{name}");
    }
}
