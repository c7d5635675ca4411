//! Statistics: of all domains in one pass, and of one domain's memory, processors and disks.
//!
//! State, processor time and virtual CPUs are the kernel's and control's own. Only a balloon and disks have to be asked of
//! QEMU: all guests are asked at once, each in one message, and each has a deadline. A guest that misses it is listed
//! without the figures that only its QEMU knows.

use std::{cell::RefCell, collections::HashSet, rc::Rc, time::Duration};

use api::{
    Answer, DomainStatsOps, Error, ErrorCode, ErrorDomain, Outcome, Reply,
    consts::{AllDomainStats, DomainStats, ListDomains, MemoryStatTag, VcpuState},
    params::{self, Params},
    remote,
};
use model::Domain;
use registry::{Object, list::passes};
use supervisor::protocol::{Answer as Said, Block, Measure, Measured, Request};
use uuid::Uuid;

use super::{
    Control,
    domains::handle,
    driver::{Asked, only},
    errors,
    guests::{GuestError, Process, SupervisorReply},
    store::definitions::{DiskPlace, disks},
};

/// How long a guest's QEMU may take when all are asked.
const PATIENCE: Duration = Duration::from_secs(1);
/// And when nobody is to be waited for.
const NO_PATIENCE: Duration = Duration::from_millis(200);
/// What its supervisor has on top.
const GRACE: Duration = Duration::from_millis(500);
/// The groups that this driver has.
const GROUPS: DomainStats = DomainStats::STATE
    .union(DomainStats::CPU_TOTAL)
    .union(DomainStats::BALLOON)
    .union(DomainStats::VCPU)
    .union(DomainStats::INTERFACE)
    .union(DomainStats::BLOCK);
/// What the calls do.
const STATS: &str = "read the statistics of";
const BLOCKS: &str = "read the block statistics of";
const LOOK: &str = "look at a disk of";
/// The statistics of a disk that cannot be told.
const UNKNOWN: i64 = -1;

/// The answer for all domains in the making.
struct Gathering {
    asked: Asked,
    groups: DomainStats,
    records: Vec<(Uuid, Option<Box<Measured>>)>,
    /// Guests that have not answered yet, and one for who is still asking.
    left: usize,
}

type Shared = Rc<RefCell<Gathering>>;

impl DomainStatsOps for Control {
    /// Statistics of the domains that are named, or of all.
    fn connect_get_all_domain_stats(
        &mut self,
        cx: &mut Asked,
        args: remote::ConnectGetAllDomainStatsArgs,
    ) -> Answer<remote::ConnectGetAllDomainStatsRet> {
        only(args.flags, AllDomainStats::all().bits(), "virConnectGetAllDomainStats")?;
        let flags = AllDomainStats::from_bits_truncate(args.flags);
        let groups = groups(args.stats, flags.contains(AllDomainStats::ENFORCE_STATS))?;
        let uuids = self.chosen(&args.doms, ListDomains::from_bits_truncate(args.flags));
        let patience = if flags.contains(AllDomainStats::NOWAIT) { NO_PATIENCE } else { PATIENCE };
        let patience = patience.min(self.config.guest_deadline);
        let records = uuids.iter().map(|uuid| (*uuid, None)).collect();
        let gathering = Rc::new(RefCell::new(Gathering { asked: cx.later(), groups, records, left: 1 }));
        for (index, uuid) in uuids.iter().enumerate() {
            self.gather_stats(&gathering, index, uuid, groups, patience);
        }
        self.gathered(&gathering);
        Ok(Outcome::Pending)
    }

    /// What a guest's processes have used of the processors: of all together only, since nobody counts for each of the
    /// host's.
    fn domain_get_cpu_stats(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetCpuStatsArgs,
    ) -> Answer<remote::DomainGetCpuStatsRet> {
        only(args.flags, params::STRING_OKAY, "virDomainGetCPUStats")?;
        let id = self.running(&args.dom)?;
        if args.start_cpu != -1 {
            return Err(errors::unsupported_operation("the processor time of a guest is not counted for each CPU")
                .with_hint("ask for the total (--total)"));
        }
        let mut list = Params::new();
        let process = self.guests.get(&id).and_then(|guest| guest.process.as_ref());
        if let Some(time) = process.and_then(Process::cpu_time) {
            list.ullong("cpu_time", time.total_ns);
            list.ullong("user_time", time.user_ns);
            list.ullong("system_time", time.system_ns);
        }
        // Unlike its sisters, this one counts also what it sends.
        let (params, more) = list.asked(i32::try_from(args.nparams).unwrap_or(i32::MAX));
        let nparams = more.max(i32::try_from(params.len()).unwrap_or(i32::MAX));
        Ok(remote::DomainGetCpuStatsRet { params, nparams }.into())
    }

