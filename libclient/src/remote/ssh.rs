//! What ssh is told, and what the far side's shell is.

use std::{ffi::OsString, process::Command};

use super::address::{Proxy, Ssh};

/// Programs on the far side that find the daemon's socket, and may start the daemon.
const HELPERS: [&str; 2] = ["bulkhead-ssh-helper", "virt-ssh-helper"];

/// The ssh that connects `host`'s daemon with its standard streams.
pub(crate) fn command(ssh: &Ssh, host: &str, user: Option<&str>, name: &str, read_only: bool) -> Command {
    let mut command = Command::new(ssh.command.as_deref().unwrap_or("ssh"));
    command.args(arguments(ssh, host, user)).arg(format!("sh -c {}", quoted(&script(ssh, name, read_only))));
    command
}

fn arguments(ssh: &Ssh, host: &str, user: Option<&str>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
    // No terminal on the far side, and no byte that means something to ssh.
    add(&["-T", "-e", "none"]);
    if let Some(port) = ssh.port {
        add(&["-p", &port.to_string()]);
    }
    if let Some(user) = user {
        add(&["-l", user]);
    }
    if let Some(key) = &ssh.key_file {
        add(&["-i", key]);
    }
    if let Some(check) = ssh.host_keys.option() {
        add(&["-o", check]);
    }
    if let Some(file) = &ssh.known_hosts {
        add(&["-o", &format!("UserKnownHostsFile={file}")]);
    }
    if let Some(methods) = &ssh.methods {
        add(&["-o", &format!("PreferredAuthentications={methods}")]);
    }
    if ssh.no_tty {
        add(&["-o", "BatchMode=yes"]);
    }
    // A host's name that looks like an option is none.
    add(&["--", host]);
    arguments
}

/// A word for a Unix shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What runs on the far side: a helper that knows its way, or netcat on the daemon's socket.
fn script(ssh: &Ssh, name: &str, read_only: bool) -> String {
    let option = if read_only { "-r " } else { "" };
    let nameless = name.is_empty();
    let name = quoted(name);
    // A helper takes no path of a socket, and needs a URI to choose one by.
    let helpers = match ssh.proxy {
        Proxy::Netcat => String::new(),
        Proxy::Auto if ssh.sockets.path.is_some() || nameless => String::new(),
        Proxy::Auto | Proxy::Native => {
            let tries = HELPERS.iter().map(|helper| {
                // Ours takes a reader to no socket that takes changes; a session of libvirt's has only such a one.
                let finds_one = if read_only && ssh.sockets.session && *helper == HELPERS[0] {
                    format!(" && {helper} --probe {option}{name} >/dev/null 2>&1")
                } else {
                    String::new()
                };
                format!("if command -v {helper} >/dev/null 2>&1{finds_one}; then exec {helper} {option}{name}; fi; ")
            });
            tries.collect()
        }
    };
    if ssh.proxy == Proxy::Native {
        return format!("{helpers}echo 'there is no virt-ssh-helper on this host' >&2; exit 127");
    }
    let netcat = quoted(ssh.netcat.as_deref().unwrap_or("nc"));
    let other = match ssh.netcat {
        Some(_) => "",
        None => {
            "if ! command -v nc >/dev/null 2>&1 && command -v socat >/dev/null 2>&1; \
             then exec socat - UNIX-CONNECT:\"$s\"; fi; "
        }
    };
    // Some netcats stay when their input ends unless they are told not to, and others do not know the option.
    format!(
        "{helpers}{}{other}if {netcat} -h 2>&1 | grep -q -e ' -q\\|\\[-.*q'; then q=-q0; else q=; fi; \
         exec {netcat} $q -U \"$s\"",
        find_socket(ssh, read_only)
    )
}

/// Sets `$s` to the socket's path.
fn find_socket(ssh: &Ssh, read_only: bool) -> String {
    if let Some(path) = &ssh.sockets.path {
        return format!("s={}; ", quoted(path));
    }
    let names = ssh.sockets.names(read_only);
    let (set_dir, dirs): (&str, &[&str]) = if ssh.sockets.session {
        // With libvirt, root's own daemon is the host's.
        let own = "d=\"${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/libvirt\"; \
                   if [ \"$(id -u)\" -eq 0 ] && ! [ -d \"$d\" ]; then d=/var/run/libvirt; fi; ";
        (own, &["\"$d\""])
    } else {
        ("", &["/var/run/libvirt", "/run/bulkhead/libvirt"])
    };
    let paths: Vec<String> =
        dirs.iter().flat_map(|dir| names.iter().map(move |name| format!("{dir}/{name}"))).collect();
    // If none is there, netcat says so of the one that everybody knows.
    let known = paths.get(names.len().saturating_sub(1)).cloned().unwrap_or_default();
    let tries = paths.join(" ");
    format!("{set_dir}s={known}; for p in {tries}; do if [ -S \"$p\" ]; then s=$p; break; fi; done; ")
}

#[cfg(test)]
mod tests {
    use super::super::address::{Address, Way};
    use super::*;
    use crate::Uri;
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    fn parts(text: &str) -> (Ssh, Address) {
        let address = Address::of(&Uri::parse(text).unwrap(), true).unwrap();
        match address.way.clone() {
            Way::Ssh(ssh) => (ssh, address),
            other => panic!("{other:?}"),
        }
    }

