//! What QEMU says on its standard error: its last words for messages, and lines for the guest's log.

use std::{
    collections::VecDeque,
    io::Write,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{fs::OFlags, io::Errno};

/// How much of the end is kept.
const TAIL: usize = 2 << 10;
/// How much of QEMU's words goes into the log of one run: a guest can make QEMU complain without end.
const LOG_MAX: usize = 1 << 20;
/// The longest line in the log; a longer one is broken.
const LINE_MAX: usize = 1 << 10;
/// How often a pipe is read when QEMU has ended: it holds less than this many chunks.
const CHUNKS: usize = 64;
const CHUNK: usize = 4 << 10;

/// QEMU's standard error. See the module's page.
#[derive(Debug)]
pub struct Words {
    pipe: Option<OwnedFd>,
    tail: VecDeque<u8>,
    line: Vec<u8>,
    logged: usize,
}

impl Words {
    /// Words that come by `pipe`.
    ///
    /// # Errors
    /// When the pipe can't be made non-blocking.
    pub fn new(pipe: OwnedFd) -> Result<Words, Errno> {
        rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
        Ok(Words { pipe: Some(pipe), tail: VecDeque::new(), line: Vec::new(), logged: 0 })
    }

    /// The pipe to wait for, while it is open.
    #[must_use]
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads once; false when there was nothing more.
    pub fn read(&mut self, log: &mut impl Write) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        let mut chunk = [0; CHUNK];
        match rustix::io::read(pipe, &mut chunk[..]) {
            Ok(0) => self.pipe = None,
            Ok(count) => {
                self.hear(chunk.get(..count).unwrap_or_default(), log);
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.pipe = None,
        }
        false
    }

    /// Reads what is left when QEMU has ended.
    pub fn finish(&mut self, log: &mut impl Write) {
        for _ in 0..CHUNKS {
            if !self.read(log) {
                break;
            }
        }
        self.end_line(log);
        self.pipe = None;
    }

    /// The end of what QEMU said: whole lines where there are some.
    #[must_use]
    pub fn last(&self) -> String {
        let bytes: Vec<u8> = self.tail.iter().copied().collect();
        let cut = self.tail.len() == TAIL;
        let text = String::from_utf8_lossy(&bytes);
        let text = match text.split_once('\n') {
            Some((_, rest)) if cut && !rest.trim().is_empty() => rest,
            _ => &text,
        };
        text.trim().chars().filter(|c| *c == '\n' || !c.is_control()).collect()
    }

    fn hear(&mut self, bytes: &[u8], log: &mut impl Write) {
        let excess = (self.tail.len() + bytes.len()).saturating_sub(TAIL);
        self.tail.drain(..excess.min(self.tail.len()));
        self.tail.extend(bytes.get(bytes.len().saturating_sub(TAIL)..).unwrap_or_default());
        for byte in bytes {
            if *byte == b'\n' || self.line.len() >= LINE_MAX {
                self.end_line(log);
            }
            if *byte != b'\n' && self.logged < LOG_MAX {
                self.line.push(*byte);
            }
        }
    }

    /// A log that can't be written to costs the line and nothing else.
    fn end_line(&mut self, log: &mut impl Write) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() || self.logged >= LOG_MAX {
            return;
        }
        self.logged += line.len();
        let text = String::from_utf8_lossy(&line);
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        let _ = log.write_all(format!("qemu: {text}\n").as_bytes());
        if self.logged >= LOG_MAX {
            let _ = log.write_all(b"qemu: (says too much; the rest is not kept)\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> (Words, OwnedFd) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        (Words::new(read).unwrap(), write)
    }

    #[test]
    fn lines_are_logged_and_the_end_is_kept() {
        let (mut words, pipe) = words();
        let mut log = Vec::new();
        rustix::io::write(&pipe, b"qemu-system: warning: a\nqemu-system: \x1b[31mcannot").unwrap();
        words.read(&mut log);
        assert_eq!(log, b"qemu: qemu-system: warning: a\n");
        words.finish(&mut log);
        assert!(log.ends_with(b"qemu: qemu-system: [31mcannot\n"));
        assert_eq!(words.last(), "qemu-system: warning: a\nqemu-system: [31mcannot");
        assert!(words.source().is_none());
    }

    #[test]
    fn a_flood_is_cut_off_in_the_log_and_in_memory() {
        let (mut words, _pipe) = words();
        let mut log = Vec::new();
        for _ in 0..3 * LOG_MAX / 100 {
            words.hear(&[b"x".repeat(99), b"\n".to_vec()].concat(), &mut log);
        }
        words.hear(b"the end\n", &mut log);
        assert!(log.len() < LOG_MAX + LOG_MAX / 10);
        assert!(log.ends_with(b"not kept)\n"));
        assert!(words.tail.len() <= TAIL);
        assert!(words.last().ends_with("xxx\nthe end") && words.last().starts_with("xxx"));
        assert!(words.line.capacity() <= 2 * LINE_MAX);
    }

    #[test]
    fn a_line_without_end_is_broken() {
        let (mut words, _pipe) = words();
        let mut log = Vec::new();
        words.hear(&b"y".repeat(10 * LINE_MAX), &mut log);
        assert_eq!(log.iter().filter(|byte| **byte == b'\n').count(), 9);
    }
}
