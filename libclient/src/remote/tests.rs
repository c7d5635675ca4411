use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    sync::atomic::AtomicUsize,
    time::Instant,
};

use api::{Event, Uuid};
use tempfile::TempDir;

use super::*;
use crate::{
    Connection, ConsoleFlags, CreateFlags, EventKind, ListFlags, Notice, State, Uri,
    fake_libvirtd::{FakeLibvirtd, Step},
    wait::Deadline,
};

const LONG: Option<Duration> = Some(Duration::from_secs(20));

struct World {
    dir: TempDir,
}

impl World {
    fn new() -> World {
        World { dir: TempDir::new().unwrap() }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("libvirt-sock")
    }

    fn libvirtd(&self, handler: impl Fn(&Call, Vec<OwnedFd>) -> Step + Send + Sync + 'static) -> FakeLibvirtd {
        FakeLibvirtd::listen(&self.socket(), handler)
    }

    fn gateway(&self, handler: impl Fn(&Call, Vec<OwnedFd>) -> Step + Send + Sync + 'static) -> FakeLibvirtd {
        FakeLibvirtd::ours(&self.socket(), handler)
    }

    fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket().display())
    }

    fn connect(&self) -> Connection {
        Connection::open(&self.uri()).unwrap()
    }
}

fn reply<T>(reply: fn(T) -> Reply, ret: T) -> Step {
    Step::Reply(reply(ret), Vec::new())
}

fn dom(name: &str, number: u8, id: i32) -> remote::Domain {
    remote::Domain { name: name.into(), uuid: uuid(number), id }
}

fn uuid(number: u8) -> Uuid {
    [number; 16]
}

fn no_domain() -> Step {
    Step::Fail(Error::new(ErrorCode::NO_DOMAIN, ErrorDomain::QEMU, "Domain not found"))
}

/// A daemon with a guest `web` and whatever else a test gives it.
fn host(call: &Call, _: Vec<OwnedFd>) -> Step {
    match call {
        Call::ConnectGetHostname(_) => {
            reply(Reply::ConnectGetHostname, remote::ConnectGetHostnameRet { hostname: "far".into() })
        }
        Call::ConnectIsSecure(_) => reply(Reply::ConnectIsSecure, remote::ConnectIsSecureRet { secure: 1 }),
        Call::DomainLookupByName(_) => {
            reply(Reply::DomainLookupByName, remote::DomainLookupByNameRet { dom: dom("web", 1, 7) })
        }
        Call::DomainOpenConsole(_) => Step::Echo(Reply::DomainOpenConsole(())),
        // An old daemon: it has no other kinds.
        Call::ConnectDomainEventCallbackRegisterAny(args) if args.event_id != 0 => {
            Step::Fail(Error::new(ErrorCode::INTERNAL_ERROR, ErrorDomain::RPC, "unsupported event ID"))
        }
        Call::ConnectDomainEventCallbackRegisterAny(_) => {
            let ret = remote::ConnectDomainEventCallbackRegisterAnyRet { callback_id: 4 };
            reply(Reply::ConnectDomainEventCallbackRegisterAny, ret)
        }
        other => panic!("{other:?}"),
    }
}

fn lifecycle(event: i32) -> Event {
    Event::DomainEventCallbackLifecycle(remote::DomainEventCallbackLifecycleMsg {
        callback_id: 4,
        msg: remote::DomainEventLifecycleMsg { dom: dom("web", 1, 7), event, detail: 0 },
    })
}

#[test]
fn a_connection_logs_in_opens_by_the_far_name_and_takes_leave() {
    let world = World::new();
    let daemon = world.libvirtd(host);
    let connection = Connection::open_read_only(&world.uri()).unwrap();
    assert_eq!(connection.hostname().unwrap(), "far");
    assert_eq!(connection.uri().unwrap(), world.uri(), "the URI is the one that was given");
    assert!(connection.is_secure().unwrap());
    assert!(!connection.is_encrypted().unwrap());
    drop(connection);
    let calls = daemon.calls();
    assert!(matches!(calls[0], Call::AuthList(_)));
    assert_eq!(calls[1], remote::ConnectOpenArgs { name: Some("qemu:///system".into()), flags: 1 }.into_call());
    assert!(matches!(calls.last(), Some(Call::ConnectClose(_))), "{calls:?}");
}

