//! A private instance of the suite.

use std::{
    env, fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Signal, getuid};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    events::{EventLine, Watch, parse_lines},
    guest::Guest,
    process::{Handle, Process, Role, processes_of},
    terminal::{PROMPT, Terminal},
    wait::{LONG, boot_permit, skip, wait_for_no_entries},
};

/// What belongs to the suite.
const PROGRAMS: [&str; 5] = ["bulkhead", "gateway", "qemud", "qemud-control", "qemu-supervisor"];

/// What a command of the command line did.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code; 128 and the signal, when a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// Its messages.
    pub stderr: String,
}

/// A domain as `bulkhead list --output json` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Domain {
    /// Its number while it runs.
    pub id: Option<u32>,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// `running`, `paused`, `shutoff` …
    pub state: String,
    /// Why.
    pub reason: String,
    /// It has a definition.
    pub persistent: bool,
    /// It starts with the host.
    pub autostart: bool,
    /// Its supervisor.
    pub supervisor_pid: Option<u32>,
}

/// A private instance: directory, daemon, guests. Its end ends all of it, and fails the test when something is left.
#[derive(Debug)]
pub struct Instance {
    root: TempDir,
    system: bool,
    uid: u32,
    programs: PathBuf,
}

impl Instance {
    /// A session of the user who runs the tests.
    #[must_use]
    pub fn session() -> Instance {
        Instance::session_with("")
    }

    /// A session with further lines in its `qemud.conf`.
    #[must_use]
    pub fn session_with(configuration: &str) -> Instance {
        Instance::make(false, getuid().as_raw(), configuration)
    }

    /// The session of another user; `None`, and the test is marked as skipped, when that is not possible.
    #[must_use]
    pub fn session_as(uid: u32, test: &str) -> Option<Instance> {
        if getuid().as_raw() != uid && !getuid().is_root() {
            skip(test, "another user's session needs root");
            return None;
        }
        Some(Instance::make(false, uid, ""))
    }

    /// The session of an ordinary user: another one when root runs the tests, otherwise the one who does.
    #[must_use]
    pub fn ordinary() -> Instance {
        let own = getuid();
        Instance::make(false, if own.is_root() { 12_345 } else { own.as_raw() }, "")
    }

    /// A host's instance; `None`, and the test is marked as skipped, without root.
    #[must_use]
    pub fn system(test: &str) -> Option<Instance> {
        Instance::system_with("", test)
    }

    /// A host's instance with further lines in its `qemud.conf`.
    #[must_use]
    pub fn system_with(configuration: &str, test: &str) -> Option<Instance> {
        if !getuid().is_root() {
            skip(test, "a system instance needs root");
            return None;
        }
        Some(Instance::make(true, 0, configuration))
    }

    fn make(system: bool, uid: u32, configuration: &str) -> Instance {
        // Short, because paths of sockets must be.
        let root = tempfile::Builder::new().prefix("bht-").tempdir_in("/tmp").expect("a directory in /tmp");
        // Others pass through: control and guests have uids of their own.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        let mut instance = Instance { root, system, uid, programs: programs() };
        let dir = instance.config_dir();
        fs::create_dir_all(&dir).expect("the configuration's directory");
        let text = format!("guest_deadline_ms = 1000\n{configuration}\n");
        fs::write(dir.join("qemud.conf"), text).expect("the configuration");
        if uid != getuid().as_raw() {
            instance.give_to(uid);
        }
        instance
    }

    /// Runs the programs of another release from now on.
    pub fn use_programs(&mut self, programs: &Path) {
        self.programs = programs.to_owned();
    }

    /// Runs the programs of this release again.
    pub fn use_own_programs(&mut self) {
        self.programs = programs();
    }

    /// Makes everything there is another user's, and the programs such that the other user can run them.
    fn give_to(&mut self, uid: u32) {
        let base = self.root.path().to_owned();
        if !reachable(&self.programs) {
            let copies = base.join("programs");
            fs::create_dir(&copies).expect("a directory for the programs");
            for name in PROGRAMS {
                fs::copy(self.programs.join(name), copies.join(name)).expect("a copy of a program");
            }
            self.programs = copies;
        }
        let mut dirs = vec![base];
        while let Some(dir) = dirs.pop() {
            chown(&dir, Some(uid), Some(uid)).expect("chown");
            if dir.is_dir() {
                dirs.extend(fs::read_dir(&dir).expect("its entries").flatten().map(|entry| entry.path()));
            }
        }
    }

