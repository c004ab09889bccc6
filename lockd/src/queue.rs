//! The queue is the lock.
//!
//! A lock is nothing but its queue: entries in the order of their creation revision. Who
//! holds it is a pure function of that order: the first entry does, and its revision is the
//! fencing token. A grant therefore needs no write of its own. When an entry leaves, the
//! next one holds, and since entries join only at the end, tokens grow with every grant.
//!
//! No I/O, no clock, no async.

use std::collections::BTreeMap;

use crate::store::Revision;

/// The entries of one lock, each with what `T` says of it.
#[derive(Debug, Clone)]
pub struct Queue<T> {
    entries: BTreeMap<Revision, T>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<T> Queue<T> {
    /// The grant rule: the entry that holds the lock.
    #[must_use]
    pub fn holder(&self) -> Option<(Revision, &T)> {
        self.entries.first_key_value().map(|(at, entry)| (*at, entry))
    }

    /// Whether the entry created at this revision holds the lock.
    #[must_use]
    pub fn is_held_by(&self, at: Revision) -> bool {
        self.holder().is_some_and(|(holder, _)| holder == at)
    }

    /// Adds the entry that was created at a revision.
    pub fn insert(&mut self, at: Revision, entry: T) {
        self.entries.insert(at, entry);
    }

    /// Takes an entry out, and with it the lock if it held that.
    pub fn remove(&mut self, at: Revision) -> Option<T> {
        self.entries.remove(&at)
    }

    /// The entry that was granted the lock by changes made since `before` held it. Changes
    /// that belong together are all applied before this is asked: an entry that goes in the
    /// same step as the holder was never granted anything.
    #[must_use]
    pub fn granted_since(&self, before: Option<Revision>) -> Option<(Revision, &T)> {
        self.holder().filter(|(now, _)| before != Some(*now))
    }

    /// How many entries are ahead of the one created at this revision.
    #[must_use]
    pub fn ahead_of(&self, at: Revision) -> usize {
        self.entries.range(..at).count()
    }

    /// The entries in order, the holder first.
    pub fn iter(&self) -> impl Iterator<Item = (Revision, &T)> {
        self.entries.iter().map(|(at, entry)| (*at, entry))
    }

    /// How many entries there are, the holder included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the lock is free.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests;
