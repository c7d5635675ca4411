//! A daemon for tests that speaks libvirt's protocol: a thread that listens at a socket and answers as the test wants.

use std::{
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
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
use wire::{
    Conn, Frame, WireError,
    codec::{self, Meaning},
    keepalive,
    sasl::{Passwords, ServerExchange, Users, Verifier},
    stream::{FromClient, Packet, ServerEnd, StreamId},
    transport::Unix,
};

use crate::{
    awaited::Awaited,
    wait::{self, Deadline},
};

/// What the fake does with a call.
pub(crate) enum Step {
    Reply(Reply, Vec<OwnedFd>),
    Fail(Error),
    /// The reply, then a stream whose bytes come back.
    Echo(Reply),
    /// Bytes instead of a frame.
    Raw(Vec<u8>),
    /// Nothing, not even an answer to a ping.
    Silence,
    HangUp,
    /// The reply, and these events right behind it.
    Tell(Reply, Vec<Event>),
}

type Handler = dyn Fn(&Call, Vec<OwnedFd>) -> Step + Send + Sync;

/// What every connection of a fake has in common.
struct Shared {
    /// It has the program `bulkhead`.
    ours: bool,
    /// Who may log in; everybody, if nobody is named.
    user: Option<Arc<User>>,
    handler: Box<Handler>,
    gone: AtomicBool,
    /// It answers no ping.
    deaf: AtomicBool,
    calls: Awaited<Vec<Call>>,
    open: Mutex<Vec<UnixStream>>,
    listeners: Awaited<Vec<UnixStream>>,
}

/// The one user of a fake that wants a password.
struct User {
    name: String,
    verifier: Verifier,
}

impl Users for User {
    fn verifier(&self, name: &str) -> Option<Verifier> {
        (name == self.name).then(|| self.verifier.clone())
    }
}

/// The fake. Dropped, it is as if it had been killed: connections end, its socket stays.
pub(crate) struct FakeLibvirtd {
    path: PathBuf,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl FakeLibvirtd {
    /// libvirt's own, listening at `path`.
    pub(crate) fn listen(
        path: &Path,
        handler: impl Fn(&Call, Vec<OwnedFd>) -> Step + Send + Sync + 'static,
    ) -> FakeLibvirtd {
        FakeLibvirtd::begin(path, false, None, Box::new(handler))
    }

    /// Bulkhead's gateway.
    pub(crate) fn ours(
        path: &Path,
        handler: impl Fn(&Call, Vec<OwnedFd>) -> Step + Send + Sync + 'static,
    ) -> FakeLibvirtd {
        FakeLibvirtd::begin(path, true, None, Box::new(handler))
    }

    /// One that wants a name and a password.
    pub(crate) fn guarded(
        path: &Path,
        (name, password): (&str, &str),
        handler: impl Fn(&Call, Vec<OwnedFd>) -> Step + Send + Sync + 'static,
    ) -> FakeLibvirtd {
        let verifier = Verifier::derive(password, 4096, b"a salt that never changes").unwrap();
        let user = Arc::new(User { name: name.to_owned(), verifier });
        FakeLibvirtd::begin(path, false, Some(user), Box::new(handler))
    }

    fn begin(path: &Path, ours: bool, user: Option<Arc<User>>, handler: Box<Handler>) -> FakeLibvirtd {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let shared = Arc::new(Shared {
            ours,
            user,
            handler,
            gone: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            calls: Awaited::default(),
            open: Mutex::default(),
            listeners: Awaited::default(),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                while let Ok((socket, _)) = listener.accept() {
                    if shared.gone.load(Ordering::Acquire) {
                        return;
                    }
                    shared.open.lock().unwrap().push(socket.try_clone().unwrap());
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || {
                        let end = HangUp(&socket);
                        let _ = serve(&socket, &shared);
                        drop(end);
                    });
                }
            })
        };
        FakeLibvirtd { path: path.to_path_buf(), shared, acceptor: Some(acceptor) }
    }

    /// Connections that were accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// The calls that came, those of the login included.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().clone()
    }

    /// Waits until so many calls have come.
    #[track_caller]
    pub(crate) fn wait_for_calls(&self, count: usize) {
        self.shared.calls.wait(&format!("{count} calls"), |calls| calls.len() >= count);
    }

    /// Ends every connection.
    pub(crate) fn hang_up(&self) {
        for socket in &*self.shared.open.lock().unwrap() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// From now on answers no ping, as if its host had lost its power.
    pub(crate) fn go_deaf(&self) {
        self.shared.deaf.store(true, Ordering::Release);
    }

    /// Waits until so many listen.
    #[track_caller]
    pub(crate) fn wait_for_listeners(&self, count: usize) {
        self.shared.listeners.wait(&format!("{count} listeners"), |listeners| listeners.len() >= count);
    }

    /// Tells everybody who listens.
    pub(crate) fn emit(&self, event: &Event) {
        for socket in &*self.shared.listeners.lock() {
            let mut conn = Conn::new(Unix::new(socket.try_clone().unwrap()));
            conn.queue_event(event).unwrap();
            assert!(conn.flush().unwrap());
        }
    }
}

impl Drop for FakeLibvirtd {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::Release);
        let _ = UnixStream::connect(&self.path);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
        for socket in self.shared.open.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// However a connection ends, by a test's panic too, the client's end of it is told.
struct HangUp<'a>(&'a UnixStream);

impl Drop for HangUp<'_> {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

type Link = Conn<Unix>;

fn flush(conn: &mut Link) -> Result<(), WireError> {
    while !conn.flush()? {
        wait::ready(conn.as_fd(), rustix::event::PollFlags::OUT, Deadline::after(None)).unwrap();
    }
    Ok(())
}

