//! What the books say after each step of an object's life, and what they refuse.
#![allow(clippy::unwrap_used)] // Helpers of tests may fail like tests.

use api::{
    ErrorCode, ErrorDomain,
    consts::{DomainState, LifecycleEvent, ListDomains, ShutoffReason, StartedDetail, StoppedDetail},
};
use registry::{Destroy, Effect, Errors, Found, Kept, Phase, Refusal, Registry, Removing, Run, TransientRefusal};

mod support;
use support::{Thing, UP, Up, define, doc, uuid};

const ERRORS: Errors = Errors::of_domains(ErrorDomain::TEST);
const CRASHED: (i32, StoppedDetail) = (ShutoffReason::Crashed as i32, StoppedDetail::Crashed);

fn books() -> Registry<Thing> {
    Registry::new()
}

fn names(registry: &Registry<Thing>, filter: ListDomains) -> Vec<String> {
    registry.list(filter).map(|object| object.name().to_owned()).collect()
}

/// Starts a defined object to the end.
fn run(registry: &mut Registry<Thing>, number: u128, run: u32) -> Vec<Effect> {
    let ticket = registry.begin_start(&uuid(number), UP).unwrap();
    registry.launched(ticket, Run(run)).unwrap();
    registry.started(Run(run), UP, StartedDetail::Booted).unwrap()
}

fn gone(registry: &mut Registry<Thing>, run: u32) -> Vec<Effect> {
    registry.gone(Run(run), CRASHED.0, CRASHED.1).unwrap().1
}

fn events(effects: &[Effect]) -> Vec<(LifecycleEvent, i32)> {
    let event = |effect: &Effect| match effect {
        Effect::Event(event) => Some((event.event, event.detail)),
        _ => None,
    };
    effects.iter().filter_map(event).collect()
}

#[test]
fn a_defined_object_starts_runs_and_stops() {
    let mut books = books();
    assert_eq!(events(&define(&mut books, "a", 1)), [(LifecycleEvent::Defined, 0)]);
    assert_eq!(events(&define(&mut books, "a", 1)), [(LifecycleEvent::Defined, 1)], "updated");
    assert_eq!(events(&run(&mut books, 1, 7)), [(LifecycleEvent::Started, 0)]);
    let object = books.by_run(Run(7)).unwrap();
    assert_eq!((object.id(), object.state().state, object.is_active()), (7, DomainState::Running, true));
    let effects = books.stopped(Run(7), ShutoffReason::Shutdown as i32, StoppedDetail::Shutdown).unwrap();
    assert_eq!(events(&effects), [(LifecycleEvent::Stopped, 0)]);
    let object = books.by_name("a").unwrap();
    assert_eq!((object.live().phase(), object.id(), object.state().state), (Phase::Ending, 7, DomainState::Shutdown));
    assert_eq!(gone(&mut books, 7), [Effect::RunGone { run: Run(7), uuid: uuid(1) }], "the stop was reported");
    let object = books.by_name("a").unwrap();
    assert_eq!((object.id(), object.state().state), (-1, DomainState::Shutoff));
    assert_eq!(object.state().reason, ShutoffReason::Shutdown as i32, "its own word holds");
}

#[test]
fn of_three_creates_of_one_name_one_wins() {
    let mut books = books();
    let results: Vec<_> = (1..=3).map(|number| books.begin_create("a", uuid(number), UP)).collect();
    assert!(results[0].is_ok());
    for refused in &results[1..] {
        let error = ERRORS.refused(refused.as_ref().unwrap_err());
        assert_eq!(error.message, format!("operation failed: domain 'a' already exists with uuid {}", uuid(1)));
        assert_eq!((error.code, error.domain), (ErrorCode::OPERATION_FAILED, ErrorDomain::TEST));
    }
    assert_eq!(books.begin_create("a", uuid(1), UP), Err(Refusal::ActiveAs("a".into())));
    assert_eq!(books.begin_create("b", uuid(1), UP).unwrap_err(), taken(1, "a"));
    assert_eq!((books.count_active(), books.count_inactive()), (1, 0));
}

