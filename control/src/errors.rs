//! What clients are told: libvirt's codes and texts where its clients test them, the chain of causes, what to do.

use std::path::PathBuf;

use api::{Error, ErrorCode, ErrorDomain};
use ipc::budget::OverBudget;
use supervisor::protocol::Failure;
use uuid::Uuid;

use super::{
    guests::GuestError,
    store::definitions::{ChangeError, StoreError},
};
use qemud::edge::Refusal;

use crate::qemu::plan::PlanError;

/// How this driver words what the registry refuses.
pub const ERRORS: registry::Errors = registry::Errors::of_domains(ErrorDomain::QEMU);

fn qemu(code: ErrorCode, message: impl Into<String>) -> Error {
    Error::new(code, ErrorDomain::QEMU, message)
}

/// No domain is what the call names; libvirt's text.
pub fn no_domain(what: &str, value: impl std::fmt::Display) -> Error {
    qemu(ErrorCode::NO_DOMAIN, format!("Domain not found: no domain with matching {what} '{value}'"))
}

/// No domain has a handle's UUID; libvirt's text.
pub fn no_domain_uuid(uuid: &Uuid, name: &str) -> Error {
    let text = format!("Domain not found: no domain with matching uuid '{uuid}' ({})", api::printable(name));
    qemu(ErrorCode::NO_DOMAIN, text)
}

/// The call needs the guest in another state; libvirt's text.
pub fn wrong_state(message: impl Into<String>) -> Error {
    qemu(ErrorCode::OPERATION_INVALID, format!("Requested operation is not valid: {}", message.into()))
}

/// An argument is not acceptable.
pub fn invalid(message: impl Into<String>) -> Error {
    qemu(ErrorCode::INVALID_ARG, format!("invalid argument: {}", message.into()))
}

/// A flag that no driver knows, or this one does not have.
pub fn unknown_flags(flags: u32, operation: &str) -> Error {
    qemu(ErrorCode::INVALID_ARG, format!("unsupported flags (0x{flags:x}) in function {operation}"))
}

/// Something that libvirt's QEMU driver may do and this one does not.
pub fn unsupported_operation(message: impl Into<String>) -> Error {
    qemu(ErrorCode::OPERATION_UNSUPPORTED, format!("Operation not supported: {}", message.into()))
}

/// What is asked for needs something that the guest does not have.
pub fn argument_unsupported(message: impl Into<String>) -> Error {
    qemu(ErrorCode::ARGUMENT_UNSUPPORTED, format!("argument unsupported: {}", message.into()))
}

/// The guest has no agent: no channel to one is made yet. libvirt's text.
pub fn no_agent() -> Error {
    argument_unsupported("QEMU guest agent is not configured")
}

/// The host does not tell.
pub fn host_silent(what: &str) -> Error {
    qemu(ErrorCode::SYSTEM_ERROR, format!("cannot read {what} of the host"))
        .with_hint("see in qemud's log what is enforced, and that /proc and /sys are mounted")
}

/// Any code with libvirt's text.
pub fn told(code: ErrorCode, message: impl Into<String>) -> Error {
    qemu(code, message)
}

/// A document cannot be read.
pub fn xml(error: &model::XmlError) -> Error {
    let known = qemu(ErrorCode::XML_ERROR, "the domain document cannot be used").with_cause(error);
    match error.hint() {
        Some(hint) => known.with_hint(hint),
        None => known,
    }
}

/// A document cannot be carried out.
pub fn plan(name: &str, error: &PlanError) -> Error {
    let code = match error {
        PlanError::Arch { .. } | PlanError::DomainType(_) => ErrorCode::XML_ERROR,
        _ => ErrorCode::CONFIG_UNSUPPORTED,
    };
    let known = qemu(code, format!("domain '{name}' asks for what it cannot have")).with_cause(error);
    match error.hint() {
        Some(hint) => known.with_hint(hint),
        None => known,
    }
}

/// The definitions' directory does not do what it should.
pub fn store(doing: &str, name: &str, error: &StoreError) -> Error {
    let hint = match error {
        StoreError::Broken { path } => {
            format!("look at '{}', then repair it or move it away and restart qemud", path.display())
        }
        _ => "nothing was changed; see that the disk has room and the directory can be written".into(),
    };
    qemu(ErrorCode::SYSTEM_ERROR, format!("cannot {doing} domain '{name}'")).with_cause(error).with_hint(hint)
}

/// A change of a definition was not made.
pub fn change(doing: &str, name: &str, error: ChangeError) -> Error {
    match error {
        ChangeError::Store(error) => store(doing, name, &error),
        ChangeError::Refused(error) => error,
    }
}

/// The disk with the definitions does not answer.
pub fn disk_silent(doing: &str, name: &str, waited: std::time::Duration) -> Error {
    let cause = format!("the disk with the definitions has not answered within {} s", waited.as_secs());
    qemu(ErrorCode::OPERATION_TIMEOUT, format!("cannot {doing} domain '{name}'"))
        .with_cause_text(&cause)
        .with_hint("what was asked for may still be done when the disk answers; look at the domain then")
}

