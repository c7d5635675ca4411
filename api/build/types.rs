//! The types of one program, with `Xdr` and `Bounded`.

use std::fmt::Write;

use super::docs::{camel, doc, field as field_doc, ident, what};
use super::expr;
use super::table::{Arm, Field, Program, Type, TypeBody, TypeDef};

/// The whole module of a program.
pub fn program(program: &Program) -> String {
    let mut out = format!(
        "/// The program's number.\npub const PROGRAM: u32 = {:#x};\n/// The program's version.\npub const VERSION: u32 = {};\n",
        program.number, program.version
    );
    for known in &program.consts {
        let _ = writeln!(
            out,
            "/// `{}` of the {} table.\npub const {}: u32 = {};",
            known.name, program.name, known.name, known.value
        );
    }
    for def in &program.types {
        out += &type_def(program, def);
    }
    for op in &program.ops {
        let what = what(program, op);
        let name = camel(&op.name);
        match op.call() {
            Some(call) => {
                let mut lines = vec![format!("Arguments of {what}.")];
                lines.extend(op.docs.iter().cloned());
                out += &structure(&format!("{name}Args"), &lines, &op.args);
                if !call.ret.is_empty() {
                    out += &structure(&format!("{name}Ret"), &[format!("What {what} answers.")], &call.ret);
                }
            }
            None => {
                let mut lines = vec![format!("The event {what}.")];
                lines.extend(op.docs.iter().cloned());
                out += &structure(&format!("{name}Msg"), &lines, &op.args);
            }
        }
    }
    out
}

fn type_def(program: &Program, def: &TypeDef) -> String {
    let mut lines = def.docs.clone();
    if lines.is_empty() {
        lines.push(format!("`{}` of the {} program.", def.name, program.name));
    }
    let name = camel(&def.name);
    match &def.body {
        TypeBody::Struct(fields) => structure(&name, &lines, fields),
        TypeBody::Union(arms) => union(&name, &lines, arms),
        TypeBody::Enum(values) => open_enum(&name, &lines, values),
    }
}

fn structure(name: &str, docs: &[String], fields: &[Field]) -> String {
    let exact = fields.iter().any(|field| matches!(field.ty, Type::Exact(..)));
    let default = if exact { "" } else { "Default, " };
    let mut out = doc("", docs);
    let _ = writeln!(out, "#[derive(Clone, Debug, {default}PartialEq, Serialize, Deserialize)]");
    if fields.is_empty() {
        let _ = writeln!(out, "pub struct {name};");
    } else {
        let _ = writeln!(out, "pub struct {name} {{");
        for field in fields {
            out += &doc("    ", &[field_doc(field)]);
            let _ = writeln!(out, "    pub {}: {},", ident(&field.name), expr::rust_type(&field.ty));
        }
        out += "}\n";
    }
    if exact {
        let inits: String =
            fields.iter().map(|field| format!("{}: {}, ", ident(&field.name), expr::default(&field.ty))).collect();
        let _ = writeln!(out, "impl Default for {name} {{ fn default() -> Self {{ Self {{ {inits}}} }} }}");
    }
    out += &structure_xdr(name, fields);
    out += &structure_bounds(name, fields);
    out
}

fn structure_xdr(name: &str, fields: &[Field]) -> String {
    let sizes: Vec<String> = fields.iter().map(|field| expr::min_size(&field.ty)).collect();
    let size = if sizes.is_empty() { "0".to_owned() } else { sizes.join(" + ") };
    if fields.is_empty() {
        return format!(
            "impl Xdr for {name} {{\n    const MIN_SIZE: usize = 0;\n    fn encode(&self, _: &mut Encoder) {{}}\n    \
             fn decode(_: &mut Decoder<'_>) -> Result<Self, XdrError> {{ Ok(Self) }}\n}}\n"
        );
    }
    let writes: String = fields
        .iter()
        .map(|field| format!("        {};\n", expr::encode(&field.ty, &format!("&self.{}", ident(&field.name)))))
        .collect();
    let reads: String = fields
        .iter()
        .map(|field| format!("            {}: {}?,\n", ident(&field.name), expr::decode(&field.ty)))
        .collect();
    format!(
        "impl Xdr for {name} {{\n    const MIN_SIZE: usize = {size};\n    fn encode(&self, out: &mut Encoder) \
         {{\n{writes}    }}\n    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {{\n        Ok(Self \
         {{\n{reads}        }})\n    }}\n}}\n"
    )
}

