//! What the launcher tells a supervisor, once: which guest is its own.
//!
//! A supervisor is started in its compartment before anybody needs it, when the launcher has nothing else to do, or at the
//! latest when a guest is started. Until then it waits on one socket and has nothing else: no file, no log, no way to
//! anybody. The one message on that socket carries the descriptors that make it the supervisor of a guest; when the launcher
//! leaves without it, the supervisor ends.

use std::os::{fd::OwnedFd, unix::net::UnixStream};

use ipc::{ConnError, edge::Channel};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The descriptor of the socket on which a supervisor waits; 0, 1 and 2 are `/dev/null`.
pub const ASSIGNMENT: i32 = 3;

/// The message: its descriptors say everything.
#[derive(Debug, Serialize, Deserialize)]
struct Assigned;

/// A supervisor has nothing to say to the launcher: the kernel tells it of the supervisor's end.
#[derive(Debug, Serialize, Deserialize)]
enum Nothing {}

/// What makes a process the supervisor of a guest.
#[derive(Debug)]
pub struct Assignment {
    /// The bound socket on which later controls connect; the supervisor calls `listen` on it.
    pub listener: OwnedFd,
    /// The connection of the control that starts the guest; its hello and first request are in it already.
    pub control: OwnedFd,
    /// The guest's event log, opened for appending.
    pub event_log: OwnedFd,
    /// The guest's log, for the supervisor's standard error.
    pub log: OwnedFd,
}

/// Why there is no assignment.
#[derive(Debug, Error)]
pub enum AssignError {
    /// The socket failed, or what came is no assignment.
    #[error("cannot speak with the launcher")]
    Channel(#[source] ConnError),
    /// Another number of descriptors came.
    #[error("an assignment comes with 4 descriptors, {0} came")]
    Descriptors(usize),
}

/// Gives a waiting supervisor its guest.
///
/// # Errors
/// When it is gone.
pub fn assign(socket: UnixStream, assignment: Assignment) -> Result<(), AssignError> {
    let Assignment { listener, control, event_log, log } = assignment;
    let mut channel: Channel<Assigned, Nothing> = Channel::new(socket);
    channel.send(0, &Assigned, vec![listener, control, event_log, log]).map_err(AssignError::Channel)
}

/// Waits for the guest. `None` when the launcher has left without one.
///
/// # Errors
/// When the launcher said something else.
pub fn wait(socket: UnixStream) -> Result<Option<Assignment>, AssignError> {
    let mut channel: Channel<Nothing, Assigned> = Channel::new(socket);
    let message = match channel.recv() {
        Ok(message) => message,
        Err(ConnError::Closed) => return Ok(None),
        Err(error) => return Err(AssignError::Channel(error)),
    };
    let count = message.fds.len();
    let [listener, control, event_log, log] =
        <[OwnedFd; 4]>::try_from(message.fds).map_err(|_| AssignError::Descriptors(count))?;
    Ok(Some(Assignment { listener, control, event_log, log }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::Write};

    #[test]
    fn descriptors_arrive_in_their_places() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| OwnedFd::from(File::create(dir.path().join(name)).unwrap());
        let (a, b) = UnixStream::pair().unwrap();
        let given = Assignment { listener: a.into(), control: b.into(), event_log: file("events"), log: file("log") };
        assign(ours, given).unwrap();
        let taken = wait(theirs).unwrap().unwrap();
        File::from(taken.event_log).write_all(b"an event").unwrap();
        File::from(taken.log).write_all(b"a word").unwrap();
        assert_eq!(std::fs::read(dir.path().join("events")).unwrap(), b"an event");
        assert_eq!(std::fs::read(dir.path().join("log")).unwrap(), b"a word");
    }

    #[test]
    fn a_launcher_that_leaves_is_no_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        assert!(wait(theirs).unwrap().is_none());
    }

    #[test]
    fn nobody_waits_any_more() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let given = Assignment { listener: null(), control: null(), event_log: null(), log: null() };
        assert!(matches!(assign(ours, given), Err(AssignError::Channel(_))));
    }

    #[test]
    fn another_number_of_descriptors_is_refused() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut channel: Channel<Assigned, Nothing> = Channel::new(ours);
        channel.send(0, &Assigned, vec![File::open("/dev/null").unwrap().into()]).unwrap();
        assert!(matches!(wait(theirs), Err(AssignError::Descriptors(1))));
    }
}
