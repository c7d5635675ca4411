//! Frames and their descriptors, however the byte stream cuts them.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests may fail like tests.

use std::{
    io::{IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use proptest::prelude::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use wire::{
    Conn, Header, Kind, Status, WireError,
    frame::{MAX_FDS, MAX_MESSAGE},
    transport::{Plain, Unix},
};

mod support;
use support::{Script, call_header, frame, null, raw, recv};

/// One zero byte with a descriptor, as libvirt sends it.
#[allow(clippy::needless_pass_by_value)] // Its sender keeps none.
fn send_fd(socket: &UnixStream, bytes: &[u8], fd: OwnedFd) {
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty()).unwrap();
}

fn with_fds(header: Header, count: u32, payload: &[u8]) -> Vec<u8> {
    frame(&Header { kind: Kind::CallWithFds, ..header }, &[&count.to_be_bytes(), payload].concat())
}

fn any_header() -> impl Strategy<Value = Header> {
    // The kinds with descriptors are not among these: their payload begins with a number that has a meaning.
    let kind = prop_oneof![0..4i32, 6..9i32, Just(-1)];
    (any::<u32>(), any::<u32>(), any::<i32>(), kind, any::<u32>(), any::<i32>()).prop_map(
        |(program, version, procedure, kind, serial, status)| Header {
            program,
            version,
            procedure,
            kind: kind.into(),
            serial,
            status: status.into(),
        },
    )
}

proptest! {
    #[test]
    fn any_frames_arrive_whole_however_they_are_cut(
        frames in prop::collection::vec((any_header(), prop::collection::vec(any::<u8>(), 0..200)), 1..8),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(header, payload)| frame(header, payload)).collect();
        let mut conn = Conn::new(Script::cut(&bytes, &cuts));
        for (header, payload) in frames {
            let got = recv(&mut conn).unwrap();
            prop_assert_eq!((got.header, got.payload), (header, payload));
        }
        prop_assert!(matches!(recv(&mut conn), Err(WireError::Closed)));
    }

    #[test]
    fn what_is_queued_is_what_is_read(header in any_header(), payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut conn = Conn::new(Script::new([]));
        conn.queue_raw(&header, &payload).unwrap();
        conn.queue(&header, Vec::new(), |out| { out.fixed_opaque(&payload); Ok(()) }).unwrap();
        prop_assert!(conn.flush().unwrap());
        let mut padded = payload.clone();
        padded.resize(payload.len().next_multiple_of(4), 0);
        let expected = [frame(&header, &payload), frame(&header, &padded)].concat();
        prop_assert_eq!(&conn.transport().written, &expected);
    }

    #[test]
    fn no_bytes_make_a_connection_panic_or_hoard(
        bytes in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(any::<usize>(), 0..6)
    ) {
        let mut conn = Conn::new(Script::cut(&bytes, &cuts));
        while recv(&mut conn).is_ok() {}
    }
}

#[test]
fn a_frame_cut_at_every_byte_arrives() {
    let bytes = [frame(&call_header(1, 0), b"abcd"), frame(&call_header(2, 1), b"")].concat();
    for cut in 0..=bytes.len() {
        let mut conn = Conn::new(Script::cut(&bytes, &[cut]));
        assert_eq!(recv(&mut conn).unwrap().payload, b"abcd");
        assert_eq!(recv(&mut conn).unwrap().header.procedure, 2);
    }
}

#[test]
fn a_frame_that_ends_early_is_told_apart_from_an_end() {
    let bytes = frame(&call_header(1, 0), b"abcd");
    for length in 1..bytes.len() {
        let mut conn = Conn::new(Script::cut(&bytes[..length], &[]));
        assert!(matches!(recv(&mut conn), Err(WireError::ClosedWithinFrame)));
    }
}

#[test]
fn impossible_lengths_end_the_connection_without_a_reply_and_without_memory() {
    for length in [0, 3, 4, 27, MAX_MESSAGE + 5, 0x7fff_ffff, u32::MAX] {
        let (mut peer, mut conn) = raw();
        peer.write_all(&length.to_be_bytes()).unwrap();
        conn.fill().unwrap();
        let error = conn.next_frame().unwrap_err();
        assert!(matches!(error, WireError::Length { found, .. } if found == length), "{error}");
        assert_eq!(conn.backlog(), 0);
        drop(conn);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    }
    // The longest that may be is waited for, and nothing is reserved for it.
    let (mut peer, mut conn) = raw();
    peer.write_all(&(MAX_MESSAGE + 4).to_be_bytes()).unwrap();
    conn.fill().unwrap();
    assert!(conn.next_frame().unwrap().is_none());
    conn.set_max_message(64 << 10);
    assert!(matches!(conn.next_frame(), Err(WireError::Length { max: 65_536, .. })));
}

