//! What nobody should send, sent raw to Debian's libvirtd and to our gateway: the same is refused, in the same way.
//!
//! The bytes are made here, by the description of the protocol, and not by the house's own codec.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
};

use bulkhead_tests::{Gateway, Instance, LONG, Libvirtd, Role};

const REMOTE: u32 = 0x2000_8086;
const KEEPALIVE: u32 = 0x6b65_6570;

// Procedures.
const OPEN: i32 = 1;
const LIST_DOMAINS: i32 = 37;
const HOSTNAME: i32 = 59;
const LOOKUP: i32 = 23;
const AUTH_LIST: i32 = 66;
const SASL_INIT: i32 = 67;
const SASL_START: i32 = 68;
const SASL_STEP: i32 = 69;
const POLKIT: i32 = 70;
const LIFECYCLE_EVENT: i32 = 318;

// Types.
const CALL: i32 = 0;
const REPLY: i32 = 1;
const MESSAGE: i32 = 2;
const STREAM: i32 = 3;
const CALL_WITH_FDS: i32 = 4;
const REPLY_WITH_FDS: i32 = 5;
const HOLE: i32 = 6;

/// Serials of the hostile call, and of the one that follows it.
const HOSTILE: u32 = 9;
const MARKER: u32 = 777;

#[derive(Clone, Copy)]
struct Head {
    program: u32,
    version: u32,
    procedure: i32,
    kind: i32,
    status: i32,
}

const fn call(procedure: i32) -> Head {
    Head { program: REMOTE, version: 1, procedure, kind: CALL, status: 0 }
}

/// A frame, with a length that counts right.
fn frame(head: Head, serial: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(28 + payload.len()).unwrap();
    let words = [head.program, head.version, head.procedure as u32, head.kind as u32, serial, head.status as u32];
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    bytes.extend_from_slice(payload);
    bytes
}

/// A text as the protocol has it: its length, itself, zeros up to four.
fn text(text: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(text);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn open_args(name: &str) -> Vec<u8> {
    [&1u32.to_be_bytes()[..], &text(name.as_bytes()), &0u32.to_be_bytes()].concat()
}

/// How far a connection has come before the hostile bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Fresh,
    LoggedIn,
    Opened,
}

/// What follows the hostile bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// A call that is well formed: if it is answered, the connection goes on.
    Goes,
    /// The end of what is sent: whoever waits for more gets no more.
    Ends,
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// The connection ends without an answer.
    Dropped,
    /// Nothing, and the connection goes on.
    Silence,
    /// An answer, and the connection goes on.
    Answer,
    /// An error, and the connection goes on.
    Refusal { code: i32, domain: i32, text: String },
}

struct Raw(UnixStream);

impl Raw {
    fn at(socket: &Path, stage: Stage) -> Raw {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        let mut raw = Raw(stream);
        if stage != Stage::Fresh {
            raw.ok(AUTH_LIST, &[]);
        }
        if stage == Stage::Opened {
            raw.ok(OPEN, &open_args("test:///default"));
        }
        raw
    }

    fn ok(&mut self, procedure: i32, payload: &[u8]) {
        self.send(&frame(call(procedure), 1, payload));
        let (_, status, payload) = self.next().expect("an answer");
        assert_eq!(status, 0, "{payload:?}");
    }

    fn send(&mut self, bytes: &[u8]) {
        // Whoever hangs up in the middle is one of the outcomes.
        let _ = self.0.write_all(bytes);
    }

