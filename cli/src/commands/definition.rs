//! The verbs that read and write documents of domains.

use std::path::PathBuf;

use clap::Args;
use clap_complete::ArgValueCompleter;
use libclient::{CreateFlags, DefineFlags, UndefineFlags, XmlFlags};
use model::limits::MAX_BYTES;

use crate::commands::console;
use crate::commands::lifecycle::{after_start, failed};
use crate::complete;
use crate::error::CliError;
use crate::session::{Session, read_document};

/// Define a domain from an XML file, or change its definition
#[derive(Debug, Args)]
pub(crate) struct Define {
    /// The document; '-' reads the standard input
    file: PathBuf,
    /// Refuse elements that are understood nowhere
    #[arg(long)]
    validate: bool,
}

impl Define {
    /// Defines it.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let document = Document::read(session, &self.file, self.validate)?;
        let flags = if self.validate { DefineFlags::VALIDATE } else { DefineFlags::empty() };
        let domain = session.connect()?.define_xml(&document.xml, flags).map_err(|source| CliError::Document {
            what: "define",
            from: document.from.clone(),
            source,
        })?;
        session.acted("define", &domain, format_args!("Domain '{}' defined from {}", domain.name(), document.from))
    }
}

/// Start a transient domain from an XML file: it vanishes when it stops
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The document; '-' reads the standard input
    file: PathBuf,
    /// Leave its virtual CPUs stopped
    #[arg(long)]
    paused: bool,
    /// Attach its console
    #[arg(long)]
    console: bool,
    /// Refuse elements that are understood nowhere
    #[arg(long)]
    validate: bool,
}

impl Create {
    /// Starts it.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let document = Document::read(session, &self.file, self.validate)?;
        let mut flags = console::start_flags(self.paused, self.console);
        flags.set(CreateFlags::VALIDATE, self.validate);
        let domain = session.connect()?.create_xml(&document.xml, flags).map_err(|source| CliError::Document {
            what: "create",
            from: document.from.clone(),
            source,
        })?;
        let sentence = format!("Domain '{}' created from {}", domain.name(), document.from);
        after_start(session, &domain, self.paused, self.console, "create", sentence)
    }
}

/// A document that was read and looked at on this side, so that its author sees line and column.
struct Document {
    xml: String,
    from: String,
}

impl Document {
    fn read(session: &Session, file: &std::path::Path, validate: bool) -> Result<Self, CliError> {
        let (xml, from) = read_document(file, u64::try_from(MAX_BYTES).unwrap_or(u64::MAX))?;
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

/// Remove the definition of a domain; a running guest goes on as a transient one
#[derive(Debug, Args)]
pub(crate) struct Undefine {
    /// Name, UUID or id
    #[arg(add = ArgValueCompleter::new(complete::persistent_domain))]
    domain: String,
    /// With its managed save image
    #[arg(long)]
    managed_save: bool,
    /// With what is known of its snapshots
    #[arg(long)]
    snapshots_metadata: bool,
    /// With its firmware's variables
    #[arg(long)]
    nvram: bool,
    /// Without its firmware's variables
    #[arg(long, conflicts_with = "nvram")]
    keep_nvram: bool,
}

impl Undefine {
    /// Removes it.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let domain = session.domain(&self.domain)?;
        let mut flags = UndefineFlags::empty();
        flags.set(UndefineFlags::MANAGED_SAVE, self.managed_save);
        flags.set(UndefineFlags::SNAPSHOTS_METADATA, self.snapshots_metadata);
        flags.set(UndefineFlags::NVRAM, self.nvram);
        flags.set(UndefineFlags::KEEP_NVRAM, self.keep_nvram);
        domain.undefine(flags).map_err(failed("undefine", &domain))?;
        session.acted("undefine", &domain, format_args!("Domain '{}' has been undefined", domain.name()))
    }
}

/// Print the XML of a domain
#[derive(Debug, Args)]
pub(crate) struct Dumpxml {
    /// Name, UUID or id
    #[arg(add = ArgValueCompleter::new(complete::any_domain))]
    domain: String,
    /// The definition that the next start takes
    #[arg(long)]
    inactive: bool,
    /// With passwords
    #[arg(long)]
    security_info: bool,
}

impl Dumpxml {
    /// Prints it.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let domain = session.domain(&self.domain)?;
        let mut flags = XmlFlags::empty();
        flags.set(XmlFlags::INACTIVE, self.inactive);
        flags.set(XmlFlags::SECURE, self.security_info);
        let xml = domain.xml(flags).map_err(failed("dump", &domain))?;
        if session.out.is_json() {
            session.out.json(&serde_json::json!({ "xml": xml }))?;
        } else {
            session.out.text(&xml)?;
        }
        Ok(())
    }
}
