//! `list`: the domains.

use libclient::api::consts::MetadataType;
use libclient::{Connection, DomainRecord, ListFlags};
use serde::Serialize;

use crate::commands::change::noted;
use crate::error::CliError;
use crate::shown::{Shown, Text};
use crate::table::{Access, Action, Arg, Json, Verb};
use crate::values::Values;
use crate::words::{id_or_dash, state_token};

/// The row.
pub(crate) const VERBS: &[Verb] = &[Verb {
    name: "list",
    aliases: &[],
    about: "List domains: the active ones, if nothing else is asked for",
    details: "",
    args: &[
        Arg::flag("all", "Inactive domains too"),
        Arg::flag("inactive", "Inactive domains only").conflicts(&["all"]),
        Arg::flag("name", "Print names only"),
        Arg::flag("uuid", "Print UUIDs only"),
        Arg::flag("id", "Print ids only"),
        Arg::bits("state-running", ListFlags::RUNNING.bits(), "Domains in state running"),
        Arg::bits("state-paused", ListFlags::PAUSED.bits(), "Domains in state paused"),
        Arg::bits("state-shutoff", ListFlags::SHUTOFF.bits(), "Domains in state shut off"),
        Arg::bits("state-other", ListFlags::OTHER.bits(), "Domains in another state"),
        Arg::bits("persistent", ListFlags::PERSISTENT.bits(), "Domains with a definition"),
        Arg::bits("transient", ListFlags::TRANSIENT.bits(), "Domains that vanish when they stop"),
        Arg::bits("autostart", ListFlags::AUTOSTART.bits(), "Domains that start with the host"),
        Arg::bits("no-autostart", ListFlags::NO_AUTOSTART.bits(), "Domains that do not start with the host"),
        Arg::bits("with-managed-save", ListFlags::MANAGEDSAVE.bits(), "Domains with a saved state"),
        Arg::bits("without-managed-save", ListFlags::NO_MANAGEDSAVE.bits(), "Domains without a saved state"),
        Arg::bits("with-snapshot", ListFlags::HAS_SNAPSHOT.bits(), "Domains with snapshots"),
        Arg::bits("without-snapshot", ListFlags::NO_SNAPSHOT.bits(), "Domains without snapshots"),
        Arg::bits("with-checkpoint", ListFlags::HAS_CHECKPOINT.bits(), "Domains with checkpoints"),
        Arg::bits("without-checkpoint", ListFlags::NO_CHECKPOINT.bits(), "Domains without checkpoints"),
        Arg::flag("title", "Print titles too, in the table"),
        Arg::flag("table", "Accepted as virsh does: a table is the default").conflicts(&["name", "uuid", "id"]),
    ],
    access: Access::Look,
    json: Json::Shape(
        r#"[{"id", "name", "uuid", "state", "reason", "persistent", "autostart", "supervisor_pid", "vcpus", "memory_kib"}]"#,
    ),
    example: "",
    action: Action::AskHost { what: "list domains", ask: list },
}];

#[derive(Serialize)]
struct RecordJson {
    id: Option<u32>,
    name: String,
    uuid: String,
    state: &'static str,
    reason: &'static str,
    persistent: bool,
    autostart: bool,
    supervisor_pid: Option<u32>,
    vcpus: u32,
    memory_kib: u64,
}

impl RecordJson {
    fn of(record: &DomainRecord) -> Self {
        Self {
            id: record.domain.id(),
            name: record.domain.name().to_owned(),
            uuid: record.domain.uuid().to_string(),
            state: state_token(record.state),
            reason: record.reason.name(),
            persistent: record.persistent,
            autostart: record.autostart,
            supervisor_pid: record.supervisor_pid,
            vcpus: record.vcpus,
            memory_kib: record.memory_kib,
        }
    }
}

fn list(connection: &Connection, values: &Values<'_>) -> Result<Shown, CliError> {
    let mut records = connection.domains(wanted(values))?;
    // The running ones first, by id; then the others by name: a list that stays in place while guests come and go.
    records.sort_by(|one, other| {
        let key = |record: &DomainRecord| (record.domain.id().is_none(), record.domain.id());
        key(one).cmp(&key(other)).then_with(|| one.domain.name().cmp(other.domain.name()))
    });
    let json: Vec<_> = records.iter().map(RecordJson::of).collect();
    let text = if values.flag("name") || values.flag("uuid") || values.flag("id") {
        Text::Lines(records.iter().map(|record| bare(values, record)).collect())
    } else {
        table(values.flag("title"), &records)?
    };
    Ok(Shown::new(json, text))
}

fn table(with_title: bool, records: &[DomainRecord]) -> Result<Text, CliError> {
    let mut rows = Vec::new();
    for record in records {
        let name = record.domain.name().to_owned();
        let mut row = vec![id_or_dash(record.domain.id()), name, record.state.name().to_owned()];
        if with_title {
            let title = noted(&record.domain, MetadataType::Title, None, 0);
            row.push(title.map_err(|error| error.of_domain("get the title of", &record.domain))?.unwrap_or_default());
        }
        rows.push(row);
    }
    let heads: &'static [&'static str] =
        if with_title { &["Id", "Name", "State", "Title"] } else { &["Id", "Name", "State"] };
    Ok(Text::Table(heads, rows))
}

fn wanted(values: &Values<'_>) -> ListFlags {
    let by_state =
        ["state-running", "state-paused", "state-shutoff", "state-other"].iter().any(|flag| values.flag(flag));
    // A state says which domains are meant, so it needs no --all beside it.
    let scope = if values.flag("all") || (by_state && !values.flag("inactive")) {
        ListFlags::ACTIVE | ListFlags::INACTIVE
    } else if values.flag("inactive") {
        ListFlags::INACTIVE
    } else {
        ListFlags::ACTIVE
    };
    scope | ListFlags::from_bits_truncate(values.bits())
}

/// The fields of a domain that are asked for, on a line.
fn bare(values: &Values<'_>, record: &DomainRecord) -> String {
    let mut fields = Vec::new();
    if values.flag("id") {
        fields.push(id_or_dash(record.domain.id()));
    }
    if values.flag("uuid") {
        fields.push(record.domain.uuid().to_string());
    }
    if values.flag("name") {
        fields.push(record.domain.name().to_owned());
    }
    format!("{}\n", fields.join(" "))
}
