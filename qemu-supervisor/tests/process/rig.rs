//! Starts the real `qemu-supervisor` as its launcher would, without a compartment around it, and speaks for control.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use ipc::edge::Channel;
use rustix::{
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
    process::{Pid, Signal},
};
use supervisor::{
    events::Recorded,
    launch::{self, Assignment},
    lifecycle::Kind,
    protocol::{
        Action, Answer, Boot, Event, Failure, Happening, Job, JobState, Message, News, Notice, Request, Status,
    },
    wire::control_channel,
};
use tempfile::TempDir;

/// What a test waits for at most; nothing takes that long.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// Control's end of a connection.
pub struct Control {
    channel: Channel<Request, Message>,
    serial: u64,
    pub events: Vec<Event>,
    pub notices: Vec<Notice>,
    pub jobs: Vec<Job>,
}

impl Control {
    pub fn new(socket: UnixStream) -> Control {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let channel = control_channel("test", socket).unwrap();
        Control { channel, serial: 0, events: Vec::new(), notices: Vec::new(), jobs: Vec::new() }
    }

    pub fn hear_hello(&mut self) {
        self.channel.flush().unwrap();
        self.channel.recv_hello().unwrap();
    }

    pub fn send(&mut self, request: &Request, fds: Vec<OwnedFd>) -> u64 {
        self.serial += 1;
        self.channel.send(self.serial, request, fds).unwrap();
        self.serial
    }

    /// The answer to a request; events that come before it are kept.
    pub fn answer(&mut self, serial: u64) -> (Result<Answer, Failure>, Vec<OwnedFd>) {
        loop {
            let message = self.channel.recv().unwrap();
            match message.value {
                Message::Event(event) => self.events.push(event),
                Message::Notice(notice) => self.notices.push(notice),
                Message::News(News { what: Happening::Event(event), .. }) => self.events.push(event),
                Message::News(News { what: Happening::Notice(notice), .. }) => self.notices.push(notice),
                Message::Job(job) => self.jobs.push(job),
                Message::Answer(answer) => {
                    assert_eq!(message.serial, serial, "{answer:?}");
                    return (answer, message.fds);
                }
            }
        }
    }

    pub fn ask(&mut self, request: &Request) -> Result<Answer, Failure> {
        let serial = self.send(request, Vec::new());
        self.answer(serial).0
    }

    pub fn done(&mut self, request: &Request) {
        assert_eq!(self.ask(request), Ok(Answer::Done), "{request:?}");
    }

