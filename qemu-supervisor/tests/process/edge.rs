//! Controls that are slow, silent or hostile.

use rustix::process::Signal;
use supervisor::{
    lifecycle::Kind,
    protocol::{MAX_RECORD, Request},
};

use crate::rig::{Rig, guest};

#[test]
fn a_run_ends_once_also_when_control_reads_nothing() {
    let mut rig = Rig::boot(guest(&[]));
    rig.control.done(&Request::Keep("x".repeat(MAX_RECORD)));
    // Their answers fill the socket, so the supervisor waits for control when QEMU has ended.
    for _ in 0..3 {
        rig.control.send(&Request::Record, Vec::new());
    }
    rig.signal_qemu(Signal::KILL);
    assert!(rig.ended().success());
    assert_eq!(rig.recorded_kinds(), [Kind::STARTED_BOOTED, Kind::STOPPED_CRASHED]);
}
