//! TLS between the two sides: who is let in, who is not, and what a peer that does nothing costs.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests may fail like tests.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use api::{Operation, Reply, remote};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use wire::{
    Conn, WireError,
    client::{Client, Piece},
    stream::{ServerEnd, StreamId},
    tls::{Handshake, Pems, Progress, ServerCheck, Tls, TlsError, TlsVersions, client_config, server_config},
};

mod support;
use support::{get_hostname, hostname, recv};

const PATIENCE: Duration = Duration::from_secs(20);

/// An authority of the test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self, host: &str, serial: u64) -> Identity {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "GB");
        params.distinguished_name.push(DnType::CommonName, host);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    fn revoke(&self, serial: u64, next_update: i32) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(next_update, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

fn pems<'a>(authority: &'a str, identity: &'a Identity, revoked: &'a str) -> Pems<'a> {
    Pems {
        authority: authority.as_bytes(),
        revoked: revoked.as_bytes(),
        certificate: identity.certificate.as_bytes(),
        key: identity.key.as_bytes(),
    }
}

/// Two ends of a TCP connection that do not block.
fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (b, _) = listener.accept().unwrap();
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    (a, b)
}

type Opened = Result<(Tls<TcpStream>, Option<String>), TlsError>;

/// Both sides' handshakes, the server's on a thread.
fn handshake(client: Arc<rustls::ClientConfig>, server: Arc<rustls::ServerConfig>) -> (Opened, Opened) {
    let (a, b) = sockets();
    let serving: JoinHandle<Opened> = thread::spawn(move || {
        let mut handshake = Handshake::server(server, b)?;
        handshake.complete(PATIENCE)?;
        let name = handshake.peer_name()?;
        Ok((handshake.accept()?, name))
    });
    let connecting = || {
        let mut handshake = Handshake::client(client, "localhost", a)?;
        handshake.complete(PATIENCE)?;
        let name = handshake.peer_name()?;
        Ok((handshake.accept()?, name))
    };
    let opened = connecting();
    (opened, serving.join().unwrap())
}

/// What a client and a server with these files get.
fn meet(client: &Pems<'_>, server: &Pems<'_>, check: ServerCheck) -> (Opened, Opened) {
    handshake(client_config(client, check, TlsVersions::default()).unwrap(), server_config(server, false).unwrap())
}

#[test]
fn both_sides_with_certificates_make_calls() {
    let authority = Authority::new();
    let (ours, theirs) = (authority.issue("client", 1), authority.issue("localhost", 2));
    let root = authority.pem();
    let (a, b) = meet(&pems(&root, &ours, ""), &pems(&root, &theirs, ""), ServerCheck::Full);
    let ((a, server_name), (b, client_name)) = (a.unwrap(), b.unwrap());
    assert!(client_name.as_deref() == Some("C=GB,CN=client"));
    assert!(server_name.as_deref() == Some("C=GB,CN=localhost"));

    let client = Client::new(Box::new(a)).unwrap();
    assert!(client.is_secure() && client.is_encrypted() && !client.passes_fds());
    const LONG: usize = 3 << 20;
    let server = thread::spawn(move || {
        let mut conn = Conn::new(b);
        loop {
            let call = match recv(&mut conn) {
                Ok(call) => call,
                Err(error) => return error,
            };
            // Longer than what the socket and TLS hold, so that it goes out while the client reads.
            conn.queue_answer(&call.header, &Ok(hostname(&"h".repeat(LONG))), Vec::new()).unwrap();
            while !conn.flush().unwrap() {
                use rustix::event::{PollFd, PollFlags, poll};
                poll(&mut [PollFd::new(&conn, PollFlags::OUT)], None).unwrap();
            }
        }
    });
    for _ in 0..3 {
        let (reply, _) = client.call(&get_hostname(), Vec::new()).unwrap();
        assert_eq!(remote::ConnectGetHostnameArgs::ret_of(reply).unwrap().hostname.len(), LONG);
    }
    drop(client);
    assert!(matches!(server.join().unwrap(), WireError::Closed));
}

/// A client and a server's connection that trust each other.
fn opened() -> (Client, Conn<Tls<TcpStream>>) {
    let authority = Authority::new();
    let (ours, theirs) = (authority.issue("client", 1), authority.issue("localhost", 2));
    let root = authority.pem();
    let (a, b) = meet(&pems(&root, &ours, ""), &pems(&root, &theirs, ""), ServerCheck::Full);
    (Client::new(Box::new(a.unwrap().0)).unwrap(), Conn::new(b.unwrap().0))
}

/// Longer than a first read, and one record of TLS: all of it is decrypted when the first read takes its part.
const ONE_RECORD: usize = 12 << 10;

