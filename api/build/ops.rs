//! `Op` and its table, `Call`, `Reply`, `Event`, `ReadCall`, and the `Operation` of each call.

use std::fmt::Write;

use super::docs::{api_name, args_path, ident, ret_path, variant, what};
use super::table::{Access, Call, Detail, Op, Program};

/// The whole of `ops.rs`.
pub fn all(programs: &[Program]) -> String {
    [
        op_enum(programs),
        from_wire(programs),
        op_table(programs),
        carriers(programs),
        read_call(programs),
        conditions(programs),
        operations(programs),
    ]
    .concat()
}

fn each_op(programs: &[Program]) -> impl Iterator<Item = (&Program, &Op)> {
    programs.iter().flat_map(|program| program.ops.iter().map(move |op| (program, op)))
}

fn each_call(programs: &[Program]) -> impl Iterator<Item = (&Program, &Op, &Call)> {
    programs.iter().flat_map(|program| program.calls().map(move |(op, call)| (program, op, call)))
}

fn each_event(programs: &[Program]) -> impl Iterator<Item = (&Program, &Op)> {
    programs.iter().flat_map(|program| program.events().map(move |op| (program, op)))
}

fn op_enum(programs: &[Program]) -> String {
    let mut out = String::from(
        "/// Every operation of every program: calls and events.\n#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, \
         PartialOrd, Ord)]\n#[repr(u16)]\npub enum Op {\n",
    );
    let mut all = String::new();
    for (program, op) in each_op(programs) {
        let name = variant(program, op);
        let kind = if op.call().is_some() { "Call" } else { "Event" };
        let _ = writeln!(out, "    /// {kind} {}.\n    {name},", what(program, op));
        let _ = writeln!(all, "        Op::{name},");
    }
    let count = each_op(programs).count();
    let _ = writeln!(
        out,
        "}}\nimpl Op {{\n    /// All of them, by program and number.\n    pub const ALL: [Op; {count}] = \
         [\n{all}    ];\n}}"
    );
    out
}

/// Numbers of a program begin at 1 and leave no hole, so the number leads to the operation by plain arithmetic.
fn from_wire(programs: &[Program]) -> String {
    let mut rows = String::new();
    let mut first = 0;
    for program in programs {
        let _ = writeln!(
            rows,
            "    ProgramOps {{ program: crate::{}::PROGRAM, first: {first}, count: {} }},",
            program.name,
            program.ops.len()
        );
        first += program.ops.len();
    }
    format!("static PROGRAMS: [ProgramOps; {}] = [\n{rows}];\n", programs.len())
}

fn op_table(programs: &[Program]) -> String {
    let count = each_op(programs).count();
    let mut out = format!("static TABLE: [OpInfo; {count}] = [\n");
    for (program, op) in each_op(programs) {
        let _ = writeln!(
            out,
            "    OpInfo {{ program: crate::{}::PROGRAM, procedure: {}, name: {:?}, api: {:?}, since: {:?}, family: {}, {} }},",
            program.name,
            op.number,
            super::docs::method(program, op),
            api_name(program, op),
            op.since,
            family(op),
            op_rules(op)
        );
    }
    out + "];\n"
}

/// The family in Rust; events that no client registers for are the connection's.
fn family(op: &Op) -> String {
    let name = if op.family.is_empty() { "connect" } else { &op.family };
    format!("Family::{}", super::docs::camel(name))
}

fn op_rules(op: &Op) -> String {
    match &op.detail {
        Detail::Call(call) => format!(
            "kind: OpKind::Call, access: {}, needs_auth: {}, acl: &{:?}, acl_filter: {:?}, high_priority: {}, stream: \
             {}, sparse_flag: {}, flags: {:?}, libvirt: &{:?}, fds_in: FdCount {{ min: {}, max: {} }}, fds_out: FdCount {{ min: {}, max: {} }}, \
             event: None",
            access(call.access.as_ref()),
            !call.no_auth,
            call.acl,
            call.filter,
            call.high,
            stream(call.stream.as_deref()),
            call.sparse.map_or("None".to_owned(), |flag| format!("Some({flag})")),
            call.flags,
            call.libvirt,
            call.fds_in.0,
            call.fds_in.1,
            call.fds_out.0,
            call.fds_out.1,
        ),
        Detail::Event(id) => {
            let id = id.as_ref().map_or("None".to_owned(), |id| {
                let family = super::docs::camel(&id.family);
                format!("Some(EventId {{ family: Family::{family}, id: {}, legacy: {} }})", id.number, id.legacy)
            });
            format!(
                "kind: OpKind::Event, access: Access::Read, needs_auth: true, acl: &[], acl_filter: None, \
                 high_priority: false, stream: None, sparse_flag: None, flags: None, libvirt: &[], fds_in: FdCount::NONE, fds_out: FdCount::NONE, \
                 event: {id}"
            )
        }
    }
}

