//! polkit as it is: Debian's polkitd, on a bus of its own, with rules of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use api::{Call, ErrorCode, ErrorDomain, Operation, remote};
use bulkhead_tests::{Guest, Handle, Instance, LONG, Process, Signal, Terminal, skip, wait_until};
use wire::{
    client::{
        CallError, Client,
        login::{LoginError, Method},
    },
    transport::Unix,
};

use crate::rig::{Raw, Rig, as_user, ask, error_of, failed, hostname, open, opened};

const POLKITD: &str = "/usr/lib/polkit-1/polkitd";
/// Users whom every Debian has a name for: the rules let the first in, ask a person about the second, refuse the third.
pub const LET_IN: u32 = 65_534;
const ASKED: u32 = 1;
const REFUSED: u32 = 2;
const RULES: &str = r#"polkit.addRule(function(action, subject) {
    if (action.id != "org.libvirt.unix.manage") return polkit.Result.NOT_HANDLED;
    if (subject.user == "nobody") return polkit.Result.YES;
    if (subject.user == "daemon") return polkit.Result.AUTH_ADMIN;
    return polkit.Result.NO;
});
"#;

/// A system bus and polkitd on it.
pub struct Authority {
    bus: Option<Terminal>,
    polkitd: Option<Terminal>,
    directory: PathBuf,
}

