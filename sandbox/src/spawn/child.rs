//! The clone and what the new process does until it is the program. After `clone3` nothing here allocates, locks or panics.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::prepare::{Executable, Prepared, Report, UserMap};
use super::step::Record;
use super::{Child, Identity, SpawnError, Step, StepTime};
use crate::sys::{self, Forked, Threads};
use crate::{caps, pidfd};

/// The exit code of a child that reported a failure.
const FAILED: i32 = 127;

/// Makes the process and waits until it runs the program or has failed.
pub(super) fn start(prepared: &Prepared<'_>, report: Report) -> Result<Child, SpawnError> {
    let begun = Instant::now();
    // SAFETY: this process has one thread (documented, and checked in debug builds); the child's side is `run`, which only
    // makes system calls on what was prepared and never returns.
    let forked = unsafe { sys::clone3(prepared.flags) }.map_err(|errno| SpawnError::Clone { source: errno.into() })?;
    match forked {
        Forked::Child => run(prepared, &report.into, begun),
        Forked::Parent { pid, pidfd } => {
            drop(report.into);
            follow(prepared, &report.out, Child { pid, pidfd, times: vec![] })
        }
    }
}

/// The parent's side: reads the report until the child has become the program or ended.
fn follow(prepared: &Prepared<'_>, report: &OwnedFd, mut child: Child) -> Result<Child, SpawnError> {
    let failure = match read_report(report) {
        Ok(report) => {
            let mut failure = None;
            for record in report.chunks(Record::SIZE).filter_map(Record::from_bytes) {
                if record.errno != 0 {
                    failure = Some(step_error(prepared, &record));
                    break;
                }
                child.times.push(StepTime { step: record.step, after: Duration::from_nanos(record.value) });
            }
            failure
        }
        Err(source) => Some(SpawnError::Report { source }),
    };
    let Some(failure) = failure else { return Ok(child) };
    // The child ends by itself after a report; the signal only matters when the report could not be read.
    let _ = pidfd::send_signal(&child.pidfd, rustix::process::Signal::KILL);
    pidfd::wait(&child.pidfd).map_err(|source| SpawnError::Reap { source })?;
    Err(failure)
}

/// Everything that the child writes until its end of the pipe closes.
fn read_report(pipe: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut report = Vec::new();
    let mut buffer = [0; Record::SIZE * 64];
    loop {
        let length = rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut buffer))?;
        match buffer.get(..length) {
            Some([]) | None => return Ok(report),
            Some(bytes) => report.extend_from_slice(bytes),
        }
    }
}

fn step_error(prepared: &Prepared<'_>, record: &Record) -> SpawnError {
    let subject: Option<PathBuf> = match (record.step, &prepared.executable) {
        (Step::Exec, Executable::Path(_, path)) => Some(path.clone()),
        (Step::Directory, _) => Some(prepared.directory_path.clone()),
        _ => {
            let action = u32::try_from(record.value).unwrap_or(u32::MAX);
            prepared.jail.as_ref().and_then(|jail| jail.subject(action))
        }
    };
    SpawnError::Step { step: record.step, subject, source: io::Error::from_raw_os_error(record.errno) }
}

/// When each step was done, on the child's stack.
struct Clock<'a> {
    report: BorrowedFd<'a>,
    begun: Option<Instant>,
    times: [u64; Step::ALL.len()],
}

impl Clock<'_> {
    fn reached(&mut self, step: Step) {
        if let Some(begun) = self.begun
            && let Some(time) = self.times.get_mut(step as usize)
        {
            *time = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        }
    }
}

/// A failed step: what, why, and for the jail at which of its actions.
struct Failure {
    step: Step,
    errno: Errno,
    action: u32,
}

/// The child's side.
fn run(prepared: &Prepared<'_>, report: &OwnedFd, begun: Instant) -> ! {
    let mut clock = Clock { report: report.as_fd(), begun: prepared.time_steps.then_some(begun), times: [0; _] };
    let failure = become_program(prepared, &mut clock);
    let record = Record::failure(failure.step, failure.errno, failure.action);
    // Nobody is left to tell if this fails; the parent sees the end of the pipe and the exit code.
    let _ = rustix::io::write(report, &record.to_bytes());
    sys::exit_now(FAILED)
}

/// Takes every step; returns only with the one that failed.
fn become_program(prepared: &Prepared<'_>, clock: &mut Clock<'_>) -> Failure {
    clock.reached(Step::Clone);
    let confined = plumbing(prepared, clock)
        .and_then(|()| surroundings(prepared, clock))
        .and_then(|()| privilege(prepared, clock))
        .and_then(|()| restrictions(prepared, clock));
    if let Err(failure) = confined {
        return failure;
    }
    let errno = match &prepared.executable {
        Executable::Own(fd) => sys::execveat(fd.as_fd(), &prepared.argv, &prepared.envp),
        Executable::Fd(fd) => sys::execveat(fd.as_fd(), &prepared.argv, &prepared.envp),
        Executable::Path(path, _) => sys::execve(path, &prepared.argv, &prepared.envp),
    };
    Failure { step: Step::Exec, errno, action: u32::MAX }
}

