//! What the shell offers when Tab is pressed: names of domains in the states that a verb can do something with.
//!
//! Nothing here may be felt: no daemon is started, no message is printed, and every failure is an empty answer.

use std::ffi::OsStr;

use clap_complete::CompletionCandidate;
use libclient::{Connection, ListFlags};

/// Every domain.
pub(crate) fn any_domain(typed: &OsStr) -> Vec<CompletionCandidate> {
    names(typed, ListFlags::empty())
}

/// Domains with a guest behind them.
pub(crate) fn active_domain(typed: &OsStr) -> Vec<CompletionCandidate> {
    names(typed, ListFlags::ACTIVE)
}

/// Domains that can be started.
pub(crate) fn inactive_domain(typed: &OsStr) -> Vec<CompletionCandidate> {
    names(typed, ListFlags::INACTIVE)
}

/// Domains whose virtual CPUs run.
pub(crate) fn running_domain(typed: &OsStr) -> Vec<CompletionCandidate> {
    names(typed, ListFlags::RUNNING)
}

/// Domains whose virtual CPUs are stopped.
pub(crate) fn paused_domain(typed: &OsStr) -> Vec<CompletionCandidate> {
    names(typed, ListFlags::PAUSED)
}

/// Domains with a definition.
pub(crate) fn persistent_domain(typed: &OsStr) -> Vec<CompletionCandidate> {
    names(typed, ListFlags::PERSISTENT)
}

/// The URIs that need no more words.
pub(crate) fn uris(typed: &OsStr) -> Vec<CompletionCandidate> {
    ["qemu:///system", "qemu:///session", "test:///default"]
        .into_iter()
        .filter(|uri| typed.to_str().is_some_and(|typed| uri.starts_with(typed)))
        .map(CompletionCandidate::new)
        .collect()
}

fn names(typed: &OsStr, flags: ListFlags) -> Vec<CompletionCandidate> {
    let Some(typed) = typed.to_str() else { return Vec::new() };
    let uri = uri_on_the_line(std::env::args());
    let Ok(connection) = Connection::open_running(&uri) else { return Vec::new() };
    let Ok(mut records) = connection.domains(flags) else { return Vec::new() };
    records.sort_by(|one, other| one.domain.name().cmp(other.domain.name()));
    records
        .iter()
        .filter(|record| record.domain.name().starts_with(typed))
        .map(|record| CompletionCandidate::new(record.domain.name()).help(Some(record.state.name().into())))
        .collect()
}

/// The URI in the line that is being completed: it stands behind `--` in the arguments of the completer.
fn uri_on_the_line(arguments: impl Iterator<Item = String>) -> String {
    let mut line = arguments.skip_while(|word| word != "--").skip(1);
    let mut uri = String::new();
    while let Some(word) = line.next() {
        if word == "-c" || word == "--connect" {
            uri = line.next().unwrap_or_default();
        } else if let Some(value) = word.strip_prefix("--connect=").or_else(|| word.strip_prefix("-c")) {
            uri = value.to_owned();
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uri_of_the_typed_line_is_the_one_that_is_asked() {
        let uri = |line: &str| uri_on_the_line(line.split(' ').map(str::to_owned));
        assert_eq!(uri("bulkhead -- bulkhead -c test:///default start"), "test:///default");
        assert_eq!(uri("bulkhead -- bulkhead start --connect=qemu:///session w"), "qemu:///session");
        assert_eq!(uri("bulkhead -- bulkhead -ctest:///default start"), "test:///default");
        assert_eq!(uri("bulkhead -- bulkhead start w"), "");
    }
}