#[test]
fn who_leaves_the_choice_to_the_far_side_asks_for_the_uri() {
    let world = World::new();
    let daemon = world.libvirtd(|call, _| match call {
        Call::ConnectGetUri(_) => reply(Reply::ConnectGetUri, remote::ConnectGetUriRet { uri: "lxc:///system".into() }),
        other => panic!("{other:?}"),
    });
    let uri = format!("remote+unix:///?socket={}", world.socket().display());
    assert_eq!(Connection::open(&uri).unwrap().uri().unwrap(), "lxc:///system");
    assert_eq!(daemon.calls()[1], remote::ConnectOpenArgs { name: None, flags: 0 }.into_call());
}

#[test]
fn an_error_of_the_far_side_arrives_as_it_is() {
    let world = World::new();
    let _daemon = world.libvirtd(|call, _| match call {
        Call::DomainLookupByName(_) => no_domain(),
        other => panic!("{other:?}"),
    });
    let error = world.connect().domain_by_name("x").unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::NO_DOMAIN, "Domain not found"));
}

#[test]
fn the_call_under_way_fails_and_the_next_one_dials() {
    let world = World::new();
    let calls = AtomicUsize::new(0);
    let daemon = world.libvirtd(move |call, fds| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => Step::HangUp,
        _ => host(call, fds),
    });
    let connection = world.connect();
    let error = connection.hostname().unwrap_err();
    assert_eq!(error.code, ErrorCode::RPC);
    let place = world.socket().display().to_string();
    assert_eq!(error.message, format!("the connection to the socket '{place}' was lost during virConnectGetHostname"));
    assert_eq!(connection.hostname().unwrap(), "far");
    assert_eq!(daemon.accepted(), 2);
}

#[test]
fn a_restart_between_two_calls_is_not_noticed() {
    let world = World::new();
    let first = world.libvirtd(host);
    let connection = world.connect();
    assert_eq!(connection.hostname().unwrap(), "far");
    drop(first);
    let error = connection.hostname().unwrap_err();
    assert_eq!(error.code, ErrorCode::SYSTEM_ERROR);
    assert!(error.hint.unwrap().contains("is the daemon running"));
    let _second = world.libvirtd(host);
    assert_eq!(connection.hostname().unwrap(), "far");
}

#[test]
fn nonsense_is_an_error_and_the_next_call_dials() {
    type Make = fn() -> Step;
    let nonsense: [Make; 3] = [
        || Step::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        || Step::Raw(vec![0; 4]),
        || Step::Raw(vec![0, 0, 0, 28, 0xff]),
    ];
    for (index, make) in nonsense.into_iter().enumerate() {
        let world = World::new();
        let calls = AtomicUsize::new(0);
        let daemon = world.libvirtd(move |call, fds| match calls.fetch_add(1, Ordering::Relaxed) {
            0 => make(),
            _ => host(call, fds),
        });
        let connection = world.connect();
        if index == 2 {
            // Half a frame: the rest never comes, and somebody cuts the line.
            let waiting = std::thread::spawn({
                let connection = connection.clone();
                move || connection.hostname()
            });
            daemon.wait_for_calls(3);
            daemon.hang_up();
            assert_eq!(waiting.join().unwrap().unwrap_err().code, ErrorCode::RPC);
        } else {
            assert_eq!(connection.hostname().unwrap_err().code, ErrorCode::RPC, "{index}");
        }
        assert_eq!(connection.hostname().unwrap(), "far", "{index}");
    }
}

#[test]
fn a_host_that_says_nothing_more_is_given_up() {
    let world = World::new();
    let _daemon = world.libvirtd(|_, _| Step::Silence);
    let connection = world.connect();
    assert!(connection.set_keepalive(Duration::from_secs(1), 0).is_err());
    connection.set_keepalive(Duration::from_millis(20), 2).unwrap();
    let error = connection.hostname().unwrap_err();
    assert_eq!(error.code, ErrorCode::RPC);
    assert!(error.causes.iter().any(|cause| cause.contains("keepalive")), "{error:?}");
}

