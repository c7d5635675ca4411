//! virsh's second spelling: `--domain web` for the word `web`, for every word that a verb takes.
//!
//! A line that has one is put in order before it is parsed: the words that are given by name take their places, and the
//! others fill the places that are left, as virsh does it. A line without one is not touched.

use std::ffi::{OsStr, OsString};

use crate::args::GLOBAL;
use crate::table::{self, Arg, Verb};

/// The same line with its words in the order of the verb's row.
pub(crate) fn in_order(arguments: Vec<OsString>) -> Vec<OsString> {
    let Some((at, verb)) = verb_of(&arguments) else { return arguments };
    let (head, tail) = arguments.split_at(at + 1);
    match Line::read(verb, tail) {
        Some(line) if !line.named.is_empty() => head.iter().cloned().chain(line.ordered(verb)).collect(),
        _ => arguments,
    }
}

/// Where the verb stands, and which one it is.
fn verb_of(arguments: &[OsString]) -> Option<(usize, &'static Verb)> {
    let mut words = arguments.iter().enumerate().skip(1);
    while let Some((at, word)) = words.next() {
        let word = word.to_str()?;
        if !word.starts_with('-') {
            return Some((at, table::find(word)?));
        }
        if GLOBAL.iter().any(|arg| arg.takes_value() && is_written(arg, word)) {
            words.next();
        }
    }
    None
}

/// Whether a word is the option itself, with its value in the next word.
fn is_written(arg: &Arg, word: &str) -> bool {
    word.strip_prefix("--") == Some(arg.name)
        || word.strip_prefix('-').is_some_and(|letter| arg.short.is_some_and(|short| letter == short.to_string()))
}

/// What stands behind a verb, sorted.
#[derive(Default)]
struct Line {
    named: Vec<(&'static Arg, OsString)>,
    options: Vec<OsString>,
    bare: Vec<OsString>,
}

impl Line {
    /// Sorts the words; None if one lacks its value, which the parser will say.
    fn read(verb: &'static Verb, tail: &[OsString]) -> Option<Self> {
        let mut line = Self::default();
        let mut words = tail.iter();
        while let Some(word) = words.next() {
            let text = word.to_str().unwrap_or_default();
            if text == "--" {
                line.bare.extend(words.by_ref().cloned());
            } else if let Some((arg, value)) = named_word(verb, text) {
                let value = value.map(OsString::from).or_else(|| words.next().cloned())?;
                line.named.push((arg, value));
            } else if text.len() > 1 && text.starts_with('-') {
                line.options.push(word.clone());
                if verb.args.iter().chain(GLOBAL).any(|arg| arg.takes_value() && is_written(arg, text)) {
                    line.options.extend(words.next().cloned());
                }
            } else {
                line.bare.push(word.clone());
            }
        }
        Some(line)
    }

    /// The words in the verb's order behind its options. A word behind one that is left out keeps its name.
    fn ordered(self, verb: &'static Verb) -> Vec<OsString> {
        let mut line = self.options;
        let mut words = Vec::new();
        let mut bare = self.bare.into_iter();
        let mut gap = false;
        for arg in verb.words() {
            let named = self.named.iter().filter(|(word, _)| word.name == arg.name).map(|(_, value)| value.clone());
            let mut values: Vec<_> = named.collect();
            if arg.many {
                values.extend(bare.by_ref());
            } else if values.is_empty() {
                values.extend(bare.next());
            }
            if gap {
                line.extend(values.iter().map(|value| joined(arg.name, value)));
            } else {
                gap = values.is_empty();
                words.extend(values);
            }
        }
        line.push("--".into());
        line.extend(words);
        line.extend(bare);
        line
    }
}

fn joined(name: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(format!("--{name}="));
    word.push(value);
    word
}

/// The word of the verb that `text` names, and its value if that is joined to it.
fn named_word<'a>(verb: &'static Verb, text: &'a str) -> Option<(&'static Arg, Option<&'a str>)> {
    let text = text.strip_prefix("--")?;
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    verb.words().find(|arg| arg.name == name).map(|arg| (arg, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(line: &str) -> String {
        let words = in_order(line.split(' ').map(OsString::from).collect());
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_line_without_names_is_not_touched() {
        for line in ["bulkhead start web -q", "bulkhead list --all", "bulkhead nope --domain x", "bulkhead --domain x"]
        {
            assert_eq!(ordered(line), line);
        }
    }

    #[test]
    fn a_named_word_takes_its_place() {
        assert_eq!(ordered("bulkhead start --domain web --paused"), "bulkhead start --paused -- web");
        assert_eq!(ordered("bulkhead -c u start --domain=web"), "bulkhead -c u start -- web");
        assert_eq!(ordered("bulkhead start --output json --domain a b"), "bulkhead start --output json -- a b");
        assert_eq!(ordered("bulkhead define --file x.xml"), "bulkhead define -- x.xml");
    }

    #[test]
    fn a_word_behind_one_that_is_left_out_keeps_its_name() {
        assert_eq!(ordered("bulkhead domxml-to-native argv --xml x"), "bulkhead domxml-to-native --xml=x -- argv");
        assert_eq!(ordered("bulkhead domcapabilities --arch x kvm"), "bulkhead domcapabilities --arch=x -- kvm");
        assert_eq!(ordered("bulkhead domxml-to-native --format argv x"), "bulkhead domxml-to-native -- argv x");
    }

    #[test]
    fn a_value_that_looks_like_a_name_is_a_value() {
        assert_eq!(ordered("bulkhead start --domain --domain"), "bulkhead start -- --domain");
    }

    #[test]
    fn a_name_without_its_value_is_left_to_the_parser() {
        assert_eq!(ordered("bulkhead start --domain"), "bulkhead start --domain");
    }
}
