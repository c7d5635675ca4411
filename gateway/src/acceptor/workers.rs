//! The workers as the acceptor sees them: those that wait, those that serve, and what they ask for.

use std::{
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use ipc::{ConnError, edge::Channel};
use mio::{Interest, Registry, Token, unix::SourceFd};

use super::{
    logins::{Asked, Logins},
    slots::{Key, Slots},
};
use crate::{
    chain,
    edge::{
        Client, Denied, Dial, FromLauncher, FromWorker, Limits, Login, Peer, Rights, Settings, ToLauncher, ToWorker,
        Way, Who,
    },
    tls::Key as TlsKey,
};

/// A new worker is made this long after one was taken, not while that one's client wants its first answer.
const QUIET: Duration = Duration::from_millis(50);
/// So many workers may wait for the next client of one user. Fewer than it has clients at once, and those who come and go
/// have processes made and ended for them all the time.
const KEPT_PER_USER: usize = 8;
/// And of all users.
const KEPT: usize = 32;
/// A worker that leaves so much unread is not told any more: of its channel, which carries words only.
const STUCK: usize = 256 << 10;

/// The wait before another worker is made after one that never came to life.
const BLIND_STEP: Duration = Duration::from_secs(1);

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// It waits for its first client.
    Ready,
    /// It serves.
    Serving { peer: Peer, rights: Rights, proof: Proof, dialing: bool, favours: Favours },
    /// It waits for another client of the same user with the same rights.
    Kept { who: Who, rights: Rights, until: Instant },
    /// It tells clients why they are not served.
    Refusing,
}

/// Whether the client of a worker has the rights already that it was admitted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// It had them from the beginning.
    NotNeeded,
    /// Polkit has yet to say so, or its password has yet to be proved.
    Missing,
    /// Polkit is being asked, once.
    Asked,
    /// Polkit has said so, or the password was proved.
    Given,
    /// Polkit has said no.
    Denied,
}

/// What may still be done for a client's login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Favours {
    signatures: u8,
    challenges: u8,
}

impl Favours {
    /// One handshake, and as many tries as a worker lets its client have.
    const AT_FIRST: Favours = Favours { signatures: 1, challenges: 3 };
}

struct Worker {
    channel: Channel<ToWorker, FromWorker>,
    duty: Duty,
    /// The process of its client, when polkit may be asked about it.
    pidfd: Option<OwnedFd>,
    /// What its client has to prove the password for.
    asked: Option<Asked>,
}

/// What a worker may say depends on its state. One that says anything else is given up, and its client with it.
impl Worker {
    fn dial(&mut self, key: Key, dial: Dial) -> Result<Wanted, ConnError> {
        match &mut self.duty {
            Duty::Serving {
                peer, rights, dialing: dialing @ false, proof: Proof::NotNeeded | Proof::Given, ..
            } => {
                *dialing = true;
                Ok(Wanted { key, peer: *peer, rights: *rights, dial })
            }
            _ => Err(ConnError::Closed),
        }
    }

    fn authorize(&mut self, key: Key) -> Result<Question, ConnError> {
        match &mut self.duty {
            Duty::Serving { peer: Peer::Local { uid, pid, .. }, proof: proof @ Proof::Missing, .. } => {
                *proof = Proof::Asked;
                Ok(Question { key, pid: *pid, uid: *uid, pidfd: self.pidfd.take() })
            }
            _ => Err(ConnError::Closed),
        }
    }

    fn sign(&mut self, tls: Option<&TlsKey>, scheme: u16, message: &[u8]) -> Result<(), ConnError> {
        match &mut self.duty {
            Duty::Serving { favours, .. } if favours.signatures > 0 => favours.signatures -= 1,
            _ => return Err(ConnError::Closed),
        }
        self.say(&ToWorker::Signed(tls.and_then(|key| key.sign(scheme, message))))
    }

    fn challenge(&mut self, logins: &Logins, name: String) -> Result<(), ConnError> {
        match &mut self.duty {
            Duty::Serving { peer: Peer::Remote(_), proof: Proof::Missing, favours, .. } if favours.challenges > 0 => {
                favours.challenges -= 1;
            }
            _ => return Err(ConnError::Closed),
        }
        let (asked, challenge) = logins.ask(name).unzip();
        self.asked = asked;
        self.say(&ToWorker::Challenge(challenge))
    }

