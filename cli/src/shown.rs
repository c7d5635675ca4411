//! An answer in its two forms: for people and for programs.

use std::fmt;
use std::io;

use serde::Serialize;
use serde_json::Value;

use crate::output::Output;

/// An answer that can be printed.
pub(crate) struct Shown {
    json: Box<dyn Document>,
    text: Text,
}

/// The form for people.
#[derive(Debug)]
pub(crate) enum Text {
    /// One line.
    Line(String),
    /// Lines as they are.
    Lines(String),
    /// `Key:  value` lines.
    Pairs(Vec<(String, String)>),
    /// `key value` lines, as virsh prints statistics.
    Figures(Vec<(String, String)>),
    /// A table under heads.
    Table(&'static [&'static str], Vec<Vec<String>>),
}

/// The form for programs.
trait Document {
    fn write(&self, out: &mut Output) -> io::Result<()>;
}

impl<T: Serialize> Document for T {
    fn write(&self, out: &mut Output) -> io::Result<()> {
        out.json(self)
    }
}

impl Shown {
    /// An answer in both forms.
    pub(crate) fn new(json: impl Serialize + 'static, text: Text) -> Self {
        Self { json: Box::new(json), text }
    }

    /// One value that has a name for programs only.
    pub(crate) fn one(key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let line = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Self::new(serde_json::json!({ key: value }), Text::Line(line))
    }

    /// A document.
    pub(crate) fn xml(xml: String) -> Self {
        Self::new(serde_json::json!({ "xml": xml }), Text::Lines(xml))
    }

    /// Pairs with constant keys.
    pub(crate) fn pairs<const N: usize>(json: impl Serialize + 'static, pairs: [(&str, String); N]) -> Self {
        let pairs = pairs.into_iter().map(|(key, value)| (key.to_owned(), value));
        Self::new(json, Text::Pairs(pairs.collect()))
    }

    /// Figures that are the same for people and programs.
    pub(crate) fn figures(figures: Vec<(String, Value)>) -> Self {
        let lines = figures.iter().map(|(key, value)| (key.clone(), plain(value))).collect();
        Self::new(figures.into_iter().collect::<serde_json::Map<_, _>>(), Text::Figures(lines))
    }

    /// Prints the form that is wanted.
    pub(crate) fn print(&self, out: &mut Output) -> io::Result<()> {
        if out.is_json() {
            return self.json.write(out);
        }
        match &self.text {
            Text::Line(line) => out.line(line),
            Text::Lines(text) => out.text(text),
            Text::Pairs(pairs) => out.pairs(pairs),
            Text::Figures(figures) => {
                figures.iter().try_for_each(|(key, value)| out.line(format_args!("{key} {value}")))
            }
            Text::Table(heads, rows) => out.table(heads, rows),
        }
    }
}

/// A value without JSON's quotes.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}
