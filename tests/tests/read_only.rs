//! A connection that may only read cannot change anything: every writing operation of the table is tried on it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use api::{Access, Call, ErrorCode, Op, OpKind, Reply, bulkhead, remote, xdr};
use bulkhead_tests::{Guest, Instance, Role};
use hostile_support::{SOMEBODY, as_user, connect, lookup, nulls, refusal};
use ipc::client::{Client, ConnectError};

mod hostile_support;

/// Every operation of the table that writes, with arguments of zeros; those that write under a condition, with it met.
fn writing_calls() -> Vec<Call> {
    let mut calls = Vec::new();
    for op in Op::ALL.into_iter().filter(|op| op.info().kind == OpKind::Call) {
        match op.info().access {
            Access::Read => {}
            Access::Write => {
                // Zeros are arguments of every call, and none is longer.
                let call = Call::decode(op, &mut xdr::Decoder::new(&[0; 4096])).expect("zeros");
                calls.push(call.expect("a call"));
            }
            Access::WriteIfBits { mask, .. } => {
                let bits = (0..32).map(|bit| 1u32 << bit).filter(|bit| mask & bit != 0);
                calls.extend(bits.map(|bit| conditional(op, bit)));
            }
            Access::WriteIfValue { value, .. } => calls.push(conditional(op, value)),
        }
    }
    assert!(calls.len() > 200, "{} calls write", calls.len());
    calls
}

/// The calls that write under a condition, by name: a new one has to be added here.
fn conditional(op: Op, flags: u32) -> Call {
    match op {
        Op::DomainGetXmlDesc => Call::DomainGetXmlDesc(remote::DomainGetXmlDescArgs { flags, ..Default::default() }),
        Op::DomainSnapshotGetXmlDesc => {
            Call::DomainSnapshotGetXmlDesc(remote::DomainSnapshotGetXmlDescArgs { flags, ..Default::default() })
        }
        Op::DomainGetVcpusFlags => {
            Call::DomainGetVcpusFlags(remote::DomainGetVcpusFlagsArgs { flags, ..Default::default() })
        }
        Op::DomainInterfaceAddresses => {
            Call::DomainInterfaceAddresses(remote::DomainInterfaceAddressesArgs { source: flags, ..Default::default() })
        }
        Op::DomainManagedSaveGetXmlDesc => {
            Call::DomainManagedSaveGetXmlDesc(remote::DomainManagedSaveGetXmlDescArgs { flags, ..Default::default() })
        }
        Op::DomainCheckpointGetXmlDesc => {
            Call::DomainCheckpointGetXmlDesc(remote::DomainCheckpointGetXmlDescArgs { flags, ..Default::default() })
        }
        other => panic!("{other} writes under a condition that this test does not know"),
    }
}

/// The calls that would hurt most, aimed at a guest that is there.
fn aimed_calls(dom: &remote::Domain, xml: &str) -> Vec<Call> {
    let dom = || dom.clone();
    vec![
        Call::DomainDestroy(remote::DomainDestroyArgs { dom: dom() }),
        Call::DomainDestroyFlags(remote::DomainDestroyFlagsArgs { dom: dom(), flags: 0 }),
        Call::DomainSuspend(remote::DomainSuspendArgs { dom: dom() }),
        Call::DomainResume(remote::DomainResumeArgs { dom: dom() }),
        Call::DomainShutdown(remote::DomainShutdownArgs { dom: dom() }),
        Call::DomainReboot(remote::DomainRebootArgs { dom: dom(), flags: 0 }),
        Call::DomainReset(remote::DomainResetArgs { dom: dom(), flags: 0 }),
        Call::DomainUndefine(remote::DomainUndefineArgs { dom: dom() }),
        Call::DomainUndefineFlags(remote::DomainUndefineFlagsArgs { dom: dom(), flags: 0 }),
        Call::DomainSetAutostart(remote::DomainSetAutostartArgs { dom: dom(), autostart: 1 }),
        Call::DomainCreate(remote::DomainCreateArgs { dom: dom() }),
        Call::DomainDefineXml(remote::DomainDefineXmlArgs { xml: xml.into() }),
        Call::DomainDefineXmlFlags(remote::DomainDefineXmlFlagsArgs { xml: xml.into(), flags: 0 }),
        Call::DomainCreateXml(remote::DomainCreateXmlArgs { xml_desc: xml.into(), flags: 0 }),
        Call::DomainGetXmlDesc(remote::DomainGetXmlDescArgs { dom: dom(), flags: 1 }),
        Call::BulkheadDomainCreateWithSources(bulkhead::DomainCreateWithSourcesArgs {
            dom: dom(),
            ..Default::default()
        }),
        Call::BulkheadDomainCreateXmlWithSources(bulkhead::DomainCreateXmlWithSourcesArgs {
            xml: xml.into(),
            ..Default::default()
        }),
        // Whoever may type on a console may do what its shell may.
        Call::BulkheadDomainOpenConsole(bulkhead::DomainOpenConsoleArgs { dom: dom(), ..Default::default() }),
        // Even to look at it takes its place.
        Call::BulkheadDomainOpenConsole(bulkhead::DomainOpenConsoleArgs {
            dom: dom(),
            flags: bulkhead::CONSOLE_READ_ONLY,
            ..Default::default()
        }),
    ]
}

