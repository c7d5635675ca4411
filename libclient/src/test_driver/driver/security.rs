//! Security labels. A mock guest has an empty one.

use api::{Answer, DomainSecurityOps, remote};

use super::Context;
use crate::test_driver::machine::Machine;

impl DomainSecurityOps for Machine {
    fn domain_get_security_label(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetSecurityLabelArgs,
    ) -> Answer<remote::DomainGetSecurityLabelRet> {
        self.guest(&args.dom)?;
        Ok(remote::DomainGetSecurityLabelRet { label: api::chars::terminated("libvirt-test"), enforcing: 1 }.into())
    }

    fn domain_get_launch_security_info(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetLaunchSecurityInfoArgs,
    ) -> Answer<remote::DomainGetLaunchSecurityInfoRet> {
        self.empty_list::<remote::DomainGetLaunchSecurityInfoArgs>(&args.dom, args.flags, 0)
    }
}
