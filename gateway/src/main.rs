//! The program `gateway`: a thin front of the crate's library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    gateway::main()
}
