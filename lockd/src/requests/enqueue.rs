//! From what a client asks to the write that asks the store.

use std::{sync::Arc, time::Duration};

use lockd_proto::{RequestId, SessionId};
use prost::Message as _;

use crate::{
    keys::{self, EntryId, LockId},
    record::EntryRecord,
    store::{Enqueue, Join, LeaseId, Op},
};

/// Whose requests they are.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// The session.
    pub session: SessionId,
    /// Its lease.
    pub lease: LeaseId,
}

/// A checked acquire.
#[derive(Debug, Clone)]
pub struct Acquire {
    /// Its request id.
    pub request: RequestId,
    /// The lock.
    pub lock: LockId,
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

    pub(crate) fn enqueue(&self, owner: &Owner) -> Op {
        let id = EntryId { session: owner.session, request: self.request };
        Op::Enqueue(Enqueue {
            key: keys::entry(&self.lock, id),
            value: self.record.encode_to_vec().into(),
            queue: keys::queue(&self.lock),
            session: keys::session(owner.session),
            lease: owner.lease,
            join: if self.is_try() { Join::IfEmpty } else { Join::Always },
        })
    }
}
