//! Where the gateway's log goes: standard error, which all of its processes share.
//!
//! Nothing here needs more of the kernel than a clock that the vDSO reads and a write, so the leaves' filters have no line
//! for it.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging. `RUST_LOG` chooses what is logged; without it, everything from `info` up.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let format = format.with_ansi(std::io::stderr().is_terminal());
    // A second start in one process, as in tests, keeps the first.
    let _ = format.try_init();
}
