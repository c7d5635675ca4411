//! Our mock host beside libvirt's own test driver: what virsh shows of both, and what libvirt's binding gets from both.
//!
//! Each difference that is left stands here with its reason. One that is not listed fails the test, and so does one that is
//! meant and gone.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bulkhead_tests::{Client, Gateway, Instance, Virsh, client_program, is_libvirt_9_0_0, run};

/// libvirt's test driver, inside the client.
const LIBVIRT: &str = "test:///default";

/// What virsh shows alike of both.
const ALIKE: &[&[&str]] = &[
    &["list", "--all"],
    &["dumpxml", "test"],
    &["dumpxml", "--inactive", "test"],
    &["dumpxml", "--migratable", "test"],
    &["domid", "test"],
    &["domuuid", "test"],
    &["domstate", "--reason", "test"],
    &["domcontrol", "test"],
    &["capabilities"],
    &["domcapabilities"],
    &["nodeinfo"],
    &["nodecpumap"],
    &["freepages", "--all"],
    &["version", "--daemon"],
    &["hostname"],
    &["maxvcpus"],
    &["maxvcpus", "bogus"],
    &["vcpucount", "test"],
    &["vcpupin", "test"],
    &["emulatorpin", "test"],
    &["domblklist", "--details", "test"],
    &["domblkinfo", "test", "vda"],
    &["domiflist", "test"],
    &["domifaddr", "test"],
    &["domiftune", "test", "testnet0"],
    &["domfsinfo", "test"],
    &["domtime", "test"],
    &["domhostname", "test"],
    &["dommemstat", "test"],
    &["schedinfo", "test"],
    &["memtune", "test"],
    &["numatune", "test"],
    &["iothreadinfo", "test"],
    &["ttyconsole", "test"],
    &["snapshot-list", "test"],
    &["desc", "test"],
    &["metadata", "test", "urn:none"],
    &["domstats", "--state", "test"],
    &["domxml-to-native", "qemu-argv", "--domain", "test"],
];

/// Kinds of answers that are meant to differ, by the beginning of the question, and why.
const MEANT: &[(&str, &str)] = &[
    ("host.getMemoryStats", "collectors are tested here, and the figures are known"),
    ("host.listAllNWFilters", "what there is none of is an empty list"),
    ("host.listAllSecrets", "what there is none of is an empty list"),
    ("host.listAllNWFilterBindings", "what there is none of is an empty list"),
    ("host.getCPUStats(99)", "the mock host has no such CPU"),
    ("on.jobInfo", "the guest has no job, as here qemud says"),
    ("on.jobStats", "the guest has no job, as here qemud says"),
    ("on.abortJob", "the guest has no job, as here qemud says"),
    ("off.jobInfo", "the guest has no job, as here qemud says"),
    ("off.jobStats", "the guest has no job, as here qemud says"),
    ("off.abortJob", "the guest has no job, as here qemud says"),
    ("on.blockJobInfo", "the disk has no job, as here qemud says"),
    ("off.blockJobInfo", "the disk has no job, as here qemud says"),
    ("on.openConsole", "consoles echo here, for programs that use one"),
    ("off.openConsole", "consoles echo here, for programs that use one"),
    ("on.setMemoryFlags(1, 3)", "a run and its definition change together, as libvirt's QEMU driver does it"),
    ("off.setMemoryFlags(1, 3)", "a run and its definition change together, as libvirt's QEMU driver does it"),
    ("off.setMemoryFlags(4096, 3)", "a run and its definition change together, as libvirt's QEMU driver does it"),
    ("off.setMemoryFlags(16777216, 3)", "a run and its definition change together, as libvirt's QEMU driver does it"),
    ("life.again.", "states refuse and permit what libvirt's QEMU driver does; its test driver says 'internal error'"),
    ("life.paused.", "a guest that is paused does not react"),
    ("life.transient.undefine", "a transient guest has no definition, as libvirt's QEMU driver says"),
    ("life.createWithFlags", "guests start paused here as on QEMU"),
];

