//! Failures of the way to a daemon, told as the errors of the house.

use api::{Error, ErrorCode, ErrorDomain, Op};
use ipc::{
    client::{CallError, ConnectError},
    paths::{Instance, Mode},
};
use rustix::io::Errno;

/// Why there is no connection to the daemon of an instance.
pub(crate) fn no_connection(error: ConnectError, instance: &Instance) -> Error {
    let new = |code, message: &str| Error::new(code, ErrorDomain::RPC, message.to_owned());
    match error {
        // The daemon's own words say more than any wrapping of them.
        ConnectError::Refused(reason) => reason,
        ConnectError::Connect { ref source, .. } => {
            let hint = connect_hint(source, instance.mode());
            let error = new(ErrorCode::SYSTEM_ERROR, "failed to connect to qemud").with_cause(error);
            match hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        }
        ConnectError::Socket(_) => new(ErrorCode::SYSTEM_ERROR, "failed to connect to qemud").with_cause(error),
        ConnectError::Hello(_) => new(ErrorCode::RPC, "failed to connect to qemud")
            .with_cause(error)
            .with_hint("is it qemud that listens there? its log says more"),
        ConnectError::Version(_) => new(ErrorCode::RPC, "failed to connect to qemud")
            .with_cause(error)
            .with_hint("use a client and a daemon of the same release; restart qemud after an upgrade"),
    }
}

fn connect_hint(source: &std::io::Error, mode: Mode) -> Option<&'static str> {
    match (Errno::from_io_error(source)?, mode) {
        (Errno::NOENT | Errno::CONNREFUSED, Mode::System) => {
            Some("qemud is not running: start its service, or use qemu:///session for guests of your own")
        }
        (Errno::ACCESS | Errno::PERM, Mode::System) => Some(
            "this user may not change the host's guests: connect read-only, use qemu:///session, or ask the administrator",
        ),
        _ => None,
    }
}

/// Why a call has no answer.
pub(crate) fn no_answer(error: CallError, op: Op) -> Error {
    let api = op.info().api;
    let new = |code, message: String| Error::new(code, ErrorDomain::RPC, message);
    match error {
        CallError::Failed(reason) => reason,
        CallError::Lost(source) => new(ErrorCode::RPC, format!("the connection to qemud was lost during {api}"))
            .with_cause(source)
            .with_hint("whether it took effect is not known; the next call connects again"),
        CallError::Send(source) => new(ErrorCode::RPC, format!("{api} cannot be sent")).with_cause(source),
        CallError::Answer(_) => new(ErrorCode::RPC, format!("the answer to {api} makes no sense"))
            .with_cause(error)
            .with_hint("use a client and a daemon of the same release"),
        CallError::Silent(_) => new(ErrorCode::OPERATION_TIMEOUT, format!("{api} has no answer"))
            .with_cause(error)
            .with_hint("qemud itself is stuck; its log says more"),
    }
}

/// A driver answered with the reply of another operation, or with the wrong number of descriptors.
pub(crate) fn strange_answer(op: Op, what: &str) -> Error {
    Error::new(ErrorCode::RPC, ErrorDomain::RPC, format!("the answer to {} makes no sense", op.info().api))
        .with_cause_text(what.to_owned())
}
