//! Sessions with qemud at the other end of a socket.

use super::*;

/// One connection of a qemud that says what the test wants.
struct FakeQemud(ipc::Conn);

impl FakeQemud {
    /// Answers the session's dial.
    fn dialed(rig: &mut Rig) -> FakeQemud {
        let (ours, theirs) = UnixStream::pair().unwrap();
        rig.session.dialed(Ok(theirs));
        let mut conn = ipc::Conn::new(ours, Caps::FROM_CLIENT);
        let hello = Hello::new("qemud", VERSIONS.0, VERSIONS.1);
        conn.queue_with(IpcKind::Hello, 0, Vec::new(), |out| ipc_codec::encode_into(&hello, out)).unwrap();
        conn.flush().unwrap();
        rig.session.work(rig.now).unwrap();
        assert_eq!(conn.recv().unwrap().kind, IpcKind::Hello);
        FakeQemud(conn)
    }

    fn next(&mut self) -> (u64, Call) {
        let frame = self.0.recv().unwrap();
        (frame.serial, ipc_codec::decode_call(&frame.body).unwrap())
    }

    fn reply(&mut self, serial: u64, reply: &Reply) {
        self.0.queue_with(IpcKind::Reply, serial, Vec::new(), |out| ipc_codec::encode_reply(reply, out)).unwrap();
        self.0.flush().unwrap();
    }

    fn event(&mut self, sequence: u64) {
        let event = Event::BulkheadDomainEvent(bulkhead::DomainEventMsg { sequence, ..Default::default() });
        self.0.queue_with(IpcKind::Event, 0, Vec::new(), |out| ipc_codec::encode_event(&event, out)).unwrap();
        self.0.flush().unwrap();
    }

    fn notice(&mut self, sequence: u64, kind: i32) {
        let event = Event::BulkheadDomainNotice(bulkhead::DomainNoticeMsg { sequence, kind, ..Default::default() });
        self.0.queue_with(IpcKind::Event, 0, Vec::new(), |out| ipc_codec::encode_event(&event, out)).unwrap();
        self.0.flush().unwrap();
    }

