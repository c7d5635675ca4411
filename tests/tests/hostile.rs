//! Hostile peers: nonsense, half sentences, floods and silence on the sockets of control and of a supervisor. Whatever one
//! peer does, that peer alone loses its connection; processes, descriptors and service stay as they were.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{ErrorKind, Read, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use api::{Call, ErrorCode, Event, Reply, bulkhead, remote};
use bulkhead_tests::{Guest, Instance, LONG, Signal};
use hostile_support::{
    AT_ONCE, Health, PATIENCE, Raw, SOMEBODY, as_user, call_frame, connect, descriptors, frame, hello, kind_of_driver,
    lent, lookup, nulls, wait_for_hangup,
};
use ipc::{Kind, codec};

mod hostile_support;

/// A session with its daemon running, and its two sockets: both are a stranger's way in.
fn session() -> (Instance, [PathBuf; 2]) {
    let instance = Instance::session();
    instance.ok(&["list"]);
    let sockets = [instance.socket(), instance.read_only_socket()];
    (instance, sockets)
}

/// A call whose answer is some kilobytes long.
fn long_answer(instance: &Instance) -> Call {
    let description = format!("<description>{}</description>", "long ".repeat(2000));
    let xml = Guest::tiny("long").xml().replace("<memory ", &format!("{description}<memory "));
    let path = instance.file("long.xml", xml.as_bytes());
    instance.ok(&["define", path.to_str().unwrap()]);
    let dom = lookup(&connect(&instance.socket()).unwrap(), "long");
    Call::DomainGetXmlDesc(remote::DomainGetXmlDescArgs { dom, flags: 0 })
}

/// A header with single bytes of it changed.
fn spoilt(at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = call_frame(1, 0, &kind_of_driver());
    bytes[at] = byte;
    bytes
}

