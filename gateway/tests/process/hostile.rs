//! Nonsense, half sentences and floods: whoever sends them loses his own connection, and nobody else notices.

use std::os::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    unix::net::UnixStream,
};

use api::{Access, Call, ErrorCode, Op, OpKind, arbitrary::Source, remote};
use bulkhead_tests::{Guest, LONG};
use wire::{Header, Kind, Status, codec};

use crate::rig::{Raw, Rig, ask, error_of, failed, hostname, opened, readable};

fn frame(header: &Header, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(28 + payload.len()).unwrap();
    [&length.to_be_bytes()[..], &header.encode(), payload].concat()
}

fn auth_list() -> Vec<u8> {
    frame(&codec::header(Op::AuthList, Kind::Call, 1), &[])
}

#[test]
fn nonsense_ends_its_own_connection_only() {
    let rig = Rig::session("");
    let neighbour = rig.opened();
    let header = |kind| codec::header(Op::ConnectGetHostname, kind, 3);
    let noise: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("noise", noise),
        ("zeros", vec![0; 4096]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a length of 4 GiB", vec![0xff; 64]),
        ("a length that is too short", [&27u32.to_be_bytes()[..], &[0; 60]].concat()),
        ("a length over the cap before the login", [&(128u32 << 10).to_be_bytes()[..], &[0; 60]].concat()),
        ("a length over the cap", [auth_list(), 0x0200_0005u32.to_be_bytes().to_vec(), vec![0; 60]].concat()),
        (
            "a byte where a descriptor should come",
            [auth_list(), frame(&header(Kind::CallWithFds), &[0, 0, 0, 1]), vec![0; 8]].concat(),
        ),
        ("too many descriptors", [auth_list(), frame(&header(Kind::CallWithFds), &33u32.to_be_bytes())].concat()),
    ];
    for (what, bytes) in &cases {
        let mut raw = Raw::connect(&rig.socket());
        raw.send(bytes);
        // This side stays open: who hangs up has seen what is wrong.
        raw.expect_dropped(what);
        hostname(&neighbour);
    }
    assert_eq!(hostname(&rig.opened()), hostname(&neighbour));
}

/// Sends bytes with descriptors beside the first of them.
fn send_with(raw: &Raw, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [std::mem::MaybeUninit::uninit(); 1024];
    let mut beside = rustix::net::SendAncillaryBuffer::new(&mut space);
    assert!(beside.push(rustix::net::SendAncillaryMessage::ScmRights(fds)));
    let socket = raw.0.transport().socket();
    let flags = rustix::net::SendFlags::NOSIGNAL;
    // A peer that has hung up already is one of the things that may happen.
    let _ = rustix::net::sendmsg(socket, &[std::io::IoSlice::new(bytes)], &mut beside, flags);
}

