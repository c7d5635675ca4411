//! Pseudo-random values of every type, for tests of codecs. The same seed gives the same values.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::Bounded;
use crate::op::Op;
use crate::xdr::Xdr;
use crate::{bulkhead, lxc, qemu, remote};

/// The longest list or text that is made: long enough to have neighbours, short enough to test every truncation.
const LONGEST: usize = 4;

/// Where the values come from.
#[derive(Clone, Debug)]
pub struct Source {
    state: u64,
}

impl Source {
    /// Begins a sequence.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number (splitmix64).
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() % bound as u64).unwrap_or_default()
    }

    /// A text of at most `max` bytes.
    pub fn string(&mut self, max: usize) -> String {
        const LETTERS: [&str; 6] = ["a", "Z", "<", "é", "\u{20ac}", "\u{1f6a2}"];
        let mut text = String::new();
        for _ in 0..self.below(LONGEST + 1) {
            let letter = LETTERS[self.below(LETTERS.len())];
            if text.len() + letter.len() <= max {
                text.push_str(letter);
            }
        }
        text
    }

    /// At most `max` bytes.
    pub fn opaque(&mut self, max: usize) -> Vec<u8> {
        self.list(max, u8::arbitrary)
    }

    /// At most `max` values.
    pub fn list<T>(&mut self, max: usize, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        let length = self.below(max.min(LONGEST) + 1);
        self.items(length, make)
    }

    /// Exactly `length` values.
    pub fn items<T>(&mut self, length: usize, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        (0..length).map(|_| make(self)).collect()
    }

    /// A value, or none.
    pub fn option<T>(&mut self, make: impl Fn(&mut Self) -> T) -> Option<T> {
        bool::arbitrary(self).then(|| make(self))
    }
}

/// A type of which values can be made.
pub trait Arbitrary: Sized {
    /// Makes one, within its limits.
    fn arbitrary(source: &mut Source) -> Self;
}

/// Sees every type; see [`visit_types`].
pub trait TypeVisitor {
    /// Sees one type.
    fn visit<T>(&mut self, name: &'static str)
    where
        T: Arbitrary + Serialize + DeserializeOwned + Xdr + Bounded + Clone + Default + PartialEq + std::fmt::Debug;
}

impl Arbitrary for () {
    fn arbitrary(_: &mut Source) -> Self {}
}

impl Arbitrary for bool {
    fn arbitrary(source: &mut Source) -> Self {
        source.number() & 1 == 1
    }
}

/// Any bits, half of the time; else a small number, for the bits that conditions look at.
macro_rules! numbers {
    ($($ty:ty)*) => {$(
        impl Arbitrary for $ty {
            fn arbitrary(source: &mut Source) -> Self {
                let bytes = source.number().to_le_bytes();
                let mut own = [0; size_of::<$ty>()];
                let length = if bool::arbitrary(source) { own.len() } else { 1 };
                own[..length].copy_from_slice(&bytes[..length]);
                <$ty>::from_le_bytes(own)
            }
        }
    )*};
}

numbers!(i8 u8 i16 u16 i32 u32 i64 u64);

impl Arbitrary for f64 {
    fn arbitrary(source: &mut Source) -> Self {
        // Never NaN, which is not equal to itself.
        f64::from(i32::arbitrary(source)) / 3.0
    }
}

impl Arbitrary for [u8; 16] {
    fn arbitrary(source: &mut Source) -> Self {
        std::array::from_fn(|_| u8::arbitrary(source))
    }
}

include!(concat!(env!("OUT_DIR"), "/samples.rs"));
include!(concat!(env!("OUT_DIR"), "/remote_samples.rs"));
include!(concat!(env!("OUT_DIR"), "/qemu_samples.rs"));
include!(concat!(env!("OUT_DIR"), "/lxc_samples.rs"));
include!(concat!(env!("OUT_DIR"), "/bulkhead_samples.rs"));
