//! # gateway: libvirt's clients, unchanged
//!
//! virsh, libvirt-python and all the others connect to a socket of libvirt's and speak its XDR protocol. The gateway turns
//! that into calls of [`api`], gives them to a driver of `libclient`, and turns the answers back. It knows no operation by
//! name but those of a connection's own life: login, open, close, features, events, streams.
//!
//! Five kinds of process of one program:
//!
//! | process | runs as | does | never |
//! |---|---|---|---|
//! | [`launcher`] | the caller's uid (root: with the capabilities to change identity only) | makes the sockets, starts the others | accepts, or reads what a worker or a client wrote |
//! | [`acceptor`] | the same uid without any capability | accepts, notes the client's user, decides the rights, hands the client to a worker; gets workers their connection to a driver's daemon; tells the mock host each client's user and rights | reads a byte of a client's, opens a file, starts a process |
//! | [`worker`], one a connection | the service uid (a session: the user), no capability | speaks with one client and one driver | makes, opens or reaches anything that it was not handed |
//! | [`polkit`], when somebody asks | the launcher's uid without any capability | asks the host's authority who may change things | hears a client or a worker |
//! | [`mock_host`], when somebody opens `test:///default` | the service uid (a session: the user), no capability | answers the calls of all its clients with libclient's test driver | opens a file, makes or reaches a socket |
//!
//! [`edge`] is all that they say to each other. The acceptor's uid is root's on a system instance because qemud takes
//! calls that change something from root only, and the kernel stamps a connection with its maker's uid; an empty
//! capability set, Landlock without any path and an allow-list of system calls leave that uid no other use.
//!
//! A worker takes another connection after one that ended cleanly, but only of the same user with the same rights: a user
//! that takes a worker over reaches no other user.
#![forbid(unsafe_code)]

pub mod acceptor;
pub mod config;
pub mod edge;
pub mod launcher;
pub mod mock_host;
pub mod network;
pub mod polkit;
mod program;
pub mod tls;
pub mod worker;

pub use program::main;

/// An error and all of its sources in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
