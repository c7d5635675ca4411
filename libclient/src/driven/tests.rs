use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::{Operation, Reply, bulkhead, remote};
use tempfile::TempDir;

use super::*;
use crate::{
    fake_qemud::{FakeLog, FakeQemud, Step},
    wait::{self, Deadline},
};

struct World {
    _root: TempDir,
    instance: Instance,
    log: FakeLog,
}

impl World {
    fn new() -> World {
        let root = TempDir::new().unwrap();
        let instance = Instance::at(Mode::Session, Some(root.path().to_path_buf()));
        World { _root: root, instance, log: FakeLog::default() }
    }

    fn qemud(&self, handler: impl Fn(&Call, Vec<OwnedFd>) -> Step + Send + Sync + 'static) -> FakeQemud {
        FakeQemud::listen(&self.instance.socket(), self.log.clone(), handler)
    }

    fn connect(&self, read_only: bool) -> Driven {
        Driven::new(dial(&self.instance, false, Start::Never).unwrap(), read_only).unwrap()
    }
}

fn hostname(_: &Call, _: Vec<OwnedFd>) -> Step {
    let ret = remote::ConnectGetHostnameRet { hostname: "fake".into() };
    Step::Reply(Reply::ConnectGetHostname(ret), Vec::new())
}

fn ask() -> Call {
    remote::ConnectGetHostnameArgs {}.into_call()
}

fn wait_for(driven: &Driven) {
    let deadline = Deadline::after(Some(Duration::from_secs(20)));
    assert!(wait::readable(driven.fd(), deadline).unwrap());
}

/// Passes of a loop until this many calls are done.
fn answers(driven: &mut Driven, count: usize) -> Vec<Done> {
    let mut done = Vec::new();
    driven.flush();
    while done.len() < count {
        wait_for(driven);
        driven.ready(&mut done).unwrap();
    }
    done
}

fn loss(driven: &mut Driven) -> (Vec<Done>, Lost) {
    let mut done = Vec::new();
    loop {
        wait_for(driven);
        if let Err(lost) = driven.ready(&mut done) {
            return (done, lost);
        }
    }
}

#[test]
fn calls_go_out_before_the_hello_came_and_come_back_by_token() {
    let world = World::new();
    let _qemud = world.qemud(|call, fds| match call {
        Call::ConnectGetUri(_) => Step::Fail(Error::new(ErrorCode::NO_SUPPORT, ErrorDomain::QEMU, "no")),
        call => hostname(call, fds),
    });
    let mut driven = world.connect(false);
    driven.submit(40, &ask(), Vec::new()).unwrap();
    driven.submit(41, &remote::ConnectGetUriArgs {}.into_call(), Vec::new()).unwrap();
    assert_eq!((driven.in_flight(), driven.interest()), (2, Interest { read: true, write: true }));
    let done = answers(&mut driven, 2);
    assert_eq!(done.iter().map(|done| done.token).collect::<Vec<_>>(), [40, 41]);
    assert!(matches!(&done[0].result, Ok((Reply::ConnectGetHostname(ret), _)) if ret.hostname == "fake"));
    assert_eq!(done[1].result.as_ref().unwrap_err().message, "no");
    assert_eq!((driven.in_flight(), driven.interest()), (0, Interest { read: true, write: false }));
}

#[test]
fn a_read_only_connection_refuses_before_anything_is_sent() {
    let world = World::new();
    let _qemud = world.qemud(hostname);
    let mut driven = world.connect(true);
    let dom = remote::Domain { name: "test".into(), uuid: [0; 16], id: 1 };
    let error = driven.submit(1, &remote::DomainDestroyArgs { dom }.into_call(), Vec::new()).unwrap_err();
    assert_eq!(error.code, ErrorCode::OPERATION_DENIED);
    assert_eq!(error.message, "operation forbidden: read only access prevents virDomainDestroy");
    driven.submit(2, &ask(), Vec::new()).unwrap();
    let done = answers(&mut driven, 1);
    assert_eq!((done.len(), done[0].token, done[0].result.is_ok()), (1, 2, true));
}

#[test]
fn a_lost_daemon_fails_what_is_under_way_and_all_that_follows() {
    let world = World::new();
    let calls = AtomicUsize::new(0);
    let _qemud = world.qemud(move |call, fds| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => hostname(call, fds),
        _ => Step::HangUp,
    });
    let mut driven = world.connect(false);
    for token in [1, 2, 3] {
        driven.submit(token, &ask(), Vec::new()).unwrap();
    }
    driven.flush();
    let (done, lost) = loss(&mut driven);
    assert!(done[0].result.is_ok());
    assert_eq!(done.iter().map(|done| done.token).collect::<Vec<_>>(), [1, 2, 3]);
    for done in &done[1..] {
        let error = done.result.as_ref().unwrap_err();
        assert_eq!(error.code, ErrorCode::RPC);
        assert_eq!(error.message, "the connection to the daemon was lost during virConnectGetHostname");
        assert!(error.causes.iter().any(|cause| cause.contains("closed")), "{error:?}");
    }
    assert_eq!(lost.error().code, ErrorCode::RPC);
    assert_eq!(driven.in_flight(), 0);
    assert!(driven.submit(4, &ask(), Vec::new()).is_err());
    assert!(driven.ready(&mut Vec::new()).is_err());
}

#[test]
fn a_daemon_that_refuses_is_quoted() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut theirs = ipc::Conn::new(theirs, ipc::Caps::FROM_CLIENT);
    let refusal = Error::new(ErrorCode::OPERATION_FAILED, ErrorDomain::RPC, "too many connections");
    theirs.queue_with(ipc::Kind::Error, 0, Vec::new(), |out| ipc::codec::encode_error(&refusal, out)).unwrap();
    theirs.flush_all().unwrap();
    drop(theirs);
    let mut driven = Driven::new(ours, false).unwrap();
    driven.submit(1, &ask(), Vec::new()).unwrap();
    driven.flush();
    let (done, lost) = loss(&mut driven);
    assert_eq!(lost.error(), &refusal);
    assert_eq!(done[0].result.as_ref().unwrap_err().causes, ["too many connections"]);
}

