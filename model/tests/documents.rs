//! Whole documents: what libvirt and people write, read and written back.
// Helpers of tests stop as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use model::{
    BootDevice, ChardevType, CrashAction, DiskBus, DiskCache, DiskDevice, DiskType, Domain, DomainType, DumpOptions,
    Firmware, LifecycleAction, Live, OsType, Source, SourceKind, Switch,
};

const LIVE_DUMP: &str = include_str!("data/live-dump.xml");
const LXC: &str = include_str!("data/lxc.xml");
const XEN_PV: &str = include_str!("data/xen-pv.xml");
const BY_HAND: &str = include_str!("data/by-hand.xml");
const BY_HAND_EXPECTED: &str = include_str!("data/by-hand.expected.xml");

fn parse(xml: &str) -> Domain {
    Domain::parse(xml).unwrap().value
}

/// A domain with `inside` between `devices` tags.
fn with_devices(inside: &str) -> String {
    format!(
        "<domain type='qemu'><name>a</name><memory>1024</memory><os><type>hvm</type></os>\
         <devices>{inside}</devices></domain>"
    )
}

#[test]
fn dumps_are_written_back_byte_for_byte_and_without_a_notice() {
    for dump in [LIVE_DUMP, LXC, XEN_PV, BY_HAND_EXPECTED] {
        let parsed = Domain::parse(dump).unwrap();
        assert_eq!(parsed.value.to_xml(&DumpOptions::default()), dump);
        assert!(dump == BY_HAND_EXPECTED || parsed.notices.is_empty(), "{:?}", parsed.notices);
    }
}

#[test]
fn a_dump_is_read_into_fields() {
    let domain = parse(LIVE_DUMP);
    assert_eq!((domain.domain_type, domain.id, domain.name.as_str()), (DomainType::Kvm, Some(3), "web01"));
    assert_eq!(domain.uuid.unwrap().to_string(), "2f1c1a2e-5b0e-4f57-9c3b-6f0c1d5a7e10");
    assert_eq!(domain.title.as_deref(), Some("Front & back"));
    assert_eq!(domain.description.as_deref(), Some("Runs the shop.\n  Ask <ops> before it is rebooted."));
    assert_eq!((domain.memory_kib, domain.current_memory_kib), (4 << 20, 2 << 20));
    assert_eq!(domain.max_memory.map(|max| (max.kib, max.slots)), Some((16 << 20, Some(16))));
    assert_eq!((domain.vcpus.max, domain.vcpus.online(), domain.vcpus.cpuset.as_deref()), (4, 2, Some("0-3")));
    assert_eq!((domain.os.os_type, domain.os.firmware), (OsType::Hvm, Some(Firmware::Efi)));
    assert_eq!(domain.os.machine.as_deref(), Some("pc-q35-7.2"));
    assert_eq!(domain.os.boot, [BootDevice::Cdrom, BootDevice::Hd]);
    assert_eq!(domain.os.boot_menu.map(|menu| (menu.enable, menu.timeout)), Some((Switch::Yes, Some(3000))));
    assert!(domain.features.acpi && domain.features.apic && !domain.features.pae);
    assert_eq!(domain.cpu.unwrap().topology.unwrap().vcpus(), Some(4));
    assert_eq!((domain.on_reboot, domain.on_crash), (LifecycleAction::Restart, CrashAction::CoredumpRestart));
    assert_eq!(domain.namespaces[0].prefix, "qemu");
}

