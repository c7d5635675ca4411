//! The remote driver: libvirt's protocol to a daemon here or on another host, libvirt's own or Bulkhead's gateway.
//!
//! A call of the table goes over as it is. What only Bulkhead's daemons have (program `bulkhead`) is asked first and, where
//! the far side does not know it, made of libvirt's calls (`fallback`). Events and consoles have connections of their
//! own, so that a slow reader delays no call.

mod address;
mod console;
mod credentials;
mod dial;
mod events;
mod fallback;
#[cfg(feature = "gssapi")]
mod gssapi;
mod helper;
mod pki;
mod ssh;

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use api::{Call, Error, ErrorCode, ErrorDomain, Op, Operation, Reply, bulkhead, remote};
use wire::client::{CallError, Client, WeakClient, login::LoginError};

use crate::{
    ConsoleStream, Result, error,
    link::{EventSource, Link, Security, open_console},
    wait,
};
pub(crate) use address::Address;
pub(crate) use console::StreamConsole;
pub(crate) use credentials::Ask;
pub use credentials::Question;
use credentials::{Credentials, Login};
pub use dial::local_socket;
use helper::Said;

/// What a daemon answers to a call that its program does not have; libvirt does not translate this one.
const NO_PROCEDURE: &str = "unknown procedure";
/// A host behind a network can vanish without a word, so it is asked for a sign of life even if the program does not say so.
const KEEPALIVE: (Duration, u32) = (wire::keepalive::INTERVAL, wire::keepalive::COUNT);
/// The codes of errors that refuse somebody.
const AUTH_REFUSED: [ErrorCode; 3] = [ErrorCode::AUTH_FAILED, ErrorCode::AUTH_CANCELLED, ErrorCode::AUTH_UNAVAILABLE];
/// How long a daemon may take to open its hypervisor or to begin with events.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);
/// How long a daemon may take to let somebody in: a person may be asked there.
const LOGIN_PATIENCE: Duration = Duration::from_secs(120);
/// How long a daemon may take to say good-bye.
const LEAVE_PATIENCE: Duration = Duration::from_millis(500);

/// A lock whose holder panicked is taken all the same: every critical section here leaves the state whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who is asked for a name or a password.
#[derive(Clone)]
pub(crate) enum Asking {
    /// Nobody, nor by a program between.
    Nobody,
    /// Who sits at the terminal, by a program between: ssh.
    Terminal,
    /// The program, and the terminal.
    Program(Ask),
}

/// Where to connect to, and how.
pub(crate) struct Dialer {
    address: Address,
    read_only: bool,
    /// Nobody may be asked for a password.
    unattended: bool,
    credentials: Credentials,
    /// How often the far side is asked for a sign of life.
    keepalive: Mutex<Option<(Duration, u32)>>,
    /// Every connection that is open.
    clients: Mutex<Vec<WeakClient>>,
    /// A daemon of ours has answered here.
    was_ours: Arc<AtomicBool>,
}

impl Dialer {
    pub(crate) fn new(address: Address, read_only: bool, asking: Asking) -> Dialer {
        let unattended = matches!(asking, Asking::Nobody);
        let ask = if let Asking::Program(ask) = asking { Some(ask) } else { None };
        // On this host the kernel tells.
        let keepalive = (!address.is_local()).then_some(KEEPALIVE);
        Dialer {
            address,
            read_only,
            unattended,
            credentials: Credentials::new(ask),
            keepalive: Mutex::new(keepalive),
            clients: Mutex::default(),
            was_ours: Arc::default(),
        }
    }

    /// From now on asks the far side for a sign of life so often, on every connection to it.
    fn set_keepalive(&self, watch: Option<(Duration, u32)>) {
        *lock(&self.keepalive) = watch;
        for client in lock(&self.clients).iter().filter_map(WeakClient::upgrade) {
            client.set_keepalive(watch);
        }
    }

    /// Connects, logs in and opens the hypervisor.
    fn dial(&self) -> Result<Session> {
        self.dial_as(self.unattended)
    }

    /// As [`Dialer::dial`], without asking anybody who sits at the terminal.
    fn redial(&self) -> Result<Session> {
        self.dial_as(true)
    }

