//! The blocking client against a server of the test's own.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests may fail like tests.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use api::{Call, ErrorCode, ErrorDomain, Event, Operation, Reply, remote};
use wire::{
    Conn, Frame, Header, Kind, Status, WireError,
    client::{CallError, Client, Piece, login},
    codec,
    frame::MAX_STREAM_DATA,
    keepalive,
    stream::{FromClient, Packet, ServerEnd, StreamId},
    transport::{Plain, Unix},
};

mod support;
use support::{get_hostname, hostname, null, recv};

type Server = Conn<Unix>;

/// A client, and a server that does `serve`.
fn pair<R: Send + 'static>(serve: impl FnOnce(Server) -> R + Send + 'static) -> (Client, JoinHandle<R>) {
    let (a, b) = UnixStream::pair().unwrap();
    let client = Client::new(Box::new(Unix::new(a))).unwrap();
    (client, thread::spawn(move || serve(Conn::new(Unix::new(b)))))
}

/// Sends all that is queued.
fn flush(conn: &mut Server) {
    while !conn.flush().unwrap() {
        use rustix::event::{PollFd, PollFlags, poll};
        poll(&mut [PollFd::new(conn, PollFlags::OUT)], None).unwrap();
    }
}

fn answer(conn: &mut Server, to: &Frame, reply: Reply) {
    conn.queue_answer(&to.header, &Ok(reply), Vec::new()).unwrap();
    flush(conn);
}

fn name_of(reply: Reply) -> String {
    remote::ConnectGetHostnameArgs::ret_of(reply).unwrap().hostname
}

fn lifecycle(callback_id: i32) -> Event {
    Event::DomainEventCallbackLifecycle(remote::DomainEventCallbackLifecycleMsg { callback_id, ..Default::default() })
}

#[test]
fn calls_are_answered_and_fail_as_the_server_says() {
    let (client, server) = pair(|mut conn| {
        let first = recv(&mut conn).unwrap();
        assert_eq!(first.header.serial, 0);
        assert_eq!(codec::decode_call(&first).unwrap(), get_hostname());
        answer(&mut conn, &first, hostname("one"));
        let second = recv(&mut conn).unwrap();
        assert_eq!(second.header.serial, 1);
        let error = api::Error::new(ErrorCode::NO_DOMAIN, ErrorDomain::QEMU, "gone");
        conn.queue_error(&second.header, &error).unwrap();
        flush(&mut conn);
    });
    assert_eq!(name_of(client.call(&get_hostname(), Vec::new()).unwrap().0), "one");
    match client.call(&get_hostname(), Vec::new()) {
        Err(CallError::Failed(error)) => assert_eq!(error.code, ErrorCode::NO_DOMAIN),
        other => panic!("{other:?}"),
    }
    server.join().unwrap();
    assert!(matches!(client.call(&get_hostname(), Vec::new()), Err(CallError::Lost(_))));
    assert!(client.lost().is_some());
}

#[test]
fn answers_may_come_in_any_order_and_each_finds_its_caller() {
    const CALLERS: usize = 8;
    let (client, server) = pair(|mut conn| {
        let mut calls: Vec<Frame> = (0..CALLERS).map(|_| recv(&mut conn).unwrap()).collect();
        calls.reverse();
        for call in &calls {
            let Call::DomainLookupByName(args) = codec::decode_call(call).unwrap() else { panic!() };
            let dom = remote::Domain { name: args.name, ..Default::default() };
            let reply = Reply::DomainLookupByName(remote::DomainLookupByNameRet { dom });
            conn.queue_answer(&call.header, &Ok(reply), Vec::new()).unwrap();
        }
        flush(&mut conn);
    });
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let client = &client;
            scope.spawn(move || {
                let name = format!("vm{caller}");
                let call = remote::DomainLookupByNameArgs { name: name.clone() }.into_call();
                let (reply, _) = client.call(&call, Vec::new()).unwrap();
                assert_eq!(remote::DomainLookupByNameArgs::ret_of(reply).unwrap().dom.name, name);
            });
        }
    });
    server.join().unwrap();
}

