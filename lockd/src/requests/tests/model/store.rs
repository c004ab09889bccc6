//! The store of the model: what is written is there at once, and replicas hear of it when told to.

use super::*;
use crate::{
    barrier::{self, Party},
    store::{Guard, Note},
};

#[derive(Default)]
pub(super) struct Store {
    pub(super) records: BTreeMap<Key, Record>,
    pub(super) revision: u64,
    pub(super) unheard: [VecDeque<Feed>; REPLICAS],
}

impl Store {
    pub(super) fn step(&mut self, changes: Vec<Change>) -> Revision {
        let revision = Revision(self.revision);
        for feed in &mut self.unheard {
            feed.push_back(Feed::Changes { revision, changes: changes.clone() });
        }
        revision
    }

    pub(super) fn put(&mut self, key: &Key, value: &Bytes) -> Change {
        let modified = Revision(self.revision);
        let created = self.records.get(key).map_or(modified, |there| there.created);
        let record =
            Record { key: key.clone(), value: value.clone(), created, modified, lease: LEASE };
        self.records.insert(key.clone(), record.clone());
        Change::Put(record)
    }

    pub(super) fn under(&self, queue: &Key) -> bool {
        self.records.keys().any(|key| key.as_bytes().starts_with(queue.as_bytes()))
    }

    pub(super) fn holds(&self, key: &Key, guard: Guard) -> bool {
        let there = self.records.get(key);
        match guard {
            Guard::Absent => there.is_none(),
            Guard::Exists => there.is_some(),
            Guard::At(at) => there.is_some_and(|there| there.modified == at),
            Guard::Made(at) => there.is_some_and(|there| there.created == at),
        }
    }

    pub(super) fn apply(&mut self, op: Op) -> Outcome {
        match op {
            Op::Enqueue(op) => {
                if !self.records.contains_key(&op.session) {
                    return Outcome::SessionGone;
                }
                let there = op.places.iter().find_map(|place| self.records.get(&place.key));
                if let Some(there) = there {
                    return Outcome::Exists(there.clone());
                }
                let first = !op.places.iter().any(|place| self.under(&place.queue));
                if !first && op.join == Join::IfEmpty {
                    return Outcome::Occupied;
                }
                self.revision += 1;
                let put = |place: &crate::store::Place| self.put(&place.key, &op.value);
                let changes = op.places.iter().map(put).collect();
                Outcome::Enqueued { revision: self.step(changes), first }
            }
            Op::Put(op) if self.holds(&op.key, op.guard) => {
                self.revision += 1;
                let change = self.put(&op.key, &op.value);
                Outcome::Done(self.step(vec![change]))
            }
            Op::Put(_) => Outcome::Refused(None),
            Op::Delete(op) => self.delete(op.keys, op.note),
        }
    }

    pub(super) fn delete(&mut self, keys: Vec<(Key, Guard)>, note: Option<Note>) -> Outcome {
        let there =
            |(key, guard): &(Key, Guard)| self.records.contains_key(key) && self.holds(key, *guard);
        if !keys.iter().all(there) {
            return Outcome::Refused(None);
        }
        self.revision += 1;
        let note = note.map(|note| self.put(&note.key, &note.value));
        let gone = keys.into_iter().map(|(key, _)| {
            self.records.remove(&key);
            Change::Deleted(key)
        });
        let changes: Vec<_> = gone.chain(note).collect();
        Outcome::Done(self.step(changes))
    }

    /// A session dies, and what is attached to its lease with it.
    pub(super) fn expire(&mut self, session: SessionId) {
        let goes = |record: &&Record| match keys::parse(&record.key) {
            Some(Named::Session(id)) => id == session,
            Some(Named::Entry(_, id)) => {
                id.session == session && !record_of(record).outlives_session()
            }
            _ => false,
        };
        let gone = self.records.values().filter(goes).map(|r| (r.key.clone(), Guard::Exists));
        let gone: Vec<_> = gone.collect();
        self.delete(gone, None);
    }

    /// The entries of a lock, in order.
    pub(super) fn queue(&self, lock: &LockId) -> Vec<(u64, EntryId, EntryRecord)> {
        let mut entries: Vec<_> = self
            .records
            .values()
            .filter_map(|record| match keys::parse(&record.key) {
                Some(Named::Entry(of, id)) if of == *lock => {
                    Some((record.created.0, id, record_of(record)))
                }
                _ => None,
            })
            .collect();
        entries.sort_by_key(|(created, ..)| *created);
        entries
    }

    pub(super) fn is_alive(&self, session: SessionId) -> bool {
        self.records.contains_key(&keys::session(session))
    }

    /// The reference: who holds a lock.
    pub(super) fn holders(&self, lock: &LockId) -> Vec<(u64, EntryId)> {
        let queue = self.queue(lock);
        let count = holders(queue.iter().map(|(_, _, record)| record.mode()));
        queue.into_iter().take(count).map(|(created, id, _)| (created, id)).collect()
    }

    pub(super) fn stage(&self, lock: &LockId) -> Stage {
        let queue = self.queue(lock);
        let Some(Mode::Party { parties }) = queue.first().map(|(_, _, record)| record.mode())
        else {
            return Stage::Open;
        };
        let party = |(_, id, record): &(u64, EntryId, EntryRecord)| {
            Party::new(record.mark(), self.is_alive(id.session))
        };
        let size = usize::try_from(parties).expect("few parties");
        barrier::stage(&queue.iter().take(size).map(party).collect::<Vec<_>>(), size)
    }
}

pub(super) fn record_of(record: &Record) -> EntryRecord {
    EntryRecord::decode(record.value.clone()).expect("an entry")
}
