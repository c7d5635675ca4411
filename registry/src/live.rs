//! The run of one object, from the wish to start it until its processes are gone.
//!
//! ```text
//!        begin            launched         started
//!  Off ────────► Starting ────────► Starting(run) ────────► On ◄───── found again ───── Unknown
//!   ▲   cancel      │                    │ failed            │  └────── out of touch ──────► │
//!   │◄──────────────┘                    ▼                   ▼ stopped, being destroyed      │
//!   └──────────────────── gone ─────── Ending ◄──────────────┴───────────────────────────────┘
//! ```
//!
//! `gone` leads to `Off` from every phase that has a run, and nothing else does.

use api::consts::{DomainState, ShutdownReason};

use crate::{reservation::Ticket, run::Run};

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// There is none.
    Off,
    /// It is being started; it may not have a number yet.
    Starting,
    /// It is up.
    On,
    /// It has stopped or is being ended; some process of it may still live.
    Ending,
    /// It may well run, but nobody here knows how it is.
    Unknown,
}

/// libvirt's state and the reason for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// What it is doing.
    pub state: DomainState,
    /// libvirt's number of why.
    pub reason: i32,
}

impl State {
    /// A state and its reason.
    pub fn new(state: DomainState, reason: impl Into<i32>) -> State {
        State { state, reason: reason.into() }
    }

    /// What is said of a run about which nothing is known.
    pub const UNKNOWN: State = State { state: DomainState::NoState, reason: 0 };
}

/// The run of one object. Its phases change only by the registry's methods.
#[derive(Debug)]
pub struct Live<T> {
    inner: Inner<T>,
    /// Why the last run ended: libvirt's number. It is the reason of "shut off".
    last_stop: i32,
    /// The event of this run's start is out.
    start_reported: bool,
    /// And that of its end.
    stop_reported: bool,
}

#[derive(Debug)]
enum Inner<T> {
    Off,
    Starting {
        ticket: Ticket,
        run: Option<Run>,
        live: T,
    },
    On(Run, T),
    /// A run that was found again may end before anything is known of it.
    Ending(Run, Option<T>),
    Unknown(Run, Option<T>),
}

impl<T> Live<T> {
    pub(crate) fn off(last_stop: i32) -> Live<T> {
        Live { inner: Inner::Off, last_stop, start_reported: false, stop_reported: false }
    }

    /// How far the run has come.
    pub fn phase(&self) -> Phase {
        match &self.inner {
            Inner::Off => Phase::Off,
            Inner::Starting { .. } => Phase::Starting,
            Inner::On(..) => Phase::On,
            Inner::Ending(..) => Phase::Ending,
            Inner::Unknown(..) => Phase::Unknown,
        }
    }

    /// The run, once it has a number.
    pub fn run(&self) -> Option<Run> {
        match &self.inner {
            Inner::Off => None,
            Inner::Starting { run, .. } => *run,
            Inner::On(run, _) | Inner::Ending(run, _) | Inner::Unknown(run, _) => Some(*run),
        }
    }

    /// The ticket of a start that has no run yet.
    pub fn ticket(&self) -> Option<Ticket> {
        match &self.inner {
            Inner::Starting { ticket, run: None, .. } => Some(*ticket),
            _ => None,
        }
    }

