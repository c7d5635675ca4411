//! libvirt's rules as pure functions: what a call may ask, what a state permits, what a change does to a document.
//!
//! A rule that concerns objects of any kind gives a [`Refusal`]; one that concerns a call's arguments gives the error that
//! the client gets, worded by [`Errors`].

pub mod life;
pub mod notes;
pub mod size;

use api::{Error, Op, consts::ModificationImpact};
use bitflags::Flags;

use crate::error::{Errors, Refusal, TransientRefusal};

/// libvirt's bits for the running object and its definition, which are the same in every call.
pub const IMPACT: u32 = ModificationImpact::LIVE.bits() | ModificationImpact::CONFIG.bits();

/// The flags of a call, refused when one of them is not among those that the driver has.
pub fn known_flags(errors: &Errors, bits: u32, known: u32, op: Op) -> Result<(), Error> {
    match bits & !known {
        0 => Ok(()),
        unknown => Err(errors.unknown_flags(unknown, op)),
    }
}

/// The same, for a driver that has all of them.
pub fn flags<F: Flags<Bits = u32>>(errors: &Errors, bits: u32, op: Op) -> Result<F, Error> {
    known_flags(errors, bits, F::all().bits(), op)?;
    Ok(F::from_bits_truncate(bits))
}

/// Two flags, each with libvirt's name for it, that must not come together.
pub fn exclusive(errors: &Errors, bits: u32, one: (u32, &str), other: (u32, &str)) -> Result<(), Error> {
    if bits & one.0 != 0 && bits & other.0 != 0 {
        return Err(errors.bad_argument(format!("Flags '{}' and '{}' are mutually exclusive", one.1, other.1)));
    }
    Ok(())
}

/// A question can be about the running object or about its definition, not both.
pub fn one_of_both(errors: &Errors, bits: u32) -> Result<(), Error> {
    let live = (ModificationImpact::LIVE.bits(), "VIR_DOMAIN_AFFECT_LIVE");
    exclusive(errors, bits, live, (ModificationImpact::CONFIG.bits(), "VIR_DOMAIN_AFFECT_CONFIG"))
}

/// Which documents of an object a call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affected {
    /// The one of its run.
    pub live: bool,
    /// Its definition.
    pub config: bool,
}

/// Without a bit the run's document is meant if there is a run, else the definition.
pub fn affected(bits: u32, active: bool, persistent: bool) -> Result<Affected, Refusal> {
    let impact = ModificationImpact::from_bits_truncate(bits & IMPACT);
    let meant = if impact.is_empty() {
        Affected { live: active, config: !active }
    } else {
        Affected {
            live: impact.contains(ModificationImpact::LIVE),
            config: impact.contains(ModificationImpact::CONFIG),
        }
    };
    if meant.live && !active {
        return Err(Refusal::NotRunning);
    }
    if meant.config && !persistent {
        return Err(Refusal::Transient(TransientRefusal::Change));
    }
    Ok(meant)
}

/// The name that an object is to get.
pub fn new_name<'a>(errors: &Errors, name: Option<&'a str>, op: Op) -> Result<&'a str, Error> {
    let name = name.unwrap_or_default();
    if name.is_empty() {
        return Err(errors.bad_argument(format!("string new_name in {} must not be empty", op.info().api)));
    }
    model::check_name(name).map_err(|why| {
        errors.told(api::ErrorCode::XML_ERROR, format!("XML error: the name cannot be used: it {why}"))
    })?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ErrorCode, ErrorDomain, consts::UndefineFlags};

    const ERRORS: Errors = Errors::of_domains(ErrorDomain::TEST);

    #[test]
    fn an_unknown_flag_is_named_with_its_call() {
        let error = flags::<UndefineFlags>(&ERRORS, 0x8001, Op::DomainUndefineFlags).unwrap_err();
        assert_eq!(error.message, "unsupported flags (0x8000) in function virDomainUndefineFlags");
        assert_eq!((error.code, error.domain), (ErrorCode::INVALID_ARG, ErrorDomain::TEST));
        assert_eq!(flags(&ERRORS, 1, Op::DomainUndefineFlags), Ok(UndefineFlags::MANAGED_SAVE));
        assert!(known_flags(&ERRORS, 3, 1, Op::DomainReset).unwrap_err().message.contains("(0x2)"));
    }

    #[test]
    fn without_a_bit_the_run_is_meant_if_there_is_one() {
        let both = Affected { live: true, config: true };
        assert_eq!(affected(0, true, true), Ok(Affected { live: true, config: false }));
        assert_eq!(affected(0, false, true), Ok(Affected { live: false, config: true }));
        assert_eq!(affected(3, true, true), Ok(both));
        // Other bits of the call do not matter.
        assert_eq!(affected(4, true, false), Ok(Affected { live: true, config: false }));
        assert_eq!(affected(1, false, true), Err(Refusal::NotRunning));
        assert_eq!(affected(2, true, false), Err(Refusal::Transient(TransientRefusal::Change)));
        let text = one_of_both(&ERRORS, 7).unwrap_err().message;
        assert_eq!(text, "Flags 'VIR_DOMAIN_AFFECT_LIVE' and 'VIR_DOMAIN_AFFECT_CONFIG' are mutually exclusive");
        assert_eq!(one_of_both(&ERRORS, 6), Ok(()));
    }

    #[test]
    fn a_new_name_is_one_that_a_document_can_have() {
        assert_eq!(new_name(&ERRORS, Some("a"), Op::DomainRename), Ok("a"));
        for empty in [None, Some("")] {
            let error = new_name(&ERRORS, empty, Op::DomainRename).unwrap_err();
            assert_eq!(error.message, "string new_name in virDomainRename must not be empty");
        }
        assert_eq!(new_name(&ERRORS, Some("a/b"), Op::DomainRename).unwrap_err().code, ErrorCode::XML_ERROR);
    }
}