fn structure_bounds(name: &str, fields: &[Field]) -> String {
    let checks: String = fields
        .iter()
        .map(|field| {
            let label = format!("\"{name}.{}\"", field.name);
            expr::check(&field.ty, &format!("self.{}", ident(&field.name)), &label)
        })
        .filter(|check| !check.is_empty())
        .map(|check| format!("        {check}\n"))
        .collect();
    bounds(name, &checks)
}

fn bounds(name: &str, checks: &str) -> String {
    if checks.is_empty() {
        return format!("impl Bounded for {name} {{}}\n");
    }
    format!(
        "impl Bounded for {name} {{\n    fn check(&self) -> Result<(), LimitError> {{\n{checks}        Ok(())\n    \
         }}\n}}\n"
    )
}

fn union(name: &str, docs: &[String], arms: &[Arm]) -> String {
    let mut out = doc("", docs);
    out += "#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]\n";
    let _ = writeln!(out, "pub enum {name} {{");
    for arm in arms {
        let _ = writeln!(
            out,
            "    /// `{}`, number {} on the wire.\n    {}({}),",
            arm.name,
            arm.number,
            camel(&arm.name),
            expr::rust_type(&arm.ty)
        );
    }
    out += "}\n";
    if let Some(first) = arms.first() {
        let _ = writeln!(
            out,
            "impl Default for {name} {{ fn default() -> Self {{ Self::{}(Default::default()) }} }}",
            camel(&first.name)
        );
    }
    let each = |line: &dyn Fn(&Arm) -> String| arms.iter().map(line).collect::<String>();
    let writes = each(&|arm| {
        let write = expr::encode(&arm.ty, "value");
        format!(
            "            Self::{}(value) => {{ Xdr::encode(&{}_i32, out); {write}; }}\n",
            camel(&arm.name),
            arm.number
        )
    });
    let reads =
        each(&|arm| format!("            {} => Self::{}({}?),\n", arm.number, camel(&arm.name), expr::decode(&arm.ty)));
    let _ = writeln!(
        out,
        "impl Xdr for {name} {{\n    const MIN_SIZE: usize = 8;\n    fn encode(&self, out: &mut Encoder) {{\n        \
         match self {{\n{writes}        }}\n    }}\n    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> \
         {{\n        Ok(match i32::decode(input)? {{\n{reads}            found => return Err(XdrError::UnknownArm {{ \
         union: \"{name}\", found }}),\n        }})\n    }}\n}}"
    );
    let checks = each(&|arm| match expr::check(&arm.ty, "value", &format!("\"{name}.{}\"", arm.name)) {
        body if body.is_empty() => String::new(),
        body => format!("        if let Self::{}(value) = self {{ {body} }}\n", camel(&arm.name)),
    });
    out + &bounds(name, &checks)
}

/// An enum stays open: a newer peer's value passes through.
fn open_enum(name: &str, docs: &[String], values: &[(String, i32)]) -> String {
    let mut out = doc("", docs);
    let _ = writeln!(
        out,
        "#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]\n#[serde(transparent)]\n\
         pub struct {name}(pub i32);\nimpl {name} {{"
    );
    for (value, number) in values {
        let _ =
            writeln!(out, "    /// `{value}`.\n    pub const {}: Self = Self({number});", value.to_ascii_uppercase());
    }
    let _ = writeln!(
        out,
        "}}\nimpl Xdr for {name} {{\n    const MIN_SIZE: usize = 4;\n    fn encode(&self, out: &mut Encoder) {{ \
         self.0.encode(out); }}\n    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {{ \
         i32::decode(input).map(Self) }}\n}}"
    );
    out + &bounds(name, "")
}