    /// A guest's memory: what its balloon tells, and what it takes of the host.
    fn domain_memory_stats(
        &mut self,
        cx: &mut Asked,
        args: remote::DomainMemoryStatsArgs,
    ) -> Answer<remote::DomainMemoryStatsRet> {
        only(args.flags, 0, "virDomainMemoryStats")?;
        let id = self.running(&args.dom)?;
        let room = usize::try_from(args.max_stats).unwrap_or(usize::MAX);
        let doing = "read the memory statistics of";
        let domain = self.live(id, doing)?;
        let (has_balloon, memory_kib) = (has_balloon(domain), domain.current_memory_kib);
        let stats = move |control: &Control, measured: &Measured| {
            let number = |tag: MemoryStatTag, val| remote::DomainMemoryStat { tag: tag.number(), val };
            // Without a balloon a guest has all that it was given.
            let given = (!has_balloon).then(|| number(MemoryStatTag::ActualBalloon, memory_kib));
            let balloon = measured.balloon.iter().flat_map(|balloon| {
                let actual = number(MemoryStatTag::ActualBalloon, balloon.actual_kib);
                let told = balloon.stats.iter().map(|(tag, val)| remote::DomainMemoryStat { tag: *tag, val: *val });
                [actual].into_iter().chain(told)
            });
            let process = control.guests.get(&id).and_then(|guest| guest.process.as_ref());
            let rss = process.and_then(Process::rss_kib).map(|kib| number(MemoryStatTag::Rss, kib));
            let stats = given.into_iter().chain(balloon).chain(rss).take(room).collect();
            Ok(Reply::DomainMemoryStats(remote::DomainMemoryStatsRet { stats }))
        };
        self.measure_one(cx, id, has_balloon, false, doing, stats);
        Ok(Outcome::Pending)
    }

    /// What has gone through a disk, or through all of them, since the guest started.
    fn domain_block_stats(
        &mut self,
        cx: &mut Asked,
        args: remote::DomainBlockStatsArgs,
    ) -> Answer<remote::DomainBlockStatsRet> {
        let id = self.running(&args.dom)?;
        let disk = self.disk_or_all(id, &args.path)?;
        let fill = move |_: &Control, measured: &Measured| {
            let sum = chosen_blocks(measured, disk.as_deref())?;
            Ok(Reply::DomainBlockStats(remote::DomainBlockStatsRet {
                rd_req: signed(sum.rd_reqs),
                rd_bytes: signed(sum.rd_bytes),
                wr_req: signed(sum.wr_reqs),
                wr_bytes: signed(sum.wr_bytes),
                errs: UNKNOWN,
            }))
        };
        self.measure_one(cx, id, false, true, BLOCKS, fill);
        Ok(Outcome::Pending)
    }

    /// The same and more, as a list.
    fn domain_block_stats_flags(
        &mut self,
        cx: &mut Asked,
        args: remote::DomainBlockStatsFlagsArgs,
    ) -> Answer<remote::DomainBlockStatsFlagsRet> {
        only(args.flags, params::STRING_OKAY, "virDomainBlockStatsFlags")?;
        let id = self.running(&args.dom)?;
        let disk = self.disk_or_all(id, &args.path)?;
        let room = args.nparams;
        let fill = move |_: &Control, measured: &Measured| {
            let sum = chosen_blocks(measured, disk.as_deref())?;
            let mut list = Params::new();
            list.llong("wr_bytes", signed(sum.wr_bytes));
            list.llong("wr_operations", signed(sum.wr_reqs));
            list.llong("rd_bytes", signed(sum.rd_bytes));
            list.llong("rd_operations", signed(sum.rd_reqs));
            list.llong("flush_operations", signed(sum.fl_reqs));
            list.llong("wr_total_times", signed(sum.wr_times));
            list.llong("rd_total_times", signed(sum.rd_times));
            list.llong("flush_total_times", signed(sum.fl_times));
            let (params, nparams) = list.asked(room);
            Ok(Reply::DomainBlockStatsFlags(remote::DomainBlockStatsFlagsRet { params, nparams }))
        };
        self.measure_one(cx, id, false, true, BLOCKS, fill);
        Ok(Outcome::Pending)
    }

