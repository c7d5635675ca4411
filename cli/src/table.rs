//! The table of verbs: what a verb is called, takes, does, prints and promises.
//!
//! A verb is one row, beside the short function that does it, in the file of its group under `commands`. Everything else is
//! made from the rows: the parser ([`crate::parser`]), `bulkhead help` ([`crate::help`]), completion, and by the tests the man
//! page and the tables of `docs/cli.md` (`reference.rs`). A row states its documentation, its JSON form and what a read-only
//! connection does with it, because the fields have no defaults.

use clap::builder::ValueParser;
use libclient::{Connection, Domain};

use crate::commands::{
    agent, change, console, definition, devices, edit, event, host, info, input, lifecycle, list, program, run, save,
    stats, tuning,
};
use crate::error::CliError;
use crate::session::Session;
use crate::shown::Shown;
use crate::values::Values;

/// Verbs that belong together: one section of `help`, of the man page and of `docs/cli.md`.
#[derive(Debug)]
pub(crate) struct Group {
    /// The word for `bulkhead help GROUP`. No verb has it.
    pub(crate) name: &'static str,
    /// The section's heading.
    pub(crate) title: &'static str,
    /// The rows, most used first. A group that has grown lies in several files.
    pub(crate) verbs: &'static [&'static [Verb]],
}

/// The whole table, in the order of `help`.
pub(crate) static GROUPS: &[Group] = &[
    Group { name: "lifecycle", title: "Start and stop guests", verbs: &[run::VERBS, lifecycle::VERBS, save::VERBS] },
    Group { name: "guest", title: "Reach into guests", verbs: &[input::VERBS, agent::VERBS] },
    Group {
        name: "definition",
        title: "Define and change domains",
        verbs: &[definition::VERBS, edit::VERBS, change::VERBS],
    },
    Group {
        name: "monitor",
        title: "Watch domains",
        verbs: &[list::VERBS, info::VERBS, stats::VERBS, tuning::VERBS, devices::VERBS, console::VERBS, event::VERBS],
    },
    Group { name: "host", title: "Show the host and the connection", verbs: &[host::VERBS] },
    Group { name: "program", title: "This program", verbs: &[program::VERBS] },
];

/// One row.
#[derive(Debug)]
pub(crate) struct Verb {
    /// What is typed; virsh's word where virsh has the verb.
    pub(crate) name: &'static str,
    /// Other words for it.
    pub(crate) aliases: &'static [&'static str],
    /// One line for lists.
    pub(crate) about: &'static str,
    /// What else is worth knowing, as paragraphs; examples are indented lines. May be empty.
    pub(crate) details: &'static str,
    /// What it takes: words in their order, and options.
    pub(crate) args: &'static [Arg],
    /// What a read-only connection does with it.
    pub(crate) access: Access,
    /// What `--output json` prints.
    pub(crate) json: Json,
    /// Arguments that work on the mock hypervisor, for the test of every row.
    pub(crate) example: &'static str,
    /// What it does.
    pub(crate) action: Action,
}

impl Verb {
    /// A row that changes nothing and prints one document.
    pub(crate) const fn look(
        name: &'static str,
        about: &'static str,
        args: &'static [Arg],
        shape: &'static str,
        example: &'static str,
        action: Action,
    ) -> Verb {
        Verb {
            name,
            aliases: &[],
            about,
            details: "",
            args,
            access: Access::Look,
            json: Json::Shape(shape),
            example,
            action,
        }
    }
}

/// What a read-only connection does with a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Works: nothing is changed.
    Look,
    /// Is refused: exit code 5.
    Change,
    /// Works as long as nothing is to be changed, and is refused otherwise.
    Both,
    /// Makes no connection.
    Offline,
}

