//! The whole life of a domain, through the public surface alone, on the mock hypervisor.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{Read, Write},
    time::Duration,
};

use libclient::{
    Connection, ConsoleFlags, CreateFlags, DefineFlags, DestroyFlags, Domain, DomainEvent, Error, ErrorCode, EventKind,
    EventStream, ListFlags, State, UndefineFlags, Uuid, XmlFlags,
    api::remote::{DomainCreateArgs, DomainInjectNmiArgs},
};

const SOON: Option<Duration> = Some(Duration::from_secs(20));

fn open() -> Connection {
    Connection::open("test:///default").unwrap()
}

fn document(name: &str, more: &str) -> String {
    format!(
        "<domain type='test'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>3</vcpu>\
         <os><type arch='i686'>hvm</type></os>{more}</domain>"
    )
}

/// State and reason as a person reads them.
fn state(domain: &Domain) -> String {
    let (state, reason) = domain.state().unwrap();
    format!("{state} ({reason})")
}

/// The next event of a domain's life; what else is told is passed over.
fn next_of_life(stream: &mut EventStream, time: Option<Duration>) -> Option<DomainEvent> {
    loop {
        let event = stream.next(time).unwrap()?;
        if event.notice.is_none() {
            return Some(event);
        }
    }
}

/// The next events of domains' lives, as a person reads them.
fn news(stream: &mut EventStream, count: usize) -> Vec<String> {
    (0..count)
        .map(|_| next_of_life(stream, SOON).unwrap())
        .map(|event| format!("{} {} {}", event.domain.name(), event.kind, event.detail))
        .collect()
}

fn nothing_more(stream: &mut EventStream) {
    assert!(next_of_life(stream, Some(Duration::ZERO)).is_none());
}

fn refused(result: Result<impl std::fmt::Debug, Error>, code: ErrorCode, message: &str) {
    let error = result.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (code, message));
}

#[test]
fn the_host_is_libvirts() {
    let connection = open();
    assert_eq!(connection.uri().unwrap(), "test:///default");
    assert_eq!(connection.driver_type().unwrap(), "TEST");
    assert_eq!(connection.version().unwrap(), 2);
    assert!(connection.lib_version().unwrap() >= 1000);
    assert!(!connection.hostname().unwrap().is_empty());
    let node = connection.node_info().unwrap();
    assert_eq!((node.model.as_str(), node.memory_kib, node.cpus, node.mhz), ("i686", 3145728, 16, 1400));
    assert_eq!((node.nodes, node.sockets, node.cores, node.threads), (2, 2, 2, 2));
    let capabilities = connection.capabilities().unwrap();
    assert!(capabilities.contains("<arch>i686</arch>"), "{capabilities}");
    assert!(capabilities.contains("<domain type='test'/>") || capabilities.contains("<domain type='test'>"));
    assert_eq!(capabilities.matches("<cpu id=").count(), 16);
}

#[test]
fn the_guest_is_libvirts() {
    let connection = open();
    let test = connection.domain_by_name("test").unwrap();
    let uuid = Uuid::try_parse("6695eb01-f6a4-8304-79aa-97f2502e193f").unwrap();
    assert_eq!((test.id(), test.uuid()), (Some(1), uuid));
    assert_eq!(state(&test), "running (unknown)");
    let info = test.info().unwrap();
    assert_eq!((info.max_memory_kib, info.memory_kib, info.vcpus), (8388608, 2097152, 2));
    assert!(test.info().unwrap().cpu_time_ns > 0);
    assert_eq!(test.os_type().unwrap(), "linux");
    assert!(test.is_persistent().unwrap() && test.is_active().unwrap() && !test.autostart().unwrap());
    let xml = test.xml(XmlFlags::empty()).unwrap();
    assert!(xml.starts_with("<domain type='test' id='1'>\n  <name>test</name>"), "{xml}");
    assert!(test.xml(XmlFlags::INACTIVE).unwrap().starts_with("<domain type='test'>\n"));
    assert_eq!(test.guest_info().unwrap().supervisor_pid, None);
}

