//! From a document to a running guest: complete it, plan it, gather its files, launch it. Each step may have to wait for
//! somebody else; whichever fails, the guest is as it was before.

use std::{
    cell::RefCell,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    rc::Rc,
    time::Duration,
};

use api::Error;
use model::{Domain, DomainType, DumpOptions, LifecycleAction, Live};
use rustix::fs::{FileType, fstat};
use sandbox::fd::check::{self, Access, CheckError};
use supervisor::protocol::{Abilities, Answer, Boot, Request};
use uuid::Uuid;

use super::{
    Control, Then,
    adopt::Record,
    errors,
    guests::{Guest, Phase, Process, Told},
};
use qemud::edge::{Launch, Refusal, ToLauncher};

use crate::qemu::{
    complete,
    plan::{self, DiskInUse, Plan, PlanError},
};

/// How long QEMU may take from its start until it answers: a kernel to copy, many CPUs, a busy host.
const BOOT_PATIENCE: Duration = Duration::from_secs(60);

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

/// One start on its way.
pub struct Start {
    /// The document.
    pub domain: Domain,
    /// Leave the virtual CPUs stopped.
    pub paused: bool,
    /// What the client opened.
    pub given: Vec<Given>,
    /// What is done in the end.
    pub then: Then<Started>,
}

/// A start whose plan stands, while its files are gathered.
struct Gathering {
    start: Start,
    uuid: Uuid,
    plan: Plan,
    files: Vec<OwnedFd>,
}

/// The end of a start, which two answers race for.
type Ending = Rc<RefCell<Option<Then<Started>>>>;

impl Control {
    /// Starts a guest.
    pub(super) fn start(&mut self, mut start: Start) {
        let uuid = start.domain.ensure_uuid();
        if self.runs.contains_key(&uuid) || !self.starting.insert(uuid) {
            return (start.then)(self, Err(errors::wrong_state("domain is already running")));
        }
        let emulator = match complete::complete_emulator(&mut start.domain, &self.host.arch) {
            Ok(emulator) => emulator,
            Err(error) => {
                return self.not_started(uuid, start.then, |name| errors::plan(name, &error), &start.domain.name);
            }
        };
        let known = move |control: &mut Control, known: super::emulators::Known| match known {
            Ok(abilities) => control.plan_start(start, uuid, &abilities),
            Err(error) => {
                let name = start.domain.name.clone();
                control.not_started(uuid, start.then, |name| errors::for_domain("start", name, error), &name);
            }
        };
        self.with_abilities(&emulator, Box::new(known));
    }

    fn not_started(&mut self, uuid: Uuid, then: Then<Started>, error: impl FnOnce(&str) -> Error, name: &str) {
        self.starting.remove(&uuid);
        then(self, Err(error(name)));
    }

    fn plan_start(&mut self, mut start: Start, uuid: Uuid, abilities: &Abilities) {
        let planned = complete::complete(&mut start.domain, abilities)
            .and_then(|()| check_kvm(&start.domain, abilities))
            .and_then(|()| plan::plan(&start.domain, start.paused));
        match planned {
            Ok(plan) => self.gather(Gathering { start, uuid, plan, files: Vec::new() }),
            Err(error) => {
                let name = start.domain.name.clone();
                self.not_started(uuid, start.then, |name| errors::plan(name, &error), &name);
            }
        }
    }

    /// Takes each file from the client if it gave it, else asks the launcher for it.
    fn gather(&mut self, mut gathering: Gathering) {
        while let Some(file) = gathering.plan.files.get(gathering.files.len()) {
            let fits = |given: &Given| given.path == file.path && given.writable == file.writable;
            let Some(index) = gathering.start.given.iter().position(fits) else {
                let request = ToLauncher::Open { path: file.path.clone(), writable: file.writable };
                let opened = move |control: &mut Control, done: super::launcher_link::Done| {
                    control.take_opened(gathering, done);
                };
                return self.ask_launcher(&request, Vec::new(), Box::new(opened));
            };
            let given = gathering.start.given.swap_remove(index);
            gathering.files.push(given.fd);
        }
        self.check_disks(gathering);
    }

