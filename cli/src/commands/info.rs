//! The verbs that show one domain.

use clap::Args;
use clap_complete::ArgValueCompleter;
use libclient::{Domain, DomainInfo, ErrorCode, GuestInfo};
use serde::Serialize;

use crate::commands::lifecycle::failed;
use crate::complete;
use crate::error::CliError;
use crate::session::{DomainJson, Session};
use crate::words::{id_or_dash, state_token, yes_no};

/// Show what a domain has and uses
#[derive(Debug, Args)]
pub(crate) struct Dominfo {
    /// Name, UUID or id
    #[arg(add = ArgValueCompleter::new(complete::any_domain))]
    domain: String,
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

impl Dominfo {
    /// Prints it.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let facts = Facts::ask(session.domain(&self.domain)?)?;
        if session.out.is_json() {
            session.out.json(&facts.json())?;
        } else {
            session.out.pairs(&facts.pairs())?;
        }
        Ok(())
    }
}

impl Facts {
    fn ask(domain: Domain) -> Result<Self, CliError> {
        let os_type = domain.os_type().map_err(failed("describe", &domain))?;
        let info = domain.info().map_err(failed("describe", &domain))?;
        let persistent = domain.is_persistent().map_err(failed("describe", &domain))?;
        // A transient domain cannot start with the host, and libvirt refuses the question.
        let autostart = persistent && domain.autostart().map_err(failed("describe", &domain))?;
        let guest = if info.state.is_active() { guest_info(&domain)? } else { None };
        Ok(Self { domain, os_type, info, persistent, autostart, guest })
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
fn seconds(nanos: u64) -> String {
    format!("{}.{}s", nanos / 1_000_000_000, nanos / 100_000_000 % 10)
}

/// Show the state of a domain
#[derive(Debug, Args)]
pub(crate) struct Domstate {
    /// Name, UUID or id
    #[arg(add = ArgValueCompleter::new(complete::any_domain))]
    domain: String,
    /// And why it is in that state
    #[arg(long)]
    reason: bool,
}

impl Domstate {
    /// Prints it.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let domain = session.domain(&self.domain)?;
        let (state, reason) = domain.state().map_err(failed("ask for the state of", &domain))?;
        if session.out.is_json() {
            let shown = serde_json::json!({ "state": state_token(state), "reason": reason.name() });
            session.out.json(&shown)?;
        } else if self.reason {
            session.out.line(format_args!("{} ({})", state.name(), reason.name()))?;
        } else {
            session.out.line(state.name())?;
        }
        Ok(())
    }
}

/// Declares a verb that prints one of a domain's three names.
macro_rules! name_verb {
    ($(#[doc = $doc:literal])+ $verb:ident, |$domain:ident| $field:expr) => {
        $(#[doc = $doc])+
        #[derive(Debug, Args)]
        pub(crate) struct $verb {
            /// Name, UUID or id
            #[arg(add = ArgValueCompleter::new(complete::any_domain))]
            domain: String,
        }

        impl $verb {
            /// Prints it.
            pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
                let $domain = session.domain(&self.domain)?;
                if session.out.is_json() {
                    session.out.json(&DomainJson::of(&$domain))?;
                } else {
                    session.out.line($field)?;
                }
                Ok(())
            }
        }
    };
}

name_verb!(
    /// Print the id of a domain; '-' when it is off
    Domid, |domain| id_or_dash(domain.id())
);
name_verb!(
    /// Print the UUID of a domain
    Domuuid, |domain| domain.uuid()
);
name_verb!(
    /// Print the name of a domain
    Domname, |domain| domain.name()
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_cut_not_rounded() {
        assert_eq!(seconds(0), "0.0s");
        assert_eq!(seconds(12_999_999_999), "12.9s");
    }
}
