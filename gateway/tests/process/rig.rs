//! A private instance with a gateway before it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use api::{Call, Operation, Reply, remote};
use bulkhead_tests::{Instance, LONG, Output, Process, Signal, run, skip};
use rustix::thread::{Gid, Uid};
use wire::{
    Conn, Frame,
    client::{CallError, Client},
    transport::Unix,
};

/// A user whom nobody knows.
pub const SOMEBODY: u32 = 23_456;
/// What must not take long at all.
pub const AT_ONCE: Duration = Duration::from_secs(5);

/// A gateway. Its end is part of every test: nothing may be left of it.
pub struct Gateway {
    child: Child,
    socket_dir: PathBuf,
    log: PathBuf,
}

/// The gateway ends before the instance behind it.
pub struct Rig {
    pub gateway: Gateway,
    pub instance: Instance,
}

impl Rig {
    /// Before a host's instance, whose qemud runs.
    pub fn system(test: &str, configuration: &str) -> Option<Rig> {
        let instance = Instance::system(test)?;
        instance.ok(&["list"]);
        Some(Rig::before(instance, configuration))
    }

    /// Before a user's session, whose qemud does not run.
    pub fn session(configuration: &str) -> Rig {
        Rig::before(Instance::session(), configuration)
    }

    pub fn before(instance: Instance, configuration: &str) -> Rig {
        Rig::before_with(instance, configuration, &[])
    }

    pub fn before_with(instance: Instance, configuration: &str, environment: &[(&str, &str)]) -> Rig {
        Rig { gateway: Gateway::start(&instance, configuration, environment), instance }
    }

    pub fn socket(&self) -> PathBuf {
        self.gateway.socket_dir.join("libvirt-sock")
    }

    pub fn read_only_socket(&self) -> PathBuf {
        self.gateway.socket_dir.join("libvirt-sock-ro")
    }

    /// A client that has logged in.
    pub fn client(&self) -> Client {
        logged_in(&self.socket())
    }

    /// A client that has opened the instance's driver.
    pub fn opened(&self) -> Client {
        opened(&self.socket())
    }

    /// Runs virsh as the instance's user.
    #[track_caller]
    pub fn virsh(&self, arguments: &[&str]) -> Output {
        run(self.virsh_command(self.instance.uri(), arguments))
    }

    pub fn virsh_command(&self, uri: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("virsh");
        command.args(["-c", &self.uri(uri)]).args(arguments);
        self.instance.prepare(&mut command, self.instance.uid());
        // virsh looks for its history and its locks there.
        command.env("XDG_RUNTIME_DIR", self.instance.root()).env("TERM", "dumb");
        command
    }

    /// What a client connects to for one of our URIs.
    pub fn uri(&self, uri: &str) -> String {
        uri.replacen(":", "+unix:", 1) + "?socket=" + self.socket().to_str().unwrap()
    }

    /// As [`Rig::virsh`], for what must succeed.
    #[track_caller]
    pub fn virsh_ok(&self, arguments: &[&str]) -> String {
        let output = self.virsh(arguments);
        assert_eq!(output.code, 0, "virsh {arguments:?}: {}{}{}", output.stdout, output.stderr, self.gateway.log());
        output.stdout
    }
}

/// Whether a program of libvirt's is there; else the test is marked as skipped.
pub fn has(program: &str, test: &str) -> bool {
    let found = ["/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists());
    if !found {
        skip(test, &format!("{program} is not installed"));
    }
    found
}

impl Gateway {
    pub fn start(instance: &Instance, configuration: &str, environment: &[(&str, &str)]) -> Gateway {
        fs::create_dir_all(instance.config_dir()).unwrap();
        fs::create_dir_all(instance.log_dir()).unwrap();
        fs::write(instance.config_dir().join("gateway.conf"), configuration).unwrap();
        let log = instance.log_dir().join("gateway.log");
        let mut command = Gateway::command(instance);
        // A machine's own bus is none of a test's business.
        command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent").envs(environment.iter().copied());
        command.arg("--announce").stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n", "{}", fs::read_to_string(&log).unwrap());
        let system = instance.uri() == "qemu:///system";
        let runtime = instance.runtime_dir();
        let socket_dir = if system { instance.root().join("run/libvirt") } else { runtime.join("libvirt") };
        Gateway { child, socket_dir, log }
    }

    pub fn command(instance: &Instance) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
        command.arg(if instance.uri() == "qemu:///system" { "--system" } else { "--session" });
        instance.prepare(&mut command, instance.uid());
        // A session's qemud is found beside the other programs.
        command.env("BULKHEAD_QEMUD", instance.program("qemud"));
        command
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its living children of a role.
    pub fn role(&self, role: &str) -> Vec<Process> {
        let wanted = format!("--role={role}");
        let all = fs::read_dir("/proc").unwrap().flatten();
        let all = all.filter_map(|entry| Process::of(entry.file_name().to_str()?.parse().ok()?));
        all.filter(|process| process.parent == self.pid() && process.arguments.contains(&wanted)).collect()
    }

    pub fn acceptor(&self) -> Process {
        let found = self.role("acceptor");
        assert_eq!(found.len(), 1, "{}", self.log());
        found.into_iter().next().unwrap()
    }

    /// The workers that hold at least so many sockets: their channel, a client, a driver.
    pub fn workers_with_sockets(&self, count: usize) -> Vec<Process> {
        let workers = self.role("worker");
        workers.into_iter().filter(|worker| sockets_of(worker.pid) >= count).collect()
    }

    /// Ends it politely.
    fn end(&mut self) -> Vec<String> {
        let children: Vec<_> =
            ["acceptor", "worker", "polkit", "mock-host"].iter().flat_map(|role| self.role(role)).collect();
        let handles: Vec<_> = children.iter().filter_map(Process::handle).collect();
        if let Some(launcher) = Process::of(self.pid()).and_then(|process| process.handle()) {
            launcher.signal(Signal::TERM);
        }
        let mut left = Vec::new();
        match self.child.wait() {
            Ok(status) if status.success() => {}
            other => left.push(format!("the launcher ended with {other:?}")),
        }
        let stay = handles.iter().filter(|handle| !handle.wait_for_end(LONG));
        left.extend(stay.map(|handle| format!("process {} is still there", handle.pid)));
        let entries = fs::read_dir(&self.socket_dir).into_iter().flatten().flatten();
        left.extend(entries.map(|entry| format!("{} is still there", entry.path().display())));
        left
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the gateway's log:\n{}", self.log());
            let _ = self.child.kill();
            let _ = self.child.wait();
            return;
        }
        let left = self.end();
        assert!(left.is_empty(), "{left:#?}\n{}", self.log());
    }
}

