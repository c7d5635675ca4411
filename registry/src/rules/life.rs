//! Which state permits what.

use api::consts::DomainState;

use crate::error::Refusal;

/// What is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Do it.
    Go,
    /// It is so already, which is no error.
    Already,
}

/// Its virtual CPUs can be stopped.
pub fn suspend(state: DomainState) -> Result<Step, Refusal> {
    match state {
        DomainState::Running | DomainState::Blocked => Ok(Step::Go),
        DomainState::Paused => Ok(Step::Already),
        _ => Err(Refusal::NotRunning),
    }
}

/// Its virtual CPUs can go on.
pub fn resume(state: DomainState) -> Result<(), Refusal> {
    match state {
        DomainState::Paused => Ok(()),
        DomainState::Running | DomainState::Blocked => Err(Refusal::Running),
        DomainState::Shutoff => Err(Refusal::NotRunning),
        _ => Err(Refusal::NotPaused),
    }
}

/// The guest itself can do something: react to its power button, take an NMI.
pub fn react(state: DomainState) -> Result<(), Refusal> {
    match state {
        DomainState::Running | DomainState::Blocked => Ok(()),
        _ => Err(Refusal::NotRunning),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_permits_what_libvirt_says() {
        assert_eq!(suspend(DomainState::Running), Ok(Step::Go));
        assert_eq!(suspend(DomainState::Paused), Ok(Step::Already));
        assert_eq!(suspend(DomainState::Crashed), Err(Refusal::NotRunning));
        assert_eq!(resume(DomainState::Paused), Ok(()));
        assert_eq!(resume(DomainState::Running), Err(Refusal::Running));
        assert_eq!(resume(DomainState::Crashed), Err(Refusal::NotPaused));
        assert_eq!(react(DomainState::Paused), Err(Refusal::NotRunning));
    }

    #[test]
    fn a_run_in_an_unclear_state_is_neither_stopped_nor_continued() {
        for state in [DomainState::NoState, DomainState::Shutdown, DomainState::Shutoff] {
            assert!(suspend(state).is_err() && resume(state).is_err() && react(state).is_err(), "{state}");
        }
    }
}
