//! Random choices that a seed repeats.

/// A generator (SplitMix64). Good enough to choose victims; no secret depends on it.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of one thread: threads that share a seed must not share choices.
    pub fn new(seed: u64, thread: u64) -> Random {
        let mut random = Random(seed ^ thread.wrapping_mul(0xD134_2543_DE82_EF95));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from `range`.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// One of several.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.within(0..all.len() as u64)).unwrap()]
    }

    /// One of several, each as often as its weight says.
    pub fn weighted<T: Copy>(&mut self, table: &[(T, u64)]) -> T {
        let mut left = self.within(0..table.iter().map(|(_, weight)| weight).sum());
        for (what, weight) in table {
            if left < *weight {
                return *what;
            }
            left -= weight;
        }
        unreachable!("the weights add up")
    }
}
