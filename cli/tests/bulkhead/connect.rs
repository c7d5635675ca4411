//! Connections that cannot be made.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::common::{Bench, Run, text};

#[test]
fn a_driver_that_does_not_exist_is_answered_with_those_that_do() {
    Bench::new().run(&["-c", "foo:///x", "list"]).failed(
        4,
        &text(
            "
            error: cannot connect to 'foo:///x'
              caused by: no connection driver available for foo:///x
              caused by: there is no driver \"foo\"
              hint: the URIs served here are qemu:///system, qemu:///session, test:///default, test:///FILE.xml, and driver+unix|ssh|tls|tcp|ext://[user@][host][:port]/path for other daemons and hosts
            ",
        ),
    );
}

#[test]
fn a_daemon_that_cannot_be_started_is_named() {
    Bench::new().run(&["-c", "qemu:///session", "list"]).failed(
        4,
        &text(
            "
            error: cannot connect to 'qemu:///session'
              caused by: failed to start qemud for qemu:///session
              caused by: BULKHEAD_QEMUD names /dev/null, which is no program that can be run
              hint: correct or unset BULKHEAD_QEMUD
            ",
        ),
    );
}

#[test]
fn a_relative_root_would_mean_two_places_and_is_refused() {
    let bench = Bench::new();
    for uri in ["qemu:///session", "qemu+unix:///session"] {
        let run = Run::of(&bench.command(&["-c", uri, "list"]).env("BULKHEAD_ROOT", "root").output().unwrap());
        assert_eq!(run.code, Some(4), "{run:?}");
        let cause = "caused by: BULKHEAD_ROOT is the relative path 'root'; set it to an absolute one";
        assert!(run.stderr.contains(cause), "{run:?}");
    }
}

#[test]
fn what_is_no_text_is_no_uri() {
    let bench = Bench::new();
    let strange = OsStr::from_bytes(b"test:///\xff");
    let run = Run::of(&bench.command(&["list"]).env("BULKHEAD_URI", strange).output().unwrap());
    assert_ne!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("BULKHEAD_URI is not UTF-8"), "{run:?}");
    let helper = Command::new(env!("CARGO_BIN_EXE_bulkhead-ssh-helper")).arg(strange).output().unwrap();
    let run = Run::of(&helper);
    assert_eq!(run.stderr, "bulkhead-ssh-helper: usage: bulkhead-ssh-helper [--probe] [-r] URI\n");
    assert_eq!(run.code, Some(1));
}

#[test]
fn an_error_is_an_object_in_json() {
    let run = Bench::new().run(&["-c", "foo:///x", "--output", "json", "list"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(4), ""));
    let error: serde_json::Value = serde_json::from_str(&run.stderr).unwrap();
    assert_eq!(
        error,
        serde_json::json!({ "error": {
            "kind": "connect",
            "exit_code": 4,
            "code": 5,
            "domain": error["error"]["domain"].as_i64().unwrap(),
            "message": "cannot connect to 'foo:///x'",
            "causes": ["no connection driver available for foo:///x", "there is no driver \"foo\""],
            "hint": "the URIs served here are qemu:///system, qemu:///session, test:///default, test:///FILE.xml, and driver+unix|ssh|tls|tcp|ext://[user@][host][:port]/path for other daemons and hosts",
        }})
    );
}

#[test]
fn libvirt_s_configuration_gives_the_default_and_short_names() {
    let bench = Bench::new();
    let dir = bench.path().join("root/etc/libvirt");
    std::fs::create_dir_all(&dir).unwrap();
    let write = |text: &str| std::fs::write(dir.join("libvirt.conf"), text).unwrap();
    write("uri_default = \"test:///default\"\nuri_aliases = [ \"mock=test:///default\" ]\n");
    for arguments in [&["-c", "mock", "list", "--name"][..], &["list", "--name"]] {
        let output = bench.command(arguments).env_remove("BULKHEAD_URI").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "test", "{arguments:?}");
    }
    write("uri_aliases = [\n");
    let run = bench.run(&["-c", "mock", "list"]);
    assert_eq!(run.code, Some(4));
    assert!(run.stderr.contains("libvirt.conf, line 2: a list of texts is not closed"), "{}", run.stderr);
}
