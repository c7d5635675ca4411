//! The books: which objects there are, what is reserved, which run is whose.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write,
};

use api::consts::{DefinedDetail, LifecycleEvent, ListDomains, StartedDetail, StoppedDetail, UndefinedDetail};
use uuid::Uuid;

use crate::{
    effect::{Effect, Event},
    error::{Kept, Refusal, TransientRefusal},
    list,
    live::{Live, Phase},
    object::{Claim, Kind, Object},
    reservation::{Reservations, Reserved, Ticket},
    run::Run,
};

/// Where the UUIDs of strays begin; the run's number is their end. Version 8 is for UUIDs that are made in a way of one's
/// own.
const STRAY: u128 = 0x6275_6c6b_6865_8164_8000_0000_0000_0000;

/// All objects of one kind.
pub struct Registry<K: Kind> {
    /// Boxed, because a table has room for twice as many as there are.
    objects: HashMap<Uuid, Box<Object<K>>>,
    names: BTreeMap<String, Uuid>,
    /// Every run that is not gone.
    runs: BTreeMap<Run, Uuid>,
    /// Objects that are being started and have no run yet.
    launching: BTreeMap<Ticket, Uuid>,
    /// Runs that claim what is not theirs.
    claims: BTreeSet<Run>,
    reservations: Reservations,
}

/// A run that was there before its registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub run: Run,
    /// The UUID in its record, if the record could be read.
    pub uuid: Option<Uuid>,
    /// And its name.
    pub name: Option<String>,
}

/// How an object that is active can be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destroy {
    /// It has no run yet: see that none is launched, then [`Registry::cancel`] this.
    Cancel(Ticket),
    /// Kill this run; [`Registry::gone`] when the kernel says that it is dead.
    Kill(Run),
}

impl<K: Kind> Default for Registry<K> {
    fn default() -> Self {
        Registry {
            objects: HashMap::new(),
            names: BTreeMap::new(),
            runs: BTreeMap::new(),
            launching: BTreeMap::new(),
            claims: BTreeSet::new(),
            reservations: Reservations::default(),
        }
    }
}

/// Look-ups, lists and counts.
impl<K: Kind> Registry<K> {
    /// Books without an entry.
    #[must_use]
    pub fn new() -> Registry<K> {
        Registry::default()
    }

    /// The object with this UUID.
    pub fn get(&self, uuid: &Uuid) -> Option<&Object<K>> {
        self.objects.get(uuid).map(Box::as_ref)
    }

    /// The object that a handle means. Only the UUID counts, as in libvirt: name and id may be stale.
    pub fn known(&self, uuid: [u8; 16], name: &str) -> Result<&Object<K>, Refusal> {
        let uuid = Uuid::from_bytes(uuid);
        self.get(&uuid).ok_or_else(|| Refusal::NoUuid { uuid, name: name.to_owned() })
    }

    /// The object of this name.
    pub fn by_name(&self, name: &str) -> Option<&Object<K>> {
        self.objects.get(self.names.get(name)?).map(Box::as_ref)
    }

    /// The object that this run belongs to.
    pub fn by_run(&self, run: Run) -> Option<&Object<K>> {
        self.objects.get(self.runs.get(&run)?).map(Box::as_ref)
    }

    /// Every object: those with a run by its number, then those about to get one and those that are off, both by name.
    pub fn iter(&self) -> impl Iterator<Item = &Object<K>> {
        let numbered = self.runs.values().filter_map(|uuid| self.get(uuid));
        let launching = self.by_names().filter(|object| object.is_active() && object.run().is_none());
        let launching = launching.take(self.launching.len());
        numbered.chain(launching).chain(self.inactive())
    }

    /// Every object that a list with these flags has, in the order of [`Registry::iter`].
    pub fn list(&self, filter: ListDomains) -> impl Iterator<Item = &Object<K>> {
        self.iter().filter(move |object| list::passes(&object.facts(), filter))
    }

