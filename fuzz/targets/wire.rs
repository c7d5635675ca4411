//! What comes from the peers of libvirt's protocol.

use std::{
    io::{Stdin, stdin},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, OnceLock},
};

use api::{Call, Event, Op, Reply, remote, xdr};
use wire::{
    Conn, Frame, Header, Kind, Transport,
    client::login::Sasl,
    codec::{self, Meaning},
    keepalive,
    layer::{Layered, ProtectionError, SecurityLayer, offer::Offer},
    sasl::{MECHANISM, Passwords, Scram, ServerExchange, Users, Verifier},
    stream::{ClientEnd, Packet, ServerEnd, StreamId},
    tls::distinguished_name,
    transport::TransportError,
};

/// A peer that says these bytes, a few at a time, and leaves.
struct Peer<'a> {
    bytes: &'a [u8],
    at_once: usize,
    /// Something that could be polled; nobody does.
    pollable: Stdin,
}

impl AsFd for Peer<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pollable.as_fd()
    }
}

impl Transport for Peer<'_> {
    fn recv(&mut self, buffer: &mut [u8], _: &mut Vec<OwnedFd>) -> Result<Option<usize>, TransportError> {
        let count = self.bytes.len().min(buffer.len()).min(self.at_once);
        let (now, later) = self.bytes.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.bytes = later;
        Ok(Some(count))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<Option<usize>, TransportError> {
        Ok(Some(bytes.len()))
    }

    fn passes_fds(&self) -> bool {
        true
    }
}

fn peer(bytes: &[u8]) -> Conn<Peer<'_>> {
    let (first, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    Conn::new(Peer { bytes, at_once: usize::from(*first) + 1, pollable: stdin() })
}

fn encoded(encode: impl Fn(&mut xdr::Encoder) -> Result<(), xdr::XdrError>) -> Vec<u8> {
    let mut out = xdr::Encoder::new();
    encode(&mut out).expect("what was read can be written");
    out.into_vec()
}

/// What a server reads: the first byte says how many bytes come at once, the rest is a connection's.
pub fn calls(bytes: &[u8]) {
    let mut conn = peer(bytes);
    loop {
        match conn.next_frame() {
            Ok(Some(frame)) => serve(&mut conn, frame),
            // Without descriptors in the stream, a frame that announces some waits for ever.
            Ok(None) => drop(conn.fill().expect("this peer does not fail")),
            Err(_) => break,
        }
        assert!(conn.held() <= 8 * bytes.len() + (1 << 20), "memory goes by what came, not by what was announced");
    }
}

fn serve(conn: &mut Conn<Peer<'_>>, frame: Frame) {
    match frame.header.meaning() {
        Meaning::Call => {
            match codec::decode_call(&frame) {
                Ok(call) => {
                    let once = encoded(|out| call.encode(out));
                    let again = Call::decode(call.op(), &mut xdr::Decoder::new(&once));
                    let again = again.expect("what was written can be read").expect("it is the same call");
                    assert_eq!(encoded(|out| again.encode(out)), once);
                }
                Err(error) => conn.queue_error(&frame.header, &error).expect("every error can be told"),
            }
            drop(conn.flush());
        }
        Meaning::Keepalive => drop(keepalive::answer(&frame.header)),
        Meaning::Stream => drop(Packet::decode(frame)),
        Meaning::Event | Meaning::Reply | Meaning::Nothing => {}
    }
}

/// What a client reads: two bytes choose an operation, the third what comes for it, the rest is the payload.
pub fn answers(bytes: &[u8]) {
    let Some(([high, low, what], payload)) = bytes.split_first_chunk::<3>() else { return };
    let op = Op::ALL[usize::from(u16::from_be_bytes([*high, *low])) % Op::ALL.len()];
    let mut input = xdr::Decoder::new(payload);
    match what % 4 {
        0 => {
            if let Ok(Some(reply)) = Reply::decode(op, &mut input) {
                let once = encoded(|out| reply.encode(out));
                let again = Reply::decode(op, &mut xdr::Decoder::new(&once));
                let again = again.expect("what was written can be read").expect("it is the same reply");
                assert_eq!(encoded(|out| again.encode(out)), once);
            }
        }
        1 => {
            if let Ok(Some(event)) = Event::decode(op, &mut input) {
                let once = encoded(|out| event.encode(out));
                let again = Event::decode(op, &mut xdr::Decoder::new(&once));
                let again = again.expect("what was written can be read").expect("it is the same event");
                assert_eq!(encoded(|out| again.encode(out)), once);
            }
        }
        2 => {
            if let Ok(error) = codec::decode_error(payload) {
                drop(encoded(|out| codec::encode_error(&error, out)));
            }
        }
        _ => {
            let header = codec::header(op, Kind::Message, 1);
            drop(codec::decode_event(&Frame { header, payload: payload.to_vec(), fds: Vec::new() }));
        }
    }
}

