//! What virsh asks for, verb by verb, and which of it our drivers answer: docs/libvirt-clients.md is what a run found.
//!
//! When drivers learn something, `REGENERATE_CLIENTS=1 cargo test -p bulkhead-tests --test libvirt_verbs` writes it anew.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{env, fmt::Write, fs, path::Path, thread};

use bulkhead_tests::{Client, Gateway, Guest, Instance, Virsh, is_libvirt_9_0_0};

/// The guest that the mock hypervisor has by itself.
const MOCK: &str = "test";
/// The part in which a guest may end.
const THEIR_LIFE: &str = "Guests: their life";

/// Of each part, what is typed. `DOM` is a running guest, `OFF` one that is not, `DISK` and `FILE` are files, `NEW` is a
/// document of a guest that is not there yet. What ends a guest comes last in its part.
const PARTS: &[(&str, &[&str])] = &[
    (
        "The host",
        &[
            "uri",
            "version --daemon",
            "hostname",
            "nodeinfo",
            "capabilities",
            "domcapabilities",
            "maxvcpus",
            "sysinfo",
            "nodecpumap",
            "nodecpustats",
            "nodememstats",
            "freecell --all",
            "freepages --all",
            "allocpages 4 0",
            "node-memory-tune",
            "nodesevinfo",
            "cpu-models x86_64",
            "cpu-compare CPU",
            "cpu-baseline CPU",
            "hypervisor-cpu-compare CPU",
            "hypervisor-cpu-baseline CPU",
        ],
    ),
    (
        "Guests: lists and documents",
        &[
            "list --all",
            "list --all --title",
            "list --all --with-snapshot",
            "list --all --with-checkpoint",
            "list --all --managed-save",
            "define NEW",
            "dominfo OFF",
            "dominfo DOM",
            "domid DOM",
            "domuuid DOM",
            "domstate --reason DOM",
            "domcontrol DOM",
            "dumpxml DOM",
            "dumpxml --inactive DOM",
            "dumpxml --migratable DOM",
            "domxml-to-native qemu-argv --domain OFF",
            "domxml-from-native qemu-argv FILE",
            "domrename OFF other",
            "desc DOM",
            "desc OFF --config --title a title",
            "metadata OFF https://example.org/x --config",
            "metadata OFF https://example.org/x --config --key x --set <a/>",
            "set-lifecycle-action OFF poweroff destroy --config",
            "event --list",
        ],
    ),
    (
        "Guests: figures",
        &[
            "domstats",
            "domstats DOM",
            "domstats --enforce --state --cpu-total --balloon --vcpu --interface --block DOM",
            "cpu-stats DOM",
            "dommemstat DOM",
            "dommemstat DOM --period 1",
            "vcpuinfo DOM",
            "vcpucount DOM",
            "vcpupin DOM",
            "emulatorpin DOM",
            "iothreadinfo DOM",
            "domblklist DOM --details",
            "domblkinfo DOM vda",
            "domblkstat DOM vda",
            "domblkerror DOM",
            "domiflist DOM",
            "domifstat DOM vnet0",
            "domifaddr DOM",
            "domif-getlink DOM vnet0",
            "domdisplay DOM",
            "vncdisplay DOM",
            "ttyconsole DOM",
            "domlaunchsecinfo DOM",
            "domdirtyrate-calc DOM",
            "perf DOM",
        ],
    ),
    (
        "Guests: limits and devices",
        &[
            "schedinfo DOM",
            "memtune DOM",
            "blkiotune DOM",
            "numatune DOM",
            "blkdeviotune DOM vda",
            "domiftune DOM vnet0",
            "setmem OFF 8192 --config",
            "setmaxmem OFF 16384 --config",
            "setvcpus OFF 1 --config",
            "setmem DOM 8192 --live",
            "setvcpus DOM 1 --live",
            "setvcpu DOM 0 --enable",
            "vcpupin DOM 0 0",
            "emulatorpin DOM 0",
            "iothreadadd DOM 1",
            "attach-disk DOM DISK vdb",
            "detach-disk DOM vdb",
            "attach-interface DOM bridge br0",
            "attach-device DOM DEVICE",
            "detach-device DOM DEVICE",
            "update-device DOM DEVICE",
            "change-media DOM vda --eject",
            "domblkthreshold DOM vda 1",
            "blockresize DOM vda 65536B",
            "blockjob DOM vda",
            "blockpull DOM vda",
            "blockcommit DOM vda",
            "blockcopy DOM vda DISK",
        ],
    ),
    (
        THEIR_LIFE,
        &[
            "autostart OFF",
            "autostart OFF --disable",
            "undefine OFF --nvram",
            "suspend DOM",
            "resume DOM",
            "send-key DOM KEY_A",
            "inject-nmi DOM",
            "screenshot DOM FILE",
            "qemu-monitor-command DOM {\"execute\":\"query-status\"}",
            "qemu-agent-command DOM {\"execute\":\"guest-ping\"}",
            "domtime DOM",
            "domhostname DOM",
            "domfsinfo DOM",
            "domfsfreeze DOM",
            "domfstrim DOM",
            "guestinfo DOM",
            "guestvcpus DOM",
            "set-user-password DOM root x",
            "get-user-sshkeys DOM root",
            "dompmsuspend DOM mem",
            "dompmwakeup DOM",
            "domjobinfo DOM",
            "domjobabort DOM",
            "dump DOM FILE",
            "snapshot-list DOM",
            "snapshot-create DOM",
            "checkpoint-list DOM",
            "checkpoint-create DOM CHECKPOINT",
            "backup-begin DOM",
            "migrate DOM qemu+unix:///system?socket=/nonexistent --live",
            "migrate-getspeed DOM",
            "reset DOM",
            "reboot DOM",
            "shutdown DOM",
            "save DOM FILE",
            "restore FILE",
            "managedsave DOM",
            "managedsave-remove DOM",
            "destroy DOM --graceful",
            "destroy DOM",
            "start DOM --paused",
        ],
    ),
    (
        "Other objects",
        &[
            "net-list --all",
            "net-define FILE",
            "pool-list --all",
            "pool-define FILE",
            "find-storage-pool-sources-as dir",
            "iface-list --all",
            "nodedev-list",
            "nwfilter-list",
            "nwfilter-binding-list",
            "secret-list",
            "secret-define FILE",
        ],
    ),
];

