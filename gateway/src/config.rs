//! `gateway.conf`: what an administrator may change.
//!
//! Lines of `key = value`, as in `qemud.conf`: `#` starts a comment, and a key that is unknown or a value that is no such
//! value is an error with its line.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use ipc::{
    conf::{self, ConfError},
    paths::{Instance, Mode},
};

use crate::{
    edge::{KeepaliveSettings, Limits, Trusted},
    network::{self, NetworkConfig},
};

/// The file's name in the configuration directory.
pub const FILE_NAME: &str = "gateway.conf";
/// The uid of the workers of a system instance unless configured: from the range that systemd's uid table lists as unused,
/// beside the one of qemud's control, and with no rights anywhere.
const SERVICE_UID: u32 = 0x7000_0001;
/// The names by which clients look for the daemons of single drivers, and which all lead here.
const MODULAR: [&str; 10] =
    ["qemu", "lxc", "xen", "network", "storage", "secret", "interface", "nodedev", "nwfilter", "proxy"];

/// Where libvirt's own system daemons listen.
const LIBVIRTS_PLACES: [&str; 2] = ["/run/libvirt", "/var/run/libvirt"];

/// The values in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the sockets are.
    pub socket_dir: PathBuf,
    /// Which daemons' sockets are there besides `libvirt-sock`.
    pub modular: Vec<String>,
    /// The uid (and gid) of the workers.
    pub service_uid: u32,
    /// Who may change things besides root and the instance's own user.
    pub trusted: Trusted,
    /// How much strangers may cost.
    pub limits: Limits,
    /// What workers do for feature 10.
    pub keepalive: KeepaliveSettings,
    /// Who is not in `trusted` may ask polkit.
    pub polkit: bool,
    /// Clients that come by network.
    pub network: NetworkConfig,
}

/// What turns names of users and groups into numbers.
trait Names {
    fn uid(&self, name: &str) -> Option<u32>;
    fn gid(&self, name: &str) -> Option<u32>;
}

/// The host's own files. Users that only a directory service knows are configured by number.
struct Files;

impl Names for Files {
    fn uid(&self, name: &str) -> Option<u32> {
        number_of(&fs::read_to_string("/etc/passwd").ok()?, name)
    }

    fn gid(&self, name: &str) -> Option<u32> {
        number_of(&fs::read_to_string("/etc/group").ok()?, name)
    }
}

/// The third field of the line whose first one is `name`.
fn number_of(text: &str, name: &str) -> Option<u32> {
    let mut lines = text.lines().map(|line| line.split(':'));
    let mut line = lines.find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
    line.nth(1)?.parse().ok()
}

impl Config {
    /// What holds without a file.
    #[must_use]
    pub fn defaults(instance: &Instance) -> Config {
        Config {
            socket_dir: socket_dir(instance),
            modular: usual_modular(&socket_dir(instance)),
            service_uid: SERVICE_UID,
            trusted: Trusted::default(),
            limits: Limits {
                connections: 1024,
                connections_per_uid: 128,
                reserved: 64,
                remote: 256,
                strangers: 64,
                strangers_per_host: 16,
                ready_workers: 2,
                patience: Duration::from_secs(10),
                keep: Duration::from_secs(10),
            },
            // libvirt's own values.
            keepalive: KeepaliveSettings { seconds: 5, count: 5 },
            polkit: true,
            network: NetworkConfig::defaults(instance),
        }
    }

    /// The file's values over the defaults; the defaults when there is no file.
    ///
    /// # Errors
    /// When the file cannot be read or a line of it is not understood.
    pub fn load(instance: &Instance) -> Result<Config, ConfError> {
        let path = instance.config_dir().join(FILE_NAME);
        match conf::read(&path)? {
            Some(text) => Config::parse(&text, &path, Config::defaults(instance), &Files),
            None => Ok(Config::defaults(instance)),
        }
    }

