//! The operations that the mock hypervisor has; all others answer that they are not supported.

use api::{
    Answer, Driver, Error, ErrorCode, ErrorDomain, Op, bulkhead,
    consts::{
        ConsoleFlags, CreateFlags, DefineFlags, DestroyFlags, Feature, RebootFlags, ShutdownFlags, UndefineFlags,
        VcpuFlags, XmlFlags,
    },
    remote,
};
use bitflags::Flags;
use registry::rules;

use super::{
    Context,
    console::Echo,
    figures::LISTS,
    machine::{ERRORS, Guest, Machine},
};
use crate::Result;

/// libvirt's: the version of a hypervisor that does not exist.
const VERSION: u64 = 2;
/// libvirt's test driver answers this for every document.
const OS_TYPE: &str = "linux";
/// Virtual CPUs that a guest may have, of any type: libvirt's test driver does not look at the one that it is asked for.
const MAX_VCPUS: i32 = 32;

/// The flags of a call, refused when there is one that the operation does not have.
pub(super) fn flags<F: Flags<Bits = u32>>(bits: u32, op: Op) -> Result<F> {
    rules::flags(&ERRORS, bits, op)
}

/// The same, for an operation with these flags only.
pub(super) fn known_flags(bits: u32, known: u32, op: Op) -> Result<()> {
    rules::known_flags(&ERRORS, bits, known, op)
}

pub(super) fn no_flags(bits: u32, op: Op) -> Result<()> {
    known_flags(bits, 0, op)
}

/// The flags of a start. Nothing here ends with a connection, so a guest that should is refused, as libvirt's driver does.
fn create_flags(bits: u32, op: Op) -> Result<CreateFlags> {
    known_flags(bits, (CreateFlags::all() - CreateFlags::AUTODESTROY).bits(), op)?;
    Ok(CreateFlags::from_bits_truncate(bits))
}

