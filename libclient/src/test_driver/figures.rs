//! What collectors of figures ask of a mock host besides: processor times, sizes of disks, limits, file systems.
//!
//! Which of them libvirt's own mock hypervisor has, this one has. The host's processors do what its guests make them do,
//! and a guest that no document limits has no limits.

use api::{
    Answer, ErrorCode, Op,
    consts::ModificationImpact,
    params::{self, Params},
    remote,
};
use model::Disk;
use registry::rules::IMPACT;

use super::{
    Context,
    breadth::all_cpus,
    driver::{known_flags, no_flags},
    machine::{ERRORS, Guest, Machine},
};
use crate::Result;

/// libvirt's number for no limit.
const UNLIMITED: u64 = 9_007_199_254_740_991;
/// The capacity and the allocation of every disk, in bytes: the values that libvirt's test driver answers.
const DISK_CAPACITY: u64 = 1_099_506_450_432;
const DISK_PHYSICAL: u64 = 1 << 40;
/// The file systems of a guest: where they are mounted, and which partition of the first disk each is on.
const FILE_SYSTEMS: [(&str, u32); 2] = [("/", 1), ("/boot", 2)];
/// The table's limit of what an answer may hold.
const CPU_STATS_MAX: usize = 2048;

/// The CPU models of an architecture that mock hosts are made of. Of some others libvirt has none, and some it does not
/// support.
const X86_MODELS: [&str; 8] = ["486", "pentium", "pentium2", "pentium3", "coreduo", "kvm32", "qemu32", "qemu64"];
const WITHOUT_MODELS: [&str; 5] = ["aarch64", "armv7l", "ppc64", "ppc64le", "s390x"];
const UNSUPPORTED: [&str; 7] = ["m68k", "mips", "mips64", "mipsel", "riscv32", "riscv64", "sparc"];

const SYSINFO: &str = "\
<sysinfo type='smbios'>
  <bios>
    <entry name='vendor'>Bulkhead</entry>
    <entry name='version'>1</entry>
  </bios>
  <system>
    <entry name='manufacturer'>Bulkhead</entry>
    <entry name='product'>Mock host</entry>
  </system>
</sysinfo>
";

impl Machine {
    // The host.

    pub(super) fn node_cpu_stats(
        &mut self,
        _: &mut Context,
        args: &remote::NodeGetCpuStatsArgs,
    ) -> Answer<remote::NodeGetCpuStatsRet> {
        const ALL: i32 = -1;
        no_flags(args.flags, Op::NodeGetCpuStats)?;
        let cpus = match args.cpu_num {
            ALL => self.node.cpus,
            cpu if u32::try_from(cpu).is_ok_and(|cpu| cpu < self.node.cpus) => 1,
            _ => return Err(ERRORS.invalid("Invalid cpuNum in virNodeGetCPUStats")),
        };
        // Its guests' processors are spread evenly.
        let busy: u64 = self.guests().map(Guest::cpu_time_ns).sum();
        let user = busy / u64::from(self.node.cpus.max(1)) * u64::from(cpus);
        let all = self.uptime_ns().saturating_mul(u64::from(cpus));
        let stat = |(field, value): (&str, u64)| remote::NodeGetCpuStats { field: field.into(), value };
        let list = [("kernel", 0), ("user", user), ("idle", all.saturating_sub(user)), ("iowait", 0)];
        let (params, nparams) = params::asked(list.into_iter().map(stat).collect(), args.nparams);
        Ok(remote::NodeGetCpuStatsRet { params, nparams }.into())
    }

    /// libvirt's test driver has the same series of counts in each cell, whatever cell and sizes are asked for.
    pub(super) fn free_pages(
        &mut self,
        _: &mut Context,
        args: &remote::NodeGetFreePagesArgs,
    ) -> Answer<remote::NodeGetFreePagesRet> {
        const MOST: usize = 1024;
        no_flags(args.flags, Op::NodeGetFreePages)?;
        let cells = usize::try_from(args.cell_count).unwrap_or(usize::MAX);
        if args.pages.len().saturating_mul(cells) > MOST {
            return Err(ERRORS.invalid(format_args!("more than {MOST} counts are asked for")));
        }
        let counts = |_| {
            let next = |count: &u64| Some(count.saturating_mul(2).saturating_add(7));
            std::iter::successors(Some(19), next).take(args.pages.len())
        };
        Ok(remote::NodeGetFreePagesRet {
            counts: (0..if args.pages.is_empty() { 0 } else { args.cell_count }).flat_map(counts).collect(),
        }
        .into())
    }

