//! What this replica knows: the store's one watch, applied in order to memory.
//!
//! Waiters, observers and listings read the view; none of them touches the store. All
//! changes of one revision are applied before anybody is told, so that nobody ever hears of
//! a grant to an entry that went in the same step.
//!
//! The mutex is a plain one: it is held for map operations only, never across an await.

mod apply;
mod describe;
mod listen;
mod story;
mod waits;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use lockd_proto::{
    RequestId, SessionId,
    clock::{Clock, Instant},
    v1,
};
use tokio::sync::{Notify, oneshot, watch};

pub use describe::{Ahead, Counts, Described, Orphan, Place, QueueView};
use listen::Listeners;
pub use listen::{Observer, Removal, Scope, SessionEvent, SessionEvents};
use story::Story;
pub use story::{Handoff, HandoffReason};
pub use waits::{Blocked, Owner};

use crate::{
    keys::{EntryId, LockId},
    mode::{Kind, Mode},
    queue::{Queue, Seated},
    record::{EntryRecord, NoteRecord, SessionRecord},
    store::{Feed, LeaseId, Revision},
    traces::Traces,
};

/// A view that the store has not confirmed for this long grants nothing and is not ready. The
/// watch is confirmed at least every 2 s, so that one missed confirmation is no alarm.
pub const STALE_AFTER: Duration = Duration::from_secs(6);

/// The most steps of the watch that are applied at a time.
const TOGETHER: usize = 256;

/// How often observers are told that nothing has changed.
const BEAT: Duration = Duration::from_millis(1500);

/// The state of the store as last seen.
#[derive(Debug)]
pub struct View {
    state: Mutex<State>,
    /// The revision at which the view was last known to be whole, every [`BEAT`] or so.
    beat: watch::Sender<Revision>,
    /// Woken when there is something for the reaper.
    litter: Notify,
    /// Woken when waits of owners have changed.
    waits: Notify,
    clock: Clock,
}

#[derive(Debug, Default)]
struct State {
    revision: Revision,
    /// When the store last confirmed it; `None` until the first snapshot has arrived.
    confirmed: Option<Instant>,
    /// When observers were last told that nothing has changed.
    beaten: Option<Instant>,
    sessions: HashMap<SessionId, Session>,
    locks: BTreeMap<LockId, Lock>,
    /// Each session's entries, one for each of their keys in the store.
    owned: HashMap<SessionId, BTreeMap<(RequestId, LockId), Arc<Entry>>>,
    /// The entries of each owner.
    owners: HashMap<Owner, BTreeMap<Slot, Arc<Entry>>>,
    /// Why entries were taken out that nobody of their session has asked for.
    notes: HashMap<EntryId, NoteRecord>,
    /// Deadlocks that were ended while this replica looked, and when.
    deadlocks: VecDeque<(Instant, v1::Deadlock)>,
    /// What onces have left.
    results: HashMap<LockId, Bytes>,
    /// Entries whose session has died and that stay.
    orphans: BTreeSet<Slot>,
    /// Barriers that are over, and whose entries are still there.
    over: BTreeSet<LockId>,
    /// Who waits for which revision.
    awaited: BTreeMap<Revision, Vec<oneshot::Sender<()>>>,
    listeners: Listeners,
    /// How many entries wait.
    waiting: usize,
    /// The holders that are on their way out while others wait, by their token, and since when.
    releasing: HashMap<LockId, (Revision, Instant)>,
    traces: Traces,
}

/// What tells an entry from every other: a client may use a request id for several locks.
pub type Slot = (EntryId, LockId);

/// A lock that somebody holds or waits for.
#[derive(Debug, Default)]
struct Lock {
    queue: Queue<Arc<Entry>>,
    /// How many wait in it, as counted in all.
    waiting: usize,
    /// What the queue was when that was last looked at.
    kind: Option<Kind>,
    story: Story,
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
    /// The locks in whose queues it is. Never empty.
    pub locks: Arc<[LockId]>,
    /// Who made it.
    pub id: EntryId,
    /// Its creation revision: the fencing token.
    pub created: Revision,
    /// When it was last written.
    pub modified: Revision,
    /// How it shares its locks.
    pub mode: Mode,
    /// When it was first seen here, where that was as it happened.
    pub seen: Option<Instant>,
    /// Its record. It is shared with the requests that made it.
    pub record: Arc<EntryRecord>,
}

