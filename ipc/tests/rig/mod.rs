//! A daemon in a thread, for the tests of client and server together.
#![allow(dead_code, clippy::unwrap_used)] // Each test program takes what it needs of it.

use std::{
    fs::File,
    io::Read,
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
    Caps, Kind,
    client::Client,
    codec,
    server::{Happening, Limits, PeerKey, Server, Ticket, check_descriptors},
};
use mio::{Events, Poll, Token, Waker};

/// The token that ends a daemon.
pub const END: Token = Token(0);
/// Longer than anything here takes, so that a hang fails instead of hanging.
pub const LONG: Duration = Duration::from_secs(30);

/// A daemon in a thread. It answers `lookup_by_id` of 0 at once; of another number it remembers the call, and answers all
/// that it remembers, last first, when `lookup_by_name` comes. `lookup_by_uuid` sends an event before its answer,
/// `get_hostname` fails, `get_uri` answers with a descriptor.
pub struct Daemon {
    _dir: tempfile::TempDir,
    pub path: PathBuf,
    waker: Arc<Waker>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Daemon {
    pub fn start(limits: Limits) -> Daemon {
        Daemon::with(limits, |_| {})
    }

    /// The same for users none of which is privileged: also the test's own has limits.
    pub fn for_anybody(limits: Limits) -> Daemon {
        Daemon::with(limits, |server| server.set_privileged(Vec::new()))
    }

    fn with(limits: Limits, prepare: impl FnOnce(&mut Server)) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let mut poll = Poll::new().unwrap();
        let mut server = Server::new(poll.registry().try_clone().unwrap(), 1..10_000, limits, "test");
        server.listen(UnixListener::bind(&path).unwrap(), 0).unwrap();
        prepare(&mut server);
        let waker = Arc::new(Waker::new(poll.registry(), END).unwrap());
        let ending = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ending);
        let thread = thread::spawn(move || serve(&mut poll, &mut server, &ended));
        Daemon { _dir: dir, path, waker, ending, thread: Some(thread) }
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.path, "test").unwrap()
    }

    pub fn raw(&self) -> UnixStream {
        let socket = UnixStream::connect(&self.path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket
    }

    /// Ends the daemon and says why connections were closed.
    pub fn end(mut self) -> Vec<String> {
        self.ending.store(true, Ordering::Release);
        self.waker.wake().unwrap();
        self.thread.take().unwrap().join().unwrap()
    }
}

/// A call that waits for its answer.
type Waiting = (PeerKey, u64, i32, Ticket);

pub fn serve(poll: &mut Poll, server: &mut Server, ending: &AtomicBool) -> Vec<String> {
    let mut events = Events::with_capacity(64);
    let mut waiting = Vec::new();
    let mut closed = Vec::new();
    while !ending.load(Ordering::Acquire) {
        while let Some(happening) = server.next_happening() {
            match happening {
                Happening::Call { key, frame, ticket } => {
                    let Some(decoded) = server.decode_call(key, &frame) else { continue };
                    match decoded.and_then(|call| check_descriptors(call.op(), &frame.fds).map(|()| call)) {
                        Ok(call) => answer(server, key, frame.serial, &call, &mut waiting, ticket),
                        Err(error) => server.answer(key, frame.serial, Err(error)),
                    }
                }
                Happening::Closed { why, .. } => closed.push(why.to_string()),
            }
        }
        server.flush(Instant::now());
        poll.poll(&mut events, server.patience_left(Instant::now())).unwrap();
        for event in &events {
            if server.owns(event.token()) {
                server.ready(event.token());
            }
        }
    }
    closed
}

pub fn answer(server: &mut Server, key: PeerKey, serial: u64, call: &Call, waiting: &mut Vec<Waiting>, ticket: Ticket) {
    let found = |id| Reply::DomainLookupById(remote::DomainLookupByIdRet { dom: domain(id) });
    match call {
        Call::DomainLookupById(args) if args.id == 0 => reply(server, key, serial, &found(0)),
        Call::DomainLookupById(args) => waiting.push((key, serial, args.id, ticket)),
        Call::DomainLookupByName(_) => {
            for (key, serial, id, _) in waiting.drain(..).rev() {
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
        // Longer than a client takes.
        Call::ConnectGetCapabilities(_) => {
            let capabilities = "c".repeat(Caps::FROM_DAEMON.body as usize);
            let ret = remote::ConnectGetCapabilitiesRet { capabilities };
            server.answer(key, serial, Ok((Reply::ConnectGetCapabilities(ret), Vec::new())));
        }
        _ => {
            let error = Error::new(ErrorCode::NO_SUPPORT, ErrorDomain::NONE, "no");
            server.send(key, Kind::Error, serial, vec![], |out| codec::encode_error(&error, out)).unwrap();
        }
    }
}

pub fn reply(server: &mut Server, key: PeerKey, serial: u64, reply: &Reply) {
    server.send(key, Kind::Reply, serial, vec![], |out| codec::encode_reply(reply, out)).unwrap();
}

pub fn domain(id: i32) -> remote::Domain {
    remote::Domain { name: format!("d{id}"), uuid: [0; 16], id }
}

pub fn by_id(id: i32) -> Call {
    Call::DomainLookupById(remote::DomainLookupByIdArgs { id })
}

pub fn release() -> Call {
    Call::DomainLookupByName(remote::DomainLookupByNameArgs { name: "all".into() })
}

pub fn id_of(answer: &Reply) -> i32 {
    match answer {
        Reply::DomainLookupById(ret) => ret.dom.id,
        other => unreachable!("{other:?}"),
    }
}

/// Bytes of a hello as any client sends it.
pub fn hello() -> Vec<u8> {
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
