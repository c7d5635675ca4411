//! Who may change things, and what control itself may not do any more.

use std::{fs, path::PathBuf};

use ipc::{
    paths::{Instance, Mode},
    server::Peer,
};
use sandbox::landlock::{self, Rules};

use super::{ControlError, READ_ONLY_DOOR};

/// Whose calls may change things.
#[derive(Clone, Copy, Debug)]
pub enum Authority {
    /// Root's, on a system instance.
    Root,
    /// The session's owner's, and root's.
    Owner(u32),
}

impl Authority {
    /// The rule of an instance.
    pub fn of(instance: &Instance) -> Authority {
        match instance.mode() {
            Mode::System => Authority::Root,
            Mode::Session => Authority::Owner(rustix::process::getuid().as_raw()),
        }
    }

    /// Whether a peer's calls are held to the read-only part of the table, whatever it asks for. Its identity was stamped by
    /// the kernel when it connected.
    pub fn read_only(self, peer: Peer) -> bool {
        let allowed = match self {
            Authority::Root => peer.uid == 0,
            Authority::Owner(uid) => peer.uid == uid || peer.uid == 0,
        };
        peer.door == READ_ONLY_DOOR || !allowed
    }
}

/// Gives up everything that control does not need: Landlock leaves the files of the registry, seccomp the calls of a
/// thread around one poll and of the store's threads. Uid and capabilities are gone already: the launcher saw to that.
///
/// # Errors
/// When the kernel refuses a filter; without it, control does not run.
pub fn give_up_power(instance: &Instance) -> Result<(), ControlError> {
    let sandboxed = |error: Box<dyn std::error::Error + Send + Sync>| ControlError::Sandbox(error);
    let journal_dir = instance.journal().parent().map(PathBuf::from).unwrap_or_default();
    let rules = Rules {
        // What the kernel tells everybody of processes (a guest's threads, the pid behind a pidfd) and of the host's CPUs and
        // memory. What it tells only a process's owner of it, Landlock itself refuses across its domain's border.
        read: ["/proc", "/sys/devices/system/cpu", "/sys/devices/system/node"]
            .into_iter()
            .map(PathBuf::from)
            .filter(|place| place.is_dir())
            .chain([instance.guests_dir()])
            .collect(),
        write: vec![instance.definitions_dir(), instance.cache_dir().join("capabilities"), journal_dir]
            .into_iter()
            .filter(|dir| fs::metadata(dir).is_ok())
            .collect(),
        execute: Vec::new(),
        tcp: false,
        outside: false,
    };
    let enforced = landlock::restrict(&rules).map_err(|e| sandboxed(e.into()))?;
    tracing::info!("Landlock: {enforced:?}");
    sandbox::policy::Role::Control.install().map_err(|e| sandboxed(e.into()))
}