#[test]
fn devices_are_read_into_fields_or_kept_by_name() {
    let devices = parse(LIVE_DUMP).devices;
    let [first, lun, network, cdrom] = devices.disks.as_slice() else { panic!("{:?}", devices.disks) };
    assert_eq!((first.source_path(), first.target.bus), (Some("/images/web01.qcow2"), DiskBus::Virtio));
    assert_eq!((first.driver.cache, first.boot_order, first.transient), (Some(DiskCache::None), Some(1), true));
    assert_eq!((first.serial.as_deref(), first.driver.rest.attribute("error_policy")), (Some("WD-0001"), Some("stop")));
    assert_eq!((lun.device, lun.disk_type, lun.shareable), (DiskDevice::Lun, DiskType::Block, true));
    assert_eq!(network.source.as_ref().and_then(|source| source.rest.attribute("protocol")), Some("rbd"));
    assert_eq!((cdrom.device, cdrom.readonly, cdrom.source_path()), (DiskDevice::Cdrom, true, None));
    assert_eq!(devices.serials[1].chardev_type, ChardevType::Udp);
    assert_eq!(devices.consoles[0].source.as_ref().and_then(|source| source.path.as_deref()), Some("/dev/pts/1"));
    let other: Vec<&str> = devices.other.iter().map(|raw| raw.name.as_str()).collect();
    let expected =
        ["controller", "interface", "channel", "input", "graphics", "video", "watchdog", "memballoon", "rng", "panic"];
    assert_eq!(other, expected);
    let before = &LIVE_DUMP[..LIVE_DUMP.find("<interface").unwrap()];
    assert_eq!(devices.other[1].line as usize, before.lines().count());
    assert_eq!(devices.other[1].column, 5);
}

#[test]
fn what_a_person_wrote_is_put_in_order_and_what_nobody_knows_is_reported() {
    let parsed = Domain::parse(BY_HAND).unwrap();
    assert_eq!(parsed.value.to_xml(&DumpOptions::default()), BY_HAND_EXPECTED);
    let notices: Vec<String> = parsed.notices.iter().map(ToString::to_string).collect();
    let expected = [
        "line 13, column 23: domain/devices/disk[2]/driver/@fancy: attribute \"fancy\" is not understood; it is kept as it is",
        "line 14, column 4: domain/devices/disk[2]/shop:owner: element <shop:owner> is not understood; it is kept as it is",
        "line 16, column 3: domain/devices/frobnicator: element <frobnicator> is not understood; it is kept as it is",
        "line 19, column 8: domain/vcpu/@colour: attribute \"colour\" is not understood; it is kept as it is",
        "line 24, column 2: domain/shop:order: element <shop:order> is not understood; it is kept as it is",
    ];
    assert_eq!(notices, expected);
}

#[test]
fn text_between_elements_is_reported() {
    let parsed = Domain::parse(&with_devices("stray<disk device='cdrom'><target dev='sda'/></disk>")).unwrap();
    assert_eq!(parsed.notices.len(), 1);
    assert_eq!(parsed.notices[0].path, "domain/devices");
    assert!(parsed.notices[0].text.contains("dropped"));
}

#[test]
fn sources_are_every_file_of_the_host() {
    let source = |path: &str, writable, what| Source { path: path.into(), writable, what };
    let expected = [
        source("/images/web01.qcow2", true, SourceKind::Disk("vda".into())),
        source("/images/debian-12.qcow2", false, SourceKind::Backing("vda".into())),
        source("/dev/mapper/lun0", true, SourceKind::Disk("sdb".into())),
        source("/usr/share/OVMF/OVMF_CODE.fd", false, SourceKind::Loader),
        source("/var/lib/libvirt/qemu/nvram/web01_VARS.fd", true, SourceKind::Nvram),
        source("/usr/share/OVMF/OVMF_VARS.fd", false, SourceKind::NvramTemplate),
        source("/var/log/web01.log", true, SourceKind::Serial(2)),
    ];
    assert_eq!(parse(LIVE_DUMP).sources(), expected);
    let kinds: Vec<SourceKind> = parse(XEN_PV).sources().into_iter().map(|source| source.what).collect();
    assert_eq!(kinds, [SourceKind::Disk("xvda".into()), SourceKind::Kernel, SourceKind::Initrd]);
}

#[test]
fn a_medium_that_is_read_only_is_not_asked_for_writing() {
    let xml = with_devices("<disk device='cdrom'><source file='/a.iso'/><target dev='sda'/></disk>");
    assert!(!parse(&xml).sources()[0].writable);
}

