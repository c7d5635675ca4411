//! # wire: libvirt's protocol, both sides
//!
//! libvirt's clients and daemons speak XDR in length-prefixed frames over one byte stream: a Unix socket, TCP, TLS, or the
//! standard streams of a program such as ssh. This crate speaks it as a server and as a client. It stands on [`api`],
//! which has every operation's layout; above it are the gateway, which serves libvirt's clients, and libclient's remote
//! driver.
//!
//! | module | what it is for |
//! |---|---|
//! | [`frame`] | the header, the kinds of frames, the protocol's limits |
//! | [`transport`] | the byte streams below: Unix sockets with descriptors, and anything that reads and writes |
//! | [`conn`] | a buffered connection: whole frames with their descriptors, never waiting |
//! | [`codec`] | frames to calls, replies, events and errors, and back |
//! | [`keepalive`] | who pings when, and when a silent peer is dead |
//! | [`layer`] | the layer that a SASL mechanism may negotiate, below the frames |
//! | [`stream`] | the packets of streams and the states of both ends |
//! | `tls` | TLS as a transport of either side (feature `tls`) |
//! | `sasl` | SCRAM-SHA-256 for the login of either side (feature `sasl`) |
//! | [`client`] | a blocking, thread-safe, pipelining client, and its login |
//!
//! It knows bytes, not policy: which call is allowed to whom, and what it does, is decided elsewhere. It starts no thread
//! and no process and opens no file; but for [`client`] it never waits. A peer's bytes reach it first, so nothing in it may
//! panic, or reserve memory by a number that it has not checked.
#![forbid(unsafe_code)]

pub mod client;
pub mod codec;
pub mod conn;
pub mod frame;
pub mod keepalive;
pub mod layer;
#[cfg(feature = "sasl")]
pub mod sasl;
pub mod stream;
#[cfg(feature = "tls")]
pub mod tls;
pub mod transport;

pub use conn::{Conn, WireError};
pub use frame::{Frame, Header, Kind, Status};
pub use transport::Transport;
