//! The security layer below the frames, with a mechanism that protects nothing from anybody and shows every mistake.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests may fail like tests.

use std::{
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    thread,
    time::Duration,
};

use api::{Call, Event, Operation, Reply, remote};
use proptest::{collection::vec, prelude::*};
use wire::{
    Conn, Transport, WireError,
    client::{CallError, Client, login},
    codec,
    layer::{Layered, MAX_WRAPPED, ProtectionError, SecurityLayer},
    transport::{Plain, TransportError, Unix},
};

mod support;
use support::{Script, get_hostname, hostname, null, raw, recv};

const PATIENCE: Duration = Duration::from_secs(20);

/// Numbers the chunks, and mirrors the bits of each byte.
#[derive(Clone)]
struct Toy {
    out: u32,
    next: u32,
    max_plain: usize,
    confidential: bool,
}

impl Toy {
    fn boxed() -> Box<dyn SecurityLayer> {
        Toy::taking(MAX_WRAPPED - 4)
    }

    fn taking(max_plain: usize) -> Box<dyn SecurityLayer> {
        Box::new(Toy { out: 0, next: 0, max_plain, confidential: true })
    }
}

impl SecurityLayer for Toy {
    fn wrap(&mut self, plain: &[u8]) -> Result<Vec<u8>, ProtectionError> {
        assert!(plain.len() <= self.max_plain);
        let number = self.out.to_be_bytes();
        self.out += 1;
        Ok(number.into_iter().chain(plain.iter().map(|byte| !byte)).collect())
    }

    fn unwrap(&mut self, wrapped: &[u8]) -> Result<Vec<u8>, ProtectionError> {
        let (number, bytes) = wrapped.split_first_chunk().ok_or("no number")?;
        if u32::from_be_bytes(*number) != self.next {
            return Err("another chunk is due".into());
        }
        self.next += 1;
        Ok(bytes.iter().map(|byte| !byte).collect())
    }

    fn max_plain(&self) -> usize {
        self.max_plain
    }

    fn max_wrapped(&self) -> usize {
        self.max_plain + 4
    }

    fn is_confidential(&self) -> bool {
        self.confidential
    }
}

/// Chunks as they travel.
fn chunks(plains: &[Vec<u8>]) -> Vec<u8> {
    let mut toy = Toy::boxed();
    let wrapped = plains.iter().map(|plain| toy.wrap(plain).unwrap());
    wrapped.flat_map(|chunk| [u32::try_from(chunk.len()).unwrap().to_be_bytes().to_vec(), chunk].concat()).collect()
}

fn layered<T: Transport>(below: T, layer: Box<dyn SecurityLayer>) -> Layered<T> {
    let mut layered = Layered::new(below);
    layered.engage(layer, &[]);
    layered
}

/// All that comes, read with a buffer of this size.
fn read_all(stream: &mut impl Transport, buffer: usize) -> Result<Vec<u8>, TransportError> {
    let mut all = Vec::new();
    let mut buffer = vec![0; buffer];
    loop {
        match stream.recv(&mut buffer, &mut Vec::new())? {
            Some(0) => return Ok(all),
            Some(count) => all.extend_from_slice(&buffer[..count]),
            None => {}
        }
    }
}

proptest! {
    #[test]
    fn chunks_are_opened_wherever_the_stream_is_cut(
        plains in vec(vec(any::<u8>(), 1..300), 0..8), cuts in vec(any::<usize>(), 0..40), buffer in 1..500usize,
        early in any::<usize>(),
    ) {
        let bytes = chunks(&plains);
        let (early, later) = bytes.split_at(early % (bytes.len() + 1));
        let mut stream = Layered::new(Script::cut(later, &cuts));
        stream.engage(Toy::boxed(), early);
        prop_assert_eq!(read_all(&mut stream, buffer).unwrap(), plains.concat());
        prop_assert!(!stream.has_buffered());
    }

    #[test]
    fn whatever_comes_is_an_error_or_bytes(bytes in vec(any::<u8>(), 0..200), cuts in vec(any::<usize>(), 0..10)) {
        let mut stream = layered(Script::cut(&bytes, &cuts), Toy::boxed());
        let _ = read_all(&mut stream, 64);
    }

    #[test]
    fn what_is_sent_reads_back_in_chunks_that_the_peer_takes(bytes in vec(any::<u8>(), 1..5000), max in 1..700usize) {
        let mut sender = layered(Narrow { written: Vec::new(), room: 0, pollable: null() }, Toy::taking(max));
        let mut sent = 0;
        let mut spare = 0;
        while sent < bytes.len() || !sender.flush().unwrap() {
            spare += 1;
            prop_assert!(spare < 100_000);
            if sent < bytes.len() {
                sent += sender.send(&bytes[sent..]).unwrap().unwrap_or(0);
            }
        }
        prop_assert!(!sender.wants_write());
        let written = below(sender);
        let mut rest = &written[..];
        while let Some((length, more)) = rest.split_first_chunk() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
            prop_assert!(length <= max + 4);
            rest = &more[length..];
        }
        let mut reader = layered(Script::new([(written, Vec::new())]), Toy::boxed());
        prop_assert_eq!(read_all(&mut reader, 999).unwrap(), bytes);
    }
}

