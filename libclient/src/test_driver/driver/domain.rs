//! Guests: lists, lookups, definitions and their life, consoles, notes.

use api::{
    Answer, DomainOps, Error, ErrorCode, ErrorDomain, Op, bulkhead,
    consts::{
        ConsoleFlags, CreateFlags, DefineFlags, DestroyFlags, MessageTypes, MetadataType, RebootFlags, ShutdownFlags,
        UndefineFlags, XmlFlags,
    },
    notice::Notice,
    remote,
};
use registry::rules::{self, notes};

use super::{Context, at_most, count, flags, known_flags, no_flags};
use crate::{
    Result,
    test_driver::{
        console::Echo,
        machine::{ERRORS, Guest, Machine},
    },
};

/// libvirt's test driver answers this for every document.
const OS_TYPE: &str = "linux";

impl Machine {
    fn start_by(&mut self, dom: &remote::Domain, bits: u32, op: Op) -> Result<remote::Domain> {
        let flags = create_flags(bits, op)?;
        self.start(dom, flags.contains(CreateFlags::PAUSED))
    }

    fn create_by(&mut self, xml: &str, bits: u32, op: Op) -> Result<remote::Domain> {
        let flags = create_flags(bits, op)?;
        self.create(xml, flags.contains(CreateFlags::PAUSED))
    }

    fn open_console(&mut self, cx: &mut Context, args: &bulkhead::DomainOpenConsoleArgs) -> Result<()> {
        let flags: ConsoleFlags = flags(args.flags, Op::BulkheadDomainOpenConsole)?;
        let guest = self.guest(&args.dom)?;
        guest.running()?;
        if let Some(alias) = args.dev_name.as_deref().filter(|alias| !guest.has_console(alias)) {
            let error = ERRORS.invalid(format_args!("there is no console '{alias}'"));
            return Err(error.with_hint("leave it out to open the first one"));
        }
        let (run, running) = self.run(&args.dom)?;
        let busy = running.console.as_ref().is_some_and(Echo::in_use);
        if busy && !flags.contains(ConsoleFlags::FORCE) {
            let error = ERRORS.failed("Active console session exists for this domain");
            return Err(error.with_hint("take it over with the flag FORCE"));
        }
        let watch = cx.watch.as_deref().map(|watch| (watch, run.0.into()));
        let (echo, user) = Echo::open(flags.contains(ConsoleFlags::READ_ONLY), watch).map_err(|source| {
            Error::new(ErrorCode::SYSTEM_ERROR, ErrorDomain::TEST, "cannot open a console").with_cause(source)
        })?;
        running.console = Some(echo);
        cx.fds.push(user);
        Ok(())
    }
}

impl DomainOps for Machine {
    fn connect_num_of_domains(
        &mut self,
        _: &mut Context,
        _: remote::ConnectNumOfDomainsArgs,
    ) -> Answer<remote::ConnectNumOfDomainsRet> {
        Ok(remote::ConnectNumOfDomainsRet { num: count(self.active().count()) }.into())
    }

    fn connect_list_domains(
        &mut self,
        _: &mut Context,
        args: remote::ConnectListDomainsArgs,
    ) -> Answer<remote::ConnectListDomainsRet> {
        let ids = at_most(self.active().map(|guest| guest.dom().id), args.maxids);
        Ok(remote::ConnectListDomainsRet { ids }.into())
    }

    fn connect_num_of_defined_domains(
        &mut self,
        _: &mut Context,
        _: remote::ConnectNumOfDefinedDomainsArgs,
    ) -> Answer<remote::ConnectNumOfDefinedDomainsRet> {
        Ok(remote::ConnectNumOfDefinedDomainsRet { num: count(self.inactive().count()) }.into())
    }

    fn connect_list_defined_domains(
        &mut self,
        _: &mut Context,
        args: remote::ConnectListDefinedDomainsArgs,
    ) -> Answer<remote::ConnectListDefinedDomainsRet> {
        let names = at_most(self.inactive().map(|guest| guest.dom().name), args.maxnames);
        Ok(remote::ConnectListDefinedDomainsRet { names }.into())
    }

    fn connect_list_all_domains(
        &mut self,
        _: &mut Context,
        args: remote::ConnectListAllDomainsArgs,
    ) -> Answer<remote::ConnectListAllDomainsRet> {
        let flags = flags(args.flags, Op::ConnectListAllDomains)?;
        let domains: Vec<remote::Domain> = self.listed(flags).map(Guest::dom).collect();
        let ret = u32::try_from(domains.len()).unwrap_or(u32::MAX);
        let domains = if args.need_results == 0 { Vec::new() } else { domains };
        Ok(remote::ConnectListAllDomainsRet { domains, ret }.into())
    }

