//! How a guest ends: on request, politely or not, and when its QEMU has.

use std::time::{Duration, Instant};

use sandbox::pidfd::Exit;
use supervisor::{
    protocol::{Answer, Failure, MAX_GRACE_MS},
    wire::Ticket,
};

use super::{FAREWELL, Guest, Phase, ResetWindow, Tag};
use crate::{machine::Ended, qemu};

impl Guest {
    /// Kills QEMU, and waits for its end: what this process holds, a lock above all, shows the launcher that the guest may
    /// live, and a supervisor that left before QEMU would take that away.
    pub(super) fn destroy(&mut self, ticket: Ticket) {
        self.destroying.push(ticket);
        self.machine.destroyed();
        self.qemu.kill();
    }

    /// Asks QEMU to end by itself.
    pub(super) fn ask_to_end(&mut self, ticket: Ticket, within_ms: u32) {
        if within_ms == 0 || within_ms > MAX_GRACE_MS {
            let why = format!("{within_ms} ms are not between 1 and {MAX_GRACE_MS}");
            return self.wire.answer(ticket, Err(Failure::BadRequest(why)), Vec::new());
        }
        let until = Instant::now() + Duration::from_millis(u64::from(within_ms));
        self.asked_to_end.push((ticket, until, within_ms));
        if !self.machine.is_ending() {
            self.machine.destroyed();
        }
        self.qemu.terminate();
    }

    /// QEMU has had time enough to end by itself.
    pub(super) fn end_grace(&mut self, now: Instant) {
        let (late, left) = std::mem::take(&mut self.asked_to_end).into_iter().partition(|(_, until, _)| *until <= now);
        self.asked_to_end = left;
        let late: Vec<(Ticket, Instant, u32)> = late;
        if !late.is_empty() && self.asked_to_end.is_empty() && self.destroying.is_empty() {
            self.machine.lives_on();
        }
        for (ticket, _, within_ms) in late {
            self.wire.answer(ticket, Err(Failure::StillThere(within_ms)), Vec::new());
        }
    }

    /// QEMU has ended: everybody who waits for it gets an answer.
    pub(super) fn over(&mut self, exit: Exit) {
        let ended = qemu::clause(exit);
        let failure = Failure::Exited { ended: ended.clone(), last_words: self.qemu.words.last() };
        let destroyed = !self.destroying.is_empty() || !self.asked_to_end.is_empty();
        let text = (!exit.success() && !destroyed).then(|| failure.to_string());
        let step = self.machine.exited(if exit.success() { Ended::Cleanly } else { Ended::Otherwise });
        self.take(step, text.as_deref());
        self.kill_at = None;
        self.reset_window = ResetWindow::Closed;
        self.log.line(&format!("QEMU {ended}"));

        let until = Instant::now() + FAREWELL;
        let before = std::mem::replace(&mut self.phase, Phase::Over { failure: failure.clone(), until });
        self.end_jobs(&before, &failure);
        self.end_attachments(&failure);
        if let Phase::Booting { ticket, failure: why, .. } = before {
            self.wire.answer(ticket, Err(why.unwrap_or_else(|| failure.clone())), Vec::new());
        }
        for (tag, _) in self.qmp.abandon() {
            if let Tag::Asked(ticket, _) | Tag::Monitor(ticket, _) | Tag::Begun(ticket, _) | Tag::Detach(ticket, _) =
                tag
            {
                self.wire.answer(ticket, Err(failure.clone()), Vec::new());
            }
        }
        self.end_measuring(&failure);
        let asked_to_end = std::mem::take(&mut self.asked_to_end).into_iter().map(|(ticket, ..)| ticket);
        for ticket in std::mem::take(&mut self.destroying).into_iter().chain(asked_to_end) {
            self.wire.answer(ticket, Ok(Answer::Done), Vec::new());
        }
    }

    /// Until the start has been answered, a later qemud may know nothing of this guest: if the one that started it is gone,
    /// nobody would ever end it. One that does know is turned away, so that nobody sees a guest that is going.
    pub(super) fn end_if_forsaken(&mut self) {
        if matches!(self.phase, Phase::Booting { failure: None, .. }) && !self.wire.has_control() {
            self.log.line("control left before the guest was up; the guest ends");
            self.wire.close();
            self.give_up(Failure::BadRequest("control left before the guest was up".to_owned()));
        }
    }

    /// Gives up a guest that has not started; control is answered when QEMU has ended.
    pub(super) fn give_up(&mut self, why: Failure) {
        if let Phase::Booting { failure, .. } = &mut self.phase {
            failure.get_or_insert(why);
        }
        self.qemu.kill();
    }
}
