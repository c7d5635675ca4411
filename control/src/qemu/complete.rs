//! What a document leaves open, filled in when it is defined, so that it means the same at every start: emulator,
//! architecture, and the machine type under its versioned name.

use model::{Chardev, CpuMode, Disk, DiskIo, Domain, DomainType};
use supervisor::protocol::Abilities;

use super::plan::{PlanError, disk_name};

/// libvirt's names of architectures and QEMU's, where there is an emulator.
const ARCHITECTURES: [(&str, &str); 12] = [
    ("x86_64", "x86_64"),
    // Its own emulator is a script around this one where it exists at all, and differs in the CPU that it takes by default.
    ("i686", "x86_64"),
    ("aarch64", "aarch64"),
    ("armv7l", "arm"),
    ("armv6l", "arm"),
    ("riscv64", "riscv64"),
    ("riscv32", "riscv32"),
    ("ppc64", "ppc64"),
    ("ppc64le", "ppc64"),
    ("s390x", "s390x"),
    ("loongarch64", "loongarch64"),
    ("mips64el", "mips64el"),
];

/// The architectures that QEMU has an emulator for, by libvirt's names.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|(name, _)| *name)
}

/// QEMU's name of one of libvirt's architectures.
#[must_use]
pub fn target(arch: &str) -> Option<&'static str> {
    ARCHITECTURES.iter().find(|(name, _)| *name == arch).map(|(_, target)| *target)
}

/// Fills in architecture and emulator: what must be known before the emulator can be asked.
///
/// # Errors
/// When another driver runs such guests, or no emulator is known for the architecture.
pub fn complete_emulator(domain: &mut Domain, host_arch: &str) -> Result<String, PlanError> {
    if !matches!(domain.domain_type, DomainType::Qemu | DomainType::Kvm) {
        return Err(PlanError::DomainType(domain.domain_type.as_str()));
    }
    let arch = domain.os.arch.get_or_insert_with(|| host_arch.to_owned());
    let target = target(arch)
        .ok_or_else(|| PlanError::Arch { arch: arch.clone(), known: ARCHITECTURES.map(|(name, _)| name).to_vec() })?;
    let emulator = domain.devices.emulator.get_or_insert_with(|| format!("/usr/bin/qemu-system-{target}"));
    Ok(emulator.clone())
}

/// Fills in the rest, with what the emulator has said of itself.
///
/// # Errors
/// When the emulator is for another architecture or lacks the machine type.
pub fn complete(domain: &mut Domain, abilities: &Abilities) -> Result<(), PlanError> {
    let emulator = domain.devices.emulator.clone().unwrap_or_default();
    let arch = domain.os.arch.clone().unwrap_or_default();
    if target(&arch) != Some(abilities.target.as_str()) {
        return Err(PlanError::OtherArch { emulator, target: abilities.target.clone(), arch });
    }
    let asked = domain.os.machine.as_deref();
    let found = match asked {
        Some(name) => {
            let is = |m: &&supervisor::protocol::Machine| m.name == name || m.alias.as_deref() == Some(name);
            abilities.machines.iter().find(is)
        }
        None => abilities.machines.iter().find(|m| m.default).or_else(|| virt(abilities)),
    };
    let machine = match (found, asked) {
        (Some(machine), _) => machine.name.clone(),
        (None, None) => return Err(PlanError::NoDefaultMachine { emulator }),
        (None, Some(name)) => {
            return Err(PlanError::Machine { emulator, machine: name.into(), similar: similar(name, abilities) });
        }
    };
    check_cpu_model(domain, abilities, &emulator)?;
    let io_uring = |disk: &&Disk| disk.driver.io == Some(DiskIo::IoUring);
    if let Some(disk) = domain.devices.disks.iter().find(io_uring) {
        return Err(PlanError::IoUring(disk_name(disk)));
    }
    domain.os.machine = Some(machine);
    complete_consoles(domain);
    Ok(())
}

/// Rounds the memory of a run up to a whole MiB, as libvirt's QEMU driver does at a start and not at a definition: observed
/// with libvirt 9.0 on `x86_64`, where `dumpxml` of a definition of 1500 KiB says 1500 and that of its run 2048.
pub fn round_memory(domain: &mut Domain) {
    const MIB: u64 = 1024;
    let is_full = domain.current_memory_kib == domain.memory_kib;
    let Some(whole) = domain.memory_kib.checked_next_multiple_of(MIB) else { return };
    domain.memory_kib = whole;
    if is_full {
        domain.current_memory_kib = whole;
    }
}

/// `-cpu` takes features after the model, and commas in it can't be doubled: the model has to be a name, and one that the
/// emulator has, if it said which it has.
fn check_cpu_model(domain: &Domain, abilities: &Abilities, emulator: &str) -> Result<(), PlanError> {
    // The other modes name no model to the emulator, whatever the document says.
    let custom = domain.cpu.as_ref().filter(|cpu| matches!(cpu.mode, None | Some(CpuMode::Custom)));
    let Some(model) = custom.and_then(|cpu| cpu.model.as_ref()?.name.as_deref()) else { return Ok(()) };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_name = !model.is_empty() && model.bytes().all(allowed);
    let is_known = abilities.cpus.is_empty() || abilities.cpus.iter().any(|known| known == model);
    if is_name && is_known {
        return Ok(());
    }
    Err(PlanError::CpuModel { emulator: emulator.into(), model: model.into() })
}

/// Arm and RISC-V QEMUs name no default; `virt` is the machine that every guest made for them runs on.
fn virt(abilities: &Abilities) -> Option<&supervisor::protocol::Machine> {
    abilities.machines.iter().find(|m| m.alias.as_deref() == Some("virt") || m.name == "virt")
}

fn similar(name: &str, abilities: &Abilities) -> Vec<String> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-').to_ascii_lowercase();
    let alike = |m: &&supervisor::protocol::Machine| !stem.is_empty() && m.name.contains(&stem);
    abilities.machines.iter().filter(alike).map(|m| m.name.clone()).rev().take(5).collect()
}

/// A console that is not virtio is the other side of a serial port; libvirt's documents may name either or both.
fn complete_consoles(domain: &mut Domain) {
    let devices = &mut domain.devices;
    let serial_console = |console: &Chardev| {
        console.target.as_ref().and_then(|t| t.target_type.as_deref()).unwrap_or("serial") == "serial"
    };
    if devices.serials.is_empty() && devices.consoles.first().is_some_and(serial_console) {
        devices.serials.push(Chardev::pty("isa-serial", 0));
    }
    if devices.consoles.is_empty() && !devices.serials.is_empty() {
        devices.consoles.push(Chardev::pty("serial", 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_whole_mebibytes() {
        for (memory, current, expected) in
            [(1, 1, (1024, 1024)), (1024, 1024, (1024, 1024)), (1500, 1400, (2048, 1400)), (65_536, 1, (65_536, 1))]
        {
            let mut domain = Domain::new(DomainType::Qemu, "t", memory, 1, "x86_64");
            domain.current_memory_kib = current;
            round_memory(&mut domain);
            assert_eq!((domain.memory_kib, domain.current_memory_kib), expected);
        }
    }
}
