//! Whether the guest's instructions run on the processor or are emulated.

use std::fs::File;

use clap::ValueEnum;
use model::DomainType;

use crate::error::CliError;

/// How the guest's instructions are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Accel {
    // KVM if this host can, otherwise emulation.
    Auto,
    // On the processor; an error if this host cannot.
    Kvm,
    // Emulated.
    Tcg,
}

/// What was decided, and why it is emulation if nobody asked for that.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    kvm: bool,
    reason: Option<String>,
}

impl Resolved {
    /// The type that libvirt has for it.
    pub(super) fn domain_type(&self) -> DomainType {
        if self.kvm { DomainType::Kvm } else { DomainType::Qemu }
    }

    /// Why the processor is emulated although nobody said so.
    pub(super) fn why_emulated(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl Accel {
    /// Decides for a guest of `arch` on this host.
    pub(super) fn resolve(self, arch: &str) -> Result<Resolved, CliError> {
        self.resolve_with(|| why_no_kvm(arch))
    }

    fn resolve_with(self, why_no_kvm: impl FnOnce() -> Option<String>) -> Result<Resolved, CliError> {
        match self {
            Self::Tcg => Ok(Resolved { kvm: false, reason: None }),
            Self::Kvm => match why_no_kvm() {
                None => Ok(Resolved { kvm: true, reason: None }),
                Some(reason) => Err(CliError::NoKvm { reason }),
            },
            Self::Auto => {
                let reason = why_no_kvm();
                Ok(Resolved { kvm: reason.is_none(), reason })
            }
        }
    }
}

/// Why this user cannot run a guest of `arch` with KVM here; None if it can.
fn why_no_kvm(arch: &str) -> Option<String> {
    if arch != std::env::consts::ARCH {
        return Some(format!("a guest of {arch} on a host of {}", std::env::consts::ARCH));
    }
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return Some(format!("/dev/kvm: {error}"));
    }
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if arch == "x86_64" && !virtualises(&flags) {
        // There are kernels whose /dev/kvm works without them, in software; stock guest kernels do not boot on it.
        return Some("the processor has neither vmx nor svm".to_owned());
    }
    None
}

/// Whether a processor of /proc/cpuinfo can virtualise.
fn virtualises(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_emulates_with_the_reason_when_there_is_no_kvm() {
        let resolved = Accel::Auto.resolve_with(|| Some("no device".to_owned())).unwrap();
        assert_eq!((resolved.domain_type(), resolved.why_emulated()), (DomainType::Qemu, Some("no device")));
        let resolved = Accel::Auto.resolve_with(|| None).unwrap();
        assert_eq!((resolved.domain_type(), resolved.why_emulated()), (DomainType::Kvm, None));
    }

    #[test]
    fn kvm_that_was_asked_for_and_is_not_there_is_an_error() {
        let error = Accel::Kvm.resolve_with(|| Some("no device".to_owned())).unwrap_err();
        assert_eq!(error.to_string(), "KVM cannot be used: no device");
    }

    #[test]
    fn tcg_asks_nobody() {
        let resolved = Accel::Tcg.resolve_with(|| panic!("asked")).unwrap();
        assert_eq!((resolved.domain_type(), resolved.why_emulated()), (DomainType::Qemu, None));
    }

    #[test]
    fn another_architecture_is_emulated() {
        assert!(why_no_kvm("vax").is_some());
    }

    #[test]
    fn a_flag_is_a_whole_word() {
        assert!(virtualises("processor : 0\nflags\t\t: fpu svm sse\n"));
        assert!(!virtualises("processor : 0\nflags\t\t: fpu svm_lock vmx_x\n"));
    }
}
