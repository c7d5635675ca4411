//! `trait Driver` and `dispatch`.

use std::fmt::Write;

use super::docs::{args_path, doc, method, ret_path, variant, what};
use super::table::Program;

/// The whole of `driver.rs`.
pub fn all(programs: &[Program]) -> String {
    let (mut methods, mut arms) = (String::new(), String::new());
    for program in programs {
        for (op, _) in program.calls() {
            let name = variant(program, op);
            let method = method(program, op);
            let ret = match ret_path(program, op) {
                unit if unit == "()" => unit,
                path => format!("crate::{path}"),
            };
            let mut lines = vec![format!("Answers {}.", what(program, op))];
            lines.extend(op.docs.iter().cloned());
            methods += &doc("    ", &lines);
            let _ = writeln!(
                methods,
                "    fn {method}(&mut self, cx: &mut Self::Context, args: crate::{}) -> Answer<{ret}> {{\n        let _ \
                 = (cx, args);\n        Err(Error::unsupported(Op::{name}, self.driver_name()))\n    }}",
                args_path(program, op)
            );
            let _ = writeln!(arms, "        Call::{name}(args) => answer(driver.{method}(cx, args), Reply::{name}),");
        }
    }
    format!(
        "/// What answers calls: one method an operation, each of which says \"not supported\" until it is \
         written.\n///\n/// A driver is called with one call at a time. One that must wait takes what it needs for the \
         reply out of the\n/// context and answers [`Outcome::Pending`].\n#[allow(clippy::needless_pass_by_value)] // \
         The default answer drops its arguments.\npub trait Driver {{\n    \
         /// What a call is answered with: who asks, and where a late reply goes.\n    type Context;\n    \
         /// The name that an error text gives: \"QEMU\", \"LXC\".\n    fn driver_name(&self) -> &'static str;\n\
         {methods}}}\n\
         /// Hands a call to the method that answers it.\npub fn dispatch<D: Driver + ?Sized>(driver: &mut D, cx: &mut \
         D::Context, call: Call) -> Answer<Reply> {{\n    match call {{\n{arms}    }}\n}}\n"
    )
}
