//! A guest's QEMU as the kernel sees it: processor time, memory, and the threads that are virtual CPUs.
//!
//! All of it is what the kernel tells everybody in `/proc`; nothing here can do anything to the process, and nothing of it
//! comes from the guest but the names of its threads, which can only make its own figures wrong.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// No more is read of a file in `/proc`.
const LINE_MAX: usize = 4096;
/// Look at no more threads: QEMU has one for each virtual CPU and a few more, but one that was taken over can make as many as
/// it likes.
const THREADS_MAX: usize = 1024;
/// The shortest time between two looks for threads, however many virtual CPUs without one are asked about.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A guest's QEMU. Control's filter has no call that could do anything to it.
pub struct Process {
    pid: i32,
    /// Held so that the pid is not another's while the run lasts.
    _pidfd: OwnedFd,
    /// The thread of each virtual CPU, as far as they have been looked for.
    vcpus: RefCell<BTreeMap<u32, i32>>,
    /// When they were looked for last.
    looked: Cell<Option<Instant>>,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTime {
    /// All of it, in nanoseconds.
    pub total_ns: u64,
    /// Outside of the kernel.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
}

/// How a virtual CPU's thread fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuTime {
    /// Time on a processor, in nanoseconds.
    pub run_ns: u64,
    /// Time spent ready but waiting for a processor.
    pub delay_ns: u64,
}

impl Process {
    /// The process behind the descriptor that came with a supervisor's answer; none if the kernel does not tell its pid.
    pub fn new(fds: Vec<OwnedFd>) -> Option<Process> {
        let pidfd = fds.into_iter().next()?;
        let pid = sandbox::pidfd::pid(&pidfd).ok()?;
        Some(Process { pid, _pidfd: pidfd, vcpus: RefCell::default(), looked: Cell::default() })
    }

    /// The processor time that it has used, in nanoseconds.
    pub fn cpu_time_ns(&self) -> Option<u64> {
        let time = sandbox::cpu_time(self.pid).ok()?;
        u64::try_from(time.as_nanos()).ok()
    }

    /// The same, taken apart.
    pub fn cpu_time(&self) -> Option<CpuTime> {
        let total_ns = self.cpu_time_ns()?;
        let user = sandbox::user_time(self.pid).ok()?;
        // Counted in ticks, the part may be ahead of the whole.
        let user_ns = u64::try_from(user.as_nanos()).ok()?.min(total_ns);
        Some(CpuTime { total_ns, user_ns, system_ns: total_ns - user_ns })
    }

    /// Memory of the host that it has, in KiB.
    pub fn rss_kib(&self) -> Option<u64> {
        let status = read(&format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    }

    /// How a virtual CPU's thread fares; none when it has no thread of its own, or the kernel does not tell.
    pub fn vcpu_time(&self, vcpu: u32) -> Option<VcpuTime> {
        self.of_vcpu(vcpu, |pid, tid| vcpu_time(&read(&format!("/proc/{pid}/task/{tid}/schedstat"))?))
    }

    /// The host's CPU that a virtual CPU runs on, or ran on last.
    pub fn vcpu_place(&self, vcpu: u32) -> Option<u32> {
        self.of_vcpu(vcpu, |pid, tid| processor(&read(&format!("/proc/{pid}/task/{tid}/stat"))?))
    }

    /// The host's CPUs that a virtual CPU may run on.
    pub fn vcpu_affinity(&self, vcpu: u32) -> Option<rustix::thread::CpuSet> {
        self.of_vcpu(vcpu, |_, tid| affinity(tid))
    }

    /// The host's CPUs that its other threads may run on.
    pub fn affinity(&self) -> Option<rustix::thread::CpuSet> {
        affinity(self.pid)
    }

    /// Looks at a virtual CPU's thread. When it is not known or gone, looks for the threads, at most once in [`LOOK_EVERY`].
    fn of_vcpu<T>(&self, vcpu: u32, look: impl Fn(i32, i32) -> Option<T>) -> Option<T> {
        let known = self.vcpus.borrow().get(&vcpu).copied();
        if let Some(seen) = known.and_then(|tid| look(self.pid, tid)) {
            return Some(seen);
        }
        if self.looked.get().is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return None;
        }
        self.looked.set(Some(Instant::now()));
        *self.vcpus.borrow_mut() = vcpu_threads(self.pid);
        let tid = self.vcpus.borrow().get(&vcpu).copied()?;
        look(self.pid, tid)
    }
}

fn affinity(tid: i32) -> Option<rustix::thread::CpuSet> {
    rustix::thread::sched_getaffinity(rustix::process::Pid::from_raw(tid)).ok()
}

/// A short file of `/proc`.
fn read(path: &str) -> Option<String> {
    let text = fs::read(path).ok()?;
    String::from_utf8(text.into_iter().take(LINE_MAX).collect()).ok()
}

/// QEMU names its threads: `CPU 3/KVM`, `CPU 3/TCG`.
fn vcpu_threads(pid: i32) -> BTreeMap<u32, i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().take(THREADS_MAX);
    let thread = |entry: fs::DirEntry| {
        let name = read(entry.path().join("comm").to_str()?)?;
        Some((vcpu_of(&name)?, entry.file_name().to_str()?.parse().ok()?))
    };
    entries.filter_map(thread).collect()
}

fn vcpu_of(comm: &str) -> Option<u32> {
    comm.strip_prefix("CPU ")?.split_once('/')?.0.parse().ok()
}

/// A line of `schedstat`: time on a processor, time waiting for one, times that it got one. All zero means that this kernel
/// does not count.
fn vcpu_time(line: &str) -> Option<VcpuTime> {
    let mut numbers = line.split_ascii_whitespace().map(str::parse::<u64>);
    let (run_ns, delay_ns, turns) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    (run_ns | delay_ns | turns != 0).then_some(VcpuTime { run_ns, delay_ns })
}

/// Field 39 of a `stat` line, counted from the end of the name, which may hold anything.
fn processor(line: &str) -> Option<u32> {
    const FIELDS_AFTER_NAME: usize = 36;
    let (_, after) = line.rsplit_once(')')?;
    after.split_ascii_whitespace().nth(FIELDS_AFTER_NAME)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_are_virtual_cpus_are_told_by_name() {
        assert_eq!(vcpu_of("CPU 0/TCG\n"), Some(0));
        assert_eq!(vcpu_of("CPU 12/KVM"), Some(12));
        for other in ["qemu-system-x86", "CPU", "CPU x/KVM", "ALL CPUs/TCG", "IO mon_iothread", ""] {
            assert_eq!(vcpu_of(other), None, "{other}");
        }
    }

    #[test]
    fn lines_of_proc_are_read_whatever_they_hold() {
        assert_eq!(vcpu_time("12 34 5\n"), Some(VcpuTime { run_ns: 12, delay_ns: 34 }));
        assert_eq!(vcpu_time("0 0 0\n"), None, "a kernel that does not count");
        assert_eq!(vcpu_time("nonsense"), None);
        let fields: Vec<String> = (3..=52).map(|number| number.to_string()).collect();
        assert_eq!(processor(&format!("7 (CPU 0) ) {}", fields.join(" "))), Some(39));
        assert_eq!(processor("7 (x) S"), None);
    }

    #[test]
    fn a_process_that_is_gone_has_no_figures() {
        assert_eq!(vcpu_threads(i32::MAX), BTreeMap::new());
        assert_eq!(read("/proc/2147483647/status"), None);
    }
}
