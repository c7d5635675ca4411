//! Things that a poll knows by a number.

/// Things by number; a number is used again after its thing is gone, and a serial tells the one from the other.
#[derive(Debug)]
pub struct Slots<T> {
    items: Vec<Option<(u64, T)>>,
    free: Vec<usize>,
    serial: u64,
}

/// Names one thing for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The number that the poll knows.
    pub slot: usize,
    serial: u64,
}

impl<T> Slots<T> {
    /// None.
    #[must_use]
    pub fn new() -> Slots<T> {
        Slots { items: Vec::new(), free: Vec::new(), serial: 0 }
    }

    /// Adds a thing.
    pub fn add(&mut self, item: T) -> Key {
        self.serial += 1;
        let serial = self.serial;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.items.push(None);
            self.items.len() - 1
        });
        if let Some(place) = self.items.get_mut(slot) {
            *place = Some((serial, item));
        }
        Key { slot, serial }
    }

    /// The key of what is at a number now.
    #[must_use]
    pub fn key(&self, slot: usize) -> Option<Key> {
        self.items.get(slot)?.as_ref().map(|(serial, _)| Key { slot, serial: *serial })
    }

    /// The first thing that is such a one.
    pub fn find(&self, such: impl Fn(&T) -> bool) -> Option<Key> {
        let mut all = self.items.iter().enumerate();
        all.find_map(|(slot, item)| {
            item.as_ref().filter(|(_, item)| such(item)).map(|(serial, _)| Key { slot, serial: *serial })
        })
    }

    /// The thing of a key, if it is there still.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&T> {
        self.items.get(key.slot)?.as_ref().filter(|(serial, _)| *serial == key.serial).map(|(_, item)| item)
    }

    /// As [`Slots::get`].
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.items.get_mut(key.slot)?.as_mut().filter(|(serial, _)| *serial == key.serial).map(|(_, item)| item)
    }

    /// Takes a thing out.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let taken = self.items.get_mut(key.slot)?.take();
        self.free.push(key.slot);
        taken.map(|(_, item)| item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_used_again_and_its_old_key_is_dead() {
        let mut slots = Slots::new();
        let (a, b) = (slots.add("a"), slots.add("b"));
        assert_eq!(slots.remove(a), Some("a"));
        let c = slots.add("c");
        assert_eq!(c.slot, a.slot);
        assert_eq!((slots.get(a), slots.get(b), slots.get(c)), (None, Some(&"b"), Some(&"c")));
        assert_eq!(slots.remove(a), None);
        assert_eq!(slots.key(c.slot), Some(c));
        assert_eq!(slots.key(9), None);
    }
}