/// The disk with the definitions has so much to do for a user that it gets no more.
pub fn disk_behind(doing: &str, name: &str, over: OverBudget) -> Error {
    let hint = match over {
        OverBudget::User { .. } => "the disk with the definitions does not answer; calls that need no disk are served",
        OverBudget::All { .. } => {
            "the users of this host ask more of the disk with the definitions than it has done yet; try again"
        }
    };
    qemu(ErrorCode::OPERATION_TIMEOUT, format!("cannot {doing} domain '{name}'")).with_cause(over).with_hint(hint)
}

/// One half of a change was made and the other was not.
pub fn half_changed(name: &str, stands: &str, error: Error) -> Error {
    let hint = format!("{stands} of '{name}' has changed all the same; change it back if it should not");
    error.with_hint(hint)
}

/// Advice about a disk with emulators that does not answer.
const DISK_OF_EMULATORS: &str = "see that the file server or the disk answers, then try again";

/// The disk that an emulator is on does not answer.
pub fn emulator_unseen(emulator: &str, waited: std::time::Duration) -> Error {
    let cause = format!("the disk that it is on has not answered within {} s", waited.as_secs());
    qemu(ErrorCode::OPERATION_TIMEOUT, format!("cannot look at the emulator '{emulator}'"))
        .with_cause_text(&cause)
        .with_hint(DISK_OF_EMULATORS)
}

/// A disk that emulators may be on does not answer.
pub fn emulators_unseen(roots: &[PathBuf], waited: std::time::Duration) -> Error {
    let roots: Vec<String> = roots.iter().map(|root| format!("'{}'", root.display())).collect();
    let cause = format!("one of {} has not answered within {} s", roots.join(", "), waited.as_secs());
    qemu(ErrorCode::OPERATION_TIMEOUT, "cannot look for emulators").with_cause_text(&cause).with_hint(DISK_OF_EMULATORS)
}

/// The launcher refused something that a guest needs.
pub fn refused(doing: &str, name: &str, refusal: &Refusal) -> Error {
    let code = match refusal {
        Refusal::Range { .. } | Refusal::Directory { .. } | Refusal::Spawn { .. } => ErrorCode::INTERNAL_ERROR,
        Refusal::Open { .. } => ErrorCode::SYSTEM_ERROR,
        _ => ErrorCode::CONFIG_UNSUPPORTED,
    };
    let known = qemu(code, format!("cannot {doing} domain '{name}'")).with_cause(refusal);
    match refusal {
        Refusal::OutsideRoots { .. } | Refusal::LinkOutside { .. } => known.with_hint(
            "start it with a client that opens the file itself (bulkhead start does), or add the directory to \
             image_roots in qemud.conf",
        ),
        Refusal::Open { errno: 2, .. } => known.with_hint("give the path of a file that exists"),
        Refusal::Directory { .. } => {
            known.with_hint("see that the file systems of qemud's run-time and log directories have room")
        }
        Refusal::Kind { .. } => known.with_hint("give a regular file or a block device"),
        Refusal::Emulator { .. } => {
            known.with_hint("install the QEMU package for this architecture, or name another emulator")
        }
        _ => known,
    }
}

