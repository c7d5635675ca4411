//! Who may come in, how many of them, and with which rights. Nothing here asks a peer: the kernel has said who it is.

use std::collections::{HashMap, VecDeque};

use api::ErrorCode;

use super::polkit::denied;
use crate::edge::{Denied, Door, InstanceMode, Limits, Peer, Rights, Settings, Trusted, Who};

/// Why somebody is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// libvirt's number.
    pub code: ErrorCode,
    /// What the client is told.
    pub reason: String,
}

/// Counts connections.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    own_uid: u32,
    total: usize,
    /// By network, whether known or not.
    remote: usize,
    /// By network and not known yet, oldest first. They are no two of one address at a time.
    strangers: VecDeque<Peer>,
    by_who: HashMap<Who, usize>,
}

impl Admission {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(settings: &Settings) -> Admission {
        let limits = settings.limits.clone();
        Admission {
            limits,
            own_uid: settings.own_uid,
            total: 0,
            remote: 0,
            strangers: VecDeque::new(),
            by_who: HashMap::new(),
        }
    }

    /// Whom this one is to take the place of, if it takes another's: nobody who waits for a login keeps a later one out. Its
    /// own host's oldest when that has its share, else the oldest of the host that has most.
    #[must_use]
    pub fn makes_room(&self, peer: Peer) -> Option<Peer> {
        let Who::Host(_) = peer.who() else { return None };
        let mut counts: HashMap<Who, usize> = HashMap::new();
        self.strangers.iter().for_each(|stranger| *counts.entry(stranger.who()).or_default() += 1);
        let count = |who: Who| counts.get(&who).copied().unwrap_or_default();
        let oldest_of = |who: Who| self.strangers.iter().find(|stranger| stranger.who() == who).copied();
        if count(peer.who()) >= self.limits.strangers_per_host {
            oldest_of(peer.who())
        } else if self.strangers.len() >= self.limits.strangers {
            // Of several that have as many the one whose oldest came first: `max_by_key` gives the last.
            self.strangers
                .iter()
                .rev()
                .max_by_key(|stranger| count(stranger.who()))
                .and_then(|most| oldest_of(most.who()))
        } else {
            None
        }
    }

    /// Counts one more connection; who comes by network is a stranger until [`Admission::known`].
    ///
    /// # Errors
    /// When that would be one too many.
    pub fn admit(&mut self, peer: Peer) -> Result<(), Refusal> {
        let who = peer.who();
        let Limits { connections, connections_per_uid, reserved, remote, .. } = self.limits;
        let trusted = matches!(who, Who::User(uid) if uid == 0 || uid == self.own_uid);
        let is_remote = matches!(who, Who::Host(_));
        let most = if trusted { connections } else { connections - reserved };
        let own = self.by_who.get(&who).copied().unwrap_or_default();
        let problem = if self.total >= most {
            format!("too many active clients, max is {connections}")
        } else if is_remote && self.remote - self.strangers.len() >= remote {
            format!("too many active clients by network, max is {remote}")
        } else if !trusted && own >= connections_per_uid {
            format!("too many active clients of {who}, max is {connections_per_uid}")
        } else {
            self.total += 1;
            self.remote += usize::from(is_remote);
            self.strangers.extend(is_remote.then_some(peer));
            *self.by_who.entry(who).or_default() += 1;
            return Ok(());
        };
        Err(Refusal { code: ErrorCode::OPERATION_FAILED, reason: problem })
    }

    /// This one has logged in.
    pub fn known(&mut self, peer: Peer) {
        if let Some(at) = self.strangers.iter().position(|stranger| *stranger == peer) {
            self.strangers.remove(at);
        }
    }

    /// One connection less.
    pub fn release(&mut self, peer: Peer) {
        self.known(peer);
        let who = peer.who();
        self.total = self.total.saturating_sub(1);
        if matches!(who, Who::Host(_)) {
            self.remote = self.remote.saturating_sub(1);
        }
        if let Some(count) = self.by_who.get_mut(&who) {
            *count -= 1;
            if *count == 0 {
                self.by_who.remove(&who);
            }
        }
    }
}

/// How somebody comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// With these rights, as far as this host's users are concerned: who comes by network logs in first.
    With(Rights),
    /// With full rights if polkit says so, and not at all otherwise.
    AsksPolkit,
}

impl Entry {
    /// The rights that it may come to.
    #[must_use]
    pub fn rights(self) -> Rights {
        match self {
            Entry::With(rights) => rights,
            Entry::AsksPolkit => Rights::Full,
        }
    }
}

