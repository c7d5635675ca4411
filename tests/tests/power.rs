//! The table of processes and power: what every live process of an instance may do, read from `/proc` and compared with
//! the table below. A line that has to change here is a change of what a process could do if it were taken over.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use api::{Call, remote};
use bulkhead_tests::{Guest, Instance, LONG, Process, Role};
use ipc::client::Client;

const SERVICE: u32 = 0x7000_0000;
const GUESTS: std::ops::Range<u32> = 0x7001_0000..0x7002_0000;

/// One row of the table: what must hold for every thread of a process.
struct Row {
    role: &'static str,
    uid: u32,
    /// Effective, permitted, inheritable, ambient.
    capabilities: u64,
    /// The bounding set; `None` where the user may not change it, which `no_new_privs` makes meaningless.
    bounding: Option<u64>,
    /// The namespaces that are not the host's.
    own: &'static [&'static str],
    /// Its root is a compartment's, not the host's.
    jailed: bool,
    /// Every descriptor: how it is open and what it is, with how many of them there are.
    descriptors: Vec<(String, usize)>,
}

/// The namespaces of a guest.
const GUESTS_OWN: &[&str] = &["ipc", "mnt", "net", "pid", "uts"];
/// And in a session, where only a user namespace makes them possible.
const SESSIONS_OWN: &[&str] = &["ipc", "mnt", "net", "pid", "user", "uts"];
const ALL_NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// QEMU opens these for itself, as many as its machine needs.
const QEMUS_OWN: [&str; 3] = ["rw [eventfd]", "rw [eventpoll]", "rw [signalfd]"];

#[test]
fn a_system_instance_is_as_the_table_says() {
    let Some(instance) = Instance::system("a_system_instance_is_as_the_table_says") else { return };
    let disks = ["one", "two"].map(|name| instance.file(&format!("{name}.img"), &[0; 4096]));
    for (name, disk) in ["one", "two"].into_iter().zip(&disks) {
        instance.define(&Guest::tiny(name).disk(disk, "raw"));
    }
    settle(&instance);
    for name in ["one", "two"] {
        instance.ok(&["start", name]);
    }
    let (launcher, control) = (instance.launcher().pid, instance.control().pid);
    let uids: Vec<u32> = instance.role(Role::Supervisor).iter().map(|process| process.uid).collect();
    assert_eq!(uids.iter().collect::<BTreeSet<_>>().len(), 2, "two guests with one uid: {uids:?}");
    assert!(uids.iter().all(|uid| GUESTS.contains(uid)), "uids outside of the configured range: {uids:?}");

    let _client = connected(&instance);
    let kept = kept(&instance);
    assert!(GUESTS.contains(&kept.uid) && !uids.contains(&kept.uid), "{kept:?} has a uid of {uids:?}");
    compare(&instance, kept.pid, &waiting_row(kept.uid, GUESTS_OWN));
    compare(
        &instance,
        launcher,
        &Row {
            role: "launcher",
            uid: 0,
            capabilities: status(launcher, "CapEff"),
            bounding: None,
            own: &[],
            jailed: false,
            descriptors: launchers_descriptors(2),
        },
    );
    compare(
        &instance,
        control,
        &Row {
            role: "control",
            uid: SERVICE,
            capabilities: 0,
            bounding: Some(0),
            own: &[],
            jailed: false,
            descriptors: controls_descriptors(2),
        },
    );
    compare(&instance, opener(&instance), &opener_row(0, 1 << 1, Some(1 << 1)));
    let mut seen = BTreeMap::new();
    for (name, disk) in ["one", "two"].into_iter().zip(&disks) {
        let (supervisor, qemu) = (instance.supervisor(name).pid, instance.qemu(name).pid);
        let uid = Process::of(supervisor).expect("it lives").uid;
        for row in guests_rows(uid, GUESTS_OWN, Some(0), disk) {
            compare(&instance, if row.role == "QEMU" { qemu } else { supervisor }, &row);
        }
        // Its parent's namespaces, and no other guest's.
        for kind in GUESTS_OWN {
            let namespace = namespace(supervisor, kind);
            assert_eq!(namespace, self::namespace(qemu, kind), "{name}: supervisor and QEMU share {kind}");
            assert_eq!(seen.insert(namespace, name), None, "two guests share {kind}");
        }
        assert_eq!(Process::of(qemu).expect("it lives").parent, supervisor);
        assert_eq!(Process::of(supervisor).expect("it lives").parent, launcher);
    }
}

