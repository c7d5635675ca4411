//! The terminal while a console is attached to it: raw mode, given back on every way out.

use std::io::{self, Stdin};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// Raw mode of the terminal at the standard input. Dropping it restores the mode that it found: at the end, with an
/// error, in a panic. A signal becomes readable at [`RawMode::signals`] instead of ending the process in raw mode.
pub(crate) struct RawMode {
    stdin: Stdin,
    found: Termios,
    signals: Signals,
}

impl RawMode {
    /// Enters raw mode if the standard input is a terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        // The signals first: one that comes in between must find the handler.
        let signals = Signals::catch()?;
        let found = tcgetattr(&stdin)?;
        let mut raw = found.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Some(Self { stdin, found, signals }))
    }

    /// Readable as soon as a signal has come that should end the program.
    pub(crate) fn signals(&self) -> BorrowedFd<'_> {
        self.signals.woken.as_fd()
    }

    /// The signal that has come.
    pub(crate) fn signal(&self) -> Option<i32> {
        i32::try_from(self.signals.number.load(Ordering::Acquire)).ok().filter(|number| *number != 0)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Drain, not flush: what was typed after the escape belongs to the shell.
        let _ = tcsetattr(&self.stdin, OptionalActions::Drain, &self.found);
    }
}

/// The signals that end a program, turned into a readable descriptor.
struct Signals {
    woken: UnixStream,
    number: Arc<AtomicUsize>,
    actions: Vec<SigId>,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        let (woken, wake) = UnixStream::pair()?;
        let number = Arc::new(AtomicUsize::new(0));
        let mut signals = Self { woken, number, actions: Vec::new() };
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            let value = usize::try_from(signal).map_err(io::Error::other)?;
            // In this order: whoever is woken finds the number.
            let note = signal_hook::flag::register_usize(signal, Arc::clone(&signals.number), value)?;
            signals.actions.push(note);
            signals.actions.push(signal_hook::low_level::pipe::register(signal, wake.try_clone()?)?);
        }
        Ok(signals)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for action in self.actions.drain(..) {
            signal_hook::low_level::unregister(action);
        }
    }
}
