//! The recorded bytes of every message of the control edge: a supervisor of an earlier release says these, and a control of
//! an earlier release did.
//!
//! `REGENERATE_GOLDEN=1 cargo test -p supervisor --test golden` writes what is missing. It never changes what is there: bytes
//! that a release has said stay.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers are part of the test")]

use std::{fmt::Debug, path::PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use supervisor::protocol::{
    AbilitiesV1, Action, Answer, Attach, Attached, Balloon, Begin, Block, Boot, Copy, Event, Failure, Happening, Job,
    JobKind, JobState, MachineV1, Measure, Measured, Message, News, Notice, OpenConsole, Payload, Probe, Request,
    Start, Status,
    qemu::{AttachSpec, BootSpec, FileKind, FileSpec, Place, ProbeSpec, ShutdownSpec},
};

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n");
    lines.collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// Where the bytes are that came with a release: `v1` is the first one and those that were added up to version 3.
fn directory(version: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version)
}

/// Compares a message with its recorded bytes, both ways.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: &T) {
    let recorded_in = |version| directory(version).join(name).with_extension("hex");
    let path = Some(recorded_in("v1")).filter(|path| path.exists()).unwrap_or_else(|| recorded_in("v4"));
    let mut bytes = Vec::new();
    ipc::codec::encode_into(message, &mut bytes).unwrap();
    if std::env::var_os("REGENERATE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, hex(&bytes)).unwrap();
    }
    let recorded = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{name} has no recorded bytes ({error}); see the head of this test"));
    let recorded = unhex(&recorded);
    assert_eq!(&ipc::codec::decode::<T>(&recorded).unwrap(), message, "{name}");
    assert_eq!(hex(&bytes), hex(&recorded), "{name}");
}

fn boot() -> Boot {
    Boot {
        name: "web".into(),
        argv: vec!["/usr/bin/qemu-system-x86_64".into(), "-S".into()],
        consoles: 2,
        files: 3,
        copies: vec![Copy { file: 1, name: "kernel".into() }],
        paused: true,
        on_poweroff: Action::Destroy,
        on_reboot: Action::Restart,
        on_crash: Action::Preserve,
        deadline_ms: 30_000,
        record: "<domain/>".into(),
    }
}

fn start() -> Start {
    let spec = BootSpec::from(boot());
    Start { job: 300, name: "web".into(), record: "<domain/>".into(), spec: Payload::new(&spec).unwrap() }
}

fn attach() -> Attach {
    let file = |kind, writable| FileSpec { kind, writable };
    let files = vec![file(FileKind::Disk, true), file(FileKind::Character, false), file(FileKind::Socket, true)];
    let spec = AttachSpec { place: Place::Named, files };
    Attach { name: "disk-vdb".into(), spec: Payload::new(&spec).unwrap() }
}

fn job() -> Job {
    Job {
        id: 300,
        kind: JobKind::SHUTDOWN,
        state: JobState::STALLED,
        age_ms: 61_000,
        quiet_ms: 60_000,
        done: 1,
        total: 2,
        cancellable: true,
        stall_ms: 60_000,
        text: "the guest did not power off".into(),
    }
}

/// The name of a request's file. Without a wildcard, so that a new request can't be forgotten.
fn request_name(request: &Request) -> &'static str {
    match request {
        Request::Boot(_) => "request-boot",
        Request::Probe(_) => "request-probe",
        Request::Status => "request-status",
        Request::Suspend => "request-suspend",
        Request::Resume => "request-resume",
        Request::Shutdown => "request-shutdown",
        Request::Reboot => "request-reboot",
        Request::Reset => "request-reset",
        Request::Destroy => "request-destroy",
        Request::OpenConsole(_) => "request-open-console",
        Request::Events { .. } => "request-events",
        Request::Record => "request-record",
        Request::Measure(_) => "request-measure",
        Request::InjectNmi => "request-inject-nmi",
        Request::SendKeys { .. } => "request-send-keys",
        Request::SetBalloon { .. } => "request-set-balloon",
        Request::Monitor { .. } => "request-monitor",
        Request::Keep(_) => "request-keep",
        Request::Start(_) => "request-start",
        Request::Examine(_) => "request-examine",
        Request::Attach(_) => "request-attach",
        Request::Detach { .. } => "request-detach",
        Request::Begin(_) => "request-begin",
        Request::Jobs => "request-jobs",
        Request::JobCancel { .. } => "request-job-cancel",
        Request::End { .. } => "request-end",
    }
}

