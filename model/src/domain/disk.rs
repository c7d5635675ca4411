//! Disks.

use super::types::{DiskBus, DiskCache, DiskDevice, DiskDiscard, DiskFormat, DiskIo, DiskType};
use crate::error::{XmlError, shorten};
use crate::kept::Rest;
use crate::reader::{Node, Reader};
use crate::vocabulary::{BACKING_STORE, DISK, DISK_DRIVER, DISK_SOURCE};
use crate::writer::Element;

/// A disk, CD-ROM drive or floppy drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What is behind it.
    pub disk_type: DiskType,
    /// What it looks like.
    pub device: DiskDevice,
    /// How the hypervisor treats it.
    pub driver: DiskDriver,
    /// What is in it; `None` for a drive without a medium.
    pub source: Option<DiskSource>,
    /// The images that its image is an overlay of, where the definition says so.
    pub backing: Option<BackingStore>,
    /// Where it is attached.
    pub target: DiskTarget,
    /// Whether the guest cannot write to it; always so for a CD-ROM.
    pub readonly: bool,
    /// Whether several guests use it at once.
    pub shareable: bool,
    /// Whether what is written to it is forgotten when the guest ends.
    pub transient: bool,
    /// The serial number that the guest sees.
    pub serial: Option<String>,
    /// Its turn in booting, from 1.
    pub boot_order: Option<u32>,
    /// What else there is: `iotune`, `encryption`, `address`, …
    pub rest: Rest,
}

/// Where a disk is attached to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskTarget {
    /// Its name, unique in the domain: `vda`. The guest may name it otherwise.
    pub dev: String,
    /// Its bus.
    pub bus: DiskBus,
}

/// How the hypervisor treats a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskDriver {
    /// Which of the hypervisor's drivers: `qemu`, `tap`, …
    pub name: Option<String>,
    /// The format of the image.
    pub format: Option<DiskFormat>,
    /// How it goes through the host's page cache.
    pub cache: Option<DiskCache>,
    /// How requests reach the host's kernel.
    pub io: Option<DiskIo>,
    /// What becomes of discard requests.
    pub discard: Option<DiskDiscard>,
    /// What else there is.
    pub rest: Rest,
}

/// What is in a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskSource {
    /// The path on the host: the attribute `file`, `dev` or `dir`, by the type of the disk.
    pub path: Option<String>,
    /// What else there is: `protocol` and `host`, `pool` and `volume`, `startupPolicy`, …
    pub rest: Rest,
}

/// An image that another one is an overlay of. One without a type ends the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackingStore {
    /// What it is.
    pub disk_type: Option<DiskType>,
    /// Its format.
    pub format: Option<DiskFormat>,
    /// Where it is.
    pub source: Option<DiskSource>,
    /// What it is itself an overlay of.
    pub backing: Option<Box<BackingStore>>,
    /// What else there is.
    pub rest: Rest,
}

/// The attribute of `source` that holds a path.
fn path_attribute(disk_type: DiskType) -> Option<&'static str> {
    match disk_type {
        DiskType::File => Some("file"),
        DiskType::Block | DiskType::VhostVdpa => Some("dev"),
        DiskType::Dir => Some("dir"),
        DiskType::Network | DiskType::Volume | DiskType::Nvme | DiskType::VhostUser => None,
    }
}

impl Disk {
    /// A disk in a file.
    pub fn file(path: impl Into<String>, format: DiskFormat, target: impl Into<String>, bus: DiskBus) -> Self {
        Self {
            disk_type: DiskType::File,
            device: DiskDevice::Disk,
            driver: DiskDriver { name: Some("qemu".into()), format: Some(format), ..DiskDriver::default() },
            source: Some(DiskSource { path: Some(path.into()), rest: Rest::default() }),
            backing: None,
            target: DiskTarget { dev: target.into(), bus },
            readonly: false,
            shareable: false,
            transient: false,
            serial: None,
            boot_order: None,
            rest: Rest::default(),
        }
    }

    /// The path of its image, when that is a file, block device or directory of the host.
    pub fn source_path(&self) -> Option<&str> {
        self.source.as_ref()?.path.as_deref()
    }

