//! What is under way on one object, who waits for whom, and what ends by a deadline.
#![allow(clippy::unwrap_used)] // Helpers of tests may fail like tests.

use std::time::Duration;

use api::{ErrorDomain, consts::JobType, remote::TypedParamValue};
use proptest::{collection::vec, prelude::*, sample::Index};
use registry::{
    Errors,
    jobs::{
        Admission, Info, JobId, JobKind, JobRefusal, JobTable, MAX_BACKGROUND, MAX_QUEUED, Outcome, Overdue, Progress,
        ShortKind, Unit, Wanted,
    },
};

const MODIFY: JobKind = JobKind::Short(ShortKind::Modify);
const SUSPEND: JobKind = JobKind::Short(ShortKind::Suspend);
const SAFE: JobKind = JobKind::Short(ShortKind::ModifyMigrationSafe);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn begun(table: &mut JobTable, kind: JobKind) -> JobId {
    match table.begin(Wanted::new(kind), at(0)).unwrap() {
        Admission::Begun(id) => id,
        Admission::Queued(id) => unreachable!("{kind:?} waits as {id:?}"),
    }
}

fn queued(table: &mut JobTable, kind: JobKind) -> JobId {
    match table.begin(Wanted::new(kind), at(0)).unwrap() {
        Admission::Queued(id) => id,
        Admission::Begun(id) => unreachable!("{kind:?} begins as {id:?}"),
    }
}

#[test]
fn short_operations_come_one_after_the_other() {
    let mut table = JobTable::default();
    let first = begun(&mut table, MODIFY);
    let second = queued(&mut table, SUSPEND);
    let third = queued(&mut table, MODIFY);
    assert_eq!(table.finish(first, Outcome::Done, at(1)), Ok(vec![second]));
    assert_eq!(table.finish(first, Outcome::Done, at(1)), Err(JobRefusal::None), "once");
    assert_eq!(table.finish(second, Outcome::Done, at(1)), Ok(vec![third]));
    assert_eq!(table.finish(third, Outcome::Done, at(1)), Ok(vec![]));
    assert!(!table.is_busy());
    assert_eq!(table.completed(true).job_type, JobType::None, "short ones are no jobs for clients");
}

#[test]
fn a_long_job_lets_in_what_its_mask_says() {
    let allowed = |long: JobKind| {
        let fits = |short: JobKind| {
            let mut table = JobTable::default();
            begun(&mut table, long);
            matches!(table.begin(Wanted::new(short), at(0)), Ok(Admission::Begun(_)))
        };
        [MODIFY, SAFE, SUSPEND].map(fits)
    };
    assert_eq!(allowed(JobKind::Start), [false, false, false]);
    assert_eq!(allowed(JobKind::Save), [false, false, true]);
    assert_eq!(allowed(JobKind::MigrateOut), [false, true, true]);
    assert_eq!(allowed(JobKind::Backup), [true, true, true]);
    assert_eq!(allowed(JobKind::Shutdown), [true, true, true]);
}

#[test]
fn what_waits_for_a_long_job_is_overtaken_and_nothing_else() {
    let mut table = JobTable::default();
    let save = begun(&mut table, JobKind::Save);
    let change = queued(&mut table, MODIFY);
    let pause = begun(&mut table, SUSPEND);
    let another = queued(&mut table, SUSPEND);
    assert_eq!(table.finish(pause, Outcome::Done, at(1)), Ok(vec![another]));
    let dump = queued(&mut table, JobKind::Dump);
    assert_eq!(table.finish(another, Outcome::Done, at(1)), Ok(vec![]));
    assert_eq!(table.finish(save, Outcome::Done, at(2)), Ok(vec![change]));
    assert_eq!(table.begin(Wanted::new(SUSPEND), at(2)).map(Admission::id), Ok(JobId(dump.0 + 1)));
    assert_eq!(table.finish(change, Outcome::Done, at(3)), Ok(vec![dump, JobId(dump.0 + 1)]), "in their order");
}

