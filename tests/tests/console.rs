//! Consoles: what was printed before, several readers, one writer, floods, ends.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bulkhead_tests::{Guest, Handle, Instance, LONG, PROMPT, Signal, Terminal, boot_permit, rss_kib};

const READY: &str = "bulkhead guest ready";

#[test]
fn what_was_printed_before_is_shown() {
    let instance = Instance::session();
    {
        let _permit = boot_permit();
        instance.create(&instance.linux("a"));
        let mut early = instance.terminal(&["console", "--read-only", "a"]);
        early.expect(PROMPT);
    }
    let mut late = instance.console("a");
    assert!(late.expect(PROMPT).contains(READY));
    assert_eq!(late.command("echo hello"), "hello\n");
    drop(late);
    let mut later = instance.console("a");
    assert!(later.expect("hello\r\n").contains(READY));
    later.line("poweroff -f");
    assert_eq!(later.exit(), 0);
    assert!(later.output.wait_for_end(LONG));
}

#[test]
fn one_writes_and_others_read() {
    let instance = Instance::session();
    let mut writer = instance.boot(&instance.linux("a"));
    let mut readers = [0, 1].map(|_| instance.terminal(&["console", "--read-only", "a"]));
    for reader in &mut readers {
        reader.expect(PROMPT);
        reader.line("echo NOT''HING");
    }
    assert_eq!(writer.command("echo one"), "one\n");
    for reader in &mut readers {
        reader.expect("one\r\n");
    }

    let mut second = instance.console("a");
    assert_eq!(second.exit(), 1);
    let refused = second.messages.text();
    assert!(refused.contains("Active console session exists") && refused.contains("--force"), "{refused}");
    assert_eq!(writer.command("echo two"), "two\n");

    let mut second = instance.terminal(&["console", "--force", "a"]);
    assert_eq!(writer.exit(), 1, "{}", writer.messages.text());
    assert!(writer.messages.text().contains("--force"), "{}", writer.messages.text());
    second.expect("two\r\n");
    second.expect(PROMPT);
    assert_eq!(second.command("echo three"), "three\n");
    for reader in &mut readers {
        reader.expect("three\r\n");
        assert!(!reader.output.text().contains("NOTHING"), "a reader cannot write");
    }
    // When the writer leaves, its place is free.
    drop(second);
    let mut third = instance.console("a");
    third.expect("three\r\n");
    third.expect(PROMPT);
    assert_eq!(third.command("echo four"), "four\n");
    third.line("poweroff -f");
    assert_eq!(third.exit(), 0);
    for reader in &mut readers {
        assert_eq!(reader.exit(), 0);
        assert!(reader.output.wait_for_end(LONG));
    }
}

/// A guest that floods its console costs the supervisor no memory and is not held up, though one client is stuck.
#[test]
fn a_flood_costs_no_memory() {
    let instance = Instance::session();
    let mut console = instance.boot(&instance.linux("a"));
    let supervisor = instance.supervisor("a");
    let stuck = instance.terminal(&["console", "--read-only", "a"]);
    let handle = Handle::open(stuck.pid()).unwrap();
    let mut flood = |kibibytes: usize| {
        let before = console.output.len();
        console.line(&format!("yes 0123456789abcdef | head -c {}; echo E''ND", kibibytes << 10));
        // A reader that is slower than the guest loses bytes, the oldest first; the end always comes.
        console.expect("END\r\n");
        console.expect(PROMPT);
        console.output.len() - before
    };
    // Fills the ring and every buffer, the stuck client's too.
    handle.signal(Signal::STOP);
    flood(512);
    let before = rss_kib(supervisor.pid).unwrap();
    // An emulated serial port brings some 200 KB a second; this is 16 times the ring, and four times what is allowed.
    let seen = flood(2048);
    let after = rss_kib(supervisor.pid).unwrap();
    assert!(seen > 1 << 20, "a flood of {seen} bytes");
    assert!(after <= before + 512, "{before} KiB became {after} KiB");
    handle.signal(Signal::CONT);
}

#[test]
fn a_console_ends_with_its_guest() {
    let instance = Instance::session();
    instance.create(&Guest::tiny("a"));
    let mut console = Terminal::on_pty(instance.command(&["console", "a"]));
    console.expect("Connected to 'a'");
    instance.ok(&["destroy", "a"]);
    console.expect("'a' has shut down");
    assert_eq!(console.exit(), 0);
    instance.fails(&["console", "a"], 3);
}

#[test]
fn a_console_that_is_not_there_is_an_error() {
    let instance = Instance::session();
    instance.define(&Guest::tiny("a"));
    let off = instance.fails(&["console", "a"], 1);
    assert!(off.stderr.contains("not running"), "{}", off.stderr);
    instance.ok(&["start", "a"]);
    let none = instance.fails(&["console", "--devname", "serial7", "a"], 1);
    assert!(none.stderr.contains("'a'"), "{}", none.stderr);
}
