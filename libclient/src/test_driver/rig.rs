//! What the tests of this driver share.

use api::{Operation, remote};

use super::TestLink;
use crate::{Result, link::Link};

/// What an operation answers.
pub(super) fn ask<A: Operation>(link: &TestLink, args: A) -> Result<A::Ret> {
    link.call(args.into_call(), Vec::new()).map(|(reply, _)| A::ret_of(reply).unwrap())
}

/// A host with its built-in guest.
pub(super) fn test() -> (TestLink, remote::Domain) {
    let link = TestLink::open_default(false).unwrap();
    let dom = ask(&link, remote::DomainLookupByNameArgs { name: "test".into() }).unwrap().dom;
    (link, dom)
}
