//! The parser, made from the table of verbs.

use clap::builder::ValueParser;
use clap::{ArgAction, ArgGroup, ArgMatches, Command};
use clap_complete::ArgValueCompleter;
use clap_complete::engine::PathCompleter;

use crate::args::{self, EXIT_CODES, GLOBAL, Global, VERBS};
use crate::complete;
use crate::help;
use crate::table::{self, Arg, Names, Place, Verb};
use crate::values::named;

/// What is made of a command line that the parser takes.
pub(crate) struct Parsed {
    /// The options that every verb has.
    pub(crate) global: Global,
    /// The verb.
    pub(crate) verb: &'static Verb,
    /// Its arguments.
    pub(crate) matches: ArgMatches,
}

/// The parser of the whole program.
pub(crate) fn command() -> Command {
    let mut command = Command::new("bulkhead")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Runs and watches virtual machines from the shell")
        .after_help(format!("{VERBS}\n\n{EXIT_CODES}"))
        .help_template(help::template())
        .max_term_width(100)
        .disable_help_subcommand(true)
        .subcommand_required(true)
        .arg_required_else_help(true);
    for global in GLOBAL {
        command = command.arg(global_argument(global));
    }
    command.subcommands(table::verbs().map(row))
}

/// The parser of one verb: its arguments are made when the verb is met, so that a long table costs little at the start.
fn row(verb: &'static Verb) -> Command {
    Command::new(verb.name).about(verb.about).visible_aliases(verb.aliases).defer(|command| {
        match table::find(command.get_name()) {
            Some(verb) => with_arguments(command, verb),
            None => command,
        }
    })
}

fn with_arguments(mut command: Command, verb: &'static Verb) -> Command {
    for arg in verb.args {
        command = command.arg(argument(arg));
        if arg.place == Place::Word {
            command = command.arg(word_by_name(arg));
        }
        if let [first, ..] = arg.one_of
            && *first == arg.name
        {
            command = command.group(ArgGroup::new("one-of").args(arg.one_of).multiple(true).required(true));
        }
    }
    if verb.details.is_empty() { command } else { command.after_help(verb.details) }
}

fn argument(arg: &'static Arg) -> clap::Arg {
    let mut made = clap::Arg::new(arg.name).help(arg.help);
    made = match arg.place {
        Place::Word => made.required(!arg.optional),
        Place::Option => made.long(arg.name),
        Place::Flag => made.long(arg.name).action(ArgAction::SetTrue),
    };
    if arg.takes_value() {
        made = valued(made, arg);
        if arg.many {
            made = made.action(ArgAction::Append);
            made = if arg.place == Place::Word { made.num_args(1..) } else { made };
        }
        if let Some(default) = arg.default {
            made = made.default_value(default);
        }
    }
    if let Some(other) = arg.requires {
        made = made.requires(other);
    }
    made.conflicts_with_all(arg.conflicts)
}

/// A word by its name. The words of a line are put in their order before they are parsed (see `spelling`), so this is for the
/// completion, for a line that lacks a value, and for a word behind one that is left out.
fn word_by_name(arg: &'static Arg) -> clap::Arg {
    let made = clap::Arg::new(named(arg.name)).long(arg.name).hide(true);
    valued(made, arg).action(if arg.many { ArgAction::Append } else { ArgAction::Set })
}

fn valued(made: clap::Arg, arg: &'static Arg) -> clap::Arg {
    let parser = arg.parser.map_or_else(ValueParser::string, |parser| parser());
    let made = made.value_name(arg.value).value_parser(parser);
    match completer(arg.names) {
        Some(completer) => made.add(completer),
        None => made,
    }
}

fn completer(names: Names) -> Option<ArgValueCompleter> {
    Some(match names {
        Names::Plain => return None,
        Names::File => ArgValueCompleter::new(PathCompleter::file()),
        Names::Domain => ArgValueCompleter::new(complete::any_domain),
        Names::Active => ArgValueCompleter::new(complete::active_domain),
        Names::Inactive => ArgValueCompleter::new(complete::inactive_domain),
        Names::Running => ArgValueCompleter::new(complete::running_domain),
        Names::Paused => ArgValueCompleter::new(complete::paused_domain),
        Names::Persistent => ArgValueCompleter::new(complete::persistent_domain),
        Names::Disk => ArgValueCompleter::new(complete::disks),
        Names::Interface => ArgValueCompleter::new(complete::interfaces),
        Names::Console => ArgValueCompleter::new(complete::consoles),
        Names::Uri => ArgValueCompleter::new(complete::uris),
        Names::Verb => ArgValueCompleter::new(complete::verbs),
    })
}

fn global_argument(arg: &'static Arg) -> clap::Arg {
    let mut made = argument(arg).global(true).help_heading("Global options");
    if let Some(short) = arg.short {
        made = made.short(short);
    }
    if arg.name == "output" {
        // Its values are in its help.
        made = made.env(args::OUTPUT_VARIABLE).hide_default_value(true).hide_env(true).hide_possible_values(true);
    }
    made
}

/// Takes a command line apart.
pub(crate) fn parse(arguments: Vec<std::ffi::OsString>) -> Result<Parsed, clap::Error> {
    let mut command = command();
    let mut matches = command.try_get_matches_from_mut(crate::spelling::in_order(arguments))?;
    let global = Global::of(&matches);
    let found = matches.remove_subcommand().and_then(|(name, matches)| Some((table::find(&name)?, matches)));
    match found {
        Some((verb, matches)) => Ok(Parsed { global, verb, matches }),
        None => Err(command.error(clap::error::ErrorKind::MissingSubcommand, "no verb is given")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        let mut command = command();
        command.build();
        command.debug_assert();
    }
}
