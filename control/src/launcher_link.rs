//! Control's end of the channel to the launcher: requests with continuations.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use ipc::{
    ConnError,
    edge::{Channel, Message},
};

use super::{Control, Then};
use qemud::edge::{FromLauncher, Refusal, ToLauncher};

/// How long the launcher may take for one request.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the launcher brings when it did what it was asked.
pub type Done = Result<(FromLauncher, Vec<OwnedFd>), Refusal>;

/// Something that the launcher said.
pub enum Heard {
    /// An answer, what waits for it, and the timer that is no longer needed.
    Answer(Then<Done>, Done, (Instant, u64)),
    /// Something that nobody asked for.
    News(FromLauncher),
}

struct Waiting {
    then: Then<Done>,
    timer: (Instant, u64),
}

impl Control {
    /// Asks the launcher, and does `then` with the answer or, if none comes in time, with that failure: a file on storage that
    /// is stuck holds up the process that opens it.
    pub(super) fn ask_launcher(&mut self, request: &ToLauncher, fds: Vec<OwnedFd>, then: Then<Done>) {
        let serial = self.launcher.serial + 1;
        let give_up = move |control: &mut Control, ()| {
            if let Some(waiting) = control.launcher.waiting.remove(&serial) {
                (waiting.then)(control, Err(Refusal::Silent { seconds: PATIENCE.as_secs() }));
            }
        };
        let timer = self.after(PATIENCE, Box::new(give_up));
        let then = self.in_the_same_name(then);
        self.launcher.ask(request, fds, Waiting { then, timer });
    }

    /// Asks the launcher for something that it may still do after its time: `late` is done when that has passed, and `then`
    /// with the answer, whenever it comes.
    pub(super) fn ask_launcher_however_long(
        &mut self,
        request: &ToLauncher,
        fds: Vec<OwnedFd>,
        then: Then<Done>,
        late: Then<Refusal>,
    ) {
        let late = move |control: &mut Control, ()| late(control, Refusal::Silent { seconds: PATIENCE.as_secs() });
        let timer = self.after(PATIENCE, Box::new(late));
        let then = self.in_the_same_name(then);
        self.launcher.ask(request, fds, Waiting { then, timer });
    }
}

/// The channel and what waits on it.
pub struct LauncherLink {
    channel: Channel<ToLauncher, FromLauncher>,
    waiting: HashMap<u64, Waiting>,
    serial: u64,
}

impl LauncherLink {
    /// A link over the inherited channel.
    pub fn new(channel: Channel<ToLauncher, FromLauncher>) -> LauncherLink {
        LauncherLink { channel, waiting: HashMap::new(), serial: 0 }
    }

    /// Sends a request and keeps what waits for its answer.
    fn ask(&mut self, request: &ToLauncher, fds: Vec<OwnedFd>, waiting: Waiting) {
        self.serial += 1;
        self.waiting.insert(self.serial, waiting);
        self.queue(self.serial, request, fds);
    }

    /// Says something that has no answer.
    pub fn tell(&mut self, news: &ToLauncher) {
        self.queue(0, news, Vec::new());
    }

    fn queue(&mut self, serial: u64, request: &ToLauncher, fds: Vec<OwnedFd>) {
        if let Err(error) = self.channel.queue(serial, request, fds) {
            tracing::error!("cannot send {request:?} to the launcher: {error}");
        }
    }

    /// Sends what is queued.
    pub fn flush(&mut self) -> Result<(), ConnError> {
        self.channel.flush().map(|_| ())
    }

    /// Everything that the launcher has said by now.
    pub fn hear(&mut self) -> Result<Vec<Heard>, ConnError> {
        let mut heard = Vec::new();
        while self.channel.fill()? {
            while let Some(message) = self.channel.next_message()? {
                heard.extend(self.sort(message));
            }
        }
        // Says whether there is nothing more or nobody.
        while let Some(message) = self.channel.next_message()? {
            heard.extend(self.sort(message));
        }
        Ok(heard)
    }

    fn sort(&mut self, message: Message<FromLauncher>) -> Option<Heard> {
        let Message { serial, value, fds, lost_fds } = message;
        if serial == 0 {
            return Some(Heard::News(value));
        }
        let Waiting { then, timer } = self.waiting.remove(&serial)?;
        let answer = match value {
            FromLauncher::Failed(refusal) => Err(refusal),
            _ if lost_fds => Err(Refusal::Range { what: "qemud has no descriptor left for the answer".into() }),
            done => Ok((done, fds)),
        };
        Some(Heard::Answer(then, answer, timer))
    }
}
