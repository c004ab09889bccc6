//! Why lockd did not do what a client asked. `server/status.rs` turns it into an answer.

use std::time::Duration;

use lockd_proto::{FencingToken, IdError, MetadataTooLarge, NameError, SessionId, TtlOutOfRange};

use super::tickets::ReleaseTarget;
use crate::{
    log::LogError,
    record::{LockId, Position, QueueKind},
    state::{Failure, MAX_ENTRIES},
};

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A name breaks the rules.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A TTL out of range.
    #[error(transparent)]
    Ttl(#[from] TtlOutOfRange),
    /// Too much metadata.
    #[error(transparent)]
    Metadata(#[from] MetadataTooLarge),
    /// A malformed id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A field is missing or malformed.
    #[error("{field} {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong, and what is expected.
        problem: String,
    },
    /// The session does not exist, or no longer.
    #[error("session {0} does not exist or has expired: open a new one")]
    SessionNotFound(SessionId),
    /// The log ends before what a client knows to be durable.
    #[error(
        "the log ends at {end}, and the client knows it up to {durable}: it was restored from a backup, or \
         has lost its end; the session is lost with it: open a new one"
    )]
    LogRestored {
        /// Up to where the client knows it.
        durable: Position,
        /// Where it ends.
        end: Position,
    },
    /// The secret is not the session's.
    #[error("the secret is not that of session {0}")]
    SecretMismatch(SessionId),
    /// The entry belongs to another session.
    #[error("{lock} with token {token} is held by another session: only its holder can release it")]
    NotHolder {
        /// The lock.
        lock: LockId,
        /// The token that was named.
        token: FencingToken,
    },
    /// The entry was not granted yet.
    #[error("the acquire is still waiting: cancel it instead")]
    StillWaiting,
    /// The token is not current.
    #[error("{lock} has no entry with token {token}: it has moved on, look again")]
    TokenMismatch {
        /// The lock.
        lock: LockId,
        /// The token that was named.
        token: FencingToken,
    },
    /// The request id was used before for something else.
    #[error("the request id was used before with other arguments: make a new one for each acquire")]
    RequestIdReused,
    /// The lock is free.
    #[error("{0} has no holder and no waiter")]
    LockNotFound(LockId),
    /// The system has no randomness for a new secret.
    #[error("the system gives no random bytes: {0}")]
    NoRandomness(String),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store did not answer in time, and may have done it.
    #[error(
        "the store did not say within {0:?} whether it was done: retry with the same request id"
    )]
    OutcomeUnknown(Duration),
    /// The view is too old.
    #[error("this replica has not heard from the store for {0:.1?}, so it grants nothing")]
    ViewStale(Duration),
    /// There is no view yet.
    #[error("this replica has not heard from its store yet: it grants nothing until it has")]
    ViewEmpty,
    /// A restore was accepted a short time ago.
    #[error(
        "a log that was restored from a backup was accepted: nothing is granted for {0:.1?} more, since \
         clients may still rely on locks of before"
    )]
    Restored(Duration),
    /// The replica is going away.
    #[error("this replica is shutting down: go to another one")]
    Draining,
    /// Events or answers pile up.
    #[error("the client reads its stream too slowly: resume the session and read faster")]
    SlowConsumer,
    /// The queue is of another kind.
    #[error("{lock} is {there} at this moment, not {asked}: use another name, or the same kind")]
    KindMismatch {
        /// The lock.
        lock: LockId,
        /// What was asked for.
        asked: QueueKind,
        /// What it is.
        there: QueueKind,
    },
    /// The owner holds the lock shared and wants it for itself.
    #[error(
        "{lock} is held shared by this owner and can't be upgraded: two that upgrade would wait for \
         each other; release it, then acquire it exclusive"
    )]
    UpgradeRefused {
        /// The lock.
        lock: LockId,
    },
    /// A change that does not apply.
    #[error("the change was refused: {0}")]
    ChangeRefused(&'static str),
    /// A party has died or left early.
    #[error("the barrier {0} is broken: a party has died or left early")]
    BarrierBroken(LockId),
    /// The queue is full.
    #[error("{lock} has {limit} entries in its queue already: come back later")]
    TooManyWaiters {
        /// The lock.
        lock: LockId,
        /// The limit.
        limit: usize,
    },
    /// More open requests than a session may have.
    #[error("the session has {limit} requests open already: wait for some to end")]
    TooManyEntries {
        /// The limit.
        limit: usize,
    },
    /// More sessions than there may be.
    #[error("there are {limit} sessions already: close some, or raise the limit")]
    TooManySessions {
        /// The limit.
        limit: usize,
    },
    /// The session was attached to another stream.
    #[error("the session was attached to another stream in the meantime")]
    Superseded,
    /// The client broke the protocol.
    #[error("the stream broke the protocol: {0}")]
    Protocol(&'static str),
}

pub(super) const NOT_HELD: Error = Error::ChangeRefused("the lock is not held by this request");

impl Error {
    /// Why an operation was not done, which named a lock and a token or neither.
    pub(super) fn of(failure: Failure, named: Option<&ReleaseTarget>) -> Self {
        match (failure, named.map(|it| (it.lock.clone(), it.token))) {
            (Failure::RequestIdReused, _) => Self::RequestIdReused,
            (Failure::KindMismatch { lock, asked, there }, _) => {
                Self::KindMismatch { lock, asked, there }
            }
            (Failure::UpgradeRefused(lock), _) => Self::UpgradeRefused { lock },
            (Failure::TooManyEntries, _) => Self::TooManyEntries { limit: MAX_ENTRIES },
            (Failure::StillWaiting, _) => Self::StillWaiting,
            (Failure::ChangeRefused(problem), _) => Self::ChangeRefused(problem),
            (Failure::NotHolder, Some((lock, token))) => Self::NotHolder { lock, token },
            (Failure::TokenMismatch, Some((lock, token))) => Self::TokenMismatch { lock, token },
            (Failure::LockNotFound, Some((lock, _))) => Self::LockNotFound(lock),
            (Failure::NotHolder | Failure::TokenMismatch | Failure::LockNotFound, None) => NOT_HELD,
        }
    }
}
