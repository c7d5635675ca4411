//! Domains: lists, lookups, definitions and their life.

use api::{
    Answer, DomainOps, Reply, bulkhead,
    consts::{
        ConsoleFlags, DefineFlags, DestroyFlags, ListDomains, MessageTypes, RebootFlags, ShutdownFlags, UndefineFlags,
        XmlFlags,
    },
    remote,
};
use registry::{Object, Run};
use supervisor::protocol::Request;
use uuid::Uuid;

use super::{Asked, int, only};
use crate::{Control, domains::handle, errors};

impl DomainOps for Control {
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

    fn connect_get_domain_capabilities(
        &mut self,
        cx: &mut Asked,
        args: remote::ConnectGetDomainCapabilitiesArgs,
    ) -> Answer<remote::ConnectGetDomainCapabilitiesRet> {
        self.domain_capabilities(cx, &args)
    }

    fn connect_domain_xml_to_native(
        &mut self,
        cx: &mut Asked,
        args: remote::ConnectDomainXmlToNativeArgs,
    ) -> Answer<remote::ConnectDomainXmlToNativeRet> {
        self.native_form(cx, &args)
    }

    fn domain_get_metadata(
        &mut self,
        cx: &mut Asked,
        args: remote::DomainGetMetadataArgs,
    ) -> Answer<remote::DomainGetMetadataRet> {
        self.metadata(cx, &args)
    }

    fn domain_set_metadata(&mut self, cx: &mut Asked, args: remote::DomainSetMetadataArgs) -> Answer<()> {
        self.set_metadata(cx, &args)
    }

    fn domain_rename(&mut self, cx: &mut Asked, args: remote::DomainRenameArgs) -> Answer<remote::DomainRenameRet> {
        self.rename(cx, &args)
    }

    fn domain_inject_nmi(&mut self, cx: &mut Asked, args: remote::DomainInjectNmiArgs) -> Answer<()> {
        self.inject_nmi(cx, &args)
    }

    /// How control fares with the guest: a job under way is all that there can be.
    fn domain_get_control_info(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetControlInfoArgs,
    ) -> Answer<remote::DomainGetControlInfoRet> {
        only(args.flags, 0, "virDomainGetControlInfo")?;
        let id = self.running(&args.dom)?;
        let busy = self.guests.get(&id).is_some_and(|guest| guest.jobs.is_busy());
        Ok(remote::DomainGetControlInfoRet { state: u32::from(busy), details: 0, state_time: 0 }.into())
    }

    fn domain_get_messages(
        &mut self,
        _: &mut Asked,
        args: remote::DomainGetMessagesArgs,
    ) -> Answer<remote::DomainGetMessagesRet> {
        only(args.flags, MessageTypes::all().bits(), "virDomainGetMessages")?;
        let uuid = self.known(&args.dom)?;
        let types = MessageTypes::from_bits_truncate(args.flags);
        let wanted = types.is_empty() || types.contains(MessageTypes::TAINTING);
        let tainted = wanted && self.active(&uuid).is_some_and(|guest| guest.tainted);
        let msgs = tainted.then(|| "tainted: custom monitor control commands issued".to_owned());
        Ok(remote::DomainGetMessagesRet { msgs: msgs.into_iter().collect() }.into())
    }
}