    // --- Places ---

    /// Its `BULKHEAD_ROOT`.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Whose it is.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Its URI.
    #[must_use]
    pub fn uri(&self) -> &'static str {
        if self.system { "qemu:///system" } else { "qemu:///session" }
    }

    /// Whether it is a host's, not a user's.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.system
    }

    fn place(&self, system: &str, session: &str) -> PathBuf {
        if self.system {
            self.root().join(system)
        } else {
            self.root().join(format!("user-{}", self.uid)).join(session)
        }
    }

    /// Sockets and live state.
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        self.place("run/bulkhead", "run")
    }

    /// Configuration.
    #[must_use]
    pub fn config_dir(&self) -> PathBuf {
        self.place("etc/bulkhead", "config")
    }

    /// Definitions.
    #[must_use]
    pub fn definitions_dir(&self) -> PathBuf {
        self.config_dir().join("qemu")
    }

    /// Logs.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.place("var/log/bulkhead", "log")
    }

    /// The directories of running guests.
    #[must_use]
    pub fn guests_dir(&self) -> PathBuf {
        self.runtime_dir().join("guests")
    }

    /// The socket for calls that may change things.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir().join("qemud.sock")
    }

    /// The socket for calls that only read.
    #[must_use]
    pub fn read_only_socket(&self) -> PathBuf {
        self.runtime_dir().join("qemud-ro.sock")
    }

    /// The program of this name (`bulkhead`, `gateway`, `qemud`, `qemu-supervisor`).
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The same where this user can run it: the tree may stand below a directory that is its owner's alone.
    fn program_for(&self, name: &str, uid: u32) -> PathBuf {
        if uid == getuid().as_raw() || reachable(&self.programs) {
            return self.program(name);
        }
        let dir = self.root().join("programs");
        let copy = dir.join(name);
        if !copy.exists() {
            fs::create_dir_all(&dir).expect("a directory for the programs");
            let own = dir.join(format!("{name}-{:?}", std::thread::current().id()));
            fs::copy(self.program(name), &own).expect("a copy of a program");
            // Another thread may have been first; a program that runs is not written to.
            fs::rename(own, &copy).expect("its place");
        }
        copy
    }

    /// A file of this content that the instance's user owns.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.root().join(name);
        fs::write(&path, content).expect("a file in the root");
        chown(&path, Some(self.uid), Some(self.uid))
            .or_else(|e| if self.uid == getuid().as_raw() { Ok(()) } else { Err(e) })
            .expect("chown");
        path
    }

    // --- Commands ---

    /// A command of the command line, as the instance's user gives it.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_as(self.uid, arguments)
    }

    /// A command of the command line, given by any user.
    #[must_use]
    pub fn command_as(&self, uid: u32, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program_for("bulkhead", uid));
        command.args(["-c", self.uri()]).args(arguments);
        self.prepare(&mut command, uid);
        command
    }

    /// Gives a command the instance's environment and nothing else: no input, no terminal, no variable of the caller's.
    pub fn prepare(&self, command: &mut Command, uid: u32) {
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("TZ", "UTC");
        command.env("BULKHEAD_ROOT", self.root()).env("HOME", self.root()).current_dir("/");
        command.stdin(Stdio::null());
        if uid != getuid().as_raw() {
            command.uid(uid).gid(uid);
        }
    }

    /// Runs a command to its end.
    #[must_use]
    pub fn bulkhead(&self, arguments: &[&str]) -> Output {
        run(self.command(arguments))
    }

    /// Runs a command to its end, as any user.
    #[must_use]
    pub fn bulkhead_as(&self, uid: u32, arguments: &[&str]) -> Output {
        run(self.command_as(uid, arguments))
    }

    /// Runs a command that must succeed, and returns what it prints.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.bulkhead(arguments);
        assert_eq!(output.code, 0, "bulkhead {arguments:?} failed: {}{}\n{}", output.stdout, output.stderr, self.log());
        output.stdout
    }

    /// Runs a command that must fail with an exit code.
    ///
    /// # Panics
    /// When it succeeds, or fails with another code.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str], code: i32) -> Output {
        let output = self.bulkhead(arguments);
        assert_eq!(output.code, code, "bulkhead {arguments:?}: {}{}", output.stdout, output.stderr);
        output
    }

    /// Runs a command that prints JSON.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// What the daemon has said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_dir().join("qemud.log")).unwrap_or_default()
    }

    // --- Guests ---

    /// Every domain, the running ones first.
    #[track_caller]
    pub fn list(&self) -> Vec<Domain> {
        serde_json::from_value(self.json(&["list", "--all"])).expect("a list of domains")
    }

    /// One domain.
    ///
    /// # Panics
    /// When there is none of this name.
    #[track_caller]
    pub fn domain(&self, name: &str) -> Domain {
        let found = self.list().into_iter().find(|domain| domain.name == name);
        found.unwrap_or_else(|| panic!("there is no domain '{name}'"))
    }

    /// State and reason: `running (booted)`.
    #[track_caller]
    pub fn state(&self, name: &str) -> String {
        self.ok(&["domstate", "--reason", name]).trim_end().to_owned()
    }

    /// The Linux guest of [`Guest::linux`], from files that the instance's user can read.
    #[must_use]
    pub fn linux(&self, name: &str) -> Guest {
        let mut guest = Guest::linux(name);
        if self.uid != getuid().as_raw()
            && let Some((kernel, initrd)) = guest.kernel.as_mut()
            && !(reachable_file(kernel) && reachable_file(initrd))
        {
            *kernel = self.file("vmlinuz", &fs::read(&*kernel).expect("the kernel"));
            *initrd = self.file("initrd.cpio.gz", &fs::read(&*initrd).expect("the initrd"));
        }
        guest
    }

    /// Writes a guest's document where the instance's user can read it.
    #[must_use]
    pub fn document(&self, guest: &Guest) -> PathBuf {
        self.file(&format!("{}.xml", guest.name), guest.xml().as_bytes())
    }

    /// Starts a transient guest.
    #[track_caller]
    pub fn create(&self, guest: &Guest) -> Domain {
        let document = self.document(guest);
        self.ok(&["create", document.to_str().expect("a plain path")]);
        self.domain(&guest.name)
    }

    /// Defines a guest.
    #[track_caller]
    pub fn define(&self, guest: &Guest) {
        let document = self.document(guest);
        self.ok(&["define", document.to_str().expect("a plain path")]);
    }

    /// Starts a transient Linux guest with its console, and waits for its shell.
    pub fn boot(&self, guest: &Guest) -> Terminal {
        let document = self.document(guest);
        let _permit = boot_permit();
        let mut console = self.terminal(&["create", "--console", document.to_str().expect("a plain path")]);
        console.expect(PROMPT);
        console
    }

    /// Starts a defined Linux guest with its console, and waits for its shell.
    pub fn start(&self, name: &str) -> Terminal {
        let _permit = boot_permit();
        let mut console = self.terminal(&["start", "--console", name]);
        console.expect(PROMPT);
        console
    }

    /// Starts a command that goes on, on pipes.
    #[must_use]
    pub fn terminal(&self, arguments: &[&str]) -> Terminal {
        Terminal::on_pipes(self.command(arguments))
    }

    /// Attaches to a guest's console.
    #[must_use]
    pub fn console(&self, name: &str) -> Terminal {
        self.terminal(&["console", name])
    }

    // --- Events ---

    /// Follows the events from the first on.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch::start(self.command(&["event", "--all", "--loop", "--since", "0", "--output", "json"]))
    }

    /// What has happened after an event's number.
    #[track_caller]
    pub fn events_since(&self, sequence: u64) -> Vec<EventLine> {
        let since = sequence.to_string();
        let output = self.bulkhead(&["event", "--all", "--since", &since, "--timeout", "5", "--output", "json"]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        parse_lines(output.stdout.as_bytes())
    }

    // --- Processes ---

    /// Every living process of it.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        processes_of(self.root())
    }

    /// Those of one role.
    #[must_use]
    pub fn role(&self, role: Role) -> Vec<Process> {
        self.processes().into_iter().filter(|process| process.role == role).collect()
    }

    /// The one launcher.
    ///
    /// # Panics
    /// When there is none, or more than one.
    #[track_caller]
    pub fn launcher(&self) -> Handle {
        self.only(Role::Launcher)
    }

    /// The one control.
    ///
    /// # Panics
    /// When there is none, or more than one.
    #[track_caller]
    pub fn control(&self) -> Handle {
        self.only(Role::Control)
    }

    #[track_caller]
    fn only(&self, role: Role) -> Handle {
        let found = self.role(role);
        assert_eq!(found.len(), 1, "{role:?}: {found:?}\n{}", self.log());
        found[0].handle().expect("it lives")
    }

    /// A guest's supervisor.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn supervisor(&self, name: &str) -> Handle {
        let pid = self.domain(name).supervisor_pid.unwrap_or_else(|| panic!("'{name}' has no supervisor"));
        Handle::open(pid).unwrap_or_else(|| panic!("the supervisor of '{name}', pid {pid}, does not live"))
    }

    /// A guest's QEMU.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn qemu(&self, name: &str) -> Handle {
        let supervisor = self.domain(name).supervisor_pid.unwrap_or_default();
        let found: Vec<Process> = self.role(Role::Qemu).into_iter().filter(|p| p.parent == supervisor).collect();
        assert_eq!(found.len(), 1, "the QEMU of '{name}', child of {supervisor}: {found:?}");
        found[0].handle().expect("it lives")
    }

    /// Ends the daemon politely and waits until its processes are gone; guests go on.
    pub fn stop_daemon(&self) {
        for process in self.processes() {
            if matches!(process.role, Role::Launcher | Role::Control | Role::Opener)
                && let Some(handle) = process.handle()
            {
                if process.role == Role::Launcher {
                    handle.signal(Signal::TERM);
                }
                assert!(handle.wait_for_end(LONG), "{process:?} does not end");
            }
        }
    }

    /// Ends every guest and the daemon, and says what is left then that should not be.
    fn end(&self) -> Vec<String> {
        let mut left = Vec::new();
        let processes = self.processes();
        if processes.iter().any(|p| matches!(p.role, Role::Launcher | Role::Control | Role::Supervisor | Role::Qemu)) {
            for name in self.bulkhead(&["list", "--name"]).stdout.lines() {
                let output = self.bulkhead(&["destroy", name]);
                // It may have ended by itself just now.
                if output.code != 0 && self.bulkhead(&["domstate", name]).stdout.trim() == "running" {
                    left.push(format!("'{name}' cannot be destroyed: {}", output.stderr));
                }
            }
            if !wait_for_no_entries(&self.guests_dir(), Duration::from_secs(20)) {
                left.push(format!("a guest's directory is left in {}", self.guests_dir().display()));
            }
            // A guest is gone for its clients a moment before its processes are.
            for process in processes.iter().filter(|p| matches!(p.role, Role::Supervisor | Role::Qemu)) {
                if process.handle().is_some_and(|handle| !handle.wait_for_end(Duration::from_secs(20))) {
                    left.push(format!("does not end: {process:?}"));
                }
            }
            self.stop_daemon();
        }
        left.extend(self.processes().iter().map(|process| format!("still there: {process:?}")));
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let root = self.root().to_string_lossy().into_owned();
        left.extend(mounts.lines().filter(|line| line.contains(&root)).map(|line| format!("still mounted: {line}")));
        for socket in [self.socket(), self.read_only_socket()] {
            if socket.exists() {
                left.push(format!("still there: {}", socket.display()));
            }
        }
        left
    }

    fn kill_all(&self) {
        for handle in self.processes().iter().filter_map(Process::handle) {
            handle.signal(Signal::KILL);
            let _ = handle.wait_for_end(Duration::from_secs(10));
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
            return self.kill_all();
        }
        let left = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.end()));
        self.kill_all();
        match left {
            Ok(left) => assert!(left.is_empty(), "{left:#?}\n{}", self.log()),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it does not end, or somebody keeps its output open behind it.
#[must_use]
pub fn run(command: Command) -> Output {
    let mut terminal = Terminal::on_pipes_without_input(command);
    let code = terminal.exit();
    Output { code, stdout: terminal.output.text(), stderr: terminal.messages.text() }
}

/// Where the programs are: two directories above a test's own executable, and built before it.
fn programs() -> PathBuf {
    let own = env::current_exe().expect("the test's own path");
    let dir = own.parent().and_then(Path::parent).expect("target/debug/deps").to_owned();
    for name in PROGRAMS {
        assert!(
            dir.join(name).exists(),
            "{name} is not in {}; `cargo build --workspace --bins` makes it",
            dir.display()
        );
    }
    dir
}

/// Whether any user can read a file.
fn reachable_file(path: &Path) -> bool {
    let readable = fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o004 != 0);
    readable && path.parent().is_some_and(reachable)
}

/// Whether any user can pass through to a path.
fn reachable(path: &Path) -> bool {
    path.ancestors().all(|dir| fs::metadata(dir).is_ok_and(|data| data.permissions().mode() & 0o001 != 0))
}
