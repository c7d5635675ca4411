//! Calls, replies, events and errors in frames; and what a server answers to what it cannot read.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests may fail like tests.

use api::{
    Call, ErrorCode, ErrorDomain, Event, Level, Op, OpKind, Operation, Reply,
    arbitrary::{Arbitrary, Source},
    remote,
    xdr::{Encoder, Xdr},
};
use wire::{
    Conn, Frame, Header, Kind, Status,
    codec::{self, Answer, Meaning},
    frame::MAX_PAYLOAD,
};

mod support;
use support::{Script, call_header, get_hostname, hostname, null};

/// What is queued on one connection, as the other end reads it.
fn passed(queue: impl FnOnce(&mut Conn<Script>)) -> Frame {
    let mut conn = Conn::new(Script::new([]));
    queue(&mut conn);
    assert!(conn.flush().unwrap());
    let mut other = Conn::new(Script::cut(&conn.transport().written, &[]));
    support::recv(&mut other).unwrap()
}

fn call_frame(header: Header, payload: &[u8]) -> Frame {
    Frame { header, payload: payload.to_vec(), fds: Vec::new() }
}

fn failed(frame: &Frame) -> api::Error {
    match codec::decode_reply(Op::ConnectGetHostname, frame).unwrap() {
        Answer::Failed(error) => error,
        Answer::Done(reply) => panic!("{reply:?}"),
    }
}

fn lookup_by_name(name: &str) -> Call {
    remote::DomainLookupByNameArgs { name: name.to_owned() }.into_call()
}

#[test]
fn a_call_and_its_reply_are_golden() {
    let mut conn = Conn::new(Script::new([]));
    conn.queue_call(5, &lookup_by_name("vm"), Vec::new()).unwrap();
    conn.flush().unwrap();
    let call = b"\0\0\0\x24\x20\0\x80\x86\0\0\0\x01\0\0\0\x17\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x02vm\0\0";
    assert_eq!(conn.transport().written, call);

    let mut conn = Conn::new(Script::new([]));
    conn.queue_reply(&call_header(59, 5), &hostname("h"), Vec::new()).unwrap();
    conn.flush().unwrap();
    let reply = b"\0\0\0\x24\x20\0\x80\x86\0\0\0\x01\0\0\0\x3b\0\0\0\x01\0\0\0\x05\0\0\0\0\0\0\0\x01h\0\0\0";
    assert_eq!(conn.transport().written, reply);
}

#[test]
fn every_call_passes_and_is_recognised() {
    // The zeros that stand for the arguments are read by the table's own types, of which api tests every one.
    let zeros = vec![0; 4096];
    for op in Op::ALL.into_iter().filter(|op| op.info().kind == OpKind::Call) {
        let header = codec::header(op, Kind::Call, 9);
        assert_eq!(codec::call_op(&header).unwrap(), op);
        let fds = (0..op.info().fds_in.min).map(|_| null()).collect();
        let call = codec::decode_call(&Frame { header, payload: zeros.clone(), fds }).unwrap();
        if op.info().fds_in.min == 0 {
            let frame = passed(|conn| conn.queue_call(9, &call, Vec::new()).unwrap());
            assert_eq!((frame.header, frame.header.meaning()), (header, Meaning::Call));
            assert_eq!(codec::decode_call(&frame).unwrap(), call);
        }
        let reply = support::empty_reply(op);
        let frame = passed(|conn| conn.queue_reply(&header, &reply, Vec::new()).unwrap());
        assert_eq!((frame.header.kind, frame.header.serial, frame.header.status), (Kind::Reply, 9, Status::Ok));
        assert!(matches!(codec::decode_reply(op, &frame).unwrap(), Answer::Done(got) if got == reply));
    }
}

#[test]
fn every_event_passes_and_is_recognised() {
    let zeros = vec![0; 4096];
    for op in Op::ALL.into_iter().filter(|op| op.info().kind == OpKind::Event) {
        let event = Event::decode(op, &mut api::xdr::Decoder::new(&zeros)).unwrap().unwrap();
        let frame = passed(|conn| conn.queue_event(&event).unwrap());
        assert_eq!((frame.header.meaning(), frame.header.serial), (Meaning::Event, 1));
        assert_eq!(codec::decode_event(&frame).unwrap(), Some(event));
        assert!(codec::decode_call(&Frame { header: Header { kind: Kind::Call, ..frame.header }, ..frame }).is_err());
    }
}

