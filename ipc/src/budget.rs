//! Budgets: what one user, and all users together, may hold of a process at a time.
//!
//! A user is whatever the owner counts by: a uid for local peers, an address or its /64 for network peers. Everything that
//! a peer can make a process hold is taken from its user's budget before it is allocated or received, as a [`Charge`], and
//! dropping the charge gives it back: an account can't be forgotten open.
//!
//! Privileged users (root and the process's own uid) have no limit of their own, and a part of each resource is reserved
//! for them, so that whatever all others hold together, the administrator still gets in.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use thiserror::Error;

/// Something that a peer can make a process hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Open connections.
    Connections,
    /// File descriptors that have come and have not been dealt with: those of unfinished frames and of calls under way, and
    /// those in answers that have not been sent.
    Descriptors,
    /// Bytes that have come: unfinished frames, and the bodies of calls under way.
    Input,
    /// Bytes of answers and events that the peer has not read.
    Output,
    /// Calls that have been taken and not been answered.
    Calls,
    /// Registrations for events.
    Subscriptions,
    /// Files that are being looked at, each by a thread that a silent file server keeps.
    Looks,
    /// Jobs for a disk that have not been done, whether their calls still wait for them or not.
    Disk,
}

const RESOURCES: usize = 8;

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::Connections => "connections",
            Resource::Descriptors => "file descriptors in flight",
            Resource::Input => "bytes of requests",
            Resource::Output => "bytes of unread answers",
            Resource::Calls => "calls under way",
            Resource::Subscriptions => "registrations for events",
            Resource::Looks => "looks at files",
            Resource::Disk => "jobs for the disk",
        })
    }
}

/// How much of one resource may be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// By one user that is not privileged.
    pub each: usize,
    /// By all users together.
    pub all: usize,
    /// The part of `all` that only privileged users may hold.
    pub reserved: usize,
}

impl Allowance {
    /// What all users that are not privileged may hold together.
    #[must_use]
    pub fn unreserved(&self) -> usize {
        self.all.saturating_sub(self.reserved)
    }
}

/// How much of each resource may be held.
#[derive(Clone, Copy, Debug)]
pub struct Allowances {
    /// For [`Resource::Connections`].
    pub connections: Allowance,
    /// For [`Resource::Descriptors`].
    pub descriptors: Allowance,
    /// For [`Resource::Input`].
    pub input: Allowance,
    /// For [`Resource::Output`].
    pub output: Allowance,
    /// For [`Resource::Calls`].
    pub calls: Allowance,
    /// For [`Resource::Subscriptions`].
    pub subscriptions: Allowance,
    /// For [`Resource::Looks`].
    pub looks: Allowance,
    /// For [`Resource::Disk`]. With as many as calls, nobody is refused whose disk answers.
    pub disk: Allowance,
}

impl Default for Allowances {
    fn default() -> Allowances {
        let allowance = |each, all, reserved| Allowance { each, all, reserved };
        Allowances {
            connections: allowance(128, 2048, 128),
            descriptors: allowance(512, 2048, 512),
            input: allowance(32 << 20, 256 << 20, 64 << 20),
            output: allowance(4 << 20, 64 << 20, 16 << 20),
            calls: allowance(512, 4096, 512),
            subscriptions: allowance(1024, 16_384, 2048),
            looks: allowance(8, 32, 8),
            disk: allowance(512, 4096, 512),
        }
    }
}

impl Allowances {
    /// The allowance of one resource.
    #[must_use]
    pub fn of(&self, resource: Resource) -> Allowance {
        match resource {
            Resource::Connections => self.connections,
            Resource::Descriptors => self.descriptors,
            Resource::Input => self.input,
            Resource::Output => self.output,
            Resource::Calls => self.calls,
            Resource::Subscriptions => self.subscriptions,
            Resource::Looks => self.looks,
            Resource::Disk => self.disk,
        }
    }
}

/// A budget is used up.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OverBudget {
    /// The user's own.
    #[error("the user's limit of {limit} {resource} is reached")]
    User {
        /// What of.
        resource: Resource,
        /// The limit.
        limit: usize,
    },
    /// That of all users together.
    #[error("the limit of {limit} {resource} of all users together is reached")]
    All {
        /// What of.
        resource: Resource,
        /// The limit for a user of this kind.
        limit: usize,
    },
}

/// What is held, by resource.
#[derive(Debug, Default)]
struct Held([AtomicUsize; RESOURCES]);

impl Held {
    fn cell(&self, resource: Resource) -> Option<&AtomicUsize> {
        self.0.get(resource as usize)
    }

