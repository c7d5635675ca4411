//! The way to an instance's qemud: its socket, and its start when it is not running.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use api::{Error, ErrorCode, ErrorDomain};
use ipc::{
    ConnError,
    client::{CONNECT_PATIENCE, Client, ConnectError, connect_socket},
    paths::{Instance, Mode, ROOT_VARIABLE},
    programs::{NotFound, Search, is_program},
};
use rustix::{
    fs::{MemfdFlags, inotify},
    io::Errno,
    process::{Pid, PidfdFlags},
};
use thiserror::Error as ThisError;

use crate::{
    Result, error,
    wait::{self, Deadline},
};

/// How long a daemon is started again for one connection: it may end for idleness just when we come, and again. Between two
/// starts is a rest that grows.
const AGAIN: Duration = Duration::from_secs(10);
const RESTS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(500));
/// How long a start may take: more than a cold disk needs.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Present when a service manager starts the system's daemon.
const SERVICE_MANAGER: &str = "/run/systemd/system";
/// Names the daemon's program.
const PROGRAM_VARIABLE: &str = "BULKHEAD_QEMUD";

/// How to reach one instance's daemon.
#[derive(Debug)]
pub(crate) struct Dialer {
    instance: Instance,
    read_only: bool,
    /// None when somebody else starts the daemon.
    starter: Option<Starter>,
}

impl Dialer {
    /// The way to the daemon of the instance that the environment names.
    pub(crate) fn from_env(mode: Mode, read_only: bool) -> Result<Dialer> {
        Ok(Dialer::to(instance(mode)?, read_only, true))
    }

    /// The way to a daemon that runs already.
    pub(crate) fn without_starter(mode: Mode, read_only: bool) -> Result<Dialer> {
        Ok(Dialer::to(instance(mode)?, read_only, false))
    }

    /// The way to the daemon of an instance.
    pub(crate) fn to(instance: Instance, read_only: bool, start: bool) -> Dialer {
        let root = rustix::process::geteuid().is_root();
        let managed = Path::new(SERVICE_MANAGER).exists();
        let starter = (start && may_start(&instance, root, managed)).then(Starter::from_env);
        Dialer { instance, read_only, starter }
    }

    #[cfg(test)]
    pub(crate) fn new(instance: Instance, read_only: bool, starter: Option<Starter>) -> Dialer {
        Dialer { instance, read_only, starter }
    }

    /// The same for a listener, which must not start a daemon that was stopped on purpose.
    pub(crate) fn never_starting(&self) -> Dialer {
        Dialer { instance: self.instance.clone(), read_only: self.read_only, starter: None }
    }

    fn socket(&self) -> PathBuf {
        if self.read_only { self.instance.read_only_socket() } else { self.instance.socket() }
    }

    /// Connects, starting the daemon if it is not there.
    pub(crate) fn dial(&self) -> Result<Client> {
        self.reach(|path| Client::connect(path, "libclient"))
    }

    /// The same without a word to the daemon: a socket for somebody else to speak on.
    pub(crate) fn dial_socket(&self) -> Result<UnixStream> {
        self.reach(|path| connect_socket(path, CONNECT_PATIENCE))
    }

    fn reach<T>(&self, connect: impl Fn(&Path) -> Result<T, ConnectError>) -> Result<T> {
        let again = self.starter.as_ref().map(|starter| Deadline::after(Some(starter.again)));
        let mut rest = Duration::ZERO;
        loop {
            let failure = match connect(&self.socket()) {
                Ok(reached) => return Ok(reached),
                Err(failure) => failure,
            };
            // No daemon can be there, or would be good for more than a few guests.
            self.instance.check_paths().map_err(|failure| error::no_place(failure, self.instance.mode()))?;
            let in_time = rest.is_zero() || again.is_some_and(|again| !again.passed());
            match &self.starter {
                Some(starter) if in_time && is_absent(&failure) => {
                    self.rest(rest);
                    rest = (rest * 2).clamp(RESTS.0, RESTS.1);
                    starter.start(&self.instance)?;
                }
                _ => return Err(error::no_connection(failure, &self.instance, self.starter.is_some())),
            }
        }
    }

    /// Waits between two starts, or until a socket appears.
    fn rest(&self, time: Duration) {
        if !time.is_zero()
            && let Some(news) = self.notice()
        {
            // Without the wait the next start comes sooner, and no more.
            let _ = wait::readable(news.as_fd(), Deadline::after(Some(time)));
        }
    }

