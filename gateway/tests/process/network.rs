//! Clients that come by network: certificates, names and passwords.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
};

use api::{ErrorCode, remote};
use bulkhead_tests::{Authority, Identity, Instance, LONG, free_port, run};
use wire::{
    client::{Client, login::LoginError},
    sasl::{Scram, Verifier},
    tls::{Handshake, Pems, ServerCheck, TlsError, TlsVersions, client_config},
    transport::Plain,
};

use crate::rig::{Rig, failed, has, hostname, open};

/// A session's gateway with a TLS port, and its authority.
pub struct TlsRig {
    pub rig: Rig,
    pub port: u16,
    pub authority: Authority,
    key: String,
}

pub fn tls_rig(configuration: &str) -> TlsRig {
    tls_rig_until(2099, configuration)
}

/// The same, whose list of the revoked is to be replaced by the beginning of a year.
fn tls_rig_until(year: i32, configuration: &str) -> TlsRig {
    let instance = Instance::session();
    let authority = Authority::new("the authority");
    let server = authority.sign("server", 1);
    let dir = instance.root().join("pki");
    fs::create_dir(&dir).unwrap();
    for (name, text) in [
        ("ca.pem", &authority.certificate),
        ("crl.pem", &authority.revoke_until(66, year)),
        ("cert.pem", &server.certificate),
        ("key.pem", &server.key),
    ] {
        fs::write(dir.join(name), text).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let port = free_port();
    let at = |name: &str| dir.join(name).display().to_string();
    let configuration = format!(
        "listen_tls = yes\nlisten_addresses = 127.0.0.1\ntls_port = {port}\ntls_authority = {}\ntls_revoked = {}\n\
         tls_certificate = {}\ntls_key = {}\n{configuration}",
        at("ca.pem"),
        at("crl.pem"),
        at("cert.pem"),
        at("key.pem"),
    );
    TlsRig { rig: Rig::before(instance, &configuration), port, authority, key: server.key }
}

impl TlsRig {
    pub fn connect(&self, identity: Option<&Identity>) -> Result<Client, TlsError> {
        let (certificate, key) =
            identity.map_or((&[][..], &[][..]), |identity| (identity.certificate.as_bytes(), identity.key.as_bytes()));
        let pems = Pems { authority: self.authority.certificate.as_bytes(), certificate, key, ..Pems::default() };
        let config = client_config(&pems, ServerCheck::Full, TlsVersions::default())?;
        let mut handshake = Handshake::client(config, "localhost", tcp(self.port))?;
        handshake.complete(LONG)?;
        Ok(Client::new(Box::new(handshake.accept()?)).unwrap())
    }
}

fn tcp(port: u16) -> TcpStream {
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

#[test]
fn a_certificate_opens_the_door_and_nothing_else_does() {
    let tls = tls_rig("tls_allowed_names = CN=ann,O=Bulkhead; CN=gone,*\n");
    let client = tls.connect(Some(&tls.authority.sign("ann", 7))).unwrap();
    assert!(client.is_encrypted());
    client.login(None, LONG).unwrap();
    open(&client, "").unwrap();
    hostname(&client);
    for (what, identity) in [
        ("another name", Some(tls.authority.sign("eve", 8))),
        ("another authority", Some(Authority::new("another").sign("ann", 9))),
        ("a revoked certificate", Some(tls.authority.sign("gone", 66))),
        ("no certificate", None),
    ] {
        assert!(is_refused(&tls.connect(identity.as_ref())), "{what}");
    }
    let passes_fds = remote::ConnectSupportsFeatureArgs { feature: 8 };
    assert_eq!(crate::rig::ask(&client, passes_fds).supported, 0, "no descriptor passes here");
    hostname(&client);
}

/// Was a handshake turned down, however far the client had come?
fn is_refused(answer: &Result<Client, TlsError>) -> bool {
    matches!(answer, Err(TlsError::Refused | TlsError::Handshake(_) | TlsError::Closed))
}

#[test]
fn a_list_of_the_revoked_that_has_expired_lets_nobody_in() {
    let tls = tls_rig_until(2024, "");
    for serial in [7, 66] {
        assert!(is_refused(&tls.connect(Some(&tls.authority.sign("ann", serial)))), "number {serial}");
    }
    hostname(&tls.rig.opened());
}

#[test]
fn where_no_certificate_is_asked_for_a_password_is() {
    let verifier = Verifier::derive("secret", 4096, b"0123456789abcdef").unwrap();
    let users = tempfile::NamedTempFile::new().unwrap();
    fs::write(users.path(), format!("ann:{verifier}\n")).unwrap();
    let configuration =
        format!("tls_client_certificates = none\ntls_login = sasl\nsasl_users = {}\n", users.path().display());
    let tls = tls_rig(&configuration);
    let client = tls.connect(None).unwrap();
    assert!(matches!(client.login(None, LONG), Err(LoginError::NoCredentials)));
    for (password, let_in) in [("wrong", false), ("secret", true)] {
        let client = tls.connect(None).unwrap();
        let answer = client.login(Some(&mut Scram::new("ann", password)), LONG);
        assert_eq!(answer.is_ok(), let_in, "{password}: {answer:?}");
        if let_in {
            open(&client, "").unwrap();
            hostname(&client);
        }
    }
    // virsh finds name and password in a file, and has no certificate of its own.
    let test = "where_no_certificate_is_asked_for_a_password_is";
    if !has("virsh", test) {
        return;
    }
    let dir = tls.rig.instance.root().join("client");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("cacert.pem"), &tls.authority.certificate).unwrap();
    for (password, code) in [("wrong", 1), ("secret", 0)] {
        let text = format!(
            "[credentials-ann]\nauthname=ann\nusername=ann\npassword={password}\n[auth-libvirt-localhost]\ncredentials=ann\n"
        );
        fs::write(dir.join("auth.conf"), text).unwrap();
        let authfile = dir.join("auth.conf");
        let uri = format!(
            "qemu+tls://localhost:{}/session?pkipath={}&authfile={}",
            tls.port,
            dir.display(),
            authfile.display()
        );
        let mut command = Command::new("virsh");
        command.args(["-c", &uri, "list", "--all"]);
        tls.rig.instance.prepare(&mut command, tls.rig.instance.uid());
        let output = run(command);
        assert_eq!(output.code, code, "{password}: {}{}", output.stderr, tls.rig.gateway.log());
    }
}

/// What a name is told on how to prove its password: iterations and salt, as they are written.
fn challenge(port: u16, name: &str) -> String {
    let client = Client::new(Box::new(Plain::new(tcp(port)))).unwrap();
    let first = format!("n,,n={name},r=abcdefgh").into_bytes().into_iter().map(|byte| byte as i8).collect();
    crate::rig::ask(&client, remote::AuthSaslInitArgs {});
    let args = remote::AuthSaslStartArgs { mech: "SCRAM-SHA-256".into(), nil: 0, data: first };
    let answer = crate::rig::ask(&client, args).data.into_iter().map(|byte| byte as u8).collect();
    let answer = String::from_utf8(answer).unwrap();
    answer.split_once(',').unwrap().1.to_owned()
}

#[test]
fn who_asks_again_after_a_restart_does_not_learn_which_users_there_are() {
    let port = free_port();
    let users = tempfile::NamedTempFile::new().unwrap();
    let verifier = Verifier::derive("secret", 4096, b"0123456789abcdef").unwrap();
    fs::write(users.path(), format!("ann:{verifier}\n")).unwrap();
    let configuration = format!(
        "listen_tcp = yes\nlisten_addresses = 127.0.0.1\ntcp_port = {port}\nsasl_users = {}\n",
        users.path().display()
    );
    let Rig { gateway, instance } = Rig::before(Instance::session(), &configuration);
    let names = ["ann", "ghost", "phantom"];
    let before = names.map(|name| challenge(port, name));
    let shape = |text: &String| (text.rsplit_once(",i=").unwrap().1.to_owned(), text.len());
    assert!(before.iter().all(|text| shape(text) == shape(&before[0])), "one of them is no user: {before:?}");
    assert!(before[1] != before[2]);
    drop(gateway);
    let _again = crate::rig::Gateway::start(&instance, &configuration, &[]);
    assert_eq!(names.map(|name| challenge(port, name)), before);
}

#[test]
fn no_worker_has_the_key() {
    let tls = tls_rig("");
    let client = tls.connect(Some(&tls.authority.sign("ann", 7))).unwrap();
    client.login(None, LONG).unwrap();
    open(&client, "").unwrap();
    // The secret part of the key, as it is in memory: PKCS#8 has it from its 36th byte on.
    let body: String = tls.key.lines().filter(|line| !line.starts_with('-')).collect();
    let workers = tls.rig.gateway.workers_with_sockets(3);
    assert_eq!(workers.len(), 1);
    let line = body.as_bytes();
    let needle = &line[line.len() / 3..line.len() / 3 + 40];
    assert!(!holds(workers[0].pid, needle), "the worker has the key's file");
    let certificate = tls.rig.gateway.acceptor().pid;
    assert!(holds(certificate, needle), "the acceptor has it, and so this test sees what it looks for");
}

/// Whether a process's writable memory has these bytes.
fn holds(pid: u32, needle: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (from, rest) = line.split_once('-').unwrap();
        let to = rest.split_once(' ').unwrap().0;
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = Vec::new();
        memory.seek(SeekFrom::Start(from)).unwrap();
        // What cannot be read holds nothing.
        let _ = (&mut memory).take(to - from).read_to_end(&mut bytes);
        bytes.windows(needle.len()).any(|window| window == needle)
    })
}