    fn bulkhead_list_domains(
        &mut self,
        _: &mut Context,
        args: bulkhead::ListDomainsArgs,
    ) -> Answer<bulkhead::ListDomainsRet> {
        let flags = flags(args.flags, Op::BulkheadListDomains)?;
        Ok(bulkhead::ListDomainsRet { domains: self.listed(flags).map(Guest::record).collect() }.into())
    }

    fn domain_lookup_by_id(
        &mut self,
        _: &mut Context,
        args: remote::DomainLookupByIdArgs,
    ) -> Answer<remote::DomainLookupByIdRet> {
        Ok(remote::DomainLookupByIdRet { dom: self.by_id(args.id)? }.into())
    }

    fn domain_lookup_by_uuid(
        &mut self,
        _: &mut Context,
        args: remote::DomainLookupByUuidArgs,
    ) -> Answer<remote::DomainLookupByUuidRet> {
        Ok(remote::DomainLookupByUuidRet { dom: self.by_uuid(args.uuid)? }.into())
    }

    fn domain_lookup_by_name(
        &mut self,
        _: &mut Context,
        args: remote::DomainLookupByNameArgs,
    ) -> Answer<remote::DomainLookupByNameRet> {
        Ok(remote::DomainLookupByNameRet { dom: self.by_name(&args.name)? }.into())
    }

    fn domain_define_xml(
        &mut self,
        _: &mut Context,
        args: remote::DomainDefineXmlArgs,
    ) -> Answer<remote::DomainDefineXmlRet> {
        Ok(remote::DomainDefineXmlRet { dom: self.define(&args.xml)? }.into())
    }

    fn domain_define_xml_flags(
        &mut self,
        _: &mut Context,
        args: remote::DomainDefineXmlFlagsArgs,
    ) -> Answer<remote::DomainDefineXmlFlagsRet> {
        flags::<DefineFlags>(args.flags, Op::DomainDefineXmlFlags)?;
        Ok(remote::DomainDefineXmlFlagsRet { dom: self.define(&args.xml)? }.into())
    }

    fn domain_undefine(&mut self, _: &mut Context, args: remote::DomainUndefineArgs) -> Answer<()> {
        Ok(self.undefine(&args.dom)?.into())
    }

    fn domain_undefine_flags(&mut self, _: &mut Context, args: remote::DomainUndefineFlagsArgs) -> Answer<()> {
        flags::<UndefineFlags>(args.flags, Op::DomainUndefineFlags)?;
        Ok(self.undefine(&args.dom)?.into())
    }

    fn domain_get_xml_desc(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetXmlDescArgs,
    ) -> Answer<remote::DomainGetXmlDescRet> {
        let flags: XmlFlags = flags(args.flags, Op::DomainGetXmlDesc)?;
        let xml = self.guest(&args.dom)?.xml(flags.contains(XmlFlags::INACTIVE), flags.contains(XmlFlags::SECURE));
        Ok(remote::DomainGetXmlDescRet { xml }.into())
    }

    fn domain_get_autostart(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetAutostartArgs,
    ) -> Answer<remote::DomainGetAutostartRet> {
        Ok(remote::DomainGetAutostartRet { autostart: self.guest(&args.dom)?.autostart().into() }.into())
    }

    fn domain_set_autostart(&mut self, _: &mut Context, args: remote::DomainSetAutostartArgs) -> Answer<()> {
        Ok(self.set_autostart(&args.dom, args.autostart != 0)?.into())
    }

    fn domain_is_persistent(
        &mut self,
        _: &mut Context,
        args: remote::DomainIsPersistentArgs,
    ) -> Answer<remote::DomainIsPersistentRet> {
        Ok(remote::DomainIsPersistentRet { persistent: self.guest(&args.dom)?.is_persistent().into() }.into())
    }

    fn domain_is_updated(
        &mut self,
        _: &mut Context,
        args: remote::DomainIsUpdatedArgs,
    ) -> Answer<remote::DomainIsUpdatedRet> {
        self.guest(&args.dom)?;
        Ok(remote::DomainIsUpdatedRet { updated: 0 }.into())
    }

    fn domain_has_managed_save_image(
        &mut self,
        _: &mut Context,
        args: remote::DomainHasManagedSaveImageArgs,
    ) -> Answer<remote::DomainHasManagedSaveImageRet> {
        no_flags(args.flags, Op::DomainHasManagedSaveImage)?;
        self.guest(&args.dom)?;
        Ok(remote::DomainHasManagedSaveImageRet { result: 0 }.into())
    }

    fn domain_create(&mut self, _: &mut Context, args: remote::DomainCreateArgs) -> Answer<()> {
        self.start_by(&args.dom, 0, Op::DomainCreate)?;
        Ok(().into())
    }

