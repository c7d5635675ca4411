//! The verbs that change a definition or a running domain, one value at a time.

use std::path::PathBuf;

use clap::builder::ValueParser;
use libclient::api::consts::{DeviceModifyFlags, MemoryFlags, MetadataType, ModificationImpact, VcpuFlags};
use libclient::api::remote;
use libclient::{Connection, Domain, ErrorCode, XmlFlags};
use model::limits::MAX_BYTES;
use serde_json::json;

use crate::commands::dom;
use crate::commands::lifecycle::simple;
use crate::error::CliError;
use crate::session::{Session, find, read_document};
use crate::shown::{Shown, Text};
use crate::table::{Access, Action, Arg, DomainCall, Done, Json, Names, Verb};
use crate::values::Values;

const LIVE: Arg = Arg::bits("live", ModificationImpact::LIVE.bits(), "Of the running domain");
const CONFIG: Arg = Arg::bits("config", ModificationImpact::CONFIG.bits(), "Of the definition");
const CURRENT: Arg = Arg::flag("current", "Of the running domain if it runs, else of the definition; the default")
    .conflicts(&["live", "config"]);

const DEVICE: &[Arg] = &[
    Arg::domain(Names::Domain),
    Arg::word("file", "FILE", "The XML of the device; '-' reads the standard input").path(),
    LIVE,
    CONFIG,
    CURRENT,
    Arg::bits("force", DeviceModifyFlags::FORCE.bits(), "Even against the guest"),
    Arg::flag("persistent", "The definition, and the running domain if it runs").conflicts(&["current"]),
];

/// A row of a change of a device, which a file describes.
const fn device(name: &'static str, about: &'static str, call: DomainCall, done: &'static [Done]) -> Verb {
    simple(name, about, "", DEVICE, call, done).example("test disk.xml")
}

const FORMAT: Arg = Arg::word("format", "FORMAT", "The other format: qemu-argv");

