//! TLS below the protocol, as libvirt uses it.
//!
//! Both sides show certificates. The client checks the server's and its host name; the server checks the client's, and may
//! then look at its [name](Handshake::peer_name). Only when it lets the client in does the server say so, with one byte;
//! otherwise it hangs up. The first frame comes after that byte. In TLS 1.3 a client's handshake is over before the server
//! has looked at its certificate, so nothing but this byte tells it that it may go on.
//!
//! Nothing here waits but [`Handshake::complete`]. What a peer that has not logged in can make this side hold is bounded
//! by rustls (64 KiB for a message of the handshake); how long it may take is the caller's to say.

use std::{
    io::{ErrorKind, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection, pki_types::ServerName};
use thiserror::Error;

use crate::transport::{Transport, TransportError};

mod config;
mod name;

pub use config::{Pems, ServerCheck, TlsVersions, client_config, server_config};
pub use name::text as distinguished_name;

/// The byte with which a server lets a client in.
const VERDICT: u8 = 1;
/// What may wait to be encrypted and sent, so that a slow peer's share of memory is bounded.
const MAX_UNSENT: usize = 256 << 10;

/// Why there is no TLS connection.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file is not what it should be.
    #[error("{what} cannot be read as PEM")]
    Pem {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A file holds nothing of what it is for.
    #[error("{0} holds nothing")]
    Empty(&'static str),
    /// A certificate authority that cannot be trusted as one.
    #[error("a certificate of the authority cannot be used")]
    Authority(#[source] rustls::Error),
    /// The authority's certificates or the list of revoked ones.
    #[error("the authority's certificates and revocation lists cannot be used")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// The own certificate and key.
    #[error("the own certificate and its key cannot be used")]
    Identity(#[source] rustls::Error),
    /// The provider of the cryptography.
    #[error("no version of TLS can be offered")]
    Versions(#[source] rustls::Error),
    /// A host name that no certificate can be for.
    #[error("{0:?} is neither a host name nor an address")]
    HostName(String),
    /// The session cannot begin.
    #[error("the TLS session cannot begin")]
    Begin(#[source] rustls::Error),
    /// The handshake failed: a certificate that is not good, or a peer that speaks something else.
    #[error("the TLS handshake failed")]
    Handshake(#[source] rustls::Error),
    /// The socket failed.
    #[error("the connection failed during the TLS handshake")]
    Io(#[source] std::io::Error),
    /// The peer hung up.
    #[error("the peer closed the connection during the TLS handshake")]
    Closed,
    /// The server hung up after the handshake: it does not accept this client's certificate.
    #[error("the server does not accept this client's certificate")]
    Refused,
    /// The server said something else than that it accepts this client.
    #[error("the server's verdict on this client's certificate is {0:#04x}")]
    Verdict(u8),
    /// It took too long.
    #[error("the TLS handshake took longer than {} seconds", .0.as_secs_f32())]
    Timeout(Duration),
    /// The peer's certificate has a name that cannot be read.
    #[error("the name in the peer's certificate cannot be read")]
    PeerName,
}

/// What a handshake waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing: it is over.
    Done,
    /// The peer to say something.
    Read,
    /// Room to write, or the peer to say something.
    ReadOrWrite,
}

/// A session and the stream below it.
#[derive(Debug)]
struct Session<S> {
    stream: S,
    connection: Connection,
    /// Decrypted bytes that have not been taken.
    plaintext: usize,
    ended: bool,
}

enum Came {
    Something,
    Nothing,
    End,
}

enum SessionError {
    Io(std::io::Error),
    Tls(rustls::Error),
}

impl<S: Read + Write + AsFd> Session<S> {
    fn new(stream: S, mut connection: Connection) -> Self {
        connection.set_buffer_limit(Some(MAX_UNSENT));
        Self { stream, connection, plaintext: 0, ended: false }
    }

    /// Reads once from the stream and decrypts what came.
    fn read(&mut self) -> Result<Came, SessionError> {
        if self.ended {
            return Ok(Came::End);
        }
        loop {
            match self.connection.read_tls(&mut self.stream) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(Came::End);
                }
                Ok(_) => break,
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => return Ok(Came::Nothing),
                    _ => return Err(SessionError::Io(error)),
                },
            }
        }
        match self.connection.process_new_packets() {
            Ok(state) => {
                self.plaintext = state.plaintext_bytes_to_read();
                Ok(Came::Something)
            }
            Err(error) => {
                // The peer is told why, if there is room; nobody waits for that.
                let _ = self.connection.write_tls(&mut self.stream);
                Err(SessionError::Tls(error))
            }
        }
    }

    /// Sends what is encrypted, as far as there is room. True when nothing is left.
    fn write(&mut self) -> Result<bool, std::io::Error> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => return Ok(false),
                    _ => return Err(error),
                },
            }
        }
        Ok(true)
    }

    /// Takes decrypted bytes; 0 when there are none.
    fn take(&mut self, buffer: &mut [u8]) -> usize {
        // The end of the stream is noticed where it is read: a peer that leaves without TLS's farewell is no error here,
        // since the frames above know where they end.
        let count = self.connection.reader().read(buffer).unwrap_or(0);
        self.plaintext = self.plaintext.saturating_sub(count);
        count
    }
}

