//! `run`: the documents that it makes, and what it refuses before anything starts.

use crate::common::{Bench, text};

/// What the golden documents cannot know: where the test's files are.
fn print(bench: &Bench, arguments: &[&str]) -> String {
    let run = bench.run(&[&["run", "--print-xml", "--arch", "x86_64", "--accel", "tcg"], arguments].concat());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    run.stdout.replace(bench.path().to_str().unwrap(), "/dir")
}

fn qcow2(changes: &[(usize, u8)]) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    for (at, byte) in changes {
        header[*at] = *byte;
    }
    header
}

#[test]
fn a_kernel_and_an_initrd_make_a_guest_with_a_serial_console() {
    let bench = Bench::new();
    bench.file("vmlinuz", "kernel");
    bench.file("initrd", "initrd");
    let xml = print(&bench, &["--name", "web", "--kernel", "vmlinuz", "--initrd", "initrd", "--cpus", "2"]);
    assert_eq!(
        xml,
        text(
            "
            <domain type='qemu'>
              <name>web</name>
              <memory unit='KiB'>524288</memory>
              <currentMemory unit='KiB'>524288</currentMemory>
              <vcpu placement='static'>2</vcpu>
              <os>
                <type arch='x86_64' machine='q35'>hvm</type>
                <kernel>/dir/vmlinuz</kernel>
                <initrd>/dir/initrd</initrd>
                <cmdline>console=ttyS0</cmdline>
              </os>
              <features>
                <acpi/>
                <apic/>
              </features>
              <clock offset='utc'/>
              <on_poweroff>destroy</on_poweroff>
              <on_reboot>restart</on_reboot>
              <on_crash>destroy</on_crash>
              <devices>
                <serial type='pty'>
                  <target type='isa-serial' port='0'/>
                </serial>
                <console type='pty'>
                  <target type='serial' port='0'/>
                </console>
              </devices>
            </domain>
            "
        )
    );
}

#[test]
fn disks_are_virtio_with_the_format_that_their_bytes_say() {
    let bench = Bench::new();
    bench.file("system.qcow2", qcow2(&[]));
    bench.file("data.img", "anything");
    bench.file("odd.img", qcow2(&[(15, 0x70)]));
    let xml = print(
        &bench,
        &["--name", "db", "--memory", "1GiB", "--machine", "pc"]
            .into_iter()
            .chain(["--disk", "system.qcow2", "--disk", "data.img:ro", "--disk", "odd.img,format=raw"])
            .collect::<Vec<_>>(),
    );
    assert_eq!(
        xml,
        text(
            "
            <domain type='qemu'>
              <name>db</name>
              <memory unit='KiB'>1048576</memory>
              <currentMemory unit='KiB'>1048576</currentMemory>
              <vcpu placement='static'>1</vcpu>
              <os>
                <type arch='x86_64' machine='pc'>hvm</type>
                <boot dev='hd'/>
              </os>
              <features>
                <acpi/>
                <apic/>
              </features>
              <clock offset='utc'/>
              <on_poweroff>destroy</on_poweroff>
              <on_reboot>restart</on_reboot>
              <on_crash>destroy</on_crash>
              <devices>
                <disk type='file' device='disk'>
                  <driver name='qemu' type='qcow2'/>
                  <source file='/dir/system.qcow2'/>
                  <target dev='vda' bus='virtio'/>
                </disk>
                <disk type='file' device='disk'>
                  <driver name='qemu' type='raw'/>
                  <source file='/dir/data.img'/>
                  <target dev='vdb' bus='virtio'/>
                  <readonly/>
                </disk>
                <disk type='file' device='disk'>
                  <driver name='qemu' type='raw'/>
                  <source file='/dir/odd.img'/>
                  <target dev='vdc' bus='virtio'/>
                </disk>
                <serial type='pty'>
                  <target type='isa-serial' port='0'/>
                </serial>
                <console type='pty'>
                  <target type='serial' port='0'/>
                </console>
              </devices>
            </domain>
            "
        )
    );
}