#[test]
fn nonsense_instead_of_a_hello_ends_its_connection_only() {
    let (instance, sockets) = session();
    let health = Health::of(&instance);
    let mut early_call = call_frame(1, 0, &kind_of_driver());
    early_call.extend(hello());
    let noise: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let cases: [(&str, Vec<u8>); 8] = [
        ("noise", noise),
        ("zeros", vec![0; 4096]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("libvirt's protocol", b"\0\0\0\x1c\x20\0\x80\x86\0\0\0\x01\0\0\0\x42\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
        ("a call before the hello", early_call),
        ("a hello that is none", frame(Kind::Hello, 0, 0, &[0xff; 64])),
        ("a hello and more", frame(Kind::Hello, 0, 0, &[hello()[20..].to_vec(), vec![0]].concat())),
        ("an empty hello", frame(Kind::Hello, 0, 0, &[])),
    ];
    for socket in &sockets {
        for (what, bytes) in &cases {
            let mut raw = Raw::connect(socket).unwrap();
            raw.send(bytes);
            raw.expect_dropped(what);
            health.unharmed(what);
        }
    }
}

#[test]
fn a_client_of_another_age_is_told_so() {
    let (instance, sockets) = session();
    let health = Health::of(&instance);
    for socket in &sockets {
        let mut body = Vec::new();
        codec::encode_into(&ipc::Hello::new("future", 900, 901), &mut body).unwrap();
        let mut raw = Raw::connect(socket).unwrap();
        raw.send(&frame(Kind::Hello, 0, 0, &body));
        let error = raw.receive_error(0);
        assert!(error.to_string().contains("speaks versions 900 to 901"), "{error}");
        assert!(error.hint.is_some());
        raw.expect_dropped("another age");
        health.unharmed("another age");
    }
}

#[test]
fn nonsense_after_the_hello_ends_its_connection_only() {
    let (instance, sockets) = session();
    let health = Health::of(&instance);
    let mut body = Vec::new();
    codec::encode_call(&kind_of_driver(), &mut body).unwrap();
    let lookup = Call::DomainLookupByName(remote::DomainLookupByNameArgs { name: "x".into() });
    let mut cut = Vec::new();
    codec::encode_call(&lookup, &mut cut).unwrap();
    let claim = [&cut[..cut.len() - 2], &[253, 0, 0, 0, 0, 0, 1, 0, 0]].concat();
    cut.pop();
    let mut trailing = body.clone();
    trailing.push(0);
    let mut utf8 = Vec::new();
    codec::encode_call(&lookup, &mut utf8).unwrap();
    *utf8.last_mut().unwrap() = 0xff;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("another magic number", spoilt(0, b'X')),
        ("another version", spoilt(4, 9)),
        ("kind 0", spoilt(6, 0)),
        ("kind 6", spoilt(6, 6)),
        ("kind 255", spoilt(6, 255)),
        ("a length of 4 GiB", [&spoilt(0, b'B')[..16], &[0xff; 4], &[0; 100]].concat()),
        ("a length over the cap", [&spoilt(0, b'B')[..16], &(8u32 << 20 | 1).to_le_bytes(), &[0; 100]].concat()),
        ("255 descriptors", spoilt(7, 255)),
        ("a second hello", hello()),
        ("a reply", frame(Kind::Reply, 1, 0, &body)),
        ("an error", frame(Kind::Error, 1, 0, &body)),
        ("an event", frame(Kind::Event, 0, 0, &body)),
        ("a body of nothing", frame(Kind::Call, 1, 0, &[])),
        ("a body of noise", frame(Kind::Call, 1, 0, &[0xfd; 200])),
        ("a body that is cut", frame(Kind::Call, 1, 0, &cut)),
        ("a text that claims more than there is", frame(Kind::Call, 1, 0, &claim)),
        ("a text that is none", frame(Kind::Call, 1, 0, &utf8)),
        ("a body and more", frame(Kind::Call, 1, 0, &trailing)),
        ("descriptors that did not come", frame(Kind::Call, 1, 3, &body)),
    ];
    for socket in &sockets {
        for (what, bytes) in &cases {
            let mut raw = Raw::greeted(socket);
            raw.expect_served(1);
            raw.send(bytes);
            raw.expect_dropped(what);
            health.unharmed(what);
        }
    }
}

#[test]
fn a_long_text_is_refused_before_it_is_kept() {
    let (instance, sockets) = session();
    let health = Health::of(&instance);
    // The largest frame there may be, and in it a name far over the table's limit.
    let name = vec![b'x'; (8 << 20) - 64];
    let mut body = Vec::new();
    codec::encode_into(&(0x2000_8086u32, 23u32, String::from_utf8(name).unwrap()), &mut body).unwrap();
    let before = health.memory_kib();
    for socket in &sockets {
        for _ in 0..4 {
            let mut raw = Raw::greeted(socket);
            raw.send(&frame(Kind::Call, 1, 0, &body));
            raw.expect_dropped("a name of 8 MiB");
        }
        health.unharmed("long names");
    }
    let grown = health.memory_kib().saturating_sub(before);
    assert!(grown < 40 << 10, "control has grown by {grown} KiB");
}

#[test]
fn an_unknown_operation_is_an_error_and_no_more() {
    let (instance, sockets) = session();
    let health = Health::of(&instance);
    for socket in &sockets {
        let mut raw = Raw::greeted(socket);
        for (serial, numbers) in
            [(0x2000_8086u32, 4711u32), (0x2000_8086, 0), (0, 1), (u32::MAX, u32::MAX)].into_iter().enumerate()
        {
            let mut body = Vec::new();
            codec::encode_into(&numbers, &mut body).unwrap();
            let serial = serial as u64;
            raw.send(&frame(Kind::Call, serial, 0, &body));
            let error = raw.receive_error(serial);
            assert_eq!(error.code, ErrorCode::RPC);
            assert!(error.to_string().contains("unknown procedure"), "{error}");
        }
        raw.expect_served(99);
    }
    health.unharmed("unknown operations");
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let (instance, sockets) = session();
    let health = Health::of(&instance);
    for socket in &sockets {
        for count in [1usize, 32, 253] {
            let fds = nulls(count);
            let mut raw = Raw::greeted(socket);
            let before = descriptors(health.control());
            let announced = u8::try_from(count).unwrap();
            raw.send_with(&call_frame(7, announced, &kind_of_driver()), &lent(&fds));
            let error = raw.receive_error(7);
            assert!(error.to_string().contains(&format!("came with {count} file descriptors")), "{error}");
            // The connection is still good, and nothing of it is kept.
            raw.expect_served(8);
            assert_eq!(descriptors(health.control()), before, "{count} descriptors");
        }
        // Not announced at all, more than announced, fewer, and none with an announcement.
        for (what, announced, count) in
            [("not announced", 0u8, 3usize), ("more than announced", 1, 253), ("fewer than announced", 200, 199)]
        {
            let fds = nulls(count);
            let mut raw = Raw::greeted(socket);
            raw.send_with(&call_frame(7, announced, &kind_of_driver()), &lent(&fds));
            // Those that belong to a call are judged with it; the others end the connection.
            let _ = raw.socket.set_read_timeout(Some(PATIENCE));
            let mut rest = Vec::new();
            let end = raw.socket.read_to_end(&mut rest);
            assert!(end.is_ok() || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), "{what}: not dropped");
            health.unharmed(what);
        }
        // Before the hello, and in the middle of a frame.
        let fds = nulls(253);
        let mut raw = Raw::connect(socket).unwrap();
        raw.send_with(&hello(), &lent(&fds));
        raw.expect_dropped_after_anything("descriptors with a hello");
        let mut raw = Raw::greeted(socket);
        let bytes = call_frame(1, 0, &kind_of_driver());
        raw.send(&bytes[..21]);
        raw.send_with(&bytes[21..], &lent(&fds));
        raw.expect_dropped_after_anything("descriptors within a frame");
        health.unharmed("descriptors at the wrong moment");
    }
}

