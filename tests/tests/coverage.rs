//! Which operations of libvirt each of our drivers answers, beside libvirt's own drivers: docs/coverage.md is what a run
//! found.
//!
//! `make coverage` writes the page anew and prints it.
// A helper of a test fails as the test does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    env,
    fmt::Write,
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use api::{Call, Error, ErrorCode, Family, Op, OpKind, Operation, Reply, remote};
use bulkhead_tests::{Gateway, Instance};
use wire::{
    client::{CallError, Client},
    transport::Unix,
};

/// What the gateway answers before a driver is asked, and what ends the connection.
fn is_the_connection_s(op: Op) -> bool {
    !op.info().needs_auth || matches!(op, Op::ConnectOpen | Op::ConnectClose)
}

/// The calls of libvirt's programs that a driver could answer.
fn calls() -> impl Iterator<Item = Op> {
    let libvirts = |op: &Op| op.info().kind == OpKind::Call && op.info().program != api::bulkhead::PROGRAM;
    Op::ALL.into_iter().filter(libvirts).filter(|op| !is_the_connection_s(*op))
}

fn connect(socket: &Path, uri: &str) -> Client {
    let client = Client::new(Box::new(Unix::new(UnixStream::connect(socket).unwrap()))).unwrap();
    client.login(None, Duration::from_secs(10)).unwrap();
    let open = remote::ConnectOpenArgs { name: Some(uri.into()), flags: 0 };
    client.call(&open.into_call(), Vec::new()).unwrap();
    client
}

/// The call with nothing in its arguments, which names no object that there is.
fn empty(op: Op) -> Call {
    let zeros = vec![0; 4096];
    Call::decode(op, &mut api::xdr::Decoder::new(&zeros)).unwrap().unwrap()
}

/// The answer of a driver that has nothing of the kind.
fn none(call: &Call) -> Option<Result<Reply, Error>> {
    api::none(call, |_| Ok(()))
}

/// What a driver makes of the calls.
#[derive(Default)]
struct Answered {
    /// It has an answer, be it an error about what is not there.
    all: BTreeSet<Op>,
    /// The answer is that there is nothing of the kind.
    none: BTreeSet<Op>,
}

fn ask(socket: &Path, uri: &str) -> Answered {
    let mut client = connect(socket, uri);
    let mut known = Answered::default();
    for op in calls() {
        let call = empty(op);
        let nothing = match client.call(&call, Vec::new()) {
            Err(CallError::Failed(error)) if error.code == ErrorCode::NO_SUPPORT => continue,
            // The domain that an empty call names is missing before what it would have.
            Err(CallError::Failed(error)) => none(&call).is_some_and(|nothing| {
                error.code == ErrorCode::NO_DOMAIN || nothing.is_err_and(|nothing| nothing.code == error.code)
            }),
            Ok(answer) => matches!(none(&call), Some(Ok(nothing)) if nothing == answer.0),
            Err(error) => panic!("{op}: {error:?}"),
        };
        known.all.insert(op);
        if nothing {
            known.none.insert(op);
        }
        if op.info().stream.is_some() {
            // The stream that may be open goes with its connection.
            client = connect(socket, uri);
        }
    }
    known
}

fn families() -> impl Iterator<Item = (Family, Vec<Op>)> {
    Family::ALL.into_iter().map(|family| (family, calls().filter(|op| op.info().family == family).collect()))
}

fn libvirt_has(op: Op, driver: &str) -> bool {
    op.info().libvirt.contains(&driver)
}

fn row(name: &str, ops: &[Op], qemu: &Answered, test: &Answered) -> String {
    let count = |is: &dyn Fn(Op) -> bool| ops.iter().filter(|op| is(**op)).count();
    let ours = |known: &Answered| {
        let (all, none) = (count(&|op| known.all.contains(&op)), count(&|op| known.none.contains(&op)));
        format!("{} | {none}", all - none)
    };
    format!(
        "| {name} | {} | {} | {} | {} | {} |\n",
        ops.len(),
        ours(qemu),
        count(&|op| libvirt_has(op, "qemu")),
        ours(test),
        count(&|op| libvirt_has(op, "test")),
    )
}

fn missing(driver: &str, ours: &Answered) -> String {
    let mut text = format!("\n## What libvirt's `{driver}` answers and ours does not\n\n");
    for (family, ops) in families() {
        let missing = ops.iter().filter(|op| libvirt_has(**op, driver) && !ours.all.contains(op));
        let missing: Vec<String> = missing.map(|op| format!("`{}`", op.info().api)).collect();
        if !missing.is_empty() {
            writeln!(text, "- {family:?}: {}", missing.join(", ")).unwrap();
        }
    }
    text
}

fn document(qemu: &Answered, test: &Answered) -> String {
    let mut text = String::from(
        "# Which operations are answered\n\n\
         Of each family of objects, how many of libvirt's calls our drivers answer, beside those of libvirt that do. Found by\n\
         `tests/tests/coverage.rs`, which asks each of them through the gateway and fails when this page is no longer true;\n\
         `make coverage` writes it anew. An error about the object at hand is an answer, and \"this function is not supported by\n\
         the connection driver\" is none. The columns \"none there\" count calls that are answered because the driver has nothing\n\
         of the kind: with an empty list, or with \"not found\". What libvirt's drivers answer stands in the rows of `api/table`.\n\n\
         | family | calls | `qemu` | none there | libvirt's | `test` | none there | libvirt's |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for (family, ops) in families() {
        text += &row(&format!("{family:?}"), &ops, qemu, test);
    }
    text += &row("**all**", &calls().collect::<Vec<_>>(), qemu, test);
    text + &missing("qemu", qemu) + &missing("test", test)
}

#[test]
fn the_page_says_what_is_answered() {
    let instance = Instance::session();
    let gateway = Gateway::start(&instance);
    let socket = gateway.socket();
    let text = document(&ask(&socket, "qemu:///session"), &ask(&socket, "test:///default"));
    let page: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/coverage.md");
    if env::var_os("REGENERATE_COVERAGE").is_some() {
        fs::write(&page, &text).unwrap();
    }
    let written = fs::read_to_string(&page).unwrap_or_default();
    assert!(text == written, "docs/coverage.md is no longer true: run `make coverage`");
}