#[test]
fn what_is_decrypted_and_not_read_yet_is_not_waited_for() {
    let (client, mut conn) = opened();
    // After so many waits in vain a client sleeps at once: what it misses then, no second look finds.
    for _ in 0..8 {
        assert!(client.wait_events(Some(Duration::from_millis(1))).unwrap().is_empty());
    }
    let server = thread::spawn(move || {
        for _ in 0..3 {
            let call = recv(&mut conn).unwrap();
            conn.queue_answer(&call.header, &Ok(hostname(&"h".repeat(ONE_RECORD))), Vec::new()).unwrap();
            assert!(conn.flush().unwrap());
        }
    });
    let begin = Instant::now();
    for _ in 0..3 {
        let (reply, _) = client.call_within(&get_hostname(), Vec::new(), PATIENCE).unwrap();
        assert_eq!(remote::ConnectGetHostnameArgs::ret_of(reply).unwrap().hostname.len(), ONE_RECORD);
    }
    // At the end of its patience a client looks once more.
    assert!(begin.elapsed() < PATIENCE, "the answers were there before");
    server.join().unwrap();
}

#[test]
fn who_polls_the_descriptor_misses_nothing_that_is_decrypted() {
    let (client, mut conn) = opened();
    let (sender, opened) = mpsc::channel();
    let server = thread::spawn(move || {
        let call = recv(&mut conn).unwrap();
        let reply = Reply::StorageVolDownload(());
        conn.queue_answer(&call.header, &Ok(reply), Vec::new()).unwrap();
        assert!(conn.flush().unwrap());
        opened.recv().unwrap();
        let mut end = ServerEnd::new(StreamId::from(&call.header), api::Stream::Read, false);
        end.data(&mut conn, &[7; ONE_RECORD]).unwrap();
        assert!(conn.flush().unwrap());
        conn
    });
    let (_, stream) = client.open_stream(&remote::StorageVolDownloadArgs::default().into_call(), Vec::new()).unwrap();
    sender.send(()).unwrap();
    let _conn = server.join().unwrap();
    let mut heard = 0;
    while heard < ONE_RECORD {
        match stream.read(Some(Duration::ZERO)).unwrap() {
            Some(Piece::Data(bytes)) => heard += bytes.len(),
            Some(other) => panic!("{other:?}"),
            None => assert!(support::readable(&client, PATIENCE), "{heard} bytes came, and nothing tells of the rest"),
        }
    }
}

#[test]
fn a_client_without_a_certificate_is_not_let_in() {
    let authority = Authority::new();
    let (root, theirs) = (authority.pem(), authority.issue("localhost", 2));
    let bare = Pems { authority: root.as_bytes(), ..Pems::default() };
    let (a, b) = meet(&bare, &pems(&root, &theirs, ""), ServerCheck::Full);
    assert!(matches!(a, Err(TlsError::Refused)), "{a:?}");
    assert!(matches!(b, Err(TlsError::Handshake(_))), "{b:?}");
    // But where nobody is asked for one.
    let open = server_config(&pems(&root, &theirs, ""), true).unwrap();
    let (a, b) = handshake(client_config(&bare, ServerCheck::Full, TlsVersions::default()).unwrap(), open);
    assert!(a.is_ok());
    assert_eq!(b.unwrap().1, None);
}

#[test]
fn a_client_of_another_authority_is_not_let_in() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (root, theirs, foreign) = (authority.pem(), authority.issue("localhost", 2), other.issue("client", 1));
    let (a, b) = meet(&pems(&root, &foreign, ""), &pems(&root, &theirs, ""), ServerCheck::Full);
    assert!(matches!(a, Err(TlsError::Refused)), "{a:?}");
    assert!(matches!(b, Err(TlsError::Handshake(_))), "{b:?}");
}

#[test]
fn a_revoked_client_is_not_let_in_and_an_old_list_lets_nobody_in() {
    let authority = Authority::new();
    let (root, theirs) = (authority.pem(), authority.issue("localhost", 2));
    let (bad, good) = (authority.issue("client", 7), authority.issue("client", 8));
    let list = authority.revoke(7, 2124);
    let (a, _) = meet(&pems(&root, &bad, ""), &pems(&root, &theirs, &list), ServerCheck::Full);
    assert!(matches!(a, Err(TlsError::Refused)), "{a:?}");
    let (a, b) = meet(&pems(&root, &good, ""), &pems(&root, &theirs, &list), ServerCheck::Full);
    assert!(a.is_ok() && b.is_ok());
    let old = authority.revoke(7, 2025);
    let (a, _) = meet(&pems(&root, &good, ""), &pems(&root, &theirs, &old), ServerCheck::Full);
    assert!(matches!(a, Err(TlsError::Refused)), "{a:?}");
}

