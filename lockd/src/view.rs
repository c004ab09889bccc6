//! What this replica knows: the store's one watch, applied in order to memory.
//!
//! Waiters, observers and listings read the view; none of them touches the store. All
//! changes of one revision are applied before anybody is told, so that nobody ever hears of
//! a grant to an entry that went in the same step.
//!
//! The mutex is a plain one: it is held for map operations only, never across an await.

mod apply;
mod listen;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream};
use lockd_proto::{
    RequestId, SessionId,
    clock::{Clock, Instant},
};
use tokio::sync::watch;

use listen::Listeners;
pub use listen::{Observer, Removal, SessionEvent, SessionEvents};

use crate::{
    keys::{EntryId, LockId},
    queue::Queue,
    record::{EntryRecord, SessionRecord},
    store::{Feed, LeaseId, Revision},
};

/// A view that the store has not confirmed for this long grants nothing and is not ready. The
/// watch is confirmed at least every 2 s, so that one missed confirmation is no alarm.
pub const STALE_AFTER: Duration = Duration::from_secs(6);

/// The state of the store as last seen.
#[derive(Debug)]
pub struct View {
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
    clock: Clock,
}

/// How far the view has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    revision: Revision,
    /// `None` until the first snapshot has arrived.
    confirmed: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    revision: Revision,
    sessions: HashMap<SessionId, Session>,
    locks: BTreeMap<LockId, Queue<Arc<Entry>>>,
    /// Where each session's entries are.
    owned: HashMap<SessionId, BTreeMap<RequestId, Arc<Entry>>>,
    notes: HashMap<EntryId, String>,
    listeners: Listeners,
}

/// A session as the view knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Its record.
    pub record: Arc<SessionRecord>,
    /// When the record was last written: tells one attachment from the next.
    pub modified: Revision,
    /// Its lease.
    pub lease: LeaseId,
}

/// An entry as the view knows it.
#[derive(Debug, PartialEq)]
pub struct Entry {
    /// The lock in whose queue it is.
    pub lock: LockId,
    /// Who made it.
    pub id: EntryId,
    /// Its creation revision: the fencing token.
    pub created: Revision,
    /// Its record.
    pub record: EntryRecord,
}

/// An entry beside its session, for people to look at.
#[derive(Debug, Clone)]
pub struct Described {
    /// The entry.
    pub entry: Arc<Entry>,
    /// Whose it is; `None` for the moment in which a session ends.
    pub session: Option<Session>,
}

/// A lock's queue at one revision.
#[derive(Debug, Clone)]
pub struct QueueView {
    /// The lock.
    pub lock: LockId,
    /// Its entries, the holder first. Never empty.
    pub entries: Vec<Described>,
}

impl QueueView {
    /// How many entries there are, and the holder.
    #[must_use]
    pub fn ahead(&self) -> Option<(usize, Described)> {
        Some((self.entries.len(), self.entries.first()?.clone()))
    }
}

/// Where an entry stands.
#[derive(Debug, Clone)]
pub enum Place {
    /// It holds its lock.
    Held,
    /// It waits behind others.
    Waiting {
        /// How many, the holder included.
        ahead: usize,
        /// The holder.
        holder: Described,
    },
    /// It was there and is gone.
    Gone,
    /// The view has not come that far yet; an event will follow.
    NotSeen,
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

impl View {
    /// An empty view. [`run`](Self::run) fills it.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let progress = Progress { revision: Revision::default(), confirmed: None };
        Self { state: Mutex::default(), progress: watch::Sender::new(progress), clock }
    }

    /// Applies a watch until it ends.
    pub async fn run(&self, mut feed: BoxStream<'static, Feed>) {
        while let Some(step) = feed.next().await {
            self.apply(step);
        }
    }

    pub(crate) fn apply(&self, step: Feed) {
        let mut state = self.lock();
        match step {
            Feed::Snapshot { revision, records } => state.replace(revision, records),
            Feed::Changes { revision, changes } => state.change(revision, changes),
            Feed::Confirmed(revision) => state.revision = state.revision.max(revision),
        }
        let revision = state.revision;
        drop(state);
        let confirmed = Some(self.clock.now());
        self.progress.send_replace(Progress { revision, confirmed });
    }

    /// Waits until the view shows a revision. Never ends if the store is cut off: give it a
    /// deadline. Cancel safe.
    pub async fn reached(&self, revision: Revision) {
        let mut progress = self.progress.subscribe();
        let reached =
            progress.wait_for(|seen| seen.confirmed.is_some() && seen.revision >= revision);
        // The sender lives as long as `self`, so this can't fail.
        drop(reached.await);
    }

    /// How long ago the store confirmed the view; `None` before the first snapshot.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let confirmed = self.progress.borrow().confirmed?;
        Some(self.clock.now().saturating_duration_since(confirmed))
    }

    /// Whether the view is too old to grant anything.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.age().is_none_or(|age| age > STALE_AFTER)
    }

    /// The revision that it shows.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.progress.borrow().revision
    }

    /// A session, if it is there.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<Session> {
        self.lock().sessions.get(&id).cloned()
    }

    /// The entry that a request of a session made, in whichever queue.
    #[must_use]
    pub fn entry(&self, id: EntryId) -> Option<Arc<Entry>> {
        self.lock().owned.get(&id.session)?.get(&id.request).cloned()
    }

    /// A session's entries, each with whether it holds its lock.
    #[must_use]
    pub fn entries_of(&self, session: SessionId) -> Vec<(Arc<Entry>, bool)> {
        let state = self.lock();
        let owned = state.owned.get(&session).into_iter().flat_map(BTreeMap::values);
        owned.map(|entry| (entry.clone(), state.is_held(entry))).collect()
    }

    /// Where the entry that was created at `created` stands.
    #[must_use]
    pub fn place(&self, lock: &LockId, created: Revision) -> Place {
        let state = self.lock();
        if state.revision < created {
            return Place::NotSeen;
        }
        let Some(queue) = state.locks.get(lock) else {
            return Place::Gone;
        };
        if !queue.iter().any(|(at, _)| at == created) {
            return Place::Gone;
        }
        match queue.holder() {
            Some((at, entry)) if at != created => {
                Place::Waiting { ahead: queue.ahead_of(created), holder: state.describe(entry) }
            }
            Some(_) | None => Place::Held,
        }
    }

    /// A lock's queue; `None` when the lock is free.
    #[must_use]
    pub fn queue(&self, lock: &LockId) -> Option<QueueView> {
        let state = self.lock();
        let (lock, queue) = state.locks.get_key_value(lock)?;
        Some(state.describe_queue(lock, queue))
    }

    /// Up to `limit` queues of the locks whose path starts with `prefix`, in the order of
    /// names, from the one after `after` on.
    #[must_use]
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<QueueView> {
        let state = self.lock();
        let start = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let locks = state.locks.range::<str, _>((start, Bound::Unbounded));
        locks
            .take_while(|(lock, _)| lock.is_under(prefix))
            .take(limit)
            .map(|(lock, queue)| state.describe_queue(lock, queue))
            .collect()
    }

    /// How much there is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.lock();
        let entries: usize = state.locks.values().map(Queue::len).sum();
        Counts {
            sessions: state.sessions.len(),
            locks: state.locks.len(),
            waiters: entries - state.locks.len(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held is a defect of apply(); what it left is still the
        // best that is known, and the next snapshot mends it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
