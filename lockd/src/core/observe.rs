//! Observers: connections that follow locks under a prefix.
//!
//! An observer is given what has changed when it has read what it was given before. Until then the
//! core keeps the names of changed locks, not the changes, and only so many of them.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::{ask::Nudge, error::Error, nudges::Nudges};
use crate::{
    record::{LockId, Position},
    state::{Page, QueuePage, State},
};

/// Locks whose change an observer has not read. One that leaves more unread is cut off.
const MAX_CHANGED: usize = 10_000;

/// Locks that an observer is given at a time.
const PAGE_LOCKS: usize = 256;

/// How much of each queue an observer is shown, and of all queues at a time.
pub(crate) const SHOWN: Page = Page { after: Position(0), entries: 100, bytes: 256 * 1024 };

/// Names an observer within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObserverKey(pub(super) u64);

/// Which locks an observer follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Those whose path starts with this.
    Prefix(String),
    /// This one.
    One(LockId),
}

impl Scope {
    fn contains(&self, lock: &LockId) -> bool {
        match self {
            Self::Prefix(prefix) => lock.is_under(prefix),
            Self::One(one) => lock == one,
        }
    }
}

/// What an observer is given.
#[derive(Debug)]
pub enum WatchEvent {
    /// A lock as it is now.
    Changed(QueuePage, Position),
    /// A lock that has become free.
    Freed(LockId, Position),
    /// The locks as they were at the beginning are complete.
    SnapshotEnd(Position),
    /// Nothing has changed, and that is known.
    Confirmed(Position),
}

/// What an observer has yet to read.
#[derive(Debug)]
pub struct Watched {
    key: ObserverKey,
    nudges: Nudges,
    inner: Mutex<WatchedState>,
}

#[derive(Debug, Default)]
struct WatchedState {
    seen: VecDeque<WatchEvent>,
    end: Option<Error>,
    is_hungry: bool,
    reader: Option<Waker>,
}

impl Watched {
    pub(super) fn new(key: ObserverKey, nudges: Nudges) -> Arc<Self> {
        Arc::new(Self { key, nudges, inner: Mutex::default() })
    }

    /// What comes next; an error is the end.
    ///
    /// # Cancel safety
    /// Nothing is taken before it is returned.
    pub fn poll_seen(&self, cx: &mut Context<'_>) -> Poll<Result<WatchEvent, Error>> {
        let mut inner = self.inner.lock();
        if let Some(seen) = inner.seen.pop_front() {
            return Poll::Ready(Ok(seen));
        }
        if let Some(end) = inner.end.clone() {
            return Poll::Ready(Err(end));
        }
        inner.reader = Some(cx.waker().clone());
        if !std::mem::replace(&mut inner.is_hungry, true) {
            drop(inner);
            self.nudges.send(Nudge::Hungry(self.key));
        }
        Poll::Pending
    }

    /// Ends the observation before it has begun.
    pub(super) fn refuse(&self, why: Error) {
        self.end(why);
    }

    fn put(&self, seen: Vec<WatchEvent>) {
        self.change(|inner| {
            inner.is_hungry = false;
            inner.seen.extend(seen);
        });
    }

    /// Ends the observation, at once and for this reason.
    fn end(&self, why: Error) {
        self.change(|inner| {
            inner.seen.clear();
            inner.end = Some(why);
        });
    }

    fn change(&self, change: impl FnOnce(&mut WatchedState)) {
        let mut inner = self.inner.lock();
        change(&mut inner);
        let reader = inner.reader.take();
        drop(inner);
        reader.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.nudges.send(Nudge::ObserverGone(self.key));
    }
}

/// The observers of this replica.
#[derive(Debug, Default)]
pub(super) struct Observers {
    all: HashMap<ObserverKey, Observer>,
    /// Those that can be given something.
    hungry: BTreeSet<ObserverKey>,
}

#[derive(Debug)]
struct Observer {
    scope: Scope,
    part: ObserverPhase,
    changed: BTreeSet<LockId>,
    /// Whether it is to be given a sign of life.
    beat: bool,
    watched: std::sync::Weak<Watched>,
}

#[derive(Debug)]
enum ObserverPhase {
    /// The locks as they are, from the one after this on.
    Snapshot(Option<LockId>),
    Changes,
}

