//! Why the registry refuses something, and how libvirt says so.

use api::{Error, ErrorCode, ErrorDomain, Op};
use uuid::Uuid;

use crate::{reservation::Ticket, run::Run};

/// Why something is refused. [`Errors::refused`] makes of it what a client gets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No object has this UUID. The name is the one in the caller's handle.
    #[error("no object has the UUID {uuid} ({name})")]
    NoUuid {
        /// What was asked for.
        uuid: Uuid,
        /// And what the handle calls it.
        name: String,
    },
    /// The name is that of another object.
    #[error("the name '{name}' belongs to {uuid}")]
    NameTaken {
        /// The name.
        name: String,
        /// The object.
        uuid: Uuid,
    },
    /// The UUID is that of an object with another name.
    #[error("the UUID {uuid} belongs to '{name}'")]
    UuidTaken {
        /// The UUID.
        uuid: Uuid,
        /// The object's name.
        name: String,
    },
    /// The object runs, or is being started.
    #[error("it is already running")]
    Running,
    /// A document is to be started whose object runs.
    #[error("it is already active as '{0}'")]
    ActiveAs(String),
    /// The object does not run.
    #[error("it is not running")]
    NotRunning,
    /// A suspended object was expected.
    #[error("it is not paused")]
    NotPaused,
    /// The object has no definition, and this needs one.
    #[error("it has no definition: {0}")]
    Transient(TransientRefusal),
    /// It runs, and this can be done only while it is off.
    #[error("it is active and cannot be renamed")]
    RenameActive,
    /// The new name is the old one.
    #[error("it has this name already")]
    RenameToItself,
    /// The new name belongs to another object.
    #[error("another object is called '{0}'")]
    RenameTaken(String),
    /// Something is kept with it that goes or stays with the definition.
    #[error("it has {0}")]
    Keeps(Kept),
    /// Something is kept with it under its name.
    #[error("it cannot be renamed with {0}")]
    RenameKeeps(Kept),
    /// Its definition is being changed at this moment.
    #[error("'{0}' is being changed by another call")]
    Busy(String),
    /// The object stands for a run of unclear identity and cannot be anything else.
    #[error("'{0}' is a run of unclear identity")]
    Stray(String),
    /// The ticket was used, cancelled or never given.
    #[error("ticket {0} is not valid")]
    NoTicket(Ticket),
    /// There is no such run, or none any more.
    #[error("there is no run {0}")]
    NoRun(Run),
    /// The number is another run's.
    #[error("run {0} is known already")]
    RunKnown(Run),
    /// The run is not in a phase in which this can happen.
    #[error("run {0} is ending")]
    RunEnding(Run),
    /// The committed document is not the one that was announced.
    #[error("the document has another name or UUID than its reservation")]
    OtherDocument,
}

/// What a transient object cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransientRefusal {
    /// Be undefined.
    Undefine,
    /// Start with the host.
    Autostart,
    /// Be renamed.
    Rename,
    /// Have its definition changed.
    Change,
}

impl std::fmt::Display for TransientRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            TransientRefusal::Undefine => "it cannot be undefined",
            TransientRefusal::Autostart => "it cannot be autostarted",
            TransientRefusal::Rename => "it cannot be renamed",
            TransientRefusal::Change => "its definition cannot be changed",
        })
    }
}

/// What an object can have besides its definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// A saved image of its last run.
    ManagedSave,
    /// So many snapshots.
    Snapshots(u32),
    /// So many checkpoints.
    Checkpoints(u32),
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kept::ManagedSave => f.write_str("a managed save image"),
            Kept::Snapshots(count) => write!(f, "{count} snapshots"),
            Kept::Checkpoints(count) => write!(f, "{count} checkpoints"),
        }
    }
}

/// How one driver words its errors for one kind of object: libvirt's codes and texts, which its clients compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errors {
    domain: ErrorDomain,
    noun: &'static str,
    missing: ErrorCode,
}

impl Errors {
    /// Errors of a driver that speaks of domains.
    #[must_use]
    pub const fn of_domains(domain: ErrorDomain) -> Errors {
        Errors { domain, noun: "domain", missing: ErrorCode::NO_DOMAIN }
    }

    /// Any code with any text.
    #[must_use]
    pub fn told(&self, code: ErrorCode, message: impl Into<String>) -> Error {
        Error::new(code, self.domain, message)
    }

    /// The call needs the object in another state.
    #[must_use]
    pub fn wrong_state(&self, message: impl std::fmt::Display) -> Error {
        self.told(ErrorCode::OPERATION_INVALID, format!("Requested operation is not valid: {message}"))
    }

    /// An argument is not acceptable.
    #[must_use]
    pub fn invalid(&self, message: impl std::fmt::Display) -> Error {
        self.told(ErrorCode::INVALID_ARG, format!("invalid argument: {message}"))
    }

