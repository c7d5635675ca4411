//! The verbs: rows of the table beside the functions that they name, one file for each group or large verb.

pub(crate) mod agent;
pub(crate) mod change;
pub(crate) mod console;
pub(crate) mod definition;
pub(crate) mod devices;
pub(crate) mod edit;
pub(crate) mod event;
pub(crate) mod gateway;
pub(crate) mod host;
pub(crate) mod info;
pub(crate) mod input;
pub(crate) mod lifecycle;
pub(crate) mod list;
pub(crate) mod program;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod stats;
pub(crate) mod tuning;

use libclient::Domain;
use libclient::api::remote;

/// The JSON form of a document.
pub(crate) const XML: &str = "{\"xml\"}";

/// A domain as a call takes it that `libclient` has no method for.
pub(crate) fn dom(domain: &Domain) -> remote::Domain {
    let id = domain.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(-1);
    remote::Domain { name: domain.name().to_owned(), uuid: domain.uuid().into_bytes(), id }
}
