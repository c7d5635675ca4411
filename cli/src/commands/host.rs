//! The verbs that show the host and the connection.

use libclient::Connection;
use serde_json::json;

use crate::commands::XML;
use crate::error::CliError;
use crate::shown::Shown;
use crate::table::{Access, Action, Arg, HostQuestion, Json, Verb};
use crate::values::Values;
use crate::words::dotted_version;

/// A row of a question about the host.
const fn question(
    name: &'static str,
    about: &'static str,
    args: &'static [Arg],
    shape: &'static str,
    (what, ask): (&'static str, HostQuestion),
) -> Verb {
    Verb {
        name,
        aliases: &[],
        about,
        details: "",
        args,
        access: Access::Look,
        json: Json::Shape(shape),
        example: "",
        action: Action::AskHost { what, ask },
    }
}

/// The rows.
pub(crate) const VERBS: &[Verb] = &[
    question(
        "nodeinfo",
        "Show the host's processors and memory",
        &[],
        r#"{"model", "cpus", "mhz", "sockets", "cores", "threads", "nodes", "memory_kib"}"#,
        ("ask for the host's hardware", nodeinfo),
    ),
    question(
        "capabilities",
        "Print what the host and its hypervisors can do, as XML",
        &[],
        XML,
        ("ask for the capabilities", |connection, _| Ok(Shown::xml(connection.capabilities()?))),
    ),
    question(
        "hostname",
        "Print the host's name",
        &[],
        r#"{"hostname"}"#,
        ("ask for the host's name", |connection, _| Ok(Shown::one("hostname", connection.hostname()?))),
    ),
    question(
        "version",
        "Show the versions of this program, the daemon and the hypervisor",
        &[],
        r#"{"client", "library", "driver", "hypervisor"}"#,
        ("ask for the versions", version),
    ),
    question(
        "uri",
        "Print the canonical URI of the connection",
        &[],
        r#"{"uri"}"#,
        ("ask for the connection's URI", |connection, _| Ok(Shown::one("uri", connection.uri()?))),
    ),
];

fn nodeinfo(connection: &Connection, _: &Values<'_>) -> Result<Shown, CliError> {
    let node = connection.node_info()?;
    let json = json!({
        "model": node.model,
        "cpus": node.cpus,
        "mhz": node.mhz,
        "sockets": node.sockets,
        "cores": node.cores,
        "threads": node.threads,
        "nodes": node.nodes,
        "memory_kib": node.memory_kib,
    });
    let pairs = [
        ("CPU model", node.model),
        ("CPU(s)", node.cpus.to_string()),
        ("CPU frequency", format!("{} MHz", node.mhz)),
        ("CPU socket(s)", node.sockets.to_string()),
        ("Core(s) per socket", node.cores.to_string()),
        ("Thread(s) per core", node.threads.to_string()),
        ("NUMA cell(s)", node.nodes.to_string()),
        ("Memory size", format!("{} KiB", node.memory_kib)),
    ];
    Ok(Shown::pairs(json, pairs))
}

fn version(connection: &Connection, _: &Values<'_>) -> Result<Shown, CliError> {
    let wrap = |what| move |source| CliError::Ask { what, source };
    let driver = connection.driver_type().map_err(wrap("ask for the driver"))?;
    let library = dotted_version(connection.lib_version().map_err(wrap("ask for the library's version"))?);
    let hypervisor = dotted_version(connection.version().map_err(wrap("ask for the hypervisor's version"))?);
    let client = env!("CARGO_PKG_VERSION");
    let json = json!({ "client": client, "library": library, "driver": driver, "hypervisor": hypervisor });
    let pairs = [
        ("Program", format!("bulkhead {client}")),
        ("Library", library),
        ("Running hypervisor", format!("{driver} {hypervisor}")),
    ];
    Ok(Shown::pairs(json, pairs))
}