#[test]
fn many_calls_take_one_round_trip() {
    let (client, server) = pair(|mut conn| {
        let calls: Vec<Frame> = (0..5).map(|_| recv(&mut conn).unwrap()).collect();
        for (index, call) in calls.iter().enumerate().rev() {
            answer(&mut conn, call, hostname(&index.to_string()));
        }
    });
    let answers = client.call_all(&vec![get_hostname(); 5]).unwrap();
    let names: Vec<String> = answers.into_iter().map(|answer| name_of(answer.unwrap().0)).collect();
    assert_eq!(names, ["0", "1", "2", "3", "4"]);
    server.join().unwrap();
}

#[test]
fn descriptors_pass_both_ways() {
    let (client, server) = pair(|mut conn| {
        let call = recv(&mut conn).unwrap();
        assert_eq!((call.header.kind, call.fds.len()), (Kind::CallWithFds, 1));
        conn.queue_answer(&call.header, &Ok(support::empty_reply(api::Op::DomainOpenGraphics)), call.fds).unwrap();
        flush(&mut conn);
    });
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let call = remote::DomainOpenGraphicsArgs::default().into_call();
    let (_, mut fds) = client.call(&call, vec![theirs.into()]).unwrap();
    let mut back = UnixStream::from(fds.pop().unwrap());
    back.write_all(b"!").unwrap();
    let mut byte = [0];
    ours.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"!");
    server.join().unwrap();
}

#[test]
fn a_call_that_cannot_be_carried_leaves_the_connection_as_it_was() {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    let client = Client::new(Box::new(Plain::new(a))).unwrap();
    let call = remote::DomainOpenGraphicsArgs::default().into_call();
    assert!(matches!(client.call(&call, vec![null()]), Err(CallError::Send(_))));
    let server = thread::spawn(move || {
        let mut conn = Conn::new(Unix::new(b));
        let call = recv(&mut conn).unwrap();
        answer(&mut conn, &call, hostname("still here"));
    });
    assert_eq!(name_of(client.call(&get_hostname(), Vec::new()).unwrap().0), "still here");
    server.join().unwrap();
}

#[test]
fn events_come_before_and_after_replies() {
    let (client, server) = pair(|mut conn| {
        let call = recv(&mut conn).unwrap();
        conn.queue_event(&lifecycle(1)).unwrap();
        answer(&mut conn, &call, hostname("h"));
        conn.queue_event(&lifecycle(2)).unwrap();
        // One that the client does not know, and a reply that nobody asked for.
        conn.queue_empty(&Header { kind: Kind::Message, procedure: 30_000, ..call.header }).unwrap();
        conn.queue_answer(&Header { serial: 77, ..call.header }, &Ok(hostname("nobody")), Vec::new()).unwrap();
        conn.queue_event(&lifecycle(3)).unwrap();
        flush(&mut conn);
        // Until the client hangs up.
        assert!(matches!(recv(&mut conn), Err(WireError::Closed)));
    });
    client.call(&get_hostname(), Vec::new()).unwrap();
    let mut events = Vec::new();
    while events.len() < 3 {
        events.extend(client.wait_events(None).unwrap());
    }
    assert_eq!(events, [lifecycle(1), lifecycle(2), lifecycle(3)]);
    assert!(client.wait_events(Some(Duration::ZERO)).unwrap().is_empty());
    drop(client);
    server.join().unwrap();
}

#[test]
fn an_answer_of_another_procedure_is_not_taken_for_the_own() {
    let (client, server) = pair(|mut conn| {
        let call = recv(&mut conn).unwrap();
        let other = Header { procedure: 4, ..call.header };
        conn.queue_answer(&other, &Ok(support::empty_reply(api::Op::ConnectGetVersion)), Vec::new()).unwrap();
        answer(&mut conn, &call, hostname("right"));
    });
    assert_eq!(name_of(client.call(&get_hostname(), Vec::new()).unwrap().0), "right");
    server.join().unwrap();
}

