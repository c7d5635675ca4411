//! `qemud.conf`: what an administrator may change.
//!
//! Lines of `key = value`; `#` starts a comment. A key that is unknown or a value that is no such value is an error with its
//! line, so a typing mistake never silently means the default.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ipc::{
    conf::{self, ConfError},
    paths::{Instance, Mode},
};

/// The file's name in the configuration directory.
pub const FILE_NAME: &str = "qemud.conf";
/// The uid of the control process of a system instance unless configured. From the range that systemd's uid table lists as
/// unused (0x70000000 to 0x7ffdffff), so that no entry in the user database is needed.
const SERVICE_UID: u32 = 0x7000_0000;
/// The first guest's uid unless configured.
const FIRST_GUEST_UID: u32 = 0x7001_0000;
/// How many guests' uids there are unless configured.
const GUEST_UIDS: u32 = 0x1_0000;

/// The values in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the launcher may open images, kernels and initrds that a client did not pass as descriptors.
    pub image_roots: Vec<PathBuf>,
    /// Where emulators may be.
    pub emulator_roots: Vec<PathBuf>,
    /// The uid (and gid) of the control process.
    pub service_uid: u32,
    /// The first uid for guests.
    pub first_guest_uid: u32,
    /// How many uids for guests.
    pub guest_uids: u32,
    /// How long QEMU may take to answer one command.
    pub guest_deadline: Duration,
    /// How long a file may take to be opened.
    pub open_deadline: Duration,
    /// How long a session's daemon stays without a client and without a guest.
    pub idle_timeout: Duration,
}

impl Config {
    /// What holds without a file.
    #[must_use]
    pub fn defaults(instance: &Instance) -> Config {
        let image_roots = match instance.mode() {
            Mode::System => vec![instance.state_dir().join("images"), "/var/lib/libvirt/images".into()],
            // The user's own rights decide: the launcher of a session has no others.
            Mode::Session => vec!["/".into()],
        };
        Config {
            image_roots,
            emulator_roots: ["/usr/bin", "/usr/local/bin", "/usr/libexec"].map(PathBuf::from).to_vec(),
            service_uid: SERVICE_UID,
            first_guest_uid: FIRST_GUEST_UID,
            guest_uids: GUEST_UIDS,
            guest_deadline: Duration::from_secs(10),
            open_deadline: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
        }
    }

    /// The file's values over the defaults; the defaults when there is no file.
    ///
    /// # Errors
    /// When the file cannot be read or a line of it is not understood.
    pub fn load(instance: &Instance) -> Result<Config, ConfError> {
        let path = instance.config_dir().join(FILE_NAME);
        match conf::read(&path)? {
            Some(text) => Config::parse(&text, &path, Config::defaults(instance)),
            None => Ok(Config::defaults(instance)),
        }
    }

    fn parse(text: &str, path: &Path, mut config: Config) -> Result<Config, ConfError> {
        conf::parse(text, path, |key, value| config.set(key, value))?;
        config.check().map_err(|problem| ConfError::Together { path: path.to_path_buf(), problem })?;
        Ok(config)
    }

    /// What no single line can get wrong.
    fn check(&self) -> Result<(), String> {
        let last = self.first_guest_uid.checked_add(self.guest_uids);
        match last {
            None => Err("first_guest_uid and guest_uids reach beyond the highest uid".into()),
            Some(last) if (self.first_guest_uid..last).contains(&self.service_uid) => {
                Err(format!("service_uid {} is among the guests' uids", self.service_uid))
            }
            Some(_) => Ok(()),
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "image_roots" => self.image_roots = paths(value)?,
            "emulator_roots" => self.emulator_roots = paths(value)?,
            "service_uid" => self.service_uid = uid(value)?,
            "first_guest_uid" => self.first_guest_uid = uid(value)?,
            "guest_uids" => self.guest_uids = uid(value)?,
            "guest_deadline_ms" => self.guest_deadline = milliseconds(value, 100..=600_000)?,
            // Control gives the launcher itself 30 s.
            "open_deadline_ms" => self.open_deadline = milliseconds(value, 100..=25_000)?,
            "idle_timeout_ms" => self.idle_timeout = milliseconds(value, 0..=86_400_000)?,
            _ => {
                return Err(format!(
                    "unknown key '{key}'; the keys are image_roots, emulator_roots, service_uid, first_guest_uid, \
                     guest_uids, guest_deadline_ms, open_deadline_ms, idle_timeout_ms"
                ));
            }
        }
        Ok(())
    }
}

fn paths(value: &str) -> Result<Vec<PathBuf>, String> {
    let paths: Vec<PathBuf> = value.split(':').filter(|p| !p.is_empty()).map(PathBuf::from).collect();
    match paths.iter().find(|path| !path.is_absolute()) {
        Some(path) => Err(format!("'{}' is not an absolute path", path.display())),
        None => Ok(paths),
    }
}

fn uid(value: &str) -> Result<u32, String> {
    // 0 would give a guest root's identity, the last two are reserved by the kernel.
    let number: u32 = value.parse().map_err(|_| format!("'{value}' is not a number"))?;
    if (1..u32::MAX - 1).contains(&number) { Ok(number) } else { Err(format!("{number} is out of range")) }
}

fn milliseconds(value: &str, range: std::ops::RangeInclusive<u64>) -> Result<Duration, String> {
    let number: u64 = value.parse().map_err(|_| format!("'{value}' is not a number of milliseconds"))?;
    if range.contains(&number) {
        Ok(Duration::from_millis(number))
    } else {
        Err(format!("{number} is not between {} and {}", range.start(), range.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Config {
        Config::defaults(&Instance::at(Mode::System, Some("/r".into())))
    }

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/etc/q.conf"), defaults()).map_err(|e| e.to_string())
    }

    #[test]
    fn values_replace_defaults_and_comments_do_not_count() {
        let config = parse("# all\n\nguest_deadline_ms = 500 # short\nimage_roots=/a:/b/c\n").unwrap();
        assert_eq!(config.guest_deadline, Duration::from_millis(500));
        assert_eq!(config.image_roots, [PathBuf::from("/a"), PathBuf::from("/b/c")]);
        assert_eq!(
            Config { guest_deadline: defaults().guest_deadline, image_roots: defaults().image_roots, ..config },
            defaults()
        );
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        for (text, expected) in [
            ("x", "/etc/q.conf, line 1: expected key = value"),
            ("\nguest_deadlin_ms = 5", "/etc/q.conf, line 2: unknown key 'guest_deadlin_ms'"),
            ("service_uid = 0", "/etc/q.conf, line 1: 0 is out of range"),
            ("service_uid = root", "/etc/q.conf, line 1: 'root' is not a number"),
            ("image_roots = images", "/etc/q.conf, line 1: 'images' is not an absolute path"),
            (
                "service_uid = 5\nfirst_guest_uid = 1\nguest_uids = 10",
                "/etc/q.conf: service_uid 5 is among the guests' uids",
            ),
            (
                "first_guest_uid = 4294967000\nguest_uids = 1000",
                "/etc/q.conf: first_guest_uid and guest_uids reach beyond",
            ),
            ("guest_deadline_ms = 1", "/etc/q.conf, line 1: 1 is not between 100 and 600000"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
