//! A qemud for tests: a thread that listens where qemud would and answers as the test wants.

use std::{
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use api::{Call, Error, Event, Reply, bulkhead, remote};
use ipc::{Caps, Conn, Hello, Kind, client::VERSIONS, codec};

use crate::awaited::Awaited;

/// What the fake does with a call.
pub(crate) enum Step {
    Reply(Reply, Vec<OwnedFd>),
    Fail(Error),
    /// Bytes of a reply's body.
    Body(Vec<u8>),
    /// Bytes instead of a frame.
    Raw(Vec<u8>),
    HangUp,
}

type Handler = dyn Fn(&Call, Vec<OwnedFd>) -> Step + Send + Sync;

/// Events that survive the fake, as a supervisor's log survives qemud.
#[derive(Clone, Default)]
pub(crate) struct FakeLog {
    shared: Arc<Awaited<Log>>,
}

#[derive(Default)]
struct Log {
    events: Vec<bulkhead::DomainEventMsg>,
    listeners: Vec<UnixStream>,
}

impl FakeLog {
    /// Something happens to the domain `test`.
    pub(crate) fn emit(&self, event: i32) {
        let mut log = self.shared.lock();
        let sequence = log.events.len() as u64 + 1;
        let dom = remote::Domain { name: "test".into(), uuid: [1; 16], id: 1 };
        let event = bulkhead::DomainEventMsg { sequence, dom, event, seconds: 1, ..Default::default() };
        log.events.push(event.clone());
        for listener in &log.listeners {
            // A listener that is gone misses it, and asks again.
            let _ = send_event(listener, event.clone());
        }
    }

    /// How many are listening.
    pub(crate) fn listeners(&self) -> usize {
        self.shared.lock().listeners.len()
    }

    /// Waits until so many are listening.
    #[track_caller]
    pub(crate) fn wait_for_listeners(&self, count: usize) {
        self.shared.wait(&format!("{count} listeners"), |log| log.listeners.len() >= count);
    }

    fn subscribe(&self, socket: &UnixStream, since: Option<u64>, reply: impl FnOnce(bulkhead::EventsSubscribeRet)) {
        self.shared.change(|log| {
            let next = log.events.len() as u64 + 1;
            reply(bulkhead::EventsSubscribeRet { next, lost: false });
            for event in log.events.iter().filter(|event| since.is_some_and(|since| event.sequence > since)) {
                send_event(socket, event.clone()).unwrap();
            }
            log.listeners.push(socket.try_clone().unwrap());
        });
    }
}

fn send_event(socket: &UnixStream, event: bulkhead::DomainEventMsg) -> Result<(), ipc::ConnError> {
    let mut conn = Conn::new(socket.try_clone().unwrap(), Caps::FROM_CLIENT);
    let event = Event::BulkheadDomainEvent(event);
    conn.queue_with(Kind::Event, 0, Vec::new(), |out| codec::encode_event(&event, out))?;
    conn.flush_all()
}

/// The fake. Dropped, it is as if it had been killed: connections end, its socket stays.
pub(crate) struct FakeQemud {
    path: PathBuf,
    gone: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<UnixStream>>>,
    log: FakeLog,
    acceptor: Option<JoinHandle<()>>,
}

impl FakeQemud {
    /// Listens at `path`.
    pub(crate) fn listen(
        path: &Path,
        log: FakeLog,
        handler: impl Fn(&Call, Vec<OwnedFd>) -> Step + Send + Sync + 'static,
    ) -> FakeQemud {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let gone = Arc::new(AtomicBool::new(false));
        let open = Arc::new(Mutex::new(Vec::new()));
        let handler: Arc<Handler> = Arc::new(handler);
        let acceptor = {
            let (gone, open, log) = (Arc::clone(&gone), Arc::clone(&open), log.clone());
            std::thread::spawn(move || {
                while let Ok((socket, _)) = listener.accept() {
                    if gone.load(Ordering::Acquire) {
                        return;
                    }
                    open.lock().unwrap().push(socket.try_clone().unwrap());
                    let (handler, log) = (Arc::clone(&handler), log.clone());
                    std::thread::spawn(move || serve(&socket, &*handler, &log));
                }
            })
        };
        FakeQemud { path: path.to_path_buf(), gone, open, log, acceptor: Some(acceptor) }
    }

    /// The socket was moved, as by a daemon that makes it appear when it is ready.
    pub(crate) fn moved_to(&mut self, path: &Path) {
        self.path = path.to_path_buf();
    }

    /// Connections that were accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.open.lock().unwrap().len()
    }
}

impl Drop for FakeQemud {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Release);
        // Wakes the acceptor, which leaves then; if nobody accepts any more, it has left.
        let _ = UnixStream::connect(&self.path);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
        self.log.shared.lock().listeners.clear();
        for socket in self.open.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn serve(socket: &UnixStream, handler: &Handler, log: &FakeLog) {
    let mut conn = Conn::new(socket.try_clone().unwrap(), Caps::FROM_CLIENT);
    let Ok(_) = conn.recv() else { return };
    let hello = Hello::new("fake-qemud", VERSIONS.0, VERSIONS.1);
    conn.queue_with(Kind::Hello, 0, Vec::new(), |out| codec::encode_into(&hello, out)).unwrap();
    if conn.flush_all().is_err() {
        return;
    }
    while let Ok(frame) = conn.recv() {
        let call = codec::decode_call(&frame.body).unwrap();
        if let Call::BulkheadEventsSubscribe(args) = &call {
            log.subscribe(socket, args.since, |ret| {
                let reply = Reply::BulkheadEventsSubscribe(ret);
                conn.queue_with(Kind::Reply, frame.serial, Vec::new(), |out| codec::encode_reply(&reply, out)).unwrap();
                conn.flush_all().unwrap();
            });
            continue;
        }
        let queued = match handler(&call, frame.fds) {
            Step::Reply(reply, fds) => {
                conn.queue_with(Kind::Reply, frame.serial, fds, |out| codec::encode_reply(&reply, out))
            }
            Step::Fail(error) => {
                conn.queue_with(Kind::Error, frame.serial, Vec::new(), |out| codec::encode_error(&error, out))
            }
            Step::Body(body) => conn.queue_with(Kind::Reply, frame.serial, Vec::new(), |out| {
                out.extend(body);
                Ok(())
            }),
            Step::Raw(bytes) => {
                let _ = rustix::net::send(socket, &bytes, rustix::net::SendFlags::NOSIGNAL);
                Ok(())
            }
            Step::HangUp => {
                let _ = socket.shutdown(Shutdown::Both);
                return;
            }
        };
        if queued.and_then(|()| conn.flush_all()).is_err() {
            return;
        }
    }
}
