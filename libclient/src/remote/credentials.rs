//! Names and passwords: from the program, or from libvirt's file of them.

use std::{
    env,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use thiserror::Error as ThisError;
use wire::{
    client::login::{Choice, Sasl, SaslError},
    sasl::Scram,
};

use super::{address::Address, lock};

/// The largest file of passwords.
const LARGEST: u64 = 1 << 20;

/// What a daemon wants to know of who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Question<'a> {
    /// A name, where the URI gives none.
    Name {
        /// On which host.
        host: &'a str,
    },
    /// The password of a name.
    Password {
        /// On which host.
        host: &'a str,
        /// Whose.
        name: &'a str,
    },
}

/// Answers questions; nothing is no answer, and ends the login.
pub(crate) type Ask = Arc<dyn Fn(Question<'_>) -> Option<String> + Send + Sync>;

/// Why there is no name or password.
#[derive(Debug, ThisError)]
enum CredentialsError {
    #[error("{} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no name and password for {host}: neither the program nor {file} gives them")]
    None { host: String, file: String },
}

/// Who connects to one address, once that has been found out.
pub(super) struct Credentials {
    ask: Option<Ask>,
    /// Kept for when the connection is made again.
    known: Mutex<Option<(String, String)>>,
}

impl Credentials {
    pub(super) fn new(ask: Option<Ask>) -> Credentials {
        Credentials { ask, known: Mutex::new(None) }
    }

    fn find(&self, address: &Address) -> Result<(String, String), CredentialsError> {
        if let Some(known) = &*lock(&self.known) {
            return Ok(known.clone());
        }
        let host = address.host();
        let file = file_of(address.auth_file.as_deref());
        let section = file.as_deref().map(|path| read(path).map(|text| section(&text, host))).transpose()?;
        let section = section.flatten().unwrap_or_default();
        let asked = |question: Question<'_>| self.ask.as_ref().and_then(|ask| ask(question));
        let name = address.user.clone().or(section.name).or_else(|| asked(Question::Name { host }));
        let password =
            name.as_deref().and_then(|name| section.password.or_else(|| asked(Question::Password { host, name })));
        let (Some(name), Some(password)) = (name, password) else {
            let file = file.map_or_else(|| "a file auth.conf".into(), |path| path.display().to_string());
            return Err(CredentialsError::None { host: host.to_owned(), file });
        };
        let found = (name, password);
        *lock(&self.known) = Some(found.clone());
        Ok(found)
    }

    /// What was wrong once is asked for again.
    pub(super) fn forget(&self) {
        *lock(&self.known) = None;
    }
}

/// A login that looks for name and password when the daemon asks for them.
pub(super) struct Login<'a> {
    credentials: &'a Credentials,
    address: &'a Address,
    scram: Option<Scram>,
}

impl<'a> Login<'a> {
    pub(super) fn new(credentials: &'a Credentials, address: &'a Address) -> Login<'a> {
        Login { credentials, address, scram: None }
    }
}

impl Sasl for Login<'_> {
    fn start(&mut self, offered: &[&str]) -> Result<Option<Choice>, SaslError> {
        // Nobody is asked for a password that is of no use.
        if !offered.contains(&wire::sasl::MECHANISM) {
            return Ok(None);
        }
        let (name, password) = self.credentials.find(self.address)?;
        self.scram.insert(Scram::new(name, &password)).start(offered)
    }

    fn step(&mut self, challenge: Option<&[u8]>) -> Result<Option<Vec<u8>>, SaslError> {
        self.scram.as_mut().map_or(Ok(None), |scram| scram.step(challenge))
    }

    fn is_complete(&self) -> bool {
        self.scram.as_ref().is_some_and(Scram::is_complete)
    }
}