    fn dial_as(&self, unattended: bool) -> Result<Session> {
        let stream = dial::dial(&self.address, self.read_only, unattended)?;
        let place = stream.place;
        let client = Client::new(stream.transport).map_err(|source| {
            Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, format!("failed to connect to {place}"))
                .with_cause(source)
        })?;
        let mut session = Session {
            client,
            place,
            said: stream.said,
            kind: AtomicU8::new(UNKNOWN),
            was_ours: Arc::clone(&self.was_ours),
            open: false,
        };
        let mut login = Login::new(&self.credentials, &self.address, session.client.is_secure());
        session.client.login(Some(&mut login), LOGIN_PATIENCE).map_err(|failure| {
            if is_wrong(&failure) {
                self.credentials.forget();
            }
            session.no_login(failure)
        })?;
        {
            let mut clients = lock(&self.clients);
            clients.retain(|client| client.upgrade().is_some());
            clients.push(session.client.downgrade());
        }
        session.client.set_keepalive(*lock(&self.keepalive));
        let name = Some(self.address.name.clone()).filter(|name| !name.is_empty());
        session.ask_within(remote::ConnectOpenArgs { name, flags: self.read_only.into() }, OPEN_PATIENCE)?;
        session.open = true;
        Ok(session)
    }
}

/// Whether a failure says that name or password are wrong: a daemon that has gone away or is too busy does not.
fn is_wrong(failure: &LoginError) -> bool {
    match failure {
        LoginError::Call(CallError::Failed(reason)) => AUTH_REFUSED.contains(&reason.code),
        LoginError::Call(_) => false,
        _ => true,
    }
}

/// Whether the far side has the program `bulkhead`.
const UNKNOWN: u8 = 0;
const OURS: u8 = 1;
const FOREIGN: u8 = 2;

/// One connection whose hypervisor is open.
#[derive(Debug)]
struct Session {
    client: Client,
    place: String,
    said: Option<Said>,
    kind: AtomicU8,
    /// A daemon of ours has answered there before, on this connection or another one.
    was_ours: Arc<AtomicBool>,
    open: bool,
}

impl Drop for Session {
    /// Logs out: libvirt's daemon logs a complaint about clients that don't.
    fn drop(&mut self) {
        if self.open && self.client.lost().is_none() {
            let call = remote::ConnectCloseArgs {}.into_call();
            // The connection ends either way.
            let _ = self.client.call_within(&call, Vec::new(), LEAVE_PATIENCE);
        }
    }
}

impl Session {
    fn call(&self, call: &Call, fds: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>)> {
        self.client.call(call, fds).map_err(|failure| self.no_answer(failure, call.op()))
    }

    fn ask<O: Operation>(&self, args: O) -> Result<O::Ret> {
        let (reply, _) = self.call(&args.into_call(), Vec::new())?;
        O::ret_of(reply).ok_or_else(|| error::strange_answer(O::OP, "it is of another call"))
    }

    /// As [`Session::ask`], but not for ever.
    fn ask_within<O: Operation>(&self, args: O, patience: Duration) -> Result<O::Ret> {
        let answer = self.client.call_within(&args.into_call(), Vec::new(), patience);
        let (reply, _) = answer.map_err(|failure| self.no_answer(failure, O::OP))?;
        O::ret_of(reply).ok_or_else(|| error::strange_answer(O::OP, "it is of another call"))
    }

    /// Asks the far side whether it is Bulkhead's, once.
    fn is_ours(&self) -> Result<bool> {
        match self.kind.load(Ordering::Relaxed) {
            OURS => Ok(true),
            FOREIGN => Ok(false),
            // A question that changes nothing: no event flows on this connection.
            _ => match self.call(&bulkhead::EventsUnsubscribeArgs {}.into_call(), Vec::new()) {
                Ok(_) => Ok(self.found(OURS)),
                Err(error) if self.is_foreign(&error) => {
                    Ok(self.found(if is_final(&error) { FOREIGN } else { UNKNOWN }))
                }
                Err(error) => Err(error),
            },
        }
    }

