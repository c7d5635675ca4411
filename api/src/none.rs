//! What a driver answers that has no object of a family. Having none is an answer: libvirt's clients ask for lists and
//! counts of everything before they do anything.

use crate::error::Error;
use crate::family::Family;
use crate::op::{Call, Reply};
use crate::remote;

/// A UUID as people write it.
fn text(uuid: &crate::Uuid) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |range| hex.get(range).unwrap_or_default();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

/// The answer to a call that looks for what is not there, or asks how much there is of it. `None` for a call that would make
/// something, and for one about domains, the host or the connection. As in libvirt, the flags are looked at first, then `known`
/// is asked for the domain that the call names.
///
/// ```
/// use api::{Call, Reply, none, remote};
///
/// let count = none(&Call::ConnectNumOfNetworks(remote::ConnectNumOfNetworksArgs), |_| Ok(()));
/// assert!(matches!(count, Some(Ok(Reply::ConnectNumOfNetworks(ret))) if ret.num == 0));
/// let lookup = remote::NetworkLookupByNameArgs { name: "lan".into() };
/// let lookup = none(&Call::NetworkLookupByName(lookup), |_| Ok(()));
/// assert_eq!(lookup.unwrap().unwrap_err().message, "Network not found: no network with matching name 'lan'");
/// ```
pub fn none(call: &Call, known: impl FnOnce(&remote::Domain) -> Result<(), Error>) -> Option<Result<Reply, Error>> {
    let answer = of_none(call)?;
    let unknown = call.flags().zip(call.op().info().flags).map_or(0, |(flags, allowed)| flags & !allowed);
    if unknown != 0 {
        return Some(Err(Error::unknown_flags(call.op(), unknown)));
    }
    Some(call.domain().map_or(Ok(()), known).and(answer))
}

include!(concat!(env!("OUT_DIR"), "/none.rs"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use crate::op::Op;

    fn none(call: &Call) -> Option<Result<Reply, Error>> {
        super::none(call, |_| Ok(()))
    }

    #[test]
    fn a_list_with_unknown_flags_is_refused() {
        let call = Call::ConnectListAllNetworks(remote::ConnectListAllNetworksArgs { need_results: 1, flags: 0x1000 });
        let error = none(&call).unwrap().unwrap_err();
        assert_eq!(error.code, ErrorCode::INVALID_ARG);
        assert_eq!(error.message, "unsupported flags (0x1000) in function virConnectListAllNetworks");
    }

    #[test]
    fn flags_come_before_the_domain_and_the_domain_before_what_it_has() {
        let lookup = |flags| {
            let args = remote::DomainSnapshotLookupByNameArgs { name: "a".into(), flags, ..Default::default() };
            let gone = |_: &remote::Domain| Err(Family::Domain.missing(Op::DomainLookupByName, "name", "g"));
            super::none(&Call::DomainSnapshotLookupByName(args), gone).unwrap().unwrap_err().code
        };
        assert_eq!(lookup(1), ErrorCode::INVALID_ARG);
        assert_eq!(lookup(0), ErrorCode::NO_DOMAIN);
    }

    #[test]
    fn what_a_client_sends_comes_back_short_and_visible() {
        let name = format!("a\n\u{9b}2J{}", "x".repeat(10_000));
        let lookup = Call::NetworkLookupByName(remote::NetworkLookupByNameArgs { name });
        let message = none(&lookup).unwrap().unwrap_err().message;
        assert!(message.len() < 300 && !message.chars().any(char::is_control), "{message:?}");
    }

    #[test]
    fn an_object_that_is_named_is_missing() {
        let uuid = [0x12; 16];
        let secret = Call::SecretLookupByUuid(remote::SecretLookupByUuidArgs { uuid });
        let error = none(&secret).unwrap().unwrap_err();
        assert_eq!(
            error.message,
            "Secret not found: no secret with matching uuid '12121212-1212-1212-1212-121212121212'"
        );
        let net = remote::Network { name: "lan".into(), uuid };
        let error = none(&Call::NetworkDestroy(remote::NetworkDestroyArgs { net })).unwrap().unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (ErrorCode::NO_NETWORK, "Network not found: no network with matching name 'lan'",)
        );
        let args = remote::DomainSnapshotCurrentArgs { dom: remote::Domain::default(), flags: 0 };
        let call = Call::DomainSnapshotCurrent(args);
        assert!(call.domain().is_some());
        let error = none(&call).unwrap().unwrap_err();
        assert_eq!(error.message, "Domain snapshot not found: the domain does not have a current snapshot");
    }

    #[test]
    fn what_would_make_something_has_no_such_answer() {
        let define = remote::NetworkDefineXmlArgs { xml: "<network/>".into() };
        assert!(none(&Call::NetworkDefineXml(define)).is_none());
        assert!(none(&Call::DomainCreate(remote::DomainCreateArgs::default())).is_none());
        assert!(none(&Call::NodeGetInfo(remote::NodeGetInfoArgs)).is_none());
    }
}