#[test]
fn pings_are_answered_by_whoever_waits() {
    let (client, server) = pair(|mut conn| {
        let call = recv(&mut conn).unwrap();
        conn.queue_empty(&keepalive::PING_HEADER).unwrap();
        flush(&mut conn);
        assert_eq!(recv(&mut conn).unwrap().header, keepalive::PONG_HEADER);
        answer(&mut conn, &call, hostname("h"));
    });
    client.call(&get_hostname(), Vec::new()).unwrap();
    server.join().unwrap();
}

#[test]
fn a_server_that_does_not_answer_pings_is_given_up() {
    let (client, server) = pair(|mut conn| {
        let mut pings = 0;
        while let Ok(frame) = recv(&mut conn) {
            pings += usize::from(frame.header == keepalive::PING_HEADER);
        }
        pings
    });
    client.set_keepalive(Some((Duration::from_millis(20), 3)));
    match client.call(&get_hostname(), Vec::new()) {
        Err(CallError::Lost(error)) => assert!(matches!(*error, WireError::Dead(3))),
        other => panic!("{other:?}"),
    }
    drop(client);
    assert_eq!(server.join().unwrap(), 3);
}

#[test]
fn who_polls_is_told_when_the_server_is_to_be_asked_for_a_sign_of_life() {
    let (client, server) = pair(|mut conn| {
        let mut pings = 0;
        while let Ok(frame) = recv(&mut conn) {
            pings += usize::from(frame.header == keepalive::PING_HEADER);
        }
        pings
    });
    client.set_keepalive(Some((Duration::from_millis(20), 3)));
    let lost = loop {
        assert!(support::readable(&client.alarm(), Duration::from_secs(20)), "nothing tells that it is time");
        if let Err(CallError::Lost(error)) = client.wait_events(Some(Duration::ZERO)) {
            break error;
        }
    };
    assert!(matches!(*lost, WireError::Dead(3)), "{lost:?}");
    client.set_keepalive(None);
    assert!(!support::readable(&client.alarm(), Duration::ZERO));
    let weak = client.downgrade();
    drop(client);
    assert!(weak.upgrade().is_none());
    assert_eq!(server.join().unwrap(), 3);
}

#[test]
fn a_silent_server_is_waited_for_as_long_as_the_caller_says() {
    let (client, server) = pair(|mut conn| {
        let call = recv(&mut conn).unwrap();
        let again = recv(&mut conn).unwrap();
        // The late answer finds nobody, the next one its caller.
        answer(&mut conn, &call, hostname("late"));
        answer(&mut conn, &again, hostname("in time"));
    });
    let brief = Duration::from_millis(10);
    assert!(
        matches!(client.call_within(&get_hostname(), Vec::new(), brief), Err(CallError::Silent(time)) if time == brief)
    );
    assert_eq!(name_of(client.call(&get_hostname(), Vec::new()).unwrap().0), "in time");
    server.join().unwrap();
}

#[test]
fn a_server_that_does_not_read_is_waited_for_as_long_as_the_caller_says() {
    let (a, b) = UnixStream::pair().unwrap();
    let client = Client::new(Box::new(Unix::new(a))).unwrap();
    let (sender, ended) = mpsc::channel();
    let caller = client.clone();
    thread::spawn(move || {
        // More than the socket takes.
        let big = remote::ConnectDomainXmlFromNativeArgs { native_config: "n".repeat(3 << 20), ..Default::default() };
        let brief = Duration::from_millis(10);
        let _ = sender.send(caller.call_within(&big.into_call(), Vec::new(), brief));
    });
    let answer = ended.recv_timeout(Duration::from_secs(20)).expect("waits for more than the time that it was given");
    assert!(matches!(answer, Err(CallError::Silent(_))), "{answer:?}");
    // The call goes out whole before the next one.
    let server = thread::spawn(move || {
        let mut conn = Conn::new(Unix::new(b));
        let given_up = recv(&mut conn).unwrap();
        let next = recv(&mut conn).unwrap();
        answer_both(&mut conn, &given_up, &next);
    });
    assert_eq!(name_of(client.call(&get_hostname(), Vec::new()).unwrap().0), "in time");
    server.join().unwrap();
}