#[test]
fn events_that_nobody_knows_are_ignored() {
    let event = Header { kind: Kind::Message, ..call_header(318, 1) };
    for header in [
        Header { program: 0x1234, ..event },
        Header { version: 2, ..event },
        Header { procedure: 100_000, ..event },
        Header { procedure: -1, ..event },
        Header { procedure: 59, ..event },
    ] {
        assert!(codec::decode_event(&call_frame(header, &[])).unwrap().is_none());
    }
    assert!(codec::decode_event(&call_frame(event, &[])).is_err());
}

#[test]
fn refusals_have_the_words_that_clients_know() {
    let good = call_header(59, 4);
    let bad_string = b"\0\0\0\x01\xff\0\0\0";
    let cases: [(Header, &[u8], &str); 8] = [
        (Header { program: 0x1234, ..good }, b"", "Cannot find program 4660 version 1"),
        (Header { version: 7, ..good }, b"", "Cannot find program 536903814 version 7"),
        (Header { procedure: 0, ..good }, b"", "unknown procedure: 0"),
        (Header { procedure: 99_999, ..good }, b"", "unknown procedure: 99999"),
        (Header { procedure: -3, ..good }, b"", "unknown procedure: -3"),
        (Header { procedure: 318, ..good }, b"", "unknown procedure: 318"),
        (Header { status: Status::Continue, ..good }, b"", "Unexpected message status 2"),
        (Header { procedure: 23, ..good }, bad_string, "cannot decode the arguments of virDomainLookupByName"),
    ];
    for (header, payload, text) in cases {
        let error = codec::decode_call(&call_frame(header, payload)).unwrap_err();
        assert_eq!((error.code, error.domain, error.level), (ErrorCode::RPC, ErrorDomain::RPC, Level::Error));
        assert_eq!(error.message, text);
        // And the answer reaches the one who asked.
        let frame = passed(|conn| conn.queue_error(&header, &error).unwrap());
        assert_eq!(frame.header, Header { kind: Kind::Reply, status: Status::Error, ..header });
    }
}

#[test]
fn a_procedure_that_the_server_does_not_know_is_one_that_it_does_not_support() {
    let error = codec::decode_call(&call_frame(call_header(99_999, 4), b"")).unwrap_err();
    let frame = passed(|conn| conn.queue_error(&call_header(99_999, 4), &error).unwrap());
    assert_eq!(failed(&frame).code, ErrorCode::NO_SUPPORT);
}

#[test]
fn no_truncated_call_is_read_and_what_follows_one_is_ignored() {
    let mut source = Source::new(1);
    for _ in 0..200 {
        let args = remote::DomainMigratePrepare3Args::arbitrary(&mut source);
        let mut encoder = Encoder::new();
        args.encode(&mut encoder);
        let header = codec::header(Op::DomainMigratePrepare3, Kind::Call, 0);
        let whole = encoder.into_vec();
        let call = args.into_call();
        let more = [whole.as_slice(), b"more"].concat();
        assert_eq!(codec::decode_call(&call_frame(header, &more)).unwrap(), call);
        for length in 0..whole.len() {
            assert!(codec::decode_call(&call_frame(header, &whole[..length])).is_err(), "{length} of {}", whole.len());
        }
    }
}

#[test]
fn a_string_without_its_padding_is_refused() {
    // "vm" takes eight bytes; six of them are not enough, whatever their frame says.
    let header = codec::header(Op::DomainLookupByName, Kind::Call, 0);
    assert!(codec::decode_call(&call_frame(header, b"\0\0\0\x02vm")).is_err());
    // What is in the padding does not matter.
    let call = codec::decode_call(&call_frame(header, b"\0\0\0\x02vm\xff\xff")).unwrap();
    assert_eq!(call, lookup_by_name("vm"));
}

#[test]
fn lengths_beyond_the_payload_or_the_table_are_refused() {
    let header = codec::header(Op::DomainLookupByName, Kind::Call, 0);
    for length in [3, 4 << 20, (4 << 20) + 1, 0x7fff_ffff, u32::MAX] {
        let payload = [&length.to_be_bytes()[..], b"vm"].concat();
        assert!(codec::decode_call(&call_frame(header, &payload)).is_err());
    }
}

