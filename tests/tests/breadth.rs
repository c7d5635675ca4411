//! The calls that libvirt's clients make beside the life cycle, asked of a daemon with real guests: statistics, sizes,
//! notes, keys, the host's figures, and what there is nothing of.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use api::{
    Error, ErrorCode, Op, OpKind, Operation,
    consts::{AllDomainStats, DomainStats, MemoryStatTag, MetadataType},
    qemu, remote,
    remote::TypedParamValue,
};
use bulkhead_tests::{Guest, Instance, Role, Signal};
use ipc::client::{CallError, Client};

const BALLOON: &str = "<memballoon model='virtio'/>";

fn connect(instance: &Instance) -> Client {
    // The daemon of a session comes up with its first client.
    instance.ok(&["list"]);
    Client::connect(&instance.socket(), "test").unwrap()
}

fn ask<A: Operation>(client: &Client, args: A) -> Result<A::Ret, Error> {
    match client.call(&args.into_call(), Vec::new()) {
        Ok((reply, _)) => Ok(A::ret_of(reply).expect("the reply of this call")),
        Err(CallError::Failed(error)) => Err(error),
        Err(other) => panic!("{other:?}"),
    }
}

fn ok<A: Operation>(client: &Client, args: A) -> A::Ret {
    ask(client, args).unwrap_or_else(|error| panic!("{}: {}", A::OP, error.full_text()))
}

#[track_caller]
fn refused<A: Operation>(client: &Client, args: A, code: ErrorCode, text: &str) {
    let Err(error) = ask(client, args) else { panic!("{} worked", A::OP) };
    assert_eq!(error.code, code, "{}: {}", A::OP, error.full_text());
    assert!(error.full_text().contains(text), "{}: {}", A::OP, error.full_text());
}

fn dom(client: &Client, name: &str) -> remote::Domain {
    ok(client, remote::DomainLookupByNameArgs { name: name.into() }).dom
}

type Stats = BTreeMap<String, TypedParamValue>;

fn stats(client: &Client, doms: &[remote::Domain], stats: u32, flags: AllDomainStats) -> BTreeMap<String, Stats> {
    let args = remote::ConnectGetAllDomainStatsArgs { doms: doms.to_vec(), stats, flags: flags.bits() };
    let records = ok(client, args).ret_stats;
    let params = |params: Vec<remote::TypedParam>| params.into_iter().map(|param| (param.field, param.value)).collect();
    records.into_iter().map(|record| (record.dom.name, params(record.params))).collect()
}

fn number(stats: &Stats, field: &str) -> u64 {
    match stats.get(field) {
        Some(TypedParamValue::Ullong(number)) => *number,
        Some(TypedParamValue::Uint(number)) => u64::from(*number),
        Some(TypedParamValue::Int(number)) => u64::try_from(*number).expect("no negative number"),
        other => panic!("{field} is {other:?} in {stats:#?}"),
    }
}

#[test]
fn statistics_of_all_domains_have_libvirt_s_names() {
    let instance = Instance::session();
    let image = instance.file("disk.img", &[0; 1 << 20]);
    let mut full = Guest::tiny("full").disk(&image, "raw");
    full.devices = BALLOON.into();
    instance.create(&full);
    instance.create(&Guest::tiny("bare"));
    instance.define(&Guest::tiny("off").disk(&image, "raw"));
    let client = connect(&instance);
    let all = stats(&client, &[], 0, AllDomainStats::empty());
    assert_eq!(all.keys().collect::<Vec<_>>(), ["bare", "full", "off"]);

    let full = &all["full"];
    assert_eq!((number(full, "state.state"), number(full, "state.reason")), (1, 1));
    assert!(number(full, "cpu.time") > 0);
    assert_eq!(number(full, "cpu.time"), number(full, "cpu.user") + number(full, "cpu.system"));
    for field in ["balloon.current", "balloon.maximum"] {
        assert_eq!(number(full, field), 16 << 10, "{field}");
    }
    assert!(number(full, "balloon.rss") > 1024);
    assert_eq!((number(full, "vcpu.current"), number(full, "vcpu.maximum"), number(full, "vcpu.0.state")), (1, 1, 1));
    assert!(number(full, "vcpu.0.time") > 0, "{full:#?}");
    assert_eq!((number(full, "net.count"), number(full, "block.count")), (0, 1));
    assert_eq!(full["block.0.name"], TypedParamValue::String("vda".into()));
    assert_eq!(full["block.0.path"], TypedParamValue::String(image.display().to_string()));
    assert_eq!(number(full, "block.0.capacity"), 1 << 20);
    for field in [
        "rd.reqs",
        "rd.bytes",
        "rd.times",
        "wr.reqs",
        "wr.bytes",
        "wr.times",
        "fl.reqs",
        "fl.times",
        "allocation",
        "physical",
    ] {
        number(full, &format!("block.0.{field}"));
    }

    let bare = &all["bare"];
    assert_eq!(number(bare, "block.count"), 0);
    let off = &all["off"];
    assert_eq!((number(off, "state.state"), number(off, "vcpu.current"), number(off, "block.count")), (5, 1, 1));
    for absent in ["cpu.time", "vcpu.0.state", "net.count", "block.0.rd.reqs"] {
        assert!(!off.contains_key(absent), "{absent} of a domain that is off");
    }
}

