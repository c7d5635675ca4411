//! Sessions without a process around them: the client is the other end of a socket pair, the clock is said.

use super::*;
use crate::edge::{InstanceMode, Login, Way};
use api::{Access, Event, OpKind, arbitrary::Source};
use ipc::{Caps, Hello, Kind as IpcKind, client::VERSIONS, codec as ipc_codec};
use wire::{Kind, Status, codec::Answer, transport::Unix};

const SECOND: Duration = Duration::from_secs(1);

struct Rig {
    session: Session,
    client: Conn<Unix>,
    now: Instant,
    serial: u32,
    /// What is not the answer to the last call.
    others: Vec<Frame>,
}

fn rig_with(rights: Rights) -> Rig {
    let (a, b) = UnixStream::pair().unwrap();
    let client = Client {
        peer: Peer::Local { uid: 1, gid: 1, pid: 1 },
        rights,
        mode: InstanceMode::System,
        patience: SECOND * 10,
        keepalive: KeepaliveSettings { seconds: 5, count: 5 },
        way: Way::Unix(Login::None),
    };
    let now = Instant::now();
    let session = Session::new(&client, Box::new(Unix::new(a)), LoginState::Done, None, now);
    Rig { session, client: Conn::new(Unix::new(b)), now, serial: 0, others: Vec::new() }
}

impl Rig {
    fn new() -> Rig {
        rig_with(Rights::Full)
    }

    /// A session with the test driver open.
    fn open(rights: Rights) -> Rig {
        let mut rig = rig_with(rights);
        rig.log_in();
        rig.ok(&open("test:///default", 0));
        rig
    }

    fn log_in(&mut self) {
        assert!(matches!(self.ok(&Call::AuthList(remote::AuthListArgs {})), Reply::AuthList(list)
            if list.types == [remote::AuthType::NONE]));
    }

