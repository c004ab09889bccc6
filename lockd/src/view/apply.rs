//! How a snapshot or a step of changes becomes the new state, and who is told of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use lockd_proto::{LockName, SessionId, clock::Instant, v1};
use prost::Message as _;

use super::{
    Entry, Handoff, HandoffReason, News, Place, Removal, Session, SessionEvent, State,
    story::{Ended, Left},
    waits,
};
use crate::{
    barrier::Stage,
    keys::{self, EntryId, LockId, Named},
    metrics,
    mode::Kind,
    record::{EntryRecord, NoteRecord, SessionRecord},
    store::{Change, Key, Record, Revision},
};

/// What a step did, collected while it is applied and told when it is whole.
#[derive(Default)]
struct Step {
    touched: BTreeSet<LockId>,
    joined: Vec<Arc<Entry>>,
    asked_to_yield: Vec<Arc<Entry>>,
    removed: Vec<Left>,
    ended: HashMap<SessionId, Ended>,
    deadlocks: Vec<v1::Deadlock>,
    news: News,
    /// When it happened, where it is seen as it happens.
    now: Option<Instant>,
}

impl State {
    /// Makes the state that of a snapshot, as one step of changes.
    pub(super) fn replace(&mut self, revision: Revision, records: Vec<Record>) -> News {
        let kept: HashSet<_> = records.iter().map(|record| record.key.clone()).collect();
        let gone = self.keys().filter(|key| !kept.contains(key)).map(Change::Deleted);
        let mut changes: Vec<_> = gone.collect();
        changes.extend(records.into_iter().map(Change::Put));
        let news = self.change(revision, changes, None);
        let dead = self.owned.keys().filter(|session| !self.sessions.contains_key(session));
        let dead = dead.flat_map(|session| self.entries_of(*session));
        let dead: Vec<_> = dead.filter_map(|entry| entry.slot()).collect();
        self.orphans.extend(dead);
        News { litter: news.litter || !self.orphans.is_empty(), ..news }
    }

    fn keys(&self) -> impl Iterator<Item = Key> {
        let entries = self.owned.iter().flat_map(|(session, owned)| {
            owned.keys().map(|(request, lock)| {
                keys::entry(lock, EntryId { session: *session, request: *request })
            })
        });
        let notes = self.notes.keys().map(|id| keys::note(*id));
        let results = self.results.keys().map(keys::result);
        let sessions = self.sessions.keys().map(|id| keys::session(*id));
        sessions.chain(entries).chain(notes).chain(results)
    }

    /// Applies all changes of one revision, then tells whom they concern. `now` is when, where
    /// they are seen as they happen.
    pub(super) fn change(
        &mut self,
        revision: Revision,
        changes: Vec<Change>,
        now: Option<Instant>,
    ) -> News {
        let mut step = Step { now, ..Step::default() };
        for change in changes {
            match change {
                Change::Put(record) => self.put(record, &mut step),
                Change::Deleted(key) => self.delete(&key, &mut step),
            }
        }
        self.revision = self.revision.max(revision);
        let ended = std::mem::take(&mut step.deadlocks);
        self.remember(ended, now);
        self.tell(step)
    }

    fn put(&mut self, record: Record, step: &mut Step) {
        match keys::parse(&record.key) {
            Some(Named::Session(id)) => self.put_session(id, &record),
            Some(Named::Entry(lock, id)) => self.put_entry(lock, id, &record, step),
            Some(Named::Note(id)) => {
                // One that can't be read is a forced release without a reason.
                let note = NoteRecord::decode(record.value).unwrap_or_default();
                step.deadlocks.extend(note.deadlock.clone());
                self.notes.insert(id, note);
            }
            Some(Named::Result(lock)) => drop(self.results.insert(lock, record.value)),
            None => tracing::warn!(key = ?record.key, "a key in the store is not lockd's: ignored"),
        }
    }

