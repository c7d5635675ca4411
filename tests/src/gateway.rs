//! The gateway of an instance: libvirt's sockets, and who serves them.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    collect::Collected,
    instance::Instance,
    process::{Handle, Process, Role, Signal, processes_of},
    wait::LONG,
};

/// What the program says on its standard output when clients can connect.
const READY: &[u8] = b"ready\n";

/// A running gateway in the foreground. Its end ends all of its processes, and fails the test when something is left.
///
/// It must be dropped before its instance.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    root: PathBuf,
    socket_dir: PathBuf,
    log: PathBuf,
    /// `session` or `system`.
    mode: &'static str,
}

impl Gateway {
    /// Starts the gateway of an instance and waits until clients can connect. That of a host does not start qemud: the
    /// host's own does, and here the command line.
    #[must_use]
    pub fn start(instance: &Instance) -> Gateway {
        Gateway::start_with(instance, "")
    }

    /// The same with lines in its `gateway.conf`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_with(instance: &Instance, configuration: &str) -> Gateway {
        let mode = if instance.uri() == "qemu:///system" { "system" } else { "session" };
        if mode == "system" {
            instance.ok(&["list"]);
        }
        if !configuration.is_empty() {
            fs::write(instance.config_dir().join("gateway.conf"), configuration).expect("the configuration");
        }
        let log = instance.root().join("gateway.log");
        let mut command = Command::new(instance.program("gateway"));
        command.arg(format!("--{mode}")).arg("--root").arg(instance.root()).arg("--announce");
        instance.prepare(&mut command, instance.uid());
        // Workers and the acceptor have no argument and no variable that names the root; this file does.
        command.stdout(Stdio::piped()).stderr(File::create(&log).expect("the gateway's log"));
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = Collected::from(child.stdout.take().expect("a pipe"));
        let place = if mode == "system" { instance.root().join("run") } else { instance.runtime_dir() };
        let root = instance.root().to_owned();
        let gateway = Gateway { child, root, socket_dir: place.join("libvirt"), log, mode };
        let ready = output.wait(LONG, |bytes| bytes.ends_with(READY).then_some(()));
        assert!(ready.is_some(), "the gateway does not come up: {}", gateway.log());
        gateway
    }

    // --- Places ---

    /// Where its sockets are.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// `libvirt-sock`.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.socket_dir.join("libvirt-sock")
    }

    /// `libvirt-sock-ro`.
    #[must_use]
    pub fn read_only_socket(&self) -> PathBuf {
        self.socket_dir.join("libvirt-sock-ro")
    }

    /// The instance's guests, by way of the gateway.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("qemu+unix:///{}?socket={}", self.mode, self.socket().display())
    }

    /// The same through the socket for those who only read.
    #[must_use]
    pub fn read_only_uri(&self) -> String {
        format!("qemu+unix:///{}?socket={}", self.mode, self.read_only_socket().display())
    }

    /// The mock hypervisor, by way of the gateway.
    #[must_use]
    pub fn test_uri(&self) -> String {
        format!("test+unix:///default?socket={}", self.socket().display())
    }

    /// The same through the socket for those who only read.
    #[must_use]
    pub fn read_only_test_uri(&self) -> String {
        format!("test+unix:///default?socket={}", self.read_only_socket().display())
    }

    /// What it has said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    // --- Processes ---

    /// Its living processes.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let roles = [Role::Gateway, Role::Acceptor, Role::Worker, Role::MockHost];
        let ours = |process: &Process| roles.contains(&process.role);
        processes_of(&self.root).into_iter().filter(ours).collect()
    }

    /// The processes that serve clients, or wait for some.
    #[must_use]
    pub fn workers(&self) -> Vec<Handle> {
        let workers = self.processes().into_iter().filter(|process| process.role == Role::Worker);
        workers.filter_map(|process| process.handle()).collect()
    }

    /// Ends it as an administrator does, and waits until all of its processes are gone.
    ///
    /// # Panics
    /// When something is left.
    pub fn end(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        let processes = self.processes();
        let Some(launcher) = Handle::open(self.child.id()) else { return };
        launcher.signal(Signal::TERM);
        let ended = launcher.wait_for_end(Duration::from_secs(20));
        assert!(ended, "the gateway does not end: {}", self.log());
        // A killed one has said so already.
        let status = self.child.wait().expect("its status");
        assert!(status.success(), "the gateway ended with {status}: {}", self.log());
        for process in processes {
            let over = process.handle().is_none_or(|handle| handle.wait_for_end(Duration::from_secs(20)));
            assert!(over, "does not end: {process:?}\n{}", self.log());
        }
        let left: Vec<_> = fs::read_dir(&self.socket_dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "left by the gateway: {left:?}");
    }

    fn kill_all(&mut self) {
        for handle in self.processes().iter().filter_map(Process::handle) {
            handle.signal(Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_some()) && self.processes().is_empty() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("the gateway's log:\n{}", self.log());
            return self.kill_all();
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.finish()));
        if let Err(panic) = result {
            self.kill_all();
            std::panic::resume_unwind(panic);
        }
    }
}
