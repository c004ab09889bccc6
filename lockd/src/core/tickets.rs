//! Who asked for an operation, and is to hear what became of it.

use lockd_proto::{RequestId, SessionId, clock::Instant};

use super::{
    answer::{AcquireReply, Released, SessionOpened},
    ask::{Reply, StreamKey},
};
use crate::{record::Operation, state::Described};

/// An operation on its way to the log, and who hears what became of it.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) operation: Operation,
    pub(super) ticket: Ticket,
    pub(super) since: Instant,
}

/// Who hears what became of an operation.
#[derive(Debug)]
pub(super) enum Ticket {
    /// It follows from something that all hear of.
    None,
    /// A stream that begins. Whether it opens its session.
    Begin(StreamKey, bool),
    /// A request on a stream.
    Stream(StreamKey, RequestId),
    /// The end of a session that its stream asked for.
    Close(StreamKey),
    /// A call.
    Call(Box<CallTicket>),
    /// An acquire whose caller got an unknown outcome: what it is granted is given back.
    Unheard(SessionId, RequestId),
}

impl Ticket {
    /// Takes the caller of a call out, which is then not answered by its outcome any more. Streams wait for
    /// as long as their client does.
    pub(super) fn give_up(&mut self) -> Option<Self> {
        let rest = match self {
            Self::Call(call) => match **call {
                CallTicket::Acquire(_, (session, request)) => Self::Unheard(session, request),
                _ => Self::None,
            },
            Self::None
            | Self::Begin(..)
            | Self::Stream(..)
            | Self::Close(_)
            | Self::Unheard(..) => {
                return None;
            }
        };
        Some(std::mem::replace(self, rest))
    }
}

/// Who hears what became of a call's operation.
#[derive(Debug)]
pub(super) enum CallTicket {
    Open(Reply<SessionOpened>, SessionId),
    KeepAlive(Reply<u64>, SessionId),
    Close(Reply<()>),
    Acquire(Reply<AcquireReply>, (SessionId, RequestId)),
    Cancel(Reply<()>, (SessionId, RequestId)),
    Release(Reply<Released>, Box<ReleaseTarget>),
    Update(Reply<()>, (SessionId, RequestId)),
    Force(Reply<Described>, Box<ReleaseTarget>),
    Yield(Reply<Vec<Described>>, crate::record::LockId),
    Forget(Reply<bool>),
}

/// What a release or a forced release names.
#[derive(Debug, Clone)]
pub(super) struct ReleaseTarget {
    pub(super) session: SessionId,
    pub(super) request: RequestId,
    pub(super) lock: crate::record::LockId,
    pub(super) token: lockd_proto::FencingToken,
}
