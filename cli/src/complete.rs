//! What the shell offers when Tab is pressed: names of domains in the states that a verb can do something with.
//!
//! Nothing here may be felt: no daemon is started, no message is printed, and every failure is an empty answer.

use std::ffi::OsStr;

use clap_complete::CompletionCandidate;
use libclient::{Connection, ListFlags, XmlFlags};
use roxmltree::Document;

use crate::commands::devices::{devices, disk_name, interface_name};
use crate::table;

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
    candidates(typed, ["qemu:///system", "qemu:///session", "test:///default"].map(|uri| (uri, "")).into_iter())
}

/// Verbs and groups of verbs.
pub(crate) fn verbs(typed: &OsStr) -> Vec<CompletionCandidate> {
    let verbs = table::verbs().map(|verb| (verb.name, verb.about));
    let groups = table::GROUPS.iter().map(|group| (group.name, group.title));
    candidates(typed, verbs.chain(groups))
}

/// Disks of the domain in the line.
pub(crate) fn disks(typed: &OsStr) -> Vec<CompletionCandidate> {
    of_domain(typed, |document| devices(document, "disk").filter_map(disk_name).collect())
}

/// Network interfaces of the domain in the line.
pub(crate) fn interfaces(typed: &OsStr) -> Vec<CompletionCandidate> {
    of_domain(typed, |document| devices(document, "interface").filter_map(interface_name).collect())
}

/// Consoles of the domain in the line.
pub(crate) fn consoles(typed: &OsStr) -> Vec<CompletionCandidate> {
    of_domain(typed, |document| {
        let numbered = |kind| devices(document, kind).enumerate().map(move |(number, _)| format!("{kind}{number}"));
        numbered("serial").chain(numbered("console")).collect()
    })
}

fn candidates<'a>(typed: &OsStr, words: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<CompletionCandidate> {
    let Some(typed) = typed.to_str() else { return Vec::new() };
    words
        .filter(|(word, _)| word.starts_with(typed))
        .map(|(word, help)| {
            CompletionCandidate::new(word)
                .help(Some(help).filter(|help| !help.is_empty()).map(|help| help.to_owned().into()))
        })
        .collect()
}

fn connection() -> Option<Connection> {
    Connection::open_running(&uri_on_the_line(std::env::args())).ok()
}

fn names(typed: &OsStr, flags: ListFlags) -> Vec<CompletionCandidate> {
    let Some(connection) = connection() else { return Vec::new() };
    let Ok(mut records) = connection.domains(flags) else { return Vec::new() };
    records.sort_by(|one, other| one.domain.name().cmp(other.domain.name()));
    candidates(typed, records.iter().map(|record| (record.domain.name(), record.state.name())))
}

/// Names of devices in the document of the first domain that the line names.
fn of_domain(typed: &OsStr, names: impl Fn(&Document<'_>) -> Vec<String>) -> Vec<CompletionCandidate> {
    let Some(connection) = connection() else { return Vec::new() };
    let mut words = std::env::args().skip_while(|word| word != "--").skip(2).filter(|word| !word.is_empty());
    let domain = words.find_map(|word| connection.domain(&word).ok());
    let Some(xml) = domain.and_then(|domain| domain.xml(XmlFlags::empty()).ok()) else { return Vec::new() };
    let Ok(document) = Document::parse(&xml) else { return Vec::new() };
    candidates(typed, names(&document).iter().map(|name| (name.as_str(), "")))
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
