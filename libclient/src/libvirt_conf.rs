//! What a user or an administrator has told libvirt's clients: `libvirt.conf`, with the URI of who names none and short names
//! of others.
//!
//! It has lines `key = value`, where a value is a number, a text in quotes or a list of those in brackets, which may go on
//! over lines; `#` begins a comment.

use std::path::{Path, PathBuf};

use api::{Error, ErrorCode, ErrorDomain};
use ipc::{
    conf,
    paths::{PathsError, ROOT_VARIABLE, root_from},
};

use crate::Result;

/// What of it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LibvirtConf {
    /// The URI of who names none.
    pub(crate) default: Option<String>,
    /// Short names with their URIs.
    aliases: Vec<(String, String)>,
}

impl LibvirtConf {
    /// Reads the file of who is asking: root's is the host's. None is an empty one.
    pub(crate) fn load() -> Result<LibvirtConf> {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let place =
            place(rustix::process::geteuid().is_root(), &variable).map_err(|source| unusable().with_cause(source));
        match place? {
            Some(path) => LibvirtConf::read(&path),
            None => Ok(LibvirtConf::default()),
        }
    }

    fn read(path: &Path) -> Result<LibvirtConf> {
        let text = conf::read(path).map_err(|source| unusable().with_cause(source))?;
        LibvirtConf::parse(&text.unwrap_or_default()).map_err(|wrong| {
            let line = format!("{}, line {}: {}", path.display(), wrong.line, wrong.problem);
            unusable().with_cause_text(line)
        })
    }

