//! # acceptor: lets clients in and hands them on
//!
//! It accepts, asks the kernel for the client's user, decides the rights, counts, and gives the client to a worker once the
//! client has sent something: a silent client costs a descriptor here until its time is up. It reads no byte of a client's. It
//! does one thing for a worker: it gets the worker a connection to a daemon, by the rights that it has noted itself. The
//! connection to qemud comes from the launcher: the acceptor has root's uid, so it must not be able to reach a socket.
//!
//! One thread around one poll; nothing waits.

mod admission;
mod dials;
mod logins;
mod mock_host;
mod polkit;
mod slots;
mod workers;

use std::{
    collections::VecDeque,
    io,
    net::TcpListener,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use api::look::Look;
use ipc::{ConnError, edge::Channel};
use mio::{Events, Interest, Poll, Registry, Token, event::Event, unix::SourceFd};
use rustix::{fs::inotify, io::Errno};
use sandbox::landlock::{self, Rules};
use thiserror::Error;

use self::{
    admission::{Admission, Entry, Refusal, entry},
    dials::Dials,
    mock_host::MockHost,
    polkit::Polkit,
    slots::{Key, Slots},
    workers::{Wanted, Workers},
};
use crate::{
    edge::{Client, Daemon, Door, FromLauncher, Login, Network, Peer, Settings, ToLauncher, Way, fds},
    tls::{Key as TlsKey, TlsError},
};

const LAUNCHER: Token = Token(0);
/// A socket has appeared beside qemud's.
const APPEARED: Token = Token(1);
/// The process that asks polkit.
const POLKIT: Token = Token(2);
const MOCK_HOST: Token = Token(3);
const LISTENERS: usize = 16;
const CLIENTS: usize = 1 << 20;
const WORKERS: usize = 1 << 24;

/// So many are accepted from one listener before the others have their turn.
const BATCH: usize = 16;
/// How long not to accept after the process ran out of descriptors.
const FULL: Duration = Duration::from_millis(100);

/// Why the acceptor cannot run.
#[derive(Debug, Error)]
pub enum AcceptorError {
    /// The launcher did not hand over what it should.
    #[error("the acceptor is started by the gateway's launcher, not by hand")]
    Inherited(#[from] sandbox::fd::InheritError),
    /// The launcher is gone or broke the protocol.
    #[error("the connection to the launcher is lost")]
    Launcher(#[source] ConnError),
    /// The first message is something else than what there is to do.
    #[error("the launcher did not say what to do")]
    NoBegin,
    /// The TLS key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The acceptor could not give up its power.
    #[error("cannot give up power")]
    Sandbox(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The poll failed.
    #[error("the event loop failed")]
    Poll(#[source] io::Error),
}

/// A client that has said nothing yet.
struct Silent {
    socket: OwnedFd,
    peer: Peer,
    entry: Entry,
    door: Door,
    /// Its process, when polkit may be asked about it.
    pidfd: Option<OwnedFd>,
}

/// Where clients come in.
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn accept(&self) -> io::Result<(OwnedFd, io::Result<Peer>)> {
        match self {
            Listener::Unix(listener) => listener.accept().map(|(socket, _)| {
                let cred = sandbox::peer::cred(&socket).map_err(io::Error::other);
                let peer = cred.map(|cred| Peer::Local { uid: cred.uid, gid: cred.gid, pid: cred.pid });
                (socket.into(), peer)
            }),
            Listener::Tcp(listener) => listener.accept().map(|(socket, address)| {
                // Small questions and small answers: each goes at once. A worker's transport must not block.
                // A host that vanishes must not keep its place for ever.
                let keep = || rustix::net::sockopt::set_socket_keepalive(&socket, true).map_err(io::Error::from);
                let set = socket.set_nodelay(true).and_then(|()| socket.set_nonblocking(true)).and_then(|()| keep());
                (socket.into(), set.map(|()| Peer::Remote(address)))
            }),
        }
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> i32 {
        match self {
            Listener::Unix(listener) => listener.as_raw_fd(),
            Listener::Tcp(listener) => listener.as_raw_fd(),
        }
    }
}

/// The whole state of the process.
struct Acceptor {
    settings: Settings,
    registry: Registry,
    launcher: Channel<ToLauncher, FromLauncher>,
    listeners: Vec<(Listener, Door)>,
    admission: Admission,
    silent: Slots<Silent>,
    /// When patience with each of them ends: in order, because all get the same.
    patience: VecDeque<(Instant, Key)>,
    workers: Workers,
    dials: Dials,
    polkit: Polkit,
    mock_host: MockHost,
    /// Listeners that have clients to accept, each once.
    more: Vec<usize>,
    accept_again: Option<Instant>,
    appeared: Option<OwnedFd>,
}

/// Runs the acceptor until the launcher leaves.
///
/// # Errors
/// When it cannot start, or loses the launcher in a bad way.
pub fn run() -> Result<(), AcceptorError> {
    let channel = sandbox::fd::inherited_fd(fds::CHANNEL)?;
    let mut launcher = Channel::new(UnixStream::from(channel));
    let settings = match launcher.recv().map_err(AcceptorError::Launcher)?.value {
        FromLauncher::Begin(settings) => *settings,
        _ => return Err(AcceptorError::NoBegin),
    };
    let mut listeners = Vec::new();
    for (number, door) in (fds::FIRST_LISTENER..).zip(&settings.doors) {
        let inherited = sandbox::fd::inherited_fd(number)?;
        // The launcher made them non-blocking; the mode belongs to the listener, not to this process.
        let listener = match door {
            Door::ReadWrite | Door::ReadOnly => Listener::Unix(inherited.into()),
            Door::Tcp | Door::Tls => Listener::Tcp(inherited.into()),
        };
        listeners.push((listener, *door));
    }
    let appeared = watch(&settings);
    let mut poll = Poll::new().map_err(AcceptorError::Poll)?;
    let mut acceptor = Acceptor::new(&poll, settings, launcher, listeners, appeared)?;
    let sandboxed = |error: Box<dyn std::error::Error + Send + Sync>| AcceptorError::Sandbox(error);
    let enforced = landlock::restrict(&Rules::default()).map_err(|e| sandboxed(e.into()))?;
    tracing::debug!("Landlock: {enforced:?}");
    sandbox::policy::Role::GatewayAcceptor.install().map_err(|e| sandboxed(e.into()))?;
    acceptor.run(&mut poll)
}

/// Notices sockets that appear where qemud's are. Without it a qemud that comes back is seen a little later.
fn watch(settings: &Settings) -> Option<OwnedFd> {
    let watch = || {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let dir = settings.qemud.parent().ok_or(rustix::io::Errno::NOENT)?;
        inotify::add_watch(&fd, dir, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)?;
        Ok::<_, rustix::io::Errno>(fd)
    };
    watch().inspect_err(|error| tracing::warn!("qemud's return will be noticed late: {error}")).ok()
}

impl Acceptor {
    fn new(
        poll: &Poll,
        settings: Settings,
        launcher: Channel<ToLauncher, FromLauncher>,
        listeners: Vec<(Listener, Door)>,
        appeared: Option<OwnedFd>,
    ) -> Result<Acceptor, AcceptorError> {
        let key = match &settings.network {
            Network { tls: Some(_), key, .. } => Some(TlsKey::read(key)?),
            _ => None,
        };
        let registry = poll.registry().try_clone().map_err(AcceptorError::Poll)?;
        let workers = Workers::new(registry.try_clone().map_err(AcceptorError::Poll)?, WORKERS, &settings, key);
        let acceptor = Acceptor {
            registry,
            polkit: Polkit::new(POLKIT),
            mock_host: MockHost::new(MOCK_HOST, &settings.limits),
            launcher,
            listeners,
            admission: Admission::new(&settings),
            silent: Slots::new(),
            patience: VecDeque::new(),
            workers,
            dials: Dials::new(&settings),
            more: Vec::new(),
            accept_again: None,
            appeared,
            settings,
        };
        acceptor.launcher.conn().socket().set_nonblocking(true).map_err(AcceptorError::Poll)?;
        acceptor.watch(&acceptor.launcher.conn().socket().as_raw_fd(), LAUNCHER, true)?;
        if let Some(appeared) = &acceptor.appeared {
            acceptor.watch(&appeared.as_raw_fd(), APPEARED, false)?;
        }
        for (index, (listener, _)) in acceptor.listeners.iter().enumerate() {
            acceptor.watch(&listener.as_raw_fd(), Token(LISTENERS + index), false)?;
        }
        Ok(acceptor)
    }

    fn watch(&self, fd: &i32, token: Token, write: bool) -> Result<(), AcceptorError> {
        let interest = if write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.registry.register(&mut SourceFd(fd), token, interest).map_err(AcceptorError::Poll)
    }

    fn run(&mut self, poll: &mut Poll) -> Result<(), AcceptorError> {
        let mut events = Events::with_capacity(256);
        let look = Look::default();
        // Those that were there before the poll are told of once; this takes them even so.
        self.more = (0..self.listeners.len()).collect();
        self.workers.replenish(&mut self.launcher);
        loop {
            self.settle()?;
            let wait = self.sleep(Instant::now());
            ipc::wait::until_ready(poll, &mut events, &look, wait).map_err(AcceptorError::Poll)?;
            if !self.take_events(&events)? {
                return Ok(());
            }
        }
    }

    /// Works through what a poll has brought. False when the launcher has left.
    fn take_events(&mut self, events: &Events) -> Result<bool, AcceptorError> {
        for event in events {
            match event.token() {
                LAUNCHER => match self.hear_launcher() {
                    Err(ConnError::Closed) => return Ok(false),
                    other => other.map_err(AcceptorError::Launcher)?,
                },
                APPEARED => self.qemud_may_be_back(),
                POLKIT => self.hear_polkit(),
                MOCK_HOST => self.mock_host.hear(&self.registry),
                Token(token) if token >= WORKERS => self.hear_worker(token - WORKERS),
                Token(token) if token >= CLIENTS => self.client_speaks(token - CLIENTS, event),
                Token(token) => self.accept_soon(token - LISTENERS),
            }
        }
        Ok(true)
    }

    /// Does all that can be done without waiting.
    fn settle(&mut self) -> Result<(), AcceptorError> {
        let now = Instant::now();
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            self.more = (0..self.listeners.len()).collect();
        }
        for index in std::mem::take(&mut self.more) {
            self.accept(index);
        }
        self.end_patience(now);
        self.workers.tidy(now, &mut self.launcher);
        self.dials.try_due(&mut self.launcher, now);
        self.launcher.flush().map_err(AcceptorError::Launcher)?;
        Ok(())
    }

    fn sleep(&self, now: Instant) -> Option<Duration> {
        if !self.more.is_empty() {
            return Some(Duration::ZERO);
        }
        let patience = self.patience.front().map(|(at, _)| *at);
        let times = [patience, self.accept_again, self.workers.next_time(), self.dials.next_time()];
        times.into_iter().flatten().min().map(|at| at.saturating_duration_since(now))
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..BATCH {
            let Some((listener, door)) = self.listeners.get(index) else { return };
            let door = *door;
            match listener.accept() {
                Ok((socket, Ok(peer))) => self.admit(socket, peer, door),
                Ok((_, Err(error))) => tracing::debug!("a client that is gone: {error}"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!("cannot accept: {error}");
                    self.accept_again = Some(Instant::now() + FULL);
                    return;
                }
            }
        }
        self.accept_soon(index);
    }

    /// Gives a listener its turn in the next pass of the loop, and one turn only: the poll reports new clients also of a
    /// listener that still has some of its last turn.
    fn accept_soon(&mut self, index: usize) {
        if !self.more.contains(&index) {
            self.more.push(index);
        }
    }

    fn admit(&mut self, socket: OwnedFd, peer: Peer, door: Door) {
        let groups = || sandbox::peer::groups(&socket).unwrap_or_default();
        let entry = entry(&self.settings, door, peer, groups);
        self.make_room(peer);
        let admitted = entry.and_then(|entry| self.admission.admit(peer).map(|()| entry));
        let entry = match admitted {
            Ok(entry) => entry,
            Err(Refusal { code, reason }) => {
                tracing::debug!("{peer} refused: {reason}");
                // Behind TLS there are no words before a handshake, which a client that is one too many does not get.
                if door != Door::Tls {
                    self.workers.refuse(&mut self.launcher, socket, peer, code.0, reason);
                }
                return;
            }
        };
        let number = socket.as_raw_fd();
        // A process that is gone cannot be asked about; polkit will say so.
        let pidfd = (entry == Entry::AsksPolkit).then(|| sandbox::peer::pidfd(&socket).ok().flatten()).flatten();
        let key = self.silent.add(Silent { socket, peer, entry, door, pidfd });
        if self.registry.register(&mut SourceFd(&number), Token(CLIENTS + key.slot), Interest::READABLE).is_err() {
            self.silent.remove(key);
            return self.admission.release(peer);
        }
        self.patience.push_back((Instant::now() + self.settings.limits.patience, key));
    }

    /// Hangs up on one who came by network and has not logged in, whether it has spoken or not, when the next one takes its
    /// place. A worker's word that its client has logged in may be on its way, and is heard first.
    fn make_room(&mut self, next: Peer) {
        while let Some(stranger) = self.admission.makes_room(next) {
            if let Some(key) = self.silent.find(|silent| silent.peer == stranger) {
                if let Some(Silent { socket, .. }) = self.silent.remove(key) {
                    let _ = self.registry.deregister(&mut SourceFd(&socket.as_raw_fd()));
                }
            } else if let Some(key) = self.workers.serving(stranger) {
                self.hear_worker(key.slot);
                if self.admission.makes_room(next) != Some(stranger) {
                    continue;
                }
                self.workers.forget(key);
            }
            return self.admission.release(stranger);
        }
    }

    fn client_speaks(&mut self, slot: usize, event: &Event) {
        let Some(key) = self.silent.key(slot) else { return };
        let Some(Silent { socket, peer, entry, door, pidfd }) = self.silent.remove(key) else { return };
        let _ = self.registry.deregister(&mut SourceFd(&socket.as_raw_fd()));
        if self.patience.front().is_some_and(|(_, front)| *front == key) {
            self.patience.pop_front();
        }
        if event.is_write_closed() {
            // It has left already; whatever it said, it does not wait for an answer.
            return self.admission.release(peer);
        }
        let client = Client {
            peer,
            rights: entry.rights(),
            mode: self.settings.mode,
            patience: self.settings.limits.patience,
            keepalive: self.settings.keepalive,
            way: self.way(door, entry),
            share: self.settings.limits.share(),
        };
        if let Some(lost) = self.workers.serve(&mut self.launcher, client, socket, pidfd) {
            self.admission.release(lost);
        }
    }

    fn way(&self, door: Door, entry: Entry) -> Way {
        let Network { tls, tls_login, tcp_login, .. } = &self.settings.network;
        match (door, tls) {
            // Who is asked for no name on an open connection is nobody: without a word on it, a name is asked for.
            (Door::Tcp, _) => Way::Tcp(tcp_login.unwrap_or(Login::Sasl)),
            (Door::Tls, Some(terms)) => Way::Tls(tls_login.unwrap_or(Login::None), Box::new(terms.clone())),
            _ if entry == Entry::AsksPolkit => Way::Unix(Login::Polkit),
            _ => Way::Unix(Login::None),
        }
    }

    fn end_patience(&mut self, now: Instant) {
        while let Some((at, key)) = self.patience.front().copied() {
            // One that has spoken in the meantime is gone from the slots: its entry only takes its turn here.
            let over = at <= now;
            if !over && self.silent.get(key).is_some() {
                return;
            }
            self.patience.pop_front();
            if over && let Some(silent) = self.silent.remove(key) {
                let _ = self.registry.deregister(&mut SourceFd(&silent.socket.as_raw_fd()));
                self.admission.release(silent.peer);
            }
        }
    }

    fn hear_launcher(&mut self) -> Result<(), ConnError> {
        loop {
            while let Some(message) = self.launcher.next_message()? {
                match message.value {
                    FromLauncher::Begin(_) => tracing::warn!("the launcher says again what to do"),
                    FromLauncher::Qemud(Ok(())) => self.qemud_may_be_back(),
                    FromLauncher::Qemud(Err(reason)) => {
                        for (key, word) in self.dials.not_started(&reason) {
                            self.workers.not_dialed(key, &word);
                        }
                    }
                    FromLauncher::Dialed { id } => {
                        if let (Some(key), Some(socket)) = (self.dials.dialed(id), message.fds.into_iter().next()) {
                            self.workers.dialed(key, socket);
                        }
                    }
                    FromLauncher::NotDialed { id, errno } => {
                        let failure = Errno::from_raw_os_error(errno);
                        if let Some((key, word)) = self.dials.failed(&mut self.launcher, id, failure) {
                            self.workers.not_dialed(key, &word);
                        }
                    }
                }
            }
            if !self.launcher.fill()? && self.launcher.next_message()?.is_none() {
                return Ok(());
            }
        }
    }

    fn hear_worker(&mut self, slot: usize) {
        let heard = self.workers.hear(slot);
        if let Some(peer) = heard.known {
            self.admission.known(peer);
        }
        if let Some(peer) = heard.released {
            self.admission.release(peer);
        }
        if let Some(wanted) = heard.dial {
            self.dial(wanted);
        }
        if let Some(question) = heard.question
            && let Some((key, word)) = self.polkit.ask(&self.registry, &mut self.launcher, question)
        {
            self.workers.authorized(key, word);
        }
        if let Some(key) = heard.done {
            self.polkit.forget(key);
            self.dials.forget(key);
        }
    }

    fn dial(&mut self, Wanted { key, peer, rights, dial }: Wanted) {
        match dial.daemon {
            Daemon::Qemud => self.dials.ask(&mut self.launcher, key, (rights, peer), dial.again),
            Daemon::MockHost => match self.mock_host.connect(&self.registry, &mut self.launcher, peer, rights) {
                Ok(socket) => self.workers.dialed(key, socket),
                Err(word) => self.workers.not_dialed(key, &word),
            },
        }
    }

    fn hear_polkit(&mut self) {
        for (key, word) in self.polkit.hear(&self.registry) {
            self.workers.authorized(key, word);
        }
    }

    fn qemud_may_be_back(&mut self) {
        if let Some(appeared) = &self.appeared {
            let mut names = [0; 4096];
            // What appeared is of no interest; it is read so that the next one rings again.
            while rustix::io::read(appeared, &mut names).is_ok_and(|read| read > 0) {}
        }
        self.dials.try_all(&mut self.launcher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::{InstanceMode, Trusted};

    #[test]
    fn a_listener_under_a_flood_of_clients_has_one_turn_in_each_pass_of_the_loop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut settings = admission::tests::settings(InstanceMode::System, Trusted::default());
        (settings.limits.connections, settings.limits.connections_per_uid) = (1000, 1000);
        let (near, _launcher) = UnixStream::pair().unwrap();
        let mut poll = Poll::new().unwrap();
        let listeners = vec![(Listener::Unix(listener), Door::ReadOnly)];
        let mut acceptor = Acceptor::new(&poll, settings, Channel::new(near), listeners, None).unwrap();
        let mut events = Events::with_capacity(256);
        let mut clients = Vec::new();
        for pass in 1..=5 {
            // More come in each pass than are accepted in one.
            clients.extend((0..BATCH + 2).map(|_| UnixStream::connect(&path).unwrap()));
            poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            assert!(acceptor.take_events(&events).unwrap());
            assert_eq!(acceptor.more, [0], "pass {pass}");
            acceptor.settle().unwrap();
            assert_eq!(acceptor.patience.len(), pass * BATCH);
        }
    }
}
