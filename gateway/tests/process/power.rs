//! The table of the gateway's processes and power, read from `/proc`. A line that has to change here is a change of what a
//! process could do if it were taken over.

use std::{collections::BTreeMap, fs};

use bulkhead_tests::Process;

use crate::rig::{Rig, SOMEBODY, as_user, hostname, opened};

const SERVICE: u32 = 0x7000_0001;

/// What must hold for a process.
struct Row {
    role: &'static str,
    uid: u32,
    /// Effective and permitted.
    capabilities: u64,
    /// The bounding set; `None` where the user may not change it, which `no_new_privs` makes meaningless.
    bounding: Option<u64>,
    /// Every descriptor: how it is open and what it is, with how many of them there are.
    descriptors: Vec<(&'static str, usize)>,
}

fn launcher(uid: u32, capabilities: u64) -> Row {
    let descriptors = vec![
        ("path PROGRAM", 1),
        ("r /dev/null", 1),
        ("rw [pidfd]", 0),
        ("rw [signalfd]", 1),
        // Two listeners, the channel to the acceptor.
        ("rw socket", 3),
        ("w /dev/null", 1),
        ("w LOG", 1),
        ("w LOCK", 1),
    ];
    Row { role: "launcher", uid, capabilities, bounding: None, descriptors }
}

/// With channels to so many processes that it has started, beside the one to the launcher.
fn acceptor(uid: u32, bounding: Option<u64>, channels: usize) -> Row {
    let descriptors = vec![
        // 0 and 1.
        ("rw /dev/null", 2),
        // The poll, and the handles on it of the acceptor and of its workers.
        ("rw [eventpoll]", 3),
        ("r inotify", 1),
        // The channel to the launcher, two listeners, a channel to each worker and to the mock host.
        ("rw socket", 3 + channels),
        ("w LOG", 1),
    ];
    Row { role: "acceptor", uid, capabilities: 0, bounding, descriptors }
}

fn worker(uid: u32, bounding: Option<u64>, sockets: usize) -> Row {
    let descriptors = vec![("rw /dev/null", 2), ("rw socket", sockets), ("w LOG", 1)];
    Row { role: "worker", uid, capabilities: 0, bounding, descriptors }
}

/// What answers for `test:///default`.
fn mock_host(uid: u32, bounding: Option<u64>, clients: usize) -> Row {
    let descriptors = vec![
        ("rw /dev/null", 2),
        // The poll, the server's handle on it, and what consoles ring at.
        ("rw [eventpoll]", 3),
        // The channel to the acceptor, and a connection of each client's worker.
        ("rw socket", 1 + clients),
        ("w LOG", 1),
    ];
    Row { role: "mock host", uid, capabilities: 0, bounding, descriptors }
}

/// Root's uid, because polkit speaks of others to root only, and nothing else of root's.
fn polkit() -> Row {
    let descriptors = vec![
        ("rw /dev/null", 2),
        // The loop, its handle on itself, and what it is woken by.
        ("rw [eventpoll]", 2),
        ("rw [eventfd]", 1),
        // The channel to the acceptor, and the same as the loop has it; the bus; the loop's three ends of its pair for
        // signals, of which it takes none.
        ("rw socket", 6),
        ("w LOG", 1),
    ];
    Row { role: "polkit", uid: 0, capabilities: 0, bounding: Some(0), descriptors }
}

#[test]
fn the_process_that_asks_polkit_is_as_the_table_says() {
    let Some((rig, _authority)) = crate::polkit::rig("the_process_that_asks_polkit_is_as_the_table_says") else {
        return;
    };
    crate::polkit::login(&rig, crate::polkit::LET_IN).unwrap();
    let found = rig.gateway.role("polkit");
    assert_eq!(found.len(), 1, "{}", rig.gateway.log());
    compare(&rig, &found[0], &polkit());
}

#[test]
fn a_system_s_gateway_is_as_the_table_says() {
    let test = "a_system_s_gateway_is_as_the_table_says";
    let Some(rig) = Rig::system(test, "ready_workers = 1\n") else { return };
    let client = as_user(SOMEBODY, &[], || opened(&rig.read_only_socket()));
    hostname(&client);
    // SETGID, SETUID and SETPCAP: workers of another uid without any capability.
    let identity = (1 << 6) | (1 << 7) | (1 << 8);
    compare(&rig, &process(rig.gateway.pid()), &launcher(0, identity));
    settle(&rig, 2);
    compare(&rig, &rig.gateway.acceptor(), &acceptor(0, Some(0), 2));
    for process in rig.gateway.role("worker") {
        let serves = crate::rig::sockets_of(process.pid) > 1;
        // The channel; with a client, that and the connection to its driver's daemon.
        compare(&rig, &process, &worker(SERVICE, Some(0), if serves { 3 } else { 1 }));
    }
    let client = as_user(SOMEBODY, &[], || crate::rig::logged_in(&rig.read_only_socket()));
    crate::rig::open(&client, "test:///default").unwrap();
    let found = rig.gateway.role("mock-host");
    assert_eq!(found.len(), 1, "{}", rig.gateway.log());
    compare(&rig, &found[0], &mock_host(SERVICE, Some(0), 1));
    settle(&rig, 3);
    compare(&rig, &rig.gateway.acceptor(), &acceptor(0, Some(0), 4));
    // What the worker was handed carries its client's rights and no more.
    assert!(rig.gateway.log().is_empty(), "{}", rig.gateway.log());
}

#[test]
fn a_session_s_gateway_is_as_the_table_says() {
    let rig = Rig::session("ready_workers = 1\n");
    let uid = rig.instance.uid();
    let client = rig.opened();
    hostname(&client);
    settle(&rig, 2);
    // What the user has: the launcher starts the user's qemud.
    let own = u64::from_str_radix(&field(std::process::id(), "CapEff"), 16).unwrap();
    let none = (uid == 0).then_some(0);
    compare(&rig, &process(rig.gateway.pid()), &launcher(uid, own));
    compare(&rig, &rig.gateway.acceptor(), &acceptor(uid, none, 2));
    for process in rig.gateway.role("worker") {
        let serves = crate::rig::sockets_of(process.pid) > 1;
        compare(&rig, &process, &worker(uid, none, if serves { 3 } else { 1 }));
    }
    let client = rig.client();
    crate::rig::open(&client, "test:///default").unwrap();
    let found = rig.gateway.role("mock-host");
    assert_eq!(found.len(), 1, "{}", rig.gateway.log());
    compare(&rig, &found[0], &mock_host(uid, none, 1));
}

/// Waits until so many workers are up and have given up what they started with.
fn settle(rig: &Rig, workers: usize) {
    let confined = |process: &Process| field(process.pid, "Seccomp") == "2";
    let deadline = std::time::Instant::now() + bulkhead_tests::LONG;
    while rig.gateway.role("worker").iter().filter(|process| confined(process)).count() != workers {
        assert!(std::time::Instant::now() < deadline, "{:?}", rig.gateway.role("worker"));
        std::thread::yield_now();
    }
}

fn process(pid: u32) -> Process {
    Process::of(pid).expect("it lives")
}

fn field(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn compare(rig: &Rig, process: &Process, row: &Row) {
    let (role, pid) = (row.role, process.pid);
    assert_eq!(fs::read_dir(format!("/proc/{pid}/task")).unwrap().count(), 1, "{role} has threads");
    let all_four = format!("{0} {0} {0} {0}", row.uid);
    assert_eq!(field(pid, "Uid"), all_four, "{role}: real, effective, saved and file system's uid");
    assert_eq!(field(pid, "Gid"), all_four, "{role}: its gids");
    let set = |name: &str| u64::from_str_radix(&field(pid, name), 16).unwrap();
    for name in ["CapEff", "CapPrm"] {
        assert_eq!(set(name), row.capabilities, "{role}: {name}");
    }
    for name in ["CapInh", "CapAmb"] {
        assert_eq!(set(name), 0, "{role}: {name}");
    }
    if let Some(bounding) = row.bounding {
        assert_eq!(set("CapBnd"), bounding, "{role}: CapBnd");
    }
    assert_eq!(field(pid, "NoNewPrivs"), "1", "{role}");
    assert_eq!(field(pid, "Seccomp"), "2", "{role} without a filter");
    if role != "launcher" {
        assert_eq!(field(pid, "Groups"), "", "{role}: further groups");
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{role} must not dump core");
    }
    let mut table: BTreeMap<String, usize> =
        row.descriptors.iter().map(|(what, count)| ((*what).into(), *count)).collect();
    if role == "launcher" {
        // One for each child.
        table.remove("rw [pidfd]");
    }
    let found = || {
        let mut found = descriptors(rig, pid);
        if role == "launcher" {
            found.remove("rw [pidfd]");
        }
        found
    };
    // A launcher lets go of what it handed to a child a moment after the child has it.
    let _ = bulkhead_tests::wait_until(bulkhead_tests::LONG, || found() == table);
    assert_eq!(found(), table, "{role}: open descriptors on the left, the table on the right");
}

/// The open descriptors of a process: how each is open, what it is, and how many are alike.
fn descriptors(rig: &Rig, pid: u32) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let number = entry.file_name().to_string_lossy().into_owned();
        // A descriptor may be closed between the two looks.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let Ok(info) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")) else { continue };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = u64::from_str_radix(flags, 8).unwrap();
        let number: u32 = number.parse().unwrap();
        assert!(
            flags & 0o2_000_000 != 0 || number <= 2,
            "descriptor {number} ({}) would pass to a child",
            target.display()
        );
        let how = match flags & 0o3 {
            _ if flags & 0o10_000_000 != 0 => "path",
            0 => "r",
            1 => "w",
            _ => "rw",
        };
        *found.entry(format!("{how} {}", shown(rig, &target.to_string_lossy()))).or_insert(0) += 1;
    }
    found
}

/// A descriptor's target without what differs from run to run.
fn shown(rig: &Rig, target: &str) -> String {
    if let Some(kind) = target.strip_prefix("anon_inode:") {
        return kind.to_owned();
    }
    if let Some((kind, _)) = target.split_once(":[") {
        return kind.to_owned();
    }
    let place = |name: &str| match name {
        name if name.starts_with(&*rig.instance.log_dir().to_string_lossy()) => "LOG".to_owned(),
        name if name.starts_with(&*rig.instance.runtime_dir().to_string_lossy()) => "LOCK".to_owned(),
        env!("CARGO_BIN_EXE_gateway") => "PROGRAM".to_owned(),
        name => name.to_owned(),
    };
    place(target)
}
