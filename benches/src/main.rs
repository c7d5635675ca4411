//! # benches: how fast Bulkhead is, beside the limits it should stay near
//!
//! `make bench` runs everything in one go and prints medians and ratios. What is compared runs in turn, A B A B, because a
//! busy machine makes single figures worthless. Needs root for the system-like compartment (a session of root's), a real
//! QEMU, and the release build of the other programs beside this one.
//!
//! | figure | beside it |
//! |---|---|
//! | start of a guest, call to answer | `exec` of the same QEMU argument vector until QMP says `running` |
//! | destroy | SIGKILL and reap |
//! | `info` of a running guest, of a stopped one | a byte to and fro over a socket pair |
//! | daemon start with 10 000 definitions, and their list | |
//! | memory (PSS) of a supervisor, of control, of the launcher | |
//! | libvirt's protocol through the gateway: calls, opens, statistics, `virsh list` | the same client against libvirtd |
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A bench that fails should say where and stop.

mod bare;
mod gateway;
mod recorded;
mod rpc;
mod stats;

use std::{
    env, fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use libclient::{Connection, CreateFlags, DefineFlags, DestroyFlags, ListFlags};
use stats::Samples;

const URI: &str = "qemu:///session";
const STARTS: usize = 40;
/// As between the starts of people and of most tools.
const APART: Duration = Duration::from_millis(150);
const CALLS: usize = 20_000;
const DEFINITIONS: usize = 10_000;

const GUEST: &str = "<domain type='qemu'><name>bench</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
    <os><type arch='x86_64' machine='pc'>hvm</type></os><devices><serial type='pty'/></devices></domain>";

fn main() -> ExitCode {
    // libclient reads the root from the environment, so the bench runs itself again with one.
    if env::var_os("BULKHEAD_BENCH").is_none() {
        // What a start makes, a host has under /run, which is in memory: how long a disk takes for it is not ours to measure.
        let root = tempfile::Builder::new().prefix("bulkhead-bench").tempdir_in("/dev/shm").unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let status = Command::new(env::current_exe().unwrap())
            .args(env::args_os().skip(1))
            .env("BULKHEAD_BENCH", "1")
            .env("BULKHEAD_ROOT", root.path())
            .status()
            .unwrap();
        return if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    // With a name, only that part: starts, rpc, or of rpc only the list.
    let part = env::args().nth(1).unwrap_or_default();
    let root = PathBuf::from(env::var_os("BULKHEAD_ROOT").unwrap());
    if part.is_empty() || part == "starts" {
        starts();
        definitions();
    }
    // Last: it leaves thousands of definitions behind.
    match part.as_str() {
        "" | "rpc" => rpc::run(&root),
        "list" => rpc::run_list(&root),
        _ => {}
    }
    ExitCode::SUCCESS
}

fn starts() {
    let connection = Connection::open(URI).unwrap();
    let domain = connection.define_xml(GUEST, DefineFlags::empty()).unwrap();
    domain.start(CreateFlags::empty()).unwrap();
    let supervisor = domain.guest_info().unwrap().supervisor_pid.unwrap();
    let argv = bare::argv_of_qemu(supervisor);
    calls(&connection, &domain);
    memory(supervisor);
    domain.destroy(DestroyFlags::empty()).unwrap();

    println!("one start at a time:");
    series(&domain, &argv, APART);
    println!("one start right behind the other:");
    series(&domain, &argv, Duration::ZERO);
    domain.undefine(libclient::UndefineFlags::empty()).unwrap();
}

/// Starts and ends the guest and a bare QEMU in turn, each `pause` after what was before.
fn series(domain: &libclient::Domain, argv: &[String], pause: Duration) {
    let (mut ours, mut theirs) = (Samples::new("start a guest"), Samples::new("bare QEMU to QMP running"));
    let (mut destroy, mut kill) = (Samples::new("destroy it"), Samples::new("bare SIGKILL and reap"));
    for _ in 0..STARTS {
        thread::sleep(pause);
        let qemu = theirs.time(|| bare::Qemu::start(argv));
        kill.time(|| qemu.kill());
        thread::sleep(pause);
        ours.time(|| domain.start(CreateFlags::empty()).unwrap());
        destroy.time(|| domain.destroy(DestroyFlags::empty()).unwrap());
    }
    ours.beside(&theirs, 1.15);
    destroy.beside(&kill, 1.5);
}

fn calls(connection: &Connection, running: &libclient::Domain) {
    let stopped = connection.define_xml(&GUEST.replace(">bench<", ">stopped<"), DefineFlags::empty()).unwrap();
    let (mut a, mut b) = UnixStream::pair().unwrap();
    let echo = thread::spawn(move || {
        let mut byte = [0];
        while b.read(&mut byte).unwrap() == 1 {
            b.write_all(&byte).unwrap();
        }
    });
    let (mut ping, mut of_running, mut of_stopped) = (
        Samples::new("a byte to and fro"),
        Samples::new("dominfo of a running guest"),
        Samples::new("dominfo of a stopped guest"),
    );
    for _ in 0..CALLS {
        ping.time(|| {
            a.write_all(&[1]).unwrap();
            a.read_exact(&mut [0]).unwrap();
        });
        of_running.time(|| running.info().unwrap());
        of_stopped.time(|| stopped.info().unwrap());
    }
    drop(a);
    echo.join().unwrap();
    of_running.beside(&ping, 0.0);
    of_stopped.beside(&ping, 0.0);
    of_running.aim(Duration::from_micros(30));
    of_stopped.aim(Duration::from_micros(30));
    stopped.undefine(libclient::UndefineFlags::empty()).unwrap();
}

fn memory(supervisor: u32) {
    let control = bare::control();
    let launcher = bare::parent_of(control);
    for (what, pid) in [("supervisor", supervisor), ("control", control), ("launcher", launcher)] {
        println!("PSS of an idle {what:<30} {:>8} KiB", bare::pss_kib(pid));
    }
}

fn definitions() {
    let root = PathBuf::from(env::var_os("BULKHEAD_ROOT").unwrap());
    let control = bare::control();
    end(bare::parent_of(control));
    let dir = root.join(format!("user-{}/config/qemu", rustix::process::getuid().as_raw()));
    for index in 0..DEFINITIONS {
        write_definition(&dir, index);
    }
    let mut start = Samples::new("daemon start to 10 000 listed");
    let mut daemon = None;
    for _ in 0..5 {
        if let Some(launcher) = daemon.take() {
            end(launcher);
        }
        let connection = start.time(|| {
            let connection = Connection::open(URI).unwrap();
            assert_eq!(connection.domains(ListFlags::empty()).unwrap().len(), DEFINITIONS);
            connection
        });
        drop(connection);
        let control = bare::control();
        println!("PSS of control with 10 000 definitions            {:>8} KiB", bare::pss_kib(control));
        daemon = Some(bare::parent_of(control));
    }
    start.aim(Duration::from_millis(300));
    let connection = Connection::open(URI).unwrap();
    let mut list = Samples::new("list 10 000 definitions");
    for _ in 0..50 {
        list.time(|| connection.domains(ListFlags::empty()).unwrap());
    }
    list.aim(Duration::from_millis(10));
    drop(connection);
    if let Some(launcher) = daemon {
        end(launcher);
    }
    // What comes next is not to carry them along.
    for entry in fs::read_dir(&dir).unwrap().flatten().filter(|entry| entry.path().extension().is_some()) {
        fs::remove_file(entry.path()).unwrap();
    }
}

/// Writes a domain's document into `dir`, and gives it back.
fn write_definition(dir: &Path, index: usize) -> String {
    let name = format!("guest-{index:05}");
    let uuid = uuid::Uuid::from_u128(0x1000_0000_0000_4000_8000_0000_0000_0000 + index as u128);
    let xml = format!(
        "<domain type='qemu'>\n  <name>{name}</name>\n  <uuid>{uuid}</uuid>\n  <memory unit='KiB'>524288</memory>\n  \
         <currentMemory unit='KiB'>524288</currentMemory>\n  <vcpu placement='static'>2</vcpu>\n  <os>\n    \
         <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>\n    <boot dev='hd'/>\n  </os>\n  <features>\n    <acpi/>\n    \
         <apic/>\n  </features>\n  <clock offset='utc'/>\n  <on_poweroff>destroy</on_poweroff>\n  \
         <on_reboot>restart</on_reboot>\n  <on_crash>destroy</on_crash>\n  <devices>\n    \
         <emulator>/usr/bin/qemu-system-x86_64</emulator>\n    <disk type='file' device='disk'>\n      \
         <driver name='qemu' type='raw'/>\n      <source file='/var/lib/bulkhead/images/{name}.img'/>\n      \
         <target dev='vda' bus='virtio'/>\n    </disk>\n    <serial type='pty'>\n      <target type='isa-serial' port='0'/>\n    \
         </serial>\n    <console type='pty'>\n      <target type='serial' port='0'/>\n    </console>\n  </devices>\n</domain>\n"
    );
    fs::write(dir.join(format!("{name}.xml")), &xml).unwrap();
    xml
}

/// Ends a daemon that this bench has started, and waits until it is gone.
fn end(pid: u32) {
    let pid = i32::try_from(pid).unwrap();
    let pidfd = sandbox::pidfd::open(pid).unwrap();
    sandbox::pidfd::send_signal(&pidfd, sandbox::Signal::TERM).unwrap();
    let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
}
