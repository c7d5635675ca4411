//! A mock host for the caller's event loop: many connections share one host, and no call waits.
//!
//! The gateway's mock host process stands on it and answers the calls of all clients of `test:///default`. That process keeps
//! the connections and their rights; this module keeps the host.
//!
//! ```
//! use libclient::{
//!     api::{Operation, Reply, remote},
//!     mock::MockHost,
//! };
//!
//! let mut host = MockHost::new()?;
//! let last = host.last_event();
//! let (reply, _) = host.call(remote::DomainLookupByNameArgs { name: "test".into() }.into_call(), true)?;
//! let Reply::DomainLookupByName(found) = reply else { panic!() };
//! host.call(remote::DomainSuspendArgs { dom: found.dom }.into_call(), false)?;
//! assert_eq!(host.events_after(last).count(), 1);
//! # Ok::<(), libclient::Error>(())
//! ```

use std::{
    collections::BTreeSet,
    mem::{self, MaybeUninit},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::SystemTime,
};

use api::{Call, Error, ErrorCode, ErrorDomain, Event, ReadCall, Reply};
use registry::Run;
use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};

use super::{
    Context, answer,
    console::Echo,
    machine::{ERRORS, Machine},
    node::Node,
};
use crate::{Result, link::Numbered};

/// The most consoles that may be open at a time: each costs the process a descriptor.
const CONSOLES: usize = 256;
/// Read this many rings at a time, this many times, before the caller's other work has its turn.
const RINGS: usize = 64;
const TURNS: usize = 16;

/// The host of `test:///default`. Dropping it drops its state.
pub struct MockHost {
    machine: Machine,
    /// Where consoles ring, by the number of their guest.
    watch: Arc<OwnedFd>,
    /// Guests whose consoles have more to say at once.
    busy: BTreeSet<Run>,
}

impl MockHost {
    /// A host with one running guest, `test`. Event numbers start at the current time in microseconds, so they don't repeat
    /// those of an earlier host: a listener that resumes from an earlier host's event learns that events were lost.
    ///
    /// # Errors
    /// When the system gives no epoll.
    pub fn new() -> Result<MockHost> {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let first = u64::try_from(since_1970.as_micros()).unwrap_or_default();
        let machine = Machine::new(Node::built_in(), first)?;
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        Ok(MockHost { machine, watch: Arc::new(watch), busy: BTreeSet::new() })
    }

    /// Answers a call. A read-only caller is refused every call that changes something.
    ///
    /// # Errors
    /// The error that answers the call.
    pub fn call(&mut self, call: Call, read_only: bool) -> Result<(Reply, Vec<OwnedFd>)> {
        // `ReadCall` cannot hold a call that writes.
        let call = if read_only { ReadCall::from_call(call)?.into() } else { call };
        if matches!(call, Call::BulkheadDomainOpenConsole(_)) && self.machine.consoles() >= CONSOLES {
            return Err(ERRORS.failed(format_args!("{CONSOLES} consoles are open, which is the most")));
        }
        let mut context = Context { watch: Some(Arc::clone(&self.watch)), ..Context::default() };
        let reply = answer(&mut self.machine, &mut context, call)?;
        Ok((reply, context.fds))
    }

    /// The number of the last event.
    pub fn last_event(&mut self) -> u64 {
        self.machine.log().next().saturating_sub(1)
    }

    /// Whether events after this one have been dropped from the log, or belong to an earlier host.
    pub fn has_lost(&mut self, since: u64) -> bool {
        self.machine.log().has_lost(since)
    }

    /// The events after this one that the log still has.
    pub fn events_after(&mut self, since: u64) -> impl Iterator<Item = Event> {
        self.machine.log().after(since).cloned().map(Numbered::into_event)
    }

