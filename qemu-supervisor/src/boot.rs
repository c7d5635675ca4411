//! What a supervisor checks and makes before its QEMU runs: control is not believed either.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use sandbox::fd::check::{self, Access};
use supervisor::protocol::{
    Boot, Copy, Failure, MAX_RECORD, Probe, Start,
    qemu::{BootSpec, CopySpec},
    qemu_fds,
};

/// The most arguments of QEMU, and the longest.
const ARGUMENTS_MAX: usize = 4096;
const ARGUMENT_MAX: usize = 64 << 10;
/// The longest name of a guest.
const NAME_MAX: usize = 1024;
/// The longest name of a copy.
const COPY_NAME_MAX: usize = 64;
/// The most that all copies of a guest may hold: they lie in memory.
const COPIES_MAX: u64 = 1 << 30;
/// The longest deadline of a command.
const DEADLINE_MAX_MS: u32 = 3_600_000;

/// The number of the job and the order of version 4's request to start a guest.
///
/// # Errors
/// When its payload is for another kind of guest, or can't be read.
pub fn of_start(start: Start) -> Result<(u64, Boot), Failure> {
    let spec: BootSpec = start.spec.read().map_err(|error| Failure::BadRequest(error.to_string()))?;
    let copies = spec.copies.into_iter().map(|CopySpec { file, name }| Copy { file, name }).collect();
    let boot = Boot {
        name: start.name,
        argv: spec.argv,
        consoles: spec.consoles,
        files: spec.files,
        copies,
        paused: spec.paused,
        on_poweroff: spec.on_poweroff,
        on_reboot: spec.on_reboot,
        on_crash: spec.on_crash,
        deadline_ms: spec.deadline_ms,
        record: start.record,
    };
    Ok((start.job, boot))
}

/// Checks a request to boot and counts its descriptors.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_boot(boot: &Boot, fds: &[OwnedFd]) -> Result<(), Failure> {
    if boot.name.is_empty() || boot.name.len() > NAME_MAX || boot.name.chars().any(char::is_control) {
        return bad("the guest's name is empty, too long or has control characters".into());
    }
    check_command(&boot.argv, boot.deadline_ms)?;
    if boot.record.len() > MAX_RECORD {
        return bad(format!("a record of {} bytes is longer than {MAX_RECORD}", boot.record.len()));
    }
    if boot.consoles > qemu_fds::MAX_CONSOLES {
        return bad(format!("{} consoles are more than {}", boot.consoles, qemu_fds::MAX_CONSOLES));
    }
    if usize::from(boot.files) != fds.len() {
        return bad(format!("{} descriptors are announced, {} came", boot.files, fds.len()));
    }
    for (at, copy) in boot.copies.iter().enumerate() {
        check_copy(copy, boot.files)?;
        let earlier = boot.copies.get(..at).unwrap_or_default();
        if earlier.iter().any(|other| other.file == copy.file || other.name == copy.name) {
            return bad(format!("file {} or name '{}' is copied twice", copy.file, copy.name));
        }
    }
    Ok(())
}

/// Checks a request to ask a QEMU what it can do.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_probe(probe: &Probe, fds: &[OwnedFd]) -> Result<(), Failure> {
    if !fds.is_empty() {
        return bad(format!("a probe comes without descriptors, {} came", fds.len()));
    }
    check_command(&probe.argv, probe.deadline_ms)
}

fn check_command(argv: &[String], deadline_ms: u32) -> Result<(), Failure> {
    if argv.is_empty() || argv.len() > ARGUMENTS_MAX {
        return bad(format!("{} arguments are none or more than {ARGUMENTS_MAX}", argv.len()));
    }
    if let Some(at) = argv.iter().position(|argument| argument.len() > ARGUMENT_MAX || argument.contains('\0')) {
        return bad(format!("argument {at} is longer than {ARGUMENT_MAX} bytes or contains a NUL byte"));
    }
    if !argv.first().is_some_and(|program| program.starts_with('/')) {
        return bad("the path of QEMU is not absolute".into());
    }
    if deadline_ms == 0 || deadline_ms > DEADLINE_MAX_MS {
        return bad(format!("a deadline of {deadline_ms} ms is not between 1 and {DEADLINE_MAX_MS}"));
    }
    Ok(())
}