    /// What the host knows of the run.
    pub fn get(&self) -> Option<&T> {
        match &self.inner {
            Inner::Off => None,
            Inner::Starting { live, .. } | Inner::On(_, live) => Some(live),
            Inner::Ending(_, live) | Inner::Unknown(_, live) => live.as_ref(),
        }
    }

    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        match &mut self.inner {
            Inner::Off => None,
            Inner::Starting { live, .. } | Inner::On(_, live) => Some(live),
            Inner::Ending(_, live) | Inner::Unknown(_, live) => live.as_mut(),
        }
    }

    /// The same, but only of a run that is up.
    pub fn on(&self) -> Option<&T> {
        match &self.inner {
            Inner::On(_, live) => Some(live),
            _ => None,
        }
    }

    /// Why the last run ended: libvirt's number.
    pub fn last_stop(&self) -> i32 {
        self.last_stop
    }

    /// State and reason, as clients see them.
    pub(crate) fn state(&self, of: impl FnOnce(&T) -> State) -> State {
        match &self.inner {
            Inner::Off => State { state: DomainState::Shutoff, reason: self.last_stop },
            Inner::On(_, live) => of(live),
            Inner::Ending(..) => State::new(DomainState::Shutdown, ShutdownReason::Unknown),
            Inner::Starting { .. } | Inner::Unknown(..) => State::UNKNOWN,
        }
    }

    pub(crate) fn set_last_stop(&mut self, reason: i32) {
        if self.phase() == Phase::Off {
            self.last_stop = reason;
        }
    }

    // The transitions. Each one that has nothing to do says so by `false` or `None`.

    pub(crate) fn begin(&mut self, ticket: Ticket, live: T) -> bool {
        if self.phase() != Phase::Off {
            return false;
        }
        self.inner = Inner::Starting { ticket, run: None, live };
        (self.start_reported, self.stop_reported) = (false, false);
        true
    }

    /// Takes a start back that has no run.
    pub(crate) fn cancel(&mut self) -> bool {
        let cancelled = self.ticket().is_some();
        if cancelled {
            self.inner = Inner::Off;
        }
        cancelled
    }

    pub(crate) fn launched(&mut self, new: Run) -> bool {
        match &mut self.inner {
            Inner::Starting { run: run @ None, .. } => {
                *run = Some(new);
                true
            }
            _ => false,
        }
    }

    /// Takes in a run that was there already.
    pub(crate) fn adopt(&mut self, run: Run, live: Option<T>) -> bool {
        if self.phase() != Phase::Off {
            return false;
        }
        self.inner = match live {
            Some(live) => Inner::On(run, live),
            None => Inner::Unknown(run, None),
        };
        (self.start_reported, self.stop_reported) = (true, false);
        true
    }

    /// The run is up, or heard of again. Says whether that is so, and whether its start is news.
    pub(crate) fn up(&mut self, live: T) -> Option<bool> {
        let run = match &self.inner {
            Inner::Starting { run: Some(run), .. } | Inner::Unknown(run, _) | Inner::On(run, _) => *run,
            _ => return None,
        };
        self.inner = Inner::On(run, live);
        Some(!std::mem::replace(&mut self.start_reported, true))
    }

    /// Nobody can tell how the run is.
    pub(crate) fn unknown(&mut self) {
        self.inner = match std::mem::replace(&mut self.inner, Inner::Off) {
            Inner::On(run, live) | Inner::Starting { run: Some(run), live, .. } => Inner::Unknown(run, Some(live)),
            // What is ending is not waited for by anybody who could be told how it is.
            other => other,
        };
    }

    /// The run that was being ended cannot be.
    pub(crate) fn not_ended(&mut self) {
        self.inner = match std::mem::replace(&mut self.inner, Inner::Off) {
            Inner::Ending(run, live) => Inner::Unknown(run, live),
            other => other,
        };
    }

    /// The run is being ended, or has stopped.
    pub(crate) fn ending(&mut self) {
        self.inner = match std::mem::replace(&mut self.inner, Inner::Off) {
            Inner::On(run, live) | Inner::Starting { run: Some(run), live, .. } => Inner::Ending(run, Some(live)),
            Inner::Unknown(run, live) => Inner::Ending(run, live),
            other => other,
        };
    }

    /// The run has stopped, for this reason. Says whether that is news: a start that failed is no stop.
    pub(crate) fn stopped(&mut self, reason: i32) -> bool {
        self.ending();
        if std::mem::replace(&mut self.stop_reported, true) {
            return false;
        }
        self.last_stop = reason;
        self.start_reported
    }

    /// The run's processes are gone: the only way to leave a run.
    pub(crate) fn gone(&mut self) -> Option<T> {
        match std::mem::replace(&mut self.inner, Inner::Off) {
            Inner::Off => None,
            Inner::Starting { live, .. } | Inner::On(_, live) => Some(live),
            Inner::Ending(_, live) | Inner::Unknown(_, live) => live,
        }
    }
}