#[test]
fn an_ordinary_user_s_session_is_as_the_table_says() {
    let instance = Instance::ordinary();
    let uid = instance.uid();
    let disk = instance.file("own.img", &[0; 4096]);
    instance.define(&Guest::tiny("own").disk(&disk, "raw"));
    settle(&instance);
    instance.ok(&["start", "own"]);
    let (launcher, control) = (instance.launcher().pid, instance.control().pid);
    let plain =
        |role, descriptors| Row { role, uid, capabilities: 0, bounding: None, own: &[], jailed: false, descriptors };
    let _client = connected(&instance);
    compare(&instance, kept(&instance).pid, &waiting_row(uid, SESSIONS_OWN));
    compare(&instance, launcher, &plain("launcher", launchers_descriptors(1)));
    compare(&instance, control, &plain("control", controls_descriptors(1)));
    compare(&instance, opener(&instance), &opener_row(uid, 0, None));
    for row in guests_rows(uid, SESSIONS_OWN, Some(0), &disk) {
        let pid = if row.role == "QEMU" { instance.qemu("own").pid } else { instance.supervisor("own").pid };
        compare(&instance, pid, &row);
    }
}

/// The launcher's own table: each of these is used for what stands beside it, and there is no other.
#[test]
fn the_launcher_holds_the_few_capabilities_of_its_table() {
    const TABLE: [(u32, &str); 9] = [
        (0, "CHOWN: hands a run's directory to control"),
        (1, "DAC_OVERRIDE: opens images under the configured roots"),
        (3, "FOWNER: sets the modes of what it has handed over"),
        (5, "KILL: ends a control that broke the protocol"),
        (6, "SETGID: a guest's own gid"),
        (7, "SETUID: a guest's own uid"),
        (8, "SETPCAP: empties a child's bounding set"),
        (21, "SYS_ADMIN: namespaces and mounts"),
        (27, "MKNOD: /dev/null and the like in a guest's root"),
    ];
    let test = "the_launcher_holds_the_few_capabilities_of_its_table";
    let Some(instance) = Instance::system(test) else { return };
    instance.ok(&["list"]);
    let table = TABLE.iter().fold(0u64, |set, (number, _)| set | 1 << number);
    let launcher = instance.launcher().pid;
    // What this host does not give to root cannot be kept.
    let possible = status(std::process::id(), "CapPrm");
    for set in ["CapEff", "CapPrm"] {
        assert_eq!(status(launcher, set), table & possible, "{set} of the launcher: {TABLE:?}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status(launcher, set), 0, "{set} of the launcher");
    }
    assert_eq!(status(launcher, "CapBnd") & !table, 0, "CapBnd of the launcher");
}

fn launchers_descriptors(guests: usize) -> Vec<(String, usize)> {
    [
        ("path PROGRAMS/qemu-supervisor", 1),
        // Control's program, eight times more as a reserve of descriptors for another control.
        ("path PROGRAMS/qemud-control", 9),
        ("path PROGRAMS/qemud", 1),
        ("r /dev/null", 1),
        // The poll, and the openers' handle on it.
        ("rw [eventpoll]", 2),
        // Control's, an opener's, one for each guest, and that of the supervisor that is kept ready.
        ("rw [pidfd]", 3 + guests),
        ("rw [signalfd]", 1),
        ("rw /memfd:in-hand (deleted)", 1),
        // Two listeners, the channels to control, to an opener, and to the supervisor that is kept ready.
        ("rw socket", 5),
        ("w /dev/null", 1),
        ("w LOG/qemud.log", 1),
        ("w RUN/qemud.lock", 1),
    ]
    .map(|(what, count)| (what.to_owned(), count))
    .to_vec()
}

/// The opener that waits for work; the capability is DAC_OVERRIDE.
fn opener_row(uid: u32, capabilities: u64, bounding: Option<u64>) -> Row {
    let descriptors = [("rw /dev/null", 2), ("rw socket", 1), ("w LOG/qemud.log", 1)];
    let descriptors = descriptors.map(|(what, count)| (what.to_owned(), count)).to_vec();
    Row { role: "opener", uid, capabilities, bounding, own: &[], jailed: false, descriptors }
}

fn opener(instance: &Instance) -> u32 {
    let found = instance.role(Role::Opener);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].pid
}

