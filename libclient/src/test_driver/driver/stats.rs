//! Statistics of guests. Figures that a real guest would make up by running are those of a guest that runs and does
//! nothing: its virtual CPUs are busy since the start, its disks are still, its memory is all in use.

use api::{
    Answer, DomainStatsOps, Op,
    consts::{AllDomainStats, DomainStats, ListDomains, MemoryStatTag, VcpuState},
    params::{self, Params},
    remote,
};
use model::Disk;

use super::{Context, agent::GUEST_TIME, flags, known_flags, no_flags};
use crate::test_driver::machine::{ERRORS, Guest, Machine};

/// The groups of statistics that a mock guest has.
const GROUPS: DomainStats =
    DomainStats::STATE.union(DomainStats::CPU_TOTAL).union(DomainStats::BALLOON).union(DomainStats::VCPU);
/// The capacity and the allocation of every disk, in bytes: the values that libvirt's test driver answers.
const DISK_CAPACITY: u64 = 1_099_506_450_432;
const DISK_PHYSICAL: u64 = 1 << 40;
/// The table's limit of what an answer may hold.
const CPU_STATS_MAX: usize = 2048;

impl DomainStatsOps for Machine {
    fn connect_get_all_domain_stats(
        &mut self,
        _: &mut Context,
        args: remote::ConnectGetAllDomainStatsArgs,
    ) -> Answer<remote::ConnectGetAllDomainStatsRet> {
        let chosen: AllDomainStats = flags(args.flags, Op::ConnectGetAllDomainStats)?;
        let missing = args.stats & !GROUPS.bits();
        if chosen.contains(AllDomainStats::ENFORCE_STATS) && missing != 0 {
            let text = format_args!("Stats types bits 0x{missing:x} are not supported by this driver");
            return Err(ERRORS.argument_unsupported(text));
        }
        let groups = if args.stats == 0 { GROUPS } else { DomainStats::from_bits_truncate(args.stats) & GROUPS };
        let filter = ListDomains::from_bits_truncate(args.flags);
        let named =
            |guest: &Guest<'_>| args.doms.is_empty() || args.doms.iter().any(|dom| dom.uuid == guest.dom().uuid);
        let guests = self.listed(filter).filter(named);
        let record = |guest: Guest<'_>| remote::DomainStatsRecord { dom: guest.dom(), params: stats(guest, groups) };
        Ok(remote::ConnectGetAllDomainStatsRet { ret_stats: guests.map(record).collect() }.into())
    }

    /// All of a guest's time, or that on each of the host's CPUs: its virtual CPU is on the first.
    fn domain_get_cpu_stats(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetCpuStatsArgs,
    ) -> Answer<remote::DomainGetCpuStatsRet> {
        const TOTAL: i32 = -1;
        known_flags(args.flags, params::STRING_OKAY, Op::DomainGetCpuStats)?;
        let cpus = self.node.cpus;
        let guest = self.guest(&args.dom)?;
        guest.running()?;
        let time = guest.cpu_time_ns();
        let answer = |params, nparams: usize| {
            let nparams = i32::try_from(nparams).unwrap_or(i32::MAX);
            Ok(remote::DomainGetCpuStatsRet { params, nparams }.into())
        };
        let per_cpu = usize::try_from(args.nparams).unwrap_or(usize::MAX);
        if args.start_cpu == TOTAL {
            let mut list = Params::new();
            list.ullong("cpu_time", time);
            list.ullong("user_time", time);
            list.ullong("system_time", 0);
            let mut params = list.into_vec();
            let count = if per_cpu == 0 { params.len() } else { params.len().min(per_cpu) };
            params.truncate(per_cpu);
            return answer(params, count);
        }
        if args.ncpus == 0 {
            return answer(Vec::new(), usize::try_from(cpus).unwrap_or(usize::MAX));
        }
        let first = u32::try_from(args.start_cpu).ok().filter(|first| *first < cpus);
        let first =
            first.ok_or_else(|| ERRORS.invalid(format_args!("start_cpu {} larger than maximum", args.start_cpu)))?;
        // One figure for each CPU.
        if per_cpu == 0 {
            return answer(Vec::new(), 1);
        }
        let mut list = Params::new();
        for cpu in first..first.saturating_add(args.ncpus).min(cpus) {
            list.ullong("cpu_time", if cpu == 0 { time } else { 0 });
        }
        let mut params = list.into_vec();
        params.truncate(CPU_STATS_MAX);
        answer(params, 1)
    }

    fn domain_memory_stats(
        &mut self,
        _: &mut Context,
        args: remote::DomainMemoryStatsArgs,
    ) -> Answer<remote::DomainMemoryStatsRet> {
        no_flags(args.flags, Op::DomainMemoryStats)?;
        let guest = self.guest(&args.dom)?;
        guest.running()?;
        let (_, current) = guest.memory_kib();
        let (half, stat) = (current / 2, |tag: MemoryStatTag, val| remote::DomainMemoryStat { tag: tag.number(), val });
        let stats = [
            stat(MemoryStatTag::ActualBalloon, current),
            stat(MemoryStatTag::SwapIn, 0),
            stat(MemoryStatTag::SwapOut, 0),
            stat(MemoryStatTag::MajorFault, 0),
            stat(MemoryStatTag::MinorFault, 0),
            stat(MemoryStatTag::Unused, half),
            stat(MemoryStatTag::Available, current),
            stat(MemoryStatTag::Usable, half),
            stat(MemoryStatTag::LastUpdate, GUEST_TIME),
            stat(MemoryStatTag::DiskCaches, current / 8),
            stat(MemoryStatTag::HugetlbPgalloc, 0),
            stat(MemoryStatTag::HugetlbPgfail, 0),
            stat(MemoryStatTag::Rss, half),
        ];
        let room = usize::try_from(args.max_stats).unwrap_or(usize::MAX);
        Ok(remote::DomainMemoryStatsRet { stats: stats.into_iter().take(room).collect() }.into())
    }

