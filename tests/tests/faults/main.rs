//! Faults: every process of an instance is killed and stopped at random moments while clients work, and afterwards the
//! instance must add up. So must one whose disk is full, that has few descriptors, or that has lost its state files.
//!
//! `BULKHEAD_FAULT_SECONDS` is how long each harness run torments (10 by default), `BULKHEAD_FAULT_SEED` repeats the choices
//! of an earlier run. The seed is printed; the kernel's scheduling is not repeatable, so a seed makes a failure likely
//! again, not certain.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    env,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bulkhead_tests::Instance;

mod account;
mod events;
mod harness;
mod load;
mod many;
mod pressure;
mod random;
mod states;
mod torment;

/// One harness at a time: each needs the processors to itself, or deadlines pass for want of time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

/// How long to torment.
fn time() -> Duration {
    Duration::from_secs(number("BULKHEAD_FAULT_SECONDS").unwrap_or(10))
}

/// Where the random choices begin.
fn seed() -> u64 {
    let seed = number("BULKHEAD_FAULT_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) ^ now.as_secs()
    });
    println!("BULKHEAD_FAULT_SEED={seed}");
    seed
}

#[test]
fn a_session_adds_up_after_any_process_was_killed_or_stopped() {
    let _alone = alone();
    harness::run(&Instance::ordinary(), time(), seed());
}

#[test]
fn a_host_adds_up_after_any_process_was_killed_or_stopped() {
    let _alone = alone();
    if let Some(instance) = Instance::system("a_host_adds_up_after_any_process_was_killed_or_stopped") {
        harness::run(&instance, time(), seed());
    }
}