/// A TLS connection that is not open yet.
#[derive(Debug)]
pub struct Handshake<S> {
    session: Session<S>,
    is_client: bool,
    done: bool,
}

impl<S: Read + Write + AsFd> Handshake<S> {
    /// Begins as a client, over a stream that does not block, with the server that `host` names.
    ///
    /// # Errors
    /// When `host` is no name that a certificate can be for.
    pub fn client(config: Arc<ClientConfig>, host: &str, stream: S) -> Result<Self, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::HostName(host.to_owned()))?;
        let connection = ClientConnection::new(config, name).map_err(TlsError::Begin)?;
        Ok(Self { session: Session::new(stream, connection.into()), is_client: true, done: false })
    }

    /// Begins as a server, over a stream that does not block.
    ///
    /// # Errors
    /// When rustls refuses the configuration.
    pub fn server(config: Arc<ServerConfig>, stream: S) -> Result<Self, TlsError> {
        let connection = ServerConnection::new(config).map_err(TlsError::Begin)?;
        Ok(Self { session: Session::new(stream, connection.into()), is_client: false, done: false })
    }

    /// Goes as far as it can without waiting. A client is done when the server has let it in; a server is done when the
    /// client's certificate has been checked, and has yet to [`accept`](Handshake::accept) it.
    ///
    /// # Errors
    /// Why there will be no connection.
    pub fn advance(&mut self) -> Result<Progress, TlsError> {
        loop {
            let sent = self.session.write().map_err(TlsError::Io)?;
            if !self.done && !self.session.connection.is_handshaking() {
                self.done = if self.is_client { self.verdict()? } else { true };
            }
            if self.done && sent {
                return Ok(Progress::Done);
            }
            match self.session.read() {
                Ok(Came::Something) => {}
                Ok(Came::Nothing) if sent => return Ok(Progress::Read),
                Ok(Came::Nothing) => return Ok(Progress::ReadOrWrite),
                Ok(Came::End) => return Err(self.closed()),
                Err(SessionError::Tls(error)) => return Err(self.failed(error)),
                Err(SessionError::Io(error)) if error.kind() == ErrorKind::ConnectionReset => return Err(self.closed()),
                Err(SessionError::Io(error)) => return Err(TlsError::Io(error)),
            }
        }
    }

    /// Takes the server's one byte, if it is here.
    fn verdict(&mut self) -> Result<bool, TlsError> {
        let mut byte = [0];
        match self.session.take(&mut byte) {
            0 => Ok(false),
            _ if byte == [VERDICT] => Ok(true),
            _ => Err(TlsError::Verdict(byte[0])),
        }
    }

    fn closed(&self) -> TlsError {
        let over = !self.session.connection.is_handshaking();
        if over && self.is_client { TlsError::Refused } else { TlsError::Closed }
    }

    /// In TLS 1.3 a server's alert about a certificate arrives after the client's own handshake.
    fn failed(&self, error: rustls::Error) -> TlsError {
        let refused = matches!(error, rustls::Error::AlertReceived(_)) && !self.session.connection.is_handshaking();
        if refused && self.is_client { TlsError::Refused } else { TlsError::Handshake(error) }
    }

    /// Goes on until it is done, waiting for that at most so long.
    ///
    /// # Errors
    /// Why there will be no connection; [`TlsError::Timeout`] if the peer did not do its part in time.
    pub fn complete(&mut self, timeout: Duration) -> Result<(), TlsError> {
        let until = Instant::now().checked_add(timeout);
        loop {
            let events = match self.advance()? {
                Progress::Done => return Ok(()),
                Progress::Read => PollFlags::IN,
                Progress::ReadOrWrite => PollFlags::IN | PollFlags::OUT,
            };
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(TlsError::Timeout(timeout));
            }
            let left = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            match rustix::event::poll(&mut [PollFd::new(&self.session.stream, events)], left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(TlsError::Io(error.into())),
            }
        }
    }

    /// The name in the certificate that the peer showed, as libvirt's lists of allowed clients have it: `C=…,O=…,CN=…` in
    /// the certificate's order. `None` if it showed none.
    ///
    /// # Errors
    /// When the name cannot be read.
    pub fn peer_name(&self) -> Result<Option<String>, TlsError> {
        let Some(certificate) = self.session.connection.peer_certificates().and_then(<[_]>::first) else {
            return Ok(None);
        };
        let certificate = webpki::EndEntityCert::try_from(certificate).map_err(|_| TlsError::PeerName)?;
        name::text(certificate.subject()).map(Some).ok_or(TlsError::PeerName)
    }

    /// Lets the client in, or takes what a client's handshake has opened. To be called when the handshake is
    /// [`Done`](Progress::Done). A server's byte goes out with the first flush.
    ///
    /// # Errors
    /// When the handshake is not done.
    pub fn accept(mut self) -> Result<Tls<S>, TlsError> {
        if !self.done {
            return Err(TlsError::Closed);
        }
        if !self.is_client {
            self.session.connection.writer().write_all(&[VERDICT]).map_err(TlsError::Io)?;
            self.session.write().map_err(TlsError::Io)?;
        }
        Ok(Tls { session: self.session })
    }
}

