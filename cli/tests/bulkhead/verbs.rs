//! Every verb that is one question or one call, with its whole output.

use crate::common::{Bench, text};
use serde_json::json;

const UUID: &str = "6695eb01-f6a4-8304-79aa-97f2502e193f";

fn gives(arguments: &[&str], stdout: &str) {
    Bench::new().run(arguments).gave(&text(stdout));
}

fn fails(code: i32, arguments: &[&str], stderr: &str) {
    Bench::new().run(arguments).failed(code, &text(stderr));
}

#[test]
fn list_shows_active_domains() {
    gives(&["list"], "\n Id   Name   State\n---------------------\n 1    test   running\n");
}

#[test]
fn list_prints_titles_if_they_are_asked_for() {
    let run = Bench::new().run(&["list", "--title"]);
    assert!(run.stdout.starts_with(" Id   Name   State     Title\n"), "{run:?}");
}

#[test]
fn list_of_nothing_has_its_heads() {
    gives(&["list", "--inactive"], "\n Id   Name   State\n-------------------\n");
}

#[test]
fn list_prints_bare_fields_for_scripts() {
    gives(&["list", "--name"], "test\n");
    gives(&["list", "--uuid"], &format!("{UUID}\n"));
    gives(&["list", "--id"], "1\n");
    gives(&["list", "--all", "--id", "--uuid", "--name"], &format!("1 {UUID} test\n"));
}

#[test]
fn list_filters() {
    for (arguments, found) in [
        (["--state-running"].as_slice(), true),
        (&["--state-paused"], false),
        (&["--state-shutoff"], false),
        (&["--state-paused", "--state-running"], true),
        (&["--persistent"], true),
        (&["--transient"], false),
        (&["--autostart"], false),
        (&["--no-autostart", "--all"], true),
        (&["--inactive"], false),
    ] {
        let run = Bench::new().run(&[&["list", "--name"], arguments].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), if found { "test\n" } else { "" }), "{arguments:?}");
    }
    assert_eq!(Bench::new().run(&["list", "--all", "--inactive"]).code, Some(2));
}

#[test]
fn list_in_json_holds_everything_that_is_known() {
    let list = Bench::new().json(&["list"]);
    assert_eq!(
        list,
        json!([{
            "id": 1,
            "name": "test",
            "uuid": UUID,
            "state": "running",
            "reason": "unknown",
            "persistent": true,
            "autostart": false,
            "supervisor_pid": null,
            "vcpus": 2,
            "memory_kib": 2097152,
        }])
    );
}

#[test]
fn a_domain_is_found_by_id_uuid_and_name() {
    for what in ["1", UUID, "test"] {
        gives(&["domname", what], "test\n");
    }
    gives(&["domid", "test"], "1\n");
    gives(&["domuuid", "test"], &format!("{UUID}\n"));
    assert_eq!(Bench::new().json(&["domid", "test"]), json!({ "id": 1, "name": "test", "uuid": UUID }));
}

#[test]
fn a_domain_that_is_not_there_is_an_error_of_its_own() {
    fails(
        3,
        &["domstate", "nope"],
        "
        error: cannot find domain 'nope'
          caused by: Domain not found: no domain with matching name 'nope'
          hint: 'bulkhead list --all' shows every domain
        ",
    );
}

#[test]
fn domstate_tells_the_state_and_why() {
    gives(&["domstate", "test"], "running\n");
    gives(&["domstate", "test", "--reason"], "running (unknown)\n");
    assert_eq!(Bench::new().json(&["domstate", "test"]), json!({ "state": "running", "reason": "unknown" }));
}

