//! The keys by which the supervisor's one poll tells its sources apart.

use supervisor::{console, wire};

/// What a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// QEMU's monitor.
    Monitor,
    /// QEMU's process.
    Process,
    /// QEMU's standard error.
    Words,
    /// A part of the control edge.
    Wire(wire::Part),
    /// A part of the console with this number.
    Console(u8, console::Part),
}

const SHIFT: u32 = 32;
const CONTROL: u64 = 1;
const FIRST_CONSOLE: u64 = 2;

impl Source {
    /// The key.
    #[must_use]
    pub fn key(self) -> u64 {
        match self {
            Source::Monitor => 0,
            Source::Process => 1,
            Source::Words => 2,
            Source::Wire(wire::Part::Listener) => 3,
            Source::Console(console, console::Part::Guest) => 16 + u64::from(console),
            Source::Wire(wire::Part::Control(number)) => CONTROL << SHIFT | u64::from(number),
            Source::Console(console, console::Part::Client(number)) => {
                (FIRST_CONSOLE + u64::from(console)) << SHIFT | u64::from(number)
            }
        }
    }

    /// What a key names, if it is one.
    #[must_use]
    pub fn of_key(key: u64) -> Option<Source> {
        let number = u32::try_from(key & u64::from(u32::MAX)).ok()?;
        Some(match (key >> SHIFT, number) {
            (0, 0) => Source::Monitor,
            (0, 1) => Source::Process,
            (0, 2) => Source::Words,
            (0, 3) => Source::Wire(wire::Part::Listener),
            (0, console) => Source::Console(u8::try_from(console.checked_sub(16)?).ok()?, console::Part::Guest),
            (CONTROL, number) => Source::Wire(wire::Part::Control(number)),
            (console, number) => {
                let console = u8::try_from(console - FIRST_CONSOLE).ok()?;
                Source::Console(console, console::Part::Client(number))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_lead_back() {
        let mut sources = vec![Source::Monitor, Source::Process, Source::Words, Source::Wire(wire::Part::Listener)];
        for number in [0, 1, u32::MAX] {
            sources.push(Source::Wire(wire::Part::Control(number)));
            for console in [0, 1, 7] {
                sources.push(Source::Console(console, console::Part::Client(number)));
            }
        }
        sources.extend([0, 7].map(|console| Source::Console(console, console::Part::Guest)));
        let mut keys: Vec<u64> = sources.iter().map(|source| source.key()).collect();
        for (source, key) in sources.iter().zip(&keys) {
            assert_eq!(Source::of_key(*key), Some(*source));
        }
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), sources.len());
        assert_eq!(Source::of_key(4), None);
    }
}