/// Takes one step and notes its time.
fn step(clock: &mut Clock<'_>, step: Step, action: impl FnOnce() -> Result<(), Errno>) -> Result<(), Failure> {
    action().map_err(|errno| Failure { step, errno, action: u32::MAX })?;
    clock.reached(step);
    Ok(())
}

/// Session, user map, descriptors, limits: what is the process's own.
fn plumbing(prepared: &Prepared<'_>, clock: &mut Clock<'_>) -> Result<(), Failure> {
    sys::default_signal_handlers();
    step(clock, Step::Session, || rustix::process::setsid().map(drop))?;
    if let Some(map) = &prepared.user_map {
        step(clock, Step::UserMap, || write_user_map(map))?;
    }
    step(clock, Step::PlaceFds, || {
        for (target, source) in &prepared.fds {
            // SAFETY: in this process nothing uses a descriptor but by the numbers of `prepared`, and those lie above
            // every target.
            unsafe { sys::dup_onto(source.as_raw_fd(), *target) }?;
        }
        Ok(())
    })?;
    step(clock, Step::CloseFds, || {
        for &(first, last) in &prepared.close {
            // SAFETY: the ranges leave out every number that is used from here on (Prepared::kept); owners in this copy of
            // the parent's memory never run their destructors, as the process ends by exec or _exit.
            unsafe { sys::close_range(first, last) }?;
        }
        Ok(())
    })?;
    step(clock, Step::Limits, || prepared.limits.iter().try_for_each(|limit| limit.apply()))
}

/// Network, root, host name, directory: what the process sees.
fn surroundings(prepared: &Prepared<'_>, clock: &mut Clock<'_>) -> Result<(), Failure> {
    // The jail's directories get exactly the modes that they are described with.
    rustix::process::umask(Mode::empty());
    if let Some(netns) = &prepared.netns {
        step(clock, Step::NetworkNamespace, || {
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(netns.as_fd(), Some(kind))
        })?;
    }
    if let Some(jail) = &prepared.jail {
        jail.enter(|step| clock.reached(step)).map_err(|failure| Failure {
            step: failure.step,
            errno: failure.errno,
            action: failure.action,
        })?;
    }
    if let Some(hostname) = &prepared.hostname {
        step(clock, Step::Hostname, || rustix::system::sethostname(hostname))?;
    }
    rustix::process::umask(Mode::from_raw_mode(prepared.umask));
    Ok(())
}

/// Capabilities and identity.
fn privilege(prepared: &Prepared<'_>, clock: &mut Clock<'_>) -> Result<(), Failure> {
    step(clock, Step::BoundingSet, || match caps::drop_bounding(prepared.kept) {
        // Without CAP_SETPCAP the set stays; no_new_privs below makes it meaningless.
        Err((_, Errno::PERM)) if !rustix::process::geteuid().is_root() => Ok(()),
        other => other.map_err(|(_, errno)| errno),
    })?;
    step(clock, Step::AmbientSet, caps::clear_ambient)?;
    if let Some(Identity { uid, gid }) = prepared.identity {
        if prepared.drop_groups {
            step(clock, Step::Groups, || rustix::thread::set_thread_groups(&[]))?;
        }
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        step(clock, Step::Gid, || rustix::thread::set_thread_res_gid(gid, gid, gid))?;
        step(clock, Step::Uid, || rustix::thread::set_thread_res_uid(uid, uid, uid))?;
    }
    step(clock, Step::Capabilities, || match prepared.kept {
        0 => caps::empty_sets(),
        kept => caps::keep_sets(kept),
    })?;
    // With the final identity, so that a directory is only entered if the program itself may.
    step(clock, Step::Directory, || rustix::process::chdir(prepared.directory.as_c_str()))
}

/// no_new_privs, then the filters; the last moment for anything that they would refuse.
fn restrictions(prepared: &Prepared<'_>, clock: &mut Clock<'_>) -> Result<(), Failure> {
    step(clock, Step::NoNewPrivs, || rustix::thread::set_no_new_privs(true))?;
    if let Some(signal) = prepared.parent_death {
        // After the change of identity, which clears it.
        step(clock, Step::ParentDeath, || rustix::process::set_parent_process_death_signal(Some(signal)))?;
    }
    step(clock, Step::SignalMask, sys::empty_signal_mask)?;
    if let Some(ruleset) = &prepared.landlock {
        step(clock, Step::Landlock, || sys::landlock_restrict_self(ruleset.as_fd()))?;
    }
    if prepared.time_steps {
        report_times(clock);
    }
    match prepared.filter {
        Some(filter) => step(clock, Step::Seccomp, || filter.apply(Threads::Current)),
        None => Ok(()),
    }
}

/// Writes the times before the filter, which may not let a process write.
fn report_times(clock: &Clock<'_>) {
    for (&step, &value) in Step::ALL.iter().zip(&clock.times) {
        if value != 0 {
            // A lost time is no reason not to start.
            let _ = rustix::io::write(clock.report, &Record { step, errno: 0, value }.to_bytes());
        }
    }
}

/// Writes the process's own maps, which it may as long as they hold one id each; the groups must be given up first.
fn write_user_map(map: &UserMap) -> Result<(), Errno> {
    write_file(c"/proc/self/setgroups", b"deny")?;
    write_file(c"/proc/self/uid_map", &map.uid)?;
    write_file(c"/proc/self/gid_map", &map.gid)
}

fn write_file(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text).map(drop)
}
