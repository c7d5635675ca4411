//! Guests of the released programs go on under the programs of this tree.
//!
//! `BULKHEAD_PREVIOUS` names the directory with the released programs: `git worktree add DIR 755e2f7`, and there
//! `cargo build --bins`. Without it the tests are skipped: a build of another commit is no part of this one's.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{env, path::PathBuf};

use bulkhead_tests::{Domain, Guest, Handle, Instance, PROMPT, Role, Terminal, skip};

fn previous(test: &str) -> Option<PathBuf> {
    let named = env::var_os("BULKHEAD_PREVIOUS").map(PathBuf::from);
    if named.is_none() {
        skip(test, "BULKHEAD_PREVIOUS does not name the released programs");
    }
    named
}

/// `kill -9` for everything but guests and what supervises them.
fn stop_daemon(instance: &Instance) {
    for process in instance.processes() {
        if !matches!(process.role, Role::Supervisor | Role::Kept | Role::Qemu)
            && let Some(handle) = process.handle()
        {
            handle.kill();
        }
    }
}

fn sorted(instance: &Instance) -> Vec<Domain> {
    let mut list = instance.list();
    list.sort_by(|one, other| one.name.cmp(&other.name));
    list
}

fn upgrade(instance: &mut Instance, released: &std::path::Path) {
    instance.use_programs(released);
    let disk = instance.file("disk.img", &[0; 4096]);
    instance.define(&Guest::tiny("defined"));
    instance.define(&Guest::tiny("running").disk(&disk, "raw"));
    instance.ok(&["start", "running"]);
    instance.create(&Guest::tiny("paused"));
    instance.ok(&["suspend", "paused"]);
    instance.create(&Guest::linux("speaks"));
    let before = sorted(instance);
    let documents: Vec<String> = before.iter().map(|domain| instance.ok(&["dumpxml", &domain.name])).collect();
    let qemus: Vec<Handle> = instance.role(Role::Qemu).iter().filter_map(bulkhead_tests::Process::handle).collect();
    assert_eq!(qemus.len(), 3);

    stop_daemon(instance);
    instance.use_own_programs();
    assert_eq!(sorted(instance), before);
    assert!(qemus.iter().all(Handle::is_alive), "no guest has noticed");
    let after: Vec<String> = before.iter().map(|domain| instance.ok(&["dumpxml", &domain.name])).collect();
    assert_eq!(after, documents);
    assert_eq!(instance.state("paused"), "paused (user)");
    assert_eq!(instance.state("running"), "running (booted)");

    // They are as good as any other.
    let mut watch = instance.watch();
    instance.ok(&["resume", "paused"]);
    watch.expect("paused", "Resumed", "Unpaused");
    instance.ok(&["suspend", "running"]);
    instance.ok(&["resume", "running"]);
    let refused = instance.fails(&["start", "running"], 1);
    assert!(refused.stderr.contains("already"), "{}", refused.stderr);
    // The disk belongs to the run of the released programs.
    instance.define(&Guest::tiny("second").disk(&disk, "raw"));
    let refused = instance.fails(&["start", "second"], 1);
    assert!(refused.stderr.contains("in use") || refused.stderr.contains("uses"), "{}", refused.stderr);
    let mut console = Terminal::on_pty(instance.command(&["console", "speaks"]));
    console.expect(PROMPT);
    drop(console);
    instance.ok(&["reset", "running"]);
    // Killed without a link that it could answer on, and asked politely.
    instance.ok(&["destroy", "running"]);
    watch.expect("running", "Stopped", "Destroyed");
    instance.ok(&["shutdown", "speaks"]);
    watch.expect("speaks", "Stopped", "Shutdown");
    instance.ok(&["destroy", "paused"]);
    // And the next run is of this release.
    instance.ok(&["start", "second"]);
    instance.ok(&["destroy", "second"]);
}

#[test]
fn a_session_s_guests_of_the_released_programs_go_on() {
    let Some(released) = previous("a_session_s_guests_of_the_released_programs_go_on") else { return };
    upgrade(&mut Instance::session(), &released);
}

#[test]
fn a_host_s_guests_of_the_released_programs_go_on() {
    let test = "a_host_s_guests_of_the_released_programs_go_on";
    let (Some(released), Some(mut instance)) = (previous(test), Instance::system(test)) else { return };
    upgrade(&mut instance, &released);
}
