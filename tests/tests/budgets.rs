//! What one user can make the programs hold, measured on the whole programs: through the gateway as on qemud's own socket.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod hostile_support;

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use bulkhead_tests::{Gateway, Guest, Instance, rss_kib};
use hostile_support::{Health, SOMEBODY, as_user, connect, many_descriptors};

/// libvirt's program and its calls.
const REMOTE: u32 = 0x2000_8086;
const OPEN: u32 = 1;
const CAPABILITIES: u32 = 7;
const HOSTNAME: u32 = 59;
const AUTH_LIST: u32 = 66;
/// Connections of the flood, and calls on each.
const CONNECTIONS: usize = 48;
const CALLS: u32 = 1024;
/// What a user's flood may cost control, and each worker more than one that serves a client which reads, in KiB.
const CONTROL_MAX: u64 = 24 << 10;
const WORKER_MAX: u64 = 4 << 10;

fn frame(procedure: u32, serial: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(28 + payload.len()).unwrap();
    let words = [length, REMOTE, 1, procedure, 0, serial, 0];
    words.iter().flat_map(|word| word.to_be_bytes()).chain(payload.iter().copied()).collect()
}

/// Sends a call and reads its answer; its status, 0 for good.
fn call(stream: &mut UnixStream, procedure: u32, serial: u32, payload: &[u8]) -> std::io::Result<u32> {
    stream.write_all(&frame(procedure, serial, payload))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
    stream.read_exact(&mut rest)?;
    Ok(u32::from_be_bytes(rest[20..24].try_into().unwrap()))
}

/// A client of the gateway with an open, read-only connection; the status of its open.
fn opened(socket: &Path) -> (UnixStream, u32) {
    let mut stream = UnixStream::connect(socket).unwrap();
    assert_eq!(call(&mut stream, AUTH_LIST, 1, &[]).unwrap(), 0);
    // A name that is there, of 14 bytes with two of padding, and the flag for reading.
    let mut payload = vec![0, 0, 0, 1, 0, 0, 0, 14];
    payload.extend(b"qemu:///system\0\0");
    payload.extend([0, 0, 0, 1]);
    let status = call(&mut stream, OPEN, 2, &payload).unwrap();
    (stream, status)
}

#[test]
fn a_flood_through_the_gateway_that_reads_nothing_costs_little() {
    let Some(instance) = Instance::system("a_flood_through_the_gateway_that_reads_nothing_costs_little") else {
        return;
    };
    instance.define(&Guest::tiny("a"));
    let gateway = Gateway::start(&instance);
    let health = Health::of(&instance);
    let before = health.memory_kib();
    let memory = || -> Vec<u64> { gateway.workers().iter().filter_map(|worker| rss_kib(worker.pid)).collect() };
    let (mut reads, _) = opened(&gateway.read_only_socket());
    assert_eq!(call(&mut reads, CAPABILITIES, 3, &[]).unwrap(), 0);
    let usual = memory().into_iter().max().unwrap();
    let mut flood: Vec<UnixStream> = as_user(SOMEBODY, false, || {
        (0..CONNECTIONS)
            .map(|_| opened(&gateway.read_only_socket()))
            .map(|(stream, status)| {
                assert_eq!(status, 0);
                stream
            })
            .collect()
    });
    let calls: Vec<u8> = (3..3 + CALLS).flat_map(|serial| frame(CAPABILITIES, serial, &[])).collect();
    let mut sent = vec![0; flood.len()];
    // As much as they take, while others are served.
    for _ in 0..20 {
        for (stream, sent) in flood.iter_mut().zip(&mut sent) {
            stream.set_nonblocking(true).unwrap();
            match stream.write(&calls[*sent..]) {
                Ok(count) => *sent += count,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        health.others_are_served();
    }
    let control = health.memory_kib().saturating_sub(before);
    let workers = memory();
    let largest = workers.iter().max().copied().unwrap();
    eprintln!("control: {control} KiB more; {} workers: usually {usual} KiB, now {largest} at most", workers.len());
    assert!(control < CONTROL_MAX, "control has grown by {control} KiB");
    assert!(largest.saturating_sub(usual) < WORKER_MAX, "a worker has {largest} KiB instead of {usual}");
    // A client that reads gets all of its answers.
    let mut reader = flood.pop().unwrap();
    let own = sent.pop().unwrap();
    reader.set_nonblocking(false).unwrap();
    let rest = calls[own..].to_vec();
    let mut writer = reader.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&rest).unwrap());
    for _ in 0..CALLS {
        let mut length = [0; 4];
        reader.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(length) as usize - 4];
        reader.read_exact(&mut answer).unwrap();
    }
    writing.join().unwrap();
    drop((flood, reader));
    health.others_are_served();
}

#[test]
fn a_user_s_connections_count_together_whichever_way_they_come() {
    let Some(instance) = Instance::system("a_user_s_connections_count_together_whichever_way_they_come") else {
        return;
    };
    many_descriptors(512);
    instance.define(&Guest::tiny("a"));
    let gateway = Gateway::start(&instance);
    let socket = instance.read_only_socket();
    let (held, status) = as_user(SOMEBODY, false, || {
        let mut held = Vec::new();
        while let Ok(client) = connect(&socket) {
            held.push(client);
            assert!(held.len() < 500, "a user has a limit of connections");
        }
        let (stream, status) = opened(&gateway.read_only_socket());
        drop(stream);
        (held, status)
    });
    assert_ne!(status, 0, "the gateway's connection is one more of this user's");
    let (mut stream, status) = as_user(SOMEBODY + 1, false, || opened(&gateway.read_only_socket()));
    assert_eq!(status, 0, "another user has its own");
    assert_eq!(call(&mut stream, HOSTNAME, 3, &[]).unwrap(), 0);
    drop(held);
    let (mut stream, status) = as_user(SOMEBODY, false, || opened(&gateway.read_only_socket()));
    assert_eq!((status, call(&mut stream, HOSTNAME, 3, &[]).unwrap()), (0, 0));
}