#[test]
fn lookups_find_what_a_person_means() {
    let connection = open();
    for what in ["test", "1", "6695eb01-f6a4-8304-79aa-97f2502e193f", "6695EB01F6A4830479AA97F2502E193F"] {
        assert_eq!(connection.domain(what).unwrap().name(), "test", "{what}");
    }
    // A number that no guest has may be a name.
    connection.define_xml(&document("77", ""), DefineFlags::empty()).unwrap();
    assert_eq!(connection.domain("77").unwrap().name(), "77");
    let missing = ErrorCode::NO_DOMAIN;
    refused(connection.domain("x"), missing, "Domain not found: no domain with matching name 'x'");
    refused(connection.domain_by_id(9), missing, "Domain not found: no domain with matching id 9");
    refused(connection.domain_by_id(u32::MAX), missing, "Domain not found: no domain with matching id 4294967295");
    refused(
        connection.domain_by_uuid(Uuid::nil()),
        missing,
        "Domain not found: no domain with matching uuid '00000000-0000-0000-0000-000000000000'",
    );
}

#[test]
fn a_domain_lives_from_definition_to_undefinition() {
    let connection = open();
    let mut events = connection.subscribe(None).unwrap();
    let web = connection.define_xml(&document("web", ""), DefineFlags::empty()).unwrap();
    assert_eq!((web.id(), state(&web).as_str()), (None, "shut off (unknown)"));
    web.set_autostart(true).unwrap();
    assert!(web.autostart().unwrap());
    web.start(CreateFlags::PAUSED).unwrap();
    assert_eq!((web.id(), state(&web).as_str()), (Some(2), "paused (user)"));
    web.suspend().unwrap();
    web.resume().unwrap();
    assert_eq!(state(&web), "running (unpaused)");
    web.suspend().unwrap();
    web.resume().unwrap();
    web.reset(0).unwrap();
    web.reboot(0).unwrap();
    assert_eq!(state(&web), "running (booted)");
    web.shutdown().unwrap();
    assert_eq!(state(&web), "shut off (shutdown)");
    web.start(CreateFlags::empty()).unwrap();
    web.destroy(DestroyFlags::GRACEFUL).unwrap();
    assert_eq!((web.id(), state(&web).as_str()), (None, "shut off (destroyed)"));
    connection.define_xml(&web.xml(XmlFlags::empty()).unwrap(), DefineFlags::empty()).unwrap();
    web.undefine(UndefineFlags::empty()).unwrap();
    refused(
        web.state(),
        ErrorCode::NO_DOMAIN,
        &format!("Domain not found: no domain with matching uuid '{}' (web)", web.uuid()),
    );
    assert_eq!(
        news(&mut events, 12),
        [
            "web Defined Added",
            "web Started Booted",
            "web Suspended Paused",
            "web Resumed Unpaused",
            "web Suspended Paused",
            "web Resumed Unpaused",
            "web Shutdown Guest request",
            "web Stopped Shutdown",
            "web Started Booted",
            "web Stopped Destroyed",
            "web Defined Updated",
            "web Undefined Removed",
        ]
    );
    nothing_more(&mut events);
}

#[test]
fn a_transient_domain_is_gone_when_it_ends() {
    let connection = open();
    let mut events = connection.subscribe(None).unwrap();
    let job = connection.create_xml(&document("job", ""), CreateFlags::empty()).unwrap();
    assert_eq!(job.id(), Some(2));
    assert!(!job.is_persistent().unwrap());
    let invalid = ErrorCode::OPERATION_INVALID;
    let not_valid = "Requested operation is not valid:";
    refused(job.set_autostart(true), invalid, &format!("{not_valid} cannot set autostart for transient domain"));
    refused(job.undefine(UndefineFlags::empty()), invalid, &format!("{not_valid} cannot undefine transient domain"));
    let again = connection.create_xml(&job.xml(XmlFlags::empty()).unwrap(), CreateFlags::empty());
    refused(again, invalid, &format!("{not_valid} domain is already active as 'job'"));
    job.destroy(DestroyFlags::empty()).unwrap();
    assert_eq!(job.state().unwrap_err().code, ErrorCode::NO_DOMAIN);
    assert_eq!(news(&mut events, 2), ["job Started Booted", "job Stopped Destroyed"]);
}