fn taken(number: u128, name: &str) -> Refusal {
    Refusal::UuidTaken { uuid: uuid(number), name: name.into() }
}

#[test]
fn names_and_uuids_are_reserved_from_the_first_step() {
    let mut books = books();
    let ticket = books.begin_define("a", uuid(1)).unwrap();
    assert!(books.by_name("a").is_none(), "not there before it is stored");
    assert!(matches!(books.begin_define("a", uuid(2)), Err(Refusal::NameTaken { .. })));
    assert!(matches!(books.begin_create("a", uuid(2), UP), Err(Refusal::NameTaken { .. })));
    assert_eq!(books.begin_define("b", uuid(1)), Err(taken(1, "a")));
    // The same object may be defined by two at once.
    let second = books.begin_define("a", uuid(1)).unwrap();
    assert_eq!(books.cancel(ticket), Ok(Vec::new()));
    assert!(matches!(books.begin_define("a", uuid(2)), Err(Refusal::NameTaken { .. })), "one of them is left");
    books.cancel(second).unwrap();
    define(&mut books, "a", 2);
    let rename = books.begin_rename(&uuid(2), "c").unwrap();
    for name in ["a", "c"] {
        assert!(matches!(books.begin_define(name, uuid(3)), Err(Refusal::NameTaken { .. })), "{name}");
    }
    assert!(matches!(books.begin_start(&uuid(2), UP), Err(Refusal::Busy(_))));
    let effects = books.commit_rename(rename, doc("c", 2)).unwrap();
    assert_eq!(events(&effects), [(LifecycleEvent::Undefined, 1), (LifecycleEvent::Defined, 2)]);
    assert!(books.by_name("a").is_none() && books.by_name("c").is_some());
    define(&mut books, "a", 3);
}

#[test]
fn a_ticket_is_good_once() {
    let mut books = books();
    let ticket = books.begin_define("a", uuid(1)).unwrap();
    assert_eq!(books.commit_define(ticket, doc("b", 1)), Err(Refusal::OtherDocument));
    books.commit_define(ticket, doc("a", 1)).unwrap();
    let refused = Refusal::NoTicket(ticket);
    assert_eq!(books.commit_define(ticket, doc("a", 1)), Err(refused.clone()));
    assert_eq!(books.commit_rename(ticket, doc("a", 1)), Err(refused.clone()));
    assert_eq!(books.commit_undefine(ticket), Err(refused.clone()));
    assert_eq!(books.launched(ticket, Run(1)), Err(refused.clone()));
    assert_eq!(books.cancel(ticket), Err(refused));
    let start = books.begin_start(&uuid(1), UP).unwrap();
    assert_eq!(books.commit_define(start, doc("a", 1)), Err(Refusal::NoTicket(start)), "of another thing");
}

#[test]
fn a_start_is_listed_and_can_be_destroyed_at_each_step() {
    let mut books = books();
    define(&mut books, "a", 1);
    let ticket = books.begin_start(&uuid(1), UP).unwrap();
    assert_eq!(names(&books, ListDomains::ACTIVE | ListDomains::OTHER), ["a"]);
    assert_eq!(books.destroy(&uuid(1)), Ok(Destroy::Cancel(ticket)));
    assert_eq!(books.begin_start(&uuid(1), UP), Err(Refusal::Running));
    books.cancel(ticket).unwrap();
    assert_eq!(books.destroy(&uuid(1)), Err(Refusal::NotRunning));

    let ticket = books.begin_start(&uuid(1), UP).unwrap();
    books.launched(ticket, Run(1)).unwrap();
    assert_eq!(books.cancel(ticket), Err(Refusal::NoTicket(ticket)), "there is a run to be ended");
    assert_eq!(books.destroy(&uuid(1)), Ok(Destroy::Kill(Run(1))));
    // The start fails; the run is there until its processes are gone.
    books.ending(Run(1)).unwrap();
    assert_eq!(books.begin_start(&uuid(1), UP), Err(Refusal::Running));
    assert_eq!(books.destroy(&uuid(1)), Ok(Destroy::Kill(Run(1))));
    assert_eq!(books.started(Run(1), UP, StartedDetail::Booted), Err(Refusal::RunEnding(Run(1))), "too late");
    assert_eq!(events(&gone(&mut books, 1)), [], "it had never started");
    run(&mut books, 1, 2);
}

