//! The domain: libvirt's definition of a guest.

mod boot;
mod chardev;
mod devices;
mod disk;
mod metadata;
mod read;
mod sources;
mod types;

use std::borrow::Cow;

use uuid::Uuid;

pub use boot::{BootMenu, Clock, Cpu, CpuModel, CpuTopology, Features, Loader, Nvram, Os};
pub use chardev::{Chardev, ChardevSource, ChardevTarget};
pub use devices::Devices;
pub use disk::{BackingStore, Disk, DiskDriver, DiskSource, DiskTarget};
pub use metadata::MetadataError;
pub use read::{check_name, fast_identity};
pub use sources::{Source, SourceKind};
pub use types::{
    BootDevice, ChardevType, ClockOffset, CpuCheck, CpuMode, CrashAction, DiskBus, DiskCache, DiskDevice, DiskDiscard,
    DiskFormat, DiskIo, DiskType, DomainType, Firmware, LifecycleAction, LoaderType, OsType, Switch, VcpuPlacement,
};

use crate::error::XmlError;
use crate::kept::{Namespace, RawElement, Rest};
use crate::reader::{Node, Parsed};
use crate::vocabulary::DOMAIN;
use crate::writer::Element;

/// The definition of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Which hypervisor it is for.
    pub domain_type: DomainType,
    /// Its number while it runs, as the document has it.
    pub id: Option<u32>,
    /// Its name, unique on a host.
    pub name: String,
    /// Its identity; see [`Domain::ensure_uuid`].
    pub uuid: Option<Uuid>,
    /// A line about it.
    pub title: Option<String>,
    /// Text about it.
    pub description: Option<String>,
    /// What applications have noted down: the whole element, in the layout that libvirt gives it.
    pub metadata: Option<RawElement>,
    /// The most it may grow to by plugging in memory.
    pub max_memory: Option<MaxMemory>,
    /// The memory it is built with, in KiB.
    pub memory_kib: u64,
    /// The memory it holds now, in KiB; never more than [`Domain::memory_kib`].
    pub current_memory_kib: u64,
    /// Its virtual CPUs.
    pub vcpus: Vcpus,
    /// The program that finds the kernel of a Xen guest in its disk.
    pub bootloader: Option<String>,
    /// The arguments of that program.
    pub bootloader_args: Option<String>,
    /// How it boots.
    pub os: Os,
    /// What its platform has.
    pub features: Features,
    /// Its CPU.
    pub cpu: Option<Cpu>,
    /// Its clock.
    pub clock: Clock,
    /// What happens when it powers off.
    pub on_poweroff: LifecycleAction,
    /// What happens when it reboots.
    pub on_reboot: LifecycleAction,
    /// What happens when it crashes.
    pub on_crash: CrashAction,
    /// Its devices.
    pub devices: Devices,
    /// The namespaces that the root element declares.
    pub namespaces: Vec<Namespace>,
    /// What else there is: `memoryBacking`, `cputune`, `seclabel`, `qemu:commandline`, …
    pub rest: Rest,
}

/// The most a domain may grow to by plugging in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxMemory {
    /// In KiB.
    pub kib: u64,
    /// How many memory devices can be plugged in.
    pub slots: Option<u32>,
}

/// The virtual CPUs of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vcpus {
    /// The most it may have.
    pub max: u32,
    /// How many it starts with, where that is fewer.
    pub current: Option<u32>,
    /// Who places them.
    pub placement: VcpuPlacement,
    /// The host CPUs they run on: `0-3,^2`.
    pub cpuset: Option<String>,
}

impl Vcpus {
    /// So many virtual CPUs, placed by nobody.
    pub fn new(max: u32) -> Self {
        Self { max, current: None, placement: VcpuPlacement::Static, cpuset: None }
    }

    /// How many the domain starts with.
    pub fn online(&self) -> u32 {
        self.current.unwrap_or(self.max)
    }
}

/// How a domain is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpOptions {
    /// Of a running guest; `None` leaves the domain's own [`Domain::id`].
    pub live: Option<Live>,
    /// Whether passwords are written: for our own files and for `VIR_DOMAIN_XML_SECURE`, never for a read-only client.
    pub secrets: bool,
}

impl DumpOptions {
    /// With everything that is needed to read the same domain back: for our own files.
    pub fn stored() -> Self {
        Self { live: None, secrets: true }
    }
}

/// What is known of a running guest beyond its definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// Its number.
    pub id: u32,
}

/// Text, or none when it is empty: libvirt makes no difference either.
fn non_empty(text: Cow<'_, str>) -> Option<String> {
    (!text.is_empty()).then(|| text.into_owned())
}

/// The name of an element in no namespace; nothing that matches for one that is in another.
fn local_name(node: Node<'_>) -> &str {
    if node.tag_name().namespace().is_none() { node.tag_name().name() } else { "" }
}

