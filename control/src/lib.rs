//! # control: clients, domains, jobs and events of one instance
//!
//! This process holds the clients' sockets, the registry of guests and definitions, the journal and the queues of jobs. It
//! runs under a uid of its own without any capability, under seccomp and, where the kernel has it, Landlock. It must never
//! open a disk, make a namespace or signal a guest: what needs power is asked of the launcher, what needs a guest of that
//! guest's supervisor.
//!
//! It is a loop around one poll. Nothing in it waits: a call that needs another process or a disk leaves a continuation behind,
//! and each continuation has a deadline, so a stuck guest delays only its own calls. The threads of the store do everything that
//! a disk may hold up, and touch no state of the loop.
#![forbid(unsafe_code)]

mod adopt;
mod authority;
mod autostart;
mod capabilities;
mod destroy;
mod domain_capabilities;
mod domains;
mod driver;
mod emulators;
mod errors;
mod events;
mod guests;
mod host;
mod input;
mod jobs;
mod launcher_link;
mod link;
mod node;
mod note;
mod process;
pub mod qemu;
mod reconfigure;
mod start;
mod stats;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use api::{Error, Reply, look::Look};
use ipc::{
    ConnError, Kind,
    budget::UserBudget,
    codec::CodecError,
    edge::Channel,
    paths::{Instance, Mode},
    server::{Happening, Limits, Peer, PeerKey, Server},
};
use mio::{Events, Interest, Poll, Registry, Token, Waker, unix::SourceFd};
use sandbox::rlimit::{self, Resource};
use thiserror::Error as ThisError;
use tracing::Span;
use uuid::Uuid;

use self::{
    authority::Authority,
    autostart::Autostart,
    driver::Asked,
    emulators::{Emulators, Probes},
    events::{Subscribers, Telling},
    guests::Guest,
    launcher_link::LauncherLink,
    link::Links,
    note::Note,
    start::Starting,
    store::{
        Lines, Store, Turn,
        definitions::{self, Definitions, StoreError, Summary},
        journal::{Journal, Opened},
    },
};
use qemud::{
    config::Config,
    edge::{self, FromLauncher},
};
use registry::{State, Ticket};

/// The listener for calls that may change things.
const DOOR: u8 = 0;
/// The listener for calls that only read.
const READ_ONLY_DOOR: u8 = 1;

/// How long a new daemon waits for its first client, however short the configured time is.
const STARTER_PATIENCE: Duration = Duration::from_secs(10);

const LAUNCHER: Token = Token(0);
const STORE: Token = Token(1);
/// Clients' tokens end where the supervisors' begin.
const CLIENTS: std::ops::Range<usize> = 16..1 << 20;
const FIRST_SUPERVISOR: usize = 1 << 20;

/// What is done when an answer is there.
type Then<T> = Box<dyn FnOnce(&mut Control, T)>;

