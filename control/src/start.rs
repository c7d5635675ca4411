//! From a document to a running guest: complete it, plan it, gather its files, launch it. Each step may have to wait for
//! somebody else.
//!
//! The registry holds name and UUID from the first step. Until the launcher has been asked, a start is given up by
//! forgetting its ticket: the step that is under way finds none and drops what it has. From then on there may be a run, so
//! the start ends with the launcher's answer, and a run that is not wanted any more is killed.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use api::{Error, consts::DomainState};
use ipc::server::PeerKey;
use model::{Domain, DomainType, DumpOptions, LifecycleAction};
use qemud::edge::{FromLauncher, Launch, Purpose, Refusal, ToLauncher};
use registry::{Run, State, Ticket};
use rustix::fs::{FileType, fstat};
use sandbox::fd::check::{self, Access, CheckError};
use supervisor::protocol::{
    self, Abilities, Answer, Payload, PayloadError, Request,
    qemu::{BootSpec, CopySpec},
};
use uuid::Uuid;

use super::{
    Control, Then,
    adopt::Record,
    errors,
    guests::{Ended, Guest, GuestError, PendingStart, Process, SupervisorReply},
    jobs,
    launcher_link::Done,
    link::Link,
    store::{self, definitions::Definitions},
};
use crate::qemu::{
    complete,
    plan::{self, DiskInUse, Plan, PlanError},
};

/// How long QEMU may take from its start until it answers: a kernel to copy, many CPUs, a busy host.
const BOOT_PATIENCE: Duration = Duration::from_secs(60);
/// How long anybody waits for the file systems behind the files of a start.
const LOOKING: Duration = Duration::from_secs(10);
/// How long a start that has failed waits for its run to be gone before the client is told of the failure.
const CLEARING: Duration = Duration::from_secs(5);

/// A file that the client opened for the guest.
pub struct Given {
    /// The path that the document has for it.
    pub path: String,
    /// Whether it was opened for writing.
    pub writable: bool,
    /// The file.
    pub fd: OwnedFd,
}

/// What a start ends in: the run's number.
pub type Started = Result<u32, Error>;

/// What a client wants of a start.
pub struct Start {
    /// Leave the virtual CPUs stopped.
    pub paused: bool,
    /// The connection that it lives for, if it is to be destroyed with it.
    pub owner: Option<PeerKey>,
    /// What the client opened.
    pub given: Vec<Given>,
    /// What is done in the end.
    pub then: Then<Started>,
}

/// A start that has no run yet.
pub struct Starting {
    /// The document's name.
    name: String,
    /// Answers the client; none once it has been answered.
    then: Option<Then<Started>>,
    /// The disks that it is going to have.
    disks: Vec<DiskInUse>,
    /// The launcher has been asked: there may be a run.
    launching: bool,
    /// Nobody wants the run any more.
    unwanted: bool,
    /// What waits for the start to be over.
    on_end: Vec<Then<Ended>>,
}

/// A start on its way through the steps before its launch.
struct Steps {
    ticket: Ticket,
    domain: Domain,
    uuid: Uuid,
    paused: bool,
    owner: Option<PeerKey>,
    given: Vec<Given>,
}

/// A start whose plan stands, while its files are gathered.
struct Gathering {
    steps: Steps,
    plan: Plan,
    files: Vec<OwnedFd>,
}

/// A start whose launch is under way.
struct Launching {
    ticket: Ticket,
    domain: Domain,
    uuid: Uuid,
    kvm: bool,
    owner: Option<PeerKey>,
    link: Link,
}

impl Control {
    /// Starts a defined domain.
    pub(super) fn start_defined(&mut self, uuid: &Uuid, start: Start) {
        let name = self.objects.get(uuid).map(|object| object.name().to_owned()).unwrap_or_default();
        let job = match self.disk_job("start", &name) {
            Ok(job) => job,
            Err(error) => return (start.then)(self, Err(error)),
        };
        let ticket = match self.objects.begin_start(uuid, State::UNKNOWN) {
            Ok(ticket) => ticket,
            Err(refusal) => return (start.then)(self, Err(errors::refusal(&refusal))),
        };
        let Start { paused, owner, given, then } = start;
        self.begin(ticket, name.clone(), then);
        let uuid = *uuid;
        let read = job.counting(move |definitions: &mut Definitions| definitions.read(&uuid));
        self.hand_within(store::of_definitions, store::PATIENCE, read, move |control, read| match read {
            Some(Ok(domain)) => control.complete(Steps { ticket, domain, uuid, paused, owner, given }),
            Some(Err(error)) => control.not_started(ticket, errors::store("read", &name, &error)),
            None => control.not_started(ticket, errors::disk_silent("start", &name, store::PATIENCE)),
        });
    }

