//! Debian's libvirtd in namespaces of its own, as the other side of our client.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::getuid;
use tempfile::TempDir;

use crate::{
    client::{Client, clients_dir, is_libvirt_9_0_0},
    process::Handle,
    wait::{LONG, skip, wait_for_file, wait_until},
};

/// The word by which the script makes a realm, too.
const KERBEROS: &str = "kerberos";

/// A running libvirtd that nobody else sees: its own mounts, network and processes, all gone at its end.
#[derive(Debug)]
pub struct Libvirtd {
    /// `unshare`, which waits outside.
    child: Child,
    /// The first process inside; when it has ended, all others in there have.
    inside: Handle,
    root: TempDir,
    /// A realm of Kerberos is in there, too.
    kerberos: bool,
}

impl Libvirtd {
    /// Starts one and waits until it serves; `None`, and the test is marked as skipped, when that cannot be.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(test: &str) -> Option<Libvirtd> {
        Libvirtd::knowing(test, |_| {})
    }

    /// Starts one that lets in who has a ticket of a realm of its own, by its socket and by TCP at its `localhost`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn of_a_realm(test: &str) -> Option<Libvirtd> {
        if Client::Kerberos.is_here(test) { Libvirtd::begin(test, |_| {}, Some(KERBEROS)) } else { None }
    }

    /// Starts one that asks polkit about whoever is not root, as Debian's configuration has it.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn with_polkit(test: &str) -> Option<Libvirtd> {
        Libvirtd::begin(test, |_| {}, Some("polkit"))
    }

    /// Starts one that lets in by TLS, at its `localhost`, who has a certificate of the authority in `pki`: the files
    /// `cacert.pem`, `servercert.pem` and `serverkey.pem`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn with_certificates(test: &str, pki: &[(&str, &str)]) -> Option<Libvirtd> {
        let write = |definitions: &Path| {
            let dir = definitions.with_file_name("pki");
            fs::create_dir(&dir).expect("a directory");
            for (name, text) in pki {
                fs::write(dir.join(name), text).expect("a file");
            }
        };
        Libvirtd::begin(test, write, Some("tls"))
    }

    /// Starts one that knows the domains whose documents `define` puts into a directory.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn knowing(test: &str, define: impl FnOnce(&Path)) -> Option<Libvirtd> {
        Libvirtd::begin(test, define, None)
    }

    fn begin(test: &str, define: impl FnOnce(&Path), with: Option<&str>) -> Option<Libvirtd> {
        if !Client::Libvirtd.is_here(test) || !is_libvirt_9_0_0("/usr/sbin/libvirtd", test) {
            return None;
        }
        if !getuid().is_root() {
            skip(test, "libvirtd needs root");
            return None;
        }
        let root = tempfile::Builder::new().prefix("bhl-").tempdir_in("/tmp").expect("a directory in /tmp");
        let definitions = root.path().join("definitions");
        fs::create_dir(&definitions).expect("a directory");
        define(&definitions);
        let mut command = Command::new("/usr/bin/unshare");
        command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "/bin/sh"]);
        command.arg(clients_dir().join("libvirtd.sh")).arg(root.path()).args(with);
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", root.path()).current_dir("/");
        let log = fs::File::create(root.path().join("output")).expect("a file");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("another descriptor")).stderr(log);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let socket = root.path().join("libvirt-sock");
        let up = wait_for_file(&socket, LONG) && wait_until(LONG, || UnixStream::connect(&socket).is_ok());
        let said = || fs::read_to_string(root.path().join("output")).unwrap_or_default();
        let Some(inside) = first_child(child.id()).filter(|_| up) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("libvirtd does not come up: {}", said());
        };
        Some(Libvirtd { child, inside, root, kerberos: with == Some(KERBEROS) })
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.path().join("libvirt-sock")
    }

    /// A program in its network, and in its realm if it is of one, as the user ann with her ticket.
    #[must_use]
    pub fn beside(&self, program: &Path) -> Command {
        let mut command = Command::new("/usr/bin/nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.inside.pid)).arg("--").arg(program).stdin(Stdio::null());
        if self.kerberos {
            let dir = self.root.path().join("kerberos");
            command.env("KRB5_CONFIG", dir.join("krb5.conf"));
            command.env("KRB5CCNAME", format!("FILE:{}", dir.join("ticket").display()));
        }
        command
    }

    /// Its guests.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket().display())
    }

    /// Its mock hypervisor.
    #[must_use]
    pub fn test_uri(&self) -> String {
        format!("test+unix:///default?socket={}", self.socket().display())
    }
}

/// The child of a process that has one.
fn first_child(pid: u32) -> Option<Handle> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    Handle::open(children.split_whitespace().next()?.parse().ok()?)
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        // The kernel ends everything in there with the first process, which goes with unshare.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let ended = self.inside.wait_for_end(Duration::from_secs(20));
        assert!(ended || std::thread::panicking(), "libvirtd and its guests do not end");
    }
}