fn access(access: Option<&Access>) -> String {
    match access {
        Some(Access::Read) => "Access::Read".to_owned(),
        Some(Access::WriteIfBits { field, mask }) => {
            format!("Access::WriteIfBits {{ field: {field:?}, mask: {mask} }}")
        }
        Some(Access::WriteIfValue { field, value }) => {
            format!("Access::WriteIfValue {{ field: {field:?}, value: {value} }}")
        }
        Some(Access::Write) | None => "Access::Write".to_owned(),
    }
}

fn stream(stream: Option<&str>) -> &'static str {
    match stream {
        Some("read") => "Some(Stream::Read)",
        Some("write") => "Some(Stream::Write)",
        Some(_) => "Some(Stream::Both)",
        None => "None",
    }
}

/// The three enums that hold what travels.
fn carriers(programs: &[Program]) -> String {
    let calls: Vec<Arm> = each_call(programs)
        .map(|(program, op, _)| Arm {
            name: variant(program, op),
            payload: args_path(program, op),
            doc: what(program, op),
        })
        .collect();
    let replies: Vec<Arm> = each_call(programs)
        .map(|(program, op, _)| Arm {
            name: variant(program, op),
            payload: ret_path(program, op),
            doc: format!("Of {}", what(program, op)),
        })
        .collect();
    let events: Vec<Arm> = each_event(programs)
        .map(|(program, op)| Arm {
            name: variant(program, op),
            payload: args_path(program, op),
            doc: what(program, op),
        })
        .collect();
    [
        carrier("Call", "A call with its arguments.", &calls),
        carrier("Reply", "What a call that succeeded answers.", &replies),
        carrier("Event", "Something that the server tells by itself.", &events),
    ]
    .concat()
}

/// A variant of a carrier.
struct Arm {
    name: String,
    payload: String,
    doc: String,
}

fn carrier(name: &str, doc: &str, arms: &[Arm]) -> String {
    let (mut body, mut op, mut encode, mut decode) = (String::new(), String::new(), String::new(), String::new());
    for arm in arms {
        let variant = &arm.name;
        let payload = if arm.payload == "()" { "()".to_owned() } else { format!("crate::{}", arm.payload) };
        let _ = writeln!(body, "    /// {}.\n    {variant}({payload}),", arm.doc);
        let _ = writeln!(op, "            Self::{variant}(_) => Op::{variant},");
        let _ = writeln!(encode, "            Self::{variant}(value) => out.put(value),");
        let _ = writeln!(decode, "            Op::{variant} => Self::{variant}(input.get()?),");
    }
    format!(
        "/// {doc}\n#[derive(Clone, Debug, PartialEq)]\n#[allow(clippy::large_enum_variant)] // One at a time, and \
         moved, never stored in bulk.\npub enum {name} {{\n{body}}}\n\
         impl {name} {{\n    \
         /// Which operation it belongs to.\n    pub fn op(&self) -> Op {{\n        match self {{\n{op}        }}\n    \
         }}\n    \
         /// Writes what it holds; the operation itself is not written.\n    \
         pub fn encode<E: Encoder>(&self, out: &mut E) -> Result<(), E::Error> {{\n        match self \
         {{\n{encode}        }}\n    }}\n    \
         /// Reads what belongs to `op`; `None` if the operation has no such thing.\n    \
         pub fn decode<D: Decoder>(op: Op, input: &mut D) -> Result<Option<Self>, D::Error> {{\n        \
         Ok(Some(match op {{\n{decode}            _ => return Ok(None),\n        }}))\n    }}\n}}\n"
    )
}

