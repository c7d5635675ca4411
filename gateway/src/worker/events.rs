//! What a client has registered for, and what it gets when something happens.
//!
//! The driver is asked once, for events by sequence number ([`bulkhead::EventsSubscribeArgs`]); who wants which of them, in
//! the new style or the old, is known here only. So a driver that was lost is asked for what came after the last one, and
//! the client notices nothing.

use std::collections::BTreeSet;

use api::{
    Error, ErrorCode, ErrorDomain, Event, EventId, Family, Op, Uuid, bulkhead, consts::DomainEventId, notice::Notice,
    remote,
};

/// Registrations that one client may have.
const MOST: usize = 1024;
/// libvirt's daemons' first number for a client is seldom 0, and so is ours.
const FIRST: i32 = 1;

/// What a registration can be limited to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A domain, network, storage pool or secret.
    Uuid(Uuid),
    /// A node device.
    Name(String),
}

/// One registration of the new style.
#[derive(Debug)]
struct Registration {
    id: i32,
    family: Family,
    event: i32,
    /// Only of this one.
    object: Option<Object>,
}

/// All of a client's.
#[derive(Debug)]
pub struct Registrations {
    new_style: Vec<Registration>,
    /// Event numbers registered the old way.
    old_style: BTreeSet<i32>,
    next: i32,
}

fn internal(text: &str) -> Error {
    Error::new(ErrorCode::INTERNAL_ERROR, ErrorDomain::RPC, format!("internal error: {text}"))
}

/// As libvirt's daemon calls a family in its texts about events.
fn noun(family: Family) -> &'static str {
    match family {
        Family::Network => "network",
        Family::StoragePool => "storage pool",
        Family::NodeDevice => "node device",
        Family::Secret => "secret",
        _ => "domain",
    }
}

fn check(family: Family, event: i32, old_style: bool) -> Result<(), Error> {
    let wanted = EventId { family, id: event, legacy: old_style };
    if Op::ALL.iter().any(|op| op.info().event == Some(wanted)) {
        return Ok(());
    }
    Err(internal(&match family {
        Family::Domain => format!("unsupported event ID {event}"),
        other => format!("unsupported {} event ID {event}", noun(other)),
    }))
}

impl Registrations {
    /// None.
    #[must_use]
    pub fn new() -> Registrations {
        Registrations { new_style: Vec::new(), old_style: BTreeSet::new(), next: FIRST }
    }

    /// Has the client registered for anything?
    #[must_use]
    pub fn any(&self) -> bool {
        !self.new_style.is_empty() || !self.old_style.is_empty()
    }

    /// Registers the new way, and returns the number that comes with every event.
    ///
    /// # Errors
    /// When there is no such event, or the client has too many registrations.
    pub fn register(&mut self, family: Family, event: i32, object: Option<Object>) -> Result<i32, Error> {
        check(family, event, false)?;
        if self.new_style.len() >= MOST {
            return Err(internal(&format!("a connection may register for {MOST} events at most")));
        }
        let id = self.next;
        self.next = self.next.checked_add(1).unwrap_or(FIRST);
        self.new_style.push(Registration { id, family, event, object });
        Ok(id)
    }

    /// Takes a registration back.
    ///
    /// # Errors
    /// When the family has no registration of this number.
    pub fn deregister(&mut self, family: Family, id: i32) -> Result<(), Error> {
        let before = self.new_style.len();
        self.new_style.retain(|registration| (registration.family, registration.id) != (family, id));
        if self.new_style.len() < before {
            Ok(())
        } else {
            Err(internal(&format!("{} event callback {id} not registered", noun(family))))
        }
    }

    /// Registers the old way.
    ///
    /// # Errors
    /// When there is no such event, or the client has it already.
    pub fn register_old(&mut self, event: i32) -> Result<(), Error> {
        check(Family::Domain, event, true)?;
        if self.old_style.insert(event) {
            Ok(())
        } else {
            Err(internal(&format!("domain event {event} already registered")))
        }
    }

    /// Takes a registration of the old style back.
    ///
    /// # Errors
    /// When there is none.
    pub fn deregister_old(&mut self, event: i32) -> Result<(), Error> {
        check(Family::Domain, event, true)?;
        if self.old_style.remove(&event) {
            Ok(())
        } else {
            Err(internal(&format!("domain event {event} not registered")))
        }
    }

