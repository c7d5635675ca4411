//! Failures of the way to a daemon, told as the errors of the house.

use api::{Error, ErrorCode, ErrorDomain, Op};
use ipc::{
    ConnError,
    client::{CallError, ConnectError},
    codec::CodecError,
    hello::NoCommonVersion,
    paths::{Instance, Mode, PathsError},
};
use rustix::io::Errno;

use crate::driven::Lost;

/// Why there is no connection to the daemon of an instance. `started`: this side would have started it.
pub(crate) fn no_connection(error: ConnectError, instance: &Instance, started: bool) -> Error {
    let new = |code, message: &str| Error::new(code, ErrorDomain::RPC, message.to_owned());
    match error {
        // The daemon's own words say more than any wrapping of them.
        ConnectError::Refused(reason) => reason,
        ConnectError::Connect { ref source, .. } => {
            let hint = connect_hint(source, instance.mode(), started);
            let error = new(ErrorCode::SYSTEM_ERROR, "failed to connect to qemud").with_cause(error);
            match hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        }
        ConnectError::NotAccepted { .. } => new(ErrorCode::OPERATION_TIMEOUT, "failed to connect to qemud")
            .with_cause(error)
            .with_hint("qemud is stopped or stuck: continue it (kill -CONT) or restart it, which no guest notices"),
        ConnectError::Socket(_) => new(ErrorCode::SYSTEM_ERROR, "failed to connect to qemud").with_cause(error),
        ConnectError::Hello(_) => new(ErrorCode::RPC, "failed to connect to qemud")
            .with_cause(error)
            .with_hint("is it qemud that listens there? its log says more"),
        ConnectError::Version(_) => new(ErrorCode::RPC, "failed to connect to qemud")
            .with_cause(error)
            .with_hint("use a client and a daemon of the same release; restart qemud after an upgrade"),
    }
}

/// The environment puts the daemon of an instance where none can be.
pub(crate) fn no_place(error: PathsError, mode: Mode) -> Error {
    let message = format!("there can be no qemud for qemu:///{}", mode.name());
    Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, message).with_cause(error)
}

fn connect_hint(source: &std::io::Error, mode: Mode, started: bool) -> Option<&'static str> {
    match (Errno::from_io_error(source)?, mode) {
        (Errno::NOENT | Errno::CONNREFUSED, Mode::System) => {
            Some("qemud is not running: start its service, or use qemu:///session for guests of your own")
        }
        (Errno::NOENT | Errno::CONNREFUSED, Mode::Session) if !started => {
            Some("qemud is not running: the next command starts it")
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
        CallError::Send(source) => not_sent(source, op),
        CallError::Answer(_) => new(ErrorCode::RPC, format!("unexpected reply to {api}"))
            .with_cause(error)
            .with_hint("use a client and a daemon of the same release"),
        CallError::Silent(_) => new(ErrorCode::OPERATION_TIMEOUT, format!("{api} has no answer"))
            .with_cause(error)
            .with_hint("qemud itself is stuck; its log says more"),
    }
}

/// The end of a connection that no call waits for.
pub(crate) fn lost_connection(source: ConnError) -> Lost {
    Lost::new(Error::new(ErrorCode::RPC, ErrorDomain::RPC, "the connection to the daemon was lost").with_cause(source))
}

/// The daemon speaks another protocol.
pub(crate) fn no_common_version(source: NoCommonVersion) -> Lost {
    let error = Error::new(ErrorCode::RPC, ErrorDomain::RPC, "failed to connect to qemud").with_cause(source);
    Lost::new(error.with_hint("use a client and a daemon of the same release; restart qemud after an upgrade"))
}

/// The error of a call that was under way when the connection was lost.
pub(crate) fn lost_during(lost: &Lost, op: Op) -> Error {
    let message = format!("the connection to the daemon was lost during {}", op.info().api);
    let reason = lost.error();
    Error::new(reason.code, reason.domain, message).with_cause(reason).with_hint("whether it took effect is not known")
}

/// A call that does not fit a frame.
pub(crate) fn not_sent(source: ConnError, op: Op) -> Error {
    Error::new(ErrorCode::RPC, ErrorDomain::RPC, format!("{} cannot be sent", op.info().api)).with_cause(source)
}

/// An answer that cannot be read.
pub(crate) fn strange_bytes(source: CodecError, op: Op) -> Error {
    Error::new(ErrorCode::RPC, ErrorDomain::RPC, format!("unexpected reply to {}", op.info().api))
        .with_cause(source)
        .with_hint("use a client and a daemon of the same release")
}

/// A driver answered with the reply of another operation, or with the wrong number of descriptors.
pub(crate) fn strange_answer(op: Op, what: &str) -> Error {
    Error::new(ErrorCode::RPC, ErrorDomain::RPC, format!("unexpected reply to {}", op.info().api))
        .with_cause_text(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::Hello;
    use std::{error::Error as StdError, io, path::PathBuf, sync::Arc, time::Duration};

    fn chain(error: &dyn StdError) -> Vec<String> {
        let mut texts = Vec::new();
        let mut next = Some(error);
        while let Some(error) = next {
            texts.push(error.to_string());
            next = error.source();
        }
        texts
    }

    fn reset() -> ConnError {
        ConnError::Io(Errno::CONNRESET)
    }

    fn strange() -> CodecError {
        CodecError::Trailing { extra: 3 }
    }

    fn refusal() -> Error {
        Error::new(ErrorCode::INTERNAL_ERROR, ErrorDomain::RPC, "no").with_cause(reset())
    }

    #[test]
    fn the_sources_of_an_error_are_those_of_what_failed() {
        let path = || PathBuf::from("/run/x");
        let connect: [fn(PathBuf) -> ConnectError; 5] = [
            |path| ConnectError::Connect { path, source: io::Error::from(Errno::CONNREFUSED) },
            |path| ConnectError::NotAccepted { path, patience: Duration::from_secs(30) },
            |_| ConnectError::Socket(io::Error::from(Errno::MFILE)),
            |_| ConnectError::Hello(reset()),
            |_| ConnectError::Version(Hello::new("a", 1, 1).agree(&Hello::new("b", 2, 3)).unwrap_err()),
        ];
        for mode in [Mode::System, Mode::Session] {
            let instance = Instance::at(mode, Some(path()));
            for make in connect {
                let error = no_connection(make(path()), &instance, false);
                assert_eq!(chain(&error)[1..], chain(&make(path())), "{error:?}");
            }
            let refused = no_connection(ConnectError::Refused(refusal()), &instance, false);
            assert_eq!(chain(&refused), chain(&refusal()), "the daemon's own words");
        }
        let op = Op::ConnectGetHostname;
        assert_eq!(chain(&no_answer(CallError::Failed(refusal()), op)), chain(&refusal()));
        assert_eq!(chain(&no_answer(CallError::Lost(Arc::new(reset())), op))[1..], chain(&reset()));
        assert_eq!(chain(&no_answer(CallError::Send(reset()), op))[1..], chain(&reset()));
        assert_eq!(chain(&no_answer(CallError::Answer(strange()), op))[1..], chain(&CallError::Answer(strange())));
        let silent = || CallError::Silent(Duration::from_secs(120));
        assert_eq!(chain(&no_answer(silent(), op))[1..], chain(&silent()));
        let lost = lost_connection(reset());
        assert_eq!(chain(&lost)[1..], chain(lost.error()));
        assert_eq!(chain(&lost_during(&lost, op))[1..], chain(lost.error()));
        assert_eq!(chain(&strange_bytes(strange(), op))[1..], chain(&strange()));
    }
}
