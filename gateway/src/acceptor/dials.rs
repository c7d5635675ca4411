//! Connections to qemud, for workers. They are the launcher's to make, which knows qemud's two sockets and hears of nothing
//! but the rights: this process can reach no socket by itself. Here is who waits for one, and for how long.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use api::ErrorCode;
use rustix::io::Errno;

use super::{slots::Key, workers::Launcher};
use crate::{
    chain,
    edge::{Peer, Rights, Settings, ToLauncher, ToWorker},
};

/// How long a worker waits for a qemud that is being restarted.
const RETURN_PATIENCE: Duration = Duration::from_secs(60);
/// How long a qemud is waited for that is being started, or has too many who want in.
const START_PATIENCE: Duration = Duration::from_secs(65);
const BUSY_PATIENCE: Duration = Duration::from_secs(10);
/// The wait for one that has too many who want in, and for one whose socket nobody tells us of.
const BUSY_STEP: Duration = Duration::from_millis(10);
const BLIND_STEP: Duration = Duration::from_secs(1);

/// A worker that wants a connection.
#[derive(Clone, Copy, Debug)]
struct Wish {
    key: Key,
    /// To which of qemud's sockets.
    rights: Rights,
    /// Its client, if the kernel knows it.
    user: Option<u32>,
    /// It had one before.
    again: bool,
    /// What it waits for, once a first try has failed.
    wait: Option<Wait>,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    until: Instant,
    step: Duration,
    next: Instant,
    /// A start is under way for it.
    start: bool,
}

/// All of them.
#[derive(Debug)]
pub struct Dials {
    read_write: PathBuf,
    read_only: PathBuf,
    may_start: bool,
    mode: &'static str,
    /// Those that the launcher was asked for, by number.
    asked: Vec<(u64, Wish)>,
    waiting: Vec<Wish>,
    last: u64,
}

