//! Many who begin and do not go on, and many who come and go: what they cost others, and what is left of them.

use std::{io::Write, net::TcpStream, os::unix::net::UnixStream, time::Instant};

use api::{Call, ErrorCode, Op, remote};
use bulkhead_tests::{LONG, Process, rss_kib, wait_until};
use rustix::net::{AddressFamily, SocketAddrV4, SocketType};
use wire::{Kind, codec};

use crate::{
    limits::many_descriptors,
    network::tls_rig,
    rig::{AT_ONCE, Raw, Rig, SOMEBODY, as_user, error_of, hostname, open, opened},
};

/// The beginning of a call, shorter than a header.
fn half_a_header() -> Vec<u8> {
    let whole = codec::header(Op::AuthList, Kind::Call, 1).encode();
    [&28u32.to_be_bytes()[..], &whole[..13]].concat()
}

#[test]
fn a_thousand_who_stop_within_a_word_cost_nobody_else_anything() {
    let test = "a_thousand_who_stop_within_a_word_cost_nobody_else_anything";
    many_descriptors();
    let configuration = "patience_ms = 600000\nconnections_per_user = 48\n";
    let Some(rig) = Rig::system(test, configuration) else { return };
    let socket = rig.read_only_socket();
    let half = half_a_header();
    let speak = |_| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // Who is one too many may have been hung up on.
        let _ = stream.write_all(&half);
        stream
    };
    let half_spoken: Vec<UnixStream> = as_user(SOMEBODY, &[], || (0..1000).map(speak).collect());
    let begin = Instant::now();
    hostname(&rig.opened());
    hostname(&as_user(SOMEBODY + 1, &[], || opened(&socket)));
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    // As many processes as one user may have connections, and the few that are there anyway.
    let workers = rig.gateway.role("worker").len();
    assert!(workers <= 48 + 8, "{workers} workers");
    // Another one who is too many is told so, however many of the first one's are being told.
    let held: Vec<_> = as_user(SOMEBODY + 2, &[], || (0..48).map(|_| UnixStream::connect(&socket).unwrap()).collect());
    let begin = Instant::now();
    let error = as_user(SOMEBODY + 2, &[], || {
        let mut raw = Raw::connect(&socket);
        raw.call(7, &Call::AuthList(remote::AuthListArgs {}));
        error_of(&raw.next().expect("an answer before the end"))
    });
    assert_eq!(error.code, ErrorCode::OPERATION_FAILED, "{error:?}");
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    drop((half_spoken, held));
    assert!(wait_until(LONG, || rig.gateway.role("worker").len() < 16), "their workers stay");
}

#[test]
fn many_half_open_handshakes_cost_another_host_nothing() {
    let tls = tls_rig("patience_ms = 600000\n");
    // A record of a handshake that is longer than what comes of it.
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let strangers: Vec<TcpStream> = (0..300)
        .map(|number: usize| {
            let mut stream = from_another_address(tls.port, 2);
            if number.is_multiple_of(2) {
                let _ = stream.write_all(&hello);
            }
            stream
        })
        .collect();
    let begin = Instant::now();
    let client = tls.connect(Some(&tls.authority.sign("ann", 2))).unwrap();
    client.login(None, LONG).unwrap();
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    hostname(&tls.rig.opened());
    drop(strangers);
}

#[test]
fn who_is_silent_on_many_hosts_makes_room_for_another_host() {
    many_descriptors();
    let tls = tls_rig("patience_ms = 600000\n");
    let known = tls.connect(Some(&tls.authority.sign("bob", 3))).unwrap();
    known.login(None, LONG).unwrap();
    // More hosts than there are places for strangers, and as many connections as used to shut out all others.
    let strangers: Vec<TcpStream> =
        (0..600).map(|number: u16| from_another_address(tls.port, 2 + u8::try_from(number % 200).unwrap())).collect();
    let begin = Instant::now();
    for _ in 0..3 {
        let client = tls.connect(Some(&tls.authority.sign("ann", 2))).unwrap();
        client.login(None, LONG).unwrap();
        open(&client, "").unwrap();
        hostname(&client);
    }
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    // Who has logged in keeps its place.
    open(&known, "").unwrap();
    hostname(&known);
    drop(strangers);
}

#[test]
fn one_host_does_not_take_all_the_places_of_the_network() {
    let tls = tls_rig("patience_ms = 600000\n");
    let strangers: Vec<TcpStream> = (0..300).map(|_| from_another_address(tls.port, 2)).collect();
    let begin = Instant::now();
    let client = tls.connect(Some(&tls.authority.sign("ann", 2))).unwrap();
    client.login(None, LONG).unwrap();
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    drop(strangers);
}

/// A connection from an address of this host that nobody else uses.
fn from_another_address(port: u16, last: u8) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new([127, 0, 0, last].into(), 0)).unwrap();
    rustix::net::connect(&socket, &SocketAddrV4::new([127, 0, 0, 1].into(), port)).unwrap();
    TcpStream::from(socket)
}

/// What a process holds: memory in KiB, and descriptors.
fn held(process: &Process) -> (u64, usize) {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.pid)).map_or(0, Iterator::count);
    (rss_kib(process.pid).unwrap_or_default(), descriptors)
}

#[test]
fn who_comes_and_goes_leaves_nothing_behind() {
    let rig = Rig::session("keep_worker_ms = 0\n");
    let nonsense = [vec![0xff; 64], half_a_header(), b"GET / HTTP/1.1\r\n\r\n".to_vec()];
    let round = |count: usize| {
        for number in 0..count {
            let mut raw = Raw::connect(&rig.socket());
            match number % 4 {
                0 => raw.open(),
                kind => raw.send(&nonsense[kind - 1]),
            }
        }
        // Everybody who was there before this one has been seen.
        hostname(&rig.opened());
    };
    let processes = || vec![Process::of(rig.gateway.pid()).unwrap(), rig.gateway.acceptor()];
    let quiet = || rig.gateway.role("worker").len() <= 3;
    round(200);
    assert!(wait_until(LONG, quiet));
    let before: Vec<_> = processes().iter().map(held).collect();
    round(1000);
    assert!(wait_until(LONG, quiet), "workers stay");
    // Fewer is no leak: the launcher may still hold what ended with the first round when it is looked at.
    let close = |(memory, descriptors): &(u64, usize), (before, had): &(u64, usize)| {
        memory.saturating_sub(*before) < 2048 && descriptors.saturating_sub(*had) <= 4
    };
    let after = || processes().iter().map(held).collect::<Vec<_>>();
    let flat = wait_until(LONG, || after().iter().zip(&before).all(|(after, before)| close(after, before)));
    assert!(flat, "launcher and acceptor: {before:?} before, {:?} after 1000 more", after());
}
