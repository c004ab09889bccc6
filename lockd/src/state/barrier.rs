//! Barriers: parties that come in together and leave together.
//!
//! The first parties of a queue, as many as meet, are a generation. They hold once all have come.
//! A party that releases has left, and waits for the others; when all have left, all go. A party
//! that dies, cancels or is taken out breaks the barrier: the whole generation goes at once, and
//! those who live hear that it is broken. A party that dies after it has left is missed by none.

use super::{
    Outcome, Stage, State,
    settle::{Exit, Turn},
};
use crate::record::{Kind, LockId};

impl State {
    /// A party has left, and waits for the others to do so.
    pub(super) fn party_leaves(&mut self, slot: u32, turn: &mut Turn<'_>) -> Outcome {
        self.open_entry(slot);
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            entry.stage = Stage::Left;
            for lock in entry.locks.as_slice() {
                if let Some(there) = self.locks.get_mut(lock) {
                    there.left += 1;
                    turn.touch(lock);
                }
            }
        }
        self.seal_entry(slot);
        Outcome::Leaving
    }

    /// A party goes without the others. If it is of the generation that meets, that is broken.
    pub(super) fn leave_barrier(&mut self, slot: u32, exit: Exit, turn: &mut Turn<'_>) {
        let Some(entry) = self.entry(slot) else {
            return;
        };
        let Some(lock) = entry.locks.as_slice().first().cloned() else {
            return;
        };
        let generation = self.parties(&lock);
        self.take_out(slot, exit, turn);
        if generation.contains(&slot) {
            for other in generation.into_iter().filter(|other| *other != slot) {
                self.take_out(other, Exit::Broken, turn);
            }
        }
    }

    /// The generation that meets, or is to meet.
    pub(super) fn parties(&self, lock: &LockId) -> Vec<u32> {
        let Some(there) = self.locks.get(lock) else {
            return vec![];
        };
        let Some(Kind::Barrier { parties }) = there.queue.kind() else {
            return vec![];
        };
        let size = usize::try_from(parties).unwrap_or(usize::MAX);
        there.queue.iter().take(size).map(|(_, seat)| seat.slot).collect()
    }
}