/// Why control cannot run.
#[derive(Debug, ThisError)]
pub enum ControlError {
    /// The launcher did not hand over what it should.
    #[error("control is started by the qemud launcher, not by hand")]
    Inherited(#[source] sandbox::fd::InheritError),
    /// The environment names no place for the instance.
    #[error(transparent)]
    Paths(#[from] ipc::paths::PathsError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ipc::conf::ConfError),
    /// The definitions cannot be read.
    #[error("cannot load the definitions")]
    Definitions(#[from] StoreError),
    /// The journal cannot be read.
    #[error("cannot read the journal")]
    Journal(#[source] std::io::Error),
    /// The threads that write to disks cannot be started.
    #[error("cannot start the threads of the store")]
    Store(#[source] std::io::Error),
    /// The poll failed.
    #[error("the event loop failed")]
    Poll(#[source] std::io::Error),
    /// The launcher is gone or broke the protocol.
    #[error("the connection to the launcher is lost")]
    Launcher(#[source] ConnError),
    /// Control could not give up its power.
    #[error("cannot give up power")]
    Sandbox(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Domains as control keeps them: a summary of each definition, and the state of each run as its supervisor told it last.
struct Domains;

impl registry::Kind for Domains {
    type Document = Summary;
    type Live = State;
    const NOUN: &'static str = "domain";

    fn name(document: &Summary) -> &str {
        &document.name
    }

    fn uuid(document: &Summary) -> Uuid {
        document.uuid
    }

    fn state(live: &State) -> State {
        *live
    }
}

/// The registry of what is stored, with why each domain stopped last, as far as the journal tells.
fn load(summaries: Vec<(Summary, bool)>, journal: &Journal) -> registry::Registry<Domains> {
    let mut objects = registry::Registry::new();
    for (summary, autostart) in summaries {
        let name = summary.name.clone();
        if let Err(refusal) = objects.load(summary, autostart) {
            tracing::error!("definition skipped: '{name}': {refusal}");
        }
    }
    for (uuid, reason) in events::last_stops(journal) {
        objects.set_last_stop(&uuid, reason);
    }
    objects
}

/// The span of a client's lines; logging bounds the lines of each user by its `uid`.
fn client_span(peer: Peer) -> Span {
    tracing::info_span!("client", uid = peer.uid, pid = peer.pid)
}

/// The whole state of the process.
pub struct Control {
    instance: Instance,
    config: Config,
    poll: Registry,
    server: Server,
    launcher: LauncherLink,
    /// What the launcher has found so far, until it has told all.
    found: Vec<edge::Found>,
    note: Note,
    store: Store,
    journal: Journal,
    telling: Telling,
    emulators: Emulators,
    subscribers: Subscribers,
    /// Which domains there are, and how far the run of each has come.
    objects: registry::Registry<Domains>,
    /// The span of each client's log lines.
    clients: HashMap<PeerKey, Span>,
    /// The user in whose name something is being done, if it is anybody's but our own.
    acting_for: Option<UserBudget>,
    /// What is known besides of each run that is not gone, by its number.
    guests: BTreeMap<u32, Guest>,
    /// The runs that live for a connection.
    owned: HashMap<PeerKey, HashSet<u32>>,
    /// The starts that have no run yet.
    starts: HashMap<Ticket, Starting>,
    probes: Probes,
    links: Links,
    autostart: Autostart,
    /// What is to be done when a moment comes, in order.
    timers: BTreeMap<(Instant, u64), Then<()>>,
    timer_count: u64,
    authority: Authority,
    idle_since: Option<Instant>,
    /// Since when there may be clients, and whether there has been one: the client that starts a daemon connects only when the
    /// daemon is up.
    began: Instant,
    served: bool,
    /// The launcher has been asked to end.
    leaving: bool,
    /// The listeners, until every guest that can be found has been found.
    doors: Vec<(UnixListener, u8)>,
    host: host::Host,
    /// How far the tests have put the clock forward.
    #[cfg(test)]
    ahead: Duration,
}

/// What the launcher handed over.
struct Inherited {
    launcher: UnixStream,
    doors: Vec<(UnixListener, u8)>,
    note: OwnedFd,
}

/// What was read before control gave up the right to read it.
struct Loaded {
    instance: Instance,
    config: Config,
    definitions: definitions::Loaded,
    journal: Opened,
    host: host::Host,
    limits: Limits,
}

/// Runs control until the launcher leaves.
///
/// # Errors
/// When it cannot start; once it runs, only the loss of the launcher ends it.
pub fn run(mode: Mode, idle_timeout: Option<u32>) -> Result<(), ControlError> {
    let inherited = |fd| sandbox::fd::inherited_fd(fd).map_err(ControlError::Inherited);
    let inherited = Inherited {
        launcher: UnixStream::from(inherited(edge::fds::LAUNCHER)?),
        doors: vec![
            (UnixListener::from(inherited(edge::fds::LISTENER)?), DOOR),
            (UnixListener::from(inherited(edge::fds::READ_ONLY_LISTENER)?), READ_ONLY_DOOR),
        ],
        note: inherited(edge::fds::IN_HAND)?,
    };
    let instance = Instance::from_env(mode)?;
    let mut config = Config::load(&instance)?;
    if let Some(seconds) = idle_timeout {
        config.idle_timeout = Duration::from_secs(seconds.into());
    }
    let _turn = Turn::take(instance.journal().parent().unwrap_or(instance.runtime_dir()));
    let definitions = Definitions::load(&instance.definitions_dir())?;
    let journal = Journal::open(&instance.journal()).map_err(ControlError::Journal)?;
    let loaded = Loaded { instance, config, definitions, journal, host: host::Host::read(), limits: limits() };
    let mut poll = Poll::new().map_err(ControlError::Poll)?;
    authority::give_up_power(&loaded.instance)?;
    let mut control = Control::new(&poll, inherited, loaded)?;
    let left = control.run(&mut poll);
    control.leave();
    left
}

/// As many connections and descriptors in flight as the table of descriptors allows, with enough of it left for guests,
/// disks on their way and files.
fn limits() -> Limits {
    let descriptors = rlimit::get(Resource::Nofile).soft.unwrap_or(u64::MAX);
    Limits::default().within(usize::try_from(descriptors).unwrap_or(usize::MAX))
}

impl Control {
    fn new(poll: &Poll, inherited: Inherited, loaded: Loaded) -> Result<Control, ControlError> {
        let Inherited { launcher, doors, note } = inherited;
        let Loaded { instance, config, definitions, journal, host, limits } = loaded;
        let registry = poll.registry().try_clone().map_err(ControlError::Poll)?;
        launcher.set_nonblocking(true).map_err(ControlError::Poll)?;
        registry
            .register(&mut SourceFd(&launcher.as_raw_fd()), LAUNCHER, Interest::READABLE | Interest::WRITABLE)
            .map_err(ControlError::Poll)?;
        let clients = registry.try_clone().map_err(ControlError::Poll)?;
        let waker = Waker::new(&registry, STORE).map_err(ControlError::Poll)?;
        let Opened { mut journal, length, torn } = journal;
        let note = Note::new(Some(note));
        journal.leave_up_to(note.told_before());
        if note.was_changing() {
            note.told_unwritten(journal.leave_gap());
            note.changes_are_told();
        }
        let lines = Lines::new(&instance.journal(), length, torn);
        let mut server = Server::new(clients, CLIENTS, limits, "qemud");
        let own = server.own_budget();
        Ok(Control {
            authority: Authority::of(&instance),
            emulators: Emulators::new(instance.cache_dir()),
            objects: load(definitions.summaries, &journal),
            store: Store::start(definitions.definitions, lines, waker, own).map_err(ControlError::Store)?,
            instance,
            config,
            poll: registry,
            server,
            launcher: LauncherLink::new(Channel::new(launcher)),
            found: Vec::new(),
            note,
            journal,
            telling: Telling::default(),
            subscribers: Subscribers::default(),
            clients: HashMap::new(),
            acting_for: None,
            guests: BTreeMap::new(),
            owned: HashMap::new(),
            starts: HashMap::new(),
            probes: Probes::default(),
            links: Links::default(),
            autostart: Autostart::default(),
            timers: BTreeMap::new(),
            timer_count: 0,
            idle_since: None,
            began: Instant::now(),
            served: false,
            leaving: false,
            doors,
            host,
            #[cfg(test)]
            ahead: Duration::ZERO,
        })
    }

    fn run(&mut self, poll: &mut Poll) -> Result<(), ControlError> {
        let mut events = Events::with_capacity(256);
        let look = Look::default();
        loop {
            self.settle()?;
            let wait = self.sleep(self.now());
            ipc::wait::until_ready(poll, &mut events, &look, wait).map_err(ControlError::Poll)?;
            if !self.take_events(&events)? {
                tracing::info!("the launcher has left, and so does control; guests go on");
                return Ok(());
            }
        }
    }

    /// Works through what a poll has brought. False when the launcher has left.
    fn take_events(&mut self, events: &Events) -> Result<bool, ControlError> {
        for event in events {
            match event.token() {
                LAUNCHER => match self.hear_launcher() {
                    Err(ControlError::Launcher(ConnError::Closed)) => return Ok(false),
                    other => other?,
                },
                // The store's answers are taken once for all events of the poll.
                STORE => {}
                token if self.server.owns(token) => self.server.ready(token),
                token => self.supervisor_ready(token),
            }
        }
        self.hear_unheard();
        self.hear_store();
        Ok(true)
    }

    /// Does what can be done without waiting, and sends all that came of it: nothing may lie queued while the poll sleeps. One
    /// turn ends after so many calls, so clients without end do not keep the launcher and the supervisors from being heard.
    fn settle(&mut self) -> Result<(), ControlError> {
        let now = self.now();
        self.fire_timers(now);
        self.work_through();
        self.watch_idleness(now);
        // A lost supervisor's continuations may have something to say to the launcher and to clients.
        self.flush_supervisors();
        self.launcher.flush().map_err(ControlError::Launcher)?;
        self.server.flush(now);
        Ok(())
    }

    fn sleep(&self, now: Instant) -> Option<Duration> {
        if self.links.is_any_unheard() {
            return Some(Duration::ZERO);
        }
        let timer = self.timers.keys().next().map(|(at, _)| at.saturating_duration_since(now));
        let idle = self.idle_since.map(|since| (since + self.config.idle_timeout).saturating_duration_since(now));
        [timer, idle, self.awaits_first_client(now), self.server.patience_left(now)].into_iter().flatten().min()
    }

    /// How much longer a new daemon waits for the client that started it.
    fn awaits_first_client(&self, now: Instant) -> Option<Duration> {
        let left = (self.began + STARTER_PATIENCE).saturating_duration_since(now);
        (!self.served && !left.is_zero()).then_some(left)
    }

    /// Runs a continuation in the span, and at the expense of the user, in which it was made.
    fn in_the_same_name<T: 'static>(&self, then: Then<T>) -> Then<T> {
        let (span, user) = (Span::current(), self.acting_for.clone());
        if span.is_none() && user.is_none() {
            return then;
        }
        Box::new(move |control, value| {
            let _within = span.entered();
            let before = std::mem::replace(&mut control.acting_for, user);
            then(control, value);
            control.acting_for = before;
        })
    }

    /// The present moment.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "a test's clock is its own")]
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// The present moment, as far ahead as the test has put it.
    #[cfg(test)]
    fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    /// Does `then` at a moment unless it is cancelled before.
    fn after(&mut self, wait: Duration, then: Then<()>) -> (Instant, u64) {
        let then = self.in_the_same_name(then);
        self.timer_count += 1;
        let key = (self.now() + wait, self.timer_count);
        self.timers.insert(key, then);
        key
    }

    fn cancel(&mut self, timer: (Instant, u64)) {
        self.timers.remove(&timer);
    }

    fn fire_timers(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                return;
            }
            entry.remove()(self, ());
        }
    }

    fn work_through(&mut self) {
        while let Some(happening) = self.server.next_happening() {
            match happening {
                Happening::Call { key, frame, ticket } => self.take_call(key, frame, ticket),
                Happening::Closed { key, peer, why } => {
                    let span = self.clients.remove(&key).unwrap_or_else(|| client_span(peer));
                    span.in_scope(|| {
                        self.subscribers.forget(key);
                        self.end_runs_of(key);
                        if !matches!(why, ConnError::Closed) {
                            tracing::info!("client dropped: {}", qemud::chain(&why));
                        }
                    });
                }
            }
        }
    }

    /// A session's daemon leaves when it is of no use: no client, no guest, nothing under way.
    fn watch_idleness(&mut self, now: Instant) {
        let idle = self.instance.mode() == Mode::Session
            && self.awaits_first_client(now).is_none()
            && !self.leaving
            && self.doors.is_empty()
            && self.server.open() == 0
            && self.objects.count_active() == 0;
        if !idle {
            self.idle_since = None;
        } else if *self.idle_since.get_or_insert(now) + self.config.idle_timeout <= now {
            self.idle_since = None;
            // New clients stay in the listener's queue, for this daemon if it stays, or for the next one.
            self.server.pause_listening();
            self.leaving = true;
            self.launcher.tell(&edge::ToLauncher::Idle);
        }
    }

    fn stay(&mut self) {
        self.leaving = false;
        if let Err(error) = self.server.resume_listening() {
            tracing::error!("clients cannot be accepted: {error}");
        }
    }

    fn hear_launcher(&mut self) -> Result<(), ControlError> {
        for message in self.launcher.hear().map_err(ControlError::Launcher)? {
            match message {
                launcher_link::Heard::Answer(then, answer, timer) => {
                    self.cancel(timer);
                    then(self, answer);
                }
                launcher_link::Heard::News(FromLauncher::Found(found)) => self.found.push(*found),
                launcher_link::Heard::News(FromLauncher::AllFound) => {
                    let found = std::mem::take(&mut self.found);
                    self.adopt(found);
                }
                launcher_link::Heard::News(FromLauncher::Stay) => self.stay(),
                launcher_link::Heard::News(FromLauncher::NotKilled { run, why }) => self.not_killed(run, &why),
                launcher_link::Heard::News(FromLauncher::Ended { run, how }) => self.run_ended(run, how.as_deref()),
                launcher_link::Heard::News(other) => tracing::warn!("the launcher says {other:?} unasked"),
            }
        }
        Ok(())
    }

    /// Answers a call.
    fn answer(&mut self, asked: &Asked, result: Result<(Reply, Vec<OwnedFd>), Error>) {
        let _within = asked.span.enter();
        if let Err(error) = &result {
            tracing::debug!("refused: {}", error.full_text());
        }
        self.server.answer(asked.key, asked.serial, result);
    }

    fn send(
        &mut self,
        key: PeerKey,
        kind: Kind,
        serial: u64,
        fds: Vec<OwnedFd>,
        body: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
    ) -> Result<(), ConnError> {
        self.server.send(key, kind, serial, fds, body)
    }
}