/// Answers a call that nobody waits for any more, and one that somebody does.
fn answer_both(conn: &mut Server, given_up: &Frame, next: &Frame) {
    answer(conn, given_up, support::empty_reply(api::Op::ConnectDomainXmlFromNative));
    answer(conn, next, hostname("in time"));
}

#[test]
fn what_the_server_wrote_before_it_hung_up_is_read() {
    let (client, server) = pair(|mut conn| {
        let error = api::Error::new(ErrorCode::AUTH_FAILED, ErrorDomain::RPC, "not you");
        conn.queue_error(&support::call_header(59, 0), &error).unwrap();
        flush(&mut conn);
    });
    server.join().unwrap();
    match client.call(&get_hostname(), Vec::new()) {
        Err(CallError::Failed(error)) => assert_eq!(error.message, "not you"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn closing_wakes_who_waits() {
    let (client, server) = pair(|mut conn| {
        recv(&mut conn).unwrap();
        recv(&mut conn)
    });
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.wait_events(None));
        let other = scope.spawn(|| client.call(&get_hostname(), Vec::new()));
        while client.wait_events(Some(Duration::from_millis(1))).is_ok() {
            client.close();
        }
        assert!(matches!(waiting.join().unwrap(), Err(CallError::Lost(_))));
        // Either it was sent and lost, or the connection was closed before.
        assert!(matches!(other.join().unwrap(), Err(CallError::Lost(_))));
    });
    drop(client);
    drop(server);
}

#[test]
fn two_sides_that_both_write_much_do_not_wait_for_each_other() {
    const TEXT: usize = 3 << 20;
    let (client, server) = pair(|mut conn| {
        for _ in 0..4 {
            let call = recv(&mut conn).unwrap();
            // All of it is written before anything else is read.
            answer(&mut conn, &call, hostname(&"h".repeat(TEXT)));
        }
    });
    let call = remote::DomainLookupByNameArgs { name: "n".repeat(TEXT) };
    let big = remote::ConnectDomainXmlFromNativeArgs { native_config: call.name, ..Default::default() }.into_call();
    thread::scope(|scope| {
        for _ in 0..4 {
            // The answers are no answers to these calls, and are told as such: what matters is that they come.
            scope.spawn(|| client.call_within(&big, Vec::new(), Duration::from_secs(60)));
        }
    });
    server.join().unwrap();
}

fn download(flags: u32) -> Call {
    remote::StorageVolDownloadArgs { flags, ..Default::default() }.into_call()
}

fn upload() -> Call {
    remote::StorageVolUploadArgs::default().into_call()
}

/// The server's end of the stream that the next call begins.
fn accept(conn: &mut Server, reply: Reply, flow: api::Stream) -> ServerEnd {
    let call = recv(conn).unwrap();
    let sparse = wire::stream::is_sparse(&codec::decode_call(&call).unwrap());
    answer(conn, &call, reply);
    ServerEnd::new(StreamId::from(&call.header), flow, sparse)
}

#[test]
fn a_download_with_holes_arrives_in_order_and_is_finished() {
    let (client, server) = pair(|mut conn| {
        let mut end = accept(&mut conn, Reply::StorageVolDownload(()), api::Stream::Read);
        end.data(&mut conn, &vec![1; MAX_STREAM_DATA + 1]).unwrap();
        end.hole(&mut conn, 1 << 40).unwrap();
        end.data(&mut conn, b"x").unwrap();
        end.end(&mut conn).unwrap();
        assert!(!end.may_send());
        flush(&mut conn);
        let finish = recv(&mut conn).unwrap();
        assert_eq!(end.take(Packet::decode(finish).unwrap()).unwrap(), FromClient::Finish);
        end.confirm(&mut conn).unwrap();
        flush(&mut conn);
        assert!(end.is_over());
    });
    let (_, stream) = client.open_stream(&download(1), Vec::new()).unwrap();
    let pieces: Vec<Piece> = std::iter::from_fn(|| match stream.read(None).unwrap().unwrap() {
        Piece::End => None,
        piece => Some(piece),
    })
    .collect();
    let expected =
        [Piece::Data(vec![1; MAX_STREAM_DATA]), Piece::Data(vec![1]), Piece::Hole(1 << 40), Piece::Data(b"x".to_vec())];
    assert_eq!(pieces, expected);
    stream.finish(None).unwrap();
    server.join().unwrap();
}