#[test]
fn a_live_dump_carries_the_number_it_is_given() {
    let domain = parse(LXC);
    let live = domain.to_xml(&DumpOptions { live: Some(Live { id: 7 }), ..DumpOptions::default() });
    assert!(live.starts_with("<domain type='lxc' id='7'>\n"), "{live}");
}

#[test]
fn a_live_dump_becomes_a_definition() {
    let mut domain = parse(LIVE_DUMP);
    domain.forget_live();
    let xml = domain.to_xml(&DumpOptions::default());
    assert!(xml.starts_with("<domain type='kvm' xmlns:qemu="));
    assert!(!xml.contains("/dev/pts/1"));
    assert!(!xml.contains("serial0"));
    assert!(xml.contains("<source path='/var/log/web01.log' append='on'>"));
}

#[test]
fn passwords_are_written_only_when_they_are_asked_for() {
    let graphics = "<graphics type='vnc' keymap=' passwd=x' passwd='se&apos;cret' passwdValidTo='2030-01-01T00:00:00'>\
                    <listen type='none'/></graphics>";
    let domain = parse(&with_devices(graphics));
    let shown = domain.to_xml(&DumpOptions::default());
    assert!(shown.contains("<graphics type='vnc' keymap=' passwd=x'>\n"), "{shown}");
    assert!(!shown.contains("cret"), "{shown}");
    let stored = domain.to_xml(&DumpOptions::stored());
    assert!(stored.contains(" passwd='se&apos;cret' passwdValidTo='2030-01-01T00:00:00'>"));
    assert_eq!(parse(&stored), domain);
}

#[test]
fn a_path_may_end_with_what_only_looks_like_space() {
    let xml = with_devices("<emulator> \n/opt/qemu\u{2000} </emulator>");
    assert_eq!(Domain::parse(&xml).unwrap().value.devices.emulator.as_deref(), Some("/opt/qemu\u{2000}"));
}

#[test]
fn metadata_has_the_layout_that_libvirt_gives_it() {
    let given = "<metadata>\r\n\t<a:b xmlns:a=\"urn:a\" c='&lt;\"'><!-- kept --><![CDATA[<]]></a:b></metadata>";
    let xml = with_devices("").replace("<os>", &format!("{given}<os>"));
    let domain = parse(&xml);
    let written =
        "<metadata>\n    <a:b xmlns:a=\"urn:a\" c=\"&lt;&quot;\"><!-- kept --><![CDATA[<]]></a:b>\n  </metadata>";
    assert_eq!(domain.metadata.as_ref().map(|raw| raw.xml.as_str()), Some(written));
    assert_eq!(parse(&domain.to_xml(&DumpOptions::default())), domain);
}

#[test]
fn namespaces_declared_on_the_way_go_with_what_is_kept() {
    let xml = with_devices("<x:y z:w='1'><v/></x:y>").replace("<devices>", "<devices xmlns:x='urn:x' xmlns:z='urn:z'>");
    let domain = parse(&xml);
    assert_eq!(domain.devices.other[0].xml, "<x:y xmlns:x='urn:x' xmlns:z='urn:z' z:w='1'>\n      <v/>\n    </x:y>");
    assert_eq!(parse(&domain.to_xml(&DumpOptions::default())), domain);
}

#[test]
fn defaults_are_libvirts() {
    let domain =
        parse("<domain type='xen'><bootloader>/b</bootloader><name>a</name><memory unit='b'>1025</memory></domain>");
    assert_eq!((domain.memory_kib, domain.current_memory_kib), (2, 2));
    assert_eq!((domain.os.os_type, domain.vcpus.max), (OsType::Xen, 1));
    assert_eq!((domain.on_poweroff, domain.on_reboot), (LifecycleAction::Destroy, LifecycleAction::Restart));
    let more = with_devices("").replace("<os>", "<currentMemory>9999</currentMemory><vcpu current='3'>3</vcpu><os>");
    assert_eq!((parse(&more).current_memory_kib, parse(&more).vcpus.current), (1024, None));
}

