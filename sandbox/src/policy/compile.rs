//! From a role's table to the programs that the kernel runs.

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

/// A role's filter, ready for the kernel.
#[derive(Clone, Debug)]
pub struct Filter {
    program: BpfProgram,
}

impl Filter {
    /// Adds it. Allocates nothing.
    pub(crate) fn apply(&self, threads: Threads) -> Result<(), Errno> {
        sys::seccomp_filter(&self.program, threads)
    }
}

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

pub(super) fn compile(role: Role) -> Result<Filter, PolicyError> {
    program(role).map(|program| Filter { program }).map_err(|source| PolicyError::Compile { role: role.name(), source })
}

/// How many calls one program of the compiler looks for, one after the other.
const GROUP: usize = 12;

/// A role's whole program. The compiler's own knows one verdict and compares a call with every number in turn, and the kernel
/// runs a new filter once for each call that there is: that was the longest part of the start of a guest. So the compiler's
/// programs are for a few calls of one verdict each, and the right one is found by halves.
fn program(role: Role) -> Result<BpfProgram, BackendError> {
    let mut program = match role.otherwise() {
        Otherwise::Allow => other_abi(),
        Otherwise::Kill => role.first_new_call().map(new_calls).unwrap_or_default(),
    };
    program.push(op(LOAD, 0, 0, NUMBER));
    program.extend(halved(groups(role)?));
    Ok(program)
}

/// The compiler's programs, and the first number of each.
fn groups(role: Role) -> Result<Vec<(u32, BpfProgram)>, BackendError> {
    let otherwise = match role.otherwise() {
        Otherwise::Allow => SeccompAction::Allow,
        Otherwise::Kill => SeccompAction::KillProcess,
    };
    let mut rules: Vec<&Rule> = role.rules().collect();
    rules.sort_unstable_by_key(|rule| rule.number);
    let of_one_verdict = rules.chunk_by(|one, other| one.verdict == other.verdict);
    of_one_verdict.flat_map(|rules| rules.chunks(GROUP)).map(|rules| group(rules, otherwise.clone())).collect()
}

fn group(rules: &[&Rule], otherwise: SeccompAction) -> Result<(u32, BpfProgram), BackendError> {
    let first = rules.first().and_then(|rule| u32::try_from(rule.number).ok()).unwrap_or_default();
    let matched = rules.first().map_or(Verdict::Allow, |rule| rule.verdict);
    let matched = match matched {
        Verdict::Allow => SeccompAction::Allow,
        Verdict::Errno(errno) => SeccompAction::Errno(errno.cast_unsigned()),
    };
    let rules = rules.iter().map(|rule| Ok((rule.number, conditions(rule)?))).collect::<Result<_, BackendError>>()?;
    Ok((first, SeccompFilter::new(rules, otherwise, matched, ARCH)?.try_into()?))
}

/// Leads a call, whose number is loaded, to the last of these programs that begins with it or with one before it. Each of them
/// ends with a verdict of its own, and looks at the architecture itself.
fn halved(mut groups: Vec<(u32, BpfProgram)>) -> BpfProgram {
    if groups.len() < 2 {
        return groups.pop().map(|(_, program)| program).unwrap_or_default();
    }
    let upper = groups.split_off(groups.len() / 2);
    let first = upper.first().map(|(first, _)| *first).unwrap_or_default();
    let (lower, upper) = (halved(groups), halved(upper));
    // A conditional jump reaches 255 instructions far, this one any.
    let mut program = vec![op(JUMP_IF_GREATER_OR_EQUAL, 0, 1, first), op(JUMP, 0, 0, length(&lower))];
    program.extend(lower);
    program.extend(upper);
    program
}