    /// How large a running guest's disk is. Of one that does not run nobody here may open the image.
    fn domain_get_block_info(
        &mut self,
        cx: &mut Asked,
        args: remote::DomainGetBlockInfoArgs,
    ) -> Answer<remote::DomainGetBlockInfoRet> {
        only(args.flags, 0, "virDomainGetBlockInfo")?;
        let uuid = self.known(&args.dom)?;
        let disks = self.disks_of(&uuid, LOOK)?;
        let (name, path) = find_disk(&disks, &args.path)
            .ok_or_else(|| errors::invalid(format!("invalid path {} not assigned to domain", args.path)))?;
        if path.is_none() {
            return Err(errors::invalid(format!("disk '{name}' does not currently have a source assigned")));
        }
        let Some(id) = self.active(&uuid).map(|guest| guest.id) else {
            return Err(errors::unsupported_operation("the size of a disk is known only while its domain runs")
                .with_hint("start the domain, or ask qemu-img"));
        };
        let disk = name.clone();
        let fill = move |_: &Control, measured: &Measured| {
            let block = chosen_blocks(measured, Some(&disk))?;
            let capacity = block.capacity.ok_or_else(|| errors::wrong_state(format!("disk '{disk}' has no medium")))?;
            let physical = block.physical.unwrap_or_default();
            let ret = remote::DomainGetBlockInfoRet { allocation: block.highest, capacity, physical };
            Ok(Reply::DomainGetBlockInfo(ret))
        };
        self.measure_one(cx, id, false, true, LOOK, fill);
        Ok(Outcome::Pending)
    }

    fn domain_interface_stats(
        &mut self,
        _: &mut Asked,
        args: remote::DomainInterfaceStatsArgs,
    ) -> Answer<remote::DomainInterfaceStatsRet> {
        self.running(&args.dom)?;
        Err(errors::invalid(format!("'{}' is not a known interface", args.device)))
    }
}

impl Control {
    /// Those of the domains named that there are, or all, as far as they pass the filter.
    fn chosen(&self, named: &[remote::Domain], filter: ListDomains) -> Vec<Uuid> {
        if named.is_empty() {
            return self.objects.list(filter).map(Object::uuid).collect();
        }
        // Each once: a short call that names a guest a thousand times costs as much as a thousand guests.
        let mut seen = HashSet::new();
        let uuids = named.iter().map(|dom| Uuid::from_bytes(dom.uuid)).filter(|uuid| seen.insert(*uuid));
        uuids.filter(|uuid| self.objects.get(uuid).is_some_and(|object| passes(&object.facts(), filter))).collect()
    }

    fn gather_stats(&mut self, gathering: &Shared, index: usize, uuid: &Uuid, groups: DomainStats, patience: Duration) {
        let Some(guest) = self.up(uuid) else { return };
        let id = guest.id;
        let Some(wanted) = self.live(id, STATS).ok().and_then(|domain| wanted(domain, groups, patience)) else {
            return;
        };
        gathering.borrow_mut().left += 1;
        let shared = Rc::clone(gathering);
        let then = move |control: &mut Control, told: SupervisorReply| {
            if let (Ok((Said::Measured(measured), _)), Some((_, place))) =
                (told, shared.borrow_mut().records.get_mut(index))
            {
                *place = Some(measured);
            }
            control.gathered(&shared);
        };
        self.ask_guest_within(id, &Request::Measure(wanted), Vec::new(), patience + GRACE, Box::new(then));
    }

    /// One more is there; the last one sends the answer.
    fn gathered(&mut self, gathering: &Shared) {
        let (asked, groups, records) = {
            let mut gathering = gathering.borrow_mut();
            gathering.left = gathering.left.saturating_sub(1);
            if gathering.left > 0 {
                return;
            }
            (gathering.asked.later(), gathering.groups, std::mem::take(&mut gathering.records))
        };
        // A domain that went in the meantime is not told of.
        let records = records.into_iter().filter_map(|(uuid, measured)| {
            let dom = self.objects.get(&uuid).map(handle)?;
            Some(remote::DomainStatsRecord {
                dom,
                params: self.stats_of(&uuid, groups, measured.as_deref()).into_vec(),
            })
        });
        let ret = remote::ConnectGetAllDomainStatsRet { ret_stats: records.collect() };
        self.answer(&asked, Ok((Reply::ConnectGetAllDomainStats(ret), Vec::new())));
    }

