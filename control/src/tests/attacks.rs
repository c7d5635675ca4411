//! What disks, supervisors and deaths at bad moments may not do.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Sender, channel},
    },
    time::Instant,
};

use api::consts::{MetadataType, ModificationImpact};
use ipc::budget::Resource;

use super::*;

/// Holds up one of the store's threads until what it returns is dropped.
fn hang<S: Send + 'static>(bed: &mut Bed, place: store::Place<S>) -> Sender<()> {
    let (release, hang) = channel::<()>();
    let hangs = move |_: &mut S| {
        let _ = hang.recv();
    };
    bed.control.hand(place, hangs, |_, ()| {});
    release
}

fn title(name: &str, title: Option<&str>, flags: u32) -> Call {
    Call::DomainSetMetadata(remote::DomainSetMetadataArgs {
        dom: dom(name),
        r#type: MetadataType::Title as i32,
        metadata: title.map(str::to_owned),
        key: None,
        uri: None,
        flags,
    })
}

fn live_title(name: &str) -> Call {
    Call::DomainGetMetadata(remote::DomainGetMetadataArgs {
        dom: dom(name),
        r#type: MetadataType::Title as i32,
        uri: None,
        flags: ModificationImpact::LIVE.bits(),
    })
}

#[test]
fn a_run_is_retired_when_its_end_is_in_the_journal() {
    let (mut bed, _) = with_running_a();
    let run = bed.run("a");
    let release = hang(&mut bed, store::of_lines);
    bed.launcher.die(run);
    // Its log cannot be read either.
    bed.until(|bed| {
        bed.put_forward(Duration::from_secs(6));
        bed.state("a") == DomainState::Shutoff
    });
    bed.restart_at_once();
    let client = bed.client();
    bed.ask(client, &subscribe(Some(0))).unwrap();
    bed.rest();
    let stops = bed.heard(client, "a").into_iter().filter(|(event, _)| *event == 5).count();
    drop(release);
    assert_eq!(stops, 1, "the end of the run is told by the control that finds it");
}

#[test]
fn a_change_of_the_live_document_outlives_a_lost_connection() {
    let (mut bed, client) = with_running_a();
    bed.launcher.dials = Manner::Refuse;
    bed.process("a").hang_up();
    bed.rest();
    bed.ask(client, &title("a", Some("new"), ModificationImpact::LIVE.bits())).unwrap();
    bed.launcher.dials = Manner::Well;
    bed.later(Duration::from_secs(20));
    assert_eq!(bed.state("a"), DomainState::Running);
    for restarted in [false, true] {
        let client = if restarted {
            bed.restart();
            bed.client()
        } else {
            client
        };
        let Reply::DomainGetMetadata(ret) = bed.ask(client, &live_title("a")).expect("a title") else { panic!() };
        assert_eq!(ret.metadata, "new", "restarted: {restarted}");
    }
}

#[test]
fn a_supervisor_that_hangs_up_again_and_again_is_dialled_less_and_less() {
    let (mut bed, _) = with_running_a();
    let mut times = 0;
    for _ in 0..600 {
        bed.later(Duration::from_millis(100));
        if bed.state("a") == DomainState::Running {
            times += 1;
            bed.process("a").hang_up();
            bed.rest();
        }
    }
    assert!(times < 30, "{times} times in a minute");
}

#[test]
fn jobs_that_a_supervisor_makes_up_cost_nothing_and_hide_no_call() {
    let (mut bed, client) = with_running_a();
    let job = |id| protocol::Job {
        id,
        kind: protocol::JobKind::SHUTDOWN,
        state: protocol::JobState::RUNNING,
        age_ms: u64::MAX,
        quiet_ms: u64::MAX,
        done: u64::MAX,
        total: 1,
        cancellable: true,
        stall_ms: u32::MAX,
        text: String::new(),
    };
    for turn in 0..20_u64 {
        bed.process("a").jobs = (0..16).map(|n| job(1000 + turn * 16 + n)).chain([]).collect();
        bed.process("a").hang_up();
        bed.later(Duration::from_secs(60));
    }
    assert_eq!(bed.state("a"), DomainState::Running);
    let run = bed.run("a");
    let table = format!("{:?}", bed.control.guests[&run].jobs.table());
    assert!(table.matches("JobId(").count() < 100, "{}", table.matches("JobId(").count());
    // The highest number that there is.
    bed.process("a").jobs = vec![job(u64::MAX)];
    bed.process("a").hang_up();
    bed.later(Duration::from_secs(60));
    bed.process("a").stopped = true;
    let calls: Vec<u64> = (0..4).map(|_| bed.call(client, &suspend("a"))).collect();
    bed.rest();
    bed.later(AGES);
    for call in calls {
        assert!(bed.answer(client, call).expect("an answer").is_err());
    }
}

