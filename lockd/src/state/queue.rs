//! The queue is the lock.
//!
//! A lock is nothing but its queue: entries in the order of their creation position. Who
//! holds it is a pure function of that order, the grant rule: the longest run of entries at
//! the head that are compatible with one another. An entry's position is its fencing token.
//! A grant therefore needs no write of its own. When an entry leaves, those that can hold
//! now do, and since nobody overtakes and entries join only at the end, tokens grow with
//! every grant and nobody starves.
//!
//! A barrier is held by its first parties once they are all there, and by nobody before.
//!
//! No I/O, no clock, no async.

use std::collections::VecDeque;

use crate::record::{Kind, Mode, Position};

/// What the grant rule asks of an entry.
pub trait Seated {
    /// How it shares its lock.
    fn mode(&self) -> Mode;
}

/// Fewer entries than this leave one by one: that is cheaper than to look at all.
const FEW: usize = 4;

/// The entries of one lock, and how far down the queue it is held.
#[derive(Debug, Clone)]
pub struct Queue<T> {
    /// In the order of their positions: they join at the end, and most leave at the head. Where an
    /// entry is, is how many are ahead of it.
    entries: VecDeque<(Position, T)>,
    /// The last entry that was granted. All before it were too.
    reach: Position,
    /// What the holders take of the capacity.
    taken: u64,
    /// How many hold.
    held: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), reach: Position::default(), taken: 0, held: 0 }
    }
}

/// The grant rule, word for word: how many entries at the head of a queue hold it.
///
/// ```
/// use lockd::{record::Mode::{Exclusive, Shared}, state::queue::holders};
///
/// assert_eq!(holders([Exclusive, Exclusive]), 1);
/// assert_eq!(holders([Shared, Shared, Exclusive, Shared]), 2);
/// ```
pub fn holders(modes: impl IntoIterator<Item = Mode>) -> usize {
    let mut modes = modes.into_iter().peekable();
    let Some(kind) = modes.peek().map(|first| first.kind()) else {
        return 0;
    };
    let mut taken = 0;
    let run = modes.take_while(|mode| {
        taken += mode.weight();
        mode.kind() == kind && taken <= kind.capacity()
    });
    match (kind, run.count()) {
        (Kind::Barrier { parties }, here) if (here as u64) < u64::from(parties) => 0,
        (_, count) => count,
    }
}

impl<T: Seated> Queue<T> {
    /// Adds the entry that was created at a position.
    pub fn insert(&mut self, at: Position, entry: T) {
        if self.entries.is_empty() {
            // Most locks are held and nobody waits.
            self.entries.reserve_exact(1);
        }
        let place = self.ahead_of(at);
        match self.entries.get_mut(place) {
            Some((there, before)) if *there == at => *before = entry,
            _ => self.entries.insert(place, (at, entry)),
        }
    }

