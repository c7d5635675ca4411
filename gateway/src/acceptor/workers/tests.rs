//! A worker that was taken over says what it likes. These are its words, and what becomes of them.

use std::sync::{Arc, Mutex, PoisonError};

use mio::Poll;
use wire::sasl::{self, Judge};

use super::*;
use crate::{
    acceptor::{
        admission::tests::settings,
        logins::tests::{log_in, users},
    },
    edge::{Daemon, InstanceMode, KeepaliveSettings, Share, Trusted},
};

/// A worker's end of its channel.
type Far = Channel<FromWorker, ToWorker>;

/// The acceptor's workers, one of which serves a client and is played by the test.
struct Rig {
    workers: Workers,
    far: Arc<Mutex<Far>>,
    _poll: Poll,
    _client: UnixStream,
}

impl Rig {
    fn serving(peer: Peer, way: Way) -> Rig {
        let mut settings = settings(InstanceMode::System, Trusted::default());
        settings.network.users = users();
        let poll = Poll::new().unwrap();
        let mut workers = Workers::new(poll.registry().try_clone().unwrap(), 0, &settings, None);
        let (near, launcher) = UnixStream::pair().unwrap();
        let mut near = Channel::new(near);
        let mut launcher: Channel<FromLauncher, ToLauncher> = Channel::new(launcher);
        let (socket, client) = UnixStream::pair().unwrap();
        let served = Client {
            peer,
            rights: Rights::Full,
            mode: InstanceMode::System,
            patience: Duration::from_secs(10),
            keepalive: KeepaliveSettings { seconds: 5, count: 5 },
            way,
            share: Share { calls: 64, unread: 256 << 10 },
        };
        assert_eq!(workers.serve(&mut near, served, socket.into(), None), None);
        near.flush().unwrap();
        let fd = launcher.recv().unwrap().fds.pop().expect("a worker's channel");
        let mut far: Far = Channel::new(fd.into());
        assert!(matches!(far.recv().unwrap().value, ToWorker::Serve(_)));
        Rig { workers, far: Arc::new(Mutex::new(far)), _poll: poll, _client: client }
    }

    /// One that asks for a name and a password.
    fn by_network() -> Rig {
        Rig::serving(Peer::Remote(([192, 0, 2, 1], 1234).into()), Way::Tcp(Login::Sasl))
    }

    fn say(&self, word: &FromWorker) {
        tell(&self.far, word);
    }

    fn heard(&mut self) -> Heard {
        self.workers.hear(0)
    }

    /// Whether the worker gets a connection to qemud, or is given up.
    fn may_dial(&mut self) -> bool {
        self.say(&FromWorker::Dial(Dial { daemon: Daemon::Qemud, again: false }));
        let heard = self.heard();
        assert_ne!(heard.dial.is_some(), heard.released.is_some(), "it is given up, or it gets what it wants");
        heard.dial.is_some_and(|wanted| wanted.rights == Rights::Full)
    }

    /// A client logs in by way of the worker, which hands on what it says.
    fn log_in(&mut self, name: &str, password: &str) -> bool {
        let far = Arc::clone(&self.far);
        let (name, password) = (name.to_owned(), password.to_owned());
        let exchange = std::thread::spawn(move || log_in(Arc::new(HandsOn(far)), &name, &password));
        while !exchange.is_finished() {
            assert!(self.heard().released.is_none());
            std::thread::yield_now();
        }
        exchange.join().unwrap()
    }
}

fn tell(far: &Mutex<Far>, word: &FromWorker) {
    let mut far = far.lock().unwrap_or_else(PoisonError::into_inner);
    far.queue(0, word, Vec::new()).unwrap();
    assert!(far.flush().unwrap());
}

/// The worker's part in a login.
struct HandsOn(Arc<Mutex<Far>>);

impl HandsOn {
    fn ask(&self, word: &FromWorker) -> ToWorker {
        tell(&self.0, word);
        self.0.lock().unwrap().recv().unwrap().value
    }
}

impl Judge for HandsOn {
    fn challenge(&self, name: &str) -> Option<sasl::Challenge> {
        let ToWorker::Challenge(challenge) = self.ask(&FromWorker::Challenge { name: name.into() }) else { panic!() };
        challenge.map(sasl::Challenge::from)
    }

    fn judge(&self, _: &str, message: &[u8], proof: &[u8; 32]) -> Option<[u8; 32]> {
        let word = FromWorker::Prove { message: message.to_vec(), proof: *proof };
        let ToWorker::Proved(signature) = self.ask(&word) else { panic!() };
        signature
    }
}

#[test]
fn without_the_password_there_is_no_connection_whatever_the_worker_says() {
    assert!(!Rig::by_network().may_dial(), "a worker that says nothing of a login");
    let mut wrong = Rig::by_network();
    assert!(!wrong.log_in("ann", "wrong"));
    assert!(!wrong.may_dial(), "a wrong password");
    let mut unknown = Rig::by_network();
    assert!(!unknown.log_in("eve", "secret"));
    assert!(!unknown.may_dial(), "a user that is not there");
    let mut unasked = Rig::by_network();
    unasked.say(&FromWorker::Prove { message: b"anything".to_vec(), proof: [0; 32] });
    assert!(unasked.heard().released.is_some(), "a proof that nobody asked for");
    let mut polite = Rig::by_network();
    polite.say(&FromWorker::Authorize);
    assert!(polite.heard().released.is_some(), "polkit knows users of this host only");
}

#[test]
fn with_the_password_there_is_one_and_a_few_tries_are_all() {
    let mut right = Rig::by_network();
    assert!(!right.log_in("ann", "wrong"));
    assert!(right.log_in("ann", "secret"));
    assert!(right.may_dial());
    let mut stubborn = Rig::by_network();
    for _ in 0..Favours::AT_FIRST.challenges {
        assert!(!stubborn.log_in("ann", "wrong"));
    }
    stubborn.say(&FromWorker::Challenge { name: "ann".into() });
    assert!(stubborn.heard().released.is_some(), "it has had its tries");
}

#[test]
fn a_local_client_s_worker_does_not_log_in_by_password() {
    let peer = Peer::Local { uid: 7, gid: 7, pid: 1 };
    for login in [Login::None, Login::Polkit] {
        let mut local = Rig::serving(peer, Way::Unix(login));
        local.say(&FromWorker::Challenge { name: "ann".into() });
        assert!(local.heard().released.is_some(), "{login:?}");
    }
    assert!(Rig::serving(peer, Way::Unix(Login::None)).may_dial());
    assert!(!Rig::serving(peer, Way::Unix(Login::Polkit)).may_dial(), "polkit has not spoken");
}
