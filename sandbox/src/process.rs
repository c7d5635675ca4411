//! What a process sets about itself, and what it may ask about another one.

use std::io;
use std::time::Duration;

/// Why one of the questions of this module has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The kernel refused a `prctl` request.
    #[error("cannot set {setting}")]
    Set {
        /// What was to be set.
        setting: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A question about a process was refused; ESRCH means that there is no such process.
    #[error("cannot read the {what} of process {pid}")]
    Query {
        /// What was asked for.
        what: &'static str,
        /// The process asked about.
        pid: i32,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// `/proc/PID/stat` did not have the fields that it is documented to have.
    #[error("process {pid} has a stat line without a start time")]
    Stat {
        /// The process asked about.
        pid: i32,
    },
}

/// Gives up for ever that an `exec` of this process or its children gains privilege. It can't be undone.
pub fn no_new_privs() -> Result<(), ProcessError> {
    rustix::thread::set_no_new_privs(true)
        .map_err(|errno| ProcessError::Set { setting: "no_new_privs", source: errno.into() })
}

/// Does something with the effective uid of another user, without waiting: the kernel stamps it on a connection that is made
/// meanwhile. No user, and nothing is changed. This process's own uid is back afterwards, and its capabilities with it; if it
/// were not, everything that follows would be done in the wrong name, so the process ends.
pub fn in_the_name_of<T>(user: Option<u32>, act: impl FnOnce() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    let Some(user) = user else { return act() };
    let own = rustix::process::geteuid();
    let assume = |uid| rustix::thread::set_thread_res_uid(None, Some(uid), None);
    assume(rustix::process::Uid::from_raw(user))?;
    let done = act();
    if assume(own).is_err() || rustix::process::geteuid() != own {
        std::process::abort();
    }
    done
}

/// Makes this process the one to which orphans among its descendants are handed.
pub fn subreaper() -> Result<(), ProcessError> {
    // The flag is any process id on Linux: only whether there is one counts.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| ProcessError::Set { setting: "the child subreaper", source: errno.into() })
}

/// The processor time that all threads of a process have used.
pub fn cpu_time(pid: i32) -> Result<Duration, ProcessError> {
    clock_of(pid, CPUCLOCK_SCHED)
}

/// The part of it that was spent outside of the kernel; counted in ticks where the kernel does not account more finely.
pub fn user_time(pid: i32) -> Result<Duration, ProcessError> {
    clock_of(pid, CPUCLOCK_VIRT)
}

/// The kernel's clocks of a process, in the lowest bits of a clock's id.
const CPUCLOCK_VIRT: libc::clockid_t = 1;
const CPUCLOCK_SCHED: libc::clockid_t = 2;
const CPUCLOCK_CLOCK_MASK: libc::clockid_t = 3;

fn clock_of(pid: i32, which: libc::clockid_t) -> Result<Duration, ProcessError> {
    let query = |source| ProcessError::Query { what: "processor time", pid, source };
    // The kernel's ceiling of process ids.
    const PID_MAX_LIMIT: i32 = 1 << 22;
    if !(1..=PID_MAX_LIMIT).contains(&pid) {
        // The C library takes 0 as the caller and packs the id into fewer bits than an int has: both answer for another process.
        return Err(query(io::Error::from_raw_os_error(libc::ESRCH)));
    }
    let mut clock: libc::clockid_t = 0;
    // SAFETY: clock is a valid place for the id that the call stores.
    let errno = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if errno != 0 {
        return Err(query(io::Error::from_raw_os_error(errno)));
    }
    clock = (clock & !CPUCLOCK_CLOCK_MASK) | which;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: time is a valid place for the result.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(query(io::Error::last_os_error()));
    }
    Ok(Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0)))
}

/// When a process started, in clock ticks since boot. The pair of process id and start time names one process for as long as
/// the machine is up, while the id alone is used again.
pub fn process_start_time(pid: i32) -> Result<u64, ProcessError> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).map_err(|source| ProcessError::Query {
        what: "start time",
        pid,
        source,
    })?;
    start_time_of_stat(&stat).ok_or(ProcessError::Stat { pid })
}

/// Field 22 of a stat line. The second field is the program's name in parentheses, which may itself hold spaces and
/// parentheses, so fields are counted from the last closing one.
fn start_time_of_stat(stat: &[u8]) -> Option<u64> {
    const FIELDS_BETWEEN_NAME_AND_START: usize = 19;
    let after_name = stat.get(stat.iter().rposition(|&byte| byte == b')')? + 1..)?;
    std::str::from_utf8(after_name).ok()?.split_ascii_whitespace().nth(FIELDS_BETWEEN_NAME_AND_START)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_survives_a_hostile_program_name() {
        let stat = b"42 (a) R 1 (b)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 19 20\n";
        assert_eq!(start_time_of_stat(stat), Some(777));
        assert_eq!(start_time_of_stat(b"42 (short) S 1 2"), None);
        assert_eq!(start_time_of_stat(b"no name"), None);
    }

    #[test]
    fn own_start_time_is_stable_and_cpu_time_grows() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(process_start_time(pid).unwrap(), process_start_time(pid).unwrap());
        let before = cpu_time(pid).unwrap();
        while cpu_time(pid).unwrap() <= before {}
    }

    #[test]
    fn own_user_time_grows_and_is_a_part_of_all() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let before = user_time(pid).unwrap();
        while user_time(pid).unwrap() <= before {}
        // A tick is counted whole, so the part may be ahead by one for each processor.
        let ticks = Duration::from_millis(10) * 256;
        assert!(user_time(pid).unwrap() <= cpu_time(pid).unwrap() + ticks);
    }

    #[test]
    fn absent_process_is_an_error() {
        assert!(matches!(process_start_time(i32::MAX), Err(ProcessError::Query { .. })));
        assert!(matches!(cpu_time(i32::MAX), Err(ProcessError::Query { .. })));
        assert!(matches!(cpu_time(1 << 22), Err(ProcessError::Query { .. })));
        assert!(matches!(cpu_time(0), Err(ProcessError::Query { .. })));
    }
}
