//! From a role's table to the programs that the kernel runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use rustix::io::Errno;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::rule::{Argument, Condition, Rule, Verdict};
use super::{Otherwise, Role};
use crate::sys::{self, Threads};

/// Why a role's filter can't be made or added.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The table can't be expressed as a filter.
    #[error("cannot compile the filter of role {role}")]
    Compile {
        /// The role's name.
        role: &'static str,
        /// The compiler's reason.
        #[source]
        source: BackendError,
    },
    /// no_new_privs could not be set.
    #[error("cannot prepare for a filter")]
    NoNewPrivs {
        /// The reason.
        #[from]
        source: crate::process::ProcessError,
    },
    /// The kernel refused the filter; ESRCH means that a thread has a filter of its own.
    #[error("cannot add the filter of role {role}")]
    Install {
        /// The role's name.
        role: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// A role's filter, ready for the kernel. It has layers because a program of the compiler knows one verdict: the kernel runs
/// all of them and the strictest answer counts.
#[derive(Clone, Debug)]
pub struct Filter {
    layers: Vec<BpfProgram>,
}

impl Filter {
    /// Adds every layer; the killing one comes last, since it no longer allows adding any. Allocates nothing.
    pub(crate) fn apply(&self, threads: Threads) -> Result<(), Errno> {
        self.layers.iter().try_for_each(|layer| sys::seccomp_filter(layer, threads))
    }
}

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

pub(super) fn compile(role: Role) -> Result<Filter, PolicyError> {
    layers(role).map(|layers| Filter { layers }).map_err(|source| PolicyError::Compile { role: role.name(), source })
}

fn layers(role: Role) -> Result<Vec<BpfProgram>, BackendError> {
    let mut layers = Vec::new();
    if role.otherwise() == Otherwise::Allow {
        layers.extend(other_abi());
    }
    let errnos: BTreeSet<i32> = role.rules().filter_map(|rule| errno(rule.verdict)).collect();
    for number in errnos {
        let mut rules = Rules::new();
        for rule in role.rules().filter(|rule| errno(rule.verdict) == Some(number)) {
            rules.insert(rule.number, conditions(rule)?);
        }
        layers.push(program(rules, SeccompAction::Allow, SeccompAction::Errno(number.cast_unsigned()))?);
    }
    if role.otherwise() == Otherwise::Kill {
        let mut rules = Rules::new();
        for rule in role.rules() {
            // What a layer above refuses has to pass here to be refused there and not killed.
            rules.insert(rule.number, if rule.verdict == Verdict::Allow { conditions(rule)? } else { vec![] });
        }
        let mut killing = role.first_new_call().map(new_calls).unwrap_or_default();
        killing.extend(program(rules, SeccompAction::KillProcess, SeccompAction::Allow)?);
        layers.push(killing);
    }
    Ok(layers)
}

fn errno(verdict: Verdict) -> Option<i32> {
    match verdict {
        Verdict::Allow => None,
        Verdict::Errno(errno) => Some(errno),
    }
}

fn program(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, otherwise, matched, ARCH)?.try_into()
}

fn conditions(rule: &Rule) -> Result<Vec<SeccompRule>, BackendError> {
    rule.any
        .iter()
        .map(|all| SeccompRule::new(all.iter().map(condition).collect::<Result<_, BackendError>>()?))
        .collect()
}

fn condition(argument: &Argument) -> Result<SeccompCondition, BackendError> {
    let (op, value) = match argument.condition {
        Condition::Is(value) => (SeccompCmpOp::Eq, value),
        Condition::Masked { mask, value } => (SeccompCmpOp::MaskedEq(u64::from(mask)), value),
    };
    SeccompCondition::new(argument.index, SeccompCmpArgLen::Dword, op, u64::from(value))
}

// BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_JMP | BPF_JGE | BPF_K, BPF_RET | BPF_K.
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Where a call's number and its architecture are.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// x32's numbers, which the kernel may take in a 64-bit process, have this bit.
const X32_SYSCALL_BIT: u32 = 0x4000_0000;
const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// What stands before a killing program: calls of this architecture from number `first` on are unknown; all others, and those
/// under another architecture's numbers, fall through to the program.
fn new_calls(first: u32) -> BpfProgram {
    #[cfg(target_arch = "x86_64")]
    const AUDIT_ARCH: u32 = 0xc000_003e;
    #[cfg(target_arch = "aarch64")]
    const AUDIT_ARCH: u32 = 0xc000_00b7;
    vec![
        op(LOAD, 0, 0, ARCHITECTURE),
        op(JUMP_IF_EQUAL, 0, 4, AUDIT_ARCH),
        op(LOAD, 0, 0, NUMBER),
        op(JUMP_IF_GREATER_OR_EQUAL, 2, 0, X32_SYSCALL_BIT),
        op(JUMP_IF_GREATER_OR_EQUAL, 0, 1, first),
        op(RETURN, 0, 0, UNKNOWN),
    ]
}

/// A list of what is refused is blind to the same calls under x32's numbers: they are no calls at all here.
#[cfg(target_arch = "x86_64")]
fn other_abi() -> Option<BpfProgram> {
    Some(vec![
        op(LOAD, 0, 0, NUMBER),
        op(JUMP_IF_GREATER_OR_EQUAL, 0, 1, X32_SYSCALL_BIT),
        op(RETURN, 0, 0, UNKNOWN),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ])
}

#[cfg(not(target_arch = "x86_64"))]
fn other_abi() -> Option<BpfProgram> {
    None
}
