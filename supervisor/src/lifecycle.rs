//! libvirt's numbers of states, reasons and lifecycle events that a supervisor speaks of.

use api::consts::{
    CrashedDetail, CrashedReason, DomainState, LifecycleEvent, PausedReason, PmSuspendedDetail, PmSuspendedReason,
    ResumedDetail, RunningReason, ShutdownDetail, ShutdownReason, ShutoffReason, StartedDetail, StoppedDetail,
    SuspendedDetail,
};

/// A domain state with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// libvirt's domain state.
    pub state: i32,
    /// libvirt's reason; what a number means depends on the state.
    pub reason: i32,
}

/// Defines states by their libvirt numbers and documents each.
macro_rules! states {
    ($($name:ident = ($state:ident, $reason:expr): $doc:literal;)*) => {
        impl State {
            $(#[doc = $doc] pub const $name: State = State { state: DomainState::$state as i32, reason: $reason as i32 };)*
        }
    };
}

states! {
    RUNNING_BOOTED = (Running, RunningReason::Booted): "Runs since its start.";
    RUNNING_UNPAUSED = (Running, RunningReason::Unpaused): "Runs again after a pause.";
    RUNNING_WAKEUP = (Running, RunningReason::Wakeup): "Runs again after it slept.";
    RUNNING_CRASHED = (Running, RunningReason::Crashed): "Runs again after its kernel crashed.";
    PAUSED_UNKNOWN = (Paused, PausedReason::Unknown): "Paused, and QEMU did not say why.";
    PAUSED_USER = (Paused, PausedReason::User): "Paused on request.";
    PAUSED_IOERROR = (Paused, PausedReason::IoError): "Paused because a disk failed.";
    PAUSED_WATCHDOG = (Paused, PausedReason::Watchdog): "Paused by its watchdog.";
    PAUSED_CRASHED = (Paused, PausedReason::Crashed): "Reset after a crash, not running yet.";
    PAUSED_STARTING_UP = (Paused, PausedReason::StartingUp): "Being started.";
    SHUTTING_DOWN = (Shutdown, ShutdownReason::Unknown): "Has powered off; its process is still there.";
    SHUTOFF_SHUTDOWN = (Shutoff, ShutoffReason::Shutdown): "Ended by powering off.";
    SHUTOFF_DESTROYED = (Shutoff, ShutoffReason::Destroyed): "Ended on request.";
    SHUTOFF_CRASHED = (Shutoff, ShutoffReason::Crashed): "Ended by a crash of itself or of its process.";
    SHUTOFF_FAILED = (Shutoff, ShutoffReason::Failed): "Could not be started.";
    CRASHED_PANICKED = (Crashed, CrashedReason::Panicked): "Its kernel has crashed.";
    PMSUSPENDED_UNKNOWN = (PmSuspended, PmSuspendedReason::Unknown): "Sleeps.";
}

impl State {
    /// Whether the virtual CPUs run.
    #[must_use]
    pub fn is_running(self) -> bool {
        self.state == DomainState::Running.number()
    }

    /// Whether it is paused, for whatever reason.
    #[must_use]
    pub fn is_paused(self) -> bool {
        self.state == DomainState::Paused.number()
    }

    /// The state in libvirt's words, for messages.
    #[must_use]
    pub fn words(self) -> &'static str {
        if self == State::PAUSED_STARTING_UP {
            return PausedReason::StartingUp.name();
        }
        DomainState::try_from(self.state).unwrap_or(DomainState::NoState).name()
    }
}

/// A lifecycle event with its detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// libvirt's lifecycle event.
    pub event: i32,
    /// libvirt's detail; what a number means depends on the event.
    pub detail: i32,
}

/// Defines events by their libvirt numbers and documents each.
macro_rules! kinds {
    ($($name:ident = ($event:ident, $detail:expr): $doc:literal;)*) => {
        impl Kind {
            $(#[doc = $doc] pub const $name: Kind = Kind { event: LifecycleEvent::$event as i32, detail: $detail as i32 };)*
        }
    };
}

kinds! {
    STARTED_BOOTED = (Started, StartedDetail::Booted): "It has been started.";
    STARTED_WAKEUP = (Started, StartedDetail::Wakeup): "It woke up.";
    SUSPENDED_PAUSED = (Suspended, SuspendedDetail::Paused): "It was paused.";
    SUSPENDED_IOERROR = (Suspended, SuspendedDetail::IoError): "It was paused because a disk failed.";
    SUSPENDED_WATCHDOG = (Suspended, SuspendedDetail::Watchdog): "Its watchdog paused it.";
    RESUMED_UNPAUSED = (Resumed, ResumedDetail::Unpaused): "It runs again.";
    STOPPED_SHUTDOWN = (Stopped, StoppedDetail::Shutdown): "It ended by powering off.";
    STOPPED_DESTROYED = (Stopped, StoppedDetail::Destroyed): "It was ended.";
    STOPPED_CRASHED = (Stopped, StoppedDetail::Crashed): "It ended by a crash.";
    STOPPED_FAILED = (Stopped, StoppedDetail::Failed): "It could not be started.";
    SHUTDOWN_FINISHED = (Shutdown, ShutdownDetail::Finished): "It has powered off; nobody knows on whose initiative.";
    SHUTDOWN_GUEST = (Shutdown, ShutdownDetail::Guest): "It has powered off on its own initiative.";
    SHUTDOWN_HOST = (Shutdown, ShutdownDetail::Host): "It has been powered off from outside.";
    PMSUSPENDED_MEMORY = (PmSuspended, PmSuspendedDetail::Memory): "It sleeps, its state is in memory.";
    PMSUSPENDED_DISK = (PmSuspended, PmSuspendedDetail::Disk): "It sleeps, its state is on disk.";
    CRASHED_PANICKED = (Crashed, CrashedDetail::Panicked): "Its kernel has crashed.";
    CRASHED_CRASHLOADED = (Crashed, CrashedDetail::Crashloaded): "Its kernel has crashed and started another kernel to say so.";
}

impl Kind {
    /// Whether it is the last event of a run.
    #[must_use]
    pub fn is_stopped(self) -> bool {
        self.event == LifecycleEvent::Stopped.number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_are_libvirts() {
        assert_eq!(State::PAUSED_IOERROR, State { state: 3, reason: 5 });
        assert_eq!(Kind::STOPPED_FAILED, Kind { event: 5, detail: 5 });
        assert_eq!(State::SHUTTING_DOWN.words(), "in shutdown");
        assert_eq!(State::PAUSED_STARTING_UP.words(), "starting up");
        assert!(Kind::STOPPED_CRASHED.is_stopped() && !Kind::SHUTDOWN_GUEST.is_stopped());
    }
}
