//! Spawning: into a jail as root and as an ordinary user, plain, and what a failure says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sandbox::jail::{Device, Jail, WritableDir};
use sandbox::landlock::{Enforced, Rules};
use sandbox::pidfd::Exit;
use sandbox::policy::Role;
use sandbox::rlimit::{Limit, Resource};
use sandbox::spawn::{IdMap, Identity, Namespace, Program, Spawn, SpawnError, Step};

use crate::support::{NOBODY, end, is_root, mounts, myself, output, pipe, status};
use crate::{Outcome, Test, run};

pub const TESTS: &[Test] = &[
    ("launch::root_jail_holds", root_jail_holds),
    ("launch::root_jail_by_user_namespace_holds", user_jail_holds),
    ("launch::ordinary_user", ordinary_user),
    ("launch::launcher_filter_lets_jails_be_built", launcher_filter_lets_jails_be_built),
    ("launch::shared_mounts_get_nothing_from_a_jail", shared_mounts_get_nothing_from_a_jail),
    ("launch::directory_by_descriptor_is_bound", directory_by_descriptor_is_bound),
    ("launch::prepared_network_is_entered", prepared_network_is_entered),
    ("launch::other_identity_in_plain_mode", other_identity_in_plain_mode),
    ("launch::failing_steps_are_named", failing_steps_are_named),
    ("launch::failing_root_steps_are_named", failing_root_steps_are_named),
    ("launch::signals_and_limits_start_fresh", signals_and_limits_start_fresh),
    ("launch::landlock_is_enforced", landlock_is_enforced),
    ("launch::filter_that_forbids_exec_is_seen", filter_that_forbids_exec_is_seen),
    ("launch::steps_are_timed_in_order", steps_are_timed_in_order),
];

/// Run once more as an ordinary user.
pub const USER_TESTS: &[Test] = &[
    ("launch::user_jail_holds", user_jail_holds),
    ("launch::user_failing_steps_are_named", failing_steps_are_named),
    ("launch::user_signals_and_limits_start_fresh", signals_and_limits_start_fresh),
    ("launch::user_filter_that_forbids_exec_is_seen", filter_that_forbids_exec_is_seen),
];

const ALL: [Namespace; 5] = [Namespace::Pid, Namespace::Mount, Namespace::Net, Namespace::Ipc, Namespace::Uts];

fn jail(uid: u32, gid: u32) -> Jail {
    let dir = WritableDir { uid, gid, mode: 0o700, size: 1 << 20 };
    Jail::for_program(Path::new("/bin/sh"), &[Path::new("/nonexistent")])
        .and_then(|jail| jail.writable_dir(Path::new("/tmp"), dir))
        .and_then(|jail| jail.writable_dir(Path::new("/boot"), dir))
        .and_then(|jail| jail.device(Device::Null))
        .and_then(|jail| jail.device(Device::Zero))
        .unwrap()
}

/// What the probe found, and what its status file says from outside.
struct Seen {
    inside: BTreeMap<String, String>,
    outside: BTreeMap<String, String>,
    /// Mount point and options of each of its mounts.
    mounts: Vec<(String, String)>,
}

impl Seen {
    fn is(&self, name: &str, value: impl std::fmt::Display) {
        let found = self.inside.get(name).map_or("absent", String::as_str);
        assert_eq!(found, value.to_string(), "{name}; all: {:?}", self.inside);
    }

    fn all_fail(&self, names: &[&str], errno: i32) {
        names.iter().for_each(|name| self.is(name, errno));
    }

    fn status(&self, name: &str, value: &str) {
        assert_eq!(self.outside.get(name).map(String::as_str), Some(value), "{name}; all: {:?}", self.outside);
    }
}

