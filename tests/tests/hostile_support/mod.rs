//! What the tests of attackers, limits and the read-only rule share: raw connections, other users, and the check that an
//! attack left the daemon as it was.
// Each test program takes what it needs of it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use api::{Call, Reply, remote};
use bulkhead_tests::{Instance, LONG, Role};
use ipc::{
    Caps, Conn, ConnError, Incoming, Kind,
    client::{CallError, Client, ConnectError, VERSIONS},
    codec,
    frame::{Header, MAX_FDS},
    hello::Hello,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Gid, Uid},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
    thread::{CapabilitySet, CapabilitySets},
};

/// More than anything takes that is not stuck, and less than anything that waits for the daemon's patience to end.
pub const AT_ONCE: Duration = Duration::from_secs(5);
/// The daemon's patience is 10 seconds; a busy machine may be late.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// An ordinary user without an entry in any database.
pub const SOMEBODY: u32 = 23_456;

/// Does `work` as another user. Identity belongs to a thread: only one of its own gets another. With `keep`, the thread
/// keeps the right to pass by the modes of files, as somebody would who found a way around them.
pub fn as_user<T: Send>(uid: u32, keep: bool, work: impl FnOnce() -> T + Send) -> T {
    let on_thread = move || {
        rustix::thread::set_thread_groups(&[]).expect("no groups");
        let gid = Gid::from_raw(uid);
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("another gid");
        let user = Uid::from_raw(uid);
        let saved = if keep { Uid::ROOT } else { user };
        rustix::thread::set_thread_res_uid(user, user, saved).expect("another uid");
        if keep {
            let passing = CapabilitySet::DAC_OVERRIDE;
            let sets = CapabilitySets { effective: passing, permitted: passing, inheritable: CapabilitySet::empty() };
            rustix::thread::set_capabilities(None, sets).expect("the right to pass");
        }
        work()
    };
    thread::scope(|scope| scope.spawn(on_thread).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Lets this process have as many descriptors as it may.
pub fn many_descriptors(at_least: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < at_least) {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).expect("more descriptors");
    }
    let may = limit.current.is_none_or(|current| current >= at_least);
    assert!(may, "this test needs {at_least} descriptors: ulimit -Hn");
}

/// The entries of a process's table of descriptors.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours").count()
}

/// A connection that says hello and calls as libclient does.
pub fn connect(socket: &Path) -> Result<Client, ConnectError> {
    Client::connect(socket, "test")
}

/// The daemon before an attack, to be compared with itself after it.
pub struct Health<'a> {
    instance: &'a Instance,
    client: Client,
    control: u32,
    launcher: u32,
    descriptors: usize,
}