#[test]
fn an_unknown_run_stays_listed_reserved_and_destroyable() {
    let mut books = books();
    define(&mut books, "a", 1);
    run(&mut books, 1, 1);
    books.unknown(Run(1)).unwrap();
    let object = books.by_name("a").unwrap();
    assert_eq!((object.id(), object.is_active(), object.state().state), (1, true, DomainState::NoState));
    assert_eq!(object.live().get(), Some(&UP), "what was known is kept");
    assert_eq!(books.begin_start(&uuid(1), UP), Err(Refusal::Running));
    assert_eq!(books.begin_create("a", uuid(1), UP), Err(Refusal::ActiveAs("a".into())));
    assert_eq!(books.destroy(&uuid(1)), Ok(Destroy::Kill(Run(1))));
    assert_eq!(events(&books.started(Run(1), UP, StartedDetail::Booted).unwrap()), [], "heard of again");
    assert_eq!(books.by_name("a").unwrap().state().state, DomainState::Running);
    books.unknown(Run(1)).unwrap();
    assert_eq!(events(&gone(&mut books, 1)), [(LifecycleEvent::Stopped, 2)], "killed without a word");
}

#[test]
fn a_late_word_of_an_old_run_does_not_touch_the_new_one() {
    let mut books = books();
    define(&mut books, "a", 1);
    run(&mut books, 1, 1);
    gone(&mut books, 1);
    run(&mut books, 1, 2);
    let no = Refusal::NoRun(Run(1));
    assert_eq!(books.stopped(Run(1), 0, StoppedDetail::Shutdown), Err(no.clone()));
    assert_eq!(books.gone(Run(1), 0, StoppedDetail::Shutdown).unwrap_err(), no);
    assert_eq!(books.unknown(Run(1)), Err(no.clone()));
    assert_eq!(books.started(Run(1), Up(DomainState::Paused), StartedDetail::Booted), Err(no));
    assert!(books.live_mut(Run(1)).is_none());
    assert_eq!(books.by_name("a").unwrap().state().state, DomainState::Running);
}

#[test]
fn a_transient_object_is_gone_with_its_run() {
    let mut books = books();
    let ticket = books.begin_create("t", uuid(1), UP).unwrap();
    books.launched(ticket, Run(1)).unwrap();
    books.started(Run(1), UP, StartedDetail::Booted).unwrap();
    let undefine = books.begin_undefine(&uuid(1), Removing::default()).unwrap_err();
    assert_eq!(undefine, Refusal::Transient(TransientRefusal::Undefine));
    assert!(ERRORS.refused(&undefine).message.ends_with("cannot undefine transient domain"));
    assert!(books.set_autostart(&uuid(1), true).is_err());
    let effects = gone(&mut books, 1);
    assert_eq!(effects.last(), Some(&Effect::Forgotten { uuid: uuid(1), name: "t".into() }));
    assert_eq!(books.count(), 0);
    define(&mut books, "t", 2);
}

#[test]
fn an_undefined_object_goes_on_until_its_run_is_gone() {
    let mut books = books();
    define(&mut books, "a", 1);
    books.set_autostart(&uuid(1), true).unwrap();
    run(&mut books, 1, 1);
    let ticket = books.begin_undefine(&uuid(1), Removing::default()).unwrap();
    assert_eq!(events(&books.commit_undefine(ticket).unwrap()), [(LifecycleEvent::Undefined, 0)]);
    assert_eq!(names(&books, ListDomains::TRANSIENT | ListDomains::NO_AUTOSTART), ["a"]);
    gone(&mut books, 1);
    assert_eq!(books.count(), 0);
}

