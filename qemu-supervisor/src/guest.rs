//! A guest that runs: its QEMU, what control asks of it, and the one loop that waits for all of it.

mod attach;
mod end;
mod jobs;
mod measure;
mod monitor;

use std::os::fd::OwnedFd;
use std::{
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use api::notice::Notice;
use sandbox::policy::Role;
use serde_json::{Value, json};
use supervisor::{
    console::AttachError,
    events::EventLog,
    jobs::JobTable,
    lifecycle::State,
    poll::{Interest, Poll, Ready},
    protocol::{
        Action, Answer, BOOT_DIR, Boot, Failure, JobKind, JobState, MAX_KEYS, MAX_RECORD, OpenConsole, Request, Status,
    },
    wire::{Asked, Ticket, Wire},
};

use self::{
    attach::Attachments,
    measure::{BalloonState, Measuring, Part},
};
use crate::{
    boot::{self, Copies},
    keys::Source,
    log::Log,
    machine::{Actions, Machine, Order, Step, Told},
    notices,
    qemu::Qemu,
    qmp::{AskError, Heard, OUTSTANDING_MAX, Qmp},
};

/// How long control may take to read the end of the guest. It can read the log later.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long a guest's firmware may reset the machine again and again after a reset from outside, as SeaBIOS does: up to
/// three times, some 20 ms apart on an idle host.
const FIRMWARE: Duration = Duration::from_secs(5);
/// How long it may take to the first of these resets.
const FIRMWARE_BEGINS: Duration = Duration::from_secs(1);
/// And from one to the next.
const FIRMWARE_RESETS: Duration = Duration::from_millis(500);

/// Whether a guest that must not reboot may do so now: after a reset from outside, for the sake of its firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResetWindow {
    Closed,
    /// A reset from outside is under way, or the virtual CPUs stand still after it.
    Open,
    /// The firmware runs: until it has been quiet for a while, but no longer than to the limit.
    Until {
        quiet: Instant,
        limit: Instant,
    },
}

/// What an answer of QEMU belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    /// The handshake, and the first question: how is the guest?
    Boot,
    /// The same question after QEMU has been silent.
    Resync,
    /// A request of control.
    Asked(Ticket, Job),
    /// A part of the question with this number.
    Part(u32, Part),
    /// A command that control passes on, to the human monitor perhaps.
    Monitor(Ticket, bool),
    /// Something that the supervisor does by itself.
    Own,
    /// The power button of the job with this number.
    Begun(Ticket, u64),
    /// A descriptor for QEMU.
    HandOver,
    /// Something is taken back; true when it went by a name.
    Detach(Ticket, bool),
    /// What is left of something is taken back; QEMU may have nothing of it.
    Cleanup,
}

/// A request of control that QEMU has to do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Suspend,
    Resume,
    Shutdown,
    Reboot,
    Reset,
    InjectNmi,
    SendKeys,
    SetBalloon,
}

impl Job {
    fn command(self) -> &'static str {
        match self {
            Job::Suspend => "stop",
            Job::Resume => "cont",
            Job::Shutdown | Job::Reboot => "system_powerdown",
            Job::Reset => "system_reset",
            Job::InjectNmi => "inject-nmi",
            Job::SendKeys => "send-key",
            Job::SetBalloon => "balloon",
        }
    }
}

/// How far the guest is.
#[derive(Debug)]
enum Phase {
    /// QEMU has not said yet how the guest is.
    Booting {
        /// Where the answer goes.
        ticket: Ticket,
        /// When that has taken too long.
        until: Instant,
        /// Why the guest is being given up, when QEMU's exit is not the reason.
        failure: Option<Failure>,
    },
    /// It lives.
    Living,
    /// QEMU has ended; only control's last messages are on their way.
    Over {
        /// How it ended.
        failure: Failure,
        /// When control has had time enough.
        until: Instant,
    },
}

