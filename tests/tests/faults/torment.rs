//! The tormentor: kill -9 and SIGSTOP for any process of an instance, at random moments.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use bulkhead_tests::{Handle, Instance, Process, Role, Signal, Terminal};

use crate::random::Random;

/// Whom it hits, and how often. A launcher's end takes control with it, so the two are hit less than guests are.
const VICTIMS: [(Role, u64); 8] = [
    (Role::Launcher, 2),
    (Role::Control, 4),
    (Role::Opener, 3),
    (Role::Kept, 2),
    (Role::Supervisor, 6),
    (Role::Qemu, 6),
    (Role::Acceptor, 2),
    (Role::Worker, 3),
];

/// The gateway's launcher gives up on an acceptor that dies early five times in a row, as it should.
const ACCEPTORS_REST: Duration = Duration::from_secs(3);

/// What torments an instance. Its end lets all that it stopped go on.
pub struct Tormentor<'a> {
    instance: &'a Instance,
    random: Random,
    begun: Instant,
    /// Stopped processes, and when they go on.
    stopped: Vec<(Instant, Handle)>,
    /// When the acceptor was killed last.
    acceptor: Option<Instant>,
    /// A client that has the daemon started, as init would.
    starter: Option<Terminal>,
    /// What it did.
    pub history: Vec<String>,
}

impl<'a> Tormentor<'a> {
    pub fn new(instance: &'a Instance, random: Random) -> Tormentor<'a> {
        let begun = Instant::now();
        Tormentor { instance, random, begun, stopped: Vec::new(), acceptor: None, starter: None, history: Vec::new() }
    }

    /// Torments for a while; returns early when `failed` says that a client has given up.
    pub fn run(&mut self, time: Duration, failed: &Receiver<()>) {
        let end = self.begun + time;
        while Instant::now() < end {
            let pause = Duration::from_millis(self.random.within(5..300));
            if !matches!(failed.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
                return;
            }
            self.release(Instant::now());
            let processes = self.instance.processes();
            self.start_daemon(&processes);
            self.hit(&processes);
        }
    }

    /// Lets those go on whose time has come.
    fn release(&mut self, now: Instant) {
        for (_, handle) in self.stopped.extract_if(.., |(until, _)| *until <= now) {
            handle.signal(Signal::CONT);
        }
    }

    fn start_daemon(&mut self, processes: &[Process]) {
        if self.starter.as_mut().is_some_and(|starter| !starter.is_running()) {
            self.starter = None;
        }
        let there = processes.iter().any(|process| matches!(process.role, Role::Launcher | Role::Starter));
        if !there && self.starter.is_none() {
            self.starter = Some(self.instance.terminal(&["list"]));
        }
    }

    fn hit(&mut self, processes: &[Process]) {
        let role = self.random.weighted(&VICTIMS);
        let of_role: Vec<&Process> = processes.iter().filter(|process| process.role == role).collect();
        if of_role.is_empty() {
            return;
        }
        let victim = *self.random.one_of(&of_role);
        let kill = self.random.within(0..10) < 6;
        let Some(handle) = victim.handle() else { return };
        // The pid may have become somebody else's before the handle was there.
        if Process::of(victim.pid).is_none_or(|now| now.role != role || now.parent != victim.parent) {
            return;
        }
        let rests = |at: Instant| at.elapsed() < ACCEPTORS_REST;
        if kill && role == Role::Acceptor && self.acceptor.replace(Instant::now()).is_some_and(rests) {
            return;
        }
        let at = self.begun.elapsed().as_millis();
        if kill {
            handle.signal(Signal::KILL);
            self.history.push(format!("{at} ms: kill {role:?} {}", victim.pid));
            return;
        }
        let time = Duration::from_millis(self.random.within(10..1500));
        handle.signal(Signal::STOP);
        self.history.push(format!("{at} ms: stop {role:?} {} for {} ms", victim.pid, time.as_millis()));
        self.stopped.push((Instant::now() + time, handle));
    }
}

impl Drop for Tormentor<'_> {
    fn drop(&mut self) {
        for (_, handle) in self.stopped.drain(..) {
            handle.signal(Signal::CONT);
        }
    }
}