    /// Serial, status and payload of the next answer; nothing at the end.
    fn next(&mut self) -> Option<(u32, u32, Vec<u8>)> {
        loop {
            let mut head = [0; 28];
            match self.0.read_exact(&mut head) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("neither an answer nor an end"),
                Err(_) => return None,
            }
            let word = |at: usize| u32::from_be_bytes(head[at * 4..at * 4 + 4].try_into().unwrap());
            let mut payload = vec![0; word(0) as usize - 28];
            self.0.read_exact(&mut payload).ok()?;
            if word(4) == REPLY as u32 {
                return Some((word(5), word(6), payload));
            }
        }
    }

    /// Sends hostile bytes and what follows them. `answered` says whether there should be an answer, which libvirtd may give
    /// later than that of a later call.
    fn outcome(mut self, bytes: &[u8], then: Then, answered: bool) -> Outcome {
        self.send(bytes);
        match then {
            Then::Goes => self.send(&frame(call(AUTH_LIST), MARKER, &[])),
            Then::Ends => self.0.shutdown(Shutdown::Write).unwrap(),
        }
        let (mut answer, mut goes_on) = (None, false);
        while !(goes_on && (answer.is_some() || !answered)) {
            let Some((serial, status, payload)) = self.next() else { return Outcome::Dropped };
            match serial {
                MARKER => goes_on = true,
                HOSTILE if status == 0 => answer = Some(Outcome::Answer),
                HOSTILE => answer = Some(refusal(&payload)),
                // libvirtd's number for what has none.
                other => panic!("an answer to {other}: {payload:?}"),
            }
        }
        answer.unwrap_or(Outcome::Silence)
    }
}

fn refusal(payload: &[u8]) -> Outcome {
    let word = |at: usize| i32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    let (code, domain) = (word(0), word(4));
    assert_eq!(word(8), 1, "there is a text: {payload:?}");
    let length = usize::try_from(word(12)).unwrap();
    let text = String::from_utf8_lossy(&payload[16..16 + length]).into_owned();
    assert_eq!(word(16 + length.next_multiple_of(4)), 2, "its level, which is an error's: {text}");
    Outcome::Refusal { code, domain, text }
}