/// One guest. See the module's page.
pub struct Guest {
    name: String,
    /// What control wants to know when it comes back.
    record: String,
    deadline: Duration,
    on_reboot: Action,
    started: SystemTime,
    phase: Phase,
    qemu: Qemu,
    qmp: Qmp<Tag>,
    machine: Machine,
    wire: Wire,
    events: EventLog,
    log: Log,
    copies: Copies,
    /// Requests to end the guest, answered when it has ended.
    destroying: Vec<Ticket>,
    /// When QEMU has had time enough to end by itself.
    kill_at: Option<Instant>,
    reset_window: ResetWindow,
    cpu_time_ns: u64,
    /// The questions that QEMU is answering.
    measuring: Vec<Measuring>,
    /// The number of the last one.
    question: u32,
    balloon: BalloonState,
    attachments: Attachments,
    jobs: JobTable,
    /// The number of the start; 0 when it is not listed.
    boot_job: u64,
    /// What the power button was pressed for.
    power_job: Option<(u64, JobKind)>,
    /// Requests to end by itself: where the answer goes, until when, and how long that is in milliseconds.
    asked_to_end: Vec<(Ticket, Instant, u32)>,
    /// Some events have been left out, and the log says so already.
    is_noisy: bool,
}

impl Guest {
    /// Starts QEMU, as the job with this number. When that is not possible, control has been told so.
    #[must_use]
    pub fn start(asked: Asked, boot: Boot, job: u64, mut wire: Wire, events: EventLog) -> Option<Guest> {
        let Asked { ticket, fds, .. } = asked;
        let prepared = boot::check_boot(&boot, &fds)
            .and_then(|()| Copies::make(&boot, fds, Path::new(BOOT_DIR)))
            .and_then(|(copies, files)| Ok((copies, Qemu::start(&boot.argv, boot.consoles, &files)?)));
        let (copies, (qemu, monitor)) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => {
                wire.answer(ticket, Err(failure), Vec::new());
                return None;
            }
        };
        let deadline = Duration::from_millis(u64::from(boot.deadline_ms));
        let actions = Actions { on_poweroff: boot.on_poweroff, on_reboot: boot.on_reboot, on_crash: boot.on_crash };
        let until = Instant::now() + deadline;
        let mut guest = Guest {
            name: boot.name,
            record: boot.record,
            deadline,
            on_reboot: boot.on_reboot,
            started: SystemTime::now(),
            phase: Phase::Booting { ticket, until, failure: None },
            qemu,
            qmp: Qmp::new(monitor),
            machine: Machine::new(actions),
            wire,
            events,
            log: Log,
            copies,
            destroying: Vec::new(),
            kill_at: None,
            reset_window: ResetWindow::Closed,
            cpu_time_ns: 0,
            measuring: Vec::new(),
            question: 0,
            balloon: BalloonState::default(),
            attachments: Attachments::default(),
            jobs: JobTable::default(),
            boot_job: job,
            power_job: None,
            asked_to_end: Vec::new(),
            is_noisy: false,
        };
        if guest.jobs.begin(job, JobKind::BOOT, jobs::BOOT_STEPS, 0, Instant::now()).is_ok() {
            guest.tell_job(job);
        }
        // Both at once: QEMU finds them when it opens its monitor, and answers without a round trip between them.
        guest.ask("qmp_capabilities", None, Tag::Boot);
        guest.ask("query-status", None, Tag::Boot);
        guest.confine();
        Some(guest)
    }

    /// Serves until the guest has ended.
    pub fn serve(mut self) {
        let mut poll = match Poll::new() {
            Ok(poll) => poll,
            Err(error) => return self.log.line(&format!("cannot wait for anything: {error}")),
        };
        let mut ready = Vec::new();
        while !self.is_done() {
            self.name_sources(&mut poll);
            if let Err(error) = poll.wait(self.next_deadline(), &mut ready) {
                return self.log.line(&format!("cannot wait for anything: {error}"));
            }
            for ready in ready.drain(..) {
                self.ready(ready);
            }
            self.expire(Instant::now());
        }
    }

    /// From here on nothing is opened or started.
    fn confine(&mut self) {
        if let Err(error) = Role::Supervisor.install() {
            // The guest could get at a supervisor that is less confined than it must be.
            self.log.line(&format!("cannot confine the supervisor: {error}"));
            self.give_up(boot::failed("confine the supervisor", &error));
        }
    }

    fn is_done(&self) -> bool {
        match self.phase {
            Phase::Over { until, .. } => !self.wire.has_backlog() || until <= Instant::now(),
            _ => false,
        }
    }

    fn name_sources(&self, poll: &mut Poll) {
        // A source that the kernel can't watch for want of memory is served when it can.
        let mut want = |source: Source, fd, interest| drop(poll.want(source.key(), fd, interest));
        for (part, fd, interest) in self.wire.sources() {
            want(Source::Wire(part), fd, interest);
        }
        if matches!(self.phase, Phase::Over { .. }) {
            return;
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
        for (number, console) in (0..).zip(&self.qemu.consoles) {
            for (part, fd, interest) in console.sources() {
                want(Source::Console(number, part), fd, interest);
            }
        }
    }

    fn ready(&mut self, ready: Ready) {
        match Source::of_key(ready.key) {
            Some(Source::Monitor) => self.monitor_ready(ready),
            Some(Source::Process) => self.process_ready(),
            Some(Source::Words) => drop(self.qemu.words.read(&mut self.log)),
            Some(Source::Wire(part)) => {
                let mut asked = Vec::new();
                self.wire.ready(part, ready, &mut asked);
                for asked in asked {
                    self.asked(asked);
                }
                self.end_if_forsaken();
            }
            Some(Source::Console(number, part)) => {
                if let Some(console) = self.qemu.consoles.get_mut(usize::from(number)) {
                    console.ready(part, ready);
                }
            }
            None => {}
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Booting { until, .. } | Phase::Over { until, .. } => Some(until),
            Phase::Living => None,
        };
        let grace = self.asked_to_end.iter().map(|(_, until, _)| *until).min();
        let window = match self.reset_window {
            ResetWindow::Until { quiet, .. } => Some(quiet),
            ResetWindow::Open | ResetWindow::Closed => None,
        };
        [
            phase,
            self.qmp.next_deadline(),
            self.kill_at,
            window,
            self.events.next_release(),
            self.jobs.next_deadline(),
            grace,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn expire(&mut self, now: Instant) {
        for (tag, command) in self.qmp.expire(now) {
            let failure = Failure::Deadline { command: command.to_owned(), deadline_ms: self.deadline_ms() };
            self.failed(tag, failure);
        }
        if let Phase::Booting { until, failure: None, .. } = self.phase
            && until <= now
        {
            let command = "query-status".to_owned();
            self.give_up(Failure::Deadline { command, deadline_ms: self.deadline_ms() });
        }
        if matches!(self.reset_window, ResetWindow::Until { quiet, .. } if quiet <= now) {
            self.forbid_reset();
        }
        self.end_stalled_jobs(now);
        self.end_grace(now);
        if let Some(event) = self.events.release(now) {
            self.wire.event(&event);
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.qemu.kill();
        }
    }

    fn deadline_ms(&self) -> u32 {
        u32::try_from(self.deadline.as_millis()).unwrap_or(u32::MAX)
    }

    // --- What control asks ---

    fn asked(&mut self, asked: Asked) {
        let Asked { ticket, request, fds } = asked;
        if !fds.is_empty() && !matches!(request, Request::Attach(_)) {
            let why = "no descriptors belong to this request".to_owned();
            return self.wire.answer(ticket, Err(Failure::BadRequest(why)), Vec::new());
        }
        if let Phase::Over { failure, .. } = &self.phase {
            return self.wire.answer(ticket, Err(failure.clone()), Vec::new());
        }
        match request {
            Request::Boot(_) | Request::Probe(_) | Request::Start(_) | Request::Examine(_) => self.refuse(ticket),
            Request::Status => {
                let status = self.status();
                self.wire.answer(ticket, Ok(Answer::Status(status)), Vec::new());
            }
            Request::Suspend => self.suspend(ticket),
            Request::Resume => self.resume(ticket),
            Request::Shutdown => self.button(ticket, Job::Shutdown),
            Request::Reboot => self.button(ticket, Job::Reboot),
            Request::Reset => self.reset(ticket),
            Request::Destroy => self.destroy(ticket),
            Request::OpenConsole(open) => self.open_console(ticket, open),
            Request::Record => {
                let record = self.record.clone();
                let process = self.process();
                self.wire.answer(ticket, Ok(Answer::Record(record)), process);
            }
            Request::Events { after } => self.wire.replay(ticket, after, self.events.after(after)),
            Request::Measure(wanted) => self.measure(ticket, wanted),
            Request::InjectNmi => self.do_to_living(ticket, Job::InjectNmi, None),
            Request::SendKeys { codes, hold_ms } => self.send_keys(ticket, &codes, hold_ms),
            Request::SetBalloon { bytes } => {
                self.do_to_living(ticket, Job::SetBalloon, Some(json!({"value": bytes})));
            }
            Request::Monitor { command, human } => self.monitor(ticket, &command, human),
            Request::Keep(record) => self.keep(ticket, record),
            Request::Attach(attach) => self.attach(ticket, attach, fds),
            Request::Detach { name } => self.detach(ticket, &name),
            Request::Begin(begin) => self.begin(ticket, &begin),
            Request::Jobs => {
                let jobs = self.jobs.list(Instant::now());
                self.wire.answer(ticket, Ok(Answer::Jobs(jobs)), Vec::new());
            }
            Request::JobCancel { id } => self.cancel_job(ticket, id),
            Request::End { graceful: false, .. } => self.destroy(ticket),
            Request::End { graceful: true, within_ms } => self.ask_to_end(ticket, within_ms),
        }
    }

    fn keep(&mut self, ticket: Ticket, record: String) {
        let answer = if record.len() <= MAX_RECORD {
            self.record = record;
            Ok(Answer::Done)
        } else {
            Err(Failure::BadRequest(format!("a record of {} bytes is too long", record.len())))
        };
        self.wire.answer(ticket, answer, Vec::new());
    }

    /// QEMU's process for control, which asks the kernel for its processor time; without it, control asks here.
    fn process(&self) -> Vec<OwnedFd> {
        self.qemu.pidfd.iter().filter_map(|pidfd| pidfd.try_clone().ok()).collect()
    }

    fn refuse(&mut self, ticket: Ticket) {
        let state = self.machine.state().words().to_owned();
        self.wire.answer(ticket, Err(Failure::WrongState { state }), Vec::new());
    }

    fn status(&mut self) -> Status {
        self.qemu.reap();
        let State { state, reason } = self.machine.state();
        if let Ok(time) = sandbox::cpu_time(self.qemu.pid) {
            self.cpu_time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        }
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        Status {
            name: self.name.clone(),
            state,
            reason,
            cpu_time_ns: self.cpu_time_ns,
            last_event: self.events.last(),
            started_seconds: i64::try_from(started.as_secs()).unwrap_or(i64::MAX),
            stuck: self.qmp.is_stuck(),
        }
    }

    /// Sends a job to QEMU; its answer is control's.
    fn job(&mut self, ticket: Ticket, job: Job) {
        let tag = Tag::Asked(ticket, job);
        self.ask(job.command(), None, tag);
    }

    /// The same, if there is a guest to do it to.
    fn do_to_living(&mut self, ticket: Ticket, job: Job, arguments: Option<Value>) {
        if !self.lives() {
            return self.refuse(ticket);
        }
        self.ask(job.command(), arguments, Tag::Asked(ticket, job));
    }

    fn send_keys(&mut self, ticket: Ticket, codes: &[u32], hold_ms: u32) {
        if codes.is_empty() || codes.len() > MAX_KEYS {
            let why = format!("{} keys cannot be pressed together", codes.len());
            return self.wire.answer(ticket, Err(Failure::BadRequest(why)), Vec::new());
        }
        let keys: Vec<Value> = codes.iter().map(|code| json!({"type": "number", "data": code})).collect();
        let mut arguments = json!({"keys": keys});
        if hold_ms > 0 {
            arguments = json!({"keys": keys, "hold-time": hold_ms});
        }
        self.do_to_living(ticket, Job::SendKeys, Some(arguments));
    }

    fn suspend(&mut self, ticket: Ticket) {
        let state = self.machine.state();
        if !self.lives() {
            self.refuse(ticket);
        } else if state.is_running() {
            self.machine.stopping();
            self.job(ticket, Job::Suspend);
        } else if state.is_paused() {
            self.wire.answer(ticket, Ok(Answer::Done), Vec::new());
        } else {
            self.refuse(ticket);
        }
    }

    fn resume(&mut self, ticket: Ticket) {
        let state = self.machine.state();
        if self.lives() && (state.is_paused() || state == State::CRASHED_PANICKED) {
            self.job(ticket, Job::Resume);
        } else {
            self.refuse(ticket);
        }
    }

    fn button(&mut self, ticket: Ticket, job: Job) {
        if !self.lives() || self.machine.state() == State::SHUTTING_DOWN {
            return self.refuse(ticket);
        }
        self.machine.button(job == Job::Reboot);
        self.job(ticket, job);
    }

    fn reset(&mut self, ticket: Ticket) {
        if !self.lives() {
            return self.refuse(ticket);
        }
        self.allow_reset();
        self.job(ticket, Job::Reset);
    }

    fn open_console(&mut self, ticket: Ticket, open: OpenConsole) {
        let have = u8::try_from(self.qemu.consoles.len()).unwrap_or(u8::MAX);
        let console = self.qemu.consoles.get_mut(usize::from(open.console));
        let Some(console) = console else {
            let failure = Failure::NoSuchConsole { console: open.console, have };
            return self.wire.answer(ticket, Err(failure), Vec::new());
        };
        let (answer, fds) = match console.attach(open.read_only, open.force) {
            Ok(fd) => (Ok(Answer::Done), vec![fd]),
            Err(AttachError::Busy) => (Err(Failure::ConsoleBusy), Vec::new()),
            Err(AttachError::Full) => (Err(Failure::ConsoleFull(supervisor::console::MAX_CLIENTS)), Vec::new()),
            // QEMU has closed its end: the guest is on its way out.
            Err(AttachError::Closed) => (Err(Failure::WrongState { state: "in shutdown".to_owned() }), Vec::new()),
            Err(error @ AttachError::Socket(_)) => (Err(boot::failed("attach to the console", &error)), Vec::new()),
        };
        self.wire.answer(ticket, answer, fds);
    }

    /// Whether there is a guest that can be asked for something: it has started and is not on its way out.
    fn lives(&self) -> bool {
        matches!(self.phase, Phase::Living) && !self.machine.is_ending()
    }

    // --- QEMU's monitor ---

    fn ask(&mut self, command: &'static str, arguments: Option<Value>, tag: Tag) {
        let asked = self.qmp.ask(command, arguments, tag, Instant::now() + self.deadline);
        self.check_asked(tag, asked);
    }

    /// The same with a descriptor.
    fn ask_with(&mut self, command: &'static str, arguments: Value, fd: OwnedFd, tag: Tag) {
        let asked = self.qmp.ask_with(command, arguments, fd, tag, Instant::now() + self.deadline);
        self.check_asked(tag, asked);
    }

    /// Asks what is not the supervisor's own.
    fn ask_any(&mut self, command: &str, arguments: Option<Value>, tag: Tag) {
        let asked = self.qmp.ask_any("a command", command, arguments, tag, Instant::now() + self.deadline);
        self.check_asked(tag, asked);
    }

    fn check_asked(&mut self, tag: Tag, asked: Result<(), AskError>) {
        match asked {
            Ok(()) => {}
            Err(AskError::Busy) => self.failed(tag, Failure::Busy(u32::try_from(OUTSTANDING_MAX).unwrap_or(u32::MAX))),
            Err(AskError::Lost(why)) => self.failed(tag, Failure::Qmp(why)),
        }
    }

    fn monitor_ready(&mut self, ready: Ready) {
        let was_stuck = self.qmp.is_stuck();
        let mut heard = Vec::new();
        self.qmp.ready(ready, &mut heard);
        self.heard(heard);
        if was_stuck && !self.qmp.is_stuck() && matches!(self.phase, Phase::Living) {
            self.ask("query-status", None, Tag::Resync);
        }
        if self.qmp.is_broken() {
            let why = self.qmp.lost().unwrap_or_default().to_owned();
            self.log.line(&format!("QEMU's monitor is lost: {why}"));
            for (tag, _) in self.qmp.abandon() {
                self.failed(tag, Failure::Qmp(why.clone()));
            }
        }
    }

    fn heard(&mut self, heard: Vec<Heard<Tag>>) {
        for heard in heard {
            match heard {
                Heard::Event { name, data } => {
                    if name == "BALLOON_CHANGE" {
                        self.balloon_changed(&data);
                    }
                    // As libvirt's daemon does, what happened is told before what becomes of the guest by it.
                    if let Some(notice) = notices::from_event(&name, &data) {
                        self.notice(notice);
                    }
                    if let Some(told) = Told::from_event(&name, &data) {
                        self.told(told);
                    }
                }
                Heard::Answer { tag: Tag::Monitor(ticket, human), result, .. } => {
                    self.monitor_answered(ticket, human, result);
                }
                Heard::Answer { tag, command, result: Err(refusal) } => {
                    self.failed(tag, Failure::Refused { command: command.to_owned(), description: refusal.desc });
                }
                Heard::Answer { tag, command, result: Ok(value) } => self.answered(tag, command, &value),
            }
        }
    }

    fn notice(&mut self, notice: Notice) {
        // Before the guest's life has begun, nothing happens to it: QEMU resets every machine once.
        if !self.machine.is_started() {
            return;
        }
        match self.events.notice(notice) {
            Some(notice) => self.wire.notice(notice),
            None => self.complain_of_noise(),
        }
    }

    fn complain_of_noise(&mut self) {
        if !std::mem::replace(&mut self.is_noisy, true) {
            self.log
                .line("the guest causes more events than are reported; some are left out, and their numbers with them");
        }
    }

    fn told(&mut self, told: Told) {
        let step = self.machine.told(told);
        self.take(step, None);
        let now = Instant::now();
        match (self.reset_window, told) {
            (ResetWindow::Open, Told::Reset { .. } | Told::Resume) if self.machine.state().is_running() => {
                self.reset_window = ResetWindow::Until { quiet: now + FIRMWARE_BEGINS, limit: now + FIRMWARE };
            }
            // The firmware may reset the machine several times, so its first reset does not close the window.
            (ResetWindow::Until { limit, .. }, Told::Reset { .. }) => {
                self.reset_window = ResetWindow::Until { quiet: limit.min(now + FIRMWARE_RESETS), limit };
            }
            _ => {}
        }
    }

    fn answered(&mut self, tag: Tag, command: &str, value: &Value) {
        match tag {
            Tag::Boot | Tag::Resync if command == "query-status" => {
                let status = value.get("status").and_then(Value::as_str).unwrap_or_default();
                let step = self.machine.status(status);
                self.take(step, None);
                self.booted();
            }
            Tag::Asked(ticket, job) => {
                if job == Job::Suspend {
                    self.machine.stopping_is_over();
                }
                self.wire.answer(ticket, Ok(Answer::Done), Vec::new());
            }
            Tag::Part(number, part) => self.part_answered(number, part, value),
            Tag::Boot => {
                self.jobs.progress(self.boot_job, 1, true, Instant::now());
                self.tell_job(self.boot_job);
            }
            Tag::Begun(ticket, _) | Tag::Detach(ticket, _) => self.wire.answer(ticket, Ok(Answer::Done), Vec::new()),
            Tag::HandOver => self.handed_over(),
            Tag::Resync | Tag::Own | Tag::Monitor(..) | Tag::Cleanup => {}
        }
    }

    /// QEMU has said for the first time how the guest is.
    fn booted(&mut self) {
        let Phase::Booting { ticket, failure: None, .. } = self.phase else { return };
        self.phase = Phase::Living;
        self.copies.remove();
        self.end_job(self.boot_job, JobState::DONE, "");
        let status = self.status();
        let process = self.process();
        self.wire.answer(ticket, Ok(Answer::Status(status)), process);
    }

    /// Something that QEMU was asked did not come about.
    fn failed(&mut self, tag: Tag, failure: Failure) {
        match tag {
            Tag::Boot => self.give_up(failure),
            Tag::Asked(ticket, job) => {
                match (job, &failure) {
                    // QEMU may still do it when it wakes up, so what was asked for stays known.
                    (_, Failure::Deadline { .. }) => {}
                    (Job::Suspend, _) => self.machine.stopping_is_over(),
                    (Job::Reboot, _) => self.machine.button(false),
                    _ => {}
                }
                self.wire.answer(ticket, Err(failure), Vec::new());
            }
            Tag::Part(number, _) => self.part_failed(number, failure),
            Tag::Begun(ticket, id) => {
                if self.power_job.is_some_and(|(running, _)| running == id) {
                    self.end_power_job(JobState::FAILED, &failure.to_string());
                }
                self.wire.answer(ticket, Err(failure), Vec::new());
            }
            Tag::HandOver => self.not_handed_over(failure),
            // A command has taken it already.
            Tag::Detach(ticket, true) if matches!(failure, Failure::Refused { .. }) => {
                self.wire.answer(ticket, Ok(Answer::Done), Vec::new());
            }
            Tag::Cleanup => {}
            Tag::Monitor(ticket, _) | Tag::Detach(ticket, _) => self.wire.answer(ticket, Err(failure), Vec::new()),
            Tag::Resync | Tag::Own => {
                self.log.line(&failure.to_string());
                if self.machine.is_ending() {
                    self.qemu.kill();
                }
            }
        }
    }

    // --- The guest's life ---

    /// Carries out what a step of the guest's life brings.
    fn take(&mut self, step: Step, text: Option<&str>) {
        for (kind, state) in step.events {
            match self.events.record(kind, state, text.map(str::to_owned)) {
                Some(event) => self.wire.event(&event),
                None => self.complain_of_noise(),
            }
            self.power_job_hears(kind);
        }
        for order in step.orders {
            match order {
                Order::Reset => {
                    self.allow_reset();
                    self.ask("system_reset", None, Tag::Own);
                }
                Order::Continue => self.ask("cont", None, Tag::Own),
                Order::Quit => {
                    self.kill_at = Some(Instant::now() + self.deadline);
                    self.ask("quit", None, Tag::Own);
                }
            }
        }
    }

    /// A guest that must not reboot has a QEMU that takes every reset for a power-off, ours too.
    fn allow_reset(&mut self) {
        if self.on_reboot == Action::Destroy {
            self.reset_window = ResetWindow::Open;
            self.ask("set-action", Some(json!({"reboot": "reset"})), Tag::Own);
        }
    }

    fn forbid_reset(&mut self) {
        self.reset_window = ResetWindow::Closed;
        self.ask("set-action", Some(json!({"reboot": "shutdown"})), Tag::Own);
    }

    fn process_ready(&mut self) {
        if matches!(self.phase, Phase::Over { .. }) {
            return;
        }
        let Some(exit) = self.qemu.reap() else { return };
        self.qemu.pidfd = None;
        // What QEMU said before it ended comes first.
        let mut heard = Vec::new();
        self.qmp.read(&mut heard);
        self.heard(heard);
        self.qemu.words.finish(&mut self.log);
        for console in &mut self.qemu.consoles {
            console.finish();
        }
        self.over(exit);
    }
}
