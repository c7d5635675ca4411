//! `test:///default`: one mock host for all clients, and its death.

use std::{
    fs,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use api::{Call, ErrorCode, Event, remote};
use bulkhead_tests::{LONG, Output, Process, Terminal, run};
use wire::{client::Client, transport::Unix};

use crate::rig::{AT_ONCE, Raw, Rig, SOMEBODY, as_user, ask, domain, error_of, failed, has, hostname, logged_in, open};

const TEST: &str = "test:///default";
const OTHER: &str = "<domain type='test'><name>other</name><memory>1024</memory><os><type>hvm</type></os></domain>";

impl Rig {
    fn test_client(&self) -> Client {
        let client = self.client();
        open(&client, TEST).unwrap();
        client
    }

    fn virsh_test(&self, arguments: &[&str]) -> Output {
        run(self.virsh_command(TEST, arguments))
    }

    #[track_caller]
    fn virsh_test_ok(&self, arguments: &[&str]) -> String {
        let output = self.virsh_test(arguments);
        assert_eq!(output.code, 0, "virsh {arguments:?}: {}{}", output.stderr, self.gateway.log());
        output.stdout
    }

    fn mock_host(&self) -> Process {
        let found = self.gateway.role("mock-host");
        assert_eq!(found.len(), 1, "{}", self.gateway.log());
        found.into_iter().next().unwrap()
    }
}

fn suspend(client: &Client) -> Result<(), api::Error> {
    let dom = domain(client, "test");
    failed(client.call(&Call::DomainSuspend(remote::DomainSuspendArgs { dom }), Vec::new())).map(drop)
}

fn state(client: &Client, name: &str) -> i32 {
    let dom = domain(client, name);
    ask(client, remote::DomainGetStateArgs { dom, flags: 0 }).state
}

#[test]
fn what_one_virsh_does_the_next_one_finds() {
    if !has("virsh", "what_one_virsh_does_the_next_one_finds") {
        return;
    }
    let rig = Rig::session("");
    assert!(rig.gateway.role("mock-host").is_empty(), "nobody has asked for it");
    rig.virsh_test_ok(&["suspend", "test"]);
    assert!(rig.virsh_test_ok(&["list"]).contains("1    test   paused"));
    rig.virsh_test_ok(&["resume", "test"]);
    assert!(rig.virsh_test_ok(&["domstate", "test"]).contains("running"));
    let document = rig.instance.root().join("other.xml");
    fs::write(&document, OTHER).unwrap();
    rig.virsh_test_ok(&["define", document.to_str().unwrap()]);
    assert!(rig.virsh_test_ok(&["list", "--all"]).contains("-    other   shut off"));
    rig.virsh_test_ok(&["start", "other"]);
    rig.virsh_test_ok(&["autostart", "other"]);
    assert!(rig.virsh_test_ok(&["dominfo", "other"]).contains("Autostart:      enable"));
    rig.virsh_test_ok(&["destroy", "other"]);
    rig.virsh_test_ok(&["undefine", "other"]);
    assert!(!rig.virsh_test_ok(&["list", "--all"]).contains("other"));
    rig.mock_host();
}

#[test]
fn events_reach_every_listener() {
    let rig = Rig::session("");
    let [listener, actor] = [(); 2].map(|()| rig.test_client());
    ask(&listener, remote::ConnectDomainEventCallbackRegisterAnyArgs { event_id: 0, dom: None });
    suspend(&actor).unwrap();
    let mut heard = Vec::new();
    let deadline = Instant::now() + LONG;
    while heard.is_empty() && Instant::now() < deadline {
        heard = listener.wait_events(Some(Duration::from_secs(1))).unwrap();
    }
    assert!(matches!(&heard[..], [Event::DomainEventCallbackLifecycle(told)] if told.msg.event == 3), "{heard:?}");
    assert_eq!(state(&listener, "test"), 3);
}

#[test]
fn a_console_echoes_its_own_user_only() {
    if !has("virsh", "a_console_echoes_its_own_user_only") {
        return;
    }
    let rig = Rig::session("");
    let client = rig.test_client();
    ask(&client, remote::DomainCreateXmlArgs { xml_desc: OTHER.into(), flags: 0 });
    let console = |name: &str| Terminal::on_pty(rig.virsh_command(TEST, &["console", name]));
    let [mut one, mut two] = ["test", "other"].map(console);
    for terminal in [&mut one, &mut two] {
        terminal.expect("Escape character is");
    }
    one.send(b"first\n");
    one.expect("first");
    two.send(b"second\n");
    two.expect("second");
    let said = [&one, &two].map(|terminal| terminal.output.text());
    assert!(!said[0].contains("second") && !said[1].contains("first"), "{said:?}");
    for mut terminal in [one, two] {
        terminal.send(b"\x1d");
        assert_eq!(terminal.exit(), 0);
    }
}

#[test]
fn a_read_only_client_does_not_change_the_mock_host() {
    let test = "a_read_only_client_does_not_change_the_mock_host";
    let Some(rig) = Rig::system(test, "") else { return };
    let owner = rig.test_client();
    let guest = as_user(SOMEBODY, &[], || {
        let client = logged_in(&rig.read_only_socket());
        open(&client, TEST).unwrap();
        client
    });
    assert_eq!(suspend(&guest).unwrap_err().code, ErrorCode::OPERATION_DENIED);
    assert_eq!((state(&owner, "test"), state(&guest, "test")), (1, 1));
    suspend(&owner).unwrap();
    assert_eq!(state(&guest, "test"), 3);
}

#[test]
fn many_connections_use_it_at_once() {
    let rig = Rig::session("");
    let at_once = || {
        let client = rig.test_client();
        for _ in 0..20 {
            hostname(&client);
            assert_eq!(state(&client, "test"), 1);
        }
        client
    };
    let clients: Vec<Client> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64).map(|_| scope.spawn(at_once)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    suspend(&clients[0]).unwrap();
    assert!(clients.iter().all(|client| state(client, "test") == 3));
    rig.mock_host();
}

#[test]
fn a_killed_mock_host_is_replaced_and_nothing_waits_for_it() {
    let rig = Rig::session("");
    let client = rig.test_client();
    suspend(&client).unwrap();
    let mut stuck = Raw::connect(&rig.socket());
    stuck.call(1, &Call::AuthList(remote::AuthListArgs {}));
    stuck.next().unwrap();
    stuck.call(2, &Call::ConnectOpen(remote::ConnectOpenArgs { name: Some(TEST.into()), flags: 0 }));
    stuck.next().unwrap();
    let first = rig.mock_host();
    let handle = first.handle().unwrap();
    handle.signal(bulkhead_tests::Signal::STOP);
    stuck.call(3, &Call::ConnectGetHostname(remote::ConnectGetHostnameArgs {}));
    let qemud = rig.opened();
    hostname(&qemud);
    handle.kill();
    let begin = Instant::now();
    let error = error_of(&stuck.next().unwrap());
    assert!(error.message.contains("lost during virConnectGetHostname"), "{}", error.message);
    // One more call on a connection that was open: a new host, in its first state.
    let deadline = Instant::now() + LONG;
    let dom = loop {
        let args = remote::DomainLookupByNameArgs { name: "test".into() };
        match failed(client.call(&Call::DomainLookupByName(args), Vec::new())) {
            Ok((api::Reply::DomainLookupByName(ret), _)) => break ret.dom,
            // Its worker has not seen yet that the last one is gone.
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    };
    assert_eq!(ask(&client, remote::DomainGetStateArgs { dom, flags: 0 }).state, 1);
    assert_eq!(state(&rig.test_client(), "test"), 1);
    assert_ne!(rig.mock_host().pid, first.pid);
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    hostname(&qemud);
}

#[test]
fn a_listener_learns_that_its_mock_host_was_killed() {
    let rig = Rig::session("");
    let client = rig.test_client();
    ask(&client, remote::ConnectRegisterCloseCallbackArgs {});
    ask(&client, remote::ConnectDomainEventCallbackRegisterAnyArgs { event_id: 0, dom: None });
    rig.mock_host().handle().unwrap().kill();
    let deadline = Instant::now() + LONG;
    loop {
        let events = client.wait_events(Some(Duration::from_secs(1))).unwrap();
        if events.iter().any(|event| matches!(event, Event::ConnectEventConnectionClosed(_))) {
            break;
        }
        assert!(Instant::now() < deadline, "not told: {}", rig.gateway.log());
    }
}

#[test]
fn a_mock_host_ends_with_its_gateway_s_acceptor() {
    let rig = Rig::session("");
    rig.test_client();
    let handle = rig.mock_host().handle().unwrap();
    rig.gateway.acceptor().handle().unwrap().kill();
    assert!(handle.wait_for_end(LONG));
    // The next acceptor's.
    let again = || Client::new(Box::new(Unix::new(UnixStream::connect(rig.socket()).unwrap()))).unwrap();
    let client = again();
    client.login(None, LONG).unwrap();
    open(&client, TEST).unwrap();
    assert_eq!(state(&client, "test"), 1);
}

#[test]
fn a_file_of_the_host_is_no_mock_host_for_a_client() {
    let rig = Rig::session("");
    let error = open(&rig.client(), "test:///etc/passwd").unwrap_err();
    assert_eq!(error.code, ErrorCode::OPERATION_UNSUPPORTED);
}
