//! What connections get back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use lockd_proto::{RequestId, SessionId};

use super::error::Error;
use crate::{
    record::{Blocked, LockId, Position},
    state::{Ahead, Handoff, LossCause, QueuePage, Refusal, SessionEnd},
};

/// What a client is sent on its stream.
#[derive(Debug)]
pub enum Answer {
    /// The stream is attached.
    Attached(Box<Attached>),
    /// The lease was renewed.
    KeepAliveAck {
        /// The keepalive's.
        sequence: u64,
        /// The TTL, from when the keepalive was sent.
        ttl: Duration,
    },
    /// The acquire waits.
    Queued(RequestId, Option<Box<Ahead>>),
    /// The request holds its locks.
    Granted(RequestId, Position),
    /// The acquire ended without a grant.
    Refused(RequestId, Box<Refusal>),
    /// The request failed.
    Failed(RequestId, Box<Error>),
    /// The release was done.
    Released {
        /// The request that held.
        request: RequestId,
        /// What was found.
        found: Released,
        /// Its place in the log, while a power failure may undo it.
        undurable: Option<Position>,
    },
    /// The change was made.
    Updated(RequestId),
    /// The locks that a request holds are wanted.
    YieldRequested(RequestId, Box<str>),
    /// What a request held is lost though the session lives.
    Lost(RequestId, Position, Box<LossCause>),
    /// The session has ended. The last answer.
    Ended(SessionEnd),
    /// Resume elsewhere. The last answer.
    GoAway(Box<Error>),
}

/// The first answer on a stream.
#[derive(Debug)]
pub struct Attached {
    /// The session.
    pub session: SessionId,
    /// The TTL that was granted, to be counted from when the first frame was sent.
    pub ttl: Duration,
    /// Names the replica.
    pub replica: Arc<str>,
    /// The session's entries: request, token, and whether it holds.
    pub entries: Vec<(RequestId, Position, bool)>,
}

/// What a release found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// The locks were held, and are released.
    Released,
    /// They were lost before.
    AlreadyLost,
}

/// A session that was opened by a call.
#[derive(Debug, Clone, Copy)]
pub struct SessionOpened {
    /// The session.
    pub session: SessionId,
    /// The TTL that was granted.
    pub ttl: Duration,
}

/// The end of a unary acquire.
#[derive(Debug)]
pub enum AcquireReply {
    /// The locks are held.
    Granted {
        /// The fencing token.
        token: Position,
        /// The claim of this call, by which it can be given back.
        claim: Position,
    },
    /// They are not, and nothing is left behind.
    Refused(Box<Refusal>),
}

/// A lock that was asked for.
#[derive(Debug)]
pub struct Found {
    /// A part of its queue.
    pub queue: QueuePage,
    /// What is left of the lease of each holder on the page whose session this replica keeps.
    pub leases: Vec<Option<Duration>>,
    /// The position that it reflects.
    pub at: Position,
}

/// A page of locks.
#[derive(Debug)]
pub struct Listed {
    /// A part of the queue of each, in name order.
    pub queues: Vec<QueuePage>,
    /// Whether more locks follow.
    pub more: bool,
    /// The position that they reflect.
    pub at: Position,
}

/// Why a lock is as it is.
#[derive(Debug)]
pub struct Explained {
    /// The lock, if it is not free.
    pub found: Option<Found>,
    /// How long its first holder has held it, where this replica has seen that.
    pub held_for: Option<Duration>,
    /// How it came to its holder, and how long ago.
    pub handoff: Option<(Handoff, Duration)>,
    /// The deadlocks that it is part of, or was.
    pub deadlocks: Vec<Deadlock>,
    /// What a once of this name has left.
    pub result: Option<Bytes>,
    /// The position that all of it reflects.
    pub at: Position,
}

/// A cycle of waits.
#[derive(Debug, Clone)]
pub struct Deadlock {
    /// The waits.
    pub cycle: Arc<[Blocked]>,
    /// The youngest, which was ended or is about to be.
    pub victim: Position,
    /// How long ago it was ended; `None` while it stands.
    pub ended: Option<Duration>,
}

impl Deadlock {
    /// Whether a lock is part of it.
    #[must_use]
    pub fn involves(&self, lock: &LockId) -> bool {
        self.cycle.iter().any(|wait| wait.lock == *lock)
    }
}

/// A deadlock for people.
#[must_use]
pub(crate) fn describe_cycle(cycle: &[Blocked]) -> String {
    let wait = |wait: &Blocked| {
        let Blocked { lock, token, owner, blocked_by, .. } = wait;
        format!("{owner} waits for {:?} (token {token}) behind {blocked_by}", lock.name())
    };
    cycle.iter().map(wait).collect::<Vec<_>>().join("; ")
}
