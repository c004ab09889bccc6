//! Barriers: parties that come in together and leave together.
//!
//! The first parties of a queue, as many as meet, are a generation. They hold once all have come.
//! A party that releases has left, and waits for the others; when all have left, all go. A party
//! that dies, cancels or is taken out breaks the barrier: the whole generation goes at once, and
//! those who live hear that it is broken. A party that dies or cancels after it has left is missed by
//! none: its entry stays until all have left.

use super::{
    Outcome, Stage, State,
    turn::{LeaveCause, Turn},
};
use crate::record::{LockId, QueueKind};

impl State {
    /// A party has left, and waits for the others to do so. The last one ends the wait.
    pub(super) fn party_leaves(&mut self, slot: u32, turn: &mut Turn<'_>) -> Outcome {
        self.open_entry(slot);
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            entry.stage = Stage::Left;
        }
        self.seal_entry(slot);
        if let Some(lock) = self.barrier_of(slot)
            && let Some(there) = self.locks.get_mut(&lock)
        {
            there.left += 1;
            turn.touch(&lock);
            if there.left as usize == self.generation_size(&lock) {
                for slot in self.generation(&lock) {
                    self.take_out(slot, LeaveCause::AllLeft, turn);
                }
            }
        }
        Outcome::Leaving
    }

    /// The barrier that an entry is a party to.
    fn barrier_of(&self, slot: u32) -> Option<LockId> {
        self.entry(slot)?.locks.as_slice().first().cloned()
    }

    /// A party goes without the others. If it is of the generation that meets, that is broken.
    pub(super) fn leave_barrier(&mut self, slot: u32, exit: LeaveCause, turn: &mut Turn<'_>) {
        let Some(entry) = self.entry(slot) else {
            return;
        };
        let Some(lock) = self.barrier_of(slot) else {
            return;
        };
        let ahead = self.locks.get(&lock).map_or(0, |there| there.queue.ahead_of(entry.token));
        if ahead >= self.generation_size(&lock) {
            return self.take_out(slot, exit, turn);
        }
        let generation = self.generation(&lock);
        self.take_out(slot, exit, turn);
        for other in generation.into_iter().filter(|other| *other != slot) {
            self.take_out(other, LeaveCause::Broken, turn);
        }
    }

    /// How many parties meet; 0 where none do.
    fn generation_size(&self, lock: &LockId) -> usize {
        match self.locks.get(lock).and_then(|there| there.queue.kind()) {
            Some(QueueKind::Barrier { parties }) => usize::try_from(parties).unwrap_or(usize::MAX),
            Some(
                QueueKind::Lock
                | QueueKind::Semaphore { .. }
                | QueueKind::Group(_)
                | QueueKind::Once,
            )
            | None => 0,
        }
    }

    /// The generation that meets, or is to meet.
    fn generation(&self, lock: &LockId) -> Vec<u32> {
        let size = self.generation_size(lock);
        let queue = self.locks.get(lock).into_iter().flat_map(|there| there.queue.iter());
        queue.take(size).map(|(_, seat)| seat.slot).collect()
    }
}
