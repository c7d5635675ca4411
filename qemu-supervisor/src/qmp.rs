//! QMP, the language of QEMU's monitor: JSON objects, one a line.
//!
//! QEMU belongs to the guest, so nothing here believes it: lines have a limit, answers must match what was asked, and an
//! answer that does not come in time is not waited for. Commands are sent without waiting for the answers before them.

use std::{
    collections::VecDeque,
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Instant,
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use supervisor::poll::{Interest, Ready};
use thiserror::Error;

/// The longest line that QEMU may say.
pub const LINE_MAX: usize = 8 << 20;
/// How many commands may wait for their answers.
pub const OUTSTANDING_MAX: usize = 64;
/// How many bytes may wait for a QEMU that does not read.
const OUTPUT_MAX: usize = 64 << 10;
/// How much is read at once.
const CHUNK: usize = 8 << 10;
/// Why the monitor is lost when QEMU has closed it, which it does when it ends.
const CLOSED: &str = "QEMU closed it";
/// How many chunks are read before others get their turn.
const CHUNKS: usize = 64;
/// A buffer larger than this is given back when it has been used.
const KEEP: usize = 16 << 10;

/// A line is longer than [`LINE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a line is longer than {LINE_MAX} bytes")]
pub struct LineTooLong;

/// Takes a stream of bytes apart into lines.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Where the line that is arriving begins.
    start: usize,
    /// Up to here there is no end of a line.
    searched: usize,
}

impl Lines {
    /// Adds what has been read.
    ///
    /// # Errors
    /// When the line that is arriving is too long.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), LineTooLong> {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        if self.bytes.len() + bytes.len() > LINE_MAX {
            return Err(LineTooLong);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole line, without its end.
    pub fn next_line(&mut self) -> Option<&[u8]> {
        let unsearched = self.bytes.get(self.searched..).unwrap_or_default();
        let Some(length) = unsearched.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            if self.start == self.bytes.len() && self.bytes.capacity() > KEEP {
                *self = Lines::default();
            }
            return None;
        };
        let end = self.searched + length;
        let line = self.start..end;
        self.start = end + 1;
        self.searched = self.start;
        self.bytes.get(line)
    }
}

/// Whatever QEMU can say, before it is known what it is.
#[derive(Deserialize)]
struct Said {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Refusal>,
    id: Option<u64>,
    event: Option<String>,
    data: Option<Value>,
}

/// QEMU's words when it refuses a command.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Refusal {
    /// Its kind of refusal.
    #[serde(default)]
    pub class: String,
    /// Why.
    pub desc: String,
}

#[derive(Serialize)]
struct Command<'a> {
    execute: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<Value>,
    id: u64,
}

/// Why a command was not sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AskError {
    /// Too many wait already.
    #[error("too many commands wait for QEMU")]
    Busy,
    /// QEMU's monitor is gone.
    #[error("QEMU's monitor is lost: {0}")]
    Lost(String),
}

/// What QEMU has said.
#[derive(Debug, PartialEq)]
pub enum Heard<T> {
    /// The answer to a command: what it returns, or why QEMU refuses it.
    Answer {
        /// What the asker gave along.
        tag: T,
        /// The command.
        command: &'static str,
        /// The answer.
        result: Result<Value, Refusal>,
    },
    /// Something has happened.
    Event {
        /// The event's name.
        name: String,
        /// What belongs to it.
        data: Value,
    },
}

/// A command that waits for its answer.
#[derive(Debug)]
struct Waiting<T> {
    id: u64,
    command: &'static str,
    tag: T,
    deadline: Instant,
}

/// One monitor. Each command carries a `T`, which comes back with the answer.
#[derive(Debug)]
pub struct Qmp<T> {
    socket: Option<UnixStream>,
    lines: Lines,
    output: VecDeque<u8>,
    /// A descriptor that goes with the first byte of its command, and how many bytes are before that one.
    fd: Option<(usize, OwnedFd)>,
    waiting: VecDeque<Waiting<T>>,
    next_id: u64,
    greeted: bool,
    stuck: bool,
    lost: Option<String>,
}

impl<T> Qmp<T> {
    /// A monitor over the supervisor's end of its socket.
    #[must_use]
    pub fn new(socket: UnixStream) -> Qmp<T> {
        Qmp {
            socket: Some(socket),
            lines: Lines::default(),
            output: VecDeque::new(),
            fd: None,
            waiting: VecDeque::new(),
            next_id: 1,
            greeted: false,
            stuck: false,
            lost: None,
        }
    }

    /// What to wait for, if there is still something.
    #[must_use]
    pub fn source(&self) -> Option<(BorrowedFd<'_>, Interest)> {
        let socket = self.socket.as_ref()?;
        Some((socket.as_fd(), Interest { read: true, write: !self.output.is_empty() }))
    }

