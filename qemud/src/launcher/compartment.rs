//! Building a guest's compartment, and starting processes without power: the guest's supervisor, control.
//!
//! Every check on what control asks for is made here again, where the power is used.

use std::{
    collections::{HashMap, HashSet},
    env,
    fs::OpenOptions,
    ops::Range,
    os::{
        fd::OwnedFd,
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
};

use ipc::{
    paths::{Instance, Mode, ROOT_VARIABLE},
    programs::Search,
};
use rustix::fs::{Mode as FileMode, OFlags, open};
use sandbox::{
    Signal,
    jail::{Device, Jail, JailError, WritableDir},
    pidfd,
    rlimit::{self, Limit, Resource},
    spawn::{Child, IdMap, Identity, Namespace, Program, Spawn, SpawnError},
};
use supervisor::{
    launch::{self, ASSIGNMENT, Assignment},
    protocol::BOOT_DIR,
};

use super::{
    LauncherError,
    record::Record,
    runs::{self, Access, directory},
    setup::{self, Listeners},
};
use crate::{
    chain,
    config::Config,
    edge::{self, Launch, Refusal},
    opener::Emulator,
};

/// Read-only data of QEMU's own: firmware, ROMs, key maps. Those that exist are shown in a compartment.
const QEMU_DATA: [&str; 8] = [
    "/usr/share/qemu",
    "/usr/share/seabios",
    "/usr/share/vgabios",
    "/usr/share/ipxe",
    "/usr/share/qemu-efi-aarch64",
    "/usr/share/OVMF",
    "/usr/share/AAVMF",
    "/usr/share/edk2",
];
/// What a supervisor may copy for QEMU: a kernel and an initrd. Memory in use only while they are there.
const BOOT_SIZE: u64 = 1 << 30;
/// What QEMU may put down for itself.
const TMP_SIZE: u64 = 64 << 20;
/// Descriptors of a supervisor and its QEMU.
const OPEN_FILES: u64 = 4096;
/// The longest name of a guest, in bytes: `NAME.log` and `NAME.xml.new` are file names.
const MAX_NAME: usize = 240;
/// What control may pass on to its own children through its environment.
const KEPT_VARIABLES: [&str; 7] =
    ["HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "RUST_LOG"];

/// What compartments differ in besides their uid: a supervisor that waits in one can serve any guest of the same form.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Form {
    /// The emulator's file.
    emulator: Emulator,
    /// The path that the document has for it.
    named: PathBuf,
    /// The compartment has `/dev/kvm`.
    kvm: bool,
}

/// A supervisor in its compartment that has no guest yet.
struct Waiting {
    form: Form,
    identity: Identity,
    child: Child,
    /// Where it waits; it ends when this closes.
    launcher: UnixStream,
}

/// A guest that is to have a supervisor.
pub struct Order<'a> {
    /// What control asked for.
    pub launch: &'a Launch,
    /// The emulator, checked.
    pub emulator: Emulator,
    /// The supervisor's end of its connection to control.
    pub control: OwnedFd,
}

/// A supervisor that has its guest.
pub struct Launched {
    /// Its process.
    pub child: Child,
    /// Its uid, if guests have uids of their own.
    pub uid: Option<u32>,
    /// Its process's number.
    pub pid: u32,
}

/// What every compartment has in common, and the one that is kept ready.
pub struct Compartments {
    /// The supervisor's program, opened once: an upgrade of the file does not mix two releases.
    program: OwnedFd,
    /// The root of each emulator's guests.
    jails: HashMap<PathBuf, Jail>,
    /// The launcher is root: guests have uids of their own, and no user namespace.
    privileged: bool,
    /// The uid by which supervisors know their control.
    control_uid: u32,
    /// Guests' uids.
    uids: Range<u32>,
    /// How many uids have been given: they are given in turn, so that one is not given again while something of its last
    /// guest might still be there.
    given_uids: u32,
    /// Uids that are not given: one of them may be a guest's of which nobody knows its uid.
    avoided: HashSet<u32>,
    /// What the last guest needed, and the next one is likely to need.
    wanted: Option<Form>,
    /// Building a compartment and starting a supervisor takes a tenth of what a start takes beside QEMU itself.
    kept: Option<Waiting>,
}

