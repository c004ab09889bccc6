//! The waits of owners: who is in whose way.
//!
//! An owner is one logical task, such as an order that is being worked on. There is no overtaking, so an
//! entry waits for all those ahead of it beside which it could not hold the lock, and for all that those
//! ahead of it wait for. This is looked up a step at a time, so that a search can stop anywhere.

use std::collections::{BTreeMap, BTreeSet};

use lockd_proto::SessionId;

use super::{Effect, Entry, Locks, Seat, Stage, State, turn::Turn};
use crate::record::{Blocked, LockId, Mode, Position};

/// An owner: its namespace and name, as a path like that of a lock.
pub(crate) type Owner = Box<str>;

/// How many entries are looked at to judge a cycle. One for which that is too few does not stand. A
/// constant of level 1.
const LOOKS: usize = 1 << 16;

/// The entries of owners, as far as their sessions live.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// Those that wait, by owner and token.
    pub(super) waits: BTreeMap<(Owner, Position), u32>,
    /// All of them, by what an upgrade has in common with what is held already.
    pub(super) places: BTreeSet<(SessionId, LockId, Owner, Position)>,
}

/// What a wait is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WaitNode {
    /// An owner: it goes on if one of its entries does, or if none waits.
    Owner(Owner),
    /// An entry in several queues, by one of them: it goes on if all of its places do.
    Entry(LockId, Position),
    /// A place in a queue: it goes on if all that is in its way does.
    Place(LockId, Position),
    /// The entries of a queue up to this one: they leave if all of their owners go on.
    UpTo(LockId, Position),
    /// As `UpTo`, but of the entries that hold their lock alone.
    AloneUpTo(LockId, Position),
}

/// A part of what a wait is for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Blockers {
    /// What must go on, and the entry in the way that it is or belongs to.
    pub waits: Vec<(WaitNode, Position)>,
    /// The last entry that was looked at, if more follow.
    pub more_after: Option<Position>,
}

impl Blockers {
    fn of(waits: impl IntoIterator<Item = (WaitNode, Position)>) -> Self {
        Self { waits: waits.into_iter().collect(), more_after: None }
    }

    fn up_to(limit: usize, ahead: impl Iterator<Item = (Position, Option<WaitNode>)>) -> Self {
        let mut blockers = Self::default();
        for (looked_at, (at, wait)) in ahead.enumerate() {
            blockers.waits.extend(wait.map(|wait| (wait, at)));
            if looked_at + 1 >= limit {
                blockers.more_after = Some(at);
                break;
            }
        }
        blockers
    }
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