    fn put_session(&mut self, id: SessionId, record: &Record) {
        let Ok(decoded) = SessionRecord::decode(record.value.clone()) else {
            tracing::error!(session = %id, "the session's record can't be read: ignored");
            return;
        };
        let closing = decoded.closing;
        let session =
            Session { record: Arc::new(decoded), modified: record.modified, lease: record.lease };
        self.sessions.insert(id, session);
        if !closing {
            self.listeners.tell(id, SessionEvent::Attached(record.modified));
        }
    }

    fn put_entry(&mut self, lock: LockId, id: EntryId, record: &Record, step: &mut Step) {
        let decoded = EntryRecord::decode(record.value.clone()).unwrap_or_else(|_| {
            // It still has its place in the queue: to leave it out would let another one hold.
            tracing::error!(%lock, session = %id.session, "an entry's record can't be read");
            EntryRecord::default()
        });
        let before = self.owned(id, &lock).cloned();
        let seen = before.as_ref().filter(|before| before.created == record.created);
        let entry = Arc::new(Entry {
            seen: seen.map_or(step.now, |before| before.seen),
            locks: locks_of(&lock, &decoded),
            id,
            created: record.created,
            modified: record.modified,
            mode: decoded.mode(),
            record: Arc::new(decoded),
        });
        match before {
            Some(before) if before.created == entry.created => self.rewrite(&before, entry, step),
            // Deleted and made anew while the watch was away, and seen only in the snapshot.
            Some(stale) => {
                self.take_out(&stale, step);
                self.insert(entry, step);
            }
            None => self.insert(entry, step),
        }
    }

    fn insert(&mut self, entry: Arc<Entry>, step: &mut Step) {
        self.index(&entry, step);
        for lock in &*entry.locks {
            let queue = &mut self.locks.entry(lock.clone()).or_default().queue;
            queue.insert(entry.created, entry.clone());
            step.touched.insert(lock.clone());
        }
        step.joined.push(entry);
    }

    /// An entry was written again. In several queues it is written once for each, and the
    /// latest counts.
    fn rewrite(&mut self, before: &Arc<Entry>, entry: Arc<Entry>, step: &mut Step) {
        if entry.modified <= before.modified {
            return;
        }
        if !entry.record.yield_reason.is_empty()
            && entry.record.yield_reason != before.record.yield_reason
        {
            step.asked_to_yield.push(entry.clone());
        }
        self.index(&entry, step);
        for lock in &*entry.locks {
            if let Some(there) = self.locks.get_mut(lock) {
                there.queue.replace(entry.created, entry.clone());
                step.touched.insert(lock.clone());
            }
        }
    }

    fn index(&mut self, entry: &Arc<Entry>, step: &mut Step) {
        let EntryId { session, request } = entry.id;
        let owned = self.owned.entry(session).or_default();
        for lock in &*entry.locks {
            owned.insert((request, lock.clone()), entry.clone());
        }
        if let Some((owner, slot)) = waits::owner(entry).zip(entry.slot()) {
            self.owners.entry(owner).or_default().insert(slot, entry.clone());
            step.news.waits = true;
        }
    }

    fn delete(&mut self, key: &Key, step: &mut Step) {
        match keys::parse(key) {
            Some(Named::Session(id)) => {
                let session = self.sessions.remove(&id);
                let closed = session.is_some_and(|session| session.record.closing);
                step.ended.insert(id, if closed { Ended::Closed } else { Ended::Expired });
            }
            // All keys of an entry are deleted in one step: the first one stands for all.
            Some(Named::Entry(lock, id)) => {
                if let Some(entry) = self.owned(id, &lock).cloned() {
                    self.take_out(&entry, step);
                }
            }
            Some(Named::Note(id)) => drop(self.notes.remove(&id)),
            Some(Named::Result(lock)) => drop(self.results.remove(&lock)),
            None => {}
        }
    }

