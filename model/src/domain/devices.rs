//! The devices of a domain.

use std::borrow::Cow;
use std::collections::HashMap;

use super::chardev::Chardev;
use super::disk::Disk;
use super::{DumpOptions, non_empty};
use crate::error::XmlError;
use crate::kept::{RawElement, Rest, sort_elements};
use crate::reader::{Node, Reader, trimmed};
use crate::vocabulary::DEVICES;
use crate::writer::Element;

/// The devices of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// The hypervisor's program; the driver's own when it is left out.
    pub emulator: Option<String>,
    /// Disks and drives.
    pub disks: Vec<Disk>,
    /// Serial ports.
    pub serials: Vec<Chardev>,
    /// Consoles.
    pub consoles: Vec<Chardev>,
    /// Devices that are not modelled yet, by name: `interface`, `graphics`, `controller`, … A driver refuses to start a
    /// domain with one it cannot honour.
    pub other: Vec<RawElement>,
    /// Attributes that are understood nowhere.
    pub rest: Rest,
}

impl Devices {
    pub(super) fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        reader.single(node)?;
        let mut devices = Self::default();
        let mut rest = reader.enter(node, &[], &DEVICES);
        let mut targets = HashMap::new();
        for child in node.children().filter(Node::is_element) {
            match super::local_name(child) {
                "emulator" => {
                    devices.emulator =
                        non_empty(Cow::Borrowed(trimmed(&reader.leaf(child, &mut rest, &[], &DEVICES)?)));
                }
                "disk" => {
                    let disk = Disk::read(reader, child)?;
                    check_target(reader, child, &disk, &mut targets)?;
                    devices.disks.push(disk);
                }
                "serial" => devices.serials.push(Chardev::read(reader, child)?),
                "console" => devices.consoles.push(Chardev::read(reader, child)?),
                _ => reader.keep(&mut devices.other, child, &DEVICES),
            }
        }
        sort_elements(&mut devices.other, &DEVICES);
        rest.sort(&DEVICES);
        devices.rest = rest;
        Ok(devices)
    }

    /// `redacted` holds the graphics without their passwords, where those are not to be shown.
    pub(super) fn element<'a>(&'a self, redacted: Option<&'a [RawElement]>) -> Element<'a> {
        Element::new("devices")
            .leaf_if("emulator", self.emulator.as_deref())
            .children(self.disks.iter().map(Disk::element))
            .children(self.serials.iter().map(|serial| serial.element("serial")))
            .children(self.consoles.iter().map(|console| console.element("console")))
            .raw(redacted.unwrap_or(&self.other))
            .always_open()
            .complete(&self.rest, &DEVICES)
    }

    /// The other devices with the secrets taken out; `None` when there are none or they are asked for.
    pub(super) fn redacted(&self, options: &DumpOptions) -> Option<Vec<RawElement>> {
        let holds_secret = |raw: &RawElement| raw.name == "graphics" && raw.xml.contains(" passwd");
        if options.secrets || !self.other.iter().any(holds_secret) {
            return None;
        }
        let redact = |raw: &RawElement| if holds_secret(raw) { without_password(raw) } else { raw.clone() };
        Some(self.other.iter().map(redact).collect())
    }
}

/// Takes the attributes `passwd…` out of the start tag of a kept element. The reader has written it: one blank before
/// each attribute, `'` around each value and nowhere in it. Of one that was made elsewhere only the name is left.
fn without_password(raw: &RawElement) -> RawElement {
    let xml = redact_start_tag(&raw.xml).unwrap_or_else(|| format!("<{}/>", raw.name));
    RawElement { xml, ..raw.clone() }
}

fn redact_start_tag(xml: &str) -> Option<String> {
    let name_end = xml.find([' ', '>', '/'])?;
    let (mut out, mut rest) = (xml[..name_end].to_owned(), &xml[name_end..]);
    while let Some(attribute) = rest.strip_prefix(' ') {
        let (name, behind) = attribute.split_once("='")?;
        let (_, behind) = behind.split_once('\'')?;
        if !name.starts_with("passwd") {
            out.push_str(&rest[..rest.len() - behind.len()]);
        }
        rest = behind;
    }
    out.push_str(rest);
    Some(out)
}

fn check_target(
    reader: &Reader<'_>,
    node: Node<'_>,
    disk: &Disk,
    targets: &mut HashMap<String, u32>,
) -> Result<(), XmlError> {
    let line = reader.line(node);
    match targets.insert(disk.target.dev.clone(), line) {
        None => Ok(()),
        Some(first_line) => {
            let target = node.children().find(|child| child.has_tag_name("target")).unwrap_or(node);
            let place = reader.place_of_attribute(target, "dev");
            Err(XmlError::DuplicateTarget { place, target: disk.target.dev.clone(), first_line })
        }
    }
}