    fn words(text: &str) -> Vec<String> {
        let (ssh, address) = parts(text);
        let words = arguments(&ssh, address.host(), address.user.as_deref());
        words.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn ssh_is_told_what_the_uri_says() {
        assert_eq!(words("qemu+ssh://host/system"), ["-T", "-e", "none", "--", "host"]);
        assert_eq!(
            words("qemu+ssh://ann@host:2222/system?keyfile=/k&no_verify=1&no_tty=1").join(" "),
            "-T -e none -p 2222 -l ann -i /k -o StrictHostKeyChecking=no -o BatchMode=yes -- host"
        );
        assert_eq!(
            words("qemu+libssh2://host/system?known_hosts=/k&known_hosts_verify=auto&sshauth=agent,password").join(" "),
            "-T -e none -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=/k \
             -o PreferredAuthentications=publickey,password -- host"
        );
        assert_eq!(words("qemu+ssh://-oProxyCommand=x/system").last().unwrap(), "-oProxyCommand=x");
    }

    /// Programs of these names that say how they were called. One with a `-` behind its name finds no socket.
    fn programs(dir: &Path, names: &[&str]) {
        for name in names {
            let status = u8::from(name.ends_with('-'));
            let name = name.trim_end_matches('-');
            let path = dir.join(name);
            fs::write(
                &path,
                format!(
                    "#!/bin/sh\ncase \"$1\" in -h) echo ' -q secs'; exit;; --probe) exit {status};; esac\n\
                     echo {name} \"$@\"\n"
                ),
            )
            .unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    /// What the far side runs, by a shell as ssh starts it.
    fn far_side(text: &str, read_only: bool, installed: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        programs(dir.path(), installed);
        let (ssh, address) = parts(text);
        let command = command(&ssh, address.host(), None, &address.name, read_only);
        let line = command.get_args().last().unwrap().to_owned();
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        // Nothing of the machine's own comes before what is installed here.
        let output = Command::new("/bin/sh").arg("-c").arg(line).env_clear().env("PATH", path).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        format!("{}{}", text(output.stdout), text(output.stderr)).trim().to_owned()
    }

    #[test]
    fn the_far_side_prefers_a_helper() {
        let uri = "qemu+ssh://host/system?keep=it's";
        assert_eq!(
            far_side(uri, false, &["bulkhead-ssh-helper", "nc"]),
            "bulkhead-ssh-helper qemu:///system?keep=it%27s"
        );
        assert_eq!(far_side(uri, true, &["bulkhead-ssh-helper"]), "bulkhead-ssh-helper -r qemu:///system?keep=it%27s");
    }

    #[test]
    fn a_reader_of_a_session_without_a_socket_for_readers_goes_libvirt_s_way() {
        let uri = "qemu+ssh://host/session";
        let ours = far_side(uri, true, &["bulkhead-ssh-helper", "virt-ssh-helper"]);
        assert_eq!(ours, "bulkhead-ssh-helper -r qemu:///session");
        let theirs = far_side(uri, true, &["bulkhead-ssh-helper-", "virt-ssh-helper"]);
        assert_eq!(theirs, "virt-ssh-helper -r qemu:///session");
        let writer = far_side(uri, false, &["bulkhead-ssh-helper-", "virt-ssh-helper"]);
        assert_eq!(writer, "bulkhead-ssh-helper qemu:///session", "which goes on to the other one by itself");
    }

    #[test]
    fn who_leaves_the_hypervisor_to_the_far_side_needs_no_helper() {
        let uri = "remote+ssh://host/?netcat=mycat&proxy=auto";
        let said = far_side(uri, false, &["mycat", "bulkhead-ssh-helper", "virt-ssh-helper"]);
        assert_eq!(said, "mycat -q0 -U /var/run/libvirt/libvirt-sock");
    }

    #[test]
    fn netcat_is_told_to_end_and_where_the_socket_is() {
        let uri = "qemu+ssh://host/system?proxy=netcat&netcat=mycat&mode=legacy";
        assert_eq!(far_side(uri, true, &["mycat"]), "mycat -q0 -U /var/run/libvirt/libvirt-sock-ro");
        let uri = "qemu+ssh://host/system?socket=/a%20dir/it's&netcat=mycat";
        assert_eq!(far_side(uri, false, &["mycat", "bulkhead-ssh-helper"]), "mycat -q0 -U /a dir/it's");
    }

    #[test]
    fn a_session_s_socket_is_looked_for_where_that_user_s_is() {
        let uri = "qemu+ssh://host/session?proxy=netcat&netcat=mycat";
        let said = far_side(uri, true, &["mycat"]);
        assert!(said.starts_with("mycat -q0 -U /") && said.ends_with("/libvirt/libvirt-sock"), "{said}");
    }

    #[test]
    fn a_word_is_one_word_whatever_is_in_it() {
        for word in ["", "a b", "it's", "$(reboot)", "'; reboot; '", "\\", "`x`\n!"] {
            let output = Command::new("/bin/sh").arg("-c").arg(format!("printf %s {}", quoted(word))).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
