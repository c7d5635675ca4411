//! What both sides bring: authorities, certificates, keys, lists of revoked certificates. As texts: no file is opened here.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version,
};

use super::TlsError;

/// The contents of one side's files, in PEM.
#[derive(Clone, Copy, Default)]
pub struct Pems<'a> {
    /// The authorities that the other side's certificate must come from.
    pub authority: &'a [u8],
    /// The certificates that an authority has revoked; empty if there is no list. A list that is past its time is an error
    /// for every certificate that it is about: what it does not know, it cannot deny.
    pub revoked: &'a [u8],
    /// The own certificate, with those between it and the authority; empty for a client that has none.
    pub certificate: &'a [u8],
    /// The own certificate's key; empty with it.
    pub key: &'a [u8],
}

/// What a client makes of the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerCheck {
    /// It must come from the authority and be for the host.
    Full,
    /// Anybody's will do: the connection is encrypted, and nobody knows with whom. For who asks for it in so many words.
    None,
}

/// What a client needs for its connections. They show `certificate`, if there is one.
///
/// # Errors
/// What is wrong with the files.
pub fn client_config(
    pems: &Pems<'_>,
    check: ServerCheck,
    versions: TlsVersions,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match check {
        ServerCheck::None => Arc::new(Anybody(Arc::clone(&provider))),
        ServerCheck::Full => {
            let roots = Arc::new(authorities(pems.authority)?);
            let mut builder = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
            let lists = revocations(pems.revoked)?;
            if !lists.is_empty() {
                builder = builder.with_crls(lists).allow_unknown_revocation_status().enforce_revocation_expiration();
            }
            builder.build().map_err(TlsError::Verifier)?
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions.list())
        .map_err(TlsError::Versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = if pems.certificate.is_empty() {
        builder.with_no_client_auth()
    } else {
        let (chain, key) = identity(pems)?;
        builder.with_client_auth_cert(chain, key).map_err(TlsError::Identity)?
    };
    // Each connection is checked for itself.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Which versions of TLS a client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsVersions {
    /// 1.2.
    pub v12: bool,
    /// 1.3.
    pub v13: bool,
}

impl Default for TlsVersions {
    fn default() -> TlsVersions {
        TlsVersions { v12: true, v13: true }
    }
}

impl TlsVersions {
    fn list(self) -> Vec<&'static SupportedProtocolVersion> {
        let newest_first = [(self.v13, &version::TLS13), (self.v12, &version::TLS12)];
        newest_first.into_iter().filter_map(|(wanted, version)| wanted.then_some(version)).collect()
    }
}

/// What a server needs for its connections. Every client must show a certificate of the authority; with
/// `anybody` none is asked for, and who the client is remains for SASL to find out.
///
/// # Errors
/// What is wrong with the files.
pub fn server_config(pems: &Pems<'_>, anybody: bool) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ClientCertVerifier> = if anybody {
        WebPkiClientVerifier::no_client_auth()
    } else {
        let roots = Arc::new(authorities(pems.authority)?);
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let lists = revocations(pems.revoked)?;
        if !lists.is_empty() {
            builder = builder.with_crls(lists).allow_unknown_revocation_status().enforce_revocation_expiration();
        }
        builder.build().map_err(TlsError::Verifier)?
    };
    let (chain, key) = identity(pems)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(TlsError::Identity)?;
    // A session that is taken up again would not be checked against the list of revoked certificates.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn authorities(text: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(text, "the authority's certificate")? {
        roots.add(certificate).map_err(TlsError::Authority)?;
    }
    Ok(roots)
}

fn certificates(text: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text).collect();
    let all = all.map_err(|source| TlsError::Pem { what, source })?;
    if all.is_empty() { Err(TlsError::Empty(what)) } else { Ok(all) }
}

fn revocations(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let what = "the list of revoked certificates";
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let all: Result<Vec<_>, pem::Error> = CertificateRevocationListDer::pem_slice_iter(text).collect();
    let all = all.map_err(|source| TlsError::Pem { what, source })?;
    if all.is_empty() { Err(TlsError::Empty(what)) } else { Ok(all) }
}

fn identity(pems: &Pems<'_>) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates(pems.certificate, "the own certificate")?;
    let key = PrivateKeyDer::from_pem_slice(pems.key)
        .map_err(|source| TlsError::Pem { what: "the own certificate's key", source })?;
    Ok((chain, key))
}

/// Takes any server for the one that was meant, but only if it has the key of the certificate that it shows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
