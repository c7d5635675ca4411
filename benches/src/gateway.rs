//! Our gateway, for the rows of libvirt's protocol.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Our gateway in the foreground; it ends with this value.
pub struct Gateway {
    child: Child,
}

impl Gateway {
    /// Starts one for this bench's root, and returns when its sockets listen.
    pub fn start() -> Gateway {
        let program = std::env::current_exe().unwrap().with_file_name("gateway");
        let mut child = Command::new(program).args(["--session", "--announce"]).stdout(Stdio::piped()).spawn().unwrap();
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
