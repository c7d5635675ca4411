//! Figures of domains.

use libclient::api::consts::{AllDomainStats, ControlState, DomainStats, JobType, MemoryStatTag, VcpuFlags, VcpuState};
use libclient::api::remote;
use libclient::{Connection, Domain, ErrorCode, ListFlags};
use serde_json::{Value, json};

use crate::commands::devices::figures;
use crate::commands::dom;
use crate::commands::host::LISTED;
use crate::commands::info::{ANY, question, seconds};
use crate::error::CliError;
use crate::session::find;
use crate::shown::{Shown, Text, plain};
use crate::table::{Access, Action, Arg, Json, Names, Verb};
use crate::values::Values;

/// The most figures that are asked for at once.
const MOST: u32 = 64;

const RUNNING: &[Arg] = &[Arg::domain(Names::Active)];

/// The rows.
pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "domstats",
        aliases: &[],
        about: "Show figures of all domains, or of those that are named",
        details: "Every group of figures that the driver has, unless groups are named. Without names, --list-… choose domains.",
        args: &[
            Arg::word("domain", "DOMAIN", "Name, UUID or id").of(Names::Domain).optional().many(),
            Arg::bits("state", DomainStats::STATE.bits(), "Group: state and its reason"),
            Arg::bits("cpu-total", DomainStats::CPU_TOTAL.bits(), "Group: processor time"),
            Arg::bits("balloon", DomainStats::BALLOON.bits(), "Group: memory"),
            Arg::bits("vcpu", DomainStats::VCPU.bits(), "Group: virtual CPUs"),
            Arg::bits("interface", DomainStats::INTERFACE.bits(), "Group: network interfaces"),
            Arg::bits("block", DomainStats::BLOCK.bits(), "Group: disks"),
            Arg::bits("perf", DomainStats::PERF.bits(), "Group: events of the processor"),
            Arg::bits("iothread", DomainStats::IOTHREAD.bits(), "Group: threads for disks"),
            Arg::bits("memory", DomainStats::MEMORY.bits(), "Group: memory bandwidth"),
            Arg::bits("dirtyrate", DomainStats::DIRTYRATE.bits(), "Group: how fast memory is written to"),
            Arg::bits("vm", DomainStats::VM.bits(), "Group: the hypervisor's own figures"),
            Arg::flag("list-active", "Domains that run"),
            Arg::flag("list-inactive", "Domains that do not run"),
            Arg::flag("list-persistent", "Domains with a definition"),
            Arg::flag("list-transient", "Domains without a definition"),
            Arg::flag("list-running", "Domains in state running"),
            Arg::flag("list-paused", "Domains in state paused"),
            Arg::flag("list-shutoff", "Domains in state shut off"),
            Arg::flag("list-other", "Domains in another state"),
            Arg::flag("backing", "Also images that a disk's image is an overlay of"),
            Arg::flag("enforce", "Fail if the driver lacks a group"),
            Arg::flag("nowait", "Leave out what would have to be waited for"),
        ],
        access: Access::Look,
        json: Json::Shape(r#"[{"domain": {"id", "name", "uuid"}, "stats": {…}}]"#),
        example: "",
        action: Action::AskHost { what: "get figures of domains", ask: domstats },
    },
    question(
        "dommemstat",
        "Show the memory figures of a running domain, in KiB",
        RUNNING,
        r#"{"actual", "rss", …}"#,
        ("get the memory figures of", dommemstat),
    ),
    question(
        "cpu-stats",
        "Show the processor time of a running domain, in nanoseconds",
        &[Arg::domain(Names::Active), Arg::flag("total", "Accepted as virsh does: the total is always printed")],
        r#"{"cpu_time", "user_time", "system_time"}"#,
        ("get the processor time of", cpu_stats),
    ),
    question(
        "vcpucount",
        "Show how many virtual CPUs a domain has",
        &[
            Arg::domain(Names::Domain),
            Arg::bits("maximum", VcpuFlags::MAXIMUM.bits(), "Print the most that there can be"),
            Arg::flag("active", "Print the number in use").conflicts(&["maximum"]),
            Arg::bits("live", VcpuFlags::LIVE.bits(), "Of the running domain"),
            Arg::bits("config", VcpuFlags::CONFIG.bits(), "Of the definition"),
            Arg::bits("guest", VcpuFlags::GUEST.bits(), "What the guest agent says; not on a read-only connection"),
            Arg::flag("current", "Of the running domain if it runs, else of the definition")
                .conflicts(&["live", "config"]),
        ],
        r#"{"maximum_config", "maximum_live", "current_config", "current_live"}"#,
        ("count the virtual CPUs of", vcpucount),
    )
    .details(
        "Prints one number if an option says which one is meant, and a table otherwise. Programs always get all four.",
    ),
    question(
        "vcpuinfo",
        "Show the virtual CPUs of a running domain, and where they may run",
        &[Arg::domain(Names::Active), LISTED],
        r#"[{"vcpu", "cpu", "state", "cpu_time_ns", "affinity"}]"#,
        ("get the virtual CPUs of", vcpuinfo),
    ),
    question(
        "domjobinfo",
        "Show the job that a domain has",
        ANY,
        r#"{"type", "elapsed_ms", "remaining_ms", "data_total", "data_processed", "data_remaining", "memory_total", "memory_processed", "memory_remaining", "file_total", "file_processed", "file_remaining"}"#,
        ("get the job of", domjobinfo),
    ),
    question(
        "domcontrol",
        "Show whether a running domain can be controlled",
        RUNNING,
        r#"{"state", "seconds"}"#,
        ("get the control state of", domcontrol),
    ),
    question(
        "domblkerror",
        "List the disks of a running domain that have failed",
        RUNNING,
        r#"[{"disk", "error"}]"#,
        ("get the disk errors of", domblkerror),
    ),
];

