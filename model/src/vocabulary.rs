//! The names that libvirt knows at each place this crate models, in the order in which libvirt writes them.
//!
//! A name in a list that no field models is kept without a word; a name in no list is kept and reported.

/// What libvirt knows inside one element.
pub(crate) struct Vocabulary {
    /// Its attributes.
    pub(crate) attributes: &'static [&'static str],
    /// Its child elements.
    pub(crate) elements: &'static [&'static str],
    /// Those of its children that are modelled as a plain field, with the attributes that libvirt knows on them.
    pub(crate) leaves: &'static [(&'static str, &'static [&'static str])],
}

fn order(names: &[&str], name: &str) -> usize {
    names.iter().position(|known| *known == name).unwrap_or(usize::MAX - 1)
}

impl Vocabulary {
    pub(crate) fn attribute_order(&self, name: &str) -> usize {
        order(self.attributes, name)
    }

    pub(crate) fn element_order(&self, name: &str) -> usize {
        order(self.elements, name)
    }

    pub(crate) fn leaf(&self, name: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
        self.leaves.iter().find(|(leaf, _)| *leaf == name)
    }

    pub(crate) fn is_leaf(&self, name: &str) -> bool {
        self.leaf(name).is_some()
    }

    pub(crate) fn leaf_attribute_order(&self, leaf: &str, name: &str) -> usize {
        self.leaf(leaf).map_or(usize::MAX - 1, |(_, attributes)| order(attributes, name))
    }
}

/// Namespaces of libvirt's own extensions to a domain.
pub(crate) const DOMAIN_NAMESPACES: &[&str] = &[
    "http://libvirt.org/schemas/domain/qemu/1.0",
    "http://libvirt.org/schemas/domain/lxc/1.0",
    "http://libvirt.org/schemas/domain/xen/1.0",
    "http://libvirt.org/schemas/domain/bhyve/1.0",
    "http://libvirt.org/schemas/domain/vmware/1.0",
];

pub(crate) const DOMAIN: Vocabulary = Vocabulary {
    attributes: &["type", "id"],
    elements: &[
        "name",
        "uuid",
        "genid",
        "hwuuid",
        "title",
        "description",
        "metadata",
        "maxMemory",
        "memory",
        "currentMemory",
        "blkiotune",
        "memtune",
        "memoryBacking",
        "vcpu",
        "vcpus",
        "iothreads",
        "iothreadids",
        "defaultiothread",
        "throttlegroups",
        "cputune",
        "numatune",
        "resource",
        "sysinfo",
        "bootloader",
        "bootloader_args",
        "os",
        "idmap",
        "features",
        "cpu",
        "clock",
        "on_poweroff",
        "on_reboot",
        "on_crash",
        "on_lockfailure",
        "pm",
        "perf",
        "devices",
        "seclabel",
        "keywrap",
        "launchSecurity",
        "qemu:commandline",
        "qemu:capabilities",
        "qemu:override",
        "qemu:deprecation",
        "lxc:namespace",
        "xen:commandline",
        "bhyve:commandline",
    ],
    leaves: &[
        ("name", &[]),
        ("uuid", &[]),
        ("title", &[]),
        ("description", &[]),
        ("maxMemory", &["slots", "unit"]),
        ("memory", &["dumpCore", "unit"]),
        ("currentMemory", &["unit"]),
        ("vcpu", &["placement", "cpuset", "current"]),
        ("bootloader", &[]),
        ("bootloader_args", &[]),
        ("on_poweroff", &[]),
        ("on_reboot", &[]),
        ("on_crash", &[]),
    ],
};

pub(crate) const OS: Vocabulary = Vocabulary {
    attributes: &["firmware"],
    elements: &[
        "type",
        "firmware",
        "init",
        "initarg",
        "initenv",
        "initdir",
        "inituser",
        "initgroup",
        "loader",
        "nvram",
        "varstore",
        "kernel",
        "initrd",
        "cmdline",
        "shim",
        "dtb",
        "root",
        "acpi",
        "boot",
        "bootmenu",
        "bios",
        "smbios",
    ],
    leaves: &[
        ("type", &["arch", "machine"]),
        ("loader", &["readonly", "secure", "type", "stateless", "format"]),
        ("kernel", &[]),
        ("initrd", &[]),
        ("cmdline", &[]),
        ("dtb", &[]),
        ("boot", &["dev"]),
        ("bootmenu", &["enable", "timeout"]),
    ],
};

pub(crate) const NVRAM: Vocabulary =
    Vocabulary { attributes: &["type", "template", "templateFormat", "format"], elements: &["source"], leaves: &[] };

