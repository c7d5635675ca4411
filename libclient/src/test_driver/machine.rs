//! The guests of the mock host.
//!
//! Which domains there are, which state permits which call and which events follow are the registry's rules, as in
//! qemud, so that a program that works here works there. This module adds what a guest that does not run does.

use std::{
    collections::BTreeSet,
    time::{Instant, SystemTime},
};

use api::{
    Error, ErrorCode, ErrorDomain, bulkhead,
    consts::{
        CrashedDetail, CrashedReason, DomainState, LifecycleEvent, ListDomains, PausedReason, ResumedDetail,
        RunningReason, ShutdownDetail, ShutoffReason, StartedDetail, StoppedDetail, SuspendedDetail,
    },
    notice::Notice,
    remote,
};
use model::{BootDevice, CrashAction, Disk, Domain, DumpOptions, LifecycleAction, Live, OsType, XmlError};
use registry::{
    Destroy, Effect, Errors, Event, Kind, Object, Refusal, Registry, Removing, Run, State,
    rules::{self, Affected, life},
};
use uuid::Uuid;

use super::{console::Echo, events::Log, node::Node};
use crate::{Result, sources::not_understood};

/// The wording of this driver's errors.
pub(crate) const ERRORS: Errors = Errors::of_domains(ErrorDomain::TEST);

/// A refusal, as the error that a client gets.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
pub(crate) fn refused(refusal: Refusal) -> Error {
    ERRORS.refused(&refusal)
}

/// The mock host with its guests.
pub(crate) struct Machine {
    pub(crate) node: Node,
    domains: Registry<Mock>,
    last_run: u32,
    log: Log,
    /// When it was booted, so to speak.
    since: Instant,
}

/// Domains of the test driver.
pub(crate) enum Mock {}

impl Kind for Mock {
    type Document = Domain;
    type Live = Running;

    const NOUN: &'static str = "domain";

    fn name(document: &Domain) -> &str {
        &document.name
    }

    fn uuid(document: &Domain) -> Uuid {
        document.uuid.unwrap_or_default()
    }

    fn state(live: &Running) -> State {
        live.state
    }
}

/// A domain: defined, running, or both.
#[derive(Clone, Copy)]
pub(crate) struct Guest<'a>(&'a Object<Mock>);

/// What there is of a domain while it runs.
pub(crate) struct Running {
    domain: Domain,
    state: State,
    since: Instant,
    pub(crate) started: SystemTime,
    pub(crate) console: Option<Echo>,
    /// The mount points whose file systems are.
    pub(crate) frozen: BTreeSet<&'static str>,
}

