//! From an address to a byte stream.

use std::{
    env, fmt, io,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use api::{Error, ErrorCode, ErrorDomain};
use ipc::{
    client::{CONNECT_PATIENCE, ConnectError, connect_socket},
    paths::{Instance, Mode, PathsError, ROOT_VARIABLE, root_from},
};
use rustix::io::Errno;
use thiserror::Error as ThisError;
use wire::{
    Transport,
    tls::TlsError,
    transport::{Plain, Unix},
};

use super::{
    address::{Address, Sockets, Tls, Way},
    helper::{Helper, HelperError, Said},
    pki::{self, PkiError},
    ssh,
};
use crate::{Result, Uri};

/// How long a host may take to answer a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// A byte stream to a daemon that nobody has spoken on yet.
pub(super) struct Stream {
    pub(super) transport: Box<dyn Transport + Send>,
    /// Where it leads, as an error tells it: `the socket '/x'`.
    pub(super) place: String,
    /// What a program between says of itself.
    pub(super) said: Option<Said>,
}

/// Why there is no byte stream.
#[derive(Debug, ThisError)]
pub(super) enum DialError {
    #[error("there is no {names} in {dirs}")]
    NoSocket { dirs: Shown, names: String },
    #[error(transparent)]
    Place(#[from] PathsError),
    #[error("{} refuses", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    NotAccepted(ConnectError),
    #[error("the host '{host}' is not known")]
    Resolve {
        host: String,
        #[source]
        source: io::Error,
    },
    #[error("the host '{0}' has no address")]
    NoAddress(String),
    #[error("{address} does not answer")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the connection cannot be set up")]
    Setup(#[source] io::Error),
    #[error(transparent)]
    Helper(#[from] HelperError),
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// Connects. `unattended`: nobody is asked anything.
pub(super) fn dial(address: &Address, read_only: bool, unattended: bool) -> Result<Stream> {
    let host = address.host();
    let (place, dialled) = match &address.way {
        Way::Unix(sockets) => {
            let connected = connect_local(sockets, &sockets.names(read_only));
            let shown = match &connected {
                Ok((path, _)) | Err(DialError::Socket { path, .. }) => Some(path.display().to_string()),
                Err(_) => sockets.path.clone(),
            };
            let place = shown.map_or("a libvirt socket".into(), |path| format!("the socket '{path}'"));
            (place, connected.map(|(_, socket)| (Box::new(Unix::new(socket)) as Box<dyn Transport + Send>, None)))
        }
        Way::Ssh(way) => {
            let mut way = way.clone();
            way.no_tty |= unattended;
            let command = ssh::command(&way, host, address.user.as_deref(), &address.name, read_only);
            (format!("the host '{host}' by ssh"), dial_helper(command, true))
        }
        Way::Tcp { port } => (format!("{host}, port {port}"), dial_tcp(host, *port)),
        Way::Tls(tls) => (format!("{host}, port {}, by TLS", tls.port), dial_tls(tls, host)),
        Way::Ext { command } => {
            (format!("the program '{}'", command.display()), dial_helper(Command::new(command), false))
        }
    };
    match dialled {
        Ok((transport, said)) => Ok(Stream { transport, place, said }),
        Err(failure) => Err(told(failure, &place)),
    }
}

/// Connects to the socket of libvirt's protocol that serves `uri`'s guests on this host, and says nothing on it: for a
/// program that carries the bytes for somebody else, as at the far end of ssh. A socket for reading only takes no changes,
/// whatever is said on it.
///
/// # Errors
/// When the URI is none, no socket is there, or nobody listens on it.
pub fn local_socket(uri: &str, read_only: bool) -> Result<UnixStream> {
    let mut uri = Uri::parse(uri)?;
    uri.transport = Some("unix".into());
    let address = Address::of(&uri, rustix::process::geteuid().is_root())?;
    let Way::Unix(sockets) = &address.way else {
        return Err(Error::new(
            ErrorCode::NO_CONNECT,
            ErrorDomain::RPC,
            format!("{uri} is not served by a Unix socket"),
        ));
    };
    // A client that only reads says so when it opens; here nobody is believed, and a socket for readers is one that takes no
    // changes, a session's too.
    let ro = if read_only { "-ro" } else { "" };
    let names: Vec<String> = sockets.names(false).iter().map(|name| format!("{name}{ro}")).collect();
    let socket = connect_local(sockets, &names);
    socket.map(|(_, socket)| socket).map_err(|failure| told(failure, "a libvirt socket"))
}

type Dialled = Result<(Box<dyn Transport + Send>, Option<Said>), DialError>;

/// Connects to the socket that is meant, or to one of those that may be.
fn connect_local(sockets: &Sockets, names: &[String]) -> Result<(PathBuf, UnixStream), DialError> {
    connect_first(socket_paths(sockets, names)?)
}

/// Connects to the first where somebody listens: what a dead daemon left behind must not hide another one.
pub(super) fn connect_first(paths: Vec<PathBuf>) -> Result<(PathBuf, UnixStream), DialError> {
    let mut failure = None;
    for path in paths {
        match connect_socket(&path, CONNECT_PATIENCE) {
            Ok(socket) => return Ok((path, socket)),
            Err(ConnectError::Connect { path, source }) => {
                let left_behind = source.kind() == io::ErrorKind::ConnectionRefused;
                failure.get_or_insert(DialError::Socket { path, source });
                if !left_behind {
                    break;
                }
            }
            Err(other) => {
                failure.get_or_insert(DialError::NotAccepted(other));
                break;
            }
        }
    }
    // There is at least one path.
    Err(failure.unwrap_or(DialError::Setup(Errno::NOENT.into())))
}

fn dial_helper(command: Command, secure: bool) -> Dialled {
    let (helper, said) = Helper::run(command)?;
    let transport: Box<dyn Transport + Send> =
        if secure { Box::new(Plain::secured(helper)) } else { Box::new(Plain::new(helper)) };
    Ok((transport, Some(said)))
}

fn dial_tcp(host: &str, port: u16) -> Dialled {
    let socket = tcp(host, port)?;
    Ok((Box::new(Plain::new(socket)), None))
}

fn dial_tls(tls: &Tls, host: &str) -> Dialled {
    let socket = tcp(host, tls.port)?;
    Ok((Box::new(pki::secure(tls, host, socket, PATIENCE)?), None))
}

/// A TCP connection that never blocks, to the first of the host's addresses that answers.
fn tcp(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let addresses =
        (host, port).to_socket_addrs().map_err(|source| DialError::Resolve { host: host.to_owned(), source })?;
    let mut failure = DialError::NoAddress(host.to_owned());
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(socket) => {
                // A call is one small packet that waits for its answer.
                socket.set_nodelay(true).map_err(DialError::Setup)?;
                socket.set_nonblocking(true).map_err(DialError::Setup)?;
                return Ok(socket);
            }
            Err(source) => failure = DialError::Connect { address, source },
        }
    }
    Err(failure)
}

/// The socket that is meant, or those that may be and are there, in order; never none.
fn socket_paths(sockets: &Sockets, names: &[String]) -> Result<Vec<PathBuf>, DialError> {
    if let Some(path) = &sockets.path {
        return Ok(vec![PathBuf::from(path)]);
    }
    let root = rustix::process::geteuid().is_root();
    let dirs = socket_dirs(sockets.session, root, &|name| env::var_os(name).map(PathBuf::from))?;
    let paths = dirs.iter().flat_map(|dir| names.iter().map(|name| dir.join(name)));
    let there: Vec<PathBuf> = paths.filter(|path| path.exists()).collect();
    if there.is_empty() { Err(DialError::NoSocket { dirs: Shown(dirs), names: names.join(", ") }) } else { Ok(there) }
}

/// Where libvirt's daemons and the gateway listen, in the order in which they are tried.
fn socket_dirs(
    session: bool,
    root: bool,
    variable: &dyn Fn(&str) -> Option<PathBuf>,
) -> Result<Vec<PathBuf>, PathsError> {
    let set = |name: &str| variable(name).filter(|path| path.is_absolute());
    if let Some(relocated) = root_from(variable(ROOT_VARIABLE).as_deref().map(Path::as_os_str))? {
        let mode = if session { Mode::Session } else { Mode::System };
        let instance = Instance::at(mode, Some(relocated.clone()));
        return Ok(vec![if session { instance.runtime_dir().join("libvirt") } else { relocated.join("run/libvirt") }]);
    }
    let mut dirs = Vec::new();
    if session {
        let cache = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        dirs.extend(set("XDG_RUNTIME_DIR").or_else(cache).map(|dir| dir.join("libvirt")));
    }
    // With libvirt, root's own daemon is the host's.
    if !session || root {
        dirs.extend(["/run/libvirt", "/run/bulkhead/libvirt"].map(PathBuf::from));
    }
    Ok(dirs)
}

/// Paths, as an error lists them.
#[derive(Debug)]
pub(super) struct Shown(Vec<PathBuf>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, path) in self.0.iter().enumerate() {
            let joint = if index == 0 { "" } else { ", " };
            write!(f, "{joint}{}", path.display())?;
        }
        Ok(())
    }
}

fn told(failure: DialError, place: &str) -> Error {
    let hint = hint(&failure);
    let error = Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::RPC, format!("failed to connect to {place}"));
    let error = error.with_cause(failure);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn hint(failure: &DialError) -> Option<&'static str> {
    match failure {
        DialError::NoSocket { .. } => {
            Some("start libvirtd or Bulkhead's gateway, or name its socket: driver+unix:///path?socket=PATH")
        }
        DialError::Socket { source, .. } => match Errno::from_io_error(source)? {
            Errno::NOENT | Errno::CONNREFUSED => Some("is the daemon running that should listen there?"),
            Errno::ACCESS | Errno::PERM => {
                Some("this user may not use that socket: connect read-only, or ask the administrator")
            }
            _ => None,
        },
        DialError::NotAccepted(_) => {
            Some("the daemon there is stopped or stuck: continue it (kill -CONT) or restart it")
        }
        DialError::Connect { source, .. } => match Errno::from_io_error(source)? {
            Errno::CONNREFUSED => {
                Some("does the daemon listen on the network there? libvirt's do so only when told to")
            }
            _ => None,
        },
        DialError::Helper(HelperError::Spawn { .. }) => {
            Some("install the program, or name another with ?command=PROGRAM")
        }
        DialError::Pki(error) => pki_hint(error),
        _ => None,
    }
}