    pub(super) fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        let disk_type = reader.word(node, "type")?.unwrap_or(DiskType::File);
        let device = reader.word(node, "device")?.unwrap_or(DiskDevice::Disk);
        let mut disk = Self::file("", DiskFormat::Raw, "", DiskBus::Virtio);
        (disk.disk_type, disk.device, disk.readonly) = (disk_type, device, device == DiskDevice::Cdrom);
        (disk.driver, disk.source) = (DiskDriver::default(), None);
        let mut target = None;
        let mut rest = reader.enter(node, &["type", "device"], &DISK);
        for child in node.children().filter(Node::is_element) {
            match super::local_name(child) {
                "driver" => disk.driver = DiskDriver::read(reader, child)?,
                "source" => disk.source = Some(DiskSource::read(reader, child, disk_type)?),
                "backingStore" => disk.backing = Some(BackingStore::read(reader, child)?),
                "target" => {
                    reader.leaf(child, &mut rest, &["dev", "bus"], &DISK)?;
                    target = Some(DiskTarget::read(reader, child, device)?);
                }
                "readonly" => disk.readonly = disk.flag(reader, child, &mut rest)?,
                "shareable" => disk.shareable = disk.flag(reader, child, &mut rest)?,
                "transient" => disk.transient = disk.flag(reader, child, &mut rest)?,
                "serial" => disk.serial = reader.text_leaf(child, &mut rest, &DISK)?,
                "boot" => {
                    reader.leaf(child, &mut rest, &["order"], &DISK)?;
                    reader.required(child, "order")?;
                    disk.boot_order = reader.number(child, "order", 1, "a boot order")?;
                }
                _ => reader.keep(&mut rest.elements, child, &DISK),
            }
        }
        disk.target =
            target.ok_or_else(|| XmlError::MissingElement { place: reader.place(node), element: "target" })?;
        rest.sort(&DISK);
        disk.rest = rest;
        disk.check_source(reader, node)?;
        Ok(disk)
    }

    fn flag(&self, reader: &mut Reader<'_>, node: Node<'_>, rest: &mut Rest) -> Result<bool, XmlError> {
        reader.leaf(node, rest, &[], &DISK).map(|_| true)
    }

    /// Only a drive whose medium can be taken out may be empty.
    fn check_source(&self, reader: &Reader<'_>, node: Node<'_>) -> Result<(), XmlError> {
        if matches!(self.device, DiskDevice::Cdrom | DiskDevice::Floppy) {
            return Ok(());
        }
        match (&self.source, path_attribute(self.disk_type)) {
            (None, _) => Err(XmlError::MissingElement { place: reader.place(node), element: "source" }),
            (Some(DiskSource { path: None, .. }), Some(attribute)) => {
                let source = node.children().find(|child| child.has_tag_name("source")).unwrap_or(node);
                Err(XmlError::MissingAttribute { place: reader.place(source), attribute })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn element(&self) -> Element<'_> {
        let target = Element::new("target")
            .attribute("dev", self.target.dev.as_str())
            .attribute("bus", self.target.bus.as_str());
        let boot = self.boot_order.map(|order| Element::new("boot").attribute("order", order.to_string()));
        let driver = self.driver.element();
        Element::new("disk")
            .attribute("type", self.disk_type.as_str())
            .attribute("device", self.device.as_str())
            .child_if((!driver.is_empty()).then_some(driver))
            .child_if(self.source.as_ref().map(|source| source.element(Some(self.disk_type))))
            .child_if(self.backing.as_ref().map(BackingStore::element))
            .child(target)
            .flag("readonly", self.readonly)
            .flag("shareable", self.shareable)
            .flag("transient", self.transient)
            .leaf_if("serial", self.serial.as_deref())
            .child_if(boot)
            .complete(&self.rest, &DISK)
    }
}

impl DiskTarget {
    fn read(reader: &Reader<'_>, node: Node<'_>, device: DiskDevice) -> Result<Self, XmlError> {
        let dev = reader.required(node, "dev")?;
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if dev.is_empty() || dev.len() > 64 || !dev.bytes().all(valid) {
            return Err(XmlError::BadValue {
                place: reader.place_of_attribute(node, "dev"),
                found: shorten(dev),
                expected: "1 to 64 letters, digits, '-' or '_'",
            });
        }
        let implied = if device == DiskDevice::Floppy { Some(DiskBus::Fdc) } else { DiskBus::of_target(dev) };
        let bus = reader.word(node, "bus")?.or(implied);
        let bus = bus.ok_or_else(|| XmlError::MissingAttribute { place: reader.place(node), attribute: "bus" })?;
        Ok(Self { dev: dev.to_owned(), bus })
    }
}

impl DiskDriver {
    fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        reader.single(node)?;
        let mut driver = Self {
            name: reader.attribute(node, "name").map(str::to_owned),
            format: reader.word(node, "type")?,
            cache: reader.word(node, "cache")?,
            io: reader.word(node, "io")?,
            discard: reader.word(node, "discard")?,
            rest: reader.enter(node, &["name", "type", "cache", "io", "discard"], &DISK_DRIVER),
        };
        for child in node.children().filter(Node::is_element) {
            reader.keep(&mut driver.rest.elements, child, &DISK_DRIVER);
        }
        driver.rest.sort(&DISK_DRIVER);
        Ok(driver)
    }

    fn element(&self) -> Element<'_> {
        Element::new("driver")
            .attribute_if("name", self.name.as_deref())
            .attribute_if("type", self.format.map(DiskFormat::as_str))
            .attribute_if("cache", self.cache.map(DiskCache::as_str))
            .attribute_if("io", self.io.map(DiskIo::as_str))
            .attribute_if("discard", self.discard.map(DiskDiscard::as_str))
            .complete(&self.rest, &DISK_DRIVER)
    }
}