    /// The active objects, in the order of [`Registry::iter`].
    pub fn active(&self) -> impl Iterator<Item = &Object<K>> {
        self.iter().take(self.count_active())
    }

    /// The objects that are off, by name.
    pub fn inactive(&self) -> impl Iterator<Item = &Object<K>> {
        self.by_names().filter(|object| !object.is_active())
    }

    fn by_names(&self) -> impl Iterator<Item = &Object<K>> {
        self.names.values().filter_map(|uuid| self.get(uuid))
    }

    /// Every run that is not gone, by number.
    pub fn runs(&self) -> impl Iterator<Item = (Run, &Object<K>)> {
        self.runs.iter().filter_map(|(run, uuid)| Some((*run, self.get(uuid)?)))
    }

    /// What was begun and is neither committed nor cancelled.
    pub fn reservations(&self) -> impl Iterator<Item = (Ticket, &Reserved)> {
        self.reservations.iter()
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.objects.len()
    }

    /// How many are active.
    pub fn count_active(&self) -> usize {
        self.runs.len() + self.launching.len()
    }

    /// How many are off.
    pub fn count_inactive(&self) -> usize {
        self.count().saturating_sub(self.count_active())
    }

    /// What the host knows of a run.
    pub fn live(&self, run: Run) -> Option<&K::Live> {
        self.by_run(run)?.live.get()
    }

    /// The same, to be changed.
    pub fn live_mut(&mut self, run: Run) -> Option<&mut K::Live> {
        self.object_of(run).ok()?.live.get_mut()
    }

    /// The run of an object that must have one.
    pub fn run_of(&self, uuid: &Uuid) -> Result<Run, Refusal> {
        self.get(uuid).and_then(Object::run).ok_or(Refusal::NotRunning)
    }

    /// An event of a run or object, for what the host itself finds out.
    pub fn event(&self, uuid: &Uuid, event: LifecycleEvent, detail: impl Into<i32>) -> Option<Event> {
        self.get(uuid).map(|object| event_of(object, event, detail))
    }

    fn object_of(&mut self, run: Run) -> Result<&mut Object<K>, Refusal> {
        let uuid = self.runs.get(&run).ok_or(Refusal::NoRun(run))?;
        self.objects.get_mut(uuid).map(Box::as_mut).ok_or(Refusal::NoRun(run))
    }

    fn object_mut(&mut self, uuid: &Uuid) -> Result<&mut Object<K>, Refusal> {
        self.objects.get_mut(uuid).map(Box::as_mut).ok_or_else(|| Refusal::NoUuid { uuid: *uuid, name: String::new() })
    }
}

/// Definitions.
impl<K: Kind> Registry<K> {
    /// A name and a UUID belong together: neither may be another object's, nor reserved for one.
    pub fn check_identity(&self, name: &str, uuid: &Uuid) -> Result<(), Refusal> {
        let owner = self.names.get(name).copied().or_else(|| self.reservations.owner(name));
        if let Some(owner) = owner.filter(|owner| owner != uuid) {
            return Err(Refusal::NameTaken { name: name.to_owned(), uuid: owner });
        }
        let known = self.get(uuid).map(Object::name).or_else(|| self.reservations.name_of(uuid));
        match known {
            Some(known) if known != name => Err(Refusal::UuidTaken { uuid: *uuid, name: known.to_owned() }),
            _ => Ok(()),
        }
    }

    /// Takes in a definition that was stored earlier, at the start of the host. No event.
    pub fn load(&mut self, definition: K::Document, autostart: bool) -> Result<(), Refusal> {
        let (name, uuid) = (K::name(&definition).to_owned(), K::uuid(&definition));
        self.check_identity(&name, &uuid)?;
        let object = self.insert(uuid, name);
        object.definition = Some(definition);
        object.autostart = autostart;
        Ok(())
    }

