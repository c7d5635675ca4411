//! Reading the root element of a domain.

use std::borrow::Cow;

use uuid::Uuid;

use super::boot::{Clock, Cpu, Features, Os};
use super::devices::Devices;
use super::types::{DomainType, OsType, VcpuPlacement};
use super::{Domain, MaxMemory, Vcpus, local_name, non_empty};
use crate::error::{Place, XmlError, shorten};
use crate::kept::Rest;
use crate::limits::MAX_NAME_BYTES;
use crate::reader::{Node, Reader, trimmed};
use crate::text_enum::TextEnum;
use crate::units::{MAX_KIB, scale_to_kib};
use crate::vocabulary::DOMAIN;

pub(super) fn domain(reader: &mut Reader<'_>, node: Node<'_>) -> Result<Domain, XmlError> {
    let mut domain = Domain::new(domain_type(reader, node)?, "", 0, 1, "");
    domain.id = reader.number(node, "id", 0, "a domain id")?;
    domain.namespaces = std::mem::take(&mut reader.namespaces);
    let mut seen = Seen::default();
    let mut rest = reader.enter(node, &["type", "id"], &DOMAIN);
    for child in node.children().filter(Node::is_element) {
        if !head(&mut domain, &mut seen, reader, child, &mut rest)?
            && !body(&mut domain, &mut seen, reader, child, &mut rest)?
        {
            reader.keep(&mut rest.elements, child, &DOMAIN);
        }
    }
    rest.sort(&DOMAIN);
    domain.rest = rest;
    seen.complete(&mut domain, reader, node)?;
    Ok(domain)
}

/// What is checked when the whole domain has been read.
#[derive(Default)]
struct Seen<'a> {
    name: bool,
    memory: Option<Node<'a>>,
    max_memory: Option<Node<'a>>,
    current_memory: bool,
    os: Option<Node<'a>>,
}

impl Seen<'_> {
    fn complete(self, domain: &mut Domain, reader: &mut Reader<'_>, node: Node<'_>) -> Result<(), XmlError> {
        let missing =
            |element| -> Result<(), XmlError> { Err(XmlError::MissingElement { place: reader.place(node), element }) };
        if !self.name {
            return missing("name");
        }
        self.complete_memory(domain, reader, node)?;
        // libvirt takes more than there is, and none, as all there is.
        if !self.current_memory || domain.current_memory_kib == 0 || domain.current_memory_kib > domain.memory_kib {
            domain.current_memory_kib = domain.memory_kib;
        }
        let default_type = domain.bootloader.is_some().then_some(OsType::Xen);
        match (self.os, default_type) {
            (Some(os), _) => domain.os = Os::read(reader, os, default_type)?,
            (None, Some(os_type)) => domain.os = Os::new(os_type, None),
            (None, None) => return missing("os"),
        }
        Ok(())
    }
}

/// Observed with libvirt 9.0, by `virsh define` and `dumpxml` on `test:///default` and on its QEMU driver: amounts are kept
/// to the KiB that the document says, however small, and rounded to whole MiB only when QEMU starts.
impl Seen<'_> {
    fn complete_memory(&self, domain: &mut Domain, reader: &Reader<'_>, node: Node<'_>) -> Result<(), XmlError> {
        if domain.memory_kib == 0 {
            domain.memory_kib = numa_memory(reader, node);
        }
        match self.memory {
            _ if domain.memory_kib > 0 => {}
            None => return Err(XmlError::MissingElement { place: reader.place(node), element: "memory" }),
            Some(memory) => {
                let (place, found) = (reader.place_of_text(memory), "0".to_owned());
                return Err(XmlError::BadValue { place, found, expected: "at least 1 KiB of memory" });
            }
        }
        let Some((node, max)) = self.max_memory.zip(domain.max_memory) else { return Ok(()) };
        let place = reader.place_of_text(node);
        match (max.kib, max.slots.unwrap_or_default()) {
            (0, 0) => domain.max_memory = None,
            (0, _) | (_, 0) => {
                let (found, expected) = (max.kib.to_string(), "both an amount and a number of slots");
                return Err(XmlError::BadValue { place, found, expected });
            }
            (kib, _) if kib < domain.memory_kib => {
                let (found, expected) = (kib.to_string(), "at least as much as <memory>");
                return Err(XmlError::BadValue { place, found, expected });
            }
            _ => {}
        }
        Ok(())
    }
}

