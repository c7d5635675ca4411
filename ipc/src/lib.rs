//! # ipc: Bulkhead's own protocol on Unix stream sockets
//!
//! Every edge of the process picture speaks this framing: client ↔ qemud carries the calls of [`api`], the edges inside the
//! house (launcher ↔ control, control ↔ supervisor) carry small enums of their own through [`edge::Channel`].
//!
//! | module | what it is for |
//! |---|---|
//! | [`frame`] | the fixed header and its checks |
//! | [`codec`] | the one module that names bincode; a body to a value and back, with limits |
//! | [`budget`] | what one user, and all of them, may hold at a time |
//! | [`conn`] | a buffered connection: frames and file descriptors over one socket, blocking or not |
//! | [`hello`] | what both sides say first: versions, features, role |
//! | [`edge`] | typed channels: what an edge may not carry cannot be expressed on it |
//! | [`client`] | the blocking, thread-safe, pipelining client that libclient stands on |
//! | [`server`] | the mio side: listeners, connections, limits, deadlines |
//! | [`conf`] | the daemons' configuration files |
//! | [`lock`] | lock files |
//! | [`paths`] | where an instance keeps its sockets, definitions, run-time state and caches |
//! | [`programs`] | where a program of the suite is looked for, and whose it must be |
//! | [`wait`] | how a daemon's loop waits |
//!
//! A byte stream (a guest's console) is not tunnelled through frames: the reply to the call that opens it carries one end
//! of a socket pair, so a daemon never copies what a guest wrote, a slow reader fills its own socket buffer only, and the
//! kernel does the flow control.
//!
//! This crate must never allocate by a length that it has not checked, never block a server on one peer, and never
//! interpret what it carries.
#![forbid(unsafe_code)]

pub mod budget;
pub mod client;
pub mod codec;
pub mod conf;
pub mod conn;
pub mod edge;
pub mod frame;
pub mod hello;
pub mod lock;
pub mod paths;
pub mod programs;
pub mod server;
mod socket;
pub mod wait;

pub use conn::{Conn, ConnError, Filled, Incoming, OutputLimit};
pub use frame::{Caps, Kind};
pub use hello::Hello;