    fn take_opened(&mut self, mut gathering: Gathering, done: super::launcher_link::Done) {
        let name = gathering.start.domain.name.clone();
        match done {
            Ok((_, mut fds)) if fds.len() == 1 => {
                gathering.files.append(&mut fds);
                self.gather(gathering);
            }
            Ok(_) => {
                let refusal = Refusal::Range { what: "the launcher opened nothing".into() };
                self.not_started(
                    gathering.uuid,
                    gathering.start.then,
                    |n| errors::refused("start", n, &refusal),
                    &name,
                );
            }
            Err(refusal) => {
                self.not_started(
                    gathering.uuid,
                    gathering.start.then,
                    |n| errors::refused("start", n, &refusal),
                    &name,
                );
            }
        }
    }

    /// Two guests that write to one disk destroy it, so the second is not started.
    fn check_disks(&mut self, gathering: Gathering) {
        let name = gathering.start.domain.name.clone();
        let mut disks = Vec::new();
        for (file, fd) in gathering.plan.files.iter().zip(&gathering.files) {
            match identify(file, fd) {
                Ok(Some(disk)) => disks.push(disk),
                Ok(None) => {}
                Err(refusal) => {
                    let then = gathering.start.then;
                    return self.not_started(gathering.uuid, then, |n| errors::refused("start", n, &refusal), &name);
                }
            }
        }
        let conflict = disks.iter().find_map(|disk| {
            self.other_user(disk)
                .map(|(guest, used)| errors::disk_in_use(&name, &disk.what, &disk.path, &guest.name, &used.what))
        });
        match conflict {
            Some(error) => self.not_started(gathering.uuid, gathering.start.then, |_| error, &name),
            None => self.launch(gathering, disks),
        }
    }

    fn other_user(&self, disk: &DiskInUse) -> Option<(&Guest, &DiskInUse)> {
        let same = |used: &&DiskInUse| (used.device, used.inode) == (disk.device, disk.inode);
        let clash = |used: &&DiskInUse| (used.writable || disk.writable) && !(used.shareable && disk.shareable);
        self.guests
            .values()
            .filter(|guest| guest.phase != Phase::Ending)
            .find_map(|guest| Some((guest, guest.disks.iter().filter(same).find(clash)?)))
    }

    fn launch(&mut self, gathering: Gathering, disks: Vec<DiskInUse>) {
        let Gathering { start, uuid, plan, files } = gathering;
        let Start { domain, paused, then, .. } = start;
        let name = domain.name.clone();
        let (ours, theirs) = match UnixStream::pair() {
            Ok(pair) => pair,
            Err(error) => {
                let refusal = Refusal::Spawn { cause: error.to_string() };
                return self.not_started(uuid, then, |n| errors::refused("start", n, &refusal), &name);
            }
        };
        let id = self.take_run_number();
        let boot = self.boot_request(&domain, &plan, id, paused, &disks);
        let emulator = domain.devices.emulator.clone().unwrap_or_default();
        let mut guest = Guest::new(id, uuid, name.clone(), Phase::Starting);
        guest.disks = disks;
        guest.kvm = plan.kvm;
        guest.domain = Some(domain);
        let launch = Launch { id, uuid, name, emulator, kvm: plan.kvm };
        self.guests.insert(id, guest);
        self.runs.insert(uuid, id);
        self.starting.remove(&uuid);
        let ending: Ending = Rc::new(RefCell::new(Some(then)));
        if let Err(error) = self.link(id, ours) {
            let refusal = Refusal::Spawn { cause: error.to_string() };
            return self.abandon(id, &ending, |name| errors::refused("start", name, &refusal));
        }
        // The supervisor's orders wait in its socket before it exists, so nobody waits for it to ask for them.
        let booted = Rc::clone(&ending);
        self.ask_guest_within(id, &boot, files, BOOT_PATIENCE, Box::new(move |c, told| c.booted(id, &booted, told)));
        self.flush_supervisors();
        let launched = move |control: &mut Control, done: super::launcher_link::Done| match done {
            Ok((qemud::edge::FromLauncher::Launched { pid, uid }, _)) => {
                let Some(guest) = control.guests.get_mut(&id) else { return };
                (guest.pid, guest.uid) = (pid, uid);
                if let Some(error) = guest.early_end.take() {
                    control.abandon(id, &ending, |name| errors::guest("start", name, &error));
                }
            }
            Ok(_) => tracing::error!("run {id}: the launcher gave another answer to a launch"),
            Err(refusal) => control.abandon(id, &ending, |name| errors::refused("start", name, &refusal)),
        };
        self.ask_launcher(&ToLauncher::Launch(launch), vec![theirs.into()], Box::new(launched));
    }

