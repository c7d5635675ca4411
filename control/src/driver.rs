//! Calls in, answers out: the operation table's driver of this daemon.
//!
//! [`Control::take_call`] is the one way in: it decodes, applies the read-only rule, checks the descriptors and dispatches.
//! The methods below are what the table calls; those that need more than a few lines stand in `domains` and `start`.

use std::os::fd::OwnedFd;

use api::{
    Answer, Call, Driver, Error, Family, Outcome, ReadCall, Reply, bulkhead,
    consts::{
        ConsoleFlags, DefineFlags, DestroyFlags, DomainEventId, Feature, ListDomains, RebootFlags, ShutdownFlags,
        UndefineFlags, XmlFlags,
    },
    dispatch, qemu, remote,
};
use ipc::{
    Incoming,
    server::{self, Peer, PeerKey, Ticket},
};
use supervisor::protocol::Request;
use tracing::Span;
use uuid::Uuid;

use registry::{Object, Run};

use super::{Control, client_span, domains::handle, errors};

/// libvirt's own word for what this driver is.
const DRIVER_NAME: &str = "QEMU";

/// A call on its way to an answer.
pub struct Asked {
    /// Whose.
    pub key: PeerKey,
    /// Which of its calls.
    pub serial: u64,
    /// Its connection may only read.
    pub read_only: bool,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
    /// What it counts for its user until it has been answered.
    ticket: Ticket,
    /// In which lines about it are written.
    pub span: Span,
}

impl Asked {
    /// What is needed to answer later.
    pub fn later(&self) -> Asked {
        Asked {
            key: self.key,
            serial: self.serial,
            read_only: self.read_only,
            fds: Vec::new(),
            ticket: self.ticket.clone(),
            span: self.span.clone(),
        }
    }
}

impl Control {
    /// Takes a call from the frame that it came in to the driver, or to the error that it deserves.
    pub(super) fn take_call(&mut self, key: PeerKey, frame: Incoming, ticket: Ticket) {
        let Some(peer) = self.server.peer(key) else { return };
        self.acting_for = self.server.budget(key).cloned();
        self.take_call_of(peer, key, frame, ticket);
        self.acting_for = None;
    }

    fn take_call_of(&mut self, peer: Peer, key: PeerKey, frame: Incoming, ticket: Ticket) {
        self.served = true;
        let read_only = self.authority.read_only(peer);
        let client = self.clients.entry(key).or_insert_with(|| client_span(peer)).clone();
        let Some(decoded) = self.server.decode_call(key, &frame) else { return };
        let mut asked = Asked { key, serial: frame.serial, read_only, fds: frame.fds, ticket, span: client };
        let call = match decoded {
            Ok(call) => call,
            Err(error) => return self.answer(&asked, Err(error)),
        };
        let op = call.op();
        let span = tracing::debug_span!(parent: &asked.span, "call", %op, serial = asked.serial);
        if !span.is_disabled() {
            asked.span = span;
        }
        let within = asked.span.clone();
        let _within = within.enter();
        if let Err(error) = server::check_descriptors(op, &asked.fds) {
            return self.answer(&asked, Err(error));
        }
        // A call that may not change anything travels on as a type that cannot.
        let call = if read_only { ReadCall::from_call(call).map(Call::from) } else { Ok(call) };
        match call.and_then(|call| self.answer_call(&mut asked, call)) {
            Ok(Outcome::Ready(reply)) => self.answer(&asked, Ok((reply, Vec::new()))),
            Ok(Outcome::Pending) => {}
            Err(error) => self.answer(&asked, Err(error)),
        }
    }
}

impl Control {
    fn answer_call(&mut self, asked: &mut Asked, call: Call) -> Answer<Reply> {
        if BACKENDS.contains(&call.op().info().family) {
            return dispatch(self, asked, call);
        }
        match api::none(&call, |dom| self.known(dom).map(drop)) {
            Some(answer) => answer.map(Outcome::Ready),
            None => dispatch(self, asked, call),
        }
    }
}