/// Starts the probe as `complete` says, beside a sibling and sockets that it must not reach.
fn probe(complete: impl FnOnce(Spawn<'_>) -> Spawn<'_>) -> Seen {
    let dir = tempfile::tempdir().unwrap();
    let unix_path = dir.path().join("socket");
    let _unix = UnixListener::bind(&unix_path).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let sibling = std::os::unix::process::parent_id();
    let args = ["probe", &tcp.local_addr().unwrap().to_string(), unix_path.to_str().unwrap(), &sibling.to_string()];
    let (stdin, hold) = pipe();
    let (out, into) = pipe();
    // Descriptors that an exec alone would not close.
    let careless = [77, 700].map(|number| {
        let fd = rustix::io::fcntl_dupfd_cloexec(&stdin, number).unwrap();
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).unwrap();
        fd
    });
    // The jail has to hold by itself: QEMU's own filter would kill at the first attempt.
    let filter = Role::Launcher.filter().unwrap();
    let spawn = complete(myself(&args).fd(0, &stdin).fd(1, &into).fd(2, &into).env("A", "b")).filter(&filter);
    let child = spawn.start().unwrap_or_else(|error| panic!("{error:?}"));
    drop((into, stdin, careless));
    let mut inside = BTreeMap::new();
    let mut lines = BufReader::new(File::from(out));
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap() == 0 {
            break;
        }
        let (name, value) = line.trim_end().split_once('=').unwrap_or((line.trim_end(), ""));
        inside.insert(name.to_owned(), value.to_owned());
        if name == "done" {
            break;
        }
    }
    let outside = status(child.pid);
    let mounts = mounts(child.pid);
    drop(hold);
    assert_eq!(end(&child), Exit::Code(0), "{inside:?}");
    Seen { inside, outside, mounts }
}

/// What holds in every jail.
fn assert_confined(seen: &Seen) {
    seen.is("pid", 1);
    seen.is("parent", 0);
    seen.is("hostname", "guest");
    seen.is("environment", "A=b,");
    seen.is("descriptors", "[0, 1, 2]");
    seen.is("umask", "77");
    seen.all_fail(
        &["/etc/passwd", "/proc", "/proc/self/status", "/sys", "/home", "/root", "/var", "/run", "unix", "kvm"],
        libc::ENOENT,
    );
    let root = seen.inside.get("root").unwrap();
    assert!(
        root.split(',')
            .all(|name| ["bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "tmp", "usr"].contains(&name)),
        "{root}"
    );
    seen.all_fail(&["write-root", "write-lib"], libc::EROFS);
    seen.is("write-dev", libc::EROFS);
    ["write-tmp", "null", "zero"].iter().for_each(|name| seen.is(name, "ok"));
    seen.is("fill-tmp", libc::ENOSPC);
    seen.is("tcp", libc::ENETUNREACH);
    seen.is("abstract", libc::ECONNREFUSED);
    seen.is("interfaces", 1);
    seen.is("kill-sibling", libc::ESRCH);
    seen.all_fail(
        &["ptrace-sibling", "setgroups", "capabilities", "mknod", "mount", "chroot", "hostname-set"],
        libc::EPERM,
    );
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        seen.status(set, "0000000000000000");
    }
    seen.status("NoNewPrivs", "1");
    seen.status("Seccomp", "2");
    seen.status("SigBlk", "0000000000000000");
    assert_mounts(seen);
}

/// Only what the jail describes is mounted: the host's tree is gone, and nothing but the two small directories is writable.
fn assert_mounts(seen: &Seen) {
    assert!(seen.mounts.len() > 4, "{:?}", seen.mounts);
    for (point, options) in &seen.mounts {
        let has = |option: &str| options.split(',').any(|other| other == option);
        let writable = point == "/tmp" || point == "/boot";
        assert_eq!(has("rw"), writable, "{point} {options}");
        assert!(has("nosuid"), "{point} {options}");
        assert!(has("nodev") || point.starts_with("/dev"), "{point} {options}");
        assert!(has("noexec") || !writable && point != "/", "{point} {options}");
        let known = ["/bin/sh", "/usr/lib", "/lib", "/etc/ld.so.cache", "/tmp", "/boot", "/dev"];
        assert!(point == "/" || known.iter().any(|known| point.starts_with(known)), "{point}");
    }
}

fn root_jail_holds() -> Outcome {
    if !is_root() {
        return Outcome::Skipped("not root");
    }
    let jail = jail(NOBODY, NOBODY);
    let seen = probe(|spawn| {
        let identity = Identity { uid: NOBODY, gid: NOBODY };
        spawn.namespaces(&ALL).jail(Box::leak(Box::new(jail))).hostname("guest").identity(identity)
    });
    assert_confined(&seen);
    seen.is("uid", NOBODY);
    seen.is("gid", NOBODY);
    seen.is("groups", 0);
    seen.all_fail(&["setuid", "setuid-other"], libc::EPERM);
    seen.is("exec-tmp", libc::EACCES);
    seen.status("Uid", &format!("{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}"));
    Outcome::Passed
}

fn user_jail_holds() -> Outcome {
    let (uid, gid) = (1000, 1000);
    let jail = jail(uid, gid);
    let seen = probe(|spawn| {
        let spawn = spawn.user_namespace(IdMap { uid, gid }).identity(Identity { uid, gid });
        spawn.namespaces(&ALL).jail(Box::leak(Box::new(jail))).hostname("guest")
    });
    assert_confined(&seen);
    seen.is("uid", uid);
    seen.is("gid", gid);
    // The others have no number in this namespace.
    seen.all_fail(&["setuid", "setuid-other"], libc::EINVAL);
    seen.is("exec-tmp", libc::EACCES);
    let outside = rustix::process::geteuid().as_raw();
    seen.status("Uid", &format!("{outside}\t{outside}\t{outside}\t{outside}"));
    Outcome::Passed
}

fn ordinary_user() -> Outcome {
    if !is_root() {
        return Outcome::Skipped("not root: the tests of an ordinary user ran without a change of user");
    }
    let identity = Identity { uid: NOBODY, gid: NOBODY };
    let (text, exit) = output(myself(&["as-user"]).env("TMPDIR", "/tmp").identity(identity));
    print!("{text}");
    assert_eq!(exit, Exit::Code(0));
    assert_eq!(text.lines().filter(|line| line.ends_with("ok")).count(), USER_TESTS.len());
    Outcome::Passed
}

fn launcher_filter_lets_jails_be_built() -> Outcome {
    jails_hold_in_mode("under-launcher")
}

fn shared_mounts_get_nothing_from_a_jail() -> Outcome {
    jails_hold_in_mode("with-shared-mounts")
}

/// Runs the tests of the jails in a process of its own that prepares itself as the mode says.
fn jails_hold_in_mode(mode: &str) -> Outcome {
    if !is_root() {
        return Outcome::Skipped("not root");
    }
    // Not through `spawn`, which takes every capability: a launcher is started by init.
    let output = std::process::Command::new("/proc/self/exe").arg(mode).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("root_jail_holds ... ok"), "{text}");
    Outcome::Passed
}

