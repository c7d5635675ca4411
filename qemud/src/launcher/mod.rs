//! # launcher: the one process that holds power, and does few things with it
//!
//! It has openers open files under the configured roots, builds a compartment for each guest and starts a supervisor in it, knows which
//! runs there are and which have ended, clears away what dead ones leave, and keeps control running. It must never parse a byte that a client or a guest wrote: its
//! only input is the small enum of [`crate::edge`], its configuration, and what the kernel says of its children.
//!
//! It is one thread around one poll, so that a clone of it is a small single-threaded process.

mod compartment;
mod openers;
mod record;
mod runs;
mod setup;
mod survivors;
mod suspects;

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use ipc::{ConnError, edge::Channel, paths::Instance};
use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use sandbox::{
    Signal,
    caps::{self, Capability},
    pidfd,
    rlimit::{self, Limit, Resource},
    signal::{SignalError, SignalFd},
    spawn::SpawnError,
};
use thiserror::Error;

use self::{
    compartment::{Compartments, Launched, Order},
    openers::{Asked, Done, Openers, Then},
    runs::Numbers,
    setup::SetupError,
    survivors::Verdict,
    suspects::Suspects,
};
use crate::{
    background, chain,
    config::Config,
    edge::{Found, FromLauncher, Launch, Life, Refusal, ToLauncher},
    opener::{Answer, Emulator, Request},
};

const CONTROL: Token = Token(0);
const CONTROL_PROCESS: Token = Token(1);
const SIGNALS: Token = Token(2);
const FIRST_OPENER: usize = 1 << 4;
const OPENERS: std::ops::Range<usize> = FIRST_OPENER..FIRST_OPENER + Openers::TOKENS;
const FIRST_RUN: usize = 1 << 8;

/// When nobody has asked for anything for this long, what the next start needs is made ahead. Short: whoever asks while it
/// is made waits no longer than without it, and takes it.
const QUIET: Duration = Duration::from_millis(5);

/// A control that dies sooner than this after its start is not worth another try at once.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// This many short lives in a row, and the launcher gives up.
const SHORT_LIVES: u32 = 5;