    /// An argument that no caller may pass, in libvirt's own words.
    #[must_use]
    pub fn bad_argument(&self, message: impl Into<String>) -> Error {
        self.told(ErrorCode::INVALID_ARG, message)
    }

    /// The operation could not be done.
    #[must_use]
    pub fn failed(&self, message: impl std::fmt::Display) -> Error {
        self.told(ErrorCode::OPERATION_FAILED, format!("operation failed: {message}"))
    }

    /// The driver does not do this.
    #[must_use]
    pub fn unsupported(&self, message: impl std::fmt::Display) -> Error {
        self.told(ErrorCode::OPERATION_UNSUPPORTED, format!("Operation not supported: {message}"))
    }

    /// The argument asks for what the driver or the object does not have.
    #[must_use]
    pub fn argument_unsupported(&self, message: impl std::fmt::Display) -> Error {
        self.told(ErrorCode::ARGUMENT_UNSUPPORTED, format!("argument unsupported: {message}"))
    }

    /// Flags that the operation does not have.
    #[must_use]
    pub fn unknown_flags(&self, unknown: u32, op: Op) -> Error {
        self.bad_argument(format!("unsupported flags (0x{unknown:x}) in function {}", op.info().api))
    }

    /// No object has this name or UUID.
    #[must_use]
    pub fn missing(&self, what: &str, value: impl std::fmt::Display) -> Error {
        self.not_found(what, format_args!("'{value}'"))
    }

    /// No object has this id.
    #[must_use]
    pub fn missing_id(&self, id: i32) -> Error {
        self.not_found("id", id)
    }

    fn not_found(&self, what: &str, value: impl std::fmt::Display) -> Error {
        let noun = self.noun;
        let mut title = noun.to_owned();
        if let Some(first) = title.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        self.told(self.missing, format!("{title} not found: no {noun} with matching {what} {value}"))
    }

    /// What a client gets for a refusal.
    #[must_use]
    pub fn refused(&self, refusal: &Refusal) -> Error {
        let noun = self.noun;
        match refusal {
            Refusal::NoUuid { uuid, name } => {
                let known = self.missing("uuid", uuid);
                Error { message: format!("{} ({})", known.message, api::printable(name)), ..known }
            }
            Refusal::NameTaken { name, uuid } => self
                .failed(format_args!("{noun} '{name}' already exists with uuid {uuid}"))
                .with_hint(format!("give the document that UUID to change the {noun}, or another name")),
            Refusal::UuidTaken { uuid, name } => {
                self.failed(format_args!("{noun} '{name}' is already defined with uuid {uuid}")).with_hint(format!(
                    "a name and a UUID belong to one {noun}: change the document, or undefine the other"
                ))
            }
            Refusal::Running => self.wrong_state(format_args!("{noun} is already running")),
            Refusal::ActiveAs(name) => self.wrong_state(format_args!("{noun} is already active as '{name}'")),
            Refusal::NotRunning => self.wrong_state(format_args!("{noun} is not running")).with_hint("start it first"),
            Refusal::NotPaused => self.wrong_state(format_args!("{noun} is not paused")),
            Refusal::Transient(what) => self.wrong_state(match what {
                TransientRefusal::Undefine => format!("cannot undefine transient {noun}"),
                TransientRefusal::Autostart => format!("cannot set autostart for transient {noun}"),
                TransientRefusal::Rename => format!("cannot rename a transient {noun}"),
                TransientRefusal::Change => format!("cannot change persistent config of a transient {noun}"),
            }),
            Refusal::RenameActive => {
                self.wrong_state(format_args!("cannot rename active {noun}")).with_hint("shut it down first")
            }
            Refusal::RenameToItself => self.wrong_state(format_args!("Can't rename {noun} to itself")),
            Refusal::RenameTaken(name) => self.failed(format_args!("{noun} with name '{name}' already exists")),
            Refusal::RenameKeeps(kept) => self.wrong_state(format_args!("cannot rename {noun} with {kept}")),
            Refusal::Keeps(Kept::ManagedSave) => {
                self.wrong_state(format_args!("Refusing to undefine while {noun} managed save image exists"))
            }
            Refusal::Keeps(kept) => self.wrong_state(format_args!("cannot delete inactive {noun} with {kept}")),
            Refusal::Busy(name) => self
                .told(ErrorCode::OPERATION_TIMEOUT, format!("another call is changing {noun} '{name}'"))
                .with_hint("try again when it has ended"),
            Refusal::Stray(name) => self
                .wrong_state(format_args!("{noun} '{name}' is a leftover run of unclear identity"))
                .with_hint("destroy it; its definition, if it has one, is listed by its own name"),
            Refusal::NoTicket(_)
            | Refusal::NoRun(_)
            | Refusal::RunKnown(_)
            | Refusal::RunEnding(_)
            | Refusal::OtherDocument => self
                .told(ErrorCode::OPERATION_FAILED, format!("the {noun} ended or was changed meanwhile"))
                .with_cause(refusal),
        }
    }
}
