//! The bed: a control in this process, and scripts for what it speaks with. The launcher, the supervisors and the clock are
//! the test's; clients, the store's threads and the files are real. No privilege and no program is needed.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use api::{Call, Error, Event, Reply, consts::DomainState};
use ipc::{
    Caps, Conn, Hello, Kind as Frame, codec,
    edge::Channel,
    paths::{Instance, Mode},
    server::{Limits, Peer},
};
use mio::{Events, Poll};
use qemud::{
    config::Config,
    edge::{FIRST_PROBE, Found, FromLauncher, Launch, Life, Purpose, Refusal, ToLauncher},
};
use supervisor::{
    events::EventLog,
    lifecycle::{Kind, State},
    protocol::{Abilities, Answer, Failure, Job, Machine, Message, Payload, Request, Status, VERSIONS},
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{Control, DOOR, Inherited, Loaded, READ_ONLY_DOOR, host, store};

/// Longer than any of control's own deadlines.
pub const AGES: Duration = Duration::from_secs(600);
/// No test waits longer for control to come to rest.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything.
pub struct Bed {
    pub control: Control,
    poll: Poll,
    pub launcher: Launcher,
    pub clients: Vec<Client>,
    root: TempDir,
    /// What outlives control besides, as the launcher keeps it.
    note: OwnedFd,
}

/// What is done with a kind of request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// At once and well.
    #[default]
    Well,
    /// Not before somebody says so.
    Later,
    /// It is refused.
    Refuse,
}

/// A launcher by script.
pub struct Launcher {
    channel: Channel<FromLauncher, ToLauncher>,
    instance: Instance,
    pub runs: BTreeMap<u32, Process>,
    next_run: u32,
    next_probe: u32,
    pub launches: Manner,
    pub dials: Manner,
    pub kills: Manner,
    /// How new guests boot.
    pub boots: Manner,
    /// Its records cannot be read.
    pub forgets: bool,
    held: Vec<(u64, ToLauncher, Vec<OwnedFd>)>,
    /// Every run of each guest that there has been.
    pub history: Vec<(Uuid, u32)>,
}

/// A supervisor by script, and its guest.
pub struct Process {
    pub launch: Launch,
    pub alive: bool,
    /// It reads nothing and says nothing, as when it is stopped.
    pub stopped: bool,
    pub boots: Manner,
    /// Its QEMU ends when it is asked to.
    pub ends_when_asked: bool,
    /// It answers nothing when its guest is ended, but is gone.
    pub ends_in_silence: bool,
    /// The jobs that it says it has.
    pub jobs: Vec<Job>,
    leaving: bool,
    /// Its orders, until it obeys them. They outlive the connection that they came by.
    orders: Option<(u64, Request)>,
    log: EventLog,
    state: State,
    pub record: String,
    links: Vec<Link>,
}

struct Link {
    channel: Channel<Message, Request>,
    greeted: bool,
}

/// A client of control.
pub struct Client {
    conn: Conn,
    serial: u64,
    greeted: bool,
    pub answers: BTreeMap<u64, Result<Reply, Error>>,
    pub events: Vec<Event>,
}

impl Bed {
    /// A control that has found nothing.
    pub fn new() -> Bed {
        Bed::with(|_| {})
    }

