//! Numbers of a running guest: what is asked of QEMU at once, collected into one answer.
//!
//! QEMU tells of each change of the balloon, so that is asked for once; and what the guest's own driver reports only where
//! somebody has made QEMU ask it. Who asks while the same question is under way is answered with it, so no number of clients makes QEMU work more. A QEMU
//! that owes an answer already is not asked: what it cannot say is absent, and who asked has the rest at once.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use supervisor::{
    protocol::{Answer, Balloon, Block, Failure, MAX_BLOCKS, Measure, Measured},
    wire::Ticket,
};

use super::{Guest, Tag};
use crate::qmp::{AskError, OUTSTANDING_MAX};

/// How many different questions may be under way.
const MEASURING_MAX: usize = 8;
/// How many may wait for the answer to one.
const TICKETS_MAX: usize = 1024;
/// The longest name of a device that is told.
const DEVICE_MAX: usize = 128;
/// What QEMU says of a statistic that the guest's driver has not told.
const UNTOLD: u64 = u64::MAX;
/// Where the balloon is, by the name that control gives to it.
const BALLOON: &str = "/machine/peripheral/balloon0";
/// libvirt's tag for the time of the guest driver's last report.
const LAST_UPDATE: i32 = 9;

/// The statistics of a guest's driver: QEMU's name, libvirt's tag, and by how much a value is divided for libvirt's unit.
const MEMORY_STATS: [(&str, i32, u64); 10] = [
    ("stat-swap-in", 0, 1024),
    ("stat-swap-out", 1, 1024),
    ("stat-major-faults", 2, 1),
    ("stat-minor-faults", 3, 1),
    ("stat-free-memory", 4, 1024),
    ("stat-total-memory", 5, 1024),
    ("stat-available-memory", 8, 1024),
    ("stat-disk-caches", 10, 1024),
    ("stat-htlb-pgalloc", 11, 1),
    ("stat-htlb-pgfail", 12, 1),
];

/// One command of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Balloon,
    GuestStats,
    BlockStats,
    Blocks,
}

impl Part {
    fn of(measure: Measure) -> Vec<Part> {
        let balloon = [Part::Balloon, Part::GuestStats].into_iter().filter(|_| measure.balloon);
        balloon.chain([Part::BlockStats, Part::Blocks].into_iter().filter(|_| measure.blocks)).collect()
    }

    fn command(self) -> &'static str {
        match self {
            Part::Balloon => "query-balloon",
            Part::GuestStats => "qom-get",
            Part::BlockStats => "query-blockstats",
            Part::Blocks => "query-block",
        }
    }

    fn arguments(self) -> Option<Value> {
        (self == Part::GuestStats).then(|| json!({"path": BALLOON, "property": "guest-stats"}))
    }
}

/// What is known of the balloon without asking.
#[derive(Debug, Default)]
pub(super) struct BalloonState {
    /// What it leaves to the guest, once QEMU has said so.
    actual_kib: Option<u64>,
    /// Somebody may have told QEMU to ask the guest's driver for more.
    pub(super) polled: bool,
}

/// A question that is under way.
#[derive(Debug)]
pub(super) struct Measuring {
    number: u32,
    wanted: Measure,
    tickets: Vec<Ticket>,
    /// Commands whose answers are still to come.
    left: usize,
    actual_kib: Option<u64>,
    memory: Vec<(i32, u64)>,
    blocks: Option<Vec<Block>>,
    sizes: HashMap<String, (u64, Option<u64>)>,
    failure: Option<Failure>,
}

impl Measuring {
    fn take(&mut self, part: Part, value: &Value) {
        match part {
            Part::Balloon => self.actual_kib = number(value, "actual").map(|bytes| bytes / 1024),
            Part::GuestStats => self.memory = memory_stats(value),
            Part::BlockStats => self.blocks = Some(block_stats(value)),
            Part::Blocks => self.sizes = sizes(value),
        }
    }

    fn finish(mut self) -> (Vec<Ticket>, Measured) {
        for block in self.blocks.iter_mut().flatten() {
            if let Some((capacity, physical)) = self.sizes.remove(&block.device) {
                (block.capacity, block.physical) = (Some(capacity), physical);
            }
        }
        let memory = self.memory;
        let balloon = self.actual_kib.map(|actual_kib| Balloon { actual_kib, stats: memory });
        (self.tickets, Measured { balloon, blocks: self.blocks, failure: self.failure })
    }
}

