//! Handles to the objects of a connection, with a method for each operation of the table.
//!
//! They are generated from the rows (`build/handles.rs`), so an operation that the table has can be called by its own typed
//! method; what is more than one call (a start with its files, consoles, events) is written by hand in `domain` and
//! `connection`. [`Connection::invoke`] is the same without the types.

#![allow(clippy::too_many_arguments, reason = "a method has the arguments of its row")]
#![allow(clippy::doc_markdown, reason = "libvirt's names stand in the rows' documentation as libvirt spells them")]

use std::fmt;

use api::remote;
use uuid::Uuid;

use crate::{Connection, Domain, Result};

include!(concat!(env!("OUT_DIR"), "/handles.rs"));

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ErrorCode, Op, OpKind};

    #[test]
    fn every_call_has_a_method_or_a_reason() {
        for op in Op::ALL.iter().filter(|op| op.info().kind == OpKind::Call) {
            let info = op.info();
            let plain = info.stream.is_none() && info.fds_in.max == 0 && info.fds_out.max == 0 && info.needs_auth;
            let excused = !plain
                || info.name.contains("_register")
                || info.name.contains("_deregister")
                || info.program == api::bulkhead::PROGRAM
                || WITHOUT.iter().any(|(name, _)| *name == info.name);
            let generated = GENERATED.contains(&op.to_string().as_str())
                || GENERATED.contains(&format!("qemu_{}", info.name).as_str());
            assert!(generated != excused, "{op}: generated {generated}, excused {excused}");
        }
        for (name, _) in WITHOUT {
            assert!(Op::ALL.iter().any(|op| op.info().name == *name), "{name} is no call");
        }
    }

    #[test]
    fn a_typed_method_asks_as_the_row_says() {
        let connection = Connection::open("test:///default").unwrap();
        let domain = connection.domain("test").unwrap();
        assert!(domain.is_active().unwrap());
        assert_eq!(connection.list_all_domains(0).unwrap().len(), 1);
        assert_eq!(connection.list_defined_domains().unwrap(), Vec::<String>::new());
        assert_eq!(domain.memory_parameters(0).unwrap().len(), 3, "it asks for their number first");
        assert_eq!(domain.scheduler_parameters().unwrap().len(), 1, "and here for as many as there can be");
        domain.set_autostart(true).unwrap();
        assert!(domain.autostart().unwrap());
        let missing = connection.network_lookup_by_name("nowhere").unwrap_err();
        assert_eq!(missing.code, ErrorCode::NO_NETWORK);
        assert_eq!(domain.migrate_get_max_speed(0).unwrap_err().code, ErrorCode::NO_SUPPORT);
    }
}