    /// Takes entries out, which are in the order of their positions, and with them what they held.
    pub fn remove(&mut self, leaving: &[Position]) {
        if leaving.len() < FEW {
            for at in leaving {
                let entry = self.place(*at).and_then(|place| self.entries.remove(place));
                entry.into_iter().for_each(|(at, entry)| self.give_back(at, entry.mode()));
            }
            return;
        }
        // Each entry behind one that leaves moves up once.
        let mut leaving = leaving.iter().peekable();
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|(at, entry)| {
            while leaving.next_if(|next| *next < at).is_some() {}
            let leaves = leaving.next_if_eq(&at).is_some();
            if leaves {
                self.give_back(*at, entry.mode());
            }
            !leaves
        });
        self.entries = entries;
    }

    fn give_back(&mut self, at: Position, mode: Mode) {
        if at > self.reach || self.held == 0 {
            return;
        }
        if let Mode::Party { .. } = mode {
            // Parties go together. What is left of a barrier that was broken holds nothing.
            (self.taken, self.held) = (0, 0);
        } else {
            self.taken -= mode.weight();
            self.held -= 1;
        }
    }

    /// Puts a changed entry in the place of what it was.
    pub fn replace(&mut self, at: Position, entry: T) {
        let weight = entry.mode().weight();
        let place = self.place(at);
        let Some((_, there)) = place.and_then(|at| self.entries.get_mut(at)) else {
            return;
        };
        let before = std::mem::replace(there, entry);
        if at <= self.reach {
            self.taken = self.taken - before.mode().weight() + weight;
        }
    }

    /// Grants what the rule allows by now, and says which entries that are. Changes that
    /// belong together are all applied before this is asked: an entry that goes in the same
    /// step as the holder was never granted anything.
    pub fn advance(&mut self) -> impl Iterator<Item = &T> {
        let before = if self.held == 0 { Position::default() } else { self.reach };
        let mut reach = before;
        // Parties come in together or not at all, and only when all before them have left.
        let missing = |parties: u32| (self.entries.len() as u64) < u64::from(parties);
        let meets = |kind: &Kind| match kind {
            Kind::Barrier { parties } => self.held == 0 && !missing(*parties),
            Kind::Lock | Kind::Semaphore { .. } | Kind::Group(_) | Kind::Once => true,
        };
        if let Some(kind) = self.kind().filter(meets) {
            let next = self.entries.range(self.up_to(before)..);
            let next = next.take_while(|(_, entry)| entry.mode().kind() == kind);
            let (mut taken, mut held) = (self.taken, self.held);
            for (at, entry) in next {
                if taken + entry.mode().weight() > kind.capacity() {
                    break;
                }
                (taken, held, reach) = (taken + entry.mode().weight(), held + 1, *at);
            }
            (self.taken, self.held) = (taken, held);
        }
        self.reach = reach;
        self.entries.range(self.up_to(before)..self.up_to(reach)).map(|(_, entry)| entry)
    }

    /// What it is: the kind of its first entry.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.entries.front().map(|(_, entry)| entry.mode().kind())
    }

    /// Whether an entry of this mode that joined now would hold at once.
    #[must_use]
    pub fn would_grant(&self, mode: Mode) -> bool {
        let kind = mode.kind();
        let room = self.kind().is_none_or(|there| there == kind)
            && self.taken + mode.weight() <= kind.capacity();
        let is_next = match kind {
            Kind::Barrier { parties } => {
                self.held == 0 && self.entries.len() as u64 + 1 == u64::from(parties)
            }
            Kind::Lock | Kind::Semaphore { .. } | Kind::Group(_) | Kind::Once => {
                self.held == self.entries.len()
            }
        };
        room && is_next
    }
}

impl<T> Queue<T> {
    fn place(&self, at: Position) -> Option<usize> {
        self.entries.binary_search_by_key(&at, |(there, _)| *there).ok()
    }

    /// How many entries there are up to a position.
    fn up_to(&self, at: Position) -> usize {
        self.entries.partition_point(|(there, _)| *there <= at)
    }

    /// Whether the entry created at this position holds the lock.
    #[must_use]
    pub fn is_held_by(&self, at: Position) -> bool {
        self.place(at).is_some_and(|place| place < self.held)
    }

    /// Whether the entry created at this position is there, and does not hold the lock.
    #[must_use]
    pub fn is_waiting(&self, at: Position) -> bool {
        self.place(at).is_some_and(|place| place >= self.held)
    }

    /// The entries that hold the lock, oldest first.
    pub fn holders(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().take(self.held).map(|(_, entry)| entry)
    }

    /// The entries after a position that hold the lock.
    pub fn holders_after(&self, at: Position) -> impl Iterator<Item = (Position, &T)> {
        let from = self.up_to(at).min(self.held);
        self.entries.range(from..self.held).map(|(at, entry)| (*at, entry))
    }

    /// The entry that was created at a position.
    #[must_use]
    pub fn get(&self, at: Position) -> Option<&T> {
        self.entries.get(self.place(at)?).map(|(_, entry)| entry)
    }

    /// How many entries are ahead of the one created at this position.
    #[must_use]
    pub fn ahead_of(&self, at: Position) -> usize {
        self.entries.partition_point(|(there, _)| *there < at)
    }

    /// The entries in order, the holders first.
    pub fn iter(&self) -> impl Iterator<Item = (Position, &T)> {
        self.entries.iter().map(|(at, entry)| (*at, entry))
    }

    /// The entry ahead of the one created at this position.
    #[must_use]
    pub fn before(&self, at: Position) -> Option<(Position, &T)> {
        let place = self.ahead_of(at).checked_sub(1)?;
        self.entries.get(place).map(|(at, entry)| (*at, entry))
    }

    /// The entries after a position, in order.
    pub fn after(&self, at: Position) -> impl Iterator<Item = (Position, &T)> {
        self.entries.range(self.up_to(at)..).map(|(at, entry)| (*at, entry))
    }

    /// How many entries there are, the holders included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many entries hold the lock.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether the lock is free.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests;