impl Domain {
    /// A domain with libvirt's defaults and no device, for building one in code.
    ///
    /// ```
    /// use model::{Disk, DiskBus, DiskFormat, Domain, DomainType, DumpOptions};
    ///
    /// let mut domain = Domain::new(DomainType::Kvm, "demo", 512 * 1024, 2, "x86_64");
    /// domain.devices.disks.push(Disk::file("/images/demo.qcow2", DiskFormat::Qcow2, "vda", DiskBus::Virtio));
    /// let xml = domain.to_xml(&DumpOptions::default());
    /// assert_eq!(Domain::parse(&xml).map(|parsed| parsed.value), Ok(domain));
    /// ```
    pub fn new(domain_type: DomainType, name: &str, memory_kib: u64, vcpus: u32, arch: &str) -> Self {
        let os_type = match domain_type {
            DomainType::Lxc | DomainType::Openvz => OsType::Exe,
            _ => OsType::Hvm,
        };
        Self {
            domain_type,
            id: None,
            name: name.to_owned(),
            uuid: None,
            title: None,
            description: None,
            metadata: None,
            max_memory: None,
            memory_kib,
            current_memory_kib: memory_kib,
            vcpus: Vcpus::new(vcpus),
            bootloader: None,
            bootloader_args: None,
            os: Os::new(os_type, Some(arch.to_owned())),
            features: Features::default(),
            cpu: None,
            clock: Clock::default(),
            on_poweroff: LifecycleAction::Destroy,
            on_reboot: LifecycleAction::Restart,
            on_crash: CrashAction::Destroy,
            devices: Devices::default(),
            namespaces: Vec::new(),
            rest: Rest::default(),
        }
    }

    /// Reads a definition.
    pub fn parse(xml: &str) -> Result<Parsed<Self>, XmlError> {
        crate::reader::read(xml, "domain", read::domain)
    }

    /// The UUID; a random one is made for a domain that has none.
    pub fn ensure_uuid(&mut self) -> Uuid {
        *self.uuid.get_or_insert_with(Uuid::new_v4)
    }

    /// Takes out what only a running guest has, so that a dump of one serves as a definition.
    pub fn forget_live(&mut self) {
        self.id = None;
        let chardevs = self.devices.serials.iter_mut().chain(&mut self.devices.consoles);
        chardevs.for_each(Chardev::forget_live);
        for disk in &mut self.devices.disks {
            disk.rest.elements.retain(|element| element.name != "alias");
        }
    }

    /// Writes it in libvirt's layout.
    pub fn to_xml(&self, options: &DumpOptions) -> String {
        let redacted = self.devices.redacted(options);
        let prefixes: Vec<String> = self.namespaces.iter().map(|n| format!("xmlns:{}", n.prefix)).collect();
        let mut root = self.element(options, redacted.as_deref());
        for (prefix, namespace) in prefixes.iter().zip(&self.namespaces) {
            root = root.attribute(prefix, namespace.uri.as_str());
        }
        root.render()
    }

    fn element<'a>(&'a self, options: &DumpOptions, redacted: Option<&'a [RawElement]>) -> Element<'a> {
        let id = options.live.map(|live| live.id).or(self.id);
        let features = self.features.element();
        Element::new("domain")
            .attribute("type", self.domain_type.as_str())
            .attribute_if("id", id.map(|id| id.to_string()))
            .child(Element::leaf("name", self.name.as_str()))
            .leaf_if("uuid", self.uuid.map(|uuid| uuid.hyphenated().to_string()))
            .leaf_if("title", self.title.as_deref())
            .leaf_if("description", self.description.as_deref())
            .raw(&self.metadata)
            .child_if(
                self.max_memory.map(|max| {
                    kib("maxMemory", max.kib).attribute_if("slots", max.slots.map(|slots| slots.to_string()))
                }),
            )
            .child(kib("memory", self.memory_kib))
            .child(kib("currentMemory", self.current_memory_kib))
            .child(self.vcpus.element())
            .leaf_if("bootloader", self.bootloader.as_deref())
            .leaf_if("bootloader_args", self.bootloader_args.as_deref())
            .child(self.os.element())
            .child_if((!features.is_empty()).then_some(features))
            .child_if(self.cpu.as_ref().map(Cpu::element))
            .child(self.clock.element())
            .child(Element::leaf("on_poweroff", self.on_poweroff.as_str()))
            .child(Element::leaf("on_reboot", self.on_reboot.as_str()))
            .child(Element::leaf("on_crash", self.on_crash.as_str()))
            .child(self.devices.element(redacted))
            .complete(&self.rest, &DOMAIN)
    }
}

fn kib(name: &str, kib: u64) -> Element<'_> {
    Element::leaf(name, kib.to_string()).attribute("unit", "KiB")
}

impl Vcpus {
    fn element(&self) -> Element<'_> {
        Element::leaf("vcpu", self.max.to_string())
            .attribute("placement", self.placement.as_str())
            .attribute_if("cpuset", self.cpuset.as_deref())
            .attribute_if("current", self.current.map(|current| current.to_string()))
    }
}
