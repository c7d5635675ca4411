//! # qemu-supervisor: one process per QEMU guest
//!
//! The launcher starts a supervisor inside its guest's compartment, as the first process of the guest's pid namespace, with a
//! uid of the guest's own and no capability; often before there is a guest for it, so that nobody waits for the compartment.
//! Given one, it starts QEMU once, speaks QMP with it, keeps its consoles' output and its events, and answers control until
//! QEMU has ended; then it ends too. When it dies, the kernel ends the guest.
//!
//! | module | what it is for |
//! |---|---|
//! | [`boot`] | checks what control asks for, and copies the files that QEMU opens by path |
//! | [`qemu`] | the QEMU process |
//! | [`qmp`] | QEMU's monitor |
//! | [`words`] | QEMU's standard error |
//! | [`machine`] | the guest's life as one table |
//! | [`notices`] | what else QEMU tells that clients may listen to |
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
pub mod notices;
pub mod probe;
pub mod qemu;
pub mod qmp;
pub mod words;

use std::{
    ffi::CStr,
    fs::File,
    io::Write,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::ExitCode,
};

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
    launch::{self, ASSIGNMENT, AssignError, Assignment},
    protocol::{Boot, Failure, Probe, Request, qemu::ProbeSpec},
    wire::{Asked, Wire, WireError},
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
    #[error("{what} is something else: this program is started by qemud, not by hand")]
    Wrong { what: &'static str, source: CheckError },
    /// What came is no guest.
    #[error("the launcher did not say which guest this supervisor is for")]
    Assignment(#[from] AssignError),
    /// The guest's log can't become the standard error.
    #[error("cannot write to the guest's log")]
    Log(#[source] std::io::Error),
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
    let text = [Role::Supervisor, Role::QemuKvm, Role::QemuTcg].map(Role::dump).join("\n");
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

/// How the process is called until it has a guest, for people who look at `ps`.
const WAITING: &CStr = c"supervisor-kept";
/// And then.
const SUPERVISING: &CStr = c"qemu-supervisor";

fn serve(control_uid: u32) -> Result<(), StartError> {
    let missing = |source| StartError::Missing { number: ASSIGNMENT, what: "the socket of the launcher", source };
    let launcher = inherited_fd(ASSIGNMENT).map_err(missing)?;
    check::unix_stream(&launcher).map_err(|source| StartError::Wrong { what: "the socket of the launcher", source })?;
    close_all_but(&[]).map_err(StartError::Close)?;
    call_process(WAITING);
    let Some(assignment) = launch::wait(UnixStream::from(launcher))? else { return Ok(()) };
    call_process(SUPERVISING);
    supervise(assignment, control_uid)
}

/// A name is a convenience; a process without it works as well.
fn call_process(name: &CStr) {
    let _ = rustix::thread::set_name(name);
}

fn supervise(assignment: Assignment, control_uid: u32) -> Result<(), StartError> {
    let Assignment { listener, control, event_log, log } = assignment;
    check::regular(&log, Access::Write).map_err(wrong("the guest's log"))?;
    rustix::stdio::dup2_stderr(&log).map_err(|errno| StartError::Log(errno.into()))?;
    drop(log);
    check::unix_stream(&listener).map_err(wrong("the socket for later controls"))?;
    check::unix_stream(&control).map_err(wrong("the socket of control"))?;
    check::regular(&event_log, Access::Write).map_err(wrong("the event log"))?;

    let (mut wire, mut asked) = Wire::new("qemu-supervisor", listener, UnixStream::from(control), control_uid)?;
    match std::mem::replace(&mut asked.request, Request::Status) {
        Request::Boot(boot) => start(asked, boot, 0, wire, event_log),
        Request::Start(ordered) => match boot::of_start(ordered) {
            Ok((job, boot)) => start(asked, boot, job, wire, event_log),
            Err(failure) => wire.answer(asked.ticket, Err(failure), Vec::new()),
        },
        Request::Probe(probe) => probe::run(&asked, &probe, false, wire),
        Request::Examine(payload) => match payload.read::<ProbeSpec>() {
            Ok(ProbeSpec { argv, deadline_ms }) => probe::run(&asked, &Probe { argv, deadline_ms }, true, wire),
            Err(error) => wire.answer(asked.ticket, Err(Failure::BadRequest(error.to_string())), Vec::new()),
        },
        _ => {
            let failure = Failure::WrongState { state: "not there yet: the first request starts it".to_owned() };
            wire.answer(asked.ticket, Err(failure), Vec::new());
        }
    }
    Ok(())
}

fn start(asked: Asked, boot: Boot, job: u64, wire: Wire, event_log: OwnedFd) {
    let events = EventLog::new(Some(File::from(event_log)));
    if let Some(guest) = Guest::start(asked, boot, job, wire, events) {
        guest.serve();
    }
}

fn wrong(what: &'static str) -> impl FnOnce(CheckError) -> StartError {
    move |source| StartError::Wrong { what, source }
}