    /// The messages that a client gets when this has happened. Nothing comes of what is no numbered event, nor of a notice
    /// of a kind that libvirt's protocol has no message for.
    pub fn messages(&self, happened: &Event) -> Vec<Event> {
        match happened {
            Event::BulkheadDomainEvent(happened) => self.told(
                happened.dom.uuid,
                |event| (event == DomainEventId::Lifecycle as i32).then(|| old_lifecycle(happened)),
                |event, id| (event == DomainEventId::Lifecycle as i32).then(|| lifecycle(happened, id)),
            ),
            Event::BulkheadDomainNotice(happened) => match Notice::of(happened) {
                Some(notice) => self.told(
                    happened.dom.uuid,
                    |event| notice.old_event(&happened.dom, event),
                    |event, id| notice.event(&happened.dom, event, id),
                ),
                None => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// What each registration makes of something that happened to a guest: those of the old style first.
    fn told(
        &self,
        uuid: Uuid,
        old: impl Fn(i32) -> Option<Event>,
        new: impl Fn(i32, i32) -> Option<Event>,
    ) -> Vec<Event> {
        let old = self.old_style.iter().filter_map(|event| old(*event));
        let of_this = |object: &Option<Object>| object.as_ref().is_none_or(|object| *object == Object::Uuid(uuid));
        let wanted = self.new_style.iter().filter(|registration| registration.family == Family::Domain);
        let wanted = wanted.filter(|registration| of_this(&registration.object));
        old.chain(wanted.filter_map(|registration| new(registration.event, registration.id))).collect()
    }
}

/// The number of a numbered event.
#[must_use]
pub fn sequence_of(event: &Event) -> Option<u64> {
    match event {
        Event::BulkheadDomainEvent(happened) => Some(happened.sequence),
        Event::BulkheadDomainNotice(happened) => Some(happened.sequence),
        _ => None,
    }
}

fn lifecycle_of(happened: &bulkhead::DomainEventMsg) -> remote::DomainEventLifecycleMsg {
    remote::DomainEventLifecycleMsg { dom: happened.dom.clone(), event: happened.event, detail: happened.detail }
}

fn old_lifecycle(happened: &bulkhead::DomainEventMsg) -> Event {
    Event::DomainEventLifecycle(lifecycle_of(happened))
}

fn lifecycle(happened: &bulkhead::DomainEventMsg, callback_id: i32) -> Event {
    let msg = lifecycle_of(happened);
    Event::DomainEventCallbackLifecycle(remote::DomainEventCallbackLifecycleMsg { callback_id, msg })
}

/// What the number of an event says to one reader of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// The reader has had this event.
    Repeated,
    /// The event is new.
    New,
    /// The event is new, and events before it are missing.
    AfterGap,
}

/// How far the flow of numbered events has come, for one who reads it.
///
/// A lower number is no new log here: a replay for one reader of a session passes the other readers too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    last: Option<u64>,
    /// The first number that was unused at the last subscription. The subscription's answer reports what is missing before
    /// it.
    live_from: u64,
}

impl Cursor {
    /// Behind this event; behind the newest one if none is given.
    #[must_use]
    pub fn since(last: Option<u64>) -> Cursor {
        Cursor { last, live_from: 0 }
    }

    /// The number of the last event that has passed.
    #[must_use]
    pub fn last(self) -> Option<u64> {
        self.last
    }

    /// Lets an event pass.
    pub fn pass(&mut self, sequence: u64) -> Passage {
        let passage = match self.last {
            Some(last) if sequence <= last => return Passage::Repeated,
            // A daemon skips a number only to report that events are missing.
            Some(last) if sequence > last.saturating_add(1).max(self.live_from) => Passage::AfterGap,
            _ => Passage::New,
        };
        self.last = Some(sequence);
        passage
    }

