//! The runs of guests: their supervisors' connections, what was asked of them, their jobs, and their ends.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use api::{
    consts::{DomainEventId, DomainState, LifecycleEvent, ShutoffReason, StoppedDetail},
    notice::Parts,
};
use ipc::{ConnError, edge::Channel};
use mio::{Interest, Token, unix::SourceFd};
use model::Domain;
use qemud::{chain, edge::ToLauncher};
use supervisor::{
    events::{Allowance, Recorded, bounded, follows},
    protocol::{Answer, Event, Failure, Happening, Message, News, Notice, Request},
};
use uuid::Uuid;

pub use super::process::Process;
use super::{
    Control, FIRST_SUPERVISOR, Then,
    journal::{Entry, NO_LIFECYCLE},
};
use crate::qemu::plan::DiskInUse;

/// Messages of one supervisor that are taken before others have their turn.
const MESSAGES_A_TURN: usize = 64;
/// Jobs that may wait for one guest.
const MAX_JOBS: usize = 64;
/// What a supervisor has on top of its own deadline for QEMU before control gives up on the supervisor itself.
const GRACE: Duration = Duration::from_secs(2);

/// Notices that a guest may cause at once: more than its supervisor keeps, so none of an honest one's is left out.
pub const NOTICES: u32 = 512;
/// The longest path of a notice, in characters.
const MAX_PATH: usize = 4096;

/// Why a guest's supervisor has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// The supervisor says so.
    #[error(transparent)]
    Failure(Failure),
    /// The supervisor itself is silent.
    #[error("the guest's supervisor did not answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// The supervisor is gone.
    #[error("the guest's supervisor is gone{}", .0.as_deref().map(|how| format!(" ({how})")).unwrap_or_default())]
    Gone(Option<String>),
    /// Another job has been under way for too long.
    #[error("other jobs of this guest did not end within {} ms", .0.as_millis())]
    Waited(Duration),
    /// The guest was started by an earlier release, and its supervisor does not know what is asked.
    #[error("the guest's supervisor is of an earlier release, which does not have this")]
    Old,
    /// Too many jobs wait already.
    #[error("{MAX_JOBS} jobs wait for this guest already")]
    Busy,
}

/// What a supervisor brings when it did what it was asked.
pub type Told = Result<(Answer, Vec<OwnedFd>), GuestError>;

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its supervisor or its QEMU is not up yet.
    Starting,
    /// It runs (or is paused, or has crashed and is preserved).
    Running,
    /// It was there when control started, and has not said yet how it is.
    Silent,
    /// It has stopped; its supervisor is leaving.
    Ending,
}

/// One run of a guest.
pub struct Guest {
    /// libvirt's domain id.
    pub id: u32,
    /// The guest.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its uid, if it has one of its own.
    pub uid: Option<u32>,
    /// Its supervisor's process.
    pub pid: u32,
    /// The document that it was started with, completed.
    pub domain: Option<Domain>,
    /// How far it has come.
    pub phase: Phase,
    /// libvirt's state and reason, as the supervisor told last.
    pub state: (i32, i32),
    /// The disks that it has open.
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
    /// The supervisor's connection ended before the launcher said how its start went: the launcher's word is the better one.
    pub early_end: Option<GuestError>,
    /// What waits for the run's supervisor to be gone.
    pub on_end: Vec<Then<()>>,
    /// Its end has been reported.
    has_stopped: bool,
    /// How many notices are taken from it.
    notices: Allowance,
    link: Option<Link>,
    jobs: VecDeque<Job>,
    job_running: bool,
}

/// Something to be done when nothing else is being done to the guest.
struct Job {
    start: Then<()>,
    refuse: Then<GuestError>,
    timer: (Instant, u64),
}

struct Link {
    channel: Channel<Request, Message>,
    token: Token,
    serial: u64,
    waiting: HashMap<u64, Waiting>,
    greeted: bool,
    /// The version of the edge that the supervisor speaks, once it has said so.
    version: Option<u16>,
}

struct Waiting {
    then: Then<Told>,
    timer: (Instant, u64),
}

impl Guest {
    /// A run that is about to begin.
    pub fn new(id: u32, uuid: Uuid, name: String, phase: Phase) -> Guest {
        Guest {
            id,
            uuid,
            name,
            uid: None,
            pid: 0,
            domain: None,
            phase,
            state: (DomainState::NoState as i32, 0),
            disks: Vec::new(),
            started: 0,
            kvm: false,
            tainted: false,
            ballooned: false,
            process: None,
            early_end: None,
            on_end: Vec::new(),
            has_stopped: false,
            notices: Allowance::new(NOTICES),
            link: None,
            jobs: VecDeque::new(),
            job_running: false,
        }
    }

