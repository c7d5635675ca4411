//! The verbs that keep a guest in a file.

use std::path::PathBuf;

use libclient::Domain;
use libclient::api::remote;

use crate::commands::dom;
use crate::commands::lifecycle::simple;
use crate::error::CliError;
use crate::session::Session;
use crate::table::{Access, Action, Arg, Done, Json, Names, Verb};
use crate::values::Values;

const BYPASS: Arg = Arg::bits("bypass-cache", 1, "Do not fill the host's cache with the file");
const RUNNING: Arg = Arg::bits("running", 2, "Let the virtual CPUs run when the guest goes on").conflicts(&["paused"]);
const PAUSED: Arg = Arg::bits("paused", 4, "Leave the virtual CPUs stopped when the guest goes on");

/// The rows.
pub(crate) const VERBS: &[Verb] = &[
    simple(
        "save",
        "Save a domain to a file and stop it",
        "The daemon writes the file, so it is one of the daemon's host.",
        &[Arg::domain(Names::Active), Arg::word("file", "FILE", "The file").path(), BYPASS, RUNNING, PAUSED],
        |domain, values| {
            let args =
                remote::DomainSaveFlagsArgs { dom: dom(domain), to: path(values)?, dxml: None, flags: values.bits() };
            Ok(domain.connection().invoke(args)?)
        },
        &[Done::always("save", "was saved")],
    )
    .example("test /nope/image"),
    Verb {
        name: "restore",
        aliases: &[],
        about: "Let a domain go on from the file that it was saved to",
        details: "",
        args: &[Arg::word("file", "FILE", "The file").path(), BYPASS, RUNNING, PAUSED],
        access: Access::Change,
        json: Json::Shape(r#"{"action", "file"}"#),
        example: "/nope/image",
        action: Action::Run(restore),
    },
    simple(
        "dump",
        "Write the memory of a domain to a file, to look for faults",
        "The daemon writes the file, so it is one of the daemon's host.",
        &[
            Arg::domain(Names::Active),
            Arg::word("file", "FILE", "The file").path(),
            Arg::bits("crash", 1, "End the domain afterwards"),
            Arg::bits("live", 2, "Let the domain run meanwhile").conflicts(&["crash"]),
            Arg::bits("bypass-cache", 4, "Do not fill the host's cache with the file"),
            Arg::bits("reset", 8, "Reset the domain afterwards").conflicts(&["crash"]),
            Arg::bits("memory-only", 16, "Write memory and registers only, which debuggers read"),
        ],
        core_dump,
        &[Done::always("dump", "was dumped")],
    )
    .example("test /nope/core"),
    simple(
        "managedsave",
        "Save domains and stop them; their next start goes on from there",
        "",
        &[Arg::domains(Names::Active), BYPASS, RUNNING, PAUSED],
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
        &[Done::always("managedsave-remove", "no longer has a saved state")],
    )
    .what("remove the saved state of"),
];

/// The file, as a path of the daemon's host.
fn path(values: &Values<'_>) -> Result<String, CliError> {
    let path: PathBuf = values.value("file").unwrap_or_default();
    let failed = |source| CliError::GuestFile { role: "file", path: path.clone(), source };
    let absolute = std::path::absolute(&path).map_err(failed)?;
    let text = absolute.into_os_string().into_string();
    text.map_err(|_| failed(std::io::Error::other("its path is not UTF-8, so no call can name it")))
}

fn core_dump(domain: &Domain, values: &Values<'_>) -> Result<(), CliError> {
    let (to, flags) = (path(values)?, values.bits());
    // 0 is the hypervisor's own format.
    let args = remote::DomainCoreDumpWithFormatArgs { dom: dom(domain), to, dumpformat: 0, flags };
    Ok(domain.connection().invoke(args)?)
}

fn restore(values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
    let from = path(values)?;
    let args = remote::DomainRestoreFlagsArgs { from: from.clone(), dxml: None, flags: values.bits() };
    let wrap = |source| CliError::Document { what: "restore", from: format!("'{from}'"), source };
    session.connect()?.invoke(args).map_err(wrap)?;
    session.acted_on_file("restore", &from, format_args!("Domain restored from '{from}'"))
}
