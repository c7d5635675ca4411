//! Asks a QEMU without a guest what it can do.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use sandbox::policy::Role;
use serde_json::{Value, json};
use supervisor::{
    poll::{Interest, Poll, Ready},
    protocol::{Abilities, Answer, Failure, Machine, Payload, Probe, Request},
    wire::{Asked, Ticket, Wire},
};

use crate::{
    boot,
    keys::Source,
    log::Log,
    qemu::{self, Qemu},
    qmp::{AskError, Heard, Qmp},
};

/// The most names of one kind that are told. QEMU 9 has some 700 device types.
const NAMES_MAX: usize = 8192;
/// The longest name that is told.
const NAME_MAX: usize = 256;

/// What is asked, in the order of asking; the last answer ends the questions.
const QUESTIONS: [&str; 7] = [
    "qmp_capabilities",
    "query-version",
    "query-target",
    "query-machines",
    "query-cpu-definitions",
    "query-kvm",
    "qom-list-types",
];

/// A QEMU that is being asked.
struct Asking {
    ticket: Ticket,
    as_payload: bool,
    deadline_ms: u32,
    wire: Wire,
    qemu: Qemu,
    qmp: Qmp<usize>,
    log: Log,
    abilities: Abilities,
    left: usize,
    answered: bool,
    over: bool,
    /// When QEMU has had time enough.
    kill_at: Instant,
}

/// Starts the QEMU, answers control with what it can do, and ends it.
/// `as_payload` is version 4's form of the answer.
pub fn run(asked: &Asked, probe: &Probe, as_payload: bool, mut wire: Wire) {
    let started = boot::check_probe(probe, &asked.fds).and_then(|()| Qemu::start(&probe.argv, 0, &[]));
    let (qemu, monitor) = match started {
        Ok(started) => started,
        Err(failure) => return wire.answer(asked.ticket, Err(failure), Vec::new()),
    };
    let kill_at = Instant::now() + Duration::from_millis(u64::from(probe.deadline_ms));
    let mut asking = Asking {
        ticket: asked.ticket,
        as_payload,
        deadline_ms: probe.deadline_ms,
        wire,
        qemu,
        qmp: Qmp::new(monitor),
        log: Log,
        abilities: Abilities::default(),
        left: QUESTIONS.len(),
        answered: false,
        over: false,
        kill_at,
    };
    asking.ask_all();
    asking.serve();
}

impl Asking {
    fn ask_all(&mut self) {
        if let Err(error) = Role::Supervisor.install() {
            return self.give_up(boot::failed("confine the supervisor", &error));
        }
        for (number, question) in QUESTIONS.into_iter().enumerate() {
            let types = || json!({"implements": "device", "abstract": false});
            let arguments = (question == "qom-list-types").then(types);
            if let Err(error) = self.qmp.ask(question, arguments, number, self.kill_at) {
                return self.give_up(Failure::Qmp(error.to_string()));
            }
        }
    }

    fn serve(mut self) {
        let mut poll = match Poll::new() {
            Ok(poll) => poll,
            Err(error) => return self.log.line(&format!("cannot wait for anything: {error}")),
        };
        let mut ready = Vec::new();
        // Without a control nobody wants to know.
        while !self.over && self.wire.has_control() {
            self.name_sources(&mut poll);
            if let Err(error) = poll.wait(Some(self.kill_at), &mut ready) {
                return self.log.line(&format!("cannot wait for anything: {error}"));
            }
            for ready in ready.drain(..) {
                self.ready(ready);
            }
            if self.kill_at <= Instant::now() && !self.over {
                let command = "query-version".to_owned();
                self.give_up(Failure::Deadline { command, deadline_ms: self.deadline_ms });
                // Killed; that it has ended is told soon.
                self.kill_at += Duration::from_secs(1);
            }
        }
        self.qemu.kill();
    }

    fn name_sources(&self, poll: &mut Poll) {
        let mut want = |source: Source, fd, interest| drop(poll.want(source.key(), fd, interest));
        for (part, fd, interest) in self.wire.sources() {
            want(Source::Wire(part), fd, interest);
        }
        if let Some(pidfd) = &self.qemu.pidfd {
            want(Source::Process, pidfd.as_fd(), Interest::READ);
        }
        if let Some((fd, interest)) = self.qmp.source() {
            want(Source::Monitor, fd, interest);
        }
        if let Some(fd) = self.qemu.words.source() {
            want(Source::Words, fd, Interest::READ);
        }
    }

    fn ready(&mut self, ready: Ready) {
        match Source::of_key(ready.key) {
            Some(Source::Monitor) => {
                let mut heard = Vec::new();
                self.qmp.ready(ready, &mut heard);
                self.heard(heard);
            }
            Some(Source::Process) => self.process_ready(),
            Some(Source::Words) => drop(self.qemu.words.read(&mut self.log)),
            Some(Source::Wire(part)) => {
                let mut asked = Vec::new();
                self.wire.ready(part, ready, &mut asked);
                for Asked { ticket, request, .. } in asked {
                    self.asked(ticket, &request);
                }
            }
            _ => {}
        }
    }

