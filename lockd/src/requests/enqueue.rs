//! From what a client asks to the write that asks the store.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use lockd_proto::{RequestId, SessionId};
use prost::Message as _;

use super::Open;
use crate::{
    error::Error,
    keys::{self, EntryId, LockId},
    mode::Mode,
    record::EntryRecord,
    store::{Durable, Enqueue, Join, LeaseId, Op, Place},
    view::View,
};

/// Whose requests they are.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// The session.
    pub session: SessionId,
    /// Its lease.
    pub lease: LeaseId,
}

/// How much a session, a lock and a replica may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries in one lock's queue, the holders included.
    pub waiters_per_lock: usize,
    /// Requests that a session may have open on one stream, held locks included.
    pub entries_per_session: usize,
    /// Sessions in the store, beyond which this replica opens no more.
    pub sessions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { waiters_per_lock: 10_000, entries_per_session: 10_000, sessions: 100_000 }
    }
}

impl Open {
    pub(super) fn enqueue(&self, request: RequestId, owner: &Owner) -> Op {
        let id = EntryId { session: owner.session, request };
        let place = |lock| {
            let key = keys::entry(lock, id);
            Place { queue: keys::queue_of(&key), key }
        };
        let alone = self.mode().is_alone();
        Op::Enqueue(Enqueue {
            places: self.locks.iter().map(place).collect(),
            value: self.record.encode_to_vec().into(),
            session: keys::session(owner.session),
            lease: if self.record.outlives_session() { LeaseId::NONE } else { owner.lease },
            join: if self.is_try() && alone { Join::IfEmpty } else { Join::Always },
            durable: if self.may_be_lost() { Durable::After } else { Durable::Before },
        })
    }

    /// Whether a crash may lose its entry while it waits: a stream that is resumed asks anew. One
    /// that could hold beside others need not wait, though it is not the first.
    fn may_be_lost(&self) -> bool {
        self.mode() == Mode::Exclusive && !self.is_followed()
    }
}

/// A checked acquire.
#[derive(Debug, Clone)]
pub struct Acquire {
    /// Its request id.
    pub request: RequestId,
    /// The locks, each once. Never empty.
    pub locks: Arc<[LockId]>,
    /// What is stored of it.
    pub record: Arc<EntryRecord>,
    /// How long to wait: `None` for ever, zero not at all.
    pub max_wait: Option<Duration>,
}

impl Acquire {
    /// Whether it would rather be refused than wait.
    #[must_use]
    pub fn is_try(&self) -> bool {
        self.max_wait.is_some_and(|wait| wait.is_zero())
    }

    /// The result of the once that it asks for, if it has been done.
    pub(super) fn result(&self, view: &View) -> Option<Bytes> {
        let once = self.record.mode() == Mode::Once;
        self.locks.first().filter(|_| once).and_then(|lock| view.result(lock))
    }

    /// Whether it is a try that the view shows to be in vain. One for a lock of its own is
    /// answered by the store itself.
    pub(super) fn is_hopeless(&self, view: &View) -> bool {
        let mode = self.record.mode();
        let room = |lock| view.would_grant(lock, mode);
        self.is_try() && !mode.is_alone() && !self.locks.iter().all(room)
    }

    /// What the view says that speaks against it.
    pub(super) fn obstacle(&self, owner: &Owner, limits: &Limits, view: &View) -> Option<Error> {
        let asked = self.record.mode().kind();
        self.locks.iter().find_map(|lock| {
            if let Some(there) = view.kind(lock).filter(|there| *there != asked) {
                return Some(Error::KindMismatch { lock: lock.clone(), asked, there });
            }
            let limit = limits.waiters_per_lock;
            if view.len(lock) >= limit {
                return Some(Error::TooManyWaiters { lock: lock.clone(), limit });
            }
            let upgrade = self.record.mode() == Mode::Exclusive
                && !self.record.owner.is_empty()
                && view.holds_shared(lock, owner.session, &self.record.owner);
            upgrade.then(|| Error::UpgradeRefused { lock: lock.clone() })
        })
    }
}
