//! The qemu driver: every call goes to qemud, nothing is interpreted on the way.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::{Call, Error, ErrorCode, ErrorDomain, Event, Op, Operation, Reply, bulkhead};
use ipc::client::{CallError, Client};

use crate::{
    Result,
    dial::Dialer,
    error,
    link::{EventSource, Link, Numbered},
    numbers::Numbers,
    redial::{Attempt, Redial},
    wait::Deadline,
    watch::Watch,
};

/// How long a listener waits for a daemon that is being restarted, when its caller would wait for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest time between two tries to find it again, where its socket's appearance is not noticed.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// A connection to qemud that is made again when it was lost: the call that was under way fails, the next one dials.
pub(crate) struct QemuLink {
    dialer: Arc<Dialer>,
    client: Mutex<Option<Arc<Client>>>,
}

impl QemuLink {
    /// Connects.
    pub(crate) fn open(dialer: Dialer) -> Result<QemuLink> {
        let client = dialer.dial()?;
        Ok(QemuLink { dialer: Arc::new(dialer), client: Mutex::new(Some(Arc::new(client))) })
    }

    fn client(&self) -> Result<Arc<Client>> {
        let mut current = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        // A daemon that went away between two calls has not seen the next one, so that one need not fail.
        if let Some(client) = current.as_ref().filter(|client| !ipc::wait::hung_up(client.as_ref())) {
            return Ok(Arc::clone(client));
        }
        // What is gone stays gone, even if dialling fails.
        *current = None;
        let client = Arc::new(self.dialer.dial()?);
        *current = Some(Arc::clone(&client));
        Ok(client)
    }

    fn forget(&self, client: &Arc<Client>) {
        let mut current = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|c| Arc::ptr_eq(c, client)) {
            *current = None;
        }
    }
}

impl Link for QemuLink {
    fn call(&self, call: Call, fds: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>)> {
        let client = self.client()?;
        client.call(&call, fds).map_err(|failure| {
            if matches!(failure, CallError::Lost(_) | CallError::Answer(_)) {
                self.forget(&client);
            }
            error::no_answer(failure, call.op())
        })
    }

    fn events(&self, since: Option<u64>) -> Result<Box<dyn EventSource>> {
        Ok(Box::new(QemuEvents::begin(&self.dialer, since)?))
    }

    fn takes_files(&self) -> bool {
        true
    }
}

/// One listener. It has a connection of its own: a listener that is slow to read fills its own socket only and delays no
/// call, and what is sent again after a reconnection reaches nobody who has it already.
struct QemuEvents {
    /// Never starts a daemon: one that was stopped stays so until the next call.
    dialer: Arc<Dialer>,
    watch: Watch,
    client: Option<Client>,
    redial: Redial<Subscribed>,
    numbers: Numbers,
    queue: VecDeque<Numbered>,
}

/// A connection on which events flow, and what the daemon said of its log.
type Subscribed = (Client, bulkhead::EventsSubscribeRet);

fn subscribe(client: Client, since: Option<u64>) -> Result<Subscribed> {
    let op = bulkhead::EventsSubscribeArgs::OP;
    let call = bulkhead::EventsSubscribeArgs { since }.into_call();
    let (reply, _) = client.call(&call, Vec::new()).map_err(|failure| error::no_answer(failure, op))?;
    let ret = bulkhead::EventsSubscribeArgs::ret_of(reply)
        .ok_or_else(|| error::strange_answer(op, "it is of another call"))?;
    Ok((client, ret))
}

impl QemuEvents {
    fn begin(dialer: &Dialer, since: Option<u64>) -> Result<QemuEvents> {
        // To listen is a call like any other, which starts the daemon; what comes later is not.
        let subscribed = subscribe(dialer.dial()?, since)?;
        let watch = Watch::new().map_err(unwatched)?;
        let redial = Redial::new(&watch, "qemud", LONGEST_REST, |_| false).map_err(unwatched)?;
        let mut source = QemuEvents {
            dialer: Arc::new(dialer.never_starting()),
            watch,
            client: None,
            redial,
            numbers: Numbers::since(since),
            queue: VecDeque::new(),
        };
        source.take_client(subscribed)?;
        source.watch.ring(!source.queue.is_empty());
        Ok(source)
    }

