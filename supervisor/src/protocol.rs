//! What control and a guest's supervisor say to each other.
//!
//! Control asks with a serial and gets exactly one [`Answer`] of that serial; [`Message::Event`] comes with serial 0 when
//! something happens, and so does [`Message::Notice`]. A supervisor outlives an upgrade of qemud, so a message here is never changed or moved: new ones are
//! added at the end of an enum, and the recorded bytes of every message must decode for ever.
//!
//! | version | what it brought |
//! |---|---|
//! | 1 | boot, probe, life-cycle requests, consoles, events |
//! | 2 | [`Request::Measure`], [`Request::InjectNmi`], [`Request::SendKeys`], [`Request::SetBalloon`], [`Request::Monitor`], [`Request::Keep`] |
//! | 3 | [`Message::Notice`] |
//! | 4 | [`Payload`]s by kind of guest ([`Request::Start`], [`Request::Examine`]), descriptors for a running guest ([`Request::Attach`], [`Request::Detach`]), jobs ([`Request::Begin`], [`Request::Jobs`], [`Request::JobCancel`], [`Message::Job`]), [`Request::End`], [`Message::News`] in place of [`Message::Event`] and [`Message::Notice`] |
//!
//! The hellos agree on the newest version that both speak. A supervisor says only what that version has, and control asks only
//! that ([`Request::since`]). The first request lies in the socket before the supervisor's hello has come; control may send
//! [`Request::Start`] there, because the supervisors that it starts are of its own release.

mod bounds;
mod job;
mod payload;
pub mod qemu;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::{
    bounds::{Excess, MAX_ABILITIES, MAX_BALLOON_STATS, MAX_NAME, MAX_NOTICE_TEXTS, MAX_SAID, MAX_TEXT},
    job::{Begin, Job, JobKind, JobState, MAX_JOBS},
    payload::{Body, MAX_BODY, MAX_KIND, Payload, PayloadError},
    qemu::{Abilities, Machine},
};

/// The versions of this edge that this build speaks: the present one and those before it that cost nothing to keep, the last
/// one at least.
pub const VERSIONS: (u16, u16) = (1, 4);
/// The version that brought [`Message::Notice`].
pub const NOTICES_SINCE: u16 = 3;
/// The version that brought payloads, jobs, attached descriptors and [`Message::News`].
pub const PAYLOADS_SINCE: u16 = 4;

/// Where QEMU finds what its supervisor hands to it. Control names these in the argument vector that it builds.
pub mod qemu_fds {
    /// QEMU's end of the QMP socket.
    pub const QMP: i32 = 3;
    /// QEMU's end of the first console; the others follow.
    pub const FIRST_CONSOLE: i32 = 4;
    /// The most consoles that one guest can have.
    pub const MAX_CONSOLES: u8 = 8;
    /// The first file of [`super::Boot`]; the others follow.
    pub const FIRST_FILE: i32 = 16;
}

/// The directory in the guest's root where [`struct@Copy`] puts files.
pub const BOOT_DIR: &str = "/boot";

/// The most that [`Boot::record`] may hold, in bytes.
pub const MAX_RECORD: usize = 1 << 20;