fn controls_descriptors(guests: usize) -> Vec<(String, usize)> {
    [
        ("rw /dev/null", 2),
        // The poll, and the handles on it of the server and of the supervisors' links.
        ("rw [eventpoll]", 3),
        // By which the store's threads wake the loop.
        ("rw [eventfd]", 1),
        // Each guest's QEMU, to tell its pid; no call that could do anything to it passes control's filter.
        ("rw [pidfd]", guests),
        ("rw /memfd:in-hand (deleted)", 1),
        // Two listeners, the channel to the launcher, one to each guest's supervisor, and one client: this test.
        ("rw socket", 3 + guests + 1),
        ("w LOG/qemud.log", 1),
        // Locked, so that the next control waits for what this one still writes.
        ("r RUN/journal", 1),
        ("w RUN/journal/events", 1),
    ]
    .map(|(what, count)| (what.to_owned(), count))
    .to_vec()
}

/// A guest's two rows.
fn guests_rows(uid: u32, own: &'static [&'static str], bounding: Option<u64>, disk: &Path) -> [Row; 2] {
    let row = |role, descriptors: Vec<(String, usize)>| Row {
        role,
        uid,
        capabilities: 0,
        bounding,
        own,
        jailed: true,
        descriptors,
    };
    let supervisor = [
        ("r pipe", 1),
        ("rw /dev/null", 2),
        ("rw [eventpoll]", 1),
        ("rw [pidfd]", 1),
        // Its listener, control, QEMU's monitor and the serial port.
        ("rw socket", 4),
        ("w LOG/qemu/GUEST.log", 1),
        ("w RUN/guests/ID/events", 1),
    ];
    let disk = format!("rw {}", disk.display());
    let qemu = [
        ("rw /dev/null", 2),
        // What it was given, and what it opened of that for its block node.
        (disk.as_str(), 2),
        // The monitor and the serial port.
        ("rw socket", 2),
        // Its standard error.
        ("w pipe", 1),
    ];
    let owned = |list: &[(&str, usize)]| list.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect();
    [row("supervisor", owned(&supervisor)), row("QEMU", owned(&qemu))]
}

/// A supervisor that has no guest yet: nothing but the socket on which it waits for one.
fn waiting_row(uid: u32, own: &'static [&'static str]) -> Row {
    let descriptors = [("rw /dev/null", 3), ("rw socket", 1)].map(|(what, count)| (what.to_owned(), count)).to_vec();
    Row { role: "waiting supervisor", uid, capabilities: 0, bounding: Some(0), own, jailed: true, descriptors }
}

/// The supervisor that is kept ready for a guest like the last one: without KVM, unlike one for the emulator's probe.
fn kept(instance: &Instance) -> Process {
    let mut kept = None;
    let plain = |process: &Process| !Path::new(&format!("/proc/{}/root/dev/kvm", process.pid)).exists();
    let there = || {
        kept = instance.role(Role::Kept).into_iter().find(plain);
        kept.is_some()
    };
    assert!(bulkhead_tests::wait_until(LONG, there), "no supervisor is kept ready");
    kept.expect("one")
}

