//! What there is to know of QEMU: how a document becomes its argument vector, and what a document leaves open.
//!
//! Everything here is a function of its arguments: nothing is opened, asked or run.

pub mod complete;
pub mod devices;
pub mod disks;
pub mod plan;