/// All of it is refused, by the one rule and with its words.
fn is_read_only(client: &Client, calls: &[Call], who: &str) {
    for call in calls {
        let info = call.op().info();
        let fds = nulls(usize::from(info.fds_in.min));
        let error = refusal(client.call(call, fds));
        assert_eq!(error.code, ErrorCode::OPERATION_DENIED, "{} by {who}: {error}", call.op());
        assert_eq!(error.to_string(), format!("operation forbidden: read only access prevents {}", info.api));
    }
    // It reads all the same.
    let list = Call::BulkheadListDomains(bulkhead::ListDomainsArgs::default());
    match client.call(&list, Vec::new()) {
        Ok((Reply::BulkheadListDomains(ret), _)) => assert_eq!(ret.domains.len(), 2, "{who}"),
        other => panic!("{who} cannot list: {other:?}"),
    }
}

/// Everything that a change would change.
fn snapshot(instance: &Instance) -> Vec<String> {
    let mut state = vec![instance.ok(&["list", "--all", "--output", "json"])];
    for name in ["on", "off"] {
        state.push(instance.ok(&["dumpxml", name]));
        state.push(instance.ok(&["dumpxml", "--inactive", name]));
        state.push(instance.state(name));
    }
    state.push(format!("{:?}", instance.role(Role::Supervisor)));
    state.push(format!("{:?}", instance.role(Role::Qemu)));
    let client = connect(&instance.socket()).expect("a connection");
    let subscribe = Call::BulkheadEventsSubscribe(bulkhead::EventsSubscribeArgs { since: None });
    match client.call(&subscribe, Vec::new()) {
        Ok((Reply::BulkheadEventsSubscribe(ret), _)) => state.push(format!("next event {}", ret.next)),
        other => panic!("{other:?}"),
    }
    state
}

fn populate(instance: &Instance) {
    for name in ["on", "off"] {
        instance.define(&Guest::tiny(name));
    }
    instance.ok(&["start", "on"]);
}

fn all_calls(instance: &Instance) -> Vec<Call> {
    let client = connect(&instance.socket()).expect("a connection");
    let mut calls = writing_calls();
    calls.extend(aimed_calls(&lookup(&client, "on"), &Guest::tiny("new").xml()));
    calls.extend(aimed_calls(&lookup(&client, "off"), &Guest::tiny("off").xml()));
    calls
}

#[test]
fn nobody_changes_anything_by_a_system_s_read_only_socket() {
    let test = "nobody_changes_anything_by_a_system_s_read_only_socket";
    let Some(instance) = Instance::system(test) else { return };
    populate(&instance);
    let calls = all_calls(&instance);
    let before = snapshot(&instance);
    let socket = instance.read_only_socket();
    is_read_only(&connect(&socket).expect("root connects"), &calls, "root");
    let client = as_user(SOMEBODY, false, || connect(&socket)).expect("anybody connects");
    is_read_only(&client, &calls, "an ordinary user");
    assert_eq!(snapshot(&instance), before);
}

