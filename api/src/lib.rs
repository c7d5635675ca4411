//! Every operation, described once.
//!
//! libvirt's front end stood over drivers that each filled in a part of one table of functions. This crate is that
//! table: `api/table/*.api` describe each call and event of libvirt's remote, qemu and lxc programs and of Bulkhead's
//! own (number, family, arguments, reply, read-only rule, access names, stream, descriptors, and which of libvirt's drivers
//! answer it), and the build makes from them
//!
//! - the types that travel ([`remote`], [`qemu`], [`lxc`], [`bulkhead`]), with serde for our own protocol and
//!   [`xdr::Xdr`] for libvirt's, and [`Bounded`] for the limits that hold in both;
//! - [`Op`] and its [`OpInfo`], the carriers [`Call`], [`Reply`] and [`Event`], and [`ReadCall`] for the edges that may
//!   only read;
//! - a trait for each family with a method per call ([`NetworkOps`], [`SecretOps`], …; a [`Driver`] has them all), and
//!   [`dispatch`] to them;
//! - with [`check_access`], the one place where the read-only rule is applied;
//! - [`none`], what a driver answers that has nothing of a [`Family`].
//!
//! It stands at the bottom of the house: `ipc` carries these types with its codec, `wire` with XDR, and the drivers
//! answer them. It opens nothing, talks to nobody and holds no state; a peer's bytes reach it, so nothing in it may
//! panic or reserve memory by a number that a peer sent.
//!
//! # Adding an operation
//!
//! 1. Add one row to `table/bulkhead.api` with the next number, below its `family` or with one of its own. (The other tables
//!    are libvirt's: a row comes only when libvirt has it.)
//! 2. Write the method of that name, of its family's trait, in the driver that answers it. A driver that has nothing of the family answers by
//!    [`none`], without a method.
//!
//! Nothing else: clients, codecs, the gateway and the read-only edge have it from the table, and every other driver
//! says that it does not support it. A row that is wrong (a number taken or skipped, an unknown type, a missing rule)
//! ends the build with its file and line. A released row never changes.
//!
//! # The table
//!
//! A row starts in the first column, an indented line carries it on, `#` is a comment and `##` documentation of the row
//! below.
//!
//! ```text
//! program NAME NUMBER version N
//! const NAME = NUMBER
//! enum NAME { name = N, ... }
//! struct NAME { field: TYPE, ... }
//! union NAME { N name: TYPE, ... }
//! call N NAME(field: TYPE, ...) -> (field: TYPE, ...)  RULES
//! event N NAME(field: TYPE, ...)  RULES
//! ```
//!
//! The head of `table/remote.api` explains types and rules. `call 9 domain_create(...)` of program `remote` becomes
//! [`remote::DomainCreateArgs`], [`Op::DomainCreate`], [`Call::DomainCreate`] and [`DomainOps::domain_create`]; a call
//! that answers something has a `Ret` beside its `Args`. The names of other programs' operations begin with the program:
//! [`Op::QemuDomainAttach`], [`DomainOps::bulkhead_list_domains`].
//!
//! # A driver
//!
//! ```
//! use api::{Answer, Call, ConnectOps, Driver, Outcome, Reply, dispatch, no_operations, remote};
//!
//! struct Quiet;
//!
//! impl Driver for Quiet {
//!     type Context = ();
//!     fn driver_name(&self) -> &'static str {
//!         "Quiet"
//!     }
//! }
//!
//! impl ConnectOps for Quiet {
//!     fn connect_get_type(
//!         &mut self,
//!         _: &mut (),
//!         _: remote::ConnectGetTypeArgs,
//!     ) -> Answer<remote::ConnectGetTypeRet> {
//!         Ok(remote::ConnectGetTypeRet { r#type: "Quiet".to_owned() }.into())
//!     }
//! }
//!
//! no_operations!(
//!     Quiet: DomainOps, DomainAgentOps, DomainBlockOps, DomainDeviceOps, DomainEventOps, DomainMigrationOps, DomainMonitorOps,
//!     DomainSecurityOps, DomainStatsOps, DomainTuningOps, DomainCheckpointOps, DomainSnapshotOps, InterfaceOps, NetworkOps,
//!     NetworkPortOps, NodeOps, NodeDeviceOps, NwfilterOps, NwfilterBindingOps, SecretOps, StoragePoolOps, StorageVolOps,
//! );
//!
//! let answer = dispatch(&mut Quiet, &mut (), Call::ConnectGetType(remote::ConnectGetTypeArgs));
//! assert!(matches!(answer, Ok(Outcome::Ready(Reply::ConnectGetType(_)))));
//! let answer = dispatch(&mut Quiet, &mut (), Call::ConnectGetUri(remote::ConnectGetUriArgs));
//! assert_eq!(answer.unwrap_err().code, api::ErrorCode::NO_SUPPORT);
//! ```

#![forbid(unsafe_code)]

#[cfg(any(test, feature = "arbitrary"))]
pub mod arbitrary;
pub mod chars;
mod codec;
pub mod consts;
mod driver;
mod error;
mod family;
mod limits;
pub mod look;
mod none;
pub mod notice;
mod op;
pub mod params;
pub mod xdr;

pub use codec::{Decoder, Encoder};
pub use driver::*;
pub use error::{Causes, Error, ErrorCode, ErrorDomain, Level, printable};
pub use family::Family;
pub use limits::{Bounded, LimitError};
pub use none::none;
pub use op::{
    Access, Call, Event, EventId, FdCount, MayWrite, Op, OpInfo, OpKind, Operation, ReadCall, Readable, Reply, Stream,
    check_access,
};

/// A uuid as it travels: 16 bytes.
pub type Uuid = [u8; 16];

/// Brings in what the build made of one table.
macro_rules! program {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub mod $name {
            use serde::{Deserialize, Serialize};

            #[allow(unused_imports)] // Not every program needs all of them.
            use crate::limits::{self, Bounded, LimitError};
            #[allow(unused_imports)] // As above.
            use crate::{Uuid, xdr::{Decoder, Encoder, Xdr, XdrError}};

            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
        }
    };
}

program! {
    /// Types of libvirt's remote program.
    remote
}
program! {
    /// Types of libvirt's qemu program.
    qemu
}
program! {
    /// Types of libvirt's lxc program.
    lxc
}
program! {
    /// Types of Bulkhead's own program.
    bulkhead
}

#[cfg(test)]
mod tests {
    mod access;
    mod codecs;
    mod dispatch;
    mod errors;
    mod golden;
    mod table;
}
