//! Guests with disks.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use bulkhead_tests::{Guest, Instance};

const DISK: u64 = 4 << 20;
const CLUSTER: usize = 64 << 10;

/// An empty qcow2 image of [`DISK`] bytes (version 2): header, refcount table, refcount block, L1 table, a cluster each.
fn empty_qcow2() -> Vec<u8> {
    let mut image = vec![0; 4 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let at = |cluster: usize| u64::try_from(cluster * CLUSTER).unwrap().to_be_bytes();
    put(0, b"QFI\xfb");
    put(4, &2u32.to_be_bytes());
    put(20, &16u32.to_be_bytes());
    put(24, &DISK.to_be_bytes());
    put(36, &1u32.to_be_bytes());
    put(40, &at(3));
    put(48, &at(1));
    put(56, &1u32.to_be_bytes());
    put(CLUSTER, &at(2));
    for cluster in 0..4 {
        put(2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes());
    }
    image
}

/// A guest writes, is shut down, boots again, and reads.
fn keeps_what_was_written(instance: &Instance, image: &[u8], format: &'static str) {
    let path = instance.file("disk.img", image);
    instance.define(&instance.linux("a").disk(&path, format));
    let mut console = instance.start("a");
    assert_eq!(console.command("blockdev --getsize64 /dev/vda"), format!("{DISK}\n"));
    assert_eq!(console.command("head -c 4 /dev/vda | tr '\\0' z"), "zzzz");
    console.command("echo kept | dd of=/dev/vda bs=512 seek=100 conv=sync,fsync 2>/dev/null");
    instance.ok(&["shutdown", "a"]);
    assert_eq!(console.exit(), 0);

    let mut console = instance.start("a");
    assert_eq!(console.command("dd if=/dev/vda bs=512 skip=100 count=1 2>/dev/null | head -n 1"), "kept\n");
    instance.ok(&["shutdown", "a"]);
    assert_eq!(console.exit(), 0);
    let written = fs::read(&path).unwrap();
    if format == "raw" {
        assert_eq!(&written[51_200..51_205], b"kept\n");
    } else {
        assert_eq!(&written[..4], b"QFI\xfb");
    }
}

#[test]
fn a_raw_disk_keeps_what_was_written() {
    keeps_what_was_written(&Instance::ordinary(), &vec![0; usize::try_from(DISK).unwrap()], "raw");
}

#[test]
fn a_qcow2_disk_keeps_what_was_written() {
    keeps_what_was_written(&Instance::session(), &empty_qcow2(), "qcow2");
}

#[test]
fn a_disk_of_a_system_guest_keeps_what_was_written() {
    if let Some(instance) = Instance::system("a_disk_of_a_system_guest_keeps_what_was_written") {
        keeps_what_was_written(&instance, &empty_qcow2(), "qcow2");
    }
}

#[test]
fn two_guests_do_not_write_to_one_disk() {
    let instance = Instance::session();
    let path = instance.file("disk.img", &[0; 65_536]);
    instance.create(&Guest::tiny("first").disk(&path, "raw"));
    let document = instance.document(&Guest::tiny("second").disk(&path, "raw"));
    let refused = instance.fails(&["create", document.to_str().unwrap()], 1);
    assert!(refused.stderr.contains("disk vda") && refused.stderr.contains("'first'"), "{}", refused.stderr);
    assert_eq!(instance.list().len(), 1);
    instance.ok(&["destroy", "first"]);
    instance.ok(&["create", document.to_str().unwrap()]);
    assert_eq!(instance.domain("second").state, "running");
}

#[test]
fn a_disk_that_is_missing_is_named() {
    let instance = Instance::session();
    instance.define(&Guest::tiny("a").disk(&instance.root().join("none.img"), "raw"));
    let refused = instance.fails(&["start", "a"], 1);
    assert!(refused.stderr.contains("none.img") && refused.stderr.contains("vda"), "{}", refused.stderr);
    assert_eq!(instance.domain("a").state, "shutoff");
}
