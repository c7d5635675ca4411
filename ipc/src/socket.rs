//! Reading and writing one Unix socket with descriptors: the system calls below [`crate::conn`].

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags,
    },
};

use crate::frame::MAX_FDS;

/// Bytes of the kernel's header of one ancillary message: its length, level and type.
const CONTROL_HEADER: usize = size_of::<usize>() + 2 * size_of::<i32>();
/// Bytes of one descriptor in it.
const DESCRIPTOR: usize = size_of::<i32>();
/// Room for the ancillary data of one message with [`MAX_FDS`] descriptors.
const ANCILLARY: usize = rustix::cmsg_space!(ScmRights(MAX_FDS as usize));

/// Aligned as the kernel aligns ancillary data, so that a part of it has room for exactly as many descriptors as asked for.
#[repr(align(8))]
struct Space([MaybeUninit<u8>; ANCILLARY]);

impl Space {
    const fn new() -> Space {
        Space([MaybeUninit::uninit(); ANCILLARY])
    }

    fn for_descriptors(&mut self, count: usize) -> &mut [MaybeUninit<u8>] {
        let bytes = if count == 0 { 0 } else { (CONTROL_HEADER + DESCRIPTOR * count).min(ANCILLARY) };
        self.0.get_mut(..bytes).unwrap_or_default()
    }
}

/// What one read brought.
#[derive(Debug, Default)]
pub struct Received {
    /// Bytes of data.
    pub bytes: usize,
    /// Descriptors, which close on exec.
    pub fds: Vec<OwnedFd>,
    /// The kernel has thrown descriptors away: there was no room for them here, or none in this process's table.
    pub cut: bool,
    /// Something other than descriptors came with the data.
    pub foreign: bool,
    /// Bytes that were asked for.
    pub asked: usize,
    /// Descriptors that there was room for.
    pub room: usize,
}

/// Reads once, with room for `fds` descriptors: the kernel puts no more into this process's table.
pub fn receive(socket: &UnixStream, target: &mut [u8], fds: usize, flags: RecvFlags) -> Result<Received, Errno> {
    let mut space = Space::new();
    let mut ancillary = RecvAncillaryBuffer::new(space.for_descriptors(fds));
    let asked = target.len();
    let mut target = [IoSliceMut::new(target)];
    let message = loop {
        match rustix::net::recvmsg(socket, &mut target, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let cut = message.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC);
    let mut received = Received { bytes: message.bytes, cut, asked, room: fds, ..Received::default() };
    for message in ancillary.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(fds) => received.fds.extend(fds),
            _ => received.foreign = true,
        }
    }
    Ok(received)
}

/// What waits to be read, without taking it: how many bytes, and whether descriptors come with them. The kernel ends one read
/// behind the bytes that carry descriptors, and this look there too.
pub fn look(socket: &UnixStream, target: &mut [u8], flags: RecvFlags) -> Result<(usize, bool), Errno> {
    let seen = receive(socket, target, 0, flags | RecvFlags::PEEK)?;
    Ok((seen.bytes, seen.cut))
}

/// Sends what the socket takes of `bytes`, with `fds` on the first of them.
pub fn send(socket: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> Result<usize, Errno> {
    if fds.is_empty() {
        return rustix::net::send(socket, bytes, SendFlags::NOSIGNAL);
    }
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = Space::new();
    let mut ancillary = SendAncillaryBuffer::new(&mut space.0);
    ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn nulls(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| File::open("/dev/null").unwrap().into()).collect()
    }

    #[test]
    fn no_more_descriptors_are_taken_than_there_is_room_for() {
        for (room, sent) in [(0, 3), (1, 1), (1, 2), (2, 3), (3, 200), (252, 253), (253, 253)] {
            let (a, b) = UnixStream::pair().unwrap();
            send(&a, b"x", &nulls(sent)).unwrap();
            let received = receive(&b, &mut [0; 10], room, RecvFlags::empty()).unwrap();
            let came = room.min(sent);
            assert_eq!((received.bytes, received.fds.len(), received.cut), (1, came, sent > room), "{sent} in {room}");
        }
    }

    #[test]
    fn a_look_tells_of_descriptors_and_takes_nothing() {
        let (a, b) = UnixStream::pair().unwrap();
        send(&a, b"plain", &[]).unwrap();
        send(&a, b"with", &nulls(2)).unwrap();
        send(&a, b"more", &nulls(1)).unwrap();
        let mut target = [0; 100];
        for _ in 0..2 {
            let (bytes, descriptors) = look(&b, &mut target, RecvFlags::empty()).unwrap();
            assert_eq!((&target[..bytes], descriptors), (&b"plainwith"[..], true));
        }
        let received = receive(&b, &mut target, 2, RecvFlags::empty()).unwrap();
        assert_eq!((received.bytes, received.fds.len(), received.cut), (9, 2, false));
        assert_eq!(look(&b, &mut target, RecvFlags::empty()), Ok((4, true)));
    }
}
