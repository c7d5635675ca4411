//! Finding again what an earlier qemud left: every supervisor is asked at once, each with a deadline.
//!
//! Clients are let in when every guest has answered or had its time, so the first command after a restart sees all of them.
//! A supervisor that stays silent keeps its guest and its place in the list, without a state; its answer is taken whenever
//! it comes.

use std::{fs, os::unix::net::UnixStream, time::Duration};

use model::{Domain, DumpOptions, Live};
use qemud::{chain, edge::Found};
use serde::{Deserialize, Serialize};
use supervisor::protocol::{Answer, Request};

use super::{
    Control,
    guests::{Guest, GuestError, Phase, Process, Told},
    start::Start,
};
use crate::qemu::plan::DiskInUse;

/// How long clients wait at the door for a guest that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a supervisor keeps for a later control.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The live document.
    pub xml: String,
    /// The disks that the run has open.
    pub disks: Vec<DiskInUse>,
    /// It runs on KVM.
    pub kvm: bool,
    /// Somebody has spoken to its QEMU's monitor past its supervisor.
    #[serde(default)]
    pub tainted: bool,
    /// Its balloon was told to take memory from it, or to give some back.
    #[serde(default)]
    pub ballooned: bool,
}

impl Control {
    /// Takes over what the launcher found.
    pub(super) fn adopt(&mut self, found: Vec<Found>) {
        let waiting = std::rc::Rc::new(std::cell::Cell::new(1usize));
        for run in found {
            self.next_run = self.next_run.max(run.id + 1);
            let mut guest = Guest::new(run.id, run.uuid, run.name, Phase::Silent);
            guest.uid = run.uid;
            guest.pid = run.pid;
            self.guests.insert(run.id, guest);
            self.runs.insert(run.uuid, run.id);
            if !run.alive {
                self.run_ended(run.id, None);
                continue;
            }
            waiting.set(waiting.get() + 1);
            let waiting = std::rc::Rc::clone(&waiting);
            let settled = Box::new(move |control: &mut Control| control.one_less(&waiting));
            match self.dial(run.id) {
                Ok(()) => self.question(run.id, settled),
                Err(error) => {
                    tracing::warn!("run {}: its supervisor cannot be reached: {}", run.id, chain(&*error));
                    self.when_ended(run.id, settled);
                }
            }
        }
        self.one_less(&waiting);
        self.after(PATIENCE, Box::new(|control, ()| control.open_doors()));
    }

    /// A supervisor that does not take a connection, or closes it, is on its way out: the launcher will say so in a moment,
    /// and no client should find its guest in the list in between.
    fn when_ended(&mut self, id: u32, then: Box<dyn FnOnce(&mut Control)>) {
        match self.guests.get_mut(&id) {
            Some(guest) => guest.on_end.push(Box::new(|control, ()| then(control))),
            None => then(self),
        }
    }

    fn one_less(&mut self, waiting: &std::cell::Cell<usize>) {
        waiting.set(waiting.get().saturating_sub(1));
        if waiting.get() == 0 {
            self.open_doors();
        }
    }

    fn open_doors(&mut self) {
        let doors = std::mem::take(&mut self.doors);
        if doors.is_empty() {
            return;
        }
        for (listener, door) in doors {
            if let Err(error) = self.server.listen(listener, door) {
                tracing::error!("clients cannot be accepted: {error}");
            }
        }
        self.autostart();
    }

