//! What virsh asks for, verb by verb, and which of it our drivers answer: docs/libvirt-clients.md is what a run found.
//!
//! When drivers learn something, `REGENERATE_CLIENTS=1 cargo test -p bulkhead-tests --test libvirt_verbs` writes it anew.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    env,
    fmt::{self, Write},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use api::Op;
use bulkhead_tests::{
    Client, Gateway, Guest, Instance, LONG, Output, Shell, Terminal, Virsh, is_libvirt_9_0_0, run, wait_until,
};

/// The guest that the mock hypervisor has by itself.
const MOCK: &str = "test";
/// The part in which a guest may end.
const THEIR_LIFE: &str = "Guests: their life";

/// What concerns no driver.
const ITSELF: &str = "virsh itself";

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
            "nodesuspend mem 1",
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
            "create TRANSIENT",
            "edit OFF",
            "dominfo OFF",
            "dominfo DOM",
            "domid DOM",
            "domuuid DOM",
            "domname 1",
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
            "event --all --timeout 1",
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
            "migrate-getmaxdowntime DOM",
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
            "iothreadset DOM 1 --poll-max-ns 1",
            "iothreadpin DOM 1 0",
            "iothreaddel DOM 1",
            "attach-disk DOM DISK vdb",
            "detach-disk DOM vdb",
            "attach-interface DOM bridge br0",
            "detach-interface DOM bridge",
            "domif-setlink DOM vnet0 down",
            "attach-device DOM DEVICE",
            "detach-device DOM DEVICE",
            "detach-device-alias DOM ua-x",
            "update-device DOM DEVICE",
            "update-memory-device DOM --node 0 --requested-size 1M",
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
            "send-process-signal DOM 1 term",
            "console DOM",
            "inject-nmi DOM",
            "screenshot DOM FILE",
            "qemu-monitor-command DOM {\"execute\":\"query-status\"}",
            "qemu-agent-command DOM {\"execute\":\"guest-ping\"}",
            "qemu-monitor-event DOM --timeout 1",
            "qemu-attach 1",
            "guest-agent-timeout DOM --timeout 5",
            "lxc-enter-namespace DOM /bin/true",
            "domtime DOM",
            "domhostname DOM",
            "domfsinfo DOM",
            "domfsfreeze DOM",
            "domfsthaw DOM",
            "domfstrim DOM",
            "guestinfo DOM",
            "guestvcpus DOM",
            "set-user-password DOM root x",
            "get-user-sshkeys DOM root",
            "set-user-sshkeys DOM root --file FILE",
            "dompmsuspend DOM mem",
            "dompmwakeup DOM",
            "domjobinfo DOM",
            "domjobabort DOM",
            "dump DOM FILE",
            "dom-fd-associate DOM x 0",
            "domsetlaunchsecstate DOM --secrethdr FILE --secret FILE",
            "snapshot-list DOM",
            "snapshot-create DOM",
            "snapshot-create-as DOM s",
            "snapshot-current DOM",
            "snapshot-dumpxml DOM s",
            "snapshot-edit DOM s",
            "snapshot-info DOM s",
            "snapshot-parent DOM s",
            "snapshot-revert DOM s",
            "snapshot-delete DOM s",
            "checkpoint-list DOM",
            "checkpoint-create DOM CHECKPOINT",
            "checkpoint-create-as DOM c",
            "checkpoint-dumpxml DOM c",
            "checkpoint-edit DOM c",
            "checkpoint-info DOM c",
            "checkpoint-parent DOM c",
            "checkpoint-delete DOM c",
            "backup-begin DOM",
            "backup-dumpxml DOM",
            "migrate DOM qemu+unix:///system?socket=/nonexistent --live",
            "migrate-getspeed DOM",
            "migrate-setspeed DOM 1",
            "migrate-setmaxdowntime DOM 1",
            "migrate-compcache DOM",
            "migrate-postcopy DOM",
            "reset DOM",
            "reboot DOM",
            "shutdown DOM",
            "save DOM FILE",
            "restore FILE",
            "save-image-dumpxml FILE",
            "save-image-define FILE NEW",
            "save-image-edit FILE",
            "managedsave DOM",
            "managedsave-dumpxml DOM",
            "managedsave-define DOM NEW",
            "managedsave-edit DOM",
            "managedsave-remove DOM",
            "destroy DOM --graceful",
            "destroy DOM",
            "start OFF --paused",
        ],
    ),
    (
        "Networks",
        &[
            "net-list --all",
            "net-define FILE",
            "net-create FILE",
            "net-info default",
            "net-name c7a5fdbd-cdaf-9455-926a-d65c16db1809",
            "net-uuid default",
            "net-dumpxml default",
            "net-edit default",
            "net-autostart default",
            "net-start default",
            "net-dhcp-leases default",
            "net-update default add ip-dhcp-host <host/>",
            "net-event --event lifecycle --timeout 1",
            "net-port-list default",
            "net-port-create default FILE",
            "net-port-dumpxml default c7a5fdbd-cdaf-9455-926a-d65c16db1809",
            "net-port-delete default c7a5fdbd-cdaf-9455-926a-d65c16db1809",
            "net-destroy default",
            "net-undefine default",
        ],
    ),
    (
        "Filters of packets",
        &[
            "nwfilter-list",
            "nwfilter-define FILE",
            "nwfilter-dumpxml clean-traffic",
            "nwfilter-edit clean-traffic",
            "nwfilter-undefine clean-traffic",
            "nwfilter-binding-list",
            "nwfilter-binding-create FILE",
            "nwfilter-binding-dumpxml vnet0",
            "nwfilter-binding-delete vnet0",
        ],
    ),
    (
        "Interfaces of the host",
        &[
            "iface-list --all",
            "iface-define FILE",
            "iface-begin",
            "iface-commit",
            "iface-rollback",
            "iface-mac eth0",
            "iface-name 00:16:3e:00:00:01",
            "iface-dumpxml eth0",
            "iface-edit eth0",
            "iface-bridge eth0 br0",
            "iface-unbridge br0",
            "iface-start eth0",
            "iface-destroy eth0",
            "iface-undefine eth0",
        ],
    ),
    (
        "Devices of the host",
        &[
            "nodedev-list",
            "nodedev-info DEVICE_NAME",
            "nodedev-dumpxml DEVICE_NAME",
            "nodedev-detach DEVICE_NAME",
            "nodedev-reattach DEVICE_NAME",
            "nodedev-reset DEVICE_NAME",
            "nodedev-event --event lifecycle --timeout 1",
            "nodedev-define FILE",
            "nodedev-create FILE",
            "nodedev-start DEVICE_NAME",
            "nodedev-autostart DEVICE_NAME",
            "nodedev-destroy DEVICE_NAME",
            "nodedev-undefine DEVICE_NAME",
        ],
    ),
    (
        "Secrets",
        &[
            "secret-list",
            "secret-define FILE",
            "secret-dumpxml c7a5fdbd-cdaf-9455-926a-d65c16db1809",
            "secret-get-value c7a5fdbd-cdaf-9455-926a-d65c16db1809",
            "secret-set-value c7a5fdbd-cdaf-9455-926a-d65c16db1809 --file FILE",
            "secret-event --event lifecycle --timeout 1",
            "secret-undefine c7a5fdbd-cdaf-9455-926a-d65c16db1809",
        ],
    ),
    (
        "Storage pools",
        &[
            "pool-list --all",
            "pool-capabilities",
            "find-storage-pool-sources-as dir",
            "find-storage-pool-sources dir",
            "pool-define FILE",
            "pool-define-as p dir --target /nonexistent",
            "pool-create FILE",
            "pool-create-as p dir --target /nonexistent",
            "pool-info default",
            "pool-name c7a5fdbd-cdaf-9455-926a-d65c16db1809",
            "pool-uuid default",
            "pool-dumpxml default",
            "pool-edit default",
            "pool-autostart default",
            "pool-build default",
            "pool-start default",
            "pool-refresh default",
            "pool-event --event lifecycle --timeout 1",
            "pool-destroy default",
            "pool-delete default",
            "pool-undefine default",
        ],
    ),
    (
        "Storage volumes",
        &[
            "vol-list default",
            "vol-create default FILE",
            "vol-create-as default v 1M",
            "vol-create-from default FILE v",
            "vol-clone v w --pool default",
            "vol-info v --pool default",
            "vol-dumpxml v --pool default",
            "vol-key v --pool default",
            "vol-name /nonexistent",
            "vol-path v --pool default",
            "vol-pool /nonexistent",
            "vol-resize v 2M --pool default",
            "vol-upload v FILE --pool default",
            "vol-download v FILE --pool default",
            "vol-wipe v --pool default",
            "vol-delete v --pool default",
        ],
    ),
    ("virsh itself", &["help", "echo x", "pwd", "cd /", "connect", "quit", "exit"]),
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
        "TRANSIENT" => path(if running == MOCK { "mock-transient.xml" } else { "transient.xml" }),
        "DEVICE_NAME" => "computer".to_owned(),
        "FILE" => path("file"),
        _ => word.to_owned(),
    };
    line.split(' ').map(word).collect()
}