#[test]
fn every_request_of_every_release_decodes() {
    let requests = [
        Request::Boot(boot()),
        Request::Probe(Probe { argv: vec!["/usr/bin/qemu-system-x86_64".into()], deadline_ms: 5000 }),
        Request::Status,
        Request::Suspend,
        Request::Resume,
        Request::Shutdown,
        Request::Reboot,
        Request::Reset,
        Request::Destroy,
        Request::OpenConsole(OpenConsole { console: 1, read_only: true, force: false }),
        Request::Events { after: 300 },
        Request::Record,
        Request::Measure(Measure { balloon: true, blocks: false, deadline_ms: 1000 }),
        Request::InjectNmi,
        Request::SendKeys { codes: vec![29, 56, 0xd3], hold_ms: 100 },
        Request::SetBalloon { bytes: 64 << 20 },
        Request::Monitor { command: "{\"execute\":\"query-status\"}".into(), human: false },
        Request::Keep("<domain/>".into()),
        Request::Start(start()),
        Request::Examine(Payload::new(&ProbeSpec { argv: vec!["/q".into()], deadline_ms: 5000 }).unwrap()),
        Request::Attach(attach()),
        Request::Detach { name: "disk-vdb".into() },
        Request::Begin(Begin {
            id: 301,
            stall_ms: 60_000,
            spec: Payload::new(&ShutdownSpec { reboot: true }).unwrap(),
        }),
        Request::Jobs,
        Request::JobCancel { id: 301 },
        Request::End { graceful: true, within_ms: 15_000 },
    ];
    for request in &requests {
        check(request_name(request), request);
    }
}

/// As [`request_name`].
fn message_name(message: &Message) -> &'static str {
    match message {
        Message::Event(_) => "event",
        Message::Notice(_) => "notice",
        Message::News(News { what: Happening::Event(_), .. }) => "news-event",
        Message::News(News { what: Happening::Notice(_), .. }) => "news-notice",
        Message::Job(_) => "job",
        Message::Answer(Ok(Answer::Done)) => "answer-done",
        Message::Answer(Ok(Answer::Status(_))) => "answer-status",
        Message::Answer(Ok(Answer::Abilities(_))) => "answer-abilities",
        Message::Answer(Ok(Answer::Record(_))) => "answer-record",
        Message::Answer(Ok(Answer::Measured(_))) => "answer-measured",
        Message::Answer(Ok(Answer::Said(_))) => "answer-said",
        Message::Answer(Ok(Answer::Payload(_))) => "answer-payload",
        Message::Answer(Ok(Answer::Attached(_))) => "answer-attached",
        Message::Answer(Ok(Answer::Jobs(_))) => "answer-jobs",
        Message::Answer(Err(failure)) => match failure {
            Failure::Deadline { .. } => "failure-deadline",
            Failure::Refused { .. } => "failure-refused",
            Failure::Exited { .. } => "failure-exited",
            Failure::Spawn { .. } => "failure-spawn",
            Failure::WrongState { .. } => "failure-wrong-state",
            Failure::NoSuchConsole { .. } => "failure-no-such-console",
            Failure::ConsoleBusy => "failure-console-busy",
            Failure::ConsoleFull(_) => "failure-console-full",
            Failure::Qmp(_) => "failure-qmp",
            Failure::BadRequest(_) => "failure-bad-request",
            Failure::Busy(_) => "failure-busy",
            Failure::NoSuchJob(_) => "failure-no-such-job",
            Failure::NotCancellable(_) => "failure-not-cancellable",
            Failure::JobExists(_) => "failure-job-exists",
            Failure::JobConflict(_) => "failure-job-conflict",
            Failure::NotAttached(_) => "failure-not-attached",
            Failure::AttachedAlready(_) => "failure-attached-already",
            Failure::StillThere(_) => "failure-still-there",
            Failure::Cancelled(_) => "failure-cancelled",
        },
    }
}

