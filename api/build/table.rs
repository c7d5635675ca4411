//! What a table says, once read.

use std::fmt;

/// A mistake in a table, and where it stands.
#[derive(Debug)]
pub struct Fault {
    file: String,
    line: usize,
    text: String,
}

impl Fault {
    pub fn new(file: &str, line: usize, text: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, text: text.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "api/{}:{}: {}", self.file, self.line, self.text)
    }
}

/// One table: a program and all that belongs to it.
#[derive(Debug)]
pub struct Program {
    pub file: String,
    pub name: String,
    pub number: u32,
    pub version: u32,
    pub consts: Vec<Const>,
    pub types: Vec<TypeDef>,
    pub ops: Vec<Op>,
}

#[derive(Clone, Debug)]
pub struct Const {
    pub name: String,
    pub value: u64,
    pub line: usize,
}

/// A row that makes a type.
#[derive(Debug)]
pub struct TypeDef {
    pub name: String,
    pub docs: Vec<String>,
    pub line: usize,
    pub body: TypeBody,
}

#[derive(Debug)]
pub enum TypeBody {
    Struct(Vec<Field>),
    Union(Vec<Arm>),
    Enum(Vec<(String, i32)>),
}

#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    pub ty: Type,
}

#[derive(Debug)]
pub struct Arm {
    pub number: i32,
    pub name: String,
    pub ty: Type,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// A number or a truth value, by its name in the table.
    Scalar(Scalar),
    Uuid,
    String(u64),
    Opaque(u64),
    List(Box<Type>, u64),
    Exact(Box<Type>, u64),
    Optional(Box<Type>),
    Named {
        program: String,
        name: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    Int,
    Uint,
    Hyper,
    Uhyper,
    Double,
    Bool,
    Char,
    Uchar,
    Short,
    Ushort,
}

/// A call or an event.
#[derive(Debug)]
pub struct Op {
    pub number: u32,
    pub name: String,
    pub docs: Vec<String>,
    pub line: usize,
    /// Arguments of a call, message of an event.
    pub args: Vec<Field>,
    pub since: String,
    /// The family of objects that a call is about; an event has it by its id.
    pub family: String,
    /// The part of a family that is too large for one trait; empty for the rest of it.
    pub part: String,
    pub detail: Detail,
}

#[derive(Debug)]
pub enum Detail {
    Call(Box<Call>),
    Event(Option<EventId>),
}

/// The rules of a call.
#[derive(Debug, Default)]
pub struct Call {
    pub ret: Vec<Field>,
    pub access: Option<Access>,
    pub acl: Vec<String>,
    /// `acl=none` stands in the row: nobody is asked, and that is meant.
    pub acl_none: bool,
    pub filter: Option<String>,
    pub high: bool,
    pub no_auth: bool,
    pub stream: Option<String>,
    pub sparse: Option<u64>,
    pub fds_in: (u16, u16),
    pub fds_out: (u16, u16),
    pub api: Option<String>,
    /// The bits of `flags` that libvirt knows.
    pub flags: Option<u64>,
    pub none: Option<OfNone>,
    /// libvirt's drivers that answer it.
    pub libvirt: Vec<String>,
}

/// What a driver answers that has nothing of the call's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfNone {
    /// No entry, a count of 0, "no".
    Empty,
    /// That the object is not there.
    Missing,
}

/// What a read-only connection may do.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    Read,
    Write,
    /// Denied when any of these bits of the field is set.
    WriteIfBits {
        field: String,
        mask: u64,
    },
    /// Denied when the field has this value.
    WriteIfValue {
        field: String,
        value: u64,
    },
}

/// The number that clients register for.
#[derive(Debug, PartialEq)]
pub struct EventId {
    pub family: String,
    pub number: i32,
    pub legacy: bool,
}

impl Op {
    pub fn call(&self) -> Option<&Call> {
        match &self.detail {
            Detail::Call(call) => Some(call),
            Detail::Event(_) => None,
        }
    }
}

impl Program {
    /// The calls, in the order of their numbers.
    pub fn calls(&self) -> impl Iterator<Item = (&Op, &Call)> {
        self.ops.iter().filter_map(|op| op.call().map(|call| (op, call)))
    }

    /// The events, in the order of their numbers.
    pub fn events(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(|op| op.call().is_none())
    }
}
