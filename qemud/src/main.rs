//! The `qemud` program: a thin front of the crate's library.
#![forbid(unsafe_code)]

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, ValueEnum};
use ipc::paths::{Instance, Mode};
use qemud::{background, launcher};

/// Runs and watches the QEMU guests of this host (as root) or of one user.
#[derive(Parser)]
#[command(name = "qemud", version)]
struct Arguments {
    /// Serve the host's guests, qemu:///system
    #[arg(long, conflicts_with = "session")]
    system: bool,
    /// Serve the calling user's own guests, qemu:///session
    #[arg(long)]
    session: bool,
    /// Keep all files under this directory (as BULKHEAD_ROOT does)
    #[arg(long, value_name = "DIR")]
    root: Option<std::path::PathBuf>,
    /// Start the daemon in the background and return when clients can connect
    #[arg(long)]
    background: bool,
    /// Seconds after which a session's daemon without clients and guests leaves
    #[arg(long, value_name = "SECONDS")]
    idle_timeout: Option<u32>,
    /// Print the seccomp policy of a role and exit
    #[arg(long, value_name = "ROLE")]
    dump_policy: Option<Role>,
    /// Be the process that opens files for a launcher
    #[arg(long, hide = true)]
    opener: bool,
    /// Say "ready" on standard output when clients can connect
    #[arg(long, hide = true)]
    announce: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Launcher,
    Control,
    Opener,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let reason = qemud::chain(&*error);
            if arguments.background {
                eprintln!("qemud: {reason}");
            } else {
                tracing::error!("{reason}");
            }
            if arguments.announce {
                println!("{}", reason.replace('\n', " "));
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(role) = arguments.dump_policy {
        let role = match role {
            Role::Launcher => sandbox::policy::Role::Launcher,
            Role::Control => sandbox::policy::Role::Control,
            Role::Opener => sandbox::policy::Role::Opener,
        };
        print!("{}", role.dump());
        return Ok(());
    }
    if arguments.opener {
        return Ok(qemud::opener::run()?);
    }
    let system = arguments.system || (!arguments.session && rustix::process::geteuid().is_root());
    let mode = if system { Mode::System } else { Mode::Session };
    let instance = match &arguments.root {
        Some(root) => Instance::at(mode, Some(root.clone())),
        None => Instance::from_env(mode)?,
    };
    // A guest's socket that can be bound and never be connected to would be met late.
    instance.check_paths()?;
    if arguments.background {
        return Ok(background::ensure_running(&instance, &passed_on(arguments, &instance))?);
    }
    // Whatever the starting program left open stays its own; the standard three are kept.
    sandbox::fd::close_range_from(3)?;
    let announce = arguments.announce;
    if announce {
        // Out of the starter's session, so that its terminal's signals do not reach the daemon.
        rustix::process::setsid()?;
    }
    Ok(launcher::run(instance, arguments.idle_timeout, || {
        if announce {
            println!("{}", background::READY);
            let null = std::fs::OpenOptions::new().write(true).open("/dev/null");
            if let Ok(null) = null {
                // The starter reads until this end closes.
                let _ = rustix::stdio::dup2_stdout(null);
            }
        }
    })?)
}

fn passed_on(arguments: &Arguments, instance: &Instance) -> Vec<OsString> {
    let mut passed = vec![format!("--{}", instance.mode().name()).into()];
    if let Some(root) = instance.root() {
        // Byte by byte: a path need not be text.
        let mut option = OsString::from("--root=");
        option.push(root);
        passed.push(option);
    }
    if let Some(seconds) = arguments.idle_timeout {
        passed.push(format!("--idle-timeout={seconds}").into());
    }
    passed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_root_that_is_no_text_is_passed_on_as_it_is() {
        let root = std::path::Path::new(std::ffi::OsStr::from_bytes(b"/srv/\xff"));
        let arguments = Arguments::parse_from(["qemud", "--session"]);
        let instance = Instance::at(Mode::Session, Some(root.to_path_buf()));
        let passed = passed_on(&arguments, &instance);
        let again = Arguments::parse_from([OsString::from("qemud")].into_iter().chain(passed));
        assert!(again.session);
        assert_eq!(again.root.as_deref(), Some(root));
    }
}