    fn parse(text: &str) -> std::result::Result<LibvirtConf, Wrong> {
        let mut found = LibvirtConf::default();
        let mut words = Words { rest: text, line: 1 };
        while let Some((key, values)) = words.assignment()? {
            match key {
                "uri_default" => found.default = values.into_iter().next().filter(|uri| !uri.is_empty()),
                "uri_aliases" => {
                    for value in values {
                        let (name, uri) =
                            value.split_once('=').ok_or_else(|| words.wrong("an alias is no NAME=URI"))?;
                        found.aliases.push((name.trim().to_owned(), uri.trim().to_owned()));
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// The URI of a short name.
    pub(crate) fn alias(&self, name: &str) -> Option<&str> {
        self.aliases.iter().find(|(known, _)| known == name).map(|(_, uri)| uri.as_str())
    }
}

/// Whether a text may be a short name: no URI is one.
pub(crate) fn may_be_alias(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn unusable() -> Error {
    Error::new(ErrorCode::CONF_SYNTAX, ErrorDomain::CONF, "libvirt's configuration is not usable")
}

/// Where the file is. An instance that was moved elsewhere has the host's there.
fn place(root: bool, variable: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Option<PathBuf>, PathsError> {
    let set = |name: &str| variable(name).filter(|path| path.is_absolute());
    if let Some(moved) = root_from(variable(ROOT_VARIABLE).as_deref().map(Path::as_os_str))? {
        return Ok(Some(moved.join("etc/libvirt/libvirt.conf")));
    }
    if root {
        return Ok(Some("/etc/libvirt/libvirt.conf".into()));
    }
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    Ok(config.map(|dir| dir.join("libvirt/libvirt.conf")))
}

/// What is not understood, and where.
#[derive(Debug)]
struct Wrong {
    line: usize,
    problem: &'static str,
}

/// A file that is being read.
struct Words<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Words<'a> {
    fn wrong(&self, problem: &'static str) -> Wrong {
        Wrong { line: self.line, problem }
    }

    /// Takes so many bytes.
    fn take(&mut self, count: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(count).unwrap_or((self.rest, ""));
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    /// Skips blanks, ends of lines and comments.
    fn skip(&mut self) {
        loop {
            self.take(self.rest.len() - self.rest.trim_start().len());
            if !self.rest.starts_with('#') {
                return;
            }
            self.take(self.rest.find('\n').unwrap_or(self.rest.len()));
        }
    }

    /// The next key with the texts of its value; a number is none.
    fn assignment(&mut self) -> std::result::Result<Option<(&'a str, Vec<String>)>, Wrong> {
        self.skip();
        if self.rest.is_empty() {
            return Ok(None);
        }
        let end =
            self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.').unwrap_or(self.rest.len());
        let key = self.take(end);
        self.skip();
        if key.is_empty() || self.take(1) != "=" {
            return Err(self.wrong("no KEY = VALUE"));
        }
        self.skip();
        let values = match self.rest.as_bytes().first() {
            Some(b'"' | b'\'') => vec![self.text()?],
            Some(b'[') => self.list()?,
            Some(b'0'..=b'9' | b'-') => {
                self.take(self.rest.find(char::is_whitespace).unwrap_or(self.rest.len()));
                Vec::new()
            }
            _ => return Err(self.wrong("the value is neither a text in quotes, nor a list, nor a number")),
        };
        Ok(Some((key, values)))
    }

    /// A text in quotes of either kind, or in three of them over lines; there are no escapes.
    fn text(&mut self) -> std::result::Result<String, Wrong> {
        const LONG: &str = "\"\"\"";
        let open = self.wrong("a quote is not closed");
        let quote = if self.rest.starts_with(LONG) { LONG } else { self.rest.get(..1).unwrap_or_default() };
        self.take(quote.len());
        let end = self.rest.find(quote).filter(|end| quote == LONG || !self.rest[..*end].contains('\n')).ok_or(open)?;
        let text = self.take(end).to_owned();
        self.take(quote.len());
        Ok(text)
    }

    fn list(&mut self) -> std::result::Result<Vec<String>, Wrong> {
        let mut texts = Vec::new();
        self.take(1);
        loop {
            self.skip();
            match self.rest.as_bytes().first() {
                Some(b']') => {
                    self.take(1);
                    return Ok(texts);
                }
                Some(b',') if !texts.is_empty() => {
                    self.take(1);
                }
                Some(b'"' | b'\'') => texts.push(self.text()?),
                _ => return Err(self.wrong("a list of texts is not closed")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_and_aliases_are_found_among_the_rest() {
        let text = "# comments\nremote_mode = \"auto\"\nkeepalive_interval = 5\na.b = \"\"\"one\n\"two\"\"\"\n\
                    uri_aliases = [\n  \"hail=qemu+ssh://root@hail.example/system?a=b\", # far\n  'sleet=xen:///system',\n]\n\
                    uri_default = \"qemu:///session\"";
        let conf = LibvirtConf::parse(text).unwrap();
        assert_eq!(conf.default.as_deref(), Some("qemu:///session"));
        assert_eq!(conf.alias("hail"), Some("qemu+ssh://root@hail.example/system?a=b"));
        assert_eq!(conf.alias("sleet"), Some("xen:///system"));
        assert_eq!(conf.alias("rain"), None);
        assert_eq!(LibvirtConf::parse("").unwrap(), LibvirtConf::default());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line) in [
            ("uri_default = qemu:///system", 1),
            ("\n\nuri_default \"x\"", 3),
            ("uri_default = \"x\nuri_aliases = []", 1),
            ("uri_aliases = [\n\"a=b\"\n", 3),
            ("uri_aliases = [ \"a\" ]", 1),
            ("= \"x\"", 1),
            ("a = [ , ]", 1),
            ("é = 1", 1),
        ] {
            assert_eq!(LibvirtConf::parse(text).unwrap_err().line, line, "{text:?}");
        }
    }

    #[test]
    fn root_s_file_is_the_host_s() {
        let at = |root, set: &[(&str, &str)]| {
            place(root, &|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        let path = |text: &str| Ok(Some(PathBuf::from(text)));
        assert_eq!(at(true, &[("HOME", "/h")]), path("/etc/libvirt/libvirt.conf"));
        assert_eq!(at(false, &[("HOME", "/h")]), path("/h/.config/libvirt/libvirt.conf"));
        assert_eq!(at(false, &[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]), path("/c/libvirt/libvirt.conf"));
        assert_eq!(at(true, &[("BULKHEAD_ROOT", "/r")]), path("/r/etc/libvirt/libvirt.conf"));
        assert_eq!(at(false, &[]), Ok(None));
        assert_eq!(at(true, &[("BULKHEAD_ROOT", "r")]), Err(PathsError::RelativeRoot("r".into())));
    }

    #[test]
    fn no_uri_is_a_short_name() {
        assert!(may_be_alias("hail-2_x"));
        for text in ["", "qemu:///system", "a b", "ü"] {
            assert!(!may_be_alias(text), "{text}");
        }
    }
}
