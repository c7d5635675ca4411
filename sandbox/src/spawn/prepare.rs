//! A request checked and turned into what the child needs: strings, ranges, duplicates of descriptors, the jail's calls.

use std::collections::BTreeSet;
use std::ffi::{CString, NulError};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

use super::{Identity, Namespace, Program, Spawn, SpawnError};
use crate::caps;
use crate::landlock;
use crate::policy::Filter;
use crate::rlimit::Limit;
use crate::sys::CStrArray;
use crate::{fd, jail};
use rustix::process::Signal;

/// CAP_SETGID and CAP_SYS_ADMIN.
const SETGID: u32 = 6;
const SYS_ADMIN: u32 = 21;

pub(super) enum Executable {
    Own(&'static OwnedFd),
    Fd(OwnedFd),
    Path(CString, PathBuf),
}

/// The maps of a user namespace as their files take them.
pub(super) struct UserMap {
    pub(super) uid: Vec<u8>,
    pub(super) gid: Vec<u8>,
}

/// What the child carries out; it only reads it.
pub(super) struct Prepared<'a> {
    pub(super) flags: u64,
    pub(super) executable: Executable,
    pub(super) argv: CStrArray,
    pub(super) envp: CStrArray,
    pub(super) user_map: Option<UserMap>,
    /// Duplicates, all numbered above every target, so that placing one never overwrites another.
    pub(super) fds: Vec<(RawFd, OwnedFd)>,
    pub(super) close: Vec<(u32, u32)>,
    pub(super) limits: Vec<Limit>,
    pub(super) netns: Option<OwnedFd>,
    pub(super) jail: Option<jail::Plan>,
    pub(super) hostname: Option<Vec<u8>>,
    pub(super) directory: CString,
    pub(super) directory_path: PathBuf,
    pub(super) identity: Option<Identity>,
    pub(super) drop_groups: bool,
    pub(super) umask: u32,
    pub(super) parent_death: Option<Signal>,
    pub(super) kept: u64,
    pub(super) landlock: Option<OwnedFd>,
    pub(super) filter: Option<&'a Filter>,
    pub(super) time_steps: bool,
}

/// The pipe of the child's report. The parent closes its copy of the writing end, or the end of the report never comes.
pub(super) struct Report {
    pub(super) out: OwnedFd,
    pub(super) into: OwnedFd,
}

fn prepare(what: &'static str) -> impl Fn(io::Error) -> SpawnError {
    move |source| SpawnError::Prepare { what, source }
}

fn strings(what: &'static str, texts: Vec<Result<CString, NulError>>) -> Result<CStrArray, SpawnError> {
    let texts: Result<Vec<CString>, NulError> = texts.into_iter().collect();
    texts.map(CStrArray::new).map_err(|source| SpawnError::Nul { what, source })
}

impl<'a> Prepared<'a> {
    pub(super) fn new(spawn: Spawn<'a>) -> Result<(Prepared<'a>, Report), SpawnError> {
        check_conflicts(&spawn)?;
        let argv = strings("an argument", spawn.args)?;
        let envp = strings("the environment", spawn.env)?;
        check_threads()?;
        let effective = |capability| caps::is_effective(capability).map_err(|e| prepare("capabilities")(e.into()));
        let privileged = effective(SYS_ADMIN)?;
        let may_set_groups = effective(SETGID)?;
        let above = spawn.fds.iter().map(|(target, _)| *target).max().unwrap_or(2).max(2).saturating_add(1);
        let report = report_pipe(above)?;
        let executable = executable(spawn.program, above)?;
        let fds = duplicates(&spawn.fds, above)?;
        // Device nodes can be made by a process that is privileged on the host and stays so: not in a user namespace.
        let make_nodes = spawn.user.is_none() && privileged;
        let jail = spawn.jail.map(|jail| jail::Plan::new(jail, make_nodes, above)).transpose()?;
        let directory_path = spawn.directory.unwrap_or_else(|| PathBuf::from("/"));
        let landlock = spawn.landlock.and_then(landlock::Prepared::ruleset);
        let raised =
            |fd: Option<BorrowedFd<'_>>, what| fd.map(|fd| raise(fd, above)).transpose().map_err(prepare(what));

        let mut prepared = Prepared {
            flags: flags(&spawn.namespaces, spawn.user.is_some(), jail.is_some()),
            executable,
            argv,
            envp,
            user_map: spawn.user.map(user_map),
            fds,
            close: vec![],
            limits: spawn.limits,
            netns: raised(spawn.netns, "the network namespace")?,
            jail,
            hostname: spawn.hostname.map(String::into_bytes),
            directory: CString::new(directory_path.as_os_str().as_bytes())
                .map_err(|source| SpawnError::Nul { what: "the directory", source })?,
            directory_path,
            identity: spawn.identity,
            drop_groups: spawn.user.is_none() && may_set_groups,
            umask: spawn.umask,
            parent_death: spawn.parent_death,
            kept: spawn.kept,
            landlock: raised(landlock, "the Landlock rules")?,
            filter: spawn.filter,
            time_steps: spawn.time_steps,
        };
        prepared.close = fd::gaps(0, &prepared.kept(&report));
        Ok((prepared, report))
    }

    /// The numbers that stay open until `exec`: the program's own, and those that the child itself needs on the way.
    fn kept(&self, report: &Report) -> BTreeSet<RawFd> {
        let executable = match &self.executable {
            Executable::Own(fd) => Some(fd.as_raw_fd()),
            Executable::Fd(fd) => Some(fd.as_raw_fd()),
            Executable::Path(..) => None,
        };
        let targets = self.fds.iter().map(|(target, _)| *target);
        targets
            .chain(executable)
            .chain([report.into.as_raw_fd()])
            .chain(self.netns.as_ref().map(AsRawFd::as_raw_fd))
            .chain(self.landlock.as_ref().map(AsRawFd::as_raw_fd))
            .chain(self.jail.iter().flat_map(jail::Plan::descriptors))
            .collect()
    }
}

