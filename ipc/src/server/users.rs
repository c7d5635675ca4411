//! The connections of one user: whose turn it is, and which wait for its budget.

use std::collections::{BTreeSet, VecDeque};

use super::Server;
use crate::budget::{Mark, Resource, UserBudget};

/// One user with connections.
pub struct User {
    pub budget: UserBudget,
    pub connections: usize,
    /// Connections that may have a call.
    pub ready: VecDeque<usize>,
    /// It is in the queue of those who have a turn.
    pub in_turns: bool,
    /// Calls of it are not taken because it does not read what it was sent.
    pub pressed: bool,
    /// Connections that wait for the budget.
    waiting: BTreeSet<usize>,
    /// The budget's mark when they began to.
    mark: Mark,
    /// They wait for what others hold.
    waits_for_all: bool,
    /// Connections with something unread.
    behind: BTreeSet<usize>,
}

impl User {
    /// A user without connections.
    pub fn new(budget: UserBudget) -> User {
        User {
            mark: budget.mark(),
            budget,
            connections: 0,
            ready: VecDeque::new(),
            in_turns: false,
            pressed: false,
            waiting: BTreeSet::new(),
            waits_for_all: false,
            behind: BTreeSet::new(),
        }
    }

    /// How much of what was sent on a connection is unread.
    pub fn note_backlog(&mut self, slot: usize, backlog: usize) {
        if backlog > 0 {
            self.behind.insert(slot);
        } else {
            self.behind.remove(&slot);
        }
    }

    /// One connection less; true if it was the last one.
    pub fn forget(&mut self, slot: usize) -> bool {
        self.connections = self.connections.saturating_sub(1);
        self.ready.retain(|other| *other != slot);
        self.waiting.remove(&slot);
        self.behind.remove(&slot);
        self.connections == 0
    }

    /// Whether something has been given back that its connections may have waited for.
    fn may_go_on(&self) -> bool {
        let mark = self.budget.mark();
        mark.own != self.mark.own || (self.waits_for_all && mark.all != self.mark.all)
    }
}

impl Server {
    /// A connection's user has used up its budget of a resource: it goes on when something has been given back.
    pub(super) fn wait(&mut self, slot: usize, resource: Resource) {
        let Some(Some(connection)) = self.connections.get(slot) else { return };
        let uid = connection.peer.uid;
        let Some(user) = self.users.get_mut(&uid) else { return };
        if user.waiting.is_empty() {
            user.mark = user.budget.mark();
            user.waits_for_all = false;
        }
        user.waits_for_all |= user.budget.held(resource) < user.budget.limit(resource);
        user.waiting.insert(slot);
        self.waiting.insert(uid);
        // Those of its connections that have something unread are on the clock from now on.
        if resource == Resource::Output && !std::mem::replace(&mut user.pressed, true) {
            for slot in user.behind.clone() {
                self.set_deadline(slot);
            }
        }
    }

    /// Lets those go on whose users have been given something back.
    pub(super) fn wake(&mut self) {
        let users = &self.users;
        let may_go_on = |uid: &u32| users.get(uid).is_some_and(User::may_go_on);
        let woken: Vec<u32> = self.waiting.iter().copied().filter(may_go_on).collect();
        for uid in woken {
            self.waiting.remove(&uid);
            let Some(user) = self.users.get_mut(&uid) else { continue };
            user.pressed = false;
            for slot in std::mem::take(&mut user.waiting) {
                self.queue(slot);
            }
        }
    }
}
