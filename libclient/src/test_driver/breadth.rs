//! What else programs ask of a mock host: statistics, sizes, notes, and what its guests have nothing of.
//!
//! Figures that a real guest would make up by running are those of a guest that runs and does nothing: its virtual CPUs are
//! busy since the start, its disks are still, its memory is all in use.

use api::{
    Answer, Op, Operation,
    consts::{
        AllDomainStats, DomainStats, InterfaceAddressesSource, JobType, ListDomains, MemoryFlags, MemoryStatTag,
        MessageTypes, MetadataType, VcpuFlags, VcpuState,
    },
    notice::Notice,
    params::{self, Params},
    remote,
};
use model::Domain;
use registry::{
    jobs::JobRefusal,
    rules::{self, notes, size},
};

use super::{
    Context,
    driver::{flags, known_flags, no_flags, number},
    machine::{ERRORS, Guest, Machine},
    node::SECURITY_MODEL,
};
use crate::Result;

/// The groups of statistics that a mock guest has.
const GROUPS: DomainStats =
    DomainStats::STATE.union(DomainStats::CPU_TOTAL).union(DomainStats::BALLOON).union(DomainStats::VCPU);
/// libvirt's mock hypervisor gives every guest the same share.
const WEIGHT: u32 = 50;
/// The clock of every guest, in seconds since 1970: the value that libvirt's test driver answers.
const GUEST_TIME: u64 = 627_319_920;
/// Which CPUs of the host are online. libvirt's test driver answers a map of eight CPUs, although `nodeinfo` counts more.
const ONLINE_CPUS: u8 = 0b0001_0101;
/// The table's limits of what an answer may hold.
const CPUMAP_MAX: usize = 2048;
const CPUMAPS_MAX: usize = 8_388_608;
const VCPUINFO_MAX: u32 = 16_384;

impl Machine {
    // Statistics.

