//! Events to clients: by sequence number on our own program, by callback on libvirt's.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use api::{
    Error, Event, Reply, bulkhead,
    consts::{DomainEventId, LifecycleEvent, ShutoffReason, StoppedDetail},
    notice::{Notice, Parts},
    remote,
};
use ipc::{
    Kind,
    budget::{Charge, Resource},
    codec,
    server::PeerKey,
};
use uuid::Uuid;

use super::{
    Control,
    driver::Asked,
    errors,
    store::{
        self,
        journal::{Entry, Journal, NO_LIFECYCLE},
    },
};

/// How long an event waits for its line in the journal before it is sent without.
const UNWRITTEN: Duration = Duration::from_secs(1);
/// After how long the journal is tried again when a disk does not take it.
const RETRY: Duration = Duration::from_secs(5);
/// So many lines may be on their way to a disk that does not answer.
const QUEUED_LINES: usize = 16_384;

/// How events are on their way through the journal to the clients.
#[derive(Default)]
pub struct Telling {
    /// When numbered events are sent although no disk has taken them.
    late: Option<(Instant, u64)>,
    /// Lines that the store's thread has not answered for.
    queued: usize,
    /// The journal will be tried again.
    retrying: bool,
    /// It is being written anew.
    compacting: bool,
}

/// Callbacks that one connection may register.
const MAX_CALLBACKS: usize = 256;

/// libvirt's numbers of kinds of events are below this.
const KINDS: i32 = 64;

/// Subscriptions and callbacks of connections, listed so that an event finds its own without a look at the others.
#[derive(Default)]
pub struct Subscribers {
    by_sequence: HashMap<PeerKey, Charge>,
    /// By libvirt's number of the kind of event, and by guest for callbacks of one guest.
    by_kind: HashMap<(i32, Option<Uuid>), Vec<Listed>>,
    callbacks: HashMap<PeerKey, Vec<Callback>>,
    next_callback: i32,
}

/// A connection and the number of its callback.
type Listed = (PeerKey, i32);

struct Callback {
    id: i32,
    /// libvirt's number of the kind of event.
    event: i32,
    /// Only events of this guest.
    guest: Option<Uuid>,
    /// Its part of its user's budget.
    _charge: Charge,
}

impl Subscribers {
    /// The connection is over.
    pub fn forget(&mut self, key: PeerKey) {
        self.unsubscribe(key);
        for callback in self.callbacks.remove(&key).unwrap_or_default() {
            self.unlist(key, &callback);
        }
    }

    /// Sends events by sequence number from now on.
    pub fn subscribe(&mut self, key: PeerKey, charge: Charge) {
        self.by_sequence.entry(key).or_insert(charge);
    }

    /// Sends them no longer.
    pub fn unsubscribe(&mut self, key: PeerKey) {
        self.by_sequence.remove(&key);
    }

    /// Registers a libvirt-style callback; none when the connection has too many.
    pub fn register(&mut self, key: PeerKey, event: i32, guest: Option<Uuid>, charge: Charge) -> Option<i32> {
        let callbacks = self.callbacks.entry(key).or_default();
        if callbacks.len() >= MAX_CALLBACKS {
            return None;
        }
        let id = self.next_callback;
        self.next_callback = self.next_callback.wrapping_add(1).max(0);
        callbacks.push(Callback { id, event, guest, _charge: charge });
        self.by_kind.entry((event, guest)).or_default().push((key, id));
        Some(id)
    }

    /// Forgets a callback; false when the connection has none of this number.
    pub fn deregister(&mut self, key: PeerKey, id: i32) -> bool {
        let Some(callbacks) = self.callbacks.get_mut(&key) else { return false };
        let Some(at) = callbacks.iter().position(|callback| callback.id == id) else { return false };
        let callback = callbacks.swap_remove(at);
        self.unlist(key, &callback);
        true
    }

    fn unlist(&mut self, key: PeerKey, callback: &Callback) {
        let kind = (callback.event, callback.guest);
        let Some(listed) = self.by_kind.get_mut(&kind) else { return };
        listed.retain(|other| *other != (key, callback.id));
        if listed.is_empty() {
            self.by_kind.remove(&kind);
        }
    }

    /// The callbacks that an event of this kind and guest goes to.
    fn wanting(&self, event: i32, guest: Uuid) -> impl Iterator<Item = (PeerKey, i32)> {
        let listed = [None, Some(guest)].into_iter().filter_map(move |guest| self.by_kind.get(&(event, guest)));
        listed.flatten().copied()
    }
}

