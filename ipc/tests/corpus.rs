//! The fuzzers' corpora, as ordinary tests: each file is what a peer may say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Targets fail by panics.

#[path = "../../fuzz/targets/replay.rs"]
mod replay;
#[path = "../../fuzz/targets/ipc.rs"]
mod targets;

#[test]
fn ipc_conf() {
    replay::replay("ipc_conf", targets::conf);
}

#[test]
fn ipc_frames() {
    replay::replay("ipc_frames", targets::frames);
}