    fn domain_create_with_flags(
        &mut self,
        _: &mut Context,
        args: remote::DomainCreateWithFlagsArgs,
    ) -> Answer<remote::DomainCreateWithFlagsRet> {
        let dom = self.start_by(&args.dom, args.flags, Op::DomainCreateWithFlags)?;
        Ok(remote::DomainCreateWithFlagsRet { dom }.into())
    }

    /// The files are not looked at: no guest is here to read them.
    fn bulkhead_domain_create_with_sources(
        &mut self,
        _: &mut Context,
        args: bulkhead::DomainCreateWithSourcesArgs,
    ) -> Answer<bulkhead::DomainCreateWithSourcesRet> {
        let dom = self.start_by(&args.dom, args.flags, Op::BulkheadDomainCreateWithSources)?;
        Ok(bulkhead::DomainCreateWithSourcesRet { dom }.into())
    }

    fn domain_create_xml(
        &mut self,
        _: &mut Context,
        args: remote::DomainCreateXmlArgs,
    ) -> Answer<remote::DomainCreateXmlRet> {
        let dom = self.create_by(&args.xml_desc, args.flags, Op::DomainCreateXml)?;
        Ok(remote::DomainCreateXmlRet { dom }.into())
    }

    fn bulkhead_domain_create_xml_with_sources(
        &mut self,
        _: &mut Context,
        args: bulkhead::DomainCreateXmlWithSourcesArgs,
    ) -> Answer<bulkhead::DomainCreateXmlWithSourcesRet> {
        let dom = self.create_by(&args.xml, args.flags, Op::BulkheadDomainCreateXmlWithSources)?;
        Ok(bulkhead::DomainCreateXmlWithSourcesRet { dom }.into())
    }

    fn domain_suspend(&mut self, _: &mut Context, args: remote::DomainSuspendArgs) -> Answer<()> {
        Ok(self.suspend(&args.dom)?.into())
    }

    fn domain_resume(&mut self, _: &mut Context, args: remote::DomainResumeArgs) -> Answer<()> {
        Ok(self.resume(&args.dom)?.into())
    }

    fn domain_shutdown(&mut self, _: &mut Context, args: remote::DomainShutdownArgs) -> Answer<()> {
        Ok(self.shutdown(&args.dom)?.into())
    }

    fn domain_shutdown_flags(&mut self, _: &mut Context, args: remote::DomainShutdownFlagsArgs) -> Answer<()> {
        flags::<ShutdownFlags>(args.flags, Op::DomainShutdownFlags)?;
        Ok(self.shutdown(&args.dom)?.into())
    }

    fn domain_reboot(&mut self, _: &mut Context, args: remote::DomainRebootArgs) -> Answer<()> {
        flags::<RebootFlags>(args.flags, Op::DomainReboot)?;
        Ok(self.reboot(&args.dom)?.into())
    }

    fn domain_reset(&mut self, _: &mut Context, args: remote::DomainResetArgs) -> Answer<()> {
        no_flags(args.flags, Op::DomainReset)?;
        Ok(self.reset(&args.dom)?.into())
    }

    fn domain_inject_nmi(&mut self, _: &mut Context, args: remote::DomainInjectNmiArgs) -> Answer<()> {
        no_flags(args.flags, Op::DomainInjectNmi)?;
        Ok(self.inject_nmi(&args.dom)?.into())
    }

    fn domain_destroy(&mut self, _: &mut Context, args: remote::DomainDestroyArgs) -> Answer<()> {
        Ok(self.destroy(&args.dom)?.into())
    }

    fn domain_destroy_flags(&mut self, _: &mut Context, args: remote::DomainDestroyFlagsArgs) -> Answer<()> {
        flags::<DestroyFlags>(args.flags, Op::DomainDestroyFlags)?;
        Ok(self.destroy(&args.dom)?.into())
    }

    fn domain_get_state(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetStateArgs,
    ) -> Answer<remote::DomainGetStateRet> {
        no_flags(args.flags, Op::DomainGetState)?;
        let (state, reason) = self.guest(&args.dom)?.state();
        Ok(remote::DomainGetStateRet { state: state.number(), reason }.into())
    }

    fn domain_get_info(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetInfoArgs,
    ) -> Answer<remote::DomainGetInfoRet> {
        let guest = self.guest(&args.dom)?;
        let (max_mem, memory) = guest.memory_kib();
        Ok(remote::DomainGetInfoRet {
            state: u8::try_from(guest.state().0.number()).unwrap_or_default(),
            max_mem,
            memory,
            nr_virt_cpu: u16::try_from(guest.vcpus()).unwrap_or(u16::MAX),
            cpu_time: guest.cpu_time_ns(),
        }
        .into())
    }

    fn domain_is_active(
        &mut self,
        _: &mut Context,
        args: remote::DomainIsActiveArgs,
    ) -> Answer<remote::DomainIsActiveRet> {
        Ok(remote::DomainIsActiveRet { active: self.guest(&args.dom)?.is_active().into() }.into())
    }