#[test]
fn statistics_are_chosen_by_domain_group_and_state() {
    let instance = Instance::session();
    instance.create(&Guest::tiny("on"));
    instance.define(&Guest::tiny("off"));
    let client = connect(&instance);
    let names = |flags| stats(&client, &[], 1, flags).into_keys().collect::<Vec<_>>();
    assert_eq!(names(AllDomainStats::ACTIVE), ["on"]);
    assert_eq!(names(AllDomainStats::INACTIVE | AllDomainStats::NOWAIT), ["off"]);
    assert_eq!(names(AllDomainStats::PAUSED), Vec::<String>::new());
    let missing = remote::Domain { name: "missing".into(), uuid: [7; 16], id: -1 };
    let named = stats(&client, &[dom(&client, "off"), missing], DomainStats::STATE.bits(), AllDomainStats::empty());
    assert_eq!(named.len(), 1, "one that is not there is passed over");
    assert_eq!(named["off"].keys().collect::<Vec<_>>(), ["state.reason", "state.state"]);
    let enforced = |stats| remote::ConnectGetAllDomainStatsArgs { stats, flags: 1 << 31, ..Default::default() };
    refused(&client, enforced(0x1000), ErrorCode::ARGUMENT_UNSUPPORTED, "0x1000");
    let unknown = remote::ConnectGetAllDomainStatsArgs { flags: 1 << 20, ..Default::default() };
    refused(&client, unknown, ErrorCode::INVALID_ARG, "unsupported flags (0x100000)");
}

#[test]
fn a_stuck_guest_costs_a_list_of_statistics_its_deadline_and_its_own_figures_only() {
    let instance = Instance::session_with("guest_deadline_ms = 4000");
    let image = |name: &str| instance.file(name, &[0; 4096]);
    instance.create(&Guest::tiny("stuck").disk(&image("a.img"), "raw"));
    instance.create(&Guest::tiny("other").disk(&image("b.img"), "raw"));
    let client = connect(&instance);
    let qemu = instance.qemu("stuck");
    qemu.signal(Signal::STOP);
    for flags in [AllDomainStats::NOWAIT, AllDomainStats::empty()] {
        let begin = Instant::now();
        let all = stats(&client, &[], 0, flags);
        assert!(begin.elapsed() < Duration::from_millis(3500), "{:?}", begin.elapsed());
        assert!(number(&all["stuck"], "cpu.time") > 0 && !all["stuck"].contains_key("block.0.rd.reqs"));
        assert!(all["other"].contains_key("block.0.rd.reqs"), "{:#?}", all["other"]);
    }
    let one = remote::DomainBlockStatsArgs { dom: dom(&client, "stuck"), path: "vda".into() };
    refused(&client, one, ErrorCode::OPERATION_TIMEOUT, "'stuck'");
    qemu.signal(Signal::CONT);
}

#[test]
fn a_stuck_supervisor_costs_a_list_of_statistics_its_deadline() {
    let instance = Instance::session();
    let image = instance.file("a.img", &[0; 4096]);
    instance.create(&Guest::tiny("stuck").disk(&image, "raw"));
    let client = connect(&instance);
    let supervisor = instance.supervisor("stuck");
    supervisor.signal(Signal::STOP);
    let all = stats(&client, &[], 0, AllDomainStats::empty());
    assert_eq!(number(&all["stuck"], "state.state"), 1);
    assert!(!all["stuck"].contains_key("block.0.rd.reqs"));
    supervisor.signal(Signal::CONT);
}