#[test]
fn too_many_are_refused_and_one_that_is_withdrawn_makes_room() {
    let mut table = JobTable::default();
    begun(&mut table, MODIFY);
    let waiting: Vec<JobId> = (0..MAX_QUEUED).map(|_| queued(&mut table, MODIFY)).collect();
    let refused = table.begin(Wanted::new(MODIFY), at(0)).unwrap_err();
    assert_eq!(refused, JobRefusal::Full);
    let error = refused.error(&Errors::of_domains(ErrorDomain::QEMU));
    assert_eq!(error.message, "64 jobs wait for this guest already");
    assert_eq!(table.withdraw(waiting[3], at(0)), Ok(vec![]));
    assert_eq!(table.withdraw(waiting[3], at(0)), Err(JobRefusal::None));
    queued(&mut table, MODIFY);
    assert_eq!(table.clear().len(), MAX_QUEUED + 1);
    assert!(!table.is_busy());
}

#[test]
fn a_job_without_progress_stalls_and_one_that_waits_is_given_up() {
    let mut table = JobTable::default();
    let wanted = Wanted { stalls_after: Some(at(10)), ..Wanted::new(JobKind::Save) };
    let save = table.begin(wanted, at(0)).unwrap().id();
    let wanted = Wanted { begins_within: Some(at(15)), ..Wanted::new(MODIFY) };
    let change = table.begin(wanted, at(0)).unwrap().id();
    assert_eq!(table.next_deadline(), Some(at(10)));
    let progress = Progress { done: 1, total: 4, unit: Unit::Memory };
    table.progress(save, progress, at(9)).unwrap();
    table.progress(save, progress, at(12)).unwrap();
    assert_eq!(table.overdue(at(14)), (vec![], vec![]));
    assert_eq!(table.overdue(at(15)), (vec![Overdue::Waited(change)], vec![]));
    assert_eq!(table.overdue(at(19)), (vec![Overdue::Stalled(save)], vec![]), "the same numbers are no progress");
    assert_eq!(table.overdue(at(30)), (vec![], vec![]), "told once");
    assert!(table.get(save).is_some() && table.next_deadline().is_none());
    table.progress(save, Progress { done: 2, ..progress }, at(31)).unwrap();
    assert_eq!(table.next_deadline(), Some(at(41)), "it goes on");
    let failed = Outcome::Failed("it stalled".into());
    table.finish(save, failed, at(41)).unwrap();
    let info = table.completed(false);
    assert_eq!((info.job_type, info.failure.as_deref()), (JobType::Failed, Some("it stalled")));
    assert_eq!(table.completed(false).job_type, JobType::None, "fetched");
}

