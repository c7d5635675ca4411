//! Deaths and stops, of each process in turn.

use std::time::{Duration, Instant};

use api::{Call, ErrorCode, Event, bulkhead, remote};
use bulkhead_tests::{Guest, Instance, LONG, Signal, run};
use wire::{client::Client, keepalive};

use crate::rig::{AT_ONCE, Gateway, Raw, Rig, ask, domain, error_of, failed, hostname};

/// Waits for events until one is of this kind, and returns all of them.
fn events_until(client: &Client, last: i32) -> Vec<(String, i32)> {
    let mut seen = Vec::new();
    let deadline = Instant::now() + LONG;
    while !seen.iter().any(|(_, event)| *event == last) {
        assert!(Instant::now() < deadline, "{seen:?}");
        for event in client.wait_events(Some(Duration::from_secs(1))).unwrap() {
            if let Event::DomainEventCallbackLifecycle(happened) = event {
                seen.push((happened.msg.dom.name, happened.msg.event));
            }
        }
    }
    seen
}

fn register(client: &Client) {
    let args = remote::ConnectDomainEventCallbackRegisterAnyArgs { event_id: 0, dom: None };
    ask(client, args);
}

#[test]
fn a_killed_worker_costs_its_own_client_only() {
    let rig = Rig::session("");
    let neighbour = rig.opened();
    let before: Vec<u32> = rig.gateway.workers_with_sockets(3).iter().map(|worker| worker.pid).collect();
    let victim = rig.opened();
    let workers = rig.gateway.workers_with_sockets(3);
    let its = workers.iter().find(|worker| !before.contains(&worker.pid)).expect("a worker of its own");
    its.handle().unwrap().kill();
    let lost = victim.call(&Call::ConnectGetHostname(remote::ConnectGetHostnameArgs {}), Vec::new());
    assert!(matches!(lost, Err(wire::client::CallError::Lost(_))), "{lost:?}");
    hostname(&neighbour);
    hostname(&rig.opened());
}

#[test]
fn workers_that_wait_may_die_too() {
    let rig = Rig::session("");
    for _ in 0..3 {
        for worker in rig.gateway.role("worker") {
            worker.handle().inspect(|handle| handle.kill());
        }
        // One whose worker is dead before it is seen to be hangs up; the next has another.
        let deadline = Instant::now() + LONG;
        loop {
            let stream = std::os::unix::net::UnixStream::connect(rig.socket()).unwrap();
            let client = Client::new(Box::new(wire::transport::Unix::new(stream))).unwrap();
            if client.login(None, LONG).is_ok() {
                break;
            }
            assert!(Instant::now() < deadline, "no worker any more");
        }
    }
}

#[test]
fn a_killed_acceptor_is_replaced_and_its_clients_have_to_come_again() {
    let rig = Rig::session("");
    let client = rig.opened();
    let workers = rig.gateway.role("worker");
    let handles: Vec<_> = workers.iter().filter_map(|worker| worker.handle()).collect();
    rig.gateway.acceptor().handle().unwrap().kill();
    for handle in handles {
        assert!(handle.wait_for_end(LONG), "worker {} stays without its acceptor", handle.pid);
    }
    assert!(client.call(&Call::ConnectGetHostname(remote::ConnectGetHostnameArgs {}), Vec::new()).is_err());
    hostname(&rig.opened());
}

#[test]
fn a_listener_misses_nothing_when_qemud_is_killed() {
    let rig = Rig::session("");
    let client = rig.opened();
    register(&client);
    rig.instance.create(&Guest::tiny("first"));
    events_until(&client, 2);
    let qemu = rig.instance.qemu("first");
    let (launcher, control) = (rig.instance.launcher(), rig.instance.control());
    launcher.kill();
    control.kill();
    // It ends while nobody watches but its supervisor.
    qemu.kill();
    rig.instance.ok(&["list"]);
    let seen = events_until(&client, 5);
    assert_eq!(seen.iter().filter(|(name, event)| name == "first" && *event == 5).count(), 1, "{seen:?}");
    rig.instance.create(&Guest::tiny("second"));
    let seen = events_until(&client, 2);
    assert!(seen.iter().all(|(name, _)| name == "second"), "nothing comes twice: {seen:?}");
    hostname(&client);
}

