//! Limits: how many connections one user and all of them have, what a queue of jobs holds, and that nobody who is over a
//! limit, and nobody else either, is left waiting.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use api::{Call, ErrorCode, remote};
use bulkhead_tests::{Guest, Instance, Signal, run};
use hostile_support::{AT_ONCE, Health, SOMEBODY, as_user, connect, kind_of_driver, lookup, many_descriptors};
use ipc::client::{CallError, Client, ConnectError};

mod hostile_support;

/// `ipc::server::Limits`: of one uid, and of all.
const OF_ONE: usize = 128;
const OF_ALL: usize = 2048;

/// Opens connections until `count` have been tried, each with a call on it; those that were let in, and the refusals.
fn try_many(socket: &Path, count: usize) -> (Vec<Client>, Vec<api::Error>) {
    let mut clients = Vec::new();
    let mut refusals = Vec::new();
    for number in 0..count {
        let begun = Instant::now();
        match connect(socket) {
            Ok(client) => {
                client.call(&kind_of_driver(), Vec::new()).unwrap_or_else(|e| panic!("connection {number}: {e}"));
                clients.push(client);
            }
            Err(ConnectError::Refused(error)) => refusals.push(error),
            Err(error) => panic!("connection {number}: {error} {error:?}"),
        }
        assert!(begun.elapsed() < AT_ONCE, "connection {number} took {:?}", begun.elapsed());
    }
    (clients, refusals)
}

#[test]
fn one_user_s_thousand_connections_end_at_that_user_s_limit() {
    let test = "one_user_s_thousand_connections_end_at_that_user_s_limit";
    let Some(instance) = Instance::system(test) else { return };
    many_descriptors(4000);
    instance.ok(&["list"]);
    let health = Health::of(&instance);
    let socket = instance.read_only_socket();
    let (clients, refusals) = as_user(SOMEBODY, false, || try_many(&socket, 1000));
    assert_eq!((clients.len(), refusals.len()), (OF_ONE, 1000 - OF_ONE));
    for error in &refusals {
        assert_eq!(error.code, ErrorCode::RPC);
        assert_eq!(error.to_string(), format!("uid {SOMEBODY} has its limit of {OF_ONE} connections open"));
        assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("close connections")), "{error:?}");
    }
    // Each of those that were let in goes on working, and so does everybody else.
    for client in &clients {
        client.call(&kind_of_driver(), Vec::new()).expect("an answer");
    }
    health.others_are_served();
    let other = as_user(SOMEBODY + 1, false, || try_many(&socket, 1)).0;
    assert_eq!(other.len(), 1, "another user is locked out");
    let output = instance.bulkhead_as(SOMEBODY, &["-r", "list"]);
    assert_ne!(output.code, 0, "{}", output.stdout);
    for words in ["has its limit of 128 connections open", "hint: close connections"] {
        assert!(output.stderr.contains(words), "\"{words}\" is missing in {}", output.stderr);
    }
    // One that goes makes room for one.
    let mut clients = clients;
    drop(clients.pop());
    health.round_trip();
    let (again, refused) = as_user(SOMEBODY, false, || try_many(&socket, 2));
    assert_eq!((again.len(), refused.len()), (1, 1));
    drop((clients, again, other));
    health.unharmed("a thousand connections of one user");
}

#[test]
fn all_connections_together_end_at_the_limit_of_all() {
    let instance = Instance::session();
    many_descriptors(4000);
    instance.ok(&["list"]);
    let health = Health::of(&instance);
    let (clients, refusals) = try_many(&instance.socket(), OF_ALL + 50);
    // One connection is the health's own.
    assert_eq!((clients.len(), refusals.len()), (OF_ALL - 1, 51));
    let text = format!("this daemon serves its limit of {OF_ALL} connections");
    assert!(refusals.iter().all(|error| error.to_string() == text && error.hint.is_some()), "{:?}", refusals[0]);
    let output = instance.bulkhead(&["list"]);
    assert!(output.code != 0 && output.stderr.contains(&text), "{}", output.stderr);
    assert!(health.round_trip() < AT_ONCE);
    for client in clients.iter().step_by(97) {
        client.call(&kind_of_driver(), Vec::new()).expect("an answer");
    }
    drop(clients);
    health.unharmed("as many connections as there may be");
}