impl<S: AsFd> AsFd for Handshake<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.session.stream.as_fd()
    }
}

/// A TLS connection that is open.
#[derive(Debug)]
pub struct Tls<S> {
    session: Session<S>,
}

impl<S: AsFd> AsFd for Tls<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.session.stream.as_fd()
    }
}

impl<S: Read + Write + AsFd> Transport for Tls<S> {
    fn recv(&mut self, buffer: &mut [u8], _: &mut Vec<OwnedFd>) -> Result<Option<usize>, TransportError> {
        loop {
            let count = self.session.take(buffer);
            if count > 0 {
                return Ok(Some(count));
            }
            match self.session.read() {
                Ok(Came::Something) => {}
                Ok(Came::Nothing) => return Ok(None),
                Ok(Came::End) => return Ok(Some(0)),
                Err(SessionError::Io(error)) if error.kind() == ErrorKind::ConnectionReset => return Ok(Some(0)),
                Err(SessionError::Io(error)) => return Err(TransportError::Io(error)),
                Err(SessionError::Tls(error)) => return Err(TransportError::Layer(Box::new(error))),
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<Option<usize>, TransportError> {
        let mut taken = self.session.connection.writer().write(bytes).map_err(TransportError::Io)?;
        self.session.write().map_err(TransportError::Io)?;
        if taken == 0 {
            // It was full, and there may be room now.
            taken = self.session.connection.writer().write(bytes).map_err(TransportError::Io)?;
        }
        Ok((taken > 0).then_some(taken))
    }

    fn is_secure(&self) -> bool {
        true
    }

    fn is_encrypted(&self) -> bool {
        true
    }

    fn flush(&mut self) -> Result<bool, TransportError> {
        self.session.write().map_err(TransportError::Io)
    }

    fn wants_write(&self) -> bool {
        self.session.connection.wants_write()
    }

    fn has_buffered(&self) -> bool {
        self.session.plaintext > 0
    }
}
