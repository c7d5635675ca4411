//! Properties: what is written reads back the same, and no text makes the reader panic.
// Helpers of tests stop as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use model::{
    BootDevice, Chardev, CpuTopology, CrashAction, Disk, DiskBus, DiskCache, DiskFormat, Domain, DomainType,
    DumpOptions, LifecycleAction, MaxMemory, Vcpus,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const LIVE_DUMP: &str = include_str!("data/live-dump.xml");
const BY_HAND: &str = include_str!("data/by-hand.xml");

/// Text that XML can carry and that is not layout alone.
fn text() -> impl Strategy<Value = String> {
    "[a-z][\\PC\n\t\r]{0,30}"
}

fn path() -> impl Strategy<Value = String> {
    "/[\\PC&&[^ ]]{1,30}"
}

prop_compose! {
    fn disk()(
        path in path(), format in select(DiskFormat::ALL), bus in select(DiskBus::ALL),
        cache in option::of(select(DiskCache::ALL)), flags in any::<[bool; 3]>(),
        serial in option::of(text()), order in option::of(1u32..100),
    ) -> Disk {
        let mut disk = Disk::file(path, format, "", bus);
        disk.driver.cache = cache;
        [disk.readonly, disk.shareable, disk.transient] = flags;
        (disk.serial, disk.boot_order) = (serial, order);
        disk
    }
}

prop_compose! {
    fn described()(
        domain_type in select(DomainType::ALL), name in "[a-z][a-z0-9 &<>'\"ä-]{0,30}", uuid in any::<Option<u128>>(),
        id in any::<Option<u32>>(), title in option::of("[a-z][\\PC]{0,20}"), description in option::of(text()),
        memory in 1u64..=i64::MAX as u64 / 1024, current in 1u64.., max in option::of((0u64..1 << 50, 1u32..)),
        max_vcpus in 1u32.., fewer in option::of(1u32..),
    ) -> Domain {
        let mut domain = Domain::new(domain_type, &name, memory, max_vcpus, "x86_64");
        domain.uuid = uuid.filter(|uuid| *uuid != 0).map(uuid::Uuid::from_u128);
        (domain.id, domain.title, domain.description) = (id, title, description);
        domain.current_memory_kib = current.min(memory);
        domain.max_memory = max.map(|(kib, slots)| MaxMemory { kib: kib.max(memory), slots: Some(slots) });
        domain.vcpus = Vcpus { current: fewer.filter(|fewer| *fewer < max_vcpus), ..Vcpus::new(max_vcpus) };
        domain
    }
}

prop_compose! {
    fn domain()(
        mut domain in described(), kernel in option::of(path()), cmdline in option::of(text()),
        boot in vec(select(BootDevice::ALL), 0..4), flags in any::<[bool; 3]>(),
        topology in option::of([1u32.., 1u32.., 1u32..]),
        reboot in select(LifecycleAction::ALL), crash in select(CrashAction::ALL),
        disks in vec(disk(), 0..4), serials in vec(any::<u32>(), 0..3), emulator in option::of(path()),
    ) -> Domain {
        (domain.os.kernel, domain.os.cmdline, domain.os.boot) = (kernel, cmdline, boot);
        [domain.features.acpi, domain.features.apic, domain.features.pae] = flags;
        domain.cpu = topology.map(|[sockets, cores, threads]| model::Cpu {
            topology: Some(CpuTopology { sockets, cores, threads, ..CpuTopology::default() }),
            ..model::Cpu::default()
        });
        (domain.on_reboot, domain.on_crash) = (reboot, crash);
        domain.devices.disks = disks;
        for (i, disk) in domain.devices.disks.iter_mut().enumerate() {
            disk.target.dev = format!("vd{i}");
        }
        domain.devices.serials = serials.into_iter().map(|port| Chardev::pty("isa-serial", port)).collect();
        domain.devices.emulator = emulator;
        domain
    }
}

/// A document with a few of its characters replaced, removed or repeated.
fn damaged(document: &'static str) -> impl Strategy<Value = String> {
    let step = (
        0..document.len(),
        0usize..40,
        select(vec!["", "<", ">", "'", "&", "/", "<a>", "]]>", "<!--", "x='1'", "ä", "\0"]),
        any::<bool>(),
    );
    vec(step, 1..4).prop_map(move |steps| {
        let mut text = document.to_owned();
        for (at, length, with, twice) in steps {
            let mut start = at.min(text.len());
            while !text.is_char_boundary(start) {
                start -= 1;
            }
            let mut end = (start + length).min(text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            let end = end.max(start);
            let taken = text[start..end].to_owned();
            text.replace_range(start..end, &if twice { format!("{taken}{with}{taken}") } else { with.to_owned() });
        }
        text
    })
}

fn holds(xml: &str) -> Result<(), TestCaseError> {
    match Domain::parse(xml) {
        Ok(parsed) => {
            let written = parsed.value.to_xml(&DumpOptions::stored());
            let again = Domain::parse(&written);
            prop_assert_eq!(again.as_ref().map(|parsed| &parsed.value), Ok(&parsed.value), "{}", written);
            prop_assert_eq!(again.map(|parsed| parsed.value.to_xml(&DumpOptions::stored())), Ok(written));
        }
        Err(error) => {
            let lines = xml.split('\n').count();
            prop_assert!((1..=lines).contains(&(error.line() as usize)), "{} of {} lines", error, lines);
            let line = xml.split('\n').nth(error.line() as usize - 1).unwrap_or("");
            prop_assert!((1..=line.chars().count() + 1).contains(&(error.column() as usize)), "{}", error);
            prop_assert!(!error.expected().is_empty());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn a_domain_made_in_code_reads_back_the_same(domain in domain()) {
        let xml = domain.to_xml(&DumpOptions::stored());
        let parsed = Domain::parse(&xml);
        prop_assert_eq!(parsed.as_ref().map(|parsed| &parsed.value), Ok(&domain), "{}", xml);
        prop_assert!(parsed.is_ok_and(|parsed| parsed.notices.is_empty()));
    }

    #[test]
    fn a_damaged_dump_is_refused_in_its_place_or_reads_back_the_same(xml in damaged(LIVE_DUMP)) {
        holds(&xml)?;
    }

    #[test]
    fn a_damaged_definition_is_refused_in_its_place_or_reads_back_the_same(xml in damaged(BY_HAND)) {
        holds(&xml)?;
    }

    #[test]
    fn any_text_at_all_is_refused_or_read(xml in "[<>/a-c'=& !\\[\\]?-]{0,60}") {
        holds(&xml)?;
    }
}