#[test]
fn an_ordinary_user_does_not_reach_a_system_s_other_socket() {
    let test = "an_ordinary_user_does_not_reach_a_system_s_other_socket";
    let Some(instance) = Instance::system(test) else { return };
    populate(&instance);
    let calls = all_calls(&instance);
    let before = snapshot(&instance);
    let socket = instance.socket();
    let refused = as_user(SOMEBODY, false, || connect(&socket).err());
    assert!(is_permission_denied(refused), "the mode of {} lets everybody in", socket.display());
    // Who came by the mode all the same is still who the kernel says.
    let client = as_user(SOMEBODY, true, || connect(&socket)).expect("the mode is passed by");
    is_read_only(&client, &calls, "a user on the socket for changes");
    assert_eq!(snapshot(&instance), before);
}

#[test]
fn the_owner_of_a_session_has_a_read_only_socket_too_and_nobody_else_has_one() {
    let instance = Instance::ordinary();
    populate(&instance);
    let calls = all_calls(&instance);
    let before = snapshot(&instance);
    let socket = instance.read_only_socket();
    is_read_only(&connect(&socket).expect("the owner connects"), &calls, "the owner");
    if !rustix::process::getuid().is_root() {
        bulkhead_tests::skip("another_user_at_a_session", "to be another user needs root");
        return;
    }
    let as_owner = as_user(instance.uid(), false, || connect(&socket)).expect("the owner connects");
    is_read_only(&as_owner, &calls, "the owner by uid");
    for path in [socket, instance.socket()] {
        let refused = as_user(SOMEBODY, false, || connect(&path).err());
        assert!(is_permission_denied(refused), "{} lets everybody in", path.display());
        let passed: Option<Client> = as_user(SOMEBODY, true, || connect(&path).ok());
        if let Some(client) = passed {
            is_read_only(&client, &calls, "a stranger who passed by the mode");
        }
    }
    assert_eq!(snapshot(&instance), before);
}

fn is_permission_denied(refused: Option<ConnectError>) -> bool {
    match refused {
        Some(ConnectError::Connect { source, .. }) => source.kind() == std::io::ErrorKind::PermissionDenied,
        _ => false,
    }
}

#[test]
fn the_command_line_says_what_is_forbidden_and_exits_with_5() {
    let Some(instance) = Instance::system("the_command_line_says_what_is_forbidden_and_exits_with_5") else { return };
    populate(&instance);
    let document = instance.document(&Guest::tiny("new"));
    let document = plain(&document);
    let before = snapshot(&instance);
    for (words, api) in [
        (vec!["destroy", "on"], "virDomainDestroy"),
        (vec!["suspend", "on"], "virDomainSuspend"),
        (vec!["start", "off"], "bulkheadDomainCreateWithSources"),
        (vec!["undefine", "off"], "virDomainUndefine"),
        (vec!["autostart", "off"], "virDomainSetAutostart"),
        (vec!["define", document], "virDomainDefineXML"),
        (vec!["create", document], "bulkheadDomainCreateXMLWithSources"),
        (vec!["console", "on"], "bulkheadDomainOpenConsole"),
    ] {
        for uid in [0, SOMEBODY] {
            let output = instance.bulkhead_as(uid, &[&["-r"], words.as_slice()].concat());
            let said = format!("read only access prevents {api}");
            assert_eq!(output.code, 5, "{words:?} as {uid}: {}{}", output.stdout, output.stderr);
            assert!(output.stderr.contains(&said), "{words:?} as {uid}: {}", output.stderr);
        }
        // Without -r the ordinary user is told that this is not the way.
        let output = instance.bulkhead_as(SOMEBODY, &words);
        assert_ne!(output.code, 0, "{words:?}");
        assert!(output.stderr.contains("read-only"), "{words:?} has no hint: {}", output.stderr);
    }
    let output = instance.bulkhead_as(SOMEBODY, &["-r", "list", "--all", "--name"]);
    assert_eq!((output.code, output.stdout.trim()), (0, "on\noff"), "{}", output.stderr);
    assert_eq!(snapshot(&instance), before);
}

fn plain(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}
