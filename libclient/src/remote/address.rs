//! Where a remote URI leads: the transport with its parameters, and the name that the far side knows its hypervisor by.

use std::path::PathBuf;

use api::{Error, ErrorCode, ErrorDomain};

use wire::tls::TlsVersions;

use crate::{Result, Uri};

/// Parameters that are for this side only: they do not reach the far side.
const OURS: [&str; 17] = [
    "auth",
    "authfile",
    "command",
    "keyfile",
    "known_hosts",
    "known_hosts_verify",
    "mode",
    "name",
    "netcat",
    "no_sanity",
    "no_tty",
    "no_verify",
    "pkipath",
    "proxy",
    "socket",
    "sshauth",
    "tls_priority",
];

/// The ports of libvirt's daemons.
const TLS_PORT: u16 = 16514;
const TCP_PORT: u16 = 16509;

/// What a remote URI says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The URI as it was given.
    pub(crate) uri: String,
    /// What CONNECT_OPEN is asked for; empty lets the far side choose.
    pub(crate) name: String,
    /// Who logs in, where that is asked.
    pub(crate) user: Option<String>,
    /// The host; none is this one.
    pub(crate) host: Option<String>,
    /// A file with names and passwords.
    pub(crate) auth_file: Option<PathBuf>,
    /// The one mechanism of SASL that may be used, in capitals.
    pub(crate) mechanism: Option<String>,
    pub(crate) way: Way,
}

/// How to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Unix(Sockets),
    Ssh(Ssh),
    Tls(Tls),
    Tcp { port: u16 },
    Ext { command: PathBuf },
}

/// Which of a host's sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sockets {
    /// This one and no other.
    pub(crate) path: Option<String>,
    /// The driver whose own daemon may have a socket.
    pub(crate) driver: String,
    /// One user's daemon is meant rather than the host's.
    pub(crate) session: bool,
    pub(crate) mode: SocketMode,
}

/// Whose socket is meant where no path is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SocketMode {
    /// The driver's own daemon's if it is there, else the one for all.
    #[default]
    Auto,
    /// The one for all drivers.
    Legacy,
    /// The driver's own daemon's.
    Direct,
}

/// By the system's ssh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ssh {
    pub(crate) port: Option<u16>,
    /// Another program than `ssh`.
    pub(crate) command: Option<String>,
    /// Another program than `nc` on the far side.
    pub(crate) netcat: Option<String>,
    pub(crate) proxy: Proxy,
    pub(crate) key_file: Option<String>,
    pub(crate) host_keys: HostKeys,
    /// Where the keys of known hosts are.
    pub(crate) known_hosts: Option<String>,
    /// ssh's names of the ways to log in, in order.
    pub(crate) methods: Option<String>,
    /// Nobody is there to be asked for a password.
    pub(crate) no_tty: bool,
    pub(crate) sockets: Sockets,
}

/// What is done with the key of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum HostKeys {
    /// What ssh's own configuration says.
    #[default]
    Usual,
    /// An unknown host's is taken and remembered.
    TakeNew,
    /// Any is taken.
    Ignore,
}

impl HostKeys {
    fn of(uri: &Uri) -> Result<HostKeys> {
        if uri.switch("no_verify")? {
            return Ok(HostKeys::Ignore);
        }
        match uri.parameter("known_hosts_verify") {
            None | Some("normal") => Ok(HostKeys::Usual),
            Some("auto") => Ok(HostKeys::TakeNew),
            Some("ignore") => Ok(HostKeys::Ignore),
            Some(other) => Err(unknown(uri, "known_hosts_verify", other, "normal, auto or ignore")),
        }
    }

    /// ssh's option for it.
    pub(super) fn option(self) -> Option<&'static str> {
        match self {
            HostKeys::Usual => None,
            HostKeys::TakeNew => Some("StrictHostKeyChecking=accept-new"),
            HostKeys::Ignore => Some("StrictHostKeyChecking=no"),
        }
    }
}

/// libvirt's names of the ways to log in, as ssh has them.
fn methods(uri: &Uri) -> Result<Option<String>> {
    let Some(words) = uri.parameter("sshauth") else { return Ok(None) };
    let mut methods: Vec<&str> = Vec::new();
    for word in words.split(',') {
        let method = match word {
            "agent" | "privkey" => "publickey",
            "password" => "password",
            "keyboard-interactive" => "keyboard-interactive",
            other => {
                return Err(unknown(uri, "sshauth", other, "of agent, privkey, password and keyboard-interactive"));
            }
        };
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    Ok(Some(methods.join(",")))
}

/// What connects to the socket on the far side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// A helper if there is one, else netcat.
    #[default]
    Auto,
    /// netcat.
    Netcat,
    /// A helper.
    Native,
}