    /// Reserves name and UUID of a document that is being written. Two calls may define the same object at once; the last
    /// commit holds.
    pub fn begin_define(&mut self, name: &str, uuid: Uuid) -> Result<Ticket, Refusal> {
        self.check_identity(name, &uuid)?;
        self.check_free(&uuid, |other| matches!(other, Reserved::Define { .. } | Reserved::Start { .. }))?;
        if let Some(stray) = self.get(&uuid).filter(|object| object.stray) {
            return Err(Refusal::Stray(stray.name.clone()));
        }
        Ok(self.reservations.add(Reserved::Define { uuid, name: name.to_owned() }))
    }

    /// The document is stored.
    pub fn commit_define(&mut self, ticket: Ticket, definition: K::Document) -> Result<Vec<Effect>, Refusal> {
        let Some(Reserved::Define { uuid, name }) = self.reservations.get(ticket).cloned() else {
            return Err(Refusal::NoTicket(ticket));
        };
        if K::name(&definition) != name || K::uuid(&definition) != uuid {
            return Err(Refusal::OtherDocument);
        }
        self.reservations.take(ticket);
        // A run that claims this identity may have been found meanwhile.
        self.check_identity(&name, &uuid)?;
        let object = self.insert(uuid, name);
        let detail = if object.is_persistent() { DefinedDetail::Updated } else { DefinedDetail::Added };
        object.definition = Some(definition);
        Ok(vec![Effect::Event(event_of(object, LifecycleEvent::Defined, detail))])
    }

    /// Reserves the right to remove a definition. `with` says what may go with it.
    pub fn begin_undefine(&mut self, uuid: &Uuid, with: Removing) -> Result<Ticket, Refusal> {
        let object = self.persistent(uuid, TransientRefusal::Undefine)?;
        // What a running object keeps outlives its definition; only a saved image belongs to the next start.
        let stays = kept(object).find(|kept| match kept {
            Kept::ManagedSave => !with.managed_save,
            Kept::Snapshots(_) => !with.snapshots && !object.is_active(),
            Kept::Checkpoints(_) => !with.checkpoints && !object.is_active(),
        });
        if let Some(kept) = stays {
            return Err(Refusal::Keeps(kept));
        }
        self.check_free(uuid, |_| false)?;
        Ok(self.reservations.add(Reserved::Undefine { uuid: *uuid }))
    }

    /// The stored document is removed. An object that runs goes on as a transient one.
    pub fn commit_undefine(&mut self, ticket: Ticket) -> Result<Vec<Effect>, Refusal> {
        let Some(Reserved::Undefine { uuid }) = self.reservations.get(ticket).cloned() else {
            return Err(Refusal::NoTicket(ticket));
        };
        self.reservations.take(ticket);
        let object = self.object_mut(&uuid)?;
        object.definition = None;
        object.autostart = false;
        object.managed_save = false;
        let mut effects = vec![Effect::Event(event_of(object, LifecycleEvent::Undefined, UndefinedDetail::Removed))];
        self.forget_if_gone(&uuid, &mut effects);
        Ok(effects)
    }

    /// Reserves a new name; the old one stays reserved too.
    pub fn begin_rename(&mut self, uuid: &Uuid, new: &str) -> Result<Ticket, Refusal> {
        let active =
            self.get(uuid).is_some_and(|object| object.is_active() || self.claimant(uuid, &object.name).is_some());
        if active {
            return Err(Refusal::RenameActive);
        }
        let object = self.persistent(uuid, TransientRefusal::Rename)?;
        if let Some(kept) = kept(object).next() {
            return Err(Refusal::RenameKeeps(kept));
        }
        if object.name == new {
            return Err(Refusal::RenameToItself);
        }
        if self.names.contains_key(new) || self.reservations.owner(new).is_some() {
            return Err(Refusal::RenameTaken(new.to_owned()));
        }
        self.check_free(uuid, |_| false)?;
        Ok(self.reservations.add(Reserved::Rename { uuid: *uuid, new: new.to_owned() }))
    }

