//! Who may come in, how many of them, and with which rights. Nothing here asks a peer: the kernel has said who it is.

use std::collections::HashMap;

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
    remote: usize,
    by_who: HashMap<Who, usize>,
}

impl Admission {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(settings: &Settings) -> Admission {
        let limits = settings.limits.clone();
        Admission { limits, own_uid: settings.own_uid, total: 0, remote: 0, by_who: HashMap::new() }
    }

    /// Counts one more connection.
    ///
    /// # Errors
    /// When that would be one too many.
    pub fn admit(&mut self, who: Who) -> Result<(), Refusal> {
        let Limits { connections, connections_per_uid, reserved, remote, .. } = self.limits;
        let trusted = matches!(who, Who::User(uid) if uid == 0 || uid == self.own_uid);
        let is_remote = matches!(who, Who::Host(_));
        let most = if trusted { connections } else { connections - reserved };
        let own = self.by_who.get(&who).copied().unwrap_or_default();
        let problem = if self.total >= most {
            format!("too many active clients, max is {connections}")
        } else if is_remote && self.remote >= remote {
            format!("too many active clients by network, max is {remote}")
        } else if !trusted && own >= connections_per_uid {
            format!("too many active clients of {who}, max is {connections_per_uid}")
        } else {
            self.total += 1;
            self.remote += usize::from(is_remote);
            *self.by_who.entry(who).or_default() += 1;
            return Ok(());
        };
        Err(Refusal { code: ErrorCode::OPERATION_FAILED, reason: problem })
    }

    /// One connection less.
    pub fn release(&mut self, who: Who) {
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

    fn of(uid: u32, gid: u32) -> Peer {
        Peer::Local { uid, gid, pid: 1 }
    }

    #[test]
    fn a_user_has_a_limit_and_all_others_together_have_one_below_root_s() {
        let mut admission = Admission::new(&settings(InstanceMode::System, Trusted::default()));
        for _ in 0..4 {
            admission.admit(Who::User(7)).unwrap();
        }
        assert!(admission.admit(Who::User(7)).unwrap_err().reason.contains("of uid 7, max is 4"));
        for _ in 0..3 {
            admission.admit(Who::User(8)).unwrap();
        }
        assert!(admission.admit(Who::User(9)).unwrap_err().reason.contains("max is 10"));
        for _ in 0..3 {
            admission.admit(Who::User(0)).unwrap();
        }
        assert!(admission.admit(Who::User(0)).is_err(), "root is held to the limit of all");
        admission.release(Who::User(7));
        admission.admit(Who::User(0)).unwrap();
        admission.release(Who::User(0));
        admission.release(Who::User(7));
        assert!(admission.admit(Who::User(9)).is_err(), "the reserved places stay root's");
        for _ in 0..3 {
            admission.release(Who::User(0));
        }
        admission.admit(Who::User(9)).unwrap();
        assert_eq!(admission.total, 6);
    }

    #[test]
    fn all_who_come_by_network_have_a_limit_of_their_own() {
        let mut admission = Admission::new(&settings(InstanceMode::System, Trusted::default()));
        let host = |last| Who::Host(std::net::Ipv4Addr::new(10, 0, 0, last).into());
        admission.admit(host(1)).unwrap();
        admission.admit(host(2)).unwrap();
        assert!(admission.admit(host(3)).unwrap_err().reason.contains("by network, max is 2"));
        admission.admit(Who::User(7)).unwrap();
        admission.release(host(1));
        admission.admit(host(3)).unwrap();
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