pub(crate) const FEATURES: Vocabulary = Vocabulary {
    attributes: &[],
    elements: &[
        "acpi",
        "apic",
        "pae",
        "hap",
        "viridian",
        "privnet",
        "hyperv",
        "kvm",
        "pvspinlock",
        "capabilities",
        "pmu",
        "vmport",
        "gic",
        "smm",
        "ioapic",
        "hpt",
        "vmcoreinfo",
        "htm",
        "nested-hv",
        "msrs",
        "ccf-assist",
        "xen",
        "cfpc",
        "sbbc",
        "ibs",
        "tcg",
        "async-teardown",
        "ras",
        "ps2",
        "aia",
    ],
    leaves: &[("acpi", &[]), ("apic", &["eoi"]), ("pae", &[])],
};

pub(crate) const CPU: Vocabulary = Vocabulary {
    attributes: &["mode", "match", "check", "migratable", "deprecated_features"],
    elements: &["arch", "model", "vendor", "microcode", "topology", "cache", "maxphysaddr", "feature", "numa"],
    leaves: &[
        ("model", &["fallback", "vendor_id"]),
        ("topology", &["sockets", "dies", "clusters", "cores", "threads"]),
    ],
};

pub(crate) const CLOCK: Vocabulary = Vocabulary {
    attributes: &["offset", "adjustment", "basis", "timezone", "start", "adjustment0"],
    elements: &["timer"],
    leaves: &[],
};

pub(crate) const DEVICES: Vocabulary = Vocabulary {
    attributes: &[],
    elements: &[
        "emulator",
        "disk",
        "controller",
        "lease",
        "filesystem",
        "interface",
        "smartcard",
        "serial",
        "parallel",
        "console",
        "channel",
        "input",
        "tpm",
        "graphics",
        "sound",
        "audio",
        "video",
        "hostdev",
        "redirdev",
        "redirfilter",
        "hub",
        "watchdog",
        "memballoon",
        "rng",
        "nvram",
        "panic",
        "shmem",
        "memory",
        "crypto",
        "iommu",
        "vsock",
        "pstore",
    ],
    leaves: &[("emulator", &[])],
};

pub(crate) const DISK: Vocabulary = Vocabulary {
    attributes: &["type", "device", "model", "rawio", "sgio", "snapshot"],
    elements: &[
        "driver",
        "auth",
        "source",
        "backingStore",
        "backenddomain",
        "geometry",
        "blockio",
        "mirror",
        "target",
        "iotune",
        "throttlefilters",
        "readonly",
        "shareable",
        "transient",
        "serial",
        "wwn",
        "vendor",
        "product",
        "encryption",
        "boot",
        "alias",
        "rom",
        "acpi",
        "address",
    ],
    leaves: &[
        ("target", &["dev", "bus", "tray", "removable", "rotation_rate", "dpofua"]),
        ("readonly", &[]),
        ("shareable", &[]),
        ("transient", &["shareBacking"]),
        ("serial", &[]),
        ("boot", &["order", "loadparm"]),
    ],
};

pub(crate) const DISK_DRIVER: Vocabulary = Vocabulary {
    attributes: &[
        "name",
        "type",
        "cache",
        "error_policy",
        "rerror_policy",
        "io",
        "ioeventfd",
        "event_idx",
        "copy_on_read",
        "discard",
        "iothread",
        "detect_zeroes",
        "discard_no_unref",
        "queues",
        "queue_size",
        "iommu",
        "ats",
        "packed",
        "page_per_vq",
    ],
    elements: &["metadata_cache", "iothreads", "statistics"],
    leaves: &[],
};

pub(crate) const DISK_SOURCE: Vocabulary = Vocabulary {
    attributes: &[
        "file",
        "dev",
        "dir",
        "protocol",
        "name",
        "query",
        "tls",
        "tlsHostname",
        "pool",
        "volume",
        "mode",
        "type",
        "path",
        "managed",
        "namespace",
        "fdgroup",
        "startupPolicy",
        "index",
    ],
    elements: &[
        "address",
        "host",
        "snapshot",
        "config",
        "auth",
        "ssl",
        "cookies",
        "readahead",
        "timeout",
        "initiator",
        "reservations",
        "identity",
        "knownHosts",
        "reconnect",
        "slices",
        "encryption",
        "dataStore",
        "seclabel",
        "privateData",
    ],
    leaves: &[],
};

pub(crate) const BACKING_STORE: Vocabulary = Vocabulary {
    attributes: &["type", "index"],
    elements: &["format", "source", "backingStore"],
    leaves: &[("format", &["type"])],
};

pub(crate) const CHARDEV: Vocabulary = Vocabulary {
    attributes: &["type", "tty"],
    elements: &["source", "protocol", "log", "target", "alias", "acpi", "address"],
    leaves: &[],
};

pub(crate) const CHARDEV_SOURCE: Vocabulary = Vocabulary {
    attributes: &["mode", "path", "append", "host", "service", "tls", "channel", "master", "slave"],
    elements: &["reconnect", "clipboard", "mouse", "seclabel"],
    leaves: &[],
};

pub(crate) const CHARDEV_TARGET: Vocabulary =
    Vocabulary { attributes: &["type", "name", "port", "state"], elements: &["model"], leaves: &[] };
