//! Bulkhead's client library: connections, domains, events, consoles.
//!
//! ```
//! use libclient::{Connection, CreateFlags, DestroyFlags, State};
//!
//! let connection = Connection::open("test:///default")?;
//! let domain = connection.domain("test")?;
//! domain.destroy(DestroyFlags::empty())?;
//! assert_eq!(domain.state()?.0, State::Shutoff);
//! domain.start(CreateFlags::PAUSED)?;
//! domain.resume()?;
//! assert_eq!(domain.state()?.0, State::Running);
//! # Ok::<(), libclient::Error>(())
//! ```
//!
//! It is what programs hold: `cli`, and later the Python binding and the gateway, stand on it; below it are [`api`] (what
//! can be asked), `ipc` (how it travels) and `model` (what a document says). It runs in the caller's process with the
//! caller's rights, so it must never need others: it opens a guest's files itself and hands the descriptors over, and what
//! the caller may not open stays closed.
//!
//! # Drivers
//! | URI | driver |
//! |---|---|
//! | `qemu:///system`, `qemu:///session` | every call goes to qemud over one socket; for a session, qemud is started when it is not there |
//! | `test:///default`, `test:///FILE.xml` | a mock hypervisor in this process with a state of its own for each connection |
//!
//! # Errors
//! Everything that fails fails with an [`Error`]: libvirt's `code` for programs, a message, the chain of causes and often a
//! hint for people.
//!
//! | code | when |
//! |---|---|
//! | [`ErrorCode::INVALID_ARG`] | the caller passed something that cannot be meant |
//! | [`ErrorCode::NO_CONNECT`] | no driver serves the URI |
//! | [`ErrorCode::SYSTEM_ERROR`] | the system refused: a socket, a file, a daemon that does not start |
//! | [`ErrorCode::RPC`] | the connection was lost, or the other side is no qemud that we know |
//! | [`ErrorCode::OPERATION_TIMEOUT`] | there is no answer |
//! | [`ErrorCode::OPERATION_DENIED`] | the connection is read-only |
//! | [`ErrorCode::NO_SUPPORT`] | the driver does not have the operation |
//! | [`ErrorCode::NO_DOMAIN`] | there is no such domain |
//! | [`ErrorCode::OPERATION_INVALID`] | not in this state |
//! | [`ErrorCode::OPERATION_FAILED`] | in this state, but it did not work |
//! | [`ErrorCode::XML_ERROR`], [`ErrorCode::XML_DETAIL`] | the document is not understood |
//!
//! # Threads and loops
//! Everything is synchronous and may be used by several threads at once; no thread is started behind the caller's back but
//! for the echo of the mock hypervisor's consoles. A
//! program with an event loop of its own hands it in as an [`event::EventImpl`]; one without uses
//! [`event::DefaultLoop`]; one that only waits for events uses [`Connection::subscribe`].
#![forbid(unsafe_code)]

pub use api;

pub use api::{
    Error, ErrorCode, ErrorDomain,
    consts::{ConsoleFlags, CreateFlags, DefineFlags, DestroyFlags, ListDomains as ListFlags, UndefineFlags, XmlFlags},
};
pub use callbacks::CallbackId;
pub use connection::Connection;
pub use console::ConsoleStream;
pub use domain::Domain;
pub use stream::EventStream;
pub use types::{DomainEvent, DomainInfo, DomainRecord, EventDetail, EventKind, GuestInfo, NodeInfo, Reason, State};
pub use uri::Uri;
pub use uuid::Uuid;

mod callbacks;
mod connection;
mod console;
mod dial;
mod domain;
mod error;
pub mod event;
#[cfg(test)]
mod fake_qemud;
mod link;
mod qemu;
mod sources;
mod stream;
mod test_driver;
mod types;
mod uri;
mod wait;

/// What every call gives: a value or an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
