//! Methods of the handles, one a row.
//!
//! A call whose first argument is an object is a method of that object's handle, every other one of the connection. Its
//! name is the row's, without the handle's own name and without `get`. What only the wire needs is not in its signature:
//! `need_results`, room for names, the count of parameters.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::docs::{api_name, args_path, camel, doc, ident, method, ret_path};
use super::table::{Call, Field, Op, Program, Scalar, Type};

/// Handles and what the names of their calls begin with.
const HANDLES: [(&str, &str, &[&str]); 12] = [
    ("domain", "Domain", &["domain_"]),
    ("domain_snapshot", "DomainSnapshot", &["domain_snapshot_", "domain_"]),
    ("domain_checkpoint", "DomainCheckpoint", &["domain_checkpoint_"]),
    ("network", "Network", &["network_"]),
    ("network_port", "NetworkPort", &["network_port_"]),
    ("interface", "Interface", &["interface_"]),
    ("storage_pool", "StoragePool", &["storage_pool_"]),
    ("storage_vol", "StorageVol", &["storage_vol_"]),
    ("node_device", "NodeDevice", &["node_device_"]),
    ("nwfilter", "NwFilter", &["nwfilter_"]),
    ("nwfilter_binding", "NwFilterBinding", &["nwfilter_binding_"]),
    ("secret", "Secret", &["secret_"]),
];

/// Calls without a method, and why: a method written by hand does more than one call, or the connection makes the call
/// itself.
const WITHOUT: [(&str, &str); 28] = [
    ("connect_open", "Connection::open"),
    ("connect_close", "the connection is closed when it is dropped"),
    ("connect_set_identity", "the gateway says who a client is"),
    ("connect_supports_feature", "the connection asks what it needs to know"),
    ("connect_register_close_callback", "Connection::register_domain_event"),
    ("connect_unregister_close_callback", "Connection::register_domain_event"),
    ("connect_get_capabilities", "Connection::capabilities"),
    ("connect_get_hostname", "Connection::hostname"),
    ("connect_get_lib_version", "Connection::lib_version"),
    ("connect_get_type", "Connection::driver_type"),
    ("connect_get_uri", "Connection::uri"),
    ("connect_get_version", "Connection::version"),
    ("connect_is_secure", "Connection::is_secure"),
    ("node_get_info", "Connection::node_info"),
    ("domain_create", "Domain::start"),
    ("domain_create_with_flags", "Domain::start"),
    ("domain_create_xml", "Connection::create_xml"),
    ("domain_define_xml", "Connection::define_xml"),
    ("domain_define_xml_flags", "Connection::define_xml"),
    ("domain_destroy", "Domain::destroy"),
    ("domain_destroy_flags", "Domain::destroy"),
    ("domain_get_info", "Domain::info"),
    ("domain_get_state", "Domain::state"),
    ("domain_get_xml_desc", "Domain::xml"),
    ("domain_shutdown", "Domain::shutdown"),
    ("domain_undefine", "Domain::undefine"),
    ("domain_undefine_flags", "Domain::undefine"),
    ("domain_get_cpu_stats", "its two counts are the caller's: Connection::invoke"),
];

/// A method whose name would be that of another one: [`Domain::guest_info`] is written by hand.
const RENAMED: [(&str, &str); 1] = [("domain_get_guest_info", "agent_guest_info")];

/// The whole of `handles.rs`.
pub fn all(programs: &[Program]) -> String {
    let mut text = String::new();
    for (wire, name, _) in HANDLES.iter().filter(|(wire, ..)| *wire != "domain") {
        text += &handle(programs, wire, name);
    }
    let mut methods = BTreeMap::<&str, String>::new();
    for program in programs {
        for (op, call) in program.calls().filter(|(op, call)| has_method(op, call)) {
            let (owner, method) = Method::of(program, op, call).written();
            methods.entry(owner).or_default().push_str(&method);
        }
    }
    for (owner, methods) in methods {
        let _ = write!(text, "/// Operations of the table.\nimpl {owner} {{\n{methods}}}\n");
    }
    let without: Vec<String> = WITHOUT.iter().map(|(name, why)| format!("({name:?}, {why:?})")).collect();
    let _ = writeln!(
        text,
        "/// Calls without a generated method, and why.\n#[cfg(test)]\nconst WITHOUT: &[(&str, &str)] = &[{}];",
        without.join(", ")
    );
    let names: Vec<String> = programs
        .iter()
        .flat_map(|program| {
            program.calls().filter(|(op, call)| has_method(op, call)).map(|(op, _)| method(program, op))
        })
        .map(|name| format!("{name:?}"))
        .collect();
    let _ = writeln!(
        text,
        "/// Calls with a generated method.\n#[cfg(test)]\nconst GENERATED: &[&str] = &[{}];",
        names.join(", ")
    );
    text
}