/// What `--output json` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Json {
    /// What was done and to which domain; a list of these if several were named.
    Action,
    /// One document of this shape: `{"key", "key"}` or `[{…}]`.
    Shape(&'static str),
    /// One document of this shape a line.
    Lines(&'static str),
    /// Bytes that are not the program's own: the reason.
    Raw(&'static str),
}

/// Changes one domain.
pub(crate) type DomainCall = fn(&Domain, &Values<'_>) -> Result<(), CliError>;
/// Finds out about one domain.
pub(crate) type DomainQuestion = fn(&Domain, &Values<'_>) -> Result<Shown, CliError>;
/// Finds out about the host or the connection.
pub(crate) type HostQuestion = fn(&Connection, &Values<'_>) -> Result<Shown, CliError>;

/// What a verb does.
#[derive(Debug)]
pub(crate) enum Action {
    /// One call for each domain that is named, and a sentence.
    Each {
        /// The call in `cannot … domain 'x'`.
        what: &'static str,
        /// The call.
        call: DomainCall,
        /// What is said afterwards: the last one whose flag is given.
        done: &'static [Done],
    },
    /// A question about one domain, and the printed answer.
    AskDomain {
        /// The question in `cannot … domain 'x'`.
        what: &'static str,
        /// The question.
        ask: DomainQuestion,
    },
    /// A question about the host or the connection, and the printed answer.
    AskHost {
        /// The question in `cannot …`.
        what: &'static str,
        /// The question.
        ask: HostQuestion,
    },
    /// Anything else.
    Run(fn(&Values<'_>, &mut Session) -> Result<(), CliError>),
}

/// What is said of a domain after a call.
#[derive(Debug)]
pub(crate) struct Done {
    /// The flag that must be given; none for the first one.
    pub(crate) with: Option<&'static str>,
    /// `action` in JSON.
    pub(crate) action: &'static str,
    /// The sentence, behind `Domain 'x'`.
    pub(crate) words: &'static str,
}

impl Done {
    /// A sentence that does not depend on a flag.
    pub(crate) const fn always(action: &'static str, words: &'static str) -> Self {
        Self { with: None, action, words }
    }

    /// What is said with a flag.
    pub(crate) const fn with(flag: &'static str, action: &'static str, words: &'static str) -> Self {
        Self { with: Some(flag), action, words }
    }
}

/// One argument of a verb.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arg {
    /// The long option. A word may be given by this name as well: `--domain web`, as virsh has it.
    pub(crate) name: &'static str,
    /// The letter of a global option.
    pub(crate) short: Option<char>,
    /// How its value is called; empty for a flag.
    pub(crate) value: &'static str,
    /// One line for `help`.
    pub(crate) help: &'static str,
    /// Where it stands.
    pub(crate) place: Place,
    /// Whether it may be left out.
    pub(crate) optional: bool,
    /// Whether several values may be given.
    pub(crate) many: bool,
    /// The bits that a flag sets in the call's `flags`.
    pub(crate) bits: u32,
    /// What it is when it is left out.
    pub(crate) default: Option<&'static str>,
    /// Checks and converts its value; text if there is none.
    pub(crate) parser: Option<fn() -> ValueParser>,
    /// What the shell offers for its value.
    pub(crate) names: Names,
    /// Arguments that must not stand beside it.
    pub(crate) conflicts: &'static [&'static str],
    /// The argument that must stand beside it.
    pub(crate) requires: Option<&'static str>,
    /// Arguments of which at least one must be given, this one among them.
    pub(crate) one_of: &'static [&'static str],
}

/// Where an argument stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In its order, or behind its name.
    Word,
    /// Behind its name.
    Option,
    /// Its name is all.
    Flag,
}

/// What the shell offers for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// What the parser knows by itself.
    Plain,
    /// Every domain.
    Domain,
    /// Domains with a guest.
    Active,
    /// Domains that can be started.
    Inactive,
    /// Domains whose virtual CPUs run.
    Running,
    /// Domains whose virtual CPUs are stopped.
    Paused,
    /// Domains with a definition.
    Persistent,
    /// Disks of the domain in the line.
    Disk,
    /// Network interfaces of the domain in the line.
    Interface,
    /// Consoles of the domain in the line.
    Console,
    /// Files.
    File,
    /// URIs.
    Uri,
    /// Verbs and groups of verbs.
    Verb,
}

impl Arg {
    const fn new(name: &'static str, value: &'static str, help: &'static str, place: Place) -> Self {
        Self {
            name,
            short: None,
            value,
            help,
            place,
            optional: !matches!(place, Place::Word),
            many: false,
            bits: 0,
            default: None,
            parser: None,
            names: Names::Plain,
            conflicts: &[],
            requires: None,
            one_of: &[],
        }
    }

    /// The domain that a verb is about.
    pub(crate) const fn domain(names: Names) -> Self {
        Self::word("domain", "DOMAIN", "Name, UUID or id").of(names)
    }

    /// The domains that a verb is about, one after the other.
    pub(crate) const fn domains(names: Names) -> Self {
        Self::domain(names).many()
    }

    /// A value that stands in its order.
    pub(crate) const fn word(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self::new(name, value, help, Place::Word)
    }

    /// A value behind its name.
    pub(crate) const fn option(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self::new(name, value, help, Place::Option)
    }

    /// A name without a value.
    pub(crate) const fn flag(name: &'static str, help: &'static str) -> Self {
        Self::new(name, "", help, Place::Flag)
    }

    /// A flag that sets bits of the call's `flags`.
    pub(crate) const fn bits(name: &'static str, bits: u32, help: &'static str) -> Self {
        let mut arg = Self::flag(name, help);
        arg.bits = bits;
        arg
    }

    /// May be left out.
    pub(crate) const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// May have several values.
    pub(crate) const fn many(mut self) -> Self {
        self.many = true;
        self
    }

    /// Has a letter.
    pub(crate) const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    /// Has a value when it is left out.
    pub(crate) const fn default(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    /// Has a value of a type of its own.
    pub(crate) const fn parsed(mut self, parser: fn() -> ValueParser) -> Self {
        self.parser = Some(parser);
        self
    }

    /// Has a path for a value, which need not be text.
    pub(crate) const fn path(self) -> Self {
        self.parsed(ValueParser::path_buf).of(Names::File)
    }

    /// Has a value that the shell can complete.
    pub(crate) const fn of(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// Must not stand beside others.
    pub(crate) const fn conflicts(mut self, others: &'static [&'static str]) -> Self {
        self.conflicts = others;
        self
    }

    /// Needs another one beside it.
    pub(crate) const fn requires(mut self, other: &'static str) -> Self {
        self.requires = Some(other);
        self
    }

    /// One of these must be given.
    pub(crate) const fn one_of(mut self, arguments: &'static [&'static str]) -> Self {
        self.one_of = arguments;
        self
    }

    /// Whether a value belongs to it.
    pub(crate) fn takes_value(&self) -> bool {
        self.place != Place::Flag
    }
}

/// Every row.
pub(crate) fn verbs() -> impl Iterator<Item = &'static Verb> {
    GROUPS.iter().flat_map(Group::verbs)
}

/// The row that a word names, by its name or an alias.
pub(crate) fn find(word: &str) -> Option<&'static Verb> {
    verbs().find(|verb| verb.name == word || verb.aliases.contains(&word))
}

