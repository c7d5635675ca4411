//! A trait for each family of operations, `Operations` that is all of them, and `dispatch`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::docs::{args_path, camel, doc, method, ret_path, variant, what};
use super::table::{Op, Program};

/// The whole of `driver.rs`.
pub fn all(programs: &[Program]) -> String {
    let (mut traits, mut arms) = (BTreeMap::<(String, String), String>::new(), String::new());
    for program in programs {
        for (op, _) in program.calls() {
            traits.entry((op.family.clone(), op.part.clone())).or_default().push_str(&method_of(program, op));
            let (name, method) = (variant(program, op), method(program, op));
            let _ = writeln!(arms, "        Call::{name}(args) => answer(driver.{method}(cx, args), Reply::{name}),");
        }
    }
    let names: Vec<String> =
        traits.keys().map(|(family, part)| format!("{}{}Ops", camel(family), camel(part))).collect();
    let mut text = String::new();
    for (((family, part), methods), name) in traits.iter().zip(&names) {
        let about = match part.as_str() {
            "" => String::new(),
            part => format!(", {part}"),
        };
        let _ = write!(
            text,
            "/// Operations of family {family}{about}.\n#[allow(clippy::needless_pass_by_value)] // The default answer drops \
             its arguments.\npub trait {name}: Driver {{\n{methods}}}\n"
        );
    }
    let bounds = names.join(" + ");
    let _ = write!(
        text,
        "/// A driver of every family, which whatever has all of these traits is.\npub trait Operations: {bounds} {{}}\n\
         impl<D: {bounds} + ?Sized> Operations for D {{}}\n\
         /// Hands a call to the method that answers it.\npub fn dispatch<D: Operations + ?Sized>(driver: &mut D, cx: \
         &mut D::Context, call: Call) -> Answer<Reply> {{\n    match call {{\n{arms}    }}\n}}\n"
    );
    text
}

/// One method, which says "not supported" until a driver has its own.
fn method_of(program: &Program, op: &Op) -> String {
    let ret = match ret_path(program, op) {
        unit if unit == "()" => unit,
        path => format!("crate::{path}"),
    };
    let mut lines = vec![format!("Answers {}.", what(program, op))];
    lines.extend(op.docs.iter().cloned());
    let mut text = doc("    ", &lines);
    let _ = writeln!(
        text,
        "    fn {}(&mut self, cx: &mut Self::Context, args: crate::{}) -> Answer<{ret}> {{\n        let _ = (cx, args);\n        \
         Err(Error::unsupported(Op::{}, self.driver_name()))\n    }}",
        method(program, op),
        args_path(program, op),
        variant(program, op)
    );
    text
}
