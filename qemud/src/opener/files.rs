//! Opens files for control, and only under the configured roots; looks at emulators, likewise.
//!
//! A link inside a root may point anywhere, so the kernel resolves the path beneath the root. A link that leaves it is
//! followed only if its end lies beneath a root too, and that end is opened without following links. A session's root is
//! `/`: there the user's own rights decide and links are followed.

use std::{
    fs,
    io::Read,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fcntl_getfl, fcntl_setfl, fstat, open, openat2},
    io::Errno,
};

use super::Emulator;
use crate::edge::Refusal;

/// Opens `path` for control.
///
/// # Errors
/// When the path is not plain, outside the roots, cannot be opened, or is no disk or file.
pub fn open_for_control(path: &str, writable: bool, roots: &[PathBuf]) -> Result<OwnedFd, Refusal> {
    let plain = Path::new(path);
    let steps_back = plain.components().any(|part| part == Component::ParentDir);
    if !plain.is_absolute() || steps_back || path.contains('\0') {
        return Err(Refusal::Path { path: path.into() });
    }
    let Some((root, inside)) = roots.iter().find_map(|root| Some((root, plain.strip_prefix(root).ok()?))) else {
        let roots = roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(Refusal::OutsideRoots { path: path.into(), roots });
    };
    let failed = |errno: Errno| Refusal::Open {
        path: path.into(),
        cause: std::io::Error::from(errno).to_string(),
        errno: errno.raw_os_error(),
    };
    // Without O_NONBLOCK, opening a FIFO would wait for its other end.
    let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
    let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = if root == Path::new("/") {
        openat2(CWD, plain, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
    } else {
        let dir = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        openat2(dir, inside, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
    };
    let fd = match fd {
        Err(Errno::XDEV) => open_link_s_end(plain, flags, roots).map_err(|error| match error {
            Errno::XDEV => Refusal::LinkOutside { path: path.into() },
            error => failed(error),
        })?,
        other => other.map_err(failed)?,
    };
    let kind = FileType::from_raw_mode(fstat(&fd).map_err(failed)?.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
        return Err(Refusal::Kind { path: path.into() });
    }
    let flags = fcntl_getfl(&fd).map_err(failed)?;
    fcntl_setfl(&fd, flags - OFlags::NONBLOCK).map_err(failed)?;
    Ok(fd)
}

/// Opens what a link from one place beneath the roots to another leads to. EXDEV: its end is elsewhere, or cannot be told,
/// so that nobody learns what there is outside of the roots.
fn open_link_s_end(path: &Path, flags: OFlags, roots: &[PathBuf]) -> Result<OwnedFd, Errno> {
    let real = fs::canonicalize(path).map_err(|_| Errno::XDEV)?;
    let beneath = |root: &PathBuf| {
        let root = fs::canonicalize(root).ok()?;
        let inside = real.strip_prefix(&root).ok()?.to_path_buf();
        Some((root, inside))
    };
    let (root, inside) = roots.iter().find_map(beneath).ok_or(Errno::XDEV)?;
    let dir = open(&root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // A link that is put in the way between the two looks is not followed.
    openat2(dir, inside, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// An emulator is a program file under the configured directories; where there is privilege to lose, root's own.
///
/// # Errors
/// When it is none that may be run.
pub fn check_emulator(path: &str, roots: &[PathBuf], roots_own: bool) -> Result<Emulator, Refusal> {
    let refuse = |why: &str| Refusal::Emulator { path: path.into(), why: why.into() };
    let real = fs::canonicalize(path).map_err(|error| refuse(&error.to_string()))?;
    if !Path::new(path).is_absolute() || !roots.iter().any(|root| real.starts_with(root)) {
        let roots = roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(refuse(&format!("it is not under {roots}")));
    }
    let data = fs::metadata(&real).map_err(|error| refuse(&error.to_string()))?;
    if !data.is_file() || data.mode() & 0o111 == 0 {
        return Err(refuse("it is no program"));
    }
    let mut magic = [0; 4];
    let read = fs::File::open(&real).and_then(|mut file| file.read_exact(&mut magic));
    if read.is_err() || magic != *b"\x7fELF" {
        return Err(refuse("it is no binary program; a script needs a shell, and a compartment has none"));
    }
    if roots_own && (data.uid() != 0 || data.mode() & 0o022 != 0) {
        return Err(refuse("it does not belong to root alone"));
    }
    let changed = (data.ctime(), data.ctime_nsec());
    Ok(Emulator { path: real, device: data.dev(), inode: data.ino(), changed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn opens_beneath_a_root_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("images");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("disk"), "x").unwrap();
        fs::write(dir.path().join("secret"), "x").unwrap();
        symlink("disk", root.join("inner")).unwrap();
        symlink("../secret", root.join("outer")).unwrap();
        symlink(dir.path().join("secret"), root.join("absolute")).unwrap();
        let roots = [root.clone()];
        let try_open = |path: PathBuf| open_for_control(path.to_str().unwrap(), true, &roots);

        assert!(try_open(root.join("disk")).is_ok());
        assert!(try_open(root.join("inner")).is_ok());
        assert!(matches!(try_open(root.join("outer")), Err(Refusal::LinkOutside { .. })));
        assert!(matches!(try_open(root.join("absolute")), Err(Refusal::LinkOutside { .. })));
        symlink(root.join("disk"), root.join("whole")).unwrap();
        symlink(dir.path().join("none"), root.join("nowhere")).unwrap();
        assert!(try_open(root.join("whole")).is_ok(), "an absolute link that ends inside");
        assert!(matches!(try_open(root.join("nowhere")), Err(Refusal::LinkOutside { .. })));
        assert!(matches!(try_open(root.join("../secret")), Err(Refusal::Path { .. })));
        assert!(matches!(try_open(dir.path().join("secret")), Err(Refusal::OutsideRoots { .. })));
        assert!(matches!(try_open(dir.path().join("images2/disk")), Err(Refusal::OutsideRoots { .. })));
        assert!(matches!(try_open("images/disk".into()), Err(Refusal::Path { .. })));
        assert!(matches!(try_open(root.join("none")), Err(Refusal::Open { errno: 2, .. })));
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let roots = [dir.path().to_path_buf()];
        assert!(matches!(open_for_control(fifo.to_str().unwrap(), false, &roots), Err(Refusal::Kind { .. })));
        assert!(matches!(open_for_control(dir.path().to_str().unwrap(), false, &roots), Err(Refusal::Kind { .. })));
    }
}