#[test]
fn a_running_domain_outlives_its_definition() {
    let connection = open();
    let test = connection.domain("test").unwrap();
    test.set_autostart(true).unwrap();
    test.undefine(UndefineFlags::empty()).unwrap();
    assert!(!test.is_persistent().unwrap() && test.is_active().unwrap() && !test.autostart().unwrap());
    // A new definition makes it persistent again, and holds from the next start on.
    let changed = test.xml(XmlFlags::INACTIVE).unwrap().replace(">2</vcpu>", ">7</vcpu>");
    connection.define_xml(&changed, DefineFlags::empty()).unwrap();
    assert_eq!(test.info().unwrap().vcpus, 2);
    test.destroy(DestroyFlags::empty()).unwrap();
    assert_eq!(test.info().unwrap().vcpus, 7);
}

#[test]
fn a_wrong_state_is_refused() {
    let connection = open();
    let invalid = |result: Result<(), Error>, what: &str| {
        refused(result, ErrorCode::OPERATION_INVALID, &format!("Requested operation is not valid: {what}"));
    };
    let test = connection.domain("test").unwrap();
    invalid(test.resume(), "domain is already running");
    invalid(test.start(CreateFlags::empty()), "domain is already running");
    test.suspend().unwrap();
    invalid(test.shutdown(), "domain is not running");
    invalid(test.reboot(0), "domain is not running");
    test.destroy(DestroyFlags::empty()).unwrap();
    for attempt in [
        test.suspend(),
        test.resume(),
        test.shutdown(),
        test.reboot(0),
        test.reset(0),
        test.destroy(DestroyFlags::empty()),
        test.open_console(None, ConsoleFlags::empty()).map(drop),
    ] {
        invalid(attempt, "domain is not running");
    }
}

#[test]
fn a_bad_document_is_refused() {
    let connection = open();
    let define = |xml: &str| connection.define_xml(xml, DefineFlags::empty()).unwrap_err();
    assert_eq!(define("<domain").code, ErrorCode::XML_DETAIL);
    assert_eq!(define("<network/>").code, ErrorCode::XML_ERROR);
    let other = define(&document("x", "").replace("'test'", "'bogus'"));
    assert_eq!(other.code, ErrorCode::CONFIG_UNSUPPORTED);
    assert_eq!(other.message, "unsupported configuration: invalid domain type bogus");
    let taken = define(&document("test", ""));
    assert_eq!(taken.code, ErrorCode::OPERATION_FAILED);
    let uuid = "6695eb01-f6a4-8304-79aa-97f2502e193f";
    assert_eq!(taken.message, format!("operation failed: domain 'test' already exists with uuid {uuid}"));
    let renamed = define(&document("other", &format!("<uuid>{uuid}</uuid>")));
    assert_eq!(renamed.message, format!("operation failed: domain 'test' is already defined with uuid {uuid}"));
    let flags = connection.define_xml(&document("x", ""), DefineFlags::from_bits_retain(0x80)).unwrap_err();
    assert_eq!(flags.message, "unsupported flags (0x80) in function virDomainDefineXMLFlags");
}

/// As `virsh -c test:///default define` and `create` take them.
#[test]
fn guests_are_of_any_type() {
    let connection = open();
    for kind in ["kvm", "qemu", "xen", "lxc", "vz"] {
        let xml = document(kind, "").replace("'test'", &format!("'{kind}'")).replace(" arch='i686'", "");
        let defined = connection.define_xml(&xml, DefineFlags::empty()).unwrap();
        let written = defined.xml(XmlFlags::empty()).unwrap();
        assert!(written.starts_with(&format!("<domain type='{kind}'>\n")), "{written}");
        assert!(written.contains("<type arch='i686'>hvm</type>\n    <boot dev='hd'/>\n"), "{written}");
        assert_eq!(defined.os_type().unwrap(), "linux");
        defined.start(CreateFlags::empty()).unwrap();
        assert_eq!(state(&defined), "running (booted)");
    }
    let ordered = "<devices><disk><source file='/a'/><target dev='vda'/><boot order='1'/></disk></devices>";
    let ordered = connection.define_xml(&document("ordered", ordered), DefineFlags::empty()).unwrap();
    assert!(!ordered.xml(XmlFlags::empty()).unwrap().contains("<boot dev="));
}

