//! The verbs, one file per group. A verb is a struct of its options with a `run` method.

pub(crate) mod completions;
pub(crate) mod console;
pub(crate) mod definition;
pub(crate) mod event;
pub(crate) mod gateway;
pub(crate) mod host;
pub(crate) mod info;
pub(crate) mod lifecycle;
pub(crate) mod list;
pub(crate) mod run;
