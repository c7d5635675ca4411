//! Registering for events of domains.

use api::{Answer, DomainEventOps, consts::DomainEventId, remote};

use super::Asked;
use crate::{Control, errors};

impl DomainEventOps for Control {
    fn connect_domain_event_callback_register_any(
        &mut self,
        cx: &mut Asked,
        args: remote::ConnectDomainEventCallbackRegisterAnyArgs,
    ) -> Answer<remote::ConnectDomainEventCallbackRegisterAnyRet> {
        // Registering for an event that this driver never emits is allowed, as in libvirt.
        if DomainEventId::try_from(args.event_id).is_err() {
            return Err(errors::invalid(format!("eventID {} is no kind of domain event", args.event_id)));
        }
        let guest = args.dom.map(|dom| self.known(&dom)).transpose()?;
        let charge = self.registration(cx.key)?;
        let callback_id = self.subscribers.register(cx.key, args.event_id, guest, charge);
        let callback_id = callback_id.ok_or_else(|| errors::invalid("too many event callbacks"))?;
        Ok(remote::ConnectDomainEventCallbackRegisterAnyRet { callback_id }.into())
    }

    fn connect_domain_event_callback_deregister_any(
        &mut self,
        cx: &mut Asked,
        args: remote::ConnectDomainEventCallbackDeregisterAnyArgs,
    ) -> Answer<()> {
        if self.subscribers.deregister(cx.key, args.callback_id) {
            return Ok(().into());
        }
        Err(errors::invalid(format!("this connection has no event callback {}", args.callback_id)))
    }
}
