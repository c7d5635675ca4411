//! Questions to the person at the terminal: who they are on another host.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
};

use libclient::Question;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

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
    answer(&terminal, &text, secret).ok().filter(|answer| !answer.is_empty())
}

fn answer(terminal: &File, text: &str, secret: bool) -> io::Result<String> {
    (&mut &*terminal).write_all(text.as_bytes())?;
    if !secret {
        return line(terminal);
    }
    let found = tcgetattr(terminal)?;
    let mut silent = found.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(terminal, OptionalActions::Flush, &silent)?;
    let answer = line(terminal);
    tcsetattr(terminal, OptionalActions::Flush, &found)?;
    answer
}

fn line(terminal: &File) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(io::Read::take(terminal, LONGEST)).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