fn files(instance: &Instance) {
    let (off, transient) = (Guest::tiny("off"), Guest::tiny("transient"));
    let disk = "<disk type='file' device='disk'><source file='/nonexistent'/><target dev='vdc' bus='virtio'/></disk>";
    for (name, text) in [
        ("off.xml", off.xml().as_str()),
        ("mock-off.xml", &off.mock_xml()),
        ("transient.xml", &transient.xml()),
        ("mock-transient.xml", &transient.mock_xml()),
        ("cpu.xml", "<cpu><arch>x86_64</arch><model>qemu64</model></cpu>"),
        ("device.xml", disk),
        ("checkpoint.xml", "<domaincheckpoint/>"),
        ("file", "<nothing/>"),
        ("disk-b.img", "0000000000000000"),
    ] {
        let _ = instance.file(name, text.as_bytes());
    }
    // What virsh starts for a person to change a document, and takes back as changed.
    let editor = instance.file("editor", b"#!/bin/sh\necho >>\"$1\"\n");
    fs::set_permissions(editor, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What came of a verb.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// A driver has answered.
    Given,
    /// The call that no driver knows.
    Unsupported(String),
    /// virsh asks nobody for it.
    Own,
    /// virsh has given up before it asked for what the verb is about.
    GaveUp,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Given => f.write_str("answered"),
            Answer::Unsupported(call) => write!(f, "no: `{call}`"),
            Answer::Own => f.write_str("nobody is asked"),
            Answer::GaveUp => f.write_str("virsh gives up"),
        }
    }
}

