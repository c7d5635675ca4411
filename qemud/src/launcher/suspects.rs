//! Runs at which control died. Control notes which run it has in hand before it looks at what that run's supervisor says,
//! and when it dies of a fault of its own the note says at which run. A run that was in hand twice is quarantined: the next
//! control doesn't listen to it, so one guest that finds such a fault can't end control for all the others.
//!
//! The note is a page that launcher and control share. The launcher reads one number in it, and believes it as far as it names
//! one of its runs; what else is there is one control's word to the next.

use std::{collections::HashMap, io, os::fd::OwnedFd};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    io::{pread, pwrite},
    process::Signal,
};
use sandbox::pidfd::Exit;

use crate::edge::{IN_HAND_SIZE, NOTE_SIZE};

/// This many deaths of control at one run, and the run is quarantined.
const DEATHS: u32 = 2;

/// The shared note, and what it has said so far.
pub struct Suspects {
    note: OwnedFd,
    deaths: HashMap<u32, u32>,
}

impl Suspects {
    /// An empty note, of a size that nobody can change.
    ///
    /// # Errors
    /// When the kernel does not give the memory.
    pub fn new() -> io::Result<Suspects> {
        let note = memfd_create("in-hand", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&note, NOTE_SIZE as u64)?;
        fcntl_add_seals(&note, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Suspects { note, deaths: HashMap::new() })
    }

    /// What control is given to write into.
    #[must_use]
    pub fn note(&self) -> &OwnedFd {
        &self.note
    }

    /// Control has ended, `how`: says at which run, if it died of itself and had one in hand that `is_run` knows. The note
    /// is empty afterwards.
    pub fn control_died(&mut self, how: Exit, is_run: impl Fn(u32) -> bool) -> Option<u32> {
        let mut bytes = [0; IN_HAND_SIZE];
        let read = pread(&self.note, &mut bytes, 0);
        if let Err(errno) = pwrite(&self.note, &[0; IN_HAND_SIZE], 0) {
            tracing::error!("control's note cannot be emptied: {errno}");
        }
        let run = u32::from_ne_bytes(bytes);
        if read != Ok(IN_HAND_SIZE) || !is_own_fault(how) || !is_run(run) {
            return None;
        }
        let deaths = self.deaths.entry(run).or_default();
        *deaths = deaths.saturating_add(1);
        Some(run)
    }

    /// Why a run is quarantined, if it is.
    #[must_use]
    pub fn quarantine(&self, run: u32) -> Option<String> {
        let deaths = self.deaths.get(&run).filter(|deaths| **deaths >= DEATHS)?;
        Some(format!("qemud's control process has died {deaths} times while it listened to this guest's supervisor"))
    }

    /// Forgets a run that is gone.
    pub fn forget(&mut self, run: u32) {
        self.deaths.remove(&run);
    }
}

/// Whether a process ended by what it did itself. What others send (an administrator, a host without memory) says nothing of
/// the run that it had in hand.
fn is_own_fault(how: Exit) -> bool {
    let others = [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
    match how {
        Exit::Code(code) => code != 0,
        Exit::Signal { number, .. } => !others.iter().any(|signal| signal.as_raw() == number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PANIC: Exit = Exit::Code(101);
    const KILLED: Exit = Exit::Signal { number: 9, core_dumped: false };
    const TRAPPED: Exit = Exit::Signal { number: 11, core_dumped: false };

    fn take(suspects: &Suspects, run: u32) {
        pwrite(suspects.note(), &run.to_ne_bytes(), 0).unwrap();
    }

    #[test]
    fn a_run_at_which_control_died_twice_is_quarantined() {
        let mut suspects = Suspects::new().unwrap();
        assert_eq!(suspects.control_died(PANIC, |_| true).filter(|run| *run != 0), None, "nothing was in hand");
        take(&suspects, 7);
        assert_eq!(suspects.control_died(PANIC, |run| run == 7), Some(7));
        assert_eq!(suspects.quarantine(7), None, "once may be chance");
        assert_eq!(suspects.control_died(PANIC, |run| run == 7), None, "the note was emptied");
        take(&suspects, 7);
        assert_eq!(suspects.control_died(TRAPPED, |run| run == 7), Some(7));
        assert!(suspects.quarantine(7).unwrap().contains("2 times"));
        assert_eq!(suspects.quarantine(8), None);
        suspects.forget(7);
        assert_eq!(suspects.quarantine(7), None);
    }

    #[test]
    fn a_death_from_outside_and_a_run_that_is_not_there_say_nothing() {
        let mut suspects = Suspects::new().unwrap();
        for how in [KILLED, KILLED, Exit::Code(0), Exit::Code(0)] {
            take(&suspects, 7);
            assert_eq!(suspects.control_died(how, |_| true), None);
        }
        for _ in 0..2 {
            take(&suspects, 9);
            assert_eq!(suspects.control_died(PANIC, |run| run == 7), None);
        }
        assert_eq!((suspects.quarantine(7), suspects.quarantine(9)), (None, None));
    }

    #[test]
    fn nobody_changes_the_note_s_size() {
        let suspects = Suspects::new().unwrap();
        assert!(ftruncate(suspects.note(), 1 << 20).is_err());
        assert!(ftruncate(suspects.note(), 0).is_err());
    }
}
