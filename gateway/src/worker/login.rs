//! What a client must do before it is known. One that came by network: a TLS handshake, a name and a password. One of this
//! host that may not change things by the configuration: ask polkit.
//!
//! What is secret stays with the acceptor: the server's key, and what is known of the passwords. It signs, and it judges a
//! client's proof, at the one moment when that is needed, and only then does the worker wait for an answer. For polkit's it
//! does not wait, because a person may be asked first.

use std::{
    net::TcpStream,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use api::{Error, ErrorCode, ErrorDomain, remote};
use rustix::event::{PollFd, PollFlags};
use wire::{
    Header,
    sasl::{Challenge, Judge, MECHANISM, ServerExchange},
    tls::{Handshake, Progress},
};

use super::{Channel, WorkerError, poll_until, session::ClientStream};
use crate::{
    edge::{FromWorker, Login, TlsTerms, ToWorker},
    tls::{Ask, is_allowed, server_config},
};

/// A name and a password may be wrong so often.
const TRIES: u8 = 3;
/// The acceptor answers at once, or is no more.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// The channel to the acceptor, while somebody else may have to ask through it.
#[derive(Clone)]
pub struct Acceptor(Arc<Mutex<Channel<FromWorker, ToWorker>>>);

impl Acceptor {
    /// Over a channel.
    pub fn new(channel: Channel<FromWorker, ToWorker>) -> Acceptor {
        Acceptor(Arc::new(Mutex::new(channel)))
    }

    /// Uses the channel.
    pub fn with<T>(&self, work: impl FnOnce(&mut Channel<FromWorker, ToWorker>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks something and waits for the answer: nothing else is under way in a login.
    fn ask(&self, question: &FromWorker) -> Option<ToWorker> {
        self.with(|channel| {
            channel.queue(0, question, Vec::new()).ok()?;
            channel.flush().ok()?;
            let until = Instant::now() + ANSWER_PATIENCE;
            loop {
                if let Some(message) = channel.next_message().ok()? {
                    return Some(message.value);
                }
                if Instant::now() >= until {
                    return None;
                }
                poll_until(&mut [PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN)], Some(until)).ok()?;
                channel.fill().ok()?;
            }
        })
    }
}

impl Ask for Acceptor {
    fn sign(&self, scheme: u16, message: &[u8]) -> Option<Vec<u8>> {
        match self.ask(&FromWorker::Sign { scheme, message: message.to_vec() })? {
            ToWorker::Signed(signature) => signature,
            _ => None,
        }
    }
}

impl Judge for Acceptor {
    fn challenge(&self, name: &str) -> Option<Challenge> {
        match self.ask(&FromWorker::Challenge { name: name.to_owned() })? {
            ToWorker::Challenge(challenge) => challenge.map(Challenge::from),
            _ => None,
        }
    }

    fn judge(&self, _: &str, auth_message: &[u8], proof: &[u8; 32]) -> Option<[u8; 32]> {
        match self.ask(&FromWorker::Prove { message: auth_message.to_vec(), proof: *proof })? {
            ToWorker::Proved(signature) => signature,
            _ => None,
        }
    }
}

/// Takes a TLS handshake to its end. None when there is no connection, which is the client's affair.
///
/// # Errors
/// When this process cannot go on.
pub fn handshake(
    terms: &TlsTerms,
    acceptor: &Acceptor,
    socket: OwnedFd,
    until: Instant,
) -> Result<Option<ClientStream>, WorkerError> {
    let config = server_config(terms, Arc::new(acceptor.clone())).map_err(|error| WorkerError::Tls(error.into()))?;
    let mut handshake =
        Handshake::server(config, TcpStream::from(socket)).map_err(|error| WorkerError::Tls(error.into()))?;
    loop {
        let flags = match handshake.advance() {
            Ok(Progress::Done) => break,
            Ok(Progress::Read) => PollFlags::IN,
            Ok(Progress::ReadOrWrite) => PollFlags::IN | PollFlags::OUT,
            Err(error) => {
                tracing::info!("{}", crate::chain(&error));
                return Ok(None);
            }
        };
        if Instant::now() >= until {
            tracing::info!("the TLS handshake takes too long");
            return Ok(None);
        }
        let gone = acceptor.with(|channel| {
            let mut sources = [
                PollFd::from_borrowed_fd(handshake.as_fd(), flags),
                PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::empty()),
            ];
            poll_until(&mut sources, Some(until))?;
            Ok::<_, WorkerError>(sources.get(1).is_some_and(|channel| !channel.revents().is_empty()))
        })?;
        if gone {
            return Err(WorkerError::Acceptor(ipc::ConnError::Closed));
        }
    }
    let name = handshake.peer_name().ok().flatten();
    if !terms.anybody && !name.as_deref().is_some_and(|name| is_allowed(&terms.allowed_names, name)) {
        tracing::info!("its certificate's name {name:?} is not among tls_allowed_names");
        return Ok(None);
    }
    tracing::info!("TLS, certificate of {}", name.as_deref().unwrap_or("nobody"));
    match handshake.accept() {
        Ok(tls) => Ok(Some(Box::new(tls))),
        Err(error) => {
            tracing::info!("{}", crate::chain(&error));
            Ok(None)
        }
    }
}

/// How a client logs in.
pub enum LoginState {
    /// It need not.
    Done,
    /// By name and password.
    Sasl {
        /// Where passwords are known.
        judge: Acceptor,
        /// What has begun.
        exchange: Option<Box<ServerExchange>>,
        /// How often it may still begin.
        tries: u8,
    },
    /// By polkit's word, which is asked for once: who wants to hear it again connects again.
    Polkit(Word),
}

/// How far polkit's word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Nobody has asked for it.
    Unasked,
    /// This call waits for it.
    Asked(Header),
    /// It is no.
    No,
}

