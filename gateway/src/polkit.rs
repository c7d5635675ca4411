//! # polkit: asks the host's authority who may change things
//!
//! The one process of the gateway that speaks D-Bus. It has root's uid, because polkit answers about another user's process
//! to root only, and like the acceptor no capability and a filter that leaves the uid no other use: its connection to the
//! bus is made before the filter is on, and afterwards it can open nothing but `/proc` for reading. It hears the acceptor's
//! two words ([`ToPolkit`]) and the bus; never a client, never a worker.
//!
//! It is started when the first client asks, and leaves when the acceptor or the bus does; the next client that asks gets
//! another one. One thread; any number of questions wait for people at their dialogs without holding up each other.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::poll_fn,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    pin::Pin,
    rc::Rc,
    time::Duration,
};

use api::ErrorCode;
use ipc::{ConnError, edge::Channel};
use sandbox::landlock::{self, Rules};
use thiserror::Error;
use tokio::{io::Interest, task::LocalSet};
use zbus::{Connection, MessageStream, export::futures_core::Stream, zvariant::Value};

use crate::{
    chain,
    edge::{Denied, FromPolkit, ToPolkit, fds},
};

/// libvirt's name of the action, so that the rules which administrators have written for it go on to hold.
const ACTION: &str = "org.libvirt.unix.manage";
const AUTHORITY: &str = "org.freedesktop.PolicyKit1";
const AUTHORITY_PATH: &str = "/org/freedesktop/PolicyKit1/Authority";
const AUTHORITY_INTERFACE: &str = "org.freedesktop.PolicyKit1.Authority";
/// CheckAuthorization's flag: a dialog may be shown.
const MAY_INTERACT: u32 = 1;
/// How long the bus may take to let us in.
const BUS_PATIENCE: Duration = Duration::from_secs(10);

