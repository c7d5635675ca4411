//! A client's registrations for events: they are the session's own, and the driver is asked for events once.

use api::{Call, Error, Family, Reply, remote};
use wire::Header;

use super::{Session, flow::Registered};
use crate::worker::events::Object;

impl Session {
    /// Answers a call that registers for events or takes that back; `None` for every other call. The answer waits for the
    /// driver if nothing was registered before.
    pub(super) fn registration(&mut self, header: Header, call: &Call) -> Option<Result<Option<Reply>, Error>> {
        Some(match call {
            Call::ConnectDomainEventCallbackRegisterAny(args) => {
                let object = args.dom.as_ref().map(|dom| Object::Uuid(dom.uuid));
                self.register(header, Family::Domain, args.event_id, object, |callback_id| {
                    let ret = remote::ConnectDomainEventCallbackRegisterAnyRet { callback_id };
                    Reply::ConnectDomainEventCallbackRegisterAny(ret)
                })
            }
            Call::ConnectNetworkEventRegisterAny(args) => {
                let object = args.net.as_ref().map(|net| Object::Uuid(net.uuid));
                self.register(header, Family::Network, args.event_id, object, |callback_id| {
                    Reply::ConnectNetworkEventRegisterAny(remote::ConnectNetworkEventRegisterAnyRet { callback_id })
                })
            }
            Call::ConnectStoragePoolEventRegisterAny(args) => {
                let object = args.pool.as_ref().map(|pool| Object::Uuid(pool.uuid));
                self.register(header, Family::StoragePool, args.event_id, object, |callback_id| {
                    let ret = remote::ConnectStoragePoolEventRegisterAnyRet { callback_id };
                    Reply::ConnectStoragePoolEventRegisterAny(ret)
                })
            }
            Call::ConnectNodeDeviceEventRegisterAny(args) => {
                let object = args.dev.as_ref().map(|dev| Object::Name(dev.name.clone()));
                self.register(header, Family::NodeDevice, args.event_id, object, |callback_id| {
                    let ret = remote::ConnectNodeDeviceEventRegisterAnyRet { callback_id };
                    Reply::ConnectNodeDeviceEventRegisterAny(ret)
                })
            }
            Call::ConnectSecretEventRegisterAny(args) => {
                let object = args.secret.as_ref().map(|secret| Object::Uuid(secret.uuid));
                self.register(header, Family::Secret, args.event_id, object, |callback_id| {
                    Reply::ConnectSecretEventRegisterAny(remote::ConnectSecretEventRegisterAnyRet { callback_id })
                })
            }
            Call::ConnectDomainEventRegisterAny(args) => {
                let reply = Reply::ConnectDomainEventRegisterAny(());
                self.register_old(header, args.event_id, reply)
            }
            Call::ConnectDomainEventRegister(_) => {
                let ret = remote::ConnectDomainEventRegisterRet { cb_registered: 1 };
                self.register_old(header, 0, Reply::ConnectDomainEventRegister(ret))
            }
            _ => return self.deregistration(call),
        })
    }

    fn deregistration(&mut self, call: &Call) -> Option<Result<Option<Reply>, Error>> {
        let (taken_back, reply) = match call {
            Call::ConnectDomainEventCallbackDeregisterAny(args) => (
                self.registrations.deregister(Family::Domain, args.callback_id),
                Reply::ConnectDomainEventCallbackDeregisterAny(()),
            ),
            Call::ConnectNetworkEventDeregisterAny(args) => (
                self.registrations.deregister(Family::Network, args.callback_id),
                Reply::ConnectNetworkEventDeregisterAny(()),
            ),
            Call::ConnectStoragePoolEventDeregisterAny(args) => (
                self.registrations.deregister(Family::StoragePool, args.callback_id),
                Reply::ConnectStoragePoolEventDeregisterAny(()),
            ),
            Call::ConnectNodeDeviceEventDeregisterAny(args) => (
                self.registrations.deregister(Family::NodeDevice, args.callback_id),
                Reply::ConnectNodeDeviceEventDeregisterAny(()),
            ),
            Call::ConnectSecretEventDeregisterAny(args) => (
                self.registrations.deregister(Family::Secret, args.callback_id),
                Reply::ConnectSecretEventDeregisterAny(()),
            ),
            Call::ConnectDomainEventDeregisterAny(args) => {
                (self.registrations.deregister_old(args.event_id), Reply::ConnectDomainEventDeregisterAny(()))
            }
            Call::ConnectDomainEventDeregister(_) => {
                let ret = remote::ConnectDomainEventDeregisterRet { cb_registered: 0 };
                (self.registrations.deregister_old(0), Reply::ConnectDomainEventDeregister(ret))
            }
            _ => return None,
        };
        Some(taken_back.map(|()| Some(self.deregistered(reply))))
    }

    fn register(
        &mut self,
        header: Header,
        family: Family,
        event: i32,
        object: Option<Object>,
        reply: fn(i32) -> Reply,
    ) -> Result<Option<Reply>, Error> {
        let id = self.registrations.register(family, event, object)?;
        Ok(self.registered(header, reply(id), Registered::New(family, id)))
    }

    fn register_old(&mut self, header: Header, event: i32, reply: Reply) -> Result<Option<Reply>, Error> {
        self.registrations.register_old(event)?;
        Ok(self.registered(header, reply, Registered::Old(event)))
    }
}
