//! From a call to the method of a driver.

use crate::arbitrary::Source;
use crate::{
    Answer, Call, DomainOps, Driver, ErrorCode, Op, Operation, Operations, Outcome, Reply, dispatch, no_operations,
    remote,
};

/// Answers one call, keeps another for later, and knows no other.
struct Tiny;

/// Counts what the driver was asked.
#[derive(Default)]
struct Context {
    asked: usize,
}

impl Driver for Tiny {
    type Context = Context;

    fn driver_name(&self) -> &'static str {
        "Tiny"
    }
}

no_operations!(
    Tiny: ConnectOps, DomainAgentOps, DomainBlockOps, DomainDeviceOps, DomainEventOps, DomainMigrationOps, DomainMonitorOps,
    DomainSecurityOps, DomainStatsOps, DomainTuningOps, DomainCheckpointOps, DomainSnapshotOps, InterfaceOps, NetworkOps,
    NetworkPortOps, NodeOps, NodeDeviceOps, NwfilterOps, NwfilterBindingOps, SecretOps, StoragePoolOps, StorageVolOps,
);

impl DomainOps for Tiny {
    fn domain_get_os_type(
        &mut self,
        cx: &mut Context,
        args: remote::DomainGetOsTypeArgs,
    ) -> Answer<remote::DomainGetOsTypeRet> {
        cx.asked += 1;
        Ok(remote::DomainGetOsTypeRet { r#type: format!("os of {}", args.dom.name) }.into())
    }

    fn domain_suspend(&mut self, cx: &mut Context, _: remote::DomainSuspendArgs) -> Answer<()> {
        cx.asked += 1;
        Ok(Outcome::Pending)
    }
}

#[test]
fn an_operation_is_one_row_and_one_method() {
    let args = remote::DomainGetOsTypeArgs { dom: remote::Domain { name: "debian".to_owned(), ..Default::default() } };
    let mut context = Context::default();
    let Ok(Outcome::Ready(reply)) = dispatch(&mut Tiny, &mut context, args.into_call()) else {
        panic!("no answer");
    };
    assert_eq!(context.asked, 1);
    let ret = remote::DomainGetOsTypeArgs::ret_of(reply).unwrap();
    assert_eq!(ret.r#type, "os of debian");
}

#[test]
fn every_other_operation_is_unsupported_by_name() {
    let mut context = Context::default();
    let mut unsupported = 0;
    for op in Op::ALL {
        let Some(call) = Call::arbitrary(op, &mut Source::new(1)) else { continue };
        if [Op::DomainGetOsType, Op::DomainSuspend].contains(&op) {
            continue;
        }
        let error = dispatch(&mut Tiny, &mut context, call).unwrap_err();
        assert_eq!(error.code, ErrorCode::NO_SUPPORT);
        assert_eq!(
            error.message,
            format!("this function is not supported by the connection driver: {}", op.info().api)
        );
        assert_eq!(error.hint, Some(format!("the Tiny driver does not implement {op}")));
        unsupported += 1;
    }
    assert_eq!(context.asked, 0);
    assert_eq!(unsupported, 408 + 7 - 2);
}

#[test]
fn a_call_may_be_answered_later() {
    let call = Call::DomainSuspend(remote::DomainSuspendArgs::default());
    assert_eq!(dispatch(&mut Tiny, &mut Context::default(), call), Ok(Outcome::Pending));
}

#[test]
fn a_driver_can_be_held_without_its_type() {
    let driver: &mut dyn Operations<Context = Context> = &mut Tiny;
    let call = Call::DomainSuspend(remote::DomainSuspendArgs::default());
    assert_eq!(dispatch(driver, &mut Context::default(), call), Ok(Outcome::Pending));
}

#[test]
fn a_reply_of_another_operation_is_no_answer() {
    assert_eq!(remote::DomainGetOsTypeArgs::ret_of(Reply::DomainSuspend(())), None);
    assert_eq!(remote::DomainSuspendArgs::ret_of(Reply::DomainSuspend(())), Some(()));
}
