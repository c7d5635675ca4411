//! Disks: block nodes over descriptors, and the devices in front of them.

use model::{BootDevice, Disk, DiskBus, DiskCache, DiskDevice, DiskDiscard, DiskFormat, DiskType, Domain};
use serde_json::{Value, json};

use super::plan::{Builder, File, PlanError, disk_name, fd_node, without_nulls};

/// Adds every disk of the document.
pub(super) fn add(builder: &mut Builder, domain: &Domain) -> Result<(), PlanError> {
    let boot = boot_indexes(domain);
    controllers(builder, domain)?;
    for (index, (disk, boot)) in domain.devices.disks.iter().zip(boot).enumerate() {
        let drive = node(builder, disk, index)?;
        device(builder, disk, drive.as_deref(), boot)?;
    }
    Ok(())
}

/// The place of each disk in the boot order: its own `<boot order>`, else that of its kind in `<os>`.
fn boot_indexes(domain: &Domain) -> Vec<Option<u32>> {
    let disks = &domain.devices.disks;
    if disks.iter().any(|disk| disk.boot_order.is_some()) {
        return disks.iter().map(|disk| disk.boot_order).collect();
    }
    let mut indexes = vec![None; disks.len()];
    let mut next = 1;
    for device in &domain.os.boot {
        for (disk, index) in disks.iter().zip(&mut indexes) {
            let wanted = match device {
                BootDevice::Hd => matches!(disk.device, DiskDevice::Disk | DiskDevice::Lun),
                BootDevice::Cdrom => disk.device == DiskDevice::Cdrom,
                BootDevice::Fd => disk.device == DiskDevice::Floppy,
                BootDevice::Network => false,
            };
            if wanted && index.is_none() {
                *index = Some(next);
                next += 1;
            }
        }
    }
    indexes
}

/// The controllers that the disks' buses need and the machine does not have.
fn controllers(builder: &mut Builder, domain: &Domain) -> Result<(), PlanError> {
    let uses = |bus: DiskBus| domain.devices.disks.iter().any(|disk| disk.target.bus == bus);
    if uses(DiskBus::Scsi) {
        let driver = format!("virtio-scsi-{}", builder.virtio);
        builder.json("-device", &json!({"driver": driver, "id": "scsi0"}));
    }
    if uses(DiskBus::Usb) {
        builder.json("-device", &json!({"driver": "qemu-xhci", "id": "usb0"}));
    }
    if uses(DiskBus::Sata) && !builder.machine_is("q35") {
        builder.json("-device", &json!({"driver": "ahci", "id": "sata0"}));
    }
    if uses(DiskBus::Ide) && builder.machine_is("q35") {
        return Err(PlanError::Contradiction("a q35 machine has no IDE bus; use bus='sata' or bus='virtio'".into()));
    }
    Ok(())
}

/// The block nodes of a disk; none for an empty drive.
fn node(builder: &mut Builder, disk: &Disk, index: usize) -> Result<Option<String>, PlanError> {
    if !matches!(disk.disk_type, DiskType::File | DiskType::Block) {
        let what = format!("<disk type='{}'> ({})", disk.disk_type.as_str(), disk_name(disk));
        return Err(PlanError::Unsupported { what });
    }
    let Some(path) = disk.source_path() else {
        return match disk.device {
            DiskDevice::Cdrom | DiskDevice::Floppy => Ok(None),
            _ => Err(PlanError::Contradiction(format!("{} has no source", disk_name(disk)))),
        };
    };
    if disk.transient {
        return Err(PlanError::Unsupported { what: format!("<transient/> of {}", disk_name(disk)) });
    }
    let format = match disk.driver.format {
        // Never guessed from the content: a guest could write another format's header into its raw disk.
        None | Some(DiskFormat::Raw | DiskFormat::Iso) => "raw",
        Some(DiskFormat::Qcow2) => "qcow2",
        Some(other) => {
            let what = format!("format '{}' of {}", other.as_str(), disk_name(disk));
            return Err(PlanError::Unsupported { what });
        }
    };
    let writable = !(disk.readonly || disk.device == DiskDevice::Cdrom);
    let what = disk_name(disk);
    let fd = builder.file(File { path: path.into(), writable, what, shareable: disk.shareable || !writable });
    let set = i32::try_from(index).unwrap_or(i32::MAX);
    let (file, name) = (format!("disk{index}-file"), format!("disk{index}"));
    let cache = cache(disk.driver.cache);
    let discard = disk.driver.discard.map(|d| if d == DiskDiscard::Unmap { "unmap" } else { "ignore" });
    let aio = disk.driver.io.map(|io| io.as_str()).filter(|io| *io != "default");
    let properties = json!({
        "driver": if disk.disk_type == DiskType::Block { "host_device" } else { "file" },
        "node-name": file, "read-only": !writable, "cache": cache, "discard": discard, "aio": aio,
        // Guests that share a disk on purpose do not lock each other out.
        "locking": disk.shareable.then_some("off"),
    });
    fd_node(builder, set, fd, properties);
    let top = json!({
        "driver": format, "file": file, "node-name": name, "read-only": !writable, "cache": cache, "discard": discard,
    });
    builder.json("-blockdev", &without_nulls(top));
    Ok(Some(name))
}