    fn take_out(&mut self, entry: &Arc<Entry>, step: &mut Step) {
        let held = self.is_held(entry);
        let EntryId { session, request } = entry.id;
        if let Some(owned) = self.owned.get_mut(&session) {
            for lock in &*entry.locks {
                owned.remove(&(request, lock.clone()));
            }
            if owned.is_empty() {
                self.owned.remove(&session);
            }
        }
        if let Some((owner, slot)) = waits::owner(entry).zip(entry.slot())
            && let Some(entries) = self.owners.get_mut(&owner)
        {
            entries.remove(&slot);
            if entries.is_empty() {
                self.owners.remove(&owner);
            }
            step.news.waits = true;
        }
        if let Some(slot) = entry.slot() {
            self.orphans.remove(&slot);
        }
        for lock in &*entry.locks {
            if let Some(there) = self.locks.get_mut(lock) {
                there.queue.remove(entry.created);
                step.touched.insert(lock.clone());
            }
        }
        step.removed.push((entry.clone(), held));
    }

    fn tell(&mut self, mut step: Step) -> News {
        self.measure(&step);
        for session in step.ended.keys() {
            self.listeners.end(*session);
            let left: Vec<_> = self.entries_of(*session).cloned().collect();
            for entry in left {
                self.orphans.extend(entry.slot());
                step.touched.extend(entry.locks.iter().cloned());
                step.news.litter = true;
            }
        }
        for (entry, held) in &step.removed {
            let cause = self.cause(entry.id);
            self.traces.gone(entry.id, || {
                let ended = step.ended.get(&entry.id.session).copied();
                HandoffReason::new(entry, *held, &cause, ended)
            });
            let removed = SessionEvent::Removed(entry.clone(), cause);
            self.listeners.tell(entry.id.session, removed);
        }
        let mut granted = BTreeMap::new();
        for lock in &step.touched {
            let entries = self.advance(lock, &step).into_iter();
            granted.extend(entries.map(|entry| ((entry.created, entry.slot()), entry)));
        }
        granted.into_values().for_each(|entry| self.tell_granted(entry, step.now));
        for entry in &step.joined {
            self.tell_misplaced(entry);
        }
        for lock in &step.touched {
            self.look_at_kind(lock);
        }
        for entry in step.asked_to_yield {
            let session = entry.id.session;
            self.listeners.tell(session, SessionEvent::YieldRequested(entry));
        }
        for lock in &step.touched {
            step.news.litter |= self.look_at_barrier(lock);
            self.count(lock);
            if self.locks.get(lock).is_some_and(|lock| lock.queue.is_empty()) {
                self.locks.remove(lock);
                self.releasing.remove(lock);
            }
            self.listeners.changed(lock);
        }
        step.news
    }

    fn cause(&self, id: EntryId) -> Removal {
        match self.notes.get(&id) {
            Some(NoteRecord { text, deadlock: None }) => Removal::Forced { reason: text.clone() },
            // Its session's own replica has ended the wait.
            Some(NoteRecord { deadlock: Some(_), .. }) => Removal::BySession,
            None => Removal::BySession,
        }
    }

    /// Grants what a lock's queue allows by now, and keeps its story.
    fn advance(&mut self, lock: &LockId, step: &Step) -> Vec<Arc<Entry>> {
        let Some(there) = self.locks.get_mut(lock) else { return vec![] };
        let granted: Vec<_> = there.queue.advance().cloned().collect();
        if granted.is_empty() {
            return granted;
        }
        // A holder that leaves hands over; one that waited and leaves only makes way.
        let left = step.removed.iter().filter(|(entry, _)| entry.locks.contains(lock));
        let from = left.max_by_key(|(_, held)| *held);
        if let Some((from, true)) = from {
            granted.iter().for_each(|entry| self.traces.handed_over(entry.id, from));
            self.measure_handoff(lock, from.created, step.now);
        }
        let handoff = from.zip(step.now).map(|((entry, held), at)| {
            let ended = step.ended.get(&entry.id.session).copied();
            let reason = HandoffReason::new(entry, *held, &self.cause(entry.id), ended);
            Handoff { reason, from: self.describe(entry), at }
        });
        if let Some(there) = self.locks.get_mut(lock)
            && there.queue.held() == granted.len()
        {
            there.story.held_since = step.now;
            there.story.last = handoff.map(Box::new);
        }
        granted
    }

