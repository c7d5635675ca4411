//! A document to a plan: QEMU's argument vector, the files that it needs, what its supervisor prepares.
//!
//! QEMU gets every file by descriptor and every device as JSON, so nothing in a document can become an option of its own.
//! A device, a limit or a label that the document asks for and this driver does not have is refused by name. What is kept
//! without effect is listed in `docs/documents.md`.

use model::{Disk, Domain, DomainType, LifecycleAction, RawElement};
pub use qemud::edge::DiskId as DiskInUse;
use serde_json::json;
use supervisor::protocol::{self, Action, BOOT_DIR, qemu_fds};
use thiserror::Error;

use super::{devices, disks};

/// Everything that a start needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// QEMU's argument vector; the first is its path.
    pub argv: Vec<String>,
    /// The files that it needs, in the order of their descriptors.
    pub files: Vec<File>,
    /// Those of them that are copied into its root.
    pub copies: Vec<protocol::Copy>,
    /// How many consoles it has.
    pub consoles: u8,
    /// It runs on KVM.
    pub kvm: bool,
}

/// One file that QEMU needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path, as in the document.
    pub path: String,
    /// Whether QEMU writes to it.
    pub writable: bool,
    /// What it is for: "disk vda", "kernel".
    pub what: String,
    /// Several guests may have it at once.
    pub shareable: bool,
}

/// Why a document cannot become a running guest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Another driver runs guests of this type.
    #[error("a domain of type '{0}' is not run by the QEMU driver")]
    DomainType(&'static str),
    /// There is no QEMU for the architecture.
    #[error("architecture '{arch}' is not known; those that QEMU emulates are {}", known.join(", "))]
    Arch {
        /// The architecture in the document.
        arch: String,
        /// Those that are known.
        known: Vec<&'static str>,
    },
    /// The emulator is for another architecture.
    #[error("emulator '{emulator}' is for {target}, the document asks for {arch}")]
    OtherArch {
        /// The emulator.
        emulator: String,
        /// What it emulates.
        target: String,
        /// What the document asks for.
        arch: String,
    },
    /// The emulator has no such machine.
    #[error("emulator '{emulator}' has no machine type '{machine}'")]
    Machine {
        /// The emulator.
        emulator: String,
        /// The machine in the document.
        machine: String,
        /// Those of similar name.
        similar: Vec<String>,
    },
    /// The emulator has no such CPU model, or the text is none.
    #[error("emulator '{emulator}' has no CPU model '{model}'")]
    CpuModel {
        /// The emulator.
        emulator: String,
        /// The model in the document.
        model: String,
    },
    /// A disk asks for io_uring, whose calls pass by every seccomp filter.
    #[error(
        "io='io_uring' of {0} is not possible: QEMU's system calls are filtered, and io_uring's pass by every filter"
    )]
    IoUring(String),
    /// The emulator names no default machine.
    #[error("emulator '{emulator}' has no default machine type; the document must name one in os/type")]
    NoDefaultMachine {
        /// The emulator.
        emulator: String,
    },
    /// The document asks for something that this driver does not have.
    #[error("{what} is not supported by the QEMU driver yet")]
    Unsupported {
        /// What: the element and where it stands.
        what: String,
    },
    /// Two parts of the document cannot both hold.
    #[error("{0}")]
    Contradiction(String),
    /// The document has more of something than QEMU can be given.
    #[error("{what}: {found} are more than the {limit} that are possible")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// How many are possible.
        limit: usize,
    },
    /// KVM is asked for and does not work here.
    #[error("KVM is not usable on this host: {0}")]
    NoKvm(String),
}

impl PlanError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            PlanError::Machine { similar, .. } if !similar.is_empty() => {
                Some(format!("similar machine types: {}", similar.join(", ")))
            }
            PlanError::Machine { emulator, .. } => Some(format!("'{emulator} -machine help' lists the machine types")),
            PlanError::CpuModel { emulator, .. } => Some(format!("'{emulator} -cpu help' lists the CPU models")),
            PlanError::IoUring(_) => Some("write io='threads', or io='native' with cache='none'".into()),
            PlanError::NoKvm(_) => Some("use <domain type='qemu'> to run the guest without KVM".into()),
            PlanError::Unsupported { .. } => Some("take the element out of the document to start without it".into()),
            _ => None,
        }
    }
}