    fn boot_request(&self, domain: &Domain, plan: &Plan, id: u32, paused: bool, disks: &[DiskInUse]) -> Request {
        let xml = domain.to_xml(&DumpOptions { live: Some(Live { id }), ..DumpOptions::stored() });
        let record = Record { xml, disks: disks.to_vec(), kvm: plan.kvm, ..Record::default() };
        Request::Boot(Boot {
            name: domain.name.clone(),
            argv: plan.argv.clone(),
            consoles: plan.consoles,
            files: u8::try_from(plan.files.len()).unwrap_or(u8::MAX),
            copies: plan.copies.clone(),
            paused,
            on_poweroff: plan::action(domain.on_poweroff),
            on_reboot: plan::action(domain.on_reboot),
            on_crash: plan::action(crash_action(domain)),
            deadline_ms: u32::try_from(self.config.guest_deadline.as_millis()).unwrap_or(u32::MAX),
            record: serde_json::to_string(&record).unwrap_or_default(),
        })
    }

    fn booted(&mut self, id: u32, ending: &Ending, told: Told) {
        match told {
            Ok((Answer::Status(status), fds)) => {
                let Some(guest) = self.guests.get_mut(&id) else { return };
                guest.state = (status.state, status.reason);
                guest.started = status.started_seconds;
                guest.process = Process::new(fds);
                if guest.phase == Phase::Starting {
                    guest.phase = Phase::Running;
                }
                finish(self, ending, Ok(id));
            }
            Ok(_) => self.abandon(id, ending, |name| errors::wrong_state(format!("'{name}' did not boot"))),
            Err(error) => match self.guests.get_mut(&id) {
                Some(guest) if guest.pid == 0 => guest.early_end = Some(error),
                _ => self.abandon(id, ending, |name| errors::guest("start", name, &error)),
            },
        }
    }

    /// A start failed after its run had begun: the run is over for clients; its supervisor, if there is one, goes.
    fn abandon(&mut self, id: u32, ending: &Ending, error: impl FnOnce(&str) -> Error) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let name = guest.name.clone();
        guest.phase = Phase::Ending;
        let (uuid, launched) = (guest.uuid, guest.pid != 0);
        self.runs.remove(&uuid);
        if launched {
            self.ask_guest(id, &Request::Destroy, Vec::new(), Box::new(|_, _| {}));
        }
        finish(self, ending, Err(error(&name)));
        if !launched {
            self.forget_run(id);
        }
    }

    /// The number of a new run.
    pub(super) fn take_run_number(&mut self) -> u32 {
        let id = self.next_run;
        self.next_run += 1;
        id
    }
}

fn finish(control: &mut Control, ending: &Ending, result: Started) {
    let then = ending.borrow_mut().take();
    if let Some(then) = then {
        then(control, result);
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

/// A disk's identity, or that a file is none that matters; refuses what is no disk at all, whoever opened it.
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
