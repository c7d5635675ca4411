//! TLS with its key in another process.
//!
//! The worker speaks TLS with a stranger, so it must not hold the server's key: a worker that was taken over could be the
//! server for ever. The acceptor holds it and signs, once for each client; the worker asks it to.

use std::{fmt, sync::Arc};

use rustls::{
    Error, RootCertStore, ServerConfig, SignatureAlgorithm, SignatureScheme,
    crypto::ring,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
    sign::{CertifiedKey, Signer, SigningKey},
};
use thiserror::Error as ThisError;

use crate::edge::TlsTerms;

/// Every way to sign that a client may offer.
const SCHEMES: [SignatureScheme; 9] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];
/// No message of a handshake that is signed is longer.
const MAX_MESSAGE: usize = 4096;

/// Why TLS cannot be offered.
#[derive(Debug, ThisError)]
pub enum TlsError {
    /// A file is not what it should be.
    #[error("{what} cannot be read as PEM")]
    Pem {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// A file holds nothing of what it is for.
    #[error("{0} holds nothing")]
    Empty(&'static str),
    /// The key is of a kind that is not known.
    #[error("the key of the certificate cannot be used")]
    Key(#[source] Error),
    /// The key belongs to another certificate.
    #[error("the certificate and the key do not belong together")]
    Pair(#[source] Error),
    /// An authority's certificate cannot be trusted as one.
    #[error("a certificate of the authority cannot be used")]
    Authority(#[source] Error),
    /// The authorities or the list of revoked certificates.
    #[error("the authority's certificates and revocation lists cannot be used")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// No version of TLS can be offered.
    #[error("no version of TLS can be offered")]
    Versions(#[source] Error),
}

/// The key of the server's certificate.
#[derive(Debug)]
pub struct Key(Arc<dyn SigningKey>);

impl Key {
    /// Reads it.
    ///
    /// # Errors
    /// When it is no key that can be used.
    pub fn read(text: &[u8]) -> Result<Key, TlsError> {
        let what = "the key of the certificate";
        let key = PrivateKeyDer::from_pem_slice(text).map_err(|source| TlsError::Pem { what, source })?;
        ring::sign::any_supported_type(&key).map(Key).map_err(TlsError::Key)
    }

    /// What it can sign.
    #[must_use]
    pub fn schemes(&self) -> Vec<u16> {
        let can = |scheme: &&SignatureScheme| self.0.choose_scheme(&[**scheme]).is_some();
        SCHEMES.iter().filter(can).map(|scheme| u16::from(*scheme)).collect()
    }

    /// Signs a message of a handshake.
    #[must_use]
    pub fn sign(&self, scheme: u16, message: &[u8]) -> Option<Vec<u8>> {
        let signer = self.0.choose_scheme(&[SignatureScheme::from(scheme)])?;
        if message.len() > MAX_MESSAGE { None } else { signer.sign(message).ok() }
    }

    /// Fails when the certificate is another key's.
    ///
    /// # Errors
    /// That, and a certificate that cannot be read.
    pub fn check(&self, certificate: &[u8]) -> Result<(), TlsError> {
        let chain = certificates(certificate, "the server's certificate")?;
        match CertifiedKey::new(chain, Arc::clone(&self.0)).keys_match() {
            // Of a key that does not tell its public half, nothing can be said.
            Ok(()) | Err(Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(()),
            Err(error) => Err(TlsError::Pair(error)),
        }
    }
}

/// Asks the process that has the key.
pub trait Ask: Send + Sync {
    /// The signature, if there is one.
    fn sign(&self, scheme: u16, message: &[u8]) -> Option<Vec<u8>>;
}

/// The key, seen from a process that does not have it.
struct FarKey {
    ask: Arc<dyn Ask>,
    schemes: Vec<SignatureScheme>,
}

struct FarSigner {
    ask: Arc<dyn Ask>,
    scheme: SignatureScheme,
}

impl fmt::Debug for FarKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FarKey").field("schemes", &self.schemes).finish_non_exhaustive()
    }
}

impl fmt::Debug for FarSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FarSigner").field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

impl SigningKey for FarKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = self.schemes.iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(FarSigner { ask: Arc::clone(&self.ask), scheme: *scheme }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.schemes.first() {
            Some(SignatureScheme::ED25519) => SignatureAlgorithm::ED25519,
            Some(SignatureScheme::ECDSA_NISTP256_SHA256 | SignatureScheme::ECDSA_NISTP384_SHA384) => {
                SignatureAlgorithm::ECDSA
            }
            _ => SignatureAlgorithm::RSA,
        }
    }
}

impl Signer for FarSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.ask.sign(self.scheme.into(), message);
        signature.ok_or_else(|| Error::General("the process with the key does not sign".into()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// What a worker needs for one client.
///
/// # Errors
/// What is wrong with the terms.
pub fn server_config(terms: &TlsTerms, ask: Arc<dyn Ask>) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = if terms.anybody {
        WebPkiClientVerifier::no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&terms.authority, "the authority's certificate")? {
            roots.add(certificate).map_err(TlsError::Authority)?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let lists = revocations(&terms.revoked)?;
        if !lists.is_empty() {
            builder = builder.with_crls(lists).allow_unknown_revocation_status().enforce_revocation_expiration();
        }
        builder.build().map_err(TlsError::Verifier)?
    };
    let chain = certificates(&terms.certificate, "the server's certificate")?;
    let schemes = terms.schemes.iter().map(|scheme| SignatureScheme::from(*scheme)).collect();
    let key = CertifiedKey::new(chain, Arc::new(FarKey { ask, schemes }));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(One(Arc::new(key))));
    // A session that is taken up again would not be checked against the list of revoked certificates.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certificates(text: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text).collect();
    let all = all.map_err(|source| TlsError::Pem { what, source })?;
    if all.is_empty() { Err(TlsError::Empty(what)) } else { Ok(all) }
}

fn revocations(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let what = "the list of revoked certificates";
    CertificateRevocationListDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, pem::Error>>()
        .map_err(|source| TlsError::Pem { what, source })
}

/// Whether a certificate of this name is let in.
#[must_use]
pub fn is_allowed(allowed: &[String], name: &str) -> bool {
    allowed.is_empty() || allowed.iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
}

/// A shell's `*` and `?`. Takes no more than the product of the lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what followed the last `*` does not fit.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t + 1));
                p += 1;
            }
            Some(letter) if *letter == b'?' || text.get(t) == Some(letter) => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((after, next)) => {
                    (p, t) = (after, next);
                    retry = Some((after, next + 1));
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_a_shell_s() {
        for (pattern, name, fits) in [
            ("C=GB,O=x,CN=y", "C=GB,O=x,CN=y", true),
            ("*CN=y", "C=GB,O=x,CN=y", true),
            ("*CN=y", "C=GB,O=x,CN=yes", false),
            ("C=GB,*,CN=?", "C=GB,O=a,b,CN=z", true),
            ("*", "", true),
            ("?", "", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("", "x", false),
        ] {
            assert_eq!(is_allowed(&[pattern.to_owned()], name), fits, "{pattern} {name}");
        }
        assert!(is_allowed(&[], "anybody"));
        let slow = "*a".repeat(40) + "b";
        assert!(!is_allowed(&[slow], &"a".repeat(4000)));
    }
}
