//! How a domain boots and what its CPU and clock are: `os`, `features`, `cpu`, `clock`.

use std::borrow::Cow;

use super::non_empty;
use super::types::{BootDevice, ClockOffset, CpuCheck, CpuMode, Firmware, LoaderType, OsType, Switch};
use crate::error::XmlError;
use crate::kept::Rest;
use crate::reader::{Node, Reader, trimmed};
use crate::vocabulary::{CLOCK, CPU, FEATURES, NVRAM, OS};
use crate::writer::Element;

/// How the guest is booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Os {
    /// Full virtualisation, paravirtualisation or a container.
    pub os_type: OsType,
    /// The guest's architecture; the driver's own when it is left out.
    pub arch: Option<String>,
    /// The machine type; the hypervisor's default when it is left out.
    pub machine: Option<String>,
    /// The firmware to choose.
    pub firmware: Option<Firmware>,
    /// The firmware image.
    pub loader: Option<Loader>,
    /// The firmware's variables.
    pub nvram: Option<Nvram>,
    /// A kernel to boot directly.
    pub kernel: Option<String>,
    /// Its initial RAM disk.
    pub initrd: Option<String>,
    /// Its command line.
    pub cmdline: Option<String>,
    /// Its device tree.
    pub dtb: Option<String>,
    /// What the firmware tries, in this order.
    pub boot: Vec<BootDevice>,
    /// The firmware's boot menu.
    pub boot_menu: Option<BootMenu>,
    /// What else there is: `init` and its arguments, `smbios`, `bios`, …
    pub rest: Rest,
}

/// The firmware image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loader {
    /// Its file; `None` when it follows from [`Os::firmware`].
    pub path: Option<String>,
    /// Whether the guest cannot write to it.
    pub readonly: Option<Switch>,
    /// How it is mapped.
    pub loader_type: Option<LoaderType>,
}

/// The firmware's variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nvram {
    /// Their file; `None` when it is to be made from the template.
    pub path: Option<String>,
    /// What a new file starts as.
    pub template: Option<String>,
    /// What else there is.
    pub rest: Rest,
}

/// The firmware's boot menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootMenu {
    /// Whether it is offered.
    pub enable: Switch,
    /// For how many milliseconds.
    pub timeout: Option<u32>,
}

impl Os {
    /// What boots a guest of this architecture with the hypervisor's defaults.
    pub fn new(os_type: OsType, arch: Option<String>) -> Self {
        Self {
            os_type,
            arch,
            machine: None,
            firmware: None,
            loader: None,
            nvram: None,
            kernel: None,
            initrd: None,
            cmdline: None,
            dtb: None,
            boot: Vec::new(),
            boot_menu: None,
            rest: Rest::default(),
        }
    }

    /// Reads `os`; `default_type` stands in for a missing `type`.
    pub(super) fn read(
        reader: &mut Reader<'_>,
        node: Node<'_>,
        default_type: Option<OsType>,
    ) -> Result<Self, XmlError> {
        reader.single(node)?;
        let mut os = Self::new(OsType::Hvm, None);
        os.firmware = reader.word(node, "firmware")?;
        let mut os_type = default_type;
        let mut rest = reader.enter(node, &["firmware"], &OS);
        for child in node.children().filter(Node::is_element) {
            match super::local_name(child) {
                "type" => {
                    let text = reader.leaf(child, &mut rest, &["arch", "machine"], &OS)?;
                    os_type = Some(reader.text_word(child, &text)?);
                    os.arch = reader.attribute(child, "arch").map(str::to_owned);
                    os.machine = reader.attribute(child, "machine").map(str::to_owned);
                }
                "loader" => {
                    let text = reader.leaf(child, &mut rest, &["readonly", "type"], &OS)?;
                    os.loader = Some(Loader {
                        path: non_empty(text),
                        readonly: reader.word(child, "readonly")?,
                        loader_type: reader.word(child, "type")?,
                    });
                }
                "nvram" => os.nvram = Some(Nvram::read(reader, child)?),
                "kernel" => os.kernel = reader.text_leaf(child, &mut rest, &OS)?,
                "initrd" => os.initrd = reader.text_leaf(child, &mut rest, &OS)?,
                "cmdline" => os.cmdline = reader.text_leaf(child, &mut rest, &OS)?,
                "dtb" => os.dtb = reader.text_leaf(child, &mut rest, &OS)?,
                "boot" => {
                    reader.keep_leaf_attributes(child, &mut rest, &["dev"], &OS);
                    reader.required(child, "dev")?;
                    os.boot.extend(reader.word::<BootDevice>(child, "dev")?);
                }
                "bootmenu" => {
                    reader.leaf(child, &mut rest, &["enable", "timeout"], &OS)?;
                    let enable = reader.word(child, "enable")?.unwrap_or(Switch::No);
                    let timeout = reader.number(child, "timeout", 0, "a number of milliseconds")?;
                    os.boot_menu = Some(BootMenu { enable, timeout });
                }
                _ => reader.keep(&mut rest.elements, child, &OS),
            }
        }
        let missing = || XmlError::MissingElement { place: reader.place(node), element: "type" };
        os.os_type = os_type.ok_or_else(missing)?;
        rest.sort(&OS);
        os.rest = rest;
        Ok(os)
    }

