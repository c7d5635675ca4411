//! libvirt's filters of lists.

use api::consts::{DomainState, ListDomains};

/// What a filter looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// It has a run, or gets one.
    pub active: bool,
    /// It has a definition.
    pub persistent: bool,
    /// It starts with the host.
    pub autostart: bool,
    /// It has a saved image.
    pub managed_save: bool,
    /// It has snapshots.
    pub snapshots: bool,
    /// It has checkpoints.
    pub checkpoints: bool,
    /// What it is doing.
    pub state: DomainState,
}

/// Whether a list with these flags has it: of each group of bits, one that is set must hold; a group without any does not
/// filter.
#[must_use]
pub fn passes(facts: &Facts, filter: ListDomains) -> bool {
    let either = |yes: bool, one: ListDomains, other: ListDomains| (if yes { one } else { other }, one | other);
    let state = match facts.state {
        DomainState::Running => ListDomains::RUNNING,
        DomainState::Paused => ListDomains::PAUSED,
        DomainState::Shutoff => ListDomains::SHUTOFF,
        _ => ListDomains::OTHER,
    };
    let states = ListDomains::RUNNING | ListDomains::PAUSED | ListDomains::SHUTOFF | ListDomains::OTHER;
    [
        either(facts.active, ListDomains::ACTIVE, ListDomains::INACTIVE),
        either(facts.persistent, ListDomains::PERSISTENT, ListDomains::TRANSIENT),
        either(facts.autostart, ListDomains::AUTOSTART, ListDomains::NO_AUTOSTART),
        either(facts.managed_save, ListDomains::MANAGEDSAVE, ListDomains::NO_MANAGEDSAVE),
        either(facts.snapshots, ListDomains::HAS_SNAPSHOT, ListDomains::NO_SNAPSHOT),
        either(facts.checkpoints, ListDomains::HAS_CHECKPOINT, ListDomains::NO_CHECKPOINT),
        (state, states),
    ]
    .into_iter()
    .all(|(has, group)| !filter.intersects(group) || filter.intersects(has))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: Facts = Facts {
        active: true,
        persistent: true,
        autostart: false,
        managed_save: false,
        snapshots: false,
        checkpoints: false,
        state: DomainState::Running,
    };

    #[test]
    fn no_flag_filters_nothing() {
        assert!(passes(&RUNNING, ListDomains::empty()));
        assert!(passes(&Facts { active: false, state: DomainState::Shutoff, ..RUNNING }, ListDomains::empty()));
    }

    #[test]
    fn within_a_group_any_bit_will_do_and_every_group_must_agree() {
        let both = ListDomains::ACTIVE | ListDomains::INACTIVE;
        assert!(passes(&RUNNING, both));
        assert!(passes(&RUNNING, both | ListDomains::RUNNING | ListDomains::NO_SNAPSHOT));
        assert!(!passes(&RUNNING, ListDomains::ACTIVE | ListDomains::TRANSIENT));
        assert!(!passes(&RUNNING, ListDomains::PAUSED | ListDomains::OTHER));
        for facts in [
            Facts { managed_save: true, ..RUNNING },
            Facts { snapshots: true, ..RUNNING },
            Facts { checkpoints: true, ..RUNNING },
        ] {
            let all_without = ListDomains::NO_MANAGEDSAVE | ListDomains::NO_SNAPSHOT | ListDomains::NO_CHECKPOINT;
            assert!(passes(&RUNNING, all_without) && !passes(&facts, all_without));
        }
    }

    #[test]
    fn every_other_state_is_other() {
        for state in DomainState::ALL {
            let facts = Facts { state: *state, ..RUNNING };
            let named = [DomainState::Running, DomainState::Paused, DomainState::Shutoff].contains(state);
            assert_eq!(passes(&facts, ListDomains::OTHER), !named, "{state}");
        }
    }
}
