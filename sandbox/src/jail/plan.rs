//! A jail as the system calls that build it, with every string ready: what runs here runs between `clone3` and `exec`.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, NulError};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::{Device, Jail, JailError, Source};
use crate::spawn::Step;
use crate::sys::{self, MOUNT_NODEV, MOUNT_NOEXEC, MOUNT_NOSUID, MOUNT_RDONLY};

/// A step of building the jail that failed; `action` indexes [`Plan::subject`].
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) action: u32,
    pub(crate) errno: Errno,
}

enum BindSource {
    Path(CString),
    /// A detached copy: a descriptor belongs to the mounts of the namespace that it was opened in, so the new child, with
    /// mounts of its own, could no longer copy it.
    Tree(OwnedFd),
}

/// One entry of the root, at a path relative to the new root, which is the working directory while they are made.
enum Action {
    Directory(CString),
    Symlink { target: CString, at: CString },
    EmptyFile(CString),
    Bind { source: BindSource, at: CString },
    Lock,
    Tmpfs { at: CString, options: CString },
    DeviceDirectory { at: CString },
    Node { device: Device, at: CString, owner: Option<(u32, u32)> },
    BindNode { source: CString, at: CString },
    LockDevices { at: CString },
}

/// The ordered system calls.
pub(crate) struct Plan {
    size: CString,
    actions: Vec<Action>,
}

/// Where the jail's entry lies relative to its root.
fn relative(inside: &Path) -> Result<CString, NulError> {
    let bytes = inside.as_os_str().as_bytes();
    CString::new(bytes.strip_prefix(b"/").unwrap_or(bytes))
}

impl Plan {
    /// Orders what `jail` describes. With `make_nodes` device nodes are made (which takes privilege on the host), otherwise
    /// the host's nodes are bound.
    /// Descriptors of the plan are numbered from `above` on.
    pub(crate) fn new(jail: &Jail, make_nodes: bool, above: RawFd) -> Result<Plan, JailError> {
        let mut actions = Vec::new();
        for directory in directories(jail, make_nodes) {
            actions.push(Action::Directory(relative(&directory)?));
        }
        for (target, inside) in &jail.symlinks {
            actions
                .push(Action::Symlink { target: CString::new(target.as_os_str().as_bytes())?, at: relative(inside)? });
        }
        for bind in &jail.binds {
            if !bind.directory {
                actions.push(Action::EmptyFile(relative(&bind.inside)?));
            }
        }
        if !make_nodes {
            for (device, _) in &jail.devices {
                actions.push(Action::EmptyFile(device_path(*device)?));
            }
        }
        for bind in &jail.binds {
            let source = match &bind.source {
                Source::Path(path) => BindSource::Path(CString::new(path.as_os_str().as_bytes())?),
                Source::Fd(fd) => BindSource::Tree(detach(fd, &bind.inside, above)?),
            };
            actions.push(Action::Bind { source, at: relative(&bind.inside)? });
        }
        // All that is there so far becomes read-only in one call; what comes after brings its own attributes.
        actions.push(Action::Lock);
        for (inside, dir) in &jail.writable {
            let options = format!("size={},mode={:o},uid={},gid={}", dir.size, dir.mode, dir.uid, dir.gid);
            actions.push(Action::Tmpfs { at: relative(inside)?, options: CString::new(options)? });
        }
        devices(jail, make_nodes, &mut actions)?;
        Ok(Plan { size: CString::new(jail.root_size.to_string())?, actions })
    }

