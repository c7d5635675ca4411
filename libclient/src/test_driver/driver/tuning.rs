//! A guest's processors and memory: how much of them it has, where they run, what limits them.

use api::{
    Answer, DomainTuningOps, Op,
    consts::{MemoryFlags, ModificationImpact, VcpuFlags, VcpuState},
    notice::Notice,
    params::{self, Params},
    remote,
};
use model::Domain;
use registry::rules::{IMPACT, size};

use super::{Context, LISTS, flags, known_flags, no_flags, number};
use crate::{
    Result,
    test_driver::machine::{ERRORS, Machine},
};

/// libvirt's mock hypervisor gives every guest the same share.
const WEIGHT: u32 = 50;
/// libvirt's number for no limit.
const UNLIMITED: u64 = 9_007_199_254_740_991;
/// The table's limits of what an answer may hold.
const CPUMAP_MAX: usize = 2048;
const CPUMAPS_MAX: usize = 8_388_608;
const VCPUINFO_MAX: u32 = 16_384;

impl Machine {
    fn change_vcpus(&mut self, dom: &remote::Domain, count: u32, flags: VcpuFlags) -> Answer<()> {
        no_flags((flags & VcpuFlags::GUEST).bits(), Op::DomainSetVcpusFlags)?;
        size::check_vcpus(&ERRORS, count)?;
        let maximum = flags.contains(VcpuFlags::MAXIMUM);
        self.change(dom, flags.bits(), |domain, live| size::set_vcpus(&ERRORS, domain, count, maximum, live))?;
        Ok(().into())
    }

    fn change_memory(&mut self, dom: &remote::Domain, kib: u64, flags: MemoryFlags) -> Answer<()> {
        size::check_memory(&ERRORS, kib)?;
        let maximum = flags.contains(MemoryFlags::MAXIMUM);
        let change = |domain: &mut Domain, live| size::set_memory(&ERRORS, domain, kib, maximum, live);
        if self.change(dom, flags.bits(), change)?.live {
            self.tell(dom, Notice::BalloonChange { kib })?;
        }
        Ok(().into())
    }

    /// Whether there is nothing in a guest's document that asks for limits of a kind, which nobody here reads.
    fn unlimited(&self, dom: &remote::Domain, element: &str) -> Result<()> {
        if !self.guest(dom)?.asks_for(element) {
            return Ok(());
        }
        let text = format_args!("what <{element}> of the document asks for is not read");
        Err(ERRORS.unsupported(text).with_hint("look at it in the document"))
    }
}

impl DomainTuningOps for Machine {
    fn domain_get_max_memory(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetMaxMemoryArgs,
    ) -> Answer<remote::DomainGetMaxMemoryRet> {
        Ok(remote::DomainGetMaxMemoryRet { memory: self.guest(&args.dom)?.memory_kib().0 }.into())
    }

    fn domain_get_max_vcpus(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetMaxVcpusArgs,
    ) -> Answer<remote::DomainGetMaxVcpusRet> {
        let guest = self.guest(&args.dom)?;
        // libvirt asks for the number of the run.
        guest.running()?;
        Ok(remote::DomainGetMaxVcpusRet { num: number(guest.max_vcpus()) }.into())
    }

    fn domain_get_vcpus_flags(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetVcpusFlagsArgs,
    ) -> Answer<remote::DomainGetVcpusFlagsRet> {
        let flags: VcpuFlags = flags(args.flags, Op::DomainGetVcpusFlags)?;
        // There is no agent to ask.
        no_flags((flags & VcpuFlags::GUEST).bits(), Op::DomainGetVcpusFlags)?;
        let vcpus = &self.guest(&args.dom)?.asked(args.flags)?.vcpus;
        let maximum = flags.contains(VcpuFlags::MAXIMUM);
        let num = if maximum { vcpus.max } else { vcpus.online() };
        Ok(remote::DomainGetVcpusFlagsRet { num: number(num) }.into())
    }