#[test]
fn dominfo_shows_what_a_domain_has() {
    let run = Bench::new().run(&["dominfo", "test"]);
    let still: String =
        run.stdout.lines().filter(|line| !line.starts_with("CPU time:")).map(|l| format!("{l}\n")).collect();
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert_eq!(
        still,
        text(
            "
            Id:           1
            Name:         test
            UUID:         6695eb01-f6a4-8304-79aa-97f2502e193f
            OS Type:      linux
            State:        running
            CPU(s):       2
            Max memory:   8388608 KiB
            Used memory:  2097152 KiB
            Persistent:   yes
            Autostart:    disable
            Accelerator:  test
            "
        )
    );
    let json = Bench::new().json(&["dominfo", "test"]);
    assert_eq!((&json["name"], &json["vcpus"], &json["state"]), (&json!("test"), &json!(2), &json!("running")));
}

#[test]
fn changes_are_reported_in_a_sentence() {
    for (verb, sentence) in [
        ("suspend", "Domain 'test' suspended\n"),
        ("shutdown", "Domain 'test' is being shutdown\n"),
        ("reboot", "Domain 'test' is being rebooted\n"),
        ("destroy", "Domain 'test' destroyed\n"),
        ("autostart", "Domain 'test' will start with the host\n"),
    ] {
        gives(&[verb, "test"], sentence);
        gives(&[verb, "test", "--quiet"], "");
        let json = Bench::new().json(&[verb, "test"]);
        assert_eq!((&json["action"], &json["domain"]["name"]), (&json!(verb), &json!("test")));
    }
    gives(&["destroy", "--graceful", "test"], "Domain 'test' destroyed\n");
    gives(&["autostart", "--disable", "test"], "Domain 'test' will not start with the host\n");
}