/// Makes the plan for a completed document ([`super::complete::complete`]).
///
/// # Errors
/// When the document asks for what cannot be given.
pub fn plan(domain: &Domain, paused: bool) -> Result<Plan, PlanError> {
    let kvm = match domain.domain_type {
        DomainType::Kvm => true,
        DomainType::Qemu => false,
        other => return Err(PlanError::DomainType(other.as_str())),
    };
    devices::refuse_what_is_missing(domain)?;
    let mut plan = Builder::new(domain, kvm);
    plan.machine(domain, kvm);
    plan.guest(domain);
    plan.monitor(domain, paused);
    plan.boot(domain)?;
    devices::add(&mut plan, domain)?;
    disks::add(&mut plan, domain)?;
    plan.finish()
}

/// The argument vector of a QEMU without a guest, to be asked what it can do.
#[must_use]
pub fn probe_argv(emulator: &str) -> Vec<String> {
    let monitor = format!("socket,id=monitor,fd={}", qemu_fds::QMP);
    let argv = [
        emulator,
        "-no-user-config",
        "-nodefaults",
        "-display",
        "none",
        "-S",
        "-machine",
        "none,accel=kvm:tcg",
        "-chardev",
        &monitor,
        "-mon",
        "chardev=monitor,mode=control",
    ];
    argv.map(String::from).to_vec()
}

/// What a supervisor does for libvirt's word in a document.
#[must_use]
pub fn action(action: LifecycleAction) -> Action {
    match action {
        LifecycleAction::Destroy => Action::Destroy,
        LifecycleAction::Restart | LifecycleAction::RenameRestart => Action::Restart,
        LifecycleAction::Preserve => Action::Preserve,
    }
}

/// A plan in the making.
pub(super) struct Builder {
    plan: Plan,
    /// How the machine attaches virtio devices: `pci`, `device` (MMIO), `ccw`.
    pub(super) virtio: &'static str,
    /// The machine type.
    pub(super) machine: String,
}

impl Builder {
    fn new(domain: &Domain, kvm: bool) -> Builder {
        let machine = domain.os.machine.clone().unwrap_or_default();
        let emulator = domain.devices.emulator.clone().unwrap_or_default();
        let virtio = match (domain.os.arch.as_deref(), machine.as_str()) {
            (_, "microvm") => "device",
            (Some("s390x"), _) => "ccw",
            _ => "pci",
        };
        let plan = Plan { argv: vec![emulator], files: Vec::new(), copies: Vec::new(), consoles: 0, kvm };
        Builder { plan, virtio, machine }
    }

    /// Whether the machine is of the given family: `q35` of `pc-q35-7.2`.
    pub(super) fn machine_is(&self, family: &str) -> bool {
        self.machine.split('-').any(|part| part == family)
    }

    /// Adds an option and its value.
    pub(super) fn arg(&mut self, option: &str, value: impl Into<String>) {
        self.plan.argv.push(option.into());
        self.plan.argv.push(value.into());
    }

    /// Adds an option whose value is JSON.
    pub(super) fn json(&mut self, option: &str, value: &serde_json::Value) {
        self.arg(option, value.to_string());
    }

    /// Adds a file and says which descriptor it will be in QEMU.
    pub(super) fn file(&mut self, file: File) -> i32 {
        let fd =
            i32::try_from(self.plan.files.len()).map_or(i32::MAX, |index| qemu_fds::FIRST_FILE.saturating_add(index));
        self.plan.files.push(file);
        fd
    }

    /// Adds a console and says which descriptor it will be in QEMU.
    pub(super) fn console(&mut self) -> Result<i32, PlanError> {
        if self.plan.consoles == qemu_fds::MAX_CONSOLES {
            let limit = usize::from(qemu_fds::MAX_CONSOLES);
            return Err(PlanError::TooMany { what: "serial and console devices", found: limit + 1, limit });
        }
        let fd = qemu_fds::FIRST_CONSOLE + i32::from(self.plan.consoles);
        self.plan.consoles += 1;
        Ok(fd)
    }

