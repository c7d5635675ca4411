//! `console`, and the console of a guest that was just started.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use clap::builder::ValueParser;
use libclient::{ConsoleFlags, ConsoleStream, CreateFlags, Domain, ErrorCode, EventKind, State};

use crate::attach::{End, Near, Signals, attach};
use crate::commands::lifecycle::failed;
use crate::error::CliError;
use crate::output::tell;
use crate::session::Session;
use crate::table::{Access, Action, Arg, Json, Names, Verb};
use crate::terminal::{Asked, RawMode};
use crate::values::Values;

/// How long a guest's end may be behind the end of its console before it counts as running on.
const END_DEADLINE: Duration = Duration::from_secs(2);

/// The escape that virsh and telnet have.
const DEFAULT_ESCAPE: &str = "^]";
/// Its byte.
const ESCAPE: u8 = 0x1d;

/// The row.
pub(crate) const VERBS: &[Verb] = &[Verb {
    name: "console",
    aliases: &[],
    about: "Attach the terminal to the console of a domain; the escape (^]) detaches",
    details: "\
Shows what the console has shown lately (128 KiB at most), then what comes. Any number of watchers up to 16 can attach with \
--read-only. Consoles are serialN and consoleN, counted from 0 over the serial ports and then the virtio consoles.

When standard input is no terminal there is no escape, and its end does not detach: the guest's output goes on until the \
guest ends. Exit code 0 when you detach or the guest ends, 1 when another client takes the console.",
    args: &[
        Arg::domain(Names::Active),
        Arg::word("devname", "ALIAS", "Alias of the device, if not the first console").optional().of(Names::Console),
        Arg::bits("force", ConsoleFlags::FORCE.bits(), "Take the console over from its present writer"),
        Arg::bits(
            "safe",
            ConsoleFlags::SAFE.bits(),
            "Accepted as virsh does: no client can take a console over unseen",
        ),
        Arg::bits(
            "read-only",
            ConsoleFlags::READ_ONLY.bits(),
            "Watch only: what is typed does not reach the guest",
        ),
        Arg::option("escape", "KEY", "The key that detaches: a character, or ^ and a character for a control key")
            .default(DEFAULT_ESCAPE)
            .parsed(|| ValueParser::new(escape_byte)),
    ],
    access: Access::Change,
    json: Json::Raw("it copies the console's bytes"),
    example: "test",
    action: Action::Run(console),
}];

fn console(values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
    let domain = session.domain(values.need("domain"))?;
    let flags = ConsoleFlags::from_bits_truncate(values.bits());
    let stream = domain.open_console(values.text("devname"), flags).map_err(failed("open the console of", &domain))?;
    let escape = values.value("escape").unwrap_or(ESCAPE);
    Attachment { escape, read_only: values.flag("read-only") }.run(session, &domain, stream, || Ok(()))
}

/// `^]` and the like, or one character.
fn escape_byte(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [b'^', key] if (b'?'..=b'_').contains(&key.to_ascii_uppercase()) => Ok(key.to_ascii_uppercase() ^ 0x40),
        [key] if key.is_ascii() => Ok(*key),
        _ => Err("must be one character, or ^ and one of @A-Z[\\]^_?".to_owned()),
    }
}

/// How to start a guest whose console is wanted: stopped, so that not a byte is missed.
pub(crate) fn start_flags(paused: bool, console: bool) -> CreateFlags {
    if paused || console { CreateFlags::PAUSED } else { CreateFlags::empty() }
}

/// Opens the console of a guest that was started with [`start_flags`], lets the guest run, and attaches.
pub(crate) fn open_then_run(session: &mut Session, domain: &Domain, paused: bool) -> Result<(), CliError> {
    let opened = domain.open_console(None, ConsoleFlags::FORCE);
    let resume = || if paused { Ok(()) } else { domain.resume().map_err(failed("resume", domain)) };
    match opened {
        Ok(stream) => {
            let attachment = Attachment { escape: ESCAPE, read_only: false };
            attachment.run(session, domain, stream, resume)
        }
        Err(error) => {
            // It was asked to run; that it has no console is no reason to leave it stopped.
            resume()?;
            Err(failed("open the console of", domain)(error))
        }
    }
}

/// How a console is attached.
struct Attachment {
    escape: u8,
    read_only: bool,
}

impl Attachment {
    /// Copies until the end, and says how it ended. `begin` is called when everything is ready for the first byte.
    fn run(
        &self,
        session: &mut Session,
        domain: &Domain,
        mut stream: ConsoleStream,
        begin: impl FnOnce() -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let failed = |source| CliError::Attach { name: domain.name().to_owned(), source };
        session.out.flush()?;
        let entered = RawMode::enter();
        let greeting = format!("Connected to '{}'; {} detaches\r", domain.name(), shown_key(self.escape));
        if matches!(entered, Ok(Some(_))) {
            session.note(&greeting);
        }
        // A terminal that refuses is no reason to leave a guest stopped that was asked to run.
        begin()?;
        let mut raw = entered.map_err(failed)?;
        let signal = Cell::new(0);
        let end = self.copy(session, raw.as_ref(), (&greeting, &signal), &mut stream);
        let on_terminal = raw.take().is_some();
        match end.map_err(failed)? {
            End::Signalled => Err(CliError::Signal { number: signal.get() }),
            End::OutputGone => Ok(()),
            End::Detached => {
                let newline = if on_terminal { "\n" } else { "" };
                session.note(format_args!("{newline}Detached from '{}'; it goes on running", domain.name()));
                Ok(())
            }
            End::Closed => {
                let ending = ending_of(domain, END_DEADLINE)?;
                let newline = if on_terminal { "\n" } else { "" };
                session.note(format_args!("{newline}'{}' has {ending}", domain.name()));
                Ok(())
            }
        }
    }