#[test]
fn a_guest_s_processors_memory_and_disks_are_measured() {
    let instance = Instance::session();
    let image = instance.file("disk.img", &[0; 1 << 20]);
    let mut guest = Guest::tiny("g").disk(&image, "raw");
    guest.devices = format!("{BALLOON}<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>");
    instance.create(&guest);
    instance.define(&Guest::tiny("off"));
    let client = connect(&instance);
    let (dom, off) = (dom(&client, "g"), dom(&client, "off"));

    let vcpus = ok(&client, remote::DomainGetVcpusArgs { dom: dom.clone(), maxinfo: 8, maplen: 2 });
    assert_eq!((vcpus.info.len(), vcpus.cpumaps.len()), (1, 2));
    assert!(vcpus.info[0].cpu_time > 0 && vcpus.info[0].cpu >= 0 && vcpus.info[0].state == 1, "{vcpus:?}");
    assert_ne!(vcpus.cpumaps, [0, 0]);
    let inactive = remote::DomainGetVcpusArgs { dom: off.clone(), maxinfo: 1, maplen: 1 };
    refused(&client, inactive, ErrorCode::OPERATION_INVALID, "inactive domain");

    let total =
        |nparams| remote::DomainGetCpuStatsArgs { dom: dom.clone(), nparams, start_cpu: -1, ncpus: 1, flags: 0 };
    assert_eq!(ok(&client, total(0)).nparams, 3);
    let names: Vec<String> = ok(&client, total(3)).params.into_iter().map(|param| param.field).collect();
    assert_eq!(names, ["cpu_time", "user_time", "system_time"]);
    let each = remote::DomainGetCpuStatsArgs { start_cpu: 0, ncpus: 0, ..total(0) };
    refused(&client, each, ErrorCode::OPERATION_UNSUPPORTED, "not counted for each CPU");

    let memory = ok(&client, remote::DomainMemoryStatsArgs { dom: dom.clone(), max_stats: 16, flags: 0 }).stats;
    let tag = |tag: MemoryStatTag| memory.iter().find(|stat| stat.tag == tag.number()).map(|stat| stat.val);
    assert_eq!(tag(MemoryStatTag::ActualBalloon), Some(16 << 10));
    assert!(tag(MemoryStatTag::Rss) > Some(1024), "{memory:?}");

    // Its firmware reads disks; of a guest that stands still the figures do too.
    ok(&client, remote::DomainSuspendArgs { dom: dom.clone() });
    let block = |path: &str| remote::DomainBlockStatsArgs { dom: dom.clone(), path: path.into() };
    let (vda, sda, both) = (ok(&client, block("vda")), ok(&client, block("sda")), ok(&client, block("")));
    assert_eq!(both.rd_req, vda.rd_req + sda.rd_req);
    assert_eq!(ok(&client, block(&image.display().to_string())).errs, -1);
    refused(&client, block("vdz"), ErrorCode::INVALID_ARG, "invalid path: vdz");
    let flags = |nparams| remote::DomainBlockStatsFlagsArgs { dom: dom.clone(), path: "vda".into(), nparams, flags: 4 };
    assert_eq!(ok(&client, flags(0)).nparams, 8);
    assert_eq!(ok(&client, flags(16)).params.len(), 8);
    let info = |path: &str| remote::DomainGetBlockInfoArgs { dom: dom.clone(), path: path.into(), flags: 0 };
    assert_eq!(ok(&client, info("vda")).capacity, 1 << 20);
    refused(&client, info("sda"), ErrorCode::INVALID_ARG, "does not currently have a source");
}

#[test]
fn the_balloon_is_set_and_what_comes_of_it_is_the_guest_s_to_say() {
    let instance = Instance::session();
    instance.create(&Guest { devices: BALLOON.into(), ..Guest::tiny("g") });
    instance.create(&Guest::tiny("none"));
    let client = connect(&instance);
    let set = |name: &str, memory, flags| remote::DomainSetMemoryFlagsArgs { dom: dom(&client, name), memory, flags };
    refused(&client, set("none", 8192, 1), ErrorCode::OPERATION_INVALID, "without the balloon device");
    refused(&client, set("g", 1 << 20, 1), ErrorCode::INVALID_ARG, "higher than max memory");
    refused(&client, set("g", 1 << 20, 5), ErrorCode::OPERATION_INVALID, "cannot resize the maximum memory");
    ok(&client, set("g", 8192, 0));
    let memory = |client: &Client| ok(client, remote::DomainGetInfoArgs { dom: dom(client, "g") }).memory;
    assert_eq!(memory(&client), 16 << 10, "a firmware has no balloon driver, so it gave nothing");
    instance.launcher().kill();
    let client = connect(&instance);
    assert_eq!(memory(&client), 16 << 10);
    let qemu = instance.qemu("g");
    qemu.signal(Signal::STOP);
    assert_eq!(memory(&client), 16 << 10, "its supervisor knows without asking");
    qemu.signal(Signal::CONT);
}

