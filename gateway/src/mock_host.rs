//! # mock host: `test:///default` for all clients
//!
//! All clients of `test:///default` share one mock host, as with libvirt's daemon. To a worker this process is a daemon like
//! qemud: it speaks the same protocol and has the same budgets per user. The acceptor makes each connection and says which
//! user the client is and what it may do, because the peer of a socket pair is always the acceptor.
//!
//! The process must never open a file or a socket: it uses the connections that it is handed, and makes socket pairs for
//! consoles. Its state ends with it.

use std::{
    collections::HashMap,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use api::{Call, Error, ErrorCode, ErrorDomain, Reply, bulkhead, look::Look};
use ipc::{
    ConnError, Incoming, Kind,
    budget::{Allowance, Allowances, Charge, Resource},
    codec::{self, CodecError},
    edge::Channel,
    server::{self, Happening, PeerKey, Server},
};
use libclient::mock::MockHost;
use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use sandbox::{
    landlock::{self, Rules},
    rlimit,
};
use thiserror::Error;

use crate::{
    chain,
    edge::{FromMockHost, Peer, Rights, ToMockHost, fds},
};

const ACCEPTOR: Token = Token(0);
const CONSOLES: Token = Token(1);
const CLIENTS: std::ops::Range<usize> = 16..1 << 30;

/// Clients from the network share one budget; the acceptor has already limited them by host.
const BY_NETWORK: u32 = u32::MAX;

/// Why the mock host ends before its acceptor does.
#[derive(Debug, Error)]
pub enum MockHostError {
    /// The launcher did not hand over what it should.
    #[error("the mock host is started by the gateway's launcher, not by hand")]
    Inherited(#[from] sandbox::fd::InheritError),
    /// The acceptor is gone or broke the protocol.
    #[error("the connection to the acceptor is lost")]
    Acceptor(#[source] ConnError),
    /// The acceptor did not begin with what it should, or began again.
    #[error("the acceptor did not say how many clients there may be")]
    NoBegin,
    /// The test driver could not make its host.
    #[error("cannot make a mock host")]
    Host(#[source] Error),
    /// It could not give up its power.
    #[error("cannot give up power")]
    Sandbox(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The poll failed.
    #[error("the event loop failed")]
    Poll(#[source] io::Error),
}

/// The most descriptors it may need: two for each client, because a connection may outlive its client for a moment; and those
/// in flight, consoles, and its own.
#[must_use]
pub fn descriptors(clients: u64) -> u64 {
    clients.saturating_mul(2).saturating_add(2048)
}

/// Runs the mock host until the acceptor leaves.
///
/// # Errors
/// When it cannot start, or the acceptor breaks the protocol.
pub fn run() -> Result<(), MockHostError> {
    let mut acceptor: Acceptor = Channel::new(UnixStream::from(sandbox::fd::inherited_fd(fds::CHANNEL)?));
    let allowance = match acceptor.recv().map_err(MockHostError::Acceptor)?.value {
        ToMockHost::Begin { connections, connections_per_user } => {
            Allowance { each: connections_per_user, all: connections, reserved: connections / 8 }
        }
        ToMockHost::Serve { .. } => return Err(MockHostError::NoBegin),
    };
    let descriptors = rlimit::get(rlimit::Resource::Nofile).soft.and_then(|most| usize::try_from(most).ok());
    let mut poll = Poll::new().map_err(MockHostError::Poll)?;
    let mut hosting = Hosting::new(&poll, allowance, descriptors)?;
    let sandboxed = |error: Box<dyn std::error::Error + Send + Sync>| MockHostError::Sandbox(error);
    landlock::restrict(&Rules::default()).map_err(|e| sandboxed(e.into()))?;
    sandbox::policy::Role::GatewayMockHost.install().map_err(|e| sandboxed(e.into()))?;
    match hosting.run(&mut poll, &mut acceptor) {
        Err(MockHostError::Acceptor(ConnError::Closed)) => Ok(()),
        other => other,
    }
}

type Acceptor = Channel<FromMockHost, ToMockHost>;

/// The host and its clients.
struct Hosting {
    host: MockHost,
    server: Server,
    /// Clients that listen to events, with the charges to their users' budgets.
    listeners: HashMap<PeerKey, Charge>,
    /// The last event that was sent.
    told: u64,
    /// Consoles have more to say at once.
    busy: bool,
}

impl Hosting {
    fn new(poll: &Poll, connections: Allowance, descriptors: Option<usize>) -> Result<Hosting, MockHostError> {
        let mut host = MockHost::new().map_err(MockHostError::Host)?;
        let registry = poll.registry();
        registry
            .register(&mut SourceFd(&host.fd().as_raw_fd()), CONSOLES, Interest::READABLE)
            .map_err(MockHostError::Poll)?;
        let budgets = Allowances { connections, ..Allowances::default() };
        let limits = server::Limits { budgets, ..server::Limits::default() };
        let limits = descriptors.map_or(limits, |most| limits.within(most));
        let registry = registry.try_clone().map_err(MockHostError::Poll)?;
        let server = Server::new(registry, CLIENTS, limits, "mock host");
        let told = host.last_event();
        Ok(Hosting { host, server, listeners: HashMap::new(), told, busy: false })
    }

    fn run(&mut self, poll: &mut Poll, acceptor: &mut Acceptor) -> Result<(), MockHostError> {
        let socket = acceptor.conn().socket();
        socket.set_nonblocking(true).map_err(MockHostError::Poll)?;
        let watched = poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), ACCEPTOR, Interest::READABLE);
        watched.map_err(MockHostError::Poll)?;
        let mut events = Events::with_capacity(256);
        let look = Look::default();
        // The poll doesn't report what arrived before it was set up.
        self.hear(acceptor)?;
        loop {
            self.turn();
            let wait = self.timeout(Instant::now());
            ipc::wait::until_ready(poll, &mut events, &look, wait).map_err(MockHostError::Poll)?;
            for event in &events {
                match event.token() {
                    ACCEPTOR => self.hear(acceptor)?,
                    token => self.ready(token),
                }
            }
        }
    }

    fn ready(&mut self, token: Token) {
        if self.server.owns(token) {
            self.server.ready(token);
        } else {
            self.busy = true;
        }
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        if self.busy { Some(Duration::ZERO) } else { self.server.patience_left(now) }
    }

    /// Does all that can be done without waiting.
    fn turn(&mut self) {
        if self.busy {
            self.busy = self.host.look_after();
        }
        while let Some(happening) = self.server.next_happening() {
            match happening {
                Happening::Call { key, frame, ticket: _ticket } => {
                    self.take_call(key, &frame);
                    self.tell();
                }
                Happening::Closed { key, peer, why } => {
                    self.listeners.remove(&key);
                    if !matches!(why, ConnError::Closed) {
                        tracing::info!("a client of uid {} is dropped: {}", peer.uid, chain(&why));
                    }
                }
            }
        }
        self.server.flush(Instant::now());
    }

    fn hear(&mut self, acceptor: &mut Acceptor) -> Result<(), MockHostError> {
        loop {
            let filled = acceptor.fill().map_err(MockHostError::Acceptor)?;
            while let Some(message) = acceptor.next_message().map_err(MockHostError::Acceptor)? {
                match message.value {
                    ToMockHost::Serve { peer, rights } => {
                        // A descriptor for which there was no room has been closed, which its worker sees.
                        message.fds.into_iter().for_each(|socket| self.serve(socket.into(), peer, rights));
                    }
                    ToMockHost::Begin { .. } => return Err(MockHostError::NoBegin),
                }
            }
            if !filled {
                return Ok(());
            }
        }
    }

    fn serve(&mut self, socket: UnixStream, peer: Peer, rights: Rights) {
        let door = door(rights);
        let peer = match peer {
            Peer::Local { uid, gid, pid } => server::Peer { door, pid, uid, gid },
            Peer::Remote(_) => server::Peer { door, pid: 0, uid: BY_NETWORK, gid: BY_NETWORK },
        };
        self.server.take_in(socket, peer);
    }

    fn take_call(&mut self, key: PeerKey, frame: &Incoming) {
        let Some(peer) = self.server.peer(key) else { return };
        let serial = frame.serial;
        let Some(decoded) = self.server.decode_call(key, frame) else { return };
        let checked = decoded.and_then(|call| server::check_descriptors(call.op(), &frame.fds).map(|()| call));
        let call = match checked {
            Ok(call) => call,
            Err(error) => return self.server.answer(key, serial, Err(error)),
        };
        match call {
            Call::BulkheadEventsSubscribe(args) => self.subscribe(key, serial, args.since),
            Call::BulkheadEventsUnsubscribe(_) => {
                self.listeners.remove(&key);
                self.server.answer(key, serial, Ok((Reply::BulkheadEventsUnsubscribe(()), Vec::new())));
            }
            call => {
                let answer = self.host.call(call, peer.door == door(Rights::ReadOnly));
                self.server.answer(key, serial, answer);
            }
        }
    }

    /// Send the answer first, then the events that the client missed; later events go to all listeners.
    fn subscribe(&mut self, key: PeerKey, serial: u64, since: Option<u64>) {
        let Some(budget) = self.server.budget(key) else { return };
        let charge = match budget.take(Resource::Subscriptions, 1) {
            Ok(charge) => charge,
            Err(over) => {
                let text = format!("Requested operation is not valid: {over}");
                let error = Error::new(ErrorCode::OPERATION_INVALID, ErrorDomain::TEST, text);
                return self.server.answer(key, serial, Err(error));
            }
        };
        let lost = since.is_some_and(|since| self.host.has_lost(since));
        let ret = bulkhead::EventsSubscribeRet { next: self.told + 1, lost };
        self.server.answer(key, serial, Ok((Reply::BulkheadEventsSubscribe(ret), Vec::new())));
        let missed: Vec<api::Event> = since.map(|since| self.host.events_after(since).collect()).unwrap_or_default();
        for event in missed {
            self.send(key, Kind::Event, 0, Vec::new(), |out| codec::encode_event(&event, out));
        }
        self.listeners.insert(key, charge);
    }

    /// Send new events to the listeners.
    fn tell(&mut self) {
        let news: Vec<api::Event> = self.host.events_after(self.told).collect();
        self.told = self.host.last_event();
        for event in news {
            // Encode once for all listeners.
            let mut body = Vec::new();
            if let Err(error) = codec::encode_event(&event, &mut body) {
                tracing::error!("an event cannot be encoded: {}", chain(&error));
                continue;
            }
            let keys: Vec<PeerKey> = self.listeners.keys().copied().collect();
            for key in keys {
                self.send(key, Kind::Event, 0, Vec::new(), |out| {
                    out.extend_from_slice(&body);
                    Ok(())
                });
            }
        }
    }

    fn send(
        &mut self,
        key: PeerKey,
        kind: Kind,
        serial: u64,
        fds: Vec<OwnedFd>,
        body: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
    ) {
        if let Err(error) = self.server.send(key, kind, serial, fds, body) {
            tracing::error!("a message cannot be sent: {}", chain(&error));
        }
    }
}

fn door(rights: Rights) -> server::Door {
    match rights {
        Rights::Full => 0,
        Rights::ReadOnly => 1,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use api::{Operation, remote};
    use libclient::driven::{Done, Driven};

    /// A mock host without a process around it.
    pub(crate) struct Played {
        hosting: Hosting,
        poll: Poll,
    }

    impl Played {
        pub(crate) fn new() -> Played {
            let poll = Poll::new().unwrap();
            let allowance = Allowance { each: 4, all: 64, reserved: 8 };
            let hosting = Hosting::new(&poll, allowance, None).unwrap();
            Played { hosting, poll }
        }

        /// A connection of a user.
        pub(crate) fn connect(&mut self, uid: u32, rights: Rights) -> UnixStream {
            let (ours, theirs) = UnixStream::pair().unwrap();
            self.hosting.serve(theirs, Peer::Local { uid, gid: uid, pid: 1 }, rights);
            ours
        }

        /// What there is to do.
        pub(crate) fn turn(&mut self) {
            let mut events = Events::with_capacity(64);
            self.hosting.turn();
            self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            events.iter().for_each(|event| self.hosting.ready(event.token()));
            self.hosting.turn();
        }

        fn driven(&mut self, uid: u32, rights: Rights) -> Driven {
            Driven::new(self.connect(uid, rights), false).unwrap()
        }

        fn call<A: Operation>(&mut self, driven: &mut Driven, args: A) -> Result<A::Ret, Error> {
            driven.submit(1, &args.into_call(), Vec::new()).unwrap();
            driven.flush();
            for _ in 0..100 {
                self.turn();
                let mut done = Vec::new();
                let lost = driven.ready(&mut done);
                if let Some(Done { result, .. }) = done.pop() {
                    return result.map(|(reply, _)| A::ret_of(reply).unwrap());
                }
                lost.unwrap();
            }
            panic!("no answer");
        }

        fn test(&mut self, driven: &mut Driven) -> remote::Domain {
            self.call(driven, remote::DomainLookupByNameArgs { name: "test".into() }).unwrap().dom
        }
    }

    #[test]
    fn what_one_client_does_the_others_see_and_hear() {
        let mut played = Played::new();
        let [mut one, mut two] = [1, 2].map(|uid| played.driven(uid, Rights::Full));
        played.call(&mut two, bulkhead::EventsSubscribeArgs { since: None }).unwrap();
        let dom = played.test(&mut one);
        played.call(&mut one, remote::DomainSuspendArgs { dom: dom.clone() }).unwrap();
        let state = played.call(&mut two, remote::DomainGetStateArgs { dom: dom.clone(), flags: 0 }).unwrap();
        assert_eq!(state.state, 3);
        let heard = two.take_events();
        assert!(matches!(&heard[..], [api::Event::BulkheadDomainEvent(event)] if event.event == 3), "{heard:?}");
        assert!(one.take_events().is_empty(), "it is no listener");
        played.call(&mut two, bulkhead::EventsUnsubscribeArgs {}).unwrap();
        played.call(&mut one, remote::DomainResumeArgs { dom: dom.clone() }).unwrap();
        played.test(&mut two);
        assert!(two.take_events().is_empty());
        // From behind what it has heard.
        let api::Event::BulkheadDomainEvent(last) = &heard[0] else { panic!() };
        let since = Some(last.sequence);
        let ret = played.call(&mut two, bulkhead::EventsSubscribeArgs { since }).unwrap();
        assert_eq!((ret.next, ret.lost), (last.sequence + 2, false));
        played.test(&mut two);
        assert_eq!(two.take_events().len(), 1);
        assert!(played.call(&mut one, bulkhead::EventsSubscribeArgs { since: Some(1) }).unwrap().lost);
    }

    #[test]
    fn a_read_only_client_does_not_write_whatever_its_worker_says() {
        let mut played = Played::new();
        let mut reader = played.driven(1, Rights::ReadOnly);
        let dom = played.test(&mut reader);
        let error = played.call(&mut reader, remote::DomainDestroyArgs { dom }).unwrap_err();
        assert_eq!(error.code, ErrorCode::OPERATION_DENIED);
    }

    #[test]
    fn one_user_s_connections_are_limited_and_not_another_s() {
        let mut played = Played::new();
        let mut kept: Vec<Driven> = (0..4).map(|_| played.driven(1, Rights::Full)).collect();
        kept.iter_mut().for_each(|driven| drop(played.test(driven)));
        let mut more = played.driven(1, Rights::Full);
        let error = played.call(&mut more, remote::ConnectGetTypeArgs {}).unwrap_err();
        assert!(error.full_text().contains("limit of 4 connections"), "{}", error.full_text());
        let mut other = played.driven(2, Rights::Full);
        played.test(&mut other);
        // One that leaves makes room.
        kept.pop();
        played.turn();
        let mut next = played.driven(1, Rights::Full);
        played.test(&mut next);
    }

    #[test]
    fn nonsense_ends_one_connection() {
        let mut played = Played::new();
        let mut good = played.driven(1, Rights::Full);
        let mut bad = played.connect(1, Rights::Full);
        io::Write::write_all(&mut bad, &[0xff; 100]).unwrap();
        played.turn();
        let mut heard = Vec::new();
        io::Read::read_to_end(&mut bad, &mut heard).unwrap_or_default();
        played.test(&mut good);
    }
}
