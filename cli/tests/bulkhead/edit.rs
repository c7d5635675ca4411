//! `edit`.

use crate::common::{Bench, Run};

fn edit(bench: &Bench, editor: &str) -> Run {
    let tmp = bench.path().join("tmp");
    std::fs::create_dir_all(&tmp).unwrap();
    let mut command = bench.command(&["edit", "test"]);
    Run::of(&command.env("EDITOR", editor).env("TMPDIR", &tmp).output().unwrap())
}

fn left(bench: &Bench) -> usize {
    std::fs::read_dir(bench.path().join("tmp")).unwrap().count()
}

#[test]
fn a_changed_definition_replaces_the_old_one() {
    let bench = Bench::new();
    edit(&bench, "sed -i s/destroy/restart/").gave("Domain 'test' has a new definition\n");
    assert_eq!(left(&bench), 0);
}

#[test]
fn an_unchanged_definition_is_left_alone() {
    let bench = Bench::new();
    edit(&bench, "true").gave("Domain 'test' is unchanged\n");
    assert_eq!(left(&bench), 0);
}

#[test]
fn a_definition_that_is_refused_stays_in_its_file() {
    let bench = Bench::new();
    let run = edit(&bench, "sed -i s/hvm/nothing/");
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(run.stderr.starts_with("error: cannot define a domain from '"), "{}", run.stderr);
    assert_eq!(left(&bench), 1);
}

#[test]
fn an_editor_that_fails_changes_nothing() {
    let bench = Bench::new();
    edit(&bench, "false")
        .failed(1, "error: cannot edit the definition\n  caused by: the editor failed: exit status: 1\n");
    assert_eq!(left(&bench), 0);
}