    /// The descriptors that must stay open until the jail is built.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.actions.iter().filter_map(|action| match action {
            Action::Bind { source: BindSource::Tree(fd), .. } => Some(fd.as_raw_fd()),
            _ => None,
        })
    }

    /// What the action with this index was about, for a message.
    pub(crate) fn subject(&self, action: u32) -> Option<PathBuf> {
        let index = usize::try_from(action).ok()?;
        let path: &CStr = match self.actions.get(index)? {
            Action::Bind { source: BindSource::Path(source), .. } | Action::BindNode { source, .. } => source,
            Action::Lock => c"/",
            Action::Directory(at)
            | Action::EmptyFile(at)
            | Action::Symlink { at, .. }
            | Action::Bind { at, .. }
            | Action::Tmpfs { at, .. }
            | Action::DeviceDirectory { at }
            | Action::Node { at, .. }
            | Action::LockDevices { at } => at,
        };
        Some(Path::new("/").join(std::ffi::OsStr::from_bytes(path.to_bytes())))
    }

    /// Builds the root in the calling process's mount namespace and moves into it.
    pub(crate) fn enter(&self, mut reached: impl FnMut(Step)) -> Result<(), Failure> {
        let at = |step, action| move |errno| Failure { step, action, errno };
        const NONE: u32 = u32::MAX;
        // Nothing mounted here may travel to the host, whose mounts may be shared.
        sys::mount_setattr(c"/", true, 0, libc::MS_PRIVATE).map_err(at(Step::PrivateMounts, NONE))?;
        reached(Step::PrivateMounts);
        self.make_root().map_err(at(Step::JailRoot, NONE))?;
        reached(Step::JailRoot);
        for (index, action) in self.actions.iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(NONE);
            action.run().map_err(at(action.step(), index))?;
            reached(action.step());
        }
        rustix::process::pivot_root(c".", c".").map_err(at(Step::PivotRoot, NONE))?;
        reached(Step::PivotRoot);
        // The old root was stacked on the new one by pivot_root, so "." is where it goes away.
        rustix::mount::unmount(c".", UnmountFlags::DETACH).map_err(at(Step::DetachOldRoot, NONE))?;
        rustix::process::chdir(c"/").map_err(at(Step::DetachOldRoot, NONE))?;
        reached(Step::DetachOldRoot);
        Ok(())
    }

    /// Stacks an empty file system in memory on "/" and makes it the working directory. No directory of the host has to
    /// exist for that: the mount is entered by its descriptor.
    fn make_root(&self) -> Result<(), Errno> {
        let context = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(context.as_fd(), c"mode", c"0755")?;
        rustix::mount::fsconfig_set_string(context.as_fd(), c"size", self.size.as_c_str())?;
        rustix::mount::fsconfig_create(context.as_fd())?;
        let attributes =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let root = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        attach(&root, c"/")?;
        rustix::process::fchdir(&root)
    }
}

/// The directories that the entries need, parents first.
fn directories(jail: &Jail, make_nodes: bool) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    let mut with_parents = |path: &Path| {
        directories.extend(path.ancestors().filter(|path| path.parent().is_some()).map(Path::to_path_buf));
    };
    let parent = |path: &PathBuf| path.parent().map(Path::to_path_buf).unwrap_or_default();
    jail.binds
        .iter()
        .for_each(|bind| with_parents(&if bind.directory { bind.inside.clone() } else { parent(&bind.inside) }));
    jail.symlinks.iter().for_each(|(_, inside)| with_parents(&parent(inside)));
    jail.writable.iter().for_each(|(inside, _)| with_parents(inside));
    if !jail.devices.is_empty() || make_nodes && jail.claimed().any(|path| path.starts_with("/dev")) {
        with_parents(Path::new("/dev"));
    }
    directories
}

fn device_path(device: Device) -> Result<CString, NulError> {
    CString::new(format!("dev/{}", device.node().0))
}

/// The device nodes: in a small file system of their own when they are made, since nothing else of the jail may hold nodes.
fn devices(jail: &Jail, make_nodes: bool, actions: &mut Vec<Action>) -> Result<(), JailError> {
    if jail.devices.is_empty() {
        return Ok(());
    }
    if !make_nodes {
        for (device, _) in &jail.devices {
            let source = CString::new(format!("/dev/{}", device.node().0))?;
            actions.push(Action::BindNode { source, at: device_path(*device)? });
        }
        return Ok(());
    }
    actions.push(Action::DeviceDirectory { at: c"dev".to_owned() });
    for (device, owner) in &jail.devices {
        actions.push(Action::Node { device: *device, at: device_path(*device)?, owner: *owner });
    }
    actions.push(Action::LockDevices { at: c"dev".to_owned() });
    Ok(())
}

