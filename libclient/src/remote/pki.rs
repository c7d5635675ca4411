//! TLS: whose certificates, and the handshake.

use std::{
    fs::File,
    io::{self, Read},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::io::Errno;
use thiserror::Error as ThisError;
use wire::tls::{Handshake, Pems, ServerCheck, Tls as Encrypted, TlsError, client_config};

use super::address::Tls;

/// The largest file of certificates.
const LARGEST: u64 = 4 << 20;
/// Where an administrator keeps them: authority, list of the revoked, certificate, key.
const SYSTEM: [&str; 4] = [
    "/etc/pki/CA/cacert.pem",
    "/etc/pki/CA/cacrl.pem",
    "/etc/pki/libvirt/clientcert.pem",
    "/etc/pki/libvirt/private/clientkey.pem",
];
/// Their names in a directory of a user's.
const NAMES: [&str; 4] = ["cacert.pem", "cacrl.pem", "clientcert.pem", "clientkey.pem"];

/// Why there is no TLS connection over a connection that is there.
#[derive(Debug, ThisError)]
pub(super) enum PkiError {
    #[error("the certificate authority's file {} cannot be read", path.display())]
    Authority {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is larger than any such file", .0.display())]
    TooLarge(PathBuf),
    #[error("TLS is not possible")]
    Tls(#[from] TlsError),
}

/// The files of one side.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    authority: PathBuf,
    revoked: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    /// The directory that was named; the user's own files, where there are any; or the administrator's.
    fn find(named: Option<&Path>, home: Option<&Path>, exists: impl Fn(&Path) -> bool) -> Files {
        let inside = |dir: &Path| NAMES.map(|name| dir.join(name));
        let of = |[authority, revoked, certificate, key]: [PathBuf; 4]| Files { authority, revoked, certificate, key };
        if let Some(dir) = named {
            return of(inside(dir));
        }
        let mut files = SYSTEM.map(PathBuf::from);
        if let Some(home) = home {
            let own = inside(&home.join(".pki/libvirt"));
            // Each for itself, so that the administrator's list of the revoked holds for a user's authority too; but a
            // certificate is of no use without its key.
            for together in [0..1, 1..2, 2..4] {
                let there = own.get(together.clone()).is_some_and(|own| own.iter().all(|path| exists(path)));
                if let (true, Some(to), Some(from)) = (there, files.get_mut(together.clone()), own.get(together)) {
                    to.clone_from_slice(from);
                }
            }
        }
        of(files)
    }
}

/// Makes a connection a secure one.
pub(super) fn secure(
    tls: &Tls,
    host: &str,
    socket: TcpStream,
    patience: Duration,
) -> Result<Encrypted<TcpStream>, PkiError> {
    let root = rustix::process::geteuid().is_root();
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| !root && home.is_absolute());
    let files = Files::find(tls.pki_path.as_deref(), home.as_deref(), Path::exists);
    let check = if tls.no_verify { ServerCheck::None } else { ServerCheck::Full };
    let authority = match optional(&files.authority)? {
        Some(text) => text,
        None if tls.no_verify => Vec::new(),
        None => {
            return Err(PkiError::Authority { path: files.authority, source: Errno::NOENT.into() });
        }
    };
    let revoked = optional(&files.revoked)?.unwrap_or_default();
    // A server that wants none is satisfied without.
    let certificate = optional(&files.certificate)?.unwrap_or_default();
    let key = if certificate.is_empty() { Vec::new() } else { required(&files.key)? };
    let pems = Pems { authority: &authority, revoked: &revoked, certificate: &certificate, key: &key };
    let mut handshake = Handshake::client(client_config(&pems, check, tls.versions)?, host, socket)?;
    handshake.complete(patience)?;
    Ok(handshake.accept()?)
}

fn optional(path: &Path) -> Result<Option<Vec<u8>>, PkiError> {
    match required(path) {
        Err(PkiError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn required(path: &Path) -> Result<Vec<u8>, PkiError> {
    let failed = |source| PkiError::Read { path: path.to_path_buf(), source };
    let mut text = Vec::new();
    File::open(path).map_err(failed)?.take(LARGEST + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > LARGEST {
        return Err(PkiError::TooLarge(path.to_path_buf()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::tls::TlsVersions;

    #[test]
    fn files_are_the_named_ones_the_user_s_or_the_administrator_s() {
        let find = |named: Option<&str>, home: Option<&str>, there: &[&str]| {
            Files::find(named.map(Path::new), home.map(Path::new), |path| {
                there.iter().any(|known| path.ends_with(known))
            })
        };
        let named = find(Some("/p"), Some("/h"), &["cacert.pem"]);
        assert_eq!(named.key, Path::new("/p/clientkey.pem"));
        let system = find(None, Some("/h"), &[]);
        assert_eq!(system.authority, Path::new("/etc/pki/CA/cacert.pem"));
        assert_eq!(system.key, Path::new("/etc/pki/libvirt/private/clientkey.pem"));
        let alone = find(None, Some("/h"), &["cacert.pem", "clientcert.pem"]);
        assert_eq!(alone.authority, Path::new("/h/.pki/libvirt/cacert.pem"));
        assert_eq!(alone.revoked, Path::new("/etc/pki/CA/cacrl.pem"), "the administrator's list goes on to hold");
        assert_eq!(alone.certificate, Path::new("/etc/pki/libvirt/clientcert.pem"), "without its key it is of no use");
        let mixed = find(None, Some("/h"), &["clientcert.pem", "clientkey.pem"]);
        assert_eq!(mixed.authority, Path::new("/etc/pki/CA/cacert.pem"));
        assert_eq!(mixed.certificate, Path::new("/h/.pki/libvirt/clientcert.pem"));
        assert_eq!(mixed.key, Path::new("/h/.pki/libvirt/clientkey.pem"));
        assert_eq!(find(None, None, &["clientcert.pem"]), system, "root has no files of its own");
    }

    #[test]
    fn no_server_is_believed_without_an_authority() {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let tls = Tls {
            port: 1,
            pki_path: Some(dir.path().to_path_buf()),
            no_verify: false,
            versions: TlsVersions::default(),
        };
        let error = secure(&tls, "localhost", socket, Duration::from_secs(1)).unwrap_err();
        assert!(matches!(error, PkiError::Authority { .. }), "{error:?}");
    }
}
