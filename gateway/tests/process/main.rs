//! The gateway as a whole: its processes, real clients, qemud and QEMU behind it, on a private `BULKHEAD_ROOT`.
#![forbid(unsafe_code)]
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clients;
mod faults;
mod flood;
mod hostile;
mod limits;
mod mock_host;
mod network;
mod polkit;
mod power;
mod rig;
