//! The openers: a few processes that open files, so that the launcher never waits for a file system.
//!
//! Each serves one request at a time. One that takes too long is killed; the kernel may not be able to end it while its file
//! system is silent, so it is left and keeps its place, and another one serves the rest. One directory gets a part of the
//! places only, so that those who ask for one dead server's files do not keep everybody else waiting.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ipc::{ConnError, edge::Channel};
use mio::{Interest, Registry, Token, unix::SourceFd};
use sandbox::{
    Signal,
    caps::Capability,
    pidfd,
    rlimit::{Limit, Resource},
    spawn::{Child, Program, Spawn, SpawnError},
};

use crate::{
    chain,
    edge::{Launch, Refusal},
    opener::{self, Answer, Request},
};

/// Openers at once, those that do not end included.
const PLACES: usize = 16;
/// Of these for one directory.
const PLACES_A_DIRECTORY: usize = 4;
/// This many openers hang in one directory, and nobody else is sent there until one of them ends.
const HUNG_A_DIRECTORY: usize = 2;
/// Requests that may wait for an opener.
const MAX_QUEUED: usize = 1024;
/// Openers that are kept when there is nothing to do.
const KEPT: usize = 1;
/// How long after a failure to start an opener the next try is.
const RETRY: Duration = Duration::from_millis(100);

/// What is done when a request has been served.
pub enum Then {
    /// Control's `Open` is answered.
    Open {
        /// Which control asked, and in which message.
        asked: Asked,
    },
    /// Control's `Launch` goes on.
    Launch {
        /// Which control asked, and in which message.
        asked: Asked,
        /// What it asked for.
        launch: Box<Launch>,
        /// The supervisor's end of its connection to control.
        control: OwnedFd,
    },
}

/// A request of control's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// How many controls there were before the one that asked.
    pub control: u32,
    /// The message's serial.
    pub serial: u64,
}

/// What came of a request.
pub struct Done {
    /// What is to be done.
    pub then: Then,
    /// The answer and its descriptors.
    pub result: Result<(Answer, Vec<OwnedFd>), Refusal>,
}

struct Job {
    request: Request,
    directory: PathBuf,
    deadline: Instant,
    then: Then,
}

/// What an opener is at.
enum State {
    Idle,
    Busy(Job),
    /// It was killed at its deadline, in this directory, and has not ended.
    Hung(PathBuf),
    /// It was killed because it is not needed.
    Leaving,
}

struct Opener {
    channel: Channel<Request, Answer>,
    pidfd: OwnedFd,
    state: State,
}

/// All of them, and what waits for one.
pub struct Openers {
    registry: Registry,
    first_token: usize,
    /// How long a request may take, its wait for an opener included.
    patience: Duration,
    privileged: bool,
    openers: BTreeMap<usize, Opener>,
    queue: VecDeque<Job>,
    done: Vec<Done>,
    retry: Option<Instant>,
}

impl Openers {
    /// How many tokens they take.
    pub const TOKENS: usize = 2 * PLACES;

    /// None so far. Their tokens begin with `first_token`.
    #[must_use]
    pub fn new(registry: Registry, first_token: usize, patience: Duration, privileged: bool) -> Openers {
        Openers {
            registry,
            first_token,
            patience,
            privileged,
            openers: BTreeMap::new(),
            queue: VecDeque::new(),
            done: Vec::new(),
            retry: None,
        }
    }

    /// Whether there is none that waits for work.
    #[must_use]
    pub fn wants_preparation(&self) -> bool {
        self.openers.is_empty()
    }

    /// Starts one ahead.
    pub fn prepare(&mut self) {
        if self.wants_preparation() {
            self.start_one(Instant::now());
        }
    }

    /// Has a request served. Its end is among [`Openers::take_done`].
    pub fn ask(&mut self, request: Request, then: Then) {
        let now = Instant::now();
        let path = Path::new(request.path());
        let directory = path.parent().unwrap_or(path).to_path_buf();
        let job = Job { request, directory, deadline: now + self.patience, then };
        let hung = |opener: &&Opener| matches!(&opener.state, State::Hung(at) if *at == job.directory);
        let hung = self.openers.values().filter(hung).count();
        if hung >= HUNG_A_DIRECTORY {
            let refusal = Refusal::Hung { path: job.request.path().into(), openers: hung };
            return self.finish(job, Err(refusal));
        }
        if self.queue.len() >= MAX_QUEUED {
            let refusal = self.late(&job);
            return self.finish(job, Err(refusal));
        }
        self.queue.push_back(job);
        self.dispatch(now);
    }

