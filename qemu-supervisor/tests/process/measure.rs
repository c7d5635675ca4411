//! What a supervisor asks of a real QEMU on behalf of control, and passes on to it.

use std::time::Instant;

use rustix::process::Signal;
use supervisor::protocol::{Answer, Failure, MAX_KEYS, MAX_RECORD, Measure, Measured, Request};

use crate::rig::{PATIENCE, Rig, guest};

const DISK: [&str; 4] = [
    "-blockdev",
    r#"{"driver":"null-co","size":1048576,"node-name":"disk0"}"#,
    "-device",
    r#"{"driver":"virtio-blk-pci","drive":"disk0","id":"virtio-disk-vda"}"#,
];
const BALLOON: [&str; 2] = ["-device", r#"{"driver":"virtio-balloon-pci","id":"balloon0"}"#];

fn measure(balloon: bool, blocks: bool) -> Request {
    Request::Measure(Measure { balloon, blocks, deadline_ms: 300 })
}

fn measured(rig: &mut Rig, request: &Request) -> Measured {
    match rig.control.ask(request) {
        Ok(Answer::Measured(measured)) => *measured,
        other => panic!("{other:?}: {}", rig.log()),
    }
}

#[test]
fn a_guest_is_measured() {
    let mut rig = Rig::boot(guest(&[&DISK[..], &BALLOON[..]].concat()));
    let all = measured(&mut rig, &measure(true, true));
    assert_eq!(all.failure, None);
    let balloon = all.balloon.unwrap();
    assert!(balloon.actual_kib >= 1024, "{balloon:?}");
    assert_eq!(balloon.stats, [], "nobody has made QEMU ask the guest's driver");
    let blocks = all.blocks.unwrap();
    assert_eq!(blocks.len(), 1, "{blocks:?}");
    assert_eq!((blocks[0].device.as_str(), blocks[0].capacity), ("virtio-disk-vda", Some(1 << 20)));

    let blocks_only = measured(&mut rig, &measure(false, true));
    assert!(blocks_only.balloon.is_none() && blocks_only.blocks.is_some());
    assert_eq!(measured(&mut rig, &measure(false, false)), Measured::default());
}

#[test]
fn what_the_guest_s_driver_tells_is_asked_for_once_somebody_wants_it() {
    let mut rig = Rig::boot(guest(&BALLOON));
    let path = "/machine/peripheral/balloon0";
    let set = format!(
        r#"{{"execute":"qom-set","arguments":{{"path":"{path}","property":"guest-stats-polling-interval","value":1}}}}"#
    );
    assert!(matches!(rig.control.ask(&Request::Monitor { command: set, human: false }), Ok(Answer::Said(_))));
    let balloon = measured(&mut rig, &measure(true, false)).balloon.unwrap();
    assert_eq!(balloon.stats, [(9, 0)], "its firmware has no driver, and so none has told anything");
}

#[test]
fn what_a_guest_does_not_have_is_absent_with_the_reason() {
    let mut rig = Rig::boot(guest(&[]));
    let all = measured(&mut rig, &measure(true, true));
    assert_eq!((all.balloon, all.blocks), (None, Some(Vec::new())));
    assert!(
        matches!(&all.failure, Some(Failure::Refused { command, .. }) if command == "query-balloon"),
        "{:?}",
        all.failure
    );
}

#[test]
fn a_stuck_qemu_is_not_waited_for_twice() {
    let mut rig = Rig::boot(guest(&DISK));
    rig.signal_qemu(Signal::STOP);
    // Two at once: the second is answered with the first.
    let first = rig.control.send(&measure(false, true), Vec::new());
    let second = rig.control.send(&measure(false, true), Vec::new());
    for serial in [first, second] {
        let Ok(Answer::Measured(measured)) = rig.control.answer(serial).0 else { panic!("{}", rig.log()) };
        assert!(matches!(measured.failure, Some(Failure::Deadline { deadline_ms: 300, .. })), "{measured:?}");
        assert_eq!(measured.blocks, None);
    }
    assert!(rig.control.status().stuck);
    let known = measured(&mut rig, &measure(false, true));
    assert!(matches!(known.failure, Some(Failure::Deadline { .. })), "{known:?}");
    rig.signal_qemu(Signal::CONT);
    // What it owed comes now, and then it is asked again.
    let deadline = Instant::now() + PATIENCE;
    while rig.control.status().stuck {
        assert!(Instant::now() < deadline, "{}", rig.log());
    }
    assert!(measured(&mut rig, &measure(false, true)).blocks.is_some());
}

#[test]
fn keys_interrupts_and_the_balloon_reach_the_guest() {
    let mut rig = Rig::boot(guest(&BALLOON));
    rig.control.done(&Request::InjectNmi);
    rig.control.done(&Request::SendKeys { codes: vec![29, 56, 0xd3], hold_ms: 10 });
    let too_many = Request::SendKeys { codes: vec![1; MAX_KEYS + 1], hold_ms: 0 };
    for request in [too_many, Request::SendKeys { codes: Vec::new(), hold_ms: 0 }] {
        assert!(matches!(rig.control.ask(&request), Err(Failure::BadRequest(_))));
    }
    rig.control.done(&Request::SetBalloon { bytes: 8 << 20 });
}

#[test]
fn the_monitor_answers_as_it_is() {
    let mut rig = Rig::boot(guest(&[]));
    let mut say = |command: &str, human| rig.control.ask(&Request::Monitor { command: command.into(), human });
    let Ok(Answer::Said(text)) = say(r#"{"execute":"query-status"}"#, false) else { panic!("no answer") };
    assert!(text.starts_with(r#"{"return":{"#) && text.contains(r#""status":"running""#), "{text}");
    let Ok(Answer::Said(text)) = say(r#"{"execute":"nosuch"}"#, false) else { panic!("no answer") };
    assert!(text.starts_with(r#"{"error":{"class":"CommandNotFound""#), "{text}");
    assert_eq!(say("info status", true), Ok(Answer::Said("VM status: running\r\n".into())));
    assert!(matches!(say("garbage", false), Err(Failure::BadRequest(_))));
}

#[test]
fn a_question_to_a_guest_that_ends_has_an_answer() {
    let mut rig = Rig::boot(guest(&DISK));
    rig.signal_qemu(Signal::STOP);
    let serial =
        rig.control.send(&Request::Measure(Measure { balloon: false, blocks: true, deadline_ms: 60_000 }), Vec::new());
    rig.signal_qemu(Signal::KILL);
    assert!(matches!(rig.control.answer(serial).0, Err(Failure::Exited { .. })));
}

#[test]
fn a_later_control_gets_what_the_last_one_said_to_keep() {
    let mut rig = Rig::boot(guest(&[]));
    rig.control.done(&Request::Keep("another record".into()));
    let long = Request::Keep("x".repeat(MAX_RECORD + 1));
    assert!(matches!(rig.control.ask(&long), Err(Failure::BadRequest(_))));
    assert_eq!(rig.control.ask(&Request::Record), Ok(Answer::Record("another record".into())));
}