/// Sixteen users (one user's sixteen sub-uids, for one) have as many connections as there may be of all together. Those who
/// administrate the host must still get in, or nobody could stop them.
#[test]
fn root_gets_in_whoever_holds_the_connections() {
    let Some(instance) = Instance::system("root_gets_in_whoever_holds_the_connections") else { return };
    many_descriptors(4000);
    instance.ok(&["list"]);
    let socket = instance.read_only_socket();
    let users = u32::try_from(OF_ALL / OF_ONE).unwrap() + 1;
    let held: Vec<_> = (0..users).map(|n| as_user(SOMEBODY + n, false, || try_many(&socket, OF_ONE)).0).collect();
    assert!(held.iter().map(Vec::len).sum::<usize>() >= OF_ALL - OF_ONE, "too few connections to show anything");
    let output = instance.bulkhead(&["list"]);
    drop(held);
    assert_eq!(output.code, 0, "root is locked out: {}", output.stderr);
}

/// Most systems start programs with a limit of 1024 descriptors, which is half of what the connections need.
#[test]
fn a_daemon_that_was_started_with_few_descriptors_serves_as_many_connections() {
    let instance = Instance::session();
    many_descriptors(4000);
    let mut starter = Command::new("/bin/sh");
    starter.args(["-c", "ulimit -Sn 1024 && exec \"$0\" \"$@\""]);
    starter.arg(instance.program("bulkhead")).args(["-c", instance.uri(), "list"]);
    instance.prepare(&mut starter, instance.uid());
    let output = run(starter);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let health = Health::of(&instance);
    // On a thread of its own: one of them might wait for ever, and this test must not.
    let (done, finished) = mpsc::channel();
    let socket = instance.socket();
    thread::spawn(move || {
        let mut clients = Vec::new();
        for _ in 0..1500 {
            match connect(&socket) {
                Ok(client) => clients.push(client),
                Err(ConnectError::Refused(_)) => {}
                Err(_) => break,
            }
            let _ = done.send(clients.len());
        }
        // The connections stay until the test has looked at them.
        clients
    });
    let mut served = 0;
    while let Ok(count) = finished.recv_timeout(AT_ONCE) {
        served = count;
    }
    health.round_trip();
    assert_eq!(served, 1500, "a daemon with 1024 descriptors has served so many and leaves the next one waiting");
}

