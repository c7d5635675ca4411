//! The guests of the mock host and what becomes of them.
//!
//! States, reasons, events and refusals are those of libvirt's QEMU driver, so that what a program learns here holds there.

use std::time::{Instant, SystemTime};

use api::{
    Error, ErrorCode, ErrorDomain, bulkhead,
    consts::{
        CrashedDetail, CrashedReason, DefinedDetail, DomainState, LifecycleEvent, ListDomains, ModificationImpact,
        PausedReason, ResumedDetail, RunningReason, ShutdownDetail, ShutoffReason, StartedDetail, StoppedDetail,
        SuspendedDetail, UndefinedDetail,
    },
    notice::Notice,
    remote,
};
use model::{CrashAction, Disk, Domain, DomainType, DumpOptions, LifecycleAction, Live};
use uuid::Uuid;

use super::{console::Echo, events::Log, node::Node};
use crate::{Result, sources::not_understood};

/// The mock host with its guests.
pub(crate) struct Machine {
    pub(crate) node: Node,
    guests: Vec<Guest>,
    last_id: u32,
    log: Log,
    /// When it was booted, so to speak.
    since: Instant,
}

/// A domain: defined, running, or both.
pub(crate) struct Guest {
    name: String,
    uuid: Uuid,
    definition: Option<Domain>,
    running: Option<Running>,
    pub(crate) autostart: bool,
    shutoff: ShutoffReason,
}

/// What there is of a domain while it runs.
pub(crate) struct Running {
    domain: Domain,
    id: u32,
    state: DomainState,
    reason: i32,
    since: Instant,
    pub(crate) started: SystemTime,
    pub(crate) console: Option<Echo>,
    /// Its file systems are.
    pub(crate) frozen: bool,
}

/// Where a guest stands in the list.
type Place = usize;

pub(crate) fn invalid(what: &str) -> Error {
    let message = format!("Requested operation is not valid: {what}");
    Error::new(ErrorCode::OPERATION_INVALID, ErrorDomain::TEST, message)
}

pub(crate) fn op_failed(what: &str) -> Error {
    Error::new(ErrorCode::OPERATION_FAILED, ErrorDomain::TEST, format!("operation failed: {what}"))
}

pub(crate) fn no_domain(what: &str) -> Error {
    Error::new(ErrorCode::NO_DOMAIN, ErrorDomain::TEST, format!("Domain not found: {what}"))
}

fn not_running() -> Error {
    invalid("domain is not running").with_hint("start it first")
}

impl Guest {
    /// The document that holds now.
    fn domain(&self) -> Option<&Domain> {
        self.running.as_ref().map(|running| &running.domain).or(self.definition.as_ref())
    }

    pub(crate) fn running(&mut self) -> Result<&mut Running> {
        self.running.as_mut().ok_or_else(not_running)
    }

    /// The documents that a call's flags mean: of the running domain, and the definition. Without a flag it is the first if
    /// it runs, else the second.
    pub(crate) fn affected(&mut self, flags: u32) -> Result<(Option<&mut Domain>, Option<&mut Domain>)> {
        let impact = ModificationImpact::from_bits_truncate(flags);
        let (live, config) = match (impact.is_empty(), self.is_active()) {
            (true, active) => (active, !active),
            (false, _) => (impact.contains(ModificationImpact::LIVE), impact.contains(ModificationImpact::CONFIG)),
        };
        if live && self.running.is_none() {
            return Err(not_running());
        }
        if config && self.definition.is_none() {
            return Err(invalid("cannot change persistent config of a transient domain"));
        }
        let running = self.running.as_mut().map(|running| &mut running.domain).filter(|_| live);
        Ok((running, self.definition.as_mut().filter(|_| config)))
    }

    pub(crate) fn is_active(&self) -> bool {
        self.running.is_some()
    }

    pub(crate) fn is_persistent(&self) -> bool {
        self.definition.is_some()
    }

    pub(crate) fn state(&self) -> (DomainState, i32) {
        self.running
            .as_ref()
            .map_or((DomainState::Shutoff, self.shutoff.number()), |running| (running.state, running.reason))
    }

    /// The wire's handle to it.
    pub(crate) fn dom(&self) -> remote::Domain {
        let id = self.running.as_ref().and_then(|running| i32::try_from(running.id).ok()).unwrap_or(-1);
        remote::Domain { name: self.name.clone(), uuid: self.uuid.into_bytes(), id }
    }

