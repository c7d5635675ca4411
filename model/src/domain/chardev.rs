//! Character devices: serial ports and consoles.

use super::types::ChardevType;
use crate::error::XmlError;
use crate::kept::Rest;
use crate::reader::{Node, Reader};
use crate::vocabulary::{CHARDEV, CHARDEV_SOURCE, CHARDEV_TARGET};
use crate::writer::Element;

/// A serial port or a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chardev {
    /// What is behind it.
    pub chardev_type: ChardevType,
    /// The terminal of a running guest, by the older of its two names.
    pub tty: Option<String>,
    /// Where it leads on the host. Of a running guest's `pty` it names the terminal.
    pub source: Option<ChardevSource>,
    /// What it looks like to the guest.
    pub target: Option<ChardevTarget>,
    /// What else there is: `log`, `protocol`, a second `source`, …
    pub rest: Rest,
}

/// Where a character device leads on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChardevSource {
    /// The path of a file, device, pipe, socket or terminal.
    pub path: Option<String>,
    /// What else there is: `mode`, `host`, `service`, `append`, …
    pub rest: Rest,
}

/// What a character device looks like to the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChardevTarget {
    /// The kind of port: `isa-serial`, `serial`, `virtio`, …
    pub target_type: Option<String>,
    /// Its number.
    pub port: Option<u32>,
    /// What else there is.
    pub rest: Rest,
}

impl Chardev {
    /// A pseudo terminal at a port.
    pub fn pty(target_type: impl Into<String>, port: u32) -> Self {
        Self {
            chardev_type: ChardevType::Pty,
            tty: None,
            source: None,
            target: Some(ChardevTarget {
                target_type: Some(target_type.into()),
                port: Some(port),
                rest: Rest::default(),
            }),
            rest: Rest::default(),
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        let mut chardev = Self {
            chardev_type: reader.word(node, "type")?.unwrap_or(ChardevType::Pty),
            tty: reader.attribute(node, "tty").map(str::to_owned),
            source: None,
            target: None,
            rest: reader.enter(node, &["type", "tty"], &CHARDEV),
        };
        for child in node.children().filter(Node::is_element) {
            match super::local_name(child) {
                // UDP has one more for its other end.
                "source" if chardev.source.is_none() => chardev.source = Some(ChardevSource::read(reader, child)),
                "target" => chardev.target = Some(ChardevTarget::read(reader, child)?),
                _ => reader.keep(&mut chardev.rest.elements, child, &CHARDEV),
            }
        }
        chardev.rest.sort(&CHARDEV);
        Ok(chardev)
    }

    pub(super) fn element<'a>(&'a self, name: &'a str) -> Element<'a> {
        Element::new(name)
            .attribute("type", self.chardev_type.as_str())
            .attribute_if("tty", self.tty.as_deref())
            .child_if(self.source.as_ref().map(ChardevSource::element))
            .child_if(self.target.as_ref().map(ChardevTarget::element))
            .complete(&self.rest, &CHARDEV)
    }

    /// Takes out what only a running guest has.
    pub(super) fn forget_live(&mut self) {
        self.tty = None;
        if self.chardev_type == ChardevType::Pty {
            self.source = None;
        }
        self.rest.elements.retain(|element| element.name != "alias");
    }
}

impl ChardevSource {
    fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Self {
        let mut source = Self {
            path: reader.attribute(node, "path").map(str::to_owned),
            rest: reader.enter(node, &["path"], &CHARDEV_SOURCE),
        };
        for child in node.children().filter(Node::is_element) {
            reader.keep(&mut source.rest.elements, child, &CHARDEV_SOURCE);
        }
        source.rest.sort(&CHARDEV_SOURCE);
        source
    }

    fn element(&self) -> Element<'_> {
        Element::new("source").attribute_if("path", self.path.as_deref()).complete(&self.rest, &CHARDEV_SOURCE)
    }
}

impl ChardevTarget {
    fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        reader.single(node)?;
        let mut target = Self {
            target_type: reader.attribute(node, "type").map(str::to_owned),
            port: reader.number(node, "port", 0, "a port number")?,
            rest: reader.enter(node, &["type", "port"], &CHARDEV_TARGET),
        };
        for child in node.children().filter(Node::is_element) {
            reader.keep(&mut target.rest.elements, child, &CHARDEV_TARGET);
        }
        target.rest.sort(&CHARDEV_TARGET);
        Ok(target)
    }

    fn element(&self) -> Element<'_> {
        Element::new("target")
            .attribute_if("type", self.target_type.as_deref())
            .attribute_if("port", self.port.map(|port| port.to_string()))
            .complete(&self.rest, &CHARDEV_TARGET)
    }
}