    /// The same after something was done to its directories.
    pub fn with(prepare: impl FnOnce(&Instance)) -> Bed {
        let root = tempfile::tempdir().unwrap();
        let instance = Instance::at(Mode::Session, Some(root.path().to_owned()));
        let journal_dir = instance.journal().parent().unwrap().to_owned();
        let emulators = root.path().join("emulators");
        for dir in [
            &instance.definitions_dir(),
            &instance.guests_dir(),
            &instance.cache_dir().join("capabilities"),
            &journal_dir,
            &emulators,
        ] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(emulators.join("qemu-system-x86_64"), "").unwrap();
        prepare(&instance);
        let (launcher, theirs) = Launcher::new(instance);
        let note = rustix::fs::memfd_create("in-hand", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let (control, poll) = start(&root, &note, theirs);
        let mut bed = Bed { control, poll, launcher, clients: Vec::new(), root, note };
        bed.launcher.report_runs();
        bed.rest();
        bed
    }

    pub fn instance(&self) -> &Instance {
        &self.launcher.instance
    }

    /// One more client, of the socket that may change things.
    pub fn client(&mut self) -> usize {
        let socket = UnixStream::connect(self.instance().socket()).unwrap();
        self.clients.push(Client::new(socket));
        self.clients.len() - 1
    }

    /// One more client of another user, that only reads.
    pub fn stranger(&mut self, uid: u32) -> usize {
        let (theirs, ours) = UnixStream::pair().unwrap();
        self.control.server.take_in(ours, Peer { door: READ_ONLY_DOOR, pid: 1, uid, gid: uid });
        self.clients.push(Client::new(theirs));
        self.clients.len() - 1
    }

    /// Makes a call, and returns its number.
    pub fn call(&mut self, client: usize, call: &Call) -> u64 {
        self.clients[client].call(call)
    }

    /// Makes a call and waits until control rests; its answer must have come by then.
    pub fn ask(&mut self, client: usize, call: &Call) -> Result<Reply, Error> {
        let serial = self.call(client, call);
        self.rest();
        self.answer(client, serial).expect("an answer")
    }

    /// The answer of a call, if it has come.
    pub fn answer(&mut self, client: usize, serial: u64) -> Option<Result<Reply, Error>> {
        self.clients[client].answers.remove(&serial)
    }

    /// Puts the clock forward, and waits until control rests.
    pub fn later(&mut self, time: Duration) {
        self.put_forward(time);
        self.rest();
    }

    /// Puts the clock forward.
    pub fn put_forward(&mut self, time: Duration) {
        self.control.ahead += time;
        self.control.server.put_forward(time);
    }

    /// Kills control and starts another.
    pub fn restart(&mut self) {
        // When it is killed, it is chance how much of what the threads have been given is done. Here it is all.
        self.control.store.drain();
        self.restart_at_once();
    }

    /// The launcher has left, and another one starts another control: what the launcher kept for control is gone.
    pub fn upgrade(&mut self) {
        self.note = rustix::fs::memfd_create("in-hand", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        self.restart();
    }

    /// Kills control before its threads have done what they have been given, and starts another.
    pub fn restart_at_once(&mut self) {
        let (launcher, theirs) = socket_pair();
        self.launcher.channel = Channel::new(launcher);
        self.launcher.held.clear();
        let ahead = self.control.ahead;
        (self.control, self.poll) = start(&self.root, &self.note, theirs);
        self.put_forward(ahead);
        self.clients.clear();
        for process in self.launcher.runs.values_mut() {
            process.links.clear();
        }
        self.launcher.report_runs();
        self.rest();
    }

    /// Turns until nobody has anything to do.
    pub fn rest(&mut self) {
        let until = Instant::now() + PATIENCE;
        let mut quiet = 0;
        // Twice, because what one hears may be what another has just sent.
        while quiet < 2 {
            assert!(Instant::now() < until, "control does not come to rest");
            let moved = self.turn() | self.control.store.is_busy();
            quiet = if moved { 0 } else { quiet + 1 };
        }
    }

    /// Turns so many times, however busy the store is.
    pub fn turns(&mut self, turns: u32) {
        for _ in 0..turns {
            self.turn();
        }
    }

    /// Turns until something is so, however busy the store is.
    #[track_caller]
    pub fn until(&mut self, mut so: impl FnMut(&mut Bed) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < until, "it does not become so");
            self.turn();
        }
    }

    /// Waits for the answer of a call, however busy the store is.
    #[track_caller]
    pub fn answered(&mut self, client: usize, serial: u64) -> Result<Reply, Error> {
        self.until(|bed| bed.clients[client].answers.contains_key(&serial));
        self.answer(client, serial).unwrap()
    }

