//! What is refused, and how it is said: the whole message with its position, and the hint.
// Helpers of tests stop as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use model::{Domain, XmlError};

/// A document whose line 2 is `line`.
fn with_line(line: &str) -> String {
    let mut lines = vec!["<domain type='qemu'>"];
    lines.push(line);
    for (element, default) in
        [("<name", "<name>a</name>"), ("<memory", "<memory>1024</memory>"), ("<os", "<os><type>hvm</type></os>")]
    {
        if !line.contains(element) {
            lines.push(default);
        }
    }
    lines.push("</domain>");
    lines.join("\n")
}

fn refused(xml: &str) -> XmlError {
    Domain::parse(xml).expect_err(xml)
}

#[test]
fn a_wrong_value_is_shown_with_its_place_and_what_was_expected() {
    let cases = [
        (
            "  <memory>abc</memory>",
            "line 2, column 11: domain/memory: \"abc\" is not a number of memory units; expected an unsigned integer",
        ),
        (
            "<memory>\n   -5</memory>",
            "line 3, column 4: domain/memory: \"-5\" is not a number of memory units; expected an unsigned integer",
        ),
        (
            "<memory unit='parsec'>1</memory>",
            "line 2, column 9: domain/memory/@unit: \"parsec\" is not a unit of memory; expected b, bytes, KB, KiB, MB, \
             MiB, GB, GiB, TB, TiB, PB, PiB, EB or EiB",
        ),
        (
            "<memory unit='TiB'>9999999999</memory>",
            "line 2, column 20: domain/memory: 9999999999 is out of range for an amount of memory in KiB; expected 1 to 9007199254740991",
        ),
        (
            "<memory>0</memory>",
            "line 2, column 9: domain/memory: \"0\" is not accepted; expected at least 1 KiB of memory",
        ),
        (
            "<vcpu>99999999999</vcpu>",
            "line 2, column 7: domain/vcpu: 99999999999 is out of range for a number of virtual CPUs; expected 1 to 4294967295",
        ),
        (
            "<vcpu>0</vcpu>",
            "line 2, column 7: domain/vcpu: 0 is out of range for a number of virtual CPUs; expected 1 to 4294967295",
        ),
        (
            "<vcpu current='3'>2</vcpu>",
            "line 2, column 7: domain/vcpu/@current: \"3\" is not accepted; expected no more virtual CPUs than the \
             element itself says",
        ),
        (
            "<uuid>nope</uuid>",
            "line 2, column 7: domain/uuid: \"nope\" is not a UUID; expected 32 hexadecimal digits, not all zero",
        ),
        (
            "<on_crash>explode</on_crash>",
            "line 2, column 11: domain/on_crash: \"explode\" is unknown; expected destroy, restart, preserve, \
             rename-restart, coredump-destroy or coredump-restart",
        ),
        (
            "<title>a\nb</title>",
            "line 2, column 8: domain/title: \"a\nb\" is not accepted; expected a title of one line",
        ),
        (
            "<name>a<b/></name>",
            "line 2, column 8: domain/name/b: <b> inside an element that holds text only; expected text",
        ),
        (
            "<os/><!-- ä --><uuid/>",
            "line 2, column 16: domain/uuid: \"\" is not a UUID; expected 32 hexadecimal digits, not all zero",
        ),
        ("<os/>", "line 2, column 1: domain/os: element <type> is missing; expected one"),
    ];
    for (line, message) in cases {
        assert_eq!(refused(&with_line(line)).to_string(), message, "{line}");
    }
}

#[test]
fn a_wrong_disk_is_found_among_its_siblings() {
    let good = "<disk><source file='/a'/><target dev='vda'/></disk>";
    let cases = [
        (
            "<disk><source file='/b'/><target dev='vda'/></disk>",
            "line 2, column 94: domain/devices/disk[2]/target/@dev: target \"vda\" is taken by the disk on line 2; \
             expected a target of its own",
        ),
        (
            "<disk><source file='/b'/></disk>",
            "line 2, column 61: domain/devices/disk[2]: element <target> is missing; expected one",
        ),
        (
            "<disk><target dev='vdb'/></disk>",
            "line 2, column 61: domain/devices/disk[2]: element <source> is missing; expected one",
        ),
        (
            "<disk><source dev='/b'/><target dev='vdb'/></disk>",
            "line 2, column 67: domain/devices/disk[2]/source: attribute \"file\" is missing; expected one",
        ),
        (
            "<disk><source file='/b'/><target dev='odd'/></disk>",
            "line 2, column 86: domain/devices/disk[2]/target: attribute \"bus\" is missing; expected one",
        ),
        (
            "<disk><source file='/b'/><target dev='v,d'/></disk>",
            "line 2, column 94: domain/devices/disk[2]/target/@dev: \"v,d\" is not accepted; expected 1 to 64 letters, \
             digits, '-' or '_'",
        ),
        (
            "<disk device='tape'/>",
            "line 2, column 67: domain/devices/disk[2]/@device: \"tape\" is unknown; expected disk, cdrom, floppy or lun",
        ),
    ];
    for (bad, message) in cases {
        assert_eq!(refused(&with_line(&format!("<devices>{good}{bad}</devices>"))).to_string(), message);
    }
}

