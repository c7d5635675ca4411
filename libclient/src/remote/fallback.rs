//! What only Bulkhead's daemons answer, made of libvirt's calls.

use std::{collections::HashSet, os::fd::OwnedFd};

use api::{Call, Error, ErrorCode, Op, Operation, Reply, Uuid, bulkhead, consts::ListDomains, remote};

use super::Session;
use crate::{Result, error};

/// Domains whose calls are sent together: a daemon of libvirt's reads only a few at a time, and what it has not read yet
/// must fit the socket.
const TOGETHER: usize = 32;

/// Answers a call of the program `bulkhead`, or says that there is no way.
pub(super) fn answer(session: &Session, call: &Call) -> Result<(Reply, Vec<OwnedFd>)> {
    match call {
        Call::BulkheadListDomains(args) => {
            let domains = list(session, args.flags)?;
            Ok((Reply::BulkheadListDomains(bulkhead::ListDomainsRet { domains }), Vec::new()))
        }
        other => Err(Error::unsupported(other.op(), "remote")
            .with_cause_text(format!("{} has no daemon of Bulkhead's", session.place))),
    }
}

/// Every domain with what a listing shows, in a few round trips.
fn list(session: &Session, flags: u32) -> Result<Vec<bulkhead::DomainRecord>> {
    let all = |flags: u32| {
        let args = remote::ConnectListAllDomainsArgs { need_results: 1, flags };
        session.ask(args).map(|ret| ret.domains)
    };
    let domains = all(flags)?;
    if domains.is_empty() {
        return Ok(Vec::new());
    }
    // Two properties of all domains are two lists rather than two calls for each.
    let persistent = uuids(all(ListDomains::PERSISTENT.bits()))?;
    let autostart = uuids(all(ListDomains::AUTOSTART.bits()))?;
    let mut records = Vec::with_capacity(domains.len());
    for group in domains.chunks(TOGETHER) {
        for (dom, (state, info)) in group.iter().zip(question(session, group)?) {
            if let Some((state, info)) = unless_gone(state, info)? {
                records.push(record(dom, &state, &info, &persistent, &autostart));
            }
        }
    }
    Ok(records)
}

/// State and info of each domain, in one round trip.
fn question(session: &Session, group: &[remote::Domain]) -> Result<Vec<(Result<Reply>, Result<Reply>)>> {
    let state = |dom: &remote::Domain| remote::DomainGetStateArgs { dom: dom.clone(), flags: 0 }.into_call();
    let info = |dom: &remote::Domain| remote::DomainGetInfoArgs { dom: dom.clone() }.into_call();
    let calls: Vec<Call> = group.iter().flat_map(|dom| [state(dom), info(dom)]).collect();
    let answers = session.client.call_all(&calls).map_err(|failure| session.no_answer(failure, Op::DomainGetState))?;
    let mut answers = answers
        .into_iter()
        .zip(&calls)
        .map(|(answer, call)| answer.map(|(reply, _)| reply).map_err(|failure| session.no_answer(failure, call.op())));
    Ok(std::iter::from_fn(|| Some((answers.next()?, answers.next()?))).collect())
}

/// The answers of one domain; `None` if it went away meanwhile.
fn unless_gone(
    state: Result<Reply>,
    info: Result<Reply>,
) -> Result<Option<(remote::DomainGetStateRet, remote::DomainGetInfoRet)>> {
    match (state, info) {
        (Err(error), _) | (_, Err(error)) if error.code == ErrorCode::NO_DOMAIN => Ok(None),
        (state, info) => {
            let state = remote::DomainGetStateArgs::ret_of(state?).ok_or_else(|| other(Op::DomainGetState))?;
            let info = remote::DomainGetInfoArgs::ret_of(info?).ok_or_else(|| other(Op::DomainGetInfo))?;
            Ok(Some((state, info)))
        }
    }
}

fn other(op: Op) -> Error {
    error::strange_answer(op, "it is of another call")
}

/// A driver that cannot filter by a property has no domain that has it.
fn uuids(domains: Result<Vec<remote::Domain>>) -> Result<HashSet<Uuid>> {
    match domains {
        Ok(domains) => Ok(domains.into_iter().map(|dom| dom.uuid).collect()),
        Err(error) if matches!(error.code, ErrorCode::NO_SUPPORT | ErrorCode::INVALID_ARG) => Ok(HashSet::new()),
        Err(error) => Err(error),
    }
}

fn record(
    dom: &remote::Domain,
    state: &remote::DomainGetStateRet,
    info: &remote::DomainGetInfoRet,
    persistent: &HashSet<Uuid>,
    autostart: &HashSet<Uuid>,
) -> bulkhead::DomainRecord {
    bulkhead::DomainRecord {
        dom: dom.clone(),
        state: state.state,
        reason: state.reason,
        persistent: persistent.contains(&dom.uuid),
        autostart: autostart.contains(&dom.uuid),
        // Another host's process, or another daemon's: nobody here has use for it.
        supervisor_pid: 0,
        vcpus: info.nr_virt_cpu.into(),
        memory_kib: info.memory,
    }
}