fn cache(cache: Option<DiskCache>) -> Value {
    match cache {
        None | Some(DiskCache::Default | DiskCache::Writethrough | DiskCache::Writeback) => Value::Null,
        Some(DiskCache::None | DiskCache::Directsync) => json!({"direct": true, "no-flush": false}),
        Some(DiskCache::Unsafe) => json!({"direct": false, "no-flush": true}),
    }
}

fn device(builder: &mut Builder, disk: &Disk, drive: Option<&str>, boot: Option<u32>) -> Result<(), PlanError> {
    let dev = disk.target.dev.as_str();
    let unit = unit(dev).ok_or_else(|| PlanError::Contradiction(format!("'{dev}' is no name of a disk")))?;
    let cdrom = disk.device == DiskDevice::Cdrom;
    let kind = |disk: &str, cd: &str| if cdrom { cd.to_string() } else { disk.to_string() };
    let (driver, bus, place) = match disk.target.bus {
        DiskBus::Virtio if cdrom => {
            return Err(PlanError::Contradiction(format!("{dev}: a CD-ROM cannot be on the virtio bus")));
        }
        DiskBus::Virtio => (format!("virtio-blk-{}", builder.virtio), None, None),
        DiskBus::Ide => (kind("ide-hd", "ide-cd"), Some(format!("ide.{}", unit / 2)), Some(unit % 2)),
        DiskBus::Sata if builder.machine_is("q35") => (kind("ide-hd", "ide-cd"), Some(format!("ide.{unit}")), None),
        DiskBus::Sata => (kind("ide-hd", "ide-cd"), Some(format!("sata0.{unit}")), None),
        DiskBus::Scsi => (kind("scsi-hd", "scsi-cd"), Some("scsi0.0".into()), None),
        DiskBus::Usb => ("usb-storage".into(), Some("usb0.0".into()), None),
        DiskBus::Fdc => ("floppy".into(), None, Some(unit)),
        other => {
            return Err(PlanError::Unsupported { what: format!("bus '{}' of {}", other.as_str(), disk_name(disk)) });
        }
    };
    let scsi_id = (disk.target.bus == DiskBus::Scsi).then_some(unit);
    let write_cache = match disk.driver.cache {
        Some(DiskCache::Writethrough | DiskCache::Directsync) if !cdrom => Some("off"),
        _ => None,
    };
    let properties = json!({
        "driver": driver, "id": format!("{}-disk-{dev}", disk.target.bus.as_str()), "drive": drive, "bus": bus, "unit": place,
        "scsi-id": scsi_id, "bootindex": boot, "serial": disk.serial, "write-cache": write_cache,
        "share-rw": disk.shareable.then_some(true),
    });
    builder.json("-device", &without_nulls(properties));
    Ok(())
}

/// The number in a device name: `vda` 0, `sdb` 1, `hdaa` 26.
fn unit(dev: &str) -> Option<u32> {
    let letters = dev.strip_prefix("xvd").or_else(|| dev.get(2..)).filter(|letters| !letters.is_empty())?;
    letters
        .bytes()
        .try_fold(0u32, |number, letter| {
            let digit = u32::from(letter.is_ascii_lowercase().then(|| letter - b'a')?);
            number.checked_mul(26)?.checked_add(digit + 1)
        })?
        .checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::unit;

    #[test]
    fn device_names_count_like_the_kernel_s() {
        let cases = [
            ("vda", Some(0)),
            ("sdb", Some(1)),
            ("hdz", Some(25)),
            ("sdaa", Some(26)),
            ("xvdc", Some(2)),
            ("vd", None),
        ];
        for (name, number) in cases {
            assert_eq!(unit(name), number, "{name}");
        }
        assert_eq!(unit("vd1"), None);
        assert_eq!(unit("vdzzzzzzzzzzzzzzzz"), None);
    }
}
