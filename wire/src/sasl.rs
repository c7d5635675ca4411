//! SCRAM-SHA-256 (RFC 5802 and 7677), for the login of either side.
//!
//! The password does not travel and the server does not store it: a server holds a [`Verifier`], from which nobody can log
//! in, and both sides prove to each other that they know what belongs to it. It protects the login and nothing after it: it
//! negotiates no layer, so on plain TCP every later byte is readable. libvirt's own clients therefore refuse it there and
//! take it below TLS.
//!
//! The exchange is four messages of letters and commas. They are read here and not by a crate because they come from peers
//! that nobody knows yet: the parsers that there are panic on some of them.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use api::{ErrorCode, ErrorDomain, remote};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;

use crate::client::login::{Choice, Sasl, SaslError, from_wire, to_wire};

mod messages;
mod verifier;

use messages::{ClientFinal, ClientFirst, ServerFirst};
use verifier::Decoys;
pub use verifier::{NotAVerifier, Verifier};

/// The mechanism's name.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// What a new verifier takes: a fraction of a second for who guesses once, years for who guesses on.
pub const ITERATIONS: u32 = 65_536;
/// A server may not make a client compute for longer.
const MAX_ITERATIONS: u32 = 1_000_000;
/// No message of the exchange is longer, and nothing longer is looked at.
const MAX_MESSAGE: usize = 4096;

/// Why an exchange failed on a client's side.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScramError {
    /// The system gives no random numbers.
    #[error("there are no random numbers")]
    Random,
    /// A message longer than any that makes sense.
    #[error("a message of {0} bytes, at most {MAX_MESSAGE} are looked at")]
    TooLong(usize),
    /// A message that is none of the mechanism.
    #[error("the server sent no message of {MECHANISM}")]
    Message,
    /// A server that answers another client.
    #[error("the server's nonce does not begin with this client's")]
    Nonce,
    /// A server that wants too much work.
    #[error("the server wants {0} iterations, at most {MAX_ITERATIONS} are done")]
    TooMuchWork(u32),
    /// The server says why it refuses.
    #[error("the server refuses: {0}")]
    Refused(String),
    /// A server that does not know the password's verifier.
    #[error("the server did not prove that it knows the password")]
    Unproven,
    /// Something came before the beginning or after the end.
    #[error("the exchange has not begun, or is over")]
    OutOfOrder,
}

/// A fresh nonce: printable, without a comma.
fn nonce() -> Result<String, ScramError> {
    let mut bytes = [0; 24];
    SystemRandom::new().fill(&mut bytes).map_err(|_| ScramError::Random)?;
    Ok(BASE64.encode(bytes))
}

/// A client's side: a name and a password, for [`Client::login`](crate::client::Client::login).
pub struct Scram {
    name: String,
    password: String,
    state: ClientState,
}

enum ClientState {
    Idle,
    /// The first message without its head, and the nonce in it.
    Begun {
        bare: String,
        nonce: String,
    },
    /// What the server must prove.
    Proved {
        signature: [u8; 32],
    },
    Complete,
}

impl fmt::Debug for Scram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scram").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Scram {
    /// With this name and password.
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        Self { name: name.into(), password: password.into(), state: ClientState::Idle }
    }

    fn begin(&mut self, nonce: String) -> Vec<u8> {
        let bare = messages::client_first_bare(&self.name, &nonce);
        let first = format!("{}{bare}", messages::HEAD);
        self.state = ClientState::Begun { bare, nonce };
        first.into_bytes()
    }

    fn prove(&mut self, bare: &str, nonce: &str, message: &[u8]) -> Result<Vec<u8>, ScramError> {
        let first = ServerFirst::parse(message).ok_or(ScramError::Message)?;
        if first.nonce.len() <= nonce.len() || !first.nonce.starts_with(nonce) {
            return Err(ScramError::Nonce);
        }
        if first.iterations > MAX_ITERATIONS {
            return Err(ScramError::TooMuchWork(first.iterations));
        }
        let keys = verifier::Keys::derive(&self.password, first.iterations, &first.salt).ok_or(ScramError::Message)?;
        let without_proof = messages::client_final_without_proof(messages::HEAD, first.nonce);
        let auth_message = format!("{bare},{},{without_proof}", first.text);
        let (proof, signature) = keys.prove(auth_message.as_bytes());
        self.state = ClientState::Proved { signature };
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)).into_bytes())
    }

    fn go(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, ScramError> {
        if message.len() > MAX_MESSAGE {
            return Err(ScramError::TooLong(message.len()));
        }
        match std::mem::replace(&mut self.state, ClientState::Idle) {
            ClientState::Begun { bare, nonce } => self.prove(&bare, &nonce, message).map(Some),
            ClientState::Proved { signature } => {
                let theirs = messages::server_final(message)?;
                if !verifier::same(&theirs, &signature) {
                    return Err(ScramError::Unproven);
                }
                self.state = ClientState::Complete;
                Ok(None)
            }
            ClientState::Idle | ClientState::Complete => Err(ScramError::OutOfOrder),
        }
    }
}

