//! What the driver's methods do to and say of domains.

use std::path::Path;

use api::{
    Answer, Error, Outcome, Reply, bulkhead,
    consts::{
        ConsoleFlags, CreateFlags, DefinedDetail, DomainState, LifecycleEvent, ListDomains, UndefinedDetail, XmlFlags,
    },
    remote,
};
use model::{Domain, DumpOptions, Live};
use qemud::edge::ToLauncher;
use supervisor::protocol::{Answer as Said, Measure, OpenConsole, Request};
use uuid::Uuid;

use super::{
    Control,
    definitions::Summary,
    driver::{Asked, NO_STATE},
    errors,
    guests::{Guest, GuestError, Process, Told},
    start::{Given, Start, Started},
};
use crate::qemu::complete;

/// How large a domain is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Virtual CPUs that it can have.
    pub max_vcpus: u32,
    /// And has, or starts with.
    pub vcpus: u32,
    /// Memory that it can have, in KiB.
    pub max_memory_kib: u64,
    /// And has, or is to keep.
    pub memory_kib: u64,
}

impl Control {
    /// The UUID that a handle names, if there is such a domain. Name and id in a handle are for messages only.
    pub(super) fn known(&self, dom: &remote::Domain) -> Result<Uuid, Error> {
        let uuid = Uuid::from_bytes(dom.uuid);
        if self.active(&uuid).is_some() || self.definitions.by_uuid(&uuid).is_some() {
            return Ok(uuid);
        }
        Err(errors::no_domain_uuid(&uuid, &dom.name))
    }

    /// A domain's name, running or not.
    pub(super) fn name_of(&self, uuid: &Uuid) -> Option<String> {
        let active = self.active(uuid).map(|guest| guest.name.clone());
        active.or_else(|| self.definitions.by_uuid(uuid).map(|summary| summary.name.clone()))
    }

    /// A domain's UUID, running or not.
    pub(super) fn uuid_of(&self, name: &str) -> Option<Uuid> {
        let defined = self.definitions.by_name(name).map(|summary| summary.uuid);
        defined
            .or_else(|| self.guests.values().find(|guest| guest.active() && guest.name == name).map(|guest| guest.uuid))
    }

    /// A fresh handle.
    pub(super) fn handle(&self, uuid: &Uuid, name: &str) -> remote::Domain {
        let id = self.active(uuid).and_then(|guest| i32::try_from(guest.id).ok()).unwrap_or(-1);
        remote::Domain { name: name.into(), uuid: uuid.into_bytes(), id }
    }

    /// libvirt's state and reason.
    pub(super) fn state(&self, uuid: &Uuid) -> (i32, i32) {
        match self.active(uuid) {
            Some(guest) => guest.state,
            None => (DomainState::Shutoff as i32, self.stopped.get(uuid).copied().unwrap_or_default()),
        }
    }

    /// How large a domain is, running or not.
    pub(super) fn size_of(&self, uuid: &Uuid) -> Size {
        if let Some(domain) = self.active(uuid).and_then(|guest| guest.domain.as_ref()) {
            return Size {
                max_vcpus: domain.vcpus.max,
                vcpus: domain.vcpus.online(),
                max_memory_kib: domain.memory_kib,
                // A guest starts with all of its memory, whatever its document would have it keep.
                memory_kib: domain.memory_kib,
            };
        }
        let defined = self.definitions.by_uuid(uuid).map(|summary| Size {
            max_vcpus: summary.vcpus,
            vcpus: summary.vcpus_online,
            max_memory_kib: summary.memory_kib,
            memory_kib: summary.current_memory_kib,
        });
        defined.unwrap_or_default()
    }

    /// Every domain that passes a list's filter: running ones by number, then the others by name.
    pub(super) fn list(&self, filter: ListDomains) -> Vec<bulkhead::DomainRecord> {
        let running = self.guests.values().filter(|guest| guest.active()).map(|guest| self.running_record(guest));
        let idle = self.definitions.iter().filter(|summary| self.active(&summary.uuid).is_none());
        let idle = idle.map(|summary| self.idle_record(summary));
        running.chain(idle).filter(|record| passes(record, filter)).collect()
    }

    /// One domain as a list has it.
    pub(super) fn record_of(&self, uuid: &Uuid) -> Option<bulkhead::DomainRecord> {
        match self.active(uuid) {
            Some(guest) => Some(self.running_record(guest)),
            None => self.definitions.by_uuid(uuid).map(|summary| self.idle_record(summary)),
        }
    }