impl Guest {
    /// Asks QEMU, unless the same question is under way already.
    pub(super) fn measure(&mut self, ticket: Ticket, wanted: Measure) {
        let same = |under_way: &&mut Measuring| {
            (under_way.wanted.balloon, under_way.wanted.blocks) == (wanted.balloon, wanted.blocks)
        };
        let known = |failure| Ok(Answer::Measured(Box::new(Measured { failure, ..Measured::default() })));
        match self.measuring.iter_mut().find(same) {
            Some(under_way) if under_way.tickets.len() < TICKETS_MAX => return under_way.tickets.push(ticket),
            Some(_) => return self.wire.answer(ticket, known(Some(busy())), Vec::new()),
            None => {}
        }
        if !self.lives() {
            return self.refuse(ticket);
        }
        let parts: Vec<Part> = Part::of(wanted).into_iter().filter(|part| self.must_ask(*part)).collect();
        let actual_kib = self.balloon.actual_kib.filter(|_| wanted.balloon);
        if parts.is_empty() {
            let balloon = actual_kib.map(|actual_kib| Balloon { actual_kib, stats: Vec::new() });
            let measured = Measured { balloon, ..Measured::default() };
            return self.wire.answer(ticket, Ok(Answer::Measured(Box::new(measured))), Vec::new());
        }
        if self.qmp.is_stuck() || self.measuring.len() >= MEASURING_MAX {
            let command = parts.first().map_or("", |part| part.command()).to_owned();
            let failure = Failure::Deadline { command, deadline_ms: self.deadline_ms() };
            return self.wire.answer(ticket, known(Some(failure)), Vec::new());
        }
        self.question = self.question.wrapping_add(1);
        self.measuring.push(Measuring {
            number: self.question,
            wanted,
            tickets: vec![ticket],
            left: parts.len(),
            actual_kib,
            memory: Vec::new(),
            blocks: None,
            sizes: HashMap::new(),
            failure: None,
        });
        self.ask_parts(self.question, wanted, &parts);
    }

    /// Whether a part is not known anyway.
    fn must_ask(&self, part: Part) -> bool {
        match part {
            Part::Balloon => self.balloon.actual_kib.is_none(),
            Part::GuestStats => self.balloon.polled,
            Part::BlockStats | Part::Blocks => true,
        }
    }

    /// QEMU has told of a balloon of another size.
    pub(super) fn balloon_changed(&mut self, data: &Value) {
        if let Some(bytes) = number(data, "actual") {
            self.balloon.actual_kib = Some(bytes / 1024);
        }
    }

    fn ask_parts(&mut self, number: u32, wanted: Measure, parts: &[Part]) {
        let deadline = self.deadline.min(Duration::from_millis(u64::from(wanted.deadline_ms)));
        let until = Instant::now() + deadline;
        for part in parts {
            match self.qmp.ask(part.command(), part.arguments(), Tag::Part(number, *part), until) {
                Ok(()) => {}
                Err(AskError::Busy) => self.part_failed(number, busy()),
                Err(AskError::Lost(why)) => self.part_failed(number, Failure::Qmp(why)),
            }
        }
    }

    /// QEMU has answered a part.
    pub(super) fn part_answered(&mut self, number: u32, part: Part, value: &Value) {
        if let Some(measuring) = self.measuring.iter_mut().find(|measuring| measuring.number == number) {
            measuring.take(part, value);
            if part == Part::Balloon {
                self.balloon.actual_kib = measuring.actual_kib;
            }
        }
        self.part_is_over(number);
    }

    /// A part has no answer.
    pub(super) fn part_failed(&mut self, number: u32, mut failure: Failure) {
        let own = self.deadline_ms();
        if let Some(measuring) = self.measuring.iter_mut().find(|measuring| measuring.number == number) {
            if let Failure::Deadline { deadline_ms, .. } = &mut failure {
                *deadline_ms = own.min(measuring.wanted.deadline_ms);
            }
            measuring.failure.get_or_insert(failure);
        }
        self.part_is_over(number);
    }

    fn part_is_over(&mut self, number: u32) {
        let Some(at) = self.measuring.iter().position(|measuring| measuring.number == number) else { return };
        let Some(measuring) = self.measuring.get_mut(at) else { return };
        measuring.left = measuring.left.saturating_sub(1);
        if measuring.left > 0 {
            return;
        }
        let (tickets, measured) = self.measuring.swap_remove(at).finish();
        for ticket in tickets {
            self.wire.answer(ticket, Ok(Answer::Measured(Box::new(measured.clone()))), Vec::new());
        }
    }

    /// QEMU has ended: nobody answers any more.
    pub(super) fn end_measuring(&mut self, failure: &Failure) {
        for ticket in std::mem::take(&mut self.measuring).into_iter().flat_map(|measuring| measuring.tickets) {
            self.wire.answer(ticket, Err(failure.clone()), Vec::new());
        }
    }
}