/// The families of which there can be something. Of every other one there is nothing, which is an answer to lists and lookups.
const BACKENDS: [Family; 3] = [Family::Connect, Family::Node, Family::Domain];

/// Bits that are set and not among those that the operation knows.
pub(super) fn only(flags: u32, known: u32, operation: &str) -> Result<(), Error> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(errors::unknown_flags(unknown, operation)),
    }
}

fn int(flag: bool) -> i32 {
    i32::from(flag)
}

/// Methods of the table whose bodies stand elsewhere in `control`.
macro_rules! elsewhere {
    ($($op:ident($args:ty) -> $ret:ty = $body:ident;)*) => {
        $(
            fn $op(&mut self, cx: &mut Asked, args: $args) -> Answer<$ret> {
                self.$body(cx, &args)
            }
        )*
    };
}

/// Methods of the table that only a guest's agent could answer.
macro_rules! agent {
    ($($op:ident($args:ty) -> $ret:ty;)*) => {
        $(
            fn $op(&mut self, _: &mut Asked, args: $args) -> Answer<$ret> {
                self.needs_agent(&args.dom)
            }
        )*
    };
}

impl Driver for Control {
    type Context = Asked;

    fn driver_name(&self) -> &'static str {
        DRIVER_NAME
    }

    // The connection.

    fn connect_open(&mut self, _: &mut Asked, _: remote::ConnectOpenArgs) -> Answer<()> {
        Ok(().into())
    }

    fn connect_close(&mut self, _: &mut Asked, _: remote::ConnectCloseArgs) -> Answer<()> {
        Ok(().into())
    }

    fn connect_get_type(&mut self, _: &mut Asked, _: remote::ConnectGetTypeArgs) -> Answer<remote::ConnectGetTypeRet> {
        Ok(remote::ConnectGetTypeRet { r#type: DRIVER_NAME.into() }.into())
    }

    fn connect_get_version(
        &mut self,
        cx: &mut Asked,
        _: remote::ConnectGetVersionArgs,
    ) -> Answer<remote::ConnectGetVersionRet> {
        self.hypervisor_version(cx)
    }

    fn connect_get_lib_version(
        &mut self,
        _: &mut Asked,
        _: remote::ConnectGetLibVersionArgs,
    ) -> Answer<remote::ConnectGetLibVersionRet> {
        Ok(remote::ConnectGetLibVersionRet { lib_ver: api::consts::LIBVIRT_VERSION }.into())
    }

    fn connect_get_hostname(
        &mut self,
        _: &mut Asked,
        _: remote::ConnectGetHostnameArgs,
    ) -> Answer<remote::ConnectGetHostnameRet> {
        Ok(remote::ConnectGetHostnameRet { hostname: self.host.hostname.clone() }.into())
    }

    fn connect_get_uri(&mut self, _: &mut Asked, _: remote::ConnectGetUriArgs) -> Answer<remote::ConnectGetUriRet> {
        Ok(remote::ConnectGetUriRet { uri: format!("qemu:///{}", self.instance.mode().name()) }.into())
    }

    fn connect_get_capabilities(
        &mut self,
        cx: &mut Asked,
        _: remote::ConnectGetCapabilitiesArgs,
    ) -> Answer<remote::ConnectGetCapabilitiesRet> {
        self.capabilities(cx)
    }

    fn connect_supports_feature(
        &mut self,
        _: &mut Asked,
        args: remote::ConnectSupportsFeatureArgs,
    ) -> Answer<remote::ConnectSupportsFeatureRet> {
        let supported = matches!(
            Feature::try_from(args.feature),
            Ok(Feature::FdPassing
                | Feature::TypedParamString
                | Feature::RemoteEventCallback
                | Feature::RemoteCloseCallback
                | Feature::NetworkUpdateHasCorrectOrder)
        );
        Ok(remote::ConnectSupportsFeatureRet { supported: int(supported) }.into())
    }

    fn connect_is_secure(
        &mut self,
        _: &mut Asked,
        _: remote::ConnectIsSecureArgs,
    ) -> Answer<remote::ConnectIsSecureRet> {
        Ok(remote::ConnectIsSecureRet { secure: 1 }.into())
    }

    fn connect_get_max_vcpus(
        &mut self,
        cx: &mut Asked,
        args: remote::ConnectGetMaxVcpusArgs,
    ) -> Answer<remote::ConnectGetMaxVcpusRet> {
        self.max_vcpus(cx, args.r#type.as_deref())
    }

    fn node_get_info(&mut self, _: &mut Asked, _: remote::NodeGetInfoArgs) -> Answer<remote::NodeGetInfoRet> {
        Ok(self.host.node_info().into())
    }

    // Lists and lookups.

    fn connect_num_of_domains(
        &mut self,
        _: &mut Asked,
        _: remote::ConnectNumOfDomainsArgs,
    ) -> Answer<remote::ConnectNumOfDomainsRet> {
        let num = self.objects.count_active();
        Ok(remote::ConnectNumOfDomainsRet { num: i32::try_from(num).unwrap_or(i32::MAX) }.into())
    }

    fn connect_list_domains(
        &mut self,
        _: &mut Asked,
        args: remote::ConnectListDomainsArgs,
    ) -> Answer<remote::ConnectListDomainsRet> {
        let most = usize::try_from(args.maxids).unwrap_or_default();
        let ids = self.objects.active().map(Object::id).filter(|id| *id >= 0).take(most).collect();
        Ok(remote::ConnectListDomainsRet { ids }.into())
    }

    fn connect_num_of_defined_domains(
        &mut self,
        _: &mut Asked,
        _: remote::ConnectNumOfDefinedDomainsArgs,
    ) -> Answer<remote::ConnectNumOfDefinedDomainsRet> {
        let num = self.objects.count_inactive();
        Ok(remote::ConnectNumOfDefinedDomainsRet { num: i32::try_from(num).unwrap_or(i32::MAX) }.into())
    }

    fn connect_list_defined_domains(
        &mut self,
        _: &mut Asked,
        args: remote::ConnectListDefinedDomainsArgs,
    ) -> Answer<remote::ConnectListDefinedDomainsRet> {
        let most = usize::try_from(args.maxnames).unwrap_or_default();
        let names = self.objects.inactive().map(|object| object.name().to_owned()).take(most).collect();
        Ok(remote::ConnectListDefinedDomainsRet { names }.into())
    }

    fn connect_list_all_domains(
        &mut self,
        _: &mut Asked,
        args: remote::ConnectListAllDomainsArgs,
    ) -> Answer<remote::ConnectListAllDomainsRet> {
        only(args.flags, ListDomains::all().bits(), "virConnectListAllDomains")?;
        let listed = self.objects.list(ListDomains::from_bits_truncate(args.flags));
        let (ret, domains) = if args.need_results == 0 {
            (listed.count(), Vec::new())
        } else {
            let domains: Vec<_> = listed.map(handle).collect();
            (domains.len(), domains)
        };
        let ret = u32::try_from(ret).unwrap_or(u32::MAX);
        Ok(remote::ConnectListAllDomainsRet { domains, ret }.into())
    }

    fn bulkhead_list_domains(
        &mut self,
        _: &mut Asked,
        args: bulkhead::ListDomainsArgs,
    ) -> Answer<bulkhead::ListDomainsRet> {
        only(args.flags, ListDomains::all().bits(), "bulkheadListDomains")?;
        Ok(bulkhead::ListDomainsRet { domains: self.list(ListDomains::from_bits_truncate(args.flags)) }.into())
    }

    fn domain_lookup_by_id(
        &mut self,
        _: &mut Asked,
        args: remote::DomainLookupByIdArgs,
    ) -> Answer<remote::DomainLookupByIdRet> {
        let object = Run::from_id(args.id).and_then(|run| self.objects.by_run(run));
        let object = object.ok_or_else(|| errors::ERRORS.missing_id(args.id))?;
        Ok(remote::DomainLookupByIdRet { dom: handle(object) }.into())
    }

    fn domain_lookup_by_uuid(
        &mut self,
        _: &mut Asked,
        args: remote::DomainLookupByUuidArgs,
    ) -> Answer<remote::DomainLookupByUuidRet> {
        let uuid = Uuid::from_bytes(args.uuid);
        let object = self.objects.get(&uuid).ok_or_else(|| errors::no_domain("uuid", uuid))?;
        Ok(remote::DomainLookupByUuidRet { dom: handle(object) }.into())
    }

    fn domain_lookup_by_name(
        &mut self,
        _: &mut Asked,
        args: remote::DomainLookupByNameArgs,
    ) -> Answer<remote::DomainLookupByNameRet> {
        let object = self.objects.by_name(&args.name).ok_or_else(|| errors::no_domain("name", &args.name))?;
        Ok(remote::DomainLookupByNameRet { dom: handle(object) }.into())
    }

    // What a domain is and how it is.

    fn domain_get_info(&mut self, cx: &mut Asked, args: remote::DomainGetInfoArgs) -> Answer<remote::DomainGetInfoRet> {
        self.info(cx, &args.dom)
    }

    fn domain_get_state(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetStateArgs,
    ) -> Answer<remote::DomainGetStateRet> {
        only(args.flags, 0, "virDomainGetState")?;
        let (state, reason) = self.state(&self.known(&args.dom)?);
        Ok(remote::DomainGetStateRet { state, reason }.into())
    }

    fn domain_get_xml_desc(
        &mut self,
        cx: &mut Asked,
        args: remote::DomainGetXmlDescArgs,
    ) -> Answer<remote::DomainGetXmlDescRet> {
        only(args.flags, XmlFlags::all().bits(), "virDomainGetXMLDesc")?;
        self.document(cx, &args.dom, XmlFlags::from_bits_truncate(args.flags))
    }

    fn domain_get_os_type(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetOsTypeArgs,
    ) -> Answer<remote::DomainGetOsTypeRet> {
        self.known(&args.dom)?;
        // The one type that the planner takes.
        Ok(remote::DomainGetOsTypeRet { r#type: model::OsType::Hvm.as_str().into() }.into())
    }

    fn domain_is_active(
        &mut self,
        _: &mut Asked,
        args: remote::DomainIsActiveArgs,
    ) -> Answer<remote::DomainIsActiveRet> {
        let uuid = self.known(&args.dom)?;
        Ok(remote::DomainIsActiveRet { active: int(self.objects.get(&uuid).is_some_and(Object::is_active)) }.into())
    }

    fn domain_is_persistent(
        &mut self,
        _: &mut Asked,
        args: remote::DomainIsPersistentArgs,
    ) -> Answer<remote::DomainIsPersistentRet> {
        let uuid = self.known(&args.dom)?;
        Ok(remote::DomainIsPersistentRet { persistent: int(self.defined(&uuid).is_some()) }.into())
    }

    fn domain_is_updated(
        &mut self,
        _: &mut Asked,
        args: remote::DomainIsUpdatedArgs,
    ) -> Answer<remote::DomainIsUpdatedRet> {
        self.known(&args.dom)?;
        Ok(remote::DomainIsUpdatedRet { updated: 0 }.into())
    }

    fn domain_has_managed_save_image(
        &mut self,
        _: &mut Asked,
        args: remote::DomainHasManagedSaveImageArgs,
    ) -> Answer<remote::DomainHasManagedSaveImageRet> {
        self.known(&args.dom)?;
        Ok(remote::DomainHasManagedSaveImageRet { result: 0 }.into())
    }

    fn domain_get_max_memory(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetMaxMemoryArgs,
    ) -> Answer<remote::DomainGetMaxMemoryRet> {
        let uuid = self.known(&args.dom)?;
        Ok(remote::DomainGetMaxMemoryRet { memory: self.size_of(&uuid, "read the memory of")?.max_memory_kib }.into())
    }

    fn domain_get_max_vcpus(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetMaxVcpusArgs,
    ) -> Answer<remote::DomainGetMaxVcpusRet> {
        let uuid = self.known(&args.dom)?;
        let max = self.size_of(&uuid, "count the virtual CPUs of")?.max_vcpus;
        Ok(remote::DomainGetMaxVcpusRet { num: i32::try_from(max).unwrap_or(i32::MAX) }.into())
    }

    fn domain_get_autostart(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetAutostartArgs,
    ) -> Answer<remote::DomainGetAutostartRet> {
        let uuid = self.known(&args.dom)?;
        let autostart = self.objects.get(&uuid).is_some_and(Object::autostart);
        Ok(remote::DomainGetAutostartRet { autostart: int(autostart) }.into())
    }

    fn bulkhead_domain_guest_info(
        &mut self,
        cx: &mut Asked,
        args: bulkhead::DomainGuestInfoArgs,
    ) -> Answer<bulkhead::DomainGuestInfoRet> {
        self.guest_info(cx, &args.dom)
    }

    // Definitions.

    fn domain_define_xml(
        &mut self,
        cx: &mut Asked,
        args: remote::DomainDefineXmlArgs,
    ) -> Answer<remote::DomainDefineXmlRet> {
        self.define(cx, &args.xml, |dom| Reply::DomainDefineXml(remote::DomainDefineXmlRet { dom }))
    }

    fn domain_define_xml_flags(
        &mut self,
        cx: &mut Asked,
        args: remote::DomainDefineXmlFlagsArgs,
    ) -> Answer<remote::DomainDefineXmlFlagsRet> {
        only(args.flags, DefineFlags::all().bits(), "virDomainDefineXMLFlags")?;
        self.define(cx, &args.xml, |dom| Reply::DomainDefineXmlFlags(remote::DomainDefineXmlFlagsRet { dom }))
    }

    fn domain_undefine(&mut self, cx: &mut Asked, args: remote::DomainUndefineArgs) -> Answer<()> {
        self.undefine(cx, &args.dom, Reply::DomainUndefine)
    }

    fn domain_undefine_flags(&mut self, cx: &mut Asked, args: remote::DomainUndefineFlagsArgs) -> Answer<()> {
        only(args.flags, UndefineFlags::all().bits(), "virDomainUndefineFlags")?;
        self.undefine(cx, &args.dom, Reply::DomainUndefineFlags)
    }

    fn domain_set_autostart(&mut self, cx: &mut Asked, args: remote::DomainSetAutostartArgs) -> Answer<()> {
        self.set_autostart(cx, &args.dom, args.autostart != 0)
    }

    // The life cycle.

    fn domain_create(&mut self, cx: &mut Asked, args: remote::DomainCreateArgs) -> Answer<()> {
        self.create(cx, &args.dom, 0, Vec::new(), |_| Reply::DomainCreate(()))
    }

    fn domain_create_with_flags(
        &mut self,
        cx: &mut Asked,
        args: remote::DomainCreateWithFlagsArgs,
    ) -> Answer<remote::DomainCreateWithFlagsRet> {
        let reply = |dom| Reply::DomainCreateWithFlags(remote::DomainCreateWithFlagsRet { dom });
        self.create(cx, &args.dom, args.flags, Vec::new(), reply)
    }

    fn bulkhead_domain_create_with_sources(
        &mut self,
        cx: &mut Asked,
        args: bulkhead::DomainCreateWithSourcesArgs,
    ) -> Answer<bulkhead::DomainCreateWithSourcesRet> {
        let reply = |dom| Reply::BulkheadDomainCreateWithSources(bulkhead::DomainCreateWithSourcesRet { dom });
        self.create(cx, &args.dom, args.flags, args.sources, reply)
    }

    fn domain_create_xml(
        &mut self,
        cx: &mut Asked,
        args: remote::DomainCreateXmlArgs,
    ) -> Answer<remote::DomainCreateXmlRet> {
        let reply = |dom| Reply::DomainCreateXml(remote::DomainCreateXmlRet { dom });
        self.create_transient(cx, &args.xml_desc, args.flags, Vec::new(), reply)
    }

    fn bulkhead_domain_create_xml_with_sources(
        &mut self,
        cx: &mut Asked,
        args: bulkhead::DomainCreateXmlWithSourcesArgs,
    ) -> Answer<bulkhead::DomainCreateXmlWithSourcesRet> {
        let reply = |dom| Reply::BulkheadDomainCreateXmlWithSources(bulkhead::DomainCreateXmlWithSourcesRet { dom });
        self.create_transient(cx, &args.xml, args.flags, args.sources, reply)
    }

    fn domain_suspend(&mut self, cx: &mut Asked, args: remote::DomainSuspendArgs) -> Answer<()> {
        self.job(cx, &args.dom, "suspend", Request::Suspend, Reply::DomainSuspend)
    }

    fn domain_resume(&mut self, cx: &mut Asked, args: remote::DomainResumeArgs) -> Answer<()> {
        self.job(cx, &args.dom, "resume", Request::Resume, Reply::DomainResume)
    }

    fn domain_shutdown(&mut self, cx: &mut Asked, args: remote::DomainShutdownArgs) -> Answer<()> {
        self.press_power(cx, &args.dom, false, Reply::DomainShutdown)
    }

    fn domain_shutdown_flags(&mut self, cx: &mut Asked, args: remote::DomainShutdownFlagsArgs) -> Answer<()> {
        only(args.flags, ShutdownFlags::ACPI_POWER_BTN.bits(), "virDomainShutdownFlags")?;
        self.press_power(cx, &args.dom, false, Reply::DomainShutdownFlags)
    }

    fn domain_reboot(&mut self, cx: &mut Asked, args: remote::DomainRebootArgs) -> Answer<()> {
        only(args.flags, RebootFlags::ACPI_POWER_BTN.bits(), "virDomainReboot")?;
        self.press_power(cx, &args.dom, true, Reply::DomainReboot)
    }

    fn domain_reset(&mut self, cx: &mut Asked, args: remote::DomainResetArgs) -> Answer<()> {
        only(args.flags, 0, "virDomainReset")?;
        self.job(cx, &args.dom, "reset", Request::Reset, Reply::DomainReset)
    }

    fn domain_destroy(&mut self, cx: &mut Asked, args: remote::DomainDestroyArgs) -> Answer<()> {
        self.destroy(cx, &args.dom, Reply::DomainDestroy)
    }

    fn domain_destroy_flags(&mut self, cx: &mut Asked, args: remote::DomainDestroyFlagsArgs) -> Answer<()> {
        only(args.flags, DestroyFlags::GRACEFUL.bits(), "virDomainDestroyFlags")?;
        if DestroyFlags::from_bits_truncate(args.flags).contains(DestroyFlags::GRACEFUL) {
            return self.destroy_gracefully(cx, &args.dom, Reply::DomainDestroyFlags);
        }
        self.destroy(cx, &args.dom, Reply::DomainDestroyFlags)
    }

    fn bulkhead_domain_open_console(&mut self, cx: &mut Asked, args: bulkhead::DomainOpenConsoleArgs) -> Answer<()> {
        only(args.flags, ConsoleFlags::all().bits(), "bulkheadDomainOpenConsole")?;
        let flags = ConsoleFlags::from_bits_truncate(args.flags);
        self.open_console(cx, &args.dom, args.dev_name.as_deref(), flags)
    }

    // Events.

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

    fn bulkhead_events_subscribe(
        &mut self,
        cx: &mut Asked,
        args: bulkhead::EventsSubscribeArgs,
    ) -> Answer<bulkhead::EventsSubscribeRet> {
        self.subscribe(cx, args.since);
        Ok(Outcome::Pending)
    }

    fn bulkhead_events_unsubscribe(&mut self, cx: &mut Asked, _: bulkhead::EventsUnsubscribeArgs) -> Answer<()> {
        self.subscribers.unsubscribe(cx.key);
        Ok(().into())
    }

    // Control has no event of its own for the end of a connection: the end is seen without one.

    fn connect_register_close_callback(
        &mut self,
        _: &mut Asked,
        _: remote::ConnectRegisterCloseCallbackArgs,
    ) -> Answer<()> {
        Ok(().into())
    }

    fn connect_unregister_close_callback(
        &mut self,
        _: &mut Asked,
        _: remote::ConnectUnregisterCloseCallbackArgs,
    ) -> Answer<()> {
        Ok(().into())
    }

    elsewhere! {
        // stats
        connect_get_all_domain_stats(remote::ConnectGetAllDomainStatsArgs) -> remote::ConnectGetAllDomainStatsRet = all_domain_stats;
        domain_get_cpu_stats(remote::DomainGetCpuStatsArgs) -> remote::DomainGetCpuStatsRet = cpu_stats;
        domain_memory_stats(remote::DomainMemoryStatsArgs) -> remote::DomainMemoryStatsRet = memory_stats;
        domain_block_stats(remote::DomainBlockStatsArgs) -> remote::DomainBlockStatsRet = block_stats;
        domain_block_stats_flags(remote::DomainBlockStatsFlagsArgs) -> remote::DomainBlockStatsFlagsRet = block_stats_flags;
        domain_get_block_info(remote::DomainGetBlockInfoArgs) -> remote::DomainGetBlockInfoRet = block_info;
        // node
        node_get_cpu_stats(remote::NodeGetCpuStatsArgs) -> remote::NodeGetCpuStatsRet = node_cpu_stats;
        node_get_memory_stats(remote::NodeGetMemoryStatsArgs) -> remote::NodeGetMemoryStatsRet = node_memory_stats;
        node_get_free_memory(remote::NodeGetFreeMemoryArgs) -> remote::NodeGetFreeMemoryRet = node_free_memory;
        node_get_cells_free_memory(remote::NodeGetCellsFreeMemoryArgs) -> remote::NodeGetCellsFreeMemoryRet = node_cells_free_memory;
        node_get_cpu_map(remote::NodeGetCpuMapArgs) -> remote::NodeGetCpuMapRet = node_cpu_map;
        node_get_security_model(remote::NodeGetSecurityModelArgs) -> remote::NodeGetSecurityModelRet = node_security_model;
        connect_get_sysinfo(remote::ConnectGetSysinfoArgs) -> remote::ConnectGetSysinfoRet = sysinfo;
        // domain_capabilities
        connect_get_domain_capabilities(remote::ConnectGetDomainCapabilitiesArgs) -> remote::ConnectGetDomainCapabilitiesRet = domain_capabilities;
        connect_get_cpu_model_names(remote::ConnectGetCpuModelNamesArgs) -> remote::ConnectGetCpuModelNamesRet = cpu_models;
        connect_domain_xml_to_native(remote::ConnectDomainXmlToNativeArgs) -> remote::ConnectDomainXmlToNativeRet = native_form;
        // reconfigure
        domain_get_vcpus_flags(remote::DomainGetVcpusFlagsArgs) -> remote::DomainGetVcpusFlagsRet = vcpu_count;
        domain_set_vcpus(remote::DomainSetVcpusArgs) -> () = set_vcpus;
        domain_set_vcpus_flags(remote::DomainSetVcpusFlagsArgs) -> () = set_vcpus_flags;
        domain_set_memory(remote::DomainSetMemoryArgs) -> () = set_memory;
        domain_set_memory_flags(remote::DomainSetMemoryFlagsArgs) -> () = set_memory_flags;
        domain_set_max_memory(remote::DomainSetMaxMemoryArgs) -> () = set_max_memory;
        domain_get_metadata(remote::DomainGetMetadataArgs) -> remote::DomainGetMetadataRet = metadata;
        domain_set_metadata(remote::DomainSetMetadataArgs) -> () = set_metadata;
        domain_rename(remote::DomainRenameArgs) -> remote::DomainRenameRet = rename;
        // input
        domain_send_key(remote::DomainSendKeyArgs) -> () = send_key;
        domain_inject_nmi(remote::DomainInjectNmiArgs) -> () = inject_nmi;
        qemu_domain_monitor_command(qemu::DomainMonitorCommandArgs) -> qemu::DomainMonitorCommandRet = monitor_command;
        // nothing
        domain_get_job_info(remote::DomainGetJobInfoArgs) -> remote::DomainGetJobInfoRet = job_info;
        domain_get_job_stats(remote::DomainGetJobStatsArgs) -> remote::DomainGetJobStatsRet = job_stats;
        domain_abort_job(remote::DomainAbortJobArgs) -> () = abort_job;
        domain_get_block_job_info(remote::DomainGetBlockJobInfoArgs) -> remote::DomainGetBlockJobInfoRet = block_job_info;
        domain_get_control_info(remote::DomainGetControlInfoArgs) -> remote::DomainGetControlInfoRet = control_info;
        domain_get_security_label(remote::DomainGetSecurityLabelArgs) -> remote::DomainGetSecurityLabelRet = security_label;
        domain_get_security_label_list(remote::DomainGetSecurityLabelListArgs) -> remote::DomainGetSecurityLabelListRet = security_labels;
        domain_get_messages(remote::DomainGetMessagesArgs) -> remote::DomainGetMessagesRet = messages;
        domain_get_scheduler_type(remote::DomainGetSchedulerTypeArgs) -> remote::DomainGetSchedulerTypeRet = scheduler_type;
        domain_get_memory_parameters(remote::DomainGetMemoryParametersArgs) -> remote::DomainGetMemoryParametersRet = memory_parameters;
        domain_screenshot(remote::DomainScreenshotArgs) -> remote::DomainScreenshotRet = screenshot;
        domain_interface_addresses(remote::DomainInterfaceAddressesArgs) -> remote::DomainInterfaceAddressesRet = interface_addresses;
        domain_interface_stats(remote::DomainInterfaceStatsArgs) -> remote::DomainInterfaceStatsRet = interface_stats;
        domain_get_iothread_info(remote::DomainGetIothreadInfoArgs) -> remote::DomainGetIothreadInfoRet = iothreads;
        domain_get_vcpus(remote::DomainGetVcpusArgs) -> remote::DomainGetVcpusRet = vcpus;
        domain_get_vcpu_pin_info(remote::DomainGetVcpuPinInfoArgs) -> remote::DomainGetVcpuPinInfoRet = vcpu_pins;
        domain_get_emulator_pin_info(remote::DomainGetEmulatorPinInfoArgs) -> remote::DomainGetEmulatorPinInfoRet = emulator_pins;
    }

    agent! {
        domain_get_hostname(remote::DomainGetHostnameArgs) -> remote::DomainGetHostnameRet;
        domain_get_time(remote::DomainGetTimeArgs) -> remote::DomainGetTimeRet;
        domain_set_time(remote::DomainSetTimeArgs) -> ();
        domain_get_fsinfo(remote::DomainGetFsinfoArgs) -> remote::DomainGetFsinfoRet;
        domain_fstrim(remote::DomainFstrimArgs) -> ();
        domain_fsfreeze(remote::DomainFsfreezeArgs) -> remote::DomainFsfreezeRet;
        domain_fsthaw(remote::DomainFsthawArgs) -> remote::DomainFsthawRet;
        domain_set_user_password(remote::DomainSetUserPasswordArgs) -> ();
        domain_get_guest_info(remote::DomainGetGuestInfoArgs) -> remote::DomainGetGuestInfoRet;
        domain_get_guest_vcpus(remote::DomainGetGuestVcpusArgs) -> remote::DomainGetGuestVcpusRet;
        domain_set_guest_vcpus(remote::DomainSetGuestVcpusArgs) -> ();
        domain_authorized_ssh_keys_get(remote::DomainAuthorizedSshKeysGetArgs) -> remote::DomainAuthorizedSshKeysGetRet;
        domain_authorized_ssh_keys_set(remote::DomainAuthorizedSshKeysSetArgs) -> ();
        qemu_domain_agent_command(qemu::DomainAgentCommandArgs) -> qemu::DomainAgentCommandRet;
    }
}