fn refused() -> Error {
    Error::new(ErrorCode::AUTH_FAILED, ErrorDomain::RPC, "authentication failed")
}

impl LoginState {
    /// The login that a door asks for.
    pub fn new(login: Login, acceptor: &Acceptor) -> LoginState {
        match login {
            Login::None => LoginState::Done,
            Login::Polkit => LoginState::Polkit(Word::Unasked),
            Login::Sasl => LoginState::Sasl { judge: acceptor.clone(), exchange: None, tries: TRIES },
        }
    }

    /// What AUTH_LIST answers.
    pub fn kind(&self) -> remote::AuthType {
        match self {
            LoginState::Done => remote::AuthType::NONE,
            LoginState::Sasl { .. } => remote::AuthType::SASL,
            LoginState::Polkit(_) => remote::AuthType::POLKIT,
        }
    }

    /// Has the client failed as often as it may?
    pub fn is_failed(&self) -> bool {
        matches!(self, LoginState::Sasl { tries: 0, exchange: None, .. } | LoginState::Polkit(Word::No))
    }

    /// AUTH_POLKIT: notes the call, which is answered when polkit has spoken.
    ///
    /// # Errors
    /// When there is nothing to ask, or it is being asked already.
    pub fn ask_polkit(&mut self, header: Header) -> Result<(), Error> {
        let LoginState::Polkit(word @ Word::Unasked) = self else { return Err(refused()) };
        *word = Word::Asked(header);
        Ok(())
    }

    /// Takes polkit's word, and gives back the call that waits for it.
    pub fn take_word(&mut self, yes: bool) -> Option<Header> {
        let LoginState::Polkit(Word::Asked(header)) = *self else { return None };
        *self = if yes { LoginState::Done } else { LoginState::Polkit(Word::No) };
        Some(header)
    }

    /// AUTH_SASL_INIT.
    pub fn mechanisms(&self) -> Result<remote::AuthSaslInitRet, Error> {
        match self {
            LoginState::Done | LoginState::Polkit(_) => Err(refused()),
            LoginState::Sasl { .. } => Ok(remote::AuthSaslInitRet { mechlist: MECHANISM.to_owned() }),
        }
    }

    /// AUTH_SASL_START.
    pub fn start(&mut self, args: &remote::AuthSaslStartArgs) -> Result<remote::AuthSaslStartRet, Error> {
        let LoginState::Sasl { judge, exchange, tries } = self else { return Err(refused()) };
        *tries = tries.checked_sub(1).ok_or_else(refused)?;
        let begun = exchange.insert(Box::new(ServerExchange::new(Arc::new(judge.clone()))));
        begun.start(args).inspect_err(|_| *exchange = None)
    }

    /// AUTH_SASL_STEP. With the answer comes the client's name, when it is known now.
    pub fn step(
        &mut self,
        args: &remote::AuthSaslStepArgs,
    ) -> Result<(remote::AuthSaslStepRet, Option<String>), Error> {
        let LoginState::Sasl { exchange, .. } = self else { return Err(refused()) };
        // A failed exchange is over, and so is one that has come to its end.
        let mut begun = exchange.take().ok_or_else(refused)?;
        let answer = begun.step(args)?;
        let name = begun.name().map(str::to_owned);
        if name.is_some() {
            *self = LoginState::Done;
        }
        Ok((answer, name))
    }
}