#[test]
fn a_definition_is_changed_and_the_change_outlives_the_daemon() {
    let instance = Instance::session();
    instance.define(&Guest::tiny("old"));
    instance.ok(&["autostart", "old"]);
    let client = connect(&instance);
    let old = dom(&client, "old");
    let vcpus = |nvcpus, flags| remote::DomainSetVcpusFlagsArgs { dom: old.clone(), nvcpus, flags };
    let count = |flags| ok(&client, remote::DomainGetVcpusFlagsArgs { dom: old.clone(), flags }).num;
    ok(&client, vcpus(4, 6));
    ok(&client, vcpus(2, 2));
    assert_eq!((count(0), count(2), count(4), count(6)), (2, 2, 4, 4));
    refused(&client, vcpus(5, 2), ErrorCode::INVALID_ARG, "5 > 4");
    refused(&client, vcpus(1, 1), ErrorCode::OPERATION_INVALID, "not running");
    ok(&client, remote::DomainSetMaxMemoryArgs { dom: old.clone(), memory: 32768 });
    ok(&client, remote::DomainSetMemoryFlagsArgs { dom: old.clone(), memory: 8192, flags: 2 });
    ok(&client, note(&old, MetadataType::Title, Some("a title")));
    ok(&client, note(&old, MetadataType::Element, Some("<app><on/></app>")));
    ok(&client, remote::DomainRenameArgs { dom: old.clone(), new_name: Some("new".into()), flags: 0 });
    let again = remote::DomainRenameArgs { dom: old, new_name: Some("new".into()), flags: 0 };
    refused(&client, again, ErrorCode::OPERATION_INVALID, "itself");

    instance.launcher().kill();
    let client = connect(&instance);
    let new = dom(&client, "new");
    let info = ok(&client, remote::DomainGetInfoArgs { dom: new.clone() });
    assert_eq!((info.max_mem, info.memory, info.nr_virt_cpu), (32768, 8192, 2));
    assert_eq!(ok(&client, noted(&new, MetadataType::Title)).metadata, "a title");
    assert_eq!(ok(&client, noted(&new, MetadataType::Element)).metadata, "<app>\n  <on/>\n</app>");
    refused(&client, noted(&new, MetadataType::Description), ErrorCode::NO_DOMAIN_METADATA, "metadata not found");
    assert!(instance.domain("new").autostart);
    assert_eq!(instance.list().len(), 1);
}

fn note(dom: &remote::Domain, kind: MetadataType, text: Option<&str>) -> remote::DomainSetMetadataArgs {
    remote::DomainSetMetadataArgs {
        dom: dom.clone(),
        r#type: kind.number(),
        metadata: text.map(Into::into),
        key: Some("app".into()),
        uri: Some("urn:app".into()),
        flags: 0,
    }
}

