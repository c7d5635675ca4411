//! Changes of what a domain is: its size, its name, what is noted down about it. The definition is changed by writing it
//! anew; a running guest only as far as its QEMU can do it.

use api::{
    Answer, Error, ErrorCode, Outcome, Reply,
    consts::{MemoryFlags, MetadataType, ModificationImpact, VcpuFlags},
    notice::Notice,
    remote,
};
use model::{Domain, MetadataError};
use registry::TransientRefusal;
use supervisor::protocol::Request;
use uuid::Uuid;

use super::{
    Control,
    driver::{Asked, only},
    errors,
    stats::has_balloon,
    store::{self, definitions::Definitions},
};

/// libvirt's bits for "the running domain" and "the definition", which are the same in every call.
const IMPACT: u32 = ModificationImpact::LIVE.bits() | ModificationImpact::CONFIG.bits();

/// What the calls for memory do.
const MEMORY: &str = "change the memory of";

/// What a call changes or asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Affected {
    /// The run, if it is meant.
    live: Option<u32>,
    /// The definition is meant.
    config: bool,
}

impl Control {
    /// libvirt's rule: without a bit the running domain is meant if it runs, else its definition.
    fn affected(&self, uuid: &Uuid, flags: u32) -> Result<Affected, Error> {
        let impact = ModificationImpact::from_bits_truncate(flags & IMPACT);
        let run = self.active(uuid).map(|guest| guest.id);
        let (live, config) = match run {
            _ if impact.is_empty() => (run.is_some(), run.is_none()),
            _ => (impact.contains(ModificationImpact::LIVE), impact.contains(ModificationImpact::CONFIG)),
        };
        if live && run.is_none() {
            return Err(errors::wrong_state("domain is not running"));
        }
        if config && self.defined(uuid).is_none() {
            return Err(errors::wrong_state("cannot change persistent config of a transient domain"));
        }
        Ok(Affected { live: run.filter(|_| live), config })
    }

    /// Changes a definition, and answers with what `then` makes of it when that has worked.
    fn change_definition(
        &mut self,
        cx: &Asked,
        uuid: Uuid,
        doing: &'static str,
        change: impl FnOnce(&mut Domain) -> Result<(), Error> + Send + 'static,
        then: impl FnOnce(&mut Control) -> Result<Reply, Error> + 'static,
    ) -> Result<(), Error> {
        let name = self.name_of_defined(&uuid)?;
        let change = move |definitions: &mut Definitions| definitions.change(&uuid, change);
        self.on_definitions(cx, (doing, &name.clone()), change, move |control, changed| {
            let summary = changed.map_err(|error| errors::change(doing, &name, error))?;
            control.objects.update(summary).map_err(|refusal| errors::refusal(&refusal))?;
            then(control)
        });
        Ok(())
    }

    fn name_of_defined(&self, uuid: &Uuid) -> Result<String, Error> {
        let transient = || errors::wrong_state("cannot change persistent config of a transient domain");
        self.defined(uuid).map(|summary| summary.name.clone()).ok_or_else(transient)
    }

    // Virtual CPUs.

    /// How many virtual CPUs there are, or can be.
    pub(super) fn vcpu_count(
        &mut self,
        _: &mut Asked,
        args: &remote::DomainGetVcpusFlagsArgs,
    ) -> Answer<remote::DomainGetVcpusFlagsRet> {
        only(args.flags, VcpuFlags::all().bits() & !VcpuFlags::HOTPLUGGABLE.bits(), "virDomainGetVcpusFlags")?;
        let uuid = self.known(&args.dom)?;
        let flags = VcpuFlags::from_bits_truncate(args.flags);
        if flags.contains(VcpuFlags::GUEST) {
            return match self.active(&uuid) {
                Some(_) => Err(errors::no_agent()),
                None => Err(errors::invalid(
                    "vCPU count provided by the guest agent can only be requested for live domains",
                )),
            };
        }
        one_of_both(args.flags)?;
        let affected = self.affected(&uuid, args.flags)?;
        let (max, current) = if affected.config {
            let defined = self.defined(&uuid);
            defined.map(|summary| (summary.vcpus, summary.vcpus_online)).unwrap_or_default()
        } else {
            let size = self.size_of(&uuid);
            (size.max_vcpus, size.vcpus)
        };
        let num = if flags.contains(VcpuFlags::MAXIMUM) { max } else { current };
        Ok(remote::DomainGetVcpusFlagsRet { num: i32::try_from(num).unwrap_or(i32::MAX) }.into())
    }