#[test]
fn what_is_missing_is_named() {
    let cases = [
        ("<domain type='qemu'/>", "line 1, column 1: domain: element <name> is missing; expected one"),
        (
            "<domain type='kvm'><name>a</name></domain>",
            "line 1, column 1: domain: element <memory> is missing; expected one",
        ),
        (
            "<domain type='kvm'><name>a</name><memory>1</memory></domain>",
            "line 1, column 1: domain: element <os> is missing; expected one",
        ),
        ("<domain/>", "line 1, column 1: domain: attribute \"type\" is missing; expected one"),
        ("\n <network/>", "line 2, column 2: network: the root element is <network>; expected <domain>"),
        ("<domain xmlns='urn:x'/>", "line 1, column 1: domain: the root element is <domain>; expected <domain>"),
    ];
    for (xml, message) in cases {
        assert_eq!(refused(xml).to_string(), message);
    }
    let error = refused("<domain type='qemoo'/>");
    assert_eq!((error.path(), error.hint().as_deref()), ("domain/@type", Some("did you mean \"qemu\"?")));
    assert!(matches!(error, XmlError::UnknownDomainType { .. }));
}

#[test]
fn a_name_must_be_fit_for_a_file() {
    let long = "x".repeat(201);
    let cases = [
        ("", "is empty"),
        (" ", "is empty"),
        ("a/b", "contains '/'"),
        ("..", "begins with '.'"),
        (".hidden", "begins with '.'"),
        ("a&#10;b", "contains a control character"),
        ("a\tb", "contains a control character"),
        ("a&#x7f;b", "contains a control character"),
        (&long, "is too long"),
    ];
    for (name, expected) in cases {
        match refused(&with_line(&format!("<name>{name}</name>"))) {
            XmlError::BadName { reason, place, .. } => assert_eq!((reason, place.line), (expected, 2), "{name}"),
            other => panic!("{name}: {other}"),
        }
    }
    let longest = "ä".repeat(100);
    assert_eq!(Domain::parse(&with_line(&format!("<name>{longest}</name>"))).unwrap().value.name, longest);
}

#[test]
fn uuids_are_taken_in_libvirts_forms_only() {
    for good in [
        "2f1c1a2e-5b0e-4f57-9c3b-6f0c1d5a7e10",
        "2F1C1A2E5B0E4F579C3B6F0C1D5A7E10",
        " 2f1c1a2e5b0e4f579c3b6f0c1d5a7e10\n",
    ] {
        assert!(Domain::parse(&with_line(&format!("<uuid>{good}</uuid>"))).is_ok(), "{good}");
    }
    for bad in [
        "{2f1c1a2e-5b0e-4f57-9c3b-6f0c1d5a7e10}",
        "urn:uuid:2f1c1a2e-5b0e-4f57-9c3b-6f0c1d5a7e10",
        "00000000-0000-0000-0000-000000000000",
    ] {
        assert!(matches!(refused(&with_line(&format!("<uuid>{bad}</uuid>"))), XmlError::BadUuid { .. }), "{bad}");
    }
}

#[test]
fn what_may_stand_once_is_refused_the_second_time() {
    for element in [
        "<name>b</name>",
        "<memory>2</memory>",
        "<os><type>hvm</type></os>",
        "<vcpu>1</vcpu>",
        "<uuid/>",
        "<clock/>",
        "<cpu/>",
        "<features/>",
        "<devices/>",
        "<metadata/>",
        "<on_crash>destroy</on_crash>",
        "<title/>",
        "<currentMemory>1</currentMemory>",
    ] {
        let first = with_line(element).replace("<uuid/>", "<uuid>2f1c1a2e-5b0e-4f57-9c3b-6f0c1d5a7e10</uuid>");
        let error = refused(&first.replace("</domain>", &format!("{element}</domain>")));
        let last = u32::try_from(first.lines().count()).unwrap();
        match error {
            XmlError::DuplicateElement { first_line: 2, ref place, .. } => assert_eq!(place.line, last, "{error}"),
            other => panic!("{element}: {other}"),
        }
        assert!(error.path().ends_with("[2]"), "{}", error.path());
    }
}

#[test]
fn ill_formed_text_is_found_at_its_place_and_in_its_element() {
    // What, line, column, path, a word of the hint.
    let cases = [
        ("<domain>\n  <name>a</nam>\n</domain>", 2, 10, "domain/name", "close <name> first"),
        ("<domain>\n <name>a & b</name></domain>", 2, 10, "domain/name", "&amp;"),
        ("<domain>\n <name>&auml;</name></domain>", 2, 8, "domain/name", "&amp;"),
        ("<domain>\n <a b='<'/></domain>", 2, 8, "domain", "&lt;"),
        ("<domain>\n <q:a/></domain>", 2, 3, "domain", "xmlns:q"),
        ("<domain>\n <a b='1' b='2'/></domain>", 2, 11, "domain", ""),
        ("<domain>\n <name>\n", 3, 1, "domain/name", ""),
        ("<domain>\n <name", 2, 7, "domain", ""),
        ("<domain>&#0;</domain>", 1, 9, "domain", ""),
        ("<domain>\u{1}</domain>", 1, 9, "domain", ""),
        ("", 1, 1, "", ""),
        ("no tag", 1, 1, "", ""),
        ("<domain/><domain/>", 1, 10, "", ""),
    ];
    for (xml, line, column, path, hint) in cases {
        let error = refused(xml);
        assert!(matches!(error, XmlError::NotWellFormed { .. }), "{xml}: {error}");
        assert_eq!((error.line(), error.column(), error.path()), (line, column, path), "{xml}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{xml}: {error:?}");
    }
}

#[test]
fn every_error_says_what_was_expected() {
    let texts = ["<domain", "<!DOCTYPE d><domain/>", "<x/>", "<domain/>", "<domain type='x'/>", "<domain type='kvm'/>"];
    for xml in texts {
        assert!(!refused(xml).expected().is_empty(), "{xml}");
    }
    let error = refused(&with_line("<memory>512M</memory>"));
    assert!(error.hint().unwrap().contains("unit='MiB'"));
}
