//! Leaving queues: cancelled, released, ended by others, or left behind by a session.

use lockd_proto::{RequestId, SessionId};

use super::{
    Described, Effect, Entry, Failure, MAX_ENTRIES, Outcome, SessionEnd, Stage, State,
    session::Ending,
    turn::{LeaveCause, Turn},
};
use crate::record::{LockId, Mode, OnLoss, Position, Release, WaitEnd};

const NOT_HERE: Failure =
    Failure::ChangeRefused("the entry has outlived its request: an operator can remove it");

impl State {
    pub(super) fn cancel(
        &mut self,
        session: SessionId,
        (stream, request): (u64, RequestId),
        turn: &mut Turn<'_>,
    ) -> Outcome {
        let Some(there) = self.session(session) else {
            return Outcome::NoSession;
        };
        if !there.is_reached_by(turn.cx.author, stream) {
            return Outcome::Superseded;
        }
        match self.slot_of(session, request) {
            Some(slot) => self.give_up(slot, turn),
            // The acquire may be on its way still, by a replica that has died since.
            None if stream == 0 => self.remember(session, request, Ending::BySession),
            None => {}
        }
        Outcome::Cancelled
    }

    /// A session gives an entry up: what others are to know of it stays.
    pub(super) fn give_up(&mut self, slot: u32, turn: &mut Turn<'_>) {
        match self.entry(slot).map(|entry| (entry.mode, entry.stage)) {
            // The others do not miss it.
            Some((_, Stage::Left)) | None => {}
            Some((Mode::Share(OnLoss::Fail), _)) => self.lose_share(slot, turn),
            Some(_) => self.leave_unheard(slot, LeaveCause::BySession, turn),
        }
    }

    /// An entry leaves whose client does not hold it: that waits, or whose grant was never sent.
    pub(super) fn leave_unheard(&mut self, slot: u32, exit: LeaveCause, turn: &mut Turn<'_>) {
        match self.entry(slot).map(|entry| entry.mode) {
            Some(Mode::Party { .. }) => self.leave_barrier(slot, exit, turn),
            Some(_) => self.take_out(slot, exit, turn),
            None => {}
        }
    }

    /// A share that is given up fails its group, and stays for others to see.
    fn lose_share(&mut self, slot: u32, turn: &mut Turn<'_>) {
        self.open_entry(slot);
        let Some(entry) = self.entries.get_mut(slot as usize) else {
            return;
        };
        entry.stage = Stage::Lost;
        let (request, ending) =
            ((entry.session, entry.request), LeaveCause::BySession.ending(entry));
        entry.locks.as_slice().iter().for_each(|lock| turn.touch(lock));
        self.seal_entry(slot);
        self.forget_owner(slot);
        self.close_request(slot, request, ending);
    }

    pub(super) fn release(&mut self, release: &Release, turn: &mut Turn<'_>) -> Outcome {
        let Release { session, request, named } = release;
        if self.session(*session).is_none() {
            return Outcome::NoSession;
        }
        let Some(slot) = self.slot_of(*session, *request) else {
            let another = named.as_ref().and_then(|(lock, token)| self.slot_at(lock, *token));
            let another = another.and_then(|slot| self.entry(slot));
            return match another.filter(|entry| entry.session != *session) {
                Some(_) => Outcome::Failed(Failure::NotHolder),
                None => Outcome::AlreadyLost,
            };
        };
        let Some(entry) = self.entry(slot) else {
            return Outcome::AlreadyLost;
        };
        let is_other = |(lock, token): &(LockId, Position)| {
            *token != entry.token || !entry.locks.as_slice().contains(lock)
        };
        if named.as_ref().is_some_and(is_other) {
            return Outcome::Failed(Failure::TokenMismatch);
        }
        match (entry.mode, entry.stage) {
            _ if !entry.is_held() => Outcome::Failed(Failure::StillWaiting),
            (Mode::Party { .. }, Stage::Here) => self.party_leaves(slot, turn),
            (_, Stage::Left) => Outcome::Leaving,
            (_, Stage::Here) => self.released(slot, turn),
            (_, Stage::Lost | Stage::Delayed { .. }) => Outcome::Failed(NOT_HERE),
        }
    }

    fn released(&mut self, slot: u32, turn: &mut Turn<'_>) -> Outcome {
        let Some(entry) = self.entry(slot) else {
            return Outcome::AlreadyLost;
        };
        let plain_mode =
            matches!(entry.mode, Mode::Exclusive | Mode::Shared | Mode::Permits { .. });
        // A leader has a value that others follow: its resignation is no plain release.
        let is_seen = entry.details.as_ref().is_some_and(|details| !details.value.is_empty());
        let is_plain =
            plain_mode && !is_seen && entry.lock_delay_ms == 0 && entry.asker.stream != 0;
        let locks = entry.locks.as_slice().len();
        self.take_out(slot, LeaveCause::BySession, turn);
        self.settle(turn);
        Outcome::Released { is_plain: is_plain && turn.freed == locks }
    }