    /// The old call: of a running domain only.
    pub(super) fn set_vcpus(&mut self, cx: &mut Asked, args: &remote::DomainSetVcpusArgs) -> Answer<()> {
        self.change_vcpus(cx, &args.dom, args.nvcpus, VcpuFlags::LIVE.bits(), Reply::DomainSetVcpus)
    }

    /// Sets how many virtual CPUs a domain starts with, or can have.
    pub(super) fn set_vcpus_flags(&mut self, cx: &mut Asked, args: &remote::DomainSetVcpusFlagsArgs) -> Answer<()> {
        only(args.flags, VcpuFlags::all().bits(), "virDomainSetVcpusFlags")?;
        self.change_vcpus(cx, &args.dom, args.nvcpus, args.flags, Reply::DomainSetVcpusFlags)
    }

    fn change_vcpus(
        &mut self,
        cx: &Asked,
        dom: &remote::Domain,
        count: u32,
        flags: u32,
        reply: fn(()) -> Reply,
    ) -> Answer<()> {
        let uuid = self.known(dom)?;
        if count == 0 {
            return Err(errors::told(ErrorCode::INVALID_ARG, "nvcpus in virDomainSetVcpusFlags must not be zero"));
        }
        let affected = self.affected(&uuid, flags)?;
        if VcpuFlags::from_bits_truncate(flags).contains(VcpuFlags::GUEST) {
            return Err(errors::no_agent());
        }
        if affected.live.is_some() {
            return Err(errors::unsupported_operation("virtual CPUs cannot be plugged into a running guest yet")
                .with_hint("change the definition (--config); it holds from the next start on"));
        }
        let maximum = VcpuFlags::from_bits_truncate(flags).contains(VcpuFlags::MAXIMUM);
        let change = move |domain: &mut Domain| set_vcpus(domain, count, maximum);
        self.change_definition(cx, uuid, "change the virtual CPUs of", change, move |_| Ok(reply(())))?;
        Ok(Outcome::Pending)
    }

    // Memory.

    /// The old call: of a running domain only.
    pub(super) fn set_memory(&mut self, cx: &mut Asked, args: &remote::DomainSetMemoryArgs) -> Answer<()> {
        self.change_memory(cx, &args.dom, args.memory, MemoryFlags::LIVE.bits(), Reply::DomainSetMemory)
    }

    /// Sets how much memory a domain keeps, or can have.
    pub(super) fn set_memory_flags(&mut self, cx: &mut Asked, args: &remote::DomainSetMemoryFlagsArgs) -> Answer<()> {
        only(args.flags, MemoryFlags::all().bits(), "virDomainSetMemoryFlags")?;
        self.change_memory(cx, &args.dom, args.memory, args.flags, Reply::DomainSetMemoryFlags)
    }

    /// Sets how much memory a domain can have; one that runs has what it has.
    pub(super) fn set_max_memory(&mut self, cx: &mut Asked, args: &remote::DomainSetMaxMemoryArgs) -> Answer<()> {
        self.change_memory(cx, &args.dom, args.memory, MemoryFlags::MAXIMUM.bits(), Reply::DomainSetMaxMemory)
    }

    fn change_memory(
        &mut self,
        cx: &mut Asked,
        dom: &remote::Domain,
        kib: u64,
        flags: u32,
        reply: fn(()) -> Reply,
    ) -> Answer<()> {
        let uuid = self.known(dom)?;
        if kib == 0 {
            return Err(errors::told(ErrorCode::INVALID_ARG, "memory in virDomainSetMemoryFlags must not be zero"));
        }
        let affected = self.affected(&uuid, flags)?;
        let maximum = MemoryFlags::from_bits_truncate(flags).contains(MemoryFlags::MAXIMUM);
        if let Some(id) = affected.live {
            self.check_balloon(id, kib, maximum)?;
        }
        match affected.live {
            Some(id) if affected.config => self.change_memory_of_both(cx, uuid, id, kib, reply)?,
            Some(id) => {
                let asked = cx.later();
                self.set_balloon(id, kib, move |control, set| {
                    control.answer(&asked, set.map(|()| (reply(()), Vec::new())));
                });
            }
            None => {
                let change = move |domain: &mut Domain| set_memory(domain, kib, maximum);
                self.change_definition(cx, uuid, MEMORY, change, move |_| Ok(reply(())))?;
            }
        }
        Ok(Outcome::Pending)
    }

