//! The far end of `driver+ssh://` URIs: carries bytes between its standard streams and this host's gateway.
//!
//!     bulkhead-ssh-helper [--probe] [-r] URI
//!
//! With `-r` it takes a socket for reading only, whatever the other end says of itself: an authorized key with this command
//! is one for readers. With `--probe` it says by its status whether there is a socket to take, and carries nothing.
//!
//! It is started by ssh as the user who logged in and has that user's rights. It reads none of the bytes.
#![forbid(unsafe_code)]

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    net::Shutdown,
    os::unix::{net::UnixStream, process::CommandExt},
    process::{Command, ExitCode},
    thread,
};

fn main() -> ExitCode {
    const USAGE: &str = "usage: bulkhead-ssh-helper [--probe] [-r] URI";
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    // What is no text is no URI either.
    let Some(words) = arguments.iter().map(|word| word.to_str()).collect::<Option<Vec<&str>>>() else {
        return complain(USAGE);
    };
    let (probe, words) = match words.as_slice() {
        ["--probe", words @ ..] => (true, words),
        words => (false, words),
    };
    let (uri, read_only) = match words {
        ["-r", uri] => (*uri, true),
        [uri] if !uri.starts_with('-') => (*uri, false),
        _ => return complain(USAGE),
    };
    match libclient::local_socket(uri, read_only) {
        Ok(_) if probe => ExitCode::SUCCESS,
        Ok(socket) => carry(socket).map_or_else(|error| complain(&error.to_string()), |()| ExitCode::SUCCESS),
        Err(error) => {
            // libvirt's own helper may start a daemon where none runs. Not for a reader: in a session it gives him the
            // socket that takes changes. It returns only if it is not there.
            if !probe && !read_only {
                let _not_there = Command::new("virt-ssh-helper").args(&arguments).exec();
            }
            complain(&error.full_text())
        }
    }
}

/// Both ways at once, until the daemon hangs up; what it sends last still arrives.
fn carry(socket: UnixStream) -> io::Result<()> {
    let mut from = socket.try_clone()?;
    // Not joined: it may wait for an input that never ends, and ends with the process.
    thread::spawn(move || {
        let mut to = &socket;
        let _ = io::copy(&mut io::stdin().lock(), &mut to);
        let _ = socket.shutdown(Shutdown::Write);
    });
    let mut out = io::stdout().lock();
    io::copy(&mut from, &mut Unbuffered(&mut out))?;
    Ok(())
}

/// Nobody waits for a line to be full.
struct Unbuffered<'a, W: Write>(&'a mut W);

impl<W: Write> Write for Unbuffered<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.0.flush()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn complain(text: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "bulkhead-ssh-helper: {text}");
    ExitCode::FAILURE
}