    /// What must go on for it to be granted.
    fn as_wait(&self) -> Option<(WaitNode, Position)> {
        let lock = self.locks.as_slice().first()?.clone();
        let wait = match self.locks {
            Locks::One(_) => WaitNode::Place(lock, self.token),
            Locks::Many(_) => WaitNode::Entry(lock, self.token),
        };
        Some((wait, self.token))
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
        let queue = self.locks.get(lock).map(|there| &there.queue);
        let held = queue.zip(first).filter(|(queue, token)| queue.is_held_by(*token));
        let seat = held.and_then(|(queue, token)| queue.get(token));
        seat.is_some_and(|seat| seat.mode == Mode::Shared)
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
    pub fn waits_of(&self, owner: &str) -> impl Iterator<Item = &Entry> {
        self.waits_after(owner, Position::default())
    }

    fn waits_after(&self, owner: &str, after: Position) -> impl Iterator<Item = &Entry> {
        let key = |token| (Owner::from(owner), token);
        let slots = self.owners.waits.range(key(after.after(1))..=key(Position(u64::MAX)));
        slots.filter_map(|(_, slot)| self.entry(*slot))
    }

    /// What a wait is for: at most `limit` of it, from what comes after an entry on.
    #[must_use]
    pub fn ahead_of_wait(&self, wait: &WaitNode, after: Position, limit: usize) -> Blockers {
        match wait {
            WaitNode::Owner(owner) => {
                let waits = self.waits_after(owner, after).filter_map(Entry::as_wait);
                Blockers::up_to(limit, waits.map(|(wait, token)| (token, Some(wait))))
            }
            WaitNode::Entry(lock, token) => {
                let locks = self.entry_at(lock, *token).map(|entry| entry.locks.as_slice());
                let places = locks.into_iter().flatten();
                Blockers::of(places.map(|lock| (WaitNode::Place(lock.clone(), *token), *token)))
            }
            WaitNode::Place(lock, token) => self.ahead_of_place(lock, *token, (after, limit)),
            WaitNode::UpTo(lock, token) => self.ahead_of_leaving(lock, *token, false),
            WaitNode::AloneUpTo(lock, token) => self.ahead_of_leaving(lock, *token, true),
        }
    }

    fn ahead_of_place(
        &self,
        lock: &LockId,
        token: Position,
        (after, limit): (Position, usize),
    ) -> Blockers {
        let there = self.locks.get(lock).filter(|there| there.queue.is_waiting(token));
        let found = there.and_then(|it| Some((it, it.queue.get(token)?, it.queue.before(token)?)));
        let Some((there, seat, (at, ahead))) = found else {
            return Blockers::default();
        };
        match seat.mode {
            Mode::Exclusive | Mode::Once => Blockers::of([(WaitNode::UpTo(lock.clone(), at), at)]),
            Mode::Shared => Blockers::of([(WaitNode::AloneUpTo(lock.clone(), at), at)]),
            // Permits are of one lock: the one ahead is granted, or its owner goes on, or both are stuck.
            Mode::Permits { .. } if there.queue.is_waiting(at) => {
                let place = || WaitNode::Place(lock.clone(), at);
                Blockers::of([(self.owner_in_queue(ahead).unwrap_or_else(place), at)])
            }
            Mode::Permits { .. } => {
                let owner = |other: &Seat| {
                    let in_the_way = !other.mode.is_compatible_with(seat.mode);
                    self.owner_in_queue(other).filter(|_| in_the_way)
                };
                let holders = there.queue.holders_after(after);
                Blockers::up_to(limit, holders.map(|(at, seat)| (at, owner(seat))))
            }
            // A party waits for others to come, and a share never waits.
            Mode::Party { .. } | Mode::Share(_) => Blockers::default(),
        }
    }

    fn ahead_of_leaving(&self, lock: &LockId, token: Position, alone: bool) -> Blockers {
        let Some(there) = self.locks.get(lock) else {
            return Blockers::default();
        };
        let seat = there.queue.get(token).filter(|seat| !alone || seat.mode.is_alone());
        let owner = seat.and_then(|seat| self.owner_in_queue(seat));
        // One without an owner leaves once it has held, when all ahead of it have left.
        let all = !alone || (seat.is_some() && owner.is_none());
        let up_to = if all { WaitNode::UpTo } else { WaitNode::AloneUpTo };
        let before = there.queue.before(token).map(|(at, _)| (up_to(lock.clone(), at), at));
        Blockers::of(owner.map(|owner| (owner, token)).into_iter().chain(before))
    }

    /// The owner of an entry, while its session lives: what has outlived that goes some day.
    fn owner_in_queue(&self, seat: &Seat) -> Option<WaitNode> {
        let entry = self.entry(seat.slot).filter(|entry| self.session_of(entry).is_some())?;
        entry.owner_path().map(WaitNode::Owner)
    }

    /// Whether every wait of a cycle stands, that of `victim` among them, each behind an entry of the
    /// next one's owner, and none of the owners has another wait, by which it could go on.
    pub(super) fn stands(&self, cycle: &[Blocked], others: &[Position], victim: Position) -> bool {
        let named: BTreeSet<_> =
            cycle.iter().map(|wait| wait.token).chain(others.iter().copied()).collect();
        let mut looks = LOOKS;
        let next = cycle.iter().cycle().skip(1);
        let mut holds = |(wait, next): (&Blocked, &Blocked)| {
            let owner = |token| self.entry_at(&wait.lock, token).and_then(Entry::owner_path);
            let ahead = self.entry_at(&next.lock, next.token).and_then(Entry::owner_path);
            let stuck = |owner: Owner| self.waits_of(&owner).all(|it| named.contains(&it.token));
            self.is_blocked(wait, &mut looks)
                && owner(wait.by) == ahead
                && owner(wait.token).is_some_and(stuck)
        };
        cycle.iter().any(|wait| wait.token == victim) && cycle.iter().zip(next).all(&mut holds)
    }

    /// Whether an entry waits until the one that is said to be in its way has left: it could not hold
    /// the lock beside that, or one between them could not, or that waits itself for permits.
    fn is_blocked(&self, wait: &Blocked, looks: &mut usize) -> bool {
        let Blocked { lock, token, by, .. } = wait;
        let there = self.locks.get(lock).filter(|there| there.queue.is_waiting(*token));
        let Some((there, ahead)) = there.and_then(|it| Some((it, it.queue.get(*by)?))) else {
            return false;
        };
        let here = self.entry(ahead.slot).is_some_and(|it| it.stage == Stage::Here);
        let mut between = there.queue.after(*by).take_while(|(at, _)| at <= token);
        let blocked = between.any(|(_, seat)| {
            *looks = looks.saturating_sub(1);
            *looks == 0 || !seat.mode.is_compatible_with(ahead.mode)
        });
        let waits = matches!(ahead.mode, Mode::Permits { .. }) && there.queue.is_waiting(*by);
        here && (blocked || waits && by < token) && *looks > 0
    }
}