#[test]
fn an_upload_arrives_whole_beside_other_calls() {
    const LENGTH: usize = 5 << 20;
    let (client, server) = pair(|mut conn| {
        let mut end = accept(&mut conn, Reply::StorageVolUpload(()), api::Stream::Write);
        let mut got = 0;
        loop {
            let frame = recv(&mut conn).unwrap();
            if frame.header.kind == Kind::Call {
                answer(&mut conn, &frame, hostname("beside"));
                continue;
            }
            assert!(frame.payload.len() <= MAX_STREAM_DATA);
            match end.take(Packet::decode(frame).unwrap()).unwrap() {
                FromClient::Data(bytes) => got += bytes.len(),
                FromClient::Finish => break,
                other => panic!("{other:?}"),
            }
        }
        end.confirm(&mut conn).unwrap();
        flush(&mut conn);
        got
    });
    let (_, stream) = client.open_stream(&upload(), Vec::new()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(name_of(client.call(&get_hostname(), Vec::new()).unwrap().0), "beside"));
        for piece in vec![7; LENGTH].chunks(LENGTH / 4) {
            stream.write(piece).unwrap();
        }
        assert!(matches!(stream.write_hole(5), Err(CallError::Send(WireError::NotSparse))));
    });
    stream.finish(None).unwrap();
    assert_eq!(server.join().unwrap(), LENGTH);
}

