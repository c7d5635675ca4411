//! Documents and the argument vectors that they become, as golden files; and documents that are refused, with the words.
//!
//! `REGENERATE_ARGV=1 cargo test -p qemud --test plan` writes the golden files anew; review what changed.

#![allow(clippy::unwrap_used)] // Helpers of tests are not marked as tests.

use std::{fs, path::Path};

use control::qemu::{
    complete::{complete, complete_emulator},
    plan::{Plan, PlanError, plan, probe_argv},
};
use model::Domain;
use supervisor::protocol::{Abilities, Machine};

fn abilities(target: &str) -> Abilities {
    let machine = |name: &str, alias: Option<&str>, default| Machine {
        name: name.into(),
        alias: alias.map(String::from),
        default,
        max_cpus: 255,
        deprecated: false,
    };
    Abilities {
        version: (7, 2, 22),
        target: target.into(),
        machines: vec![
            machine("pc-i440fx-7.2", Some("pc"), target == "x86_64"),
            machine("pc-q35-7.2", Some("q35"), false),
            machine("pc-q35-7.1", None, false),
            machine("microvm", None, false),
            machine("virt-7.2", Some("virt"), false),
        ],
        kvm_present: true,
        kvm_enabled: true,
        ..Abilities::default()
    }
}

fn planned(xml: &str) -> Result<Plan, PlanError> {
    let mut domain = Domain::parse(xml).unwrap().value;
    complete_emulator(&mut domain, "x86_64")?;
    let target = if domain.os.arch.as_deref() == Some("aarch64") { "aarch64" } else { "x86_64" };
    complete(&mut domain, &abilities(target))?;
    plan(&domain, false)
}

/// One option a line, with its value; then the files.
fn text(plan: &Plan) -> String {
    let mut lines = String::new();
    for (index, word) in plan.argv.iter().enumerate() {
        let option = index == 0 || word.starts_with('-') && !word.contains(' ');
        let separator = if index == 0 {
            ""
        } else if option {
            "\n"
        } else {
            " "
        };
        lines.push_str(separator);
        lines.push_str(word);
    }
    lines.push('\n');
    for file in &plan.files {
        let access = if file.writable { "read-write" } else { "read-only" };
        let shared = if file.shareable { ", shareable" } else { "" };
        lines.push_str(&format!("# file {}: {} ({access}{shared})\n", file.path, file.what));
    }
    for copy in &plan.copies {
        lines.push_str(&format!("# file {} is copied as {}\n", copy.file, copy.name));
    }
    lines.push_str(&format!("# consoles: {}\n", plan.consoles));
    lines
}

#[test]
fn documents_become_the_argument_vectors_that_were_reviewed() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan");
    let mut checked = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "xml") {
            continue;
        }
        let found = text(&planned(&fs::read_to_string(&path).unwrap()).unwrap());
        let golden = path.with_extension("args");
        if std::env::var_os("REGENERATE_ARGV").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        assert_eq!(found, fs::read_to_string(&golden).unwrap(), "{}", golden.display());
        checked += 1;
    }
    assert!(checked >= 5, "only {checked} documents");
}

/// A document with these devices and this machine.
fn document(machine: &str, devices: &str) -> String {
    format!(
        "<domain type='qemu'><name>g</name><uuid>00000000-0000-0000-0000-000000000001</uuid><memory unit='MiB'>64</memory>\n\
         <vcpu>1</vcpu><os><type arch='x86_64' machine='{machine}'>hvm</type></os>\n<devices>\n{devices}\n</devices></domain>"
    )
}

fn refusal(xml: &str) -> String {
    planned(xml).unwrap_err().to_string()
}

