//! Which of the waiting writes go into the next batch.

use std::collections::{HashSet, VecDeque};

use super::Submitted;
use crate::store::{Key, Op, Profile};

/// Something that carries an operation.
pub(super) trait Write {
    fn op(&self) -> &Op;
}

impl Write for Submitted {
    fn op(&self) -> &Op {
        &self.op
    }
}

/// Which writes a batch may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinds {
    All,
    /// On a store that is full deletes still work, if nothing else is with them.
    Deletes,
}

/// Writes in the order in which they came.
#[derive(Debug)]
pub(super) struct Pending<W> {
    writes: VecDeque<W>,
    /// The keys of the batches that are under way: a write of the same key has to wait, or it
    /// might be applied first.
    in_flight: HashSet<Key>,
}

impl<W> Default for Pending<W> {
    fn default() -> Self {
        Self { writes: VecDeque::new(), in_flight: HashSet::new() }
    }
}

impl<W: Write> Pending<W> {
    pub(super) fn push(&mut self, write: W) {
        self.writes.push_back(write);
    }

    pub(super) fn push_front(&mut self, write: W) {
        self.writes.push_front(write);
    }

    pub(super) fn len(&self) -> usize {
        self.writes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// A batch has come to its end.
    pub(super) fn settled<'a>(&mut self, batch: impl IntoIterator<Item = &'a W>)
    where
        W: 'a,
    {
        for write in batch {
            for key in write.op().keys() {
                self.in_flight.remove(key);
            }
        }
    }

    /// Takes what one commit may carry: never two writes of one key, and, where the writes of
    /// a commit share a revision, never two new entries of one queue, for they would share a
    /// fencing token. What has to wait keeps its place.
    pub(super) fn next_batch(&mut self, profile: &Profile, kinds: Kinds) -> Vec<W> {
        let mut batch = Vec::new();
        let mut skipped = VecDeque::new();
        let mut taken: HashSet<Key> = HashSet::new();
        let mut room = profile.max_ops;
        while room > 0
            && let Some(write) = self.writes.pop_front()
        {
            let claims: Vec<_> = claims(write.op(), profile).cloned().collect();
            let waits = claims.iter().any(|key| taken.contains(key) || self.in_flight.contains(key))
                || (kinds == Kinds::Deletes && !matches!(write.op(), Op::Delete(_)))
                // A wide write leaves room for fewer others; alone it always fits.
                || (write.op().width() > room && !batch.is_empty());
            if waits {
                skipped.push_back(write);
                continue;
            }
            room = room.saturating_sub(write.op().width());
            taken.extend(claims);
            batch.push(write);
        }
        skipped.append(&mut self.writes);
        self.writes = skipped;
        self.in_flight.extend(batch.iter().flat_map(|write| write.op().keys().cloned()));
        batch
    }
}

/// What no other write of the same batch may claim: its keys and, where it matters, its queues.
fn claims<'a>(op: &'a Op, profile: &Profile) -> impl Iterator<Item = &'a Key> {
    let places = match op {
        Op::Enqueue(op) if !profile.revision_per_op => op.places.as_slice(),
        Op::Enqueue(_) | Op::Put(_) | Op::Delete(_) => &[],
    };
    op.keys().chain(places.iter().map(|place| &place.queue))
}
