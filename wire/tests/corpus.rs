//! The fuzzers' corpora, as ordinary tests: each file is what a peer may say.
#![cfg(feature = "sasl")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Targets fail by panics.

#[path = "../../fuzz/targets/replay.rs"]
mod replay;
#[path = "../../fuzz/targets/wire.rs"]
mod targets;

#[test]
fn wire_calls() {
    replay::replay("wire_calls", targets::calls);
}

#[test]
fn wire_answers() {
    replay::replay("wire_answers", targets::answers);
}

#[test]
fn wire_streams() {
    replay::replay("wire_streams", targets::streams);
}

#[test]
fn wire_layers() {
    replay::replay("wire_layers", targets::layers);
}

#[test]
fn wire_names() {
    replay::replay("wire_names", targets::names);
}

#[test]
fn wire_sasl() {
    replay::replay("wire_sasl", targets::sasl);
}