impl<'a> Guest<'a> {
    /// The document that holds now.
    fn domain(self) -> Option<&'a Domain> {
        self.0.live().get().map(|running| &running.domain).or(self.0.definition())
    }

    pub(crate) fn running(self) -> Result<&'a Running> {
        self.0.live().get().ok_or_else(|| refused(Refusal::NotRunning))
    }

    /// The document that a question with these flags is about.
    pub(crate) fn asked(self, flags: u32) -> Result<&'a Domain> {
        rules::one_of_both(&ERRORS, flags)?;
        let Affected { live, .. } = self.affected(flags)?;
        let running = self.0.live().get().map(|running| &running.domain).filter(|_| live);
        running.or(self.0.definition()).ok_or_else(|| refused(Refusal::NotRunning))
    }

    fn affected(self, flags: u32) -> Result<Affected> {
        rules::affected(flags, self.is_active(), self.is_persistent()).map_err(refused)
    }

    pub(crate) fn is_active(self) -> bool {
        self.0.is_active()
    }

    pub(crate) fn is_persistent(self) -> bool {
        self.0.is_persistent()
    }

    pub(crate) fn autostart(self) -> bool {
        self.0.autostart()
    }

    pub(crate) fn state(self) -> (DomainState, i32) {
        let State { state, reason } = self.0.state();
        (state, reason)
    }

    /// The wire's handle to it.
    pub(crate) fn dom(self) -> remote::Domain {
        remote::Domain { name: self.0.name().to_owned(), uuid: self.0.uuid().into_bytes(), id: self.0.id() }
    }

    pub(crate) fn vcpus(self) -> u32 {
        self.domain().map_or(0, |domain| domain.vcpus.online())
    }

    pub(crate) fn max_vcpus(self) -> u32 {
        self.domain().map_or(0, |domain| domain.vcpus.max)
    }

    /// The most memory it may have and the memory it has, in KiB.
    pub(crate) fn memory_kib(self) -> (u64, u64) {
        self.domain().map_or((0, 0), |domain| (domain.memory_kib, domain.current_memory_kib))
    }

    /// As if one virtual CPU had been busy since the start.
    pub(crate) fn cpu_time_ns(self) -> u64 {
        let running = self.0.live().get();
        running.map_or(0, |running| u64::try_from(running.since.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn disks(self) -> &'a [Disk] {
        self.domain().map_or(&[], |domain| &domain.devices.disks)
    }

    /// The names of its interfaces on the host, and their addresses, where its document says them.
    pub(crate) fn interfaces(self) -> Vec<(String, String)> {
        let devices = self.domain().map(|domain| &domain.devices.other).into_iter().flatten();
        let interfaces = devices.filter(|device| device.name == "interface");
        interfaces
            .filter_map(|device| {
                let document = roxmltree::Document::parse(&device.xml).ok()?;
                let said = |child: &str, attribute: &str| {
                    let children = document.root_element().children();
                    children.filter(|node| node.has_tag_name(child)).find_map(|node| node.attribute(attribute))
                };
                Some((said("target", "dev")?.to_owned(), said("mac", "address").unwrap_or_default().to_owned()))
            })
            .collect()
    }

    /// Refuses an interface that it does not have.
    pub(crate) fn check_interface(self, name: &str) -> Result<()> {
        match self.interfaces().iter().any(|(known, _)| known == name) {
            true => Ok(()),
            false => Err(ERRORS.invalid(format_args!("'{name}' is not a known interface"))),
        }
    }

    /// Whether its document has an element that nobody here reads.
    pub(crate) fn asks_for(self, element: &str) -> bool {
        self.domain().is_some_and(|domain| domain.rest.element(element).is_some())
    }

    /// Whether a console of this alias exists. A guest without any in its document has one all the same.
    pub(crate) fn has_console(self, alias: &str) -> bool {
        let counted = |prefix: &str, count: usize| {
            alias
                .strip_prefix(prefix)
                .and_then(|index| index.parse().ok())
                .is_some_and(|index: usize| index < count.max(1))
        };
        let devices = self.domain().map(|domain| &domain.devices);
        devices.is_some_and(|devices| {
            counted("serial", devices.serials.len()) || counted("console", devices.consoles.len())
        })
    }

    pub(crate) fn xml(self, inactive: bool, secrets: bool) -> String {
        let running = self.0.live().get().zip(self.0.run()).filter(|_| !inactive || !self.is_persistent());
        let live = running.filter(|_| !inactive).map(|(_, run)| Live { id: run.0 });
        let domain = running.map(|(running, _)| &running.domain).or(self.0.definition());
        domain.map(|domain| domain.to_xml(&DumpOptions { live, secrets })).unwrap_or_default()
    }

    pub(crate) fn record(self) -> bulkhead::DomainRecord {
        let (state, reason) = self.state();
        bulkhead::DomainRecord {
            dom: self.dom(),
            state: state.number(),
            reason,
            persistent: self.is_persistent(),
            autostart: self.autostart(),
            // There is no process behind it.
            supervisor_pid: 0,
            vcpus: self.vcpus(),
            memory_kib: self.memory_kib().1,
        }
    }
}

impl Running {
    fn new(domain: Domain, paused: bool) -> Running {
        let state = if paused {
            State::new(DomainState::Paused, PausedReason::User)
        } else {
            State::new(DomainState::Running, RunningReason::Booted)
        };
        let (since, started) = (Instant::now(), SystemTime::now());
        Running { domain, state, since, started, console: None, frozen: BTreeSet::new() }
    }

    pub(crate) fn domain(&self) -> &Domain {
        &self.domain
    }

    fn boot(&mut self) {
        self.state = State::new(DomainState::Running, RunningReason::Booted);
        self.since = Instant::now();
        self.frozen.clear();
    }
}

/// Look-ups and lists.
impl Machine {
    /// A host with running guests. Its first event has the number after `last_event`.
    pub(crate) fn new(mut node: Node, last_event: u64) -> Result<Machine> {
        node.check()?;
        let guests = std::mem::take(&mut node.guests);
        let since = Instant::now();
        let mut machine = Machine { node, domains: Registry::new(), last_run: 0, log: Log::default(), since };
        for guest in guests {
            let uuid = machine.add_definition(guest)?;
            let dom = machine.start_known(&uuid, false)?;
            // Nobody has started it, and libvirt gives no reason either.
            machine.running(&dom)?.state = State::new(DomainState::Running, RunningReason::Unknown);
        }
        // A connection begins with nothing having happened.
        machine.log = Log::behind(last_event);
        Ok(machine)
    }

    pub(crate) fn log(&mut self) -> &mut Log {
        &mut self.log
    }

    pub(crate) fn uptime_ns(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn guests(&self) -> impl Iterator<Item = Guest<'_>> {
        self.domains.iter().map(Guest)
    }

    pub(crate) fn listed(&self, filter: ListDomains) -> impl Iterator<Item = Guest<'_>> {
        self.domains.list(filter).map(Guest)
    }

    pub(crate) fn active(&self) -> impl Iterator<Item = Guest<'_>> {
        self.domains.active().map(Guest)
    }

    pub(crate) fn inactive(&self) -> impl Iterator<Item = Guest<'_>> {
        self.domains.inactive().map(Guest)
    }

    /// The guest of a handle.
    pub(crate) fn guest(&self, dom: &remote::Domain) -> Result<Guest<'_>> {
        self.domains.known(dom.uuid, &dom.name).map(Guest).map_err(refused)
    }

    fn uuid(&self, dom: &remote::Domain) -> Result<Uuid> {
        self.guest(dom).map(|guest| guest.0.uuid())
    }

    pub(crate) fn by_name(&self, name: &str) -> Result<remote::Domain> {
        let found = self.domains.by_name(name).map(Guest);
        found.map(Guest::dom).ok_or_else(|| ERRORS.missing("name", name))
    }

    pub(crate) fn by_uuid(&self, uuid: [u8; 16]) -> Result<remote::Domain> {
        let uuid = Uuid::from_bytes(uuid);
        let found = self.domains.get(&uuid).map(Guest);
        found.map(Guest::dom).ok_or_else(|| ERRORS.missing("uuid", uuid))
    }

    pub(crate) fn by_id(&self, id: i32) -> Result<remote::Domain> {
        let found = Run::from_id(id).and_then(|run| self.domains.by_run(run)).map(Guest);
        found.map(Guest::dom).ok_or_else(|| ERRORS.missing_id(id))
    }

    /// What there is of a guest that must run.
    pub(crate) fn running(&mut self, dom: &remote::Domain) -> Result<&mut Running> {
        self.run(dom).map(|(_, running)| running)
    }

    /// The same, with the number of its run.
    pub(crate) fn run(&mut self, dom: &remote::Domain) -> Result<(Run, &mut Running)> {
        let uuid = self.uuid(dom)?;
        let run = self.domains.run_of(&uuid).map_err(refused)?;
        let running = self.domains.live_mut(run).ok_or_else(|| refused(Refusal::NotRunning))?;
        Ok((run, running))
    }

    /// The place of the console of a run, while the guest runs.
    pub(crate) fn console(&mut self, run: Run) -> Option<&mut Option<Echo>> {
        self.domains.live_mut(run).map(|running| &mut running.console)
    }

    /// How many consoles are open.
    pub(crate) fn consoles(&self) -> usize {
        let running = self.domains.runs().filter_map(|(_, object)| object.live().get());
        running.filter(|running| running.console.is_some()).count()
    }
}

