//! `event`: what happens to domains, as it happens, or since a number.

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use clap_complete::ArgValueCompleter;
use libclient::{DomainEvent, EventStream};
use serde::Serialize;

use crate::complete;
use crate::error::CliError;
use crate::session::{DomainJson, Session, find};
use crate::words::{local_time, utc_time};

/// Wait for events of domains and print them
#[derive(Debug, Args)]
pub(crate) struct Event {
    /// Events of this domain only: name, UUID or id
    #[arg(long, value_name = "DOMAIN", add = ArgValueCompleter::new(complete::any_domain))]
    domain: Option<String>,
    /// The kind of events
    #[arg(long, value_enum, value_name = "EVENT")]
    event: Option<Kind>,
    /// Every kind of event
    #[arg(long, conflicts_with = "event")]
    all: bool,
    /// Go on after the first event
    #[arg(long = "loop")]
    loop_: bool,
    /// End after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Begin with the events after this sequence number; 0: all that the daemon still has
    #[arg(long, value_name = "SEQUENCE")]
    since: Option<u64>,
    /// Accepted as virsh does: the time is always printed
    #[arg(long)]
    timestamp: bool,
    /// List the kinds of events and end
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Lifecycle,
}

#[derive(Serialize)]
struct EventJson<'a> {
    sequence: u64,
    time: String,
    event: &'static str,
    domain: DomainJson,
    kind: &'static str,
    detail: &'static str,
    text: Option<&'a str>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "is no number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "must be a number of seconds from 0 on".to_owned())
}

impl Event {
    /// Waits and prints.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        if self.list {
            for kind in Kind::value_variants().iter().filter_map(ValueEnum::to_possible_value) {
                session.out.line(kind.get_name())?;
            }
            return Ok(());
        }
        // A time beyond the clock's range is never.
        let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let connection = session.connect()?;
        let only = self.domain.as_deref().map(|name| find(&connection, name)).transpose()?;
        let stream =
            connection.subscribe(self.since).map_err(|source| CliError::Ask { what: "subscribe to events", source })?;
        if stream.lost() {
            session.warn("the oldest events that were asked for are gone");
        }
        let replay = match self.since {
            Some(_) if !self.loop_ => stream.first_new(),
            _ => 0,
        };
        let wanted = |event: &DomainEvent| only.as_ref().is_none_or(|domain| domain.uuid() == event.domain.uuid());
        self.print(session, stream, deadline, replay, wanted)
    }

    fn print(
        &self,
        session: &mut Session,
        mut stream: EventStream,
        deadline: Option<Instant>,
        replay: u64,
        wanted: impl Fn(&DomainEvent) -> bool,
    ) -> Result<(), CliError> {
        let mut printed = 0u64;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let next = match stream.next(left) {
                // A host may be away for longer than a stream waits, to be booted for one.
                Err(error) if self.loop_ && is_absence(&error) && left.is_none_or(|left| !left.is_zero()) => {
                    session.warn(&format!("{}; waiting on", error.message));
                    continue;
                }
                next => next.map_err(|source| CliError::Ask { what: "wait for events", source })?,
            };
            let Some(event) = next else { return self.timed_out(printed) };
            if wanted(&event) {
                show(session, &event)?;
                printed += 1;
            }
            if self.is_done(printed, event.sequence, replay) {
                return Ok(());
            }
        }
    }

    /// Whether the event of this number was the last one. Without --loop that is the first one that was printed; but what
    /// had happened already when we came, the numbers below `replay`, is printed as a whole.
    fn is_done(&self, printed: u64, sequence: u64, replay: u64) -> bool {
        !self.loop_ && printed > 0 && sequence.saturating_add(1) >= replay
    }

    fn timed_out(&self, printed: u64) -> Result<(), CliError> {
        match self.timeout {
            Some(timeout) if printed == 0 => Err(CliError::NoEvent { seconds: timeout.as_secs_f64() }),
            _ => Ok(()),
        }
    }
}

/// Whether an error says that nobody is there now.
fn is_absence(error: &libclient::Error) -> bool {
    use libclient::ErrorCode;
    [ErrorCode::SYSTEM_ERROR, ErrorCode::RPC, ErrorCode::OPERATION_TIMEOUT].contains(&error.code)
}

/// One event, sent at once: whoever reads us waits for it.
fn show(session: &mut Session, event: &DomainEvent) -> Result<(), CliError> {
    if session.out.is_json() {
        session.out.json_line(&EventJson {
            sequence: event.sequence,
            time: utc_time(event.time),
            event: "lifecycle",
            domain: DomainJson::of(&event.domain),
            kind: event.kind.name(),
            detail: event.detail.name(),
            text: event.text.as_deref(),
        })?;
        return Ok(());
    }
    let text = event.text.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
    session.out.line(format_args!(
        "{} {} event 'lifecycle' for domain '{}': {} {}{text}",
        local_time(event.time),
        event.sequence,
        event.domain.name(),
        event.kind.name(),
        event.detail.name(),
    ))?;
    session.out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn event(arguments: &[&str]) -> Event {
        let line = ["bulkhead", "event"].iter().chain(arguments);
        match crate::args::Cli::try_parse_from(line).unwrap().command {
            crate::args::Command::Event(event) => event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_event_is_enough_without_a_loop() {
        assert!(event(&[]).is_done(1, 7, 0));
        assert!(!event(&[]).is_done(0, 7, 0), "one of another domain");
        assert!(!event(&["--loop"]).is_done(1, 7, 0));
    }

    #[test]
    fn a_replay_is_printed_as_a_whole() {
        let event = event(&["--since", "0"]);
        assert!(!event.is_done(6, 6, 8));
        assert!(event.is_done(7, 7, 8), "the last one of the replay");
        assert!(event.is_done(1, 9, 8), "nothing was replayed");
        assert!(!event.is_done(0, 7, 8), "a replay without an event of the domain waits for one");
    }

    #[test]
    fn a_timeout_may_have_a_fraction_and_no_sign() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("-1").is_err());
        assert!(seconds("NaN").is_err());
        assert!(seconds("soon").is_err());
    }
}
