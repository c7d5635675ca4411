//! What must hold of a table beyond its grammar.

use std::collections::{HashMap, HashSet};

use super::table::{Access, Call, Detail, Fault, Field, Op, Program, Scalar, Type, TypeBody};

/// The families of objects that calls can be about.
const FAMILIES: [&str; 14] = [
    "connect",
    "node",
    "domain",
    "domain_snapshot",
    "domain_checkpoint",
    "network",
    "network_port",
    "interface",
    "storage_pool",
    "storage_vol",
    "node_device",
    "nwfilter",
    "nwfilter_binding",
    "secret",
];

/// Checks one program.
pub fn check(program: &Program) -> Result<(), Fault> {
    let fault = |line, text: String| Err(Fault::new(&program.file, line, text));
    let mut names = HashSet::new();
    for known in &program.consts {
        if !names.insert(known.name.clone()) {
            return fault(known.line, format!("constant `{}` stands twice", known.name));
        }
    }
    for def in &program.types {
        if !names.insert(def.name.clone()) {
            return fault(def.line, format!("type `{}` stands twice", def.name));
        }
        if let TypeBody::Union(arms) = &def.body {
            let numbers: HashSet<i32> = arms.iter().map(|arm| arm.number).collect();
            if arms.is_empty() || numbers.len() != arms.len() {
                return fault(def.line, format!("the arms of `{}` need numbers of their own", def.name));
            }
        }
    }
    check_numbers(program)?;
    program.ops.iter().try_for_each(|op| check_op(program, op))
}

/// Checks what only shows when all programs are seen.
pub fn check_together(programs: &[Program]) -> Result<(), Fault> {
    let mut numbers = HashMap::new();
    for program in programs {
        if let Some(other) = numbers.insert(program.number, &program.name) {
            let text = format!("program {:#x} is {other} already", program.number);
            return Err(Fault::new(&program.file, 1, text));
        }
    }
    Ok(())
}

/// Numbers begin at 1 and leave no hole: the generated table is indexed by them.
fn check_numbers(program: &Program) -> Result<(), Fault> {
    let mut names = HashSet::new();
    for (expected, op) in (1..).zip(&program.ops) {
        let text = if !names.insert(&op.name) {
            format!("operation `{}` stands twice", op.name)
        } else if op.number < expected {
            format!("number {} is taken already", op.number)
        } else if op.number > expected {
            format!("number {expected} is missing before {}", op.number)
        } else {
            continue;
        };
        return Err(Fault::new(&program.file, op.line, text));
    }
    Ok(())
}

fn check_op(program: &Program, op: &Op) -> Result<(), Fault> {
    let fault = |text: String| Err(Fault::new(&program.file, op.line, text));
    if !is_version(&op.since) {
        return fault(format!("`since={}` is no release", op.since));
    }
    match &op.detail {
        Detail::Call(call) => check_call(program, op, call),
        Detail::Event(Some(id)) => match id.family.as_str() {
            "domain" | "network" | "storage_pool" | "node_device" | "secret" => Ok(()),
            other => fault(format!("`{other}` is no family of events")),
        },
        Detail::Event(None) => Ok(()),
    }
}

fn check_call(program: &Program, op: &Op, call: &Call) -> Result<(), Fault> {
    let fault = |text: String| Err(Fault::new(&program.file, op.line, text));
    for entry in call.acl.iter().chain(&call.filter) {
        if entry.split(':').take_while(|part| !part.is_empty()).count() < 2 {
            return fault(format!("`{entry}` is no object:permission"));
        }
    }
    if call.acl.is_empty() != (call.acl_none || call.no_auth) {
        return fault("acl= is missing, or stands beside acl=none or no_auth".to_owned());
    }
    if let Some(stream) = &call.stream
        && !["read", "write", "both"].contains(&stream.as_str())
    {
        return fault(format!("`stream={stream}`: read, write or both"));
    }
    if call.sparse.is_some() && (call.stream.is_none() || !is_uint(&op.args, "flags")) {
        return fault("sparse= needs a stream and a field `flags`".to_owned());
    }
    if !FAMILIES.contains(&op.family.as_str()) {
        return fault(format!("`{}` is no family of objects", op.family));
    }
    if let Some(driver) = call.libvirt.iter().find(|driver| !["qemu", "test", "lxc", "xen"].contains(&driver.as_str()))
    {
        return fault(format!("`libvirt={driver}`: qemu, test, lxc or xen"));
    }
    if call.flags.is_some() && !is_uint(&op.args, "flags") {
        return fault("flags= needs a field `flags`".to_owned());
    }
    if call.api.is_none() && !call.no_auth {
        return fault("api= is missing".to_owned());
    }
    match &call.access {
        Some(Access::WriteIfBits { field, .. } | Access::WriteIfValue { field, .. }) if !is_uint(&op.args, field) => {
            fault(format!("write_if= names `{field}`, which is no uint argument"))
        }
        _ => Ok(()),
    }
}

fn is_uint(fields: &[Field], name: &str) -> bool {
    fields.iter().any(|field| field.name == name && field.ty == Type::Scalar(Scalar::Uint))
}

fn is_version(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    parts.len() == 3 && parts.iter().all(|part| part.parse::<u16>().is_ok())
}