    /// Starts a document: a domain that is gone when it stops, or for once another form of a defined one.
    pub(super) fn start_document(&mut self, mut domain: Domain, start: Start) {
        let uuid = domain.ensure_uuid();
        let Start { paused, owner, given, then } = start;
        match self.objects.begin_create(&domain.name, uuid, State::UNKNOWN) {
            Ok(ticket) => {
                self.begin(ticket, domain.name.clone(), then);
                self.complete(Steps { ticket, domain, uuid, paused, owner, given });
            }
            Err(refusal) => then(self, Err(errors::refusal(&refusal))),
        }
    }

    fn begin(&mut self, ticket: Ticket, name: String, then: Then<Started>) {
        let (disks, on_end, then) = (Vec::new(), Vec::new(), self.in_the_same_name(then));
        let starting = Starting { name, then: Some(then), disks, launching: false, unwanted: false, on_end };
        self.starts.insert(ticket, starting);
    }

    /// A start that has no run ends without one.
    fn not_started(&mut self, ticket: Ticket, error: Error) {
        let Some(starting) = self.starts.remove(&ticket) else { return };
        if let Err(refusal) = self.objects.cancel(ticket) {
            tracing::error!(guest = starting.name, "a start cannot be taken back: {refusal}");
        }
        if let Some(then) = starting.then {
            then(self, Err(error));
        }
        for then in starting.on_end {
            then(self, Ok(()));
        }
    }

    /// Gives a start up that has no run yet, and does `then` when it is over.
    pub(super) fn give_up_start(&mut self, ticket: Ticket, then: Then<Ended>) {
        let Some(starting) = self.starts.get_mut(&ticket) else { return then(self, Ok(())) };
        starting.on_end.push(then);
        starting.unwanted = true;
        if !starting.launching {
            let error = errors::for_domain("start", &starting.name.clone(), errors::destroyed_meanwhile());
            self.not_started(ticket, error);
        }
    }

    fn complete(&mut self, mut steps: Steps) {
        let name = steps.domain.name.clone();
        let emulator = match complete::complete_emulator(&mut steps.domain, &self.host.arch) {
            Ok(emulator) => emulator,
            Err(error) => return self.not_started(steps.ticket, errors::plan(&name, &error)),
        };
        let known = move |control: &mut Control, known: super::emulators::Known| match known {
            Ok(abilities) => control.plan(steps, &abilities),
            Err(error) => control.not_started(steps.ticket, errors::for_domain("start", &name, error)),
        };
        self.with_abilities(&emulator, Box::new(known));
    }

    fn plan(&mut self, mut steps: Steps, abilities: &Abilities) {
        complete::round_memory(&mut steps.domain);
        let planned = complete::complete(&mut steps.domain, abilities)
            .and_then(|()| check_kvm(&steps.domain, abilities))
            .and_then(|()| plan::plan(&steps.domain, steps.paused));
        match planned {
            Ok(plan) => self.gather(Gathering { steps, plan, files: Vec::new() }),
            Err(error) => self.not_started(steps.ticket, errors::plan(&steps.domain.name, &error)),
        }
    }

    /// Takes each file from the client if it gave it, else asks the launcher for it.
    fn gather(&mut self, mut gathering: Gathering) {
        if !self.starts.contains_key(&gathering.steps.ticket) {
            return;
        }
        while let Some(file) = gathering.plan.files.get(gathering.files.len()) {
            let fits = |given: &Given| given.path == file.path && given.writable == file.writable;
            let Some(index) = gathering.steps.given.iter().position(fits) else {
                let request = ToLauncher::Open { path: file.path.clone(), writable: file.writable };
                let opened = move |control: &mut Control, done: Done| control.take_opened(gathering, done);
                return self.ask_launcher(&request, Vec::new(), Box::new(opened));
            };
            let given = gathering.steps.given.swap_remove(index);
            gathering.files.push(given.fd);
        }
        self.check_disks(gathering);
    }

