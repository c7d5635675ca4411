//! The verbs that show how the host treats a domain.

use libclient::Domain;
use libclient::api::remote;
use serde_json::json;

use crate::commands::devices::figures;
use crate::commands::dom;
use crate::commands::info::question;
use crate::commands::stats::{listed, members};
use crate::error::CliError;
use crate::shown::{Shown, Text, plain};
use crate::table::{Arg, Names, Verb};
use crate::values::Values;

/// The most parameters that are asked for.
const MOST: i32 = 64;

/// The rows.
pub(crate) const VERBS: &[Verb] = &[
    question(
        "iothreadinfo",
        "List the threads of a domain that serve disks",
        &[
            Arg::domain(Names::Domain),
            Arg::bits("live", 1, "Of the running domain"),
            Arg::bits("config", 2, "Of the definition"),
            Arg::flag("current", "Of the running domain if it runs, else of the definition")
                .conflicts(&["live", "config"]),
        ],
        r#"[{"iothread", "affinity"}]"#,
        ("list the I/O threads of", iothreads),
    ),
    question(
        "schedinfo",
        "Show how the host schedules a domain",
        &[Arg::domain(Names::Domain)],
        r#"{"scheduler", "parameters": {…}}"#,
        ("get the scheduling of", schedinfo),
    ),
    question(
        "memtune",
        "Show the memory limits of a domain",
        &[Arg::domain(Names::Domain)],
        r#"{"hard_limit", …}"#,
        ("get the memory limits of", |domain, _| {
            let args = remote::DomainGetMemoryParametersArgs { dom: dom(domain), nparams: MOST, flags: 0 };
            Ok(Shown::figures(figures(domain.connection().invoke(args)?.params)))
        }),
    ),
];

fn iothreads(domain: &Domain, values: &Values<'_>) -> Result<Shown, CliError> {
    let args = remote::DomainGetIothreadInfoArgs { dom: dom(domain), flags: values.bits() };
    let threads = domain.connection().invoke(args)?.info;
    let affinity = |map: &[u8]| members(map, map.len() * 8);
    let json: Vec<_> = threads
        .iter()
        .map(|thread| json!({ "iothread": thread.iothread_id, "affinity": affinity(&thread.cpumap) }))
        .collect();
    let cpus = |map: &[u8]| listed(&affinity(map));
    let rows = threads.iter().map(|thread| vec![thread.iothread_id.to_string(), cpus(&thread.cpumap)]);
    Ok(Shown::new(json, Text::Table(&["IOThread ID", "CPU Affinity"], rows.collect())))
}

fn schedinfo(domain: &Domain, _: &Values<'_>) -> Result<Shown, CliError> {
    let connection = domain.connection();
    let scheduler = connection.invoke(remote::DomainGetSchedulerTypeArgs { dom: dom(domain) })?;
    let args = remote::DomainGetSchedulerParametersFlagsArgs { dom: dom(domain), nparams: scheduler.nparams, flags: 0 };
    // A driver without limits has nothing to list.
    let params = if scheduler.nparams == 0 { Vec::new() } else { connection.invoke(args)?.params };
    let figures = figures(params);
    let mut pairs = vec![("Scheduler".to_owned(), scheduler.r#type.clone())];
    pairs.extend(figures.iter().map(|(key, value)| (key.clone(), plain(value))));
    let parameters: serde_json::Map<_, _> = figures.into_iter().collect();
    Ok(Shown::new(json!({ "scheduler": scheduler.r#type, "parameters": parameters }), Text::Pairs(pairs)))
}
