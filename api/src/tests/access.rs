//! The read-only rule.

use crate::arbitrary::Source;
use crate::{Access, Call, ErrorCode, Op, ReadCall, Readable, check_access, remote};

fn default_call(op: Op) -> Option<Call> {
    // Arguments of no bytes at all are too short for most; zeros are a default of each.
    Call::decode(op, &mut crate::xdr::Decoder::new(&[0; 1024])).unwrap()
}

#[test]
fn a_full_connection_may_make_every_call() {
    for call in Op::ALL.into_iter().filter_map(default_call) {
        assert_eq!(check_access(&call, false), Ok(()));
    }
}

#[test]
fn a_read_only_connection_may_make_what_its_class_allows() {
    let mut denied = 0;
    for call in Op::ALL.into_iter().filter_map(default_call) {
        // All arguments are 0, so no condition is met.
        let allowed = call.op().info().access != Access::Write;
        assert_eq!(check_access(&call, true).is_ok(), allowed, "{}", call.op());
        assert_eq!(ReadCall::from_call(call).is_ok(), allowed);
        denied += usize::from(!allowed);
    }
    // 203 by the facts, one of 12.5 that they do not classify, and three of our own.
    assert_eq!(denied, 203 + 1 + 3);
}

#[test]
fn a_denied_call_is_named_as_libvirt_names_it() {
    let error = check_access(&Call::DomainCreate(remote::DomainCreateArgs::default()), true).unwrap_err();
    assert_eq!(error.code, ErrorCode::OPERATION_DENIED);
    assert_eq!(error.to_string(), "operation forbidden: read only access prevents virDomainCreate");
    let read = ReadCall::from_call(Call::DomainCreate(remote::DomainCreateArgs::default()));
    assert_eq!(read, Err(error));
}

/// Each call with a condition: the bits or values that must be allowed, and those that must be denied.
fn conditional(value: u32) -> [Call; 6] {
    [
        Call::DomainGetXmlDesc(remote::DomainGetXmlDescArgs { flags: value, ..Default::default() }),
        Call::DomainSnapshotGetXmlDesc(remote::DomainSnapshotGetXmlDescArgs { flags: value, ..Default::default() }),
        Call::DomainGetVcpusFlags(remote::DomainGetVcpusFlagsArgs { flags: value, ..Default::default() }),
        Call::DomainInterfaceAddresses(remote::DomainInterfaceAddressesArgs { source: value, ..Default::default() }),
        Call::DomainManagedSaveGetXmlDesc(remote::DomainManagedSaveGetXmlDescArgs {
            flags: value,
            ..Default::default()
        }),
        Call::DomainCheckpointGetXmlDesc(remote::DomainCheckpointGetXmlDescArgs { flags: value, ..Default::default() }),
    ]
}

#[test]
fn a_condition_decides_both_ways() {
    // Columns as in `conditional`: XML, snapshot, vcpus, addresses, saved image, checkpoint.
    let expected = [
        (0, [true, true, true, true, true, true]),
        // SECURE of each document; source 1 is the agent.
        (1, [false, false, true, false, false, false]),
        // INACTIVE; source 2 is ARP.
        (2, [true, true, true, true, true, true]),
        // SECURE beside another bit; source 3 is no agent.
        (3, [false, false, true, true, false, false]),
        // MIGRATABLE; GUEST of the vcpus.
        (8, [false, true, false, true, true, true]),
    ];
    for (value, allowed) in expected {
        for (call, allowed) in conditional(value).into_iter().zip(allowed) {
            assert_eq!(check_access(&call, true).is_ok(), allowed, "{} with {value}", call.op());
            assert_eq!(ReadCall::from_call(call).is_ok(), allowed);
        }
    }
}

#[test]
fn the_conditional_calls_are_these_six() {
    let with_condition = |op: &Op| matches!(op.info().access, Access::WriteIfBits { .. } | Access::WriteIfValue { .. });
    let mut found: Vec<Op> = Op::ALL.into_iter().filter(with_condition).collect();
    let mut expected: Vec<Op> = conditional(0).iter().map(Call::op).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn arguments_that_write_cannot_be_wrapped_as_readable() {
    let args = remote::DomainGetXmlDescArgs { flags: 1, ..Default::default() };
    assert_eq!(Readable::new(args).unwrap_err().code, ErrorCode::OPERATION_DENIED);
    let args = remote::DomainGetXmlDescArgs { flags: 2, ..Default::default() };
    assert_eq!(Readable::new(args.clone()).unwrap().into_inner(), args);
}

#[test]
fn the_rule_and_the_read_call_agree_and_nothing_is_lost() {
    for op in Op::ALL {
        for seed in 0..8 {
            let Some(call) = Call::arbitrary(op, &mut Source::new(seed)) else { continue };
            let allowed = check_access(&call, true);
            match ReadCall::from_call(call.clone()) {
                Ok(read) => {
                    assert_eq!(allowed, Ok(()));
                    assert_eq!(read.op(), op);
                    assert_eq!(Call::from(read), call);
                }
                Err(error) => assert_eq!(allowed, Err(error)),
            }
        }
    }
}