impl Observers {
    pub(super) fn add(&mut self, key: ObserverKey, scope: Scope, watched: &Arc<Watched>) {
        let (part, watched) = (ObserverPhase::Snapshot(None), Arc::downgrade(watched));
        let observer = Observer { scope, part, changed: BTreeSet::new(), beat: false, watched };
        self.all.insert(key, observer);
    }

    pub(super) fn remove(&mut self, key: ObserverKey) {
        self.all.remove(&key);
        self.hungry.remove(&key);
    }

    pub(super) fn is_hungry(&mut self, key: ObserverKey) {
        if self.all.contains_key(&key) {
            self.hungry.insert(key);
        }
    }

    /// A lock has changed.
    pub(super) fn changed(&mut self, lock: &LockId) {
        let mut cut_off = vec![];
        for (key, observer) in &mut self.all {
            if observer.scope.contains(lock) && observer.has_passed(lock) {
                observer.changed.insert(lock.clone());
                if observer.changed.len() > MAX_CHANGED {
                    cut_off.push(*key);
                }
            }
        }
        for key in cut_off {
            self.end(key, Error::SlowConsumer);
        }
    }

    /// Each observer is to hear that nothing else has changed.
    pub(super) fn beat(&mut self) {
        self.all.values_mut().for_each(|observer| observer.beat = true);
    }

    /// Ends all observations.
    pub(super) fn end_all(&mut self, why: &Error) {
        let keys: Vec<_> = self.all.keys().copied().collect();
        keys.into_iter().for_each(|key| self.end(key, why.clone()));
    }

    fn end(&mut self, key: ObserverKey, why: Error) {
        let watched = self.all.get(&key).and_then(|observer| observer.watched.upgrade());
        watched.into_iter().for_each(|watched| watched.end(why.clone()));
        self.remove(key);
    }

    /// Whether there is something to give to an observer that waits for it.
    pub(super) fn have_news(&self) -> bool {
        self.hungry.iter().filter_map(|key| self.all.get(key)).any(Observer::has_news)
    }

    /// Gives observers what they wait for, a page each.
    pub(super) fn feed(&mut self, state: &State) {
        let ready: Vec<_> = self.hungry.iter().copied().collect();
        for key in ready {
            let Some(observer) = self.all.get_mut(&key).filter(|it| it.has_news()) else {
                continue;
            };
            let seen = observer.next(state);
            if let Some(watched) = observer.watched.upgrade().filter(|_| !seen.is_empty()) {
                self.hungry.remove(&key);
                watched.put(seen);
            }
        }
    }
}

impl Observer {
    fn has_news(&self) -> bool {
        matches!(self.part, ObserverPhase::Snapshot(_)) || !self.changed.is_empty() || self.beat
    }

    /// Whether a change of a lock is news: what the snapshot has yet to come to is not.
    fn has_passed(&self, lock: &LockId) -> bool {
        match &self.part {
            ObserverPhase::Snapshot(after) => after.as_ref().is_some_and(|after| lock <= after),
            ObserverPhase::Changes => true,
        }
    }

    fn next(&mut self, state: &State) -> Vec<WatchEvent> {
        let at = state.position();
        if let ObserverPhase::Snapshot(after) = &mut self.part {
            let page = match &self.scope {
                Scope::Prefix(prefix) => {
                    let from = after.as_ref().map(std::borrow::Borrow::borrow);
                    state.list(prefix, from, PAGE_LOCKS, SHOWN)
                }
                Scope::One(lock) if after.is_none() => {
                    state.queue_page(lock, SHOWN).into_iter().collect()
                }
                Scope::One(_) => vec![],
            };
            match page.last() {
                Some(last) => *after = Some(last.lock.clone()),
                None => self.part = ObserverPhase::Changes,
            }
            let end = page.is_empty().then_some(WatchEvent::SnapshotEnd(at));
            return page
                .into_iter()
                .map(|queue| WatchEvent::Changed(queue, at))
                .chain(end)
                .collect();
        }
        let mut seen = vec![];
        let mut entries = 0;
        while let Some(lock) = self.changed.pop_first() {
            let queue = state.queue_page(&lock, SHOWN);
            entries += queue.as_ref().map_or(1, |queue| queue.entries.len());
            seen.push(match queue {
                Some(queue) => WatchEvent::Changed(queue, at),
                None => WatchEvent::Freed(lock, at),
            });
            if entries >= PAGE_LOCKS {
                break;
            }
        }
        if std::mem::take(&mut self.beat) && self.changed.is_empty() {
            seen.push(WatchEvent::Confirmed(at));
        }
        seen
    }
}