/// Attaches a detached mount.
fn attach(mount: &OwnedFd, at: &CStr) -> Result<(), Errno> {
    rustix::mount::move_mount(mount.as_fd(), c"", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// A detached copy, made in the parent, of what `fd` names.
fn detach(fd: &OwnedFd, inside: &Path, above: RawFd) -> Result<OwnedFd, JailError> {
    rustix::mount::open_tree(fd.as_fd(), c"", copy_flags() | OpenTreeFlags::AT_EMPTY_PATH)
        .and_then(|tree| rustix::io::fcntl_dupfd_cloexec(tree, above))
        .map_err(|errno| JailError::SourceFd { inside: inside.to_owned(), source: errno.into() })
}

/// A detached copy of the mounts at and beneath `path`.
fn copy_tree(path: &CStr) -> Result<OwnedFd, Errno> {
    rustix::mount::open_tree(CWD, path, copy_flags())
}

fn copy_flags() -> OpenTreeFlags {
    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE
}

impl Action {
    fn step(&self) -> Step {
        match self {
            Action::Directory(_) => Step::JailDirectory,
            Action::Symlink { .. } => Step::JailSymlink,
            Action::EmptyFile(_) | Action::Bind { .. } => Step::JailBind,
            Action::Lock => Step::JailReadOnly,
            Action::Tmpfs { .. } => Step::JailWritable,
            Action::DeviceDirectory { .. }
            | Action::Node { .. }
            | Action::BindNode { .. }
            | Action::LockDevices { .. } => Step::JailDevice,
        }
    }

    fn run(&self) -> Result<(), Errno> {
        match self {
            Action::Directory(at) => rustix::fs::mkdirat(CWD, at.as_c_str(), Mode::from_raw_mode(0o755)),
            Action::Symlink { target, at } => rustix::fs::symlinkat(target.as_c_str(), CWD, at.as_c_str()),
            // mknod needs no privilege for a regular file and, unlike open, leaves nothing to close.
            Action::EmptyFile(at) => {
                rustix::fs::mknodat(CWD, at.as_c_str(), FileType::RegularFile, Mode::from_raw_mode(0o444), 0)
            }
            Action::Bind { source: BindSource::Path(source), at } => attach(&copy_tree(source)?, at),
            Action::Bind { source: BindSource::Tree(tree), at } => attach(tree, at),
            Action::Lock => sys::mount_setattr(c".", true, MOUNT_RDONLY | MOUNT_NOSUID | MOUNT_NODEV, 0),
            Action::Tmpfs { at, options } => {
                let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                rustix::mount::mount(c"tmpfs", at.as_c_str(), c"tmpfs", flags, options.as_c_str())
            }
            Action::DeviceDirectory { at } => {
                let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
                rustix::mount::mount(c"dev", at.as_c_str(), c"tmpfs", flags, c"size=4k,mode=0755")
            }
            Action::Node { device, at, owner } => make_node(*device, at, *owner),
            Action::BindNode { source, at } => {
                let tree = copy_tree(source)?;
                sys::mount_setattr_tree(tree.as_fd(), MOUNT_RDONLY | MOUNT_NOSUID | MOUNT_NOEXEC)?;
                attach(&tree, at)
            }
            Action::LockDevices { at } => sys::mount_setattr(at, false, MOUNT_RDONLY, 0),
        }
    }
}

fn make_node(device: Device, at: &CStr, owner: Option<(u32, u32)>) -> Result<(), Errno> {
    let (_, major, minor) = device.node();
    let everybody = device.for_everybody() && owner.is_none();
    let mode = Mode::from_raw_mode(if everybody { 0o666 } else { 0o600 });
    rustix::fs::mknodat(CWD, at, FileType::CharacterDevice, mode, rustix::fs::makedev(major, minor))?;
    match owner {
        Some((uid, gid)) => {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(CWD, at, Some(uid), Some(gid), AtFlags::empty())
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::WritableDir;

    fn jail() -> Jail {
        let dir = WritableDir { uid: 5, gid: 6, mode: 0o700, size: 4096 };
        Jail::new()
            .bind(Path::new("/usr/lib"), Path::new("/usr/lib"))
            .and_then(|jail| jail.bind(Path::new("/bin/sh"), Path::new("/usr/bin/sh")))
            .and_then(|jail| jail.writable_dir(Path::new("/tmp"), dir))
            .and_then(|jail| jail.device(Device::Null))
            .unwrap()
    }

    #[test]
    fn parents_come_first_and_writable_parts_after_the_lock() {
        let plan = Plan::new(&jail(), true, 3).unwrap();
        let place = |wanted: &dyn Fn(&Action) -> bool| plan.actions.iter().position(wanted).unwrap();
        let directory = |path: &'static CStr| place(&|a| matches!(a, Action::Directory(at) if at.as_c_str() == path));
        assert!(directory(c"usr") < directory(c"usr/bin"));
        assert!(directory(c"usr") < directory(c"usr/lib"));
        let lock = place(&|a| matches!(a, Action::Lock));
        assert!(plan.actions[..lock].iter().filter(|a| matches!(a, Action::Bind { .. })).count() == 2);
        assert!(lock < place(&|a| matches!(a, Action::Tmpfs { .. })));
        assert!(lock < place(&|a| matches!(a, Action::DeviceDirectory { .. })));
    }

    #[test]
    fn nodes_are_bound_without_privilege() {
        let plan = Plan::new(&jail(), false, 3).unwrap();
        assert!(plan.actions.iter().any(|a| matches!(a, Action::BindNode { .. })));
        assert!(!plan.actions.iter().any(|a| matches!(a, Action::Node { .. } | Action::DeviceDirectory { .. })));
    }

    #[test]
    fn subject_of_a_bind_is_the_hosts_path() {
        let plan = Plan::new(&jail(), true, 3).unwrap();
        let index = plan.actions.iter().position(|a| matches!(a, Action::Bind { .. })).unwrap();
        assert_eq!(plan.subject(u32::try_from(index).unwrap()), Some(PathBuf::from("/usr/lib")));
        assert_eq!(plan.subject(u32::MAX), None);
    }
}
