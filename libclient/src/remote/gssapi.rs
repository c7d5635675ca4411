//! Logging in with a Kerberos ticket: SASL's mechanism GSSAPI (RFC 4752), by the system's Kerberos library.
//!
//! The library reads its configuration and the user's tickets by itself, and may ask the realm's servers for a ticket for
//! the daemon, which takes as long as they take. Both sides make themselves known to each other; then the daemon offers a
//! layer, and on a way that can be read along all that follows is encrypted with the ticket's key.

use libgssapi::{
    context::{ClientCtx, CtxFlags, SecurityContext},
    credential::{Cred, CredUsage},
    error::Error as GssError,
    name::Name,
    oid::{GSS_MECH_KRB5, GSS_NT_HOSTBASED_SERVICE, GSS_NT_USER_NAME, OidSet},
};
use thiserror::Error as ThisError;
use wire::{
    client::login::{Choice, Sasl, SaslError},
    layer::{
        ProtectionError, SecurityLayer,
        offer::{Offer, OfferError, Protection},
    },
};

/// The mechanism's name.
pub(super) const MECHANISM: &str = "GSSAPI";
/// Who libvirt's daemons are for Kerberos.
const SERVICE: &str = "libvirt";

/// Why nobody was let in by a ticket.
#[derive(Debug, ThisError)]
pub(super) enum GssapiError {
    /// There is none, or it has expired.
    #[error("no Kerberos ticket is at hand for {whom}")]
    NoTicket {
        whom: String,
        #[source]
        source: GssError,
    },
    /// The exchange failed: the realm does not know the daemon, or what the daemon says is wrong.
    #[error("Kerberos does not bring this client to {service}")]
    Context {
        service: String,
        #[source]
        source: GssError,
    },
    /// Whoever is there did not prove to be the daemon, or cannot protect the agreement.
    #[error("{service} was not made known beyond doubt")]
    Doubt { service: String },
    /// What protects the agreement on a layer does not hold.
    #[error("the agreement on a security layer is not protected")]
    Agreement(#[source] GssError),
    /// There is no agreement.
    #[error("there is no agreement on a security layer")]
    Offer(#[from] OfferError),
    /// Something came before the beginning or after the end.
    #[error("the exchange has not begun, or is over")]
    OutOfOrder,
}

impl GssapiError {
    /// What a person can do about it.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            GssapiError::NoTicket { .. } => Some("get one with kinit; klist shows those that are there"),
            GssapiError::Context { .. } => Some(
                "the realm must know the daemon as libvirt/HOST, with HOST as in the URI, and the daemon have the key; \
                 ?auth=sasl.MECHANISM chooses another way to log in",
            ),
            GssapiError::Offer(OfferError::NoEncryption) => {
                Some("use tls or ssh instead of tcp, or let the server's SASL encrypt")
            }
            _ => None,
        }
    }
}

/// A ticket with which others can be had.
pub(super) struct Ticket(Cred);

impl Ticket {
    /// That of a user of the own realm, or whichever Kerberos takes for the one to use.
    pub(super) fn find(user: Option<&str>) -> Result<Ticket, GssapiError> {
        let find = || {
            let name = user.map(|user| Name::new(user.as_bytes(), Some(GSS_NT_USER_NAME))).transpose()?;
            let mechanisms = OidSet::singleton(GSS_MECH_KRB5)?;
            let ticket = Cred::acquire(name.as_ref(), None, CredUsage::Initiate, Some(&mechanisms))?;
            // The library looks no earlier than somebody asks.
            ticket.lifetime()?;
            Ok(Ticket(ticket))
        };
        find().map_err(|source| GssapiError::NoTicket { whom: user.unwrap_or("this user").to_owned(), source })
    }
}

/// A client's side.
pub(super) struct Gssapi {
    service: String,
    /// Nobody can read along as it is.
    way_is_secure: bool,
    state: State,
}

enum State {
    /// Both sides make themselves known.
    Context(ClientCtx),
    /// They are; the server's offer is due.
    Known(ClientCtx),
    Agreed(Option<Layer>),
    Over,
}