/// By TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) port: u16,
    /// Where the certificates are instead of their usual places.
    pub(crate) pki_path: Option<PathBuf>,
    /// The far side's certificate is not looked at.
    pub(crate) no_verify: bool,
    pub(crate) versions: TlsVersions,
}

/// What libvirt's `tls_priority` says of the protocol's versions, in the words of GnuTLS. Of the rest of those words, those
/// are taken that ask for no more than what this client does anyway; others are errors, since whoever writes them counts
/// on them.
fn versions(uri: &Uri) -> Result<TlsVersions> {
    let mut versions = TlsVersions::default();
    for word in uri.parameter("tls_priority").into_iter().flat_map(|text| text.split(':')) {
        match word {
            "NORMAL" | "SECURE128" | "SECURE192" | "PFS" | "@SYSTEM" | "@LIBVIRT,SYSTEM" | "%SERVER_PRECEDENCE" => {}
            // What has never been there.
            "-VERS-TLS1.0" | "-VERS-TLS1.1" | "-VERS-SSL3.0" | "-VERS-DTLS-ALL" => {}
            "-VERS-ALL" | "-VERS-TLS-ALL" => versions = TlsVersions { v12: false, v13: false },
            "+VERS-TLS1.2" => versions.v12 = true,
            "+VERS-TLS1.3" => versions.v13 = true,
            "-VERS-TLS1.2" => versions.v12 = false,
            "-VERS-TLS1.3" => versions.v13 = false,
            other => {
                return Err(unknown(uri, "tls_priority", other, "among what this client can do")
                    .with_hint("it has TLS 1.2 and 1.3 with strong ciphers only; -VERS-TLS1.2 leaves 1.3"));
            }
        }
    }
    if versions == (TlsVersions { v12: false, v13: false }) {
        return Err(invalid(uri, "tls_priority leaves no version of TLS that this client has".into())
            .with_hint("it has 1.2 and 1.3: add +VERS-TLS1.3"));
    }
    Ok(versions)
}

impl Address {
    /// What a URI says whose transport, host or parameters lead to another daemon than qemud.
    pub(crate) fn of(uri: &Uri, root: bool) -> Result<Address> {
        let transport = uri.transport.as_deref().unwrap_or("tls");
        let way = match transport {
            "unix" => {
                if let Some(host) = &uri.host {
                    return Err(invalid(uri, format!("a Unix socket is on this host, not on \"{host}\""))
                        .with_hint("leave out the host, or use another transport: driver+ssh://host/path"));
                }
                Way::Unix(Sockets::of(uri, root)?)
            }
            // The other two are libraries that speak ssh; here it is the system's ssh that does.
            "ssh" | "libssh" | "libssh2" => Way::Ssh(Ssh::of(uri, root)?),
            "tls" => Way::Tls(Tls {
                port: uri.port.unwrap_or(TLS_PORT),
                versions: versions(uri)?,
                pki_path: uri.parameter("pkipath").map(PathBuf::from),
                no_verify: uri.switch("no_verify")?,
            }),
            "tcp" => Way::Tcp { port: uri.port.unwrap_or(TCP_PORT) },
            "ext" => {
                let command = uri.parameter("command").ok_or_else(|| {
                    invalid(uri, "the parameter \"command\" is missing".into())
                        .with_hint("driver+ext:///path?command=PROGRAM, whose standard streams are the connection")
                })?;
                Way::Ext { command: PathBuf::from(command) }
            }
            other => {
                return Err(Error::new(
                    ErrorCode::INVALID_ARG,
                    ErrorDomain::RPC,
                    format!("there is no transport \"{other}\" for {uri}"),
                )
                .with_hint("the transports are unix, ssh (libssh, libssh2), tls, tcp and ext"));
            }
        };
        Ok(Address {
            uri: uri.to_string(),
            name: far_name(uri),
            user: uri.user.clone(),
            host: uri.host.clone(),
            auth_file: uri.parameter("authfile").map(PathBuf::from),
            mechanism: uri.parameter("auth").and_then(mechanism),
            way,
        })
    }

    /// Whether it is a socket of this host.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.way, Way::Unix(_))
    }

    /// The host, for connecting to it.
    pub(crate) fn host(&self) -> &str {
        self.host.as_deref().unwrap_or("localhost")
    }
}