/// A guest's supervisor did not do what it was asked.
pub fn guest(doing: &str, name: &str, error: &GuestError) -> Error {
    let code = match error {
        GuestError::Failure(Failure::Deadline { .. }) | GuestError::Silent(_) | GuestError::Waited(_) => {
            ErrorCode::OPERATION_TIMEOUT
        }
        GuestError::Failure(Failure::WrongState { state }) => return wrong_state(format!("domain is {state}")),
        GuestError::Ending => return wrong_state("domain is not running"),
        GuestError::Failure(Failure::ConsoleBusy) => {
            return qemu(
                ErrorCode::OPERATION_FAILED,
                "operation failed: Active console session exists for this domain",
            )
            .with_hint("detach the other client, or take its place with --force");
        }
        GuestError::Failure(Failure::NoSuchConsole { .. }) => ErrorCode::INVALID_ARG,
        GuestError::Busy
        | GuestError::Full
        | GuestError::Unreachable
        | GuestError::Unheard
        | GuestError::Failure(Failure::Busy(_)) => ErrorCode::OPERATION_TIMEOUT,
        // What libvirt's clients look for before they ask again without mercy.
        GuestError::Failure(Failure::StillThere(_)) => ErrorCode::SYSTEM_ERROR,
        GuestError::Gone(_) | GuestError::Failure(Failure::Exited { .. }) => ErrorCode::OPERATION_FAILED,
        GuestError::Old => ErrorCode::OPERATION_UNSUPPORTED,
        GuestError::Quarantined(_) => ErrorCode::OPERATION_FAILED,
        GuestError::Failure(_) => ErrorCode::INTERNAL_ERROR,
    };
    let known = qemu(code, format!("cannot {doing} domain '{name}'")).with_cause(error);
    match error {
        GuestError::Failure(Failure::Deadline { .. }) => known.with_hint(format!(
            "QEMU is stopped or waits for its storage; if it does not come back, 'bulkhead destroy {name}' ends it"
        )),
        GuestError::Failure(Failure::StillThere(_)) => {
            known.with_hint("it goes on; 'bulkhead destroy' without --graceful kills it")
        }
        GuestError::Unreachable => known.with_hint(
            "the guest itself may be well: its supervisor is dialled again and again; 'bulkhead destroy' ends it all the same",
        ),
        GuestError::Quarantined(_) => known.with_hint(format!(
            "the guest itself may be well: 'bulkhead destroy {name}' ends it, and a qemud that is restarted listens to it again"
        )),
        GuestError::Silent(_) | GuestError::Unheard => known.with_hint("the guest itself may be well; try again"),
        GuestError::Busy | GuestError::Full | GuestError::Waited(_) => {
            known.with_hint(format!("try again later; 'bulkhead destroy {name}' waits for nothing"))
        }
        GuestError::Old => known.with_hint("stop the guest and start it again: its next supervisor is of this release"),
        GuestError::Failure(Failure::Exited { .. }) => {
            known.with_hint("QEMU's own words are the cause; see also the guest's log")
        }
        _ => known,
    }
}

/// A start was given up because the domain was destroyed.
pub fn destroyed_meanwhile() -> Error {
    qemu(ErrorCode::OPERATION_ABORTED, "operation aborted: the domain was destroyed while it was being started")
}

/// A domain's processes do not end although they were killed.
pub fn undying(name: &str, waited: std::time::Duration) -> Error {
    let cause = format!("its processes were killed and have not ended within {} s", waited.as_secs());
    qemu(ErrorCode::OPERATION_TIMEOUT, format!("cannot destroy domain '{name}'"))
        .with_cause_text(&cause)
        .with_hint("they are in the kernel, which waits for a disk or a file server; the domain stays in the list until they are gone")
}

/// A domain may live, and nobody can tell which process it is.
pub fn not_killed(name: &str, why: &str) -> Error {
    qemu(ErrorCode::OPERATION_FAILED, format!("cannot destroy domain '{name}'"))
        .with_cause_text(why)
        .with_hint("shut the guest down from within, or end its qemu-supervisor process by hand; the domain stays in the list until then")
}

/// Advice about a guest that was asked to end and has not.
pub const MAY_STILL_END: &str =
    "it may end all the same when its supervisor goes on; look at it then, or destroy it without --graceful";

/// A domain that was asked to end has not.
pub fn not_ended(name: &str, waited: std::time::Duration) -> Error {
    let cause = format!("it has not ended within {} s", waited.as_secs());
    qemu(ErrorCode::OPERATION_TIMEOUT, format!("cannot destroy domain '{name}'"))
        .with_cause_text(&cause)
        .with_hint(MAY_STILL_END)
}

/// A job is refused.
pub fn job(refusal: registry::jobs::JobRefusal) -> Error {
    refusal.error(&ERRORS)
}

/// The registry refuses something.
pub fn refusal(refusal: &registry::Refusal) -> Error {
    ERRORS.refused(refusal)
}

/// An emulator is not there.
pub fn emulator_refused(refusal: &Refusal) -> Error {
    qemu(ErrorCode::CONFIG_UNSUPPORTED, refusal.to_string())
        .with_hint("install the QEMU package for this architecture, or name another emulator")
}

/// What failed, in front of why: an error that knows no guest becomes the cause of one that does.
pub fn for_domain(doing: &str, name: &str, cause: Error) -> Error {
    let hint = cause.hint.clone();
    let error = Error::new(cause.code, cause.domain, format!("cannot {doing} domain '{name}'")).with_cause(cause);
    hint.into_iter().fold(error, Error::with_hint)
}

/// An emulator cannot be asked what it can do.
pub fn emulator_silent(emulator: &str, cause: &str) -> Error {
    qemu(ErrorCode::INTERNAL_ERROR, format!("cannot find out what '{emulator}' can do"))
        .with_cause_text(cause)
        .with_hint(format!("see that '{emulator} -version' works"))
}

/// Two guests would write to one disk.
pub fn disk_in_use(name: &str, what: &str, path: &str, other: &str, others: &str) -> Error {
    qemu(ErrorCode::RESOURCE_BUSY, format!("cannot start domain '{name}'"))
        .with_cause_text(format!("{what} ('{path}') is in use by the running domain '{other}' as its {others}"))
        .with_hint("stop that domain, or mark the disk <shareable/> in both if the guests agree on it")
}