/// Three guests: one runs and is persistent, one is off and starts with the host, one vanishes while it is asked about.
fn guests(call: &Call, fds: Vec<OwnedFd>) -> Step {
    let state = |state, reason| reply(Reply::DomainGetState, remote::DomainGetStateRet { state, reason });
    let info = |memory, vcpus| {
        let ret = remote::DomainGetInfoRet { memory, nr_virt_cpu: vcpus, ..Default::default() };
        reply(Reply::DomainGetInfo, ret)
    };
    match call {
        Call::ConnectListAllDomains(args) => {
            let flags = ListFlags::from_bits(args.flags).unwrap();
            let domains = if flags.contains(ListFlags::PERSISTENT) {
                vec![dom("web", 1, 7), dom("db", 2, -1)]
            } else if flags.contains(ListFlags::AUTOSTART) {
                vec![dom("db", 2, -1)]
            } else {
                vec![dom("web", 1, 7), dom("gone", 3, 8), dom("db", 2, -1)]
            };
            let ret = u32::try_from(domains.len()).unwrap();
            reply(Reply::ConnectListAllDomains, remote::ConnectListAllDomainsRet { domains, ret })
        }
        Call::DomainGetState(args) => match args.dom.uuid[0] {
            1 => state(1, 1),
            2 => state(5, 3),
            _ => no_domain(),
        },
        Call::DomainGetInfo(args) => match args.dom.uuid[0] {
            1 => info(2048, 2),
            2 => info(1024, 1),
            _ => no_domain(),
        },
        call => host(call, fds),
    }
}

#[test]
fn a_listing_is_made_of_libvirt_s_calls() {
    let world = World::new();
    let daemon = world.libvirtd(guests);
    let connection = world.connect();
    for _ in 0..2 {
        let records = connection.domains(ListFlags::empty()).unwrap();
        let lines: Vec<_> = records
            .iter()
            .map(|r| (r.domain.name(), r.domain.id(), r.state, r.persistent, r.autostart, r.vcpus, r.memory_kib))
            .collect();
        assert_eq!(
            lines,
            [("web", Some(7), State::Running, true, false, 2, 2048), ("db", None, State::Shutoff, true, true, 1, 1024)]
        );
    }
    // libvirt's daemon never saw a call of the other program: it refuses them unread.
    assert!(daemon.calls().iter().all(|call| call.op().info().program == remote::PROGRAM));
}

#[test]
fn a_listing_of_many_is_sent_in_groups() {
    let world = World::new();
    let _daemon = world.libvirtd(|call, fds| match call {
        Call::ConnectListAllDomains(_) => {
            let domains: Vec<_> = (0..1000)
                .map(|number: u32| {
                    let mut dom = dom(&format!("guest-{number}"), 1, -1);
                    dom.uuid[..4].copy_from_slice(&number.to_be_bytes());
                    dom
                })
                .collect();
            reply(Reply::ConnectListAllDomains, remote::ConnectListAllDomainsRet { ret: 1000, domains })
        }
        Call::DomainGetState(_) => reply(Reply::DomainGetState, remote::DomainGetStateRet { state: 5, reason: 0 }),
        Call::DomainGetInfo(args) => {
            let memory = args.dom.name.trim_start_matches("guest-").parse().unwrap();
            reply(Reply::DomainGetInfo, remote::DomainGetInfoRet { memory, ..Default::default() })
        }
        call => host(call, fds),
    });
    let records = world.connect().domains(ListFlags::empty()).unwrap();
    assert!((0..).zip(&records).all(|(number, record)| record.memory_kib == number));
    assert_eq!(records.len(), 1000);
}

#[test]
fn what_libvirt_has_not_is_not_supported() {
    let world = World::new();
    let _daemon = world.libvirtd(host);
    let connection = world.connect();
    let error = connection.domain_by_name("web").unwrap().guest_info().unwrap_err();
    assert_eq!(error.code, ErrorCode::NO_SUPPORT);
    let error = connection.invoke(bulkhead::EventsSubscribeArgs { since: None }).unwrap_err();
    assert_eq!(error.code, ErrorCode::OPERATION_INVALID);
}