#[test]
fn a_stream_that_the_server_fails_says_why() {
    let (client, server) = pair(|mut conn| {
        let mut end = accept(&mut conn, Reply::StorageVolDownload(()), api::Stream::Read);
        end.data(&mut conn, b"some").unwrap();
        let error = api::Error::new(ErrorCode::OPERATION_FAILED, ErrorDomain::STORAGE, "the disk broke");
        end.fail(&mut conn, &error).unwrap();
        end.data(&mut conn, b"never sent").unwrap();
        flush(&mut conn);
        let call = recv(&mut conn).unwrap();
        answer(&mut conn, &call, hostname("alive"));
    });
    let (_, stream) = client.open_stream(&download(0), Vec::new()).unwrap();
    assert_eq!(stream.read(None).unwrap(), Some(Piece::Data(b"some".to_vec())));
    match stream.read(None) {
        Err(CallError::Failed(error)) => assert_eq!(error.message, "the disk broke"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(stream.write(b"x"), Err(CallError::Failed(_))));
    drop(stream);
    assert_eq!(name_of(client.call(&get_hostname(), Vec::new()).unwrap().0), "alive");
    server.join().unwrap();
}

#[test]
fn a_dropped_stream_is_aborted_and_its_late_packets_are_dropped() {
    let (client, server) = pair(|mut conn| {
        let mut end = accept(&mut conn, Reply::DomainOpenConsole(()), api::Stream::Both);
        let abort = recv(&mut conn).unwrap();
        assert_eq!((abort.header.status, abort.payload.len()), (Status::Error, 0));
        // Sent before the abort was seen.
        end.data(&mut conn, b"late").unwrap();
        assert_eq!(end.take(Packet::decode(abort).unwrap()).unwrap(), FromClient::Abort);
        end.confirm(&mut conn).unwrap();
        conn.queue_data(end.id(), b"later still").unwrap();
        let call = recv(&mut conn).unwrap();
        answer(&mut conn, &call, hostname("alive"));
    });
    let (_, stream) = client.open_stream(&remote::DomainOpenConsoleArgs::default().into_call(), Vec::new()).unwrap();
    drop(stream);
    assert_eq!(name_of(client.call(&get_hostname(), Vec::new()).unwrap().0), "alive");
    server.join().unwrap();
}

#[test]
fn a_call_that_begins_no_stream_is_not_sent() {
    let (client, server) = pair(|mut conn| recv(&mut conn).map(drop));
    assert!(matches!(client.open_stream(&get_hostname(), Vec::new()), Err(CallError::NoStream(_))));
    drop(client);
    assert!(matches!(server.join().unwrap(), Err(WireError::Closed)));
}

#[test]
fn a_stream_that_nobody_reads_is_aborted_and_the_rest_lives() {
    // Holes have no bytes, and take memory all the same.
    for (flags, packet, count) in [(0, Packet::Data(vec![0; MAX_STREAM_DATA]), 150), (1, Packet::Hole(5), 1 << 21)] {
        let (send, aborted) = mpsc::channel();
        let (client, server) = pair(move |mut conn| {
            let end = accept(&mut conn, Reply::StorageVolDownload(()), api::Stream::Read);
            let call = recv(&mut conn).unwrap();
            for number in 0..count {
                conn.queue_packet(end.id(), &packet).unwrap();
                if flags == 0 || number % 1000 == 0 {
                    flush(&mut conn);
                }
            }
            answer(&mut conn, &call, hostname("alive"));
            send.send(recv(&mut conn).unwrap().header.status).unwrap();
        });
        let (_, stream) = client.open_stream(&download(flags), Vec::new()).unwrap();
        assert_eq!(name_of(client.call(&get_hostname(), Vec::new()).unwrap().0), "alive");
        assert_eq!(aborted.recv().unwrap(), Status::Error);
        match stream.read(None) {
            Err(CallError::Failed(error)) => assert_eq!(error.code, ErrorCode::OPERATION_ABORTED),
            other => panic!("{other:?}"),
        }
        server.join().unwrap();
    }
}

#[test]
fn holes_and_data_that_may_not_come_end_the_connection() {
    for (flags, packet) in [(0, Packet::Hole(5)), (1, Packet::Hole(5))] {
        let lost = flags == 0;
        let (client, server) = pair(move |mut conn| {
            let end = accept(&mut conn, Reply::StorageVolDownload(()), api::Stream::Read);
            conn.queue_packet(end.id(), &packet).unwrap();
            flush(&mut conn);
            recv(&mut conn).map(drop)
        });
        let (_, stream) = client.open_stream(&download(flags), Vec::new()).unwrap();
        let read = stream.read(None);
        assert_eq!(matches!(read, Err(CallError::Lost(ref error)) if matches!(**error, WireError::Protocol(_))), lost);
        drop(stream);
        drop(client);
        drop(server);
    }
}

#[test]
fn login_goes_as_the_server_wants_it() {
    for (types, method) in [
        (vec![], login::Method::None),
        (vec![remote::AuthType::NONE], login::Method::None),
        (vec![remote::AuthType::POLKIT], login::Method::Polkit),
    ] {
        let (client, server) = pair(move |mut conn| {
            let list = recv(&mut conn).unwrap();
            assert_eq!((list.header.procedure, list.header.serial), (66, 0));
            answer(&mut conn, &list, Reply::AuthList(remote::AuthListRet { types }));
            match recv(&mut conn) {
                Ok(polkit) => {
                    assert_eq!(polkit.header.procedure, 70);
                    answer(&mut conn, &polkit, Reply::AuthPolkit(remote::AuthPolkitRet { complete: 1 }));
                    true
                }
                Err(_) => false,
            }
        });
        assert_eq!(client.login(None, Duration::from_secs(10)).unwrap(), method);
        drop(client);
        assert_eq!(server.join().unwrap(), method == login::Method::Polkit);
    }
}

#[test]
fn a_login_that_cannot_be_done_is_told() {
    for (number, text) in [(9, "no way to log in"), (1, "a name and a password")] {
        let (client, server) = pair(move |mut conn| {
            let list = recv(&mut conn).unwrap();
            answer(&mut conn, &list, Reply::AuthList(remote::AuthListRet { types: vec![remote::AuthType(number)] }));
        });
        let error = client.login(None, Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        server.join().unwrap();
    }
}