    fn domain_get_vcpus(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetVcpusArgs,
    ) -> Answer<remote::DomainGetVcpusRet> {
        let cpus = self.node.cpus;
        let guest = self.guest(&args.dom)?;
        guest.running()?;
        let (count, maplen) = room(guest.vcpus(), args.maxinfo, args.maplen)?;
        let cpu_time = guest.cpu_time_ns();
        let info = |vcpu| remote::VcpuInfo {
            number: vcpu,
            state: VcpuState::Running.number(),
            cpu_time,
            // The last CPU that it may run on.
            cpu: number(cpus.saturating_sub(1)),
        };
        let cpumaps = all_cpus(cpus, maplen).repeat(usize::try_from(count).unwrap_or_default());
        Ok(remote::DomainGetVcpusRet { info: (0..count).map(info).collect(), cpumaps }.into())
    }

    fn domain_get_vcpu_pin_info(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetVcpuPinInfoArgs,
    ) -> Answer<remote::DomainGetVcpuPinInfoRet> {
        known_flags(args.flags, IMPACT, Op::DomainGetVcpuPinInfo)?;
        let cpus = self.node.cpus;
        let vcpus = self.guest(&args.dom)?.asked(args.flags)?.vcpus.online();
        let (count, maplen) = room(vcpus, args.ncpumaps, args.maplen)?;
        let cpumaps = all_cpus(cpus, maplen).repeat(usize::try_from(count).unwrap_or_default());
        Ok(remote::DomainGetVcpuPinInfoRet { cpumaps, num: number(count) }.into())
    }

    fn domain_set_vcpus(&mut self, _: &mut Context, args: remote::DomainSetVcpusArgs) -> Answer<()> {
        self.change_vcpus(&args.dom, args.nvcpus, VcpuFlags::LIVE)
    }

    fn domain_set_vcpus_flags(&mut self, _: &mut Context, args: remote::DomainSetVcpusFlagsArgs) -> Answer<()> {
        self.change_vcpus(&args.dom, args.nvcpus, flags(args.flags, Op::DomainSetVcpusFlags)?)
    }

    fn domain_set_memory(&mut self, _: &mut Context, args: remote::DomainSetMemoryArgs) -> Answer<()> {
        self.change_memory(&args.dom, args.memory, MemoryFlags::LIVE)
    }

    fn domain_set_memory_flags(&mut self, _: &mut Context, args: remote::DomainSetMemoryFlagsArgs) -> Answer<()> {
        self.change_memory(&args.dom, args.memory, flags(args.flags, Op::DomainSetMemoryFlags)?)
    }

    fn domain_set_max_memory(&mut self, _: &mut Context, args: remote::DomainSetMaxMemoryArgs) -> Answer<()> {
        self.change_memory(&args.dom, args.memory, MemoryFlags::MAXIMUM)
    }