/// The probe of the emulator, which a first definition starts, is over, and nothing of it is left.
fn settle(instance: &Instance) {
    for process in instance.role(Role::Supervisor) {
        if let Some(handle) = process.handle() {
            assert!(handle.wait_for_end(LONG), "{process:?} does not end");
        }
    }
    assert!(bulkhead_tests::wait_for_no_entries(&instance.guests_dir(), LONG));
}

fn compare(instance: &Instance, pid: u32, row: &Row) {
    let role = row.role;
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("its threads").flatten() {
        threads += 1;
        compare_thread(&task.path().join("status"), row);
    }
    // Control's loop, the threads of its store for definitions and the journal, and one for each look at a file that was
    // under way at a time, of which there are 32 at most.
    let expected = if role == "control" { 4..=35 } else { 1..=1 };
    assert!(expected.contains(&threads) || role == "QEMU", "{role} has {threads} threads");
    for kind in ALL_NAMESPACES {
        let own = namespace(pid, kind) != fs::read_link(format!("/proc/self/ns/{kind}")).expect("our namespace");
        assert_eq!(own, row.own.contains(&kind), "{role}: is its {kind} namespace its own?");
    }
    if row.jailed {
        compare_root(role, pid, row.uid);
    }
    let (mut found, table): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (descriptors(instance, pid), row.descriptors.iter().cloned().collect());
    if role == "QEMU" {
        found.retain(|what, _| !QEMUS_OWN.contains(&what.as_str()));
    }
    assert_eq!(found, table, "{role}: open descriptors on the left, the table on the right");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line of it");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{role} must not dump core");
}

/// A connection that has been answered once: whatever ended before it has been closed by then, such as the connections of
/// commands that are over.
fn connected(instance: &Instance) -> Client {
    let client = Client::connect(&instance.socket(), "test").expect("a connection");
    client.call(&Call::ConnectGetType(remote::ConnectGetTypeArgs), Vec::new()).expect("an answer");
    client
}

fn compare_thread(path: &Path, row: &Row) {
    let text = fs::read_to_string(path).expect("a thread's status");
    let role = row.role;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{role}: no {name}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let all_four = |id: u32| format!("{id} {id} {id} {id}");
    assert_eq!(field("Uid"), all_four(row.uid), "{role}: real, effective, saved and file system's uid");
    assert_eq!(field("Gid"), all_four(row.uid), "{role}: its gids");
    assert_eq!(field("Groups"), "", "{role}: further groups");
    let set = |name: &str| u64::from_str_radix(&field(name), 16).expect("a set of capabilities");
    for name in ["CapEff", "CapPrm"] {
        assert_eq!(set(name), row.capabilities, "{role}: {name}");
    }
    for name in ["CapInh", "CapAmb"] {
        assert_eq!(set(name), 0, "{role}: {name}");
    }
    if let Some(bounding) = row.bounding {
        assert_eq!(set("CapBnd"), bounding, "{role}: CapBnd");
    }
    assert_eq!(field("NoNewPrivs"), "1", "{role}");
    assert_eq!(field("Seccomp"), "2", "{role} without a filter");
}