#[test]
fn a_gateway_is_asked_in_its_own_words() {
    let world = World::new();
    let record =
        || bulkhead::DomainRecord { dom: dom("web", 1, 7), state: 1, supervisor_pid: 99, ..Default::default() };
    let _daemon = world.gateway(move |call, fds| match call {
        Call::BulkheadListDomains(_) => {
            reply(Reply::BulkheadListDomains, bulkhead::ListDomainsRet { domains: vec![record()] })
        }
        call => host(call, fds),
    });
    assert_eq!(world.connect().domains(ListFlags::empty()).unwrap()[0].supervisor_pid, Some(99));
}

#[test]
fn a_gateway_on_this_host_gets_the_files_and_gives_the_console_s_socket() {
    let world = World::new();
    let image = world.dir.path().join("disk.img");
    fs::write(&image, b"an image").unwrap();
    let xml = format!(
        "<domain type='qemu'><name>web</name><memory>1024</memory><os><type arch='x86_64'>hvm</type></os><devices>\
         <disk type='file' device='disk'><source file='{}'/><target dev='vda' bus='virtio'/></disk></devices></domain>",
        image.display()
    );
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = Mutex::new(Some(OwnedFd::from(theirs)));
    let _daemon = world.gateway(move |call, fds| match call {
        Call::BulkheadEventsUnsubscribe(_) => Step::Reply(Reply::BulkheadEventsUnsubscribe(()), Vec::new()),
        Call::DomainGetXmlDesc(_) => reply(Reply::DomainGetXmlDesc, remote::DomainGetXmlDescRet { xml: xml.clone() }),
        Call::BulkheadDomainCreateWithSources(args) => {
            let mut content = String::new();
            fs::File::from(fds.into_iter().next().unwrap()).read_to_string(&mut content).unwrap();
            assert_eq!((content.as_str(), args.sources.len()), ("an image", 1));
            let ret = bulkhead::DomainCreateWithSourcesRet { dom: dom("web", 1, 9) };
            reply(Reply::BulkheadDomainCreateWithSources, ret)
        }
        Call::BulkheadDomainOpenConsole(_) => {
            Step::Reply(Reply::BulkheadDomainOpenConsole(()), vec![theirs.lock().unwrap().take().unwrap()])
        }
        call => host(call, fds),
    });
    let domain = world.connect().domain_by_name("web").unwrap();
    domain.start(CreateFlags::empty()).unwrap();
    assert_eq!(domain.id(), Some(9));
    let mut console = domain.open_console(None, ConsoleFlags::empty()).unwrap();
    console.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    (&ours).read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    assert!(OwnedFd::try_from(console).is_ok());
}

#[test]
fn libvirt_s_daemon_starts_a_guest_by_itself() {
    let world = World::new();
    let daemon = world.libvirtd(|call, fds| match call {
        Call::DomainCreateWithFlags(_) => {
            reply(Reply::DomainCreateWithFlags, remote::DomainCreateWithFlagsRet { dom: dom("web", 1, 9) })
        }
        call => host(call, fds),
    });
    world.connect().domain_by_name("web").unwrap().start(CreateFlags::PAUSED).unwrap();
    let args = remote::DomainCreateWithFlagsArgs { dom: dom("web", 1, 7), flags: 1 };
    assert!(daemon.calls().contains(&args.into_call()));
}

fn console(world: &World, flags: ConsoleFlags) -> crate::ConsoleStream {
    world.connect().domain_by_name("web").unwrap().open_console(None, flags).unwrap()
}

