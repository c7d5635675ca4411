//! What the processes say to each other.
//!
//! The worker reads strangers' bytes, so it may say the least: it asks for a connection to a driver's daemon (by the rights that
//! the acceptor has noted) and for what its client's login needs, and reports that it has finished. Each question has one
//! answer, in order; no serial is needed.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipc::paths::Mode;
use serde::{Deserialize, Serialize};
use wire::sasl;

/// Fixed descriptors with which the launcher starts the others.
pub mod fds {
    /// The channel: the acceptor's to the launcher, a worker's to the acceptor.
    pub const CHANNEL: i32 = 3;
    /// The acceptor's first listener; the others follow.
    pub const FIRST_LISTENER: i32 = 4;
}

/// What a connection may do, by the socket it came in by and by who made it. A worker is bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Rights {
    /// Everything.
    Full,
    /// What only reads.
    ReadOnly,
}

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peer {
    /// A process of this host.
    Local {
        /// Its user when it connected.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its process; for logs only, a pid can be used again.
        pid: i32,
    },
    /// Somebody on the network, who has yet to say who he is.
    Remote(SocketAddr),
}

/// Whose connections are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Who {
    /// A user of this host.
    User(u32),
    /// Another host: its address, the first half of it where that is IPv6's.
    Host(IpAddr),
}

impl Peer {
    /// Whose connection it is.
    #[must_use]
    pub fn who(self) -> Who {
        match self {
            Peer::Local { uid, .. } => Who::User(uid),
            Peer::Remote(address) => Who::Host(network_of(address.ip())),
        }
    }
}

/// Whose an address is: of IPv6's any host has as many as it likes, and what it cannot choose is the first half of them.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

/// For logs.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Local { uid, pid, .. } => write!(f, "uid {uid} pid {pid}"),
            Peer::Remote(address) => address.fmt(f),
        }
    }
}

/// For errors.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::User(uid) => write!(f, "uid {uid}"),
            Who::Host(address) => address.fmt(f),
        }
    }
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Door {
    /// `libvirt-sock`.
    ReadWrite,
    /// `libvirt-sock-ro`.
    ReadOnly,
    /// A TCP port without encryption.
    Tcp,
    /// A TCP port with TLS.
    Tls,
}

/// How a client that the kernel does not know says who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Login {
    /// Not at all, beyond what its certificate has said.
    None,
    /// By name and password: SCRAM-SHA-256.
    Sasl,
    /// The kernel has said who it is; whether that one may change things polkit decides when the client asks for it.
    Polkit,
}

/// Why somebody who asked for something is not let have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// libvirt's number of the error.
    pub code: i32,
    /// What the client is told.
    pub reason: String,
}

/// What a TLS server shows and checks. The key is not among it: that is the acceptor's alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsTerms {
    /// The authorities of clients' certificates, PEM.
    pub authority: Vec<u8>,
    /// The certificates that they have revoked, PEM; empty for no list.
    pub revoked: Vec<u8>,
    /// The own certificate, with those between it and its authority, PEM.
    pub certificate: Vec<u8>,
    /// What the key can sign: TLS's numbers.
    pub schemes: Vec<u16>,
    /// Names of clients' certificates that are let in, with `*` and `?`; empty for all that the authority has signed.
    pub allowed_names: Vec<String>,
    /// Clients need no certificate.
    pub anybody: bool,
}

/// What the acceptor needs for clients that come by network.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// What TLS takes, if it is offered.
    pub tls: Option<TlsTerms>,
    /// The key of the certificate, PEM.
    pub key: Vec<u8>,
    /// How clients log in behind TLS.
    pub tls_login: Option<Login>,
    /// How clients log in on a plain TCP connection.
    pub tcp_login: Option<Login>,
    /// Names and their verifiers.
    pub users: Vec<(String, String)>,
    /// What is told of users that there are not follows from it.
    pub secret: Vec<u8>,
}

/// Without what is secret.
impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("tls", &self.tls).field("users", &self.users.len()).finish_non_exhaustive()
    }
}

/// Whose connections get full rights through the read-write socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trusted {
    /// These users, besides root.
    pub uids: Vec<u32>,
    /// Members of these groups.
    pub gids: Vec<u32>,
}

