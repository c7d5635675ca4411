//! Sessions without a process around them: the client is the other end of a socket pair, the clock is said.

use super::*;
use crate::{
    edge::{InstanceMode, Login, Way},
    mock_host::tests::Played,
};
use api::{Access, Event, OpKind, arbitrary::Source};
use ipc::{Caps, Hello, Kind as IpcKind, client::VERSIONS, codec as ipc_codec};
use wire::{Kind, Status, codec::Answer, transport::Unix};

mod qemud;

const SECOND: Duration = Duration::from_secs(1);

struct Rig {
    session: Session,
    client: Conn<Unix>,
    now: Instant,
    serial: u32,
    /// What is not the answer to the last call.
    others: Vec<Frame>,
    mock_host: Played,
    /// What the acceptor was asked for and the test has to answer.
    dial: Option<Dial>,
}

const SHARE: Share = Share { calls: 64, unread: 256 << 10 };

fn rig_with(rights: Rights) -> Rig {
    let (a, b) = UnixStream::pair().unwrap();
    let client = Client {
        peer: Peer::Local { uid: 1, gid: 1, pid: 1 },
        rights,
        mode: InstanceMode::System,
        patience: SECOND * 10,
        keepalive: KeepaliveSettings { seconds: 5, count: 5 },
        way: Way::Unix(Login::None),
        share: SHARE,
    };
    let now = Instant::now();
    let session = Session::new(&client, Box::new(Unix::new(a)), LoginState::Done, None, now);
    Rig {
        session,
        client: Conn::new(Unix::new(b)),
        now,
        serial: 0,
        others: Vec::new(),
        mock_host: Played::new(),
        dial: None,
    }
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

    /// A pass of the process around the session, and of the mock host.
    fn pass(&mut self) -> Result<(), Over> {
        self.session.work(self.now)?;
        match self.session.take_dial() {
            Some(Dial { daemon: Daemon::MockHost, .. }) => {
                let socket = self.mock_host.connect(1, self.session.rights);
                self.session.dialed(Ok(socket));
                self.session.work(self.now)?;
            }
            dial => self.dial = dial.or(self.dial),
        }
        self.mock_host.turn();
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
        self.others = self.received();
        let is_it = |frame: &Frame| frame.header.meaning() == Meaning::Reply && frame.header.serial == serial;
        let frame = self.others.iter().position(is_it).map(|at| self.others.remove(at))?;
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

    /// What the acceptor was asked for.
    fn take_dial(&mut self) -> Option<Dial> {
        self.session.take_dial().or(self.dial.take())
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
    rig.session.pending = (0..SHARE.calls as u64)
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

/// A client that has asked for so much, and reads none of it, that it is not read any more.
fn crowded() -> Rig {
    let mut rig = Rig::open(Rights::Full);
    // What the socket takes is no backlog.
    while rig.session.conn.flush().unwrap() {
        rig.session.conn.queue_empty(&keepalive::PONG_HEADER).unwrap();
    }
    while rig.session.conn.backlog() < 2 * SHARE.unread {
        rig.session.conn.queue_empty(&keepalive::PONG_HEADER).unwrap();
    }
    rig
}

#[test]
fn a_client_that_takes_nothing_is_given_up_although_it_is_not_read() {
    let mut rig = crowded();
    rig.session.keepalive = Some(Keepalive::new(SECOND * 5, 5, rig.now));
    rig.pass().unwrap();
    assert!(rig.session.paused.is_some());
    // One that takes a little of it now and then is slow, and not dead.
    for _ in 0..3 {
        rig.now += SECOND * 20;
        rig.pass().unwrap();
        rig.client.fill().unwrap();
        rig.session.ready(&[PollFlags::OUT], rig.now);
        rig.pass().unwrap();
    }
    assert!(rig.session.paused.is_some());
    let over = (0..10).find_map(|_| {
        rig.now += SECOND * 5;
        rig.pass().err()
    });
    assert!(matches!(over, Some(Over::Broken(_))), "{over:?}");
}

#[test]
fn who_leaves_and_reads_no_answer_is_waited_for_no_longer_than_a_login() {
    let mut rig = crowded();
    rig.session.close(rig.now);
    // One that takes some of it is slow, and not gone.
    rig.now += SECOND * 9;
    rig.session.ready(&[PollFlags::OUT], rig.now);
    rig.now += SECOND * 9;
    rig.pass().unwrap();
    assert!(rig.session.deadline().is_some_and(|at| at <= rig.now + SECOND));
    rig.now += SECOND;
    assert!(matches!(rig.pass(), Err(Over::Broken(_))));
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
