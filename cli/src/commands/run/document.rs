//! The document of a guest that `run` starts.

use model::{Chardev, Disk, DiskBus, DiskFormat, DiskType, Domain, DomainType};

/// What was asked for, with every file looked at.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) name: String,
    pub(super) memory_kib: u64,
    pub(super) cpus: u32,
    pub(super) arch: String,
    pub(super) machine: Option<String>,
    pub(super) kernel: Option<String>,
    pub(super) initrd: Option<String>,
    pub(super) cmdline: Option<String>,
    pub(super) disks: Vec<GuestDisk>,
}

/// A disk with everything known of it.
#[derive(Clone, Debug)]
pub(super) struct GuestDisk {
    pub(super) path: String,
    pub(super) block_device: bool,
    pub(super) readonly: bool,
    pub(super) format: DiskFormat,
}

impl Guest {
    /// The document.
    pub(super) fn domain(&self, domain_type: DomainType) -> Domain {
        let mut domain = Domain::new(domain_type, &self.name, self.memory_kib, self.cpus, &self.arch);
        domain.os.machine = self.machine.clone().or_else(|| default_machine(&self.arch).map(str::to_owned));
        domain.os.kernel.clone_from(&self.kernel);
        domain.os.initrd.clone_from(&self.initrd);
        if self.kernel.is_some() {
            domain.os.cmdline = Some(self.cmdline.clone().unwrap_or_else(|| self.default_cmdline()));
        } else {
            domain.os.boot = vec![model::BootDevice::Hd];
        }
        // Without ACPI a guest could not be asked to shut down.
        domain.features.acpi = true;
        domain.features.apic = is_x86(&self.arch);
        domain.devices.disks = (0..).zip(&self.disks).map(|(index, disk)| disk.element(index)).collect();
        let (port, console) = serial_ports(&self.arch);
        domain.devices.serials = vec![Chardev::pty(port, 0)];
        domain.devices.consoles = vec![Chardev::pty(console, 0)];
        domain
    }

    /// A kernel that is given no command line talks to the serial port, and finds its root on the first disk if there is no
    /// initrd to find it.
    fn default_cmdline(&self) -> String {
        let mut words = vec![format!("console={}", kernel_console(&self.arch))];
        if self.initrd.is_none()
            && let Some(disk) = self.disks.first()
        {
            words.push(format!("root=/dev/vda {}", if disk.readonly { "ro" } else { "rw" }));
        }
        words.join(" ")
    }
}

impl GuestDisk {
    fn element(&self, index: usize) -> Disk {
        let mut disk = Disk::file(&self.path, self.format, format!("vd{}", letters(index)), DiskBus::Virtio);
        if self.block_device {
            disk.disk_type = DiskType::Block;
        }
        disk.readonly = self.readonly;
        disk
    }
}

/// The kernel's names of disks: a, b, … z, aa, ab, …
fn letters(index: usize) -> String {
    let mut rest = index;
    let mut letters = Vec::new();
    loop {
        letters.push(char::from(b"abcdefghijklmnopqrstuvwxyz"[rest % 26]));
        if rest < 26 {
            return letters.iter().rev().collect();
        }
        rest = rest / 26 - 1;
    }
}

fn is_x86(arch: &str) -> bool {
    matches!(arch, "x86_64" | "i686")
}

/// The machine that virtio guests of an architecture expect; None leaves it to the hypervisor.
fn default_machine(arch: &str) -> Option<&'static str> {
    match arch {
        "x86_64" | "i686" => Some("q35"),
        "aarch64" | "armv7l" | "riscv64" => Some("virt"),
        _ => None,
    }
}

/// The kinds of the serial port and of the console that is the same port by its other name.
fn serial_ports(arch: &str) -> (&'static str, &'static str) {
    match arch {
        "x86_64" | "i686" => ("isa-serial", "serial"),
        "s390x" => ("sclp-serial", "serial"),
        "ppc64le" | "ppc64" => ("spapr-vio-serial", "serial"),
        _ => ("system-serial", "serial"),
    }
}

/// The kernel's name of the first serial port.
fn kernel_console(arch: &str) -> &'static str {
    match arch {
        "aarch64" | "armv7l" => "ttyAMA0",
        "ppc64le" | "ppc64" => "hvc0",
        "s390x" => "ttysclp0",
        _ => "ttyS0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(arch: &str) -> Guest {
        Guest {
            name: "g".to_owned(),
            memory_kib: 65536,
            cpus: 1,
            arch: arch.to_owned(),
            machine: None,
            kernel: Some("/k".to_owned()),
            initrd: None,
            cmdline: None,
            disks: vec![GuestDisk {
                path: "/d".to_owned(),
                block_device: false,
                readonly: true,
                format: DiskFormat::Raw,
            }],
        }
    }

    #[test]
    fn disks_are_named_as_the_kernel_names_them() {
        assert_eq!([0, 25, 26, 51, 52, 701, 702].map(letters), ["a", "z", "aa", "az", "ba", "zz", "aaa"]);
    }

    #[test]
    fn a_kernel_without_an_initrd_finds_its_root_on_the_first_disk() {
        assert_eq!(guest("x86_64").default_cmdline(), "console=ttyS0 root=/dev/vda ro");
        let with_initrd = Guest { initrd: Some("/i".to_owned()), ..guest("aarch64") };
        assert_eq!(with_initrd.default_cmdline(), "console=ttyAMA0");
    }

    #[test]
    fn the_document_is_understood_as_a_whole() {
        for arch in ["x86_64", "aarch64", "riscv64", "s390x", "ppc64le", "loongarch64"] {
            let domain = guest(arch).domain(DomainType::Qemu);
            let parsed = Domain::parse(&domain.to_xml(&model::DumpOptions::stored())).unwrap();
            assert_eq!(parsed.value, domain, "{arch}");
            assert!(parsed.notices.is_empty(), "{arch}: {:?}", parsed.notices);
        }
    }
}
