//! A program whose standard streams are the connection: ssh, or the user's own.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::{
    fs::{MemfdFlags, SealFlags},
    io::Errno,
    net::{RecvFlags, SendFlags},
};
use thiserror::Error as ThisError;

/// What is kept of what the program says of itself.
const SAID: usize = 8 << 10;

/// Why there is no such program.
#[derive(Debug, ThisError)]
pub(crate) enum HelperError {
    #[error("no socket for its streams")]
    Socket(#[source] io::Error),
    #[error("no memory for its messages")]
    Messages(#[source] io::Error),
    #[error("{} cannot be run", path.display())]
    Spawn {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The program and the near end of its streams. It ends with this.
#[derive(Debug)]
pub(crate) struct Helper {
    socket: UnixStream,
    child: Child,
}

/// What the program has said on its error output so far.
#[derive(Debug)]
pub(crate) struct Said(File);

impl Helper {
    /// Runs `command`. Its error output goes to memory of a fixed size: it tells why a connection fails, and neither a
    /// terminal nor a full pipe is in its way.
    pub(crate) fn run(mut command: Command) -> Result<(Helper, Said), HelperError> {
        let (socket, far) = UnixStream::pair().map_err(HelperError::Socket)?;
        let far = OwnedFd::from(far);
        let said = messages().map_err(|errno| HelperError::Messages(errno.into()))?;
        command
            .stdin(far.try_clone().map_err(HelperError::Socket)?)
            .stdout(far)
            .stderr(Stdio::from(said.try_clone().map_err(HelperError::Messages)?));
        let child = command
            .spawn()
            .map_err(|source| HelperError::Spawn { path: Path::new(command.get_program()).to_path_buf(), source })?;
        Ok((Helper { socket, child }, Said(said)))
    }
}

fn messages() -> Result<File, Errno> {
    let file = rustix::fs::memfd_create("helper-messages", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, SAID as u64)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(File::from(file))
}

impl Said {
    /// Its lines, without what would play tricks on a terminal.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut bytes = vec![0; SAID];
        // Read at a place: the program writes at its own.
        let count = self.0.read_at(&mut bytes, 0).unwrap_or_default();
        bytes.truncate(count);
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.truncate(end);
        String::from_utf8_lossy(&bytes)
            .lines()
            .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
            .filter(|line| !line.trim().is_empty())
            .collect()
    }
}

impl Read for Helper {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT).map(|(_, count)| count)?)
    }
}

impl Write for Helper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Helper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Whatever of this fails, it fails because the program has ended, and no zombie is left.
        let _ = self.socket.shutdown(Shutdown::Both);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::{self, Deadline};
    use std::time::Duration;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn read(helper: &mut Helper, buffer: &mut [u8]) -> usize {
        assert!(wait::readable(helper.as_fd(), Deadline::after(Some(Duration::from_secs(20)))).unwrap());
        helper.read(buffer).unwrap()
    }

    #[test]
    fn bytes_pass_both_ways_and_the_end_is_an_end() {
        let (mut helper, _) = Helper::run(shell("head -c 4; echo bye")).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(helper.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        helper.write_all(b"ping").unwrap();
        let mut heard = Vec::new();
        while let count @ 1.. = read(&mut helper, &mut buffer) {
            heard.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(heard, b"pingbye\n");
    }

    #[test]
    fn what_a_program_says_is_kept_up_to_a_limit() {
        let (mut helper, said) = Helper::run(shell("printf 'no \\033[31mroute\\n\\n' >&2")).unwrap();
        assert_eq!(read(&mut helper, &mut [0; 16]), 0);
        assert_eq!(said.lines(), ["no [31mroute"]);
        let (mut helper, said) = Helper::run(shell("yes 0123456789abcde >&2; exit 0")).unwrap();
        assert_eq!(read(&mut helper, &mut [0; 16]), 0);
        assert_eq!(said.lines().len(), SAID / 16);
    }

    #[test]
    fn a_program_that_stays_is_ended() {
        let (helper, _) = Helper::run(shell("exec sleep 1000")).unwrap();
        let pid = rustix::process::Pid::from_child(&helper.child);
        drop(helper);
        assert_eq!(rustix::process::test_kill_process(pid), Err(Errno::SRCH));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Helper::run(Command::new("/nowhere/ssh")).unwrap_err();
        assert_eq!(error.to_string(), "/nowhere/ssh cannot be run");
    }
}