#[test]
fn a_source_that_is_no_file_is_refused_and_closed() {
    let instance = Instance::session();
    let disk = instance.file("disk.img", &[0; 4096]);
    instance.define(&Guest::tiny("guest").disk(&disk, "raw"));
    let health = Health::of(&instance);
    let client = connect(&instance.socket()).unwrap();
    let dom = lookup(&client, "guest");
    let source = || bulkhead::Source { path: disk.to_str().unwrap().into(), writable: true };
    let call = |sources: Vec<bulkhead::Source>| {
        Call::BulkheadDomainCreateWithSources(bulkhead::DomainCreateWithSourcesArgs {
            dom: dom.clone(),
            flags: 0,
            sources,
        })
    };
    let open = |path: &Path, write: bool| -> std::os::fd::OwnedFd {
        std::fs::File::options().read(true).write(write).open(path).unwrap().into()
    };
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let cases: Vec<(&str, Vec<bulkhead::Source>, Vec<std::os::fd::OwnedFd>)> = vec![
        ("fewer files than sources", vec![source(), source()], nulls(1)),
        ("more files than sources", vec![source()], nulls(2)),
        ("files without sources", vec![], nulls(200)),
        ("a pipe", vec![source()], vec![pipe]),
        ("a socket", vec![source()], vec![socket.into()]),
        ("a character device", vec![source()], nulls(1)),
        ("a directory", vec![source()], vec![open(instance.root(), false)]),
        ("a file that cannot be written", vec![source()], vec![open(&disk, false)]),
    ];
    for (what, sources, fds) in cases {
        let error = hostile_support::refusal(client.call(&call(sources), fds));
        assert!(!error.to_string().is_empty(), "{what}");
        assert_eq!(instance.state("guest"), "shut off (unknown)", "{what}");
    }
    drop(client);
    health.unharmed("sources that are no files");
    instance.ok(&["start", "guest"]);
}

