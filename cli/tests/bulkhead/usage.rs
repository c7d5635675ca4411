//! What the program says of itself, and to those who use it wrongly.

use crate::common::{Bench, text, verbs};

/// `REGENERATE_REFERENCE=1 cargo test -p cli` writes the golden file anew; review what changed.
#[test]
fn help_lists_every_verb_option_and_exit_code() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bulkhead/help.txt");
    let run = Bench::new().run(&["--help"]);
    if std::env::var_os("REGENERATE_REFERENCE").is_some() {
        std::fs::write(golden, &run.stdout).unwrap();
    }
    run.gave(&std::fs::read_to_string(golden).unwrap_or_default());
    Bench::new().run(&["help"]).gave(&run.stdout);
}

#[test]
fn the_version_is_one_line() {
    Bench::new().run(&["--version"]).gave(concat!("bulkhead ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn every_verb_has_help() {
    let bench = Bench::new();
    for verb in verbs() {
        let name = verb["name"].as_str().unwrap();
        let run = bench.run(&[name, "--help"]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{name}");
        assert!(run.stdout.contains(&format!("Usage: bulkhead {name}")), "{name}: {}", run.stdout);
        assert_eq!(bench.run(&["help", name]).stdout, run.stdout);
    }
}

#[test]
fn help_of_a_group_lists_its_verbs() {
    let run = Bench::new().run(&["help", "program"]);
    assert!(run.code == Some(0) && run.stdout.starts_with("This program (program):\n  gateway"), "{run:?}");
    Bench::new()
        .run(&["help", "nope"])
        .failed(2, "error: there is no verb and no group of verbs 'nope'\n  hint: 'bulkhead help' lists them\n");
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
