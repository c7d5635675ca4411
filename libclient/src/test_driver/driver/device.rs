//! A guest's devices: keyboard and interfaces.

use api::{Answer, DomainDeviceOps, Op, consts::InterfaceAddressesSource, params::Params, remote};

use super::{Context, LISTS, known_flags, no_flags};
use crate::test_driver::machine::{ERRORS, Machine};

impl DomainDeviceOps for Machine {
    fn domain_send_key(&mut self, _: &mut Context, args: remote::DomainSendKeyArgs) -> Answer<()> {
        no_flags(args.flags, Op::DomainSendKey)?;
        if args.keycodes.is_empty() {
            return Err(ERRORS.invalid("no key is to be pressed"));
        }
        self.guest(&args.dom)?.running()?;
        Ok(().into())
    }

    fn domain_interface_addresses(
        &mut self,
        _: &mut Context,
        args: remote::DomainInterfaceAddressesArgs,
    ) -> Answer<remote::DomainInterfaceAddressesRet> {
        no_flags(args.flags, Op::DomainInterfaceAddresses)?;
        if i32::try_from(args.source).ok().and_then(|source| InterfaceAddressesSource::try_from(source).ok()).is_none()
        {
            let text = format_args!("Unknown IP address data source {}", args.source);
            return Err(ERRORS.argument_unsupported(text));
        }
        let guest = self.guest(&args.dom)?;
        guest.running()?;
        // libvirt's: the third address of its default network, and those that follow.
        let interface = |((name, hwaddr), host): ((String, String), u32)| remote::DomainInterface {
            name,
            hwaddr: Some(hwaddr),
            addrs: vec![remote::DomainIpAddr { r#type: 0, addr: format!("192.168.122.{}", host % 256), prefix: 24 }],
        };
        let ifaces = guest.interfaces().into_iter().zip(3..).map(interface).collect();
        Ok(remote::DomainInterfaceAddressesRet { ifaces }.into())
    }

    fn domain_get_interface_parameters(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetInterfaceParametersArgs,
    ) -> Answer<remote::DomainGetInterfaceParametersRet> {
        known_flags(args.flags, LISTS, Op::DomainGetInterfaceParameters)?;
        let guest = self.guest(&args.dom)?;
        guest.asked(args.flags)?;
        guest.check_interface(&args.device)?;
        let mut list = Params::new();
        for limit in ["inbound.average", "inbound.peak", "inbound.burst", "inbound.floor"] {
            list.uint(limit, 0);
        }
        for limit in ["outbound.average", "outbound.peak", "outbound.burst"] {
            list.uint(limit, 0);
        }
        let (params, nparams) = list.asked(args.nparams);
        Ok(remote::DomainGetInterfaceParametersRet { params, nparams }.into())
    }
}

#[cfg(test)]
mod tests {
    use api::ErrorCode;

    use super::*;
    use crate::test_driver::rig::{ask, test};

    #[test]
    fn a_guest_has_the_interfaces_of_its_document() {
        let (link, dom) = test();
        let stats =
            |device: &str| ask(&link, remote::DomainInterfaceStatsArgs { dom: dom.clone(), device: device.into() });
        stats("testnet0").unwrap();
        assert_eq!(stats("testnet1").unwrap_err().code, ErrorCode::INVALID_ARG);
        let args = remote::DomainInterfaceAddressesArgs { dom: dom.clone(), source: 0, flags: 0 };
        let found = ask(&link, args).unwrap().ifaces;
        assert_eq!((found.len(), found[0].name.as_str()), (1, "testnet0"));
        assert_eq!(found[0].hwaddr.as_deref(), Some("aa:bb:cc:dd:ee:ff"));
        assert_eq!(found[0].addrs[0].addr, "192.168.122.3");
    }
}
