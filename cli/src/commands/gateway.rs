//! `gateway`: libvirt's sockets, for as long as the command runs. It becomes the program `gateway`; nothing of the command
//! line is left around it.

use std::{env, os::unix::process::CommandExt, path::PathBuf, process::Command};

use clap::Args;
use ipc::programs::Search;

use crate::error::CliError;
use crate::session::Session;

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
    let (own, path) = (env::current_exe().ok(), env::var_os("PATH"));
    let search = Search { beside: own.as_deref(), path: path.as_deref() };
    search.find(PROGRAM).map_err(|source| CliError::NoProgram { source })
}
