//! Against libvirt itself, where it is installed: this client and libvirt's daemon, this server and libvirt's client.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests may fail like tests.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt, chown},
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use api::{Call, ErrorCode, Event, Op, Operation, Reply, remote};
use tempfile::TempDir;
use wire::{
    Conn, Transport,
    client::{CallError, Client, Piece, login},
    codec::{self, Meaning},
    keepalive,
    transport::Unix,
};

mod support;
use support::recv;

const PATIENCE: Duration = Duration::from_secs(30);
/// The user that the daemon runs as when the tests run as root: a root's daemon would take the host's places.
const NOBODY: u32 = 65_534;

/// Says that a test cannot run here, where `tools/test.sh` counts it.
fn skip(reason: &str) {
    println!("skipped: libvirt: {reason}");
    if let Some(path) = std::env::var_os("BULKHEAD_SKIP_LOG") {
        let mut log = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(log, "libvirt: {reason}").unwrap();
    }
}

fn installed(program: &str) -> bool {
    let found = ["/usr/bin", "/usr/sbin"].iter().any(|place| Path::new(place).join(program).exists());
    if !found {
        skip(&format!("{program} is not installed"));
    }
    found
}

/// Whether the host knows a name for a uid.
fn has_name(uid: u32) -> bool {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    users.lines().any(|line| line.split(':').nth(2) == Some(&uid.to_string()))
}

/// libvirt's daemon as a user's session, in a directory of the test's own.
struct Daemon {
    child: Child,
    dir: TempDir,
}

impl Daemon {
    fn start() -> Option<Self> {
        if !installed("libvirtd") {
            return None;
        }
        let root = rustix::process::getuid().is_root();
        if !root && !has_name(rustix::process::getuid().as_raw()) {
            skip("libvirtd needs a user that has a name");
            return None;
        }
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("/usr/sbin/libvirtd");
        for name in ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HOME"] {
            let place = dir.path().join(name);
            fs::create_dir(&place).unwrap();
            if root {
                chown(&place, Some(NOBODY), Some(NOBODY)).unwrap();
            }
            command.env(name, place);
        }
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = command.args(["--timeout", "30"]).stderr(log).stdin(Stdio::null()).spawn().unwrap();
        let mut daemon = Self { child, dir };
        daemon.await_socket();
        Some(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("XDG_RUNTIME_DIR/libvirt/libvirt-sock")
    }