    /// Turns until the disks have answered: a clock that is put forward makes them look as if they did not.
    #[track_caller]
    pub fn disks_answer(&mut self) {
        self.until(|bed| !bed.control.store.is_busy());
    }

    /// Turns until each client that control has accepted is greeted: a clock that is put forward between the two makes it look
    /// as if it were silent.
    #[track_caller]
    pub fn clients_are_greeted(&mut self) {
        self.until(|bed| !bed.control.doors.is_empty() || bed.clients.iter().all(|client| client.greeted));
    }

    fn turn(&mut self) -> bool {
        let mut events = Events::with_capacity(64);
        self.control.settle().unwrap();
        // While a thread works, its word is waited for; the poll ends with it.
        let wait = if self.control.store.is_busy() { Duration::from_millis(5) } else { Duration::ZERO };
        self.poll.poll(&mut events, Some(wait)).unwrap();
        let mut moved = !events.is_empty();
        self.control.take_events(&events).unwrap();
        self.control.settle().unwrap();
        moved |= self.launcher.turn();
        for client in &mut self.clients {
            moved |= client.turn();
        }
        moved
    }
}

fn socket_pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, theirs)
}

fn start(root: &TempDir, note: &OwnedFd, launcher: UnixStream) -> (Control, Poll) {
    let instance = Instance::at(Mode::Session, Some(root.path().to_owned()));
    let mut config = Config::defaults(&instance);
    config.emulator_roots = vec![root.path().join("emulators")];
    config.idle_timeout = AGES * 1000;
    let poll = Poll::new().unwrap();
    let listen = |path: std::path::PathBuf| {
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    };
    let doors = vec![(listen(instance.socket()), DOOR), (listen(instance.read_only_socket()), READ_ONLY_DOOR)];
    let note = note.try_clone().unwrap();
    let loaded = Loaded {
        definitions: store::definitions::Definitions::load(&instance.definitions_dir()).unwrap(),
        journal: store::journal::Journal::open(&instance.journal()).unwrap(),
        host: host::Host { arch: "x86_64".into(), kvm_identity: None, ..host::Host::read() },
        limits: Limits::default(),
        config,
        instance,
    };
    let control = Control::new(&poll, Inherited { launcher, doors, note }, loaded).unwrap();
    (control, poll)
}

impl Launcher {
    fn new(instance: Instance) -> (Launcher, UnixStream) {
        let (ours, theirs) = socket_pair();
        let launcher = Launcher {
            channel: Channel::new(ours),
            instance,
            runs: BTreeMap::new(),
            next_run: 1,
            next_probe: FIRST_PROBE,
            launches: Manner::Well,
            dials: Manner::Well,
            kills: Manner::Well,
            boots: Manner::Well,
            forgets: false,
            held: Vec::new(),
            history: Vec::new(),
        };
        (launcher, theirs)
    }

    fn say(&mut self, serial: u64, what: &FromLauncher, fds: Vec<OwnedFd>) {
        // A control that was dropped does not listen.
        let _ = self.channel.send(serial, what, fds);
    }

    fn report_runs(&mut self) {
        let found = |(run, process): (&u32, &Process)| Found {
            run: *run,
            purpose: process.launch.purpose,
            uuid: Some(process.launch.uuid).filter(|_| !self.forgets),
            name: Some(process.launch.name.clone()).filter(|_| !self.forgets),
            uid: None,
            pid: Some(1),
            disks: process.launch.disks.clone(),
            life: if process.alive { Life::Alive } else { Life::Gone },
            quarantine: None,
        };
        let runs: Vec<Found> = self.runs.iter().map(found).collect();
        for run in runs {
            self.say(0, &FromLauncher::Found(Box::new(run)), Vec::new());
        }
        self.say(0, &FromLauncher::AllFound, Vec::new());
    }

    /// Does what was put off.
    pub fn go_on(&mut self) {
        for (serial, request, fds) in std::mem::take(&mut self.held) {
            self.work(serial, request, fds);
        }
    }