impl Dials {
    /// For the instance of the settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Dials {
        Dials {
            read_write: settings.qemud.clone(),
            read_only: settings.qemud_read_only.clone(),
            may_start: settings.may_start_qemud,
            mode: ipc::paths::Mode::from(settings.mode).name(),
            asked: Vec::new(),
            waiting: Vec::new(),
            last: 0,
        }
    }

    /// A worker wants a connection; `again` when it had one before.
    pub fn ask(&mut self, launcher: &mut Launcher, key: Key, (rights, peer): (Rights, Peer), again: bool) {
        let user = match peer {
            Peer::Local { uid, .. } if rights == Rights::ReadOnly => Some(uid),
            _ => None,
        };
        self.put(launcher, Wish { key, rights, user, again, wait: None });
    }

    fn put(&mut self, launcher: &mut Launcher, wish: Wish) {
        self.last += 1;
        let dial = ToLauncher::Dial { id: self.last, rights: wish.rights, user: wish.user };
        self.asked.push((self.last, wish));
        // A launcher that is gone shows when it is flushed, and ends this process.
        if let Err(error) = launcher.queue(0, &dial, Vec::new()) {
            tracing::error!("cannot get a connection to qemud: {}", chain(&error));
        }
    }

    fn take(&mut self, id: u64) -> Option<Wish> {
        let at = self.asked.iter().position(|(number, _)| *number == id)?;
        Some(self.asked.swap_remove(at).1)
    }

    /// The worker that a connection is for; none if it has lost its client meanwhile.
    pub fn dialed(&mut self, id: u64) -> Option<Key> {
        self.take(id).map(|wish| wish.key)
    }

    /// There is no connection. It is tried again later, or the worker is to be told.
    pub fn failed(&mut self, launcher: &mut Launcher, id: u64, failure: Errno) -> Option<(Key, ToWorker)> {
        let mut wish = self.take(id)?;
        let now = Instant::now();
        wish.wait = match wish.wait {
            None => self.first_wait(wish.again, failure, now),
            Some(wait) => Some(Wait { next: now + wait.step, ..wait }).filter(|wait| wait.until > now),
        };
        let Some(wait) = wish.wait else { return Some((wish.key, self.refused(failure, wish.rights))) };
        let under_way = self.everybody().any(|wish| wish.wait.is_some_and(|wait| wait.start));
        if wait.start
            && !under_way
            && let Err(error) = launcher.queue(0, &ToLauncher::StartQemud, Vec::new())
        {
            tracing::error!("cannot have qemud started: {}", chain(&error));
        }
        self.waiting.push(wish);
        None
    }

    fn everybody(&self) -> impl Iterator<Item = &Wish> {
        self.asked.iter().map(|(_, wish)| wish).chain(&self.waiting)
    }

    fn first_wait(&self, again: bool, failure: Errno, now: Instant) -> Option<Wait> {
        let absent = matches!(failure, Errno::NOENT | Errno::CONNREFUSED);
        let (patience, step) = match failure {
            Errno::AGAIN => (BUSY_PATIENCE, BUSY_STEP),
            _ if absent && again => (RETURN_PATIENCE, BLIND_STEP),
            _ if absent && self.may_start => (START_PATIENCE, BLIND_STEP),
            _ => return None,
        };
        Some(Wait { until: now + patience, step, next: now + step, start: absent && self.may_start })
    }

    /// Tries those again whose next try is due.
    pub fn try_due(&mut self, launcher: &mut Launcher, now: Instant) {
        let due = |wish: &mut Wish| wish.wait.is_none_or(|wait| wait.next <= now);
        let due: Vec<Wish> = self.waiting.extract_if(.., due).collect();
        due.into_iter().for_each(|wish| self.put(launcher, wish));
    }

    /// Tries all of them again: qemud may be back.
    pub fn try_all(&mut self, launcher: &mut Launcher) {
        for wish in std::mem::take(&mut self.waiting) {
            self.put(launcher, wish);
        }
    }

    /// A start has failed: those that wait for it are to be told.
    pub fn not_started(&mut self, reason: &str) -> Vec<(Key, ToWorker)> {
        let told = ToWorker::NotDialed { code: ErrorCode::SYSTEM_ERROR.0, reason: reason.to_owned(), hint: None };
        let start = |wish: &Wish| wish.wait.is_some_and(|wait| wait.start);
        let waiting = self.waiting.extract_if(.., |wish| start(wish)).map(|wish| wish.key);
        let asked = self.asked.extract_if(.., |(_, wish)| start(wish)).map(|(_, wish)| wish.key);
        waiting.chain(asked).map(|key| (key, told.clone())).collect()
    }

    /// This worker waits no more.
    pub fn forget(&mut self, key: Key) {
        self.waiting.retain(|wish| wish.key != key);
        self.asked.retain(|(_, wish)| wish.key != key);
    }

    /// When the next try is due.
    #[must_use]
    pub fn next_time(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|wish| wish.wait).map(|wait| wait.next).min()
    }

    fn refused(&self, failure: Errno, rights: Rights) -> ToWorker {
        let path = match rights {
            Rights::Full => &self.read_write,
            Rights::ReadOnly => &self.read_only,
        };
        ToWorker::NotDialed {
            code: ErrorCode::SYSTEM_ERROR.0,
            reason: format!("cannot connect to qemud at {}: {failure}", path.display()),
            hint: Some(format!("is qemud --{} running?", self.mode)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        acceptor::{admission::tests::settings, slots::Slots},
        edge::{FromLauncher, InstanceMode, Trusted},
    };
    use ipc::edge::Channel;
    use std::os::unix::net::UnixStream;

    const ROOT: Peer = Peer::Local { uid: 0, gid: 0, pid: 1 };

    /// Dials, and what the launcher hears of them.
    struct Rig {
        dials: Dials,
        launcher: Launcher,
        far: Channel<FromLauncher, ToLauncher>,
    }

    fn rig(may_start: bool) -> Rig {
        let mut settings = settings(InstanceMode::Session, Trusted::default());
        settings.may_start_qemud = may_start;
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        Rig { dials: Dials::new(&settings), launcher: Channel::new(near), far: Channel::new(far) }
    }

    impl Rig {
        fn heard(&mut self) -> Vec<ToLauncher> {
            self.launcher.flush().unwrap();
            while self.far.fill().unwrap() {}
            std::iter::from_fn(|| self.far.next_message().unwrap()).map(|message| message.value).collect()
        }
    }

    const FIRST: ToLauncher = ToLauncher::Dial { id: 1, rights: Rights::Full, user: None };

    #[test]
    fn a_connection_is_for_who_asked_and_still_waits() {
        let mut rig = rig(false);
        let mut slots = Slots::new();
        let (a, b) = (slots.add(()), slots.add(()));
        rig.dials.ask(&mut rig.launcher, a, (Rights::Full, ROOT), false);
        rig.dials.ask(&mut rig.launcher, b, (Rights::ReadOnly, ROOT), false);
        assert_eq!(rig.heard(), [FIRST, ToLauncher::Dial { id: 2, rights: Rights::ReadOnly, user: Some(0) }]);
        rig.dials.forget(a);
        assert_eq!(rig.dials.dialed(1), None);
        assert_eq!((rig.dials.dialed(2), rig.dials.dialed(2)), (Some(b), None));
    }

    #[test]
    fn one_start_is_asked_for_however_many_want_it() {
        let mut rig = rig(true);
        let mut slots = Slots::new();
        let keys = [slots.add(()), slots.add(())];
        keys.iter().for_each(|key| rig.dials.ask(&mut rig.launcher, *key, (Rights::Full, ROOT), false));
        for id in [1, 2] {
            assert!(rig.dials.failed(&mut rig.launcher, id, Errno::NOENT).is_none());
        }
        let starts = rig.heard().into_iter().filter(|word| *word == ToLauncher::StartQemud).count();
        assert_eq!(starts, 1);
        // One of them is under way again when the start fails.
        rig.dials.try_all(&mut rig.launcher);
        assert_eq!(rig.dials.not_started("no").len(), 2);
        assert!(rig.dials.next_time().is_none());
    }

    #[test]
    fn what_is_not_worth_waiting_for_is_told_at_once() {
        let mut rig = rig(false);
        let mut slots = Slots::new();
        let key = slots.add(());
        rig.dials.ask(&mut rig.launcher, key, (Rights::Full, ROOT), false);
        let (told, word) = rig.dials.failed(&mut rig.launcher, 1, Errno::NOENT).unwrap();
        assert_eq!(told, key);
        assert!(matches!(word, ToWorker::NotDialed { reason, .. } if reason.contains("/q: ")), "no reason");
        // One that was connected before waits for qemud's return, until its time is over.
        rig.dials.ask(&mut rig.launcher, key, (Rights::Full, ROOT), true);
        assert!(rig.dials.failed(&mut rig.launcher, 2, Errno::CONNREFUSED).is_none());
        rig.dials.try_due(&mut rig.launcher, Instant::now());
        assert_eq!(rig.heard().len(), 2, "its step is not over");
        rig.dials.try_due(&mut rig.launcher, Instant::now() + BLIND_STEP);
        assert_eq!(rig.heard(), [ToLauncher::Dial { id: 3, rights: Rights::Full, user: None }]);
    }
}
