//! Changes of what a domain is: its size, its name, its metadata. A change writes the definition anew; a running guest changes
//! only as far as its QEMU can.

use api::{
    Answer, Error, Op, Outcome, Reply,
    consts::{MemoryFlags, MetadataType, VcpuFlags},
    notice::Notice,
    remote,
};
use model::Domain;
use registry::{
    Refusal, TransientRefusal,
    rules::{self, notes, size},
};
use supervisor::protocol::Request;
use uuid::Uuid;

use super::{
    Control,
    driver::{Asked, only},
    errors::{self, ERRORS},
    stats::has_balloon,
    store::{self, definitions::Definitions},
};

/// What the calls for memory do.
const MEMORY: &str = "change the memory of";
/// And that for metadata.
const METADATA: &str = "change the metadata of";

/// What a call changes or asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Affected {
    /// The run, if it is meant.
    live: Option<u32>,
    /// The definition is meant.
    config: bool,
}

impl Control {
    fn affected(&self, uuid: &Uuid, flags: u32) -> Result<Affected, Error> {
        let run = self.active(uuid).map(|guest| guest.id);
        let meant = rules::affected(flags, run.is_some(), self.defined(uuid).is_some());
        let meant = meant.map_err(|refusal| errors::refusal(&refusal))?;
        Ok(Affected { live: run.filter(|_| meant.live), config: meant.config })
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
        let job = self.disk_job(doing, &name)?;
        let change = move |definitions: &mut Definitions| definitions.change(&uuid, change);
        self.change_with_event(cx, job, change, move |control, changed| {
            let summary = changed.map_err(|error| errors::change(doing, &name, error))?;
            control.objects.update(summary).map_err(|refusal| errors::refusal(&refusal))?;
            then(control)
        });
        Ok(())
    }

    fn name_of_defined(&self, uuid: &Uuid) -> Result<String, Error> {
        let transient = || errors::refusal(&Refusal::Transient(TransientRefusal::Change));
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
        rules::one_of_both(&ERRORS, args.flags)?;
        let affected = self.affected(&uuid, args.flags)?;
        let (max, current) = if affected.config {
            let defined = self.defined(&uuid);
            defined.map(|summary| (summary.vcpus, summary.vcpus_online)).unwrap_or_default()
        } else {
            let size = self.size_of(&uuid, "count the virtual CPUs of")?;
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
        size::check_vcpus(&ERRORS, count)?;
        let affected = self.affected(&uuid, flags)?;
        if VcpuFlags::from_bits_truncate(flags).contains(VcpuFlags::GUEST) {
            return Err(errors::no_agent());
        }
        if affected.live.is_some() {
            return Err(errors::unsupported_operation("virtual CPUs cannot be plugged into a running guest yet")
                .with_hint("change the definition (--config); it holds from the next start on"));
        }
        let maximum = VcpuFlags::from_bits_truncate(flags).contains(VcpuFlags::MAXIMUM);
        let change = move |domain: &mut Domain| size::set_vcpus(&ERRORS, domain, count, maximum, false);
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
        size::check_memory(&ERRORS, kib)?;
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
                let change = move |domain: &mut Domain| size::set_memory(&ERRORS, domain, kib, maximum, false);
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
        let job = self.disk_job(MEMORY, &name)?;
        let change = job.counting(move |definitions: &mut Definitions| {
            let mut before = 0;
            let changed = definitions.change(&uuid, |domain| {
                before = domain.current_memory_kib;
                size::set_memory(&ERRORS, domain, kib, false, false)
            });
            changed.map(|summary| (summary, before))
        });
        let due = self.due(cx.later(), store::PATIENCE, errors::disk_silent(MEMORY, &name, store::PATIENCE));
        self.hand(store::of_definitions, change, move |control, changed| {
            let (summary, before) = match changed {
                Ok(changed) => changed,
                Err(error) => return control.answer_due(&due, Err(errors::change(MEMORY, &name, error))),
            };
            if let Err(refusal) = control.objects.update(summary) {
                return control.answer_due(&due, Err(errors::refusal(&refusal)));
            }
            // If the deadline has passed, the client's error said that the definition may still change.
            let Some(asked) = control.in_time(&due) else { return };
            control.set_balloon(id, kib, move |control, set| match set {
                Ok(()) => control.answer(&asked, Ok((reply(()), Vec::new()))),
                Err(error) => control.take_back_memory(asked, uuid, (kib, before), error),
            });
        });
        Ok(())
    }

    /// The guest refused what its definition has already. Changes the definition back, unless another call has changed it since,
    /// and answers with the guest's error.
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
        let domain = self.live(id, MEMORY)?;
        size::set_memory(&ERRORS, &mut domain.clone(), kib, maximum, true)?;
        if !has_balloon(domain) {
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
        only(args.flags, rules::IMPACT, "virDomainGetMetadata")?;
        let uuid = self.known(&args.dom)?;
        let kind = notes::check_question(&ERRORS, args)?;
        rules::one_of_both(&ERRORS, args.flags)?;
        let affected = self.affected(&uuid, args.flags)?;
        let read = move |domain: &Domain, uri: Option<&str>| {
            notes::read(&ERRORS, domain, kind, uri).map(|metadata| remote::DomainGetMetadataRet { metadata })
        };
        if let Some(id) = affected.live {
            return read(self.live(id, "describe")?, args.uri.as_deref()).map(Into::into);
        }
        let (name, uri) = (self.name_of_defined(&uuid)?, args.uri.clone());
        let job = self.disk_job("read", &name)?;
        let read =
            move |definitions: &mut Definitions| definitions.read(&uuid).map(|domain| read(&domain, uri.as_deref()));
        self.on_definitions(cx, job, read, move |_, found| {
            found.map_err(|error| errors::store("read", &name, &error))?.map(Reply::DomainGetMetadata)
        });
        Ok(Outcome::Pending)
    }

    /// Notes something down, or forgets it.
    pub(super) fn set_metadata(&mut self, cx: &mut Asked, args: &remote::DomainSetMetadataArgs) -> Answer<()> {
        only(args.flags, rules::IMPACT, "virDomainSetMetadata")?;
        let uuid = self.known(&args.dom)?;
        let kind = notes::check(&ERRORS, args)?;
        let affected = self.affected(&uuid, args.flags)?;
        if let Some(id) = affected.live {
            // Both halves are checked before either is changed.
            notes::write(&ERRORS, &mut self.live(id, METADATA)?.clone(), args)?;
        }
        if !affected.config {
            self.note_live(uuid, affected.live, kind, args)?;
            return Ok(().into());
        }
        let (live, change, args) = (affected.live, args.clone(), args.clone());
        let change = move |domain: &mut Domain| notes::write(&ERRORS, domain, &change);
        self.change_definition(cx, uuid, METADATA, change, move |control| {
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
            // Changed as a whole or not at all.
            let mut changed = self.live(id, METADATA)?.clone();
            notes::write(&ERRORS, &mut changed, args)?;
            if let Some(guest) = self.guests.get_mut(&id) {
                guest.domain = Some(changed);
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
        let name = rules::new_name(&ERRORS, args.new_name.as_deref(), Op::DomainRename)?.to_owned();
        let uuid = self.known(&args.dom)?;
        let old = self.persistent(&args.dom, TransientRefusal::Rename)?.name;
        let job = self.disk_job("rename", &old)?;
        let ticket = self.objects.begin_rename(&uuid, &name).map_err(|refusal| errors::refusal(&refusal))?;
        let rename = move |definitions: &mut Definitions| definitions.rename(&uuid, &name);
        self.change_with_event(cx, job, rename, move |control, renamed| match renamed {
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