    pub fn status(&mut self) -> Status {
        match self.ask(&Request::Status) {
            Ok(Answer::Status(status)) => status,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for an event of this kind; those before it are kept too.
    pub fn event(&mut self, kind: Kind) -> Event {
        let of_kind = |event: &&Event| (event.event, event.detail) == (kind.event, kind.detail);
        loop {
            if let Some(at) = self.events.iter().position(|event| of_kind(&event)) {
                return self.events.drain(..=at).next_back().unwrap();
            }
            match self.channel.recv().unwrap_or_else(|error| panic!("no {kind:?}: {error:?}, {:?}", self.events)).value
            {
                Message::Event(event) => self.events.push(event),
                Message::Notice(notice) => self.notices.push(notice),
                Message::News(News { what: Happening::Event(event), .. }) => self.events.push(event),
                Message::News(News { what: Happening::Notice(notice), .. }) => self.notices.push(notice),
                Message::Job(job) => self.jobs.push(job),
                Message::Answer(answer) => panic!("nothing was asked: {answer:?}"),
            }
        }
    }

    /// Waits for a notice of this kind; what comes before it is kept.
    pub fn notice(&mut self, kind: i32) -> Notice {
        loop {
            if let Some(at) = self.notices.iter().position(|notice| notice.kind == kind) {
                return self.notices.remove(at);
            }
            match self.channel.recv().unwrap_or_else(|error| panic!("no {kind}: {error:?}, {:?}", self.notices)).value {
                Message::Event(event) => self.events.push(event),
                Message::Notice(notice) => self.notices.push(notice),
                Message::News(News { what: Happening::Event(event), .. }) => self.events.push(event),
                Message::News(News { what: Happening::Notice(notice), .. }) => self.notices.push(notice),
                Message::Job(job) => self.jobs.push(job),
                Message::Answer(answer) => panic!("nothing was asked: {answer:?}"),
            }
        }
    }

    /// Waits until a job is in this state; what comes before it is kept.
    pub fn job(&mut self, id: u64, state: JobState) -> Job {
        loop {
            if let Some(at) = self.jobs.iter().position(|job| job.id == id && job.state == state) {
                return self.jobs.remove(at);
            }
            let message = self.channel.recv().unwrap_or_else(|error| panic!("no job {id}: {error:?}, {:?}", self.jobs));
            match message.value {
                Message::Job(job) => self.jobs.push(job),
                Message::News(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits until the supervisor has closed the connection.
    pub fn closed(&mut self) {
        loop {
            match self.channel.recv() {
                Ok(message) => assert!(!matches!(message.value, Message::Answer(_)), "{message:?}"),
                Err(ipc::ConnError::Closed) => return,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

/// A supervisor and the control that started it.
pub struct Rig {
    pub dir: TempDir,
    pub control: Control,
    supervisor: Child,
    /// QEMU, once it has started.
    started: Option<OwnedFd>,
}

impl Rig {
    /// Starts a supervisor whose first request is this one.
    pub fn launch(request: &Request, fds: Vec<OwnedFd>) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(dir.path().join("socket")).unwrap()).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut control = Control::new(ours);
        assert_eq!(control.send(request, fds), 1);
        let events = File::options().append(true).create(true).open(dir.path().join("events")).unwrap();
        let log = File::options().append(true).create(true).open(dir.path().join("log")).unwrap();
        let (launcher, waiting) = UnixStream::pair().unwrap();
        let control_end = theirs.into();
        let assignment = Assignment { listener, control: control_end, event_log: events.into(), log: log.into() };
        launch::assign(launcher, assignment).unwrap();
        // The shell places the descriptor; it reaches it as its standard input, so no other child gets it.
        let supervisor = Command::new("/bin/sh")
            .args(["-c", "exec \"$0\" --control-uid 12345 3<&0 0</dev/null 1>/dev/null 2>&1"])
            .arg(env!("CARGO_BIN_EXE_qemu-supervisor"))
            .stdin(OwnedFd::from(waiting))
            .spawn()
            .unwrap();
        control.hear_hello();
        Rig { dir, control, supervisor, started: None }
    }

    /// Starts a guest and waits for the answer.
    pub fn boot(boot: Boot) -> Rig {
        let mut rig = Rig::launch(&Request::Boot(boot), Vec::new());
        let answer = rig.control.answer(1).0;
        assert!(matches!(answer, Ok(Answer::Status(_))), "{answer:?}\n{}", rig.log());
        // It may have ended already.
        rig.started = rig.qemu().and_then(|pid| sandbox::pidfd::open(pid.as_raw_pid()).ok());
        rig
    }

    /// Another control.
    pub fn connect(&self) -> Control {
        let mut control = Control::new(self.connect_raw());
        control.hear_hello();
        control
    }

    pub fn connect_raw(&self) -> UnixStream {
        let socket = UnixStream::connect(self.dir.path().join("socket")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// What a control reads when the supervisor is gone.
    pub fn everything_recorded(&self) -> Vec<Recorded> {
        supervisor::events::read(File::open(self.dir.path().join("events")).unwrap()).unwrap().entries
    }

    /// The events of it.
    pub fn recorded(&self) -> Vec<Event> {
        let events = self.everything_recorded().into_iter().filter_map(|what| match what {
            Recorded::Event(event) => Some(event),
            Recorded::Notice(_) => None,
        });
        events.collect()
    }

    /// The kinds of all recorded events.
    pub fn recorded_kinds(&self) -> Vec<Kind> {
        self.recorded().iter().map(|event| Kind { event: event.event, detail: event.detail }).collect()
    }

    pub fn qemu(&self) -> Option<Pid> {
        let path = format!("/proc/{0}/task/{0}/children", self.supervisor.id());
        let children = std::fs::read_to_string(path).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }

    pub fn signal_qemu(&self, signal: Signal) {
        rustix::process::kill_process(self.qemu().unwrap(), signal).unwrap();
    }

    /// Waits for the supervisor's end.
    pub fn ended(&mut self) -> ExitStatus {
        self.supervisor.wait().unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the supervisor's log:\n{}", self.log());
        }
        // Without a pid namespace around them, QEMU does not end with its supervisor.
        if let Some(started) = &self.started {
            let _ = sandbox::pidfd::send_signal(started, Signal::KILL);
        } else if let (Ok(None), Some(qemu)) = (self.supervisor.try_wait(), self.qemu()) {
            let _ = rustix::process::kill_process(qemu, Signal::KILL);
        }
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}

/// A guest with nothing but its firmware; more arguments of QEMU may follow.
pub fn guest(more: &[&str]) -> Boot {
    let base = [
        QEMU,
        "-nodefaults",
        "-no-user-config",
        "-machine",
        "pc,accel=tcg",
        "-m",
        "16",
        "-display",
        "none",
        "-no-shutdown",
        "-chardev",
        "socket,id=mon,fd=3",
        "-mon",
        "chardev=mon,mode=control",
    ];
    Boot {
        name: "test".into(),
        argv: base.iter().chain(more).map(ToString::to_string).collect(),
        consoles: 0,
        files: 0,
        copies: Vec::new(),
        paused: false,
        on_poweroff: Action::Destroy,
        on_reboot: Action::Restart,
        on_crash: Action::Destroy,
        deadline_ms: 60_000,
        record: "what control wants to know".into(),
    }
}

/// A guest that runs this code, in real mode, from its disk. The directory holds the disk.
pub fn program(code: &[u8], more: &[&str]) -> (Boot, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let mut sector = code.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    std::fs::write(&path, sector).unwrap();
    let drive = format!("file={},format=raw,if=ide", path.display());
    let more: Vec<&str> = ["-drive", &drive].into_iter().chain(more.iter().copied()).collect();
    (guest(&more), dir)
}

/// Reads from a console until `text` has come; returns all of it.
pub fn read_until(stream: &mut UnixStream, text: &str) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while !String::from_utf8_lossy(&bytes).contains(text) {
        let count = match stream.read(&mut chunk) {
            // So ends a read with a time limit when the process was stopped for a moment.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.unwrap(),
        };
        assert!(count > 0, "the console ended before {text:?}: {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend(&chunk[..count]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The kernel and initramfs of a real guest, if the environment names them.
pub fn linux() -> Option<(PathBuf, PathBuf)> {
    let dir = std::env::var_os("BULKHEAD_TEST_GUEST")?;
    let dir = Path::new(&dir);
    let files = (dir.join("vmlinuz"), dir.join("initrd.cpio.gz"));
    (files.0.exists() && files.1.exists()).then_some(files)
}