/// What virsh says when no driver knows a call; the call's name follows.
const UNSUPPORTED: &str = "this function is not supported by the connection driver: ";

/// The files that verbs are given.
fn words(instance: &Instance, line: &str, running: &str) -> Vec<String> {
    let document = if running == MOCK { "mock-off.xml" } else { "off.xml" };
    let path = |name: &str| instance.root().join(name).display().to_string();
    let word = |word: &str| match word {
        "DOM" => running.to_owned(),
        "OFF" => "off".to_owned(),
        "DISK" => path("disk-b.img"),
        "NEW" => path(document),
        "CPU" => path("cpu.xml"),
        "DEVICE" => path("device.xml"),
        "CHECKPOINT" => path("checkpoint.xml"),
        "FILE" => path("file"),
        _ => word.to_owned(),
    };
    line.split(' ').map(word).collect()
}

fn files(instance: &Instance) {
    let off = Guest::tiny("off").xml();
    // The mock hypervisor's host is an old one.
    let mock = off.replace("type='qemu'", "type='test'").replace("x86_64", "i686").replace(" machine='q35'", "");
    let disk = "<disk type='file' device='disk'><source file='/nonexistent'/><target dev='vdc' bus='virtio'/></disk>";
    for (name, text) in [
        ("off.xml", off.as_str()),
        ("mock-off.xml", mock.as_str()),
        ("cpu.xml", "<cpu><arch>x86_64</arch><model>qemu64</model></cpu>"),
        ("device.xml", disk),
        ("checkpoint.xml", "<domaincheckpoint/>"),
        ("file", "<nothing/>"),
        ("disk-b.img", "0000000000000000"),
    ] {
        let _ = instance.file(name, text.as_bytes());
    }
}

/// The call that no driver answers, or nothing.
fn missing(output: &str) -> Option<String> {
    let rest = &output[output.find(UNSUPPORTED)? + UNSUPPORTED.len()..];
    Some(rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned())
}

/// What a driver answers to each verb: nothing when it does.
fn ask_qemu(instance: &Instance, gateway: &Gateway) -> Vec<Option<String>> {
    let disk = instance.file("disk.img", &[0; 65_536]);
    instance.define(&Guest::tiny("on").disk(&disk, "raw"));
    let virsh = Virsh::at(instance, gateway.uri());
    let lines = PARTS.iter().flat_map(|(part, lines)| lines.iter().map(move |line| (*part, *line)));
    instance.ok(&["start", "on"]);
    lines
        .map(|(part, line)| {
            // What a verb has ended or removed is there again for the next.
            let may_have_ended = part == THEIR_LIFE && line.contains("DOM");
            if may_have_ended && instance.bulkhead(&["domstate", "on"]).stdout.trim() != "running" {
                let _ = instance.bulkhead(&["start", "on"]);
                let _ = instance.bulkhead(&["resume", "on"]);
            }
            if line.contains("OFF") && instance.bulkhead(&["domstate", "off"]).code != 0 {
                instance.define(&Guest::tiny("off"));
            }
            ask(&virsh, &[], &words(instance, line, "on"))
        })
        .collect()
}

