//! What the view shows: copies of what it knows, for whoever asks.

use std::sync::Arc;

use lockd_proto::SessionId;

use super::{Entry, Session, Slot, State};
use crate::{
    barrier::{self, Party, Stage},
    keys::{EntryId, LockId},
    mode::{Kind, Mode},
    queue::Queue,
    record::Mark,
};

/// An entry beside its session, for people to look at.
#[derive(Debug, Clone)]
pub struct Described {
    /// The entry.
    pub entry: Arc<Entry>,
    /// Whose it is; `None` when the session has died.
    pub session: Option<Session>,
}

impl Described {
    /// Whether it stays though its session has died, or has left its barrier or group early.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.session.is_none() || self.entry.record.mark() == Mark::Gone
    }
}

/// A lock's queue at one revision.
#[derive(Debug, Clone)]
pub struct QueueView {
    /// The lock.
    pub lock: LockId,
    /// Its entries, the holders first. Never empty.
    pub entries: Vec<Described>,
    /// How many of them hold the lock.
    pub held: usize,
}

/// Who was ahead of a request.
#[derive(Debug, Clone)]
pub struct Ahead {
    /// How many, the holders included.
    pub count: usize,
    /// The first holder, where there is one.
    pub holder: Option<Described>,
}

/// Where an entry stands.
#[derive(Debug, Clone)]
pub enum Place {
    /// It holds its locks.
    Held,
    /// It waits.
    Waiting(Ahead),
    /// It waits among entries of another kind, which it can never hold beside.
    Misplaced(Kind),
    /// It is a party to a barrier that another one has broken.
    Broken,
    /// It would run something that has been done.
    Done,
    /// It was there and is gone.
    Gone,
    /// The view has not come that far yet; an event will follow.
    NotSeen,
}

/// An entry whose session has died.
#[derive(Debug, Clone)]
pub struct Orphan {
    /// The entry.
    pub entry: Arc<Entry>,
    /// Where it stands.
    pub place: Place,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions in the store.
    pub sessions: usize,
    /// Locks that are held.
    pub locks: usize,
    /// Entries that wait.
    pub waiters: usize,
}

impl State {
    pub(super) fn owned(&self, id: EntryId, lock: &LockId) -> Option<&Arc<Entry>> {
        self.owned.get(&id.session)?.get(&(id.request, lock.clone()))
    }

    /// A session's entries, each once.
    pub(super) fn entries_of(&self, session: SessionId) -> impl Iterator<Item = &Arc<Entry>> {
        let owned = self.owned.get(&session).into_iter().flatten();
        let first =
            |((_, lock), entry): &(&(_, LockId), &Arc<Entry>)| entry.locks.first() == Some(lock);
        owned.filter(first).map(|(_, entry)| entry)
    }

    pub(super) fn is_held(&self, entry: &Entry) -> bool {
        let holds =
            |lock| self.locks.get(lock).is_some_and(|lock| lock.queue.is_held_by(entry.created));
        entry.locks.iter().all(holds)
    }

    pub(super) fn place(&self, entry: &Arc<Entry>) -> Place {
        if let Some(kind) = self.misplaced(entry) {
            return Place::Misplaced(kind);
        }
        let queues = || entry.locks.iter().filter_map(|lock| Some(&self.locks.get(lock)?.queue));
        if queues().any(|queue| self.stage(queue) == Stage::Broken) {
            return Place::Broken;
        }
        match queues().find(|queue| !queue.is_held_by(entry.created)) {
            None if self.is_done(entry) => Place::Done,
            None => Place::Held,
            Some(queue) => Place::Waiting(Ahead {
                count: queue.ahead_of(entry.created),
                holder: queue.holders().next().map(|holder| self.describe(holder)),
            }),
        }
    }

    fn is_done(&self, entry: &Entry) -> bool {
        entry.mode == Mode::Once && entry.locks.iter().any(|lock| self.results.contains_key(lock))
    }

    /// The kind of the queue that an entry has joined by mistake.
    pub(super) fn misplaced(&self, entry: &Entry) -> Option<Kind> {
        let kinds = entry.locks.iter().filter_map(|lock| self.locks.get(lock)?.queue.kind());
        kinds.into_iter().find(|kind| *kind != entry.mode.kind())
    }

    /// What a barrier is at. Other locks are always open.
    pub(super) fn stage(&self, queue: &Queue<Arc<Entry>>) -> Stage {
        let Some(Kind::Barrier { parties }) = queue.kind() else {
            return Stage::Open;
        };
        let size = usize::try_from(parties).unwrap_or(usize::MAX);
        let entries = queue.iter().take(size).map(|(_, entry)| entry);
        let party = |entry: &Arc<Entry>| {
            Party::new(entry.record.mark(), self.sessions.contains_key(&entry.id.session))
        };
        barrier::stage(&entries.map(party).collect::<Vec<_>>(), size)
    }

    pub(super) fn describe(&self, entry: &Arc<Entry>) -> Described {
        let session = self.sessions.get(&entry.id.session).cloned();
        Described { entry: entry.clone(), session }
    }

    pub(super) fn describe_queue(&self, lock: &LockId, queue: &Queue<Arc<Entry>>) -> QueueView {
        let entries = queue.iter().map(|(_, entry)| self.describe(entry)).collect();
        QueueView { lock: lock.clone(), entries, held: queue.held() }
    }
}

impl super::View {
    /// The entries whose session has died.
    #[must_use]
    pub fn orphans(&self) -> Vec<Orphan> {
        let state = self.lock();
        let entry = |(id, lock): &Slot| state.owned(*id, lock);
        let orphan =
            |entry: &Arc<Entry>| Orphan { entry: entry.clone(), place: state.place(entry) };
        state.orphans.iter().filter_map(entry).map(orphan).collect()
    }

    /// The parties of each barrier that is over.
    #[must_use]
    pub fn barriers_over(&self) -> Vec<Vec<Arc<Entry>>> {
        let state = self.lock();
        let parties = |lock: &LockId| {
            let queue = &state.locks.get(lock)?.queue;
            let Kind::Barrier { parties } = queue.kind()? else { return None };
            let size = usize::try_from(parties).unwrap_or(usize::MAX);
            Some(queue.iter().take(size).map(|(_, entry)| entry.clone()).collect())
        };
        state.over.iter().filter_map(parties).collect()
    }
}