#[test]
fn memory_is_kept_to_the_kib() {
    let memory = |elements: &str| {
        let xml = format!("<domain type='test'><name>a</name>{elements}<os><type>hvm</type></os></domain>");
        Domain::parse(&xml)
            .map(|parsed| (parsed.value.memory_kib, parsed.value.current_memory_kib, parsed.value.max_memory))
    };
    let plain = |memory, current| Ok((memory, current, None));
    assert_eq!(memory("<memory>1</memory>"), plain(1, 1));
    assert_eq!(memory("<memory>1025</memory><currentMemory>1</currentMemory>"), plain(1025, 1));
    assert_eq!(memory("<memory>4000</memory><currentMemory>4001</currentMemory>"), plain(4000, 4000));
    let cells = "<cpu><numa><cell memory='3' unit='MiB'/><cell memory='5'/></numa></cpu>";
    assert_eq!(memory(cells), plain(3077, 3077));
    assert_eq!(memory(&format!("<memory>0</memory>{cells}")), plain(3077, 3077));
    assert_eq!(memory(&format!("<memory>4</memory>{cells}")), plain(4, 4));
    let max = model::MaxMemory { kib: 4001, slots: Some(2) };
    assert_eq!(memory("<maxMemory slots='2'>4001</maxMemory><memory>4001</memory>"), Ok((4001, 4001, Some(max))));
    assert_eq!(memory("<maxMemory>0</maxMemory><memory>4001</memory>"), plain(4001, 4001));
    for refused in
        ["<maxMemory slots='2'>4000", "<maxMemory>5000", "<maxMemory slots='0'>5000", "<maxMemory slots='2'>0"]
    {
        memory(&format!("{refused}</maxMemory><memory>4001</memory>")).unwrap_err();
    }
    memory("<cpu><numa><cell memory='x'/></numa></cpu>").unwrap_err();
}

#[test]
fn a_bus_follows_from_the_name_of_the_target() {
    let cases = [
        ("<disk device='cdrom'><target dev='hda'/></disk>", DiskBus::Ide),
        ("<disk device='cdrom'><target dev='sda'/></disk>", DiskBus::Scsi),
        ("<disk device='floppy'><target dev='sda'/></disk>", DiskBus::Fdc),
        ("<disk device='cdrom'><target dev='xvda'/></disk>", DiskBus::Xen),
        ("<disk device='cdrom'><target dev='odd0' bus='usb'/></disk>", DiskBus::Usb),
    ];
    for (disk, bus) in cases {
        assert_eq!(parse(&with_devices(disk)).devices.disks[0].target.bus, bus, "{disk}");
    }
}

#[test]
fn a_uuid_is_made_once() {
    let mut domain = parse(&with_devices(""));
    assert_eq!(domain.uuid, None);
    let made = domain.ensure_uuid();
    assert_eq!((domain.ensure_uuid(), domain.uuid), (made, Some(made)));
}

#[test]
fn an_identity_is_found_without_reading_the_rest() {
    for dump in [LIVE_DUMP, LXC, XEN_PV] {
        let domain = parse(dump);
        assert_eq!(model::fast_identity(dump), domain.uuid.map(|uuid| (domain.name.as_str(), uuid)));
    }
    let mut escaped = parse(LXC);
    escaped.name = "a&b".into();
    let uncommon = [
        BY_HAND.to_owned(),
        BY_HAND_EXPECTED.to_owned(),
        escaped.to_xml(&DumpOptions::stored()),
        LXC.replace("box", ".box"),
        LXC.replace("<name>", "<name x='1'>"),
        LXC.replace(
            "<domain type='lxc'>",
            "<domain type='><name>b</name><uuid>8e9f3b5c0d2a4a5c9f5e7f3b8f6c0a11</uuid>'>",
        ),
        format!("<!-- -->{LXC}"),
        "<domain type='lxc'>".into(),
        String::new(),
    ];
    for xml in uncommon {
        assert_eq!(model::fast_identity(&xml), None, "{xml}");
    }
}