impl Sasl for Scram {
    fn start(&mut self, offered: &[&str]) -> Result<Option<Choice>, SaslError> {
        if !offered.contains(&MECHANISM) {
            return Ok(None);
        }
        let initial = Some(self.begin(nonce()?));
        Ok(Some(Choice { mechanism: MECHANISM.to_owned(), initial }))
    }

    fn step(&mut self, challenge: Option<&[u8]>) -> Result<Option<Vec<u8>>, SaslError> {
        Ok(self.go(challenge.unwrap_or_default())?)
    }

    fn is_complete(&self) -> bool {
        matches!(self.state, ClientState::Complete)
    }
}

/// Where a server finds its users.
pub trait Users: Send + Sync {
    /// What is known of this user's password; `None` if there is no such user.
    fn verifier(&self, name: &str) -> Option<Verifier>;
}

/// What a server says to a name, whoever has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// How often the password is hashed.
    pub iterations: u32,
    /// With what.
    pub salt: Vec<u8>,
    /// The server's part of the nonce, which no exchange has had before: printable, without a comma.
    pub nonce: String,
}

/// Who decides in an exchange. It may be another process than the one that speaks with the client.
pub trait Judge: Send + Sync {
    /// How this user shall prove the password: for a user that there is not, too. `None` when nothing can be said now.
    fn challenge(&self, name: &str) -> Option<Challenge>;

    /// The server's own proof, if the client's is right for what it was asked.
    fn judge(&self, name: &str, auth_message: &[u8], proof: &[u8; 32]) -> Option<[u8; 32]>;
}

/// The judge that knows the passwords' verifiers.
pub struct Passwords {
    users: Arc<dyn Users>,
    decoys: Decoys,
}

impl Passwords {
    /// Of these users. The same one for all logins of a server hides from who asks which users there are, as long as it
    /// lives; for longer, and where users' verifiers differ from a new one, see [`Passwords::with_secret`].
    #[must_use]
    pub fn new(users: Arc<dyn Users>) -> Self {
        let random = RandomState::new();
        let secret = [0, 1, 2, 3].map(|part: u8| random.hash_one(part).to_le_bytes()).concat();
        Self::with_secret(users, &secret, &[])
    }

    /// Of these users, all of whose verifiers are `like`. Who asks learns nothing of which users there are by asking again
    /// after a restart either, if the secret is the same then.
    #[must_use]
    pub fn with_secret(users: Arc<dyn Users>, secret: &[u8], like: &[Verifier]) -> Self {
        Self { users, decoys: Decoys::new(secret, like) }
    }

    /// What is known of a user, or what looks like it; and whether there is such a user. Both take the same work.
    fn verifier(&self, name: &str) -> (Verifier, bool) {
        let decoy = self.decoys.verifier(name);
        match self.users.verifier(name) {
            Some(verifier) => (verifier, true),
            None => (decoy, false),
        }
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passwords")
    }
}

impl Judge for Passwords {
    fn challenge(&self, name: &str) -> Option<Challenge> {
        let (verifier, _) = self.verifier(name);
        Some(verifier.challenge(nonce().ok()?))
    }

    fn judge(&self, name: &str, auth_message: &[u8], proof: &[u8; 32]) -> Option<[u8; 32]> {
        let (verifier, known) = self.verifier(name);
        verifier.check(auth_message, proof).filter(|_| known)
    }
}

/// A server's side of one login. After a failure it is of no use: the client begins with a new one, if the server lets it.
pub struct ServerExchange {
    judge: Arc<dyn Judge>,
    state: ServerState,
}

enum ServerState {
    Idle,
    Begun {
        name: String,
        /// The client's first message: its head, and the rest.
        head: String,
        bare: String,
        /// The own first message, and the nonce in it.
        first: String,
        nonce: String,
    },
    Complete {
        name: String,
    },
    Failed,
}