const JAILS: &[Test] = &[("root_jail_holds", root_jail_holds), ("user_jail_holds", user_jail_holds)];

/// The mode `under-launcher`.
pub fn under_launcher() -> ExitCode {
    Role::Launcher.install().unwrap();
    run(JAILS, &[])
}

/// The mode `with-shared-mounts`: as on a host with systemd, where whatever is mounted on a shared mount appears elsewhere.
pub fn with_shared_mounts() -> ExitCode {
    use rustix::mount::MountPropagationFlags;
    // SAFETY: a new mount namespace changes nothing that memory depends on.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    let propagation = |flags| rustix::mount::mount_change("/", flags | MountPropagationFlags::REC).unwrap();
    propagation(MountPropagationFlags::PRIVATE);
    propagation(MountPropagationFlags::SHARED);
    run(JAILS, &[])
}

fn busybox() -> Option<PathBuf> {
    Some(PathBuf::from("/bin/busybox")).filter(|path| path.exists())
}

fn directory_by_descriptor_is_bound() -> Outcome {
    if !is_root() {
        return Outcome::Skipped("not root");
    }
    let Some(busybox) = busybox() else { return Outcome::Skipped("no static busybox") };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "by descriptor").unwrap();
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let fd: OwnedFd = rustix::fs::open(dir.path(), flags, rustix::fs::Mode::empty()).unwrap();
    let jail = Jail::new()
        .bind(&busybox, Path::new("/busybox"))
        .and_then(|jail| jail.bind_fd(fd, Path::new("/data")))
        .unwrap();
    let program = Program::Path("/busybox".into());
    let script = "/busybox cat /data/file; echo; echo x > /data/new; pwd; /busybox ls /";
    // More targets than the jail's own descriptors have low numbers: placing must not overwrite those.
    let null = File::open("/dev/null").unwrap();
    let spawn = (3..40).fold(Spawn::new(program, "sh").args(["-c", script]), |spawn, number| spawn.fd(number, &null));
    let (text, exit) = output(spawn.jail(&jail));
    assert!(text.contains("by descriptor"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
    assert!(text.ends_with("/\nbusybox\ndata\n"), "{text}");
    assert_eq!(exit, Exit::Code(0));
    Outcome::Passed
}

fn prepared_network_is_entered() -> Outcome {
    if !is_root() {
        return Outcome::Skipped("not root");
    }
    // A first child makes the namespace and its descriptor keeps it.
    let (stdin, hold) = pipe();
    let sleeper = Spawn::new(Program::Path("/bin/cat".into()), "cat").fd(0, &stdin).namespaces(&[Namespace::Net]);
    let sleeper = sleeper.start().unwrap();
    let netns = File::open(format!("/proc/{}/ns/net", sleeper.pid)).unwrap();
    let name = std::fs::read_link(format!("/proc/{}/ns/net", sleeper.pid)).unwrap();
    drop((hold, stdin));
    end(&sleeper);
    let program = Spawn::new(Program::Path("/bin/readlink".into()), "readlink").arg("/proc/self/ns/net");
    let (text, exit) = output(program.netns(&netns));
    assert_eq!((text.trim_end(), exit), (name.to_str().unwrap(), Exit::Code(0)));
    Outcome::Passed
}

fn other_identity_in_plain_mode() -> Outcome {
    if !is_root() {
        return Outcome::Skipped("not root");
    }
    let mut file = tempfile::tempfile().unwrap();
    let program = Spawn::new(Program::Path("/bin/cat".into()), "cat").args(["/proc/self/status", "/proc/self/environ"]);
    let identity = Identity { uid: NOBODY, gid: 7 };
    let group = |number| rustix::fs::Gid::from_raw(number);
    rustix::thread::set_thread_groups(&[group(4), group(5)]).unwrap();
    let child = program.fd(1, &file).identity(identity).current_dir("/usr").start().unwrap();
    rustix::thread::set_thread_groups(&[]).unwrap();
    assert_eq!(end(&child), Exit::Code(0));
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    for line in [
        "NoNewPrivs:\t1",
        "CapBnd:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "Groups:\t \n",
        "Uid:\t65534\t65534\t65534\t65534",
        "Gid:\t7\t7\t7\t7",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.lines().last().unwrap().starts_with("nonvoluntary"), "the environment is empty: {text}");
    Outcome::Passed
}

fn failure(spawn: Spawn<'_>) -> (Step, Option<PathBuf>, i32) {
    match spawn.start() {
        Err(SpawnError::Step { step, subject, source }) => (step, subject, source.raw_os_error().unwrap()),
        other => panic!("{other:?}"),
    }
}

fn absent_program() -> Spawn<'static> {
    Spawn::new(Program::Path("/nonexistent/program".into()), "program")
}

