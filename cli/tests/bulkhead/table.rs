//! What every row of the table of verbs promises, on the mock hypervisor.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::{Bench, Run, verbs};

/// libvirt's numbers of `not supported`, `invalid argument`, `not valid in this state` and `no such metadata`: the mock's domain
/// runs and has neither devices nor metadata, so a row's example may get these.
const NOT_HERE: [i64; 4] = [3, 8, 55, 80];

const DOCUMENT: &str = "\
<domain type='test'>
  <name>web</name>
  <memory unit='MiB'>64</memory>
  <os><type>hvm</type></os>
</domain>
";

/// A row's example, with these options before the verb.
fn example(verb: &Value, options: &[&str]) -> Run {
    let bench = Bench::new();
    bench.file("web.xml", DOCUMENT);
    bench.file("disk.xml", "<disk type='file'><target dev='vdb'/></disk>");
    bench.file("disk", "");
    let words = verb["example"].as_str().unwrap().split(' ').filter(|word| !word.is_empty());
    bench.run(&options.iter().copied().chain([verb["name"].as_str().unwrap()]).chain(words).collect::<Vec<_>>())
}

/// The keys that a shape such as `[{"a", "b": {"c"}}]` has at its top.
fn keys(shape: &str) -> BTreeSet<String> {
    let inner = shape.trim_start_matches('[').trim_end_matches(']').trim_start_matches('{');
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut top) = (0, String::new());
    for letter in inner.chars() {
        depth += i32::from(matches!(letter, '{' | '[')) - i32::from(matches!(letter, '}' | ']'));
        if depth == 0 {
            top.push(letter);
        }
    }
    top.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_verb_prints_the_json_that_its_row_promises() {
    for verb in verbs() {
        let Some(shape) = verb["json"].as_str() else { continue };
        let run = example(&verb, &["--output", "json"]);
        if run.code != Some(0) {
            let error: Value = serde_json::from_str(&run.stderr).unwrap_or_else(|_| panic!("{verb}: {run:?}"));
            let code = error["error"]["code"].as_i64();
            assert!(code.is_some_and(|code| NOT_HERE.contains(&code)) || run.code == Some(6), "{verb}: {run:?}");
            continue;
        }
        let printed: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{verb}: {run:?}"));
        assert_eq!(printed.is_array(), shape.starts_with('['), "{verb}: {run:?}");
        let one = if printed.is_array() { printed.get(0).cloned().unwrap_or_default() } else { printed };
        let Some(object) = one.as_object() else { continue };
        if !shape.contains('…') {
            assert_eq!(object.keys().cloned().collect::<BTreeSet<_>>(), keys(shape), "{verb}");
        }
    }
}

#[test]
fn every_verb_does_on_a_read_only_connection_what_its_row_states() {
    for verb in verbs() {
        let name = verb["name"].as_str().unwrap();
        match verb["read_only"].as_str().unwrap() {
            "refused" => assert_eq!(example(&verb, &["-r"]).code, Some(5), "{name}"),
            "works" | "refuses changes" => assert_ne!(example(&verb, &["-r"]).code, Some(5), "{name}"),
            // The gateway would run for ever.
            "offline" if name == "gateway" => {}
            "offline" => assert_eq!(example(&verb, &["-c", "nope:///"]).code, Some(0), "{name}"),
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn every_verb_has_documentation() {
    for verb in verbs() {
        assert!(verb["about"].as_str().is_some_and(|about| !about.is_empty()), "{verb}");
        for argument in verb["arguments"].as_array().unwrap() {
            assert!(argument["help"].as_str().is_some_and(|help| !help.is_empty()), "{verb}");
        }
    }
}

#[test]
fn a_word_may_be_given_by_its_name() {
    let bench = Bench::new();
    bench.file("web.xml", DOCUMENT);
    bench.run(&["domname", "--domain", "1"]).gave("test\n");
    bench.run(&["domstate", "--reason", "--domain=test"]).gave("running (unknown)\n");
    bench.run(&["define", "--file", "web.xml", "--validate"]).gave("Domain 'web' defined from 'web.xml'\n");
    assert_eq!(bench.run(&["domname", "--domain"]).code, Some(2));
    assert_eq!(bench.run(&["domname", "--domain", "1", "test"]).code, Some(2));
}

#[test]
fn each_of_several_domains_gets_its_turn() {
    let bench = Bench::new();
    let run = bench.run(&["suspend", "nope", "test"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(3), "Domain 'test' suspended\n"));
    assert!(run.stderr.starts_with("error: cannot find domain 'nope'\n"), "{run:?}");
    let list = bench.json(&["reboot", "test", "1"]);
    assert_eq!(list[1]["domain"]["name"], "test");
    assert_eq!(list[0]["action"], "reboot");
    assert_eq!(bench.run(&["start", "--console", "test", "web"]).code, Some(2));
}