    fn await_socket(&mut self) {
        use rustix::fs::inotify;
        // The daemon makes directories on its way; each look is woken by a change in one of them.
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        let runtime = self.dir.path().join("XDG_RUNTIME_DIR");
        loop {
            for place in [runtime.clone(), runtime.join("libvirt")] {
                let _ = inotify::add_watch(&watch, place, inotify::WatchFlags::CREATE | inotify::WatchFlags::ATTRIB);
            }
            if UnixStream::connect(self.socket()).is_ok() {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("libvirtd {status}: {}", fs::read_to_string(self.dir.path().join("log")).unwrap());
            }
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            // A socket listens a moment after it is there, of which nobody tells.
            let brief = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&brief)).unwrap();
        }
    }

    fn open(&self) -> Client {
        let socket = UnixStream::connect(self.socket()).unwrap();
        let client = Client::new(Box::new(Unix::new(socket))).unwrap();
        assert_eq!(client.login(None, PATIENCE).unwrap(), login::Method::None);
        // It pings from now on.
        assert_eq!(ask(&client, remote::ConnectSupportsFeatureArgs { feature: 10 }).supported, 1);
        ask(&client, remote::ConnectOpenArgs { name: Some("test:///default".to_owned()), flags: 0 });
        client
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask<A: Operation>(client: &Client, args: A) -> A::Ret {
    A::ret_of(client.call_within(&args.into_call(), Vec::new(), PATIENCE).unwrap().0).unwrap()
}

fn refusal(client: &Client, call: &Call) -> api::Error {
    match client.call_within(call, Vec::new(), PATIENCE) {
        Err(CallError::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn libvirts_daemon_answers_this_client() {
    let Some(daemon) = Daemon::start() else { return };
    let client = daemon.open();
    assert_eq!(ask(&client, remote::ConnectGetTypeArgs).r#type, "TEST");
    let domains = ask(&client, remote::ConnectListAllDomainsArgs { need_results: 1, flags: 0 }).domains;
    assert_eq!(domains.iter().map(|dom| dom.name.as_str()).collect::<Vec<_>>(), ["test"]);
    let dom = domains[0].clone();
    assert!(
        ask(&client, remote::DomainGetXmlDescArgs { dom: dom.clone(), flags: 0 }).xml.contains("<name>test</name>")
    );

    // A hundred calls at once, of which it takes five at a time.
    let calls = vec![remote::ConnectGetHostnameArgs.into_call(); 100];
    assert!(client.call_all(&calls).unwrap().into_iter().all(|answer| answer.is_ok()));

    // An event, before or after the reply of the call that causes it.
    let register = remote::ConnectDomainEventCallbackRegisterAnyArgs { event_id: 0, dom: None };
    let callback_id = ask(&client, register).callback_id;
    ask(&client, remote::DomainDestroyArgs { dom });
    let mut events = client.take_events();
    while events.is_empty() {
        events = client.wait_events(Some(PATIENCE)).unwrap();
    }
    let Event::DomainEventCallbackLifecycle(event) = &events[0] else { panic!("{events:?}") };
    assert_eq!((event.callback_id, event.msg.event), (callback_id, 5));
}

#[test]
fn libvirts_daemon_refuses_as_the_protocol_says() {
    let Some(daemon) = Daemon::start() else { return };
    let client = daemon.open();
    let missing = remote::DomainLookupByNameArgs { name: "nobody".to_owned() }.into_call();
    assert_eq!(refusal(&client, &missing).code, ErrorCode::NO_DOMAIN);
    // Our own program, of which it knows nothing.
    let ours = api::bulkhead::ListDomainsArgs { flags: 0 }.into_call();
    let error = refusal(&client, &ours);
    assert_eq!(error.message, format!("Cannot find program {} version 1", api::bulkhead::PROGRAM));
    // A call that is newer than the daemon, in the words that make it one that is not supported.
    let newest =
        Op::ALL.into_iter().rfind(|op| op.info().program == remote::PROGRAM && op.info().api.starts_with("vir"));
    let zeros = vec![0; 4096];
    let newest = Call::decode(newest.unwrap(), &mut api::xdr::Decoder::new(&zeros)).unwrap().unwrap();
    assert_eq!(refusal(&client, &newest).code, ErrorCode::NO_SUPPORT);
}

#[test]
fn libvirts_daemon_streams_to_this_client() {
    let Some(daemon) = Daemon::start() else { return };
    let client = daemon.open();
    let dom = ask(&client, remote::ConnectListAllDomainsArgs { need_results: 1, flags: 0 }).domains.remove(0);
    let call = remote::DomainScreenshotArgs { dom, screen: 0, flags: 0 }.into_call();
    let (_, stream) = match client.open_stream(&call, Vec::new()) {
        Ok(opened) => opened,
        Err(CallError::Failed(error)) => {
            // The picture is a file of libvirt's package.
            skip(&format!("no screenshot: {error}"));
            return;
        }
        Err(error) => panic!("{error:?}"),
    };
    let mut picture = Vec::new();
    while let Some(Piece::Data(bytes)) = stream.read(Some(PATIENCE)).unwrap() {
        picture.extend(bytes);
    }
    stream.finish(Some(PATIENCE)).unwrap();
    assert_eq!(&picture[1..4], b"PNG");
    // And one that is given up in the middle.
    drop(client.open_stream(&call, Vec::new()).unwrap());
    assert_eq!(ask(&client, remote::ConnectGetTypeArgs).r#type, "TEST");
}

/// Serves what virsh asks on its way to `hostname`; gives the calls it made.
fn serve<T: Transport>(mut conn: Conn<T>) -> Vec<Op> {
    let mut asked = Vec::new();
    while let Ok(frame) = recv(&mut conn) {
        match frame.header.meaning() {
            Meaning::Keepalive => {
                if let Some(pong) = keepalive::answer(&frame.header) {
                    conn.queue_empty(&pong).unwrap();
                }
            }
            Meaning::Call => {
                let answer = codec::decode_call(&frame).and_then(|call| {
                    asked.push(call.op());
                    reply(call)
                });
                conn.queue_answer(&frame.header, &answer, Vec::new()).unwrap();
            }
            other => panic!("{other:?}"),
        }
        assert!(conn.flush().unwrap());
    }
    asked
}

fn reply(call: Call) -> Result<Reply, api::Error> {
    Ok(match call {
        Call::AuthList(_) => Reply::AuthList(remote::AuthListRet { types: vec![remote::AuthType::NONE] }),
        Call::ConnectSupportsFeature(args) => {
            let supported = i32::from(matches!(args.feature, 10 | 14 | 15));
            Reply::ConnectSupportsFeature(remote::ConnectSupportsFeatureRet { supported })
        }
        Call::ConnectOpen(_) => Reply::ConnectOpen(()),
        Call::ConnectClose(_) => Reply::ConnectClose(()),
        Call::ConnectRegisterCloseCallback(_) => Reply::ConnectRegisterCloseCallback(()),
        Call::ConnectUnregisterCloseCallback(_) => Reply::ConnectUnregisterCloseCallback(()),
        Call::ConnectGetHostname(_) => support::hostname("answered by wire"),
        other => return Err(api::Error::unsupported(other.op(), "test")),
    })
}

fn virsh(uri: &str, words: &[&str]) -> (String, String) {
    let output = Command::new("virsh").args(["-c", uri]).args(words).env("LC_ALL", "C").output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn libvirts_client_is_served() {
    if !installed("virsh") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let serving: JoinHandle<Vec<Op>> = thread::spawn(move || serve(Conn::new(Unix::new(listener.accept().unwrap().0))));
    let uri = format!("qemu+unix:///system?socket={}", path.display());
    let (out, errors) = virsh(&uri, &["hostname; nodeinfo"]);
    assert!(out.starts_with("answered by wire"), "{out}{errors}");
    assert!(errors.contains("not supported by the connection driver: virNodeGetInfo"), "{errors}");
    let asked = serving.join().unwrap();
    assert_eq!(asked.first(), Some(&Op::AuthList));
    assert!(asked.contains(&Op::ConnectOpen));
}

#[cfg(feature = "tls")]
#[test]
fn libvirts_client_is_served_over_tls() {
    use wire::tls::{Handshake, Pems, server_config};
    if !installed("virsh") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let (authority, identity) = certificates(dir.path());
    let pems = Pems {
        authority: authority.as_bytes(),
        certificate: identity.0.as_bytes(),
        key: identity.1.as_bytes(),
        revoked: b"",
    };
    let config = server_config(&pems, false).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut handshake = Handshake::server(config, socket).unwrap();
        handshake.complete(PATIENCE).unwrap();
        let name = handshake.peer_name().unwrap();
        (name, serve(Conn::new(handshake.accept().unwrap())))
    });
    let uri = format!("qemu+tls://localhost:{port}/system?pkipath={}", dir.path().display());
    let (out, errors) = virsh(&uri, &["hostname"]);
    assert!(out.starts_with("answered by wire"), "{out}{errors}");
    let (name, asked) = serving.join().unwrap();
    assert_eq!(name.as_deref(), Some("CN=client"));
    assert!(asked.contains(&Op::ConnectGetHostname));
}

/// A client's files below `dir`; the authority's certificate, and the server's with its key.
#[cfg(feature = "tls")]
fn certificates(dir: &Path) -> (String, (String, String)) {
    use rcgen::KeyUsagePurpose::{CrlSign, KeyCertSign};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
    let params = |name: &str| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut root = params("authority");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyCertSign, CrlSign];
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        (params(name).signed_by(&key, &root).unwrap().pem(), key.serialize_pem())
    };
    let client = issue("client");
    fs::write(dir.join("cacert.pem"), root.pem()).unwrap();
    fs::write(dir.join("clientcert.pem"), client.0).unwrap();
    fs::write(dir.join("clientkey.pem"), client.1).unwrap();
    (root.pem(), issue("localhost"))
}