/// How a peer comes in by `door`. `groups` are all of its groups, asked for only when they matter.
///
/// # Errors
/// When it may not come in by this door.
pub fn entry(settings: &Settings, door: Door, peer: Peer, groups: impl FnOnce() -> Vec<u32>) -> Result<Entry, Refusal> {
    let Trusted { uids, gids } = &settings.trusted;
    let Peer::Local { uid, gid, .. } = peer else {
        // Who comes by network shows a certificate or a password to the worker before anything else.
        return Ok(Entry::With(Rights::Full));
    };
    let trusted = || {
        uid == 0
            || (settings.mode == InstanceMode::Session && uid == settings.own_uid)
            || uids.contains(&uid)
            || (!gids.is_empty() && (gids.contains(&gid) || groups().iter().any(|gid| gids.contains(gid))))
    };
    match door {
        Door::ReadWrite if trusted() => Ok(Entry::With(Rights::Full)),
        Door::ReadWrite if settings.polkit => Ok(Entry::AsksPolkit),
        Door::ReadWrite => {
            let Denied { code, reason } = denied(uid);
            Err(Refusal { code: ErrorCode(code), reason })
        }
        // A local process does not come by network.
        Door::ReadOnly | Door::Tcp | Door::Tls => Ok(Entry::With(Rights::ReadOnly)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::edge::{KeepaliveSettings, Network};
    use std::time::Duration;

    pub(in crate::acceptor) fn settings(mode: InstanceMode, trusted: Trusted) -> Settings {
        Settings {
            mode,
            doors: Vec::new(),
            qemud: "/q".into(),
            qemud_read_only: "/q-ro".into(),
            own_uid: if mode == InstanceMode::System { 0 } else { 1000 },
            trusted,
            limits: Limits {
                connections: 10,
                connections_per_uid: 4,
                reserved: 3,
                remote: 2,
                strangers: 4,
                strangers_per_host: 2,
                ready_workers: 1,
                patience: Duration::from_secs(1),
                keep: Duration::ZERO,
            },
            keepalive: KeepaliveSettings { seconds: 5, count: 5 },
            may_start_qemud: false,
            polkit: false,
            network: Network::default(),
        }
    }

    fn user(uid: u32) -> Peer {
        of(uid, uid)
    }

    fn of(uid: u32, gid: u32) -> Peer {
        Peer::Local { uid, gid, pid: 1 }
    }

    #[test]
    fn a_user_has_a_limit_and_all_others_together_have_one_below_root_s() {
        let mut admission = Admission::new(&settings(InstanceMode::System, Trusted::default()));
        for _ in 0..4 {
            admission.admit(user(7)).unwrap();
        }
        assert!(admission.admit(user(7)).unwrap_err().reason.contains("of uid 7, max is 4"));
        for _ in 0..3 {
            admission.admit(user(8)).unwrap();
        }
        assert!(admission.admit(user(9)).unwrap_err().reason.contains("max is 10"));
        for _ in 0..3 {
            admission.admit(user(0)).unwrap();
        }
        assert!(admission.admit(user(0)).is_err(), "root is held to the limit of all");
        admission.release(user(7));
        admission.admit(user(0)).unwrap();
        admission.release(user(0));
        admission.release(user(7));
        assert!(admission.admit(user(9)).is_err(), "the reserved places stay root's");
        for _ in 0..3 {
            admission.release(user(0));
        }
        admission.admit(user(9)).unwrap();
        assert_eq!(admission.total, 6);
    }

    fn host(last: u8, port: u16) -> Peer {
        Peer::Remote(([10, 0, 0, last], port).into())
    }

    /// Takes one in, whoever has to go for it.
    fn come(admission: &mut Admission, peer: Peer) -> Option<Peer> {
        let gone = admission.makes_room(peer);
        gone.into_iter().for_each(|gone| admission.release(gone));
        admission.admit(peer).unwrap();
        gone
    }

    #[test]
    fn all_who_have_come_by_network_have_a_limit_of_their_own() {
        let mut admission = Admission::new(&settings(InstanceMode::System, Trusted::default()));
        for last in [1, 2] {
            come(&mut admission, host(last, 1));
            admission.known(host(last, 1));
        }
        assert!(admission.admit(host(3, 1)).unwrap_err().reason.contains("by network, max is 2"));
        admission.admit(user(7)).unwrap();
        admission.release(host(1, 1));
        admission.admit(host(3, 1)).unwrap();
    }

    #[test]
    fn a_stranger_makes_room_for_the_next_and_a_host_s_many_make_it_first() {
        let mut admission = Admission::new(&settings(InstanceMode::System, Trusted::default()));
        assert_eq!(come(&mut admission, host(1, 1)), None);
        assert_eq!(come(&mut admission, host(2, 1)), None);
        assert_eq!(come(&mut admission, host(2, 2)), None);
        assert_eq!(come(&mut admission, host(2, 3)), Some(host(2, 1)), "its host has its share");
        assert_eq!(come(&mut admission, host(3, 1)), None);
        assert_eq!(
            come(&mut admission, host(4, 1)),
            Some(host(2, 2)),
            "of the host that has most, though it is not the oldest"
        );
        assert_eq!(come(&mut admission, host(5, 1)), Some(host(1, 1)), "and then the oldest of all");
        admission.known(host(2, 3));
        assert_eq!(come(&mut admission, host(6, 1)), None, "who has logged in is none of them");
        assert_eq!((admission.total, admission.remote, admission.strangers.len()), (5, 5, 4));
    }

    #[test]
    fn the_second_half_of_an_address_makes_nobody_another_host() {
        let at = |text: &str| Peer::Remote(text.parse().unwrap()).who();
        assert_eq!(at("[2001:db8:1:2::1]:1"), at("[2001:db8:1:2:ffff::9]:7"));
        assert_ne!(at("[2001:db8:1:2::1]:1"), at("[2001:db8:1:3::1]:1"));
        assert_eq!(at("[::ffff:10.0.0.1]:1"), at("10.0.0.1:2"));
        assert_ne!(at("[::ffff:10.0.0.1]:1"), at("10.0.0.2:2"));
    }

    #[test]
    fn the_door_and_the_kernel_s_word_decide() {
        let none = || -> Vec<u32> { panic!("nobody asked") };
        let system = settings(InstanceMode::System, Trusted::default());
        assert_eq!(entry(&system, Door::ReadWrite, of(0, 0), none), Ok(Entry::With(Rights::Full)));
        assert_eq!(entry(&system, Door::ReadOnly, of(0, 0), none), Ok(Entry::With(Rights::ReadOnly)));
        assert_eq!(entry(&system, Door::ReadOnly, of(1000, 1000), none), Ok(Entry::With(Rights::ReadOnly)));
        let refusal = entry(&system, Door::ReadWrite, of(1000, 1000), none).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::AUTH_FAILED);
        assert!(refusal.reason.starts_with("authentication failed: "), "{}", refusal.reason);
    }

    #[test]
    fn named_users_and_members_of_named_groups_have_full_rights() {
        let system = settings(InstanceMode::System, Trusted { uids: vec![5], gids: vec![110] });
        assert_eq!(entry(&system, Door::ReadWrite, of(5, 5), Vec::new), Ok(Entry::With(Rights::Full)));
        assert_eq!(entry(&system, Door::ReadWrite, of(6, 110), Vec::new), Ok(Entry::With(Rights::Full)));
        assert_eq!(entry(&system, Door::ReadWrite, of(6, 6), || vec![4, 110]), Ok(Entry::With(Rights::Full)));
        assert!(entry(&system, Door::ReadWrite, of(6, 6), || vec![4]).is_err());
    }

    #[test]
    fn whom_the_configuration_does_not_know_may_ask_polkit_for_full_rights_only() {
        let system = settings(InstanceMode::System, Trusted { uids: vec![5], gids: vec![] });
        let system = Settings { polkit: true, ..system };
        assert_eq!(entry(&system, Door::ReadWrite, of(6, 6), Vec::new), Ok(Entry::AsksPolkit));
        assert_eq!(entry(&system, Door::ReadWrite, of(5, 5), Vec::new), Ok(Entry::With(Rights::Full)));
        assert_eq!(entry(&system, Door::ReadOnly, of(6, 6), Vec::new), Ok(Entry::With(Rights::ReadOnly)));
    }

    #[test]
    fn a_session_is_its_owner_s() {
        let session = settings(InstanceMode::Session, Trusted::default());
        assert_eq!(entry(&session, Door::ReadWrite, of(1000, 1000), Vec::new), Ok(Entry::With(Rights::Full)));
        assert!(entry(&session, Door::ReadWrite, of(1001, 1000), Vec::new).is_err());
    }
}
