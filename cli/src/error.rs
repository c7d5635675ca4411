//! What can go wrong in the command line, the exit code of each, and how a failure is shown.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use libclient::ErrorCode;
use serde::Serialize;

use crate::args::Format;
use crate::output::tell;

/// What a caller can act on: one exit code each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The operation failed.
    Failed,
    /// The command line is invalid.
    Usage,
    /// There is no such domain.
    NotFound,
    /// Nobody answers at the URI.
    Connect,
    /// The peer is there and says no.
    Refused,
    /// Time ran out.
    Deadline,
}

impl Kind {
    /// The exit code, as `--help` documents it.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Connect => 4,
            Self::Refused => 5,
            Self::Deadline => 6,
        }
    }

    /// The kind of an error of the library, by its code; `otherwise` for codes that say nothing special.
    fn of(error: &libclient::Error, otherwise: Self) -> Self {
        match error.code {
            ErrorCode::NO_DOMAIN => Self::NotFound,
            ErrorCode::NO_CONNECT => Self::Connect,
            ErrorCode::OPERATION_DENIED
            | ErrorCode::ACCESS_DENIED
            | ErrorCode::AUTH_FAILED
            | ErrorCode::AUTH_CANCELLED
            | ErrorCode::AUTH_UNAVAILABLE => Self::Refused,
            ErrorCode::OPERATION_TIMEOUT | ErrorCode::AGENT_UNRESPONSIVE | ErrorCode::AGENT_COMMAND_TIMEOUT => {
                Self::Deadline
            }
            _ => otherwise,
        }
    }
}

