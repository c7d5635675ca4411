//! The objects of a host and libvirt's rules about them, for every program that hosts some.
//!
//! qemud's control and the test driver each keep a [`Registry`]: objects by UUID, by name and by run, their definitions,
//! autostart, and what is known of their runs. The crate does nothing itself: it opens no file, reads no clock, starts no
//! thread and draws no random number. A method changes the books and returns [`Effect`]s, which the host carries out in
//! its own way; what takes time (writing a definition, launching a guest) happens between a `begin_…` and its `commit_…`,
//! while the [`Ticket`] keeps name and UUID reserved.
//!
//! # Promises
//! - One run per object: an object whose run is not gone is not started again, under whatever name or UUID.
//! - No run is lost: a run is listed as active, keeps its name and UUID reserved and can be destroyed until
//!   [`Registry::gone`], which repeats the launcher's word that its processes are gone. Losing touch with a run makes it
//!   [`Phase::Unknown`], never absent.
//! - Everything about a run is addressed by its [`Run`], so a late word about an old run never touches a newer one.
//! - A used, cancelled or invented ticket is refused, and so is an unknown run. Nothing panics.
//!
//! # Two runs that claim one identity
//! After a restart the launcher reports runs whose records may be odd: two runs with one UUID or name, or a run whose UUID
//! is unknown. [`Registry::adopt`] always takes a run in. The first run that claims a free identity gets it; a later one
//! is filed as a *stray*: an object of its own without a definition, with a UUID made from the run's number and the name
//! `NAME.runN`, so that every client sees it in lists and can destroy it. As long as a stray lives, nothing else of the
//! claimed UUID or name can be started.
//!
//! # Parts
//! [`Live`] is the state machine of one object's run. [`rules`] are libvirt's checks as pure functions: flags, states,
//! what a change affects, sizes, notes. [`list`] filters as libvirt does. [`jobs`] holds what is under way on one object.
//! [`Errors`] turns a [`Refusal`] into libvirt's code and text.
#![forbid(unsafe_code)]

mod effect;
mod error;
pub mod jobs;
pub mod list;
mod live;
mod object;
mod registry;
mod reservation;
pub mod rules;
mod run;

pub use effect::{Effect, Event};
pub use error::{Errors, Kept, Refusal, TransientRefusal};
pub use live::{Live, Phase, State};
pub use object::{Claim, Kind, Object};
pub use registry::{Destroy, Found, Registry, Removing};
pub use reservation::{Reserved, Ticket};
pub use run::Run;
