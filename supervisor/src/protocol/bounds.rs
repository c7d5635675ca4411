//! How much a supervisor may say. It has the rights of its guest, so control checks each message before it keeps any of it.
//!
//! A supervisor of version 4 cuts its own messages to these bounds ([`Message::bounded`]), so from it an excess is a lie
//! ([`Message::checked`]). Earlier ones pass on QEMU's words uncut; bound what they say.

use thiserror::Error;

use super::{
    AbilitiesV1, Answer, Event, Failure, Happening, Job, MAX_BLOCKS, MAX_BODY, MAX_JOBS, MAX_KIND, MAX_RECORD,
    MAX_SEQUENCE, Measured, Message, Notice, Payload, Status,
};

/// The longest text of a failure, an event or a job, in bytes: QEMU's last words are 2 KiB.
pub const MAX_TEXT: usize = 4 << 10;
/// The longest name (of a guest, a device, a command, a machine type), in bytes.
pub const MAX_NAME: usize = 1024;
/// The longest answer of QEMU's monitor, in bytes.
pub const MAX_SAID: usize = 1 << 20;
/// The most names of one kind in [`AbilitiesV1`].
pub const MAX_ABILITIES: usize = 8192;
/// The most statistics of a balloon.
pub const MAX_BALLOON_STATS: usize = 64;
/// The most texts of a notice.
pub const MAX_NOTICE_TEXTS: usize = 4;

/// A message has more in it than it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{what} of {found} is over the limit of {most}")]
pub struct Excess {
    /// What is too long, too many or too high.
    pub what: &'static str,
    /// Its length, number or value.
    pub found: u64,
    /// The limit.
    pub most: u64,
}

impl Message {
    /// The message with no more in it than it may have: texts and lists are cut, numbers lowered.
    #[must_use]
    pub fn bounded(mut self) -> Message {
        Limits::default().message(&mut self);
        self
    }

    /// The message, if there is no more in it than there may be.
    ///
    /// # Errors
    /// The first excess.
    pub fn checked(mut self) -> Result<Message, Excess> {
        let mut limits = Limits::default();
        limits.message(&mut self);
        limits.excess.map_or(Ok(self), Err)
    }
}

/// Walks through a message, cuts what is too long, and notes the first excess.
#[derive(Default)]
struct Limits {
    excess: Option<Excess>,
}

impl Limits {
    fn note(&mut self, what: &'static str, found: usize, most: usize) {
        let wide = |value| u64::try_from(value).unwrap_or(u64::MAX);
        self.excess.get_or_insert(Excess { what, found: wide(found), most: wide(most) });
    }

    fn text(&mut self, what: &'static str, text: &mut String, most: usize) {
        if text.len() > most {
            self.note(what, text.len(), most);
            let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
            text.shrink_to_fit();
        }
    }

    fn list<T>(&mut self, what: &'static str, list: &mut Vec<T>, most: usize) {
        if list.len() > most {
            self.note(what, list.len(), most);
            list.truncate(most);
        }
    }

    fn names(&mut self, what: &'static str, names: &mut Vec<String>) {
        self.list(what, names, MAX_ABILITIES);
        for name in names {
            self.text(what, name, MAX_NAME);
        }
    }

    fn sequence(&mut self, sequence: &mut u64) {
        if *sequence > MAX_SEQUENCE {
            self.excess.get_or_insert(Excess { what: "a number", found: *sequence, most: MAX_SEQUENCE });
            *sequence = MAX_SEQUENCE;
        }
    }

    fn message(&mut self, message: &mut Message) {
        match message {
            Message::Answer(Ok(answer)) => self.answer(answer),
            Message::Answer(Err(failure)) => self.failure(failure),
            Message::Event(event) => self.event(event),
            Message::Notice(notice) => self.notice(notice),
            Message::News(news) => {
                self.sequence(&mut news.lost);
                match &mut news.what {
                    Happening::Event(event) => self.event(event),
                    Happening::Notice(notice) => self.notice(notice),
                }
            }
            Message::Job(job) => self.job(job),
        }
    }

    fn answer(&mut self, answer: &mut Answer) {
        match answer {
            Answer::Done => {}
            Answer::Status(status) => self.status(status),
            Answer::Abilities(abilities) => self.abilities(abilities),
            Answer::Record(record) => self.text("a record", record, MAX_RECORD),
            Answer::Measured(measured) => self.measured(measured),
            Answer::Said(said) => self.text("an answer of the monitor", said, MAX_SAID),
            Answer::Payload(payload) => self.payload(payload),
            Answer::Attached(attached) => self.text("a reference", &mut attached.reference, MAX_NAME),
            Answer::Jobs(jobs) => {
                self.list("a list of jobs", jobs, MAX_JOBS);
                for job in jobs {
                    self.job(job);
                }
            }
        }
    }

    fn payload(&mut self, payload: &mut Payload) {
        self.text("a payload's kind", &mut payload.kind, MAX_KIND);
        self.text("a payload", &mut payload.body, MAX_BODY);
    }

    fn status(&mut self, status: &mut Status) {
        self.text("a guest's name", &mut status.name, MAX_NAME);
        self.sequence(&mut status.last_event);
    }

    fn abilities(&mut self, abilities: &mut AbilitiesV1) {
        self.text("a package", &mut abilities.package, MAX_NAME);
        self.text("a target", &mut abilities.target, MAX_NAME);
        self.text("a program's words", &mut abilities.stderr, MAX_TEXT);
        self.names("CPU models", &mut abilities.cpus);
        self.names("device types", &mut abilities.devices);
        self.list("machine types", &mut abilities.machines, MAX_ABILITIES);
        for machine in &mut abilities.machines {
            self.text("a machine type", &mut machine.name, MAX_NAME);
            if let Some(alias) = &mut machine.alias {
                self.text("a machine type", alias, MAX_NAME);
            }
        }
    }