#[test]
fn descriptors_arrive_with_their_frames() {
    let (a, b) = UnixStream::pair().unwrap();
    let (mut a, mut b) = (Conn::new(Unix::new(a)), Conn::new(Unix::new(b)));
    let header = call_header(7, 3);
    for count in [0, 2, 0, 1, MAX_FDS as usize] {
        let fds = (0..count).map(|_| null()).collect();
        let body = |out: &mut api::xdr::Encoder| {
            out.string("body");
            Ok(())
        };
        a.queue(&header, fds, body).unwrap();
    }
    assert!(a.flush().unwrap());
    assert_eq!(a.backlog(), 0);
    for count in [0, 2, 0, 1, MAX_FDS as usize] {
        let frame = recv(&mut b).unwrap();
        assert_eq!(frame.fds.len(), count);
        assert_eq!(frame.header.kind, if count == 0 { Kind::Call } else { Kind::CallWithFds });
        assert_eq!(frame.payload, b"\0\0\0\x04body");
        for fd in &frame.fds {
            assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
    }
    drop(a);
    assert!(matches!(recv(&mut b), Err(WireError::Closed)));
}

#[test]
fn a_descriptor_is_not_lost_when_one_read_returns_its_frame_too() {
    // The frame and the byte behind it are one message here, which is what a large read sees when both have arrived.
    let header = call_header(7, 3);
    let all = [with_fds(header, 1, b"abcd"), vec![0]].concat();
    let (peer, mut conn) = raw();
    send_fd(&peer, &all, null());
    // The kernel gives it with the first read of the message, whose last byte is the descriptor's.
    assert!(conn.fill().unwrap());
    let frame = conn.next_frame().unwrap().unwrap();
    assert_eq!((frame.payload.as_slice(), frame.fds.len()), (&b"abcd"[..], 1));
    // And as two messages, of which one read returns both.
    let (mut peer, mut conn) = raw();
    peer.write_all(&all[..all.len() - 1]).unwrap();
    send_fd(&peer, &[0], null());
    peer.write_all(&support::frame(&header, b"")).unwrap();
    while conn.fill().unwrap() {}
    assert_eq!(conn.next_frame().unwrap().unwrap().fds.len(), 1);
    assert_eq!(conn.next_frame().unwrap().unwrap().fds.len(), 0);
}

#[test]
fn a_frame_waits_for_its_descriptors() {
    let (mut peer, mut conn) = raw();
    peer.write_all(&with_fds(call_header(7, 3), 2, b"")).unwrap();
    conn.fill().unwrap();
    assert!(conn.next_frame().unwrap().is_none());
    send_fd(&peer, &[0], null());
    conn.fill().unwrap();
    assert!(conn.next_frame().unwrap().is_none());
    assert!(conn.within_frame());
    send_fd(&peer, &[0], null());
    conn.fill().unwrap();
    assert_eq!(conn.next_frame().unwrap().unwrap().fds.len(), 2);
}

#[test]
fn descriptors_that_are_not_where_they_are_due_end_the_connection() {
    let cases: [(&str, Vec<u8>, Vec<u8>); 3] = [
        ("none announced", frame(&call_header(7, 3), b""), vec![0]),
        ("on a byte of the frame", Vec::new(), frame(&call_header(7, 3), b"abcd")),
        ("on a byte of the frame that announces it", Vec::new(), with_fds(call_header(7, 3), 1, b"")),
    ];
    for (what, before, with) in cases {
        let (mut peer, mut conn) = raw();
        peer.write_all(&before).unwrap();
        send_fd(&peer, &with, null());
        peer.write_all(&[0; 1]).unwrap();
        while conn.fill().unwrap() {}
        let mut last = conn.next_frame();
        while let Ok(Some(_)) = last {
            last = conn.next_frame();
        }
        // Where no frame is due any more, a zero byte is the beginning of a length that cannot be.
        peer.write_all(&[0; 3]).unwrap();
        while conn.fill().unwrap() {}
        let end = last.and_then(|_| conn.next_frame());
        assert!(matches!(end, Err(WireError::StrayFd | WireError::Length { .. })), "{what}");
    }
    // Announced, but the byte comes without one.
    let (mut peer, mut conn) = raw();
    peer.write_all(&with_fds(call_header(7, 3), 1, b"")).unwrap();
    peer.write_all(&[0]).unwrap();
    conn.fill().unwrap();
    assert!(matches!(conn.next_frame(), Err(WireError::StrayFd)));
}

#[test]
fn too_many_descriptors_end_the_connection() {
    let (mut peer, mut conn) = raw();
    peer.write_all(&with_fds(call_header(7, 3), MAX_FDS + 1, b"")).unwrap();
    conn.fill().unwrap();
    assert!(matches!(conn.next_frame(), Err(WireError::FdCount(33))));

    let (mut peer, mut conn) = raw();
    peer.write_all(&frame(&Header { kind: Kind::CallWithFds, ..call_header(7, 3) }, b"")).unwrap();
    conn.fill().unwrap();
    assert!(matches!(conn.next_frame(), Err(WireError::NoFdCount)));

    let mut conn = Conn::new(Script::new([]));
    let fds = (0..=MAX_FDS).map(|_| null()).collect();
    assert!(matches!(conn.queue(&call_header(7, 3), fds, |_| Ok(())), Err(WireError::TooManyFds(33))));
    assert_eq!(conn.backlog(), 0);
}

#[test]
fn a_stream_of_bytes_only_refuses_descriptors() {
    let (mut peer, b) = UnixStream::pair().unwrap();
    b.set_nonblocking(true).unwrap();
    let mut conn = Conn::new(Plain::new(b));
    peer.write_all(&with_fds(call_header(7, 3), 1, b"")).unwrap();
    conn.fill().unwrap();
    assert!(matches!(conn.next_frame(), Err(WireError::FdsNotPassed)));
    assert!(conn.queue(&call_header(7, 3), vec![null()], |_| Ok(())).is_err());
    assert_eq!(conn.backlog(), 0);
}

#[test]
fn only_calls_and_replies_carry_descriptors() {
    let mut conn = Conn::new(Script::new([]));
    for kind in [Kind::Message, Kind::Stream, Kind::StreamHole, Kind::Other(9)] {
        let header = Header { kind, ..call_header(7, 3) };
        assert!(matches!(conn.queue(&header, vec![null()], |_| Ok(())), Err(WireError::TooManyFds(1))));
    }
    assert_eq!(conn.backlog(), 0);
}

#[test]
fn no_descriptor_outlives_its_connection() {
    let (peer, mut conn) = raw();
    let (mut probe, far) = UnixStream::pair().unwrap();
    send_fd(&peer, &[0], far.into());
    conn.fill().unwrap();
    drop(conn);
    assert_eq!(probe.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_huge_frame_passes_and_leaves_nothing_behind() {
    let (a, b) = UnixStream::pair().unwrap();
    let (mut a, mut b) = (Conn::new(Unix::new(a)), Conn::new(Unix::new(b)));
    let payload = vec![5; 24 << 20];
    a.queue_raw(&call_header(1, 0), &payload).unwrap();
    let frame = loop {
        a.flush().unwrap();
        b.fill().unwrap();
        if let Some(frame) = b.next_frame().unwrap() {
            break frame;
        }
    };
    assert_eq!(frame.payload, payload);
    b.fill().unwrap();
    assert!(a.flush().unwrap());
    let (held_a, held_b) = (a.held(), b.held());
    assert!(held_a <= 64 << 10 && held_b <= 64 << 10, "{held_a} and {held_b} bytes are kept");
}

#[test]
fn memory_is_flat_under_any_number_of_frames() {
    let (a, b) = UnixStream::pair().unwrap();
    let (mut a, mut b) = (Conn::new(Unix::new(a)), Conn::new(Unix::new(b)));
    let mut most = 0;
    for serial in 0..20_000u32 {
        let payload = vec![0; serial as usize % 3000 / 4 * 4];
        a.queue_raw(&call_header(1, serial), &payload).unwrap();
        assert!(a.flush().unwrap());
        assert_eq!(recv(&mut b).unwrap().header.serial, serial);
        most = most.max(a.held()).max(b.held());
    }
    assert!(most <= 64 << 10, "{most} bytes were held");
}

#[test]
fn a_queue_that_is_never_empty_does_not_grow() {
    let (a, b) = UnixStream::pair().unwrap();
    let (mut a, mut b) = (Conn::new(Unix::new(a)), Conn::new(Unix::new(b)));
    let payload = vec![0; 32 << 10];
    let (mut queued, mut read, mut most) = (0u32, 0u32, 0);
    while read < 2_000 {
        while a.backlog() < 512 << 10 {
            // Some with a descriptor, whose place moves when what was sent is given back.
            let fds = if queued.is_multiple_of(50) { vec![null()] } else { Vec::new() };
            let write = |out: &mut api::xdr::Encoder| {
                out.fixed_opaque(&payload);
                Ok(())
            };
            a.queue(&call_header(1, queued), fds, write).unwrap();
            queued += 1;
        }
        a.flush().unwrap();
        b.fill().unwrap();
        while let Some(frame) = b.next_frame().unwrap() {
            assert_eq!((frame.header.serial, frame.fds.len()), (read, usize::from(read.is_multiple_of(50))));
            read += 1;
        }
        most = most.max(a.held());
    }
    assert!(most <= 4 << 20, "{most} bytes were held");
}

#[test]
fn a_frame_above_the_limit_is_not_queued() {
    let mut conn = Conn::new(Script::new([]));
    let longest = vec![0; MAX_MESSAGE as usize - 24];
    let header = Header { status: Status::Continue, ..call_header(1, 0) };
    assert!(conn.queue_raw(&header, &longest).is_ok());
    let queued = conn.backlog();
    let longer = vec![0; longest.len() + 4];
    assert!(matches!(conn.queue_raw(&header, &longer), Err(WireError::TooLong(_))));
    let write = |out: &mut api::xdr::Encoder| {
        out.fixed_opaque(&longer);
        Ok(())
    };
    assert!(matches!(conn.queue(&header, Vec::new(), write), Err(WireError::TooLong(_))));
    assert_eq!(conn.backlog(), queued);
}
