//! A domain's processors and memory: how much of them it has, where they run, what limits them.

use api::{Answer, DomainTuningOps, Error, remote};
use rustix::thread::CpuSet;

use super::{Asked, only};
use crate::{Control, errors, node, store::definitions::Summary};

/// The table's limits of what an answer may hold.
const CPUMAP_MAX: usize = 2048;
const CPUMAPS_MAX: usize = 8_388_608;
const VCPUINFO_MAX: u32 = 16_384;

impl DomainTuningOps for Control {
    fn domain_get_max_memory(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetMaxMemoryArgs,
    ) -> Answer<remote::DomainGetMaxMemoryRet> {
        let uuid = self.known(&args.dom)?;
        Ok(remote::DomainGetMaxMemoryRet { memory: self.size_of(&uuid, "read the memory of")?.max_memory_kib }.into())
    }

    fn domain_get_max_vcpus(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetMaxVcpusArgs,
    ) -> Answer<remote::DomainGetMaxVcpusRet> {
        let uuid = self.known(&args.dom)?;
        let max = self.size_of(&uuid, "count the virtual CPUs of")?.max_vcpus;
        Ok(remote::DomainGetMaxVcpusRet { num: i32::try_from(max).unwrap_or(i32::MAX) }.into())
    }

    fn domain_get_vcpus_flags(
        &mut self,
        cx: &mut Asked,
        args: remote::DomainGetVcpusFlagsArgs,
    ) -> Answer<remote::DomainGetVcpusFlagsRet> {
        self.vcpu_count(cx, &args)
    }

    fn domain_set_vcpus(&mut self, cx: &mut Asked, args: remote::DomainSetVcpusArgs) -> Answer<()> {
        self.set_vcpus(cx, &args)
    }

    fn domain_set_vcpus_flags(&mut self, cx: &mut Asked, args: remote::DomainSetVcpusFlagsArgs) -> Answer<()> {
        self.set_vcpus_flags(cx, &args)
    }

    fn domain_set_memory(&mut self, cx: &mut Asked, args: remote::DomainSetMemoryArgs) -> Answer<()> {
        self.set_memory(cx, &args)
    }

    fn domain_set_memory_flags(&mut self, cx: &mut Asked, args: remote::DomainSetMemoryFlagsArgs) -> Answer<()> {
        self.set_memory_flags(cx, &args)
    }

    fn domain_set_max_memory(&mut self, cx: &mut Asked, args: remote::DomainSetMaxMemoryArgs) -> Answer<()> {
        self.set_max_memory(cx, &args)
    }