/// What control asks a supervisor to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Start the guest. The first request, once; its files come as descriptors.
    Boot(Boot),
    /// Start this QEMU without a guest, say what it can do, and end. Instead of [`Request::Boot`].
    Probe(Probe),
    /// How is the guest? Answered from what the supervisor knows, never by asking QEMU.
    Status,
    /// Stop the virtual CPUs.
    Suspend,
    /// Let the virtual CPUs run on.
    Resume,
    /// Press the power button.
    Shutdown,
    /// Press the power button and start the guest anew when it has powered off.
    Reboot,
    /// Reset the machine, without the guest having a say.
    Reset,
    /// End the guest at once.
    Destroy,
    /// Attach to a console; the answer carries the stream.
    OpenConsole(OpenConsole),
    /// Send again every event after this sequence number that the supervisor still has, then go on with new ones.
    Events {
        /// The last one that control has.
        after: u64,
    },
    /// Give back [`Boot::record`]; the answer is [`Answer::Record`].
    Record,
    /// Ask QEMU for numbers; the answer is [`Answer::Measured`].
    Measure(Measure),
    /// Interrupt the virtual CPUs with an NMI.
    InjectNmi,
    /// Press keys together, and let them go.
    SendKeys {
        /// QEMU's numbers of them, at most [`MAX_KEYS`].
        codes: Vec<u32>,
        /// How long they are held, in milliseconds; 0 leaves it to QEMU.
        hold_ms: u32,
    },
    /// Tell the balloon how much memory the guest shall keep.
    SetBalloon {
        /// In bytes.
        bytes: u64,
    },
    /// Say this to QEMU's monitor, whatever it is; the answer is [`Answer::Said`].
    Monitor {
        /// A command of QMP, as JSON; or one of the human monitor, as a person would type it.
        command: String,
        /// It is the human monitor's.
        human: bool,
    },
    /// Keep this in the place of [`Boot::record`]; at most [`MAX_RECORD`] bytes.
    Keep(String),
    /// Start the guest. As [`Request::Boot`], which it replaces; its files come as descriptors, and the answer is the same.
    Start(Start),
    /// Start this program without a guest, say what it can do, and end: [`qemu::ProbeSpec`], answered by [`Answer::Payload`] with
    /// [`Abilities`]. It replaces [`Request::Probe`].
    Examine(Payload),
    /// Give descriptors to the running guest; they come with the message. The answer is [`Answer::Attached`].
    Attach(Attach),
    /// Take back what was attached under this name. What the guest has opened by it stays open.
    Detach {
        /// [`Attach::name`].
        name: String,
    },
    /// Begin a job.
    Begin(Begin),
    /// List the jobs; the answer is [`Answer::Jobs`].
    Jobs,
    /// End a job before it is done.
    JobCancel {
        /// [`Job::id`].
        id: u64,
    },
    /// End the guest, politely perhaps: its process is asked to end by itself, and when it has not done so in time, the answer is
    /// [`Failure::StillThere`] and the guest lives on. Without `graceful` it is [`Request::Destroy`].
    End {
        /// Ask it, and don't kill it.
        graceful: bool,
        /// How long it may take, in milliseconds; at most [`MAX_GRACE_MS`].
        within_ms: u32,
    },
}

impl Request {
    /// The version of the edge that brought it: a supervisor that speaks only earlier ones must not be asked.
    #[must_use]
    pub fn since(&self) -> u16 {
        match self {
            Request::Boot(_)
            | Request::Probe(_)
            | Request::Status
            | Request::Suspend
            | Request::Resume
            | Request::Shutdown
            | Request::Reboot
            | Request::Reset
            | Request::Destroy
            | Request::OpenConsole(_)
            | Request::Events { .. }
            | Request::Record => 1,
            Request::Measure(_)
            | Request::InjectNmi
            | Request::SendKeys { .. }
            | Request::SetBalloon { .. }
            | Request::Monitor { .. }
            | Request::Keep(_) => 2,
            Request::Start(_)
            | Request::Examine(_)
            | Request::Attach(_)
            | Request::Detach { .. }
            | Request::Begin(_)
            | Request::Jobs
            | Request::JobCancel { .. }
            | Request::End { .. } => PAYLOADS_SINCE,
        }
    }
}

/// The longest [`Request::End`] may wait, in milliseconds.
pub const MAX_GRACE_MS: u32 = 600_000;
/// The most descriptors of one [`Attach`].
pub const MAX_ATTACHED_FDS: usize = 8;
/// The most attachments of one guest.
pub const MAX_ATTACHMENTS: usize = 256;
/// The longest name of an attachment, in bytes.
pub const MAX_ATTACHMENT_NAME: usize = 64;

/// Everything that a supervisor needs to start its guest: what every kind of guest has, and the rest by kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The number of the job; 0 when it is not to be listed.
    pub job: u64,
    /// The guest's name, for messages.
    pub name: String,
    /// What a later control must know of the guest; the supervisor keeps it and gives it back to [`Request::Record`]
    /// without looking into it. At most [`MAX_RECORD`] bytes.
    pub record: String,
    /// The rest: [`qemu::BootSpec`].
    pub spec: Payload,
}

