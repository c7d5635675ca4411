//! Connection URIs: `driver[+transport]://[user@][host][:port]/path[?query]`.
//!
//! Parsing takes everything that libvirt writes; [`Target::of`] says where it leads. A URI without a way (`qemu:///system`)
//! is qemud's by Bulkhead's own protocol or the mock hypervisor's; one with a way goes by libvirt's protocol.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use api::{Error, ErrorCode, ErrorDomain};
use ipc::paths::Mode;

use crate::{
    Result,
    libvirt_conf::{LibvirtConf, may_be_alias},
    remote::Address,
};

/// What every refusal tells the user to write instead.
const KNOWN: &str = "the URIs served here are qemu:///system, qemu:///session, test:///default, test:///FILE.xml, and \
                     driver+unix|ssh|tls|tcp|ext://[user@][host][:port]/path for other daemons and hosts";

/// The environment variables that give the default URI, in this order.
const DEFAULTS: [&str; 2] = ["BULKHEAD_URI", "LIBVIRT_DEFAULT_URI"];

/// A URI in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// The driver: `qemu`, `test`, `xen`, `lxc`, …
    pub driver: String,
    /// How to get there: `ssh`, `tls`, `tcp`, `unix`, …
    pub transport: Option<String>,
    /// The user on the far side.
    pub user: Option<String>,
    /// The far side, without the brackets of an IPv6 address.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// The path, percent-decoded, with its leading slash; may be empty.
    pub path: String,
    /// The parameters behind `?`, percent-decoded, in order.
    pub query: Vec<(String, String)>,
}

/// What this build can connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The qemud of this host or of this user.
    Qemu(Mode),
    /// The mock hypervisor in this process, with its built-in node.
    TestDefault,
    /// The mock hypervisor in this process, with a node from a file.
    TestFile(PathBuf),
    /// A daemon that speaks libvirt's protocol.
    Remote(Box<Address>),
}

impl Uri {
    /// Takes a URI apart.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_ARG`] when the text is no URI, with what is wrong and how to write it.
    pub fn parse(text: &str) -> Result<Uri> {
        let (scheme, rest) = text.split_once(':').ok_or_else(|| bare_word(text))?;
        let (driver, transport) = match scheme.split_once('+') {
            Some((driver, transport)) => (driver, Some(transport)),
            None => (scheme, None),
        };
        if !is_scheme(driver) || transport.is_some_and(|t| !is_scheme(t)) {
            return Err(malformed(text, format!("\"{scheme}\" is no driver name")));
        }
        let rest = rest.strip_prefix("//").ok_or_else(|| malformed(text, "\"//\" must follow the driver".into()))?;
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let slash = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(slash);
        let mut uri = Uri {
            driver: driver.to_ascii_lowercase(),
            transport: transport.map(str::to_ascii_lowercase),
            user: None,
            host: None,
            port: None,
            path: decode(text, path)?,
            query: parse_query(text, query)?,
        };
        uri.set_authority(text, authority)?;
        Ok(uri)
    }

    fn set_authority(&mut self, text: &str, authority: &str) -> Result<()> {
        let (user, host_port) = match authority.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, authority),
        };
        let (host, port) = if let Some(rest) = host_port.strip_prefix('[') {
            let (host, rest) =
                rest.split_once(']').ok_or_else(|| malformed(text, "\"]\" is missing behind the address".into()))?;
            (host, rest.strip_prefix(':').or((!rest.is_empty()).then_some(rest)))
        } else {
            host_port.split_once(':').map_or((host_port, None), |(host, port)| (host, Some(port)))
        };
        self.user = user.map(|user| decode(text, user)).transpose()?;
        self.host = (!host.is_empty()).then(|| decode(text, host)).transpose()?;
        // No host has these in its name, and written again they would mean something else.
        if self.host.as_deref().is_some_and(|host| host.contains(['[', ']', '/', '@', '?', '#'])) {
            return Err(malformed(text, format!("\"{host}\" is not the name of a host")));
        }
        self.port = port
            .filter(|port| !port.is_empty())
            .map(|port| port.parse().map_err(|_| malformed(text, format!("\"{port}\" is no port number"))))
            .transpose()?;
        Ok(())
    }

    /// The URI that an empty one stands for: `$BULKHEAD_URI`, `$LIBVIRT_DEFAULT_URI`, what `libvirt.conf` says, or by who is
    /// asking.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_ARG`] when a variable is set and is no text, [`ErrorCode::CONF_SYNTAX`] when `libvirt.conf` is
    /// asked and cannot be read.
    pub fn default_text() -> Result<String> {
        for name in DEFAULTS {
            let set = std::env::var_os(name).filter(|value| !value.is_empty());
            if let Some(text) = set {
                return text_of(name, text);
            }
        }
        let configured = LibvirtConf::load()?.default;
        Ok(configured.unwrap_or_else(|| by_user(rustix::process::geteuid().is_root()).to_owned()))
    }

    /// The URI that a short name of `libvirt.conf`'s stands for; any other text as it is.
    pub(crate) fn of_alias(text: &str) -> Result<String> {
        let uri = if may_be_alias(text) { LibvirtConf::load()?.alias(text).map(str::to_owned) } else { None };
        Ok(uri.unwrap_or_else(|| text.to_owned()))
    }

    /// Who names a way wants it gone, even if it ends on this host.
    fn is_remote(&self) -> bool {
        self.host.is_some() || self.user.is_some() || self.port.is_some() || self.transport.is_some()
    }
}