impl DiskSource {
    fn read(reader: &mut Reader<'_>, node: Node<'_>, disk_type: DiskType) -> Result<Self, XmlError> {
        reader.single(node)?;
        let attribute = path_attribute(disk_type);
        let path = attribute.and_then(|name| reader.attribute(node, name)).filter(|path| !path.is_empty());
        let mut source =
            Self { path: path.map(str::to_owned), rest: reader.enter(node, attribute.as_slice(), &DISK_SOURCE) };
        for child in node.children().filter(Node::is_element) {
            reader.keep(&mut source.rest.elements, child, &DISK_SOURCE);
        }
        source.rest.sort(&DISK_SOURCE);
        Ok(source)
    }

    fn element(&self, disk_type: Option<DiskType>) -> Element<'_> {
        let mut element = Element::new("source");
        if let (Some(name), Some(path)) = (disk_type.and_then(path_attribute), self.path.as_deref()) {
            element = element.attribute(name, path);
        }
        element.complete(&self.rest, &DISK_SOURCE)
    }
}

impl BackingStore {
    /// Reads one and what is behind it. The depth is bounded by [`crate::limits::MAX_DEPTH`].
    fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Result<Self, XmlError> {
        reader.single(node)?;
        let mut store = Self { disk_type: reader.word(node, "type")?, ..Self::default() };
        let mut rest = reader.enter(node, &["type"], &BACKING_STORE);
        for child in node.children().filter(Node::is_element) {
            match super::local_name(child) {
                "format" => {
                    reader.leaf(child, &mut rest, &["type"], &BACKING_STORE)?;
                    reader.required(child, "type")?;
                    store.format = reader.word(child, "type")?;
                }
                "source" => {
                    store.source = Some(DiskSource::read(reader, child, store.disk_type.unwrap_or(DiskType::File))?);
                }
                "backingStore" => store.backing = Some(Box::new(Self::read(reader, child)?)),
                _ => reader.keep(&mut rest.elements, child, &BACKING_STORE),
            }
        }
        rest.sort(&BACKING_STORE);
        store.rest = rest;
        Ok(store)
    }

    fn element(&self) -> Element<'_> {
        let disk_type = self.disk_type.unwrap_or(DiskType::File);
        Element::new("backingStore")
            .attribute_if("type", self.disk_type.map(DiskType::as_str))
            .child_if(self.format.map(|format| Element::new("format").attribute("type", format.as_str())))
            .child_if(self.source.as_ref().map(|source| source.element(Some(disk_type))))
            .child_if(self.backing.as_ref().map(|backing| backing.element()))
            .complete(&self.rest, &BACKING_STORE)
    }
}