    /// The document with the new name is stored in place of the old one.
    pub fn commit_rename(&mut self, ticket: Ticket, definition: K::Document) -> Result<Vec<Effect>, Refusal> {
        let Some(Reserved::Rename { uuid, new }) = self.reservations.get(ticket).cloned() else {
            return Err(Refusal::NoTicket(ticket));
        };
        if K::name(&definition) != new || K::uuid(&definition) != uuid {
            return Err(Refusal::OtherDocument);
        }
        self.reservations.take(ticket);
        // A run that claims the new name may have been found meanwhile.
        if self.names.contains_key(&new) {
            return Err(Refusal::RenameTaken(new));
        }
        let object = self.object_mut(&uuid)?;
        let gone = event_of(object, LifecycleEvent::Undefined, UndefinedDetail::Renamed);
        let old = std::mem::replace(&mut object.name, new.clone());
        let found_meanwhile = object.run();
        if found_meanwhile.is_some() {
            // It was found under another name than the old one: that is still its own.
            let claim = object.claim.get_or_insert_default();
            claim.name.get_or_insert_with(|| old.clone());
            claim.name.take_if(|name| *name == new);
        }
        object.definition = Some(definition);
        let come = event_of(object, LifecycleEvent::Defined, DefinedDetail::Renamed);
        self.names.remove(&old);
        self.names.insert(new, uuid);
        self.claims.extend(found_meanwhile);
        Ok(vec![Effect::Event(gone), Effect::Event(come)])
    }

    /// A definition was changed in place: its name and UUID are the same. No event.
    pub fn update(&mut self, definition: K::Document) -> Result<(), Refusal> {
        let object = self.object_mut(&K::uuid(&definition))?;
        if object.name != K::name(&definition) {
            return Err(Refusal::OtherDocument);
        }
        if object.definition.is_none() {
            return Err(Refusal::Transient(TransientRefusal::Change));
        }
        object.definition = Some(definition);
        Ok(())
    }

    /// Whether an object can be started with the host.
    pub fn check_autostart(&self, uuid: &Uuid) -> Result<(), Refusal> {
        self.persistent(uuid, TransientRefusal::Autostart).map(|_| ())
    }

    /// Lets an object start with the host, or no longer.
    pub fn set_autostart(&mut self, uuid: &Uuid, autostart: bool) -> Result<(), Refusal> {
        self.check_autostart(uuid)?;
        self.object_mut(uuid)?.autostart = autostart;
        Ok(())
    }

    /// Notes why an object that is off stopped last, as the host remembers it from before its own start.
    pub fn set_last_stop(&mut self, uuid: &Uuid, reason: i32) {
        if let Some(object) = self.objects.get_mut(uuid) {
            object.live.set_last_stop(reason);
        }
    }

    /// Notes that a saved image waits for the next start, or no longer.
    pub fn set_managed_save(&mut self, uuid: &Uuid, saved: bool) -> Result<(), Refusal> {
        self.object_mut(uuid)?.managed_save = saved;
        Ok(())
    }

    /// Notes how many snapshots and checkpoints an object has.
    pub fn set_history(&mut self, uuid: &Uuid, snapshots: u32, checkpoints: u32) -> Result<(), Refusal> {
        let object = self.object_mut(uuid)?;
        (object.snapshots, object.checkpoints) = (snapshots, checkpoints);
        Ok(())
    }

    /// The object, if it has a definition.
    pub fn persistent(&self, uuid: &Uuid, otherwise: TransientRefusal) -> Result<&Object<K>, Refusal> {
        let object = self.get(uuid).ok_or_else(|| Refusal::NoUuid { uuid: *uuid, name: String::new() })?;
        if object.is_persistent() { Ok(object) } else { Err(Refusal::Transient(otherwise)) }
    }