/// Calls that say nothing about a verb: of the opening and the end of a connection.
const AROUND: [Op; 7] = [
    Op::AuthList,
    Op::ConnectSupportsFeature,
    Op::ConnectOpen,
    Op::ConnectGetUri,
    Op::ConnectRegisterCloseCallback,
    Op::ConnectUnregisterCloseCallback,
    Op::ConnectClose,
];
/// Calls by which virsh looks at the guest that a verb names, before it asks for more.
const LOOKS: [Op; 6] = [
    Op::DomainLookupByName,
    Op::DomainLookupByUuid,
    Op::DomainLookupById,
    Op::DomainGetXmlDesc,
    Op::DomainGetState,
    Op::DomainIsActive,
];

/// virsh at a URI, telling what it sends.
struct Asking<'a> {
    virsh: Virsh<'a>,
    editor: PathBuf,
    log: PathBuf,
}

impl<'a> Asking<'a> {
    fn at(instance: &'a Instance, uri: String, log: &str) -> Asking<'a> {
        let (editor, log) = (instance.root().join("editor"), instance.root().join(log));
        Asking { virsh: Virsh::at(instance, uri), editor, log }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.virsh.command(arguments);
        // libvirt's library writes down every message of its protocol.
        command.env("LIBVIRT_LOG_FILTERS", "1:rpc").env("VISUAL", &self.editor);
        command.env("LIBVIRT_LOG_OUTPUTS", format!("1:file:{}", self.log.display()));
        command
    }

    /// Runs one verb, after others on the same connection.
    fn ask(&self, before: &[&str], words: &[String]) -> Answer {
        let _ = fs::remove_file(&self.log);
        let words_of_it: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = if words[0] == "console" {
            self.console(&words_of_it)
        } else if before.is_empty() {
            run(self.command(&words_of_it))
        } else {
            // One connection, several commands; virsh goes on until one fails.
            let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            run(self.command(&[&format!("{} ; {}", before.join(" ; "), quoted.join(" "))]))
        };
        let Output { stderr, .. } = output;
        assert!(!stderr.contains("error: unknown command"), "{words:?}: {stderr}");
        assert!(!stderr.contains("error: command '"), "not as virsh wants it: {words:?}: {stderr}");
        // What breaks a connection, or never comes to one, would look like an answer.
        let broken = ["failed to connect", "Disconnected", "connection closed", "End of file", "RPC"];
        assert!(!broken.iter().any(|word| stderr.contains(word)), "{words:?}: {stderr}");
        self.answer(!stderr.contains("error:"), &stderr, 0)
    }

    /// What has come of a verb, by its messages and by what was sent after a place in the log.
    fn answer(&self, well: bool, messages: &str, from: usize) -> Answer {
        if let Some(call) = missing(messages) {
            return Answer::Unsupported(call);
        }
        let (sent, refused) = self.calls(from);
        let own: Vec<_> = sent.iter().filter(|op| !op.is_some_and(|op| AROUND.contains(&op))).collect();
        let looked = own.iter().all(|op| op.is_some_and(|op| LOOKS.contains(&op)));
        match (well, own.is_empty()) {
            (true, true) => Answer::Own,
            (true, false) => Answer::Given,
            _ if looked && !refused => Answer::GaveUp,
            _ => Answer::Given,
        }
    }

    /// Types one verb in an interactive session.
    fn type_in(&self, shell: &mut Shell, words: &[String]) -> Answer {
        let from = self.sent().len();
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let line = quoted.join(" ");
        let seen = if words[0] == "console" { shell.console(&line) } else { shell.command(&line) };
        assert!(!seen.contains("error: Disconnected") && !seen.contains("error: command '"), "{words:?}: {seen}");
        self.answer(!seen.contains("error:"), &seen, from)
    }

    /// A console is for terminals; its key to leave is ^].
    fn console(&self, words: &[&str]) -> Output {
        let mut terminal = Terminal::on_pty(self.command(words));
        let opened = terminal.output.wait(LONG, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            (text.contains("Escape character is") || text.contains("error:")).then(|| text.contains("Escape"))
        });
        if opened == Some(true) {
            // It says so before the key counts.
            assert!(wait_until(LONG, || terminal.is_raw()), "{}", terminal.output.text());
            terminal.send(b"\x1d");
        }
        let code = terminal.exit();
        Output { code, stdout: String::new(), stderr: terminal.output.text() }
    }