/// A compartment's root: QEMU and what it needs, and nothing else of the host.
fn compare_root(role: &str, pid: u32, uid: u32) {
    let root = format!("/proc/{pid}/root");
    let names = |dir: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(format!("{root}{dir}")).unwrap_or_else(|error| panic!("{role}: {dir}: {error}"));
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let only = |dir: &str, allowed: &[&str]| {
        let more: Vec<String> = names(dir).into_iter().filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(more.is_empty(), "{role}: {dir} of its root has {more:?}");
    };
    only("/", &["boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "tmp", "usr"]);
    only("/etc", &["ld.so.cache", "ld.so.conf", "ld.so.conf.d"]);
    only("/usr", &["bin", "lib", "lib32", "lib64", "libx32", "share"]);
    only("/usr/share", &["qemu", "seabios", "vgabios", "ipxe", "qemu-efi-aarch64", "OVMF", "AAVMF", "edk2"]);
    assert_eq!(names("/usr/bin").len(), 1, "{role}: one program: {:?}", names("/usr/bin"));
    assert_eq!(names("/dev"), ["null", "urandom", "zero"].map(String::from).into(), "{role}: devices");
    for dir in ["/boot", "/tmp"] {
        let data = fs::metadata(format!("{root}{dir}")).expect("its metadata");
        assert_eq!((data.uid(), data.mode() & 0o7777), (uid, 0o700), "{role}: {dir}");
    }
    let place = |link: &str| fs::metadata(format!("/proc/{pid}/{link}")).map(|data| (data.dev(), data.ino())).ok();
    assert_eq!(place("cwd"), place("root"), "{role}: its directory is its root");

    for line in fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("its mounts").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (at, options) = (words[4], words[5].split(',').collect::<BTreeSet<_>>());
        let device = fs::metadata(format!("{root}{at}")).is_ok_and(|data| data.file_type().is_char_device());
        let writable = at == "/boot" || at == "/tmp" || device;
        assert!(writable || options.contains("ro"), "{role}: {at} can be written: {line}");
        assert!(options.contains("nosuid"), "{role}: {line}");
        assert!(options.contains("nodev") || at == "/dev" || device, "{role}: {line}");
        let programs = at.starts_with("/usr/") || at.starts_with("/lib");
        assert!(programs || !writable || device || options.contains("noexec"), "{role}: {line}");
    }
}

fn namespace(pid: u32, kind: &str) -> std::path::PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace")
}

fn status(pid: u32, set: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = text.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':')).expect("its capabilities");
    u64::from_str_radix(line.trim(), 16).expect("a set")
}

/// The open descriptors of a process: how each is open, what it is, and how many are alike.
fn descriptors(instance: &Instance, pid: u32) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let dir = format!("/proc/{pid}");
    for entry in fs::read_dir(format!("{dir}/fd")).expect("its descriptors").flatten() {
        let number = entry.file_name().to_string_lossy().into_owned();
        // A descriptor may be closed between the two looks.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let Ok(info) = fs::read_to_string(format!("{dir}/fdinfo/{number}")) else { continue };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("its flags").trim();
        let flags = u64::from_str_radix(flags, 8).expect("octal flags");
        let number: u32 = number.parse().expect("a number");
        let closes = flags & 0o2_000_000 != 0;
        assert!(
            closes || number <= 2 || !matches!(Process::of(pid), Some(p) if p.role == Role::Launcher),
            "the launcher's descriptor {number} ({}) would pass to a child",
            target.display()
        );
        let how = match flags & 0o3 {
            _ if flags & 0o10_000_000 != 0 => "path",
            0 => "r",
            1 => "w",
            _ => "rw",
        };
        *found.entry(format!("{how} {}", shown(instance, &target.to_string_lossy()))).or_insert(0) += 1;
    }
    found
}

/// A descriptor's target without what differs from run to run.
fn shown(instance: &Instance, target: &str) -> String {
    if let Some(kind) = target.strip_prefix("anon_inode:") {
        return kind.to_owned();
    }
    if let Some((kind, _)) = target.split_once(":[") {
        return kind.to_owned();
    }
    let programs = instance.program("qemud");
    let places = [
        (instance.log_dir(), "LOG"),
        (instance.runtime_dir(), "RUN"),
        (programs.parent().expect("a directory").to_owned(), "PROGRAMS"),
    ];
    for (place, name) in places {
        let Ok(rest) = Path::new(target).strip_prefix(&place) else { continue };
        let words: Vec<String> = rest.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        return match (name, words.as_slice()) {
            ("LOG", ["qemu", _]) => "LOG/qemu/GUEST.log".to_owned(),
            ("RUN", ["guests", _, file]) => format!("RUN/guests/ID/{file}"),
            (name, words) => format!("{name}/{}", words.join("/")),
        };
    }
    target.to_owned()
}
