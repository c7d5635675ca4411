//! The capabilities of a host: what a client asks for first, to learn what it may define.

use std::borrow::Cow;

use uuid::Uuid;

use crate::domain::{CpuTopology, DomainType, OsType};
use crate::error::XmlError;
use crate::reader::{Node, Parsed, Reader, trimmed};
use crate::writer::Element;

/// What a host is and which guests it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The host.
    pub host: Host,
    /// The kinds of guests.
    pub guests: Vec<GuestArch>,
}

/// The host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Its identity.
    pub uuid: Option<Uuid>,
    /// Its CPU.
    pub cpu: HostCpu,
    /// Whether guests can be migrated while they run.
    pub live_migration: bool,
    /// The transports of a migration: `tcp`, `unix`, …
    pub migration_transports: Vec<String>,
    /// Its NUMA cells.
    pub cells: Vec<Cell>,
    /// What keeps guests apart: `none`, `dac`, …
    pub security_models: Vec<SecurityModel>,
    /// Whether it says something of its power management: that it has none, which is all that is written here.
    pub power_management: bool,
    /// Whether it has an IOMMU, where that is known.
    pub iommu: Option<bool>,
}

/// The CPU of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostCpu {
    /// Its architecture.
    pub arch: String,
    /// Its model.
    pub model: Option<String>,
    /// Its vendor.
    pub vendor: Option<String>,
    /// How its parts are arranged.
    pub topology: Option<CpuTopology>,
    /// What it has beyond its model.
    pub features: Vec<String>,
    /// What an old CPU without a model has: `pae`, `nonpae`.
    pub flags: Vec<String>,
    /// The sizes of its pages in KiB.
    pub page_sizes_kib: Vec<u64>,
}

/// A NUMA cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Its number.
    pub id: u32,
    /// Its memory in KiB.
    pub memory_kib: u64,
    /// Its pages: their size in KiB, and how many there are.
    pub pages: Vec<(u64, u64)>,
    /// Its CPUs.
    pub cpus: Vec<CellCpu>,
}

/// A CPU of a NUMA cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CellCpu {
    /// Its number.
    pub id: u32,
    /// Its socket.
    pub socket_id: u32,
    /// Its die.
    pub die_id: u32,
    /// Its core.
    pub core_id: u32,
    /// The CPUs of the same core: `0,4`.
    pub siblings: String,
}

/// Something that keeps guests apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityModel {
    /// Its name.
    pub model: String,
    /// Its domain of interpretation.
    pub doi: String,
}

/// A kind of guest: an operating system type on an architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestArch {
    /// How such a guest is booted.
    pub os_type: OsType,
    /// Its architecture.
    pub arch: String,
    /// The bits of its word.
    pub wordsize: u32,
    /// The program that runs it.
    pub emulator: Option<String>,
    /// The machine types.
    pub machines: Vec<Machine>,
    /// The types of domain.
    pub domains: Vec<DomainType>,
    /// What its platform may have, by the names of a domain's `features`.
    pub features: Vec<GuestFeature>,
}

/// A machine type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// The machine type that the name stands for.
    pub canonical: Option<String>,
    /// The most virtual CPUs it takes.
    pub max_cpus: Option<u32>,
}

/// Something that a guest's platform may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestFeature {
    /// Its name: `acpi`, `apic`, `cpuselection`, …
    pub name: String,
    /// Whether it is there unless it is turned off; `None` where that is no question.
    pub default: Option<bool>,
    /// Whether it can be turned on and off.
    pub toggle: Option<bool>,
}

impl Capabilities {
    /// Writes them in libvirt's layout.
    pub fn to_xml(&self) -> String {
        Element::new("capabilities")
            .child(self.host.element())
            .children(self.guests.iter().map(GuestArch::element))
            .always_open()
            .spaced()
            .render()
    }

