//! What the parser knows: the options that every verb has, and the verbs.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::ArgValueCompleter;

use crate::commands::{completions, console, definition, event, gateway, host, info, lifecycle, list, run};
use crate::complete;
use crate::error::CliError;
use crate::session::Session;

/// The exit codes of every verb, as `--help` prints them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the operation failed
  2  usage: unknown verb or option, bad value
  3  not found: there is no such domain
  4  cannot connect
  5  refused: read-only connection, or no permission
  6  the deadline passed

Environment:
  BULKHEAD_URI     the connection when -c is not given; then LIBVIRT_DEFAULT_URI
  BULKHEAD_OUTPUT  'table' or 'json' when --output is not given
  BULKHEAD_ROOT    directory that holds all files of another instance";

/// Runs and watches virtual machines from the shell.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, about = "Runs and watches virtual machines from the shell", long_about = None)]
#[command(after_help = EXIT_CODES, propagate_version = false, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every verb has.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Connection URI: qemu:///system, qemu:///session, test:///default, or one of another host
    #[arg(short, long, global = true, value_name = "URI")]
    #[arg(add = ArgValueCompleter::new(complete::uris))]
    pub(crate) connect: Option<String>,
    /// Connect read-only: every call that changes something is refused
    #[arg(short, long, global = true)]
    pub(crate) readonly: bool,
    /// Form of what is printed: 'table', or 'json' for programs
    #[arg(long, global = true, value_enum, value_name = "FORM", env = "BULKHEAD_OUTPUT")]
    #[arg(default_value = "table", hide_default_value = true, hide_env = true, hide_possible_values = true)]
    pub(crate) output: Format,
    /// Print results only, no messages
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// Form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // For people: aligned text.
    Table,
    // For programs: one JSON document, or one a line for events.
    Json,
}

impl Format {
    /// The form that arguments ask for that the parser has refused: an error about them must have that form too.
    pub(crate) fn guess(arguments: &[OsString]) -> Self {
        let mut wanted = std::env::var("BULKHEAD_OUTPUT").ok();
        let mut words = arguments.iter().filter_map(|word| word.to_str());
        while let Some(word) = words.next() {
            if word == "--output" {
                wanted = words.next().map(str::to_owned);
            } else if let Some(value) = word.strip_prefix("--output=") {
                wanted = Some(value.to_owned());
            }
        }
        if wanted.as_deref() == Some("json") { Self::Json } else { Self::Table }
    }
}

/// The verbs, in the order that `--help` lists them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(run::Run),
    List(list::List),
    Define(definition::Define),
    Undefine(definition::Undefine),
    Create(definition::Create),
    Start(lifecycle::Start),
    Suspend(lifecycle::Suspend),
    Resume(lifecycle::Resume),
    Shutdown(lifecycle::Shutdown),
    Reboot(lifecycle::Reboot),
    Reset(lifecycle::Reset),
    Destroy(lifecycle::Destroy),
    Autostart(lifecycle::Autostart),
    Console(console::Console),
    Event(event::Event),
    Dominfo(info::Dominfo),
    Domstate(info::Domstate),
    Domid(info::Domid),
    Domuuid(info::Domuuid),
    Domname(info::Domname),
    Dumpxml(definition::Dumpxml),
    Nodeinfo(host::Nodeinfo),
    Capabilities(host::Capabilities),
    Hostname(host::Hostname),
    Version(host::Version),
    Uri(host::Uri),
    Gateway(gateway::Gateway),
    Completions(completions::Completions),
}

impl Command {
    /// Does what the verb says.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        match self {
            Self::Run(verb) => verb.run(session),
            Self::List(verb) => verb.run(session),
            Self::Define(verb) => verb.run(session),
            Self::Undefine(verb) => verb.run(session),
            Self::Create(verb) => verb.run(session),
            Self::Start(verb) => verb.run(session),
            Self::Suspend(verb) => verb.run(session),
            Self::Resume(verb) => verb.run(session),
            Self::Shutdown(verb) => verb.run(session),
            Self::Reboot(verb) => verb.run(session),
            Self::Reset(verb) => verb.run(session),
            Self::Destroy(verb) => verb.run(session),
            Self::Autostart(verb) => verb.run(session),
            Self::Console(verb) => verb.run(session),
            Self::Event(verb) => verb.run(session),
            Self::Dominfo(verb) => verb.run(session),
            Self::Domstate(verb) => verb.run(session),
            Self::Domid(verb) => verb.run(session),
            Self::Domuuid(verb) => verb.run(session),
            Self::Domname(verb) => verb.run(session),
            Self::Dumpxml(verb) => verb.run(session),
            Self::Nodeinfo(verb) => verb.run(session),
            Self::Capabilities(verb) => verb.run(session),
            Self::Hostname(verb) => verb.run(session),
            Self::Version(verb) => verb.run(session),
            Self::Uri(verb) => verb.run(session),
            Self::Gateway(verb) => verb.run(session),
            Self::Completions(verb) => verb.run(session),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_form_of_refused_arguments_is_the_last_one_asked_for() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(Format::guess(&words("bulkhead --output json --nope")), Format::Json);
        assert_eq!(Format::guess(&words("bulkhead --output=json list --output table --nope")), Format::Table);
    }
}
