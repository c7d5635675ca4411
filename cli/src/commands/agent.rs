//! The verbs that the guest agent answers, and those that keep a guest in a file or reach its monitor.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::builder::ValueParser;
use libclient::Domain;
use libclient::api::{consts::MonitorFlags, qemu, remote};
use serde_json::json;

use crate::commands::dom;
use crate::commands::info::question;
use crate::commands::lifecycle::simple;
use crate::error::CliError;
use crate::session::Session;
use crate::shown::{Shown, Text, plain};
use crate::table::{Access, Action, Arg, Done, Json, Names, Verb};
use crate::values::Values;

const RUNNING: &[Arg] = &[Arg::domain(Names::Running)];
const MOUNTPOINTS: &[Arg] = &[
    Arg::domain(Names::Running),
    Arg::word("mountpoint", "MOUNTPOINT", "File systems by where they are mounted; all if left out").optional().many(),
];

/// The rows.
pub(crate) const VERBS: &[Verb] = &[
    question(
        "domhostname",
        "Print the name that a guest gives itself",
        RUNNING,
        r#"{"hostname"}"#,
        ("get the name of", |domain, _| {
            let args = remote::DomainGetHostnameArgs { dom: dom(domain), flags: 0 };
            Ok(Shown::one("hostname", domain.connection().invoke(args)?.hostname))
        }),
    )
    .changes(),
    Verb {
        name: "domtime",
        aliases: &[],
        about: "Print or set the clock of a guest, through its agent",
        details: "Times are seconds since 1970, UTC.",
        args: &[
            Arg::domain(Names::Running),
            Arg::flag("now", "Set it to the time of this host").conflicts(&["time"]),
            Arg::option("time", "SECONDS", "Set it to this time").parsed(|| clap::value_parser!(i64).into()),
            Arg::bits("sync", 1, "Set it by the guest's hardware clock").conflicts(&["time", "now"]),
        ],
        access: Access::Change,
        json: Json::Shape(r#"{"seconds", "nanoseconds"}"#),
        example: "test",
        action: Action::Run(domtime),
    },
    simple(
        "domfsfreeze",
        "Freeze the file systems of a guest, through its agent",
        "",
        MOUNTPOINTS,
        |domain, values| {
            let args = remote::DomainFsfreezeArgs { dom: dom(domain), mountpoints: mountpoints(values), flags: 0 };
            domain.connection().invoke(args)?;
            Ok(())
        },
        &[Done::always("domfsfreeze", "has frozen file systems")],
    )
    .what("freeze the file systems of"),
    simple(
        "domfsthaw",
        "Thaw the file systems of a guest, through its agent",
        "",
        MOUNTPOINTS,
        |domain, values| {
            let args = remote::DomainFsthawArgs { dom: dom(domain), mountpoints: mountpoints(values), flags: 0 };
            domain.connection().invoke(args)?;
            Ok(())
        },
        &[Done::always("domfsthaw", "has no frozen file systems")],
    )
    .what("thaw the file systems of"),
    simple(
        "domfstrim",
        "Let a guest give unused blocks of its file systems back, through its agent",
        "",
        &[
            Arg::domain(Names::Running),
            Arg::option("minimum", "BYTES", "The least that is given back at once")
                .default("0")
                .parsed(|| clap::value_parser!(u64).into()),
            Arg::option("mountpoint", "MOUNTPOINT", "One file system by where it is mounted"),
        ],
        |domain, values| {
            let mount_point = values.text("mountpoint").map(str::to_owned);
            let minimum = values.value("minimum").unwrap_or_default();
            let args = remote::DomainFstrimArgs { dom: dom(domain), mount_point, minimum, flags: 0 };
            Ok(domain.connection().invoke(args)?)
        },
        &[Done::always("domfstrim", "has given unused blocks back")],
    )
    .what("trim the file systems of"),
    simple(
        "set-user-password",
        "Set the password of a user of a guest, through its agent",
        "The password is in the list of processes while the command runs.",
        &[
            Arg::domain(Names::Running),
            Arg::word("user", "USER", "The user"),
            Arg::word("password", "PASSWORD", "The new password"),
            Arg::bits("encrypted", 1, "The password is encrypted already"),
        ],
        |domain, values| {
            let text = |name| values.text(name).map(str::to_owned);
            let (user, password) = (text("user"), text("password"));
            let args = remote::DomainSetUserPasswordArgs { dom: dom(domain), user, password, flags: values.bits() };
            Ok(domain.connection().invoke(args)?)
        },
        &[Done::always("set-user-password", "has another password for the user")],
    )
    .what("set a password in")
    .example("test root secret"),
    Verb {
        name: "qemu-monitor-command",
        aliases: &[],
        about: "Send a command to the monitor of QEMU, at your own risk",
        details: "The driver does not learn what the command changes.",
        args: &[
            Arg::domain(Names::Active),
            Arg::word("cmd", "COMMAND", "The command, in JSON unless --hmp is given").many(),
            Arg::bits("hmp", MonitorFlags::HMP.bits(), "The command is one of the human monitor"),
            Arg::flag("pretty", "Indent the answer"),
        ],
        access: Access::Change,
        json: Json::Shape(r#"{"answer"}"#),
        example: "test {\"execute\":\"query-status\"}",
        action: Action::AskDomain { what: "send a monitor command to", ask: monitor },
    },
    simple(
        "managedsave",
        "Save domains and stop them; their next start goes on from there",
        "",
        &[
            Arg::domains(Names::Active),
            Arg::bits("bypass-cache", 1, "Do not fill the host's cache with the file"),
            Arg::bits("running", 2, "The next start lets the virtual CPUs run").conflicts(&["paused"]),
            Arg::bits("paused", 4, "The next start leaves the virtual CPUs stopped"),
        ],
        |domain, values| {
            let args = remote::DomainManagedSaveArgs { dom: dom(domain), flags: values.bits() };
            Ok(domain.connection().invoke(args)?)
        },
        &[Done::always("managedsave", "was saved")],
    )
    .what("save"),
    simple(
        "managedsave-remove",
        "Remove what was saved of domains",
        "",
        &[Arg::domains(Names::Inactive)],
        |domain, _| {
            Ok(domain.connection().invoke(remote::DomainManagedSaveRemoveArgs { dom: dom(domain), flags: 0 })?)
        },
        &[Done::always("managedsave-remove", "has no saved state")],
    )
    .what("remove the saved state of"),
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
            Ok(Shown::figures(super::devices::figures(domain.connection().invoke(args)?.params)))
        }),
    ),
];