/// Descriptors for a running guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// What they are called from now on: an ASCII letter, then letters, digits, `.`, `-`, `_`; at most
    /// [`MAX_ATTACHMENT_NAME`]. A name that is in use is refused.
    pub name: String,
    /// What they are: [`qemu::AttachSpec`].
    pub spec: Payload,
}

/// The most keys that are pressed together.
pub const MAX_KEYS: usize = 16;
/// The highest number that an event or a notice can have. One beyond it comes from a liar.
pub const MAX_SEQUENCE: u64 = 1 << 53;
/// The longest command for QEMU's monitor, in bytes.
pub const MAX_COMMAND: usize = 64 << 10;
/// The most block devices of one guest that are measured.
pub const MAX_BLOCKS: usize = 256;

/// What QEMU is to be asked. All of it at once, so it costs one round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// The memory balloon.
    pub balloon: bool,
    /// The block devices.
    pub blocks: bool,
    /// How long QEMU may take, in milliseconds; longer than its own deadline for commands does not count.
    pub deadline_ms: u32,
}

/// What QEMU said of itself. What it did not say, or not in time, is absent, and `failure` says why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// The memory balloon.
    pub balloon: Option<Balloon>,
    /// The block devices, at most [`MAX_BLOCKS`].
    pub blocks: Option<Vec<Block>>,
    /// Why something that was asked for is absent.
    pub failure: Option<Failure>,
}

/// A guest's memory as its balloon sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balloon {
    /// What the guest has, in KiB.
    pub actual_kib: u64,
    /// What the guest's driver told: libvirt's tag of a memory statistic, and its value in libvirt's unit.
    pub stats: Vec<(i32, u64)>,
}

/// What has gone through a block device since the guest started, and how large it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// QEMU's path or id of the device.
    pub device: String,
    /// Requests to read.
    pub rd_reqs: u64,
    /// Bytes read.
    pub rd_bytes: u64,
    /// Nanoseconds spent on reading.
    pub rd_times: u64,
    /// Requests to write.
    pub wr_reqs: u64,
    /// Bytes written.
    pub wr_bytes: u64,
    /// Nanoseconds spent on writing.
    pub wr_times: u64,
    /// Requests to flush.
    pub fl_reqs: u64,
    /// Nanoseconds spent on flushing.
    pub fl_times: u64,
    /// Behind the highest byte written.
    pub highest: u64,
    /// What the guest sees, in bytes; absent when there is no medium.
    pub capacity: Option<u64>,
    /// What it takes on the host, in bytes; absent when there is no medium.
    pub physical: Option<u64>,
}

/// Everything that a supervisor needs to start its guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The guest's name, for messages.
    pub name: String,
    /// QEMU's argument vector; the first is its path in the guest's root.
    pub argv: Vec<String>,
    /// How many consoles to make; the i-th is descriptor `FIRST_CONSOLE + i` in QEMU.
    pub consoles: u8,
    /// How many descriptors come with the message. Those that no copy names are `FIRST_FILE + i` in QEMU.
    pub files: u8,
    /// Files that QEMU insists on opening by path.
    pub copies: Vec<Copy>,
    /// Leave the virtual CPUs stopped.
    pub paused: bool,
    /// What to do when the guest powers off.
    pub on_poweroff: Action,
    /// What to do when the guest reboots.
    pub on_reboot: Action,
    /// What to do when the guest's kernel says that it crashed.
    pub on_crash: Action,
    /// How long QEMU may take to answer one command, in milliseconds.
    pub deadline_ms: u32,
    /// What a later control must know of the guest; the supervisor keeps it and gives it back to [`Request::Record`]
    /// without looking into it. At most [`MAX_RECORD`] bytes.
    pub record: String,
}

/// A file that goes into [`BOOT_DIR`] until QEMU has read it: QEMU cannot take a kernel or an initrd by descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// Which descriptor of the message it is.
    pub file: u8,
    /// Its name in [`BOOT_DIR`]: ASCII letters, digits, `.`, `-`, `_`.
    pub name: String,
}

/// What happens to a guest that powered off, rebooted or crashed; libvirt's `on_poweroff`, `on_reboot`, `on_crash`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// It ends.
    #[default]
    Destroy,
    /// It starts anew.
    Restart,
    /// It stays as it is, to be looked at.
    Preserve,
}

