//! Client and server together: answers out of order, events in between, limits, deadlines, and peers that misbehave.
#![allow(clippy::unwrap_used)] // Helpers of tests are not marked as tests.

mod rig;

use std::{
    fs::File,
    io::{Read, Write},
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use api::{Call, ErrorCode, Event, remote};
use ipc::{
    Caps, Conn, ConnError, Kind,
    client::{CallError, Client, ConnectError, connect_socket},
    codec,
    server::Limits,
};
use rig::{Daemon, LONG, by_id, hello, id_of, release};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

#[test]
fn an_answer_that_is_longer_than_a_client_takes_is_an_error_and_no_end() {
    let daemon = Daemon::start(Limits::default());
    let client = daemon.client();
    let call = Call::ConnectGetCapabilities(remote::ConnectGetCapabilitiesArgs {});
    let Err(CallError::Failed(error)) = client.call(&call, vec![]) else { panic!("no error") };
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::RPC, "the answer cannot be sent"));
    assert_eq!(id_of(&client.call(&by_id(0), vec![]).unwrap().0), 0);
    drop(client);
    daemon.end();
}

#[test]
fn answers_find_their_callers_in_any_order() {
    let daemon = Daemon::start(Limits::default());
    let client = &daemon.client();
    thread::scope(|scope| {
        let call = |id| move || client.call(&by_id(id), vec![]).unwrap().0;
        let callers: Vec<_> = (1..=20).map(|id| (id, scope.spawn(call(id)))).collect();
        // Calls that wait are answered when this one is; it is repeated until every caller has sent its own.
        while callers.iter().any(|(_, caller)| !caller.is_finished()) {
            client.call(&release(), vec![]).unwrap();
        }
        for (id, caller) in callers {
            assert_eq!(id_of(&caller.join().unwrap()), id);
        }
    });
    daemon.end();
}

#[test]
fn a_half_closed_client_gets_its_answers() {
    let daemon = Daemon::start(Limits::default());
    let others = daemon.client();
    let mut quiet = half_closed(&daemon);
    let gone = half_closed(&daemon);
    // The daemon has seen both ends of input by now.
    others.call(&by_id(0), vec![]).unwrap();
    others.call(&by_id(0), vec![]).unwrap();
    drop(gone);
    others.call(&by_id(0), vec![]).unwrap();
    others.call(&by_id(0), vec![]).unwrap();
    others.call(&release(), vec![]).unwrap();
    let answer = quiet.recv().unwrap();
    let reply = codec::decode_reply(&answer.body).unwrap();
    assert_eq!((answer.kind, answer.serial, id_of(&reply)), (Kind::Reply, 5, 7));
    assert!(matches!(quiet.recv(), Err(ConnError::Closed)));
    let closed = daemon.end();
    assert_eq!(closed, ["the peer closed the connection"; 2]);
}

/// A connection that has asked for something that takes its time, and has shut down its writing side.
fn half_closed(daemon: &Daemon) -> Conn {
    let mut conn = greeted(daemon);
    conn.queue_call(5, &by_id(7), vec![]).unwrap();
    conn.flush_all().unwrap();
    conn.socket().shutdown(Shutdown::Write).unwrap();
    conn
}

/// A connection that has said hello.
fn greeted(daemon: &Daemon) -> Conn {
    let mut socket = daemon.raw();
    socket.write_all(&hello()).unwrap();
    let mut conn = Conn::new(socket, Caps::FROM_DAEMON);
    assert_eq!(conn.recv().unwrap().kind, Kind::Hello);
    conn
}

#[test]
fn a_call_that_cannot_be_served_is_an_error_and_a_body_that_is_no_call_is_the_end() {
    let daemon = Daemon::start(Limits::default());
    let mut conn = greeted(&daemon);
    let numbers = (0x2000_8086u32, 4711u32);
    conn.queue_with(Kind::Call, 1, vec![], |out| codec::encode_into(&numbers, out)).unwrap();
    let null = File::open("/dev/null").unwrap().into();
    conn.queue_call(2, &by_id(0), vec![null]).unwrap();
    conn.queue_call(3, &by_id(0), vec![]).unwrap();
    conn.flush_all().unwrap();
    for (serial, text) in
        [(1, "unknown procedure: 4711 of program 0x20008086"), (2, "domain_lookup_by_id came with 1 file descriptors")]
    {
        let answer = conn.recv().unwrap();
        let error = codec::decode_error(&answer.body).unwrap();
        assert_eq!((answer.kind, answer.serial), (Kind::Error, serial));
        assert_eq!((error.code, error.message.as_str()), (ErrorCode::RPC, text));
    }
    assert_eq!(conn.recv().unwrap().kind, Kind::Reply);
    conn.queue_with(Kind::Call, 4, vec![], |out| {
        out.extend([0xff; 9]);
        Ok(())
    })
    .unwrap();
    conn.flush_all().unwrap();
    assert!(matches!(conn.recv(), Err(ConnError::Closed)));
    assert_eq!(daemon.end(), ["the peer sent a bad message"]);
}

#[test]
fn errors_events_and_descriptors_arrive() {
    let daemon = Daemon::start(Limits::default());
    let client = daemon.client();
    let failed = client.call(&Call::ConnectGetHostname(remote::ConnectGetHostnameArgs), vec![]);
    assert!(matches!(failed, Err(CallError::Failed(error)) if error.code == ErrorCode::NO_SUPPORT));
    let (_, fds) = client.call(&Call::ConnectGetUri(remote::ConnectGetUriArgs), vec![]).unwrap();
    assert_eq!(fds.len(), 1);
    assert!(client.wait_events(Some(Duration::ZERO)).unwrap().is_empty());
    client.call(&Call::DomainLookupByUuid(remote::DomainLookupByUuidArgs { uuid: [0; 16] }), vec![]).unwrap();
    let events = client.wait_events(Some(LONG)).unwrap();
    assert!(matches!(&events[..], [Event::BulkheadDomainEvent(event)] if event.sequence == 7), "{events:?}");
    daemon.end();
}

