//! Control driven in process: by a scripted launcher, scripted supervisors and a clock that the test puts forward.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests are not marked as tests.

mod attacks;
mod bed;
mod properties;

use std::{sync::mpsc::channel, time::Duration};

use api::{
    Call, ErrorCode, Reply,
    consts::{CreateFlags, DestroyFlags, DomainState, LifecycleEvent, ListDomains, StoppedDetail},
};
use api::{Event, bulkhead, remote};
use bed::{AGES, Bed, Manner};
use supervisor::{
    lifecycle::{Kind, State},
    protocol::{self, Message},
};
use uuid::Uuid;

use crate::store;

const NO_FLAGS: u32 = 0;

/// The UUID of the guest of a name.
fn uuid(name: &str) -> Uuid {
    Uuid::from_u128(name.bytes().fold(0x0b01_0000, |sum, byte| (sum << 8) | u128::from(byte)))
}

fn dom(name: &str) -> remote::Domain {
    remote::Domain { name: name.into(), uuid: uuid(name).into_bytes(), id: -1 }
}

fn document(name: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><uuid>{}</uuid><memory unit='MiB'>64</memory>\
         <os><type arch='x86_64'>hvm</type></os></domain>",
        uuid(name)
    )
}

fn define(name: &str) -> Call {
    Call::DomainDefineXmlFlags(remote::DomainDefineXmlFlagsArgs { xml: document(name), flags: NO_FLAGS })
}

fn undefine(name: &str) -> Call {
    Call::DomainUndefine(remote::DomainUndefineArgs { dom: dom(name) })
}

fn start(name: &str) -> Call {
    Call::DomainCreate(remote::DomainCreateArgs { dom: dom(name) })
}

fn create(name: &str) -> Call {
    Call::DomainCreateXml(remote::DomainCreateXmlArgs { xml_desc: document(name), flags: NO_FLAGS })
}

fn destroy(name: &str) -> Call {
    Call::DomainDestroy(remote::DomainDestroyArgs { dom: dom(name) })
}

fn suspend(name: &str) -> Call {
    Call::DomainSuspend(remote::DomainSuspendArgs { dom: dom(name) })
}

fn resume(name: &str) -> Call {
    Call::DomainResume(remote::DomainResumeArgs { dom: dom(name) })
}

fn dump(name: &str) -> Call {
    let flags = api::consts::XmlFlags::INACTIVE.bits();
    Call::DomainGetXmlDesc(remote::DomainGetXmlDescArgs { dom: dom(name), flags })
}

fn subscribe(since: Option<u64>) -> Call {
    Call::BulkheadEventsSubscribe(bulkhead::EventsSubscribeArgs { since })
}

impl Bed {
    /// What the list says of a guest: its state and whether it is persistent; none if it is not in it.
    fn listed(&mut self, name: &str) -> Option<(DomainState, bool)> {
        let record = self.control.list(ListDomains::empty()).into_iter().find(|record| record.dom.name == name)?;
        Some((DomainState::try_from(record.state).unwrap(), record.persistent))
    }

    fn state(&mut self, name: &str) -> DomainState {
        self.listed(name).expect("it is in the list").0
    }

    /// The only live run of a guest.
    fn run(&self, name: &str) -> u32 {
        let alive = self.launcher.alive(uuid(name));
        assert_eq!(alive.len(), 1, "live runs of {name}: {alive:?}");
        alive[0]
    }

    fn process(&mut self, name: &str) -> &mut bed::Process {
        let run = self.run(name);
        self.launcher.runs.get_mut(&run).unwrap()
    }

    /// The lifecycle events of a guest that a client has heard: event and detail.
    fn heard(&self, client: usize, name: &str) -> Vec<(i32, i32)> {
        let of_guest = |event: &Event| match event {
            Event::BulkheadDomainEvent(event) if event.dom.name == name => Some((event.event, event.detail)),
            _ => None,
        };
        self.clients[client].events.iter().filter_map(of_guest).collect()
    }
}

/// A bed with one client and the defined guest `a`.
fn with_a() -> (Bed, usize) {
    let mut bed = Bed::new();
    let client = bed.client();
    bed.ask(client, &define("a")).unwrap();
    (bed, client)
}

/// The same, and it runs.
fn with_running_a() -> (Bed, usize) {
    let (mut bed, client) = with_a();
    bed.ask(client, &start("a")).unwrap();
    assert_eq!(bed.state("a"), DomainState::Running);
    (bed, client)
}