#[test]
fn a_guest_that_is_gone_before_its_supervisor_says_so_is_destroyed() {
    let (mut bed, client) = with_running_a();
    let flags = DestroyFlags::GRACEFUL.bits();
    bed.process("a").ends_in_silence = true;
    let ask = Call::DomainDestroyFlags(remote::DomainDestroyFlagsArgs { dom: dom("a"), flags });
    let answer = bed.ask(client, &ask);
    assert_eq!(bed.state("a"), DomainState::Shutoff);
    assert!(answer.is_ok(), "{answer:?}");
}

#[test]
fn a_file_that_hangs_holds_up_no_other_start() {
    let (mut bed, client) = with_a();
    let (release, hang) = channel::<()>();
    let hangs = move || {
        let _ = hang.recv();
    };
    bed.control.look_within(AGES * 2, hangs, |_, _| {});
    let started = bed.call(client, &start("a"));
    bed.answered(client, started).unwrap();
    drop(release);
}

#[test]
fn whose_looks_all_hang_waits_for_them_alone() {
    let (mut bed, client) = with_a();
    let (stranger, third) = (bed.stranger(4711), bed.stranger(4712));
    let emulators = Call::ConnectGetCapabilities(remote::ConnectGetCapabilitiesArgs);
    bed.ask(stranger, &emulators).unwrap();
    // What it asks of a file server that is silent, again and again.
    let (release, hang) = channel::<()>();
    let hang = Arc::new(Mutex::new(hang));
    bed.control.acting_for = Some(bed.control.server.budget_of(4711));
    for _ in 0..100 {
        let hang = Arc::clone(&hang);
        let hangs = move || {
            let _ = hang.lock().unwrap().recv();
        };
        bed.control.look_within(store::PATIENCE, hangs, |_, _| {});
    }
    bed.control.acting_for = None;
    let late = bed.call(stranger, &emulators);
    let (starts, reads) = (bed.call(client, &start("a")), bed.call(third, &emulators));
    bed.answered(client, starts).unwrap();
    bed.answered(third, reads).unwrap();
    assert!(bed.answer(stranger, late).is_none());
    bed.put_forward(AGES);
    let _ = bed.answered(stranger, late);
    // What has not begun is forgotten.
    let each = ipc::budget::Allowances::default().looks.each;
    bed.until(|bed| bed.control.store.waiting() == each);
    drop(release);
    bed.rest();
    bed.ask(stranger, &emulators).unwrap();
}

#[test]
fn many_users_whose_looks_hang_have_no_threads_without_end_and_root_has_its_own() {
    let (mut bed, client) = with_a();
    let (release, hang) = channel::<()>();
    let hang = Arc::new(Mutex::new(hang));
    for uid in 10_000..10_400 {
        bed.control.acting_for = Some(bed.control.server.budget_of(uid));
        let hang = Arc::clone(&hang);
        let hangs = move || {
            let _ = hang.lock().unwrap().recv();
        };
        bed.control.look_within(store::PATIENCE, hangs, |_, _| {});
    }
    bed.control.acting_for = None;
    assert_eq!(bed.control.server.held(Resource::Looks), 128);
    let started = bed.call(client, &start("a"));
    bed.answered(client, started).unwrap();
    drop(release);
    bed.rest();
    assert_eq!(bed.control.server.held(Resource::Looks), 0);
}