impl Compartments {
    /// Opens the supervisor's program, which is installed beside this one.
    ///
    /// # Errors
    /// As [`open_program`].
    pub fn new(instance: &Instance, config: &Config) -> Result<Compartments, LauncherError> {
        let program = open_program("qemu-supervisor")?;
        let own_uid = rustix::process::getuid().as_raw();
        Ok(Compartments {
            program,
            jails: HashMap::new(),
            privileged: rustix::process::geteuid().is_root(),
            control_uid: setup::control_uid(instance, config).unwrap_or(own_uid),
            uids: config.first_guest_uid..config.first_guest_uid.saturating_add(config.guest_uids),
            given_uids: 0,
            avoided: HashSet::new(),
            wanted: None,
            kept: None,
        })
    }

    /// Gives these uids to no guest.
    pub fn avoid(&mut self, uids: HashSet<u32>) {
        self.avoided = uids;
    }

    /// Whether there is something to make ahead.
    #[must_use]
    pub fn wants_preparation(&self) -> bool {
        self.wanted.is_some() && self.wanted.as_ref() != self.kept.as_ref().map(|kept| &kept.form)
    }

    /// Makes ahead what the next start will need, for when nobody waits. `used`: the uids of the guests that there are.
    pub fn prepare(&mut self, used: &HashSet<u32>) {
        let Some(form) = self.wanted.clone().filter(|_| self.wants_preparation()) else { return };
        self.dismiss();
        match self.start_supervisor(form, used) {
            Ok(waiting) => self.kept = Some(waiting),
            Err(refusal) => {
                tracing::warn!("no supervisor is kept ready until the next start: {refusal}");
                self.wanted = None;
            }
        }
    }

    /// Ends the supervisor that waits for nobody.
    pub fn dismiss(&mut self) {
        if let Some(kept) = self.kept.take() {
            end(&kept.child);
        }
    }

    /// Gives a guest its supervisor, in a compartment of its own. `used`: the uids of the guests that there are.
    ///
    /// # Errors
    /// When the request is out of range, or a step fails; nothing is left behind then.
    pub fn launch(
        &mut self,
        instance: &Instance,
        config: &Config,
        run: u32,
        order: Order<'_>,
        used: &HashSet<u32>,
    ) -> Result<Launched, Refusal> {
        let Order { launch, emulator, control } = order;
        check_name(&launch.name)?;
        let form = self.form(launch, emulator);
        let log = open_log(instance, launch)?;
        let waiting = self.take_supervisor(&form, used)?;
        self.wanted = Some(form);
        let uid = self.privileged.then_some(waiting.identity.uid);
        let access = Access { control: setup::control_uid(instance, config) };
        let pid = u32::try_from(waiting.child.pid).unwrap_or_default();
        let assigned = runs::create(instance, run, access).and_then(|opened| {
            // The record first: from the assignment on there is a run, and a launcher that dies must leave word of it.
            let record = Record::new(launch.purpose, launch.uuid, &launch.name, uid, pid, &launch.disks);
            record.write(&instance.guest_dir(run)).map_err(directory("write the run's record"))?;
            let runs::Opened { listener, event_log } = opened;
            let assignment = Assignment { listener, control, event_log, log };
            launch::assign(waiting.launcher, assignment).map_err(|error| Refusal::Spawn { cause: chain(&error) })
        });
        match assigned {
            Ok(()) => Ok(Launched { child: waiting.child, uid, pid }),
            Err(refusal) => {
                end(&waiting.child);
                runs::remove(instance, run);
                Err(refusal)
            }
        }
    }

    fn form(&self, launch: &Launch, emulator: Emulator) -> Form {
        // Without root the node keeps the host's rights, so it is of use only to a user who may open it.
        let usable = || self.privileged || OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        let kvm = launch.kvm && Path::new("/dev/kvm").exists() && usable();
        Form { emulator, named: PathBuf::from(&launch.emulator), kvm }
    }

    /// The one that is kept, if it is of the right form and lives, else a new one.
    fn take_supervisor(&mut self, form: &Form, used: &HashSet<u32>) -> Result<Waiting, Refusal> {
        let lives = |kept: &Waiting| matches!(pidfd::try_wait(&kept.child.pidfd), Ok(None));
        match self.kept.take().filter(lives) {
            Some(kept) if kept.form == *form => Ok(kept),
            other => {
                self.kept = other;
                self.start_supervisor(form.clone(), used)
            }
        }
    }

