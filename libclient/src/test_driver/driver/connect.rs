//! The connection, and what the mock hypervisor is.

use api::{Answer, ConnectOps, ErrorCode, Op, bulkhead, consts::Feature, remote};

use super::{Context, no_flags};
use crate::test_driver::machine::{ERRORS, Machine};

/// libvirt's: the version of a hypervisor that does not exist.
const VERSION: u64 = 2;
/// Virtual CPUs that a guest may have, of any type: libvirt's test driver does not look at the one that it is asked for.
const MAX_VCPUS: i32 = 32;
/// The CPU models of an architecture that mock hosts are made of. Of some others libvirt has none, and some it does not
/// support.
const X86_MODELS: [&str; 8] = ["486", "pentium", "pentium2", "pentium3", "coreduo", "kvm32", "qemu32", "qemu64"];
const WITHOUT_MODELS: [&str; 5] = ["aarch64", "armv7l", "ppc64", "ppc64le", "s390x"];
const UNSUPPORTED: [&str; 7] = ["m68k", "mips", "mips64", "mipsel", "riscv32", "riscv64", "sparc"];
const SYSINFO: &str = "\
<sysinfo type='smbios'>
  <bios>
    <entry name='vendor'>Bulkhead</entry>
    <entry name='version'>1</entry>
  </bios>
  <system>
    <entry name='manufacturer'>Bulkhead</entry>
    <entry name='product'>Mock host</entry>
  </system>
</sysinfo>
";

impl ConnectOps for Machine {
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

    fn connect_get_sysinfo(
        &mut self,
        _: &mut Context,
        args: remote::ConnectGetSysinfoArgs,
    ) -> Answer<remote::ConnectGetSysinfoRet> {
        no_flags(args.flags, Op::ConnectGetSysinfo)?;
        Ok(remote::ConnectGetSysinfoRet { sysinfo: SYSINFO.into() }.into())
    }

    fn connect_get_cpu_model_names(
        &mut self,
        _: &mut Context,
        args: remote::ConnectGetCpuModelNamesArgs,
    ) -> Answer<remote::ConnectGetCpuModelNamesRet> {
        no_flags(args.flags, Op::ConnectGetCpuModelNames)?;
        let models: &[&str] = match args.arch.as_str() {
            "i686" | "x86_64" => &X86_MODELS,
            other if WITHOUT_MODELS.contains(&other) => &[],
            other if UNSUPPORTED.contains(&other) => {
                let text = format!("'{other}' architecture is not supported by CPU driver");
                let message = format!("this function is not supported by the connection driver: {text}");
                return Err(ERRORS.told(ErrorCode::NO_SUPPORT, message));
            }
            other => return Err(ERRORS.invalid(format_args!("cannot find architecture {other}"))),
        };
        let ret = i32::try_from(models.len()).unwrap_or(i32::MAX);
        let wanted = models.iter().filter(|_| args.need_results != 0);
        Ok(remote::ConnectGetCpuModelNamesRet { models: wanted.map(ToString::to_string).collect(), ret }.into())
    }
}
