//! # qemu-supervisor: one process per QEMU guest
//!
//! The launcher starts a supervisor inside its guest's compartment, as the first process of the guest's pid namespace, with a
//! uid of the guest's own and no capability. It starts QEMU once, speaks QMP with it, keeps its consoles' output and its
//! events, and answers control until QEMU has ended; then it ends too. When it dies, the kernel ends the guest.
//!
//! | module | what it is for |
//! |---|---|
//! | [`boot`] | checks what control asks for, and copies the files that QEMU opens by path |
//! | [`qemu`] | the QEMU process |
//! | [`qmp`] | QEMU's monitor |
//! | [`words`] | QEMU's standard error |
//! | [`machine`] | the guest's life as one table |
//! | [`guest`] | a guest that runs, and the loop that serves it |
//! | [`probe`] | asks a QEMU what it can do |
//! | [`keys`] | how the poll tells its sources apart |
//! | [`log`] | the guest's log |
//!
//! This process must never believe QEMU or control, wait for either of them, reach another guest, or start a second program.
#![forbid(unsafe_code)]

pub mod boot;
pub mod guest;
pub mod keys;
pub mod log;
pub mod machine;
pub mod probe;
pub mod qemu;
pub mod qmp;
pub mod words;

use std::{fs::File, io::Write, os::unix::net::UnixStream, process::ExitCode};

use sandbox::{
    fd::{
        InheritError,
        check::{self, Access, CheckError},
        close_all_but, inherited_fd,
    },
    policy::Role,
};
use supervisor::{
    events::EventLog,
    protocol::{Failure, Request, fds},
    wire::{Wire, WireError},
};
use thiserror::Error;

use crate::guest::Guest;

/// How the program is called, for a message.
const USAGE: &str = "usage: qemu-supervisor --control-uid UID | --dump-policy\n\
     It is started by qemud inside a guest's compartment, with its sockets; it is of no use on its own.";

/// Why a supervisor does not come to serving.
#[derive(Debug, Error)]
enum StartError {
    /// It was not started by a launcher.
    #[error("descriptor {number}, {what}, is missing: this program is started by qemud, not by hand")]
    Missing { number: i32, what: &'static str, source: InheritError },
    /// A descriptor is something else.
    #[error("descriptor {number} is not {what}: this program is started by qemud, not by hand")]
    Wrong { number: i32, what: &'static str, source: CheckError },
    /// Something that was left open can't be closed.
    #[error("cannot close the descriptors that are not for the supervisor")]
    Close(#[source] std::io::Error),
    /// Control can't be spoken with.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// The program: what its arguments ask for.
#[must_use]
pub fn run(arguments: &[String]) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["--dump-policy"] => return dump_policy(),
        ["--control-uid", uid] => match uid.parse() {
            Ok(uid) => serve(uid),
            Err(_) => return complain(USAGE),
        },
        _ => return complain(USAGE),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&chain(&error)),
    }
}

fn dump_policy() -> ExitCode {
    let text = Role::Supervisor.dump() + "\n" + &Role::QemuBase.dump();
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn complain(text: &str) -> ExitCode {
    let _ = std::io::stderr().write_all(format!("qemu-supervisor: {text}\n").as_bytes());
    ExitCode::from(2)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn serve(control_uid: u32) -> Result<(), StartError> {
    let take = |number, what| inherited_fd(number).map_err(|source| StartError::Missing { number, what, source });
    let listener = take(fds::LISTENER, "the socket for later controls")?;
    let control = take(fds::CONTROL, "the socket of control")?;
    let events = take(fds::EVENT_LOG, "the event log")?;
    let wrong = |number, what| move |source| StartError::Wrong { number, what, source };
    check::unix_stream(&listener).map_err(wrong(fds::LISTENER, "a socket"))?;
    check::unix_stream(&control).map_err(wrong(fds::CONTROL, "a socket"))?;
    check::regular(&events, Access::Write).map_err(wrong(fds::EVENT_LOG, "a file"))?;
    close_all_but(&[]).map_err(StartError::Close)?;

    let (mut wire, mut asked) = Wire::new("qemu-supervisor", listener, UnixStream::from(control), control_uid)?;
    match std::mem::replace(&mut asked.request, Request::Status) {
        Request::Boot(boot) => {
            let events = EventLog::new(Some(File::from(events)));
            if let Some(guest) = Guest::start(asked, boot, wire, events) {
                guest.serve();
            }
        }
        Request::Probe(probe) => probe::run(&asked, &probe, wire),
        _ => {
            let failure = Failure::WrongState { state: "not there yet: the first request starts it".to_owned() };
            wire.answer(asked.ticket, Err(failure), Vec::new());
        }
    }
    Ok(())
}