    /// Nothing else is under way about an object, but for what `goes_with` allows.
    fn check_free(&self, uuid: &Uuid, goes_with: impl Fn(&Reserved) -> bool) -> Result<(), Refusal> {
        if self.reservations.of(uuid).all(goes_with) {
            return Ok(());
        }
        Err(Refusal::Busy(self.get(uuid).map(|object| object.name.clone()).unwrap_or_default()))
    }

    fn insert(&mut self, uuid: Uuid, name: String) -> &mut Object<K> {
        self.objects.entry(uuid).or_insert_with(|| {
            self.names.insert(name.clone(), uuid);
            Box::new(Object::new(uuid, name))
        })
    }

    /// An object that neither runs nor has a definition is no more.
    fn forget_if_gone(&mut self, uuid: &Uuid, effects: &mut Vec<Effect>) {
        let over = |object: &Object<K>| object.live.phase() == Phase::Off && object.definition.is_none();
        if !self.get(uuid).is_some_and(over) {
            return;
        }
        if let Some(object) = self.objects.remove(uuid) {
            self.names.remove(&object.name);
            effects.push(Effect::Forgotten { uuid: *uuid, name: object.name });
        }
    }
}

/// Runs.
impl<K: Kind> Registry<K> {
    /// Reserves the start of a defined object.
    pub fn begin_start(&mut self, uuid: &Uuid, live: K::Live) -> Result<Ticket, Refusal> {
        let object = self.get(uuid).ok_or_else(|| Refusal::NoUuid { uuid: *uuid, name: String::new() })?;
        if object.is_active() {
            return Err(Refusal::Running);
        }
        let name = object.name.clone();
        self.begin(*uuid, &name, live)
    }

    /// Reserves the start of a document: of a new object, which is gone when its run is, or of a defined one that is off.
    pub fn begin_create(&mut self, name: &str, uuid: Uuid, live: K::Live) -> Result<Ticket, Refusal> {
        self.check_identity(name, &uuid)?;
        if let Some(object) = self.get(&uuid).filter(|object| object.is_active()) {
            return Err(Refusal::ActiveAs(object.name.clone()));
        }
        self.begin(uuid, name, live)
    }

    fn begin(&mut self, uuid: Uuid, name: &str, live: K::Live) -> Result<Ticket, Refusal> {
        self.check_free(&uuid, |other| matches!(other, Reserved::Define { .. }))?;
        if let Some(other) = self.claimant(&uuid, name) {
            return Err(Refusal::ActiveAs(other.name.clone()));
        }
        let ticket = self.reservations.add(Reserved::Start { uuid });
        if !self.insert(uuid, name.to_owned()).live.begin(ticket, live) {
            self.reservations.take(ticket);
            return Err(Refusal::Running);
        }
        self.launching.insert(ticket, uuid);
        Ok(ticket)
    }

    /// The run that claims an identity which is not, or not only, its own.
    fn claimant(&self, uuid: &Uuid, name: &str) -> Option<&Object<K>> {
        self.claims.iter().filter_map(|run| self.by_run(*run)).find(|object| object.claims(uuid, name))
    }

    /// The launcher has made the run. If it is refused the run lives all the same: [`Registry::adopt`] it.
    pub fn launched(&mut self, ticket: Ticket, run: Run) -> Result<(), Refusal> {
        let uuid = *self.launching.get(&ticket).ok_or(Refusal::NoTicket(ticket))?;
        if self.runs.contains_key(&run) {
            return Err(Refusal::RunKnown(run));
        }
        if !self.object_mut(&uuid)?.live.launched(run) {
            return Err(Refusal::NoTicket(ticket));
        }
        self.launching.remove(&ticket);
        self.reservations.take(ticket);
        self.runs.insert(run, uuid);
        Ok(())
    }