/// How many sockets a process has open.
pub fn sockets_of(pid: u32) -> usize {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

pub fn logged_in(socket: &Path) -> Client {
    let client = Client::new(Box::new(Unix::new(UnixStream::connect(socket).unwrap()))).unwrap();
    client.login(None, LONG).unwrap();
    client
}

pub fn opened(socket: &Path) -> Client {
    let client = logged_in(socket);
    open(&client, "").unwrap();
    client
}

pub fn open(client: &Client, name: &str) -> Result<(), api::Error> {
    let args = remote::ConnectOpenArgs { name: Some(name.into()), flags: 0 };
    failed(client.call(&args.into_call(), Vec::new())).map(drop)
}

/// The answer or the error of a call that must have one of them.
#[track_caller]
pub fn failed<T>(result: Result<T, CallError>) -> Result<T, api::Error> {
    match result {
        Ok(value) => Ok(value),
        Err(CallError::Failed(error)) => Err(error),
        Err(other) => panic!("no answer: {other:?}"),
    }
}

/// What an operation answers.
#[track_caller]
pub fn ask<A: Operation>(client: &Client, args: A) -> A::Ret {
    let (reply, _) = failed(client.call(&args.into_call(), Vec::new())).unwrap();
    A::ret_of(reply).unwrap()
}

pub fn hostname(client: &Client) -> String {
    ask(client, remote::ConnectGetHostnameArgs {}).hostname
}

pub fn domain(client: &Client, name: &str) -> remote::Domain {
    ask(client, remote::DomainLookupByNameArgs { name: name.into() }).dom
}

/// A connection without any manners.
pub struct Raw(pub Conn<Unix>);

impl Raw {
    pub fn connect(socket: &Path) -> Raw {
        Raw(Conn::new(Unix::new(UnixStream::connect(socket).unwrap())))
    }

    pub fn send(&mut self, bytes: &[u8]) {
        // A peer that hangs up in the middle is one of the things that tests wait for.
        let _ = std::io::Write::write_all(&mut self.0.transport().socket(), bytes);
    }

    pub fn call(&mut self, serial: u32, call: &Call) {
        self.0.queue_call(serial, call, Vec::new()).unwrap();
        assert!(self.0.flush().unwrap());
    }

    /// The next frame; none when the peer hangs up.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            match self.0.next_frame() {
                Ok(Some(frame)) => return Some(frame),
                Err(_) => return None,
                Ok(None) => {}
            }
            assert!(readable(self.0.transport().socket(), LONG), "neither an answer nor an end");
            self.0.fill().unwrap();
        }
    }

    pub fn expect_dropped(&mut self, what: &str) {
        while let Some(frame) = self.next() {
            assert_eq!(frame.header.meaning(), wire::codec::Meaning::Reply, "{what}: {frame:?}");
        }
    }

    /// Logs in and opens the instance's driver.
    pub fn open(&mut self) {
        self.call(1, &Call::AuthList(remote::AuthListArgs {}));
        self.next().unwrap();
        self.call(2, &Call::ConnectOpen(remote::ConnectOpenArgs::default()));
        let frame = self.next().unwrap();
        assert_eq!(frame.header.status, wire::Status::Ok, "{frame:?}");
    }
}

/// Waits until a socket is readable or at its end.
pub fn readable(socket: &UnixStream, time: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let time = Timespec { tv_sec: time.as_secs().try_into().unwrap(), tv_nsec: time.subsec_nanos().into() };
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&time)).unwrap() > 0
}

/// Does `work` as another user, in these groups besides. Identity belongs to a thread: only one of its own gets another.
pub fn as_user<T: Send>(uid: u32, groups: &[u32], work: impl FnOnce() -> T + Send) -> T {
    let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let on_thread = move || {
        rustix::thread::set_thread_groups(&groups).unwrap();
        rustix::thread::set_thread_res_gid(Gid::from_raw(uid), Gid::from_raw(uid), Gid::from_raw(uid)).unwrap();
        rustix::thread::set_thread_res_uid(Uid::from_raw(uid), Uid::from_raw(uid), Uid::from_raw(uid)).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(on_thread).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// A reply of a raw connection, with its error if it is one.
pub fn error_of(frame: &Frame) -> api::Error {
    assert_eq!(frame.header.status, wire::Status::Error, "{frame:?}");
    wire::codec::decode_error(&frame.payload).unwrap()
}

/// Whether this is the answer of [`hostname`].
pub fn is_hostname(reply: &Reply) -> bool {
    matches!(reply, Reply::ConnectGetHostname(_))
}
