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
//! It is what programs hold: `cli`, the gateway (by [`driven`]) and later the Python binding stand on it; below it are
//! [`api`] (what can be asked), `ipc` and `wire` (how it travels: Bulkhead's protocol and libvirt's) and `model` (what a
//! document says). It runs in the caller's process with the
//! caller's rights, so it must never need others: it opens a guest's files itself and hands the descriptors over, and what
//! the caller may not open stays closed.
//!
//! # Drivers
//! | URI | driver |
//! |---|---|
//! | `qemu:///system`, `qemu:///session` | every call goes to qemud over one socket; for a session, qemud is started when it is not there |
//! | `test:///default`, `test:///FILE.xml` | a mock hypervisor in this process with a state of its own for each connection ([`mock`] is one for many) |
//! | `DRIVER+WAY://[user@][host][:port]/path?parameters` | any driver of a daemon that speaks libvirt's protocol: libvirt's own, or Bulkhead's gateway |
//!
//! | way | parameters |
//! |---|---|
//! | `unix` | `socket=PATH`, or `mode=auto`, `legacy`, `direct` among libvirt's sockets on this host |
//! | `ssh` | the system's ssh; `keyfile=`, `no_verify=1`, `no_tty=1`, `command=` (instead of `ssh`), `socket=`, `netcat=`, `proxy=auto`, `netcat`, `native` |
//! | `tls` (also when there is only a host) | `pkipath=DIR`, `no_verify=1`; otherwise certificates where libvirt keeps them |
//! | `tcp` | encrypted by the ticket of who logs in with one (below); else plain, for networks that nobody else is on: a password does not travel, everything else does |
//! | `ext` | `command=PROGRAM`, whose standard streams are the connection |
//!
//! `name=` is what the far side is asked to open instead of the URI without its way, `authfile=` a file of names and
//! passwords, and `auth=sasl.MECHANISM` allows that one mechanism only. With the crate's feature `gssapi` who has a Kerberos
//! ticket logs in by it (SASL's GSSAPI) wherever the far side offers that, else by name and password (SCRAM-SHA-256); the
//! Kerberos library may ask the realm's servers meanwhile, and [`Connection::open`] takes as long as they do.
//!
//! A connection that is lost is made again by the next call, a listener's by itself; Bulkhead's daemons then tell
//! what was missed, libvirt's cannot, and [`EventStream::lost`] says so.
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
//! | [`ErrorCode::RPC`] | the connection was lost, or the other side is no daemon that we know |
//! | [`ErrorCode::OPERATION_TIMEOUT`] | there is no answer |
//! | [`ErrorCode::AUTH_FAILED`] | the daemon does not let this user in, or wants a password that nobody gave |
//! | [`ErrorCode::OPERATION_DENIED`] | the connection is read-only |
//! | [`ErrorCode::NO_SUPPORT`] | the driver does not have the operation |
//! | [`ErrorCode::NO_DOMAIN`] | there is no such domain |
//! | [`ErrorCode::OPERATION_INVALID`] | not in this state |
//! | [`ErrorCode::OPERATION_FAILED`] | in this state, but it did not work |
//! | [`ErrorCode::XML_ERROR`], [`ErrorCode::XML_DETAIL`] | the document is not understood |
//!
//! # Threads and loops
//! Everything is synchronous and may be used by several threads at once; no thread is started behind the caller's back but
//! for the echo of the mock hypervisor's consoles and while a listener connects again. A
//! program with an event loop of its own hands it in as an [`event::EventImpl`]; one without uses
//! [`event::DefaultLoop`]; one that only waits for events uses [`Connection::subscribe`].
#![forbid(unsafe_code)]

pub use api;

pub use api::{
    Error, ErrorCode, ErrorDomain,
    consts::{ConsoleFlags, CreateFlags, DefineFlags, DestroyFlags, ListDomains as ListFlags, UndefineFlags, XmlFlags},
    notice::Notice,
};
pub use callbacks::CallbackId;
pub use connection::Connection;
pub use console::ConsoleStream;
pub use domain::Domain;
pub use handles::{
    DomainCheckpoint, DomainSnapshot, Interface, Network, NetworkPort, NodeDevice, NwFilter, NwFilterBinding, Secret,
    StoragePool, StorageVol,
};
pub use remote::{Question, local_socket};
pub use stream::EventStream;
pub use types::{DomainEvent, DomainInfo, DomainRecord, EventDetail, EventKind, GuestInfo, NodeInfo, Reason, State};
pub use uri::Uri;
pub use uuid::Uuid;

pub use test_driver::mock;

#[cfg(test)]
mod awaited;
mod callbacks;
mod connection;
mod console;
mod dial;
mod domain;
pub mod driven;
mod error;
pub mod event;
#[cfg(test)]
mod fake_libvirtd;
#[cfg(test)]
mod fake_qemud;
mod handles;
mod libvirt_conf;
mod link;
mod numbers;
mod qemu;
mod redial;
mod remote;
mod sources;
mod stream;
mod test_driver;
mod types;
mod uri;
mod wait;
mod watch;

/// What every call gives: a value or an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
