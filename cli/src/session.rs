//! One run of the program: its global options, its output, and the words that every verb uses.

use std::fmt::Display;
use std::io::{self, Read};
use std::path::Path;

use libclient::{Connection, Domain};
use serde::Serialize;

use crate::args::Global;
use crate::ask::ask;
use crate::error::CliError;
use crate::output::{Output, tell};
use crate::shown::Shown;

/// What a verb has at hand.
pub(crate) struct Session {
    global: Global,
    /// Where results go.
    pub(crate) out: Output,
    /// What was done so far, while several domains are worked on for a program.
    acted: Option<Vec<Acted>>,
}

/// A domain in JSON.
#[derive(Serialize)]
pub(crate) struct DomainJson {
    id: Option<u32>,
    name: String,
    uuid: String,
}

impl DomainJson {
    /// The names of a domain.
    pub(crate) fn of(domain: &Domain) -> Self {
        Self { id: domain.id(), name: domain.name().to_owned(), uuid: domain.uuid().to_string() }
    }
}

/// What a verb did, in JSON.
#[derive(Serialize)]
struct Acted {
    action: &'static str,
    domain: DomainJson,
}

impl Session {
    /// A run with its options.
    pub(crate) fn new(global: Global, out: Output) -> Self {
        Self { global, out, acted: None }
    }

    /// Connects as the global options say.
    pub(crate) fn connect(&self) -> Result<Connection, CliError> {
        let uri = self.global.connect.as_deref().unwrap_or_default();
        let opened = Connection::open_asking(uri, self.global.readonly, ask);
        opened.map_err(|source| CliError::Connect { uri: uri.to_owned(), source })
    }

    /// The URI that was given.
    pub(crate) fn uri(&self) -> Option<&str> {
        self.global.connect.as_deref()
    }

    /// Connects and finds a domain by id, UUID or name.
    pub(crate) fn domain(&self, name: &str) -> Result<Domain, CliError> {
        find(&self.connect()?, name)
    }

    /// Does something with each domain that is named. One that fails does not keep the others from their turn: its error is
    /// shown at once, and the first one decides on the exit code.
    pub(crate) fn each(
        &mut self,
        names: &[&str],
        mut act: impl FnMut(&mut Self, &Domain) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let connection = self.connect()?;
        if let [name] = names {
            return act(self, &find(&connection, name)?);
        }
        self.acted = Some(Vec::new());
        let mut first = None;
        for name in names {
            if let Err(failure) = find(&connection, name).and_then(|domain| act(self, &domain)) {
                self.out.flush()?;
                failure.report(self.global.output);
                first = first.or(Some(failure.kind()));
            }
        }
        let acted = self.acted.take().unwrap_or_default();
        if self.out.is_json() {
            self.out.json(&acted)?;
        }
        first.map_or(Ok(()), |kind| Err(CliError::Reported { kind }))
    }

    /// Prints an answer.
    pub(crate) fn show(&mut self, shown: &Shown) -> Result<(), CliError> {
        Ok(shown.print(&mut self.out)?)
    }

    /// Says on the standard output that something was done: a sentence, or a JSON document.
    pub(crate) fn acted(
        &mut self,
        action: &'static str,
        domain: &Domain,
        sentence: impl Display,
    ) -> Result<(), CliError> {
        if self.out.is_json() {
            let acted = Acted { action, domain: DomainJson::of(domain) };
            match &mut self.acted {
                Some(list) => list.push(acted),
                None => self.out.json(&acted)?,
            }
        } else if !self.global.quiet {
            self.out.line(sentence)?;
        }
        Ok(())
    }

    /// As [`Session::acted`], for what was done with a file.
    pub(crate) fn acted_on_file(&mut self, action: &str, file: &str, sentence: impl Display) -> Result<(), CliError> {
        if self.out.is_json() {
            self.out.json(&serde_json::json!({ "action": action, "file": file }))?;
        } else if !self.global.quiet {
            self.out.line(sentence)?;
        }
        Ok(())
    }

    /// Whether there are notes at all.
    pub(crate) fn has_notes(&self) -> bool {
        !self.global.quiet && !self.out.is_json()
    }

    /// Something the person should know beside the result.
    pub(crate) fn note(&self, text: impl Display) {
        if self.has_notes() {
            tell(text);
        }
    }

    /// Something that may be wrong: told even to those who want no messages.
    pub(crate) fn warn(&self, text: impl Display) {
        tell(format_args!("warning: {text}"));
    }
}

/// Finds a domain by id, UUID or name.
pub(crate) fn find(connection: &Connection, name: &str) -> Result<Domain, CliError> {
    connection.domain(name).map_err(|source| CliError::Find { name: name.to_owned(), source })
}

/// A document from a file, or from the standard input for `-`, and how to call where it came from.
pub(crate) fn read_document(file: &Path, limit: u64) -> Result<(String, String), CliError> {
    let from = if file == Path::new("-") { "the standard input".to_owned() } else { format!("'{}'", file.display()) };
    let text = read_text(file, limit).map_err(|source| CliError::Read { from: from.clone(), source })?;
    match text {
        Some(text) => Ok((text, from)),
        None => Err(CliError::TooLarge { from, limit }),
    }
}

/// The text, or None if there is more of it than `limit`.
fn read_text(file: &Path, limit: u64) -> io::Result<Option<String>> {
    let mut source: Box<dyn Read> =
        if file == Path::new("-") { Box::new(io::stdin().lock()) } else { Box::new(std::fs::File::open(file)?) };
    let mut text = String::new();
    source.by_ref().take(limit.saturating_add(1)).read_to_string(&mut text)?;
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    Ok((length <= limit).then_some(text))
}
