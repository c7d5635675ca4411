//! `bulkhead run`: what `make run` does, for root and for an ordinary user.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bulkhead_tests::{Instance, PROMPT, Terminal};

const ESCAPE: u8 = 0x1d;

fn run_arguments(instance: &Instance) -> Vec<String> {
    let guest = instance.linux("demo");
    let (kernel, initrd) = guest.kernel.expect("a Linux guest has a kernel");
    let [kernel, initrd] = [kernel, initrd].map(|path| path.to_str().unwrap().to_owned());
    let words =
        ["run", "--name", "demo", "--transient", "--memory", "128MiB", "--kernel", &kernel, "--initrd", &initrd];
    words.into_iter().chain(["--cmdline", &guest.cmdline]).map(str::to_owned).collect()
}

fn run(instance: &Instance, start: impl FnOnce(std::process::Command) -> Terminal) -> Terminal {
    let arguments = run_arguments(instance);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let _permit = bulkhead_tests::boot_permit();
    let mut terminal = start(instance.command(&arguments));
    terminal.expect(PROMPT);
    terminal
}

fn through_pipes(instance: &Instance) {
    let mut console = run(instance, Terminal::on_pipes);
    assert_eq!(console.command("uname -s"), "Linux\n");
    assert_eq!(console.command("id -u"), "0\n");
    assert_eq!(instance.domain("demo").state, "running");
    instance.ok(&["shutdown", "demo"]);
    assert_eq!(console.exit(), 0, "{}", console.messages.text());
    assert!(console.messages.text().contains("'demo' has shut down"), "{}", console.messages.text());
    instance.fails(&["domstate", "demo"], 3);
}

fn at_a_terminal(instance: &Instance) {
    let mut first = run(instance, Terminal::on_pty);
    assert!(first.is_raw());
    first.send(b"echo $((6 * 7))\r");
    first.expect("42\r\n");
    first.expect(PROMPT);
    first.send(&[ESCAPE]);
    first.expect("Detached from 'demo'; it goes on running");
    assert_eq!(first.exit(), 0);
    assert!(!first.is_raw(), "the terminal is as it was");
    assert_eq!(instance.domain("demo").state, "running");

    let mut again = Terminal::on_pty(instance.command(&["console", "demo"]));
    again.expect("42\r\n");
    again.expect(PROMPT);
    again.send(b"echo $((6 * 8))\r");
    again.expect("48\r\n");
    again.expect(PROMPT);
    again.send(b"poweroff -f\r");
    again.expect("'demo' has shut down");
    assert_eq!(again.exit(), 0);
    assert!(!again.is_raw(), "the terminal is as it was");
    instance.fails(&["domstate", "demo"], 3);
}

#[test]
fn through_pipes_in_the_own_session() {
    through_pipes(&Instance::session());
}

#[test]
fn through_pipes_as_an_ordinary_user() {
    through_pipes(&Instance::ordinary());
}

#[test]
fn at_a_terminal_in_the_own_session() {
    at_a_terminal(&Instance::session());
}

#[test]
fn at_a_terminal_as_an_ordinary_user() {
    at_a_terminal(&Instance::ordinary());
}

#[test]
fn through_pipes_on_the_host() {
    if let Some(instance) = Instance::system("through_pipes_on_the_host") {
        through_pipes(&instance);
    }
}
