//! What an instance consists of, compared with what it should.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use bulkhead_tests::{Domain, Instance, Process, Role, rss_kib, wait_until};

use crate::{
    events::Life,
    load::{Definition, document},
};

/// How long everything may take to come to rest once nothing disturbs it any more.
pub const SETTLE: Duration = Duration::from_secs(60);
/// What a process may have grown by: allocators keep pages, and a journal that has filled up stays so.
const GROWTH_KIB: u64 = 8 << 10;

/// Every domain must be listed as its events say. See [`crate::events::lives`] for those whose definition is not told of.
pub fn lists(list: &[Domain], lives: &BTreeMap<String, Life>, known: &BTreeMap<String, Definition>) -> Vec<String> {
    let shown: BTreeMap<String, Life> = list
        .iter()
        .map(|domain| {
            let life =
                Life { defined: domain.persistent, active: domain.id.is_some(), paused: domain.state == "paused" };
            (domain.name.clone(), life)
        })
        .collect();
    let names: BTreeSet<&String> = shown.keys().chain(lives.keys()).collect();
    let of = |map: &BTreeMap<String, Life>, name: &String| {
        let life = map.get(name).copied().unwrap_or_default();
        let untold = known.get(name).is_some_and(|definition| definition.cut_off);
        Life { defined: life.defined && !untold, ..life }
    };
    let mut wrong: Vec<String> = names
        .into_iter()
        .filter(|name| of(&shown, name) != of(lives, name))
        .map(|name| format!("{name} is listed as {:?}, events say {:?}", of(&shown, name), of(lives, name)))
        .collect();
    let unknown = list.iter().filter(|domain| !["running", "paused", "shutoff"].contains(&domain.state.as_str()));
    wrong.extend(unknown.map(|domain| format!("{domain:?}")));
    wrong
}

/// Every definition must be one of those that its client can have left, whole, and nothing else may lie beside them.
pub fn definitions(instance: &Instance, known: &BTreeMap<String, Definition>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, Definition { possible, .. }) in known {
        let path = instance.definitions_dir().join(format!("{name}.xml"));
        let found = fs::read_to_string(&path).ok();
        let revision = found.as_deref().map(|text| revision_of(name, text));
        match revision {
            None if possible.contains(&None) => {}
            Some(Some(revision)) if possible.contains(&Some(revision)) => {
                let shown = instance.bulkhead(&["dumpxml", "--inactive", name]);
                if !shown.stdout.contains(&format!("revision {revision}<")) {
                    wrong.push(format!("{name}: revision {revision} on the disk is not what is shown: {shown:?}"));
                }
            }
            _ => wrong.push(format!("{name}: {possible:?} is possible, the file is {found:?}")),
        }
    }
    let ours = |name: &str| name == "autostart" || name.strip_suffix(".xml").is_some_and(|n| known.contains_key(n));
    wrong.extend(names_in(&instance.definitions_dir()).into_iter().filter(|n| !ours(n)).map(|n| format!("left: {n}")));
    wrong
}

/// The revision in a whole definition.
fn revision_of(name: &str, text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("<description>revision ")?;
    let revision = rest.split_once("</description>")?.0.parse().ok()?;
    let uuid = document(name, revision).split_once("</uuid>")?.0.rsplit_once('>')?.1.to_owned();
    let whole = text.trim_end().ends_with("</domain>") && text.contains(&uuid) && text.contains("</devices>");
    whole.then_some(revision)
}

