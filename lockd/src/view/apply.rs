//! How a snapshot or a step of changes becomes the new state, and who is told of it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use prost::Message as _;

use super::{Described, Entry, QueueView, Removal, Session, SessionEvent, State};
use crate::{
    keys::{self, EntryId, LockId, Named},
    queue::Queue,
    record::{EntryRecord, SessionRecord},
    store::{Change, Key, Record, Revision},
};

/// What a step did, collected while it is applied and told when it is whole.
#[derive(Default)]
struct Step {
    /// The locks that it touched, each with its holder before.
    touched: HashMap<LockId, Option<Revision>>,
    removed: Vec<(Arc<Entry>, bool)>,
    ended: HashSet<lockd_proto::SessionId>,
}

impl State {
    /// Makes the state that of a snapshot, as one step of changes.
    pub(super) fn replace(&mut self, revision: Revision, records: Vec<Record>) {
        let kept: HashSet<_> = records.iter().map(|record| record.key.clone()).collect();
        let gone = self.keys().filter(|key| !kept.contains(key)).map(Change::Deleted);
        let mut changes: Vec<_> = gone.collect();
        changes.extend(records.into_iter().map(Change::Put));
        self.change(revision, changes);
    }

    fn keys(&self) -> impl Iterator<Item = Key> {
        let entries = self.owned.values().flat_map(|owned| owned.values());
        let entries = entries.map(|entry| keys::entry(&entry.lock, entry.id));
        let notes = self.notes.keys().map(|id| keys::note(*id));
        self.sessions.keys().map(|id| keys::session(*id)).chain(entries).chain(notes)
    }

    /// Applies all changes of one revision, then tells whom they concern.
    pub(super) fn change(&mut self, revision: Revision, changes: Vec<Change>) {
        let mut step = Step::default();
        for change in changes {
            match change {
                Change::Put(record) => self.put(record, &mut step),
                Change::Deleted(key) => self.delete(&key, &mut step),
            }
        }
        self.revision = self.revision.max(revision);
        self.tell(step);
    }

    fn put(&mut self, record: Record, step: &mut Step) {
        match keys::parse(&record.key) {
            Some(Named::Session(id)) => self.put_session(id, &record),
            Some(Named::Entry(lock, id)) => self.put_entry(lock, id, &record, step),
            Some(Named::Note(id)) => {
                let note = String::from_utf8_lossy(&record.value).into_owned();
                self.notes.insert(id, note);
            }
            None => tracing::warn!(key = ?record.key, "a key in the store is not lockd's: ignored"),
        }
    }

    fn put_session(&mut self, id: lockd_proto::SessionId, record: &Record) {
        let Ok(decoded) = SessionRecord::decode(record.value.clone()) else {
            tracing::error!(session = %id, "the session's record can't be read: ignored");
            return;
        };
        let session =
            Session { record: Arc::new(decoded), modified: record.modified, lease: record.lease };
        self.sessions.insert(id, session);
        self.listeners.tell(id, SessionEvent::Attached(record.modified));
    }

    fn put_entry(&mut self, lock: LockId, id: EntryId, record: &Record, step: &mut Step) {
        let Ok(decoded) = EntryRecord::decode(record.value.clone()) else {
            // It still has its place in the queue: to leave it out would let another one hold.
            tracing::error!(%lock, session = %id.session, "an entry's record can't be read");
            return self.insert(lock, id, record.created, EntryRecord::default(), step);
        };
        self.insert(lock, id, record.created, decoded, step);
    }

    fn insert(
        &mut self,
        lock: LockId,
        id: EntryId,
        created: Revision,
        record: EntryRecord,
        step: &mut Step,
    ) {
        let owned = self.owned.entry(id.session).or_default();
        let entry = Arc::new(Entry { lock: lock.clone(), id, created, record });
        let before = owned.insert(id.request, entry.clone());
        if before.as_ref().is_some_and(|before| before.created == created) {
            return;
        }
        // Deleted and made anew while the watch was away, and seen only in the snapshot.
        if let Some(stale) = before {
            self.take_from_queue(&stale, step);
        }
        let queue = self.locks.entry(lock.clone()).or_default();
        step.touched.entry(lock).or_insert_with(|| queue.holder().map(|(at, _)| at));
        queue.insert(created, entry);
    }

    fn delete(&mut self, key: &Key, step: &mut Step) {
        match keys::parse(key) {
            Some(Named::Session(id)) => {
                self.sessions.remove(&id);
                step.ended.insert(id);
            }
            Some(Named::Entry(_, id)) => self.remove(id, step),
            Some(Named::Note(id)) => {
                self.notes.remove(&id);
            }
            None => {}
        }
    }

    fn remove(&mut self, id: EntryId, step: &mut Step) {
        let Some(owned) = self.owned.get_mut(&id.session) else {
            return;
        };
        let entry = owned.remove(&id.request);
        if owned.is_empty() {
            self.owned.remove(&id.session);
        }
        if let Some(entry) = entry {
            self.take_from_queue(&entry, step);
        }
    }

    fn take_from_queue(&mut self, entry: &Arc<Entry>, step: &mut Step) {
        let Some(queue) = self.locks.get_mut(&entry.lock) else {
            return;
        };
        let holder = queue.holder().map(|(at, _)| at);
        let before = *step.touched.entry(entry.lock.clone()).or_insert(holder);
        queue.remove(entry.created);
        step.removed.push((entry.clone(), before == Some(entry.created)));
        if queue.is_empty() {
            self.locks.remove(&entry.lock);
        }
    }

    fn tell(&mut self, step: Step) {
        for session in &step.ended {
            self.listeners.end(*session);
        }
        for (entry, held) in step.removed {
            let EntryId { session, request } = entry.id;
            let cause = match self.notes.get(&entry.id) {
                Some(reason) => Removal::Forced { reason: reason.clone() },
                None => Removal::BySession,
            };
            let token = entry.created;
            self.listeners.tell(session, SessionEvent::Removed { request, token, held, cause });
        }
        for (lock, before) in step.touched {
            let queue = self.locks.get(&lock);
            if let Some((token, entry)) = queue.and_then(|queue| queue.granted_since(before)) {
                let EntryId { session, request } = entry.id;
                let granted = SessionEvent::Granted { request, token, lock: lock.clone() };
                self.listeners.tell(session, granted);
            }
            self.listeners.changed(&lock);
        }
    }

    pub(super) fn is_held(&self, entry: &Entry) -> bool {
        self.locks.get(&entry.lock).is_some_and(|queue| queue.is_held_by(entry.created))
    }

    pub(super) fn describe(&self, entry: &Arc<Entry>) -> Described {
        let session = self.sessions.get(&entry.id.session).cloned();
        Described { entry: entry.clone(), session }
    }

    pub(super) fn describe_queue(&self, lock: &LockId, queue: &Queue<Arc<Entry>>) -> QueueView {
        let entries = queue.iter().map(|(_, entry)| self.describe(entry)).collect();
        QueueView { lock: lock.clone(), entries }
    }
}