fn check_conflicts(spawn: &Spawn<'_>) -> Result<(), SpawnError> {
    // The kernel's own ceiling of descriptor numbers is far above; a number there is a mistake.
    const HIGHEST: RawFd = 1023;
    let mut targets = BTreeSet::new();
    let fds_ok = spawn.fds.iter().all(|(target, _)| (0..=HIGHEST).contains(target) && targets.insert(*target));
    let owns = |namespace| spawn.namespaces.contains(&namespace);
    let identity_ok = match (spawn.user, spawn.identity) {
        (Some(map), Some(identity)) => map.uid == identity.uid && map.gid == identity.gid,
        _ => true,
    };
    let checks = [
        (fds_ok, "a descriptor number is out of range or given twice"),
        (!(spawn.netns.is_some() && owns(Namespace::Net)), "a network namespace is both made and entered"),
        (!(spawn.netns.is_some() && spawn.user.is_some()), "a network namespace of another user namespace is entered"),
        (spawn.hostname.is_none() || owns(Namespace::Uts), "a host name is set in the host's own UTS namespace"),
        (identity_ok, "the identity is not the one that the user namespace maps"),
    ];
    match checks.into_iter().find(|(ok, _)| !ok) {
        Some((_, conflict)) => Err(SpawnError::Conflict { conflict }),
        None => Ok(()),
    }
}

/// Refuses a process with more threads than this one, in debug builds and where there is a /proc.
fn check_threads() -> Result<(), SpawnError> {
    if cfg!(not(debug_assertions)) {
        return Ok(());
    }
    match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(count) if count > 1 => Err(SpawnError::Threads { count }),
        _ => Ok(()),
    }
}

fn flags(namespaces: &[Namespace], user: bool, jail: bool) -> u64 {
    let own = namespaces.iter().fold(0, |flags, namespace| flags | namespace.flag());
    let user = if user { u64::from(libc::CLONE_NEWUSER.cast_unsigned()) } else { 0 };
    own | user | if jail { Namespace::Mount.flag() } else { 0 }
}

fn user_map(map: super::IdMap) -> UserMap {
    let line = |inside: u32, outside: u32| format!("{inside} {outside} 1\n").into_bytes();
    UserMap {
        uid: line(map.uid, rustix::process::geteuid().as_raw()),
        gid: line(map.gid, rustix::process::getegid().as_raw()),
    }
}

/// Moves a descriptor to a number from `above` on; it closes on exec.
fn raise(fd: BorrowedFd<'_>, above: RawFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, above)?)
}

fn report_pipe(above: RawFd) -> Result<Report, SpawnError> {
    let failed = prepare("the report pipe");
    let (out, into) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    Ok(Report { out, into: raise(into.as_fd(), above).map_err(failed)? })
}

/// The running program, opened once: later the file of that name may be another version.
fn own_exe() -> io::Result<&'static OwnedFd> {
    static OWN_EXE: OnceLock<OwnedFd> = OnceLock::new();
    // Above every number that a spawn may place something at.
    const ABOVE: RawFd = 1024;
    if let Some(exe) = OWN_EXE.get() {
        return Ok(exe);
    }
    let opened = rustix::fs::open(c"/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let raised = raise(opened.as_fd(), ABOVE).or_else(|_| raise(opened.as_fd(), 3))?;
    Ok(OWN_EXE.get_or_init(|| raised))
}

fn executable(program: Program, above: RawFd) -> Result<Executable, SpawnError> {
    let failed = prepare("the program");
    match program {
        Program::OwnExe => {
            let exe = own_exe().map_err(&failed)?;
            if exe.as_raw_fd() >= above {
                Ok(Executable::Own(exe))
            } else {
                raise(exe.as_fd(), above).map(Executable::Fd).map_err(failed)
            }
        }
        Program::Fd(fd) if fd.as_raw_fd() >= above && closes_on_exec(&fd) => Ok(Executable::Fd(fd)),
        Program::Fd(fd) => raise(fd.as_fd(), above).map(Executable::Fd).map_err(failed),
        Program::Path(path) => {
            let text = CString::new(path.as_os_str().as_bytes());
            text.map(|text| Executable::Path(text, path))
                .map_err(|source| SpawnError::Nul { what: "the program's path", source })
        }
    }
}

fn closes_on_exec(fd: &OwnedFd) -> bool {
    rustix::io::fcntl_getfd(fd).is_ok_and(|flags| flags.contains(rustix::io::FdFlags::CLOEXEC))
}

fn duplicates(fds: &[(RawFd, BorrowedFd<'_>)], above: RawFd) -> Result<Vec<(RawFd, OwnedFd)>, SpawnError> {
    let failed = prepare("a descriptor");
    let mut duplicates = Vec::with_capacity(fds.len() + 3);
    for (target, source) in fds {
        duplicates.push((*target, raise(*source, above).map_err(&failed)?));
    }
    let missing: Vec<RawFd> = (0..=2).filter(|number| fds.iter().all(|(target, _)| target != number)).collect();
    if !missing.is_empty() {
        // A program that starts with a standard stream closed would give its number to the next thing it opens.
        let null = File::options().read(true).write(true).open("/dev/null").map_err(prepare("/dev/null"))?;
        for number in missing {
            duplicates.push((number, raise(null.as_fd(), above).map_err(&failed)?));
        }
    }
    Ok(duplicates)
}