    pub(super) fn all_stats(
        &mut self,
        _: &mut Context,
        args: &remote::ConnectGetAllDomainStatsArgs,
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

    pub(super) fn memory_stats(
        &mut self,
        _: &mut Context,
        args: &remote::DomainMemoryStatsArgs,
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

    pub(super) fn block_stats(
        &mut self,
        _: &mut Context,
        args: &remote::DomainBlockStatsArgs,
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

    pub(super) fn interface_stats(
        &mut self,
        _: &mut Context,
        args: &remote::DomainInterfaceStatsArgs,
    ) -> Answer<remote::DomainInterfaceStatsRet> {
        let guest = self.guest(&args.dom)?;
        guest.running()?;
        guest.check_interface(&args.device)?;
        Ok(remote::DomainInterfaceStatsRet::default().into())
    }

    // Virtual CPUs and where they run.

    pub(super) fn vcpu_infos(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetVcpusArgs,
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

    pub(super) fn vcpu_pins(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetVcpuPinInfoArgs,
    ) -> Answer<remote::DomainGetVcpuPinInfoRet> {
        known_flags(args.flags, rules::IMPACT, Op::DomainGetVcpuPinInfo)?;
        let cpus = self.node.cpus;
        let vcpus = self.guest(&args.dom)?.asked(args.flags)?.vcpus.online();
        let (count, maplen) = room(vcpus, args.ncpumaps, args.maplen)?;
        let cpumaps = all_cpus(cpus, maplen).repeat(usize::try_from(count).unwrap_or_default());
        Ok(remote::DomainGetVcpuPinInfoRet { cpumaps, num: number(count) }.into())
    }

    pub(super) fn set_vcpus(&mut self, _: &mut Context, args: &remote::DomainSetVcpusArgs) -> Answer<()> {
        self.change_vcpus(&args.dom, args.nvcpus, VcpuFlags::LIVE)
    }

    pub(super) fn set_vcpus_flags(&mut self, _: &mut Context, args: &remote::DomainSetVcpusFlagsArgs) -> Answer<()> {
        self.change_vcpus(&args.dom, args.nvcpus, flags(args.flags, Op::DomainSetVcpusFlags)?)
    }

    fn change_vcpus(&mut self, dom: &remote::Domain, count: u32, flags: VcpuFlags) -> Answer<()> {
        no_flags((flags & VcpuFlags::GUEST).bits(), Op::DomainSetVcpusFlags)?;
        size::check_vcpus(&ERRORS, count)?;
        let maximum = flags.contains(VcpuFlags::MAXIMUM);
        self.change(dom, flags.bits(), |domain, live| size::set_vcpus(&ERRORS, domain, count, maximum, live))?;
        Ok(().into())
    }

    // Memory.

    pub(super) fn set_memory(&mut self, _: &mut Context, args: &remote::DomainSetMemoryArgs) -> Answer<()> {
        self.change_memory(&args.dom, args.memory, MemoryFlags::LIVE)
    }

    pub(super) fn set_memory_flags(&mut self, _: &mut Context, args: &remote::DomainSetMemoryFlagsArgs) -> Answer<()> {
        self.change_memory(&args.dom, args.memory, flags(args.flags, Op::DomainSetMemoryFlags)?)
    }

    pub(super) fn set_max_memory(&mut self, _: &mut Context, args: &remote::DomainSetMaxMemoryArgs) -> Answer<()> {
        self.change_memory(&args.dom, args.memory, MemoryFlags::MAXIMUM)
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

    // Notes and names.

    pub(super) fn metadata(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetMetadataArgs,
    ) -> Answer<remote::DomainGetMetadataRet> {
        known_flags(args.flags, rules::IMPACT, Op::DomainGetMetadata)?;
        let kind = notes::check_question(&ERRORS, args)?;
        let metadata = notes::read(&ERRORS, self.guest(&args.dom)?.asked(args.flags)?, kind, args.uri.as_deref())?;
        Ok(remote::DomainGetMetadataRet { metadata }.into())
    }

    pub(super) fn set_metadata(&mut self, _: &mut Context, args: &remote::DomainSetMetadataArgs) -> Answer<()> {
        known_flags(args.flags, rules::IMPACT, Op::DomainSetMetadata)?;
        let kind = notes::check(&ERRORS, args)?;
        self.change(&args.dom, args.flags, |domain, _| notes::write(&ERRORS, domain, args))?;
        let uri = args.uri.clone().filter(|_| kind == MetadataType::Element);
        self.tell(&args.dom, Notice::MetadataChange { kind: kind.number(), uri })?;
        Ok(().into())
    }

    pub(super) fn rename_by(
        &mut self,
        _: &mut Context,
        args: &remote::DomainRenameArgs,
    ) -> Answer<remote::DomainRenameRet> {
        no_flags(args.flags, Op::DomainRename)?;
        let name = rules::new_name(&ERRORS, args.new_name.as_deref(), Op::DomainRename)?;
        self.rename(&args.dom, name)?;
        Ok(remote::DomainRenameRet { retcode: 0 }.into())
    }

    // The host.

    pub(super) fn cpu_map(
        &mut self,
        _: &mut Context,
        args: &remote::NodeGetCpuMapArgs,
    ) -> Answer<remote::NodeGetCpuMapRet> {
        no_flags(args.flags, Op::NodeGetCpuMap)?;
        let cpumap = if args.need_map == 0 { Vec::new() } else { vec![ONLINE_CPUS] };
        let online = if args.need_online == 0 { 0 } else { ONLINE_CPUS.count_ones() };
        Ok(remote::NodeGetCpuMapRet { cpumap, online, ret: 8 }.into())
    }

    /// What the guests leave of the memory, in KiB.
    fn free_kib(&self) -> u64 {
        let used = self.active().map(|guest| guest.memory_kib().1);
        self.node.memory_kib.saturating_sub(used.sum())
    }

    pub(super) fn free_memory(
        &mut self,
        _: &mut Context,
        _: &remote::NodeGetFreeMemoryArgs,
    ) -> Answer<remote::NodeGetFreeMemoryRet> {
        Ok(remote::NodeGetFreeMemoryRet { free_mem: self.free_kib().saturating_mul(1024) }.into())
    }

    pub(super) fn cells_free_memory(
        &mut self,
        _: &mut Context,
        args: &remote::NodeGetCellsFreeMemoryArgs,
    ) -> Answer<remote::NodeGetCellsFreeMemoryRet> {
        let nodes = self.node.nodes.clamp(1, 128);
        let start = u32::try_from(args.start_cell).ok().filter(|start| *start < nodes).ok_or_else(|| {
            ERRORS.invalid(format_args!("start cell {} out of range (0-{})", args.start_cell, nodes - 1))
        })?;
        let each = self.free_kib().saturating_mul(1024) / u64::from(nodes);
        let most = usize::try_from(args.maxcells).unwrap_or_default();
        Ok(remote::NodeGetCellsFreeMemoryRet { cells: (start..nodes).map(|_| each).take(most).collect() }.into())
    }

    pub(super) fn node_memory_stats(
        &mut self,
        _: &mut Context,
        args: &remote::NodeGetMemoryStatsArgs,
    ) -> Answer<remote::NodeGetMemoryStatsRet> {
        no_flags(args.flags, Op::NodeGetMemoryStats)?;
        let nodes = self.node.nodes.clamp(1, 128);
        let share = match args.cell_num {
            -1 => 1,
            cell if u32::try_from(cell).is_ok_and(|cell| cell < nodes) => u64::from(nodes),
            cell => return Err(ERRORS.invalid(format_args!("there is no cell {cell}"))),
        };
        let stat = |field: &str, kib: u64| remote::NodeGetMemoryStats { field: field.into(), value: kib / share };
        let list = vec![stat("total", self.node.memory_kib), stat("free", self.free_kib())];
        let (params, nparams) = params::asked(list, args.nparams);
        Ok(remote::NodeGetMemoryStatsRet { params, nparams }.into())
    }

    pub(super) fn security_model(
        &mut self,
        _: &mut Context,
        _: &remote::NodeGetSecurityModelArgs,
    ) -> Answer<remote::NodeGetSecurityModelRet> {
        let (model, doi) = (api::chars::terminated(SECURITY_MODEL), api::chars::terminated(""));
        Ok(remote::NodeGetSecurityModelRet { model, doi }.into())
    }

    // A guest's inside, as far as a mock has one.

    pub(super) fn guest_time(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetTimeArgs,
    ) -> Answer<remote::DomainGetTimeRet> {
        no_flags(args.flags, Op::DomainGetTime)?;
        self.guest(&args.dom)?.running()?;
        let seconds = i64::try_from(GUEST_TIME).unwrap_or(i64::MAX);
        Ok(remote::DomainGetTimeRet { seconds, nseconds: 0 }.into())
    }

    pub(super) fn guest_hostname(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetHostnameArgs,
    ) -> Answer<remote::DomainGetHostnameRet> {
        const SOURCES: u32 = 0x3;
        known_flags(args.flags, SOURCES, Op::DomainGetHostname)?;
        self.guest(&args.dom)?.running()?;
        Ok(remote::DomainGetHostnameRet { hostname: "testhost".into() }.into())
    }

    pub(super) fn press_keys(&mut self, _: &mut Context, args: &remote::DomainSendKeyArgs) -> Answer<()> {
        no_flags(args.flags, Op::DomainSendKey)?;
        if args.keycodes.is_empty() {
            return Err(ERRORS.invalid("no key is to be pressed"));
        }
        self.guest(&args.dom)?.running()?;
        Ok(().into())
    }

    pub(super) fn scheduler_type(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetSchedulerTypeArgs,
    ) -> Answer<remote::DomainGetSchedulerTypeRet> {
        self.guest(&args.dom)?;
        Ok(remote::DomainGetSchedulerTypeRet { r#type: "fair".into(), nparams: 1 }.into())
    }

    pub(super) fn scheduler_parameters(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetSchedulerParametersArgs,
    ) -> Answer<remote::DomainGetSchedulerParametersRet> {
        self.guest(&args.dom)?;
        let mut list = Params::new();
        list.uint("weight", WEIGHT);
        Ok(remote::DomainGetSchedulerParametersRet { params: list.asked(args.nparams).0 }.into())
    }

    // What there is nothing of.

    pub(super) fn job_info(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetJobInfoArgs,
    ) -> Answer<remote::DomainGetJobInfoRet> {
        self.guest(&args.dom)?.running()?;
        Ok(remote::DomainGetJobInfoRet { r#type: JobType::None.number(), ..Default::default() }.into())
    }

    pub(super) fn abort_job(&mut self, _: &mut Context, args: &remote::DomainAbortJobArgs) -> Answer<()> {
        self.guest(&args.dom)?.running()?;
        Err(JobRefusal::None.error(&ERRORS))
    }

    pub(super) fn control_info(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetControlInfoArgs,
    ) -> Answer<remote::DomainGetControlInfoRet> {
        no_flags(args.flags, Op::DomainGetControlInfo)?;
        self.guest(&args.dom)?.running()?;
        Ok(remote::DomainGetControlInfoRet::default().into())
    }

    pub(super) fn security_label(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetSecurityLabelArgs,
    ) -> Answer<remote::DomainGetSecurityLabelRet> {
        self.guest(&args.dom)?;
        Ok(remote::DomainGetSecurityLabelRet { label: api::chars::terminated("libvirt-test"), enforcing: 1 }.into())
    }

    pub(super) fn addresses(
        &mut self,
        _: &mut Context,
        args: &remote::DomainInterfaceAddressesArgs,
    ) -> Answer<remote::DomainInterfaceAddressesRet> {
        no_flags(args.flags, Op::DomainInterfaceAddresses)?;
        if i32::try_from(args.source).ok().and_then(|source| InterfaceAddressesSource::try_from(source).ok()).is_none()
        {
            let text = format_args!("Unknown IP address data source {}", args.source);
            return Err(ERRORS.argument_unsupported(text));
        }
        let guest = self.guest(&args.dom)?;
        guest.running()?;
        // libvirt's: the third address of its default network, and those that follow.
        let interface = |((name, hwaddr), host): ((String, String), u32)| remote::DomainInterface {
            name,
            hwaddr: Some(hwaddr),
            addrs: vec![remote::DomainIpAddr { r#type: 0, addr: format!("192.168.122.{}", host % 256), prefix: 24 }],
        };
        let ifaces = guest.interfaces().into_iter().zip(3..).map(interface).collect();
        Ok(remote::DomainInterfaceAddressesRet { ifaces }.into())
    }

    pub(super) fn guest_messages(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetMessagesArgs,
    ) -> Answer<remote::DomainGetMessagesRet> {
        flags::<MessageTypes>(args.flags, Op::DomainGetMessages)?;
        self.empty(&args.dom)
    }

    /// The answer of a domain that is there and has none of what is asked for.
    pub(super) fn empty<R: Default>(&mut self, dom: &remote::Domain) -> Answer<R> {
        self.guest(dom)?;
        Ok(R::default().into())
    }

    /// The same, where the call has flags that filter.
    pub(super) fn empty_list<A: Operation>(&mut self, dom: &remote::Domain, bits: u32, known: u32) -> Answer<A::Ret>
    where
        A::Ret: Default,
    {
        known_flags(bits, known, A::OP)?;
        match A::OP {
            Op::DomainGetIothreadInfo | Op::DomainGetPerfEvents => {
                self.guest(dom)?.asked(bits & rules::IMPACT).map(drop)?
            }
            Op::DomainGetDiskErrors => self.guest(dom)?.running().map(drop)?,
            _ => {}
        }
        self.empty(dom)
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
    use super::*;
    use crate::test_driver::rig::{ask, test};
    use api::ErrorCode;

    #[test]
    fn cpu_maps_are_filled_from_the_first_cpu() {
        assert_eq!(all_cpus(16, 2), [0xff, 0xff]);
        assert_eq!(all_cpus(3, 2), [0b111, 0]);
        assert_eq!(all_cpus(17, 2), [0xff, 0xff]);
        assert!(room(2, 2, -1).is_err() && room(16_384, 16_384, 2048).is_err());
    }

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
    fn a_guest_has_the_interfaces_of_its_document() {
        let (link, dom) = test();
        let stats =
            |device: &str| ask(&link, remote::DomainInterfaceStatsArgs { dom: dom.clone(), device: device.into() });
        stats("testnet0").unwrap();
        assert_eq!(stats("testnet1").unwrap_err().code, ErrorCode::INVALID_ARG);
        let args = remote::DomainInterfaceAddressesArgs { dom: dom.clone(), source: 0, flags: 0 };
        let found = ask(&link, args).unwrap().ifaces;
        assert_eq!((found.len(), found[0].name.as_str()), (1, "testnet0"));
        assert_eq!(found[0].hwaddr.as_deref(), Some("aa:bb:cc:dd:ee:ff"));
        assert_eq!(found[0].addrs[0].addr, "192.168.122.3");
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
    fn notes_are_kept_for_each_application() {
        let (link, dom) = test();
        let note = |text: Option<&str>| remote::DomainSetMetadataArgs {
            dom: dom.clone(),
            r#type: MetadataType::Element.number(),
            metadata: text.map(Into::into),
            key: Some("k".into()),
            uri: Some("urn:k".into()),
            flags: 3,
        };
        let read = |flags| {
            let (r#type, uri) = (MetadataType::Element.number(), Some("urn:k".into()));
            ask(&link, remote::DomainGetMetadataArgs { dom: dom.clone(), r#type, uri, flags })
        };
        ask(&link, note(Some("<x/>"))).unwrap();
        assert_eq!((read(1).unwrap().metadata, read(2).unwrap().metadata), ("<x/>".into(), "<x/>".into()));
        assert_eq!(ask(&link, note(Some("<x"))).unwrap_err().code, ErrorCode::XML_DETAIL);
        ask(&link, note(None)).unwrap();
        assert_eq!(read(0).unwrap_err().code, ErrorCode::NO_DOMAIN_METADATA);
    }
}
