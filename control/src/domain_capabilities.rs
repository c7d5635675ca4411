//! What a guest may have of one emulator, one machine type and one way to run it; a document in QEMU's own words; and the
//! CPU models that there are.

use api::{Answer, Error, ErrorCode, Outcome, Reply, remote};
use model::{Domain, DomainType};
use supervisor::protocol::{Abilities, Machine};

use super::{
    Control,
    driver::{Asked, only},
    emulators::Known,
    errors,
};
use crate::qemu::{complete, plan};

/// What is asked for, with what was left open filled in.
struct Question {
    emulator: String,
    arch: String,
    machine: Option<String>,
    kind: Option<DomainType>,
}

impl Control {
    /// Answers with the document of what a guest may have.
    pub(super) fn domain_capabilities(
        &mut self,
        cx: &mut Asked,
        args: &remote::ConnectGetDomainCapabilitiesArgs,
    ) -> Answer<remote::ConnectGetDomainCapabilitiesRet> {
        // libvirt's later bit, which leaves out features that are deprecated, changes nothing here: none is listed.
        only(args.flags, 0x1, "virConnectGetDomainCapabilities")?;
        let arch = args.arch.clone().unwrap_or_else(|| self.host.arch.clone());
        let target = complete::target(&arch).ok_or_else(|| errors::invalid(format!("unknown architecture: {arch}")))?;
        let kind = args.virttype.as_deref().map(kind_of).transpose()?;
        let (asked, machine) = (cx.later(), args.machine.clone());
        let ask = move |control: &mut Control, emulator: Result<String, Error>| {
            let emulator = match emulator {
                Ok(emulator) => emulator,
                Err(error) => return control.answer(&asked, Err(error)),
            };
            let question = Question { emulator: emulator.clone(), arch, machine, kind };
            let then = move |control: &mut Control, known: Known| {
                let result = known.and_then(|abilities| describe(&question, &abilities));
                let reply = |capabilities| {
                    Reply::ConnectGetDomainCapabilities(remote::ConnectGetDomainCapabilitiesRet { capabilities })
                };
                control.answer(&asked, result.map(|text| (reply(text), Vec::new())));
            };
            control.with_abilities(&emulator, Box::new(then));
        };
        match args.emulatorbin.clone() {
            Some(emulator) => ask(self, Ok(emulator)),
            None => self.with_emulator(target, ask),
        }
        Ok(Outcome::Pending)
    }

    /// The CPU models that the emulator of an architecture has, in QEMU's names.
    pub(super) fn cpu_models(
        &mut self,
        cx: &mut Asked,
        args: &remote::ConnectGetCpuModelNamesArgs,
    ) -> Answer<remote::ConnectGetCpuModelNamesRet> {
        only(args.flags, 0, "virConnectGetCPUModelNames")?;
        let target = complete::target(&args.arch)
            .ok_or_else(|| errors::invalid(format!("cannot find architecture {}", args.arch)))?;
        let (asked, wanted) = (cx.later(), args.need_results != 0);
        let then = move |control: &mut Control, known: Known| {
            let result = known.map(|abilities| {
                let ret = i32::try_from(abilities.cpus.len()).unwrap_or(i32::MAX);
                let models = if wanted { abilities.cpus.clone() } else { Vec::new() };
                let ret = remote::ConnectGetCpuModelNamesRet { models, ret };
                (Reply::ConnectGetCpuModelNames(ret), Vec::new())
            });
            control.answer(&asked, result);
        };
        self.with_abilities_of(target, Box::new(then));
        Ok(Outcome::Pending)
    }

    /// The argument vector that a document becomes. Its files are descriptors there, which only a start makes.
    pub(super) fn native_form(
        &mut self,
        cx: &mut Asked,
        args: &remote::ConnectDomainXmlToNativeArgs,
    ) -> Answer<remote::ConnectDomainXmlToNativeRet> {
        only(args.flags, 0, "virConnectDomainXMLToNative")?;
        if args.native_format != "qemu-argv" {
            return Err(errors::invalid(format!("unsupported config type {}", args.native_format)));
        }
        let parsed = Domain::parse(&args.domain_xml).map_err(|error| errors::xml(&error))?;
        let mut domain = parsed.value;
        domain.forget_live();
        let emulator = complete::complete_emulator(&mut domain, &self.host.arch)
            .map_err(|error| errors::plan(&domain.name, &error))?;
        let asked = cx.later();
        let then = move |control: &mut Control, known: Known| {
            let planned = known.and_then(|abilities| {
                complete::complete(&mut domain, &abilities)
                    .and_then(|()| plan::plan(&domain, false))
                    .map_err(|error| errors::plan(&domain.name, &error))
            });
            let result = planned.map(|plan| {
                let native_config = command_line(&plan.argv);
                let ret = remote::ConnectDomainXmlToNativeRet { native_config };
                (Reply::ConnectDomainXmlToNative(ret), Vec::new())
            });
            control.answer(&asked, result);
        };
        self.with_abilities(&emulator, Box::new(then));
        Ok(Outcome::Pending)
    }
}