impl Sockets {
    fn of(uri: &Uri, root: bool) -> Result<Sockets> {
        let mode = match uri.parameter("mode") {
            None | Some("auto") => SocketMode::Auto,
            Some("legacy") => SocketMode::Legacy,
            Some("direct") => SocketMode::Direct,
            Some(other) => return Err(unknown(uri, "mode", other, "auto, legacy or direct")),
        };
        Ok(Sockets {
            path: uri.parameter("socket").map(str::to_owned),
            driver: uri.driver.clone(),
            // libvirt's rule for its test driver; who is root has the host's.
            session: uri.path == "/session" || (!root && uri.driver == "test"),
            mode,
        })
    }

    /// The names of the sockets to try, in order.
    pub(crate) fn names(&self, read_only: bool) -> Vec<String> {
        // A session's daemon has one socket for both.
        let suffix = if read_only && !self.session { "-ro" } else { "" };
        let own = matches!(
            self.driver.as_str(),
            "qemu"
                | "lxc"
                | "xen"
                | "vbox"
                | "vz"
                | "bhyve"
                | "ch"
                | "network"
                | "storage"
                | "secret"
                | "interface"
                | "nodedev"
                | "nwfilter"
        );
        // What has no daemon of its own is served by the one for all.
        let direct = format!("virt{}d-sock{suffix}", if own { self.driver.as_str() } else { "proxy" });
        let legacy = format!("libvirt-sock{suffix}");
        match self.mode {
            SocketMode::Auto if own => vec![direct, legacy],
            SocketMode::Auto | SocketMode::Legacy => vec![legacy],
            SocketMode::Direct => vec![direct],
        }
    }
}

impl Ssh {
    fn of(uri: &Uri, root: bool) -> Result<Ssh> {
        let netcat = uri.parameter("netcat").map(str::to_owned);
        let proxy = match uri.parameter("proxy") {
            None if netcat.is_some() => Proxy::Netcat,
            None | Some("auto") => Proxy::Auto,
            Some("netcat") => Proxy::Netcat,
            Some("native") => Proxy::Native,
            Some(other) => return Err(unknown(uri, "proxy", other, "auto, netcat or native")),
        };
        // Who this side's user is does not matter there.
        let mut sockets = Sockets::of(uri, root)?;
        sockets.session = uri.path == "/session";
        Ok(Ssh {
            port: uri.port,
            command: uri.parameter("command").map(str::to_owned),
            netcat,
            proxy,
            key_file: uri.parameter("keyfile").map(str::to_owned),
            host_keys: HostKeys::of(uri)?,
            known_hosts: uri.parameter("known_hosts").map(str::to_owned),
            methods: methods(uri)?,
            no_tty: uri.switch("no_tty")?,
            sockets,
        })
    }
}

impl Uri {
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn switch(&self, name: &str) -> Result<bool> {
        match self.parameter(name) {
            None | Some("0") => Ok(false),
            Some(number) if number.parse::<u32>().is_ok() => Ok(true),
            Some(other) => Err(unknown(self, name, other, "0 or 1")),
        }
    }
}

/// The mechanism in `sasl.MECHANISM`.
fn mechanism(auth: &str) -> Option<String> {
    let (kind, mechanism) = auth.split_once('.')?;
    kind.eq_ignore_ascii_case("sasl").then(|| mechanism.to_ascii_uppercase()).filter(|name| !name.is_empty())
}

/// The URI as the far side has it: without the way there.
fn far_name(uri: &Uri) -> String {
    if let Some(name) = uri.parameter("name") {
        return name.to_owned();
    }
    // A driver of this name exists on no side: the far side chooses.
    if uri.driver == "remote" {
        return String::new();
    }
    let query = uri.query.iter().filter(|(name, _)| !OURS.contains(&name.as_str())).cloned().collect();
    let far = Uri { transport: None, user: None, host: None, port: None, query, ..uri.clone() };
    far.to_string()
}

fn invalid(uri: &Uri, why: String) -> Error {
    Error::new(ErrorCode::INVALID_ARG, ErrorDomain::RPC, format!("invalid connection URI '{uri}'")).with_cause_text(why)
}