    /// The definition first, which the disk may refuse, then the guest; if that does not work, the definition is as it was.
    fn change_memory_of_both(
        &mut self,
        cx: &Asked,
        uuid: Uuid,
        id: u32,
        kib: u64,
        reply: fn(()) -> Reply,
    ) -> Result<(), Error> {
        let name = self.name_of_defined(&uuid)?;
        let change = move |definitions: &mut Definitions| {
            let mut before = 0;
            let changed = definitions.change(&uuid, |domain| {
                before = domain.current_memory_kib;
                set_memory(domain, kib, false)
            });
            changed.map(|summary| (summary, before))
        };
        let due = self.due(cx.later(), store::PATIENCE, errors::disk_silent(MEMORY, &name, store::PATIENCE));
        self.hand(store::of_definitions, change, move |control, changed| {
            let (summary, before) = match changed {
                Ok(changed) => changed,
                Err(error) => return control.answer_due(&due, Err(errors::change(MEMORY, &name, error))),
            };
            if let Err(refusal) = control.objects.update(summary) {
                return control.answer_due(&due, Err(errors::refusal(&refusal)));
            }
            // The client of a call that was too late has been told that the definition may still change.
            let Some(asked) = control.in_time(&due) else { return };
            control.set_balloon(id, kib, move |control, set| match set {
                Ok(()) => control.answer(&asked, Ok((reply(()), Vec::new()))),
                Err(error) => control.take_back_memory(asked, uuid, (kib, before), error),
            });
        });
        Ok(())
    }

    /// The guest did not take what its definition has already: the definition is changed back, unless somebody has changed it
    /// again, and the call answered with why.
    fn take_back_memory(&mut self, asked: Asked, uuid: Uuid, (set, before): (u64, u64), error: Error) {
        let back = move |domain: &mut Domain| {
            if domain.current_memory_kib == set {
                domain.current_memory_kib = before;
            }
            Ok(())
        };
        let change = move |definitions: &mut Definitions| definitions.change(&uuid, back);
        self.hand_within(store::of_definitions, store::PATIENCE, change, move |control, changed| {
            let taken_back = changed.and_then(Result::ok).map(|summary| control.objects.update(summary));
            let error = match taken_back {
                Some(Ok(())) => error,
                _ => {
                    let name = control.objects.get(&uuid).map(registry::Object::name).unwrap_or_default();
                    errors::half_changed(name, "the definition", error)
                }
            };
            control.answer(&asked, Err(error));
        });
    }

    fn check_balloon(&self, id: u32, kib: u64, maximum: bool) -> Result<(), Error> {
        if maximum {
            return Err(errors::wrong_state("cannot resize the maximum memory on an active domain"));
        }
        let domain = self.guests.get(&id).and_then(|guest| guest.domain.as_ref());
        if domain.is_some_and(|domain| kib > domain.memory_kib) {
            return Err(errors::invalid("cannot set memory higher than max memory"));
        }
        if !domain.is_some_and(has_balloon) {
            let text =
                "Unable to change memory of active domain without the balloon device and guest OS balloon driver";
            return Err(errors::wrong_state(text).with_hint("add <memballoon model='virtio'/> to the definition"));
        }
        Ok(())
    }

    fn set_balloon(&mut self, id: u32, kib: u64, then: impl FnOnce(&mut Control, Result<(), Error>) + 'static) {
        let set = move |control: &mut Control, set: Result<(), Error>| {
            if set.is_ok()
                && let Some(guest) = control.guests.get_mut(&id).filter(|guest| !guest.ballooned)
            {
                guest.ballooned = true;
                control.keep_record(id);
            }
            then(control, set);
        };
        let request = Request::SetBalloon { bytes: kib.saturating_mul(1024) };
        self.guest_job_then(id, "set the memory of", request, set);
    }

