//! `gateway`: libvirt's sockets, for as long as the command runs. It becomes the program `gateway`; nothing of the command
//! line is left around it.

use std::{env, io, os::unix::process::CommandExt, path::PathBuf, process::Command};

use clap::Args;

use crate::error::CliError;
use crate::session::Session;

/// Installed places, besides the neighbourhood of this program and `PATH`.
const PLACES: [&str; 2] = ["/usr/local/libexec/bulkhead", "/usr/libexec/bulkhead"];
const PROGRAM: &str = "gateway";

/// Serve libvirt's own clients (virsh, virt-manager, …) until it is ended
#[derive(Debug, Args)]
#[command(after_help = "\
Clients find the host's gateway where gateway.conf puts its sockets, and any other by a URI:
  virsh -c 'qemu+unix:///session?socket=SOCKET' list
-c qemu:///system or -c qemu:///session says whose guests it serves; without it, root's are the host's.")]
pub(crate) struct Gateway {}

impl Gateway {
    /// Becomes the gateway; returns only when that fails.
    #[allow(clippy::unused_self)] // A verb like the others.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let instance = match session.uri() {
            Some("qemu:///system") => Some("--system"),
            Some("qemu:///session") => Some("--session"),
            Some(other) => return Err(CliError::NoGateway { uri: other.to_owned() }),
            None => None,
        };
        let mut command = Command::new(find()?);
        command.args(instance);
        Err(CliError::Gateway { source: command.exec() })
    }
}

fn find() -> Result<PathBuf, CliError> {
    let own = env::current_exe().ok().and_then(|path| Some(path.parent()?.to_owned()));
    let searched = env::var_os("PATH").unwrap_or_default();
    let dirs = own.into_iter().chain(PLACES.map(PathBuf::from)).chain(env::split_paths(&searched));
    let mut candidates = dirs.filter(|dir| dir.is_absolute()).map(|dir| dir.join(PROGRAM));
    let found = candidates.find(|path| path.is_file());
    found.ok_or_else(|| CliError::Gateway { source: io::ErrorKind::NotFound.into() })
}