    /// Reads what [`Capabilities::to_xml`] writes. What another host says beyond that is passed over: this document is
    /// an answer, never stored and written again.
    pub fn parse(xml: &str) -> Result<Parsed<Self>, XmlError> {
        crate::reader::read(xml, "capabilities", |reader, node| {
            let mut capabilities = Self::default();
            for child in elements(node) {
                match child.tag_name().name() {
                    "host" => capabilities.host = Host::read(reader, child)?,
                    "guest" => capabilities.guests.push(GuestArch::read(reader, child)?),
                    _ => {}
                }
            }
            Ok(capabilities)
        })
    }
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

impl Host {
    fn element(&self) -> Element<'_> {
        let transports = (!self.migration_transports.is_empty()).then(|| {
            let transports = self.migration_transports.iter().map(|name| Element::leaf("uri_transport", name.as_str()));
            Element::new("uri_transports").children(transports)
        });
        // An old host says nothing of it.
        let migrates = self.live_migration || transports.is_some() || self.cpu.flags.is_empty();
        let cells = Element::new("cells")
            .attribute("num", self.cells.len().to_string())
            .children(self.cells.iter().map(Cell::element));
        let topology = (!self.cells.is_empty()).then(|| Element::new("topology").child(cells));
        Element::new("host")
            .leaf_if("uuid", self.uuid.map(|uuid| uuid.hyphenated().to_string()))
            .child(self.cpu.element())
            .flag("power_management", self.power_management)
            .child_if(self.iommu.map(|iommu| Element::new("iommu").attribute("support", yes_no(iommu))))
            .child_if(
                migrates
                    .then(|| Element::new("migration_features").flag("live", self.live_migration).child_if(transports)),
            )
            .child_if(topology)
            .children(self.security_models.iter().map(|security| {
                Element::new("secmodel")
                    .child(Element::leaf("model", security.model.as_str()))
                    .child(Element::leaf("doi", security.doi.as_str()))
            }))
    }

    fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        let mut host = Self::default();
        for child in elements(node) {
            match child.tag_name().name() {
                "uuid" => host.uuid = Uuid::try_parse(trimmed(&reader.text(child)?)).ok(),
                "cpu" => host.cpu = HostCpu::read(reader, child)?,
                "migration_features" => {
                    host.live_migration = elements(child).any(|feature| feature.has_tag_name("live"));
                    for transport in child.descendants().filter(|n| n.has_tag_name("uri_transport")) {
                        host.migration_transports.push(reader.text(transport)?.into_owned());
                    }
                }
                "power_management" => host.power_management = true,
                "iommu" => host.iommu = reader.attribute(child, "support").map(|support| support == "yes"),
                "topology" => {
                    for cell in child.descendants().filter(|n| n.has_tag_name("cell")) {
                        host.cells.push(Cell::read(reader, cell)?);
                    }
                }
                "secmodel" => {
                    let (model, doi) = (text_of(reader, child, "model")?, text_of(reader, child, "doi")?);
                    host.security_models.push(SecurityModel { model, doi });
                }
                _ => {}
            }
        }
        Ok(host)
    }
}

impl HostCpu {
    fn element(&self) -> Element<'_> {
        Element::new("cpu")
            .child(Element::leaf("arch", self.arch.as_str()))
            .leaf_if("model", self.model.as_deref())
            .leaf_if("vendor", self.vendor.as_deref())
            .child_if(self.topology.as_ref().map(CpuTopology::element))
            .child_if(
                (!self.flags.is_empty()).then(|| {
                    Element::new("features").children(self.flags.iter().map(|name| Element::new(name.as_str())))
                }),
            )
            .children(self.features.iter().map(|name| Element::new("feature").attribute("name", name.as_str())))
            .children(
                self.page_sizes_kib
                    .iter()
                    .map(|size| Element::new("pages").attribute("unit", "KiB").attribute("size", size.to_string())),
            )
    }

    fn read(reader: &Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        let mut cpu = Self::default();
        for child in elements(node) {
            match child.tag_name().name() {
                "arch" => cpu.arch = reader.text(child)?.into_owned(),
                "model" => cpu.model = Some(reader.text(child)?.into_owned()),
                "vendor" => cpu.vendor = Some(reader.text(child)?.into_owned()),
                "topology" => cpu.topology = Some(CpuTopology::read(reader, child)?),
                "features" => cpu.flags.extend(elements(child).map(|flag| flag.tag_name().name().to_owned())),
                "feature" => cpu.features.push(reader.required(child, "name")?.to_owned()),
                "pages" => {
                    let size = reader.number(child, "size", 1, "a size of pages")?;
                    cpu.page_sizes_kib.extend(size.map(u64::from));
                }
                _ => {}
            }
        }
        Ok(cpu)
    }
}