/// Root manages the host's guests, anybody else their own.
fn by_user(root: bool) -> &'static str {
    if root { "qemu:///system" } else { "qemu:///session" }
}

impl Target {
    /// What the URI names.
    ///
    /// # Errors
    /// [`ErrorCode::NO_CONNECT`] when nothing here serves it, with a hint what is served.
    pub(crate) fn of(uri: &Uri) -> Result<Target> {
        let text = uri.to_string();
        if uri.is_remote() {
            let root = rustix::process::geteuid().is_root();
            return Address::of(uri, root).map(|address| Target::Remote(Box::new(address)));
        }
        if !matches!(uri.driver.as_str(), "qemu" | "test") {
            return Err(no_driver(&text, &format!("there is no driver \"{}\"", uri.driver)));
        }
        if let Some((name, _)) = uri.query.first() {
            return Err(no_driver(&text, &format!("the parameter \"{name}\" is not supported")));
        }
        match (uri.driver.as_str(), uri.path.as_str()) {
            ("qemu", "/system") => Ok(Target::Qemu(Mode::System)),
            ("qemu", "/session") => Ok(Target::Qemu(Mode::Session)),
            ("qemu", path) => Err(no_driver(&text, &format!("the qemu driver has no path \"{path}\""))
                .with_hint("use qemu:///system for the host's guests or qemu:///session for your own")),
            ("test", "/default") => Ok(Target::TestDefault),
            ("test", path) if path.len() > 1 => Ok(Target::TestFile(PathBuf::from(path))),
            (driver, path) => Err(no_driver(&text, &format!("the {driver} driver has no path \"{path}\""))),
        }
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.driver)?;
        if let Some(transport) = &self.transport {
            write!(f, "+{transport}")?;
        }
        f.write_str("://")?;
        if let Some(user) = &self.user {
            write!(f, "{}@", Encoded(user, ""))?;
        }
        match &self.host {
            Some(host) if host.contains(':') => write!(f, "[{host}]")?,
            Some(host) => write!(f, "{}", Encoded(host, ""))?,
            None => {}
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "{}", Encoded(&self.path, "/"))?;
        for (index, (name, value)) in self.query.iter().enumerate() {
            let joint = if index == 0 { '?' } else { '&' };
            write!(f, "{joint}{}={}", Encoded(name, ""), Encoded(value, "/"))?;
        }
        Ok(())
    }
}

/// Text as it stands in a URI; the characters of the second field stay as they are besides the unreserved ones.
struct Encoded<'a>(&'a str, &'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || self.1.as_bytes().contains(&byte);
            if plain {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

/// What a variable holds. One that is no text must not lead to another host than it was meant to.
fn text_of(name: &str, value: OsString) -> Result<String> {
    value.into_string().map_err(|value| malformed(&value.to_string_lossy(), format!("{name} is not UTF-8")))
}

/// The URI of a host that a file describes.
pub(crate) fn test_uri(path: &Path) -> String {
    format!("test://{}", Encoded(&path.to_string_lossy(), "/"))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
}

fn parse_query(text: &str, query: &str) -> Result<Vec<(String, String)>> {
    let pairs = query.split(['&', ';']).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(text, name)?, decode(text, value)?))
        })
        .collect()
}

fn decode(text: &str, part: &str) -> Result<String> {
    let bad = || malformed(text, format!("\"{part}\" has a bad percent escape"));
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
        bytes.push(high << 4 | low);
    }
    // A path goes to system calls; a zero byte in it would end it early.
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or_else(bad)
}

fn malformed(text: &str, why: String) -> Error {
    Error::new(ErrorCode::INVALID_ARG, ErrorDomain::URI, format!("\"{text}\" is not a connection URI"))
        .with_cause_text(why)
        .with_hint(KNOWN)
}

fn bare_word(text: &str) -> Error {
    let error = malformed(text, "\"://\" is missing".into());
    match text {
        "qemu" | "system" => error.with_hint("did you mean qemu:///system?"),
        "session" => error.with_hint("did you mean qemu:///session?"),
        "test" | "default" => error.with_hint("did you mean test:///default?"),
        _ => error,
    }
}

