//! What `gateway.conf` says of clients that come by network, and the files and ports behind it. All of it is off unless it is
//! asked for.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    str::FromStr,
};

use ipc::paths::Instance;
use thiserror::Error;
use wire::sasl::Verifier;

use crate::{
    edge::{Door, Login, Network, TlsTerms},
    tls::{Key, TlsError},
};

/// libvirt's ports.
const TLS_PORT: u16 = 16514;
const TCP_PORT: u16 = 16509;
/// No file of certificates, names or passwords is larger.
const MAX_BYTES: u64 = 1 << 20;
/// The keys of this part of the file.
pub const KEYS: &str = "listen_tls, listen_tcp, listen_addresses, tls_port, tcp_port, tls_authority, tls_revoked, \
                        tls_certificate, tls_key, tls_allowed_names, tls_client_certificates, tls_login, tcp_login, \
                        sasl_users";

/// The values in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Offer TLS.
    pub tls: bool,
    /// Offer plain TCP.
    pub tcp: bool,
    /// Where; empty for everywhere.
    pub addresses: Vec<IpAddr>,
    /// TLS's port.
    pub tls_port: u16,
    /// TCP's port.
    pub tcp_port: u16,
    /// The authorities of clients' certificates.
    pub authority: PathBuf,
    /// The list of revoked certificates, if there is such a file.
    pub revoked: PathBuf,
    /// The own certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Names of clients' certificates that are let in; empty for all.
    pub allowed_names: Vec<String>,
    /// Clients need no certificate.
    pub anybody: bool,
    /// How clients log in behind TLS.
    pub tls_login: Login,
    /// How clients log in on a plain connection.
    pub tcp_login: Login,
    /// Names and verifiers of passwords: `name:verifier`, a line each.
    pub users: PathBuf,
}

/// Why clients cannot come by network.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is too large to be one.
    #[error("{} has {bytes} bytes; no such file is longer than {MAX_BYTES}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Others may read the server's key.
    #[error("{} may be read by others than its owner; chmod 600 it", path.display())]
    OpenKey {
        /// The file.
        path: PathBuf,
    },
    /// The key or the certificate cannot be used.
    #[error("TLS cannot be offered with {}", path.display())]
    Tls {
        /// The key's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: TlsError,
    },
    /// A line of the users' file is not understood.
    #[error("{}, line {line}: expected name:verifier, with a SCRAM-SHA-256 verifier", path.display())]
    User {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// A port cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A switch of the configuration.
pub(crate) fn yes_or_no(value: &str) -> Result<bool, String> {
    match value {
        "yes" | "1" => Ok(true),
        "no" | "0" => Ok(false),
        _ => Err(format!("'{value}' is neither yes nor no")),
    }
}

fn port(value: &str) -> Result<u16, String> {
    value.parse().map_err(|_| format!("'{value}' is no port"))
}

fn login(value: &str) -> Result<Login, String> {
    match value {
        "none" => Ok(Login::None),
        "sasl" => Ok(Login::Sasl),
        _ => Err(format!("'{value}' is neither none nor sasl")),
    }
}

fn certificates_needed(value: &str) -> Result<bool, String> {
    match value {
        "required" => Ok(true),
        "none" => Ok(false),
        _ => Err(format!("'{value}' is neither required nor none")),
    }
}

fn path(value: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(value);
    if path.is_absolute() { Ok(path) } else { Err(format!("'{value}' is not an absolute path")) }
}

impl NetworkConfig {
    /// What holds without a word of it: nobody comes by network. The files are where libvirt's are.
    #[must_use]
    pub fn defaults(instance: &Instance) -> NetworkConfig {
        let pki = instance.root().unwrap_or(Path::new("/")).join("etc/pki");
        NetworkConfig {
            tls: false,
            tcp: false,
            addresses: Vec::new(),
            tls_port: TLS_PORT,
            tcp_port: TCP_PORT,
            authority: pki.join("CA/cacert.pem"),
            revoked: pki.join("CA/cacrl.pem"),
            certificate: pki.join("libvirt/servercert.pem"),
            key: pki.join("libvirt/private/serverkey.pem"),
            allowed_names: Vec::new(),
            anybody: false,
            tls_login: Login::None,
            tcp_login: Login::Sasl,
            users: instance.config_dir().join("gateway-users"),
        }
    }

    /// Sets one value; none when the key is another part's.
    pub fn set(&mut self, key: &str, value: &str) -> Option<Result<(), String>> {
        let words = || value.split_whitespace();
        let set = match key {
            "listen_tls" => yes_or_no(value).map(|on| self.tls = on),
            "listen_tcp" => yes_or_no(value).map(|on| self.tcp = on),
            "listen_addresses" => words()
                .map(|word| word.parse().map_err(|_| format!("'{word}' is no address")))
                .collect::<Result<_, _>>()
                .map(|addresses| self.addresses = addresses),
            "tls_port" => port(value).map(|port| self.tls_port = port),
            "tcp_port" => port(value).map(|port| self.tcp_port = port),
            "tls_authority" => path(value).map(|path| self.authority = path),
            "tls_revoked" => path(value).map(|path| self.revoked = path),
            "tls_certificate" => path(value).map(|path| self.certificate = path),
            "tls_key" => path(value).map(|path| self.key = path),
            "tls_allowed_names" => {
                // Names have commas and spaces in them.
                let names = value.split(';').map(str::trim).filter(|name| !name.is_empty());
                self.allowed_names = names.map(str::to_owned).collect();
                Ok(())
            }
            "tls_client_certificates" => certificates_needed(value).map(|needed| self.anybody = !needed),
            "tls_login" => login(value).map(|login| self.tls_login = login),
            "tcp_login" => login(value).map(|login| self.tcp_login = login),
            "sasl_users" => path(value).map(|path| self.users = path),
            _ => return None,
        };
        Some(set)
    }

    /// What no single line can get wrong.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.tls && self.anybody && self.tls_login == Login::None {
            return Err("with tls_client_certificates = none and tls_login = none anybody could do anything".into());
        }
        Ok(())
    }

    /// Reads the files of what is offered.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn load(&self) -> Result<Network, NetworkError> {
        let mut network = Network::default();
        if self.tls {
            network.key = self.read_key()?;
            let failed = |source| NetworkError::Tls { path: self.key.clone(), source };
            let key = Key::read(&network.key).map_err(failed)?;
            let certificate = read(&self.certificate)?;
            key.check(&certificate).map_err(failed)?;
            network.tls = Some(TlsTerms {
                authority: if self.anybody { Vec::new() } else { read(&self.authority)? },
                revoked: if self.revoked.exists() { read(&self.revoked)? } else { Vec::new() },
                certificate,
                schemes: key.schemes(),
                allowed_names: self.allowed_names.clone(),
                anybody: self.anybody,
            });
            network.tls_login = Some(self.tls_login);
        }
        if self.tcp {
            network.tcp_login = Some(self.tcp_login);
        }
        let asked = [network.tls_login, network.tcp_login].contains(&Some(Login::Sasl));
        if asked {
            network.users = self.read_users()?;
        }
        Ok(network)
    }

    fn read_key(&self) -> Result<Vec<u8>, NetworkError> {
        use std::os::unix::fs::PermissionsExt;
        let open = fs::metadata(&self.key).is_ok_and(|data| data.permissions().mode() & 0o044 != 0);
        if open { Err(NetworkError::OpenKey { path: self.key.clone() }) } else { read(&self.key) }
    }

    fn read_users(&self) -> Result<Vec<(String, String)>, NetworkError> {
        let text = String::from_utf8_lossy(&read(&self.users)?).into_owned();
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(line, text)| {
                let pair = text.split_once(':').filter(|(_, verifier)| Verifier::from_str(verifier).is_ok());
                let (name, verifier) = pair.ok_or_else(|| NetworkError::User { path: self.users.clone(), line })?;
                Ok((name.to_owned(), verifier.to_owned()))
            })
            .collect()
    }

    /// Listens on the ports of what is offered.
    ///
    /// # Errors
    /// When one of them cannot be listened on.
    pub fn listen(&self) -> Result<Vec<(TcpListener, Door)>, NetworkError> {
        let mut listeners = Vec::new();
        for (on, port, door) in [(self.tls, self.tls_port, Door::Tls), (self.tcp, self.tcp_port, Door::Tcp)] {
            if !on {
                continue;
            }
            if self.addresses.is_empty() {
                // One listener for both kinds of addresses, where there are both.
                let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
                let listener = listen(both).or_else(|_| listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))?;
                listeners.push((listener, door));
            }
            for address in &self.addresses {
                listeners.push((listen(SocketAddr::from((*address, port)))?, door));
            }
        }
        Ok(listeners)
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, NetworkError> {
    let listener = TcpListener::bind(address);
    listener.map_err(|source| NetworkError::Listen { address, source })
}

