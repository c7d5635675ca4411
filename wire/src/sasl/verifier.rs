//! What follows from a password, and what a server keeps of it.

use std::{fmt, num::NonZeroU32, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ring::{digest, hmac, pbkdf2};
use thiserror::Error;

use super::{Challenge, MAX_ITERATIONS, MECHANISM};

type Key = [u8; 32];

fn hmac(key: &[u8], text: &[u8]) -> Key {
    array(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref())
}

fn hash(bytes: &[u8]) -> Key {
    array(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// The bytes of a SHA-256, of which there are always as many.
fn array(bytes: &[u8]) -> Key {
    let mut key = [0; 32];
    for (slot, byte) in key.iter_mut().zip(bytes) {
        *slot = *byte;
    }
    key
}

fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|index| a[index] ^ b[index])
}

/// Are they equal? It takes the same time wherever they differ.
pub(super) fn same(a: &Key, b: &Key) -> bool {
    xor(a, b).iter().fold(0, |all, byte| all | byte) == 0
}

/// A password as both sides take it. What cannot be prepared is taken as it is.
fn prepared(password: &str) -> std::borrow::Cow<'_, str> {
    stringprep::saslprep(password).unwrap_or(std::borrow::Cow::Borrowed(password))
}

/// What a client makes of its password.
pub(super) struct Keys {
    client: Key,
    server: Key,
}

impl Keys {
    /// `None` for no iterations at all.
    pub(super) fn derive(password: &str, iterations: u32, salt: &[u8]) -> Option<Self> {
        let mut salted = [0; 32];
        let iterations = NonZeroU32::new(iterations)?;
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, prepared(password).as_bytes(), &mut salted);
        Some(Self { client: hmac(&salted, b"Client Key"), server: hmac(&salted, b"Server Key") })
    }

    /// The proof for the server, and the one that it must give.
    pub(super) fn prove(&self, auth_message: &[u8]) -> (Key, Key) {
        let signature = hmac(&hash(&self.client), auth_message);
        (xor(&self.client, &signature), hmac(&self.server, auth_message))
    }
}

/// What a server knows of a user's password. As a text it is what PostgreSQL writes too:
/// `SCRAM-SHA-256$iterations:salt$stored key:server key`, the last three in base64.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

/// A text is no verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this is no verifier of {MECHANISM}")]
pub struct NotAVerifier;

impl Verifier {
    /// Makes one from a password; `None` for no iterations at all, or more than any client does. The salt should be random
    /// and at least 16 bytes long.
    #[must_use]
    pub fn derive(password: &str, iterations: u32, salt: &[u8]) -> Option<Self> {
        let keys = Keys::derive(password, Some(iterations).filter(|count| *count <= MAX_ITERATIONS)?, salt)?;
        Some(Self { iterations, salt: salt.to_vec(), stored_key: hash(&keys.client), server_key: keys.server })
    }

    /// What a client needs to prove the password in an exchange with this nonce.
    pub(super) fn challenge(&self, nonce: String) -> Challenge {
        Challenge { iterations: self.iterations, salt: self.salt.clone(), nonce }
    }

    /// The server's own proof, if the client's is right.
    pub(super) fn check(&self, auth_message: &[u8], proof: &Key) -> Option<Key> {
        let client_key = xor(proof, &hmac(&self.stored_key, auth_message));
        same(&hash(&client_key), &self.stored_key).then(|| hmac(&self.server_key, auth_message))
    }
}

/// Verifiers for users that there are not: each name has its own, which no password belongs to, and always the same one.
/// They look like those of users that there are.
pub(super) struct Decoys {
    secret: hmac::Key,
    /// Iterations, length of the salt, and what tells it from its equals, of each user's that there is.
    looks: Vec<(u32, usize, Vec<u8>)>,
}

impl Decoys {
    /// From a secret, like these verifiers; without any, like a new one.
    pub(super) fn new(secret: &[u8], like: &[Verifier]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let look = |verifier: &Verifier| (verifier.iterations, verifier.salt.len(), verifier.salt.clone());
        Self { secret, looks: like.iter().map(look).collect() }
    }