    /// Takes the answer to a subscription. True when events were missed: they are gone, or the log is another one.
    pub fn subscribed(&mut self, answer: &bulkhead::EventsSubscribeRet) -> bool {
        let newest = answer.next.saturating_sub(1);
        let restarted = self.last.is_some_and(|last| newest < last);
        if self.last.is_none() || restarted {
            self.last = Some(newest);
        }
        self.live_from = answer.next;
        answer.lost || restarted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dom(guest: u8) -> remote::Domain {
        remote::Domain { name: "g".into(), uuid: [guest; 16], id: 3 }
    }

    fn happened(sequence: u64, guest: u8) -> Event {
        let dom = dom(guest);
        Event::BulkheadDomainEvent(bulkhead::DomainEventMsg { sequence, dom, event: 2, ..Default::default() })
    }

    fn noticed(guest: u8, kind: i32) -> Event {
        Event::BulkheadDomainNotice(bulkhead::DomainNoticeMsg { dom: dom(guest), kind, ..Default::default() })
    }

    fn ids(registrations: &Registrations, guest: u8) -> Vec<i32> {
        let id = |event| match event {
            Event::DomainEventCallbackLifecycle(msg) => msg.callback_id,
            Event::DomainEventLifecycle(_) => -1,
            other => panic!("{other:?}"),
        };
        registrations.messages(&happened(1, guest)).into_iter().map(id).collect()
    }

    #[test]
    fn each_registration_gets_its_own_message_and_only_what_it_asked_for() {
        let mut registrations = Registrations::new();
        let all = registrations.register(Family::Domain, 0, None).unwrap();
        let one = registrations.register(Family::Domain, 0, Some(Object::Uuid([1; 16]))).unwrap();
        registrations.register(Family::Domain, 1, None).unwrap();
        assert_eq!(ids(&registrations, 1), [all, one]);
        assert_eq!(ids(&registrations, 2), [all]);
        registrations.deregister(Family::Domain, all).unwrap();
        assert!(ids(&registrations, 2).is_empty());
        assert!(registrations.deregister(Family::Domain, all).unwrap_err().message.contains("not registered"));
        assert!(registrations.any());
    }

    #[test]
    fn the_old_style_has_no_number_and_only_the_old_events() {
        let mut registrations = Registrations::new();
        registrations.register_old(0).unwrap();
        assert_eq!(ids(&registrations, 1), [-1]);
        assert!(registrations.register_old(0).is_err());
        assert!(registrations.register_old(16).unwrap_err().message.contains("unsupported event ID 16"));
        registrations.register(Family::Domain, 16, None).unwrap();
        registrations.deregister_old(0).unwrap();
        assert!(registrations.deregister_old(0).is_err());
    }

    #[test]
    fn a_notice_goes_to_its_own_kind_in_each_style() {
        let mut registrations = Registrations::new();
        let reboot = registrations.register(Family::Domain, 1, None).unwrap();
        let one = registrations.register(Family::Domain, 1, Some(Object::Uuid([1; 16]))).unwrap();
        let reason = registrations.register(Family::Domain, 6, None).unwrap();
        registrations.register(Family::Domain, 0, None).unwrap();
        registrations.register_old(4).unwrap();
        registrations.register_old(1).unwrap();
        let told = |guest, kind| {
            let id = |event| match event {
                Event::DomainEventReboot(msg) if msg.dom == dom(guest) => -1,
                Event::DomainEventIoError(_) => -4,
                Event::DomainEventCallbackReboot(msg) if msg.msg.dom == dom(guest) => msg.callback_id,
                Event::DomainEventCallbackIoErrorReason(msg) => msg.callback_id,
                other => panic!("{other:?}"),
            };
            registrations.messages(&noticed(guest, kind)).into_iter().map(id).collect::<Vec<_>>()
        };
        assert_eq!(told(1, 1), [-1, reboot, one]);
        assert_eq!(told(2, 1), [-1, reboot]);
        assert_eq!(told(1, 4), [-4, reason], "a disk's failure is two kinds of libvirt's");
        for unheard in [2, 0, 6, 99, -1] {
            assert!(told(1, unheard).is_empty());
        }
        assert!(registrations.messages(&happened(1, 1)).len() == 1, "and lives go on as before");
    }

    #[test]
    fn every_event_of_the_table_can_be_registered_for_and_no_other() {
        let mut registrations = Registrations::new();
        for event in 0..28 {
            registrations.register(Family::Domain, event, None).unwrap();
        }
        for event in [-1, 1000, i32::MAX] {
            assert!(registrations.register(Family::Domain, event, None).is_err());
        }
    }

    #[test]
    fn other_families_have_their_own_events_and_hear_nothing_of_domains() {
        let mut registrations = Registrations::new();
        for family in [Family::Network, Family::StoragePool, Family::NodeDevice, Family::Secret] {
            let id = registrations.register(family, 0, None).unwrap();
            registrations.register(family, 1, Some(Object::Uuid([1; 16]))).unwrap();
            assert!(registrations.register(family, 2, None).unwrap_err().message.contains("unsupported"));
            assert!(registrations.deregister(Family::Domain, id).is_err(), "the number is another family's");
            registrations.deregister(family, id).unwrap();
        }
        assert!(ids(&registrations, 1).is_empty());
        assert!(registrations.any());
    }

    fn subscribed(next: u64, lost: bool) -> bulkhead::EventsSubscribeRet {
        bulkhead::EventsSubscribeRet { next, lost }
    }

    #[test]
    fn an_event_passes_once_and_a_new_log_begins_anew() {
        let mut cursor = Cursor::default();
        assert!(!cursor.subscribed(&subscribed(8, false)));
        assert_eq!(cursor.pass(7), Passage::Repeated, "it was there before the subscription");
        assert_eq!(cursor.pass(8), Passage::New);
        assert_eq!(cursor.pass(8), Passage::Repeated);
        assert!(!cursor.subscribed(&subscribed(12, false)));
        assert_eq!(cursor.last(), Some(8), "what comes next is what was missed");
        assert!(cursor.subscribed(&subscribed(20, true)));
        assert!(cursor.subscribed(&subscribed(3, false)), "a log that ends before what was seen is another one");
        assert_eq!(cursor.pass(3), Passage::New);
    }

    #[test]
    fn a_hole_is_a_gap_unless_the_subscription_has_answered_for_it() {
        let mut cursor = Cursor::since(Some(3));
        assert!(!cursor.subscribed(&subscribed(10, false)));
        // The replay: the answer said that nothing is lost.
        for sequence in [5, 8, 10] {
            assert_eq!(cursor.pass(sequence), Passage::New, "{sequence}");
        }
        assert_eq!(cursor.pass(12), Passage::AfterGap);
        assert_eq!(cursor.pass(13), Passage::New, "a gap is reported once");
        // The replay for another reader.
        for sequence in [4, 9, 13] {
            assert_eq!(cursor.pass(sequence), Passage::Repeated, "{sequence}");
        }
        assert_eq!(cursor.pass(14), Passage::New);
        // The first live event is missing.
        assert!(!cursor.subscribed(&subscribed(20, false)));
        assert_eq!(cursor.pass(21), Passage::AfterGap);
    }
}