/// Every process must have its place: one daemon, a supervisor and a QEMU for each active domain, nothing else.
pub fn processes(instance: &Instance, list: &[Domain]) -> Vec<String> {
    let processes = instance.processes();
    let pids = |role: Role| -> BTreeSet<u32> { processes.iter().filter(|p| p.role == role).map(|p| p.pid).collect() };
    let mut wrong = Vec::new();
    for (role, most) in [(Role::Launcher, 1), (Role::Control, 1), (Role::Opener, 2), (Role::Kept, 2)] {
        let count = pids(role).len();
        if count > most || (count == 0 && matches!(role, Role::Launcher | Role::Control)) {
            wrong.push(format!("{count} of {role:?}"));
        }
    }
    let supervisors: BTreeSet<u32> = list.iter().filter_map(|domain| domain.supervisor_pid).collect();
    if pids(Role::Supervisor) != supervisors {
        wrong.push(format!("supervisors {:?}, but the list has {supervisors:?}", pids(Role::Supervisor)));
    }
    let parents: Vec<u32> = processes.iter().filter(|p| p.role == Role::Qemu).map(|p| p.parent).collect();
    if parents.len() != supervisors.len() || parents.iter().any(|parent| !supervisors.contains(parent)) {
        wrong.push(format!("QEMUs of {parents:?}, supervisors {supervisors:?}"));
    }
    // Others are clients of the harness.
    let strange = |p: &&Process| matches!(p.role, Role::Starter | Role::Forked);
    wrong.extend(processes.iter().filter(strange).map(|process| format!("left: {process:?}")));
    wrong
}

/// Waits until the processes are those that the list has; returns what is wrong when they never are.
pub fn rests(instance: &Instance) -> Vec<String> {
    let mut wrong = Vec::new();
    let _ = wait_until(SETTLE, || {
        wrong = processes(instance, &instance.list());
        wrong.is_empty()
    });
    wrong
}

/// After the last guest nothing of any may be left: no directory, no mount, no socket, no control group.
pub fn leftovers(instance: &Instance) -> Vec<String> {
    let mut left: Vec<String> = names_in(&instance.guests_dir()).into_iter().map(|n| format!("guests/{n}")).collect();
    left.extend(names_in(&instance.definitions_dir()).into_iter().filter(|n| n != "autostart"));
    let marks = names_in(&instance.definitions_dir().join("autostart"));
    left.extend(marks.into_iter().map(|name| format!("autostart/{name}")));
    let known = [
        "boot_id",
        "gateway.lock",
        "guests",
        "journal",
        "last_run",
        "libvirt",
        "qemud-ro.sock",
        "qemud.lock",
        "qemud.sock",
        "start.lock",
    ];
    left.extend(names_in(&instance.runtime_dir()).into_iter().filter(|name| !known.contains(&name.as_str())));
    let known = ["events", "autostarted"];
    left.extend(names_in(&instance.runtime_dir().join("journal")).into_iter().filter(|n| !known.contains(&n.as_str())));
    let root = instance.root().to_str().unwrap();
    // What the tests themselves have mounted has that name.
    let mounts: BTreeSet<String> = std::iter::once("self".to_owned())
        .chain(instance.processes().iter().filter(|p| p.role != Role::Kept).map(|p| p.pid.to_string()))
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok())
        .flat_map(|text| {
            text.lines()
                .filter(|line| line.contains(root) && !line.contains("bulkhead-test"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    left.extend(mounts.into_iter().map(|line| format!("mounted: {line}")));
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let of_guests = format!("{root}/");
    let guests = sockets.lines().filter(|line| line.contains(&of_guests) && line.contains("/guests/"));
    left.extend(guests.map(|line| format!("socket: {line}")));
    left
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// What control and launcher hold.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    descriptors: [usize; 2],
    kib: [u64; 2],
}

impl Size {
    /// Looks at a daemon at rest.
    pub fn of(instance: &Instance) -> Size {
        let pids = [instance.control().pid, instance.launcher().pid];
        Size { descriptors: pids.map(descriptors), kib: pids.map(|pid| rss_kib(pid).unwrap_or_default()) }
    }

    fn is_near(self, before: Size) -> bool {
        (0..2).all(|n| self.descriptors[n] <= before.descriptors[n] && self.kib[n] <= before.kib[n] + GROWTH_KIB)
    }

    /// Waits until the daemon holds no more than it did.
    pub fn comes_back(instance: &Instance, before: Size) -> Size {
        let mut now = Size::of(instance);
        // A session's daemon without clients leaves after 30 s.
        let back = wait_until(SETTLE / 3, || {
            now = Size::of(instance);
            now.is_near(before)
        });
        assert!(back, "control and launcher held {before:?} before and hold {now:?} now");
        now
    }
}