#[test]
fn who_stalls_loses_its_connection_and_nobody_waits_for_it() {
    let (instance, sockets) = session();
    let health = Health::of(&instance);
    let half_a_call = call_frame(1, 0, &kind_of_driver());
    let mut stalled = Vec::new();
    for socket in &sockets {
        stalled.push(("silence", Raw::connect(socket).unwrap()));
        for part in [1, 19, 20, hello().len() - 1] {
            let mut raw = Raw::connect(socket).unwrap();
            raw.send(&hello()[..part]);
            stalled.push(("a part of a hello", raw));
        }
        for part in [1, 19, 20, half_a_call.len() - 1] {
            let mut raw = Raw::greeted(socket);
            raw.send(&half_a_call[..part]);
            stalled.push(("a part of a call", raw));
        }
        // A large frame that never ends.
        let mut raw = Raw::greeted(socket);
        let header = frame(Kind::Call, 1, 0, &vec![0; 4 << 20]);
        raw.send(&header[..100_000]);
        stalled.push(("a part of a large call", raw));
    }
    // Nobody else notices.
    for _ in 0..20 {
        health.others_are_served();
    }
    // Who owes nothing may be as silent as it likes.
    let mut idle = Raw::greeted(&sockets[0]);
    for (what, raw) in stalled {
        raw.expect_dropped(what);
    }
    idle.expect_served(1);
    drop(idle);
    health.unharmed("stalled clients");
}

#[test]
fn a_flood_of_calls_that_nobody_reads_the_answers_of_costs_no_memory() {
    const CALLS: u64 = 10_000;
    let (instance, _) = session();
    let call = long_answer(&instance);
    let health = Health::of(&instance);
    let before = health.memory_kib();
    let mut raw = Raw::greeted(&instance.socket());
    raw.socket.set_nonblocking(true).unwrap();
    // Ten thousand long answers are more than anybody may have waiting.
    let bytes: Vec<u8> = (1..=CALLS).flat_map(|serial| call_frame(serial, 0, &call)).collect();
    let mut sent = 0;
    let mut most = 0;
    loop {
        match raw.socket.write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Two answers on another connection: control has had its chance to take more.
                health.round_trip();
                health.others_are_served();
                most = most.max(health.memory_kib());
                if raw.socket.write(&bytes[sent..]).is_err() {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
        if sent == bytes.len() {
            break;
        }
    }
    most = most.max(health.memory_kib());
    assert!(most.saturating_sub(before) < 16 << 10, "control has grown from {before} to {most} KiB");
    assert!(sent < bytes.len(), "control has taken {CALLS} calls whose answers nobody reads");
    // Who does not read for long enough is no client any more.
    assert!(wait_for_hangup(&raw.socket, PATIENCE), "the flood's connection is still open");
    drop(raw);
    health.unharmed("a flood");
}

#[test]
fn a_flood_of_calls_whose_answers_are_read_is_served_whole_and_in_its_turn() {
    const CALLS: u64 = 10_000;
    let (instance, sockets) = session();
    let health = Health::of(&instance);
    for socket in &sockets {
        let mut raw = Raw::greeted(socket);
        let bytes: Vec<u8> = (1..=CALLS).flat_map(|serial| call_frame(serial, 0, &kind_of_driver())).collect();
        let mut writer = raw.socket.try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || writer.write_all(&bytes).unwrap());
            scope.spawn(|| (0..20).for_each(|_| health.others_are_served()));
            for serial in 1..=CALLS {
                let answer = raw.receive().expect("an answer");
                assert_eq!((answer.kind, answer.serial), (Kind::Reply, serial));
            }
        });
    }
    health.unharmed("a flood");
}

