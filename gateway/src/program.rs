//! The command line of the program `gateway`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use ipc::paths::{Instance, Mode};

use crate::{acceptor, chain, launcher, worker};

/// Serves libvirt's clients (virsh, libvirt-python, ...) on libvirt's sockets.
#[derive(Parser)]
#[command(name = "gateway", version)]
struct Arguments {
    /// Serve the host's guests, qemu:///system
    #[arg(long, conflicts_with = "session")]
    system: bool,
    /// Serve the calling user's own guests, qemu:///session
    #[arg(long)]
    session: bool,
    /// Keep all files under this directory (as BULKHEAD_ROOT does)
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Print the seccomp policy of a role and exit
    #[arg(long, value_name = "ROLE")]
    dump_policy: Option<Role>,
    /// Say "ready" on standard output when clients can connect
    #[arg(long, hide = true)]
    announce: bool,
    /// Which of the processes this is; the launcher starts the others
    #[arg(long, hide = true, default_value = "launcher")]
    role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Launcher,
    Acceptor,
    Worker,
    #[value(hide = true)]
    Starter,
}

/// Runs the program with the process's own arguments.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            log::error!("{}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    if let Some(role) = arguments.dump_policy {
        print!("{}", policy(role).dump());
        return Ok(true);
    }
    let system = arguments.system || (!arguments.session && rustix::process::geteuid().is_root());
    let mode = if system { Mode::System } else { Mode::Session };
    match arguments.role {
        Role::Launcher => launch(arguments, mode)?,
        Role::Acceptor => acceptor::run()?,
        Role::Worker => worker::run()?,
        Role::Starter => return Ok(launcher::start_qemud(mode)),
    }
    Ok(true)
}

fn launch(arguments: &Arguments, mode: Mode) -> Result<(), Box<dyn std::error::Error>> {
    // Whatever the starting program left open stays its own; the standard three are kept.
    sandbox::fd::close_range_from(3)?;
    let instance = match &arguments.root {
        Some(root) => Instance::at(mode, Some(root.clone())),
        None => Instance::from_env(mode),
    };
    launcher::run(instance, || {
        if arguments.announce {
            println!("ready");
            let null = std::fs::OpenOptions::new().write(true).open("/dev/null");
            if let Ok(null) = null {
                // The starter reads until this end closes.
                let _ = rustix::stdio::dup2_stdout(null);
            }
        }
    })?;
    Ok(())
}

fn policy(role: Role) -> sandbox::policy::Role {
    match role {
        Role::Launcher | Role::Starter => sandbox::policy::Role::Launcher,
        Role::Acceptor => sandbox::policy::Role::GatewayAcceptor,
        Role::Worker => sandbox::policy::Role::GatewayWorker,
    }
}