    fn measured(&mut self, measured: &mut Measured) {
        if let Some(balloon) = &mut measured.balloon {
            self.list("memory statistics", &mut balloon.stats, MAX_BALLOON_STATS);
        }
        if let Some(blocks) = &mut measured.blocks {
            self.list("block devices", blocks, MAX_BLOCKS);
            for block in blocks {
                self.text("a device's name", &mut block.device, MAX_NAME);
            }
        }
        if let Some(failure) = &mut measured.failure {
            self.failure(failure);
        }
    }

    fn event(&mut self, event: &mut Event) {
        self.sequence(&mut event.sequence);
        if let Some(text) = &mut event.text {
            self.text("an event's text", text, MAX_TEXT);
        }
    }

    fn notice(&mut self, notice: &mut Notice) {
        self.sequence(&mut notice.sequence);
        self.list("a notice's texts", &mut notice.texts, MAX_NOTICE_TEXTS);
        for text in &mut notice.texts {
            self.text("a notice's text", text, MAX_TEXT);
        }
    }

    fn job(&mut self, job: &mut Job) {
        self.text("a job's text", &mut job.text, MAX_TEXT);
    }

    fn failure(&mut self, failure: &mut Failure) {
        match failure {
            Failure::Deadline { command, .. } => self.text("a command", command, MAX_NAME),
            Failure::Refused { command, description: cause }
            | Failure::Exited { ended: command, last_words: cause }
            | Failure::Spawn { step: command, cause } => {
                self.text("a command", command, MAX_NAME);
                self.text("a failure's cause", cause, MAX_TEXT);
            }
            Failure::WrongState { state: text }
            | Failure::Qmp(text)
            | Failure::BadRequest(text)
            | Failure::NotAttached(text)
            | Failure::AttachedAlready(text) => self.text("a failure's cause", text, MAX_TEXT),
            Failure::NoSuchConsole { .. }
            | Failure::ConsoleBusy
            | Failure::ConsoleFull(_)
            | Failure::Busy(_)
            | Failure::NoSuchJob(_)
            | Failure::NotCancellable(_)
            | Failure::JobExists(_)
            | Failure::JobConflict(_)
            | Failure::StillThere(_)
            | Failure::Cancelled(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Attached, Balloon, Block, MachineV1, News};

    fn long() -> String {
        "é".repeat(MAX_SAID)
    }

    fn excessive() -> Vec<Message> {
        let names = || vec![long(); 2];
        let abilities = AbilitiesV1 {
            package: long(),
            target: long(),
            machines: vec![MachineV1 { name: long(), alias: Some(long()), ..MachineV1::default() }],
            cpus: names(),
            devices: vec![String::new(); MAX_ABILITIES + 1],
            stderr: long(),
            ..AbilitiesV1::default()
        };
        let measured = Measured {
            balloon: Some(Balloon { actual_kib: 0, stats: vec![(0, 0); MAX_BALLOON_STATS + 1] }),
            blocks: Some(vec![Block::default(); MAX_BLOCKS + 1]),
            failure: Some(Failure::Qmp(long())),
        };
        let event =
            |sequence, text| Event { sequence, seconds: 0, nanos: 0, event: 0, detail: 0, state: 0, reason: 0, text };
        let notice = Notice { sequence: 1, seconds: 0, nanos: 0, kind: 0, number: 0, texts: vec![String::new(); 5] };
        let answers = [
            Answer::Abilities(Box::new(abilities)),
            Answer::Measured(Box::new(measured)),
            Answer::Record(long()),
            Answer::Said(long()),
            Answer::Payload(Payload { kind: long(), version: 1, body: long() }),
            Answer::Attached(Attached { reference: long() }),
        ];
        let failures = [
            Failure::Deadline { command: long(), deadline_ms: 1 },
            Failure::Refused { command: long(), description: long() },
            Failure::Exited { ended: long(), last_words: long() },
            Failure::Spawn { step: long(), cause: long() },
            Failure::WrongState { state: long() },
            Failure::BadRequest(long()),
            Failure::NotAttached(long()),
            Failure::AttachedAlready(long()),
        ];
        let mut all: Vec<Message> = answers.map(|answer| Message::Answer(Ok(answer))).into();
        all.extend(failures.map(|failure| Message::Answer(Err(failure))));
        all.push(Message::Event(event(u64::MAX, None)));
        all.push(Message::Event(event(1, Some(long()))));
        all.push(Message::News(News { lost: u64::MAX, what: Happening::Event(event(1, None)) }));
        all.push(Message::News(News { lost: 0, what: Happening::Notice(notice.clone()) }));
        all.push(Message::Notice(notice));
        all
    }

    #[test]
    fn an_excess_is_found_and_cut_wherever_it_is() {
        for message in excessive() {
            let excess = message.clone().checked().unwrap_err();
            assert!(excess.found > excess.most, "{excess}");
            let bounded = message.bounded();
            assert_eq!(bounded.clone().checked(), Ok(bounded));
        }
    }

    #[test]
    fn what_is_at_the_limit_passes() {
        let said = Message::Answer(Ok(Answer::Said("x".repeat(MAX_SAID))));
        assert_eq!(said.clone().checked(), Ok(said));
        let record = Message::Answer(Ok(Answer::Record("x".repeat(MAX_RECORD))));
        assert_eq!(record.clone().checked(), Ok(record));
    }
}