#[test]
fn a_guest_lives_as_its_client_wants() {
    let (mut bed, client) = with_a();
    bed.ask(client, &subscribe(None)).unwrap();
    assert_eq!(bed.state("a"), DomainState::Shutoff);
    for _ in 0..2 {
        bed.ask(client, &start("a")).unwrap();
        assert_eq!(bed.ask(client, &start("a")).unwrap_err().code, ErrorCode::OPERATION_INVALID);
        bed.ask(client, &suspend("a")).unwrap();
        assert_eq!(bed.state("a"), DomainState::Paused);
        bed.ask(client, &resume("a")).unwrap();
        bed.ask(client, &destroy("a")).unwrap();
        assert_eq!((bed.state("a"), bed.launcher.runs.len()), (DomainState::Shutoff, 0));
    }
    bed.ask(client, &undefine("a")).unwrap();
    assert_eq!(bed.listed("a"), None);
    let stops = bed.heard(client, "a").into_iter().filter(|(event, _)| *event == LifecycleEvent::Stopped as i32);
    assert_eq!(stops.collect::<Vec<_>>(), [(5, StoppedDetail::Destroyed as i32); 2]);
}

/// The fault that began all this: the first start wakes up late and nobody knows its guest.
#[test]
fn a_launch_that_comes_late_is_no_second_guest() {
    let (mut bed, client) = with_a();
    bed.launcher.launches = Manner::Later;
    let first = bed.call(client, &start("a"));
    bed.rest();
    assert_eq!(bed.ask(client, &start("a")).unwrap_err().code, ErrorCode::OPERATION_INVALID, "it is being started");
    bed.later(AGES);
    assert!(bed.answer(client, first).unwrap().is_err(), "the launcher was silent");
    assert!(bed.ask(client, &start("a")).is_err(), "what the launcher does may still become a run");
    bed.launcher.launches = Manner::Well;
    bed.launcher.go_on();
    bed.rest();
    assert_eq!((bed.state("a"), bed.launcher.runs.len()), (DomainState::Shutoff, 0), "nobody wanted it any more");
    bed.ask(client, &start("a")).unwrap();
    assert_eq!(bed.launcher.history.len(), 2);
}

#[test]
fn a_supervisor_that_is_stopped_while_it_starts_is_ended() {
    let (mut bed, client) = with_a();
    bed.launcher.boots = Manner::Later;
    let first = bed.call(client, &start("a"));
    bed.rest();
    assert!(bed.listed("a").is_some_and(|(state, _)| state != DomainState::Shutoff), "a half-done start is seen");
    assert!(bed.answer(client, first).is_none());
    bed.later(AGES);
    assert!(bed.answer(client, first).unwrap().is_err());
    assert_eq!((bed.state("a"), bed.launcher.runs.len()), (DomainState::Shutoff, 0));
}

#[test]
fn a_half_done_start_can_be_destroyed() {
    for (launches, boots) in [(Manner::Later, Manner::Well), (Manner::Well, Manner::Later)] {
        let (mut bed, client) = with_a();
        (bed.launcher.launches, bed.launcher.boots) = (launches, boots);
        let started = bed.call(client, &start("a"));
        bed.rest();
        let destroyed = bed.call(client, &destroy("a"));
        bed.rest();
        bed.launcher.go_on();
        bed.later(Duration::from_secs(5));
        assert!(bed.answer(client, started).unwrap().is_err());
        bed.answer(client, destroyed).unwrap().unwrap();
        assert_eq!((bed.state("a"), bed.launcher.runs.len()), (DomainState::Shutoff, 0));
    }
}

#[test]
fn a_guest_that_cannot_be_killed_is_not_called_destroyed() {
    let (mut bed, client) = with_running_a();
    bed.launcher.kills = Manner::Later;
    bed.process("a").stopped = true;
    let destroyed = bed.call(client, &destroy("a"));
    bed.rest();
    assert!(bed.answer(client, destroyed).is_none());
    bed.later(AGES);
    assert_eq!(bed.answer(client, destroyed).unwrap().unwrap_err().code, ErrorCode::OPERATION_TIMEOUT);
    assert_ne!(bed.state("a"), DomainState::Shutoff, "its processes are there");
    assert!(bed.ask(client, &start("a")).is_err());
    bed.launcher.go_on();
    bed.rest();
    assert_eq!(bed.state("a"), DomainState::Shutoff);
}

#[test]
fn a_lost_link_is_not_a_lost_guest() {
    let (mut bed, client) = with_running_a();
    bed.launcher.dials = Manner::Refuse;
    bed.process("a").hang_up();
    bed.rest();
    assert_eq!(bed.state("a"), DomainState::NoState, "nobody knows how it is");
    assert!(bed.ask(client, &start("a")).is_err());
    bed.launcher.dials = Manner::Well;
    bed.later(Duration::from_secs(20));
    assert_eq!(bed.state("a"), DomainState::Running);
    bed.launcher.dials = Manner::Refuse;
    bed.process("a").hang_up();
    bed.rest();
    bed.ask(client, &destroy("a")).unwrap();
    assert_eq!((bed.state("a"), bed.launcher.runs.len()), (DomainState::Shutoff, 0), "destroyed without a link");
}