#[test]
fn what_follows_an_end_is_as_defined() {
    let connection = open();
    let guest = |name: &str, more: &str| connection.create_xml(&document(name, more), CreateFlags::empty()).unwrap();
    let panic = |domain: &Domain| {
        let dom =
            libclient::api::remote::Domain { name: domain.name().into(), uuid: domain.uuid().into_bytes(), id: -1 };
        connection.invoke(DomainInjectNmiArgs { dom, flags: 0 }).unwrap();
    };
    let mut events = connection.subscribe(None).unwrap();

    let again = guest("again", "<on_poweroff>restart</on_poweroff><on_crash>restart</on_crash>");
    again.shutdown().unwrap();
    assert_eq!(state(&again), "running (booted)");
    panic(&again);
    assert_eq!(state(&again), "running (booted)");
    assert_eq!(news(&mut events, 2), ["again Started Booted", "again Crashed Panicked"]);

    let once = guest("once", "<on_reboot>destroy</on_reboot>");
    once.reboot(0).unwrap();
    assert_eq!(once.state().unwrap_err().code, ErrorCode::NO_DOMAIN);
    assert_eq!(news(&mut events, 3), ["once Started Booted", "once Shutdown Guest request", "once Stopped Shutdown"]);

    let kept = guest("kept", "<on_crash>preserve</on_crash>");
    panic(&kept);
    assert_eq!(state(&kept), "crashed (panicked)");
    kept.reset(0).unwrap();
    assert_eq!(state(&kept), "running (booted)");
    assert_eq!(news(&mut events, 2), ["kept Started Booted", "kept Crashed Panicked"]);

    let test = connection.domain("test").unwrap();
    panic(&test);
    assert_eq!(state(&test), "shut off (crashed)");
    assert_eq!(news(&mut events, 2), ["test Crashed Panicked", "test Stopped Crashed"]);
    nothing_more(&mut events);
}

#[test]
fn a_list_holds_what_its_flags_let_through() {
    let connection = open();
    connection.define_xml(&document("off", ""), DefineFlags::empty()).unwrap().set_autostart(true).unwrap();
    connection.create_xml(&document("brief", ""), CreateFlags::PAUSED).unwrap();
    let names = |flags: ListFlags| {
        connection.domains(flags).unwrap().iter().map(|r| r.domain.name().to_owned()).collect::<Vec<_>>().join(" ")
    };
    for (flags, expected) in [
        (ListFlags::empty(), "test brief off"),
        (ListFlags::ACTIVE, "test brief"),
        (ListFlags::INACTIVE, "off"),
        (ListFlags::ACTIVE | ListFlags::INACTIVE, "test brief off"),
        (ListFlags::PERSISTENT, "test off"),
        (ListFlags::TRANSIENT, "brief"),
        (ListFlags::RUNNING, "test"),
        (ListFlags::PAUSED | ListFlags::SHUTOFF, "brief off"),
        (ListFlags::OTHER, ""),
        (ListFlags::AUTOSTART, "off"),
        (ListFlags::NO_AUTOSTART | ListFlags::PERSISTENT, "test"),
        (ListFlags::MANAGEDSAVE, ""),
        (ListFlags::NO_MANAGEDSAVE, "test brief off"),
    ] {
        assert_eq!(names(flags), expected, "{flags:?}");
    }
    let records = connection.domains(ListFlags::empty()).unwrap();
    let brief = &records[1];
    assert_eq!((brief.state, brief.reason.name(), brief.vcpus, brief.memory_kib), (State::Paused, "user", 3, 65536));
    assert!(!brief.persistent && records[2].autostart);
}