    fn running_record(&self, guest: &Guest) -> bulkhead::DomainRecord {
        let summary = self.definitions.by_uuid(&guest.uuid);
        let Size { max_vcpus: vcpus, max_memory_kib: memory_kib, .. } = self.size_of(&guest.uuid);
        bulkhead::DomainRecord {
            dom: self.handle(&guest.uuid, &guest.name),
            state: guest.state.0,
            reason: guest.state.1,
            persistent: summary.is_some(),
            autostart: summary.is_some_and(|summary| summary.autostart),
            supervisor_pid: i32::try_from(guest.pid).unwrap_or_default(),
            vcpus,
            memory_kib,
        }
    }

    fn idle_record(&self, summary: &Summary) -> bulkhead::DomainRecord {
        bulkhead::DomainRecord {
            dom: remote::Domain { name: summary.name.clone(), uuid: summary.uuid.into_bytes(), id: -1 },
            state: DomainState::Shutoff as i32,
            reason: self.stopped.get(&summary.uuid).copied().unwrap_or_default(),
            persistent: true,
            autostart: summary.autostart,
            supervisor_pid: 0,
            vcpus: summary.vcpus,
            memory_kib: summary.memory_kib,
        }
    }

    /// State, size and processor time; the last is the kernel's, of this moment. Without QEMU's process, its supervisor is
    /// asked.
    pub(super) fn info(&mut self, cx: &Asked, dom: &remote::Domain) -> Answer<remote::DomainGetInfoRet> {
        let uuid = self.known(dom)?;
        let size = self.size_of(&uuid);
        let ret = remote::DomainGetInfoRet {
            state: u8::try_from(self.state(&uuid).0).unwrap_or_default(),
            max_mem: size.max_memory_kib,
            memory: size.memory_kib,
            nr_virt_cpu: u16::try_from(size.vcpus).unwrap_or(u16::MAX),
            cpu_time: 0,
        };
        let Some(guest) = self.active(&uuid) else { return Ok(ret.into()) };
        let id = guest.id;
        if let Some(cpu_time) = guest.process.as_ref().and_then(Process::cpu_time_ns) {
            let ret = remote::DomainGetInfoRet { cpu_time, ..ret };
            if guest.ballooned {
                self.ask_balloon(cx, id, &ret);
                return Ok(Outcome::Pending);
            }
            return Ok(ret.into());
        }
        let fill = move |status: &supervisor::protocol::Status| {
            let state = u8::try_from(status.state).unwrap_or_default();
            Reply::DomainGetInfo(remote::DomainGetInfoRet { state, cpu_time: status.cpu_time_ns, ..ret })
        };
        self.ask_status(cx, id, "read the state of", fill);
        Ok(Outcome::Pending)
    }

    /// Completes the state of a guest whose balloon was told something: what came of it is the guest's own doing. Its
    /// supervisor knows it, mostly without asking QEMU; without an answer it is told as if nothing had come of it.
    fn ask_balloon(&mut self, cx: &Asked, id: u32, ret: &remote::DomainGetInfoRet) {
        let ret = ret.clone();
        let asked = cx.later();
        let deadline_ms = u32::try_from(self.config.guest_deadline.as_millis()).unwrap_or(u32::MAX);
        let then = move |control: &mut Control, told: Told| {
            let balloon = match told {
                Ok((Said::Measured(measured), _)) => measured.balloon,
                _ => None,
            };
            let memory = balloon.map_or(ret.memory, |balloon| balloon.actual_kib);
            let reply = Reply::DomainGetInfo(remote::DomainGetInfoRet { memory, ..ret });
            control.answer(&asked, Ok((reply, Vec::new())));
        };
        let request = Request::Measure(Measure { balloon: true, blocks: false, deadline_ms });
        self.ask_guest(id, &request, Vec::new(), Box::new(then));
    }

    fn ask_status(
        &mut self,
        cx: &Asked,
        id: u32,
        doing: &'static str,
        reply: impl FnOnce(&supervisor::protocol::Status) -> Reply + 'static,
    ) {
        let asked = cx.later();
        let name = self.guests.get(&id).map(|guest| guest.name.clone()).unwrap_or_default();
        let then = move |control: &mut Control, told: Told| {
            let result = match told {
                Ok((Said::Status(status), _)) => Ok((reply(&status), Vec::new())),
                Ok(_) => Err(errors::guest(doing, &name, &GuestError::Gone(Some("it gave another answer".into())))),
                Err(error) => Err(errors::guest(doing, &name, &error)),
            };
            control.answer(&asked, result);
        };
        self.ask_guest(id, &Request::Status, Vec::new(), Box::new(then));
    }