impl Cell {
    fn element(&self) -> Element<'_> {
        let cpus = self.cpus.iter().map(|cpu| {
            Element::new("cpu")
                .attribute("id", cpu.id.to_string())
                .attribute("socket_id", cpu.socket_id.to_string())
                .attribute("die_id", cpu.die_id.to_string())
                .attribute("core_id", cpu.core_id.to_string())
                .attribute("siblings", cpu.siblings.as_str())
        });
        Element::new("cell")
            .attribute("id", self.id.to_string())
            .child(Element::leaf("memory", self.memory_kib.to_string()).attribute("unit", "KiB"))
            .children(self.pages.iter().map(|(size, count)| {
                let pages = Element::leaf("pages", count.to_string()).attribute("unit", "KiB");
                pages.attribute("size", size.to_string())
            }))
            .child(Element::new("cpus").attribute("num", self.cpus.len().to_string()).children(cpus))
    }

    fn read(reader: &Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        let id = |node, name| Ok(reader.number(node, name, 0, "an id")?.unwrap_or(0));
        let mut cell = Self { id: id(node, "id")?, ..Self::default() };
        for child in node.descendants() {
            if child.has_tag_name("memory") {
                cell.memory_kib = reader.memory(child, &reader.text(child)?)?;
            } else if child.has_tag_name("pages") {
                let size = reader.number(child, "size", 1, "a size of pages")?.unwrap_or(1);
                let count = trimmed(&reader.text(child)?).parse().unwrap_or_default();
                cell.pages.push((size.into(), count));
            } else if child.has_tag_name("cpu") {
                cell.cpus.push(CellCpu {
                    id: id(child, "id")?,
                    socket_id: id(child, "socket_id")?,
                    die_id: id(child, "die_id")?,
                    core_id: id(child, "core_id")?,
                    siblings: reader.attribute(child, "siblings").unwrap_or_default().to_owned(),
                });
            }
        }
        Ok(cell)
    }
}

impl GuestArch {
    fn element(&self) -> Element<'_> {
        let arch = Element::new("arch")
            .attribute("name", self.arch.as_str())
            .child(Element::leaf("wordsize", self.wordsize.to_string()))
            .leaf_if("emulator", self.emulator.as_deref())
            .children(self.machines.iter().map(|machine| {
                Element::leaf("machine", machine.name.as_str())
                    .attribute_if("canonical", machine.canonical.as_deref())
                    .attribute_if("maxCpus", machine.max_cpus.map(|max| max.to_string()))
            }))
            .children(self.domains.iter().map(|domain| Element::new("domain").attribute("type", domain.as_str())));
        let features = (!self.features.is_empty())
            .then(|| Element::new("features").children(self.features.iter().map(GuestFeature::element)));
        Element::new("guest").child(Element::leaf("os_type", self.os_type.as_str())).child(arch).child_if(features)
    }

    fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        let arch = find(reader, node, "arch")?;
        let os_type = find(reader, node, "os_type")?;
        let mut guest = Self {
            os_type: reader.text_word(os_type, &reader.text(os_type)?)?,
            arch: reader.required(arch, "name")?.to_owned(),
            wordsize: 0,
            emulator: None,
            machines: Vec::new(),
            domains: Vec::new(),
            features: Vec::new(),
        };
        for child in elements(arch) {
            match child.tag_name().name() {
                "wordsize" => {
                    let text = reader.text(child)?;
                    guest.wordsize = reader.unsigned(&text, 1, "a number of bits", || reader.place_of_text(child))?;
                }
                "emulator" => guest.emulator = Some(reader.text(child)?.into_owned()),
                "machine" => guest.machines.push(Machine {
                    name: reader.text(child)?.into_owned(),
                    canonical: reader.attribute(child, "canonical").map(str::to_owned),
                    max_cpus: reader.number(child, "maxCpus", 1, "a number of CPUs")?,
                }),
                "domain" => guest.domains.extend(reader.word::<DomainType>(child, "type")?),
                _ => {}
            }
        }
        for features in elements(node).filter(|child| child.has_tag_name("features")) {
            guest.features.extend(elements(features).map(|feature| GuestFeature::read(reader, feature)));
        }
        Ok(guest)
    }
}

impl GuestFeature {
    fn element(&self) -> Element<'_> {
        let word = |set: bool, yes: &'static str, no: &'static str| if set { yes } else { no };
        Element::new(&self.name)
            .attribute_if("default", self.default.map(|on| word(on, "on", "off")))
            .attribute_if("toggle", self.toggle.map(|yes| word(yes, "yes", "no")))
    }

    fn read(reader: &Reader<'_>, node: Node<'_>) -> Self {
        Self {
            name: node.tag_name().name().to_owned(),
            default: reader.attribute(node, "default").map(|word| word == "on"),
            toggle: reader.attribute(node, "toggle").map(|word| word == "yes"),
        }
    }
}