impl Control {
    /// Gives an event its line in the journal, and sends it to its subscribers when the line is written.
    pub(super) fn publish(&mut self, entry: Entry) {
        let sequence = self.journal.number(entry);
        self.write_line(sequence);
        if self.telling.late.is_none() {
            let late = |control: &mut Control, ()| {
                control.telling.late = None;
                if let Some(last) = control.journal.last_numbered() {
                    control.note.told_unwritten(last.sequence);
                }
                control.tell(u64::MAX);
            };
            self.telling.late = Some(self.after(UNWRITTEN, Box::new(late)));
        }
    }

    /// Something has happened that no event tells of: a number is left free for it, by which every client learns that, now or
    /// when it comes back. No line says so, so the number is noted for the next control.
    pub(super) fn leave_gap(&mut self) {
        let gap = self.journal.leave_gap();
        self.note.told_unwritten(gap);
    }

    fn write_line(&mut self, sequence: u64) {
        let line = self.journal.last_numbered().map(serde_json::to_vec);
        let Some(Ok(line)) = line.filter(|_| self.telling.queued < QUEUED_LINES) else { return };
        self.telling.queued += 1;
        self.hand(
            store::of_lines,
            move |lines| lines.append(line),
            move |control, condition| {
                control.telling.queued = control.telling.queued.saturating_sub(1);
                if condition.failing {
                    control.note.told_unwritten(sequence);
                }
                control.look_after_journal(condition);
                control.tell(sequence);
            },
        );
    }

    /// Has the journal's file tried again or written anew when it needs that.
    fn look_after_journal(&mut self, condition: store::Condition) {
        if condition.failing && !std::mem::replace(&mut self.telling.retrying, true) {
            let retry = |control: &mut Control, ()| {
                control.hand(store::of_lines, store::Lines::retry, |control, condition| {
                    control.telling.retrying = false;
                    control.look_after_journal(condition);
                });
            };
            self.after(RETRY, Box::new(retry));
        }
        if condition.long && !std::mem::replace(&mut self.telling.compacting, true) {
            let kept = self.journal.kept();
            let compact = move |lines: &mut store::Lines| lines.compact(&kept);
            self.hand(store::of_lines, compact, |control, result| {
                control.telling.compacting = false;
                if let Err(error) = result {
                    tracing::warn!("the journal cannot be written anew, and grows: {error}");
                }
            });
        }
    }

    /// Sends the events up to this number that have not been sent.
    fn tell(&mut self, up_to: u64) {
        while let Some(entry) = self.journal.told(up_to) {
            self.tell_one(&entry);
        }
        if self.journal.last_numbered().is_none()
            && let Some(timer) = self.telling.late.take()
        {
            self.cancel(timer);
        }
    }

    fn tell_one(&mut self, entry: &Entry) {
        if !self.subscribers.by_sequence.is_empty() {
            let keys: Vec<PeerKey> = self.subscribers.by_sequence.keys().copied().collect();
            // Encoded once for all of them.
            let mut body = Vec::new();
            match codec::encode_event(&numbered(entry), &mut body) {
                Ok(()) => keys.into_iter().for_each(|key| self.send_body(key, &body)),
                Err(error) => tracing::error!("an event cannot be sent: {error}"),
            }
        }
        let lifecycle = DomainEventId::Lifecycle as i32;
        let kinds = if entry.notice.is_some() { 0..KINDS } else { lifecycle..lifecycle + 1 };
        for event in kinds {
            let wanting: Vec<(PeerKey, i32)> = self.subscribers.wanting(event, entry.uuid).collect();
            for (key, id) in wanting {
                // Not every notice has an event of every kind.
                let Some(event) = called_back(entry, event, id) else { break };
                self.send_event(key, &event);
            }
        }
    }

    /// One registration of a connection, out of its user's budget.
    pub(super) fn registration(&self, key: PeerKey) -> Result<Charge, Error> {
        let gone = || errors::invalid("the connection is over");
        let budget = self.server.budget(key).ok_or_else(gone)?;
        budget.take(Resource::Subscriptions, 1).map_err(|over| errors::invalid(over.to_string()))
    }

    fn send_body(&mut self, key: PeerKey, body: &[u8]) {
        let copy = |out: &mut Vec<u8>| {
            out.extend_from_slice(body);
            Ok(())
        };
        if let Err(error) = self.send(key, Kind::Event, 0, Vec::new(), copy) {
            tracing::error!("an event cannot be sent: {error}");
        }
    }