/// What the cells of a guest have together, for a document that says it only there.
fn numa_memory(reader: &Reader<'_>, domain: Node<'_>) -> u64 {
    fn named<'a>(node: Node<'a>, name: &'static str) -> impl Iterator<Item = Node<'a>> {
        node.children().filter(move |child| local_name(*child) == name)
    }
    let cells = named(domain, "cpu").flat_map(|cpu| named(cpu, "numa")).flat_map(|numa| named(numa, "cell"));
    let memory = cells.filter_map(|cell| {
        let value = reader.attribute(cell, "memory")?.trim().parse().ok()?;
        scale_to_kib(value, reader.attribute(cell, "unit").unwrap_or("KiB"))
    });
    let sum = memory.fold(0, u64::saturating_add);
    if sum <= MAX_KIB { sum } else { 0 }
}

fn domain_type(reader: &Reader<'_>, node: Node<'_>) -> Result<DomainType, XmlError> {
    let found = reader.required(node, "type")?;
    DomainType::from_text(found).ok_or_else(|| XmlError::UnknownDomainType {
        place: reader.place_of_attribute(node, "type"),
        found: shorten(found),
        accepted: DomainType::ACCEPTED,
    })
}

/// Reads what a domain is called and how large it is; `false` for any other element.
fn head<'a>(
    domain: &mut Domain,
    seen: &mut Seen<'a>,
    reader: &mut Reader<'_>,
    node: Node<'a>,
    rest: &mut Rest,
) -> Result<bool, XmlError> {
    match local_name(node) {
        "name" => {
            let text = reader.leaf(node, rest, &[], &DOMAIN)?;
            check_name(&text).map_err(|reason| XmlError::BadName {
                place: reader.place_of_text(node),
                found: shorten(&text),
                reason,
            })?;
            domain.name = text.into_owned();
            seen.name = true;
        }
        "uuid" => {
            let text = reader.leaf(node, rest, &[], &DOMAIN)?;
            domain.uuid = Some(uuid(&text, || reader.place_of_text(node))?);
        }
        "title" => {
            let title = reader.text_leaf(node, rest, &DOMAIN)?;
            if let Some(text) = title.as_deref().filter(|text| text.contains('\n')) {
                let (place, found) = (reader.place_of_text(node), shorten(trimmed(text)));
                return Err(XmlError::BadValue { place, found, expected: "a title of one line" });
            }
            domain.title = title;
        }
        "description" => domain.description = reader.text_leaf(node, rest, &DOMAIN)?,
        "metadata" => {
            reader.single(node)?;
            domain.metadata = Some(reader.noted(node, super::metadata::read(node)));
        }
        "maxMemory" => {
            let text = reader.leaf(node, rest, &["slots", "unit"], &DOMAIN)?;
            let slots = reader.number(node, "slots", 0, "a number of slots")?;
            domain.max_memory = Some(MaxMemory { kib: reader.memory(node, &text)?, slots });
            seen.max_memory = Some(node);
        }
        "memory" => {
            let text = reader.leaf(node, rest, &["unit"], &DOMAIN)?;
            domain.memory_kib = reader.memory(node, &text)?;
            seen.memory = Some(node);
        }
        "currentMemory" => {
            let text = reader.leaf(node, rest, &["unit"], &DOMAIN)?;
            domain.current_memory_kib = reader.memory(node, &text)?;
            seen.current_memory = true;
        }
        "vcpu" => domain.vcpus = vcpus(reader, node, rest)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Reads what a domain does and has; `false` for any other element.
fn body<'a>(
    domain: &mut Domain,
    seen: &mut Seen<'a>,
    reader: &mut Reader<'_>,
    node: Node<'a>,
    rest: &mut Rest,
) -> Result<bool, XmlError> {
    match local_name(node) {
        "bootloader" => domain.bootloader = reader.text_leaf(node, rest, &DOMAIN)?,
        "bootloader_args" => domain.bootloader_args = reader.text_leaf(node, rest, &DOMAIN)?,
        "os" => {
            // Read last: whether its type may be missing depends on an element that may follow.
            reader.single(node)?;
            seen.os = Some(node);
        }
        "features" => domain.features = Features::read(reader, node)?,
        "cpu" => domain.cpu = Some(Cpu::read(reader, node)?),
        "clock" => domain.clock = Clock::read(reader, node)?,
        "on_poweroff" => domain.on_poweroff = action(reader, node, rest)?,
        "on_reboot" => domain.on_reboot = action(reader, node, rest)?,
        "on_crash" => domain.on_crash = action(reader, node, rest)?,
        "devices" => domain.devices = Devices::read(reader, node)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn action<T: TextEnum>(reader: &mut Reader<'_>, node: Node<'_>, rest: &mut Rest) -> Result<T, XmlError> {
    let text = reader.leaf(node, rest, &[], &DOMAIN)?;
    reader.text_word(node, &text)
}

fn vcpus(reader: &mut Reader<'_>, node: Node<'_>, rest: &mut Rest) -> Result<Vcpus, XmlError> {
    const WHAT: &str = "a number of virtual CPUs";
    let text = reader.leaf(node, rest, &["placement", "cpuset", "current"], &DOMAIN)?;
    let max = reader.unsigned(&text, 1, WHAT, || reader.place_of_text(node))?;
    let current = reader.number(node, "current", 1, WHAT)?;
    if let Some(current) = current.filter(|current| *current > max) {
        let place = reader.place_of_attribute(node, "current");
        let expected = "no more virtual CPUs than the element itself says";
        return Err(XmlError::BadValue { place, found: current.to_string(), expected });
    }
    Ok(Vcpus {
        max,
        // libvirt leaves the attribute out when it says nothing new.
        current: current.filter(|current| *current < max),
        placement: reader.word(node, "placement")?.unwrap_or(VcpuPlacement::Static),
        cpuset: reader.attribute(node, "cpuset").and_then(|set| non_empty(Cow::Borrowed(set))),
    })
}

fn uuid(text: &str, place: impl FnOnce() -> Place) -> Result<Uuid, XmlError> {
    let text = trimmed(text);
    plain_uuid(text).ok_or_else(|| XmlError::BadUuid { place: place(), found: shorten(text) })
}

/// A UUID without the braces and URNs that the parser would also take, and libvirt does not.
fn plain_uuid(text: &str) -> Option<Uuid> {
    let plain = text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    plain.then(|| Uuid::try_parse(text).ok()).flatten().filter(|uuid| !uuid.is_nil())
}

/// The name and UUID of a definition in the layout that [`Domain::to_xml`] writes, found in its first lines without
/// reading the rest: for listing thousands of files at a start. `None` for any other layout, also a valid one: then
/// [`Domain::parse`] is to be asked. A definition that has an identity may still be broken further down.
pub fn fast_identity(xml: &str) -> Option<(&str, Uuid)> {
    let (attributes, inside) = xml.strip_prefix("<domain ")?.split_once('>')?;
    // An odd quote means that the '>' belongs to a value.
    if attributes.matches('\'').count() % 2 == 1 || attributes.contains('"') {
        return None;
    }
    let (name, behind) = inside.trim_start().strip_prefix("<name>")?.split_once("</name>")?;
    let (id, _) = behind.trim_start().strip_prefix("<uuid>")?.split_once("</uuid>")?;
    if name.contains(['<', '&', '\r']) || check_name(name).is_err() {
        return None;
    }
    plain_uuid(id).map(|uuid| (name, uuid))
}

/// Checks that a name can name a domain and the files that are named after it; says what is wrong otherwise.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.trim().is_empty() {
        Err("is empty")
    } else if name.len() > MAX_NAME_BYTES {
        Err("is too long")
    } else if name.starts_with('.') {
        Err("begins with '.'")
    } else if name.contains('/') {
        Err("contains '/'")
    } else if name.chars().any(char::is_control) {
        Err("contains a control character")
    } else {
        Ok(())
    }
}
