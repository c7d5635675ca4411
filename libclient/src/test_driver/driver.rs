//! The operations that the mock hypervisor has, a module for each family; all others answer that they are not supported.

mod agent;
mod block;
mod connect;
mod device;
mod domain;
mod node;
mod security;
mod stats;
mod tuning;

use api::{Answer, Driver, Op, Operation, no_operations, params, remote};
use bitflags::Flags;
use registry::rules::{self, IMPACT};

use super::{
    Context,
    machine::{ERRORS, Machine},
};
use crate::Result;

/// The flags of calls that only count and list what there is none of.
const LISTS: u32 = IMPACT | params::STRING_OKAY;

/// The flags of a call, refused when there is one that the operation does not have.
fn flags<F: Flags<Bits = u32>>(bits: u32, op: Op) -> Result<F> {
    rules::flags(&ERRORS, bits, op)
}

/// The same, for an operation with these flags only.
fn known_flags(bits: u32, known: u32, op: Op) -> Result<()> {
    rules::known_flags(&ERRORS, bits, known, op)
}

fn no_flags(bits: u32, op: Op) -> Result<()> {
    known_flags(bits, 0, op)
}

/// As many as a caller has room for.
fn at_most<T>(list: impl Iterator<Item = T>, most: i32) -> Vec<T> {
    list.take(usize::try_from(most).unwrap_or_default()).collect()
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl Machine {
    /// The answer of a domain that is there and has none of what is asked for.
    fn empty<R: Default>(&mut self, dom: &remote::Domain) -> Answer<R> {
        self.guest(dom)?;
        Ok(R::default().into())
    }

    /// The same, where the call has flags that filter.
    fn empty_list<A: Operation>(&mut self, dom: &remote::Domain, bits: u32, known: u32) -> Answer<A::Ret>
    where
        A::Ret: Default,
    {
        known_flags(bits, known, A::OP)?;
        match A::OP {
            Op::DomainGetIothreadInfo | Op::DomainGetPerfEvents => {
                self.guest(dom)?.asked(bits & rules::IMPACT).map(drop)?
            }
            Op::DomainGetDiskErrors => self.guest(dom)?.running().map(drop)?,
            _ => {}
        }
        self.empty(dom)
    }
}

impl Driver for Machine {
    type Context = Context;

    fn driver_name(&self) -> &'static str {
        "test"
    }
}

no_operations!(
    Machine: DomainCheckpointOps, DomainEventOps, DomainMigrationOps, DomainMonitorOps, DomainSnapshotOps, InterfaceOps,
    NetworkOps, NetworkPortOps, NodeDeviceOps, NwfilterBindingOps, NwfilterOps, SecretOps, StoragePoolOps, StorageVolOps,
);
