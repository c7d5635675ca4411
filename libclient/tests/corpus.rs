//! The fuzzers' corpora, as ordinary tests: each file is what somebody may write.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Targets fail by panics.

#[path = "../../fuzz/targets/replay.rs"]
mod replay;
#[path = "../../fuzz/targets/uri.rs"]
mod targets;

#[test]
fn uri() {
    replay::replay("uri", targets::uri);
}
