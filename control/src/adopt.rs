//! Finding again what an earlier qemud left, and finding again a supervisor whose connection was lost: the launcher dials,
//! and control asks each supervisor at once for all that it must know, each with a deadline.
//!
//! Clients are let in when every guest has answered or had its time, so the first command after a restart sees all of them.
//! A supervisor that stays silent keeps its guest and its place in the list, without a state; its answer is taken whenever
//! it comes.

use std::{
    cell::Cell,
    os::unix::net::UnixStream,
    rc::Rc,
    time::{Duration, Instant},
};

use api::consts::{DomainState, StartedDetail};
use model::{Domain, DumpOptions, Live};
use qemud::{
    chain,
    edge::{Found, FromLauncher, Life, Purpose, ToLauncher},
};
use registry::{Run, State};
use serde::{Deserialize, Serialize};
use supervisor::protocol::{Answer, Request, Status};
use uuid::Uuid;

use super::{
    Control,
    guests::{Guest, Process, SupervisorReply},
    link::Link,
};
use crate::qemu::plan::DiskInUse;

/// How long clients wait at the listener for a guest that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A silent supervisor has as long as it needs.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(86_400);
/// How long a lost supervisor is left alone before it is dialled again: at first, and at most.
const REDIAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// No machine of QEMU's has more virtual CPUs. A record that says so is not the one that its supervisor was given.
const VCPUS_MAX: u32 = 8192;

/// What a supervisor keeps for a later control.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The live document.
    pub xml: String,
    /// The disks that the run has open. Control goes by the launcher's record and adds these only where that has none.
    pub disks: Vec<DiskInUse>,
    /// It runs on KVM.
    pub kvm: bool,
    /// Somebody has spoken to its QEMU's monitor past its supervisor.
    #[serde(default)]
    pub tainted: bool,
    /// Its balloon was told to take memory from it, or to give some back.
    #[serde(default)]
    pub ballooned: bool,
    /// It lives for the connection that started it, and so not longer than the control that had it.
    #[serde(default)]
    pub autodestroy: bool,
}

/// When a supervisor is dialled again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Redial {
    wait: Duration,
    timer: Option<(Instant, u64)>,
    /// Since when it is heard.
    heard: Option<Instant>,
}

/// Counts down what the listeners wait for.
type Settled = Rc<Cell<usize>>;

impl Control {
    /// Takes over what the launcher found.
    pub(super) fn adopt(&mut self, found: Vec<Found>) {
        self.launcher.tell(&ToLauncher::RunsUpTo { run: self.journal.highest_run() });
        self.journal.keep_runs(&found.iter().map(|run| run.run).collect());
        let waiting: Settled = Rc::new(Cell::new(1));
        for run in found {
            if run.purpose == Purpose::Probe {
                self.adopt_probe(&run);
                continue;
            }
            let (id, life, quarantine) = (run.run, run.life.clone(), run.quarantine.clone());
            self.take_over(run);
            match (life, quarantine) {
                (Life::Gone, _) => {
                    // Its end takes a moment, and no client should find it in the list.
                    waiting.set(waiting.get() + 1);
                    self.when_ended(id, Some(Rc::clone(&waiting)));
                    self.run_ended(id, None);
                }
                (_, Some(why)) => {
                    tracing::error!(run = id, "quarantined until it is destroyed or qemud is restarted: {why}");
                }
                (Life::Alive, None) => {
                    waiting.set(waiting.get() + 1);
                    self.dial(id, Some(Rc::clone(&waiting)));
                }
                (Life::Unknown { why }, None) => {
                    tracing::warn!(run = id, "nobody can tell whether this run lives: {why}");
                    self.dial(id, None);
                }
            }
        }
        self.one_less(&waiting);
        self.after(PATIENCE, Box::new(|control, ()| control.open_doors()));
    }

    fn take_over(&mut self, run: Found) {
        // Where the launcher's record cannot be read, the journal may know: a guest must not be started twice.
        let told = self.journal.guest_of(run.run).filter(|_| run.uuid.is_none());
        let (uuid, name) = match told {
            Some((uuid, name)) => (Some(uuid), Some(name.to_owned())),
            None => (run.uuid, run.name.clone()),
        };
        let uuid = self.objects.adopt(registry::Found { run: Run(run.run), uuid, name }, None);
        let name = self.objects.get(&uuid).map(|object| object.name().to_owned()).unwrap_or_default();
        let mut guest = Guest::new(run.run, uuid, name);
        guest.uid = run.uid;
        guest.pid = run.pid.unwrap_or_default();
        guest.disks = run.disks;
        guest.quarantine = run.quarantine;
        self.guests.insert(run.run, guest);
    }