fn busy() -> Failure {
    Failure::Busy(u32::try_from(OUTSTANDING_MAX).unwrap_or(u32::MAX))
}

fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

/// The name that control gave to the device behind a path of QEMU's.
fn device_of(entry: &Value) -> Option<String> {
    let path = entry.get("qdev").and_then(Value::as_str)?;
    let path = path.strip_prefix("/machine/peripheral/").unwrap_or(path);
    let name = path.strip_suffix("/virtio-backend").unwrap_or(path);
    (name.len() <= DEVICE_MAX).then(|| name.to_owned())
}

fn memory_stats(value: &Value) -> Vec<(i32, u64)> {
    let told = |key: &str| number(value.get("stats")?, key).filter(|value| *value != UNTOLD);
    let stats = MEMORY_STATS.iter().filter_map(|(key, tag, unit)| Some((*tag, told(key)? / unit)));
    stats.chain(number(value, "last-update").map(|seconds| (LAST_UPDATE, seconds))).collect()
}

fn entries(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten().take(MAX_BLOCKS)
}

fn block_stats(value: &Value) -> Vec<Block> {
    let block = |entry: &Value| {
        let stats = entry.get("stats")?;
        let told = |key: &str| number(stats, key).unwrap_or_default();
        Some(Block {
            device: device_of(entry)?,
            rd_reqs: told("rd_operations"),
            rd_bytes: told("rd_bytes"),
            rd_times: told("rd_total_time_ns"),
            wr_reqs: told("wr_operations"),
            wr_bytes: told("wr_bytes"),
            wr_times: told("wr_total_time_ns"),
            fl_reqs: told("flush_operations"),
            fl_times: told("flush_total_time_ns"),
            highest: told("wr_highest_offset"),
            capacity: None,
            physical: None,
        })
    };
    entries(value).filter_map(block).collect()
}

/// How large each device's medium is, and how much of the host's storage it takes.
fn sizes(value: &Value) -> HashMap<String, (u64, Option<u64>)> {
    let size = |entry: &Value| {
        let image = entry.get("inserted")?.get("image")?;
        Some((device_of(entry)?, (number(image, "virtual-size")?, number(image, "actual-size"))))
    };
    entries(value).filter_map(size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_statistics_and_sizes_find_each_other_by_device() {
        let stats = json!([
            {"device": "", "qdev": "/machine/peripheral/virtio-disk-vda/virtio-backend",
             "stats": {"rd_operations": 1, "rd_bytes": 512, "wr_highest_offset": 7, "rd_total_time_ns": 9}},
            {"device": "", "qdev": "sata-disk-sda", "stats": {"flush_operations": 3}},
            {"device": "no qdev", "stats": {}},
            {"qdev": "x".repeat(1000), "stats": {}},
            17,
        ]);
        let blocks = block_stats(&stats);
        let names: Vec<&str> = blocks.iter().map(|block| block.device.as_str()).collect();
        assert_eq!(names, ["virtio-disk-vda", "sata-disk-sda"]);
        assert_eq!((blocks[0].rd_reqs, blocks[0].rd_bytes, blocks[0].rd_times, blocks[0].highest), (1, 512, 9, 7));
        assert_eq!(blocks[1].fl_reqs, 3);
        let sizes = sizes(&json!([
            {"qdev": "/machine/peripheral/virtio-disk-vda/virtio-backend",
             "inserted": {"image": {"virtual-size": 8192, "actual-size": 4096}}},
            {"qdev": "sata-disk-sda", "removable": true},
        ]));
        assert_eq!(sizes.get("virtio-disk-vda"), Some(&(8192, Some(4096))));
        assert_eq!(sizes.len(), 1, "an empty drive has no size");
    }

    #[test]
    fn what_the_guest_s_driver_has_not_told_is_not_told() {
        let stats = memory_stats(&json!({
            "stats": {"stat-free-memory": 4096, "stat-swap-in": UNTOLD, "stat-major-faults": 5, "stat-total-memory": -1},
            "last-update": 0,
        }));
        assert_eq!(stats, [(2, 5), (4, 4), (9, 0)]);
        assert_eq!(memory_stats(&json!("nonsense")), []);
    }

    #[test]
    fn a_question_is_as_long_as_what_is_wanted() {
        let measure = |balloon, blocks| Part::of(Measure { balloon, blocks, deadline_ms: 1 }).len();
        assert_eq!((measure(false, false), measure(true, false), measure(true, true)), (0, 2, 4));
    }
}