    pub(super) fn element(&self) -> Element<'_> {
        let os_type = Element::leaf("type", self.os_type.as_str())
            .attribute_if("arch", self.arch.as_deref())
            .attribute_if("machine", self.machine.as_deref());
        let loader = self.loader.as_ref().map(|loader| {
            text_or_empty("loader", loader.path.as_deref())
                .attribute_if("readonly", loader.readonly.map(Switch::as_str))
                .attribute_if("type", loader.loader_type.map(LoaderType::as_str))
        });
        let menu = self.boot_menu.map(|menu| {
            Element::new("bootmenu")
                .attribute("enable", menu.enable.as_str())
                .attribute_if("timeout", menu.timeout.map(|timeout| timeout.to_string()))
        });
        Element::new("os")
            .attribute_if("firmware", self.firmware.map(Firmware::as_str))
            .child(os_type)
            .child_if(loader)
            .child_if(self.nvram.as_ref().map(Nvram::element))
            .leaf_if("kernel", self.kernel.as_deref())
            .leaf_if("initrd", self.initrd.as_deref())
            .leaf_if("cmdline", self.cmdline.as_deref())
            .leaf_if("dtb", self.dtb.as_deref())
            .children(self.boot.iter().map(|dev| Element::new("boot").attribute("dev", dev.as_str())))
            .child_if(menu)
            .complete(&self.rest, &OS)
    }
}

fn text_or_empty<'a>(name: &'a str, text: Option<&'a str>) -> Element<'a> {
    match text {
        Some(text) => Element::leaf(name, text),
        None => Element::new(name),
    }
}

impl Nvram {
    fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        reader.single(node)?;
        let mut nvram = Self { template: reader.attribute(node, "template").map(str::to_owned), ..Self::default() };
        if node.children().any(|child| child.is_element()) {
            nvram.rest = reader.enter(node, &["template"], &NVRAM);
            for child in node.children().filter(Node::is_element) {
                reader.keep(&mut nvram.rest.elements, child, &NVRAM);
            }
        } else {
            nvram.path =
                non_empty(reader.text(node)?).map(|path| trimmed(&path).to_owned()).filter(|path| !path.is_empty());
            nvram.rest = reader.attributes(node, &["template"], &NVRAM);
        }
        nvram.rest.sort(&NVRAM);
        Ok(nvram)
    }

    fn element(&self) -> Element<'_> {
        // Its text and its elements exclude each other.
        let path = self.path.as_deref().filter(|_| self.rest.elements.is_empty());
        text_or_empty("nvram", path).attribute_if("template", self.template.as_deref()).complete(&self.rest, &NVRAM)
    }
}

/// What the guest's platform has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// ACPI.
    pub acpi: bool,
    /// A programmable interrupt controller of the advanced kind.
    pub apic: bool,
    /// Physical address extension.
    pub pae: bool,
    /// What else there is: `hyperv`, `kvm`, `vmport`, …
    pub rest: Rest,
}

impl Features {
    pub(super) fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        reader.single(node)?;
        let mut features = Self::default();
        let mut rest = reader.enter(node, &[], &FEATURES);
        for child in node.children().filter(Node::is_element) {
            let flag = match super::local_name(child) {
                "acpi" => &mut features.acpi,
                "apic" => &mut features.apic,
                "pae" => &mut features.pae,
                _ => {
                    reader.keep(&mut rest.elements, child, &FEATURES);
                    continue;
                }
            };
            reader.leaf(child, &mut rest, &[], &FEATURES)?;
            *flag = true;
        }
        rest.sort(&FEATURES);
        features.rest = rest;
        Ok(features)
    }

    pub(super) fn element(&self) -> Element<'_> {
        Element::new("features")
            .flag("acpi", self.acpi)
            .flag("apic", self.apic)
            .flag("pae", self.pae)
            .complete(&self.rest, &FEATURES)
    }
}

