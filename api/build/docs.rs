//! Names and documentation of generated items.

use super::table::{Field, Op, Program, Type};

/// `domain_create_xml` as `DomainCreateXml`.
pub fn camel(name: &str) -> String {
    let upper_first = |part: &str| {
        let mut chars = part.chars();
        chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
    };
    name.split('_').map(upper_first).collect()
}

/// A field's name in Rust.
pub fn ident(name: &str) -> String {
    if name == "type" { "r#type".to_owned() } else { name.to_owned() }
}

/// The operation among those of all programs: `DomainCreate`, `QemuDomainAttach`.
pub fn variant(program: &Program, op: &Op) -> String {
    camel(&method(program, op))
}

/// The method of `Driver`: `domain_create`, `qemu_domain_attach`.
pub fn method(program: &Program, op: &Op) -> String {
    if program.name == "remote" { op.name.clone() } else { format!("{}_{}", program.name, op.name) }
}

/// The path of the type that a call or event carries in, from the crate's root.
pub fn args_path(program: &Program, op: &Op) -> String {
    let suffix = if op.call().is_some() { "Args" } else { "Msg" };
    format!("{}::{}{suffix}", program.name, camel(&op.name))
}

/// The path of the type that a call answers with.
pub fn ret_path(program: &Program, op: &Op) -> String {
    match op.call() {
        Some(call) if !call.ret.is_empty() => format!("{}::{}Ret", program.name, camel(&op.name)),
        _ => "()".to_owned(),
    }
}

/// libvirt's name of the operation, or the row's own.
pub fn api_name(program: &Program, op: &Op) -> String {
    let given = op.call().and_then(|call| call.api.clone());
    given.unwrap_or_else(|| method(program, op))
}

/// "`virDomainCreate` (remote procedure 9)".
pub fn what(program: &Program, op: &Op) -> String {
    format!("`{}` ({} procedure {})", api_name(program, op), program.name, op.number)
}

/// Documentation lines, each indented by `indent`.
pub fn doc(indent: &str, lines: &[String]) -> String {
    lines.iter().map(|line| format!("{indent}/// {line}\n")).collect()
}

/// What a field is, in one line.
pub fn field(field: &Field) -> String {
    let known = match field.name.as_str() {
        "flags" => "Flag bits; a driver refuses those that it does not know.",
        "dom" | "domain" => "The domain.",
        "net" | "network" => "The network.",
        "pool" => "The storage pool.",
        "vol" => "The storage volume.",
        "snap" | "snapshot" => "The snapshot.",
        "checkpoint" => "The checkpoint.",
        "callback_id" => "The registration that this belongs to.",
        "event_id" => "Which kind of event.",
        "uuid" => "The object's uuid.",
        "need_results" => "0 asks for the count alone.",
        "nparams" => "How many parameters there is room for; 0 asks for their number.",
        "maxnames" | "maxids" | "maxuuids" => "How many entries there is room for.",
        "params" => "Typed parameters.",
        "xml" | "xml_desc" | "dxml" | "xmlin" | "dom_xml" => "An XML document.",
        "cookie" | "cookie_in" | "cookie_out" => "A migration cookie; only the drivers read it.",
        "autostart" => "Does it start with the host?",
        "reason" => "Why, by libvirt's number.",
        "detail" => "The event's detail, by libvirt's number.",
        "ret" => "The count, also when the list was not asked for.",
        _ => return format!("`{}`: {}.", field.name, ty(&field.ty)),
    };
    match limit(&field.ty) {
        Some(limit) => format!("{known} {limit}"),
        None => known.to_owned(),
    }
}

fn limit(ty: &Type) -> Option<String> {
    match ty {
        Type::List(_, max) => Some(format!("At most {max}.")),
        Type::Opaque(max) => Some(format!("At most {max} bytes.")),
        _ => None,
    }
}

fn ty(ty: &Type) -> String {
    match ty {
        Type::Scalar(scalar) => format!("{scalar:?}").to_lowercase(),
        Type::Uuid => "a uuid".to_owned(),
        Type::String(_) => "a string".to_owned(),
        Type::Opaque(max) => format!("at most {max} bytes"),
        Type::List(inner, max) => format!("at most {max} times {}", self::ty(inner)),
        Type::Exact(inner, length) => format!("exactly {length} times {}", self::ty(inner)),
        Type::Optional(inner) => format!("{}, or none", self::ty(inner)),
        Type::Named { name, .. } => name.replace('_', " "),
    }
}
