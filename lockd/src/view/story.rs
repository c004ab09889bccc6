//! How a lock came to its holder, as far as this replica has seen it. For people to look at;
//! nothing is decided by it.

use std::sync::Arc;

use lockd_proto::{clock::Instant, v1};

use super::{Described, Entry, Removal, State, View};
use crate::{keys::LockId, store::Revision};

/// What is known of a lock's past.
#[derive(Debug, Default, Clone)]
pub(super) struct Story {
    /// Since when its first holder holds it.
    pub(super) held_since: Option<Instant>,
    /// How that came about.
    pub(super) last: Option<Box<Handoff>>,
}

/// One holder giving way to the next.
#[derive(Debug, Clone)]
pub struct Handoff {
    /// Why.
    pub reason: HandoffReason,
    /// Who gave way.
    pub from: Described,
    /// When.
    pub at: Instant,
}

/// Why an entry gave way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandoffReason {
    /// It released the lock.
    Released,
    /// It released the lock after it had been asked to.
    Yielded,
    /// Its lease ran out.
    Expired,
    /// It closed its session.
    Closed,
    /// It waited, and took its request back.
    Cancelled,
    /// It was taken out by force, and this was said.
    Forced(String),
}

/// How a session came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Expired,
    Closed,
}

impl HandoffReason {
    /// What metrics and traces call it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Yielded => "yielded",
            Self::Expired => "expired",
            Self::Closed => "closed",
            Self::Cancelled => "cancelled",
            Self::Forced(_) => "forced",
        }
    }

    pub(super) fn new(entry: &Entry, held: bool, cause: &Removal, ended: Option<Ended>) -> Self {
        match (ended, cause) {
            (Some(Ended::Expired), _) => Self::Expired,
            (Some(Ended::Closed), _) => Self::Closed,
            (None, Removal::Forced { reason }) => Self::Forced(reason.clone()),
            (None, _) if !held => Self::Cancelled,
            (None, _) if !entry.record.yield_reason.is_empty() => Self::Yielded,
            (None, _) => Self::Released,
        }
    }
}

impl View {
    /// The holder of these locks by this token has asked here to release them.
    pub fn releasing(&self, locks: &[LockId], token: Revision) {
        let mut state = self.lock();
        for lock in locks {
            if state.locks.get(lock).is_some_and(|there| there.waiting > 0) {
                state.releasing.insert(lock.clone(), (token, self.clock.now()));
            }
        }
    }

    /// Since when a lock is held, and how it came to its holder, as far as this replica has
    /// seen it.
    #[must_use]
    pub fn story(&self, lock: &LockId) -> (Option<Instant>, Option<Handoff>) {
        let story = self.lock().locks.get(lock).map(|lock| lock.story.clone());
        let Story { held_since, last } = story.unwrap_or_default();
        let last = last.map(|last| *last);
        (held_since, last)
    }
}

/// Deadlocks that are remembered.
const REMEMBERED: usize = 64;

impl State {
    /// Remembers deadlocks that were ended just now.
    pub(super) fn remember(&mut self, ended: Vec<v1::Deadlock>, now: Option<Instant>) {
        for (deadlock, at) in ended.into_iter().zip(now.into_iter().cycle()) {
            if self.deadlocks.len() == REMEMBERED {
                self.deadlocks.pop_front();
            }
            self.deadlocks.push_back((at, deadlock));
        }
    }
}

impl View {
    /// The deadlocks that were ended while this replica looked and that a lock was part of,
    /// the latest first.
    #[must_use]
    pub fn deadlocks(&self, lock: &LockId) -> Vec<(Instant, v1::Deadlock)> {
        let is_lock = |at: &v1::LockRef| at.namespace == lock.namespace() && at.name == lock.name();
        let involved = |(_, deadlock): &&(Instant, v1::Deadlock)| {
            deadlock.cycle.iter().any(|wait| wait.lock.as_ref().is_some_and(is_lock))
        };
        self.lock().deadlocks.iter().rev().filter(involved).cloned().collect()
    }
}

/// Entries that left a queue in one step, each with whether it held.
pub(super) type Left = (Arc<Entry>, bool);
