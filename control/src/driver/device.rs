//! A domain's devices: keyboard, screen, console, interfaces.

use api::{Answer, DomainDeviceOps, consts::InterfaceAddressesSource, remote};

use super::{Asked, only};
use crate::{Control, errors};

impl DomainDeviceOps for Control {
    fn domain_send_key(&mut self, cx: &mut Asked, args: remote::DomainSendKeyArgs) -> Answer<()> {
        self.send_key(cx, &args)
    }

    fn domain_screenshot(
        &mut self,
        _: &mut Asked,
        args: remote::DomainScreenshotArgs,
    ) -> Answer<remote::DomainScreenshotRet> {
        only(args.flags, 0, "virDomainScreenshot")?;
        self.running(&args.dom)?;
        Err(errors::wrong_state("no screens to take screenshot from"))
    }

    /// A guest's addresses. No network hands any out, and no interface is started.
    fn domain_interface_addresses(
        &mut self,
        _: &mut Asked,
        args: remote::DomainInterfaceAddressesArgs,
    ) -> Answer<remote::DomainInterfaceAddressesRet> {
        only(args.flags, 0, "virDomainInterfaceAddresses")?;
        self.running(&args.dom)?;
        match i32::try_from(args.source).ok().and_then(|source| InterfaceAddressesSource::try_from(source).ok()) {
            Some(InterfaceAddressesSource::Agent) => Err(errors::no_agent()),
            Some(_) => Ok(remote::DomainInterfaceAddressesRet { ifaces: Vec::new() }.into()),
            None => Err(errors::argument_unsupported(format!("Unknown IP address data source {}", args.source))),
        }
    }
}
