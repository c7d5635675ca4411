//! Security labels. No domain of this driver has one.

use api::{Answer, DomainSecurityOps, remote};

use super::Asked;
use crate::Control;

impl DomainSecurityOps for Control {
    fn domain_get_security_label(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetSecurityLabelArgs,
    ) -> Answer<remote::DomainGetSecurityLabelRet> {
        self.known(&args.dom)?;
        Ok(remote::DomainGetSecurityLabelRet { label: api::chars::terminated(""), enforcing: 0 }.into())
    }

    fn domain_get_security_label_list(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetSecurityLabelListArgs,
    ) -> Answer<remote::DomainGetSecurityLabelListRet> {
        self.known(&args.dom)?;
        Ok(remote::DomainGetSecurityLabelListRet { labels: Vec::new(), ret: 0 }.into())
    }
}
