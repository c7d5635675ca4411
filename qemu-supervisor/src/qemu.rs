//! The QEMU process: started once, with nothing but what it was given.

use std::os::{fd::OwnedFd, unix::net::UnixStream};

use rustix::{pipe::PipeFlags, process::WaitOptions};
use sandbox::{
    Signal,
    pidfd::{self, Exit},
    policy::Role,
    spawn::{Program, Spawn},
};
use supervisor::{
    console::Console,
    protocol::{Failure, qemu_fds},
};

use crate::{boot::failed, words::Words};

/// A QEMU that runs, and the supervisor's ends of what it was given.
#[derive(Debug)]
pub struct Qemu {
    /// Its process id.
    pub pid: i32,
    /// Its descriptor, until it has ended and that has been taken note of. A descriptor that stays open stays in the poll, which
    /// would tell of the end again and again.
    pub pidfd: Option<OwnedFd>,
    /// Its consoles.
    pub consoles: Vec<Console>,
    /// Its standard error.
    pub words: Words,
    exit: Option<Exit>,
}

impl Qemu {
    /// Starts QEMU with these arguments, this number of consoles, and these descriptors at their numbers; the socket is its
    /// monitor's.
    ///
    /// # Errors
    /// When a socket can't be made or the program can't be run.
    pub fn start(argv: &[String], consoles: u8, files: &[(i32, OwnedFd)]) -> Result<(Qemu, UnixStream), Failure> {
        let Some((program, arguments)) = argv.split_first() else {
            return Err(Failure::BadRequest("there is no program to run".into()));
        };
        let pair = || UnixStream::pair().map_err(|error| failed("make a socket pair", &error));
        let (monitor, its_monitor) = pair()?;
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for number in 0..i32::from(consoles) {
            let (our, their) = pair()?;
            ours.push(Console::new(our));
            theirs.push((qemu_fds::FIRST_CONSOLE + number, their));
        }
        let (words, its_words) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed("make a pipe", &error))?;
        let words = Words::new(words).map_err(|error| failed("make a pipe", &error))?;
        let filter = role(arguments).filter().map_err(|error| failed("make QEMU's filter", &error))?;

        let mut spawn = Spawn::new(Program::Path(program.into()), program)
            .args(arguments)
            .fd(2, &its_words)
            .fd(qemu_fds::QMP, &its_monitor)
            .filter(&filter);
        for (number, console) in &theirs {
            spawn = spawn.fd(*number, console);
        }
        for (number, file) in files {
            spawn = spawn.fd(*number, file);
        }
        let child = spawn.start().map_err(|error| failed("run the program", &error))?;
        Ok((Qemu { pid: child.pid, pidfd: Some(child.pidfd), consoles: ours, words, exit: None }, monitor))
    }

    /// Kills it. That it has ended is told by its descriptor.
    pub fn kill(&self) {
        // It fails only when QEMU has ended already, which is what is wanted.
        if let Some(pidfd) = &self.pidfd {
            let _ = pidfd::send_signal(pidfd, Signal::KILL);
        }
    }

    /// Asks it to end by itself.
    pub fn terminate(&self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = pidfd::send_signal(pidfd, Signal::TERM);
        }
    }

    /// Reaps everything that has ended, and says how QEMU has, if it has. This process is the first of its pid namespace: orphans
    /// are handed to it, and nobody else would reap them.
    pub fn reap(&mut self) -> Option<Exit> {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid.as_raw_pid() == self.pid {
                let signal = || Exit::Signal { number: status.terminating_signal().unwrap_or(0), core_dumped: false };
                self.exit = Some(status.exit_status().map_or_else(signal, Exit::Code));
            }
        }
        self.exit
    }
}

/// The policy for these arguments: only a guest on KVM needs no memory that is both written and executed. A QEMU that is asked
/// what it can do tries KVM first and its code generator next.
fn role(arguments: &[String]) -> Role {
    let machine = arguments.iter().skip_while(|argument| *argument != "-machine").nth(1);
    let kvm = machine.is_some_and(|machine| machine.split(',').any(|part| part == "accel=kvm"));
    if kvm { Role::QemuKvm } else { Role::QemuTcg }
}

/// How QEMU ended, as a clause. The number of a forbidden call is known to the kernel's log only.
#[must_use]
pub fn clause(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with status {code}"),
        Exit::Signal { number, .. } if number == Signal::SYS.as_raw() => format!(
            "was killed by signal {number}: it made a system call that its policy does not allow \
             (the host's kernel log has the number, after 'type=1326' and 'syscall=')"
        ),
        Exit::Signal { number, .. } => format!("was killed by signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_guest_on_kvm_is_never_to_execute_what_it_writes() {
        let role = |arguments: &[&str]| role(&arguments.iter().map(|&text| text.into()).collect::<Vec<_>>());
        assert_eq!(role(&["-S", "-machine", "pc-q35-7.2,accel=kvm,acpi=on"]), Role::QemuKvm);
        assert_eq!(role(&["-machine", "pc,accel=tcg"]), Role::QemuTcg);
        assert_eq!(role(&["-machine", "none,accel=kvm:tcg"]), Role::QemuTcg);
        assert_eq!(role(&["-append", "accel=kvm"]), Role::QemuTcg);
        assert_eq!(role(&["-machine"]), Role::QemuTcg);
    }

    #[test]
    fn a_forbidden_call_is_told_from_other_deaths() {
        let ended = |number| clause(Exit::Signal { number, core_dumped: false });
        assert_eq!(ended(9), "was killed by signal 9");
        assert!(ended(31).starts_with("was killed by signal 31: it made a system call that its policy does not allow"));
    }
}