#[test]
fn a_server_is_checked_before_its_word_counts() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (root, ours) = (authority.pem(), authority.issue("client", 1));
    let elsewhere = authority.issue("elsewhere", 2);
    let foreign = other.issue("localhost", 2);
    let revoked = authority.issue("localhost", 9);
    let list = authority.revoke(9, 2124);
    for (server, list) in [(&elsewhere, ""), (&foreign, ""), (&revoked, list.as_str())] {
        let (a, b) = meet(&pems(&root, &ours, list), &pems(&root, server, ""), ServerCheck::Full);
        assert!(matches!(a, Err(TlsError::Handshake(_))), "{a:?}");
        assert!(b.is_err());
        // Who asked for no check gets none.
        let (a, _) = meet(&pems(&root, &ours, ""), &pems(&root, server, ""), ServerCheck::None);
        assert!(a.is_ok(), "{a:?}");
    }
}

#[test]
fn a_server_that_hangs_up_instead_of_its_byte_refuses() {
    let authority = Authority::new();
    let (ours, theirs) = (authority.issue("client", 1), authority.issue("localhost", 2));
    let root = authority.pem();
    let (a, b) = sockets();
    let config = server_config(&pems(&root, &theirs, ""), false).unwrap();
    let server = thread::spawn(move || {
        let mut handshake = Handshake::server(config, b).unwrap();
        handshake.complete(PATIENCE).unwrap();
        // The name is not on its list.
    });
    let config = client_config(&pems(&root, &ours, ""), ServerCheck::Full, TlsVersions::default()).unwrap();
    let refused = Handshake::client(config, "localhost", a).unwrap().complete(PATIENCE);
    assert!(matches!(refused, Err(TlsError::Refused)), "{refused:?}");
    server.join().unwrap();
}

#[test]
fn a_handshake_that_is_not_done_opens_nothing() {
    let authority = Authority::new();
    let theirs = authority.issue("localhost", 2);
    let root = authority.pem();
    let (_a, b) = sockets();
    let mut handshake = Handshake::server(server_config(&pems(&root, &theirs, ""), false).unwrap(), b).unwrap();
    assert_eq!(handshake.advance().unwrap(), Progress::Read);
    assert!(handshake.accept().is_err());
}

#[test]
fn a_peer_that_does_nothing_is_given_up_and_one_that_talks_nonsense_at_once() {
    let authority = Authority::new();
    let theirs = authority.issue("localhost", 2);
    let root = authority.pem();
    let config = server_config(&pems(&root, &theirs, ""), false).unwrap();

    let (_a, b) = sockets();
    let silent = Handshake::server(Arc::clone(&config), b).unwrap().complete(Duration::from_millis(20));
    assert!(matches!(silent, Err(TlsError::Timeout(_))), "{silent:?}");

    // A record of 0xffff bytes; a ClientHello of 16 MiB in small records; no TLS at all.
    let mut endless = Vec::new();
    for _ in 0..40 {
        endless.extend(b"\x16\x03\x01\x10\0\x01\xff\xff\xff");
        endless.resize(endless.len() + 0x1000 - 4, 0);
    }
    for nonsense in [b"\x16\x03\x01\xff\xff\x01\0\0".to_vec(), endless, b"GET / HTTP/1.0\r\n\r\n".to_vec()] {
        let (mut a, b) = sockets();
        let mut handshake = Handshake::server(Arc::clone(&config), b).unwrap();
        let writing = thread::spawn(move || {
            a.set_nonblocking(false).unwrap();
            // The server may hang up before all of it is written.
            let _ = a.write_all(&nonsense);
            let _ = a.read(&mut [0; 64]);
        });
        let refused = handshake.complete(PATIENCE);
        assert!(matches!(refused, Err(TlsError::Handshake(_))), "{refused:?}");
        drop(handshake);
        writing.join().unwrap();
    }

    let (a, b) = sockets();
    drop(a);
    let gone = Handshake::server(config, b).unwrap().complete(PATIENCE);
    assert!(matches!(gone, Err(TlsError::Closed)), "{gone:?}");
}

#[test]
fn files_that_are_wrong_are_named() {
    let authority = Authority::new();
    let theirs = authority.issue("localhost", 2);
    let root = authority.pem();
    let good = pems(&root, &theirs, "");
    let text = |pems: &Pems<'_>| server_config(pems, false).unwrap_err().to_string();
    assert!(text(&Pems { authority: b"", ..good }).contains("authority"));
    assert!(text(&Pems { certificate: b"no", ..good }).contains("own certificate"));
    assert!(text(&Pems { key: b"", ..good }).contains("key"));
    assert!(text(&Pems { revoked: b"no", ..good }).contains("revoked"));
    let other = authority.issue("localhost", 3);
    assert!(server_config(&Pems { key: other.key.as_bytes(), ..good }, false).is_err());
    let config = client_config(&good, ServerCheck::Full, TlsVersions::default()).unwrap();
    let (a, _b) = sockets();
    assert!(matches!(Handshake::client(config, "not a host", a), Err(TlsError::HostName(_))));
}