    /// What has been served since the last call.
    pub fn take_done(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.done)
    }

    /// When [`Openers::expire`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let busy = self.openers.values().filter_map(|opener| match &opener.state {
            State::Busy(job) => Some(job.deadline),
            _ => None,
        });
        busy.chain(self.queue.iter().map(|job| job.deadline)).chain(self.retry).min()
    }

    /// Gives up what has had its time.
    pub fn expire(&mut self, now: Instant) {
        let late: Vec<usize> = self
            .openers
            .iter()
            .filter(|(_, opener)| matches!(&opener.state, State::Busy(job) if job.deadline <= now))
            .map(|(place, _)| *place)
            .collect();
        for place in late {
            let Some(opener) = self.openers.get_mut(&place) else { continue };
            kill(opener);
            let State::Busy(job) = std::mem::replace(&mut opener.state, State::Leaving) else { continue };
            opener.state = State::Hung(job.directory.clone());
            let refusal =
                Refusal::Stuck { path: job.request.path().into(), seconds: self.patience.as_secs_f32().to_string() };
            self.finish(job, Err(refusal));
        }
        let (late, waiting) = std::mem::take(&mut self.queue).into_iter().partition(|job| job.deadline <= now);
        self.queue = waiting;
        let late: VecDeque<Job> = late;
        for job in late {
            let refusal = self.late(&job);
            self.finish(job, Err(refusal));
        }
        self.dispatch(now);
    }

    /// What the poll has told of one of them.
    pub fn ready(&mut self, token: Token) {
        let offset = token.0.saturating_sub(self.first_token);
        let place = offset / 2;
        if offset % 2 == 1 {
            self.ended(place);
        } else if self.hear(place).is_err()
            && let Some(opener) = self.openers.get(&place)
        {
            // It ends, or talks nonsense: either way its end is what is waited for.
            kill(opener);
        }
        self.dispatch(Instant::now());
    }

    /// Ends all of them. One that hangs ends when its file system lets it.
    pub fn end(&mut self) {
        for opener in std::mem::take(&mut self.openers).into_values() {
            kill(&opener);
            if matches!(opener.state, State::Idle | State::Leaving) {
                let _ = pidfd::wait(&opener.pidfd);
            }
        }
    }

    fn late(&self, job: &Job) -> Refusal {
        Refusal::Waited { path: job.request.path().into(), seconds: self.patience.as_secs_f32().to_string() }
    }

    fn finish(&mut self, job: Job, result: Result<(Answer, Vec<OwnedFd>), Refusal>) {
        self.done.push(Done { then: job.then, result });
    }

    fn hear(&mut self, place: usize) -> Result<(), ConnError> {
        loop {
            let Some(opener) = self.openers.get_mut(&place) else { return Ok(()) };
            opener.channel.flush()?;
            let message = match opener.channel.next_message()? {
                Some(message) => message,
                None if opener.channel.fill()? => continue,
                // Tells an end from a pause.
                None => match opener.channel.next_message()? {
                    Some(message) => message,
                    None => return Ok(()),
                },
            };
            if !matches!(opener.state, State::Busy(_)) {
                continue;
            }
            let State::Busy(job) = std::mem::replace(&mut opener.state, State::Idle) else { continue };
            let result = match message.value {
                Answer::Failed(refusal) => Err(refusal),
                _ if message.lost_fds => Err(Refusal::Range { what: "qemud has no descriptor left".into() }),
                answer => Ok((answer, message.fds)),
            };
            self.finish(job, result);
        }
    }

    fn ended(&mut self, place: usize) {
        let Some(opener) = self.openers.remove(&place) else { return };
        for fd in [opener.channel.conn().socket().as_raw_fd(), opener.pidfd.as_raw_fd()] {
            // Closing deregisters by itself; this keeps the poll's own books right.
            let _ = self.registry.deregister(&mut SourceFd(&fd));
        }
        let how = pidfd::try_wait(&opener.pidfd).ok().flatten().map_or_else(String::new, |exit| exit.to_string());
        match opener.state {
            State::Busy(job) => {
                tracing::error!("an opener ended: {how}");
                let cause = format!("the process that opens it ended ({how})");
                let refusal = Refusal::Open { path: job.request.path().into(), cause, errno: 0 };
                self.finish(job, Err(refusal));
            }
            State::Idle => tracing::error!("an opener ended: {how}"),
            State::Hung(_) | State::Leaving => {}
        }
    }

    /// Gives every request that may be served an opener, and lets those go that are too many.
    fn dispatch(&mut self, now: Instant) {
        while let Some(index) = self.queue.iter().position(|job| self.has_room(&job.directory)) {
            let idle = self.openers.iter().find(|(_, opener)| matches!(opener.state, State::Idle)).map(|(at, _)| *at);
            let Some(place) = idle.or_else(|| self.start_one(now)) else { return };
            let (Some(opener), Some(job)) = (self.openers.get_mut(&place), self.queue.remove(index)) else { return };
            let sent = opener.channel.queue(1, &job.request, Vec::new()).and_then(|()| opener.channel.flush());
            opener.state = State::Busy(job);
            if sent.is_err() {
                kill(opener);
            }
        }
        let idle = self.openers.values_mut().filter(|opener| matches!(opener.state, State::Idle));
        for opener in idle.skip(KEPT) {
            kill(opener);
            opener.state = State::Leaving;
        }
    }

    fn has_room(&self, directory: &Path) -> bool {
        let there = |opener: &&Opener| match &opener.state {
            State::Busy(job) => job.directory == directory,
            State::Hung(at) => at == directory,
            State::Idle | State::Leaving => false,
        };
        self.openers.values().filter(there).count() < PLACES_A_DIRECTORY
    }

    fn start_one(&mut self, now: Instant) -> Option<usize> {
        if self.retry.is_some_and(|at| now < at) {
            return None;
        }
        self.retry = None;
        let place = (0..PLACES).find(|place| !self.openers.contains_key(place))?;
        match self.start(place) {
            Ok(opener) => {
                self.openers.insert(place, opener);
                Some(place)
            }
            Err(error) => {
                // A shortage passes; what waits has its deadline.
                tracing::warn!("cannot start an opener: {}", chain(&error));
                self.retry = (!self.queue.is_empty()).then(|| now + RETRY);
                None
            }
        }
    }

    fn start(&self, place: usize) -> Result<Opener, SpawnError> {
        let prepare = |what| move |source: io::Error| SpawnError::Prepare { what, source };
        let (ours, theirs) = UnixStream::pair().map_err(prepare("the opener's channel"))?;
        ours.set_nonblocking(true).map_err(prepare("the opener's channel"))?;
        let kept: &[Capability] = if self.privileged { &[Capability::CAP_DAC_OVERRIDE] } else { &[] };
        let stderr = io::stderr();
        let Child { pidfd, .. } = Spawn::new(Program::OwnExe, "qemud-opener")
            .arg(opener::OPTION)
            .fd(2, &stderr)
            .fd(opener::CHANNEL, &theirs)
            .limit(Limit::fixed(Resource::Core, 0))
            .parent_death_signal(Signal::KILL)
            .keep_capabilities(kept)
            .start()?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let token = self.first_token + 2 * place;
        let watch = |fd: i32, token, interest| {
            self.registry.register(&mut SourceFd(&fd), Token(token), interest).map_err(prepare("the opener's watch"))
        };
        let watched =
            watch(ours.as_raw_fd(), token, both).and_then(|()| watch(pidfd.as_raw_fd(), token + 1, Interest::READABLE));
        if let Err(error) = watched {
            let _ = pidfd::send_signal(&pidfd, Signal::KILL).and_then(|()| pidfd::wait(&pidfd));
            return Err(error);
        }
        Ok(Opener { channel: Channel::new(ours), pidfd, state: State::Idle })
    }
}

fn kill(opener: &Opener) {
    // One that has ended already is reported by its pidfd.
    let _ = pidfd::send_signal(&opener.pidfd, Signal::KILL);
}
