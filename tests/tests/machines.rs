//! Every kind of machine, bus and way of I/O under QEMU's policy, which kills at the first call that it does not list.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use bulkhead_tests::{Guest, Instance};

fn disk(path: &Path, dev: &str, bus: &str, driver: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw' {driver}/><source file='{}'/>\
         <target dev='{dev}' bus='{bus}'/></disk>",
        path.display()
    )
}

fn define(instance: &Instance, guest: &Guest, machine: &str) {
    let document = instance.root().join("machine.xml");
    fs::write(&document, guest.xml().replace("machine='q35'", &format!("machine='{machine}'"))).unwrap();
    instance.ok(&["define", document.to_str().unwrap()]);
}

/// Boots Linux with a disk, which is written, flushed, discarded in part and read, while the guest is paused and goes on.
fn boots(instance: &Instance, machine: &str, (dev, bus, seen): (&str, &str, &str), driver: &str, devices: &str) {
    let image = instance.file("machine.img", &vec![0; 4 << 20]);
    let mut guest = instance.linux("m");
    guest.devices = disk(&image, dev, bus, driver) + devices;
    define(instance, &guest, machine);
    let mut console = instance.start("m");
    let write = format!("echo kept | dd of=/dev/{seen} bs=512 seek=100 conv=sync,fsync 2>/dev/null; echo $?");
    assert_eq!(console.command(&write), "0\n", "{machine} {bus} {driver}");
    console.command(&format!("blkdiscard -o 1048576 -l 1048576 /dev/{seen} 2>/dev/null; sync"));
    instance.ok(&["suspend", "m"]);
    instance.ok(&["resume", "m"]);
    let read = format!("dd if=/dev/{seen} bs=512 skip=100 count=1 2>/dev/null | head -n 1");
    assert_eq!(console.command(&read), "kept\n", "{machine} {bus} {driver}");
    instance.ok(&["shutdown", "m"]);
    assert_eq!(console.exit(), 0);
    instance.ok(&["undefine", "m"]);
}

#[test]
fn every_bus_and_way_of_io_of_pc_and_q35() {
    let instance = Instance::ordinary();
    let devices = "<memballoon model='virtio'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>\
                   <panic model='isa'/>";
    boots(&instance, "pc", ("hda", "ide", "sda"), "", devices);
    boots(&instance, "q35", ("sda", "sata", "sda"), "discard='unmap'", devices);
    boots(&instance, "pc", ("sda", "scsi", "sda"), "io='threads'", "");
    boots(&instance, "pc", ("sda", "usb", "sda"), "", "");
    boots(&instance, "q35", ("vda", "virtio", "vda"), "cache='none' io='native' discard='unmap'", devices);
    boots(&instance, "q35", ("vda", "virtio", "vda"), "cache='unsafe'", "");
}

#[test]
fn machines_without_a_bus_run() {
    let instance = Instance::ordinary();
    for machine in ["isapc", "microvm", "pc", "q35"] {
        let guest = Guest::tiny("m");
        define(&instance, &guest, machine);
        instance.ok(&["start", "m"]);
        for verb in ["suspend", "resume", "reset"] {
            instance.ok(&[verb, "m"]);
        }
        assert!(instance.state("m").starts_with("running"), "{machine}: {}", instance.state("m"));
        instance.ok(&["destroy", "m"]);
        instance.ok(&["undefine", "m"]);
    }
}