    /// An event that is control's own: a definition came, changed or went.
    pub(super) fn publish_definition(&mut self, uuid: Uuid, name: &str, event: LifecycleEvent, detail: i32) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.publish(Entry {
            sequence: 0,
            uuid,
            name: name.into(),
            id: None,
            run_sequence: None,
            event: event as i32,
            detail,
            seconds: i64::try_from(now.as_secs()).unwrap_or_default(),
            nanos: now.subsec_nanos(),
            text: None,
            notice: None,
        });
    }

    /// A notice that is control's own.
    pub(super) fn publish_notice(&mut self, uuid: Uuid, notice: Notice) {
        let run = self.active(&uuid).map(|guest| (guest.id, guest.name.clone()));
        let defined = || self.defined(&uuid).map(|summary| summary.name.clone());
        let (id, name) = match run {
            Some((id, name)) => (Some(id), name),
            None => (None, defined().unwrap_or_default()),
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.publish(Entry {
            sequence: 0,
            uuid,
            name,
            id,
            run_sequence: None,
            event: NO_LIFECYCLE,
            detail: 0,
            seconds: i64::try_from(now.as_secs()).unwrap_or_default(),
            nanos: now.subsec_nanos(),
            text: None,
            notice: Some(notice.into_parts()),
        });
    }

    /// Starts the flow of numbered events to a connection: the answer first, then those that it missed, then new ones.
    pub(super) fn subscribe(&mut self, cx: &Asked, since: Option<u64>) {
        let charge = match self.registration(cx.key) {
            Ok(charge) => charge,
            Err(error) => return self.answer(cx, Err(error)),
        };
        let (lost, missed) = match since {
            Some(since) => {
                let (lost, missed) = self.journal.after(since);
                (lost, missed.map(numbered).collect())
            }
            None => (false, Vec::new()),
        };
        let ret = bulkhead::EventsSubscribeRet { next: self.journal.next_sequence(), lost };
        self.answer(cx, Ok((Reply::BulkheadEventsSubscribe(ret), Vec::new())));
        for event in missed {
            self.send_event(cx.key, &event);
        }
        self.subscribers.subscribe(cx.key, charge);
    }

    fn send_event(&mut self, key: PeerKey, event: &Event) {
        if let Err(error) = self.send(key, Kind::Event, 0, Vec::new(), |out| codec::encode_event(event, out)) {
            tracing::error!("an event cannot be sent: {error}");
        }
    }
}

fn handle(entry: &Entry) -> remote::Domain {
    // libvirt's clients expect -1 in a handle once the guest has stopped.
    let over = entry.event == LifecycleEvent::Stopped as i32;
    let id = entry.id.filter(|_| !over).and_then(|id| i32::try_from(id).ok()).unwrap_or(-1);
    remote::Domain { name: entry.name.clone(), uuid: entry.uuid.into_bytes(), id }
}

fn numbered(entry: &Entry) -> Event {
    let (sequence, dom, seconds, nanos) = (entry.sequence, handle(entry), entry.seconds, entry.nanos);
    match entry.notice.clone() {
        Some(Parts { kind, number, texts }) => Event::BulkheadDomainNotice(bulkhead::DomainNoticeMsg {
            sequence,
            dom,
            kind,
            number,
            texts,
            seconds,
            nanos,
        }),
        None => Event::BulkheadDomainEvent(bulkhead::DomainEventMsg {
            sequence,
            dom,
            event: entry.event,
            detail: entry.detail,
            seconds,
            nanos,
            text: entry.text.clone(),
        }),
    }
}

/// What a callback is told of this, if it wants to hear of it.
fn called_back(entry: &Entry, event: i32, callback_id: i32) -> Option<Event> {
    if let Some(parts) = entry.notice.clone() {
        return Notice::from_parts(parts)?.event(&handle(entry), event, callback_id);
    }
    let lifecycle = event == DomainEventId::Lifecycle as i32;
    lifecycle.then(|| {
        let msg = remote::DomainEventLifecycleMsg { dom: handle(entry), event: entry.event, detail: entry.detail };
        Event::DomainEventCallbackLifecycle(remote::DomainEventCallbackLifecycleMsg { callback_id, msg })
    })
}

/// Why each guest that is off stopped, as far as the journal tells.
pub fn last_stops(journal: &Journal) -> HashMap<Uuid, i32> {
    let (_, entries) = journal.after(0);
    let stops = entries.filter(|entry| entry.event == LifecycleEvent::Stopped as i32);
    stops.map(|entry| (entry.uuid, shutoff_reason(entry.detail) as i32)).collect()
}

fn shutoff_reason(detail: i32) -> ShutoffReason {
    match StoppedDetail::try_from(detail) {
        Ok(StoppedDetail::Shutdown) => ShutoffReason::Shutdown,
        Ok(StoppedDetail::Destroyed) => ShutoffReason::Destroyed,
        Ok(StoppedDetail::Crashed) => ShutoffReason::Crashed,
        Ok(StoppedDetail::Migrated) => ShutoffReason::Migrated,
        Ok(StoppedDetail::Saved) => ShutoffReason::Saved,
        Ok(StoppedDetail::Failed) => ShutoffReason::Failed,
        Ok(StoppedDetail::FromSnapshot) => ShutoffReason::FromSnapshot,
        Err(_) => ShutoffReason::Unknown,
    }
}