    fn subscription(&mut self, rig: &mut Rig, next: u64) -> Option<u64> {
        rig.session.work(rig.now).unwrap();
        match self.next() {
            (serial, Call::BulkheadEventsSubscribe(args)) => {
                let ret = bulkhead::EventsSubscribeRet { next, lost: false };
                self.reply(serial, &Reply::BulkheadEventsSubscribe(ret));
                args.since
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A question for qemud's socket.
fn asked(again: bool) -> Option<Dial> {
    Some(Dial { daemon: Daemon::Qemud, again })
}

fn open_qemud(rig: &mut Rig) -> FakeQemud {
    rig.log_in();
    let serial = rig.send(&open("", 0), Vec::new());
    rig.pass().unwrap();
    assert_eq!(rig.take_dial(), asked(false));
    let mut qemud = FakeQemud::dialed(rig);
    let (call, args) = qemud.next();
    assert!(matches!(args, Call::ConnectOpen(_)));
    qemud.reply(call, &Reply::ConnectOpen(()));
    rig.pass().unwrap();
    assert!(rig.answer(serial, Op::ConnectOpen).unwrap().is_ok());
    qemud
}

fn hostname_reply() -> Reply {
    Reply::ConnectGetHostname(remote::ConnectGetHostnameRet { hostname: "h".into() })
}

#[test]
fn a_failed_dial_is_the_open_s_answer_and_another_open_may_follow() {
    let mut rig = Rig::new();
    rig.log_in();
    let serial = rig.send(&open("qemu:///system", 0), Vec::new());
    rig.pass().unwrap();
    assert_eq!(rig.take_dial(), asked(false));
    rig.session.dialed(Err(Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, "nobody listens")));
    rig.pass().unwrap();
    let error = rig.answer(serial, Op::ConnectOpen).unwrap().unwrap_err();
    assert_eq!(error.message, "nobody listens");
    open_qemud_again(&mut rig);
}

fn open_qemud_again(rig: &mut Rig) {
    rig.send(&open("qemu:///system", 0), Vec::new());
    rig.pass().unwrap();
    assert_eq!(rig.take_dial(), asked(false));
}

#[test]
fn a_lost_qemud_fails_what_was_under_way_and_the_next_call_dials() {
    let mut rig = Rig::new();
    let mut qemud = open_qemud(&mut rig);
    let serial = rig.send(&hostname(), Vec::new());
    rig.pass().unwrap();
    qemud.next();
    drop(qemud);
    rig.pass().unwrap();
    rig.pass().unwrap();
    let error = rig.answer(serial, Op::ConnectGetHostname).unwrap().unwrap_err();
    assert!(error.message.contains("lost during virConnectGetHostname"), "{}", error.message);
    assert_eq!(rig.take_dial(), None, "nobody listens to events");
    let serial = rig.send(&hostname(), Vec::new());
    rig.pass().unwrap();
    assert_eq!(rig.take_dial(), asked(false));
    let mut qemud = FakeQemud::dialed(&mut rig);
    let (call, _) = qemud.next();
    qemud.reply(call, &hostname_reply());
    rig.pass().unwrap();
    assert!(rig.answer(serial, Op::ConnectGetHostname).unwrap().is_ok());
}

#[test]
fn a_long_answer_holds_up_no_call_behind_it() {
    let mut rig = Rig::new();
    let mut qemud = open_qemud(&mut rig);
    let last = (0..4).map(|_| rig.send(&hostname(), Vec::new())).last().unwrap();
    rig.pass().unwrap();
    // What the client does not read waits with qemud, which waits too.
    let answers = std::thread::spawn(move || {
        for _ in 0..4 {
            let (call, _) = qemud.next();
            let ret = remote::ConnectGetHostnameRet { hostname: "h".repeat(150 << 10) };
            qemud.reply(call, &Reply::ConnectGetHostname(ret));
        }
        qemud
    });
    while rig.session.has_room() {
        rig.pass().unwrap();
    }
    rig.pass().unwrap();
    assert!(rig.session.paused.is_some(), "the client has not read anything");
    assert!(rig.session.conn.backlog() < SHARE.unread + (200 << 10), "and no more is fetched for it");
    while rig.answer(last, Op::ConnectGetHostname).is_none() {
        rig.pass().unwrap();
    }
    let _qemud = answers.join().unwrap();
    // The clock stands still: nothing here waits for a timer.
    rig.ok(&feature(8));
}

#[test]
fn a_registration_without_qemud_is_an_error_and_not_the_end() {
    let mut rig = Rig::new();
    drop(open_qemud(&mut rig));
    rig.pass().unwrap();
    rig.pass().unwrap();
    let serial = rig.send(&register(0), Vec::new());
    rig.pass().unwrap();
    assert_eq!(rig.take_dial(), asked(false));
    rig.session.dialed(Err(Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, "nobody listens")));
    rig.pass().unwrap();
    let answer = rig.answer(serial, Op::ConnectDomainEventCallbackRegisterAny).unwrap();
    assert_eq!(answer.unwrap_err().message, "nobody listens");
    open_qemud_again_by_a_call(&mut rig);
}

fn open_qemud_again_by_a_call(rig: &mut Rig) {
    rig.send(&hostname(), Vec::new());
    rig.pass().unwrap();
    assert_eq!(rig.take_dial(), asked(false));
}

#[test]
fn a_registration_that_fails_takes_no_other_with_it() {
    let mut rig = Rig::new();
    let mut qemud = open_qemud(&mut rig);
    rig.send(&register(0), Vec::new());
    rig.pass().unwrap();
    qemud.subscription(&mut rig, 5);
    rig.pass().unwrap();
    rig.received();
    drop(qemud);
    rig.pass().unwrap();
    rig.pass().unwrap();
    assert_eq!(rig.take_dial(), asked(true));
    let mut qemud = FakeQemud::dialed(&mut rig);
    qemud.next();
    let second = rig.send(&register(0), Vec::new());
    rig.pass().unwrap();
    // It goes away once more before it has answered.
    drop(qemud);
    rig.pass().unwrap();
    rig.pass().unwrap();
    assert!(rig.answer(second, Op::ConnectDomainEventCallbackRegisterAny).unwrap().is_err());
    assert_eq!(rig.take_dial(), asked(true), "the first one goes on to listen");
    let mut qemud = FakeQemud::dialed(&mut rig);
    assert_eq!(qemud.subscription(&mut rig, 6), Some(4));
    qemud.event(5);
    assert_eq!(rig.events().len(), 1);
}

#[test]
fn calls_without_end_that_qemud_does_not_take_are_not_read() {
    let mut rig = Rig::new();
    rig.log_in();
    rig.send(&open("", 0), Vec::new());
    rig.pass().unwrap();
    let text = "x".repeat(200 << 10);
    for _ in 0..200 {
        let args = remote::DomainLookupByNameArgs { name: text.clone() };
        rig.serial += 1;
        rig.client.queue_call(rig.serial, &Call::DomainLookupByName(args), Vec::new()).unwrap();
        let _ = rig.client.flush().unwrap();
        rig.pass().unwrap();
    }
    assert!(rig.session.link.backlog() < 2 << 20, "{}", rig.session.link.backlog());
    assert!(rig.client.backlog() > 30 << 20, "the client keeps what nobody takes");
}

#[test]
fn who_listens_gets_every_event_once_across_a_restart() {
    let mut rig = Rig::new();
    let mut qemud = open_qemud(&mut rig);
    let serial = rig.send(&register(0), Vec::new());
    rig.pass().unwrap();
    assert!(rig.answer(serial, Op::ConnectDomainEventCallbackRegisterAny).is_none(), "not before events flow");
    assert_eq!(qemud.subscription(&mut rig, 5), None);
    rig.pass().unwrap();
    assert!(rig.answer(serial, Op::ConnectDomainEventCallbackRegisterAny).unwrap().is_ok());
    qemud.event(5);
    qemud.event(6);
    assert_eq!(rig.events().len(), 2);
    drop(qemud);
    rig.pass().unwrap();
    rig.pass().unwrap();
    assert_eq!(rig.take_dial(), asked(true), "without being asked");
    let mut qemud = FakeQemud::dialed(&mut rig);
    assert_eq!(qemud.subscription(&mut rig, 9), Some(6));
    for sequence in [6, 7, 8] {
        qemud.event(sequence);
    }
    assert_eq!(rig.events().len(), 2, "the one that it has seen does not come again");
}

#[test]
fn who_counts_events_is_cut_off_when_some_are_gone_and_so_asks_again() {
    let mut rig = Rig::new();
    let mut qemud = open_qemud(&mut rig);
    counts(&mut rig, &mut qemud, Some(4), 9);
    drop(qemud);
    rig.pass().unwrap();
    rig.pass().unwrap();
    assert_eq!(rig.take_dial(), asked(true));
    let mut qemud = FakeQemud::dialed(&mut rig);
    // Another log: it ends before what the client has seen.
    let (serial, _) = qemud.next();
    let ret = bulkhead::EventsSubscribeRet { next: 2, lost: false };
    qemud.reply(serial, &Reply::BulkheadEventsSubscribe(ret));
    assert!(matches!(rig.pass(), Err(Over::Broken(_))));
}

/// Subscribes as a client that counts events.
fn counts(rig: &mut Rig, qemud: &mut FakeQemud, since: Option<u64>, next: u64) {
    let subscribe = Call::BulkheadEventsSubscribe(bulkhead::EventsSubscribeArgs { since });
    let serial = rig.send(&subscribe, Vec::new());
    rig.pass().unwrap();
    assert_eq!(qemud.subscription(rig, next), since);
    rig.pass().unwrap();
    assert!(rig.answer(serial, Op::BulkheadEventsSubscribe).unwrap().is_ok());
}

#[test]
fn a_client_that_counts_from_another_log_gets_the_events_of_this_one() {
    let mut rig = Rig::new();
    let mut qemud = open_qemud(&mut rig);
    counts(&mut rig, &mut qemud, Some(100), 3);
    qemud.event(3);
    let events = rig.events();
    assert!(matches!(&events[..], [Event::BulkheadDomainEvent(event)] if event.sequence == 3), "{events:?}");
}

#[test]
fn a_client_that_counts_events_sees_a_gap_between_them_in_the_numbers() {
    let mut rig = Rig::new();
    let mut qemud = open_qemud(&mut rig);
    counts(&mut rig, &mut qemud, Some(4), 9);
    // The replay, in which the answer has said that nothing is lost, and the first live event.
    for sequence in [5, 7, 9] {
        qemud.event(sequence);
    }
    assert_eq!(rig.events().len(), 3);
    qemud.event(11);
    assert_eq!(rig.events().len(), 1, "it goes on");
}

#[test]
fn a_gap_between_events_calls_the_close_callback_once() {
    let mut rig = Rig::new();
    let mut qemud = open_qemud(&mut rig);
    rig.send(&Call::ConnectRegisterCloseCallback(remote::ConnectRegisterCloseCallbackArgs {}), Vec::new());
    rig.send(&register(0), Vec::new());
    rig.pass().unwrap();
    qemud.subscription(&mut rig, 5);
    rig.pass().unwrap();
    rig.received();
    // A second gap right behind the first, which a client that looks at everything anew need not be told.
    for sequence in [5, 7, 8, 10] {
        qemud.event(sequence);
    }
    let events = rig.events();
    assert!(
        matches!(
            &events[..],
            [
                Event::DomainEventCallbackLifecycle(_),
                Event::ConnectEventConnectionClosed(remote::ConnectEventConnectionClosedMsg { reason: 0 }),
                Event::DomainEventCallbackLifecycle(_),
                Event::DomainEventCallbackLifecycle(_),
                Event::DomainEventCallbackLifecycle(_),
            ]
        ),
        "{events:?}"
    );
}

#[test]
fn notices_and_events_have_one_sequence_across_a_restart() {
    let mut rig = Rig::new();
    let mut qemud = open_qemud(&mut rig);
    rig.send(&register(1), Vec::new());
    rig.pass().unwrap();
    assert_eq!(qemud.subscription(&mut rig, 8), None);
    rig.pass().unwrap();
    rig.received();
    qemud.notice(8, 1);
    qemud.event(9);
    qemud.notice(9, 1);
    qemud.notice(10, 99);
    let events = rig.events();
    assert!(matches!(&events[..], [Event::DomainEventCallbackReboot(_)]), "each number once: {events:?}");
    drop(qemud);
    rig.pass().unwrap();
    rig.pass().unwrap();
    assert_eq!(rig.take_dial(), asked(true));
    let mut qemud = FakeQemud::dialed(&mut rig);
    assert_eq!(qemud.subscription(&mut rig, 12), Some(10), "behind the last, which had no message");
}

#[test]
fn a_qemud_that_does_not_come_back_ends_who_listens() {
    let mut rig = Rig::new();
    let mut qemud = open_qemud(&mut rig);
    rig.send(&Call::ConnectRegisterCloseCallback(remote::ConnectRegisterCloseCallbackArgs {}), Vec::new());
    rig.send(&register(0), Vec::new());
    rig.pass().unwrap();
    qemud.subscription(&mut rig, 1);
    rig.pass().unwrap();
    drop(qemud);
    rig.pass().unwrap();
    rig.pass().unwrap();
    rig.received();
    rig.session.dialed(Err(Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, "nobody listens")));
    let frames = rig.received();
    assert!(matches!(
        codec::decode_event(&frames[0]).unwrap(),
        Some(Event::ConnectEventConnectionClosed(remote::ConnectEventConnectionClosedMsg { reason: 1 }))
    ));
    assert!(matches!(rig.pass(), Err(Over::Broken(_))));
}

#[test]
fn a_connection_that_was_only_read_from_serves_the_next_session() {
    let mut rig = Rig::new();
    let mut qemud = open_qemud(&mut rig);
    let serial = rig.send(&hostname(), Vec::new());
    rig.pass().unwrap();
    let (call, _) = qemud.next();
    qemud.reply(call, &hostname_reply());
    rig.pass().unwrap();
    rig.answer(serial, Op::ConnectGetHostname).unwrap().unwrap();
    let mut kept = rig.session.end(&Over::Left);
    assert!(kept.is_some());

    // It is open already: nobody has to be asked.
    let mut next = Rig::new();
    next.session.kept = kept.take();
    next.log_in();
    let serial = next.send(&open("", 0), Vec::new());
    next.pass().unwrap();
    next.answer(serial, Op::ConnectOpen).unwrap().unwrap();
    assert_eq!(next.take_dial(), None);
    let mut kept = next.session.end(&Over::Left);
    assert!(kept.is_some());

    // It has gone in between: the client notices nothing.
    drop(qemud);
    let mut last = Rig::new();
    last.session.kept = kept.take();
    last.log_in();
    let serial = last.send(&open("", 0), Vec::new());
    last.pass().unwrap();
    assert_eq!(last.take_dial(), asked(false));
    let mut qemud = FakeQemud::dialed(&mut last);
    let (call, _) = qemud.next();
    qemud.reply(call, &Reply::ConnectOpen(()));
    last.pass().unwrap();
    last.answer(serial, Op::ConnectOpen).unwrap().unwrap();
}

#[test]
fn a_connection_that_may_hold_something_of_its_client_s_is_not_kept() {
    let writes = Call::DomainSuspend(remote::DomainSuspendArgs { dom: remote::Domain::default() });
    for call in [writes, register(0)] {
        let mut rig = Rig::new();
        let mut qemud = open_qemud(&mut rig);
        rig.send(&call, Vec::new());
        rig.pass().unwrap();
        match qemud.next() {
            (serial, Call::DomainSuspend(_)) => qemud.reply(serial, &Reply::DomainSuspend(())),
            (serial, _) => {
                let ret = bulkhead::EventsSubscribeRet { next: 1, lost: false };
                qemud.reply(serial, &Reply::BulkheadEventsSubscribe(ret));
            }
        }
        rig.pass().unwrap();
        assert!(rig.session.pending.is_empty());
        assert!(rig.session.end(&Over::Left).is_none());
    }
    let mut rig = Rig::new();
    let _qemud = open_qemud(&mut rig);
    assert!(rig.session.end(&Over::Broken("any".into())).is_none(), "nor of one that broke the rules");
}
