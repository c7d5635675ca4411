//! Controls that are slow, silent or hostile.

use std::{fs::File, os::unix::net::UnixStream};

use ipc::edge::Channel;
use rustix::process::Signal;
use supervisor::{
    lifecycle::Kind,
    protocol::{
        Answer, Attach, Begin, Boot, Failure, Job, JobKind, JobState, MAX_RECORD, Message, Payload, Request, Start,
        qemu::{AttachSpec, BootSpec, FileKind, FileSpec, Place, ShutdownSpec},
    },
};

use crate::rig::{Control, Rig, guest};

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

fn order(job: u64, boot: Boot) -> Request {
    let (name, record) = (boot.name.clone(), boot.record.clone());
    Request::Start(Start { job, name, record, spec: Payload::new(&BootSpec::from(boot)).unwrap() })
}

fn jobs(control: &mut Control) -> Vec<Job> {
    match control.ask(&Request::Jobs) {
        Ok(Answer::Jobs(jobs)) => jobs,
        other => panic!("{other:?}"),
    }
}

fn begin(id: u64, stall_ms: u32, reboot: bool) -> Request {
    Request::Begin(Begin { id, stall_ms, spec: Payload::new(&ShutdownSpec { reboot }).unwrap() })
}

fn started(job: u64, boot: Boot) -> Rig {
    let mut rig = Rig::launch(&order(job, boot), Vec::new());
    let answer = rig.control.answer(1).0;
    assert!(matches!(answer, Ok(Answer::Status(_))), "{answer:?}");
    rig
}

#[test]
fn a_start_is_a_job_that_a_later_control_finds() {
    let rig = started(77, guest(&[]));
    let states: Vec<(u64, JobState, u64)> = rig.control.jobs.iter().map(|job| (job.id, job.state, job.done)).collect();
    assert_eq!(states, [(77, JobState::RUNNING, 0), (77, JobState::RUNNING, 1), (77, JobState::DONE, 2)]);
    let mut later = rig.connect();
    let listed = jobs(&mut later);
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].id, listed[0].kind, listed[0].state), (77, JobKind::BOOT, JobState::DONE));
    assert_eq!(later.ask(&Request::JobCancel { id: 77 }), Err(Failure::NotCancellable(77)));
    assert_eq!(later.ask(&Request::JobCancel { id: 78 }), Err(Failure::NoSuchJob(78)));
    later.done(&Request::Destroy);
}

#[test]
fn a_start_can_be_cancelled() {
    let argv = ["/bin/sleep", "1000"].map(String::from).to_vec();
    let mut rig = Rig::launch(&order(5, Boot { argv, ..guest(&[]) }), Vec::new());
    let cancel = rig.control.send(&Request::JobCancel { id: 5 }, Vec::new());
    assert_eq!(rig.control.answer(cancel).0, Ok(Answer::Done));
    assert_eq!(rig.control.answer(1).0, Err(Failure::Cancelled(5)));
    assert!(rig.ended().success());
    assert_eq!(rig.control.jobs.last().map(|job| job.state), Some(JobState::CANCELLED));
}

#[test]
fn a_shutdown_that_the_guest_does_not_heed_outlives_control_and_stalls_or_is_cancelled() {
    let mut rig = started(1, guest(&[]));
    rig.control.done(&begin(2, 60_000, false));
    assert_eq!(rig.control.ask(&begin(3, 0, true)), Err(Failure::JobConflict(2)));
    // Control is killed, and another one goes on with it.
    let mut later = rig.connect();
    later.done(&Request::Events { after: 1 });
    assert_eq!(jobs(&mut later).last().map(|job| (job.id, job.state)), Some((2, JobState::RUNNING)));
    later.done(&Request::JobCancel { id: 2 });
    assert_eq!(jobs(&mut later).last().map(|job| job.state), Some(JobState::CANCELLED));
    later.done(&begin(4, 50, false));
    let stalled = later.job(4, JobState::STALLED);
    assert!(!stalled.cancellable && stalled.quiet_ms < stalled.age_ms);
    assert_eq!(later.ask(&begin(4, 0, false)), Err(Failure::JobExists(4)));
    later.done(&Request::Destroy);
}