impl Entry {
    /// Tells it from every other entry.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        Some((self.id, self.locks.first()?.clone()))
    }
}

impl Seated for Arc<Entry> {
    fn mode(&self) -> Mode {
        self.mode
    }
}

impl View {
    /// An empty view. [`run`](Self::run) fills it.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            state: Mutex::default(),
            beat: watch::Sender::new(Revision::default()),
            litter: Notify::new(),
            waits: Notify::new(),
            clock,
        }
    }

    /// Tells these of what happens to entries that are traced.
    #[must_use]
    pub fn with_traces(mut self, traces: Traces) -> Self {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner).traces = traces;
        self
    }

    /// Applies a watch until it ends.
    pub async fn run(&self, feed: BoxStream<'static, Feed>) {
        let mut feed = feed.ready_chunks(TOGETHER);
        while let Some(steps) = feed.next().await {
            self.apply(steps);
        }
    }

    /// Applies steps one after the other, and then says how far it has come.
    pub(crate) fn apply(&self, steps: impl IntoIterator<Item = Feed>) {
        let now = self.clock.now();
        let mut state = self.lock();
        let mut news = News::default();
        for step in steps {
            news |= match step {
                Feed::Snapshot { revision, records } => state.replace(revision, records),
                Feed::Changes { revision, changes } => state.change(revision, changes, Some(now)),
                Feed::Confirmed(revision) => {
                    state.revision = state.revision.max(revision);
                    News::default()
                }
            };
        }
        let revision = state.revision;
        state.confirmed = Some(now);
        state.tell_reached();
        let since_beat = state.beaten.map(|at| now.saturating_duration_since(at));
        let beat = since_beat.is_none_or(|since| since >= BEAT);
        if beat {
            state.beaten = Some(now);
        }
        drop(state);
        if beat {
            self.beat.send_replace(revision);
        }
        if news.litter {
            self.litter.notify_one();
        }
        if news.waits {
            self.waits.notify_one();
        }
    }

    /// Waits until the view shows a revision. Never ends if the store is cut off: give it a
    /// deadline. Cancel safe.
    pub async fn reached(&self, revision: Revision) {
        let Some(reached) = self.lock().reached(revision) else { return };
        // The sender is kept until then.
        drop(reached.await);
    }

    /// How long ago the store confirmed the view; `None` before the first snapshot.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let confirmed = self.lock().confirmed?;
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
        self.lock().revision
    }

    /// How many sessions there are.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.lock().sessions.len()
    }

    /// A session, if it is there.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<Session> {
        self.lock().sessions.get(&id).cloned()
    }

    /// The entry that a request of a session made in a lock's queue.
    #[must_use]
    pub fn entry(&self, id: EntryId, lock: &LockId) -> Option<Arc<Entry>> {
        self.lock().owned(id, lock).cloned()
    }

    /// The entry of a lock that was created at a revision.
    #[must_use]
    pub fn entry_at(&self, lock: &LockId, created: Revision) -> Option<Described> {
        let state = self.lock();
        let entry = state.locks.get(lock)?.queue.get(created)?;
        Some(state.describe(entry))
    }

    /// A session's entries, each with whether it holds its locks.
    #[must_use]
    pub fn entries_of(&self, session: SessionId) -> Vec<(Arc<Entry>, bool)> {
        let state = self.lock();
        let entries = state.entries_of(session);
        let holds = |entry| matches!(state.place(entry), Place::Held);
        entries.map(|entry| (entry.clone(), holds(entry))).collect()
    }

    /// How many places in queues a session has.
    #[must_use]
    pub fn entries_len(&self, session: SessionId) -> usize {
        self.lock().owned.get(&session).map_or(0, BTreeMap::len)
    }

    /// Where the entry of a lock stands that was created at `created`.
    #[must_use]
    pub fn place(&self, lock: &LockId, created: Revision) -> Place {
        let state = self.lock();
        if state.revision < created {
            return Place::NotSeen;
        }
        match state.locks.get(lock).and_then(|lock| lock.queue.get(created)) {
            Some(entry) => state.place(entry),
            None => Place::Gone,
        }
    }

    /// Whether an entry of this mode that joined a lock now would hold it at once.
    #[must_use]
    pub fn would_grant(&self, lock: &LockId, mode: Mode) -> bool {
        self.lock().locks.get(lock).is_none_or(|lock| lock.queue.would_grant(mode))
    }

    /// What a lock's queue is; `None` when the lock is free.
    #[must_use]
    pub fn kind(&self, lock: &LockId) -> Option<Kind> {
        self.lock().locks.get(lock)?.queue.kind()
    }

    /// Whether a session holds a lock shared, in the name of this owner.
    #[must_use]
    pub fn holds_shared(&self, lock: &LockId, session: SessionId, owner: &str) -> bool {
        let state = self.lock();
        let holders = state.locks.get(lock).into_iter().flat_map(|lock| lock.queue.holders());
        holders.into_iter().any(|entry| {
            entry.id.session == session && entry.record.owner == owner && entry.mode == Mode::Shared
        })
    }

    /// The result that a once has left.
    #[must_use]
    pub fn result(&self, lock: &LockId) -> Option<Bytes> {
        self.lock().results.get(lock).cloned()
    }

    /// How many entries a lock's queue has, and who holds the lock.
    #[must_use]
    pub fn ahead(&self, lock: &LockId) -> Option<Ahead> {
        let state = self.lock();
        let queue = &state.locks.get(lock)?.queue;
        let holder = queue.holders().next().map(|entry| state.describe(entry));
        Some(Ahead { count: queue.len(), holder })
    }

    /// How many entries a lock's queue has.
    #[must_use]
    pub fn len(&self, lock: &LockId) -> usize {
        self.lock().locks.get(lock).map_or(0, |lock| lock.queue.len())
    }

    /// How many entries hold a lock, and how many wait for it.
    #[must_use]
    pub fn size(&self, lock: &LockId) -> (usize, usize) {
        let state = self.lock();
        let size = |there: &Lock| (there.queue.len() - there.waiting, there.waiting);
        state.locks.get(lock).map(size).unwrap_or_default()
    }

    /// A lock's queue; `None` when the lock is free.
    #[must_use]
    pub fn queue(&self, lock: &LockId) -> Option<QueueView> {
        let state = self.lock();
        let (lock, there) = state.locks.get_key_value(lock)?;
        Some(state.describe_queue(lock, &there.queue))
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
            .map(|(lock, there)| state.describe_queue(lock, &there.queue))
            .collect()
    }

    /// How much there is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.lock();
        Counts { sessions: state.sessions.len(), locks: state.locks.len(), waiters: state.waiting }
    }

    /// Waits for the next confirmation, and says at which revision. Cancel safe.
    pub async fn confirmed(&self) -> Revision {
        let mut beat = self.beat.subscribe();
        // The sender lives as long as `self`, so this can't fail.
        drop(beat.changed().await);
        *beat.borrow()
    }

    /// Waits until there is something for the reaper. Cancel safe; for one reader.
    pub async fn litter(&self) {
        self.litter.notified().await;
    }

    /// Waits until waits of owners have changed. Cancel safe; for one reader.
    pub async fn waits_changed(&self) {
        self.waits.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held is a defect of apply(); what it left is still the
        // best that is known, and the next snapshot mends it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who else is to be woken after a step.
#[derive(Debug, Default, Clone, Copy)]
struct News {
    litter: bool,
    waits: bool,
}

impl std::ops::BitOrAssign for News {
    fn bitor_assign(&mut self, other: Self) {
        self.litter |= other.litter;
        self.waits |= other.waits;
    }
}

#[cfg(test)]
mod tests;