#[test]
fn who_does_not_speak_tls_is_hung_up_on() {
    let tls = tls_rig("patience_ms = 500\n");
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0x16, 3, 1, 2, 0], &[0; 4096]] {
        let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, tls.port))).unwrap();
        let _ = std::io::Write::write_all(&mut stream, bytes);
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut answer = Vec::new();
        // An end, or a reset when something was left unread.
        let read = stream.read_to_end(&mut answer);
        assert!(
            !matches!(read, Err(ref error) if error.kind() == std::io::ErrorKind::WouldBlock),
            "{bytes:?}: {read:?}"
        );
    }
    let client = tls.connect(Some(&tls.authority.sign("ann", 7))).unwrap();
    client.login(None, LONG).unwrap();
}

#[test]
fn virsh_comes_by_tls() {
    let test = "virsh_comes_by_tls";
    if !has("virsh", test) {
        return;
    }
    let tls = tls_rig("");
    let dir = tls.rig.instance.root().join("client");
    fs::create_dir(&dir).unwrap();
    let ann = tls.authority.sign("ann", 7);
    for (name, text) in
        [("cacert.pem", &tls.authority.certificate), ("clientcert.pem", &ann.certificate), ("clientkey.pem", &ann.key)]
    {
        fs::write(dir.join(name), text).unwrap();
    }
    let uri = format!("qemu+tls://localhost:{}/session?pkipath={}", tls.port, dir.display());
    let mut command = Command::new("virsh");
    command.args(["-c", &uri, "list", "--all"]);
    tls.rig.instance.prepare(&mut command, tls.rig.instance.uid());
    let output = run(command);
    assert_eq!(output.code, 0, "{}{}", output.stderr, tls.rig.gateway.log());
}

