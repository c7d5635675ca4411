//! A guest's inside, as far as a mock has one: its clock, its name, its file systems.

use api::{Answer, DomainAgentOps, Op, remote};

use super::{Context, known_flags, no_flags};
use crate::{
    Result,
    test_driver::machine::{ERRORS, Machine},
};

/// The clock of every guest, in seconds since 1970: the value that libvirt's test driver answers.
pub(super) const GUEST_TIME: u64 = 627_319_920;
/// The file systems of a guest: where they are mounted, and which partition of the first disk each is on.
const FILE_SYSTEMS: [(&str, u32); 2] = [("/", 1), ("/boot", 2)];

impl Machine {
    /// How many file systems have changed by it, of all or of those that are named.
    fn set_frozen(&mut self, dom: &remote::Domain, mountpoints: &[String], frozen: bool) -> Result<i32> {
        let running = self.running(dom)?;
        mountpoints.iter().try_for_each(|path| check_mount_point(path))?;
        let is_meant = |path: &str| mountpoints.is_empty() || mountpoints.iter().any(|named| named == path);
        let meant = FILE_SYSTEMS.map(|(path, _)| path).into_iter().filter(|path| is_meant(path));
        let changed =
            |path: &&'static str| if frozen { running.frozen.insert(path) } else { running.frozen.remove(path) };
        Ok(i32::try_from(meant.filter(changed).count()).unwrap_or(i32::MAX))
    }
}

impl DomainAgentOps for Machine {
    fn domain_get_time(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetTimeArgs,
    ) -> Answer<remote::DomainGetTimeRet> {
        no_flags(args.flags, Op::DomainGetTime)?;
        self.guest(&args.dom)?.running()?;
        let seconds = i64::try_from(GUEST_TIME).unwrap_or(i64::MAX);
        Ok(remote::DomainGetTimeRet { seconds, nseconds: 0 }.into())
    }

    fn domain_get_hostname(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetHostnameArgs,
    ) -> Answer<remote::DomainGetHostnameRet> {
        const SOURCES: u32 = 0x3;
        known_flags(args.flags, SOURCES, Op::DomainGetHostname)?;
        self.guest(&args.dom)?.running()?;
        Ok(remote::DomainGetHostnameRet { hostname: "testhost".into() }.into())
    }

    /// A guest that runs has libvirt's two file systems, on its first disk.
    fn domain_get_fsinfo(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetFsinfoArgs,
    ) -> Answer<remote::DomainGetFsinfoRet> {
        no_flags(args.flags, Op::DomainGetFsinfo)?;
        let guest = self.guest(&args.dom)?;
        guest.running()?;
        let name = guest.disks().first().map_or("vda", |disk| &disk.target.dev);
        let info = FILE_SYSTEMS.map(|(mountpoint, partition)| remote::DomainFsinfo {
            mountpoint: mountpoint.into(),
            name: format!("{name}{partition}"),
            fstype: "ext4".into(),
            dev_aliases: vec![name.to_owned()],
        });
        Ok(remote::DomainGetFsinfoRet { info: info.to_vec(), ret: 2 }.into())
    }

    fn domain_fsfreeze(
        &mut self,
        _: &mut Context,
        args: remote::DomainFsfreezeArgs,
    ) -> Answer<remote::DomainFsfreezeRet> {
        no_flags(args.flags, Op::DomainFsfreeze)?;
        let filesystems = self.set_frozen(&args.dom, &args.mountpoints, true)?;
        Ok(remote::DomainFsfreezeRet { filesystems }.into())
    }

    fn domain_fsthaw(&mut self, _: &mut Context, args: remote::DomainFsthawArgs) -> Answer<remote::DomainFsthawRet> {
        no_flags(args.flags, Op::DomainFsthaw)?;
        let filesystems = self.set_frozen(&args.dom, &args.mountpoints, false)?;
        Ok(remote::DomainFsthawRet { filesystems }.into())
    }

    fn domain_fstrim(&mut self, _: &mut Context, args: remote::DomainFstrimArgs) -> Answer<()> {
        no_flags(args.flags, Op::DomainFstrim)?;
        self.guest(&args.dom)?.running()?;
        args.mount_point.as_deref().map_or(Ok(()), check_mount_point)?;
        Ok(().into())
    }

    fn domain_set_user_password(&mut self, _: &mut Context, args: remote::DomainSetUserPasswordArgs) -> Answer<()> {
        const ENCRYPTED: u32 = 1;
        known_flags(args.flags, ENCRYPTED, Op::DomainSetUserPassword)?;
        self.guest(&args.dom)?.running()?;
        Ok(().into())
    }
}

fn check_mount_point(path: &str) -> Result<()> {
    if FILE_SYSTEMS.iter().any(|(known, _)| *known == path) {
        return Ok(());
    }
    Err(ERRORS.wrong_state(format_args!("mount point not found: {path}")))
}

#[cfg(test)]
mod tests {
    use api::ErrorCode;

    use super::*;
    use crate::test_driver::rig::{ask, test};

    #[test]
    fn file_systems_are_frozen_once() {
        let (link, dom) = test();
        let freeze = |mountpoints: &[&str]| {
            let mountpoints = mountpoints.iter().map(ToString::to_string).collect();
            ask(&link, remote::DomainFsfreezeArgs { dom: dom.clone(), mountpoints, flags: 0 })
                .map(|ret| ret.filesystems)
        };
        assert_eq!(freeze(&["/nowhere"]).unwrap_err().code, ErrorCode::OPERATION_INVALID);
        assert_eq!([freeze(&["/"]), freeze(&[]), freeze(&["/", "/boot"])], [Ok(1), Ok(1), Ok(0)]);
        let thaw = remote::DomainFsthawArgs { dom: dom.clone(), mountpoints: Vec::new(), flags: 0 };
        assert_eq!(ask(&link, thaw).unwrap().filesystems, 2);
        assert_eq!(ask(&link, remote::DomainGetFsinfoArgs { dom, flags: 0 }).unwrap().info[0].mountpoint, "/");
    }
}
