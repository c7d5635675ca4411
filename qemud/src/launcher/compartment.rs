//! Building a guest's compartment, and starting processes without power: the guest's supervisor, control.
//!
//! Every check on what control asks for is made here again, where the power is used.

use std::{
    collections::HashMap,
    env,
    fs::{self, OpenOptions},
    io::Read,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt, OpenOptionsExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
};

use ipc::paths::{Instance, Mode, ROOT_VARIABLE};
use rustix::fs::{Mode as FileMode, OFlags, open};
use sandbox::{
    jail::{Device, Jail, JailError, WritableDir},
    rlimit::{self, Limit, Resource},
    spawn::{Child, IdMap, Identity, Namespace, Program, Spawn, SpawnError},
};
use supervisor::protocol::{BOOT_DIR, fds};

use super::{
    LauncherError,
    runs::{self, Access, Record},
    setup::{self, Listeners},
};
use crate::{
    config::Config,
    edge::{self, Launch, Refusal},
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
/// What control may pass on to its own children through its environment.
const KEPT_VARIABLES: [&str; 7] =
    ["HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "RUST_LOG"];

/// What every compartment has in common.
pub struct Compartments {
    /// The supervisor's program, opened once: an upgrade of the file does not mix two releases.
    program: OwnedFd,
    /// The root of each emulator's guests.
    jails: HashMap<PathBuf, Jail>,
    /// The launcher is root: guests have uids of their own, and no user namespace.
    privileged: bool,
    /// The network namespace of the next guest. Making one takes a tenth of what a start takes beside QEMU itself.
    spare_netns: Option<OwnedFd>,
    /// Making them ahead works.
    makes_netns: bool,
}

impl Compartments {
    /// Opens the supervisor's program, which is installed beside this one.
    ///
    /// # Errors
    /// When it is not there.
    pub fn new(_: &Config) -> Result<Compartments, LauncherError> {
        let path = env::current_exe().unwrap_or_default().with_file_name("qemu-supervisor");
        let failed = |error: rustix::io::Errno| LauncherError::Supervisor {
            path: path.display().to_string(),
            source: error.into(),
        };
        let program = open(&path, OFlags::PATH | OFlags::CLOEXEC, FileMode::empty()).map_err(failed)?;
        let privileged = rustix::process::geteuid().is_root();
        Ok(Compartments { program, jails: HashMap::new(), privileged, spare_netns: None, makes_netns: privileged })
    }

    /// Whether there is something to make ahead.
    #[must_use]
    pub fn wants_preparation(&self) -> bool {
        // In a user namespace, the network namespace has to be the user namespace's own.
        self.makes_netns && self.spare_netns.is_none()
    }

    /// Makes ahead what the next start will need. For when nobody waits.
    pub fn prepare(&mut self) {
        if self.wants_preparation() {
            match sandbox::netns::empty() {
                Ok(netns) => self.spare_netns = Some(netns),
                Err(error) => {
                    log::warn!("network namespaces are not made ahead: {}", chain(&error));
                    self.makes_netns = false;
                }
            }
        }
    }

    /// Builds a compartment and starts the supervisor in it.
    ///
    /// # Errors
    /// When the request is out of range, or a step fails; nothing is left behind then.
    pub fn launch(
        &mut self,
        instance: &Instance,
        config: &Config,
        launch: &Launch,
        control: &OwnedFd,
    ) -> Result<Child, Refusal> {
        self.check(config, launch)?;
        let emulator = check_emulator(&launch.emulator, config, self.privileged)?;
        let identity = self.identity(launch);
        let jail = self.jail(&emulator, launch, identity)?;
        let log = open_log(instance, launch)?;
        let control_uid = setup::control_uid(instance, config);
        let opened = runs::create(instance, launch, Access { control: control_uid })?;
        let child = self.spawn(launch, identity, &jail, control, &opened, &log, control_uid).and_then(|child| {
            let start_time = sandbox::process_start_time(child.pid).unwrap_or_default();
            let pid = u32::try_from(child.pid).unwrap_or_default();
            let record = Record { uuid: launch.uuid, name: launch.name.clone(), uid: launch.uid, pid, start_time };
            runs::record(instance, launch.id, &record).map(|()| child)
        });
        child.inspect_err(|_| runs::remove(instance, launch.id))
    }

    fn check(&self, config: &Config, launch: &Launch) -> Result<(), Refusal> {
        let range = |what: String| Err(Refusal::Range { what });
        if let Err(why) = model::check_name(&launch.name) {
            return range(format!("the guest's name: {why}"));
        }
        let last = config.first_guest_uid.saturating_add(config.guest_uids);
        match launch.uid {
            Some(uid) if !self.privileged => range(format!("uid {uid} without privilege")),
            None if self.privileged => range("a guest without a uid of its own".into()),
            Some(uid) if !(config.first_guest_uid..last).contains(&uid) => {
                range(format!("uid {uid} is not between {} and {last}", config.first_guest_uid))
            }
            _ => Ok(()),
        }
    }

    /// A guest's own uid, or, in a user namespace, the user's.
    fn identity(&self, launch: &Launch) -> Identity {
        match launch.uid {
            Some(uid) => Identity { uid, gid: uid },
            None => Identity { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() },
        }
    }

    fn jail(&mut self, emulator: &Path, launch: &Launch, identity: Identity) -> Result<Jail, Refusal> {
        let failed = |error: JailError| Refusal::Spawn { cause: chain(&error) };
        if !self.jails.contains_key(emulator) {
            let data = QEMU_DATA.map(Path::new);
            let mut jail = Jail::for_program(emulator, &data).map_err(failed)?;
            for device in [Device::Null, Device::Zero, Device::Urandom] {
                jail = jail.device(device).map_err(failed)?;
            }
            self.jails.insert(emulator.to_path_buf(), jail);
        }
        let mut jail = self.jails.get(emulator).cloned().unwrap_or_default();
        // QEMU is started by the path that the document has for it; what is behind it is the file that was checked.
        let named = Path::new(&launch.emulator);
        if named != emulator {
            jail = jail.symlink(emulator, named).map_err(failed)?;
        }
        let dir = |size| WritableDir { uid: identity.uid, gid: identity.gid, mode: 0o700, size };
        let jail = jail.writable_dir(Path::new(BOOT_DIR), dir(BOOT_SIZE)).map_err(failed)?;
        let tmp = Path::new("/tmp");
        // An emulator that was built there has its own use for the place.
        let taken = emulator.starts_with(tmp) || named.starts_with(tmp);
        let jail = if taken { jail } else { jail.writable_dir(tmp, dir(TMP_SIZE)).map_err(failed)? };
        // Without root the node keeps the host's rights, so it is of use only to a user who may open it.
        let usable = self.privileged || OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        if launch.kvm && usable && Path::new("/dev/kvm").exists() {
            return jail.device_for(Device::Kvm, identity.uid, identity.gid).map_err(failed);
        }
        Ok(jail)
    }

    #[allow(clippy::too_many_arguments)] // One call, one place: the parts of a compartment.
    fn spawn(
        &mut self,
        launch: &Launch,
        identity: Identity,
        jail: &Jail,
        control: &OwnedFd,
        opened: &runs::Opened,
        log: &OwnedFd,
        control_uid: Option<u32>,
    ) -> Result<Child, Refusal> {
        let program = self.program.try_clone().map_err(|error| Refusal::Spawn { cause: error.to_string() })?;
        let control_uid = control_uid.unwrap_or(rustix::process::getuid().as_raw());
        // The guest's name is there for people who look at `ps`.
        let spawn = Spawn::new(Program::Fd(program), format!("qemu-supervisor [{}]", launch.name))
            .arg("--control-uid")
            .arg(control_uid.to_string())
            .fd(2, log)
            .fd(fds::LISTENER, &opened.listener)
            .fd(fds::CONTROL, control)
            .fd(fds::EVENT_LOG, &opened.event_log)
            .namespaces(&[Namespace::Pid, Namespace::Ipc, Namespace::Uts])
            .hostname("guest")
            .jail(jail)
            .limit(Limit::fixed(Resource::Nofile, OPEN_FILES))
            .limit(Limit::fixed(Resource::Core, 0))
            .identity(identity);
        let spawn =
            if self.privileged { spawn } else { spawn.user_namespace(IdMap { uid: identity.uid, gid: identity.gid }) };
        let spare = self.spare_netns.take();
        let spawn = match &spare {
            Some(netns) => spawn.netns(netns),
            None => spawn.namespaces(&[Namespace::Net]),
        };
        spawn.start().map_err(|error| Refusal::Spawn { cause: chain(&error) })
    }
}

/// An emulator is a program file under the configured directories; where there is privilege to lose, root's own.
fn check_emulator(path: &str, config: &Config, privileged: bool) -> Result<PathBuf, Refusal> {
    let refuse = |why: &str| Refusal::Emulator { path: path.into(), why: why.into() };
    let real = fs::canonicalize(path).map_err(|error| refuse(&error.to_string()))?;
    if !Path::new(path).is_absolute() || !config.emulator_roots.iter().any(|root| real.starts_with(root)) {
        let roots = config.emulator_roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(refuse(&format!("it is not under {roots}")));
    }
    let data = fs::metadata(&real).map_err(|error| refuse(&error.to_string()))?;
    if !data.is_file() || data.mode() & 0o111 == 0 {
        return Err(refuse("it is no program"));
    }
    let mut magic = [0; 4];
    let read = fs::File::open(&real).and_then(|mut file| file.read_exact(&mut magic));
    if read.is_err() || magic != *b"\x7fELF" {
        return Err(refuse("it is no binary program; a script needs a shell, and a compartment has none"));
    }
    if privileged && (data.uid() != 0 || data.mode() & 0o022 != 0) {
        return Err(refuse("it does not belong to root alone"));
    }
    Ok(real)
}

fn open_log(instance: &Instance, launch: &Launch) -> Result<OwnedFd, Refusal> {
    let path = instance.log_dir().join("qemu").join(format!("{}.log", launch.name));
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(NO_FOLLOW).open(&path);
    file.map(OwnedFd::from).map_err(|error| Refusal::Directory {
        step: format!("open the guest's log {}", path.display()),
        cause: error.to_string(),
    })
}

/// The log directory is root's own; this is for a session's, which the user's other programs write to.
const NO_FOLLOW: i32 = OFlags::NOFOLLOW.bits().cast_signed();

/// Starts control: a fresh copy of this program without power, with the channel and the listeners.
pub fn start_control(
    instance: &Instance,
    config: &Config,
    idle_timeout: Option<u32>,
    channel: &UnixStream,
    listeners: &Listeners,
) -> Result<Child, SpawnError> {
    let stderr = std::io::stderr();
    let mut spawn = Spawn::new(Program::OwnExe, "qemud")
        .arg("--role=control")
        .arg(if instance.mode() == Mode::System { "--system" } else { "--session" })
        .fd(2, &stderr)
        .fd(edge::fds::LAUNCHER, channel)
        .fd(edge::fds::LISTENER, &listeners.read_write)
        .fd(edge::fds::READ_ONLY_LISTENER, &listeners.read_only)
        .limit(Limit::fixed(Resource::Core, 0));
    // As many descriptors as the host allows: each client, guest and disk on its way takes one.
    if let Some(most) = rlimit::get(Resource::Nofile).hard {
        spawn = spawn.limit(Limit::fixed(Resource::Nofile, most));
    }
    if rustix::process::geteuid().is_root() {
        spawn = spawn.arg("--guests-have-uids");
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

fn chain(error: &dyn std::error::Error) -> String {
    crate::control::definitions::chain(error)
}
