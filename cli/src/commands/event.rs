//! `event`: what happens to domains, as it happens, or since a number.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use clap::builder::{EnumValueParser, ValueParser};
use libclient::api::consts::{DomainEventId, IoErrorAction, MetadataType, TrayChangeReason, WatchdogEventAction};
use libclient::{DomainEvent, EventStream, Notice};
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::session::{DomainJson, Session, find};
use crate::shown::{Shown, Text};
use crate::table::{Access, Action, Arg, Json, Names, Verb};
use crate::values::Values;
use crate::words::{local_time, utc_time};

/// The row.
pub(crate) const VERBS: &[Verb] = &[Verb {
    name: "event",
    aliases: &[],
    about: "Wait for events of domains and print them",
    details: "\
Prints one event, or with --loop events until it is ended. --loop goes on across a restart of the daemon, and waits for a \
daemon that was stopped without starting it. Every event has a number; --since prints first the events after that number that \
the daemon still has. Exit code 6 if the time is over and nothing was printed.",
    args: &[
        Arg::word("domain", "DOMAIN", "Events of this domain only: name, UUID or id").optional().of(Names::Domain),
        Arg::option("event", "EVENT", "The kind of events; lifecycle unless another one is named")
            .parsed(|| EnumValueParser::<Kind>::new().into()),
        Arg::flag("all", "Every kind of event").conflicts(&["event"]),
        Arg::flag("loop", "Go on after the first event"),
        Arg::option("timeout", "SECONDS", "End after this many seconds").parsed(|| ValueParser::new(seconds)),
        Arg::option(
            "since",
            "SEQUENCE",
            "Begin with the events after this sequence number; 0: all that the daemon still has",
        )
        .parsed(|| clap::value_parser!(u64).into()),
        Arg::flag("timestamp", "Accepted as virsh does: the time is always printed"),
        Arg::flag("list", "List the kinds of events and end"),
    ],
    access: Access::Look,
    json: Json::Lines(r#"{"sequence", "time", "event", "domain": {…}, "kind", "detail", "text"}"#),
    example: "--since 0 --timeout 0",
    action: Action::Run(run),
}];

/// What is waited for.
struct Event {
    domain: Option<String>,
    event: Option<Kind>,
    all: bool,
    loop_: bool,
    timeout: Option<Duration>,
    since: Option<u64>,
}

/// `event`.
fn run(values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
    if values.flag("list") {
        let kinds: Vec<_> = Kind::value_variants().iter().map(|kind| kind.id().name()).collect();
        let lines = kinds.iter().map(|kind| format!("{kind}\n")).collect();
        return session.show(&Shown::new(kinds, Text::Lines(lines)));
    }
    Event::of(values).wait(session)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Lifecycle,
    Reboot,
    RtcChange,
    Watchdog,
    IoError,
    IoErrorReason,
    TrayChange,
    PmWakeup,
    PmSuspend,
    BalloonChange,
    PmSuspendDisk,
    MetadataChange,
}

impl Kind {
    fn id(self) -> DomainEventId {
        match self {
            Kind::Lifecycle => DomainEventId::Lifecycle,
            Kind::Reboot => DomainEventId::Reboot,
            Kind::RtcChange => DomainEventId::RtcChange,
            Kind::Watchdog => DomainEventId::Watchdog,
            Kind::IoError => DomainEventId::IoError,
            Kind::IoErrorReason => DomainEventId::IoErrorReason,
            Kind::TrayChange => DomainEventId::TrayChange,
            Kind::PmWakeup => DomainEventId::PmWakeup,
            Kind::PmSuspend => DomainEventId::PmSuspend,
            Kind::BalloonChange => DomainEventId::BalloonChange,
            Kind::PmSuspendDisk => DomainEventId::PmSuspendDisk,
            Kind::MetadataChange => DomainEventId::MetadataChange,
        }
    }
}

#[derive(Serialize)]
struct EventJson<'a> {
    sequence: u64,
    time: String,
    event: &'static str,
    domain: DomainJson,
    kind: Option<&'static str>,
    detail: Option<&'static str>,
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "is no number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "must be a number of seconds from 0 on".to_owned())
}