    /// Whether a job is under way or waits.
    pub fn is_busy(&self) -> bool {
        self.job_running
    }

    /// Whether clients see it as active.
    pub fn active(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Silent)
    }
}

impl Control {
    /// The run of a guest, if it is active.
    pub(super) fn active(&self, uuid: &Uuid) -> Option<&Guest> {
        self.guests.get(self.runs.get(uuid)?).filter(|guest| guest.active())
    }

    /// Takes a connected socket for the channel to a run's supervisor.
    pub(super) fn link(&mut self, id: u32, socket: UnixStream) -> Result<(), ConnError> {
        let io =
            |e: std::io::Error| ConnError::Io(rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::IO));
        socket.set_nonblocking(true).map_err(io)?;
        let token = Token(FIRST_SUPERVISOR + id as usize);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut SourceFd(&socket.as_raw_fd()), token, interest).map_err(io)?;
        let mut channel = Channel::new(socket);
        let (oldest, newest) = supervisor::protocol::VERSIONS;
        channel.queue_hello(&ipc::Hello::new("qemud", oldest, newest))?;
        if let Some(guest) = self.guests.get_mut(&id) {
            guest.link =
                Some(Link { channel, token, serial: 0, waiting: HashMap::new(), greeted: false, version: None });
        }
        Ok(())
    }

    /// Asks a run's supervisor, and does `then` with the answer, or with what kept it from coming.
    pub(super) fn ask_guest(&mut self, id: u32, request: &Request, fds: Vec<OwnedFd>, then: Then<Told>) {
        let wait = self.config.guest_deadline + GRACE;
        self.ask_guest_within(id, request, fds, wait, then);
    }

    /// The same with a deadline of its own.
    pub(super) fn ask_guest_within(
        &mut self,
        id: u32,
        request: &Request,
        fds: Vec<OwnedFd>,
        wait: Duration,
        then: Then<Told>,
    ) {
        let version = self.guests.get(&id).and_then(|guest| guest.link.as_ref()?.version);
        if version.is_some_and(|version| version < request.since()) {
            return then(self, Err(GuestError::Old));
        }
        let Some(serial) = self.guests.get_mut(&id).and_then(|g| g.link.as_mut()).map(|link| {
            link.serial += 1;
            link.serial
        }) else {
            return then(self, Err(GuestError::Gone(None)));
        };
        let timer = self.after(wait, Box::new(move |control, ()| control.give_up_on(id, serial, wait)));
        let Some(link) = self.guests.get_mut(&id).and_then(|g| g.link.as_mut()) else { return };
        link.waiting.insert(serial, Waiting { then, timer });
        if let Err(error) = link.channel.queue(serial, request, fds) {
            tracing::error!("run {id}: cannot send a request: {error}");
            self.give_up_on(id, serial, Duration::ZERO);
        }
    }

    fn give_up_on(&mut self, id: u32, serial: u64, waited: Duration) {
        let link = self.guests.get_mut(&id).and_then(|g| g.link.as_mut());
        if let Some(waiting) = link.and_then(|link| link.waiting.remove(&serial)) {
            self.cancel(waiting.timer);
            (waiting.then)(self, Err(GuestError::Silent(waited)));
        }
    }

    /// Sends what is queued for every supervisor.
    pub(super) fn flush_supervisors(&mut self) {
        let failed: Vec<(u32, ConnError)> = self
            .guests
            .values_mut()
            .filter_map(|guest| {
                let link = guest.link.as_mut()?;
                if link.channel.conn().backlog() == 0 {
                    return None;
                }
                link.channel.flush().err().map(|error| (guest.id, error))
            })
            .collect();
        for (id, error) in failed {
            self.lose_link(id, &error);
        }
    }

    /// Works through what a supervisor has sent.
    pub(super) fn hear_supervisor(&mut self, token: Token) {
        let Ok(id) = u32::try_from(token.0 - FIRST_SUPERVISOR) else { return };
        for _ in 0..MESSAGES_A_TURN {
            let Some(link) = self.guests.get_mut(&id).and_then(|g| g.link.as_mut()) else { return };
            match link.next() {
                Ok(Some(message)) => self.take_message(id, message.serial, message.value, message.fds),
                Ok(None) => return,
                Err(error) => return self.lose_link(id, &error),
            }
        }
        // The poll does not tell again of what is here already.
        self.unheard.push(token);
    }

    fn take_message(&mut self, id: u32, serial: u64, message: Message, fds: Vec<OwnedFd>) {
        match message {
            Message::Event(event) => self.take_event(id, &event),
            Message::Notice(notice) => self.take_notice(id, notice),
            Message::News(News { what: Happening::Event(event), .. }) => self.take_event(id, &event),
            Message::News(News { what: Happening::Notice(notice), .. }) => self.take_notice(id, notice),
            Message::Job(_) => {}
            Message::Answer(result) => {
                let link = self.guests.get_mut(&id).and_then(|g| g.link.as_mut());
                let Some(waiting) = link.and_then(|link| link.waiting.remove(&serial)) else { return };
                self.cancel(waiting.timer);
                let told = result.map(|answer| (answer, fds)).map_err(GuestError::Failure);
                (waiting.then)(self, told);
            }
        }
    }

    /// Takes over an event of a run: state, journal, clients. Each is taken once, whichever way it came.
    pub(super) fn take_event(&mut self, id: u32, event: &Event) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        // A run ends once; a supervisor of an earlier release may say so several times.
        if guest.has_stopped || !follows(self.journal.seen(id), event.sequence) {
            return;
        }
        guest.state = (event.state, event.reason);
        let ended = event.event == LifecycleEvent::Stopped as i32;
        if ended {
            guest.phase = Phase::Ending;
            guest.has_stopped = true;
        }
        let entry = journal_entry(guest, event);
        let uuid = guest.uuid;
        if ended {
            self.runs.remove(&uuid);
            self.stopped.insert(uuid, event.reason);
        }
        self.publish(entry);
        if ended {
            self.drain_jobs(id);
        }
    }

    /// Takes over a notice of a run: journal, clients. Each is taken once, and not more than a guest may cause.
    fn take_notice(&mut self, id: u32, notice: Notice) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        if !follows(self.journal.seen(id), notice.sequence) || !guest.notices.take(Instant::now()) {
            return;
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

    fn lose_link(&mut self, id: u32, error: &ConnError) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let Some(link) = guest.link.take() else { return };
        // Before the launcher has said that there is a supervisor, its word says more.
        if guest.phase != Phase::Ending && guest.pid != 0 {
            tracing::warn!("run {id} ('{}'): connection to its supervisor lost: {}", guest.name, chain(error));
        }
        // Closing deregisters by itself; this keeps the poll's own books right.
        let _ = self.registry.deregister(&mut SourceFd(&link.channel.conn().socket().as_raw_fd()));
        debug_assert_eq!(link.token.0, FIRST_SUPERVISOR + id as usize);
        for waiting in link.waiting.into_values() {
            self.cancel(waiting.timer);
            (waiting.then)(self, Err(GuestError::Gone(None)));
        }
    }

    /// The launcher says that a run's supervisor is gone. Whatever the run's log has that did not come over the connection is
    /// taken now; if its end is not there either, the supervisor was killed, and the guest with it.
    pub(super) fn run_ended(&mut self, id: u32, how: Option<String>) {
        if self.guests.contains_key(&id) {
            self.hear_supervisor(Token(FIRST_SUPERVISOR + id as usize));
            for what in self.logged_events(id) {
                match what {
                    Recorded::Event(event) => self.take_event(id, &event),
                    Recorded::Notice(notice) => self.take_notice(id, notice),
                }
            }
        }
        self.lose_link(id, &ConnError::Closed);
        let Some(guest) = self.guests.get(&id) else { return };
        if guest.phase == Phase::Starting {
            // Whoever starts it has been told by the lost connection.
            tracing::warn!("run {id} ('{}') ended before it began: {}", guest.name, how.as_deref().unwrap_or("gone"));
        } else if guest.phase != Phase::Ending {
            self.report_killed(id, how);
        }
        self.journal.retire(id);
        self.launcher.tell(&ToLauncher::Retire { id });
        let Some(guest) = self.guests.remove(&id) else { return };
        if self.runs.get(&guest.uuid) == Some(&id) {
            self.runs.remove(&guest.uuid);
        }
        for then in guest.on_end {
            then(self, ());
        }
    }

    /// A run that never had a supervisor is over.
    pub(super) fn forget_run(&mut self, id: u32) {
        self.lose_link(id, &ConnError::Closed);
        self.guests.remove(&id);
    }

    fn report_killed(&mut self, id: u32, how: Option<String>) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let how = how.unwrap_or_else(|| "is gone".into());
        let event = Event {
            sequence: self.journal.seen(id).saturating_add(1),
            seconds: i64::try_from(now.as_secs()).unwrap_or_default(),
            nanos: now.subsec_nanos(),
            event: LifecycleEvent::Stopped as i32,
            detail: StoppedDetail::Crashed as i32,
            state: DomainState::Shutoff as i32,
            reason: ShutoffReason::Crashed as i32,
            text: Some(format!("the guest's supervisor {how}; the guest ended with it")),
        };
        self.take_event(id, &event);
    }

    fn logged_events(&self, id: u32) -> Vec<Recorded> {
        let path = self.instance.guest_event_log(id);
        match fs::File::open(&path).and_then(supervisor::events::read) {
            Ok(log) => {
                if log.invalid > 0 || log.truncated {
                    tracing::warn!(
                        "{}: {} lines are invalid, truncated: {}",
                        path.display(),
                        log.invalid,
                        log.truncated
                    );
                }
                log.entries
            }
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!("{} cannot be read: {error}", path.display());
                }
                Vec::new()
            }
        }
    }

    /// Does a job on a run as soon as no other is under way. The job calls [`Control::job_done`] when it is over.
    /// A job that has not begun by its deadline is refused instead: it never waits one deadline after the other of those
    /// before it.
    pub(super) fn run_job(&mut self, id: u32, start: Then<()>, refuse: Then<GuestError>) {
        let wait = self.config.guest_deadline + GRACE;
        match self.guests.get(&id).map(|guest| guest.jobs.len()) {
            None => return refuse(self, GuestError::Gone(None)),
            Some(MAX_JOBS..) => return refuse(self, GuestError::Busy),
            Some(_) => {}
        }
        let number = self.timer_count + 1;
        let late = move |control: &mut Control, ()| {
            let jobs = control.guests.get_mut(&id).map(|guest| &mut guest.jobs);
            let job = jobs.and_then(|jobs| jobs.remove(jobs.iter().position(|job| job.timer.1 == number)?));
            if let Some(job) = job {
                (job.refuse)(control, GuestError::Waited(wait));
            }
        };
        let timer = self.after(wait, Box::new(late));
        if let Some(guest) = self.guests.get_mut(&id) {
            guest.jobs.push_back(Job { start, refuse, timer });
        }
        self.next_job(id);
    }

    /// The job under way on a run is over.
    pub(super) fn job_done(&mut self, id: u32) {
        if let Some(guest) = self.guests.get_mut(&id) {
            guest.job_running = false;
            self.next_job(id);
        }
    }

    fn next_job(&mut self, id: u32) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        if guest.job_running {
            return;
        }
        if let Some(job) = guest.jobs.pop_front() {
            guest.job_running = true;
            self.cancel(job.timer);
            (job.start)(self, ());
        }
    }

    /// The run is over: what waits for it is told so by trying, one after the other.
    fn drain_jobs(&mut self, id: u32) {
        while let Some(job) = self.guests.get_mut(&id).and_then(|g| g.jobs.pop_front()) {
            self.cancel(job.timer);
            (job.start)(self, ());
        }
    }
}

impl Link {
    fn next(&mut self) -> Result<Option<ipc::edge::Message<Message>>, ConnError> {
        loop {
            if !self.greeted {
                if let Some(hello) = self.channel.next_hello()? {
                    let (oldest, newest) = supervisor::protocol::VERSIONS;
                    // A supervisor of a release too old to talk to keeps its guest; this control just cannot reach it.
                    let agreed =
                        ipc::Hello::new("qemud", oldest, newest).agree(&hello).map_err(|_| ConnError::Closed)?;
                    self.version = Some(agreed);
                    self.greeted = true;
                    continue;
                }
            } else if let Some(message) = self.channel.next_message()? {
                return Ok(Some(message));
            }
            if !self.channel.fill()? {
                // Tells an end from a pause.
                return if self.greeted {
                    self.channel.next_message()
                } else {
                    self.channel.next_hello().map(|_| None)
                };
            }
        }
    }
}

fn journal_entry(guest: &Guest, event: &Event) -> Entry {
    Entry {
        sequence: 0,
        uuid: guest.uuid,
        name: guest.name.clone(),
        id: Some(guest.id),
        run_sequence: Some(event.sequence),
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
