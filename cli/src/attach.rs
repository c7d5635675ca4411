//! Copies bytes between this process's standard streams and a console, in one thread, waiting in `poll` only.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};

/// Typed bytes that wait for a guest that does not read. Beyond it a terminal's bytes are dropped, as a terminal's own
/// queue does; a pipe is left unread instead.
const PENDING_MAX: usize = 64 * 1024;

/// One read: what a fast guest fills between two wake-ups.
const CHUNK: usize = 32 * 1024;

/// Why an attachment ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The escape was typed.
    Detached,
    /// The console closed: the guest has ended or another client has taken it.
    Closed,
    /// Nobody reads our output any more.
    OutputGone,
    /// A signal came that should end it.
    Signalled,
}

/// The near side of an attachment.
pub(crate) struct Near<'a, O> {
    /// Where typed bytes come from.
    pub(crate) input: Box<dyn Read + 'a>,
    /// The descriptor behind `input`.
    pub(crate) input_fd: BorrowedFd<'a>,
    /// Where the console's bytes go.
    pub(crate) output: &'a mut O,
    /// The descriptor behind `output`.
    pub(crate) output_fd: BorrowedFd<'a>,
    /// The byte that detaches; it and what is typed after it never reach the guest.
    pub(crate) escape: Option<u8>,
    /// Bytes are looked at for the escape, and go nowhere.
    pub(crate) read_only: bool,
    /// Signals that have to be looked at.
    pub(crate) signals: Option<Signals<'a>>,
}

/// Signals at the near side.
#[derive(Clone, Copy)]
pub(crate) struct Signals<'a> {
    /// Readable when one has come.
    pub(crate) fd: BorrowedFd<'a>,
    /// Looks at what has come; true when it should end the attachment.
    pub(crate) ends: &'a dyn Fn() -> io::Result<bool>,
}

/// Copies until one side ends. The end of the input is no end: the guest's output still matters.
pub(crate) fn attach<S: Read + Write + AsFd, O: Write>(near: Near<'_, O>, console: &mut S) -> io::Result<End> {
    rustix::io::ioctl_fionbio(console.as_fd(), true)?;
    let mut copier = Copier { near, pending: Vec::new(), input_open: true, chunk: vec![0; CHUNK] };
    loop {
        let ready = copier.wait(console.as_fd())?;
        if ready.signals
            && let Some(signals) = copier.near.signals
            && (signals.ends)()?
        {
            return Ok(End::Signalled);
        }
        // The guest's output first: its last words come together with its end.
        if ready.console_reads
            && let Some(end) = copier.read_console(console)?
        {
            return Ok(end);
        }
        if ready.output_gone {
            return Ok(End::OutputGone);
        }
        if ready.input
            && let Some(end) = copier.read_input()?
        {
            copier.write_console(console)?;
            return Ok(end);
        }
        copier.write_console(console)?;
    }
}

struct Copier<'a, O> {
    near: Near<'a, O>,
    pending: Vec<u8>,
    input_open: bool,
    chunk: Vec<u8>,
}

struct Ready {
    console_reads: bool,
    input: bool,
    output_gone: bool,
    signals: bool,
}