#[test]
fn what_is_kept_with_a_definition_keeps_it() {
    let mut books = books();
    define(&mut books, "a", 1);
    books.set_managed_save(&uuid(1), true).unwrap();
    let refused = books.begin_undefine(&uuid(1), Removing::default()).unwrap_err();
    let text = "Requested operation is not valid: Refusing to undefine while domain managed save image exists";
    assert_eq!(ERRORS.refused(&refused).message, text);
    books.set_managed_save(&uuid(1), false).unwrap();
    books.set_history(&uuid(1), 2, 0).unwrap();
    assert_eq!(books.begin_undefine(&uuid(1), Removing::default()), Err(Refusal::Keeps(Kept::Snapshots(2))));
    assert_eq!(books.begin_rename(&uuid(1), "b"), Err(Refusal::RenameKeeps(Kept::Snapshots(2))));
    books.begin_undefine(&uuid(1), Removing { snapshots: true, ..Removing::default() }).unwrap();
}

#[test]
fn lists_have_runs_by_number_then_the_others_by_name() {
    let mut books = books();
    for (name, number) in [("z", 1), ("c", 2), ("b", 3), ("a", 4)] {
        define(&mut books, name, number);
    }
    run(&mut books, 3, 5);
    run(&mut books, 1, 9);
    books.begin_start(&uuid(4), UP).unwrap();
    assert_eq!(names(&books, ListDomains::empty()), ["b", "z", "a", "c"]);
    assert_eq!(names(&books, ListDomains::INACTIVE), ["c"]);
    assert_eq!(books.active().map(|object| object.id()).collect::<Vec<_>>(), [5, 9, -1]);
    assert_eq!((books.count(), books.count_active(), books.count_inactive()), (4, 3, 1));
    assert!(books.by_run(Run(4)).is_none());
    let missing = books.known(*uuid(9).as_bytes(), "n\n").unwrap_err();
    let text = format!("Domain not found: no domain with matching uuid '{}' (n)", uuid(9));
    assert_eq!(ERRORS.refused(&missing).message, text);
    assert_eq!(ERRORS.missing("name", "x").message, "Domain not found: no domain with matching name 'x'");
    assert_eq!(ERRORS.missing_id(9).message, "Domain not found: no domain with matching id 9");
}

fn found(run: u32, number: u128, name: &str) -> Found {
    Found { run: Run(run), uuid: Some(uuid(number)), name: Some(name.into()) }
}

#[test]
fn of_two_runs_of_one_uuid_both_are_seen_and_can_be_ended() {
    let mut books = books();
    books.load(doc("a", 1), false).unwrap();
    assert_eq!(books.adopt(found(3, 1, "a"), None), uuid(1));
    let other = books.adopt(found(5, 1, "a"), Some(UP));
    assert_ne!(other, uuid(1));
    assert_eq!(books.adopt(found(5, 1, "a"), None), other, "twice is once");
    assert_eq!(names(&books, ListDomains::ACTIVE), ["a", "a.run5"]);
    let stray = books.get(&other).unwrap();
    assert!(stray.is_stray() && !stray.is_persistent());
    assert_eq!(books.destroy(&uuid(1)), Ok(Destroy::Kill(Run(3))));
    assert_eq!(books.destroy(&other), Ok(Destroy::Kill(Run(5))));
    // The right one is gone; the other still holds the identity.
    gone(&mut books, 3);
    assert_eq!(books.begin_start(&uuid(1), UP), Err(Refusal::ActiveAs("a.run5".into())));
    assert!(matches!(books.begin_define("a.run5", other), Err(Refusal::Stray(_))));
    gone(&mut books, 5);
    assert_eq!(books.count(), 1);
    run(&mut books, 1, 6);
}

#[test]
fn a_run_without_a_uuid_is_filed_until_it_says_who_it_is() {
    let mut books = books();
    books.load(doc("a", 1), true).unwrap();
    let nameless = books.adopt(Found { run: Run(2), uuid: None, name: None }, None);
    let named = books.adopt(Found { run: Run(3), uuid: None, name: Some("a".into()) }, None);
    assert_eq!(names(&books, ListDomains::OTHER), ["run2", "a.run3"]);
    assert_eq!(books.begin_start(&uuid(1), UP), Err(Refusal::ActiveAs("a.run3".into())), "it may be that one");
    assert_eq!(books.identify(Run(3), uuid(1), "a"), Ok(uuid(1)));
    assert!(books.get(&named).is_none());
    assert_eq!(books.by_name("a").unwrap().run(), Some(Run(3)));
    assert_eq!(books.identify(Run(2), uuid(1), "a"), Ok(nameless), "taken by now");
    assert_eq!(books.by_run(Run(2)).unwrap().name(), "a.run2");
    gone(&mut books, 3);
    gone(&mut books, 2);
    assert_eq!((books.count(), books.count_active()), (1, 0));
}

