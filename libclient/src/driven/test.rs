//! The mock hypervisor: it answers at once, and echoes its consoles when it is looked after.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use api::{Call, Error, ErrorCode, ErrorDomain, Event, Reply, bulkhead};
use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};

use super::{Done, Target};
use crate::{
    Result,
    link::{EventSource, Numbered},
    test_driver::{TestEvents, TestLink},
};

/// One mock host and what its user listens to.
pub(super) struct TestDriven {
    link: TestLink,
    /// Of the listener's bell and of the consoles, so that one descriptor tells of all.
    watch: Arc<OwnedFd>,
    events: Option<TestEvents>,
    done: Vec<Done>,
}

impl TestDriven {
    pub(super) fn open(target: &Target, read_only: bool) -> Result<TestDriven> {
        let link = match target {
            Target::TestDefault => TestLink::open_default(read_only)?,
            Target::TestFile(path) => TestLink::open_file(path, read_only)?,
            Target::Qemu(mode) => {
                let message = format!("qemu:///{} is no mock hypervisor", mode.name());
                return Err(Error::new(ErrorCode::INVALID_ARG, ErrorDomain::TEST, message));
            }
        };
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|errno| failed("cannot watch", errno))?;
        let watch = Arc::new(watch);
        Ok(TestDriven { link: link.watched_by(&watch), watch, events: None, done: Vec::new() })
    }

    pub(super) fn submit(&mut self, token: u64, call: Call) -> Result<()> {
        let result = match call {
            Call::BulkheadEventsSubscribe(args) => self.subscribe(&args),
            Call::BulkheadEventsUnsubscribe(_) => {
                self.events = None;
                Ok((Reply::BulkheadEventsUnsubscribe(()), Vec::new()))
            }
            call => {
                api::check_access(&call, self.link.is_read_only())?;
                self.link.call_now(call)
            }
        };
        self.done.push(Done { token, result });
        Ok(())
    }

    fn subscribe(&mut self, args: &bulkhead::EventsSubscribeArgs) -> Result<(Reply, Vec<OwnedFd>)> {
        let events = TestEvents::begin(&self.link, args.since)?;
        epoll::add(&self.watch, events.poll_fd(), epoll::EventData::new_u64(0), epoll::EventFlags::IN)
            .map_err(|errno| failed("cannot watch for events", errno))?;
        let ret = bulkhead::EventsSubscribeRet { next: events.first_new(), lost: events.lost() };
        self.events = Some(events);
        Ok((Reply::BulkheadEventsSubscribe(ret), Vec::new()))
    }

    pub(super) fn ready(&mut self, done: &mut Vec<Done>) {
        done.append(&mut self.done);
        if self.link.has_consoles() {
            let mut space = [MaybeUninit::<epoll::Event>::uninit(); 16];
            // What rang is of no interest: all consoles are looked after. It is asked so that it is silent.
            let _ = epoll::wait(&self.watch, &mut space, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
            self.link.echo();
        }
    }

    pub(super) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.done.len()
    }

    pub(super) fn take_events(&mut self) -> Vec<Event> {
        let Some(source) = &mut self.events else { return Vec::new() };
        std::iter::from_fn(|| source.take()).map(Numbered::into_event).collect()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

fn failed(what: &str, errno: Errno) -> Error {
    Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::TEST, what).with_cause(std::io::Error::from(errno))
}