/// A session's gateway with a plain TCP port for who knows a password.
fn sasl_rig() -> (Rig, u16) {
    let instance = Instance::session();
    let users = instance.root().join("users");
    let verifier = Verifier::derive("secret", 4096, b"0123456789abcdef").unwrap();
    fs::write(&users, format!("ann:{verifier}\n")).unwrap();
    let port = free_port();
    let configuration = format!(
        "listen_tcp = yes\nlisten_addresses = 127.0.0.1\ntcp_port = {port}\nsasl_users = {}\n",
        users.display()
    );
    (Rig::before(instance, &configuration), port)
}

fn plain(port: u16) -> Client {
    Client::new(Box::new(Plain::new(tcp(port)))).unwrap()
}

#[test]
fn a_password_opens_the_tcp_door_and_nothing_else_does() {
    let (_rig, port) = sasl_rig();
    let client = plain(port);
    client.login(Some(&mut Scram::new("ann", "secret")), LONG).unwrap();
    open(&client, "").unwrap();
    hostname(&client);
    for (name, password) in [("ann", "Secret"), ("eve", "secret"), ("", "")] {
        let client = plain(port);
        let refused = client.login(Some(&mut Scram::new(name, password)), LONG);
        assert!(refused.is_err(), "{name} {password}");
        let early = failed(client.call(&api::Call::ConnectGetHostname(remote::ConnectGetHostnameArgs {}), Vec::new()));
        assert_eq!(early.unwrap_err().code, ErrorCode::RPC, "not logged in");
    }
    let silent = plain(port).login(None, LONG);
    assert!(matches!(silent, Err(LoginError::NoCredentials)), "{silent:?}");
}

#[test]
fn a_password_may_be_wrong_a_few_times_only() {
    let (_rig, port) = sasl_rig();
    let client = plain(port);
    let mut tries = 0;
    while client.lost().is_none() && tries < 10 {
        let _ = client.login(Some(&mut Scram::new("ann", "wrong")), LONG);
        tries += 1;
    }
    assert!((3..=4).contains(&tries), "{tries} tries");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let instance = Instance::session();
    let authority = Authority::new("a");
    let server = authority.sign("server", 1);
    let write = |name: &str, text: &str| instance.file(name, text.as_bytes()).display().to_string();
    let key = write("key.pem", &server.key);
    let configuration = format!("listen_tls = yes\ntls_key = {key}\n");
    fs::create_dir_all(instance.config_dir()).unwrap();
    fs::write(instance.config_dir().join("gateway.conf"), configuration).unwrap();
    let output = run(crate::rig::Gateway::command(&instance));
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("may be read by others"), "{}", output.stderr);
    assert!(Path::new(&key).exists());
}
