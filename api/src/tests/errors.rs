//! The error that callers see.

use std::fmt;

use crate::{Error, ErrorCode, ErrorDomain, Level, Op, remote};

#[derive(Debug)]
struct Step(&'static str, Option<Box<Step>>);

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Step {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.1.as_deref().map(|step| step as _)
    }
}

fn failed() -> Error {
    let cause = Step("cannot open disk", Some(Box::new(Step("no such file", None))));
    Error::new(ErrorCode::OPERATION_FAILED, ErrorDomain::QEMU, "cannot start guest")
        .with_cause(cause)
        .with_hint("look at the path")
}

#[test]
fn the_whole_chain_is_kept_and_the_text_is_the_message() {
    let error = failed();
    assert_eq!(error.to_string(), "cannot start guest");
    assert_eq!(error.causes, ["cannot open disk", "no such file"]);
    assert_eq!(error.full_text(), "cannot start guest: cannot open disk: no such file");
}

fn sources(error: &Error) -> Vec<String> {
    let error: &dyn std::error::Error = error;
    std::iter::successors(error.source(), |cause| cause.source()).map(ToString::to_string).collect()
}

#[test]
fn the_causes_are_a_chain_of_sources() {
    assert_eq!(sources(&failed()), ["cannot open disk", "no such file"]);
    assert_eq!(sources(&Error::new(ErrorCode::RPC, ErrorDomain::RPC, "x")), [""; 0]);
    let error = failed();
    assert_eq!(sources(&error).len(), 2);
    let longer = error.clone().with_cause_text("the disk is full");
    assert_eq!(sources(&longer), ["cannot open disk", "no such file", "the disk is full"]);
    assert_ne!(error, longer);
    // As the cause of another one, it brings its own causes.
    let outer = Error::new(ErrorCode::OPERATION_FAILED, ErrorDomain::QEMU, "cannot go on").with_cause(&error);
    assert_eq!(sources(&outer), ["cannot start guest", "cannot open disk", "no such file"]);
}

#[test]
fn a_chain_as_long_as_a_message_is_taken_apart_without_a_stack() {
    let error = Error { causes: vec![String::new(); 1 << 20].into(), ..failed() };
    let small = std::thread::Builder::new().stack_size(128 << 10);
    small.spawn(move || assert_eq!(sources(&error).len(), 1 << 20)).unwrap().join().unwrap();
}

#[test]
fn libvirts_clients_get_the_full_text_in_one() {
    let wire = remote::Error::from(&failed());
    assert_eq!((wire.code, wire.domain, wire.level), (9, 10, 2));
    assert_eq!(wire.message.as_deref(), Some("cannot start guest: cannot open disk: no such file"));
    assert_eq!((wire.str1.as_deref(), &wire.str2), (Some("%s"), &wire.message));
    let back = Error::from(wire);
    assert_eq!((back.code, back.level), (ErrorCode::OPERATION_FAILED, Level::Error));
    assert_eq!(back.message, failed().full_text());
}

#[test]
fn numbers_are_libvirts_and_unknown_ones_survive() {
    assert_eq!(ErrorCode::NO_DOMAIN, ErrorCode(42));
    assert_eq!(ErrorCode::OPERATION_DENIED.0, 29);
    assert_eq!(ErrorCode::NO_DOMAIN.to_string(), "NO_DOMAIN (42)");
    assert_eq!(ErrorCode(9999).name(), "UNKNOWN");
    let strange = Error::new(ErrorCode(9999), ErrorDomain(777), "?");
    let back = Error::from(remote::Error::from(&strange));
    assert_eq!((back.code, back.domain), (ErrorCode(9999), ErrorDomain(777)));
}

#[test]
fn an_error_belongs_to_the_part_of_its_operation() {
    assert_eq!(Error::read_only(Op::DomainSnapshotDelete).domain, ErrorDomain::DOMAIN_SNAPSHOT);
    assert_eq!(Error::read_only(Op::DomainCreate).domain, ErrorDomain::DOMAIN);
    assert_eq!(Error::read_only(Op::NetworkCreate).domain, ErrorDomain::NETWORK);
    assert_eq!(Error::unsupported(Op::ConnectGetUri, "X").domain, ErrorDomain::NONE);
}