/// Streams, descriptors, logins and registrations are more than one call.
fn has_method(op: &Op, call: &Call) -> bool {
    let plain = call.stream.is_none() && call.fds_in.1 == 0 && call.fds_out.1 == 0 && !call.no_auth;
    plain
        && !op.name.contains("event_register")
        && !op.name.contains("event_deregister")
        && !op.name.contains("event_callback")
        && !WITHOUT.iter().any(|(name, _)| *name == op.name)
}

/// A handle's type: the connection and what names the object on the wire.
fn handle(programs: &[Program], wire: &str, name: &str) -> String {
    let types = programs.iter().flat_map(|program| &program.types);
    let fields = types.filter(|ty| ty.name == wire).find_map(|ty| match &ty.body {
        super::table::TypeBody::Struct(fields) => Some(fields.as_slice()),
        _ => None,
    });
    let what = wire.replace('_', " ");
    let mut accessors = String::new();
    for field in fields.unwrap_or_default() {
        let (ret, value) = match &field.ty {
            Type::String(_) => ("&str".to_owned(), format!("&self.handle.{}", field.name)),
            Type::Uuid => ("Uuid".to_owned(), format!("Uuid::from_bytes(self.handle.{})", field.name)),
            Type::Named { name, .. } => {
                let ty = handle_of(name).unwrap_or("()");
                (ty.to_owned(), format!("{ty}::new(self.connection.clone(), self.handle.{}.clone())", field.name))
            }
            _ => ("i32".to_owned(), format!("self.handle.{}", field.name)),
        };
        let _ = write!(
            accessors,
            "    /// Its {}, as the handle has it.\n    #[must_use]\n    pub fn {}(&self) -> {ret} {{\n        {value}\n    }}\n\n",
            field.name.replace('_', " "),
            match field.name.as_str() {
                "dom" => "domain",
                "net" => "network",
                other => other,
            }
        );
    }
    let mut text = String::new();
    let _ = write!(
        text,
        "/// A {what} of a connection: a handle that keeps the connection open, whether the object still exists or \
         not.\n#[derive(Clone)]\npub struct {name} {{\n    connection: Connection,\n    handle: remote::{wire_type},\n}}\n\n\
         impl {name} {{\n    pub(crate) fn new(connection: Connection, handle: remote::{wire_type}) -> {name} {{\n        \
         {name} {{ connection, handle }}\n    }}\n\n    #[allow(dead_code)] // Calls name a node device by its name alone.\n    pub(crate) fn handle(&self) -> remote::{wire_type} {{\n        \
         self.handle.clone()\n    }}\n\n    /// The connection it was found on.\n    #[must_use]\n    pub fn connection(&self) -> \
         &Connection {{\n        &self.connection\n    }}\n\n{accessors}}}\n\n\
         impl fmt::Debug for {name} {{\n    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {{\n        \
         self.handle.fmt(f)\n    }}\n}}\n\n",
        wire_type = camel(wire),
    );
    text
}

/// The handle's type of a struct on the wire.
fn handle_of(wire: &str) -> Option<&'static str> {
    HANDLES.iter().find(|(name, ..)| *name == wire).map(|(_, ty, _)| *ty)
}

fn handle_in(ty: &Type) -> Option<&'static str> {
    match ty {
        Type::Named { name, .. } => handle_of(name),
        _ => None,
    }
}

/// One method in the making.
struct Method<'a> {
    program: &'a Program,
    op: &'a Op,
    call: &'a Call,
    owner: &'static str,
    /// What the connection's methods and the handle's call the connection.
    connection: &'static str,
}