    fn domain_get_os_type(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetOsTypeArgs,
    ) -> Answer<remote::DomainGetOsTypeRet> {
        self.guest(&args.dom)?;
        Ok(remote::DomainGetOsTypeRet { r#type: OS_TYPE.into() }.into())
    }

    fn bulkhead_domain_guest_info(
        &mut self,
        _: &mut Context,
        args: bulkhead::DomainGuestInfoArgs,
    ) -> Answer<bulkhead::DomainGuestInfoRet> {
        let guest = self.guest(&args.dom)?;
        let Ok(running) = guest.running() else { return Ok(bulkhead::DomainGuestInfoRet::default().into()) };
        let started = running.started.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(bulkhead::DomainGuestInfoRet {
            accel: "test".into(),
            started_seconds: i64::try_from(started.as_secs()).unwrap_or(i64::MAX),
            started_nanos: started.subsec_nanos(),
            ..bulkhead::DomainGuestInfoRet::default()
        }
        .into())
    }

    fn bulkhead_domain_open_console(&mut self, cx: &mut Context, args: bulkhead::DomainOpenConsoleArgs) -> Answer<()> {
        Ok(self.open_console(cx, &args)?.into())
    }

    fn domain_get_metadata(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetMetadataArgs,
    ) -> Answer<remote::DomainGetMetadataRet> {
        known_flags(args.flags, rules::IMPACT, Op::DomainGetMetadata)?;
        let kind = notes::check_question(&ERRORS, &args)?;
        let metadata = notes::read(&ERRORS, self.guest(&args.dom)?.asked(args.flags)?, kind, args.uri.as_deref())?;
        Ok(remote::DomainGetMetadataRet { metadata }.into())
    }

    fn domain_set_metadata(&mut self, _: &mut Context, args: remote::DomainSetMetadataArgs) -> Answer<()> {
        known_flags(args.flags, rules::IMPACT, Op::DomainSetMetadata)?;
        let kind = notes::check(&ERRORS, &args)?;
        self.change(&args.dom, args.flags, |domain, _| notes::write(&ERRORS, domain, &args))?;
        let uri = args.uri.clone().filter(|_| kind == MetadataType::Element);
        self.tell(&args.dom, Notice::MetadataChange { kind: kind.number(), uri })?;
        Ok(().into())
    }

    fn domain_rename(&mut self, _: &mut Context, args: remote::DomainRenameArgs) -> Answer<remote::DomainRenameRet> {
        no_flags(args.flags, Op::DomainRename)?;
        let name = rules::new_name(&ERRORS, args.new_name.as_deref(), Op::DomainRename)?;
        self.rename(&args.dom, name)?;
        Ok(remote::DomainRenameRet { retcode: 0 }.into())
    }

    fn domain_get_control_info(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetControlInfoArgs,
    ) -> Answer<remote::DomainGetControlInfoRet> {
        no_flags(args.flags, Op::DomainGetControlInfo)?;
        self.guest(&args.dom)?.running()?;
        Ok(remote::DomainGetControlInfoRet::default().into())
    }

    fn domain_get_messages(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetMessagesArgs,
    ) -> Answer<remote::DomainGetMessagesRet> {
        flags::<MessageTypes>(args.flags, Op::DomainGetMessages)?;
        self.empty(&args.dom)
    }
}

/// The flags of a start. Nothing here ends with a connection, so a guest that should is refused, as libvirt's driver does.
fn create_flags(bits: u32, op: Op) -> Result<CreateFlags> {
    known_flags(bits, (CreateFlags::all() - CreateFlags::AUTODESTROY).bits(), op)?;
    Ok(CreateFlags::from_bits_truncate(bits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_driver::rig::{ask, test};

    #[test]
    fn notes_are_kept_for_each_application() {
        let (link, dom) = test();
        let note = |text: Option<&str>| remote::DomainSetMetadataArgs {
            dom: dom.clone(),
            r#type: MetadataType::Element.number(),
            metadata: text.map(Into::into),
            key: Some("k".into()),
            uri: Some("urn:k".into()),
            flags: 3,
        };
        let read = |flags| {
            let (r#type, uri) = (MetadataType::Element.number(), Some("urn:k".into()));
            ask(&link, remote::DomainGetMetadataArgs { dom: dom.clone(), r#type, uri, flags })
        };
        ask(&link, note(Some("<x/>"))).unwrap();
        assert_eq!((read(1).unwrap().metadata, read(2).unwrap().metadata), ("<x/>".into(), "<x/>".into()));
        assert_eq!(ask(&link, note(Some("<x"))).unwrap_err().code, ErrorCode::XML_DETAIL);
        ask(&link, note(None)).unwrap();
        assert_eq!(read(0).unwrap_err().code, ErrorCode::NO_DOMAIN_METADATA);
    }
}