/// How much strangers may cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Connections of all.
    pub connections: usize,
    /// Connections of one user. Root and the gateway's own user are held to `connections` only.
    pub connections_per_uid: usize,
    /// How many of `connections` only root and the gateway's own user may have.
    pub reserved: usize,
    /// Connections by network that have logged in.
    pub remote: usize,
    /// Connections by network that have not.
    pub strangers: usize,
    /// Those of one host.
    pub strangers_per_host: usize,
    /// Workers that wait for a client.
    pub ready_workers: usize,
    /// How long a client may say nothing before it is known.
    pub patience: Duration,
    /// How long a worker without a client is kept for the next one of the same user.
    pub keep: Duration,
}

/// What all connections of one user together may have under way, if they were as many as may be.
const CALLS_OF_USER: usize = 4096;
const UNREAD_OF_USER: usize = 32 << 20;

impl Limits {
    /// Each connection's share.
    #[must_use]
    pub fn share(&self) -> Share {
        let connections = self.connections_per_uid.max(1);
        // Less than a call at a time would be none, and a window of some answers keeps a client that reads from waiting.
        Share {
            calls: (CALLS_OF_USER / connections).clamp(4, 1024),
            unread: (UNREAD_OF_USER / connections).clamp(64 << 10, 1 << 20),
        }
    }
}

/// The keepalive that a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepaliveSettings {
    /// Silence after which a ping is sent; none at all when 0.
    pub seconds: u32,
    /// So many pings may stay unanswered.
    pub count: u32,
}

/// All that the acceptor must know; it reads no file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Whose guests.
    pub mode: InstanceMode,
    /// What each inherited listener is for.
    pub doors: Vec<Door>,
    /// qemud's socket for calls that may change things: its directory is watched, and it is named to people.
    pub qemud: PathBuf,
    /// qemud's socket for calls that only read, as above.
    pub qemud_read_only: PathBuf,
    /// The uid that the launcher runs as.
    pub own_uid: u32,
    /// Who else may change things.
    pub trusted: Trusted,
    /// How much strangers may cost.
    pub limits: Limits,
    /// What workers do for feature 10.
    pub keepalive: KeepaliveSettings,
    /// The launcher can start a qemud that is not there.
    pub may_start_qemud: bool,
    /// Who may not change things by the configuration may ask polkit.
    pub polkit: bool,
    /// What clients by network need.
    pub network: Network,
}

/// [`Mode`], as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstanceMode {
    /// `qemu:///system`.
    System,
    /// `qemu:///session`.
    Session,
}

impl From<Mode> for InstanceMode {
    fn from(mode: Mode) -> InstanceMode {
        match mode {
            Mode::System => InstanceMode::System,
            Mode::Session => InstanceMode::Session,
        }
    }
}

impl From<InstanceMode> for Mode {
    fn from(mode: InstanceMode) -> Mode {
        match mode {
            InstanceMode::System => Mode::System,
            InstanceMode::Session => Mode::Session,
        }
    }
}

/// What the acceptor asks of the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToLauncher {
    /// Start a worker; its end of the channel comes along.
    Worker,
    /// Connect to qemud's socket for these rights.
    Dial {
        /// The number of the answer.
        id: u64,
        /// Which of qemud's two sockets.
        rights: Rights,
        /// The user to connect as, so that qemud counts the connection against this user's budgets; only for read-only
        /// connections.
        user: Option<u32>,
    },
    /// qemud is not there: start it.
    StartQemud,
    /// Start the process that asks polkit; its end of the channel comes along.
    Polkit,
    /// Start the mock host; its end of the channel comes along.
    MockHost,
}

/// What the launcher tells the acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromLauncher {
    /// The first message of all.
    Begin(Box<Settings>),
    /// To [`ToLauncher::StartQemud`]: it is there now, or why not.
    Qemud(Result<(), String>),
    /// To [`ToLauncher::Dial`]: the connection comes along.
    Dialed {
        /// The question's number.
        id: u64,
    },
    /// To the same: there is none.
    NotDialed {
        /// The question's number.
        id: u64,
        /// What the kernel said.
        errno: i32,
    },
}

/// What the acceptor tells a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// Serve this client, whose connection comes along. Only to a worker that has none.
    Serve(Client),
    /// Tell this client, whose connection comes along, why it is not served, and hang up. A worker that has been told this
    /// once does nothing else for the rest of its life, and does it for any number of clients.
    Refuse {
        /// Who it is.
        peer: Peer,
        /// libvirt's number of the error.
        code: i32,
        /// What it is told.
        reason: String,
    },
    /// To [`FromWorker::Sign`].
    Signed(Option<Vec<u8>>),
    /// To [`FromWorker::Challenge`]: how the password is to be proved.
    Challenge(Option<Challenge>),
    /// To [`FromWorker::Prove`]: the server's own proof, if the client's was right.
    Proved(Option<[u8; 32]>),
    /// To [`FromWorker::Authorize`].
    Authorized(Result<(), Denied>),
    /// To [`FromWorker::Dial`]: the connection comes along.
    Dialed,
    /// To the same: there is none.
    NotDialed {
        /// libvirt's number of the error.
        code: i32,
        /// Why.
        reason: String,
        /// What the person may do about it.
        hint: Option<String>,
    },
}