#[test]
fn another_version_and_nonsense_are_losses() {
    for bytes in [
        {
            let mut bytes = Vec::new();
            ipc::codec::encode_into(&ipc::Hello::new("future", 900, 901), &mut bytes).unwrap();
            (ipc::Kind::Hello, bytes)
        },
        (ipc::Kind::Hello, vec![0xff; 30]),
        (ipc::Kind::Error, vec![0xff; 30]),
        (ipc::Kind::Reply, Vec::new()),
    ] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut theirs = ipc::Conn::new(theirs, ipc::Caps::FROM_CLIENT);
        theirs
            .queue_with(bytes.0, 0, Vec::new(), |out| {
                out.extend(&bytes.1);
                Ok(())
            })
            .unwrap();
        theirs.flush_all().unwrap();
        let mut driven = Driven::new(ours, false).unwrap();
        let (_, lost) = loss(&mut driven);
        assert_eq!(lost.error().code, ErrorCode::RPC, "{bytes:?}");
    }
}

#[test]
fn an_answer_that_makes_no_sense_fails_its_call_only() {
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    let world = World::new();
    let calls = AtomicUsize::new(0);
    let _qemud = world.qemud(move |call, fds| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => Step::Reply(Reply::ConnectGetUri(remote::ConnectGetUriRet { uri: "x".into() }), Vec::new()),
        1 => Step::Body(vec![0xff; 9]),
        2 => Step::Reply(Reply::ConnectGetHostname(remote::ConnectGetHostnameRet::default()), vec![null()]),
        _ => hostname(call, fds),
    });
    let mut driven = world.connect(false);
    for token in 0..4 {
        driven.submit(token, &ask(), Vec::new()).unwrap();
    }
    let done = answers(&mut driven, 4);
    for done in &done[..3] {
        let error = done.result.as_ref().unwrap_err();
        assert_eq!(error.message, "unexpected reply to virConnectGetHostname", "{done:?}");
    }
    assert!(done[3].result.is_ok());
}

#[test]
fn events_are_kept_apart_from_answers_and_go_on_after_a_loss() {
    let world = World::new();
    let first = world.qemud(hostname);
    let mut driven = world.connect(false);
    driven.submit(1, &bulkhead::EventsSubscribeArgs { since: None }.into_call(), Vec::new()).unwrap();
    assert!(answers(&mut driven, 1)[0].result.is_ok());
    let sequences = |driven: &mut Driven, count: usize| {
        let mut seen = Vec::new();
        while seen.len() < count {
            wait_for(driven);
            driven.ready(&mut Vec::new()).unwrap();
            for event in driven.take_events() {
                let Event::BulkheadDomainEvent(event) = event else { panic!("{event:?}") };
                seen.push(event.sequence);
            }
        }
        seen
    };
    // The fake's listener is set up behind its reply.
    world.log.wait_for_listeners(1);
    world.log.emit(2);
    world.log.emit(3);
    assert_eq!(sequences(&mut driven, 2), [1, 2]);
    drop(first);
    world.log.emit(4);
    loss(&mut driven);
    let _second = world.qemud(hostname);
    let mut driven = world.connect(false);
    driven.submit(1, &bulkhead::EventsSubscribeArgs { since: Some(2) }.into_call(), Vec::new()).unwrap();
    driven.flush();
    assert_eq!(sequences(&mut driven, 1), [3]);
}

#[test]
fn a_thousand_calls_are_under_way_at_once() {
    let world = World::new();
    let _qemud = world.qemud(|call, _| {
        let Call::DomainLookupByName(args) = call else { panic!("{call:?}") };
        let dom = remote::Domain { name: args.name.clone(), uuid: [3; 16], id: -1 };
        Step::Reply(Reply::DomainLookupByName(remote::DomainLookupByNameRet { dom }), Vec::new())
    });
    let mut driven = world.connect(false);
    for token in 0..1000 {
        let args = remote::DomainLookupByNameArgs { name: format!("guest-{token}") };
        driven.submit(token, &args.into_call(), Vec::new()).unwrap();
    }
    for done in answers(&mut driven, 1000) {
        let Ok((Reply::DomainLookupByName(ret), _)) = done.result else { panic!("{done:?}") };
        assert_eq!(ret.dom.name, format!("guest-{}", done.token));
    }
}

#[test]
fn names_stand_for_drivers() {
    assert_eq!(Target::of("qemu:///system").unwrap(), Target::Qemu(Mode::System));
    assert_eq!(Target::of("test:///default").unwrap(), Target::TestDefault);
    assert_eq!(Target::of("test:///x.xml").unwrap(), Target::TestFile("/x.xml".into()));
    assert_eq!(Target::of("xen:///system").unwrap_err().code, ErrorCode::NO_CONNECT);
    assert!(Target::of("qemu+unix:///system?socket=/x").is_err(), "a daemon dials no other one");
}

#[test]
fn a_daemon_that_is_not_there_is_not_waited_for() {
    let world = World::new();
    let error = dial(&world.instance, false, Start::Never).unwrap_err();
    assert_eq!(error.code, ErrorCode::SYSTEM_ERROR);
    let _qemud = world.qemud(hostname);
    let shared = Arc::new(dial(&world.instance, false, Start::Never).unwrap());
    assert!(!ipc::wait::hung_up(&shared.as_fd()));
}
