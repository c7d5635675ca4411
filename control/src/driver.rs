//! Calls in, answers out: the operation table's driver of this daemon.
//!
//! [`Control::take_call`] is the one way in: it decodes, applies the read-only rule, checks the descriptors and dispatches.
//! What the table calls stands in a module for each family of operations.

mod agent;
mod block;
mod connect;
mod device;
mod domain;
mod event;
mod monitor;
mod security;
mod tuning;

use std::os::fd::OwnedFd;

use api::{Answer, Call, Driver, Error, Family, Outcome, ReadCall, Reply, dispatch, no_operations};
use ipc::{
    Incoming,
    server::{self, Peer, PeerKey, Ticket},
};
use tracing::Span;

use super::{Control, client_span, errors};

/// libvirt's own word for what this driver is.
const DRIVER_NAME: &str = "QEMU";

/// A call on its way to an answer.
pub struct Asked {
    /// Whose.
    pub key: PeerKey,
    /// Which of its calls.
    pub serial: u64,
    /// Its connection may only read.
    pub read_only: bool,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
    /// What it counts for its user until it has been answered.
    ticket: Ticket,
    /// In which lines about it are written.
    pub span: Span,
}

impl Asked {
    /// What is needed to answer later.
    pub fn later(&self) -> Asked {
        Asked {
            key: self.key,
            serial: self.serial,
            read_only: self.read_only,
            fds: Vec::new(),
            ticket: self.ticket.clone(),
            span: self.span.clone(),
        }
    }
}

impl Control {
    /// Takes a call from the frame that it came in to the driver, or to the error that it deserves.
    pub(super) fn take_call(&mut self, key: PeerKey, frame: Incoming, ticket: Ticket) {
        let Some(peer) = self.server.peer(key) else { return };
        self.acting_for = self.server.budget(key).cloned();
        self.take_call_of(peer, key, frame, ticket);
        self.acting_for = None;
    }

    fn take_call_of(&mut self, peer: Peer, key: PeerKey, frame: Incoming, ticket: Ticket) {
        self.served = true;
        let read_only = self.authority.read_only(peer);
        let client = self.clients.entry(key).or_insert_with(|| client_span(peer)).clone();
        let Some(decoded) = self.server.decode_call(key, &frame) else { return };
        let mut asked = Asked { key, serial: frame.serial, read_only, fds: frame.fds, ticket, span: client };
        let call = match decoded {
            Ok(call) => call,
            Err(error) => return self.answer(&asked, Err(error)),
        };
        let op = call.op();
        let span = tracing::debug_span!(parent: &asked.span, "call", %op, serial = asked.serial);
        if !span.is_disabled() {
            asked.span = span;
        }
        let within = asked.span.clone();
        let _within = within.enter();
        if let Err(error) = server::check_descriptors(op, &asked.fds) {
            return self.answer(&asked, Err(error));
        }
        // A call that may not change anything travels on as a type that cannot.
        let call = if read_only { ReadCall::from_call(call).map(Call::from) } else { Ok(call) };
        match call.and_then(|call| self.answer_call(&mut asked, call)) {
            Ok(Outcome::Ready(reply)) => self.answer(&asked, Ok((reply, Vec::new()))),
            Ok(Outcome::Pending) => {}
            Err(error) => self.answer(&asked, Err(error)),
        }
    }
}

impl Control {
    fn answer_call(&mut self, asked: &mut Asked, call: Call) -> Answer<Reply> {
        if BACKENDS.contains(&call.op().info().family) {
            return dispatch(self, asked, call);
        }
        match api::none(&call, |dom| self.known(dom).map(drop)) {
            Some(answer) => answer.map(Outcome::Ready),
            None => dispatch(self, asked, call),
        }
    }
}

/// The families of which there can be something. Of every other one there is nothing, which is an answer to lists and lookups.
const BACKENDS: [Family; 3] = [Family::Connect, Family::Node, Family::Domain];

/// Bits that are set and not among those that the operation knows.
pub(super) fn only(flags: u32, known: u32, operation: &str) -> Result<(), Error> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(errors::unknown_flags(unknown, operation)),
    }
}

fn int(flag: bool) -> i32 {
    i32::from(flag)
}

impl Driver for Control {
    type Context = Asked;

    fn driver_name(&self) -> &'static str {
        DRIVER_NAME
    }
}

no_operations!(
    Control: DomainCheckpointOps, DomainMigrationOps, DomainSnapshotOps, InterfaceOps, NetworkOps, NetworkPortOps,
    NodeDeviceOps, NwfilterBindingOps, NwfilterOps, SecretOps, StoragePoolOps, StorageVolOps,
);