/// A stream with room for a few bytes now and then.
struct Narrow {
    written: Vec<u8>,
    room: usize,
    pollable: OwnedFd,
}

thread_local! {
    /// What a [`Narrow`] was given when it was dropped.
    static WRITTEN: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Drop for Narrow {
    fn drop(&mut self) {
        WRITTEN.with(|written| *written.borrow_mut() = std::mem::take(&mut self.written));
    }
}

fn below(stream: Layered<Narrow>) -> Vec<u8> {
    drop(stream);
    WRITTEN.with(|written| std::mem::take(&mut *written.borrow_mut()))
}

impl AsFd for Narrow {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pollable.as_fd()
    }
}

impl Transport for Narrow {
    fn recv(&mut self, _: &mut [u8], _: &mut Vec<OwnedFd>) -> Result<Option<usize>, TransportError> {
        Ok(None)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<Option<usize>, TransportError> {
        self.room = (self.room + 5) % 23;
        let count = bytes.len().min(self.room);
        self.written.extend_from_slice(&bytes[..count]);
        Ok((count > 0).then_some(count))
    }
}

#[track_caller]
fn refused(bytes: &[u8], why: &str) {
    let mut stream = layered(Script::new([(bytes.to_vec(), Vec::new())]), Toy::boxed());
    let error = read_all(&mut stream, 4096).unwrap_err();
    let TransportError::Layer(error) = error else { panic!("{error:?}") };
    assert!(error.to_string().contains(why), "{error}");
}

#[test]
fn a_chunk_that_cannot_be_is_refused() {
    let length = |length: usize| u32::try_from(length).unwrap().to_be_bytes().to_vec();
    refused(&[0; 4], "chunk of 0 bytes");
    // Refused by its length alone: nothing of it has come, and no room was made.
    refused(&length(MAX_WRAPPED + 1), "chunk of 65537 bytes");
    refused(&[0xff; 4], "chunk of 4294967295 bytes");
    refused(&[0, 0, 0], "within a protected chunk");
    refused(&[length(100), vec![0; 99]].concat(), "within a protected chunk");
    refused(&chunks(&[Vec::new()]), "holds nothing");
    refused(&[length(3), vec![0; 3]].concat(), "cannot be accepted");
}

#[test]
fn a_chunk_that_comes_again_or_never_is_noticed() {
    let both = chunks(&[b"one".to_vec(), b"two".to_vec()]);
    let one = &both[..both.len() / 2];
    refused(&[one, one].concat(), "cannot be accepted");
    refused(&both[one.len()..], "cannot be accepted");
}

#[test]
fn the_longest_chunk_is_taken() {
    let plain = vec![7; MAX_WRAPPED - 4];
    let bytes = chunks(std::slice::from_ref(&plain));
    let mut stream = layered(Script::cut(&bytes, &[1, 5, 70]), Toy::boxed());
    assert!(read_all(&mut stream, 8192).unwrap() == plain);
}

#[test]
fn a_mechanism_that_makes_too_much_of_it_is_not_sent() {
    struct Long;
    impl SecurityLayer for Long {
        fn wrap(&mut self, _: &[u8]) -> Result<Vec<u8>, ProtectionError> {
            Ok(vec![0; 11])
        }
        fn unwrap(&mut self, _: &[u8]) -> Result<Vec<u8>, ProtectionError> {
            Err("never".into())
        }
        fn max_plain(&self) -> usize {
            5
        }
        fn max_wrapped(&self) -> usize {
            10
        }
        fn is_confidential(&self) -> bool {
            false
        }
    }
    let mut stream = layered(Script::new([]), Box::new(Long));
    let error = stream.send(b"hello").unwrap_err();
    assert!(matches!(&error, TransportError::Layer(why) if why.to_string().contains("11 bytes")), "{error:?}");
    assert!(!stream.is_encrypted());
}

#[test]
fn a_descriptor_beside_protected_bytes_is_nobodys() {
    let mut stream = layered(Script::new([(chunks(&[b"x".to_vec()]), vec![null()])]), Toy::boxed());
    let mut fds = Vec::new();
    assert!(matches!(stream.recv(&mut [0; 8], &mut fds), Err(TransportError::NoFds)));
    assert!(fds.is_empty());
    assert!(!stream.passes_fds());
    assert!(matches!(stream.send_fd(null().as_fd()), Err(TransportError::NoFds)));
}

#[test]
fn a_connection_is_not_protected_with_something_on_its_way() {
    let (peer, conn) = raw();
    drop(conn);
    let mut conn = Conn::new(Layered::new(Unix::new(peer)));
    conn.queue_raw(&support::call_header(1, 0), b"").unwrap();
    assert!(matches!(conn.engage(Toy::boxed()), Err(WireError::Protocol(_))));
}

/// A mechanism of one message and one answer.
struct Agreed {
    done: bool,
    layer: Option<Box<dyn SecurityLayer>>,
}

impl login::Sasl for Agreed {
    fn start(&mut self, offered: &[&str]) -> Result<Option<login::Choice>, login::SaslError> {
        assert_eq!(offered, ["TOY"]);
        Ok(Some(login::Choice { mechanism: "TOY".into(), initial: None }))
    }

