//! What only an agent in the guest could answer or do. No guest has one yet.

use api::{Answer, DomainAgentOps, qemu, remote};

use super::Asked;
use crate::{Control, errors};

impl DomainAgentOps for Control {
    fn domain_get_hostname(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetHostnameArgs,
    ) -> Answer<remote::DomainGetHostnameRet> {
        self.needs_agent(&args.dom)
    }

    fn domain_get_time(&mut self, _: &mut Asked, args: remote::DomainGetTimeArgs) -> Answer<remote::DomainGetTimeRet> {
        self.needs_agent(&args.dom)
    }

    fn domain_set_time(&mut self, _: &mut Asked, args: remote::DomainSetTimeArgs) -> Answer<()> {
        self.needs_agent(&args.dom)
    }

    fn domain_get_fsinfo(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetFsinfoArgs,
    ) -> Answer<remote::DomainGetFsinfoRet> {
        self.needs_agent(&args.dom)
    }

    fn domain_fstrim(&mut self, _: &mut Asked, args: remote::DomainFstrimArgs) -> Answer<()> {
        self.needs_agent(&args.dom)
    }

    fn domain_fsfreeze(
        &mut self,
        _: &mut Asked,
        args: remote::DomainFsfreezeArgs,
    ) -> Answer<remote::DomainFsfreezeRet> {
        self.needs_agent(&args.dom)
    }

    fn domain_fsthaw(&mut self, _: &mut Asked, args: remote::DomainFsthawArgs) -> Answer<remote::DomainFsthawRet> {
        self.needs_agent(&args.dom)
    }

    fn domain_set_user_password(&mut self, _: &mut Asked, args: remote::DomainSetUserPasswordArgs) -> Answer<()> {
        self.needs_agent(&args.dom)
    }

    fn domain_get_guest_info(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetGuestInfoArgs,
    ) -> Answer<remote::DomainGetGuestInfoRet> {
        self.needs_agent(&args.dom)
    }

    fn domain_authorized_ssh_keys_get(
        &mut self,
        _: &mut Asked,
        args: remote::DomainAuthorizedSshKeysGetArgs,
    ) -> Answer<remote::DomainAuthorizedSshKeysGetRet> {
        self.needs_agent(&args.dom)
    }

    fn domain_authorized_ssh_keys_set(
        &mut self,
        _: &mut Asked,
        args: remote::DomainAuthorizedSshKeysSetArgs,
    ) -> Answer<()> {
        self.needs_agent(&args.dom)
    }

    fn qemu_domain_agent_command(
        &mut self,
        _: &mut Asked,
        args: qemu::DomainAgentCommandArgs,
    ) -> Answer<qemu::DomainAgentCommandRet> {
        self.needs_agent(&args.dom)
    }
}

impl Control {
    /// What the guest's agent would answer or do, if there were one.
    pub(super) fn needs_agent<R>(&self, dom: &remote::Domain) -> Answer<R> {
        self.running(dom)?;
        Err(errors::no_agent())
    }
}