#[test]
fn a_kernel_with_a_disk_and_no_initrd_finds_its_root() {
    let bench = Bench::new();
    bench.file("vmlinuz", "kernel");
    bench.file("root.img", "root");
    let xml = print(&bench, &["--kernel", "vmlinuz", "--disk", "root.img"]);
    assert!(xml.contains("<cmdline>console=ttyS0 root=/dev/vda rw</cmdline>"), "{xml}");
    let xml = print(&bench, &["--kernel", "vmlinuz", "--disk", "root.img", "--cmdline", "quiet"]);
    assert!(xml.contains("<cmdline>quiet</cmdline>"), "{xml}");
}

#[test]
fn a_guest_without_a_name_gets_one() {
    let bench = Bench::new();
    bench.file("d", "");
    let xml = print(&bench, &["--disk", "d"]);
    let name = xml.split("<name>").nth(1).unwrap().split('<').next().unwrap();
    let digits = name.strip_prefix("guest-").unwrap();
    assert!(digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()), "{name}");
}

#[test]
fn a_qcow2_image_that_leads_elsewhere_needs_its_owner_s_word() {
    let bench = Bench::new();
    bench.file("overlay.qcow2", qcow2(&[(15, 0x70)]));
    bench.run(&["run", "--print-xml", "--accel", "tcg", "--disk", "overlay.qcow2"]).failed(
        1,
        &text(
            "
            error: the disk 'overlay.qcow2' is a qcow2 image that names another file
              hint: chains of images are not supported yet: make one image of it with 'qemu-img convert -O qcow2 OLD NEW'
            ",
        ),
    );
    let xml = print(&bench, &["--disk", "overlay.qcow2,format=qcow2"]);
    assert!(xml.contains("type='qcow2'"), "{xml}");
}

#[test]
fn files_that_are_not_there_are_named_before_anything_starts() {
    let bench = Bench::new();
    bench.file("vmlinuz", "kernel");
    let missing = |role: &str, name: &str| {
        format!("error: cannot use the {role} '{name}'\n  caused by: No such file or directory (os error 2)\n")
    };
    bench.run(&["run", "--kernel", "nope"]).failed(1, &missing("kernel", "nope"));
    bench.run(&["run", "--kernel", "vmlinuz", "--initrd", "nope"]).failed(1, &missing("initrd", "nope"));
    bench.run(&["run", "--disk", "nope:ro"]).failed(1, &missing("disk", "nope"));
    bench.run(&["run", "--kernel", "."]).failed(1, "error: the kernel '.' is no regular file and no block device\n");
}

#[test]
fn values_that_make_no_sense_are_usage_errors() {
    let bench = Bench::new();
    bench.file("d", "");
    let refused = |option: &str, value: &str| {
        let run = bench.run(&["run", "--disk", "d", option, value]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{option} {value}");
        run.stderr.lines().next().unwrap().to_owned()
    };
    assert_eq!(
        refused("--memory", "lots"),
        "error: invalid value 'lots' for '--memory <SIZE>': must begin with a whole number"
    );
    assert_eq!(refused("--memory", "4KiB"), "error: invalid value '4KiB' for '--memory <SIZE>': is less than 1 MiB");
    assert_eq!(refused("--cpus", "0"), "error: invalid value '0' for '--cpus <N>': 0 is not in 1..=4096");
    assert_eq!(
        refused("--disk", "d,format=vmdk"),
        "error: invalid value 'd,format=vmdk' for '--disk <FILE[:ro][,format=FORMAT]>': \
         'vmdk' is no format of a disk: write raw or qcow2"
    );
    assert_eq!(refused("--name", "a/b"), "error: 'a/b' cannot be the name of a domain: contains '/'");
    assert_eq!(bench.run(&["run"]).code, Some(2));
    assert_eq!(bench.run(&["run", "--disk", "d", "--initrd", "d"]).code, Some(2));
}