    /// No share of the processors can be set, so there is a scheduler and no parameter.
    fn domain_get_scheduler_type(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetSchedulerTypeArgs,
    ) -> Answer<remote::DomainGetSchedulerTypeRet> {
        self.known(&args.dom)?;
        Ok(remote::DomainGetSchedulerTypeRet { r#type: "posix".into(), nparams: 0 }.into())
    }

    /// No cgroup limits a guest's memory; a document that asks for a limit cannot be started.
    fn domain_get_memory_parameters(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetMemoryParametersArgs,
    ) -> Answer<remote::DomainGetMemoryParametersRet> {
        /// libvirt's number for no limit.
        const UNLIMITED: u64 = 9_007_199_254_740_991;
        only(args.flags, 0x3 | api::params::STRING_OKAY, "virDomainGetMemoryParameters")?;
        self.without(&args.dom, "memtune", |summary| summary.tunes_memory)?;
        let mut list = api::params::Params::new();
        for limit in ["hard_limit", "soft_limit", "swap_hard_limit"] {
            list.ullong(limit, UNLIMITED);
        }
        let (params, nparams) = list.asked(args.nparams);
        Ok(remote::DomainGetMemoryParametersRet { params, nparams }.into())
    }

    fn domain_get_iothread_info(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetIothreadInfoArgs,
    ) -> Answer<remote::DomainGetIothreadInfoRet> {
        only(args.flags, 0x3, "virDomainGetIOThreadInfo")?;
        self.known(&args.dom)?;
        Ok(remote::DomainGetIothreadInfoRet { info: Vec::new(), ret: 0 }.into())
    }

    /// The virtual CPUs of a running guest, with the host's CPUs that each may run on.
    fn domain_get_vcpus(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetVcpusArgs,
    ) -> Answer<remote::DomainGetVcpusRet> {
        let uuid = self.known(&args.dom)?;
        let Some(guest) = self.active(&uuid) else {
            return Err(errors::wrong_state("cannot retrieve vcpu information for inactive domain"));
        };
        let (count, maplen) = room(self.size_of(&uuid, "count the virtual CPUs of")?.vcpus, args.maxinfo, args.maplen)?;
        let host = self.host_cpus();
        let process = guest.process.as_ref();
        let info = |number| remote::VcpuInfo {
            number,
            state: api::consts::VcpuState::Running.number(),
            cpu_time: process.and_then(|process| process.vcpu_time(number)).map_or(0, |time| time.run_ns),
            cpu: process
                .and_then(|process| process.vcpu_place(number))
                .and_then(|cpu| i32::try_from(cpu).ok())
                .unwrap_or(-1),
        };
        let map = |number| {
            let set = process.and_then(|process| process.vcpu_affinity(number).or_else(|| process.affinity()));
            cpu_map(&host, set.as_ref(), maplen)
        };
        let cpumaps = (0..count).flat_map(map).collect();
        Ok(remote::DomainGetVcpusRet { info: (0..count).map(info).collect(), cpumaps }.into())
    }

    fn domain_get_vcpu_pin_info(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetVcpuPinInfoArgs,
    ) -> Answer<remote::DomainGetVcpuPinInfoRet> {
        only(args.flags, 0x3, "virDomainGetVcpuPinInfo")?;
        let uuid = self.unpinned(&args.dom)?;
        let (num, maplen) = room(self.size_of(&uuid, "count the virtual CPUs of")?.vcpus, args.ncpumaps, args.maplen)?;
        let cpumaps = cpu_map(&self.host_cpus(), None, maplen).repeat(usize::try_from(num).unwrap_or_default());
        Ok(remote::DomainGetVcpuPinInfoRet { cpumaps, num: i32::try_from(num).unwrap_or(i32::MAX) }.into())
    }

    fn domain_get_emulator_pin_info(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetEmulatorPinInfoArgs,
    ) -> Answer<remote::DomainGetEmulatorPinInfoRet> {
        only(args.flags, 0x3, "virDomainGetEmulatorPinInfo")?;
        self.unpinned(&args.dom)?;
        let (_, maplen) = room(1, 1, args.maplen)?;
        let cpumaps = cpu_map(&self.host_cpus(), None, maplen);
        Ok(remote::DomainGetEmulatorPinInfoRet { cpumaps, ret: 1 }.into())
    }

    fn domain_get_guest_vcpus(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetGuestVcpusArgs,
    ) -> Answer<remote::DomainGetGuestVcpusRet> {
        self.needs_agent(&args.dom)
    }

    fn domain_set_guest_vcpus(&mut self, _: &mut Asked, args: remote::DomainSetGuestVcpusArgs) -> Answer<()> {
        self.needs_agent(&args.dom)
    }
}

impl Control {
    /// A domain whose document pins nothing.
    fn unpinned(&self, dom: &remote::Domain) -> Result<uuid::Uuid, Error> {
        self.without(dom, "cputune> or <vcpu cpuset", |summary| summary.tunes_cpus)
    }

    /// A domain whose document has no such element: one that has it cannot be started, and what it asks for is not read.
    fn without(&self, dom: &remote::Domain, element: &str, has: fn(&Summary) -> bool) -> Result<uuid::Uuid, Error> {
        let uuid = self.known(dom)?;
        let summary = self.defined(&uuid).filter(|_| self.active(&uuid).is_none());
        if summary.is_some_and(has) {
            let text = format!("what <{element}> of the definition asks for is not read");
            return Err(errors::unsupported_operation(text).with_hint("look at them in the document"));
        }
        Ok(uuid)
    }
}

/// A set of the host's CPUs as a bitmap of so many bytes; without a set, all that are online.
fn cpu_map((online, present): &(Vec<u32>, u32), set: Option<&CpuSet>, maplen: usize) -> Vec<u8> {
    let may = |cpu: &u32| {
        usize::try_from(*cpu).is_ok_and(|cpu| cpu < CpuSet::MAX_CPU && set.is_none_or(|set| set.is_set(cpu)))
    };
    let cpus: Vec<u32> = match set {
        Some(_) => (0..*present).filter(may).collect(),
        None => online.clone(),
    };
    let mut map = node::bytes(&cpus, *present);
    map.resize(maplen, 0);
    map
}

/// How many of `count` bitmaps a caller has room for, and how long each is; all of them together must fit an answer.
fn room(count: u32, most: i32, maplen: i32) -> Result<(u32, usize), Error> {
    let negative = |_| errors::invalid("the number and the length of the CPU maps must not be negative");
    let count = count.min(u32::try_from(most).map_err(negative)?);
    let maplen =
        usize::try_from(maplen).map_err(|_| errors::invalid("the length of a CPU map must not be negative"))?;
    let total = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(maplen);
    if maplen > CPUMAP_MAX || total > CPUMAPS_MAX || count > VCPUINFO_MAX {
        return Err(errors::invalid(format!("{count} CPU maps of {maplen} bytes are too many")));
    }
    Ok((count, maplen))
}

#[cfg(test)]
mod tests {
    use api::ErrorCode;

    use super::*;

    #[test]
    fn cpu_maps_have_the_length_that_is_asked_for() {
        let host = (vec![0, 1, 3], 4);
        assert_eq!(cpu_map(&host, None, 2), [0b1011, 0]);
        assert!(cpu_map(&host, None, 0).is_empty());
        let mut set = CpuSet::new();
        set.set(2);
        set.set(9);
        assert_eq!(cpu_map(&host, Some(&set), 1), [0b100], "CPUs that the host does not have are not told");
    }

    #[test]
    fn no_caller_gets_more_than_fits_an_answer() {
        assert_eq!(room(4, 2, 8).unwrap(), (2, 8));
        assert_eq!(room(4, 0, 0).unwrap(), (0, 0));
        for (count, most, maplen) in
            [(1, -1, 1), (1, 1, -1), (1, 1, i32::MAX), (u32::MAX, i32::MAX, 1), (16_384, 16_384, 2048)]
        {
            assert_eq!(room(count, most, maplen).unwrap_err().code, ErrorCode::INVALID_ARG, "{count} {most} {maplen}");
        }
    }
}