    /// A pass of the process around the session.
    fn pass(&mut self) -> Result<(), Over> {
        self.session.work(self.now)?;
        let told = {
            let mut sources = Vec::new();
            self.session.sources(&mut sources);
            rustix::event::poll(&mut sources, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
            sources.iter().map(PollFd::revents).collect::<Vec<_>>()
        };
        self.session.ready(&told, self.now);
        self.session.work(self.now)
    }

    fn send(&mut self, call: &Call, fds: Vec<OwnedFd>) -> u32 {
        self.serial += 1;
        self.client.queue_call(self.serial, call, fds).unwrap();
        self.client.flush().unwrap();
        self.serial
    }

    fn received(&mut self) -> Vec<Frame> {
        let mut frames = mem::take(&mut self.others);
        loop {
            let more = self.client.fill().unwrap();
            while let Ok(Some(frame)) = self.client.next_frame() {
                frames.push(frame);
            }
            if !more {
                return frames;
            }
        }
    }

    fn answer(&mut self, serial: u32, op: Op) -> Option<Result<Reply, Error>> {
        let mut frames = self.received();
        let at = frames.iter().position(|f| f.header.meaning() == Meaning::Reply && f.header.serial == serial)?;
        let frame = frames.remove(at);
        self.others = frames;
        Some(match codec::decode_reply(op, &frame).unwrap() {
            Answer::Done(reply) => Ok(reply),
            Answer::Failed(error) => Err(error),
        })
    }

    fn call_with(&mut self, call: &Call, fds: Vec<OwnedFd>) -> Result<Reply, Error> {
        let serial = self.send(call, fds);
        for _ in 0..100 {
            self.pass().unwrap();
            if let Some(answer) = self.answer(serial, call.op()) {
                return answer;
            }
        }
        panic!("{} is not answered", call.op());
    }

    fn call(&mut self, call: &Call) -> Result<Reply, Error> {
        self.call_with(call, Vec::new())
    }

    fn ok(&mut self, call: &Call) -> Reply {
        self.call(call).unwrap_or_else(|error| panic!("{}: {}", call.op(), error.full_text()))
    }

    #[track_caller]
    fn fails(&mut self, call: &Call, code: ErrorCode, text: &str) {
        let error = self.call(call).unwrap_err();
        assert_eq!(error.code, code, "{}", error.full_text());
        assert!(error.message.contains(text), "{}", error.message);
    }

    fn events(&mut self) -> Vec<Event> {
        self.pass().unwrap();
        let frames = self.received();
        let events = frames.iter().filter(|frame| frame.header.meaning() == Meaning::Event);
        events.map(|frame| codec::decode_event(frame).unwrap().unwrap()).collect()
    }
}

fn open(name: &str, flags: u32) -> Call {
    Call::ConnectOpen(remote::ConnectOpenArgs { name: Some(name.into()), flags })
}

fn feature(number: i32) -> Call {
    Call::ConnectSupportsFeature(remote::ConnectSupportsFeatureArgs { feature: number })
}

fn hostname() -> Call {
    Call::ConnectGetHostname(remote::ConnectGetHostnameArgs {})
}

fn test_domain(rig: &mut Rig) -> remote::Domain {
    let lookup = Call::DomainLookupByName(remote::DomainLookupByNameArgs { name: "test".into() });
    match rig.ok(&lookup) {
        Reply::DomainLookupByName(ret) => ret.dom,
        other => panic!("{other:?}"),
    }
}

fn register(event_id: i32) -> Call {
    Call::ConnectDomainEventCallbackRegisterAny(remote::ConnectDomainEventCallbackRegisterAnyArgs {
        event_id,
        dom: None,
    })
}

#[test]
fn nothing_but_the_login_goes_before_the_login() {
    let mut rig = Rig::new();
    for call in [open("test:///default", 0), hostname(), feature(10)] {
        rig.fails(&call, ErrorCode::RPC, "authentication required");
    }
    rig.fails(&Call::AuthPolkit(remote::AuthPolkitArgs {}), ErrorCode::AUTH_FAILED, "authentication failed");
    rig.log_in();
    rig.log_in();
    rig.fails(&hostname(), ErrorCode::INTERNAL_ERROR, "hypervisor connection not open");
}

#[test]
fn who_does_not_log_in_in_time_is_cut_off() {
    let mut rig = Rig::new();
    assert_eq!(rig.session.deadline(), Some(rig.now + SECOND * 10));
    rig.now += SECOND * 9;
    rig.pass().unwrap();
    rig.now += SECOND;
    assert!(matches!(rig.pass(), Err(Over::Broken(_))));
    let mut rig = Rig::new();
    rig.log_in();
    rig.now += SECOND * 1000;
    rig.pass().unwrap();
    assert_eq!(rig.session.deadline(), None, "one that is known may be silent");
}

#[test]
fn a_frame_before_the_login_is_a_short_one() {
    let mut rig = Rig::new();
    let header = codec::header(Op::AuthList, Kind::Call, 1);
    rig.client.queue_raw(&header, &vec![0; 128 << 10]).unwrap();
    rig.client.flush().unwrap();
    assert!(matches!(rig.pass(), Err(Over::Broken(_))));
}

#[test]
fn what_is_not_known_is_refused_in_the_words_that_clients_know() {
    let mut rig = Rig::new();
    rig.log_in();
    for (program, procedure, text) in
        [(0x2000_8086, 9999, "unknown procedure: 9999"), (0x1234, 1, "Cannot find program 4660 version 1")]
    {
        let header = Header { program, procedure, ..codec::header(Op::AuthList, Kind::Call, 77) };
        rig.client.queue_empty(&header).unwrap();
        rig.client.flush().unwrap();
        rig.pass().unwrap();
        let frames = rig.received();
        assert_eq!((frames.len(), frames[0].header.status, frames[0].header.serial), (1, Status::Error, 77));
        let text_of = |frame: &Frame| String::from_utf8_lossy(&frame.payload).into_owned();
        assert!(text_of(&frames[0]).contains(text), "{}", text_of(&frames[0]));
    }
}

#[test]
fn features_of_the_protocol_are_known_before_the_open() {
    let mut rig = Rig::new();
    rig.log_in();
    let supported = |reply: Reply| match reply {
        Reply::ConnectSupportsFeature(ret) => ret.supported,
        other => panic!("{other:?}"),
    };
    for (number, expected) in [(10, 1), (8, 1), (14, 1), (15, 1), (2, 0)] {
        let reply = rig.ok(&feature(number));
        assert_eq!(supported(reply), expected, "{number}");
    }
    rig.fails(&feature(9), ErrorCode::INTERNAL_ERROR, "not open");
    rig.ok(&open("test:///default", 0));
    let reply = rig.ok(&feature(9));
    assert_eq!(supported(reply), 1, "the driver's own answer");
}

#[test]
fn names_that_are_not_served_here_are_errors_and_another_one_may_follow() {
    let mut rig = Rig::new();
    rig.log_in();
    for (name, code, text) in [
        ("qemu:///session", ErrorCode::INTERNAL_ERROR, "unexpected QEMU URI path '/session', try qemu:///system"),
        ("test:///etc/shadow", ErrorCode::OPERATION_UNSUPPORTED, "is not read for a client"),
        ("lxc:///system", ErrorCode::NO_CONNECT, "lxc"),
    ] {
        rig.fails(&open(name, 0), code, text);
    }
    rig.ok(&open("test:///default", 0));
    rig.fails(&open("test:///default", 0), ErrorCode::INTERNAL_ERROR, "connection already open");
    rig.ok(&hostname());
}

#[test]
fn bits_of_an_open_that_are_a_client_s_private_matter_are_ignored() {
    let mut rig = Rig::new();
    rig.log_in();
    rig.ok(&open("test:///default", 0xffff_fffe));
    let dom = test_domain(&mut rig);
    rig.ok(&Call::DomainSuspend(remote::DomainSuspendArgs { dom }));
}

#[test]
fn every_writing_call_is_denied_to_who_may_only_read_however_that_came() {
    let by_flag = || {
        let mut rig = Rig::new();
        rig.log_in();
        rig.ok(&open("test:///default", 1));
        rig
    };
    for mut rig in [Rig::open(Rights::ReadOnly), by_flag()] {
        let mut source = Source::new(3);
        let mut denied = 0;
        for op in Op::ALL.iter().filter(|op| op.info().kind == OpKind::Call && op.info().access == Access::Write) {
            let Some(call) = Call::arbitrary(*op, &mut source) else { continue };
            let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
            let count = op.info().fds_in.min.into();
            let error = rig.call_with(&call, std::iter::repeat_with(null).take(count).collect()).unwrap_err();
            assert_eq!(error.code, ErrorCode::OPERATION_DENIED, "{op}: {}", error.full_text());
            let text = format!("operation forbidden: read only access prevents {}", op.info().api);
            assert_eq!(error.message, text);
            denied += 1;
        }
        assert!(denied > 100, "{denied} of the table");
    }
}

#[test]
fn calls_may_be_many_before_the_first_answer_is_read() {
    let mut rig = Rig::open(Rights::Full);
    let serials: Vec<u32> = (0..3000).map(|_| rig.send(&hostname(), Vec::new())).collect();
    let mut answered = Vec::new();
    while answered.len() < serials.len() {
        rig.client.flush().unwrap();
        rig.pass().unwrap();
        answered.extend(rig.received().iter().map(|frame| frame.header.serial));
    }
    answered.sort_unstable();
    assert_eq!(answered, serials);
}

#[test]
fn a_goodbye_is_answered_before_the_end() {
    let mut rig = Rig::open(Rights::Full);
    let serial = rig.send(&Call::ConnectClose(remote::ConnectCloseArgs {}), Vec::new());
    assert!(matches!(rig.pass().and_then(|()| rig.pass()), Err(Over::Left)));
    assert!(matches!(rig.answer(serial, Op::ConnectClose), Some(Ok(Reply::ConnectClose(())))));
}

#[test]
fn half_a_frame_is_no_good_order() {
    let mut rig = Rig::open(Rights::Full);
    let (a, b) = UnixStream::pair().unwrap();
    rig.session.conn = Conn::new(Box::new(Unix::new(a)));
    std::io::Write::write_all(&mut &b, b"\0\0\0").unwrap();
    drop(b);
    let over = (0..3).find_map(|_| rig.pass().err());
    assert!(matches!(over, Some(Over::Broken(_))), "{over:?}");
}

#[test]
fn a_ping_is_answered_and_a_silent_client_is_pinged_and_given_up() {
    let mut rig = Rig::open(Rights::Full);
    rig.client.queue_empty(&keepalive::PING_HEADER).unwrap();
    rig.client.flush().unwrap();
    rig.pass().unwrap();
    assert_eq!(rig.received()[0].header, keepalive::PONG_HEADER);
    rig.now += SECOND * 100;
    rig.pass().unwrap();
    assert!(rig.received().is_empty(), "nobody asked for pings");
    rig.session.keepalive = Some(Keepalive::new(SECOND * 5, 5, rig.now));
    for _ in 0..5 {
        rig.now += SECOND * 5;
        rig.pass().unwrap();
        assert_eq!(rig.received()[0].header, keepalive::PING_HEADER);
    }
    rig.now += SECOND * 5;
    assert!(matches!(rig.pass(), Err(Over::Broken(_))));
}

#[test]
fn a_client_that_is_not_read_still_gets_signs_of_life() {
    let mut rig = Rig::open(Rights::Full);
    rig.session.keepalive = Some(Keepalive::new(SECOND * 5, 5, rig.now));
    rig.session.pending = (0..IN_FLIGHT as u64)
        .map(|n| Pending { token: u64::MAX - n, header: None, purpose: Purpose::Unsubscribe })
        .collect();
    for _ in 0..20 {
        rig.now += SIGN_OF_LIFE;
        rig.pass().unwrap();
    }
    let signs = rig.received();
    assert!(signs.len() > 15 && signs.iter().all(|frame| frame.header == keepalive::PONG_HEADER), "{signs:?}");
    rig.session.pending.clear();
    rig.now += SECOND;
    rig.ok(&hostname());
}

#[test]
fn events_come_once_for_each_registration() {
    let mut rig = Rig::open(Rights::Full);
    let Reply::ConnectDomainEventCallbackRegisterAny(first) = rig.ok(&register(0)) else { panic!() };
    let Reply::ConnectDomainEventCallbackRegisterAny(second) = rig.ok(&register(0)) else { panic!() };
    rig.ok(&register(5));
    rig.fails(&register(77), ErrorCode::INTERNAL_ERROR, "unsupported event ID 77");
    let dom = test_domain(&mut rig);
    rig.ok(&Call::DomainSuspend(remote::DomainSuspendArgs { dom: dom.clone() }));
    let ids = |events: Vec<Event>| -> Vec<i32> {
        let id = |event| match event {
            Event::DomainEventCallbackLifecycle(msg) => msg.callback_id,
            other => panic!("{other:?}"),
        };
        events.into_iter().map(id).collect()
    };
    let events = rig.events();
    assert_eq!(ids(events), [first.callback_id, second.callback_id]);
    let deregister = |callback_id| {
        Call::ConnectDomainEventCallbackDeregisterAny(remote::ConnectDomainEventCallbackDeregisterAnyArgs {
            callback_id,
        })
    };
    rig.ok(&deregister(first.callback_id));
    rig.fails(&deregister(first.callback_id), ErrorCode::INTERNAL_ERROR, "not registered");
    rig.ok(&Call::DomainResume(remote::DomainResumeArgs { dom: dom.clone() }));
    let events = rig.events();
    assert_eq!(ids(events), [second.callback_id]);
    rig.ok(&deregister(second.callback_id));
    rig.ok(&Call::DomainSuspend(remote::DomainSuspendArgs { dom }));
    assert_eq!(rig.events().len(), 0);
}

#[test]
fn what_else_happens_goes_to_those_who_registered_for_it() {
    let mut rig = Rig::open(Rights::Full);
    let mut registered = [0; 4];
    for (id, event) in registered.iter_mut().zip([0, 1, 13, 23]) {
        let Reply::ConnectDomainEventCallbackRegisterAny(ret) = rig.ok(&register(event)) else { panic!() };
        *id = ret.callback_id;
    }
    let dom = test_domain(&mut rig);
    rig.ok(&Call::DomainReset(remote::DomainResetArgs { dom: dom.clone(), flags: 0 }));
    rig.ok(&Call::DomainSetMemory(remote::DomainSetMemoryArgs { dom: dom.clone(), memory: 1024 }));
    rig.ok(&Call::DomainSetMetadata(remote::DomainSetMetadataArgs {
        dom: dom.clone(),
        r#type: 1,
        metadata: Some("a title".into()),
        ..Default::default()
    }));
    rig.ok(&Call::DomainSuspend(remote::DomainSuspendArgs { dom: dom.clone() }));
    let told: Vec<(i32, bool)> = rig
        .events()
        .into_iter()
        .map(|event| match event {
            Event::DomainEventCallbackReboot(msg) => (msg.callback_id, msg.msg.dom.uuid == dom.uuid),
            Event::DomainEventCallbackBalloonChange(msg) => (msg.callback_id, msg.msg.actual == 1024),
            Event::DomainEventCallbackMetadataChange(msg) => (msg.callback_id, (msg.r#type, msg.nsuri) == (1, None)),
            Event::DomainEventCallbackLifecycle(msg) => (msg.callback_id, msg.msg.event == 3),
            other => panic!("{other:?}"),
        })
        .collect();
    let [lifecycle, reboot, balloon, metadata] = registered;
    assert_eq!(told, [reboot, balloon, metadata, lifecycle].map(|id| (id, true)));

    rig.ok(&Call::ConnectDomainEventRegisterAny(remote::ConnectDomainEventRegisterAnyArgs { event_id: 1 }));
    rig.ok(&Call::DomainReset(remote::DomainResetArgs { dom, flags: 0 }));
    let events = rig.events();
    assert!(
        matches!(&events[..], [Event::DomainEventReboot(_), Event::DomainEventCallbackReboot(_)]),
        "both styles: {events:?}"
    );
}

#[test]
fn the_old_style_of_events_has_its_own_messages() {
    let mut rig = Rig::open(Rights::Full);
    rig.ok(&Call::ConnectDomainEventRegister(remote::ConnectDomainEventRegisterArgs {}));
    let dom = test_domain(&mut rig);
    rig.ok(&Call::DomainSuspend(remote::DomainSuspendArgs { dom: dom.clone() }));
    assert!(matches!(rig.events().as_slice(), [Event::DomainEventLifecycle(msg)] if msg.dom.uuid == dom.uuid));
    rig.ok(&Call::ConnectDomainEventDeregister(remote::ConnectDomainEventDeregisterArgs {}));
    rig.ok(&Call::DomainResume(remote::DomainResumeArgs { dom }));
    assert_eq!(rig.events().len(), 0);
}

#[test]
fn a_console_is_a_stream() {
    let mut rig = Rig::open(Rights::Full);
    let dom = test_domain(&mut rig);
    let console = Call::DomainOpenConsole(remote::DomainOpenConsoleArgs { dom, dev_name: None, flags: 0 });
    rig.ok(&console);
    let id = StreamId::from(&codec::header(Op::DomainOpenConsole, Kind::Call, rig.serial));
    rig.client.queue_data(id, b"echo").unwrap();
    rig.client.flush().unwrap();
    let mut heard = Vec::new();
    while heard.len() < 4 {
        rig.pass().unwrap();
        for frame in rig.received() {
            assert_eq!((frame.header.kind, StreamId::from(&frame.header)), (Kind::Stream, id));
            heard.extend(frame.payload);
        }
    }
    assert_eq!(heard, b"echo");
    rig.client.queue_packet(id, &Packet::Abort).unwrap();
    rig.client.flush().unwrap();
    rig.pass().unwrap();
    let frames = rig.received();
    assert_eq!((frames.len(), frames[0].header.status), (1, Status::Ok));
    assert_eq!(rig.session.streams.count(), 0);
}

// qemud at the other end of a socket.

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

fn open_qemud(rig: &mut Rig) -> FakeQemud {
    rig.log_in();
    let serial = rig.send(&open("", 0), Vec::new());
    rig.pass().unwrap();
    assert_eq!(rig.session.take_dial(), Some(false));
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
    assert_eq!(rig.session.take_dial(), Some(false));
    rig.session.dialed(Err(Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, "nobody listens")));
    rig.pass().unwrap();
    let error = rig.answer(serial, Op::ConnectOpen).unwrap().unwrap_err();
    assert_eq!(error.message, "nobody listens");
    open_qemud_again(&mut rig);
}

fn open_qemud_again(rig: &mut Rig) {
    rig.send(&open("qemu:///system", 0), Vec::new());
    rig.pass().unwrap();
    assert_eq!(rig.session.take_dial(), Some(false));
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
    assert_eq!(rig.session.take_dial(), None, "nobody listens to events");
    let serial = rig.send(&hostname(), Vec::new());
    rig.pass().unwrap();
    assert_eq!(rig.session.take_dial(), Some(false));
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
    let mut last = 0;
    for _ in 0..4 {
        last = rig.send(&hostname(), Vec::new());
        rig.pass().unwrap();
        let (call, _) = qemud.next();
        let ret = remote::ConnectGetHostnameRet { hostname: "h".repeat(150 << 10) };
        qemud.reply(call, &Reply::ConnectGetHostname(ret));
        rig.pass().unwrap();
    }
    assert!(rig.session.paused.is_some(), "the client has not read anything");
    for _ in 0..100 {
        if rig.answer(last, Op::ConnectGetHostname).is_some() {
            break;
        }
        rig.pass().unwrap();
    }
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
    assert_eq!(rig.session.take_dial(), Some(false));
    rig.session.dialed(Err(Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, "nobody listens")));
    rig.pass().unwrap();
    let answer = rig.answer(serial, Op::ConnectDomainEventCallbackRegisterAny).unwrap();
    assert_eq!(answer.unwrap_err().message, "nobody listens");
    open_qemud_again_by_a_call(&mut rig);
}

fn open_qemud_again_by_a_call(rig: &mut Rig) {
    rig.send(&hostname(), Vec::new());
    rig.pass().unwrap();
    assert_eq!(rig.session.take_dial(), Some(false));
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
    assert_eq!(rig.session.take_dial(), Some(true));
    let mut qemud = FakeQemud::dialed(&mut rig);
    qemud.next();
    let second = rig.send(&register(0), Vec::new());
    rig.pass().unwrap();
    // It goes away once more before it has answered.
    drop(qemud);
    rig.pass().unwrap();
    rig.pass().unwrap();
    assert!(rig.answer(second, Op::ConnectDomainEventCallbackRegisterAny).unwrap().is_err());
    assert_eq!(rig.session.take_dial(), Some(true), "the first one goes on to listen");
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
    assert_eq!(rig.session.take_dial(), Some(true), "without being asked");
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
    let subscribe = Call::BulkheadEventsSubscribe(bulkhead::EventsSubscribeArgs { since: Some(4) });
    let serial = rig.send(&subscribe, Vec::new());
    rig.pass().unwrap();
    assert_eq!(qemud.subscription(&mut rig, 9), Some(4));
    rig.pass().unwrap();
    assert!(rig.answer(serial, Op::BulkheadEventsSubscribe).unwrap().is_ok());
    drop(qemud);
    rig.pass().unwrap();
    rig.pass().unwrap();
    assert_eq!(rig.session.take_dial(), Some(true));
    let mut qemud = FakeQemud::dialed(&mut rig);
    // Another log: it ends before what the client has seen.
    let (serial, _) = qemud.next();
    let ret = bulkhead::EventsSubscribeRet { next: 2, lost: false };
    qemud.reply(serial, &Reply::BulkheadEventsSubscribe(ret));
    assert!(matches!(rig.pass(), Err(Over::Broken(_))));
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
    assert_eq!(rig.session.take_dial(), Some(true));
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
    assert_eq!(next.session.take_dial(), None);
    let mut kept = next.session.end(&Over::Left);
    assert!(kept.is_some());

    // It has gone in between: the client notices nothing.
    drop(qemud);
    let mut last = Rig::new();
    last.session.kept = kept.take();
    last.log_in();
    let serial = last.send(&open("", 0), Vec::new());
    last.pass().unwrap();
    assert_eq!(last.session.take_dial(), Some(false));
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
