//! The arguments of one verb as the parser has found them.

use clap::ArgMatches;

use crate::table::{Place, Verb};

/// The arguments of one verb, by their names in its row.
#[derive(Debug)]
pub(crate) struct Values<'a> {
    verb: &'static Verb,
    matches: &'a ArgMatches,
}

/// The parser's name of a word that was given by its own name.
pub(crate) fn named(word: &str) -> String {
    format!("--{word}")
}

impl<'a> Values<'a> {
    /// The arguments of `verb`.
    pub(crate) fn new(verb: &'static Verb, matches: &'a ArgMatches) -> Self {
        Self { verb, matches }
    }

    /// A value, converted by the parser of its row.
    pub(crate) fn value<T: Clone + Send + Sync + 'static>(&self, name: &str) -> Option<T> {
        let by_name = || self.matches.try_get_one::<T>(&named(name)).ok().flatten();
        self.matches.get_one::<T>(name).or_else(by_name).cloned()
    }

    /// All values of an argument that may have several.
    pub(crate) fn values<T: Clone + Send + Sync + 'static>(&self, name: &str) -> Vec<T> {
        self.matches.get_many::<T>(name).into_iter().flatten().cloned().collect()
    }

    /// A text.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        let by_name = || self.matches.try_get_one::<String>(&named(name)).ok().flatten();
        self.matches.get_one::<String>(name).or_else(by_name).map(String::as_str)
    }

    /// A text that the parser insists on.
    pub(crate) fn need(&self, name: &str) -> &'a str {
        self.text(name).unwrap_or_default()
    }

    /// All texts of an argument that may have several.
    pub(crate) fn texts(&self, name: &str) -> Vec<&'a str> {
        self.matches.get_many::<String>(name).into_iter().flatten().map(String::as_str).collect()
    }

    /// Whether a flag is given.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.matches.get_flag(name)
    }

    /// The bits of all flags that are given.
    pub(crate) fn bits(&self) -> u32 {
        let flags = self.verb.args.iter().filter(|arg| arg.place == Place::Flag && self.flag(arg.name));
        flags.fold(0, |bits, arg| bits | arg.bits)
    }
}