#[test]
fn each_connection_has_a_state_of_its_own() {
    let (one, other) = (open(), open());
    one.domain("test").unwrap().destroy(DestroyFlags::empty()).unwrap();
    assert_eq!(state(&other.domain("test").unwrap()), "running (unknown)");
    let clone = one.clone();
    assert_eq!(state(&clone.domain("test").unwrap()), "shut off (destroyed)");
}

#[test]
fn events_come_again_from_where_they_are_asked_for() {
    let connection = open();
    let mut early = connection.subscribe(None).unwrap();
    let test = connection.domain("test").unwrap();
    test.suspend().unwrap();
    test.resume().unwrap();
    test.destroy(DestroyFlags::empty()).unwrap();
    let sequences: Vec<u64> = (0..3).map(|_| early.next(SOON).unwrap().unwrap().sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
    let mut late = connection.subscribe(Some(1)).unwrap();
    let event = late.next(SOON).unwrap().unwrap();
    assert_eq!((event.sequence, event.kind, event.domain.id()), (2, EventKind::Resumed, Some(1)));
    assert!(event.time.elapsed().unwrap() < Duration::from_secs(60));
    assert_eq!(late.next(SOON).unwrap().unwrap().domain.id(), None);
    nothing_more(&mut late);
    assert!(!late.lost());
    // From the future on is from now on.
    let mut never = connection.subscribe(Some(u64::MAX)).unwrap();
    test.start(CreateFlags::empty()).unwrap();
    assert_eq!(never.next(SOON).unwrap().unwrap().sequence, 4);
}

#[test]
fn a_listener_that_is_too_far_behind_knows_it() {
    let connection = open();
    let mut slow = connection.subscribe(None).unwrap();
    let test = connection.domain("test").unwrap();
    for _ in 0..2100 {
        test.suspend().unwrap();
        test.resume().unwrap();
    }
    assert!(slow.next(SOON).unwrap().unwrap().sequence > 1);
    assert!(slow.lost());
    assert!(connection.subscribe(Some(0)).unwrap().lost());
    assert!(!connection.subscribe(Some(4000)).unwrap().lost());
}

#[test]
fn a_waiting_listener_is_woken() {
    let connection = open();
    let mut events = connection.subscribe(None).unwrap();
    let waiting = std::thread::spawn(move || news(&mut events, 1));
    connection.domain("test").unwrap().suspend().unwrap();
    assert_eq!(waiting.join().unwrap(), ["test Suspended Paused"]);
}

#[test]
fn a_console_answers_what_is_typed() {
    let connection = open();
    let test = connection.domain("test").unwrap();
    let mut console = test.open_console(None, ConsoleFlags::empty()).unwrap();
    console.write_all(b"login: ").unwrap();
    let mut heard = [0; 7];
    console.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"login: ");

    let busy = test.open_console(Some("serial0"), ConsoleFlags::SAFE).unwrap_err();
    assert_eq!(busy.code, ErrorCode::OPERATION_FAILED);
    assert_eq!(busy.message, "operation failed: Active console session exists for this domain");
    let mut taken = test.open_console(Some("console0"), ConsoleFlags::FORCE).unwrap();
    assert_eq!(console.read(&mut heard).unwrap(), 0, "taken over");
    assert_eq!(test.open_console(Some("tty9"), ConsoleFlags::FORCE).unwrap_err().code, ErrorCode::INVALID_ARG);

    test.destroy(DestroyFlags::empty()).unwrap();
    assert_eq!(taken.read(&mut heard).unwrap(), 0, "the guest ended");
    test.start(CreateFlags::empty()).unwrap();
    let watched = test.open_console(None, ConsoleFlags::READ_ONLY).unwrap();
    assert!((&watched).write_all(b"x").is_err());
    drop(watched);
    let mut last = test.open_console(None, ConsoleFlags::empty()).unwrap();
    drop((test, connection));
    assert_eq!(last.read(&mut heard).unwrap(), 0, "the host is gone");
}

