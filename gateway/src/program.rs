//! The command line of the program `gateway`.

use std::{io::BufRead, path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use ipc::paths::{Instance, Mode};
use wire::sasl::Verifier;

use crate::{acceptor, chain, launcher, mock_host, polkit, worker};

/// Iterations of a verifier, which make guessing passwords slow: the least that RFC 7677 advises.
const ROUNDS: u32 = 4096;
const LONGEST_PASSWORD: u64 = 4096;

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
    /// Read a password from standard input, print this user's line for the file of sasl_users, and exit
    #[arg(long, value_name = "NAME")]
    sasl_user: Option<String>,
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
    Polkit,
    MockHost,
    #[value(hide = true)]
    Starter,
}

/// Runs the program with the process's own arguments.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!("{}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    if let Some(role) = arguments.dump_policy {
        print!("{}", policy(role).dump());
        return Ok(true);
    }
    if let Some(name) = &arguments.sasl_user {
        println!("{}", users_line(name, std::io::stdin().lock())?);
        return Ok(true);
    }
    let system = arguments.system || (!arguments.session && rustix::process::geteuid().is_root());
    let mode = if system { Mode::System } else { Mode::Session };
    match arguments.role {
        Role::Launcher => launch(arguments, mode)?,
        Role::Acceptor => acceptor::run()?,
        Role::Worker => worker::run()?,
        Role::Polkit => polkit::run()?,
        Role::MockHost => mock_host::run()?,
        Role::Starter => return Ok(launcher::start_qemud(mode)),
    }
    Ok(true)
}

/// A user's line: nobody can log in with what is in it.
fn users_line(name: &str, password: impl BufRead) -> Result<String, Box<dyn std::error::Error>> {
    if name.is_empty() || name.contains([':', '\n']) {
        return Err("a name is not empty and has no colon in it".into());
    }
    let mut line = String::new();
    password.take(LONGEST_PASSWORD).read_line(&mut line)?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err("there is no password on standard input".into());
    }
    let mut salt = [0; 16];
    rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty())?;
    let verifier = Verifier::derive(password, ROUNDS, &salt).ok_or("the password cannot be used")?;
    Ok(format!("{name}:{verifier}"))
}

fn launch(arguments: &Arguments, mode: Mode) -> Result<(), Box<dyn std::error::Error>> {
    // Whatever the starting program left open stays its own; the standard three are kept.
    sandbox::fd::close_range_from(3)?;
    let instance = match &arguments.root {
        Some(root) => Instance::at(mode, Some(root.clone())),
        None => Instance::from_env(mode)?,
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
        Role::Polkit => sandbox::policy::Role::GatewayPolkit,
        Role::MockHost => sandbox::policy::Role::GatewayMockHost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_line_is_one_that_is_understood_and_never_the_same() {
        let line = |password: &str| users_line("ann", password.as_bytes());
        let one = line("secret\n").unwrap();
        let (name, verifier) = one.split_once(':').unwrap();
        assert_eq!(name, "ann");
        assert!(verifier.parse::<Verifier>().is_ok(), "{one}");
        assert!(!one.contains("secret"));
        assert_ne!(one, line("secret\n").unwrap(), "the salt is the same");
        assert!(line("\n").is_err() && line("").is_err());
        assert!(users_line("a:b", "x".as_bytes()).is_err());
    }
}