impl<'a> Method<'a> {
    fn of(program: &'a Program, op: &'a Op, call: &'a Call) -> Self {
        let first = op.args.first();
        let by_name = op.family == "node_device"
            && first.is_some_and(|field| field.name == "name")
            && op.name != "node_device_lookup_by_name";
        let owner = if by_name { Some("NodeDevice") } else { first.and_then(|field| handle_in(&field.ty)) };
        let connection = if owner.is_some() { "self.connection" } else { "self" };
        Self { program, op, call, owner: owner.unwrap_or("Connection"), connection }
    }

    fn name(&self) -> String {
        if let Some((_, name)) = RENAMED.iter().find(|(op, _)| *op == self.op.name) {
            return (*name).to_owned();
        }
        let full = method(self.program, self.op);
        let (prefix, rest) = match full.strip_prefix("qemu_") {
            Some(rest) => ("qemu_", rest),
            None => ("", full.as_str()),
        };
        let own =
            HANDLES.iter().find(|(_, ty, _)| *ty == self.owner).map_or(&["connect_"][..], |(.., prefixes)| prefixes);
        let rest = own.iter().find_map(|own| rest.strip_prefix(own)).unwrap_or(rest);
        let rest = match rest.strip_prefix("get_") {
            Some(rest) => rest.to_owned(),
            None => rest.replacen("node_get_", "node_", 1),
        };
        format!("{prefix}{rest}")
    }

    /// The arguments that the caller gives: in the signature, and as the call has them.
    fn argument(&self, field: &Field) -> (String, String) {
        let name = ident(&field.name);
        let (ty, value) = match &field.ty {
            Type::Scalar(Scalar::Int) if is_truth(&field.name) => ("bool".to_owned(), format!("{name}.into()")),
            Type::String(_) => ("&str".to_owned(), format!("{name}.to_owned()")),
            Type::Uuid => ("Uuid".to_owned(), format!("{name}.into_bytes()")),
            Type::Optional(inner) => match (&**inner, handle_in(inner)) {
                (Type::String(_), _) => ("Option<&str>".to_owned(), format!("{name}.map(str::to_owned)")),
                (_, Some(handle)) => (format!("Option<&{handle}>"), format!("{name}.map({handle}::handle)")),
                _ => (format!("Option<{}>", plain(inner)), name.clone()),
            },
            Type::Opaque(_) => ("&[u8]".to_owned(), format!("{name}.to_vec()")),
            Type::List(inner, _) => match (&**inner, handle_in(inner)) {
                (Type::String(_), _) => {
                    ("&[&str]".to_owned(), format!("{name}.iter().map(|&one| one.to_owned()).collect()"))
                }
                (_, Some(handle)) => (format!("&[{handle}]"), format!("{name}.iter().map({handle}::handle).collect()")),
                _ => (format!("&[{}]", plain(inner)), format!("{name}.to_vec()")),
            },
            other => match handle_in(other) {
                Some(handle) => (format!("&{handle}"), format!("{name}.handle()")),
                None => (plain(other), name.clone()),
            },
        };
        (format!("{name}: {ty}"), value)
    }

    /// What the wire needs and the caller does not say.
    fn fixed(&self, field: &Field) -> Option<String> {
        match (field.name.as_str(), self.call.ret.as_slice()) {
            ("need_results", _) => Some("1".to_owned()),
            (
                "nparams" | "maxnames" | "maxids" | "maxuuids" | "maxerrors" | "max_stats" | "maxcells",
                [list, rest @ ..],
            ) if rest.len() <= 1 => match &list.ty {
                Type::List(_, most) => Some(most.to_string()),
                _ => None,
            },
            _ => None,
        }
    }

    /// The count of parameters has to be asked for first.
    fn asks_twice(&self) -> bool {
        self.call.ret.iter().any(|field| field.name == "nparams")
            && self.op.args.iter().any(|field| field.name == "nparams")
    }