    /// What a guest's own processes say of it.
    pub(super) fn guest_info(&mut self, cx: &Asked, dom: &remote::Domain) -> Answer<bulkhead::DomainGuestInfoRet> {
        let uuid = self.known(dom)?;
        let Some(guest) = self.active(&uuid) else { return Ok(bulkhead::DomainGuestInfoRet::default().into()) };
        let machine = guest.domain.as_ref().and_then(|domain| domain.os.machine.clone()).unwrap_or_default();
        let ret = bulkhead::DomainGuestInfoRet {
            supervisor_pid: i32::try_from(guest.pid).unwrap_or_default(),
            qemu_running: true,
            accel: if guest.kvm { "kvm" } else { "tcg" }.into(),
            machine,
            qemu_version: self.emulators.version(guest.domain.as_ref()),
            uid: guest.uid.unwrap_or_else(|| rustix::process::getuid().as_raw()),
            started_seconds: guest.started,
            started_nanos: 0,
        };
        let id = guest.id;
        let fill = move |status: &supervisor::protocol::Status| {
            let started_seconds = status.started_seconds;
            Reply::BulkheadDomainGuestInfo(bulkhead::DomainGuestInfoRet { started_seconds, ..ret })
        };
        self.ask_status(cx, id, "look at", fill);
        Ok(Outcome::Pending)
    }

    /// The live document, or the definition.
    pub(super) fn document(&self, dom: &remote::Domain, flags: XmlFlags) -> Result<String, Error> {
        let uuid = self.known(dom)?;
        let secrets = flags.contains(XmlFlags::SECURE);
        let summary = self.definitions.by_uuid(&uuid);
        match (self.active(&uuid), summary) {
            (Some(guest), summary) if !flags.contains(XmlFlags::INACTIVE) || summary.is_none() => {
                let silent =
                    || errors::guest("describe", &guest.name, &GuestError::Gone(Some("not yet heard from".into())));
                let domain = guest.domain.as_ref().ok_or_else(silent)?;
                Ok(domain.to_xml(&DumpOptions { live: Some(Live { id: guest.id }), secrets }))
            }
            (_, Some(summary)) => {
                let domain = self.definitions.read(summary).map_err(|e| errors::store("read", &summary.name, &e))?;
                Ok(domain.to_xml(&DumpOptions { live: None, secrets }))
            }
            (_, None) => Err(errors::no_domain_uuid(&uuid, &dom.name)),
        }
    }

    /// Defines a domain, new or in place of the one with its UUID.
    pub(super) fn define<R>(
        &mut self,
        cx: &Asked,
        xml: &str,
        reply: impl FnOnce(remote::Domain) -> Reply + 'static,
    ) -> Answer<R> {
        let mut domain = parse(xml)?;
        domain.forget_live();
        let uuid = self.check_identity(&mut domain)?;
        let emulator = complete::complete_emulator(&mut domain, &self.host.arch)
            .map_err(|error| errors::plan(&domain.name, &error))?;
        let asked = cx.later();
        let known = move |control: &mut Control, known: super::emulators::Known| {
            let known = known.map_err(|error| errors::for_domain("define", &domain.name, error));
            let result = known.and_then(|abilities| {
                complete::complete(&mut domain, &abilities).map_err(|error| errors::plan(&domain.name, &error))?;
                control.store(&mut domain, uuid)
            });
            control.answer(&asked, result.map(|dom| (reply(dom), Vec::new())));
        };
        self.with_abilities(&emulator, Box::new(known));
        Ok(Outcome::Pending)
    }

    /// A name and a UUID belong together: neither may be another domain's. A document without a UUID gets one.
    fn check_identity(&self, domain: &mut Domain) -> Result<Uuid, Error> {
        let same_name = self.uuid_of(&domain.name);
        let uuid = domain.ensure_uuid();
        if let Some(other) = same_name.filter(|other| *other != uuid) {
            return Err(errors::exists(&format!("domain '{}' already exists with uuid {other}", domain.name)));
        }
        if let Some(name) = self.name_of(&uuid).filter(|name| *name != domain.name) {
            return Err(errors::exists(&format!("domain '{name}' is already defined with uuid {uuid}")));
        }
        Ok(uuid)
    }