    /// Becomes readable when [`MockHost::look_after`] has something to do.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Echoes what was typed on the consoles. True when there is more to do at once that [`MockHost::fd`] won't report.
    pub fn look_after(&mut self) -> bool {
        let mut rung = mem::take(&mut self.busy);
        let mut more = true;
        for _ in 0..TURNS {
            let mut space = [MaybeUninit::<epoll::Event>::uninit(); RINGS];
            let (events, rest) = match epoll::wait(&self.watch, &mut space, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                Ok(told) => told,
                Err(_) => break,
            };
            rung.extend(events.iter().filter_map(|event| u32::try_from(event.data.u64()).ok()).map(Run));
            more = rest.is_empty();
            if !more {
                break;
            }
        }
        for guest in rung {
            // A guest that has ended meanwhile has none.
            let Some(console) = self.machine.console(guest) else { continue };
            if console.as_mut().is_some_and(Echo::pump) {
                self.busy.insert(guest);
            }
            console.take_if(|echo| !echo.in_use());
        }
        more || !self.busy.is_empty()
    }
}

fn failed(errno: Errno) -> Error {
    Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::TEST, "cannot watch consoles")
        .with_cause(std::io::Error::from(errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::{self, Deadline};
    use api::{Operation, bulkhead, remote};
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
        time::Duration,
    };

    fn ask<A: Operation>(host: &mut MockHost, args: A) -> A::Ret {
        A::ret_of(host.call(args.into_call(), false).unwrap().0).unwrap()
    }

    fn test(host: &mut MockHost) -> remote::Domain {
        ask(host, remote::DomainLookupByNameArgs { name: "test".into() }).dom
    }

    fn console(host: &mut MockHost, dom: remote::Domain) -> UnixStream {
        let args = bulkhead::DomainOpenConsoleArgs { dom, dev_name: None, flags: 0 };
        let (_, mut fds) = host.call(args.into_call(), false).unwrap();
        let console = UnixStream::from(fds.pop().unwrap());
        console.set_nonblocking(true).unwrap();
        console
    }

    fn is_silent(host: &MockHost) -> bool {
        !wait::readable(host.fd(), Deadline::after(Some(Duration::ZERO))).unwrap()
    }

    #[test]
    fn event_numbers_do_not_repeat() {
        let mut first = MockHost::new().unwrap();
        let dom = test(&mut first);
        let since = first.last_event();
        ask(&mut first, remote::DomainSuspendArgs { dom });
        let seen = first.last_event();
        assert_eq!((first.events_after(since).count(), seen, first.has_lost(since)), (1, since + 1, false));
        let mut second = MockHost::new().unwrap();
        assert!(
            second.has_lost(seen) || second.last_event() < seen,
            "a listener of the first one learns that events were lost"
        );
    }

    #[test]
    fn a_read_only_caller_changes_nothing() {
        let mut host = MockHost::new().unwrap();
        let dom = test(&mut host);
        let error = host.call(remote::DomainDestroyArgs { dom }.into_call(), true).unwrap_err();
        assert_eq!(error.code, ErrorCode::OPERATION_DENIED);
        assert_eq!(error.message, "operation forbidden: read only access prevents virDomainDestroy");
        assert!(test(&mut host).id > 0);
    }

    #[test]
    fn each_console_echoes_its_own_bytes_and_is_closed_with_its_user() {
        let mut host = MockHost::new().unwrap();
        let one = test(&mut host);
        let xml_desc =
            "<domain type='test'><name>two</name><memory>1</memory><os><type>hvm</type></os></domain>".into();
        let two = ask(&mut host, remote::DomainCreateXmlArgs { xml_desc, flags: 0 }).dom;
        let (mut one, mut two) = (console(&mut host, one), console(&mut host, two));
        for (console, said) in [(&mut one, b"ping"), (&mut two, b"pong")] {
            console.write_all(said).unwrap();
            let mut heard = [0; 4];
            while console.read(&mut heard).is_err() {
                assert!(wait::readable(host.fd(), Deadline::after(Some(Duration::from_secs(20)))).unwrap());
                host.look_after();
            }
            assert_eq!(&heard, said);
        }
        assert!(!host.look_after());
        assert!(is_silent(&host), "an idle console is silent");
        drop((one, two));
        assert!(!is_silent(&host));
        host.look_after();
        assert_eq!(host.machine.consoles(), 0);
        assert!(is_silent(&host));
    }
}
