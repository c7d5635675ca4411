//! What the program says of itself, and to those who use it wrongly.

use crate::common::{Bench, text};

#[test]
fn help_lists_every_verb_option_and_exit_code() {
    Bench::new().run(&["--help"]).gave(HELP);
}

#[test]
fn the_version_is_one_line() {
    Bench::new().run(&["--version"]).gave(concat!("bulkhead ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn every_verb_has_help() {
    let bench = Bench::new();
    let verbs = HELP.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    for verb in verbs.filter_map(|line| line.split_whitespace().next()) {
        let run = bench.run(&[verb, "--help"]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{verb}");
        assert!(run.stdout.contains(&format!("Usage: bulkhead {verb}")), "{verb}: {}", run.stdout);
    }
}

#[test]
fn an_unknown_option_is_a_usage_error_with_the_nearest_one() {
    Bench::new().run(&["list", "--al"]).failed(
        2,
        &text(
            "
            error: unexpected argument '--al' found

              tip: a similar argument exists: '--all'

            Usage: bulkhead list --all

            For more information, try '--help'.
            ",
        ),
    );
}

#[test]
fn a_usage_error_has_the_form_that_was_asked_for() {
    let bench = Bench::new();
    let run = bench.run(&["--output", "json", "frobnicate"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    let error: serde_json::Value = serde_json::from_str(&run.stderr).unwrap();
    assert_eq!(
        error,
        serde_json::json!({ "error": {
            "kind": "usage",
            "exit_code": 2,
            "code": null,
            "domain": null,
            "message": "unrecognized subcommand 'frobnicate'",
            "causes": [],
            "hint": "Usage: bulkhead [OPTIONS] <COMMAND>",
        }})
    );
    let run = Bench::new().command(&["frobnicate"]).env("BULKHEAD_OUTPUT", "json").output().unwrap();
    assert!(run.stderr.starts_with(b"{\"error\":"));
}

#[test]
fn a_gateway_serves_one_of_two_instances() {
    let run = Bench::new().command(&["-c", "test:///default", "gateway"]).output().unwrap();
    assert_eq!(run.status.code(), Some(2));
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(said.starts_with("error: no gateway can serve 'test:///default'\n"), "{said}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let bench = Bench::new();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    let output = bench.command(&["completions", "bash"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
}

#[test]
fn a_full_device_is_a_failure() {
    let bench = Bench::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = bench.command(&["completions", "bash"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: cannot write to the standard output\n  caused by: No space left on device (os error 28)\n"
    );
}

const HELP: &str = "\
Runs and watches virtual machines from the shell

Usage: bulkhead [OPTIONS] <COMMAND>

Commands:
  run           Run a guest from a kernel, an initrd or disk images
  list          List domains: the active ones, if nothing else is asked for
  define        Define a domain from an XML file, or change its definition
  undefine      Remove the definition of a domain; a running guest goes on as a transient one
  create        Start a transient domain from an XML file: it vanishes when it stops
  start         Start a domain that is defined and off
  suspend       Stop the virtual CPUs of a domain
  resume        Let the virtual CPUs of a domain run again
  shutdown      Ask a domain to shut itself down
  reboot        Ask a domain to reboot itself
  reset         Reset a domain, as its reset button would
  destroy       End a domain at once, as pulling its plug would
  autostart     Start a domain with the host, or not
  console       Attach the terminal to the console of a domain; the escape (^]) detaches
  event         Wait for events of domains and print them
  dominfo       Show what a domain has and uses
  domstate      Show the state of a domain
  domid         Print the id of a domain; '-' when it is off
  domuuid       Print the UUID of a domain
  domname       Print the name of a domain
  dumpxml       Print the XML of a domain
  nodeinfo      Show the host's processors and memory
  capabilities  Print what the host and its hypervisors can do, as XML
  hostname      Print the host's name
  version       Show the versions of this program, the daemon and the hypervisor
  uri           Print the canonical URI of the connection
  gateway       Serve libvirt's own clients (virsh, virt-manager, …) until it is ended
  completions   Print the lines that make a shell complete verbs, options and names of domains

Options:
  -h, --help     Print help
  -V, --version  Print version

Global options:
  -c, --connect <URI>  Connection URI: qemu:///system, qemu:///session, test:///default, or one of
                       another host
  -r, --readonly       Connect read-only: every call that changes something is refused
      --output <FORM>  Form of what is printed: 'table', or 'json' for programs
  -q, --quiet          Print results only, no messages

Exit codes:
  0  done
  1  the operation failed
  2  usage: unknown verb or option, bad value
  3  not found: there is no such domain
  4  cannot connect
  5  refused: read-only connection, or no permission
  6  the deadline passed

Environment:
  BULKHEAD_URI     the connection when -c is not given; then LIBVIRT_DEFAULT_URI
  BULKHEAD_OUTPUT  'table' or 'json' when --output is not given
  BULKHEAD_ROOT    directory that holds all files of another instance
";