fn kind_of(name: &str) -> Result<DomainType, Error> {
    match name {
        "qemu" => Ok(DomainType::Qemu),
        "kvm" => Ok(DomainType::Kvm),
        other => Err(errors::invalid(format!("the QEMU driver does not support virt type '{other}'"))
            .with_hint("the types are 'qemu' and 'kvm'")),
    }
}

fn describe(question: &Question, abilities: &Abilities) -> Result<String, Error> {
    let Question { emulator, arch, .. } = question;
    if complete::target(arch) != Some(abilities.target.as_str()) {
        let text = format!("Emulator '{emulator}' does not support arch '{arch}'");
        return Err(errors::invalid(text));
    }
    if question.kind == Some(DomainType::Kvm) && !abilities.kvm_enabled {
        return Err(errors::invalid(format!("Emulator '{emulator}' does not support virt type 'kvm'"))
            .with_hint("KVM is not usable on this host; the type 'qemu' needs none"));
    }
    let kvm = question.kind.map_or(abilities.kvm_enabled, |kind| kind == DomainType::Kvm);
    let machine = machine(question, abilities)?;
    Ok(document(question, abilities, machine, kvm))
}

fn machine<'a>(question: &Question, abilities: &'a Abilities) -> Result<&'a Machine, Error> {
    let machines = &abilities.machines;
    match &question.machine {
        Some(name) => {
            let found = machines.iter().find(|m| m.name == *name || m.alias.as_deref() == Some(name));
            let unknown = || format!("the machine '{name}' is not supported by emulator '{}'", question.emulator);
            found.ok_or_else(|| errors::invalid(unknown()))
        }
        None => {
            // As a definition without one is completed.
            let mut domain = Domain::new(DomainType::Qemu, "any", 1024, 1, &question.arch);
            domain.devices.emulator = Some(question.emulator.clone());
            complete::complete(&mut domain, abilities).map_err(|error| errors::plan(&domain.name, &error))?;
            let name = domain.os.machine.unwrap_or_default();
            let found = machines.iter().find(|machine| machine.name == name);
            found.ok_or_else(|| errors::told(ErrorCode::INTERNAL_ERROR, "internal error: a machine without a name"))
        }
    }
}

/// The document. What it does not name, this driver does not have.
fn document(question: &Question, abilities: &Abilities, machine: &Machine, kvm: bool) -> String {
    let mut out = Lines::default();
    out.open("domainCapabilities");
    out.leaf("path", &question.emulator);
    out.leaf("domain", if kvm { "kvm" } else { "qemu" });
    out.leaf("machine", &machine.name);
    out.leaf("arch", &question.arch);
    out.line(&format!("<vcpu max='{}'/>", machine.max_cpus));
    out.line("<iothreads supported='no'/>");
    out.open("os supported='yes'");
    out.line("<loader supported='no'/>");
    out.close("os");
    out.open("cpu");
    out.line(&format!("<mode name='host-passthrough' supported='{}'/>", if kvm { "yes" } else { "no" }));
    out.line("<mode name='maximum' supported='yes'/>");
    out.line("<mode name='host-model' supported='no'/>");
    out.open("mode name='custom' supported='yes'");
    for cpu in &abilities.cpus {
        out.leaf_with("model", "usable='unknown'", cpu);
    }
    out.close("mode");
    out.close("cpu");
    out.open("devices");
    out.open("disk supported='yes'");
    out.values("diskDevice", &["disk", "cdrom", "floppy"]);
    let x86 = matches!(question.arch.as_str(), "x86_64" | "i686");
    let buses: &[&str] =
        if x86 { &["ide", "fdc", "scsi", "virtio", "usb", "sata"] } else { &["scsi", "virtio", "usb", "sata"] };
    out.values("bus", buses);
    out.close("disk");
    for absent in ["graphics", "video", "hostdev"] {
        out.line(&format!("<{absent} supported='no'/>"));
    }
    out.open("rng supported='yes'");
    out.values("model", &["virtio"]);
    out.values("backendModel", &["builtin"]);
    out.close("rng");
    for absent in ["filesystem", "tpm", "redirdev", "channel"] {
        out.line(&format!("<{absent} supported='no'/>"));
    }
    out.close("devices");
    out.open("features");
    for absent in ["gic", "vmcoreinfo", "genid", "backingStoreInput", "backup", "sev"] {
        out.line(&format!("<{absent} supported='no'/>"));
    }
    out.close("features");
    out.close("domainCapabilities");
    out.text
}