    fn machine(&mut self, domain: &Domain, kvm: bool) {
        self.plan.argv.extend(["-nodefaults", "-no-user-config", "-no-shutdown"].map(String::from));
        self.arg("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        self.arg("-name", format!("guest={},debug-threads=on", doubled(&domain.name)));
        let mut machine = format!("{},accel={}", self.machine, if kvm { "kvm" } else { "tcg" });
        if matches!(domain.os.arch.as_deref(), Some("x86_64" | "i686")) {
            machine.push_str(if domain.features.acpi { ",acpi=on" } else { ",acpi=off" });
            machine.push_str(",dump-guest-core=off");
        }
        self.arg("-machine", machine);
        if let Some(cpu) = devices::cpu(domain, kvm) {
            self.arg("-cpu", cpu);
        }
    }

    fn guest(&mut self, domain: &Domain) {
        self.arg("-m", format!("size={}k", domain.memory_kib));
        let mut smp = domain.vcpus.online().to_string();
        if domain.vcpus.online() < domain.vcpus.max {
            smp.push_str(&format!(",maxcpus={}", domain.vcpus.max));
        }
        if let Some(topology) = domain.cpu.as_ref().and_then(|cpu| cpu.topology.as_ref()) {
            smp.push_str(&format!(
                ",sockets={},cores={},threads={}",
                topology.sockets, topology.cores, topology.threads
            ));
        }
        self.arg("-smp", smp);
        if let Some(uuid) = domain.uuid {
            self.arg("-uuid", uuid.to_string());
        }
        self.arg("-display", "none");
        self.arg("-rtc", devices::clock(domain));
    }

    fn monitor(&mut self, domain: &Domain, paused: bool) {
        if paused {
            self.plan.argv.push("-S".into());
        }
        // A guest that must not come back is shut down where it would be reset; the supervisor sees it end.
        if action(domain.on_reboot) == Action::Destroy {
            self.arg("-action", "reboot=shutdown");
        }
        self.arg("-chardev", format!("socket,id=monitor,fd={}", qemu_fds::QMP));
        self.arg("-mon", "chardev=monitor,mode=control");
    }

    fn boot(&mut self, domain: &Domain) -> Result<(), PlanError> {
        let os = &domain.os;
        if os.kernel.is_none() && (os.initrd.is_some() || os.cmdline.is_some()) {
            return Err(PlanError::Contradiction("an initrd or a kernel command line needs a kernel".into()));
        }
        for (option, path, name) in
            [("-kernel", &os.kernel, "kernel"), ("-initrd", &os.initrd, "initrd"), ("-dtb", &os.dtb, "dtb")]
        {
            if let Some(path) = path {
                self.copied(option, path, name)?;
            }
        }
        if let Some(cmdline) = &os.cmdline {
            self.arg("-append", cmdline);
        }
        if let Some(menu) = os.boot_menu {
            let on = if menu.enable == model::Switch::Yes { "on" } else { "off" };
            let wait = menu.timeout.map(|ms| format!(",splash-time={ms}")).unwrap_or_default();
            self.arg("-boot", format!("menu={on}{wait}"));
        }
        Ok(())
    }

    /// QEMU opens kernels by path only, so its supervisor copies them into its root.
    fn copied(&mut self, option: &str, path: &str, name: &str) -> Result<(), PlanError> {
        let too_many = PlanError::TooMany { what: "files", found: self.plan.files.len(), limit: 200 };
        let file = u8::try_from(self.plan.files.len()).map_err(|_| too_many)?;
        self.file(File { path: path.into(), writable: false, what: name.into(), shareable: true });
        self.plan.copies.push(protocol::Copy { file, name: name.into() });
        self.arg(option, format!("{BOOT_DIR}/{name}"));
        Ok(())
    }

    fn finish(self) -> Result<Plan, PlanError> {
        const LIMIT: usize = 200;
        let found = self.plan.files.len();
        if found > LIMIT {
            return Err(PlanError::TooMany { what: "disks and other files", found, limit: LIMIT });
        }
        Ok(self.plan)
    }
}

/// A text as a value in one of QEMU's comma-separated options.
pub(super) fn doubled(text: &str) -> String {
    text.replace(',', ",,")
}

/// An element as an error names it.
pub(super) fn element(raw: &RawElement) -> String {
    format!("<{}> (line {})", raw.name, raw.line)
}

/// How a guest sees one of a disk's properties: absent ones are left to QEMU.
pub(super) fn without_nulls(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(map) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        other => other,
    }
}

/// What a disk is called in messages.
pub(super) fn disk_name(disk: &Disk) -> String {
    format!("disk {}", disk.target.dev)
}

/// A block node over a descriptor that QEMU holds.
pub(super) fn fd_node(builder: &mut Builder, set: i32, fd: i32, mut node: serde_json::Value) {
    builder.arg("-add-fd", format!("fd={fd},set={set}"));
    if let Some(node) = node.as_object_mut() {
        node.insert("filename".into(), json!(format!("/dev/fdset/{set}")));
    }
    builder.json("-blockdev", &without_nulls(node));
}