#[test]
fn a_guest_that_cannot_be_killed_is_as_it_was() {
    let (mut bed, client) = with_running_a();
    bed.process("a").stopped = true;
    bed.launcher.kills = Manner::Refuse;
    let ended = bed.call(client, &destroy("a"));
    bed.until(|bed| {
        bed.put_forward(Duration::from_secs(1));
        bed.clients[client].answers.contains_key(&ended)
    });
    let error = bed.answer(client, ended).unwrap().unwrap_err();
    assert!(error.full_text().contains("the script says so"), "{error:?}");
    bed.process("a").stopped = false;
    bed.later(Duration::from_secs(30));
    assert_eq!(bed.state("a"), DomainState::Running);
    bed.ask(client, &suspend("a")).unwrap();
    bed.launcher.kills = Manner::Well;
    bed.ask(client, &destroy("a")).unwrap();
    assert_eq!(bed.state("a"), DomainState::Shutoff);
}

#[test]
fn calls_on_a_hung_disk_are_bounded_and_answered() {
    let (mut bed, owner) = with_a();
    bed.ask(owner, &create("b")).unwrap();
    let users = [bed.stranger(4711), bed.stranger(4711), bed.stranger(4711)];
    let release = hang(&mut bed, store::of_definitions);
    for _ in 0..3 {
        let calls: Vec<(usize, u64)> =
            users.into_iter().flat_map(|user| [user; 250]).map(|user| (user, bed.call(user, &dump("a")))).collect();
        let each = ipc::budget::Allowances::default().disk.each;
        bed.until(|bed| bed.control.server.held(Resource::Disk) == each);
        // Each has its deadline, and the disk still has it.
        bed.put_forward(store::PATIENCE);
        for (user, call) in calls {
            assert_eq!(bed.answered(user, call).unwrap_err().code, ErrorCode::OPERATION_TIMEOUT);
        }
        assert_eq!(bed.control.server.held(Resource::Disk), each);
    }
    let list = bed.call(users[0], &Call::ConnectNumOfDomains(remote::ConnectNumOfDomainsArgs));
    bed.answered(users[0], list).unwrap();
    let refused = bed.call(users[0], &dump("a"));
    let error = bed.answered(users[0], refused).unwrap_err();
    assert!(error.full_text().contains("jobs for the disk"), "{error:?}");
    // Another user waits for the disk alone.
    let (ended, defined) = (bed.call(owner, &destroy("b")), bed.call(owner, &define("c")));
    bed.answered(owner, ended).unwrap();
    drop(release);
    bed.answered(owner, defined).unwrap();
    bed.rest();
    bed.ask(users[0], &dump("a")).unwrap();
}

#[test]
fn a_user_without_jobs_for_the_disk_gets_one_whatever_others_hold() {
    let (mut bed, _) = with_a();
    let disk = ipc::budget::Allowances::default().disk;
    let mut full = |uid| bed.control.server.budget_of(uid).take(Resource::Disk, disk.each);
    let held: Vec<_> = (5000..5100).map_while(|uid| full(uid).ok()).collect();
    assert_eq!(bed.control.server.held(Resource::Disk), disk.unreserved());
    let user = bed.stranger(4711);
    bed.ask(user, &dump("a")).unwrap();
    // One, and no more: its disk is silent now.
    let release = hang(&mut bed, store::of_definitions);
    let (first, second) = (bed.call(user, &dump("a")), bed.call(user, &dump("a")));
    let error = bed.answered(user, second).unwrap_err();
    let text = error.full_text();
    assert!(text.contains("all users together") && !text.contains("does not answer"), "{text}");
    drop(release);
    bed.answered(user, first).unwrap();
    drop(held);
}

#[test]
fn a_guest_that_was_autostarted_and_stopped_stays_off_whenever_control_dies() {
    let names = ["a", "b", "c", "d", "e"];
    let (mut bed, client) = with_a();
    for name in names {
        bed.ask(client, &define(name)).unwrap();
        let args = remote::DomainSetAutostartArgs { dom: dom(name), autostart: 1 };
        bed.ask(client, &Call::DomainSetAutostart(args)).unwrap();
    }
    std::fs::remove_file(bed.instance().journal().with_file_name("autostarted")).unwrap();
    bed.launcher.boots = Manner::Later;
    bed.restart();
    assert_eq!(bed.launcher.runs.len(), 4, "a few at a time");
    // Killed while they boot, and again while the last one does.
    bed.restart();
    assert_eq!(bed.launcher.runs.len(), 5);
    let client = bed.client();
    let first = names.into_iter().find(|name| bed.launcher.history[0].0 == uuid(name)).unwrap();
    bed.ask(client, &destroy(first)).unwrap();
    bed.restart();
    assert_eq!(bed.launcher.alive(uuid(first)).len(), 0, "somebody has stopped it");
}