impl Authority {
    /// Its files are below the instance's root.
    fn start(instance: &Instance, test: &str) -> Option<Authority> {
        for program in [POLKITD, "/usr/bin/dbus-daemon"] {
            if !Path::new(program).exists() {
                skip(test, &format!("{program} is not installed"));
                return None;
            }
        }
        let directory = instance.root().join("polkit");
        for part in ["actions", "rules.d"] {
            fs::create_dir_all(directory.join(part)).unwrap();
            fs::set_permissions(directory.join(part), fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(directory.join("rules.d/10-test.rules"), RULES).unwrap();
        let action = Path::new(env!("CARGO_MANIFEST_DIR")).join("polkit/org.libvirt.unix.policy");
        fs::copy(action, directory.join("actions/org.libvirt.unix.policy")).unwrap();
        let mut authority = Authority { bus: None, polkitd: None, directory };
        authority.start_bus();
        Some(authority)
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.directory.join("bus").display())
    }

    fn start_bus(&mut self) {
        let configuration = format!(
            "<busconfig><type>system</type><listen>{}</listen><auth>EXTERNAL</auth><policy context='default'><allow \
             user='*'/><allow send_destination='*'/><allow receive_sender='*'/><allow own='*'/></policy></busconfig>",
            self.address()
        );
        let file = self.directory.join("bus.conf");
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new("/usr/bin/dbus-daemon");
        command.arg(format!("--config-file={}", file.display())).args(["--nofork", "--nopidfile", "--print-address"]);
        let mut bus = Terminal::on_pipes(command);
        bus.expect("unix:path=");
        self.bus = Some(bus);
        // polkitd reads its rules from fixed places: it gets others, in a mount namespace of its own.
        let script = "mount --make-rprivate / && mount --bind actions /usr/share/polkit-1/actions && \
                      mount --bind rules.d /usr/share/polkit-1/rules.d && mount --bind rules.d /etc/polkit-1/rules.d && \
                      exec \"$0\" --no-debug";
        let mut command = Command::new("/usr/bin/unshare");
        command.args(["--mount", "/bin/sh", "-c", script, POLKITD]);
        command.current_dir(&self.directory).env("DBUS_SYSTEM_BUS_ADDRESS", self.address());
        self.polkitd = Some(Terminal::on_pipes(command));
        assert!(wait_until(LONG, || self.is_there()), "polkitd does not come");
    }

    fn is_there(&self) -> bool {
        let mut command = Command::new("/usr/bin/dbus-send");
        command.arg(format!("--bus={}", self.address())).args([
            "--print-reply=literal",
            "--dest=org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus.NameHasOwner",
            "string:org.freedesktop.PolicyKit1",
        ]);
        bulkhead_tests::run(command).stdout.contains("true")
    }

    fn end_bus(&mut self) {
        for program in [self.polkitd.take(), self.bus.take()].into_iter().flatten() {
            let handle = Process::of(program.pid()).and_then(|process| process.handle()).unwrap();
            handle.signal(Signal::KILL);
            drop(program);
        }
    }

    fn polkitd(&self) -> Handle {
        Process::of(self.polkitd.as_ref().unwrap().pid()).and_then(|process| process.handle()).unwrap()
    }
}

/// A host's gateway with a polkitd that it can ask.
pub fn rig(test: &str) -> Option<(Rig, Authority)> {
    let instance = Instance::system(test)?;
    let authority = Authority::start(&instance, test)?;
    instance.ok(&["list"]);
    let rig = Rig::before_with(instance, "", &[("DBUS_SYSTEM_BUS_ADDRESS", &authority.address())]);
    Some((rig, authority))
}

/// Logs in as a user.
pub fn login(rig: &Rig, uid: u32) -> Result<(Client, Method), LoginError> {
    as_user(uid, &[], || {
        let socket = std::os::unix::net::UnixStream::connect(rig.socket()).unwrap();
        let client = Client::new(Box::new(Unix::new(socket))).unwrap();
        client.login(None, LONG).map(|how| (client, how))
    })
}

/// The error of a login that must fail at polkit's word.
#[track_caller]
fn refusal(rig: &Rig, uid: u32) -> api::Error {
    match login(rig, uid) {
        Err(LoginError::Call(CallError::Failed(error))) => error,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("uid {uid} is let in"),
    }
}

fn define(client: &Client, name: &str) -> Result<(), api::Error> {
    let xml = Guest::tiny(name).xml();
    failed(client.call(&remote::DomainDefineXmlArgs { xml }.into_call(), Vec::new())).map(drop)
}

#[test]
fn polkit_says_who_may_change_things_besides_root() {
    let Some((rig, _authority)) = rig("polkit_says_who_may_change_things_besides_root") else { return };
    let (client, how) = login(&rig, LET_IN).unwrap();
    assert_eq!(how, Method::Polkit);
    open(&client, "").unwrap();
    define(&client, "by-polkit").unwrap();

    let asked = refusal(&rig, ASKED);
    assert_eq!((asked.code, asked.domain), (ErrorCode::AUTH_UNAVAILABLE, ErrorDomain::POLKIT), "{asked:?}");
    assert!(asked.message.contains("no polkit agent available to authenticate action 'org.libvirt.unix.manage'"));
    let refused = refusal(&rig, REFUSED);
    assert_eq!(refused.code, ErrorCode::AUTH_FAILED, "{refused:?}");
    assert!(refused.message.starts_with("authentication failed: access denied by policy"), "{refused:?}");

    // Whoever may not change things may look all the same, without being asked.
    let reader = as_user(REFUSED, &[], || opened(&rig.read_only_socket()));
    assert!(define(&reader, "x").is_err());
    // And root is not asked about.
    let (_, how) = login(&rig, 0).unwrap();
    assert_eq!(how, Method::None);
}

#[test]
fn virsh_is_let_in_by_polkit_and_told_why_not() {
    let test = "virsh_is_let_in_by_polkit_and_told_why_not";
    if !crate::rig::has("virsh", test) {
        return;
    }
    let Some((rig, _authority)) = rig(test) else { return };
    let virsh = |uid, arguments: &[&str]| {
        let mut command = rig.virsh_command("qemu:///system", arguments);
        rig.instance.prepare(&mut command, uid);
        bulkhead_tests::run(command)
    };
    let document = rig.instance.document(&Guest::tiny("g"));
    let output = virsh(LET_IN, &["define", document.to_str().unwrap()]);
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    let output = virsh(REFUSED, &["list"]);
    assert!(output.stderr.contains("authentication failed: access denied by policy"), "{}", output.stderr);
}

#[test]
fn nothing_is_open_before_polkit_has_spoken() {
    let Some((rig, _authority)) = rig("nothing_is_open_before_polkit_has_spoken") else { return };
    as_user(LET_IN, &[], || {
        let mut raw = Raw::connect(&rig.socket());
        raw.call(1, &Call::ConnectOpen(remote::ConnectOpenArgs::default()));
        assert_eq!(error_of(&raw.next().unwrap()).message, "authentication required");
        raw.call(2, &Call::AuthList(remote::AuthListArgs {}));
        raw.next().unwrap();
        raw.call(3, &Call::ConnectOpen(remote::ConnectOpenArgs::default()));
        assert_eq!(error_of(&raw.next().unwrap()).message, "authentication required");
        // Two questions at once are one too many; the first has its answer.
        raw.call(4, &Call::AuthPolkit(remote::AuthPolkitArgs {}));
        raw.call(5, &Call::AuthPolkit(remote::AuthPolkitArgs {}));
        let answers =
            [raw.next().unwrap(), raw.next().unwrap()].map(|frame| (frame.header.serial, frame.header.status));
        assert!(answers.contains(&(4, wire::Status::Ok)) && answers.contains(&(5, wire::Status::Error)), "{answers:?}");
        raw.call(6, &Call::ConnectOpen(remote::ConnectOpenArgs::default()));
        assert_eq!(raw.next().unwrap().header.status, wire::Status::Ok);
    });
}

#[test]
fn who_is_refused_is_told_so_and_hung_up_on() {
    let Some((rig, _authority)) = rig("who_is_refused_is_told_so_and_hung_up_on") else { return };
    as_user(REFUSED, &[], || {
        let mut raw = Raw::connect(&rig.socket());
        raw.call(1, &Call::AuthPolkit(remote::AuthPolkitArgs {}));
        assert_eq!(error_of(&raw.next().unwrap()).code, ErrorCode::AUTH_FAILED);
        raw.expect_dropped("a second question");
    });
}

#[test]
fn a_person_who_takes_his_time_holds_up_nobody_and_may_go_away() {
    let Some((rig, authority)) = rig("a_person_who_takes_his_time_holds_up_nobody_and_may_go_away") else { return };
    // The process that asks is there, and polkit does not answer for now.
    login(&rig, LET_IN).unwrap();
    authority.polkitd().signal(Signal::STOP);
    as_user(LET_IN, &[], || {
        let mut raw = Raw::connect(&rig.socket());
        raw.call(1, &Call::AuthPolkit(remote::AuthPolkitArgs {}));
        // What follows is answered while the question waits.
        raw.call(2, &Call::AuthList(remote::AuthListArgs {}));
        assert_eq!(raw.next().unwrap().header.serial, 2);
        hostname(&opened(&rig.read_only_socket()));
    });
    hostname(&rig.opened());
    authority.polkitd().signal(Signal::CONT);
    login(&rig, LET_IN).unwrap();
}

#[test]
fn without_a_bus_the_configuration_decides_and_a_bus_that_comes_is_found() {
    let Some((rig, mut authority)) = rig("without_a_bus_the_configuration_decides_and_a_bus_that_comes_is_found")
    else {
        return;
    };
    login(&rig, LET_IN).unwrap();
    let asks = rig.gateway.role("polkit");
    assert_eq!(asks.len(), 1, "{}", rig.gateway.log());
    authority.end_bus();
    assert!(asks[0].handle().is_none_or(|handle| handle.wait_for_end(LONG)), "it outlives its bus");
    for _ in 0..2 {
        let refused = refusal(&rig, LET_IN);
        assert_eq!(refused.code, ErrorCode::AUTH_FAILED, "{refused:?}");
        assert!(refused.message.contains("allow_users, allow_groups"), "{refused:?}");
    }
    hostname(&rig.opened());
    authority.start_bus();
    let (client, _) = login(&rig, LET_IN).unwrap();
    open(&client, "").unwrap();
    assert_eq!(ask(&client, remote::ConnectGetHostnameArgs {}).hostname, hostname(&rig.opened()));
}

#[test]
fn polkit_is_not_asked_when_the_configuration_says_no() {
    let Some(instance) = Instance::system("polkit_is_not_asked_when_the_configuration_says_no") else { return };
    let Some(authority) = Authority::start(&instance, "polkit_is_not_asked_when_the_configuration_says_no") else {
        return;
    };
    let address = authority.address();
    let rig = Rig::before_with(instance, "polkit = no\n", &[("DBUS_SYSTEM_BUS_ADDRESS", &address)]);
    // Ends before the instance does.
    let _authority = authority;
    let refused = refusal(&rig, LET_IN);
    assert!(refused.message.contains("allow_users, allow_groups"), "{refused:?}");
    assert!(rig.gateway.role("polkit").is_empty());
}