    pub(super) fn verifier(&self, name: &str) -> Verifier {
        let tag = |what: u8, part: &[u8]| {
            let mut context = hmac::Context::with_key(&self.secret);
            [&[what], &part.len().to_be_bytes()[..], part, name.as_bytes()]
                .iter()
                .for_each(|part| context.update(part));
            array(context.sign().as_ref())
        };
        // Each user draws a number for the name, and the highest gives the look: so one more user changes the looks of few
        // names, and of none where all look alike.
        let like = self.looks.iter().max_by_key(|(_, _, id)| tag(0, id));
        let (iterations, length) =
            like.map_or((DECOY_ITERATIONS, DECOY_SALT), |(rounds, length, _)| (*rounds, *length));
        let mut salt = [tag(1, &[]), tag(2, &[])].concat();
        salt.truncate(length);
        Verifier { iterations, salt, stored_key: tag(3, &[]), server_key: tag(4, &[]) }
    }
}

/// What a decoy looks like where there is no user to look like.
const DECOY_ITERATIONS: u32 = 4096;
const DECOY_SALT: usize = 16;

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { iterations, salt, stored_key, server_key } = self;
        let [salt, stored, server] = [&salt[..], stored_key, server_key].map(|bytes| BASE64.encode(bytes));
        write!(f, "{MECHANISM}${iterations}:{salt}${stored}:{server}")
    }
}

/// Not what is in it.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl FromStr for Verifier {
    type Err = NotAVerifier;

    fn from_str(text: &str) -> Result<Self, NotAVerifier> {
        let parse = || {
            let rest = text.strip_prefix(MECHANISM)?.strip_prefix('$')?;
            let (work, keys) = rest.split_once('$')?;
            let (iterations, salt) = work.split_once(':')?;
            let (stored, server) = keys.split_once(':')?;
            Some(Self {
                iterations: iterations.parse().ok().filter(|count| (1..=MAX_ITERATIONS).contains(count))?,
                salt: BASE64.decode(salt).ok().filter(|salt| (1..=64).contains(&salt.len()))?,
                stored_key: BASE64.decode(stored).ok()?.try_into().ok()?,
                server_key: BASE64.decode(server).ok()?.try_into().ok()?,
            })
        };
        parse().ok_or(NotAVerifier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_survives_its_text() {
        let verifier = Verifier::derive("pencil", 4096, b"0123456789abcdef").unwrap();
        let text = verifier.to_string();
        assert!(text.starts_with("SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$"), "{text}");
        assert_eq!(text.parse(), Ok(verifier));
    }

    #[test]
    fn what_is_no_verifier_is_refused() {
        let good = Verifier::derive("x", 1, b"salt").unwrap().to_string();
        for bad in ["", "SCRAM-SHA-1$1:YQ==$YQ==:YQ==", "SCRAM-SHA-256$1:YQ==$YQ==:YQ==", &good[1..], &good[..60]] {
            assert_eq!(bad.parse::<Verifier>(), Err(NotAVerifier), "{bad}");
        }
        assert_eq!(good.replace("$1:", "$0:").parse::<Verifier>(), Err(NotAVerifier));
        assert_eq!(good.replace("$1:", "$4000000000:").parse::<Verifier>(), Err(NotAVerifier));
        assert_eq!(Verifier::derive("x", 0, b"salt"), None);
    }

    #[test]
    fn passwords_that_look_the_same_are_the_same() {
        // A ligature and its letters; a non-breaking space and a space.
        let a = Verifier::derive("o\u{fb03}ce\u{a0}key", 1, b"salt");
        assert_eq!(a, Verifier::derive("office key", 1, b"salt"));
    }

    #[test]
    fn what_is_kept_is_not_shown() {
        assert_eq!(format!("{:?}", Verifier::derive("x", 1, b"salt").unwrap()), "Verifier");
    }
}
