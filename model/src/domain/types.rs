//! The closed lists of words in a domain.

use crate::text_enum::text_enum;

text_enum! {
    /// Which hypervisor a domain is for: the attribute `type` of the root.
    pub enum DomainType {
        /// QEMU without hardware acceleration.
        Qemu = "qemu",
        /// QEMU with KVM.
        Kvm = "kvm",
        /// QEMU with macOS' hypervisor framework.
        Hvf = "hvf",
        /// Xen.
        Xen = "xen",
        /// Linux containers.
        Lxc = "lxc",
        /// User Mode Linux.
        Uml = "uml",
        /// OpenVZ containers.
        Openvz = "openvz",
        /// libvirt's mock hypervisor.
        Test = "test",
        /// VMware.
        Vmware = "vmware",
        /// Hyper-V.
        Hyperv = "hyperv",
        /// VirtualBox.
        Vbox = "vbox",
        /// IBM Power hypervisor.
        Phyp = "phyp",
        /// Parallels.
        Parallels = "parallels",
        /// FreeBSD's bhyve.
        Bhyve = "bhyve",
        /// Virtuozzo.
        Vz = "vz",
    }
}

text_enum! {
    /// What happens to a domain that powers off or reboots.
    pub enum LifecycleAction {
        /// It ends, its resources are released.
        Destroy = "destroy",
        /// It is started anew with the same definition.
        Restart = "restart",
        /// It ends, its resources stay for analysis.
        Preserve = "preserve",
        /// It is started anew under a new name.
        RenameRestart = "rename-restart",
    }
}

text_enum! {
    /// What happens to a domain that crashes.
    pub enum CrashAction {
        /// It ends, its resources are released.
        Destroy = "destroy",
        /// It is started anew with the same definition.
        Restart = "restart",
        /// It ends, its resources stay for analysis.
        Preserve = "preserve",
        /// It is started anew under a new name.
        RenameRestart = "rename-restart",
        /// Its memory is dumped, then it ends.
        CoredumpDestroy = "coredump-destroy",
        /// Its memory is dumped, then it is started anew.
        CoredumpRestart = "coredump-restart",
    }
}

text_enum! {
    /// How a guest is booted: the text of `os/type`.
    pub enum OsType {
        /// Full virtualisation.
        Hvm = "hvm",
        /// Xen paravirtualisation.
        Xen = "xen",
        /// Xen paravirtualisation, by its older name.
        Linux = "linux",
        /// A container: a program of the guest's own file system.
        Exe = "exe",
        /// User Mode Linux.
        Uml = "uml",
        /// Xen paravirtualisation in a hardware container.
        Xenpvh = "xenpvh",
    }
}

text_enum! {
    /// Which firmware is chosen for the guest.
    pub enum Firmware {
        /// A BIOS.
        Bios = "bios",
        /// UEFI.
        Efi = "efi",
    }
}

text_enum! {
    /// `yes` or `no`.
    pub enum Switch {
        /// On.
        Yes = "yes",
        /// Off.
        No = "no",
    }
}

text_enum! {
    /// How a loader is mapped.
    pub enum LoaderType {
        /// As read-only memory.
        Rom = "rom",
        /// As a flash device.
        Pflash = "pflash",
    }
}

text_enum! {
    /// A class of device that the guest's firmware tries.
    pub enum BootDevice {
        /// The first floppy.
        Fd = "fd",
        /// The first hard disk.
        Hd = "hd",
        /// The first CD-ROM.
        Cdrom = "cdrom",
        /// The first network interface.
        Network = "network",
    }
}

text_enum! {
    /// Who places the virtual CPUs on host CPUs.
    pub enum VcpuPlacement {
        /// The attribute `cpuset`, or nobody.
        Static = "static",
        /// numad.
        Auto = "auto",
    }
}

text_enum! {
    /// How the guest's CPU is described.
    pub enum CpuMode {
        /// By model and features.
        Custom = "custom",
        /// As a model near the host's.
        HostModel = "host-model",
        /// As the host's.
        HostPassthrough = "host-passthrough",
        /// With everything that the hypervisor can do.
        Maximum = "maximum",
    }
}

text_enum! {
    /// How strictly the CPU that the guest got is compared with its definition.
    pub enum CpuCheck {
        /// Not at all.
        None = "none",
        /// Before the start.
        Partial = "partial",
        /// Before the start and once it runs.
        Full = "full",
    }
}

text_enum! {
    /// What the guest's clock starts from.
    pub enum ClockOffset {
        /// UTC.
        Utc = "utc",
        /// The host's local time.
        Localtime = "localtime",
        /// An offset that the guest may change.
        Variable = "variable",
        /// A named time zone.
        Timezone = "timezone",
        /// A fixed time.
        Absolute = "absolute",
    }
}

text_enum! {
    /// What is behind a disk.
    pub enum DiskType {
        /// A file of the host.
        File = "file",
        /// A block device of the host.
        Block = "block",
        /// A directory of the host, shown as a file system.
        Dir = "dir",
        /// A server.
        Network = "network",
        /// A volume of a storage pool.
        Volume = "volume",
        /// An NVMe device of the host.
        Nvme = "nvme",
        /// A vhost-user process.
        VhostUser = "vhostuser",
        /// A vhost-vdpa device.
        VhostVdpa = "vhostvdpa",
    }
}

