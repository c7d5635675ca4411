//! What a real guest does to its clock, its memory, its drive and its power, heard by virsh and kept in the journal.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::env::consts::ARCH;

use bulkhead_tests::{Client, Gateway, Instance, LONG, Virsh, skip, wait_until};
use serde_json::Value;

/// Devices that tell of themselves: a balloon and a drive with a tray.
const DEVICES: &str =
    "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk><memballoon model='virtio'/>";
/// In KiB: less than the guest has, and enough for it.
const LESS: &str = "102400";

#[test]
fn what_a_guest_does_is_told_of() {
    const TEST: &str = "what_a_guest_does_is_told_of";
    if !Client::Virsh.is_here(TEST) {
        return;
    }
    if ARCH != "x86_64" {
        return skip(TEST, "the machine has no sleep and no clock of this kind");
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let virsh = Virsh::at(&instance, gateway.uri());
    let mut guest = instance.linux("a");
    guest.devices = DEVICES.to_owned();
    let mut console = instance.boot(&guest);
    let mut watch = virsh.terminal(&["event", "--all", "--loop"]);
    // It does not say when it listens: the first event that it shows does.
    let listens = wait_until(LONG, || {
        virsh.ok(&["desc", "a", "--live", "--title", "x"]);
        !watch.output.is_empty()
    });
    assert!(listens, "no event came");

    console.command("date -s 2037-01-01 && hwclock -u -w");
    watch.expect("event 'rtc-change' for domain 'a': ");
    virsh.ok(&["setmem", "a", LESS, "--live"]);
    watch.expect("event 'balloon-change' for domain 'a': ");
    let monitor = |command: &str| virsh.ok(&["qemu-monitor-command", "a", command]);
    monitor(r#"{"execute":"blockdev-open-tray","arguments":{"id":"sata-disk-sda","force":true}}"#);
    watch.expect("event 'tray-change' for domain 'a' disk sata-disk-sda: opened");
    monitor(r#"{"execute":"blockdev-close-tray","arguments":{"id":"sata-disk-sda"}}"#);
    watch.expect("event 'tray-change' for domain 'a' disk sata-disk-sda: closed");

    console.line("echo mem >/sys/power/state; echo $((6*7)) awake");
    watch.expect("event 'pm-suspend' for domain 'a'");
    watch.expect("event 'lifecycle' for domain 'a': PMSuspended Memory");
    assert_eq!(virsh.ok(&["domstate", "a"]).trim(), "pmsuspended");
    monitor(r#"{"execute":"system_wakeup"}"#);
    watch.expect("event 'pm-wakeup' for domain 'a'");
    console.expect("42 awake");
    assert_eq!(virsh.ok(&["domstate", "a"]).trim(), "running");
    watch.send(b"\x03");

    // The journal has them, with what they are about.
    let told = instance.ok(&["--output", "json", "event", "--all", "--since", "0"]);
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of =
        |kind: &str| told.iter().find(|event| event["event"] == kind).unwrap_or_else(|| panic!("{kind}: {told:?}"));
    let offset = of("rtc-change")["data"]["offset"].as_i64().unwrap();
    assert!(offset > 86_400 * 365, "ten years or so: {offset}");
    assert_eq!(of("tray-change")["data"]["device"], "sata-disk-sda");
    for kind in ["balloon-change", "pm-suspend", "pm-wakeup"] {
        of(kind);
    }
}