#[test]
fn a_boot_that_outlives_control_holds_up_nobody_when_it_is_over() {
    let (mut bed, client) = with_running_a();
    let boot = |state| protocol::Job {
        id: 1,
        kind: protocol::JobKind::BOOT,
        state,
        age_ms: 10,
        quiet_ms: 10,
        done: 0,
        total: 0,
        cancellable: true,
        stall_ms: 0,
        text: String::new(),
    };
    let _ = client;
    bed.process("a").jobs = vec![boot(protocol::JobState::RUNNING)];
    bed.restart();
    let client = bed.client();
    bed.process("a").jobs.clear();
    bed.process("a").tell(&Message::Job(boot(protocol::JobState::DONE)));
    bed.rest();
    bed.ask(client, &suspend("a")).unwrap();
    assert_eq!(bed.state("a"), DomainState::Paused);
}

#[test]
fn questions_without_end_keep_nobody_from_a_guest() {
    let (mut bed, client) = with_running_a();
    let ask = remote::DomainMemoryStatsArgs { dom: dom("a"), max_stats: 16, flags: NO_FLAGS };
    bed.process("a").stopped = true;
    let questions: Vec<u64> = (0..255).map(|_| bed.call(client, &Call::DomainMemoryStats(ask.clone()))).collect();
    // As many as the supervisor may owe wait for it, and the others have been refused.
    let taken = |bed: &Bed| {
        let answered: usize = bed.clients.iter().map(|client| client.answers.len()).sum();
        bed.control.server.held(Resource::Calls) + answered
    };
    bed.until(|bed| taken(bed) == 255);
    let other = bed.client();
    let more: Vec<u64> = (0..100).map(|_| bed.call(other, &Call::DomainMemoryStats(ask.clone()))).collect();
    let suspended = bed.call(other, &suspend("a"));
    bed.until(|bed| taken(bed) == 255 + 101);
    assert!(bed.answer(other, suspended).is_none(), "it waits for the supervisor");
    bed.process("a").stopped = false;
    bed.rest();
    bed.answer(other, suspended).unwrap().unwrap();
    assert_eq!(bed.state("a"), DomainState::Paused);
    let answers = questions.into_iter().filter(|call| bed.answer(client, *call).is_some()).count();
    assert_eq!((answers, more.into_iter().filter(|call| bed.answer(other, *call).is_some()).count()), (255, 100));
}

#[test]
fn what_a_quiet_guest_has_told_long_ago_is_not_told_again() {
    let (mut bed, _) = with_running_a();
    for _ in 0..9000 {
        bed.control.publish_definition(uuid("b"), "b", LifecycleEvent::Defined, 1);
    }
    bed.rest();
    let kept = bed.control.journal.kept();
    bed.control.hand(store::of_lines, move |lines| lines.compact(&kept).unwrap(), |_, ()| {});
    bed.rest();
    let next = bed.control.journal.next_sequence();
    bed.restart();
    assert_eq!(bed.state("a"), DomainState::Running);
    assert_eq!(bed.control.journal.next_sequence(), next, "nothing has happened");
}

#[test]
fn a_guest_that_lives_fast_pushes_out_its_own_life_only() {
    let (mut bed, client) = with_running_a();
    for _ in 0..9000 {
        bed.control.publish_definition(uuid("b"), "b", LifecycleEvent::Suspended, 0);
    }
    bed.rest();
    bed.ask(client, &destroy("a")).unwrap();
    for _ in 0..9000 {
        bed.control.publish_definition(uuid("b"), "b", LifecycleEvent::Suspended, 0);
    }
    bed.rest();
    let of_a = bed.control.journal.after(0).1.filter(|entry| entry.name == "a").count();
    assert_eq!(of_a, 3, "defined, started, stopped");
}