    fn sent(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The calls that were sent after a place in the log, and whether one was answered by an error.
    fn calls(&self, from: usize) -> (Vec<Option<Op>>, bool) {
        let text = self.sent();
        let number = |line: &str, key: &str| -> u32 {
            let rest = line.split(key).nth(1).unwrap_or_else(|| panic!("no {key} in {line}"));
            rest.split(' ').next().unwrap().parse().unwrap()
        };
        let (mut sent, mut refused) = (Vec::new(), false);
        for line in text[from..].lines().filter(|line| line.contains(" RPC_CLIENT_MSG_")) {
            if line.contains("RPC_CLIENT_MSG_TX_QUEUE") && [0, 4].contains(&number(line, " type=")) {
                sent.push(Op::from_wire(number(line, " prog="), number(line, " proc=")));
            }
            refused |= line.contains("RPC_CLIENT_MSG_RX") && number(line, " status=") == 1;
        }
        (sent, refused)
    }
}

/// The call that no driver answers, or nothing.
fn missing(output: &str) -> Option<String> {
    let rest = &output[output.find(UNSUPPORTED)? + UNSUPPORTED.len()..];
    Some(rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned())
}

/// Every line, and the part that it is of.
fn lines() -> impl Iterator<Item = (&'static str, &'static str)> {
    PARTS.iter().flat_map(|(part, lines)| lines.iter().map(move |line| (*part, *line)))
}

/// What a verb has ended or removed is there again for the next.
fn set_up(instance: &Instance, part: &str, line: &str) {
    let may_have_ended = part == THEIR_LIFE && line.contains("DOM");
    if may_have_ended && instance.bulkhead(&["domstate", "on"]).stdout.trim() != "running" {
        let _ = instance.bulkhead(&["start", "on"]);
        let _ = instance.bulkhead(&["resume", "on"]);
    }
    if line.contains("OFF") && instance.bulkhead(&["domstate", "off"]).code != 0 {
        instance.define(&Guest::tiny("off"));
    }
}

fn define_and_start(instance: &Instance) {
    let disk = instance.file("disk.img", &[0; 65_536]);
    instance.define(&Guest::tiny("on").disk(&disk, "raw"));
    instance.ok(&["start", "on"]);
}

/// What a session's driver answers to each verb, which is a virsh of its own.
fn ask_session(instance: &Instance, gateway: &Gateway) -> Vec<Answer> {
    define_and_start(instance);
    let asking = Asking::at(instance, gateway.uri(), "sent");
    let ask = |(part, line): (&str, &str)| {
        set_up(instance, part, line);
        asking.ask(&[], &words(instance, line, "on"))
    };
    lines().map(ask).collect()
}

/// What a host's driver answers: all verbs in one interactive session, as long as there are verbs.
fn ask_host(instance: &Instance, gateway: &Gateway) -> Vec<Answer> {
    define_and_start(instance);
    let asking = Asking::at(instance, gateway.uri(), "sent");
    let mut shell = Shell::start(asking.command(&[]));
    let typed = lines().filter(|(part, _)| *part != ITSELF).map(|(part, line)| {
        set_up(instance, part, line);
        asking.type_in(&mut shell, &words(instance, line, "on"))
    });
    let answers = typed.collect();
    shell.quit();
    answers
}

/// The mock's host is new for every connection, so each verb brings along what it needs.
fn ask_mock(instance: &Instance, gateway: &Gateway) -> Vec<Answer> {
    let asking = Asking::at(instance, gateway.test_uri(), "sent-to-mock");
    let define = format!("define {}", instance.root().join("mock-off.xml").display());
    lines()
        .map(|(_, line)| {
            let before = if line.contains("OFF") { vec![define.as_str()] } else { Vec::new() };
            asking.ask(&before, &words(instance, line, MOCK))
        })
        .collect()
}

fn document(qemu: &[Answer], mock: &[Answer]) -> String {
    let mut text = String::from(
        "# What libvirt's clients may ask\n\n\
         What virsh 9.0.0 asks for, verb by verb, and whether a driver behind the gateway answers it. Found by\n\
         `tests/tests/libvirt_verbs.rs`, which fails when this page is no longer true, or has not every verb of `virsh help`, and\n\
         says how to write it anew. `qemu` is `qemu:///session` and `qemu:///system`, which answer alike, `test` is\n\
         `test:///default`. Whether virsh has really asked is read from what its library says that it sends.\n\n\
         | | |\n|---|---|\n\
         | answered | an answer, or an error about the object at hand: that a guest has no such disk, or that there is no such \
         network. Of what it has nothing, a driver says so: its lists are empty |\n\
         | no | the named call is one that no driver knows: error 3, \"this function is not supported by the connection driver\" |\n\
         | virsh gives up | virsh itself refuses, when it has seen no more than the guest's document: no such device is in it, say |\n\
         | nobody is asked | virsh does it alone |\n",
    );
    let mut answers = qemu.iter().zip(mock);
    for (part, lines) in PARTS {
        write!(text, "\n## {part}\n\n| verb | qemu | test |\n|---|---|---|\n").unwrap();
        for (line, (qemu, mock)) in lines.iter().zip(&mut answers) {
            writeln!(text, "| `{line}` | {qemu} | {mock} |").unwrap();
        }
    }
    let count = |answers: &[Answer]| answers.iter().filter(|answer| **answer == Answer::Given).count();
    let (all, qemu, mock) = (qemu.len(), count(qemu), count(mock));
    write!(text, "\nOf {all} lines with {} verbs, `qemu` answers {qemu} and `test` {mock}.\n", verbs().len()).unwrap();
    text
}

/// The verbs of the page.
fn verbs() -> BTreeSet<&'static str> {
    PARTS.iter().flat_map(|(_, lines)| *lines).filter_map(|line| line.split(' ').next()).collect()
}