#[test]
fn a_console_is_a_stream_that_waits_like_a_socket() {
    let world = World::new();
    let daemon = world.libvirtd(host);
    let mut console = console(&world, ConsoleFlags::FORCE);
    console.write_all(b"hello").unwrap();
    let mut heard = [0; 3];
    console.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hel");
    console.set_nonblocking(true).unwrap();
    // What was taken off the wire and not read yet is told of all the same.
    assert!(wait::readable(console.as_fd(), Deadline::after(LONG)).unwrap());
    assert_eq!(console.read(&mut [0; 8]).unwrap(), 2);
    assert_eq!(console.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(!wait::readable(console.as_fd(), Deadline::after(Some(Duration::ZERO))).unwrap());
    console.write_all(b"bye").unwrap();
    assert!(wait::readable(console.as_fd(), Deadline::after(LONG)).unwrap());
    assert_eq!(console.read(&mut [0; 8]).unwrap(), 0, "the guest has ended");
    assert!(wait::readable(console.as_fd(), Deadline::after(Some(Duration::ZERO))).unwrap());
    assert_eq!(console.read(&mut [0; 8]).unwrap(), 0);
    assert!(OwnedFd::try_from(console).is_err());
    let opened = daemon.calls().into_iter().find(|call| matches!(call, Call::DomainOpenConsole(_)));
    let args = remote::DomainOpenConsoleArgs { dom: dom("web", 1, 7), dev_name: None, flags: 1 };
    assert_eq!(opened, Some(args.into_call()));
}

#[test]
fn a_watched_console_is_asked_for_without_a_flag_of_ours_and_takes_nothing() {
    let world = World::new();
    let daemon = world.libvirtd(host);
    let mut console = console(&world, ConsoleFlags::READ_ONLY);
    assert_eq!(console.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let asked = |call: &Call| matches!(call, Call::DomainOpenConsole(args) if args.flags == 0);
    assert!(daemon.calls().iter().any(asked));
}

#[test]
fn one_thread_reads_a_console_while_another_writes() {
    let world = World::new();
    let _daemon = world.libvirtd(host);
    let console = console(&world, ConsoleFlags::empty());
    let bytes: Vec<u8> = (0..1 << 20).map(|number: u32| number.to_le_bytes()[0]).collect();
    let reader = std::thread::spawn({
        let mut console = console.try_clone().unwrap();
        let mut heard = vec![0; bytes.len()];
        move || console.read_exact(&mut heard).map(|()| heard)
    });
    (&console).write_all(&bytes).unwrap();
    assert!(reader.join().unwrap().unwrap() == bytes);
}

#[test]
fn a_console_does_not_outlive_its_daemon() {
    let world = World::new();
    let daemon = world.libvirtd(host);
    let mut console = console(&world, ConsoleFlags::empty());
    drop(daemon);
    assert!(console.read(&mut [0; 8]).is_err(), "not the end of the guest");
}

#[test]
fn events_of_libvirt_s_daemon_are_counted_here_and_a_restart_is_a_loss() {
    let world = World::new();
    let first = world.libvirtd(host);
    let connection = world.connect();
    let mut stream = connection.subscribe(None).unwrap();
    assert_eq!((stream.first_new(), stream.lost()), (1, false));
    first.wait_for_listeners(1);
    first.emit(&lifecycle(2));
    first.emit(&lifecycle(3));
    let next = |stream: &mut crate::EventStream| {
        stream.next(LONG).unwrap().map(|event| (event.sequence, event.kind, event.domain.name().to_owned()))
    };
    assert_eq!(next(&mut stream), Some((1, EventKind::Started, "web".into())));
    assert_eq!(next(&mut stream), Some((2, EventKind::Suspended, "web".into())));
    first.emit(&Notice::Reboot.event(&dom("web", 1, 7), 1, 4).unwrap());
    let event = stream.next(LONG).unwrap().unwrap();
    assert_eq!((event.sequence, event.kind, event.notice), (3, EventKind::Notice, Some(Notice::Reboot)));
    drop(first);
    assert!(stream.next(Some(Duration::from_millis(50))).is_err());
    let second = world.libvirtd(host);
    let waiting = std::thread::spawn(move || {
        let event = stream.next(LONG).unwrap().unwrap();
        (event.sequence, stream.lost())
    });
    second.wait_for_listeners(1);
    second.emit(&lifecycle(4));
    assert_eq!(waiting.join().unwrap(), (4, true));
}

#[test]
fn a_gateway_s_events_are_asked_for_again_from_where_they_ended() {
    let world = World::new();
    let subscribe = |next: u64, since: Option<u64>| {
        move |call: &Call, fds: Vec<OwnedFd>| match call {
            Call::BulkheadEventsSubscribe(args) => {
                assert_eq!(args.since, since);
                reply(Reply::BulkheadEventsSubscribe, bulkhead::EventsSubscribeRet { next, lost: false })
            }
            call => host(call, fds),
        }
    };
    let event = |sequence| {
        let dom = dom("web", 1, 7);
        Event::BulkheadDomainEvent(bulkhead::DomainEventMsg { sequence, dom, event: 2, ..Default::default() })
    };
    let first = world.gateway(subscribe(5, None));
    let mut stream = world.connect().subscribe(None).unwrap();
    assert_eq!(stream.first_new(), 5);
    first.wait_for_listeners(1);
    first.emit(&event(5));
    assert_eq!(stream.next(LONG).unwrap().unwrap().sequence, 5);
    drop(first);
    let second = world.gateway(subscribe(8, Some(5)));
    let waiting = std::thread::spawn(move || {
        let sequences: Vec<u64> = (0..2).map(|_| stream.next(LONG).unwrap().unwrap().sequence).collect();
        (sequences, stream.lost())
    });
    second.wait_for_listeners(1);
    for sequence in [5, 6, 7] {
        second.emit(&event(sequence));
    }
    assert_eq!(waiting.join().unwrap(), (vec![6, 7], false));
}

fn numbered(sequence: u64) -> Event {
    let dom = dom("web", 1, 7);
    Event::BulkheadDomainEvent(bulkhead::DomainEventMsg { sequence, dom, event: 2, ..Default::default() })
}

/// A gateway that has had four events.
fn with_events(call: &Call, fds: Vec<OwnedFd>) -> Step {
    match call {
        Call::BulkheadEventsSubscribe(_) => {
            reply(Reply::BulkheadEventsSubscribe, bulkhead::EventsSubscribeRet { next: 5, lost: false })
        }
        call => host(call, fds),
    }
}

#[test]
fn a_number_that_is_left_out_is_a_loss() {
    let world = World::new();
    let daemon = world.gateway(with_events);
    let mut stream = world.connect().subscribe(None).unwrap();
    daemon.wait_for_listeners(1);
    daemon.emit(&numbered(5));
    assert_eq!((stream.next(LONG).unwrap().unwrap().sequence, stream.lost()), (5, false));
    daemon.emit(&numbered(7));
    assert_eq!((stream.next(LONG).unwrap().unwrap().sequence, stream.lost()), (7, true));
}

#[test]
fn a_log_that_is_asked_for_from_its_beginning_begins_where_it_does() {
    let world = World::new();
    let daemon = world.gateway(with_events);
    let mut stream = world.connect().subscribe(Some(0)).unwrap();
    daemon.wait_for_listeners(1);
    // The answer has said that nothing after the number is lost: the log begins at 3.
    for sequence in [3, 4, 5] {
        daemon.emit(&numbered(sequence));
        assert_eq!((stream.next(LONG).unwrap().unwrap().sequence, stream.lost()), (sequence, false));
    }
    daemon.emit(&numbered(7));
    assert_eq!((stream.next(LONG).unwrap().unwrap().sequence, stream.lost()), (7, true));
}

#[test]
fn a_number_that_goes_back_is_of_another_log_and_told() {
    let world = World::new();
    let daemon = world.gateway(with_events);
    let mut stream = world.connect().subscribe(None).unwrap();
    daemon.wait_for_listeners(1);
    daemon.emit(&numbered(5));
    daemon.emit(&numbered(5));
    daemon.emit(&numbered(2));
    daemon.emit(&numbered(3));
    let mut next = || (stream.next(LONG).unwrap().unwrap().sequence, stream.lost());
    assert_eq!(next().0, 5);
    assert_eq!(next(), (2, true), "a repetition is none, another log is one");
    assert_eq!(next(), (3, true));
}

#[test]
fn events_that_came_with_the_answer_are_told_to_who_polls() {
    let world = World::new();
    let _daemon = world.gateway(|call, fds| match call {
        Call::BulkheadEventsSubscribe(_) => {
            let ret = bulkhead::EventsSubscribeRet { next: 5, lost: false };
            Step::Tell(Reply::BulkheadEventsSubscribe(ret), vec![numbered(5), numbered(6)])
        }
        call => host(call, fds),
    });
    let mut stream = world.connect().subscribe(None).unwrap();
    let told =
        |stream: &crate::EventStream, patience| wait::readable(stream.poll_fd(), Deadline::after(patience)).unwrap();
    for sequence in [5, 6] {
        assert!(told(&stream, LONG), "nothing tells of {sequence}");
        assert_eq!(stream.next(Some(Duration::ZERO)).unwrap().unwrap().sequence, sequence);
    }
    assert!(stream.next(Some(Duration::ZERO)).unwrap().is_none());
    assert!(!told(&stream, Some(Duration::ZERO)));
}

#[test]
fn who_polls_finds_out_that_a_host_has_vanished() {
    let world = World::new();
    let daemon = world.libvirtd(host);
    let connection = world.connect();
    let mut console = connection.domain_by_name("web").unwrap().open_console(None, ConsoleFlags::empty()).unwrap();
    console.set_nonblocking(true).unwrap();
    let mut stream = connection.subscribe(None).unwrap();
    let connections = daemon.accepted();
    daemon.go_deaf();
    // After the fact, and for all of them.
    connection.set_keepalive(Duration::from_millis(20), 2).unwrap();
    let failure = loop {
        assert!(wait::readable(console.as_fd(), Deadline::after(LONG)).unwrap(), "the console's descriptor is silent");
        match console.read(&mut [0; 8]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => break other.unwrap_err(),
        }
    };
    assert!(format!("{failure:?}").contains("Dead"), "{failure:?}");
    while daemon.accepted() == connections {
        assert!(wait::readable(stream.poll_fd(), Deadline::after(LONG)).unwrap(), "the events' descriptor is silent");
        // An error when it is being connected again.
        let _ = stream.next(Some(Duration::ZERO));
    }
}

#[test]
fn a_daemon_of_ours_that_fails_is_ours_all_the_same() {
    let world = World::new();
    let lists = AtomicUsize::new(0);
    let daemon = world.gateway(move |call, fds| match call {
        Call::BulkheadListDomains(_) if lists.fetch_add(1, Ordering::Relaxed) == 1 => {
            Step::Fail(Error::new(ErrorCode::RPC, ErrorDomain::RPC, "the connection to qemud was lost"))
        }
        Call::BulkheadListDomains(_) => reply(Reply::BulkheadListDomains, bulkhead::ListDomainsRet::default()),
        call => host(call, fds),
    });
    let connection = world.connect();
    let list = || connection.domains(ListFlags::empty());
    assert!(list().unwrap().is_empty());
    assert_eq!(list().unwrap_err().message, "the connection to qemud was lost");
    assert!(list().unwrap().is_empty());
    assert!(!daemon.calls().iter().any(|call| matches!(call, Call::ConnectListAllDomains(_))));
}

#[test]
fn a_daemon_that_says_nothing_holds_up_nobody_who_has_no_time() {
    let world = World::new();
    let first = world.gateway(with_events);
    let connection = world.connect();
    let mut stream = connection.subscribe(None).unwrap();
    drop(first);
    // Something listens there again, and does not answer.
    let listener = std::os::unix::net::UnixListener::bind({
        fs::remove_file(world.socket()).unwrap();
        world.socket()
    })
    .unwrap();
    let begin = Instant::now();
    let deadline = Deadline::after(LONG);
    while stream.next(Some(Duration::ZERO)).is_ok() {
        let ready = wait::readable(stream.poll_fd(), deadline).unwrap();
        assert!(ready && !deadline.passed(), "waited {LONG:?} for the stream to see that its daemon is gone");
    }
    let error = stream.next(Some(Duration::from_millis(20))).unwrap_err();
    assert_eq!(error.code, ErrorCode::OPERATION_TIMEOUT, "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    // What did connect gives up when the silent one ends, and the next try finds a daemon.
    let (silent, _) = listener.accept().unwrap();
    drop(listener);
    let second = world.gateway(with_events);
    drop(silent);
    let waiting = std::thread::spawn(move || stream.next(LONG).unwrap().unwrap().sequence);
    second.wait_for_listeners(1);
    second.emit(&numbered(5));
    assert_eq!(waiting.join().unwrap(), 5);
}

#[test]
fn a_refusal_is_not_asked_for_again() {
    let world = World::new();
    let first = world.gateway(with_events);
    let mut stream = world.connect().subscribe(None).unwrap();
    drop(first);
    let guarded = FakeLibvirtd::guarded(&world.socket(), ("ann", "secret"), host);
    let error = stream.next(LONG).unwrap_err();
    assert_eq!(error.code, ErrorCode::AUTH_FAILED, "{error:?}");
    assert_eq!(guarded.accepted(), 1);
}

#[test]
fn a_call_that_begins_a_stream_is_refused_here() {
    let world = World::new();
    let daemon = world.libvirtd(host);
    let args = remote::DomainScreenshotArgs { dom: dom("web", 1, 7), screen: 0, flags: 0 };
    let error = world.connect().invoke(args).unwrap_err();
    assert_eq!(error.code, ErrorCode::OPERATION_UNSUPPORTED);
    assert!(!daemon.calls().iter().any(|call| matches!(call, Call::DomainScreenshot(_))));
}

#[test]
fn what_a_dead_daemon_left_behind_hides_no_other() {
    let world = World::new();
    let dead = world.dir.path().join("dead");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let _daemon = world.libvirtd(host);
    let (path, _) = dial::connect_first(vec![dead.clone(), world.socket()]).unwrap();
    assert_eq!(path, world.socket());
    assert!(dial::connect_first(vec![dead]).is_err());
}

#[test]
fn who_is_asked_for_a_password_logs_in_with_it_again_and_again() {
    let world = World::new();
    let guarded = || FakeLibvirtd::guarded(&world.socket(), ("ann", "secret"), host);
    let first = guarded();
    let asked = Arc::new(AtomicUsize::new(0));
    let connect = |password: &'static str| {
        let asked = Arc::clone(&asked);
        Connection::open_asking(&world.uri(), false, move |question| {
            asked.fetch_add(1, Ordering::Relaxed);
            Some(if matches!(question, Question::Name { .. }) { "ann" } else { password }.to_owned())
        })
    };
    let connection = connect("secret").unwrap();
    assert_eq!(connection.hostname().unwrap(), "far");
    drop(first);
    let _second = guarded();
    assert_eq!(connection.hostname().unwrap(), "far");
    assert_eq!(asked.load(Ordering::Relaxed), 2, "once for each");
    assert_eq!(connect("guessed").unwrap_err().code, ErrorCode::AUTH_FAILED);
    let error = Connection::open(&world.uri()).unwrap_err();
    assert_eq!(error.code, ErrorCode::AUTH_FAILED);
    assert!(error.causes.iter().any(|cause| cause.contains("no name and password for localhost")), "{error:?}");
}

#[test]
fn a_password_is_kept_until_somebody_says_that_it_is_wrong() {
    let failed = |code| LoginError::Call(CallError::Failed(Error::new(code, ErrorDomain::RPC, "no")));
    assert!(is_wrong(&failed(ErrorCode::AUTH_FAILED)));
    assert!(is_wrong(&LoginError::Unproven));
    assert!(!is_wrong(&failed(ErrorCode::INTERNAL_ERROR)), "too many clients, say");
    assert!(!is_wrong(&LoginError::Call(CallError::Silent(Duration::ZERO))));
}

#[test]
fn a_program_may_be_the_connection() {
    let world = World::new();
    let _daemon = world.libvirtd(host);
    let address = |script: &str| {
        let path = world.dir.path().join("way");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let uri = format!("qemu+ext:///system?command={}", path.display());
        Address::of(&Uri::parse(&uri).unwrap(), true).unwrap()
    };
    let failing = Dialer::new(address("echo 'no way there' >&2; exit 1"), false, Asking::Nobody);
    let error = RemoteLink::open(failing).err().unwrap();
    assert!(error.message.starts_with("failed to connect to the program"), "{error:?}");
    assert!(error.causes.contains(&"no way there".to_owned()), "{error:?}");
}

#[test]
fn a_socket_that_is_not_there_is_named() {
    let world = World::new();
    let error = Connection::open(&world.uri()).unwrap_err();
    assert_eq!(error.code, ErrorCode::SYSTEM_ERROR);
    assert_eq!(error.message, format!("failed to connect to the socket '{}'", world.socket().display()));
    assert!(error.causes.iter().any(|cause| cause.contains("No such file")), "{error:?}");
}