fn status() -> Status {
    Status {
        name: "web".into(),
        state: 1,
        reason: 5,
        cpu_time_ns: 1_234_567_890_123,
        last_event: 7,
        started_seconds: 1_790_000_000,
        stuck: true,
    }
}

fn abilities() -> AbilitiesV1 {
    AbilitiesV1 {
        version: (7, 2, 22),
        package: "Debian 1:7.2".into(),
        target: "x86_64".into(),
        machines: vec![MachineV1 {
            name: "pc-i440fx-7.2".into(),
            alias: Some("pc".into()),
            default: true,
            max_cpus: 255,
            deprecated: false,
        }],
        cpus: vec!["qemu64".into()],
        devices: vec!["virtio-blk-pci".into()],
        kvm_present: true,
        kvm_enabled: false,
        stderr: "Could not access KVM".into(),
    }
}

fn measured() -> Measured {
    let block = Block {
        device: "virtio-disk-vda".into(),
        rd_reqs: 1,
        rd_bytes: 512,
        rd_times: 198_657,
        wr_reqs: 2,
        wr_bytes: 1024,
        wr_times: 3,
        fl_reqs: 4,
        fl_times: 5,
        highest: 4096,
        capacity: Some(8 << 20),
        physical: None,
    };
    Measured {
        balloon: Some(Balloon { actual_kib: 65_536, stats: vec![(9, 0)] }),
        blocks: Some(vec![block]),
        failure: Some(Failure::ConsoleBusy),
    }
}

fn event() -> Event {
    Event {
        sequence: 9,
        seconds: 1_790_000_001,
        nanos: 999_999_999,
        event: 5,
        detail: 2,
        state: 5,
        reason: 3,
        text: Some("QEMU was killed by signal 9".into()),
    }
}

fn notice() -> Notice {
    Notice {
        sequence: 300,
        seconds: 1_790_000_002,
        nanos: 1,
        kind: 4,
        number: -1,
        texts: vec!["/d/a.img".into(), "virtio-disk-vda".into(), String::new()],
    }
}

#[test]
fn every_message_of_every_release_decodes() {
    let text = String::from;
    let answers = [
        Answer::Done,
        Answer::Status(status()),
        Answer::Abilities(Box::new(abilities())),
        Answer::Record("x".into()),
        Answer::Measured(Box::new(measured())),
        Answer::Said("VM status: running\r\n".into()),
        Answer::Payload(Payload::new(&supervisor::protocol::Abilities::from(abilities())).unwrap()),
        Answer::Attached(Attached { reference: "/dev/fdset/65536".into() }),
        Answer::Jobs(vec![job()]),
    ];
    let failures = [
        Failure::Deadline { command: text("stop"), deadline_ms: 1000 },
        Failure::Refused { command: text("cont"), description: text("no") },
        Failure::Exited { ended: text("exited with status 1"), last_words: text("no such device") },
        Failure::Spawn { step: text("run the program"), cause: text("No such file or directory") },
        Failure::WrongState { state: text("paused") },
        Failure::NoSuchConsole { console: 3, have: 1 },
        Failure::ConsoleBusy,
        Failure::ConsoleFull(16),
        Failure::Qmp(text("not QMP")),
        Failure::BadRequest(text("no")),
        Failure::Busy(64),
        Failure::NoSuchJob(300),
        Failure::NotCancellable(300),
        Failure::JobExists(300),
        Failure::JobConflict(300),
        Failure::NotAttached(text("disk-vdb")),
        Failure::AttachedAlready(text("disk-vdb")),
        Failure::StillThere(15_000),
        Failure::Cancelled(300),
    ];
    let answers = answers.map(|answer| Message::Answer(Ok(answer)));
    let failures = failures.map(|failure| Message::Answer(Err(failure)));
    let news = |what| Message::News(News { lost: 300, what });
    let others = [
        Message::Event(event()),
        Message::Notice(notice()),
        news(Happening::Event(event())),
        news(Happening::Notice(notice())),
        Message::Job(job()),
    ];
    for message in answers.iter().chain(&failures).chain(&others) {
        check(message_name(message), message);
    }
}

#[test]
fn every_record_is_still_checked() {
    let count = |version| std::fs::read_dir(directory(version)).unwrap().count();
    assert_eq!((count("v1"), count("v4")), (18 + 19, 8 + 14), "a recorded message is no longer checked");
}