/// Why the launcher cannot run.
#[derive(Debug, Error)]
pub enum LauncherError {
    /// The directories, the lock or the sockets cannot be made.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ipc::conf::ConfError),
    /// Where this program is cannot be found out, so neither where the others are.
    #[error("cannot find out which program this is")]
    OwnProgram(#[source] io::Error),
    /// A program that belongs beside this one is missing, or others could have put it there.
    #[error(transparent)]
    NoProgram(#[from] ipc::programs::NotFound),
    /// It is there and cannot be opened.
    #[error("cannot open the program {}", path.display())]
    Program {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The note that is shared with control cannot be made.
    #[error("cannot make the note of the run in hand")]
    Note(#[source] io::Error),
    /// Which runs there are cannot be found out, so nothing may be started.
    #[error("cannot read which guests run in {}", path.display())]
    Survivors {
        /// The directory of runs.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A guest runs whose uid is not known, and which uids are in use cannot be found out.
    #[error("cannot find out which uids are in use")]
    Uids(#[source] io::Error),
    /// Control cannot be started.
    #[error("cannot start the control process")]
    Control(#[source] SpawnError),
    /// The channel to control cannot be made.
    #[error("cannot make the channel to the control process")]
    Channel(#[source] io::Error),
    /// Control ends again and again.
    #[error("the control process ended {SHORT_LIVES} times soon after its start; see its messages above")]
    ControlDies,
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] SignalError),
    /// The launcher could not give up the capabilities that it does not need.
    #[error("cannot give up capabilities")]
    Capabilities(#[source] caps::CapsError),
    /// The launcher could not give up the system calls that it does not need.
    #[error("cannot give up system calls")]
    Sandbox(#[source] sandbox::policy::PolicyError),
    /// The poll failed.
    #[error("the event loop failed")]
    Poll(#[source] io::Error),
}

/// What a root launcher needs: compartments (mounts, namespaces, device nodes, their owners), processes under other uids
/// without capabilities, files of other users under the image roots, and an end to a control that misbehaves.
const CAPABILITIES: [Capability; 9] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_KILL,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_MKNOD,
];

/// One run that has not been retired.
struct Run {
    found: Found,
    pidfd: Option<OwnedFd>,
}

/// A living control.
struct Control {
    channel: Channel<FromLauncher, ToLauncher>,
    pidfd: OwnedFd,
    since: Instant,
}

/// How many descriptors a start of control takes, and some more.
const RESERVE: usize = 8;

/// The whole state of the process.
struct Launcher {
    instance: Instance,
    config: Config,
    /// Seconds, in place of the configured time.
    idle_timeout: Option<u32>,
    poll: Poll,
    listeners: setup::Listeners,
    compartments: Compartments,
    openers: Openers,
    /// How many controls there were before the present one.
    controls: u32,
    /// Control's program.
    control_program: OwnedFd,
    /// Descriptors that are kept for another control: guests may have all others.
    reserve: Vec<OwnedFd>,
    runs: BTreeMap<u32, Run>,
    numbers: Numbers,
    suspects: Suspects,
    short_lives: u32,
    leaving: bool,
    /// The starters' lock, held from the decision to leave until the process is gone.
    turn: Option<File>,
}

/// Runs the launcher until it is told to end. `announce` is called once clients can connect.
///
/// # Errors
/// When it cannot start, or control cannot be kept running.
pub fn run(instance: Instance, idle_timeout: Option<u32>, announce: impl FnOnce()) -> Result<(), LauncherError> {
    let config = Config::load(&instance)?;
    raise_descriptors();
    let _lock = setup::prepare(&instance, &config)?;
    let listeners = setup::listen(&instance)?;
    let signals = SignalFd::usual().map_err(LauncherError::Signals)?;
    let mut compartments = Compartments::new(&instance, &config)?;
    let control_program = compartment::open_program("qemud-control")?;
    let unlisted = |source| LauncherError::Survivors { path: instance.guests_dir(), source };
    let survivors = survivors::all(&instance).map_err(unlisted)?;
    let privileged = rustix::process::geteuid().is_root();
    if privileged {
        compartments.avoid(survivors::uids_to_avoid(&survivors).map_err(LauncherError::Uids)?);
    }
    let numbers = Numbers::load(&instance, survivors.iter().map(|survivor| survivor.found.run));
    let poll = Poll::new().map_err(LauncherError::Poll)?;
    let registry = poll.registry().try_clone().map_err(LauncherError::Poll)?;
    let openers = Openers::new(registry, FIRST_OPENER, config.open_deadline, privileged);
    let mut launcher = Launcher {
        instance,
        config,
        idle_timeout,
        poll,
        listeners,
        compartments,
        openers,
        controls: 0,
        control_program,
        reserve: Vec::new(),
        runs: BTreeMap::new(),
        numbers,
        suspects: Suspects::new().map_err(LauncherError::Note)?,
        short_lives: 0,
        leaving: false,
        turn: None,
    };
    if privileged {
        caps::keep_only(&CAPABILITIES).map_err(LauncherError::Capabilities)?;
    }
    sandbox::policy::Role::Launcher.install().map_err(LauncherError::Sandbox)?;
    launcher.watch(&signals, SIGNALS)?;
    for survivor in survivors {
        launcher.keep(Run { found: survivor.found, pidfd: survivor.pidfd });
    }
    // Connections wait in the listeners' queues from here on; control takes them when it is up.
    announce();
    let result = launcher.run(&signals);
    launcher.compartments.dismiss();
    launcher.openers.end();
    if launcher.turn.is_none() {
        launcher.turn = background::hold_starters(&launcher.instance);
    }
    setup::clear(&launcher.instance);
    result
}

impl Launcher {
    fn watch(&self, fd: &impl AsRawFd, token: Token) -> Result<(), LauncherError> {
        let interest = Interest::READABLE;
        self.poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), token, interest).map_err(LauncherError::Poll)
    }

    fn run(&mut self, signals: &SignalFd) -> Result<(), LauncherError> {
        let mut control = self.start_control()?;
        let mut events = Events::with_capacity(64);
        while !self.leaving {
            match self.poll.poll(&mut events, self.sleep()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(LauncherError::Poll)?,
            }
            if events.is_empty() {
                let used = self.used_uids();
                self.compartments.prepare(&used);
                self.openers.prepare();
            }
            let mut control_lost = false;
            for event in &events {
                match event.token() {
                    CONTROL => control_lost |= self.hear(&mut control.channel).is_err(),
                    CONTROL_PROCESS => control_lost = true,
                    SIGNALS => self.take_signals(signals),
                    token if OPENERS.contains(&token.0) => self.openers.ready(token),
                    Token(run) => self.run_ended(run, &mut control.channel),
                }
            }
            self.openers.expire(Instant::now());
            self.go_on(&mut control.channel);
            control_lost |= control.channel.flush().is_err();
            if control_lost && !self.leaving {
                control = self.replace_control(control)?;
            }
        }
        // Control sees its channel close and leaves; the guests stay.
        Ok(())
    }

    /// How long the poll may sleep.
    fn sleep(&self) -> Option<Duration> {
        let wants = self.compartments.wants_preparation() || self.openers.wants_preparation();
        let quiet = wants.then_some(QUIET);
        let deadline = self.openers.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        quiet.into_iter().chain(deadline).min()
    }

    fn start_control(&mut self) -> Result<Control, LauncherError> {
        self.reserve.clear();
        let started = self.try_start_control();
        self.reserve =
            (0..RESERVE).map_while(|_| rustix::io::fcntl_dupfd_cloexec(&self.control_program, 0).ok()).collect();
        started
    }

    fn try_start_control(&mut self) -> Result<Control, LauncherError> {
        let (ours, theirs) = UnixStream::pair().map_err(LauncherError::Channel)?;
        let child = compartment::start_control(
            &self.control_program,
            &self.instance,
            &self.config,
            self.idle_timeout,
            &theirs,
            &self.listeners,
            self.suspects.note(),
        )
        .map_err(LauncherError::Control)?;
        ours.set_nonblocking(true).map_err(LauncherError::Channel)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut SourceFd(&ours.as_raw_fd()), CONTROL, both).map_err(LauncherError::Poll)?;
        self.watch(&child.pidfd, CONTROL_PROCESS)?;
        let mut channel = Channel::new(ours);
        for run in self.runs.values() {
            let found = Found { quarantine: self.suspects.quarantine(run.found.run), ..run.found.clone() };
            say(&mut channel, 0, &FromLauncher::Found(Box::new(found)), Vec::new());
        }
        say(&mut channel, 0, &FromLauncher::AllFound, Vec::new());
        // A failed write shows as a lost control at once.
        let _ = channel.flush();
        Ok(Control { channel, pidfd: child.pidfd, since: Instant::now() })
    }

    fn replace_control(&mut self, old: Control) -> Result<Control, LauncherError> {
        let registry = self.poll.registry();
        for fd in [old.pidfd.as_raw_fd(), old.channel.conn().socket().as_raw_fd()] {
            // Closing deregisters by itself; this keeps the poll's own books right.
            let _ = registry.deregister(&mut SourceFd(&fd));
        }
        // A control that broke the protocol may still live: it is ended before another takes its place.
        let _ = pidfd::send_signal(&old.pidfd, Signal::KILL);
        let exit = pidfd::wait(&old.pidfd);
        let how = exit.as_ref().map_or_else(ToString::to_string, ToString::to_string);
        tracing::error!("the control process ended ({how}); starting another");
        let suspect = exit.ok().and_then(|exit| self.suspects.control_died(exit, |run| self.runs.contains_key(&run)));
        self.short_lives = match suspect {
            // Bounded by the run: it is not heard any more after its second time.
            Some(run) => {
                tracing::error!(run, "the control process died while it had this run in hand");
                self.short_lives
            }
            None if old.since.elapsed() < SHORT_LIFE => self.short_lives + 1,
            None => 0,
        };
        if self.short_lives >= SHORT_LIVES {
            return Err(LauncherError::ControlDies);
        }
        drop(old);
        self.controls = self.controls.wrapping_add(1);
        self.start_control()
    }

    fn take_signals(&mut self, signals: &SignalFd) {
        while let Ok(Some(arrived)) = signals.read() {
            if arrived.is(Signal::TERM) || arrived.is(Signal::INT) {
                tracing::info!("asked to end by pid {} uid {}; guests go on", arrived.pid, arrived.uid);
                self.leaving = true;
            }
        }
    }

    fn hear(&mut self, channel: &mut Channel<FromLauncher, ToLauncher>) -> Result<(), ConnError> {
        loop {
            while let Some(message) = channel.next_message()? {
                self.serve(channel, message.serial, message.value, message.fds);
            }
            if !channel.fill()? {
                // Tells an end from a pause.
                return match channel.next_message()? {
                    Some(message) => {
                        self.serve(channel, message.serial, message.value, message.fds);
                        Ok(())
                    }
                    None => Ok(()),
                };
            }
        }
    }

    fn serve(
        &mut self,
        channel: &mut Channel<FromLauncher, ToLauncher>,
        serial: u64,
        request: ToLauncher,
        mut fds: Vec<OwnedFd>,
    ) {
        let answer = match request {
            ToLauncher::Open { path, writable } => {
                let roots = self.config.image_roots.clone();
                let then = Then::Open { asked: Asked { control: self.controls, serial } };
                return self.openers.ask(Request::Open { path, writable, roots }, then);
            }
            ToLauncher::Launch(launch) => match (fds.pop(), fds.is_empty()) {
                (Some(control), true) => {
                    let request = Request::Emulator {
                        path: launch.emulator.clone(),
                        roots: self.config.emulator_roots.clone(),
                        roots_own: rustix::process::geteuid().is_root(),
                    };
                    let asked = Asked { control: self.controls, serial };
                    return self.openers.ask(request, Then::Launch { asked, launch: Box::new(launch), control });
                }
                _ => Err(Refusal::Range { what: "a launch comes with one descriptor".into() }),
            },
            ToLauncher::Dial { run } => self.dial(run, channel),
            ToLauncher::Retire { run } => return self.retire(run),
            ToLauncher::Kill { run } => return self.kill(run, channel),
            ToLauncher::RunsUpTo { run } => return self.numbers.skip(run),
            ToLauncher::Idle => {
                self.leave_if_idle();
                if !self.leaving {
                    say(channel, 0, &FromLauncher::Stay, Vec::new());
                }
                return;
            }
        };
        reply(channel, serial, answer);
    }

    /// Goes on with what openers have served.
    fn go_on(&mut self, channel: &mut Channel<FromLauncher, ToLauncher>) {
        for Done { then, result } in self.openers.take_done() {
            let (Then::Open { asked } | Then::Launch { asked, .. }) = &then;
            // The control that asked is gone, and nobody waits for the answer.
            if asked.control != self.controls {
                continue;
            }
            let serial = asked.serial;
            let answer = result.and_then(|(answer, fds)| match (then, answer) {
                (Then::Open { .. }, Answer::Opened) if fds.len() == 1 => Ok((FromLauncher::Opened, fds)),
                (Then::Launch { launch, control, .. }, Answer::Emulator(emulator)) => {
                    self.launch(&launch, emulator, control)
                }
                _ => Err(Refusal::Range { what: "an opener gave another answer".into() }),
            });
            reply(channel, serial, answer);
        }
    }

    fn kill(&mut self, run: u32, channel: &mut Channel<FromLauncher, ToLauncher>) {
        self.look_again(run, channel);
        let Some(known) = self.runs.get(&run) else { return };
        match (&known.pidfd, &known.found.life) {
            // A process that has ended already is reported by its pidfd.
            (Some(pidfd), _) => {
                if let Err(error) = pidfd::send_signal(pidfd, Signal::KILL) {
                    tracing::info!(run, "cannot be killed: {}", chain(&error));
                }
            }
            (None, Life::Unknown { why }) => {
                let why = why.clone();
                say(channel, 0, &FromLauncher::NotKilled { run, why }, Vec::new());
            }
            (None, _) => {}
        }
    }

    fn dial(
        &mut self,
        run: u32,
        channel: &mut Channel<FromLauncher, ToLauncher>,
    ) -> Result<(FromLauncher, Vec<OwnedFd>), Refusal> {
        self.look_again(run, channel);
        let failed = |cause: String| Refusal::Dial { run, cause };
        if !self.runs.get(&run).is_some_and(|known| known.found.life != Life::Gone) {
            return Err(failed("there is no such run".into()));
        }
        let socket =
            survivors::dial(&self.instance, run).map_err(|errno| failed(io::Error::from(errno).to_string()))?;
        Ok((FromLauncher::Dialed, vec![socket.into()]))
    }

    /// Asks the kernel again about a run of which it could not be told whether it lives.
    fn look_again(&mut self, run: u32, channel: &mut Channel<FromLauncher, ToLauncher>) {
        if !self.runs.get(&run).is_some_and(|known| matches!(known.found.life, Life::Unknown { .. })) {
            return;
        }
        let known = record::read(&self.instance.guest_dir(run)).unwrap_or_default();
        match survivors::judge(&self.instance, run, &known) {
            Verdict::Unknown(why) => {
                if let Some(known) = self.runs.get_mut(&run) {
                    known.found.life = Life::Unknown { why };
                }
            }
            Verdict::Gone => {
                if let Some(known) = self.runs.get_mut(&run) {
                    known.found.life = Life::Gone;
                }
                say(channel, 0, &FromLauncher::Ended { run, how: None }, Vec::new());
            }
            Verdict::Alive(pidfd, pid) => {
                let Some(mut known) = self.runs.remove(&run) else { return };
                known.found.life = Life::Alive;
                known.found.pid = u32::try_from(pid).ok();
                known.pidfd = Some(pidfd);
                self.keep(known);
            }
        }
    }

    /// Leaves, unless somebody is about to connect: starters wait until this process is gone and then start another.
    fn leave_if_idle(&mut self) {
        self.turn = background::hold_starters(&self.instance);
        // Where the run-time directory is gone, nobody can come any more.
        let reachable = self.instance.runtime_dir().exists();
        self.leaving = (self.turn.is_some() || !reachable) && self.runs.is_empty();
        if !self.leaving {
            self.turn = None;
        }
    }

    fn launch(
        &mut self,
        launch: &Launch,
        emulator: Emulator,
        control: OwnedFd,
    ) -> Result<(FromLauncher, Vec<OwnedFd>), Refusal> {
        let used = self.used_uids();
        let order = Order { launch, emulator, control };
        let run = self.numbers.next(launch.purpose)?;
        let (instance, config) = (&self.instance, &self.config);
        let Launched { child, uid, pid } = self.compartments.launch(instance, config, run, order, &used)?;
        let found = Found {
            run,
            purpose: launch.purpose,
            uuid: Some(launch.uuid),
            name: Some(launch.name.clone()),
            uid,
            pid: Some(pid),
            disks: launch.disks.clone(),
            life: Life::Alive,
            quarantine: None,
        };
        self.keep(Run { found, pidfd: Some(child.pidfd) });
        Ok((FromLauncher::Launched { run, pid, uid }, Vec::new()))
    }

    fn used_uids(&self) -> HashSet<u32> {
        self.runs.values().filter(|run| run.found.life != Life::Gone).filter_map(|run| run.found.uid).collect()
    }

    fn keep(&mut self, known: Run) {
        let run = known.found.run;
        if let Some(pidfd) = &known.pidfd
            && let Err(error) = self.watch(pidfd, Token(FIRST_RUN + run as usize))
        {
            tracing::error!(run, "its end cannot be seen: {error}");
        }
        self.runs.insert(run, known);
    }

    fn run_ended(&mut self, token: usize, channel: &mut Channel<FromLauncher, ToLauncher>) {
        let Ok(run) = u32::try_from(token.saturating_sub(FIRST_RUN)) else { return };
        let Some(known) = self.runs.get_mut(&run) else { return };
        let Some(pidfd) = known.pidfd.take() else { return };
        let _ = self.poll.registry().deregister(&mut SourceFd(&pidfd.as_raw_fd()));
        known.found.life = Life::Gone;
        // A supervisor that an earlier launcher started is no child of this one: how it ended is not known.
        let how = pidfd::try_wait(&pidfd).ok().flatten().map(|exit| format!("ended with {exit}"));
        say(channel, 0, &FromLauncher::Ended { run, how }, Vec::new());
    }

    fn retire(&mut self, run: u32) {
        if self.runs.get(&run).is_some_and(|known| known.found.life == Life::Gone) {
            self.runs.remove(&run);
            self.suspects.forget(run);
            runs::remove(&self.instance, run);
        }
    }
}

fn reply(
    channel: &mut Channel<FromLauncher, ToLauncher>,
    serial: u64,
    answer: Result<(FromLauncher, Vec<OwnedFd>), Refusal>,
) {
    let (answer, fds) = answer.unwrap_or_else(|refusal| (FromLauncher::Failed(refusal), Vec::new()));
    say(channel, serial, &answer, fds);
}

/// As many descriptors as the host allows: each run takes one, and a run whose descriptor cannot be opened cannot be
/// watched. Programs that are started get limits of their own.
fn raise_descriptors() {
    if let Some(most) = rlimit::get(Resource::Nofile).hard
        && let Err(error) = rlimit::set(Limit::fixed(Resource::Nofile, most))
    {
        tracing::warn!("the limit of descriptors stays as it is: {}", chain(&error));
    }
}

fn say(channel: &mut Channel<FromLauncher, ToLauncher>, serial: u64, message: &FromLauncher, fds: Vec<OwnedFd>) {
    if let Err(error) = channel.queue(serial, message, fds) {
        tracing::error!("cannot tell control {message:?}: {error}");
    }
}