/// Why the process ends before it is told to.
#[derive(Debug, Error)]
pub enum PolkitError {
    /// The launcher did not hand over what it should.
    #[error("this process is started by the gateway's launcher, not by hand")]
    Inherited(#[from] sandbox::fd::InheritError),
    /// The loop cannot be made or waited for.
    #[error("the event loop failed")]
    Loop(#[source] io::Error),
    /// There is no bus, or it does not let us in.
    #[error("the system's D-Bus cannot be reached")]
    Bus(#[source] zbus::Error),
    /// The bus takes too long.
    #[error("the system's D-Bus did not answer within {} s", BUS_PATIENCE.as_secs())]
    BusSilent,
    /// The process could not give up its power.
    #[error("cannot give up power")]
    Sandbox(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The acceptor broke the protocol.
    #[error("the connection to the acceptor is lost")]
    Acceptor(#[source] ConnError),
}

/// Runs until the acceptor or the bus leaves.
///
/// # Errors
/// When it cannot start, or the acceptor breaks the protocol.
pub fn run() -> Result<(), PolkitError> {
    let socket = UnixStream::from(sandbox::fd::inherited_fd(fds::CHANNEL)?);
    socket.set_nonblocking(true).map_err(PolkitError::Loop)?;
    // zbus connects in a thread; kept, it would be one more under the filter.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().thread_keep_alive(Duration::ZERO);
    let runtime = runtime.build().map_err(PolkitError::Loop)?;
    match LocalSet::new().block_on(&runtime, serve(socket)) {
        Err(PolkitError::Acceptor(ConnError::Closed)) => Ok(()),
        other => other,
    }
}

async fn serve(socket: UnixStream) -> Result<(), PolkitError> {
    let connecting = async { zbus::connection::Builder::system()?.build().await };
    let bus = tokio::time::timeout(BUS_PATIENCE, connecting).await;
    let bus = bus.map_err(|_| PolkitError::BusSilent)?.map_err(PolkitError::Bus)?;
    let questions = Questions { acceptor: Acceptor::new(socket)?, bus: bus.clone() };
    confine()?;
    let mut bus_ends = tokio::task::spawn_local(until_it_ends(bus));
    let mut heard = std::pin::pin!(questions.hear());
    poll_fn(|cx| {
        if Pin::new(&mut bus_ends).poll(cx).is_ready() {
            tracing::info!("the system's D-Bus has ended");
            return std::task::Poll::Ready(Ok(()));
        }
        heard.as_mut().poll(cx)
    })
    .await
}

fn confine() -> Result<(), PolkitError> {
    let sandboxed = |error: Box<dyn std::error::Error + Send + Sync>| PolkitError::Sandbox(error);
    let rules = Rules { read: vec!["/proc".into()], ..Rules::default() };
    landlock::restrict(&rules).map_err(|e| sandboxed(e.into()))?;
    sandbox::policy::Role::GatewayPolkit.install().map_err(|e| sandboxed(e.into()))
}

/// Waits for the end of the connection to the bus.
async fn until_it_ends(bus: Connection) {
    let mut messages = MessageStream::from(&bus);
    while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut messages).poll_next(cx)).await {}
}

/// The acceptor's channel, for the one that reads it and those that answer.
#[derive(Clone)]
struct Acceptor {
    channel: Rc<RefCell<Channel<FromPolkit, ToPolkit>>>,
    /// The same socket, as the loop knows it.
    watched: Rc<tokio::net::UnixStream>,
}

impl Acceptor {
    fn new(socket: UnixStream) -> Result<Acceptor, PolkitError> {
        let watched = socket.try_clone().and_then(tokio::net::UnixStream::from_std).map_err(PolkitError::Loop)?;
        Ok(Acceptor { channel: Rc::new(RefCell::new(Channel::new(socket))), watched: Rc::new(watched) })
    }

    async fn next(&self) -> Result<(ToPolkit, Vec<OwnedFd>), PolkitError> {
        loop {
            let message = self.channel.borrow_mut().next_message().map_err(PolkitError::Acceptor)?;
            if let Some(message) = message {
                return Ok((message.value, message.fds));
            }
            self.watched.readable().await.map_err(PolkitError::Loop)?;
            let filled = self.channel.borrow_mut().fill().map_err(PolkitError::Acceptor)?;
            if !filled {
                // Tells the loop that it is dry.
                let dry = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                let _ = self.watched.try_io(Interest::READABLE, dry);
            }
        }
    }

    fn answer(&self, id: u64, word: Result<(), Denied>) {
        let mut channel = self.channel.borrow_mut();
        // The acceptor reads always: what it does not take at once is a few bytes that the next answer pushes on. One that
        // is gone shows when it is read.
        let _ = channel.queue(0, &FromPolkit::Answer { id, word }, Vec::new()).and_then(|()| channel.flush());
    }
}

struct Questions {
    acceptor: Acceptor,
    bus: Connection,
}

impl Questions {
    /// Takes the acceptor's words. Every question is a task of its own.
    async fn hear(&self) -> Result<(), PolkitError> {
        loop {
            let (word, mut fds) = self.acceptor.next().await?;
            let (acceptor, bus) = (self.acceptor.clone(), self.bus.clone());
            match word {
                ToPolkit::Ask { id, pid, uid } => {
                    let pidfd = fds.pop();
                    tokio::task::spawn_local(async move {
                        let word = ask(&bus, id, pid, uid, pidfd).await;
                        acceptor.answer(id, word);
                    });
                }
                ToPolkit::Cancel { id } => {
                    tokio::task::spawn_local(async move {
                        let id = cancellation(id);
                        // One that has been answered meanwhile cannot be cancelled.
                        let _ = call(&bus, "CancelCheckAuthorization", &(id,)).await;
                    });
                }
            }
        }
    }
}

fn cancellation(id: u64) -> String {
    format!("bulkhead-{id}")
}

async fn call<B>(bus: &Connection, method: &str, body: &B) -> zbus::Result<zbus::Message>
where
    B: serde::Serialize + zbus::zvariant::DynamicType,
{
    bus.call_method(Some(AUTHORITY), AUTHORITY_PATH, Some(AUTHORITY_INTERFACE), method, body).await
}

/// polkit's word about a process.
async fn ask(bus: &Connection, id: u64, pid: i32, uid: u32, pidfd: Option<OwnedFd>) -> Result<(), Denied> {
    let denied = |reason: String| Denied { code: ErrorCode::AUTH_FAILED.0, reason };
    let started = sandbox::process::process_start_time(pid).map_err(|error| denied(refusal(&chain(&error))))?;
    if let Some(pidfd) = &pidfd {
        // Looked at after the start time was read: the number was this process's then, and not a later one's.
        match sandbox::pidfd::pid(pidfd) {
            Ok(still) if still == pid => {}
            _ => return Err(denied(refusal("the process that connected is gone"))),
        }
    }
    let (Ok(pid), Ok(uid)) = (u32::try_from(pid), i32::try_from(uid)) else {
        return Err(denied(refusal("the process that connected has no place in polkit's numbers")));
    };
    let subject = HashMap::from([("pid", Value::from(pid)), ("start-time", started.into()), ("uid", uid.into())]);
    let details = HashMap::<&str, &str>::new();
    let body = (("unix-process", subject), ACTION, details, MAY_INTERACT, cancellation(id));
    let answer = call(bus, "CheckAuthorization", &body).await.and_then(|message| {
        let body = message.body();
        body.deserialize::<(bool, bool, HashMap<String, String>)>()
    });
    match answer {
        Ok(answer) => word_of(answer),
        Err(error) => {
            tracing::warn!("polkit gives no answer: {}", chain(&error));
            Err(denied(refusal(&chain(&error))))
        }
    }
}

fn refusal(reason: &str) -> String {
    format!("authentication failed: polkit: {reason}")
}

/// What libvirt's clients are told in each case; some of them start a polkit agent at the second and try again.
fn word_of((authorized, challenge, details): (bool, bool, HashMap<String, String>)) -> Result<(), Denied> {
    let (code, reason) = if authorized {
        return Ok(());
    } else if details.contains_key("polkit.dismissed") {
        (ErrorCode::AUTH_CANCELLED, "authentication cancelled: user cancelled authentication process".to_owned())
    } else if challenge {
        let reason = format!("no polkit agent available to authenticate action '{ACTION}'");
        (ErrorCode::AUTH_UNAVAILABLE, format!("authentication unavailable: {reason}"))
    } else {
        (ErrorCode::AUTH_FAILED, "authentication failed: access denied by policy".to_owned())
    };
    Err(Denied { code: code.0, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_of_polkit_is_the_error_that_clients_know() {
        let word = |authorized, challenge, dismissed: bool| {
            let details = dismissed.then(|| ("polkit.dismissed".to_owned(), "true".to_owned()));
            word_of((authorized, challenge, details.into_iter().collect()))
        };
        let code = |word: Result<(), Denied>| word.unwrap_err().code;
        assert_eq!(word(true, false, false), Ok(()));
        assert_eq!(code(word(false, false, true)), 79);
        assert_eq!(code(word(false, true, false)), 94);
        assert_eq!(code(word(false, false, false)), 45);
    }
}
