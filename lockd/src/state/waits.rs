//! The waits of owners: who is in whose way.
//!
//! An owner is one logical task, such as an order that is being worked on. What a wait is blocked by
//! is looked up a step at a time, so that a search through it can stop anywhere: an entry is behind
//! the one ahead of it, and the first that waits is behind the holders that it can't hold beside.

use std::collections::{BTreeMap, BTreeSet};

use lockd_proto::SessionId;

use super::{Effect, Entry, Lock, Seat, Stage, State, settle::Turn};
use crate::record::{Blocked, Kind, LockId, Mode, Position};

/// An owner: its namespace and name, as a path like that of a lock.
pub type Owner = Box<str>;

/// The entries of owners, as far as their sessions live.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// Those that wait, by owner and token.
    pub(super) waits: BTreeMap<(Owner, Position), u32>,
    /// All of them, by what an upgrade has in common with what is held already.
    pub(super) places: BTreeSet<(SessionId, LockId, Owner, Position)>,
}

/// An entry that waits, or that another one waits behind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wait {
    /// An owner: it goes on if one of its waits does.
    Owner(Owner),
    /// A place in a queue: it goes on if all ahead of it do.
    Place(LockId, Position),
}

impl Owners {
    /// The first entry by which a session is in a lock's queue for an owner. If any of those holds
    /// the lock, this one does.
    fn first(&self, session: SessionId, lock: &LockId, owner: Owner) -> Option<Position> {
        let from = (session, lock.clone(), owner, Position::default());
        let (by, on, of, token) = self.places.range::<(_, _, _, _), _>(&from..).next()?;
        ((by, on, of) == (&from.0, &from.1, &from.2)).then_some(*token)
    }

    fn note(&mut self, slot: u32, entry: &Entry) {
        if let Some(owner) = entry.owner_path() {
            self.places.extend(entry.places(&owner));
            self.waits.insert((owner, entry.token), slot);
        }
    }

    fn granted(&mut self, entry: &Entry) {
        if let Some(owner) = entry.owner_path() {
            self.waits.remove(&(owner, entry.token));
        }
    }

    pub(super) fn forget(&mut self, entry: &Entry) {
        if let Some(owner) = entry.owner_path() {
            for place in entry.places(&owner) {
                self.places.remove(&place);
            }
            self.waits.remove(&(owner, entry.token));
        }
    }
}

pub(super) fn owner_path(lock: &LockId, owner: &str) -> Owner {
    format!("{}\0{owner}", lock.namespace()).into()
}

impl Entry {
    /// Its owner, where it names one.
    #[must_use]
    pub fn owner_path(&self) -> Option<Owner> {
        let lock = self.locks.as_slice().first()?;
        (!self.owner().is_empty()).then(|| owner_path(lock, self.owner()))
    }

    fn places(&self, owner: &Owner) -> impl Iterator<Item = (SessionId, LockId, Owner, Position)> {
        let locks = self.locks.as_slice().iter();
        locks.map(|lock| (self.session, lock.clone(), owner.clone(), self.token))
    }
}

impl State {
    /// An entry waits.
    pub(super) fn note_owner(&mut self, slot: u32) {
        if let Some(entry) = self.entries.get(slot as usize) {
            self.owners.note(slot, entry);
        }
    }

    /// An entry may not wait any more.
    pub(super) fn note_granted(&mut self, slot: u32) {
        if let Some(entry) = self.entries.get(slot as usize).filter(|entry| entry.is_held()) {
            self.owners.granted(entry);
        }
    }

    /// An entry stays though its client has given it up, or is dead.
    pub(super) fn forget_owner(&mut self, slot: u32) {
        if let Some(entry) = self.entries.get(slot as usize) {
            self.owners.forget(entry);
        }
    }

    /// Whether a session holds a lock shared in the name of an owner.
    pub(super) fn holds_shared(&self, session: SessionId, lock: &LockId, owner: &str) -> bool {
        let first = self.owners.first(session, lock, owner_path(lock, owner));
        let held = |there: &Lock| {
            let seat = first.filter(|token| there.queue.is_held_by(*token));
            seat.and_then(|token| there.queue.get(token)).is_some_and(|it| it.mode == Mode::Shared)
        };
        self.locks.get(lock).is_some_and(held)
    }