#[test]
fn a_run_is_found_while_a_definition_is_written() {
    let mut books = books();
    define(&mut books, "a", 1);
    let rename = books.begin_rename(&uuid(1), "b").unwrap();
    books.adopt(found(4, 1, "a"), None);
    books.commit_rename(rename, doc("b", 1)).unwrap();
    define(&mut books, "a", 2);
    assert_eq!(books.begin_start(&uuid(2), UP), Err(Refusal::ActiveAs("b".into())), "the run's own name is 'a'");
    let new = books.begin_define("c", uuid(3)).unwrap();
    let stranger = books.adopt(found(6, 9, "c"), None);
    assert_eq!(books.get(&stranger).unwrap().name(), "c.run6", "the name is reserved");
    books.commit_define(new, doc("c", 3)).unwrap();
    assert_eq!(books.begin_start(&uuid(3), UP), Err(Refusal::ActiveAs("c.run6".into())));
}

#[test]
fn a_run_found_under_another_name_keeps_it_through_a_renaming() {
    let mut books = books();
    define(&mut books, "a", 1);
    let rename = books.begin_rename(&uuid(1), "b").unwrap();
    books.adopt(found(4, 1, "c"), None);
    books.commit_rename(rename, doc("b", 1)).unwrap();
    define(&mut books, "c", 2);
    assert_eq!(books.begin_start(&uuid(2), UP), Err(Refusal::ActiveAs("b".into())), "the run's own name is 'c'");
}

#[test]
fn a_run_found_without_a_name_claims_the_one_that_it_tells_later() {
    let mut books = books();
    let nameless = Found { run: Run(4), uuid: Some(uuid(1)), name: None };
    books.adopt(nameless, None);
    assert_eq!(books.identify(Run(4), uuid(1), "c"), Ok(uuid(1)));
    define(&mut books, "c", 2);
    assert_eq!(books.begin_start(&uuid(2), UP), Err(Refusal::ActiveAs("run4".into())), "the run's own name is 'c'");
    gone(&mut books, 4);
    assert!(books.begin_start(&uuid(2), UP).is_ok());
    books.adopt(found(5, 3, "d"), None);
    assert_eq!(books.identify(Run(5), uuid(3), "e"), Ok(uuid(3)));
    define(&mut books, "e", 4);
    assert!(books.begin_start(&uuid(4), UP).is_ok(), "the name of its record stands");
}

#[test]
fn a_number_that_is_in_use_is_refused_and_the_start_stays_open() {
    let mut books = books();
    define(&mut books, "a", 1);
    books.adopt(found(1, 2, "b"), None);
    let ticket = books.begin_start(&uuid(1), UP).unwrap();
    assert_eq!(books.launched(ticket, Run(1)), Err(Refusal::RunKnown(Run(1))));
    assert_eq!(books.by_run(Run(1)).unwrap().uuid(), uuid(2));
    books.launched(ticket, Run(2)).unwrap();
    assert_eq!(books.reservations().count(), 0);
}

#[test]
fn a_changed_definition_keeps_its_identity() {
    let mut books = books();
    define(&mut books, "a", 1);
    books.update(doc("a", 1)).unwrap();
    assert_eq!(books.update(doc("b", 1)), Err(Refusal::OtherDocument));
    books.adopt(found(1, 2, "t"), None);
    assert_eq!(books.update(doc("t", 2)), Err(Refusal::Transient(TransientRefusal::Change)));
    let event = books.event(&uuid(2), LifecycleEvent::Suspended, 0).unwrap();
    assert_eq!((event.name.as_str(), event.run), ("t", Some(Run(1))));
}