    /// Starts the guests that are to start with the host: when the first qemud since the boot of the host comes up, not when
    /// a later one does.
    fn autostart(&mut self) {
        let mark = self.instance.journal().with_file_name("autostarted");
        match fs::OpenOptions::new().write(true).create_new(true).open(&mark) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return,
            // Without the mark they would be started again and again, also those that somebody has stopped.
            Err(error) => {
                return tracing::error!("{} cannot be made, no guest is autostarted: {error}", mark.display());
            }
        }
        let wanted = self.definitions.iter().filter(|s| s.autostart && !self.runs.contains_key(&s.uuid));
        let domains: Vec<Domain> = wanted
            .filter_map(|summary| {
                let read = self.definitions.read(summary);
                read.inspect_err(|e| tracing::error!("domain '{}' is not autostarted: {}", summary.name, chain(e))).ok()
            })
            .collect();
        for domain in domains {
            let name = domain.name.clone();
            let then = move |_: &mut Control, started: super::start::Started| match started {
                Ok(_) => tracing::info!("domain '{name}' autostarted"),
                Err(error) => tracing::error!("domain '{name}' is not autostarted: {}", error.full_text()),
            };
            self.start(Start { domain, paused: false, given: Vec::new(), then: Box::new(then) });
        }
    }

    fn dial(&mut self, id: u32) -> Result<(), Box<dyn std::error::Error>> {
        let socket = UnixStream::connect(self.instance.supervisor_socket(id))?;
        self.link(id, socket)?;
        Ok(())
    }

    /// Asks a found supervisor for all that control must know, in one go: the record, the missed events, the state.
    fn question(&mut self, id: u32, answered: Box<dyn FnOnce(&mut Control)>) {
        let after = self.journal.seen(id);
        // A silent supervisor has as long as it needs; the doors do not wait for it.
        let wait = Duration::from_secs(86_400);
        self.ask_guest_within(id, &Request::Record, Vec::new(), wait, Box::new(move |c, told| c.take_record(id, told)));
        self.ask_guest_within(id, &Request::Events { after }, Vec::new(), wait, Box::new(|_, _| {}));
        let take_status = move |control: &mut Control, told: Told| {
            if matches!(told, Err(GuestError::Gone(_))) {
                return control.when_ended(id, answered);
            }
            control.take_status(id, told);
            answered(control);
        };
        self.ask_guest_within(id, &Request::Status, Vec::new(), wait, Box::new(take_status));
    }

    /// Lets a run's supervisor keep what is known of it now, for a later control.
    pub(super) fn keep_record(&mut self, id: u32) {
        let Some(guest) = self.guests.get(&id) else { return };
        let Some(domain) = &guest.domain else { return };
        let record = Record {
            xml: domain.to_xml(&DumpOptions { live: Some(Live { id }), ..DumpOptions::stored() }),
            disks: guest.disks.clone(),
            kvm: guest.kvm,
            tainted: guest.tainted,
            ballooned: guest.ballooned,
        };
        let text = serde_json::to_string(&record).unwrap_or_default();
        let kept = move |_: &mut Control, told: Told| {
            if let Err(error) = told {
                tracing::warn!("run {id}: a later qemud will not know of a change: {}", chain(&error));
            }
        };
        self.ask_guest(id, &Request::Keep(text), Vec::new(), Box::new(kept));
    }

    fn take_record(&mut self, id: u32, told: Told) {
        let Ok((Answer::Record(text), fds)) = told else { return };
        let parsed = serde_json::from_str::<Record>(&text).map_err(|e| e.to_string()).and_then(|record| {
            let domain = Domain::parse(&record.xml).map_err(|e| e.to_string())?.value;
            Ok((record, domain))
        });
        let Some(guest) = self.guests.get_mut(&id) else { return };
        guest.process = Process::new(fds);
        match parsed {
            Ok((record, domain)) => {
                guest.domain = Some(domain);
                guest.disks = record.disks;
                guest.kvm = record.kvm;
                guest.tainted = record.tainted;
                guest.ballooned = record.ballooned;
            }
            Err(error) => tracing::error!("run {id} ('{}'): its record cannot be read: {error}", guest.name),
        }
    }

    fn take_status(&mut self, id: u32, told: Told) {
        let (Ok((Answer::Status(status), _)), Some(guest)) = (told, self.guests.get_mut(&id)) else { return };
        guest.state = (status.state, status.reason);
        guest.started = status.started_seconds;
        if guest.phase == Phase::Silent {
            guest.phase = Phase::Running;
        }
    }
}