    pub(super) fn end_wait(
        &mut self,
        lock: &LockId,
        (token, claim): (Position, Position),
        why: WaitEnd,
        turn: &mut Turn<'_>,
    ) -> Outcome {
        let Some(slot) = self.slot_at(lock, token) else {
            return Outcome::Done;
        };
        let Some(entry) = self.entry(slot) else {
            return Outcome::Done;
        };
        if entry.asker.claim != claim || entry.stage != Stage::Here {
            return Outcome::Done;
        }
        let waits = !entry.is_held();
        match why {
            WaitEnd::Expired if waits => {
                let ahead = self.ahead_of(slot);
                self.leave_unheard(slot, LeaveCause::WaitExpired(ahead), turn);
            }
            WaitEnd::Withdrawn if waits => self.leave_unheard(slot, LeaveCause::BySession, turn),
            WaitEnd::Deadlock { cycle, others } if waits && self.stands(&cycle, &others, token) => {
                self.take_out(slot, LeaveCause::Deadlock(cycle.into()), turn);
            }
            WaitEnd::Abandoned => self.leave_unheard(slot, LeaveCause::Unheard, turn),
            WaitEnd::Expired | WaitEnd::Withdrawn | WaitEnd::Deadlock { .. } => {}
        }
        Outcome::Done
    }

    pub(super) fn lapse(
        &mut self,
        lock: &LockId,
        (token, since): (Position, Position),
        turn: &mut Turn<'_>,
    ) -> Outcome {
        let slot = self.slot_at(lock, token);
        let there = slot.and_then(|slot| self.entry(slot)).map(|entry| entry.stage);
        if let (Some(slot), Some(Stage::Delayed { since: there })) = (slot, there)
            && there == since
        {
            self.take_out(slot, LeaveCause::Lapsed, turn);
        }
        Outcome::Done
    }

    pub(super) fn force(
        &mut self,
        lock: &LockId,
        token: Position,
        reason: &str,
        turn: &mut Turn<'_>,
    ) -> Outcome {
        let Some(slot) = self.slot_at(lock, token) else {
            let failure = match self.locks.contains_key(lock) {
                true => Failure::TokenMismatch,
                false => Failure::LockNotFound,
            };
            return Outcome::Failed(failure);
        };
        let Some(removed) = self.entry(slot).map(|entry| self.describe(entry)) else {
            return Outcome::Failed(Failure::TokenMismatch);
        };
        let exit = LeaveCause::Forced(reason.into());
        match removed.entry.mode {
            Mode::Party { .. } => self.leave_barrier(slot, exit, turn),
            _ => self.take_out(slot, exit, turn),
        }
        Outcome::Forced(Box::new(removed))
    }

    /// Ends a session: everything that it has open goes, but for what others have to see.
    pub(super) fn end_session(&mut self, id: SessionId, how: SessionEnd, turn: &mut Turn<'_>) {
        let Some(session) = self.remove_session(id) else {
            return;
        };
        let mut slots: Vec<_> = session.entries.values().copied().collect();
        debug_assert!(slots.len() <= MAX_ENTRIES, "a session's end is bounded");
        slots.sort_unstable_by_key(|slot| self.entry(*slot).map(|entry| entry.token));
        for slot in slots {
            self.outlive(slot, how, turn);
        }
        turn.effects.push(Effect::Ended { session: id, how });
    }

    /// What becomes of an entry whose session has ended.
    fn outlive(&mut self, slot: u32, how: SessionEnd, turn: &mut Turn<'_>) {
        let exit = match how {
            SessionEnd::Expired => LeaveCause::SessionExpired,
            SessionEnd::Closed => LeaveCause::SessionClosed,
        };
        // A barrier that was broken by another entry of the session has taken it out already.
        let Some(entry) = self.entry(slot) else {
            return;
        };
        match entry.mode {
            _ if entry.stage == Stage::Left => self.forget_owner(slot),
            Mode::Party { .. } => self.leave_barrier(slot, exit, turn),
            Mode::Share(OnLoss::Fail) => self.lose_share(slot, turn),
            _ if stays(entry, how) => self.delay(slot, turn),
            _ => self.take_out(slot, exit, turn),
        }
    }

    fn delay(&mut self, slot: u32, turn: &mut Turn<'_>) {
        let since = turn.cx.at;
        self.open_entry(slot);
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            entry.stage = Stage::Delayed { since };
            let (token, delay_ms) = (entry.token, entry.lock_delay_ms);
            entry.locks.as_slice().iter().for_each(|lock| turn.touch(lock));
            let lock = entry.locks.as_slice().first().cloned();
            let delayed = |lock| Effect::Delayed { lock, token, since, delay_ms };
            turn.effects.extend(lock.map(delayed));
        }
        self.seal_entry(slot);
        self.forget_owner(slot);
    }

    pub(super) fn describe(&self, entry: &Entry) -> Described {
        let client = self.session_of(entry).map(|session| session.client.clone());
        Described { entry: entry.clone(), client }
    }
}

/// Whether the locks of an entry stay taken after its session's end.
fn stays(entry: &Entry, how: SessionEnd) -> bool {
    how == SessionEnd::Expired && entry.lock_delay_ms > 0 && entry.is_held()
}