    fn domain_get_scheduler_type(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetSchedulerTypeArgs,
    ) -> Answer<remote::DomainGetSchedulerTypeRet> {
        self.guest(&args.dom)?;
        Ok(remote::DomainGetSchedulerTypeRet { r#type: "fair".into(), nparams: 1 }.into())
    }

    fn domain_get_scheduler_parameters(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetSchedulerParametersArgs,
    ) -> Answer<remote::DomainGetSchedulerParametersRet> {
        self.guest(&args.dom)?;
        let mut list = Params::new();
        list.uint("weight", WEIGHT);
        Ok(remote::DomainGetSchedulerParametersRet { params: list.asked(args.nparams).0 }.into())
    }

    fn domain_get_emulator_pin_info(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetEmulatorPinInfoArgs,
    ) -> Answer<remote::DomainGetEmulatorPinInfoRet> {
        known_flags(args.flags, IMPACT, Op::DomainGetEmulatorPinInfo)?;
        let cpus = self.node.cpus;
        self.unlimited(&args.dom, "cputune")?;
        self.guest(&args.dom)?.asked(args.flags)?;
        let (_, maplen) = room(1, 1, args.maplen)?;
        Ok(remote::DomainGetEmulatorPinInfoRet { cpumaps: all_cpus(cpus, maplen), ret: 1 }.into())
    }

    fn domain_get_memory_parameters(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetMemoryParametersArgs,
    ) -> Answer<remote::DomainGetMemoryParametersRet> {
        known_flags(args.flags, LISTS, Op::DomainGetMemoryParameters)?;
        self.unlimited(&args.dom, "memtune")?;
        if args.flags & IMPACT == ModificationImpact::LIVE.bits() {
            self.guest(&args.dom)?.running()?;
        }
        let mut list = Params::new();
        for limit in ["hard_limit", "soft_limit", "swap_hard_limit"] {
            list.ullong(limit, UNLIMITED);
        }
        let (params, nparams) = list.asked(args.nparams);
        Ok(remote::DomainGetMemoryParametersRet { params, nparams }.into())
    }

    fn domain_get_numa_parameters(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetNumaParametersArgs,
    ) -> Answer<remote::DomainGetNumaParametersRet> {
        known_flags(args.flags, LISTS, Op::DomainGetNumaParameters)?;
        self.unlimited(&args.dom, "numatune")?;
        self.guest(&args.dom)?.asked(args.flags)?;
        let mut list = Params::new();
        // Strict, on no node in particular.
        list.int("numa_mode", 0);
        if args.flags & params::STRING_OKAY != 0 {
            list.string("numa_nodeset", "");
        }
        let (params, nparams) = list.asked(args.nparams);
        Ok(remote::DomainGetNumaParametersRet { params, nparams }.into())
    }

    fn domain_get_iothread_info(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetIothreadInfoArgs,
    ) -> Answer<remote::DomainGetIothreadInfoRet> {
        self.empty_list::<remote::DomainGetIothreadInfoArgs>(&args.dom, args.flags, 0x3)
    }

    fn domain_get_perf_events(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetPerfEventsArgs,
    ) -> Answer<remote::DomainGetPerfEventsRet> {
        self.empty_list::<remote::DomainGetPerfEventsArgs>(&args.dom, args.flags, LISTS)
    }
}

/// So many CPUs as libvirt's bitmap of so many bytes.
pub(super) fn all_cpus(cpus: u32, bytes: usize) -> Vec<u8> {
    let mut map = vec![0u8; bytes];
    for (byte, first) in map.iter_mut().zip((0u32..).step_by(8)) {
        *byte = match cpus.saturating_sub(first) {
            0 => break,
            left @ 1..8 => (1 << left) - 1,
            _ => 0xff,
        };
    }
    map
}

/// How many of `count` bitmaps a caller has room for, and how long each is.
pub(super) fn room(count: u32, most: i32, maplen: i32) -> Result<(u32, usize)> {
    let negative = || ERRORS.invalid("the number and the length of CPU maps must not be negative");
    let count = count.min(u32::try_from(most).map_err(|_| negative())?);
    let maplen = usize::try_from(maplen).map_err(|_| negative())?;
    let total = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(maplen);
    if maplen > CPUMAP_MAX || total > CPUMAPS_MAX || count > VCPUINFO_MAX {
        return Err(ERRORS.invalid(format_args!("{count} CPU maps of {maplen} bytes are too many")));
    }
    Ok((count, maplen))
}

#[cfg(test)]
mod tests {
    use api::ErrorCode;

    use super::*;
    use crate::test_driver::rig::{ask, test};

    #[test]
    fn cpu_maps_are_filled_from_the_first_cpu() {
        assert_eq!(all_cpus(16, 2), [0xff, 0xff]);
        assert_eq!(all_cpus(3, 2), [0b111, 0]);
        assert_eq!(all_cpus(17, 2), [0xff, 0xff]);
        assert!(room(2, 2, -1).is_err() && room(16_384, 16_384, 2048).is_err());
    }

    #[test]
    fn a_change_is_made_where_it_is_meant() {
        let (link, dom) = test();
        let count = |flags| ask(&link, remote::DomainGetVcpusFlagsArgs { dom: dom.clone(), flags }).unwrap().num;
        let set = |nvcpus, flags| ask(&link, remote::DomainSetVcpusFlagsArgs { dom: dom.clone(), nvcpus, flags });
        set(1, 1).unwrap();
        assert_eq!((count(1), count(2)), (1, 2));
        assert_eq!(set(3, 3).unwrap_err().code, ErrorCode::INVALID_ARG);
        let memory = remote::DomainSetMemoryFlagsArgs { dom: dom.clone(), memory: 1 << 20, flags: 2 };
        ask(&link, memory).unwrap();
        assert_eq!(ask(&link, remote::DomainGetInfoArgs { dom: dom.clone() }).unwrap().memory, 2 << 20, "it runs on");
        let rename = |name: &str| remote::DomainRenameArgs { dom: dom.clone(), new_name: Some(name.into()), flags: 0 };
        assert_eq!(ask(&link, rename("other")).unwrap_err().code, ErrorCode::OPERATION_INVALID);
        ask(&link, remote::DomainDestroyArgs { dom: dom.clone() }).unwrap();
        ask(&link, rename("other")).unwrap();
        assert_eq!(ask(&link, remote::DomainLookupByNameArgs { name: "other".into() }).unwrap().dom.uuid, dom.uuid);
    }

    #[test]
    fn what_is_of_a_run_needs_one() {
        let (link, dom) = test();
        let code = |flags| {
            let threads = remote::DomainGetIothreadInfoArgs { dom: dom.clone(), flags };
            let perf = remote::DomainGetPerfEventsArgs { dom: dom.clone(), flags };
            let numa = remote::DomainGetNumaParametersArgs { dom: dom.clone(), nparams: 0, flags };
            let [threads, perf, numa] = [ask(&link, threads).err(), ask(&link, perf).err(), ask(&link, numa).err()];
            let codes = [threads, perf, numa].map(|error| error.map(|error| error.code));
            assert!(codes.iter().all(|code| *code == codes[0]), "{codes:?}");
            codes[0]
        };
        assert_eq!([code(0), code(1), code(2), code(3)], [None, None, None, Some(ErrorCode::INVALID_ARG)]);
        ask(&link, remote::DomainDestroyArgs { dom: dom.clone() }).unwrap();
        assert_eq!([code(0), code(1), code(2)], [None, Some(ErrorCode::OPERATION_INVALID), None]);
        let max = ask(&link, remote::DomainGetMaxVcpusArgs { dom: dom.clone() });
        assert_eq!(max.unwrap_err().code, ErrorCode::OPERATION_INVALID);
        let agent = remote::DomainGetVcpusFlagsArgs { dom: dom.clone(), flags: 8 };
        assert_eq!(ask(&link, agent).unwrap_err().code, ErrorCode::INVALID_ARG);
    }

    #[test]
    fn limits_that_a_document_asks_for_are_not_denied() {
        let (link, dom) = test();
        let limits = |dom: &remote::Domain| {
            ask(&link, remote::DomainGetMemoryParametersArgs { dom: dom.clone(), nparams: 3, flags: 0 })
        };
        assert_eq!(limits(&dom).unwrap().params.len(), 3);
        let xml = "<domain type='test'><name>limited</name><memory>8192</memory><os><type>hvm</type></os>\
                   <memtune><hard_limit unit='KiB'>1</hard_limit></memtune></domain>";
        let limited = ask(&link, remote::DomainDefineXmlArgs { xml: xml.into() }).unwrap().dom;
        assert_eq!(limits(&limited).unwrap_err().code, ErrorCode::OPERATION_UNSUPPORTED);
    }
}
