//! Joining queues.

use super::{
    Ahead, Asker, Entry, Failure, MAX_ENTRIES, Outcome, Queue, Refusal, Seat, Stage, State,
    turn::{LeaveCause, Turn},
};
use crate::record::{Enqueue, LockId, Mode, Wait};

impl State {
    pub(super) fn enqueue(&mut self, enqueue: Enqueue, turn: &mut Turn<'_>) -> Outcome {
        let asker = Asker { author: turn.cx.author, stream: enqueue.stream, claim: turn.cx.at };
        let Some(session) = self.session(enqueue.session) else {
            return Outcome::NoSession;
        };
        if !session.is_reached_by(asker.author, asker.stream) {
            return Outcome::Superseded;
        }
        if let Some(slot) = session.entries.get(&enqueue.request).copied() {
            return self.ask_again(slot, &enqueue, asker, turn);
        }
        if let Some(ending) = session.ending(enqueue.request) {
            return Outcome::Refused(ending.refusal());
        }
        if session.entries_len() >= MAX_ENTRIES {
            return Outcome::Failed(Failure::TooManyEntries);
        }
        if let Some(outcome) = self.obstacle(&enqueue) {
            return outcome;
        }
        self.join(Entry::new(enqueue, asker, turn.cx.now), turn)
    }

    /// A request whose entry is there: a retry, perhaps by another replica or stream, which from now on
    /// is the one that may end its wait.
    fn ask_again(
        &mut self,
        slot: u32,
        enqueue: &Enqueue,
        asker: Asker,
        turn: &mut Turn<'_>,
    ) -> Outcome {
        let Some(entry) = self.entry(slot) else {
            return Outcome::NoSession;
        };
        if entry.stage != Stage::Here || !entry.is_asked_for_by(enqueue) {
            return Outcome::Failed(Failure::RequestIdReused);
        }
        let (token, held) = (entry.token, entry.is_held());
        if !held && enqueue.wait == Wait::Not {
            // The time to wait is over: nothing of it may stay behind.
            let ahead = self.ahead_of(slot);
            self.leave_unheard(slot, LeaveCause::Unheard, turn);
            return Outcome::Refused(Refusal::Busy(ahead));
        }
        self.open_entry(slot);
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            (entry.asker, entry.wait) = (asker, enqueue.wait);
            entry.wait_until(enqueue.info.wait_until_unix_ms);
        }
        self.seal_entry(slot);
        if held { Outcome::Granted { token } } else { Outcome::Queued { token } }
    }

    /// What keeps an entry from being made at all.
    fn obstacle(&self, enqueue: &Enqueue) -> Option<Outcome> {
        let mode = enqueue.mode;
        for lock in &enqueue.locks {
            if mode == Mode::Once
                && let Some(finished) = self.results.get(lock)
            {
                return Some(Outcome::Refused(Refusal::Done(finished.result.clone())));
            }
            let Some(there) = self.locks.get(lock) else {
                continue;
            };
            let (asked, kind) = (mode.kind(), there.queue.kind());
            if let Some(there) = kind.filter(|there| *there != asked) {
                let lock = lock.clone();
                return Some(Outcome::Failed(Failure::KindMismatch { lock, asked, there }));
            }
            if self.is_upgrade(enqueue, lock) {
                return Some(Outcome::Failed(Failure::UpgradeRefused(lock.clone())));
            }
        }
        let is_try = enqueue.wait == Wait::Not;
        let taken = enqueue.locks.iter().find(|lock| is_try && !self.would_grant(lock, mode))?;
        Some(Outcome::Refused(Refusal::Busy(self.ahead(taken).map(Box::new))))
    }

    /// Whether an entry of this mode that joined now would hold the lock at once.
    #[must_use]
    pub fn would_grant(&self, lock: &LockId, mode: Mode) -> bool {
        let free = || Queue::<Seat>::default().would_grant(mode);
        self.locks.get(lock).map_or_else(free, |there| there.queue.would_grant(mode))
    }

    /// Whether an owner holds a lock shared and asks for it exclusive: two that do would wait for
    /// each other.
    fn is_upgrade(&self, enqueue: &Enqueue, lock: &LockId) -> bool {
        let owner = &enqueue.info.owner;
        enqueue.mode == Mode::Exclusive
            && !owner.is_empty()
            && self.holds_shared(enqueue.session, lock, owner)
    }

    fn join(&mut self, entry: Entry, turn: &mut Turn<'_>) -> Outcome {
        let (token, mode) = (entry.token, entry.mode);
        let (session, request) = (entry.session, entry.request);
        let locks = entry.locks.clone();
        let slot = self.insert_entry(entry);
        locks.as_slice().iter().for_each(|lock| turn.touch(lock));
        turn.joining = Some((token, Seat { slot, mode }));
        if let Some(there) = self.session_mut(session) {
            there.entries.insert(request, slot);
        }
        self.note_owner(slot);
        self.settle(turn);
        turn.joining = None;
        match self.entry(slot) {
            Some(entry) if entry.is_held() => Outcome::Granted { token },
            entry => {
                entry.into_iter().for_each(|entry| self.look_at_owner(entry, turn));
                Outcome::Queued { token }
            }
        }
    }

    /// Keeps a new entry, in no queue yet.
    pub(super) fn insert_entry(&mut self, entry: Entry) -> u32 {
        let slot = slot(self.entries.insert(entry));
        self.seal_entry(slot);
        slot
    }

    /// Who is ahead of an entry, in the first queue where it waits.
    pub(super) fn ahead_of(&self, slot: u32) -> Option<Box<Ahead>> {
        let entry = self.entry(slot)?;
        let locks = entry.locks.as_slice().iter();
        let there = locks.filter_map(|lock| self.locks.get(lock));
        let waits = there.into_iter().find(|there| !there.queue.is_held_by(entry.token))?;
        let count = waits.queue.ahead_of(entry.token);
        Some(Box::new(Ahead { count, holder: self.first_holder(waits) }))
    }
}

/// More entries than a `u32` counts do not fit in memory.
pub(super) fn slot(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
