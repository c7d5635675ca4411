//! `event`.

use crate::common::Bench;

#[test]
fn the_kinds_of_events_are_listed() {
    Bench::new().run(&["event", "--list"]).gave(
        "lifecycle\nreboot\nrtc-change\nwatchdog\nio-error\nio-error-reason\ntray-change\npm-wakeup\npm-suspend\n\
         balloon-change\npm-suspend-disk\nmetadata-change\n",
    );
}

#[test]
fn a_timeout_without_an_event_has_an_exit_code_of_its_own() {
    Bench::new().run(&["event", "--timeout", "0.01"]).failed(6, "error: no event came within 0.01 s\n");
    Bench::new().run(&["event", "--since", "0", "--timeout", "0"]).failed(6, "error: no event came within 0 s\n");
    Bench::new().run(&["event", "--all", "--loop", "--timeout", "0"]).failed(6, "error: no event came within 0 s\n");
}

#[test]
fn a_domain_that_is_not_there_is_not_waited_for() {
    assert_eq!(Bench::new().run(&["event", "--domain", "nope"]).code, Some(3));
}

#[test]
fn an_unknown_kind_is_a_usage_error() {
    let run = Bench::new().run(&["event", "--event", "eclipse"]);
    assert_eq!(run.code, Some(2));
    assert_eq!(run.stderr.lines().next(), Some("error: invalid value 'eclipse' for '--event <EVENT>'"));
}