    /// Counts how long a lock took to pass on, where its release came in here.
    fn measure_handoff(&mut self, lock: &LockId, from: Revision, now: Option<Instant>) {
        let releasing = self.releasing.remove(lock).filter(|(token, _)| *token == from);
        if let (Some((_, asked)), Some(now)) = (releasing, now) {
            metrics::handed_over(now.saturating_duration_since(asked));
        }
    }

    fn tell_granted(&mut self, entry: Arc<Entry>, now: Option<Instant>) {
        // In several queues it may hold here and wait there; in a broken barrier nobody holds.
        if !matches!(self.place(&entry), Place::Held | Place::Done) {
            return;
        }
        let (seen, locks) = (entry.seen, entry.locks.clone());
        let is_told = self.listeners.tell(entry.id.session, SessionEvent::Granted(entry));
        if let (true, Some(now), Some(seen)) = (is_told, now, seen) {
            metrics::granted(&locks, now.saturating_duration_since(seen));
        }
    }

    /// Counts who gives way, while it is known since when they held.
    fn measure(&self, step: &Step) {
        let Some(now) = step.now else { return };
        for _ in step.ended.values().filter(|ended| **ended == Ended::Expired) {
            metrics::expired();
        }
        for (entry, _) in step.removed.iter().filter(|(_, held)| *held) {
            let ended = step.ended.get(&entry.id.session).copied();
            let reason = HandoffReason::new(entry, true, &self.cause(entry.id), ended);
            let lock = entry.locks.first().and_then(|lock| self.locks.get(lock));
            let since = lock.and_then(|lock| lock.story.held_since);
            metrics::gave_way(&reason, since.map(|since| now.saturating_duration_since(since)));
        }
    }

    /// Counts who waits for a lock.
    fn count(&mut self, lock: &LockId) {
        let Some(there) = self.locks.get_mut(lock) else { return };
        let now = there.queue.len() - there.queue.held();
        let before = std::mem::replace(&mut there.waiting, now);
        self.waiting = self.waiting - before + now;
    }

    fn tell_misplaced(&mut self, entry: &Arc<Entry>) {
        if let Some(kind) = self.misplaced(entry) {
            let misplaced = SessionEvent::Misplaced(entry.clone(), kind);
            self.listeners.tell(entry.id.session, misplaced);
        }
    }

    /// Where another kind has come to the head of a queue, those behind it are misplaced.
    fn look_at_kind(&mut self, lock: &LockId) {
        let Some(there) = self.locks.get_mut(lock) else { return };
        let kind = there.queue.kind();
        if std::mem::replace(&mut there.kind, kind) == kind {
            return;
        }
        let entries: Vec<_> = there.queue.iter().map(|(_, entry)| entry.clone()).collect();
        entries.iter().for_each(|entry| self.tell_misplaced(entry));
    }

    /// Tells the parties of a broken barrier, and says whether one is to be cleared away.
    fn look_at_barrier(&mut self, lock: &LockId) -> bool {
        let stage = self.locks.get(lock).map(|lock| self.stage(&lock.queue));
        if stage == Some(Stage::Over) {
            return self.over.insert(lock.clone());
        }
        self.over.remove(lock);
        if stage == Some(Stage::Broken)
            && let Some(there) = self.locks.get(lock)
            && let Some(Kind::Barrier { parties }) = there.queue.kind()
        {
            let size = usize::try_from(parties).unwrap_or(usize::MAX);
            for (_, entry) in there.queue.iter().take(size) {
                self.listeners.tell(entry.id.session, SessionEvent::Broken(entry.clone()));
            }
        }
        false
    }
}

/// The locks that an entry is in: those that it names, and at least the one of its key.
fn locks_of(lock: &LockId, record: &EntryRecord) -> Arc<[LockId]> {
    let names = record.names.iter().filter_map(|name| LockName::parse(name.as_str()).ok());
    let locks: Arc<[_]> = names.map(|name| lock.sibling(&name)).collect();
    if locks.contains(lock) { locks } else { Arc::new([lock.clone()]) }
}
