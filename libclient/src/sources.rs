//! The files of a guest, opened with the caller's rights.
//!
//! A request names no host path that its caller may not use: the caller opens what the document names and hands over
//! descriptors. Nothing is created here, and nothing but files and devices is opened.

use std::{
    fs::{File, FileType},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::Path,
};

use api::{Error, ErrorCode, ErrorDomain, bulkhead};
use ipc::frame::MAX_FDS;
use model::{Source, SourceKind, XmlError};
use rustix::{fs::OFlags, io::Errno};

use crate::Result;

/// The files of one guest: descriptor i belongs to source i.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    pub(crate) sources: Vec<bulkhead::Source>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Opens every file that the document names and this process may open.
pub(crate) fn open_document(xml: &str) -> Result<Opened> {
    let domain = model::Domain::parse(xml).map_err(not_understood)?.value;
    let mut sources = domain.sources();
    // The far end of a serial line is no file that is handed over.
    sources.retain(|source| !matches!(source.what, SourceKind::Serial(_) | SourceKind::Console(_)));
    // What may be missing and is: the daemon starts the guest without it, or says why not.
    sources.retain(|source| !may_be_missing(&domain, &source.what) || Path::new(&source.path).exists());
    open_all(&domain.name, &sources)
}

/// Whether the document lets its guest start without this disk: `startupPolicy` of its source.
fn may_be_missing(domain: &model::Domain, what: &SourceKind) -> bool {
    let SourceKind::Disk(target) = what else { return false };
    let disk = domain.devices.disks.iter().find(|disk| disk.target.dev == *target);
    let attributes = disk.and_then(|disk| disk.source.as_ref()).map(|source| &source.rest.attributes);
    attributes.is_some_and(|attributes| {
        attributes.iter().any(|attribute| attribute.name == "startupPolicy" && attribute.value != "mandatory")
    })
}

/// Opens every file of a guest that this process may open.
fn open_all(guest: &str, sources: &[Source]) -> Result<Opened> {
    let mut opened = Opened::default();
    for (index, source) in sources.iter().enumerate() {
        if sources.iter().take(index).any(|earlier| earlier.path == source.path) {
            continue;
        }
        // A file that is named twice is opened once, with all that is done to it.
        let writable = sources.iter().any(|other| other.path == source.path && other.writable);
        match open(&source.path, writable) {
            Ok(fd) => {
                opened.sources.push(bulkhead::Source { path: source.path.clone(), writable });
                opened.fds.push(fd);
            }
            Err(failure) if is_left_to_the_daemon(&failure, &source.what) => {}
            Err(failure) => return Err(cannot_open(guest, source, writable, failure)),
        }
    }
    if opened.fds.len() > usize::from(MAX_FDS) {
        return Err(Error::new(
            ErrorCode::OPERATION_FAILED,
            ErrorDomain::DOMAIN,
            format!("domain '{guest}' has {} files, {MAX_FDS} can be handed over", opened.fds.len()),
        ));
    }
    Ok(opened)
}