#[test]
fn no_verb_of_virsh_is_missing() {
    const TEST: &str = "no_verb_of_virsh_is_missing";
    if !Client::Virsh.is_here(TEST) || !is_libvirt_9_0_0("/usr/bin/virsh", TEST) {
        return;
    }
    let instance = Instance::session();
    // It needs no connection for that.
    let help = Virsh::at(&instance, "test:///default").ok(&["help"]);
    let listed: BTreeSet<&str> =
        help.lines().filter_map(|line| line.strip_prefix("    ")?.split_whitespace().next()).collect();
    assert!(listed.len() > 250, "{listed:?}");
    let missing: Vec<_> = listed.difference(&verbs()).copied().collect();
    let unknown: Vec<_> = verbs().difference(&listed).copied().collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not on the page: {missing:?}; not virsh's: {unknown:?}");
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
    let host = Instance::system("the_list_of_what_is_answered_is_true (system)");
    let on_host = || {
        let host = host.as_ref()?;
        let gateway = Gateway::start(host);
        files(host);
        Some(ask_host(host, &gateway))
    };
    let (qemu, host, mock) = thread::scope(|scope| {
        let mock = scope.spawn(|| ask_mock(&instance, &gateway));
        let host = scope.spawn(on_host);
        (ask_session(&instance, &gateway), host.join().unwrap(), mock.join().unwrap())
    });
    if let Some(host) = host {
        let differ = lines().zip(qemu.iter().zip(&host)).filter(|(_, (session, host))| session != host);
        let differ: Vec<_> = differ.collect();
        assert!(differ.is_empty(), "a session's answer is not the host's: {differ:#?}");
    }
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
