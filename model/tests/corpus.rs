//! The fuzzers' corpora, as ordinary tests: each file is what a peer may say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Targets fail by panics.

#[path = "../../fuzz/targets/replay.rs"]
mod replay;
#[path = "../../fuzz/targets/model.rs"]
mod targets;

#[test]
fn model_xml() {
    replay::replay("model_xml", targets::xml);
}
