//! The login: the first thing that a client does.

use std::time::Duration;

use api::{Call, Operation, remote};
use thiserror::Error;

use super::{CallError, Client, lock};
use crate::{conn::WireError, layer::SecurityLayer};

/// How the server let this client in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The server asks nobody, or knows the peer already.
    None,
    /// By SASL.
    Sasl,
    /// By polkit on the server's host.
    Polkit,
}

/// The mechanism that a client chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its name, as the server offered it.
    pub mechanism: String,
    /// What goes with the choice. Nothing and an empty response differ.
    pub initial: Option<Vec<u8>>,
}

/// A SASL mechanism, as a client runs it.
pub trait Sasl {
    /// Chooses a mechanism among those that the server offers; `None` if it has none of them.
    ///
    /// # Errors
    /// What the mechanism says.
    fn start(&mut self, offered: &[&str]) -> Result<Option<Choice>, SaslError>;

    /// Answers a challenge, or takes the last word of the server.
    ///
    /// # Errors
    /// What the mechanism says, also when the server did not prove that it knows the secret.
    fn step(&mut self, challenge: Option<&[u8]>) -> Result<Option<Vec<u8>>, SaslError>;

    /// Has the mechanism seen all that it needs, the server's proof included?
    fn is_complete(&self) -> bool;

    /// What protects all that follows, if the mechanism has negotiated that. It is asked once, when the login is complete.
    fn layer(&mut self) -> Option<Box<dyn SecurityLayer>> {
        None
    }
}

/// What a SASL mechanism says.
pub type SaslError = Box<dyn std::error::Error + Send + Sync>;

/// Why a client was not let in.
#[derive(Debug, Error)]
pub enum LoginError {
    /// A call of the login failed.
    #[error("the server refuses the login")]
    Call(#[from] CallError),
    /// The server wants something that this client cannot do.
    #[error("the server offers no way to log in that is known here (it offers {0:?})")]
    NoMethod(Vec<i32>),
    /// The server wants SASL, and the caller gave nothing to do it with.
    #[error("the server wants a name and a password")]
    NoCredentials,
    /// The server has no mechanism that this client has.
    #[error("the server offers no SASL mechanism that is known here (it offers {0:?})")]
    NoMechanism(String),
    /// The mechanism failed.
    #[error("the SASL exchange failed")]
    Sasl(#[source] SaslError),
    /// The server says that the exchange is complete before it has proved itself.
    #[error("the server ended the SASL exchange without its proof")]
    Unproven,
    /// The exchange does not end.
    #[error("the SASL exchange does not end")]
    Endless,
}

/// No mechanism takes as many steps.
const MAX_STEPS: usize = 16;

impl Client {
    /// Logs in, as the server asks for it. Each answer may take `patience`.
    ///
    /// # Errors
    /// Why the server did not let this client in.
    pub fn login(&self, sasl: Option<&mut dyn Sasl>, patience: Duration) -> Result<Method, LoginError> {
        let offered = self.ask(remote::AuthListArgs, patience)?.types;
        // A server offers one; of several the first that this client knows is taken.
        for method in &offered {
            match *method {
                remote::AuthType::NONE => return Ok(Method::None),
                remote::AuthType::SASL => {
                    self.login_sasl(sasl.ok_or(LoginError::NoCredentials)?, patience)?;
                    return Ok(Method::Sasl);
                }
                remote::AuthType::POLKIT => {
                    self.ask(remote::AuthPolkitArgs, patience)?;
                    return Ok(Method::Polkit);
                }
                _ => {}
            }
        }
        if offered.is_empty() {
            return Ok(Method::None);
        }
        Err(LoginError::NoMethod(offered.iter().map(|method| method.0).collect()))
    }

    fn login_sasl(&self, sasl: &mut dyn Sasl, patience: Duration) -> Result<(), LoginError> {
        lock(&self.inner.state).at_login = true;
        let exchanged = self.exchange(sasl, patience);
        let protected = exchanged.and_then(|()| self.protect(sasl.layer()).map_err(|error| self.lost_at_login(error)));
        lock(&self.inner.state).at_login = false;
        protected?;
        // What came behind the last reply was left for the layer, and no poll would tell of it.
        self.inner.pump().map_err(|error| self.lost_at_login(error))?;
        Ok(())
    }

    /// The server says its last word of the login in clear, and nothing after it.
    fn protect(&self, layer: Option<Box<dyn SecurityLayer>>) -> Result<(), WireError> {
        layer.map_or(Ok(()), |layer| lock(&self.inner.conn).engage(layer))
    }

    fn lost_at_login(&self, error: WireError) -> LoginError {
        LoginError::Call(CallError::Lost(self.inner.lose(error)))
    }

    fn exchange(&self, sasl: &mut dyn Sasl, patience: Duration) -> Result<(), LoginError> {
        let offered = self.ask(remote::AuthSaslInitArgs, patience)?.mechlist;
        let names: Vec<&str> = offered.split([' ', ',']).filter(|name| !name.is_empty()).collect();
        let begun = sasl.start(&names).map_err(LoginError::Sasl)?;
        let Some(choice) = begun else { return Err(LoginError::NoMechanism(offered)) };
        let (nil, data) = to_wire(choice.initial);
        let mech = choice.mechanism;
        let answer = self.ask(remote::AuthSaslStartArgs { mech, nil, data }, patience)?;
        let (mut complete, mut challenge) = (answer.complete != 0, from_wire(answer.nil, &answer.data));
        for _ in 0..MAX_STEPS {
            let mut response = None;
            if !sasl.is_complete() {
                response = sasl.step(challenge.as_deref()).map_err(LoginError::Sasl)?;
            }
            if complete {
                return if sasl.is_complete() { Ok(()) } else { Err(LoginError::Unproven) };
            }
            let (nil, data) = to_wire(response);
            let answer = self.ask(remote::AuthSaslStepArgs { nil, data }, patience)?;
            (complete, challenge) = (answer.complete != 0, from_wire(answer.nil, &answer.data));
        }
        Err(LoginError::Endless)
    }

    fn ask<A: Operation>(&self, args: A, patience: Duration) -> Result<A::Ret, LoginError> {
        let call: Call = args.into_call();
        let (reply, _) = self.call_within(&call, Vec::new(), patience)?;
        let op = call.op();
        A::ret_of(reply).ok_or_else(|| {
            let source = api::xdr::XdrError::UnknownArm { union: "Reply", found: op.info().procedure.cast_signed() };
            LoginError::Call(CallError::Answer { op, source })
        })
    }
}

/// Nothing and an empty text differ.
pub(crate) fn to_wire(data: Option<Vec<u8>>) -> (i32, Vec<i8>) {
    let nil = i32::from(data.is_none());
    (nil, data.unwrap_or_default().into_iter().map(u8::cast_signed).collect())
}

/// The other way.
pub(crate) fn from_wire(nil: i32, data: &[i8]) -> Option<Vec<u8>> {
    (nil == 0).then(|| data.iter().map(|char| char.cast_unsigned()).collect())
}
