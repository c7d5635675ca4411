//! Limits how many log lines each user can cause.
//!
//! Each user has a burst of lines that refills with time. Lines beyond it are left out and counted; the next line that is
//! written reports how many.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// How many lines a user may cause.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// How long it takes until one more line may be written.
    pub refill: Duration,
}

/// What to do about one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Write it. What is not zero, first write that so many were left out.
    Write {
        /// Lines of this user that were left out since the last one.
        suppressed: u64,
        /// Lines of users that have been forgotten, or found no place, that were left out.
        of_others: u64,
    },
    /// Leave it out.
    Suppress,
}

#[derive(Debug)]
struct Bucket {
    lines: u32,
    /// When `lines` was right; refills are counted from here.
    at: Instant,
    suppressed: u64,
}

/// Users that are remembered at most. When there are more, the quiet ones are forgotten; if there are none, new users share
/// one burst.
const MAX_USERS: usize = 1024;

/// Counts lines by user. See the module's page.
#[derive(Debug)]
pub struct LogLimiter<K> {
    rate: Rate,
    users: HashMap<K, Bucket>,
    /// For users that found no place.
    others: Bucket,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Bucket {
        Bucket { lines: rate.burst, at: now, suppressed: 0 }
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let refill = rate.refill.as_nanos().max(1);
        let gained = now.saturating_duration_since(self.at).as_nanos() / refill;
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        self.lines = self.lines.saturating_add(gained).min(rate.burst);
        if self.lines == rate.burst {
            self.at = now;
        } else {
            self.at += rate.refill * gained;
        }
    }

    fn take(&mut self, rate: Rate, now: Instant) -> Verdict {
        self.refill(rate, now);
        if self.lines == 0 {
            self.suppressed += 1;
            return Verdict::Suppress;
        }
        self.lines -= 1;
        Verdict::Write { suppressed: std::mem::take(&mut self.suppressed), of_others: 0 }
    }

    fn is_quiet(&self, rate: Rate) -> bool {
        self.lines == rate.burst
    }
}

impl<K: Eq + Hash + Clone> LogLimiter<K> {
    /// Nobody has caused a line yet.
    #[must_use]
    pub fn new(rate: Rate) -> LogLimiter<K> {
        LogLimiter { rate, users: HashMap::new(), others: Bucket::new(rate, Instant::now()) }
    }

    /// Counts one line that `user` causes.
    pub fn count(&mut self, user: &K, now: Instant) -> Verdict {
        if let Some(bucket) = self.users.get_mut(user) {
            return bucket.take(self.rate, now);
        }
        if self.users.len() >= MAX_USERS {
            let (rate, others) = (self.rate, &mut self.others);
            self.users.retain(|_, bucket| {
                bucket.refill(rate, now);
                let quiet = bucket.is_quiet(rate);
                if quiet {
                    // What was left out of a user that is forgotten is counted with that of those who found no place.
                    others.suppressed += bucket.suppressed;
                }
                !quiet
            });
        }
        if self.users.len() >= MAX_USERS {
            return match self.others.take(self.rate, now) {
                Verdict::Write { suppressed, .. } => Verdict::Write { suppressed: 0, of_others: suppressed },
                suppress @ Verdict::Suppress => suppress,
            };
        }
        // A new user has a whole burst.
        self.users.entry(user.clone()).or_insert_with(|| Bucket::new(self.rate, now)).take(self.rate, now);
        Verdict::Write { suppressed: 0, of_others: std::mem::take(&mut self.others.suppressed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, refill: Duration::from_secs(10) };
    const WRITE: Verdict = after(0);

    const fn after(suppressed: u64) -> Verdict {
        Verdict::Write { suppressed, of_others: 0 }
    }

    #[test]
    fn a_burst_is_written_and_the_rest_is_counted() {
        let mut limiter = LogLimiter::new(RATE);
        let now = Instant::now();
        assert_eq!([(); 4].map(|()| limiter.count(&1, now)), [WRITE, WRITE, WRITE, Verdict::Suppress]);
        assert_eq!(limiter.count(&2, now), WRITE, "another user has its own");
        assert_eq!(limiter.count(&1, now + Duration::from_secs(9)), Verdict::Suppress);
        assert_eq!(limiter.count(&1, now + Duration::from_secs(10)), after(2));
        assert_eq!(limiter.count(&1, now + Duration::from_secs(19)), Verdict::Suppress);
        let (later, reported) = (now + Duration::from_secs(1000), after(1));
        assert_eq!([(); 4].map(|()| limiter.count(&1, later)), [reported, WRITE, WRITE, Verdict::Suppress]);
    }

    #[test]
    fn many_users_cost_no_memory_and_no_lines_without_end() {
        let mut limiter = LogLimiter::new(RATE);
        let now = Instant::now();
        let written = (0..100_000).filter(|user| limiter.count(user, now) != Verdict::Suppress).count();
        assert_eq!(written, MAX_USERS + 3);
        assert!(limiter.users.len() <= MAX_USERS);
        let later = now + Duration::from_secs(100);
        let others = 100_000 - u64::try_from(written).unwrap();
        let report = Verdict::Write { suppressed: 0, of_others: others };
        assert_eq!(limiter.count(&200_000, later), report, "the quiet ones make room");
        assert_eq!(limiter.users.len(), 1);
    }

    #[test]
    fn what_a_forgotten_user_left_out_is_told_as_others() {
        let mut limiter = LogLimiter::new(RATE);
        let now = Instant::now();
        assert_eq!([(); 5].map(|()| limiter.count(&0, now))[3..], [Verdict::Suppress; 2]);
        for user in 1..MAX_USERS {
            limiter.count(&user, now);
        }
        let later = now + Duration::from_secs(100);
        assert_eq!(limiter.count(&200_000, later), Verdict::Write { suppressed: 0, of_others: 2 });
        assert_eq!(limiter.count(&0, later), WRITE, "it is told once");
    }
}