    /// Builds a compartment and starts a supervisor in it.
    fn start_supervisor(&mut self, form: Form, used: &HashSet<u32>) -> Result<Waiting, Refusal> {
        let failed = |cause: String| Refusal::Spawn { cause };
        let identity = self.identity(used)?;
        let jail = self.jail(&form, identity)?;
        let program = self.program.try_clone().map_err(|error| failed(error.to_string()))?;
        let (launcher, theirs) = UnixStream::pair().map_err(|error| failed(error.to_string()))?;
        let spawn = Spawn::new(Program::Fd(program), "qemu-supervisor")
            .arg("--control-uid")
            .arg(self.control_uid.to_string())
            .fd(ASSIGNMENT, &theirs)
            .namespaces(&[Namespace::Pid, Namespace::Ipc, Namespace::Uts, Namespace::Net])
            .hostname("guest")
            .jail(&jail)
            .limit(Limit::fixed(Resource::Nofile, open_files()))
            .limit(Limit::fixed(Resource::Core, 0))
            .identity(identity);
        let spawn =
            if self.privileged { spawn } else { spawn.user_namespace(IdMap { uid: identity.uid, gid: identity.gid }) };
        let child = spawn.start().map_err(|error| failed(chain(&error)))?;
        Ok(Waiting { form, identity, child, launcher })
    }

    /// A guest's own uid, which no other guest has; or, in a user namespace, the user's.
    fn identity(&mut self, used: &HashSet<u32>) -> Result<Identity, Refusal> {
        if !self.privileged {
            return Ok(Identity { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() });
        }
        let count = self.uids.end.saturating_sub(self.uids.start);
        let kept = self.kept.as_ref().map(|kept| kept.identity.uid);
        for _ in 0..count {
            let uid = self.uids.start + self.given_uids % count;
            self.given_uids = self.given_uids.wrapping_add(1);
            if !used.contains(&uid) && !self.avoided.contains(&uid) && kept != Some(uid) {
                return Ok(Identity { uid, gid: uid });
            }
        }
        Err(Refusal::Range { what: format!("all {count} uids for guests are in use") })
    }

    fn jail(&mut self, form: &Form, identity: Identity) -> Result<Jail, Refusal> {
        let failed = |error: JailError| Refusal::Spawn { cause: chain(&error) };
        let emulator = &form.emulator.path;
        if !self.jails.contains_key(emulator) {
            let data = QEMU_DATA.map(Path::new);
            let mut jail = Jail::for_program(emulator, &data).map_err(failed)?;
            for device in [Device::Null, Device::Zero, Device::Urandom] {
                jail = jail.device(device).map_err(failed)?;
            }
            self.jails.insert(emulator.clone(), jail);
        }
        let mut jail = self.jails.get(emulator).cloned().unwrap_or_default();
        // QEMU is started by the path that the document has for it; what is behind it is the file that was checked.
        if form.named != *emulator {
            jail = jail.symlink(emulator, &form.named).map_err(failed)?;
        }
        let dir = |size| WritableDir { uid: identity.uid, gid: identity.gid, mode: 0o700, size };
        let jail = jail.writable_dir(Path::new(BOOT_DIR), dir(BOOT_SIZE)).map_err(failed)?;
        let tmp = Path::new("/tmp");
        // An emulator that was built there has its own use for the place.
        let taken = emulator.starts_with(tmp) || form.named.starts_with(tmp);
        let jail = if taken { jail } else { jail.writable_dir(tmp, dir(TMP_SIZE)).map_err(failed)? };
        if form.kvm { jail.device_for(Device::Kvm, identity.uid, identity.gid).map_err(failed) } else { Ok(jail) }
    }
}

/// Opens a program of the suite, once, so that an upgrade of the file does not mix two releases.
///
/// # Errors
/// When it is not there, or others than the launcher's user and root could have put it there.
pub fn open_program(name: &str) -> Result<OwnedFd, LauncherError> {
    find_and_open(&env::current_exe().map_err(LauncherError::OwnProgram)?, name)
}

fn find_and_open(own: &Path, name: &str) -> Result<OwnedFd, LauncherError> {
    // The caller's PATH has no say in what the launcher runs.
    let path = Search { beside: Some(own), path: None }.find(name)?;
    let opened = open(&path, OFlags::PATH | OFlags::CLOEXEC, FileMode::empty());
    opened.map_err(|error| LauncherError::Program { path, source: error.into() })
}

