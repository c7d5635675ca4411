#![no_main]

#[path = "../targets/ipc.rs"]
#[allow(dead_code)] // One target of several.
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::conf(bytes));