    fn store(&mut self, domain: &mut Domain, uuid: Uuid) -> Result<remote::Domain, Error> {
        // Somebody may have taken the name while the emulator was asked.
        self.check_identity(domain)?;
        let known = self.definitions.by_uuid(&uuid).is_some();
        self.definitions.write(domain, uuid).map_err(|error| errors::store("define", &domain.name, &error))?;
        let detail = if known { DefinedDetail::Updated } else { DefinedDetail::Added };
        self.publish_definition(uuid, &domain.name, LifecycleEvent::Defined, detail as i32);
        Ok(self.handle(&uuid, &domain.name))
    }

    /// Removes a definition; a running domain goes on as a transient one.
    pub(super) fn undefine(&mut self, dom: &remote::Domain) -> Answer<()> {
        let summary = self.persistent(dom, "cannot undefine transient domain")?;
        self.definitions.remove(&summary).map_err(|error| errors::store("undefine", &summary.name, &error))?;
        let detail = UndefinedDetail::Removed as i32;
        self.publish_definition(summary.uuid, &summary.name, LifecycleEvent::Undefined, detail);
        if self.active(&summary.uuid).is_none() {
            self.stopped.remove(&summary.uuid);
        }
        Ok(().into())
    }

    pub(super) fn persistent(&self, dom: &remote::Domain, otherwise: &str) -> Result<Summary, Error> {
        let uuid = self.known(dom)?;
        self.definitions.by_uuid(&uuid).cloned().ok_or_else(|| errors::wrong_state(otherwise))
    }

    /// Lets a domain start with the host, or no longer.
    pub(super) fn set_autostart(&mut self, dom: &remote::Domain, autostart: bool) -> Answer<()> {
        let summary = self.persistent(dom, "cannot set autostart for transient domain")?;
        let result = self.definitions.set_autostart(&summary.uuid, autostart);
        result.map_err(|error| errors::store("set autostart of", &summary.name, &error))?;
        Ok(().into())
    }

    /// Starts a defined domain.
    pub(super) fn create<R>(
        &mut self,
        cx: &mut Asked,
        dom: &remote::Domain,
        flags: u32,
        sources: Vec<bulkhead::Source>,
        reply: impl FnOnce(remote::Domain) -> Reply + 'static,
    ) -> Answer<R> {
        let paused = paused(flags, "virDomainCreateWithFlags")?;
        let uuid = self.known(dom)?;
        let Some(summary) = self.definitions.by_uuid(&uuid) else {
            return Err(errors::wrong_state("domain is already running"));
        };
        let domain = self.definitions.read(summary).map_err(|error| errors::store("read", &summary.name, &error))?;
        self.start_for(cx, domain, paused, sources, reply)
    }

    /// Starts a domain that is gone when it stops.
    pub(super) fn create_transient<R>(
        &mut self,
        cx: &mut Asked,
        xml: &str,
        flags: u32,
        sources: Vec<bulkhead::Source>,
        reply: impl FnOnce(remote::Domain) -> Reply + 'static,
    ) -> Answer<R> {
        let paused = paused(flags, "virDomainCreateXML")?;
        let mut domain = parse(xml)?;
        domain.forget_live();
        self.check_identity(&mut domain)?;
        self.start_for(cx, domain, paused, sources, reply)
    }

    fn start_for<R>(
        &mut self,
        cx: &mut Asked,
        domain: Domain,
        paused: bool,
        sources: Vec<bulkhead::Source>,
        reply: impl FnOnce(remote::Domain) -> Reply + 'static,
    ) -> Answer<R> {
        let fds = std::mem::take(&mut cx.fds);
        if sources.len() != fds.len() {
            let text = format!("{} sources came with {} file descriptors", sources.len(), fds.len());
            return Err(errors::invalid(text));
        }
        let given = sources.into_iter().zip(fds);
        let given = given.map(|(source, fd)| Given { path: source.path, writable: source.writable, fd }).collect();
        let asked = cx.later();
        let then = move |control: &mut Control, started: Started| {
            let result = started.map(|id| {
                let guest = control.guests.get(&id);
                let dom = guest.map(|guest| control.handle(&guest.uuid, &guest.name)).unwrap_or_default();
                (reply(dom), Vec::new())
            });
            control.answer(&asked, result);
        };
        self.start(Start { domain, paused, given, then: Box::new(then) });
        Ok(Outcome::Pending)
    }

    /// The run of a domain that must be running.
    pub(super) fn running(&self, dom: &remote::Domain) -> Result<u32, Error> {
        let uuid = self.known(dom)?;
        self.active(&uuid).map(|guest| guest.id).ok_or_else(|| errors::wrong_state("domain is not running"))
    }