    fn get(&self, resource: Resource) -> usize {
        self.cell(resource).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    /// Adds `amount` if that stays within `limit`.
    fn try_add(&self, resource: Resource, amount: usize, limit: usize) -> bool {
        let add = |held: usize| held.checked_add(amount).filter(|sum| *sum <= limit);
        self.cell(resource).is_some_and(|cell| cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok())
    }

    fn add(&self, resource: Resource, amount: usize) {
        if let Some(cell) = self.cell(resource) {
            cell.fetch_add(amount, Ordering::Relaxed);
        }
    }

    fn subtract(&self, resource: Resource, amount: usize) {
        if let Some(cell) = self.cell(resource) {
            cell.fetch_sub(amount, Ordering::Relaxed);
        }
    }
}

/// What all accounts share.
#[derive(Debug)]
struct Shared {
    allowances: Allowances,
    /// Held by everybody.
    all: Held,
    /// Held by users that are not privileged.
    unprivileged: Held,
    /// Counts releases, so that a refused request is tried again only after one.
    releases: AtomicUsize,
}

#[derive(Debug)]
struct Account {
    shared: Arc<Shared>,
    held: Held,
    privileged: bool,
    releases: AtomicUsize,
}

impl Account {
    fn limit(&self, resource: Resource) -> usize {
        let allowance = self.shared.allowances.of(resource);
        if self.privileged { allowance.all } else { allowance.each }
    }

    fn try_add(&self, resource: Resource, amount: usize) -> Result<(), OverBudget> {
        if amount == 0 {
            return Ok(());
        }
        let allowance = self.shared.allowances.of(resource);
        let own = self.limit(resource);
        if !self.held.try_add(resource, amount, own) {
            return Err(if self.privileged {
                OverBudget::All { resource, limit: own }
            } else {
                OverBudget::User { resource, limit: own }
            });
        }
        let unreserved = allowance.unreserved();
        if !self.privileged && !self.shared.unprivileged.try_add(resource, amount, unreserved) {
            self.held.subtract(resource, amount);
            return Err(OverBudget::All { resource, limit: unreserved });
        }
        if !self.shared.all.try_add(resource, amount, allowance.all) {
            self.held.subtract(resource, amount);
            if !self.privileged {
                self.shared.unprivileged.subtract(resource, amount);
            }
            return Err(OverBudget::All { resource, limit: allowance.all });
        }
        Ok(())
    }

    fn add(&self, resource: Resource, amount: usize) {
        self.held.add(resource, amount);
        self.shared.all.add(resource, amount);
        if !self.privileged {
            self.shared.unprivileged.add(resource, amount);
        }
    }

    fn release(&self, resource: Resource, amount: usize) {
        if amount == 0 {
            return;
        }
        self.held.subtract(resource, amount);
        self.shared.all.subtract(resource, amount);
        if !self.privileged {
            self.shared.unprivileged.subtract(resource, amount);
        }
        self.releases.fetch_add(1, Ordering::Relaxed);
        self.shared.releases.fetch_add(1, Ordering::Relaxed);
    }
}

/// The budgets of all users of one process, by the key that they are counted by.
#[derive(Debug)]
pub struct Budgets<K> {
    shared: Arc<Shared>,
    users: HashMap<K, Weak<Account>>,
    /// How many entries there may be before those of users that hold nothing are cleared out.
    clear_at: usize,
}

/// Entries that are kept without looking whether they are still of use.
const FEW_USERS: usize = 64;

impl<K: Eq + Hash> Budgets<K> {
    /// Nobody holds anything yet.
    #[must_use]
    pub fn new(allowances: Allowances) -> Budgets<K> {
        let shared =
            Shared { allowances, all: Held::default(), unprivileged: Held::default(), releases: AtomicUsize::new(0) };
        Budgets { shared: Arc::new(shared), users: HashMap::new(), clear_at: FEW_USERS }
    }

    /// The budget of one user. Whether it is privileged is settled when its first handle is made.
    pub fn user(&mut self, key: K, privileged: bool) -> UserBudget {
        if let Some(account) = self.users.get(&key).and_then(Weak::upgrade) {
            return UserBudget(account);
        }
        if self.users.len() >= self.clear_at {
            self.users.retain(|_, account| account.strong_count() > 0);
            self.clear_at = (self.users.len() * 2).max(FEW_USERS);
        }
        let account = Arc::new(Account {
            shared: Arc::clone(&self.shared),
            held: Held::default(),
            privileged,
            releases: AtomicUsize::new(0),
        });
        self.users.insert(key, Arc::downgrade(&account));
        UserBudget(account)
    }

    /// What all users hold together.
    #[must_use]
    pub fn held(&self, resource: Resource) -> usize {
        self.shared.all.get(resource)
    }

    /// Users that are remembered.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users.values().filter(|account| account.strong_count() > 0).count()
    }
}

/// One user's budget: a handle that can be cloned and kept.
#[derive(Clone, Debug)]
pub struct UserBudget(Arc<Account>);

