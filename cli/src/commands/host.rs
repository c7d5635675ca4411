//! The verbs that show the host and the connection.

use clap::Args;
use libclient::NodeInfo;

use crate::error::CliError;
use crate::session::Session;
use crate::words::dotted_version;

fn failed(what: &'static str) -> impl FnOnce(libclient::Error) -> CliError {
    move |source| CliError::Ask { what, source }
}

/// Show the host's processors and memory
#[derive(Debug, Args)]
pub(crate) struct Nodeinfo;

impl Nodeinfo {
    /// Prints it.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let node = session.connect()?.node_info().map_err(failed("ask for the host's hardware"))?;
        if session.out.is_json() {
            session.out.json(&node_json(&node))?;
            return Ok(());
        }
        session.out.pairs(&[
            ("CPU model", node.model),
            ("CPU(s)", node.cpus.to_string()),
            ("CPU frequency", format!("{} MHz", node.mhz)),
            ("CPU socket(s)", node.sockets.to_string()),
            ("Core(s) per socket", node.cores.to_string()),
            ("Thread(s) per core", node.threads.to_string()),
            ("NUMA cell(s)", node.nodes.to_string()),
            ("Memory size", format!("{} KiB", node.memory_kib)),
        ])?;
        Ok(())
    }
}

fn node_json(node: &NodeInfo) -> serde_json::Value {
    serde_json::json!({
        "model": node.model,
        "cpus": node.cpus,
        "mhz": node.mhz,
        "sockets": node.sockets,
        "cores": node.cores,
        "threads": node.threads,
        "nodes": node.nodes,
        "memory_kib": node.memory_kib,
    })
}

/// Print what the host and its hypervisors can do, as XML
#[derive(Debug, Args)]
pub(crate) struct Capabilities;

impl Capabilities {
    /// Prints it.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let xml = session.connect()?.capabilities().map_err(failed("ask for the capabilities"))?;
        if session.out.is_json() {
            session.out.json(&serde_json::json!({ "xml": xml }))?;
        } else {
            session.out.text(&xml)?;
        }
        Ok(())
    }
}

/// Print the host's name
#[derive(Debug, Args)]
pub(crate) struct Hostname;

impl Hostname {
    /// Prints it.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let name = session.connect()?.hostname().map_err(failed("ask for the host's name"))?;
        one_value(session, "hostname", &name)
    }
}

/// Print the canonical URI of the connection
#[derive(Debug, Args)]
pub(crate) struct Uri;

impl Uri {
    /// Prints it.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let uri = session.connect()?.uri().map_err(failed("ask for the connection's URI"))?;
        one_value(session, "uri", &uri)
    }
}

fn one_value(session: &mut Session, key: &str, value: &str) -> Result<(), CliError> {
    if session.out.is_json() {
        session.out.json(&serde_json::json!({ key: value }))?;
    } else {
        session.out.line(value)?;
    }
    Ok(())
}

/// Show the versions of this program, the daemon and the hypervisor
#[derive(Debug, Args)]
pub(crate) struct Version;

impl Version {
    /// Prints it.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let connection = session.connect()?;
        let driver = connection.driver_type().map_err(failed("ask for the driver"))?;
        let library = dotted_version(connection.lib_version().map_err(failed("ask for the library's version"))?);
        let hypervisor = dotted_version(connection.version().map_err(failed("ask for the hypervisor's version"))?);
        let client = env!("CARGO_PKG_VERSION");
        if session.out.is_json() {
            session.out.json(&serde_json::json!({
                "client": client,
                "library": library,
                "driver": driver,
                "hypervisor": hypervisor,
            }))?;
            return Ok(());
        }
        session.out.pairs(&[
            ("Program", format!("bulkhead {client}")),
            ("Library", library),
            ("Running hypervisor", format!("{driver} {hypervisor}")),
        ])?;
        Ok(())
    }
}