    /// The live runs of a guest.
    pub fn alive(&self, uuid: Uuid) -> Vec<u32> {
        let of_guest = |process: &Process| process.launch.uuid == uuid && process.alive;
        self.runs.iter().filter(|(_, process)| of_guest(process)).map(|(run, _)| *run).collect()
    }

    /// The kernel has ended a run's processes: killed, or by themselves.
    pub fn die(&mut self, run: u32) {
        let Some(process) = self.runs.get_mut(&run).filter(|process| process.alive) else { return };
        process.alive = false;
        process.links.clear();
        self.say(0, &FromLauncher::Ended { run, how: Some("was killed by signal 9".into()) }, Vec::new());
    }

    fn turn(&mut self) -> bool {
        let mut moved = false;
        while let Ok(Some(message)) = next(&mut self.channel) {
            moved = true;
            let manner = match message.value {
                ToLauncher::Launch(_) => self.launches,
                ToLauncher::Dial { .. } => self.dials,
                ToLauncher::Kill { .. } => self.kills,
                _ => Manner::Well,
            };
            match manner {
                Manner::Well => self.work(message.serial, message.value, message.fds),
                Manner::Later => self.held.push((message.serial, message.value, message.fds)),
                Manner::Refuse if matches!(message.value, ToLauncher::Kill { .. }) => {
                    let ToLauncher::Kill { run } = message.value else { continue };
                    self.say(0, &FromLauncher::NotKilled { run, why: "the script says so".into() }, Vec::new());
                }
                Manner::Refuse => {
                    let refusal = Refusal::Spawn { cause: "the script says so".into() };
                    self.say(message.serial, &FromLauncher::Failed(refusal), Vec::new());
                }
            }
        }
        for process in self.runs.values_mut() {
            moved |= process.turn();
        }
        // A supervisor leaves by itself when its guest has been ended by it.
        let leaving = |(run, process): (&u32, &Process)| (process.leaving && process.alive).then_some(*run);
        if self.kills == Manner::Well
            && let Some(run) = self.runs.iter().find_map(leaving)
        {
            self.die(run);
        }
        moved
    }

    fn work(&mut self, serial: u64, request: ToLauncher, fds: Vec<OwnedFd>) {
        match request {
            ToLauncher::Launch(launch) => self.launch(serial, launch, fds),
            ToLauncher::Dial { run } => self.dial(serial, run),
            ToLauncher::Kill { run } => self.die(run),
            ToLauncher::Retire { run } => {
                assert!(!self.runs.get(&run).is_some_and(|process| process.alive), "run {run} lives and is retired");
                self.runs.remove(&run);
                let _ = fs::remove_dir_all(self.instance.guest_dir(run));
            }
            ToLauncher::Open { path, .. } => {
                let refusal = Refusal::OutsideRoots { path, roots: String::new() };
                self.say(serial, &FromLauncher::Failed(refusal), Vec::new());
            }
            ToLauncher::RunsUpTo { run } => self.next_run = self.next_run.max(run + 1),
            ToLauncher::Idle => {}
        }
    }

    fn launch(&mut self, serial: u64, launch: Launch, mut fds: Vec<OwnedFd>) {
        let next = if launch.purpose == Purpose::Probe { &mut self.next_probe } else { &mut self.next_run };
        let run = *next;
        *next += 1;
        if launch.purpose == Purpose::Guest {
            assert_eq!(self.alive(launch.uuid), [0; 0], "'{}' runs twice", launch.name);
            self.history.push((launch.uuid, run));
        }
        fs::create_dir_all(self.instance.guest_dir(run)).unwrap();
        let log = File::create(self.instance.guest_event_log(run)).unwrap();
        let process = Process {
            launch,
            alive: true,
            stopped: false,
            boots: self.boots,
            ends_when_asked: true,
            ends_in_silence: false,
            jobs: Vec::new(),
            leaving: false,
            orders: None,
            log: EventLog::new(Some(log)),
            state: State::PAUSED_STARTING_UP,
            record: String::new(),
            links: vec![Link::new(UnixStream::from(fds.remove(0)))],
        };
        self.runs.insert(run, process);
        self.say(serial, &FromLauncher::Launched { run, pid: 1, uid: None }, Vec::new());
    }