    /// One domain's statistics, in libvirt's order and under libvirt's names.
    fn stats_of(&self, uuid: &Uuid, groups: DomainStats, measured: Option<&Measured>) -> Params {
        let mut params = Params::new();
        let guest = self.active(uuid);
        let process = guest.and_then(|guest| guest.process.as_ref());
        if groups.contains(DomainStats::STATE) {
            let (state, reason) = self.state(uuid);
            params.int("state.state", state);
            params.int("state.reason", reason);
        }
        if groups.contains(DomainStats::CPU_TOTAL) {
            cpu(&mut params, process);
        }
        if groups.contains(DomainStats::BALLOON) {
            self.balloon(&mut params, uuid, process, measured);
        }
        if groups.contains(DomainStats::VCPU) {
            self.vcpu(&mut params, uuid, process);
        }
        if groups.contains(DomainStats::INTERFACE) && guest.is_some() {
            // The planner starts no guest with an interface yet.
            params.uint("net.count", 0);
        }
        if groups.contains(DomainStats::BLOCK) {
            self.block(&mut params, uuid, measured);
        }
        params
    }

    fn balloon(&self, params: &mut Params, uuid: &Uuid, process: Option<&Process>, measured: Option<&Measured>) {
        let balloon = measured.and_then(|measured| measured.balloon.as_ref());
        if let Ok(size) = self.size_of(uuid, STATS) {
            params.ullong("balloon.current", balloon.map_or(size.memory_kib, |balloon| balloon.actual_kib));
            params.ullong("balloon.maximum", size.max_memory_kib);
        }
        for (tag, value) in balloon.map(|balloon| balloon.stats.as_slice()).unwrap_or_default() {
            if let Ok(tag) = MemoryStatTag::try_from(*tag) {
                params.ullong(format!("balloon.{}", tag.name()), *value);
            }
        }
        if let Some(rss) = process.and_then(Process::rss_kib) {
            params.ullong("balloon.rss", rss);
        }
    }

    fn vcpu(&self, params: &mut Params, uuid: &Uuid, process: Option<&Process>) {
        let Ok(size) = self.size_of(uuid, STATS) else { return };
        params.uint("vcpu.current", size.vcpus);
        params.uint("vcpu.maximum", size.max_vcpus);
        let Some(process) = process else { return };
        for vcpu in 0..size.vcpus {
            params.int(format!("vcpu.{vcpu}.state"), VcpuState::Running.number());
            if let Some(time) = process.vcpu_time(vcpu) {
                params.ullong(format!("vcpu.{vcpu}.time"), time.run_ns);
                params.ullong(format!("vcpu.{vcpu}.delay"), time.delay_ns);
            }
        }
    }

    fn block(&self, params: &mut Params, uuid: &Uuid, measured: Option<&Measured>) {
        let Ok(disks) = self.disks_of(uuid, STATS) else { return };
        params.uint("block.count", u32::try_from(disks.len()).unwrap_or(u32::MAX));
        let blocks = measured.and_then(|measured| measured.blocks.as_deref()).unwrap_or_default();
        for (index, (name, path)) in disks.iter().enumerate() {
            params.string(format!("block.{index}.name"), name);
            if let Some(path) = path {
                params.string(format!("block.{index}.path"), path);
            }
            let Some(block) = block_of(blocks, name) else { continue };
            let mut add = |what: &str, value| params.ullong(format!("block.{index}.{what}"), value);
            add("rd.reqs", block.rd_reqs);
            add("rd.bytes", block.rd_bytes);
            add("rd.times", block.rd_times);
            add("wr.reqs", block.wr_reqs);
            add("wr.bytes", block.wr_bytes);
            add("wr.times", block.wr_times);
            add("fl.reqs", block.fl_reqs);
            add("fl.times", block.fl_times);
            if let Some(capacity) = block.capacity {
                add("allocation", block.highest);
                add("capacity", capacity);
            }
            if let Some(physical) = block.physical {
                add("physical", physical);
            }
        }
    }

