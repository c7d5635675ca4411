//! The verbs that read and write documents of domains.

use std::path::PathBuf;

use libclient::{CreateFlags, DefineFlags, UndefineFlags, XmlFlags};
use model::limits::MAX_BYTES;

use crate::commands::lifecycle::after_start;
use crate::commands::{XML, console};
use crate::error::CliError;
use crate::session::{Session, read_document};
use crate::shown::Shown;
use crate::table::{Access, Action, Arg, Done, Json, Names, Verb};
use crate::values::Values;

const FILE: Arg = Arg::word("file", "FILE", "The document; '-' reads the standard input").path();
const VALIDATE: Arg = Arg::flag("validate", "Reject documents with unknown elements");

/// The rows.
pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "define",
        aliases: &[],
        about: "Define a domain from an XML file, or change its definition",
        details: "Unknown elements are kept, and each is warned about.",
        args: &[FILE, VALIDATE],
        access: Access::Change,
        json: Json::Action,
        example: "web.xml",
        action: Action::Run(define),
    },
    Verb {
        name: "undefine",
        aliases: &[],
        about: "Remove definitions; a running guest goes on as a transient one",
        details: "There are no managed saves, snapshots or firmware variables yet; virsh's flags for them are accepted.",
        args: &[
            Arg::domains(Names::Persistent),
            Arg::bits("managed-save", UndefineFlags::MANAGED_SAVE.bits(), "Remove the managed save image too"),
            Arg::bits("snapshots-metadata", UndefineFlags::SNAPSHOTS_METADATA.bits(), "Forget the snapshots too"),
            Arg::bits("nvram", UndefineFlags::NVRAM.bits(), "Remove the firmware's variables too"),
            Arg::bits("keep-nvram", UndefineFlags::KEEP_NVRAM.bits(), "Keep the firmware's variables")
                .conflicts(&["nvram"]),
            Arg::bits("checkpoints-metadata", UndefineFlags::CHECKPOINTS_METADATA.bits(), "Forget the checkpoints too"),
            Arg::bits("tpm", UndefineFlags::TPM.bits(), "Remove the state of its TPM too"),
            Arg::bits("keep-tpm", UndefineFlags::KEEP_TPM.bits(), "Keep the state of its TPM").conflicts(&["tpm"]),
        ],
        access: Access::Change,
        json: Json::Action,
        example: "test",
        action: Action::Each {
            what: "undefine",
            call: |domain, values| Ok(domain.undefine(UndefineFlags::from_bits_truncate(values.bits()))?),
            done: &[Done::always("undefine", "has been undefined")],
        },
    },
    Verb {
        name: "create",
        aliases: &[],
        about: "Start a transient domain from an XML file: it vanishes when it stops",
        details: "",
        args: &[
            FILE,
            Arg::flag("paused", "Leave its virtual CPUs stopped"),
            Arg::flag("console", "Attach its console"),
            Arg::bits("reset-nvram", CreateFlags::RESET_NVRAM.bits(), "Reset the firmware's variables"),
            VALIDATE,
        ],
        access: Access::Change,
        json: Json::Action,
        example: "web.xml",
        action: Action::Run(create),
    },
    Verb {
        name: "dumpxml",
        aliases: &[],
        about: "Print the XML of a domain",
        details: "A running guest's own document, unless the definition is asked for.",
        args: &[
            Arg::domain(Names::Domain),
            Arg::bits("inactive", XmlFlags::INACTIVE.bits(), "Print the definition, which the next start takes"),
            Arg::bits(
                "security-info",
                XmlFlags::SECURE.bits(),
                "Include passwords; a read-only connection is refused them",
            ),
            Arg::bits("update-cpu", XmlFlags::UPDATE_CPU.bits(), "Fill in what the host adds to the processor"),
            Arg::bits("migratable", XmlFlags::MIGRATABLE.bits(), "Print what another host would be sent"),
        ],
        access: Access::Look,
        json: Json::Shape(XML),
        example: "test",
        action: Action::AskDomain {
            what: "dump",
            ask: |domain, values| Ok(Shown::xml(domain.xml(XmlFlags::from_bits_truncate(values.bits()))?)),
        },
    },
];

fn define(values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
    let validate = values.flag("validate");
    let document = Document::read(session, values, validate)?;
    let flags = if validate { DefineFlags::VALIDATE } else { DefineFlags::empty() };
    let domain = session.connect()?.define_xml(&document.xml, flags).map_err(|source| CliError::Document {
        what: "define",
        from: document.from.clone(),
        source,
    })?;
    session.acted("define", &domain, format_args!("Domain '{}' defined from {}", domain.name(), document.from))
}

fn create(values: &Values<'_>, session: &mut Session) -> Result<(), CliError> {
    let (paused, console, validate) = (values.flag("paused"), values.flag("console"), values.flag("validate"));
    let document = Document::read(session, values, validate)?;
    let mut flags = CreateFlags::from_bits_truncate(values.bits()) | console::start_flags(paused, console);
    flags.set(CreateFlags::VALIDATE, validate);
    let domain = session.connect()?.create_xml(&document.xml, flags).map_err(|source| CliError::Document {
        what: "create",
        from: document.from.clone(),
        source,
    })?;
    let sentence = format!("Domain '{}' created from {}", domain.name(), document.from);
    after_start(session, &domain, (paused, console), "create", sentence)
}

/// A document that was read and looked at on this side, so that its author sees line and column.
struct Document {
    xml: String,
    from: String,
}

impl Document {
    fn read(session: &Session, values: &Values<'_>, validate: bool) -> Result<Self, CliError> {
        let file: PathBuf = values.value("file").unwrap_or_default();
        let (xml, from) = read_document(&file, u64::try_from(MAX_BYTES).unwrap_or(u64::MAX))?;
        let parsed = model::Domain::parse(&xml).map_err(|source| CliError::Parse { from: from.clone(), source })?;
        for notice in &parsed.notices {
            session.warn(format_args!("{from}, {notice}"));
        }
        if validate && !parsed.notices.is_empty() {
            return Err(CliError::NotUnderstood { from, count: parsed.notices.len() });
        }
        Ok(Self { xml, from })
    }
}