    fn domain_block_stats(
        &mut self,
        _: &mut Context,
        args: remote::DomainBlockStatsArgs,
    ) -> Answer<remote::DomainBlockStatsRet> {
        let guest = self.guest(&args.dom)?;
        let disks = &guest.running()?.domain().devices.disks;
        let named = |disk: &model::Disk| disk.target.dev == args.path || disk.source_path() == Some(&args.path);
        if args.path.is_empty() {
            return Err(ERRORS.unsupported("summary statistics are not supported yet"));
        }
        if !disks.iter().any(named) {
            return Err(ERRORS.invalid(format_args!("invalid path: {}", args.path)));
        }
        Ok(remote::DomainBlockStatsRet { errs: -1, ..Default::default() }.into())
    }

    fn domain_interface_stats(
        &mut self,
        _: &mut Context,
        args: remote::DomainInterfaceStatsArgs,
    ) -> Answer<remote::DomainInterfaceStatsRet> {
        let guest = self.guest(&args.dom)?;
        guest.running()?;
        guest.check_interface(&args.device)?;
        Ok(remote::DomainInterfaceStatsRet::default().into())
    }

    fn domain_get_block_info(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetBlockInfoArgs,
    ) -> Answer<remote::DomainGetBlockInfoRet> {
        no_flags(args.flags, Op::DomainGetBlockInfo)?;
        let disks = self.guest(&args.dom)?.disks();
        let named = |disk: &&Disk| disk.target.dev == args.path || disk.source_path() == Some(&args.path);
        let Some(disk) = disks.iter().find(named) else {
            return Err(ERRORS.invalid(format_args!("invalid path {} not assigned to domain", args.path)));
        };
        if disk.source_path().is_none() {
            let text = format_args!("disk '{}' does not currently have a source assigned", disk.target.dev);
            return Err(ERRORS.wrong_state(text));
        }
        let (capacity, physical, allocation) = (DISK_CAPACITY, DISK_PHYSICAL, DISK_PHYSICAL);
        Ok(remote::DomainGetBlockInfoRet { allocation, capacity, physical }.into())
    }
}

fn stats(guest: Guest<'_>, groups: DomainStats) -> Vec<remote::TypedParam> {
    let mut params = Params::new();
    let (state, reason) = guest.state();
    if groups.contains(DomainStats::STATE) {
        params.int("state.state", state.number());
        params.int("state.reason", reason);
    }
    if groups.contains(DomainStats::CPU_TOTAL) && guest.is_active() {
        params.ullong("cpu.time", guest.cpu_time_ns());
    }
    if groups.contains(DomainStats::BALLOON) {
        let (max, current) = guest.memory_kib();
        params.ullong("balloon.current", current);
        params.ullong("balloon.maximum", max);
    }
    if groups.contains(DomainStats::VCPU) {
        params.uint("vcpu.current", guest.vcpus());
        params.uint("vcpu.maximum", guest.max_vcpus());
        for vcpu in (0..guest.vcpus()).filter(|_| guest.is_active()) {
            params.int(format!("vcpu.{vcpu}.state"), VcpuState::Running.number());
            params.ullong(format!("vcpu.{vcpu}.time"), guest.cpu_time_ns());
        }
    }
    params.into_vec()
}

#[cfg(test)]
mod tests {
    use api::ErrorCode;

    use super::*;
    use crate::test_driver::rig::{ask, test};

    #[test]
    fn the_built_in_guest_has_statistics() {
        let (link, dom) = test();
        let all = ask(&link, remote::ConnectGetAllDomainStatsArgs::default()).unwrap().ret_stats;
        assert_eq!(all[0].dom, dom);
        let fields: Vec<&str> = all[0].params.iter().map(|param| param.field.as_str()).collect();
        assert_eq!(fields[..5], ["state.state", "state.reason", "cpu.time", "balloon.current", "balloon.maximum"]);
        let info = remote::DomainGetVcpusArgs { dom: dom.clone(), maxinfo: 4, maplen: 2 };
        let vcpus = ask(&link, info).unwrap();
        assert_eq!((vcpus.info.len(), vcpus.cpumaps), (2, vec![0xff; 4]));
        let block = remote::DomainBlockStatsArgs { dom, path: "vda".into() };
        ask(&link, block.clone()).unwrap();
        let code = |path: &str| {
            ask(&link, remote::DomainBlockStatsArgs { path: path.into(), ..block.clone() }).unwrap_err().code
        };
        assert_eq!((code("vdb"), code("")), (ErrorCode::INVALID_ARG, ErrorCode::OPERATION_UNSUPPORTED));
    }

    #[test]
    fn a_guests_time_is_asked_for_as_libvirts_library_does() {
        let (link, dom) = test();
        let stats = |start_cpu, ncpus, nparams| {
            ask(&link, remote::DomainGetCpuStatsArgs { dom: dom.clone(), nparams, start_cpu, ncpus, flags: 0 })
        };
        let count = |start, ncpus| stats(start, ncpus, 0).unwrap().nparams;
        assert_eq!((count(0, 0), count(0, 1), count(-1, 1)), (16, 1, 3), "CPUs, figures of one, figures of all");
        let each = stats(14, 128, 1).unwrap();
        assert_eq!((each.params.len(), each.nparams), (2, 1), "those that there are");
        let total = stats(-1, 1, 2).unwrap();
        assert_eq!((total.params.len(), total.nparams), (2, 2));
        assert_eq!(stats(16, 1, 1).unwrap_err().code, ErrorCode::INVALID_ARG);
    }
}