fn unknown(uri: &Uri, name: &str, value: &str, known: &str) -> Error {
    invalid(uri, format!("the parameter \"{name}\" is \"{value}\"")).with_hint(format!("it may be {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::of(&Uri::parse(text).unwrap(), true).unwrap()
    }

    fn refusal(text: &str) -> Error {
        Address::of(&Uri::parse(text).unwrap(), true).unwrap_err()
    }

    #[test]
    fn the_far_side_gets_the_uri_without_the_way() {
        for (text, name) in [
            ("qemu+unix:///system?socket=/x&mode=legacy", "qemu:///system"),
            ("qemu+ssh://ann@host:22/session?no_tty=1&keyfile=/k", "qemu:///session"),
            ("xen://host/", "xen:///"),
            ("test+unix:///default?socket=/x", "test:///default"),
            ("esx+tcp://host/path?no_sanity=1&transport=http", "esx:///path?transport=http"),
            ("qemu+tls://host/system?name=qemu:///session", "qemu:///session"),
            ("remote+unix:///?socket=/x", ""),
        ] {
            assert_eq!(address(text).name, name, "{text}");
        }
    }

    #[test]
    fn a_host_without_a_transport_is_reached_by_tls() {
        let found = address("qemu://host/system?pkipath=/p");
        let tls = |versions| Way::Tls(Tls { port: 16514, pki_path: Some("/p".into()), no_verify: false, versions });
        assert_eq!(found.way, tls(TlsVersions::default()));
        let newest = TlsVersions { v12: false, v13: true };
        for priority in ["NORMAL:-VERS-ALL:%2BVERS-TLS1.3", "SECURE128:-VERS-TLS1.0:-VERS-TLS1.2"] {
            let found = address(&format!("qemu+tls://h/system?pkipath=/p&tls_priority={priority}"));
            assert_eq!(found.way, tls(newest));
        }
        assert_eq!(found.host(), "host");
        assert_eq!(address("qemu+tcp:///system").way, Way::Tcp { port: 16509 });
        assert_eq!(address("qemu+tcp:///system").host(), "localhost");
    }

    #[test]
    fn sockets_are_named_by_driver_mode_and_rights() {
        let names = |text: &str, read_only| match address(text).way {
            Way::Unix(sockets) => sockets.names(read_only),
            other => panic!("{other:?}"),
        };
        assert_eq!(names("qemu+unix:///system", false), ["virtqemud-sock", "libvirt-sock"]);
        assert_eq!(names("qemu+unix:///system?mode=legacy", true), ["libvirt-sock-ro"]);
        assert_eq!(names("xen+unix:///system?mode=direct", true), ["virtxend-sock-ro"]);
        assert_eq!(names("test+unix:///default", false), ["libvirt-sock"]);
        let session = Sockets::of(&Uri::parse("qemu+unix:///session").unwrap(), false).unwrap();
        assert!(session.session);
        assert_eq!(session.names(true), ["virtqemud-sock", "libvirt-sock"]);
    }

    #[test]
    fn a_mechanism_may_be_asked_for() {
        let mechanism = |auth: &str| address(&format!("qemu+tcp://host/system?auth={auth}")).mechanism;
        assert_eq!(mechanism("sasl.scram-sha-256").as_deref(), Some("SCRAM-SHA-256"));
        assert_eq!(mechanism("SASL.GSSAPI").as_deref(), Some("GSSAPI"));
        for any in ["sasl", "sasl.", "polkit", "none"] {
            assert_eq!(mechanism(any), None, "{any}");
        }
    }

    #[test]
    fn netcat_is_used_when_it_is_named() {
        let proxy = |text: &str| match address(text).way {
            Way::Ssh(ssh) => ssh.proxy,
            other => panic!("{other:?}"),
        };
        assert_eq!(proxy("qemu+ssh://host/system"), Proxy::Auto);
        assert_eq!(proxy("qemu+ssh://host/system?netcat=ncat"), Proxy::Netcat);
        assert_eq!(proxy("qemu+ssh://host/system?netcat=ncat&proxy=native"), Proxy::Native);
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (text, cause) in [
            ("qemu+unix://host/system", "not on \"host\""),
            ("qemu+ext:///system", "\"command\" is missing"),
            ("qemu+unix:///system?mode=both", "\"mode\" is \"both\""),
            ("qemu+ssh://h/system?proxy=socks", "\"proxy\" is \"socks\""),
            ("qemu+tls://h/system?tls_priority=NORMAL:-VERS-ALL", "leaves no version of TLS"),
            ("qemu+tls://h/system?tls_priority=NORMAL:%2BARCFOUR-128", "\"tls_priority\" is \"+ARCFOUR-128\""),
            ("qemu+ssh://h/system?known_hosts_verify=perhaps", "\"known_hosts_verify\" is \"perhaps\""),
            ("qemu+libssh://h/system?sshauth=rsh", "\"sshauth\" is \"rsh\""),
            ("qemu+tls://h/system?no_verify=perhaps", "\"no_verify\" is \"perhaps\""),
        ] {
            let error = refusal(text);
            assert_eq!(error.code, ErrorCode::INVALID_ARG);
            assert!(error.causes.iter().any(|c| c.contains(cause)), "{text}: {error:?}");
            assert!(error.hint.is_some());
        }
        assert!(refusal("qemu+rsh://h/system").hint.unwrap().contains("ssh"));
    }
}
