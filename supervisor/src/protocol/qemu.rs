//! What travels as a payload to and from the supervisor of a QEMU guest.

use serde::{Deserialize, Serialize};

use super::{AbilitiesV1, Action, Body, Boot, MachineV1, Probe};

/// How a QEMU is started: the body of [`super::Start`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BootSpec {
    /// QEMU's argument vector; the first is its path in the guest's root.
    pub argv: Vec<String>,
    /// How many consoles to make; the i-th is descriptor `FIRST_CONSOLE + i` in QEMU.
    pub consoles: u8,
    /// How many descriptors come with the message. Those that no copy names are `FIRST_FILE + i` in QEMU.
    pub files: u8,
    /// Files that QEMU insists on opening by path.
    pub copies: Vec<CopySpec>,
    /// Leave the virtual CPUs stopped.
    pub paused: bool,
    /// What to do when the guest powers off.
    pub on_poweroff: Action,
    /// What to do when the guest reboots.
    pub on_reboot: Action,
    /// What to do when the guest's kernel says that it crashed.
    pub on_crash: Action,
    /// How long QEMU may take to answer one command, in milliseconds.
    pub deadline_ms: u32,
}

impl Body for BootSpec {
    const KIND: &'static str = "qemu.boot";
    const VERSION: u16 = 1;
}

/// A file that goes into [`super::BOOT_DIR`] until QEMU has read it: QEMU cannot take a kernel or an initrd by descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CopySpec {
    /// Which descriptor of the message it is.
    pub file: u8,
    /// Its name in [`super::BOOT_DIR`]: ASCII letters, digits, `.`, `-`, `_`.
    pub name: String,
}

impl From<Boot> for BootSpec {
    fn from(boot: Boot) -> BootSpec {
        BootSpec {
            argv: boot.argv,
            consoles: boot.consoles,
            files: boot.files,
            copies: boot.copies.into_iter().map(|copy| CopySpec { file: copy.file, name: copy.name }).collect(),
            paused: boot.paused,
            on_poweroff: boot.on_poweroff,
            on_reboot: boot.on_reboot,
            on_crash: boot.on_crash,
            deadline_ms: boot.deadline_ms,
        }
    }
}

/// A question about a QEMU binary: the body of [`super::Request::Examine`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeSpec {
    /// The argument vector of a QEMU without a guest.
    pub argv: Vec<String>,
    /// How long QEMU may take to answer, in milliseconds.
    pub deadline_ms: u32,
}

impl Body for ProbeSpec {
    const KIND: &'static str = "qemu.probe";
    const VERSION: u16 = 1;
}

impl From<Probe> for ProbeSpec {
    fn from(probe: Probe) -> ProbeSpec {
        ProbeSpec { argv: probe.argv, deadline_ms: probe.deadline_ms }
    }
}

/// What a QEMU binary can do, asked over QMP: the body of the answer to [`super::Request::Examine`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Abilities {
    /// Major, minor and micro version.
    pub version: (u32, u32, u32),
    /// The distributor's package version, as QEMU tells it.
    pub package: String,
    /// The target, in QEMU's words (`x86_64`, `aarch64`).
    pub target: String,
    /// Machine types.
    pub machines: Vec<Machine>,
    /// CPU models.
    pub cpus: Vec<String>,
    /// Device types.
    pub devices: Vec<String>,
    /// This QEMU was built with KVM.
    pub kvm_present: bool,
    /// KVM was asked for and is in use.
    pub kvm_enabled: bool,
    /// What QEMU wrote to its standard error while it started (why KVM is not in use, for one).
    pub stderr: String,
}

impl Body for Abilities {
    const KIND: &'static str = "qemu.abilities";
    const VERSION: u16 = 1;
}

/// One machine type of a QEMU binary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Its name: `pc-i440fx-7.2`.
    pub name: String,
    /// A short name that means it for now: `pc`.
    pub alias: Option<String>,
    /// QEMU's own default.
    pub default: bool,
    /// The most CPUs it takes.
    pub max_cpus: u32,
    /// QEMU advises against it.
    pub deprecated: bool,
}

impl From<AbilitiesV1> for Abilities {
    fn from(old: AbilitiesV1) -> Abilities {
        let machine = |old: MachineV1| Machine {
            name: old.name,
            alias: old.alias,
            default: old.default,
            max_cpus: old.max_cpus,
            deprecated: old.deprecated,
        };
        Abilities {
            version: old.version,
            package: old.package,
            target: old.target,
            machines: old.machines.into_iter().map(machine).collect(),
            cpus: old.cpus,
            devices: old.devices,
            kvm_present: old.kvm_present,
            kvm_enabled: old.kvm_enabled,
            stderr: old.stderr,
        }
    }
}

impl From<Abilities> for AbilitiesV1 {
    fn from(new: Abilities) -> AbilitiesV1 {
        let machine = |new: Machine| MachineV1 {
            name: new.name,
            alias: new.alias,
            default: new.default,
            max_cpus: new.max_cpus,
            deprecated: new.deprecated,
        };
        AbilitiesV1 {
            version: new.version,
            package: new.package,
            target: new.target,
            machines: new.machines.into_iter().map(machine).collect(),
            cpus: new.cpus,
            devices: new.devices,
            kvm_present: new.kvm_present,
            kvm_enabled: new.kvm_enabled,
            stderr: new.stderr,
        }
    }
}

/// Descriptors for a running QEMU: the body of [`super::Attach`]. One [`FileSpec`] for each descriptor of the message, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachSpec {
    /// How QEMU is to know them.
    pub place: Place,
    /// What they are.
    pub files: Vec<FileSpec>,
}

impl Body for AttachSpec {
    const KIND: &'static str = "qemu.attach";
    const VERSION: u16 = 1;
}

/// How QEMU knows an attached descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// All of them make one set, which QEMU opens as `/dev/fdset/N`: for files and devices. QEMU picks the one whose access mode
    /// fits.
    #[default]
    Set,
    /// By the attachment's name, for commands that take the name of a descriptor: for sockets and taps. Only one.
    Named,
}

/// What a descriptor is, so that the supervisor can check it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileSpec {
    /// The kind of file.
    pub kind: FileKind,
    /// It can be written to, besides being read.
    pub writable: bool,
}

/// The kinds of files that can be attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file or a block device: a disk.
    #[default]
    Disk,
    /// A character device: a tap, vhost, VFIO.
    Character,
    /// A Unix stream socket.
    Socket,
}

/// Presses the power button and waits until the guest is off: a body of [`super::Begin`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShutdownSpec {
    /// Start the guest anew when it has powered off.
    pub reboot: bool,
}

impl Body for ShutdownSpec {
    const KIND: &'static str = "guest.shutdown";
    const VERSION: u16 = 1;
}