    fn step(&mut self, _: Option<&[u8]>) -> Result<Option<Vec<u8>>, login::SaslError> {
        self.done = true;
        Ok(None)
    }

    fn is_complete(&self) -> bool {
        self.done
    }

    fn layer(&mut self) -> Option<Box<dyn SecurityLayer>> {
        self.layer.take()
    }
}

fn lifecycle(callback_id: i32) -> Event {
    Event::DomainEventCallbackLifecycle(remote::DomainEventCallbackLifecycleMsg { callback_id, ..Default::default() })
}

/// A server that lets everybody in by the mechanism above and tells `greeting` in the same breath; then echoes names.
fn serve(socket: &UnixStream, protected: bool, greeting: &[Event]) {
    let mut conn = Conn::new(Layered::new(Unix::new(socket.try_clone().unwrap())));
    for _ in 0..2 {
        let frame = recv(&mut conn).unwrap();
        let reply = match codec::decode_call(&frame).unwrap() {
            Call::AuthList(_) => Reply::AuthList(remote::AuthListRet { types: vec![remote::AuthType::SASL] }),
            Call::AuthSaslInit(_) => Reply::AuthSaslInit(remote::AuthSaslInitRet { mechlist: "TOY".into() }),
            other => panic!("{other:?}"),
        };
        conn.queue_answer(&frame.header, &Ok(reply), Vec::new()).unwrap();
        assert!(conn.flush().unwrap());
    }
    let start = recv(&mut conn).unwrap();
    let last = Reply::AuthSaslStart(remote::AuthSaslStartRet { complete: 1, nil: 1, data: Vec::new() });
    // The last word in clear and the first ones behind it, in one write.
    let mut clear = Conn::new(Script::new([]));
    clear.queue_answer(&start.header, &Ok(last), Vec::new()).unwrap();
    assert!(clear.flush().unwrap());
    let mut bytes = clear.transport().written.clone();
    let mut behind = Conn::new(Script::new([]));
    for event in greeting {
        behind.queue_event(event).unwrap();
    }
    assert!(behind.flush().unwrap());
    let mut toy = Toy { out: 0, next: 0, max_plain: MAX_WRAPPED - 4, confidential: true };
    for piece in behind.transport().written.chunks(200) {
        if protected {
            let chunk = toy.wrap(piece).unwrap();
            bytes.extend(u32::try_from(chunk.len()).unwrap().to_be_bytes());
            bytes.extend(chunk);
        } else {
            bytes.extend_from_slice(piece);
        }
    }
    std::io::Write::write_all(&mut &*socket, &bytes).unwrap();
    if protected {
        conn.engage(Box::new(toy)).unwrap();
    }
    let mut count = 0;
    while let Ok(frame) = recv(&mut conn) {
        count += 1;
        conn.queue_answer(&frame.header, &Ok(hostname(&format!("{count}").repeat(100_000))), Vec::new()).unwrap();
        while !conn.flush().unwrap() {
            use rustix::event::{PollFd, PollFlags, poll};
            poll(&mut [PollFd::new(&conn, PollFlags::OUT)], None).unwrap();
        }
    }
}

#[test]
fn a_login_may_end_in_a_layer_and_nothing_behind_it_is_lost() {
    for protected in [true, false] {
        let (a, b) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        let greeting: Vec<Event> = (0..40).map(lifecycle).collect();
        let serving = thread::spawn({
            let greeting = greeting.clone();
            move || serve(&b, protected, &greeting)
        });
        let client = Client::new(Box::new(Plain::new(a))).unwrap();
        assert!(!client.is_secure() && !client.is_encrypted());
        let mut sasl = Agreed { done: false, layer: protected.then(Toy::boxed) };
        assert_eq!(client.login(Some(&mut sasl), PATIENCE).unwrap(), login::Method::Sasl);
        assert_eq!((client.is_secure(), client.is_encrypted()), (protected, protected));
        assert_eq!(client.take_events(), greeting);
        for number in 1..4 {
            let (reply, _) = client.call(&get_hostname(), Vec::new()).unwrap();
            let name = remote::ConnectGetHostnameArgs::ret_of(reply).unwrap().hostname;
            assert!(name == format!("{number}").repeat(100_000));
        }
        drop(client);
        serving.join().unwrap();
    }
}

#[test]
fn a_stream_that_was_changed_is_lost() {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    let serving = thread::spawn(move || serve(&b, false, &[lifecycle(1), lifecycle(2)]));
    let client = Client::new(Box::new(Plain::new(a))).unwrap();
    let mut sasl = Agreed { done: false, layer: Some(Toy::boxed()) };
    let error = client.login(Some(&mut sasl), PATIENCE).unwrap_err();
    assert!(matches!(error, login::LoginError::Call(CallError::Lost(_))), "{error:?}");
    drop(client);
    serving.join().unwrap();
}