    /// Readable once something has appeared beside the socket; none where that cannot be noticed.
    pub(crate) fn notice(&self) -> Option<OwnedFd> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
        let wanted = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, self.instance.runtime_dir(), wanted).ok()?;
        Some(fd)
    }
}

fn instance(mode: Mode) -> Result<Instance> {
    Instance::from_env(mode).map_err(|failure| error::no_place(failure, mode))
}

/// A session's daemon is its user's to start; the system's is root's, unless a service manager does it.
fn may_start(instance: &Instance, root: bool, managed: bool) -> bool {
    match instance.mode() {
        Mode::Session => true,
        Mode::System => root && (instance.root().is_some() || !managed),
    }
}

/// Nothing listens there, or the daemon has just ended.
fn is_absent(failure: &ConnectError) -> bool {
    match failure {
        ConnectError::Connect { source, .. } => {
            matches!(Errno::from_io_error(source), Some(Errno::NOENT | Errno::CONNREFUSED))
        }
        ConnectError::Hello(ConnError::Closed | ConnError::Io(Errno::CONNRESET | Errno::PIPE)) => true,
        _ => false,
    }
}

/// Why the daemon could not be started.
#[derive(Debug, ThisError)]
enum StartError {
    #[error("{PROGRAM_VARIABLE} names {}, which is no program that can be run", .0.display())]
    Named(PathBuf),
    #[error(transparent)]
    NotFound(#[from] NotFound),
    #[error("no memory for its messages")]
    Messages(#[source] io::Error),
    #[error("{} cannot be run", path.display())]
    Spawn {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} cannot be waited for", path.display())]
    Wait {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} was not ready after {} seconds", path.display(), patience.as_secs())]
    Late { path: PathBuf, patience: Duration },
    #[error("{} failed ({status})", path.display())]
    Failed { path: PathBuf, status: ExitStatus },
}

/// Starts daemons.
#[derive(Debug)]
pub(crate) struct Starter {
    environment: Vec<(OsString, OsString)>,
    /// The running program, whose neighbour the daemon may be.
    program: Option<PathBuf>,
    patience: Duration,
    again: Duration,
}

impl Starter {
    fn from_env() -> Starter {
        Starter::new(env::vars_os().collect(), env::current_exe().ok())
    }

    pub(crate) fn new(environment: Vec<(OsString, OsString)>, program: Option<PathBuf>) -> Starter {
        Starter { environment, program, patience: START_PATIENCE, again: AGAIN }
    }

    #[cfg(test)]
    pub(crate) fn with_patience(self, patience: Duration) -> Starter {
        Starter { patience, again: patience, ..self }
    }

    fn variable(&self, name: &str) -> Option<&OsStr> {
        let found = self.environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_os_str()).filter(|value| !value.is_empty())
    }

    /// Runs `qemud --background`, which returns when its sockets listen: its own, or those of the one that was faster.
    pub(crate) fn start(&self, instance: &Instance) -> Result<()> {
        let mut said = String::new();
        self.run(instance, &mut said).map_err(|failure| {
            let hint = start_hint(&failure);
            let error = Error::new(
                ErrorCode::SYSTEM_ERROR,
                ErrorDomain::RPC,
                format!("failed to start qemud for qemu:///{}", instance.mode().name()),
            );
            let error = said.lines().fold(error.with_cause(failure), |error, line| error.with_cause_text(line));
            match hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        })
    }

    fn run(&self, instance: &Instance, said: &mut String) -> Result<(), StartError> {
        let path = self.find()?;
        // A memory file, not a pipe: a daemon that keeps its error output open holds up nobody.
        let messages = rustix::fs::memfd_create("qemud-messages", MemfdFlags::CLOEXEC)
            .map(File::from)
            .map_err(|errno| StartError::Messages(errno.into()))?;
        let stderr = messages.try_clone().map_err(StartError::Messages)?;
        let mut command = Command::new(&path);
        command
            .arg(format!("--{}", instance.mode().name()))
            .arg("--background")
            .env_clear()
            .envs(self.environment.iter().filter(|(name, _)| is_passed(name)).map(|(name, value)| (name, value)))
            .current_dir("/")
            // Keys pressed at our terminal are not for the daemon.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        if let Some(root) = instance.root() {
            command.env(ROOT_VARIABLE, root);
        }
        let child = command.spawn().map_err(|source| StartError::Spawn { path: path.clone(), source })?;
        let status = self.wait_for(child, &path);
        *said = read_messages(messages);
        let status = status?;
        if status.success() { Ok(()) } else { Err(StartError::Failed { path, status }) }
    }

