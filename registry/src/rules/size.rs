//! How many virtual CPUs and how much memory a document has.

use api::Error;
use model::Domain;

use crate::error::Errors;

/// Which number of virtual CPUs a call cannot set.
pub fn check_vcpus(errors: &Errors, count: u32) -> Result<(), Error> {
    if count == 0 {
        return Err(errors.bad_argument("nvcpus in virDomainSetVcpusFlags must not be zero"));
    }
    Ok(())
}

/// Sets how many virtual CPUs a document has, or can have. `live`: it is the one of a run.
pub fn set_vcpus(errors: &Errors, domain: &mut Domain, count: u32, maximum: bool, live: bool) -> Result<(), Error> {
    if maximum && live {
        return Err(errors.wrong_state("cannot adjust maximum vcpus on running domain"));
    }
    if maximum {
        check_topology(errors, domain, count)?;
        domain.vcpus.max = count;
        domain.vcpus.current = domain.vcpus.current.filter(|current| *current < count);
        return Ok(());
    }
    let max = domain.vcpus.max;
    if count > max {
        let which = if live { "live" } else { "persistent" };
        return Err(errors.invalid(format_args!(
            "requested vcpus is greater than max allowable vcpus for the {which} domain: {count} > {max}"
        )));
    }
    domain.vcpus.current = Some(count).filter(|count| *count < max);
    Ok(())
}

fn check_topology(errors: &Errors, domain: &Domain, count: u32) -> Result<(), Error> {
    let Some(topology) = domain.cpu.as_ref().and_then(|cpu| cpu.topology.as_ref()) else { return Ok(()) };
    let parts = [topology.sockets, topology.dies.unwrap_or(1), topology.clusters.unwrap_or(1), topology.cores];
    if parts.into_iter().fold(topology.threads, u32::saturating_mul) == count {
        return Ok(());
    }
    Err(errors.invalid("CPU topology doesn't match the desired vcpu count"))
}

/// Which amount of memory a call cannot set.
pub fn check_memory(errors: &Errors, kib: u64) -> Result<(), Error> {
    if kib == 0 {
        return Err(errors.bad_argument("memory in virDomainSetMemoryFlags must not be zero"));
    }
    Ok(())
}

/// Sets how much memory a document has, or can have. `live`: it is the one of a run.
pub fn set_memory(errors: &Errors, domain: &mut Domain, kib: u64, maximum: bool, live: bool) -> Result<(), Error> {
    if maximum && live {
        return Err(errors.wrong_state("cannot resize the maximum memory on an active domain"));
    }
    if maximum {
        domain.memory_kib = kib;
        domain.current_memory_kib = domain.current_memory_kib.min(kib);
    } else if kib > domain.memory_kib {
        return Err(errors.invalid("cannot set memory higher than max memory"));
    } else {
        domain.current_memory_kib = kib;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ErrorCode, ErrorDomain};
    use model::DomainType;

    const ERRORS: Errors = Errors::of_domains(ErrorDomain::TEST);

    fn domain() -> Domain {
        Domain::new(DomainType::Test, "t", 65_536, 4, "x86_64")
    }

    #[test]
    fn fewer_virtual_cpus_than_possible_are_written_as_current() {
        let mut domain = domain();
        set_vcpus(&ERRORS, &mut domain, 2, false, false).unwrap();
        assert_eq!((domain.vcpus.max, domain.vcpus.current), (4, Some(2)));
        set_vcpus(&ERRORS, &mut domain, 4, false, false).unwrap();
        assert_eq!((domain.vcpus.max, domain.vcpus.current), (4, None));
        for (live, which) in [(false, "persistent"), (true, "live")] {
            let error = set_vcpus(&ERRORS, &mut domain, 5, false, live).unwrap_err();
            assert!(error.message.ends_with(&format!("for the {which} domain: 5 > 4")), "{error}");
            assert_eq!(error.code, ErrorCode::INVALID_ARG);
        }
        set_vcpus(&ERRORS, &mut domain, 2, false, false).unwrap();
        set_vcpus(&ERRORS, &mut domain, 1, true, false).unwrap();
        assert_eq!((domain.vcpus.max, domain.vcpus.current), (1, None), "never more than there can be");
        let error = set_vcpus(&ERRORS, &mut domain, 8, true, true).unwrap_err();
        assert_eq!(error.code, ErrorCode::OPERATION_INVALID);
    }

    #[test]
    fn a_topology_must_fit_the_virtual_cpus() {
        let xml = "<domain type='qemu'><name>t</name><memory>1024</memory><vcpu>4</vcpu><os><type>hvm</type></os>\
                   <cpu><topology sockets='1' cores='2' threads='2'/></cpu></domain>";
        let mut domain = Domain::parse(xml).unwrap().value;
        assert_eq!(set_vcpus(&ERRORS, &mut domain, 8, true, false).unwrap_err().code, ErrorCode::INVALID_ARG);
        set_vcpus(&ERRORS, &mut domain, 4, true, false).unwrap();
    }

    #[test]
    fn memory_stays_below_what_there_can_be() {
        let mut domain = domain();
        set_memory(&ERRORS, &mut domain, 1024, false, true).unwrap();
        assert_eq!((domain.memory_kib, domain.current_memory_kib), (65_536, 1024));
        let error = set_memory(&ERRORS, &mut domain, 65_537, false, false).unwrap_err();
        assert_eq!(error.code, ErrorCode::INVALID_ARG);
        set_memory(&ERRORS, &mut domain, 512, true, false).unwrap();
        assert_eq!((domain.memory_kib, domain.current_memory_kib), (512, 512));
        let error = set_memory(&ERRORS, &mut domain, 512, true, true).unwrap_err();
        assert_eq!(error.code, ErrorCode::OPERATION_INVALID);
        assert!(check_memory(&ERRORS, 0).is_err() && check_vcpus(&ERRORS, 0).is_err());
    }
}
