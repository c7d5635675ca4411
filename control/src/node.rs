//! The host's own figures of this moment: processors, memory, NUMA cells.

use std::fs;

use api::{Answer, Error, ErrorCode, NodeOps, params, remote};

use super::{
    Control,
    driver::{Asked, only},
    errors,
};

/// libvirt's number for all CPUs, and for all cells.
const ALL: i32 = -1;
/// Clock ticks of a second in what the kernel shows to programs, on every architecture.
const TICKS: u64 = 100;
const NS_OF_A_TICK: u64 = 1_000_000_000 / TICKS;

impl NodeOps for Control {
    fn node_get_info(&mut self, _: &mut Asked, _: remote::NodeGetInfoArgs) -> Answer<remote::NodeGetInfoRet> {
        Ok(self.host.node_info().into())
    }

    /// What the host's processors have done since it was booted.
    fn node_get_cpu_stats(
        &mut self,
        _: &mut Asked,
        args: remote::NodeGetCpuStatsArgs,
    ) -> Answer<remote::NodeGetCpuStatsRet> {
        only(args.flags, 0, "virNodeGetCPUStats")?;
        let text = fs::read_to_string("/proc/stat").map_err(|_| errors::host_silent("the processor time"))?;
        let stats = cpu_stats(&text, args.cpu_num).ok_or_else(|| invalid("Invalid cpuNum in virNodeGetCPUStats"))?;
        let stat = |(field, value): (&str, u64)| remote::NodeGetCpuStats { field: field.into(), value };
        let (params, nparams) = params::asked(stats.into_iter().map(stat).collect(), args.nparams);
        Ok(remote::NodeGetCpuStatsRet { params, nparams }.into())
    }

    /// The host's memory, or a cell's.
    fn node_get_memory_stats(
        &mut self,
        _: &mut Asked,
        args: remote::NodeGetMemoryStatsArgs,
    ) -> Answer<remote::NodeGetMemoryStatsRet> {
        only(args.flags, 0, "virNodeGetMemoryStats")?;
        let (text, wanted) = match args.cell_num {
            ALL => (meminfo()?, &MEMORY[..]),
            cell => (cell_meminfo(self.cell(cell)?)?, &MEMORY[..2]),
        };
        let stat = |(field, key): &(&str, &str)| {
            Some(remote::NodeGetMemoryStats { field: (*field).into(), value: kib(&text, key)? })
        };
        let (params, nparams) = params::asked(wanted.iter().filter_map(stat).collect(), args.nparams);
        Ok(remote::NodeGetMemoryStatsRet { params, nparams }.into())
    }

    /// The host's free memory, in bytes.
    fn node_get_free_memory(
        &mut self,
        _: &mut Asked,
        _: remote::NodeGetFreeMemoryArgs,
    ) -> Answer<remote::NodeGetFreeMemoryRet> {
        let free = kib(&meminfo()?, "MemFree").ok_or_else(|| errors::host_silent("the memory"))?;
        Ok(remote::NodeGetFreeMemoryRet { free_mem: free * 1024 }.into())
    }

    /// The free memory of each cell, in bytes.
    fn node_get_cells_free_memory(
        &mut self,
        _: &mut Asked,
        args: remote::NodeGetCellsFreeMemoryArgs,
    ) -> Answer<remote::NodeGetCellsFreeMemoryRet> {
        let last = self.host.nodes.saturating_sub(1);
        let start = u32::try_from(args.start_cell).ok().filter(|start| *start <= last).ok_or_else(|| {
            let text = format!("internal error: start cell {} out of range (0-{last})", args.start_cell);
            errors::told(ErrorCode::INTERNAL_ERROR, text)
        })?;
        let most = usize::try_from(args.maxcells).unwrap_or_default();
        let free = |cell| {
            let free = kib(&cell_meminfo(cell)?, "MemFree").ok_or_else(|| errors::host_silent("a cell's memory"))?;
            Ok(free * 1024)
        };
        let cells: Result<Vec<u64>, Error> = (start..=last).take(most).map(free).collect();
        Ok(remote::NodeGetCellsFreeMemoryRet { cells: cells? }.into())
    }

    /// Which of the host's CPUs are online.
    fn node_get_cpu_map(&mut self, _: &mut Asked, args: remote::NodeGetCpuMapArgs) -> Answer<remote::NodeGetCpuMapRet> {
        only(args.flags, 0, "virNodeGetCPUMap")?;
        let (online, present) = self.host_cpus();
        let map = if args.need_map != 0 { bytes(&online, present) } else { Vec::new() };
        let count = if args.need_online != 0 { online.len() } else { 0 };
        let ret = remote::NodeGetCpuMapRet {
            cpumap: map,
            online: u32::try_from(count).unwrap_or(u32::MAX),
            ret: i32::try_from(present).unwrap_or(i32::MAX),
        };
        Ok(ret.into())
    }

    /// No security driver labels guests here: each has a uid and a compartment of its own instead.
    fn node_get_security_model(
        &mut self,
        _: &mut Asked,
        _: remote::NodeGetSecurityModelArgs,
    ) -> Answer<remote::NodeGetSecurityModelRet> {
        let (model, doi) = (api::chars::terminated("none"), api::chars::terminated("0"));
        Ok(remote::NodeGetSecurityModelRet { model, doi }.into())
    }
}