fn failing_steps_are_named() -> Outcome {
    let absent = Some(PathBuf::from("/nonexistent/program"));
    assert_eq!(failure(absent_program()), (Step::Exec, absent, libc::ENOENT));
    let elsewhere = absent_program().current_dir("/nonexistent");
    assert_eq!(failure(elsewhere), (Step::Directory, Some("/nonexistent".into()), libc::ENOENT));
    let limit = Limit { resource: Resource::Nofile, soft: Some(2), hard: Some(1) };
    assert_eq!(failure(absent_program().limit(limit)), (Step::Limits, None, libc::EINVAL));

    // The bind's source goes away between the description and the spawn.
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let jail = Jail::new().bind(&source, Path::new("/inside")).unwrap();
    std::fs::remove_dir(&source).unwrap();
    let user = IdMap { uid: 0, gid: 0 };
    let confined = absent_program().user_namespace(user).jail(&jail);
    assert_eq!(failure(confined), (Step::JailBind, Some(source), libc::ENOENT));

    let jail = Jail::new().root_size(1 << 20).symlink(Path::new("x"), Path::new("/y")).unwrap();
    let confined = absent_program().user_namespace(user).jail(&jail);
    assert_eq!(failure(confined).0, Step::Exec);
    Outcome::Passed
}