/// As many as a caller has room for.
fn at_most<T>(list: impl Iterator<Item = T>, most: i32) -> Vec<T> {
    list.take(usize::try_from(most).unwrap_or_default()).collect()
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

pub(super) fn number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

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

/// Methods of the table whose bodies stand in `breadth` and `figures`.
macro_rules! elsewhere {
    ($($op:ident($args:ty) -> $ret:ty = $body:ident;)*) => {
        $(
            fn $op(&mut self, cx: &mut Context, args: $args) -> Answer<$ret> {
                self.$body(cx, &args)
            }
        )*
    };
}

/// Lists of what a mock guest has none of, with the flags that filter them.
macro_rules! none {
    ($($op:ident($args:ty) -> $ret:ty, $known:expr;)*) => {
        $(
            fn $op(&mut self, _: &mut Context, args: $args) -> Answer<$ret> {
                self.empty_list::<$args>(&args.dom, args.flags, $known)
            }
        )*
    };
}

impl Driver for Machine {
    type Context = Context;

    fn driver_name(&self) -> &'static str {
        "test"
    }

    // The connection and the host.

    fn connect_open(&mut self, _: &mut Context, _: remote::ConnectOpenArgs) -> Answer<()> {
        Ok(().into())
    }

    fn connect_close(&mut self, _: &mut Context, _: remote::ConnectCloseArgs) -> Answer<()> {
        Ok(().into())
    }

    fn connect_get_type(
        &mut self,
        _: &mut Context,
        _: remote::ConnectGetTypeArgs,
    ) -> Answer<remote::ConnectGetTypeRet> {
        Ok(remote::ConnectGetTypeRet { r#type: "TEST".into() }.into())
    }

    fn connect_get_version(
        &mut self,
        _: &mut Context,
        _: remote::ConnectGetVersionArgs,
    ) -> Answer<remote::ConnectGetVersionRet> {
        Ok(remote::ConnectGetVersionRet { hv_ver: VERSION }.into())
    }

    fn connect_get_lib_version(
        &mut self,
        _: &mut Context,
        _: remote::ConnectGetLibVersionArgs,
    ) -> Answer<remote::ConnectGetLibVersionRet> {
        Ok(remote::ConnectGetLibVersionRet { lib_ver: api::consts::LIBVIRT_VERSION }.into())
    }

    fn connect_get_hostname(
        &mut self,
        _: &mut Context,
        _: remote::ConnectGetHostnameArgs,
    ) -> Answer<remote::ConnectGetHostnameRet> {
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(remote::ConnectGetHostnameRet { hostname }.into())
    }

    fn connect_get_uri(&mut self, _: &mut Context, _: remote::ConnectGetUriArgs) -> Answer<remote::ConnectGetUriRet> {
        Ok(remote::ConnectGetUriRet { uri: self.node.uri.clone() }.into())
    }

    fn connect_get_max_vcpus(
        &mut self,
        _: &mut Context,
        _: remote::ConnectGetMaxVcpusArgs,
    ) -> Answer<remote::ConnectGetMaxVcpusRet> {
        Ok(remote::ConnectGetMaxVcpusRet { max_vcpus: MAX_VCPUS }.into())
    }

    fn connect_get_capabilities(
        &mut self,
        _: &mut Context,
        _: remote::ConnectGetCapabilitiesArgs,
    ) -> Answer<remote::ConnectGetCapabilitiesRet> {
        Ok(remote::ConnectGetCapabilitiesRet { capabilities: self.node.capabilities() }.into())
    }

    fn connect_supports_feature(
        &mut self,
        _: &mut Context,
        args: remote::ConnectSupportsFeatureArgs,
    ) -> Answer<remote::ConnectSupportsFeatureRet> {
        let supported = matches!(
            Feature::try_from(args.feature),
            Ok(Feature::TypedParamString | Feature::NetworkUpdateHasCorrectOrder)
        );
        Ok(remote::ConnectSupportsFeatureRet { supported: supported.into() }.into())
    }

    fn connect_is_secure(
        &mut self,
        _: &mut Context,
        _: remote::ConnectIsSecureArgs,
    ) -> Answer<remote::ConnectIsSecureRet> {
        Ok(remote::ConnectIsSecureRet { secure: 1 }.into())
    }

    fn node_get_info(&mut self, _: &mut Context, _: remote::NodeGetInfoArgs) -> Answer<remote::NodeGetInfoRet> {
        let node = &self.node;
        Ok(remote::NodeGetInfoRet {
            model: api::chars::filled(&node.model, 32),
            memory: node.memory_kib,
            cpus: number(node.cpus),
            mhz: number(node.mhz),
            nodes: number(node.nodes),
            sockets: number(node.sockets),
            cores: number(node.cores),
            threads: number(node.threads),
        }
        .into())
    }

    // Lists and lookups.

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

    // Definitions.

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

    // A guest's life.

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

    // What a domain is doing.

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

    fn domain_get_max_memory(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetMaxMemoryArgs,
    ) -> Answer<remote::DomainGetMaxMemoryRet> {
        Ok(remote::DomainGetMaxMemoryRet { memory: self.guest(&args.dom)?.memory_kib().0 }.into())
    }

    fn domain_get_max_vcpus(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetMaxVcpusArgs,
    ) -> Answer<remote::DomainGetMaxVcpusRet> {
        let guest = self.guest(&args.dom)?;
        // libvirt asks for the number of the run.
        guest.running()?;
        Ok(remote::DomainGetMaxVcpusRet { num: number(guest.max_vcpus()) }.into())
    }

    fn domain_get_vcpus_flags(
        &mut self,
        _: &mut Context,
        args: remote::DomainGetVcpusFlagsArgs,
    ) -> Answer<remote::DomainGetVcpusFlagsRet> {
        let flags: VcpuFlags = flags(args.flags, Op::DomainGetVcpusFlags)?;
        // There is no agent to ask.
        no_flags((flags & VcpuFlags::GUEST).bits(), Op::DomainGetVcpusFlags)?;
        let vcpus = &self.guest(&args.dom)?.asked(args.flags)?.vcpus;
        let maximum = flags.contains(VcpuFlags::MAXIMUM);
        let num = if maximum { vcpus.max } else { vcpus.online() };
        Ok(remote::DomainGetVcpusFlagsRet { num: number(num) }.into())
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

    elsewhere! {
        connect_get_all_domain_stats(remote::ConnectGetAllDomainStatsArgs) -> remote::ConnectGetAllDomainStatsRet = all_stats;
        domain_get_cpu_stats(remote::DomainGetCpuStatsArgs) -> remote::DomainGetCpuStatsRet = cpu_stats;
        domain_memory_stats(remote::DomainMemoryStatsArgs) -> remote::DomainMemoryStatsRet = memory_stats;
        domain_block_stats(remote::DomainBlockStatsArgs) -> remote::DomainBlockStatsRet = block_stats;
        domain_interface_stats(remote::DomainInterfaceStatsArgs) -> remote::DomainInterfaceStatsRet = interface_stats;
        domain_get_vcpus(remote::DomainGetVcpusArgs) -> remote::DomainGetVcpusRet = vcpu_infos;
        domain_get_vcpu_pin_info(remote::DomainGetVcpuPinInfoArgs) -> remote::DomainGetVcpuPinInfoRet = vcpu_pins;
        domain_set_vcpus(remote::DomainSetVcpusArgs) -> () = set_vcpus;
        domain_set_vcpus_flags(remote::DomainSetVcpusFlagsArgs) -> () = set_vcpus_flags;
        domain_set_memory(remote::DomainSetMemoryArgs) -> () = set_memory;
        domain_set_memory_flags(remote::DomainSetMemoryFlagsArgs) -> () = set_memory_flags;
        domain_set_max_memory(remote::DomainSetMaxMemoryArgs) -> () = set_max_memory;
        domain_get_metadata(remote::DomainGetMetadataArgs) -> remote::DomainGetMetadataRet = metadata;
        domain_set_metadata(remote::DomainSetMetadataArgs) -> () = set_metadata;
        domain_rename(remote::DomainRenameArgs) -> remote::DomainRenameRet = rename_by;
        node_get_cpu_map(remote::NodeGetCpuMapArgs) -> remote::NodeGetCpuMapRet = cpu_map;
        node_get_free_memory(remote::NodeGetFreeMemoryArgs) -> remote::NodeGetFreeMemoryRet = free_memory;
        node_get_cells_free_memory(remote::NodeGetCellsFreeMemoryArgs) -> remote::NodeGetCellsFreeMemoryRet = cells_free_memory;
        node_get_free_pages(remote::NodeGetFreePagesArgs) -> remote::NodeGetFreePagesRet = free_pages;
        node_get_memory_stats(remote::NodeGetMemoryStatsArgs) -> remote::NodeGetMemoryStatsRet = node_memory_stats;
        node_get_security_model(remote::NodeGetSecurityModelArgs) -> remote::NodeGetSecurityModelRet = security_model;
        domain_get_time(remote::DomainGetTimeArgs) -> remote::DomainGetTimeRet = guest_time;
        domain_get_hostname(remote::DomainGetHostnameArgs) -> remote::DomainGetHostnameRet = guest_hostname;
        domain_send_key(remote::DomainSendKeyArgs) -> () = press_keys;
        domain_get_scheduler_type(remote::DomainGetSchedulerTypeArgs) -> remote::DomainGetSchedulerTypeRet = scheduler_type;
        domain_get_scheduler_parameters(remote::DomainGetSchedulerParametersArgs) -> remote::DomainGetSchedulerParametersRet = scheduler_parameters;
        domain_get_job_info(remote::DomainGetJobInfoArgs) -> remote::DomainGetJobInfoRet = job_info;
        domain_abort_job(remote::DomainAbortJobArgs) -> () = abort_job;
        domain_get_control_info(remote::DomainGetControlInfoArgs) -> remote::DomainGetControlInfoRet = control_info;
        domain_get_security_label(remote::DomainGetSecurityLabelArgs) -> remote::DomainGetSecurityLabelRet = security_label;
        domain_interface_addresses(remote::DomainInterfaceAddressesArgs) -> remote::DomainInterfaceAddressesRet = addresses;
        domain_get_messages(remote::DomainGetMessagesArgs) -> remote::DomainGetMessagesRet = guest_messages;
        node_get_cpu_stats(remote::NodeGetCpuStatsArgs) -> remote::NodeGetCpuStatsRet = node_cpu_stats;
        connect_get_sysinfo(remote::ConnectGetSysinfoArgs) -> remote::ConnectGetSysinfoRet = sysinfo;
        connect_get_cpu_model_names(remote::ConnectGetCpuModelNamesArgs) -> remote::ConnectGetCpuModelNamesRet = cpu_models;
        domain_get_emulator_pin_info(remote::DomainGetEmulatorPinInfoArgs) -> remote::DomainGetEmulatorPinInfoRet = emulator_pins;
        domain_get_block_info(remote::DomainGetBlockInfoArgs) -> remote::DomainGetBlockInfoRet = block_info;
        domain_get_fsinfo(remote::DomainGetFsinfoArgs) -> remote::DomainGetFsinfoRet = file_systems;
        domain_fsfreeze(remote::DomainFsfreezeArgs) -> remote::DomainFsfreezeRet = freeze;
        domain_fsthaw(remote::DomainFsthawArgs) -> remote::DomainFsthawRet = thaw;
        domain_fstrim(remote::DomainFstrimArgs) -> () = trim;
        domain_set_user_password(remote::DomainSetUserPasswordArgs) -> () = set_password;
        domain_get_memory_parameters(remote::DomainGetMemoryParametersArgs) -> remote::DomainGetMemoryParametersRet = memory_parameters;
        domain_get_numa_parameters(remote::DomainGetNumaParametersArgs) -> remote::DomainGetNumaParametersRet = numa_parameters;
        domain_get_interface_parameters(remote::DomainGetInterfaceParametersArgs) -> remote::DomainGetInterfaceParametersRet = interface_parameters;
    }

    none! {
        domain_get_job_stats(remote::DomainGetJobStatsArgs) -> remote::DomainGetJobStatsRet, 0x3;
        domain_get_block_job_info(remote::DomainGetBlockJobInfoArgs) -> remote::DomainGetBlockJobInfoRet, 0x1;
        domain_get_iothread_info(remote::DomainGetIothreadInfoArgs) -> remote::DomainGetIothreadInfoRet, 0x3;
        domain_get_disk_errors(remote::DomainGetDiskErrorsArgs) -> remote::DomainGetDiskErrorsRet, 0;
        domain_get_perf_events(remote::DomainGetPerfEventsArgs) -> remote::DomainGetPerfEventsRet, LISTS;
        domain_get_launch_security_info(remote::DomainGetLaunchSecurityInfoArgs) -> remote::DomainGetLaunchSecurityInfoRet, 0;
    }

    fn connect_register_close_callback(
        &mut self,
        _: &mut Context,
        _: remote::ConnectRegisterCloseCallbackArgs,
    ) -> Answer<()> {
        // This hypervisor is never lost.
        Ok(().into())
    }

    fn connect_unregister_close_callback(
        &mut self,
        _: &mut Context,
        _: remote::ConnectUnregisterCloseCallbackArgs,
    ) -> Answer<()> {
        Ok(().into())
    }

    // Events.

    fn bulkhead_events_subscribe(
        &mut self,
        cx: &mut Context,
        args: bulkhead::EventsSubscribeArgs,
    ) -> Answer<bulkhead::EventsSubscribeRet> {
        let bell = cx.bell.take().ok_or_else(|| {
            ERRORS.wrong_state("this driver's events do not come by themselves").with_hint("use Connection::subscribe")
        })?;
        let log = self.log();
        log.tell(&bell);
        let lost = args.since.is_some_and(|since| log.has_lost(since));
        Ok(bulkhead::EventsSubscribeRet { next: log.next(), lost }.into())
    }

    fn bulkhead_events_unsubscribe(&mut self, _: &mut Context, _: bulkhead::EventsUnsubscribeArgs) -> Answer<()> {
        // A listener that is gone is forgotten at the next event.
        Ok(().into())
    }
}