fn chosen(values: &Values<'_>) -> u32 {
    let filters = [
        ("list-active", ListFlags::ACTIVE.bits()),
        ("list-inactive", ListFlags::INACTIVE.bits()),
        ("list-persistent", ListFlags::PERSISTENT.bits()),
        ("list-transient", ListFlags::TRANSIENT.bits()),
        ("list-running", ListFlags::RUNNING.bits()),
        ("list-paused", ListFlags::PAUSED.bits()),
        ("list-shutoff", ListFlags::SHUTOFF.bits()),
        ("list-other", ListFlags::OTHER.bits()),
        ("nowait", AllDomainStats::NOWAIT.bits()),
        ("backing", AllDomainStats::BACKING.bits()),
        ("enforce", AllDomainStats::ENFORCE_STATS.bits()),
    ];
    filters.iter().filter(|(flag, _)| values.flag(flag)).fold(0, |bits, (_, bit)| bits | bit)
}

fn domstats(connection: &Connection, values: &Values<'_>) -> Result<Shown, CliError> {
    let named = values.texts("domain").into_iter().map(|name| Ok(dom(&find(connection, name)?)));
    let doms = named.collect::<Result<_, CliError>>()?;
    let args = remote::ConnectGetAllDomainStatsArgs { doms, stats: values.bits(), flags: chosen(values) };
    let records = connection.invoke(args)?.ret_stats;
    let mut json = Vec::new();
    let mut lines = String::new();
    for record in records {
        let figures = figures(record.params);
        lines.push_str(&format!("Domain: '{}'\n", record.dom.name));
        lines.extend(figures.iter().map(|(key, value)| format!("  {key}={}\n", plain(value))));
        lines.push('\n');
        let id = u32::try_from(record.dom.id).ok();
        let uuid = uuid::Uuid::from_bytes(record.dom.uuid).to_string();
        let stats: serde_json::Map<_, _> = figures.into_iter().collect();
        json.push(json!({ "domain": { "id": id, "name": record.dom.name, "uuid": uuid }, "stats": stats }));
    }
    Ok(Shown::new(json, Text::Lines(lines)))
}

fn dommemstat(domain: &Domain, _: &Values<'_>) -> Result<Shown, CliError> {
    let args = remote::DomainMemoryStatsArgs { dom: dom(domain), max_stats: MOST, flags: 0 };
    let stats = domain.connection().invoke(args)?.stats.into_iter();
    // A tag that is newer than this program has no name here.
    let named = stats.filter_map(|stat| Some((MemoryStatTag::try_from(stat.tag).ok()?, stat.val)));
    Ok(Shown::figures(named.map(|(tag, value)| (tag.name().replace('-', "_"), value.into())).collect()))
}

