//! A kind of object for tests: its documents are a name and a UUID.
#![allow(dead_code)] // Each test program uses its part.

use api::consts::DomainState;
use registry::{Effect, Kind, Registry, State, Ticket};
use uuid::Uuid;

/// A document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doc {
    pub name: String,
    pub uuid: Uuid,
}

/// What these tests know of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Up(pub DomainState);

/// The kind.
#[derive(Debug)]
pub struct Thing;

impl Kind for Thing {
    type Document = Doc;
    type Live = Up;
    const NOUN: &'static str = "domain";

    fn name(document: &Doc) -> &str {
        &document.name
    }

    fn uuid(document: &Doc) -> Uuid {
        document.uuid
    }

    fn state(live: &Up) -> State {
        State::new(live.0, 1)
    }
}

pub const UP: Up = Up(DomainState::Running);

pub fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

pub fn doc(name: &str, number: u128) -> Doc {
    Doc { name: name.into(), uuid: uuid(number) }
}

pub fn define(registry: &mut Registry<Thing>, name: &str, number: u128) -> Vec<Effect> {
    let ticket: Ticket = registry.begin_define(name, uuid(number)).unwrap();
    registry.commit_define(ticket, doc(name, number)).unwrap()
}
