//! `run`: a guest from a kernel, an initrd or disk images, in one line.

mod accel;
mod document;
mod values;

use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::engine::{ArgValueCompleter, PathCompleter};
use libclient::{Connection, Domain, DomainRecord, ListFlags, UndefineFlags};
use model::DumpOptions;

use self::accel::Accel;
use self::document::Guest;
use self::values::{DiskSpec, memory, pick_name};
use crate::commands::console::start_flags;
use crate::commands::lifecycle::{after_start, failed};
use crate::error::CliError;
use crate::session::Session;

/// Run a guest from a kernel, an initrd or disk images
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead run --disk system.qcow2
  bulkhead run --kernel vmlinuz --initrd initrd.img --memory 1GiB --transient
  bulkhead run --name web --disk web.img --disk data.img:ro --no-console")]
#[command(group = clap::ArgGroup::new("boot").args(["kernel", "disk"]).multiple(true).required(true))]
pub(crate) struct Run {
    /// Name; a free 'guest-XXXX' if left out
    #[arg(long)]
    name: Option<String>,
    /// Memory: a number with KiB, MiB, GiB, …; MiB if there is no unit
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = memory)]
    memory: u64,
    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=4096))]
    cpus: u32,
    /// Kernel to boot directly
    #[arg(long, value_name = "FILE", add = ArgValueCompleter::new(PathCompleter::file()))]
    kernel: Option<PathBuf>,
    /// Initial RAM disk of the kernel
    #[arg(long, value_name = "FILE", requires = "kernel", add = ArgValueCompleter::new(PathCompleter::file()))]
    initrd: Option<PathBuf>,
    /// Command line of the kernel; one that uses the serial console if left out
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    cmdline: Option<String>,
    /// Disk image, first to last; its format is looked up if not given
    #[arg(long, value_name = "FILE[:ro][,format=FORMAT]", value_parser = DiskSpec::parse)]
    #[arg(add = ArgValueCompleter::new(PathCompleter::file()))]
    disk: Vec<DiskSpec>,
    /// Architecture of the guest
    #[arg(long, default_value = std::env::consts::ARCH, hide_default_value = true)]
    arch: String,
    /// Machine type; the hypervisor's default for the architecture if left out
    #[arg(long)]
    machine: Option<String>,
    /// How the guest's instructions are run: on the processor by KVM, emulated by TCG, or the better one of what works
    #[arg(long, value_enum, default_value = "auto")]
    accel: Accel,
    /// Do not keep a definition: the guest vanishes when it stops
    #[arg(long)]
    transient: bool,
    /// Start only; do not attach the console
    #[arg(long)]
    no_console: bool,
    /// Print the document instead of starting the guest
    #[arg(long)]
    print_xml: bool,
}

impl Run {
    /// Starts the guest and attaches its console.
    pub(crate) fn run(&self, session: &mut Session) -> Result<(), CliError> {
        // Whatever can be wrong with the files is said before anything is touched.
        let mut guest = self.guest()?;
        let accelerated = self.accel.resolve(&self.arch)?;
        if self.print_xml {
            return self.print(session, &guest, accelerated.domain_type());
        }
        if let Some(reason) = accelerated.why_emulated() {
            session.note(format_args!("note: the processor is emulated: {reason}"));
        }
        let connection = session.connect()?;
        if self.name.is_none() {
            guest.name = free_name(&connection)?;
        }
        let test = connection
            .driver_type()
            .map_err(|source| CliError::Ask { what: "ask for the driver", source })?
            .eq_ignore_ascii_case("test");
        let domain_type = if test { model::DomainType::Test } else { accelerated.domain_type() };
        let xml = guest.domain(domain_type).to_xml(&DumpOptions::stored());
        let domain = self.start(&connection, &guest.name, &xml)?;
        let sentence = format!("Domain '{}' started", domain.name());
        after_start(session, &domain, false, !self.no_console, "run", sentence)
    }

    fn guest(&self) -> Result<Guest, CliError> {
        if let Some(name) = &self.name {
            model::check_name(name)
                .map_err(|reason| CliError::BadName { name: name.clone(), reason: reason.to_string() })?;
        }
        let file = |path: &Option<PathBuf>, role| path.as_deref().map(|path| guest_file(path, role)).transpose();
        Ok(Guest {
            name: self.name.clone().unwrap_or_else(|| pick_name(|_| false)),
            memory_kib: self.memory,
            cpus: self.cpus,
            arch: self.arch.clone(),
            machine: self.machine.clone(),
            kernel: file(&self.kernel, "kernel")?,
            initrd: file(&self.initrd, "initrd")?,
            cmdline: self.cmdline.clone(),
            disks: self.disk.iter().map(DiskSpec::open).collect::<Result<_, _>>()?,
        })
    }

    fn print(&self, session: &mut Session, guest: &Guest, domain_type: model::DomainType) -> Result<(), CliError> {
        let xml = guest.domain(domain_type).to_xml(&DumpOptions::stored());
        if session.out.is_json() {
            session.out.json(&serde_json::json!({ "xml": xml }))?;
        } else {
            session.out.text(&xml)?;
        }
        Ok(())
    }

    fn start(&self, connection: &Connection, name: &str, xml: &str) -> Result<Domain, CliError> {
        let flags = start_flags(false, !self.no_console);
        let wrap = |source| CliError::Domain { what: "start", name: name.to_owned(), source };
        if self.transient {
            return connection.create_xml(xml, flags).map_err(wrap);
        }
        // A definition of that name would be replaced: it is somebody's guest.
        if self.name.is_some() && connection.domain_by_name(name).is_ok() {
            return Err(CliError::Exists { name: name.to_owned() });
        }
        let domain = connection.define_xml(xml, libclient::DefineFlags::empty()).map_err(wrap)?;
        if let Err(error) = domain.start(flags) {
            // A guest that never ran leaves nothing behind; the error that counts is the first one.
            let _ = domain.undefine(UndefineFlags::empty());
            return Err(failed("start", &domain)(error));
        }
        Ok(domain)
    }
}

/// A name that no domain has.
fn free_name(connection: &Connection) -> Result<String, CliError> {
    let records =
        connection.domains(ListFlags::empty()).map_err(|source| CliError::Ask { what: "list domains", source })?;
    Ok(pick_name(|name| records.iter().any(|record: &DomainRecord| record.domain.name() == name)))
}

/// The absolute path of a file that can be read.
fn guest_file(path: &Path, role: &'static str) -> Result<String, CliError> {
    let failed = |source| CliError::GuestFile { role, path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(CliError::NoFile { role, path: path.to_owned() });
    }
    absolute(path, role)
}

/// The path as the document holds it: absolute, links not followed, in UTF-8.
fn absolute(path: &Path, role: &'static str) -> Result<String, CliError> {
    let failed = |source| CliError::GuestFile { role, path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(failed)?;
    match absolute.into_os_string().into_string() {
        Ok(path) => Ok(path),
        Err(_) => Err(failed(std::io::Error::other("its path is no UTF-8, so no document can name it"))),
    }
}
