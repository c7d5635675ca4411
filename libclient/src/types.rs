//! What a domain can be, what can happen to it, and what is known of a host.

use std::{fmt, time::Duration, time::SystemTime};

use api::{
    consts::{self, DomainState, LifecycleEvent},
    notice::Notice,
};

use crate::Domain;

/// What a domain is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Nothing is known.
    NoState,
    /// Its virtual CPUs run.
    Running,
    /// It waits for a resource of the host.
    Blocked,
    /// Its virtual CPUs are stopped.
    Paused,
    /// It is shutting itself down.
    Shutdown,
    /// It is off.
    Shutoff,
    /// Its kernel gave up.
    Crashed,
    /// It sleeps.
    PmSuspended,
    /// A state that this build has no name for.
    Other(i32),
}

/// Every state by libvirt's number.
const STATES: [State; 8] = [
    State::NoState,
    State::Running,
    State::Blocked,
    State::Paused,
    State::Shutdown,
    State::Shutoff,
    State::Crashed,
    State::PmSuspended,
];

fn nth<T: Copy>(table: &[T], number: i32) -> Option<T> {
    usize::try_from(number).ok().and_then(|index| table.get(index)).copied()
}

impl State {
    /// The state of libvirt's number.
    #[must_use]
    pub fn from_number(number: i32) -> State {
        nth(&STATES, number).unwrap_or(State::Other(number))
    }

    /// libvirt's number of the state.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            State::NoState => 0,
            State::Running => 1,
            State::Blocked => 2,
            State::Paused => 3,
            State::Shutdown => 4,
            State::Shutoff => 5,
            State::Crashed => 6,
            State::PmSuspended => 7,
            State::Other(number) => number,
        }
    }

    /// The word that virsh prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        DomainState::try_from(self.number()).map_or("unknown", DomainState::name)
    }

    /// Whether there is a running guest behind the domain.
    #[must_use]
    pub fn is_active(self) -> bool {
        !matches!(self, State::Shutoff | State::NoState)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a domain is in its state. Each state has reasons of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    state: State,
    number: i32,
}

impl Reason {
    /// The reason of libvirt's number within a state.
    #[must_use]
    pub fn new(state: State, number: i32) -> Reason {
        Reason { state, number }
    }

    /// libvirt's number, which means something together with the state only.
    #[must_use]
    pub fn number(self) -> i32 {
        self.number
    }

    /// The state it is a reason of.
    #[must_use]
    pub fn state(self) -> State {
        self.state
    }

    /// The words that virsh prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        consts::reason_name(self.state.number(), self.number)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What happened to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// It got a definition, or another one.
    Defined,
    /// It lost its definition.
    Undefined,
    /// It started.
    Started,
    /// Its virtual CPUs were stopped.
    Suspended,
    /// Its virtual CPUs run again.
    Resumed,
    /// It is off.
    Stopped,
    /// The guest has shut itself down; its end follows.
    Shutdown,
    /// It went to sleep.
    PmSuspended,
    /// Its kernel gave up.
    Crashed,
    /// Something else than a change of its life: [`DomainEvent::notice`] says what.
    Notice,
    /// A kind that this build has no name for.
    Other(i32),
}

/// Every kind by libvirt's number.
const EVENTS: [EventKind; 9] = [
    EventKind::Defined,
    EventKind::Undefined,
    EventKind::Started,
    EventKind::Suspended,
    EventKind::Resumed,
    EventKind::Stopped,
    EventKind::Shutdown,
    EventKind::PmSuspended,
    EventKind::Crashed,
];

impl EventKind {
    /// The kind of libvirt's number.
    #[must_use]
    pub fn from_number(number: i32) -> EventKind {
        nth(&EVENTS, number).unwrap_or(EventKind::Other(number))
    }

    /// libvirt's number of the kind; -1 when it is no change of a life.
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            EventKind::Notice => -1,
            EventKind::Defined => 0,
            EventKind::Undefined => 1,
            EventKind::Started => 2,
            EventKind::Suspended => 3,
            EventKind::Resumed => 4,
            EventKind::Stopped => 5,
            EventKind::Shutdown => 6,
            EventKind::PmSuspended => 7,
            EventKind::Crashed => 8,
            EventKind::Other(number) => number,
        }
    }

    /// The word that virsh prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        if self == EventKind::Notice {
            return "Notice";
        }
        LifecycleEvent::try_from(self.number()).map_or("unknown", LifecycleEvent::name)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What exactly happened. Each kind of event has details of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventDetail {
    kind: EventKind,
    number: i32,
}

impl EventDetail {
    /// The detail of libvirt's number within a kind.
    #[must_use]
    pub fn new(kind: EventKind, number: i32) -> EventDetail {
        EventDetail { kind, number }
    }