    /// Gives up what a ticket stands for: a definition, a renaming, or a start that has no run and will not get one. A
    /// start that was launched is ended by [`Registry::ending`] instead.
    pub fn cancel(&mut self, ticket: Ticket) -> Result<Vec<Effect>, Refusal> {
        let reserved = self.reservations.take(ticket).ok_or(Refusal::NoTicket(ticket))?;
        let mut effects = Vec::new();
        if let Reserved::Start { uuid } = reserved {
            self.launching.remove(&ticket);
            if let Some(object) = self.objects.get_mut(&uuid) {
                object.live.cancel();
            }
            self.forget_if_gone(&uuid, &mut effects);
        }
        Ok(effects)
    }

    /// The run is up, or is heard of again after it was unknown. A run that is ending stays so.
    pub fn started(&mut self, run: Run, live: K::Live, detail: StartedDetail) -> Result<Vec<Effect>, Refusal> {
        let object = self.object_of(run)?;
        let news = object.live.up(live).ok_or(Refusal::RunEnding(run))?;
        let event = || Effect::Event(event_of(object, LifecycleEvent::Started, detail));
        Ok(news.then(event).into_iter().collect())
    }

    /// Nobody can tell how the run is: its link is lost, its record unreadable.
    pub fn unknown(&mut self, run: Run) -> Result<(), Refusal> {
        self.object_of(run)?.live.unknown();
        Ok(())
    }

    /// The run is being ended: it is destroyed, or its start failed. It stays listed until it is gone.
    pub fn ending(&mut self, run: Run) -> Result<(), Refusal> {
        self.object_of(run)?.live.ending();
        Ok(())
    }

    /// The run that was being ended cannot be: it is unknown how it is.
    pub fn not_ended(&mut self, run: Run) -> Result<(), Refusal> {
        self.object_of(run)?.live.not_ended();
        Ok(())
    }

    /// The run itself has stopped, as its supervisor says; its processes may still be there. The event comes once.
    pub fn stopped(&mut self, run: Run, reason: i32, detail: StoppedDetail) -> Result<Vec<Effect>, Refusal> {
        let object = self.object_of(run)?;
        let news = object.live.stopped(reason);
        let event = || Effect::Event(event_of(object, LifecycleEvent::Stopped, detail));
        Ok(news.then(event).into_iter().collect())
    }

    /// The launcher's word: no process of the run is left. Reason and detail are those of a run that has not said itself
    /// that it stopped. Gives what the host knew of the run.
    pub fn gone(
        &mut self,
        run: Run,
        reason: i32,
        detail: StoppedDetail,
    ) -> Result<(Option<K::Live>, Vec<Effect>), Refusal> {
        let mut effects = self.stopped(run, reason, detail)?;
        let object = self.object_of(run)?;
        let (live, uuid) = (object.live.gone(), object.uuid);
        (object.claim, object.nameless) = (None, false);
        self.runs.remove(&run);
        self.claims.remove(&run);
        effects.push(Effect::RunGone { run, uuid });
        self.forget_if_gone(&uuid, &mut effects);
        Ok((live, effects))
    }

    /// Takes in a run that the launcher has and this registry did not start, with what is known of it, if anything. It is
    /// never turned away: one that claims what is another's becomes a stray. Gives the UUID under which it is filed.
    pub fn adopt(&mut self, found: Found, live: Option<K::Live>) -> Uuid {
        if let Some(uuid) = self.runs.get(&found.run) {
            return *uuid;
        }
        let is_free = |uuid: &Uuid| self.get(uuid).is_none_or(|object| object.live.phase() == Phase::Off);
        let own = found.uuid.filter(is_free);
        let uuid = own.unwrap_or_else(|| self.stray_uuid(found.run));
        let name = match self.get(&uuid) {
            Some(object) => object.name.clone(),
            None => self.shown_name(&found, &uuid),
        };
        let nameless = found.name.is_none();
        let claim = Claim {
            uuid: found.uuid.filter(|claimed| *claimed != uuid),
            name: found.name.filter(|claimed| *claimed != name),
        };
        if claim != Claim::default() {
            self.claims.insert(found.run);
        }
        self.runs.insert(found.run, uuid);
        let object = self.insert(uuid, name);
        object.stray |= own.is_none();
        object.nameless = nameless;
        object.claim = Some(claim).filter(|claim| *claim != Claim::default());
        // It is off: that was looked for.
        object.live.adopt(found.run, live);
        uuid
    }