impl Gssapi {
    /// With a ticket, to the daemon of a host.
    pub(super) fn new(ticket: Ticket, host: &str, way_is_secure: bool) -> Result<Gssapi, GssapiError> {
        let service = format!("{SERVICE}@{host}");
        let name = Name::new(service.as_bytes(), Some(GSS_NT_HOSTBASED_SERVICE))
            .map_err(|source| GssapiError::Context { service: service.clone(), source })?;
        // The agreement needs integrity even where no layer comes of it. Confidentiality is asked for and looked at later.
        let flags = CtxFlags::GSS_C_MUTUAL_FLAG
            | CtxFlags::GSS_C_SEQUENCE_FLAG
            | CtxFlags::GSS_C_REPLAY_FLAG
            | CtxFlags::GSS_C_INTEG_FLAG
            | CtxFlags::GSS_C_CONF_FLAG;
        let context = ClientCtx::new(Some(ticket.0), name, flags, Some(GSS_MECH_KRB5));
        Ok(Gssapi { service, way_is_secure, state: State::Context(context) })
    }

    /// Goes on with the context. What the library has nothing more to say to is answered with an empty message.
    fn go_on(&mut self, mut context: ClientCtx, token: Option<&[u8]>) -> Result<Vec<u8>, GssapiError> {
        let failed = |source| GssapiError::Context { service: self.service.clone(), source };
        let answer = context.step(token, None).map_err(failed)?;
        if context.is_complete() {
            let flags = context.flags().map_err(failed)?;
            if !flags.contains(CtxFlags::GSS_C_MUTUAL_FLAG | CtxFlags::GSS_C_INTEG_FLAG) {
                return Err(GssapiError::Doubt { service: self.service.clone() });
            }
            self.state = State::Known(context);
        } else {
            self.state = State::Context(context);
        }
        Ok(answer.map(|token| token.to_vec()).unwrap_or_default())
    }

    /// Answers the server's offer.
    fn agree(&mut self, mut context: ClientCtx, message: &[u8]) -> Result<Vec<u8>, GssapiError> {
        let offer = Offer::parse(&context.unwrap(message).map_err(GssapiError::Agreement)?)?;
        let flags = context.flags().map_err(GssapiError::Agreement)?;
        let chosen = offer.choose(self.way_is_secure, flags.contains(CtxFlags::GSS_C_CONF_FLAG))?;
        let answer = context.wrap(false, &chosen.answer()).map_err(GssapiError::Agreement)?.to_vec();
        let layer = match chosen {
            Protection::None => None,
            Protection::Layer { confidential, max_wrapped } => {
                Some(Layer { context, confidential, max_plain: chosen.max_plain(), max_wrapped })
            }
        };
        self.state = State::Agreed(layer);
        Ok(answer)
    }
}

impl Sasl for Gssapi {
    fn start(&mut self, offered: &[&str]) -> Result<Option<Choice>, SaslError> {
        if !offered.contains(&MECHANISM) {
            return Ok(None);
        }
        let State::Context(context) = std::mem::replace(&mut self.state, State::Over) else {
            return Err(GssapiError::OutOfOrder.into());
        };
        let initial = Some(self.go_on(context, None)?);
        Ok(Some(Choice { mechanism: MECHANISM.to_owned(), initial }))
    }

    fn step(&mut self, challenge: Option<&[u8]>) -> Result<Option<Vec<u8>>, SaslError> {
        let challenge = challenge.unwrap_or_default();
        match std::mem::replace(&mut self.state, State::Over) {
            State::Context(context) => Ok(Some(self.go_on(context, Some(challenge))?)),
            State::Known(context) => Ok(Some(self.agree(context, challenge)?)),
            State::Agreed(_) | State::Over => Err(GssapiError::OutOfOrder.into()),
        }
    }

    fn is_complete(&self) -> bool {
        matches!(self.state, State::Agreed(_))
    }

    fn layer(&mut self) -> Option<Box<dyn SecurityLayer>> {
        let State::Agreed(layer) = &mut self.state else { return None };
        layer.take().map(|layer| Box::new(layer) as Box<dyn SecurityLayer>)
    }
}

/// What protects the connection from now on. The library numbers what it protects, and refuses what does not come in order.
struct Layer {
    context: ClientCtx,
    confidential: bool,
    max_plain: usize,
    max_wrapped: usize,
}

impl SecurityLayer for Layer {
    fn wrap(&mut self, plain: &[u8]) -> Result<Vec<u8>, ProtectionError> {
        Ok(self.context.wrap(self.confidential, plain)?.to_vec())
    }

    fn unwrap(&mut self, wrapped: &[u8]) -> Result<Vec<u8>, ProtectionError> {
        Ok(self.context.unwrap(wrapped)?.to_vec())
    }

    fn max_plain(&self) -> usize {
        self.max_plain
    }

    fn max_wrapped(&self) -> usize {
        self.max_wrapped
    }

    fn is_confidential(&self) -> bool {
        self.confidential
    }
}