#[test]
fn an_opened_disk_reaches_a_running_guest_and_leaves_it() {
    let mut rig = started(1, guest(&[]));
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(1 << 20).unwrap();
    let open = |write| File::options().read(true).write(write).open(disk.path()).unwrap().into();
    let attach = |name: &str, place, files| {
        let spec = Payload::new(&AttachSpec { place, files }).unwrap();
        Request::Attach(Attach { name: name.into(), spec })
    };
    let spec = |kind, writable| FileSpec { kind, writable };
    let both = vec![spec(FileKind::Disk, true), spec(FileKind::Disk, false)];
    // The second is under way while the first is; each finds its own descriptors.
    let request = attach("disk-vdb", Place::Set, both.clone());
    let first = rig.control.send(&request, vec![open(true), open(false)]);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let request = attach("net0", Place::Named, vec![spec(FileKind::Socket, true)]);
    let second = rig.control.send(&request, vec![theirs.into()]);
    let Ok(Answer::Attached(set)) = rig.control.answer(first).0 else { panic!("{}", rig.log()) };
    let Ok(Answer::Attached(named)) = rig.control.answer(second).0 else { panic!("{}", rig.log()) };
    assert!(set.reference.starts_with("/dev/fdset/"));
    assert_eq!(named.reference, "net0");

    let say = |control: &mut Control, command: &str| match control
        .ask(&Request::Monitor { command: command.into(), human: false })
    {
        Ok(Answer::Said(text)) => text,
        other => panic!("{other:?}"),
    };
    let node = format!(
        r#"{{"execute":"blockdev-add","arguments":{{"driver":"file","node-name":"b","filename":"{}"}}}}"#,
        set.reference
    );
    assert_eq!(say(&mut rig.control, &node), r#"{"return":{}}"#);
    let netdev = r#"{"execute":"netdev_add","arguments":{"type":"socket","id":"n","fd":"net0"}}"#;
    assert_eq!(say(&mut rig.control, netdev), r#"{"return":{}}"#);
    assert!(say(&mut rig.control, r#"{"execute":"query-fdsets"}"#).contains("disk-vdb"));

    let serial = rig.control.send(&attach("disk-vdb", Place::Set, both), vec![open(true), open(false)]);
    assert_eq!(rig.control.answer(serial).0, Err(Failure::AttachedAlready("disk-vdb".into())));
    let wrong = attach("other", Place::Set, vec![spec(FileKind::Disk, true)]);
    let serial = rig.control.send(&wrong, vec![open(false)]);
    assert!(matches!(rig.control.answer(serial).0, Err(Failure::BadRequest(_))));

    let removed = say(&mut rig.control, r#"{"execute":"blockdev-del","arguments":{"node-name":"b"}}"#);
    assert_eq!(removed, r#"{"return":{}}"#);
    rig.control.done(&Request::Detach { name: "disk-vdb".into() });
    rig.control.done(&Request::Detach { name: "net0".into() });
    assert_eq!(rig.control.ask(&Request::Detach { name: "net0".into() }), Err(Failure::NotAttached("net0".into())));
    assert_eq!(say(&mut rig.control, r#"{"execute":"query-fdsets"}"#), r#"{"return":[]}"#);
    drop(ours);
    rig.control.done(&Request::Destroy);
}

#[test]
fn a_polite_end_has_a_limit() {
    let mut rig = started(1, guest(&[]));
    rig.signal_qemu(Signal::STOP);
    let end = Request::End { graceful: true, within_ms: 50 };
    assert_eq!(rig.control.ask(&end), Err(Failure::StillThere(50)));
    rig.signal_qemu(Signal::CONT);
    rig.control.event(Kind::STOPPED_SHUTDOWN);
    assert!(rig.ended().success());

    let mut rig = started(1, guest(&[]));
    rig.control.done(&Request::End { graceful: true, within_ms: 30_000 });
    rig.control.event(Kind::STOPPED_DESTROYED);
    assert!(rig.ended().success());
}

#[test]
fn a_control_of_the_last_release_is_spoken_to_as_before() {
    let rig = started(1, guest(&[]));
    let mut old: Channel<Request, Message> = Channel::new(rig.connect_raw());
    old.queue_hello(&ipc::Hello::new("qemud", 1, 3)).unwrap();
    old.send(1, &Request::Events { after: 0 }, Vec::new()).unwrap();
    assert_eq!(old.recv_hello().unwrap().newest, 4);
    let first = old.recv().unwrap().value;
    assert!(matches!(&first, Message::Event(event) if event.sequence == 1), "{first:?}");
    assert_eq!(old.recv().unwrap().value, Message::Answer(Ok(Answer::Done)));
    old.send(2, &Request::Jobs, Vec::new()).unwrap();
    assert!(matches!(old.recv().unwrap().value, Message::Answer(Err(Failure::BadRequest(_)))));
    old.send(3, &Request::Destroy, Vec::new()).unwrap();
    assert!(matches!(old.recv().unwrap().value, Message::Event(_)));
    assert_eq!(old.recv().unwrap().value, Message::Answer(Ok(Answer::Done)));
}