impl UserBudget {
    /// Takes `amount` of a resource.
    ///
    /// # Errors
    /// When the user, or all users together, would hold too much; nothing is taken then.
    pub fn take(&self, resource: Resource, amount: usize) -> Result<Charge, OverBudget> {
        self.0.try_add(resource, amount)?;
        Ok(Charge { account: Arc::clone(&self.0), resource, amount })
    }

    /// Takes `amount` of a resource whatever the budget says: for what is there already.
    #[must_use]
    pub fn take_anyway(&self, resource: Resource, amount: usize) -> Charge {
        self.0.add(resource, amount);
        Charge { account: Arc::clone(&self.0), resource, amount }
    }

    /// Takes one of a resource that others may have used up: a user that holds none gets one, as long as all together hold less
    /// than `most`, because somebody may have many users; a privileged one gets as many as are reserved.
    ///
    /// # Errors
    /// As [`UserBudget::take`].
    pub fn take_first(&self, resource: Resource, most: usize) -> Result<Charge, OverBudget> {
        self.take(resource, 1).or_else(|over| {
            let held = self.held(resource);
            let due = if self.is_privileged() {
                held < self.0.shared.allowances.of(resource).reserved
            } else {
                held == 0 && self.0.shared.all.get(resource) < most
            };
            if due { Ok(self.take_anyway(resource, 1)) } else { Err(over) }
        })
    }

    /// What the user holds.
    #[must_use]
    pub fn held(&self, resource: Resource) -> usize {
        self.0.held.get(resource)
    }

    /// The user's own limit.
    #[must_use]
    pub fn limit(&self, resource: Resource) -> usize {
        self.0.limit(resource)
    }

    /// What the user may take at this moment.
    #[must_use]
    pub fn left(&self, resource: Resource) -> usize {
        let shared = &self.0.shared;
        let allowance = shared.allowances.of(resource);
        let own = self.limit(resource).saturating_sub(self.held(resource));
        let all = allowance.all.saturating_sub(shared.all.get(resource));
        let unreserved = allowance.unreserved().saturating_sub(shared.unprivileged.get(resource));
        if self.0.privileged { own.min(all) } else { own.min(all).min(unreserved) }
    }

    /// Whether the user is root or the process's own uid.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.0.privileged
    }

    /// A mark that changes whenever something is given back, by this user or by any: a refused request need not be tried
    /// again before.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let load = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        Mark { own: load(&self.0.releases), all: load(&self.0.shared.releases) }
    }
}

/// See [`UserBudget::mark`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Releases of the user's own.
    pub own: usize,
    /// Releases of anybody's.
    pub all: usize,
}

/// A part of a budget that is held. Dropping it gives it back.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    resource: Resource,
    amount: usize,
}

impl Charge {
    /// How much it is.
    #[must_use]
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Makes it `amount`.
    ///
    /// # Errors
    /// When that is more than before and over the budget; it stays as it was then.
    pub fn set(&mut self, amount: usize) -> Result<(), OverBudget> {
        if amount > self.amount {
            self.account.try_add(self.resource, amount - self.amount)?;
            self.amount = amount;
        } else {
            self.set_anyway(amount);
        }
        Ok(())
    }

