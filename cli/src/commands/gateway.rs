//! `gateway`: libvirt's sockets, for as long as the command runs. It becomes the program `gateway`; nothing of the command
//! line is left around it.

use std::{env, os::unix::process::CommandExt, path::PathBuf, process::Command};

use ipc::programs::Search;

use crate::error::CliError;
use crate::session::Session;
use crate::values::Values;

const PROGRAM: &str = "gateway";

/// Becomes the gateway; returns only when that fails.
pub(crate) fn run(_: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
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

fn find() -> Result<PathBuf, CliError> {
    let (own, path) = (env::current_exe().ok(), env::var_os("PATH"));
    let search = Search { beside: own.as_deref(), path: path.as_deref() };
    search.find(PROGRAM).map_err(|source| CliError::NoProgram { source })
}