    pub(super) fn sysinfo(
        &mut self,
        _: &mut Context,
        args: &remote::ConnectGetSysinfoArgs,
    ) -> Answer<remote::ConnectGetSysinfoRet> {
        no_flags(args.flags, Op::ConnectGetSysinfo)?;
        Ok(remote::ConnectGetSysinfoRet { sysinfo: SYSINFO.into() }.into())
    }

    pub(super) fn cpu_models(
        &mut self,
        _: &mut Context,
        args: &remote::ConnectGetCpuModelNamesArgs,
    ) -> Answer<remote::ConnectGetCpuModelNamesRet> {
        no_flags(args.flags, Op::ConnectGetCpuModelNames)?;
        let models: &[&str] = match args.arch.as_str() {
            "i686" | "x86_64" => &X86_MODELS,
            other if WITHOUT_MODELS.contains(&other) => &[],
            other if UNSUPPORTED.contains(&other) => {
                let text = format!("'{other}' architecture is not supported by CPU driver");
                let message = format!("this function is not supported by the connection driver: {text}");
                return Err(ERRORS.told(ErrorCode::NO_SUPPORT, message));
            }
            other => return Err(ERRORS.invalid(format_args!("cannot find architecture {other}"))),
        };
        let ret = i32::try_from(models.len()).unwrap_or(i32::MAX);
        let wanted = models.iter().filter(|_| args.need_results != 0);
        Ok(remote::ConnectGetCpuModelNamesRet { models: wanted.map(ToString::to_string).collect(), ret }.into())
    }

    // A guest's processors.