    fn take_opened(&mut self, mut gathering: Gathering, done: Done) {
        let refusal = match done {
            Ok((_, mut fds)) if fds.len() == 1 => {
                gathering.files.append(&mut fds);
                return self.gather(gathering);
            }
            Ok(_) => Refusal::Range { what: "the launcher opened nothing".into() },
            Err(refusal) => refusal,
        };
        self.not_started(gathering.steps.ticket, errors::refused("start", &gathering.steps.domain.name, &refusal));
    }

    /// Two guests that write to one disk destroy it, so the second is not started.
    fn check_disks(&mut self, mut gathering: Gathering) {
        let files = std::mem::take(&mut gathering.files);
        let wanted = gathering.plan.files.clone();
        if wanted.is_empty() {
            return self.check_users(gathering, Vec::new());
        }
        // What a client has opened may be on a file server of its own.
        let look = move || {
            let disks = wanted.iter().zip(&files).map(|(file, fd)| identify(file, fd)).collect::<Result<Vec<_>, _>>();
            disks.map(|disks| (files, disks.into_iter().flatten().collect()))
        };
        self.look_within(LOOKING, look, move |control, looked| {
            let refusal = match looked {
                Some(Ok((files, disks))) => {
                    gathering.files = files;
                    return control.check_users(gathering, disks);
                }
                Some(Err(refusal)) => refusal,
                None => Refusal::Silent { seconds: LOOKING.as_secs() },
            };
            let (ticket, name) = (gathering.steps.ticket, &gathering.steps.domain.name);
            control.not_started(ticket, errors::refused("start", name, &refusal));
        });
    }

    fn check_users(&mut self, gathering: Gathering, disks: Vec<DiskInUse>) {
        let (ticket, name) = (gathering.steps.ticket, gathering.steps.domain.name.clone());
        if !self.starts.contains_key(&ticket) {
            return;
        }
        let conflict = disks.iter().find_map(|disk| {
            let (other, used) = self.other_user(disk)?;
            Some(errors::disk_in_use(&name, &disk.what, &disk.path, other, &used.what))
        });
        match conflict {
            Some(error) => self.not_started(ticket, error),
            None => self.launch(gathering, disks),
        }
    }

    /// Who has a disk already: every run that is not gone, however it is, and every start that has come this far.
    fn other_user(&self, disk: &DiskInUse) -> Option<(&str, &DiskInUse)> {
        let same = |used: &&DiskInUse| (used.device, used.inode) == (disk.device, disk.inode);
        let clash = |used: &&DiskInUse| (used.writable || disk.writable) && !(used.shareable && disk.shareable);
        let runs = self.guests.values().map(|guest| (guest.name.as_str(), &guest.disks));
        let starts = self.starts.values().map(|starting| (starting.name.as_str(), &starting.disks));
        runs.chain(starts).find_map(|(name, disks)| Some((name, disks.iter().filter(same).find(clash)?)))
    }

    fn launch(&mut self, gathering: Gathering, disks: Vec<DiskInUse>) {
        let Gathering { steps: Steps { ticket, domain, uuid, paused, owner, .. }, plan, files } = gathering;
        let name = domain.name.clone();
        let boot =
            self.boot_request(&domain, &plan, (paused, owner.is_some()), &disks).map_err(|error| qemud::chain(&error));
        let pair = UnixStream::pair().map_err(|error| error.to_string());
        let prepared =
            pair.and_then(|(ours, theirs)| Ok((Link::new(ours).map_err(|error| qemud::chain(&error))?, theirs)));
        // The supervisor's orders wait in its socket before it exists, so nobody waits for it to ask for them.
        let prepared = prepared.and_then(|(mut link, theirs)| {
            link.order(&boot?, files).map_err(|error| qemud::chain(&error))?;
            Ok((link, theirs))
        });
        let (link, theirs) = match prepared {
            Ok(prepared) => prepared,
            Err(cause) => {
                return self.not_started(ticket, errors::refused("start", &name, &Refusal::Spawn { cause }));
            }
        };
        let emulator = domain.devices.emulator.clone().unwrap_or_default();
        let launch = Launch { purpose: Purpose::Guest, uuid, name, emulator, kvm: plan.kvm, disks: disks.clone() };
        if let Some(starting) = self.starts.get_mut(&ticket) {
            (starting.disks, starting.launching) = (disks, true);
        }
        let launching = Launching { ticket, domain, uuid, kvm: plan.kvm, owner, link };
        let launched = move |control: &mut Control, done: Done| control.launched(launching, done);
        let late = move |control: &mut Control, refusal| control.launch_is_late(ticket, &refusal);
        self.ask_launcher_however_long(
            &ToLauncher::Launch(launch),
            vec![theirs.into()],
            Box::new(launched),
            Box::new(late),
        );
    }

