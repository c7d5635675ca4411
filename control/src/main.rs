//! The `qemud-control` program: a thin front of the crate's library. The launcher starts it; by hand it only says so.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use ipc::paths::Mode;

/// The unprivileged half of qemud. The qemud launcher starts it.
#[derive(Parser)]
#[command(name = "qemud-control", version)]
struct Arguments {
    /// Serve the host's guests, qemu:///system
    #[arg(long, conflicts_with = "session")]
    system: bool,
    /// Serve the calling user's own guests, qemu:///session
    #[arg(long)]
    session: bool,
    /// Seconds after which a session's daemon without clients and guests leaves
    #[arg(long, value_name = "SECONDS")]
    idle_timeout: Option<u32>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start();
    let mode = if arguments.system { Mode::System } else { Mode::Session };
    match control::run(mode, arguments.idle_timeout) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", qemud::chain(&error));
            ExitCode::FAILURE
        }
    }
}