/// Events.
impl Machine {
    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Event(event) => self.add_event(event),
                // There is nothing behind a run but what the registry has dropped already.
                Effect::RunGone { .. } | Effect::Forgotten { .. } => {}
            }
        }
    }

    fn add_event(&mut self, event: Event) {
        let Event { uuid, name, run, event, detail } = event;
        // libvirt's clients expect -1 in a handle once the guest has stopped.
        let id = run.filter(|_| event != LifecycleEvent::Stopped).map_or(-1, Run::id);
        self.log.add(remote::Domain { name, uuid: uuid.into_bytes(), id }, event.number(), detail);
    }

    fn emit(&mut self, uuid: &Uuid, event: LifecycleEvent, detail: impl Into<i32>) {
        let event = self.domains.event(uuid, event, detail);
        event.into_iter().for_each(|event| self.add_event(event));
    }

    /// Tells that something else happened to a guest than a change of its life.
    pub(super) fn tell(&mut self, dom: &remote::Domain, notice: Notice) -> Result<()> {
        let dom = self.guest(dom)?.dom();
        self.log.notice(dom, notice);
        Ok(())
    }
}

/// Definitions.
impl Machine {
    /// Reads a document for this host. Its guests are of any type that libvirt knows, as those of libvirt's test driver are:
    /// observed with `virsh define` 9.0 for each type.
    fn read(&self, xml: &str) -> Result<Domain> {
        let parsed = Domain::parse(xml).map_err(|error| match &error {
            XmlError::UnknownDomainType { found, .. } => {
                let message = format!("unsupported configuration: invalid domain type {found}");
                ERRORS.told(ErrorCode::CONFIG_UNSUPPORTED, message).with_cause(error)
            }
            XmlError::MissingElement { element: "name", .. } => {
                ERRORS.told(ErrorCode::NO_NAME, "missing domain name information").with_cause(error)
            }
            _ => not_understood(error),
        })?;
        Ok(self.completed(parsed.value))
    }