fn failing_root_steps_are_named() -> Outcome {
    if !is_root() {
        return Outcome::Skipped("not root");
    }
    let null = File::open("/dev/null").unwrap();
    assert_eq!(failure(absent_program().netns(&null)), (Step::NetworkNamespace, None, libc::EINVAL));
    let long = "n".repeat(65);
    let named = absent_program().namespaces(&[Namespace::Uts]).hostname(long);
    assert_eq!(failure(named), (Step::Hostname, None, libc::EINVAL));
    let nobody = Identity { uid: u32::MAX - 1, gid: 1 };
    assert_eq!(failure(absent_program().identity(nobody)).0, Step::Exec);
    Outcome::Passed
}

fn signals_and_limits_start_fresh() -> Outcome {
    // Rust ignores SIGPIPE, and this blocks SIGUSR1: neither may reach the program.
    let blocked = sandbox::signal::SignalFd::new(&[sandbox::Signal::USR1]).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let program = Spawn::new(Program::Path("/bin/cat".into()), "cat").args(["/proc/self/status", "/proc/self/limits"]);
    let child = program.fd(1, &file).limit(Limit::fixed(Resource::Nofile, 33)).start().unwrap();
    assert_eq!(end(&child), Exit::Code(0));
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    for line in ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let nofile = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(nofile.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["33", "33"]);
    drop(blocked);
    Outcome::Passed
}

fn landlock_is_enforced() -> Outcome {
    let execute = ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache"];
    let rules =
        Rules { execute: execute.iter().map(PathBuf::from).filter(|path| path.exists()).collect(), ..Rules::default() };
    let prepared = sandbox::landlock::prepare(&rules).unwrap();
    if prepared.enforced() == Enforced::Not {
        return Outcome::Skipped("this kernel has no Landlock");
    }
    let program = Spawn::new(Program::Path("/bin/cat".into()), "cat").arg("/etc/passwd");
    let (text, exit) = output(program.landlock(&prepared));
    assert!(text.contains("Permission denied"), "{text}");
    assert_eq!(exit, Exit::Code(1));
    Outcome::Passed
}

fn filter_that_forbids_exec_is_seen() -> Outcome {
    let filter = Role::Control.filter().unwrap();
    let program = Spawn::new(Program::Path("/bin/true".into()), "true");
    let exit = end(&program.filter(&filter).start().unwrap());
    assert!(matches!(exit, Exit::Signal { number: libc::SIGSYS, .. }), "{exit}");
    Outcome::Passed
}

fn steps_are_timed_in_order() -> Outcome {
    let user = IdMap { uid: 0, gid: 0 };
    let jail = jail(0, 0);
    let program = Spawn::new(Program::Path("/bin/sh".into()), "sh").args(["-c", "exit 3"]);
    let mut child = program.user_namespace(user).namespaces(&ALL).jail(&jail).time_steps().start().unwrap();
    let times = std::mem::take(&mut child.times);
    assert_eq!(end(&child), Exit::Code(3));
    assert!(times.len() > 15, "{times:?}");
    assert!(times.is_sorted_by_key(|time| time.after), "{times:?}");
    let mut out = std::io::stdout();
    writeln!(out, "with a user namespace, in debug: {:?}", times.last().unwrap()).unwrap();
    assert!(null_is_open());
    Outcome::Passed
}

/// The standard streams of this process were not touched by what happened in the children.
fn null_is_open() -> bool {
    rustix::io::fcntl_getfd(std::io::stdout()).is_ok() && std::io::stdin().as_raw_fd() == 0
}
