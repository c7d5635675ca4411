//! The runs of guests: what is known of each, what happens to it, and its end.
//!
//! Which object a run belongs to and how far it has come is the registry's to say ([`Control::objects`]); here is what
//! control knows besides. An entry is made when the launcher has launched a run or found one, and goes only at the
//! launcher's word that the run's processes are gone. A lost connection, a silent supervisor, a record that cannot be read:
//! none of these ends a run.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use api::{
    consts::{DomainEventId, DomainState, LifecycleEvent, ShutoffReason, StoppedDetail},
    notice::Parts,
};
use ipc::{ConnError, server::PeerKey};
use model::Domain;
use qemud::{chain, edge::ToLauncher};
use registry::{Effect, Run, State};
use rustix::fs::OFlags;
use supervisor::{
    events::{Allowance, Recorded, bounded, follows},
    protocol::{Event, Notice},
};
use uuid::Uuid;

use super::{
    Control, Then,
    adopt::Redial,
    errors,
    jobs::Jobs,
    start::Started,
    store::{
        self,
        journal::{Entry, NO_LIFECYCLE},
    },
};
pub use super::{
    link::{GuestError, SupervisorReply},
    process::Process,
};
use crate::qemu::plan::DiskInUse;

/// Notices that a guest may cause at once: more than its supervisor keeps, so none of an honest one's is left out.
pub const NOTICES: u32 = 512;
/// Changes of its life that a run may report at once, and one more every 100 ms: more than an honest supervisor lets pass.
const EVENTS: u32 = 1024;
/// The longest path of a notice, in characters.
const MAX_PATH: usize = 4096;
/// The longest text of an event, in characters.
const MAX_TEXT: usize = 2048;
/// How long a supervisor may stay after it has reported its guest's end; then it is killed.
const LINGER: Duration = Duration::from_secs(2);
/// How long the end of a run waits for what its supervisor has logged.
const LOG_PATIENCE: Duration = Duration::from_secs(5);

/// What control knows of one run.
pub struct Guest {
    /// libvirt's domain id.
    pub id: u32,
    /// The guest.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its uid, if it has one of its own.
    pub uid: Option<u32>,
    /// Its supervisor's process; 0 if the launcher doesn't know it.
    pub pid: u32,
    /// The document that it was started with, completed.
    pub domain: Option<Domain>,
    /// The disks that it has open, until its last process is gone.
    pub disks: Vec<DiskInUse>,
    /// When it started, in seconds since the epoch.
    pub started: i64,
    /// It runs on KVM.
    pub kvm: bool,
    /// Somebody has spoken to its QEMU's monitor past its supervisor.
    pub tainted: bool,
    /// Its balloon was told to take memory from it, or to give some back. How much it gave, only the guest knows.
    pub ballooned: bool,
    /// QEMU's process. The kernel tells its processor time, so nobody else has to be asked for it.
    pub process: Option<Process>,
    /// What waits for the run's processes to be gone.
    pub on_end: Vec<Then<Ended>>,
    /// The start that this run is for, while it is under way.
    pub start: Option<PendingStart>,
    /// A client has asked for its end: its stop is no crash.
    pub destroyed: bool,
    /// The connection that it lives for.
    pub owner: Option<PeerKey>,
    /// Why its supervisor is not listened to, if it is quarantined.
    pub quarantine: Option<String>,
    /// When it is dialled again.
    pub redial: Redial,
    /// What is done to it, one thing at a time.
    pub jobs: Jobs,
    /// The kernel says that it is gone; its log is being read.
    pub over: bool,
    /// Its supervisor's word that it has stopped, kept until the kernel says that it is gone.
    stop: Option<Event>,
    events: Allowance,
    notices: Allowance,
}

/// The client's side of a start whose run is made.
pub struct PendingStart {
    /// Answers the client.
    pub then: Then<Started>,
    /// Why it has failed, once it has: the run is being ended.
    pub failed: Option<api::Error>,
}

impl Guest {
    /// A run that has just been launched or found.
    pub fn new(id: u32, uuid: Uuid, name: String) -> Guest {
        Guest {
            id,
            uuid,
            name,
            uid: None,
            pid: 0,
            domain: None,
            disks: Vec::new(),
            started: 0,
            kvm: false,
            tainted: false,
            ballooned: false,
            process: None,
            on_end: Vec::new(),
            start: None,
            destroyed: false,
            owner: None,
            quarantine: None,
            redial: Redial::default(),
            jobs: Jobs::default(),
            over: false,
            stop: None,
            events: Allowance::new(EVENTS),
            notices: Allowance::new(NOTICES),
        }
    }
}

/// The answer to a call that waits for the end of a run: it is over, or this is why it cannot be ended.
pub type Ended = Result<(), api::Error>;