    fn asked(&mut self, ticket: Ticket, request: &Request) {
        if matches!(request, Request::Destroy | Request::End { .. }) {
            self.wire.answer(ticket, Ok(Answer::Done), Vec::new());
            return self.qemu.kill();
        }
        let state = "not there: QEMU is being asked what it can do".to_owned();
        self.wire.answer(ticket, Err(Failure::WrongState { state }), Vec::new());
    }

    fn heard(&mut self, heard: Vec<Heard<usize>>) {
        for heard in heard {
            let Heard::Answer { command, result, .. } = heard else { continue };
            self.left = self.left.saturating_sub(1);
            match (command, result) {
                // A QEMU without KVM may not know the question, and some know no CPU models without a machine.
                (_, Ok(value)) => self.learn(command, &value),
                ("query-cpu-definitions" | "query-kvm" | "qom-list-types", Err(_)) => {}
                (_, Err(refusal)) => {
                    let failure = Failure::Refused { command: command.to_owned(), description: refusal.desc };
                    return self.give_up(failure);
                }
            }
        }
        if self.qmp.is_broken() {
            let why = self.qmp.lost().unwrap_or_default().to_owned();
            self.give_up(Failure::Qmp(why));
        } else if self.left == 0 && !self.answered {
            // What it said while it started was written before it answered.
            while self.qemu.words.read(&mut self.log) {}
            self.abilities.stderr = self.qemu.words.last();
            let abilities = std::mem::take(&mut self.abilities);
            let answer = if self.as_payload {
                Payload::new(&abilities).map(Answer::Payload).map_err(|error| Failure::Qmp(error.to_string()))
            } else {
                Ok(Answer::Abilities(Box::new(abilities.into())))
            };
            self.answer(answer);
            match self.qmp.ask("quit", None, 0, self.kill_at) {
                Ok(()) => {}
                Err(AskError::Busy | AskError::Lost(_)) => self.qemu.kill(),
            }
        }
    }

    fn learn(&mut self, command: &str, value: &Value) {
        let abilities = &mut self.abilities;
        match command {
            "query-version" => {
                let part = |name| number(value.get("qemu").and_then(|qemu| qemu.get(name)));
                abilities.version = (part("major"), part("minor"), part("micro"));
                abilities.package = text(value.get("package"));
            }
            "query-target" => abilities.target = text(value.get("arch")),
            "query-machines" => abilities.machines = items(value).map(machine).collect(),
            "query-cpu-definitions" => abilities.cpus = items(value).map(|cpu| text(cpu.get("name"))).collect(),
            "qom-list-types" => abilities.devices = items(value).map(|device| text(device.get("name"))).collect(),
            "query-kvm" => {
                abilities.kvm_present = flag(value.get("present"));
                abilities.kvm_enabled = flag(value.get("enabled"));
            }
            _ => {}
        }
    }

    fn give_up(&mut self, failure: Failure) {
        self.answer(Err(failure));
        self.qemu.kill();
    }

    fn answer(&mut self, answer: Result<Answer, Failure>) {
        if !std::mem::replace(&mut self.answered, true) {
            self.wire.answer(self.ticket, answer, Vec::new());
        }
    }

    fn process_ready(&mut self) {
        let Some(exit) = self.qemu.reap() else { return };
        self.over = true;
        self.qemu.words.finish(&mut self.log);
        let last_words = self.qemu.words.last();
        self.answer(Err(Failure::Exited { ended: qemu::clause(exit), last_words }));
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter().take(NAMES_MAX)
}

fn text(value: Option<&Value>) -> String {
    let text = value.and_then(Value::as_str).unwrap_or_default();
    text.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect()
}

fn number(value: Option<&Value>) -> u32 {
    value.and_then(Value::as_u64).and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
}

fn flag(value: Option<&Value>) -> bool {
    value.and_then(Value::as_bool).unwrap_or(false)
}

fn machine(value: &Value) -> Machine {
    Machine {
        name: text(value.get("name")),
        alias: value.get("alias").map(|alias| text(Some(alias))),
        default: flag(value.get("is-default")),
        max_cpus: number(value.get("cpu-max")),
        deprecated: flag(value.get("deprecated")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_read_and_strange_values_are_harmless() {
        let value =
            json!({"name": "pc-i440fx-7.2", "alias": "pc", "is-default": true, "cpu-max": 255, "deprecated": false});
        let expected = Machine {
            name: "pc-i440fx-7.2".into(),
            alias: Some("pc".into()),
            default: true,
            max_cpus: 255,
            deprecated: false,
        };
        assert_eq!(machine(&value), expected);
        assert_eq!(machine(&json!({"name": 7, "cpu-max": -1})), Machine::default());
        assert_eq!(items(&json!("no list")).count(), 0);
        assert_eq!(text(Some(&json!("a\u{1b}[2Jb"))), "a[2Jb");
    }
}
