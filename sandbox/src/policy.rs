//! Seccomp filters by role, as tables with a reason beside every call.
//!
//! There are two kinds. [`Role::Control`], [`Role::Supervisor`], and the gateway's three are
//! leaves: nothing is executed below them, so they have an allow-list, and a call outside it kills the process. A filter is inherited by every process below, though, and below
//! the launcher there are QEMU with its code generator and its dynamic loader: [`Role::Launcher`] and [`Role::QemuBase`] are
//! therefore lists of what the host must never see from any of them, refused with an error that a program survives. QEMU
//! adds a filter of its own on top.
//!
//! Adding a call to a role is one line in its table; `REGENERATE_POLICY=1 cargo test -p sandbox` then renews the golden dumps
//! beside the tables, and the diff is what a reviewer reads.

mod base;
mod compile;
mod control;
mod deny;
mod gateway;
mod rule;
mod supervisor;

pub use compile::{Filter, PolicyError};
pub use rule::{Argument, Condition, Rule, Verdict};

use crate::sys::Threads;

/// A process that a filter is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `qemud` launcher: builds compartments, so mounts, namespaces, identities and exec stay.
    Launcher,
    /// `qemud` control: clients, definitions, supervisors' sockets.
    Control,
    /// `qemu-supervisor` after it has spawned its QEMU.
    Supervisor,
    /// What QEMU gets before its exec; its own sandbox comes on top.
    QemuBase,
    /// `gateway` acceptor: accepts libvirt's clients, and connects to `qemud` for its workers.
    GatewayAcceptor,
    /// `gateway` worker: one client's bytes, and a connection to `qemud` that it was handed.
    GatewayWorker,
    /// `gateway` polkit: a connection to the system's D-Bus, and the start times of processes.
    GatewayPolkit,
}

/// What becomes of a call that no rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// The process dies of SIGSYS.
    Kill,
    /// It is allowed.
    Allow,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 7] = [
        Role::Launcher,
        Role::Control,
        Role::Supervisor,
        Role::QemuBase,
        Role::GatewayAcceptor,
        Role::GatewayWorker,
        Role::GatewayPolkit,
    ];

    /// The role's name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Role::Launcher => "launcher",
            Role::Control => "control",
            Role::Supervisor => "supervisor",
            Role::QemuBase => "qemu-base",
            Role::GatewayAcceptor => "gateway-acceptor",
            Role::GatewayWorker => "gateway-worker",
            Role::GatewayPolkit => "gateway-polkit",
        }
    }

    /// What becomes of a call that no rule names.
    pub fn otherwise(self) -> Otherwise {
        match self {
            Role::Control | Role::Supervisor | Role::GatewayAcceptor | Role::GatewayWorker | Role::GatewayPolkit => {
                Otherwise::Kill
            }
            Role::Launcher | Role::QemuBase => Otherwise::Allow,
        }
    }

    /// The role's rules.
    pub fn rules(self) -> impl Iterator<Item = &'static Rule> {
        let tables: &[&'static [Rule]] = match self {
            Role::Launcher => &[deny::HOST, deny::HOST_ARCH],
            Role::QemuBase => &[deny::HOST, deny::HOST_ARCH, deny::COMPARTMENT],
            Role::Control => &[base::RUNTIME, base::BASE, base::BASE_ARCH, control::CONTROL, control::CONTROL_ARCH],
            Role::Supervisor => {
                &[base::RUNTIME, base::BASE, base::BASE_ARCH, supervisor::SUPERVISOR, supervisor::SUPERVISOR_ARCH]
            }
            Role::GatewayAcceptor => &[
                base::RUNTIME,
                gateway::ALL,
                gateway::ALL_ARCH,
                gateway::OPENS_NOTHING,
                gateway::OPENS_NOTHING_ARCH,
                gateway::ACCEPTOR,
                gateway::ACCEPTOR_ARCH,
            ],
            Role::GatewayWorker => &[
                base::RUNTIME,
                gateway::ALL,
                gateway::ALL_ARCH,
                gateway::OPENS_NOTHING,
                gateway::OPENS_NOTHING_ARCH,
                gateway::WORKER,
                gateway::WORKER_ARCH,
            ],
            Role::GatewayPolkit => {
                &[base::RUNTIME, gateway::ALL, gateway::ALL_ARCH, gateway::POLKIT, gateway::POLKIT_ARCH]
            }
        };
        tables.iter().copied().flatten()
    }

    /// The role's filter, ready to be added here or by a new child.
    pub fn filter(self) -> Result<Filter, PolicyError> {
        compile::compile(self)
    }

    /// Adds the role's filter to every thread of this process, for ever, and sets no_new_privs.
    pub fn install(self) -> Result<(), PolicyError> {
        let filter = self.filter()?;
        crate::process::no_new_privs()?;
        filter.apply(Threads::All).map_err(|errno| PolicyError::Install { role: self.name(), source: errno.into() })
    }

    /// The role's rules as text, for `--dump-policy` and the golden files.
    pub fn dump(self) -> String {
        let otherwise = match self.otherwise() {
            Otherwise::Kill => "kill the process",
            Otherwise::Allow => "allow",
        };
        let mut text = format!("role {}, {}\notherwise: {otherwise}\n\n", self.name(), std::env::consts::ARCH);
        let mut lines: Vec<String> = self.rules().map(ToString::to_string).collect();
        lines.sort_unstable();
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    const LEAVES: [Role; 5] =
        [Role::Control, Role::Supervisor, Role::GatewayAcceptor, Role::GatewayWorker, Role::GatewayPolkit];

    #[test]
    fn dumps_are_the_golden_files() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("policy").join(std::env::consts::ARCH);
        for role in Role::ALL {
            let path = directory.join(role.name()).with_extension("txt");
            if std::env::var_os("REGENERATE_POLICY").is_some() {
                std::fs::create_dir_all(&directory).unwrap();
                std::fs::write(&path, role.dump()).unwrap();
            }
            let golden = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(role.dump(), golden, "{}: run with REGENERATE_POLICY=1 if the change is meant", path.display());
        }
    }

    #[test]
    fn every_call_is_ruled_once_and_has_a_reason() {
        for role in Role::ALL {
            let mut seen = BTreeSet::new();
            for rule in role.rules() {
                assert!(seen.insert(rule.number), "{} is ruled twice for {}", rule.name, role.name());
                assert!(rule.reason.len() > 5, "{} has no reason", rule.name);
            }
        }
    }

    #[test]
    fn dangerous_calls_are_allowed_with_argument_rules_only() {
        const DANGEROUS: [&str; 9] =
            ["clone", "ioctl", "mmap", "mprotect", "prctl", "socket", "socketpair", "openat", "fcntl"];
        for role in LEAVES {
            for rule in role.rules().filter(|rule| DANGEROUS.contains(&rule.name)) {
                assert!(rule.verdict != Verdict::Allow || !rule.any.is_empty(), "{} for {}", rule.name, role.name());
            }
        }
    }

    #[test]
    fn kind_of_role_decides_the_kind_of_rules() {
        for role in [Role::Launcher, Role::QemuBase] {
            assert!(role.rules().all(|rule| rule.verdict != Verdict::Allow), "{} only refuses", role.name());
        }
        for role in LEAVES {
            let conditional_refusal = |rule: &&Rule| rule.verdict != Verdict::Allow && !rule.any.is_empty();
            assert!(!role.rules().any(|rule| conditional_refusal(&rule)), "{}", role.name());
        }
    }
}