impl Control {
    /// The run of a guest, if it has one.
    pub(super) fn active(&self, uuid: &Uuid) -> Option<&Guest> {
        self.guests.get(&self.objects.get(uuid)?.run()?.0)
    }

    /// The same, if it is up and heard of.
    pub(super) fn up(&self, uuid: &Uuid) -> Option<&Guest> {
        self.objects.get(uuid).filter(|object| object.live().on().is_some())?;
        self.active(uuid)
    }

    /// The document that a run was started with. Everything that is said of a running guest's hardware comes from here: what
    /// a document that is not known yet has in it is unknown, and not absent.
    ///
    /// # Errors
    /// When the run is over, or its supervisor has not told the document yet.
    pub(super) fn live(&self, id: u32, doing: &str) -> Result<&Domain, api::Error> {
        let guest = self.guests.get(&id).ok_or_else(|| errors::wrong_state("domain is not running"))?;
        guest.domain.as_ref().ok_or_else(|| self.unheard(guest, doing))
    }

    /// A run's supervisor has not told yet what the call is about.
    pub(super) fn unheard(&self, guest: &Guest, doing: &str) -> api::Error {
        errors::guest(doing, &guest.name, &self.why_unheard(guest.id))
    }

    /// Takes over what a run's supervisor tells or has logged, each once, whichever way it came. What it has lost shows in its
    /// numbers, once for each gap; what is beyond its guest's allowance is left out in the same way.
    pub(super) fn take_recorded(&mut self, id: u32, what: Recorded) {
        let (seen, sequence) = (self.journal.seen(id), what.sequence());
        if !self.guests.contains_key(&id) || !follows(seen, sequence) {
            return;
        }
        if sequence > seen.saturating_add(1) {
            self.lose(id, sequence - 1);
        }
        match what {
            Recorded::Event(event) => self.take_event(id, event),
            Recorded::Notice(notice) => self.take_notice(id, notice),
        }
    }

    /// Events of a run up to this one are left out.
    fn lose(&mut self, id: u32, run_sequence: u64) {
        self.journal.pass(id, run_sequence);
        self.leave_gap();
    }

    /// An event of a run: state, journal, clients.
    fn take_event(&mut self, id: u32, event: Event) {
        let now = self.now();
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let event = Event { text: event.text.map(|text| text.chars().take(MAX_TEXT).collect()), ..event };
        if event.event == LifecycleEvent::Stopped as i32 {
            return self.stopped(id, event);
        }
        if !guest.events.take(now) {
            return self.lose(id, event.sequence);
        }
        let entry = journal_entry(guest, &event);
        if let (Ok(state), Some(seen)) = (DomainState::try_from(event.state), self.objects.live_mut(Run(id))) {
            *seen = State::new(state, event.reason);
        }
        self.publish(entry);
    }

    /// The supervisor says that its guest has stopped. The run goes on until the kernel says so too, and the event waits for
    /// that: a client that hears it can start the guest again at once.
    fn stopped(&mut self, id: u32, event: Event) {
        let Some(guest) = self.guests.get_mut(&id).filter(|guest| guest.stop.is_none()) else { return };
        guest.stop = Some(event);
        self.ending(id);
        self.after(LINGER, Box::new(move |control, ()| control.kill_run(id)));
    }

    /// The run is being ended: nothing new is begun with it.
    pub(super) fn ending(&mut self, id: u32) {
        // A run that the registry does not know is gone already.
        let _ = self.objects.ending(Run(id));
        self.refuse_jobs(id);
    }

    /// Has the launcher kill what is left of a run. Its end is the launcher's to report.
    pub(super) fn kill_run(&mut self, id: u32) {
        if self.guests.contains_key(&id) {
            self.ending(id);
            self.launcher.tell(&ToLauncher::Kill { run: id });
        }
    }

    /// A notice of a run: journal, clients.
    fn take_notice(&mut self, id: u32, notice: Notice) {
        let now = self.now();
        let Some(guest) = self.guests.get_mut(&id) else { return };
        if !guest.notices.take(now) {
            return self.lose(id, notice.sequence);
        }
        let mut notice = bounded(notice);
        if let Some(domain) = &guest.domain {
            name_disk(&mut notice, domain);
        }
        let entry = Entry {
            sequence: 0,
            uuid: guest.uuid,
            name: guest.name.clone(),
            id: Some(guest.id),
            run_sequence: Some(notice.sequence),
            event: NO_LIFECYCLE,
            detail: 0,
            seconds: notice.seconds,
            nanos: notice.nanos,
            text: None,
            notice: Some(Parts { kind: notice.kind, number: notice.number, texts: notice.texts }),
        };
        self.publish(entry);
    }

