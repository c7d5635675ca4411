//! # worker: one client at a time
//!
//! Where strangers' bytes are read, and so the process of the house with the least: no capability, a uid without rights, no
//! file within its reach, and a filter that allows it to use the descriptors that it was handed and nothing else. The
//! connection to its driver's daemon is handed to it as well, with its client's rights already decided.
//!
//! One thread around one poll. [`session`] has the rules of the protocol; here is the process around it.

mod events;
mod link;
mod login;
mod refuse;
pub mod session;
mod streams;

use std::{
    io,
    net::TcpStream,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Instant,
};

use api::look::Look;
use ipc::{ConnError, edge};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sandbox::landlock::{self, Rules};
use thiserror::Error;
use wire::transport::{Plain, Unix};

use self::{
    link::Kept,
    login::{Acceptor, LoginState},
    refuse::Refuser,
    session::{ClientStream, Over, Session},
};
use crate::{
    chain,
    edge::{Client, FromWorker, ToWorker, Way, fds},
};

type Channel<Out, In> = edge::Channel<Out, In>;

/// Why a worker ends before it is told to.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The launcher did not hand over what it should.
    #[error("a worker is started by the gateway's launcher, not by hand")]
    Inherited(#[from] sandbox::fd::InheritError),
    /// The acceptor is gone or broke the protocol.
    #[error("the connection to the acceptor is lost")]
    Acceptor(#[source] ConnError),
    /// The acceptor said what this worker cannot do now.
    #[error("the acceptor asked for what this worker cannot do now")]
    Nonsense,
    /// The acceptor's terms for TLS cannot be used.
    #[error("TLS cannot be offered")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The worker could not give up its power.
    #[error("cannot give up power")]
    Sandbox(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The poll failed.
    #[error("the event loop failed")]
    Poll(#[source] io::Error),
}

/// Runs the worker until the acceptor lets it go.
///
/// # Errors
/// When it cannot start, or the acceptor breaks the protocol.
pub fn run() -> Result<(), WorkerError> {
    let socket = sandbox::fd::inherited_fd(fds::CHANNEL)?;
    let sandboxed = |error: Box<dyn std::error::Error + Send + Sync>| WorkerError::Sandbox(error);
    landlock::restrict(&Rules::default()).map_err(|e| sandboxed(e.into()))?;
    sandbox::policy::Role::GatewayWorker.install().map_err(|e| sandboxed(e.into()))?;
    match Worker::new(UnixStream::from(socket)).and_then(|mut worker| worker.run()) {
        Err(WorkerError::Acceptor(ConnError::Closed)) => Ok(()),
        other => other,
    }
}

struct Worker {
    acceptor: Acceptor,
    /// What the last client's session left for the next one's.
    kept: Option<Kept>,
    /// The next call, and its answer, may be due at once.
    look: Look,
}

impl Worker {
    fn new(socket: UnixStream) -> Result<Worker, WorkerError> {
        socket.set_nonblocking(true).map_err(WorkerError::Poll)?;
        let worker = Worker { acceptor: Acceptor::new(Channel::new(socket)), kept: None, look: Look::default() };
        worker.say(&FromWorker::Ready)?;
        Ok(worker)
    }

    fn say(&self, word: &FromWorker) -> Result<(), WorkerError> {
        self.acceptor.with(|channel| {
            channel.queue(0, word, Vec::new()).map_err(WorkerError::Acceptor)?;
            channel.flush().map(drop).map_err(WorkerError::Acceptor)
        })
    }

    /// One client after the other.
    fn run(&mut self) -> Result<(), WorkerError> {
        loop {
            let (message, fds) = self.next_duty()?;
            match (message, only(fds)) {
                (ToWorker::Serve(client), Some(socket)) => {
                    if !self.serve(&client, socket)? {
                        // A client that broke the rules may have more in mind: this process serves nobody else.
                        return Ok(());
                    }
                    self.say(&FromWorker::Finished)?;
                }
                (ToWorker::Refuse { peer, code, reason }, Some(socket)) => {
                    let mut refuser = Refuser::default();
                    refuser.add(socket.into(), peer, code, reason);
                    return self.acceptor.with(|channel| refuser.run(channel));
                }
                // What the last client has not waited for.
                (ToWorker::Dialed | ToWorker::NotDialed { .. } | ToWorker::Authorized(_), _) => {}
                _ => return Err(WorkerError::Nonsense),
            }
        }
    }

    /// Waits for something to do, and lets go of a kept connection that ends meanwhile.
    fn next_duty(&mut self) -> Result<(ToWorker, Vec<OwnedFd>), WorkerError> {
        let kept = &mut self.kept;
        self.acceptor.with(|channel| {
            loop {
                if let Some(message) = channel.next_message().map_err(WorkerError::Acceptor)? {
                    return Ok((message.value, message.fds));
                }
                let spoke = {
                    let mut sources = vec![PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN)];
                    sources.extend(kept.as_ref().map(|kept| PollFd::from_borrowed_fd(kept.fd(), PollFlags::IN)));
                    poll_until(&mut sources, None)?;
                    sources.get(1).is_some_and(|source| !source.revents().is_empty())
                };
                if spoke {
                    *kept = None;
                }
                channel.fill().map_err(WorkerError::Acceptor)?;
            }
        })
    }

    /// Serves one client. True when it has left in good order.
    #[tracing::instrument(name = "client", skip_all, fields(peer = %client.peer))]
    fn serve(&mut self, client: &Client, socket: OwnedFd) -> Result<bool, WorkerError> {
        let Some((transport, login)) = self.transport(client, socket)? else { return Ok(false) };
        let mut session = Session::new(client, transport, login, self.kept.take(), Instant::now());
        let over = loop {
            if let Err(over) = session.work(Instant::now()) {
                break over;
            }
            if session.take_known() {
                self.say(&FromWorker::Known)?;
                continue;
            }
            if let Some(dial) = session.take_dial() {
                self.say(&FromWorker::Dial(dial))?;
                continue;
            }
            if session.take_question() {
                self.say(&FromWorker::Authorize)?;
            }
            self.wait(&mut session)?;
        };
        if let Over::Broken(error) = &over {
            tracing::info!("{}", chain(&**error));
        }
        self.kept = session.end(&over);
        Ok(matches!(over, Over::Left))
    }

    /// The byte stream to a client and how it logs in; none when there is none, which is the client's affair.
    fn transport(&self, client: &Client, socket: OwnedFd) -> Result<Option<(ClientStream, LoginState)>, WorkerError> {
        Ok(match &client.way {
            Way::Unix(login) => Some((Box::new(Unix::new(socket.into())), LoginState::new(*login, &self.acceptor))),
            Way::Tcp(login) => {
                let plain = Plain::new(TcpStream::from(socket));
                Some((Box::new(plain), LoginState::new(*login, &self.acceptor)))
            }
            Way::Tls(login, terms) => {
                let until = Instant::now() + client.patience;
                let tls = login::handshake(terms, &self.acceptor, socket, until)?;
                tls.map(|tls| (tls, LoginState::new(*login, &self.acceptor)))
            }
        })
    }

    /// Waits until the session has something to do, and tells it what.
    fn wait(&mut self, session: &mut Session) -> Result<(), WorkerError> {
        let look = &self.look;
        let ready = self.acceptor.with(|channel| {
            let mut sources = vec![PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN)];
            session.sources(&mut sources);
            let soon = || poll(&mut sources, Some(&Timespec::default())).map(|ready| (ready > 0).then_some(()));
            if !matches!(look.look(soon), Ok(Some(()))) {
                poll_until(&mut sources, session.deadline())?;
            }
            Ok::<_, WorkerError>(sources.iter().map(PollFd::revents).collect::<Vec<_>>())
        })?;
        let (channel, rest) = ready.split_first().ok_or(WorkerError::Nonsense)?;
        // What the poll told is of the sources as they were: it goes first.
        session.ready(rest, Instant::now());
        if !channel.is_empty() {
            self.acceptor.with(|channel| hear(channel, session))?;
        }
        Ok(())
    }
}

/// Takes the acceptor's answers.
fn hear(channel: &mut Channel<FromWorker, ToWorker>, session: &mut Session) -> Result<(), WorkerError> {
    channel.fill().map_err(WorkerError::Acceptor)?;
    while let Some(message) = channel.next_message().map_err(WorkerError::Acceptor)? {
        match (message.value, only(message.fds)) {
            (ToWorker::Dialed, Some(socket)) => session.dialed(Ok(socket.into())),
            (ToWorker::NotDialed { code, reason, hint }, None) => {
                let code = api::ErrorCode(code);
                let mut error = api::Error::new(code, api::ErrorDomain::RPC, reason);
                error.hint = hint;
                session.dialed(Err(error));
            }
            (ToWorker::Authorized(word), None) => session.authorized(word),
            _ => return Err(WorkerError::Nonsense),
        }
    }
    Ok(())
}

/// The descriptor, when exactly one came.
fn only(mut fds: Vec<OwnedFd>) -> Option<OwnedFd> {
    let one = fds.pop();
    if fds.is_empty() { one } else { None }
}

/// Waits for one of the sources, or for a moment.
fn poll_until(sources: &mut [PollFd<'_>], until: Option<Instant>) -> Result<(), WorkerError> {
    let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
    let timeout = timeout.map(|left| Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    });
    match poll(sources, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(WorkerError::Poll(error.into())),
    }
}