    /// The launcher has not answered in time. It may do what it was asked all the same, so the start goes on, and what
    /// comes of it is killed.
    fn launch_is_late(&mut self, ticket: Ticket, refusal: &Refusal) {
        let Some(starting) = self.starts.get_mut(&ticket) else { return };
        starting.unwanted = true;
        let error = errors::refused("start", &starting.name, refusal);
        if let Some(then) = starting.then.take() {
            then(self, Err(error));
        }
    }

    fn launched(&mut self, launching: Launching, done: Done) {
        let Launching { ticket, domain, uuid, kvm, owner, link } = launching;
        let (run, pid, uid) = match done {
            Ok((FromLauncher::Launched { run, pid, uid }, _)) => (run, pid, uid),
            Ok(_) => {
                let refusal = Refusal::Range { what: "the launcher gave another answer to a launch".into() };
                return self.not_started(ticket, errors::refused("start", &domain.name, &refusal));
            }
            Err(refusal) => return self.not_started(ticket, errors::refused("start", &domain.name, &refusal)),
        };
        let Some(starting) = self.starts.remove(&ticket) else { return };
        let mut guest = Guest::new(run, uuid, domain.name.clone());
        (guest.pid, guest.uid, guest.kvm, guest.disks) = (pid, uid, kvm, starting.disks);
        guest.domain = Some(domain);
        guest.on_end = starting.on_end;
        guest.start = starting.then.map(|then| PendingStart { then, failed: None });
        // Its connection may be over by now.
        let unwanted = starting.unwanted || owner.is_some_and(|owner| self.server.peer(owner).is_none());
        (guest.destroyed, guest.owner) = (unwanted, owner);
        if let Some(owner) = owner.filter(|_| !unwanted) {
            self.owned.entry(owner).or_default().insert(run);
        }
        self.guests.insert(run, guest);
        if let Err(refusal) = self.objects.launched(ticket, Run(run)) {
            // A run is never turned away, whatever the books say.
            tracing::error!(run, guest = starting.name, "{refusal}");
            self.objects.adopt(registry::Found { run: Run(run), uuid: Some(uuid), name: Some(starting.name) }, None);
        }
        if let Err(error) = self.connect(run, link) {
            tracing::error!(run, "its supervisor cannot be heard: {}", qemud::chain(&error));
            self.redial_later(run);
        }
        if unwanted {
            return self.kill_run(run);
        }
        self.begin_start_job(run, BOOT_PATIENCE);
        self.hear_supervisor(run);
    }

    fn boot_request(
        &self,
        domain: &Domain,
        plan: &Plan,
        (paused, autodestroy): (bool, bool),
        disks: &[DiskInUse],
    ) -> Result<Request, PayloadError> {
        let xml = domain.to_xml(&DumpOptions::stored());
        let record = Record { xml, disks: disks.to_vec(), kvm: plan.kvm, autodestroy, ..Record::default() };
        let copy = |copy: &supervisor::protocol::Copy| CopySpec { file: copy.file, name: copy.name.clone() };
        let spec = Payload::new(&BootSpec {
            argv: plan.argv.clone(),
            consoles: plan.consoles,
            files: u8::try_from(plan.files.len()).unwrap_or(u8::MAX),
            copies: plan.copies.iter().map(copy).collect(),
            paused,
            on_poweroff: plan::action(domain.on_poweroff),
            on_reboot: plan::action(domain.on_reboot),
            on_crash: plan::action(crash_action(domain)),
            deadline_ms: u32::try_from(self.config.guest_deadline.as_millis()).unwrap_or(u32::MAX),
        })?;
        let record = serde_json::to_string(&record).unwrap_or_default();
        Ok(Request::Start(protocol::Start { job: jobs::START.0, name: domain.name.clone(), record, spec }))
    }

