//! What strangers may cost: their own places, and nobody else's.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use api::{Call, ErrorCode, remote};
use bulkhead_tests::LONG;
use rustix::process::{Resource, getrlimit, setrlimit};
use wire::{client::Client, transport::Unix};

use crate::rig::{AT_ONCE, Raw, Rig, SOMEBODY, as_user, error_of, hostname, logged_in, open, opened, readable};

/// Lets this process have as many descriptors as the tests take.
pub fn many_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// The error that a new connection's first call is answered with.
fn refusal(socket: &Path) -> api::Error {
    let begin = Instant::now();
    let mut raw = Raw::connect(socket);
    raw.call(7, &Call::AuthList(remote::AuthListArgs {}));
    let frame = raw.next().expect("an answer before the end");
    assert_eq!(frame.header.serial, 7);
    raw.expect_dropped("a refused client");
    assert!(begin.elapsed() < AT_ONCE, "refused after {:?}", begin.elapsed());
    error_of(&frame)
}

#[test]
fn thousands_of_silent_connections_cost_nobody_else_anything() {
    let test = "thousands_of_silent_connections_cost_nobody_else_anything";
    many_descriptors();
    let Some(rig) = Rig::system(test, "patience_ms = 600000\n") else { return };
    let socket = rig.read_only_socket();
    // Every one of them stays as long as the gateway lets it.
    let silent: Vec<UnixStream> =
        as_user(SOMEBODY, &[], || (0..3000).map(|_| UnixStream::connect(&socket).unwrap()).collect());
    let begin = Instant::now();
    let client = rig.opened();
    hostname(&client);
    let other = as_user(SOMEBODY + 1, &[], || opened(&socket));
    hostname(&other);
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    let error = as_user(SOMEBODY, &[], || refusal(&socket));
    assert_eq!(error.code, ErrorCode::OPERATION_FAILED);
    assert!(error.message.contains("too many active clients of uid 23456, max is 128"), "{}", error.message);
    let workers = rig.gateway.role("worker").len();
    assert!(workers < 10, "{workers} workers for who says nothing");
    drop(silent);
    // Their places are free again as soon as the gateway has seen that they are gone.
    let deadline = Instant::now() + LONG;
    while as_user(SOMEBODY, &[], || try_login(&socket)).is_none() {
        assert!(Instant::now() < deadline, "the places stay taken");
    }
}

fn try_login(socket: &Path) -> Option<Client> {
    let client = Client::new(Box::new(Unix::new(UnixStream::connect(socket).unwrap()))).unwrap();
    client.login(None, LONG).ok().map(|_| client)
}

#[test]
fn patience_with_who_says_nothing_ends() {
    let rig = Rig::session("patience_ms = 300\n");
    let silent = UnixStream::connect(rig.socket()).unwrap();
    assert!(readable(&silent, LONG), "still there");
    // And with who begins a frame and does not go on.
    let mut raw = Raw::connect(&rig.socket());
    raw.send(b"\0\0\0\x1c");
    raw.expect_dropped("half a frame");
    // One that is known may be silent for ever.
    let known = rig.client();
    let mut late = Raw::connect(&rig.socket());
    late.expect_dropped("a later silent one");
    open(&known, "test:///default").unwrap();
}

#[test]
fn the_limit_of_all_is_an_error_at_once() {
    let rig = Rig::session("connections = 6\nreserved_connections = 2\n");
    let clients: Vec<Client> = (0..6).map(|_| rig.client()).collect();
    let error = refusal(&rig.socket());
    assert_eq!(error.code, ErrorCode::OPERATION_FAILED);
    assert!(error.message.contains("too many active clients, max is 6"), "{}", error.message);
    for client in &clients {
        open(client, "test:///default").unwrap();
    }
    drop(clients);
    let deadline = Instant::now() + LONG;
    while try_login(&rig.socket()).is_none() {
        assert!(Instant::now() < deadline, "the places stay taken");
    }
}

#[test]
fn what_all_others_take_leaves_root_its_places() {
    let test = "what_all_others_take_leaves_root_its_places";
    let configuration = "connections = 8\nreserved_connections = 4\nconnections_per_user = 8\n";
    let Some(rig) = Rig::system(test, configuration) else { return };
    let socket = rig.read_only_socket();
    let taken: Vec<Client> = as_user(SOMEBODY, &[], || (0..4).map(|_| logged_in(&socket)).collect());
    assert!(as_user(SOMEBODY + 1, &[], || refusal(&socket)).message.contains("max is 8"));
    let _own: Vec<Client> = (0..4).map(|_| rig.opened()).collect();
    drop(taken);
}

#[test]
fn who_may_change_things_is_root_s_and_the_configuration_s_word() {
    let test = "who_may_change_things_is_root_s_and_the_configuration_s_word";
    let configuration = format!("polkit = no\nallow_users = {}\nallow_groups = 5432\n", SOMEBODY + 1);
    let Some(rig) = Rig::system(test, &configuration) else { return };
    let error = as_user(SOMEBODY, &[77], || refusal(&rig.socket()));
    assert_eq!(error.code, ErrorCode::AUTH_FAILED);
    assert!(error.message.starts_with("authentication failed: "), "{}", error.message);
    let suspend = || Call::DomainSuspend(remote::DomainSuspendArgs::default());
    let code_of = |client: &Client| crate::rig::failed(client.call(&suspend(), Vec::new())).unwrap_err().code;
    for (uid, groups) in [(SOMEBODY + 1, &[][..]), (SOMEBODY + 2, &[77, 5432][..])] {
        let client = as_user(uid, groups, || opened(&rig.socket()));
        assert_eq!(code_of(&client), ErrorCode::NO_DOMAIN, "uid {uid} may");
        let client = as_user(uid, groups, || opened(&rig.read_only_socket()));
        assert_eq!(code_of(&client), ErrorCode::OPERATION_DENIED, "not through this socket");
    }
}

#[test]
fn a_worker_serves_one_user_only_however_often() {
    let test = "a_worker_serves_one_user_only_however_often";
    let Some(rig) = Rig::system(test, "keep_worker_ms = 600000\nready_workers = 1\n") else { return };
    let socket = rig.read_only_socket();
    let mut served: BTreeMap<u32, u32> = BTreeMap::new();
    for round in 0..12 {
        let uid = SOMEBODY + round % 3;
        let client = as_user(uid, &[], || opened(&socket));
        hostname(&client);
        // Channel, client and driver: the one that serves.
        let serving = rig.gateway.workers_with_sockets(3);
        assert_eq!(serving.len(), 1, "{serving:?}");
        let first = *served.entry(serving[0].pid).or_insert(uid);
        assert_eq!(first, uid, "worker {} has served uid {first} before", serving[0].pid);
        client.call(&Call::ConnectClose(remote::ConnectCloseArgs {}), Vec::new()).unwrap();
        let deadline = Instant::now() + LONG;
        while !rig.gateway.workers_with_sockets(3).is_empty() {
            assert!(Instant::now() < deadline, "the worker holds on to its client");
        }
    }
    assert!(served.len() < 12, "none has served twice: {served:?}");
    assert_eq!(served.values().collect::<BTreeSet<_>>().len(), 3);
}

#[test]
fn nothing_waits_for_a_timer() {
    let rig = Rig::session("");
    rig.opened();
    let begin = Instant::now();
    for _ in 0..50 {
        let client = rig.opened();
        client.call(&Call::ConnectClose(remote::ConnectCloseArgs {}), Vec::new()).unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?} for fifty clients", begin.elapsed());
}