    /// Fills in what libvirt does: the host's architecture, and the disk to boot from where nothing else is named.
    fn completed(&self, mut domain: Domain) -> Domain {
        domain.forget_live();
        domain.ensure_uuid();
        domain.os.arch.get_or_insert_with(|| self.node.model.clone());
        let devices = &domain.devices;
        let is_ordered = devices.disks.iter().any(|disk| disk.boot_order.is_some())
            || devices.other.iter().any(|device| device.xml.contains("<boot "));
        if domain.os.os_type == OsType::Hvm && domain.os.boot.is_empty() && !is_ordered {
            domain.os.boot.push(BootDevice::Hd);
        }
        domain
    }

    fn add_definition(&mut self, domain: Domain) -> Result<Uuid> {
        let domain = self.completed(domain);
        let uuid = Mock::uuid(&domain);
        let ticket = self.domains.begin_define(&domain.name, uuid).map_err(refused)?;
        let effects = self.domains.commit_define(ticket, domain).map_err(refused)?;
        self.carry_out(effects);
        Ok(uuid)
    }

    pub(crate) fn define(&mut self, xml: &str) -> Result<remote::Domain> {
        let uuid = self.add_definition(self.read(xml)?)?;
        self.by_uuid(uuid.into_bytes())
    }

    pub(crate) fn undefine(&mut self, dom: &remote::Domain) -> Result<()> {
        let uuid = self.uuid(dom)?;
        let ticket = self.domains.begin_undefine(&uuid, Removing::default()).map_err(refused)?;
        let effects = self.domains.commit_undefine(ticket).map_err(refused)?;
        self.carry_out(effects);
        Ok(())
    }

