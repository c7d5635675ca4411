//! Prints how long each step of a spawn takes: the median of many, in microseconds.
//!
//! `cargo run --release -p sandbox --example spawn_latency [STATIC_PROGRAM]`; the program (busybox unless named) is run as `true`.
#![allow(clippy::unwrap_used, reason = "a measuring tool stops at the first surprise")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sandbox::jail::{Device, Jail, WritableDir};
use sandbox::policy::{Filter, Role};
use sandbox::spawn::{IdMap, Identity, Namespace, Program, Spawn, Step};

const ROUNDS: usize = 300;
const ALL: [Namespace; 5] = [Namespace::Pid, Namespace::Mount, Namespace::Net, Namespace::Ipc, Namespace::Uts];
const BUT_NET: [Namespace; 4] = [Namespace::Pid, Namespace::Mount, Namespace::Ipc, Namespace::Uts];
const NOBODY: u32 = 65534;

fn median(mut times: Vec<Duration>) -> u128 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0, Duration::as_micros)
}

/// The whole of a start, once without and once with the times of its steps.
fn measure<'a>(title: &str, spawn: impl Fn() -> Spawn<'a>) {
    let mut total = Vec::new();
    let mut steps: Vec<Vec<Duration>> = vec![Vec::new(); Step::ALL.len()];
    for round in 0..ROUNDS * 2 {
        let timed = round % 2 == 1;
        let request = if timed { spawn().time_steps() } else { spawn() };
        let begun = Instant::now();
        let child = request.start().unwrap();
        let elapsed = begun.elapsed();
        sandbox::pidfd::wait(&child.pidfd).unwrap();
        if !timed {
            total.push(elapsed);
            continue;
        }
        let mut last = Duration::ZERO;
        for time in &child.times {
            if let Some(of_step) = steps.get_mut(time.step as usize) {
                of_step.push(time.after.saturating_sub(last));
            }
            last = time.after;
        }
    }
    print!("{title}: {} us from request to running program;", median(total));
    for (step, times) in Step::ALL.iter().zip(steps) {
        let time = median(times);
        if time >= 5 {
            print!(" {step:?} {time}");
        }
    }
    println!();
}

fn program_jail(program: &Path) -> Jail {
    let dir = WritableDir { uid: NOBODY, gid: NOBODY, mode: 0o700, size: 1 << 20 };
    let jail = Jail::new().bind(program, Path::new("/true")).unwrap();
    jail.writable_dir(Path::new("/tmp"), dir).unwrap().device(Device::Null).unwrap()
}

fn qemu_jail(program: &Path) -> Option<Jail> {
    let qemu = Path::new("/usr/bin/qemu-system-x86_64");
    let firmware = ["/usr/share/qemu", "/usr/share/seabios", "/usr/share/OVMF", "/usr/lib/ipxe"].map(Path::new);
    let dir = WritableDir { uid: NOBODY, gid: NOBODY, mode: 0o700, size: 1 << 20 };
    let jail = Jail::for_program(qemu, &firmware).ok()?.bind(program, Path::new("/true")).ok()?;
    let jail = jail.writable_dir(Path::new("/tmp"), dir).ok()?.writable_dir(Path::new("/boot"), dir).ok()?;
    let jail = jail.device(Device::Null).ok()?.device(Device::Zero).ok()?.device(Device::Urandom).ok()?;
    jail.device_for(Device::Kvm, NOBODY, NOBODY).ok()
}

fn main() {
    let program = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "/bin/busybox".into()));
    let filter: Filter = Role::QemuKvm.filter().unwrap();
    let small = program_jail(&program);
    let full = qemu_jail(&program).unwrap_or_else(|| small.clone());
    let nobody = Identity { uid: NOBODY, gid: NOBODY };
    let user = IdMap { uid: NOBODY, gid: NOBODY };
    let inside = || Spawn::new(Program::Path("/true".into()), "true").filter(&filter);

    measure("plain, seccomp filter", || Spawn::new(Program::Path(program.clone()), "true").filter(&filter));
    measure("plain", || Spawn::new(Program::Path(program.clone()), "true"));
    for namespace in ALL {
        let title = format!("{namespace:?} namespace only");
        measure(&title, || Spawn::new(Program::Path(program.clone()), "true").namespaces(&[namespace]));
    }
    if rustix::process::geteuid().is_root() {
        measure("small jail, all namespaces", || inside().namespaces(&ALL).jail(&small).identity(nobody));
        measure("QEMU's jail, all namespaces", || inside().namespaces(&ALL).jail(&full).identity(nobody));
        let netns = prepared_netns();
        measure("QEMU's jail, prepared network", || {
            inside().namespaces(&BUT_NET).netns(&netns).jail(&full).identity(nobody)
        });
    }
    measure("small jail, user namespace", || inside().user_namespace(user).namespaces(&ALL).jail(&small));
}

fn prepared_netns() -> File {
    let (stdin, hold) = rustix::pipe::pipe().unwrap();
    let holder = Spawn::new(Program::Path("/bin/cat".into()), "cat").fd(0, &stdin).namespaces(&[Namespace::Net]);
    let holder = holder.start().unwrap();
    let netns = File::open(format!("/proc/{}/ns/net", holder.pid)).unwrap();
    drop((hold, stdin));
    sandbox::pidfd::wait(&holder.pidfd).unwrap();
    netns
}
