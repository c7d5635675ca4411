//! QEMU without anything around it: the limit of what a start and a destroy can cost. And what the kernel says of processes.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use sandbox::{
    Signal, pidfd,
    spawn::{Child, Program, Spawn},
};

/// A bare QEMU with its monitor.
pub struct Qemu {
    child: Child,
    _monitor: UnixStream,
    _console: UnixStream,
}

impl Qemu {
    /// Starts it and returns when QMP says that it runs.
    pub fn start(argv: &[String]) -> Qemu {
        let (monitor, far_monitor) = UnixStream::pair().unwrap();
        let (console, far_console) = UnixStream::pair().unwrap();
        let log = OwnedFd::from(File::options().append(true).open("/dev/null").unwrap());
        let child = Spawn::new(Program::Path(argv[0].clone().into()), &argv[0])
            .args(&argv[1..])
            .fd(2, &log)
            .fd(3, &far_monitor)
            .fd(4, &far_console)
            .start()
            .unwrap();
        drop(far_monitor);
        let mut reader = BufReader::new(&monitor);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        (&monitor).write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\"}\n").unwrap();
        while !line.contains("\"running\": true") {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "QEMU ended");
        }
        Qemu { child, _monitor: monitor, _console: console }
    }

    /// Kills it and waits until it is gone.
    pub fn kill(self) {
        pidfd::send_signal(&self.child.pidfd, Signal::KILL).unwrap();
        pidfd::wait(&self.child.pidfd).unwrap();
    }
}

/// The argument vector of a supervisor's QEMU.
pub fn argv_of_qemu(supervisor: u32) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
    let qemu = children.split_whitespace().next().unwrap();
    let cmdline = fs::read(format!("/proc/{qemu}/cmdline")).unwrap();
    cmdline.split(|b| *b == 0).filter(|a| !a.is_empty()).map(|a| String::from_utf8(a.to_vec()).unwrap()).collect()
}

/// Processes of this bench's instance whose command line starts so.
pub fn processes(command: &str) -> Vec<u32> {
    let root = std::env::var("BULKHEAD_ROOT").unwrap();
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let text = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let cmdline = String::from_utf8_lossy(&text("cmdline")).replace('\0', " ");
        let environment = text("environ");
        cmdline.starts_with(command)
            && environment.split(|b| *b == 0).any(|v| v == format!("BULKHEAD_ROOT={root}").as_bytes())
    })
    .collect()
}

/// Control of the daemon that runs.
pub fn control() -> u32 {
    processes("qemud-control").first().copied().expect("control runs")
}

/// A process's parent.
pub fn parent_of(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

/// A process's proportional share of memory.
pub fn pss_kib(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}
