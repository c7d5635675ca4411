//! The verbs that show one domain.

use libclient::{Domain, DomainInfo, ErrorCode, GuestInfo};
use serde::Serialize;

use crate::commands::lifecycle::failed;
use crate::error::CliError;
use crate::session::DomainJson;
use crate::shown::{Shown, Text};
use crate::table::{Action, Arg, DomainQuestion, Names, Verb};
use crate::values::Values;
use crate::words::{id_or_dash, state_token, yes_no};

/// A row of a question about one domain.
pub(crate) const fn question(
    name: &'static str,
    about: &'static str,
    args: &'static [Arg],
    shape: &'static str,
    (what, ask): (&'static str, DomainQuestion),
) -> Verb {
    Verb::look(name, about, args, shape, "test", Action::AskDomain { what, ask })
}

/// The only argument of most questions.
pub(crate) const ANY: &[Arg] = &[Arg::domain(Names::Domain)];

const NAMES: &str = r#"{"id", "name", "uuid"}"#;

/// The rows.
pub(crate) const VERBS: &[Verb] = &[
    question(
        "dominfo",
        "Show what a domain has and uses",
        ANY,
        r#"{"id", "name", "uuid", "os_type", "state", "vcpus", "cpu_time_ns", "max_memory_kib", "memory_kib", "persistent", "autostart", "supervisor_pid", "accel", "machine"}"#,
        ("describe", |domain, _| Ok(Facts::ask(domain.clone())?.shown())),
    ),
    question(
        "domstate",
        "Show the state of a domain",
        &[Arg::domain(Names::Domain), Arg::flag("reason", "Also print the reason")],
        r#"{"state", "reason"}"#,
        ("get the state of", domstate),
    ),
    question(
        "domid",
        "Print the id of a domain; '-' when it is off",
        ANY,
        NAMES,
        ("describe", |domain, _| Ok(name(domain, id_or_dash(domain.id())))),
    ),
    question(
        "domuuid",
        "Print the UUID of a domain",
        ANY,
        NAMES,
        ("describe", |domain, _| Ok(name(domain, domain.uuid().to_string()))),
    ),
    question(
        "domname",
        "Print the name of a domain",
        ANY,
        NAMES,
        ("describe", |domain, _| Ok(name(domain, domain.name().to_owned()))),
    ),
];

/// One of the names of a domain; programs get all three.
fn name(domain: &Domain, line: String) -> Shown {
    Shown::new(DomainJson::of(domain), Text::Line(line))
}

/// All that `dominfo` shows.
struct Facts {
    domain: Domain,
    os_type: String,
    info: DomainInfo,
    persistent: bool,
    autostart: bool,
    guest: Option<GuestInfo>,
}

#[derive(Serialize)]
struct FactsJson {
    id: Option<u32>,
    name: String,
    uuid: String,
    os_type: String,
    state: &'static str,
    vcpus: u32,
    cpu_time_ns: u64,
    max_memory_kib: u64,
    memory_kib: u64,
    persistent: bool,
    autostart: bool,
    supervisor_pid: Option<u32>,
    accel: Option<String>,
    machine: Option<String>,
}

impl Facts {
    fn ask(domain: Domain) -> Result<Self, CliError> {
        let os_type = domain.os_type()?;
        let info = domain.info()?;
        let persistent = domain.is_persistent()?;
        // A transient domain cannot start with the host, and libvirt refuses the question.
        let autostart = persistent && domain.autostart()?;
        let guest = if info.state.is_active() { guest_info(&domain)? } else { None };
        Ok(Self { domain, os_type, info, persistent, autostart, guest })
    }

    fn shown(&self) -> Shown {
        let pairs = self.pairs().into_iter().map(|(key, value)| (key.to_owned(), value));
        Shown::new(self.json(), Text::Pairs(pairs.collect()))
    }

    fn json(&self) -> FactsJson {
        let text =
            |field: fn(&GuestInfo) -> &String| self.guest.as_ref().map(field).filter(|text| !text.is_empty()).cloned();
        FactsJson {
            id: self.domain.id(),
            name: self.domain.name().to_owned(),
            uuid: self.domain.uuid().to_string(),
            os_type: self.os_type.clone(),
            state: state_token(self.info.state),
            vcpus: self.info.vcpus,
            cpu_time_ns: self.info.cpu_time_ns,
            max_memory_kib: self.info.max_memory_kib,
            memory_kib: self.info.memory_kib,
            persistent: self.persistent,
            autostart: self.autostart,
            supervisor_pid: self.guest.as_ref().and_then(|guest| guest.supervisor_pid),
            accel: text(|guest| &guest.accel),
            machine: text(|guest| &guest.machine),
        }
    }

    fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![
            ("Id", id_or_dash(self.domain.id())),
            ("Name", self.domain.name().to_owned()),
            ("UUID", self.domain.uuid().to_string()),
            ("OS Type", self.os_type.clone()),
            ("State", self.info.state.name().to_owned()),
            ("CPU(s)", self.info.vcpus.to_string()),
        ];
        if self.info.state.is_active() {
            pairs.push(("CPU time", seconds(self.info.cpu_time_ns)));
        }
        pairs.extend([
            ("Max memory", format!("{} KiB", self.info.max_memory_kib)),
            ("Used memory", format!("{} KiB", self.info.memory_kib)),
            ("Persistent", yes_no(self.persistent)),
            ("Autostart", if self.autostart { "enable" } else { "disable" }.to_owned()),
        ]);
        let json = self.json();
        pairs.extend(json.machine.map(|machine| ("Machine", machine)));
        pairs.extend(json.accel.map(|accel| ("Accelerator", accel)));
        pairs.extend(json.supervisor_pid.map(|pid| ("Supervisor", format!("pid {pid}"))));
        pairs
    }
}

/// What the guest's processes say, or None from a driver that has no processes and from a guest that has just ended.
fn guest_info(domain: &Domain) -> Result<Option<GuestInfo>, CliError> {
    match domain.guest_info() {
        Ok(guest) => Ok(Some(guest)),
        Err(error) if matches!(error.code, ErrorCode::NO_SUPPORT | ErrorCode::OPERATION_INVALID) => Ok(None),
        Err(error) => Err(failed("describe", domain)(error)),
    }
}

/// Nanoseconds as virsh shows them: seconds to a tenth.
pub(crate) fn seconds(nanos: u64) -> String {
    format!("{}.{}s", nanos / 1_000_000_000, nanos / 100_000_000 % 10)
}

fn domstate(domain: &Domain, values: &Values<'_>) -> Result<Shown, CliError> {
    let (state, reason) = domain.state()?;
    let json = serde_json::json!({ "state": state_token(state), "reason": reason.name() });
    let line = match values.flag("reason") {
        true => format!("{} ({})", state.name(), reason.name()),
        false => state.name().to_owned(),
    };
    Ok(Shown::new(json, Text::Line(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_cut_not_rounded() {
        assert_eq!(seconds(0), "0.0s");
        assert_eq!(seconds(12_999_999_999), "12.9s");
    }
}