/// One client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Who it is.
    pub peer: Peer,
    /// What it may do.
    pub rights: Rights,
    /// Which of qemud's instances is behind this gateway.
    pub mode: InstanceMode,
    /// How long it may say nothing before it is known.
    pub patience: Duration,
    /// What feature 10 means.
    pub keepalive: KeepaliveSettings,
    /// How it has come.
    pub way: Way,
    /// Its part of what its user may have under way.
    pub share: Share,
}

/// What one connection of a user may have under way. All the connections that a user may have, each with its share, are
/// what the user may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Calls that wait for their answers.
    pub calls: usize,
    /// Bytes that the client has not read, before nothing more is done or fetched for it.
    pub unread: usize,
}

/// How a client has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// By a Unix socket: the kernel knows it.
    Unix(Login),
    /// By a TCP connection.
    Tcp(Login),
    /// By TLS.
    Tls(Login, Box<TlsTerms>),
}

/// How a password is to be proved; as `wire`'s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// How often it is hashed.
    pub iterations: u32,
    /// With what.
    pub salt: Vec<u8>,
    /// What makes this exchange unlike any other.
    pub nonce: String,
}

impl From<sasl::Challenge> for Challenge {
    fn from(sasl::Challenge { iterations, salt, nonce }: sasl::Challenge) -> Challenge {
        Challenge { iterations, salt, nonce }
    }
}

impl From<Challenge> for sasl::Challenge {
    fn from(Challenge { iterations, salt, nonce }: Challenge) -> sasl::Challenge {
        sasl::Challenge { iterations, salt, nonce }
    }
}

/// A connection that a worker wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dial {
    /// To whom.
    pub daemon: Daemon,
    /// There was a connection before: wait for a daemon that is being restarted.
    pub again: bool,
}

/// The process that answers a driver's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Daemon {
    /// `qemu:///system` and `qemu:///session`: qemud.
    Qemud,
    /// `test:///default`: the gateway's own mock host.
    MockHost,
}

/// For logs and errors.
impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Daemon::Qemud => "qemud",
            Daemon::MockHost => "the mock host",
        })
    }
}

/// What a worker tells the acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// It is up.
    Ready,
    /// It wants a connection, with its client's rights.
    Dial(Dial),
    /// Sign this for its client's TLS handshake; once for a client.
    Sign {
        /// TLS's number of the way to sign.
        scheme: u16,
        /// What is signed.
        message: Vec<u8>,
    },
    /// Its client says that this is its name: how shall it prove its password? A few times for a client.
    Challenge {
        /// The name.
        name: String,
    },
    /// Its client's proof for the last challenge; once for each.
    Prove {
        /// What both sides have said.
        message: Vec<u8>,
        /// What follows from that and from the password.
        proof: [u8; 32],
    },
    /// Its client wants to know whether polkit lets it in. One question at a time, a few for a client.
    Authorize,
    /// Its client has logged in.
    Known,
    /// Its client has left in good order: it can serve the next one.
    Finished,
}

/// What the acceptor asks of the process that speaks with polkit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToPolkit {
    /// May this process change things? Its pidfd comes along if the kernel has given one.
    Ask {
        /// The question's number.
        id: u64,
        /// The process.
        pid: i32,
        /// The user it was when it connected.
        uid: u32,
    },
    /// Nobody waits for the answer to this question any more.
    Cancel {
        /// The question's number.
        id: u64,
    },
}

/// What that process answers: each question once, in any order, cancelled ones too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromPolkit {
    /// The answer.
    Answer {
        /// The question's number.
        id: u64,
        /// polkit's word.
        word: Result<(), Denied>,
    },
}

/// What the acceptor tells the mock host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMockHost {
    /// The first message: how many connections there may be.
    Begin {
        /// Of all users.
        connections: usize,
        /// Of one user.
        connections_per_user: usize,
    },
    /// Serve a client. The far end of its worker's connection comes along.
    Serve {
        /// The client.
        peer: Peer,
        /// What it may do.
        rights: Rights,
    },
}

/// What the mock host tells the acceptor: nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromMockHost {}