fn check_copy(copy: &Copy, files: u8) -> Result<(), Failure> {
    if copy.file >= files {
        return bad(format!("file {} is to be copied, there are {files}", copy.file));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let dots = copy.name.bytes().all(|byte| byte == b'.');
    if copy.name.len() > COPY_NAME_MAX || dots || !copy.name.bytes().all(allowed) {
        return bad(
            "a copy's name is empty, only dots, too long or has other characters than letters, digits, '.', '-', '_'"
                .into(),
        );
    }
    Ok(())
}

fn bad<T>(why: String) -> Result<T, Failure> {
    Err(Failure::BadRequest(why))
}

/// The files that QEMU opens by path. They are there until they are removed, or dropped.
#[derive(Debug, Default)]
pub struct Copies {
    paths: Vec<PathBuf>,
}

impl Copies {
    /// Copies the files that a request names into `directory`, and returns the descriptors that are not copied, with the
    /// numbers that QEMU knows them by.
    ///
    /// # Errors
    /// When one is not a readable regular file, or there is no room.
    pub fn make(boot: &Boot, fds: Vec<OwnedFd>, directory: &Path) -> Result<(Copies, Vec<(i32, OwnedFd)>), Failure> {
        let mut copies = Copies::default();
        let mut left = COPIES_MAX;
        let mut rest = Vec::new();
        for (fd, number) in fds.into_iter().zip(0u8..) {
            match boot.copies.iter().find(|copy| copy.file == number) {
                Some(copy) => left -= copies.copy(fd, &directory.join(&copy.name), left)?,
                None => rest.push((qemu_fds::FIRST_FILE + i32::from(number), fd)),
            }
        }
        Ok((copies, rest))
    }

    /// Whether there is nothing to remove.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Removes them; QEMU has read them.
    pub fn remove(&mut self) {
        for path in self.paths.drain(..) {
            // It can't be helped when it fails, and it costs no more than the memory.
            let _ = std::fs::remove_file(path);
        }
    }

    fn copy(&mut self, fd: OwnedFd, to: &Path, left: u64) -> Result<u64, Failure> {
        check::regular(fd.as_fd(), Access::Read).map_err(|error| failed("check a file to copy", &error))?;
        let step = |what| move |error: io::Error| failed(what, &error);
        let mut source = File::from(fd);
        source.seek(SeekFrom::Start(0)).map_err(step("read a file to copy"))?;
        let mut target = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(to)
            .map_err(step("make a copy in the guest's root"))?;
        self.paths.push(to.to_owned());
        let copied = io::copy(&mut source.by_ref().take(left), &mut target)
            .map_err(step("copy a file into the guest's root"))?;
        let mut beyond = [0];
        if copied == left && source.read(&mut beyond).map_err(step("read a file to copy"))? > 0 {
            return bad(format!("the files to copy are larger than {COPIES_MAX} bytes"));
        }
        Ok(copied)
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A failure before QEMU ran, with the whole chain of reasons.
#[must_use]
pub fn failed(step: &str, error: &dyn std::error::Error) -> Failure {
    let mut cause = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        cause = format!("{cause}: {error}");
        source = error.source();
    }
    Failure::Spawn { step: step.to_owned(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use supervisor::protocol::Action;

    fn boot(files: u8, copies: &[(u8, &str)]) -> Boot {
        Boot {
            name: "web".into(),
            argv: vec!["/usr/bin/qemu".into()],
            consoles: 1,
            files,
            copies: copies.iter().map(|(file, name)| Copy { file: *file, name: (*name).into() }).collect(),
            paused: false,
            on_poweroff: Action::Destroy,
            on_reboot: Action::Restart,
            on_crash: Action::Destroy,
            deadline_ms: 1000,
            record: String::new(),
        }
    }

    fn file(content: &[u8]) -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.into()
    }

    #[test]
    fn an_acceptable_request_passes() {
        let fds = [file(b""), file(b"")];
        check_boot(&boot(2, &[(0, "kernel"), (1, "initrd.gz")]), &fds).unwrap();
        check_boot(&boot(0, &[]), &[]).unwrap();
    }

    #[test]
    fn everything_out_of_bounds_is_refused() {
        type Spoil = fn(&mut Boot);
        let spoils: [Spoil; 16] = [
            |boot| boot.name.clear(),
            |boot| boot.name.push('\n'),
            |boot| boot.argv.clear(),
            |boot| boot.argv.push("a\0b".into()),
            |boot| boot.argv.push("x".repeat(ARGUMENT_MAX + 1)),
            |boot| boot.argv.resize(ARGUMENTS_MAX + 1, String::new()),
            |boot| boot.argv[0] = "qemu".into(),
            |boot| boot.consoles = 9,
            |boot| boot.files = 2,
            |boot| boot.copies[0].file = 1,
            |boot| boot.copies[0].name = "../etc".into(),
            |boot| boot.copies[0].name = "..".into(),
            |boot| boot.copies[0].name.clear(),
            |boot| boot.copies.push(boot.copies[0].clone()),
            |boot| boot.deadline_ms = 0,
            |boot| boot.record = "x".repeat(MAX_RECORD + 1),
        ];
        for (at, spoil) in spoils.into_iter().enumerate() {
            let mut boot = boot(1, &[(0, "kernel")]);
            spoil(&mut boot);
            assert!(matches!(check_boot(&boot, &[file(b"")]), Err(Failure::BadRequest(_))), "{at}");
        }
    }

    #[test]
    fn copies_are_made_and_removed_and_the_rest_keeps_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let fds = vec![file(b"disk"), file(b"kernel"), file(b"other")];
        let (mut copies, rest) = Copies::make(&boot(3, &[(1, "kernel")]), fds, dir.path()).unwrap();
        assert_eq!(std::fs::read(dir.path().join("kernel")).unwrap(), b"kernel");
        assert_eq!(rest.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [16, 18]);
        copies.remove();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_regular_files_are_copied_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let make = |fd| Copies::make(&boot(1, &[(0, "kernel")]), vec![fd], dir.path());
        let null = File::open("/dev/null").unwrap().into();
        assert!(matches!(make(null), Err(Failure::Spawn { .. })));
        std::os::unix::fs::symlink("/dev/null", dir.path().join("kernel")).unwrap();
        assert!(matches!(make(file(b"kernel")), Err(Failure::Spawn { .. })));
    }
}
