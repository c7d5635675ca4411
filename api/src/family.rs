//! The families of objects, and what is said of an object that is not there.

use crate::error::{Error, ErrorCode, ErrorDomain, printable};
use crate::op::Op;

/// What a call or an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// The connection, its login and its events.
    Connect,
    /// The host.
    Node,
    /// Domains.
    Domain,
    /// Snapshots of domains.
    DomainSnapshot,
    /// Checkpoints of domains.
    DomainCheckpoint,
    /// Networks.
    Network,
    /// Ports of networks.
    NetworkPort,
    /// Interfaces of the host.
    Interface,
    /// Storage pools.
    StoragePool,
    /// Volumes of storage pools.
    StorageVol,
    /// Devices of the host.
    NodeDevice,
    /// Network filters.
    Nwfilter,
    /// Bindings of network filters to ports.
    NwfilterBinding,
    /// Secrets.
    Secret,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 14] = [
        Family::Connect,
        Family::Node,
        Family::Domain,
        Family::DomainSnapshot,
        Family::DomainCheckpoint,
        Family::Network,
        Family::NetworkPort,
        Family::Interface,
        Family::StoragePool,
        Family::StorageVol,
        Family::NodeDevice,
        Family::Nwfilter,
        Family::NwfilterBinding,
        Family::Secret,
    ];

    /// libvirt's code for an object that is not there, how that code's texts begin, and how they call the object.
    fn missing_words(self) -> (ErrorCode, &'static str, &'static str) {
        match self {
            Family::Connect | Family::Node | Family::Domain => (ErrorCode::NO_DOMAIN, "Domain", "domain"),
            Family::DomainSnapshot => (ErrorCode::NO_DOMAIN_SNAPSHOT, "Domain snapshot", "domain snapshot"),
            Family::DomainCheckpoint => (ErrorCode::NO_DOMAIN_CHECKPOINT, "Domain checkpoint", "domain checkpoint"),
            Family::Network => (ErrorCode::NO_NETWORK, "Network", "network"),
            Family::NetworkPort => (ErrorCode::NO_NETWORK_PORT, "Network port", "network port"),
            Family::Interface => (ErrorCode::NO_INTERFACE, "Interface", "interface"),
            Family::StoragePool => (ErrorCode::NO_STORAGE_POOL, "Storage pool", "storage pool"),
            Family::StorageVol => (ErrorCode::NO_STORAGE_VOL, "Storage volume", "storage vol"),
            Family::NodeDevice => (ErrorCode::NO_NODE_DEVICE, "Node device", "node device"),
            Family::Nwfilter => (ErrorCode::NO_NWFILTER, "Network filter", "nwfilter"),
            Family::NwfilterBinding => (ErrorCode::NO_NWFILTER_BINDING, "Network filter binding", "nwfilter binding"),
            Family::Secret => (ErrorCode::NO_SECRET, "Secret", "secret"),
        }
    }

    /// The answer to a call that names an object by what no object of this family has, in libvirt's words.
    pub fn missing(self, op: Op, key: &str, value: &str) -> Error {
        let ((code, title, noun), value) = (self.missing_words(), printable(value));
        Error::new(code, ErrorDomain::of(op), format!("{title} not found: no {noun} with matching {key} '{value}'"))
    }

    /// The answer to a call for the current object of a domain that has none.
    pub fn no_current(self, op: Op) -> Error {
        let (code, title, _) = self.missing_words();
        let noun = title.rsplit(' ').next().unwrap_or(title);
        Error::new(code, ErrorDomain::of(op), format!("{title} not found: the domain does not have a current {noun}"))
    }
}
