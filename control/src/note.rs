//! The note that outlives control, in a page that it shares with the launcher:
//!
//! * which run is in hand: written before control looks at what that run's supervisor has sent or logged. The launcher reads
//!   it when control has died; a run at which that happened twice is quarantined;
//! * up to which number events, or that some are missing, were told without a line in the journal: the next control gives
//!   none of these numbers to another event;
//! * whether a definition is being changed: control may be killed before the event of that has its line.

use std::os::fd::OwnedFd;

use qemud::edge::{CHANGING_AT, IN_HAND_SIZE, TOLD_AT};
use rustix::io::{pread, pwrite};

use super::Control;

/// What the note says when no run is in hand.
const NONE: u32 = 0;

/// The note that the launcher reads.
#[derive(Debug, Default)]
pub struct Note {
    page: Option<OwnedFd>,
    run: u32,
    changes: u32,
}

impl Note {
    /// Writes to the launcher's page; without one nothing is noted.
    pub fn new(page: Option<OwnedFd>) -> Note {
        Note { page, run: NONE, changes: 0 }
    }

    /// Notes that the numbers up to this one were given although the journal has no lines of them: no later control gives one
    /// of them to another event.
    pub fn told_unwritten(&self, sequence: u64) {
        if sequence > self.told_before()
            && let Some(page) = &self.page
            && let Err(errno) = pwrite(page, &sequence.to_ne_bytes(), TOLD_AT)
        {
            tracing::error!("what was told cannot be noted: {errno}");
        }
    }

    /// Notes that a definition is being changed, from before its file until its event is in the journal. A control that was
    /// killed in between may have changed what no event tells of.
    pub fn begin_change(&mut self) {
        self.changes += 1;
        if self.changes == 1 {
            self.note_changing(true);
        }
    }

    /// Whether a change is under way.
    #[cfg(test)]
    pub fn is_changing(&self) -> bool {
        self.changes > 0
    }

    /// Notes that a change is over, whatever came of it.
    pub fn end_change(&mut self) {
        self.changes = self.changes.saturating_sub(1);
        if self.changes == 0 {
            self.note_changing(false);
        }
    }

    fn note_changing(&self, changing: bool) {
        let bytes = u32::from(changing).to_ne_bytes();
        if let Some(page) = &self.page
            && let Err(errno) = pwrite(page, &bytes, CHANGING_AT)
        {
            tracing::error!("a change of a definition cannot be noted: {errno}");
        }
    }

    /// The change within which an earlier control was killed is told, as a gap.
    pub fn changes_are_told(&self) {
        self.note_changing(false);
    }

    /// Whether an earlier control was killed within a change.
    pub fn was_changing(&self) -> bool {
        let mut bytes = [0; size_of::<u32>()];
        let read = self.page.as_ref().map(|page| pread(page, &mut bytes, CHANGING_AT));
        read == Some(Ok(bytes.len())) && bytes != [0; size_of::<u32>()]
    }

    /// What an earlier control has noted so, or this one; 0 for nothing.
    pub fn told_before(&self) -> u64 {
        let mut bytes = [0; size_of::<u64>()];
        match self.page.as_ref().map(|page| pread(page, &mut bytes, TOLD_AT)) {
            Some(Ok(read)) if read == bytes.len() => u64::from_ne_bytes(bytes),
            _ => 0,
        }
    }

    /// Notes a run and returns the one that was noted before.
    fn take(&mut self, run: u32) -> u32 {
        let before = std::mem::replace(&mut self.run, run);
        if before != run
            && let Some(page) = &self.page
        {
            let bytes: [u8; IN_HAND_SIZE] = run.to_ne_bytes();
            if let Err(errno) = pwrite(page, &bytes, 0) {
                tracing::error!(run, "the run in hand cannot be noted: {errno}");
            }
        }
        before
    }
}

impl Control {
    /// Does something with what a run's supervisor has written. If control dies of it, the launcher knows at which run.
    pub(super) fn with_in_hand<T>(&mut self, run: u32, work: impl FnOnce(&mut Control) -> T) -> T {
        let _within = tracing::debug_span!("run", run).entered();
        let before = self.note.take(run);
        let done = work(self);
        self.note.take(before);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::pread;

    #[test]
    fn the_note_names_the_run_in_hand_and_then_the_one_before() {
        let page = rustix::fs::memfd_create("note", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut note = Note::new(Some(page.try_clone().unwrap()));
        let noted = || {
            let mut bytes = [0; IN_HAND_SIZE];
            pread(&page, &mut bytes, 0).unwrap();
            u32::from_ne_bytes(bytes)
        };
        assert_eq!(note.take(3), NONE);
        assert_eq!(noted(), 3);
        assert_eq!(note.take(4), 3, "a supervisor is heard for what another one's answer led to");
        assert_eq!(noted(), 4);
        assert_eq!(note.take(3), 4);
        assert_eq!(note.take(NONE), 3);
        assert_eq!(noted(), NONE);
    }
}
