//! Events: what happens to domains, in order, with numbers, times and reasons.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::SystemTime;

use bulkhead_tests::{EventLine, Guest, Instance};

fn shorts(events: &[EventLine]) -> Vec<String> {
    events.iter().map(EventLine::short).collect()
}

#[test]
fn a_life_is_told_in_order() {
    let before = SystemTime::now();
    let instance = Instance::session();
    let mut watch = instance.watch();
    instance.define(&Guest::tiny("a"));
    let document = instance.file("again.xml", instance.ok(&["dumpxml", "a"]).as_bytes());
    instance.ok(&["define", document.to_str().unwrap()]);
    for verb in ["start", "suspend", "resume", "destroy", "undefine"] {
        instance.ok(&[verb, "a"]);
    }
    watch.expect("a", "Undefined", "Removed");
    let seen = watch.seen();
    let expected = [
        "a Defined Added",
        "a Defined Updated",
        "a Started Booted",
        "a Suspended Paused",
        "a Resumed Unpaused",
        "a Stopped Destroyed",
        "a Undefined Removed",
    ];
    assert_eq!(shorts(&seen), expected);
    assert!(seen.is_sorted_by(|a, b| a.sequence + 1 == b.sequence), "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0].time <= pair[1].time), "{seen:?}");
    assert!(seen.iter().all(|event| event.time >= before && event.time <= SystemTime::now()), "{seen:?}");

    assert_eq!(shorts(&instance.events_since(0)), expected);
    assert_eq!(shorts(&instance.events_since(seen[4].sequence)), expected[5..]);
}

#[test]
fn a_filter_shows_one_domain_and_a_reader_may_watch() {
    let instance = Instance::session();
    instance.define(&Guest::tiny("a"));
    instance.define(&Guest::tiny("b"));
    let output = instance.bulkhead(&["--readonly", "event", "--domain", "b", "--since", "0", "--timeout", "10"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stdout.contains("'b'") && !output.stdout.contains("'a'"), "{}", output.stdout);
    let nothing = instance.fails(&["event", "--timeout", "0.1"], 6);
    assert!(nothing.stderr.contains("no event"), "{}", nothing.stderr);
}

#[test]
fn qemu_killed_is_a_crash_with_its_signal() {
    let instance = Instance::session();
    let mut watch = instance.watch();
    instance.define(&Guest::tiny("a"));
    instance.ok(&["start", "a"]);
    instance.create(&Guest::tiny("other"));
    let supervisor = instance.supervisor("a");
    instance.qemu("a").kill();
    let event = watch.expect("a", "Stopped", "Crashed");
    let text = event.text.unwrap_or_default();
    assert!(text.contains("SIGKILL") || text.contains("signal 9"), "{text}");
    assert_eq!(instance.state("a"), "shut off (crashed)");
    assert!(supervisor.wait_for_end(bulkhead_tests::LONG), "a supervisor goes with its guest");
    assert_eq!(instance.state("other"), "running (booted)");
    // It can be started again at once.
    instance.ok(&["start", "a"]);
    assert_eq!(instance.state("a"), "running (booted)");
}

#[test]
fn a_start_that_fails_says_why() {
    let instance = Instance::session();
    let broken = Guest { memory_mib: 1 << 30, ..Guest::tiny("a") };
    instance.define(&broken);
    let failed = instance.fails(&["start", "a"], 1);
    assert!(failed.stderr.contains("'a'") && failed.stderr.contains("memory"), "{}", failed.stderr);
    assert_eq!(instance.domain("a").state, "shutoff");
    assert!(bulkhead_tests::wait_for_no_entries(&instance.guests_dir(), bulkhead_tests::LONG));
}