fn no_driver(uri: &str, why: &str) -> Error {
    Error::new(ErrorCode::NO_CONNECT, ErrorDomain::URI, format!("no connection driver available for {uri}"))
        .with_cause_text(why.to_owned())
        .with_hint(KNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_uri_is_found() {
        let uri = Uri::parse("qemu+ssh://ann%20b@host.example:2222/system?mode=auto&socket=/run/x%26y#note").unwrap();
        assert_eq!(uri.driver, "qemu");
        assert_eq!(uri.transport.as_deref(), Some("ssh"));
        assert_eq!(uri.user.as_deref(), Some("ann b"));
        assert_eq!(uri.host.as_deref(), Some("host.example"));
        assert_eq!(uri.port, Some(2222));
        assert_eq!(uri.path, "/system");
        assert_eq!(uri.query, [("mode".into(), "auto".into()), ("socket".into(), "/run/x&y".into())]);
        assert_eq!(uri.to_string(), "qemu+ssh://ann%20b@host.example:2222/system?mode=auto&socket=/run/x%26y");
    }

    #[test]
    fn written_uris_read_back_the_same() {
        for text in [
            "qemu:///system",
            "qemu+unix:///session",
            "test:///default",
            "test:///a%20dir/node.xml",
            "xen+tls://[2001:db8::1]:16514/",
            "lxc://",
        ] {
            let uri = Uri::parse(text).unwrap();
            assert_eq!(uri.to_string(), text);
            assert_eq!(Uri::parse(&uri.to_string()).unwrap(), uri);
        }
    }

    #[test]
    fn what_is_served_is_a_table() {
        let target = |text: &str| Target::of(&Uri::parse(text).unwrap()).unwrap();
        assert_eq!(target("qemu:///system"), Target::Qemu(Mode::System));
        assert_eq!(target("QEMU:///session"), Target::Qemu(Mode::Session));
        assert_eq!(target("test:///default"), Target::TestDefault);
        assert_eq!(target("test:///tmp/a%20b.xml"), Target::TestFile("/tmp/a b.xml".into()));
        for remote in ["qemu+unix:///system", "qemu+ssh://host/system", "xen://host/", "test+unix:///default?socket=/x"]
        {
            assert!(matches!(target(remote), Target::Remote(_)), "{remote}");
        }
    }

    #[test]
    fn what_is_not_served_says_why_and_what_is() {
        for (text, code, cause, hint) in [
            ("xen:///system", ErrorCode::NO_CONNECT, "there is no driver \"xen\"", "qemu:///system"),
            ("qemu:///foo", ErrorCode::NO_CONNECT, "the qemu driver has no path \"/foo\"", "qemu:///session"),
            ("qemu://", ErrorCode::NO_CONNECT, "the qemu driver has no path \"\"", "qemu:///session"),
            ("test:///", ErrorCode::NO_CONNECT, "the test driver has no path \"/\"", "test:///default"),
            ("qemu:///system?socket=/x", ErrorCode::NO_CONNECT, "the parameter \"socket\"", "qemu:///system"),
            ("qemu", ErrorCode::INVALID_ARG, "\"://\" is missing", "did you mean qemu:///system?"),
            ("session", ErrorCode::INVALID_ARG, "\"://\" is missing", "did you mean qemu:///session?"),
            ("no idea", ErrorCode::INVALID_ARG, "\"://\" is missing", "qemu:///system"),
            ("qemu:/system", ErrorCode::INVALID_ARG, "\"//\" must follow", "qemu:///system"),
            ("q mu:///system", ErrorCode::INVALID_ARG, "\"q mu\" is no driver name", "qemu:///system"),
            ("qemu+:///system", ErrorCode::INVALID_ARG, "is no driver name", "qemu:///system"),
            ("qemu://h:port/system", ErrorCode::INVALID_ARG, "\"port\" is no port number", "qemu:///system"),
            ("qemu://[::1/system", ErrorCode::INVALID_ARG, "\"]\" is missing", "qemu:///system"),
            ("test:///%zz", ErrorCode::INVALID_ARG, "bad percent escape", "qemu:///system"),
            ("test:///%00", ErrorCode::INVALID_ARG, "bad percent escape", "qemu:///system"),
        ] {
            let error = Uri::parse(text).and_then(|uri| Target::of(&uri)).unwrap_err();
            assert_eq!(error.code, code, "{text}");
            assert!(error.causes.iter().any(|c| c.contains(cause)), "{text}: {error:?}");
            assert!(error.hint.as_deref().is_some_and(|h| h.contains(hint)), "{text}: {error:?}");
        }
    }

    #[test]
    fn root_and_others_have_different_defaults() {
        assert_eq!(by_user(true), "qemu:///system");
        assert_eq!(by_user(false), "qemu:///session");
    }
}
