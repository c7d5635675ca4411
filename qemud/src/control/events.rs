//! Events to clients: by sequence number on our own program, by callback on libvirt's.

use std::collections::HashMap;

use api::{
    Event, Reply, bulkhead,
    consts::{DomainEventId, LifecycleEvent, ShutoffReason, StoppedDetail},
    remote,
};
use ipc::{Kind, codec, server::PeerKey};
use uuid::Uuid;

use super::{
    Control,
    driver::Asked,
    journal::{Entry, Journal},
};

/// Callbacks that one connection may register.
const MAX_CALLBACKS: usize = 256;

/// Who wants to hear of events.
#[derive(Default)]
pub struct Subscribers {
    by_sequence: Vec<PeerKey>,
    callbacks: HashMap<PeerKey, Vec<Callback>>,
    next_callback: i32,
}

struct Callback {
    id: i32,
    /// libvirt's number of the kind of event.
    event: i32,
    /// Only events of this guest.
    guest: Option<Uuid>,
}

impl Subscribers {
    /// The connection is over.
    pub fn forget(&mut self, key: PeerKey) {
        self.unsubscribe(key);
        self.callbacks.remove(&key);
    }

    /// Sends events by sequence number from now on.
    pub fn subscribe(&mut self, key: PeerKey) {
        if !self.by_sequence.contains(&key) {
            self.by_sequence.push(key);
        }
    }

    /// Sends them no longer.
    pub fn unsubscribe(&mut self, key: PeerKey) {
        self.by_sequence.retain(|other| *other != key);
    }

    /// Registers a libvirt-style callback; none when the connection has too many.
    pub fn register(&mut self, key: PeerKey, event: i32, guest: Option<Uuid>) -> Option<i32> {
        let callbacks = self.callbacks.entry(key).or_default();
        if callbacks.len() >= MAX_CALLBACKS {
            return None;
        }
        let id = self.next_callback;
        self.next_callback = self.next_callback.wrapping_add(1).max(0);
        callbacks.push(Callback { id, event, guest });
        Some(id)
    }

    /// Forgets a callback; false when the connection has none of this number.
    pub fn deregister(&mut self, key: PeerKey, id: i32) -> bool {
        let Some(callbacks) = self.callbacks.get_mut(&key) else { return false };
        let before = callbacks.len();
        callbacks.retain(|callback| callback.id != id);
        callbacks.len() < before
    }
}

impl Control {
    /// Writes an event down and tells everybody who wants to hear of it.
    pub(super) fn publish(&mut self, entry: Entry) {
        let entry = self.journal.add(entry);
        let by_sequence = numbered(&entry);
        for key in self.subscribers.by_sequence.clone() {
            self.send_event(key, &by_sequence);
        }
        let mut calls = Vec::new();
        for (key, callbacks) in &self.subscribers.callbacks {
            // Nothing else than the life cycle is told yet.
            let lifecycle_only = callbacks.iter().filter(|callback| callback.event == DomainEventId::Lifecycle as i32);
            let wanted = lifecycle_only.filter(|callback| callback.guest.is_none_or(|guest| guest == entry.uuid));
            calls.extend(wanted.map(|callback| (*key, lifecycle(&entry, callback.id))));
        }
        for (key, event) in calls {
            self.send_event(key, &event);
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
        });
    }

    /// Starts the flow of numbered events to a connection: the answer first, then those that it missed, then new ones.
    pub(super) fn subscribe(&mut self, cx: &Asked, since: Option<u64>) {
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
        self.subscribers.subscribe(cx.key);
    }

    fn send_event(&mut self, key: PeerKey, event: &Event) {
        if let Err(error) = self.send(key, Kind::Event, 0, Vec::new(), |out| codec::encode_event(event, out)) {
            log::error!("an event cannot be sent: {error}");
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
    Event::BulkheadDomainEvent(bulkhead::DomainEventMsg {
        sequence: entry.sequence,
        dom: handle(entry),
        event: entry.event,
        detail: entry.detail,
        seconds: entry.seconds,
        nanos: entry.nanos,
        text: entry.text.clone(),
    })
}

fn lifecycle(entry: &Entry, callback_id: i32) -> Event {
    let msg = remote::DomainEventLifecycleMsg { dom: handle(entry), event: entry.event, detail: entry.detail };
    Event::DomainEventCallbackLifecycle(remote::DomainEventCallbackLifecycleMsg { callback_id, msg })
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
