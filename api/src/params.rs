//! Lists of typed parameters, and libvirt's conventions for asking for them.

use crate::remote::{TypedParam, TypedParamValue};

/// The bit of `flags` with which a caller says that it takes strings; without it they are left out.
pub const STRING_OKAY: u32 = 4;

/// A list of typed parameters in the making.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params(Vec<TypedParam>);

impl Params {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an `int`.
    pub fn int(&mut self, field: impl Into<String>, value: i32) {
        self.add(field, TypedParamValue::Int(value));
    }

    /// Adds an `unsigned int`.
    pub fn uint(&mut self, field: impl Into<String>, value: u32) {
        self.add(field, TypedParamValue::Uint(value));
    }

    /// Adds an `unsigned long long`.
    pub fn ullong(&mut self, field: impl Into<String>, value: u64) {
        self.add(field, TypedParamValue::Ullong(value));
    }

    /// Adds a `long long`.
    pub fn llong(&mut self, field: impl Into<String>, value: i64) {
        self.add(field, TypedParamValue::Llong(value));
    }

    /// Adds a string.
    pub fn string(&mut self, field: impl Into<String>, value: impl Into<String>) {
        self.add(field, TypedParamValue::String(value.into()));
    }

    fn add(&mut self, field: impl Into<String>, value: TypedParamValue) {
        self.0.push(TypedParam { field: field.into(), value });
    }

    /// The list.
    pub fn into_vec(self) -> Vec<TypedParam> {
        self.0
    }

    /// The list for a caller with room for `room` entries, and the count that goes with it: the number of entries when the
    /// caller has room for none, which asks how many there are; otherwise 0.
    pub fn asked(self, room: i32) -> (Vec<TypedParam>, i32) {
        asked(self.0, room)
    }
}

/// Any list as [`Params::asked`] hands out its own.
pub fn asked<T>(list: Vec<T>, room: i32) -> (Vec<T>, i32) {
    match usize::try_from(room) {
        Ok(room @ 1..) => (list.into_iter().take(room).collect(), 0),
        _ => (Vec::new(), i32::try_from(list.len()).unwrap_or(i32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_asks_how_many() {
        let mut params = Params::new();
        params.int("a", 1);
        params.ullong("b", 2);
        assert_eq!(params.clone().asked(0), (Vec::new(), 2));
        assert_eq!(params.clone().asked(-1), (Vec::new(), 2));
        assert_eq!(params.clone().asked(1).0.len(), 1);
        let (all, count) = params.asked(16);
        assert_eq!((all.len(), count), (2, 0));
        assert_eq!(all[1], TypedParam { field: "b".into(), value: TypedParamValue::Ullong(2) });
    }
}