    /// An owner has one wait more, or one less, and may be stuck by that.
    pub(super) fn look_at_owner(&self, entry: &Entry, turn: &mut Turn<'_>) {
        let Some(owner) = entry.owner_path() else {
            return;
        };
        if self.waits_of(&owner).next().is_some() {
            turn.effects.push(Effect::OwnerBlocked(owner));
        }
    }

    /// The entries of an owner that wait, the oldest first.
    pub fn waits_of(&self, owner: &str) -> impl DoubleEndedIterator<Item = &Entry> {
        let key = |token| (Owner::from(owner), Position(token));
        let slots = self.owners.waits.range(key(0)..=key(u64::MAX));
        slots.filter_map(|(_, slot)| self.entry(*slot))
    }

    /// What an entry waits behind in a lock's queue: pairs of what must go on, and the entry ahead.
    #[must_use]
    pub fn blockers(&self, lock: &LockId, token: Position) -> Vec<(Wait, Position)> {
        let Some(there) = self.locks.get(lock).filter(|there| waits(there, token)) else {
            return vec![];
        };
        if matches!(there.queue.kind(), Some(Kind::Barrier { .. } | Kind::Group(_)) | None) {
            return vec![];
        }
        let owner = |seat: &Seat| {
            let entry = self.entry(seat.slot).filter(|it| self.session_of(it).is_some());
            entry.and_then(Entry::owner_path).map(Wait::Owner)
        };
        match there.queue.before(token).filter(|(at, _)| !there.queue.is_held_by(*at)) {
            Some((at, ahead)) => {
                let place = Wait::Place(lock.clone(), at);
                owner(ahead).into_iter().chain([place]).map(|wait| (wait, at)).collect()
            }
            None => {
                let holders = there.queue.iter().take(there.queue.held());
                let in_the_way = holders.filter(|(_, seat)| is_in_the_way(there, seat));
                in_the_way.filter_map(|(at, seat)| Some((owner(seat)?, at))).collect()
            }
        }
    }

    /// Whether every wait of a cycle stands, that of `victim` among them, each behind an entry of the
    /// next one's owner, and none of the owners has another wait, by which it could go on.
    pub(super) fn stands(&self, cycle: &[Blocked], others: &[Position], victim: Position) -> bool {
        let named: BTreeSet<_> =
            cycle.iter().map(|wait| wait.token).chain(others.iter().copied()).collect();
        let next = cycle.iter().cycle().skip(1);
        let holds = |(wait, next): (&Blocked, &Blocked)| {
            let owner = |token| self.entry_at(&wait.lock, token).and_then(Entry::owner_path);
            let ahead = self.entry_at(&next.lock, next.token).and_then(Entry::owner_path);
            let stuck = |owner: Owner| self.waits_of(&owner).all(|it| named.contains(&it.token));
            self.is_blocked(wait) && owner(wait.by) == ahead && owner(wait.token).is_some_and(stuck)
        };
        cycle.iter().any(|wait| wait.token == victim) && cycle.iter().zip(next).all(holds)
    }

    /// Whether an entry waits behind the one that is said to be in its way.
    fn is_blocked(&self, wait: &Blocked) -> bool {
        let Some(there) = self.locks.get(&wait.lock).filter(|there| waits(there, wait.token))
        else {
            return false;
        };
        let ahead = there.queue.get(wait.by).filter(|_| wait.by < wait.token);
        let in_the_way =
            |seat: &Seat| !there.queue.is_held_by(wait.by) || is_in_the_way(there, seat);
        let here = |seat: &Seat| self.entry(seat.slot).is_some_and(|it| it.stage == Stage::Here);
        ahead.is_some_and(|seat| here(seat) && in_the_way(seat))
    }
}

/// Whether an entry is in a queue and does not hold the lock.
fn waits(there: &Lock, token: Position) -> bool {
    there.queue.get(token).is_some() && !there.queue.is_held_by(token)
}

/// Whether the first entry that waits can't hold the lock beside this holder. Those behind it wait for
/// it, and so for the holder.
fn is_in_the_way(there: &Lock, holder: &Seat) -> bool {
    let first = there.queue.first_waiting();
    first.is_some_and(|first| !first.mode.is_compatible_with(holder.mode))
}