    /// What each disk is called and where its image is.
    fn disks_of(&self, uuid: &Uuid, doing: &str) -> Result<Box<[DiskPlace]>, Error> {
        match self.active(uuid) {
            Some(guest) => self.live(guest.id, doing).map(disks),
            None => Ok(self.defined(uuid).map(|summary| summary.disks.clone()).unwrap_or_default()),
        }
    }

    // One domain's.

    /// The disk that a running guest's call names by target or path; none for the empty name, which means all.
    fn disk_or_all(&self, id: u32, named: &str) -> Result<Option<String>, Error> {
        if named.is_empty() {
            return Ok(None);
        }
        let disks = disks(self.live(id, BLOCKS)?);
        let found = find_disk(&disks, named).map(|(name, _)| Some(name.clone()));
        found.ok_or_else(|| errors::invalid(format!("invalid path: {named}")))
    }

    /// Asks one guest's QEMU for numbers. Without the numbers there is no answer but why.
    fn measure_one(
        &mut self,
        cx: &Asked,
        id: u32,
        balloon: bool,
        blocks: bool,
        doing: &'static str,
        fill: impl FnOnce(&Control, &Measured) -> Result<Reply, Error> + 'static,
    ) {
        let asked = cx.later();
        let name = self.guests.get(&id).map(|guest| guest.name.clone()).unwrap_or_default();
        let deadline_ms = u32::try_from(self.config.guest_deadline.as_millis()).unwrap_or(u32::MAX);
        let then = move |control: &mut Control, told: SupervisorReply| {
            let result = match told {
                Ok((Said::Measured(measured), _)) => match measured.failure {
                    Some(failure) => Err(errors::guest(doing, &name, &GuestError::Failure(failure))),
                    None => fill(control, &measured).map(|reply| (reply, Vec::new())),
                },
                Ok(_) => Err(errors::guest(doing, &name, &GuestError::another_answer())),
                Err(error) => Err(errors::guest(doing, &name, &error)),
            };
            control.answer(&asked, result);
        };
        let request = Request::Measure(Measure { balloon, blocks, deadline_ms });
        self.ask_guest(id, &request, Vec::new(), Box::new(then));
    }
}

fn groups(asked: u32, enforce: bool) -> Result<DomainStats, Error> {
    if asked == 0 {
        return Ok(GROUPS);
    }
    let missing = asked & !GROUPS.bits();
    if enforce && missing != 0 {
        let text = format!("argument unsupported: Stats types bits 0x{missing:x} are not supported by this daemon");
        return Err(Error::new(ErrorCode::ARGUMENT_UNSUPPORTED, ErrorDomain::QEMU, text));
    }
    Ok(DomainStats::from_bits_truncate(asked) & GROUPS)
}

/// What only a guest's QEMU knows of the groups; none when it need not be asked.
fn wanted(domain: &Domain, groups: DomainStats, patience: Duration) -> Option<Measure> {
    let balloon = groups.contains(DomainStats::BALLOON) && has_balloon(domain);
    let blocks = groups.contains(DomainStats::BLOCK) && !domain.devices.disks.is_empty();
    let deadline_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    (balloon || blocks).then_some(Measure { balloon, blocks, deadline_ms })
}

/// Whether a guest has a balloon: only if its document says so.
pub(super) fn has_balloon(domain: &Domain) -> bool {
    let models = domain.devices.other.iter().filter(|raw| raw.name == "memballoon").map(|raw| raw.attribute("model"));
    models.into_iter().any(|model| model.as_deref() != Some("none"))
}

fn cpu(params: &mut Params, process: Option<&Process>) {
    if let Some(time) = process.and_then(Process::cpu_time) {
        params.ullong("cpu.time", time.total_ns);
        params.ullong("cpu.user", time.user_ns);
        params.ullong("cpu.system", time.system_ns);
    }
}

fn find_disk<'a>(disks: &'a [DiskPlace], named: &str) -> Option<&'a DiskPlace> {
    disks.iter().find(|(name, path)| name == named || path.as_deref() == Some(named))
}