#[test]
fn a_job_is_told_in_libvirts_terms() {
    let mut table = JobTable::default();
    assert_eq!(table.info(at(0)).ret(), api::remote::DomainGetJobInfoRet::default());
    assert!(table.info(at(0)).stats().params.is_empty());
    let wanted = Wanted { cancellable: true, ..Wanted::new(JobKind::MigrateOut) };
    let id = table.begin(wanted, at(100)).unwrap().id();
    assert_eq!(table.info(at(101)).job_type, JobType::Unbounded);
    table.progress(id, Progress { done: 30, total: 120, unit: Unit::Memory }, at(110)).unwrap();
    let ret = table.info(at(110)).ret();
    assert_eq!((ret.r#type, ret.time_elapsed, ret.time_remaining), (JobType::Bounded.number(), 10_000, 30_000));
    assert_eq!((ret.data_total, ret.data_processed, ret.data_remaining), (120, 30, 90));
    assert_eq!((ret.mem_total, ret.mem_remaining, ret.file_total), (120, 90, 0));
    let stats = table.info(at(110)).stats();
    let fields: Vec<&str> = stats.params.iter().map(|param| param.field.as_str()).collect();
    let expected = ["operation", "time_elapsed", "time_remaining", "data_total", "data_processed", "data_remaining"];
    assert_eq!(fields[..6], expected);
    assert_eq!(fields[6..], ["memory_total", "memory_processed", "memory_remaining"]);
    assert_eq!(stats.params[0].value, TypedParamValue::Int(5));
    assert_eq!(table.request_cancel(), Ok(id));
    assert!(table.get(id).unwrap().cancel_requested());
    table.finish(id, Outcome::Cancelled, at(111)).unwrap();
    assert_eq!(table.request_cancel(), Err(JobRefusal::None));
    assert_eq!(table.completed(true).ret().r#type, JobType::Cancelled.number());
}

#[test]
fn only_what_can_be_cancelled_is() {
    let mut table = JobTable::default();
    begun(&mut table, JobKind::Block);
    assert_eq!(table.request_cancel(), Err(JobRefusal::None), "block jobs have a call of their own");
    begun(&mut table, JobKind::Start);
    assert_eq!(table.request_cancel(), Err(JobRefusal::NotCancellable));
    let text = JobRefusal::None.error(&Errors::of_domains(ErrorDomain::QEMU)).message;
    assert_eq!(text, "Requested operation is not valid: no job is active on the domain");
}

#[test]
fn jobs_of_an_earlier_host_are_taken_over_with_their_numbers() {
    let mut table = JobTable::default();
    let wanted = Wanted { stalls_after: Some(at(60)), ..Wanted::new(JobKind::Shutdown) };
    table.adopt(JobId(7), wanted, Progress::default(), at(50), at(20), at(1000));
    table.adopt(JobId(7), wanted, Progress::default(), at(0), at(0), at(1000));
    assert_eq!(table.info(at(1000)).elapsed, at(50));
    assert_eq!(table.next_deadline(), Some(at(1040)));
    assert_eq!(begun(&mut table, MODIFY), JobId(8), "never a number twice");
    for number in [20, 21] {
        table.adopt(JobId(number), Wanted::new(JobKind::Save), Progress::default(), at(0), at(0), at(1000));
        assert!(table.get(JobId(number)).is_some(), "none is lost");
    }
}

fn kind() -> impl Strategy<Value = JobKind> {
    prop::sample::select(vec![
        MODIFY,
        SAFE,
        SUSPEND,
        JobKind::Start,
        JobKind::Save,
        JobKind::MigrateOut,
        JobKind::Backup,
        JobKind::Shutdown,
        JobKind::Block,
    ])
}

proptest! {
    /// Every job ends exactly once: it is finished, withdrawn, given up or cleared. What is under way stands together, and
    /// what waits begins as soon as nothing is in its way.
    #[test]
    fn every_job_has_one_end(steps in vec((kind(), 0..6u8, any::<Index>()), 1..200)) {
        let mut table = JobTable::default();
        let (mut running, mut waiting) = (Vec::<JobId>::new(), Vec::<JobId>::new());
        for (step, (kind, what, which)) in steps.into_iter().enumerate() {
            let now = at(step as u64);
            let mut starts = Vec::new();
            match what {
                0..=2 => {
                    let wanted = Wanted { begins_within: Some(at(40)), ..Wanted::new(kind) };
                    match table.begin(wanted, now) {
                        Ok(Admission::Begun(id)) => running.push(id),
                        Ok(Admission::Queued(id)) => waiting.push(id),
                        Err(refused) => prop_assert!(refused == JobRefusal::Full && waiting.len() == MAX_QUEUED),
                    }
                }
                3 | 4 if !running.is_empty() => {
                    let id = running.swap_remove(which.index(running.len()));
                    starts = table.finish(id, Outcome::Done, now).unwrap();
                }
                5 if !waiting.is_empty() => {
                    let id = waiting.remove(which.index(waiting.len()));
                    starts = table.withdraw(id, now).unwrap();
                }
                _ => {}
            }
            let (late, begun) = table.overdue(now);
            for overdue in late {
                let Overdue::Waited(id) = overdue else { unreachable!("nothing here stalls") };
                waiting.retain(|other| *other != id);
            }
            for id in starts.into_iter().chain(begun) {
                prop_assert!(waiting.contains(&id));
                waiting.retain(|other| *other != id);
                running.push(id);
            }
            check(&table, &running, &waiting)?;
        }
        let mut left: Vec<JobId> = table.clear().iter().map(|job| job.id()).collect();
        left.sort();
        let mut expected = [running, waiting].concat();
        expected.sort();
        prop_assert_eq!(left, expected);
        prop_assert_eq!(table.info(at(0)), Info { ..table.info(at(9)) });
    }
}

fn check(table: &JobTable, running: &[JobId], waiting: &[JobId]) -> Result<(), TestCaseError> {
    let kinds: Vec<JobKind> = running.iter().map(|id| table.get(*id).unwrap().kind()).collect();
    let is_short = |kind: &&JobKind| matches!(kind, JobKind::Short(_));
    let long: Vec<&JobKind> = kinds.iter().filter(|kind| !is_short(kind) && !kind.is_background()).collect();
    prop_assert!(kinds.iter().filter(is_short).count() <= 1 && long.len() <= 1);
    prop_assert!(kinds.iter().filter(|kind| kind.is_background()).count() <= MAX_BACKGROUND);
    if running.is_empty() {
        prop_assert!(waiting.is_empty(), "nothing is in the way of {:?}", waiting);
    }
    Ok(())
}