/// A question about a QEMU binary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The argument vector of a QEMU without a guest.
    pub argv: Vec<String>,
    /// How long QEMU may take to answer one command, in milliseconds.
    pub deadline_ms: u32,
}

/// What a QEMU binary can do, as versions 1 to 3 say it; see [`Abilities`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbilitiesV1 {
    /// Major, minor and micro version.
    pub version: (u32, u32, u32),
    /// The distributor's package version, as QEMU tells it.
    pub package: String,
    /// The target, in QEMU's words (`x86_64`, `aarch64`).
    pub target: String,
    /// Machine types.
    pub machines: Vec<MachineV1>,
    /// CPU models.
    pub cpus: Vec<String>,
    /// Device types.
    pub devices: Vec<String>,
    /// This QEMU was built with KVM.
    pub kvm_present: bool,
    /// KVM was asked for and is in use.
    pub kvm_enabled: bool,
    /// What QEMU said on its standard error while it started (why KVM is not in use, for one).
    pub stderr: String,
}

/// One machine type, as versions 1 to 3 say it; see [`Machine`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineV1 {
    /// Its name: `pc-i440fx-7.2`.
    pub name: String,
    /// A short name that means it for now: `pc`.
    pub alias: Option<String>,
    /// QEMU's own default.
    pub default: bool,
    /// The most CPUs it takes.
    pub max_cpus: u32,
    /// QEMU advises against it.
    pub deprecated: bool,
}

/// Which console, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenConsole {
    /// The console's number.
    pub console: u8,
    /// Only look; any number of readers may.
    pub read_only: bool,
    /// Take the place of the present writer.
    pub force: bool,
}

/// How a guest is. State and reason are libvirt's numbers ([`api::consts`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The guest's name.
    pub name: String,
    /// libvirt's domain state.
    pub state: i32,
    /// libvirt's reason for that state.
    pub reason: i32,
    /// CPU time that QEMU has used, in nanoseconds.
    pub cpu_time_ns: u64,
    /// The sequence number of the newest event.
    pub last_event: u64,
    /// When the guest started, in seconds since the epoch.
    pub started_seconds: i64,
    /// Whether a QMP command has missed its deadline and QEMU has said nothing since.
    pub stuck: bool,
}

/// What a supervisor tells control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The answer to the request of the same serial.
    Answer(Result<Answer, Failure>),
    /// Something has happened; it is in the log already.
    Event(Event),
    /// Something else has happened than a change of the guest's life; it is in the log already. Only for a control that
    /// speaks [`NOTICES_SINCE`].
    Notice(Notice),
    /// An event or a notice, and how many before it are lost. In place of [`Message::Event`] and [`Message::Notice`] for a control
    /// that speaks [`PAYLOADS_SINCE`].
    News(News),
    /// A job has begun, made progress or ended. Not numbered and not in the log: [`Request::Jobs`] has the truth at any time. Only
    /// for a control that speaks [`PAYLOADS_SINCE`].
    Job(Job),
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// How many numbers before this one no message brings: the guest made more happen than is kept or told.
    pub lost: u64,
    /// What it is.
    pub what: Happening,
}

/// A change of a guest's life, or something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Happening {
    /// A change of the guest's life.
    Event(Event),
    /// Something else.
    Notice(Notice),
}

/// What a request that worked brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// For [`Request::Boot`] and [`Request::Status`]. After a boot, QEMU's pidfd comes with it.
    Status(Status),
    /// For [`Request::Probe`].
    Abilities(Box<AbilitiesV1>),
    /// For [`Request::Record`]; QEMU's pidfd comes with it.
    Record(String),
    /// For [`Request::Measure`].
    Measured(Box<Measured>),
    /// For [`Request::Monitor`]: QEMU's reply, or what the human monitor printed.
    Said(String),
    /// For [`Request::Examine`].
    Payload(Payload),
    /// For [`Request::Attach`].
    Attached(Attached),
    /// For [`Request::Jobs`]: at most [`MAX_JOBS`], the oldest first.
    Jobs(Vec<Job>),
}

