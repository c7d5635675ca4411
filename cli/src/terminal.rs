//! The terminal in a mode of this program's own, raw for a console or without echo for a password: given back on every way
//! out, and while the program is stopped.

use std::fs;
use std::io::{self, Read, Stdin};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::low_level::{emulate_default_handler, pipe};

/// The signals that end a program.
const ENDS: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// Raw mode of the terminal at the standard input.
pub(crate) type RawMode = Mode<Stdin>;

/// A mode of a terminal. Dropping it restores the mode that it found: at the end, with an error, in a panic. A signal becomes
/// readable at [`Mode::signals`] instead of ending or stopping the process in this mode.
pub(crate) struct Mode<T: AsFd> {
    terminal: T,
    found: Termios,
    own: Termios,
    /// What becomes of bytes that were typed before the mode changes.
    typed: OptionalActions,
    signals: Signals,
}

/// What signals ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing any more.
    Nothing,
    /// The program was stopped and goes on; the mode was taken again.
    GoOn,
    /// To end, by this signal.
    End(i32),
}

impl RawMode {
    /// Enters raw mode if the standard input is a terminal.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        // Drain, not flush: what was typed after the escape belongs to the shell.
        Mode::take(stdin, OptionalActions::Drain, Termios::make_raw).map(Some)
    }
}

impl<T: AsFd> Mode<T> {
    /// Changes the terminal's mode.
    pub(crate) fn take(terminal: T, typed: OptionalActions, change: impl FnOnce(&mut Termios)) -> io::Result<Self> {
        // The signals first: one that comes in between must find the handler.
        let signals = Signals::catch()?;
        let found = tcgetattr(&terminal)?;
        let mut own = found.clone();
        change(&mut own);
        tcsetattr(&terminal, typed, &own)?;
        Ok(Self { terminal, found, own, typed, signals })
    }

    /// Readable as soon as a signal has come that [`Mode::asked`] has to look at.
    pub(crate) fn signals(&self) -> BorrowedFd<'_> {
        self.signals.0.woken.as_fd()
    }

    /// Does what signals ask for, but for ending the program: that is for the caller, after the mode is given back.
    pub(crate) fn asked(&self) -> io::Result<Asked> {
        let caught = &self.signals.0;
        caught.drain();
        if let Some(number) = caught.take_number() {
            return Ok(Asked::End(number));
        }
        if caught.stop.swap(false, Ordering::AcqRel) {
            tcsetattr(&self.terminal, self.typed, &self.found)?;
            // Returns when the process is continued.
            emulate_default_handler(SIGTSTP)?;
        }
        if caught.continued.swap(false, Ordering::AcqRel) {
            // A shell that stopped and continued us may have left another mode. In the background this stops us once more.
            tcsetattr(&self.terminal, OptionalActions::Drain, &self.own)?;
            return Ok(Asked::GoOn);
        }
        Ok(Asked::Nothing)
    }
}

impl<T: AsFd> Drop for Mode<T> {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, self.typed, &self.found);
    }
}

/// While this exists, signals are noted and make a descriptor readable; without it they act as usual.
struct Signals(Arc<Caught>);

/// What the handlers share. They stay once they are there, since removing one would leave its signal without any effect.
struct Caught {
    /// No [`Signals`] exists, so signals act by themselves.
    idle: Arc<AtomicBool>,
    /// The signal that came, if it should end the program.
    number: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    continued: Arc<AtomicBool>,
    woken: UnixStream,
}

static CAUGHT: Mutex<Option<Arc<Caught>>> = Mutex::new(None);

impl Signals {
    fn catch() -> io::Result<Self> {
        let mut kept = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner);
        let caught = match &*kept {
            Some(caught) => Arc::clone(caught),
            None => Arc::clone(kept.insert(Arc::new(Caught::register()?))),
        };
        // Left over from the last time.
        caught.drain();
        caught.stop.store(false, Ordering::Release);
        caught.continued.store(false, Ordering::Release);
        caught.idle.store(false, Ordering::Release);
        Ok(Self(caught))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.0.idle.store(true, Ordering::Release);
        // One that came after the last look.
        if let Some(number) = self.0.take_number() {
            let _ = emulate_default_handler(number);
        }
    }
}

impl Caught {
    fn register() -> io::Result<Self> {
        let (woken, wake) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let flag = |on| Arc::new(AtomicBool::new(on));
        let (idle, stop, continued) = (flag(true), flag(false), flag(false));
        let number = Arc::new(AtomicUsize::new(0));
        let ignored = ignored_signals();
        let is_ignored = |signal: i32| ignored & 1u64.wrapping_shl(signal.unsigned_abs().saturating_sub(1)) != 0;
        // Signals that were ignored when the program was started stay ignored, as with nohup.
        for signal in ENDS.into_iter().filter(|signal| !is_ignored(*signal)) {
            let value = usize::try_from(signal).map_err(io::Error::other)?;
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&idle))?;
            // In this order: the reader of the pipe finds the number.
            signal_hook::flag::register_usize(signal, Arc::clone(&number), value)?;
            pipe::register(signal, wake.try_clone()?)?;
        }
        // Without job control the kernel ignores this one, but not the stop that stands in for it here.
        if !is_ignored(SIGTSTP) && has_job_control() {
            signal_hook::flag::register_conditional_default(SIGTSTP, Arc::clone(&idle))?;
            signal_hook::flag::register(SIGTSTP, Arc::clone(&stop))?;
            pipe::register(SIGTSTP, wake.try_clone()?)?;
        }
        signal_hook::flag::register(SIGCONT, Arc::clone(&continued))?;
        pipe::register(SIGCONT, wake)?;
        Ok(Self { idle, number, stop, continued, woken })
    }

    fn take_number(&self) -> Option<i32> {
        i32::try_from(self.number.swap(0, Ordering::AcqRel)).ok().filter(|number| *number != 0)
    }

    fn drain(&self) {
        let mut buffer = [0; 64];
        while (&self.woken).read(&mut buffer).is_ok_and(|length| length > 0) {}
    }
}

/// The signals that this process ignores, as the kernel's mask; none where that cannot be seen.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Whether a shell has this process's group as a job: an ancestor in the same session has a group of its own.
fn has_job_control() -> bool {
    let Some(own) = Family::of("self") else { return false };
    let mut parent = own.parent;
    while let Some(ancestor) = Family::of(&parent.to_string()).filter(|ancestor| ancestor.session == own.session) {
        if ancestor.group != own.group {
            return true;
        }
        parent = ancestor.parent;
    }
    false
}

/// Where a process stands.
struct Family {
    parent: u32,
    group: u32,
    session: u32,
}

impl Family {
    fn of(process: &str) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // Behind the name, which may contain anything, and the state.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(1).map(str::parse);
        let mut next = || fields.next()?.ok();
        Some(Self { parent: next()?, group: next()?, session: next()? })
    }
}
