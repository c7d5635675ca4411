//! What the host is: read once, before control gives up the right to read it.

use std::{collections::HashSet, fs, os::unix::fs::MetadataExt, path::Path};

use api::remote::NodeGetInfoRet;
use model::capabilities::{Cell, CellCpu};

use super::node::cpu_list;

/// The host's facts.
pub struct Host {
    /// libvirt's name of its architecture.
    pub arch: String,
    /// Its name.
    pub hostname: String,
    /// Its system UUID, or its machine id in that form.
    pub uuid: Option<uuid::Uuid>,
    /// Memory.
    pub memory_kib: u64,
    /// CPUs that are online.
    pub cpus: u32,
    /// Clock rate of the first, as the kernel tells it; 0 when it does not.
    pub mhz: u32,
    /// NUMA nodes.
    pub nodes: u32,
    /// The nodes, each with its memory and CPUs.
    pub cells: Vec<Cell>,
    /// Sockets of a node.
    pub sockets: u32,
    /// Cores of a socket.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
    /// Its vendor.
    pub cpu_vendor: String,
    /// Something that changes when what `/dev/kvm` can do may have changed.
    pub kvm_identity: Option<String>,
}

impl Host {
    /// Reads them.
    pub fn read() -> Host {
        let uname = rustix::system::uname();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpus =
            u32::try_from(cpuinfo.lines().filter(|l| field(l, "processor").is_some()).count()).unwrap_or(1).max(1);
        let nodes = count_dirs("/sys/devices/system/node", "node").max(1);
        let packages = topology("physical_package_id").max(1);
        let threads = siblings().max(1);
        let sockets = (packages / nodes).max(1);
        let cores = (cpus / (nodes * sockets * threads)).max(1);
        Host {
            arch: arch(&uname.machine().to_string_lossy()),
            hostname: uname.nodename().to_string_lossy().into_owned(),
            uuid: host_uuid(),
            memory_kib: memory_kib(),
            cpus,
            mhz: first(&cpuinfo, "cpu MHz").and_then(|mhz| mhz.split('.').next()?.parse().ok()).unwrap_or_default(),
            nodes,
            cells: cells(Path::new("/sys/devices/system"), memory_kib()),
            sockets,
            cores,
            threads,
            cpu_vendor: first(&cpuinfo, "vendor_id").unwrap_or_default(),
            kvm_identity: kvm_identity(&uname.release().to_string_lossy()),
        }
    }

    /// libvirt's form of them.
    pub fn node_info(&self) -> NodeGetInfoRet {
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        NodeGetInfoRet {
            model: api::chars::filled(&self.arch, 32),
            memory: self.memory_kib,
            cpus: number(self.cpus),
            mhz: number(self.mhz),
            nodes: number(self.nodes),
            sockets: number(self.sockets),
            cores: number(self.cores),
            threads: number(self.threads),
        }
    }
}

fn arch(machine: &str) -> String {
    match machine {
        "i386" | "i486" | "i586" | "i686" => "i686".into(),
        other => other.into(),
    }
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = line.split_once(':')?;
    (key.trim() == name).then(|| value.trim())
}

fn first(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| field(line, name)).map(String::from)
}

fn memory_kib() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    first(&meminfo, "MemTotal").and_then(|v| v.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// The nodes below a `/sys/devices/system`. A host without nodes is one, with all memory and CPUs.
fn cells(system: &Path, memory_kib: u64) -> Vec<Cell> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let cpus = |list: &Path| cpu_list(&read(list)?);
    let described = |ids: Vec<u32>| ids.into_iter().map(|id| cell_cpu(system, id)).collect();
    let node = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        let meminfo = read(&entry.path().join("meminfo"))?;
        let total = meminfo.lines().find_map(|line| line.split_once("MemTotal:"))?.1;
        let memory_kib = total.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Cell { id, memory_kib, pages: Vec::new(), cpus: described(cpus(&entry.path().join("cpulist"))?) })
    };
    let mut cells: Vec<Cell> =
        fs::read_dir(system.join("node")).into_iter().flatten().flatten().filter_map(node).collect();
    cells.sort_by_key(|cell| cell.id);
    if cells.is_empty() {
        let online = cpus(&system.join("cpu/online")).unwrap_or_default();
        cells.push(Cell { id: 0, memory_kib, pages: Vec::new(), cpus: described(online) });
    }
    cells
}

