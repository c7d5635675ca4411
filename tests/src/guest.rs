//! Guests' documents.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// A guest's disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The image.
    pub path: PathBuf,
    /// `raw` or `qcow2`.
    pub format: &'static str,
    /// The guest may not write.
    pub read_only: bool,
}

/// A guest, to be made into a document.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Its memory.
    pub memory_mib: u32,
    /// Kernel and initrd; without them only the firmware runs.
    pub kernel: Option<(PathBuf, PathBuf)>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Its disks, vda first.
    pub disks: Vec<Disk>,
    /// `destroy`, `restart` or `preserve`.
    pub on_poweroff: &'static str,
    /// The same.
    pub on_reboot: &'static str,
    /// The same.
    pub on_crash: &'static str,
    /// Further elements of `<devices>`.
    pub devices: String,
}

impl Guest {
    /// A guest that runs nothing but its firmware: quick to start, and it uses next to nothing once it idles.
    #[must_use]
    pub fn tiny(name: &str) -> Guest {
        Guest {
            name: name.to_owned(),
            memory_mib: 16,
            kernel: None,
            cmdline: String::new(),
            disks: Vec::new(),
            on_poweroff: "destroy",
            on_reboot: "restart",
            on_crash: "destroy",
            devices: String::new(),
        }
    }

    /// The Linux guest of `tools/guest-image.sh`: a shell on its serial console.
    #[must_use]
    pub fn linux(name: &str) -> Guest {
        let image = test_guest();
        let cmdline = match env::consts::ARCH {
            "aarch64" => "console=ttyAMA0 quiet",
            _ => "console=ttyS0 quiet",
        };
        Guest {
            memory_mib: 128,
            kernel: Some((image.join("vmlinuz"), image.join("initrd.cpio.gz"))),
            cmdline: cmdline.to_owned(),
            ..Guest::tiny(name)
        }
    }

    /// The same with a disk more.
    #[must_use]
    pub fn disk(mut self, path: &Path, format: &'static str) -> Guest {
        self.disks.push(Disk { path: path.to_owned(), format, read_only: false });
        self
    }

    /// The document.
    #[must_use]
    pub fn xml(&self) -> String {
        let (arch, machine) = match env::consts::ARCH {
            "aarch64" => ("aarch64", "virt"),
            _ => ("x86_64", "q35"),
        };
        let boot = match &self.kernel {
            Some((kernel, initrd)) => format!(
                "<kernel>{}</kernel><initrd>{}</initrd><cmdline>{}</cmdline>",
                kernel.display(),
                initrd.display(),
                self.cmdline
            ),
            None => String::new(),
        };
        let disks: String = ('a'..).zip(&self.disks).map(|(letter, disk)| disk.element(letter)).collect();
        format!(
            "<domain type='qemu'>\n  <name>{}</name>\n  <memory unit='MiB'>{}</memory>\n  <vcpu>1</vcpu>\n  \
             <os><type arch='{arch}' machine='{machine}'>hvm</type>{boot}</os>\n  <features><acpi/></features>\n  \
             <on_poweroff>{}</on_poweroff><on_reboot>{}</on_reboot><on_crash>{}</on_crash>\n  \
             <devices>{disks}<serial type='pty'/><console type='pty'/>{}</devices>\n</domain>\n",
            self.name, self.memory_mib, self.on_poweroff, self.on_reboot, self.on_crash, self.devices
        )
    }
}

impl Guest {
    /// The document of such a guest for libvirt's mock hypervisor, whose host is an old one.
    #[must_use]
    pub fn mock_xml(&self) -> String {
        let text = self.xml().replace("type='qemu'>\n", "type='test'>\n");
        let text = text.replace(" arch='x86_64' machine='q35'", " arch='i686'");
        text.replace(" arch='aarch64' machine='virt'", " arch='i686'")
    }
}

impl Disk {
    fn element(&self, letter: char) -> String {
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='{}'/><source file='{}'/>\
             <target dev='vd{letter}' bus='virtio'/>{}</disk>",
            self.format,
            self.path.display(),
            if self.read_only { "<readonly/>" } else { "" }
        )
    }
}

/// The directory of the test guest: `$BULKHEAD_TEST_GUEST`, or `build/guest` of this tree.
///
/// # Panics
/// When it is not there: no test of a booted guest could run.
#[must_use]
pub fn test_guest() -> PathBuf {
    let named = env::var_os("BULKHEAD_TEST_GUEST").map(PathBuf::from);
    let path = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/guest"));
    let path = fs::canonicalize(&path).unwrap_or(path);
    assert!(path.join("vmlinuz").exists(), "there is no guest in {}; `make guest` makes it", path.display());
    path
}
