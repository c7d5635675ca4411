//! `list`: the domains.

use clap::Args;
use libclient::{DomainRecord, ListFlags};
use serde::Serialize;

use crate::error::CliError;
use crate::session::Session;
use crate::words::{id_or_dash, state_token};

/// List domains: the active ones, if nothing else is asked for
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Inactive domains too
    #[arg(long)]
    all: bool,
    /// Inactive domains only
    #[arg(long, conflicts_with = "all")]
    inactive: bool,
    /// Print names only
    #[arg(long)]
    name: bool,
    /// Print UUIDs only
    #[arg(long)]
    uuid: bool,
    /// Print ids only
    #[arg(long)]
    id: bool,
    /// Domains in state running
    #[arg(long)]
    state_running: bool,
    /// Domains in state paused
    #[arg(long)]
    state_paused: bool,
    /// Domains in state shut off
    #[arg(long)]
    state_shutoff: bool,
    /// Domains with a definition
    #[arg(long)]
    persistent: bool,
    /// Domains that vanish when they stop
    #[arg(long)]
    transient: bool,
    /// Domains that start with the host
    #[arg(long)]
    autostart: bool,
    /// Domains that do not start with the host
    #[arg(long)]
    no_autostart: bool,
}

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

impl List {
    /// Prints the list.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let connection = session.connect()?;
        let mut records =
            connection.domains(self.flags()).map_err(|source| CliError::Ask { what: "list domains", source })?;
        // The running ones first, by id; then the others by name: a list that stays in place while guests come and go.
        records.sort_by(|one, other| {
            let key = |record: &DomainRecord| (record.domain.id().is_none(), record.domain.id());
            key(one).cmp(&key(other)).then_with(|| one.domain.name().cmp(other.domain.name()))
        });
        if session.out.is_json() {
            let records: Vec<_> = records.iter().map(RecordJson::of).collect();
            session.out.json(&records)?;
        } else if self.name || self.uuid || self.id {
            for record in &records {
                session.out.line(self.bare(record))?;
            }
        } else {
            let rows = records.iter().map(|record| {
                [id_or_dash(record.domain.id()), record.domain.name().to_owned(), record.state.name().to_owned()]
            });
            session.out.table(["Id", "Name", "State"], rows.collect())?;
        }
        Ok(())
    }

    fn flags(&self) -> ListFlags {
        let by_state = self.state_running || self.state_paused || self.state_shutoff;
        // A state says which domains are meant, so it needs no --all beside it.
        let scope = if self.all || (by_state && !self.inactive) {
            ListFlags::ACTIVE | ListFlags::INACTIVE
        } else if self.inactive {
            ListFlags::INACTIVE
        } else {
            ListFlags::ACTIVE
        };
        [
            (self.state_running, ListFlags::RUNNING),
            (self.state_paused, ListFlags::PAUSED),
            (self.state_shutoff, ListFlags::SHUTOFF),
            (self.persistent, ListFlags::PERSISTENT),
            (self.transient, ListFlags::TRANSIENT),
            (self.autostart, ListFlags::AUTOSTART),
            (self.no_autostart, ListFlags::NO_AUTOSTART),
        ]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(scope, |flags, (_, flag)| flags | flag)
    }

    fn bare(&self, record: &DomainRecord) -> String {
        let mut fields = Vec::new();
        if self.id {
            fields.push(id_or_dash(record.domain.id()));
        }
        if self.uuid {
            fields.push(record.domain.uuid().to_string());
        }
        if self.name {
            fields.push(record.domain.name().to_owned());
        }
        fields.join(" ")
    }
}