/// The file that was named, or the first of those that libvirt's clients read.
fn file_of(named: Option<&Path>) -> Option<PathBuf> {
    if let Some(named) = named {
        return Some(named.to_path_buf());
    }
    let set = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let own = config.map(|dir| dir.join("libvirt/auth.conf"));
    let places = [set("LIBVIRT_AUTH_FILE"), own, Some(PathBuf::from("/etc/libvirt/auth.conf"))];
    places.into_iter().flatten().find(|path| path.exists())
}

fn read(path: &Path) -> Result<String, CredentialsError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST).read_to_string(&mut text));
    read.map_err(|source| CredentialsError::Read { path: path.to_path_buf(), source })?;
    Ok(text)
}

/// What a file says of one host.
#[derive(Debug, Default, PartialEq, Eq)]
struct Section {
    name: Option<String>,
    password: Option<String>,
}

/// Looks a host up: `[auth-libvirt-HOST]` or `[auth-libvirt-default]` names a section `[credentials-…]`.
fn section(text: &str, host: &str) -> Option<Section> {
    let credentials = value(text, &format!("auth-libvirt-{host}"), "credentials")
        .or_else(|| value(text, "auth-libvirt-default", "credentials"))?;
    let title = format!("credentials-{credentials}");
    let of = |key: &str| value(text, &title, key).map(str::to_owned);
    Some(Section { name: of("username").or_else(|| of("authname")), password: of("password") })
}

/// A key's value in the section of a title.
fn value<'a>(text: &'a str, title: &str, key: &str) -> Option<&'a str> {
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix('[') {
            inside = rest.strip_suffix(']').is_some_and(|found| found.trim() == title);
        } else if inside
            && !line.starts_with(['#', ';'])
            && let Some((found, value)) = line.split_once('=')
            && found.trim() == key
        {
            return Some(value.trim());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Uri;

    const FILE: &str = "\
        # who may where\n[credentials-ops]\nusername = ann\n; password=old\npassword=p=1 \n\n\
        [credentials-any]\npassword=2\n\n[auth-libvirt-far.example]\ncredentials=ops\n\
        [auth-libvirt-default]\ncredentials=any\n[auth-libvirt-lost]\ncredentials=nobody\n";

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_host_is_looked_up_by_name() {
        assert_eq!(section(FILE, "far.example"), Some(Section { name: some("ann"), password: some("p=1") }));
        assert_eq!(section(FILE, "near"), Some(Section { name: None, password: some("2") }));
        assert_eq!(section(FILE, "lost"), Some(Section::default()));
        assert_eq!(section("", "near"), None);
    }

    fn address(text: &str) -> Address {
        Address::of(&Uri::parse(text).unwrap(), true).unwrap()
    }

    #[test]
    fn the_program_is_asked_for_what_uri_and_file_do_not_say_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.conf");
        std::fs::write(&path, FILE).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let ask: Ask = Arc::new(move |question| {
            lock(&log).push(format!("{question:?}"));
            Some("told".to_owned())
        });
        let with = |uri: &str| Credentials::new(Some(Arc::clone(&ask))).find(&address(uri)).unwrap();
        let told = || "told".to_owned();
        let file = path.display();
        assert_eq!(with(&format!("qemu+tcp://far.example/system?authfile={file}")), ("ann".into(), "p=1".into()));
        assert!(lock(&asked).is_empty());
        assert_eq!(with(&format!("qemu+tcp://bob@near/system?authfile={file}")), ("bob".into(), "2".into()));
        let lost = format!("qemu+tcp://lost/system?authfile={file}");
        let credentials = Credentials::new(Some(ask));
        assert_eq!(credentials.find(&address(&lost)).unwrap(), (told(), told()));
        assert_eq!(credentials.find(&address(&lost)).unwrap(), (told(), told()));
        assert_eq!(lock(&asked).len(), 2);
        credentials.forget();
        assert!(credentials.find(&address(&lost)).is_ok());
        assert_eq!(lock(&asked).len(), 4);
        let error = Credentials::new(None).find(&address(&lost)).unwrap_err();
        assert!(matches!(error, CredentialsError::None { .. }), "{error:?}");
    }
}
