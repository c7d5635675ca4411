//! `run`: a guest from a kernel, an initrd or disk images, in one line.

mod accel;
mod document;
mod values;

use std::path::{Path, PathBuf};

use clap::builder::{EnumValueParser, ValueParser};
use libclient::{Connection, Domain, DomainRecord, ListFlags, UndefineFlags};
use model::DumpOptions;

use self::accel::Accel;
use self::document::Guest;
use self::values::{DiskSpec, memory, pick_name};
use crate::commands::console::start_flags;
use crate::commands::lifecycle::{after_start, failed};
use crate::error::CliError;
use crate::session::Session;
use crate::shown::Shown;
use crate::table::{Access, Action, Arg, Json, Names, Verb};
use crate::values::Values;

const BOOT: &[&str] = &["kernel", "disk"];

/// The row.
pub(crate) const VERBS: &[Verb] = &[Verb {
    name: "run",
    aliases: &[],
    about: "Run a guest from a kernel, an initrd or disk images",
    details: "\
Makes a document from its options, defines the guest, starts it and attaches the console. The virtual CPUs run only when the \
console is attached, so that its first byte is seen.

Examples:
  bulkhead run --disk system.qcow2
  bulkhead run --kernel vmlinuz --initrd initrd.img --memory 1GiB --transient
  bulkhead run --name web --disk web.img --disk data.img:ro --no-console
  bulkhead run --print-xml --disk web.img >web.xml",
    args: &[
        Arg::option("name", "NAME", "Name; a free 'guest-XXXX' if left out, a taken one is refused"),
        Arg::option("memory", "SIZE", "Memory: a number with KiB, MiB, GiB, …; MiB if there is no unit")
            .default("512MiB")
            .parsed(|| ValueParser::new(memory)),
        Arg::option("cpus", "N", "Virtual CPUs, 1 to 4096")
            .default("1")
            .parsed(|| clap::value_parser!(u32).range(1..=4096).into()),
        Arg::option("kernel", "FILE", "Kernel to boot directly").path().one_of(BOOT),
        Arg::option("initrd", "FILE", "Initial RAM disk of the kernel").path().requires("kernel"),
        Arg::option(
            "cmdline",
            "TEXT",
            "Command line of the kernel; one that uses the serial console if left out",
        )
        .requires("kernel"),
        Arg::option(
            "disk",
            "FILE[:ro][,format=FORMAT]",
            "Disk image (raw or qcow2), first to last; its format is looked up if not given",
        )
        .many()
        .parsed(|| ValueParser::new(DiskSpec::parse))
        .of(Names::File)
        .one_of(BOOT),
        Arg::option("arch", "ARCH", "Architecture of the guest; the host's if left out"),
        Arg::option("machine", "MACHINE", "Machine type; q35 or virt if left out"),
        Arg::option(
            "accel",
            "ACCEL",
            "How the guest's instructions are run: on the processor by KVM, emulated by TCG, or the better one that works",
        )
        .default("auto")
        .parsed(|| EnumValueParser::<Accel>::new().into()),
        Arg::flag("transient", "Do not keep a definition: the guest vanishes when it stops"),
        Arg::flag("no-console", "Start only; do not attach the console"),
        Arg::flag("print-xml", "Print the document instead of starting the guest"),
    ],
    access: Access::Change,
    json: Json::Action,
    example: "--disk disk --accel tcg --no-console",
    action: Action::Run(|values, session| Run::of(values).run(session)),
}];

/// What is to be run.
struct Run {
    name: Option<String>,
    memory: u64,
    cpus: u32,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    cmdline: Option<String>,
    disk: Vec<DiskSpec>,
    arch: String,
    machine: Option<String>,
    accel: Accel,
    transient: bool,
    no_console: bool,
    print_xml: bool,
}

impl Run {
    fn of(values: &Values<'_>) -> Self {
        let text = |name| values.text(name).map(str::to_owned);
        Self {
            name: text("name"),
            memory: values.value("memory").unwrap_or_default(),
            cpus: values.value("cpus").unwrap_or(1),
            kernel: values.value("kernel"),
            initrd: values.value("initrd"),
            cmdline: text("cmdline"),
            disk: values.values("disk"),
            arch: text("arch").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            machine: text("machine"),
            accel: values.value("accel").unwrap_or(Accel::Auto),
            transient: values.flag("transient"),
            no_console: values.flag("no-console"),
            print_xml: values.flag("print-xml"),
        }
    }

    /// Starts the guest and attaches its console.
    fn run(&self, session: &mut Session) -> Result<(), CliError> {
        // Whatever can be wrong with the files is said before anything is touched.
        let mut guest = self.guest()?;
        let accelerated = self.accel.resolve(&self.arch)?;
        if self.print_xml {
            return session.show(&Shown::xml(guest.domain(accelerated.domain_type()).to_xml(&DumpOptions::stored())));
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
            .map_err(|source| CliError::Ask { what: "get the driver", source })?
            .eq_ignore_ascii_case("test");
        let domain_type = if test { model::DomainType::Test } else { accelerated.domain_type() };
        let xml = guest.domain(domain_type).to_xml(&DumpOptions::stored());
        let domain = self.start(&connection, &guest.name, &xml)?;
        let sentence = format!("Domain '{}' started", domain.name());
        after_start(session, &domain, (false, !self.no_console), "run", sentence)
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
