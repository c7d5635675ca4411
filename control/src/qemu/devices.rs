//! Devices other than disks, the CPU and the clock; and the refusal of what is not there yet.

use model::{ChardevType, ClockOffset, CpuMode, Domain, RawElement};
use serde_json::json;

use super::plan::{Builder, PlanError, disk_name, element};

/// Devices that the machine has anyway, or that change nothing a guest could miss.
const IMPLIED: [&str; 3] = ["controller", "input", "emulator"];
/// Devices that [`add`] makes.
const MADE: [&str; 3] = ["memballoon", "panic", "rng"];
/// Parts of a document outside of `devices` that change what a guest gets or is promised, and are not there yet.
const PROMISES: [&str; 14] = [
    "genid",
    "seclabel",
    "memoryBacking",
    "numatune",
    "cputune",
    "memtune",
    "blkiotune",
    "iothreads",
    "iothreadids",
    "launchSecurity",
    "keywrap",
    "sysinfo",
    "perf",
    "commandline",
];

/// Refuses a document that asks for more than this driver has.
pub(super) fn refuse_what_is_missing(domain: &Domain) -> Result<(), PlanError> {
    let refuse = |raw: &RawElement| Err(PlanError::Unsupported { what: element(raw) });
    let known = |raw: &&RawElement| !IMPLIED.contains(&raw.name.as_str()) && !MADE.contains(&raw.name.as_str());
    if let Some(raw) = domain.devices.other.iter().find(known) {
        return refuse(raw);
    }
    // A foreign namespace's element ("qemu:commandline") counts by its local name.
    let promise = |raw: &&RawElement| PROMISES.contains(&raw.name.rsplit(':').next().unwrap_or_default());
    if let Some(raw) = domain.rest.elements.iter().find(promise) {
        return refuse(raw);
    }
    for disk in &domain.devices.disks {
        let without_effect = |raw: &&RawElement| ["alias", "address"].contains(&raw.name.as_str());
        if let Some(raw) = disk.rest.elements.iter().find(|raw| !without_effect(raw)) {
            return Err(PlanError::Unsupported { what: format!("{} of {}", element(raw), disk_name(disk)) });
        }
    }
    // Switching off what is never on needs nothing.
    let off = |raw: &&RawElement| raw.attribute("state").as_deref() == Some("off");
    if let Some(raw) = domain.features.rest.elements.iter().find(|raw| !off(raw)) {
        return Err(PlanError::Unsupported { what: format!("{} in <features>", element(raw)) });
    }
    if let Some(raw) = domain.os.rest.elements.first() {
        return Err(PlanError::Unsupported { what: format!("{} in <os>", element(raw)) });
    }
    if let Some(raw) = domain.cpu.as_ref().and_then(|cpu| cpu.rest.elements.first()) {
        return Err(PlanError::Unsupported { what: format!("{} in <cpu>", element(raw)) });
    }
    if domain.os.loader.is_some() || domain.os.nvram.is_some() || domain.os.firmware == Some(model::Firmware::Efi) {
        return Err(PlanError::Unsupported { what: "UEFI firmware (<loader>, <nvram>, firmware='efi')".into() });
    }
    if let Some(cpuset) = &domain.vcpus.cpuset {
        return Err(PlanError::Unsupported { what: format!("<vcpu cpuset='{cpuset}'>") });
    }
    if let Some(max) = domain.max_memory {
        return Err(PlanError::Unsupported { what: format!("<maxMemory> of {} KiB (memory to plug in)", max.kib) });
    }
    Ok(())
}

/// The value of `-cpu`, unless QEMU's own default is meant.
pub(super) fn cpu(domain: &Domain, kvm: bool) -> Option<String> {
    let Some(cpu) = domain.cpu.as_ref() else {
        return (domain.os.arch.as_deref() == Some("i686")).then(|| "qemu32".into());
    };
    match cpu.mode {
        Some(CpuMode::HostPassthrough | CpuMode::HostModel) => Some(if kvm { "host" } else { "max" }.into()),
        Some(CpuMode::Maximum) => Some("max".into()),
        Some(CpuMode::Custom) | None => {
            // Checked to be one when the document was completed.
            cpu.model.as_ref()?.name.clone()
        }
    }
}

/// The value of `-rtc`.
pub(super) fn clock(domain: &Domain) -> String {
    match domain.clock.offset {
        ClockOffset::Localtime => "base=localtime".into(),
        _ => "base=utc".into(),
    }
}

/// Adds serial ports, consoles and the small devices.
pub(super) fn add(builder: &mut Builder, domain: &Domain) -> Result<(), PlanError> {
    serials(builder, domain)?;
    consoles(builder, domain)?;
    for raw in &domain.devices.other {
        match raw.name.as_str() {
            "memballoon" if raw.attribute("model").as_deref() != Some("none") => {
                let driver = format!("virtio-balloon-{}", builder.virtio);
                builder.json("-device", &json!({"driver": driver, "id": "balloon0"}));
            }
            "panic" => builder.json("-device", &json!({"driver": "pvpanic"})),
            "rng" => {
                builder.arg("-object", "rng-builtin,id=objrng0");
                let driver = format!("virtio-rng-{}", builder.virtio);
                builder.json("-device", &json!({"driver": driver, "rng": "objrng0", "id": "rng0"}));
            }
            _ => {}
        }
    }
    Ok(())
}

fn serials(builder: &mut Builder, domain: &Domain) -> Result<(), PlanError> {
    for (index, serial) in domain.devices.serials.iter().enumerate() {
        check_kind(serial.chardev_type, "serial")?;
        let id = format!("serial{index}");
        let fd = builder.console()?;
        builder.arg("-chardev", format!("socket,id={id},fd={fd}"));
        if matches!(domain.os.arch.as_deref(), Some("x86_64" | "i686")) && builder.machine != "microvm" {
            builder.json("-device", &json!({"driver": "isa-serial", "chardev": id, "index": index}));
        } else {
            builder.arg("-serial", format!("chardev:{id}"));
        }
    }
    Ok(())
}

/// The first console is the first serial port seen from the other side; virtio consoles are devices of their own.
fn consoles(builder: &mut Builder, domain: &Domain) -> Result<(), PlanError> {
    let is_virtio =
        |console: &&model::Chardev| console.target.as_ref().and_then(|t| t.target_type.as_deref()) == Some("virtio");
    for (index, console) in domain.devices.consoles.iter().filter(is_virtio).enumerate() {
        check_kind(console.chardev_type, "console")?;
        if index == 0 {
            let driver = format!("virtio-serial-{}", builder.virtio);
            builder.json("-device", &json!({"driver": driver, "id": "virtio-serial0"}));
        }
        let id = format!("console{index}");
        let fd = builder.console()?;
        builder.arg("-chardev", format!("socket,id={id},fd={fd}"));
        builder.json("-device", &json!({"driver": "virtconsole", "chardev": id, "id": id}));
    }
    Ok(())
}

/// `pty` means: a console that clients attach to. Ours is a ring in the supervisor; no pseudo-terminal exists.
fn check_kind(kind: ChardevType, what: &str) -> Result<(), PlanError> {
    match kind {
        ChardevType::Pty => Ok(()),
        other => Err(PlanError::Unsupported { what: format!("<{what} type='{}'>", other.as_str()) }),
    }
}