impl Group {
    /// The rows of the group.
    pub(crate) fn verbs(&self) -> impl Iterator<Item = &'static Verb> + use<> {
        self.verbs.iter().copied().flatten()
    }
}

impl Verb {
    /// With more documentation.
    pub(crate) const fn details(mut self, details: &'static str) -> Self {
        self.details = details;
        self
    }

    /// With other words than its name in `cannot … domain 'x'`.
    pub(crate) const fn what(mut self, what: &'static str) -> Self {
        if let Action::Each { call, done, .. } = self.action {
            self.action = Action::Each { what, call, done };
        }
        self
    }

    /// Refused on a read-only connection, although it is a question: libvirt counts it among the calls that change something.
    pub(crate) const fn changes(mut self) -> Self {
        self.access = Access::Change;
        self
    }

    /// With another example.
    pub(crate) const fn example(mut self, example: &'static str) -> Self {
        self.example = example;
        self
    }

    /// The words that it takes, in their order.
    pub(crate) fn words(&self) -> impl Iterator<Item = &'static Arg> + use<> {
        self.args.iter().filter(|arg| arg.place == Place::Word)
    }

    /// Does it.
    pub(crate) fn act(&self, values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
        match self.action {
            Action::Run(run) => run(values, session),
            Action::Each { what, call, done } => {
                let said = done.iter().rfind(|done| done.with.is_none_or(|flag| values.flag(flag)));
                session.each(&values.texts("domain"), |session, domain| {
                    call(domain, values).map_err(|error| error.of_domain(what, domain))?;
                    let Some(said) = said else { return Ok(()) };
                    session.acted(said.action, domain, format_args!("Domain '{}' {}", domain.name(), said.words))
                })
            }
            Action::AskDomain { what, ask } => {
                let domain = session.domain(values.need("domain"))?;
                let shown = ask(&domain, values).map_err(|error| error.of_domain(what, &domain))?;
                session.show(&shown)
            }
            Action::AskHost { what, ask } => {
                let shown = ask(&session.connect()?, values).map_err(|error| error.of_host(what))?;
                session.show(&shown)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_word_means_one_verb_or_one_group() {
        let mut seen = BTreeSet::new();
        let words = verbs().flat_map(|verb| verb.aliases.iter().copied().chain([verb.name]));
        for word in words.chain(GROUPS.iter().map(|group| group.name)) {
            assert!(seen.insert(word), "'{word}' is there twice");
        }
    }

    #[test]
    fn every_verb_and_argument_is_documented_in_one_line() {
        for verb in verbs() {
            let one_line = |text: &str| !text.is_empty() && !text.contains('\n') && !text.ends_with('.');
            assert!(one_line(verb.about), "{}", verb.name);
            for arg in verb.args {
                assert!(one_line(arg.help), "{} --{}", verb.name, arg.name);
                assert_eq!(arg.value.is_empty(), arg.place == Place::Flag, "{} --{}", verb.name, arg.name);
            }
        }
    }

    #[test]
    fn a_word_behind_an_optional_one_is_optional_and_only_the_last_one_is_repeated() {
        for verb in verbs() {
            let words: Vec<_> = verb.words().collect();
            for pair in words.windows(2) {
                assert!(!pair[0].optional || pair[1].optional, "{}: {}", verb.name, pair[1].name);
                assert!(!pair[0].many, "{}: {}", verb.name, pair[0].name);
            }
        }
    }

    #[test]
    fn a_verb_that_acts_on_domains_names_them_and_says_so() {
        for verb in verbs() {
            let has_domain = verb.words().any(|arg| arg.name == "domain");
            match verb.action {
                Action::Each { done, .. } => {
                    assert!(has_domain && !done.is_empty() && verb.json == Json::Action, "{}", verb.name);
                }
                Action::AskDomain { .. } => assert!(has_domain, "{}", verb.name),
                Action::AskHost { .. } | Action::Run(_) => {}
            }
        }
    }
}