#[test]
fn a_read_only_connection_looks_and_touches_nothing() {
    let connection = Connection::open_read_only("test:///default").unwrap();
    assert!(connection.is_read_only());
    let test = connection.domain("test").unwrap();
    assert!(test.is_active().unwrap());
    assert!(connection.subscribe(None).is_ok());
    let denied = ErrorCode::OPERATION_DENIED;
    let prevents = "operation forbidden: read only access prevents";
    refused(test.destroy(DestroyFlags::empty()), denied, &format!("{prevents} virDomainDestroyFlags"));
    refused(test.xml(XmlFlags::SECURE), denied, &format!("{prevents} virDomainGetXMLDesc"));
    assert!(test.xml(XmlFlags::INACTIVE).is_ok());
    assert_eq!(test.open_console(None, ConsoleFlags::READ_ONLY).unwrap_err().code, denied);
}

#[test]
fn what_the_mock_does_not_have_says_so() {
    // There are no networks, which is an answer; nothing makes one.
    assert_eq!(open().invoke(libclient::api::remote::ConnectNumOfNetworksArgs {}).unwrap().num, 0);
    let define = libclient::api::remote::NetworkDefineXmlArgs { xml: "<network><name>a</name></network>".into() };
    let error = open().invoke(define).unwrap_err();
    assert_eq!(error.code, ErrorCode::NO_SUPPORT);
    assert!(error.message.contains("virNetworkDefineXML"), "{error:?}");
    // libvirt's plain calls are here beside those that the methods use.
    let test = open();
    let dom = libclient::api::remote::Domain { name: "test".into(), ..Default::default() };
    assert_eq!(test.invoke(DomainCreateArgs { dom }).unwrap_err().code, ErrorCode::NO_DOMAIN);
}

#[test]
fn a_host_may_come_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (node, guest) = (dir.path().join("my node.xml"), dir.path().join("guest.xml"));
    std::fs::write(&guest, document("beside", "")).unwrap();
    let inside = document("inside", "");
    let text = format!(
        "<?xml version='1.0'?><node><cpu><mhz>6000</mhz><model>x86_64</model><active>50</active></cpu>\
         <memory>123456</memory><domain file='guest.xml'/>{inside}<network/></node>"
    );
    std::fs::write(&node, text).unwrap();
    let uri = format!("test://{}", node.display().to_string().replace(' ', "%20"));
    let connection = Connection::open(&uri).unwrap();
    assert_eq!(connection.uri().unwrap(), uri);
    let info = connection.node_info().unwrap();
    assert_eq!(
        (info.model.as_str(), info.mhz, info.cpus, info.memory_kib, info.nodes),
        ("x86_64", 6000, 50, 123456, 2)
    );
    let names: Vec<_> =
        connection.domains(ListFlags::RUNNING).unwrap().iter().map(|r| r.domain.name().to_owned()).collect();
    assert_eq!(names, ["beside", "inside"]);

    for (text, cause) in [
        ("<host/>", "the root element is <host>; expected <node>"),
        ("<node><memory>much</memory></node>", "<memory> is \"much\"; expected a number"),
        ("<node><cpu><active>99999999999</active></cpu></node>", "<active> is out of range"),
        ("<!DOCTYPE node [<!ENTITY a 'b'>]><node/>", "DTD"),
    ] {
        std::fs::write(&node, text).unwrap();
        let error = Connection::open(&uri).unwrap_err();
        assert_eq!(error.code, ErrorCode::XML_ERROR, "{text}");
        assert!(error.causes[0].contains(cause), "{error:?}");
    }
    assert_eq!(Connection::open("test:///nowhere/x.xml").unwrap_err().code, ErrorCode::SYSTEM_ERROR);
}

#[test]
fn two_threads_do_not_disturb_each_other() {
    let connection = open();
    std::thread::scope(|scope| {
        for name in ["one", "two"] {
            let connection = connection.clone();
            scope.spawn(move || {
                for _ in 0..50 {
                    let domain = connection.create_xml(&document(name, ""), CreateFlags::empty()).unwrap();
                    domain.suspend().unwrap();
                    assert_eq!(state(&domain), "paused (user)");
                    domain.destroy(DestroyFlags::empty()).unwrap();
                }
            });
        }
    });
    assert_eq!(connection.domains(ListFlags::empty()).unwrap().len(), 1);
}