    /// What the caller gets: its type, and what makes it from `ret`.
    fn answer(&self) -> (String, String) {
        let count = |field: &&Field| !matches!(field.name.as_str(), "ret" | "nparams" | "nerrors");
        let shown: Vec<&Field> = match self.call.ret.as_slice() {
            [one] => vec![one],
            [list, rest @ ..] if matches!(list.ty, Type::List(..)) => {
                std::iter::once(list).chain(rest.iter().filter(count)).collect()
            }
            all => all.iter().collect(),
        };
        let connection = self.connection;
        match shown.as_slice() {
            [] => ("()".to_owned(), String::new()),
            [one] => {
                let name = ident(&one.name);
                match (&one.ty, handle_in(&one.ty)) {
                    (_, Some(handle)) => {
                        (handle.to_owned(), format!("{handle}::new({connection}.clone(), ret.{name})"))
                    }
                    (Type::List(inner, _), _) => match handle_in(inner) {
                        Some(handle) => (
                            format!("Vec<{handle}>"),
                            format!(
                                "ret.{name}.into_iter().map(|one| {handle}::new({connection}.clone(), one)).collect()"
                            ),
                        ),
                        None => (format!("Vec<{}>", plain(inner)), format!("ret.{name}")),
                    },
                    (Type::Scalar(Scalar::Int), _) if self.is_question() => {
                        ("bool".to_owned(), format!("ret.{name} != 0"))
                    }
                    (ty, _) => (plain(ty), format!("ret.{name}")),
                }
            }
            _ => (format!("api::{}", ret_path(self.program, self.op)), "ret".to_owned()),
        }
    }

    fn is_question(&self) -> bool {
        let name = self.name();
        name.starts_with("is_") || name.starts_with("has_") || name.starts_with("autostart")
    }

    fn written(&self) -> (&'static str, String) {
        let mut given = vec!["&self".to_owned()];
        let mut fields = String::new();
        for (at, field) in self.op.args.iter().enumerate() {
            let value = if at == 0 && self.owner != "Connection" {
                if self.owner == "NodeDevice" { "self.handle.name.clone()" } else { "self.handle()" }.to_owned()
            } else if let Some(fixed) = self.fixed(field) {
                fixed
            } else {
                let (argument, value) = self.argument(field);
                given.push(argument);
                value
            };
            let name = ident(&field.name);
            let field = if value == name { name } else { format!("{name}: {value}") };
            let _ = write!(fields, "{field}, ");
        }
        let args = format!("api::{} {{ {fields}}}", args_path(self.program, self.op));
        let (ty, value) = self.answer();
        let connection = self.connection;
        let body = match (self.asks_twice(), ty.as_str()) {
            (true, _) => format!(
                "let mut args = {args};\n        args.nparams = 0;\n        args.nparams = \
                 {connection}.invoke(args.clone())?.nparams;\n        let ret = {connection}.invoke(args)?;\n        Ok({value})"
            ),
            (false, "()") => format!("{connection}.invoke({args})?;\n        Ok(())"),
            (false, _) => format!("let ret = {connection}.invoke({args})?;\n        Ok({value})"),
        };
        let text = format!(
            "{}    pub fn {}({}) -> Result<{ty}> {{\n        {body}\n    }}\n\n",
            doc("    ", &self.docs()),
            ident(&self.name()),
            given.join(", ")
        );
        (self.owner, text)
    }

    fn docs(&self) -> Vec<String> {
        let mut lines =
            vec![format!("libvirt's `{}`, there since {}.", api_name(self.program, self.op), self.op.since)];
        lines.extend(self.op.docs.iter().cloned());
        if let Some(bits) = self.call.flags.filter(|_| self.op.args.iter().any(|field| field.name == "flags")) {
            lines.push(format!("Bits of `flags` that libvirt knows: 0x{bits:x}."));
        }
        lines.push(String::new());
        lines.push("# Errors".to_owned());
        lines.push("What the driver answers; [`NO_SUPPORT`](crate::ErrorCode::NO_SUPPORT) when it does not have the operation.".to_owned());
        lines
    }
}

fn is_truth(name: &str) -> bool {
    name == "autostart"
}

/// The type in Rust of what is handed on as it is.
fn plain(ty: &Type) -> String {
    match ty {
        Type::Scalar(scalar) => match scalar {
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
        .to_owned(),
        Type::Uuid => "Uuid".to_owned(),
        Type::String(_) => "String".to_owned(),
        Type::Opaque(_) => "Vec<u8>".to_owned(),
        Type::List(inner, _) | Type::Exact(inner, _) => format!("Vec<{}>", plain(inner)),
        Type::Optional(inner) => format!("Option<{}>", plain(inner)),
        Type::Named { program, name } => format!("api::{program}::{}", camel(name)),
    }
}