#[test]
fn changes_are_refused_to_those_who_may_only_look() {
    for (verb, api) in [
        ("suspend", "virDomainSuspend"),
        ("resume", "virDomainResume"),
        ("shutdown", "virDomainShutdown"),
        ("reboot", "virDomainReboot"),
        ("reset", "virDomainReset"),
        ("destroy", "virDomainDestroy"),
        ("autostart", "virDomainSetAutostart"),
        ("undefine", "virDomainUndefine"),
        ("start", "virDomainCreate"),
    ] {
        let run = Bench::new().run(&["--readonly", verb, "test"]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(5), ""), "{verb}");
        assert!(
            run.stderr.contains(&format!("operation forbidden: read only access prevents {api}")),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn a_domain_that_runs_cannot_be_started() {
    fails(
        1,
        &["start", "test"],
        "
        error: cannot start domain 'test'
          caused by: Requested operation is not valid: domain is already running
        ",
    );
}

#[test]
fn the_host_is_described() {
    gives(
        &["nodeinfo"],
        "
        CPU model:           i686
        CPU(s):              16
        CPU frequency:       1400 MHz
        CPU socket(s):       2
        Core(s) per socket:  2
        Thread(s) per core:  2
        NUMA cell(s):        2
        Memory size:         3145728 KiB
        ",
    );
    gives(&["uri"], "test:///default\n");
    assert_eq!(Bench::new().json(&["uri"]), json!({ "uri": "test:///default" }));
    assert_eq!(Bench::new().json(&["nodeinfo"])["memory_kib"], json!(3 << 20));
    let run = Bench::new().run(&["capabilities"]);
    assert!(run.code == Some(0) && run.stdout.starts_with("<capabilities>"), "{run:?}");
    let json = Bench::new().json(&["version"]);
    assert_eq!((&json["driver"], &json["client"]), (&json!("TEST"), &json!(env!("CARGO_PKG_VERSION"))));
    let hostname = Bench::new().run(&["hostname"]);
    assert!(hostname.code == Some(0) && hostname.stdout.trim() != "", "{hostname:?}");
}

#[test]
fn dumpxml_prints_the_document() {
    let run = Bench::new().run(&["dumpxml", "test"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert!(run.stdout.starts_with("<domain type='test' id='1'>\n  <name>test</name>\n"), "{}", run.stdout);
    let run = Bench::new().run(&["dumpxml", "--inactive", "test"]);
    assert!(run.stdout.starts_with("<domain type='test'>\n  <name>test</name>\n"), "{}", run.stdout);
    let json = Bench::new().json(&["dumpxml", "test"]);
    assert!(json["xml"].as_str().unwrap().starts_with("<domain"));
}

const DOCUMENT: &str = "\
<domain type='test'>
  <name>web</name>
  <memory unit='MiB'>64</memory>
  <os><type>hvm</type></os>
</domain>
";

#[test]
fn define_takes_a_file_or_the_standard_input() {
    let bench = Bench::new();
    bench.file("web.xml", DOCUMENT);
    bench.run(&["define", "web.xml"]).gave("Domain 'web' defined from 'web.xml'\n");
    bench.run_with_input(&["define", "-"], DOCUMENT).gave("Domain 'web' defined from the standard input\n");
    let json = bench.json(&["define", "web.xml"]);
    assert_eq!((&json["action"], &json["domain"]["id"]), (&json!("define"), &json!(null)));
}

#[test]
fn create_starts_a_transient_domain() {
    let bench = Bench::new();
    bench.file("web.xml", DOCUMENT);
    bench.run(&["create", "web.xml"]).gave("Domain 'web' created from 'web.xml'\n");
    bench.run(&["create", "--paused", "web.xml"]).gave("Domain 'web' created from 'web.xml'\n");
}

#[test]
fn what_is_not_understood_is_told_with_its_place() {
    let bench = Bench::new();
    bench.file("web.xml", DOCUMENT.replace("  <os>", "  <wheels>4</wheels>\n  <os>"));
    let run = bench.run(&["define", "web.xml"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "Domain 'web' defined from 'web.xml'\n"));
    assert_eq!(
        run.stderr,
        "warning: 'web.xml', line 4, column 3: domain/wheels: element <wheels> is not understood; it is kept as it is\n"
    );
    let run = bench.run(&["define", "--validate", "web.xml"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert_eq!(run.stderr.lines().last(), Some("error: 'web.xml' holds 1 thing(s) that are understood nowhere"));
}

#[test]
fn a_document_with_an_error_is_refused_with_its_place() {
    let bench = Bench::new();
    bench.file("web.xml", DOCUMENT.replace("64", "plenty"));
    bench.run(&["define", "web.xml"]).failed(
        1,
        &text(
            "
            error: 'web.xml' holds no domain that Bulkhead can read
              caused by: line 3, column 22: domain/memory: \"plenty\" is not a number of memory units; \
            expected an unsigned integer
              hint: a unit goes into the attribute: <memory unit='MiB'>512</memory>
            ",
        ),
    );
    bench
        .run(&["define", "nope.xml"])
        .failed(1, "error: cannot read 'nope.xml'\n  caused by: No such file or directory (os error 2)\n");
}

#[test]
fn a_document_larger_than_any_is_refused_unread() {
    let bench = Bench::new();
    bench.file("web.xml", vec![b' '; model::limits::MAX_BYTES + 1]);
    bench
        .run(&["create", "web.xml"])
        .failed(1, "error: 'web.xml' is larger than 4194304 bytes, the most that a document may have\n");
}

#[test]
fn undefine_removes_a_definition() {
    gives(&["undefine", "test"], "Domain 'test' has been undefined\n");
}

#[test]
fn run_defines_and_starts() {
    let bench = Bench::new();
    bench.file("disk", "");
    let run = |more: &[&str]| bench.run(&[&["run", "--disk", "disk", "--accel", "tcg", "--no-console"], more].concat());
    run(&["--name", "web"]).gave("Domain 'web' started\n");
    run(&["--name", "web", "--transient"]).gave("Domain 'web' started\n");
    let unnamed = run(&["--quiet"]);
    unnamed.gave("");
    run(&["--name", "test"]).failed(
        1,
        &text(
            "
            error: there is a domain 'test' already
              hint: choose another --name, or 'bulkhead start' the one that is there
            ",
        ),
    );
}