    fn found(&self, kind: u8) -> bool {
        self.kind.store(kind, Ordering::Relaxed);
        if kind == OURS {
            self.was_ours.store(true, Ordering::Relaxed);
        }
        kind == OURS
    }

    /// What the far side answers itself.
    fn forward(&self, call: &Call, fds: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>)> {
        let answer = self.call(call, fds);
        // Events come where they are listened to; who registers for them by hand on this connection gets none.
        let _ = self.client.take_events();
        answer
    }

    /// A call of Bulkhead's own program, made of libvirt's calls where the far side does not have it.
    fn forward_own(&self, call: &Call, fds: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>)> {
        if matches!(call, Call::BulkheadEventsSubscribe(_)) {
            return Err(Error::new(
                ErrorCode::OPERATION_INVALID,
                ErrorDomain::RPC,
                "Requested operation is not valid: this connection's events do not come by themselves",
            )
            .with_hint("use Connection::subscribe"));
        }
        if self.kind.load(Ordering::Relaxed) == FOREIGN {
            return fallback::answer(self, call);
        }
        match self.forward(call, fds) {
            Err(error) if self.is_foreign(&error) => {
                // A daemon of ours may lack one call of the program.
                if error.code == ErrorCode::RPC && is_final(&error) {
                    self.found(FOREIGN);
                }
                fallback::answer(self, call)
            }
            answer => {
                if answer.is_ok() {
                    self.found(OURS);
                }
                answer
            }
        }
    }

    /// Whether the answer to a call of the program `bulkhead` says that the far side has no such program or call. Its words
    /// are in the language of that host; what its server says by itself has this code and domain, and none of this side's
    /// causes. A daemon of ours says other things that way too, that it has lost its qemud for one.
    fn is_foreign(&self, error: &Error) -> bool {
        let by_its_server = error.code == ErrorCode::RPC && error.domain == ErrorDomain::RPC && error.causes.is_empty();
        if !by_its_server || self.client.lost().is_some() {
            return error.code == ErrorCode::NO_SUPPORT;
        }
        is_final(error) || error.message.starts_with(NO_PROCEDURE) || !self.was_ours.load(Ordering::Relaxed)
    }

    fn no_answer(&self, failure: CallError, op: Op) -> Error {
        let api = op.info().api;
        let new = |code, message: String| Error::new(code, ErrorDomain::RPC, message);
        match failure {
            CallError::Failed(reason) => reason,
            CallError::Lost(source) => self
                .quoted(
                    new(ErrorCode::RPC, format!("the connection to {} was lost during {api}", self.place))
                        .with_cause(source),
                )
                .with_hint("whether it took effect is not known; the next call connects again"),
            CallError::Silent(_) => {
                new(ErrorCode::OPERATION_TIMEOUT, format!("{} does not answer {api}", self.place)).with_cause(failure)
            }
            CallError::Answer { source, .. } => new(ErrorCode::RPC, format!("unexpected reply to {api}"))
                .with_cause(source)
                .with_hint(format!("check that {} speaks libvirt's protocol", self.place)),
            CallError::Send(source) => new(ErrorCode::RPC, format!("{api} cannot be sent")).with_cause(source),
            CallError::NoStream(_) | CallError::NotWritable => {
                new(ErrorCode::RPC, format!("{api} cannot be sent")).with_cause(failure)
            }
        }
    }

    fn no_login(&self, failure: LoginError) -> Error {
        let message = format!("failed to connect to {}", self.place);
        let new = |code| Error::new(code, ErrorDomain::RPC, message.clone());
        match failure {
            LoginError::Call(CallError::Failed(reason)) => reason,
            LoginError::Call(CallError::Lost(source)) => {
                self.quoted(new(ErrorCode::RPC).with_cause(source)).with_hint(self.login_hint())
            }
            LoginError::Call(other) => new(ErrorCode::RPC).with_cause(other).with_hint(self.login_hint()),
            LoginError::Sasl(source) => {
                let hint = credentials::hint(&source);
                let error = new(ErrorCode::AUTH_FAILED).with_cause(LoginError::Sasl(source));
                hint.into_iter().fold(error, Error::with_hint)
            }
            other => new(ErrorCode::AUTH_FAILED).with_cause(other),
        }
    }