/// What ours does.
enum Ours {
    /// The same as libvirtd.
    Same,
    /// The same code and domain, with a text of its own: no client tests that of such an error.
    OwnText,
    /// Something else, and why.
    Otherwise(Outcome, &'static str),
    /// Some error of this code, and why it is not libvirtd's.
    Code(i32, &'static str),
}

struct Row {
    what: &'static str,
    stage: Stage,
    bytes: Vec<u8>,
    then: Then,
    theirs: Outcome,
    ours: Ours,
}

/// In place of a code: libvirtd's is not always the same.
const ANY: i32 = -1;

fn error(code: i32, domain: i32, text: &str) -> Outcome {
    Outcome::Refusal { code, domain, text: text.to_owned() }
}

/// An error of the protocol, in libvirt's numbers.
fn rpc(text: &str) -> Outcome {
    error(39, 7, text)
}

fn rows() -> Vec<Row> {
    use Ours::{Code, Otherwise, OwnText, Same};
    use Outcome::{Answer, Dropped, Silence};
    use Stage::{Fresh, LoggedIn, Opened};
    use Then::{Ends, Goes};
    const LOGIN: &str = "libvirtd asks for a login where it is configured to; ours always does, in the same words";
    let row = |what, stage, bytes: Vec<u8>, then, theirs, ours| Row { what, stage, bytes, then, theirs, ours };
    let hostname = call(HOSTNAME);
    let lookup = |payload: &[u8]| frame(call(LOOKUP), HOSTILE, payload);
    let plain = frame(hostname, HOSTILE, &[]);
    let length = |length: u32| [&length.to_be_bytes()[..], &plain[4..], &[0; 64]].concat();
    let with_fds = |count: u32| frame(Head { kind: CALL_WITH_FDS, ..hostname }, HOSTILE, &count.to_be_bytes());
    let of_kind = |kind, status| frame(Head { kind, status, ..hostname }, HOSTILE, &[]);
    let sasl = text(b"SCRAM-SHA-256");
    vec![
        // Lengths.
        row("a length of zero", Opened, length(0), Ends, Dropped, Same),
        row("a length of itself only", Opened, length(4), Ends, Dropped, Same),
        row("a length below a header's", Opened, length(27), Ends, Dropped, Same),
        row("a negative length", Opened, length(0x8000_0000), Ends, Dropped, Same),
        row("a length over the cap", Opened, length(0x0200_0005), Ends, Dropped, Same),
        row("a length of 4 GiB", Opened, length(u32::MAX), Ends, Dropped, Same),
        row("half a length", Opened, vec![0, 0], Ends, Dropped, Same),
        row("half a header", Opened, plain[..15].to_vec(), Ends, Dropped, Same),
        row("half a payload", Opened, lookup(&text(b"test"))[..30].to_vec(), Ends, Dropped, Same),
        row("nothing", Opened, vec![], Ends, Dropped, Same),
        row("nothing at all", Fresh, vec![], Ends, Dropped, Same),
        row(
            "text of another protocol",
            Fresh,
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            Ends,
            Dropped,
            Same,
        ),
        row(
            "a hello of TLS",
            Fresh,
            [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), &[7; 500]].concat(),
            Ends,
            Dropped,
            Same,
        ),
        // Headers.
        row(
            "an unknown program",
            Opened,
            frame(Head { program: 7, ..hostname }, HOSTILE, &[]),
            Goes,
            rpc("Cannot find program 7 version 1"),
            Same,
        ),
        row(
            "an unknown version",
            Opened,
            frame(Head { version: 2, ..hostname }, HOSTILE, &[]),
            Goes,
            rpc("Cannot find program 536903814 version 2"),
            Same,
        ),
        row("procedure 0", Opened, frame(call(0), HOSTILE, &[]), Goes, rpc("unknown procedure: 0"), Same),
        row(
            "an unknown procedure",
            Opened,
            frame(call(70_000), HOSTILE, &[]),
            Goes,
            rpc("unknown procedure: 70000"),
            Same,
        ),
        row("a negative procedure", Opened, frame(call(-5), HOSTILE, &[]), Goes, rpc("unknown procedure: -5"), Same),
        row(
            "an event called",
            Opened,
            frame(call(LIFECYCLE_EVENT), HOSTILE, &[]),
            Goes,
            rpc("unknown procedure: 318"),
            Same,
        ),
        row("a call that has failed", Opened, of_kind(CALL, 1), Goes, rpc("Unexpected message status 1"), Same),
        row("a call that continues", Opened, of_kind(CALL, 2), Goes, rpc("Unexpected message status 2"), Same),
        row("a call of no status", Opened, of_kind(CALL, 77), Goes, rpc("Unexpected message status 77"), Same),
        row("a reply", Opened, of_kind(REPLY, 0), Goes, Silence, Same),
        row("an error", Opened, of_kind(REPLY, 1), Goes, Silence, Same),
        row("a message", Opened, of_kind(MESSAGE, 0), Goes, Silence, Same),
        row("a stream's data", Opened, of_kind(STREAM, 2), Goes, Silence, Same),
        row("a stream's end", Opened, of_kind(STREAM, 0), Goes, Silence, Same),
        row(
            "a hole",
            Opened,
            frame(Head { kind: HOLE, status: 2, ..hostname }, HOSTILE, &[0; 12]),
            Goes,
            Silence,
            Same,
        ),
        row(
            "half a hole",
            Opened,
            frame(Head { kind: HOLE, status: 2, ..hostname }, HOSTILE, &[0; 5]),
            Goes,
            Silence,
            Same,
        ),
        row(
            "a reply with descriptors",
            Opened,
            frame(Head { kind: REPLY_WITH_FDS, ..hostname }, HOSTILE, &[0; 4]),
            Goes,
            Silence,
            Same,
        ),
        row("no kind of message", Opened, of_kind(77, 0), Goes, Silence, Same),
        row(
            "a call of keepalive's",
            Opened,
            frame(Head { program: KEEPALIVE, ..call(1) }, HOSTILE, &[]),
            Goes,
            rpc("Cannot find program 1801807216 version 1"),
            Same,
        ),
        row(
            "an unknown keepalive",
            Opened,
            frame(Head { program: KEEPALIVE, kind: MESSAGE, ..call(9) }, HOSTILE, &[]),
            Goes,
            Silence,
            Same,
        ),
        // Arguments.
        row("no argument", Opened, lookup(&[]), Goes, rpc("Unable to decode message payload"), OwnText),
        row("half an argument", Opened, lookup(&[0, 0]), Goes, rpc("Unable to decode message payload"), OwnText),
        row(
            "a text longer than its frame",
            Opened,
            lookup(&99u32.to_be_bytes()),
            Goes,
            rpc("Unable to decode message payload"),
            OwnText,
        ),
        row(
            "a text of a negative length",
            Opened,
            lookup(&u32::MAX.to_be_bytes()),
            Goes,
            rpc("Unable to decode message payload"),
            OwnText,
        ),
        row(
            "a text over the cap",
            Opened,
            lookup(&text(&vec![b'a'; (4 << 20) + 1])),
            Goes,
            rpc("Unable to decode message payload"),
            OwnText,
        ),
        row(
            "a text without its padding",
            Opened,
            lookup(&[&5u32.to_be_bytes()[..], b"tests"].concat()),
            Goes,
            rpc("Unable to decode message payload"),
            OwnText,
        ),
        row(
            "a text with padding that is not zero",
            Opened,
            lookup(&[&4u32.to_be_bytes()[..], b"test", b"xxxx"].concat()),
            Goes,
            Answer,
            Same,
        ),
        row(
            "a text of no language",
            Opened,
            lookup(&text(&[0xff; 4])),
            Goes,
            error(42, 12, "Domain not found"),
            Code(39, "a text is UTF-8"),
        ),
        row(
            "a text with a zero in it",
            Opened,
            lookup(&text(b"te\0t")),
            Goes,
            error(42, 12, "Domain not found"),
            OwnText,
        ),
        row(
            "garbage after the arguments",
            Opened,
            lookup(&[text(b"test"), b"garbage!".to_vec()].concat()),
            Goes,
            Answer,
            Same,
        ),
        row("arguments where there are none", Opened, frame(hostname, HOSTILE, b"what is this"), Goes, Answer, Same),
        row(
            "more than may be asked for",
            Opened,
            frame(call(LIST_DOMAINS), HOSTILE, &i32::MAX.to_be_bytes()),
            Goes,
            rpc("maxids > REMOTE_DOMAIN_LIST_MAX"),
            Otherwise(Answer, "the number bounds an answer, which is never longer than what there is"),
        ),
        row(
            "less than nothing asked for",
            Opened,
            frame(call(LIST_DOMAINS), HOSTILE, &(-1i32).to_be_bytes()),
            Goes,
            rpc("maxids must be non-negative"),
            Otherwise(Answer, "as for none"),
        ),
        // Descriptors.
        row("no descriptors announced", Opened, with_fds(0), Goes, Answer, Same),
        row("33 descriptors announced", Opened, with_fds(33), Ends, Dropped, Same),
        row("4 G descriptors announced", Opened, with_fds(u32::MAX), Ends, Dropped, Same),
        row("descriptors that do not come", Opened, with_fds(1), Ends, Dropped, Same),
        row("a byte where a descriptor belongs", Opened, [with_fds(1), vec![0]].concat(), Ends, Dropped, Same),
        row("no count of descriptors", Opened, of_kind(CALL_WITH_FDS, 0), Ends, Dropped, Same),
        // Order.
        row(
            "a call before the login",
            Fresh,
            plain.clone(),
            Goes,
            error(1, 7, "internal error: hypervisor connection not open"),
            Otherwise(rpc("authentication required"), LOGIN),
        ),
        row(
            "an open before the login",
            Fresh,
            frame(call(OPEN), HOSTILE, &open_args("test:///default")),
            Goes,
            Answer,
            Otherwise(rpc("authentication required"), LOGIN),
        ),
        row(
            "a call before the open",
            LoggedIn,
            plain.clone(),
            Goes,
            error(1, 7, "internal error: hypervisor connection not open"),
            Same,
        ),
        row("a second login", LoggedIn, frame(call(AUTH_LIST), HOSTILE, &[]), Goes, Answer, Same),
        row(
            "a second open",
            Opened,
            frame(call(OPEN), HOSTILE, &open_args("test:///default")),
            Goes,
            error(1, 7, "internal error: connection already open"),
            Same,
        ),
        row(
            "an open of nothing known",
            LoggedIn,
            frame(call(OPEN), HOSTILE, &open_args("nonsense:///x")),
            Goes,
            error(5, 0, "no connection driver available for nonsense:///x"),
            Code(5, "it says more, and in which part"),
        ),
        row(
            "an open of no URI",
            LoggedIn,
            frame(call(OPEN), HOSTILE, &open_args("%%%")),
            Goes,
            error(1, 45, "internal error: Unable to parse URI %%%"),
            Code(8, "the argument is wrong"),
        ),
        row(
            "polkit before the login",
            Fresh,
            frame(call(POLKIT), HOSTILE, &[]),
            Goes,
            error(ANY, ANY, ""),
            Code(45, "libvirtd repeats the last error of whichever thread it is"),
        ),
        row(
            "polkit after it",
            LoggedIn,
            frame(call(POLKIT), HOSTILE, &[]),
            Goes,
            error(ANY, ANY, ""),
            Code(45, "libvirtd repeats the last error of whichever thread it is"),
        ),
        row(
            "SASL before the login",
            Fresh,
            frame(call(SASL_INIT), HOSTILE, &[]),
            Goes,
            error(45, 7, "authentication failed: authentication failed"),
            OwnText,
        ),
        row(
            "SASL after it",
            LoggedIn,
            frame(call(SASL_INIT), HOSTILE, &[]),
            Goes,
            error(45, 7, "authentication failed: authentication failed"),
            OwnText,
        ),
        row(
            "a start of SASL without its begin",
            Fresh,
            frame(call(SASL_START), HOSTILE, &[sasl, vec![0; 8]].concat()),
            Goes,
            error(45, 7, "authentication failed: authentication failed"),
            OwnText,
        ),
        row(
            "a step of SASL without its begin",
            Fresh,
            frame(call(SASL_STEP), HOSTILE, &[0; 8]),
            Goes,
            error(45, 7, "authentication failed: authentication failed"),
            OwnText,
        ),
    ]
}

#[test]
fn the_gateway_refuses_what_libvirtd_refuses() {
    const TEST: &str = "the_gateway_refuses_what_libvirtd_refuses";
    let Some(libvirtd) = Libvirtd::start(TEST) else { return };
    let Some(instance) = Instance::system(TEST) else { return };
    let gateway = Gateway::start(&instance);
    let mut wrong = Vec::new();
    for Row { what, stage, bytes, then, theirs, ours } in rows() {
        let answered = |outcome: &Outcome| matches!(outcome, Outcome::Answer | Outcome::Refusal { .. });
        let found = Raw::at(&libvirtd.socket(), stage).outcome(&bytes, then, answered(&theirs));
        let any = theirs == error(ANY, ANY, "") && matches!(found, Outcome::Refusal { .. });
        if found != theirs && !any {
            wrong.push(format!("{what}: libvirtd: {found:?}, expected {theirs:?}"));
        }
        let will_answer = match &ours {
            Ours::Same | Ours::OwnText => answered(&theirs),
            Ours::Otherwise(outcome, _) => answered(outcome),
            Ours::Code(..) => true,
        };
        let found = Raw::at(&gateway.socket(), stage).outcome(&bytes, then, will_answer);
        let (right, why) = match (&ours, &found, &theirs) {
            (Ours::Same, ..) => (found == theirs, "as libvirtd"),
            (
                Ours::OwnText,
                Outcome::Refusal { code, domain, .. },
                Outcome::Refusal { code: as_code, domain: as_domain, .. },
            ) => (code == as_code && domain == as_domain, "as libvirtd, but for the text"),
            (Ours::OwnText, ..) => (false, "an error"),
            (Ours::Otherwise(outcome, why), ..) => (found == *outcome, *why),
            (Ours::Code(expected, why), Outcome::Refusal { code, .. }, _) => (code == expected, *why),
            (Ours::Code(_, why), ..) => (false, *why),
        };
        if !right {
            wrong.push(format!("{what}: the gateway: {found:?}, libvirtd: {theirs:?} ({why})"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Nobody else has noticed.
    assert_eq!(gateway.processes().iter().filter(|process| process.role == Role::Acceptor).count(), 1);
    instance.ok(&["list"]);
}