impl fmt::Debug for ServerExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerExchange").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl ServerExchange {
    /// A login that this judge decides.
    #[must_use]
    pub fn new(judge: Arc<dyn Judge>) -> Self {
        Self { judge, state: ServerState::Idle }
    }

    /// Who has logged in.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        if let ServerState::Complete { name } = &self.state { Some(name) } else { None }
    }

    /// The answer to AUTH_SASL_START.
    ///
    /// # Errors
    /// What to answer instead; the login has failed.
    pub fn start(&mut self, args: &remote::AuthSaslStartArgs) -> Result<remote::AuthSaslStartRet, api::Error> {
        let begun = !matches!(self.state, ServerState::Idle);
        self.state = ServerState::Failed;
        if begun || args.mech != MECHANISM {
            return Err(refused());
        }
        let message = from_wire(args.nil, &args.data).unwrap_or_default();
        let answer = self.first(&message).ok_or_else(refused)?;
        let (nil, data) = to_wire(Some(answer.into_bytes()));
        Ok(remote::AuthSaslStartRet { complete: 0, nil, data })
    }

    /// The answer to AUTH_SASL_STEP.
    ///
    /// # Errors
    /// What to answer instead; the login has failed.
    pub fn step(&mut self, args: &remote::AuthSaslStepArgs) -> Result<remote::AuthSaslStepRet, api::Error> {
        let message = from_wire(args.nil, &args.data).unwrap_or_default();
        let answer = self.last(&message).ok_or_else(refused)?;
        let (nil, data) = to_wire(Some(answer.into_bytes()));
        Ok(remote::AuthSaslStepRet { complete: 1, nil, data })
    }

    /// Takes the client's first message and answers it. A user that there is not gets an answer as well.
    fn first(&mut self, message: &[u8]) -> Option<String> {
        let ClientFirst { head, bare, other, name, nonce: theirs } = ClientFirst::parse(message)?;
        // Nobody acts for another one.
        if other.is_some_and(|other| other != name) {
            return None;
        }
        let Challenge { iterations, salt, nonce } = self.judge.challenge(&name)?;
        let nonce = format!("{theirs}{nonce}");
        let first = messages::server_first(&nonce, &salt, iterations);
        let (head, bare) = (head.to_owned(), bare.to_owned());
        self.state = ServerState::Begun { name, head, bare, first: first.clone(), nonce };
        Some(first)
    }

    /// Takes the client's proof and gives the own one.
    fn last(&mut self, message: &[u8]) -> Option<String> {
        let state = std::mem::replace(&mut self.state, ServerState::Failed);
        let ServerState::Begun { name, head, bare, first, nonce: ours } = state else { return None };
        let ClientFinal { head: theirs, nonce, proof, without_proof } = ClientFinal::parse(message)?;
        if theirs != head.as_bytes() || nonce != ours {
            return None;
        }
        let auth_message = format!("{bare},{first},{without_proof}");
        let signature = self.judge.judge(&name, auth_message.as_bytes(), &proof)?;
        self.state = ServerState::Complete { name };
        Some(format!("v={}", BASE64.encode(signature)))
    }
}

