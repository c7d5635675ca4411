//! Where the daemon's log goes: standard error, which the launcher's starter directs to `qemud.log` or the journal.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error. `RUST_LOG` chooses what is logged; without it, everything from `info` up.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let format = format.with_ansi(std::io::stderr().is_terminal());
    // A second start in one process, as in tests, keeps the first.
    let _ = format.try_init();
}