#[test]
fn a_run_of_which_nothing_is_known_is_not_started_again() {
    let (mut bed, _) = with_running_a();
    bed.launcher.forgets = true;
    bed.process("a").stopped = true;
    bed.restart();
    bed.later(Duration::from_secs(3));
    let client = bed.client();
    bed.launcher.forgets = false;
    assert_eq!(bed.state("a"), DomainState::NoState);
    assert_eq!(bed.ask(client, &start("a")).unwrap_err().code, ErrorCode::OPERATION_INVALID);
    bed.ask(client, &destroy("a")).unwrap();
    assert_eq!((bed.state("a"), bed.launcher.runs.len()), (DomainState::Shutoff, 0));
}

#[test]
fn a_guest_that_is_named_often_is_told_of_once() {
    let (mut bed, client) = with_running_a();
    let doms = vec![dom("a"); 3000];
    let ask = remote::ConnectGetAllDomainStatsArgs { doms, stats: 0, flags: 0 };
    let at = std::time::Instant::now();
    let Ok(Reply::ConnectGetAllDomainStats(ret)) = bed.ask(client, &Call::ConnectGetAllDomainStats(ask)) else {
        panic!("no statistics");
    };
    assert_eq!(ret.ret_stats.len(), 1, "{:?}", at.elapsed());
}

#[test]
fn a_record_of_more_processors_than_there_can_be_is_not_believed() {
    let (mut bed, _) = with_running_a();
    let process = bed.process("a");
    assert!(process.record.contains(">1</vcpu>"), "{}", process.record);
    process.record = process.record.replace(">1</vcpu>", ">4294967295</vcpu>");
    bed.restart();
    let client = bed.client();
    assert_eq!(bed.state("a"), DomainState::Running);
    assert!(bed.control.size_of(&uuid("a"), "count").is_err(), "statistics are of each of them");
    bed.ask(client, &destroy("a")).unwrap();
}

#[test]
fn a_number_that_was_told_without_its_line_is_not_given_again() {
    let (mut bed, client) = with_running_a();
    bed.ask(client, &subscribe(None)).unwrap();
    let release = hang(&mut bed, store::of_lines);
    let defined = bed.call(client, &define("b"));
    bed.answered(client, defined).unwrap();
    // It is told without its line.
    bed.put_forward(Duration::from_secs(1));
    bed.until(|bed| bed.clients[client].events.iter().any(|event| sequence(event).is_some()));
    let told = bed.clients[client].events.iter().filter_map(sequence).max().unwrap();
    bed.restart_at_once();
    let client = bed.client();
    bed.ask(client, &define("c")).unwrap();
    let Ok(Reply::BulkheadEventsSubscribe(ret)) = bed.ask(client, &subscribe(Some(told))) else { panic!() };
    let after: Vec<u64> = bed.clients[client].events.iter().filter_map(sequence).collect();
    assert!(after.len() == 1 && after[0] > told, "{told}: next {}, {after:?}", ret.next);
    drop(release);
}

fn sequence(event: &api::Event) -> Option<u64> {
    match event {
        api::Event::BulkheadDomainEvent(event) => Some(event.sequence),
        _ => None,
    }
}

#[test]
fn a_change_of_a_definition_whose_event_control_did_not_live_to_write_is_reported_as_a_loss() {
    let (mut bed, client) = with_a();
    let Ok(Reply::BulkheadEventsSubscribe(before)) = bed.ask(client, &subscribe(None)) else { panic!() };
    let release = hang(&mut bed, store::of_lines);
    let defined = bed.call(client, &define("b"));
    bed.answered(client, defined).unwrap();
    bed.restart_at_once();
    let lost_after = |bed: &mut Bed, sequence| {
        let client = bed.client();
        let Ok(Reply::BulkheadEventsSubscribe(ret)) = bed.ask(client, &subscribe(Some(sequence))) else { panic!() };
        (ret.lost, ret.next)
    };
    let (lost, next) = lost_after(&mut bed, before.next - 1);
    assert!(lost, "the definition is there and no event tells of it");
    // Also when nothing has happened before the next one is killed, within nothing.
    bed.restart_at_once();
    assert_eq!(lost_after(&mut bed, before.next - 1), (true, next));
    assert_eq!(lost_after(&mut bed, next - 1), (false, next));
    drop(release);
}

