//! What a change in the books means for the world outside.

use api::consts::LifecycleEvent;
use uuid::Uuid;

use crate::run::Run;

/// Something that the host does after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Report an event. The registry returns each event of a run once, so a host whose runs number their own events may
    /// report those instead.
    Event(Event),
    /// The run's processes are gone: drop its link, its jobs, its disks and its record.
    RunGone {
        /// The run.
        run: Run,
        /// The object that it belonged to.
        uuid: Uuid,
    },
    /// The object neither runs nor is defined any more: drop whatever else is kept under its UUID.
    Forgotten {
        /// Which it was.
        uuid: Uuid,
        /// Its last name.
        name: String,
    },
}

/// A life-cycle event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The object.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// The run, if it has one.
    pub run: Option<Run>,
    /// What happened.
    pub event: LifecycleEvent,
    /// libvirt's detail of that event.
    pub detail: i32,
}
