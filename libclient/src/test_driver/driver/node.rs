//! The mock host: its processors do what its guests make them do, and its memory is what they leave of it.

use api::{Answer, NodeOps, Op, params, remote};

use super::{Context, no_flags, number};
use crate::test_driver::{
    machine::{ERRORS, Guest, Machine},
    node::SECURITY_MODEL,
};

/// Which CPUs of the host are online. libvirt's test driver answers a map of eight CPUs, although `nodeinfo` counts more.
const ONLINE_CPUS: u8 = 0b0001_0101;

impl Machine {
    /// What the guests leave of the memory, in KiB.
    fn free_kib(&self) -> u64 {
        let used = self.active().map(|guest| guest.memory_kib().1);
        self.node.memory_kib.saturating_sub(used.sum())
    }
}

impl NodeOps for Machine {
    fn node_get_info(&mut self, _: &mut Context, _: remote::NodeGetInfoArgs) -> Answer<remote::NodeGetInfoRet> {
        let node = &self.node;
        Ok(remote::NodeGetInfoRet {
            model: api::chars::filled(&node.model, 32),
            memory: node.memory_kib,
            cpus: number(node.cpus),
            mhz: number(node.mhz),
            nodes: number(node.nodes),
            sockets: number(node.sockets),
            cores: number(node.cores),
            threads: number(node.threads),
        }
        .into())
    }

    fn node_get_cpu_map(
        &mut self,
        _: &mut Context,
        args: remote::NodeGetCpuMapArgs,
    ) -> Answer<remote::NodeGetCpuMapRet> {
        no_flags(args.flags, Op::NodeGetCpuMap)?;
        let cpumap = if args.need_map == 0 { Vec::new() } else { vec![ONLINE_CPUS] };
        let online = if args.need_online == 0 { 0 } else { ONLINE_CPUS.count_ones() };
        Ok(remote::NodeGetCpuMapRet { cpumap, online, ret: 8 }.into())
    }

    fn node_get_free_memory(
        &mut self,
        _: &mut Context,
        _: remote::NodeGetFreeMemoryArgs,
    ) -> Answer<remote::NodeGetFreeMemoryRet> {
        Ok(remote::NodeGetFreeMemoryRet { free_mem: self.free_kib().saturating_mul(1024) }.into())
    }

    fn node_get_cells_free_memory(
        &mut self,
        _: &mut Context,
        args: remote::NodeGetCellsFreeMemoryArgs,
    ) -> Answer<remote::NodeGetCellsFreeMemoryRet> {
        let nodes = self.node.nodes.clamp(1, 128);
        let start = u32::try_from(args.start_cell).ok().filter(|start| *start < nodes).ok_or_else(|| {
            ERRORS.invalid(format_args!("start cell {} out of range (0-{})", args.start_cell, nodes - 1))
        })?;
        let each = self.free_kib().saturating_mul(1024) / u64::from(nodes);
        let most = usize::try_from(args.maxcells).unwrap_or_default();
        Ok(remote::NodeGetCellsFreeMemoryRet { cells: (start..nodes).map(|_| each).take(most).collect() }.into())
    }

    /// libvirt's test driver has the same series of counts in each cell, whatever cell and sizes are asked for.
    fn node_get_free_pages(
        &mut self,
        _: &mut Context,
        args: remote::NodeGetFreePagesArgs,
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

    fn node_get_memory_stats(
        &mut self,
        _: &mut Context,
        args: remote::NodeGetMemoryStatsArgs,
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

    fn node_get_security_model(
        &mut self,
        _: &mut Context,
        _: remote::NodeGetSecurityModelArgs,
    ) -> Answer<remote::NodeGetSecurityModelRet> {
        let (model, doi) = (api::chars::terminated(SECURITY_MODEL), api::chars::terminated(""));
        Ok(remote::NodeGetSecurityModelRet { model, doi }.into())
    }

    fn node_get_cpu_stats(
        &mut self,
        _: &mut Context,
        args: remote::NodeGetCpuStatsArgs,
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
}

#[cfg(test)]
mod tests {
    use api::ErrorCode;

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
}