/// Anybody may ask what the host can do. An emulator that has been asked is not asked again for it, one that cannot say it
/// included: each time the launcher would build a compartment and start a process in it.
#[test]
fn the_capabilities_start_no_process_a_second_time() {
    let emulators = tempfile::Builder::new().prefix("bht-emulators-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(emulators.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // Programs that do not run in a guest's root, as Debian's qemu-system-i386, a script, does not.
    for target in ["loongarch64", "s390x"] {
        let path = emulators.path().join(format!("qemu-system-{target}"));
        fs::write(&path, "#!/bin/sh\nexit 1\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let instance = Instance::session_with(&format!("emulator_roots = /usr/bin:{}", emulators.path().display()));
    instance.ok(&["-r", "capabilities"]);
    let before = instance.create(&Guest::tiny("before")).id.unwrap();
    for _ in 0..5 {
        instance.ok(&["-r", "capabilities"]);
    }
    // A run's number is never given twice, so the next one tells how many there were.
    let after = instance.create(&Guest::tiny("after")).id.unwrap();
    assert_eq!(after - before, 1, "{} processes were started for the capabilities", after - before - 1);
}

/// Makes a call `count` times at once; the answers come as they come.
fn at_once(client: &Arc<Client>, call: &Call, count: usize) -> mpsc::Receiver<Result<(), CallError>> {
    let (answered, answers) = mpsc::channel();
    for _ in 0..count {
        let (client, call, answered) = (Arc::clone(client), call.clone(), answered.clone());
        thread::spawn(move || {
            let result = client.call(&call, Vec::new()).map(drop);
            // Who has stopped waiting does not want it.
            let _ = answered.send(result);
        });
    }
    answers
}

/// The errors of all calls, or how many are still without an answer when the time is over.
fn errors_within(
    answers: &mpsc::Receiver<Result<(), CallError>>,
    count: usize,
    time: Duration,
) -> Result<Vec<api::Error>, usize> {
    let deadline = Instant::now() + time;
    let mut errors = Vec::new();
    while errors.len() < count {
        match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Err(CallError::Failed(error))) => errors.push(error),
            Ok(other) => panic!("a stopped QEMU does nothing, but the answer is {other:?}"),
            Err(_) => return Err(count - errors.len()),
        }
    }
    Ok(errors)
}

#[test]
fn a_stuck_guest_s_queue_is_bounded_and_delays_no_other_guest() {
    let instance = Instance::session();
    for name in ["stuck", "well"] {
        instance.define(&Guest::tiny(name));
        instance.ok(&["start", name]);
    }
    let health = Health::of(&instance);
    let client = Arc::new(connect(&instance.socket()).unwrap());
    let [stuck, well] = ["stuck", "well"].map(|name| lookup(&client, name));
    let suspend = |dom: &remote::Domain| Call::DomainSuspend(remote::DomainSuspendArgs { dom: dom.clone() });
    let resume = |dom: &remote::Domain| Call::DomainResume(remote::DomainResumeArgs { dom: dom.clone() });
    let qemu = instance.qemu("stuck");
    qemu.signal(Signal::STOP);
    // One is under way, 64 wait, and the others are too many.
    let answers = at_once(&client, &suspend(&stuck), 80);
    // The other guest's jobs are done meanwhile, and queries about the stuck one are answered.
    for _ in 0..20 {
        let begun = Instant::now();
        client.call(&suspend(&well), Vec::new()).expect("suspended");
        client.call(&resume(&well), Vec::new()).expect("resumed");
        client
            .call(&Call::DomainGetState(remote::DomainGetStateArgs { dom: stuck.clone(), flags: 0 }), Vec::new())
            .expect("a state");
        client
            .call(&Call::DomainGetInfo(remote::DomainGetInfoArgs { dom: stuck.clone() }), Vec::new())
            .expect("its supervisor's own knowledge");
        assert!(begun.elapsed() < AT_ONCE, "another guest's jobs took {:?}", begun.elapsed());
    }
    health.others_are_served();
    // The deadline is one second: each call ends by it, however many were before it.
    let errors = errors_within(&answers, 80, Duration::from_secs(15)).unwrap_or_else(|left| {
        panic!("{left} calls on a stuck guest have no answer after 15 s; the deadline of one is 1 s")
    });
    let busy = errors.iter().filter(|error| format!("{error:?}").contains("64 jobs wait for this guest already"));
    assert_eq!(busy.count(), 80 - 65, "{:?}", errors.iter().map(ToString::to_string).collect::<Vec<_>>());
    for error in &errors {
        assert_eq!(error.code, ErrorCode::OPERATION_TIMEOUT, "{error:?}");
        assert!(error.to_string().contains("cannot suspend domain 'stuck'"), "{error}");
    }
    qemu.signal(Signal::CONT);
    instance.ok(&["resume", "stuck"]);
    assert!(instance.state("stuck").starts_with("running"), "{}", instance.state("stuck"));
    drop(client);
    health.unharmed("a stuck guest");
}

#[test]
fn a_stuck_guest_can_be_destroyed_though_its_queue_is_full() {
    let instance = Instance::session();
    instance.define(&Guest::tiny("stuck"));
    instance.ok(&["start", "stuck"]);
    let client = Arc::new(connect(&instance.socket()).unwrap());
    let stuck = lookup(&client, "stuck");
    instance.qemu("stuck").signal(Signal::STOP);
    let suspend = Call::DomainSuspend(remote::DomainSuspendArgs { dom: stuck });
    let answers = at_once(&client, &suspend, 70);
    let begun = Instant::now();
    instance.ok(&["destroy", "stuck"]);
    assert!(begun.elapsed() < AT_ONCE, "it took {:?}", begun.elapsed());
    // What waited is told at once, not one deadline after the other.
    errors_within(&answers, 70, AT_ONCE).expect("those who waited are told");
    assert_eq!(instance.state("stuck"), "shut off (destroyed)");
    instance.ok(&["start", "stuck"]);
    assert!(instance.qemu("stuck").is_alive());
}