/// The same for everything: what was wrong, name or password, is nobody's business.
fn refused() -> api::Error {
    api::Error::new(ErrorCode::AUTH_FAILED, ErrorDomain::RPC, "authentication failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of RFC 7677.
    const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    struct OneUser;

    impl Users for OneUser {
        fn verifier(&self, name: &str) -> Option<Verifier> {
            let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
            (name == "user").then(|| Verifier::derive("pencil", 4096, &salt).unwrap())
        }
    }

    /// With the example's nonce.
    struct Example(Passwords);

    impl Judge for Example {
        fn challenge(&self, name: &str) -> Option<Challenge> {
            let challenge = self.0.challenge(name)?;
            Some(Challenge { nonce: SERVER_NONCE.to_owned(), ..challenge })
        }

        fn judge(&self, name: &str, auth_message: &[u8], proof: &[u8; 32]) -> Option<[u8; 32]> {
            self.0.judge(name, auth_message, proof)
        }
    }

    fn server() -> ServerExchange {
        ServerExchange::new(Arc::new(Example(Passwords::new(Arc::new(OneUser)))))
    }

    #[test]
    fn the_client_says_what_rfc_7677_says() {
        let mut client = Scram::new("user", "pencil");
        assert_eq!(client.begin(CLIENT_NONCE.to_owned()), CLIENT_FIRST.as_bytes());
        assert_eq!(client.go(SERVER_FIRST.as_bytes()).unwrap().unwrap(), CLIENT_FINAL.as_bytes());
        assert!(!client.is_complete());
        assert_eq!(client.go(SERVER_FINAL.as_bytes()), Ok(None));
        assert!(client.is_complete());
        assert_eq!(client.go(b""), Err(ScramError::OutOfOrder));
    }

    #[test]
    fn the_server_says_what_rfc_7677_says() {
        let mut server = server();
        assert_eq!(server.first(CLIENT_FIRST.as_bytes()).unwrap(), SERVER_FIRST);
        assert_eq!(server.name(), None);
        assert_eq!(server.last(CLIENT_FINAL.as_bytes()).unwrap(), SERVER_FINAL);
        assert_eq!(server.name(), Some("user"));
    }

    #[test]
    fn a_changed_proof_or_a_changed_head_is_refused() {
        let other_head = CLIENT_FINAL.replace("c=biws", "c=eSws");
        let other_nonce = CLIENT_FINAL.replace("k0,", "k1,");
        let other_proof = CLIENT_FINAL.replace("dHzb", "dHzc");
        for message in [other_head, other_nonce, other_proof] {
            let mut server = server();
            server.first(CLIENT_FIRST.as_bytes()).unwrap();
            assert_eq!(server.last(message.as_bytes()), None);
            assert_eq!(server.last(CLIENT_FINAL.as_bytes()), None, "after a failure");
            assert_eq!(server.name(), None);
        }
    }

    #[test]
    fn nobody_logs_in_for_another() {
        assert!(server().first(b"n,a=root,n=user,r=x").is_none());
        assert!(server().first(b"n,a=user,n=user,r=x").is_some());
        assert!(server().first(b"p=tls-unique,,n=user,r=x").is_none());
    }

    #[test]
    fn a_user_that_is_not_there_looks_like_one() {
        let judge = Arc::new(Passwords::new(Arc::new(OneUser)));
        // Each is another connection's.
        let ask = |name: &str| {
            let Challenge { iterations, salt, .. } = judge.challenge(name).unwrap();
            (iterations, salt)
        };
        assert_eq!(ask("ghost"), ask("ghost"));
        assert_ne!(ask("ghost"), ask("other"));
    }

    #[test]
    fn ghosts_look_like_the_users_that_there_are_also_after_a_restart() {
        let looks = [(4096, 16), (4096, 16), (10_000, 12), (4096, 40)];
        let verifiers: Vec<Verifier> = looks
            .into_iter()
            .zip(1u8..)
            .map(|((rounds, length), number)| Verifier::derive("x", rounds, &vec![number; length]).unwrap())
            .collect();
        let start = |secret: &[u8], like: &[Verifier]| Passwords::with_secret(Arc::new(OneUser), secret, like);
        let look = |passwords: &Passwords, name: &str| {
            let Challenge { iterations, salt, .. } = passwords.challenge(name).unwrap();
            (iterations, salt.len(), salt)
        };
        let (before, after) = (start(b"secret", &verifiers), start(b"secret", &verifiers));
        let names: Vec<String> = (0..200).map(|number| format!("ghost{number}")).collect();
        let looks: Vec<_> = names.iter().map(|name| look(&before, name)).collect();
        assert!(names.iter().zip(&looks).all(|(name, was)| look(&after, name) == *was), "a restart tells");
        for (kind, least) in [((4096, 16), 50), ((10_000, 12), 20), ((4096, 40), 20)] {
            let count = looks.iter().filter(|(rounds, length, _)| (*rounds, *length) == kind).count();
            assert!(count >= least, "{count} of 200 look like {kind:?}");
        }
        // One more user who looks like the others changes nobody's look but to that.
        let (few, more) = (start(b"secret", &verifiers[..1]), start(b"secret", &verifiers[..2]));
        assert!(names.iter().all(|name| look(&few, name) == look(&more, name)));
        assert_ne!(look(&start(b"another", &verifiers), "ghost1").2, looks[1].2);
    }

    #[test]
    fn a_server_that_is_not_the_one_is_found_out() {
        let mut client = Scram::new("user", "pencil");
        let mut after = |first: &str, last: &str| {
            client.begin(CLIENT_NONCE.to_owned());
            client.go(first.as_bytes())?;
            client.go(last.as_bytes())
        };
        let other = "v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert_eq!(after(SERVER_FIRST, other), Err(ScramError::Unproven));
        assert_eq!(after(SERVER_FIRST, ""), Err(ScramError::Message));
        assert_eq!(after(SERVER_FIRST, "e=invalid-proof"), Err(ScramError::Refused("invalid-proof".to_owned())));
        assert_eq!(after("r=else,s=YQ==,i=1", ""), Err(ScramError::Nonce));
        assert_eq!(after("r=rOprNGfwEbeRWgbNEkqO,s=YQ==,i=1", ""), Err(ScramError::Nonce));
        let much = SERVER_FIRST.replace("i=4096", "i=4000000000");
        assert_eq!(after(&much, ""), Err(ScramError::TooMuchWork(4_000_000_000)));
        assert_eq!(after(&"r".repeat(5000), ""), Err(ScramError::TooLong(5000)));
    }
}