/// A path that cannot be opened.
enum Failure {
    System(io::Error),
    /// It is neither a file nor a device.
    Kind(&'static str),
}

fn open(path: &str, writable: bool) -> Result<OwnedFd, Failure> {
    // Looked at before it is opened: opening alone makes some things move, a pipe's other end or a tape.
    check_kind(std::fs::metadata(path).map_err(Failure::System)?.file_type())?;
    let flags = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file = File::options().read(true).write(writable).custom_flags(flags).open(path).map_err(Failure::System)?;
    // And after: something else may have taken its place.
    check_kind(file.metadata().map_err(Failure::System)?.file_type())?;
    // It was opened so only that nothing could hold us up.
    let flags = rustix::fs::fcntl_getfl(&file).map_err(|errno| Failure::System(errno.into()))?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(|errno| Failure::System(errno.into()))?;
    Ok(file.into())
}

fn check_kind(kind: FileType) -> Result<(), Failure> {
    let name = match kind {
        _ if kind.is_file() || kind.is_block_device() => return Ok(()),
        _ if kind.is_char_device() => "a character device",
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a named pipe",
        _ if kind.is_socket() => "a socket",
        _ => "no file",
    };
    Err(Failure::Kind(name))
}

/// What this process may not open, the daemon may under its configured roots. What is made at a start is missing before the
/// first one, and the ends of a serial line need not be files.
fn is_left_to_the_daemon(failure: &Failure, what: &SourceKind) -> bool {
    let made_at_start = matches!(what, SourceKind::Nvram | SourceKind::Serial(_) | SourceKind::Console(_));
    let line = matches!(what, SourceKind::Serial(_) | SourceKind::Console(_));
    match failure {
        Failure::System(error) => match Errno::from_io_error(error) {
            Some(Errno::ACCESS) => true,
            Some(Errno::NOENT) => made_at_start,
            _ => false,
        },
        Failure::Kind(_) => line,
    }
}

fn cannot_open(guest: &str, source: &Source, writable: bool, failure: Failure) -> Error {
    let what = describe(&source.what);
    let path = &source.path;
    let new = |code| Error::new(code, ErrorDomain::DOMAIN, format!("cannot open {what} of domain '{guest}', '{path}'"));
    let error = match failure {
        Failure::Kind(kind) => {
            let error = new(ErrorCode::OPERATION_INVALID).with_cause_text(format!("it is {kind}"));
            return error.with_hint("name a regular file or a block device");
        }
        Failure::System(error) => error,
    };
    let errno = Errno::from_io_error(&error);
    let told = new(ErrorCode::SYSTEM_ERROR).with_cause(error);
    match errno {
        Some(Errno::NOENT | Errno::NOTDIR) => {
            told.with_hint(format!("create '{path}', or correct the path in the document of '{guest}'"))
        }
        Some(Errno::ROFS | Errno::PERM) if writable => {
            told.with_hint("the file cannot be written to: add <readonly/> to the disk, or move the file")
        }
        Some(Errno::MFILE) => told.with_hint("raise the limit of open files: ulimit -n"),
        _ => told,
    }
}

fn describe(what: &SourceKind) -> String {
    match what {
        SourceKind::Disk(target) => format!("disk {target}"),
        SourceKind::Backing(target) => format!("a backing file of disk {target}"),
        SourceKind::Kernel => "the kernel".into(),
        SourceKind::Initrd => "the initrd".into(),
        SourceKind::Dtb => "the device tree".into(),
        SourceKind::Loader => "the firmware".into(),
        SourceKind::Nvram => "the NVRAM".into(),
        SourceKind::NvramTemplate => "the NVRAM's template".into(),
        SourceKind::Serial(index) => format!("serial port {index}"),
        SourceKind::Console(index) => format!("console {index}"),
    }
}

/// A document that the model does not take.
pub(crate) fn not_understood(error: XmlError) -> Error {
    let code = match error {
        XmlError::NotWellFormed { .. } => ErrorCode::XML_DETAIL,
        _ => ErrorCode::XML_ERROR,
    };
    let hint = error.hint();
    let told =
        Error::new(code, ErrorDomain::XML, "XML error: the domain's document is not understood").with_cause(error);
    match hint {
        Some(hint) => told.with_hint(hint),
        None => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::net::UnixListener};

    fn source(path: &Path, writable: bool, what: SourceKind) -> Source {
        Source { path: path.to_string_lossy().into_owned(), writable, what }
    }

    fn disk(path: &Path, writable: bool) -> Source {
        source(path, writable, SourceKind::Disk("vda".into()))
    }

    fn mode(fd: &OwnedFd) -> OFlags {
        rustix::fs::fcntl_getfl(fd).unwrap()
    }

    #[test]
    fn files_are_opened_as_they_are_used() {
        let dir = tempfile::tempdir().unwrap();
        let (disk_path, kernel) = (dir.path().join("disk"), dir.path().join("vmlinuz"));
        fs::write(&disk_path, b"").unwrap();
        fs::write(&kernel, b"").unwrap();
        let sources = [disk(&disk_path, true), source(&kernel, false, SourceKind::Kernel)];
        let opened = open_all("web", &sources).unwrap();
        assert_eq!(opened.sources.iter().map(|s| s.writable).collect::<Vec<_>>(), [true, false]);
        assert_eq!(mode(&opened.fds[0]) & OFlags::RWMODE, OFlags::RDWR);
        assert_eq!(mode(&opened.fds[1]) & OFlags::RWMODE, OFlags::RDONLY);
        for fd in &opened.fds {
            assert!(!mode(fd).contains(OFlags::NONBLOCK));
            assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn a_file_that_is_named_twice_is_opened_once_for_both() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, b"").unwrap();
        let opened = open_all("web", &[disk(&path, false), disk(&path, true)]).unwrap();
        assert_eq!(opened.fds.len(), 1);
        assert!(opened.sources[0].writable);
    }

    #[test]
    fn a_missing_file_is_an_error_that_names_it_and_is_not_created() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing.qcow2");
        let error = open_all("web", &[disk(&path, true)]).unwrap_err();
        assert_eq!(error.code, ErrorCode::SYSTEM_ERROR);
        assert_eq!(error.message, format!("cannot open disk vda of domain 'web', '{}'", path.display()));
        assert!(error.causes[0].contains("No such file"));
        assert!(error.hint.unwrap().contains("in the document of 'web'"));
        assert!(!path.exists());
        let below_a_file = dir.path().join("file");
        fs::write(&below_a_file, b"").unwrap();
        assert!(open_all("web", &[disk(&below_a_file.join("x"), false)]).is_err());
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, socket) = (dir.path().join("fifo"), dir.path().join("socket"));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        let zero = Path::new("/dev/zero");
        for (path, kind) in [
            (fifo.as_path(), "a named pipe"),
            (&socket, "a socket"),
            (dir.path(), "a directory"),
            (zero, "a character device"),
        ] {
            for writable in [false, true] {
                let error = open_all("web", &[disk(path, writable)]).unwrap_err();
                assert_eq!(error.code, ErrorCode::OPERATION_INVALID);
                assert_eq!(error.causes, [format!("it is {kind}")]);
            }
            let line = source(path, true, SourceKind::Serial(0));
            assert!(open_all("web", &[line]).unwrap().fds.is_empty(), "a serial line may be anything");
        }
    }

    #[test]
    fn what_a_start_makes_may_be_missing() {
        let missing = Path::new("/nowhere/x");
        for what in [SourceKind::Nvram, SourceKind::Serial(0), SourceKind::Console(1)] {
            assert!(open_all("web", &[source(missing, true, what)]).unwrap().fds.is_empty());
        }
        for what in [SourceKind::NvramTemplate, SourceKind::Kernel, SourceKind::Backing("vda".into())] {
            assert!(open_all("web", &[source(missing, false, what)]).is_err());
        }
    }

    #[test]
    fn what_the_caller_may_not_open_is_left_to_the_daemon() {
        let denied = Failure::System(Errno::ACCESS.into());
        assert!(is_left_to_the_daemon(&denied, &SourceKind::Disk("vda".into())));
        let busy = Failure::System(Errno::TXTBSY.into());
        assert!(!is_left_to_the_daemon(&busy, &SourceKind::Disk("vda".into())));
    }

    #[test]
    fn a_disk_that_may_be_missing_may_be_missing() {
        let xml = |policy: &str| {
            format!(
                "<domain type='qemu'><name>x</name><memory>1024</memory><os><type>hvm</type></os><devices>\
                 <disk type='file' device='cdrom'><source file='/nowhere/x.iso' startupPolicy='{policy}'/>\
                 <target dev='sda' bus='sata'/></disk></devices></domain>"
            )
        };
        assert!(open_document(&xml("optional")).unwrap().fds.is_empty());
        assert!(open_document(&xml("mandatory")).unwrap_err().message.contains("disk sda of domain 'x'"));
    }

    #[test]
    fn a_document_that_is_not_understood_says_where() {
        let error = open_document("<domain type='qemu'><name>x</name></domain>").unwrap_err();
        assert_eq!(error.code, ErrorCode::XML_ERROR);
        assert!(error.causes[0].contains("line 1"), "{error:?}");
        assert_eq!(open_document("<domain").unwrap_err().code, ErrorCode::XML_DETAIL);
    }
}