    fn parse(text: &str, path: &Path, mut config: Config, names: &dyn Names) -> Result<Config, ConfError> {
        let usual = config.modular.clone();
        conf::parse(text, path, |key, value| config.set(key, value, names))?;
        if config.modular == usual {
            config.modular = usual_modular(&config.socket_dir);
        }
        config.check().map_err(|problem| ConfError::Together { path: path.to_path_buf(), problem })?;
        Ok(config)
    }

    /// What no single line can get wrong.
    fn check(&self) -> Result<(), String> {
        if self.limits.reserved >= self.limits.connections {
            return Err("reserved_connections leaves nobody else a connection: it must be less than connections".into());
        }
        self.network.check()
    }

    fn set(&mut self, key: &str, value: &str, names: &dyn Names) -> Result<(), String> {
        match key {
            "socket_dir" => self.socket_dir = absolute(value)?,
            "modular_sockets" => self.modular = modular(value)?,
            "service_uid" => self.service_uid = number(value, 1..=u32::MAX - 2)?,
            "allow_users" => self.trusted.uids = ids(value, "user", |name| names.uid(name))?,
            "allow_groups" => self.trusted.gids = ids(value, "group", |name| names.gid(name))?,
            "polkit" => self.polkit = network::yes_or_no(value)?,
            "connections" => self.limits.connections = number(value, 2..=65_536)? as usize,
            "connections_per_user" => self.limits.connections_per_uid = number(value, 1..=65_536)? as usize,
            "reserved_connections" => self.limits.reserved = number(value, 0..=65_536)? as usize,
            "remote_connections" => self.limits.remote = number(value, 1..=65_536)? as usize,
            "unknown_connections" => self.limits.strangers = number(value, 1..=65_536)? as usize,
            "unknown_connections_per_host" => self.limits.strangers_per_host = number(value, 1..=65_536)? as usize,
            "ready_workers" => self.limits.ready_workers = number(value, 1..=64)? as usize,
            "patience_ms" => self.limits.patience = milliseconds(value, 10..=600_000)?,
            "keep_worker_ms" => self.limits.keep = milliseconds(value, 0..=3_600_000)?,
            "keepalive_seconds" => self.keepalive.seconds = number(value, 0..=3600)?,
            "keepalive_count" => self.keepalive.count = number(value, 1..=100)?,
            _ => {
                return self.network.set(key, value).unwrap_or_else(|| {
                    Err(format!(
                        "unknown key '{key}'; the keys are socket_dir, modular_sockets, service_uid, allow_users, \
                         allow_groups, polkit, connections, connections_per_user, reserved_connections, remote_connections, \
                         unknown_connections, unknown_connections_per_host, ready_workers, patience_ms, keep_worker_ms, keepalive_seconds, keepalive_count, {}",
                        network::KEYS
                    ))
                });
            }
        }
        Ok(())
    }
}

/// Where clients look for an instance's sockets: a moved instance has libvirt's places below its root, a session
/// libvirt's place beside its own, and the host's instance a place of its own unless it is told to take libvirt's.
fn socket_dir(instance: &Instance) -> PathBuf {
    let runtime = instance.runtime_dir();
    match (instance.mode(), instance.root()) {
        (Mode::System, Some(root)) => root.join("run/libvirt"),
        (Mode::System, None) | (Mode::Session, Some(_)) => runtime.join("libvirt"),
        (Mode::Session, None) => runtime.parent().unwrap_or(runtime).join("libvirt"),
    }
}

/// Every name, but not Xen's where clients look: a root client without a URI takes the first of `virtxend-sock`,
/// `virtqemud-sock` that exists there, and there is no driver for Xen yet.
fn usual_modular(socket_dir: &Path) -> Vec<String> {
    let theirs = LIBVIRTS_PLACES.iter().any(|place| Path::new(place) == socket_dir);
    MODULAR.iter().filter(|name| !theirs || **name != "xen").map(|name| (*name).to_owned()).collect()
}

fn absolute(value: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(value);
    if path.is_absolute() { Ok(path) } else { Err(format!("'{value}' is not an absolute path")) }
}