    /// Copies until the end; `signal` gets the number of the signal that ended it. The greeting is shown again when the program was
    /// stopped and goes on.
    fn copy(
        &self,
        session: &mut Session,
        raw: Option<&RawMode>,
        (greeting, signal): (&str, &Cell<i32>),
        stream: &mut ConsoleStream,
    ) -> io::Result<End> {
        // Not `io::stdin()`: its buffer would hold bytes back that `poll` knows nothing of.
        let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let stdout = io::stdout();
        let notes = session.has_notes();
        let ends = || match raw.map(RawMode::asked).transpose()? {
            Some(Asked::End(number)) => {
                signal.set(number);
                Ok(true)
            }
            Some(Asked::GoOn) => {
                if notes {
                    tell(greeting);
                }
                Ok(false)
            }
            _ => Ok(false),
        };
        let near = Near {
            input: Box::new(&input),
            input_fd: input.as_fd(),
            output: &mut session.out,
            output_fd: stdout.as_fd(),
            escape: raw.map(|_| self.escape),
            read_only: self.read_only,
            signals: raw.map(|raw| Signals { fd: raw.signals(), ends: &ends }),
        };
        attach(near, stream)
    }
}

/// The key as it is written on the command line.
fn shown_key(escape: u8) -> String {
    if escape.is_ascii_control() { format!("^{}", char::from(escape ^ 0x40)) } else { char::from(escape).to_string() }
}

/// How a guest ended whose console has closed; an error if it goes on without us, its end not coming for `patience`.
fn ending_of(domain: &Domain, patience: Duration) -> Result<&'static str, CliError> {
    let failed = || failed("get the state of", domain);
    // Subscribed before the question, so that an end between the two is not missed.
    let events = domain.connection().subscribe(None);
    let active = match domain.state() {
        Ok((state, reason)) if state == State::Crashed || reason.name() == "crashed" => return Ok("crashed"),
        Ok((state, _)) => state.is_active(),
        // A transient domain is gone when it stops.
        Err(error) if error.code == ErrorCode::NO_DOMAIN => false,
        Err(error) => return Err(failed()(error)),
    };
    if !active {
        return Ok("shut down");
    }
    let mut events = events.map_err(failed())?;
    while let Some(event) = events.next(Some(patience)).map_err(failed())? {
        if event.domain.uuid() != domain.uuid() {
            continue;
        }
        match event.kind {
            EventKind::Crashed => return Ok("crashed"),
            EventKind::Stopped => return Ok(if event.detail.name() == "Crashed" { "crashed" } else { "shut down" }),
            _ => {}
        }
    }
    Err(CliError::ConsoleTaken { name: domain.name().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_is_a_character_or_a_control_key() {
        assert_eq!(escape_byte("^]"), Ok(0x1d));
        assert_eq!(escape_byte("^a"), Ok(1));
        assert_eq!(escape_byte("^?"), Ok(0x7f));
        assert_eq!(escape_byte("~"), Ok(b'~'));
        assert!(escape_byte("^1").is_err());
        assert!(escape_byte("ab").is_err());
        assert!(escape_byte("").is_err());
    }

    fn test_domain() -> Domain {
        libclient::Connection::open("test:///default").unwrap().domain("test").unwrap()
    }

    #[test]
    fn a_closed_console_of_a_guest_that_is_off_means_its_end() {
        let domain = test_domain();
        domain.destroy(libclient::DestroyFlags::empty()).unwrap();
        assert_eq!(ending_of(&domain, Duration::ZERO).unwrap(), "shut down");
    }

    #[test]
    fn a_closed_console_of_a_guest_that_is_gone_means_its_end() {
        let domain = test_domain();
        domain.destroy(libclient::DestroyFlags::empty()).unwrap();
        domain.undefine(libclient::UndefineFlags::empty()).unwrap();
        assert_eq!(ending_of(&domain, Duration::ZERO).unwrap(), "shut down");
    }

    #[test]
    fn a_closed_console_of_a_guest_that_goes_on_is_an_error() {
        let error = ending_of(&test_domain(), Duration::ZERO).unwrap_err();
        assert!(matches!(error, CliError::ConsoleTaken { .. }), "{error:?}");
    }

    #[test]
    fn a_key_is_shown_as_it_is_written() {
        for key in ["^]", "^A", "^?", "~"] {
            assert_eq!(shown_key(escape_byte(key).unwrap()), key);
        }
    }
}