#[test]
fn a_disk_with_emulators_that_hangs_is_not_a_host_without_emulators() {
    let (mut bed, client) = with_a();
    let capabilities = Call::ConnectGetCapabilities(remote::ConnectGetCapabilitiesArgs);
    let version = Call::ConnectGetVersion(remote::ConnectGetVersionArgs);
    let domain_capabilities = Call::ConnectGetDomainCapabilities(remote::ConnectGetDomainCapabilitiesArgs {
        emulatorbin: None,
        arch: None,
        machine: None,
        virttype: None,
        flags: NO_FLAGS,
    });
    let (release, hang) = channel::<()>();
    let hang = Arc::new(Mutex::new(hang));
    for _ in 0..ipc::budget::Allowances::default().looks.all {
        let hang = Arc::clone(&hang);
        let hangs = move || {
            let _ = hang.lock().unwrap().recv();
        };
        bed.control.look_within(AGES * 2, hangs, |_, _| {});
    }
    let calls = [capabilities.clone(), version, domain_capabilities].map(|call| bed.call(client, &call));
    bed.until(|bed| bed.control.server.held(Resource::Calls) == calls.len());
    bed.put_forward(Duration::from_secs(11));
    for call in calls {
        let error = bed.answered(client, call).unwrap_err();
        assert_eq!(error.code, ErrorCode::OPERATION_TIMEOUT, "{}", error.full_text());
        assert!(error.full_text().contains("emulators'"), "the place is named: {}", error.full_text());
    }
    drop(release);
    bed.rest();
    bed.ask(client, &capabilities).unwrap();
}

#[test]
fn a_dead_run_whose_log_is_not_whole_has_lost_events() {
    for log in ["whole", "missing", "torn"] {
        let (mut bed, _) = with_running_a();
        let since = bed.control.journal.next_sequence() - 1;
        bed.launcher.dials = Manner::Refuse;
        bed.process("a").hang_up();
        bed.rest();
        bed.process("a").report(Kind::SUSPENDED_PAUSED, State::PAUSED_USER);
        let run = bed.run("a");
        let path = bed.instance().guest_event_log(run);
        match log {
            "missing" => std::fs::remove_file(path).unwrap(),
            "torn" => std::fs::write(&path, &std::fs::read(&path).unwrap()[..150]).unwrap(),
            _ => {}
        }
        bed.launcher.die(run);
        bed.rest();
        let client = bed.client();
        let Ok(Reply::BulkheadEventsSubscribe(ret)) = bed.ask(client, &subscribe(Some(since))) else { panic!() };
        let stopped = (LifecycleEvent::Stopped as i32, StoppedDetail::Crashed as i32);
        let suspended = (LifecycleEvent::Suspended as i32, 0);
        let expected = if log == "whole" { vec![suspended, stopped] } else { vec![stopped] };
        assert_eq!((ret.lost, bed.heard(client, "a")), (log != "whole", expected), "{log}");
    }
}

#[test]
fn a_definition_that_is_being_changed_when_control_leaves_gets_its_event() {
    let (mut bed, client) = with_a();
    let Ok(Reply::BulkheadEventsSubscribe(before)) = bed.ask(client, &subscribe(None)) else { panic!() };
    let release = hang(&mut bed, store::of_definitions);
    let defined = bed.call(client, &define("b"));
    bed.until(|bed| bed.control.note.is_changing());
    // From here on nobody hears the thread but what control does when it leaves.
    drop(release);
    bed.control.finish_changes(Instant::now() + Duration::from_secs(20));
    bed.clients[client].turn();
    bed.answer(client, defined).expect("an answer").unwrap();
    assert_eq!(bed.heard(client, "b").len(), 1, "who listens is told");
    bed.upgrade();
    let client = bed.client();
    let Ok(Reply::BulkheadEventsSubscribe(ret)) = bed.ask(client, &subscribe(Some(before.next - 1))) else { panic!() };
    assert!(bed.instance().definitions_dir().join("b.xml").exists());
    assert_eq!((ret.lost, bed.heard(client, "b").len()), (false, 1));
}

#[test]
fn a_control_that_leaves_waits_for_no_stuck_disk() {
    let (mut bed, client) = with_a();
    let release = hang(&mut bed, store::of_definitions);
    bed.call(client, &define("b"));
    bed.until(|bed| bed.control.note.is_changing());
    bed.control.finish_changes(Instant::now());
    assert!(bed.control.note.is_changing());
    drop(release);
}

