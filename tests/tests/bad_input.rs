//! What people type wrong, and what they are told: the exit code, the words, the place, the mend. Each refusal leaves
//! everything as it was.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

use bulkhead_tests::{Disk, Guest, Instance, Output};

/// A document that is refused before anything is done, and what must be said about it.
struct Refused {
    what: &'static str,
    /// In the sound document, the text to be replaced, and the wrong one.
    replace: (&'static str, String),
    says: &'static [&'static str],
}

fn refused(what: &'static str, from: &'static str, to: impl Into<String>, says: &'static [&'static str]) -> Refused {
    Refused { what, replace: (from, to.into()), says }
}

/// A sound document, on lines that the tests count.
const SOUND: &str = "<domain type='qemu'>
  <name>sound</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <serial type='pty'/>
  </devices>
</domain>
";

#[track_caller]
fn says(output: &Output, what: &str, words: &[&str]) {
    for words in words {
        assert!(output.stderr.contains(words), "{what}: \"{words}\" is missing in:\n{}", output.stderr);
    }
    let cut = output.stderr.contains("''") || output.stderr.contains("\"\"");
    assert!(!cut, "{what}: a message without its word:\n{}", output.stderr);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn names(instance: &Instance) -> Vec<String> {
    instance.ok(&["list", "--all", "--name"]).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_document_that_cannot_be_meant_is_refused_with_its_place_and_its_mend() {
    let instance = Instance::session();
    let long = format!("<name>{}</name>", "x".repeat(201));
    let cases = [
        refused(
            "a tag closed by another",
            "</devices>",
            "</devicez>",
            &["line 7, column 3", "'devices'", "well-formed"],
        ),
        refused("text after the end", "</domain>", "</domain>x", &["line 8, column", "well-formed"]),
        refused("a lone ampersand", "sound<", "a & b<", &["line 2, column", "well-formed", "hint: write &amp; for &"]),
        refused(
            "a type with a typing error",
            "type='qemu'",
            "type='qemv'",
            &["line 1, column 9", "domain/@type", "\"qemv\" is unknown; expected qemu, kvm", "did you mean \"qemu\"?"],
        ),
        refused("another driver's type", "type='qemu'", "type='xen'", &["type 'xen' is not run by the QEMU driver"]),
        refused("an architecture", "arch='x86_64'", "arch='z80'", &["'z80' is not known", "x86_64", "aarch64"]),
        refused(
            "a machine",
            "machine='q35'",
            "machine='pc-q36-7.2'",
            &["no machine type 'pc-q36-7.2'", "hint: similar machine types: pc-q35"],
        ),
        refused("a machine like none", "machine='q35'", "machine='zx81'", &["'zx81'", "-machine help' lists"]),
        refused("a root element", "<domain type='qemu'>", "<network>", &["line"]),
        refused("no name", "<name>sound</name>", "", &["domain", "<name>", "missing"]),
        refused("an empty name", "sound<", " <", &["line 2, column", "domain/name", "is empty"]),
        refused(
            "a name with /",
            "sound<",
            "a/b<",
            &["line 2, column", "domain/name", "contains '/'", "expected 1 to 200"],
        ),
        refused("a name that leaves", "sound<", "../sound<", &["line 2", "domain/name"]),
        refused("a hidden name", "sound<", ".sound<", &["line 2, column", "begins with '.'"]),
        refused("a tab in a name", "sound<", "a&#9;b<", &["line 2, column", "contains a control character"]),
        refused("a line break in a name", "sound<", "a&#10;b<", &["line 2, column", "contains a control character"]),
        refused("a NUL reference", "sound<", "a&#0;b<", &["line 2, column"]),
        refused("a NUL byte", "sound<", "a\0b<", &["line 2, column", "'\\0'"]),
        refused("a long name", "<name>sound</name>", long, &["line 2, column", "is too long", "200 bytes"]),
        refused("no memory", "16<", "0<", &["line 3, column", "domain/memory", "expected at least 1 KiB"]),
        refused(
            "a word as memory",
            "16<",
            "much<",
            &["line 3, column", "domain/memory", "expected an unsigned integer"],
        ),
        refused("negative memory", "16<", "-16<", &["line 3, column", "expected an unsigned integer"]),
        refused("a unit in the number", "16<", "16M<", &["line 3, column", "hint: a unit goes into the attribute"]),
        refused("another unit", "'MiB'", "'parsec'", &["line 3, column", "not a unit of memory", "GiB"]),
        refused("memory beyond numbers", "'MiB'>16<", "'EiB'>15<", &["line 3, column", "is out of range"]),
        refused(
            "a second name",
            "<os>",
            "<name>b</name><os>",
            &["line 4", "a second <name>", "first is on line 2", "hint:"],
        ),
        refused("no UUID", "<os>", "<uuid>12</uuid><os>", &["line 4", "is not a UUID", "hint: leave <uuid> out"]),
        refused(
            "a document type",
            "<domain ",
            "<!DOCTYPE x><domain ",
            &["line 1", "document type", "hint: remove the"],
        ),
        refused(
            "two disks at one place",
            "<serial type='pty'/>",
            TWO_DISKS,
            &["\"vda\" is taken", "hint: give each disk"],
        ),
    ];
    let mut wrong = Vec::new();
    for case in cases {
        let (from, to) = &case.replace;
        assert!(SOUND.contains(from), "{}: nothing to replace", case.what);
        let path = instance.file("case.xml", SOUND.replace(from, to).as_bytes());
        // What cannot be defined cannot be started either, in the same words.
        for verb in ["define", "create"] {
            let output = instance.bulkhead(&[verb, text(&path)]);
            let missing: Vec<_> = case.says.iter().filter(|words| !output.stderr.contains(**words)).collect();
            if output.code != 1 || !missing.is_empty() {
                wrong
                    .push(format!("{verb} {}: exit {}, {missing:?} not in: {}", case.what, output.code, output.stderr));
            }
        }
    }
    assert!(wrong.is_empty(), "{} documents:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(names(&instance), [] as [&str; 0]);
    // And nothing of it lies about.
    let files = fs::read_dir(instance.definitions_dir()).expect("the definitions").flatten();
    let files: Vec<_> = files.map(|entry| entry.file_name()).filter(|name| name != "autostart").collect();
    assert!(files.is_empty(), "{files:?}");
}

const TWO_DISKS: &str = "<disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file'><source file='/b'/><target dev='vda' bus='virtio'/></disk>";

#[test]
fn a_document_that_is_no_file_is_an_error_of_the_file() {
    let instance = Instance::session();
    let missing = instance.root().join("missing.xml");
    says(&instance.fails(&["define", text(&missing)], 1), "missing", &["cannot read", "missing.xml", "No such file"]);
    says(&instance.fails(&["define", text(instance.root())], 1), "a directory", &["cannot read", "directory"]);
    let binary = instance.file("binary.xml", &[0xff, 0xfe, 0x00, 0x80]);
    says(&instance.fails(&["define", text(&binary)], 1), "no text", &["binary.xml"]);
    let huge = instance.file("huge.xml", &vec![b' '; 5 << 20]);
    says(&instance.fails(&["define", text(&huge)], 1), "too large", &["huge.xml", "larger than 4194304 bytes"]);
    let empty = instance.file("empty.xml", b"");
    says(&instance.fails(&["define", text(&empty)], 1), "empty", &["line 1", "well-formed"]);
    says(&instance.fails(&["define"], 2), "no file named", &["Usage"]);
}

#[test]
fn a_domain_that_is_not_there_is_exit_code_3() {
    let instance = Instance::session();
    for verb in [
        "start",
        "destroy",
        "suspend",
        "resume",
        "shutdown",
        "reboot",
        "reset",
        "undefine",
        "dominfo",
        "domid",
        "dumpxml",
        "domstate",
        "autostart",
        "console",
    ] {
        for name in ["nobody", "4711", "00000000-0000-4000-8000-000000000001", "../etc", "a b"] {
            let output = instance.fails(&[verb, name], 3);
            let sought = [format!("cannot find domain '{name}'"), "hint: 'bulkhead list --all'".to_owned()];
            says(&output, verb, &[&sought[0], &sought[1], "Domain not found"]);
        }
    }
    assert_eq!(names(&instance), [] as [&str; 0]);
}

#[test]
fn a_name_and_a_uuid_belong_together() {
    let instance = Instance::session();
    instance.define(&Guest::tiny("first"));
    let uuid = instance.domain("first").uuid;
    let before = instance.ok(&["dumpxml", "first"]);
    let with = |name: &str, uuid: &str| {
        let xml = SOUND.replace("<name>sound", &format!("<uuid>{uuid}</uuid><name>{name}"));
        instance.file("identity.xml", xml.as_bytes())
    };
    for running in [false, true] {
        if running {
            instance.ok(&["start", "first"]);
        }
        for verb in ["define", "create"] {
            let other = with("first", "00000000-0000-4000-8000-000000000001");
            let output = instance.fails(&[verb, text(&other)], 1);
            says(&output, "another UUID", &["domain 'first' already exists with uuid", &uuid]);
            let other = with("second", &uuid);
            let output = instance.fails(&[verb, text(&other)], 1);
            says(&output, "another name", &["domain 'first' is already defined with uuid", &uuid]);
        }
        assert_eq!(instance.ok(&["dumpxml", "--inactive", "first"]), before);
    }
    // Started twice, and stopped twice.
    says(&instance.fails(&["start", "first"], 1), "started twice", &["already running"]);
    instance.ok(&["destroy", "first"]);
    says(&instance.fails(&["destroy", "first"], 1), "destroyed twice", &["domain is not running"]);
    for verb in ["suspend", "resume", "shutdown", "reboot", "reset", "console"] {
        says(&instance.fails(&[verb, "first"], 1), verb, &["domain is not running"]);
    }
    assert_eq!(names(&instance), ["first"]);
}

/// Defines a guest in place of what has its name.
#[track_caller]
fn define_anew(instance: &Instance, guest: &Guest) {
    if names(instance).contains(&guest.name) {
        instance.ok(&["undefine", &guest.name]);
    }
    instance.define(guest);
}

/// Defines a guest whose start must fail with these words, twice the same; it stays off.
#[track_caller]
fn does_not_start(instance: &Instance, guest: &Guest, words: &[&str]) {
    define_anew(instance, guest);
    for _ in 0..2 {
        let output = instance.fails(&["start", &guest.name], 1);
        says(&output, &guest.name, words);
        says(&output, &guest.name, &["hint:", &format!("cannot start domain '{}'", guest.name)]);
        assert!(instance.state(&guest.name).starts_with("shut off"), "{}", instance.state(&guest.name));
    }
}

#[test]
fn a_file_that_is_no_disk_is_named_and_the_guest_starts_when_it_is_mended() {
    let instance = Instance::session();
    let path = instance.root().join("disk.img");
    let guest = Guest::tiny("disk").disk(&path, "raw");
    let shown = text(&path).to_owned();
    does_not_start(&instance, &guest, &["disk vda", &shown, "No such file", "create '"]);
    fs::create_dir(&path).unwrap();
    does_not_start(&instance, &guest, &["disk vda", &shown, "it is a directory", "a regular file or a block device"]);
    fs::remove_dir(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)
        .expect("a FIFO");
    does_not_start(&instance, &guest, &["disk vda", &shown, "it is a named pipe"]);
    fs::remove_file(&path).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    does_not_start(&instance, &guest, &["disk vda", &shown, "it is a socket"]);
    drop(socket);
    fs::remove_file(&path).unwrap();
    symlink(&path, &path).unwrap();
    says(&instance.fails(&["start", "disk"], 1), "a loop", &["disk vda", &shown, "symbolic links"]);
    fs::remove_file(&path).unwrap();
    fs::write(&path, [0; 4096]).unwrap();
    instance.ok(&["start", "disk"]);
    assert_eq!(instance.state("disk"), "running (booted)");
}

#[test]
fn a_character_device_is_no_disk() {
    let instance = Instance::session();
    let guest = Guest::tiny("disk").disk(Path::new("/dev/null"), "raw");
    does_not_start(&instance, &guest, &["disk vda", "/dev/null", "block device"]);
}

#[test]
fn a_kernel_that_is_missing_is_named() {
    let instance = Instance::session();
    let missing = instance.root().join("vmlinuz");
    let mut guest = Guest::tiny("kernel");
    guest.kernel = Some((missing.clone(), instance.file("initrd", b"x")));
    does_not_start(&instance, &guest, &["the kernel", text(&missing), "No such file", "create '"]);
    fs::write(&missing, b"x").unwrap();
    guest.kernel = Some((missing, instance.root().join("none")));
    does_not_start(&instance, &guest, &["the initrd", "No such file"]);
    // A directory is no kernel.
    guest.kernel = Some((instance.root().to_owned(), instance.root().join("initrd")));
    does_not_start(&instance, &guest, &["the kernel", "it is a directory"]);
}

#[test]
fn a_disk_belongs_to_one_guest_that_writes() {
    let instance = Instance::session();
    let disk = instance.file("shared.img", &[0; 4096]);
    let linked = instance.root().join("link.img");
    fs::hard_link(&disk, &linked).unwrap();
    instance.create(&Guest::tiny("owner").disk(&disk, "raw"));
    // By its own name and by another: it is the file that counts.
    for path in [&disk, &linked] {
        let rival = Guest::tiny("rival").disk(path, "raw");
        does_not_start(&instance, &rival, &["disk vda", text(path), "running domain 'owner'", "<shareable/>"]);
        let mut reader = rival.clone();
        reader.disks[0].read_only = true;
        does_not_start(&instance, &reader, &["running domain 'owner'"]);
    }
    instance.ok(&["destroy", "owner"]);
    instance.ok(&["start", "rival"]);
    instance.ok(&["destroy", "rival"]);

    // Readers do not disturb each other, but a writer would disturb them.
    let reading = |name: &str| {
        let disks = vec![Disk { path: disk.clone(), format: "raw", read_only: true }];
        Guest { disks, ..Guest::tiny(name) }
    };
    instance.create(&reading("reader-1"));
    instance.create(&reading("reader-2"));
    does_not_start(&instance, &Guest::tiny("writer").disk(&disk, "raw"), &["disk vda", "running domain 'reader-1'"]);

    // Guests that agree.
    let other = instance.file("agreed.img", &[0; 4096]);
    let sharing = |name: &str| {
        let devices = format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
             <target dev='vda' bus='virtio'/><shareable/></disk>",
            other.display()
        );
        Guest { devices, ..Guest::tiny(name) }
    };
    instance.create(&sharing("sharer-1"));
    instance.create(&sharing("sharer-2"));
    does_not_start(&instance, &Guest::tiny("loner").disk(&other, "raw"), &["running domain 'sharer-1'"]);
    let running = instance.list().into_iter().filter(|domain| domain.state == "running").count();
    assert_eq!(running, 4);
}

#[test]
fn a_device_that_is_not_there_yet_is_refused_by_name_and_line() {
    let instance = Instance::session();
    for (name, device) in [
        ("interface", "<interface type='user'><model type='virtio'/></interface>"),
        ("hostdev", "<hostdev mode='subsystem' type='pci'><source/></hostdev>"),
        ("graphics", "<graphics type='vnc' port='-1'/>"),
        ("filesystem", "<filesystem type='mount'><source dir='/'/><target dir='x'/></filesystem>"),
    ] {
        let guest = Guest { devices: device.into(), ..Guest::tiny(name) };
        let element = format!("<{name}>");
        does_not_start(&instance, &guest, &[&element, "is not supported", "take the element out"]);
        // The line is one of the document that the user can look at.
        let document = instance.ok(&["dumpxml", name]);
        let line = 1 + document.lines().position(|line| line.contains(&format!("<{name}"))).expect("it is kept");
        says(&instance.fails(&["start", name], 1), name, &[&format!("{element} (line {line})")]);
        // A guest that is started from a file is refused by that file's line.
        let path = instance.document(&Guest { name: format!("{name}-2"), ..guest });
        let file = fs::read_to_string(&path).unwrap();
        let line = 1 + file.lines().position(|line| line.contains(&format!("<{name}"))).expect("it is there");
        says(&instance.fails(&["create", text(&path)], 1), name, &[&format!("{element} (line {line})")]);
    }
}

#[test]
fn an_emulator_is_root_s_and_in_its_place() {
    let test = "an_emulator_is_root_s_and_in_its_place";
    let places = tempfile::Builder::new().prefix("bht-emulators-").tempdir_in("/tmp").expect("a directory");
    let allowed = places.path().join("allowed");
    fs::create_dir(&allowed).unwrap();
    for dir in [places.path(), &allowed] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let configuration = format!("emulator_roots = {}:/usr/bin", allowed.display());
    let Some(instance) = Instance::system_with(&configuration, test) else { return };
    let name = format!("qemu-system-{}", std::env::consts::ARCH);
    let make = |path: &Path| {
        fs::copy(Path::new("/usr/bin").join(&name), path).expect("a copy of QEMU");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    // A copy of QEMU elsewhere would not find its modules; a link to the installed one does.
    let (inside, outside) = (allowed.join(&name), places.path().join(&name));
    symlink(Path::new("/usr/bin").join(&name), &inside).unwrap();
    make(&outside);
    let [foreign, writable, link, text_file, missing] =
        ["foreign", "writable", "link", "text", "missing"].map(|name| allowed.join(name));
    make(&foreign);
    chown(&foreign, Some(12_345), Some(12_345)).unwrap();
    make(&writable);
    fs::set_permissions(&writable, fs::Permissions::from_mode(0o777)).unwrap();
    symlink(&outside, &link).unwrap();
    fs::write(&text_file, "x").unwrap();

    let mut wrong = Vec::new();
    let mut refused = |what: &str, path: &Path, words: &[&str]| {
        let devices = format!("<emulator>{}</emulator>", path.display());
        let document = instance.document(&Guest { devices, ..Guest::tiny("emulated") });
        for verb in ["define", "create"] {
            let output = instance.bulkhead(&[verb, text(&document)]);
            let words = [words, &[text(path), "hint:", "emulated"]].concat();
            let missing: Vec<_> = words.iter().filter(|words| !output.stderr.contains(**words)).collect();
            let nameless = output.stderr.contains("''");
            if output.code != 1 || !missing.is_empty() || nameless {
                wrong.push(format!("{verb} with {what}: exit {}, no {missing:?} in: {}", output.code, output.stderr));
            }
        }
    };
    refused("no file", &missing, &["No such file"]);
    refused("a file elsewhere", &outside, &["is not an emulator that qemud may run", "it is not under"]);
    refused("a link that leads elsewhere", &link, &["is not an emulator that qemud may run", "it is not under"]);
    refused("a user's own file", &foreign, &["does not belong to root alone"]);
    refused("a file that all may write", &writable, &["does not belong to root alone"]);
    refused("a text file", &text_file, &["it is no program"]);
    refused("a directory", &allowed, &["it is no program"]);
    assert!(wrong.is_empty(), "{} messages:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(names(&instance), [] as [&str; 0]);

    let devices = format!("<emulator>{}</emulator>", inside.display());
    instance.create(&Guest { devices, ..Guest::tiny("emulated") });
}

#[test]
fn a_qemu_that_dies_at_its_start_is_quoted_and_the_guest_starts_when_it_is_mended() {
    let instance = Instance::session();
    let disk = instance.file("broken.qcow2", b"this is no qcow2 image, however long one looks at it");
    let guest = Guest::tiny("broken").disk(&disk, "qcow2");
    does_not_start(&instance, &guest, &["QEMU exited with status 1", "Image is not in qcow2 format", "own words"]);
    // A version that no QEMU knows.
    let mut image = vec![0; 65536];
    image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x63");
    fs::write(&disk, &image).unwrap();
    does_not_start(&instance, &guest, &["QEMU exited with status 1", "version 99"]);
    fs::write(&disk, [0; 65536]).unwrap();
    define_anew(&instance, &Guest::tiny("broken").disk(&disk, "raw"));
    instance.ok(&["start", "broken"]);
    assert_eq!(instance.state("broken"), "running (booted)");

    let mut cpu = Guest::tiny("cpu");
    let xml = |model: &str| {
        let cpu = format!("<cpu><model>{model}</model></cpu><devices>");
        SOUND.replace("<devices>", &cpu).replace("sound", "cpu")
    };
    cpu.name = "cpu".into();
    let path = instance.file("cpu.xml", xml("quantum").as_bytes());
    // A model that the emulator does not have never reaches it.
    let output = instance.fails(&["define", text(&path)], 1);
    says(&output, "cpu", &["has no CPU model 'quantum'", "hint:"]);
    let path = instance.file("cpu.xml", xml("qemu64").as_bytes());
    instance.ok(&["define", text(&path)]);
    instance.ok(&["start", "cpu"]);

    // More memory than any host has: QEMU's own words again.
    let greedy = Guest { memory_mib: 4_000_000_000, ..Guest::tiny("greedy") };
    does_not_start(&instance, &greedy, &["QEMU"]);
    let running: Vec<_> = instance.list().into_iter().filter(|domain| domain.state == "running").collect();
    assert_eq!(running.len(), 2, "{running:?}");
}

#[test]
fn arguments_that_cannot_be_meant_are_exit_code_2() {
    let instance = Instance::session();
    for arguments in [
        vec!["frobnicate"],
        vec!["list", "--frobnicate"],
        vec!["start"],
        vec!["dominfo", "a", "b"],
        vec!["event", "--timeout", "never"],
        vec!["list", "--output", "yaml"],
    ] {
        let output = instance.bulkhead(&arguments);
        assert_eq!(output.code, 2, "{arguments:?}: {}{}", output.stdout, output.stderr);
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}");
    }
    for uri in ["qemu:///nowhere", "xen:///", "qemu+ssh://host/system", "nonsense", "://"] {
        let output = instance.bulkhead(&["-c", uri, "list"]);
        assert!([2, 4].contains(&output.code), "{uri}: {} {}", output.code, output.stderr);
        assert!(output.stderr.contains("hint:") || output.code == 2, "{uri}: {}", output.stderr);
    }
}
