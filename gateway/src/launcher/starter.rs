//! Starting a session's qemud: by a process of its own, because that takes as long as it takes.

use std::{
    env,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Child, Command, Stdio},
};

use ipc::paths::{Instance, Mode, ROOT_VARIABLE};
use libclient::driven::{Start, dial};
use sandbox::pidfd;

/// No reason is longer.
const LONGEST: u64 = 4 << 10;

/// A start under way.
pub struct Starter {
    child: Child,
    pidfd: OwnedFd,
}

impl Starter {
    /// Starts the process.
    ///
    /// # Errors
    /// When it cannot be started or followed.
    pub fn start(instance: &Instance) -> io::Result<Starter> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("--role=starter").arg(format!("--{}", instance.mode().name())).current_dir("/");
        if let Some(root) = instance.root() {
            command.env(ROOT_VARIABLE, root);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let number = i32::try_from(child.id()).unwrap_or_default();
        match pidfd::open(number) {
            Ok(pidfd) => Ok(Starter { child, pidfd }),
            Err(error) => {
                let _ = child.kill();
                child.wait()?;
                Err(io::Error::other(error))
            }
        }
    }

    /// Becomes readable at its end.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// What came of it, once it has ended.
    pub fn result(mut self) -> Result<(), String> {
        let mut said = String::new();
        if let Some(stdout) = self.child.stdout.take() {
            // What cannot be read is missing from a reason; that it failed is told anyway.
            let _ = stdout.take(LONGEST).read_to_string(&mut said);
        }
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) if said.trim().is_empty() => Err(format!("the starter of qemud ended with {status}")),
            Ok(_) => Err(said.trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The starter's own work: returns once somebody listens, with the reason on standard output otherwise.
#[must_use]
pub fn start_qemud(mode: Mode) -> bool {
    let reached = match Instance::from_env(mode) {
        Ok(instance) => dial(&instance, false, Start::IfAbsent).map_err(|error| error.full_text()),
        Err(error) => Err(error.to_string()),
    };
    match reached {
        Ok(_) => true,
        Err(why) => {
            println!("{}", why.replace('\n', " "));
            false
        }
    }
}
