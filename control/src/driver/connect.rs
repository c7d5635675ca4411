//! The connection, and what the host's hypervisor is.

use api::{Answer, ConnectOps, ErrorCode, Outcome, bulkhead, consts::Feature, remote};

use super::{Asked, DRIVER_NAME, int, only};
use crate::{Control, errors};

impl ConnectOps for Control {
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

    /// Nobody without privilege may read what the firmware tells of the host.
    fn connect_get_sysinfo(
        &mut self,
        _: &mut Asked,
        args: remote::ConnectGetSysinfoArgs,
    ) -> Answer<remote::ConnectGetSysinfoRet> {
        only(args.flags, 0, "virConnectGetSysinfo")?;
        let text = "unsupported configuration: Host SMBIOS information is not available";
        Err(errors::told(ErrorCode::CONFIG_UNSUPPORTED, text))
    }

    fn connect_get_cpu_model_names(
        &mut self,
        cx: &mut Asked,
        args: remote::ConnectGetCpuModelNamesArgs,
    ) -> Answer<remote::ConnectGetCpuModelNamesRet> {
        self.cpu_models(cx, &args)
    }
}