impl Control {
    /// The numbers of the CPUs that are online, and how many there are to count to.
    pub(super) fn host_cpus(&self) -> (Vec<u32>, u32) {
        let list = |file: &str| cpu_list(&fs::read_to_string(format!("/sys/devices/system/cpu/{file}")).ok()?);
        let online = list("online").unwrap_or_else(|| (0..self.host.cpus).collect());
        let present = list("present").unwrap_or_default();
        let highest = present.iter().chain(&online).max().map_or(self.host.cpus, |highest| highest + 1);
        (online, highest)
    }

    fn cell(&self, cell: i32) -> Result<u32, Error> {
        let last = self.host.nodes.saturating_sub(1);
        let too_many = || invalid(format!("cellNum in virNodeGetMemoryStats must be less than or equal to {last}"));
        u32::try_from(cell).ok().filter(|cell| *cell <= last).ok_or_else(too_many)
    }
}

fn invalid(text: impl Into<String>) -> Error {
    errors::told(ErrorCode::INVALID_ARG, text)
}

/// libvirt's names of the host's memory, and the kernel's. A cell has the first two.
const MEMORY: [(&str, &str); 4] =
    [("total", "MemTotal"), ("free", "MemFree"), ("buffers", "Buffers"), ("cached", "Cached")];

fn meminfo() -> Result<String, Error> {
    fs::read_to_string("/proc/meminfo").map_err(|_| errors::host_silent("the memory"))
}

/// A cell's memory; of a host without cells, all of it.
fn cell_meminfo(cell: u32) -> Result<String, Error> {
    fs::read_to_string(format!("/sys/devices/system/node/node{cell}/meminfo")).or_else(|error| {
        if cell == 0 { meminfo() } else { Err(error).map_err(|_| errors::host_silent("a cell's memory")) }
    })
}

/// The KiB behind `KEY:`, which in a cell's file stands after `Node 0`.
fn kib(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    lines.find_map(|words| {
        let at = words.iter().position(|word| word.strip_suffix(':') == Some(key))?;
        words.get(at + 1)?.parse().ok()
    })
}

/// A CPU's line of `/proc/stat`, or the line of all, under libvirt's names.
fn cpu_stats(text: &str, cpu: i32) -> Option<[(&'static str, u64); 4]> {
    let name = if cpu == ALL { "cpu".to_owned() } else { format!("cpu{}", u32::try_from(cpu).ok()?) };
    let line = text.lines().find(|line| line.split(' ').next() == Some(name.as_str()))?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, ..] = ticks[..] else { return None };
    Some([
        ("kernel", (system + irq + softirq) * NS_OF_A_TICK),
        ("user", (user + nice) * NS_OF_A_TICK),
        ("idle", idle * NS_OF_A_TICK),
        ("iowait", iowait * NS_OF_A_TICK),
    ])
}

/// The kernel's lists of CPUs: `0-3,8`.
pub(super) fn cpu_list(text: &str) -> Option<Vec<u32>> {
    const MOST: u32 = 1 << 16;
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        cpus.extend(first..=last.min(MOST));
    }
    Some(cpus)
}

/// CPUs as libvirt's bitmap.
pub(super) fn bytes(cpus: &[u32], present: u32) -> Vec<u8> {
    let mut map = vec![0u8; usize::try_from(present.div_ceil(8)).unwrap_or_default()];
    for cpu in cpus {
        if let Some(byte) = map.get_mut(usize::try_from(cpu / 8).unwrap_or(usize::MAX)) {
            *byte |= 1 << (cpu % 8);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  10 1 5 100 7 2 3 0 0 0\ncpu0 4 0 2 50 3 1 1 0 0 0\nintr 1 2 3\n";

    #[test]
    fn processor_time_is_told_of_all_and_of_one() {
        let ms = |ticks: u64| ticks * 10_000_000;
        let all = cpu_stats(STAT, ALL).unwrap();
        assert_eq!(all, [("kernel", ms(10)), ("user", ms(11)), ("idle", ms(100)), ("iowait", ms(7))]);
        assert_eq!(cpu_stats(STAT, 0).unwrap()[0], ("kernel", ms(4)));
        assert_eq!(cpu_stats(STAT, 1), None);
        assert_eq!(cpu_stats(STAT, -2), None);
        assert_eq!(cpu_stats("cpu 1 2", ALL), None);
    }

    #[test]
    fn memory_is_found_in_both_of_the_kernel_s_layouts() {
        let host = "MemTotal:       24684084 kB\nMemFree:        21691168 kB\nSwapCached: 1 kB\nCached: 5 kB\n";
        let cell = "Node 0 MemTotal:       16607436 kB\nNode 0 MemFree:        13614572 kB\n";
        assert_eq!((kib(host, "MemTotal"), kib(host, "Cached")), (Some(24_684_084), Some(5)));
        assert_eq!((kib(cell, "MemFree"), kib(cell, "Buffers")), (Some(13_614_572), None));
    }

    #[test]
    fn lists_of_cpus_become_bitmaps() {
        assert_eq!(cpu_list("0-2,9\n"), Some(vec![0, 1, 2, 9]));
        assert_eq!(cpu_list("\n"), Some(Vec::new()));
        assert_eq!(cpu_list("x"), None);
        assert_eq!(bytes(&[0, 1, 2, 9], 10), [0b111, 0b10]);
        assert_eq!(bytes(&[17], 10), [0, 0], "a CPU that is not there");
    }
}
