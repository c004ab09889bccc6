//! Why a lock is as it is: what a person needs to act.

use std::time::Duration;

use lockd_proto::v1::{self, lock_service_client::LockServiceClient};

use crate::{
    client::{Client, Metadata, Repeat},
    error::{Call, Error, Fault},
    queue::{EntryInfo, LockInfo},
};

/// Why a lock is as it is. Made by [`Client::explain`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explanation {
    /// The lock and its queue; `None` if it is free.
    pub lock: Option<LockInfo>,
    /// How long its first holder has held it, where the replica that answers has seen it.
    pub held_for: Option<Duration>,
    /// How it came to its holder, where the replica that answers has seen it.
    pub last_handoff: Option<Handoff>,
    /// Deadlocks that the lock is part of, or was until one of its waits was ended.
    pub deadlocks: Vec<Deadlock>,
    /// The result of a once of this name, if it has been done.
    pub result: Option<Vec<u8>>,
}

/// One holder giving way to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Handoff {
    /// Why.
    pub reason: HandoffReason,
    /// Who gave way.
    pub from: EntryInfo,
    /// How long ago.
    pub age: Duration,
    /// What the operator said, after a forced release.
    pub detail: String,
}

/// Why an entry gave way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HandoffReason {
    /// It released the lock.
    Released,
    /// Its lease ran out.
    Expired,
    /// An operator released it by force.
    Forced,
    /// It waited, and took its request back.
    Cancelled,
    /// It released the lock after it had been asked to.
    Yielded,
    /// It closed its session.
    Closed,
}

/// A cycle of waits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deadlock {
    /// The waits, each blocked by the owner of the next one.
    pub cycle: Vec<BlockedWait>,
    /// The token of the wait that was ended, or is about to be: the youngest.
    pub victim: u64,
    /// How long ago it was ended; `None` while it stands.
    pub ended: Option<Duration>,
}

/// One wait of a deadlock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockedWait {
    /// Who waits.
    pub owner: String,
    /// For which lock.
    pub lock: String,
    /// The token of the entry that waits.
    pub token: u64,
    /// The owner that is in the way.
    pub blocked_by: String,
}

impl Client {
    /// Says why a lock is held, since when and by whom, who waits for it and until when, how
    /// it came to its holder, and of which deadlocks it is part.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a bad name,
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if no server answers.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn explain(&self, name: impl Into<String>) -> Result<Explanation, Error> {
        let name = name.into();
        let call = Call::new("explain").on(name.as_str());
        let message = v1::ExplainRequest { namespace: self.namespace(), name, page_size: 0 };
        let answer = self.unary(call.clone(), Repeat::Harmless, |channel, metadata: Metadata| {
            let request = metadata.request(message.clone());
            async move { LockServiceClient::new(channel).explain(request).await }
        });
        Explanation::from_wire(answer.await?).map_err(|fault| call.failed(fault))
    }
}

impl Explanation {
    fn from_wire(wire: v1::ExplainResponse) -> Result<Self, Fault> {
        let revision = wire.revision;
        let lock = wire.lock.map(|lock| LockInfo::from_wire(lock, revision));
        Ok(Self {
            lock: lock.transpose()?,
            held_for: wire.held_for.and_then(|age| age.try_into().ok()),
            last_handoff: wire.last_handoff.map(Handoff::from_wire).transpose()?,
            deadlocks: wire.deadlocks.into_iter().map(Deadlock::from_wire).collect(),
            result: wire.result,
        })
    }
}

impl Handoff {
    fn from_wire(wire: v1::Handoff) -> Result<Self, Fault> {
        let reason = match wire.reason() {
            v1::HandoffReason::Released | v1::HandoffReason::Unspecified => HandoffReason::Released,
            v1::HandoffReason::Expired => HandoffReason::Expired,
            v1::HandoffReason::Forced => HandoffReason::Forced,
            v1::HandoffReason::Cancelled => HandoffReason::Cancelled,
            v1::HandoffReason::Yielded => HandoffReason::Yielded,
            v1::HandoffReason::Closed => HandoffReason::Closed,
        };
        let age = wire.age.and_then(|age| age.try_into().ok()).unwrap_or_default();
        let from = EntryInfo::from_wire(wire.from.unwrap_or_default())?;
        Ok(Self { reason, from, age, detail: wire.detail })
    }
}

impl Deadlock {
    fn from_wire(wire: v1::Deadlock) -> Self {
        let wait = |wait: v1::BlockedWait| BlockedWait {
            owner: wait.owner,
            lock: wait.lock.unwrap_or_default().name,
            token: wait.token,
            blocked_by: wait.blocked_by,
        };
        Self {
            cycle: wire.cycle.into_iter().map(wait).collect(),
            victim: wire.victim,
            ended: wire.ended.and_then(|age| age.try_into().ok()),
        }
    }
}
