//! The options that every verb has, and the exit codes.

use std::ffi::OsString;

use clap::builder::EnumValueParser;
use clap::{ArgMatches, ValueEnum};

use crate::table::{Arg, Names};

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

/// What `--help` says of verbs.
pub(crate) const VERBS: &str = "\
'bulkhead help VERB' and 'bulkhead help GROUP' say more. Every argument of a verb has a name as well:
'bulkhead start --domain web' is 'bulkhead start web'.";

/// The variable that stands for `--output`.
pub(crate) const OUTPUT_VARIABLE: &str = "BULKHEAD_OUTPUT";

/// The options that every verb has, as rows like those of the verbs.
pub(crate) static GLOBAL: &[Arg] = &[
    Arg::option(
        "connect",
        "URI",
        "Connection URI: qemu:///system, qemu:///session, test:///default, or one of another host",
    )
    .short('c')
    .of(Names::Uri),
    Arg::flag("readonly", "Connect read-only: every call that changes something is refused").short('r'),
    Arg::option("output", "FORM", "Form of what is printed: 'table', or 'json' for programs")
        .default("table")
        .parsed(|| EnumValueParser::<Format>::new().into()),
    Arg::flag("quiet", "Print results only, no messages").short('q'),
];

/// Options that every verb has.
#[derive(Clone, Debug)]
pub(crate) struct Global {
    pub(crate) connect: Option<String>,
    pub(crate) readonly: bool,
    pub(crate) output: Format,
    pub(crate) quiet: bool,
}

impl Global {
    /// The options of a line.
    pub(crate) fn of(matches: &ArgMatches) -> Self {
        Self {
            connect: matches.get_one("connect").cloned(),
            readonly: matches.get_flag("readonly"),
            output: matches.get_one("output").copied().unwrap_or(Format::Table),
            quiet: matches.get_flag("quiet"),
        }
    }
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
        let mut wanted = std::env::var(OUTPUT_VARIABLE).ok();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_refused_arguments_is_the_last_one_asked_for() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(Format::guess(&words("bulkhead --output json --nope")), Format::Json);
        assert_eq!(Format::guess(&words("bulkhead --output=json list --output table --nope")), Format::Table);
    }
}
