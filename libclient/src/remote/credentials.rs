//! What one logs in with: a Kerberos ticket, or a name and a password from the program or from libvirt's file of them.

use std::{
    env, fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use thiserror::Error as ThisError;
use wire::{
    client::login::{Choice, Sasl, SaslError},
    layer::SecurityLayer,
    sasl::Scram,
};

#[cfg(feature = "gssapi")]
use super::gssapi::{self, Gssapi, GssapiError, Ticket};
use super::{address::Address, lock};

/// The mechanisms of SASL that this client was built with. The first that can be used is taken.
const BUILT: &[&str] = &[
    #[cfg(feature = "gssapi")]
    gssapi::MECHANISM,
    wire::sasl::MECHANISM,
];

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
    #[error("the server offers {offered}{}, and this client was built with {}", Wanted(.wanted), BUILT.join(", "))]
    NoMechanism { offered: String, wanted: Option<String> },
}

/// What a URI asks for, in an error.
struct Wanted<'a>(&'a Option<String>);

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |wanted| write!(f, ", the URI asks for {wanted}"))
    }
}

/// What can be done about a login that failed on this side.
pub(super) fn hint(failure: &SaslError) -> Option<&'static str> {
    #[cfg(feature = "gssapi")]
    if let Some(failure) = failure.downcast_ref::<GssapiError>() {
        return failure.hint();
    }
    match failure.downcast_ref::<CredentialsError>()? {
        CredentialsError::Read { .. } => None,
        CredentialsError::None { .. } if cfg!(feature = "gssapi") => Some(
            "put them into that file or the URI's authfile; where the server offers GSSAPI, a Kerberos ticket (kinit) does \
             as well",
        ),
        CredentialsError::None { .. } => Some("put them into that file, or name another with ?authfile=FILE"),
        CredentialsError::NoMechanism { wanted: Some(_), .. } => {
            Some("leave out the parameter \"auth\", or ask for something that both have")
        }
        CredentialsError::NoMechanism { offered, .. } if offered.contains("GSSAPI") => Some(
            "use a client that was built with the feature \"gssapi\", let the server offer SCRAM-SHA-256, or use ssh",
        ),
        CredentialsError::NoMechanism { .. } => {
            Some("let the server offer one of these (mech_list in libvirt's SASL configuration), or use ssh")
        }
    }
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

/// A login that looks for a ticket, or a name and a password, when the daemon asks for them.
pub(super) struct Login<'a> {
    credentials: &'a Credentials,
    address: &'a Address,
    #[cfg_attr(not(feature = "gssapi"), expect(dead_code, reason = "no other mechanism makes a way secure"))]
    way_is_secure: bool,
    mechanism: Option<Box<dyn Sasl>>,
}

impl<'a> Login<'a> {
    /// `way_is_secure`: nobody can read along even without a mechanism's help.
    pub(super) fn new(credentials: &'a Credentials, address: &'a Address, way_is_secure: bool) -> Login<'a> {
        Login { credentials, address, way_is_secure, mechanism: None }
    }

    /// The best of the mechanisms that may be used here and that there is something to log in with for.
    fn choose(&self, usable: impl Fn(&str) -> bool) -> Result<Option<Box<dyn Sasl>>, SaslError> {
        let takes_password = usable(wire::sasl::MECHANISM);
        #[cfg(feature = "gssapi")]
        if usable(gssapi::MECHANISM) {
            match Ticket::find(self.address.user.as_deref()) {
                Ok(ticket) => {
                    let gssapi = Gssapi::new(ticket, self.address.host(), self.way_is_secure)?;
                    return Ok(Some(Box::new(gssapi)));
                }
                Err(failure) if !takes_password => return Err(failure.into()),
                // Who has no ticket has a password.
                Err(_) => {}
            }
        }
        // Nobody is asked for a password that is of no use.
        if !takes_password {
            return Ok(None);
        }
        let (name, password) = self.credentials.find(self.address)?;
        Ok(Some(Box::new(Scram::new(name, &password))))
    }
}

impl Sasl for Login<'_> {
    fn start(&mut self, offered: &[&str]) -> Result<Option<Choice>, SaslError> {
        let wanted = self.address.mechanism.as_deref();
        let usable = |name: &str| offered.contains(&name) && wanted.is_none_or(|wanted| wanted == name);
        let Some(mechanism) = self.choose(usable)? else {
            let offered = if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") };
            return Err(CredentialsError::NoMechanism { offered, wanted: wanted.map(str::to_owned) }.into());
        };
        self.mechanism.insert(mechanism).start(offered)
    }

    fn step(&mut self, challenge: Option<&[u8]>) -> Result<Option<Vec<u8>>, SaslError> {
        self.mechanism.as_mut().map_or(Ok(None), |mechanism| mechanism.step(challenge))
    }

    fn is_complete(&self) -> bool {
        self.mechanism.as_ref().is_some_and(|mechanism| mechanism.is_complete())
    }

    fn layer(&mut self) -> Option<Box<dyn SecurityLayer>> {
        self.mechanism.as_mut().and_then(|mechanism| mechanism.layer())
    }
}

/// The file that was named, by the environment before the URI as with libvirt, or the first of those that libvirt's clients
/// read. One that nobody named and this user may not read is none of his.
fn file_of(named: Option<&Path>) -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(named) = set("LIBVIRT_AUTH_FILE").or_else(|| named.map(Path::to_path_buf)) {
        return Some(named);
    }
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let own = config.map(|dir| dir.join("libvirt/auth.conf"));
    let places = [own, Some(PathBuf::from("/etc/libvirt/auth.conf"))];
    places.into_iter().flatten().find(|path| File::open(path).is_ok())
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
    Some(Section { name: of("authname").or_else(|| of("username")), password: of("password") })
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

    #[test]
    fn where_no_mechanism_fits_both_sides_are_told_of() {
        for (uri, offered, cause, advice) in [
            (
                "qemu+tcp://far/system",
                &["DIGEST-MD5", "PLAIN"][..],
                "the server offers DIGEST-MD5, PLAIN, and",
                "mech_list",
            ),
            ("qemu+tcp://far/system", &[], "the server offers nothing, and", "mech_list"),
            (
                "qemu+tcp://far/system?auth=sasl.digest-md5",
                &["DIGEST-MD5", "SCRAM-SHA-256"],
                "the server offers DIGEST-MD5, SCRAM-SHA-256, the URI asks for DIGEST-MD5, and",
                "leave out the parameter",
            ),
            #[cfg(not(feature = "gssapi"))]
            ("qemu+tcp://far/system", &["GSSAPI"], "the server offers GSSAPI, and", "the feature \"gssapi\""),
        ] {
            let credentials = Credentials::new(None);
            let address = address(uri);
            let failure = Login::new(&credentials, &address, false).start(offered).unwrap_err();
            let text = failure.to_string();
            assert!(text.starts_with(cause) && text.ends_with("SCRAM-SHA-256"), "{text}");
            assert!(hint(&failure).unwrap().contains(advice), "{text}");
        }
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