    /// Takes a connection on which events flow.
    fn take_client(&mut self, (client, ret): Subscribed) -> Result<()> {
        self.watch.add(&client).map_err(unwatched)?;
        self.numbers.resume(&ret);
        // Events that came with the answer have left the socket.
        self.take(client.take_events());
        self.client = Some(client);
        Ok(())
    }

    /// Subscribes again as soon as a daemon is there, as far as that is possible until the deadline.
    fn resubscribe(&mut self, deadline: Deadline) -> Result<()> {
        let (dialer, since) = (&self.dialer, self.numbers.last());
        let attempt = || {
            // The notice begins before the try, so that a socket that appears in between brings the next one forward.
            let news = dialer.notice();
            let dialer = Arc::clone(dialer);
            Attempt { connect: Box::new(move || subscribe(dialer.dial()?, since)), news }
        };
        let subscribed = self.redial.until(deadline, &self.watch, attempt)?;
        self.take_client(subscribed).map_err(|error| self.redial.failed(error))
    }

    fn lose(&mut self) {
        if let Some(client) = self.client.take() {
            self.watch.remove(&client);
        }
        self.redial.lost();
    }

    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            let Some(event) = Numbered::of(event) else { continue };
            if self.numbers.pass(event.sequence()) {
                self.queue.push_back(event);
            }
        }
    }

    fn next_until(&mut self, timeout: Option<Duration>, deadline: Deadline) -> Result<Option<Numbered>> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            let Some(client) = &self.client else {
                self.resubscribe(if timeout.is_some() { deadline } else { Deadline::after(Some(PATIENCE)) })?;
                continue;
            };
            match client.wait_events(deadline.left()) {
                Ok(events) if events.is_empty() && deadline.passed() => return Ok(None),
                Ok(events) => self.take(events),
                Err(CallError::Lost(_)) => self.lose(),
                Err(failure) => return Err(error::no_answer(failure, Op::BulkheadEventsSubscribe)),
            }
        }
    }
}

fn unwatched(source: io::Error) -> Error {
    Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, "cannot watch a connection").with_cause(source)
}

impl EventSource for QemuEvents {
    fn next(&mut self, timeout: Option<Duration>) -> Result<Option<Numbered>> {
        let next = self.next_until(timeout, Deadline::after(timeout));
        self.watch.ring(!self.queue.is_empty());
        next
    }

    fn lost(&self) -> bool {
        self.numbers.lost()
    }

