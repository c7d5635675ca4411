#![no_main]

#[path = "../targets/wire.rs"]
#[allow(dead_code)] // One target of several.
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::names(bytes));