    /// libvirt's number, which means something together with the kind only.
    #[must_use]
    pub fn number(self) -> i32 {
        self.number
    }

    /// The words that virsh prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        consts::lifecycle_detail_name(self.kind.number(), self.number)
    }
}

impl fmt::Display for EventDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Something that happened to a domain.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DomainEvent {
    /// Its number in the daemon's log: what to give to [`Connection::subscribe`](crate::Connection::subscribe) later.
    pub sequence: u64,
    /// To whom.
    pub domain: Domain,
    /// What.
    pub kind: EventKind,
    /// What exactly.
    pub detail: EventDetail,
    /// What it was when it was no change of the domain's life; with [`EventKind::Notice`] only, and always.
    pub notice: Option<Notice>,
    /// When, by the host's clock.
    pub time: SystemTime,
    /// What else is to be said.
    pub text: Option<String>,
}

/// A time of the wire; what lies outside of the clock's range becomes the epoch.
pub(crate) fn time_of(seconds: i64, nanos: u32) -> SystemTime {
    u64::try_from(seconds)
        .ok()
        .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos.min(999_999_999))))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What is known of the host's hardware.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// The CPU's architecture.
    pub model: String,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// CPUs that are on.
    pub cpus: u32,
    /// Their clock in MHz; 0 when unknown.
    pub mhz: u32,
    /// NUMA nodes.
    pub nodes: u32,
    /// CPU sockets a node.
    pub sockets: u32,
    /// Cores a socket.
    pub cores: u32,
    /// Threads a core.
    pub threads: u32,
}

/// What a domain uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DomainInfo {
    /// What it is doing.
    pub state: State,
    /// The most memory it may have, in KiB.
    pub max_memory_kib: u64,
    /// The memory it has, in KiB.
    pub memory_kib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// CPU time used, in nanoseconds.
    pub cpu_time_ns: u64,
}

/// One line of a list of domains.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DomainRecord {
    /// The domain.
    pub domain: Domain,
    /// What it is doing.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// It has a definition.
    pub persistent: bool,
    /// It starts with the host.
    pub autostart: bool,
    /// The process that runs it; none when it is off.
    pub supervisor_pid: Option<u32>,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in KiB.
    pub memory_kib: u64,
}

/// What the processes of a guest say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GuestInfo {
    /// The guest's supervisor; none when the domain is off.
    pub supervisor_pid: Option<u32>,
    /// The hypervisor's own process is there.
    pub qemu_running: bool,
    /// How it runs: `kvm`, `tcg`; empty when off.
    pub accel: String,
    /// The machine type that runs; empty when off.
    pub machine: String,
    /// The hypervisor's version; empty when off.
    pub qemu_version: String,
    /// The user that the guest's processes run as.
    pub uid: u32,
    /// When it started; none when off.
    pub started: Option<SystemTime>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_states_are_the_same_both_ways() {
        for (number, state) in (0..).zip(STATES) {
            assert_eq!(State::from_number(number), state);
            assert_eq!(state.number(), number);
            assert_ne!(state.name(), "unknown");
        }
        assert_eq!(DomainState::ALL.len(), STATES.len());
        assert_eq!(State::from_number(8), State::Other(8));
        assert_eq!(State::from_number(-1).number(), -1);
        assert_eq!(State::Other(99).name(), "unknown");
    }

    #[test]
    fn numbers_and_events_are_the_same_both_ways() {
        for (number, kind) in (0..).zip(EVENTS) {
            assert_eq!(EventKind::from_number(number), kind);
            assert_eq!(kind.number(), number);
            assert_ne!(kind.name(), "unknown");
        }
        assert_eq!(LifecycleEvent::ALL.len(), EVENTS.len());
        assert_eq!(EventKind::from_number(77), EventKind::Other(77));
    }

    #[test]
    fn reasons_are_named_within_their_state() {
        assert_eq!(Reason::new(State::Running, 1).name(), "booted");
        assert_eq!(Reason::new(State::Shutoff, 1).name(), "shutdown");
        assert_eq!(Reason::new(State::Paused, 10).name(), "crashed");
        assert_eq!(Reason::new(State::Paused, 1000).name(), "unknown");
        assert_eq!(EventDetail::new(EventKind::Stopped, 1).name(), "Destroyed");
        assert_eq!(EventDetail::new(EventKind::Stopped, -1).name(), "unknown");
    }

    #[test]
    fn a_time_out_of_range_is_no_panic() {
        assert_eq!(time_of(-5, 0), SystemTime::UNIX_EPOCH);
        // The largest that the clock can say, or none: both are times.
        assert!(time_of(i64::MAX, u32::MAX) >= SystemTime::UNIX_EPOCH);
        assert_eq!(time_of(1, 2), SystemTime::UNIX_EPOCH + Duration::new(1, 2));
    }
}