    fn first_new(&self) -> u64 {
        self.numbers.first_new()
    }

    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Connection, CreateFlags, EventKind,
        fake_qemud::{FakeLog, FakeQemud, Step},
    };
    use api::remote;
    use ipc::paths::{Instance, Mode};
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    use std::{
        fs,
        io::{Read, Write},
        os::{fd::AsRawFd, unix::net::UnixStream},
        path::PathBuf,
        sync::atomic::{AtomicUsize, Ordering},
        time::Instant,
    };
    use tempfile::TempDir;

    const LONG: Option<Duration> = Some(Duration::from_secs(20));

    struct World {
        root: TempDir,
        instance: Instance,
        log: FakeLog,
    }

    impl World {
        fn new() -> World {
            let root = TempDir::new().unwrap();
            let instance = Instance::at(Mode::Session, Some(root.path().to_path_buf()));
            World { root, instance, log: FakeLog::default() }
        }

        fn qemud(&self, handler: impl Fn(&Call, Vec<OwnedFd>) -> Step + Send + Sync + 'static) -> FakeQemud {
            FakeQemud::listen(&self.instance.socket(), self.log.clone(), handler)
        }

        fn dialer(&self) -> Dialer {
            Dialer::new(self.instance.clone(), false, None)
        }

        fn connect(&self) -> Connection {
            Connection::over(Box::new(QemuLink::open(self.dialer()).unwrap()), false)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }
    }

    fn hostname(_: &Call, _: Vec<OwnedFd>) -> Step {
        let ret = remote::ConnectGetHostnameRet { hostname: "fake".into() };
        Step::Reply(Reply::ConnectGetHostname(ret), Vec::new())
    }

    #[test]
    fn an_error_of_the_daemon_arrives_as_it_is() {
        let world = World::new();
        let sent = Error::new(ErrorCode::NO_DOMAIN, ErrorDomain::QEMU, "Domain not found: x")
            .with_cause_text("its definition cannot be read")
            .with_cause_text("no such file")
            .with_hint("look again");
        let error = sent.clone();
        let _qemud = world.qemud(move |_, _| Step::Fail(error.clone()));
        let error = world.connect().domain_by_name("x").unwrap_err();
        assert_eq!(error, sent);
        let near = std::error::Error::source(&error).unwrap();
        assert_eq!(near.to_string(), "its definition cannot be read");
        assert_eq!(near.source().unwrap().to_string(), "no such file");
    }

    #[test]
    fn the_call_under_way_fails_and_the_next_one_dials() {
        let world = World::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&calls);
        let qemud = world.qemud(move |call, fds| match counter.fetch_add(1, Ordering::Relaxed) {
            0 => Step::HangUp,
            _ => hostname(call, fds),
        });
        let connection = world.connect();
        let error = connection.hostname().unwrap_err();
        assert_eq!(error.code, ErrorCode::RPC);
        assert_eq!(error.message, "the connection to qemud was lost during virConnectGetHostname");
        assert!(error.causes.iter().any(|cause| cause.contains("closed the connection")), "{error:?}");
        assert_eq!(connection.hostname().unwrap(), "fake");
        assert_eq!(qemud.accepted(), 2);
    }

    #[test]
    fn a_restart_between_two_calls_is_not_noticed() {
        let world = World::new();
        let first = world.qemud(hostname);
        let connection = world.connect();
        assert_eq!(connection.hostname().unwrap(), "fake");
        drop(first);
        let error = connection.hostname().unwrap_err();
        assert_eq!(error.code, ErrorCode::SYSTEM_ERROR);
        let _second = world.qemud(hostname);
        assert_eq!(connection.hostname().unwrap(), "fake");
    }

    #[test]
    fn nonsense_is_an_error_and_the_next_call_dials() {
        type Make = fn() -> Step;
        let nonsense: [Make; 4] = [
            || Step::Body(vec![0xff; 40]),
            || Step::Body(Vec::new()),
            || Step::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            || Step::Reply(Reply::ConnectGetUri(remote::ConnectGetUriRet { uri: "x".into() }), Vec::new()),
        ];
        for (index, make) in nonsense.into_iter().enumerate() {
            let world = World::new();
            let calls = AtomicUsize::new(0);
            let _qemud = world.qemud(move |call, fds| match calls.fetch_add(1, Ordering::Relaxed) {
                0 => make(),
                _ => hostname(call, fds),
            });
            let connection = world.connect();
            assert_eq!(connection.hostname().unwrap_err().code, ErrorCode::RPC, "{index}");
            assert_eq!(connection.hostname().unwrap(), "fake", "{index}");
        }
    }

    #[test]
    fn a_console_without_its_descriptor_is_an_error() {
        let world = World::new();
        let _qemud = world.qemud(|call, _| match call {
            Call::DomainLookupByName(_) => {
                let dom = remote::Domain { name: "test".into(), uuid: [1; 16], id: 1 };
                Step::Reply(Reply::DomainLookupByName(remote::DomainLookupByNameRet { dom }), Vec::new())
            }
            _ => Step::Reply(Reply::BulkheadDomainOpenConsole(()), Vec::new()),
        });
        let domain = world.connect().domain_by_name("test").unwrap();
        let error = domain.open_console(None, crate::ConsoleFlags::empty()).unwrap_err();
        assert_eq!(error.code, ErrorCode::RPC);
    }

    #[test]
    fn a_console_is_the_descriptor_of_the_answer() {
        let world = World::new();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs = Mutex::new(Some(OwnedFd::from(theirs)));
        let _qemud = world.qemud(move |call, _| match call {
            Call::DomainLookupByName(_) => {
                let dom = remote::Domain { name: "test".into(), uuid: [1; 16], id: 1 };
                Step::Reply(Reply::DomainLookupByName(remote::DomainLookupByNameRet { dom }), Vec::new())
            }
            _ => Step::Reply(Reply::BulkheadDomainOpenConsole(()), theirs.lock().unwrap().take().into_iter().collect()),
        });
        let domain = world.connect().domain_by_name("test").unwrap();
        let mut console = domain.open_console(None, crate::ConsoleFlags::empty()).unwrap();
        console.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        (&ours).read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        drop(ours);
        assert_eq!(console.read(&mut heard).unwrap(), 0);
    }

    #[test]
    fn a_start_hands_over_the_files_of_the_document() {
        let world = World::new();
        let image = world.path("disk.img");
        fs::write(&image, b"an image").unwrap();
        let xml = format!(
            "<domain type='qemu'><name>web</name><memory>1024</memory><os><type arch='x86_64'>hvm</type></os><devices>\
             <disk type='file' device='disk'><source file='{}'/><target dev='vda' bus='virtio'/></disk></devices></domain>",
            image.display()
        );
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let document = xml.clone();
        let dom = || remote::Domain { name: "web".into(), uuid: [2; 16], id: -1 };
        let _qemud = world.qemud(move |call, fds| match call {
            Call::DomainLookupByName(_) => {
                Step::Reply(Reply::DomainLookupByName(remote::DomainLookupByNameRet { dom: dom() }), Vec::new())
            }
            Call::DomainGetXmlDesc(args) => {
                assert_eq!(args.flags, crate::XmlFlags::INACTIVE.bits());
                Step::Reply(Reply::DomainGetXmlDesc(remote::DomainGetXmlDescRet { xml: document.clone() }), Vec::new())
            }
            Call::BulkheadDomainCreateWithSources(args) => {
                let mut content = String::new();
                let mut file = fs::File::from(fds.into_iter().next().unwrap());
                file.read_to_string(&mut content).unwrap();
                record.lock().unwrap().push((args.flags, args.sources.clone(), content));
                let dom = remote::Domain { id: 7, ..dom() };
                Step::Reply(
                    Reply::BulkheadDomainCreateWithSources(bulkhead::DomainCreateWithSourcesRet { dom }),
                    Vec::new(),
                )
            }
            other => panic!("{other:?}"),
        });
        let domain = world.connect().domain_by_name("web").unwrap();
        domain.start(CreateFlags::PAUSED).unwrap();
        assert_eq!(domain.id(), Some(7));
        let source = bulkhead::Source { path: image.to_string_lossy().into_owned(), writable: true };
        assert_eq!(*seen.lock().unwrap(), [(1, vec![source], "an image".to_owned())]);

        fs::remove_file(&image).unwrap();
        let error = domain.start(CreateFlags::empty()).unwrap_err();
        assert_eq!(error.message, format!("cannot open disk vda of domain 'web', '{}'", image.display()));
        assert_eq!(seen.lock().unwrap().len(), 1, "nothing was asked of the daemon");
    }

    #[test]
    fn events_that_came_in_one_piece_are_all_there_at_once() {
        let world = World::new();
        let _qemud = world.qemud(hostname);
        let mut stream = world.connect().subscribe(None).unwrap();
        for _ in 0..50 {
            world.log.emit(2);
        }
        assert!(told(&stream, LONG));
        for left in (0..50).rev() {
            assert!(stream.next(Some(Duration::ZERO)).unwrap().is_some());
            assert_eq!(told(&stream, Some(Duration::ZERO)), left > 0, "{left} wait");
        }
        assert!(stream.next(Some(Duration::ZERO)).unwrap().is_none());
    }

    /// Whether the stream's descriptor shows that there is something to do.
    fn told(stream: &crate::EventStream, patience: Option<Duration>) -> bool {
        crate::wait::readable(stream.poll_fd(), Deadline::after(patience)).unwrap()
    }

    /// The loop of the program is one for all; this is the only unit test that uses it.
    #[test]
    fn callbacks_survive_their_daemon() {
        let world = World::new();
        let first = world.qemud(hostname);
        let events = crate::event::register_default().unwrap();
        let connection = world.connect();
        let (sender, receiver) = std::sync::mpsc::channel();
        let tell = move |event: &crate::DomainEvent| sender.send((event.sequence, event.kind)).unwrap();
        connection.register_domain_event(None, Box::new(tell)).unwrap();
        let next = || loop {
            match receiver.try_recv() {
                Ok(event) => return event,
                Err(_) => events.run_once(LONG).unwrap(),
            };
        };
        world.log.emit(2);
        assert_eq!(next(), (1, EventKind::Started));
        drop(first);
        world.log.emit(3);
        // The loop notices that nobody is there, more than once.
        events.run_once(LONG).unwrap();
        events.run_once(LONG).unwrap();
        let _second = world.qemud(hostname);
        world.log.emit(4);
        assert_eq!(next(), (2, EventKind::Suspended));
        assert_eq!(next(), (3, EventKind::Resumed));
    }

    fn kinds(stream: &mut crate::EventStream, count: usize) -> Vec<(u64, EventKind)> {
        (0..count).map(|_| stream.next(LONG).unwrap().unwrap()).map(|event| (event.sequence, event.kind)).collect()
    }

    #[test]
    fn a_stream_survives_its_daemon_without_a_gap() {
        let world = World::new();
        let first = world.qemud(hostname);
        let connection = world.connect();
        world.log.emit(0);
        let mut stream = connection.subscribe(None).unwrap();
        world.log.emit(2);
        assert_eq!(kinds(&mut stream, 1), [(2, EventKind::Started)]);
        let polled = stream.poll_fd().as_raw_fd();
        drop(first);
        // While nobody serves.
        world.log.emit(3);
        world.log.emit(4);
        let error = stream.next(Some(Duration::from_millis(50))).unwrap_err();
        assert_eq!(error.code, ErrorCode::SYSTEM_ERROR);
        assert!(told(&stream, LONG), "the next try's time comes");
        let waiting = std::thread::spawn(move || {
            let seen = kinds(&mut stream, 3);
            (stream, seen)
        });
        let _second = world.qemud(hostname);
        world.log.emit(5);
        let (stream, seen) = waiting.join().unwrap();
        assert_eq!(seen, [(3, EventKind::Suspended), (4, EventKind::Resumed), (5, EventKind::Stopped)]);
        assert!(!stream.lost());
        assert_eq!(stream.poll_fd().as_raw_fd(), polled);
    }

    #[test]
    fn who_polls_is_told_when_the_daemon_is_back() {
        let world = World::new();
        let first = world.qemud(hostname);
        let mut stream = world.connect().subscribe(None).unwrap();
        assert!(!told(&stream, Some(Duration::ZERO)));
        drop(first);
        assert!(told(&stream, LONG));
        assert!(stream.next(Some(Duration::ZERO)).is_err());
        let _second = world.qemud(hostname);
        world.log.emit(2);
        let event = loop {
            assert!(told(&stream, LONG), "nothing tells of a step");
            if let Ok(Some(event)) = stream.next(Some(Duration::ZERO)) {
                break event;
            }
        };
        assert_eq!((event.sequence, event.kind), (1, EventKind::Started));
        assert!(!told(&stream, Some(Duration::ZERO)));
    }

    #[test]
    fn a_daemon_that_accepts_nothing_holds_up_no_listener() {
        let world = World::new();
        let first = world.qemud(hostname);
        let mut stream = world.connect().subscribe(None).unwrap();
        drop(first);
        // As a daemon that is stopped: it listens, and its queue is full.
        fs::remove_file(world.instance.socket()).unwrap();
        let address = SocketAddrUnix::new(world.instance.socket()).unwrap();
        let socket = |flags| rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        let listener = socket(SocketFlags::CLOEXEC);
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut queued = Vec::new();
        loop {
            let another = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
            match rustix::net::connect(&another, &address) {
                Ok(()) => queued.push(another),
                Err(_) => break,
            }
        }
        let begin = Instant::now();
        for timeout in [Duration::ZERO, Duration::from_millis(50)] {
            let error = stream.next(Some(timeout)).unwrap_err();
            assert_eq!(error.code, ErrorCode::OPERATION_TIMEOUT, "{error:?}");
            assert_eq!(error.message, "the connection to qemud is being made again");
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }

    #[test]
    fn a_stream_that_has_seen_nothing_yet_misses_nothing_either() {
        let world = World::new();
        let first = world.qemud(hostname);
        world.log.emit(0);
        let mut stream = world.connect().subscribe(None).unwrap();
        drop(first);
        world.log.emit(2);
        let _second = world.qemud(hostname);
        assert_eq!(kinds(&mut stream, 1), [(2, EventKind::Started)]);
    }

    #[test]
    fn a_log_that_began_anew_is_a_loss() {
        let world = World::new();
        let first = world.qemud(hostname);
        world.log.emit(0);
        world.log.emit(1);
        let mut stream = world.connect().subscribe(Some(0)).unwrap();
        assert_eq!(kinds(&mut stream, 2).len(), 2);
        drop(first);
        let other = FakeLog::default();
        let _second = FakeQemud::listen(&world.instance.socket(), other.clone(), hostname);
        assert!(stream.next(Some(Duration::from_millis(200))).unwrap().is_none());
        other.emit(2);
        assert_eq!(kinds(&mut stream, 1), [(1, EventKind::Started)]);
        assert!(stream.lost());
    }

    #[test]
    fn a_stream_waits_no_longer_than_it_is_told() {
        let world = World::new();
        let _qemud = world.qemud(hostname);
        let mut stream = world.connect().subscribe(None).unwrap();
        let begin = Instant::now();
        assert!(stream.next(Some(Duration::from_millis(30))).unwrap().is_none());
        assert!(begin.elapsed() >= Duration::from_millis(30));
        assert!(stream.next(Some(Duration::ZERO)).unwrap().is_none());
        assert_eq!(world.log.listeners(), 1);
    }

    #[test]
    fn many_threads_share_one_connection() {
        let world = World::new();
        let qemud = world.qemud(|call, _| {
            let Call::DomainLookupByName(args) = call else { panic!("{call:?}") };
            let dom = remote::Domain { name: args.name.clone(), uuid: [3; 16], id: -1 };
            Step::Reply(Reply::DomainLookupByName(remote::DomainLookupByNameRet { dom }), Vec::new())
        });
        let connection = world.connect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let connection = connection.clone();
                scope.spawn(move || {
                    for call in 0..100 {
                        let name = format!("guest-{thread}-{call}");
                        assert_eq!(connection.domain_by_name(&name).unwrap().name(), name);
                    }
                });
            }
        });
        assert_eq!(qemud.accepted(), 1);
    }
}