    /// The launcher says that no process of a run is left. What the run's log has and the connection did not bring is taken
    /// then; if its end is not there either, it was killed, and the guest with it.
    pub(super) fn run_ended(&mut self, id: u32, how: Option<&str>) {
        self.hear_supervisor(id);
        self.drop_link(id);
        if self.probe_ended(id, how) {
            return self.launcher.tell(&ToLauncher::Retire { run: id });
        }
        let Some(guest) = self.guests.get_mut(&id).filter(|guest| !guest.over) else { return };
        guest.over = true;
        let how = how.map(str::to_owned);
        if guest.quarantine.is_some() {
            // Its log is as little read as its supervisor is heard, so what it has to tell is lost.
            self.leave_gap();
            return self.close_books(id, how.as_deref());
        }
        if guest.stop.is_some() {
            // Its supervisor's last word has come, so the log has nothing to add.
            return self.close_books(id, how.as_deref());
        }
        let path = self.instance.guest_event_log(id);
        let read = move |_: &mut store::Lines| read_log(&path);
        self.hand_within(store::of_lines, LOG_PATIENCE, read, move |control, read| {
            // A log that is not there is a loss too: the launcher makes one with every run.
            let loss = match read {
                Some(Ok(log)) => control.with_in_hand(id, |control| control.take_logged(id, &log)).err(),
                Some(Err(error)) => Some(error.to_string()),
                None => Some("its disk does not answer".into()),
            };
            if let Some(why) = loss {
                tracing::warn!(run = id, "its log cannot be read, some of its events are lost: {why}");
                control.leave_gap();
            }
            control.close_books(id, how.as_deref());
        });
    }

    /// Reports the end of a run of which all is known that can be known.
    fn close_books(&mut self, id: u32, how: Option<&str>) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let stop = guest.stop.take();
        // A run that reported nothing never came to life. A stop is reported once, however often the end is found.
        let news = (stop.is_some() || self.journal.seen(id) > 0) && !self.journal.has_stopped(id);
        let stop = stop.unwrap_or_else(|| killed(guest.destroyed, how));
        let entry = journal_entry(guest, &stop);
        if news {
            self.publish(entry);
        }
        // Until it is retired, a control that is killed now leaves it for the next one to find and to report. The thread that
        // writes the journal does one thing after another, so the line is written when this comes back.
        let retire = move |control: &mut Control, ()| control.launcher.tell(&ToLauncher::Retire { run: id });
        self.hand(store::of_lines, |_| (), retire);
        self.forget_run(id, stop.reason, how);
    }

    /// Closes the books on a run whose processes are gone, and lets those know that wait for it.
    fn forget_run(&mut self, id: u32, reason: i32, how: Option<&str>) {
        // Control publishes the supervisor's own event; the registry's word is only whether the object is still there.
        match self.objects.gone(Run(id), reason, StoppedDetail::Shutdown) {
            Ok((_, effects)) => effects.into_iter().for_each(|effect| {
                if let Effect::Forgotten { uuid, name } = effect {
                    tracing::debug!(%uuid, name, "a transient domain is gone");
                }
            }),
            Err(refusal) => tracing::error!(run = id, "the registry: {refusal}"),
        }
        self.journal.retire(id);
        let Some(mut guest) = self.guests.remove(&id) else { return };
        if let Some(owned) = guest.owner.and_then(|owner| self.owned.get_mut(&owner)) {
            owned.remove(&id);
        }
        self.answer_jobs(&mut guest.jobs);
        if let Some(PendingStart { then, failed }) = guest.start {
            let error = failed
                .unwrap_or_else(|| errors::guest("start", &guest.name, &GuestError::Gone(how.map(str::to_owned))));
            then(self, Err(error));
        }
        for then in guest.on_end {
            then(self, Ok(()));
        }
    }

    /// The launcher cannot kill a run: fails the calls that wait for its end.
    pub(super) fn not_killed(&mut self, id: u32, why: &str) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let error = errors::not_killed(&guest.name, why);
        // It may go on for long, and end by itself: that is no destroy then.
        guest.destroyed = false;
        let waiting = std::mem::take(&mut guest.on_end);
        // Only a run that the registry does not know can be refused.
        let _ = self.objects.not_ended(Run(id));
        // How it is, its supervisor says when it is dialled.
        self.drop_link(id);
        self.redial_later(id);
        for then in waiting {
            then(self, Err(error.clone()));
        }
    }

    /// The connection to a run's supervisor is lost. Nobody knows how the guest is until it is dialled again.
    pub(super) fn link_lost(&mut self, id: u32, error: &ConnError) {
        let Some(guest) = self.guests.get(&id) else { return };
        if guest.stop.is_some() {
            return;
        }
        tracing::info!(run = id, guest = guest.name, "connection to its supervisor lost: {}", chain(error));
        // Only a run that the registry does not know can be refused.
        let _ = self.objects.unknown(Run(id));
        self.redial_later(id);
    }

    /// Takes over what a log has. An error says why that may not be all.
    fn take_logged(&mut self, id: u32, log: &[u8]) -> Result<(), String> {
        let log = supervisor::events::read(log).map_err(|error| error.to_string())?;
        let last = log.entries.last().map(Recorded::sequence).unwrap_or_default();
        for what in log.entries {
            self.take_recorded(id, what);
        }
        // What is missing before a valid line shows in that one's number, and what came over the connection is not missing.
        let heard = self.journal.seen(id).saturating_sub(last);
        match (log.invalid_end > heard, log.truncated) {
            (false, false) => Ok(()),
            (true, false) => Err(format!("its last {} lines are invalid", log.invalid_end)),
            (_, true) => Err("it is too long".into()),
        }
    }
}

