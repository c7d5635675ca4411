//! Devices of a domain: the verbs that list them and their figures, by the document and by calls.

use clap::builder::PossibleValuesParser;
use libclient::api::remote;
use libclient::{Domain, XmlFlags};
use roxmltree::{Document, Node};
use serde_json::{Value, json};

use crate::commands::dom;
use crate::commands::info::question;
use crate::error::CliError;
use crate::shown::{Shown, Text, plain};
use crate::table::{Arg, Names, Verb};
use crate::values::Values;

/// The most figures of a disk that are asked for.
const MOST_FIGURES: i32 = 64;

const INACTIVE: Arg =
    Arg::bits("inactive", XmlFlags::INACTIVE.bits(), "Read the definition, which the next start takes");
const DISK: Arg = Arg::word("device", "DISK", "Name of the disk (vda), or the path of its image").of(Names::Disk);

/// The rows.
pub(crate) const VERBS: &[Verb] = &[
    question(
        "domblklist",
        "List the disks of a domain",
        &[Arg::domain(Names::Domain), INACTIVE, Arg::flag("details", "Also print the type and the kind of drive")],
        r#"[{"target", "source", "type", "device"}]"#,
        ("list the disks of", domblklist),
    ),
    question(
        "domiflist",
        "List the network interfaces of a domain",
        &[Arg::domain(Names::Domain), INACTIVE],
        r#"[{"interface", "type", "source", "model", "mac"}]"#,
        ("list the interfaces of", domiflist),
    ),
    question(
        "domblkinfo",
        "Show how large a disk of a domain is",
        &[Arg::domain(Names::Domain), DISK],
        r#"{"capacity", "allocation", "physical"}"#,
        ("get the size of a disk of", domblkinfo),
    )
    .example("test vda"),
    question(
        "domblkstat",
        "Show what was read from and written to a disk of a running domain",
        &[Arg::domain(Names::Active), DISK.optional()],
        r#"{"rd_req", "rd_bytes", "wr_req", "wr_bytes", …}"#,
        ("get the disk figures of", domblkstat),
    )
    .details("Without DISK, the sum over all disks."),
    question(
        "domifstat",
        "Show what a network interface of a running domain has sent and received",
        &[
            Arg::domain(Names::Active),
            Arg::word("interface", "INTERFACE", "Name of the interface").of(Names::Interface),
        ],
        r#"{"rx_bytes", "rx_packets", "rx_errs", "rx_drop", "tx_bytes", "tx_packets", "tx_errs", "tx_drop"}"#,
        ("get the network figures of", domifstat),
    )
    .example("test vnet0"),
    question(
        "domifaddr",
        "List the addresses of the network interfaces of a running domain",
        &[
            Arg::domain(Names::Active),
            Arg::word("interface", "INTERFACE", "One interface; all if left out").optional().of(Names::Interface),
            Arg::option(
                "source",
                "SOURCE",
                "Where to look: lease, agent or arp; a read-only connection may not ask the agent",
            )
            .default("lease")
            .parsed(|| PossibleValuesParser::new(["lease", "agent", "arp"]).into()),
        ],
        r#"[{"interface", "mac", "addresses"}]"#,
        ("get the addresses of", domifaddr),
    ),
    question(
        "ttyconsole",
        "Print the terminal of a running domain's console, if it has one on the host",
        &[Arg::domain(Names::Active)],
        r#"{"tty"}"#,
        ("find the terminal of", ttyconsole),
    ),
];

/// The elements of one kind below `devices`.
pub(crate) fn devices<'a, 'input: 'a>(
    document: &'a Document<'input>,
    kind: &'a str,
) -> impl Iterator<Item = Node<'a, 'input>> {
    let lists = document.root_element().children().filter(|node| node.has_tag_name("devices"));
    lists.flat_map(|list| list.children()).filter(move |node| node.has_tag_name(kind))
}

/// An attribute of a device's child: `target`'s `dev`.
fn attribute<'a>(device: Node<'a, '_>, child: &str, name: &str) -> Option<&'a str> {
    device.children().find(|node| node.has_tag_name(child))?.attribute(name)
}

/// The first of these attributes of a device's `source`.
fn source(device: Node<'_, '_>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| attribute(device, "source", name)).map(str::to_owned)
}

/// What a disk is called.
pub(crate) fn disk_name(disk: Node<'_, '_>) -> Option<String> {
    attribute(disk, "target", "dev").map(str::to_owned)
}

