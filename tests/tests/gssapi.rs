//! Our client at Debian's libvirtd, let in by a Kerberos ticket: a realm, a daemon and a client in a network of their own.
//!
//! Each test starts itself again in that network, with the user's ticket in its environment; the second one is the client.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    env,
    io::{Read, Write},
    process::Command,
    thread,
};

use bulkhead_tests::{Guest, LONG, Libvirtd, PROMPT, boot_permit, run};
use libclient::{
    Connection, ConsoleFlags, CreateFlags, DefineFlags, DestroyFlags, ErrorCode, EventKind, ListFlags, UndefineFlags,
    XmlFlags,
};

/// Tells a test that it is the client, and where to connect to.
const URI: &str = "BULKHEAD_TEST_URI";
const TCP: &str = "qemu+tcp://localhost/system";

/// The URI, in the process that is the client.
fn client_s_uri() -> Option<String> {
    env::var(URI).ok()
}

/// This test once more, as the client of `libvirtd`.
fn client(libvirtd: &Libvirtd, test: &str, uri: &str) -> Command {
    let mut command = libvirtd.beside(&env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(URI, uri);
    command
}

#[track_caller]
fn succeeds(client: Command) {
    let output = run(client);
    assert!(output.code == 0 && output.stdout.contains("1 passed"), "{}{}", output.stdout, output.stderr);
}

#[test]
fn a_ticket_opens_tcp_and_all_that_follows_is_encrypted() {
    const TEST: &str = "a_ticket_opens_tcp_and_all_that_follows_is_encrypted";
    if let Some(uri) = client_s_uri() {
        let connection = Connection::open(&uri).unwrap();
        assert!(connection.is_secure().unwrap() && connection.is_encrypted().unwrap());
        assert_eq!(connection.uri().unwrap(), uri);
        many_calls_at_once(&connection);
        large_documents_and_events(&connection);
        return;
    }
    let Some(libvirtd) = Libvirtd::of_a_realm(TEST) else { return };
    succeeds(client(&libvirtd, TEST, TCP));
    succeeds(client(&libvirtd, TEST, "qemu+tcp://ann@localhost/system?auth=sasl.gssapi"));
}

fn many_calls_at_once(connection: &Connection) {
    let name = connection.hostname().unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| assert_eq!(connection.hostname().unwrap(), name)));
        }
    });
}

/// A document of many chunks, both ways, and what is told of it meanwhile.
fn large_documents_and_events(connection: &Connection) {
    let mut events = connection.subscribe(None).unwrap();
    let words: String = (0..100_000).map(|number| format!("word{number} ")).collect();
    let described = format!("<name>large</name>\n  <description>{}</description>", words.trim_end());
    let document = Guest::tiny("large").xml().replace("<name>large</name>", &described);
    let domain = connection.define_xml(&document, DefineFlags::empty()).unwrap();
    assert!(domain.xml(XmlFlags::empty()).unwrap().contains(words.trim_end()));
    assert_eq!(connection.domains(ListFlags::empty()).unwrap().len(), 1);
    domain.undefine(UndefineFlags::empty()).unwrap();
    for kind in [EventKind::Defined, EventKind::Undefined] {
        let event = events.next(Some(LONG)).unwrap().unwrap();
        assert_eq!((event.kind, event.domain.name()), (kind, "large"));
    }
}

/// A stream, both ways.
#[test]
fn a_console_travels_encrypted() {
    const TEST: &str = "a_console_travels_encrypted";
    let Some(uri) = client_s_uri() else {
        let Some(libvirtd) = Libvirtd::of_a_realm(TEST) else { return };
        return succeeds(client(&libvirtd, TEST, TCP));
    };
    let connection = Connection::open(&uri).unwrap();
    let permit = boot_permit();
    let domain = connection.create_xml(&Guest::linux("a").xml(), CreateFlags::empty()).unwrap();
    let mut console = domain.open_console(None, ConsoleFlags::empty()).unwrap();
    let mut seen = String::new();
    let mut expect = |console: &mut libclient::ConsoleStream, what: &str| {
        let mut buffer = [0; 4096];
        while !seen.contains(what) {
            let count = console.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "the console ended before '{what}': {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        std::mem::take(&mut seen)
    };
    // What it showed before it was watched is not shown again.
    console.write_all(b"\n").unwrap();
    expect(&mut console, PROMPT);
    drop(permit);
    console.write_all(b"n=0; while [ $n -lt 5000 ]; do echo line $n; n=$((n+1)); done; echo all of $n\n").unwrap();
    let lines = expect(&mut console, "all of 5000");
    assert_eq!(lines.lines().filter(|line| line.starts_with("line ")).count(), 5000);
    domain.destroy(DestroyFlags::empty()).unwrap();
}

#[test]
fn a_ticket_opens_a_socket_that_needs_no_layer() {
    const TEST: &str = "a_ticket_opens_a_socket_that_needs_no_layer";
    if let Some(uri) = client_s_uri() {
        let connection = Connection::open(&uri).unwrap();
        assert!(connection.is_secure().unwrap() && !connection.is_encrypted().unwrap());
        many_calls_at_once(&connection);
        return;
    }
    let Some(libvirtd) = Libvirtd::of_a_realm(TEST) else { return };
    succeeds(client(&libvirtd, TEST, &libvirtd.uri()));
}

#[test]
fn who_is_not_let_in_is_told_why_and_what_to_do() {
    const TEST: &str = "who_is_not_let_in_is_told_why_and_what_to_do";
    if let Some(uri) = client_s_uri() {
        let error = Connection::open(&uri).unwrap_err();
        assert_eq!(error.code, ErrorCode::AUTH_FAILED, "{error:?}");
        println!("{}; {}; hint: {}", error.message, error.causes.join("; "), error.hint.unwrap());
        return;
    }
    let Some(libvirtd) = Libvirtd::of_a_realm(TEST) else { return };
    let told = |client: Command, why: &str, advice: &str| {
        let output = run(client);
        let (causes, hint) = output.stdout.split_once("hint: ").unwrap_or_else(|| panic!("{}", output.stderr));
        assert!(causes.contains(why) && hint.contains(advice), "{causes}{hint}");
    };
    let mut without = client(&libvirtd, TEST, TCP);
    without.env("KRB5CCNAME", "FILE:/nonexistent");
    told(without, "no Kerberos ticket is at hand for this user", "kinit");
    let another = client(&libvirtd, TEST, "qemu+tcp://bob@localhost/system");
    told(another, "no Kerberos ticket is at hand for bob", "kinit");
    let unknown = client(&libvirtd, TEST, "qemu+tcp://127.0.0.1/system");
    told(unknown, "Kerberos does not bring this client to libvirt@127.0.0.1", "libvirt/HOST");
    let other = client(&libvirtd, TEST, "qemu+tcp://localhost/system?auth=sasl.scram-sha-256");
    told(
        other,
        "the server offers GSSAPI, the URI asks for SCRAM-SHA-256, and this client was built with GSSAPI",
        "auth",
    );
}