/// What comes for a stream, to either end: the first byte chooses the kind of stream, then each packet has a byte of kind,
/// one of status, one of length, and so many bytes.
pub fn streams(bytes: &[u8]) {
    let Some((kind, mut rest)) = bytes.split_first() else { return };
    let flow = [api::Stream::Read, api::Stream::Write, api::Stream::Both][usize::from(kind & 0x7f) % 3];
    let begin = codec::header(Op::StorageVolUpload, Kind::Call, 1);
    let id = StreamId::from(&begin);
    let mut conn = peer(&[]);
    let (mut server, mut client) =
        (ServerEnd::new(id, flow, kind & 0x80 != 0), ClientEnd::new(id, flow, kind & 0x80 != 0));
    while let Some(([kind, status, length], more)) = rest.split_first_chunk::<3>() {
        let (payload, more) = more.split_at(more.len().min(usize::from(*length)));
        rest = more;
        let header = Header { kind: i32::from(*kind).into(), status: i32::from(*status).into(), ..begin };
        if header.meaning() != Meaning::Stream {
            continue;
        }
        let Ok(packet) = Packet::decode(Frame { header, payload: payload.to_vec(), fds: Vec::new() }) else { continue };
        let over = (server.is_over(), client.is_over());
        let _ = server.take(packet.clone());
        let _ = client.take(packet);
        server.data(&mut conn, payload).expect("data can be queued");
        client.data(&mut conn, payload).expect("data can be queued");
        assert!(over.0 <= server.is_over() && over.1 <= client.is_over(), "what is over stays over");
    }
    server.confirm(&mut conn).expect("the end can be queued");
    assert!(server.is_over());
}

/// A layer that hides nothing and finds a fault with some chunks.
struct Thin;

impl SecurityLayer for Thin {
    fn wrap(&mut self, plain: &[u8]) -> Result<Vec<u8>, ProtectionError> {
        Ok(plain.to_vec())
    }

    fn unwrap(&mut self, wrapped: &[u8]) -> Result<Vec<u8>, ProtectionError> {
        match wrapped {
            [0xee, ..] => Err("not the next one".into()),
            [0xdd, plain @ ..] => Ok(plain.to_vec()),
            wrapped => Ok(wrapped.to_vec()),
        }
    }

    fn max_plain(&self) -> usize {
        1 << 10
    }

    fn max_wrapped(&self) -> usize {
        1 << 10
    }

    fn is_confidential(&self) -> bool {
        true
    }
}

/// What a client reads through a layer of SASL's: the first byte says how many bytes come at once, the rest is chunks, and
/// what stands in them a connection's bytes. The first bytes are a server's offer of layers, too.
pub fn layers(bytes: &[u8]) {
    if let Ok(offer) = Offer::parse(bytes.get(..4).unwrap_or(bytes)) {
        for (secure, encrypts) in [(true, true), (true, false), (false, true), (false, false)] {
            if let Ok(protection) = offer.choose(secure, encrypts) {
                assert!(protection.max_plain() > 0 && protection.answer() != [0; 4]);
            }
        }
    }
    let (first, chunks) = bytes.split_first().unwrap_or((&0, &[]));
    let mut layered = Layered::new(Peer { bytes: chunks, at_once: usize::from(*first) + 1, pollable: stdin() });
    layered.engage(Box::new(Thin), &[]);
    let mut conn = Conn::new(layered);
    loop {
        match conn.next_frame() {
            Ok(Some(frame)) => drop(frame),
            Ok(None) if conn.fill().is_err() => break,
            Ok(None) => {}
            Err(_) => break,
        }
        assert!(conn.held() <= 8 * bytes.len() + (1 << 20), "memory goes by what came, not by what was announced");
    }
}

/// A name in a certificate.
pub fn names(bytes: &[u8]) {
    if let Some(name) = distinguished_name(bytes) {
        // Each byte is written as three at most, and each attribute has at least six bytes around its value.
        assert!(name.len() <= 16 * bytes.len() + 16, "{} bytes of {}", name.len(), bytes.len());
    }
}

struct Fred;

impl Users for Fred {
    fn verifier(&self, name: &str) -> Option<Verifier> {
        static FRED: OnceLock<Option<Verifier>> = OnceLock::new();
        FRED.get_or_init(|| Verifier::derive("pencil", 1, b"0123456789abcdef")).clone().filter(|_| name == "fred")
    }
}

/// What comes to either side of a login: messages, between line ends. `NONCE` stands for the other side's.
pub fn sasl(bytes: &[u8]) {
    let mut server = ServerExchange::new(Arc::new(Passwords::new(Arc::new(Fred))));
    let mut client = Scram::new("fred", "pencil");
    let first = client.start(&[MECHANISM]).ok().flatten().and_then(|choice| choice.initial).unwrap_or_default();
    let nonce = String::from_utf8_lossy(&first).split(",r=").nth(1).unwrap_or_default().to_owned();
    for (index, line) in bytes.split(|byte| *byte == b'\n').take(8).enumerate() {
        let data = line.iter().map(|byte| byte.cast_signed()).collect();
        let answered = if index == 0 {
            server.start(&remote::AuthSaslStartArgs { mech: MECHANISM.to_owned(), nil: 0, data }).is_ok()
        } else {
            server.step(&remote::AuthSaslStepArgs { nil: 0, data }).is_ok()
        };
        assert!(server.name().is_none(), "nobody proves anything without the password");
        assert!(index == 0 || !answered);
        let line = String::from_utf8_lossy(line).replace("NONCE", &nonce);
        let _ = client.step(Some(line.as_bytes()));
        assert!(!client.is_complete(), "no server proves anything without the verifier");
        drop(line.parse::<Verifier>());
    }
}
