//! Seccomp filters by role, as tables with a reason beside every call.
//!
//! There are two kinds. All but [`Role::Launcher`] are leaves: they have an allow-list, and a call outside it kills the
//! process. A filter is inherited by every process below, though, and everything is below the launcher: its list is therefore
//! of what the host must never see from any of them, refused with an error that a program survives. QEMU's list is there
//! before QEMU is, and QEMU adds a filter of its own on top.
//!
//! Adding a call to a role is one line in its table; `REGENERATE_POLICY=1 cargo test -p sandbox` then renews the golden dumps
//! beside the tables, and the diff is what a reviewer reads.

mod base;
mod compile;
mod control;
mod deny;
mod gateway;
mod opener;
mod qemu;
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
    /// `qemud` opener: opens files and hands them over.
    Opener,
    /// `qemud` control: clients, definitions, supervisors' sockets.
    Control,
    /// `qemu-supervisor` after it has spawned its QEMU.
    Supervisor,
    /// QEMU with KVM, from before its exec; its own sandbox comes on top.
    QemuKvm,
    /// QEMU with its code generator, and a QEMU that is asked what it can do: the same, but memory may be written and executed.
    QemuTcg,
    /// `gateway` acceptor: accepts libvirt's clients, and hands workers what they need.
    GatewayAcceptor,
    /// `gateway` worker: one client's bytes, and a connection to its driver's daemon that it was handed.
    GatewayWorker,
    /// `gateway` polkit: a connection to the system's D-Bus, and the start times of processes.
    GatewayPolkit,
    /// `gateway` mock host: the test driver's calls of all clients, over connections that it was handed.
    GatewayMockHost,
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
    pub const ALL: [Role; 10] = [
        Role::Launcher,
        Role::Opener,
        Role::Control,
        Role::Supervisor,
        Role::QemuKvm,
        Role::QemuTcg,
        Role::GatewayAcceptor,
        Role::GatewayWorker,
        Role::GatewayPolkit,
        Role::GatewayMockHost,
    ];

    /// The role's name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Role::Launcher => "launcher",
            Role::Opener => "opener",
            Role::Control => "control",
            Role::Supervisor => "supervisor",
            Role::QemuKvm => "qemu-kvm",
            Role::QemuTcg => "qemu-tcg",
            Role::GatewayAcceptor => "gateway-acceptor",
            Role::GatewayWorker => "gateway-worker",
            Role::GatewayPolkit => "gateway-polkit",
            Role::GatewayMockHost => "gateway-mock-host",
        }
    }

    /// What becomes of a call that no rule names.
    pub fn otherwise(self) -> Otherwise {
        match self {
            Role::Launcher => Otherwise::Allow,
            Role::Opener
            | Role::Control
            | Role::Supervisor
            | Role::QemuKvm
            | Role::QemuTcg
            | Role::GatewayAcceptor
            | Role::GatewayWorker
            | Role::GatewayPolkit
            | Role::GatewayMockHost => Otherwise::Kill,
        }
    }

    /// The number from which on calls are answered with ENOSYS, as by a kernel that is older than they are. Only programs that
    /// are not of this house have one: what their libraries try on a newer host is not known here.
    pub fn first_new_call(self) -> Option<u32> {
        matches!(self, Role::QemuKvm | Role::QemuTcg).then_some(qemu::FIRST_NEW_CALL)
    }

    /// The role's rules.
    pub fn rules(self) -> impl Iterator<Item = &'static Rule> {
        let tables: &[&'static [Rule]] = match self {
            Role::Launcher => &[deny::HOST, deny::HOST_ARCH],
            Role::QemuKvm => &[qemu::PROCESS, qemu::FILES, qemu::EVENTS, qemu::QEMU_ARCH, qemu::NEVER_BOTH],
            Role::QemuTcg => &[qemu::PROCESS, qemu::FILES, qemu::EVENTS, qemu::QEMU_ARCH, qemu::GENERATES_CODE],
            Role::Opener => &[base::RUNTIME, opener::OPENER, opener::OPENER_ARCH],
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
            ],
            Role::GatewayMockHost => &[
                base::RUNTIME,
                gateway::ALL,
                gateway::ALL_ARCH,
                gateway::OPENS_NOTHING,
                gateway::OPENS_NOTHING_ARCH,
                gateway::MOCK_HOST,
                gateway::MOCK_HOST_ARCH,
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
        let mut text = format!("role {}, {}\notherwise: {otherwise}\n", self.name(), std::env::consts::ARCH);
        if let Some(number) = self.first_new_call() {
            text.push_str(&format!("calls from {number} on: refuse with ENOSYS\n"));
        }
        text.push('\n');
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

    fn leaves() -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(|role| role.otherwise() == Otherwise::Kill)
    }

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
        #[rustfmt::skip]
        const DANGEROUS: [&str; 12] = [
            "clone", "ioctl", "mmap", "mprotect", "prctl", "socket", "socketpair", "openat", "fcntl", "tgkill", "seccomp",
            "arch_prctl",
        ];
        for role in leaves() {
            for rule in role.rules().filter(|rule| DANGEROUS.contains(&rule.name)) {
                assert!(rule.verdict != Verdict::Allow || !rule.any.is_empty(), "{} for {}", rule.name, role.name());
            }
        }
    }

    #[test]
    fn kind_of_role_decides_the_kind_of_rules() {
        assert!(Role::Launcher.rules().all(|rule| rule.verdict != Verdict::Allow), "the launcher's only refuses");
        for role in leaves() {
            let conditional_refusal = |rule: &&Rule| rule.verdict != Verdict::Allow && !rule.any.is_empty();
            assert!(!role.rules().any(|rule| conditional_refusal(&rule)), "{}", role.name());
        }
    }
}
