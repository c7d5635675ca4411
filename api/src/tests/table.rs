//! The table against the facts.

use crate::{Access, Family, FdCount, Op, OpKind, Stream, bulkhead, lxc, qemu, remote};

const FACTS: &str = include_str!("operations.txt");

fn of_program(number: u32) -> Vec<Op> {
    Op::ALL.into_iter().filter(|op| op.info().program == number).collect()
}

/// The class of an operation, by the word that the facts use.
fn class(op: Op) -> &'static str {
    match (op.info().kind, op.info().access) {
        (OpKind::Event, _) => "event",
        (OpKind::Call, Access::Read) => "read",
        (OpKind::Call, Access::Write) => "write",
        (OpKind::Call, Access::WriteIfBits { .. } | Access::WriteIfValue { .. }) => "conditional",
    }
}

#[test]
fn every_operation_of_libvirt_is_as_the_facts_say() {
    let programs = [("remote", remote::PROGRAM), ("qemu", qemu::PROGRAM), ("lxc", lxc::PROGRAM)];
    let mut lines = FACTS.lines().filter(|line| !line.starts_with('#'));
    for (name, number) in programs {
        for op in of_program(number) {
            let info = op.info();
            let found = format!("{name} {} {} {} {} {}", info.procedure, info.name, class(op), info.since, info.api);
            assert_eq!(Some(found.as_str()), lines.next());
        }
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn every_program_has_all_of_its_operations_without_a_hole() {
    for (program, count) in [(remote::PROGRAM, 456), (qemu::PROGRAM, 7), (lxc::PROGRAM, 1), (bulkhead::PROGRAM, 9)] {
        let numbers: Vec<u32> = of_program(program).iter().map(|op| op.info().procedure).collect();
        assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
    }
}

#[test]
fn numbers_lead_to_the_operation_and_back() {
    for op in Op::ALL {
        let info = op.info();
        assert_eq!(Op::from_wire(info.program, info.procedure), Some(op));
    }
    assert_eq!(Op::from_wire(remote::PROGRAM, 9), Some(Op::DomainCreate));
    assert_eq!(Op::from_wire(remote::PROGRAM, 0), None);
    assert_eq!(Op::from_wire(remote::PROGRAM, 457), None);
    assert_eq!(Op::from_wire(lxc::PROGRAM, 2), None);
    assert_eq!(Op::from_wire(0x6b65_6570, 1), None);
    assert_eq!(Op::from_wire(remote::PROGRAM, u32::MAX), None);
}

#[test]
fn only_the_login_is_open_to_who_is_not_logged_in() {
    let open: Vec<Op> = Op::ALL.into_iter().filter(|op| !op.info().needs_auth).collect();
    assert_eq!(open, [Op::AuthList, Op::AuthSaslInit, Op::AuthSaslStart, Op::AuthSaslStep, Op::AuthPolkit]);
}

#[test]
fn streams_have_their_direction() {
    let streams: Vec<(Op, Stream, Option<u32>)> = Op::ALL
        .into_iter()
        .filter_map(|op| op.info().stream.map(|stream| (op, stream, op.info().sparse_flag)))
        .collect();
    assert_eq!(
        streams,
        [
            (Op::DomainMigratePrepareTunnel, Stream::Write, None),
            (Op::DomainOpenConsole, Stream::Both, None),
            (Op::StorageVolUpload, Stream::Write, Some(1)),
            (Op::StorageVolDownload, Stream::Read, Some(1)),
            (Op::DomainScreenshot, Stream::Read, None),
            (Op::DomainMigratePrepareTunnel3, Stream::Write, None),
            (Op::DomainOpenChannel, Stream::Both, None),
            (Op::DomainMigratePrepareTunnel3Params, Stream::Write, None),
        ]
    );
}

#[test]
fn descriptors_come_with_these_calls_and_replies() {
    let count = |min, max| FdCount { min, max };
    let found: Vec<(Op, FdCount, FdCount)> = Op::ALL
        .into_iter()
        .map(|op| (op, op.info().fds_in, op.info().fds_out))
        .filter(|(_, fds_in, fds_out)| (*fds_in, *fds_out) != (FdCount::NONE, FdCount::NONE))
        .collect();
    assert_eq!(
        found,
        [
            (Op::DomainOpenGraphics, count(1, 1), FdCount::NONE),
            (Op::DomainCreateXmlWithFiles, count(0, 32), FdCount::NONE),
            (Op::DomainCreateWithFiles, count(0, 32), FdCount::NONE),
            (Op::DomainOpenGraphicsFd, FdCount::NONE, count(1, 1)),
            (Op::DomainFdAssociate, count(1, 32), FdCount::NONE),
            (Op::QemuDomainMonitorCommandWithFiles, count(0, 32), count(0, 32)),
            (Op::LxcDomainOpenNamespace, FdCount::NONE, count(0, 32)),
            (Op::BulkheadDomainCreateWithSources, count(0, 200), FdCount::NONE),
            (Op::BulkheadDomainCreateXmlWithSources, count(0, 200), FdCount::NONE),
            (Op::BulkheadDomainOpenConsole, FdCount::NONE, count(1, 1)),
        ]
    );
    assert!(count(1, 32).allows(32) && !count(1, 32).allows(0) && !count(1, 32).allows(33));
}

#[test]
fn each_event_id_has_one_message_of_the_new_style() {
    for (family, ids) in [
        (Family::Domain, 30),
        (Family::Network, 2),
        (Family::StoragePool, 2),
        (Family::NodeDevice, 2),
        (Family::Secret, 2),
    ] {
        for id in 0..ids {
            let of = |legacy| {
                let wanted = crate::EventId { family, id, legacy };
                Op::ALL.into_iter().filter(|op| op.info().event == Some(wanted)).count()
            };
            assert_eq!(of(false), 1, "{family:?} {id}");
            // The old style stopped growing at id 15 of the domains.
            assert_eq!(of(true), usize::from(family == Family::Domain && id < 16), "{family:?} {id}");
        }
    }
}

#[test]
fn high_priority_and_access_names_are_there() {
    let info = Op::DomainGetXmlDesc.info();
    let acl =
        ["domain:read", "domain:read_secure:VIR_DOMAIN_XML_SECURE", "domain:read_secure:VIR_DOMAIN_XML_MIGRATABLE"];
    assert_eq!(info.acl, acl);
    assert_eq!(Op::ConnectListAllDomains.info().acl_filter, Some("domain:getattr"));
    assert_eq!(Op::ALL.into_iter().filter(|op| op.info().acl_filter.is_some()).count(), 43 + 2);
    assert!(Op::ConnectGetUri.info().high_priority);
    assert!(!Op::DomainCreate.info().high_priority);
}