/// The mock's host is new for every connection, so each verb brings along what it needs.
fn ask_mock(instance: &Instance, gateway: &Gateway) -> Vec<Option<String>> {
    let virsh = Virsh::at(instance, gateway.test_uri());
    let define = format!("define {}", instance.root().join("mock-off.xml").display());
    let lines = PARTS.iter().flat_map(|(_, lines)| *lines);
    lines
        .map(|line| {
            let before = if line.contains("OFF") { vec![define.as_str()] } else { Vec::new() };
            ask(&virsh, &before, &words(instance, line, MOCK))
        })
        .collect()
}

fn ask(virsh: &Virsh<'_>, before: &[&str], words: &[String]) -> Option<String> {
    let output = if before.is_empty() {
        virsh.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    } else {
        // One connection, several commands; virsh goes on until one fails.
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        virsh.run(&[&format!("{} ; {}", before.join(" ; "), quoted.join(" "))])
    };
    assert!(!output.stderr.contains("error: unknown command"), "{words:?}: {}", output.stderr);
    assert!(!output.stderr.contains("error: command '"), "not as virsh wants it: {words:?}: {}", output.stderr);
    // What breaks a connection, or never comes to one, would look like an answer.
    let broken = ["failed to connect", "Disconnected", "connection closed", "End of file", "RPC"];
    assert!(!broken.iter().any(|word| output.stderr.contains(word)), "{words:?}: {}", output.stderr);
    missing(&output.stderr)
}

fn document(qemu: &[Option<String>], mock: &[Option<String>]) -> String {
    let mut text = String::from(
        "# What libvirt's clients may ask\n\n\
         What virsh 9.0.0 asks for, verb by verb, and whether a driver behind the gateway answers it. \"answered\" is an answer\n\
         or an error about the guest at hand (that it has no such disk, say); a name is the call that no driver knows: error 3,\n\
         \"this function is not supported by the connection driver\". Found by `tests/tests/libvirt_verbs.rs`, which fails when\n\
         this page is no longer true and says how to write it anew. `qemu` is `qemu:///session` and `qemu:///system`, `test` is\n\
         `test:///default`.\n",
    );
    let mut answers = qemu.iter().zip(mock);
    let cell = |answer: &Option<String>| answer.as_ref().map_or("answered".to_owned(), |call| format!("no: `{call}`"));
    for (part, lines) in PARTS {
        write!(text, "\n## {part}\n\n| verb | qemu | test |\n|---|---|---|\n").unwrap();
        for (line, (qemu, mock)) in lines.iter().zip(&mut answers) {
            writeln!(text, "| `{line}` | {} | {} |", cell(qemu), cell(mock)).unwrap();
        }
    }
    let count = |answers: &[Option<String>]| answers.iter().filter(|answer| answer.is_none()).count();
    let (all, qemu, mock) = (qemu.len(), count(qemu), count(mock));
    write!(text, "\nOf {all} verbs, `qemu` answers {qemu} and `test` {mock}.\n").unwrap();
    text
}

#[test]
fn the_list_of_what_is_answered_is_true() {
    const TEST: &str = "the_list_of_what_is_answered_is_true";
    if !Client::Virsh.is_here(TEST) || !is_libvirt_9_0_0("/usr/bin/virsh", TEST) {
        return;
    }
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    files(&instance);
    let (qemu, mock) = thread::scope(|scope| {
        let mock = scope.spawn(|| ask_mock(&instance, &gateway));
        (ask_qemu(&instance, &gateway), mock.join().unwrap())
    });
    let text = document(&qemu, &mock);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/libvirt-clients.md");
    if env::var_os("REGENERATE_CLIENTS").is_some() {
        return fs::write(&path, text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differs = text.lines().zip(written.lines()).find(|(found, written)| found != written);
    assert!(
        text == written,
        "docs/libvirt-clients.md is not what virsh finds (first at {differs:?}); \
         `REGENERATE_CLIENTS=1 cargo test -p bulkhead-tests --test libvirt_verbs` writes it anew"
    );
}
