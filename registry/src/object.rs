//! One object: what is written down about it and how it is.

use uuid::Uuid;

use crate::{
    list::Facts,
    live::{Live, Phase, State},
    run::Run,
};

/// A kind of object: domains, networks, pools.
pub trait Kind {
    /// What the host keeps in memory of a definition: the whole document, or a summary.
    type Document;
    /// What the host knows of a run.
    type Live;

    /// What libvirt calls such an object, in lower case.
    const NOUN: &'static str;

    /// The name in a document.
    fn name(document: &Self::Document) -> &str;

    /// The UUID of a document.
    fn uuid(document: &Self::Document) -> Uuid;

    /// State and reason of a run that is up.
    fn state(live: &Self::Live) -> State;
}

/// What a run claims to be, where the books say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The UUID in its record, if the record has one and the object has another.
    pub uuid: Option<Uuid>,
    /// The name in its record, if the object has another.
    pub name: Option<String>,
}

/// An object: defined, running, or both.
#[derive(Debug)]
pub struct Object<K: Kind> {
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    pub(crate) definition: Option<K::Document>,
    pub(crate) autostart: bool,
    pub(crate) live: Live<K::Live>,
    pub(crate) managed_save: bool,
    pub(crate) snapshots: u32,
    pub(crate) checkpoints: u32,
    pub(crate) claim: Option<Claim>,
    /// The object was made for a run that could not have the identity it claims.
    pub(crate) stray: bool,
    /// It was found as a run whose own name nobody knew.
    pub(crate) nameless: bool,
}

impl<K: Kind> Object<K> {
    pub(crate) fn new(uuid: Uuid, name: String) -> Object<K> {
        Object {
            uuid,
            name,
            definition: None,
            autostart: false,
            live: Live::off(0),
            managed_save: false,
            snapshots: 0,
            checkpoints: 0,
            claim: None,
            stray: false,
            nameless: false,
        }
    }

    /// Its UUID.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its definition, unless it is transient.
    pub fn definition(&self) -> Option<&K::Document> {
        self.definition.as_ref()
    }

    /// Whether it has a definition.
    pub fn is_persistent(&self) -> bool {
        self.definition.is_some()
    }

    /// Whether it starts with the host.
    pub fn autostart(&self) -> bool {
        self.autostart
    }

    /// Whether a saved image waits for its next start.
    pub fn has_managed_save(&self) -> bool {
        self.managed_save
    }

    /// How many snapshots it has.
    pub fn snapshots(&self) -> u32 {
        self.snapshots
    }

    /// How many checkpoints it has.
    pub fn checkpoints(&self) -> u32 {
        self.checkpoints
    }

    /// Its run and how that is.
    pub fn live(&self) -> &Live<K::Live> {
        &self.live
    }

    /// Whether clients see it as active: it has a run that is not gone, or gets one now.
    pub fn is_active(&self) -> bool {
        self.live.phase() != Phase::Off
    }

    /// Its run, if it has one.
    pub fn run(&self) -> Option<Run> {
        self.live.run()
    }

    /// Its id in handles: the number of its run, or -1.
    pub fn id(&self) -> i32 {
        self.run().map_or(-1, Run::id)
    }

    /// libvirt's state and reason.
    pub fn state(&self) -> State {
        self.live.state(K::state)
    }

    /// What its run claims to be, if that differs from what the object is.
    pub fn claim(&self) -> Option<&Claim> {
        self.claim.as_ref()
    }

    /// Whether it stands for a run that claims an identity which is another's, or which is unknown.
    pub fn is_stray(&self) -> bool {
        self.stray
    }

    /// What filters of lists look at.
    pub fn facts(&self) -> Facts {
        Facts {
            active: self.is_active(),
            persistent: self.is_persistent(),
            autostart: self.autostart,
            managed_save: self.managed_save,
            snapshots: self.snapshots > 0,
            checkpoints: self.checkpoints > 0,
            state: self.state().state,
        }
    }

    /// Whether its run, while it lives, keeps another object of this identity from starting.
    pub(crate) fn claims(&self, uuid: &Uuid, name: &str) -> bool {
        self.claim
            .as_ref()
            .is_some_and(|claim| claim.uuid.as_ref() == Some(uuid) || claim.name.as_deref() == Some(name))
    }
}