/// What a run's supervisor has logged. It wrote with the rights of its guest, so the path may be anything by now: nothing is
/// followed, and nothing but a file is read.
fn read_log(path: &Path) -> io::Result<Vec<u8>> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(supervisor::events::READ_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The end of a run that could not report it itself.
fn killed(destroyed: bool, how: Option<&str>) -> Event {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (detail, reason) = if destroyed {
        (StoppedDetail::Destroyed, ShutoffReason::Destroyed)
    } else {
        (StoppedDetail::Crashed, ShutoffReason::Crashed)
    };
    let text = || format!("the guest's supervisor {}; the guest ended with it", how.unwrap_or("is gone"));
    Event {
        sequence: 0,
        seconds: i64::try_from(now.as_secs()).unwrap_or_default(),
        nanos: now.subsec_nanos(),
        event: LifecycleEvent::Stopped as i32,
        detail: detail as i32,
        state: DomainState::Shutoff as i32,
        reason: reason as i32,
        text: (!destroyed).then(text),
    }
}

fn journal_entry(guest: &Guest, event: &Event) -> Entry {
    Entry {
        sequence: 0,
        uuid: guest.uuid,
        name: guest.name.clone(),
        id: Some(guest.id),
        run_sequence: Some(event.sequence).filter(|sequence| *sequence > 0),
        event: event.event,
        detail: event.detail,
        seconds: event.seconds,
        nanos: event.nanos,
        text: event.text.clone(),
        notice: None,
    }
}

/// QEMU names the node or the device of a disk that has failed; clients know it by its source and by the device.
fn name_disk(notice: &mut Notice, domain: &Domain) {
    if notice.kind != DomainEventId::IoError as i32 {
        return;
    }
    let [path, device, ..] = notice.texts.as_mut_slice() else { return };
    // As the planner calls them: `diskN` and `diskN-file`, and the device `BUS-disk-TARGET`.
    let node = device.strip_prefix("disk").map(|rest| rest.strip_suffix("-file").unwrap_or(rest));
    let found = match node.and_then(|index| index.parse::<usize>().ok()) {
        Some(index) => domain.devices.disks.get(index),
        None => {
            let target = device.rsplit_once("-disk-").map(|(_, target)| target.to_owned());
            domain.devices.disks.iter().find(|disk| Some(&disk.target.dev) == target.as_ref())
        }
    };
    if let Some(disk) = found {
        *path = disk.source_path().unwrap_or_default().chars().take(MAX_PATH).collect();
        *device = format!("{}-disk-{}", disk.target.bus.as_str(), disk.target.dev);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_failed_has_its_source_and_its_device_s_name() {
        let disk = |file: &str, target: &str| {
            format!(
                "<disk type='file' device='disk'><source file='{file}'/><target dev='{target}' bus='virtio'/></disk>"
            )
        };
        let xml = format!(
            "<domain type='qemu'><name>a</name><memory>65536</memory><os><type>hvm</type></os><devices>{}{}</devices></domain>",
            disk("/d/a.img", "vda"),
            disk("/d/b.img", "vdb")
        );
        let domain = Domain::parse(&xml).unwrap().value;
        let named = |kind, device: &str| {
            let texts = vec![String::new(), device.to_owned(), "enospc".to_owned()];
            let mut notice = Notice { sequence: 1, seconds: 0, nanos: 0, kind, number: 1, texts };
            name_disk(&mut notice, &domain);
            notice.texts
        };
        let second = ["/d/b.img", "virtio-disk-vdb", "enospc"];
        for name in ["disk1", "disk1-file", "virtio-disk-vdb"] {
            assert_eq!(named(4, name), second, "{name}");
        }
        for name in ["disk9", "", "disk", "virtio-disk-vdz", "other"] {
            assert_eq!(named(4, name), ["", name, "enospc"]);
        }
        assert_eq!(named(10, "disk1"), ["", "disk1", "enospc"], "no disk's failure");
    }
}