    /// Makes it `amount`, whatever the budget says.
    pub fn set_anyway(&mut self, amount: usize) {
        if amount > self.amount {
            self.account.add(self.resource, amount - self.amount);
        } else {
            self.account.release(self.resource, self.amount - amount);
        }
        self.amount = amount;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.release(self.resource, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Resource; RESOURCES] = [
        Resource::Connections,
        Resource::Descriptors,
        Resource::Input,
        Resource::Output,
        Resource::Calls,
        Resource::Subscriptions,
        Resource::Looks,
        Resource::Disk,
    ];

    fn budgets(each: usize, all: usize, reserved: usize) -> Budgets<u32> {
        let calls = Allowance { each, all, reserved };
        Budgets::new(Allowances { calls, ..Allowances::default() })
    }

    #[test]
    fn a_user_meets_its_own_limit_and_others_do_not_notice() {
        let mut budgets = budgets(3, 100, 0);
        let (one, two) = (budgets.user(1, false), budgets.user(2, false));
        let held: Vec<Charge> = (0..3).map(|_| one.take(Resource::Calls, 1).unwrap()).collect();
        let refused = one.take(Resource::Calls, 1).unwrap_err();
        assert_eq!(refused, OverBudget::User { resource: Resource::Calls, limit: 3 });
        assert_eq!(refused.to_string(), "the user's limit of 3 calls under way is reached");
        assert_eq!(budgets.user(1, false).left(Resource::Calls), 0, "a second handle is of the same account");
        let kept = two.take(Resource::Calls, 3).unwrap();
        drop(held);
        assert_eq!((one.left(Resource::Calls), budgets.held(Resource::Calls)), (3, 3));
        drop(kept);
    }

    #[test]
    fn the_reserve_is_for_the_privileged() {
        let mut budgets = budgets(10, 20, 5);
        let users: Vec<UserBudget> = (1..4).map(|uid| budgets.user(uid, false)).collect();
        let held: Vec<Charge> = users[..1].iter().map(|user| user.take(Resource::Calls, 10).unwrap()).collect();
        let rest = users[1].take(Resource::Calls, 5).unwrap();
        let refused = users[2].take(Resource::Calls, 1).unwrap_err();
        assert_eq!(refused, OverBudget::All { resource: Resource::Calls, limit: 15 });
        assert_eq!(users[2].held(Resource::Calls), 0, "a refusal takes nothing");
        let root = budgets.user(0, true);
        assert_eq!(root.left(Resource::Calls), 5);
        let all = root.take(Resource::Calls, 5).unwrap();
        assert!(matches!(root.take(Resource::Calls, 1), Err(OverBudget::All { limit: 20, .. })));
        drop((held, rest, all));
        assert_eq!(budgets.held(Resource::Calls), 0);
    }

    #[test]
    fn what_is_there_already_counts_though_it_is_too_much() {
        let mut budgets = budgets(3, 100, 0);
        let user = budgets.user(1, false);
        let mut charge = user.take_anyway(Resource::Calls, 50);
        assert_eq!(user.left(Resource::Calls), 0);
        assert!(charge.set(51).is_err());
        assert_eq!(charge.amount(), 50);
        charge.set(2).unwrap();
        charge.set(3).unwrap();
        assert_eq!(user.held(Resource::Calls), 3);
    }

    #[test]
    fn a_mark_changes_when_something_is_given_back() {
        let mut budgets = budgets(3, 100, 0);
        let (one, two) = (budgets.user(1, false), budgets.user(2, false));
        let charge = one.take(Resource::Calls, 1).unwrap();
        let (before, other) = (one.mark(), two.mark());
        assert_eq!(one.mark(), before);
        drop(charge);
        assert_ne!(one.mark().own, before.own);
        assert_eq!(two.mark().own, other.own);
        assert_ne!(two.mark().all, other.all);
    }

    #[test]
    fn users_who_hold_nothing_are_not_remembered() {
        let mut budgets: Budgets<u32> = Budgets::new(Allowances::default());
        for uid in 0..100_000 {
            drop(budgets.user(uid, false));
        }
        assert!(budgets.users.len() <= FEW_USERS, "{} users are remembered", budgets.users.len());
        assert_eq!(budgets.users(), 0);
    }

    /// One step of a random history: who, what of, how much, and which of three ways.
    type Step = (u8, usize, usize, u8);

    proptest! {
        #[test]
        fn an_account_is_exact_and_returns_to_zero(
            steps in prop::collection::vec((0u8..4, 0usize..RESOURCES, 0usize..700, 0u8..5), 0..200)
        ) {
            let mut budgets: Budgets<u8> = Budgets::new(Allowances::default());
            let users: Vec<UserBudget> = (0..4).map(|uid| budgets.user(uid, uid == 0)).collect();
            let mut held: Vec<(u8, Charge)> = Vec::new();
            for (uid, resource, amount, way) in steps as Vec<Step> {
                let (user, resource) = (&users[usize::from(uid)], ALL[resource]);
                let before = user.left(resource);
                match way {
                    0 | 1 => match user.take(resource, amount) {
                        Ok(charge) => { prop_assert!(amount <= before); held.push((uid, charge)); }
                        Err(_) => prop_assert!(amount > before),
                    },
                    2 => held.push((uid, user.take_anyway(resource, amount))),
                    3 if !held.is_empty() => { held.swap_remove(amount % held.len()); }
                    4 if !held.is_empty() => {
                        let index = amount % held.len();
                        let _ = held[index].1.set(amount);
                    }
                    _ => {}
                }
                for resource in ALL {
                    let sum = |of: Option<u8>| -> usize {
                        let of_it = held.iter().filter(|(uid, c)| c.resource == resource && of.is_none_or(|of| of == *uid));
                        of_it.map(|(_, charge)| charge.amount).sum()
                    };
                    prop_assert_eq!(budgets.held(resource), sum(None));
                    for uid in 0..4u8 {
                        prop_assert_eq!(users[usize::from(uid)].held(resource), sum(Some(uid)));
                    }
                }
            }
            drop(held);
            for resource in ALL {
                prop_assert_eq!(budgets.held(resource), 0);
                prop_assert_eq!(budgets.shared.unprivileged.get(resource), 0);
                prop_assert!(users.iter().all(|user| user.held(resource) == 0));
            }
        }
    }
}
