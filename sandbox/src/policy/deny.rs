//! What neither the launcher nor anything below it may do to the host.

use super::rule::{Rule, table};

/// Refused to the launcher and, by inheritance, to all below it.
pub(super) const HOST: &[Rule] = table! {
    refuse SYS_init_module with EPERM, "code for the kernel";
    refuse SYS_finit_module with EPERM, "code for the kernel";
    refuse SYS_delete_module with EPERM, "takes code from the kernel";
    refuse SYS_kexec_load with EPERM, "another kernel";
    refuse SYS_kexec_file_load with EPERM, "another kernel";
    refuse SYS_bpf with EPERM, "code for the kernel";
    refuse SYS_perf_event_open with EPERM, "large attack surface, observes others";
    refuse SYS_userfaultfd with EPERM, "holds the kernel in the middle of a copy: a tool of exploits";
    refuse SYS_ptrace with EPERM, "takes over other processes";
    refuse SYS_process_vm_readv with EPERM, "reads other processes";
    refuse SYS_process_vm_writev with EPERM, "writes other processes";
    refuse SYS_pidfd_getfd with EPERM, "takes descriptors of other processes; they come as messages";
    refuse SYS_kcmp with EPERM, "compares kernel pointers of processes";
    refuse SYS_keyctl with EPERM, "keyrings are no namespace's";
    refuse SYS_add_key with EPERM, "keyrings are no namespace's";
    refuse SYS_request_key with EPERM, "starts a helper of the host";
    refuse SYS_open_by_handle_at with EPERM, "opens files past every directory's permission and root";
    refuse SYS_lookup_dcookie with EPERM, "looks paths up past the root";
    refuse SYS_reboot with EPERM, "stops the host";
    refuse SYS_swapon with EPERM, "the host's memory";
    refuse SYS_swapoff with EPERM, "the host's memory";
    refuse SYS_settimeofday with EPERM, "the host's clock";
    refuse SYS_clock_settime with EPERM, "the host's clock";
    refuse SYS_clock_adjtime with EPERM, "the host's clock";
    refuse SYS_adjtimex with EPERM, "the host's clock";
    refuse SYS_acct with EPERM, "the host's accounting";
    refuse SYS_quotactl with EPERM, "the host's quotas";
    refuse SYS_syslog with EPERM, "the kernel's log, with its addresses";
    refuse SYS_vhangup with EPERM, "the host's terminal";
    refuse SYS_nfsservctl with EPERM, "gone from the kernel";
};

#[cfg(target_arch = "x86_64")]
pub(super) const HOST_ARCH: &[Rule] = table! {
    refuse SYS_iopl with EPERM, "ports of the host's hardware";
    refuse SYS_ioperm with EPERM, "ports of the host's hardware";
    refuse SYS_modify_ldt with EPERM, "16-bit segments: attack surface without use";
    refuse SYS_uselib with EPERM, "obsolete loader";
};

#[cfg(not(target_arch = "x86_64"))]
pub(super) const HOST_ARCH: &[Rule] = &[];
