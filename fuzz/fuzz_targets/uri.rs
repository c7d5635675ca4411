#![no_main]

#[path = "../targets/uri.rs"]
#[allow(dead_code)] // One target of several.
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::uri(bytes));