impl Event {
    fn of(values: &Values<'_>) -> Self {
        Self {
            domain: values.text("domain").map(str::to_owned),
            event: values.value("event"),
            all: values.flag("all"),
            loop_: values.flag("loop"),
            timeout: values.value("timeout"),
            since: values.value("since"),
        }
    }

    /// Waits and prints.
    fn wait(&self, session: &mut Session) -> Result<(), CliError> {
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
        let of_domain = |event: &DomainEvent| only.as_ref().is_none_or(|domain| domain.uuid() == event.domain.uuid());
        self.print(session, stream, deadline, replay, of_domain)
    }

    /// What an event is called, if it is of the kind that was asked for.
    fn name_of(&self, event: &DomainEvent) -> Option<&'static str> {
        let asked = if self.all { None } else { Some(self.event.unwrap_or(Kind::Lifecycle).id()) };
        let is = match &event.notice {
            None => DomainEventId::Lifecycle,
            // Two kinds of libvirt's, of which one has it all.
            Some(Notice::IoError { .. }) if asked != Some(DomainEventId::IoError) => DomainEventId::IoErrorReason,
            Some(notice) => notice.kind(),
        };
        asked.is_none_or(|asked| asked == is).then(|| is.name())
    }

    fn print(
        &self,
        session: &mut Session,
        mut stream: EventStream,
        deadline: Option<Instant>,
        replay: u64,
        of_domain: impl Fn(&DomainEvent) -> bool,
    ) -> Result<(), CliError> {
        let mut printed = 0u64;
        let mut lost = stream.lost();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let next = stream.next(left);
            // The next daemon may not have all that happened before it came.
            if stream.lost() && !std::mem::replace(&mut lost, true) {
                session.warn("some events after the last one are gone");
            }
            let next = match next {
                // A host may be away for longer than a stream waits, to be booted for one.
                Err(error) if self.loop_ && is_absence(&error) && left.is_none_or(|left| !left.is_zero()) => {
                    session.warn(format!("{}; waiting on", error.message));
                    continue;
                }
                next => next.map_err(|source| CliError::Ask { what: "wait for events", source })?,
            };
            let Some(event) = next else { return self.timed_out(printed) };
            if let Some(name) = self.name_of(&event).filter(|_| of_domain(&event)) {
                show(session, name, &event)?;
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

/// Prints one event and flushes: a reader of our output waits for it.
fn show(session: &mut Session, name: &'static str, event: &DomainEvent) -> Result<(), CliError> {
    let is_life = event.notice.is_none();
    if session.out.is_json() {
        session.out.json_line(&EventJson {
            sequence: event.sequence,
            time: utc_time(event.time),
            event: name,
            domain: DomainJson::of(&event.domain),
            kind: is_life.then(|| event.kind.name()),
            detail: is_life.then(|| event.detail.name()),
            text: event.text.as_deref(),
            data: event.notice.as_ref().map(data),
        })?;
        return Ok(());
    }
    let text = event.text.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
    let what = match &event.notice {
        Some(notice) => words(name, notice),
        None => format!(": {} {}", event.kind.name(), event.detail.name()),
    };
    session.out.line(format_args!(
        "{} {} event '{name}' for domain '{}'{what}{text}",
        local_time(event.time),
        event.sequence,
        event.domain.name(),
    ))?;
    session.out.flush()?;
    Ok(())
}

fn watchdog(action: i32) -> &'static str {
    WatchdogEventAction::try_from(action).map_or("unknown", WatchdogEventAction::name)
}

fn io_error(action: i32) -> &'static str {
    IoErrorAction::try_from(action).map_or("unknown", IoErrorAction::name)
}

fn tray(reason: i32) -> &'static str {
    TrayChangeReason::try_from(reason).map_or("unknown", TrayChangeReason::name)
}