    fn prove(&mut self, logins: &Logins, message: &[u8], theirs: &[u8; 32]) -> Result<(), ConnError> {
        let Duty::Serving { peer: Peer::Remote(_), proof: proof @ Proof::Missing, .. } = &mut self.duty else {
            return Err(ConnError::Closed);
        };
        let asked = self.asked.take().ok_or(ConnError::Closed)?;
        let signature = logins.judge(&asked, message, theirs);
        if signature.is_some() {
            *proof = Proof::Given;
        }
        self.say(&ToWorker::Proved(signature))
    }

    /// The client that has logged in, which takes up no room for strangers any more.
    fn known(&self) -> Result<Peer, ConnError> {
        match self.duty {
            Duty::Serving { peer, proof: Proof::NotNeeded | Proof::Given, .. } => Ok(peer),
            _ => Err(ConnError::Closed),
        }
    }

    fn say(&mut self, message: &ToWorker) -> Result<(), ConnError> {
        self.channel.queue(0, message, Vec::new())?;
        self.channel.flush().map(drop)
    }
}

/// A question for polkit.
#[derive(Debug)]
pub struct Question {
    /// The worker that waits for the answer.
    pub key: Key,
    /// The client's process, as the kernel has said.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// The same process, unmistakably, if the kernel has given it.
    pub pidfd: Option<OwnedFd>,
}

/// A connection that a worker wants, with what its client may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The worker.
    pub key: Key,
    /// Its client.
    pub peer: Peer,
    /// What that may do.
    pub rights: Rights,
    /// To whom.
    pub dial: Dial,
}

/// What a worker has said, as far as it concerns others.
#[derive(Debug, Default)]
pub struct Heard {
    /// Its client has logged in.
    pub known: Option<Peer>,
    /// Its client is gone.
    pub released: Option<Peer>,
    /// It wants a connection.
    pub dial: Option<Wanted>,
    /// It wants to know what polkit says.
    pub question: Option<Question>,
    /// It waits for nobody's answer any more.
    pub done: Option<Key>,
}

/// Every worker.
pub struct Workers {
    registry: Registry,
    first_token: usize,
    limits: Limits,
    all: Slots<Worker>,
    ready: Vec<Key>,
    kept: Vec<Key>,
    refuser: Option<Key>,
    replenish_at: Option<Instant>,
    tls: Option<TlsKey>,
    logins: Logins,
}

/// The channel to the launcher.
pub type Launcher = Channel<ToLauncher, FromLauncher>;

impl Workers {
    /// None yet.
    #[must_use]
    pub fn new(registry: Registry, first_token: usize, settings: &Settings, tls: Option<TlsKey>) -> Workers {
        Workers {
            registry,
            first_token,
            limits: settings.limits.clone(),
            all: Slots::new(),
            ready: Vec::new(),
            kept: Vec::new(),
            refuser: None,
            replenish_at: None,
            tls,
            logins: Logins::new(&settings.network.users, &settings.network.secret),
        }
    }

    /// Has workers made until enough are ready.
    pub fn replenish(&mut self, launcher: &mut Launcher) {
        self.replenish_at = None;
        while self.ready.len() < self.limits.ready_workers {
            let Some(key) = self.make(launcher) else { return };
            self.ready.push(key);
        }
    }

    /// Does what is due.
    pub fn tidy(&mut self, now: Instant, launcher: &mut Launcher) {
        if self.replenish_at.is_some_and(|at| at <= now) {
            self.replenish(launcher);
        }
        let over = |worker: &Worker| matches!(worker.duty, Duty::Kept { until, .. } if until <= now);
        for key in self.kept.clone() {
            if self.all.get(key).is_some_and(over) {
                self.forget(key);
            }
        }
    }

    /// When something is due.
    #[must_use]
    pub fn next_time(&self) -> Option<Instant> {
        let ends = self.kept.iter().filter_map(|key| match self.all.get(*key)?.duty {
            Duty::Kept { until, .. } => Some(until),
            _ => None,
        });
        ends.chain(self.replenish_at).min()
    }