#[test]
fn a_lost_daemon_fails_the_call_under_way_and_every_later_one() {
    let daemon = Daemon::start(Limits::default());
    let client = daemon.client();
    thread::scope(|scope| {
        let caller = scope.spawn(|| client.call(&by_id(1), vec![]));
        // Once this is answered, the other may still be on its way; ending the daemon fails it either way.
        client.call(&by_id(0), vec![]).unwrap();
        daemon.end();
        assert!(matches!(caller.join().unwrap(), Err(CallError::Lost(_))));
    });
    assert!(matches!(client.call(&by_id(0), vec![]), Err(CallError::Lost(_))));
    assert!(matches!(client.wait_events(None), Err(CallError::Lost(_))));
}

#[test]
fn the_limit_of_connections_is_an_error_at_once_and_places_come_back() {
    let mut limits = Limits::default();
    limits.budgets.connections.all = 3;
    let daemon = Daemon::start(limits);
    let mut clients: Vec<Client> = (0..3).map(|_| daemon.client()).collect();
    let refused = Client::connect(&daemon.path, "test").err().unwrap();
    assert!(matches!(&refused, ConnectError::Refused(e) if e.message.contains("limit of 3 connections")), "{refused}");
    clients.pop();
    // The daemon sees the place when it sees the close: in the poll that brings the next call, or an earlier one.
    let served = (0..1000).any(|_| {
        clients[0].call(&by_id(0), vec![]).unwrap();
        Client::connect(&daemon.path, "test").is_ok()
    });
    assert!(served);
    daemon.end();
}

#[test]
fn a_daemon_that_accepts_nothing_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stopped.sock");
    let address = SocketAddrUnix::new(&path).unwrap();
    let socket = |flags| rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    let listener = socket(SocketFlags::CLOEXEC);
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    // The queue is full when the kernel takes no further connection that cannot wait.
    let mut queued = Vec::new();
    loop {
        let another = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        match rustix::net::connect(&another, &address) {
            Ok(()) => queued.push(another),
            Err(error) => break assert_eq!(error, Errno::AGAIN),
        }
    }
    let patience = Duration::from_millis(200);
    let begin = Instant::now();
    let late = connect_socket(&path, patience).unwrap_err();
    assert!(matches!(late, ConnectError::NotAccepted { .. }), "{late:?}");
    assert_eq!(late.to_string(), format!("{} has not accepted a connection for 0.2 seconds", path.display()));
    assert!(begin.elapsed() >= patience);
    // Once there is room, a waiting connect succeeds, and the socket writes without a deadline again.
    let connected = thread::scope(|scope| {
        let waiting = scope.spawn(|| connect_socket(&path, LONG));
        rustix::net::accept(&listener).unwrap();
        waiting.join().unwrap().unwrap()
    });
    assert_eq!(connected.write_timeout().unwrap(), None);
}

#[test]
fn who_says_nothing_or_half_a_frame_is_dropped_and_holds_up_nobody() {
    let daemon = Daemon::start(Limits { patience: Duration::from_millis(200), ..Limits::default() });
    let client = daemon.client();
    let (mut silent, mut halfway, mut within) = (daemon.raw(), daemon.raw(), daemon.raw());
    halfway.write_all(&hello()[..10]).unwrap();
    within.write_all(&hello()).unwrap();
    within.write_all(b"BLKH\x01\x00\x02").unwrap();
    client.call(&by_id(0), vec![]).unwrap();
    let mut rest = Vec::new();
    for socket in [&mut silent, &mut halfway, &mut within] {
        // Ends only when the daemon closes its side.
        socket.read_to_end(&mut rest).unwrap();
    }
    client.call(&by_id(0), vec![]).unwrap();
    assert_eq!(daemon.end(), vec![ConnError::Timeout.to_string(); 3]);
}

#[test]
fn a_frame_of_the_wrong_kind_ends_its_connection_only() {
    let daemon = Daemon::start(Limits::default());
    let client = daemon.client();
    let mut bytes = hello();
    bytes.extend(b"BLKH\x01\x00\x03\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00");
    let mut socket = daemon.raw();
    socket.write_all(&bytes).unwrap();
    socket.read_to_end(&mut Vec::new()).unwrap();
    client.call(&by_id(0), vec![]).unwrap();
    let closed = daemon.end();
    assert!(closed.iter().any(|why| why.contains("Reply frame where a call was due")), "{closed:?}");
}

#[test]
fn a_caller_that_does_not_read_its_answers_is_not_read_any_more() {
    let limits =
        Limits { calls_in_flight: 4, backlog_pause: 4096, patience: Duration::from_millis(300), ..Limits::default() };
    let daemon = Daemon::start(limits);
    let client = daemon.client();
    let mut socket = daemon.raw();
    socket.write_all(&hello()).unwrap();
    socket.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut call = Vec::new();
    codec::encode_call(&by_id(0), &mut call).unwrap();
    let mut frame = b"BLKH\x01\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00".to_vec();
    frame.extend(u32::try_from(call.len()).unwrap().to_le_bytes());
    frame.extend(&call);
    // Sooner or later the daemon reads no more and the write fails, by time or because the daemon has hung up.
    let sent = (0..1_000_000).take_while(|_| socket.write_all(&frame).is_ok()).count();
    assert!(sent < 1_000_000, "the daemon takes calls without end");
    client.call(&by_id(0), vec![]).unwrap();
    daemon.end();
}