fn noted(dom: &remote::Domain, kind: MetadataType) -> remote::DomainGetMetadataArgs {
    remote::DomainGetMetadataArgs { dom: dom.clone(), r#type: kind.number(), uri: Some("urn:app".into()), flags: 0 }
}

#[test]
fn notes_on_a_running_guest_are_its_own_until_it_ends() {
    let instance = Instance::session();
    instance.define(&Guest::tiny("g"));
    instance.ok(&["start", "g"]);
    let client = connect(&instance);
    let dom = dom(&client, "g");
    ok(&client, note(&dom, MetadataType::Description, Some("of now")));
    let config = remote::DomainGetMetadataArgs { flags: 2, ..noted(&dom, MetadataType::Description) };
    refused(&client, config, ErrorCode::NO_DOMAIN_METADATA, "");
    instance.launcher().kill();
    let client = connect(&instance);
    assert_eq!(ok(&client, noted(&dom, MetadataType::Description)).metadata, "of now");
}

#[test]
fn keys_interrupts_and_the_monitor_reach_the_guest_and_the_last_leaves_a_mark() {
    let instance = Instance::session();
    instance.create(&Guest::tiny("g"));
    let client = connect(&instance);
    let dom = dom(&client, "g");
    let keys =
        remote::DomainSendKeyArgs { dom: dom.clone(), codeset: 0, holdtime: 10, keycodes: vec![29, 111], flags: 0 };
    ok(&client, keys.clone());
    refused(&client, remote::DomainSendKeyArgs { keycodes: vec![9999], ..keys }, ErrorCode::INTERNAL_ERROR, "9999");
    ok(&client, remote::DomainInjectNmiArgs { dom: dom.clone(), flags: 0 });
    let messages = || remote::DomainGetMessagesArgs { dom: dom.clone(), flags: 0 };
    assert_eq!(ok(&client, messages()).msgs, Vec::<String>::new());

    let say = |cmd: &str, flags| qemu::DomainMonitorCommandArgs { dom: dom.clone(), cmd: cmd.into(), flags };
    assert!(ok(&client, say(r#"{"execute":"query-status"}"#, 0)).result.contains("\"running\""));
    assert_eq!(ok(&client, say("info status", 1)).result, "VM status: running\r\n");
    assert!(ok(&client, say(r#"{"execute":"nosuch"}"#, 0)).result.contains("CommandNotFound"));
    refused(&client, say("garbage", 0), ErrorCode::INTERNAL_ERROR, "no JSON");
    let tainted = ["tainted: custom monitor control commands issued"];
    assert_eq!(ok(&client, messages()).msgs, tainted);
    instance.launcher().kill();
    assert_eq!(ok(&connect(&instance), messages()).msgs, tainted, "the next daemon knows it too");
}

#[test]
fn the_host_s_figures_are_those_of_the_kernel() {
    let instance = Instance::ordinary();
    let client = connect(&instance);
    let node = ok(&client, remote::NodeGetInfoArgs {});
    let cpu = |cpu_num, nparams| remote::NodeGetCpuStatsArgs { cpu_num, nparams, flags: 0 };
    assert_eq!(ok(&client, cpu(-1, 0)).nparams, 4);
    let fields: Vec<String> = ok(&client, cpu(0, 4)).params.into_iter().map(|param| param.field).collect();
    assert_eq!(fields, ["kernel", "user", "idle", "iowait"]);
    refused(&client, cpu(9999, 4), ErrorCode::INVALID_ARG, "cpuNum");
    let memory = ok(&client, remote::NodeGetMemoryStatsArgs { nparams: 4, cell_num: -1, flags: 0 }).params;
    assert_eq!((memory[0].field.as_str(), memory[0].value), ("total", node.memory));
    let free = ok(&client, remote::NodeGetFreeMemoryArgs {}).free_mem;
    assert!(free > 0 && free < node.memory * 1024);
    let cells = ok(&client, remote::NodeGetCellsFreeMemoryArgs { start_cell: 0, maxcells: 64 }).cells;
    assert_eq!(cells.len(), usize::try_from(node.nodes).unwrap());
    let map = ok(&client, remote::NodeGetCpuMapArgs { need_map: 1, need_online: 1, flags: 0 });
    assert_eq!(i64::from(map.online), i64::from(node.cpus));
    assert_eq!(map.cpumap.iter().map(|byte| byte.count_ones()).sum::<u32>(), map.online);
    refused(&client, remote::ConnectGetSysinfoArgs { flags: 0 }, ErrorCode::CONFIG_UNSUPPORTED, "SMBIOS");
}

#[test]
fn documents_of_the_emulator_are_made() {
    let instance = Instance::session();
    let client = connect(&instance);
    let args = |arch: &str| remote::ConnectGetDomainCapabilitiesArgs {
        arch: Some(arch.into()),
        virttype: Some("qemu".into()),
        ..Default::default()
    };
    let xml = ok(&client, args(std::env::consts::ARCH)).capabilities;
    assert!(xml.contains("<domain>qemu</domain>") && xml.contains("<value>virtio</value>"), "{xml}");
    refused(&client, args("foo"), ErrorCode::INVALID_ARG, "unknown architecture: foo");
    let native = |format: &str| remote::ConnectDomainXmlToNativeArgs {
        native_format: format.into(),
        domain_xml: Guest::tiny("g").xml(),
        flags: 0,
    };
    let argv = ok(&client, native("qemu-argv")).native_config;
    assert!(argv.contains("guest=g,debug-threads=on") && argv.contains("size=16384k"), "{argv}");
    refused(&client, native("xen-xl"), ErrorCode::INVALID_ARG, "unsupported config type xen-xl");
    let names = remote::ConnectGetCpuModelNamesArgs { arch: std::env::consts::ARCH.into(), need_results: 1, flags: 0 };
    assert!(!ok(&client, names).models.is_empty());
}

#[test]
fn what_there_is_nothing_of_is_told_so() {
    let instance = Instance::session();
    instance.create(&Guest::tiny("g"));
    let client = connect(&instance);
    let dom = || dom(&client, "g");
    assert_eq!(ok(&client, remote::DomainListAllSnapshotsArgs { dom: dom(), need_results: 1, flags: 0 }).ret, 0);
    assert_eq!(ok(&client, remote::DomainListAllCheckpointsArgs { dom: dom(), need_results: 1, flags: 0 }).ret, 0);
    assert_eq!(ok(&client, remote::DomainGetJobInfoArgs { dom: dom() }).r#type, 0);
    assert_eq!(ok(&client, remote::DomainGetJobStatsArgs { dom: dom(), flags: 0 }).params, []);
    refused(&client, remote::DomainAbortJobArgs { dom: dom() }, ErrorCode::OPERATION_INVALID, "no job is active");
    assert_eq!(ok(&client, remote::DomainInterfaceAddressesArgs { dom: dom(), source: 0, flags: 0 }).ifaces, []);
    let agent = "QEMU guest agent is not configured";
    refused(&client, remote::DomainGetTimeArgs { dom: dom(), flags: 0 }, ErrorCode::ARGUMENT_UNSUPPORTED, agent);
    refused(&client, remote::DomainGetFsinfoArgs { dom: dom(), flags: 0 }, ErrorCode::ARGUMENT_UNSUPPORTED, agent);
    refused(
        &client,
        remote::DomainManagedSaveArgs { dom: dom(), flags: 0 },
        ErrorCode::NO_SUPPORT,
        "virDomainManagedSave",
    );
    let screen = remote::DomainScreenshotArgs { dom: dom(), screen: 0, flags: 0 };
    refused(&client, screen, ErrorCode::OPERATION_INVALID, "no screens");
    let label = ok(&client, remote::DomainGetSecurityLabelArgs { dom: dom() });
    assert_eq!((api::chars::to_text(&label.label).as_str(), label.enforcing), ("", 0));
    assert_eq!(ok(&client, remote::DomainGetSchedulerTypeArgs { dom: dom() }).r#type, "posix");
}

#[test]
fn a_reader_gets_every_figure_and_changes_nothing() {
    let instance = Instance::session();
    instance.create(&Guest::tiny("g"));
    let writer = connect(&instance);
    let reader = Client::connect(&instance.read_only_socket(), "test").unwrap();
    assert_eq!(stats(&reader, &[], 0, AllDomainStats::empty()).len(), 1);
    let dom = dom(&writer, "g");
    let say = qemu::DomainMonitorCommandArgs { dom: dom.clone(), cmd: "{}".into(), flags: 0 };
    refused(&reader, say, ErrorCode::OPERATION_DENIED, "read only access");
    refused(&reader, note(&dom, MetadataType::Title, Some("x")), ErrorCode::OPERATION_DENIED, "read only access");
}

/// Nonsense in every call of the table ends no connection of others, no guest and no daemon.
#[test]
fn no_call_breaks_the_daemon_whatever_it_says() {
    let instance = Instance::session();
    instance.create(&Guest::tiny("g"));
    let client = connect(&instance);
    let control = instance.control();
    let mut source = api::arbitrary::Source::new(7);
    let mut answered = 0;
    for op in Op::ALL.iter().filter(|op| op.info().kind == OpKind::Call && op.info().fds_in.allows(0)) {
        let Some(call) = api::Call::arbitrary(*op, &mut source) else { continue };
        match client.call(&call, Vec::new()) {
            Ok(_) | Err(CallError::Failed(_)) => answered += 1,
            Err(other) => panic!("{op}: {other:?}"),
        }
    }
    assert!(answered > 300, "{answered} calls");
    assert!(control.is_alive());
    assert_eq!(instance.state("g"), "running (booted)");
    assert_eq!(instance.role(Role::Qemu).len(), 1);
}