    /// Whether a command has missed its deadline and QEMU has said nothing since.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// What went wrong with the monitor, if something has.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// Whether the monitor is lost because of what QEMU said, and not because QEMU ends.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.lost.as_deref().is_some_and(|why| why != CLOSED)
    }

    /// When the next command's time is up.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.deadline).min()
    }

    /// Sends a command, whose answer must come before `deadline`.
    ///
    /// # Errors
    /// When the monitor is lost by what QEMU said, or too much waits already; the tag is gone then.
    pub fn ask(
        &mut self,
        command: &'static str,
        arguments: Option<Value>,
        tag: T,
        deadline: Instant,
    ) -> Result<(), AskError> {
        self.send(command, command, arguments, None, tag, deadline)
    }

    /// The same with a descriptor. Only one may be on its way: QEMU keeps only the newest until a command takes it.
    ///
    /// # Errors
    /// As [`Qmp::ask`], and while another descriptor waits to be sent.
    pub fn ask_with(
        &mut self,
        command: &'static str,
        arguments: Value,
        fd: OwnedFd,
        tag: T,
        deadline: Instant,
    ) -> Result<(), AskError> {
        if self.fd.is_some() {
            return Err(AskError::Busy);
        }
        self.send(command, command, Some(arguments), Some(fd), tag, deadline)
    }

    /// Sends a command that is not ours; it is called `label` afterwards.
    ///
    /// # Errors
    /// As [`Qmp::ask`].
    pub fn ask_any(
        &mut self,
        label: &'static str,
        command: &str,
        arguments: Option<Value>,
        tag: T,
        deadline: Instant,
    ) -> Result<(), AskError> {
        self.send(label, command, arguments, None, tag, deadline)
    }

    fn send(
        &mut self,
        label: &'static str,
        command: &str,
        arguments: Option<Value>,
        fd: Option<OwnedFd>,
        tag: T,
        deadline: Instant,
    ) -> Result<(), AskError> {
        if let Some(why) = self.lost.as_ref().filter(|_| self.is_broken()) {
            return Err(AskError::Lost(why.clone()));
        }
        if self.waiting.len() >= OUTSTANDING_MAX || self.output.len() >= OUTPUT_MAX {
            return Err(AskError::Busy);
        }
        if self.lost.is_some() {
            // A QEMU that ends closes its monitor first. Its end answers this command as it answers those before it.
            let id = self.next_id;
            self.waiting.push_back(Waiting { id, command: label, tag, deadline });
            return Ok(());
        }
        let id = self.next_id;
        let line = serde_json::to_vec(&Command { execute: command, arguments, id })
            .map_err(|error| AskError::Lost(error.to_string()))?;
        self.next_id += 1;
        self.fd = fd.map(|fd| (self.output.len(), fd)).or(self.fd.take());
        self.output.extend(line);
        self.output.push_back(b'\n');
        self.waiting.push_back(Waiting { id, command: label, tag, deadline });
        self.flush();
        Ok(())
    }

    /// Takes the commands whose time is up.
    pub fn expire(&mut self, now: Instant) -> Vec<(T, &'static str)> {
        let mut expired = Vec::new();
        for _ in 0..self.waiting.len() {
            match self.waiting.pop_front() {
                Some(late) if late.deadline <= now => expired.push((late.tag, late.command)),
                Some(waiting) => self.waiting.push_back(waiting),
                None => {}
            }
        }
        self.stuck |= !expired.is_empty();
        expired
    }

    /// Takes every command that waits: nothing will be answered any more.
    pub fn abandon(&mut self) -> Vec<(T, &'static str)> {
        self.waiting.drain(..).map(|waiting| (waiting.tag, waiting.command)).collect()
    }

    /// Does what the socket has become ready for; what QEMU said is appended to `heard`.
    pub fn ready(&mut self, ready: Ready, heard: &mut Vec<Heard<T>>) {
        if ready.write {
            self.flush();
        }
        if ready.read {
            self.read(heard);
        }
    }

    /// Reads what QEMU has said.
    pub fn read(&mut self, heard: &mut Vec<Heard<T>>) {
        let mut chunk = [0; CHUNK];
        for _ in 0..CHUNKS {
            let Some(socket) = &self.socket else { return };
            match rustix::net::recv(socket, &mut chunk[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(Errno::CONNRESET) => return self.lose(CLOSED.to_owned()),
                Ok((_, count)) => {
                    let bytes = chunk.get(..count).unwrap_or_default();
                    if let Err(why) = self.take(bytes, heard) {
                        return self.lose(why);
                    }
                    if count < CHUNK {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(error) => return self.lose(error.to_string()),
            }
        }
    }

    fn take(&mut self, bytes: &[u8], heard: &mut Vec<Heard<T>>) -> Result<(), String> {
        self.lines.push(bytes).map_err(|error| error.to_string())?;
        while let Some(line) = self.lines.next_line() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let said: Said = serde_json::from_slice(line).map_err(|error| format!("not QMP: {error}"))?;
            self.stuck = false;
            if !self.greeted {
                self.greeted = said.greeting.is_some();
                if !self.greeted {
                    return Err("it does not begin with a greeting".to_owned());
                }
            } else if let Some(name) = said.event {
                heard.push(Heard::Event { name, data: said.data.unwrap_or_default() });
            } else {
                let result = match (said.answer, said.error) {
                    (Some(answer), None) => Ok(answer),
                    (None, Some(refusal)) => Err(refusal),
                    _ => return Err("a line is neither an answer nor an event".to_owned()),
                };
                let at = self.waiting.iter().position(|waiting| Some(waiting.id) == said.id);
                // An answer that nobody waits for came too late.
                if let Some(Waiting { command, tag, .. }) = at.and_then(|at| self.waiting.remove(at)) {
                    heard.push(Heard::Answer { tag, command, result });
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        let Some(socket) = &self.socket else { return };
        while !self.output.is_empty() {
            let bytes = self.output.as_slices().0;
            let sent = match &self.fd {
                Some((0, fd)) => send_with(socket, bytes, fd.as_fd()),
                Some((before, _)) => {
                    let bytes = bytes.get(..*before).unwrap_or(bytes);
                    rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
                }
                None => rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            };
            match sent {
                Ok(count) => {
                    self.output.drain(..count);
                    self.fd = self.fd.take().filter(|(before, _)| *before > 0).map(|(before, fd)| {
                        let left = before.saturating_sub(count);
                        (left, fd)
                    });
                }
                Err(Errno::INTR) => {}
                // Why it can't be written to, reading tells: QEMU may have said something before.
                Err(_) => return,
            }
        }
    }

    fn lose(&mut self, why: String) {
        self.socket = None;
        self.output = VecDeque::new();
        self.fd = None;
        self.lines = Lines::default();
        self.lost = Some(why);
    }
}

/// Sends bytes, and a descriptor with the first of them.
fn send_with(socket: &UnixStream, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<usize, Errno> {
    let fds = [fd];
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::{
        io::{BufRead, BufReader, Write},
        time::Duration,
    };

    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n";

    fn qmp() -> (Qmp<u32>, UnixStream) {
        let (ours, qemu) = UnixStream::pair().unwrap();
        (Qmp::new(ours), qemu)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn say(qmp: &mut Qmp<u32>, qemu: &mut UnixStream, text: &str) -> Vec<Heard<u32>> {
        let mut heard = Vec::new();
        for chunk in text.as_bytes().chunks(64 << 10) {
            qemu.write_all(chunk).unwrap();
            qmp.read(&mut heard);
        }
        heard
    }

    #[test]
    fn commands_go_out_at_once_and_answers_find_their_askers() {
        let (mut qmp, mut qemu) = qmp();
        qmp.ask("qmp_capabilities", None, 10, later()).unwrap();
        qmp.ask("qom-list-types", Some(json!({"implements": "device"})), 11, later()).unwrap();
        let mut reader = BufReader::new(qemu.try_clone().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n");
        line.clear();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, "{\"execute\":\"qom-list-types\",\"arguments\":{\"implements\":\"device\"},\"id\":2}\n");

        let said = format!(
            "{GREETING}{{\"error\": {{\"class\": \"X\", \"desc\": \"no\"}}, \"id\": 2}}\r\n\
             {{\"event\": \"STOP\", \"timestamp\": {{}}}}\r\n{{\"return\": {{}}, \"id\": 1}}\r\n"
        );
        let heard = say(&mut qmp, &mut qemu, &said);
        assert_eq!(
            heard,
            [
                Heard::Answer {
                    tag: 11,
                    command: "qom-list-types",
                    result: Err(Refusal { class: "X".into(), desc: "no".into() })
                },
                Heard::Event { name: "STOP".into(), data: Value::Null },
                Heard::Answer { tag: 10, command: "qmp_capabilities", result: Ok(json!({})) },
            ]
        );
    }

    #[test]
    fn lines_may_come_in_any_pieces() {
        let (mut qmp, mut qemu) = qmp();
        qmp.ask("stop", None, 1, later()).unwrap();
        let said = format!("{GREETING}\r\n{{\"return\": {{}}, \"id\": 1}}\r\n");
        let mut heard = Vec::new();
        for byte in said.bytes() {
            qemu.write_all(&[byte]).unwrap();
            qmp.read(&mut heard);
        }
        assert_eq!(heard.len(), 1);
        assert!(qmp.lost().is_none());
    }

    #[test]
    fn garbage_ends_the_monitor_with_a_reason() {
        for garbage in [
            "SeaBIOS\r\n",
            "{}\r\n",
            "{\"event\": \"STOP\"}\r\n",
            "\u{0}\r\n",
            "[1,2]\r\n",
            "{\"QMP\": {}}\n{\"QMP\": {}}\n",
            "{\"QMP\": {}}\n{\"return\": {}, \"error\": {\"desc\": \"\"}, \"id\": 1}\n",
            "{\"QMP\": {}}\n{\"return\": {}, \"id\": -1}\n",
        ] {
            let (mut qmp, mut qemu) = qmp();
            say(&mut qmp, &mut qemu, garbage);
            assert!(qmp.lost().is_some(), "{garbage:?}");
            assert!(matches!(qmp.ask("stop", None, 1, later()), Err(AskError::Lost(_))));
            assert!(qmp.source().is_none());
        }
        let deep = format!("{GREETING}{{\"event\": \"X\", \"data\": {}", "[".repeat(100_000));
        let (mut qmp, mut qemu) = qmp();
        say(&mut qmp, &mut qemu, &(deep + "\n"));
        assert!(qmp.lost().is_some());
    }

    #[test]
    fn a_line_without_end_is_cut_off_at_the_limit() {
        let (mut qmp, mut qemu) = qmp();
        let megabyte = "x".repeat(1 << 20);
        for _ in 0..7 {
            say(&mut qmp, &mut qemu, &megabyte);
        }
        assert!(qmp.lost().is_none());
        say(&mut qmp, &mut qemu, &megabyte[..(1 << 20) - CHUNK]);
        assert!(qmp.lost().is_none());
        // The socket is closed on the way, so the rest is not all taken.
        let _ = qemu.write_all(&megabyte.as_bytes()[..2 * CHUNK]);
        qmp.read(&mut Vec::new());
        assert_eq!(qmp.lost(), Some(LineTooLong.to_string().as_str()));
    }

    #[test]
    fn a_large_answer_is_taken_and_its_memory_given_back() {
        let (mut qmp, mut qemu) = qmp();
        qmp.ask("query-machines", None, 1, later()).unwrap();
        let answer = format!("{GREETING}{{\"return\": \"{}\", \"id\": 1}}\r\n", "y".repeat(4 << 20));
        assert_eq!(say(&mut qmp, &mut qemu, &answer).len(), 1);
        assert!(qmp.lines.bytes.capacity() <= KEEP);
    }

    #[test]
    fn a_late_answer_is_ignored_and_shows_that_qemu_lives() {
        let (mut qmp, mut qemu) = qmp();
        say(&mut qmp, &mut qemu, GREETING);
        let now = Instant::now();
        qmp.ask("stop", None, 1, now).unwrap();
        qmp.ask("cont", None, 2, later()).unwrap();
        assert_eq!(qmp.next_deadline(), Some(now));
        assert_eq!(qmp.expire(now), [(1, "stop")]);
        assert!(qmp.is_stuck());
        assert_eq!(say(&mut qmp, &mut qemu, "{\"return\": {}, \"id\": 1}\r\n"), []);
        assert!(!qmp.is_stuck());
        assert_eq!(say(&mut qmp, &mut qemu, "{\"return\": {}, \"id\": 2}\r\n").len(), 1);
        assert!(qmp.lost().is_none());
    }

    #[test]
    fn what_waits_is_limited() {
        let (mut qmp, _qemu) = qmp();
        for tag in 0..64 {
            qmp.ask("query-status", None, tag, later()).unwrap();
        }
        assert_eq!(qmp.ask("query-status", None, 64, later()), Err(AskError::Busy));
        assert_eq!(qmp.abandon().len(), OUTSTANDING_MAX);
        // A QEMU that never reads: its socket fills, then our own buffer, then it is busy for good.
        let mut sent = 0u32;
        while qmp.ask("query-status", None, sent, Instant::now()).is_ok() {
            qmp.expire(Instant::now() + Duration::from_secs(1));
            sent += 1;
            assert!(sent < 1_000_000, "never busy");
        }
        assert!(qmp.output.len() < OUTPUT_MAX + 100);
    }

    #[test]
    fn the_end_of_qemu_leaves_commands_to_their_owner() {
        let (mut qmp, qemu) = qmp();
        qmp.ask("stop", None, 1, later()).unwrap();
        drop(qemu);
        qmp.read(&mut Vec::new());
        assert_eq!((qmp.lost(), qmp.is_broken()), (Some(CLOSED), false));
        qmp.ask("cont", None, 2, later()).unwrap();
        assert_eq!(qmp.abandon(), [(1, "stop"), (2, "cont")]);
    }
}
