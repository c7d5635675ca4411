//! Budgets of a user across its connections: descriptors, and the hello's own bounds.
#![allow(clippy::unwrap_used)] // Helpers of tests are not marked as tests.

mod rig;

use std::{
    fs::File,
    io::{IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::net::UnixStream},
};

use ipc::{Kind, frame::Header, server::Limits};
use rig::{Daemon, by_id, hello};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

fn send_with_fds(socket: &UnixStream, bytes: &[u8], count: usize) -> bool {
    let null = File::open("/dev/null").unwrap();
    let fds = vec![null.as_fd(); count];
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).is_ok()
}

fn header(length: u32, fds: u8) -> [u8; 20] {
    Header { kind: Kind::Call, serial: 1, length, fds }.encode()
}

fn ends(mut socket: UnixStream) {
    // Its end, and not the read's deadline.
    let end = socket.read_to_end(&mut Vec::new());
    assert!(end.is_ok() || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_frame_that_is_filled_with_descriptors_byte_by_byte_ends_at_the_second() {
    let daemon = Daemon::for_anybody(Limits::default());
    let client = daemon.client();
    // Before the hello, nothing of it is taken.
    let early = daemon.raw();
    (&early).write_all(&header(8 << 20, 0)).unwrap();
    ends(early);
    let early = daemon.raw();
    assert!(send_with_fds(&early, &hello(), 250));
    ends(early);
    let mut late = daemon.raw();
    late.write_all(&hello()).unwrap();
    late.write_all(&header(8 << 20, 250)).unwrap();
    // The kernel may give the first byte, and its descriptors, together with the header that announces as many. The second
    // byte's are none of the frame's. Either send fails if the daemon was faster.
    let _ = send_with_fds(&late, b"x", 250);
    let _ = send_with_fds(&late, b"x", 250);
    ends(late);
    client.call(&by_id(0), vec![]).unwrap();
    let closed = daemon.end();
    assert!(closed.iter().all(|why| !why.contains("in time")), "{closed:?}");
}
