//! The verbs that the guest agent or the monitor answers.

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
use crate::shown::{Shown, Text};
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
        &[Done::always("domfsfreeze", "froze its file systems")],
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
        &[Done::always("domfsthaw", "thawed its file systems")],
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
        &[Done::always("domfstrim", "trimmed its file systems")],
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
        &[Done::always("set-user-password", "has a new password for the user")],
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
];

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
    session.acted("domtime", &domain, format_args!("Domain '{}' has a new time", domain.name()))
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
