//! The capabilities document: what the host is, and what each emulator that is installed can run.

use std::rc::Rc;

use api::{Answer, Error, ErrorCode, Outcome, Reply, remote};
use model::{
    Capabilities, DomainType, OsType,
    capabilities::{GuestArch, GuestFeature, Host, HostCpu, Machine},
};
use supervisor::protocol::Abilities;

use super::{Control, driver::Asked};
use crate::qemu::complete;

/// An architecture and the emulator that is installed for it.
struct Installed {
    arch: &'static str,
    emulator: String,
}

/// What has been found out so far.
type Found = Vec<(Installed, Rc<Abilities>)>;

impl Control {
    /// Answers with the capabilities, asking each emulator that has not been asked yet.
    pub(super) fn capabilities(&mut self, cx: &Asked) -> Answer<remote::ConnectGetCapabilitiesRet> {
        let asked = cx.later();
        let targets: Vec<_> = complete::architectures().filter_map(complete::target).collect();
        self.with_installed(targets, move |control, found| {
            let found = match found {
                Ok(found) => found,
                Err(error) => return control.answer(&asked, Err(error)),
            };
            let place = |target| found.iter().find(|(of, _)| *of == target).map(|(_, emulator)| emulator.clone());
            let installed = complete::architectures()
                .filter_map(|arch| Some(Installed { arch, emulator: place(complete::target(arch)?)? }));
            let mut waiting: Vec<Installed> = installed.collect();
            // Taken from the end.
            waiting.reverse();
            control.collect(asked, waiting, Vec::new());
        });
        Ok(Outcome::Pending)
    }

    fn collect(&mut self, asked: Asked, mut waiting: Vec<Installed>, mut found: Found) {
        let Some(next) = waiting.pop() else {
            let capabilities = self.describe(&found).to_xml();
            let reply = Reply::ConnectGetCapabilities(remote::ConnectGetCapabilitiesRet { capabilities });
            return self.answer(&asked, Ok((reply, Vec::new())));
        };
        let emulator = next.emulator.clone();
        let then = move |control: &mut Control, known: Result<Rc<Abilities>, Error>| {
            match known {
                Ok(abilities) => found.push((next, abilities)),
                // It is there, and its disk does not answer: a document without it would not be true.
                Err(error) if error.code == ErrorCode::OPERATION_TIMEOUT => return control.answer(&asked, Err(error)),
                // One emulator that does not start takes only itself out of the document.
                Err(error) => tracing::warn!("{}", error.full_text()),
            }
            control.collect(asked, waiting, found);
        };
        self.with_abilities(&emulator, Box::new(then));
    }

    fn describe(&self, found: &Found) -> Capabilities {
        let host = &self.host;
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Capabilities {
            host: Host {
                uuid: host.uuid,
                cpu: HostCpu {
                    arch: host.arch.clone(),
                    model: None,
                    vendor: text(&host.cpu_vendor),
                    topology: Some(model::CpuTopology {
                        sockets: host.sockets,
                        dies: Some(1),
                        clusters: None,
                        cores: host.cores,
                        threads: host.threads,
                    }),
                    ..HostCpu::default()
                },
                cells: host.cells.clone(),
                ..Host::default()
            },
            guests: found.iter().map(|(installed, abilities)| guest(installed, abilities)).collect(),
        }
    }
}

fn guest(installed: &Installed, abilities: &Abilities) -> GuestArch {
    let named = abilities.machines.iter().map(|machine| Machine {
        name: machine.name.clone(),
        canonical: None,
        max_cpus: Some(machine.max_cpus),
    });
    let aliased = abilities.machines.iter().filter_map(|machine| {
        let name = machine.alias.clone()?;
        Some(Machine { name, canonical: Some(machine.name.clone()), max_cpus: Some(machine.max_cpus) })
    });
    let mut domains = vec![DomainType::Qemu];
    if abilities.kvm_enabled {
        domains.push(DomainType::Kvm);
    }
    let x86 = matches!(installed.arch, "x86_64" | "i686");
    let acpi = GuestFeature { name: "acpi".into(), default: Some(true), toggle: Some(true) };
    GuestArch {
        os_type: OsType::Hvm,
        arch: installed.arch.into(),
        wordsize: if matches!(installed.arch, "i686" | "armv7l" | "armv6l" | "riscv32") { 32 } else { 64 },
        emulator: Some(installed.emulator.clone()),
        machines: named.chain(aliased).collect(),
        domains,
        features: if x86 { vec![acpi] } else { Vec::new() },
    }
}
