//! The shape of a rule, and the macro that makes a table of them readable.

use std::fmt;

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The call is made.
    Allow,
    /// The call is not made and returns this error.
    Errno(i32),
}

/// A test of the low 32 bits of one argument: every argument that is ruled here is an `int` or a set of flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Which argument, from 0.
    pub index: u8,
    /// How it is named in the dump.
    pub name: &'static str,
    /// What it must be.
    pub condition: Condition,
}

/// What an argument must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Exactly this.
    Is(u32),
    /// This within the bits of the mask.
    Masked {
        /// The bits looked at.
        mask: u32,
        /// Their value.
        value: u32,
    },
}

/// A line of a role's table.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The call's name.
    pub name: &'static str,
    /// Its number on this architecture.
    pub number: libc::c_long,
    /// What is done.
    pub verdict: Verdict,
    /// When: one of these sets of tests passes; empty is always.
    pub any: &'static [&'static [Argument]],
    /// Why.
    pub reason: &'static str,
}

/// Argument `index` is `value`.
pub(super) const fn is(index: u8, name: &'static str, value: u32) -> Argument {
    Argument { index, name, condition: Condition::Is(value) }
}

/// Argument `index` has none of `bits`.
pub(super) const fn without(index: u8, name: &'static str, bits: u32) -> Argument {
    Argument { index, name, condition: Condition::Masked { mask: bits, value: 0 } }
}

/// Argument `index` has all of `bits`.
pub(super) const fn with(index: u8, name: &'static str, bits: u32) -> Argument {
    Argument { index, name, condition: Condition::Masked { mask: bits, value: bits } }
}

/// Argument `index` is `value` within `mask`.
pub(super) const fn masked(index: u8, name: &'static str, mask: u32, value: u32) -> Argument {
    Argument { index, name, condition: Condition::Masked { mask, value } }
}

/// A constant of the C library as the 32 bits that an argument carries.
#[expect(
    clippy::cast_possible_truncation,
    reason = "ioctl numbers and flags fill 32 bits; higher bits would be a wrong table"
)]
pub(super) const fn bits(value: i64) -> u32 {
    assert!(value >= i32::MIN as i64 && value <= u32::MAX as i64);
    value as u32
}

/// A table: `allow read, "reason";`, `allow ioctl if [[test, ...], ...], "reason";`, `refuse bpf with EPERM, "reason";`.
macro_rules! table {
    (@rules [$($done:expr,)*]) => { &[$($done,)*] };
    (@rules [$($done:expr,)*] allow $call:ident, $reason:literal; $($rest:tt)*) => {
        table!(@rules [$($done,)* table!(@rule $call, $crate::policy::rule::Verdict::Allow, &[], $reason),] $($rest)*)
    };
    (@rules [$($done:expr,)*] allow $call:ident if [$($all:expr),* $(,)?], $reason:literal; $($rest:tt)*) => {
        table!(@rules [$($done,)* table!(@rule $call, $crate::policy::rule::Verdict::Allow, &[$(&$all),*], $reason),] $($rest)*)
    };
    (@rules [$($done:expr,)*] refuse $call:ident with $errno:ident, $reason:literal; $($rest:tt)*) => {
        table!(@rules [$($done,)* table!(@rule $call, $crate::policy::rule::Verdict::Errno(libc::$errno), &[], $reason),] $($rest)*)
    };
    (@rules [$($done:expr,)*] refuse $call:ident with $errno:ident if [$($all:expr),* $(,)?], $reason:literal; $($rest:tt)*) => {
        table!(@rules [$($done,)* table!(@rule $call, $crate::policy::rule::Verdict::Errno(libc::$errno), &[$(&$all),*], $reason),] $($rest)*)
    };
    (@rule $call:ident, $verdict:expr, $any:expr, $reason:literal) => {
        $crate::policy::rule::Rule {
            name: $crate::policy::rule::call_name(stringify!($call)),
            number: libc::$call,
            verdict: $verdict,
            any: $any,
            reason: $reason,
        }
    };
    ($($rest:tt)*) => { table!(@rules [] $($rest)*) };
}
pub(super) use table;

/// `SYS_read` is named `read`.
pub(super) const fn call_name(constant: &'static str) -> &'static str {
    match constant.split_at_checked(4) {
        Some((_, name)) => name,
        None => constant,
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.condition {
            Condition::Is(value) => write!(f, "{} == {value:#x}", self.name),
            Condition::Masked { mask, value } => write!(f, "{} & {mask:#x} == {value:#x}", self.name),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        match self.verdict {
            Verdict::Allow => f.write_str("allow")?,
            Verdict::Errno(errno) => write!(f, "refuse with {}", errno_name(errno))?,
        }
        for (index, all) in self.any.iter().enumerate() {
            f.write_str(if index == 0 { " if " } else { " or " })?;
            for (index, argument) in all.iter().enumerate() {
                write!(f, "{}{argument}", if index == 0 { "" } else { " and " })?;
            }
        }
        write!(f, "  # {}", self.reason)
    }
}

fn errno_name(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => "EPERM",
        libc::EACCES => "EACCES",
        libc::ENOSYS => "ENOSYS",
        _ => "another error",
    }
}
