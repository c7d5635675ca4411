//! The operations, what the table says of each, and what carries them.

use std::fmt;
use std::ops::Deref;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Decoder, Encoder};
use crate::error::Error;
use crate::family::Family;
use crate::limits::Bounded;
use crate::xdr::Xdr;

/// What the table says of an operation.
#[derive(Debug)]
pub struct OpInfo {
    /// The program's number.
    pub program: u32,
    /// The operation's number in it.
    pub procedure: u32,
    /// The row's name, after the program's if that is not remote: `domain_create`, `qemu_domain_attach`.
    pub name: &'static str,
    /// The function of libvirt's API, as error texts name it. Events and login calls have none: here is their own name.
    pub api: &'static str,
    /// The release that brought it.
    pub since: &'static str,
    /// What it is about.
    pub family: Family,
    /// Call or event.
    pub kind: OpKind,
    /// What a read-only connection may do with it.
    pub access: Access,
    /// Is it refused before login?
    pub needs_auth: bool,
    /// `object:permission` with an optional `:condition`; all are needed whose condition holds.
    pub acl: &'static [&'static str],
    /// The permission by which the entries of its list are filtered.
    pub acl_filter: Option<&'static str>,
    /// Does it never wait for a guest?
    pub high_priority: bool,
    /// The stream that it opens.
    pub stream: Option<Stream>,
    /// The bit of `flags` that allows holes in that stream.
    pub sparse_flag: Option<u32>,
    /// The bits of `flags` that libvirt knows, where the table names them.
    pub flags: Option<u32>,
    /// The drivers of libvirt that answer it: `qemu` with those of its host's networks, pools and so on, `test`, `lxc`, `xen`.
    pub libvirt: &'static [&'static str],
    /// How many file descriptors come with the call.
    pub fds_in: FdCount,
    /// How many file descriptors come with the reply.
    pub fds_out: FdCount,
    /// What clients register for to get this event.
    pub event: Option<EventId>,
}

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// The client asks, and gets a reply.
    Call,
    /// The server tells.
    Event,
}

/// What a read-only connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The operation only reads.
    Read,
    /// The operation writes: it is denied.
    Write,
    /// Denied if any of these bits is set.
    WriteIfBits {
        /// The argument that holds them.
        field: &'static str,
        /// The bits.
        mask: u32,
    },
    /// Denied if an argument has this value.
    WriteIfValue {
        /// The argument.
        field: &'static str,
        /// The value.
        value: u32,
    },
}

/// Which way the bytes of a stream go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// From server to client.
    Read,
    /// From client to server.
    Write,
    /// Both ways.
    Both,
}

/// A range of counts of file descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdCount {
    /// At least so many.
    pub min: u16,
    /// At most so many.
    pub max: u16,
}

impl FdCount {
    /// No descriptor.
    pub const NONE: FdCount = FdCount { min: 0, max: 0 };

    /// Is this number of descriptors right?
    pub fn allows(self, count: usize) -> bool {
        (usize::from(self.min)..=usize::from(self.max)).contains(&count)
    }
}

/// The number that clients register for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    /// Numbers are counted for each family.
    pub family: Family,
    /// The number.
    pub id: i32,
    /// The old message, without a callback id, of those who registered the old way.
    pub legacy: bool,
}

/// Arguments of a call, and what leads from them to the rest of it.
pub trait Operation: Sized + Serialize + DeserializeOwned + Xdr + Bounded {
    /// What it answers.
    type Ret: Serialize + DeserializeOwned + Xdr + Bounded;
    /// Which operation it is.
    const OP: Op;
    /// The arguments as a call.
    fn into_call(self) -> Call;
    /// The answer out of a reply; `None` if the reply belongs to another operation.
    fn ret_of(reply: Reply) -> Option<Self::Ret>;
}

/// Arguments that make a call a writing one, or not.
pub trait MayWrite: Operation {
    /// Would the call do more than read?
    fn writes(&self) -> bool;
}

/// Arguments of which it is known that they do not make their call a writing one.
#[derive(Clone, Debug, PartialEq)]
pub struct Readable<A>(A);

impl<A: MayWrite> Readable<A> {
    /// Refuses arguments that would write.
    pub fn new(args: A) -> Result<Self, Error> {
        if args.writes() { Err(Error::read_only(A::OP)) } else { Ok(Self(args)) }
    }
}

impl<A> Readable<A> {
    /// The arguments.
    pub fn into_inner(self) -> A {
        self.0
    }
}

impl<A> Deref for Readable<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.0
    }
}

/// The read-only rule: fails for a call that a read-only connection may not make. This is its only place.
pub fn check_access(call: &Call, read_only: bool) -> Result<(), Error> {
    let writes = match call.op().info().access {
        Access::Read => false,
        Access::Write => true,
        Access::WriteIfBits { .. } | Access::WriteIfValue { .. } => meets_write_condition(call),
    };
    if read_only && writes { Err(Error::read_only(call.op())) } else { Ok(()) }
}

impl Op {
    /// What the table says of it.
    pub fn info(self) -> &'static OpInfo {
        &TABLE[self as usize]
    }

    /// The operation of these numbers, if there is one.
    pub fn from_wire(program: u32, procedure: u32) -> Option<Self> {
        let ops = PROGRAMS.iter().find(|known| known.program == program)?;
        let index = usize::try_from(procedure.checked_sub(1)?).ok()?;
        if index < ops.count { Self::ALL.get(ops.first + index).copied() } else { None }
    }
}

/// Its name in the table.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().name)
    }
}

/// Where the operations of a program stand in the table.
struct ProgramOps {
    program: u32,
    first: usize,
    count: usize,
}

include!(concat!(env!("OUT_DIR"), "/ops.rs"));
