//! Rust expressions for a type of the table: its type, its coding, its bounds.

use super::docs::camel;
use super::table::{Scalar, Type};

/// The Rust type, as seen from inside a program's module.
pub fn rust_type(ty: &Type) -> String {
    match ty {
        Type::Scalar(scalar) => scalar_type(*scalar).to_owned(),
        Type::Uuid => "Uuid".to_owned(),
        Type::String(_) => "String".to_owned(),
        Type::Opaque(_) => "Vec<u8>".to_owned(),
        Type::List(inner, _) | Type::Exact(inner, _) => format!("Vec<{}>", rust_type(inner)),
        Type::Optional(inner) => format!("Option<{}>", rust_type(inner)),
        Type::Named { program, name } => format!("crate::{program}::{}", camel(name)),
    }
}

fn scalar_type(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::Int => "i32",
        Scalar::Uint => "u32",
        Scalar::Hyper => "i64",
        Scalar::Uhyper => "u64",
        Scalar::Double => "f64",
        Scalar::Bool => "bool",
        Scalar::Char => "i8",
        Scalar::Uchar => "u8",
        Scalar::Short => "i16",
        Scalar::Ushort => "u16",
    }
}

/// The fewest bytes that a value takes in XDR: a constant expression.
pub fn min_size(ty: &Type) -> String {
    match ty {
        Type::Scalar(Scalar::Hyper | Scalar::Uhyper | Scalar::Double) => "8".to_owned(),
        Type::Uuid => "16".to_owned(),
        Type::Exact(inner, length) => format!("{length} * ({})", min_size(inner)),
        Type::Named { .. } => format!("<{} as Xdr>::MIN_SIZE", rust_type(ty)),
        Type::Scalar(_) | Type::String(_) | Type::Opaque(_) | Type::List(..) | Type::Optional(_) => "4".to_owned(),
    }
}

/// A statement that writes `place`, an expression of a reference to the value.
pub fn encode(ty: &Type, place: &str) -> String {
    match ty {
        Type::Scalar(_) | Type::Uuid | Type::Named { .. } => format!("Xdr::encode({place}, out)"),
        Type::String(_) => format!("out.string({place})"),
        Type::Opaque(_) => format!("out.opaque({place})"),
        Type::List(inner, _) => format!("out.list({place}, {})", encode_fn(inner)),
        Type::Exact(inner, _) => format!("out.items({place}, {})", encode_fn(inner)),
        Type::Optional(inner) => format!("out.option({place}, {})", encode_fn(inner)),
    }
}

fn encode_fn(ty: &Type) -> String {
    match ty {
        Type::Scalar(_) | Type::Uuid | Type::Named { .. } => format!("<{} as Xdr>::encode", rust_type(ty)),
        _ => format!("|value, out| {}", encode(ty, "value")),
    }
}

/// An expression that reads a value: a `Result`.
pub fn decode(ty: &Type) -> String {
    match ty {
        Type::Scalar(_) | Type::Uuid | Type::Named { .. } => "Xdr::decode(input)".to_owned(),
        Type::String(max) => format!("input.string({max})"),
        Type::Opaque(max) => format!("input.opaque({max})"),
        Type::List(inner, max) => format!("input.list({max}, {}, {})", min_size(inner), decode_fn(inner)),
        Type::Exact(inner, length) => format!("input.items({length}, {}, {})", min_size(inner), decode_fn(inner)),
        Type::Optional(inner) => format!("input.option({})", decode_fn(inner)),
    }
}

fn decode_fn(ty: &Type) -> String {
    match ty {
        Type::Scalar(_) | Type::Uuid | Type::Named { .. } => format!("<{} as Xdr>::decode", rust_type(ty)),
        _ => format!("|input| {}", decode(ty)),
    }
}

/// Statements that check the bounds of `place`. `label` names it in the error. Nothing,
/// if the type has none.
pub fn check(ty: &Type, place: &str, label: &str) -> String {
    match ty {
        Type::Scalar(_) | Type::Uuid => String::new(),
        Type::String(max) | Type::Opaque(max) => format!("limits::at_most({label}, {place}.len(), {max})?;"),
        Type::List(inner, max) => {
            format!("limits::at_most({label}, {place}.len(), {max})?;{}", check_items(inner, place, label))
        }
        Type::Exact(inner, length) => {
            format!("limits::exactly({label}, {place}.len(), {length})?;{}", check_items(inner, place, label))
        }
        Type::Optional(inner) => match check(inner, "value", label) {
            body if body.is_empty() => body,
            body => format!("if let Some(value) = {place}.as_ref() {{ {body} }}"),
        },
        Type::Named { .. } => format!("{place}.check()?;"),
    }
}

fn check_items(inner: &Type, place: &str, label: &str) -> String {
    match check(inner, "item", label) {
        body if body.is_empty() => body,
        body => format!("for item in {place}.iter() {{ {body} }}"),
    }
}

/// An expression that makes a pseudo-random value within the bounds.
pub fn sample(ty: &Type) -> String {
    match ty {
        Type::Scalar(_) | Type::Uuid | Type::Named { .. } => "Arbitrary::arbitrary(source)".to_owned(),
        Type::String(max) => format!("source.string({max})"),
        Type::Opaque(max) => format!("source.opaque({max})"),
        Type::List(inner, max) => format!("source.list({max}, {})", sample_fn(inner)),
        Type::Exact(inner, length) => format!("source.items({length}, {})", sample_fn(inner)),
        Type::Optional(inner) => format!("source.option({})", sample_fn(inner)),
    }
}

fn sample_fn(ty: &Type) -> String {
    match ty {
        Type::Scalar(_) | Type::Uuid | Type::Named { .. } => "Arbitrary::arbitrary".to_owned(),
        _ => format!("|source| {}", sample(ty)),
    }
}

/// The value that `Default` gives, where the type's own default would break a bound.
pub fn default(ty: &Type) -> String {
    match ty {
        Type::Exact(_, length) => format!("vec![Default::default(); {length}]"),
        _ => "Default::default()".to_owned(),
    }
}
