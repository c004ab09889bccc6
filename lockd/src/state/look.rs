//! Questions: copies of what is there, each of bounded size.

use std::ops::Bound;

use bytes::Bytes;
use lockd_proto::{RequestId, SessionId};

use super::{Ahead, Described, Entry, Handoff, Lock, Moment, Session, Stage, State};
use crate::record::{LockId, Position, QueueKind, ReplicaId};

/// A part of a lock's queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuePage {
    /// The lock.
    pub lock: LockId,
    /// The entries that hold the lock, then those that wait.
    pub entries: Vec<Described>,
    /// How many of [`entries`](Self::entries) hold the lock.
    pub held: usize,
    /// How many entries the whole queue has.
    pub total: usize,
    /// The last token of this page, if more follow.
    pub more_after: Option<Position>,
}

/// Which part of a queue is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Only entries after this token.
    pub after: Position,
    /// At most so many entries.
    pub entries: usize,
    /// No further entry once these have so many bytes, roughly.
    pub bytes: usize,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions.
    pub sessions: usize,
    /// Locks that are held or waited for.
    pub locks: usize,
    /// Entries that wait.
    pub waiters: usize,
}

impl State {
    /// The place of the last operation that was applied.
    #[must_use]
    pub fn position(&self) -> Position {
        self.at
    }

    /// The level of operations in force.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Whether a replica can write.
    #[must_use]
    pub fn is_alive(&self, replica: ReplicaId) -> bool {
        self.replicas.contains_key(&replica)
    }

    /// The replicas that can write, in the order of their names.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaId> {
        self.replicas.keys().copied()
    }

    /// How much there is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (sessions, locks) = (self.sessions.len(), self.locks.len());
        Counts { sessions, locks, waiters: self.waiting }
    }

    /// The sessions, in no particular order.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().map(|(_, session)| session)
    }

    /// The entry that a request of a session has made.
    #[must_use]
    pub fn entry_of(&self, session: SessionId, request: RequestId) -> Option<&Entry> {
        self.entry(self.slot_of(session, request)?)
    }

    /// The entries of a session, in no particular order.
    pub fn entries_of(&self, session: SessionId) -> impl Iterator<Item = &Entry> {
        let entries = self.session(session).into_iter().flat_map(|it| it.entries.values());
        entries.filter_map(|slot| self.entry(*slot))
    }

    /// The entry of a lock that has this token.
    #[must_use]
    pub fn entry_at(&self, lock: &LockId, token: Position) -> Option<&Entry> {
        self.entry(self.slot_at(lock, token)?)
    }

    /// The entries that stay for their lock-delay.
    pub fn delayed(&self) -> impl Iterator<Item = (&Entry, Position)> {
        self.entries.iter().filter_map(|(_, entry)| match entry.stage {
            Stage::Delayed { since } => Some((entry, since)),
            Stage::Here | Stage::Left | Stage::Lost => None,
        })
    }

    /// The entries that wait, in no particular order.
    pub fn waits(&self) -> impl Iterator<Item = &Entry> {
        let entries = self.entries.iter().map(|(_, entry)| entry);
        entries.filter(|entry| !entry.is_held() && entry.stage == Stage::Here)
    }

    /// Who is ahead of an acquire that joined now.
    #[must_use]
    pub fn ahead(&self, lock: &LockId) -> Option<Ahead> {
        let there = self.locks.get(lock)?;
        Some(Ahead { count: there.queue.len(), holder: self.first_holder(there) })
    }

    /// Who is ahead of the entry that a request has made.
    #[must_use]
    pub fn ahead_of_request(&self, session: SessionId, request: RequestId) -> Option<Box<Ahead>> {
        self.ahead_of(self.slot_of(session, request)?)
    }

    pub(super) fn first_holder(&self, there: &Lock) -> Option<Described> {
        let seat = there.queue.holders().next()?;
        self.entry(seat.slot).map(|entry| self.describe(entry))
    }

    /// Whether an entry of this kind can join a lock's queue.
    #[must_use]
    pub fn is_of_kind(&self, lock: &LockId, kind: QueueKind) -> bool {
        let there = self.locks.get(lock).and_then(|there| there.queue.kind());
        there.is_none_or(|there| there == kind)
    }

    /// How many entries a lock's queue has.
    #[must_use]
    pub fn queue_len(&self, lock: &LockId) -> usize {
        self.locks.get(lock).map_or(0, |there| there.queue.len())
    }

    /// How many entries hold a lock, and how many wait for it.
    #[must_use]
    pub fn size(&self, lock: &LockId) -> (usize, usize) {
        let queue = self.locks.get(lock).map(|there| &there.queue);
        queue.map(|queue| (queue.held(), queue.waiting())).unwrap_or_default()
    }

    /// A part of a lock's queue; `None` when the lock is free.
    #[must_use]
    pub fn queue_page(&self, lock: &LockId, page: Page) -> Option<QueuePage> {
        let (lock, there) = self.locks.get_key_value(lock)?;
        Some(self.page_of(lock, there, page))
    }

    /// A part of the queue of each of up to `limit` locks whose path starts with `prefix`, in the order
    /// of names, from the one after `after` on.
    #[must_use]
    pub fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        page: Page,
    ) -> Vec<QueuePage> {
        let start = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let locks = self.locks.range::<str, _>((start, Bound::Unbounded));
        let locks = locks.take_while(|(lock, _)| lock.is_under(prefix)).take(limit);
        let mut bytes = page.bytes;
        let mut pages = Vec::new();
        for (lock, there) in locks {
            let part = self.page_of(lock, there, Page { bytes, ..page });
            let used: usize = part.entries.iter().map(|it| it.entry.shown_bytes()).sum();
            pages.push(part);
            if used >= bytes {
                break;
            }
            bytes -= used;
        }
        pages
    }

    fn page_of(&self, lock: &LockId, there: &Lock, page: Page) -> QueuePage {
        let mut entries = Vec::new();
        let (mut held, mut bytes, mut more_after) = (0, 0, None);
        let mut last = page.after;
        for (token, seat) in there.queue.after(page.after) {
            if entries.len() == page.entries || bytes >= page.bytes.max(1) {
                more_after = Some(last);
                break;
            }
            let Some(entry) = self.entry(seat.slot) else {
                continue;
            };
            bytes += entry.shown_bytes();
            held += usize::from(there.queue.is_held_by(token));
            entries.push(self.describe(entry));
            last = token;
        }
        let total = there.queue.len();
        QueuePage { lock: lock.clone(), entries, held, total, more_after }
    }

    /// Since when a lock is held, and how it came to its holder, as far as this replica has seen it.
    #[must_use]
    pub fn story(&self, lock: &LockId) -> (Moment, Option<Handoff>) {
        let there = self.locks.get(lock);
        let story = there.map(|there| (there.held_since, there.last.as_deref().cloned()));
        story.unwrap_or_default()
    }

    /// The result that a once has left.
    #[must_use]
    pub fn result(&self, lock: &LockId) -> Option<&Bytes> {
        self.results.get(lock).map(|finished| &finished.result)
    }
}

impl Entry {
    /// About how many bytes it takes to show it.
    fn shown_bytes(&self) -> usize {
        let details = self.details.as_deref();
        let metadata = details.into_iter().flat_map(|it| it.metadata.iter());
        let metadata: usize = metadata.map(|(key, value)| key.len() + value.len() + 8).sum();
        let value = details.map_or(0, |it| it.value.len() + it.owner.len() + it.yield_reason.len());
        let locks: usize = self.locks.as_slice().iter().map(|lock| lock.name().len()).sum();
        256 + metadata + value + locks
    }
}