#[test]
fn a_call_after_qemud_was_killed_works_and_the_one_under_way_says_why_not() {
    let rig = Rig::session("");
    rig.instance.create(&Guest::tiny("stuck"));
    let mut raw = Raw::connect(&rig.socket());
    raw.open();
    let dom = domain(&rig.opened(), "stuck");
    rig.instance.qemu("stuck").signal(Signal::STOP);
    raw.call(8, &Call::DomainSuspend(remote::DomainSuspendArgs { dom }));
    // Answered behind it: it has arrived.
    raw.call(9, &Call::ConnectGetHostname(remote::ConnectGetHostnameArgs {}));
    assert_eq!(raw.next().unwrap().header.serial, 9);
    let (launcher, control) = (rig.instance.launcher(), rig.instance.control());
    launcher.kill();
    control.kill();
    let frame = raw.next().unwrap();
    assert_eq!(frame.header.serial, 8);
    let error = error_of(&frame);
    assert!(error.message.contains("lost during virDomainSuspend"), "{}", error.message);
    raw.call(10, &Call::ConnectGetHostname(remote::ConnectGetHostnameArgs {}));
    let frame = raw.next().unwrap();
    assert_eq!((frame.header.serial, frame.header.status), (10, wire::Status::Ok), "{frame:?}");
    rig.instance.qemu("stuck").signal(Signal::CONT);
}

#[test]
fn a_ping_is_answered_while_a_guest_is_stuck() {
    let rig = Rig::session("");
    rig.instance.create(&Guest::tiny("stuck"));
    let mut raw = Raw::connect(&rig.socket());
    raw.open();
    let dom = domain(&rig.opened(), "stuck");
    let qemu = rig.instance.qemu("stuck");
    qemu.signal(Signal::STOP);
    raw.call(8, &Call::DomainSuspend(remote::DomainSuspendArgs { dom }));
    raw.0.queue_empty(&keepalive::PING_HEADER).unwrap();
    raw.0.flush().unwrap();
    assert_eq!(raw.next().unwrap().header, keepalive::PONG_HEADER, "before the answer that takes until a deadline");
    let frame = raw.next().unwrap();
    assert_eq!(frame.header.serial, 8);
    error_of(&frame);
    qemu.signal(Signal::CONT);
}

#[test]
fn a_client_that_wants_keepalive_is_pinged_and_given_up_when_it_is_silent() {
    let rig = Rig::session("keepalive_seconds = 1\nkeepalive_count = 2\n");
    let mut raw = Raw::connect(&rig.socket());
    raw.open();
    raw.call(3, &Call::ConnectSupportsFeature(remote::ConnectSupportsFeatureArgs { feature: 10 }));
    raw.next().unwrap();
    assert_eq!(raw.next().unwrap().header, keepalive::PING_HEADER);
    assert_eq!(raw.next().unwrap().header, keepalive::PING_HEADER);
    assert!(raw.next().is_none());
}

#[test]
fn without_a_qemud_the_open_says_so() {
    let test = "without_a_qemud_the_open_says_so";
    let Some(instance) = Instance::system(test) else { return };
    let rig = Rig::before(instance, "");
    let begin = Instant::now();
    let error = crate::rig::open(&rig.client(), "").unwrap_err();
    assert!(begin.elapsed() < AT_ONCE);
    assert_eq!(error.code, ErrorCode::SYSTEM_ERROR);
    assert!(error.message.contains("cannot connect to qemud at") && error.message.contains("No such file"), "{error}");
    crate::rig::open(&rig.client(), "test:///default").unwrap();
}

#[test]
fn one_gateway_serves_an_instance() {
    let rig = Rig::session("");
    let mut second = Gateway::command(&rig.instance);
    second.stdin(std::process::Stdio::null());
    let output = run(second);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("another gateway holds"), "{}", output.stderr);
    hostname(&rig.opened());
}

#[test]
fn our_own_operations_pass_too() {
    let rig = Rig::session("");
    rig.instance.create(&Guest::tiny("own"));
    let client = rig.opened();
    let list = ask(&client, bulkhead::ListDomainsArgs { flags: 0 });
    assert_eq!(list.domains.iter().map(|record| record.dom.name.as_str()).collect::<Vec<_>>(), ["own"]);
    let ret = ask(&client, bulkhead::EventsSubscribeArgs { since: Some(0) });
    assert!(!ret.lost && ret.next > 1);
    let deadline = Instant::now() + LONG;
    let mut numbers = Vec::new();
    while numbers.last().is_none_or(|last| last + 1 < ret.next) {
        assert!(Instant::now() < deadline, "{numbers:?}");
        let events = client.wait_events(Some(Duration::from_secs(1))).unwrap();
        numbers.extend(events.into_iter().filter_map(|event| match event {
            Event::BulkheadDomainEvent(event) => Some(event.sequence),
            _ => None,
        }));
    }
    assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "{numbers:?}");
    assert_eq!(numbers[0] % 1_000_000, 1, "from the first one on");
    failed(client.call(&Call::BulkheadEventsUnsubscribe(bulkhead::EventsUnsubscribeArgs {}), Vec::new())).unwrap();
}