/// The device of a disk: the planner calls it `BUS-disk-TARGET`.
fn block_of<'a>(blocks: &'a [Block], disk: &str) -> Option<&'a Block> {
    blocks.iter().find(|block| block.device.split_once("-disk-").is_some_and(|(_, target)| target == disk))
}

/// One disk's numbers, or the sum of all.
fn chosen_blocks(measured: &Measured, disk: Option<&str>) -> Result<Block, Error> {
    let blocks = measured.blocks.as_deref().unwrap_or_default();
    match disk {
        Some(disk) => block_of(blocks, disk)
            .cloned()
            .ok_or_else(|| errors::wrong_state(format!("QEMU tells nothing of disk '{disk}'"))),
        None => Ok(blocks.iter().fold(Block::default(), |sum, block| Block {
            rd_reqs: sum.rd_reqs.saturating_add(block.rd_reqs),
            rd_bytes: sum.rd_bytes.saturating_add(block.rd_bytes),
            rd_times: sum.rd_times.saturating_add(block.rd_times),
            wr_reqs: sum.wr_reqs.saturating_add(block.wr_reqs),
            wr_bytes: sum.wr_bytes.saturating_add(block.wr_bytes),
            wr_times: sum.wr_times.saturating_add(block.wr_times),
            fl_reqs: sum.fl_reqs.saturating_add(block.fl_reqs),
            fl_times: sum.fl_times.saturating_add(block.fl_times),
            ..Block::default()
        })),
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> Vec<Block> {
        let block = |device: &str, rd_reqs| Block { device: device.into(), rd_reqs, ..Block::default() };
        vec![block("virtio-disk-vda", 1), block("sata-disk-sda", 2), block("balloon0", 4)]
    }

    #[test]
    fn disks_are_found_by_target_and_by_path() {
        let disks = [("vda".to_owned(), Some("/images/a".to_owned())), ("sda".to_owned(), None)];
        assert_eq!(find_disk(&disks, "vda"), Some(&disks[0]));
        assert_eq!(find_disk(&disks, "/images/a"), Some(&disks[0]));
        assert_eq!(find_disk(&disks, "sda"), Some(&disks[1]));
        assert_eq!(find_disk(&disks, "vd"), None);
        assert_eq!(block_of(&blocks(), "sda").map(|block| block.rd_reqs), Some(2));
        assert_eq!(block_of(&blocks(), "a"), None);
    }

    #[test]
    fn all_disks_together_are_their_sum() {
        let measured = Measured { blocks: Some(blocks()), ..Measured::default() };
        assert_eq!(chosen_blocks(&measured, None).unwrap().rd_reqs, 7);
        assert_eq!(chosen_blocks(&measured, Some("vda")).unwrap().rd_reqs, 1);
        assert_eq!(chosen_blocks(&measured, Some("vdb")).unwrap_err().code, ErrorCode::OPERATION_INVALID);
    }

    #[test]
    fn a_group_that_is_not_there_is_left_out_or_refused() {
        assert_eq!(groups(0, true).unwrap(), GROUPS);
        assert_eq!(groups(0x1 | 0x80 | 0x1000, false).unwrap(), DomainStats::STATE);
        let error = groups(0x1 | 0x1000, true).unwrap_err();
        assert_eq!(error.code, ErrorCode::ARGUMENT_UNSUPPORTED);
        assert!(error.message.contains("0x1000"), "{}", error.message);
    }

    #[test]
    fn qemu_is_asked_only_for_what_only_it_knows() {
        let domain = |devices: &str| {
            let xml = format!(
                "<domain type='qemu'><name>t</name><memory>1024</memory><os><type>hvm</type></os>\
                 <devices>{devices}</devices></domain>"
            );
            Domain::parse(&xml).unwrap().value
        };
        let asked = |devices: &str, groups| {
            wanted(&domain(devices), groups, PATIENCE).map(|measure| (measure.balloon, measure.blocks))
        };
        let disk = "<disk><source file='/a'/><target dev='vda'/></disk>";
        assert_eq!(asked("", GROUPS), None);
        assert_eq!(asked("<memballoon model='none'/>", GROUPS), None);
        assert_eq!(asked("<memballoon model='virtio'/>", GROUPS), Some((true, false)));
        assert_eq!(asked(disk, GROUPS), Some((false, true)));
        assert_eq!(asked(disk, DomainStats::STATE | DomainStats::BALLOON), None);
    }
}
