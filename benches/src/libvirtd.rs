//! Debian's libvirtd, started beside us for a comparison: in a mount namespace of its own, so that nothing of it touches
//! what the host has under libvirt's names, with its sockets in a directory that this program sees too.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// No host services, no accounts, no cgroups: what is compared is the daemon's own work.
const QEMU_CONF: &str = "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nsecurity_driver = \"none\"\n\
    cgroup_controllers = []\nnamespaces = []\nstdio_handler = \"file\"\n";

/// The directories get a private, empty file system each; then the daemon takes the shell's place.
const SCRIPT: &str = "set -e; mount --make-rprivate /
    for d in /run/libvirt /var/lib/libvirt /etc/libvirt /var/cache/libvirt /var/log/libvirt; do
        mkdir -p $d; mount -t tmpfs tmpfs $d; done
    mkdir -p /etc/libvirt/qemu; cp \"$CONF/libvirtd.conf\" \"$CONF/qemu.conf\" /etc/libvirt/
    [ -z \"$DEFINITIONS\" ] || cp \"$DEFINITIONS\"/*.xml /etc/libvirt/qemu/
    exec libvirtd --config /etc/libvirt/libvirtd.conf --pid-file \"$CONF/libvirtd.pid\" 2>\"$CONF/log\"";

/// A libvirtd that ends with this value.
pub struct Libvirtd {
    child: Child,
    socket: PathBuf,
}

impl Libvirtd {
    /// Starts one; `definitions`: a directory of domains that it shall know. `None` when there is no libvirtd, or no root.
    pub fn start(dir: &Path, definitions: Option<&Path>) -> Option<Libvirtd> {
        let found = Command::new("libvirtd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() || !rustix::process::geteuid().is_root() {
            return None;
        }
        fs::create_dir_all(dir).unwrap();
        let socket = dir.join("libvirt-sock");
        let conf = format!(
            "unix_sock_dir = \"{}\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\nmax_clients = 100\n\
             admin_min_workers = 1\n",
            dir.display()
        );
        fs::write(dir.join("libvirtd.conf"), conf).unwrap();
        fs::write(dir.join("qemu.conf"), QEMU_CONF).unwrap();
        let child = Command::new("unshare")
            .args(["-m", "sh", "-c", SCRIPT])
            .env("CONF", dir)
            .env("DEFINITIONS", definitions.unwrap_or(Path::new("")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Libvirtd { child, socket };
        daemon.wait();
        Some(daemon)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while std::os::unix::net::UnixStream::connect(&self.socket).is_err() {
            assert!(Instant::now() < until, "libvirtd does not come up");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Our gateway in the foreground; it ends with this value.
pub struct Gateway {
    child: Child,
}

impl Gateway {
    /// Starts one for this bench's root, and returns when its sockets listen.
    pub fn start() -> Gateway {
        let program = std::env::current_exe().unwrap().with_file_name("gateway");
        let mut child =
            Command::new(program).args(["--session", "--announce"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Gateway { child }
    }

    /// Where it listens.
    pub fn socket(root: &Path) -> PathBuf {
        root.join(format!("user-{}/run/libvirt/libvirt-sock", rustix::process::getuid().as_raw()))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Ok(pidfd) = sandbox::pidfd::open(i32::try_from(self.child.id()).unwrap_or_default()) {
            let _ = sandbox::pidfd::send_signal(&pidfd, sandbox::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
