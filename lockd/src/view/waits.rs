//! The waits of owners, for deadlock detection.

use std::sync::Arc;

use super::{Entry, State, View};
use crate::{deadlock::Wait, keys::LockId, queue::Queue};

/// An owner: its namespace and name.
pub type Owner = (Arc<str>, Arc<str>);

/// A wait of an owner, with what it is made of.
#[derive(Debug, Clone)]
pub struct Blocked {
    /// Who waits, since when, and who is in the way.
    pub wait: Wait<Owner>,
    /// The entry that waits.
    pub entry: Arc<Entry>,
    /// The entries in the way that have an owner, each with the lock.
    pub by: Vec<(LockId, Arc<Entry>)>,
}

impl View {
    /// The waits of all owners.
    #[must_use]
    pub fn waits(&self) -> Vec<Blocked> {
        let state = self.lock();
        let entries = state.owners.values().flat_map(|owned| owned.values());
        let waiting = entries.filter(|entry| !state.is_held(entry));
        waiting.map(|entry| state.blocked(entry)).collect()
    }
}

impl State {
    fn blocked(&self, entry: &Arc<Entry>) -> Blocked {
        let locks = entry.locks.iter().filter_map(|id| Some((id, &self.locks.get(id)?.queue)));
        let by: Vec<_> = locks
            .flat_map(|(lock, queue)| {
                self.in_the_way(queue, entry).map(|other| (lock.clone(), other.clone()))
            })
            .collect();
        let mut blockers: Vec<_> = by.iter().filter_map(|(_, other)| owner(other)).collect();
        blockers.dedup();
        let wait = Wait { owner: owner(entry).unwrap_or_default(), token: entry.created, blockers };
        Blocked { wait, entry: entry.clone(), by }
    }

    /// Entries that must leave for this one to be granted, as far as they have an owner that
    /// could be stuck. A session that has died is not in the way for ever.
    fn in_the_way<'a>(
        &'a self,
        queue: &'a Queue<Arc<Entry>>,
        entry: &'a Entry,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        let ahead = queue.iter().take_while(|(at, _)| *at < entry.created).map(|(_, other)| other);
        ahead
            .filter(|other| !other.record.owner.is_empty())
            .filter(|other| !other.mode.is_compatible_with(entry.mode))
            .filter(|other| self.sessions.contains_key(&other.id.session))
    }
}

/// The owner that an entry names.
pub(super) fn owner(entry: &Entry) -> Option<Owner> {
    let namespace = entry.locks.first()?.namespace();
    let owner = entry.record.owner.as_str();
    (!owner.is_empty()).then(|| (namespace.into(), owner.into()))
}
