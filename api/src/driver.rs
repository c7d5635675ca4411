//! What answers calls.

use crate::error::Error;
use crate::op::{Call, Op, Reply};

/// What a driver says to a call that went well.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<R> {
    /// The answer.
    Ready(R),
    /// The answer comes later, by what the driver took out of the context.
    Pending,
}

impl<R> Outcome<R> {
    /// Applies `f` to an answer that is there.
    pub fn map<S>(self, f: impl FnOnce(R) -> S) -> Outcome<S> {
        match self {
            Self::Ready(value) => Outcome::Ready(f(value)),
            Self::Pending => Outcome::Pending,
        }
    }
}

impl<R> From<R> for Outcome<R> {
    fn from(value: R) -> Self {
        Self::Ready(value)
    }
}

/// What a method of a driver answers.
pub type Answer<R> = Result<Outcome<R>, Error>;

/// An answer of one method as an answer of [`dispatch`].
fn answer<R>(answer: Answer<R>, wrap: fn(R) -> Reply) -> Answer<Reply> {
    answer.map(|outcome| outcome.map(wrap))
}

include!(concat!(env!("OUT_DIR"), "/driver.rs"));