fn cpu_stats(domain: &Domain, _: &Values<'_>) -> Result<Shown, CliError> {
    let args = remote::DomainGetCpuStatsArgs { dom: dom(domain), nparams: MOST, start_cpu: -1, ncpus: 1, flags: 0 };
    Ok(Shown::figures(figures(domain.connection().invoke(args)?.params)))
}

/// A number of virtual CPUs, or None of a running domain that does not run and of a definition that is not there.
fn count(domain: &Domain, flags: u32) -> Result<Option<i32>, CliError> {
    match domain.connection().invoke(remote::DomainGetVcpusFlagsArgs { dom: dom(domain), flags }) {
        Ok(ret) => Ok(Some(ret.num)),
        Err(error) if error.code == ErrorCode::OPERATION_INVALID => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn vcpucount(domain: &Domain, values: &Values<'_>) -> Result<Shown, CliError> {
    let (maximum, live, config) = (VcpuFlags::MAXIMUM.bits(), VcpuFlags::LIVE.bits(), VcpuFlags::CONFIG.bits());
    let rows = [
        ("maximum", "config", count(domain, maximum | config)?),
        ("maximum", "live", count(domain, maximum | live)?),
        ("current", "config", count(domain, config)?),
        ("current", "live", count(domain, live)?),
    ];
    let json: serde_json::Map<_, _> =
        rows.iter().map(|(which, whose, number)| (format!("{which}_{whose}"), json!(number))).collect();
    let text = if values.bits() != 0 || values.flag("active") || values.flag("current") {
        let args = remote::DomainGetVcpusFlagsArgs { dom: dom(domain), flags: values.bits() };
        Text::Line(domain.connection().invoke(args)?.num.to_string())
    } else {
        let there = rows.iter().filter_map(|(which, whose, number)| Some((which, whose, (*number)?)));
        Text::Lines(there.map(|(which, whose, number)| format!("{which:<12} {whose:<8} {number:>3}\n")).collect())
    };
    Ok(Shown::new(json, text))
}

/// The numbers of the bits that are set in a processor map, of the first `cpus`.
pub(crate) fn members(map: &[u8], cpus: usize) -> Vec<usize> {
    (0..cpus).filter(|cpu| map.get(cpu / 8).is_some_and(|byte| byte >> (cpu % 8) & 1 == 1)).collect()
}

/// A processor map as virsh prints it: a letter for each processor, or ranges of numbers with `--pretty`.
pub(crate) fn drawn(values: &Values<'_>, members: &[usize], cpus: usize) -> String {
    if values.flag("pretty") { listed(members) } else { mapped(members, cpus) }
}

/// `0-2,5`.
pub(crate) fn listed(members: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for member in members {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *member => *last = *member,
            _ => ranges.push((*member, *member)),
        }
    }
    let word = |(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(word).collect::<Vec<_>>().join(",")
}

fn mapped(members: &[usize], cpus: usize) -> String {
    (0..cpus).map(|cpu| if members.contains(&cpu) { 'y' } else { '-' }).collect()
}

fn vcpuinfo(domain: &Domain, values: &Values<'_>) -> Result<Shown, CliError> {
    let connection = domain.connection();
    let node = connection.node_info()?;
    let cpus = usize::try_from(node.nodes * node.sockets * node.cores * node.threads).unwrap_or_default();
    let length = cpus.div_ceil(8);
    let maxinfo = i32::try_from(domain.info()?.vcpus).unwrap_or(i32::MAX);
    let maplen = i32::try_from(length).unwrap_or(i32::MAX);
    let answer = connection.invoke(remote::DomainGetVcpusArgs { dom: dom(domain), maxinfo, maplen })?;
    let mut json = Vec::new();
    let mut sections = Vec::new();
    for (vcpu, map) in answer.info.iter().zip(answer.cpumaps.chunks(length.max(1))) {
        let state = VcpuState::try_from(vcpu.state).map_or("unknown", VcpuState::name);
        let cpu = usize::try_from(vcpu.cpu).ok();
        let affinity = members(map, cpus);
        sections.push(format!(
            "VCPU:           {}\nCPU:            {}\nState:          {state}\nCPU time:       {}\nCPU Affinity:   {}\n",
            vcpu.number,
            cpu.map_or_else(|| "N/A".to_owned(), |cpu| cpu.to_string()),
            seconds(vcpu.cpu_time),
            drawn(values, &affinity, cpus),
        ));
        let time = vcpu.cpu_time;
        json.push(
            json!({ "vcpu": vcpu.number, "cpu": cpu, "state": state, "cpu_time_ns": time, "affinity": affinity }),
        );
    }
    Ok(Shown::new(json, Text::Lines(sections.join("\n"))))
}

fn domjobinfo(domain: &Domain, _: &Values<'_>) -> Result<Shown, CliError> {
    let job = domain.connection().invoke(remote::DomainGetJobInfoArgs { dom: dom(domain) })?;
    let kind = JobType::try_from(job.r#type).map_or("unknown", JobType::name);
    let figures = [
        ("elapsed_ms", "Time elapsed", job.time_elapsed),
        ("remaining_ms", "Time remaining", job.time_remaining),
        ("data_total", "Data total", job.data_total),
        ("data_processed", "Data processed", job.data_processed),
        ("data_remaining", "Data remaining", job.data_remaining),
        ("memory_total", "Memory total", job.mem_total),
        ("memory_processed", "Memory processed", job.mem_processed),
        ("memory_remaining", "Memory remaining", job.mem_remaining),
        ("file_total", "File total", job.file_total),
        ("file_processed", "File processed", job.file_processed),
        ("file_remaining", "File remaining", job.file_remaining),
    ];
    let mut json: serde_json::Map<String, Value> =
        figures.iter().map(|(key, _, value)| ((*key).to_owned(), (*value).into())).collect();
    json.insert("type".to_owned(), kind.into());
    let unit = |key: &str| if key.ends_with("_ms") { "ms" } else { "bytes" };
    let there = figures.iter().filter(|(_, _, value)| *value != 0);
    let lines = there.map(|(key, words, value)| ((*words).to_owned(), format!("{value} {}", unit(key))));
    Ok(Shown::new(json, Text::Pairs(std::iter::once(("Job type".to_owned(), kind.to_owned())).chain(lines).collect())))
}

fn domcontrol(domain: &Domain, _: &Values<'_>) -> Result<Shown, CliError> {
    let info = domain.connection().invoke(remote::DomainGetControlInfoArgs { dom: dom(domain), flags: 0 })?;
    let state = i32::try_from(info.state).ok().and_then(|state| ControlState::try_from(state).ok());
    let state = state.map_or("unknown", ControlState::name);
    // The driver counts in milliseconds.
    let seconds = f64::from(u32::try_from(info.state_time).unwrap_or(u32::MAX)) / 1000.0;
    let line = if info.state_time == 0 { state.to_owned() } else { format!("{state} ({seconds:.3}s)") };
    Ok(Shown::new(json!({ "state": state, "seconds": seconds }), Text::Line(line)))
}

fn domblkerror(domain: &Domain, _: &Values<'_>) -> Result<Shown, CliError> {
    let args = remote::DomainGetDiskErrorsArgs { dom: dom(domain), maxerrors: MOST, flags: 0 };
    let errors = domain.connection().invoke(args)?.errors.into_iter();
    let word = |error: i32| match error {
        0 => "none",
        1 => "unspecified error",
        2 => "no space",
        _ => "unknown",
    };
    let errors: Vec<_> = errors.map(|error| (error.disk, word(error.error))).collect();
    let lines = if errors.is_empty() {
        "No errors found\n".to_owned()
    } else {
        errors.iter().map(|(disk, error)| format!("{disk}: {error}\n")).collect()
    };
    let json: Vec<_> = errors.into_iter().map(|(disk, error)| json!({ "disk": disk, "error": error })).collect();
    Ok(Shown::new(json, Text::Lines(lines)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_map_has_the_lowest_number_in_the_lowest_bit() {
        assert_eq!(members(&[0b101, 1], 9), [0, 2, 8]);
        assert_eq!(members(&[0xff], 3), [0, 1, 2]);
        assert_eq!(mapped(&[0, 2], 4), "y-y-");
        assert_eq!(listed(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(listed(&[]), "");
    }
}
