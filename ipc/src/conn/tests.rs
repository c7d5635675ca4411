//! Tests of [`super`].

use super::*;
use std::{fs::File, io::Write};

use rustix::net::RecvFlags;

const CAPS: Caps = Caps { body: 1 << 20, fds: 4 };

fn pair() -> (Conn, Conn) {
    let (a, b) = UnixStream::pair().unwrap();
    (Conn::new(a, CAPS), Conn::new(b, CAPS))
}

fn raw() -> (UnixStream, Conn) {
    let (a, b) = UnixStream::pair().unwrap();
    b.set_nonblocking(true).unwrap();
    (a, Conn::new(b, CAPS))
}

fn queue(conn: &mut Conn, serial: u64, body: &[u8], fds: Vec<OwnedFd>) {
    conn.queue_with(Kind::Call, serial, fds, |out| {
        out.extend(body);
        Ok(())
    })
    .unwrap();
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

#[test]
fn frames_and_their_descriptors_arrive_in_order() {
    let (mut a, mut b) = pair();
    queue(&mut a, 1, b"plain", vec![]);
    queue(&mut a, 2, b"two", vec![null(), null()]);
    queue(&mut a, 3, b"", vec![]);
    queue(&mut a, 4, b"one", vec![null()]);
    a.flush_all().unwrap();
    assert_eq!(a.backlog(), 0);
    for (serial, body, fds) in [(1, &b"plain"[..], 0), (2, b"two", 2), (3, b"", 0), (4, b"one", 1)] {
        let frame = b.recv().unwrap();
        assert_eq!((frame.serial, frame.body.as_slice(), frame.fds.len()), (serial, body, fds));
    }
    drop(a);
    assert!(matches!(b.recv(), Err(ConnError::Closed)));
}

#[test]
fn a_call_that_a_daemon_would_not_take_is_not_sent_and_the_next_one_is() {
    let mut a = Conn::new(UnixStream::pair().unwrap().0, Caps::FROM_DAEMON);
    let named =
        |length| api::Call::DomainLookupByName(api::remote::DomainLookupByNameArgs { name: "x".repeat(length) });
    let text = "x".repeat(4 << 20);
    let notes = api::remote::DomainSetMetadataArgs {
        metadata: Some(text.clone()),
        key: Some(text.clone()),
        uri: Some(text),
        ..Default::default()
    };
    let error = a.queue_call(1, &api::Call::DomainSetMetadata(notes), vec![]).unwrap_err();
    assert!(matches!(error, ConnError::Codec(CodecError::TooLong { max: 8_388_608, .. })), "{error:?}");
    assert_eq!(a.backlog(), 0);
    a.queue_call(2, &named(10), vec![]).unwrap();
    assert!(a.backlog() > 0);
}

#[test]
fn received_descriptors_close_on_exec() {
    let (mut a, mut b) = pair();
    queue(&mut a, 1, b"", vec![null()]);
    a.flush_all().unwrap();
    let frame = b.recv().unwrap();
    let flags = rustix::io::fcntl_getfd(&frame.fds[0]).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn half_a_frame_waits_and_its_end_completes_it() {
    let (mut a, mut b) = raw();
    let mut bytes = Vec::new();
    append_frame(&mut bytes, Kind::Call, 9, 0, |out| {
        out.extend(b"hello");
        Ok(())
    })
    .unwrap();
    for byte in &bytes[..bytes.len() - 1] {
        a.write_all(&[*byte]).unwrap();
        b.fill().unwrap();
        assert!(b.next_frame().unwrap().is_none());
        assert!(b.within_frame());
    }
    a.write_all(&bytes[bytes.len() - 1..]).unwrap();
    b.fill().unwrap();
    assert_eq!(b.next_frame().unwrap().unwrap().body, b"hello");
    assert!(!b.within_frame());
}

#[test]
fn a_peer_that_leaves_within_a_frame_is_told_apart() {
    let (mut a, mut b) = raw();
    a.write_all(b"BLKH").unwrap();
    drop(a);
    b.fill().unwrap();
    b.fill().unwrap();
    assert!(matches!(b.next_frame(), Err(ConnError::ClosedWithinFrame)));
}

#[test]
fn a_length_over_the_cap_is_refused_before_its_body_comes() {
    let (mut a, mut b) = raw();
    let header = Header { kind: Kind::Call, serial: 1, length: CAPS.body + 1, fds: 0 };
    a.write_all(&header.encode()).unwrap();
    b.fill().unwrap();
    assert!(matches!(b.next_frame(), Err(ConnError::Frame(FrameError::Length { .. }))));
    assert!(b.input.len() <= KEEP);
}

#[test]
fn descriptors_that_no_header_announces_end_the_connection() {
    let (a, mut b) = raw();
    let header = Header { kind: Kind::Call, serial: 1, length: 0, fds: 0 };
    socket::send(&a, &header.encode(), &[null()]).unwrap();
    b.fill().unwrap();
    assert!(b.next_frame().unwrap().is_some());
    assert!(matches!(b.next_frame(), Err(ConnError::FdCount { announced: 0, came: 1 })));
}

#[test]
fn descriptors_that_a_frame_does_not_announce_end_it_before_its_body_is_here() {
    for (announced, sent) in [(0, 1), (0, 4), (1, 2), (3, 2), (4, 1)] {
        let (a, mut b) = raw();
        let header = Header { kind: Kind::Call, serial: 1, length: 1000, fds: announced };
        let fds: Vec<OwnedFd> = (0..sent).map(|_| null()).collect();
        socket::send(&a, &header.encode(), &fds).unwrap();
        b.fill().unwrap();
        let error = b.next_frame().unwrap_err();
        assert!(matches!(error, ConnError::FdCount { came, .. } if came == sent), "{announced}, {sent}: {error:?}");
    }
    // Announced, and missing where they are due.
    let (mut a, mut b) = raw();
    a.write_all(&Header { kind: Kind::Call, serial: 1, length: 1000, fds: 2 }.encode()).unwrap();
    b.fill().unwrap();
    assert!(matches!(b.next_frame(), Err(ConnError::FdCount { announced: 2, came: 0 })));
}

#[test]
fn descriptors_within_a_frame_are_not_received() {
    for first in [1, HEADER_LEN - 1, HEADER_LEN, HEADER_LEN + 100] {
        let (a, mut b) = raw();
        let mut bytes = Header { kind: Kind::Call, serial: 1, length: 8 << 10, fds: 2 }.encode().to_vec();
        bytes.resize(HEADER_LEN + 1000, 0);
        socket::send(&a, &bytes[..first], &[null(), null()]).unwrap();
        b.fill().unwrap();
        assert!(b.next_frame().unwrap().is_none());
        assert_eq!(b.held_fds(), 2);
        let (probe, far) = UnixStream::pair().unwrap();
        socket::send(&a, &bytes[first..first + 1], &[far.into()]).unwrap();
        assert!(matches!(b.fill(), Err(ConnError::StrayFds)), "after {first} bytes");
        assert_eq!(b.held_fds(), 2);
        // The kernel has closed it, though the connection is still there.
        probe.set_nonblocking(true).unwrap();
        assert_eq!(rustix::net::recv(&probe, &mut [0u8; 1][..], RecvFlags::empty()).unwrap().1, 0);
    }
}

#[test]
fn no_more_descriptors_are_received_than_one_frame_may_have() {
    let (a, mut b) = raw();
    let fds: Vec<OwnedFd> = (0..usize::from(CAPS.fds) + 1).map(|_| null()).collect();
    socket::send(&a, b"B", &fds).unwrap();
    assert!(matches!(b.fill(), Err(ConnError::StrayFds)));
}

#[test]
fn descriptors_wait_in_the_socket_until_there_is_room_for_them() {
    let (mut a, mut b) = pair();
    queue(&mut a, 1, b"plain", vec![]);
    queue(&mut a, 2, b"three", vec![null(), null(), null()]);
    queue(&mut a, 3, b"one", vec![null()]);
    a.flush_all().unwrap();
    b.socket.set_nonblocking(true).unwrap();
    for _ in 0..2 {
        assert_eq!(b.fill_within(2).unwrap(), Filled::TooManyFds(3));
        assert!(b.next_frame().unwrap().is_none());
        assert!(b.may_have_more());
        assert_eq!(b.held_fds(), 0);
    }
    assert_eq!(b.fill_within(3).unwrap(), Filled::Some);
    assert_eq!(b.next_frame().unwrap().unwrap().serial, 1);
    assert_eq!(b.next_frame().unwrap().unwrap().fds.len(), 3);
    assert_eq!(b.fill_within(0).unwrap(), Filled::TooManyFds(1));
    assert_eq!(b.fill_within(1).unwrap(), Filled::Some);
    assert_eq!(b.next_frame().unwrap().unwrap().fds.len(), 1);
    assert_eq!(b.fill_within(0).unwrap(), Filled::Nothing);
    queue(&mut a, 4, b"none", vec![]);
    a.flush_all().unwrap();
    drop(a);
    assert_eq!(b.fill_within(0).unwrap(), Filled::Some);
    assert_eq!(b.next_frame().unwrap().unwrap().serial, 4);
    assert_eq!(b.fill_within(0).unwrap(), Filled::Nothing);
    assert!(matches!(b.next_frame(), Err(ConnError::Closed)));
}

#[test]
fn with_less_room_than_the_cap_more_than_announced_still_ends_the_connection() {
    let (a, mut b) = raw();
    let header = Header { kind: Kind::Call, serial: 1, length: 0, fds: 1 };
    socket::send(&a, &header.encode(), &[null(), null()]).unwrap();
    assert!(matches!(b.fill_within(2), Err(ConnError::StrayFds)));
    let (a, mut b) = raw();
    socket::send(&a, &Header { fds: 0, ..header }.encode(), &[null(), null()]).unwrap();
    assert!(matches!(b.fill_within(2), Err(ConnError::StrayFds)));
}

#[test]
fn a_turn_ends_and_the_next_one_goes_on() {
    let (mut a, mut b) = raw();
    let mut bytes = Vec::new();
    for serial in 0..100 {
        let body = |out: &mut Vec<u8>| {
            out.extend([7; 1000]);
            Ok(())
        };
        append_frame(&mut bytes, Kind::Call, serial, 0, body).unwrap();
    }
    a.write_all(&bytes).unwrap();
    let (mut taken, mut turns) = (0, 0);
    while taken < 100 {
        b.begin_turn(10_000);
        turns += 1;
        let mut read = 0;
        while b.fill().unwrap() {
            read = b.input_size().max(read);
            while b.next_frame().unwrap().is_some() {
                taken += 1;
            }
        }
        assert!(taken == 100 || b.may_have_more(), "the rest would be forgotten");
        assert!(read <= KEEP, "{read} bytes are kept");
    }
    assert!(turns >= bytes.len() / 10_000, "{turns} turns for {} bytes", bytes.len());
}

#[test]
fn a_queue_for_a_peer_that_does_not_read_is_bounded() {
    let (mut a, _b) = pair();
    a.set_output_limit(OutputLimit { bytes: 10_000, messages: 50 });
    let message = |conn: &mut Conn, length: usize| {
        conn.queue_with(Kind::Call, 1, vec![], |out| {
            out.resize(out.len() + length, 0);
            Ok(())
        })
    };
    // One message is taken, however long it is.
    message(&mut a, 20_000).unwrap();
    assert!(matches!(message(&mut a, 1), Err(ConnError::Full { bytes: 20_020, messages: 1 })));
    a.flush_all().unwrap();
    message(&mut a, 1000).unwrap();
    assert!(matches!(message(&mut a, 9000), Err(ConnError::Full { .. })));
    assert_eq!(a.backlog(), 1020, "what was refused is not there");
    let queued = (0..100).take_while(|_| message(&mut a, 1).is_ok()).count();
    assert_eq!(queued, 49);
    assert!(matches!(message(&mut a, 1), Err(ConnError::Full { messages: 50, .. })));
    a.flush_all().unwrap();
    message(&mut a, 1).unwrap();
}

#[test]
fn what_a_slow_peer_has_read_is_given_back() {
    let (mut a, mut b) = pair();
    a.socket.set_nonblocking(true).unwrap();
    b.socket.set_nonblocking(true).unwrap();
    // Something always waits, so the queue never runs empty.
    for serial in 0..4000 {
        queue(&mut a, serial, &[0; 4096], vec![]);
        a.flush().unwrap();
        if a.backlog() > 100_000 {
            b.fill().unwrap();
            while b.next_frame().unwrap().is_some() {}
        }
    }
    let kept: usize = a.output.iter().map(|chunk| chunk.bytes.capacity()).sum();
    assert!(kept < a.backlog() + 4 * GATHER, "{kept} bytes are kept for {}", a.backlog());
}

/// A full table of descriptors is this process's trouble: the frame arrives, and says so.
#[test]
fn descriptors_that_find_no_room_in_the_table_are_lost_and_the_connection_goes_on() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let exe = std::env::current_exe().unwrap();
    if std::env::var_os("IPC_TEST_FULL_TABLE").is_none() {
        // In a process of its own: the limit is the whole process's.
        let name = "conn::tests::descriptors_that_find_no_room_in_the_table_are_lost_and_the_connection_goes_on";
        let child = std::process::Command::new(exe).args(["--exact", name]).env("IPC_TEST_FULL_TABLE", "1").output();
        let child = child.unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
        return;
    }
    let (mut a, mut b) = pair();
    queue(&mut a, 1, b"three", vec![null(), null(), null()]);
    queue(&mut a, 2, b"one", vec![null()]);
    queue(&mut a, 3, b"none", vec![]);
    a.flush_all().unwrap();
    let mut limit = getrlimit(Resource::Nofile);
    let usual = limit.current;
    // Room for one more.
    let next = null();
    limit.current = Some(u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&next)).unwrap() + 1);
    drop(next);
    setrlimit(Resource::Nofile, limit).unwrap();
    let frames: Vec<Incoming> = (0..3).map(|_| b.recv().unwrap()).collect();
    limit.current = usual;
    setrlimit(Resource::Nofile, limit).unwrap();
    let seen: Vec<_> = frames.iter().map(|frame| (frame.serial, frame.fds.len(), frame.lost_fds)).collect();
    assert_eq!(seen, [(1, 0, true), (2, 1, false), (3, 0, false)]);
}