/// Kinds that differ because something is not built yet. These may become alike at any time.
const NOT_BUILT: &[(&str, &str)] = &[
    ("host.numOfNetworks", "networks"),
    ("host.listNetworks", "networks"),
    ("host.listAllNetworks", "networks"),
    ("host.listDefinedNetworks", "networks"),
    ("host.numOfStoragePools", "storage pools"),
    ("host.listAllStoragePools", "storage pools"),
    ("host.numOfInterfaces", "interfaces of the host"),
    ("host.listAllInterfaces", "interfaces of the host"),
    ("host.baselineCPU", "comparison of CPU models"),
    ("on.blkioParameters", "limits of block devices"),
    ("off.blkioParameters", "limits of block devices"),
    ("on.blockIoTune", "limits of block devices"),
    ("off.blockIoTune", "limits of block devices"),
    ("on.setTime", "the guest's clock"),
    ("off.setTime", "the guest's clock"),
    ("on.pin", "pinning"),
    ("off.pin", "pinning"),
    ("new.defineXML(\"<domain type='none'>", "the type 'none'"),
    ("new.createXML(\"<domain type='none'>", "the type 'none'"),
];

/// What a command prints, without the line about the time of a processor.
fn shown(virsh: &Virsh<'_>, arguments: &[&str]) -> (i32, String) {
    let output = virsh.run(arguments);
    let lines = output.stdout.lines().chain(output.stderr.lines()).filter(|line| !line.starts_with("CPU time:"));
    (output.code, lines.map(|line| format!("{}\n", line.trim_end())).collect())
}

#[test]
fn virsh_shows_the_same_of_both() {
    const TEST: &str = "virsh_shows_the_same_of_both";
    if !Client::Virsh.is_here(TEST) || !is_libvirt_9_0_0("/usr/bin/virsh", TEST) {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let (theirs, ours) = (Virsh::at(&instance, LIBVIRT), Virsh::at(&instance, gateway.test_uri()));
    for arguments in ALIKE.iter().chain(&[&["dominfo", "test"][..], &["vcpuinfo", "test"]]) {
        assert_eq!(shown(&ours, arguments), shown(&theirs, arguments), "{arguments:?}");
    }
    // A guest that both define alike, of a type that only libvirt's other drivers run.
    let document = "<domain type='kvm'><name>own</name><uuid>11111111-2222-3333-4444-555555555555</uuid><metadata>\
                    <a:x xmlns:a='urn:a' b='it&quot;s'><a:y/>\n</a:x></metadata><memory>1500</memory><os><type>hvm</type>\
                    </os></domain>";
    let file = instance.file("own.xml", document.as_bytes());
    let script =
        format!("define {}; dumpxml own; metadata own urn:a; start own; domstate --reason own", file.display());
    assert_eq!(shown(&ours, &[&script]), shown(&theirs, &[&script]));
}

/// The questions of `mock.py` and the kinds of their answers.
fn kinds(instance: &Instance, uri: &str) -> Vec<(String, String)> {
    let output = run(client_program(instance, "mock.py", &[uri]));
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    let lines = output.stdout.lines().filter_map(|line| line.split_once('\t'));
    lines.map(|(question, kind)| (question.to_owned(), kind.to_owned())).collect()
}

#[test]
fn answers_are_of_the_same_kind() {
    const TEST: &str = "answers_are_of_the_same_kind";
    if !Client::Python.is_here(TEST) || !Client::Virsh.is_here(TEST) || !is_libvirt_9_0_0("/usr/bin/virsh", TEST) {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let (theirs, ours) = (kinds(&instance, LIBVIRT), kinds(&instance, &gateway.test_uri()));
    assert!(theirs.len() > 400 && theirs.len() == ours.len(), "{} and {}", theirs.len(), ours.len());
    let differences: Vec<(&str, String)> = theirs
        .iter()
        .zip(&ours)
        .filter(|(theirs, ours)| theirs != ours)
        .map(|((question, theirs), (_, ours))| {
            (question.as_str(), format!("{question}: libvirt {theirs}, here {ours}"))
        })
        .collect();
    let is_known = |question: &str| MEANT.iter().chain(NOT_BUILT).any(|(known, _)| question.starts_with(known));
    let new: Vec<&String> =
        differences.iter().filter(|(question, _)| !is_known(question)).map(|(_, text)| text).collect();
    assert!(new.is_empty(), "{new:#?}");
    for (known, reason) in MEANT {
        assert!(differences.iter().any(|(question, _)| question.starts_with(known)), "{known} is alike now ({reason})");
    }
}