/// The most parameters that are asked for.
const MOST: i32 = 64;

fn mountpoints(values: &Values<'_>) -> Vec<String> {
    values.texts("mountpoint").into_iter().map(str::to_owned).collect()
}

fn domtime(values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
    let domain = session.domain(values.need("domain"))?;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time: Option<i64> = values.value("time");
    let time = if values.flag("now") { i64::try_from(now().as_secs()).ok() } else { time };
    let named = |error: libclient::Error| CliError::from(error).of_domain("reach the clock of", &domain);
    if time.is_none() && !values.flag("sync") {
        let args = remote::DomainGetTimeArgs { dom: dom(&domain), flags: 0 };
        let time = domain.connection().invoke(args).map_err(named)?;
        let json = json!({ "seconds": time.seconds, "nanoseconds": time.nseconds });
        return session.show(&Shown::new(json, Text::Line(format!("Time: {}", time.seconds))));
    }
    let seconds = time.unwrap_or_default();
    let args = remote::DomainSetTimeArgs { dom: dom(&domain), seconds, nseconds: 0, flags: values.bits() };
    domain.connection().invoke(args).map_err(named)?;
    session.acted("domtime", &domain, format_args!("Domain '{}' has its clock set", domain.name()))
}

fn monitor(domain: &Domain, values: &Values<'_>) -> Result<Shown, CliError> {
    let cmd = values.texts("cmd").join(" ");
    let answer =
        domain.connection().invoke(qemu::DomainMonitorCommandArgs { dom: dom(domain), cmd, flags: values.bits() })?;
    let mut text = answer.result;
    let parsed: Option<serde_json::Value> = serde_json::from_str(&text).ok().filter(|_| !values.flag("hmp"));
    if values.flag("pretty")
        && let Some(pretty) = parsed.as_ref().and_then(|value| serde_json::to_string_pretty(value).ok())
    {
        text = pretty;
    }
    let json = json!({ "answer": parsed.unwrap_or_else(|| text.clone().into()) });
    Ok(Shown::new(json, Text::Lines(text)))
}

fn iothreads(domain: &Domain, values: &Values<'_>) -> Result<Shown, CliError> {
    let args = remote::DomainGetIothreadInfoArgs { dom: dom(domain), flags: values.bits() };
    let threads = domain.connection().invoke(args)?.info;
    let affinity = |map: &[u8]| super::stats::members(map, map.len() * 8);
    let json: Vec<_> = threads
        .iter()
        .map(|thread| json!({ "iothread": thread.iothread_id, "affinity": affinity(&thread.cpumap) }))
        .collect();
    let cpus = |map: &[u8]| affinity(map).iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let rows = threads.iter().map(|thread| vec![thread.iothread_id.to_string(), cpus(&thread.cpumap)]);
    Ok(Shown::new(json, Text::Table(&["IOThread ID", "CPU Affinity"], rows.collect())))
}

fn schedinfo(domain: &Domain, _: &Values<'_>) -> Result<Shown, CliError> {
    let connection = domain.connection();
    let scheduler = connection.invoke(remote::DomainGetSchedulerTypeArgs { dom: dom(domain) })?;
    let args = remote::DomainGetSchedulerParametersFlagsArgs { dom: dom(domain), nparams: scheduler.nparams, flags: 0 };
    // A driver without limits has nothing to list.
    let params = if scheduler.nparams == 0 { Vec::new() } else { connection.invoke(args)?.params };
    let figures = super::devices::figures(params);
    let mut pairs = vec![("Scheduler".to_owned(), scheduler.r#type.clone())];
    pairs.extend(figures.iter().map(|(key, value)| (key.clone(), plain(value))));
    let parameters: serde_json::Map<_, _> = figures.into_iter().collect();
    Ok(Shown::new(json!({ "scheduler": scheduler.r#type, "parameters": parameters }), Text::Pairs(pairs)))
}

/// Ways to end or restart a guest, as virsh lists them: `acpi,agent`.
pub(crate) fn modes() -> ValueParser {
    ValueParser::new(|text: &str| {
        let bit = |word: &str| match word {
            "acpi" => Ok(1),
            "agent" => Ok(2),
            "initctl" => Ok(4),
            "signal" => Ok(8),
            "paravirt" => Ok(16),
            _ => Err(format!("'{word}' is none of acpi, agent, initctl, signal, paravirt")),
        };
        text.split(',').try_fold(0u32, |bits, word| Ok::<_, String>(bits | bit(word)?))
    })
}
