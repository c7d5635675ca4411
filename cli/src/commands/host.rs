//! The verbs that show the host and the connection.

use clap::builder::ValueParser;
use libclient::Connection;
use libclient::api::remote;
use serde_json::json;

use crate::commands::XML;
use crate::commands::stats::{drawn, members};
use crate::error::CliError;
use crate::shown::{Shown, Text};
use crate::table::{Action, Arg, HostQuestion, Names, Verb};
use crate::values::Values;
use crate::words::dotted_version;

/// virsh's flag for a list of numbers in place of a map.
pub(crate) const LISTED: Arg = Arg::flag("pretty", "Print the processors as a list of numbers");
const PRETTY: &[Arg] = &[LISTED];

/// The most figures that are asked for at once.
const MOST: i32 = 64;

/// A row of a question about the host.
const fn question(
    name: &'static str,
    about: &'static str,
    args: &'static [Arg],
    shape: &'static str,
    (what, ask): (&'static str, HostQuestion),
) -> Verb {
    Verb::look(name, about, args, shape, "", Action::AskHost { what, ask })
}

/// The rows.
pub(crate) const VERBS: &[Verb] = &[
    question(
        "nodeinfo",
        "Show the host's processors and memory",
        &[],
        r#"{"model", "cpus", "mhz", "sockets", "cores", "threads", "nodes", "memory_kib"}"#,
        ("get the host's hardware", nodeinfo),
    ),
    question(
        "capabilities",
        "Print what the host and its hypervisors can do, as XML",
        &[],
        XML,
        ("get the capabilities", |connection, _| Ok(Shown::xml(connection.capabilities()?))),
    ),
    question(
        "hostname",
        "Print the host's name",
        &[],
        r#"{"hostname"}"#,
        ("get the host's name", |connection, _| Ok(Shown::one("hostname", connection.hostname()?))),
    ),
    question(
        "version",
        "Show the versions of this program, the daemon and the hypervisor",
        &[],
        r#"{"client", "library", "driver", "hypervisor"}"#,
        ("get the versions", version),
    ),
    question(
        "uri",
        "Print the canonical URI of the connection",
        &[],
        r#"{"uri"}"#,
        ("get the connection's URI", |connection, _| Ok(Shown::one("uri", connection.uri()?))),
    ),
    question(
        "maxvcpus",
        "Print how many virtual CPUs a guest can have",
        &[Arg::word("type", "TYPE", "Type of the hypervisor: kvm or qemu").optional()],
        r#"{"max_vcpus"}"#,
        ("get the most virtual CPUs", maxvcpus),
    ),
    question(
        "nodecpumap",
        "Show which processors of the host are there and which are online",
        PRETTY,
        r#"{"present", "online", "cpus"}"#,
        ("get the host's processors", nodecpumap),
    ),
    question(
        "nodecpustats",
        "Show what the host's processors were busy with, in nanoseconds",
        &[Arg::word("cpu", "CPU", "One processor; all together if left out").optional().parsed(number)],
        r#"{"user", "kernel", "idle", "iowait"}"#,
        ("get the host's processor time", nodecpustats),
    ),
    question(
        "nodememstats",
        "Show the memory of the host",
        &[Arg::word("cell", "CELL", "One NUMA cell; all together if left out").optional().parsed(number)],
        r#"{"total", "free", …}"#,
        ("get the host's memory", nodememstats),
    ),
    question(
        "freecell",
        "Show the free memory of the host, or of a NUMA cell",
        &[
            Arg::word("cellno", "CELL", "One NUMA cell").optional().parsed(number),
            Arg::flag("all", "Each NUMA cell and the sum").conflicts(&["cellno"]),
        ],
        r#"{"cells", "total_kib"}"#,
        ("get the free memory", freecell),
    ),
    question(
        "sysinfo",
        "Print what the host's firmware says of the host, as XML",
        &[],
        XML,
        ("get the host's firmware", |connection, _| {
            Ok(Shown::xml(connection.invoke(remote::ConnectGetSysinfoArgs { flags: 0 })?.sysinfo))
        }),
    ),
    question(
        "domcapabilities",
        "Print what a guest can have, as XML",
        &[
            Arg::word("virttype", "TYPE", "Type of the hypervisor: kvm or qemu").optional(),
            Arg::word("emulatorbin", "FILE", "The hypervisor's program").optional().of(Names::File),
            Arg::word("arch", "ARCH", "Architecture of the guest").optional(),
            Arg::word("machine", "MACHINE", "Machine type").optional(),
        ],
        XML,
        ("get the capabilities of guests", domcapabilities),
    )
    .changes(),
    question(
        "cpu-models",
        "List the processor models that guests of an architecture can have",
        &[Arg::word("arch", "ARCH", "The architecture")],
        "[…]",
        ("list processor models", cpu_models),
    )
    .example("x86_64"),
];

/// A number from 0 on.
fn number() -> ValueParser {
    clap::value_parser!(i32).range(0..).into()
}

fn maxvcpus(connection: &Connection, values: &Values<'_>) -> Result<Shown, CliError> {
    let r#type = values.text("type").map(str::to_owned);
    Ok(Shown::one("max_vcpus", connection.invoke(remote::ConnectGetMaxVcpusArgs { r#type })?.max_vcpus))
}

fn nodecpumap(connection: &Connection, values: &Values<'_>) -> Result<Shown, CliError> {
    let map = connection.invoke(remote::NodeGetCpuMapArgs { need_map: 1, need_online: 1, flags: 0 })?;
    let present = usize::try_from(map.ret).unwrap_or_default();
    let online = members(&map.cpumap, present);
    let pairs = [
        ("CPUs present", present.to_string()),
        ("CPUs online", map.online.to_string()),
        ("CPU map", drawn(values, &online, present)),
    ];
    Ok(Shown::pairs(json!({ "present": present, "online": map.online, "cpus": online }), pairs))
}

/// Figures of the host: as they are for programs, with a unit for people.
fn host_figures(figures: Vec<(String, u64)>, unit: &str) -> Shown {
    let json: serde_json::Map<_, _> = figures.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let pairs = figures.into_iter().map(|(key, value)| (key, format!("{value}{unit}")));
    Shown::new(json, Text::Pairs(pairs.collect()))
}

fn nodecpustats(connection: &Connection, values: &Values<'_>) -> Result<Shown, CliError> {
    let cpu_num = values.value("cpu").unwrap_or(-1);
    let stats = connection.invoke(remote::NodeGetCpuStatsArgs { cpu_num, nparams: MOST, flags: 0 })?.params;
    Ok(host_figures(stats.into_iter().map(|stat| (stat.field, stat.value)).collect(), ""))
}

fn nodememstats(connection: &Connection, values: &Values<'_>) -> Result<Shown, CliError> {
    let cell_num = values.value("cell").unwrap_or(-1);
    let stats = connection.invoke(remote::NodeGetMemoryStatsArgs { nparams: MOST, cell_num, flags: 0 })?.params;
    Ok(host_figures(stats.into_iter().map(|stat| (stat.field, stat.value)).collect(), " KiB"))
}

fn freecell(connection: &Connection, values: &Values<'_>) -> Result<Shown, CliError> {
    let one: Option<i32> = values.value("cellno");
    let cells = if one.is_some() || values.flag("all") {
        let start_cell = one.unwrap_or_default();
        let all = i32::try_from(connection.node_info()?.nodes).unwrap_or(i32::MAX);
        let maxcells = if one.is_some() { 1 } else { all };
        connection.invoke(remote::NodeGetCellsFreeMemoryArgs { start_cell, maxcells })?.cells
    } else {
        vec![connection.invoke(remote::NodeGetFreeMemoryArgs {})?.free_mem]
    };
    let kib: Vec<_> = cells.iter().map(|bytes| bytes / 1024).collect();
    let total: u64 = kib.iter().sum();
    let named = kib.iter().zip(one.unwrap_or_default()..).map(|(kib, cell)| (cell.to_string(), format!("{kib} KiB")));
    let mut pairs: Vec<_> = if one.is_some() || values.flag("all") { named.collect() } else { Vec::new() };
    if one.is_none() {
        pairs.push(("Total".to_owned(), format!("{total} KiB")));
    }
    let by_cell = if one.is_some() || values.flag("all") { json!(kib) } else { json!(null) };
    Ok(Shown::new(json!({ "cells": by_cell, "total_kib": total }), Text::Pairs(pairs)))
}

fn domcapabilities(connection: &Connection, values: &Values<'_>) -> Result<Shown, CliError> {
    let text = |name| values.text(name).map(str::to_owned);
    let args = remote::ConnectGetDomainCapabilitiesArgs {
        emulatorbin: text("emulatorbin"),
        arch: text("arch"),
        machine: text("machine"),
        virttype: text("virttype"),
        flags: 0,
    };
    Ok(Shown::xml(connection.invoke(args)?.capabilities))
}

fn cpu_models(connection: &Connection, values: &Values<'_>) -> Result<Shown, CliError> {
    let arch = values.need("arch").to_owned();
    let models = connection.invoke(remote::ConnectGetCpuModelNamesArgs { arch, need_results: 1, flags: 0 })?.models;
    let lines = models.iter().map(|model| format!("{model}\n")).collect();
    Ok(Shown::new(models, Text::Lines(lines)))
}

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
    let driver = connection.driver_type().map_err(wrap("get the driver"))?;
    let library = dotted_version(connection.lib_version().map_err(wrap("get the library's version"))?);
    let hypervisor = dotted_version(connection.version().map_err(wrap("get the hypervisor's version"))?);
    let client = env!("CARGO_PKG_VERSION");
    let json = json!({ "client": client, "library": library, "driver": driver, "hypervisor": hypervisor });
    let pairs = [
        ("Program", format!("bulkhead {client}")),
        ("Library", library),
        ("Running hypervisor", format!("{driver} {hypervisor}")),
    ];
    Ok(Shown::pairs(json, pairs))
}
