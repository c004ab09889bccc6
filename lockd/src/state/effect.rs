//! What applying an operation brings about: an outcome for its author, and effects for everyone
//! whom it concerns.

use std::sync::Arc;

use bytes::Bytes;
use lockd_proto::{RequestId, SessionId};

use super::{Entry, Moment, Owner};
use crate::record::{Blocked, Client, Floor, LockId, Position, QueueKind};

/// What became of an operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It was done, and there is nothing to say of it.
    Done,
    /// The session is attached, by this operation.
    Attached,
    /// The session is gone.
    NoSession,
    /// A session of this id has another secret.
    SecretMismatch,
    /// A newer stream of the session has been attached, or another replica has: nothing was changed.
    Superseded,
    /// The entry holds its locks.
    Granted {
        /// Its token.
        token: Position,
    },
    /// The entry waits.
    Queued {
        /// Its token.
        token: Position,
    },
    /// The acquire ended without a grant, and nothing of it is left.
    Refused(Refusal),
    /// The request failed.
    Failed(Failure),
    /// The locks are released.
    Released {
        /// Whether the queues are empty now and nothing else has followed from it: a power failure may
        /// undo it, and nothing but the entry itself would come back.
        is_plain: bool,
    },
    /// There was nothing to release.
    AlreadyLost,
    /// The party has left, and hears when all have.
    Leaving,
    /// The entry was taken out by its own session.
    Cancelled,
    /// The change was made.
    Updated,
    /// Whether there was something to forget.
    Forgotten(bool),
    /// The operator has taken out this entry.
    Forced(Box<Described>),
    /// These holders were asked to yield.
    Asked(Vec<Described>),
}

/// Why an acquire ended without a grant though nothing failed.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// The locks can't be had at once, and the caller would not wait.
    Busy(Option<Box<Ahead>>),
    /// Its time to wait is over.
    WaitExpired(Option<Box<Ahead>>),
    /// The session took it back.
    Cancelled,
    /// An operator took it out.
    Forced,
    /// It was the youngest wait of this deadlock.
    Deadlock(Box<[Blocked]>),
    /// The barrier was broken.
    Broken,
    /// It has been done before, with this result.
    Done(Bytes),
}

impl Refusal {
    /// What metrics and traces call it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Busy(_) => "busy",
            Self::WaitExpired(_) => "wait_expired",
            Self::Cancelled => "cancelled",
            Self::Forced => "forced",
            Self::Deadlock(_) => "deadlock",
            Self::Broken => "broken",
            Self::Done(_) => "done",
        }
    }
}

/// Why an operation was not done.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// The request id was used before for something else.
    RequestIdReused,
    /// The queue is of another kind.
    KindMismatch {
        /// The lock.
        lock: LockId,
        /// What was asked for.
        asked: QueueKind,
        /// What it is.
        there: QueueKind,
    },
    /// The owner holds the lock shared and wants it for itself.
    UpgradeRefused(LockId),
    /// The session has as many entries as it may have.
    TooManyEntries,
    /// The entry still waits: it can be cancelled, not released.
    StillWaiting,
    /// The token is another session's.
    NotHolder,
    /// The token is not that of the entry.
    TokenMismatch,
    /// There is no such lock.
    LockNotFound,
    /// The change does not apply.
    ChangeRefused(&'static str),
}

/// An entry beside its session, as it was at that moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// The entry.
    pub entry: Entry,
    /// Who its session belongs to; `None` when the session has died.
    pub client: Option<Arc<Client>>,
}

/// Who was ahead of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Ahead {
    /// How many entries, the holders included.
    pub count: usize,
    /// The first holder, where there is one.
    pub holder: Option<Described>,
}

/// Something that concerns others than the operation's author.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// A session was attached: at this replica, by this stream.
    Attached {
        /// The session.
        session: SessionId,
        /// The operation that attached it.
        epoch: Position,
        /// Whether it was opened by it.
        is_new: bool,
    },
    /// A session has ended.
    Ended {
        /// The session.
        session: SessionId,
        /// How.
        how: SessionEnd,
    },
    /// Something happened to an entry that its client hears of.
    Entry {
        /// Whose it is.
        session: SessionId,
        /// The request that made it.
        request: RequestId,
        /// Its token.
        token: Position,
        /// What happened.
        news: News,
    },
    /// An entry is gone that held its locks.
    GaveWay {
        /// Whose it was.
        session: SessionId,
        /// The request that made it.
        request: RequestId,
        /// Since when its first lock was held.
        held_since: Moment,
        /// Why.
        reason: HandoffReason,
    },
    /// An entry was granted a lock that another one gave up in the same step.
    HandedOver {
        /// The lock.
        lock: LockId,
        /// The token that gave it up.
        from: Position,
        /// The span of that entry's acquire, where it is known.
        trace: Option<Box<str>>,
        /// The request that gave it up.
        from_request: RequestId,
        /// The session that was granted it.
        session: SessionId,
        /// Its request.
        request: RequestId,
    },
    /// An entry stays for its lock-delay, though its session has died.
    Delayed {
        /// Its first lock.
        lock: LockId,
        /// The entry.
        token: Position,
        /// The place of its session's end.
        since: Position,
        /// For how long, in milliseconds.
        delay_ms: u32,
    },
    /// An entry of an owner waits, or an owner has one wait less: a deadlock may stand now.
    OwnerBlocked(Owner),
    /// A lock's queue has changed.
    Changed(LockId),
    /// The floor was raised.
    Floor(Floor),
}

/// What happens to an entry.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// It holds its locks now.
    Granted {
        /// When it joined its queue.
        joined: Moment,
    },
    /// It waited, and was refused.
    Refused(Refusal),
    /// It held its locks, and is gone though its session lives.
    Lost(LossCause),
    /// All parties have left: its release is done.
    Released,
    /// Its locks are wanted.
    YieldRequested(Box<str>),
}

/// Why a held entry is gone though its session lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LossCause {
    /// Its own session took it out, by another call.
    BySession,
    /// An operator did, and said this.
    Forced(Box<str>),
    /// The barrier was broken.
    Broken,
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// Its lease ran out.
    Expired,
    /// Its client closed it.
    Closed,
}

/// How a lock came to its holder, as far as this replica has seen it: for people to look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Handoff {
    /// Why the entry before gave way.
    pub reason: HandoffReason,
    /// That entry.
    pub from: Described,
    /// When.
    pub at: Moment,
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
    Forced(Box<str>),
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
}
