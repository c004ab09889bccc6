//! What follows once an operation has changed queues: grants, and who hears of what.
//!
//! All changes of one operation are made before any queue advances, so that an entry that goes in
//! the same step as its holder is never granted anything.

use std::collections::btree_map;

use lockd_proto::{RequestId, SessionId};

use super::{
    Effect, Handoff, Lock, Moment, News, Stage, State,
    session::Ending,
    turn::{Departed, LeaveCause, Touched, Turn},
};
use crate::record::LockId;

impl State {
    /// Takes an entry out. It leaves its queues with [`settle`](Self::settle), together with all others
    /// that leave in this operation: until then they are as they were before.
    pub(super) fn take_out(&mut self, slot: u32, exit: LeaveCause, turn: &mut Turn<'_>) {
        self.open_entry(slot);
        let Some(entry) = self.entries.try_remove(slot as usize) else {
            return;
        };
        self.owners.forget(&entry);
        self.close_request(slot, (entry.session, entry.request), exit.ending(&entry));
        let held = entry.is_held();
        turn.depart(Departed { entry, held, exit });
    }

    /// The request that made an entry ends, if it is open. One whose entry stays for others to see has
    /// ended before, and its id may be another's.
    pub(super) fn close_request(
        &mut self,
        slot: u32,
        (session, request): (SessionId, RequestId),
        ending: Option<Ending>,
    ) {
        let Some(there) = self.session_mut(session) else {
            return;
        };
        if there.entries.get(&request) != Some(&slot) {
            return;
        }
        there.entries.remove(&request);
        if let Some(ending) = ending {
            self.remember(session, request, ending);
        }
    }

    /// A session remembers how a request has ended, for a late copy of it.
    pub(super) fn remember(&mut self, session: SessionId, request: RequestId, ending: Ending) {
        self.open_session_item(session);
        if let Some(there) = self.session_mut(session) {
            there.remember(request, ending);
        }
        self.seal_session_item(session);
    }

    /// Advances the queues that have changed, and says what follows.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>) {
        if turn.buffers.touched.is_empty() {
            return;
        }
        let mut departed = std::mem::take(&mut turn.buffers.departed);
        for gone in &departed {
            self.report_departure(gone, turn);
        }
        let mut touched = std::mem::take(&mut turn.buffers.touched);
        touched.sort_unstable();
        for changes in touched.chunk_by(|one, other| one.lock == other.lock) {
            self.change_queue(changes, &departed, turn);
        }
        departed.clear();
        touched.clear();
        (turn.buffers.departed, turn.buffers.touched) = (departed, touched);
    }

    /// Makes the changes of a queue, and grants what the rule allows by now.
    fn change_queue(&mut self, changes: &[Touched], departed: &[Departed], turn: &mut Turn<'_>) {
        let Some(Touched { lock, .. }) = changes.first() else {
            return;
        };
        let mut place = match (self.locks.entry(lock.clone()), turn.joining) {
            (btree_map::Entry::Occupied(place), _) => place,
            (btree_map::Entry::Vacant(place), Some(_)) => place.insert_entry(Box::default()),
            (btree_map::Entry::Vacant(_), None) => return,
        };
        let gone = changes.iter().filter_map(|change| departed.get(change.gone?));
        let there = place.get_mut();
        there.give_up(lock, gone.clone(), turn);
        turn.joining.iter().for_each(|(token, seat)| there.queue.insert(*token, *seat));
        let granted: Vec<u32> = there.queue.advance().map(|seat| seat.slot).collect();
        self.waiting = self.waiting + there.queue.waiting() - there.waiting as usize;
        there.waiting = u32::try_from(there.queue.waiting()).unwrap_or(u32::MAX);
        // A holder gives the lock up, where there was one.
        let from = gone.max_by_key(|gone| gone.held);
        if there.queue.is_empty() {
            place.remove();
            turn.freed += 1;
        } else if !granted.is_empty() && granted.len() == there.queue.held() {
            (there.held_since, there.last) = (turn.cx.now, None);
            self.keep_handoff(lock, from, turn.cx.now);
        }
        for slot in granted {
            self.grant(slot, lock, from.filter(|from| from.held), turn);
        }
        turn.effects.push(Effect::Changed(lock.clone()));
    }

    fn report_departure(&mut self, gone: &Departed, turn: &mut Turn<'_>) {
        let Departed { entry, held, exit } = gone;
        if !*held {
            self.look_at_owner(entry, turn);
        }
        let is_open = matches!(entry.stage, Stage::Here | Stage::Left);
        let hears = is_open && self.session_of(entry).is_some();
        if let Some(news) = gone.news().filter(|_| hears) {
            let (session, request, token) = (entry.session, entry.request, entry.token);
            turn.effects.push(Effect::Entry { session, request, token, news });
        }
        debug_assert!(
            *held || !matches!(exit, LeaveCause::AllLeft),
            "parties leave what they held"
        );
    }

    fn grant(&mut self, slot: u32, lock: &LockId, from: Option<&Departed>, turn: &mut Turn<'_>) {
        let Some(entry) = self.entries.get_mut(slot as usize) else {
            return;
        };
        entry.held_in += 1;
        let (session, request, token) = (entry.session, entry.request, entry.token);
        if let Some(from) = from {
            turn.effects.push(Effect::HandedOver {
                lock: lock.clone(),
                from: from.entry.token,
                trace: (!from.entry.trace().is_empty()).then(|| from.entry.trace().into()),
                from_request: from.entry.request,
                session,
                request,
            });
        }
        // Its own operation answers for an entry that was just made.
        if entry.is_held() && token < turn.cx.at {
            let joined = entry.joined;
            turn.effects.push(Effect::Entry {
                session,
                request,
                token,
                news: News::Granted { joined },
            });
        }
        self.note_granted(slot);
        if let Some(entry) = self.entry(slot) {
            self.look_at_owner(entry, turn);
        }
    }

    /// Keeps how a lock came to its holder, for people.
    fn keep_handoff(&mut self, lock: &LockId, from: Option<&Departed>, now: Moment) {
        let Some(from) = from.filter(|_| now != 0) else {
            return;
        };
        let handoff = Handoff { reason: from.reason(), from: self.describe(&from.entry), at: now };
        if let Some(there) = self.locks.get_mut(lock) {
            there.last = Some(Box::new(handoff));
        }
    }
}

impl Lock {
    /// Entries leave its queue.
    fn give_up<'a>(
        &mut self,
        lock: &LockId,
        gone: impl Iterator<Item = &'a Departed>,
        turn: &mut Turn<'_>,
    ) {
        let mut tokens = std::mem::take(&mut turn.buffers.tokens);
        for gone in gone {
            let Departed { entry, held, .. } = gone;
            tokens.push(entry.token);
            self.left -= u32::from(entry.stage == Stage::Left).min(self.left);
            if *held && entry.locks.as_slice().first() == Some(lock) {
                turn.effects.push(Effect::GaveWay {
                    session: entry.session,
                    request: entry.request,
                    held_since: self.held_since,
                    reason: gone.reason(),
                });
            }
        }
        tokens.sort_unstable();
        self.queue.remove(&tokens);
        tokens.clear();
        turn.buffers.tokens = tokens;
    }
}