impl<O: Write> Copier<'_, O> {
    /// Sleeps until something can be done.
    fn wait(&self, console: BorrowedFd<'_>) -> io::Result<Ready> {
        let mut wanted = PollFlags::IN;
        wanted.set(PollFlags::OUT, !self.pending.is_empty());
        // No flag: only errors and hang-ups, which is how an output tells that its reader is gone.
        let mut fds = vec![
            PollFd::from_borrowed_fd(console, wanted),
            PollFd::from_borrowed_fd(self.near.output_fd, PollFlags::empty()),
        ];
        let input = self.wants_input().then(|| {
            fds.push(PollFd::from_borrowed_fd(self.near.input_fd, PollFlags::IN));
            fds.len() - 1
        });
        let signals = self.near.signals.map(|signals| {
            fds.push(PollFd::from_borrowed_fd(signals.fd, PollFlags::IN));
            fds.len() - 1
        });
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => {
                return Ok(Ready { console_reads: false, input: false, output_gone: false, signals: false });
            }
            Err(errno) => return Err(errno.into()),
        }
        let any = |index: Option<usize>| index.is_some_and(|index| !fds[index].revents().is_empty());
        Ok(Ready {
            console_reads: fds[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            input: any(input),
            output_gone: fds[1].revents().intersects(PollFlags::ERR | PollFlags::HUP),
            signals: any(signals),
        })
    }

    /// A terminal is always read, or a guest that does not read could not be left.
    fn wants_input(&self) -> bool {
        self.input_open && (self.near.escape.is_some() || self.pending.len() < PENDING_MAX)
    }

    fn read_console(&mut self, console: &mut impl Read) -> io::Result<Option<End>> {
        match console.read(&mut self.chunk) {
            Ok(0) => Ok(Some(End::Closed)),
            Ok(length) => {
                match self.near.output.write_all(&self.chunk[..length]).and_then(|()| self.near.output.flush()) {
                    Ok(()) => Ok(None),
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Some(End::OutputGone)),
                    Err(error) => Err(error),
                }
            }
            Err(error) if is_later(&error) => Ok(None),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Some(End::Closed)),
            Err(error) => Err(error),
        }
    }

    fn read_input(&mut self) -> io::Result<Option<End>> {
        let length = match self.near.input.read(&mut self.chunk) {
            Ok(0) => {
                self.input_open = false;
                return Ok(None);
            }
            Ok(length) => length,
            Err(error) if is_later(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let typed = &self.chunk[..length];
        let escape = self.near.escape.and_then(|escape| typed.iter().position(|byte| *byte == escape));
        if !self.near.read_only {
            let typed = &typed[..escape.unwrap_or(length)];
            let room =
                if self.near.escape.is_some() { PENDING_MAX.saturating_sub(self.pending.len()) } else { typed.len() };
            self.pending.extend_from_slice(&typed[..typed.len().min(room)]);
        }
        Ok(escape.map(|_| End::Detached))
    }

    fn write_console(&mut self, console: &mut impl Write) -> io::Result<()> {
        while !self.pending.is_empty() {
            match console.write(&self.pending) {
                Ok(0) => break,
                Ok(length) => drop(self.pending.drain(..length)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Nobody hears us any more, but there may be words to come, and a person who wants to leave.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    self.pending.clear();
                    self.near.read_only = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// One attachment over socket pairs: what is typed, what the guest says before it ends (or None: it stays).
    struct Rig {
        typed: Vec<u8>,
        typing_ends: bool,
        said: Vec<u8>,
        guest_ends: bool,
        escape: Option<u8>,
        read_only: bool,
    }

    struct Seen {
        end: End,
        output: Vec<u8>,
        guest_got: Vec<u8>,
    }

    fn attach_once(rig: &Rig) -> Seen {
        let (keyboard, input) = UnixStream::pair().unwrap();
        let (mut guest, mut console) = UnixStream::pair().unwrap();
        let (screen, _held) = UnixStream::pair().unwrap();
        (&keyboard).write_all(&rig.typed).unwrap();
        if rig.typing_ends {
            keyboard.shutdown(std::net::Shutdown::Write).unwrap();
        }
        guest.write_all(&rig.said).unwrap();
        if rig.guest_ends {
            guest.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut output = Vec::new();
        let near = Near {
            input: Box::new(&input),
            input_fd: input.as_fd(),
            output: &mut output,
            output_fd: screen.as_fd(),
            escape: rig.escape,
            read_only: rig.read_only,
            signals: None,
        };
        let end = attach(near, &mut console).unwrap();
        drop(console);
        let mut guest_got = Vec::new();
        guest.read_to_end(&mut guest_got).unwrap();
        Seen { end, output, guest_got }
    }

    fn rig() -> Rig {
        Rig { typed: vec![], typing_ends: false, said: vec![], guest_ends: false, escape: Some(0x1d), read_only: false }
    }

    #[test]
    fn bytes_before_the_escape_reach_the_guest_and_those_after_it_do_not() {
        let seen = attach_once(&Rig { typed: b"ls\r\x1drm -rf\r".to_vec(), ..rig() });
        assert_eq!(seen.end, End::Detached);
        assert_eq!(seen.guest_got, b"ls\r");
    }

    #[test]
    fn every_byte_of_a_pipe_passes_untouched_when_there_is_no_escape() {
        let all: Vec<u8> = (0..=255).collect();
        let seen = attach_once(&Rig { typed: all.clone(), said: all.clone(), guest_ends: true, escape: None, ..rig() });
        assert_eq!((seen.end, seen.output), (End::Closed, all));
    }

    #[test]
    fn the_end_of_the_input_does_not_end_the_attachment() {
        let seen =
            attach_once(&Rig { typing_ends: true, said: b"late".to_vec(), guest_ends: true, escape: None, ..rig() });
        assert_eq!((seen.end, seen.output.as_slice()), (End::Closed, b"late".as_slice()));
    }

    #[test]
    fn a_read_only_console_hears_nothing_but_can_be_left() {
        let seen = attach_once(&Rig { typed: b"reboot\r\x1d".to_vec(), read_only: true, ..rig() });
        assert_eq!((seen.end, seen.guest_got.len()), (End::Detached, 0));
    }

    #[test]
    fn the_escape_leaves_a_guest_that_reads_nothing() {
        let mut typed = vec![b'x'; 3 * PENDING_MAX];
        typed.push(0x1d);
        let (mut keyboard, input) = UnixStream::pair().unwrap();
        let (_guest, mut console) = UnixStream::pair().unwrap();
        let (screen, _held) = UnixStream::pair().unwrap();
        let typist = std::thread::spawn(move || keyboard.write_all(&typed).map(|()| keyboard));
        let near = Near {
            input: Box::new(&input),
            input_fd: input.as_fd(),
            output: &mut Vec::new(),
            output_fd: screen.as_fd(),
            escape: Some(0x1d),
            read_only: false,
            signals: None,
        };
        assert_eq!(attach(near, &mut console).unwrap(), End::Detached);
        typist.join().unwrap().unwrap();
    }

    #[test]
    fn a_guest_that_has_stopped_listening_can_be_left() {
        let (keyboard, input) = UnixStream::pair().unwrap();
        let (guest, mut console) = UnixStream::pair().unwrap();
        let (screen, _held) = UnixStream::pair().unwrap();
        guest.shutdown(std::net::Shutdown::Read).unwrap();
        (&keyboard).write_all(b"hello\x1d").unwrap();
        let near = Near {
            input: Box::new((&b"hello"[..]).chain(&input)),
            input_fd: input.as_fd(),
            output: &mut Vec::new(),
            output_fd: screen.as_fd(),
            escape: Some(0x1d),
            read_only: false,
            signals: None,
        };
        assert_eq!(attach(near, &mut console).unwrap(), End::Detached);
    }

    #[test]
    fn a_signal_ends_the_attachment() {
        let (_keyboard, input) = UnixStream::pair().unwrap();
        let (_guest, mut console) = UnixStream::pair().unwrap();
        let (screen, _held) = UnixStream::pair().unwrap();
        let (mut kill, signals) = UnixStream::pair().unwrap();
        kill.write_all(b"X").unwrap();
        let near = Near {
            input: Box::new(&input),
            input_fd: input.as_fd(),
            output: &mut Vec::new(),
            output_fd: screen.as_fd(),
            escape: None,
            read_only: false,
            signals: Some(Signals { fd: signals.as_fd(), ends: &|| Ok(true) }),
        };
        assert_eq!(attach(near, &mut console).unwrap(), End::Signalled);
    }

    #[test]
    fn an_output_without_a_reader_ends_the_attachment_although_the_guest_is_silent() {
        let (_keyboard, input) = UnixStream::pair().unwrap();
        let (_guest, mut console) = UnixStream::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        let near = Near {
            input: Box::new(&input),
            input_fd: input.as_fd(),
            output: &mut Vec::new(),
            output_fd: writer.as_fd(),
            escape: None,
            read_only: false,
            signals: None,
        };
        assert_eq!(attach(near, &mut console).unwrap(), End::OutputGone);
    }
}