fn length(program: &BpfProgram) -> u32 {
    u32::try_from(program.len()).unwrap_or(u32::MAX)
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

// BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JA, BPF_JMP | BPF_JEQ | BPF_K, BPF_JMP | BPF_JGE | BPF_K, BPF_RET | BPF_K.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
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

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// What stands before a killing program: calls of this architecture from number `first` on are unknown; all others, and those
/// under another architecture's numbers, fall through to the program.
fn new_calls(first: u32) -> BpfProgram {
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
fn other_abi() -> BpfProgram {
    vec![
        op(LOAD, 0, 0, ARCHITECTURE),
        op(JUMP_IF_EQUAL, 0, 3, AUDIT_ARCH),
        op(LOAD, 0, 0, NUMBER),
        op(JUMP_IF_GREATER_OR_EQUAL, 0, 1, X32_SYSCALL_BIT),
        op(RETURN, 0, 0, UNKNOWN),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn other_abi() -> BpfProgram {
    BpfProgram::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREIGN_ARCH: u32 = 0x4000_0003;

    /// What the kernel would do with a program and a call.
    fn verdict(program: &[sock_filter], architecture: u32, number: u32, arguments: [u32; 6]) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            match code {
                LOAD => {
                    accumulator = match k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        // Six arguments of eight bytes, of which the rules look at the lower four.
                        k => arguments[((k - 16) / 8) as usize],
                    }
                }
                0x54 => accumulator &= k,
                JUMP => at += k as usize,
                JUMP_IF_EQUAL => at += jump(accumulator == k),
                JUMP_IF_GREATER_OR_EQUAL => at += jump(accumulator >= k),
                RETURN => return k,
                other => panic!("{other:#x} is not known here"),
            }
        }
    }

    fn holds(argument: &Argument, arguments: [u32; 6]) -> bool {
        let given = arguments[usize::from(argument.index)];
        match argument.condition {
            Condition::Is(value) => given == value,
            Condition::Masked { mask, value } => given & mask == value,
        }
    }

    /// What the table says.
    fn ruled(role: Role, number: u32, arguments: [u32; 6]) -> u32 {
        let otherwise = match role.otherwise() {
            Otherwise::Allow => libc::SECCOMP_RET_ALLOW,
            Otherwise::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        };
        if role.first_new_call().is_some_and(|first| (first..X32_SYSCALL_BIT).contains(&number)) {
            return UNKNOWN;
        }
        let rule = role.rules().find(|rule| rule.number == i64::from(number));
        let fits = |rule: &&Rule| {
            rule.any.is_empty() || rule.any.iter().any(|all| all.iter().all(|one| holds(one, arguments)))
        };
        rule.filter(fits).map_or(otherwise, |rule| match rule.verdict {
            Verdict::Allow => libc::SECCOMP_RET_ALLOW,
            Verdict::Errno(errno) => libc::SECCOMP_RET_ERRNO | errno.cast_unsigned(),
        })
    }

    #[test]
    fn the_program_does_what_the_table_says() {
        for role in Role::ALL {
            let program = program(role).unwrap();
            assert!(program.len() <= 4096, "{}: the kernel takes no more instructions", role.name());
            let values: Vec<u32> = role
                .rules()
                .flat_map(|rule| rule.any.iter().copied().flatten())
                .flat_map(|argument| match argument.condition {
                    Condition::Is(value) => [value, !value],
                    Condition::Masked { mask, value } => [value, value | !mask],
                })
                .chain([0, 1, u32::MAX])
                .collect();
            for number in 0..700 {
                for value in &values {
                    let arguments = [*value; 6];
                    let said = verdict(&program, AUDIT_ARCH, number, arguments);
                    assert_eq!(said, ruled(role, number, arguments), "{} {number} {value:#x}", role.name());
                }
            }
        }
    }

    #[test]
    fn calls_of_another_architecture_are_none() {
        for role in Role::ALL {
            let program = program(role).unwrap();
            for number in (0..700).chain(X32_SYSCALL_BIT..X32_SYSCALL_BIT + 700) {
                assert_eq!(verdict(&program, FOREIGN_ARCH, number, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
            }
            for number in 0..700 {
                let x32 = verdict(&program, AUDIT_ARCH, number | X32_SYSCALL_BIT, [0; 6]);
                let refused =
                    if role.otherwise() == Otherwise::Allow { UNKNOWN } else { libc::SECCOMP_RET_KILL_PROCESS };
                assert_eq!(x32, refused, "{} {number}", role.name());
            }
        }
    }
}