fn pki_hint(failure: &PkiError) -> Option<&'static str> {
    match failure {
        PkiError::Authority { .. } => {
            Some("put the authority's certificate there, name another directory with ?pkipath=DIR, or use ssh instead")
        }
        PkiError::Tls(TlsError::Refused) => {
            Some("the server wants a certificate of its authority: clientcert.pem and clientkey.pem, or ?pkipath=DIR")
        }
        PkiError::Tls(TlsError::Handshake(_)) => Some(
            "the host in the URI must be one that the server's certificate is for, and its authority be known here",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_where_libvirt_s_clients_look() {
        let found = |session, root, set: &[(&str, &str)]| {
            socket_dirs(session, root, &|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        let dirs = |session, root, set: &[(&str, &str)]| found(session, root, set).unwrap();
        let paths = |texts: &[&str]| texts.iter().map(PathBuf::from).collect::<Vec<_>>();
        let runtime = [("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(dirs(false, false, &runtime), paths(&["/run/libvirt", "/run/bulkhead/libvirt"]));
        assert_eq!(dirs(true, false, &runtime), paths(&["/run/user/7/libvirt"]));
        assert_eq!(dirs(true, true, &runtime)[..2], paths(&["/run/user/7/libvirt", "/run/libvirt"]));
        assert_eq!(dirs(true, false, &[("HOME", "/h"), ("XDG_RUNTIME_DIR", "x")]), paths(&["/h/.cache/libvirt"]));
        let moved = [("HOME", "/h"), ("BULKHEAD_ROOT", "/r")];
        assert_eq!(dirs(false, true, &moved), paths(&["/r/run/libvirt"]));
        assert_eq!(
            found(false, true, &[("HOME", "/h"), ("BULKHEAD_ROOT", "r")]),
            Err(PathsError::RelativeRoot("r".into()))
        );
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(dirs(true, true, &moved), [PathBuf::from(format!("/r/user-{uid}/run/libvirt"))]);
    }
}