    pub(crate) fn set_autostart(&mut self, dom: &remote::Domain, autostart: bool) -> Result<()> {
        let uuid = self.uuid(dom)?;
        self.domains.set_autostart(&uuid, autostart).map_err(refused)
    }

    pub(crate) fn rename(&mut self, dom: &remote::Domain, name: &str) -> Result<()> {
        let uuid = self.uuid(dom)?;
        let ticket = self.domains.begin_rename(&uuid, name).map_err(refused)?;
        let definition = self.domains.get(&uuid).and_then(Object::definition).cloned();
        // The registry has just seen that there is one.
        let mut definition = definition.ok_or_else(|| refused(Refusal::OtherDocument))?;
        name.clone_into(&mut definition.name);
        let effects = self.domains.commit_rename(ticket, definition).map_err(refused)?;
        self.carry_out(effects);
        Ok(())
    }

    /// Changes the documents that a call's flags mean: all of them or none.
    pub(crate) fn change(
        &mut self,
        dom: &remote::Domain,
        flags: u32,
        change: impl Fn(&mut Domain, bool) -> Result<()>,
    ) -> Result<Affected> {
        let guest = self.guest(dom)?;
        let meant = guest.affected(flags)?;
        let changed = |domain: Option<&Domain>, live| {
            let mut copy = domain.cloned();
            copy.as_mut().map_or(Ok(()), |copy| change(copy, live)).map(|()| copy)
        };
        let running = guest.0.live().get().filter(|_| meant.live).map(Running::domain);
        let running = changed(running, true)?;
        let definition = changed(guest.0.definition().filter(|_| meant.config), false)?;
        if let Some(domain) = running {
            self.running(dom)?.domain = domain;
        }
        if let Some(definition) = definition {
            self.domains.update(definition).map_err(refused)?;
        }
        Ok(meant)
    }
}

/// A guest's life.
impl Machine {
    /// Starts a guest from a document.
    pub(crate) fn create(&mut self, xml: &str, paused: bool) -> Result<remote::Domain> {
        let domain = self.read(xml)?;
        let (name, uuid) = (domain.name.clone(), Mock::uuid(&domain));
        let live = Running::new(domain.clone(), paused);
        let ticket = self.domains.begin_create(&name, uuid, live).map_err(refused)?;
        self.launch(&uuid, ticket, domain, paused)
    }

    /// Starts a defined guest.
    pub(crate) fn start(&mut self, dom: &remote::Domain, paused: bool) -> Result<remote::Domain> {
        let uuid = self.uuid(dom)?;
        self.start_known(&uuid, paused)
    }

    fn start_known(&mut self, uuid: &Uuid, paused: bool) -> Result<remote::Domain> {
        let definition = self.domains.get(uuid).and_then(Object::definition).cloned();
        // A guest without a definition is there because it runs.
        let domain = definition.ok_or_else(|| refused(Refusal::Running))?;
        let live = Running::new(domain.clone(), paused);
        let ticket = self.domains.begin_start(uuid, live).map_err(refused)?;
        self.launch(uuid, ticket, domain, paused)
    }

    /// The start takes no time here.
    fn launch(
        &mut self,
        uuid: &Uuid,
        ticket: registry::Ticket,
        domain: Domain,
        paused: bool,
    ) -> Result<remote::Domain> {
        self.last_run += 1;
        let run = Run(self.last_run);
        self.domains.launched(ticket, run).map_err(refused)?;
        let live = Running::new(domain, paused);
        let effects = self.domains.started(run, live, StartedDetail::Booted).map_err(refused)?;
        self.carry_out(effects);
        if paused {
            self.emit(uuid, LifecycleEvent::Suspended, SuspendedDetail::Paused);
        }
        self.by_uuid(uuid.into_bytes())
    }