text_enum! {
    /// What a disk looks like to the guest.
    pub enum DiskDevice {
        /// A hard disk.
        Disk = "disk",
        /// A CD-ROM drive.
        Cdrom = "cdrom",
        /// A floppy drive.
        Floppy = "floppy",
        /// A SCSI device of the host, its commands passed on.
        Lun = "lun",
    }
}

text_enum! {
    /// How a disk is attached to the guest.
    pub enum DiskBus {
        /// IDE.
        Ide = "ide",
        /// Floppy controller.
        Fdc = "fdc",
        /// SCSI.
        Scsi = "scsi",
        /// virtio-blk.
        Virtio = "virtio",
        /// Xen's block device.
        Xen = "xen",
        /// USB.
        Usb = "usb",
        /// User Mode Linux.
        Uml = "uml",
        /// SATA.
        Sata = "sata",
        /// SD card.
        Sd = "sd",
        /// NVMe.
        Nvme = "nvme",
    }
}

impl DiskBus {
    /// The bus that a target name implies, as libvirt has it: `vda` virtio, `sda` scsi, `hda` ide, …
    pub fn of_target(target: &str) -> Option<Self> {
        const PREFIXES: &[(&str, DiskBus)] = &[
            ("xvd", DiskBus::Xen),
            ("ubd", DiskBus::Uml),
            ("nvme", DiskBus::Nvme),
            ("hd", DiskBus::Ide),
            ("sd", DiskBus::Scsi),
            ("vd", DiskBus::Virtio),
            ("fd", DiskBus::Fdc),
        ];
        PREFIXES.iter().find(|(prefix, _)| target.starts_with(prefix)).map(|(_, bus)| *bus)
    }
}

text_enum! {
    /// The format of an image.
    pub enum DiskFormat {
        /// Bytes as they are.
        Raw = "raw",
        /// A directory.
        Dir = "dir",
        /// Bochs.
        Bochs = "bochs",
        /// Compressed loop.
        Cloop = "cloop",
        /// Apple disk image.
        Dmg = "dmg",
        /// ISO 9660.
        Iso = "iso",
        /// Virtual PC.
        Vpc = "vpc",
        /// VirtualBox.
        Vdi = "vdi",
        /// A FAT file system made of a directory.
        Fat = "fat",
        /// Virtual hard disk.
        Vhd = "vhd",
        /// Parallels.
        Ploop = "ploop",
        /// QEMU's first copy-on-write format.
        Cow = "cow",
        /// QEMU's second.
        Qcow = "qcow",
        /// QEMU's third.
        Qcow2 = "qcow2",
        /// QEMU's enhanced disk.
        Qed = "qed",
        /// VMware.
        Vmdk = "vmdk",
        /// Raw with asynchronous I/O, as old Xen wrote it.
        Aio = "aio",
        /// To be found out.
        Auto = "auto",
    }
}

text_enum! {
    /// How a disk goes through the host's page cache.
    pub enum DiskCache {
        /// As the hypervisor likes.
        Default = "default",
        /// Past it.
        None = "none",
        /// Through it, written at once.
        Writethrough = "writethrough",
        /// Through it, written later.
        Writeback = "writeback",
        /// Past it, written at once.
        Directsync = "directsync",
        /// Through it, never flushed.
        Unsafe = "unsafe",
    }
}

text_enum! {
    /// How a disk's requests reach the host's kernel.
    pub enum DiskIo {
        /// As the hypervisor likes.
        Default = "default",
        /// Linux AIO.
        Native = "native",
        /// A pool of threads.
        Threads = "threads",
        /// io_uring.
        IoUring = "io_uring",
    }
}

text_enum! {
    /// What becomes of a guest's discard requests.
    pub enum DiskDiscard {
        /// As the hypervisor likes.
        Default = "default",
        /// They are passed on.
        Unmap = "unmap",
        /// They are ignored.
        Ignore = "ignore",
    }
}

text_enum! {
    /// What is behind a character device.
    pub enum ChardevType {
        /// Nothing.
        Null = "null",
        /// A virtual console of the hypervisor's window.
        Vc = "vc",
        /// A pseudo terminal; our console.
        Pty = "pty",
        /// A device of the host.
        Dev = "dev",
        /// A file of the host.
        File = "file",
        /// A named pipe of the host.
        Pipe = "pipe",
        /// The hypervisor's own standard input and output.
        Stdio = "stdio",
        /// UDP.
        Udp = "udp",
        /// TCP.
        Tcp = "tcp",
        /// A Unix socket.
        Unix = "unix",
        /// A SPICE channel.
        Spicevmc = "spicevmc",
        /// A SPICE port.
        Spiceport = "spiceport",
        /// A null-modem device of bhyve.
        Nmdm = "nmdm",
        /// QEMU's own SPICE agent.
        QemuVdagent = "qemu-vdagent",
        /// QEMU's D-Bus display.
        Dbus = "dbus",
    }
}
