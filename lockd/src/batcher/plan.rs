//! Which of the waiting writes go into the next batch.

use std::collections::{HashMap, HashSet, VecDeque};

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

/// Writes in the order in which they came, but for those that wait for another one: what is
/// looked at for a batch is what may go with it.
#[derive(Debug)]
pub(super) struct Pending<W> {
    line: VecDeque<W>,
    /// Writes that wait for what they claim, in their order.
    waiting: HashMap<Key, VecDeque<W>>,
    /// The keys of the batches that are under way: a write of the same key has to wait, or it
    /// might be applied first.
    in_flight: HashSet<Key>,
    len: usize,
}

impl<W> Default for Pending<W> {
    fn default() -> Self {
        let (line, waiting, in_flight) = (VecDeque::new(), HashMap::new(), HashSet::new());
        Self { line, waiting, in_flight, len: 0 }
    }
}

impl<W: Write> Pending<W> {
    pub(super) fn push(&mut self, write: W, profile: &Profile) {
        self.len += 1;
        let ahead = claims(write.op(), profile).find(|claim| self.waiting.contains_key(*claim));
        match ahead.cloned().and_then(|claim| self.waiting.get_mut(&claim)) {
            Some(others) => others.push_back(write),
            None => self.line.push_back(write),
        }
    }

    pub(super) fn push_front(&mut self, write: W) {
        self.len += 1;
        self.line.push_front(write);
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A batch has come to its end.
    pub(super) fn settled<'a>(&mut self, batch: impl IntoIterator<Item = &'a W>)
    where
        W: 'a,
    {
        for key in batch.into_iter().flat_map(|write| write.op().keys()) {
            self.in_flight.remove(key);
            self.free(key);
        }
    }

    /// Takes what one commit may carry: never two writes of one key, and, where the writes of
    /// a commit share a revision, never two new entries of one queue, for they would share a
    /// fencing token. What has to wait keeps its place.
    pub(super) fn next_batch(&mut self, profile: &Profile, kinds: Kinds) -> Vec<W> {
        let mut batch = Vec::new();
        let mut stays = Vec::new();
        let mut taken: HashSet<Key> = HashSet::new();
        let mut room = profile.max_ops;
        while room > 0
            && let Some(write) = self.line.pop_front()
        {
            let op = write.op();
            // A wide write leaves room for fewer others; alone it always fits.
            let is_wide = op.width() > room && !batch.is_empty();
            if is_wide || (kinds == Kinds::Deletes && !matches!(op, Op::Delete(_))) {
                stays.push(write);
                continue;
            }
            let is_taken = |claim: &&Key| taken.contains(*claim) || self.in_flight.contains(*claim);
            let claim = claims(op, profile).find(is_taken).cloned();
            if let Some(claim) = claim {
                self.waiting.entry(claim).or_default().push_back(write);
                continue;
            }
            room = room.saturating_sub(op.width());
            taken.extend(claims(op, profile).cloned());
            batch.push(write);
        }
        stays.into_iter().rev().for_each(|write| self.line.push_front(write));
        self.in_flight.extend(batch.iter().flat_map(|write| write.op().keys().cloned()));
        // Queues are free for the next batch; keys are when this one has come to its end.
        for claim in taken {
            if !self.in_flight.contains(&claim) {
                self.free(&claim);
            }
        }
        self.len -= batch.len();
        batch
    }

    /// Whoever has waited longest for this is next.
    fn free(&mut self, claim: &Key) {
        let Some(others) = self.waiting.get_mut(claim) else { return };
        if let Some(next) = others.pop_front() {
            self.line.push_front(next);
        }
        if others.is_empty() {
            self.waiting.remove(claim);
        }
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
