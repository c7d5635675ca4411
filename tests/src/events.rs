//! Events, as `bulkhead event` prints them for programs.

use std::{
    process::Command,
    time::{Duration, SystemTime},
};

use serde::Deserialize;

use crate::{terminal::Terminal, wait::LONG};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLine {
    /// Its number.
    pub sequence: u64,
    /// When it happened.
    pub time: SystemTime,
    /// Whose: the domain's name.
    pub domain: String,
    /// libvirt's word for it: `Started`, `Stopped` …
    pub kind: String,
    /// libvirt's word for its detail.
    pub detail: String,
    /// What there is to say about it.
    pub text: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    sequence: u64,
    time: String,
    domain: Named,
    kind: String,
    detail: String,
    text: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl EventLine {
    /// Reads a line of `bulkhead event --output json`.
    ///
    /// # Panics
    /// When it is no event.
    #[must_use]
    pub fn parse(line: &str) -> EventLine {
        let Line { sequence, time, domain, kind, detail, text } =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let time: jiff::Timestamp = time.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
        EventLine { sequence, time: time.into(), domain: domain.name, kind, detail, text }
    }

    /// Domain, kind and detail in one text, for comparisons.
    #[must_use]
    pub fn short(&self) -> String {
        format!("{} {} {}", self.domain, self.kind, self.detail)
    }
}

/// A running `bulkhead event --loop`.
#[derive(Debug)]
pub struct Watch {
    terminal: Terminal,
    taken: usize,
}

impl Watch {
    /// Starts one; the command must print JSON lines.
    #[must_use]
    pub fn start(command: Command) -> Watch {
        Watch { terminal: Terminal::on_pipes(command), taken: 0 }
    }

    /// All events so far.
    #[must_use]
    pub fn seen(&self) -> Vec<EventLine> {
        parse_lines(self.terminal.output.text().as_bytes())
    }

    /// Waits for the next event of a domain, of this kind and detail; those before it are passed over.
    ///
    /// # Panics
    /// When it does not come.
    pub fn expect(&mut self, domain: &str, kind: &str, detail: &str) -> EventLine {
        self.expect_within(domain, kind, detail, LONG)
    }

    /// As [`Watch::expect`], with a time of its own.
    ///
    /// # Panics
    /// When it does not come in time.
    pub fn expect_within(&mut self, domain: &str, kind: &str, detail: &str, time: Duration) -> EventLine {
        let taken = self.taken;
        let find = |bytes: &[u8]| {
            let events = parse_lines(bytes);
            let wanted = |event: &EventLine| {
                event.domain == domain
                    && event.kind.eq_ignore_ascii_case(kind)
                    && event.detail.eq_ignore_ascii_case(detail)
            };
            let at = events.iter().skip(taken).position(wanted)?;
            Some((events[taken + at].clone(), taken + at + 1))
        };
        match self.terminal.output.wait(time, find) {
            Some((event, taken)) => {
                self.taken = taken;
                event
            }
            None => panic!(
                "no event \"{domain} {kind} {detail}\" came; seen were {:#?}\nand the messages\n{}",
                self.seen().iter().map(EventLine::short).collect::<Vec<_>>(),
                self.terminal.messages.text()
            ),
        }
    }
}

/// Every whole line.
pub(crate) fn parse_lines(bytes: &[u8]) -> Vec<EventLine> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let text = String::from_utf8_lossy(&bytes[..whole]);
    // What is no change of a domain's life has no kind; the tests of those read them for themselves.
    text.lines().filter(|line| line.contains("\"event\":\"lifecycle\"")).map(EventLine::parse).collect()
}
