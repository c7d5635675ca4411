//! Passwords of clients that come by network. A worker speaks with such a client and is not believed: what it is told is how
//! the password is to be proved, the proof is judged here, and without it there is no connection to qemud.

use std::{collections::HashMap, sync::Arc};

use wire::sasl::{Judge, Passwords, Users, Verifier};

use crate::edge::Challenge;

/// What both sides of an exchange may have said: three messages, none of which is longer.
const MAX_MESSAGE: usize = 3 * 4096;

/// The lines of the users' file.
struct Known(HashMap<String, Verifier>);

impl Users for Known {
    fn verifier(&self, name: &str) -> Option<Verifier> {
        self.0.get(name).cloned()
    }
}

/// What a worker's client has been asked.
#[derive(Debug)]
pub struct Asked {
    name: String,
    nonce: String,
}

/// Who may log in.
#[derive(Debug)]
pub struct Logins(Passwords);

impl Logins {
    /// These users, with their verifiers. What is told of those that there are not follows from the secret.
    #[must_use]
    pub fn new(users: &[(String, String)], secret: &[u8]) -> Logins {
        let known = users.iter().rev().filter_map(|(name, verifier)| Some((name.clone(), verifier.parse().ok()?)));
        let known: HashMap<String, Verifier> = known.collect();
        let like: Vec<Verifier> = known.values().cloned().collect();
        Logins(Passwords::with_secret(Arc::new(Known(known)), secret, &like))
    }

    /// How a user is to prove the password, also one that there is not. None when there are no random numbers.
    #[must_use]
    pub fn ask(&self, name: String) -> Option<(Asked, Challenge)> {
        let challenge = self.0.challenge(&name)?;
        Some((Asked { name, nonce: challenge.nonce.clone() }, challenge.into()))
    }

    /// The own proof, if the client's is right. What was said must be about this challenge, whose nonce is in it: a proof
    /// that somebody gave another time does not count.
    #[must_use]
    pub fn judge(&self, asked: &Asked, message: &[u8], proof: &[u8; 32]) -> Option<[u8; 32]> {
        let nonce = asked.nonce.as_bytes();
        if message.len() > MAX_MESSAGE || !message.windows(nonce.len()).any(|part| part == nonce) {
            return None;
        }
        self.0.judge(&asked.name, message, proof)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use api::remote;
    use std::sync::Mutex;
    use wire::{
        client::login::Sasl,
        sasl::{self, MECHANISM, Scram, ServerExchange},
    };

    /// Users of whom one is called ann.
    pub(in crate::acceptor) fn users() -> Vec<(String, String)> {
        let verifier = Verifier::derive("secret", 1, b"0123456789abcdef").unwrap();
        vec![("ann".into(), verifier.to_string())]
    }

    /// A client's whole exchange with a server that this judge decides for. True when it has logged in.
    pub(in crate::acceptor) fn log_in(judge: Arc<dyn Judge>, name: &str, password: &str) -> bool {
        let mut server = ServerExchange::new(judge);
        let mut client = Scram::new(name, password);
        let bytes = |data: Vec<u8>| data.into_iter().map(|byte| byte as i8).collect();
        let first = client.start(&[MECHANISM]).unwrap().unwrap().initial.unwrap();
        let start = remote::AuthSaslStartArgs { mech: MECHANISM.into(), nil: 0, data: bytes(first) };
        let challenge: Vec<u8> = server.start(&start).unwrap().data.into_iter().map(|byte| byte as u8).collect();
        let proof = client.step(Some(&challenge)).unwrap().unwrap();
        let done = server.step(&remote::AuthSaslStepArgs { nil: 0, data: bytes(proof) }).is_ok();
        assert_eq!(server.name(), done.then_some(name));
        done
    }

    /// A worker's part: it hands on, and notes the proof that it hears.
    struct Eavesdropper {
        logins: Arc<Logins>,
        asked: Mutex<Option<Asked>>,
        heard: Mutex<Option<(Vec<u8>, [u8; 32])>>,
    }

    impl Judge for Eavesdropper {
        fn challenge(&self, name: &str) -> Option<sasl::Challenge> {
            let (asked, challenge) = self.logins.ask(name.to_owned())?;
            *self.asked.lock().unwrap() = Some(asked);
            Some(challenge.into())
        }

        fn judge(&self, _: &str, message: &[u8], proof: &[u8; 32]) -> Option<[u8; 32]> {
            *self.heard.lock().unwrap() = Some((message.to_vec(), *proof));
            let asked = self.asked.lock().unwrap().take()?;
            self.logins.judge(&asked, message, proof)
        }
    }

    #[test]
    fn a_proof_counts_for_its_own_challenge_and_its_own_user_only() {
        let logins = Arc::new(Logins::new(&users(), b"secret"));
        let worker = Eavesdropper { logins: Arc::clone(&logins), asked: Mutex::default(), heard: Mutex::default() };
        let worker = Arc::new(worker);
        let judge = || Arc::<Eavesdropper>::clone(&worker);
        assert!(!log_in(judge(), "ann", "wrong"));
        assert!(!log_in(judge(), "eve", "secret"));
        assert!(log_in(judge(), "ann", "secret"));
        // Heard on the way, and said again.
        let (message, proof) = worker.heard.lock().unwrap().take().unwrap();
        let (asked, _) = logins.ask("ann".into()).unwrap();
        assert_eq!(logins.judge(&asked, &message, &proof), None);
        // The new nonce in it makes it another message, which the proof is not for.
        let grafted = [&message[..], asked.nonce.as_bytes()].concat();
        assert_eq!(logins.judge(&asked, &grafted, &proof), None);
        assert_eq!(logins.judge(&asked, &vec![b'x'; MAX_MESSAGE + 1], &proof), None);
    }

    #[test]
    fn two_connections_hear_the_same_of_a_user_that_is_not_there() {
        let logins = Logins::new(&users(), b"secret");
        let salt = |name: &str| logins.ask(name.into()).unwrap().1.salt;
        assert_eq!(salt("eve"), salt("eve"));
        assert_ne!(salt("eve"), salt("mallory"));
        assert_eq!(salt("ann"), b"0123456789abcdef");
        // The same after a restart, and the work that is asked for tells nothing either.
        let again = Logins::new(&users(), b"secret");
        for name in ["ann", "eve", "mallory"] {
            let (_, challenge) = again.ask(name.into()).unwrap();
            assert_eq!((challenge.iterations, challenge.salt), (1, salt(name)), "{name}");
        }
    }
}
