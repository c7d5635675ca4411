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

/// What answers calls. Its methods stand in a trait for each family ([`NetworkOps`], [`SecretOps`], …, and several for domains),
/// one an operation, each of which says "not supported" until it is written; a driver has all of these traits, and may be
/// given to [`dispatch`] then.
///
/// A driver is called with one call at a time. One that must wait takes what it needs for the reply out of the context and
/// answers [`Outcome::Pending`].
pub trait Driver {
    /// What a call is answered with: who asks, and where a late reply goes.
    type Context;

    /// The name that an error text gives: "QEMU", "LXC".
    fn driver_name(&self) -> &'static str;
}

/// Says of a driver that it has no operation of its own of these families.
///
/// ```
/// struct Quiet;
///
/// impl api::Driver for Quiet {
///     type Context = ();
///     fn driver_name(&self) -> &'static str {
///         "Quiet"
///     }
/// }
/// api::no_operations!(Quiet: SecretOps, NetworkOps);
/// ```
#[macro_export]
macro_rules! no_operations {
    ($driver:ty: $($family:ident),+ $(,)?) => {
        $(impl $crate::$family for $driver {})+
    };
}

include!(concat!(env!("OUT_DIR"), "/driver.rs"));