fn modular(value: &str) -> Result<Vec<String>, String> {
    let words = value.split_whitespace();
    words
        .map(|word| match MODULAR.contains(&word) {
            true => Ok(word.to_owned()),
            false => Err(format!("'{word}' is not one of {}", MODULAR.join(" "))),
        })
        .collect()
}

fn ids(value: &str, what: &str, find: impl Fn(&str) -> Option<u32>) -> Result<Vec<u32>, String> {
    let one =
        |word: &str| word.parse().ok().or_else(|| find(word)).ok_or_else(|| format!("there is no {what} '{word}'"));
    value.split_whitespace().map(one).collect()
}

fn number(value: &str, range: std::ops::RangeInclusive<u32>) -> Result<u32, String> {
    let number: u32 = value.parse().map_err(|_| format!("'{value}' is not a number"))?;
    if range.contains(&number) {
        Ok(number)
    } else {
        Err(format!("{number} is not between {} and {}", range.start(), range.end()))
    }
}

fn milliseconds(value: &str, range: std::ops::RangeInclusive<u32>) -> Result<Duration, String> {
    number(value, range).map(|number| Duration::from_millis(number.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Two;

    impl Names for Two {
        fn uid(&self, name: &str) -> Option<u32> {
            number_of("root:x:0:0:root:/root:/bin/sh\nann:x:1001:100::/home/ann:/bin/sh\n", name)
        }
        fn gid(&self, name: &str) -> Option<u32> {
            number_of("root:x:0:\nlibvirt:x:110:ann,bob\n", name)
        }
    }

    fn defaults() -> Config {
        Config::defaults(&Instance::at(Mode::System, Some("/r".into())))
    }

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/etc/g.conf"), defaults(), &Two).map_err(|e| e.to_string())
    }

    #[test]
    fn values_replace_defaults_and_names_become_numbers() {
        let config =
            parse("# all\nallow_users = ann 7\nallow_groups=libvirt # desk\nmodular_sockets = qemu\n").unwrap();
        assert_eq!(config.trusted, Trusted { uids: vec![1001, 7], gids: vec![110] });
        assert_eq!(config.modular, ["qemu"]);
        assert_eq!(config.limits, defaults().limits);
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        for (text, expected) in [
            ("x", "/etc/g.conf, line 1: expected key = value"),
            ("\nsocket_dri = /x", "/etc/g.conf, line 2: unknown key 'socket_dri'"),
            ("socket_dir = run", "/etc/g.conf, line 1: 'run' is not an absolute path"),
            ("allow_users = eve", "/etc/g.conf, line 1: there is no user 'eve'"),
            ("allow_groups = -1", "/etc/g.conf, line 1: there is no group '-1'"),
            ("modular_sockets = qemu vbox", "/etc/g.conf, line 1: 'vbox' is not one of"),
            ("service_uid = 0", "/etc/g.conf, line 1: 0 is not between 1 and"),
            ("connections = 10\nreserved_connections = 10", "/etc/g.conf: reserved_connections leaves nobody"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn every_daemon_s_name_is_there_but_xen_s_in_libvirt_s_place() {
        assert_eq!(parse("").unwrap().modular, MODULAR);
        for place in LIBVIRTS_PLACES {
            let modular = parse(&format!("socket_dir = {place}")).unwrap().modular;
            assert!(modular.contains(&"lxc".to_owned()) && !modular.contains(&"xen".to_owned()), "{modular:?}");
        }
        assert_eq!(parse("socket_dir = /run/libvirt\nmodular_sockets = xen").unwrap().modular, ["xen"]);
    }

    #[test]
    fn sockets_are_where_clients_look() {
        let at = |mode, root: Option<&str>| Config::defaults(&Instance::at(mode, root.map(PathBuf::from))).socket_dir;
        assert_eq!(at(Mode::System, Some("/r")), Path::new("/r/run/libvirt"));
        assert_eq!(at(Mode::System, None), Path::new("/run/bulkhead/libvirt"));
        let uid = rustix::process::getuid().as_raw();
        assert_eq!(at(Mode::Session, Some("/r")), PathBuf::from(format!("/r/user-{uid}/run/libvirt")));
    }
}