    /// A stray has said who it is: files it under that identity, if it is free now. Gives the UUID that it has then.
    pub fn identify(&mut self, run: Run, uuid: Uuid, name: &str) -> Result<Uuid, Refusal> {
        let object = self.object_of(run)?;
        let old = object.uuid;
        if !object.stray {
            // It was filed by its UUID; its own name may be another than that of the definition. A name that its record has
            // stands: the run could claim any other.
            if std::mem::take(&mut object.nameless) && object.name != name {
                object.claim.get_or_insert_default().name.get_or_insert_with(|| name.to_owned());
                self.claims.insert(run);
            }
            return Ok(old);
        }
        let Some(object) = self.objects.remove(&old) else { return Err(Refusal::NoRun(run)) };
        self.names.remove(&object.name);
        self.runs.remove(&run);
        self.claims.remove(&run);
        let new = self.adopt(Found { run, uuid: Some(uuid), name: Some(name.to_owned()) }, None);
        // The run goes on as it was.
        self.object_mut(&new)?.live = object.live;
        Ok(new)
    }

    /// How an object that is to be destroyed is ended.
    pub fn destroy(&self, uuid: &Uuid) -> Result<Destroy, Refusal> {
        let live: Option<&Live<K::Live>> = self.get(uuid).map(|object| &object.live);
        let cancel = live.and_then(Live::ticket).map(Destroy::Cancel);
        cancel.or_else(|| live.and_then(Live::run).map(Destroy::Kill)).ok_or(Refusal::NotRunning)
    }

    /// A UUID that nothing else has.
    fn stray_uuid(&self, run: Run) -> Uuid {
        let mut number = STRAY | u128::from(run.0);
        while self.objects.contains_key(&Uuid::from_u128(number)) {
            // Somebody has given this UUID to a document.
            number += 1 << 32;
        }
        Uuid::from_u128(number)
    }

    /// The name for a run that is found: its own if that is free.
    fn shown_name(&self, found: &Found, uuid: &Uuid) -> String {
        let claimed = found.name.as_deref().filter(|name| !name.is_empty());
        if let Some(name) = claimed.filter(|name| self.check_identity(name, uuid).is_ok()) {
            return name.to_owned();
        }
        let mut name = claimed.map_or_else(|| format!("run{}", found.run), |name| format!("{name}.run{}", found.run));
        while self.names.contains_key(&name) || self.reservations.owner(&name).is_some() {
            // Writing to a string cannot fail.
            let _ = write!(name, ".run{}", found.run);
        }
        name
    }
}

/// What an undefine may remove besides the definition, and what it may leave without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removing {
    /// The saved image goes too.
    pub managed_save: bool,
    /// What is known of snapshots goes too.
    pub snapshots: bool,
    /// What is known of checkpoints goes too.
    pub checkpoints: bool,
}

/// What an object has besides its definition.
fn kept<K: Kind>(object: &Object<K>) -> impl Iterator<Item = Kept> + use<K> {
    let save = object.managed_save.then_some(Kept::ManagedSave);
    let snapshots = Some(object.snapshots).filter(|count| *count > 0).map(Kept::Snapshots);
    let checkpoints = Some(object.checkpoints).filter(|count| *count > 0).map(Kept::Checkpoints);
    save.into_iter().chain(snapshots).chain(checkpoints)
}

fn event_of<K: Kind>(object: &Object<K>, event: LifecycleEvent, detail: impl Into<i32>) -> Event {
    Event { uuid: object.uuid, name: object.name.clone(), run: object.run(), event, detail: detail.into() }
}