    fn dial(&mut self, serial: u64, run: u32) {
        let Some(process) = self.runs.get_mut(&run).filter(|process| process.alive) else {
            let refusal = Refusal::Dial { run, cause: "connection refused".into() };
            return self.say(serial, &FromLauncher::Failed(refusal), Vec::new());
        };
        let (ours, theirs) = socket_pair();
        process.links.push(Link::new(ours));
        self.say(serial, &FromLauncher::Dialed, vec![theirs.into()]);
    }
}

/// The next message, if one has come.
fn next<Out: serde::Serialize, In: serde::de::DeserializeOwned>(
    channel: &mut Channel<Out, In>,
) -> Result<Option<ipc::edge::Message<In>>, ipc::ConnError> {
    loop {
        if let Some(message) = channel.next_message()? {
            return Ok(Some(message));
        }
        if !channel.fill()? {
            return channel.next_message();
        }
    }
}

impl Link {
    fn new(socket: UnixStream) -> Link {
        socket.set_nonblocking(true).unwrap();
        let mut channel = Channel::new(socket);
        channel.queue_hello(&Hello::new("qemu-supervisor", VERSIONS.0, VERSIONS.1)).unwrap();
        let _ = channel.flush();
        Link { channel, greeted: false }
    }

    /// The requests that have come; an error when control has hung up.
    fn hear(&mut self) -> Result<Vec<(u64, Request)>, ipc::ConnError> {
        while !self.greeted {
            self.greeted = self.channel.next_hello()?.is_some();
            if !self.greeted && !self.channel.fill()? {
                self.greeted = self.channel.next_hello()?.is_some();
                break;
            }
        }
        let mut heard = Vec::new();
        while self.greeted
            && let Some(message) = next(&mut self.channel)?
        {
            heard.push((message.serial, message.value));
        }
        Ok(heard)
    }

    fn say(&mut self, serial: u64, message: &Message) {
        let _ = self.channel.send(serial, message, Vec::new());
    }
}

impl Process {
    fn turn(&mut self) -> bool {
        if !self.alive || self.stopped {
            return false;
        }
        let mut moved = false;
        for at in (0..self.links.len()).rev() {
            let heard = match self.links[at].hear() {
                Ok(heard) => heard,
                Err(_) => {
                    self.links.remove(at);
                    continue;
                }
            };
            for (serial, request) in heard {
                if matches!(request, Request::Start(_) | Request::Examine(_)) {
                    self.orders = Some((serial, request));
                } else {
                    moved = true;
                    let silent = self.ends_in_silence && matches!(request, Request::End { .. });
                    let answer = self.obey(request);
                    if silent {
                        self.links.clear();
                        return true;
                    }
                    self.links[at].say(serial, &Message::Answer(answer));
                }
            }
        }
        if self.boots != Manner::Later
            && let Some((serial, orders)) = self.orders.take()
        {
            moved = true;
            let answer = self.obey(orders);
            if let Some(link) = self.links.first_mut() {
                link.say(serial, &Message::Answer(answer));
            }
        }
        moved
    }

