//! The command line of the house: `bulkhead` runs guests and shows them, with virsh's verbs.
//!
//! `cli` stands on `libclient` and on nothing below it: a verb is a few calls of [`libclient::Connection`] and the words
//! around them. It builds and reads documents with `model`. The process has the caller's own rights and asks for no more;
//! it must never
//! - parse what a guest writes: a console's bytes go through untouched,
//! - leave a terminal in raw mode, however it ends,
//! - start a daemon for a completion: pressing Tab only asks one that already runs.
//!
//! # Where things are
//! - `table` says what a verb is. `commands` has the rows and what they do, one file for each group or large verb.
//! - `parser`, `spelling` and `values` take a command line apart by the table, `help` and `complete` explain it, and `reference`
//!   checks that the man page and `docs/cli.md` say what the table says.
//! - `output` is the only place that writes to the standard output, `error` the only one that decides on exit codes.
//! - `attach` copies bytes between a terminal and a console, `terminal` holds the terminal's raw mode.
//!
//! # Exit codes
//! The table is in [`args::EXIT_CODES`], which `--help` prints.
#![forbid(unsafe_code)]

pub mod args;
mod ask;
mod attach;
mod commands;
mod complete;
mod error;
mod help;
mod output;
mod parser;
#[cfg(test)]
mod reference;
mod session;
mod shown;
mod spelling;
mod table;
mod terminal;
mod values;
mod words;

use std::ffi::OsString;
use std::process::ExitCode;

use clap_complete::CompleteEnv;

use crate::args::Format;
use crate::error::CliError;
use crate::output::Output;
use crate::parser::Parsed;
use crate::session::Session;
use crate::values::Values;

/// Runs the program with the process's own arguments and gives its exit code.
#[must_use]
pub fn main() -> ExitCode {
    match CompleteEnv::with_factory(parser::command).bin("bulkhead").try_complete(std::env::args_os(), None) {
        Ok(false) => {}
        // A shell that asks for completions must see neither a message nor a failure of ours.
        Ok(true) | Err(_) => return ExitCode::SUCCESS,
    }
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let format = Format::guess(&arguments);
    match parser::parse(arguments) {
        Ok(parsed) => run(parsed),
        Err(refusal) => ExitCode::from(error::report_usage(&refusal, format)),
    }
}

fn run(parsed: Parsed) -> ExitCode {
    let Parsed { global, verb, matches } = parsed;
    let format = global.output;
    let mut session = Session::new(global, Output::new(format));
    let done =
        verb.act(&Values::new(verb, &matches), &mut session).and_then(|()| session.out.flush().map_err(CliError::from));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // What was printed before the failure belongs before its message.
            let _ = session.out.flush();
            ExitCode::from(failure.report(format))
        }
    }
}