#[test]
fn what_is_missing_is_refused_by_name_and_place() {
    let cases = [
        ("<interface type='network'><source network='default'/></interface>", "<interface> (line 4) is not supported"),
        ("<hostdev mode='subsystem' type='usb'/>", "<hostdev> (line 4) is not supported"),
        ("<graphics type='vnc'/>", "<graphics> (line 4) is not supported"),
        ("<serial type='file'><source path='/x'/></serial>", "<serial type='file'> is not supported"),
        (
            "<disk type='network' device='disk'><source protocol='rbd' name='x'/><target dev='vda' bus='virtio'/></disk>",
            "<disk type='network'> (disk vda) is not supported",
        ),
        (
            "<disk type='file'><driver name='qemu' type='vmdk'/><source file='/x'/><target dev='vda' bus='virtio'/></disk>",
            "format 'vmdk' of disk vda is not supported",
        ),
        (
            "<disk type='file' device='cdrom'><source file='/x'/><target dev='vda' bus='virtio'/></disk>",
            "vda: a CD-ROM cannot be on the virtio bus",
        ),
        (
            "<disk type='file'><source file='/x'/><target dev='vda' bus='virtio'/>\
             <iotune><total_iops_sec>5</total_iops_sec></iotune></disk>",
            "<iotune> (line 4) of disk vda is not supported",
        ),
    ];
    for (devices, expected) in cases {
        let found = refusal(&document("pc", devices));
        assert!(found.starts_with(expected), "{found}");
    }
    let ide = "<disk type='file'><source file='/x'/><target dev='hda' bus='ide'/></disk>";
    assert!(planned(&document("pc", ide)).is_ok());
    assert!(refusal(&document("q35", ide)).contains("no IDE bus"));
}

#[test]
fn what_is_off_or_implied_needs_nothing() {
    let devices = "<controller type='usb' index='0'/><input type='mouse' bus='ps2'/><memballoon model='none'/>";
    let plan = planned(&document("pc", devices)).unwrap();
    assert!(!plan.argv.iter().any(|word| word.contains("balloon") || word.contains("usb")), "{:?}", plan.argv);
}

#[test]
fn machines_are_pinned_and_unknown_ones_named_with_their_like() {
    let mut domain = Domain::parse(&document("q35", "")).unwrap().value;
    complete_emulator(&mut domain, "x86_64").unwrap();
    complete(&mut domain, &abilities("x86_64")).unwrap();
    assert_eq!(domain.os.machine.as_deref(), Some("pc-q35-7.2"));
    assert_eq!(domain.devices.emulator.as_deref(), Some("/usr/bin/qemu-system-x86_64"));

    let error = planned(&document("pc-q35-99.9", "")).unwrap_err();
    assert_eq!(error.to_string(), "emulator '/usr/bin/qemu-system-x86_64' has no machine type 'pc-q35-99.9'");
    assert_eq!(error.hint().unwrap(), "similar machine types: pc-q35-7.1, pc-q35-7.2");
}

#[test]
fn an_architecture_and_its_emulator_must_fit() {
    let xml = document("pc", "").replace("x86_64", "pdp11");
    assert!(refusal(&xml).starts_with("architecture 'pdp11' is not known; those that QEMU emulates are x86_64, i686"));
    let mut domain = Domain::parse(&document("pc", "")).unwrap().value;
    complete_emulator(&mut domain, "x86_64").unwrap();
    assert!(matches!(complete(&mut domain, &abilities("aarch64")), Err(PlanError::OtherArch { .. })));
    let lxc = document("pc", "").replace("type='qemu'", "type='lxc'").replacen("hvm", "exe", 1);
    assert_eq!(refusal(&lxc), "a domain of type 'lxc' is not run by the QEMU driver");
}

#[test]
fn a_name_cannot_become_an_option() {
    let xml = document("pc", "").replace("<name>g</name>", "<name>a,debug-threads=off</name>");
    let plan = planned(&xml).unwrap();
    assert!(plan.argv.contains(&"guest=a,,debug-threads=off,debug-threads=on".to_string()), "{:?}", plan.argv);
}

