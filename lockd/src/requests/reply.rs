//! What a client is told of its requests.

use std::sync::Arc;

use bytes::Bytes;
use lockd_proto::v1;

use crate::{
    error::Error,
    mode::Kind,
    store::Revision,
    view::{Ahead, Removal},
};

/// What the client is told of a request. Each session has a channel of these: what is large and rare
/// is boxed.
#[derive(Debug, Clone)]
pub enum Reply {
    /// It waits.
    Queued(Ahead),
    /// It holds its locks.
    Granted {
        /// The fencing token.
        token: Revision,
    },
    /// It ended without a grant.
    Refused {
        /// Why.
        refusal: Refusal,
        /// Who was ahead when that was last looked at.
        ahead: Option<Box<Ahead>>,
    },
    /// It failed.
    Failed(Box<Error>),
    /// Its release was done.
    Released(Released),
    /// Its change was made.
    Updated,
    /// It holds what somebody else wants, who says this.
    YieldRequested(String),
    /// It held its locks, and lost them though the session lives.
    Lost {
        /// The token.
        token: Revision,
        /// Why.
        cause: LossCause,
    },
}

impl Reply {
    pub(crate) fn failed(error: Error) -> Self {
        Self::Failed(Box::new(error))
    }

    /// Whether more may follow before the client has to ask for something.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        matches!(self, Self::Queued(_) | Self::YieldRequested(_) | Self::Updated)
    }
}

/// Why an acquire ended without a grant though nothing failed.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// The lock is held and the caller would not wait.
    Busy,
    /// Its time to wait is over.
    WaitExpired,
    /// The session took it back.
    Cancelled,
    /// An operator took it out.
    Forced,
    /// It was the youngest wait of this deadlock.
    Deadlock(Arc<v1::Deadlock>),
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
            Self::Busy => "busy",
            Self::WaitExpired => "wait_expired",
            Self::Cancelled => "cancelled",
            Self::Forced => "forced",
            Self::Deadlock(_) => "deadlock",
            Self::Broken => "broken",
            Self::Done(_) => "done",
        }
    }
}

/// Why a granted entry is lost though its session lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LossCause {
    /// It was taken out of its queue.
    Removed(Removal),
    /// The barrier was broken.
    Broken,
}

/// What a release found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// The lock was held, and is released.
    Released,
    /// It was lost before.
    AlreadyLost,
}

/// Why an entry leaves its queue.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Leave {
    Busy,
    Cancelled,
    WaitExpired,
    Released,
    /// It has left a result.
    Completed,
    /// Another one has left a result.
    Done,
    /// The queue is of another kind.
    Misplaced(Kind),
    Deadlock(Arc<v1::Deadlock>),
    /// The client has been told; this is for the others to see.
    Broken,
}