fn metadata(kind: i32) -> &'static str {
    MetadataType::try_from(kind).map_or("unknown", MetadataType::name)
}

/// What virsh says behind the domain's name.
fn words(name: &str, notice: &Notice) -> String {
    match notice {
        Notice::RtcChange { offset } => format!(": {offset}"),
        Notice::Watchdog { action } => format!(": {}", watchdog(*action)),
        Notice::IoError { path, device, action, reason } => {
            let why = if reason.is_empty() || name == DomainEventId::IoError.name() {
                String::new()
            } else {
                format!(" due to {reason}")
            };
            format!(": {path} ({device}) {}{why}", io_error(*action))
        }
        Notice::TrayChange { device, reason } => format!(" disk {device}: {}", tray(*reason)),
        Notice::BalloonChange { kib } => format!(": {kib}KiB"),
        Notice::MetadataChange { kind, uri } => {
            let uri = uri.as_deref().map(|uri| format!(", uri {uri}")).unwrap_or_default();
            format!(": type {}{uri}", metadata(*kind))
        }
        // The kind says it all.
        _ => String::new(),
    }
}

/// The same for programs.
fn data(notice: &Notice) -> Value {
    match notice {
        Notice::RtcChange { offset } => json!({"offset": offset}),
        Notice::Watchdog { action } => json!({"action": watchdog(*action)}),
        Notice::IoError { path, device, action, reason } => {
            json!({"path": path, "device": device, "action": io_error(*action), "reason": reason})
        }
        Notice::TrayChange { device, reason } => json!({"device": device, "tray": tray(*reason)}),
        Notice::BalloonChange { kib } => json!({"kib": kib}),
        Notice::MetadataChange { kind, uri } => json!({"type": metadata(*kind), "uri": uri}),
        _ => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(arguments: &[&str]) -> Event {
        let line = ["bulkhead", "event"].iter().chain(arguments).map(Into::into).collect();
        let parsed = crate::parser::parse(line).unwrap_or_else(|error| panic!("{error}"));
        Event::of(&Values::new(parsed.verb, &parsed.matches))
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

    #[test]
    fn a_kind_is_named_as_libvirt_names_it() {
        for kind in Kind::value_variants() {
            assert_eq!(kind.to_possible_value().unwrap().get_name(), kind.id().name());
        }
    }

    #[test]
    fn what_happened_is_said_as_virsh_says_it() {
        let io = |reason: &str| Notice::IoError {
            path: "/d/a.img".into(),
            device: "virtio-disk-vda".into(),
            action: 1,
            reason: reason.into(),
        };
        let rows = [
            ("reboot", Notice::Reboot, ""),
            ("rtc-change", Notice::RtcChange { offset: -7 }, ": -7"),
            ("watchdog", Notice::Watchdog { action: 6 }, ": inject-nmi"),
            ("watchdog", Notice::Watchdog { action: 77 }, ": unknown"),
            ("io-error", io("enospc"), ": /d/a.img (virtio-disk-vda) pause"),
            ("io-error-reason", io("enospc"), ": /d/a.img (virtio-disk-vda) pause due to enospc"),
            ("io-error-reason", io(""), ": /d/a.img (virtio-disk-vda) pause"),
            (
                "tray-change",
                Notice::TrayChange { device: "ide-disk-hdc".into(), reason: 1 },
                " disk ide-disk-hdc: closed",
            ),
            ("balloon-change", Notice::BalloonChange { kib: 512 }, ": 512KiB"),
            ("metadata-change", Notice::MetadataChange { kind: 1, uri: None }, ": type title"),
            (
                "metadata-change",
                Notice::MetadataChange { kind: 2, uri: Some("urn:k".into()) },
                ": type element, uri urn:k",
            ),
        ];
        for (name, notice, expected) in rows {
            assert_eq!(words(name, &notice), expected, "{name}");
        }
    }
}