#[test]
fn a_subscriber_that_never_reads_is_dropped_and_the_others_hear_everything() {
    const ROUNDS: u64 = 900;
    let (instance, _) = session();
    // Named so that each event is long.
    let name = "n".repeat(200);
    let xml = Guest::tiny(&name).xml();
    // The first event opens the journal's file.
    instance.define(&Guest::tiny("first"));
    let health = Health::of(&instance);
    let subscribe = Call::BulkheadEventsSubscribe(bulkhead::EventsSubscribeArgs { since: None });
    let mut deaf = Raw::greeted(&instance.read_only_socket());
    deaf.send(&call_frame(1, 0, &subscribe));
    let before = health.memory_kib();
    let listener = connect(&instance.read_only_socket()).unwrap();
    listener.call(&subscribe, Vec::new()).unwrap();
    let client = connect(&instance.socket()).unwrap();
    for _ in 0..ROUNDS {
        let define = Call::DomainDefineXml(remote::DomainDefineXmlArgs { xml: xml.clone() });
        let Ok((Reply::DomainDefineXml(ret), _)) = client.call(&define, Vec::new()) else { panic!("not defined") };
        let undefine = Call::DomainUndefine(remote::DomainUndefineArgs { dom: ret.dom });
        client.call(&undefine, Vec::new()).expect("undefined");
    }
    let mut heard = Vec::new();
    while heard.len() < usize::try_from(2 * ROUNDS).unwrap() {
        let events = listener.wait_events(Some(AT_ONCE)).expect("events");
        assert!(!events.is_empty(), "{} of {} events came", heard.len(), 2 * ROUNDS);
        heard.extend(events.into_iter().map(|event| match event {
            Event::BulkheadDomainEvent(event) => event.sequence,
            other => panic!("{other:?}"),
        }));
    }
    assert!(heard.is_sorted_by(|a, b| a + 1 == *b), "events are missing or out of order");
    let grown = health.memory_kib().saturating_sub(before);
    // The journal keeps the events for those who ask later; that is all.
    assert!(grown < 16 << 10, "control has grown by {grown} KiB");
    assert!(wait_for_hangup(&deaf.socket, PATIENCE), "the deaf subscriber is still connected");
    drop((deaf, listener, client));
    health.unharmed("a deaf subscriber");
}

#[test]
fn who_hangs_up_in_the_middle_of_an_answer_disturbs_nobody() {
    let (instance, sockets) = session();
    let call = long_answer(&instance);
    let health = Health::of(&instance);
    for socket in &sockets {
        for calls in [1, 50] {
            let mut raw = Raw::greeted(socket);
            let bytes: Vec<u8> = (0..calls).flat_map(|serial| call_frame(serial, 0, &call)).collect();
            raw.send(&bytes);
            let mut first = [0; 10];
            raw.socket.read_exact(&mut first).unwrap();
            drop(raw);
            // And without having read anything, at once after the call, and before any answer to the hello.
            let mut raw = Raw::greeted(socket);
            raw.send(&bytes);
            drop(raw);
            let mut raw = Raw::connect(socket).unwrap();
            raw.send(&hello());
            raw.send(&bytes);
            drop(raw);
            // Who only stops to talk still gets its answers.
            let mut raw = Raw::greeted(socket);
            raw.send(&call_frame(5, 0, &call));
            raw.socket.shutdown(std::net::Shutdown::Write).unwrap();
            let answer = raw.receive();
            assert!(answer.is_ok_and(|frame| frame.serial == 5), "no answer after the client's last word");
            raw.expect_dropped("the client's last word");
        }
        health.unharmed("hanging up");
    }
}