    /// All of a guest's time, or that on each of the host's CPUs: its virtual CPU is on the first.
    pub(super) fn cpu_stats(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetCpuStatsArgs,
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

    pub(super) fn emulator_pins(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetEmulatorPinInfoArgs,
    ) -> Answer<remote::DomainGetEmulatorPinInfoRet> {
        known_flags(args.flags, IMPACT, Op::DomainGetEmulatorPinInfo)?;
        let cpus = self.node.cpus;
        self.unlimited(&args.dom, "cputune")?;
        self.guest(&args.dom)?.asked(args.flags)?;
        let (_, maplen) = super::breadth::room(1, 1, args.maplen)?;
        Ok(remote::DomainGetEmulatorPinInfoRet { cpumaps: all_cpus(cpus, maplen), ret: 1 }.into())
    }

    // Disks and file systems.

    pub(super) fn block_info(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetBlockInfoArgs,
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

    /// A guest that runs has libvirt's two file systems, on its first disk.
    pub(super) fn file_systems(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetFsinfoArgs,
    ) -> Answer<remote::DomainGetFsinfoRet> {
        no_flags(args.flags, Op::DomainGetFsinfo)?;
        let guest = self.guest(&args.dom)?;
        guest.running()?;
        let name = guest.disks().first().map_or("vda", |disk| &disk.target.dev);
        let info = FILE_SYSTEMS.map(|(mountpoint, partition)| remote::DomainFsinfo {
            mountpoint: mountpoint.into(),
            name: format!("{name}{partition}"),
            fstype: "ext4".into(),
            dev_aliases: vec![name.to_owned()],
        });
        Ok(remote::DomainGetFsinfoRet { info: info.to_vec(), ret: 2 }.into())
    }

    pub(super) fn freeze(
        &mut self,
        _: &mut Context,
        args: &remote::DomainFsfreezeArgs,
    ) -> Answer<remote::DomainFsfreezeRet> {
        no_flags(args.flags, Op::DomainFsfreeze)?;
        let filesystems = self.set_frozen(&args.dom, &args.mountpoints, true)?;
        Ok(remote::DomainFsfreezeRet { filesystems }.into())
    }

    pub(super) fn thaw(&mut self, _: &mut Context, args: &remote::DomainFsthawArgs) -> Answer<remote::DomainFsthawRet> {
        no_flags(args.flags, Op::DomainFsthaw)?;
        let filesystems = self.set_frozen(&args.dom, &args.mountpoints, false)?;
        Ok(remote::DomainFsthawRet { filesystems }.into())
    }

    /// How many file systems have changed by it, of all or of those that are named.
    fn set_frozen(&mut self, dom: &remote::Domain, mountpoints: &[String], frozen: bool) -> Result<i32> {
        let running = self.running(dom)?;
        mountpoints.iter().try_for_each(|path| check_mount_point(path))?;
        let is_meant = |path: &str| mountpoints.is_empty() || mountpoints.iter().any(|named| named == path);
        let meant = FILE_SYSTEMS.map(|(path, _)| path).into_iter().filter(|path| is_meant(path));
        let changed =
            |path: &&'static str| if frozen { running.frozen.insert(path) } else { running.frozen.remove(path) };
        Ok(i32::try_from(meant.filter(changed).count()).unwrap_or(i32::MAX))
    }

    pub(super) fn trim(&mut self, _: &mut Context, args: &remote::DomainFstrimArgs) -> Answer<()> {
        no_flags(args.flags, Op::DomainFstrim)?;
        self.guest(&args.dom)?.running()?;
        args.mount_point.as_deref().map_or(Ok(()), check_mount_point)?;
        Ok(().into())
    }

    pub(super) fn set_password(&mut self, _: &mut Context, args: &remote::DomainSetUserPasswordArgs) -> Answer<()> {
        const ENCRYPTED: u32 = 1;
        known_flags(args.flags, ENCRYPTED, Op::DomainSetUserPassword)?;
        self.guest(&args.dom)?.running()?;
        Ok(().into())
    }

    // Limits.

    pub(super) fn memory_parameters(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetMemoryParametersArgs,
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

    pub(super) fn numa_parameters(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetNumaParametersArgs,
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

    pub(super) fn interface_parameters(
        &mut self,
        _: &mut Context,
        args: &remote::DomainGetInterfaceParametersArgs,
    ) -> Answer<remote::DomainGetInterfaceParametersRet> {
        known_flags(args.flags, LISTS, Op::DomainGetInterfaceParameters)?;
        let guest = self.guest(&args.dom)?;
        guest.asked(args.flags)?;
        guest.check_interface(&args.device)?;
        let mut list = Params::new();
        for limit in ["inbound.average", "inbound.peak", "inbound.burst", "inbound.floor"] {
            list.uint(limit, 0);
        }
        for limit in ["outbound.average", "outbound.peak", "outbound.burst"] {
            list.uint(limit, 0);
        }
        let (params, nparams) = list.asked(args.nparams);
        Ok(remote::DomainGetInterfaceParametersRet { params, nparams }.into())
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

fn check_mount_point(path: &str) -> Result<()> {
    if FILE_SYSTEMS.iter().any(|(known, _)| *known == path) {
        return Ok(());
    }
    Err(ERRORS.wrong_state(format_args!("mount point not found: {path}")))
}

/// The flags of calls that only count and list what there is none of.
pub(super) const LISTS: u32 = IMPACT | params::STRING_OKAY;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_driver::rig::{ask, test};

    #[test]
    fn the_hosts_time_is_its_guests_and_idle() {
        let (link, _) = test();
        let stats = |cpu_num, nparams| ask(&link, remote::NodeGetCpuStatsArgs { cpu_num, nparams, flags: 0 });
        assert_eq!(stats(-1, 0).unwrap().nparams, 4);
        let fields: Vec<String> = stats(3, 4).unwrap().params.into_iter().map(|stat| stat.field).collect();
        assert_eq!(fields, ["kernel", "user", "idle", "iowait"]);
        let value = |cpu, at: usize| stats(cpu, 4).unwrap().params[at].value;
        assert!(value(-1, 2) > value(0, 2) && value(0, 2) > 0, "all CPUs are idle for longer than one");
        assert_eq!(stats(16, 4).unwrap_err().code, ErrorCode::INVALID_ARG);
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

    #[test]
    fn each_cell_has_free_pages_of_each_size() {
        let (link, _) = test();
        let pages = |pages: &[u32], cell_count| {
            let args = remote::NodeGetFreePagesArgs { pages: pages.to_vec(), start_cell: 0, cell_count, flags: 0 };
            ask(&link, args).map(|ret| ret.counts)
        };
        assert_eq!(pages(&[4, 8, 2048, 1 << 20], 2), Ok(vec![19, 45, 97, 201, 19, 45, 97, 201]));
        assert_eq!(pages(&[], u32::MAX), Ok(Vec::new()));
        assert_eq!(pages(&[4; 2], 513).unwrap_err().code, ErrorCode::INVALID_ARG);
    }

    #[test]
    fn file_systems_are_frozen_once() {
        let (link, dom) = test();
        let freeze = |mountpoints: &[&str]| {
            let mountpoints = mountpoints.iter().map(ToString::to_string).collect();
            ask(&link, remote::DomainFsfreezeArgs { dom: dom.clone(), mountpoints, flags: 0 })
                .map(|ret| ret.filesystems)
        };
        assert_eq!(freeze(&["/nowhere"]).unwrap_err().code, ErrorCode::OPERATION_INVALID);
        assert_eq!([freeze(&["/"]), freeze(&[]), freeze(&["/", "/boot"])], [Ok(1), Ok(1), Ok(0)]);
        let thaw = remote::DomainFsthawArgs { dom: dom.clone(), mountpoints: Vec::new(), flags: 0 };
        assert_eq!(ask(&link, thaw).unwrap().filesystems, 2);
        assert_eq!(ask(&link, remote::DomainGetFsinfoArgs { dom, flags: 0 }).unwrap().info[0].mountpoint, "/");
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