#[test]
fn a_supervisor_that_lies_harms_its_own_guest_only() {
    let (mut bed, client) = with_running_a();
    bed.ask(client, &define("b")).unwrap();
    bed.ask(client, &start("b")).unwrap();
    let event = |sequence, state| protocol::Event {
        sequence,
        seconds: i64::MIN,
        nanos: u32::MAX,
        event: i32::MAX,
        detail: i32::MIN,
        state,
        reason: i32::MAX,
        text: Some("\u{9b}x".repeat(1 << 10)),
    };
    for message in [
        Message::Event(event(u64::MAX, 1)),
        Message::Event(event(0, 1)),
        Message::Event(event(100, i32::MIN)),
        Message::Answer(Ok(protocol::Answer::Record("{".into()))),
        Message::Job(protocol::Job {
            id: u64::MAX,
            kind: protocol::JobKind(u16::MAX),
            state: protocol::JobState(u16::MAX),
            age_ms: u64::MAX,
            quiet_ms: u64::MAX,
            done: u64::MAX,
            total: 1,
            cancellable: true,
            stall_ms: u32::MAX,
            text: String::new(),
        }),
    ] {
        bed.process("a").tell(&message);
        bed.later(Duration::from_secs(20));
    }
    assert_eq!(bed.state("b"), DomainState::Running);
    bed.ask(client, &destroy("a")).unwrap();
    bed.ask(client, &destroy("b")).unwrap();
    assert_eq!(bed.launcher.runs.len(), 0);
}

#[test]
fn control_can_die_at_each_step_of_a_start() {
    // Before the launcher has answered: what it makes of the launch is found by the next control.
    let (mut bed, client) = with_a();
    bed.launcher.launches = Manner::Later;
    bed.call(client, &start("a"));
    bed.rest();
    bed.launcher.launches = Manner::Well;
    bed.restart();
    let client = bed.client();
    bed.ask(client, &start("a")).unwrap();
    // While the guest boots.
    bed.ask(client, &destroy("a")).unwrap();
    bed.launcher.boots = Manner::Later;
    bed.call(client, &start("a"));
    bed.rest();
    bed.restart();
    let client = bed.client();
    assert_ne!(bed.state("a"), DomainState::Shutoff, "the run is there");
    bed.ask(client, &destroy("a")).unwrap();
    // When it is up.
    bed.launcher.boots = Manner::Well;
    bed.ask(client, &start("a")).unwrap();
    bed.restart();
    let client = bed.client();
    assert_eq!(bed.state("a"), DomainState::Running);
    bed.ask(client, &destroy("a")).unwrap();
    assert_eq!(bed.launcher.runs.len(), 0);
}

#[test]
fn an_end_is_told_once_whoever_tells_it() {
    let (mut bed, client) = with_running_a();
    bed.ask(client, &subscribe(Some(0))).unwrap();
    bed.launcher.kills = Manner::Later;
    bed.process("a").report(Kind::STOPPED_SHUTDOWN, State::SHUTOFF_SHUTDOWN);
    bed.rest();
    assert_eq!(bed.heard(client, "a").len(), 2, "defined and started: the kernel has not said that it is gone");
    bed.restart();
    let client = bed.client();
    bed.ask(client, &subscribe(Some(0))).unwrap();
    let run = bed.run("a");
    bed.launcher.die(run);
    bed.rest();
    bed.restart();
    let client = bed.client();
    bed.ask(client, &subscribe(Some(0))).unwrap();
    bed.rest();
    let stops: Vec<_> = bed.heard(client, "a").into_iter().filter(|(event, _)| *event == 5).collect();
    assert_eq!(stops, [(5, StoppedDetail::Shutdown as i32)]);
    assert_eq!(bed.state("a"), DomainState::Shutoff);
}

#[test]
fn a_domain_without_a_definition_goes_with_its_run() {
    let mut bed = Bed::new();
    let client = bed.client();
    bed.ask(client, &create("a")).unwrap();
    assert_eq!(bed.listed("a"), Some((DomainState::Running, false)));
    bed.ask(client, &define("a")).unwrap();
    bed.ask(client, &undefine("a")).unwrap();
    let run = bed.run("a");
    bed.launcher.die(run);
    bed.rest();
    assert_eq!(bed.listed("a"), None);
    assert!(!bed.instance().definitions_dir().join("a.xml").exists());
}