    // What is noted down.

    /// Title, description, or the element of an application.
    pub(super) fn metadata(
        &mut self,
        cx: &mut Asked,
        args: &remote::DomainGetMetadataArgs,
    ) -> Answer<remote::DomainGetMetadataRet> {
        only(args.flags, IMPACT, "virDomainGetMetadata")?;
        let uuid = self.known(&args.dom)?;
        let kind = metadata_type(args.r#type)?;
        if kind == MetadataType::Element && args.uri.is_none() {
            return Err(errors::told(ErrorCode::INVALID_ARG, "uri in virDomainGetMetadata must not be NULL"));
        }
        one_of_both(args.flags)?;
        let affected = self.affected(&uuid, args.flags)?;
        let found = |found: Option<String>| {
            let text = "metadata not found: Requested metadata element is not present";
            let absent = || errors::told(ErrorCode::NO_DOMAIN_METADATA, text);
            Ok(remote::DomainGetMetadataRet { metadata: found.ok_or_else(absent)? })
        };
        if let Some(guest) = affected.live.and_then(|id| self.guests.get(&id)) {
            let domain = guest.domain.as_ref();
            return found(domain.and_then(|domain| noted(domain, kind, args.uri.as_deref()))).map(Into::into);
        }
        let (name, uri) = (self.name_of_defined(&uuid)?, args.uri.clone());
        let read = move |definitions: &mut Definitions| {
            definitions.read(&uuid).map(|domain| noted(&domain, kind, uri.as_deref()))
        };
        self.on_definitions(cx, ("read", &name.clone()), read, move |_, read| {
            found(read.map_err(|error| errors::store("read", &name, &error))?).map(Reply::DomainGetMetadata)
        });
        Ok(Outcome::Pending)
    }

    /// Notes something down, or forgets it.
    pub(super) fn set_metadata(&mut self, cx: &mut Asked, args: &remote::DomainSetMetadataArgs) -> Answer<()> {
        only(args.flags, IMPACT, "virDomainSetMetadata")?;
        let uuid = self.known(&args.dom)?;
        let kind = metadata_type(args.r#type)?;
        check_note(kind, args)?;
        let affected = self.affected(&uuid, args.flags)?;
        if let Some(domain) = affected.live.and_then(|id| self.guests.get(&id)?.domain.as_ref()) {
            // Both halves are checked before either is changed.
            note(&mut domain.clone(), kind, args)?;
        }
        if !affected.config {
            self.note_live(uuid, affected.live, kind, args)?;
            return Ok(().into());
        }
        let (live, change, args) = (affected.live, args.clone(), args.clone());
        let change = move |domain: &mut Domain| note(domain, kind, &change);
        self.change_definition(cx, uuid, "change the metadata of", change, move |control| {
            let noted = control.note_live(uuid, live, kind, &args);
            noted.map_err(|error| errors::half_changed(&args.dom.name, "the definition", error))?;
            Ok(Reply::DomainSetMetadata(()))
        })?;
        Ok(Outcome::Pending)
    }

    /// The part of the running guest, if there is one, and the news of the whole.
    fn note_live(
        &mut self,
        uuid: Uuid,
        live: Option<u32>,
        kind: MetadataType,
        args: &remote::DomainSetMetadataArgs,
    ) -> Result<(), Error> {
        if let Some(id) = live {
            let guest = self.guests.get_mut(&id).ok_or_else(|| errors::wrong_state("domain is not running"))?;
            if let Some(domain) = &mut guest.domain {
                // Changed as a whole or not at all.
                let mut changed = domain.clone();
                note(&mut changed, kind, args)?;
                *domain = changed;
            }
            self.keep_record(id);
        }
        let uri = args.uri.clone().filter(|_| kind == MetadataType::Element);
        self.publish_notice(uuid, Notice::MetadataChange { kind: kind as i32, uri });
        Ok(())
    }

    // The name.

    /// Gives a domain that is off another name.
    pub(super) fn rename(
        &mut self,
        cx: &mut Asked,
        args: &remote::DomainRenameArgs,
    ) -> Answer<remote::DomainRenameRet> {
        only(args.flags, 0, "virDomainRename")?;
        let name = args.new_name.clone().unwrap_or_default();
        if name.is_empty() {
            let text = "string new_name in virDomainRename must not be empty";
            return Err(errors::told(ErrorCode::INVALID_ARG, text));
        }
        let uuid = self.known(&args.dom)?;
        if let Err(why) = model::check_name(&name) {
            return Err(errors::told(ErrorCode::XML_ERROR, format!("XML error: the name cannot be used: it {why}")));
        }
        let old = self.persistent(&args.dom, TransientRefusal::Rename)?.name;
        let ticket = self.objects.begin_rename(&uuid, &name).map_err(|refusal| errors::refusal(&refusal))?;
        let rename = move |definitions: &mut Definitions| definitions.rename(&uuid, &name);
        self.on_definitions(cx, ("rename", &old.clone()), rename, move |control, renamed| match renamed {
            Ok(summary) => {
                let effects = control.objects.commit_rename(ticket, summary);
                control.carry_out(effects.map_err(|refusal| errors::refusal(&refusal))?);
                Ok(Reply::DomainRename(remote::DomainRenameRet { retcode: 0 }))
            }
            Err(error) => {
                control.drop_ticket(ticket);
                Err(errors::store("rename", &old, &error))
            }
        });
        Ok(Outcome::Pending)
    }
}

/// Who asks about a number means one of the two.
fn one_of_both(flags: u32) -> Result<(), Error> {
    if flags & IMPACT == IMPACT {
        let text = "Flags 'VIR_DOMAIN_AFFECT_LIVE' and 'VIR_DOMAIN_AFFECT_CONFIG' are mutually exclusive";
        return Err(errors::told(ErrorCode::INVALID_ARG, text));
    }
    Ok(())
}

fn set_vcpus(domain: &mut Domain, count: u32, maximum: bool) -> Result<(), Error> {
    if maximum {
        if let Some(topology) = domain.cpu.as_ref().and_then(|cpu| cpu.topology.as_ref()) {
            let cpus = [topology.sockets, topology.dies.unwrap_or(1), topology.clusters.unwrap_or(1), topology.cores];
            let cpus = cpus.into_iter().fold(topology.threads, u32::saturating_mul);
            if cpus != count {
                return Err(errors::invalid("CPU topology doesn't match the desired vcpu count"));
            }
        }
        domain.vcpus.max = count;
        domain.vcpus.current = domain.vcpus.current.filter(|current| *current < count);
        return Ok(());
    }
    if count > domain.vcpus.max {
        let text = format!(
            "requested vcpus is greater than max allowable vcpus for the persistent domain: {count} > {}",
            domain.vcpus.max
        );
        return Err(errors::invalid(text));
    }
    domain.vcpus.current = Some(count).filter(|count| *count < domain.vcpus.max);
    Ok(())
}

fn set_memory(domain: &mut Domain, kib: u64, maximum: bool) -> Result<(), Error> {
    if maximum {
        domain.memory_kib = kib;
        domain.current_memory_kib = domain.current_memory_kib.min(kib);
    } else if kib > domain.memory_kib {
        return Err(errors::invalid("cannot set memory higher than max memory"));
    } else {
        domain.current_memory_kib = kib;
    }
    Ok(())
}

fn metadata_type(number: i32) -> Result<MetadataType, Error> {
    MetadataType::try_from(number).map_err(|_| errors::invalid(format!("unknown metadata type '{number}'")))
}

fn noted(domain: &Domain, kind: MetadataType, uri: Option<&str>) -> Option<String> {
    match kind {
        MetadataType::Description => domain.description.clone(),
        MetadataType::Title => domain.title.clone(),
        MetadataType::Element => domain.metadata_of(uri?),
    }
}

fn check_note(kind: MetadataType, args: &remote::DomainSetMetadataArgs) -> Result<(), Error> {
    let refuse = |text: &str| Err(errors::told(ErrorCode::INVALID_ARG, text));
    match kind {
        MetadataType::Title if args.metadata.as_deref().is_some_and(|text| text.contains('\n')) => {
            refuse("metadata title can't contain newlines")
        }
        MetadataType::Element if args.uri.is_none() => refuse("uri in virDomainSetMetadata must not be NULL"),
        MetadataType::Element if args.metadata.is_some() && args.key.is_none() => {
            refuse("key in virDomainSetMetadata must not be NULL")
        }
        _ => Ok(()),
    }
}

fn note(domain: &mut Domain, kind: MetadataType, args: &remote::DomainSetMetadataArgs) -> Result<(), Error> {
    let text = args.metadata.clone().filter(|text| !text.is_empty());
    match kind {
        MetadataType::Description => domain.description = text,
        MetadataType::Title => domain.title = text,
        MetadataType::Element => {
            let (key, uri) = (args.key.as_deref().unwrap_or_default(), args.uri.as_deref().unwrap_or_default());
            return domain.set_metadata_of(key, uri, args.metadata.as_deref()).map_err(|error| bad_metadata(&error));
        }
    }
    Ok(())
}

fn bad_metadata(error: &MetadataError) -> Error {
    errors::told(ErrorCode::XML_ERROR, "XML error: the metadata cannot be used").with_cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::DomainType;

    fn domain() -> Domain {
        Domain::new(DomainType::Qemu, "t", 65_536, 4, "x86_64")
    }

    #[test]
    fn fewer_virtual_cpus_than_possible_are_written_as_current() {
        let mut domain = domain();
        set_vcpus(&mut domain, 2, false).unwrap();
        assert_eq!((domain.vcpus.max, domain.vcpus.current), (4, Some(2)));
        set_vcpus(&mut domain, 4, false).unwrap();
        assert_eq!((domain.vcpus.max, domain.vcpus.current), (4, None));
        assert_eq!(set_vcpus(&mut domain, 5, false).unwrap_err().code, ErrorCode::INVALID_ARG);
        set_vcpus(&mut domain, 2, false).unwrap();
        set_vcpus(&mut domain, 1, true).unwrap();
        assert_eq!((domain.vcpus.max, domain.vcpus.current), (1, None), "never more than there can be");
    }

    #[test]
    fn a_topology_must_fit_the_virtual_cpus() {
        let xml = "<domain type='qemu'><name>t</name><memory>1024</memory><vcpu>4</vcpu><os><type>hvm</type></os>\
                   <cpu><topology sockets='1' cores='2' threads='2'/></cpu></domain>";
        let mut domain = Domain::parse(xml).unwrap().value;
        assert_eq!(set_vcpus(&mut domain, 8, true).unwrap_err().code, ErrorCode::INVALID_ARG);
        set_vcpus(&mut domain, 4, true).unwrap();
    }

    #[test]
    fn memory_stays_below_what_there_can_be() {
        let mut domain = domain();
        set_memory(&mut domain, 1024, false).unwrap();
        assert_eq!((domain.memory_kib, domain.current_memory_kib), (65_536, 1024));
        assert_eq!(set_memory(&mut domain, 65_537, false).unwrap_err().code, ErrorCode::INVALID_ARG);
        set_memory(&mut domain, 512, true).unwrap();
        assert_eq!((domain.memory_kib, domain.current_memory_kib), (512, 512));
    }

    #[test]
    fn notes_are_set_read_and_forgotten() {
        let mut domain = domain();
        let args = |r#type, metadata: Option<&str>| remote::DomainSetMetadataArgs {
            r#type,
            metadata: metadata.map(Into::into),
            key: Some("k".into()),
            uri: Some("urn:k".into()),
            ..Default::default()
        };
        for (kind, text) in [
            (MetadataType::Title, "a title"),
            (MetadataType::Description, "two\nlines"),
            (MetadataType::Element, "<x>1</x>"),
        ] {
            let set = args(kind.number(), Some(text));
            check_note(kind, &set).unwrap();
            note(&mut domain, kind, &set).unwrap();
            assert_eq!(noted(&domain, kind, Some("urn:k")).as_deref(), Some(text));
            note(&mut domain, kind, &args(kind.number(), None)).unwrap();
            assert_eq!(noted(&domain, kind, Some("urn:k")), None);
        }
        assert_eq!(check_note(MetadataType::Title, &args(1, Some("a\nb"))).unwrap_err().code, ErrorCode::INVALID_ARG);
        assert_eq!(
            note(&mut domain, MetadataType::Element, &args(2, Some("<x"))).unwrap_err().code,
            ErrorCode::XML_ERROR
        );
    }
}