/// The calls that a read-only edge may carry. A call that only some arguments make a writing one is wrapped, so that
/// those arguments can't stand in it.
fn read_call(programs: &[Program]) -> String {
    let (mut body, mut from, mut into, mut op_arms) = (String::new(), String::new(), String::new(), String::new());
    for (program, op, call) in each_call(programs) {
        let name = variant(program, op);
        let args = format!("crate::{}", args_path(program, op));
        match call.access {
            Some(Access::Read) => {
                let _ = writeln!(body, "    /// {}.\n    {name}({args}),", what(program, op));
                let _ = writeln!(from, "            Call::{name}(args) => Self::{name}(args),");
                let _ = writeln!(into, "            ReadCall::{name}(args) => Call::{name}(args),");
            }
            Some(Access::WriteIfBits { .. } | Access::WriteIfValue { .. }) => {
                let _ = writeln!(
                    body,
                    "    /// {}, as far as it only reads.\n    {name}(Readable<{args}>),",
                    what(program, op)
                );
                let _ = writeln!(from, "            Call::{name}(args) => Self::{name}(Readable::new(args)?),");
                let _ = writeln!(into, "            ReadCall::{name}(args) => Call::{name}(args.into_inner()),");
            }
            Some(Access::Write) | None => continue,
        }
        let _ = writeln!(op_arms, "            Self::{name}(_) => Op::{name},");
    }
    format!(
        "/// A call that a read-only edge may carry: a writing one can't be expressed.\n///\n/// ```compile_fail,E0599\n/// let \
         call = api::ReadCall::DomainCreate(api::remote::DomainCreateArgs::default());\n/// ```\n#[derive(Clone, Debug, \
         PartialEq)]\n#[allow(clippy::large_enum_variant)] // As for `Call`.\npub enum ReadCall {{\n{body}}}\n\
         impl ReadCall {{\n    /// Refuses a call that writes, as [`check_access`](crate::check_access) does.\n    \
         pub fn from_call(call: Call) -> Result<Self, Error> {{\n        Ok(match call {{\n{from}            other => \
         return Err(Error::read_only(other.op())),\n        }})\n    }}\n    \
         /// Which operation it belongs to.\n    pub fn op(&self) -> Op {{\n        match self {{\n{op_arms}        }}\n    \
         }}\n}}\n\
         impl From<ReadCall> for Call {{\n    fn from(call: ReadCall) -> Self {{\n        match call {{\n{into}        \
         }}\n    }}\n}}\n"
    )
}

/// For the calls that write only if an argument says so: does it?
fn conditions(programs: &[Program]) -> String {
    let (mut impls, mut arms) = (String::new(), String::new());
    for (program, op, call) in each_call(programs) {
        let test = match &call.access {
            Some(Access::WriteIfBits { field, mask }) => format!("self.{} & {mask} != 0", ident(field)),
            Some(Access::WriteIfValue { field, value }) => format!("self.{} == {value}", ident(field)),
            _ => continue,
        };
        let name = variant(program, op);
        let _ = writeln!(
            impls,
            "impl MayWrite for crate::{} {{\n    fn writes(&self) -> bool {{ {test} }}\n}}",
            args_path(program, op)
        );
        let _ = writeln!(arms, "        Call::{name}(args) => args.writes(),");
    }
    format!(
        "{impls}\n/// Does a call with a condition meet it? `false` for every other.\nfn meets_write_condition(call: \
         &Call) -> bool {{\n    match call {{\n{arms}        _ => false,\n    }}\n}}\n"
    )
}

fn operations(programs: &[Program]) -> String {
    let mut out = String::new();
    for (program, op, _) in each_call(programs) {
        let name = variant(program, op);
        let ret = match ret_path(program, op) {
            unit if unit == "()" => unit,
            path => format!("crate::{path}"),
        };
        let _ = writeln!(
            out,
            "impl Operation for crate::{} {{\n    type Ret = {ret};\n    const OP: Op = Op::{name};\n    fn \
             into_call(self) -> Call {{ Call::{name}(self) }}\n    fn ret_of(reply: Reply) -> Option<Self::Ret> {{ if \
             let Reply::{name}(ret) = reply {{ Some(ret) }} else {{ None }} }}\n}}",
            args_path(program, op)
        );
    }
    out
}
