//! Who hears of changes: sessions of their own entries, observers of locks by prefix.
//!
//! Nobody can hold up the view: a session's events go into a bounded channel that is closed
//! when it is full, and an observer keeps a set of changed locks, never a list of changes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use lockd_proto::{RequestId, SessionId, v1};
use tokio::sync::{Notify, mpsc, oneshot};

use super::{Entry, State, View};
use crate::{keys::LockId, mode::Kind, store::Revision};

/// What happened to a session or one of its entries.
#[derive(Debug, Clone)]
pub enum SessionEvent {
    /// An entry holds its locks now.
    Granted(Arc<Entry>),
    /// An entry is gone.
    Removed(Arc<Entry>, Removal),
    /// An entry has joined a queue of this other kind.
    Misplaced(Arc<Entry>, Kind),
    /// The barrier that an entry is a party to is broken. May be told more than once.
    Broken(Arc<Entry>),
    /// An entry is the youngest wait of a deadlock, whose cycle this tells.
    Deadlocked(Arc<Entry>, Arc<v1::Deadlock>),
    /// Somebody wants what an entry holds, and says why.
    YieldRequested(Arc<Entry>),
    /// The session's record was written: it was attached to a stream, at this revision.
    Attached(Revision),
    /// The session is gone, and its entries with it. The last event.
    Ended,
}

impl SessionEvent {
    /// The request that it is about.
    #[must_use]
    pub fn request(&self) -> Option<RequestId> {
        match self {
            Self::Granted(entry)
            | Self::Removed(entry, _)
            | Self::Misplaced(entry, _)
            | Self::Broken(entry)
            | Self::Deadlocked(entry, _)
            | Self::YieldRequested(entry) => Some(entry.id.request),
            Self::Attached(_) | Self::Ended => None,
        }
    }
}

/// Why an entry is gone though its session lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// Its session took it out.
    BySession,
    /// An operator did.
    Forced {
        /// What the operator said.
        reason: String,
    },
}

/// A session's events, from the moment of [`View::subscribe`] on. Closed when the reader is
/// too slow for its capacity.
pub type SessionEvents = mpsc::Receiver<SessionEvent>;

#[derive(Debug, Default)]
pub(super) struct Listeners {
    sessions: HashMap<SessionId, Vec<mpsc::Sender<SessionEvent>>>,
    observers: Vec<Weak<Changed>>,
}

impl Listeners {
    /// Tells whoever follows a session here, and says whether anybody does.
    pub(super) fn tell(&mut self, session: SessionId, event: SessionEvent) -> bool {
        let Some(senders) = self.sessions.get_mut(&session) else {
            return false;
        };
        senders.retain(|sender| sender.try_send(event.clone()).is_ok());
        if senders.is_empty() {
            self.sessions.remove(&session);
            return false;
        }
        true
    }

    pub(super) fn end(&mut self, session: SessionId) {
        self.tell(session, SessionEvent::Ended);
        self.sessions.remove(&session);
    }

    pub(super) fn changed(&mut self, lock: &LockId) {
        self.observers.retain(|observer| {
            let Some(observer) = observer.upgrade() else {
                return false;
            };
            observer.note(lock);
            true
        });
    }
}

/// Hears which locks under a prefix have changed since it last asked.
#[derive(Debug)]
pub struct Observer {
    changed: Arc<Changed>,
}

/// Which locks an observer hears of.
#[derive(Debug, Clone)]
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

#[derive(Debug)]
struct Changed {
    scope: Scope,
    locks: Mutex<BTreeSet<LockId>>,
    wake: Notify,
}

impl Changed {
    fn note(&self, lock: &LockId) {
        if self.scope.contains(lock) {
            self.take_locks(|locks| locks.insert(lock.clone()));
            self.wake.notify_one();
        }
    }

    fn take_locks<R>(&self, f: impl FnOnce(&mut BTreeSet<LockId>) -> R) -> R {
        f(&mut self.locks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer {
    /// Waits until locks have changed, and says which. Cancel safe.
    pub async fn changed(&mut self) -> BTreeSet<LockId> {
        loop {
            let locks = self.changed.take_locks(std::mem::take);
            if !locks.is_empty() {
                return locks;
            }
            self.changed.wake.notified().await;
        }
    }
}

impl State {
    /// What ends when the state has come to a revision; `None` when it has.
    pub(super) fn reached(&mut self, revision: Revision) -> Option<oneshot::Receiver<()>> {
        if self.confirmed.is_some() && self.revision >= revision {
            return None;
        }
        let (sender, reached) = oneshot::channel();
        self.awaited.entry(revision).or_default().push(sender);
        Some(reached)
    }

    /// Wakes those who have waited for what is there by now.
    pub(super) fn tell_reached(&mut self) {
        while let Some(first) = self.awaited.first_entry().filter(|e| *e.key() <= self.revision) {
            // Whoever does not wait any more needs no answer.
            first.remove().into_iter().for_each(|sender| sender.send(()).unwrap_or_default());
        }
    }
}

impl View {
    /// A session's events from now on, in a channel of this capacity.
    #[must_use]
    pub fn subscribe(&self, session: SessionId, capacity: usize) -> SessionEvents {
        let (sender, events) = mpsc::channel(capacity);
        let mut state = self.lock();
        let senders = state.listeners.sessions.entry(session).or_default();
        senders.retain(|sender| !sender.is_closed());
        senders.push(sender);
        events
    }

    /// Tells whoever follows an entry here that it is the youngest wait of a deadlock.
    pub fn tell_deadlocked(&self, entry: &Arc<Entry>, deadlock: Arc<v1::Deadlock>) {
        let told = SessionEvent::Deadlocked(entry.clone(), deadlock);
        self.lock().listeners.tell(entry.id.session, told);
    }

    /// Observes locks from now on.
    #[must_use]
    pub fn observe(&self, scope: Scope) -> Observer {
        let changed = Arc::new(Changed { scope, locks: Mutex::default(), wake: Notify::new() });
        self.lock().listeners.observers.push(Arc::downgrade(&changed));
        Observer { changed }
    }
}