/// A document in the making.
#[derive(Default)]
struct Lines {
    text: String,
    depth: usize,
}

impl Lines {
    fn line(&mut self, line: &str) {
        self.text.push_str(&"  ".repeat(self.depth));
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn open(&mut self, tag: &str) {
        self.line(&format!("<{tag}>"));
        self.depth += 1;
    }

    fn close(&mut self, name: &str) {
        self.depth = self.depth.saturating_sub(1);
        self.line(&format!("</{name}>"));
    }

    fn leaf(&mut self, name: &str, text: &str) {
        self.line(&format!("<{name}>{}</{name}>", escaped(text)));
    }

    fn leaf_with(&mut self, name: &str, attributes: &str, text: &str) {
        self.line(&format!("<{name} {attributes}>{}</{name}>", escaped(text)));
    }

    fn values(&mut self, name: &str, values: &[&str]) {
        self.open(&format!("enum name='{name}'"));
        for value in values {
            self.leaf("value", value);
        }
        self.close("enum");
    }
}

/// A text between tags; characters that XML cannot hold are left out.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// An argument vector as a shell would take it.
fn command_line(argv: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+@%".contains(c);
    let word = |word: &String| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    argv.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abilities() -> Abilities {
        let machine = |name: &str, alias: Option<&str>, default| Machine {
            name: name.into(),
            alias: alias.map(Into::into),
            default,
            max_cpus: 255,
            deprecated: false,
        };
        Abilities {
            target: "x86_64".into(),
            machines: vec![machine("pc-i440fx-7.2", Some("pc"), true), machine("pc-q35-7.2", Some("q35"), false)],
            cpus: vec!["qemu64".into()],
            ..Abilities::default()
        }
    }

    fn question(machine: Option<&str>, kind: Option<DomainType>) -> Question {
        let emulator = "/a&b/qemu-system-x86_64".into();
        Question { emulator, arch: "x86_64".into(), machine: machine.map(Into::into), kind }
    }

    #[test]
    fn the_document_is_one_and_names_what_was_left_open() {
        let text = describe(&question(None, None), &abilities()).unwrap();
        for part in [
            "<path>/a&amp;b/qemu-system-x86_64</path>",
            "<domain>qemu</domain>",
            "<machine>pc-i440fx-7.2</machine>",
            "<vcpu max='255'/>",
            "<model usable='unknown'>qemu64</model>",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let opened = text.matches("<enum ").count();
        assert_eq!(opened, text.matches("</enum>").count());
        assert!(text.ends_with("</domainCapabilities>\n"));
        assert!(describe(&question(Some("q35"), None), &abilities()).unwrap().contains("<machine>pc-q35-7.2<"));
    }

    #[test]
    fn what_the_emulator_does_not_have_is_refused() {
        let code = |question: &Question| describe(question, &abilities()).unwrap_err().code;
        assert_eq!(code(&question(Some("nomach"), None)), ErrorCode::INVALID_ARG);
        assert_eq!(code(&question(None, Some(DomainType::Kvm))), ErrorCode::INVALID_ARG);
        assert_eq!(code(&Question { arch: "aarch64".into(), ..question(None, None) }), ErrorCode::INVALID_ARG);
        assert_eq!(kind_of("xen").unwrap_err().code, ErrorCode::INVALID_ARG);
    }

    #[test]
    fn a_command_line_is_read_back_by_a_shell_as_it_was() {
        let argv = ["/bin/q".to_owned(), "-device".into(), "{\"a\":1}".into(), "it's".into(), String::new()];
        assert_eq!(command_line(&argv), r#"/bin/q -device '{"a":1}' 'it'\''s' ''"#);
    }
}
