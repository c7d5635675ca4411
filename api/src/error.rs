//! The one error that a caller of the API sees.

mod causes;
mod numbers;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::op::Op;
use crate::remote;
pub use causes::Causes;

/// What went wrong: libvirt's number, since programs test for it. An unknown one passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(pub i32);

/// Which part reports it: libvirt's number. An unknown one passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorDomain(pub i32);

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Level {
    /// Nothing happened.
    None,
    /// The call went on.
    Warning,
    /// The call failed.
    #[default]
    Error,
}

/// A call that failed, as a person and as a program sees it.
///
/// It is a [`std::error::Error`] whose sources are the causes, here and after a journey over Bulkhead's protocol; libvirt's
/// protocol carries one text, which then holds them all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What went wrong.
    pub code: ErrorCode,
    /// Which part reports it.
    pub domain: ErrorDomain,
    /// How bad it is.
    pub level: Level,
    /// The text, whole and without the causes.
    pub message: String,
    /// Why, from the nearest cause to the first one.
    pub causes: Causes,
    /// What the person may do about it.
    pub hint: Option<String>,
}

impl Error {
    /// An error without a cause.
    pub fn new(code: ErrorCode, domain: ErrorDomain, message: impl Into<String>) -> Self {
        Self { code, domain, level: Level::Error, message: message.into(), causes: Causes::default(), hint: None }
    }

    /// The answer of a driver that does not have this operation. Clients test the code.
    pub fn unsupported(op: Op, driver: &str) -> Self {
        let message = format!("this function is not supported by the connection driver: {}", op.info().api);
        Self::new(ErrorCode::NO_SUPPORT, ErrorDomain::of(op), message)
            .with_hint(format!("the {driver} driver does not implement {op}"))
    }

    /// The answer to a call that a read-only connection may not make.
    pub fn read_only(op: Op) -> Self {
        let message = format!("operation forbidden: read only access prevents {}", op.info().api);
        Self::new(ErrorCode::OPERATION_DENIED, ErrorDomain::of(op), message)
    }

    /// The answer to a call with flags that it does not have.
    pub fn unknown_flags(op: Op, unknown: u32) -> Self {
        let message = format!("unsupported flags (0x{unknown:x}) in function {}", op.info().api);
        Self::new(ErrorCode::INVALID_ARG, ErrorDomain::of(op), message)
    }

    /// Adds an error and all of its sources as causes.
    #[must_use]
    pub fn with_cause(mut self, cause: impl std::error::Error) -> Self {
        let mut next: Option<&dyn std::error::Error> = Some(&cause);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Adds a cause that is a text only.
    #[must_use]
    pub fn with_cause_text(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Says what the person may do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The message and its causes in one line, for who shows no more than that.
    pub fn full_text(&self) -> String {
        [&self.message].into_iter().chain(&self.causes).map(String::as_str).collect::<Vec<_>>().join(": ")
    }
}

/// The message only: causes and hint are for who shows them in their own places.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.causes.nearest()
    }
}

impl ErrorDomain {
    /// The part that an operation belongs to.
    pub fn of(op: Op) -> Self {
        const PARTS: [(&str, ErrorDomain); 12] = [
            ("domain_snapshot", ErrorDomain::DOMAIN_SNAPSHOT),
            ("domain_checkpoint", ErrorDomain::DOMAIN_CHECKPOINT),
            ("domain", ErrorDomain::DOMAIN),
            ("qemu", ErrorDomain::DOMAIN),
            ("lxc", ErrorDomain::DOMAIN),
            ("network", ErrorDomain::NETWORK),
            ("storage", ErrorDomain::STORAGE),
            ("node_device", ErrorDomain::NODEDEV),
            ("interface", ErrorDomain::INTERFACE),
            ("secret", ErrorDomain::SECRET),
            ("nwfilter", ErrorDomain::NWFILTER),
            ("auth", ErrorDomain::AUTH),
        ];
        let name = op.info().name;
        PARTS.iter().find(|(prefix, _)| name.starts_with(prefix)).map_or(Self::NONE, |(_, domain)| *domain)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl fmt::Display for ErrorDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

/// As libvirt's clients get it: they show one text, so that is the full one.
impl From<&Error> for remote::Error {
    fn from(error: &Error) -> Self {
        let text = error.full_text();
        Self {
            code: error.code.0,
            domain: error.domain.0,
            level: match error.level {
                Level::None => 0,
                Level::Warning => 1,
                Level::Error => 2,
            },
            message: Some(text.clone()),
            str1: Some("%s".to_owned()),
            str2: Some(text),
            int1: -1,
            int2: -1,
            ..Self::default()
        }
    }
}

impl From<remote::Error> for Error {
    fn from(error: remote::Error) -> Self {
        Self {
            code: ErrorCode(error.code),
            domain: ErrorDomain(error.domain),
            level: match error.level {
                0 => Level::None,
                1 => Level::Warning,
                _ => Level::Error,
            },
            message: error.message.unwrap_or_else(|| format!("the server failed with {}", ErrorCode(error.code))),
            causes: Causes::default(),
            hint: None,
        }
    }
}

/// What a client or a guest has chosen, fit for a message of one line: without control characters, and not too long.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