    /// A worker, whose channel can be written to at once: what is said waits there until it is up.
    fn make(&mut self, launcher: &mut Launcher) -> Option<Key> {
        let mut made = || {
            let (ours, theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
            ours.set_nonblocking(true).map_err(|error| error.to_string())?;
            launcher.queue(0, &ToLauncher::Worker, vec![theirs.into()]).map_err(|error| chain(&error))?;
            Ok::<_, String>(ours)
        };
        let ours = made().inspect_err(|problem| tracing::error!("no worker can be made: {problem}")).ok()?;
        let number = ours.as_raw_fd();
        let key = self.all.add(Worker { channel: Channel::new(ours), duty: Duty::Ready, pidfd: None, asked: None });
        let both = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.registry.register(&mut SourceFd(&number), Token(self.first_token + key.slot), both) {
            tracing::error!("no worker can be watched: {error}");
            self.all.remove(key);
            return None;
        }
        Some(key)
    }

    /// Gives a client to a worker: one that has served this user with these rights before, or a fresh one. The client comes
    /// back when there is none.
    pub fn serve(
        &mut self,
        launcher: &mut Launcher,
        client: Client,
        socket: OwnedFd,
        pidfd: Option<OwnedFd>,
    ) -> Option<Peer> {
        let (peer, rights) = (client.peer, client.rights);
        let (Way::Unix(login) | Way::Tcp(login) | Way::Tls(login, _)) = client.way;
        let proof = if login == Login::None { Proof::NotNeeded } else { Proof::Missing };
        let fits = |duty: Duty| matches!(duty, Duty::Kept { who, rights: r, .. } if who == peer.who() && r == rights);
        let fits = |duty| proof == Proof::NotNeeded && fits(duty);
        let kept = self.kept.iter().rposition(|key| self.all.get(*key).is_some_and(|worker| fits(worker.duty)));
        let key = match kept {
            Some(at) => Some(self.kept.swap_remove(at)),
            None => {
                self.replenish_at.get_or_insert_with(|| Instant::now() + QUIET);
                // The oldest one: it is most likely up.
                let ready = (!self.ready.is_empty()).then(|| self.ready.remove(0));
                ready.or_else(|| self.make(launcher))
            }
        };
        let Some(key) = key else { return Some(peer) };
        if let Some(worker) = self.all.get_mut(key) {
            worker.duty = Duty::Serving { peer, rights, proof, dialing: false, favours: Favours::AT_FIRST };
            worker.pidfd = pidfd;
        }
        match self.tell(key, &ToWorker::Serve(client), vec![socket]) {
            Ok(()) => None,
            Err(_) => self.forget(key),
        }
    }

    /// Has a client told why it is not served. When too many are being told, it is not.
    pub fn refuse(&mut self, launcher: &mut Launcher, socket: OwnedFd, peer: Peer, code: i32, reason: String) {
        let key = match self.refuser {
            Some(key) => key,
            None => {
                let Some(key) = self.make(launcher) else { return };
                if let Some(worker) = self.all.get_mut(key) {
                    worker.duty = Duty::Refusing;
                }
                self.refuser = Some(key);
                key
            }
        };
        if self.tell(key, &ToWorker::Refuse { peer, code, reason }, vec![socket]).is_err() {
            self.forget(key);
        }
    }

    /// Hands a worker its connection.
    pub fn dialed(&mut self, key: Key, socket: OwnedFd) {
        self.answer(key, &ToWorker::Dialed, vec![socket]);
    }

    /// Tells a worker that there is none.
    pub fn not_dialed(&mut self, key: Key, message: &ToWorker) {
        self.answer(key, message, Vec::new());
    }

    fn answer(&mut self, key: Key, message: &ToWorker, fds: Vec<OwnedFd>) {
        // A worker that has lost its client since does not wait any more.
        let Some(Worker { duty: Duty::Serving { dialing: dialing @ true, .. }, .. }) = self.all.get_mut(key) else {
            return;
        };
        *dialing = false;
        // A failed write shows as a lost worker when its channel is read.
        let _ = self.tell(key, message, fds);
    }

    /// Tells a worker what polkit has said, if it still waits for that.
    pub fn authorized(&mut self, key: Key, word: Result<(), Denied>) {
        let Some(Worker { duty: Duty::Serving { proof: proof @ Proof::Asked, .. }, .. }) = self.all.get_mut(key) else {
            return;
        };
        *proof = if word.is_ok() { Proof::Given } else { Proof::Denied };
        // A failed write shows as a lost worker when its channel is read.
        let _ = self.tell(key, &ToWorker::Authorized(word), Vec::new());
    }

    fn tell(&mut self, key: Key, message: &ToWorker, fds: Vec<OwnedFd>) -> Result<(), ConnError> {
        let Some(worker) = self.all.get_mut(key) else { return Err(ConnError::Closed) };
        if worker.channel.conn().backlog() > STUCK {
            return Ok(());
        }
        worker.channel.queue(0, message, fds)?;
        worker.channel.flush().map(drop)
    }

    /// Works through what a worker has said.
    pub fn hear(&mut self, slot: usize) -> Heard {
        let mut heard = Heard::default();
        let Some(key) = self.all.key(slot) else { return heard };
        if let Err(error) = self.hear_all(key, &mut heard) {
            if !matches!(error, ConnError::Closed) {
                tracing::warn!("a worker is given up: {}", chain(&error));
            }
            heard.dial = None;
            heard.question = None;
            heard.done = Some(key);
            heard.released = heard.released.or(self.forget(key));
        }
        heard
    }

    fn hear_all(&mut self, key: Key, heard: &mut Heard) -> Result<(), ConnError> {
        loop {
            let Some(worker) = self.all.get_mut(key) else { return Ok(()) };
            worker.channel.flush()?;
            while let Some(message) = worker.channel.next_message()? {
                match message.value {
                    FromWorker::Ready => {}
                    FromWorker::Dial(dial) => heard.dial = Some(worker.dial(key, dial)?),
                    FromWorker::Authorize => heard.question = Some(worker.authorize(key)?),
                    FromWorker::Sign { scheme, message } => worker.sign(self.tls.as_ref(), scheme, &message)?,
                    FromWorker::Challenge { name } => worker.challenge(&self.logins, name)?,
                    FromWorker::Prove { message, proof } => worker.prove(&self.logins, &message, &proof)?,
                    FromWorker::Known => heard.known = Some(worker.known()?),
                    FromWorker::Finished => {
                        self.finished(key, heard)?;
                        break;
                    }
                }
            }
            let Some(worker) = self.all.get_mut(key) else { return Ok(()) };
            if !worker.channel.fill()? {
                // False is "nothing more" and "gone" alike; the next message tells which.
                return match worker.channel.next_message()? {
                    None => Ok(()),
                    Some(_) => Err(ConnError::Closed),
                };
            }
        }
    }

    /// Keeps a worker whose client has left, for the next one of the same user.
    fn finished(&mut self, key: Key, heard: &mut Heard) -> Result<(), ConnError> {
        let Some(worker) = self.all.get_mut(key) else { return Ok(()) };
        // A worker whose client polkit was to be asked about ends with it: what one connection was allowed is not the next
        // one's. And two clients that come from one address need not be the same.
        let Duty::Serving { peer: peer @ Peer::Local { .. }, rights, proof: Proof::NotNeeded, .. } = worker.duty else {
            return Err(ConnError::Closed);
        };
        heard.released = Some(peer);
        heard.dial = None;
        heard.done = Some(key);
        let until = Instant::now() + self.limits.keep;
        worker.duty = Duty::Kept { who: peer.who(), rights, until };
        self.kept.push(key);
        self.keep_few(key, peer.who(), rights);
        Ok(())
    }

    /// The worker that serves this client.
    #[must_use]
    pub fn serving(&self, client: Peer) -> Option<Key> {
        self.all.find(|worker| matches!(worker.duty, Duty::Serving { peer, .. } if peer == client))
    }

    /// Keeps no more workers than are worth it: the one that was there first goes.
    fn keep_few(&mut self, new: Key, who: Who, rights: Rights) {
        if self.limits.keep.is_zero() {
            self.forget(new);
            return;
        }
        let of_user = |workers: &Workers, key: &Key| match workers.all.get(*key).map(|worker| worker.duty) {
            Some(Duty::Kept { who: w, rights: r, .. }) => w == who && r == rights,
            _ => false,
        };
        let own: Vec<Key> = self.kept.iter().copied().filter(|key| of_user(self, key)).collect();
        let oldest = if own.len() > KEPT_PER_USER { own.first().copied() } else { None };
        let oldest = oldest.or_else(|| (self.kept.len() > KEPT).then(|| self.kept.first().copied()).flatten());
        if let Some(oldest) = oldest {
            self.forget(oldest);
        }
    }

    /// Lets a worker go: its channel closes, and it leaves. Its client, if it had one, is returned.
    pub fn forget(&mut self, key: Key) -> Option<Peer> {
        let worker = self.all.remove(key)?;
        let _ = self.registry.deregister(&mut SourceFd(&worker.channel.conn().socket().as_raw_fd()));
        self.ready.retain(|other| *other != key);
        self.kept.retain(|other| *other != key);
        if self.refuser == Some(key) {
            self.refuser = None;
        }
        match worker.duty {
            Duty::Serving { peer, .. } => Some(peer),
            Duty::Ready => {
                // It never came to life; whatever the reason, another try at once is likely to end the same way.
                self.replenish_at = Some(Instant::now() + BLIND_STEP);
                None
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
