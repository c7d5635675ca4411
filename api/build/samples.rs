//! Pseudo-random values of every type, and a walk over all types: what the tests of codecs stand on.

use std::fmt::Write;

use super::docs::{args_path, camel, ident, ret_path, variant};
use super::expr;
use super::table::{Field, Program, TypeBody};

/// `Arbitrary` for the types of one program.
pub fn program(program: &Program) -> String {
    let mut out = String::new();
    for def in &program.types {
        let name = camel(&def.name);
        match &def.body {
            TypeBody::Struct(fields) => out += &structure(program, &name, fields),
            TypeBody::Enum(_) => {
                let _ = writeln!(
                    out,
                    "impl Arbitrary for {}::{name} {{ fn arbitrary(source: &mut Source) -> Self {{ \
                     Self(Arbitrary::arbitrary(source)) }} }}",
                    program.name
                );
            }
            TypeBody::Union(arms) => {
                let mut body = String::new();
                for (index, arm) in arms.iter().enumerate() {
                    let pattern = if index + 1 == arms.len() { "_".to_owned() } else { index.to_string() };
                    let _ =
                        writeln!(body, "        {pattern} => Self::{}({}),", camel(&arm.name), expr::sample(&arm.ty));
                }
                let _ = writeln!(
                    out,
                    "impl Arbitrary for {}::{name} {{ fn arbitrary(source: &mut Source) -> Self {{ match \
                     source.below({}) {{\n{body}    }} }} }}",
                    program.name,
                    arms.len()
                );
            }
        }
    }
    for op in &program.ops {
        let name = camel(&op.name);
        match op.call() {
            Some(call) => {
                out += &structure(program, &format!("{name}Args"), &op.args);
                if !call.ret.is_empty() {
                    out += &structure(program, &format!("{name}Ret"), &call.ret);
                }
            }
            None => out += &structure(program, &format!("{name}Msg"), &op.args),
        }
    }
    out
}

fn structure(program: &Program, name: &str, fields: &[Field]) -> String {
    let path = format!("{}::{name}", program.name);
    if fields.is_empty() {
        return format!("impl Arbitrary for {path} {{ fn arbitrary(_: &mut Source) -> Self {{ Self }} }}\n");
    }
    let values: String =
        fields.iter().map(|field| format!("{}: {}, ", ident(&field.name), expr::sample(&field.ty))).collect();
    format!("impl Arbitrary for {path} {{ fn arbitrary(source: &mut Source) -> Self {{ Self {{ {values}}} }} }}\n")
}

/// The walk over all types, and a call, reply or event of each operation.
pub fn all(programs: &[Program]) -> String {
    let (mut visits, mut calls, mut replies, mut events) = (String::new(), String::new(), String::new(), String::new());
    let mut visit = |path: &str| {
        let _ = writeln!(visits, "    visitor.visit::<{path}>({path:?});");
    };
    for program in programs {
        for def in &program.types {
            visit(&format!("{}::{}", program.name, camel(&def.name)));
        }
        for op in &program.ops {
            let name = variant(program, op);
            visit(&args_path(program, op));
            if op.call().is_none() {
                let _ = writeln!(events, "            Op::{name} => Self::{name}(Arbitrary::arbitrary(source)),");
                continue;
            }
            let ret = ret_path(program, op);
            if ret != "()" {
                visit(&ret);
            }
            let _ = writeln!(calls, "            Op::{name} => Self::{name}(Arbitrary::arbitrary(source)),");
            let sample = if ret == "()" { "()" } else { "Arbitrary::arbitrary(source)" };
            let _ = writeln!(replies, "            Op::{name} => Self::{name}({sample}),");
        }
    }
    let carriers: String = [("Call", calls), ("Reply", replies), ("Event", events)]
        .iter()
        .map(|(name, arms)| carrier(name, arms))
        .collect();
    format!(
        "/// Shows every type of every program to `visitor`.\npub fn visit_types<V: TypeVisitor>(visitor: &mut V) \
         {{\n{visits}}}\n{carriers}"
    )
}

fn carrier(name: &str, arms: &str) -> String {
    format!(
        "impl crate::{name} {{\n    /// A pseudo-random one of `op`; `None` if the operation has no such thing.\n    pub \
         fn arbitrary(op: Op, source: &mut Source) -> Option<Self> {{\n        Some(match op {{\n{arms}            _ => \
         return None,\n        }})\n    }}\n}}\n"
    )
}