    pub(crate) fn suspend(&mut self, dom: &remote::Domain) -> Result<()> {
        let uuid = self.uuid(dom)?;
        let running = self.running(dom)?;
        if life::suspend(running.state.state).map_err(refused)? == life::Step::Go {
            running.state = State::new(DomainState::Paused, PausedReason::User);
            self.emit(&uuid, LifecycleEvent::Suspended, SuspendedDetail::Paused);
        }
        Ok(())
    }

    pub(crate) fn resume(&mut self, dom: &remote::Domain) -> Result<()> {
        let uuid = self.uuid(dom)?;
        let running = self.running(dom)?;
        life::resume(running.state.state).map_err(refused)?;
        running.state = State::new(DomainState::Running, RunningReason::Unpaused);
        self.emit(&uuid, LifecycleEvent::Resumed, ResumedDetail::Unpaused);
        Ok(())
    }

    /// What a guest whose virtual CPUs run can react to.
    fn reacting(&mut self, dom: &remote::Domain) -> Result<&mut Running> {
        let running = self.running(dom)?;
        life::react(running.state.state).map_err(refused)?;
        Ok(running)
    }

    /// The power button: this guest obeys at once.
    pub(crate) fn shutdown(&mut self, dom: &remote::Domain) -> Result<()> {
        let action = self.reacting(dom)?.domain.on_poweroff;
        self.power_cycle(dom, action)
    }

    pub(crate) fn reboot(&mut self, dom: &remote::Domain) -> Result<()> {
        let action = self.reacting(dom)?.domain.on_reboot;
        self.power_cycle(dom, action)
    }

    fn power_cycle(&mut self, dom: &remote::Domain, action: LifecycleAction) -> Result<()> {
        match action {
            LifecycleAction::Restart | LifecycleAction::RenameRestart => {
                self.running(dom)?.boot();
                self.tell(dom, Notice::Reboot)
            }
            LifecycleAction::Destroy | LifecycleAction::Preserve => {
                let uuid = self.uuid(dom)?;
                self.emit(&uuid, LifecycleEvent::Shutdown, ShutdownDetail::Guest);
                self.end(&uuid, ShutoffReason::Shutdown, StoppedDetail::Shutdown)
            }
        }
    }

    pub(crate) fn reset(&mut self, dom: &remote::Domain) -> Result<()> {
        let running = self.running(dom)?;
        running.since = Instant::now();
        if running.state.state == DomainState::Crashed {
            running.boot();
        }
        self.tell(dom, Notice::Reboot)
    }

    /// An NMI: this guest's kernel panics of it.
    pub(crate) fn inject_nmi(&mut self, dom: &remote::Domain) -> Result<()> {
        let uuid = self.uuid(dom)?;
        let running = self.reacting(dom)?;
        let action = running.domain.on_crash;
        running.state = State::new(DomainState::Crashed, CrashedReason::Panicked);
        self.emit(&uuid, LifecycleEvent::Crashed, CrashedDetail::Panicked);
        match action {
            CrashAction::Preserve => {}
            CrashAction::Restart | CrashAction::RenameRestart | CrashAction::CoredumpRestart => {
                self.running(dom)?.boot();
            }
            CrashAction::Destroy | CrashAction::CoredumpDestroy => {
                self.end(&uuid, ShutoffReason::Crashed, StoppedDetail::Crashed)?;
            }
        }
        Ok(())
    }

    pub(crate) fn destroy(&mut self, dom: &remote::Domain) -> Result<()> {
        let uuid = self.uuid(dom)?;
        self.end(&uuid, ShutoffReason::Destroyed, StoppedDetail::Destroyed)
    }

    fn end(&mut self, uuid: &Uuid, reason: ShutoffReason, detail: StoppedDetail) -> Result<()> {
        let effects = match self.domains.destroy(uuid).map_err(refused)? {
            Destroy::Kill(run) => self.domains.gone(run, reason.number(), detail).map_err(refused)?.1,
            // A start is over before another call comes.
            Destroy::Cancel(ticket) => self.domains.cancel(ticket).map_err(refused)?,
        };
        self.carry_out(effects);
        Ok(())
    }
}