#[test]
fn any_mark_but_zero_is_an_optional_value() {
    // go-libvirt writes its true as the bytes 1 0 0 0.
    let header = codec::header(Op::ConnectOpen, Kind::Call, 0);
    let call = codec::decode_call(&call_frame(header, b"\x01\0\0\0\0\0\0\x01q\0\0\0\0\0\0\0")).unwrap();
    assert_eq!(call, remote::ConnectOpenArgs { name: Some("q".to_owned()), flags: 0 }.into_call());
}

#[test]
fn descriptors_that_the_table_does_not_foresee_are_refused() {
    let header = codec::header(Op::DomainOpenGraphics, Kind::CallWithFds, 0);
    let payload = vec![0; 100];
    for count in 0..3 {
        let fds = (0..count).map(|_| null()).collect();
        let call = codec::decode_call(&Frame { header, payload: payload.clone(), fds });
        assert_eq!(call.is_ok(), count == 1, "{count} descriptors");
    }
}

#[test]
fn an_error_travels_with_its_causes_and_comes_back_as_one_text() {
    let error = api::Error::new(ErrorCode::NO_DOMAIN, ErrorDomain::QEMU, "Domain not found").with_cause_text("no such");
    let frame = passed(|conn| conn.queue_error(&call_header(59, 4), &error).unwrap());
    let got = failed(&frame);
    assert_eq!((got.code, got.domain), (ErrorCode::NO_DOMAIN, ErrorDomain::QEMU));
    assert_eq!(got.message, "Domain not found: no such");
    let wire = remote::Error::decode(&mut api::xdr::Decoder::new(&frame.payload)).unwrap();
    assert_eq!((wire.level, wire.str1.as_deref(), wire.str2.as_deref()), (2, Some("%s"), Some(got.message.as_str())));
    assert_eq!((wire.int1, wire.int2, wire.dom, wire.net), (-1, -1, None, None));
}

#[test]
fn an_endless_error_text_is_cut_at_a_character() {
    let error = api::Error::new(ErrorCode::INTERNAL_ERROR, ErrorDomain::NONE, "xé".repeat(4 << 20));
    let frame = passed(|conn| conn.queue_error(&call_header(59, 4), &error).unwrap());
    let text = failed(&frame).message;
    assert!(text.len() <= 64 << 10 && error.message.starts_with(&text));
}

#[test]
fn no_call_stays_without_an_answer() {
    // Strings and lists within their limits, and together too long for a frame.
    let name = "n".repeat(4 << 20);
    let names = vec![name; 9];
    let call = call_header(21, 4);
    let reply = Reply::ConnectListDefinedDomains(remote::ConnectListDefinedDomainsRet { names });
    let frame = passed(|conn| {
        assert!(conn.queue_reply(&call, &reply, Vec::new()).is_err());
        assert_eq!(conn.backlog(), 0);
        conn.queue_answer(&call, &Ok(reply), Vec::new()).unwrap();
    });
    assert!(frame.payload.len() < MAX_PAYLOAD as usize);
    assert_eq!(failed(&frame).code, ErrorCode::INTERNAL_ERROR);
    // A value above its own limit.
    let reply = hostname(&"n".repeat((4 << 20) + 1));
    let frame = passed(|conn| conn.queue_answer(&call, &Ok(reply), Vec::new()).unwrap());
    assert_eq!(failed(&frame).code, ErrorCode::INTERNAL_ERROR);
    // And the ordinary ones.
    let frame = passed(|conn| conn.queue_answer(&call, &Ok(hostname("h")), Vec::new()).unwrap());
    assert!(matches!(codec::decode_reply(Op::ConnectGetHostname, &frame).unwrap(), Answer::Done(_)));
}

#[test]
fn what_a_frame_is_for_goes_by_its_kind() {
    let of = |kind, program| Header { kind, program, ..call_header(1, 0) }.meaning();
    let remote = remote::PROGRAM;
    assert_eq!(of(Kind::CallWithFds, remote), Meaning::Call);
    assert_eq!(of(Kind::ReplyWithFds, remote), Meaning::Reply);
    assert_eq!(of(Kind::Message, remote), Meaning::Event);
    assert_eq!(of(Kind::Message, wire::keepalive::PROGRAM), Meaning::Keepalive);
    assert_eq!(of(Kind::StreamHole, remote), Meaning::Stream);
    assert_eq!(of(Kind::Other(7), remote), Meaning::Nothing);
}

#[test]
fn a_call_without_arguments_has_an_empty_payload() {
    let frame = passed(|conn| conn.queue_call(0, &get_hostname(), Vec::new()).unwrap());
    assert!(frame.payload.is_empty());
}
