//! `of_none`: what a driver answers that has nothing of a family; and what a call says of its flags and its domain.

use std::fmt::Write;

use super::docs::{camel, ident, variant};
use super::table::{Call, Field, OfNone, Op, Program, Type};

/// The whole of `none.rs`.
pub fn all(programs: &[Program]) -> String {
    let (mut answers, mut flags, mut domains) = (String::new(), String::new(), String::new());
    for program in programs {
        for (op, call) in program.calls() {
            let name = variant(program, op);
            if let Some(answer) = answer(&name, op, call) {
                let args = if answer.contains("args.") { "args" } else { "_" };
                let _ = writeln!(answers, "        Call::{name}({args}) => Some({answer}),");
            }
            if op.args.iter().any(|field| field.name == "flags" && is_uint(field)) {
                let _ = writeln!(flags, "            Self::{name}(args) => Some(args.flags),");
            }
            if let Some(field) = op.args.iter().find(|field| handle(field) == Some("domain")) {
                let _ = writeln!(domains, "            Self::{name}(args) => Some(&args.{}),", ident(&field.name));
            }
        }
    }
    format!(
        "fn of_none(call: &Call) -> Option<Result<Reply, Error>> {{\n    let op = call.op();\n    match call \
         {{\n{answers}        _ => None,\n    }}\n}}\n\
         impl Call {{\n    /// Its `flags`, if it has some.\n    pub fn flags(&self) -> Option<u32> {{\n        \
         match self {{\n{flags}            _ => None,\n        }}\n    }}\n    \
         /// The domain that it names.\n    pub fn domain(&self) -> Option<&remote::Domain> {{\n        \
         match self {{\n{domains}            _ => None,\n        }}\n    }}\n}}\n"
    )
}

fn is_uint(field: &Field) -> bool {
    field.ty == Type::Scalar(super::table::Scalar::Uint)
}

/// The object that a field names.
fn handle(field: &Field) -> Option<&str> {
    match &field.ty {
        Type::Named { name, .. } => Some(name.as_str()),
        _ => None,
    }
}

/// By which field of its record an object is told from others.
fn key_of(handle: &str) -> Option<&'static str> {
    match handle {
        "network" | "interface" | "storage_pool" | "storage_vol" | "node_device" | "nwfilter" | "domain_snapshot"
        | "domain_checkpoint" => Some("name"),
        "network_port" | "secret" => Some("uuid"),
        "nwfilter_binding" => Some("portdev"),
        _ => None,
    }
}

fn answer(name: &str, op: &Op, call: &Call) -> Option<String> {
    if call.none == Some(OfNone::Empty) {
        return Some(format!("Ok(Reply::{name}(Default::default()))"));
    }
    let first = op.args.first()?;
    if let Some((object, key)) = handle(first).and_then(|object| Some((object, key_of(object)?))) {
        let value = value(&format!("{}.{key}", ident(&first.name)), key == "uuid");
        return Some(format!("Err(Family::{}.missing(op, {key:?}, {value}))", camel(object)));
    }
    if call.none != Some(OfNone::Missing) {
        return None;
    }
    let family = camel(&op.family);
    let key = op.args.iter().find(|field| matches!(field.ty, Type::String(_) | Type::Uuid));
    Some(match key {
        Some(key) => {
            let value = value(&ident(&key.name), key.ty == Type::Uuid);
            format!("Err(Family::{family}.missing(op, {:?}, {value}))", key.name.replace('_', " "))
        }
        None => format!("Err(Family::{family}.no_current(op))"),
    })
}

fn value(field: &str, uuid: bool) -> String {
    if uuid { format!("&text(&args.{field})") } else { format!("&args.{field}") }
}
