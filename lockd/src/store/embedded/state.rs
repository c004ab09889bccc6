//! What every operation does to the records and leases: pure, in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use lockd_proto::Ttl;

use crate::store::{
    Change, Delete, Durable, Enqueue, Guard, Join, Key, LeaseId, Op, Outcome, Place, Put, Record,
    Revision,
};

/// The whole store.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct State {
    revision: Revision,
    records: BTreeMap<Key, Record>,
    leases: HashMap<LeaseId, Lease>,
}

#[derive(Debug, Clone, PartialEq)]
struct Lease {
    ttl: Ttl,
    keys: BTreeSet<Key>,
}

/// What a group of writes did: to be made durable, published, or undone.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// The changes at each revision, in order.
    pub(super) changes: Vec<(Revision, Vec<Change>)>,
    /// Leases that were granted, or are gone.
    pub(super) leases: Vec<(LeaseId, Option<Ttl>)>,
    undo: Vec<Undo>,
}

#[derive(Debug)]
enum Undo {
    Record(Key, Option<Record>),
    Lease(LeaseId, Option<Lease>),
    Revision(Revision),
}

impl Effects {
    /// Whether nothing was done, so that nothing has to be made durable.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.leases.is_empty()
    }
}

impl State {
    /// The state that was stored: records, leases, and the last revision.
    pub(super) fn restore(
        revision: Revision,
        leases: impl IntoIterator<Item = (LeaseId, Ttl)>,
        records: impl IntoIterator<Item = Record>,
    ) -> Self {
        let lease = |(id, ttl)| (id, Lease { ttl, keys: BTreeSet::new() });
        let leases = leases.into_iter().map(lease).collect();
        let mut state = Self { revision, records: BTreeMap::new(), leases };
        for record in records {
            if let Some(lease) = state.leases.get_mut(&record.lease) {
                lease.keys.insert(record.key.clone());
            }
            state.records.insert(record.key.clone(), record);
        }
        state
    }

