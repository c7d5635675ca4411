//! Commands for the monitor of a domain's QEMU.

use api::{Answer, DomainMonitorOps, qemu};

use super::Asked;
use crate::Control;

impl DomainMonitorOps for Control {
    fn qemu_domain_monitor_command(
        &mut self,
        cx: &mut Asked,
        args: qemu::DomainMonitorCommandArgs,
    ) -> Answer<qemu::DomainMonitorCommandRet> {
        self.monitor_command(cx, &args)
    }
}