#[test]
fn descriptors_that_are_announced_but_missing_end_the_connection() {
    let (mut a, mut b) = raw();
    a.write_all(&Header { kind: Kind::Call, serial: 1, length: 0, fds: 2 }.encode()).unwrap();
    b.fill().unwrap();
    assert!(matches!(b.next_frame(), Err(ConnError::FdCount { announced: 2, came: 0 })));
}

#[test]
fn no_descriptor_leaks_from_a_dropped_connection() {
    let (a, mut b) = raw();
    let (probe, far) = UnixStream::pair().unwrap();
    socket::send(&a, b"BLKH", &[far.into()]).unwrap();
    b.fill().unwrap();
    drop(b);
    // The far end is closed everywhere: reading sees the end, not EAGAIN.
    probe.set_nonblocking(true).unwrap();
    assert_eq!(rustix::net::recv(&probe, &mut [0u8; 1][..], RecvFlags::empty()).unwrap().1, 0);
}

#[test]
fn a_large_frame_passes_through_a_small_socket_buffer() {
    let (mut a, mut b) = pair();
    a.socket.set_nonblocking(true).unwrap();
    b.socket.set_nonblocking(true).unwrap();
    let body = vec![5; 1 << 20];
    queue(&mut a, 1, &body, vec![]);
    let frame = loop {
        a.flush().unwrap();
        b.fill().unwrap();
        if let Some(frame) = b.next_frame().unwrap() {
            break frame;
        }
    };
    assert_eq!(frame.body, body);
    b.fill().unwrap();
    assert!(b.input.len() <= KEEP, "a drained buffer is given back");
}