    fn wait_for(&self, mut child: Child, path: &Path) -> Result<ExitStatus, StartError> {
        let failed = |source| StartError::Wait { path: path.to_path_buf(), source };
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let pidfd = pidfd.map_err(|errno| failed(errno.into()))?;
        let deadline = Deadline::after(Some(self.patience));
        if !wait::readable(std::os::fd::AsFd::as_fd(&pidfd), deadline).map_err(failed)? {
            // Best effort: it may have ended just now. The wait below leaves no zombie either way.
            let _ = child.kill();
            child.wait().map_err(failed)?;
            return Err(StartError::Late { path: path.to_path_buf(), patience: self.patience });
        }
        child.wait().map_err(failed)
    }

    fn find(&self) -> Result<PathBuf, StartError> {
        // A program that runs with more rights than its caller takes no program's name from the caller.
        let trusted = rustix::process::getuid() == rustix::process::geteuid();
        if let Some(named) = self.variable(PROGRAM_VARIABLE).filter(|_| trusted) {
            let named = PathBuf::from(named);
            return if is_program(&named) { Ok(named) } else { Err(StartError::Named(named)) };
        }
        let path = self.variable("PATH").filter(|_| trusted);
        Ok(Search { beside: self.program.as_deref(), path }.find("qemud")?)
    }
}

fn start_hint(failure: &StartError) -> Option<&'static str> {
    match failure {
        StartError::Named(_) => Some("correct or unset BULKHEAD_QEMUD"),
        StartError::NotFound(_) => Some("install qemud, or set BULKHEAD_QEMUD to its path"),
        _ => None,
    }
}

/// What the daemon needs to find its files; it gets nothing else of our environment.
fn is_passed(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    matches!(name, b"HOME" | b"PATH") || name.starts_with(b"XDG_") || name.starts_with(b"BULKHEAD_")
}