/// Where a CPU is. Without the kernel's topology each CPU counts as a core of one socket.
fn cell_cpu(system: &Path, id: u32) -> CellCpu {
    let topology = system.join(format!("cpu/cpu{id}/topology"));
    let text = |file: &str| fs::read_to_string(topology.join(file)).ok().map(|text| text.trim().to_owned());
    // A kernel that does not know says -1.
    let number = |file: &str| text(file).and_then(|text| text.parse::<u32>().ok());
    CellCpu {
        id,
        socket_id: number("physical_package_id").unwrap_or_default(),
        die_id: number("die_id").unwrap_or_default(),
        core_id: number("core_id").unwrap_or(id),
        siblings: text("thread_siblings_list").filter(|list| !list.is_empty()).unwrap_or_else(|| id.to_string()),
    }
}

fn count_dirs(dir: &str, prefix: &str) -> u32 {
    let numbered = |name: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.parse::<u32>().is_ok());
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    u32::try_from(entries.filter(|entry| entry.file_name().to_str().is_some_and(numbered)).count()).unwrap_or_default()
}

fn cpu_dirs() -> impl Iterator<Item = std::path::PathBuf> {
    let entries = fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.join("topology").is_dir())
}

fn topology(file: &str) -> u32 {
    let values: HashSet<String> =
        cpu_dirs().filter_map(|cpu| fs::read_to_string(cpu.join("topology").join(file)).ok()).collect();
    u32::try_from(values.len()).unwrap_or_default()
}

/// Threads of the first core: `0`, `0-1` or `0,4`.
fn siblings() -> u32 {
    let Some(cpu) = cpu_dirs().next() else { return 1 };
    let list = fs::read_to_string(cpu.join("topology/thread_siblings_list")).unwrap_or_default();
    list.trim()
        .split(',')
        .filter_map(|part| match part.split_once('-') {
            Some((first, last)) => Some(last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)? + 1),
            None => part.parse::<u32>().ok().map(|_| 1),
        })
        .sum()
}

fn host_uuid() -> Option<uuid::Uuid> {
    ["/sys/class/dmi/id/product_uuid", "/etc/machine-id"]
        .into_iter()
        .find_map(|path| uuid::Uuid::parse_str(fs::read_to_string(path).ok()?.trim()).ok())
}

fn kvm_identity(kernel: &str) -> Option<String> {
    let node = fs::metadata("/dev/kvm").ok()?;
    Some(format!("{kernel} {} {:o} {} {}", node.rdev(), node.mode(), node.uid(), node.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn each_node_has_its_memory_and_its_cpus() {
        let dir = tempfile::tempdir().unwrap();
        for (node, list) in [(1, "2-3\n"), (0, "0-1\n")] {
            write(dir.path(), &format!("node/node{node}/cpulist"), list);
            write(dir.path(), &format!("node/node{node}/meminfo"), &format!("Node {node} MemTotal:   {node}00 kB\n"));
        }
        write(dir.path(), "node/online", "0-1");
        for (cpu, package) in [(0, 0), (1, 0), (2, 1)] {
            let topology = format!("cpu/cpu{cpu}/topology");
            write(dir.path(), &format!("{topology}/physical_package_id"), &format!("{package}\n"));
            write(dir.path(), &format!("{topology}/die_id"), "-1\n");
            write(dir.path(), &format!("{topology}/core_id"), "0\n");
            write(dir.path(), &format!("{topology}/thread_siblings_list"), "0-1\n");
        }
        let cells = cells(dir.path(), 7);
        assert_eq!(cells.iter().map(|cell| (cell.id, cell.memory_kib)).collect::<Vec<_>>(), [(0, 0), (1, 100)]);
        let cpu = |id, socket_id, core_id, siblings: &str| CellCpu {
            id,
            socket_id,
            die_id: 0,
            core_id,
            siblings: siblings.into(),
        };
        assert_eq!(cells[1].cpus, [cpu(2, 1, 0, "0-1"), cpu(3, 0, 3, "3")], "the last has no topology");
    }

    #[test]
    fn a_host_without_nodes_is_one() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "cpu/online", "0,2\n");
        let cells = cells(dir.path(), 7);
        assert_eq!((cells.len(), cells[0].memory_kib), (1, 7));
        assert_eq!(cells[0].cpus.iter().map(|cpu| cpu.id).collect::<Vec<_>>(), [0, 2]);
    }
}