impl<'a> Health<'a> {
    /// Looks at a daemon that runs, as root or the instance's own user. Its own connection stays open all the time.
    pub fn of(instance: &'a Instance) -> Health<'a> {
        let client = connect(&instance.socket()).expect("a connection");
        settle(instance);
        let (control, launcher) = (instance.control().pid, instance.launcher().pid);
        let mut health = Health { instance, client, control, launcher, descriptors: 0 };
        health.round_trip();
        health.descriptors = descriptors(control);
        health
    }

    /// Control's pid.
    pub fn control(&self) -> u32 {
        self.control
    }

    /// One call and its answer. What happened to other connections before it was sent has been worked through when the
    /// answer is here: control does one thing after the other, in the order in which they became ready.
    pub fn round_trip(&self) -> Duration {
        let begun = Instant::now();
        let answer = self.client.call(&kind_of_driver(), Vec::new());
        assert!(matches!(answer, Ok((Reply::ConnectGetType(_), _))), "control does not answer: {answer:?}");
        begun.elapsed()
    }

    /// Others are served, and quickly.
    #[track_caller]
    pub fn others_are_served(&self) {
        let took = self.round_trip();
        assert!(took < AT_ONCE, "an answer took {took:?}");
        let begun = Instant::now();
        self.instance.ok(&["list", "--all"]);
        assert!(begun.elapsed() < AT_ONCE, "a list took {:?}", begun.elapsed());
    }

    /// The same processes, no descriptor more than before, and service.
    #[track_caller]
    pub fn unharmed(&self, by: &str) {
        self.others_are_served();
        // The list's own connection is closed before this is answered.
        self.round_trip();
        let now = (self.instance.control().pid, self.instance.launcher().pid);
        assert_eq!(now, (self.control, self.launcher), "{by}: a process has been replaced\n{}", self.instance.log());
        assert_eq!(descriptors(self.control), self.descriptors, "{by}: descriptors of control");
    }

    /// Control's resident memory.
    pub fn memory_kib(&self) -> u64 {
        bulkhead_tests::rss_kib(self.control).expect("control lives")
    }
}

/// Waits for the end of supervisors that are no guest's: the first definition asks the emulator what it can do, and its
/// process may be there a moment longer than the answer.
pub fn settle(instance: &Instance) {
    let guests: Vec<Option<u32>> = instance.list().into_iter().map(|domain| domain.supervisor_pid).collect();
    for process in instance.role(Role::Supervisor) {
        if let Some(handle) = process.handle()
            && !guests.contains(&Some(process.pid))
        {
            assert!(handle.wait_for_end(LONG), "{process:?} does not end");
        }
    }
}

/// A small call that anybody may make.
pub fn kind_of_driver() -> Call {
    Call::ConnectGetType(remote::ConnectGetTypeArgs)
}

/// The domain of a name.
pub fn lookup(client: &Client, name: &str) -> remote::Domain {
    let call = Call::DomainLookupByName(remote::DomainLookupByNameArgs { name: name.into() });
    match client.call(&call, Vec::new()) {
        Ok((Reply::DomainLookupByName(ret), _)) => ret.dom,
        other => panic!("'{name}' is not found: {other:?}"),
    }
}

/// The error of a call that must have failed in the daemon.
#[track_caller]
pub fn refusal(result: Result<(Reply, Vec<OwnedFd>), CallError>) -> api::Error {
    match result {
        Err(CallError::Failed(error)) => error,
        other => panic!("an error was due, not {other:?}"),
    }
}

/// A frame's bytes, whatever they say.
pub fn frame(kind: Kind, serial: u64, fds: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a body of a test");
    let mut bytes = Header { kind, serial, length, fds }.encode().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// A call's frame.
pub fn call_frame(serial: u64, fds: u8, call: &Call) -> Vec<u8> {
    let mut body = Vec::new();
    codec::encode_call(call, &mut body).expect("a call of a test");
    frame(Kind::Call, serial, fds, &body)
}

/// A connection on which anything can be said.
pub struct Raw {
    pub socket: UnixStream,
    conn: Conn,
}

impl Raw {
    /// Connects and says nothing.
    pub fn connect(path: &Path) -> io::Result<Raw> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let conn = Conn::new(socket.try_clone()?, Caps::FROM_DAEMON);
        Ok(Raw { socket, conn })
    }

    /// Connects and says hello, as a client does.
    pub fn greeted(path: &Path) -> Raw {
        let mut raw = Raw::connect(path).expect("a connection");
        raw.send(&hello());
        assert_eq!(raw.receive().expect("its hello").kind, Kind::Hello);
        raw
    }

    /// Sends bytes. A daemon that hangs up meanwhile is no failure here.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes);
    }

    /// Sends bytes with as many descriptors as are given.
    pub fn send_with(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_FDS as usize));
        let mut space = [MaybeUninit::<u8>::uninit(); SPACE];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        let sent = rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(bytes.len()));
    }

    /// The next frame.
    pub fn receive(&mut self) -> Result<Incoming, ConnError> {
        self.conn.recv()
    }

    /// The error that answers the call of this serial.
    #[track_caller]
    pub fn receive_error(&mut self, serial: u64) -> api::Error {
        let frame = self.receive().expect("an answer");
        assert_eq!((frame.kind, frame.serial), (Kind::Error, serial));
        codec::decode_error(&frame.body).expect("an error")
    }

    /// The daemon ends this connection, and has nothing more to say on it.
    #[track_caller]
    pub fn expect_dropped(mut self, why: &str) {
        self.socket.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{why}: the connection is still open after {PATIENCE:?} ({error})"),
        }
        assert!(rest.is_empty(), "{why}: {} bytes came before the end", rest.len());
    }

    /// The daemon ends this connection, whatever it says before.
    #[track_caller]
    pub fn expect_dropped_after_anything(mut self, why: &str) {
        self.socket.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
                panic!("{why}: the connection is still open after {PATIENCE:?} ({error})")
            }
            _ => {}
        }
    }

    /// Still good for a call.
    #[track_caller]
    pub fn expect_served(&mut self, serial: u64) {
        self.send(&call_frame(serial, 0, &kind_of_driver()));
        let frame = self.receive().expect("an answer");
        assert_eq!((frame.kind, frame.serial), (Kind::Reply, serial));
    }
}

/// This build's hello.
pub fn hello() -> Vec<u8> {
    let mut body = Vec::new();
    codec::encode_into(&Hello::new("test", VERSIONS.0, VERSIONS.1), &mut body).expect("a hello");
    frame(Kind::Hello, 0, 0, &body)
}

/// Waits until the other end of a socket has closed it, without reading what is in it; false when the time is over.
pub fn wait_for_hangup(socket: &UnixStream, time: Duration) -> bool {
    let left = Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::empty())];
    matches!(poll(&mut fds, Some(&left)), Ok(1)) && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

/// `count` descriptors of `/dev/null`.
pub fn nulls(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| fs::File::open("/dev/null").expect("/dev/null").into()).collect()
}

/// The same, lent.
pub fn lent(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}
