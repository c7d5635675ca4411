//! The test driver: a mock hypervisor, for programs and bindings to be tested against.
//!
//! A connection of this process has a mock host of its own, which is gone with it; a [`MockHost`](crate::mock::MockHost) is
//! one that a daemon hosts for all of its clients. Nothing here touches the real host: no file of a document is opened, no
//! process is started. The only thread is the echo of a connection's console, and it ends with its console.

mod console;
mod driver;
mod events;
mod machine;
pub mod mock;
mod node;
#[cfg(test)]
mod rig;

use std::{
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use api::{Call, Error, ErrorCode, ErrorDomain, Family, Outcome, Reply};

use crate::{
    Result,
    link::{EventSource, Link},
};
use events::Bell;
pub(crate) use events::TestEvents;
use machine::Machine;
use node::Node;

/// What a call brings along and takes away besides its arguments.
#[derive(Default)]
pub(crate) struct Context {
    /// Descriptors of the reply.
    fds: Vec<OwnedFd>,
    /// Rung when something happens, for a call that subscribes.
    bell: Option<Arc<Bell>>,
    /// An epoll where a console that is opened rings; without one it has a thread.
    watch: Option<Arc<OwnedFd>>,
}

/// A connection to the mock hypervisor.
pub(crate) struct TestLink {
    machine: Arc<Mutex<Machine>>,
    read_only: bool,
}

impl TestLink {
    /// A host with one running guest, `test`.
    pub(crate) fn open_default(read_only: bool) -> Result<TestLink> {
        TestLink::open(Node::built_in(), read_only)
    }

    /// The host that a file describes.
    pub(crate) fn open_file(path: &Path, read_only: bool) -> Result<TestLink> {
        TestLink::open(Node::read(path)?, read_only)
    }

    fn open(node: Node, read_only: bool) -> Result<TestLink> {
        Ok(TestLink { machine: Arc::new(Mutex::new(Machine::new(node, 0)?)), read_only })
    }

    fn dispatch(&self, call: Call, context: &mut Context) -> Result<Reply> {
        api::check_access(&call, self.read_only)?;
        answer(&mut lock(&self.machine), context, call)
    }
}

/// The families of which this host has something. Of every other one it has nothing, which is an answer to lists and lookups.
const BACKENDS: [Family; 3] = [Family::Connect, Family::Node, Family::Domain];

/// What a host answers to a call that its caller may make.
fn answer(machine: &mut Machine, context: &mut Context, call: Call) -> Result<Reply> {
    let op = call.op();
    if !BACKENDS.contains(&op.info().family)
        && let Some(answer) = api::none(&call, |dom| machine.guest(dom).map(drop))
    {
        return answer;
    }
    match api::dispatch(machine, context, call)? {
        Outcome::Ready(reply) => Ok(reply),
        // No method of this driver puts its answer off.
        Outcome::Pending => Err(Error::new(
            ErrorCode::INTERNAL_ERROR,
            ErrorDomain::TEST,
            format!("internal error: {} has no answer", op.info().api),
        )),
    }
}

impl Link for TestLink {
    fn call(&self, call: Call, _fds: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>)> {
        let mut context = Context::default();
        let reply = self.dispatch(call, &mut context)?;
        Ok((reply, context.fds))
    }

    fn events(&self, since: Option<u64>) -> Result<Box<dyn EventSource>> {
        TestEvents::begin(self, since).map(|events| Box::new(events) as Box<dyn EventSource>)
    }

    fn takes_files(&self) -> bool {
        false
    }
}

/// A lock whose holder panicked is taken all the same: each method of the machine leaves it whole.
fn lock(machine: &Mutex<Machine>) -> MutexGuard<'_, Machine> {
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Access, Op, OpKind, Operation, arbitrary::Source};

    fn calls() -> impl Iterator<Item = Call> {
        let mut source = Source::new(7);
        Op::ALL
            .iter()
            .filter(|op| op.info().kind == OpKind::Call)
            .filter_map(move |op| Call::arbitrary(*op, &mut source))
    }

    #[test]
    fn every_writing_call_is_denied_on_a_read_only_connection() {
        let link = TestLink::open_default(true).unwrap();
        let mut denied = 0;
        for call in calls() {
            let op = call.op();
            let error = link.call(call, Vec::new()).err();
            let is_denied = error.as_ref().is_some_and(|error| error.code == ErrorCode::OPERATION_DENIED);
            match op.info().access {
                Access::Write => {
                    assert!(is_denied, "{op}: {error:?}");
                    let text = format!("operation forbidden: read only access prevents {}", op.info().api);
                    assert_eq!(error.map(|error| error.message), Some(text));
                    denied += 1;
                }
                Access::Read => assert!(!is_denied, "{op}: {error:?}"),
                Access::WriteIfBits { .. } | Access::WriteIfValue { .. } => {}
            }
        }
        assert!(denied > 100, "{denied} of the table");
    }

    #[test]
    fn no_call_breaks_the_machine_whatever_it_says() {
        let link = TestLink::open_default(false).unwrap();
        for call in calls() {
            let op = call.op();
            if let Err(error) = link.call(call, Vec::new()) {
                assert_ne!(error.code, ErrorCode::INTERNAL_ERROR, "{op}: {error:?}");
            }
        }
        assert!(link.call(api::remote::ConnectNumOfDomainsArgs {}.into_call(), Vec::new()).is_ok());
    }
}