#[test]
fn descriptors_that_nobody_asked_for_are_not_kept() {
    let rig = Rig::session("");
    let neighbour = rig.opened();
    let hostname_call = frame(&codec::header(Op::ConnectGetHostname, Kind::Call, 9), &[]);
    let announced = frame(&codec::header(Op::ConnectGetHostname, Kind::CallWithFds, 9), &[0, 0, 0, 1]);
    let (half, rest) = hostname_call.split_at(11);
    for (what, opened, bytes, count, then) in [
        ("with the first call of all", false, &*auth_list(), 1, &[][..]),
        ("with a call that has none", true, &*hostname_call, 1, &[]),
        ("in the middle of a frame", true, half, 3, rest),
        ("more than were announced", true, &*[announced, vec![0]].concat(), 5, &[]),
    ] {
        let mut raw = Raw::connect(&rig.socket());
        if opened {
            raw.open();
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        send_with(&raw, bytes, &vec![theirs.as_fd(); count]);
        drop(theirs);
        raw.send(then);
        // The connection stays open on this side: it is the worker that lets go of them.
        assert!(readable(&ours, LONG), "{what}: they are kept");
        hostname(&neighbour);
    }
}

#[test]
fn what_can_be_answered_is_answered_and_the_connection_goes_on() {
    let rig = Rig::session("");
    let mut raw = Raw::connect(&rig.socket());
    raw.open();
    let base = codec::header(Op::ConnectGetHostname, Kind::Call, 9);
    let lookup = codec::header(Op::DomainLookupByName, Kind::Call, 9);
    let cases: Vec<(&str, Header, Vec<u8>, &str)> = vec![
        ("a program", Header { program: 7, ..base }, vec![], "Cannot find program 7"),
        ("a version", Header { version: 2, ..base }, vec![], "Cannot find program"),
        ("a procedure", Header { procedure: 70_000, ..base }, vec![], "unknown procedure: 70000"),
        ("a negative one", Header { procedure: -5, ..base }, vec![], "unknown procedure: -5"),
        ("an event as a call", Header { procedure: 318, ..base }, vec![], "unknown procedure: 318"),
        ("a status", Header { status: Status::Error, ..base }, vec![], "status"),
        ("a text longer than its frame", lookup, 99u32.to_be_bytes().to_vec(), "cannot decode"),
        ("no text", lookup, vec![], "cannot decode"),
        ("a text of no language", lookup, vec![0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff], "cannot decode"),
    ];
    for (what, header, payload, text) in cases {
        raw.send(&frame(&header, &payload));
        let error = error_of(&raw.next().unwrap());
        assert!(error.message.contains(text), "{what}: {}", error.message);
        // What a client makes of a procedure that the server does not know.
        let unknown = text.starts_with("unknown procedure");
        assert_eq!(error.code, if unknown { ErrorCode::NO_SUPPORT } else { ErrorCode::RPC }, "{what}");
    }
    // These have no answer.
    for kind in [Kind::Reply, Kind::Message, Kind::Other(77), Kind::Stream] {
        raw.send(&frame(&Header { kind, ..base }, &[]));
    }
    raw.send(&frame(&base, b"more than the call has"));
    assert_eq!(raw.next().unwrap().header.status, Status::Ok);
}

#[test]
fn every_writing_call_is_denied_through_the_read_only_socket() {
    let test = "every_writing_call_is_denied_through_the_read_only_socket";
    let Some(rig) = Rig::system(test, "") else { return };
    let client = opened(&rig.read_only_socket());
    let mut source = Source::new(11);
    let mut denied = 0;
    for op in Op::ALL.iter().filter(|op| op.info().kind == OpKind::Call && op.info().access == Access::Write) {
        let Some(call) = Call::arbitrary(*op, &mut source) else { continue };
        let fds = (0..op.info().fds_in.min).map(|_| OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let error = failed(client.call(&call, fds.collect())).unwrap_err();
        assert_eq!(error.code, ErrorCode::OPERATION_DENIED, "{op}: {}", error.message);
        assert_eq!(error.message, format!("operation forbidden: read only access prevents {}", op.info().api));
        denied += 1;
    }
    assert!(denied > 100, "{denied} of the table");
}

#[test]
fn any_call_of_the_table_leaves_the_gateway_and_qemud_well() {
    let rig = Rig::session("");
    rig.instance.create(&Guest::tiny("well"));
    let control = rig.instance.control();
    for seed in 0..3 {
        let client = rig.opened();
        let mut source = Source::new(seed);
        for op in Op::ALL.iter().filter(|op| op.info().kind == OpKind::Call) {
            if matches!(op, Op::ConnectClose | Op::DomainOpenConsole) {
                continue;
            }
            let Some(call) = Call::arbitrary(*op, &mut source) else { continue };
            let fds = (0..op.info().fds_in.min).map(|_| OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
            // Whatever the answer is, there is one.
            let _ = failed(client.call(&call, fds.collect()));
        }
        hostname(&client);
    }
    assert!(control.is_alive());
    assert_eq!(rig.instance.state("well"), "running (booted)");
}

#[test]
fn many_calls_are_under_way_at_once_and_each_has_its_answer() {
    let rig = Rig::session("");
    let client = rig.opened();
    let calls: Vec<Call> = (0..5000)
        .map(|n| match n % 2 {
            0 => Call::ConnectGetHostname(remote::ConnectGetHostnameArgs {}),
            _ => Call::DomainLookupByName(remote::DomainLookupByNameArgs { name: format!("none-{n}") }),
        })
        .collect();
    let answers = client.call_all(&calls).unwrap();
    assert_eq!(answers.len(), calls.len());
    for (n, answer) in answers.into_iter().enumerate() {
        match failed(answer) {
            Ok((reply, _)) => assert!(n % 2 == 0 && crate::rig::is_hostname(&reply)),
            Err(error) => assert!(error.message.contains(&format!("'none-{n}'")), "{}", error.message),
        }
    }
}

#[test]
fn a_client_may_send_all_its_calls_before_it_reads() {
    let rig = Rig::session("");
    let mut raw = Raw::connect(&rig.socket());
    raw.open();
    let calls: Vec<u8> = (0..4000u32)
        .flat_map(|serial| frame(&codec::header(Op::ConnectGetHostname, Kind::Call, serial), &[]))
        .collect();
    let socket = raw.0.transport().socket().try_clone().unwrap();
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut &socket, &calls).unwrap());
    let mut answered: Vec<u32> = (0..4000).map(|_| raw.next().unwrap().header.serial).collect();
    answered.sort_unstable();
    assert!(answered.into_iter().eq(0..4000));
    sender.join().unwrap();
}

#[test]
fn a_client_that_does_not_read_costs_itself_only() {
    let rig = Rig::session("");
    let neighbour = rig.opened();
    let mut raw = Raw::connect(&rig.socket());
    raw.open();
    let capabilities = codec::header(Op::ConnectGetCapabilities, Kind::Call, 5);
    let socket = raw.0.transport().socket().try_clone().unwrap();
    socket.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    // Until the gateway reads no more.
    while std::io::Write::write_all(&mut &socket, &frame(&capabilities, &[])).is_ok() {}
    hostname(&neighbour);
    let workers = rig.gateway.workers_with_sockets(3);
    for worker in workers {
        let rss = bulkhead_tests::rss_kib(worker.pid).unwrap_or_default();
        assert!(rss < 64 << 10, "worker {} holds {rss} KiB", worker.pid);
    }
    ask(&neighbour, remote::ConnectGetTypeArgs {});
}