/// How the guest's program knows what was attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// For QEMU: `/dev/fdset/N`, or the name of the descriptor.
    pub reference: String,
}

/// Something that happened to a guest: libvirt's lifecycle events with a number and a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1 for each run of a guest, and never beyond [`MAX_SEQUENCE`]. A gap is what was lost.
    pub sequence: u64,
    /// Wall-clock time, seconds since the epoch.
    pub seconds: i64,
    /// Its nanoseconds.
    pub nanos: u32,
    /// libvirt's lifecycle event.
    pub event: i32,
    /// libvirt's detail of it.
    pub detail: i32,
    /// libvirt's state afterwards.
    pub state: i32,
    /// libvirt's reason of that state.
    pub reason: i32,
    /// More, for people: how QEMU exited and its last words.
    pub text: Option<String>,
}

/// Something that happened to a guest and is no change of its life. `kind`, `number` and `texts` are those of
/// [`api::notice::Parts`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Counts on together with [`Event::sequence`].
    pub sequence: u64,
    /// Wall-clock time, seconds since the epoch.
    pub seconds: i64,
    /// Its nanoseconds.
    pub nanos: u32,
    /// libvirt's number of the kind of event.
    pub kind: i32,
    /// What it means depends on the kind.
    pub number: i64,
    /// As that.
    pub texts: Vec<String>,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Failure {
    /// QEMU is stuck (stopped, or waiting for storage), or very busy.
    #[error("QEMU did not answer '{command}' within {deadline_ms} ms")]
    Deadline {
        /// The QMP command.
        command: String,
        /// The deadline.
        deadline_ms: u32,
    },
    /// QEMU refused a command.
    #[error("QEMU refused '{command}': {description}")]
    Refused {
        /// The QMP command.
        command: String,
        /// QEMU's words.
        description: String,
    },
    /// QEMU is gone, or went while the request was under way.
    #[error("QEMU {ended}{}{last_words}", if last_words.is_empty() { "" } else { ": " })]
    Exited {
        /// How: "exited with status 1", "was killed by signal 9".
        ended: String,
        /// The end of its standard error.
        last_words: String,
    },
    /// QEMU could not be started at all.
    #[error("cannot start QEMU: {step}: {cause}")]
    Spawn {
        /// What was being done.
        step: String,
        /// What the system said.
        cause: String,
    },
    /// The request makes no sense in the present state; nothing was done.
    #[error("the guest is {state}")]
    WrongState {
        /// The state in libvirt's words.
        state: String,
    },
    /// No console has this number.
    #[error("the guest has {have} consoles, none with number {console}")]
    NoSuchConsole {
        /// The number asked for.
        console: u8,
        /// How many there are.
        have: u8,
    },
    /// Somebody else writes to the console.
    #[error("another client is attached to the console")]
    ConsoleBusy,
    /// The console's limit of readers is reached.
    #[error("the console has its limit of {0} readers")]
    ConsoleFull(u8),
    /// QEMU spoke something other than QMP.
    #[error("QEMU's monitor cannot be understood: {0}")]
    Qmp(String),
    /// The message itself is not acceptable.
    #[error("the request is not acceptable: {0}")]
    BadRequest(String),
    /// Too many requests wait for QEMU already.
    #[error("{0} requests wait for QEMU already")]
    Busy(u32),
    /// No job has this number. Since version 4, as all that follow.
    #[error("there is no job with number {0}")]
    NoSuchJob(u64),
    /// This job can't be cancelled, or has ended already.
    #[error("job {0} cannot be cancelled")]
    NotCancellable(u64),
    /// A job of this number is listed already.
    #[error("there is a job with number {0} already")]
    JobExists(u64),
    /// Another job of the guest does not allow this one.
    #[error("job {0} is under way")]
    JobConflict(u64),
    /// Nothing is attached under this name.
    #[error("nothing is attached as '{0}'")]
    NotAttached(String),
    /// Something is attached under this name already.
    #[error("something is attached as '{0}' already")]
    AttachedAlready(String),
    /// The guest's process did not end when it was asked to.
    #[error("the guest's process did not end within {0} ms")]
    StillThere(u32),
    /// The job was cancelled.
    #[error("job {0} was cancelled")]
    Cancelled(u64),
}