fn read(path: &Path) -> Result<Vec<u8>, NetworkError> {
    let failed = |source| NetworkError::Read { path: path.to_path_buf(), source };
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > MAX_BYTES {
        return Err(NetworkError::TooLong { path: path.to_path_buf(), bytes });
    }
    fs::read(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::paths::Mode;

    fn config() -> NetworkConfig {
        NetworkConfig::defaults(&Instance::at(Mode::System, Some("/r".into())))
    }

    #[test]
    fn nobody_comes_by_network_unless_that_is_asked_for() {
        assert_eq!(config().load().unwrap(), Network::default());
        assert!(config().listen().unwrap().is_empty());
    }

    #[test]
    fn values_are_set_and_nonsense_is_refused() {
        let mut config = config();
        for (key, value) in [
            ("listen_tls", "yes"),
            ("listen_addresses", "127.0.0.1 ::1"),
            ("tls_allowed_names", "C=GB,O=a b,CN=x; *CN=y"),
            ("tls_login", "sasl"),
        ] {
            config.set(key, value).unwrap().unwrap();
        }
        assert_eq!(config.allowed_names, ["C=GB,O=a b,CN=x", "*CN=y"]);
        assert_eq!((config.tls, config.addresses.len(), config.tls_login), (true, 2, Login::Sasl));
        for (key, value) in [("listen_tls", "maybe"), ("tls_port", "70000"), ("tls_key", "key.pem"), ("tcp_login", "x")]
        {
            assert!(config.set(key, value).unwrap().is_err(), "{key}");
        }
        assert!(config.set("other", "x").is_none());
        config.anybody = true;
        config.check().unwrap();
        config.tls_login = Login::None;
        assert!(config.check().is_err(), "anybody could do anything");
    }

    #[test]
    fn users_are_names_with_verifiers() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = NetworkConfig { tcp: true, users: dir.path().join("users"), ..config() };
        let verifier = Verifier::derive("secret", 4096, b"0123456789abcdef").unwrap();
        fs::write(&config.users, format!("# who\n\nann:{verifier}\n")).unwrap();
        assert_eq!(config.load().unwrap().users, [("ann".to_owned(), verifier.to_string())]);
        fs::write(&config.users, "ann:secret\n").unwrap();
        assert!(matches!(config.load(), Err(NetworkError::User { line: 1, .. })));
        config.tcp_login = Login::None;
        assert!(config.load().unwrap().users.is_empty(), "nobody needs them");
    }
}
