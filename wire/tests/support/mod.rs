//! What the tests of this crate share.
#![allow(dead_code)] // Not every test needs all of it.

use std::{
    collections::VecDeque,
    fs::File,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use api::{Call, Op, Operation, Reply, remote};
use wire::{Conn, Frame, Header, Kind, Status, Transport, transport::TransportError, transport::Unix};

/// A byte stream that gives what it was told to give, read by read, and then ends.
pub struct Script {
    reads: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    pub written: Vec<u8>,
    pollable: OwnedFd,
}

impl Script {
    pub fn new(reads: impl IntoIterator<Item = (Vec<u8>, Vec<OwnedFd>)>) -> Self {
        Self { reads: reads.into_iter().collect(), written: Vec::new(), pollable: null() }
    }

    /// Bytes in pieces that end at `cuts`.
    pub fn cut(bytes: &[u8], cuts: &[usize]) -> Self {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        places.dedup();
        Self::new(places.windows(2).map(|pair| (bytes[pair[0]..pair[1]].to_vec(), Vec::new())))
    }
}

impl AsFd for Script {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pollable.as_fd()
    }
}

impl Transport for Script {
    fn recv(&mut self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<Option<usize>, TransportError> {
        let Some((bytes, came)) = self.reads.front_mut() else { return Ok(Some(0)) };
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        bytes.drain(..count);
        if bytes.is_empty() {
            fds.append(came);
            self.reads.pop_front();
        }
        Ok(Some(count))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<Option<usize>, TransportError> {
        self.written.extend_from_slice(bytes);
        Ok(Some(bytes.len()))
    }

    fn passes_fds(&self) -> bool {
        true
    }
}

pub fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

/// A server's connection and the raw other end.
pub fn raw() -> (UnixStream, Conn<Unix>) {
    let (a, b) = UnixStream::pair().unwrap();
    (a, Conn::new(Unix::new(b)))
}

/// Whether it can be read within that time.
pub fn readable(conn: &impl AsFd, patience: std::time::Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let patience = Timespec { tv_sec: patience.as_secs().try_into().unwrap(), tv_nsec: patience.subsec_nanos().into() };
    poll(&mut [PollFd::new(conn, PollFlags::IN)], Some(&patience)).unwrap() > 0
}

/// Sleeps until the connection can be read.
pub fn await_input(conn: &impl AsFd) {
    use rustix::event::{PollFd, PollFlags, poll};
    poll(&mut [PollFd::new(conn, PollFlags::IN)], None).unwrap();
}

/// The next frame of a connection, waiting for it.
pub fn recv<T: Transport>(conn: &mut Conn<T>) -> Result<Frame, wire::WireError> {
    loop {
        if let Some(frame) = conn.next_frame()? {
            return Ok(frame);
        }
        if !conn.fill()? && !conn.may_have_more() {
            if let Some(frame) = conn.next_frame()? {
                return Ok(frame);
            }
            await_input(conn);
        }
    }
}

/// The bytes of a frame.
pub fn frame(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(28 + payload.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(header.encode());
    bytes.extend(payload);
    bytes
}

/// The header of a call of the remote program.
pub fn call_header(procedure: i32, serial: u32) -> Header {
    Header {
        program: remote::PROGRAM,
        version: remote::VERSION,
        procedure,
        kind: Kind::Call,
        serial,
        status: Status::Ok,
    }
}

/// The reply with every field at its default.
pub fn empty_reply(op: Op) -> Reply {
    let zeros = [0; 4096];
    Reply::decode(op, &mut api::xdr::Decoder::new(&zeros)).unwrap().unwrap()
}

pub fn get_hostname() -> Call {
    remote::ConnectGetHostnameArgs.into_call()
}

pub fn hostname(name: &str) -> Reply {
    Reply::ConnectGetHostname(remote::ConnectGetHostnameRet { hostname: name.to_owned() })
}