/// What a network interface is called: its device on the host, or its address while it has none.
pub(crate) fn interface_name(interface: Node<'_, '_>) -> Option<String> {
    let name = attribute(interface, "target", "dev").or_else(|| attribute(interface, "mac", "address"));
    name.map(str::to_owned)
}

/// One object a device, with null for what the document does not say, and the same as the rows of a table.
fn shown(heads: &'static [&'static str], keys: &[&str], devices: Vec<Vec<Option<String>>>) -> Shown {
    let object = |row: &Vec<Option<String>>| -> Value {
        keys.iter()
            .zip(row)
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let json: Vec<_> = devices.iter().map(object).collect();
    let cells = |row: Vec<Option<String>>| {
        row.into_iter().take(heads.len()).map(|cell| cell.unwrap_or_else(|| "-".to_owned())).collect()
    };
    Shown::new(json, Text::Table(heads, devices.into_iter().map(cells).collect()))
}

/// The domain's document.
fn xml(domain: &Domain, values: &Values<'_>) -> Result<String, CliError> {
    Ok(domain.xml(XmlFlags::from_bits_truncate(values.bits()))?)
}

fn domblklist(domain: &Domain, values: &Values<'_>) -> Result<Shown, CliError> {
    let xml = xml(domain, values)?;
    let document = Document::parse(&xml).map_err(|source| CliError::Strange { source })?;
    let text = |text: Option<&str>| text.map(str::to_owned);
    let disks = devices(&document, "disk").map(|disk| {
        let source = source(disk, &["file", "dev", "dir", "name", "volume"]);
        vec![disk_name(disk), source, text(disk.attribute("type")), text(disk.attribute("device").or(Some("disk")))]
    });
    let heads: &[&str] = match values.flag("details") {
        true => &["Target", "Source", "Type", "Device"],
        false => &["Target", "Source"],
    };
    Ok(shown(heads, &["target", "source", "type", "device"], disks.collect()))
}

fn domiflist(domain: &Domain, values: &Values<'_>) -> Result<Shown, CliError> {
    let xml = xml(domain, values)?;
    let document = Document::parse(&xml).map_err(|source| CliError::Strange { source })?;
    let of = |interface, child, name| attribute(interface, child, name).map(str::to_owned);
    let interfaces = devices(&document, "interface").map(|interface| {
        vec![
            of(interface, "target", "dev"),
            interface.attribute("type").map(str::to_owned),
            source(interface, &["network", "bridge", "dev", "path"]),
            of(interface, "model", "type"),
            of(interface, "mac", "address"),
        ]
    });
    let heads = &["Interface", "Type", "Source", "Model", "MAC"];
    Ok(shown(heads, &["interface", "type", "source", "model", "mac"], interfaces.collect()))
}

fn domblkinfo(domain: &Domain, values: &Values<'_>) -> Result<Shown, CliError> {
    let args = remote::DomainGetBlockInfoArgs { dom: dom(domain), path: values.need("device").to_owned(), flags: 0 };
    let info = domain.connection().invoke(args)?;
    let json = json!({ "capacity": info.capacity, "allocation": info.allocation, "physical": info.physical });
    let figures = [("Capacity", info.capacity), ("Allocation", info.allocation), ("Physical", info.physical)];
    Ok(Shown::pairs(json, figures.map(|(key, bytes)| (key, bytes.to_string()))))
}

fn domblkstat(domain: &Domain, values: &Values<'_>) -> Result<Shown, CliError> {
    let path = values.need("device").to_owned();
    let args = remote::DomainBlockStatsFlagsArgs { dom: dom(domain), path, nparams: MOST_FIGURES, flags: 0 };
    let mut figures = figures(domain.connection().invoke(args)?.params);
    for (key, _) in &mut figures {
        // virsh's names for them.
        match key.as_str() {
            "rd_operations" => *key = "rd_req".to_owned(),
            "wr_operations" => *key = "wr_req".to_owned(),
            _ => {}
        }
    }
    Ok(of_device(values.need("device"), figures))
}

/// Figures of a device; for people each has its name before it.
fn of_device(name: &str, figures: Vec<(String, Value)>) -> Shown {
    let before = if name.is_empty() { String::new() } else { format!("{name} ") };
    let lines = figures.iter().map(|(key, value)| (format!("{before}{key}"), plain(value))).collect();
    Shown::new(figures.into_iter().collect::<serde_json::Map<_, _>>(), Text::Figures(lines))
}

fn domifaddr(domain: &Domain, values: &Values<'_>) -> Result<Shown, CliError> {
    let source = ["lease", "agent", "arp"].iter().zip(0..).find(|(word, _)| **word == values.need("source"));
    let source = source.map_or(0, |(_, number)| number);
    let args = remote::DomainInterfaceAddressesArgs { dom: dom(domain), source, flags: 0 };
    let mut interfaces = domain.connection().invoke(args)?.ifaces;
    interfaces.retain(|interface| values.text("interface").is_none_or(|name| name == interface.name));
    let mut rows = Vec::new();
    for interface in &interfaces {
        let mac = interface.hwaddr.clone().unwrap_or_else(|| "-".to_owned());
        for address in &interface.addrs {
            let protocol = if address.r#type == 0 { "ipv4" } else { "ipv6" };
            let with_prefix = format!("{}/{}", address.addr, address.prefix);
            rows.push(vec![interface.name.clone(), mac.clone(), protocol.to_owned(), with_prefix]);
        }
    }
    let addresses = |addresses: &[remote::DomainIpAddr]| -> Vec<_> {
        addresses.iter().map(|address| json!({ "address": address.addr, "prefix": address.prefix })).collect()
    };
    let json: Vec<_> = interfaces
        .iter()
        .map(|interface| {
            let addresses = addresses(&interface.addrs);
            json!({ "interface": interface.name, "mac": interface.hwaddr, "addresses": addresses })
        })
        .collect();
    Ok(Shown::new(json, Text::Table(&["Name", "MAC address", "Protocol", "Address"], rows)))
}

fn ttyconsole(domain: &Domain, _: &Values<'_>) -> Result<Shown, CliError> {
    let xml = domain.xml(XmlFlags::empty())?;
    let document = Document::parse(&xml).map_err(|source| CliError::Strange { source })?;
    let of = |console: Node<'_, '_>| console.attribute("tty").map(str::to_owned).or_else(|| source(console, &["path"]));
    let tty = devices(&document, "console").find_map(of);
    let line = tty.clone().map_or_else(String::new, |tty| format!("{tty}\n"));
    Ok(Shown::new(json!({ "tty": tty }), Text::Lines(line)))
}

/// Typed parameters as figures.
pub(crate) fn figures(params: Vec<remote::TypedParam>) -> Vec<(String, Value)> {
    params.into_iter().map(|param| (param.field, figure(param.value))).collect()
}

fn figure(value: remote::TypedParamValue) -> Value {
    use remote::TypedParamValue as Is;
    match value {
        Is::Int(number) => number.into(),
        Is::Uint(number) => number.into(),
        Is::Llong(number) => number.into(),
        Is::Ullong(number) => number.into(),
        Is::Double(number) => number.into(),
        Is::Boolean(yes) => yes.into(),
        Is::String(text) => text.into(),
    }
}

fn domifstat(domain: &Domain, values: &Values<'_>) -> Result<Shown, CliError> {
    let name = values.need("interface");
    let args = remote::DomainInterfaceStatsArgs { dom: dom(domain), device: name.to_owned() };
    let stats = domain.connection().invoke(args)?;
    let figures = [
        ("rx_bytes", stats.rx_bytes),
        ("rx_packets", stats.rx_packets),
        ("rx_errs", stats.rx_errs),
        ("rx_drop", stats.rx_drop),
        ("tx_bytes", stats.tx_bytes),
        ("tx_packets", stats.tx_packets),
        ("tx_errs", stats.tx_errs),
        ("tx_drop", stats.tx_drop),
    ];
    Ok(of_device(name, figures.map(|(key, value)| (key.to_owned(), value.into())).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain><devices>\
        <disk type='file'><source file='/a'/><target dev='vda'/></disk>\
        <interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/></interface>\
        </devices><metadata><disk/></metadata></domain>";

    #[test]
    fn devices_are_those_of_the_list_of_devices() {
        let document = Document::parse(XML).unwrap();
        let disks: Vec<_> = devices(&document, "disk").filter_map(disk_name).collect();
        assert_eq!(disks, ["vda"]);
        let interfaces: Vec<_> = devices(&document, "interface").filter_map(interface_name).collect();
        assert_eq!(interfaces, ["52:54:00:00:00:01"]);
    }
}
