//! The waits of owners: who is in whose way.
//!
//! An owner is one logical task, such as an order that is being worked on. What a wait is blocked by
//! is looked up a step at a time, so that a search through it can stop anywhere: an entry is behind
//! the one ahead of it, and the first that waits is behind the holders that it can't hold beside.

use std::collections::{BTreeSet, HashMap};

use super::{Effect, Entry, Stage, State, settle::Turn};
use crate::record::{Blocked, Kind, LockId, Position};

/// An owner: its namespace and name, as a path like that of a lock.
pub type Owner = Box<str>;

/// The entries of each owner.
#[derive(Debug, Default)]
pub(super) struct Owners(HashMap<Owner, BTreeSet<u32>>);

/// An entry that waits, or that another one waits behind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wait {
    /// An owner: it goes on if one of its waits does.
    Owner(Owner),
    /// A place in a queue: it goes on if all ahead of it do.
    Place(LockId, Position),
}

impl Owners {
    pub(super) fn of(&self, lock: &LockId, owner: &str) -> impl Iterator<Item = u32> {
        self.0.get(path(lock, owner).as_str()).into_iter().flatten().copied()
    }
}

fn path(lock: &LockId, owner: &str) -> String {
    format!("{}\0{owner}", lock.namespace())
}

impl Entry {
    /// Its owner, where it names one.
    #[must_use]
    pub fn owner_path(&self) -> Option<Owner> {
        let lock = self.locks.as_slice().first()?;
        (!self.owner().is_empty()).then(|| path(lock, self.owner()).into())
    }

    fn waits(&self) -> bool {
        self.stage == Stage::Here && !self.is_held()
    }
}

impl State {
    pub(super) fn note_owner(&mut self, slot: u32) {
        if let Some(owner) = self.entry(slot).and_then(Entry::owner_path) {
            self.owners.0.entry(owner).or_default().insert(slot);
        }
    }

    pub(super) fn forget_owner(&mut self, entry: &Entry, slot: u32) {
        let Some(owner) = entry.owner_path() else {
            return;
        };
        if let Some(entries) = self.owners.0.get_mut(&owner) {
            entries.remove(&slot);
            if entries.is_empty() {
                self.owners.0.remove(&owner);
            }
        }
    }

    /// An owner has one wait more, or one less, and may be stuck by that.
    pub(super) fn look_at_owner_of(&self, slot: u32, turn: &mut Turn<'_>) {
        if let Some(entry) = self.entry(slot) {
            self.look_at_owner(entry, turn);
        }
    }

    pub(super) fn look_at_owner(&self, entry: &Entry, turn: &mut Turn<'_>) {
        let Some(owner) = entry.owner_path() else {
            return;
        };
        if let Some(token) = self.waits_of(&owner).last().map(|entry| entry.token) {
            turn.effects.push(Effect::OwnerBlocked { token });
        }
    }

    /// The entries of an owner that wait, and whose sessions live.
    pub fn waits_of(&self, owner: &str) -> impl Iterator<Item = &Entry> {
        let slots = self.owners.0.get(owner).into_iter().flatten();
        let entries = slots.filter_map(|slot| self.entry(*slot));
        entries.filter(|entry| entry.waits() && self.session(entry.session).is_some())
    }

    /// What an entry waits behind in a lock's queue: pairs of what must go on, and the entry ahead.
    #[must_use]
    pub fn blockers(&self, lock: &LockId, token: Position) -> Vec<(Wait, Position)> {
        let Some(there) = self.locks.get(lock) else {
            return vec![];
        };
        let Some(seat) = there.queue.get(token) else {
            return vec![];
        };
        let kind = there.queue.kind();
        let meets = matches!(kind, Some(Kind::Barrier { .. } | Kind::Group(_)) | None);
        if meets || there.queue.is_held_by(token) {
            return vec![];
        }
        let owner = |slot| self.entry(slot).filter(|it| self.session(it.session).is_some());
        match there.queue.before(token).filter(|(at, _)| !there.queue.is_held_by(*at)) {
            Some((at, ahead)) => {
                let owner = owner(ahead.slot).and_then(Entry::owner_path).map(Wait::Owner);
                let place = Wait::Place(lock.clone(), at);
                owner.into_iter().chain([place]).map(|wait| (wait, at)).collect()
            }
            None => {
                let holders = there.queue.iter().take(there.queue.held());
                let in_the_way = holders.filter(|(_, it)| !it.mode.is_compatible_with(seat.mode));
                let owned = in_the_way
                    .filter_map(|(at, it)| Some((Wait::Owner(owner(it.slot)?.owner_path()?), at)));
                owned.collect()
            }
        }
    }

    /// Whether an entry waits behind the one that is said to be in its way.
    pub(super) fn is_blocked(&self, wait: &Blocked) -> bool {
        let Some(there) = self.locks.get(&wait.lock) else {
            return false;
        };
        let waits = there.queue.get(wait.token).is_some() && !there.queue.is_held_by(wait.token);
        let ahead = wait.by < wait.token && there.queue.get(wait.by).is_some();
        let stage = |token| self.entry_at(&wait.lock, token).map(|it| it.stage);
        waits && ahead && [wait.token, wait.by].map(stage) == [Some(Stage::Here); 2]
    }
}