    fn login_hint(&self) -> &'static str {
        match self.said {
            Some(_) => "does the same way work by hand, and does libvirtd or Bulkhead's gateway run at its end?",
            None => "is it libvirtd or Bulkhead's gateway that listens there? its log says more",
        }
    }

    /// With what the program between says.
    fn quoted(&self, error: Error) -> Error {
        let lines = self.said.as_ref().map(Said::lines).unwrap_or_default();
        lines.into_iter().fold(error, Error::with_cause_text)
    }
}

/// Whether an error says for good that the far side is not Bulkhead's. In whatever language, what libvirt says of a program
/// that it does not have names the number.
fn is_final(error: &Error) -> bool {
    error.code == ErrorCode::NO_SUPPORT || error.message.contains(&bulkhead::PROGRAM.to_string())
}

/// A connection that is made again when it was lost: the call that was under way fails, the next one dials.
pub(crate) struct RemoteLink {
    dialer: Arc<Dialer>,
    session: Mutex<Option<Arc<Session>>>,
}

impl RemoteLink {
    /// Connects.
    pub(crate) fn open(dialer: Dialer) -> Result<RemoteLink> {
        let session = dialer.dial()?;
        Ok(RemoteLink { dialer: Arc::new(dialer), session: Mutex::new(Some(Arc::new(session))) })
    }

    fn session(&self) -> Result<Arc<Session>> {
        let mut current = lock(&self.session);
        // A daemon that went away between two calls has not seen the next one, so that one need not fail.
        let alive = |session: &&Arc<Session>| session.client.lost().is_none() && !wait::peer_gone(&session.client);
        if let Some(session) = current.as_ref().filter(alive) {
            return Ok(Arc::clone(session));
        }
        *current = None;
        // Whoever sat at the terminal once may have left it.
        let session = Arc::new(self.dialer.redial()?);
        *current = Some(Arc::clone(&session));
        Ok(session)
    }
}

impl Link for RemoteLink {
    fn call(&self, call: Call, fds: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>)> {
        // The URI is what was asked for, with the way: the far side knows only its own end. Who left the choice to the
        // far side asks it.
        if matches!(call, Call::ConnectGetUri(_)) && !self.dialer.address.name.is_empty() {
            let uri = self.dialer.address.uri.clone();
            return Ok((Reply::ConnectGetUri(remote::ConnectGetUriRet { uri }), Vec::new()));
        }
        if call.op().info().stream.is_some() {
            // Its packets would come and nobody would ever end it.
            let text = format!("{} begins a stream, which this call does not carry", call.op().info().api);
            let error = Error::new(ErrorCode::OPERATION_UNSUPPORTED, ErrorDomain::RPC, text);
            return Err(error.with_hint("a console is opened by Domain::open_console"));
        }
        let session = self.session()?;
        if call.op().info().program == bulkhead::PROGRAM {
            session.forward_own(&call, fds)
        } else {
            session.forward(&call, fds)
        }
    }

    fn events(&self, since: Option<u64>) -> Result<Box<dyn EventSource>> {
        events::RemoteEvents::begin(&self.dialer, since).map(|events| Box::new(events) as Box<dyn EventSource>)
    }

    /// Only to a daemon of ours on this host: nobody else takes descriptors for a guest's files.
    fn takes_files(&self) -> bool {
        self.session().is_ok_and(|session| session.client.passes_fds() && session.is_ours().unwrap_or(false))
    }

    fn console(&self, args: bulkhead::DomainOpenConsoleArgs) -> Result<ConsoleStream> {
        if self.takes_files() {
            return open_console(self, args);
        }
        let session = self.dialer.dial()?;
        console::open(session, args)
    }

    fn security(&self) -> Result<Security> {
        let session = self.session()?;
        Ok(Security { secure: session.client.is_secure(), encrypted: session.client.is_encrypted() })
    }

    fn set_keepalive(&self, watch: Option<(Duration, u32)>) -> Result<()> {
        self.dialer.set_keepalive(watch);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