    pub(super) fn booted(&mut self, run: u32, reply: SupervisorReply) {
        match reply {
            Ok((Answer::Status(status), fds)) => {
                let Some(guest) = self.guests.get_mut(&run) else { return };
                guest.started = status.started_seconds;
                guest.process = Process::new(fds);
                let state = DomainState::try_from(status.state).unwrap_or(DomainState::NoState);
                self.come_up(run, State::new(state, status.reason));
            }
            // A lost connection says nothing of the guest: it is dialled again, or the launcher reports its end.
            Err(GuestError::Unreachable) => {}
            Ok(_) => self.start_failed(run, |name| errors::wrong_state(format!("'{name}' did not boot"))),
            Err(error) => self.start_failed(run, |name| errors::guest("start", name, &error)),
        }
    }

    pub(super) fn boot_is_late(&mut self, run: u32) {
        if self.guests.get(&run).is_some_and(|guest| guest.start.is_some()) {
            self.start_failed(run, |name| errors::guest("start", name, &GuestError::Silent(BOOT_PATIENCE)));
        }
    }

    /// A start has failed with a run there. The run is ended, and then the client is told: another start is possible then.
    fn start_failed(&mut self, run: u32, error: impl FnOnce(&str) -> Error) {
        let Some(guest) = self.guests.get_mut(&run) else { return };
        let error = error(&guest.name);
        let Some(start) = guest.start.as_mut() else { return };
        start.failed.get_or_insert(error);
        self.kill_run(run);
        self.after(CLEARING, Box::new(move |control, ()| control.not_cleared(run)));
    }

    fn not_cleared(&mut self, run: u32) {
        let start = self.guests.get_mut(&run).and_then(|guest| guest.start.take());
        if let Some(PendingStart { then, failed }) = start {
            then(self, Err(failed.unwrap_or_else(|| errors::wrong_state("domain is being ended"))));
        }
    }
}

fn check_kvm(domain: &Domain, abilities: &Abilities) -> Result<(), PlanError> {
    if domain.domain_type != DomainType::Kvm || abilities.kvm_enabled {
        return Ok(());
    }
    let why = if !abilities.kvm_present {
        "this QEMU cannot use it for this architecture".into()
    } else if abilities.stderr.trim().is_empty() {
        "/dev/kvm is missing or may not be opened".into()
    } else {
        abilities.stderr.trim().to_string()
    };
    Err(PlanError::NoKvm(why))
}
fn crash_action(domain: &Domain) -> LifecycleAction {
    use model::CrashAction;
    match domain.on_crash {
        CrashAction::Destroy | CrashAction::CoredumpDestroy => LifecycleAction::Destroy,
        CrashAction::Restart | CrashAction::RenameRestart | CrashAction::CoredumpRestart => LifecycleAction::Restart,
        CrashAction::Preserve => LifecycleAction::Preserve,
    }
}

/// A disk's identity; none for a file that needs none. Refuses what is no disk at all, whichever process opened it.
fn identify(file: &plan::File, fd: &OwnedFd) -> Result<Option<DiskInUse>, Refusal> {
    let access = if file.writable { Access::ReadWrite } else { Access::Read };
    check::regular_or_block(fd.as_fd(), access).map_err(|error| match error {
        CheckError::Type { .. } => Refusal::Kind { path: file.path.clone() },
        error => Refusal::Range { what: format!("{} ('{}'): {error}", file.what, file.path) },
    })?;
    if !file.what.starts_with("disk ") {
        return Ok(None);
    }
    let stat = fstat(fd).map_err(|error| Refusal::Range { what: error.to_string() })?;
    let block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    let (device, inode) = if block { (stat.st_rdev, 0) } else { (stat.st_dev, stat.st_ino) };
    Ok(Some(DiskInUse {
        device,
        inode,
        writable: file.writable,
        shareable: file.shareable,
        what: file.what.clone(),
        path: file.path.clone(),
    }))
}