/// Ends a supervisor that serves nobody.
fn end(child: &Child) {
    let ended = pidfd::send_signal(&child.pidfd, Signal::KILL).and_then(|()| pidfd::wait(&child.pidfd));
    if let Err(error) = ended {
        tracing::error!("a supervisor that serves nobody, pid {}, cannot be ended: {error}", child.pid);
    }
}

/// A name becomes a file's name and stands in logs, so it must not lead anywhere or carry control characters.
fn check_name(name: &str) -> Result<(), Refusal> {
    let refuse = |why: &str| Err(Refusal::Range { what: format!("the guest's name {why}") });
    match name {
        "" => refuse("is empty"),
        _ if name.len() > MAX_NAME => refuse("is too long"),
        _ if name.starts_with('.') => refuse("begins with '.'"),
        _ if name.contains('/') || name.chars().any(char::is_control) => refuse("is no file name"),
        _ => Ok(()),
    }
}

fn open_log(instance: &Instance, launch: &Launch) -> Result<OwnedFd, Refusal> {
    let path = instance.log_dir().join("qemu").join(format!("{}.log", launch.name));
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(NO_FOLLOW).open(&path);
    file.map(OwnedFd::from).map_err(|error| Refusal::Directory {
        step: format!("open the guest's log {}", path.display()),
        cause: error.to_string(),
    })
}

/// How many descriptors a supervisor and its QEMU get. The launcher has no right to give more than it may have itself.
fn open_files() -> u64 {
    rlimit::get(Resource::Nofile).hard.map_or(OPEN_FILES, |most| most.min(OPEN_FILES))
}

/// The log directory is root's own; this is for a session's, which the user's other programs write to.
const NO_FOLLOW: i32 = OFlags::NOFOLLOW.bits().cast_signed();

/// Starts control, without power, with the channel, the listeners and the note of the run in hand.
pub fn start_control(
    program: &OwnedFd,
    instance: &Instance,
    config: &Config,
    idle_timeout: Option<u32>,
    channel: &UnixStream,
    listeners: &Listeners,
    note: &OwnedFd,
) -> Result<Child, SpawnError> {
    let stderr = std::io::stderr();
    let program = program.try_clone().map_err(|source| SpawnError::Prepare { what: "control's program", source })?;
    let mut spawn = Spawn::new(Program::Fd(program), "qemud-control")
        .arg(if instance.mode() == Mode::System { "--system" } else { "--session" })
        .fd(2, &stderr)
        .fd(edge::fds::LAUNCHER, channel)
        .fd(edge::fds::LISTENER, &listeners.read_write)
        .fd(edge::fds::READ_ONLY_LISTENER, &listeners.read_only)
        .fd(edge::fds::IN_HAND, note)
        .limit(Limit::fixed(Resource::Core, 0));
    // As many descriptors as the host allows: each client, guest and disk on its way takes one.
    if let Some(most) = rlimit::get(Resource::Nofile).hard {
        spawn = spawn.limit(Limit::fixed(Resource::Nofile, most));
    }
    if let Some(seconds) = idle_timeout {
        spawn = spawn.arg(format!("--idle-timeout={seconds}"));
    }
    // The launcher's own choice of root, whether it came by option or by environment.
    if let Some(root) = instance.root() {
        spawn = spawn.env(ROOT_VARIABLE, root);
    }
    if let Some(uid) = setup::control_uid(instance, config) {
        spawn = spawn.identity(Identity { uid, gid: uid });
    }
    for name in KEPT_VARIABLES {
        if let Some(value) = env::var_os(name) {
            spawn = spawn.env(name, value);
        }
    }
    spawn.start()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_program_that_others_could_have_put_there_is_not_started() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("a-supervisor");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        mode(&program, 0o755);
        let open = || find_and_open(&dir.path().join("qemud"), "a-supervisor");
        open().unwrap();
        for (path, open_to_others, closed) in [(&program, 0o777, 0o755), (&dir.path().to_path_buf(), 0o1777, 0o700)] {
            mode(path, open_to_others);
            let refused = open().unwrap_err().to_string();
            assert!(refused.contains("is not taken: others than its user and root can change"), "{refused}");
            mode(path, closed);
        }
        mode(&program, 0o644);
        let refused = open().unwrap_err().to_string();
        assert!(refused.starts_with("there is no a-supervisor in"), "{refused}");
    }
}