    fn obey(&mut self, request: Request) -> Result<Answer, Failure> {
        match request {
            Request::Start(_) if self.boots == Manner::Refuse => {
                self.leaving = true;
                return Err(Failure::Exited { ended: "exited with status 1".into(), last_words: "no".into() });
            }
            Request::Start(start) => {
                self.record = start.record;
                self.report(Kind::STARTED_BOOTED, State::RUNNING_BOOTED);
                return Ok(Answer::Status(self.status()));
            }
            Request::Examine(_) => return Ok(Answer::Payload(Payload::new(&abilities()).unwrap())),
            Request::Status => return Ok(Answer::Status(self.status())),
            Request::Record => return Ok(Answer::Record(self.record.clone())),
            Request::Keep(record) => self.record = record,
            Request::Events { after } => {
                let missed = self.log.after(after);
                for what in missed {
                    let supervisor::events::Recorded::Event(event) = what else { continue };
                    self.tell(&Message::Event(event));
                }
            }
            Request::Jobs => return Ok(Answer::Jobs(self.jobs.clone())),
            Request::Suspend => self.report(Kind::SUSPENDED_PAUSED, State::PAUSED_USER),
            Request::Resume => self.report(Kind::RESUMED_UNPAUSED, State::RUNNING_UNPAUSED),
            Request::Destroy => {
                self.report(Kind::STOPPED_DESTROYED, State::SHUTOFF_DESTROYED);
                self.leaving = true;
            }
            Request::End { within_ms, .. } if !self.ends_when_asked => return Err(Failure::StillThere(within_ms)),
            Request::End { .. } => {
                self.report(Kind::STOPPED_DESTROYED, State::SHUTOFF_DESTROYED);
                self.leaving = true;
            }
            _ => {}
        }
        Ok(Answer::Done)
    }

    /// Something happens in the guest's life, and is logged and told.
    pub fn report(&mut self, kind: Kind, state: State) {
        self.state = state;
        if let Some(event) = self.log.record(kind, state, None) {
            self.tell(&Message::Event(event));
        }
    }

    /// Says something on every connection.
    pub fn tell(&mut self, message: &Message) {
        self.links.iter_mut().filter(|link| link.greeted).for_each(|link| link.say(0, message));
    }

    /// Its guest has been started and has not stopped.
    pub fn is_up(&self) -> bool {
        self.state != State::PAUSED_STARTING_UP && self.state.state != DomainState::Shutoff as i32
    }

    /// How its guest is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Closes its connections.
    pub fn hang_up(&mut self) {
        self.links.clear();
    }

    fn status(&self) -> Status {
        Status {
            name: self.launch.name.clone(),
            state: self.state.state,
            reason: self.state.reason,
            cpu_time_ns: 0,
            last_event: self.log.last(),
            started_seconds: 1,
            stuck: false,
        }
    }
}

fn abilities() -> Abilities {
    let machine = Machine { name: "pc-1".into(), default: true, max_cpus: 255, ..Machine::default() };
    Abilities { version: (7, 2, 0), target: "x86_64".into(), machines: vec![machine], ..Abilities::default() }
}

impl Client {
    fn new(socket: UnixStream) -> Client {
        socket.set_nonblocking(true).unwrap();
        let mut conn = Conn::new(socket, Caps::FROM_DAEMON);
        let hello = Hello::new("test", ipc::client::VERSIONS.0, ipc::client::VERSIONS.1);
        conn.queue_with(Frame::Hello, 0, Vec::new(), |out| codec::encode_into(&hello, out)).unwrap();
        Client { conn, serial: 0, greeted: false, answers: BTreeMap::new(), events: Vec::new() }
    }

    fn call(&mut self, call: &Call) -> u64 {
        self.serial += 1;
        self.conn.queue_call(self.serial, call, Vec::new()).unwrap();
        self.serial
    }

    /// Sends what it has to send, and takes what has come.
    pub fn turn(&mut self) -> bool {
        let _ = self.conn.flush();
        let mut moved = false;
        loop {
            while let Ok(Some(frame)) = self.conn.next_frame() {
                moved = true;
                let answer = match frame.kind {
                    Frame::Hello => {
                        self.greeted = true;
                        continue;
                    }
                    Frame::Event => {
                        self.events.push(codec::decode_event(&frame.body).unwrap());
                        continue;
                    }
                    Frame::Error => Err(codec::decode_error(&frame.body).unwrap()),
                    _ => Ok(codec::decode_reply(&frame.body).unwrap()),
                };
                let twice = self.answers.insert(frame.serial, answer);
                assert!(twice.is_none(), "call {} is answered twice", frame.serial);
            }
            if !matches!(self.conn.fill_now(), Ok(true)) {
                return moved;
            }
        }
    }
}
