//! Questions to the person at the terminal: who they are on another host.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
};

use libclient::Question;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    termios::{LocalModes, OptionalActions},
};

use crate::terminal::{Asked, Mode};

/// The longest answer that is read.
const LONGEST: u64 = 4096;

/// Asks at the controlling terminal, whatever the standard streams are. Nothing when there is no terminal, or no answer.
pub(crate) fn ask(question: Question<'_>) -> Option<String> {
    let (text, secret) = match question {
        Question::Name { host } => (format!("Name on {host}: "), false),
        Question::Password { host, name } => (format!("Password of {name} on {host}: "), true),
        _ => return None,
    };
    let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
    let answer = if secret { hidden(&terminal, &text) } else { shown(&terminal, &text) };
    answer.ok().filter(|answer| !answer.is_empty())
}

fn shown(terminal: &File, text: &str) -> io::Result<String> {
    print(terminal, text)?;
    line(terminal)
}

/// Without echo. A signal that ends the program, ^C for one, ends it here, after the terminal is as it was.
fn hidden(terminal: &File, text: &str) -> io::Result<String> {
    // What was typed before the question is no answer to it.
    let mode = Mode::take(terminal, OptionalActions::Flush, |mode| {
        mode.local_modes.remove(LocalModes::ECHO);
        mode.local_modes.insert(LocalModes::ECHONL);
    })?;
    print(terminal, text)?;
    loop {
        let mut fds = [PollFd::new(terminal, PollFlags::IN), PollFd::from_borrowed_fd(mode.signals(), PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let [typed, signals] = fds.map(|fd| !fd.revents().is_empty());
        if signals {
            match mode.asked()? {
                Asked::Nothing => {}
                Asked::GoOn => print(terminal, text)?,
                Asked::End(number) => {
                    drop(mode);
                    print(terminal, "\n")?;
                    signal_hook::low_level::emulate_default_handler(number)?;
                    return Err(io::ErrorKind::Interrupted.into());
                }
            }
        } else if typed {
            return line(terminal);
        }
    }
}

fn print(mut terminal: &File, text: &str) -> io::Result<()> {
    terminal.write_all(text.as_bytes())
}

fn line(terminal: &File) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(io::Read::take(terminal, LONGEST)).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
