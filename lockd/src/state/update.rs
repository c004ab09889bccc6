//! Changes to what is held, and wishes of others.

use bytes::Bytes;
use lockd_proto::{RequestId, SessionId};

use super::{
    Described, Details, Effect, Entry, Failure, Finished, News, Outcome, Seat, Stage, State,
    turn::{LeaveCause, Turn},
};
use crate::record::{Change, LockId, Mode};

const NOT_HELD: Outcome =
    Outcome::Failed(Failure::ChangeRefused("the lock is not held by this request"));

impl State {
    pub(super) fn update(
        &mut self,
        session: SessionId,
        request: RequestId,
        change: Change,
        turn: &mut Turn<'_>,
    ) -> Outcome {
        if self.session(session).is_none() {
            return Outcome::NoSession;
        }
        let Some(slot) = self.slot_of(session, request) else {
            return NOT_HELD;
        };
        let Some(entry) = self.entry(slot) else {
            return NOT_HELD;
        };
        if !entry.is_held() || entry.stage != Stage::Here {
            return NOT_HELD;
        }
        match change {
            Change::Downgrade => self.downgrade(slot, turn),
            Change::Value(value) => {
                self.rewrite(slot, |details| details.value = value, turn);
                Outcome::Updated
            }
            Change::Result(result) => self.complete(slot, result, turn),
        }
    }

    fn downgrade(&mut self, slot: u32, turn: &mut Turn<'_>) -> Outcome {
        let Some(entry) = self.entry(slot) else {
            return NOT_HELD;
        };
        let one = entry.locks.count() == 1;
        if entry.mode.kind() != Mode::Shared.kind() || !one {
            let problem = "only one lock that is held by itself can become shared";
            return Outcome::Failed(Failure::ChangeRefused(problem));
        }
        let (token, locks) = (entry.token, entry.locks.clone());
        self.open_entry(slot);
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            entry.mode = Mode::Shared;
        }
        self.seal_entry(slot);
        for lock in locks.as_slice() {
            if let Some(there) = self.locks.get_mut(lock) {
                there.queue.replace(token, Seat { slot, mode: Mode::Shared });
                turn.touch(lock);
            }
        }
        Outcome::Updated
    }

    /// Stores the result of a once. The entries that wait to run it are refused with it.
    fn complete(&mut self, slot: u32, result: Bytes, turn: &mut Turn<'_>) -> Outcome {
        let Some(entry) = self.entry(slot) else {
            return NOT_HELD;
        };
        let lock = entry.locks.as_slice().first().cloned();
        let Some(lock) = lock.filter(|_| entry.mode == Mode::Once) else {
            return Outcome::Failed(Failure::ChangeRefused("only a once has a result"));
        };
        let queue = self.locks.get(&lock).into_iter().flat_map(|there| there.queue.iter());
        let others: Vec<_> =
            queue.map(|(_, seat)| seat.slot).filter(|other| *other != slot).collect();
        self.take_out(slot, LeaveCause::BySession, turn);
        for other in others {
            self.take_out(other, LeaveCause::Done(result.clone()), turn);
        }
        self.store_result(lock, Finished { at: turn.cx.at, result });
        Outcome::Updated
    }

    /// Changes what is shown beside an entry.
    fn rewrite(&mut self, slot: u32, change: impl FnOnce(&mut Details), turn: &mut Turn<'_>) {
        self.open_entry(slot);
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            change(entry.details.get_or_insert_default());
            entry.locks.as_slice().iter().for_each(|lock| turn.touch(lock));
        }
        self.seal_entry(slot);
    }

    pub(super) fn request_yield(
        &mut self,
        lock: &LockId,
        reason: &str,
        turn: &mut Turn<'_>,
    ) -> Outcome {
        let Some(there) = self.locks.get(lock) else {
            return Outcome::Failed(Failure::LockNotFound);
        };
        let holders: Vec<_> = there.queue.holders().map(|seat| seat.slot).collect();
        let yields = |entry: &Entry| !matches!(entry.mode, Mode::Party { .. } | Mode::Share(_));
        if !holders.iter().filter_map(|slot| self.entry(*slot)).all(yields) {
            let problem = "the parties of a barrier and the shares of a group do not yield";
            return Outcome::Failed(Failure::ChangeRefused(problem));
        }
        Outcome::Asked(
            holders.into_iter().filter_map(|slot| self.ask_to_yield(slot, reason, turn)).collect(),
        )
    }

    fn ask_to_yield(&mut self, slot: u32, reason: &str, turn: &mut Turn<'_>) -> Option<Described> {
        let news = News::YieldRequested(reason.into());
        self.rewrite(slot, |details| details.yield_reason = reason.into(), turn);
        let entry = self.entry(slot)?;
        // In several queues it may hold this one, and wait in another.
        if entry.is_held() && entry.stage == Stage::Here {
            let Entry { session, request, token, .. } = *entry;
            turn.effects.push(Effect::Entry { session, request, token, news });
        }
        Some(self.describe(entry))
    }

    pub(super) fn forget(&mut self, lock: &LockId) -> Outcome {
        Outcome::Forgotten(self.remove_result(lock))
    }
}