/// A failed verb.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// No connection.
    #[error("cannot connect to {}", shown_uri(uri))]
    Connect { uri: String, source: libclient::Error },
    /// A question about the host or about all domains failed.
    #[error("cannot {what}")]
    Ask { what: &'static str, source: libclient::Error },
    /// A call failed that has not been named yet: see [`CliError::of_domain`] and [`CliError::of_host`].
    #[error("a call failed")]
    Call { source: libclient::Error },
    /// No domain answers to the text.
    #[error("cannot find domain '{name}'")]
    Find { name: String, source: libclient::Error },
    /// A call on one domain failed.
    #[error("cannot {what} domain '{name}'")]
    Domain { what: &'static str, name: String, source: libclient::Error },
    /// A document was refused.
    #[error("cannot {what} a domain from {from}")]
    Document { what: &'static str, from: String, source: libclient::Error },
    /// A document could not be understood, before anyone was asked.
    #[error("{from} holds no domain that Bulkhead can read")]
    Parse { from: String, source: model::XmlError },
    /// A document that must be understood as a whole is not.
    #[error("{from} holds {count} thing(s) that are understood nowhere")]
    NotUnderstood { from: String, count: usize },
    /// A document could not be read.
    #[error("cannot read {from}")]
    Read { from: String, source: io::Error },
    /// A document is larger than any that is accepted.
    #[error("{from} is larger than {limit} bytes, the most that a document may have")]
    TooLarge { from: String, limit: u64 },
    /// The console was taken while we were attached.
    #[error("the console of domain '{name}' was closed while the domain goes on running")]
    ConsoleTaken { name: String },
    /// Bytes could not be copied between console and terminal.
    #[error("cannot go on with the console of domain '{name}'")]
    Attach { name: String, source: io::Error },
    /// `event` waited in vain.
    #[error("no event came within {seconds} s")]
    NoEvent { seconds: f64 },
    /// A file of a guest to run cannot be used.
    #[error("cannot use the {role} '{}'", path.display())]
    GuestFile { role: &'static str, path: PathBuf, source: io::Error },
    /// A path of a guest to run is no file.
    #[error("the {role} '{}' is no regular file and no block device", path.display())]
    NoFile { role: &'static str, path: PathBuf },
    /// A qcow2 disk names another file, which only its owner can vouch for.
    #[error("the disk '{}' is a qcow2 image that names another file", path.display())]
    ForeignBacking { path: PathBuf },
    /// The gateway cannot be started.
    #[error("cannot start the program 'gateway'")]
    Gateway { source: io::Error },
    /// The gateway's program is not found.
    #[error("cannot start the program 'gateway'")]
    NoProgram { source: ipc::programs::NotFound },
    /// A gateway has the guests of one of two instances behind it.
    #[error("no gateway can serve '{uri}'")]
    NoGateway { uri: String },
    /// A name for a guest that no guest may have.
    #[error("'{name}' cannot be the name of a domain: {reason}")]
    BadName { name: String, reason: String },
    /// `run` would have replaced a definition.
    #[error("there is a domain '{name}' already")]
    Exists { name: String },
    /// KVM was asked for and cannot be used.
    #[error("KVM cannot be used: {reason}")]
    NoKvm { reason: String },
    /// Writing what was asked for.
    #[error("cannot write to the standard output")]
    Output { source: io::Error },
    /// There is no help on it.
    #[error("there is no verb and no group of verbs '{topic}'")]
    NoTopic { topic: String },
    /// There is nothing to translate.
    #[error("neither a domain nor a document is given")]
    NoDocument,
    /// The editor, or its file, failed.
    #[error("cannot edit the definition")]
    Edit { source: io::Error },
    /// One terminal shows one console.
    #[error("--console goes with one domain only")]
    ManyConsoles,
    /// The driver sent a document that cannot be read.
    #[error("the driver's document holds nothing that Bulkhead can read")]
    Strange { source: roxmltree::Error },
    /// Failures that have been shown already.
    #[error("not every domain could be dealt with")]
    Reported { kind: Kind },
    /// A signal ended a console.
    #[error("ended by signal {number}")]
    Signal { number: i32 },
}

impl From<io::Error> for CliError {
    fn from(source: io::Error) -> Self {
        Self::Output { source }
    }
}

impl From<libclient::Error> for CliError {
    fn from(source: libclient::Error) -> Self {
        Self::Call { source }
    }
}

fn shown_uri(uri: &str) -> String {
    if uri.is_empty() { "the default URI".to_owned() } else { format!("'{uri}'") }
}

impl CliError {
    /// Says of a call that failed what was tried with which domain.
    pub(crate) fn of_domain(self, what: &'static str, domain: &libclient::Domain) -> Self {
        match self {
            Self::Call { source } => Self::Domain { what, name: domain.name().to_owned(), source },
            other => other,
        }
    }

    /// Says of a call that failed what was tried.
    pub(crate) fn of_host(self, what: &'static str) -> Self {
        match self {
            Self::Call { source } => Self::Ask { what, source },
            other => other,
        }
    }

    /// The kind, which is the exit code.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Connect { source, .. } => match Kind::of(source, Kind::Connect) {
                Kind::NotFound => Kind::Connect,
                kind => kind,
            },
            Self::Find { source, .. } => Kind::of(source, Kind::Failed),
            Self::Call { source }
            | Self::Ask { source, .. }
            | Self::Domain { source, .. }
            | Self::Document { source, .. } => Kind::of(source, Kind::Failed),
            Self::Reported { kind } => *kind,
            Self::NoEvent { .. } => Kind::Deadline,
            Self::BadName { .. }
            | Self::NoGateway { .. }
            | Self::NoTopic { .. }
            | Self::ManyConsoles
            | Self::NoDocument => Kind::Usage,
            _ => Kind::Failed,
        }
    }

    /// Shows the failure on the standard error and gives the exit code.
    pub(crate) fn report(&self, format: Format) -> u8 {
        match self {
            // The reader of the pipe has closed it on purpose.
            Self::Output { source } if source.kind() == ErrorKind::BrokenPipe => return 0,
            Self::Reported { kind } => return kind.exit_code(),
            Self::Signal { number } => {
                // The terminal is restored by now, so the shell may see the death that the sender wanted.
                let _ = signal_hook::low_level::emulate_default_handler(*number);
                return Kind::Failed.exit_code();
            }
            _ => {}
        }
        let shown = Shown::of(self);
        match format {
            Format::Table => shown.tell_lines(),
            Format::Json => shown.tell_json(),
        }
        self.kind().exit_code()
    }

    fn library_error(&self) -> Option<&libclient::Error> {
        match self {
            Self::Connect { source, .. }
            | Self::Call { source }
            | Self::Ask { source, .. }
            | Self::Find { source, .. }
            | Self::Domain { source, .. }
            | Self::Document { source, .. } => Some(source),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        if let Some(hint) = self.library_error().and_then(|error| error.hint.clone()) {
            return Some(hint);
        }
        if let Self::Parse { source, .. } = self {
            return source.hint();
        }
        let hint = match self {
            Self::Find { source, .. } if source.code == ErrorCode::NO_DOMAIN => {
                "'bulkhead list --all' shows every domain"
            }
            Self::ConsoleTaken { .. } => "another client may have taken it; 'bulkhead console --force' takes it back",
            Self::ForeignBacking { .. } => {
                "chains of images are not supported yet: make one image of it with 'qemu-img convert -O qcow2 OLD NEW'"
            }
            Self::Exists { .. } => "choose another --name, or 'bulkhead start' the one that is there",
            Self::Gateway { .. } | Self::NoProgram { .. } => "it is installed beside qemud, or beside this program",
            Self::NoGateway { .. } => "-c qemu:///system and -c qemu:///session are possible",
            Self::NoTopic { .. } => "'bulkhead help' lists them",
            Self::NoKvm { .. } => "'--accel tcg' emulates the processor",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// What is below the message, outermost first.
    fn causes(&self) -> Vec<String> {
        if let Some(error) = self.library_error() {
            return std::iter::once(&error.message).chain(&error.causes).cloned().collect();
        }
        let mut causes = Vec::new();
        let mut next = self.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        causes
    }
}

/// A failure as it is shown. The fields are the JSON form's.
#[derive(Serialize)]
struct Shown {
    kind: Kind,
    exit_code: u8,
    /// libvirt's number of the error, when the library says one.
    code: Option<i32>,
    /// libvirt's number of the part that failed.
    domain: Option<i32>,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
}

#[derive(Serialize)]
struct JsonError<'a> {
    error: &'a Shown,
}

impl Shown {
    fn of(error: &CliError) -> Self {
        let message = error.to_string();
        let mut causes = error.causes();
        // The library may have said the same already.
        causes.retain(|cause| *cause != message);
        causes.dedup();
        let library = error.library_error();
        Self {
            kind: error.kind(),
            exit_code: error.kind().exit_code(),
            code: library.map(|error| error.code.0),
            domain: library.map(|error| error.domain.0),
            message,
            causes,
            hint: error.hint(),
        }
    }

    fn tell_lines(&self) {
        let mut lines = format!("error: {}", self.message);
        for cause in &self.causes {
            lines.push_str("\n  caused by: ");
            lines.push_str(&cause.trim_end().replace('\n', "\n    "));
        }
        if let Some(hint) = &self.hint {
            lines.push_str("\n  hint: ");
            lines.push_str(hint);
        }
        tell(lines);
    }

    fn tell_json(&self) {
        match serde_json::to_string(&JsonError { error: self }) {
            Ok(json) => tell(json),
            Err(_) => self.tell_lines(),
        }
    }
}

/// Shows what the parser says: help and version on the standard output, a refusal on the standard error.
pub(crate) fn report_usage(refusal: &clap::Error, format: Format) -> u8 {
    if !refusal.use_stderr() {
        // A closed pipe is no failure here either.
        let _ = refusal.print();
        return 0;
    }
    if format == Format::Table {
        let _ = refusal.print();
        return Kind::Usage.exit_code();
    }
    let text = refusal.to_string();
    let mut parts = text.trim_end().split("\n\n").map(str::trim);
    let message = parts.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let hint = parts.next().map(|part| part.trim_start_matches("tip: ").to_owned());
    let shown = Shown {
        kind: Kind::Usage,
        exit_code: Kind::Usage.exit_code(),
        code: None,
        domain: None,
        message,
        causes: Vec::new(),
        hint,
    };
    shown.tell_json();
    Kind::Usage.exit_code()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_read_shows_the_system_s_words_as_the_cause() {
        let source = io::Error::from_raw_os_error(2);
        let shown = Shown::of(&CliError::Read { from: "'x.xml'".to_owned(), source });
        assert_eq!(shown.message, "cannot read 'x.xml'");
        assert_eq!(shown.causes, ["No such file or directory (os error 2)"]);
        assert_eq!(shown.exit_code, 1);
    }

    #[test]
    fn a_broken_pipe_is_no_failure() {
        let error = CliError::from(io::Error::from(ErrorKind::BrokenPipe));
        assert_eq!(error.report(Format::Table), 0);
    }

    #[test]
    fn a_deadline_has_an_exit_code_of_its_own() {
        assert_eq!(CliError::NoEvent { seconds: 0.5 }.kind().exit_code(), 6);
    }
}
