//! Spawning and filters from the outside and from the inside.
//!
//! The program is its own helper: started with a mode as its first argument it is what the tests spawn. It has one thread,
//! as a process that spawns must, and so a small runner instead of the usual harness. After each test nothing may be left:
//! no child, no mount, no descriptor.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is a test")]

mod filters;
mod launch;
mod probe;
#[path = "../../src/skip.rs"]
mod skip;
mod support;

use std::panic::catch_unwind;
use std::process::ExitCode;

use support::Leftovers;

/// A test: passes by returning, skips with a reason, fails by panicking.
type Test = (&'static str, fn() -> Outcome);

/// How a test ended if it did not fail.
pub enum Outcome {
    /// It ran.
    Passed,
    /// It can't run here.
    Skipped(&'static str),
}

fn tests() -> Vec<Test> {
    [filters::TESTS, launch::TESTS].concat()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("probe") => return probe::run(),
        Some("die") => filters::die(&args),
        Some("under-launcher") => return launch::under_launcher(),
        Some("with-shared-mounts") => return launch::with_shared_mounts(),
        Some("as-user") => return run(launch::USER_TESTS, &[]),
        _ => {}
    }
    let wanted: Vec<&str> = args.iter().skip(1).filter(|arg| !arg.starts_with('-')).map(String::as_str).collect();
    if args.iter().any(|arg| arg == "--list") {
        tests().iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    run(&tests(), &wanted)
}

/// Runs those of `tests` whose names contain one of `wanted`, all if it is empty.
fn run(tests: &[Test], wanted: &[&str]) -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in
        tests.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|part| name.contains(part)))
    {
        let before = Leftovers::now();
        match catch_unwind(test) {
            Ok(Outcome::Passed) => match before.compare(&Leftovers::now()) {
                Ok(()) => {
                    passed += 1;
                    println!("test {name} ... ok");
                }
                Err(left) => {
                    failed += 1;
                    println!("test {name} ... FAILED: left behind {left}");
                }
            },
            Ok(Outcome::Skipped(reason)) => {
                skip::skip(name, reason);
                passed += 1;
            }
            Err(_) => {
                failed += 1;
                println!("test {name} ... FAILED");
            }
        }
    }
    // As cargo's own harness closes, for whoever counts; a skipped test passes there too, and is in the log of those.
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