/// Whoever leaves while a call of it waits for a guest leaves nothing behind.
#[test]
fn who_hangs_up_before_a_guest_has_answered_disturbs_nobody() {
    let instance = Instance::session();
    instance.define(&Guest::tiny("guest"));
    instance.ok(&["start", "guest"]);
    let health = Health::of(&instance);
    let client = connect(&instance.socket()).unwrap();
    let dom = lookup(&client, "guest");
    drop(client);
    let qemu = instance.qemu("guest");
    qemu.signal(Signal::STOP);
    let suspend = Call::DomainSuspend(remote::DomainSuspendArgs { dom: dom.clone() });
    let console = Call::BulkheadDomainOpenConsole(bulkhead::DomainOpenConsoleArgs { dom, ..Default::default() });
    let mut raw = Raw::greeted(&instance.socket());
    raw.send(&[call_frame(1, 0, &suspend), call_frame(2, 0, &console)].concat());
    drop(raw);
    health.others_are_served();
    qemu.signal(Signal::CONT);
    // The queue of its jobs is free again when this has been answered; what the one that left wanted has been done or given up.
    let resumed = instance.bulkhead(&["resume", "guest"]);
    assert!([0, 1].contains(&resumed.code), "{}", resumed.stderr);
    assert!(instance.state("guest").starts_with("running"), "{}", instance.state("guest"));
    health.unharmed("hanging up on a stuck guest");
    // Its console is nobody's.
    let client = connect(&instance.socket()).unwrap();
    let open = bulkhead::DomainOpenConsoleArgs { dom: lookup(&client, "guest"), ..Default::default() };
    let opened = client.call(&Call::BulkheadDomainOpenConsole(open), Vec::new());
    assert_eq!(opened.expect("a console").1.len(), 1);
}

#[test]
fn a_supervisor_is_reached_by_control_only() {
    let test = "a_supervisor_is_reached_by_control_only";
    let Some(instance) = Instance::system(test) else { return };
    instance.define(&Guest::tiny("guest"));
    instance.ok(&["start", "guest"]);
    let health = Health::of(&instance);
    let id = instance.domain("guest").id.unwrap();
    let socket = instance.guests_dir().join(id.to_string()).join("supervisor.sock");
    let supervisor = instance.supervisor("guest");
    let guests_uid = bulkhead_tests::Process::of(supervisor.pid).unwrap().uid;
    let before = descriptors(supervisor.pid);

    // By the modes: nobody else comes near it, a guest that got out of its root included.
    for uid in [SOMEBODY, guests_uid, guests_uid + 1] {
        let error = as_user(uid, false, || Raw::connect(&socket).err()).expect("the modes keep others out");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "uid {uid}");
    }
    // By who it is, for one who got past the modes.
    let mut raw = as_user(SOMEBODY, true, || Raw::connect(&socket)).expect("the modes are passed by");
    raw.send(&hello());
    raw.expect_dropped_after_anything("a stranger at a supervisor");

    // Root may talk to it, but nonsense ends root's connection, and control's stays.
    let body = [0xff; 64];
    let cases: [(&str, Vec<u8>); 5] = [
        ("noise", vec![0xa5; 10_000]),
        ("a call before the hello", frame(Kind::Call, 1, 0, &body)),
        ("a hello that is none", frame(Kind::Hello, 0, 0, &body)),
        ("4 GiB", [&hello()[..16], &[0xff; 4]].concat()),
        ("descriptors that did not come", frame(Kind::Hello, 0, 9, &body)),
    ];
    for (what, bytes) in &cases {
        let mut raw = Raw::connect(&socket).unwrap();
        raw.send(bytes);
        raw.expect_dropped(what);
        instance.ok(&["suspend", "guest"]);
        instance.ok(&["resume", "guest"]);
    }
    // Descriptors without a word of them.
    let fds = nulls(253);
    let mut raw = Raw::connect(&socket).unwrap();
    raw.send_with(&frame(Kind::Hello, 0, 0, &body), &lent(&fds));
    raw.expect_dropped("descriptors without a word");
    // Many who say nothing: the newest takes the place of the one before.
    let silent: Vec<Raw> = (0..200).map(|_| Raw::connect(&socket).unwrap()).collect();
    instance.ok(&["suspend", "guest"]);
    instance.ok(&["resume", "guest"]);
    assert!(descriptors(supervisor.pid) <= before + 2, "a supervisor keeps connections that say nothing");
    drop(silent);
    assert_eq!(instance.state("guest"), "running (unpaused)");
    assert!(supervisor.is_alive());
    health.unharmed("nonsense at a supervisor");
    // Its log tells of it; its guest ends as any other.
    let begun = Instant::now();
    instance.ok(&["destroy", "guest"]);
    assert!(begun.elapsed() < LONG);
}
