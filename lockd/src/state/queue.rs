//! The queue is the lock.
//!
//! A lock is nothing but its queue: entries in the order of their creation position. Who
//! holds it is a pure function of that order, the grant rule: the longest run of entries at
//! the head that are compatible with one another. An entry's position is its fencing token.
//! A grant therefore needs no write of its own. When an entry leaves, those that can hold
//! now do, and since there is no overtaking and entries join only at the end, tokens grow with
//! every grant and no entry starves.
//!
//! A barrier is held by its first parties once they are all there, and by none before.
//!
//! No I/O, no clock, no async.

mod line;

use line::Line;
#[cfg(test)]
pub(super) use tests::holders;

use crate::record::{Mode, Position, QueueKind};

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
    entries: Line<T>,
    /// How many hold: the first ones.
    held: usize,
    /// What they take of the capacity.
    taken: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { entries: Line::default(), held: 0, taken: 0 }
    }
}

impl<T: Seated> Queue<T> {
    /// Adds the entry that was created at a position.
    pub fn insert(&mut self, at: Position, entry: T) {
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
                let place = self.place(*at);
                let left = place.and_then(|place| Some((place, self.entries.remove(place)?)));
                if let Some((_, (_, entry))) = left.filter(|(place, _)| *place < self.held) {
                    self.give_back(entry.mode());
                }
            }
            return;
        }
        // Each entry behind one that leaves moves up once.
        let mut leaving = leaving.iter().peekable();
        let mut entries = std::mem::take(&mut self.entries);
        let mut holders = 0..self.held;
        entries.retain(|(at, entry)| {
            let is_holder = holders.next().is_some();
            while leaving.next_if(|next| *next < at).is_some() {}
            let leaves = leaving.next_if_eq(&at).is_some();
            if leaves && is_holder {
                self.give_back(entry.mode());
            }
            !leaves
        });
        self.entries = entries;
    }

    /// A holder has left.
    fn give_back(&mut self, mode: Mode) {
        if let Mode::Party { .. } = mode {
            // Parties go together. What is left of a barrier that was broken holds nothing.
            (self.held, self.taken) = (0, 0);
        } else {
            self.held -= 1;
            self.taken -= mode.weight();
        }
    }

    /// Puts a changed entry in the place of what it was.
    pub fn replace(&mut self, at: Position, entry: T) {
        let weight = entry.mode().weight();
        let Some(place) = self.place(at) else {
            return;
        };
        let before = self.entries.get_mut(place).map(|(_, there)| std::mem::replace(there, entry));
        if let Some(before) = before.filter(|_| place < self.held) {
            self.taken = self.taken - before.mode().weight() + weight;
        }
    }

    /// Grants what the rule allows by now, and says which entries that are. Changes that
    /// belong together are all applied before this is asked: an entry that goes in the same
    /// step as the holder was never granted anything.
    pub fn advance(&mut self) -> impl Iterator<Item = &T> {
        let before = self.held;
        // Parties come in together or not at all, and only when all before them have left.
        let missing = |parties: u32| (self.entries.len() as u64) < u64::from(parties);
        let meets = |kind: &QueueKind| match kind {
            QueueKind::Barrier { parties } => self.held == 0 && !missing(*parties),
            QueueKind::Lock
            | QueueKind::Semaphore { .. }
            | QueueKind::Group(_)
            | QueueKind::Once => true,
        };
        if let Some(kind) = self.kind().filter(meets) {
            for (_, entry) in self.entries.from(before) {
                let (mode, taken) = (entry.mode(), self.taken + entry.mode().weight());
                if mode.kind() != kind || taken > kind.capacity() {
                    break;
                }
                (self.held, self.taken) = (self.held + 1, taken);
            }
        }
        self.entries.from(before).take(self.held - before).map(|(_, entry)| entry)
    }

    /// What it is: the kind of its first entry.
    #[must_use]
    pub fn kind(&self) -> Option<QueueKind> {
        self.entries.get(0).map(|(_, entry)| entry.mode().kind())
    }

    /// Whether an entry of this mode that joined now would hold at once.
    #[must_use]
    pub fn would_grant(&self, mode: Mode) -> bool {
        let kind = mode.kind();
        let room = self.kind().is_none_or(|there| there == kind)
            && self.taken + mode.weight() <= kind.capacity();
        let is_next = match kind {
            QueueKind::Barrier { parties } => {
                self.held == 0 && self.entries.len() as u64 + 1 == u64::from(parties)
            }
            QueueKind::Lock
            | QueueKind::Semaphore { .. }
            | QueueKind::Group(_)
            | QueueKind::Once => self.held == self.entries.len(),
        };
        room && is_next
    }
}

impl<T> Queue<T> {
    fn place(&self, at: Position) -> Option<usize> {
        let place = self.ahead_of(at);
        self.entries.get(place).filter(|(there, _)| *there == at).map(|_| place)
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
        self.iter().take(self.held).map(|(_, entry)| entry)
    }

    /// The entries after a position that hold the lock.
    pub fn holders_after(&self, at: Position) -> impl Iterator<Item = (Position, &T)> {
        let from = self.entries.up_to(at);
        self.after(at).take(self.held.saturating_sub(from))
    }

    /// The entry that was created at a position.
    #[must_use]
    pub fn get(&self, at: Position) -> Option<&T> {
        self.entries.get(self.place(at)?).map(|(_, entry)| entry)
    }

    /// How many entries are ahead of the one created at this position.
    #[must_use]
    pub fn ahead_of(&self, at: Position) -> usize {
        // Positions are whole numbers.
        at.0.checked_sub(1).map_or(0, |before| self.entries.up_to(Position(before)))
    }

    /// The entries in order, the holders first.
    pub fn iter(&self) -> impl Iterator<Item = (Position, &T)> {
        self.entries.from(0).map(|(at, entry)| (*at, entry))
    }

    /// The entry ahead of the one created at this position.
    #[must_use]
    pub fn before(&self, at: Position) -> Option<(Position, &T)> {
        let place = self.ahead_of(at).checked_sub(1)?;
        self.entries.get(place).map(|(at, entry)| (*at, entry))
    }

    /// The entries after a position, in order.
    pub fn after(&self, at: Position) -> impl Iterator<Item = (Position, &T)> {
        self.entries.from(self.entries.up_to(at)).map(|(at, entry)| (*at, entry))
    }

    /// How many entries there are, the holders included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many entries wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.len() - self.held
    }

    /// How many entries hold the lock.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether the lock is free.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