    pub(crate) fn vcpus(&self) -> u32 {
        self.domain().map_or(0, |domain| domain.vcpus.online())
    }

    pub(crate) fn max_vcpus(&self) -> u32 {
        self.domain().map_or(0, |domain| domain.vcpus.max)
    }

    /// The most memory it may have and the memory it has, in KiB.
    pub(crate) fn memory_kib(&self) -> (u64, u64) {
        self.domain().map_or((0, 0), |domain| (domain.memory_kib, domain.current_memory_kib))
    }

    pub(crate) fn os_type(&self) -> &'static str {
        self.domain().map_or("", |domain| domain.os.os_type.as_str())
    }

    /// As if one virtual CPU had been busy since the start.
    pub(crate) fn cpu_time_ns(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| u64::try_from(running.since.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn disks(&self) -> &[Disk] {
        self.domain().map_or(&[], |domain| &domain.devices.disks)
    }

    /// Whether its document has an element that nobody here reads.
    pub(crate) fn asks_for(&self, element: &str) -> bool {
        self.domain().is_some_and(|domain| domain.rest.element(element).is_some())
    }

    /// Whether a console of this alias exists. A guest without any in its document has one all the same.
    pub(crate) fn has_console(&self, alias: &str) -> bool {
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

    pub(crate) fn xml(&self, inactive: bool, secrets: bool) -> String {
        let live = self.running.as_ref().filter(|_| !inactive || self.definition.is_none());
        let options = DumpOptions { live: live.filter(|_| !inactive).map(|running| Live { id: running.id }), secrets };
        let domain = live.map(|running| &running.domain).or(self.definition.as_ref());
        domain.map(|domain| domain.to_xml(&options)).unwrap_or_default()
    }

    pub(crate) fn record(&self) -> bulkhead::DomainRecord {
        let (state, reason) = self.state();
        bulkhead::DomainRecord {
            dom: self.dom(),
            state: state.number(),
            reason,
            persistent: self.is_persistent(),
            autostart: self.autostart,
            // There is no process behind it.
            supervisor_pid: 0,
            vcpus: self.vcpus(),
            memory_kib: self.memory_kib().1,
        }
    }

    /// Whether a list with these flags shows it: each group of which a bit is set must have it.
    pub(crate) fn matches(&self, flags: ListDomains) -> bool {
        let state = match self.state().0 {
            DomainState::Running => ListDomains::RUNNING,
            DomainState::Paused => ListDomains::PAUSED,
            DomainState::Shutoff => ListDomains::SHUTOFF,
            _ => ListDomains::OTHER,
        };
        let either = |yes: bool, one: ListDomains, other: ListDomains| (if yes { one } else { other }, one | other);
        let states = ListDomains::RUNNING | ListDomains::PAUSED | ListDomains::SHUTOFF | ListDomains::OTHER;
        [
            either(self.is_active(), ListDomains::ACTIVE, ListDomains::INACTIVE),
            either(self.is_persistent(), ListDomains::PERSISTENT, ListDomains::TRANSIENT),
            either(self.autostart, ListDomains::AUTOSTART, ListDomains::NO_AUTOSTART),
            either(false, ListDomains::MANAGEDSAVE, ListDomains::NO_MANAGEDSAVE),
            either(false, ListDomains::HAS_SNAPSHOT, ListDomains::NO_SNAPSHOT),
            either(false, ListDomains::HAS_CHECKPOINT, ListDomains::NO_CHECKPOINT),
            (state, states),
        ]
        .iter()
        .all(|(has, group)| !flags.intersects(*group) || flags.intersects(*has))
    }
}

impl Running {
    pub(crate) fn domain(&self) -> &Domain {
        &self.domain
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    fn set(&mut self, state: DomainState, reason: i32) {
        self.state = state;
        self.reason = reason;
    }

    fn boot(&mut self) {
        self.set(DomainState::Running, RunningReason::Booted.number());
        self.since = Instant::now();
        self.frozen = false;
    }
}

impl Machine {
    /// A host with running guests. Its first event has the number after `last_event`.
    pub(crate) fn new(mut node: Node, last_event: u64) -> Result<Machine> {
        node.check()?;
        let guests = std::mem::take(&mut node.guests);
        let mut machine = Machine { node, guests: Vec::new(), last_id: 0, log: Log::default(), since: Instant::now() };
        for guest in guests {
            let place = machine.add_definition(guest)?;
            machine.start(place, false)?;
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

    pub(crate) fn guests(&self) -> &[Guest] {
        &self.guests
    }

    /// The guest of a handle. The UUID counts, as in libvirt: name and number may be stale.
    pub(crate) fn find(&self, dom: &remote::Domain) -> Result<Place> {
        self.place(|guest| guest.uuid.as_bytes() == &dom.uuid).ok_or_else(|| {
            no_domain(&format!("no domain with matching uuid '{}' ({})", Uuid::from_bytes(dom.uuid), dom.name))
        })
    }

    pub(crate) fn guest(&mut self, dom: &remote::Domain) -> Result<&mut Guest> {
        let place = self.find(dom)?;
        // `find` has just seen it.
        self.guests.get_mut(place).ok_or_else(|| no_domain(&dom.name))
    }

    pub(crate) fn by_name(&self, name: &str) -> Result<remote::Domain> {
        let found = self.guests.iter().find(|guest| guest.name == name);
        found.map(Guest::dom).ok_or_else(|| no_domain(&format!("no domain with matching name '{name}'")))
    }

    pub(crate) fn by_uuid(&self, uuid: [u8; 16]) -> Result<remote::Domain> {
        let found = self.guests.iter().find(|guest| guest.uuid.as_bytes() == &uuid);
        found
            .map(Guest::dom)
            .ok_or_else(|| no_domain(&format!("no domain with matching uuid '{}'", Uuid::from_bytes(uuid))))
    }

    pub(crate) fn by_id(&self, id: i32) -> Result<remote::Domain> {
        let dom = self.guests.iter().map(Guest::dom).find(|dom| dom.id == id && id >= 0);
        dom.ok_or_else(|| no_domain(&format!("no domain with matching id {id}")))
    }

    fn place(&self, is: impl Fn(&Guest) -> bool) -> Option<Place> {
        self.guests.iter().position(is)
    }

    fn at(&mut self, place: Place) -> Result<&mut Guest> {
        self.guests.get_mut(place).ok_or_else(|| no_domain("it has just gone"))
    }

    fn emit(&mut self, place: Place, event: LifecycleEvent, detail: impl Into<i32>) {
        if let Some(guest) = self.guests.get(place) {
            self.log.add(guest.dom(), event.number(), detail.into());
        }
    }

    /// Tells that something else happened to a guest than a change of its life.
    pub(super) fn tell(&mut self, place: Place, notice: Notice) {
        if let Some(guest) = self.guests.get(place) {
            self.log.notice(guest.dom(), notice);
        }
    }

    /// Reads a document for this host.
    fn read(xml: &str) -> Result<Domain> {
        let mut domain = Domain::parse(xml).map_err(not_understood)?.value;
        if domain.domain_type != DomainType::Test {
            let found = domain.domain_type.as_str();
            let message = format!("unsupported configuration: the test driver has no domains of type '{found}'");
            return Err(Error::new(ErrorCode::CONFIG_UNSUPPORTED, ErrorDomain::TEST, message)
                .with_hint("write <domain type='test'>"));
        }
        domain.forget_live();
        domain.ensure_uuid();
        Ok(domain)
    }

    /// The guest that a document is about, if it is there. Name and UUID must agree on it.
    fn same(&self, domain: &Domain) -> Result<Option<Place>> {
        let uuid = domain.uuid.unwrap_or_default();
        if let Some(place) = self.place(|guest| guest.uuid == uuid) {
            let known = self.guests.get(place).map(|guest| guest.name.as_str()).unwrap_or_default();
            if known != domain.name {
                return Err(op_failed(&format!("domain '{known}' is already defined with uuid {uuid}")));
            }
            return Ok(Some(place));
        }
        match self.guests.iter().find(|guest| guest.name == domain.name) {
            Some(other) => {
                let text = format!("domain '{}' already exists with uuid {}", other.name, other.uuid);
                Err(op_failed(&text).with_hint("give the document that UUID to change the domain, or another name"))
            }
            None => Ok(None),
        }
    }

    fn push(&mut self, domain: &Domain, definition: Option<Domain>) -> Place {
        self.guests.push(Guest {
            name: domain.name.clone(),
            uuid: domain.uuid.unwrap_or_default(),
            definition,
            running: None,
            autostart: false,
            shutoff: ShutoffReason::Unknown,
        });
        self.guests.len() - 1
    }

    fn add_definition(&mut self, mut domain: Domain) -> Result<Place> {
        domain.forget_live();
        domain.ensure_uuid();
        let known = self.same(&domain)?;
        let detail = if known.is_some() { DefinedDetail::Updated } else { DefinedDetail::Added };
        let place = match known {
            Some(place) => {
                self.at(place)?.definition = Some(domain);
                place
            }
            None => self.push(&domain.clone(), Some(domain)),
        };
        self.emit(place, LifecycleEvent::Defined, detail);
        Ok(place)
    }

    pub(crate) fn define(&mut self, xml: &str) -> Result<remote::Domain> {
        let place = self.add_definition(Machine::read(xml)?)?;
        self.at(place).map(|guest| guest.dom())
    }

    pub(crate) fn undefine(&mut self, dom: &remote::Domain) -> Result<()> {
        let place = self.find(dom)?;
        let guest = self.at(place)?;
        if guest.definition.take().is_none() {
            return Err(invalid("cannot undefine transient domain"));
        }
        guest.autostart = false;
        self.emit(place, LifecycleEvent::Undefined, UndefinedDetail::Removed);
        self.forget_if_gone(place);
        Ok(())
    }

    /// The console of the guest of this number, if it is open.
    pub(crate) fn console(&mut self, id: u64) -> Option<&mut Option<Echo>> {
        let running = self.guests.iter_mut().filter_map(|guest| guest.running.as_mut());
        running
            .map(|running| (running.id, &mut running.console))
            .find(|(own, _)| u64::from(*own) == id)
            .map(|(_, it)| it)
    }

    /// How many are open.
    pub(crate) fn consoles(&self) -> usize {
        let running = self.guests.iter().filter_map(|guest| guest.running.as_ref());
        running.filter(|running| running.console.is_some()).count()
    }

    pub(crate) fn rename(&mut self, dom: &remote::Domain, name: &str) -> Result<()> {
        let place = self.find(dom)?;
        let guest = self.at(place)?;
        if guest.is_active() {
            return Err(invalid("cannot rename active domain").with_hint("shut it down first"));
        }
        if guest.name == name {
            return Err(invalid("Can't rename domain to itself"));
        }
        if self.guests.iter().any(|guest| guest.name == name) {
            return Err(op_failed(&format!("domain with name '{name}' already exists")));
        }
        self.emit(place, LifecycleEvent::Undefined, UndefinedDetail::Renamed);
        let guest = self.at(place)?;
        guest.name = name.to_owned();
        if let Some(definition) = &mut guest.definition {
            definition.name = name.to_owned();
        }
        self.emit(place, LifecycleEvent::Defined, DefinedDetail::Renamed);
        Ok(())
    }

    /// Starts a guest from a document.
    pub(crate) fn create(&mut self, xml: &str, paused: bool) -> Result<remote::Domain> {
        let domain = Machine::read(xml)?;
        let known = self.same(&domain)?;
        if let Some(guest) = known.and_then(|place| self.guests.get(place)).filter(|guest| guest.is_active()) {
            return Err(invalid(&format!("domain is already active as '{}'", guest.name)));
        }
        let place = known.unwrap_or_else(|| self.push(&domain, None));
        self.run(place, domain, paused)
    }

    /// Starts a defined guest.
    pub(crate) fn start(&mut self, place: Place, paused: bool) -> Result<remote::Domain> {
        let guest = self.at(place)?;
        if guest.is_active() {
            return Err(invalid("domain is already running"));
        }
        // A guest that does not run is there for its definition.
        let domain = guest.definition.clone().ok_or_else(not_running)?;
        self.run(place, domain, paused)
    }

    fn run(&mut self, place: Place, domain: Domain, paused: bool) -> Result<remote::Domain> {
        self.last_id += 1;
        let id = self.last_id;
        let guest = self.at(place)?;
        let mut running = Running {
            domain,
            id,
            state: DomainState::Running,
            reason: RunningReason::Booted.number(),
            since: Instant::now(),
            started: SystemTime::now(),
            console: None,
            frozen: false,
        };
        if paused {
            running.set(DomainState::Paused, PausedReason::User.number());
        }
        guest.running = Some(running);
        let dom = guest.dom();
        self.emit(place, LifecycleEvent::Started, StartedDetail::Booted);
        if paused {
            self.emit(place, LifecycleEvent::Suspended, SuspendedDetail::Paused);
        }
        Ok(dom)
    }

    pub(crate) fn suspend(&mut self, dom: &remote::Domain) -> Result<()> {
        let place = self.find(dom)?;
        let running = self.at(place)?.running()?;
        match running.state {
            DomainState::Paused => Ok(()),
            DomainState::Running => {
                running.set(DomainState::Paused, PausedReason::User.number());
                self.emit(place, LifecycleEvent::Suspended, SuspendedDetail::Paused);
                Ok(())
            }
            _ => Err(not_running()),
        }
    }

    pub(crate) fn resume(&mut self, dom: &remote::Domain) -> Result<()> {
        let place = self.find(dom)?;
        let running = self.at(place)?.running()?;
        match running.state {
            DomainState::Running => Err(invalid("domain is already running")),
            DomainState::Paused => {
                running.set(DomainState::Running, RunningReason::Unpaused.number());
                self.emit(place, LifecycleEvent::Resumed, ResumedDetail::Unpaused);
                Ok(())
            }
            _ => Err(invalid("domain is not paused")),
        }
    }

    /// The power button: this guest obeys at once.
    pub(crate) fn shutdown(&mut self, dom: &remote::Domain) -> Result<()> {
        let place = self.find(dom)?;
        let action = self.at_work(place)?.domain.on_poweroff;
        self.power_cycle(place, action)
    }

    pub(crate) fn reboot(&mut self, dom: &remote::Domain) -> Result<()> {
        let place = self.find(dom)?;
        let action = self.at_work(place)?.domain.on_reboot;
        self.power_cycle(place, action)
    }

    /// What a guest asks of its host is done by a guest whose virtual CPUs run.
    fn at_work(&mut self, place: Place) -> Result<&mut Running> {
        let running = self.at(place)?.running()?;
        if running.state == DomainState::Running { Ok(running) } else { Err(not_running()) }
    }

    fn power_cycle(&mut self, place: Place, action: LifecycleAction) -> Result<()> {
        match action {
            LifecycleAction::Restart | LifecycleAction::RenameRestart => {
                self.at_work(place)?.boot();
                self.tell(place, Notice::Reboot);
                Ok(())
            }
            LifecycleAction::Destroy | LifecycleAction::Preserve => {
                self.emit(place, LifecycleEvent::Shutdown, ShutdownDetail::Guest);
                self.end(place, ShutoffReason::Shutdown, StoppedDetail::Shutdown)
            }
        }
    }

    pub(crate) fn reset(&mut self, dom: &remote::Domain) -> Result<()> {
        let place = self.find(dom)?;
        let running = self.at(place)?.running()?;
        running.since = Instant::now();
        if running.state == DomainState::Crashed {
            running.boot();
        }
        self.tell(place, Notice::Reboot);
        Ok(())
    }

    /// An NMI: this guest's kernel panics of it.
    pub(crate) fn inject_nmi(&mut self, dom: &remote::Domain) -> Result<()> {
        let place = self.find(dom)?;
        let action = self.at_work(place)?.domain.on_crash;
        self.at_work(place)?.set(DomainState::Crashed, CrashedReason::Panicked.number());
        self.emit(place, LifecycleEvent::Crashed, CrashedDetail::Panicked);
        match action {
            CrashAction::Preserve => Ok(()),
            CrashAction::Restart | CrashAction::RenameRestart | CrashAction::CoredumpRestart => {
                self.at(place)?.running()?.boot();
                Ok(())
            }
            CrashAction::Destroy | CrashAction::CoredumpDestroy => {
                self.end(place, ShutoffReason::Crashed, StoppedDetail::Crashed)
            }
        }
    }

    pub(crate) fn destroy(&mut self, dom: &remote::Domain) -> Result<()> {
        let place = self.find(dom)?;
        self.at(place)?.running()?;
        self.end(place, ShutoffReason::Destroyed, StoppedDetail::Destroyed)
    }

    fn end(&mut self, place: Place, reason: ShutoffReason, detail: StoppedDetail) -> Result<()> {
        let guest = self.at(place)?;
        guest.running = None;
        guest.shutoff = reason;
        self.emit(place, LifecycleEvent::Stopped, detail);
        self.forget_if_gone(place);
        Ok(())
    }

    /// A domain that neither runs nor has a definition is no more.
    fn forget_if_gone(&mut self, place: Place) {
        if self.guests.get(place).is_some_and(|guest| !guest.is_active() && !guest.is_persistent()) {
            self.guests.remove(place);
        }
    }
}