/// The guest's CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// How it is described.
    pub mode: Option<CpuMode>,
    /// How strictly the description holds.
    pub check: Option<CpuCheck>,
    /// The model.
    pub model: Option<CpuModel>,
    /// How its parts are arranged.
    pub topology: Option<CpuTopology>,
    /// What else there is: `feature`, `numa`, `cache`, …
    pub rest: Rest,
}

/// The model of a CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuModel {
    /// Its name; `None` where only its attributes matter.
    pub name: Option<String>,
    /// `allow` or `forbid` a lesser model in its stead.
    pub fallback: Option<String>,
}

/// How a CPU's parts are arranged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTopology {
    /// Sockets.
    pub sockets: u32,
    /// Dies in a socket.
    pub dies: Option<u32>,
    /// Clusters in a die.
    pub clusters: Option<u32>,
    /// Cores in a cluster.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

impl CpuTopology {
    /// How many virtual CPUs it describes; `None` when that does not fit.
    pub fn vcpus(&self) -> Option<u32> {
        let parts = [self.sockets, self.dies.unwrap_or(1), self.clusters.unwrap_or(1), self.cores, self.threads];
        parts.iter().try_fold(1u32, |product, part| product.checked_mul(*part))
    }

    pub(crate) fn read(reader: &Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        let count = |name: &'static str| {
            reader.required(node, name)?;
            Ok(reader.number(node, name, 1, "a number of CPU parts")?.unwrap_or(1))
        };
        Ok(Self {
            sockets: count("sockets")?,
            dies: reader.number(node, "dies", 1, "a number of CPU parts")?,
            clusters: reader.number(node, "clusters", 1, "a number of CPU parts")?,
            cores: count("cores")?,
            threads: count("threads")?,
        })
    }

    pub(crate) fn element(&self) -> Element<'static> {
        Element::new("topology")
            .attribute("sockets", self.sockets.to_string())
            .attribute_if("dies", self.dies.map(|n| n.to_string()))
            .attribute_if("clusters", self.clusters.map(|n| n.to_string()))
            .attribute("cores", self.cores.to_string())
            .attribute("threads", self.threads.to_string())
    }
}

impl Cpu {
    pub(super) fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        reader.single(node)?;
        let mut cpu = Self { mode: reader.word(node, "mode")?, check: reader.word(node, "check")?, ..Self::default() };
        let mut rest = reader.enter(node, &["mode", "check"], &CPU);
        for child in node.children().filter(Node::is_element) {
            match super::local_name(child) {
                "model" => {
                    let text = reader.leaf(child, &mut rest, &["fallback"], &CPU)?;
                    let name = non_empty(Cow::Borrowed(trimmed(&text)));
                    let fallback = reader.attribute(child, "fallback").map(str::to_owned);
                    cpu.model = Some(CpuModel { name, fallback });
                }
                "topology" => {
                    let parts = ["sockets", "dies", "clusters", "cores", "threads"];
                    reader.leaf(child, &mut rest, &parts, &CPU)?;
                    cpu.topology = Some(CpuTopology::read(reader, child)?);
                }
                _ => reader.keep(&mut rest.elements, child, &CPU),
            }
        }
        rest.sort(&CPU);
        cpu.rest = rest;
        Ok(cpu)
    }

    pub(super) fn element(&self) -> Element<'_> {
        let model = self.model.as_ref().map(|model| {
            text_or_empty("model", model.name.as_deref()).attribute_if("fallback", model.fallback.as_deref())
        });
        Element::new("cpu")
            .attribute_if("mode", self.mode.map(CpuMode::as_str))
            .attribute_if("check", self.check.map(CpuCheck::as_str))
            .child_if(model)
            .child_if(self.topology.as_ref().map(CpuTopology::element))
            .complete(&self.rest, &CPU)
    }
}

/// The guest's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What it starts from.
    pub offset: ClockOffset,
    /// What else there is: `timer`, `timezone`, `adjustment`, …
    pub rest: Rest,
}

impl Default for Clock {
    fn default() -> Self {
        Self { offset: ClockOffset::Utc, rest: Rest::default() }
    }
}

impl Clock {
    pub(super) fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        reader.single(node)?;
        let offset = reader.word(node, "offset")?.unwrap_or(ClockOffset::Utc);
        let mut rest = reader.enter(node, &["offset"], &CLOCK);
        for child in node.children().filter(Node::is_element) {
            reader.keep(&mut rest.elements, child, &CLOCK);
        }
        rest.sort(&CLOCK);
        Ok(Self { offset, rest })
    }

    pub(super) fn element(&self) -> Element<'_> {
        Element::new("clock").attribute("offset", self.offset.as_str()).complete(&self.rest, &CLOCK)
    }
}