    fn one_less(&mut self, waiting: &Settled) {
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

    /// Has the launcher connect to a run's supervisor, and asks that for all that control must know.
    fn dial(&mut self, id: u32, settled: Option<Settled>) {
        let then = move |control: &mut Control, done: super::launcher_link::Done| {
            let linked = match done {
                Ok((FromLauncher::Dialed, mut fds)) => fds.pop().ok_or_else(|| "no connection came".to_owned()),
                Ok(_) => Err("the launcher gave another answer".to_owned()),
                Err(refusal) => Err(refusal.to_string()),
            };
            let linked = linked.and_then(|fd| {
                let link = Link::new(UnixStream::from(fd)).map_err(|error| chain(&error))?;
                control.connect(id, link).map_err(|error| chain(&error))
            });
            match linked {
                Ok(()) if control.guests.contains_key(&id) => control.question(id, settled),
                Ok(()) => {
                    control.drop_link(id);
                }
                Err(error) => {
                    tracing::debug!(run = id, "its supervisor cannot be reached: {error}");
                    control.when_ended(id, settled);
                    control.redial_later(id);
                }
            }
        };
        self.ask_launcher(&ToLauncher::Dial { run: id }, Vec::new(), Box::new(then));
    }

    /// A supervisor that does not take a connection, or closes it, may be on its way out: the launcher will say so in a
    /// moment, and no client should find its guest in the list in between.
    fn when_ended(&mut self, id: u32, settled: Option<Settled>) {
        let Some(settled) = settled else { return };
        match self.guests.get_mut(&id) {
            Some(guest) => guest.on_end.push(Box::new(move |control, _| control.one_less(&settled))),
            None => self.one_less(&settled),
        }
    }

    /// Dials a supervisor again after a while, longer each time.
    pub(super) fn redial_later(&mut self, id: u32) {
        let now = self.now();
        let Some(guest) = self.guests.get(&id).filter(|guest| guest.redial.timer.is_none()) else { return };
        // One that speaks and hangs up again and again is left alone longer and longer, as one that does not speak is.
        let lasted = guest.redial.heard.is_some_and(|since| now.saturating_duration_since(since) >= REDIAL.1);
        let before = if lasted { Duration::ZERO } else { guest.redial.wait };
        let wait = (before * 2).clamp(REDIAL.0, REDIAL.1);
        let redial = move |control: &mut Control, ()| {
            let Some(guest) = control.guests.get_mut(&id) else { return };
            guest.redial.timer = None;
            control.dial(id, None);
        };
        let timer = self.after(wait, Box::new(redial));
        if let Some(guest) = self.guests.get_mut(&id) {
            guest.redial = Redial { wait, timer: Some(timer), heard: None };
        }
    }

    /// Asks a found supervisor for all that control must know, in one go: the record, the missed events, the state.
    fn question(&mut self, id: u32, settled: Option<Settled>) {
        let after = self.journal.seen(id);
        let wait = AS_LONG_AS_IT_TAKES;
        self.ask_guest_within(
            id,
            &Request::Record,
            Vec::new(),
            wait,
            Box::new(move |c, reply| c.take_record(id, reply)),
        );
        self.ask_guest_within(id, &Request::Events { after }, Vec::new(), wait, Box::new(|_, _| {}));
        let take_status = move |control: &mut Control, reply: SupervisorReply| match reply {
            Ok((Answer::Status(status), _)) => {
                control.take_status(id, &status);
                if let Some(settled) = settled {
                    control.one_less(&settled);
                }
            }
            _ => control.when_ended(id, settled),
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
            autodestroy: guest.owner.is_some(),
        };
        let text = serde_json::to_string(&record).unwrap_or_default();
        let kept = move |_: &mut Control, reply: SupervisorReply| {
            if let Err(error) = reply {
                tracing::warn!(run = id, "a later qemud will not know of a change: {}", chain(&error));
            }
        };
        self.ask_guest(id, &Request::Keep(text), Vec::new(), Box::new(kept));
    }

    fn take_record(&mut self, id: u32, reply: SupervisorReply) {
        let Ok((Answer::Record(text), fds)) = reply else { return };
        let Some(guest) = self.guests.get_mut(&id) else { return };
        guest.process = Process::new(fds).or_else(|| guest.process.take());
        if guest.domain.is_some() {
            // The supervisor has only what control gave it, and may have missed the newest.
            return self.keep_record(id);
        }
        let parsed = serde_json::from_str::<Record>(&text).map_err(|e| e.to_string()).and_then(|record| {
            let domain = Domain::parse(&record.xml).map_err(|e| e.to_string())?.value;
            if domain.vcpus.max > VCPUS_MAX {
                return Err(format!("it has {} virtual CPUs", domain.vcpus.max));
            }
            Ok((record, domain))
        });
        match parsed {
            Ok((record, domain)) => {
                let (uuid, name) = (domain.uuid, domain.name.clone());
                guest.domain = Some(domain);
                guest.kvm = record.kvm;
                guest.tainted |= record.tainted;
                guest.ballooned |= record.ballooned;
                if guest.disks.is_empty() {
                    guest.disks = record.disks;
                }
                let orphan = record.autodestroy && guest.owner.is_none();
                self.identify(id, uuid, &name);
                if orphan {
                    self.end_run(id);
                }
            }
            Err(error) => tracing::error!(run = id, guest = guest.name, "its record cannot be read: {error}"),
        }
    }

    /// A run whose own record did not say who it is: its supervisor says so.
    fn identify(&mut self, id: u32, uuid: Option<Uuid>, name: &str) {
        let Some(uuid) = uuid else { return };
        let Ok(uuid) = self.objects.identify(Run(id), uuid, name) else { return };
        let name = self.objects.get(&uuid).map(|object| object.name().to_owned());
        if let (Some(guest), Some(name)) = (self.guests.get_mut(&id), name) {
            (guest.uuid, guest.name) = (uuid, name);
        }
    }

    fn take_status(&mut self, id: u32, status: &Status) {
        let now = self.now();
        let Some(guest) = self.guests.get_mut(&id) else { return };
        guest.started = status.started_seconds;
        guest.redial.heard.get_or_insert(now);
        let state = DomainState::try_from(status.state).unwrap_or(DomainState::NoState);
        self.come_up(id, State::new(state, status.reason));
        self.ask_for_jobs(id);
    }

    /// A run is up, or heard of again.
    pub(super) fn come_up(&mut self, id: u32, state: State) {
        if let Err(refusal) = self.objects.started(Run(id), state, StartedDetail::Booted) {
            tracing::debug!(run = id, "{refusal}");
            return;
        }
        self.end_start_job(id);
        let start = self.guests.get_mut(&id).and_then(|guest| guest.start.take());
        if let Some(start) = start {
            (start.then)(self, Ok(id));
        }
    }
}