/// The rows.
pub(crate) const VERBS: &[Verb] = &[
    simple(
        "setvcpus",
        "Set the number of virtual CPUs of a domain",
        "",
        &[
            Arg::domain(Names::Domain),
            Arg::word("count", "COUNT", "The number").parsed(|| clap::value_parser!(u32).into()),
            Arg::bits("maximum", VcpuFlags::MAXIMUM.bits(), "Set the most that there can be; needs --config"),
            LIVE,
            CONFIG,
            CURRENT,
            Arg::bits("guest", VcpuFlags::GUEST.bits(), "Ask the guest agent to do it"),
            Arg::bits("hotpluggable", VcpuFlags::HOTPLUGGABLE.bits(), "Make added ones removable"),
        ],
        setvcpus,
        &[Done::always("setvcpus", "has a new number of virtual CPUs")],
    )
    .what("set the virtual CPUs of")
    .example("test 2"),
    simple(
        "setmem",
        "Set the memory of a domain; of a running one, by its balloon",
        "",
        &[Arg::domain(Names::Domain), SIZE, LIVE, CONFIG, CURRENT],
        |domain, values| set_memory(domain, values, MemoryFlags::empty()),
        &[Done::always("setmem", "has a new memory size")],
    )
    .what("set the memory of")
    .example("test 1GiB"),
    simple(
        "setmaxmem",
        "Set the most memory that a domain can have",
        "",
        &[Arg::domain(Names::Domain), SIZE, LIVE, CONFIG, CURRENT],
        |domain, values| set_memory(domain, values, MemoryFlags::MAXIMUM),
        &[Done::always("setmaxmem", "has a new maximum memory size")],
    )
    .what("set the maximum memory of")
    .example("test 9GiB"),
    Verb {
        name: "desc",
        aliases: &[],
        about: "Print or set the description or the title of a domain",
        details: "Prints the description, or sets it to TEXT. An empty TEXT removes it.",
        args: &[
            Arg::domain(Names::Domain),
            Arg::word("new-desc", "TEXT", "The new description or title").optional().many(),
            Arg::flag("title", "The title in place of the description"),
            LIVE,
            CONFIG,
            CURRENT,
        ],
        access: Access::Both,
        json: Json::Shape(r#"{"description"}"#),
        example: "test",
        action: Action::Run(desc),
    },
    Verb {
        name: "metadata",
        aliases: &[],
        about: "Print, set or remove an element of a domain's metadata",
        details: "Prints the element of the namespace URI, sets it with --set, removes it with --remove.",
        args: &[
            Arg::domain(Names::Domain),
            Arg::word("uri", "URI", "The namespace of the element"),
            Arg::option("key", "PREFIX", "The prefix that stands for the namespace").requires("set"),
            Arg::option("set", "XML", "The new element").conflicts(&["remove"]),
            Arg::flag("remove", "Remove the element"),
            LIVE,
            CONFIG,
            CURRENT,
        ],
        access: Access::Both,
        json: Json::Shape(r#"{"xml"}"#),
        example: "test urn:none",
        action: Action::Run(metadata),
    },
    simple(
        "domrename",
        "Give a domain that is off another name",
        "",
        &[Arg::domain(Names::Inactive), Arg::word("new-name", "NAME", "The new name")],
        |domain, values| {
            let new_name = Some(values.need("new-name").to_owned());
            domain.connection().invoke(remote::DomainRenameArgs { dom: dom(domain), new_name, flags: 0 })?;
            Ok(())
        },
        &[Done::always("domrename", "has a new name")],
    )
    .what("rename")
    .example("test other"),
    device(
        "attach-device",
        "Attach a device to a domain",
        attach,
        &[Done::always("attach-device", "has a new device")],
    )
    .what("attach a device to"),
    device(
        "detach-device",
        "Detach a device from a domain",
        detach,
        &[Done::always("detach-device", "no longer has the device")],
    )
    .what("detach a device from"),
    device(
        "update-device",
        "Change a device of a domain",
        update,
        &[Done::always("update-device", "has a changed device")],
    )
    .what("change a device of"),
    Verb {
        name: "domxml-to-native",
        aliases: &[],
        about: "Print the hypervisor's command line for a document",
        details: "The document is that of a domain, or a file:\n  bulkhead domxml-to-native qemu-argv --xml web.xml",
        args: &[
            FORMAT,
            Arg::word("domain", "DOMAIN", "Name, UUID or id").optional().of(Names::Domain),
            Arg::word("xml", "FILE", "The document; '-' reads the standard input")
                .path()
                .optional()
                .conflicts(&["domain"]),
        ],
        access: Access::Change,
        json: Json::Shape(r#"{"native"}"#),
        example: "qemu-argv test",
        action: Action::Run(to_native),
    },
    Verb {
        name: "domxml-from-native",
        aliases: &[],
        about: "Print the document for a hypervisor's configuration",
        details: "",
        args: &[FORMAT, Arg::word("config", "FILE", "The configuration; '-' reads the standard input").path()],
        access: Access::Change,
        json: Json::Shape(r#"{"xml"}"#),
        example: "qemu-argv web.xml",
        action: Action::Run(from_native),
    },
];

const SIZE: Arg = Arg::word("size", "SIZE", "Memory: a number with KiB, MiB, GiB, …; KiB if there is no unit")
    .parsed(|| ValueParser::new(kib));

/// An amount of memory in KiB; virsh's unit is KiB.
fn kib(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = if unit.trim().is_empty() { "KiB" } else { unit.trim() };
    let number = number.parse().map_err(|_| "must begin with a whole number".to_owned())?;
    model::scale_to_kib(number, unit)
        .ok_or_else(|| format!("'{unit}' is no unit, or the amount is too large: write KiB, MiB, GiB or TiB"))
}

fn setvcpus(domain: &Domain, values: &Values<'_>) -> Result<(), CliError> {
    let nvcpus = values.value("count").unwrap_or_default();
    let args = remote::DomainSetVcpusFlagsArgs { dom: dom(domain), nvcpus, flags: values.bits() };
    Ok(domain.connection().invoke(args)?)
}

fn set_memory(domain: &Domain, values: &Values<'_>, which: MemoryFlags) -> Result<(), CliError> {
    let memory = values.value("size").unwrap_or_default();
    let flags = values.bits() | which.bits();
    Ok(domain.connection().invoke(remote::DomainSetMemoryFlagsArgs { dom: dom(domain), memory, flags })?)
}

/// The device's XML, and which of the two documents of the domain are meant.
fn device_of(domain: &Domain, values: &Values<'_>) -> Result<(String, u32), CliError> {
    let mut flags = values.bits();
    if values.flag("persistent") {
        let live = if domain.is_active()? { DeviceModifyFlags::LIVE } else { DeviceModifyFlags::empty() };
        flags |= (live | DeviceModifyFlags::CONFIG).bits();
    }
    Ok((text_of(values, "file")?.unwrap_or_default(), flags))
}

fn attach(domain: &Domain, values: &Values<'_>) -> Result<(), CliError> {
    let (xml, flags) = device_of(domain, values)?;
    Ok(domain.connection().invoke(remote::DomainAttachDeviceFlagsArgs { dom: dom(domain), xml, flags })?)
}

fn detach(domain: &Domain, values: &Values<'_>) -> Result<(), CliError> {
    let (xml, flags) = device_of(domain, values)?;
    Ok(domain.connection().invoke(remote::DomainDetachDeviceFlagsArgs { dom: dom(domain), xml, flags })?)
}

fn update(domain: &Domain, values: &Values<'_>) -> Result<(), CliError> {
    let (xml, flags) = device_of(domain, values)?;
    Ok(domain.connection().invoke(remote::DomainUpdateDeviceFlagsArgs { dom: dom(domain), xml, flags })?)
}

/// What is noted down about a domain, or None.
pub(crate) fn noted(
    domain: &Domain,
    kind: MetadataType,
    uri: Option<&str>,
    flags: u32,
) -> Result<Option<String>, CliError> {
    let (r#type, uri) = (kind.number(), uri.map(str::to_owned));
    match domain.connection().invoke(remote::DomainGetMetadataArgs { dom: dom(domain), r#type, uri, flags }) {
        Ok(ret) => Ok(Some(ret.metadata)),
        Err(error) if error.code == ErrorCode::NO_DOMAIN_METADATA => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn desc(values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
    let domain = session.domain(values.need("domain"))?;
    let (kind, action) = match values.flag("title") {
        true => (MetadataType::Title, "title"),
        false => (MetadataType::Description, "desc"),
    };
    let words = values.texts("new-desc");
    if words.is_empty() {
        let text = noted(&domain, kind, None, values.bits())
            .map_err(|error| error.of_domain("read the description of", &domain))?;
        let line = text.clone().unwrap_or_else(|| format!("No {} for domain: {}", kind.name(), domain.name()));
        return session.show(&Shown::new(json!({ kind.name(): text }), Text::Line(line)));
    }
    let text = words.join(" ");
    let args = remote::DomainSetMetadataArgs {
        dom: dom(&domain),
        r#type: kind.number(),
        metadata: Some(text).filter(|text| !text.is_empty()),
        key: None,
        uri: None,
        flags: values.bits(),
    };
    let done = domain.connection().invoke(args).map_err(CliError::from);
    done.map_err(|error| error.of_domain("set the description of", &domain))?;
    session.acted(action, &domain, format_args!("Domain '{}' has a new {}", domain.name(), kind.name()))
}

fn metadata(values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
    let domain = session.domain(values.need("domain"))?;
    let uri = values.need("uri");
    let new = values.text("set");
    if new.is_none() && !values.flag("remove") {
        let args = remote::DomainGetMetadataArgs {
            dom: dom(&domain),
            r#type: MetadataType::Element.number(),
            uri: Some(uri.to_owned()),
            flags: values.bits(),
        };
        let answer = domain.connection().invoke(args).map_err(CliError::from);
        let answer = answer.map_err(|error| error.of_domain("read the metadata of", &domain))?;
        return session.show(&Shown::xml(answer.metadata));
    }
    let args = remote::DomainSetMetadataArgs {
        dom: dom(&domain),
        r#type: MetadataType::Element.number(),
        metadata: new.map(str::to_owned),
        key: values.text("key").map(str::to_owned),
        uri: Some(uri.to_owned()),
        flags: values.bits(),
    };
    let done = domain.connection().invoke(args).map_err(CliError::from);
    done.map_err(|error| error.of_domain("set the metadata of", &domain))?;
    session.acted("metadata", &domain, format_args!("Domain '{}' has new metadata", domain.name()))
}

/// A file's text.
fn text_of(values: &Values<'_>, name: &str) -> Result<Option<String>, CliError> {
    let file: Option<PathBuf> = values.value(name);
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
    file.map(|file| read_document(&file, limit).map(|(text, _)| text)).transpose()
}

fn document(connection: &Connection, values: &Values<'_>) -> Result<String, CliError> {
    match (values.text("domain"), text_of(values, "xml")?) {
        (_, Some(xml)) => Ok(xml),
        (Some(name), None) => Ok(find(connection, name)?.xml(XmlFlags::INACTIVE)?),
        (None, None) => Err(CliError::NoDocument),
    }
}

fn to_native(values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
    let what = "translate the document";
    let connection = session.connect()?;
    let domain_xml = document(&connection, values).map_err(|error| error.of_host(what))?;
    let native_format = values.need("format").to_owned();
    let answer = connection.invoke(remote::ConnectDomainXmlToNativeArgs { native_format, domain_xml, flags: 0 });
    let native = answer.map_err(|source| CliError::Ask { what, source })?.native_config;
    session.show(&Shown::new(json!({ "native": native }), Text::Lines(native)))
}

fn from_native(values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
    let native_config = text_of(values, "config")?.unwrap_or_default();
    let native_format = values.need("format").to_owned();
    let args = remote::ConnectDomainXmlFromNativeArgs { native_format, native_config, flags: 0 };
    let answer = session.connect()?.invoke(args);
    let xml = answer.map_err(|source| CliError::Ask { what: "translate the configuration", source })?.domain_xml;
    session.show(&Shown::xml(xml))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_in_kib_unless_a_unit_says_otherwise() {
        assert_eq!(kib("1024"), Ok(1024));
        assert_eq!(kib("2G"), Ok(2 << 20));
        assert!(kib("lots").is_err());
    }
}
