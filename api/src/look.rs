//! Looking once more before going to sleep.
//!
//! Where the other side runs on another CPU, going to sleep and being woken costs more than a cheap answer takes to come. So
//! whoever waits for one looks again for a moment, yielding its CPU each time, before it sleeps; and no longer does so when
//! what it waits for takes longer than that moment anyway, or when others want the CPU.

use std::{
    sync::atomic::{AtomicI32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// What a wake-up on another CPU may cost and a cheap call may take, together.
const MOMENT: Duration = Duration::from_micros(50);
/// A yield that takes this long has let somebody else run.
const CROWDED: Duration = Duration::from_micros(5);
/// This many vain looks in a row, and it is not worth it.
const MISSES: i32 = 4;
/// Waits until it is tried again.
const PAUSE: i32 = 64;

/// How one waiter's looks have fared.
#[derive(Debug)]
pub struct Look {
    /// More than one CPU.
    worthwhile: bool,
    /// Vain looks in a row; or waits left without looking, counted down from below zero.
    misses: AtomicI32,
}

impl Default for Look {
    fn default() -> Look {
        let worthwhile = thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
        Look { worthwhile, misses: AtomicI32::new(0) }
    }
}

impl Look {
    /// Tries until there is something or the moment is over; nothing means that it is time to sleep.
    ///
    /// # Errors
    /// The first error of `attempt`.
    pub fn look<T, E>(&self, mut attempt: impl FnMut() -> Result<Option<T>, E>) -> Result<Option<T>, E> {
        let misses = self.misses.load(Ordering::Relaxed);
        if !self.worthwhile || misses < 0 {
            self.misses.store(misses.saturating_add(1).min(0), Ordering::Relaxed);
            return Ok(None);
        }
        let begin = Instant::now();
        let mut last = begin;
        let mut crowded = false;
        loop {
            if let Some(found) = attempt()? {
                self.misses.store(0, Ordering::Relaxed);
                return Ok(Some(found));
            }
            // Who ran instead may have been the one that is waited for, so there is one more attempt behind a long yield.
            if crowded || last - begin >= MOMENT {
                break;
            }
            let yielded = Instant::now();
            thread::yield_now();
            last = Instant::now();
            crowded = last - yielded > CROWDED;
        }
        self.misses.store(if misses >= MISSES { -PAUSE } else { misses + 1 }, Ordering::Relaxed);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn look(look: &Look, found: bool) -> (bool, usize) {
        let mut tries = 0;
        let result = look.look(|| {
            tries += 1;
            Ok::<_, Infallible>(found.then_some(()))
        });
        (result.unwrap().is_some(), tries)
    }

    #[test]
    fn what_is_there_is_taken_at_once() {
        let eager = Look { worthwhile: true, misses: AtomicI32::new(3) };
        assert_eq!(look(&eager, true), (true, 1));
        assert_eq!(eager.misses.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn vain_looks_end_and_are_tried_again_later() {
        let eager = Look { worthwhile: true, misses: AtomicI32::new(0) };
        for _ in 0..=MISSES {
            let (found, tries) = look(&eager, false);
            assert!(!found && tries > 0);
        }
        for _ in 0..PAUSE {
            assert_eq!(look(&eager, true), (false, 0));
        }
        assert_eq!(look(&eager, true), (true, 1));
    }

    #[test]
    fn a_single_cpu_has_something_better_to_do() {
        let alone = Look { worthwhile: false, misses: AtomicI32::new(0) };
        assert_eq!(look(&alone, true), (false, 0));
    }
}