fn elements<'a>(node: Node<'a>) -> impl Iterator<Item = Node<'a>> {
    node.children().filter(Node::is_element)
}

fn find<'a>(reader: &Reader<'_>, node: Node<'a>, element: &'static str) -> Result<Node<'a>, XmlError> {
    elements(node)
        .find(|child| child.has_tag_name(element))
        .ok_or_else(|| XmlError::MissingElement { place: reader.place(node), element })
}

fn text_of(reader: &Reader<'_>, node: Node<'_>, element: &'static str) -> Result<String, XmlError> {
    find(reader, node, element).and_then(|child| reader.text(child)).map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Capabilities {
        Capabilities {
            host: Host {
                uuid: Uuid::try_parse("4c4c4544-0051-3010-8052-b4c04f4e3132").ok(),
                cpu: HostCpu {
                    arch: "x86_64".into(),
                    model: Some("Skylake-Client-IBRS".into()),
                    vendor: Some("Intel".into()),
                    topology: Some(CpuTopology { sockets: 1, dies: Some(1), clusters: None, cores: 2, threads: 1 }),
                    features: vec!["vmx".into()],
                    page_sizes_kib: vec![4, 2048],
                    flags: Vec::new(),
                },
                live_migration: true,
                migration_transports: vec!["tcp".into()],
                cells: vec![Cell {
                    id: 0,
                    memory_kib: 16_000_000,
                    pages: Vec::new(),
                    cpus: vec![CellCpu { siblings: "0".into(), ..CellCpu::default() }],
                }],
                security_models: vec![SecurityModel { model: "none".into(), doi: "0".into() }],
                power_management: false,
                iommu: None,
            },
            guests: vec![GuestArch {
                os_type: OsType::Hvm,
                arch: "x86_64".into(),
                wordsize: 64,
                emulator: Some("/usr/bin/qemu-system-x86_64".into()),
                machines: vec![
                    Machine { name: "pc-i440fx-7.2".into(), canonical: None, max_cpus: Some(255) },
                    Machine { name: "pc".into(), canonical: Some("pc-i440fx-7.2".into()), max_cpus: Some(255) },
                ],
                domains: vec![DomainType::Qemu, DomainType::Kvm],
                features: vec![
                    GuestFeature { name: "acpi".into(), default: Some(true), toggle: Some(true) },
                    GuestFeature { name: "cpuselection".into(), ..GuestFeature::default() },
                ],
            }],
        }
    }

    #[test]
    fn layout_is_libvirts() {
        let expected = include_str!("../tests/data/capabilities.xml");
        assert_eq!(sample().to_xml(), expected);
    }

    #[test]
    fn what_is_written_reads_back() {
        let parsed = Capabilities::parse(&sample().to_xml()).unwrap();
        assert_eq!(parsed.value, sample());
        assert_eq!(parsed.notices, []);
    }

    #[test]
    fn an_old_host_is_written_as_libvirt_does() {
        let cpu = HostCpu { arch: "i686".into(), flags: vec!["pae".into()], ..HostCpu::default() };
        let cell = Cell { memory_kib: 8, pages: vec![(4, 2)], ..Cell::default() };
        let host = Host { cpu, cells: vec![cell], power_management: true, iommu: Some(false), ..Host::default() };
        let capabilities = Capabilities { host, guests: Vec::new() };
        let xml = capabilities.to_xml();
        let expected = "      <features>\n        <pae/>\n      </features>\n    </cpu>\n    <power_management/>\n    \
                        <iommu support='no'/>\n    <topology>\n";
        assert!(xml.contains(expected) && xml.contains("<pages unit='KiB' size='4'>2</pages>"), "{xml}");
        assert_eq!(Capabilities::parse(&xml).unwrap().value, capabilities);
    }

    #[test]
    fn a_domain_is_no_capabilities() {
        let error = Capabilities::parse("<domain type='kvm'/>").unwrap_err();
        let message = "line 1, column 1: domain: the root element is <domain>; expected <capabilities>";
        assert_eq!(error.to_string(), message);
    }
}