    /// Asks a guest to do something that one job at a time may do.
    pub(super) fn job(
        &mut self,
        cx: &Asked,
        dom: &remote::Domain,
        doing: &'static str,
        request: Request,
        reply: fn(()) -> Reply,
    ) -> Answer<()> {
        let id = self.running(dom)?;
        let name = dom.name.clone();
        let (asked, refused) = (cx.later(), cx.later());
        let refused_name = name.clone();
        let job = move |control: &mut Control, ()| {
            let then = move |control: &mut Control, told: Told| {
                let result = told.map(|_| (reply(()), Vec::new())).map_err(|error| errors::guest(doing, &name, &error));
                control.answer(&asked, result);
                control.job_done(id);
            };
            control.ask_guest(id, &request, Vec::new(), Box::new(then));
        };
        let refuse = move |control: &mut Control, error| {
            control.answer(&refused, Err(errors::guest(doing, &refused_name, &error)));
        };
        self.run_job(id, Box::new(job), Box::new(refuse));
        Ok(Outcome::Pending)
    }

    /// Ends a guest at once. Waits for no job: it is what helps when a job does not end.
    pub(super) fn destroy(&mut self, cx: &Asked, dom: &remote::Domain, reply: fn(()) -> Reply) -> Answer<()> {
        let uuid = Uuid::from_bytes(dom.uuid);
        // A guest that is still starting can be ended too.
        let id = match self.runs.get(&uuid) {
            Some(id) => *id,
            None => self.running(dom)?,
        };
        let name = dom.name.clone();
        let asked = cx.later();
        let then = move |control: &mut Control, told: Told| {
            let result = match told {
                // A supervisor that ended under the request took the guest with it.
                Ok(_) | Err(GuestError::Gone(_)) => Ok((reply(()), Vec::new())),
                // One that does not answer is killed, and its guest ends with it.
                Err(GuestError::Silent(_)) => return control.kill(id, asked, reply),
                Err(error) => Err(errors::guest("destroy", &name, &error)),
            };
            control.answer(&asked, result);
        };
        self.ask_guest(id, &Request::Destroy, Vec::new(), Box::new(then));
        Ok(Outcome::Pending)
    }

    fn kill(&mut self, id: u32, asked: Asked, reply: fn(()) -> Reply) {
        let answer = move |control: &mut Control, ()| control.answer(&asked, Ok((reply(()), Vec::new())));
        match self.guests.get_mut(&id) {
            Some(guest) => guest.on_end.push(Box::new(answer)),
            None => return answer(self, ()),
        }
        self.launcher.tell(&ToLauncher::Kill { id });
    }

    /// Attaches to a console; the reply carries the stream.
    pub(super) fn open_console(
        &mut self,
        cx: &Asked,
        dom: &remote::Domain,
        device: Option<&str>,
        flags: ConsoleFlags,
    ) -> Answer<()> {
        let id = self.running(dom)?;
        let console = console_number(device)?;
        let request = Request::OpenConsole(OpenConsole {
            console,
            read_only: flags.contains(ConsoleFlags::READ_ONLY),
            force: flags.contains(ConsoleFlags::FORCE),
        });
        let asked = cx.later();
        let name = dom.name.clone();
        let then = move |control: &mut Control, told: Told| {
            let result = match told {
                Ok((_, fds)) if fds.len() == 1 => Ok((Reply::BulkheadDomainOpenConsole(()), fds)),
                Ok(_) => Err(errors::wrong_state("the supervisor opened no console")),
                Err(error) => Err(errors::guest("open the console of", &name, &error)),
            };
            control.answer(&asked, result);
        };
        self.ask_guest(id, &request, Vec::new(), Box::new(then));
        Ok(Outcome::Pending)
    }

    /// The version of the host's own QEMU.
    pub(super) fn hypervisor_version(&mut self, cx: &Asked) -> Answer<remote::ConnectGetVersionRet> {
        let asked = cx.later();
        let emulator = self.host_emulator();
        let then = move |control: &mut Control, known: super::emulators::Known| {
            let result = known.map(|abilities| {
                let (major, minor, micro) = abilities.version;
                let hv_ver = u64::from(major) * 1_000_000 + u64::from(minor) * 1000 + u64::from(micro);
                (Reply::ConnectGetVersion(remote::ConnectGetVersionRet { hv_ver }), Vec::new())
            });
            control.answer(&asked, result);
        };
        self.with_abilities(&emulator, Box::new(then));
        Ok(Outcome::Pending)
    }