#[test]
fn a_cpu_model_is_one_of_the_emulator_and_nothing_more() {
    let with_model = |model: &str| {
        document("pc", "").replace("<devices>", &format!("<cpu mode='custom'><model>{model}</model></cpu><devices>"))
    };
    let cpu = |plan: Plan| plan.argv.windows(2).find(|pair| pair[0] == "-cpu").map(|pair| pair[1].clone());
    assert_eq!(cpu(planned(&with_model("qemu64")).unwrap()).as_deref(), Some("qemu64"));
    for model in ["qemu64,+vmx", "qemu64,,+vmx", "qemu64,hv-vendor-id=x", "qemu64 -S", "a=b", "a/b", "\u{e9}"] {
        let found = refusal(&with_model(model));
        assert_eq!(found, format!("emulator '/usr/bin/qemu-system-x86_64' has no CPU model '{model}'"));
    }
    let mut domain = Domain::parse(&with_model("qemu64")).unwrap().value;
    complete_emulator(&mut domain, "x86_64").unwrap();
    let known = Abilities { cpus: vec!["Nehalem".into()], ..abilities("x86_64") };
    assert!(matches!(complete(&mut domain, &known), Err(PlanError::CpuModel { .. })));
    let known = Abilities { cpus: vec!["Nehalem".into(), "qemu64".into()], ..abilities("x86_64") };
    complete(&mut domain, &known).unwrap();
}

#[test]
fn io_uring_is_refused_with_what_to_write_instead() {
    let disk = "<disk type='file'><driver name='qemu' type='raw' io='io_uring'/><source file='/x'/>\
                <target dev='vda' bus='virtio'/></disk>";
    let error = planned(&document("pc", disk)).unwrap_err();
    assert!(error.to_string().starts_with("io='io_uring' of disk vda is not possible"), "{error}");
    assert_eq!(error.hint().unwrap(), "write io='threads', or io='native' with cache='none'");
    planned(&document("pc", &disk.replace("io_uring", "native"))).unwrap();
}

/// What a document could carry to an emulator beside its own meaning.
const HOSTILE: [&str; 6] = ["a,b=c", "a,,b=c", "-S", "on,spawn=allow", "\"}, {\"driver\": \"x", "a b\u{e9}=,"];

#[test]
fn no_text_of_a_document_adds_an_option_or_a_key() {
    let template = |text: &str| {
        let text = text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
        format!(
            "<domain type='qemu'><name>{text}</name><uuid>00000000-0000-0000-0000-000000000001</uuid>\
             <title>x</title><description>{text}</description><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type><kernel>/k</kernel><cmdline>{text}</cmdline></os>\
             <devices><disk type='file'><driver name='qemu' type='raw'/><source file='/{text}'/>\
             <target dev='vda' bus='virtio'/><serial>{text}</serial></disk><serial type='pty'/>\
             <rng model=\"{text}\"><backend model=\"{text}\">{text}</backend></rng></devices></domain>"
        )
    };
    // The shape of a vector: its options, and the keys of each value, without what the document's own texts are.
    let shape = |plan: &Plan, text: &str| -> Vec<String> {
        let in_json = serde_json::to_string(text).unwrap();
        let mut words = plan.argv.clone();
        for index in 1..words.len() {
            let after = words[index - 1].clone();
            words[index] = match after.as_str() {
                "-append" => String::from("a text"),
                "-name" => words[index].replace(&text.replace(',', ",,"), "a text"),
                _ => words[index].replace(&in_json, "\"a text\""),
            };
        }
        words
    };
    let plain = shape(&planned(&template("plain")).unwrap(), "plain");
    for text in HOSTILE {
        assert_eq!(shape(&planned(&template(text)).unwrap(), text), plain, "{text}");
    }
}

#[test]
fn a_reboot_that_must_end_the_guest_is_a_shutdown_for_qemu() {
    let xml = document("pc", "").replace("<devices>", "<on_reboot>destroy</on_reboot><devices>");
    let plan = planned(&xml).unwrap();
    assert!(plan.argv.windows(2).any(|pair| pair == ["-action", "reboot=shutdown"]), "{:?}", plan.argv);
}

#[test]
fn a_probe_starts_no_guest() {
    let argv = probe_argv("/usr/bin/qemu-system-x86_64");
    assert!(argv.windows(2).any(|pair| pair == ["-machine", "none,accel=kvm:tcg"]), "{argv:?}");
    assert!(argv.contains(&"-S".to_string()) && argv.contains(&"-nodefaults".to_string()));
}
