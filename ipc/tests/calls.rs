//! Client and server together: answers out of order, events in between, limits, deadlines, and peers that misbehave.
#![allow(clippy::unwrap_used)] // Helpers of tests are not marked as tests.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use api::{Call, Error, ErrorCode, ErrorDomain, Event, Reply, bulkhead, remote};
use ipc::{
    ConnError, Kind,
    client::{CallError, Client, ConnectError},
    codec,
    server::{Happening, Limits, PeerKey, Server},
};
use mio::{Events, Poll, Token, Waker};

/// The token that ends a daemon.
const END: Token = Token(0);
/// Longer than anything here takes, so that a hang fails instead of hanging.
const LONG: Duration = Duration::from_secs(30);

/// A daemon in a thread. It answers `lookup_by_id` of 0 at once; of another number it remembers the call, and answers all
/// that it remembers, last first, when `lookup_by_name` comes. `lookup_by_uuid` sends an event before its answer,
/// `get_hostname` fails, `get_uri` answers with a descriptor.
struct Daemon {
    _dir: tempfile::TempDir,
    path: PathBuf,
    waker: Arc<Waker>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Daemon {
    fn start(limits: Limits) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let mut poll = Poll::new().unwrap();
        let mut server = Server::new(poll.registry().try_clone().unwrap(), 1..10_000, limits, "test");
        server.listen(UnixListener::bind(&path).unwrap(), 0).unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), END).unwrap());
        let ending = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ending);
        let thread = thread::spawn(move || serve(&mut poll, &mut server, &ended));
        Daemon { _dir: dir, path, waker, ending, thread: Some(thread) }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path, "test").unwrap()
    }

    fn raw(&self) -> UnixStream {
        let socket = UnixStream::connect(&self.path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket
    }

    /// Ends the daemon and says why connections were closed.
    fn end(mut self) -> Vec<String> {
        self.ending.store(true, Ordering::Release);
        self.waker.wake().unwrap();
        self.thread.take().unwrap().join().unwrap()
    }
}

fn serve(poll: &mut Poll, server: &mut Server, ending: &AtomicBool) -> Vec<String> {
    let mut events = Events::with_capacity(64);
    let mut happenings = Vec::new();
    let mut waiting = Vec::new();
    let mut closed = Vec::new();
    while !ending.load(Ordering::Acquire) {
        loop {
            for happening in happenings.drain(..) {
                match happening {
                    Happening::Call { key, frame } => {
                        let call = codec::decode_call(&frame.body).unwrap();
                        answer(server, key, frame.serial, &call, &mut waiting);
                    }
                    Happening::Closed { why, .. } => closed.push(why.to_string()),
                }
            }
            server.flush(Instant::now(), &mut happenings);
            if happenings.is_empty() {
                break;
            }
        }
        poll.poll(&mut events, server.patience_left(Instant::now())).unwrap();
        for event in &events {
            if server.owns(event.token()) {
                server.ready(event.token(), &mut happenings);
            }
        }
    }
    closed
}

fn answer(server: &mut Server, key: PeerKey, serial: u64, call: &Call, waiting: &mut Vec<(PeerKey, u64, i32)>) {
    let found = |id| Reply::DomainLookupById(remote::DomainLookupByIdRet { dom: domain(id) });
    match call {
        Call::DomainLookupById(args) if args.id == 0 => reply(server, key, serial, &found(0)),
        Call::DomainLookupById(args) => waiting.push((key, serial, args.id)),
        Call::DomainLookupByName(_) => {
            for (key, serial, id) in waiting.drain(..).rev() {
                reply(server, key, serial, &found(id));
            }
            reply(server, key, serial, &Reply::DomainLookupByName(remote::DomainLookupByNameRet { dom: domain(0) }));
        }
        Call::DomainLookupByUuid(_) => {
            let event = Event::BulkheadDomainEvent(bulkhead::DomainEventMsg { sequence: 7, ..Default::default() });
            server.send(key, Kind::Event, 0, vec![], |out| codec::encode_event(&event, out)).unwrap();
            reply(server, key, serial, &Reply::DomainLookupByUuid(remote::DomainLookupByUuidRet { dom: domain(0) }));
        }
        Call::ConnectGetUri(_) => {
            let fd = File::open("/dev/null").unwrap().into();
            let answer = Reply::ConnectGetUri(remote::ConnectGetUriRet { uri: "x".into() });
            server.send(key, Kind::Reply, serial, vec![fd], |out| codec::encode_reply(&answer, out)).unwrap();
        }
        _ => {
            let error = Error::new(ErrorCode::NO_SUPPORT, ErrorDomain::NONE, "no");
            server.send(key, Kind::Error, serial, vec![], |out| codec::encode_error(&error, out)).unwrap();
        }
    }
}

fn reply(server: &mut Server, key: PeerKey, serial: u64, reply: &Reply) {
    server.send(key, Kind::Reply, serial, vec![], |out| codec::encode_reply(reply, out)).unwrap();
}

fn domain(id: i32) -> remote::Domain {
    remote::Domain { name: format!("d{id}"), uuid: [0; 16], id }
}

fn by_id(id: i32) -> Call {
    Call::DomainLookupById(remote::DomainLookupByIdArgs { id })
}

fn release() -> Call {
    Call::DomainLookupByName(remote::DomainLookupByNameArgs { name: "all".into() })
}

fn id_of(answer: &Reply) -> i32 {
    match answer {
        Reply::DomainLookupById(ret) => ret.dom.id,
        other => unreachable!("{other:?}"),
    }
}

/// Bytes of a hello as any client sends it.
fn hello() -> Vec<u8> {
    let (near, mut far) = UnixStream::pair().unwrap();
    let mut conn = ipc::Conn::new(near, ipc::Caps::FROM_DAEMON);
    let hello = ipc::Hello::new("raw", 1, 1);
    conn.queue_with(Kind::Hello, 0, vec![], |out| codec::encode_into(&hello, out)).unwrap();
    conn.flush_all().unwrap();
    drop(conn);
    let mut bytes = Vec::new();
    far.read_to_end(&mut bytes).unwrap();
    bytes
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
    let daemon = Daemon::start(Limits { connections: 3, ..Limits::default() });
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