#[test]
fn what_an_unheard_supervisor_has_not_told_is_unknown_and_not_absent() {
    let (mut bed, _) = with_running_a();
    bed.process("a").stopped = true;
    let live = ModificationImpact::LIVE.bits();
    let both = live | ModificationImpact::CONFIG.bits();
    let set_memory = |flags| remote::DomainSetMemoryFlagsArgs { dom: dom("a"), memory: 32768, flags };
    let disk = || remote::DomainGetBlockInfoArgs { dom: dom("a"), path: "vda".into(), flags: NO_FLAGS };
    let block = || remote::DomainBlockStatsArgs { dom: dom("a"), path: "vda".into() };
    let memory = || remote::DomainMemoryStatsArgs { dom: dom("a"), max_stats: 16, flags: NO_FLAGS };
    let vcpus = || remote::DomainGetVcpusFlagsArgs { dom: dom("a"), flags: live };
    let stats = || remote::DomainGetJobStatsArgs { dom: dom("a"), flags: NO_FLAGS };
    let calls = || {
        [
            title("a", Some("new"), live),
            title("a", Some("new"), both),
            live_title("a"),
            Call::DomainSetMemoryFlags(set_memory(live)),
            Call::DomainSetMemoryFlags(set_memory(both)),
            Call::DomainGetBlockInfo(disk()),
            Call::DomainBlockStats(block()),
            Call::DomainMemoryStats(memory()),
            Call::DomainGetVcpusFlags(vcpus()),
            Call::DomainGetMaxMemory(remote::DomainGetMaxMemoryArgs { dom: dom("a") }),
            Call::DomainGetMaxVcpus(remote::DomainGetMaxVcpusArgs { dom: dom("a") }),
            Call::DomainGetInfo(remote::DomainGetInfoArgs { dom: dom("a") }),
            Call::DomainGetJobInfo(remote::DomainGetJobInfoArgs { dom: dom("a") }),
            Call::DomainGetJobStats(stats()),
            Call::DomainAbortJob(remote::DomainAbortJobArgs { dom: dom("a") }),
        ]
    };
    for (why, dials) in [("has not reported yet", Manner::Well), ("no connection", Manner::Refuse)] {
        bed.launcher.dials = dials;
        bed.restart();
        bed.later(Duration::from_secs(3));
        let client = bed.client();
        for call in calls() {
            let error = bed.ask(client, &call).expect_err(&format!("{call:?}"));
            let told = (error.code, error.full_text().contains(why));
            assert_eq!(told, (ErrorCode::OPERATION_TIMEOUT, true), "{call:?}: {}", error.full_text());
        }
    }
    bed.launcher.dials = Manner::Well;
    bed.process("a").stopped = false;
    bed.later(Duration::from_secs(20));
    let client = bed.client();
    let Ok(Reply::DomainGetJobInfo(_)) = bed.ask(client, &calls()[12]) else { panic!("its jobs are known") };
    let error = bed.ask(client, &live_title("a")).unwrap_err();
    assert_eq!(error.code, ErrorCode::NO_DOMAIN_METADATA, "nothing was changed: {}", error.full_text());
}

#[test]
fn a_supervisor_that_floods_control_has_one_turn_in_each_pass_of_the_loop() {
    let (mut bed, _) = with_running_a();
    let run = bed.run("a");
    bed.process("a").stopped = true;
    let mut told = bed.control.journal.seen(run);
    let mut taken = Vec::new();
    for _ in 0..10 {
        // More arrives in each pass than is taken in one, so the poll reports a supervisor that waits for its turn already.
        for _ in 0..80 {
            told += 1;
            bed.process("a").tell(&Message::Event(resumed(told)));
        }
        let before = bed.control.journal.seen(run);
        bed.turns(1);
        taken.push(bed.control.journal.seen(run) - before);
    }
    assert_eq!(taken, [64; 10]);
    bed.rest();
    assert_eq!(bed.control.journal.seen(run), told, "nothing is left unheard");
}

fn resumed(sequence: u64) -> protocol::Event {
    protocol::Event {
        sequence,
        seconds: 0,
        nanos: 0,
        event: LifecycleEvent::Resumed as i32,
        detail: 0,
        state: DomainState::Running as i32,
        reason: 0,
        text: None,
    }
}
