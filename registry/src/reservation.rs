//! Identities that are spoken for while something slow is done about them.

use std::{collections::HashMap, fmt};

use uuid::Uuid;

/// Stands for something that was begun. It is used up by its `commit_…` or by `cancel`, and refused after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What is reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// A definition is being written.
    Define {
        /// Of this object.
        uuid: Uuid,
        /// Which has, or is to have, this name.
        name: String,
    },
    /// A definition is being removed.
    Undefine {
        /// Of this object.
        uuid: Uuid,
    },
    /// An object is being renamed.
    Rename {
        /// This one.
        uuid: Uuid,
        /// To this.
        new: String,
    },
    /// A run is being made.
    Start {
        /// Of this object.
        uuid: Uuid,
    },
}

impl Reserved {
    /// The object that it is about.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        match self {
            Reserved::Define { uuid, .. }
            | Reserved::Undefine { uuid }
            | Reserved::Rename { uuid, .. }
            | Reserved::Start { uuid } => *uuid,
        }
    }

    /// The name that it keeps for itself besides the object's own.
    fn name(&self) -> Option<&str> {
        match self {
            Reserved::Define { name, .. } | Reserved::Rename { new: name, .. } => Some(name),
            Reserved::Undefine { .. } | Reserved::Start { .. } => None,
        }
    }
}

/// All reservations, by ticket, by name and by UUID.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    last: u64,
    by_ticket: HashMap<Ticket, Reserved>,
    by_name: HashMap<String, Vec<Ticket>>,
    by_uuid: HashMap<Uuid, Vec<Ticket>>,
}

impl Reservations {
    pub(crate) fn add(&mut self, reserved: Reserved) -> Ticket {
        self.last = self.last.saturating_add(1);
        let ticket = Ticket(self.last);
        if let Some(name) = reserved.name() {
            self.by_name.entry(name.to_owned()).or_default().push(ticket);
        }
        self.by_uuid.entry(reserved.uuid()).or_default().push(ticket);
        self.by_ticket.insert(ticket, reserved);
        ticket
    }

    pub(crate) fn get(&self, ticket: Ticket) -> Option<&Reserved> {
        self.by_ticket.get(&ticket)
    }

    pub(crate) fn take(&mut self, ticket: Ticket) -> Option<Reserved> {
        let reserved = self.by_ticket.remove(&ticket)?;
        if let Some(name) = reserved.name() {
            remove(&mut self.by_name, name, ticket);
        }
        remove(&mut self.by_uuid, &reserved.uuid(), ticket);
        Some(reserved)
    }

    /// The object for which a name is reserved.
    pub(crate) fn owner(&self, name: &str) -> Option<Uuid> {
        let ticket = self.by_name.get(name)?.first()?;
        self.by_ticket.get(ticket).map(Reserved::uuid)
    }

    /// The name under which an object that is not there yet is being defined.
    pub(crate) fn name_of(&self, uuid: &Uuid) -> Option<&str> {
        self.of(uuid).find_map(|reserved| match reserved {
            Reserved::Define { name, .. } => Some(name.as_str()),
            _ => None,
        })
    }

    /// What is under way about an object.
    pub(crate) fn of(&self, uuid: &Uuid) -> impl Iterator<Item = &Reserved> {
        self.by_uuid.get(uuid).into_iter().flatten().filter_map(|ticket| self.by_ticket.get(ticket))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ticket, &Reserved)> {
        self.by_ticket.iter().map(|(ticket, reserved)| (*ticket, reserved))
    }
}

fn remove<Q, K>(index: &mut HashMap<K, Vec<Ticket>>, key: &Q, ticket: Ticket)
where
    K: std::hash::Hash + Eq + std::borrow::Borrow<Q>,
    Q: std::hash::Hash + Eq + ?Sized,
{
    if let Some(tickets) = index.get_mut(key) {
        tickets.retain(|other| *other != ticket);
        if tickets.is_empty() {
            index.remove(key);
        }
    }
}