/// The last lines of what the daemon said.
fn read_messages(mut file: File) -> String {
    const LONGEST: u64 = 16 << 10;
    const LINES: usize = 12;
    let mut bytes = Vec::new();
    // Messages that cannot be read are missing from an error that is told anyway.
    let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(LONGEST).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_qemud::{FakeLog, FakeQemud, Step};
    use crate::{Connection, ErrorCode, qemu::QemuLink};
    use std::{
        fs,
        os::unix::fs::PermissionsExt,
        sync::{Mutex, MutexGuard, PoisonError},
    };
    use tempfile::TempDir;

    /// A script that is being written while another thread forks cannot be run: "text file busy".
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    struct World {
        root: TempDir,
        instance: Instance,
        _alone: MutexGuard<'static, ()>,
    }

    impl World {
        fn new() -> World {
            let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            let root = TempDir::new().unwrap();
            let instance = Instance::at(Mode::Session, Some(root.path().to_path_buf()));
            fs::create_dir_all(instance.runtime_dir()).unwrap();
            World { root, instance, _alone: alone }
        }

        fn script(&self, text: &str) -> PathBuf {
            let path = self.root.path().join("qemud");
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        }

        fn starter(&self, text: &str) -> Starter {
            let path = self.script(text).into_os_string();
            let environment = [
                (PROGRAM_VARIABLE.into(), path),
                ("PATH".into(), "/usr/bin:/bin".into()),
                ("HOME".into(), "/nowhere".into()),
                ("SECRET".into(), "x".into()),
                ("LD_PRELOAD".into(), "/evil.so".into()),
                ("XDG_RUNTIME_DIR".into(), "/run/user/7".into()),
            ];
            Starter::new(environment.into(), None)
        }

        fn dialer(&self, starter: Option<Starter>) -> Dialer {
            Dialer::new(self.instance.clone(), false, starter)
        }

        /// A daemon whose socket appears when a script moves it to its place.
        fn hidden(&self) -> FakeQemud {
            let hidden = self.instance.runtime_dir().join("hidden");
            let mut fake =
                FakeQemud::listen(&hidden, FakeLog::default(), |_, _| Step::Reply(api::Reply::ConnectOpen(()), vec![]));
            fake.moved_to(&self.instance.socket());
            fake
        }
    }

    const APPEAR: &str =
        "cd \"$BULKHEAD_ROOT\"/user-*/run && { [ -S qemud.sock ] || mv hidden qemud.sock || [ -S qemud.sock ]; }";

    #[test]
    fn a_daemon_that_is_not_there_is_started() {
        let world = World::new();
        let fake = world.hidden();
        let starter =
            world.starter(&format!("env > \"$BULKHEAD_ROOT\"/env; echo \"$@\" > \"$BULKHEAD_ROOT\"/args; {APPEAR}"));
        world.dialer(Some(starter)).dial().unwrap();
        assert_eq!(fake.accepted(), 1);
        assert_eq!(fs::read_to_string(world.root.path().join("args")).unwrap(), "--session --background\n");
        let env = fs::read_to_string(world.root.path().join("env")).unwrap();
        for kept in ["HOME=/nowhere", "PATH=/usr/bin:/bin", "XDG_RUNTIME_DIR=/run/user/7", "BULKHEAD_QEMUD="] {
            assert!(env.contains(kept), "{kept}: {env}");
        }
        for gone in ["SECRET", "LD_PRELOAD"] {
            assert!(!env.contains(gone), "{gone}: {env}");
        }
    }

    #[test]
    fn a_socket_that_a_killed_daemon_left_is_no_daemon() {
        let world = World::new();
        drop(std::os::unix::net::UnixListener::bind(world.instance.socket()).unwrap());
        let _fake = world.hidden();
        let starter = world.starter("cd \"$BULKHEAD_ROOT\"/user-*/run && mv hidden qemud.sock");
        world.dialer(Some(starter)).dial().unwrap();
    }

    #[test]
    fn clients_that_race_all_get_the_daemon() {
        let world = World::new();
        let fake = world.hidden();
        let dialer = world.dialer(Some(world.starter(APPEAR)));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| dialer.dial().unwrap());
            }
        });
        assert_eq!(fake.accepted(), 4);
    }

    #[test]
    fn a_start_that_fails_tells_what_the_daemon_said() {
        let world = World::new();
        let starter = world.starter("echo 'qemud: no room in /run' >&2; printf 'try\\033[31m again\\n\\n' >&2; exit 3");
        let error = world.dialer(Some(starter)).dial().err().unwrap();
        assert_eq!(error.code, ErrorCode::SYSTEM_ERROR);
        assert_eq!(error.message, "failed to start qemud for qemu:///session");
        assert!(error.causes[0].ends_with("/qemud failed (exit status: 3)"), "{error:?}");
        assert_eq!(error.causes[1..], ["qemud: no room in /run", "try[31m again"]);
    }

    #[test]
    fn a_start_that_hangs_ends_in_time() {
        let world = World::new();
        let starter = world.starter("exec sleep 100").with_patience(Duration::from_millis(100));
        let error = world.dialer(Some(starter)).dial().err().unwrap();
        assert!(error.causes[0].contains("was not ready after 0 seconds"), "{error:?}");
    }

    #[test]
    fn a_daemon_that_keeps_its_error_output_holds_up_nobody() {
        let world = World::new();
        let starter = world.starter("sleep 3 & echo starting >&2; exit 1");
        let begin = std::time::Instant::now();
        assert!(world.dialer(Some(starter)).dial().is_err());
        assert!(begin.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn a_daemon_that_starts_but_never_listens_is_an_error() {
        let world = World::new();
        let starter = world.starter("echo x >> \"$BULKHEAD_ROOT\"/starts").with_patience(Duration::from_secs(2));
        let error = world.dialer(Some(starter)).dial().err().unwrap();
        assert_eq!(error.message, "failed to connect to qemud");
        let starts = fs::read_to_string(world.root.path().join("starts")).unwrap();
        assert!(starts.lines().count() > 1, "it is tried again");
    }

    #[test]
    fn without_a_starter_the_error_says_what_to_do() {
        let world = World::new();
        let instance = Instance::at(Mode::System, Some(world.root.path().to_path_buf()));
        let error = Dialer::new(instance, true, None).dial().err().unwrap();
        assert_eq!(error.code, ErrorCode::SYSTEM_ERROR);
        assert!(error.causes[0].contains("qemud-ro.sock"), "{error:?}");
        assert!(error.causes[1].contains("No such file"), "{error:?}");
        assert!(error.hint.unwrap().contains("qemud is not running"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let world = World::new();
        let missing = Starter::new(vec![(PROGRAM_VARIABLE.into(), "/nowhere/qemud".into())], None);
        let error = world.dialer(Some(missing)).dial().err().unwrap();
        assert!(error.causes[0].contains("BULKHEAD_QEMUD names /nowhere/qemud"), "{error:?}");
        assert_eq!(error.hint.as_deref(), Some("correct or unset BULKHEAD_QEMUD"));
    }

    #[test]
    fn the_program_is_looked_for_beside_the_running_one_first() {
        let world = World::new();
        let path = world.script("");
        let beside = |program: &str| Starter::new(Vec::new(), Some(world.root.path().join(program)));
        assert_eq!(beside("bulkhead").find().unwrap(), path);
        assert_eq!(beside("deps/some_test-0123").find().unwrap(), path);
    }

    #[test]
    fn a_program_that_anybody_could_have_put_there_is_not_run() {
        let world = World::new();
        world.script("touch \"$BULKHEAD_ROOT\"/planted");
        fs::set_permissions(world.root.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::create_dir(world.root.path().join("own")).unwrap();
        for program in ["own/bulkhead", "bulkhead"] {
            let starter = Starter::new(Vec::new(), Some(world.root.path().join(program)));
            let error = world.dialer(Some(starter)).dial().err().unwrap();
            assert!(error.causes[0].contains("qemud' is not taken: others than its user and root can"), "{error:?}");
        }
        assert!(!world.root.path().join("planted").exists());
    }

    #[test]
    fn a_path_too_long_for_sockets_is_told_before_a_daemon_is_started() {
        let world = World::new();
        let starter = world.starter("touch \"$BULKHEAD_ROOT\"/started");
        let root = world.root.path().join("d".repeat(60));
        let instance = Instance::at(Mode::Session, Some(root.clone()));
        fs::create_dir_all(instance.runtime_dir()).unwrap();
        let error = Dialer::new(instance, false, Some(starter)).dial().err().unwrap();
        assert_eq!(error.code, ErrorCode::SYSTEM_ERROR);
        assert!(error.causes[0].contains("and the system takes 107; set BULKHEAD_ROOT"), "{error:?}");
        assert!(!root.join("started").exists());
    }

    #[test]
    fn who_may_start_a_daemon_is_a_table() {
        let root = || Some(PathBuf::from("/x"));
        for (mode, dir, is_root, managed, may) in [
            (Mode::Session, None, false, true, true),
            (Mode::Session, root(), true, true, true),
            (Mode::System, None, true, false, true),
            (Mode::System, None, true, true, false),
            (Mode::System, root(), true, true, true),
            (Mode::System, root(), false, false, false),
            (Mode::System, None, false, false, false),
        ] {
            assert_eq!(
                may_start(&Instance::at(mode, dir.clone()), is_root, managed),
                may,
                "{mode:?} {dir:?} {is_root}"
            );
        }
    }

    #[test]
    fn a_lost_daemon_is_started_again_by_the_next_call() {
        let world = World::new();
        let fake = world.hidden();
        let starter = world.starter(APPEAR);
        let connection = Connection::over(Box::new(QemuLink::open(world.dialer(Some(starter))).unwrap()), false);
        let open = || connection.invoke(api::remote::ConnectOpenArgs { name: None, flags: 0 });
        open().unwrap();
        drop(fake);
        fs::remove_file(world.instance.socket()).unwrap();
        let _again = world.hidden();
        open().unwrap();
    }

    #[test]
    fn a_listener_starts_no_daemon_and_finds_the_one_that_a_call_has_started() {
        let world = World::new();
        let fake = world.hidden();
        let starts = world.root.path().join("starts");
        let starter = world.starter(&format!("echo x >> '{}'; {APPEAR}", starts.display()));
        let connection = Connection::over(Box::new(QemuLink::open(world.dialer(Some(starter))).unwrap()), false);
        let mut stream = connection.subscribe(None).unwrap();
        fs::remove_file(&starts).unwrap();
        drop(fake);
        fs::remove_file(world.instance.socket()).unwrap();
        let again = world.hidden();
        let error = stream.next(Some(Duration::from_millis(100))).unwrap_err();
        assert_eq!(error.message, "failed to connect to qemud", "{error:?}");
        assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("the next command starts it")), "{error:?}");
        assert!(!starts.exists(), "it was started by a listener");
        connection.invoke(api::remote::ConnectOpenArgs { name: None, flags: 0 }).unwrap();
        assert!(stream.next(Some(Duration::from_millis(500))).unwrap().is_none());
        assert_eq!(again.accepted(), 2);
    }
}
