//! Which files of the host a domain needs opened.

use super::Domain;
use super::disk::{BackingStore, Disk};
use super::types::{ChardevType, DiskType, Switch};

/// A file of the host that a domain uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its path.
    pub path: String,
    /// Whether the guest writes to it.
    pub writable: bool,
    /// What it is for.
    pub what: SourceKind,
}

/// What a file of the host is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// The image of the disk at a target.
    Disk(String),
    /// An image that the image of the disk at a target is an overlay of.
    Backing(String),
    /// The kernel.
    Kernel,
    /// The initial RAM disk.
    Initrd,
    /// The device tree.
    Dtb,
    /// The firmware image.
    Loader,
    /// The firmware's variables.
    Nvram,
    /// What a new file of the firmware's variables starts as.
    NvramTemplate,
    /// The file, device or pipe behind the serial port of an index.
    Serial(usize),
    /// The file, device or pipe behind the console of an index.
    Console(usize),
}

impl Domain {
    /// Every file of the host that the modelled part of this definition needs opened, in a fixed order.
    ///
    /// An image's own header may name further ones; only `backingStore` in the definition is seen here.
    pub fn sources(&self) -> Vec<Source> {
        let mut sources = Vec::new();
        for disk in &self.devices.disks {
            disk_sources(&mut sources, disk);
        }
        self.boot_sources(&mut sources);
        self.chardev_sources(&mut sources);
        sources
    }

    fn boot_sources(&self, sources: &mut Vec<Source>) {
        let os = &self.os;
        let mut add = |path: Option<&String>, writable, what| {
            sources.extend(path.map(|path| Source { path: path.clone(), writable, what }));
        };
        add(os.kernel.as_ref(), false, SourceKind::Kernel);
        add(os.initrd.as_ref(), false, SourceKind::Initrd);
        add(os.dtb.as_ref(), false, SourceKind::Dtb);
        if let Some(loader) = &os.loader {
            add(loader.path.as_ref(), loader.readonly == Some(Switch::No), SourceKind::Loader);
        }
        if let Some(nvram) = &os.nvram {
            add(nvram.path.as_ref(), true, SourceKind::Nvram);
            add(nvram.template.as_ref(), false, SourceKind::NvramTemplate);
        }
    }

    fn chardev_sources(&self, sources: &mut Vec<Source>) {
        let serials = self.devices.serials.iter().enumerate().map(|(i, c)| (c, SourceKind::Serial(i)));
        let consoles = self.devices.consoles.iter().enumerate().map(|(i, c)| (c, SourceKind::Console(i)));
        for (chardev, what) in serials.chain(consoles) {
            let opened = matches!(chardev.chardev_type, ChardevType::File | ChardevType::Dev | ChardevType::Pipe);
            let path = chardev.source.as_ref().filter(|_| opened).and_then(|source| source.path.clone());
            sources.extend(path.map(|path| Source { path, writable: true, what }));
        }
    }
}

fn disk_sources(sources: &mut Vec<Source>, disk: &Disk) {
    let target = &disk.target.dev;
    sources.extend(disk.source_path().map(|path| Source {
        path: path.to_owned(),
        writable: !disk.readonly,
        what: SourceKind::Disk(target.clone()),
    }));
    let mut next = disk.backing.as_ref();
    while let Some(store) = next {
        sources.extend(backing_path(store).map(|path| Source {
            path: path.to_owned(),
            writable: false,
            what: SourceKind::Backing(target.clone()),
        }));
        next = store.backing.as_deref();
    }
}

fn backing_path(store: &BackingStore) -> Option<&str> {
    let of_host = matches!(store.disk_type, Some(DiskType::File | DiskType::Block));
    store.source.as_ref().filter(|_| of_host)?.path.as_deref()
}