#[test]
fn a_guest_that_lives_for_a_connection_ends_with_it() {
    let autodestroy = CreateFlags::AUTODESTROY.bits();
    let create = Call::DomainCreateXml(remote::DomainCreateXmlArgs { xml_desc: document("a"), flags: autodestroy });
    let mut bed = Bed::new();
    let client = bed.client();
    bed.ask(client, &create).unwrap();
    bed.clients.clear();
    bed.later(Duration::from_secs(5));
    assert_eq!((bed.listed("a"), bed.launcher.runs.len()), (None, 0));
    // Its connection goes while it is being started.
    let client = bed.client();
    bed.launcher.launches = Manner::Later;
    bed.call(client, &create);
    bed.rest();
    bed.clients.clear();
    bed.rest();
    bed.launcher.launches = Manner::Well;
    bed.launcher.go_on();
    bed.later(Duration::from_secs(5));
    assert_eq!((bed.listed("a"), bed.launcher.runs.len()), (None, 0));
    // Control is killed, and all connections with it.
    let client = bed.client();
    bed.ask(client, &create).unwrap();
    bed.restart();
    bed.later(Duration::from_secs(5));
    assert_eq!((bed.listed("a"), bed.launcher.runs.len()), (None, 0));
}

#[test]
fn a_guest_that_is_asked_to_end_is_not_killed() {
    let (mut bed, client) = with_running_a();
    let graceful = DestroyFlags::GRACEFUL.bits();
    let ask = Call::DomainDestroyFlags(remote::DomainDestroyFlagsArgs { dom: dom("a"), flags: graceful });
    bed.process("a").ends_when_asked = false;
    assert_eq!(bed.ask(client, &ask).unwrap_err().code, ErrorCode::SYSTEM_ERROR);
    assert_eq!(bed.state("a"), DomainState::Running);
    bed.process("a").ends_when_asked = true;
    bed.ask(client, &ask).unwrap();
    assert_eq!((bed.state("a"), bed.launcher.runs.len()), (DomainState::Shutoff, 0));
    assert_eq!(bed.ask(client, &ask).unwrap_err().code, ErrorCode::OPERATION_INVALID);
}

#[test]
fn a_disk_that_hangs_holds_up_only_who_needs_it() {
    let (mut bed, client) = with_a();
    bed.ask(client, &subscribe(None)).unwrap();
    let (release, hang) = channel::<()>();
    let hangs = move |_: &mut store::definitions::Definitions| {
        let _ = hang.recv();
    };
    bed.control.hand(store::of_definitions, hangs, |_, ()| {});
    let (read, written) = (bed.call(client, &dump("a")), bed.call(client, &define("b")));
    let list = bed.call(client, &Call::ConnectNumOfDomains(remote::ConnectNumOfDomainsArgs));
    let made = bed.call(client, &create("c"));
    assert!(bed.answered(client, list).is_ok() && bed.answered(client, made).is_ok());
    // Events go on.
    bed.until(|bed| bed.heard(client, "c").len() == 1);
    assert!(bed.answer(client, read).is_none() && bed.answer(client, written).is_none());
    bed.put_forward(AGES);
    for call in [read, written] {
        assert_eq!(bed.answered(client, call).unwrap_err().code, ErrorCode::OPERATION_TIMEOUT);
    }
    assert!(bed.listed("b").is_none());
    drop(release);
    bed.rest();
    assert_eq!(
        bed.listed("b"),
        Some((DomainState::Shutoff, true)),
        "as the error has said, it was done when it answered"
    );
    assert!(matches!(bed.ask(client, &dump("b")), Ok(Reply::DomainGetXmlDesc(_))));
}

#[test]
fn a_journal_that_hangs_delays_events_by_a_second() {
    let (mut bed, client) = with_a();
    bed.ask(client, &subscribe(None)).unwrap();
    let (release, hang) = channel::<()>();
    let hangs = move |_: &mut store::Lines| {
        let _ = hang.recv();
    };
    bed.control.hand(store::of_lines, hangs, |_, ()| {});
    let defined = bed.call(client, &define("b"));
    bed.answered(client, defined).unwrap();
    assert_eq!(bed.heard(client, "b"), []);
    bed.put_forward(Duration::from_secs(1));
    bed.until(|bed| bed.heard(client, "b").len() == 1);
    drop(release);
    bed.rest();
    bed.restart();
    let client = bed.client();
    bed.ask(client, &subscribe(Some(0))).unwrap();
    assert_eq!(bed.heard(client, "b").len(), 1, "the line was written all the same");
}