    /// The most virtual CPUs that the default machine of the host's own QEMU takes.
    pub(super) fn max_vcpus(&mut self, cx: &Asked) -> Answer<remote::ConnectGetMaxVcpusRet> {
        let asked = cx.later();
        let emulator = self.host_emulator();
        let then = move |control: &mut Control, known: super::emulators::Known| {
            let result = known.map(|abilities| {
                let most = abilities.machines.iter().find(|m| m.default).map_or(1, |machine| machine.max_cpus);
                let max_vcpus = i32::try_from(most).unwrap_or(i32::MAX);
                (Reply::ConnectGetMaxVcpus(remote::ConnectGetMaxVcpusRet { max_vcpus }), Vec::new())
            });
            control.answer(&asked, result);
        };
        self.with_abilities(&emulator, Box::new(then));
        Ok(Outcome::Pending)
    }

    pub(super) fn host_emulator(&self) -> String {
        let target = complete::target(&self.host.arch).unwrap_or("x86_64");
        self.emulator_path(target)
    }

    /// Where the emulator of a target is, or would be.
    pub(super) fn emulator_path(&self, target: &str) -> String {
        let name = format!("qemu-system-{target}");
        let places = self.config.emulator_roots.iter().map(|root| root.join(&name));
        let found = places.clone().find(|path| path.exists()).or_else(|| places.into_iter().next());
        found.unwrap_or_else(|| Path::new("/usr/bin").join(&name)).to_string_lossy().into_owned()
    }
}

fn parse(xml: &str) -> Result<Domain, Error> {
    Domain::parse(xml).map(|parsed| parsed.value).map_err(|error| errors::xml(&error))
}

fn paused(flags: u32, operation: &str) -> Result<bool, Error> {
    // Nothing is saved for a guest here, so a start is always a fresh one.
    let known = CreateFlags::PAUSED | CreateFlags::FORCE_BOOT | CreateFlags::BYPASS_CACHE | CreateFlags::VALIDATE;
    match flags & !known.bits() {
        0 => Ok(CreateFlags::from_bits_truncate(flags).contains(CreateFlags::PAUSED)),
        unknown => Err(errors::unknown_flags(unknown, operation)),
    }
}

/// `serial0` and `console0` are the first; so is no name at all.
fn console_number(device: Option<&str>) -> Result<u8, Error> {
    let Some(device) = device.filter(|device| !device.is_empty()) else { return Ok(0) };
    let number = device.strip_prefix("serial").or_else(|| device.strip_prefix("console"));
    number
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| errors::invalid(format!("cannot find console device '{device}'")))
}

/// libvirt's filter: within each group of bits any that is set will do; a group without bits does not filter.
pub(super) fn passes(record: &bulkhead::DomainRecord, filter: ListDomains) -> bool {
    let active = record.dom.id != -1;
    let state = record.state;
    let other = ![DomainState::Running, DomainState::Paused, DomainState::Shutoff].iter().any(|s| *s as i32 == state);
    let groups = [
        vec![(ListDomains::ACTIVE, active), (ListDomains::INACTIVE, !active)],
        vec![(ListDomains::PERSISTENT, record.persistent), (ListDomains::TRANSIENT, !record.persistent)],
        vec![
            (ListDomains::RUNNING, state == DomainState::Running as i32),
            (ListDomains::PAUSED, state == DomainState::Paused as i32),
            (ListDomains::SHUTOFF, state == DomainState::Shutoff as i32),
            (ListDomains::OTHER, other || state == NO_STATE),
        ],
        vec![(ListDomains::AUTOSTART, record.autostart), (ListDomains::NO_AUTOSTART, !record.autostart)],
        // Nothing has a saved image, a snapshot or a checkpoint here.
        vec![(ListDomains::MANAGEDSAVE, false), (ListDomains::NO_MANAGEDSAVE, true)],
        vec![(ListDomains::HAS_SNAPSHOT, false), (ListDomains::NO_SNAPSHOT, true)],
        vec![(ListDomains::HAS_CHECKPOINT, false), (ListDomains::NO_CHECKPOINT, true)],
    ];
    groups.iter().all(|group| {
        let asked = group.iter().any(|(bit, _)| filter.contains(*bit));
        !asked || group.iter().any(|(bit, holds)| filter.contains(*bit) && *holds)
    })
}
