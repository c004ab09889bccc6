//! What connections hand to the core: whole frames of streams, and single calls.

use std::sync::Arc;

use lockd_proto::{FencingToken, RequestId, SessionId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    answer::{AcquireReply, Explained, Found, Listed, Released, SessionOpened},
    error::Error,
    observe::{ObserverKey, Scope, Watched},
    outbox::Outbox,
};
use crate::{
    record::{Change, Enqueue, Info, LockId, Mode, Open, Position, Wait},
    state::{Described, Page},
};

/// Names a stream within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StreamKey(pub(super) u64);

/// What the core is handed.
#[derive(Debug)]
pub(crate) enum Input {
    /// A stream begins: its first frame.
    Begin(Box<Begin>),
    /// A frame on a stream.
    Frame {
        /// The stream.
        stream: StreamKey,
        /// What it asks for, in order.
        asks: Vec<Ask>,
        /// The stream's share of what the core has before it, given back when this has been handled.
        share: OwnedSemaphorePermit,
    },
    /// A unary call.
    Call(Box<Call>),
    /// A question.
    Look(Box<Look>),
}

/// The first frame of a stream.
#[derive(Debug)]
pub(crate) struct Begin {
    /// The stream.
    pub stream: StreamKey,
    /// Opens or resumes a session.
    pub hello: Hello,
    /// What else is in the frame.
    pub asks: Vec<Ask>,
    /// Where answers go.
    pub outbox: Arc<Outbox>,
    /// Whether the stream is attached; its answers follow in the outbox.
    pub reply: oneshot::Sender<Result<(), Error>>,
}

/// How a stream begins.
#[derive(Debug)]
pub enum Hello {
    /// It opens a session.
    Open(Box<Open>),
    /// It goes on with one.
    Resume {
        /// The session, and its number for this stream.
        by: Credential,
        /// The requests that the client still has open.
        open: Vec<RequestId>,
        /// Up to where the client knows the log to be durable.
        durable: Position,
    },
}

/// What a client shows to prove that a session is its own.
#[derive(Debug, Clone, Copy)]
pub struct Credential {
    /// The session.
    pub session: SessionId,
    /// SHA-256 of its secret.
    pub secret_hash: [u8; 32],
    /// The number of the connection; 0 if the client does not number them.
    pub stream: u64,
}

/// What a client asks for on its stream.
#[derive(Debug)]
pub enum Ask {
    /// Renew the lease.
    KeepAlive {
        /// Given back in the acknowledgement.
        sequence: u64,
    },
    /// Acquire locks.
    Acquire(Box<Acquire>),
    /// Leave a queue, or give back an unwanted grant.
    Cancel(RequestId),
    /// Release locks.
    Release(RequestId),
    /// Change an entry that is held.
    Update(RequestId, Change),
    /// A request that is malformed.
    Malformed(RequestId, Error),
    /// End the session.
    Close,
    /// The frame breaks the protocol: the stream ends.
    Violation(Error),
}

/// A checked acquire.
#[derive(Debug, Clone)]
pub struct Acquire {
    /// Its request id.
    pub request: RequestId,
    /// The locks, each once. Never empty.
    pub locks: Vec<LockId>,
    /// How they are shared.
    pub mode: Mode,
    /// How long to wait.
    pub wait: Wait,
    /// How long the locks stay taken after a loss, in milliseconds.
    pub lock_delay_ms: u32,
    /// What is shown of it.
    pub info: Info,
}

impl Acquire {
    /// The operation that it asks for.
    pub(super) fn enqueue(self, session: SessionId, stream: u64) -> Enqueue {
        let Self { request, locks, mode, wait, lock_delay_ms, info } = self;
        Enqueue { session, stream, request, locks, mode, wait, lock_delay_ms, info }
    }
}

/// Where the answer of a call goes. A caller that is gone has dropped the other end.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// A unary call that changes something.
#[derive(Debug)]
pub enum Call {
    /// Opens a session without a stream.
    Open(Box<Open>, Reply<SessionOpened>),
    /// Renews a lease; answered with the TTL in milliseconds.
    KeepAlive(Credential, Reply<u64>),
    /// Ends a session.
    Close(Credential, Reply<()>),
    /// Acquires locks.
    Acquire(Credential, Box<Acquire>, Reply<AcquireReply>),
    /// Takes an entry out.
    Cancel(Credential, RequestId, Reply<()>),
    /// Releases locks. The caller names one, and its token.
    Release(Credential, RequestId, (LockId, FencingToken), Reply<Released>),
    /// Changes what is held.
    Update(Credential, RequestId, Change, Reply<()>),
    /// Takes an entry out by force.
    Force(LockId, FencingToken, Box<str>, Reply<Described>),
    /// Asks holders to yield.
    Yield(LockId, Box<str>, Reply<Vec<Described>>),
    /// Forgets the result of a once; answered with whether there was one.
    Forget(LockId, Reply<bool>),
}

/// A question, which changes nothing.
#[derive(Debug)]
pub enum Look {
    /// A part of a lock's queue.
    Get(LockId, Page, Reply<Found>),
    /// Locks whose path starts with a prefix, after a path.
    List {
        /// What paths start with.
        prefix: String,
        /// The path before the first one, if any.
        after: Option<String>,
        /// At most so many locks.
        limit: usize,
        /// How much of each queue.
        page: Page,
        /// Where the answer goes.
        reply: Reply<Listed>,
    },
    /// Why a lock is as it is.
    Explain(LockId, Page, Reply<Explained>),
    /// How many entries hold each lock, and how many wait for it.
    Sizes(Vec<LockId>, oneshot::Sender<Vec<(LockId, usize, usize)>>),
    /// Observes locks from now on.
    Watch(ObserverKey, Scope, Arc<Watched>),
}

/// What a connection says without waiting: from `Drop`, and from a poll.
#[derive(Debug)]
pub(crate) enum Nudge {
    /// A stream's connection is gone.
    StreamGone(StreamKey),
    /// The caller of an acquire that waits is gone.
    CallGone(SessionId, RequestId),
    /// A grant was not passed on: its caller had gone.
    GrantLost {
        /// A lock of the entry.
        lock: LockId,
        /// The entry.
        token: Position,
        /// The claim of the call.
        claim: Position,
    },
    /// An observer has read everything that it was given.
    Hungry(ObserverKey),
    /// An observer is gone.
    ObserverGone(ObserverKey),
}

impl Call {
    /// Answers the call with an error.
    pub(super) fn refuse(self, why: &Error) {
        let why = why.clone();
        match self {
            Self::Open(_, reply) => drop(reply.send(Err(why))),
            Self::KeepAlive(_, reply) => drop(reply.send(Err(why))),
            Self::Close(_, reply) | Self::Cancel(_, _, reply) | Self::Update(_, _, _, reply) => {
                drop(reply.send(Err(why)));
            }
            Self::Acquire(_, _, reply) => drop(reply.send(Err(why))),
            Self::Release(_, _, _, reply) => drop(reply.send(Err(why))),
            Self::Force(_, _, _, reply) => drop(reply.send(Err(why))),
            Self::Yield(_, _, reply) => drop(reply.send(Err(why))),
            Self::Forget(_, reply) => drop(reply.send(Err(why))),
        }
    }
}