    /// A record whose lease is not there. There is none unless the data file is damaged.
    pub(super) fn unattached(&self) -> Option<&Key> {
        let lost = |record: &&Record| !self.has_lease(record.lease);
        self.records.values().find(lost).map(|record| &record.key)
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = (LeaseId, Ttl)> {
        self.leases.iter().map(|(id, lease)| (*id, lease.ttl))
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Record> {
        self.records.get(key)
    }

    /// The records under a prefix.
    fn under<'a, 'p>(&'a self, prefix: &'p Key) -> impl Iterator<Item = &'a Record> + use<'a, 'p> {
        let from = self.records.range(prefix.clone()..);
        from.map(|(_, record)| record)
            .take_while(|record| record.key.as_bytes().starts_with(prefix.as_bytes()))
    }

    /// The first record by creation under a prefix.
    pub(super) fn first(&self, prefix: &Key) -> Option<&Record> {
        self.under(prefix).min_by_key(|record| record.created)
    }

    /// Applies one operation.
    pub(super) fn apply(&mut self, op: Op, effects: &mut Effects) -> Outcome {
        match op {
            Op::Enqueue(op) => self.enqueue(op, effects),
            Op::Put(op) => self.put(op, effects),
            Op::Delete(op) => self.delete(op, effects),
        }
    }

    fn enqueue(&mut self, op: Enqueue, effects: &mut Effects) -> Outcome {
        if !self.records.contains_key(&op.session) || !self.has_lease(op.lease) {
            return Outcome::SessionGone;
        }
        let mut keys = op.places.iter().map(|place| &place.key);
        if let Some(there) = keys.find_map(|key| self.records.get(key)) {
            return Outcome::Exists(there.clone());
        }
        let first = op.places.iter().all(|place| self.under(&place.queue).next().is_none());
        if !first && op.join == Join::IfEmpty {
            return Outcome::Occupied;
        }
        let revision = self.next_revision(effects);
        let write =
            |Place { key, .. }| self.write(key, op.value.clone(), op.lease, revision, effects);
        let written = op.places.into_iter().map(write).collect();
        effects.changes.push((revision, written));
        Outcome::Enqueued { revision, first }
    }

    fn put(&mut self, op: Put, effects: &mut Effects) -> Outcome {
        if !self.holds(&op.key, op.guard) || !self.has_lease(op.lease) {
            return Outcome::Refused(self.records.get(&op.key).cloned());
        }
        let revision = self.next_revision(effects);
        let written = self.write(op.key, op.value, op.lease, revision, effects);
        effects.changes.push((revision, vec![written]));
        Outcome::Done(revision)
    }

    /// Whether an operation may become durable after it is answered: nobody is granted anything
    /// by it.
    pub(super) fn may_wait(&self, op: &Op) -> bool {
        match op {
            Op::Enqueue(op) if op.durable == Durable::After => {
                op.places.iter().any(|place| self.under(&place.queue).next().is_some())
            }
            Op::Delete(op) if op.durable == Durable::After => {
                let goes = |record: &Record| op.keys.iter().any(|(key, _)| *key == record.key);
                op.queues.iter().all(|queue| self.under(queue).all(goes))
            }
            Op::Enqueue(_) | Op::Put(_) | Op::Delete(_) => false,
        }
    }

    fn delete(&mut self, op: Delete, effects: &mut Effects) -> Outcome {
        let there =
            |(key, guard): &(Key, Guard)| self.records.contains_key(key) && self.holds(key, *guard);
        if !op.keys.iter().all(there) {
            let first = op.keys.first();
            return Outcome::Refused(first.and_then(|(key, _)| self.records.get(key)).cloned());
        }
        let revision = self.next_revision(effects);
        let note = op.note.filter(|note| self.has_lease(note.lease));
        let note = note.map(|note| self.write(note.key, note.value, note.lease, revision, effects));
        op.keys.iter().for_each(|(key, _)| self.remove(key, effects));
        let deleted = op.keys.into_iter().map(|(key, _)| Change::Deleted(key));
        effects.changes.push((revision, note.into_iter().chain(deleted).collect()));
        Outcome::Done(revision)
    }

    fn holds(&self, key: &Key, guard: Guard) -> bool {
        let there = self.records.get(key);
        match guard {
            Guard::Absent => there.is_none(),
            Guard::Exists => there.is_some(),
            Guard::At(revision) => there.is_some_and(|there| there.modified == revision),
            Guard::Made(revision) => there.is_some_and(|there| there.created == revision),
        }
    }

    fn has_lease(&self, lease: LeaseId) -> bool {
        lease == LeaseId::NONE || self.leases.contains_key(&lease)
    }

    /// Creates a lease, or finds it: granting twice is a retry.
    pub(super) fn grant(&mut self, id: LeaseId, ttl: Ttl, effects: &mut Effects) -> Ttl {
        if let Some(lease) = self.leases.get(&id) {
            return lease.ttl;
        }
        self.leases.insert(id, Lease { ttl, keys: BTreeSet::new() });
        effects.undo.push(Undo::Lease(id, None));
        effects.leases.push((id, Some(ttl)));
        ttl
    }

    /// Ends a lease and deletes all its keys at one revision.
    pub(super) fn end_lease(&mut self, id: LeaseId, effects: &mut Effects) {
        let Some(lease) = self.leases.get(&id).cloned() else { return };
        effects.leases.push((id, None));
        if !lease.keys.is_empty() {
            let revision = self.next_revision(effects);
            lease.keys.iter().for_each(|key| self.remove(key, effects));
            let changes = lease.keys.into_iter().map(Change::Deleted).collect();
            effects.changes.push((revision, changes));
        }
        let emptied = self.leases.remove(&id);
        effects.undo.push(Undo::Lease(id, emptied));
    }

    fn next_revision(&mut self, effects: &mut Effects) -> Revision {
        effects.undo.push(Undo::Revision(self.revision));
        self.revision = Revision(self.revision.0 + 1);
        self.revision
    }

    fn write(
        &mut self,
        key: Key,
        value: Bytes,
        lease: LeaseId,
        revision: Revision,
        effects: &mut Effects,
    ) -> Change {
        let created = self.records.get(&key).map_or(revision, |there| there.created);
        let record = Record { key: key.clone(), value, created, modified: revision, lease };
        let before = self.set(key.clone(), Some(record.clone()));
        effects.undo.push(Undo::Record(key, before));
        Change::Put(record)
    }

    fn remove(&mut self, key: &Key, effects: &mut Effects) {
        let before = self.set(key.clone(), None);
        effects.undo.push(Undo::Record(key.clone(), before));
    }

    /// Puts a record in its place, or none, and keeps the leases' keys in step.
    fn set(&mut self, key: Key, record: Option<Record>) -> Option<Record> {
        let before = match &record {
            Some(record) => self.records.insert(key.clone(), record.clone()),
            None => self.records.remove(&key),
        };
        if let Some(lease) = before.as_ref().and_then(|before| self.leases.get_mut(&before.lease)) {
            lease.keys.remove(&key);
        }
        if let Some(lease) = record.and_then(|record| self.leases.get_mut(&record.lease)) {
            lease.keys.insert(key);
        }
        before
    }

    /// Takes everything back that the effects stand for.
    pub(super) fn undo(&mut self, effects: Effects) {
        for step in effects.undo.into_iter().rev() {
            match step {
                Undo::Record(key, before) => drop(self.set(key, before)),
                Undo::Lease(id, Some(lease)) => drop(self.leases.insert(id, lease)),
                Undo::Lease(id, None) => drop(self.leases.remove(&id)),
                Undo::Revision(revision) => self.revision = revision,
            }
        }
    }
}

#[cfg(test)]
mod tests;