fn next_frame(conn: &mut Link) -> Result<Frame, WireError> {
    loop {
        if let Some(frame) = conn.next_frame()? {
            return Ok(frame);
        }
        if !conn.fill()? {
            if let Some(frame) = conn.next_frame()? {
                return Ok(frame);
            }
            wait::readable(conn.as_fd(), Deadline::after(None)).unwrap();
        }
    }
}

fn serve(socket: &UnixStream, shared: &Shared) -> Result<(), WireError> {
    let mut conn = Conn::new(Unix::new(socket.try_clone().unwrap()));
    let mut streams: Vec<ServerEnd> = Vec::new();
    let mut login = shared.user.clone().map(|user| ServerExchange::new(Arc::new(Passwords::new(user))));
    loop {
        let frame = next_frame(&mut conn)?;
        match frame.header.meaning() {
            Meaning::Keepalive if shared.deaf.load(Ordering::Acquire) => {}
            Meaning::Keepalive => {
                if let Some(pong) = keepalive::answer(&frame.header) {
                    conn.queue_empty(&pong)?;
                }
            }
            Meaning::Stream => {
                let id = StreamId::from(&frame.header);
                let Some(stream) = streams.iter_mut().find(|stream| stream.id() == id) else { continue };
                match stream.take(Packet::decode(frame).unwrap()).unwrap() {
                    FromClient::Data(bytes) if bytes == b"bye" => stream.end(&mut conn)?,
                    FromClient::Data(bytes) => stream.data(&mut conn, &bytes)?,
                    FromClient::Finish | FromClient::Abort => stream.confirm(&mut conn)?,
                    _ => {}
                }
            }
            Meaning::Call => {
                if !answer(&mut conn, &mut streams, &mut login, socket, shared, frame)? {
                    return Ok(());
                }
            }
            other => panic!("{other:?}"),
        }
        flush(&mut conn)?;
    }
}

fn answer(
    conn: &mut Link,
    streams: &mut Vec<ServerEnd>,
    exchange: &mut Option<ServerExchange>,
    socket: &UnixStream,
    shared: &Shared,
    mut frame: Frame,
) -> Result<bool, WireError> {
    let header = &frame.header;
    if header.program == bulkhead::PROGRAM && !shared.ours {
        // libvirt translates this one into the language of its host.
        let text = format!("Programm {} Version {} kann nicht gefunden werden", header.program, header.version);
        conn.queue_error(header, &Error::new(api::ErrorCode::RPC, api::ErrorDomain::RPC, text))?;
        return Ok(true);
    }
    let call = codec::decode_call(&frame).unwrap();
    let fds = std::mem::take(&mut frame.fds);
    let header = &frame.header;
    shared.calls.change(|calls| calls.push(call.clone()));
    match login(&call, exchange).unwrap_or_else(|| (shared.handler)(&call, fds)) {
        Step::Reply(reply, fds) => {
            let listens =
                matches!(reply, Reply::ConnectDomainEventCallbackRegisterAny(_) | Reply::BulkheadEventsSubscribe(_));
            conn.queue_reply(header, &reply, fds)?;
            flush(conn)?;
            if listens {
                shared.listeners.change(|listeners| listeners.push(socket.try_clone().unwrap()));
            }
        }
        Step::Fail(error) => conn.queue_error(header, &error)?,
        Step::Echo(reply) => {
            conn.queue_reply(header, &reply, Vec::new())?;
            streams.push(ServerEnd::new(StreamId::from(header), api::Stream::Both, false));
        }
        Step::Raw(bytes) => {
            let _ = rustix::net::send(socket, &bytes, rustix::net::SendFlags::NOSIGNAL);
        }
        Step::Silence => {
            wait::ready(socket.as_fd(), rustix::event::PollFlags::HUP, Deadline::after(None)).unwrap();
            return Ok(false);
        }
        Step::HangUp => return Ok(false),
        Step::Tell(reply, events) => {
            conn.queue_reply(header, &reply, Vec::new())?;
            events.iter().try_for_each(|event| conn.queue_event(event))?;
        }
    }
    Ok(true)
}

/// What every daemon answers alike.
fn login(call: &Call, exchange: &mut Option<ServerExchange>) -> Option<Step> {
    let step =
        |result: Result<Reply, Error>| Some(result.map_or_else(Step::Fail, |reply| Step::Reply(reply, Vec::new())));
    match (call, exchange) {
        (Call::AuthList(_), exchange) => {
            let kind = if exchange.is_some() { remote::AuthType::SASL } else { remote::AuthType::NONE };
            step(Ok(Reply::AuthList(remote::AuthListRet { types: vec![kind] })))
        }
        (Call::AuthSaslInit(_), Some(_)) => {
            let mechlist = format!("GSSAPI {}", wire::sasl::MECHANISM);
            step(Ok(Reply::AuthSaslInit(remote::AuthSaslInitRet { mechlist })))
        }
        (Call::AuthSaslStart(args), Some(exchange)) => step(exchange.start(args).map(Reply::AuthSaslStart)),
        (Call::AuthSaslStep(args), Some(exchange)) => step(exchange.step(args).map(Reply::AuthSaslStep)),
        (Call::ConnectOpen(_), None) => step(Ok(Reply::ConnectOpen(()))),
        (Call::ConnectOpen(_), Some(exchange)) => {
            assert!(exchange.name().is_some(), "opened before the login");
            step(Ok(Reply::ConnectOpen(())))
        }
        (Call::ConnectClose(_), _) => step(Ok(Reply::ConnectClose(()))),
        _ => None,
    }
}
