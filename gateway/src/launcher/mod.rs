//! # launcher: makes the sockets and starts the others
//!
//! The one process of the gateway that keeps a power: on a system instance, to change the identity of what it starts; in a
//! session, to start the user's own qemud as the user would. And it alone connects to qemud's two sockets, because who can
//! connect to one socket of its uid can connect to all. It has no way to
//! hear a client or a worker: its only input is the few words of [`ToLauncher`], its configuration, and what the kernel
//! says of its children. It is one thread, so that a clone of it is a small single-threaded process.

mod setup;
mod starter;

use std::{
    io,
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use ipc::{
    ConnError,
    edge::Channel,
    paths::{Instance, Mode},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use sandbox::{
    Signal,
    caps::{self, Capability},
    pidfd,
    rlimit::{self, Limit, Resource},
    signal::{SignalError, SignalFd},
    spawn::{Identity, Program, Spawn, SpawnError},
};
use thiserror::Error;

pub use self::setup::SetupError;
pub use self::starter::start_qemud;
use self::{setup::Sockets, starter::Starter};
use crate::{
    chain,
    config::Config,
    edge::{Door, FromLauncher, Login, Network, Rights, Settings, ToLauncher, fds},
    mock_host,
    network::NetworkError,
};

/// An acceptor that dies sooner than this after its start is not worth another try at once.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// This many short lives in a row, and the launcher gives up.
const SHORT_LIVES: u32 = 5;
/// Descriptors of a worker: the standard three, its channel, its client, its driver, streams, and those on their way.
const WORKER_DESCRIPTORS: u64 = 256;
/// Descriptors of the process that asks polkit: the bus, the loop, and a pidfd for each question until it is asked.
const POLKIT_DESCRIPTORS: u64 = 4096;
/// Memory of a worker: the largest call and the largest answer, several times over.
const WORKER_MEMORY: u64 = 1 << 30;
/// Memory of the mock host: what its budgets allow all clients together, and its guests' documents.
const MOCK_HOST_MEMORY: u64 = 2 << 30;

/// What a root launcher needs: to start processes under other uids and without any capability.
const CAPABILITIES: [Capability; 3] = [Capability::CAP_SETGID, Capability::CAP_SETUID, Capability::CAP_SETPCAP];

/// Why the gateway cannot run.
#[derive(Debug, Error)]
pub enum LauncherError {
    /// The directories, the lock or the sockets cannot be made.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ipc::conf::ConfError),
    /// Clients cannot come by network as configured.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The acceptor cannot be started.
    #[error("cannot start the acceptor")]
    Acceptor(#[source] SpawnError),
    /// The acceptor ends again and again.
    #[error("the acceptor ended {SHORT_LIVES} times soon after its start; see its messages above")]
    AcceptorDies,
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] SignalError),
    /// The launcher could not give up the capabilities that it does not need.
    #[error("cannot give up capabilities")]
    Capabilities(#[source] caps::CapsError),
    /// The launcher could not give up the system calls that it does not need.
    #[error("cannot give up system calls")]
    Sandbox(#[source] sandbox::policy::PolicyError),
    /// A descriptor cannot be made or waited for.
    #[error("cannot {step}")]
    System {
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn system<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> LauncherError {
    move |error| LauncherError::System { step, source: error.into() }
}

/// A process that was started.
struct Started {
    what: &'static str,
    pid: i32,
    pidfd: OwnedFd,
}

/// A living acceptor.
struct Acceptor {
    channel: Channel<FromLauncher, ToLauncher>,
    pidfd: OwnedFd,
    since: Instant,
}

/// The whole state of the process.
struct Launcher {
    instance: Instance,
    config: Config,
    sockets: Sockets,
    ports: Vec<(TcpListener, Door)>,
    network: Network,
    children: Vec<Started>,
    starter: Option<Starter>,
    short_lives: u32,
    leaving: bool,
}

/// Runs the gateway until it is told to end. `announce` is called once clients can connect.
///
/// # Errors
/// When it cannot start, or the acceptor cannot be kept running.
pub fn run(instance: Instance, announce: impl FnOnce()) -> Result<(), LauncherError> {
    let config = Config::load(&instance)?;
    let _lock = setup::prepare(&instance, &config)?;
    let signals = SignalFd::usual().map_err(LauncherError::Signals)?;
    let mut network = config.network.load()?;
    if [network.tls_login, network.tcp_login].contains(&Some(Login::Sasl)) {
        network.secret = setup::secret(&instance)?;
    }
    let ports = config.network.listen()?;
    let sockets = setup::listen(&instance, &config)?;
    let mut launcher = Launcher {
        instance,
        config,
        sockets,
        ports,
        network,
        children: Vec::new(),
        starter: None,
        short_lives: 0,
        leaving: false,
    };
    let result = launcher.confine().and_then(|()| {
        // Clients wait in the listeners' queues from here on.
        announce();
        launcher.run(&signals)
    });
    launcher.sockets.clear();
    result
}

impl Launcher {
    fn confine(&self) -> Result<(), LauncherError> {
        rlimit::set(Limit::fixed(Resource::Core, 0))
            .map_err(|error| LauncherError::System { step: "forbid core dumps", source: error.source })?;
        // A session's launcher keeps what its user has: it starts the user's qemud, which is to have no less.
        if self.instance.mode() == Mode::System {
            caps::keep_only(&CAPABILITIES).map_err(LauncherError::Capabilities)?;
        }
        sandbox::policy::Role::Launcher.install().map_err(LauncherError::Sandbox)
    }

    fn run(&mut self, signals: &SignalFd) -> Result<(), LauncherError> {
        let mut acceptor = self.start_acceptor()?;
        while !self.leaving {
            let ready = self.wait(signals, &acceptor)?;
            let mut lost = ready.acceptor_ended;
            if ready.signals {
                self.take_signals(signals);
            }
            if ready.starter {
                self.starter_ended(&mut acceptor.channel);
            }
            lost |= self.hear(&mut acceptor.channel, ready.channel).is_err();
            if lost && !self.leaving {
                acceptor = self.replace_acceptor(acceptor)?;
            }
        }
        // Acceptor and workers see their channels close and leave.
        Ok(())
    }

    fn wait(&self, signals: &SignalFd, acceptor: &Acceptor) -> Result<Ready, LauncherError> {
        // An acceptor that does not take its answers is not asked what else it wants.
        let wanted = if acceptor.channel.conn().backlog() > 0 { PollFlags::OUT } else { PollFlags::IN };
        let mut sources = vec![
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(acceptor.channel.as_fd(), wanted),
            PollFd::from_borrowed_fd(acceptor.pidfd.as_fd(), PollFlags::IN),
        ];
        sources.extend(self.starter.iter().map(|starter| PollFd::from_borrowed_fd(starter.pidfd(), PollFlags::IN)));
        match poll(&mut sources, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(system("wait for events")(error)),
        }
        let told = |index: usize| sources.get(index).is_some_and(|source| !source.revents().is_empty());
        Ok(Ready { signals: told(0), channel: told(1), acceptor_ended: told(2), starter: told(3) })
    }

    fn take_signals(&mut self, signals: &SignalFd) {
        while let Ok(Some(arrived)) = signals.read() {
            if arrived.is(Signal::TERM) || arrived.is(Signal::INT) {
                tracing::info!("asked to end by pid {} uid {}", arrived.pid, arrived.uid);
                self.leaving = true;
            }
        }
        // One signal may stand for several children.
        self.children.retain(|worker| match pidfd::try_wait(&worker.pidfd) {
            Ok(None) => true,
            Ok(Some(exit)) => {
                if !exit.success() {
                    tracing::warn!("{} {} ended with {exit}", worker.what, worker.pid);
                }
                false
            }
            Err(error) => {
                tracing::warn!("{} {}: {}", worker.what, worker.pid, chain(&error));
                false
            }
        });
    }

    fn hear(&mut self, channel: &mut Channel<FromLauncher, ToLauncher>, readable: bool) -> Result<(), ConnError> {
        if readable && channel.conn().backlog() == 0 {
            // False is "nothing more" and "gone" alike; the next message tells which.
            channel.fill()?;
        }
        while channel.flush()? {
            let Some(message) = channel.next_message()? else { break };
            match message.value {
                ToLauncher::Worker => message.fds.into_iter().for_each(|end| self.start_worker(&end)),
                ToLauncher::Dial { id, rights, user } => match self.dial(rights, user) {
                    Ok(socket) => say(channel, &FromLauncher::Dialed { id }, vec![socket]),
                    Err(errno) => {
                        say(channel, &FromLauncher::NotDialed { id, errno: errno.raw_os_error() }, Vec::new())
                    }
                },
                ToLauncher::StartQemud => self.start_qemud(channel),
                ToLauncher::Polkit => message.fds.into_iter().for_each(|end| self.start_polkit(&end)),
                ToLauncher::MockHost => message.fds.into_iter().for_each(|end| self.start_mock_host(&end)),
            }
        }
        Ok(())
    }

    /// Connects to one of qemud's two sockets, without waiting: an absent daemon or a full queue is an error. A read-only client
    /// is connected in the name of its own user; a connection that may change things needs this process's uid.
    fn dial(&self, rights: Rights, user: Option<u32>) -> Result<OwnedFd, Errno> {
        let path = match rights {
            Rights::Full => self.instance.socket(),
            Rights::ReadOnly => self.instance.read_only_socket(),
        };
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let user = user.filter(|_| rights == Rights::ReadOnly && self.instance.mode() == Mode::System);
        sandbox::process::in_the_name_of(user, || rustix::net::connect(&socket, &address))?;
        Ok(socket)
    }

    /// Starts a worker.
    fn start_worker(&mut self, channel: &OwnedFd) {
        self.start_without_rights("worker", channel, WORKER_DESCRIPTORS, WORKER_MEMORY);
    }

    /// Starts the mock host.
    fn start_mock_host(&mut self, channel: &OwnedFd) {
        let clients = u64::try_from(self.config.limits.connections).unwrap_or_default();
        let descriptors = mock_host::descriptors(clients);
        self.start_without_rights("mock-host", channel, descriptors, MOCK_HOST_MEMORY);
    }

    /// Starts a process that needs no more of this host than its channel.
    fn start_without_rights(&mut self, role: &'static str, channel: &OwnedFd, descriptors: u64, memory: u64) {
        let stderr = io::stderr();
        // A child cannot have more than this process may have.
        let most = rlimit::get(Resource::Nofile).hard.unwrap_or(descriptors);
        let mut spawn = self
            .spawn(role)
            .fd(2, &stderr)
            .fd(fds::CHANNEL, channel)
            .limit(Limit::fixed(Resource::Nofile, descriptors.min(most)))
            .limit(Limit::fixed(Resource::Data, memory));
        if rustix::process::geteuid().is_root() && self.instance.mode() == Mode::System {
            let uid = self.config.service_uid;
            spawn = spawn.identity(Identity { uid, gid: uid });
        }
        self.start_child(role, spawn);
    }

    /// Starts the process that asks polkit, under this process's own uid: polkit tells nobody else.
    fn start_polkit(&mut self, channel: &OwnedFd) {
        let stderr = io::stderr();
        let mut spawn = self
            .spawn("polkit")
            .fd(2, &stderr)
            .fd(fds::CHANNEL, channel)
            .limit(Limit::fixed(Resource::Nofile, POLKIT_DESCRIPTORS))
            .limit(Limit::fixed(Resource::Data, WORKER_MEMORY));
        if let Some(address) = std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS") {
            spawn = spawn.env("DBUS_SYSTEM_BUS_ADDRESS", address);
        }
        self.start_child("polkit", spawn);
    }

    /// That a child could not be started shows to the acceptor as the end of its channel.
    fn start_child(&mut self, what: &'static str, spawn: Spawn<'_>) {
        match spawn.start() {
            Ok(child) => self.children.push(Started { what, pid: child.pid, pidfd: child.pidfd }),
            Err(error) => tracing::error!("cannot start a process ({what}): {}", chain(&error)),
        }
    }

    fn spawn<'a>(&self, role: &str) -> Spawn<'a> {
        let mut spawn =
            Spawn::new(Program::OwnExe, "gateway").arg(format!("--role={role}")).limit(Limit::fixed(Resource::Core, 0));
        for name in ["RUST_LOG", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                spawn = spawn.env(name, value);
            }
        }
        spawn
    }

    fn start_acceptor(&self) -> Result<Acceptor, LauncherError> {
        let (ours, theirs) = UnixStream::pair().map_err(system("make the acceptor's channel"))?;
        let stderr = io::stderr();
        let mut spawn = self.spawn("acceptor").fd(2, &stderr).fd(fds::CHANNEL, &theirs);
        let mut number = fds::FIRST_LISTENER;
        for (listener, _) in &self.sockets.listeners {
            listener.set_nonblocking(true).map_err(system("make a listener non-blocking"))?;
            spawn = spawn.fd(number, listener);
            number += 1;
        }
        for (listener, _) in &self.ports {
            listener.set_nonblocking(true).map_err(system("make a listener non-blocking"))?;
            spawn = spawn.fd(number, listener);
            number += 1;
        }
        // As many descriptors as the host allows: each client takes one.
        if let Some(most) = rlimit::get(Resource::Nofile).hard {
            spawn = spawn.limit(Limit::fixed(Resource::Nofile, most));
        }
        let child = spawn.start().map_err(LauncherError::Acceptor)?;
        ours.set_nonblocking(true).map_err(system("make the acceptor's channel non-blocking"))?;
        let mut channel = Channel::new(ours);
        let begin = FromLauncher::Begin(Box::new(self.settings()));
        // A failed write shows as a lost acceptor at once.
        let _ = channel.queue(0, &begin, Vec::new()).and_then(|()| channel.flush());
        Ok(Acceptor { channel, pidfd: child.pidfd, since: Instant::now() })
    }

    fn settings(&self) -> Settings {
        Settings {
            mode: self.instance.mode().into(),
            doors: self.doors().collect(),
            qemud: self.instance.socket(),
            qemud_read_only: self.instance.read_only_socket(),
            own_uid: rustix::process::geteuid().as_raw(),
            trusted: self.config.trusted.clone(),
            limits: self.config.limits.clone(),
            keepalive: self.config.keepalive,
            // The system's daemon needs power that this process has given up.
            may_start_qemud: self.instance.mode() == Mode::Session,
            // A session is its owner's, whatever polkit says.
            polkit: self.config.polkit && self.instance.mode() == Mode::System,
            network: self.network.clone(),
        }
    }

    /// What the listeners are for, in the order in which the acceptor gets them.
    fn doors(&self) -> impl Iterator<Item = Door> {
        let sockets = self.sockets.listeners.iter().map(|(_, door)| *door);
        sockets.chain(self.ports.iter().map(|(_, door)| *door))
    }

    fn replace_acceptor(&mut self, old: Acceptor) -> Result<Acceptor, LauncherError> {
        // One that broke the protocol may still live: it is ended before another takes its place.
        let _ = pidfd::send_signal(&old.pidfd, Signal::KILL);
        let how = pidfd::wait(&old.pidfd).map_or_else(|error| error.to_string(), |exit| exit.to_string());
        tracing::error!("the acceptor ended ({how}); starting another");
        self.short_lives = if old.since.elapsed() < SHORT_LIFE { self.short_lives + 1 } else { 0 };
        if self.short_lives >= SHORT_LIVES {
            return Err(LauncherError::AcceptorDies);
        }
        drop(old);
        self.start_acceptor()
    }

    fn start_qemud(&mut self, channel: &mut Channel<FromLauncher, ToLauncher>) {
        if self.starter.is_some() {
            return;
        }
        match Starter::start(&self.instance) {
            Ok(starter) => self.starter = Some(starter),
            Err(error) => say(channel, &FromLauncher::Qemud(Err(chain(&error))), Vec::new()),
        }
    }

    fn starter_ended(&mut self, channel: &mut Channel<FromLauncher, ToLauncher>) {
        if let Some(starter) = self.starter.take() {
            say(channel, &FromLauncher::Qemud(starter.result()), Vec::new());
        }
    }
}

/// What has become ready.
struct Ready {
    signals: bool,
    channel: bool,
    acceptor_ended: bool,
    starter: bool,
}

fn say(channel: &mut Channel<FromLauncher, ToLauncher>, message: &FromLauncher, fds: Vec<OwnedFd>) {
    if let Err(error) = channel.queue(0, message, fds) {
        tracing::error!("cannot tell the acceptor {message:?}: {error}");
    }
}
